//! Rearrangements: transposes, channels-last windows (im2col) and their adjoint (col2im).
//!
//! Inside a task images are channels-last and padded, because then a kernel row is one contiguous run
//! whatever the stride. Knows nothing of products or threads.
use super::geometry::{Geometry, Unit};
use crate::real::{PIECE, Real, Scratch};
use rayon::prelude::*;
use std::ops::Range;

/// Side of the square tiles in [`transpose`].
const TILE: usize = 8;
/// Elements that [`windows`] copies at a time.
const CHUNK: usize = 16;

/// Part of a column that [`transpose`] hands out, by value: going through memory element by element and
/// then reading it as a whole would stall.
pub(crate) struct Column<T> {
    values: [T; TILE],
    pub len: usize,
}

impl<T: Real> Column<T> {
    /// Writes `f(value)` for each value to the start of `dst`.
    #[inline(always)]
    pub(crate) fn write(self, dst: &mut [T], f: impl Fn(T) -> T) {
        if self.len == TILE {
            let dst = &mut dst[..TILE];
            for (dst, value) in dst.iter_mut().zip(self.values) {
                *dst = f(value);
            }
        } else {
            for (dst, &value) in dst[..self.len].iter_mut().zip(&self.values) {
                *dst = f(value);
            }
        }
    }
}

/// Transposes a matrix whose row `i` starts at `src[start(i)]`: `put(j, i, part)` receives the part of
/// column `j` that begins in row `i`, in tiles. Where a side is not a multiple of the tile, the last tile
/// overlaps the one before, so `put` may see an element twice.
#[inline(always)]
pub(crate) fn transpose<T: Real>(
    src: &[T],
    start: impl Fn(usize) -> usize,
    [rows, columns]: [usize; 2],
    mut put: impl FnMut(usize, usize, Column<T>),
) {
    if rows < TILE {
        for j in 0..columns {
            let values = std::array::from_fn(|r| if r < rows { src[start(r) + j] } else { T::ZERO });
            put(j, 0, Column { values, len: rows });
        }
        return;
    }
    for i in (0..rows).step_by(TILE).map(|i| i.min(rows - TILE)) {
        let tile: [&[T]; TILE] = std::array::from_fn(|r| &src[start(i + r)..][..columns]);
        #[expect(clippy::needless_range_loop, reason = "the tile is read by columns")]
        for j in 0..columns {
            put(j, i, Column { values: std::array::from_fn(|r| tile[r][j]), len: TILE });
        }
    }
}

/// Transposes the row-major `src[rows, columns]`, whose rows lie `row` apart, into `dst`, whose rows lie
/// `dst_row` apart.
pub(crate) fn transpose_into<T: Real>(src: &[T], row: usize, size: [usize; 2], dst: &mut [T], dst_row: usize) {
    transpose(src, |i| i * row, size, |j, i, part| part.write(&mut dst[j * dst_row + i..], |v| v));
}

/// `[outer, channels, taps]` → `[outer, taps, channels]`.
pub(super) fn taps_outside<T: Real>(src: &[T], channels: usize, taps: usize) -> Vec<T> {
    if channels == 1 || taps == 1 {
        return src.to_vec();
    }
    let mut dst = vec![T::ZERO; src.len()];
    let outer = PIECE.div_ceil(channels * taps) * channels * taps;
    src.par_chunks(outer).zip(dst.par_chunks_mut(outer)).for_each(|(src, dst)| {
        for (src, dst) in src.chunks(channels * taps).zip(dst.chunks_mut(channels * taps)) {
            transpose_into(src, taps, [channels, taps], dst, channels);
        }
    });
    dst
}

/// The input matrix of a unit: for each output position the window it sees, restricted to the kernel rows
/// `taps`: `[columns, taps, kw, ci]`.
pub(super) fn windows<'a, T: Real>(
    g: &Geometry,
    unit: &Unit,
    taps: Range<usize>,
    x: &[T],
    image: &mut Scratch<T>,
    windows: &'a mut Scratch<T>,
) -> &'a [T] {
    let (channels, width) = (g.ci, g.w + 2 * g.padding);
    let len = unit.columns(g) * taps.len() * g.kw * channels;
    // A chunk may run past the end of a window; the next one overwrites what it left.
    let out = windows.of(len + CHUNK);
    // The rows of the padded image that this unit reads, and those of them that lie in the image.
    let first = unit.rows.start * g.stride + taps.start;
    let height = (unit.rows.len() - 1) * g.stride + taps.len();
    let inside = first.max(g.padding)..(first + height).min(g.padding + g.h);
    let sample = g.ci * g.h * g.w;
    if g.pointwise() {
        let n = height * g.w;
        for (i, x) in x[unit.samples.start * sample..unit.samples.end * sample].chunks(sample).enumerate() {
            transpose_into(&x[first * g.w..], g.h * g.w, [channels, n], &mut out[i * n * channels..], channels);
        }
        return &out[..len];
    }
    let image = image.of(height * width * channels + CHUNK);
    image.fill(T::ZERO);
    let pixels: Vec<usize> =
        inside.clone().flat_map(|y| (0..g.w).map(move |x| ((y - first) * width + x + g.padding) * channels)).collect();
    let mut at = 0;
    for x in x[unit.samples.start * sample..unit.samples.end * sample].chunks(sample) {
        if !inside.is_empty() {
            let x = &x[(inside.start - g.padding) * g.w..];
            transpose(
                x,
                |i| i * g.h * g.w,
                [channels, pixels.len()],
                |j, i, part| part.write(&mut image[pixels[j] + i..], |v| v),
            );
        }
        let run = g.kw * channels;
        for oy in 0..unit.rows.len() {
            for ox in 0..g.ow {
                for ky in 0..taps.len() {
                    let from = ((oy * g.stride + ky) * width + ox * g.stride) * channels;
                    for i in (0..run).step_by(CHUNK) {
                        let chunk: [T; CHUNK] = std::array::from_fn(|k| image[from + i..][..CHUNK][k]);
                        out[at + i..][..CHUNK].copy_from_slice(&chunk);
                    }
                    at += run;
                }
            }
        }
    }
    &out[..len]
}

/// The adjoint of taking windows, for one sample and `channels` channels: adds `[rows·ow, kh, kw, channels]`
/// to the padded image, of which `image` begins at the first row the windows see.
pub(super) fn add_windows<T: Real>(g: &Geometry, rows: usize, channels: usize, windows: &[T], image: &mut [T]) {
    let (run, width) = (g.kw * channels, g.w + 2 * g.padding);
    let mut runs = windows.chunks_exact(run);
    for oy in 0..rows {
        for ox in 0..g.ow {
            for (ky, run) in runs.by_ref().take(g.kh).enumerate() {
                let from = ((oy * g.stride + ky) * width + ox * g.stride) * channels;
                for (image, &value) in image[from..from + run.len()].iter_mut().zip(run) {
                    *image += value;
                }
            }
        }
    }
}
