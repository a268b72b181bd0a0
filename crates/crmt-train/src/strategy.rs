//! How a batch becomes a loss.
//! Does not know the loop around it.
use crate::{Draws, Modulation, Prepared, Result};
use candle_core::{D, DType, Tensor};
use candle_nn::ops::softmax;
use crmt_core::{AdditiveScores, Batch, PerModality, Trainable};

/// A differentiable loss and what it is made of.
#[derive(Debug)]
pub struct StepLoss {
    /// Scalar; its gradient updates the model.
    pub total: Tensor,
    /// Named numbers for the record, e.g. `cross_entropy`.
    pub parts: Vec<(&'static str, Part)>,
    /// The scores that the loss was computed of, for the record, where the batch's labels are those
    /// of the scores; tracking nothing.
    pub unimodal: Option<PerModality<Tensor>>,
    /// What becomes of the encoders' gradients before the step; `None`: they are followed as they
    /// are.
    pub modulation: Option<Modulation>,
}

/// A number for the record.
#[derive(Debug, Clone)]
pub enum Part {
    /// Known already; the same until the next epoch, unless numbers are read to get it.
    Number(f64),
    /// A scalar that may still be computed; it is read with all others once the step's work has
    /// been handed to the device.
    Scalar(Tensor),
}

impl From<f64> for Part {
    fn from(number: f64) -> Self {
        Self::Number(number)
    }
}

impl From<&Tensor> for Part {
    fn from(scalar: &Tensor) -> Self {
        Self::Scalar(scalar.detach())
    }
}

impl StepLoss {
    /// A loss of these scores of `prepared`, made of `parts`, whose gradient is followed as it is.
    pub fn new(
        total: Tensor,
        parts: Vec<(&'static str, Part)>,
        prepared: &Prepared,
        scores: &AdditiveScores,
    ) -> Self {
        // Mixed samples have no single label.
        let unimodal = prepared
            .mixed
            .is_none()
            .then(|| scores.unimodal.map(Tensor::detach));
        Self {
            total,
            parts,
            unimodal,
            modulation: None,
        }
    }
}

/// One training method's objective.
pub trait Strategy {
    /// What becomes of `batch`, and all else that differs from step to step.
    fn prepare(&self, model: &dyn Trainable, batch: &Batch, draws: &Draws) -> Result<Prepared>;

    /// The loss of `model`. Until the next [`begin_epoch`](Self::begin_epoch) it is one function of
    /// the model's parameters and of `prepared`, so that a GPU may record and replay it: tensors of
    /// the strategy that it reads stay where they are until then. One that reads a number from the
    /// device can't be recorded.
    fn loss(&self, model: &dyn Trainable, prepared: &Prepared) -> Result<StepLoss>;

    /// Hears of each epoch (from 0) before its first batch, to measure the model.
    fn begin_epoch(&mut self, _model: &dyn Trainable, _epoch: u64) -> Result<()> {
        Ok(())
    }

    /// What it has measured, by name, if a loss depends on it.
    fn state(&self) -> Result<Vec<(String, Tensor)>> {
        Ok(vec![])
    }

    /// Takes over a saved [`state`](Self::state): `get` returns the tensor of a name.
    fn restore(&mut self, _get: &dyn Fn(&str) -> Option<Tensor>) -> Result<()> {
        Ok(())
    }
}

/// Scalars side by side in `f64`, `[n]`: they are read with one look at the device.
pub(crate) fn together(scalars: &[Tensor]) -> candle_core::Result<Tensor> {
    let all = scalars
        .iter()
        .map(|scalar| scalar.to_dtype(DType::F64)?.reshape(1));
    Tensor::cat(&all.collect::<candle_core::Result<Vec<_>>>()?, 0)
}

/// The value of a scalar that decides what is computed next.
pub(crate) fn scalar(x: &Tensor) -> candle_core::Result<f64> {
    x.to_dtype(DType::F64)?.to_scalar()
}

/// What each modality says alone: `a(m) ∘ s(m) + b/M`, `[batch, classes]`, which add up to the
/// logits.
pub(crate) fn solo_logits(scores: &AdditiveScores) -> Result<PerModality<Tensor>> {
    let share = (&scores.bias / scores.unimodal.len() as f64)?;
    Ok(scores
        .contributions()?
        .try_map(|own| own.broadcast_add(&share))?)
}

/// `Σ_i Σ_k targets_ik softmax(solo logits of m)_ik`: how sure of the right classes each modality
/// is; scalars in `f64`.
pub(crate) fn confidence(scores: &AdditiveScores, targets: &Tensor) -> Result<PerModality<Tensor>> {
    Ok(solo_logits(scores)?.try_map(|logits| sureness(logits, targets))?)
}

/// `Σ_i Σ_k targets_ik softmax(logits)_ik`, a scalar in `f64` that tracks nothing.
pub(crate) fn sureness(logits: &Tensor, targets: &Tensor) -> candle_core::Result<Tensor> {
    (softmax(&logits.detach(), D::Minus1)? * targets)?
        .sum_all()?
        .to_dtype(DType::F64)
}

/// Of scalars.
pub(crate) fn sum(scalars: &PerModality<Tensor>) -> candle_core::Result<Tensor> {
    scalars
        .iter()
        .skip(1)
        .try_fold(scalars[0].clone(), |sum, x| sum + x)
}
