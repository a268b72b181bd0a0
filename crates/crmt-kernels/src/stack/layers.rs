//! What each layer of a stack computes on a few images, and its gradient.
//!
//! Knows nothing of tensors or threads.
use super::ImageLayer;
use super::convolution::Kernel;
use super::images::Images;
use crate::activation::{max_and_min, positive_part};
use crate::real::{Real, Scratch};
use candle_core::{Result, bail};
use std::ops::Range;

/// A layer with its sizes; its parameters begin at `at` of all parameters.
#[derive(Debug, Clone, Copy)]
pub(super) enum Kind {
    /// Kernel, bias.
    Conv {
        at: usize,
        kernel: [usize; 3],
    },
    /// Kernel, bias, scale.
    Residual {
        at: usize,
        kernel: [usize; 3],
    },
    MaxMin,
    SpaceToDepth {
        block: usize,
    },
}

/// Layers that fit one after another.
#[derive(Debug)]
pub(super) struct Layers {
    kinds: Vec<Kind>,
    /// Channels, height and width before each layer and after the last.
    pub shapes: Vec<[usize; 3]>,
    margin: usize,
}

impl Layers {
    pub fn new(start: [usize; 3], layers: &[ImageLayer]) -> Result<Self> {
        if start.contains(&0) {
            bail!("image_stack: an image of {start:?} (channels, height, width) is empty")
        }
        let (mut kinds, mut shapes, mut margin, mut at) = (vec![], vec![start], 0, 0);
        let mut shape = start;
        for layer in layers {
            let [channels, height, width] = shape;
            kinds.push(match layer {
                ImageLayer::Conv2d { kernel, bias } => {
                    let sizes = sizes(kernel.dims(), channels, &[bias.dims()])?;
                    let kind = Kind::Conv { at, kernel: sizes };
                    at += kernel.elem_count() + sizes[0];
                    (shape[0], margin) = (sizes[0], margin.max(sizes[2] / 2));
                    kind
                }
                ImageLayer::ResidualConv2d { kernel, bias, scale } => {
                    let sizes = sizes(kernel.dims(), channels, &[bias.dims(), scale.dims()])?;
                    let kind = Kind::Residual { at, kernel: sizes };
                    at += kernel.elem_count() + 2 * sizes[0];
                    margin = margin.max(sizes[2] / 2);
                    kind
                }
                ImageLayer::MaxMin if channels % 2 == 0 => Kind::MaxMin,
                ImageLayer::MaxMin => bail!("image_stack: max-min needs an even number of channels, got {channels}"),
                &ImageLayer::SpaceToDepth { block } => {
                    if block == 0 || height % block != 0 || width % block != 0 {
                        bail!("image_stack: blocks of {block} do not divide an image of {height}×{width}; pad it first")
                    }
                    shape = [channels * block * block, height / block, width / block];
                    Kind::SpaceToDepth { block }
                }
            });
            shapes.push(shape);
        }
        Ok(Self {
            kinds,
            shapes,
            margin,
        })
    }

    /// Dimensions of what goes in and what comes out.
    pub fn ends(&self, batch: usize) -> [[usize; 4]; 2] {
        let ends = [self.shapes[0], self.shapes[self.kinds.len()]];
        ends.map(|[channels, height, width]| [batch, channels, height, width])
    }

    fn images(&self, samples: usize, i: usize) -> Images {
        let [channels, height, width] = self.shapes[i];
        Images {
            samples,
            channels,
            height,
            width,
            margin: self.margin,
        }
    }

    /// The kernels, arranged for products; `None` for layers without.
    pub fn kernels<T: Real>(&self, p: &[T]) -> Vec<Option<Kernel<T>>> {
        let arranged = |kind: &Kind| match *kind {
            Kind::Conv { at, kernel } | Kind::Residual { at, kernel } => {
                let [co, ci, size] = kernel;
                Some(Kernel::new(&p[at..at + co * ci * size * size], kernel))
            }
            Kind::MaxMin | Kind::SpaceToDepth { .. } => None,
        };
        self.kinds.iter().map(arranged).collect()
    }

    /// Elements that layer `i` leaves in a tape besides its input: `−scale ∘ relu(C x + bias)` of a
    /// residual layer, the [`share_of_first`] of each pair of a max-min.
    fn extra(&self, samples: usize, i: usize) -> usize {
        let from = self.images(samples, i);
        match self.kinds[i] {
            Kind::Residual { kernel, .. } => Images {
                channels: kernel[0],
                ..from
            }
            .len(),
            Kind::MaxMin => from.len() / 2,
            Kind::Conv { .. } | Kind::SpaceToDepth { .. } => 0,
        }
    }

    /// Whether the backward pass needs what goes into layer `i`, or, for a max-min, what it makes
    /// of it in place.
    fn keeps(&self, i: usize) -> bool {
        match self.kinds.get(i) {
            Some(Kind::Conv { .. } | Kind::Residual { .. }) => true,
            Some(Kind::MaxMin) => self.keeps(i + 1),
            Some(Kind::SpaceToDepth { .. }) | None => false,
        }
    }

    /// Lengths of the inputs that are kept or not, for each layer and for what comes out at the
    /// end; max-min has none of its own.
    fn input(&self, samples: usize, i: usize) -> usize {
        match i > 0 && matches!(self.kinds[i - 1], Kind::MaxMin) {
            true => 0,
            false => self.images(samples, i).len(),
        }
    }

    /// Where a tape keeps what went into each layer, and its extra part.
    fn places(&self, samples: usize) -> Vec<[Range<usize>; 2]> {
        let mut end = 0;
        let mut place = |len: usize| {
            end += len;
            end - len..end
        };
        let kept = |i: usize| {
            if self.keeps(i) {
                self.input(samples, i)
            } else {
                0
            }
        };
        let mut input = 0..0;
        let mut places = vec![];
        for i in 0..self.kinds.len() {
            // The input of what follows a max-min is the max-min's own.
            if i == 0 || !matches!(self.kinds[i - 1], Kind::MaxMin) {
                input = place(kept(i));
            }
            places.push([input.clone(), place(self.extra(samples, i))]);
        }
        places
    }

    /// Elements of a tape of a few images, and of the memory that a forward pass needs besides.
    pub fn tape_and_other(&self, samples: usize) -> [usize; 2] {
        let inputs = |kept: bool| (0..self.shapes.len()).filter(move |i| self.keeps(*i) == kept);
        let [kept, other] =
            [true, false].map(|kept| inputs(kept).map(|i| self.input(samples, i)).sum::<usize>());
        [
            kept + (0..self.kinds.len())
                .map(|i| self.extra(samples, i))
                .sum::<usize>(),
            other,
        ]
    }

    /// Samples `x` to `y`, both channels-first. Overwrites `tape` with what the backward pass
    /// needs, and `other`.
    #[expect(clippy::too_many_arguments, reason = "inputs, outputs and memory")]
    pub fn forward<'a, T: Real>(
        &self,
        samples: usize,
        kernels: &[Option<Kernel<T>>],
        p: &[T],
        x: &[T],
        y: &mut [T],
        mut tape: &'a mut [T],
        mut other: &'a mut [T],
    ) {
        let images = |i: usize| self.images(samples, i);
        let mut x = {
            let buffer = take(
                if self.keeps(0) { &mut tape } else { &mut other },
                images(0).len(),
            );
            images(0).read(x, buffer);
            buffer
        };
        for (i, kind) in self.kinds.iter().enumerate() {
            let (from, to) = (images(i), images(i + 1));
            let extra = take(&mut tape, self.extra(samples, i));
            let y = take(
                if self.keeps(i + 1) {
                    &mut tape
                } else {
                    &mut other
                },
                self.input(samples, i + 1),
            );
            match (*kind, &kernels[i]) {
                (Kind::Conv { at, kernel }, Some(c)) => {
                    c.apply(&from, x, y, false);
                    let [bias] = vectors(p, at, kernel).map(|v| v.repeat(to.width));
                    to.each_row(y, |_, row| {
                        row.iter_mut().zip(&bias).for_each(|(y, b)| *y += *b)
                    });
                }
                (Kind::Residual { at, kernel }, Some(c)) => {
                    let inner = Images {
                        channels: kernel[0],
                        ..from
                    };
                    c.apply(&from, x, extra, false);
                    let [bias, scale] = vectors(p, at, kernel).map(|v| v.repeat(to.width));
                    inner.each_row(extra, |_, row| {
                        for ((v, b), s) in row.iter_mut().zip(&bias).zip(&scale) {
                            *v = T::ZERO - *s * positive_part(*v + *b);
                        }
                    });
                    y.copy_from_slice(x);
                    c.apply_adjoint(&inner, extra, y, true);
                    to.frame(y);
                }
                (Kind::SpaceToDepth { block }, _) => space_to_depth(&from, &to, block, x, y),
                _ => {
                    max_min(&to, x, extra);
                    continue;
                }
            }
            x = y;
        }
        images(self.kinds.len()).write(x, y);
    }

    /// From the gradient `dy` of the result: the gradient `dx`, and the parameters' added to
    /// `sums`, where kernels are in the order of [`Kernel::add_gradient`] and scales still lack a
    /// factor. `wanted`: which of the two.
    #[expect(
        clippy::too_many_arguments,
        reason = "everything that the forward pass knew"
    )]
    pub fn backward<T: Real>(
        &self,
        samples: usize,
        kernels: &[Option<Kernel<T>>],
        p: &[T],
        tape: &[T],
        dy: &[T],
        wanted: [bool; 2],
        dx: &mut [T],
        sums: &mut [T],
    ) {
        let learned =
            |kind: &Kind| wanted[1] && matches!(kind, Kind::Conv { .. } | Kind::Residual { .. });
        let [mut current, mut other, mut inside] = [(); 3].map(|()| Scratch::new());
        let last = self.images(samples, self.kinds.len());
        last.read(dy, current.of(last.len()));
        let places = self.places(samples);
        for i in (0..self.kinds.len()).rev() {
            let (from, to) = (self.images(samples, i), self.images(samples, i + 1));
            let [x, extra] = places[i].clone().map(|place| &tape[place]);
            let d = current.of(to.len());
            // Whether anything before this layer has a gradient.
            let further = wanted[0] || self.kinds[..i].iter().any(learned);
            match (self.kinds[i], &kernels[i]) {
                (Kind::Conv { at, kernel }, Some(c)) => {
                    if wanted[1] {
                        let (dk, [db]) = gradients(sums, at, kernel);
                        c.add_gradient(&from, x, d, dk);
                        let mut row_sums = vec![T::ZERO; to.row_len()];
                        to.each_row(d, |_, row| {
                            row_sums.iter_mut().zip(row).for_each(|(sum, d)| *sum += *d)
                        });
                        fold(&row_sums, db);
                    }
                    if further {
                        let before = other.of(from.len());
                        c.apply_adjoint(&to, d, before, false);
                        from.frame(before);
                        std::mem::swap(&mut current, &mut other);
                    }
                }
                (Kind::Residual { at, kernel }, Some(c)) => {
                    // y = x + Cᵀ hidden; the gradient of hidden, then of what went into the relu.
                    let (inner, hidden) = (
                        Images {
                            channels: kernel[0],
                            ..from
                        },
                        extra,
                    );
                    let inside = inside.of(inner.len());
                    c.apply(&from, d, inside, false);
                    let [_, scale] = vectors(p, at, kernel).map(|v| v.repeat(to.width));
                    let [mut bias_sums, mut scale_sums] =
                        [(); 2].map(|()| vec![T::ZERO; inner.row_len()]);
                    inner.each_row(inside, |at, row| {
                        let sums = bias_sums.iter_mut().zip(&mut scale_sums);
                        for (((d, h), s), (bias, scale)) in
                            row.iter_mut().zip(&hidden[at..]).zip(&scale).zip(sums)
                        {
                            *scale += *d * *h;
                            *d = if *h < T::ZERO {
                                T::ZERO - *s * *d
                            } else {
                                T::ZERO
                            };
                            *bias += *d;
                        }
                    });
                    if wanted[1] {
                        let (dk, [db, ds]) = gradients(sums, at, kernel);
                        fold(&bias_sums, db);
                        fold(&scale_sums, ds);
                        c.add_gradient(&from, x, inside, dk);
                        c.add_gradient(&from, d, hidden, dk);
                    }
                    if further {
                        c.apply_adjoint(&inner, inside, d, true);
                        from.frame(d);
                    }
                }
                (Kind::SpaceToDepth { block }, _) if further => {
                    depth_to_space(&from, &to, block, d, other.of(from.len()));
                    std::mem::swap(&mut current, &mut other);
                }
                (Kind::MaxMin, _) if further => max_min_gradient(&to, d, extra),
                _ => (),
            }
            if !further {
                return;
            }
        }
        if wanted[0] {
            let first = self.images(samples, 0);
            first.write(current.of(first.len()), dx);
        }
    }

    /// The sums of [`backward`](Self::backward) in the order of the parameters.
    pub fn in_order<T: Real>(&self, kernels: &[Option<Kernel<T>>], p: &[T], sums: &[T]) -> Vec<T> {
        let mut ordered = sums.to_vec();
        for (kind, c) in self.kinds.iter().zip(kernels) {
            let (Kind::Conv { at, kernel } | Kind::Residual { at, kernel }, Some(c)) = (*kind, c)
            else {
                continue;
            };
            let end = at + kernel[0] * kernel[1] * kernel[2] * kernel[2];
            c.in_order(&sums[at..end], &mut ordered[at..end]);
            if let Kind::Residual { .. } = kind {
                // hidden is proportional to scale.
                let scales = end + kernel[0]..end + 2 * kernel[0];
                ordered[scales.clone()]
                    .iter_mut()
                    .zip(&p[scales])
                    .for_each(|(d, s)| *d /= *s);
            }
        }
        ordered
    }
}

/// The vectors after the kernel at `at`.
fn vectors<T, const N: usize>(p: &[T], at: usize, [co, ci, size]: [usize; 3]) -> [&[T]; N] {
    let end = at + co * ci * size * size;
    std::array::from_fn(|i| &p[end + i * co..end + (i + 1) * co])
}

/// The kernel at `at` and the vectors after it, for writing.
fn gradients<T, const N: usize>(
    sums: &mut [T],
    at: usize,
    [co, ci, size]: [usize; 3],
) -> (&mut [T], [&mut [T]; N]) {
    let (kernel, mut rest) = sums[at..].split_at_mut(co * ci * size * size);
    let vectors = std::array::from_fn(|_| {
        let (vector, after) = std::mem::take(&mut rest).split_at_mut(co);
        rest = after;
        vector
    });
    (kernel, vectors)
}

/// Adds rows of pixels to `total`, which is as long as a pixel.
fn fold<T: Real>(row: &[T], total: &mut [T]) {
    row.chunks(total.len()).for_each(|pixel| {
        total
            .iter_mut()
            .zip(pixel)
            .for_each(|(total, v)| *total += *v)
    });
}

/// How much of the maximum's gradient goes to `a`: all, none, or half on a tie.
#[inline(always)]
fn share_of_first<T: Real>(a: T, b: T) -> T {
    let below = T::from_f64(if a < b { 0. } else { 0.5 });
    if a > b { T::from_f64(1.) } else { below }
}

/// `[co, ci, size]` of a kernel for `channels`, with vectors of `co` elements.
fn sizes(kernel: &[usize], channels: usize, vectors: &[&[usize]]) -> Result<[usize; 3]> {
    match *kernel {
        [co, ci, size, across] if size == across && size % 2 == 1 && ci == channels && co > 0 => {
            if vectors.iter().any(|v| *v != [co]) {
                bail!(
                    "image_stack: bias and scale have shapes {vectors:?}, expected [{co}] for kernel {kernel:?}"
                )
            }
            Ok([co, ci, size])
        }
        _ => bail!("image_stack: kernel {kernel:?} must be [out, {channels}, k, k] with odd k"),
    }
}

/// The first `len` elements, which `rest` loses.
fn take<'a, T>(rest: &mut &'a mut [T], len: usize) -> &'a mut [T] {
    let (first, after) = std::mem::take(rest).split_at_mut(len);
    *rest = after;
    first
}

/// In place; `shares` receives [`share_of_first`].
fn max_min<T: Real>(images: &Images, x: &mut [T], shares: &mut [T]) {
    let half = images.channels / 2;
    images.each_row(x, |at, row| {
        for (pixel, shares) in row
            .chunks_exact_mut(2 * half)
            .zip(shares[at / 2..].chunks_exact_mut(half))
        {
            let (a, b) = pixel.split_at_mut(half);
            for ((a, b), share) in a.iter_mut().zip(b).zip(shares) {
                *share = share_of_first(*a, *b);
                (*a, *b) = max_and_min(*a, *b);
            }
        }
    });
}

/// In place.
fn max_min_gradient<T: Real>(images: &Images, d: &mut [T], shares: &[T]) {
    let half = images.channels / 2;
    images.each_row(d, |at, row| {
        for (pixel, shares) in row
            .chunks_exact_mut(2 * half)
            .zip(shares[at / 2..].chunks_exact(half))
        {
            let (a, b) = pixel.split_at_mut(half);
            for ((a, b), share) in a.iter_mut().zip(b).zip(shares) {
                let rest = T::from_f64(1.) - *share;
                (*a, *b) = (*share * *a + rest * *b, rest * *a + *share * *b);
            }
        }
    });
}

fn space_to_depth<T: Real>(from: &Images, to: &Images, block: usize, x: &[T], y: &mut [T]) {
    patches(from, to, block, |pixel, offset, deep| {
        let (x, y) = (
            &x[pixel..pixel + from.channels],
            &mut y[deep..deep + to.channels],
        );
        y.chunks_exact_mut(block * block)
            .zip(x)
            .for_each(|(y, x)| y[offset] = *x);
    });
    to.frame(y);
}

fn depth_to_space<T: Real>(from: &Images, to: &Images, block: usize, y: &[T], x: &mut [T]) {
    patches(from, to, block, |pixel, offset, deep| {
        let (x, y) = (
            &mut x[pixel..pixel + from.channels],
            &y[deep..deep + to.channels],
        );
        y.chunks_exact(block * block)
            .zip(x)
            .for_each(|(y, x)| *x = y[offset]);
    });
    from.frame(x);
}

/// `f(place of a pixel, its number in the patch, place of the deep pixel)`.
fn patches(from: &Images, to: &Images, block: usize, mut f: impl FnMut(usize, usize, usize)) {
    for (sample, y) in (0..to.samples).flat_map(|sample| (0..to.height).map(move |y| (sample, y))) {
        for x in 0..to.width {
            let deep = to.pixel(sample, y, x);
            for i in 0..block {
                let row = from.pixel(sample, y * block + i, x * block);
                (0..block).for_each(|j| f(row + j * from.channels, i * block + j, deep));
            }
        }
    }
}
