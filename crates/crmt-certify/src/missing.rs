//! Certificates for missing modalities, alone and combined with budgets on the others (theorem T9).
//! Does not know how a model treats a missing modality: only what each contributes, with its input
//! and without.
//!
//! With `c_k(m) = g_k(m)(x(m)) - g_k(m)(u(m))`, what modality `m` adds to class `k` beyond its
//! baseline `u(m)`, and `d_j(m) = c_y(m) - c_j(m)`, the margin without the modalities `Q` is
//! exactly `mu_j - sum_{m in Q} d_j(m)`. The worst of all `|Q| <= q` is separable: the `q` largest
//! positive terms, no enumeration.
use crate::{
    CertifyError, Evaluated, Grade, MarginConstants, Program, Region, numbers::norm_up, ratio,
    regions, threat::check_budgets,
};
use candle_core::{DType, Tensor};
use crmt_core::{AdditiveScores, Missing, PerModality};

/// `c_k(m)`: what each modality contributes to each class beyond its baseline, for a batch.
#[derive(Debug, Clone, PartialEq)]
pub struct Contributions {
    classes: usize,
    batch: usize,
    /// Per modality row-major `[batch, classes]`.
    values: PerModality<Vec<f64>>,
    /// Row-major `[batch, classes]`: whose contributions they are.
    logits: Vec<f64>,
    /// `sum_m |a_k(m) s_k(m)| + |b_k|` of each, which bounds how far another order of summation may
    /// be off.
    sizes: Vec<f64>,
}

impl Contributions {
    /// From the scores of an additive classifier at the inputs, and at the baselines (each score
    /// `[1, classes]` or `[batch, classes]`). `None`: a missing modality's term is dropped from the
    /// sum (baseline contribution 0).
    ///
    /// # Errors
    /// [`CertifyError`] names the modality whose shape does not fit; scores are in `f64`.
    pub fn new(
        inputs: &AdditiveScores,
        baselines: Option<&AdditiveScores>,
    ) -> Result<Self, CertifyError> {
        let terms = inputs.contributions()?;
        let (batch, classes) = terms[0].dims2()?;
        let absent = match baselines {
            Some(baselines) => {
                let own = baselines.contributions()?;
                terms
                    .zip(&own, "contributions of the baselines")?
                    .map(|(_, b)| Some((*b).clone()))
            }
            None => terms.map(|_| None),
        };
        let mut sizes: Option<Tensor> = None;
        let values = terms
            .zip(&absent, "contributions")?
            .try_enumerate(|m, (x, u)| {
                if x.dims() != [batch, classes] {
                    let what = format!("modality {m}: contributions");
                    return Err(CertifyError::shape(
                        what,
                        format!("[{batch}, {classes}]"),
                        format!("{:?}", x.dims()),
                    ));
                }
                if x.dtype() != DType::F64 {
                    return Err(CertifyError::Precision { got: x.dtype() });
                }
                sizes = Some(match &sizes {
                    Some(sizes) => (sizes + x.abs()?)?,
                    None => x.abs()?,
                });
                let mut added = (*x).clone();
                if let Some(u) = u {
                    added = added.broadcast_sub(&u.to_dtype(DType::F64)?)?;
                    if added.dims() != [batch, classes] {
                        let expected = format!("[1, {classes}] or [{batch}, {classes}]");
                        let what = format!("modality {m}: contributions of the baseline");
                        return Err(CertifyError::shape(
                            what,
                            expected,
                            format!("{:?}", u.dims()),
                        ));
                    }
                }
                Ok(added.flatten_all()?.to_vec1::<f64>()?)
            })?;
        let bias = inputs.bias.abs()?;
        let sizes = sizes
            .map(|sizes| sizes.broadcast_add(&bias)?.flatten_all()?.to_vec1::<f64>())
            .transpose()?;
        let logits = inputs.logits()?.flatten_all()?.to_vec1::<f64>()?;
        Ok(Self {
            classes,
            batch,
            values,
            logits,
            sizes: sizes.unwrap_or_default(),
        })
    }

    /// Refuses logits that are not the sum of these contributions: they are of other inputs or of
    /// another model, or weights were left out of them.
    fn check(&self, logits: &Tensor, program: Program) -> Result<(), CertifyError> {
        let given = logits
            .flatten_all()?
            .to_dtype(DType::F64)?
            .to_vec1::<f64>()?;
        // The program rounds products and sums, and so does this crate.
        let tolerance = (self.values.len() + 4) as f64 * 2. * program.unit().max(f64::EPSILON);
        // NaN certifies nothing anyway.
        let other = |i: &usize| (given[*i] - self.logits[*i]).abs() > tolerance * self.sizes[*i];
        match (0..given.len().min(self.logits.len())).find(other) {
            Some(i) => Err(CertifyError::shape(
                format!(
                    "sample {}: logits, the sum of the contributions and the bias",
                    i / self.classes
                ),
                self.logits[i],
                given[i],
            )),
            None => Ok(()),
        }
    }

    /// `d_j(m) = c_y(m) - c_j(m)` of sample `i`, rounded up.
    fn difference(&self, i: usize, m: usize, y: usize, j: usize) -> f64 {
        let row = &self.values[m][i * self.classes..][..self.classes];
        // Three subtractions round: two inside the terms, and their difference.
        (row[y] - row[j] + f64::EPSILON * (row[y].abs() + row[j].abs())).next_up()
    }
}

/// The certified region of one sample when modalities may be missing.
#[derive(Debug, Clone, PartialEq)]
pub struct MissingRegion<E: Grade> {
    region: Region<E>,
    /// `d_j(m)`, rounded up, row-major `[rivals, modalities]`.
    differences: Vec<f64>,
}

/// As [`regions`], with what each modality contributes.
///
/// # Errors
/// As [`regions`]; also when `contributions` are of another batch or model.
pub fn missing_regions<E: Grade>(
    constants: &MarginConstants<E>,
    evaluated: &(impl Evaluated + ?Sized),
    reference: &[u32],
    contributions: &Contributions,
) -> Result<Vec<MissingRegion<E>>, CertifyError> {
    let regions = regions(constants, evaluated, reference)?;
    let expected = (regions.len(), constants.classes(), constants.modalities());
    let got = (
        contributions.batch,
        contributions.classes,
        contributions.values.len(),
    );
    if expected != got {
        let what = "(samples, classes, modalities) of the contributions";
        return Err(CertifyError::shape(
            what,
            format!("{expected:?}"),
            format!("{got:?}"),
        ));
    }
    contributions.check(evaluated.logits(), constants.program())?;
    let each = regions.into_iter().enumerate().map(|(i, region)| {
        let y = region.class() as usize;
        let of = |j: &u32| {
            let j = *j as usize;
            (0..expected.2).map(move |m| contributions.difference(i, m, y, j))
        };
        let differences = region.rivals().iter().flat_map(of).collect();
        MissingRegion {
            region,
            differences,
        }
    });
    Ok(each.collect())
}

impl<E: Grade> MissingRegion<E> {
    /// The region with nothing missing.
    pub fn region(&self) -> &Region<E> {
        &self.region
    }

    /// `d_j(m)`, `[K - 1][M]`: also the Shapley value of modality `m` for the margin, which is an
    /// additive game.
    pub fn contributions(&self) -> impl ExactSizeIterator<Item = &[f64]> {
        self.differences.chunks_exact(self.region.modalities())
    }

    /// Each modality's part of the margin over `rival`: `d(m) / sum_m d(m)`; they sum to 1 and may
    /// be negative or above 1 (a modality that argues for the rival). `None` when they cancel, or
    /// for a class that is no rival.
    pub fn shapley_shares(&self, rival: u32) -> Option<PerModality<f64>> {
        let j = self.region.rivals().iter().position(|r| *r == rival)?;
        let d = self.contributions().nth(j)?;
        let total: f64 = d.iter().sum();
        (total != 0.).then(|| PerModality::from_fn(d.len(), |m| d[m] / total))
    }

    /// Margins per rival with exactly `missing` gone: `mu_j - sum_{m in Q} d_j(m)`, rounded down,
    /// `[K - 1]`.
    pub fn margins_without(&self, missing: &Missing) -> Vec<f64> {
        self.margins_if(|m| missing.contains(m))
    }

    /// `min_{|Q| <= q} min_j mu_j^Q`: positive exactly when the class stands with any `q`
    /// modalities missing.
    pub fn worst_margin(&self, q: usize) -> f64 {
        let nothing = PerModality::from_fn(self.region.modalities(), |_| 0.);
        self.slacks(q, &nothing)
            .expect("zero is a budget")
            .into_iter()
            .fold(f64::INFINITY, f64::min)
    }

    /// `slack_j(q, eps) = mu_j - sum_m eps_m L_j(m) - (sum of the q largest max(0, d_j(m) - eps_m L_j(m)))`,
    /// rounded down, `[K - 1]`: what is left of each margin when any `q` modalities are missing and
    /// each of the others moves up to `eps_m`.
    ///
    /// # Errors
    /// [`CertifyError`] unless there is one finite budget of at least 0 per modality.
    pub fn slacks(&self, q: usize, eps: &PerModality<f64>) -> Result<Vec<f64>, CertifyError> {
        let modalities = self.region.modalities();
        check_budgets(eps, modalities)?;
        let margins = (0..self.region.rivals().len()).map(|j| match q {
            0 => self.region.margins()[j],
            _ => self.evaluated_again(j),
        });
        let slack = |((mu, l), d): ((f64, &[f64]), &[f64])| {
            let spent = |m: usize| eps[m] * l[m];
            let mut gains: Vec<f64> = (0..modalities).map(|m| (d[m] - spent(m)).max(0.)).collect();
            gains.sort_by(|a, b| b.total_cmp(a));
            let total: f64 = (0..modalities).map(spent).sum();
            let size = mu.abs() + total + d.iter().map(|d| d.abs()).sum::<f64>();
            let left = mu - total - gains.iter().take(q).sum::<f64>();
            // A dropped NaN would certify.
            if size.is_nan() {
                f64::NAN
            } else {
                down(left, size, modalities)
            }
        };
        let slacks = margins
            .zip(self.region.constants())
            .zip(self.contributions())
            .map(slack);
        Ok(slacks
            .map(|s| if s.is_nan() { f64::NEG_INFINITY } else { s })
            .collect())
    }

    /// Whether the class stands for every set of at most `q` missing modalities, each of the others
    /// moving up to `eps_m`: every slack is positive.
    ///
    /// # Errors
    /// As [`slacks`](Self::slacks).
    pub fn contains(&self, q: usize, eps: &PerModality<f64>) -> Result<bool, CertifyError> {
        Ok(self.slacks(q, eps)?.iter().all(|s| *s > 0.))
    }

    /// Joint l2 radius on the modalities that remain when `missing` are gone:
    /// `min_j mu_j^Q / sqrt(sum_{m not in Q} L_j(m)^2)`.
    pub fn joint_without(&self, missing: &Missing) -> f64 {
        self.joint_if(|m| missing.contains(m))
    }

    /// The least [`joint_without`](Self::joint_without) over all sets of at most `q` modalities,
    /// none included: one evaluation for each set.
    pub fn worst_joint(&self, q: usize) -> f64 {
        let modalities = self.region.modalities();
        let mut gone = vec![false; modalities];
        self.least_joint(&mut gone, 0, q.min(modalities))
    }

    /// The least over `gone` with at most `left` more, from modality `next` on.
    fn least_joint(&self, gone: &mut [bool], next: usize, left: usize) -> f64 {
        let mut least = self.joint_if(|m| gone[m]);
        if left > 0 {
            for m in next..gone.len() {
                gone[m] = true;
                least = least.min(self.least_joint(gone, m + 1, left - 1));
                gone[m] = false;
            }
        }
        least
    }

    fn margins_if(&self, gone: impl Fn(usize) -> bool) -> Vec<f64> {
        let any = (0..self.region.modalities()).any(&gone);
        let margin = |((j, mu), d): ((usize, &f64), &[f64])| {
            let mu = if any { self.evaluated_again(j) } else { *mu };
            let lost = || {
                d.iter()
                    .enumerate()
                    .filter(|(m, _)| gone(*m))
                    .map(|(_, d)| *d)
            };
            down(
                mu - lost().sum::<f64>(),
                mu.abs() + lost().map(f64::abs).sum::<f64>(),
                d.len(),
            )
        };
        self.region
            .margins()
            .iter()
            .enumerate()
            .zip(self.contributions())
            .map(margin)
            .collect()
    }

    /// The margin over rival number `j` where something is missing: what is missing was evaluated
    /// at the input and at the baseline, and both were rounded.
    fn evaluated_again(&self, j: usize) -> f64 {
        match self.region.rounding(j) {
            0. => self.region.margins()[j],
            rounding => (self.region.margins()[j] - 2. * rounding).next_down(),
        }
    }

    fn joint_if(&self, gone: impl Fn(usize) -> bool) -> f64 {
        let norm = |l: &[f64]| {
            norm_up(
                l.iter()
                    .enumerate()
                    .filter(|(m, _)| !gone(*m))
                    .map(|(_, l)| *l),
            )
        };
        let each = self
            .margins_if(&gone)
            .into_iter()
            .zip(self.region.constants())
            .map(|(mu, l)| ratio(mu, norm(l)));
        each.fold(f64::INFINITY, f64::min)
    }
}

/// A sum of about `2 modalities` terms of total size `size`, minus what it may have been rounded up
/// by.
fn down(sum: f64, size: f64, modalities: usize) -> f64 {
    (sum - (2. * modalities as f64 + 4.) * f64::EPSILON * size).next_down()
}
