//! What stands in for missing modalities in an evaluation, and how right the model is with it.
//! Does not know attacks or certificates; the latter are always about what the data set declares.
use crate::{
    batches::EVAL_BATCH,
    people::Voice,
    threat::{LEARNED, MEAN, ZEROS},
};
use anyhow::{Context, Result, bail};
use candle_core::Tensor;
use crmt_attacks::{accuracy as fraction, learn_baselines};
use crmt_core::{Classifier, Missing, PerModality, Streams};
use crmt_data::DataSet;
use std::collections::BTreeMap;

/// Random training samples that baselines are fitted to, and evaluations of the gradient for each
/// modality.
const SAMPLES: usize = 500;
const STEPS: usize = 40;

/// One sample for each modality.
pub fn baselines(
    kind: &str,
    model: &dyn Classifier,
    data: &DataSet,
    streams: &Streams,
    voice: &Voice,
) -> Result<PerModality<Tensor>> {
    let mean = || {
        data.modalities.try_enumerate(|m, modality| {
            let mean = data.train.arrays()[m]
                .mean()
                .into_iter()
                .map(|v| v as f32)
                .collect();
            Tensor::from_vec(mean, modality.shape.as_slice(), data.device())
        })
    };
    match kind {
        ZEROS => data.modalities.try_map(|modality| {
            if !modality.domain.contains(0.0) {
                bail!(
                    "evaluate.baseline = \"zeros\": 0 is outside the range of modality `{}`",
                    modality.name
                );
            }
            Ok(Tensor::zeros(
                modality.shape.as_slice(),
                candle_core::DType::F32,
                data.device(),
            )?)
        }),
        MEAN => Ok(mean()?),
        LEARNED => {
            let sample = data.train_sample(streams, SAMPLES)?;
            voice.say(format!(
                "  fitting baselines to {} training samples",
                sample.len()
            ));
            learn_baselines(model, &sample, &mean()?, STEPS)
                .context("evaluate.baseline = \"learned\"")
        }
        _ => Ok(data.baselines.clone()),
    }
}

/// Every proper subset of the modalities; of many only single ones, for there are too many subsets.
pub fn subsets(modalities: usize) -> Vec<Missing> {
    if modalities <= 10 {
        Missing::all(modalities)
    } else {
        Missing::each(modalities)
    }
}

/// Accuracy on the report split by the names of what is missing, joined by `+`.
pub fn accuracy(
    model: &dyn Classifier,
    data: &DataSet,
    baselines: &PerModality<Tensor>,
) -> Result<BTreeMap<String, f64>> {
    let subsets = subsets(data.modalities.len());
    let mut right = vec![0.0; subsets.len()];
    for batch in data.report.batches(EVAL_BATCH) {
        let batch = batch?;
        for (right, subset) in right.iter_mut().zip(&subsets) {
            let logits = model.logits(&subset.apply(&batch.inputs, baselines)?)?;
            *right += fraction(&logits, &batch.labels)? * batch.len() as f64;
        }
    }
    let n = data.report.len() as f64;
    Ok(subsets
        .iter()
        .zip(right)
        .map(|(s, right)| (s.describe(&data.modalities), right / n))
        .collect())
}
