//! The two element types, access to a tensor's elements, scratch memory and fixed-order sums.
//!
//! Knows nothing of any particular operation.
use crate::conv::tile::{Tile, tile};
use candle_core::{CpuStorage, Layout, Result, Storage, StorageRef, Tensor, WithDType, bail};
use rayon::prelude::*;
use std::cell::RefCell;
use std::sync::{Mutex, PoisonError};

/// Elements per parallel piece of an elementwise loop: a constant, so that pieces never depend on
/// the number of threads, and long enough (16 Ki) to hide the cost of a task.
pub(crate) const PIECE: usize = 1 << 14;

/// `f32` or `f64`.
pub(crate) trait Real: WithDType {
    const ZERO: Self;
    fn sqrt(self) -> Self;
    /// `self · a + b`, rounded once. Slow where the processor has no such instruction.
    fn mul_add(self, a: Self, b: Self) -> Self;
    /// The innermost loops of direct convolutions.
    fn tile() -> Tile<Self>;
    fn take_scratch() -> Vec<Self>;
    fn give_scratch(buffer: Vec<Self>);
    fn shelf() -> &'static Mutex<Vec<Vec<Self>>>;
}

macro_rules! real {
    ($($t:ident $pool:ident [$($lanes:literal),*]),*) => { $(
        thread_local! { static $pool: RefCell<Vec<Vec<$t>>> = const { RefCell::new(Vec::new()) }; }
        impl Real for $t {
            const ZERO: Self = 0.;
            fn sqrt(self) -> Self { $t::sqrt(self) }
            #[inline(always)]
            fn mul_add(self, a: Self, b: Self) -> Self { $t::mul_add(self, a, b) }
            fn tile() -> Tile<Self> { tile::<$t, $($lanes),*>() }
            fn take_scratch() -> Vec<Self> { $pool.with_borrow_mut(Vec::pop).unwrap_or_default() }
            fn give_scratch(buffer: Vec<Self>) { $pool.with_borrow_mut(|pool| pool.push(buffer)) }
            fn shelf() -> &'static Mutex<Vec<Vec<Self>>> {
                static SHELF: Mutex<Vec<Vec<$t>>> = Mutex::new(Vec::new());
                &SHELF
            }
        }
    )* };
}
real!(f32 POOL_F32 [16, 8, 4], f64 POOL_F64 [8, 4, 4]);

/// A buffer of the current thread, given back when dropped. Its content is whatever was there.
pub(crate) struct Scratch<T: Real>(Vec<T>);

impl<T: Real> Scratch<T> {
    pub(crate) fn new() -> Self {
        Self(T::take_scratch())
    }

    /// The first `len` elements, with stale content.
    pub(crate) fn of(&mut self, len: usize) -> &mut [T] {
        if self.0.len() < len {
            self.0.resize(len, T::ZERO);
        }
        &mut self.0[..len]
    }

    /// The first `len` elements, all zero.
    pub(crate) fn zeroed(&mut self, len: usize) -> &mut [T] {
        let slice = self.of(len);
        slice.fill(T::ZERO);
        slice
    }
}

impl<T: Real> Drop for Scratch<T> {
    fn drop(&mut self) {
        T::give_scratch(std::mem::take(&mut self.0));
    }
}

/// As [`Scratch`], for what a forward pass keeps for its backward pass: any thread may drop it, and
/// the next forward pass takes it up again instead of new memory.
pub(crate) struct Kept<T: Real> {
    /// At least as long as asked for.
    buffer: Vec<T>,
    len: usize,
}

/// How many times too long a buffer may be.
const SLACK: usize = 4;
/// More buffers than this do not wait on the shelf: the longest there goes first.
const SHELF: usize = 128;

impl<T: Real> Kept<T> {
    pub(crate) fn new() -> Self {
        Self {
            buffer: vec![],
            len: 0,
        }
    }

    /// These elements.
    pub(crate) fn copy_of(elements: &[T]) -> Self {
        let mut kept = Self::new();
        kept.of(elements.len()).copy_from_slice(elements);
        kept
    }

    /// `len` elements, with stale content. The first time in the smallest buffer of the shelf that
    /// holds them, unless that is far too long: somebody who needs it will come.
    pub(crate) fn of(&mut self, len: usize) -> &mut [T] {
        if self.buffer.len() < len {
            let mut shelf = T::shelf().lock().unwrap_or_else(PoisonError::into_inner);
            let fits = shelf
                .iter()
                .enumerate()
                .filter(|(_, v)| v.len() >= len && v.len() / SLACK <= len);
            let found = fits
                .min_by_key(|(_, v)| v.len())
                .map(|(i, _)| i)
                .map(|i| shelf.remove(i));
            drop(shelf);
            self.buffer = found.unwrap_or_else(|| vec![T::ZERO; len]);
        }
        self.len = len;
        &mut self.buffer[..len]
    }

    /// All elements.
    pub(crate) fn all(&self) -> &[T] {
        &self.buffer[..self.len]
    }

    /// All elements.
    pub(crate) fn all_mut(&mut self) -> &mut [T] {
        &mut self.buffer[..self.len]
    }
}

impl<T: Real> Drop for Kept<T> {
    fn drop(&mut self) {
        if self.buffer.is_empty() {
            return;
        }
        let mut shelf = T::shelf().lock().unwrap_or_else(PoisonError::into_inner);
        if shelf.len() == SHELF {
            shelf.remove(0);
        }
        shelf.push(std::mem::take(&mut self.buffer));
    }
}

/// Runs `$body` with `$T` bound to the element type; an error for other types.
macro_rules! dispatch {
    ($op:expr, $dtype:expr, $T:ident => $body:expr) => {
        match $dtype {
            candle_core::DType::F32 => {
                type $T = f32;
                $body
            }
            candle_core::DType::F64 => {
                type $T = f64;
                $body
            }
            other => candle_core::bail!(
                "{}: element type {other:?} is not supported, convert to F32 or F64",
                $op
            ),
        }
    };
}
pub(crate) use dispatch;

/// The elements behind a contiguous layout.
pub(crate) fn elements<'a, T: Real>(storage: &'a CpuStorage, layout: &Layout) -> Result<&'a [T]> {
    let Some((from, to)) = layout.contiguous_offsets() else {
        bail!("internal: a non-contiguous operand reached a kernel")
    };
    Ok(&T::cpu_storage_as_slice(storage)?[from..to])
}

/// [`elements`], for writing.
pub(crate) fn elements_mut<'a, T: Real>(
    storage: &'a mut CpuStorage,
    layout: &Layout,
) -> Result<&'a mut [T]> {
    let Some((from, to)) = layout.contiguous_offsets() else {
        bail!("internal: a non-contiguous operand reached a kernel")
    };
    let all: &mut dyn std::any::Any = match storage {
        CpuStorage::F32(v) => v,
        CpuStorage::F64(v) => v,
        _ => bail!("internal: an operand is neither F32 nor F64"),
    };
    match all.downcast_mut::<Vec<T>>() {
        Some(v) => Ok(&mut v[from..to]),
        None => bail!("internal: an operand is not of type {:?}", T::DTYPE),
    }
}

/// Read access to a contiguous CPU tensor for as long as this lives.
pub(crate) struct Read<'a>(StorageRef<'a>, &'a Layout);

impl<'a> Read<'a> {
    pub(crate) fn new(t: &'a Tensor) -> Self {
        let (storage, layout) = t.storage_and_layout();
        Self(storage, layout)
    }

    pub(crate) fn elements<T: Real>(&self) -> Result<&[T]> {
        match &*self.0 {
            Storage::Cpu(storage) => elements(storage, self.1),
            _ => bail!("internal: a tensor of another device reached a CPU kernel"),
        }
    }
}

/// A CPU tensor from its elements, tracking nothing.
pub(crate) fn tensor<T: Real>(data: Vec<T>, like: &Tensor) -> Result<Tensor> {
    Tensor::from_vec(data, like.shape(), like.device())
}

/// An error unless all tensors have the type and device of the first.
pub(crate) fn same_kind(op: &str, tensors: &[(&str, &Tensor)]) -> Result<()> {
    let [(first_name, first), rest @ ..] = tensors else {
        return Ok(());
    };
    for (name, t) in rest {
        if t.dtype() != first.dtype() || !t.device().same_device(first.device()) {
            bail!(
                "{op}: {name} is {:?} on {:?}, but {first_name} is {:?} on {:?}; convert one of them",
                t.dtype(),
                t.device().location(),
                first.dtype(),
                first.device().location()
            )
        }
    }
    Ok(())
}

/// `out[i] = f(i-th elements)` in parallel pieces.
pub(crate) fn map2<T: Real>(a: &[T], b: &[T], f: impl Fn(T, T) -> T + Sync) -> Vec<T> {
    let mut out = vec![T::ZERO; a.len()];
    out.par_chunks_mut(PIECE)
        .zip(a.par_chunks(PIECE))
        .zip(b.par_chunks(PIECE))
        .for_each(|((out, a), b)| {
            for ((out, &a), &b) in out.iter_mut().zip(a).zip(b) {
                *out = f(a, b);
            }
        });
    out
}

/// Sums in `f64` over 8 interleaved lanes: fixed order, and wide enough to vectorise.
pub(crate) fn sum_by<T: Real, const N: usize>(
    a: &[T],
    b: &[T],
    f: impl Fn(f64, f64) -> [f64; N],
) -> [f64; N] {
    const LANES: usize = 8;
    let mut lanes = [[0f64; LANES]; N];
    let (a8, b8) = (a.chunks_exact(LANES), b.chunks_exact(LANES));
    let mut total = [0f64; N];
    for (&a, &b) in a8.remainder().iter().zip(b8.remainder()) {
        let terms = f(a.to_f64(), b.to_f64());
        for (total, term) in total.iter_mut().zip(terms) {
            *total += term;
        }
    }
    for (a, b) in a8.zip(b8) {
        for l in 0..LANES {
            let terms = f(a[l].to_f64(), b[l].to_f64());
            for (lane, term) in lanes.iter_mut().zip(terms) {
                lane[l] += term;
            }
        }
    }
    for (total, lane) in total.iter_mut().zip(lanes) {
        *total += lane.iter().sum::<f64>();
    }
    total
}

/// Per-channel [`sum_by`] over `[batch, channels, plane]`: samples in order, channels in parallel.
pub(crate) fn channel_sums<T: Real, const N: usize>(
    [batch, channels, plane]: [usize; 3],
    a: &[T],
    b: &[T],
    f: impl Fn(usize, f64, f64) -> [f64; N] + Sync,
) -> Vec<[f64; N]> {
    // Blocks of channels keep reads local where planes are small.
    let block = 256usize.div_ceil(plane.max(1)).min(channels.max(1));
    let mut sums = vec![[0f64; N]; channels];
    sums.par_chunks_mut(block)
        .enumerate()
        .for_each(|(i, sums)| {
            for sample in 0..batch {
                for (j, sum) in sums.iter_mut().enumerate() {
                    let channel = i * block + j;
                    let at = (sample * channels + channel) * plane;
                    let terms = sum_by(&a[at..at + plane], &b[at..at + plane], |a, b| {
                        f(channel, a, b)
                    });
                    for (sum, term) in sum.iter_mut().zip(terms) {
                        *sum += term;
                    }
                }
            }
        });
    sums
}
