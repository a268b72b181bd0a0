//! The whole certified region of one sample, with its facets (theorem T1). Does not know missing
//! modalities.
//!
//! `R(x) = { eps >= 0 : sum_m eps_m L[m][y][j] < mu_j for all j != y }`: a polytope with at most
//! `K - 1` facets, closed downwards; empty exactly when the sample is misclassified or tied.
use crate::{
    CertifyError, Evaluated, Evidence, Grade, Limit, MarginConstants, Threat, WeightsHash,
    margins::{Margins, least},
    same_weights::check,
    threat::check_budgets,
};
use crmt_core::PerModality;
use std::marker::PhantomData;

/// The certified region of one sample.
#[derive(Debug, Clone, PartialEq)]
pub struct Region<E: Grade> {
    class: u32,
    rivals: Vec<u32>,
    margins: Vec<f64>,
    /// Row-major `[rivals, modalities]`.
    constants: Vec<f64>,
    modalities: usize,
    /// Of each margin, what one evaluation of the program may round, `[rivals]`; empty where
    /// nothing is executed.
    rounding: Vec<f64>,
    weights: Option<WeightsHash>,
    grade: PhantomData<E>,
}

/// The regions of samples with these logits (`[batch, classes]`; a tensor, or an
/// [`Evaluation`](crate::Evaluation)) around their `reference` classes.
///
/// # Errors
/// [`CertifyError`] when classes or samples do not line up with `constants`.
pub fn regions<E: Grade>(
    constants: &MarginConstants<E>,
    evaluated: &(impl Evaluated + ?Sized),
    reference: &[u32],
) -> Result<Vec<Region<E>>, CertifyError> {
    let modalities = constants.modalities();
    let margins = Margins::new(constants, evaluated, reference)?;
    let region = |(i, (y, mu)): (usize, (usize, &[f64]))| {
        let rivals = || (0..mu.len()).filter(|j| *j != y);
        Region {
            class: y as u32,
            rivals: rivals().map(|j| j as u32).collect(),
            margins: rivals().map(|j| mu[j]).collect(),
            constants: rivals()
                .flat_map(|j| (0..modalities).map(move |m| constants.get(m, y, j)))
                .collect(),
            modalities,
            rounding: margins
                .rounding(i)
                .map_or_else(Vec::new, |of| rivals().map(|j| of[j]).collect()),
            weights: constants.weights().cloned(),
            grade: PhantomData,
        }
    };
    Ok(margins.iter().enumerate().map(region).collect())
}

impl<E: Grade> Region<E> {
    /// What one evaluation of the program may take from the margin over rival number `j`.
    pub(crate) fn rounding(&self, j: usize) -> f64 {
        self.rounding.get(j).copied().unwrap_or(0.)
    }

    /// The class that stays predicted inside.
    pub fn class(&self) -> u32 {
        self.class
    }

    /// Number of modalities `M`.
    pub fn modalities(&self) -> usize {
        self.modalities
    }

    /// The rival of each facet, `[K - 1]`.
    pub fn rivals(&self) -> &[u32] {
        &self.rivals
    }

    /// `mu_j`, rounded down, `[K - 1]`.
    pub fn margins(&self) -> &[f64] {
        &self.margins
    }

    /// `L[m][y][j]`, rounded up, `[K - 1][M]`: with [`margins`](Self::margins), what a plot of the
    /// region needs.
    pub fn constants(&self) -> impl ExactSizeIterator<Item = &[f64]> {
        self.constants.chunks_exact(self.modalities)
    }

    /// Refuses every model but the one it was computed for: it says nothing of other weights.
    ///
    /// # Errors
    /// [`CertifyError::OtherWeights`], or [`CertifyError::UnknownWeights`] when the constants never
    /// said whose they are.
    pub fn check(&self, weights: &WeightsHash) -> Result<(), CertifyError> {
        check(self.weights.as_ref(), weights)
    }

    /// Why one may believe the region.
    pub fn evidence(&self) -> Evidence {
        E::EVIDENCE
    }

    /// Whether the class stands against every perturbation with `|d(m)| <= eps_m`, all modalities
    /// at once.
    ///
    /// # Errors
    /// [`CertifyError`] unless there is one finite budget of at least 0 per modality.
    pub fn contains(&self, eps: &PerModality<f64>) -> Result<bool, CertifyError> {
        check_budgets(eps, self.modalities)?;
        let ray = Threat::Ray(eps.clone());
        Ok(self
            .constants()
            .zip(&self.margins)
            .all(|(l, mu)| ray.spent(|m| l[m]) < *mu))
    }

    /// How far `threat` may grow, and the rival that limits it: `min_j mu_j / N(L_j)`.
    ///
    /// # Errors
    /// [`CertifyError`] when `threat` does not fit the modalities.
    pub fn limit(&self, threat: &Threat) -> Result<Limit, CertifyError> {
        threat.check(self.modalities)?;
        let spent: Vec<f64> = self.constants().map(|l| threat.spent(|m| l[m])).collect();
        let Limit { radius, rival } = least(&self.margins, &spent);
        Ok(Limit {
            radius,
            rival: self.rivals[rival as usize],
        })
    }

    /// `v(m) = (L_m / w_m)^2 / sum (L / w)^2` at the rival that limits [`Threat::L2`] (T8): the
    /// fraction of the squared budget that the worst attack spends on each modality. They sum to 1,
    /// or are all 0 if none moves the margin.
    ///
    /// # Errors
    /// As [`limit`](Self::limit).
    pub fn shares(&self, weights: &PerModality<f64>) -> Result<PerModality<f64>, CertifyError> {
        let rival = self.limit(&Threat::L2(weights.clone()))?.rival;
        let j = self
            .rivals
            .iter()
            .position(|r| *r == rival)
            .expect("a rival limits");
        let quotient = |m: usize| self.constants[j * self.modalities + m] / weights[m];
        let most = (0..self.modalities)
            .map(quotient)
            .fold(f64::MIN_POSITIVE, f64::max);
        let square = |m: usize| (quotient(m) / most).powi(2);
        let total: f64 = (0..self.modalities).map(square).sum();
        Ok(PerModality::from_fn(self.modalities, |m| {
            if total > 0. { square(m) / total } else { 0. }
        }))
    }

    /// `eps*_m = r sqrt(v(m)) / w_m`: how the worst attack of [`Threat::L2`] splits its budget at
    /// the radius `r`.
    ///
    /// # Errors
    /// As [`limit`](Self::limit).
    pub fn optimal_split(
        &self,
        weights: &PerModality<f64>,
    ) -> Result<PerModality<f64>, CertifyError> {
        let r = self.limit(&Threat::L2(weights.clone()))?.radius;
        let shares = self.shares(weights)?;
        Ok(PerModality::from_fn(self.modalities, |m| {
            if shares[m] > 0. {
                r * shares[m].sqrt() / weights[m]
            } else {
                0.
            }
        }))
    }
}
