//! Elementwise activations with PyTorch's derivatives at kinks.
//!
//! Knows nothing of layers or parameters.
use crate::real::{PIECE, Read, Real, dispatch, elements, map2, tensor};
use candle_core::{
    CpuStorage, CustomOp1, Layout, Result, Shape, Tensor, WithDType, backend::BackendStorage, bail,
};
use rayon::prelude::*;

/// `max(x, 0)` elementwise, any shape. The derivative at 0 is 0 (candle's own `relu` has 1 there);
/// NaN stays NaN.
pub fn relu(x: &Tensor) -> Result<Tensor> {
    on_cuda!(x => crate::cuda::relu(x));
    x.contiguous()?.apply_op1(Relu)
}

/// MaxMin (GroupSort of two): `cat(max(a, b), min(a, b))` along dimension 1, where `a` and `b` are
/// the first and second half of the channels of `x: [batch, channels]` or
/// `[batch, channels, h, w]`.
///
/// It permutes pairs, so it is 1-Lipschitz and keeps the gradient's norm. Where `a > b` the
/// gradient of the maximum goes to `a` and that of the minimum to `b`; on a tie each half gets the
/// mean of the two, as with `torch.maximum` and `torch.minimum`. NaN in either half makes both
/// results NaN.
///
/// # Errors
/// The rank is neither 2 nor 4, or the number of channels is odd.
pub fn max_min(x: &Tensor) -> Result<Tensor> {
    if !matches!(x.rank(), 2 | 4) || x.dim(1)? % 2 != 0 {
        bail!(
            "max_min: expected [batch, channels] or [batch, channels, h, w] with an even number of channels, got {:?}",
            x.dims()
        )
    }
    on_cuda!(x => crate::cuda::max_min(x));
    x.contiguous()?.apply_op1(MaxMin)
}

struct Relu;

impl CustomOp1 for Relu {
    fn name(&self) -> &'static str {
        "relu"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        dispatch!("relu", x.dtype(), T => {
            let x = elements::<T>(x, layout)?;
            Ok((T::to_cpu_storage_owned(map2(x, x, |x, _| positive_part(x))), layout.shape().clone()))
        })
    }

    fn bwd(&self, _x: &Tensor, y: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        gradient_where_positive(y, grad).map(Some)
    }
}

/// `max(x, 0)`, and NaN for NaN.
#[inline(always)]
pub(crate) fn positive_part<T: Real>(x: T) -> T {
    if x <= T::ZERO { T::ZERO } else { x }
}

/// The gradient before a ReLU with result `y`: `grad` where `y > 0` (or NaN), else 0.
pub(crate) fn gradient_where_positive(y: &Tensor, grad: &Tensor) -> Result<Tensor> {
    let grad = grad.contiguous()?;
    let (ys, gs) = (Read::new(y), Read::new(&grad));
    dispatch!("relu", y.dtype(), T => {
        tensor(map2(ys.elements::<T>()?, gs.elements()?, |y, g| if y <= T::ZERO { T::ZERO } else { g }), y)
    })
}

struct MaxMin;

impl CustomOp1 for MaxMin {
    fn name(&self) -> &'static str {
        "max-min"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        dispatch!("max_min", x.dtype(), T => {
            let x = elements::<T>(x, layout)?;
            let y = by_pairs(x, x, layout.dims(), |a, b, _, _| max_and_min(a, b));
            Ok((T::to_cpu_storage_owned(y), layout.shape().clone()))
        })
    }

    fn bwd(&self, x: &Tensor, _y: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let grad = grad.contiguous()?;
        let (xs, gs) = (Read::new(x), Read::new(&grad));
        dispatch!("max_min", x.dtype(), T => {
            tensor(by_pairs(xs.elements::<T>()?, gs.elements()?, x.dims(), gradient_of_pair), x).map(Some)
        })
    }
}

/// NaN in either makes both NaN.
#[inline(always)]
pub(crate) fn max_and_min<T: Real>(a: T, b: T) -> (T, T) {
    if a > b {
        (a, b)
    } else if a <= b {
        (b, a)
    } else {
        (a + b, a + b)
    }
}

/// The gradients of `a` and `b` from those of their maximum and minimum.
#[inline(always)]
pub(crate) fn gradient_of_pair<T: Real>(a: T, b: T, max: T, min: T) -> (T, T) {
    let mean = T::from_f64(0.5) * (max + min);
    if a > b {
        (max, min)
    } else if a < b {
        (min, max)
    } else {
        (mean, mean)
    }
}

/// `(y[i], y[i + half]) = f(x[i], x[i + half], g[i], g[i + half])` for each sample.
fn by_pairs<T: Real>(
    x: &[T],
    g: &[T],
    dims: &[usize],
    f: impl Fn(T, T, T, T) -> (T, T) + Sync,
) -> Vec<T> {
    let sample: usize = dims[1..].iter().product();
    let mut y = vec![T::ZERO; x.len()];
    if y.is_empty() {
        return y;
    }
    let samples = PIECE.div_ceil(sample);
    y.par_chunks_mut(sample * samples)
        .enumerate()
        .for_each(|(i, y)| {
            for (j, y) in y.chunks_mut(sample).enumerate() {
                let at = (i * samples + j) * sample;
                let (x1, x2) = x[at..at + sample].split_at(sample / 2);
                let (g1, g2) = g[at..at + sample].split_at(sample / 2);
                let (y1, y2) = y.split_at_mut(sample / 2);
                for k in 0..sample / 2 {
                    (y1[k], y2[k]) = f(x1[k], x2[k], g1[k], g2[k]);
                }
            }
        });
    y
}
