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
        Self {
            size,
            ci,
            co,
            forward,
            adjoint,
        }
    }

    /// `y (+)= C x`; `x` is of shape `from`, `y` the same with `co` channels.
    pub fn apply(&self, from: &Images, x: &[T], y: &mut [T], accumulate: bool) {
        slide(
            &self.forward,
            [self.size, self.ci, self.co],
            from,
            x,
            y,
            accumulate,
        );
    }

    /// `x (+)= Cᵀ y`; `y` is of shape `from`, `x` the same with `ci` channels.
    pub fn apply_adjoint(&self, from: &Images, y: &[T], x: &mut [T], accumulate: bool) {
        slide(
            &self.adjoint,
            [self.size, self.co, self.ci],
            from,
            y,
            x,
            accumulate,
        );
    }

    /// Adds `Σ y ⊗ window of x` to `gradient: [ky, co, kx, ci]`; `x` is of shape `from`, and the
    /// margins of `y` are zero.
    pub fn add_gradient(&self, from: &Images, x: &[T], y: &[T], gradient: &mut [T]) {
        let run = self.size * self.ci;
        let to = Images {
            channels: self.co,
            ..*from
        };
        for (ky, gradient) in gradient.chunks_mut(self.co * run).enumerate() {
            let span = from.span(self.size, ky);
            let (x, y) = (&x[span.from..], &y[to.position(span.to.start)..]);
            product(
                [run, self.co, span.to.len()],
                gradient,
                run,
                true,
                x,
                self.ci,
                y,
                [self.co, 1],
            );
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
    let to = Images {
        channels: outputs,
        ..*from
    };
    // The middle row first: it reaches every position.
    let rows = [size / 2]
        .into_iter()
        .chain((0..size).filter(|ky| *ky != size / 2));
    for (i, ky) in rows.enumerate() {
        let span = from.span(size, ky);
        let weights = &weights[ky * depth * outputs..(ky + 1) * depth * outputs];
        let (x, y) = (&x[span.from..], &mut y[to.position(span.to.start)..]);
        product(
            [outputs, span.to.len(), depth],
            y,
            outputs,
            accumulate || i > 0,
            weights,
            outputs,
            x,
            [1, inputs],
        );
    }
}
