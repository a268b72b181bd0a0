//! Accuracy of a trained model without an attacker: clean, and with modalities missing.
//! Does not know attacks nor radii.
use crate::{record::Accuracy, report::SampleRow, training::EVAL_BATCH};
use anyhow::Result;
use crmt_attacks::{accuracy, predictions};
use crmt_core::{AdditiveClassifier, Batch, Classifier, Missing};
use crmt_data::DataSet;
use crmt_fusion::Model;

/// What is measured without an attacker.
pub struct Clean {
    /// Accuracies.
    pub accuracy: Accuracy,
    /// `[label][prediction]`.
    pub confusion: Vec<Vec<u64>>,
    /// One per report sample, without radii or outcomes.
    pub rows: Vec<SampleRow>,
}

/// Measures the report split.
pub fn clean(model: &Model, data: &DataSet) -> Result<Clean> {
    // Of many modalities only single ones: there are too many subsets.
    let modalities = data.modalities.len();
    let subsets = if modalities <= 10 { Missing::all(modalities) } else { Missing::each(modalities) };
    let mut missing = vec![0.0; subsets.len()];
    let mut solo = vec![0.0; data.modalities.len()];
    let mut confusion = vec![vec![0; data.classes.len()]; data.classes.len()];
    let mut rows = vec![];
    for batch in data.report.batches(EVAL_BATCH) {
        let Batch { inputs, labels } = batch?;
        let n = labels.elem_count() as f64;
        let scores = model.scores(&inputs)?;
        let predicted = predictions(&scores.logits()?)?;
        for (label, prediction) in labels.to_vec1::<u32>()?.into_iter().zip(predicted) {
            let (label, prediction) = (label as usize, prediction as usize);
            confusion[label][prediction] += 1;
            rows.push(SampleRow { index: rows.len() as u64, label, prediction, ..SampleRow::default() });
        }
        for (right, head) in solo.iter_mut().zip(&scores.unimodal) {
            *right += n * accuracy(head, &labels)?;
        }
        for (right, subset) in missing.iter_mut().zip(&subsets) {
            let logits = model.logits(&subset.apply(&inputs, &data.baselines)?)?;
            *right += n * accuracy(&logits, &labels)?;
        }
    }
    let n = rows.len() as f64;
    let right = rows.iter().filter(|r| r.label == r.prediction).count() as f64;
    let by_name = |names: Vec<String>, right: Vec<f64>| names.into_iter().zip(right.iter().map(|r| r / n)).collect();
    let accuracy = Accuracy {
        clean: right / n,
        samples: rows.len() as u64,
        missing: by_name(subsets.iter().map(|s| s.describe(&data.modalities)).collect(), missing),
        solo: by_name(data.modalities.iter().map(|m| m.name.clone()).collect(), solo),
    };
    Ok(Clean { accuracy, confusion, rows })
}
