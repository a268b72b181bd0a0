//! What can go wrong on the way to a certificate. Does not know how to recover.
use crate::WeightsHash;

/// A Lipschitz constant could not be bounded.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AuditError {
    /// A layer declares that it has no global constant.
    #[error("layer `{layer}` has no global Lipschitz constant: {why}; certify a model without it")]
    Unbounded {
        /// Name of the layer.
        layer: String,
        /// Why there is none.
        why: String,
    },
    /// A layer holds infinite or NaN weights, or declares such a constant.
    #[error("layer `{layer}`: {what} must be finite, got {value}; was training stable?")]
    NotFinite {
        /// Name of the layer.
        layer: String,
        /// Which number.
        what: &'static str,
        /// As found.
        value: f64,
    },
    /// A layer whose weights have the wrong rank or no elements, or a stride of zero.
    #[error("layer `{layer}`: expected {expected}, got {got}")]
    Shape {
        /// Name of the layer.
        layer: String,
        /// What a valid layer has.
        expected: &'static str,
        /// As found.
        got: String,
    },
    /// An encoder that declares no layer.
    #[error(
        "an encoder without layers: declare what it computes; one that computes nothing is `Layer::Exact` with the constant 1"
    )]
    Empty,
    /// A layer that can't take what the layers before it put out.
    #[error(
        "layer `{layer}` takes {takes} {what}, the layers before it put out {before}: is a layer missing from the chain?"
    )]
    Follows {
        /// Name of the layer.
        layer: String,
        /// By its weights.
        takes: usize,
        /// Of what.
        what: &'static str,
        /// By the layers before.
        before: usize,
    },
    /// A kind of layer this auditor does not know.
    #[error(
        "layer {layer}: this auditor knows no bound for its kind; describe it with the kinds it knows"
    )]
    Unknown {
        /// The layer, as declared.
        layer: String,
    },
    /// The tensor library refused.
    #[error("layer `{layer}`: {source}")]
    Tensor {
        /// Name of the layer.
        layer: String,
        /// Its reason.
        source: candle_core::Error,
    },
}

/// Margins, weights and constants do not fit together.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CertifyError {
    /// A number that must be finite and not negative is something else.
    #[error("{what}: expected a finite number of at least 0, got {value}")]
    Bound {
        /// Which number.
        what: String,
        /// As given.
        value: f64,
    },
    /// Two things that belong together have different sizes.
    #[error("{what}: expected {expected}, got {got}")]
    Shape {
        /// Which pair of things.
        what: String,
        /// What fits.
        expected: String,
        /// As given.
        got: String,
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
    /// A certificate of one model asked about another.
    #[error("certified for weights {certified}, not for {given}; certify the new weights")]
    OtherWeights {
        /// Whose certificate it is.
        certified: WeightsHash,
        /// What it was asked about.
        given: WeightsHash,
    },
    /// A certificate that does not say which weights it is for.
    #[error(
        "the certificate does not say which weights it is for; name them with `for_weights` before certifying"
    )]
    UnknownWeights,
    /// Votes are missing, or more than agreed: a bound on them would not hold.
    #[error(
        "sample {id}: {got} votes of {expected}; a bound holds for the agreed number only, run to the end first"
    )]
    Votes {
        /// The caller's number of the sample.
        id: u64,
        /// As agreed before the first draw.
        expected: u64,
        /// As counted.
        got: u64,
    },
    /// Logits in another precision than `f64`.
    #[error(
        "logits are {got:?}, whose rounding no certificate covers: compute them in f64; for a certificate about an f32 program \
         convert its logits and take constants for `Program::F32`"
    )]
    Precision {
        /// As given.
        got: candle_core::DType,
    },
    /// Constants about a program, and logits without the lengths of their inputs.
    #[error(
        "these constants are about the program that computes in {program}, whose rounding grows with the inputs: certify an \
         `Evaluation` of logits and inputs"
    )]
    Lengths {
        /// Which program.
        program: crate::Program,
    },
    /// Constants or bounds that count distances differently, or are about different programs.
    #[error("{what} differ: {a} and {b}; they can't be combined")]
    Different {
        /// What of the two.
        what: &'static str,
        /// Of the one.
        a: String,
        /// Of the other.
        b: String,
    },
    /// A layer does not say what it rounds.
    #[error(
        "modality {modality}: a layer does not declare what it rounds (`Layer::Fixed`), so no certificate can be about the \
         program: declare `Layer::Exact` or `Layer::Rounded`"
    )]
    Rounding {
        /// By number.
        modality: usize,
    },
    /// Votes drawn otherwise than they are to be counted.
    #[error("sample {id}: its votes were drawn {drawn}, not {asked}; draw them anew")]
    Drawn {
        /// The caller's number of the sample.
        id: u64,
        /// Weights and noise of the votes.
        drawn: String,
        /// As agreed.
        asked: String,
    },
    /// A logit is NaN or infinite, so that there is no prediction to count.
    #[error(
        "sample {id}: the model's logits are not finite on a noisy copy of it; are its values, or sigma, too large?"
    )]
    NaN {
        /// The caller's number of the first sample with such a copy.
        id: u64,
    },
    /// The vocabulary refused.
    #[error(transparent)]
    Core(#[from] crmt_core::Error),
}

impl From<candle_core::Error> for CertifyError {
    fn from(e: candle_core::Error) -> Self {
        Self::Core(e.into())
    }
}

impl CertifyError {
    pub(crate) fn shape(
        what: impl Into<String>,
        expected: impl ToString,
        got: impl ToString,
    ) -> Self {
        Self::Shape {
            what: what.into(),
            expected: expected.to_string(),
            got: got.to_string(),
        }
    }
}
