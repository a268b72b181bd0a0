//! Radii: margins divided by constants, least over *all* rivals (theorems T1, T2, T8).
//! Does not know where constants come from, only what grade they have.
use crate::{CertifyError, Evidence, Grade, MarginConstants, Proved};
use candle_core::{DType, Tensor};
use crmt_core::PerModality;
use std::marker::PhantomData;

/// How far a margin `mu` that changes at most `l` per unit distance stays positive: 0 if `mu <= 0` or NaN, infinite
/// if `mu > 0` and `l == 0`, else `mu / l` rounded down.
///
/// A negative margin has radius 0, whatever its size: a sample that is already wrong is not "robustly" anything.
pub fn ratio(mu: f64, l: f64) -> f64 {
    if mu.is_nan() || l.is_nan() || mu <= 0. {
        0.
    } else if l == 0. {
        f64::INFINITY
    } else {
        (mu / l).next_down().max(0.)
    }
}

/// What is known of one sample.
#[derive(Debug, Clone, PartialEq)]
pub struct SampleRadii {
    /// The class that stays predicted within the radii.
    pub reference: u32,
    /// The rival that limits the joint radius (for a radius of 0: the one with the least margin).
    pub rival: u32,
    /// Joint l2 radius over all modalities: `min_j mu_j / sqrt(sum_m L[m][y][j]^2)`. 0 unless every margin is positive.
    pub joint: f64,
    /// `P(m)`, radius when only modality `m` moves: `min_j mu_j / L[m][y][j]`.
    pub unimodal: PerModality<f64>,
    /// Vulnerability shares `v(m) = L[m]^2 / sum L^2` at the binding rival: the fraction of squared budget that the
    /// worst joint attack spends on each modality. They sum to 1, or are all 0 if no modality moves the margin.
    pub shares: PerModality<f64>,
}

/// Radii of a batch, and the grade of their evidence.
#[derive(Debug, Clone, PartialEq)]
pub struct Radii<E: Grade> {
    samples: Vec<SampleRadii>,
    grade: PhantomData<E>,
}

impl<E: Grade> Radii<E> {
    /// In batch order.
    pub fn samples(&self) -> &[SampleRadii] {
        &self.samples
    }

    /// Why one may believe them.
    pub fn evidence(&self) -> Evidence {
        E::EVIDENCE
    }

    /// Joint radii, in batch order.
    pub fn joint(&self) -> Vec<f64> {
        self.samples.iter().map(|s| s.joint).collect()
    }

    /// Radii `P(m)` of one modality, in batch order.
    pub fn unimodal(&self, modality: usize) -> Vec<f64> {
        self.samples.iter().map(|s| s.unimodal[modality]).collect()
    }

    /// Appends the radii of another batch.
    pub fn extend(&mut self, other: Self) {
        self.samples.extend(other.samples);
    }
}

impl Radii<Proved> {
    /// One certificate per sample; `None` where the radius is 0.
    pub fn certificates(&self) -> Vec<Option<Certificate>> {
        self.samples.iter().map(|s| (s.joint > 0.).then(|| Certificate { sample: s.clone() })).collect()
    }
}

/// A proved statement: the prediction is [`class`](Self::class) for every input closer than [`joint`](Self::joint).
///
/// Obtained from [`Radii::certificates`], which exists for proved constants only.
#[derive(Debug, Clone, PartialEq)]
pub struct Certificate {
    sample: SampleRadii,
}

impl Certificate {
    /// The class that stays predicted.
    pub fn class(&self) -> u32 {
        self.sample.reference
    }

    /// Holds for every perturbation of smaller joint l2 norm, in declared units.
    pub fn joint(&self) -> f64 {
        self.sample.joint
    }

    /// Holds for every smaller perturbation of one modality alone.
    pub fn unimodal(&self) -> &PerModality<f64> {
        &self.sample.unimodal
    }

    /// Always [`Evidence::Proved`].
    pub fn evidence(&self) -> Evidence {
        Evidence::Proved
    }
}

/// Radii of samples with `logits` `[batch, classes]` around their `reference` classes: the true labels for certified
/// accuracy, the predictions for stability.
///
/// # Errors
/// [`CertifyError`] when classes or samples do not line up with `constants`.
pub fn radii<E: Grade>(
    constants: &MarginConstants<E>,
    logits: &Tensor,
    reference: &[u32],
) -> Result<Radii<E>, CertifyError> {
    let modalities = constants.modalities();
    let samples = samples(constants, logits, reference, |y, margins| {
        let l = |m: usize, j: usize| constants.get(m, y, j);
        let squares = |j: usize| (0..modalities).map(|m| l(m, j).powi(2)).sum::<f64>();
        let least = |norm: &dyn Fn(usize) -> f64| {
            let key = |&(j, mu): &(usize, f64)| (ratio(mu, norm(j)), mu);
            let order = |a: &(f64, f64), b: &(f64, f64)| a.0.total_cmp(&b.0).then(a.1.total_cmp(&b.1));
            let (j, mu) = *margins.iter().min_by(|a, b| order(&key(a), &key(b))).expect("two classes or more");
            (j, ratio(mu, norm(j)))
        };
        // Squares, their sum and the root round: up, like every constant.
        let up = 1. + (modalities as f64 + 2.) * f64::EPSILON;
        let (rival, joint) = least(&|j| squares(j).sqrt() * up);
        let unimodal = PerModality::from_fn(modalities, |m| least(&|j| l(m, j)).1);
        let positive = joint > 0.;
        let total = squares(rival);
        SampleRadii {
            reference: y as u32,
            rival: rival as u32,
            joint,
            unimodal: unimodal.map(|p| if positive { *p } else { 0. }),
            shares: PerModality::from_fn(modalities, |m| if total > 0. { l(m, rival).powi(2) / total } else { 0. }),
        }
    })?;
    Ok(Radii { samples, grade: PhantomData })
}

/// How far one may go along the ray `direction` of budgets: for every `t` below the result, the prediction stands
/// whenever each modality moves at most `t * direction[m]` at once (T1). `min_j mu_j / sum_m direction[m] L[m][y][j]`.
///
/// With `direction = (eps_1, ..., eps_M)`, a result above 1 means: proved against per-modality budgets `eps`.
///
/// # Errors
/// As [`radii`]; also when a component of `direction` is negative or not finite.
pub fn ray<E: Grade>(
    constants: &MarginConstants<E>,
    logits: &Tensor,
    reference: &[u32],
    direction: &PerModality<f64>,
) -> Result<Vec<f64>, CertifyError> {
    if direction.len() != constants.modalities() {
        return Err(CertifyError::shape("components of the ray", constants.modalities(), direction.len()));
    }
    if let Some(value) = direction.iter().find(|d| !(d.is_finite() && **d >= 0.)) {
        return Err(CertifyError::Bound { what: "component of the ray".into(), value: *value });
    }
    let up = 1. + (direction.len() as f64 + 1.) * f64::EPSILON;
    samples(constants, logits, reference, |y, margins| {
        let spent = |j: usize| direction.iter().enumerate().map(|(m, d)| d * constants.get(m, y, j)).sum::<f64>() * up;
        margins.iter().map(|&(j, mu)| ratio(mu, spent(j))).fold(f64::INFINITY, f64::min)
    })
}

/// Calls `f` with each sample's reference class and its margins `(rival, h_y - h_rival)`, rounded down.
fn samples<E: Grade, T>(
    constants: &MarginConstants<E>,
    logits: &Tensor,
    reference: &[u32],
    f: impl Fn(usize, &[(usize, f64)]) -> T,
) -> Result<Vec<T>, CertifyError> {
    let (batch, classes) = logits.dims2()?;
    if classes != constants.classes() || classes < 2 {
        let expected = format!("{} classes, at least 2", constants.classes());
        return Err(CertifyError::shape("logits", expected, format!("{classes} classes")));
    }
    if reference.len() != batch {
        return Err(CertifyError::shape("reference classes", batch, reference.len()));
    }
    let rows = logits.to_dtype(DType::F64)?.to_vec2::<f64>()?;
    let each = rows.iter().zip(reference).enumerate().map(|(sample, (h, &class))| {
        let y = class as usize;
        if y >= classes {
            return Err(CertifyError::Class { sample, class, classes });
        }
        let margins: Vec<_> = (0..classes).filter(|&j| j != y).map(|j| (j, (h[y] - h[j]).next_down())).collect();
        Ok(f(y, &margins))
    });
    each.collect()
}
