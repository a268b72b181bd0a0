//! A batch and the baselines, as the program that certificates are about sees them. Does not know
//! constants.
use anyhow::Result;
use candle_core::{DType, Device, Tensor};
use crmt_certify::Evaluation;
use crmt_core::{AdditiveClassifier, AdditiveScores, Batch};
use crmt_data::DataSet;
use crmt_fusion::Model;

/// A batch, as the program that certificates are about sees it.
pub struct Evaluated {
    /// In f64, converted from what the program computes with.
    pub scores: AdditiveScores,
    /// Its logits, and how long its inputs and their baselines are.
    pub evaluation: Evaluation,
    /// True classes.
    pub labels: Vec<u32>,
}

impl Evaluated {
    /// Evaluates `model`, on the CPU, on `batch`.
    pub fn new(model: &Model, batch: &Batch, data: &DataSet) -> Result<Self> {
        let dtype = model.head().bias().dtype();
        let batch = batch.to_device(&Device::Cpu)?.to_dtype(dtype)?;
        let scores = model.scores(&batch.inputs)?;
        let logits = scores.logits()?.to_dtype(DType::F64)?;
        let baselines = data.baselines.try_map(|b| b.unsqueeze(0))?;
        let evaluation = Evaluation::new(&logits, &batch.inputs)?.or_missing(&baselines)?;
        Ok(Self {
            scores: exact(&scores)?,
            evaluation,
            labels: batch.labels.to_vec1()?,
        })
    }
}

/// In f64, on the CPU.
pub fn exact(scores: &AdditiveScores) -> Result<AdditiveScores> {
    let exact = |t: &Tensor| t.to_device(&Device::Cpu)?.to_dtype(DType::F64);
    Ok(AdditiveScores {
        unimodal: scores.unimodal.try_map(exact)?,
        weights: scores.weights.try_map(exact)?,
        bias: exact(&scores.bias)?,
    })
}

/// The scores of one sample whose modalities are all at their baselines, in f64.
pub fn absent(model: &Model, data: &DataSet) -> Result<AdditiveScores> {
    let head = model.head().bias();
    let sample = |b: &Tensor| {
        b.unsqueeze(0)?
            .to_device(head.device())?
            .to_dtype(head.dtype())
    };
    exact(&model.scores(&data.baselines.try_map(sample)?)?)
}
