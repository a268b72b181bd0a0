//! Kernels as a convolution needs them, kept from one call to the next while they stay the same.
//!
//! Candle's tensors change in place without a trace, and a frozen twin shares them with training,
//! so what is kept says which elements it was made from, and is made anew unless they are the same,
//! bit for bit. Knows nothing of layers.
use crate::conv::{Convolution, Weights};
use crate::real::Real;
use std::any::Any;
use std::sync::{Arc, Mutex, PoisonError};

/// Bytes of the largest kernel that is worth keeping: larger ones are arranged part by part where
/// they are used, for a small part of the time that their products take.
const LARGEST: usize = 1 << 20;

/// What a convolution keeps of a kernel between calls. A clone shares it; [`Default`] is empty.
#[derive(Clone, Default)]
pub struct KernelCache(Arc<Mutex<[Option<Entry>; 2]>>);

impl std::fmt::Debug for KernelCache {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("KernelCache")
    }
}

/// In which direction weights are used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Direction {
    Forward,
    Adjoint,
}

struct Entry {
    /// `Vec<T>`.
    kernel: Box<dyn Any + Send>,
    /// The images that the convolution is of, as far as the arrangement depends on them.
    conv: Convolution,
    /// `Arc<Weights<T>>`.
    weights: Box<dyn Any + Send>,
}

impl KernelCache {
    /// The weights of `conv` in one direction, as kept or made anew; kept if `keep`.
    pub(super) fn weights<T: Real>(
        &self,
        conv: &Convolution,
        kernel: &[T],
        direction: Direction,
        keep: bool,
    ) -> Arc<Weights<T>> {
        let keep = keep && size_of_val(kernel) <= LARGEST;
        let make = || {
            Arc::new(match direction {
                Direction::Forward => conv.weights(kernel, keep),
                Direction::Adjoint => conv.adjoint_weights(kernel, keep),
            })
        };
        if !keep {
            return make();
        }
        let mut entries = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let entry = &mut entries[(direction == Direction::Adjoint) as usize];
        if let Some(Entry {
            kernel: kept,
            conv: of,
            weights,
        }) = entry
            && of.same_weights(conv)
            && kept
                .downcast_ref::<Vec<T>>()
                .is_some_and(|kept| same(kept, kernel))
            && let Some(weights) = weights.downcast_ref::<Arc<Weights<T>>>()
        {
            return weights.clone();
        }
        let weights = make();
        *entry = Some(Entry {
            kernel: Box::new(kernel.to_vec()),
            conv: *conv,
            weights: Box::new(weights.clone()),
        });
        weights
    }
}

/// Bit for bit: NaN is itself, and 0 is not −0.
fn same<T: Real>(a: &[T], b: &[T]) -> bool {
    a.len() == b.len()
        && a.iter()
            .zip(b)
            .all(|(a, b)| a.to_f64().to_bits() == b.to_f64().to_bits())
}
