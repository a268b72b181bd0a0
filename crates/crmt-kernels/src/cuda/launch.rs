//! Kernels by name, tensors as kernels see them, and results as tensors.
//!
//! Knows nothing of what a kernel computes.
#![expect(
    unsafe_code,
    reason = "a kernel is a name and a list of arguments; the compiler can check neither"
)]

use candle_core::cuda_backend::cudarc::driver::{CudaSlice, DevicePtr, DeviceRepr, LaunchConfig};
use candle_core::cuda_backend::{CudaDType, CudaDevice, CudaStorage};
use candle_core::op::BackpropOp;
use candle_core::{Device, Layout, Result, Shape, Storage, StorageRef, Tensor, WithDType, bail};

/// PTX that `build.rs` made of `kernels.cu`.
pub(super) mod compiled {
    include!(concat!(env!("OUT_DIR"), "/ptx.rs"));
}

/// What kernels compute on, and what they compute it in.
pub(super) trait Element: WithDType + CudaDType + DeviceRepr + 'static {
    /// The type of sums, moments and parameters.
    type Sum: Element;
    /// At the end of a kernel's name.
    const NAME: &'static str;
}

impl Element for f32 {
    type Sum = f32;
    const NAME: &'static str = "f32";
}

impl Element for f64 {
    type Sum = f64;
    const NAME: &'static str = "f64";
}

impl Element for u32 {
    type Sum = u32;
    const NAME: &'static str = "u32";
}

impl Element for half::bf16 {
    type Sum = f32;
    const NAME: &'static str = "bf16";
}

/// Runs `$body` with `$T` bound to the element type of images.
macro_rules! on_images {
    ($what:expr, $dtype:expr, $T:ident => $body:expr) => {
        match $dtype {
            candle_core::DType::F32 => {
                type $T = f32;
                $body
            }
            candle_core::DType::F64 => {
                type $T = f64;
                $body
            }
            candle_core::DType::BF16 => {
                type $T = half::bf16;
                $body
            }
            other => candle_core::bail!(
                "{}: element type {other:?} is not supported, convert to F32 or F64",
                $what
            ),
        }
    };
}
pub(super) use on_images;

/// Launches the kernel `$name` for elements of type `$T`, with arguments (numbers, and addresses of
/// operands) and then results, in the kernel's order.
macro_rules! launch {
    ($device:expr, $T:ty, $name:literal, $config:expr, [$($arg:expr),* $(,)?] => [$($result:expr),* $(,)?]) => {{
        use candle_core::cuda_backend::{WrapErr as _, cudarc::driver::PushKernelArg as _};
        let name = format!("{}_{}", $name, <$T as $crate::cuda::launch::Element>::NAME);
        let function = $device.get_or_load_custom_func(&name, "crmt", $crate::cuda::launch::compiled::KERNELS)?;
        let mut builder = function.builder();
        $( let argument = $arg; builder.arg(&argument); )*
        $( builder.arg(&mut $result); )*
        // SAFETY: the arguments are those of the kernel of that name in kernels.cu, in its order
        // and types, and each array is as long as the sizes beside it say; tests/devices runs every
        // kernel.
        #[expect(unsafe_code, reason = "a launch")]
        let launched = unsafe { builder.launch($config) };
        launched.w()?;
    }};
}
pub(super) use launch;

/// Threads of a block of an elementwise kernel.
const THREADS: u32 = 256;
/// Blocks of an elementwise kernel at most: enough to fill any card several times over; each thread
/// then takes several elements.
const BLOCKS: usize = 1 << 14;

/// A launch for `count` elements that are independent of each other; not for none.
pub(super) fn each(count: usize) -> LaunchConfig {
    let blocks = count.div_ceil(THREADS as usize).clamp(1, BLOCKS) as u32;
    LaunchConfig {
        grid_dim: (blocks, 1, 1),
        block_dim: (THREADS, 1, 1),
        shared_mem_bytes: 0,
    }
}

/// The same for `count` elements in rows of channels: at least a thread for each channel.
pub(super) fn each_of_channels(count: usize, channels: usize) -> LaunchConfig {
    let LaunchConfig {
        grid_dim: (blocks, ..),
        ..
    } = each(count);
    LaunchConfig {
        grid_dim: (blocks.max(channels.div_ceil(THREADS as usize) as u32), 1, 1),
        ..each(count)
    }
}

/// Read access to a contiguous tensor on a CUDA device for as long as this lives.
pub(super) struct Operand<'a>(StorageRef<'a>, &'a Layout);

impl<'a> Operand<'a> {
    pub(super) fn new(tensor: &'a Tensor) -> Self {
        let (storage, layout) = tensor.storage_and_layout();
        Self(storage, layout)
    }

    /// The address of its first element on the device.
    pub(super) fn at<T: Element>(&self) -> Result<u64> {
        let Some((from, to)) = self.1.contiguous_offsets() else {
            bail!("internal: a non-contiguous operand reached a CUDA kernel")
        };
        match &*self.0 {
            Storage::Cuda(storage) => {
                let view = storage.as_cuda_slice::<T>()?.slice(from..to);
                Ok(view.device_ptr(&storage.device.cuda_stream()).0)
            }
            _ => bail!("internal: an operand of a CUDA kernel is on another device"),
        }
    }
}

impl Operand<'_> {
    /// Its elements in memory of their own.
    pub(super) fn copy<T: Element>(&self) -> Result<CudaSlice<T>> {
        let (Some((from, to)), Storage::Cuda(storage)) = (self.1.contiguous_offsets(), &*self.0)
        else {
            bail!("internal: an operand to copy is not contiguous on a CUDA device")
        };
        let mut copy = fresh::<T>(&storage.device, to - from)?;
        if to > from {
            storage
                .device
                .memcpy_dtod(&storage.as_cuda_slice::<T>()?.slice(from..to), &mut copy)?;
        }
        Ok(copy)
    }
}

/// The address of an operand that may be missing.
pub(super) fn at<T: Element>(operand: Option<&Operand<'_>>) -> Result<u64> {
    operand.map_or(Ok(0), Operand::at::<T>)
}

/// The CUDA device that `tensor` is on.
pub(super) fn device(tensor: &Tensor) -> Result<CudaDevice> {
    match tensor.device() {
        Device::Cuda(device) => Ok(device.clone()),
        other => bail!(
            "internal: a tensor on {:?} reached a CUDA operation",
            other.location()
        ),
    }
}

/// Memory for `count` elements, with stale content: a kernel writes all of it.
pub(super) fn fresh<T: Element>(device: &CudaDevice, count: usize) -> Result<CudaSlice<T>> {
    // The driver gives no memory of no bytes.
    // SAFETY: every bit pattern is a number, and nothing reads it before a kernel has written it.
    unsafe { device.alloc::<T>(count.max(1)) }
}

/// What a kernel made, before it is a tensor.
pub(super) struct Made {
    pub(super) storage: CudaStorage,
    pub(super) shape: Shape,
}

impl Made {
    pub(super) fn new<T: Element>(
        elements: CudaSlice<T>,
        shape: impl Into<Shape>,
        device: &CudaDevice,
    ) -> Self {
        Self {
            storage: CudaStorage::wrap_cuda_slice(elements, device.clone()),
            shape: shape.into(),
        }
    }

    /// As a tensor that tracks nothing.
    pub(super) fn tensor(self) -> Tensor {
        Tensor::from_storage(
            Storage::Cuda(self.storage),
            self.shape,
            BackpropOp::none(),
            false,
        )
    }
}
