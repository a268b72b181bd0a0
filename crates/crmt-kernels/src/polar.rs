//! The polar factor of a wide matrix by Newton–Schulz iteration on its small Gram matrix.
//!
//! Knows nothing of the layer that uses it.
use crate::conv::blas::product;
use crate::real::{Read, Real, dispatch, map2, same_kind, tensor};
use candle_core::{
    CpuStorage, CustomOp1, CustomOp2, DType, Layout, Result, Shape, Tensor, WithDType, backend::BackendStorage, bail,
};
use rayon::prelude::*;

/// More steps than any matrix needs that has full rank in its precision.
const MOST_STEPS: usize = 40;
/// Steps of the linear solver: enough in `f32` for a condition number of `G^(1/2)` of about 1000.
const MOST_SOLVER_STEPS: usize = 200;
/// Steps of the estimate of `‖G‖₂`.
const POWER_STEPS: usize = 8;
/// The estimate is a lower bound; iterates may begin anywhere below 3, and best a little above 1.
const START: f64 = 1.4;
/// Columns of a product that one task computes.
const BLOCK: usize = 64;

/// The polar factor `(V Vᵀ)^(−1/2) V` of `v: [r, c]`, `r ≤ c`: the nearest matrix with orthonormal rows.
///
/// Coupled Newton–Schulz: with `G = V Vᵀ`, `Y₀ = G / s`, `Z₀ = I`, repeat `T = 1.5·I − 0.5·Z Y`, `Y ← Y T`,
/// `Z ← T Z`; then `Y √s → H = G^(1/2)` and `Z / √s → H⁻¹`, stably, if `‖G‖₂ < 3 s`. So `s` is an estimate of
/// `‖G‖₂` by a few power steps, or, where that proves too small, the lesser of the largest row sum and the
/// Frobenius norm. The number of steps is what the matrix needs: until `‖I − Z Y‖_F` falls to rounding, at most
/// 40. All of it happens on `[r, r]`; one product with `V` remains. Unlike
/// [`orthonormal_rows`](crate::orthonormal_rows) this pays where `r` is large and `c` larger.
///
/// The gradient is that of the polar factor itself: with `D = dL/dX`, `S` the solution of
/// `H S + S H = −H⁻¹ sym(D Vᵀ) H⁻¹` by conjugate gradients, `dL/dV = H⁻¹ D + 2 S V`. A `V` without full row rank
/// has no such factor; measure `‖X Xᵀ − I‖` where that matters.
///
/// # Errors
/// `v` is not a matrix, has more rows than columns, is zero, or is not finite.
pub fn polar_rows(v: &Tensor) -> Result<Tensor> {
    let &[r, c] = v.dims() else { bail!("polar_rows: expected a matrix [rows, columns], got {:?}", v.dims()) };
    if r > c {
        bail!("polar_rows: {r} rows can't be orthonormal in {c} dimensions; pass the transpose for orthonormal columns")
    }
    let fixed = v.detach();
    let roots = Roots::new(&fixed)?;
    let factor = roots.inverse.matmul(&fixed)?;
    match v.track_op() {
        true => v.contiguous()?.apply_op1(Polar { factor, roots }),
        false => Ok(factor),
    }
}

/// `x Wᵀ` for `x: [batch, c]` and the polar factor `W` of `v: [r, c]`: as `x.matmul(&polar_rows(v)?.t()?)`, up to
/// rounding, without ever computing `W`. With `W = H⁻¹ V` it is `(x Vᵀ) H⁻¹`, and the same regrouping saves
/// two of the gradient's large products. It pays where the batch is not larger than `r`.
///
/// # Errors
/// As [`polar_rows`], or `x` does not fit.
pub fn polar_linear(x: &Tensor, v: &Tensor) -> Result<Tensor> {
    let (&[_, c], &[r, columns]) = (x.dims(), v.dims()) else {
        bail!(
            "polar_linear: expected matrices [batch, columns] and [rows, columns], got {:?} and {:?}",
            x.dims(),
            v.dims()
        )
    };
    if r > columns || c != columns {
        bail!("polar_linear: {:?} needs a matrix [rows, {c}] with at most {c} rows, got {:?}", x.dims(), v.dims())
    }
    same_kind("polar_linear", &[("x", x), ("the matrix", v)])?;
    let fixed = v.detach();
    let roots = Roots::new(&fixed)?;
    let inner = x.detach().matmul(&fixed.t()?)?;
    let y = inner.matmul(&roots.inverse)?;
    x.contiguous()?.apply_op2(&v.contiguous()?, PolarLinear { y, inner, roots })
}

/// `G^(1/2)` and `G^(−1/2)`, `[r, r]`.
struct Roots {
    root: Tensor,
    inverse: Tensor,
}

impl Roots {
    fn new(v: &Tensor) -> Result<Self> {
        let gram = v.matmul(&v.t()?)?.contiguous()?;
        let gs = Read::new(&gram);
        dispatch!("polar_rows", gram.dtype(), T => {
            let [root, inverse] = square_roots(v.dim(0)?, gs.elements::<T>()?)?;
            Ok(Self { root: tensor(root, &gram)?, inverse: tensor(inverse, &gram)? })
        })
    }

    /// `2 S` for `outer = D Vᵀ`.
    fn solve<T: Real>(&self, outer: &Tensor) -> Result<Vec<T>> {
        let (n, outer) = (outer.dim(0)?, outer.contiguous()?);
        let (os, rs, is) = (Read::new(&outer), Read::new(&self.root), Read::new(&self.inverse));
        let (outer, root, inverse) = (os.elements::<T>()?, rs.elements::<T>()?, is.elements::<T>()?);
        let half = T::from_f64(0.5);
        // Exactly symmetric on either side of the products: the solver can't reduce anything else.
        let symmetric = |m: &[T]| (0..n * n).map(|k| half * (m[k] + m[k % n * n + k / n])).collect::<Vec<T>>();
        let right = symmetric(&products(n, &products(n, inverse, &symmetric(outer)), inverse));
        let mut solution = lyapunov(n, root, &right);
        solution.iter_mut().for_each(|s| *s *= T::from_f64(-2.));
        Ok(solution)
    }
}

/// Hands out what was computed before, and knows its gradient.
struct Polar {
    /// `[r, c]`.
    factor: Tensor,
    roots: Roots,
}

impl CustomOp1 for Polar {
    fn name(&self) -> &'static str {
        "polar-rows"
    }

    fn cpu_fwd(&self, v: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let factor = Read::new(&self.factor);
        dispatch!("polar_rows", v.dtype(), T => {
            Ok((T::to_cpu_storage_owned(factor.elements::<T>()?.to_vec()), layout.shape().clone()))
        })
    }

    fn bwd(&self, v: &Tensor, _x: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let (v, grad) = (v.detach(), grad.contiguous()?.detach());
        let outer = grad.matmul(&v.t()?)?;
        let direct = self.roots.inverse.matmul(&grad)?;
        dispatch!("polar_rows", v.dtype(), T => {
            sum(&direct, &tensor(self.roots.solve::<T>(&outer)?, &outer)?.matmul(&v)?).map(Some)
        })
    }
}

/// [`Polar`] and the product with it.
struct PolarLinear {
    /// `[batch, r]`: the result, and before its product with `H⁻¹`.
    y: Tensor,
    inner: Tensor,
    roots: Roots,
}

impl CustomOp2 for PolarLinear {
    fn name(&self) -> &'static str {
        "polar-linear"
    }

    fn cpu_fwd(&self, x: &CpuStorage, _: &Layout, _: &CpuStorage, _: &Layout) -> Result<(CpuStorage, Shape)> {
        let y = Read::new(&self.y);
        dispatch!("polar_linear", x.dtype(), T => {
            Ok((T::to_cpu_storage_owned(y.elements::<T>()?.to_vec()), self.y.shape().clone()))
        })
    }

    /// With `D = dyᵀ x`: `D Vᵀ = dyᵀ (x Vᵀ)` and `H⁻¹ D = (dy H⁻¹)ᵀ x`.
    fn bwd(&self, x: &Tensor, v: &Tensor, _y: &Tensor, grad: &Tensor) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let wanted = [x, v].map(Tensor::track_op);
        let (x, v, grad) = (x.detach(), v.detach(), grad.contiguous()?.detach());
        let inner = grad.matmul(&self.roots.inverse)?;
        let dx = wanted[0].then(|| inner.matmul(&v)).transpose()?;
        if !wanted[1] {
            return Ok((dx, None));
        }
        let direct = inner.t()?.matmul(&x)?;
        let outer = grad.t()?.matmul(&self.inner)?;
        dispatch!("polar_linear", v.dtype(), T => {
            Ok((dx, Some(sum(&direct, &tensor(self.roots.solve::<T>(&outer)?, &outer)?.matmul(&v)?)?)))
        })
    }
}

fn sum(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    let (xs, ys) = (Read::new(a), Read::new(b));
    dispatch!("polar_rows", a.dtype(), T => tensor(map2(xs.elements::<T>()?, ys.elements::<T>()?, |a, b| a + b), a))
}

/// `G^(1/2)` and `G^(−1/2)` of a symmetric positive definite matrix.
fn square_roots<T: Real>(n: usize, gram: &[T]) -> Result<[Vec<T>; 2]> {
    let frobenius = gram.iter().map(|v| v.to_f64().powi(2)).sum::<f64>().sqrt();
    let rows = gram.chunks(n.max(1)).map(|row| row.iter().map(|v| v.to_f64().abs()).sum::<f64>());
    let bound = frobenius.min(rows.fold(0., f64::max));
    if !(bound > 0. && frobenius.is_finite()) {
        bail!("polar_rows: the Gram matrix of {n} rows has norm {frobenius}; it must be finite and not zero")
    }
    let estimate = power(n, gram) / START;
    match newton_schulz(n, gram, estimate.min(bound)) {
        Some(roots) => Ok(roots),
        // With a true bound the iteration can't leave its domain.
        None => newton_schulz(n, gram, bound)
            .ok_or_else(|| candle_core::Error::Msg("polar_rows: the iteration overflowed".into())),
    }
}

/// A lower bound of `‖G‖₂`, close as a rule.
fn power<T: Real>(n: usize, gram: &[T]) -> f64 {
    let mut x: Vec<f64> = (0..n).map(|i| 1. + (i % 7) as f64 / 7. - 2. * (i % 2) as f64).collect();
    let mut size = 0.;
    for _ in 0..POWER_STEPS {
        let norm = x.iter().map(|x| x * x).sum::<f64>().sqrt();
        let row = |row: &[T]| row.iter().zip(&x).map(|(g, x)| g.to_f64() * x / norm).sum::<f64>();
        x = gram.chunks(n).map(row).collect();
        size = x.iter().map(|x| x * x).sum::<f64>().sqrt();
        if size == 0. {
            break;
        }
    }
    size
}

/// `None` if the iteration left its domain, because `‖G‖₂ ≥ 3·scale`.
fn newton_schulz<T: Real>(n: usize, gram: &[T], scale: f64) -> Option<[Vec<T>; 2]> {
    if scale <= 0. {
        return None;
    }
    // A step squares the error: from here one more step brings it to rounding.
    let nearly = if T::DTYPE == DType::F64 { 1e-8 } else { 3e-4 };
    let mut y: Vec<T> = gram.iter().map(|&v| T::from_f64(v.to_f64() / scale)).collect();
    let mut z = Vec::new();
    for step in 0..MOST_STEPS {
        let mut t = if step == 0 { y.clone() } else { products(n, &z, &y) };
        let error = complement(n, &mut t);
        // Inside the domain every eigenvalue of Z Y lies in [0, 3], hence within 2 of 1.
        if error.is_nan() || error > 2.01 * (n as f64).sqrt() {
            return None;
        }
        y = products(n, &y, &t);
        z = if step == 0 { t } else { products(n, &t, &z) };
        if error < nearly {
            break;
        }
    }
    let root = scale.sqrt();
    y.iter_mut().for_each(|y| *y *= T::from_f64(root));
    z.iter_mut().for_each(|z| *z *= T::from_f64(root.recip()));
    Some([y, z])
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

/// The symmetric `S` with `H S + S H = R`, by conjugate gradients: `H` is positive definite, `R` symmetric.
fn lyapunov<T: Real>(n: usize, h: &[T], right: &[T]) -> Vec<T> {
    let dot = |a: &[T], b: &[T]| crate::real::sum_by(a, b, |a, b| [a * b])[0];
    let mut solution = vec![T::ZERO; n * n];
    let mut residual = right.to_vec();
    let mut direction = right.to_vec();
    let mut size = dot(&residual, &residual);
    let enough = size * if T::DTYPE == DType::F64 { 1e-28 } else { 1e-12 };
    for _ in 0..MOST_SOLVER_STEPS {
        if size <= enough || !size.is_finite() {
            break;
        }
        let half = products(n, h, &direction);
        let image: Vec<T> = (0..n * n).map(|k| half[k] + half[k % n * n + k / n]).collect();
        let step = size / dot(&direction, &image);
        let (step, back) = (T::from_f64(step), T::from_f64(-step));
        solution.iter_mut().zip(&direction).for_each(|(s, d)| *s += step * *d);
        residual.iter_mut().zip(&image).for_each(|(r, i)| *r += back * *i);
        let next = dot(&residual, &residual);
        let keep = T::from_f64(next / size);
        direction.iter_mut().zip(&residual).for_each(|(d, r)| *d = *r + keep * *d);
        size = next;
    }
    solution
}

/// `A B` of row-major `[n, n]` matrices.
fn products<T: Real>(n: usize, a: &[T], b: &[T]) -> Vec<T> {
    let mut out = vec![T::ZERO; n * n];
    // Row-major (A B) is column-major Bᵀ Aᵀ.
    out.par_chunks_mut(BLOCK * n).enumerate().for_each(|(block, out)| {
        product([n, out.len() / n, n], out, n, false, b, n, &a[block * BLOCK * n..], [1, n]);
    });
    out
}
