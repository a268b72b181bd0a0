//! cuDNN's convolutions, channels-last.
//!
//! What cuDNN needs to know of a convolution (descriptors), the algorithm it is computed with and
//! how much working memory that takes are found once for each shape and kept. Only algorithms whose
//! sums have a fixed order are taken. Knows nothing of gradients' use.
#![expect(unsafe_code, reason = "cuDNN's functions take what they are given")]

use super::launch::{Element, Made, Operand, device, fresh};
use crate::conv::geometry::Geometry;
use crate::precision::Precision;
use candle_core::cuda_backend::cudarc::cudnn::{CudnnDataType, result, sys};
use candle_core::cuda_backend::cudarc::driver::{CudaSlice, CudaStream, DevicePtrMut};
use candle_core::cuda_backend::{CudaDevice, DeviceId};
use candle_core::{DType, Result, Tensor, bail};
use std::cell::RefCell;
use std::collections::HashMap;
use std::ffi::c_void;
use std::rc::Rc;
use std::sync::Arc;

/// Bytes of working memory that an algorithm may take: more pays for few shapes, and is missing
/// elsewhere.
const MOST_MEMORY: usize = 1 << 30;

/// `None` where cuDNN has no channels-last convolution of that type, or no algorithm for the shape.
pub(super) fn forward(x: &Tensor, kernel: &Tensor, g: &Geometry) -> Result<Option<Made>> {
    run(Pass::Forward, [x, kernel], g, (g.b, g.oh, g.ow, g.co))
}

/// As [`forward`], for the gradient of the images.
pub(super) fn of_images(dy: &Tensor, kernel: &Tensor, g: &Geometry) -> Result<Option<Made>> {
    run(Pass::Images, [dy, kernel], g, (g.b, g.h, g.w, g.ci))
}

/// As [`forward`], for the gradient of the kernel.
pub(super) fn of_kernel(x: &Tensor, dy: &Tensor, g: &Geometry) -> Result<Option<Made>> {
    run(Pass::Kernel, [x, dy], g, (g.co, g.kh, g.kw, g.ci))
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Pass {
    Forward,
    Images,
    Kernel,
}

/// What decides how a convolution is computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Key {
    pass: Pass,
    dtype: DType,
    /// Whether factors may be rounded to TF32.
    rounded: bool,
    geometry: [usize; 11],
}

impl Key {
    fn new(pass: Pass, dtype: DType, precision: Precision, g: &Geometry) -> Self {
        let geometry = [
            g.b, g.ci, g.h, g.w, g.co, g.kh, g.kw, g.oh, g.ow, g.stride, g.padding,
        ];
        Self {
            pass,
            dtype,
            rounded: precision != Precision::F32,
            geometry,
        }
    }
}

/// Of one device and one thread: cuDNN's handles are not to be shared.
struct Library {
    handle: Handle,
    stream: Arc<CudaStream>,
    plans: HashMap<Key, Option<Rc<Plan>>>,
    /// Working memory, shared by all convolutions, which run one after another on one stream: the
    /// last is the largest. Those before it are kept, because a recording may use them.
    memories: Vec<CudaSlice<u8>>,
}

thread_local! {
    static LIBRARIES: RefCell<HashMap<DeviceId, Library>> = RefCell::new(HashMap::new());
}

/// How each convolution of this thread is computed, in words.
pub(super) fn plans() -> Vec<String> {
    LIBRARIES.with_borrow(|libraries| {
        let all = libraries.values().flat_map(|library| &library.plans).map(|(key, plan)| {
            let Key { pass, dtype, rounded, geometry: [b, ci, h, w, co, kh, kw, oh, ow, stride, padding] } = key;
            let how = match plan {
                Some(plan) => format!("{:?} with {} bytes", plan.algorithm, plan.memory),
                None => "products of patches: cuDNN has no algorithm of a fixed order for it".into(),
            };
            let rounded = if *rounded { ", rounded" } else { "" };
            format!(
                "{pass:?} {b}x{h}x{w}x{ci} * {co}x{kh}x{kw} / {stride} + {padding} = {oh}x{ow} ({dtype:?}{rounded}): {how}"
            )
        });
        let mut all: Vec<_> = all.collect();
        all.sort();
        all
    })
}

fn run(
    pass: Pass,
    operands: [&Tensor; 2],
    g: &Geometry,
    shape: (usize, usize, usize, usize),
) -> Result<Option<Made>> {
    match operands[0].dtype() {
        DType::F32 => run_of::<f32>(pass, operands, g, shape),
        DType::BF16 => run_of::<half::bf16>(pass, operands, g, shape),
        _ => Ok(None),
    }
}

fn run_of<T: Element + CudnnDataType>(
    pass: Pass,
    operands: [&Tensor; 2],
    g: &Geometry,
    shape: (usize, usize, usize, usize),
) -> Result<Option<Made>> {
    let device = device(operands[0])?;
    let key = Key::new(pass, T::DTYPE, Precision::current(), g);
    let [first, second] = operands.map(Operand::new);
    let addresses = [first.at::<T>()?, second.at::<T>()?];
    LIBRARIES.with_borrow_mut(|libraries| {
        let library = match libraries.entry(device.id()) {
            std::collections::hash_map::Entry::Occupied(entry) => entry.into_mut(),
            std::collections::hash_map::Entry::Vacant(entry) => {
                entry.insert(Library::new(&device)?)
            }
        };
        let plan = match library.plans.get(&key) {
            Some(plan) => plan.clone(),
            None => {
                let plan = Plan::new::<T>(&library.handle, &key, g)?.map(Rc::new);
                library.plans.insert(key, plan.clone());
                plan
            }
        };
        let Some(plan) = plan else { return Ok(None) };
        let mut result = fresh::<T>(&device, shape.0 * shape.1 * shape.2 * shape.3)?;
        library.launch(&device, &plan, addresses, &mut result)?;
        Ok(Some(Made::new(result, shape, &device)))
    })
}

impl Library {
    fn new(device: &CudaDevice) -> Result<Self> {
        let stream = device.cuda_stream();
        stream.context().bind_to_thread()?;
        let handle = Handle(result::create_handle()?);
        // SAFETY: both are alive, and the library keeps them together.
        unsafe { result::set_stream(handle.0, stream.cu_stream().cast()) }?;
        Ok(Self {
            handle,
            stream,
            plans: HashMap::new(),
            memories: vec![],
        })
    }

    fn launch<T: Element>(
        &mut self,
        device: &CudaDevice,
        plan: &Plan,
        operands: [u64; 2],
        result: &mut CudaSlice<T>,
    ) -> Result<()> {
        if self
            .memories
            .last()
            .is_none_or(|memory| memory.len() < plan.memory)
        {
            // Of powers of two, all together take less than twice the largest.
            // SAFETY: working memory is written before it is read.
            self.memories
                .push(unsafe { device.alloc::<u8>(plan.memory.next_power_of_two()) }?);
        }
        let Some(memory) = self.memories.last_mut() else {
            bail!("internal: no working memory")
        };
        let memory = memory.device_ptr_mut(&self.stream).0 as *mut c_void;
        let to = result.device_ptr_mut(&self.stream).0 as *mut c_void;
        let [first, second] = operands.map(|address| address as *const c_void);
        let (one, zero) = (1f32, 0f32);
        let (one, zero) = (
            (&raw const one).cast::<c_void>(),
            (&raw const zero).cast::<c_void>(),
        );
        let (
            handle,
            Descriptors {
                images: x,
                kernel: k,
                results: y,
                convolution: c,
            },
        ) = (self.handle.0, &plan.descriptors);
        // SAFETY: descriptors, operands and result are of the same geometry and type, the working
        // memory is as long as the algorithm asked for, and scales of f32 and bf16 convolutions are
        // f32.
        unsafe {
            match plan.algorithm {
                Algorithm::Forward(a) => result::convolution_forward(
                    handle,
                    one,
                    x.0,
                    first,
                    k.0,
                    second,
                    c.0,
                    a,
                    memory,
                    plan.memory,
                    zero,
                    y.0,
                    to,
                ),
                Algorithm::Images(a) => result::convolution_backward_data(
                    handle,
                    one,
                    k.0,
                    second,
                    y.0,
                    first,
                    c.0,
                    a,
                    memory,
                    plan.memory,
                    zero,
                    x.0,
                    to,
                ),
                Algorithm::Kernel(a) => result::convolution_backward_filter(
                    handle,
                    one,
                    x.0,
                    first,
                    y.0,
                    second,
                    c.0,
                    a,
                    memory,
                    plan.memory,
                    zero,
                    k.0,
                    to,
                ),
            }
        }?;
        Ok(())
    }
}

/// One of cuDNN's objects, destroyed when dropped.
macro_rules! owned {
    ($($name:ident: $of:ty, $destroy:path;)*) => { $(
        struct $name($of);
        impl Drop for $name {
            fn drop(&mut self) {
                // SAFETY: nobody else has it. An error would leave it to the end of the process.
                let _ended = unsafe { $destroy(self.0) };
            }
        }
    )* };
}
owned! {
    Handle: sys::cudnnHandle_t, result::destroy_handle;
    Images: sys::cudnnTensorDescriptor_t, result::destroy_tensor_descriptor;
    Kernel: sys::cudnnFilterDescriptor_t, result::destroy_filter_descriptor;
    Conv: sys::cudnnConvolutionDescriptor_t, result::destroy_convolution_descriptor;
}

struct Descriptors {
    images: Images,
    kernel: Kernel,
    results: Images,
    convolution: Conv,
}

/// cuDNN counts in 32 bits.
fn int(length: usize) -> Result<i32> {
    i32::try_from(length).map_err(|_| {
        candle_core::Error::Msg(format!(
            "a convolution of length {length} is too long for cuDNN"
        ))
    })
}

impl Descriptors {
    fn new<T: CudnnDataType>(g: &Geometry, math: sys::cudnnMathType_t) -> Result<Self> {
        const LAST: sys::cudnnTensorFormat_t = sys::cudnnTensorFormat_t::CUDNN_TENSOR_NHWC;
        let ints = |lengths: [usize; 4]| -> Result<[i32; 4]> {
            let [a, b, c, d] = lengths.map(int);
            Ok([a?, b?, c?, d?])
        };
        let (stride, padding) = (int(g.stride)?, int(g.padding)?);
        let [images, results] = [
            result::create_tensor_descriptor()?,
            result::create_tensor_descriptor()?,
        ]
        .map(Images);
        let kernel = Kernel(result::create_filter_descriptor()?);
        let convolution = Conv(result::create_convolution_descriptor()?);
        // SAFETY: the objects were just made. cuDNN names lengths in the order n, c, h, w whatever
        // lies side by side.
        unsafe {
            result::set_tensor4d_descriptor(
                images.0,
                LAST,
                T::DATA_TYPE,
                ints([g.b, g.ci, g.h, g.w])?,
            )?;
            result::set_tensor4d_descriptor(
                results.0,
                LAST,
                T::DATA_TYPE,
                ints([g.b, g.co, g.oh, g.ow])?,
            )?;
            result::set_filter4d_descriptor(
                kernel.0,
                T::DATA_TYPE,
                LAST,
                ints([g.co, g.ci, g.kh, g.kw])?,
            )?;
            let mode = sys::cudnnConvolutionMode_t::CUDNN_CROSS_CORRELATION;
            let sums = f32::DATA_TYPE;
            result::set_convolution2d_descriptor(
                convolution.0,
                padding,
                padding,
                stride,
                stride,
                1,
                1,
                mode,
                sums,
            )?;
            result::set_convolution_math_type(convolution.0, math)?;
        }
        Ok(Self {
            images,
            kernel,
            results,
            convolution,
        })
    }
}

#[derive(Debug, Clone, Copy)]
enum Algorithm {
    Forward(sys::cudnnConvolutionFwdAlgo_t),
    Images(sys::cudnnConvolutionBwdDataAlgo_t),
    Kernel(sys::cudnnConvolutionBwdFilterAlgo_t),
}

/// How a convolution is computed.
struct Plan {
    descriptors: Descriptors,
    algorithm: Algorithm,
    /// Bytes of working memory.
    memory: usize,
}

/// The best of what cuDNN proposes, best first: in a fixed order of its sums, and within the
/// memory.
macro_rules! propose {
    ($ask:path, $most:literal, $handle:expr, [$($descriptor:expr),*]) => {{
        // SAFETY: the structure is of numbers, for which all zeros are values.
        let (mut count, mut proposals) = (0, [unsafe { std::mem::zeroed() }; $most]);
        // SAFETY: the descriptors are alive, and there is room for as many proposals as asked for.
        unsafe { $ask($handle, $($descriptor),*, $most, &raw mut count, proposals.as_mut_ptr()) }?;
        let proposals = proposals.into_iter().take(usize::try_from(count).unwrap_or(0));
        proposals
            .filter(|p| p.status == sys::cudnnStatus_t::CUDNN_STATUS_SUCCESS && p.memory <= MOST_MEMORY)
            .find(|p| p.determinism == sys::cudnnDeterminism_t::CUDNN_DETERMINISTIC)
            .map(|p| (p.algo, p.memory, p.mathType))
    }};
}

impl Plan {
    /// `None` if cuDNN has no algorithm for it.
    fn new<T: CudnnDataType>(handle: &Handle, key: &Key, g: &Geometry) -> Result<Option<Self>> {
        let math = match (key.dtype, key.rounded) {
            (DType::BF16, _) => sys::cudnnMathType_t::CUDNN_TENSOR_OP_MATH,
            (_, true) => sys::cudnnMathType_t::CUDNN_DEFAULT_MATH,
            (_, false) => sys::cudnnMathType_t::CUDNN_FMA_MATH,
        };
        let descriptors = Descriptors::new::<T>(g, math)?;
        let Descriptors {
            images: x,
            kernel: k,
            results: y,
            convolution: c,
        } = &descriptors;
        let found = match key.pass {
            Pass::Forward => propose!(
                result::get_convolution_forward_algorithm,
                16,
                handle.0,
                [x.0, k.0, c.0, y.0]
            )
            .map(|(a, memory, math)| (Algorithm::Forward(a), memory, math)),
            Pass::Images => propose!(
                result::get_convolution_backward_data_algorithm,
                16,
                handle.0,
                [k.0, y.0, c.0, x.0]
            )
            .map(|(a, memory, math)| (Algorithm::Images(a), memory, math)),
            Pass::Kernel => propose!(
                result::get_convolution_backward_filter_algorithm,
                16,
                handle.0,
                [x.0, y.0, c.0, k.0]
            )
            .map(|(a, memory, math)| (Algorithm::Kernel(a), memory, math)),
        };
        let usual = || {
            Self::usual(handle, key.pass, &descriptors)
                .map(|(algorithm, memory)| (algorithm, memory, math))
        };
        let Some((algorithm, memory, math)) = found.or_else(usual) else {
            return Ok(None);
        };
        if key.rounded {
            // SAFETY: alive, and of the proposal.
            unsafe { result::set_convolution_math_type(c.0, math) }?;
        }
        Ok(Some(Self {
            descriptors,
            algorithm,
            memory,
        }))
    }

    /// The algorithm of a fixed order that serves most shapes, and its working memory, if it serves
    /// this one: cuDNN need not have proposed it.
    fn usual(handle: &Handle, pass: Pass, descriptors: &Descriptors) -> Option<(Algorithm, usize)> {
        use sys::cudnnConvolutionBwdDataAlgo_t::CUDNN_CONVOLUTION_BWD_DATA_ALGO_1 as IMAGES;
        use sys::cudnnConvolutionBwdFilterAlgo_t::CUDNN_CONVOLUTION_BWD_FILTER_ALGO_1 as KERNEL;
        use sys::cudnnConvolutionFwdAlgo_t::CUDNN_CONVOLUTION_FWD_ALGO_IMPLICIT_PRECOMP_GEMM as FORWARD;
        let (
            handle,
            Descriptors {
                images: x,
                kernel: k,
                results: y,
                convolution: c,
            },
        ) = (handle.0, descriptors);
        // SAFETY: all are alive.
        let (algorithm, memory) = unsafe {
            match pass {
                Pass::Forward => (
                    Algorithm::Forward(FORWARD),
                    result::get_convolution_forward_workspace_size(
                        handle, x.0, k.0, c.0, y.0, FORWARD,
                    ),
                ),
                Pass::Images => (
                    Algorithm::Images(IMAGES),
                    result::get_convolution_backward_data_workspace_size(
                        handle, k.0, y.0, c.0, x.0, IMAGES,
                    ),
                ),
                Pass::Kernel => (
                    Algorithm::Kernel(KERNEL),
                    result::get_convolution_backward_filter_workspace_size(
                        handle, x.0, y.0, c.0, k.0, KERNEL,
                    ),
                ),
            }
        };
        Some((
            algorithm,
            memory.ok().filter(|memory| *memory <= MOST_MEMORY)?,
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_decides_the_algorithm_is_in_the_key() -> Result<()> {
        let key = |x: [usize; 4], stride, dtype, precision| -> Result<Key> {
            let kernel = [8, x[1], 3, 3];
            Ok(Key::new(
                Pass::Forward,
                dtype,
                precision,
                &Geometry::new(&x, &kernel, stride, 1)?,
            ))
        };
        let base = key([4, 3, 16, 16], 1, DType::F32, Precision::F32)?;
        assert_eq!(base, key([4, 3, 16, 16], 1, DType::F32, Precision::F32)?);
        let others = [
            key([5, 3, 16, 16], 1, DType::F32, Precision::F32)?,
            key([4, 3, 16, 17], 1, DType::F32, Precision::F32)?,
            key([4, 3, 16, 16], 2, DType::F32, Precision::F32)?,
            key([4, 3, 16, 16], 1, DType::BF16, Precision::F32)?,
            key([4, 3, 16, 16], 1, DType::F32, Precision::Tf32)?,
            Key {
                pass: Pass::Images,
                ..base
            },
        ];
        assert!(others.iter().all(|other| *other != base));
        Ok(())
    }

    #[test]
    fn lengths_beyond_32_bits_are_refused() {
        assert!(
            int(1 << 31)
                .unwrap_err()
                .to_string()
                .contains("too long for cuDNN")
        );
        assert_eq!(int(7).ok(), Some(7));
    }
}
