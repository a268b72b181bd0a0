//! What counts as success, and what an attack climbs to get there.
//! Does not know inputs, only logits.
use crate::{Error, Result};
use candle_core::{D, DType, Tensor};

/// What counts as success, per sample. Labels: `[batch]`, `u32`.
#[derive(Debug, Clone)]
pub enum Goal {
    /// Any prediction but these. A tie counts: the label's logit must exceed every other to stand.
    Avoid(Tensor),
    /// Exactly these predictions, by a logit that exceeds every other.
    Reach(Tensor),
}

impl Goal {
    /// The classes to avoid or to reach, `[batch]`.
    pub fn labels(&self) -> &Tensor {
        match self {
            Self::Avoid(labels) | Self::Reach(labels) => labels,
        }
    }

    pub(crate) fn with(&self, labels: Tensor) -> Self {
        match self {
            Self::Avoid(_) => Self::Avoid(labels),
            Self::Reach(_) => Self::Reach(labels),
        }
    }

    /// 1 if the label's margin must fall, -1 if it must rise.
    pub(crate) fn sign(&self) -> f64 {
        match self {
            Self::Avoid(_) => 1.,
            Self::Reach(_) => -1.,
        }
    }
}

/// What an attack climbs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Loss {
    /// Cross-entropy, as the log-odds `log sum_{j != y} exp(h_j) - h_y = log(exp(CE) - 1)`: an
    /// increasing function of the cross-entropy, so each sample's gradient has the same direction,
    /// but its size does not vanish with confidence (in `f32` the gradient of the cross-entropy
    /// itself is exactly 0 beyond a margin of about 17).
    CrossEntropy,
    /// Best rival minus own: `max_{j != y} h_j - h_y`.
    Margin,
    /// One class minus own, `h_j - h_y`, whatever the other rivals do: the way to a certificate's
    /// binding rival, and, one restart per class, the multi-targeted attack. Flat for samples whose
    /// own class it is.
    Class(u32),
    /// Difference of logits ratio (Croce & Hein 2020),
    /// `-(h_y - max_{j != y} h_j) / (h_(1) - h_(3) + 1e-12)` with `h_(1) >= h_(2) >= ...` all
    /// logits in order: the margin, invariant to a shift and to the scale of the logits. For three
    /// classes or more.
    Dlr,
    /// The same towards one class (Croce & Hein 2020),
    /// `-(h_y - h_j) / (h_(1) - (h_(3) + h_(4)) / 2 + 1e-12)`. For four classes or more; flat for
    /// samples whose own class it is.
    DlrTargeted(u32),
}

impl Loss {
    /// `[batch]`; larger is closer to `goal`. `logits`: `[batch, classes]`, two classes or more.
    ///
    /// # Errors
    /// When the model does not have the class, or not the number of classes, that the loss asks
    /// for.
    pub fn value(self, logits: &Tensor, goal: &Goal) -> Result<Tensor> {
        let labels = goal.labels().unsqueeze(1)?;
        let own = logits.gather(&labels, 1)?;
        if let Self::Class(class) | Self::DlrTargeted(class) = self {
            let classes = logits.dim(1)?;
            if class as usize >= classes {
                return Err(Error::Setting(
                    "a restart climbs towards a class that the model does not have",
                ));
            }
            if let Self::DlrTargeted(class) = self {
                return dlr_towards(
                    &Tensor::full(class, labels.elem_count(), logits.device())?,
                    logits,
                    goal,
                );
            }
            let rival = logits.narrow(1, class as usize, 1)?;
            return Ok(((rival - own)?.squeeze(1)? * goal.sign())?);
        }
        let rivals =
            logits.broadcast_add(&own_class(goal.labels(), logits, f64::from(f32::MIN) / 4.)?)?;
        let best = rivals.max_keepdim(D::Minus1)?;
        let rival = match self {
            Self::CrossEntropy => {
                // The shift cancels in the value and its derivative: treating it as a constant is
                // exact.
                let shift = best.detach();
                (rivals
                    .broadcast_sub(&shift)?
                    .exp()?
                    .sum_keepdim(D::Minus1)?
                    .log()?
                    + shift)?
            }
            _ => best,
        };
        let mut value = (rival - own)?;
        if self == Self::Dlr {
            let [first, third] = ranked("the DLR loss", logits, [0, 2])?;
            value = (value / ((first - third)? + 1e-12)?)?;
        }
        Ok((value.squeeze(1)? * goal.sign())?)
    }
}

/// [`Loss::DlrTargeted`] with a class for each sample, `[batch]` `u32`.
pub(crate) fn dlr_towards(classes: &Tensor, logits: &Tensor, goal: &Goal) -> Result<Tensor> {
    let [first, third, fourth] = ranked("the targeted DLR loss", logits, [0, 2, 3])?;
    let spread = ((first - ((third + fourth)? * 0.5)?)? + 1e-12)?;
    Ok((margin_towards(classes, logits, goal)? / spread.squeeze(1)?)?)
}

/// [`Loss::Class`] with a class for each sample, `[batch]` `u32`.
pub(crate) fn margin_towards(classes: &Tensor, logits: &Tensor, goal: &Goal) -> Result<Tensor> {
    let own = logits.gather(&goal.labels().unsqueeze(1)?, 1)?;
    let rival = logits.gather(&classes.unsqueeze(1)?, 1)?;
    Ok(((rival - own)?.squeeze(1)? * goal.sign())?)
}

/// The logits, each `[batch, 1]`, at these ranks: 0 is the greatest.
fn ranked<const N: usize>(
    loss: &'static str,
    logits: &Tensor,
    ranks: [usize; N],
) -> Result<[Tensor; N]> {
    let (needed, classes) = (ranks[N - 1] + 1, logits.dim(1)?);
    if classes < needed {
        return Err(Error::FewClasses {
            loss,
            needed,
            classes,
        });
    }
    let order = logits.detach().contiguous()?.arg_sort_last_dim(false)?;
    let mut found = ranks.map(|_| logits.clone());
    for (found, rank) in found.iter_mut().zip(ranks) {
        *found = logits.gather(&order.narrow(1, rank, 1)?.contiguous()?, 1)?;
    }
    Ok(found)
}

/// `value` at each sample's own class, 0 elsewhere, `[batch, classes]`.
fn own_class(labels: &Tensor, like: &Tensor, value: f64) -> Result<Tensor> {
    let eye = Tensor::eye(like.dim(1)?, like.dtype(), like.device())?.affine(value, 0.)?;
    Ok(eye.index_select(labels, 0)?)
}

/// Per sample: does the label's logit exceed every other? A tie is not correct, as for a
/// certificate; nor is a row that holds a NaN or an infinity, which says nothing.
///
/// `logits`: `[batch, classes]`; `labels`: `[batch]` `u32`.
///
/// # Errors
/// [`Error::Samples`] or [`Error::Class`] when labels do not fit.
pub fn correct(logits: &Tensor, labels: &Tensor) -> Result<Vec<bool>> {
    correct_rows(logits, &labels.to_vec1::<u32>()?)
}

/// Fraction of samples that are [`correct`]; NaN for no samples.
///
/// # Errors
/// As [`correct`].
pub fn accuracy(logits: &Tensor, labels: &Tensor) -> Result<f64> {
    let hits = correct(logits, labels)?;
    Ok(hits.iter().filter(|hit| **hit).count() as f64 / hits.len() as f64)
}

/// The class with the greatest logit, the first of equals. `logits`: `[batch, classes]`.
///
/// # Errors
/// [`Error::Logits`] names the first sample whose logits are not finite: it has no prediction.
/// [`answers`] goes on.
pub fn predictions(logits: &Tensor) -> Result<Vec<u32>> {
    let answer = |(sample, class): (usize, Option<u32>)| class.ok_or(Error::Logits { sample });
    answers(logits)?
        .into_iter()
        .enumerate()
        .map(answer)
        .collect()
}

/// As [`predictions`]; `None` for samples whose logits hold a NaN or an infinity.
///
/// # Errors
/// Unless `logits` is `[batch, classes]`.
pub fn answers(logits: &Tensor) -> Result<Vec<Option<u32>>> {
    let greatest = |row: &[f64]| {
        (1..row.len()).fold(
            0,
            |best, class| if row[class] > row[best] { class } else { best },
        )
    };
    let answer = |row: &Vec<f64>| (finite(row) && !row.is_empty()).then(|| greatest(row) as u32);
    Ok(rows_of(logits)?.iter().map(answer).collect())
}

/// Of each sample, in `f64`, so that no two different logits become equal.
fn rows_of(logits: &Tensor) -> Result<Vec<Vec<f64>>> {
    Ok(logits.to_dtype(DType::F64)?.to_vec2()?)
}

fn finite(row: &[f64]) -> bool {
    row.iter().all(|h| h.is_finite())
}

/// `log softmax`, `[batch, classes]`.
pub(crate) fn log_softmax(logits: &Tensor) -> crmt_core::Result<Tensor> {
    // The shift cancels in the value and its derivative: treating it as a constant is exact.
    let shifted = logits.broadcast_sub(&logits.max_keepdim(D::Minus1)?.detach())?;
    Ok(shifted.broadcast_sub(&shifted.exp()?.sum_keepdim(D::Minus1)?.log()?)?)
}

pub(crate) fn correct_rows(logits: &Tensor, labels: &[u32]) -> Result<Vec<bool>> {
    let (samples, classes) = logits.dims2()?;
    if labels.len() != samples {
        return Err(Error::Samples {
            what: "labels",
            expected: samples,
            got: labels.len(),
        });
    }
    check_labels(labels, classes)?;
    let stands = |row: &[f64], y: usize| {
        finite(row) && row.iter().enumerate().all(|(j, h)| j == y || row[y] > *h)
    };
    Ok(rows_of(logits)?
        .iter()
        .zip(labels)
        .map(|(row, y)| stands(row, *y as usize))
        .collect())
}

/// Per sample: is the label's margin below 0 by more than rounding, whatever the batch in which the
/// sample is judged? A kernel adds up in another order for another number of rows. Also where
/// logits are not finite.
pub(crate) fn clearly_lost(logits: &Tensor, labels: &[u32]) -> Result<Vec<bool>> {
    let lost = |row: &[f64], y: usize, slack: f64| rival(row, y) - row[y] > slack || !finite(row);
    clearly(logits, labels, lost)
}

/// Per sample: is the label's margin above 0 by more than rounding? As [`clearly_lost`].
pub(crate) fn clearly_correct(logits: &Tensor, labels: &[u32]) -> Result<Vec<bool>> {
    let stands = |row: &[f64], y: usize, slack: f64| finite(row) && row[y] - rival(row, y) > slack;
    clearly(logits, labels, stands)
}

fn clearly(
    logits: &Tensor,
    labels: &[u32],
    holds: impl Fn(&[f64], usize, f64) -> bool,
) -> Result<Vec<bool>> {
    /// Roundings of the greatest logit: some times what was seen between batches of different
    /// sizes.
    const ROUNDINGS: f64 = 64.;
    let rounding = if logits.dtype() == DType::F64 {
        f64::EPSILON
    } else {
        f64::from(f32::EPSILON)
    };
    let slack =
        |row: &[f64]| ROUNDINGS * rounding * row.iter().fold(0., |most: f64, h| most.max(h.abs()));
    Ok(rows_of(logits)?
        .iter()
        .zip(labels)
        .map(|(row, y)| holds(row, *y as usize, slack(row)))
        .collect())
}

/// The greatest logit of another class.
fn rival(row: &[f64], y: usize) -> f64 {
    row.iter()
        .enumerate()
        .filter(|(j, _)| *j != y)
        .fold(f64::NEG_INFINITY, |most, (_, h)| most.max(*h))
}

pub(crate) fn check_labels(labels: &[u32], classes: usize) -> Result<()> {
    match labels.iter().position(|y| *y as usize >= classes) {
        Some(sample) => Err(Error::Class {
            sample,
            class: labels[sample],
            classes,
        }),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::{Device, Var};

    #[test]
    fn log_odds_climb_like_cross_entropy_and_never_vanish() -> Result<()> {
        let labels = Tensor::new(&[0u32], &Device::Cpu)?;
        let h = Var::new(&[[2f64, 0.5, -1.]], &Device::Cpu)?;
        let value = Loss::CrossEntropy.value(&h, &Goal::Avoid(labels.clone()))?;
        let direct = (0.5f64.exp() + (-1f64).exp()).ln() - 2.;
        // A few roundings.
        assert!((value.to_vec1::<f64>()?[0] - direct).abs() < 1e-14);
        let g = value.sum_all()?.backward()?;
        let g = g
            .get(&h)
            .expect("depends")
            .flatten_all()?
            .to_vec1::<f64>()?;
        let rest = 0.5f64.exp() + (-1f64).exp();
        for (g, want) in g
            .iter()
            .zip([-1., 0.5f64.exp() / rest, (-1f64).exp() / rest])
        {
            assert!((g - want).abs() < 1e-14, "{g} for {want}");
        }
        // A margin of 200 in f32: the gradient of the cross-entropy itself would be 0.
        let h = Var::new(&[[200f32, 0., -1.]], &Device::Cpu)?;
        let g = Loss::CrossEntropy
            .value(&h, &Goal::Avoid(labels))?
            .sum_all()?
            .backward()?;
        let g = g
            .get(&h)
            .expect("depends")
            .flatten_all()?
            .to_vec1::<f32>()?;
        assert!(
            g.iter().all(|g| g.is_finite()) && (g[0] + 1.).abs() < 1e-6,
            "{g:?}"
        );
        Ok(())
    }

    #[test]
    fn ratios_of_logits_know_neither_shift_nor_scale() -> Result<()> {
        let labels = Tensor::new(&[0u32, 1], &Device::Cpu)?;
        let goal = Goal::Avoid(labels);
        let h = Tensor::new(&[[3f64, 1., 0., -1.], [3., 1., 0., -1.]], &Device::Cpu)?;
        // -(3 - 1) / (3 - 0), and -(1 - 3) / (3 - 0): positive once the label is not first.
        let want = [-2. / 3., 2. / 3.];
        for h in [h.clone(), h.affine(7., -2.)?] {
            let got = Loss::Dlr.value(&h, &goal)?.to_vec1::<f64>()?;
            assert!(
                got.iter().zip(want).all(|(a, b)| (a - b).abs() < 1e-11),
                "{got:?}"
            );
            // -(3 - 0) / (3 - (0 - 1) / 2), and -(1 - 0) / 3.5.
            let got = Loss::DlrTargeted(2).value(&h, &goal)?.to_vec1::<f64>()?;
            assert!(
                got.iter()
                    .zip([-3. / 3.5, -1. / 3.5])
                    .all(|(a, b)| (a - b).abs() < 1e-11),
                "{got:?}"
            );
        }
        let few =
            |loss: Loss, classes: usize| loss.value(&h.narrow(1, 0, classes)?.contiguous()?, &goal);
        let e = few(Loss::Dlr, 2).unwrap_err().to_string();
        assert!(e.contains("at least 3 classes"), "{e}");
        let e = few(Loss::DlrTargeted(2), 3).unwrap_err().to_string();
        assert!(e.contains("at least 4 classes"), "{e}");
        assert!(few(Loss::Dlr, 3).is_ok() && Loss::DlrTargeted(9).value(&h, &goal).is_err());
        // All logits equal: no information, no NaN.
        let h = Var::new(&[[1f32; 4]; 2], &Device::Cpu)?;
        let g = Loss::Dlr.value(&h, &goal)?.sum_all()?.backward()?;
        let g = g
            .get(&h)
            .expect("depends")
            .flatten_all()?
            .to_vec1::<f32>()?;
        assert!(g.iter().all(|g| g.is_finite()), "{g:?}");
        Ok(())
    }

    #[test]
    fn ties_and_nan_are_not_correct() -> Result<()> {
        let labels = Tensor::new(&[0u32, 1, 1], &Device::Cpu)?;
        let logits = Tensor::new(&[[1f32, 1.], [0., 1.], [0., f32::NAN]], &Device::Cpu)?;
        assert_eq!(correct(&logits, &labels)?, [false, true, false]);
        assert!((accuracy(&logits, &labels)? - 1. / 3.).abs() < 1e-15);
        assert_eq!(answers(&logits)?, [Some(0), Some(1), None]);
        let e = predictions(&logits).unwrap_err();
        assert!(matches!(e, Error::Logits { sample: 2 }), "{e}");
        let e = correct(&logits, &Tensor::new(&[0u32, 1, 2], &Device::Cpu)?).unwrap_err();
        assert!(
            matches!(
                e,
                Error::Class {
                    sample: 2,
                    class: 2,
                    classes: 2
                }
            ),
            "{e}"
        );
        // An infinite logit exceeds every other, and says nothing: neither right, nor standing
        // against an attack.
        let infinite = Tensor::new(
            &[[f32::INFINITY, 1.], [1., f32::NEG_INFINITY]],
            &Device::Cpu,
        )?;
        assert_eq!(
            correct(&infinite, &Tensor::new(&[0u32, 0], &Device::Cpu)?)?,
            [false; 2]
        );
        assert_eq!(
            (
                clearly_correct(&infinite, &[0, 0])?,
                clearly_lost(&infinite, &[0, 0])?
            ),
            (vec![false; 2], vec![true; 2])
        );
        Ok(())
    }

    #[test]
    fn a_rounding_beyond_the_boundary_is_not_clearly_beyond() -> Result<()> {
        let ulp = f32::EPSILON;
        let logits = Tensor::new(
            &[
                [1., 1. + ulp],
                [1., 1. + 100. * ulp],
                [1. + ulp, 1.],
                [1. + 100. * ulp, 1.],
            ],
            &Device::Cpu,
        )?;
        let labels = [0; 4];
        assert_eq!(correct_rows(&logits, &labels)?, [false, false, true, true]);
        assert_eq!(clearly_lost(&logits, &labels)?, [false, true, false, false]);
        assert_eq!(
            clearly_correct(&logits, &labels)?,
            [false, false, false, true]
        );
        Ok(())
    }
}
