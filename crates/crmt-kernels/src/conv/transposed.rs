//! The transpose of a convolution, and the residual layer made of a convolution and its transpose.
//!
//! Knows how to compute both and their gradients, and nothing of why a scale makes the layer
//! 1-Lipschitz.
use super::{Algorithms, Convolution, Epilogue, geometry::Geometry};
use crate::real::{Kept, Read, Real, dispatch, elements, same_kind, tensor};
use crate::rows::{bias_gradient, column_sums, each, scale_rows, swap};
use candle_core::{
    CpuStorage, CustomOp2, CustomOp3, Layout, Result, Shape, Tensor, WithDType,
    backend::BackendStorage, bail,
};
use std::sync::OnceLock;

/// The adjoint of [`conv2d`](crate::conv2d): `Σ conv_transpose2d(x, k)·y = Σ x·conv2d(y, k)`. As
/// `torch.nn.functional.conv_transpose2d` without output padding.
///
/// `x: [batch, out, oh, ow]`, `kernel: [out, in, kh, kw]` →
/// `[batch, in, (oh − 1)·stride + kh − 2·padding, (ow − 1)·stride + kw − 2·padding]`.
///
/// # Errors
/// Wrong ranks, channels, types or devices, `stride = 0`, or padding that leaves nothing.
pub fn conv_transpose2d(
    x: &Tensor,
    kernel: &Tensor,
    stride: usize,
    padding: usize,
) -> Result<Tensor> {
    let (&[b, channels, oh, ow], &[co, ci, kh, kw]) = (x.dims(), kernel.dims()) else {
        bail!(
            "conv_transpose2d: expected x [batch, out, h, w] and kernel [out, in, kh, kw], got {:?} and {:?}",
            x.dims(),
            kernel.dims()
        )
    };
    if channels != co {
        bail!(
            "conv_transpose2d: x {:?} has {channels} channels, but kernel {:?} expects {co}",
            x.dims(),
            kernel.dims()
        )
    }
    let size = |o: usize, k: usize| {
        ((o.max(1) - 1) * stride + k)
            .checked_sub(2 * padding)
            .filter(|n| o > 0 && *n > 0)
    };
    let (Some(h), Some(w)) = (size(oh, kh), size(ow, kw)) else {
        bail!(
            "conv_transpose2d: padding {padding} leaves nothing of {oh}×{ow} with a kernel {kh}×{kw}, stride {stride}"
        )
    };
    let geometry = Geometry::new(&[b, ci, h, w], kernel.dims(), stride, padding)?;
    same_kind("conv_transpose2d", &[("x", x), ("kernel", kernel)])?;
    on_cuda!(x => crate::cuda::conv_transpose2d(x, kernel, geometry));
    x.contiguous()?
        .apply_op2(&kernel.contiguous()?, ConvTranspose2d { geometry })
}

struct ConvTranspose2d {
    /// Of the convolution whose adjoint this is.
    geometry: Geometry,
}

impl CustomOp2 for ConvTranspose2d {
    fn name(&self) -> &'static str {
        "conv-transpose2d"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        lx: &Layout,
        k: &CpuStorage,
        lk: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let g = &self.geometry;
        dispatch!("conv_transpose2d", x.dtype(), T => {
            let y = Images::results(g, elements::<T>(x, lx)?).adjoint(elements(k, lk)?);
            Ok((T::to_cpu_storage_owned(y.in_order()), (g.b, g.ci, g.h, g.w).into()))
        })
    }

    fn bwd(
        &self,
        x: &Tensor,
        k: &Tensor,
        _y: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let (g, grad) = (&self.geometry, grad.contiguous()?);
        let (xs, ks, gs) = (Read::new(x), Read::new(k), Read::new(&grad));
        dispatch!("conv_transpose2d", x.dtype(), T => {
            let (xs, ks, gs) = (xs.elements::<T>()?, ks.elements::<T>()?, gs.elements::<T>()?);
            let gs = Images::sources(g, gs);
            let dx = x.track_op().then(|| tensor(gs.convolved(ks).in_order(), x)).transpose()?;
            let dk = k.track_op().then(|| tensor(gs.kernel_gradient(&Images::results(g, xs)), k)).transpose()?;
            Ok((dx, dk))
        })
    }
}

/// `y = x − Cᵀ(scale ∘ relu(C x + bias))` in one operation, where `C` is the zero-padded
/// convolution of stride 1 with an odd square `kernel` and padding `k / 2`, and `Cᵀ` its transpose.
///
/// `x: [batch, c, h, w]`, `kernel: [hidden, c, k, k]`, `bias` and `scale`: `[hidden]`, `scale`
/// positive. The layer is 1-Lipschitz if `scale` is at most `2 / T` with `T` from
/// [`residual_scale`](crate::residual_scale).
///
/// # Errors
/// Wrong ranks, channels, types or devices, or a kernel that is not odd and square.
pub fn residual_conv2d(
    x: &Tensor,
    kernel: &Tensor,
    bias: &Tensor,
    scale: &Tensor,
) -> Result<Tensor> {
    let k = kernel.dims().last().copied().unwrap_or(0);
    let geometry = Geometry::new(x.dims(), kernel.dims(), 1, k / 2)?;
    if geometry.kh != k || k % 2 == 0 {
        bail!(
            "residual_conv2d: kernel {:?} must be square with an odd size",
            kernel.dims()
        )
    }
    for (name, t) in [("bias", bias), ("scale", scale)] {
        if t.dims() != [geometry.co] {
            bail!(
                "residual_conv2d: {name} has shape {:?}, expected [{}]",
                t.dims(),
                geometry.co
            )
        }
    }
    same_kind(
        "residual_conv2d",
        &[
            ("x", x),
            ("kernel", kernel),
            ("bias", bias),
            ("scale", scale),
        ],
    )?;
    on_cuda!(x => crate::cuda::residual_conv2d(x, kernel, bias, scale));
    let keep = [x, kernel, bias, scale].iter().any(|t| t.track_op());
    let op = ResidualConv2d {
        geometry,
        keep,
        hidden: OnceLock::new(),
    };
    x.contiguous()?.apply_op3(
        &kernel.contiguous()?,
        &Tensor::stack(&[bias, scale], 0)?,
        op,
    )
}

struct ResidualConv2d {
    geometry: Geometry,
    /// Whether a backward pass may come.
    keep: bool,
    /// `scale ∘ relu(C x + bias)`, for the backward pass.
    hidden: OnceLock<CpuStorage>,
}

impl ResidualConv2d {
    fn hidden<T: Real>(&self, x: &Images<T>, kernel: &[T], bias_scale: &[T]) -> Images<T> {
        let (bias, scale) = bias_scale.split_at(self.geometry.co);
        let mut hidden = x.rectified(kernel, bias);
        scale_rows(hidden.values.all_mut(), scale);
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
            let images = Images::sources(&self.geometry, x);
            let hidden = self.hidden(&images, k, bs);
            let mut y = hidden.adjoint(k);
            each(y.values.all_mut(), images.values.all(), |y, x| *y = x - *y);
            let y = y.in_order();
            if self.keep {
                let _first = self.hidden.set(T::to_cpu_storage_owned(hidden.values.all().to_vec()));
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
            let (images, gs) = (Images::sources(g, xs), Images::sources(g, gs));
            let again;
            let hidden = match self.hidden.get() {
                Some(hidden) => T::cpu_storage_as_slice(hidden)?,
                None => {
                    again = self.hidden(&images, ks, bss);
                    again.values.all()
                }
            };
            let mut pre = gs.convolved(ks);
            let dbs = through_hidden(pre.values.all_mut(), hidden, &bss[g.co..]);
            let dx = x.track_op().then(|| {
                let mut dx = pre.adjoint(ks);
                each(dx.values.all_mut(), gs.values.all(), |dx, d| *dx += d);
                tensor(dx.in_order(), x)
            });
            let dk = k.track_op().then(|| {
                let mut dk = images.kernel_gradient(&pre);
                let hidden = Images { of: *g, result: true, values: Kept::copy_of(hidden) };
                each(&mut dk, &gs.kernel_gradient(&hidden), |dk, other| *dk -= other);
                tensor(dk, k)
            });
            let dbs = bs.track_op().then(|| tensor(dbs, bs));
            Ok((dx.transpose()?, dk.transpose()?, dbs.transpose()?))
        })
    }
}

/// Turns `C d` into `dpre = scale·dv` where `v > 0`, with `dv = −C d`, in place, and sums the
/// gradients of bias and scale, `[2, hidden]`. All are `[positions, hidden]`.
fn through_hidden<T: Real>(cd: &mut [T], hidden: &[T], scale: &[T]) -> Vec<T> {
    let channels = scale.len();
    each(cd, hidden, |cd, v| {
        *cd = if v > T::ZERO { T::ZERO - *cd } else { T::ZERO }
    });
    let dv = &*cd;
    let [products] = column_sums::<T, 1>(dv.len() / channels, channels, |i, [sums]| {
        let row = dv[i * channels..][..channels]
            .iter()
            .zip(&hidden[i * channels..][..channels]);
        sums.iter_mut()
            .zip(row)
            .for_each(|(sum, (dv, v))| *sum += *dv * *v);
    });
    scale_rows(cd, scale);
    let mut both = bias_gradient(cd, channels);
    both.extend(
        products
            .iter()
            .zip(scale)
            .map(|(sum, scale)| T::from_f64(sum / scale.to_f64())),
    );
    both
}

/// Channels-last images on one side of a convolution.
struct Images<T: Real> {
    of: Geometry,
    /// Of the convolution, or its source.
    result: bool,
    values: Kept<T>,
}

impl<T: Real> Images<T> {
    /// From `[batch, in, h, w]`.
    fn sources(g: &Geometry, x: &[T]) -> Self {
        Self::new(g, false, x)
    }

    /// From `[batch, out, oh, ow]`.
    fn results(g: &Geometry, x: &[T]) -> Self {
        Self::new(g, true, x)
    }

    fn new(g: &Geometry, result: bool, x: &[T]) -> Self {
        let mut values = Kept::new();
        let [channels, pixels] = if result {
            [g.co, g.oh * g.ow]
        } else {
            [g.ci, g.h * g.w]
        };
        swap(x, [channels, pixels], values.of(x.len()));
        Self {
            of: *g,
            result,
            values,
        }
    }

    /// As tensors have them.
    fn in_order(&self) -> Vec<T> {
        let g = &self.of;
        let [channels, pixels] = if self.result {
            [g.co, g.oh * g.ow]
        } else {
            [g.ci, g.h * g.w]
        };
        let mut x = vec![T::ZERO; self.values.all().len()];
        swap(self.values.all(), [pixels, channels], &mut x);
        x
    }

    fn convolution(&self) -> Convolution {
        Convolution::new::<T>(self.of, Algorithms::Direct)
    }

    fn convolved_by(&self, kernel: &[T], epilogue: &Epilogue<T>) -> Self {
        let (conv, g, mut y) = (self.convolution(), &self.of, Kept::new());
        let weights = conv.weights(kernel, false);
        conv.forward(
            kernel,
            &weights,
            self.values.all(),
            y.of(g.b * g.oh * g.ow * g.co),
            epilogue,
        );
        Self {
            of: *g,
            result: true,
            values: y,
        }
    }

    fn convolved(&self, kernel: &[T]) -> Self {
        self.convolved_by(kernel, &Epilogue::default())
    }

    /// `relu(convolution + bias)`.
    fn rectified(&self, kernel: &[T], bias: &[T]) -> Self {
        self.convolved_by(
            kernel,
            &Epilogue {
                bias: Some(bias),
                relu: true,
                ..Epilogue::default()
            },
        )
    }

    fn adjoint(&self, kernel: &[T]) -> Self {
        let (conv, g, mut x) = (self.convolution(), &self.of, Kept::new());
        let weights = conv.adjoint_weights(kernel, false);
        let to = x.of(g.b * g.h * g.w * g.ci);
        conv.input_gradient(
            kernel,
            &weights,
            self.values.all(),
            to,
            &Epilogue::default(),
        );
        Self {
            of: *g,
            result: false,
            values: x,
        }
    }

    fn kernel_gradient(&self, results: &Self) -> Vec<T> {
        self.convolution()
            .kernel_gradient(self.values.all(), results.values.all())
    }
}
