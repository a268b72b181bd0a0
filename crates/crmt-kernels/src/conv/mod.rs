//! Two-dimensional convolution with exact gradients for any stride, padding and parity.
//!
//! Knows nothing of layers, initialisation or the networks it is used in.
mod backward;
mod bilinear;
pub(crate) mod blas;
mod channels_last;
mod direct;
mod epilogue;
mod forward;
pub(crate) mod geometry;
pub(crate) mod layout;
mod taps;
pub(crate) mod tile;
mod transposed;
mod winograd;

use crate::activation::{gradient_where_positive, positive_part};
use crate::real::{Read, dispatch, elements, same_kind, tensor};
use candle_core::{
    CpuStorage, CustomOp2, CustomOp3, Layout, Result, Shape, Tensor, WithDType, backend::BackendStorage, bail,
};
use geometry::Geometry;

pub use channels_last::Algorithms;
pub(crate) use channels_last::{Convolution, Weights};
pub(crate) use epilogue::Epilogue;
pub use transposed::{conv_transpose2d, residual_conv2d};

/// Cross-correlation (what deep learning calls convolution):
/// `y[n, o, i, j] = bias[o] + Σ_{c,u,v} kernel[o, c, u, v] · x[n, c, i·stride + u − padding, j·stride + v − padding]`,
/// where `x` is 0 outside. As `torch.nn.functional.conv2d`.
///
/// `x: [batch, in, h, w]`, `kernel: [out, in, kh, kw]`, `bias: [out]` →
/// `[batch, out, (h + 2·padding − kh) / stride + 1, (w + 2·padding − kw) / stride + 1]`.
///
/// # Errors
/// Wrong ranks, channels, types or devices, `stride = 0`, or an input smaller than the kernel.
pub fn conv2d(x: &Tensor, kernel: &Tensor, bias: Option<&Tensor>, stride: usize, padding: usize) -> Result<Tensor> {
    apply(x, kernel, bias, stride, padding, false)
}

/// `relu(conv2d(…))` in one pass: the same values and gradients as [`crate::relu`] of [`conv2d`], without
/// the intermediate tensor and its gradient.
pub fn conv2d_relu(
    x: &Tensor,
    kernel: &Tensor,
    bias: Option<&Tensor>,
    stride: usize,
    padding: usize,
) -> Result<Tensor> {
    apply(x, kernel, bias, stride, padding, true)
}

fn apply(
    x: &Tensor,
    kernel: &Tensor,
    bias: Option<&Tensor>,
    stride: usize,
    padding: usize,
    relu: bool,
) -> Result<Tensor> {
    let geometry = Geometry::new(x.dims(), kernel.dims(), stride, padding)?;
    same_kind("conv2d", &[("x", x), ("kernel", kernel)])?;
    let (x, kernel) = (x.contiguous()?, kernel.contiguous()?);
    let op = Conv2d { geometry, relu };
    let Some(bias) = bias else { return x.apply_op2(&kernel, op) };
    if bias.dims() != [geometry.co] {
        bail!("conv2d: bias has shape {:?}, expected [{}] for kernel {:?}", bias.dims(), geometry.co, kernel.dims())
    }
    same_kind("conv2d", &[("x", &x), ("bias", bias)])?;
    x.apply_op3(&kernel, &bias.contiguous()?, op)
}

struct Conv2d {
    geometry: Geometry,
    relu: bool,
}

impl Conv2d {
    fn forward(
        &self,
        x: (&CpuStorage, &Layout),
        kernel: (&CpuStorage, &Layout),
        bias: Option<(&CpuStorage, &Layout)>,
    ) -> Result<(CpuStorage, Shape)> {
        let g = &self.geometry;
        dispatch!("conv2d", x.0.dtype(), T => {
            let bias = bias.map(|(storage, layout)| elements::<T>(storage, layout)).transpose()?;
            let (x, kernel) = (elements::<T>(x.0, x.1)?, elements(kernel.0, kernel.1)?);
            let y = match self.relu {
                true => forward::output(g, x, kernel, bias, positive_part),
                false => forward::output(g, x, kernel, bias, |y| y),
            };
            Ok((T::to_cpu_storage_owned(y), (g.b, g.co, g.oh, g.ow).into()))
        })
    }

    /// The gradients of whichever argument wants one.
    fn backward(
        &self,
        x: &Tensor,
        kernel: &Tensor,
        bias: Option<&Tensor>,
        y: &Tensor,
        grad: &Tensor,
    ) -> Result<[Option<Tensor>; 3]> {
        let g = &self.geometry;
        let grad = match self.relu {
            true => gradient_where_positive(y, grad)?,
            false => grad.contiguous()?,
        };
        let (xs, ks, gs) = (Read::new(x), Read::new(kernel), Read::new(&grad));
        dispatch!("conv2d", x.dtype(), T => {
            let (xs, ks, gs) = (xs.elements::<T>()?, ks.elements::<T>()?, gs.elements::<T>()?);
            let dx = x.track_op().then(|| tensor(backward::input(g, ks, gs), x)).transpose()?;
            let dk = kernel.track_op().then(|| tensor(backward::kernel(g, xs, gs), kernel)).transpose()?;
            let bias = bias.filter(|bias| bias.track_op());
            Ok([dx, dk, bias.map(|bias| tensor(backward::bias(g, gs), bias)).transpose()?])
        })
    }
}

impl CustomOp2 for Conv2d {
    fn name(&self) -> &'static str {
        "conv2d"
    }

    fn cpu_fwd(&self, x: &CpuStorage, lx: &Layout, k: &CpuStorage, lk: &Layout) -> Result<(CpuStorage, Shape)> {
        self.forward((x, lx), (k, lk), None)
    }

    fn bwd(&self, x: &Tensor, k: &Tensor, y: &Tensor, grad: &Tensor) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let [dx, dk, _] = self.backward(x, k, None, y, grad)?;
        Ok((dx, dk))
    }
}

impl CustomOp3 for Conv2d {
    fn name(&self) -> &'static str {
        "conv2d"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        lx: &Layout,
        k: &CpuStorage,
        lk: &Layout,
        bias: &CpuStorage,
        lb: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        self.forward((x, lx), (k, lk), Some((bias, lb)))
    }

    fn bwd(
        &self,
        x: &Tensor,
        k: &Tensor,
        bias: &Tensor,
        y: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let [dx, dk, db] = self.backward(x, k, Some(bias), y, grad)?;
        Ok((dx, dk, db))
    }
}
