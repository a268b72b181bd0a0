//! The transpose of a convolution, and the residual layer made of a convolution and its transpose.
//!
//! Knows how to compute both and their gradients, and nothing of why a scale makes the layer 1-Lipschitz.
use super::{backward, forward, geometry::Geometry};
use crate::activation::positive_part;
use crate::real::{PIECE, Read, Real, dispatch, elements, same_kind, sum_by, tensor};
use candle_core::{
    CpuStorage, CustomOp2, CustomOp3, Layout, Result, Shape, Tensor, WithDType, backend::BackendStorage, bail,
};
use rayon::prelude::*;
use std::sync::OnceLock;

/// The adjoint of [`conv2d`](crate::conv2d): `Σ conv_transpose2d(x, k)·y = Σ x·conv2d(y, k)`. As
/// `torch.nn.functional.conv_transpose2d` without output padding.
///
/// `x: [batch, out, oh, ow]`, `kernel: [out, in, kh, kw]` →
/// `[batch, in, (oh − 1)·stride + kh − 2·padding, (ow − 1)·stride + kw − 2·padding]`.
///
/// # Errors
/// Wrong ranks, channels, types or devices, `stride = 0`, or padding that leaves nothing.
pub fn conv_transpose2d(x: &Tensor, kernel: &Tensor, stride: usize, padding: usize) -> Result<Tensor> {
    let (&[b, channels, oh, ow], &[co, ci, kh, kw]) = (x.dims(), kernel.dims()) else {
        bail!(
            "conv_transpose2d: expected x [batch, out, h, w] and kernel [out, in, kh, kw], got {:?} and {:?}",
            x.dims(),
            kernel.dims()
        )
    };
    if channels != co {
        bail!("conv_transpose2d: x {:?} has {channels} channels, but kernel {:?} expects {co}", x.dims(), kernel.dims())
    }
    let size = |o: usize, k: usize| ((o.max(1) - 1) * stride + k).checked_sub(2 * padding).filter(|n| o > 0 && *n > 0);
    let (Some(h), Some(w)) = (size(oh, kh), size(ow, kw)) else {
        bail!(
            "conv_transpose2d: padding {padding} leaves nothing of {oh}×{ow} with a kernel {kh}×{kw}, stride {stride}"
        )
    };
    let geometry = Geometry::new(&[b, ci, h, w], kernel.dims(), stride, padding)?;
    same_kind("conv_transpose2d", &[("x", x), ("kernel", kernel)])?;
    x.contiguous()?.apply_op2(&kernel.contiguous()?, ConvTranspose2d { geometry })
}

struct ConvTranspose2d {
    /// Of the convolution whose adjoint this is.
    geometry: Geometry,
}

impl CustomOp2 for ConvTranspose2d {
    fn name(&self) -> &'static str {
        "conv-transpose2d"
    }

    fn cpu_fwd(&self, x: &CpuStorage, lx: &Layout, k: &CpuStorage, lk: &Layout) -> Result<(CpuStorage, Shape)> {
        let g = &self.geometry;
        dispatch!("conv_transpose2d", x.dtype(), T => {
            let y = backward::input(g, elements::<T>(k, lk)?, elements(x, lx)?);
            Ok((T::to_cpu_storage_owned(y), (g.b, g.ci, g.h, g.w).into()))
        })
    }

    fn bwd(&self, x: &Tensor, k: &Tensor, _y: &Tensor, grad: &Tensor) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let (g, grad) = (&self.geometry, grad.contiguous()?);
        let (xs, ks, gs) = (Read::new(x), Read::new(k), Read::new(&grad));
        dispatch!("conv_transpose2d", x.dtype(), T => {
            let (xs, ks, gs) = (xs.elements::<T>()?, ks.elements::<T>()?, gs.elements::<T>()?);
            let dx = x.track_op().then(|| tensor(forward::output(g, gs, ks, None, |y| y), x)).transpose()?;
            let dk = k.track_op().then(|| tensor(backward::kernel(g, gs, xs), k)).transpose()?;
            Ok((dx, dk))
        })
    }
}

/// `y = x − Cᵀ(scale ∘ relu(C x + bias))` in one operation, where `C` is the zero-padded convolution of
/// stride 1 with an odd square `kernel` and padding `k / 2`, and `Cᵀ` its transpose.
///
/// `x: [batch, c, h, w]`, `kernel: [hidden, c, k, k]`, `bias` and `scale`: `[hidden]`, `scale` positive. The
/// layer is 1-Lipschitz if `scale` is at most `2 / T` with `T` from [`residual_scale`](crate::residual_scale).
///
/// # Errors
/// Wrong ranks, channels, types or devices, or a kernel that is not odd and square.
pub fn residual_conv2d(x: &Tensor, kernel: &Tensor, bias: &Tensor, scale: &Tensor) -> Result<Tensor> {
    let k = kernel.dims().last().copied().unwrap_or(0);
    let geometry = Geometry::new(x.dims(), kernel.dims(), 1, k / 2)?;
    if geometry.kh != k || k % 2 == 0 {
        bail!("residual_conv2d: kernel {:?} must be square with an odd size", kernel.dims())
    }
    for (name, t) in [("bias", bias), ("scale", scale)] {
        if t.dims() != [geometry.co] {
            bail!("residual_conv2d: {name} has shape {:?}, expected [{}]", t.dims(), geometry.co)
        }
    }
    same_kind("residual_conv2d", &[("x", x), ("kernel", kernel), ("bias", bias), ("scale", scale)])?;
    let keep = [x, kernel, bias, scale].iter().any(|t| t.track_op());
    let op = ResidualConv2d { geometry, keep, hidden: OnceLock::new() };
    x.contiguous()?.apply_op3(&kernel.contiguous()?, &Tensor::stack(&[bias, scale], 0)?, op)
}

struct ResidualConv2d {
    geometry: Geometry,
    /// Whether a backward pass may come.
    keep: bool,
    /// `scale ∘ relu(C x + bias)`, for the backward pass.
    hidden: OnceLock<CpuStorage>,
}

impl ResidualConv2d {
    fn hidden<T: Real>(&self, x: &[T], kernel: &[T], bias_scale: &[T]) -> Vec<T> {
        let g = &self.geometry;
        let (bias, scale) = bias_scale.split_at(g.co);
        let mut hidden = forward::output(g, x, kernel, Some(bias), positive_part);
        let size = (g.co * g.plane()).max(1);
        hidden.par_chunks_mut(PIECE.div_ceil(size) * size).for_each(|samples| {
            for (plane, scale) in samples.chunks_mut(g.plane()).zip(scale.iter().cycle()) {
                plane.iter_mut().for_each(|v| *v *= *scale);
            }
        });
        hidden
    }
}

impl CustomOp3 for ResidualConv2d {
    fn name(&self) -> &'static str {
        "residual-conv2d"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        lx: &Layout,
        k: &CpuStorage,
        lk: &Layout,
        bs: &CpuStorage,
        lbs: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        dispatch!("residual_conv2d", x.dtype(), T => {
            let (x, k, bs) = (elements::<T>(x, lx)?, elements::<T>(k, lk)?, elements::<T>(bs, lbs)?);
            let hidden = self.hidden(x, k, bs);
            let mut y = backward::input(&self.geometry, k, &hidden);
            y.par_chunks_mut(PIECE).zip(x.par_chunks(PIECE)).for_each(|(y, x)| {
                y.iter_mut().zip(x).for_each(|(y, x)| *y = *x - *y);
            });
            if self.keep {
                let _first = self.hidden.set(T::to_cpu_storage_owned(hidden));
            }
            Ok((T::to_cpu_storage_owned(y), lx.shape().clone()))
        })
    }

    /// With `v = scale ∘ relu(C x + bias)` and the gradient `d` of the result: `dv = −C d`,
    /// `dscale = Σ dv·v / scale`, `dpre = scale·dv` where `v > 0`, `dbias = Σ dpre`,
    /// `dx = d + Cᵀ dpre`, and the kernel gets one gradient from each of its two uses.
    fn bwd(
        &self,
        x: &Tensor,
        k: &Tensor,
        bs: &Tensor,
        _y: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let (g, grad) = (&self.geometry, grad.contiguous()?);
        let (xs, ks, bss, gs) = (Read::new(x), Read::new(k), Read::new(bs), Read::new(&grad));
        dispatch!("residual_conv2d", x.dtype(), T => {
            let (xs, ks, bss, gs) = (xs.elements::<T>()?, ks.elements::<T>()?, bss.elements::<T>()?, gs.elements::<T>()?);
            let again;
            let hidden = match self.hidden.get() {
                Some(hidden) => T::cpu_storage_as_slice(hidden)?,
                None => {
                    again = self.hidden(xs, ks, bss);
                    &again
                }
            };
            let mut pre = forward::output(g, gs, ks, None, |y| T::ZERO - y);
            let dbs = through_hidden(g, &mut pre, hidden, &bss[g.co..]);
            let dx = x.track_op().then(|| {
                let mut dx = backward::input(g, ks, &pre);
                add(&mut dx, gs, |dx, d| dx + d);
                tensor(dx, x)
            });
            let dk = k.track_op().then(|| {
                let mut dk = backward::kernel(g, xs, &pre);
                add(&mut dk, &backward::kernel(g, gs, hidden), |dk, other| dk - other);
                tensor(dk, k)
            });
            let dbs = bs.track_op().then(|| tensor(dbs, bs));
            Ok((dx.transpose()?, dk.transpose()?, dbs.transpose()?))
        })
    }
}

fn add<T: Real>(to: &mut [T], other: &[T], f: impl Fn(T, T) -> T + Sync) {
    to.par_chunks_mut(PIECE).zip(other.par_chunks(PIECE)).for_each(|(to, other)| {
        to.iter_mut().zip(other).for_each(|(to, other)| *to = f(*to, *other));
    });
}

/// Turns `dv` into `dpre` in place, and sums the gradients of bias and scale, `[2, hidden]`.
fn through_hidden<T: Real>(g: &Geometry, dv: &mut [T], hidden: &[T], scale: &[T]) -> Vec<T> {
    let (plane, sample) = (g.plane(), g.co * g.plane());
    let group = PIECE.div_ceil(sample.max(1)).max(1);
    // Per group of samples, so that sums have a fixed order.
    let sums: Vec<Vec<[f64; 2]>> = dv
        .par_chunks_mut((group * sample).max(1))
        .zip(hidden.par_chunks((group * sample).max(1)))
        .map(|(dv, hidden)| {
            let mut sums = vec![[0f64; 2]; g.co];
            for (i, (dv, hidden)) in dv.chunks_mut(plane).zip(hidden.chunks(plane)).enumerate() {
                let channel = i % g.co;
                let [db, ds] = sum_by(dv, hidden, |dv, v| [if v > 0. { dv } else { 0. }, dv * v]);
                sums[channel][0] += db;
                sums[channel][1] += ds;
                let scale = scale[channel];
                dv.iter_mut().zip(hidden).for_each(|(dv, v)| *dv = if *v > T::ZERO { *dv * scale } else { T::ZERO });
            }
            sums
        })
        .collect();
    let total = |i: usize, channel: usize| sums.iter().map(|sums| sums[channel][i]).sum::<f64>();
    let bias = (0..g.co).map(|c| T::from_f64(total(0, c) * scale[c].to_f64()));
    bias.chain((0..g.co).map(|c| T::from_f64(total(1, c) / scale[c].to_f64()))).collect()
}
