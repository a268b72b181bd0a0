//! The rules of the released code, behind switches, to reproduce what it published. Nothing here is
//! ever proved: [`LipschitzRule`] gives estimates, [`rival_ratio`] training tensors.
use crate::{
    CertifyError, GradientNorms,
    estimate::{greatest_row, score_gradients},
    gradient_norms, objective,
};
use candle_core::{D, Tensor};
use crmt_core::{AdditiveClassifier, PerModality, Result};

/// How Lipschitz constants of the scores are estimated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LipschitzRule {
    /// The greatest gradient norm of each unweighted score: what the paper describes.
    #[default]
    MaxGradient,
    /// The released routine: gradients of the *weighted* scores, so that the weights count twice in
    /// a bound; the first modality's gradient accumulates over the classes `0..=k`; every other
    /// modality's constants are 0, because its gradient is cleared before it is read.
    AsReleased,
}

/// Which rival a training bound looks at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum RivalRule {
    /// The least ratio over all rivals: the bound.
    #[default]
    Minimum,
    /// The rival with the greatest logit (the released rule): an upper bound of the minimum, so no
    /// bound at all.
    RunnerUp,
}

impl LipschitzRule {
    /// Gradient norms of the scores at `inputs`, under this rule.
    ///
    /// # Errors
    /// As [`gradient_norms`].
    pub fn gradient_norms(
        self,
        model: &dyn AdditiveClassifier,
        inputs: &PerModality<Tensor>,
    ) -> Result<GradientNorms, CertifyError> {
        if self == Self::MaxGradient {
            return gradient_norms(model, inputs);
        }
        let mut first = vec![];
        let mut accumulated: Option<Tensor> = None;
        for gradients in score_gradients(model, inputs, |s| s.contributions())? {
            let sum = match accumulated {
                None => gradients[0].clone(),
                Some(sum) => (sum + &gradients[0])?,
            };
            first.push(greatest_row(&sum)?);
            accumulated = Some(sum);
        }
        let zeros = vec![0.; first.len()];
        let greatest = PerModality::from_fn(inputs.len(), |m| {
            if m == 0 { first.clone() } else { zeros.clone() }
        });
        Ok(GradientNorms::new(greatest, inputs[0].dim(0)?))
    }
}

/// The ratio of each sample that `rule` picks, signed, `[batch]`, differentiable.
///
/// Arguments as for [`objective::signed_ratios`].
pub fn rival_ratio(
    logits: &Tensor,
    labels: &Tensor,
    tables: &PerModality<Tensor>,
    rule: RivalRule,
) -> Result<Tensor> {
    let ratios = objective::signed_ratios(logits, labels, tables)?;
    match rule {
        RivalRule::Minimum => objective::min_ratio(&ratios),
        RivalRule::RunnerUp => Ok(ratios
            .gather(&runner_up(logits, labels)?.unsqueeze(1)?, 1)?
            .squeeze(1)?),
    }
}

/// The rival with the greatest logit, `[batch]` `u32`.
pub fn runner_up(logits: &Tensor, labels: &Tensor) -> Result<Tensor> {
    let classes = logits.dim(D::Minus1)?;
    let own = Tensor::eye(classes, logits.dtype(), logits.device())?.index_select(labels, 0)?;
    let low = Tensor::full(f64::from(f32::MIN) / 2., logits.shape(), logits.device())?
        .to_dtype(logits.dtype())?;
    Ok(own
        .gt(0f64)?
        .where_cond(&low, &logits.detach())?
        .argmax(D::Minus1)?)
}
