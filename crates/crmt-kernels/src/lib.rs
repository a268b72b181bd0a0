//! Differentiable tensor operations that candle lacks, gets wrong or does slowly, and the
//! optimizers that go with them.
//!
//! Knows candle tensors and nothing of models, modalities, data or training loops.
//!
//! Every operation takes `f32` or `f64` tensors in NCHW order (contiguous, or copied to be so), has
//! the semantics of its PyTorch counterpart, and gives the same bits whatever the number of
//! threads: work is cut into pieces that depend on shapes alone, and partial sums are added in a
//! fixed order. A gradient is computed only for arguments that track one
//! ([`candle_core::Tensor::track_op`]), so attacking a frozen model does not pay for weight
//! gradients.
//!
//! With the feature `cuda` they run on CUDA devices as well ([`Compute`], [`Precision`]); with
//! `cudnn` too, convolutions are cuDNN's. Sums have a fixed order there too, but another one than
//! on a CPU.
//!
//! ```
//! use candle_core::{DType, Device, Tensor, Var};
//! use crmt_kernels::{Optimizer, Parameter, Sgd, conv2d, max_pool2d, relu};
//!
//! # fn main() -> candle_core::Result<()> {
//! let image = Tensor::ones((2, 3, 9, 8), DType::F32, &Device::Cpu)?;
//! let kernel = Var::ones((4, 3, 3, 3), DType::F32, &Device::Cpu)?;
//! let features = max_pool2d(&relu(&conv2d(&image, &kernel, None, 2, 1)?)?, 3, 2, 1)?;
//! assert_eq!(features.dims(), [2, 4, 3, 2]);
//!
//! let gradients = features.sum_all()?.backward()?;
//! let mut sgd = Sgd { momentum: 0.9, ..Sgd::default() }.over([Parameter::new("kernel", &kernel)])?;
//! sgd.step(&gradients, 0.1)?;
//! # Ok(())
//! # }
//! ```
/// Returns `$call` if `$x` is on a CUDA device, which only a build with the feature `cuda` knows.
macro_rules! on_cuda {
    ($x:expr => $call:expr) => {
        #[cfg(feature = "cuda")]
        if $x.device().is_cuda() {
            return $call;
        }
    };
}

mod activation;
mod batch_norm;
mod conv;
#[cfg(feature = "cuda")]
mod cuda;
mod device;
mod gauge;
mod gram;
mod many;
mod net;
mod optim;
mod orthonormal;
mod polar;
mod pool;
mod precision;
mod real;
mod rearrange;
mod rows;
mod simd;
mod stack;
mod upload;

pub use activation::{max_min, relu};
pub use batch_norm::{RunningStats, batch_norm_eval, batch_norm_train};
pub use conv::{Algorithms, conv_transpose2d, conv2d, conv2d_relu, residual_conv2d};
pub use device::{Compute, Unavailable, convolution_plans, give_back, is_out_of_memory};
pub use gauge::gauged;
pub use gram::{gram_abs, gram_abs_rowsum, residual_scale};
pub use net::{KernelCache, NetworkLayer, image_network};
pub use optim::{Adam, AdamW, Clipped, Optimizer, Parameter, Sgd, SgdState, clip_grad_norm};
pub use orthonormal::orthonormal_rows;
pub use polar::{polar_linear, polar_rows};
pub use pool::max_pool2d;
pub use precision::Precision;
pub use rearrange::{space_to_depth, zero_pad2d};
pub use stack::{ImageLayer, image_stack};
pub use upload::uploader;
