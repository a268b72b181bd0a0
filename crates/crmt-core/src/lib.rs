//! The vocabulary every other crate speaks: modalities, batches, and the small traits a model
//! implements to be trained, attacked or certified.
//!
//! Knows tensors; deliberately knows nothing of files, concrete layers, optimizers or attacks.
//!
//! ```
//! use candle_core::{Device, Tensor};
//! use crmt_core::{Classifier, Domain, Modality, PerModality};
//!
//! /// A linear classifier over two sensors.
//! struct Linear { modalities: PerModality<Modality>, weights: PerModality<Tensor> }
//!
//! impl Classifier for Linear {
//!     fn modalities(&self) -> &PerModality<Modality> { &self.modalities }
//!     fn logits(&self, x: &PerModality<Tensor>) -> crmt_core::Result<Tensor> {
//!         Ok((x[0].matmul(&self.weights[0])? + x[1].matmul(&self.weights[1])?)?)
//!     }
//! }
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let sensor = |name: &str| Modality::new(name, &[3], Domain::Unbounded);
//! let ones = Tensor::ones((3, 2), candle_core::DType::F32, &Device::Cpu)?;
//! let model = Linear {
//!     modalities: PerModality::from([sensor("radar"), sensor("lidar")]),
//!     weights: PerModality::from([ones.clone(), ones.clone()]),
//! };
//! let x = PerModality::from([ones.t()?, ones.t()?]);
//! assert_eq!(model.logits(&x)?.dims(), [2, 2]);
//! # Ok(())
//! # }
//! ```
mod batch;
mod classifier;
mod closure;
mod encoder;
mod error;
mod gradient;
mod missing;
mod modality;
pub mod names;
mod random;
mod replay;
mod trainable;

pub use batch::Batch;
pub use classifier::{AdditiveClassifier, AdditiveScores, Classifier};
pub use closure::FnClassifier;
pub use encoder::{Encoder, Fusion, Layer, Mode};
pub use error::{Error, Result};
pub use gradient::input_gradients;
pub use missing::Missing;
pub use modality::{Domain, Modality, PerModality};
pub use random::Streams;
pub use replay::{Replay, repeat};
pub use trainable::{Integration, Trainable, Variable};
