//! Convolutions 3×3 of channels-last images by [`bilinear`](super::bilinear) algorithms: tiles of
//! the input are transformed, multiplied for each of `POINTS²` points by that point's matrix of
//! weights, and transformed back.
//!
//! For `f32` alone: who wants the digits of `f64` wants those that this costs. Knows how a tile's
//! parts are laid out and how work is shared, and nothing of when this is faster.
#![expect(
    unsafe_code,
    reason = "tasks write to interleaved parts of one output, vectors at places computed once for all"
)]
use super::bilinear::{Bilinear, KernelGradient, LANES, Lanes, both_axes};
use super::blas::Shared;
use super::epilogue::Epilogue;
use super::geometry::{TASKS, blocks};
use super::tile::Panel;
use crate::real::{Kept, Real, Scratch};
use crate::simd::wide;
use rayon::prelude::*;
use std::ops::Range;

/// Bytes of a group of tiles and its products, to stay in a core's own cache.
const GROUP: usize = 384 << 10;
/// Bytes of weights that every task reads by itself: beyond them tasks share points, so that
/// weights are read once.
const SHARED: usize = 4 << 20;
/// Bytes of the tiles that are transformed before their points are shared, to stay in the common
/// cache.
const CHUNK: usize = 4 << 20;
/// A multiple of what the innermost loops sum at a time on any processor.
const FEWEST: usize = 24;
/// Elements after each point's part of a buffer: without them the points of a tile would lie
/// multiples of 4 KB apart, which a first-level cache keeps in very few places.
const GAP: usize = 16;

/// Nothing is compiled for another type.
macro_rules! only_f32 {
    ($T:ident) => {
        if const { size_of::<$T>() != size_of::<f32>() } {
            unreachable!("the rule chooses this method for f32 alone")
        }
    };
}

/// Images before and after, channels-last: `[height, width, channels]`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shape {
    pub batch: usize,
    pub source: [usize; 3],
    pub result: [usize; 3],
}

/// A kernel in one direction: `taps(channel, k)` is where in it the nine taps from channel `k` of
/// the source to `channel` of the result lie.
pub(super) struct Kernel<'a, T, F: Fn(usize, usize) -> usize + Sync> {
    pub channels: usize,
    pub depth: usize,
    pub elements: &'a [T],
    pub taps: F,
}

/// A kernel at all points: `[block of channels, POINTS², depth · width + GAP]`, where `width` is
/// two vectors of the innermost loops and past the last channel are zeros.
pub(crate) struct Transformed<T: Real> {
    values: Kept<T>,
}

impl<T: Real, F: Fn(usize, usize) -> usize + Sync> Kernel<'_, T, F> {
    fn blocks(&self) -> usize {
        self.channels.div_ceil(width::<T>())
    }

    /// Elements of a block at one point.
    fn of_point(&self) -> usize {
        self.depth * width::<T>() + GAP
    }

    /// Whether the transformed kernel is small enough for every task to read all of it.
    pub fn is_small(&self, points: usize) -> bool {
        self.blocks() * points * self.of_point() * size_of::<T>() <= SHARED
    }

    /// All blocks.
    pub fn transform<B: Bilinear<P, I, R>, const P: usize, const I: usize, const R: usize>(
        &self,
    ) -> Transformed<T> {
        only_f32!(T);
        let (mut values, of_block) = (Kept::new(), P * P * self.of_point());
        let blocks = values
            .of(self.blocks() * of_block)
            .par_chunks_mut(of_block)
            .enumerate();
        blocks.for_each(|(block, values)| self.transform_block::<B, P, I, R>(block, values));
        Transformed { values }
    }

    fn transform_block<B: Bilinear<P, I, R>, const P: usize, const I: usize, const R: usize>(
        &self,
        block: usize,
        values: &mut [T],
    ) {
        let (width, of_point) = (width::<T>(), self.of_point());
        let (start, mut work) = (block * width, work::<T, 3, P>());
        wide(
            #[inline(always)]
            || {
                for k in 0..self.depth {
                    for part in (0..width).step_by(LANES) {
                        let mut g = [[[T::ZERO; LANES]; 3]; 3];
                        for (l, channel) in (start + part..self.channels).take(LANES).enumerate() {
                            let taps = &self.elements[(self.taps)(channel, k)..][..9];
                            for (i, tap) in taps.iter().enumerate() {
                                g[i / 3][i % 3][l] = *tap;
                            }
                        }
                        let mut at = k * width + part;
                        both_axes(
                            &mut work,
                            #[inline(always)]
                            |r, s| g[r][s],
                            #[inline(always)]
                            |g| B::kernel(g),
                            #[inline(always)]
                            |value| {
                                values[at..at + LANES].copy_from_slice(&value);
                                at += of_point;
                            },
                        );
                    }
                }
            },
        );
    }
}

/// Channels that are summed at a time.
fn width<T: Real>() -> usize {
    2 * T::tile().lanes
}

/// The vector at `at`.
///
/// # Safety
/// It lies in the slice.
#[inline(always)]
unsafe fn get<T: Real>(from: &[T], at: usize) -> Lanes<T> {
    debug_assert!(at + LANES <= from.len());
    // SAFETY: in bounds as the caller promises; an array has the alignment of its elements.
    unsafe { *from.as_ptr().add(at).cast() }
}

/// Vectors whose content does not matter.
fn work<T: Real, const N: usize, const P: usize>() -> [[Lanes<T>; N]; P] {
    [[[T::ZERO; LANES]; N]; P]
}

/// Where tiles lie.
struct Tiles<const R: usize> {
    batch: usize,
    /// Down and across.
    count: [usize; 2],
}

impl<const R: usize> Tiles<R> {
    fn new(shape: Shape) -> Self {
        let [height, width, _] = shape.result;
        Self {
            batch: shape.batch,
            count: [height.div_ceil(R), width.div_ceil(R)],
        }
    }

    fn len(&self) -> usize {
        self.batch * self.count[0] * self.count[1]
    }

    /// Sample, row and column of tiles.
    fn place(&self, tile: usize) -> [usize; 3] {
        let [down, across] = self.count;
        [tile / (down * across), tile / across % down, tile % across]
    }

    /// Transforms `N × N` pixels of `x: [batch, height, width, channels]` for each of `tiles`,
    /// which begin `before` pixels before the image and lie `step` apart: the vector of `channel`
    /// at point `p` of a tile goes to `to(tile, channel) + p · stride`.
    ///
    /// # Safety
    /// All these vectors lie in `out`, and nobody else uses them meanwhile.
    #[inline(always)]
    #[expect(
        clippy::too_many_arguments,
        reason = "where to read, what to compute, where to write"
    )]
    unsafe fn transform<T: Real, const N: usize, const P: usize>(
        &self,
        x: &[T],
        [height, width, channels]: [usize; 3],
        [step, before]: [usize; 2],
        tiles: Range<usize>,
        f: impl Fn([Lanes<T>; N]) -> [Lanes<T>; P],
        out: &Shared<T>,
        to: impl Fn(usize, usize) -> usize,
        stride: usize,
    ) {
        assert!(
            x.len() == self.batch * height * width * channels && channels.is_multiple_of(LANES),
            "a tile leaves its image"
        );
        let mut work = work::<T, N, P>();
        for tile in tiles {
            let [sample, y, x_tile] = self.place(tile);
            let first = [y * step, x_tile * step];
            let whole = first
                .iter()
                .zip([height, width])
                .all(|(at, len)| *at >= before && at + N <= len + before);
            let image = sample * height * width * channels;
            for channel in (0..channels).step_by(LANES) {
                let mut at = to(tile, channel);
                if whole {
                    let corner = image
                        + ((first[0] - before) * width + first[1] - before) * channels
                        + channel;
                    both_axes(
                        &mut work,
                        #[inline(always)]
                        // SAFETY: the whole tile lies in the image of a sample below `batch`, whose
                        // elements the assertion has counted.
                        |r, s| unsafe { get(x, corner + (r * width + s) * channels) },
                        &f,
                        #[inline(always)]
                        |value| {
                            // SAFETY: as the caller promises.
                            unsafe { out.write(at, value) };
                            at += stride;
                        },
                    );
                } else {
                    both_axes(
                        &mut work,
                        #[inline(always)]
                        |r, s| match (
                            (first[0] + r).checked_sub(before),
                            (first[1] + s).checked_sub(before),
                        ) {
                            // SAFETY: as above, for this pixel.
                            (Some(y), Some(x_)) if y < height && x_ < width => unsafe {
                                get(x, image + (y * width + x_) * channels + channel)
                            },
                            _ => [T::ZERO; LANES],
                        },
                        &f,
                        #[inline(always)]
                        |value| {
                            // SAFETY: as the caller promises.
                            unsafe { out.write(at, value) };
                            at += stride;
                        },
                    );
                }
            }
        }
    }
}

/// One direction of a convolution: its images, and what becomes of the sums.
struct Pass<'a, T: Real, const P: usize, const R: usize> {
    shape: Shape,
    tiles: Tiles<R>,
    panel: Panel<T>,
    width: usize,
    epilogue: &'a Epilogue<'a, T>,
    y: Shared<'a, T>,
}

impl<T: Real, const P: usize, const R: usize> Pass<'_, T, P, R> {
    fn depth(&self) -> usize {
        self.shape.source[2]
    }

    /// Elements from one point to the next of `n` transformed tiles `[tiles, depth]`.
    fn source(&self, n: usize) -> usize {
        n * self.depth() + GAP
    }

    /// Elements from one point to the next of their products with a block of weights,
    /// `[tiles, width]`.
    fn products(&self, n: usize) -> usize {
        n * self.width + GAP
    }

    /// `v: [POINTS², tiles · depth + GAP]`.
    fn transform<B: Bilinear<P, I, R>, const I: usize>(
        &self,
        x: &[T],
        tiles: Range<usize>,
        v: &mut [T],
    ) {
        let (start, depth, stride) = (tiles.start, self.depth(), self.source(tiles.len()));
        assert!(v.len() >= P * P * stride, "transformed tiles do not fit");
        let v = Shared::new(v);
        let axes = [B::STEP, B::BEFORE];
        wide(
            #[inline(always)]
            || {
                // SAFETY: a vector of tile t < n begins at most at (n − 1)·depth + depth − LANES
                // within its point's part, and `v` has a part for each point.
                unsafe {
                    self.tiles.transform(
                        x,
                        self.shape.source,
                        axes,
                        tiles,
                        #[inline(always)]
                        |d| B::input(d),
                        &v,
                        #[inline(always)]
                        |tile, k| (tile - start) * depth + k,
                        stride,
                    );
                }
            },
        );
    }

    /// The result of some tiles, whose transforms are `v`, for one block of channels, whose
    /// `weights` are at all points.
    fn block<B: Bilinear<P, I, R>, const I: usize>(
        &self,
        block: usize,
        weights: &[T],
        tiles: Range<usize>,
        v: &[T],
        m: &mut Scratch<T>,
    ) {
        let (n, depth) = (tiles.len(), self.depth());
        let of_m = self.products(n);
        let m = m.of(P * P * of_m);
        let points = v
            .chunks(self.source(n))
            .zip(weights.chunks(depth * self.width + GAP))
            .zip(m.chunks_mut(of_m));
        for ((v, weights), m) in points {
            self.panel
                .multiply([n, depth], v, [depth, 1], weights, m, self.width, false);
        }
        self.finish::<B, I>(block, m, of_m, tiles);
    }

    /// From the products of some tiles with one block of weights, whose points lie `stride` apart,
    /// to the result.
    fn finish<B: Bilinear<P, I, R>, const I: usize>(
        &self,
        block: usize,
        m: &[T],
        stride: usize,
        tiles: Range<usize>,
    ) {
        let [height, across, channels] = self.shape.result;
        let start = block * self.width;
        let channels_here = self.width.min(channels - start);
        assert!(
            m.len() >= (P * P - 1) * stride + tiles.len() * self.width,
            "products are missing"
        );
        wide(
            #[inline(always)]
            || {
                let mut work = work::<T, P, R>();
                for (i, tile) in tiles.enumerate() {
                    let [sample, ty, tx] = self.tiles.place(tile);
                    for part in (0..channels_here).step_by(LANES) {
                        let from = i * self.width + part;
                        let (mut r, mut s) = (0, 0);
                        both_axes(
                            &mut work,
                            #[inline(always)]
                            // SAFETY: within the part of a tile below the number of tiles, by the
                            // assertion.
                            |r, s| unsafe { get(m, from + (r * P + s) * stride) },
                            #[inline(always)]
                            |p| B::result(p),
                            #[inline(always)]
                            |value| {
                                let (y, x) = (ty * R + r, tx * R + s);
                                if y < height && x < across {
                                    let at = ((sample * height + y) * across + x) * channels
                                        + start
                                        + part;
                                    // SAFETY: this pixel belongs to this tile and these channels to
                                    // this block, hence to this task, and no other part is alive on
                                    // this thread.
                                    let y = unsafe { self.y.part(at, LANES) };
                                    if let Some(y) = y.first_chunk_mut::<LANES>() {
                                        self.epilogue.finish(y, value, start + part, at);
                                    }
                                }
                                s += 1;
                                if s == R {
                                    (r, s) = (r + 1, 0);
                                }
                            },
                        );
                    }
                }
            },
        );
    }
}

/// The convolution, or its adjoint, with `kernel`: `x` to `y`, both channels-last; channels of the
/// source are multiples of [`LANES`]. `transformed` is the kernel at all points; without it, each
/// block of channels is transformed where it is used.
pub(super) fn convolve<
    T: Real,
    B: Bilinear<P, I, R>,
    const P: usize,
    const I: usize,
    const R: usize,
>(
    shape: Shape,
    kernel: &Kernel<T, impl Fn(usize, usize) -> usize + Sync>,
    transformed: Option<&Transformed<T>>,
    x: &[T],
    y: &mut [T],
    epilogue: &Epilogue<T>,
) {
    only_f32!(T);
    let (tiles, panel, width, y) = (
        Tiles::<R>::new(shape),
        T::tile().panel,
        width::<T>(),
        Shared::new(y),
    );
    let pass = Pass::<T, P, R> {
        shape,
        tiles,
        panel,
        width,
        epilogue,
        y,
    };
    let (total, of_block) = (pass.tiles.len(), P * P * kernel.of_point());
    // As many tiles as fit into so many bytes, together with so many columns of products.
    let fit = |bytes: usize, columns: usize| {
        let of_tile = P * P * (kernel.depth + columns) * size_of::<T>();
        (bytes / of_tile / FEWEST * FEWEST).max(FEWEST)
    };
    if let Some(transformed) = transformed.filter(|_| kernel.is_small(P * P)) {
        let group = fit(GROUP, width).min(total.div_ceil(TASKS).next_multiple_of(FEWEST / 2));
        blocks(total, group).into_par_iter().for_each(|tiles| {
            let [mut v, mut m] = [(); 2].map(|()| Scratch::new());
            let v = v.of(P * P * pass.source(tiles.len()));
            pass.transform::<B, I>(x, tiles.clone(), v);
            for (block, weights) in transformed.values.all().chunks(of_block).enumerate() {
                pass.block::<B, I>(block, weights, tiles.clone(), v, &mut m);
            }
        });
        return;
    }
    let mut v = Kept::new();
    for chunk in blocks(total, fit(CHUNK, 0)) {
        let groups = blocks(chunk.len(), FEWEST);
        let of_group = P * P * pass.source(FEWEST);
        let v = v.of(groups.len() * of_group);
        let in_batch = |tiles: &Range<usize>| chunk.start + tiles.start..chunk.start + tiles.end;
        let transforms = groups.par_iter().zip(v.par_chunks_mut(of_group));
        transforms.for_each(|(tiles, v)| pass.transform::<B, I>(x, in_batch(tiles), v));
        (0..kernel.blocks()).into_par_iter().for_each(|block| {
            let [mut weights, mut m] = [(); 2].map(|()| Scratch::new());
            let weights = match transformed {
                Some(transformed) => &transformed.values.all()[block * of_block..][..of_block],
                None => {
                    let weights = weights.of(of_block);
                    kernel.transform_block::<B, P, I, R>(block, weights);
                    weights
                }
            };
            for (tiles, v) in groups.iter().zip(v.chunks(of_group)) {
                pass.block::<B, I>(block, weights, in_batch(tiles), v, &mut m);
            }
        });
    }
}

/// The gradient of a kernel, `[co, ci, 3, 3]`, from the convolution's input `x` and its result's
/// gradient `dy`.
pub(super) fn kernel_gradient<
    T: Real,
    B: KernelGradient<P, I, R>,
    const P: usize,
    const I: usize,
    const R: usize,
>(
    shape: Shape,
    x: &[T],
    dy: &[T],
) -> Vec<T> {
    only_f32!(T);
    let ([.., ci], [.., co]) = (shape.source, shape.result);
    let (tiles, panel, width) = (Tiles::<R>::new(shape), T::tile().panel, width::<T>());
    let blocks_of_ci = ci.div_ceil(width);
    // Of a block of input channels at one point: [co, width].
    let of_sum = co * width + GAP;
    let of_tile = P * P * (blocks_of_ci * width + co) * size_of::<T>();
    let bytes = blocks_of_ci * P * P * of_sum * size_of::<T>();
    // Sums of a large kernel would leave the cache from one chunk of tiles to the next: better one
    // chunk.
    let most = if bytes <= SHARED { CHUNK } else { 4 * CHUNK };
    let chunks = blocks(
        tiles.len(),
        (most / of_tile / FEWEST * FEWEST).max(2 * FEWEST),
    );
    let [mut v, mut z, mut sums] = [(); 3].map(|()| Kept::new());
    let mut dk = vec![T::ZERO; co * ci * 9];
    if chunks.is_empty() {
        return dk;
    }
    // [block of ci, POINTS², co · width + GAP], unless each block is finished before the next.
    let by_block = chunks.len() == 1 && bytes > SHARED;
    let sums = sums.of(if by_block {
        0
    } else {
        blocks_of_ci * P * P * of_sum
    });
    let result = Shared::new(&mut dk);
    for (i, chunk) in chunks.iter().enumerate() {
        let n = chunk.len();
        // [block of ci, POINTS², tiles · width + GAP] and [POINTS², tiles · co + GAP].
        let (of_v, of_z) = (n * width + GAP, n * co + GAP);
        let (v, z) = (v.of(blocks_of_ci * P * P * of_v), z.of(P * P * of_z));
        if ci % width != 0 {
            // Past the last channel: sums of whatever was there could be slow or not finite, and
            // are read by nobody.
            v.fill(T::ZERO);
        }
        let (shared_v, shared_z) = (Shared::new(v), Shared::new(z));
        blocks(n, FEWEST / 2).into_par_iter().for_each(|group| {
            let group = chunk.start + group.start..chunk.start + group.end;
            wide(
                #[inline(always)]
                || {
                    // SAFETY: (tile, channels) belong to this task alone; their vectors lie within
                    // their points' parts.
                    unsafe {
                        tiles.transform(
                            x,
                            shape.source,
                            [B::STEP, B::BEFORE],
                            group.clone(),
                            #[inline(always)]
                            |d| B::input(d),
                            &shared_v,
                            #[inline(always)]
                            |tile, k| {
                                k / width * P * P * of_v + (tile - chunk.start) * width + k % width
                            },
                            of_v,
                        );
                        tiles.transform(
                            dy,
                            shape.result,
                            [R, 0],
                            group.clone(),
                            #[inline(always)]
                            |y| B::result_adjoint(y),
                            &shared_z,
                            #[inline(always)]
                            |tile, k| (tile - chunk.start) * co + k,
                            of_z,
                        );
                    }
                },
            );
        });
        let (v, z) = (&*v, &*z);
        let sum = |block: usize, point: usize, sum: &mut [T]| {
            let (v, z) = (
                &v[(block * P * P + point) * of_v..][..of_v],
                &z[point * of_z..][..of_z],
            );
            panel.multiply([co, n], z, [1, co], v, sum, width, i > 0);
        };
        if by_block {
            (0..blocks_of_ci).into_par_iter().for_each(|block| {
                let mut scratch = Scratch::new();
                let sums = scratch.of(P * P * of_sum);
                sums.chunks_mut(of_sum)
                    .enumerate()
                    .for_each(|(point, sums)| sum(block, point, sums));
                finish_kernel::<T, B, P, I, R>([ci, co], block, sums, &result);
            });
            return dk;
        }
        let points = sums.par_chunks_mut(of_sum).enumerate();
        points.for_each(|(i, sums)| sum(i / (P * P), i % (P * P), sums));
    }
    let blocks = sums.par_chunks(P * P * of_sum).enumerate();
    blocks.for_each(|(block, sums)| finish_kernel::<T, B, P, I, R>([ci, co], block, sums, &result));
    dk
}

/// The gradients of a block of input channels from its sums at all points,
/// `[POINTS², co · width + GAP]`, to `[co, ci, 3, 3]`.
fn finish_kernel<
    T: Real,
    B: KernelGradient<P, I, R>,
    const P: usize,
    const I: usize,
    const R: usize,
>(
    [ci, co]: [usize; 2],
    block: usize,
    sums: &[T],
    to: &Shared<T>,
) {
    let width = width::<T>();
    let (start, stride) = (block * width, co * width + GAP);
    assert!(sums.len() >= P * P * stride, "sums are missing");
    wide(
        #[inline(always)]
        || {
            let mut work = work::<T, P, 3>();
            for channel in 0..co {
                for k in (start..ci.min(start + width)).step_by(LANES) {
                    // SAFETY: these channels belong to this task alone, and no other part is alive
                    // on this thread.
                    let dk = unsafe { to.part((channel * ci + k) * 9, LANES * 9) };
                    let (from, mut tap) = (channel * width + k - start, 0);
                    both_axes(
                        &mut work,
                        #[inline(always)]
                        // SAFETY: within the part of its point, by the assertion.
                        |r, s| unsafe { get(sums, (r * P + s) * stride + from) },
                        #[inline(always)]
                        |p| B::kernel_adjoint(p),
                        #[inline(always)]
                        |value| {
                            for (l, value) in value.iter().enumerate() {
                                dk[l * 9 + tap] = *value;
                            }
                            tap += 1;
                        },
                    );
                }
            }
        },
    );
}
