//! Convolutions with ReLUs one after another, as one operation: a few samples at a time go through all of them,
//! channels-last, and no layer's result or gradient passes through a tensor.
//!
//! Knows the gradient of the images only: parameters that track one go through [`conv2d_relu`].
use super::blas::product;
use super::conv2d_relu;
use super::direct::{Weights, sweep};
use super::geometry::{Geometry, TASKS};
use super::layout::{add_windows, taps_outside, transpose, transpose_into};
use super::taps;
use crate::activation::positive_part;
use crate::real::{Read, Real, Scratch, dispatch, elements, same_kind, tensor};
use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor, WithDType, backend::BackendStorage, bail};
use rayon::prelude::*;
use std::sync::OnceLock;

/// Elements that the largest image of a group of samples should have at most, to stay in a cache of 512 KB with the
/// weights.
const ELEMENTS: usize = 1 << 16;

/// One layer of [`conv_relu_stack`]: the arguments of [`conv2d_relu`].
#[derive(Debug, Clone)]
pub struct ConvRelu {
    /// `[out, in, kh, kw]`.
    pub kernel: Tensor,
    /// `[out]`.
    pub bias: Tensor,
    /// Both directions.
    pub stride: usize,
    /// Zeros on each side, both directions.
    pub padding: usize,
}

/// [`conv2d_relu`] for each of `layers`, one after another: the same values and gradients, up to rounding.
///
/// Fast where no parameter tracks a gradient; where one does, it is those operations.
///
/// # Errors
/// As [`conv2d_relu`].
pub fn conv_relu_stack(x: &Tensor, layers: &[ConvRelu]) -> Result<Tensor> {
    if layers.is_empty() || layers.iter().any(|l| l.kernel.track_op() || l.bias.track_op()) {
        let each = |x: Tensor, l: &ConvRelu| conv2d_relu(&x, &l.kernel, Some(&l.bias), l.stride, l.padding);
        return layers.iter().try_fold(x.clone(), each);
    }
    let mut shape = x.dims().to_vec();
    let mut plan = Vec::with_capacity(layers.len());
    for l in layers {
        let g = Geometry::new(&shape, l.kernel.dims(), l.stride, l.padding)?;
        same_kind("conv_relu_stack", &[("x", x), ("kernel", &l.kernel), ("bias", &l.bias)])?;
        if l.bias.dims() != [g.co] {
            let (bias, kernel) = (l.bias.dims(), l.kernel.dims());
            bail!("conv_relu_stack: bias has shape {bias:?}, expected [{}] for kernel {kernel:?}", g.co)
        }
        plan.push(Layer { g, kernel: l.kernel.contiguous()?, bias: l.bias.contiguous()? });
        shape = vec![g.b, g.co, g.oh, g.ow];
    }
    let batch = shape[0];
    let largest = plan.iter().map(|l| (l.g.co * l.g.plane()).max(l.g.ci * l.g.h * l.g.w)).max().unwrap_or(1);
    let group = (ELEMENTS / largest.max(1)).clamp(1, batch.div_ceil(TASKS).max(1));
    x.contiguous()?.apply_op1(Stack { plan, group, keep: x.track_op(), stops: OnceLock::new() })
}

struct Layer {
    g: Geometry,
    kernel: Tensor,
    bias: Tensor,
}

impl Layer {
    /// Elements of a sample before and after.
    fn sizes(&self) -> [usize; 2] {
        [self.g.ci * self.g.h * self.g.w, self.g.co * self.g.plane()]
    }
}

/// For each layer, which elements of its result (channels-last) stop the gradient: those not above zero.
type Stops = Vec<Vec<bool>>;

struct Stack {
    /// Not empty.
    plan: Vec<Layer>,
    /// Samples that go through the layers together.
    group: usize,
    /// Whether a backward pass may come.
    keep: bool,
    /// Of each group, from the forward pass.
    stops: OnceLock<Vec<Stops>>,
}

impl Stack {
    /// Elements of a sample before the first layer and after the last.
    fn ends(&self) -> [usize; 2] {
        let (first, last) = (&self.plan[0], &self.plan[self.plan.len() - 1]);
        [first.sizes()[0], last.sizes()[1]]
    }

    fn forward<T: Real>(&self, x: &[T]) -> Result<(Vec<T>, Vec<Stops>)> {
        let parameters = self.plan.iter().map(|l| (Read::new(&l.kernel), Read::new(&l.bias))).collect::<Vec<_>>();
        let mut layers = Vec::with_capacity(self.plan.len());
        for (layer, (kernel, bias)) in self.plan.iter().zip(&parameters) {
            let (g, bias) = (&layer.g, bias.elements::<T>()?);
            layers.push((layer, Weights::forward(g, kernel.elements::<T>()?), taps::forward(g), bias));
        }
        let [from, to] = self.ends();
        let mut y = vec![T::ZERO; self.plan[0].g.b * to];
        let groups = y.par_chunks_mut((self.group * to).max(1)).zip(x.par_chunks((self.group * from).max(1)));
        let stops = groups.map(|(y, x)| {
            let samples = y.len() / to;
            let [mut current, mut other] = [(); 2].map(|()| Scratch::new());
            let mut stops = Vec::new();
            for (i, (layer, weights, classes, bias)) in layers.iter().enumerate() {
                let (g, [source_len, result_len]) = (&layer.g, layer.sizes());
                let source = match i {
                    0 => channels_last(x, [samples, g.ci, g.h * g.w], &mut current),
                    _ => current.of(samples * source_len),
                };
                let result = other.of(samples * result_len);
                sweep(weights, classes, samples, [source_len, g.plane()], source, result, |y, sums, channel, _| {
                    for ((y, sum), bias) in y.iter_mut().zip(sums).zip(&bias[channel..][..sums.len()]) {
                        *y = positive_part(*sum + *bias);
                    }
                });
                if self.keep {
                    stops.push(result.iter().map(|y| *y <= T::ZERO).collect());
                }
                std::mem::swap(&mut current, &mut other);
            }
            let g = &self.plan[self.plan.len() - 1].g;
            channels_first(current.of(y.len()), [g.co, g.plane()], y);
            stops
        });
        let stops = stops.collect();
        Ok((y, stops))
    }

    /// The gradient of the images from that of the result.
    fn backward<T: Real>(&self, stops: &[Stops], dy: &[T]) -> Result<Vec<T>> {
        let kernels = self.plan.iter().map(|l| Read::new(&l.kernel)).collect::<Vec<_>>();
        let kernels = kernels.iter().map(Read::elements::<T>).collect::<Result<Vec<_>>>()?;
        let layers: Vec<_> = self.plan.iter().zip(&kernels).map(|(l, kernel)| Adjoint::new(&l.g, kernel)).collect();
        let [from, to] = self.ends();
        let mut dx = vec![T::ZERO; self.plan[0].g.b * from];
        let groups = dx.par_chunks_mut((self.group * from).max(1)).zip(dy.par_chunks((self.group * to).max(1)));
        groups.zip(stops).for_each(|((dx, dy), stops)| {
            let samples = dx.len() / from;
            let [mut current, mut other] = [(); 2].map(|()| Scratch::new());
            let g = &self.plan[self.plan.len() - 1].g;
            let d = current.of(dy.len());
            for (dy, d) in dy.chunks(to).zip(d.chunks_mut(to)) {
                transpose_into(dy, g.plane(), [g.co, g.plane()], d, g.co);
            }
            d.iter_mut().zip(&stops[self.plan.len() - 1]).for_each(|(d, stop)| *d = gate(*stop, *d));
            for (i, (layer, adjoint)) in self.plan.iter().zip(&layers).enumerate().rev() {
                let [before, after] = layer.sizes().map(|len| samples * len);
                let d = current.of(after);
                if i == 0 {
                    return adjoint.first(d, dx, &mut other);
                }
                adjoint.inner(d, &stops[i - 1], other.of(before));
                std::mem::swap(&mut current, &mut other);
            }
        });
        Ok(dx)
    }
}

/// Both are values, so that choosing is no jump.
#[inline(always)]
fn gate<T: Real>(stop: bool, gradient: T) -> T {
    if stop { T::ZERO } else { gradient }
}

/// The gradient of one layer's input.
struct Adjoint<'a, T: Real> {
    g: &'a Geometry,
    classes: Vec<taps::Class>,
    weights: Weights<T>,
    /// `[co, kh, kw, ci]`, where the images have so few channels that a vector of them would be nearly empty.
    windows: Option<Vec<T>>,
}

impl<'a, T: Real> Adjoint<'a, T> {
    fn new(g: &'a Geometry, kernel: &[T]) -> Self {
        let windows = (g.ci < T::tile().lanes).then(|| taps_outside(kernel, g.ci, g.taps()));
        Self { g, classes: taps::adjoint(g), weights: Weights::adjoint(g, kernel), windows }
    }

    fn sweep(&self, d: &[T], dx: &mut [T], finish: impl Fn(&mut [T], &[T], usize, usize)) {
        let (g, source) = (self.g, self.g.co * self.g.plane());
        sweep(&self.weights, &self.classes, d.len() / source, [source, g.h * g.w], d, dx, finish);
    }

    /// To a layer before, whose ReLU stops what `stops` says.
    fn inner(&self, d: &[T], stops: &[bool], dx: &mut [T]) {
        self.sweep(d, dx, |dx, sums, _, at| {
            for ((dx, sum), stop) in dx.iter_mut().zip(sums).zip(&stops[at..][..sums.len()]) {
                *dx = gate(*stop, *sum);
            }
        });
    }

    /// To the images, channels-first.
    fn first(&self, d: &[T], dx: &mut [T], scratch: &mut Scratch<T>) {
        let (g, source) = (self.g, self.g.co * self.g.plane());
        let Some(weights) = &self.windows else {
            let last = scratch.of(dx.len());
            self.sweep(d, last, |dx, sums, _, _| dx.copy_from_slice(sums));
            return channels_first(last, [g.ci, g.h * g.w], dx);
        };
        // Windows of the gradient, added where they lie.
        let (depth, width) = (g.depth(), g.w + 2 * g.padding);
        let mut windows = Scratch::new();
        for (d, dx) in d.chunks(source).zip(dx.chunks_mut(g.ci * g.h * g.w)) {
            let windows = windows.of(g.plane() * depth);
            product([depth, g.plane(), g.co], windows, depth, false, weights, depth, d, [1, g.co]);
            let image = scratch.zeroed((g.h + 2 * g.padding) * width * g.ci);
            add_windows(g, g.oh, g.ci, windows, image);
            let pixel = |i: usize| ((i / g.w + g.padding) * width + i % g.w + g.padding) * g.ci;
            transpose(image, pixel, [g.h * g.w, g.ci], |channel, i, part| {
                part.write(&mut dx[channel * g.h * g.w + i..], |v| v);
            });
        }
    }
}

/// `[samples, channels, plane]` to `[samples, plane, channels]`, in `memory` unless they are the same.
fn channels_last<'a, T: Real>(
    x: &'a [T],
    [samples, channels, plane]: [usize; 3],
    memory: &'a mut Scratch<T>,
) -> &'a [T] {
    if channels == 1 || plane == 1 {
        return x;
    }
    let to = memory.of(samples * channels * plane);
    for (x, to) in x.chunks(channels * plane).zip(to.chunks_mut(channels * plane)) {
        transpose_into(x, plane, [channels, plane], to, channels);
    }
    to
}

/// `[samples, plane, channels]` to `[samples, channels, plane]`.
fn channels_first<T: Real>(x: &[T], [channels, plane]: [usize; 2], y: &mut [T]) {
    for (x, y) in x.chunks(channels * plane).zip(y.chunks_mut(channels * plane)) {
        transpose_into(x, channels, [plane, channels], y, plane);
    }
}

impl CustomOp1 for Stack {
    fn name(&self) -> &'static str {
        "conv-relu-stack"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let g = &self.plan[self.plan.len() - 1].g;
        dispatch!("conv_relu_stack", x.dtype(), T => {
            let (y, stops) = self.forward(elements::<T>(x, layout)?)?;
            let _first = self.stops.set(stops);
            Ok((T::to_cpu_storage_owned(y), (g.b, g.co, g.oh, g.ow).into()))
        })
    }

    fn bwd(&self, x: &Tensor, _y: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let grad = grad.contiguous()?;
        let gs = Read::new(&grad);
        let Some(stops) = self.stops.get() else {
            bail!("internal: conv_relu_stack kept nothing for its backward pass")
        };
        dispatch!("conv_relu_stack", x.dtype(), T => tensor(self.backward(stops, gs.elements::<T>()?)?, x).map(Some))
    }
}
