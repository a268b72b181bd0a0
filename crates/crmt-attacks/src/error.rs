//! What can go wrong in an attack. Does not know how to recover.

/// An attack that could not be run as asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A radius is negative or not finite.
    #[error("{what}: expected a finite radius of at least 0, got {radius}")]
    Radius {
        /// Which budget, by modality where it has one.
        what: String,
        /// As given.
        radius: f64,
    },
    /// A standard deviation is negative or not finite.
    #[error(
        "modality `{modality}`: a standard deviation is a finite number of at least 0, got {sigma}"
    )]
    Sigma {
        /// Name of the modality.
        modality: String,
        /// As given.
        sigma: f64,
    },
    /// A collection does not have one entry for each sample.
    #[error("{what}: expected one for each of {expected} samples, got {got}")]
    Samples {
        /// Which collection.
        what: &'static str,
        /// Samples of the batch.
        expected: usize,
        /// As given.
        got: usize,
    },
    /// A class index beyond the number of classes.
    #[error("sample {sample}: class {class} does not exist, the model has {classes}")]
    Class {
        /// Row in the batch.
        sample: usize,
        /// As given.
        class: u32,
        /// Number of classes.
        classes: usize,
    },
    /// Nothing to be confused with.
    #[error("the model has {0} classes: an attack needs at least 2")]
    Classes(usize),
    /// A loss that needs more classes to be defined.
    #[error(
        "{loss} needs at least {needed} classes, the model has {classes}: climb the margin instead"
    )]
    FewClasses {
        /// Which loss.
        loss: &'static str,
        /// By its formula.
        needed: usize,
        /// Number of classes of the model.
        classes: usize,
    },
    /// A clean input is outside the domain that its modality declares.
    #[error(
        "modality `{modality}`: clean inputs reach {value}, outside their domain {domain}; declare the domain in the \
         units the encoder sees"
    )]
    OutOfDomain {
        /// Name of the modality.
        modality: String,
        /// The offending value.
        value: f64,
        /// As declared.
        domain: String,
    },
    /// A clean input or a proposal holds a NaN or an infinity.
    #[error("modality `{modality}`: {what} is not finite at sample {sample}")]
    NotFinite {
        /// Name of the modality.
        modality: String,
        /// Clean input, or which attack's proposal.
        what: String,
        /// Row in the batch.
        sample: usize,
    },
    /// Logits hold a NaN or an infinity where a prediction is needed.
    #[error(
        "sample {sample}: the model's logits are not finite, so that it predicts nothing; are the input's values too large for it?"
    )]
    Logits {
        /// Row in the batch.
        sample: usize,
    },
    /// A budget whose points the inputs' type can't hold.
    #[error(
        "modality `{modality}`: a budget of {radius:?} declared units of {scale:?} is beyond what {dtype} can hold: take one \
         below {most:.1e}"
    )]
    TooFar {
        /// Name of the modality.
        modality: String,
        /// The greatest of any sample, in declared units.
        radius: f64,
        /// Of the modality.
        scale: f64,
        /// Of the inputs.
        dtype: &'static str,
        /// In declared units.
        most: f64,
    },
    /// The logits do not depend on an attacked modality.
    #[error(
        "modality `{modality}` has no gradient: the classifier does not depend on it differentiably; if that is meant, \
         give it a radius of 0"
    )]
    NoGradient {
        /// Name of the modality.
        modality: String,
    },
    /// A proposal of the wrong shape.
    #[error(
        "modality `{modality}`: attack `{attack}` proposed shape {got:?} for inputs of shape {expected:?}"
    )]
    Proposal {
        /// Name of the modality.
        modality: String,
        /// Name of the attack.
        attack: String,
        /// Shape of the clean input.
        expected: Vec<usize>,
        /// Shape of the proposal.
        got: Vec<usize>,
    },
    /// A corruption that means nothing for samples of this shape.
    #[error(
        "modality `{modality}`: `{corruption}` does not apply to samples of shape {shape:?}; skip it there"
    )]
    NotApplicable {
        /// Name of the corruption.
        corruption: &'static str,
        /// Name of the modality.
        modality: String,
        /// Shape of one sample.
        shape: Vec<usize>,
    },
    /// Budgets of a curve that do not grow.
    #[error(
        "attack {0} of the curve has a smaller budget than the one before it: order them by strength"
    )]
    NotAscending(usize),
    /// A setting with no meaning.
    #[error("{0}")]
    Setting(&'static str),
    /// The vocabulary refused.
    #[error(transparent)]
    Core(#[from] crmt_core::Error),
}

impl From<candle_core::Error> for Error {
    fn from(e: candle_core::Error) -> Self {
        Self::Core(e.into())
    }
}

/// Result in this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;
