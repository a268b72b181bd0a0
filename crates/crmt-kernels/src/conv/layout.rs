//! Rearrangements: transposes, and the adjoint of taking channels-last windows (col2im).
//!
//! Knows nothing of products or threads.
use super::geometry::Geometry;
use crate::real::Real;

/// Side of the square tiles in [`transpose`].
const TILE: usize = 8;

/// Part of a column that [`transpose`] hands out, by value: going through memory element by element
/// and then reading it as a whole would stall.
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

/// Transposes a matrix whose row `i` starts at `src[start(i)]`: `put(j, i, part)` receives the part
/// of column `j` that begins in row `i`, in tiles. Where a side is not a multiple of the tile, the
/// last tile overlaps the one before, so `put` may see an element twice.
#[inline(always)]
pub(crate) fn transpose<T: Real>(
    src: &[T],
    start: impl Fn(usize) -> usize,
    [rows, columns]: [usize; 2],
    mut put: impl FnMut(usize, usize, Column<T>),
) {
    if rows < TILE {
        for j in 0..columns {
            let values =
                std::array::from_fn(|r| if r < rows { src[start(r) + j] } else { T::ZERO });
            put(j, 0, Column { values, len: rows });
        }
        return;
    }
    for i in (0..rows).step_by(TILE).map(|i| i.min(rows - TILE)) {
        let tile: [&[T]; TILE] = std::array::from_fn(|r| &src[start(i + r)..][..columns]);
        #[expect(clippy::needless_range_loop, reason = "the tile is read by columns")]
        for j in 0..columns {
            put(
                j,
                i,
                Column {
                    values: std::array::from_fn(|r| tile[r][j]),
                    len: TILE,
                },
            );
        }
    }
}

/// Transposes the row-major `src[rows, columns]`, whose rows lie `row` apart, into `dst`, whose
/// rows lie `dst_row` apart.
pub(crate) fn transpose_into<T: Real>(
    src: &[T],
    row: usize,
    size: [usize; 2],
    dst: &mut [T],
    dst_row: usize,
) {
    transpose(
        src,
        |i| i * row,
        size,
        |j, i, part| part.write(&mut dst[j * dst_row + i..], |v| v),
    );
}

/// The adjoint of taking windows, for one sample and `channels` channels: adds
/// `[rows·ow, kh, kw, channels]` to the padded image, of which `image` begins at the first row the
/// windows see.
pub(super) fn add_windows<T: Real>(
    g: &Geometry,
    rows: usize,
    channels: usize,
    windows: &[T],
    image: &mut [T],
) {
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
