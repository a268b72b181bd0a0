//! A batch: what the loader hands to training, attacks and certificates.
//! Does not know where samples come from.
use crate::{Error, PerModality, Result};
use candle_core::{DType, Device, Tensor};

/// Labelled samples seen together.
#[derive(Debug, Clone)]
pub struct Batch {
    /// One tensor per modality, each `[batch, ...]`.
    pub inputs: PerModality<Tensor>,
    /// `[batch]`, `u32` class indices.
    pub labels: Tensor,
}

impl Batch {
    /// Checks that every modality has one row per label.
    ///
    /// # Errors
    /// Names the modality (by index) whose number of rows differs.
    pub fn new(inputs: PerModality<Tensor>, labels: Tensor) -> Result<Self> {
        let expected = labels.dims1()?;
        for (modality, x) in inputs.iter().enumerate() {
            let got = x.dim(0)?;
            if got != expected {
                return Err(Error::Rows {
                    modality,
                    expected,
                    got,
                });
            }
        }
        Ok(Self { inputs, labels })
    }

    /// Number of samples.
    pub fn len(&self) -> usize {
        self.labels.elem_count()
    }

    /// Whether there are no samples.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Rows `start .. start + len` of every modality and of the labels.
    pub fn narrow(&self, start: usize, len: usize) -> Result<Self> {
        Ok(Self {
            inputs: self.inputs.try_map(|x| x.narrow(0, start, len))?,
            labels: self.labels.narrow(0, start, len)?,
        })
    }

    /// The same on another device.
    pub fn to_device(&self, device: &Device) -> Result<Self> {
        let inputs = self.inputs.try_map(|x| x.to_device(device))?;
        Ok(Self {
            inputs,
            labels: self.labels.to_device(device)?,
        })
    }

    /// Inputs in another floating-point type; labels stay.
    pub fn to_dtype(&self, dtype: DType) -> Result<Self> {
        Ok(Self {
            inputs: self.inputs.try_map(|x| x.to_dtype(dtype))?,
            labels: self.labels.clone(),
        })
    }
}
