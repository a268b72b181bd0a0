//! Max-pooling with any stride and padding, and its exact gradient.
//!
//! Knows the rules of windows; how maxima are found is a [`network`](crate::net)'s.
use crate::conv::Algorithms;
use crate::net::{NetworkLayer, image_network};
use candle_core::{Result, Tensor, bail};

/// Maximum over `kernel × kernel` windows of `x: [batch, channels, h, w]`, giving
/// `[batch, channels, (h + 2·padding − kernel) / stride + 1, …]`. Padding never wins. On a tie the
/// first element in row-major order gets the whole gradient, and NaN wins over any number, as in
/// PyTorch.
///
/// # Errors
/// A rank other than 4, `stride = 0`, `padding > kernel / 2`, an input smaller than the window, or
/// a window larger than 255×255.
pub fn max_pool2d(x: &Tensor, kernel: usize, stride: usize, padding: usize) -> Result<Tensor> {
    let &[_, _, h, w] = x.dims() else {
        bail!(
            "max_pool2d: expected [batch, channels, h, w], got {:?}",
            x.dims()
        )
    };
    check([h, w], kernel, stride, padding)?;
    image_network(
        x,
        &[NetworkLayer::MaxPool2d {
            kernel,
            stride,
            padding,
        }],
        Algorithms::Fastest,
    )
}

/// Side of the largest window: the places in it have 16 bits.
const MOST: usize = 255;

/// An error unless such windows fit such planes.
pub(crate) fn check(
    [h, w]: [usize; 2],
    kernel: usize,
    stride: usize,
    padding: usize,
) -> Result<()> {
    if kernel == 0 || stride == 0 || padding > kernel / 2 {
        bail!(
            "max_pool2d: kernel {kernel}, stride {stride}, padding {padding}: kernel and stride must be at least 1 \
             and padding at most half the kernel"
        )
    }
    if h.min(w) + 2 * padding < kernel || h.min(w) == 0 {
        bail!(
            "max_pool2d: input {h}×{w} with padding {padding} is smaller than the {kernel}×{kernel} window"
        )
    }
    if kernel > MOST {
        bail!("max_pool2d: a window of {kernel}×{kernel} is larger than {MOST}×{MOST}")
    }
    Ok(())
}
