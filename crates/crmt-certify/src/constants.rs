//! One Lipschitz constant per modality and pair of classes: what divides a margin.
//! Does not know inputs or margins.
//!
//! `L[m][y][j]` bounds the Lipschitz constant of `g_y(m) - g_j(m)`, the part of the margin between
//! classes `y` and `j` that modality `m` contributes, `g_k(m) = a_k(m) s_k(m)`.
use crate::{
    Audit, CertifyError, Grade, LipschitzBound, Program, Proved, ScoreBounds, WeightsHash,
    audit::LastLinear,
    numbers::{gamma, norm_up, times_up},
    same_weights::common,
    scores::Scores,
    slack::Slack,
};
use candle_core::{DType, Device, Tensor};
use crmt_core::PerModality;
use std::marker::PhantomData;

/// An error of 1e-12 of a squared distance costs less than 1e-12 of a radius.
const NEGLIGIBLE: f64 = 1e-12;

/// The table `L[m][y][j]`, symmetric in the classes, zero on the diagonal, in `f64`, rounded up;
/// and the grade of its evidence.
#[derive(Debug, Clone, PartialEq)]
pub struct MarginConstants<E: Grade> {
    classes: usize,
    table: PerModality<Vec<f64>>,
    weights: Option<WeightsHash>,
    /// What a distance of 1 is in the array of each modality, if that was said.
    units: Option<PerModality<f64>>,
    /// What the program's rounding takes from margins; none: of real arithmetic.
    slack: Option<Slack>,
    grade: PhantomData<E>,
}

impl<E: Grade> MarginConstants<E> {
    /// The pairwise bound (T6) of linear heads `s_k = <W_k, phi>`:
    /// `L[m][y][j] = |a_y W_y - a_j W_j|_2 Lip(phi)`.
    ///
    /// `rows`: `W(m)`, each `[classes, dim_m]`; `weights`: `a(m)`, each `[classes]`; `encoders`:
    /// `Lip(phi(m))`. The rows need not be orthonormal: nothing is assumed, distances are computed
    /// in `f64` and rounded up by a proved bound of their error.
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
            .try_enumerate(|m, ((w, a), lip)| Heads::new(m, w, a, classes)?.distances(**lip))?;
        Self::finish(classes, table)
    }

    /// The sum bound (T5): `L[m][y][j] = |a_y| T_y + |a_j| T_j` with `T_k(m)` the constant of the
    /// score `s_k(m)`.
    ///
    /// # Errors
    /// [`CertifyError`] names what does not fit together or is not finite.
    pub fn sum(
        weights: &PerModality<Tensor>,
        scores: &ScoreBounds<E>,
    ) -> Result<Self, CertifyError> {
        let classes = classes_of(weights)?;
        let (bounds, weighted) = match &scores.0 {
            Scores::Unweighted(bounds) => (bounds, false),
            Scores::Weighted(bounds) => (bounds, true),
        };
        let table = weights
            .zip(bounds, "constants of the scores")?
            .try_enumerate(|m, (a, t)| {
                if t.len() != classes {
                    return Err(CertifyError::shape(
                        format!("modality {m}: constants of the scores"),
                        classes,
                        t.len(),
                    ));
                }
                let a = host(a)?;
                let own = |(a, t): (&f64, &LipschitzBound<E>)| match weighted {
                    // A weight that is no number makes a bound that is none.
                    true => t.value() + 0. * a,
                    false => times_up(a.abs(), t.value()),
                };
                let own: Vec<f64> = a.iter().zip(t.iter()).map(own).collect();
                Ok(symmetric(classes, |y, j| {
                    (own[y] + own[j]) * (1. + 4. * f64::EPSILON)
                }))
            })?;
        Self::finish(classes, table)
    }

    fn finish(classes: usize, table: PerModality<Vec<f64>>) -> Result<Self, CertifyError> {
        for (m, l) in table.iter().enumerate() {
            if let Some(value) = l.iter().find(|v| !v.is_finite()) {
                return Err(CertifyError::Bound {
                    what: format!("modality {m}: margin constant"),
                    value: *value,
                });
            }
        }
        Ok(Self {
            classes,
            table,
            weights: None,
            units: None,
            slack: None,
            grade: PhantomData,
        })
    }

    /// The lesser of two valid bounds, entry by entry.
    ///
    /// # Errors
    /// [`CertifyError`] when the numbers of modalities or classes differ, or units, or the programs
    /// they are about.
    pub fn min(&self, other: &Self) -> Result<Self, CertifyError> {
        if self.classes != other.classes {
            return Err(CertifyError::shape(
                "classes of the other table",
                self.classes,
                other.classes,
            ));
        }
        if self.units != other.units {
            let told = |units: &Option<PerModality<f64>>| {
                units
                    .as_ref()
                    .map_or("as in the arrays".into(), |u| format!("{u:?}"))
            };
            return Err(CertifyError::Different {
                what: "units",
                a: told(&self.units),
                b: told(&other.units),
            });
        }
        if self.slack.is_some() || other.slack.is_some() {
            let (a, b) = (self.program().to_string(), other.program().to_string());
            let what = "programs (combine constants of real arithmetic, then say which program executes them)";
            return Err(CertifyError::Different { what, a, b });
        }
        let pairs = self.table.zip(&other.table, "the other table")?;
        let table = pairs.map(|(a, b)| a.iter().zip(b.iter()).map(|(a, b)| a.min(*b)).collect());
        let weights = common(self.weights.as_ref(), other.weights.as_ref());
        Ok(Self {
            weights,
            units: self.units.clone(),
            ..Self::finish(self.classes, table)?
        })
    }

    /// Constants with respect to declared units: a distance of 1 on modality `m` is `scales[m]` in
    /// the array, so its constants grow by that factor.
    ///
    /// # Errors
    /// [`CertifyError`] unless there is one positive finite scale per modality, and constants are
    /// not in units yet.
    pub fn in_units(&self, scales: &PerModality<f64>) -> Result<Self, CertifyError> {
        if let Some(units) = &self.units {
            let (a, b) = (format!("{units:?}"), format!("{scales:?}"));
            return Err(CertifyError::Different {
                what: "units, given twice,",
                a,
                b,
            });
        }
        let table = self
            .table
            .zip(scales, "scales")?
            .try_enumerate(|m, (l, scale)| {
                if !(scale.is_finite() && **scale > 0.) {
                    return Err(CertifyError::Bound {
                        what: format!("modality {m}: scale"),
                        value: **scale,
                    });
                }
                Ok(l.iter().map(|l| times_up(*l, **scale)).collect())
            })?;
        let (weights, slack) = (self.weights.clone(), self.slack.clone());
        Ok(Self {
            weights,
            slack,
            units: Some(scales.clone()),
            ..Self::finish(self.classes, table)?
        })
    }

    /// Which program certificates are about: [`Program::Real`], unless [`executed`](Self::executed)
    /// said another.
    pub fn program(&self) -> Program {
        self.slack.as_ref().map_or(Program::Real, Slack::program)
    }

    pub(crate) fn slack(&self) -> Option<&Slack> {
        self.slack.as_ref()
    }

    /// Names the weights that the constants are of; every certificate built on them carries the
    /// name.
    pub fn for_weights(self, weights: WeightsHash) -> Self {
        Self {
            weights: Some(weights),
            ..self
        }
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
        assert!(
            y < self.classes && j < self.classes,
            "class {y} or {j} of {}",
            self.classes
        );
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
    /// The pairwise bound from audits, with last-layer absorption: where an encoder ends in a
    /// linear layer, `phi = A psi`, `L = |(V_y - V_j) A|_2 Lip(psi)` with `V_k = a_k W_k`, never
    /// more than the plain bound.
    ///
    /// For affine encoders the joint radius is then exactly the distance to the decision boundary
    /// (T7).
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
        let table = pairs.zip(audits, "audits")?.try_enumerate(
            |m, ((w, a), audit)| -> Result<_, CertifyError> {
                let v = Heads::new(m, w, a, classes)?;
                // A linear layer applied to each of several positions has fewer outputs than the
                // head has inputs: its declared norm is right, but there is nothing to multiply
                // with.
                let fits = |last: &&LastLinear| last.weight.dim(0).is_ok_and(|out| out == v.dim);
                let Some(last) = audit.last_linear().filter(fits) else {
                    return Ok(plain.table[m].clone());
                };
                let mut table = v.through(&last.weight)?.distances(last.prefix)?;
                let (out, inp) = last.weight.dims2()?;
                if out == inp && !last.vouched {
                    let other = v.through(&last.weight.t()?)?.distances(last.prefix)?;
                    table
                        .iter_mut()
                        .zip(other)
                        .for_each(|(l, other)| *l = if other > *l { other } else { *l });
                }
                Ok(table)
            },
        )?;
        Self::finish(classes, table)?.min(&plain)
    }

    /// The same constants, enlarged by what `program` may round differently at other inputs;
    /// certificates built on them are about that program, and take an
    /// [`Evaluation`](crate::Evaluation): its logits and how long its inputs were.
    ///
    /// The program computes `h_k = sum_m a_k(m) <W_k(m), phi(m)> + b_k` with these very numbers (in
    /// whichever order sums are added up), and `phi(m)` as audited. `bias`: `b`, `[classes]`.
    /// Before [`in_units`](Self::in_units).
    ///
    /// # Errors
    /// [`CertifyError::Rounding`] when a layer does not say what it rounds; others as
    /// [`absorbed`](Self::absorbed).
    pub fn executed(
        self,
        program: Program,
        rows: &PerModality<Tensor>,
        weights: &PerModality<Tensor>,
        bias: &Tensor,
        audits: &PerModality<Audit>,
    ) -> Result<Self, CertifyError> {
        if let Some(units) = &self.units {
            let what = "units; say which program executes the constants before they are put into units; they";
            return Err(CertifyError::Different {
                what,
                a: format!("{units:?}"),
                b: "the arrays'".into(),
            });
        }
        let slack = Slack::new(program, rows, weights, bias, audits)?;
        let table = self.table.try_enumerate(|m, l| {
            let wider =
                |i: usize| (l[i] + slack.slope(m, i / self.classes, i % self.classes)).next_up();
            let entry = |i: usize| {
                if i / self.classes == i % self.classes {
                    0.
                } else {
                    wider(i)
                }
            };
            Ok::<_, CertifyError>((0..l.len()).map(entry).collect::<Vec<_>>())
        })?;
        Ok(Self {
            weights: self.weights,
            slack: Some(slack),
            ..Self::finish(self.classes, table)?
        })
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
    fn new(
        m: usize,
        rows: &Tensor,
        weights: &Tensor,
        classes: usize,
    ) -> Result<Self, CertifyError> {
        let (k, dim) = rows.dims2()?;
        if k != classes {
            return Err(CertifyError::shape(
                format!("modality {m}: rows of the head"),
                classes,
                k,
            ));
        }
        let (a, w) = (host(weights)?, host(rows)?);
        let mut values = Vec::with_capacity(w.len());
        let mut errors = Vec::with_capacity(classes);
        for (k, a) in a.into_iter().enumerate() {
            let row = &w[k * dim..(k + 1) * dim];
            values.extend(row.iter().map(|w| a * w));
            // The fused product gives the rounding error of the plain one exactly: zero for `f32`
            // data. Of products so small that it is no number, they are all.
            let error = |w: &f64| {
                let product = a * w;
                let tiny = a != 0. && *w != 0. && product.abs() < 1e-200;
                if tiny {
                    f64::MIN_POSITIVE.max(product.abs())
                } else {
                    a.mul_add(*w, -product).abs()
                }
            };
            errors.push(norm_up(row.iter().map(error)));
        }
        Ok(Self {
            dim,
            values,
            errors,
            classes,
        })
    }

    fn row(&self, k: usize) -> &[f64] {
        &self.values[k * self.dim..(k + 1) * self.dim]
    }

    /// `factor * |V_y - V_j|`, rounded up.
    ///
    /// By one matrix product, `|V_y - V_j|^2 = G_yy + G_jj - 2 G_yj` with `G = V V^T`: each entry
    /// of `G` is off by at most `gamma |V_y| |V_j|`, hence the sum by `gamma (|V_y| + |V_j|)^2`,
    /// which is added. Where that is not negligible (rows that nearly agree), differences are taken
    /// directly. No `[K, K, dim]` array either way.
    fn distances(&self, factor: f64) -> Result<Vec<f64>, CertifyError> {
        let v = Tensor::from_slice(&self.values, (self.classes, self.dim), &Device::Cpu)?;
        let gram = host(&v.matmul(&v.t()?)?)?;
        let square = |k: usize| gram[k * self.classes + k];
        let norms: Vec<f64> = (0..self.classes).map(|k| square(k).sqrt()).collect();
        // The products, and a few roundings of norms and sums.
        let gamma = gamma(self.dim + 16) * (1. + 1e-9);
        Ok(symmetric(self.classes, |y, j| {
            let total = square(y) + square(j) - 2. * gram[y * self.classes + j];
            let error = gamma * (norms[y] + norms[j]).powi(2);
            // Also false for NaN; squares may have under- or overflown.
            let distance = if error <= NEGLIGIBLE * total && (1e-200..1e200).contains(&total) {
                (total + error).sqrt() * (1. + 4. * f64::EPSILON)
            } else {
                self.direct(y, j)
            };
            times_up(
                (distance + self.errors[y] + self.errors[j]) * (1. + 2. * f64::EPSILON),
                factor,
            )
        }))
    }

    /// `|V_y - V_j|`, rounded up, by differences: nothing cancels.
    fn direct(&self, y: usize, j: usize) -> f64 {
        const LANES: usize = 8;
        let (a, b) = (self.row(y), self.row(j));
        // Differences, squares, sum and root each round once; scaling twice more.
        let up = 1. + gamma(self.dim + 16);
        let mut lanes = [0f64; LANES];
        let (ca, cb) = (a.chunks_exact(LANES), b.chunks_exact(LANES));
        let tail: f64 = ca
            .remainder()
            .iter()
            .zip(cb.remainder())
            .map(|(a, b)| (a - b) * (a - b))
            .sum();
        for (a, b) in ca.zip(cb) {
            for i in 0..LANES {
                lanes[i] += (a[i] - b[i]) * (a[i] - b[i]);
            }
        }
        let sum = lanes.into_iter().sum::<f64>() + tail;
        if (1e-200..1e200).contains(&sum) {
            return sum.sqrt() * up;
        }
        // Squares may have under- or overflown.
        norm_up(a.iter().zip(b).map(|(a, b)| a - b)) * up
    }

    /// `V A`.
    fn through(&self, a: &Tensor) -> Result<Self, CertifyError> {
        let v = Tensor::from_slice(&self.values, (self.classes, self.dim), &Device::Cpu)?;
        let p = v.matmul(&a.contiguous()?)?;
        let norm = norm_up(host(a)?.iter().copied());
        // Products that underflow are each off by the smallest number.
        let tiny = f64::from_bits(1) * (self.dim * a.dim(1)?) as f64;
        let error = |k: usize| {
            let row = norm_up(self.row(k).iter().copied());
            times_up(
                (gamma(self.dim + 4) * row + self.errors[k]) * (1. + 1e-9),
                norm,
            ) + tiny
        };
        let errors = (0..self.classes).map(error).collect();
        Ok(Self {
            dim: p.dim(1)?,
            values: host(&p)?,
            errors,
            classes: self.classes,
        })
    }
}

fn classes_of(weights: &PerModality<Tensor>) -> Result<usize, CertifyError> {
    let classes = weights[0].dims1()?;
    for (m, a) in weights.iter().enumerate() {
        if a.dims() != [classes] {
            let what = format!("modality {m}: integration weights");
            return Err(CertifyError::shape(
                what,
                format!("[{classes}]"),
                format!("{:?}", a.dims()),
            ));
        }
    }
    Ok(classes)
}

fn host(t: &Tensor) -> Result<Vec<f64>, CertifyError> {
    Ok(t.to_dtype(DType::F64)?.flatten_all()?.to_vec1()?)
}

/// A symmetric table with a zero diagonal.
fn symmetric(classes: usize, entry: impl Fn(usize, usize) -> f64) -> Vec<f64> {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::SoundBound;
    use crmt_core::Streams;
    use rand::Rng;

    /// Rows that nearly agree, agree, oppose each other, or are tiny: never below the distance, and
    /// above it by no more than roundings.
    #[test]
    fn distances_are_upper_bounds_to_the_last_digits() {
        let mut rng = Streams::new(2).stream("rows", 0);
        for (dim, size) in [
            (1, 1.),
            (3, 1e-170),
            (64, 1e-30),
            (512, 1.),
            (512, 1e3),
            (40, 1e160),
        ] {
            let base: Vec<f64> = (0..dim).map(|_| rng.random_range(-1. ..1.)).collect();
            // Scaled by powers of two below, so that their differences are exact multiples.
            let rows: Vec<Vec<f64>> = [1., 1., 1. + 2f64.powi(-40), -1., 0.5, 1.25]
                .map(|s| base.iter().map(|b| b * s * size).collect())
                .to_vec();
            let classes = rows.len();
            let w = Tensor::new(rows.clone(), &Device::Cpu).unwrap();
            let ones = Tensor::ones(classes, DType::F64, &Device::Cpu).unwrap();
            let unit = PerModality::from([SoundBound::vouched(1.).unwrap()]);
            let table = MarginConstants::pairwise(
                &PerModality::from([w]),
                &PerModality::from([ones]),
                &unit,
            )
            .unwrap();
            for y in 0..classes {
                for j in (0..classes).filter(|j| *j != y) {
                    // Relative to the greatest: no under- or overflow; summed in ascending order,
                    // pairwise.
                    let mut d: Vec<f64> = rows[y]
                        .iter()
                        .zip(&rows[j])
                        .map(|(a, b)| (a - b).abs())
                        .collect();
                    d.sort_by(f64::total_cmp);
                    let greatest = *d.last().unwrap();
                    let want = match greatest {
                        0. => 0.,
                        g => d.iter().map(|d| (d / g).powi(2)).sum::<f64>().sqrt() * g,
                    };
                    let got = table.get(0, y, j);
                    // The reference itself rounds: 512 terms, far below 1e-13.
                    assert!(
                        got >= want * (1. - 1e-13) && got <= want * (1. + 2e-12),
                        "{dim} {size}: {got} for {want}"
                    );
                    assert_eq!(got == 0., want == 0.);
                }
            }
        }
    }
}
