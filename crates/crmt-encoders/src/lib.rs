//! Encoders that turn one modality into a feature vector.
//!
//! Every encoder here is a [`Chain`] of a few kinds of blocks, so that what is computed and what an
//! auditor is told are one list. Parameters carry PyTorch's names. Knows one modality at a time;
//! deliberately knows nothing of classes, fusion, losses or files.
mod block;
mod chain;
mod config;
mod describe;
mod length;
mod lipschitz;

pub use block::Block;
pub use chain::Chain;
pub use config::{BuildError, EncoderConfig};
pub use lipschitz::{AolConv2d, OrthonormalLinear, SllConv2d};
