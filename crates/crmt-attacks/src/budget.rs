//! Budgets: how far an attack may move an input. Does not know how inputs are moved.
use crate::{Error, Result};
use candle_core::DType;
use crmt_core::{Modality, PerModality};

/// How the size of a perturbation of one modality is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Norm {
    /// Euclidean.
    L2,
    /// Greatest absolute change.
    Linf,
}

/// How far an attack may move an input, in declared units (array distance divided by the modality's
/// scale).
#[derive(Debug, Clone, PartialEq)]
pub enum Budget {
    /// `sqrt(sum_m |d_m|_2^2) <= radius`: the attacker spends freely across modalities.
    Joint(f64),
    /// `|d_m| <= radii[m]`; 0 leaves a modality bit-identical.
    Each {
        /// Of every modality.
        norm: Norm,
        /// One per modality.
        radii: PerModality<f64>,
    },
}

impl Budget {
    /// Only modality `attacked` may move, by `radius` in l2: a uni-modal attack.
    pub fn only(attacked: usize, modalities: usize, radius: f64) -> Self {
        Self::Each {
            norm: Norm::L2,
            radii: PerModality::from_fn(modalities, |m| if m == attacked { radius } else { 0. }),
        }
    }

    /// What modality `m` may at most spend.
    pub fn radius(&self, m: usize) -> f64 {
        match self {
            Self::Joint(radius) => *radius,
            Self::Each { radii, .. } => radii[m],
        }
    }

    /// Whether `self` allows everything that `smaller` allows.
    pub(crate) fn contains(&self, smaller: &Self) -> bool {
        match (self, smaller) {
            (Self::Joint(a), Self::Joint(b)) => a >= b,
            (
                Self::Each { norm, radii },
                Self::Each {
                    norm: other,
                    radii: less,
                },
            ) => {
                norm == other
                    && radii.len() == less.len()
                    && radii.iter().zip(less.iter()).all(|(a, b)| a >= b)
            }
            _ => false,
        }
    }

    pub(crate) fn linf(&self) -> bool {
        matches!(
            self,
            Self::Each {
                norm: Norm::Linf,
                ..
            }
        )
    }

    /// Checks that every radius is a number, and that `dtype` holds what is as far away as that,
    /// `factors[m][i]` times for sample `i`.
    pub(crate) fn check(
        &self,
        modalities: &PerModality<Modality>,
        dtype: DType,
        factors: Option<&PerModality<Vec<f64>>>,
    ) -> Result<()> {
        let valid = |what: String, radius: f64| {
            if radius.is_finite() && radius >= 0. {
                Ok(())
            } else {
                Err(Error::Radius { what, radius })
            }
        };
        match self {
            Self::Joint(radius) => valid("joint budget".into(), *radius)?,
            Self::Each { radii, .. } => modalities
                .zip(radii, "radii of the budget")?
                .iter()
                .try_for_each(|(m, radius)| {
                    valid(format!("budget of modality `{}`", m.name), **radius)
                })?,
        }
        // A step crosses the whole ball; of `f64`, squares are taken.
        let holds = if dtype == DType::F64 {
            1e150
        } else {
            f64::from(f32::MAX) / 8.
        };
        for (m, modality) in modalities.iter().enumerate() {
            let greatest = factors
                .filter(|f| m < f.len())
                .map_or(1., |f| f[m].iter().copied().fold(0., f64::max));
            let (radius, most) = (self.radius(m) * greatest, holds / modality.scale);
            if radius > most {
                let (modality, scale) = (modality.name.clone(), modality.scale);
                return Err(Error::TooFar {
                    modality,
                    radius,
                    scale,
                    dtype: dtype.as_str(),
                    most,
                });
            }
        }
        Ok(())
    }
}
