//! Convolutions 3×3 of channels-last images by [`bilinear`](super::bilinear) algorithms: tiles of the input are
//! transformed, multiplied for each of `POINTS²` points by that point's matrix of weights, and transformed back.
//!
//! Knows how a tile's parts are laid out and how work is shared, and nothing of when this is faster.
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
/// Bytes of weights that every task reads by itself: beyond them tasks share points, so that weights are read once.
const SHARED: usize = 4 << 20;
/// Bytes of the tiles that are transformed before their points are shared, to stay in the common cache.
const CHUNK: usize = 4 << 20;
/// A multiple of what the innermost loops sum at a time on any processor.
const FEWEST: usize = 24;
/// Elements after each point's part of a buffer: without them the points of a tile would lie multiples of 4 KB apart, which
/// a first-level cache keeps in very few places.
const GAP: usize = 16;

/// Images before and after, channels-last: `[height, width, channels]`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shape {
    pub batch: usize,
    pub source: [usize; 3],
    pub result: [usize; 3],
}

/// A kernel at all points: `[block of channels, POINTS², depth · width + GAP]`, where `width` is two vectors of the
/// innermost loops and past the last channel are zeros.
pub(crate) struct Transformed<T: Real> {
    channels: usize,
    depth: usize,
    values: Kept<T>,
}

/// Channels of the result that are summed at a time.
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

impl<T: Real> Transformed<T> {
    /// `taps(channel, k)`: where in `kernel` the nine taps from channel `k` of the source to `channel` of the result lie.
    pub(super) fn new<B: Bilinear<P, I, R>, const P: usize, const I: usize, const R: usize>(
        [channels, depth]: [usize; 2],
        kernel: &[T],
        taps: impl Fn(usize, usize) -> usize + Sync,
    ) -> Self {
        let width = width::<T>();
        let mut kept = Kept::new();
        let of_point = depth * width + GAP;
        let of_block = P * P * of_point;
        let values = kept.of(channels.div_ceil(width) * of_block);
        values.par_chunks_mut(of_block).enumerate().for_each(|(block, values)| {
            let (start, mut work) = (block * width, work::<T, 3, P>());
            wide(
                #[inline(always)]
                || {
                    for k in 0..depth {
                        for part in (0..width).step_by(LANES) {
                            let mut g = [[[T::ZERO; LANES]; 3]; 3];
                            for l in 0..LANES.min(channels.saturating_sub(start + part)) {
                                let taps = &kernel[taps(start + part + l, k)..][..9];
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
        });
        Self { channels, depth, values: kept }
    }

    /// Elements kept.
    pub(crate) fn len(&self) -> usize {
        self.values.all().len()
    }

    fn blocks(&self) -> usize {
        self.channels.div_ceil(width::<T>())
    }
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
        Self { batch: shape.batch, count: [height.div_ceil(R), width.div_ceil(R)] }
    }

    fn len(&self) -> usize {
        self.batch * self.count[0] * self.count[1]
    }

    /// Sample, row and column of tiles.
    fn place(&self, tile: usize) -> [usize; 3] {
        let [down, across] = self.count;
        [tile / (down * across), tile / across % down, tile % across]
    }

    /// Transforms `N × N` pixels of `x: [batch, height, width, channels]` for each of `tiles`, which begin `before` pixels
    /// before the image and lie `step` apart: the vector of `channel` at point `p` of a tile goes to
    /// `to(tile, channel) + p · stride`.
    ///
    /// # Safety
    /// All these vectors lie in `out`, and nobody else uses them meanwhile.
    #[inline(always)]
    #[expect(clippy::too_many_arguments, reason = "where to read, what to compute, where to write")]
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
            let whole = first.iter().zip([height, width]).all(|(at, len)| *at >= before && at + N <= len + before);
            let image = sample * height * width * channels;
            for channel in (0..channels).step_by(LANES) {
                let mut at = to(tile, channel);
                if whole {
                    let corner = image + ((first[0] - before) * width + first[1] - before) * channels + channel;
                    both_axes(
                        &mut work,
                        #[inline(always)]
                        // SAFETY: the whole tile lies in the image of a sample below `batch`, whose elements the
                        // assertion has counted.
                        |r, s| unsafe { get(x, corner + (r * width + s) * channels) },
                        #[inline(always)]
                        |d| f(d),
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
                        |r, s| match ((first[0] + r).checked_sub(before), (first[1] + s).checked_sub(before)) {
                            // SAFETY: as above, for this pixel.
                            (Some(y), Some(x_)) if y < height && x_ < width => unsafe {
                                get(x, image + (y * width + x_) * channels + channel)
                            },
                            _ => [T::ZERO; LANES],
                        },
                        #[inline(always)]
                        |d| f(d),
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

/// One direction of a convolution: its images, its weights, and what becomes of the sums.
struct Pass<'a, T: Real, const P: usize, const R: usize> {
    shape: Shape,
    tiles: Tiles<R>,
    weights: &'a Transformed<T>,
    panel: Panel<T>,
    width: usize,
    epilogue: &'a Epilogue<'a, T>,
    y: Shared<'a, T>,
}

impl<T: Real, const P: usize, const R: usize> Pass<'_, T, P, R> {
    /// Elements from one point to the next of `n` transformed tiles `[tiles, depth]`.
    fn source(&self, n: usize) -> usize {
        n * self.weights.depth + GAP
    }

    /// Elements from one point to the next of their products `[blocks, tiles, width]`.
    fn products(&self, n: usize, blocks: usize) -> usize {
        n * blocks * self.width + GAP
    }

    /// `v: [POINTS², tiles · depth + GAP]`.
    fn transform<B: Bilinear<P, I, R>, const I: usize>(&self, x: &[T], tiles: Range<usize>, v: &mut [T]) {
        let (start, depth, stride) = (tiles.start, self.weights.depth, self.source(tiles.len()));
        assert!(v.len() >= P * P * stride, "transformed tiles do not fit");
        let v = Shared::new(v);
        let axes = [B::STEP, B::BEFORE];
        wide(
            #[inline(always)]
            || {
                // SAFETY: a vector of tile t < n begins at most at (n − 1)·depth + depth − LANES within its point's part,
                // and `v` has a part for each point.
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

    /// The products of `n` tiles with one block of weights at one point: `v: [tiles, depth]` to `m: [tiles, width]`.
    fn multiply(&self, point: usize, block: usize, n: usize, v: &[T], m: &mut [T]) {
        let depth = self.weights.depth;
        let of_point = depth * self.width + GAP;
        let weights = &self.weights.values.all()[(block * P * P + point) * of_point..][..of_point];
        self.panel.multiply([n, depth], v, [depth, 1], weights, m, self.width, false);
    }

    /// From the products of some tiles with one block of weights to the result: `m` begins with the block's part for the
    /// first point, and the points lie `stride` apart.
    fn finish<B: Bilinear<P, I, R>, const I: usize>(&self, block: usize, m: &[T], stride: usize, tiles: Range<usize>) {
        let [height, across, channels] = self.shape.result;
        let start = block * self.width;
        let channels_here = self.width.min(channels - start);
        assert!(m.len() >= (P * P - 1) * stride + tiles.len() * self.width, "products are missing");
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
                            // SAFETY: within the part of a tile below the number of tiles, by the assertion.
                            |r, s| unsafe { get(m, from + (r * P + s) * stride) },
                            #[inline(always)]
                            |p| B::result(p),
                            #[inline(always)]
                            |value| {
                                let (y, x) = (ty * R + r, tx * R + s);
                                if y < height && x < across {
                                    let at = ((sample * height + y) * across + x) * channels + start + part;
                                    // SAFETY: this pixel belongs to this tile and these channels to this block, hence to
                                    // this task, and no other part is alive on this thread.
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

/// The convolution, or its adjoint, that `weights` are of: `x` to `y`, both channels-last; channels are multiples of
/// [`LANES`].
pub(super) fn convolve<T: Real, B: Bilinear<P, I, R>, const P: usize, const I: usize, const R: usize>(
    shape: Shape,
    weights: &Transformed<T>,
    x: &[T],
    y: &mut [T],
    epilogue: &Epilogue<T>,
) {
    let (tiles, panel, width, y) = (Tiles::<R>::new(shape), T::tile().panel, width::<T>(), Shared::new(y));
    let pass = Pass::<T, P, R> { shape, tiles, weights, panel, width, epilogue, y };
    let (total, blocks_of_channels) = (pass.tiles.len(), weights.blocks());
    // As many tiles as fit with `blocks` blocks of products into so many bytes.
    let fit = |bytes: usize, blocks: usize| {
        let of_tile = P * P * (weights.depth + blocks * width) * size_of::<T>();
        (bytes / of_tile / FEWEST * FEWEST).max(FEWEST)
    };
    if weights.len() * size_of::<T>() <= SHARED {
        let group = fit(GROUP, 1).min(total.div_ceil(TASKS).next_multiple_of(FEWEST / 2));
        blocks(total, group).into_par_iter().for_each(|tiles| {
            let [mut v, mut m] = [(); 2].map(|()| Scratch::new());
            let n = tiles.len();
            let (of_v, of_m) = (pass.source(n), pass.products(n, 1));
            let (v, m) = (v.of(P * P * of_v), m.of(P * P * of_m));
            pass.transform::<B, I>(x, tiles.clone(), v);
            for block in 0..blocks_of_channels {
                let points = v.chunks(of_v).zip(m.chunks_mut(of_m)).enumerate();
                points.for_each(|(point, (v, m))| pass.multiply(point, block, n, v, m));
                pass.finish::<B, I>(block, m, of_m, tiles.clone());
            }
        });
        return;
    }
    let [mut v, mut m] = [(); 2].map(|()| Kept::new());
    for chunk in blocks(total, fit(CHUNK, blocks_of_channels)) {
        let groups = blocks(chunk.len(), FEWEST);
        let [of_v, of_m] =
            [pass.source(FEWEST), pass.products(FEWEST, blocks_of_channels)].map(|stride| P * P * stride);
        let (v, m) = (v.of(groups.len() * of_v), m.of(groups.len() * of_m));
        let in_batch = |tiles: &Range<usize>| chunk.start + tiles.start..chunk.start + tiles.end;
        let transforms = groups.par_iter().zip(v.par_chunks_mut(of_v));
        transforms.for_each(|(tiles, v)| pass.transform::<B, I>(x, in_batch(tiles), v));
        let shared = Shared::new(m);
        (0..P * P).into_par_iter().for_each(|point| {
            for block in 0..blocks_of_channels {
                for (i, tiles) in groups.iter().enumerate() {
                    let n = tiles.len();
                    let v = &v[i * of_v + point * pass.source(n)..][..pass.source(n)];
                    let at = i * of_m + point * pass.products(n, blocks_of_channels) + block * n * width;
                    // SAFETY: (group, point) belong to this task alone, and no other part is alive on this thread.
                    let m = unsafe { shared.part(at, n * width) };
                    pass.multiply(point, block, n, v, m);
                }
            }
        });
        let results = groups.par_iter().zip(m.par_chunks(of_m));
        results.for_each(|(tiles, m)| {
            let n = tiles.len();
            for block in 0..blocks_of_channels {
                pass.finish::<B, I>(
                    block,
                    &m[block * n * width..],
                    pass.products(n, blocks_of_channels),
                    in_batch(tiles),
                );
            }
        });
    }
}

/// The gradient of a kernel, `[co, ci, 3, 3]`, from the convolution's input `x` and its result's gradient `dy`.
pub(super) fn kernel_gradient<T: Real, B: KernelGradient<P, I, R>, const P: usize, const I: usize, const R: usize>(
    shape: Shape,
    x: &[T],
    dy: &[T],
) -> Vec<T> {
    let ([.., ci], [.., co]) = (shape.source, shape.result);
    let (tiles, panel, width) = (Tiles::<R>::new(shape), T::tile().panel, width::<T>());
    let blocks_of_ci = ci.div_ceil(width);
    let [mut v, mut z, mut sums] = [(); 3].map(|()| Kept::new());
    // [POINTS², block of ci, co, width]
    let of_sum = blocks_of_ci * co * width + GAP;
    let sums = sums.of(P * P * of_sum);
    let of_tile = P * P * (blocks_of_ci * width + co) * size_of::<T>();
    for (i, chunk) in blocks(tiles.len(), (CHUNK / of_tile / FEWEST * FEWEST).max(2 * FEWEST)).into_iter().enumerate() {
        let n = chunk.len();
        // At each point [block of ci, tiles, width] and [tiles, co].
        let (of_v, of_z) = (n * blocks_of_ci * width + GAP, n * co + GAP);
        let (v, z) = (v.of(P * P * of_v), z.of(P * P * of_z));
        if ci % width != 0 {
            // Past the last channel: sums of whatever was there could be slow or not finite, and are read by nobody.
            v.fill(T::ZERO);
        }
        let (shared_v, shared_z) = (Shared::new(v), Shared::new(z));
        blocks(n, FEWEST / 2).into_par_iter().for_each(|group| {
            let group = chunk.start + group.start..chunk.start + group.end;
            wide(
                #[inline(always)]
                || {
                    // SAFETY: (tile, channels) belong to this task alone; their vectors lie within their points' parts.
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
                            |tile, k| (k / width * n + tile - chunk.start) * width + k % width,
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
        let points = sums.par_chunks_mut(of_sum).zip(v.par_chunks(of_v)).zip(z.par_chunks(of_z));
        points.for_each(|((sums, v), z)| {
            for (sums, v) in sums.chunks_exact_mut(co * width).zip(v.chunks_exact(n * width)) {
                panel.multiply([co, n], z, [1, co], v, sums, width, i > 0);
            }
        });
    }
    let mut dk = vec![T::ZERO; co * ci * 9];
    let sums = &*sums;
    // A few output channels of one block of sums: rows of `dk` that lie together.
    dk.par_chunks_mut(LANES * ci * 9).enumerate().for_each(|(first, dk)| {
        wide(
            #[inline(always)]
            || {
                let mut work = work::<T, P, 3>();
                for (channel, dk) in dk.chunks_exact_mut(ci * 9).enumerate() {
                    for k in (0..ci).step_by(LANES) {
                        let from = (k / width * co + first * LANES + channel) * width + k % width;
                        let (dk, mut tap) = (&mut dk[k * 9..(k + LANES) * 9], 0);
                        both_axes(
                            &mut work,
                            #[inline(always)]
                            // SAFETY: (block of ci, channel) lie within a point's part of `sums`.
                            |r, s| unsafe { get(sums, (r * P + s) * of_sum + from) },
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
    });
    dk
}
