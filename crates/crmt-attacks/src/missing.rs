//! Accuracy when modalities are missing, for every set of them, without an attacker. Does not know
//! where baselines come from ([`learn_baselines`](crate::learn_baselines) fits some), nor attacks
//! on what is left ([`Victim`](crate::Victim)).
use crate::{Result, accuracy};
use candle_core::Tensor;
use crmt_core::{Batch, Classifier, Missing, PerModality};

/// Accuracy without one set of modalities.
#[derive(Debug, Clone, PartialEq)]
pub struct MissingAccuracy {
    /// What is missing.
    pub missing: Missing,
    /// Fraction of samples whose label's logit exceeds every other.
    pub accuracy: f64,
}

/// Replaces every proper, non-empty set of modalities by its `baselines` (one sample each, no batch
/// axis) and measures accuracy; smallest sets first. Empty for a single modality.
///
/// # Errors
/// As [`correct`](crate::correct), or the classifier's.
pub fn missing_accuracy(
    classifier: &dyn Classifier,
    batch: &Batch,
    baselines: &PerModality<Tensor>,
) -> Result<Vec<MissingAccuracy>> {
    let sets = Missing::all(classifier.modalities().len()).into_iter();
    let each = sets.map(|missing| {
        let logits = classifier.logits(&missing.apply(&batch.inputs, baselines)?)?;
        Ok(MissingAccuracy {
            accuracy: accuracy(&logits, &batch.labels)?,
            missing,
        })
    });
    each.collect()
}
