//! `evaluate --save-predictions`: what the model says of every report sample, for other programs.
//! Does not know attacks.
use crate::{
    record::Summary,
    tensor_file::{TensorFile, float_bytes},
    training::EVAL_BATCH,
};
use anyhow::{Context, Result, bail};
use candle_core::{DType, Tensor};
use crmt_attacks::predictions;
use crmt_core::{AdditiveClassifier, Batch};
use crmt_data::{DataSet, write_npy};
use crmt_fusion::Model;
use std::path::Path;

/// How predictions are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// Labels, predictions, logits and scores.
    Safetensors,
    /// The logits alone: the format holds one array.
    Npy,
}

impl Format {
    /// By the file's ending.
    pub fn of(file: &Path) -> Result<Self> {
        match file.extension().and_then(|ending| ending.to_str()) {
            Some("safetensors") => Ok(Self::Safetensors),
            Some("npy") => Ok(Self::Npy),
            _ => bail!(
                "--save-predictions {}: let the name end in .safetensors (logits, labels, predictions, scores) or .npy \
                 (the logits alone)",
                file.display()
            ),
        }
    }
}

/// Row `i` is sample `i` of the report split. Tensors: `label` and `prediction` (I64, `[samples]`), `logits` and, of each
/// modality, the scores of its own head `scores.NAME` (F32, `[samples, classes]`). The metadata name the run's method,
/// data, weights, modalities and classes.
pub fn to_bytes(model: &Model, data: &DataSet, run: &Summary, format: Format) -> Result<Vec<u8>> {
    let (mut labels, mut predicted, mut logits) = (vec![], vec![], vec![]);
    let mut scores: Vec<Vec<Tensor>> = vec![vec![]; data.modalities.len()];
    for batch in data.report.batches(EVAL_BATCH) {
        let Batch { inputs, labels: own } = batch?;
        let terms = model.scores(&inputs)?;
        labels.extend(own.to_dtype(DType::I64)?.to_vec1::<i64>()?);
        let all = terms.logits()?.detach();
        predicted.extend(predictions(&all)?.into_iter().map(i64::from));
        logits.push(all);
        scores.iter_mut().zip(&terms.unimodal).for_each(|(all, own)| all.push(own.detach()));
    }
    let logits = Tensor::cat(&logits, 0)?;
    if format == Format::Npy {
        let mut bytes = vec![];
        write_npy(&mut bytes, "<f4", logits.dims(), float_bytes(&logits)?.into_iter()).context("the logits")?;
        return Ok(bytes);
    }
    let mut file = TensorFile::default();
    file.integers("label", &labels);
    file.integers("prediction", &predicted);
    file.floats("logits", &logits)?;
    for (scores, modality) in scores.iter().zip(&data.modalities) {
        file.floats(format!("scores.{}", modality.name), &Tensor::cat(scores, 0)?)?;
    }
    file.to_bytes(&serde_json::json!({
        "method": run.method, "data": run.data, "weights": run.weights, "report_sha256": run.report_sha256,
        "modalities": run.modalities, "classes": run.classes,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ending_decides_and_others_are_refused() {
        let of = |name: &str| Format::of(Path::new(name)).map_err(|e| e.to_string());
        assert_eq!((of("a/b.npy"), of("b.safetensors")), (Ok(Format::Npy), Ok(Format::Safetensors)));
        for name in ["b", "npy", "b.csv", "b.npy.gz"] {
            let error = of(name).unwrap_err();
            assert!(error.contains(name) && error.contains(".safetensors"), "{error}");
        }
    }
}
