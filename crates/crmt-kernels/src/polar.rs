//! The polar factor of a wide matrix by Newton–Schulz iteration on its small Gram matrix.
//!
//! Knows nothing of the layer that uses it.
use crate::conv::blas::product;
use crate::conv::layout::transpose;
use crate::real::{PIECE, Read, Real, dispatch, same_kind, sum_by, tensor};
use candle_core::{
    CpuStorage, CustomOp1, CustomOp2, DType, Layout, Result, Shape, Tensor, WithDType,
    backend::BackendStorage, bail,
};
use rayon::prelude::*;
use std::collections::VecDeque;

/// More steps than any matrix needs that has full rank in its precision.
const MOST_STEPS: usize = 40;
/// Steps of the linear solver: enough in `f32` for a condition number of `G^(1/2)` of about 1000.
const MOST_SOLVER_STEPS: usize = 200;
/// Steps of the estimate of the smallest eigenvalue.
const POWER_STEPS: usize = 8;
/// The smallest `x` to begin with. It leaves `1 + x + x²` of room for the rounding of the bound of
/// `‖G‖₂`.
const SMALLEST: f64 = 1e-3;
/// Rows of a product that one task computes.
const BLOCK: usize = 64;
/// Rows of a block of a symmetric product; one task computes a long and a short one.
const SYMMETRIC_BLOCK: usize = 32;
/// Side of the blocks in which a matrix is transposed in place.
const SQUARE: usize = 16;

/// The polar factor `(V Vᵀ)^(−1/2) V` of `v: [r, c]`, `r ≤ c`: the nearest matrix with orthonormal
/// rows.
///
/// Coupled Newton–Schulz: with `G = V Vᵀ` and `s = ‖G²‖_F^(1/2) ≥ ‖G‖₂`, `Y₀ = G / s`, `Z₀ = I`,
/// repeat `T = ½ρ(3·I − ρ²·Z Y)`, `Y ← Y T`, `Z ← T Z`; then `Y √s → H = G^(1/2)` and
/// `Z / √s → H⁻¹`, stably. The scale `ρ² = 3 / (1 + x + x²)` is the best for eigenvalues of `Z Y`
/// between `x²` and 1 (Chen and Chow, 2014): small ones grow up to 6.75 times a step, and
/// `x ← ½ρx(3 − ρ²x²)` tends to 1. It begins with an estimate by a few power steps, of which only
/// the speed depends. The number of steps is what the matrix needs: until `‖I − Z Y‖_F` falls to
/// rounding, at most 40. All of it happens on `[r, r]`; one product with `V` remains. Unlike
/// [`orthonormal_rows`](crate::orthonormal_rows) this pays where `r` is large and `c` larger.
///
/// The gradient is that of the polar factor itself: with `D = dL/dX`, `S` the solution of
/// `H S + S H = −H⁻¹ sym(D Vᵀ) H⁻¹` by conjugate gradients, `dL/dV = H⁻¹ D + 2 S V`. A `V` without
/// full row rank has no such factor; measure `‖X Xᵀ − I‖` where that matters.
///
/// # Errors
/// `v` is not a matrix, has more rows than columns, is zero, or is not finite.
pub fn polar_rows(v: &Tensor) -> Result<Tensor> {
    let &[r, c] = v.dims() else {
        bail!(
            "polar_rows: expected a matrix [rows, columns], got {:?}",
            v.dims()
        )
    };
    if r > c {
        bail!(
            "polar_rows: {r} rows can't be orthonormal in {c} dimensions; pass the transpose for orthonormal columns"
        )
    }
    on_cuda!(v => crate::cuda::polar_rows(v));
    let v = v.contiguous()?;
    let fixed = v.detach();
    let vs = Read::new(&fixed);
    let (factor, roots) = dispatch!("polar_rows", v.dtype(), T => {
        let elements = vs.elements::<T>()?;
        let columns = transposed([r, c], elements);
        let [root, inverse] = pooled(|| square_roots(r, &symmetric(r, c, elements, &columns)))?;
        let factor = sum_of_products([r, c], &[Product { depth: r, a: &inverse, strides: [r, 1], b: elements }]);
        (tensor(factor, &fixed)?, Roots::new(r, root, inverse)?)
    });
    match v.track_op() {
        true => v.apply_op1(Polar { factor, roots }),
        false => Ok(factor),
    }
}

/// `x Wᵀ` for `x: [batch, c]` and the polar factor `W` of `v: [r, c]`: as
/// `x.matmul(&polar_rows(v)?.t()?)`, up to rounding, without ever computing `W`. With `W = H⁻¹ V`
/// it is `(x Vᵀ) H⁻¹`, and the same regrouping saves two of the gradient's large products. It pays
/// where the batch is not larger than `r`.
///
/// # Errors
/// As [`polar_rows`], or `x` does not fit.
pub fn polar_linear(x: &Tensor, v: &Tensor) -> Result<Tensor> {
    let (&[batch, c], &[r, columns]) = (x.dims(), v.dims()) else {
        bail!(
            "polar_linear: expected matrices [batch, columns] and [rows, columns], got {:?} and {:?}",
            x.dims(),
            v.dims()
        )
    };
    if r > columns || c != columns {
        bail!(
            "polar_linear: {:?} needs a matrix [rows, {c}] with at most {c} rows, got {:?}",
            x.dims(),
            v.dims()
        )
    }
    same_kind("polar_linear", &[("x", x), ("the matrix", v)])?;
    on_cuda!(x => crate::cuda::polar_linear(x, v));
    let (x, v) = (x.contiguous()?, v.contiguous()?);
    let op = {
        let (xs, vs) = (Read::new(&x), Read::new(&v));
        dispatch!("polar_linear", x.dtype(), T => {
            let (x, v) = (xs.elements::<T>()?, vs.elements::<T>()?);
            let columns = transposed([r, c], v);
            let [root, inverse] = pooled(|| square_roots(r, &symmetric(r, c, v, &columns)))?;
            let inner = sum_of_products([batch, r], &[Product { depth: c, a: x, strides: [c, 1], b: &columns }]);
            let y = sum_of_products([batch, r], &[Product { depth: r, a: &inner, strides: [r, 1], b: &inverse }]);
            let of_batch = |data: Vec<T>| Tensor::from_vec(data, (batch, r), &candle_core::Device::Cpu);
            PolarLinear { y: of_batch(y)?, inner: of_batch(inner)?, roots: Roots::new(r, root, inverse)? }
        })
    };
    x.apply_op2(&v, op)
}

/// `G^(1/2)` and `G^(−1/2)`, `[r, r]`.
struct Roots {
    root: Tensor,
    inverse: Tensor,
}

impl Roots {
    fn new<T: Real>(r: usize, root: Vec<T>, inverse: Vec<T>) -> Result<Self> {
        let square = |data: Vec<T>| Tensor::from_vec(data, (r, r), &candle_core::Device::Cpu);
        Ok(Self {
            root: square(root)?,
            inverse: square(inverse)?,
        })
    }

    /// `2 S` for `outer = D Vᵀ`.
    fn solve<T: Real>(&self, mut outer: Vec<T>) -> Result<Vec<T>> {
        let n = self.root.dim(0)?;
        let (rs, is) = (Read::new(&self.root), Read::new(&self.inverse));
        let (root, inverse) = (rs.elements::<T>()?, is.elements::<T>()?);
        Ok(pooled(|| {
            // Twice sym(D Vᵀ), exactly symmetric on either side of the products: the solver can't
            // reduce anything else.
            add_transpose(n, &mut outer);
            let right = symmetric(n, n, &products(n, inverse, &outer), inverse);
            scaled(&lyapunov(n, root, &right), -1.)
        }))
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
        let (r, c) = v.dims2()?;
        let grad = grad.contiguous()?;
        let (vs, gs, is) = (
            Read::new(v),
            Read::new(&grad),
            Read::new(&self.roots.inverse),
        );
        dispatch!("polar_rows", v.dtype(), T => {
            let (vs, gs) = (vs.elements::<T>()?, gs.elements::<T>()?);
            let rows = |a, b, depth| Product { depth, a, strides: [depth, 1], b };
            let columns = transposed([r, c], vs);
            let outer = sum_of_products([r, r], &[rows(gs, &columns, c)]);
            let twice = self.roots.solve(outer)?;
            tensor(sum_of_products([r, c], &[rows(is.elements::<T>()?, gs, r), rows(&twice, vs, r)]), v).map(Some)
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

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        _: &Layout,
        _: &CpuStorage,
        _: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let y = Read::new(&self.y);
        dispatch!("polar_linear", x.dtype(), T => {
            Ok((T::to_cpu_storage_owned(y.elements::<T>()?.to_vec()), self.y.shape().clone()))
        })
    }

    /// With `D = dyᵀ x`: `D Vᵀ = dyᵀ (x Vᵀ)` and `H⁻¹ D = (dy H⁻¹)ᵀ x`.
    fn bwd(
        &self,
        x: &Tensor,
        v: &Tensor,
        _y: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let ((batch, c), r) = (x.dims2()?, v.dim(0)?);
        let grad = grad.contiguous()?;
        let [xs, vs, gs, is, ns] = [x, v, &grad, &self.roots.inverse, &self.inner].map(Read::new);
        dispatch!("polar_linear", v.dtype(), T => {
            let (xs, vs, gs) = (xs.elements::<T>()?, vs.elements::<T>()?, gs.elements::<T>()?);
            let rows = |a, b| Product { depth: r, a, strides: [r, 1], b };
            let columns = |a, b| Product { depth: batch, a, strides: [1, r], b };
            let inner = sum_of_products([batch, r], &[rows(gs, is.elements::<T>()?)]);
            let dx = x.track_op().then(|| tensor(sum_of_products([batch, c], &[rows(&inner, vs)]), x)).transpose()?;
            if !v.track_op() {
                return Ok((dx, None));
            }
            let twice = self.roots.solve(sum_of_products([r, r], &[columns(gs, ns.elements::<T>()?)]))?;
            Ok((dx, Some(tensor(sum_of_products([r, c], &[columns(&inner, xs), rows(&twice, vs)]), v)?)))
        })
    }
}

/// `f` in a thread of the pool: elsewhere each of its many short parallel loops would be handed
/// over and waited for.
fn pooled<R: Send>(f: impl FnOnce() -> R + Send) -> R {
    rayon::scope(|_| f())
}

/// `G^(1/2)` and `G^(−1/2)` of a symmetric positive definite matrix.
fn square_roots<T: Real>(n: usize, gram: &[T]) -> Result<[Vec<T>; 2]> {
    let norm = frobenius(gram);
    if !(norm > 0. && norm.is_finite()) {
        bail!(
            "polar_rows: the Gram matrix of {n} rows has norm {norm}; it must be finite and not zero"
        )
    }
    // Divided twice, so that no square overflows.
    let mut y = scaled(gram, 1. / norm);
    let mut square = symmetric(n, n, &y, &y);
    let bound = frobenius(&square).sqrt();
    y = scaled(&y, 1. / bound);
    square = scaled(&square, 1. / (bound * bound));
    let mut x = (0.5 * smallest(n, &y)).sqrt().clamp(SMALLEST, 1.);
    // A step squares the error: from here one more step brings it to rounding.
    let nearly = if T::DTYPE == DType::F64 { 1e-8 } else { 3e-4 };
    // The first step: Z Y = Y.
    let [constant, slope] = step(&mut x);
    let mut z = y.clone();
    complement(n, [constant, slope], &mut z);
    let [constant, slope] = [constant, slope].map(T::from_f64);
    y.iter_mut()
        .zip(&square)
        .for_each(|(y, square)| *y = constant * *y - slope * *square);
    for _ in 1..MOST_STEPS {
        let mut t = products(n, &z, &y);
        let error = distance_from_one(n, &t);
        if error.is_nan() {
            bail!("polar_rows: the iteration overflowed")
        }
        // No eigenvalue is farther from 1.
        x = x.max((1. - error).max(0.).sqrt());
        complement(n, step(&mut x), &mut t);
        // These are symmetric, and computed so; `Z Y` is not quite, which is what keeps Y and Z
        // together.
        y = symmetric(n, n, &y, &t);
        z = symmetric(n, n, &t, &z);
        if error < nearly {
            break;
        }
    }
    let root = (norm * bound).sqrt();
    Ok([scaled(&y, root), scaled(&z, 1. / root)])
}

/// `[½ρ·3, ½ρ·ρ²]` for eigenvalues of `Z Y` between `x²` and 1; `x` becomes what it is after the
/// step.
fn step(x: &mut f64) -> [f64; 2] {
    let rho = (3. / (1. + *x + *x * *x)).sqrt();
    let [constant, slope] = [1.5 * rho, 0.5 * rho.powi(3)];
    *x = (*x * (constant - slope * *x * *x)).min(1.);
    [constant, slope]
}

/// The smallest eigenvalue of a symmetric matrix with eigenvalues in `[0, 1]`, too large as a rule.
fn smallest<T: Real>(n: usize, y: &[T]) -> f64 {
    let mut x: Vec<f64> = (0..n)
        .map(|i| 1. + (i % 7) as f64 / 7. - 2. * (i % 2) as f64)
        .collect();
    let mut size = 0.;
    for _ in 0..POWER_STEPS {
        let norm = x.iter().map(|x| x * x).sum::<f64>().sqrt();
        if norm == 0. {
            break;
        }
        x.iter_mut().for_each(|x| *x /= norm);
        let narrow: Vec<T> = x.iter().map(|x| T::from_f64(*x)).collect();
        let row = |(row, x): (&[T], &f64)| x - sum_by(row, &narrow, |y, x| [y * x])[0];
        x = y.chunks(n).zip(&x).map(row).collect();
        size = x.iter().map(|x| x * x).sum::<f64>().sqrt();
    }
    1. - size
}

fn frobenius<T: Real>(m: &[T]) -> f64 {
    sum_by(m, m, |a, b| [a * b])[0].sqrt()
}

fn scaled<T: Real>(m: &[T], factor: f64) -> Vec<T> {
    let factor = T::from_f64(factor);
    m.iter().map(|v| factor * *v).collect()
}

/// `‖I − m‖_F`.
fn distance_from_one<T: Real>(n: usize, m: &[T]) -> f64 {
    let row = |(i, row): (usize, &[T])| {
        // Without cancelling: the diagonal apart.
        let rest = sum_by(&row[..i], &row[..i], |a, b| [a * b])[0]
            + sum_by(&row[i + 1..], &row[i + 1..], |a, b| [a * b])[0];
        rest + (1. - row[i].to_f64()).powi(2)
    };
    m.chunks(n).enumerate().map(row).sum::<f64>().sqrt()
}

/// `m ← constant·I − slope·m`.
fn complement<T: Real>(n: usize, [constant, slope]: [f64; 2], m: &mut [T]) {
    let back = T::from_f64(-slope);
    m.iter_mut().for_each(|v| *v *= back);
    m.iter_mut()
        .step_by(n + 1)
        .for_each(|v| *v += T::from_f64(constant));
}

/// The symmetric `S` with `H S + S H = R`, by conjugate gradients: `H` is positive definite, `R`
/// symmetric.
fn lyapunov<T: Real>(n: usize, h: &[T], right: &[T]) -> Vec<T> {
    let dot = |a: &[T], b: &[T]| sum_by(a, b, |a, b| [a * b])[0];
    let mut solution = vec![T::ZERO; n * n];
    let [mut residual, mut direction] = [(); 2].map(|()| right.to_vec());
    let mut size = dot(&residual, &residual);
    let enough = size * if T::DTYPE == DType::F64 { 1e-28 } else { 1e-12 };
    for _ in 0..MOST_SOLVER_STEPS {
        if size <= enough || !size.is_finite() {
            break;
        }
        let mut image = products(n, h, &direction);
        add_transpose(n, &mut image);
        let step = T::from_f64(size / dot(&direction, &image));
        let pieces = solution
            .par_chunks_mut(PIECE)
            .zip(residual.par_chunks_mut(PIECE));
        let pieces = pieces
            .zip(direction.par_chunks(PIECE))
            .zip(image.par_chunks(PIECE));
        let sizes: Vec<f64> = pieces
            .map(|(((solution, residual), direction), image)| {
                solution
                    .iter_mut()
                    .zip(direction)
                    .for_each(|(s, d)| *s += step * *d);
                residual
                    .iter_mut()
                    .zip(image)
                    .for_each(|(r, i)| *r -= step * *i);
                dot(residual, residual)
            })
            .collect();
        let next = sizes.iter().sum::<f64>();
        let keep = T::from_f64(next / size);
        direction
            .iter_mut()
            .zip(&residual)
            .for_each(|(d, r)| *d = *r + keep * *d);
        size = next;
    }
    solution
}

/// `A B`: A with rows and columns `strides` apart, `depth` columns; B row-major.
struct Product<'a, T> {
    depth: usize,
    a: &'a [T],
    strides: [usize; 2],
    b: &'a [T],
}

/// `Σ A B`, row-major.
fn sum_of_products<T: Real>([rows, columns]: [usize; 2], terms: &[Product<T>]) -> Vec<T> {
    let mut out = vec![T::ZERO; rows * columns];
    out.par_chunks_mut((BLOCK * columns).max(1))
        .enumerate()
        .for_each(|(block, out)| {
            for (
                i,
                &Product {
                    depth,
                    a,
                    strides: [row, column],
                    b,
                },
            ) in terms.iter().enumerate()
            {
                // Row-major (A B) is column-major Bᵀ Aᵀ.
                let size = [columns, out.len() / columns, depth];
                product(
                    size,
                    out,
                    columns,
                    i > 0,
                    b,
                    columns,
                    &a[block * BLOCK * row..],
                    [column, row],
                );
            }
        });
    out
}

/// `A B` of row-major `[n, n]` matrices.
fn products<T: Real>(n: usize, a: &[T], b: &[T]) -> Vec<T> {
    sum_of_products(
        [n, n],
        &[Product {
            depth: n,
            a,
            strides: [n, 1],
            b,
        }],
    )
}

/// `A B` of row-major `a: [n, depth]` and `b: [depth, n]` where it is symmetric: half of it is
/// computed.
fn symmetric<T: Real>(n: usize, depth: usize, a: &[T], b: &[T]) -> Vec<T> {
    let mut out = vec![T::ZERO; n * n];
    let mut rest: VecDeque<_> = out.chunks_mut(SYMMETRIC_BLOCK * n).enumerate().collect();
    let mut blocks = Vec::with_capacity(rest.len());
    while let Some(short) = rest.pop_front() {
        blocks.push(short);
        blocks.extend(rest.pop_back());
    }
    blocks
        .par_chunks_mut(2)
        .flat_map_iter(|pair| pair)
        .for_each(|(block, out)| {
            let (rows, first) = (out.len() / n, *block * SYMMETRIC_BLOCK);
            product(
                [first + rows, rows, depth],
                out,
                n,
                false,
                b,
                n,
                &a[first * depth..],
                [1, depth],
            );
        });
    for_each_pair(n, &mut out, |below, above| *above = *below);
    out
}

/// `m ← m + mᵀ`.
fn add_transpose<T: Real>(n: usize, m: &mut [T]) {
    m.iter_mut().step_by(n + 1).for_each(|v| *v += *v);
    for_each_pair(n, m, |below, above| {
        *above += *below;
        *below = *above;
    });
}

/// `f(m[i, j], m[j, i])` for `i > j`, in square blocks.
fn for_each_pair<T>(n: usize, m: &mut [T], mut f: impl FnMut(&mut T, &mut T)) {
    for first in (0..n).step_by(SQUARE) {
        for column in (0..=first).step_by(SQUARE) {
            for i in first..n.min(first + SQUARE) {
                let (above, row) = m.split_at_mut(i * n);
                for j in column..i.min(column + SQUARE) {
                    f(&mut row[j], &mut above[j * n + i]);
                }
            }
        }
    }
}

/// `[r, c]` to `[c, r]`.
fn transposed<T: Real>([r, c]: [usize; 2], m: &[T]) -> Vec<T> {
    let mut out = vec![T::ZERO; m.len()];
    out.par_chunks_mut((BLOCK * r).max(1))
        .enumerate()
        .for_each(|(block, out)| {
            let at = |i: usize| i * c + block * BLOCK;
            transpose(m, at, [r, out.len() / r], |j, i, part| {
                part.write(&mut out[j * r + i..], |v| v)
            });
        });
    out
}
