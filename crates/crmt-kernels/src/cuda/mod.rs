//! The operations of this crate on a CUDA device. Shapes are checked before, in the modules whose
//! names they have; nothing here waits for the device but where it says so.
//!
//! Knows nothing of models.
mod convolution;
#[cfg(feature = "cudnn")]
mod cudnn;
mod launch;
mod layers;
mod network;
mod node;
mod open;
mod optimize;

use crate::conv::geometry::Geometry;
use crate::precision::Precision;
use crate::{RunningStats, orthonormal_rows};
use candle_core::{Result, Tensor};

pub(crate) use network::{run, stack};
pub(crate) use open::{give_back, open};
pub(crate) use optimize::{Rule, Update, square_norms, update};

/// [`crate::convolution_plans`].
pub(crate) fn convolution_plans() -> Vec<String> {
    #[cfg(feature = "cudnn")]
    return cudnn::plans();
    #[cfg(not(feature = "cudnn"))]
    vec![]
}

/// [`crate::relu`].
pub(crate) fn relu(x: &Tensor) -> Result<Tensor> {
    layers::epilogue(&x.contiguous()?, None, None, true)
}

/// [`crate::max_min`].
pub(crate) fn max_min(x: &Tensor) -> Result<Tensor> {
    let x = x.contiguous()?;
    layers::max_min(&x, x.dims()[1..].iter().product::<usize>() / 2)
}

/// [`crate::batch_norm_train`] and, without `momentum`, [`crate::batch_norm_eval`].
pub(crate) fn batch_norm(
    x: &Tensor,
    gamma: &Tensor,
    beta: &Tensor,
    running: &RunningStats,
    momentum: Option<f64>,
    eps: f64,
) -> Result<Tensor> {
    match x.rank() {
        2 => layers::batch_norm(
            &x.contiguous()?,
            gamma,
            beta,
            running,
            momentum,
            eps,
            None,
            false,
        ),
        _ => {
            let x = network::channels_last(x)?;
            network::channels_first(&layers::batch_norm(
                &x, gamma, beta, running, momentum, eps, None, false,
            )?)
        }
    }
}

/// [`crate::conv_transpose2d`], for the geometry of the convolution whose adjoint it is.
pub(crate) fn conv_transpose2d(x: &Tensor, kernel: &Tensor, geometry: Geometry) -> Result<Tensor> {
    let (x, kernel) = (network::channels_last(x)?, network::channels_last(kernel)?);
    network::channels_first(&convolution::adjoint(&x, &kernel, geometry)?)
}

/// [`crate::residual_conv2d`].
pub(crate) fn residual_conv2d(
    x: &Tensor,
    kernel: &Tensor,
    bias: &Tensor,
    scale: &Tensor,
) -> Result<Tensor> {
    network::channels_first(&network::residual(
        &network::channels_last(x)?,
        kernel,
        bias,
        scale,
    )?)
}

/// [`crate::space_to_depth`].
pub(crate) fn space_to_depth(x: &Tensor, block: usize) -> Result<Tensor> {
    let (batch, channels, h, w) = x.dims4()?;
    let parts = x.reshape(vec![batch, channels, h / block, block, w / block, block])?;
    let parts = parts.permute(vec![0, 1, 3, 5, 2, 4])?.contiguous()?;
    parts.reshape((batch, channels * block * block, h / block, w / block))
}

/// [`crate::zero_pad2d`].
pub(crate) fn zero_pad2d(x: &Tensor, [top, bottom, left, right]: [usize; 4]) -> Result<Tensor> {
    x.pad_with_zeros(2, top, bottom)?
        .pad_with_zeros(3, left, right)
}

/// `Σ |x|` over all but the first `keep` dimensions, with the derivative 0 at 0.
pub(crate) fn abs_sums(x: &Tensor, keep: usize) -> Result<Tensor> {
    let sign = x.detach().sign()?;
    let kept = x.dims()[..keep].to_vec();
    let row: usize = x.dims()[keep..].iter().product();
    (x * sign)?
        .reshape((kept.iter().product::<usize>(), row))?
        .sum(1)?
        .reshape(kept)
}

/// Steps of an iteration that does not wait to see whether it has converged: enough in `f32` for
/// singular values down to a thousandth of the largest.
const STEPS: usize = 24;

/// [`crate::polar_rows`], in full precision whatever is set; its gradient, that of the iteration,
/// is in the precision that is set when it is asked for. A matrix without full row rank, or one
/// that is not finite, gives NaN instead of an error.
pub(crate) fn polar_rows(v: &Tensor) -> Result<Tensor> {
    Precision::F32.within(|| orthonormal_rows(v, STEPS))
}

/// [`crate::polar_linear`].
pub(crate) fn polar_linear(x: &Tensor, v: &Tensor) -> Result<Tensor> {
    Precision::F32.within(|| x.matmul(&orthonormal_rows(v, STEPS)?.t()?))
}
