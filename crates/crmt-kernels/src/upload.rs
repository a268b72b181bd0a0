//! Values of the host become tensors of a device.
//!
//! Knows nothing of what the values mean.
#![cfg_attr(
    feature = "cuda",
    expect(unsafe_code, reason = "memory of a device, and of the host that a device can read")
)]

use candle_core::{Device, Result, Shape, Tensor};

/// A way to `device` for any thread: values, row-major, become a tensor of a shape, which is there when the call returns. To a GPU
/// by memory that it can read itself (pinned), on a stream of their own: copies made by loading threads run beside what the
/// device computes.
///
/// # Errors
/// The driver has no stream left. Of the way itself: a shape of another number of elements, or a device without memory.
pub fn uploader(device: &Device) -> Result<impl Fn(Vec<f32>, Shape) -> Result<Tensor> + Send + Sync + use<>> {
    let device = device.clone();
    #[cfg(feature = "cuda")]
    let copies = match &device {
        Device::Cuda(cuda) => {
            use candle_core::cuda_backend::WrapErr as _;
            Some(cuda.cuda_stream().context().new_stream().w()?)
        }
        _ => None,
    };
    Ok(move |values: Vec<f32>, shape: Shape| {
        #[cfg(feature = "cuda")]
        if let (Device::Cuda(device), Some(copies)) = (&device, &copies)
            && !values.is_empty()
        {
            return copied(device, copies, &values, shape);
        }
        Tensor::from_vec(values, shape, &device)
    })
}

#[cfg(feature = "cuda")]
fn copied(
    device: &candle_core::CudaDevice,
    copies: &std::sync::Arc<candle_core::cuda_backend::cudarc::driver::CudaStream>,
    values: &[f32],
    shape: Shape,
) -> Result<Tensor> {
    use candle_core::{CudaStorage, Storage, bail, cuda_backend::WrapErr as _, op::BackpropOp};
    if shape.elem_count() != values.len() {
        bail!("{} values for a tensor of shape {shape:?}", values.len())
    }
    let work = || -> std::result::Result<_, candle_core::cuda_backend::cudarc::driver::DriverError> {
        copies.context().bind_to_thread()?;
        // SAFETY: both are written in full before anything reads them. The copy is over when the memory passes to the stream
        // that computes, which frees it after all its own work.
        unsafe {
            let Ok(mut pinned) = copies.context().alloc_pinned::<f32>(values.len()) else { return Ok(None) };
            pinned.as_mut_slice()?.copy_from_slice(values);
            let mut there = copies.alloc::<f32>(values.len())?;
            copies.memcpy_htod(&pinned, &mut there)?;
            copies.synchronize()?;
            Ok(Some(device.cuda_stream().upgrade_device_ptr::<f32>(there.leak(), values.len())))
        }
    };
    let Some(slice) = work().w()? else {
        // The system locks no more memory: the driver's own way does without.
        return Tensor::from_slice(values, shape, &Device::Cuda(device.clone()));
    };
    let storage = Storage::Cuda(CudaStorage::wrap_cuda_slice(slice, device.clone()));
    Ok(Tensor::from_storage(storage, shape, BackpropOp::none(), false))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_keep_their_order() -> Result<()> {
        let upload = uploader(&Device::Cpu)?;
        let t = upload(vec![1., 2., 3., 4., 5., 6.], (2, 3).into())?;
        assert_eq!(t.to_vec2::<f32>()?, [[1., 2., 3.], [4., 5., 6.]]);
        assert!(upload(vec![1.], (2, 3).into()).is_err());
        Ok(())
    }
}
