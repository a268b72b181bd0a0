//! Values of the host become tensors of a device.
//!
//! Knows nothing of what the values mean.
use candle_core::op::BackpropOp;
use candle_core::{
    CpuStorage, Device, Result, Shape, Storage, Tensor, backend::BackendStorage, bail,
};

/// A way to `device` for any thread: values, row-major, become a tensor of a shape, which is there
/// when the call returns. To a GPU by memory that it can read itself (pinned), on a stream of their
/// own: copies made by loading threads run beside what the device computes, and never get into a
/// recording of that.
///
/// # Errors
/// The driver has no stream left. Of the way itself: a shape of another number of elements, values
/// that are neither `f32` nor `u32`, a device without memory.
pub fn uploader(
    device: &Device,
) -> Result<impl Fn(CpuStorage, Shape) -> Result<Tensor> + Send + Sync + use<>> {
    #[cfg(feature = "cuda")]
    let line = match device {
        Device::Cuda(device) => Some(cuda::Line::to(device)?),
        _ => None,
    };
    let device = device.clone();
    Ok(move |values: CpuStorage, shape: Shape| {
        let count = count(&values)?;
        if shape.elem_count() != count {
            bail!("{count} values for a tensor of shape {shape:?}")
        }
        #[cfg(feature = "cuda")]
        if let Some(line) = &line
            && count > 0
        {
            return line.bring(&values, shape);
        }
        Tensor::from_storage(Storage::Cpu(values), shape, BackpropOp::none(), false)
            .to_device(&device)
    })
}

fn count(values: &CpuStorage) -> Result<usize> {
    Ok(match values {
        CpuStorage::F32(values) => values.len(),
        CpuStorage::U32(values) => values.len(),
        other => bail!(
            "values are brought to devices as F32 or U32, not as {:?}",
            other.dtype()
        ),
    })
}

#[cfg(feature = "cuda")]
mod cuda {
    #![expect(
        unsafe_code,
        reason = "memory of a device, and of the host that a device can read"
    )]

    use candle_core::cuda_backend::CudaStorageSlice;
    use candle_core::cuda_backend::WrapErr as _;
    use candle_core::cuda_backend::cudarc::driver::{
        CudaStream, DriverError, PinnedHostSlice, sys,
    };
    use candle_core::op::BackpropOp;
    use candle_core::{
        CpuStorage, CudaDevice, CudaStorage, Result, Shape, Storage, Tensor,
        backend::BackendStorage, bail,
    };
    use std::sync::{Arc, Mutex, PoisonError};

    /// A stream of copies to a device, and the pinned memory that they come from, kept from batch
    /// to batch.
    pub(super) struct Line {
        device: CudaDevice,
        copies: Arc<CudaStream>,
        /// Of words of 32 bits; as many as threads that have been copying at once.
        idle: Mutex<Vec<PinnedHostSlice<u32>>>,
    }

    impl Line {
        pub(super) fn to(device: &CudaDevice) -> Result<Self> {
            let copies = device.cuda_stream().context().new_stream().w()?;
            Ok(Self {
                device: device.clone(),
                copies,
                idle: Mutex::new(vec![]),
            })
        }

        pub(super) fn bring(&self, values: &CpuStorage, shape: Shape) -> Result<Tensor> {
            let slice = match values {
                CpuStorage::F32(values) => {
                    let address = self.words(values.iter().map(|v| v.to_bits())).w()?;
                    // SAFETY: memory that `words` has filled with as many words, and left to
                    // whoever takes the address. All later work on it, freeing it included, is on
                    // the device's one stream.
                    CudaStorageSlice::F32(unsafe {
                        self.device
                            .cuda_stream()
                            .upgrade_device_ptr(address, values.len())
                    })
                }
                CpuStorage::U32(values) => {
                    let address = self.words(values.iter().copied()).w()?;
                    // SAFETY: as above.
                    CudaStorageSlice::U32(unsafe {
                        self.device
                            .cuda_stream()
                            .upgrade_device_ptr(address, values.len())
                    })
                }
                other => bail!("internal: values of {:?}", other.dtype()),
            };
            let storage = Storage::Cuda(CudaStorage {
                slice,
                device: self.device.clone(),
            });
            Ok(Tensor::from_storage(
                storage,
                shape,
                BackpropOp::none(),
                false,
            ))
        }

        /// The address of these words in memory of the device, which is the caller's to free; there
        /// when the call returns.
        fn words(
            &self,
            words: impl ExactSizeIterator<Item = u32> + Clone,
        ) -> std::result::Result<u64, DriverError> {
            use sys::CUresult::{
                CUDA_ERROR_STREAM_CAPTURE_INVALIDATED as INVALIDATED,
                CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED as UNSUPPORTED,
            };
            self.copied(words.clone()).or_else(|error| match error.0 {
                // What another thread met when a recording of its failed is told to whoever calls
                // next.
                INVALIDATED | UNSUPPORTED => self.copied(words),
                _ => Err(error),
            })
        }

        fn copied(
            &self,
            words: impl ExactSizeIterator<Item = u32>,
        ) -> std::result::Result<u64, DriverError> {
            let count = words.len();
            self.copies.context().bind_to_thread()?;
            // SAFETY: it is written in full before anything reads it.
            let mut there = unsafe { self.copies.alloc::<u32>(count)? };
            match self.pinned(count) {
                Ok(mut pinned) => {
                    let here = &mut pinned.as_mut_slice()?[..count];
                    here.iter_mut().zip(words).for_each(|(to, word)| *to = word);
                    self.copies.memcpy_htod(&*here, &mut there)?;
                    self.copies.synchronize()?;
                    self.idle
                        .lock()
                        .unwrap_or_else(PoisonError::into_inner)
                        .push(pinned);
                }
                // The system locks no more memory: the driver's own way does without.
                Err(_) => {
                    self.copies
                        .memcpy_htod(&words.collect::<Vec<_>>(), &mut there)?;
                    self.copies.synchronize()?;
                }
            }
            Ok(there.leak())
        }

        fn pinned(&self, count: usize) -> std::result::Result<PinnedHostSlice<u32>, DriverError> {
            let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
            // One that is too small gives way to a larger one.
            match idle.iter().position(|pinned| pinned.len() >= count) {
                Some(i) => return Ok(idle.swap_remove(i)),
                None => drop(idle.pop()),
            }
            drop(idle);
            // SAFETY: what is read of it was written before.
            unsafe { self.copies.context().alloc_pinned(count) }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_keep_their_order() -> Result<()> {
        let upload = uploader(&Device::Cpu)?;
        let t = upload(CpuStorage::F32(vec![1., 2., 3., 4., 5., 6.]), (2, 3).into())?;
        assert_eq!(t.to_vec2::<f32>()?, [[1., 2., 3.], [4., 5., 6.]]);
        assert_eq!(
            upload(CpuStorage::U32(vec![7, 9]), 2.into())?.to_vec1::<u32>()?,
            [7, 9]
        );
        assert!(upload(CpuStorage::F32(vec![1.]), (2, 3).into()).is_err());
        Ok(())
    }
}
