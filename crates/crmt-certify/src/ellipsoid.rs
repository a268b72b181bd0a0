//! The certificate of a smoothed classifier: an ellipsoid around the input (theorem T14).
//! Does not know how votes are drawn.
use crate::{
    CertifyError, Evidence, WeightsHash, binomial::normal_quantile, same_weights::check,
    threat::check_budgets,
};
use crmt_core::PerModality;

/// `R = (Phi^-1(p_lower) - Phi^-1(p_upper)) / 2`, rounded down by 1e-12; 0 unless
/// `p_lower > p_upper`.
///
/// `p_lower`: a lower bound of the probability of the winning class; `p_upper`: an upper bound of
/// every other's. With `p_upper = 1 - p_lower` this is `Phi^-1(p_lower)`.
pub fn smoothed_radius(p_lower: f64, p_upper: f64) -> f64 {
    // Also false for NaN.
    if !(p_lower > p_upper && p_lower <= 1. && p_upper >= 0.) {
        return 0.;
    }
    // Quantiles are accurate to about 1e-14 where draws can reach.
    (0.5 * (normal_quantile(p_lower) - normal_quantile(p_upper)) - 1e-12).max(0.)
}

/// With confidence `1 - alpha`: the smoothed classifier predicts [`class`](Self::class) for every
/// perturbation with `sum_m |d(m)|^2 / sigma_m^2 < R^2`.
///
/// A statement about real arithmetic and about the *smoothed* classifier
/// `argmax_c P[f(x + noise) = c]`, not about `f`. Distances are in declared units
/// ([`crmt_core::Modality::scale`]).
#[derive(Debug, Clone, PartialEq)]
pub struct SmoothCertificate {
    pub(crate) class: u32,
    pub(crate) radius: f64,
    pub(crate) p_lower: f64,
    pub(crate) p_upper: f64,
    pub(crate) sigmas: PerModality<f64>,
    pub(crate) alpha: f64,
    pub(crate) weights: Option<WeightsHash>,
}

impl SmoothCertificate {
    /// The class that stays predicted.
    pub fn class(&self) -> u32 {
        self.class
    }

    /// `R`, in standard deviations of the noise.
    pub fn radius(&self) -> f64 {
        self.radius
    }

    /// The lower bound of the probability of [`class`](Self::class), and the upper bound of any
    /// other's.
    pub fn probabilities(&self) -> (f64, f64) {
        (self.p_lower, self.p_upper)
    }

    /// `sigma(m)`, in declared units.
    pub fn sigmas(&self) -> &PerModality<f64> {
        &self.sigmas
    }

    /// Whether the class stands against every perturbation with `|d(m)| <= eps_m`, all modalities
    /// at once: `sum_m eps_m^2 / sigma_m^2 < R^2`. Where `sigma_m = 0`, only `eps_m = 0` does.
    ///
    /// # Errors
    /// [`CertifyError`] unless there is one finite budget of at least 0 per modality.
    pub fn contains(&self, eps: &PerModality<f64>) -> Result<bool, CertifyError> {
        check_budgets(eps, self.sigmas.len())?;
        Ok(self.length(eps) < self.radius)
    }

    /// `P(m) = sigma_m R`: holds for every smaller perturbation of modality `m` alone.
    pub fn unimodal(&self) -> PerModality<f64> {
        self.sigmas.map(|s| (s * self.radius).next_down().max(0.))
    }

    /// `min_m sigma_m R`: holds for every perturbation of smaller joint l2 norm.
    pub fn joint(&self) -> f64 {
        self.unimodal().into_iter().fold(f64::INFINITY, f64::min)
    }

    /// `R min_m w_m sigma_m`: holds for every perturbation with `sqrt(sum_m w_m^2 |d(m)|^2)` below
    /// it.
    ///
    /// # Errors
    /// [`CertifyError`] unless there is one finite weight of at least 0 per modality.
    pub fn weighted(&self, weights: &PerModality<f64>) -> Result<f64, CertifyError> {
        check_budgets(weights, self.sigmas.len())?;
        let each = self
            .unimodal()
            .into_iter()
            .zip(weights)
            .map(|(p, w)| (w * p).next_down().max(0.));
        Ok(each.fold(f64::INFINITY, f64::min))
    }

    /// `R / sqrt(sum_m theta_m^2 / sigma_m^2)`: how far one may go along the ray `theta` of
    /// budgets.
    ///
    /// # Errors
    /// [`CertifyError`] unless there is one finite component of at least 0 per modality.
    pub fn ray(&self, theta: &PerModality<f64>) -> Result<f64, CertifyError> {
        check_budgets(theta, self.sigmas.len())?;
        Ok(crate::ratio(self.radius, self.length(theta)))
    }

    /// Refuses every model but the one whose votes were counted.
    ///
    /// # Errors
    /// [`CertifyError::OtherWeights`] or [`CertifyError::UnknownWeights`].
    pub fn check(&self, weights: &WeightsHash) -> Result<(), CertifyError> {
        check(self.weights.as_ref(), weights)
    }

    /// Always [`Evidence::Confident`].
    pub fn evidence(&self) -> Evidence {
        Evidence::Confident { alpha: self.alpha }
    }

    /// `sqrt(sum_m eps_m^2 / sigma_m^2)`, rounded up.
    fn length(&self, eps: &PerModality<f64>) -> f64 {
        let each = eps
            .iter()
            .zip(&self.sigmas)
            .map(|(e, s)| if *e == 0. { 0. } else { e / s });
        each.map(|q| q * q).sum::<f64>().sqrt() * (1. + (eps.len() as f64 + 4.) * f64::EPSILON)
    }
}
