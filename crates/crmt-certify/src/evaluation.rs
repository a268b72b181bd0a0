//! What a model says of a batch, and how long its inputs were: all that a certificate needs to know
//! of a sample. Does not know constants.
use crate::{CertifyError, numbers::norm_up};
use candle_core::{DType, Device, Tensor};
use crmt_core::PerModality;

/// Logits of a batch `[batch, classes]` in `f64`: a tensor, or an [`Evaluation`], which
/// certificates about a program need.
pub trait Evaluated {
    /// The logits.
    fn logits(&self) -> &Tensor;
    /// l2 norms of the inputs, as the encoders see them, per modality `[batch]`; none if they were
    /// not said.
    fn lengths(&self) -> Option<&PerModality<Vec<f64>>> {
        None
    }
}

impl Evaluated for Tensor {
    fn logits(&self) -> &Tensor {
        self
    }
}

/// Logits, and the lengths of the inputs that gave them.
#[derive(Debug, Clone)]
pub struct Evaluation {
    logits: Tensor,
    lengths: PerModality<Vec<f64>>,
}

impl Evaluation {
    /// `logits`: `[batch, classes]`, as the program computed them, in `f64` or converted to it;
    /// `inputs`: each `[batch, ...]`, as the encoders see them.
    ///
    /// # Errors
    /// The tensor library's, e.g. when `inputs` have no first axis.
    pub fn new(logits: &Tensor, inputs: &PerModality<Tensor>) -> Result<Self, CertifyError> {
        Ok(Self {
            logits: logits.clone(),
            lengths: inputs.try_map(lengths)?,
        })
    }

    /// Where modalities may be missing: their baselines, each `[1, ...]`, may be what the program
    /// sees instead.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn or_missing(mut self, baselines: &PerModality<Tensor>) -> Result<Self, CertifyError> {
        let absent = baselines.try_map(lengths)?;
        let pairs = self.lengths.zip(&absent, "baselines")?;
        let longer = |(own, absent): &(&Vec<f64>, &Vec<f64>)| {
            let absent = absent.iter().copied().fold(0., f64::max);
            own.iter().map(|own| own.max(absent)).collect()
        };
        self.lengths = pairs.map(longer);
        Ok(self)
    }
}

impl Evaluated for Evaluation {
    fn logits(&self) -> &Tensor {
        &self.logits
    }

    fn lengths(&self) -> Option<&PerModality<Vec<f64>>> {
        Some(&self.lengths)
    }
}

/// l2 norm of each sample, rounded up.
fn lengths(x: &Tensor) -> Result<Vec<f64>, CertifyError> {
    let rows = x
        .flatten_from(1)?
        .to_device(&Device::Cpu)?
        .to_dtype(DType::F64)?
        .to_vec2::<f64>()?;
    Ok(rows
        .iter()
        .map(|row| norm_up(row.iter().copied()))
        .collect())
}
