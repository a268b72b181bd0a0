//! Convolution of [`Images`], its adjoint and its kernel's gradient, each a product per kernel row.
//!
//! Knows nothing of biases or activations; margins hold garbage until the caller clears them.
use super::images::Images;
use crate::conv::blas::product;
use crate::real::Real;

/// A kernel `[co, ci, size, size]`, arranged for products.
pub(super) struct Kernel<T> {
    size: usize,
    ci: usize,
    co: usize,
    /// `[ky, kx, ci, co]`.
    forward: Vec<T>,
    /// Rotated by half a turn: `[ky, kx, co, ci]`.
    adjoint: Vec<T>,
}

impl<T: Real> Kernel<T> {
    pub fn new(kernel: &[T], [co, ci, size]: [usize; 3]) -> Self {
        let taps = size * size;
        let mut forward = vec![T::ZERO; kernel.len()];
        let mut adjoint = forward.clone();
        for (i, taps_of) in kernel.chunks(taps).enumerate() {
            let (o, c) = (i / ci, i % ci);
            for (tap, &value) in taps_of.iter().enumerate() {
                forward[(tap * ci + c) * co + o] = value;
                adjoint[((taps - 1 - tap) * co + o) * ci + c] = value;
            }
        }
        Self { size, ci, co, forward, adjoint }
    }

    /// `y (+)= C x`; `x` is of shape `from`, `y` the same with `co` channels.
    pub fn apply(&self, from: &Images, x: &[T], y: &mut [T], accumulate: bool) {
        slide(&self.forward, [self.size, self.ci, self.co], from, x, y, accumulate);
    }

    /// `x (+)= Cᵀ y`; `y` is of shape `from`, `x` the same with `ci` channels.
    pub fn apply_adjoint(&self, from: &Images, y: &[T], x: &mut [T], accumulate: bool) {
        slide(&self.adjoint, [self.size, self.co, self.ci], from, y, x, accumulate);
    }

    /// Adds `Σ y ⊗ window of x` to `gradient: [ky, co, kx, ci]`; `x` is of shape `from`, and the margins of `y`
    /// are zero.
    pub fn add_gradient(&self, from: &Images, x: &[T], y: &[T], gradient: &mut [T]) {
        let run = self.size * self.ci;
        let first = Images { channels: self.co, ..*from }.start();
        for (ky, gradient) in gradient.chunks_mut(self.co * run).enumerate() {
            let x = &x[from.window(self.size, ky)..];
            product([run, self.co, from.positions()], gradient, run, true, x, self.ci, &y[first..], [self.co, 1]);
        }
    }

    /// [`add_gradient`](Self::add_gradient)'s result in the order of the kernel.
    pub fn in_order(&self, gradient: &[T], kernel: &mut [T]) {
        let taps = self.size * self.size;
        for (i, taps_of) in kernel.chunks_mut(taps).enumerate() {
            let (o, c) = (i / self.ci, i % self.ci);
            for (tap, value) in taps_of.iter_mut().enumerate() {
                let (ky, kx) = (tap / self.size, tap % self.size);
                *value = gradient[((ky * self.co + o) * self.size + kx) * self.ci + c];
            }
        }
    }
}

/// `weights: [size, size, inputs, outputs]` over every position.
fn slide<T: Real>(
    weights: &[T],
    [size, inputs, outputs]: [usize; 3],
    from: &Images,
    x: &[T],
    y: &mut [T],
    accumulate: bool,
) {
    let depth = size * inputs;
    let first = Images { channels: outputs, ..*from }.start();
    for (ky, weights) in weights.chunks(depth * outputs).enumerate() {
        let x = &x[from.window(size, ky)..];
        let (y, more) = (&mut y[first..], accumulate || ky > 0);
        product([outputs, from.positions(), depth], y, outputs, more, weights, outputs, x, [1, inputs]);
    }
}
