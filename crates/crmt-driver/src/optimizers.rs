//! The optimizer that a plan names. Does not know how it steps.
use crate::plan::{OptimizerKind, Plan};
use anyhow::Result;
use crmt_core::Trainable;
use crmt_fusion::Learner;
use crmt_kernels::{AdamW, Optimizer, Parameter, Sgd};

/// What an optimizer moves.
pub fn parameters(model: &dyn Trainable) -> Vec<Parameter> {
    let learned = model.variables().into_iter().filter(|v| v.learned);
    learned.map(|v| Parameter::new(v.name, &v.var)).collect()
}

/// The one that `plan` names, over all that `learner` learns.
pub fn optimizer(plan: &Plan, learner: &Learner) -> Result<Box<dyn Optimizer>> {
    let parameters = parameters(learner);
    let weight_decay = plan.train.weight_decay;
    let adam = |decoupled| AdamW {
        weight_decay,
        decoupled,
        ..AdamW::default()
    };
    Ok(match plan.train.optimizer() {
        OptimizerKind::Adam => Box::new(adam(false).over(parameters)?),
        OptimizerKind::AdamW => Box::new(adam(true).over(parameters)?),
        OptimizerKind::Sgd => Box::new(
            Sgd {
                momentum: plan.train.momentum,
                weight_decay,
                ..Sgd::default()
            }
            .over(parameters)?,
        ),
    })
}
