//! Decision boundaries of a model, linearised at a point. Does not know what is done with them.
use crate::{
    Error, Goal, Loss, Problem, Result,
    apgd::rivals,
    hyperplane::{Plane, Space},
    points::Rows,
};
use candle_core::{DType, Tensor};
use crmt_core::PerModality;

/// One boundary of every sample.
#[derive(Debug, Clone)]
pub(crate) enum Boundary {
    /// Of the goal itself: [`Loss::Margin`].
    Goal,
    /// To a class of each sample: its logit minus the label's.
    Classes(Vec<u32>),
}

impl Boundary {
    /// What there is to cross: the goal's boundary for [`Goal::Reach`]; for [`Goal::Avoid`] those
    /// to the `most` most likely wrong classes of the clean inputs, the most likely first, or to as
    /// many as there are. A forward evaluation.
    pub fn all(problem: &Problem<'_>, most: usize) -> Result<Vec<Self>> {
        match problem.goal() {
            Goal::Reach(_) => Ok(vec![Self::Goal]),
            Goal::Avoid(_) => Self::rivals(problem, most),
        }
    }

    /// As [`all`](Self::all), for attacks that choose their targets themselves.
    pub fn rivals(problem: &Problem<'_>, most: usize) -> Result<Vec<Self>> {
        let ranked = rivals(problem)?;
        let ranks = ranked.iter().map(Vec::len).min().unwrap_or(0).min(most);
        Ok((0..ranks)
            .map(|rank| Self::Classes(ranked.iter().map(|r| r[rank]).collect()))
            .collect())
    }

    /// Of some of the samples.
    pub fn select(&self, rows: &[u32]) -> Self {
        match self {
            Self::Goal => Self::Goal,
            Self::Classes(classes) => {
                Self::Classes(rows.iter().map(|i| classes[*i as usize]).collect())
            }
        }
    }

    /// `[batch]`; at least 0 behind the boundary.
    fn value(&self, logits: &Tensor, goal: &Goal) -> Result<Tensor> {
        let Self::Classes(classes) = self else {
            return Loss::Margin.value(logits, goal);
        };
        let classes = Tensor::new(classes.as_slice(), logits.device())?.unsqueeze(1)?;
        Ok(
            (logits.gather(&classes, 1)? - logits.gather(&goal.labels().unsqueeze(1)?, 1)?)?
                .squeeze(1)?,
        )
    }
}

/// Per sample the nearest of these boundaries at `x`, as if all were planes, and the logits at `x`.
/// A forward and a backward evaluation for each boundary. `radii`: `[modality][sample]`.
pub(crate) fn nearest(
    problem: &Problem<'_>,
    space: &Space<'_>,
    radii: &PerModality<Vec<f64>>,
    boundaries: &[Boundary],
    x: &PerModality<Tensor>,
) -> Result<(Vec<Plane>, Tensor)> {
    let mut nearest: Vec<(f64, Plane)> = vec![];
    let mut logits = None;
    for boundary in boundaries {
        let scalar = |logits: &Tensor| Ok(boundary.value(logits, problem.goal())?.sum_all()?);
        let (gradients, here) = problem.gradients_of(space.budget(), x, scalar)?;
        let values = boundary
            .value(&here, problem.goal())?
            .to_dtype(DType::F64)?
            .to_vec1::<f64>()?;
        let normals = Rows::of_gradients(&gradients, values.len())?;
        for (i, value) in values.into_iter().enumerate() {
            let plane = Plane {
                normal: normals.of(i),
                value,
            };
            let own: Vec<f64> = radii.iter().map(|r| r[i]).collect();
            let distance = space.distance(&own, &plane);
            match nearest.get_mut(i) {
                None => nearest.push((distance, plane)),
                Some(best) if distance < best.0 => *best = (distance, plane),
                Some(_) => {}
            }
        }
        logits.get_or_insert(here);
    }
    let logits = logits.ok_or(Error::Setting(
        "an attack on boundaries needs at least one rival class",
    ))?;
    Ok((
        nearest.into_iter().map(|(_, plane)| plane).collect(),
        logits,
    ))
}
