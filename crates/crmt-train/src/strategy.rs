//! How a batch becomes a loss.
//! Does not know the loop around it.
use crate::Result;
use candle_core::Tensor;
use crmt_core::{Batch, Streams, Trainable};

/// A differentiable loss and what it is made of.
#[derive(Debug)]
pub struct StepLoss {
    /// Scalar; its gradient updates the model.
    pub total: Tensor,
    /// Named scalars for the record, e.g. `cross_entropy`.
    pub parts: Vec<(&'static str, f64)>,
}

/// Randomness of one training step: the run's streams, and which step this is.
#[derive(Debug, Clone, Copy)]
pub struct Draws {
    /// The run's streams.
    pub streams: Streams,
    /// Counts steps from 0 through the whole phase.
    pub step: u64,
}

/// One training method's objective.
pub trait Strategy {
    /// The loss of `model` on `batch`.
    fn loss(&self, model: &dyn Trainable, batch: &Batch, draws: &Draws) -> Result<StepLoss>;
}

/// For the record.
pub(crate) fn scalar(x: &Tensor) -> candle_core::Result<f64> {
    x.to_dtype(candle_core::DType::F64)?.to_scalar()
}
