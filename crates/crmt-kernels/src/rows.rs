//! Passes over channels-last images seen as rows of channels: sums of columns, what a ReLU stops,
//! reordering.
//!
//! Knows nothing of images or layers.
use crate::conv::layout::transpose_into;
use crate::real::{PIECE, Real};
use crate::simd::wide;
use rayon::prelude::*;

/// Rows whose sums are added up in the element type before they go into an `f64`: few enough to
/// lose nothing that matters.
const SHORT: usize = 32;

/// Rows of a task, from shapes alone.
pub(crate) fn rows_of_task(channels: usize) -> usize {
    (PIECE / channels.max(1)).max(1).next_multiple_of(SHORT)
}

/// For each column `N` sums over all rows of `terms(row, column)`, added up in a fixed order.
/// `row(i, [sums; N])` adds the terms of row `i` to the sums of its columns.
pub(crate) fn column_sums<T: Real, const N: usize>(
    rows: usize,
    channels: usize,
    row: impl Fn(usize, &mut [Vec<T>; N]) + Sync,
) -> [Vec<f64>; N] {
    let task = rows_of_task(channels);
    let parts: Vec<[Vec<f64>; N]> = (0..rows.div_ceil(task))
        .into_par_iter()
        .map(|part| {
            let mut totals = [(); N].map(|()| vec![0f64; channels]);
            let mut sums = [(); N].map(|()| vec![T::ZERO; channels]);
            wide(
                #[inline(always)]
                || {
                    let end = rows.min((part + 1) * task);
                    for start in (part * task..end).step_by(SHORT) {
                        sums.iter_mut().for_each(|sums| sums.fill(T::ZERO));
                        for i in start..end.min(start + SHORT) {
                            row(i, &mut sums);
                        }
                        for (totals, sums) in totals.iter_mut().zip(&sums) {
                            totals
                                .iter_mut()
                                .zip(sums)
                                .for_each(|(total, sum)| *total += sum.to_f64());
                        }
                    }
                },
            );
            totals
        })
        .collect();
    let mut totals = [(); N].map(|()| vec![0f64; channels]);
    for part in &parts {
        for (totals, part) in totals.iter_mut().zip(part) {
            totals
                .iter_mut()
                .zip(part)
                .for_each(|(total, part)| *total += part);
        }
    }
    totals
}

/// `dL/dbias: [channels]` of what was added to every row.
pub(crate) fn bias_gradient<T: Real>(gradient: &[T], channels: usize) -> Vec<T> {
    let rows = gradient.len() / channels.max(1);
    let [sums] = column_sums::<T, 1>(
        rows,
        channels,
        #[inline(always)]
        |i, [sums]| {
            let row = &gradient[i * channels..][..channels];
            sums.iter_mut().zip(row).for_each(|(sum, v)| *sum += *v);
        },
    );
    sums.into_iter().map(T::from_f64).collect()
}

/// `f` on pieces of `y` and the elements of `x` at the same places.
pub(crate) fn each<T: Real>(y: &mut [T], x: &[T], f: impl Fn(&mut T, T) + Sync) {
    y.par_chunks_mut(PIECE)
        .zip(x.par_chunks(PIECE))
        .for_each(|(y, x)| {
            wide(
                #[inline(always)]
                || y.iter_mut().zip(x).for_each(|(y, x)| f(y, *x)),
            );
        });
}

/// Zero in `gradient` where `y` is at most zero.
pub(crate) fn stop<T: Real>(gradient: &mut [T], y: &[T]) {
    each(
        gradient,
        y,
        #[inline(always)]
        |gradient, y| *gradient = if y <= T::ZERO { T::ZERO } else { *gradient },
    );
}

/// Each row times `scale: [channels]`.
pub(crate) fn scale_rows<T: Real>(x: &mut [T], scale: &[T]) {
    let task = rows_of_task(scale.len()) * scale.len();
    x.par_chunks_mut(task).for_each(|x| {
        wide(
            #[inline(always)]
            || {
                for row in x.chunks_exact_mut(scale.len()) {
                    row.iter_mut()
                        .zip(scale)
                        .for_each(|(x, scale)| *x *= *scale);
                }
            },
        );
    });
}

/// `[batch, rows, columns]` to `[batch, columns, rows]`.
pub(crate) fn swap<T: Real>(from: &[T], [rows, columns]: [usize; 2], to: &mut [T]) {
    let size = (rows * columns).max(1);
    let samples = to.par_chunks_mut(size).zip(from.par_chunks(size));
    samples.for_each(|(to, from)| match rows == 1 || columns == 1 {
        true => to.copy_from_slice(from),
        false => transpose_into(from, columns, [rows, columns], to, rows),
    });
}
