//! Accuracy of a trained model without an attacker: clean, and with modalities missing.
//! Does not know attacks nor radii.
use crate::{
    agreement::{self, Deployed},
    baselines::subsets,
    batches::EVAL_BATCH,
    record::Accuracy,
    sample_row::SampleRow,
    undefined,
};
use anyhow::Result;
use crmt_attacks::{accuracy, answers};
use crmt_core::{AdditiveClassifier, Batch, Classifier};
use crmt_data::DataSet;
use crmt_fusion::Model;
use std::collections::BTreeMap;

/// What is measured without an attacker.
pub struct Clean {
    /// Accuracies.
    pub accuracy: Accuracy,
    /// `[label][prediction]`, of samples that have one.
    pub confusion: Vec<Vec<u64>>,
    /// One per report sample, without radii or outcomes.
    pub rows: Vec<SampleRow>,
    /// Samples that have none.
    pub warnings: Vec<String>,
}

/// Measures the report split. A sample for which the outputs are not finite has no prediction, and
/// counts as wrong.
pub fn clean(model: &Model, data: &DataSet) -> Result<Clean> {
    let subsets = subsets(data.modalities.len());
    let mut missing = vec![0.0; subsets.len()];
    let mut solo = vec![0.0; data.modalities.len()];
    let mut confusion = vec![vec![0; data.classes.len()]; data.classes.len()];
    let mut rows: Vec<SampleRow> = vec![];
    let (mut everywhere, mut elsewhere) = (vec![], vec![]);
    let mut deployed = Deployed::new(model, data)?;
    let names: Vec<String> = data.modalities.iter().map(|m| m.name.clone()).collect();
    let mut alone = vec![vec![]; data.modalities.len()];
    for batch in data.report.batches(EVAL_BATCH) {
        let Batch { inputs, labels } = batch?;
        let (n, first) = (labels.elem_count() as f64, rows.len());
        let scores = model.scores(&inputs)?;
        let predicted = answers(&scores.logits()?)?;
        everywhere.extend(unanswered(first, &predicted));
        let classes = labels.to_vec1::<u32>()?;
        for (label, prediction) in classes.iter().zip(predicted) {
            let (label, prediction) = (*label as usize, prediction.map(|class| class as usize));
            prediction
                .iter()
                .for_each(|class| confusion[label][*class] += 1);
            rows.push(SampleRow {
                index: rows.len() as u64,
                label,
                prediction,
                ..SampleRow::default()
            });
        }
        let margins = deployed.margins(&scores, &classes)?;
        agreement::write_to(&mut rows[first..], &margins, &names);
        for (m, (right, head)) in solo.iter_mut().zip(&scores.unimodal).enumerate() {
            *right += n * accuracy(head, &labels)?;
            alone[m].extend(unanswered(first, &answers(head)?));
        }
        for (right, subset) in missing.iter_mut().zip(&subsets) {
            let logits = model.logits(&subset.apply(&inputs, &data.baselines)?)?;
            *right += n * accuracy(&logits, &labels)?;
            elsewhere.extend(unanswered(first, &answers(&logits)?));
        }
    }
    let n = rows.len() as f64;
    let right = rows.iter().filter(|r| r.is_right()).count() as f64;
    let by_name = |names: Vec<String>, right: Vec<f64>| {
        names.into_iter().zip(right.iter().map(|r| r / n)).collect()
    };
    let accuracy = Accuracy {
        clean: right / n,
        samples: rows.len() as u64,
        missing: by_name(
            subsets
                .iter()
                .map(|s| s.describe(&data.modalities))
                .collect(),
            missing,
        ),
        missing_by_baseline: BTreeMap::new(),
        solo: by_name(names.clone(), solo),
    };
    Ok(Clean {
        accuracy,
        confusion,
        rows,
        warnings: warnings(&everywhere, elsewhere, &alone, &names),
    })
}

/// Positions of samples without a prediction; `first` is that of the batch.
fn unanswered(first: usize, answers: &[Option<u32>]) -> impl Iterator<Item = u64> {
    answers
        .iter()
        .enumerate()
        .filter(|(_, answer)| answer.is_none())
        .map(move |(i, _)| (first + i) as u64)
}

/// One line for samples without a prediction with everything there, one for those that have none
/// only where modalities are missing or `alone`, each with its own head.
fn warnings(
    everywhere: &[u64],
    mut elsewhere: Vec<u64>,
    alone: &[Vec<u64>],
    names: &[String],
) -> Vec<String> {
    elsewhere.extend(alone.iter().flatten());
    elsewhere.sort_unstable();
    elsewhere.dedup();
    elsewhere.retain(|row| !everywhere.contains(row));
    let warning = |(stage, rows): (&str, &[u64])| {
        let silent = |(own, _): &(&Vec<u64>, &String)| own.iter().any(|row| rows.contains(row));
        let through: Vec<String> = alone
            .iter()
            .zip(names)
            .filter(silent)
            .map(|(_, name)| name.clone())
            .collect();
        undefined::warning(stage, rows, &through)
    };
    [
        ("clean", everywhere),
        ("with modalities missing or alone", &elsewhere),
    ]
    .into_iter()
    .filter_map(warning)
    .collect()
}
