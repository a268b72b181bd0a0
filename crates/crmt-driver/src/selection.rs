//! What the selection split says of a model after each epoch, and which number chooses the best.
//! Does not know how a model is trained.
use crate::{
    batches::EVAL_BATCH,
    drawn::{drawn, ids},
    lipschitz::scales,
    plan::Plan,
};
use anyhow::Result;
use crmt_attacks::{Budget, Draws, Goal, Loss, Pgd};
use crmt_core::{AdditiveClassifier, Fusion, Streams};
use crmt_data::{DataSet, Split};
use crmt_fusion::Model;
use crmt_train::{RadiusHinge, Selected, Tables};

/// The number that chooses.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Criterion {
    /// Accuracy.
    Clean,
    /// Accuracy under the probing attack.
    Attacked,
    /// The mean radius, clipped at this one. It takes features to be 1-Lipschitz: it steers, and
    /// never certifies.
    Certified(f64),
}

impl Criterion {
    /// What `plan` asks for.
    pub fn of(plan: &Plan) -> Self {
        let certified = plan.train.objective == "certified";
        match (plan.select.criterion.as_str(), certified) {
            ("certified", _) | ("auto", true) => Self::Certified(plan.certified.eps),
            ("attacked", _) => Self::Attacked,
            _ => Self::Clean,
        }
    }
}

/// A `select.split` on which whatever is reported afterwards is optimistic.
pub const AS_RELEASED: &str = "as-released";

/// Measures `model`.
pub fn select(
    plan: &Plan,
    data: &DataSet,
    model: &Model,
    criterion: Criterion,
) -> Result<Selected> {
    let split = if plan.select.split == AS_RELEASED {
        &data.report
    } else {
        &data.select
    };
    let (accuracy, radius) = clean(model, split, criterion)?;
    let attacked = match plan.select.samples {
        0 => None,
        _ => Some(attacked(plan, split, model)?),
    };
    let score = match criterion {
        Criterion::Clean => accuracy,
        Criterion::Attacked => attacked.unwrap_or(accuracy),
        Criterion::Certified(_) => radius,
    };
    Ok(Selected {
        accuracy,
        attacked,
        score,
    })
}

/// Accuracy of `model` on a split.
pub fn accuracy(model: &Model, split: &Split) -> Result<f64> {
    Ok(clean(model, split, Criterion::Clean)?.0)
}

/// Accuracy, and the mean clipped radius if that is the criterion.
fn clean(model: &Model, split: &Split, criterion: Criterion) -> Result<(f64, f64)> {
    let tables = Tables::Pairwise {
        rows: model.head().rows()?,
        features: scales(model),
    };
    let (mut right, mut radius) = (0.0, 0.0);
    for batch in split.batches(EVAL_BATCH) {
        let batch = batch?;
        let scores = model.scores(&batch.inputs)?;
        right += crmt_attacks::accuracy(&scores.logits()?, &batch.labels)? * batch.len() as f64;
        if let Criterion::Certified(target) = criterion {
            let radii =
                RadiusHinge::signed_radii(&tables, &scores, &batch.labels)?.to_vec1::<f32>()?;
            radius += radii
                .into_iter()
                .map(|r| f64::from(r).min(target))
                .sum::<f64>();
        }
    }
    let n = split.len() as f64;
    Ok((right / n, radius / n))
}

/// Accuracy of drawn samples under a quick attack.
fn attacked(plan: &Plan, split: &Split, model: &Model) -> Result<f64> {
    let attack = Pgd::quick(
        Budget::Joint(plan.select.eps),
        plan.select.steps,
        Loss::Margin,
    );
    let mut standing = 0;
    let streams = Streams::new(plan.seed);
    let samples = drawn(plan.select.samples, split.len(), &streams);
    for part in samples.chunks(EVAL_BATCH) {
        let batch = split.samples(part)?;
        let goal = Goal::Avoid(batch.labels.clone());
        let draws = Draws::for_samples(streams, ids(part));
        let outcome = crmt_attacks::run(&attack, model, &batch.inputs, &goal, &draws)?;
        standing += outcome.success.iter().filter(|broken| !**broken).count();
    }
    Ok(standing as f64 / samples.len() as f64)
}
