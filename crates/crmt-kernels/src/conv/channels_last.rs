//! A convolution of channels-last images `[batch, height, width, channels]` and its two gradients,
//! by the faster of two methods: sums gathered where the elements lie ([`direct`](super::direct)),
//! or fewer multiplications ([`winograd`](super::winograd)).
//!
//! Knows the rule that chooses, and nothing of tensors, networks or who asks for which gradient.
#![expect(unsafe_code, reason = "tasks write to interleaved parts of one output")]
use super::bilinear::{Bilinear, LANES, Stride1, Stride1Input, Stride2, Stride2Input};
use super::blas::{Shared, product};
use super::direct::{self, sweep};
use super::epilogue::Epilogue;
use super::geometry::{COLUMNS, Geometry, TASKS, Unit, blocks, parts};
use super::layout::add_windows;
use super::taps::{self, Class, Pixel, Run};
use super::winograd::{self, Kernel, Shape, Transformed};
use crate::real::{Kept, PIECE, Real, Scratch};
use crate::simd::wide;
use rayon::prelude::*;
use std::ops::Range;

/// How convolutions are computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Algorithms {
    /// By the fastest method. In `f32`, errors of a layer's values and gradients are a few 1e-5 of
    /// the largest element for 512 channels and stride 1, a few 1e-6 with stride 2, where plain
    /// sums have 1e-6; `f64` always uses plain sums.
    #[default]
    Fastest,
    /// Products added up as the definition says, for comparisons.
    Direct,
}

/// Elements that are finished at a time.
const STEP: usize = 8;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Method {
    Direct,
    Stride1,
    Stride2,
}

/// A convolution and how to compute it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Convolution {
    pub g: Geometry,
    method: Method,
    /// For the kernel's gradient.
    kernel_method: Method,
}

/// A kernel as one direction needs it.
pub(crate) enum Weights<T: Real> {
    Sums {
        weights: direct::Weights<T>,
        classes: Vec<Class>,
    },
    Windows {
        weights: direct::Weights<T>,
        classes: Vec<Class>,
    },
    /// `None` where a kernel is so large that parts are transformed where they are used.
    Points(Option<Transformed<T>>),
}

/// Channels below which a transform costs more than it saves: a judgement, like the two below,
/// confirmed by whole steps only (`cargo xtask bench`).
const FEW_CHANNELS: usize = 16;
/// Tiles below which transforming the weights costs more than it saves.
const FEW_TILES: usize = 16;
/// Largest part of the direct products for which transforms pay.
const GAIN: f64 = 0.8;

impl Method {
    /// For values and the input's gradient, and for the kernel's gradient: copied windows include
    /// the padding, which sums gathered where the elements lie do not.
    fn new<T: Real>(g: &Geometry, algorithms: Algorithms) -> [Self; 2] {
        let fits = [g.kh, g.kw, g.padding] == [3, 3, 1]
            && [g.ci, g.co]
                .iter()
                .all(|c| c % LANES == 0 && *c >= FEW_CHANNELS);
        // f64 is for who wants every digit.
        if algorithms == Algorithms::Direct || !fits || size_of::<T>() != 4 {
            return [Self::Direct; 2];
        }
        let (method, points, results) = match g.stride {
            1 => (Self::Stride1, 36, 4),
            2 => (Self::Stride2, 25, 2),
            _ => return [Self::Direct; 2],
        };
        let tiles = g.oh.div_ceil(results) * g.ow.div_ceil(results);
        // Taps inside the image: without padding, three to each result.
        let taps = |results: usize, len: usize| -> usize {
            let inside = |o: usize| {
                (0..3)
                    .filter(|t| (o * g.stride + t).checked_sub(1).is_some_and(|i| i < len))
                    .count()
            };
            (0..results).map(inside).sum()
        };
        [taps(g.oh, g.h) * taps(g.ow, g.w), 9 * g.plane()].map(|direct| {
            match g.b * tiles >= FEW_TILES && ((points * tiles) as f64) < GAIN * direct as f64 {
                true => method,
                false => Self::Direct,
            }
        })
    }
}

impl Convolution {
    /// Whether both compute with the same weights of a kernel, whatever their batches.
    pub fn same_weights(&self, other: &Self) -> bool {
        let of = |conv: &Self| Geometry { b: 0, ..conv.g };
        self.method == other.method && of(self) == of(other)
    }

    pub fn new<T: Real>(g: Geometry, algorithms: Algorithms) -> Self {
        let [method, kernel_method] = Method::new::<T>(&g, algorithms);
        Self {
            g,
            method,
            kernel_method,
        }
    }

    /// What [`forward`](Self::forward) computes with, from `kernel: [co, ci, kh, kw]`; `keep` if it
    /// serves more than once.
    pub fn weights<T: Real>(&self, kernel: &[T], keep: bool) -> Weights<T> {
        let g = &self.g;
        match self.method {
            Method::Stride1 => points::<T, Stride1, 6, 6, 4>(&self.outputs(kernel), keep),
            Method::Stride2 => points::<T, Stride2, 5, 5, 2>(&self.outputs(kernel), keep),
            // Runs of so few elements are too short to be summed where they lie.
            Method::Direct
                if g.ci < T::tile().lanes && g.co.is_multiple_of(2 * T::tile().lanes) =>
            {
                Weights::Windows {
                    weights: direct::Weights::forward(g, kernel),
                    classes: vec![],
                }
            }
            Method::Direct => Weights::Sums {
                weights: direct::Weights::forward(g, kernel),
                classes: taps::forward(g),
            },
        }
    }

    /// What [`input_gradient`](Self::input_gradient) computes with.
    pub fn adjoint_weights<T: Real>(&self, kernel: &[T], keep: bool) -> Weights<T> {
        let g = &self.g;
        match self.method {
            Method::Stride1 => points::<T, Stride1Input, 6, 6, 4>(&self.inputs(kernel), keep),
            Method::Stride2 => points::<T, Stride2Input, 5, 3, 4>(&self.inputs(kernel), keep),
            // A vector of so few channels would be nearly empty.
            Method::Direct if g.ci < T::tile().lanes => {
                let pixels = (0..g.plane())
                    .map(|i| Pixel {
                        input: i * g.co,
                        output: i,
                    })
                    .collect();
                let classes = vec![Class {
                    runs: vec![Run {
                        weight: 0,
                        input: 0,
                        len: g.co,
                    }],
                    pixels,
                }];
                Weights::Windows {
                    weights: direct::Weights::windows(g, kernel),
                    classes,
                }
            }
            Method::Direct => Weights::Sums {
                weights: direct::Weights::adjoint(g, kernel),
                classes: taps::adjoint(g),
            },
        }
    }

    /// The kernel as the convolution reads it.
    fn outputs<'a, T: Real>(
        &self,
        kernel: &'a [T],
    ) -> Kernel<'a, T, impl Fn(usize, usize) -> usize + Sync + use<T>> {
        let (channels, depth) = (self.g.co, self.g.ci);
        Kernel {
            channels,
            depth,
            elements: kernel,
            taps: move |channel, k| (channel * depth + k) * 9,
        }
    }

    /// The kernel as the adjoint reads it.
    fn inputs<'a, T: Real>(
        &self,
        kernel: &'a [T],
    ) -> Kernel<'a, T, impl Fn(usize, usize) -> usize + Sync + use<T>> {
        let (channels, depth) = (self.g.ci, self.g.co);
        Kernel {
            channels,
            depth,
            elements: kernel,
            taps: move |channel, k| (k * channels + channel) * 9,
        }
    }

    /// `x: [b, h, w, ci]` to `y: [b, oh, ow, co]`, with the `weights` of `kernel`.
    pub fn forward<T: Real>(
        &self,
        kernel: &[T],
        weights: &Weights<T>,
        x: &[T],
        y: &mut [T],
        epilogue: &Epilogue<T>,
    ) {
        let (g, shape) = (&self.g, self.shape());
        match (weights, self.method) {
            (Weights::Points(weights), Method::Stride1) => {
                let weights = weights.as_ref();
                winograd::convolve::<T, Stride1, 6, 6, 4>(
                    shape,
                    &self.outputs(kernel),
                    weights,
                    x,
                    y,
                    epilogue,
                );
            }
            (Weights::Points(weights), _) => {
                let weights = weights.as_ref();
                winograd::convolve::<T, Stride2, 5, 5, 2>(
                    shape,
                    &self.outputs(kernel),
                    weights,
                    x,
                    y,
                    epilogue,
                );
            }
            (Weights::Sums { weights, classes }, _) => {
                sums(
                    g.b,
                    weights,
                    classes,
                    [g.h * g.w * g.ci, g.plane()],
                    x,
                    y,
                    epilogue,
                );
            }
            (Weights::Windows { weights, .. }, _) => of_windows(g, weights, x, y, epilogue),
        }
    }

    /// `dy: [b, oh, ow, co]` to `dx: [b, h, w, ci]`, with the `weights` of `kernel`.
    pub fn input_gradient<T: Real>(
        &self,
        kernel: &[T],
        weights: &Weights<T>,
        dy: &[T],
        dx: &mut [T],
        epilogue: &Epilogue<T>,
    ) {
        let g = &self.g;
        let Shape {
            batch,
            source,
            result,
        } = self.shape();
        let shape = Shape {
            batch,
            source: result,
            result: source,
        };
        match (weights, self.method) {
            (Weights::Points(weights), Method::Stride1) => {
                let weights = weights.as_ref();
                winograd::convolve::<T, Stride1Input, 6, 6, 4>(
                    shape,
                    &self.inputs(kernel),
                    weights,
                    dy,
                    dx,
                    epilogue,
                );
            }
            (Weights::Points(weights), _) => {
                let weights = weights.as_ref();
                winograd::convolve::<T, Stride2Input, 5, 3, 4>(
                    shape,
                    &self.inputs(kernel),
                    weights,
                    dy,
                    dx,
                    epilogue,
                );
            }
            (Weights::Sums { weights, classes }, _) => {
                sums(
                    g.b,
                    weights,
                    classes,
                    [g.plane() * g.co, g.h * g.w],
                    dy,
                    dx,
                    epilogue,
                );
            }
            (Weights::Windows { weights, classes }, _) => {
                windows(g, weights, classes, dy, dx, epilogue)
            }
        }
    }

    /// `dL/dkernel: [co, ci, kh, kw]`.
    pub fn kernel_gradient<T: Real>(&self, x: &[T], dy: &[T]) -> Vec<T> {
        match self.kernel_method {
            Method::Stride1 => {
                winograd::kernel_gradient::<T, Stride1, 6, 6, 4>(self.shape(), x, dy)
            }
            Method::Stride2 => {
                winograd::kernel_gradient::<T, Stride2, 5, 5, 2>(self.shape(), x, dy)
            }
            Method::Direct => kernel_gradient(&self.g, x, dy),
        }
    }

    fn shape(&self) -> Shape {
        let g = &self.g;
        Shape {
            batch: g.b,
            source: [g.h, g.w, g.ci],
            result: [g.oh, g.ow, g.co],
        }
    }
}

/// At all points, if that is small or to be kept.
fn points<T: Real, B: Bilinear<P, I, R>, const P: usize, const I: usize, const R: usize>(
    kernel: &Kernel<T, impl Fn(usize, usize) -> usize + Sync>,
    keep: bool,
) -> Weights<T> {
    Weights::Points((keep || kernel.is_small(P * P)).then(|| kernel.transform::<B, P, I, R>()))
}

/// All pixels, in tasks of some samples and blocks of channels.
fn sums<T: Real>(
    batch: usize,
    weights: &direct::Weights<T>,
    classes: &[Class],
    [source, pixels]: [usize; 2],
    x: &[T],
    y: &mut [T],
    epilogue: &Epilogue<T>,
) {
    let samples = blocks(batch, (batch / TASKS).max(1));
    let channels = parts_of(weights.blocks(), TASKS.div_ceil(samples.len().max(1)));
    let tasks: Vec<_> = samples
        .iter()
        .flat_map(|s| channels.iter().map(move |c| (s.clone(), c.clone())))
        .collect();
    let y = Shared::new(y);
    tasks.into_par_iter().for_each(|(samples, channels)| {
        sweep(
            weights,
            channels,
            classes,
            samples,
            [source, pixels],
            x,
            #[inline(always)]
            |sums, channel, at| {
                // SAFETY: (sample, channels) belong to this task alone, and no other part is alive
                // on this thread.
                let y = unsafe { y.part(at, sums.len()) };
                finish(epilogue, y, sums, channel, at);
            },
        );
    });
}

/// `0..len` in at most `n` ranges of nearly equal length.
fn parts_of(len: usize, n: usize) -> Vec<Range<usize>> {
    blocks(len, len.div_ceil(n.min(len).max(1)).max(1))
}

#[inline(always)]
fn finish<T: Real>(epilogue: &Epilogue<T>, y: &mut [T], sums: &[T], channel: usize, at: usize) {
    let ((y, last), (sums, last_sums)) = (y.as_chunks_mut::<STEP>(), sums.as_chunks::<STEP>());
    let done = STEP * sums.len();
    for (i, (y, sums)) in y.iter_mut().zip(sums).enumerate() {
        epilogue.finish(y, *sums, channel + STEP * i, at + STEP * i);
    }
    for (i, (y, sum)) in last.iter_mut().zip(last_sums).enumerate() {
        epilogue.finish(
            std::array::from_mut(y),
            [*sum],
            channel + done + i,
            at + done + i,
        );
    }
}

/// Copied windows times weights, some positions at a time.
fn of_windows<T: Real>(
    g: &Geometry,
    weights: &direct::Weights<T>,
    x: &[T],
    y: &mut [T],
    epilogue: &Epilogue<T>,
) {
    let (panel, width, depth) = (T::tile().panel, 2 * T::tile().lanes, g.depth());
    let y = Shared::new(y);
    g.units(COLUMNS).par_iter().for_each(|unit| {
        let [mut windows, mut sums] = [(); 2].map(|()| Scratch::new());
        let n = unit.columns(g);
        let (windows, sums) = (windows.of(n * depth), sums.of(n * width));
        columns(g, unit, x, windows);
        let first = (unit.samples.start * g.oh + unit.rows.start) * g.ow * g.co;
        // SAFETY: these positions belong to this task alone, and no other part is alive on this
        // thread.
        let y = unsafe { y.part(first, n * g.co) };
        for (block, weights) in weights.blocks_of(width).enumerate() {
            panel.multiply([n, depth], windows, [depth, 1], weights, sums, width, false);
            let channel = block * width;
            wide(
                #[inline(always)]
                || {
                    for (i, sums) in sums.chunks_exact(width).enumerate() {
                        let at = i * g.co + channel;
                        finish(epilogue, &mut y[at..at + width], sums, channel, first + at);
                    }
                },
            );
        }
    });
}

/// The input's gradient as windows that are added where they lie.
fn windows<T: Real>(
    g: &Geometry,
    weights: &direct::Weights<T>,
    classes: &[Class],
    dy: &[T],
    dx: &mut [T],
    epilogue: &Epilogue<T>,
) {
    let (width, sample) = (g.w + 2 * g.padding, g.h * g.w * g.ci);
    let samples = dx
        .par_chunks_mut(sample.max(1))
        .zip(dy.par_chunks((g.plane() * g.co).max(1)))
        .enumerate();
    samples.for_each(|(i, (dx, dy))| {
        let [mut windows, mut image] = [(); 2].map(|()| Scratch::new());
        let windows = windows.of(g.plane() * g.depth());
        let to = Shared::new(windows);
        sweep(
            weights,
            0..weights.blocks(),
            classes,
            0..1,
            [0, g.plane()],
            dy,
            |sums, _, at| {
                // SAFETY: the windows are this task's, and no other part is alive.
                unsafe { to.part(at, sums.len()) }.copy_from_slice(sums);
            },
        );
        let image = image.zeroed((g.h + 2 * g.padding) * width * g.ci);
        add_windows(g, g.oh, g.ci, windows, image);
        for (y, dx) in dx.chunks_mut(g.w * g.ci).enumerate() {
            let row = &image[((y + g.padding) * width + g.padding) * g.ci..][..g.w * g.ci];
            for (j, (dx, v)) in dx.iter_mut().zip(row).enumerate() {
                epilogue.finish(
                    std::array::from_mut(dx),
                    [*v],
                    j % g.ci,
                    i * sample + y * g.w * g.ci + j,
                );
            }
        }
    });
}

/// Elements that [`columns`] copies at a time where windows are narrower: a copy of a length known
/// in advance is a few instructions instead of a call.
const SHORT: usize = 16;

/// The windows `[positions, kh, kw, ci]` of a unit's output positions.
fn columns<T: Real>(g: &Geometry, unit: &Unit, x: &[T], columns: &mut [T]) {
    let run = g.kw * g.ci;
    let mut to = 0;
    for sample in unit.samples.clone() {
        for oy in unit.rows.clone() {
            for ox in 0..g.ow {
                let (first, last) = (ox * g.stride, ox * g.stride + g.kw);
                let start = g.padding.clamp(first, last);
                let (before, after) = (
                    (start - first) * g.ci,
                    ((g.padding + g.w).clamp(start, last) - first) * g.ci,
                );
                for ky in 0..g.kh {
                    let row = to;
                    to += run;
                    let y = (oy * g.stride + ky)
                        .checked_sub(g.padding)
                        .filter(|y| *y < g.h);
                    let at = y.map(|y| {
                        ((sample * g.h + y) * g.w + start.max(g.padding) - g.padding) * g.ci
                    });
                    // What is copied beyond this row is overwritten by the next.
                    if let (Some(at), true, Some(part)) = (
                        at,
                        after - before == run && run <= SHORT,
                        columns.get_mut(row..row + SHORT),
                    ) && let (Some(part), Some(from)) = (
                        part.first_chunk_mut::<SHORT>(),
                        x.get(at..).and_then(|x| x.first_chunk()),
                    ) {
                        *part = *from;
                        continue;
                    }
                    let row = &mut columns[row..to];
                    match at {
                        Some(at) if after > before => {
                            row[..before].fill(T::ZERO);
                            row[before..after].copy_from_slice(&x[at..at + after - before]);
                            row[after..].fill(T::ZERO);
                        }
                        _ => row.fill(T::ZERO),
                    }
                }
            }
        }
    }
}

/// Windows times output gradients.
fn kernel_gradient<T: Real>(g: &Geometry, x: &[T], dy: &[T]) -> Vec<T> {
    let (mut sums, width) = (Kept::new(), 2 * T::tile().lanes);
    let small = g.co * g.depth() <= PIECE;
    let sums = match small {
        true => small_kernel_gradient(g, x, dy, &mut sums),
        false => large_kernel_gradient(g, x, dy, &mut sums),
    };
    // Where the sum for each element of a kernel lies, for the first output channel, and how far
    // the next one's.
    let of_element = |element: usize| match small {
        true => element * g.co,
        false => element / width * g.co * width + element % width,
    };
    let next = if small { 1 } else { width };
    let places: Vec<usize> = (0..g.ci)
        .flat_map(|ci| (0..g.taps()).map(move |tap| tap * g.ci + ci))
        .map(of_element)
        .collect();
    let mut dk = vec![T::ZERO; g.co * g.depth()];
    dk.par_chunks_mut(g.depth())
        .enumerate()
        .for_each(|(channel, dk)| {
            let sums = &sums[channel * next..];
            dk.iter_mut()
                .zip(&places)
                .for_each(|(dk, place)| *dk = sums[*place]);
        });
    dk
}

/// Each part of the units sums into a matrix of its own; these are added in order.
fn small_kernel_gradient<'a, T: Real>(
    g: &Geometry,
    x: &[T],
    dy: &[T],
    sums: &'a mut Kept<T>,
) -> &'a [T] {
    let (size, depth) = (g.co * g.depth(), g.depth());
    let units = g.units(COLUMNS);
    let parts = parts(&units, 2 * TASKS);
    // [parts, kh, kw, ci, co]
    let sums = sums.of(parts.len().max(1) * size);
    if parts.is_empty() {
        sums.fill(T::ZERO);
    }
    sums.par_chunks_mut(size)
        .zip(parts)
        .for_each(|(sum, part)| {
            let mut scratch = Scratch::new();
            for (i, unit) in part.iter().enumerate() {
                let n = unit.columns(g);
                let windows = scratch.of(n * depth);
                columns(g, unit, x, windows);
                let dy = &dy[(unit.samples.start * g.oh + unit.rows.start) * g.ow * g.co..];
                product(
                    [g.co, depth, n],
                    sum,
                    g.co,
                    i > 0,
                    dy,
                    g.co,
                    windows,
                    [depth, 1],
                );
            }
        });
    let (total, rest) = sums.split_at_mut(size);
    for part in rest.chunks(size) {
        total
            .iter_mut()
            .zip(part)
            .for_each(|(total, part)| *total += *part);
    }
    total
}

/// Bytes of the windows that are multiplied at a time.
const CHUNK: usize = 4 << 20;

/// Blocks of elements that one task sums.
const BLOCKS: usize = 6;
/// Positions whose gradients stay in a core's own cache.
const TERMS: usize = 96;

/// Tasks sum some elements of the windows each over all positions:
/// `[block of elements, co, width]`.
fn large_kernel_gradient<'a, T: Real>(
    g: &Geometry,
    x: &[T],
    dy: &[T],
    sums: &'a mut Kept<T>,
) -> &'a [T] {
    let (panel, width, depth) = (T::tile().panel, 2 * T::tile().lanes, g.depth());
    let elements = depth.div_ceil(width);
    let sums = sums.of(elements * g.co * width);
    let units = g.units(COLUMNS);
    let most = (CHUNK / (COLUMNS * elements * width * size_of::<T>())).max(1);
    let mut kept = Kept::new();
    if units.is_empty() {
        sums.fill(T::ZERO);
    }
    for (i, units) in units.chunks(most).enumerate() {
        let position = |unit: &Unit| (unit.samples.start * g.oh + unit.rows.start) * g.ow;
        let (first, n) = (
            position(&units[0]),
            units.iter().map(|unit| unit.columns(g)).sum::<usize>(),
        );
        // [block of elements, positions, width]
        let windows = kept.of(elements * n * width);
        let shared = Shared::new(windows);
        units.par_iter().for_each(|unit| {
            let mut scratch = Scratch::new();
            let copied = scratch.of(unit.columns(g) * depth);
            columns(g, unit, x, copied);
            let start = position(unit) - first;
            for (p, window) in copied.chunks_exact(depth).enumerate() {
                for (block, elements) in window.chunks(width).enumerate() {
                    // SAFETY: these positions belong to this task alone, and no other part is alive
                    // on this thread.
                    let part = unsafe { shared.part((block * n + start + p) * width, width) };
                    let (part, rest) = part.split_at_mut(elements.len());
                    part.copy_from_slice(elements);
                    rest.fill(T::ZERO);
                }
            }
        });
        let dy = &dy[first * g.co..];
        let tasks = sums
            .par_chunks_mut(BLOCKS * g.co * width)
            .zip(windows.par_chunks(BLOCKS * n * width));
        tasks.for_each(|(sums, windows)| {
            // Gradients that stay in the cache for all blocks of the task.
            for terms in blocks(n, TERMS) {
                for (sums, windows) in sums.chunks_mut(g.co * width).zip(windows.chunks(n * width))
                {
                    let (dy, windows) =
                        (&dy[terms.start * g.co..], &windows[terms.start * width..]);
                    let accumulate = i > 0 || terms.start > 0;
                    panel.multiply(
                        [g.co, terms.len()],
                        dy,
                        [1, g.co],
                        windows,
                        sums,
                        width,
                        accumulate,
                    );
                }
            }
        });
    }
    sums
}
