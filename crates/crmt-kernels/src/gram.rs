//! Row sums of absolute Gram kernels: what makes a convolution 1-Lipschitz by division.
//!
//! Knows the operators on the whole plane (no border), and nothing of the layers that use the sums.
use crate::conv::conv2d;
use crate::real::{PIECE, Read, Real, dispatch, elements, sum_by, tensor};
use crate::rearrange::zero_pad2d;
use candle_core::{
    CpuStorage, CustomOp1, D, Layout, Result, Shape, Tensor, WithDType, backend::BackendStorage,
    bail,
};
use rayon::prelude::*;

/// For the convolution `W` with `kernel: [out, in, kh, kw]` and `G = WᵀW`, a bound `R²: [in]` with
/// `‖W R⁻¹‖₂ ≤ 1` for any zero padding and stride: `R²_i = (Σ_{j,p,q} |G^p_{ij}[p, q]|)^(1/p)`,
/// `p = 2^(t−1)`.
///
/// `t = 1` is AOL (Prach and Lampert, 2022); each further squaring tightens the bound. Because
/// `G^p ≤ diag(row sums)` by diagonal dominance, and the `p`-th root is operator monotone. Padding
/// with zeros only compresses `W`. Differentiable.
///
/// # Errors
/// `kernel` is not of rank 4 or empty, or `t` is 0.
pub fn gram_abs_rowsum(kernel: &Tensor, t: usize) -> Result<Tensor> {
    if t == 0 || t > 16 {
        bail!("gram_abs_rowsum: t = {t}; it must be between 1 and 16")
    }
    let mut gram = autocorrelation(&kernel.transpose(0, 1)?)?;
    for _ in 1..t {
        gram = autocorrelation(&gram.transpose(0, 1)?)?;
    }
    let sums = abs_sums(&gram, 1)?;
    if t == 1 {
        Ok(sums)
    } else {
        sums.powf(0.5f64.powi(t as i32 - 1))
    }
}

/// For `C` the convolution with `kernel: [hidden, in, kh, kw]` and positive `q: [hidden]`, the
/// scale `T_i = Σ_j |C Cᵀ|_ij q_j / q_i` of SLL layers (Araujo et al., 2023), `[hidden]`:
/// `x − 2 Cᵀ T⁻¹ relu(C x + b)` is 1-Lipschitz, because `‖T^(−1/2) C‖₂ ≤ 1`. Differentiable.
///
/// # Errors
/// Shapes that do not fit.
pub fn residual_scale(kernel: &Tensor, q: &Tensor) -> Result<Tensor> {
    let sums = gram_abs(kernel)?
        .matmul(&q.unsqueeze(D::Minus1)?)?
        .squeeze(D::Minus1)?;
    sums / q
}

/// `|C Cᵀ|_ij = Σ_{p,q} |Σ_c kernel[i, c] ⋆ kernel[j, c]|[p, q]`, `[out, out]`, on the whole plane.
///
/// # Errors
/// `kernel` is not of rank 4 or is empty.
pub fn gram_abs(kernel: &Tensor) -> Result<Tensor> {
    abs_sums(&autocorrelation(kernel)?, 2)
}

/// `[n, c, kh, kw]` → `[n, n, 2·kh − 1, 2·kw − 1]`: the correlation of each filter with each other.
fn autocorrelation(kernel: &Tensor) -> Result<Tensor> {
    let &[_, _, kh, kw] = kernel.dims() else {
        bail!(
            "a Gram kernel needs a kernel [out, in, kh, kw], got {:?}",
            kernel.dims()
        )
    };
    if kernel.elem_count() == 0 {
        bail!(
            "a Gram kernel needs a kernel with elements, got {:?}",
            kernel.dims()
        )
    }
    let kernel = kernel.contiguous()?;
    if kh == kw {
        return conv2d(&kernel, &kernel, None, 1, kh - 1);
    }
    conv2d(
        &zero_pad2d(&kernel, [kh - 1, kh - 1, kw - 1, kw - 1])?,
        &kernel,
        None,
        1,
        0,
    )
}

/// `Σ |x|` over all but the first `keep` dimensions. The derivative of `|x|` at 0 is 0.
fn abs_sums(x: &Tensor, keep: usize) -> Result<Tensor> {
    on_cuda!(x => crate::cuda::abs_sums(x, keep));
    x.contiguous()?.apply_op1(AbsSums { keep })
}

struct AbsSums {
    keep: usize,
}

impl CustomOp1 for AbsSums {
    fn name(&self) -> &'static str {
        "abs-sums"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (kept, summed) = layout.dims().split_at(self.keep);
        let (kept, row): (Shape, usize) = (kept.into(), summed.iter().product());
        dispatch!("abs_sums", x.dtype(), T => {
            let x = elements::<T>(x, layout)?;
            let sum = |row: &[T]| T::from_f64(sum_by(row, row, |x, _| [x.abs()])[0]);
            let sums: Vec<T> = x.par_chunks(row).with_min_len(PIECE.div_ceil(row)).map(sum).collect();
            Ok((T::to_cpu_storage_owned(sums), kept))
        })
    }

    fn bwd(&self, x: &Tensor, _y: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let grad = grad.contiguous()?;
        let (xs, gs) = (Read::new(x), Read::new(&grad));
        let row: usize = x.dims()[self.keep..].iter().product();
        dispatch!("abs_sums", x.dtype(), T => {
            let (xs, gs) = (xs.elements::<T>()?, gs.elements::<T>()?);
            let mut dx = vec![T::ZERO; xs.len()];
            let rows = dx.par_chunks_mut(row).zip(xs.par_chunks(row)).zip(gs).with_min_len(PIECE.div_ceil(row));
            rows.for_each(|((dx, x), &g)| {
                for (dx, &x) in dx.iter_mut().zip(x) {
                    *dx = if x > T::ZERO { g } else if x < T::ZERO { T::ZERO - g } else { T::ZERO };
                }
            });
            tensor(dx, x).map(Some)
        })
    }
}
