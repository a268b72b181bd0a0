//! What can stop training.

/// Why a step or an epoch failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The loss is NaN or infinite.
    #[error(
        "{phase}, epoch {epoch}, batch {batch}: the loss is {loss}; lower the learning rate, or clip gradients"
    )]
    NonFiniteLoss {
        /// Which phase.
        phase: String,
        /// From 1.
        epoch: u64,
        /// From 1.
        batch: u64,
        /// The value.
        loss: f64,
    },
    /// An epoch had no batch.
    #[error(
        "{phase}, epoch {epoch}: no batch; the training split is smaller than one batch, lower the batch size"
    )]
    EmptyEpoch {
        /// Which phase.
        phase: String,
        /// From 1.
        epoch: u64,
    },
    /// A saved state can't be gone on from.
    #[error("{0}")]
    State(String),
    /// A strategy does not fit the model.
    #[error("{0}")]
    Strategy(String),
    /// Reading a batch failed.
    #[error("reading a batch: {0}")]
    Source(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The inner attack of adversarial training failed.
    #[error("adversarial training: {0}")]
    Attack(#[from] crmt_attacks::Error),
    /// The model and the batch do not fit, or a tensor operation failed.
    #[error(transparent)]
    Model(#[from] crmt_core::Error),
    /// A tensor operation failed.
    #[error(transparent)]
    Tensor(#[from] candle_core::Error),
}

/// Result in this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;
