//! What can go wrong in the vocabulary itself.

/// A mismatch between a model and what it is given, or a tensor operation that failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A per-modality collection does not line up with the model.
    #[error("{what}: expected one for each of {expected} modalities, got {got}")]
    ModalityCount {
        /// Which collection.
        what: &'static str,
        /// How many the model has.
        expected: usize,
        /// How many were given.
        got: usize,
    },
    /// An input has the wrong shape.
    #[error("modality `{modality}`: expected samples of shape {expected:?}, got {got:?}")]
    Shape {
        /// Name of the modality.
        modality: String,
        /// Shape of one sample.
        expected: Vec<usize>,
        /// Shape of one sample as given.
        got: Vec<usize>,
    },
    /// Modalities of one batch have different numbers of rows.
    #[error("modality {modality}: {got} rows for {expected} labels")]
    Rows {
        /// Index of the modality.
        modality: usize,
        /// Number of labels.
        expected: usize,
        /// Number of rows.
        got: usize,
    },
    /// A value that should influence the output does not.
    #[error(
        "modality {modality} has no gradient: the classifier does not depend on it differentiably"
    )]
    NoGradient {
        /// Index of the modality.
        modality: usize,
    },
    /// The tensor library refused.
    #[error(transparent)]
    Tensor(#[from] candle_core::Error),
}

/// Result in this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;
