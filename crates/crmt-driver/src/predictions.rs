//! `evaluate --save-predictions`: what the model says of every report sample, for other programs.
//! Does not know attacks.
use crate::{
    batches::EVAL_BATCH,
    record::Summary,
    tensor_file::{Format, TensorFile},
};
use anyhow::Result;
use candle_core::{DType, Tensor};
use crmt_attacks::answers;
use crmt_core::{AdditiveClassifier, Batch};
use crmt_data::DataSet;
use crmt_fusion::Model;

/// How predictions can be written; as `.npy` the logits alone.
pub const FORMATS: [Format; 3] = [Format::Safetensors, Format::Npz, Format::Npy];

/// Row `i` is sample `i` of the report split. Tensors: `label` and `prediction` (I64,
/// `[samples]`; -1 where logits are not finite), `logits` and, of each modality, the scores of its
/// own head `scores.NAME` (F32, `[samples, classes]`). The metadata name the run's method, data,
/// weights, modalities and classes.
pub fn to_bytes(model: &Model, data: &DataSet, run: &Summary, format: Format) -> Result<Vec<u8>> {
    let (mut labels, mut predicted, mut logits) = (vec![], vec![], vec![]);
    let mut scores: Vec<Vec<Tensor>> = vec![vec![]; data.modalities.len()];
    for batch in data.report.batches(EVAL_BATCH) {
        let Batch {
            inputs,
            labels: own,
        } = batch?;
        let terms = model.scores(&inputs)?;
        labels.extend(own.to_dtype(DType::I64)?.to_vec1::<i64>()?);
        let all = terms.logits()?.detach();
        predicted.extend(
            answers(&all)?
                .into_iter()
                .map(|class| class.map_or(-1, i64::from)),
        );
        logits.push(all);
        scores
            .iter_mut()
            .zip(&terms.unimodal)
            .for_each(|(all, own)| all.push(own.detach()));
    }
    let logits = Tensor::cat(&logits, 0)?;
    let mut file = TensorFile::default();
    file.floats("logits", &logits)?;
    file.integers("label", &labels);
    file.integers("prediction", &predicted);
    for (scores, modality) in scores.iter().zip(&data.modalities) {
        file.floats(
            format!("scores.{}", modality.name),
            &Tensor::cat(scores, 0)?,
        )?;
    }
    let card = serde_json::json!({
        "method": run.method, "data": run.data, "weights": run.weights, "report_sha256": run.report_sha256,
        "modalities": run.modalities, "classes": run.classes,
    });
    file.to_bytes(format, &card)
}
