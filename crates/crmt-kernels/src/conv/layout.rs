//! Rearrangements: transposes, channels-last windows (im2col) and their adjoint (col2im).
//!
//! Inside a task images are channels-last and padded, because then a kernel row is one contiguous run
//! whatever the stride. Knows nothing of products or threads.
use super::geometry::{Geometry, Unit};
use crate::real::{Real, Scratch};

/// Side of the square tiles in [`transpose`].
const TILE: usize = 8;

/// `put(j, i0, values)` receives column `j` of the row-major `src[rows, columns]`, rows `i0..`, in tiles.
pub(super) fn transpose<T: Real>(
    src: &[T],
    row: usize,
    [rows, columns]: [usize; 2],
    mut put: impl FnMut(usize, usize, &[T]),
) {
    for i in (0..rows).step_by(TILE) {
        let m = TILE.min(rows - i);
        for j in (0..columns).step_by(TILE) {
            let n = TILE.min(columns - j);
            let mut tile = [[T::ZERO; TILE]; TILE];
            if m == TILE && n == TILE {
                for (r, tile) in tile.iter_mut().enumerate() {
                    tile.copy_from_slice(&src[(i + r) * row + j..][..TILE]);
                }
                for c in 0..TILE {
                    let column: [T; TILE] = std::array::from_fn(|r| tile[r][c]);
                    put(j + c, i, &column);
                }
            } else {
                for c in 0..n {
                    let column = &mut tile[c][..m];
                    for (r, value) in column.iter_mut().enumerate() {
                        *value = src[(i + r) * row + j + c];
                    }
                    put(j + c, i, column);
                }
            }
        }
    }
}

/// [`transpose`] into `dst`, whose rows (columns of `src`) lie `dst_row` apart.
pub(super) fn transpose_into<T: Real>(src: &[T], row: usize, size: [usize; 2], dst: &mut [T], dst_row: usize) {
    transpose(src, row, size, |j, i, values| dst[j * dst_row + i..][..values.len()].copy_from_slice(values));
}

/// `[outer, channels, taps]` → `[outer, taps, channels]`.
pub(super) fn taps_outside<T: Real>(src: &[T], channels: usize, taps: usize) -> Vec<T> {
    if channels == 1 || taps == 1 {
        return src.to_vec();
    }
    let mut dst = vec![T::ZERO; src.len()];
    for (src, dst) in src.chunks(channels * taps).zip(dst.chunks_mut(channels * taps)) {
        transpose_into(src, taps, [channels, taps], dst, channels);
    }
    dst
}

/// The input matrix of a unit: for each output position the window it sees, `[columns, kh, kw, ci]`.
pub(super) fn columns<'a, T: Real>(
    g: &Geometry,
    unit: &Unit,
    x: &[T],
    padded: &mut Scratch<T>,
    columns: &'a mut Scratch<T>,
) -> &'a [T] {
    let depth = g.depth();
    let out = columns.of(unit.columns(g) * depth);
    let [rows, width] = g.footprint(unit.rows.len());
    let first = unit.rows.start * g.stride;
    for (x, out) in x[unit.samples.start * g.ci * g.h * g.w..]
        .chunks(g.ci * g.h * g.w)
        .zip(out.chunks_mut(unit.rows.len() * g.ow * depth))
    {
        if g.pointwise() {
            transpose_into(&x[first * g.w..], g.h * g.w, [g.ci, rows * g.w], out, g.ci);
            continue;
        }
        let image = padded.zeroed(rows * width * g.ci);
        let inside = g.w.min(width.saturating_sub(g.padding));
        for row in 0..rows {
            let Some(y) = (first + row).checked_sub(g.padding).filter(|&y| y < g.h) else { continue };
            let at = (row * width + g.padding) * g.ci;
            if inside > 0 {
                transpose_into(&x[y * g.w..], g.h * g.w, [g.ci, inside], &mut image[at..], g.ci);
            }
        }
        for_each_run(g, unit.rows.len(), g.ci, |column, pixel, run| {
            out[column..][..run].copy_from_slice(&image[pixel..][..run]);
        });
    }
    out
}

/// The adjoint of the window part of [`columns`] for one sample and `channels` channels: adds
/// `[rows·ow, kh, kw, channels]` to the padded image, whose row `rows.start·stride` is the first of `image`.
pub(super) fn add_columns<T: Real>(g: &Geometry, rows: usize, channels: usize, columns: &[T], image: &mut [T]) {
    for_each_run(g, rows, channels, |column, pixel, run| {
        for (image, &column) in image[pixel..][..run].iter_mut().zip(&columns[column..][..run]) {
            *image += column;
        }
    });
}

/// `f(start in the columns, start in the padded image, length)` for every kernel row of every position.
fn for_each_run(g: &Geometry, rows: usize, channels: usize, mut f: impl FnMut(usize, usize, usize)) {
    let (run, width) = (g.kw * channels, g.footprint(1)[1]);
    let mut column = 0;
    for oy in 0..rows {
        for ox in 0..g.ow {
            for ky in 0..g.kh {
                f(column, ((oy * g.stride + ky) * width + ox * g.stride) * channels, run);
                column += run;
            }
        }
    }
}
