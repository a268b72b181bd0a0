//! Opening a CUDA device, and saying what is missing where that fails.
//!
//! Knows nothing of operations.
#![expect(unsafe_code, reason = "settings of the driver")]

use candle_core::cuda_backend::cudarc::cublas;
use candle_core::cuda_backend::cudarc::driver::{CudaContext, DriverError, result, sys};
use candle_core::{CudaDevice, Device};
use std::ffi::c_void;

/// GPU number `number`, with a stream of its own.
pub(crate) fn open(number: usize) -> Result<Device, String> {
    let count = CudaContext::device_count().map_err(|error| explain(&error))?;
    if number >= usize::try_from(count).unwrap_or(0) {
        return Err(match count {
            0 => "the driver sees no NVIDIA GPU; use `--device cpu`".into(),
            1 => "this machine has one GPU; it is cuda:0".into(),
            _ => format!(
                "this machine has {count} GPUs, cuda:0 to cuda:{}",
                count - 1
            ),
        });
    }
    let device = CudaDevice::new_with_stream(number).map_err(|error| match crate::is_out_of_memory(&error) {
        true => "all of its memory is taken, by other programs; nvidia-smi lists them".to_owned(),
        false => format!(
            "it can't be opened: {error}; see that nvidia-smi works, and docs/cuda.md for the libraries it takes"
        ),
    })?;
    // SAFETY: all work of this program on the device is on its one stream, in order, so nothing is
    // freed or overwritten while it is used.
    unsafe { device.disable_event_tracking() };
    keep_freed_memory(&device).map_err(|error| explain(&error))?;
    give_workspace(&device).map_err(|error| {
        format!("cuBLAS can't be set up: {error}; docs/cuda.md lists what it takes")
    })?;
    Ok(Device::Cuda(device))
}

/// Bytes that cuBLAS works in: what NVIDIA advises for its largest cards.
const WORKSPACE: usize = 32 << 20;

/// Memory that cuBLAS works in for as long as the program runs. Without it every recording would
/// have some of its own, and products might be computed otherwise there.
fn give_workspace(device: &CudaDevice) -> candle_core::Result<()> {
    // SAFETY: working memory is written before it is read.
    let memory = unsafe { device.alloc::<u8>(WORKSPACE) }?.leak();
    let blas = device.cublas_handle();
    // SAFETY: the handle is alive, and the memory is never freed.
    let status = unsafe {
        cublas::sys::cublasSetWorkspace_v2(*blas.handle(), memory as *mut c_void, WORKSPACE)
    };
    status.result().map_err(candle_core::Error::wrap)
}

/// Memory that is free goes back to the driver: of the pool, and of recordings that are gone.
pub(crate) fn give_back(device: &CudaDevice) -> Result<(), DriverError> {
    let stream = device.cuda_stream();
    let context = stream.context();
    if !context.has_async_alloc() {
        return Ok(());
    }
    stream.synchronize()?;
    // SAFETY: the device is open, and what is free belongs to nobody.
    unsafe {
        let pool = result::device::get_default_mem_pool(context.cu_device())?;
        // A driver that keeps it all the same does no harm.
        let _trimmed = (
            result::mem_pool::trim_to(pool, 0),
            sys::cuDeviceGraphMemTrim(context.cu_device()),
        );
    }
    Ok(())
}

/// Freed memory stays with the pool that tensors come from: by default all of it goes back at every
/// synchronisation.
fn keep_freed_memory(device: &CudaDevice) -> Result<(), DriverError> {
    let stream = device.cuda_stream();
    let context = stream.context();
    if !context.has_async_alloc() {
        return Ok(());
    }
    context.bind_to_thread()?;
    let mut threshold = u64::MAX;
    // SAFETY: the device is open, and the attribute is a number of 64 bits.
    unsafe {
        let pool = result::device::get_default_mem_pool(context.cu_device())?;
        let attribute = sys::CUmemPool_attribute::CU_MEMPOOL_ATTR_RELEASE_THRESHOLD;
        result::mem_pool::set_attribute(pool, attribute, (&raw mut threshold).cast())
    }
}

/// The driver's error in one line, with advice.
fn explain(error: &DriverError) -> String {
    use sys::CUresult as Code;
    match error.0 {
        Code::CUDA_ERROR_NO_DEVICE => "the driver sees no NVIDIA GPU; use `--device cpu`".into(),
        Code::CUDA_ERROR_STUB_LIBRARY | Code::CUDA_ERROR_SYSTEM_DRIVER_MISMATCH | Code::CUDA_ERROR_NOT_INITIALIZED => {
            "there is no working NVIDIA driver (nvidia-smi should list the GPUs); install one, or use `--device cpu`"
                .into()
        }
        Code::CUDA_ERROR_UNSUPPORTED_PTX_VERSION
        | Code::CUDA_ERROR_NO_BINARY_FOR_GPU
        | Code::CUDA_ERROR_INVALID_PTX => {
            "the driver is older than the CUDA toolkit that this program was built with, or the GPU than its \
             CUDA_COMPUTE_CAP; update the driver, or build again on this machine"
                .into()
        }
        _ => format!("the driver refuses: {error}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_reason_is_one_line_with_advice() {
        use sys::CUresult as Code;
        for code in [
            Code::CUDA_ERROR_NO_DEVICE,
            Code::CUDA_ERROR_STUB_LIBRARY,
            Code::CUDA_ERROR_UNSUPPORTED_PTX_VERSION,
        ] {
            let why = explain(&DriverError(code));
            assert!(
                !why.contains('\n')
                    && (why.contains("--device cpu") || why.contains("build again")),
                "{why}"
            );
        }
    }
}
