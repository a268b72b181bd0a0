//! Where batches go, and how they get there.
//! Does not know any device.
use candle_core::{CpuStorage, Device, Result, Shape, Tensor, backend::BackendStorage, bail};
use std::fmt;
use std::sync::Arc;

/// A way to a device.
#[derive(Clone)]
pub struct Upload {
    device: Device,
    bring: Arc<Bring>,
}

type Bring = dyn Fn(CpuStorage, Shape) -> Result<Tensor> + Send + Sync;

impl Upload {
    /// To `device`, by `bring`: values (`f32`, or labels: `u32`), row-major, and a shape become a
    /// tensor there. Any thread may call it.
    pub fn new(
        device: &Device,
        bring: impl Fn(CpuStorage, Shape) -> Result<Tensor> + Send + Sync + 'static,
    ) -> Self {
        Self {
            device: device.clone(),
            bring: Arc::new(bring),
        }
    }

    pub(crate) fn device(&self) -> &Device {
        &self.device
    }

    pub(crate) fn tensor(&self, values: Vec<f32>, shape: Vec<usize>) -> Result<Tensor> {
        (self.bring)(CpuStorage::F32(values), shape.into())
    }

    pub(crate) fn labels(&self, labels: Vec<u32>) -> Result<Tensor> {
        let samples = labels.len();
        (self.bring)(CpuStorage::U32(labels), samples.into())
    }
}

impl Default for Upload {
    /// To the CPU: nothing is copied.
    fn default() -> Self {
        Self::new(&Device::Cpu, |values, shape| match values {
            CpuStorage::F32(values) => Tensor::from_vec(values, shape, &Device::Cpu),
            CpuStorage::U32(labels) => Tensor::from_vec(labels, shape, &Device::Cpu),
            other => bail!("internal: values of {:?}", other.dtype()),
        })
    }
}

impl fmt::Debug for Upload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Upload to {:?}", self.device.location())
    }
}
