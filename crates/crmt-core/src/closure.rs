//! A closure as a classifier: for whoever has a model and no wish for a type of its own.
//! Does not know what the closure computes.
use crate::{Classifier, Modality, PerModality, Result};
use candle_core::Tensor;
use std::fmt;

/// A [`Classifier`] from its modalities and a function of its inputs, `[batch, ...]` each, to
/// logits `[batch, classes]`.
///
/// ```
/// use candle_core::{DType, Device, Tensor};
/// use crmt_core::{Classifier, Domain, FnClassifier, Modality, PerModality};
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let weights = Tensor::ones((3, 2), DType::F32, &Device::Cpu)?;
/// let sensor = Modality::new("radar", &[3], Domain::Unbounded);
/// let model = FnClassifier::new(sensor, |x| Ok(x[0].matmul(&weights)?));
/// let one_input = Tensor::ones((5, 3), DType::F32, &Device::Cpu)?;
/// assert_eq!(model.logits(&one_input.into())?.dims(), [5, 2]);
/// # Ok(())
/// # }
/// ```
pub struct FnClassifier<F> {
    modalities: PerModality<Modality>,
    logits: F,
}

impl<F: Fn(&PerModality<Tensor>) -> Result<Tensor>> FnClassifier<F> {
    /// `modalities`: what `logits` takes, in order; one [`Modality`] if it takes one input.
    pub fn new(modalities: impl Into<PerModality<Modality>>, logits: F) -> Self {
        Self {
            modalities: modalities.into(),
            logits,
        }
    }
}

impl<F> fmt::Debug for FnClassifier<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FnClassifier")
            .field("modalities", &self.modalities)
            .finish_non_exhaustive()
    }
}

impl<F: Fn(&PerModality<Tensor>) -> Result<Tensor>> Classifier for FnClassifier<F> {
    fn modalities(&self) -> &PerModality<Modality> {
        &self.modalities
    }

    fn logits(&self, inputs: &PerModality<Tensor>) -> Result<Tensor> {
        (self.logits)(inputs)
    }
}
