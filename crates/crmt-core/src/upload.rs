//! Values of the host become tensors of a device.
//!
//! Does not know what the values mean.
#![cfg_attr(
    feature = "cuda",
    expect(unsafe_code, reason = "memory of a device, and of the host that a device can read")
)]

use crate::Result;
use candle_core::{Device, Shape, Tensor};

/// A way to a device. To a GPU by memory that it can read itself (pinned), on a stream of its own: copies made by loading
/// threads run beside what the device computes.
#[derive(Debug, Clone)]
pub struct Upload {
    device: Device,
    #[cfg(feature = "cuda")]
    copies: Option<std::sync::Arc<candle_core::cuda_backend::cudarc::driver::CudaStream>>,
}

impl Default for Upload {
    /// To the CPU: nothing is copied.
    fn default() -> Self {
        Self {
            device: Device::Cpu,
            #[cfg(feature = "cuda")]
            copies: None,
        }
    }
}

impl Upload {
    /// To `device`.
    ///
    /// # Errors
    /// The driver has no stream left.
    pub fn to(device: &Device) -> Result<Self> {
        Ok(Self {
            device: device.clone(),
            #[cfg(feature = "cuda")]
            copies: match device {
                Device::Cuda(cuda) => {
                    use candle_core::cuda_backend::WrapErr as _;
                    Some(cuda.cuda_stream().context().new_stream().w()?)
                }
                _ => None,
            },
        })
    }

    /// Where tensors go.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// `values`, row-major, as a tensor of `shape` on the device. Returns when it is there.
    ///
    /// # Errors
    /// A shape of another number of elements, or a device without memory.
    pub fn tensor(&self, values: Vec<f32>, shape: impl Into<Shape>) -> Result<Tensor> {
        #[cfg(feature = "cuda")]
        if let (Device::Cuda(device), Some(copies)) = (&self.device, &self.copies)
            && !values.is_empty()
        {
            return copied(device, copies, &values, shape.into());
        }
        Ok(Tensor::from_vec(values, shape.into(), &self.device)?)
    }
}

#[cfg(feature = "cuda")]
fn copied(
    device: &candle_core::CudaDevice,
    copies: &std::sync::Arc<candle_core::cuda_backend::cudarc::driver::CudaStream>,
    values: &[f32],
    shape: Shape,
) -> Result<Tensor> {
    use candle_core::{CudaStorage, Error, Storage, cuda_backend::WrapErr as _, op::BackpropOp};
    if shape.elem_count() != values.len() {
        return Err(Error::Msg(format!("{} values for a tensor of shape {shape:?}", values.len())).into());
    }
    let work = || -> std::result::Result<_, candle_core::cuda_backend::cudarc::driver::DriverError> {
        copies.context().bind_to_thread()?;
        // SAFETY: both are written in full before anything reads them. The copy is over when the memory passes to the stream
        // that computes, which frees it after all its own work.
        unsafe {
            let mut pinned = copies.context().alloc_pinned::<f32>(values.len())?;
            pinned.as_mut_slice()?.copy_from_slice(values);
            let mut there = copies.alloc::<f32>(values.len())?;
            copies.memcpy_htod(&pinned, &mut there)?;
            copies.synchronize()?;
            Ok(device.cuda_stream().upgrade_device_ptr::<f32>(there.leak(), values.len()))
        }
    };
    let slice = work().w()?;
    let storage = Storage::Cuda(CudaStorage::wrap_cuda_slice(slice, device.clone()));
    Ok(Tensor::from_storage(storage, shape, BackpropOp::none(), false))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_keep_their_order() -> Result<()> {
        let t = Upload::to(&Device::Cpu)?.tensor(vec![1., 2., 3., 4., 5., 6.], (2, 3))?;
        assert_eq!(t.to_vec2::<f32>()?, [[1., 2., 3.], [4., 5., 6.]]);
        assert!(Upload::default().tensor(vec![1.], (2, 3)).is_err());
        Ok(())
    }
}
