//! Threats: shapes of the set of budgets `(eps_1, ..., eps_M)` that an adversary may spend, growing
//! with a radius. Does not know margins.
use crate::{
    CertifyError,
    numbers::{greatest, norm_up},
};
use crmt_core::PerModality;

/// A family of sets of budgets, one for each radius `r`. A class is safe from it below
/// `r = min_j mu_j / N(L_j)`, with `N` the dual norm (Hölder's inequality, attained; theorem T2).
///
/// Weights `w_m` are 1 over the natural size of a perturbation of modality `m`; all positive and
/// finite.
#[derive(Debug, Clone, PartialEq)]
pub enum Threat {
    /// `sqrt(sum_m (w_m eps_m)^2) < r`; `N(L) = sqrt(sum_m (L_m / w_m)^2)`.
    L2(PerModality<f64>),
    /// `sum_m w_m eps_m < r`; `N(L) = max_m L_m / w_m`.
    L1(PerModality<f64>),
    /// `max_m w_m eps_m < r`: every modality at once; `N(L) = sum_m L_m / w_m`.
    Linf(PerModality<f64>),
    /// `eps < r * theta`; `N(L) = sum_m theta_m L_m`. Components are finite and at least 0.
    Ray(PerModality<f64>),
    /// Only this modality moves; `N(L) = L_m`.
    Only(usize),
}

impl Threat {
    /// One l2 budget over all modalities, unit weights.
    pub fn joint(modalities: usize) -> Self {
        Self::L2(PerModality::from_fn(modalities, |_| 1.))
    }

    /// `N(L)` for the constants of one rival, rounded up.
    pub(crate) fn spent(&self, l: impl Fn(usize) -> f64) -> f64 {
        // Each term rounds at most three times (quotient, square, root), the sum once per modality.
        let up = |n: usize, x: f64| x * (1. + (n as f64 + 4.) * f64::EPSILON);
        // A positive constant stays one, however small.
        let positive = |exact_zero: bool, x: f64| {
            if x == 0. && !exact_zero {
                f64::from_bits(1)
            } else {
                x
            }
        };
        let each = |w: &PerModality<f64>| {
            let quotient = |(m, w): (usize, &f64)| positive(l(m) == 0., l(m) / w);
            w.iter().enumerate().map(quotient).collect::<Vec<_>>()
        };
        match self {
            Self::L2(w) => up(w.len(), norm_up(each(w).into_iter())),
            Self::L1(w) => up(w.len(), greatest(each(w).into_iter())),
            Self::Linf(w) => up(w.len(), each(w).iter().sum()),
            Self::Ray(t) => {
                let product = |(m, t): (usize, &f64)| positive(*t == 0. || l(m) == 0., t * l(m));
                up(t.len(), t.iter().enumerate().map(product).sum())
            }
            Self::Only(m) => l(*m),
        }
    }

    /// Refuses what does not fit `modalities`.
    pub(crate) fn check(&self, modalities: usize) -> Result<(), CertifyError> {
        let positive = |w: f64| w.is_finite() && w > 0.;
        match self {
            Self::L2(w) | Self::L1(w) | Self::Linf(w) => {
                per_modality("weight of the threat", w, modalities, positive)
            }
            Self::Ray(t) => per_modality("component of the ray", t, modalities, |t| {
                t.is_finite() && t >= 0.
            }),
            Self::Only(m) if *m < modalities => Ok(()),
            Self::Only(m) => Err(CertifyError::shape(
                "attacked modality",
                format!("below {modalities}"),
                m,
            )),
        }
    }
}

/// Budgets, one per modality, finite and at least 0.
pub(crate) fn check_budgets(eps: &PerModality<f64>, modalities: usize) -> Result<(), CertifyError> {
    per_modality("budget", eps, modalities, |e| e.is_finite() && e >= 0.)
}

fn per_modality(
    what: &str,
    values: &PerModality<f64>,
    modalities: usize,
    valid: impl Fn(f64) -> bool,
) -> Result<(), CertifyError> {
    if values.len() != modalities {
        return Err(CertifyError::shape(
            format!("{what}, one per modality"),
            modalities,
            values.len(),
        ));
    }
    match values.iter().enumerate().find(|(_, v)| !valid(**v)) {
        Some((m, v)) => Err(CertifyError::Bound {
            what: format!("modality {m}: {what}"),
            value: *v,
        }),
        None => Ok(()),
    }
}
