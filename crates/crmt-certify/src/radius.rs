//! Radii: margins divided by constants, least over *all* rivals (theorems T1, T2, T8).
//! Does not know where constants come from, only what grade they have.
use crate::{
    CertifyError, Evaluated, Evidence, Grade, Limit, MarginConstants, Program, Proved, Threat,
    WeightsHash,
    margins::{Margins, least},
    same_weights::{check, common},
};
use crmt_core::PerModality;
use std::marker::PhantomData;

/// What is known of one sample.
#[derive(Debug, Clone, PartialEq)]
pub struct SampleRadii {
    /// The class that stays predicted within the radii.
    pub reference: u32,
    /// The rival that limits the joint radius (for a radius of 0: the one with the least margin).
    pub rival: u32,
    /// Joint l2 radius over all modalities: `min_j mu_j / sqrt(sum_m L[m][y][j]^2)`. 0 unless every
    /// margin is positive.
    pub joint: f64,
    /// `P(m)`, radius when only modality `m` moves: `min_j mu_j / L[m][y][j]`.
    pub unimodal: PerModality<f64>,
    /// Vulnerability shares `v(m) = L[m]^2 / sum L^2` at the binding rival: the fraction of squared
    /// budget that the worst joint attack spends on each modality. They sum to 1, or are all 0 if
    /// no modality moves the margin.
    pub shares: PerModality<f64>,
}

/// Radii of a batch, and the grade of their evidence.
#[derive(Debug, Clone, PartialEq)]
pub struct Radii<E: Grade> {
    samples: Vec<SampleRadii>,
    weights: Option<WeightsHash>,
    program: Program,
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

    /// What they are about: the network in real arithmetic, or a program that computes it.
    pub fn program(&self) -> Program {
        self.program
    }

    /// Joint radii, in batch order.
    pub fn joint(&self) -> Vec<f64> {
        self.samples.iter().map(|s| s.joint).collect()
    }

    /// Radii `P(m)` of one modality, in batch order.
    pub fn unimodal(&self, modality: usize) -> Vec<f64> {
        self.samples.iter().map(|s| s.unimodal[modality]).collect()
    }

    /// Which weights they are of, if the constants say so ([`MarginConstants::for_weights`]).
    pub fn weights(&self) -> Option<&WeightsHash> {
        self.weights.as_ref()
    }

    /// Appends the radii of another batch. Of different weights, the whole no longer says which; of
    /// different programs, it is about none.
    pub fn extend(&mut self, other: Self) {
        self.program = if self.program == other.program {
            self.program
        } else {
            Program::Real
        };
        self.weights = common(self.weights.as_ref(), other.weights.as_ref());
        self.samples.extend(other.samples);
    }
}

impl Radii<Proved> {
    /// One certificate per sample; `None` where the radius is 0.
    pub fn certificates(&self) -> Vec<Option<Certificate>> {
        let certificate = |s: &SampleRadii| Certificate {
            sample: s.clone(),
            weights: self.weights.clone(),
            program: self.program,
        };
        self.samples
            .iter()
            .map(|s| (s.joint > 0.).then(|| certificate(s)))
            .collect()
    }
}

/// A proved statement: the prediction is [`class`](Self::class) for every input closer than
/// [`joint`](Self::joint).
///
/// Obtained from [`Radii::certificates`], which exists for proved constants only.
#[derive(Debug, Clone, PartialEq)]
pub struct Certificate {
    sample: SampleRadii,
    weights: Option<WeightsHash>,
    program: Program,
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

    /// Refuses every model but the one it was computed for: it says nothing of other weights.
    ///
    /// # Errors
    /// [`CertifyError::OtherWeights`], or [`CertifyError::UnknownWeights`] when the constants never
    /// said whose they are.
    pub fn check(&self, weights: &WeightsHash) -> Result<(), CertifyError> {
        check(self.weights.as_ref(), weights)
    }

    /// What the statement is about: the network in real arithmetic, or a program that computes it.
    pub fn program(&self) -> Program {
        self.program
    }

    /// Always [`Evidence::Proved`].
    pub fn evidence(&self) -> Evidence {
        Evidence::Proved
    }
}

/// Radii of samples with these logits (`[batch, classes]`; a tensor, or an
/// [`Evaluation`](crate::Evaluation)) around their `reference` classes: the true labels for
/// certified accuracy, the predictions for stability.
///
/// # Errors
/// [`CertifyError`] when classes or samples do not line up with `constants`.
pub fn radii<E: Grade>(
    constants: &MarginConstants<E>,
    evaluated: &(impl Evaluated + ?Sized),
    reference: &[u32],
) -> Result<Radii<E>, CertifyError> {
    let (classes, modalities) = (constants.classes(), constants.modalities());
    let margins = Margins::new(constants, evaluated, reference)?;
    let threat = Threat::joint(modalities);
    // Joint constants of a class serve every sample of that class.
    let mut joint: Vec<Option<Vec<f64>>> = vec![None; classes];
    let sample = |(y, mu): (usize, &[f64])| {
        let all = || {
            (0..classes)
                .map(|j| threat.spent(|m| constants.get(m, y, j)))
                .collect()
        };
        let Limit { radius, rival } = least(mu, joint[y].get_or_insert_with(all));
        let of_rival = |m: usize| constants.get(m, y, rival as usize);
        let most = (0..modalities)
            .map(of_rival)
            .fold(f64::MIN_POSITIVE, f64::max);
        let squares = PerModality::from_fn(modalities, |m| (of_rival(m) / most).powi(2));
        let total: f64 = squares.iter().sum();
        SampleRadii {
            reference: y as u32,
            rival,
            joint: radius,
            unimodal: PerModality::from_fn(modalities, |m| {
                if radius > 0. {
                    least(mu, constants.row(m, y)).radius
                } else {
                    0.
                }
            }),
            shares: squares.map(|s| if total > 0. { s / total } else { 0. }),
        }
    };
    let samples = margins.iter().map(sample).collect();
    let (weights, program) = (constants.weights().cloned(), constants.program());
    Ok(Radii {
        samples,
        weights,
        program,
        grade: PhantomData,
    })
}

/// How far `threat` may grow against each sample, and which rival limits it: `min_j mu_j / N(L_j)`
/// over *all* rivals (theorem T2). One number per sample; infinite where no modality that the
/// threat attacks moves any margin.
///
/// # Errors
/// As [`radii`]; also when `threat` does not fit the modalities.
pub fn limits<E: Grade>(
    constants: &MarginConstants<E>,
    evaluated: &(impl Evaluated + ?Sized),
    reference: &[u32],
    threat: &Threat,
) -> Result<Vec<Limit>, CertifyError> {
    threat.check(constants.modalities())?;
    let classes = constants.classes();
    let margins = Margins::new(constants, evaluated, reference)?;
    let mut spent: Vec<Option<Vec<f64>>> = vec![None; classes];
    let limit = |(y, mu): (usize, &[f64])| {
        let all = || {
            (0..classes)
                .map(|j| threat.spent(|m| constants.get(m, y, j)))
                .collect()
        };
        least(mu, spent[y].get_or_insert_with(all))
    };
    Ok(margins.iter().map(limit).collect())
}

/// How far one may go along the ray `direction` of budgets: for every `t` below the result, the
/// prediction stands whenever each modality moves at most `t * direction[m]` at once (T1).
/// `min_j mu_j / sum_m direction[m] L[m][y][j]`.
///
/// With `direction = (eps_1, ..., eps_M)`, a result above 1 means: proved against per-modality
/// budgets `eps`.
///
/// # Errors
/// As [`limits`] of [`Threat::Ray`].
pub fn ray<E: Grade>(
    constants: &MarginConstants<E>,
    evaluated: &(impl Evaluated + ?Sized),
    reference: &[u32],
    direction: &PerModality<f64>,
) -> Result<Vec<f64>, CertifyError> {
    let limits = limits(
        constants,
        evaluated,
        reference,
        &Threat::Ray(direction.clone()),
    )?;
    Ok(limits.into_iter().map(|l| l.radius).collect())
}
