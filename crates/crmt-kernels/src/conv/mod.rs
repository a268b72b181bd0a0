//! Two-dimensional convolution with exact gradients for any stride, padding and parity.
//!
//! Knows nothing of layers, initialisation or the networks it is used in.
mod bilinear;
pub(crate) mod blas;
mod channels_last;
mod direct;
mod epilogue;
pub(crate) mod geometry;
pub(crate) mod layout;
mod taps;
pub(crate) mod tile;
mod transposed;
mod winograd;

use crate::net::{KernelCache, NetworkLayer, image_network};
use crate::real::same_kind;
use candle_core::{Result, Tensor, bail};
use geometry::Geometry;

pub use channels_last::Algorithms;
pub(crate) use channels_last::{Convolution, Weights};
pub(crate) use epilogue::Epilogue;
pub use transposed::{conv_transpose2d, residual_conv2d};

/// Cross-correlation (what deep learning calls convolution):
/// `y[n, o, i, j] = bias[o] + Σ_{c,u,v} kernel[o, c, u, v] · x[n, c, i·stride + u − padding, j·stride + v − padding]`,
/// where `x` is 0 outside. As `torch.nn.functional.conv2d`; the products are added up as written
/// ([`Algorithms::Direct`]). Several layers are faster as one [`image_network`].
///
/// `x: [batch, in, h, w]`, `kernel: [out, in, kh, kw]`, `bias: [out]` →
/// `[batch, out, (h + 2·padding − kh) / stride + 1, (w + 2·padding − kw) / stride + 1]`.
///
/// # Errors
/// Wrong ranks, channels, types or devices, `stride = 0`, or an input smaller than the kernel.
pub fn conv2d(
    x: &Tensor,
    kernel: &Tensor,
    bias: Option<&Tensor>,
    stride: usize,
    padding: usize,
) -> Result<Tensor> {
    image_network(
        x,
        &[layer(x, kernel, bias, stride, padding)?],
        Algorithms::Direct,
    )
}

/// `relu(conv2d(…))` in one pass: the same values and gradients as [`crate::relu`] of [`conv2d`],
/// without the intermediate tensor and its gradient.
///
/// # Errors
/// As [`conv2d`].
pub fn conv2d_relu(
    x: &Tensor,
    kernel: &Tensor,
    bias: Option<&Tensor>,
    stride: usize,
    padding: usize,
) -> Result<Tensor> {
    image_network(
        x,
        &[layer(x, kernel, bias, stride, padding)?, NetworkLayer::Relu],
        Algorithms::Direct,
    )
}

fn layer(
    x: &Tensor,
    kernel: &Tensor,
    bias: Option<&Tensor>,
    stride: usize,
    padding: usize,
) -> Result<NetworkLayer> {
    let geometry = Geometry::new(x.dims(), kernel.dims(), stride, padding)?;
    same_kind("conv2d", &[("x", x), ("kernel", kernel)])?;
    if let Some(bias) = bias {
        if bias.dims() != [geometry.co] {
            bail!(
                "conv2d: bias has shape {:?}, expected [{}] for kernel {:?}",
                bias.dims(),
                geometry.co,
                kernel.dims()
            )
        }
        same_kind("conv2d", &[("x", x), ("bias", bias)])?;
    }
    let (kernel, bias, cache) = (kernel.clone(), bias.cloned(), KernelCache::default());
    Ok(NetworkLayer::Conv2d {
        kernel,
        bias,
        stride,
        padding,
        cache,
    })
}
