//! The arithmetic of the network that is attacked: the one that is deployed, or the one that
//! certificates are about. Does not know attacks.
use anyhow::{Context, Result};
use candle_core::{DType, Device, Tensor};
use crmt_core::{Batch, PerModality};
use serde::{Deserialize, Serialize};

/// What `certify.program` may be.
pub const PROGRAMS: &[&str] = &[F64, F32];
pub const F64: &str = "f64";
pub const F32: &str = "f32";

/// Of a network and everything that it is given.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// As the network is used, where the data are.
    #[default]
    F32,
    /// As radii are computed, on the CPU.
    F64,
}

impl Precision {
    /// What `evaluate.precision` may be.
    pub const NAMES: &[&str] = &["f32", "f64"];

    /// The precision called `name`.
    pub fn of(name: &str) -> Result<Self> {
        let all = [Self::F32, Self::F64];
        all.into_iter()
            .find(|p| p.name() == name)
            .with_context(|| format!("precision `{name}`: expected f32 or f64"))
    }

    /// As in settings and results.
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::F64 => "f64",
        }
    }

    /// Of tensors.
    pub fn dtype(self) -> DType {
        match self {
            Self::F32 => DType::F32,
            Self::F64 => DType::F64,
        }
    }

    /// Where the network is, of data on `data`.
    pub fn device(self, data: &Device) -> Device {
        match self {
            Self::F32 => data.clone(),
            Self::F64 => Device::Cpu,
        }
    }

    /// A batch of the data as the network takes it.
    pub fn batch(self, batch: Batch) -> Result<Batch> {
        Ok(match self {
            Self::F32 => batch,
            Self::F64 => batch.to_device(&Device::Cpu)?.to_dtype(DType::F64)?,
        })
    }

    /// One input of each modality as the network takes it.
    pub fn inputs(self, x: &PerModality<Tensor>) -> Result<PerModality<Tensor>> {
        x.try_map(|x| {
            Ok(x.to_device(&self.device(x.device()))?
                .to_dtype(self.dtype())?)
        })
    }
}
