//! Budgets: how far an attack may move an input, and the geometry of moving within them.
//! Does not know models.
use crate::{Error, Result};
use candle_core::{D, DType, Tensor};
use crmt_core::{Modality, PerModality};

/// How the size of a perturbation of one modality is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Norm {
    /// Euclidean.
    L2,
    /// Greatest absolute change.
    Linf,
}

/// How far an attack may move an input, in declared units (array distance divided by the modality's scale).
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
            (Self::Each { norm, radii }, Self::Each { norm: other, radii: less }) => {
                norm == other && radii.len() == less.len() && radii.iter().zip(less.iter()).all(|(a, b)| a >= b)
            }
            _ => false,
        }
    }

    fn linf(&self) -> bool {
        matches!(self, Self::Each { norm: Norm::Linf, .. })
    }

    pub(crate) fn check(&self, modalities: &PerModality<Modality>) -> Result<()> {
        let valid = |what: String, radius: f64| {
            if radius.is_finite() && radius >= 0. { Ok(()) } else { Err(Error::Radius { what, radius }) }
        };
        match self {
            Self::Joint(radius) => valid("joint budget".into(), *radius),
            Self::Each { radii, .. } => modalities
                .zip(radii, "radii of the budget")?
                .iter()
                .try_for_each(|(m, radius)| valid(format!("budget of modality `{}`", m.name), **radius)),
        }
    }
}

/// One batch's budget: the radius of each sample on modality `m` is `factors[m][i]` times the budget's.
#[derive(Debug, Clone)]
pub(crate) struct Ball<'a> {
    pub budget: &'a Budget,
    pub modalities: &'a PerModality<Modality>,
    /// Each `[batch, 1]`, in the inputs' type, and all the same for a joint budget; `None`: all 1.
    pub factors: Option<&'a PerModality<Tensor>>,
}

impl Ball<'_> {
    /// The nearest point of the ball, for each sample; modalities with no radius come back as `clean`, bit for bit.
    pub fn project(&self, clean: &PerModality<Tensor>, moved: &PerModality<Tensor>) -> Result<PerModality<Tensor>> {
        let deltas =
            moved.zip(clean, "clean inputs")?.try_enumerate(|m, (x, x0)| match self.budget.radius(m) > 0. {
                true => Ok::<_, Error>(Some((*x - *x0)?)),
                false => Ok(None),
            })?;
        let shrinks = if self.budget.linf() { deltas.map(|_| None) } else { self.shrinks(&deltas)? };
        clean.try_enumerate(|m, x0| {
            let Some(delta) = &deltas[m] else { return Ok(x0.clone()) };
            let delta = match &shrinks[m] {
                Some(shrink) => rows(delta)?.broadcast_mul(shrink)?,
                None => {
                    let limit = self.limit(m, delta)?;
                    let delta = rows(delta)?;
                    delta.broadcast_minimum(&limit)?.broadcast_maximum(&limit.neg()?)?
                }
            };
            Ok((x0 + delta.reshape(x0.shape())?)?)
        })
    }

    /// Per modality, by what each sample's perturbation must be multiplied, `[batch, 1]`; `None`: it does not move.
    fn shrinks(&self, deltas: &PerModality<Option<Tensor>>) -> Result<PerModality<Option<Tensor>>> {
        let lengths = self.lengths(deltas, -1)?;
        deltas.try_enumerate(|m, delta| {
            let (Some(delta), Some(length)) = (delta, &lengths[m]) else { return Ok(None) };
            let radius = self.radius(m, delta)?;
            // min(1, r / |d|), finite for |d| = 0: the numerator is then no larger than the denominator.
            Ok(Some(radius.broadcast_minimum(length)?.broadcast_div(&positive(length)?)?))
        })
    }

    /// l2 lengths `[batch, 1]`, each modality weighted by `scale^power`: joint, the same for every modality.
    fn lengths(&self, parts: &PerModality<Option<Tensor>>, power: i32) -> Result<PerModality<Option<Tensor>>> {
        let squares = parts.try_enumerate(|m, part| {
            let Some(part) = part else { return Ok::<_, Error>(None) };
            let squares = rows(part)?.sqr()?.sum_keepdim(D::Minus1)?;
            Ok(Some((squares * self.modalities[m].scale.powi(2 * power))?))
        })?;
        let joint = match self.budget {
            Budget::Joint(_) => squares.iter().flatten().cloned().map(Ok).reduce(|a, b| a? + b?).transpose()?,
            Budget::Each { .. } => None,
        };
        squares.try_map(|own| Ok(own.as_ref().map(|own| joint.as_ref().unwrap_or(own).sqrt()).transpose()?))
    }

    /// Moves `x` by `relative` times the radius in the steepest direction of `gradients`, per sample.
    ///
    /// Joint: one direction over all modalities, in declared units. Each, l2: one direction per modality. Each, linf:
    /// signs. A zero gradient moves nothing.
    pub fn step(
        &self,
        x: &PerModality<Tensor>,
        gradients: &PerModality<Option<Tensor>>,
        relative: f64,
    ) -> Result<PerModality<Tensor>> {
        if self.budget.linf() {
            return x.try_enumerate(|m, x| match &gradients[m] {
                Some(g) => {
                    let rate = (self.limit(m, x)? * relative)?;
                    Ok((x + rows(&g.sign()?)?.broadcast_mul(&rate)?.reshape(x.shape())?)?)
                }
                None => Ok(x.clone()),
            });
        }
        let mut gradients = gradients.clone();
        let mut lengths = self.lengths(&gradients, 1)?;
        if smallest(&lengths)? < UNDERFLOW {
            gradients = self.magnified(&gradients)?;
            lengths = self.lengths(&gradients, 1)?;
        }
        x.try_enumerate(|m, x| {
            let (Some(g), Some(length)) = (&gradients[m], &lengths[m]) else { return Ok(x.clone()) };
            // In units u = x / s the gradient is s g, and a step du is dx = s du.
            let rate = (self.radius(m, x)? * (relative * self.modalities[m].scale.powi(2)))?;
            // A magnified gradient has a length of 1 or more, or of 0: then it moves nothing, at any finite rate.
            let rate = rate.broadcast_div(&length.maximum(UNDERFLOW)?)?;
            Ok((x + rows(g)?.broadcast_mul(&rate)?.reshape(x.shape())?)?)
        })
    }

    /// Gradients divided by each sample's greatest entry (over all modalities for a joint budget), so that squares of
    /// tiny ones do not underflow; zeros stay zeros.
    fn magnified(&self, g: &PerModality<Option<Tensor>>) -> Result<PerModality<Option<Tensor>>> {
        let greatest = |g: &Tensor| -> Result<Tensor> { Ok(rows(g)?.abs()?.max_keepdim(D::Minus1)?) };
        let own = g.try_map(|g| g.as_ref().map(greatest).transpose())?;
        let joint = match self.budget {
            Budget::Joint(_) => {
                let all: Vec<&Tensor> = own.iter().flatten().collect();
                Some(Tensor::cat(&all, 1)?.max_keepdim(D::Minus1)?)
            }
            Budget::Each { .. } => None,
        };
        g.try_enumerate(|m, g| {
            let (Some(g), Some(own)) = (g, &own[m]) else { return Ok(None) };
            Ok(Some(rows(g)?.broadcast_div(&positive(joint.as_ref().unwrap_or(own))?)?))
        })
    }

    /// Distance of each sample in declared units, in `f64`, and that distance divided by what the budget allows (at
    /// most 1 inside; 0 for a distance of 0).
    ///
    /// The distance is the joint l2 norm, or the greatest change of any modality for an linf budget.
    pub fn spent(&self, clean: &PerModality<Tensor>, moved: &PerModality<Tensor>) -> Result<(Vec<f64>, Vec<f64>)> {
        let samples = clean[0].dim(0)?;
        let factors = moved.try_enumerate(|m, _| match self.factors {
            Some(f) => f[m].flatten_all()?.to_dtype(DType::F64)?.to_vec1::<f64>(),
            None => Ok(vec![1.; samples]),
        })?;
        let mut distance = vec![0f64; samples];
        let mut used = vec![0f64; samples];
        for (m, (x, x0)) in moved.zip(clean, "clean inputs")?.iter().enumerate() {
            let delta = rows(&(x.to_dtype(DType::F64)? - x0.to_dtype(DType::F64)?)?)?;
            let own = match self.budget.linf() {
                true => delta.abs()?.max_keepdim(D::Minus1)?,
                false => delta.sqr()?.sum_keepdim(D::Minus1)?.sqrt()?,
            };
            for (i, own) in own.flatten_all()?.to_vec1::<f64>()?.into_iter().enumerate() {
                let own = own / self.modalities[m].scale;
                // `f64::max` would hide a NaN, `hypot` of an infinity too.
                distance[i] = match self.budget.linf() {
                    _ if !own.is_finite() || distance[i].is_nan() => f64::NAN,
                    true => distance[i].max(own),
                    false => distance[i].hypot(own),
                };
                if own > 0. {
                    used[i] = used[i].max(own / (self.budget.radius(m) * factors[m][i]));
                }
            }
        }
        if let Budget::Joint(radius) = self.budget {
            let share = |(d, f): (&f64, &f64)| if *d > 0. { d / (radius * f) } else { 0. };
            used = distance.iter().zip(&factors[0]).map(share).collect();
        }
        Ok((distance, used))
    }

    /// The radius of each sample, `[batch, 1]` or `[1, 1]`, in declared units.
    fn radius(&self, m: usize, like: &Tensor) -> Result<Tensor> {
        let radius = self.budget.radius(m);
        Ok(match self.factors {
            Some(factors) => (&factors[m] * radius)?,
            None => Tensor::full(radius, (1, 1), like.device())?.to_dtype(like.dtype())?,
        })
    }

    /// The greatest change of an element, in the array's own units.
    fn limit(&self, m: usize, like: &Tensor) -> Result<Tensor> {
        Ok((self.radius(m, like)? * self.modalities[m].scale)?)
    }
}

/// `[batch, everything else]`.
fn rows(x: &Tensor) -> Result<Tensor> {
    Ok(x.reshape((x.dim(0)?, ()))?)
}

/// Lengths below this are measured again: squares of `f32` lose digits below 1e-38.
const UNDERFLOW: f64 = 1e-17;

/// The smallest of all lengths; infinite for none.
fn smallest(lengths: &PerModality<Option<Tensor>>) -> Result<f64> {
    let each = lengths.iter().flatten().map(|l| l.flatten_all()?.min(0)?.to_dtype(DType::F64)?.to_scalar::<f64>());
    Ok(each.collect::<candle_core::Result<Vec<_>>>()?.into_iter().fold(f64::INFINITY, f64::min))
}

/// For division: a zero becomes a number that is not, and is divided into a zero only.
fn positive(x: &Tensor) -> Result<Tensor> {
    Ok(x.maximum(f64::from(f32::MIN_POSITIVE))?)
}
