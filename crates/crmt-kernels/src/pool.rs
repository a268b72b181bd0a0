//! Max-pooling with any stride and padding, and its exact gradient.
//!
//! Knows nothing of convolutions or layers.
use crate::real::{Read, Real, dispatch, elements, tensor};
use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor, WithDType, backend::BackendStorage, bail};
use rayon::prelude::*;
use std::sync::OnceLock;

/// Maximum over `kernel × kernel` windows of `x: [batch, channels, h, w]`, giving
/// `[batch, channels, (h + 2·padding − kernel) / stride + 1, …]`. Padding never wins. On a tie the first
/// element in row-major order gets the whole gradient, and NaN wins over any number, as in PyTorch.
///
/// # Errors
/// A rank other than 4, `stride = 0`, `padding > kernel / 2`, or an input smaller than the window.
pub fn max_pool2d(x: &Tensor, kernel: usize, stride: usize, padding: usize) -> Result<Tensor> {
    let &[_, _, h, w] = x.dims() else { bail!("max_pool2d: expected [batch, channels, h, w], got {:?}", x.dims()) };
    check([h, w], kernel, stride, padding)?;
    if h * w > u32::MAX as usize {
        bail!("max_pool2d: a plane of {h}×{w} has more than 2³² elements")
    }
    x.contiguous()?.apply_op1(MaxPool { kernel, stride, padding, winners: OnceLock::new() })
}

/// An error unless such windows fit such planes.
pub(crate) fn check([h, w]: [usize; 2], kernel: usize, stride: usize, padding: usize) -> Result<()> {
    if kernel == 0 || stride == 0 || padding > kernel / 2 {
        bail!(
            "max_pool2d: kernel {kernel}, stride {stride}, padding {padding}: kernel and stride must be at least 1 \
             and padding at most half the kernel"
        )
    }
    if h.min(w) + 2 * padding < kernel || h.min(w) == 0 {
        bail!("max_pool2d: input {h}×{w} with padding {padding} is smaller than the {kernel}×{kernel} window")
    }
    Ok(())
}

struct MaxPool {
    kernel: usize,
    stride: usize,
    padding: usize,
    /// For each output, the position of its maximum within the input plane.
    winners: OnceLock<Vec<u32>>,
}

impl MaxPool {
    fn plane<T: Real>(&self, x: &[T], [h, w]: [usize; 2], ow: usize, y: &mut [T], winners: &mut [u32]) {
        for (row, (y, winners)) in y.chunks_mut(ow).zip(winners.chunks_mut(ow)).enumerate() {
            let (top, bottom) = self.window(row, h);
            for (column, (y, winner)) in y.iter_mut().zip(winners).enumerate() {
                let (left, right) = self.window(column, w);
                let (mut best, mut at) = (T::NEG_INFINITY, top * w + left);
                for i in top..bottom {
                    for (j, &v) in x[i * w + left..i * w + right].iter().enumerate() {
                        #[expect(clippy::eq_op, reason = "true for NaN alone, which has to win")]
                        if v > best || v != v {
                            (best, at) = (v, i * w + left + j);
                        }
                    }
                }
                (*y, *winner) = (best, at as u32);
            }
        }
    }

    /// The part of the `i`-th window that lies in the input. Not empty: padding ≤ kernel / 2.
    fn window(&self, i: usize, len: usize) -> (usize, usize) {
        let start = i * self.stride;
        (start.saturating_sub(self.padding), (start + self.kernel - self.padding).min(len))
    }
}

impl CustomOp1 for MaxPool {
    fn name(&self) -> &'static str {
        "max-pool2d"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (b, c, h, w) = layout.shape().dims4()?;
        let out = |len: usize| (len + 2 * self.padding - self.kernel) / self.stride + 1;
        let (oh, ow) = (out(h), out(w));
        let mut winners = vec![0u32; b * c * oh * ow];
        let y = dispatch!("max_pool2d", x.dtype(), T => {
            let x = elements::<T>(x, layout)?;
            let mut y = vec![T::ZERO; winners.len()];
            y.par_chunks_mut(oh * ow)
                .zip(winners.par_chunks_mut(oh * ow))
                .zip(x.par_chunks(h * w))
                .for_each(|((y, winners), x)| self.plane(x, [h, w], ow, y, winners));
            T::to_cpu_storage_owned(y)
        });
        // The operation is made afresh by every call, so nothing was saved before.
        let _ = self.winners.set(winners);
        Ok((y, (b, c, oh, ow).into()))
    }

    fn bwd(&self, x: &Tensor, y: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let ((_, _, h, w), (_, _, oh, ow)) = (x.dims4()?, y.dims4()?);
        let Some(winners) = self.winners.get() else {
            bail!("max_pool2d: the gradient is not implemented on CUDA yet")
        };
        let grad = grad.contiguous()?;
        let gs = Read::new(&grad);
        dispatch!("max_pool2d", x.dtype(), T => {
            let gs = gs.elements::<T>()?;
            let mut dx = vec![T::ZERO; x.elem_count()];
            dx.par_chunks_mut(h * w).zip(gs.par_chunks(oh * ow)).zip(winners.par_chunks(oh * ow)).for_each(
                |((dx, gs), winners)| {
                    for (&g, &winner) in gs.iter().zip(winners) {
                        dx[winner as usize] += g;
                    }
                },
            );
            tensor(dx, x).map(Some)
        })
    }
}
