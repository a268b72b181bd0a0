//! The polar factor of a wide matrix by Newton–Schulz iteration on its small Gram matrix.
//!
//! Knows nothing of the layer that uses it.
use crate::conv::blas::product;
use crate::real::{Read, Real, dispatch, elements, tensor};
use candle_core::{
    CpuStorage, CustomOp1, DType, Layout, Result, Shape, Tensor, WithDType, backend::BackendStorage, bail,
};
use rayon::prelude::*;
use std::sync::OnceLock;

/// More steps than any matrix needs that has full rank in its precision.
const MOST_STEPS: usize = 40;

/// Columns of a product that one task computes.
const BLOCK: usize = 64;

/// The polar factor `(V Vᵀ)^(−1/2) V` of `v: [r, c]`, `r ≤ c`: the nearest matrix with orthonormal rows.
///
/// Coupled Newton–Schulz: with `G = V Vᵀ`, `Y₀ = G / s`, `Z₀ = I`, where `s ≥ ‖G‖₂` is the lesser of the
/// largest row sum and the Frobenius norm, repeat `T = 1.5·I − 0.5·Z Y`, `Y ← Y T`, `Z ← T Z`; then
/// `Z / √s → G^(−1/2)`, stably. The number of steps is what the matrix needs: until `‖I − Z Y‖_F` falls to
/// rounding, at most 40. All of it happens on `[r, r]`; one product with `V` remains. Unlike
/// [`orthonormal_rows`](crate::orthonormal_rows) this pays where `r` is large and `c` larger.
///
/// The gradient is the derivative of the inverse square root, which is its own adjoint on symmetric
/// matrices, by differentiating the steps taken. A `V` without full row rank has no such factor; measure
/// `‖X Xᵀ − I‖` where that matters.
///
/// # Errors
/// `v` is not a matrix, has more rows than columns, is zero, or is not finite.
pub fn polar_rows(v: &Tensor) -> Result<Tensor> {
    let &[r, c] = v.dims() else { bail!("polar_rows: expected a matrix [rows, columns], got {:?}", v.dims()) };
    if r > c {
        bail!("polar_rows: {r} rows can't be orthonormal in {c} dimensions; pass the transpose for orthonormal columns")
    }
    v.matmul(&v.t()?)?.contiguous()?.apply_op1(InverseSqrt::default())?.matmul(v)
}

/// `G^(−1/2)` of a symmetric positive matrix.
#[derive(Default)]
struct InverseSqrt {
    /// What the backward pass needs: the scale, and `Y`, `Z`, `T` of each step.
    steps: OnceLock<(f64, Vec<[CpuStorage; 3]>)>,
}

impl InverseSqrt {
    fn iterate<T: Real>(&self, n: usize, gram: &[T]) -> Result<Vec<T>> {
        let rows = gram.chunks(n.max(1)).map(|row| row.iter().map(|v| v.to_f64().abs()).sum::<f64>());
        let frobenius = gram.iter().map(|v| v.to_f64().powi(2)).sum::<f64>().sqrt();
        let scale = frobenius.min(rows.fold(0., f64::max));
        if !(scale > 0. && frobenius.is_finite()) {
            bail!("polar_rows: the Gram matrix of {n} rows has norm {frobenius}; it must be finite and not zero")
        }
        // A step squares the error: from here one more step brings it to rounding.
        let nearly = if T::DTYPE == DType::F64 { 1e-8 } else { 3e-4 };
        let mut y: Vec<T> = gram.iter().map(|&v| T::from_f64(v.to_f64() / scale)).collect();
        let mut z = identity::<T>(n);
        let mut steps = Vec::new();
        for step in 0..MOST_STEPS {
            let mut t = if step == 0 { y.clone() } else { sum_of_products(n, [(&z, &y)]) };
            let error = complement(n, &mut t);
            let next = if step == 0 { t.clone() } else { sum_of_products(n, [(&t, &z)]) };
            let last = error < nearly || step + 1 == MOST_STEPS;
            let next_y = if last { Vec::new() } else { sum_of_products(n, [(&y, &t)]) };
            let done = (std::mem::replace(&mut y, next_y), std::mem::replace(&mut z, next));
            steps.push([done.0, done.1, t].map(T::to_cpu_storage_owned));
            if last {
                break;
            }
        }
        let _first = self.steps.set((scale, steps));
        let factor = T::from_f64(scale.sqrt().recip());
        z.iter_mut().for_each(|z| *z = *z * factor);
        Ok(z)
    }
}

impl CustomOp1 for InverseSqrt {
    fn name(&self) -> &'static str {
        "inverse-sqrt"
    }

    fn cpu_fwd(&self, gram: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (n, _) = layout.shape().dims2()?;
        dispatch!("polar_rows", gram.dtype(), T => {
            Ok((T::to_cpu_storage_owned(self.iterate(n, elements::<T>(gram, layout)?)?), layout.shape().clone()))
        })
    }

    /// The derivative of the iteration in the direction of the symmetric part of `grad`. Every iterate is
    /// a polynomial of the Gram matrix, so this equals the adjoint.
    fn bwd(&self, gram: &Tensor, _y: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let n = gram.dim(0)?;
        let grad = grad.contiguous()?;
        let gs = Read::new(&grad);
        let Some((scale, steps)) = self.steps.get() else {
            bail!("polar_rows: a backward pass before the forward pass")
        };
        dispatch!("polar_rows", gram.dtype(), T => {
            let gs = gs.elements::<T>()?;
            let factor = 0.5 / scale;
            let at = |i: usize, j: usize| gs[i * n + j].to_f64();
            let mut dy: Vec<T> = (0..n * n).map(|k| T::from_f64(factor * (at(k / n, k % n) + at(k % n, k / n)))).collect();
            let mut dz = Vec::new();
            for (i, step) in steps.iter().enumerate() {
                let [y, z, t] = [&step[0], &step[1], &step[2]].map(T::cpu_storage_as_slice);
                let (y, z, t) = (y?, z?, t?);
                // Z₀ is constant.
                let mut dt = if i == 0 { dy.clone() } else { sum_of_products(n, [(&dz, y), (z, &dy)]) };
                dt.iter_mut().for_each(|d| *d = T::from_f64(-0.5) * *d);
                let last = i + 1 == steps.len();
                let next_dy = if last { Vec::new() } else { sum_of_products(n, [(&dy, t), (y, &dt)]) };
                dz = if i == 0 { dt } else { sum_of_products(n, [(&dt, z), (t, &dz)]) };
                dy = next_dy;
            }
            let factor = T::from_f64(scale.sqrt().recip());
            dz.iter_mut().for_each(|d| *d = *d * factor);
            tensor(dz, gram).map(Some)
        })
    }
}

fn identity<T: Real>(n: usize) -> Vec<T> {
    (0..n * n).map(|k| if k / n == k % n { T::from_f64(1.) } else { T::ZERO }).collect()
}

/// `m ← 1.5·I − 0.5·m`; the result is `‖I − m‖_F`.
fn complement<T: Real>(n: usize, m: &mut [T]) -> f64 {
    let mut error = 0.;
    for (i, row) in m.chunks_mut(n).enumerate() {
        for (j, v) in row.iter_mut().enumerate() {
            let one = if i == j { 1. } else { 0. };
            error += (one - v.to_f64()).powi(2);
            *v = T::from_f64(1.5 * one - 0.5 * v.to_f64());
        }
    }
    error.sqrt()
}

/// `Σ A·B` of symmetric `[n, n]` matrices; the sum is symmetric too, so the order of storage is no matter.
fn sum_of_products<T: Real, const N: usize>(n: usize, pairs: [(&[T], &[T]); N]) -> Vec<T> {
    let mut sum = vec![T::ZERO; n * n];
    sum.par_chunks_mut(BLOCK * n).enumerate().for_each(|(block, sum)| {
        for (i, (a, b)) in pairs.iter().enumerate() {
            product([n, sum.len() / n, n], sum, n, i > 0, a, n, &b[block * BLOCK * n..], [1, n]);
        }
    });
    sum
}
