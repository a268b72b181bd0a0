//! Copies that move elements of images without changing them: space to depth, and zero padding.
//!
//! Knows nothing of what the channels mean.
use crate::real::{PIECE, Real, dispatch, elements};
use candle_core::{
    CpuStorage, CustomOp1, Layout, Result, Shape, Tensor, WithDType, backend::BackendStorage, bail,
};
use rayon::prelude::*;

/// `y[b, c·block² + i·block + j, u, v] = x[b, c, u·block + i, v·block + j]`: each `block × block`
/// patch becomes `block²` channels. As `torch.nn.functional.pixel_unshuffle`.
///
/// `x: [batch, c, h, w]` → `[batch, c·block², h / block, w / block]`. A permutation of the
/// elements, so an isometry whose gradient is its inverse.
///
/// # Errors
/// `x` has another rank, `block` is 0, or does not divide height and width.
pub fn space_to_depth(x: &Tensor, block: usize) -> Result<Tensor> {
    let &[_, _, h, w] = x.dims() else {
        bail!(
            "space_to_depth: expected [batch, channels, h, w], got {:?}",
            x.dims()
        )
    };
    if block == 0 || h % block != 0 || w % block != 0 {
        bail!("space_to_depth: blocks of {block} do not divide an image of {h}×{w}; pad it first")
    }
    on_cuda!(x => crate::cuda::space_to_depth(x, block));
    x.contiguous()?.apply_op1(SpaceToDepth {
        block,
        inverse: false,
    })
}

/// Zeros around each plane of `x: [batch, c, h, w]`:
/// `[batch, c, top + h + bottom, left + w + right]` with `padding = [top, bottom, left, right]`. An
/// isometry; its gradient is the crop.
///
/// # Errors
/// `x` has another rank.
pub fn zero_pad2d(x: &Tensor, padding: [usize; 4]) -> Result<Tensor> {
    if x.rank() != 4 {
        bail!(
            "zero_pad2d: expected [batch, channels, h, w], got {:?}",
            x.dims()
        )
    }
    if padding == [0; 4] {
        return Ok(x.clone());
    }
    on_cuda!(x => crate::cuda::zero_pad2d(x, padding));
    x.contiguous()?.apply_op1(Pad {
        padding,
        crop: false,
    })
}

struct SpaceToDepth {
    block: usize,
    /// Depth to space instead.
    inverse: bool,
}

impl SpaceToDepth {
    /// `x: [b·c, h·block, w·block]` to `[b·c, block², h, w]`, or back.
    fn map<T: Real>(&self, x: &[T], h: usize, w: usize) -> Vec<T> {
        let mut y = vec![T::ZERO; x.len()];
        let (block, plane) = (self.block, self.block * self.block * h * w);
        if plane == 0 {
            return y;
        }
        let planes = PIECE.div_ceil(plane) * plane;
        y.par_chunks_mut(planes)
            .zip(x.par_chunks(planes))
            .for_each(|(y, x)| {
                for (y, x) in y.chunks_mut(plane).zip(x.chunks(plane)) {
                    for (i, u) in (0..block).flat_map(|i| (0..h).map(move |u| (i, u))) {
                        // One row of the image, and the same row of each of `block` channels.
                        let row = (u * block + i) * w * block;
                        for j in 0..block {
                            let channel = ((i * block + j) * h + u) * w;
                            if self.inverse {
                                let to = y[row..row + w * block][j..].iter_mut().step_by(block);
                                to.zip(&x[channel..channel + w]).for_each(|(y, x)| *y = *x);
                            } else {
                                let from = x[row..row + w * block][j..].iter().step_by(block);
                                y[channel..channel + w]
                                    .iter_mut()
                                    .zip(from)
                                    .for_each(|(y, x)| *y = *x);
                            }
                        }
                    }
                }
            });
        y
    }
}

impl CustomOp1 for SpaceToDepth {
    fn name(&self) -> &'static str {
        "space-to-depth"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (b, c, h, w) = layout.shape().dims4()?;
        let (k, k2) = (self.block, self.block * self.block);
        // Height and width of the deep side.
        let (h, w, shape) = if self.inverse {
            (h, w, (b, c / k2, h * k, w * k))
        } else {
            (h / k, w / k, (b, c * k2, h / k, w / k))
        };
        dispatch!("space_to_depth", x.dtype(), T => {
            Ok((T::to_cpu_storage_owned(self.map(elements::<T>(x, layout)?, h, w)), shape.into()))
        })
    }

    fn bwd(&self, _x: &Tensor, _y: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let back = Self {
            block: self.block,
            inverse: !self.inverse,
        };
        grad.contiguous()?.apply_op1_no_bwd(&back).map(Some)
    }
}

struct Pad {
    /// Top, bottom, left, right.
    padding: [usize; 4],
    /// Remove instead of adding.
    crop: bool,
}

impl CustomOp1 for Pad {
    fn name(&self) -> &'static str {
        "zero-pad"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (b, c, h, w) = layout.shape().dims4()?;
        let [top, bottom, left, right] = self.padding;
        let (oh, ow) = match self.crop {
            true => (h - top - bottom, w - left - right),
            false => (h + top + bottom, w + left + right),
        };
        let rows = h.min(oh);
        dispatch!("zero_pad2d", x.dtype(), T => {
            let x = elements::<T>(x, layout)?;
            let mut y = vec![T::ZERO; b * c * oh * ow];
            if !x.is_empty() && !y.is_empty() {
                y.par_chunks_mut(oh * ow).zip(x.par_chunks(h * w)).for_each(|(y, x)| {
                    for row in 0..rows {
                        match self.crop {
                            true => y[row * ow..][..ow].copy_from_slice(&x[(row + top) * w + left..][..ow]),
                            false => y[(row + top) * ow + left..][..w].copy_from_slice(&x[row * w..][..w]),
                        }
                    }
                });
            }
            Ok((T::to_cpu_storage_owned(y), (b, c, oh, ow).into()))
        })
    }

    fn bwd(&self, _x: &Tensor, _y: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let crop = Self {
            padding: self.padding,
            crop: true,
        };
        grad.contiguous()?.apply_op1_no_bwd(&crop).map(Some)
    }
}
