//! One Lipschitz constant per modality and pair of classes: what divides a margin.
//! Does not know inputs or margins.
//!
//! `L[m][y][j]` bounds the Lipschitz constant of `g_y(m) - g_j(m)`, the part of the margin between classes `y` and
//! `j` that modality `m` contributes, `g_k(m) = a_k(m) s_k(m)`.
use crate::{
    Audit, CertifyError, Grade, LipschitzBound, Proved, WeightsHash, audit::LastLinear, gram::gamma, weights::common,
};
use candle_core::{DType, Device, Tensor};
use crmt_core::PerModality;
use std::marker::PhantomData;

/// The table `L[m][y][j]`, symmetric in the classes, zero on the diagonal, in `f64`, rounded up; and the grade of
/// its evidence.
#[derive(Debug, Clone, PartialEq)]
pub struct MarginConstants<E: Grade> {
    classes: usize,
    table: PerModality<Vec<f64>>,
    weights: Option<WeightsHash>,
    grade: PhantomData<E>,
}

impl<E: Grade> MarginConstants<E> {
    /// The pairwise bound (T6) of linear heads `s_k = <W_k, phi>`: `L[m][y][j] = |a_y W_y - a_j W_j|_2 Lip(phi)`.
    ///
    /// `rows`: `W(m)`, each `[classes, dim_m]`; `weights`: `a(m)`, each `[classes]`; `encoders`: `Lip(phi(m))`. The
    /// rows need not be orthonormal: differences are taken directly, in `f64`, so nothing cancels.
    ///
    /// # Errors
    /// [`CertifyError`] names what does not fit together or is not finite.
    pub fn pairwise(
        rows: &PerModality<Tensor>,
        weights: &PerModality<Tensor>,
        encoders: &PerModality<LipschitzBound<E>>,
    ) -> Result<Self, CertifyError> {
        let lips = encoders.map(LipschitzBound::value);
        let classes = classes_of(weights)?;
        let pairs = rows.zip(weights, "integration weights")?;
        let table = pairs
            .zip(&lips, "encoder bounds")?
            .try_enumerate(|m, ((w, a), lip)| Ok::<_, CertifyError>(Heads::new(m, w, a, classes)?.distances(**lip)))?;
        Self::finish(classes, table)
    }

    /// The sum bound (T5): `L[m][y][j] = |a_y| T_y + |a_j| T_j` with `T_k(m)` the constant of the score `s_k(m)`.
    ///
    /// # Errors
    /// [`CertifyError`] names what does not fit together or is not finite.
    pub fn sum(
        weights: &PerModality<Tensor>,
        scores: &PerModality<Vec<LipschitzBound<E>>>,
    ) -> Result<Self, CertifyError> {
        let classes = classes_of(weights)?;
        let table = weights.zip(scores, "constants of the scores")?.try_enumerate(|m, (a, t)| {
            if t.len() != classes {
                return Err(CertifyError::shape(format!("modality {m}: constants of the scores"), classes, t.len()));
            }
            let a = host(a)?;
            let own: Vec<f64> = a.iter().zip(t.iter()).map(|(a, t)| a.abs() * t.value()).collect();
            Ok(square(classes, |y, j| (own[y] + own[j]) * (1. + 4. * f64::EPSILON)))
        })?;
        Self::finish(classes, table)
    }

    fn finish(classes: usize, table: PerModality<Vec<f64>>) -> Result<Self, CertifyError> {
        for (m, l) in table.iter().enumerate() {
            if let Some(value) = l.iter().find(|v| !v.is_finite()) {
                return Err(CertifyError::Bound { what: format!("modality {m}: margin constant"), value: *value });
            }
        }
        Ok(Self { classes, table, weights: None, grade: PhantomData })
    }

    /// The lesser of two valid bounds, entry by entry.
    ///
    /// # Errors
    /// [`CertifyError`] when the numbers of modalities or classes differ.
    pub fn min(&self, other: &Self) -> Result<Self, CertifyError> {
        if self.classes != other.classes {
            return Err(CertifyError::shape("classes of the other table", self.classes, other.classes));
        }
        let pairs = self.table.zip(&other.table, "the other table")?;
        let table = pairs.map(|(a, b)| a.iter().zip(b.iter()).map(|(a, b)| a.min(*b)).collect());
        let weights = common(self.weights.as_ref(), other.weights.as_ref());
        Ok(Self { classes: self.classes, table, weights, grade: PhantomData })
    }

    /// Constants with respect to declared units: a distance of 1 on modality `m` is `scales[m]` in the array, so its
    /// constants grow by that factor.
    ///
    /// # Errors
    /// [`CertifyError`] unless there is one positive finite scale per modality.
    pub fn in_units(&self, scales: &PerModality<f64>) -> Result<Self, CertifyError> {
        let table = self.table.zip(scales, "scales")?.try_enumerate(|m, (l, scale)| {
            if !(scale.is_finite() && **scale > 0.) {
                return Err(CertifyError::Bound { what: format!("modality {m}: scale"), value: **scale });
            }
            let up = if **scale == 1. { 1. } else { 1. + f64::EPSILON };
            Ok(l.iter().map(|l| l * **scale * up).collect())
        })?;
        Ok(Self { weights: self.weights.clone(), ..Self::finish(self.classes, table)? })
    }

    /// Names the weights that the constants are of; every certificate built on them carries the name.
    pub fn for_weights(self, weights: WeightsHash) -> Self {
        Self { weights: Some(weights), ..self }
    }

    /// Which weights the constants are of, if that was said.
    pub fn weights(&self) -> Option<&WeightsHash> {
        self.weights.as_ref()
    }

    /// `L[modality][y][..]`.
    pub(crate) fn row(&self, modality: usize, y: usize) -> &[f64] {
        &self.table[modality][y * self.classes..][..self.classes]
    }

    /// `L[modality][y][j]`.
    pub fn get(&self, modality: usize, y: usize, j: usize) -> f64 {
        assert!(y < self.classes && j < self.classes, "class {y} or {j} of {}", self.classes);
        self.table[modality][y * self.classes + j]
    }

    /// Number of classes.
    pub fn classes(&self) -> usize {
        self.classes
    }

    /// Number of modalities.
    pub fn modalities(&self) -> usize {
        self.table.len()
    }
}

impl MarginConstants<Proved> {
    /// The pairwise bound from audits, with last-layer absorption: where an encoder ends in a linear layer,
    /// `phi = A psi`, `L = |(V_y - V_j) A|_2 Lip(psi)` with `V_k = a_k W_k`, never more than the plain bound.
    ///
    /// For affine encoders the joint radius is then exactly the distance to the decision boundary (T7).
    ///
    /// # Errors
    /// As [`pairwise`](Self::pairwise).
    pub fn absorbed(
        rows: &PerModality<Tensor>,
        weights: &PerModality<Tensor>,
        audits: &PerModality<Audit>,
    ) -> Result<Self, CertifyError> {
        let plain = Self::pairwise(rows, weights, &audits.map(Audit::bound))?;
        let classes = plain.classes;
        let pairs = rows.zip(weights, "integration weights")?;
        let table = pairs.zip(audits, "audits")?.try_enumerate(|m, ((w, a), audit)| {
            let v = Heads::new(m, w, a, classes)?;
            // A linear layer applied to each of several positions has fewer outputs than the head has inputs: its
            // declared norm is right, but there is nothing to multiply with.
            let fits = |last: &&LastLinear| last.weight.dim(0).is_ok_and(|out| out == v.dim);
            let Some(last) = audit.last_linear().filter(fits) else { return Ok(plain.table[m].clone()) };
            Ok::<_, CertifyError>(v.through(&last.weight)?.distances(last.prefix))
        })?;
        Self::finish(classes, table)?.min(&plain)
    }
}

/// The rows `V_k = a_k W_k` of one modality.
struct Heads {
    dim: usize,
    /// Row-major `[classes, dim]`.
    values: Vec<f64>,
    /// Distance of each row from the true one: rounding.
    errors: Vec<f64>,
    classes: usize,
}

impl Heads {
    fn new(m: usize, rows: &Tensor, weights: &Tensor, classes: usize) -> Result<Self, CertifyError> {
        let (k, dim) = rows.dims2()?;
        if k != classes {
            return Err(CertifyError::shape(format!("modality {m}: rows of the head"), classes, k));
        }
        let (a, w) = (host(weights)?, host(rows)?);
        let mut values = Vec::with_capacity(w.len());
        let mut errors = Vec::with_capacity(classes);
        for (k, a) in a.into_iter().enumerate() {
            let row = &w[k * dim..(k + 1) * dim];
            values.extend(row.iter().map(|w| a * w));
            // The fused product gives the rounding error of the plain one exactly: zero for `f32` data.
            errors.push(row.iter().map(|w| a.mul_add(*w, -(a * w)).powi(2)).sum::<f64>().sqrt() * (1. + 1e-9));
        }
        Ok(Self { dim, values, errors, classes })
    }

    fn row(&self, k: usize) -> &[f64] {
        &self.values[k * self.dim..(k + 1) * self.dim]
    }

    /// `factor * |V_y - V_j|`, rounded up. Rows are read in place: no `[K, K, dim]` array.
    fn distances(&self, factor: f64) -> Vec<f64> {
        // Products, differences, squares, sum and root each round once.
        let up = 1. + gamma(self.dim + 8);
        square(self.classes, |y, j| {
            let squares = self.row(y).iter().zip(self.row(j)).map(|(a, b)| (a - b) * (a - b)).sum::<f64>();
            (squares.sqrt() * up + self.errors[y] + self.errors[j]) * factor * (1. + f64::EPSILON)
        })
    }

    /// `V A`.
    fn through(&self, a: &Tensor) -> Result<Self, CertifyError> {
        let v = Tensor::from_slice(&self.values, (self.classes, self.dim), &Device::Cpu)?;
        let p = v.matmul(&a.contiguous()?)?;
        let norm = a.sqr()?.sum_all()?.to_scalar::<f64>()?.sqrt();
        let error = |k: usize| {
            let row = self.row(k).iter().map(|v| v * v).sum::<f64>().sqrt();
            (gamma(self.dim + 4) * row + self.errors[k]) * norm * (1. + 1e-9)
        };
        let errors = (0..self.classes).map(error).collect();
        Ok(Self { dim: p.dim(1)?, values: host(&p)?, errors, classes: self.classes })
    }
}

fn classes_of(weights: &PerModality<Tensor>) -> Result<usize, CertifyError> {
    let classes = weights[0].dims1()?;
    for (m, a) in weights.iter().enumerate() {
        if a.dims() != [classes] {
            let what = format!("modality {m}: integration weights");
            return Err(CertifyError::shape(what, format!("[{classes}]"), format!("{:?}", a.dims())));
        }
    }
    Ok(classes)
}

fn host(t: &Tensor) -> Result<Vec<f64>, CertifyError> {
    Ok(t.to_dtype(DType::F64)?.flatten_all()?.to_vec1()?)
}

/// A symmetric table with a zero diagonal.
fn square(classes: usize, entry: impl Fn(usize, usize) -> f64) -> Vec<f64> {
    let mut table = vec![0.; classes * classes];
    for y in 0..classes {
        for j in 0..y {
            let l = entry(y, j);
            table[y * classes + j] = l;
            table[j * classes + y] = l;
        }
    }
    table
}
