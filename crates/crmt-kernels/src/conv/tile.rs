//! Sums of a few pixels and two vectors of channels at a time, held in registers: the innermost
//! loop of a direct convolution, compiled for each instruction set and chosen when the program
//! runs.
//!
//! Knows runs of weights and elements, and nothing of images.
#![expect(
    unsafe_code,
    reason = "functions compiled for instructions that not every processor has"
)]
use super::taps::Run;
use crate::real::Real;

/// `sums[n, l] = Σ_run Σ_k weights[(run.weight + k), l] · x[at[n] + run.input + k]`.
type Sum<T> = fn(runs: &[Run], weights: &[T], x: &[T], at: &[usize], sums: &mut [T]);

/// The loops for one processor and element type.
#[derive(Clone, Copy)]
pub(crate) struct Tile<T> {
    /// Elements of a vector.
    pub lanes: usize,
    /// Most pixels at a time.
    pub pixels: usize,
    one: Sum<T>,
    two: Sum<T>,
    /// Products of two vectors of columns at a time.
    pub panel: Panel<T>,
}

/// [`Panel::multiply`], with the bounds checked.
type Multiply<T> = unsafe fn([usize; 2], *const T, [usize; 2], *const T, *mut T, usize, bool);

/// A product of a matrix and a panel of as many columns as two vectors have elements.
#[derive(Clone, Copy)]
pub(crate) struct Panel<T> {
    /// Of the panel.
    columns: usize,
    multiply: Multiply<T>,
}

impl<T: Real> Panel<T> {
    /// `out[i, j] (+)= Σ_k x[i · row + k · term] · panel[k, j]` for `rows` rows and all columns of
    /// the panel, which has `terms` rows; rows of `out` lie `out_row` apart.
    ///
    /// # Panics
    /// If a matrix does not fit its slice, or rows of `out` overlap.
    #[inline]
    #[expect(
        clippy::too_many_arguments,
        reason = "the customary arguments of a matrix product"
    )]
    pub fn multiply(
        &self,
        [rows, terms]: [usize; 2],
        x: &[T],
        [row, term]: [usize; 2],
        panel: &[T],
        out: &mut [T],
        out_row: usize,
        accumulate: bool,
    ) {
        if rows == 0 {
            return;
        }
        assert!(
            terms == 0 || (rows - 1) * row + (terms - 1) * term < x.len(),
            "the matrix does not fit"
        );
        assert!(
            terms * self.columns <= panel.len(),
            "the panel does not fit"
        );
        assert!(
            out_row >= self.columns && (rows - 1) * out_row + self.columns <= out.len(),
            "the result does not fit"
        );
        // SAFETY: strides are not negative, so the last element of each matrix is the farthest, and
        // lies in its slice by the assertions; `out` is borrowed mutably. `tile` made this only for
        // a processor that has the instructions.
        unsafe {
            (self.multiply)(
                [rows, terms],
                x.as_ptr(),
                [row, term],
                panel.as_ptr(),
                out.as_mut_ptr(),
                out_row,
                accumulate,
            )
        }
    }
}

/// [`Panel::multiply`] for `ROWS` rows.
///
/// # Safety
/// All elements that it names exist.
#[inline(always)]
unsafe fn some_rows<T: Real, const ROWS: usize, const LANES: usize, const FUSED: bool>(
    terms: usize,
    x: *const T,
    [row, term]: [usize; 2],
    panel: *const T,
    out: *mut T,
    out_row: usize,
    accumulate: bool,
) {
    let mut total = [[[T::ZERO; LANES]; 2]; ROWS];
    // SAFETY: as the caller promises; an array has the alignment of its elements.
    unsafe {
        if accumulate {
            for (n, total) in total.iter_mut().enumerate() {
                *total = out.add(n * out_row).cast::<[[T; LANES]; 2]>().read();
            }
        }
        for k in 0..terms {
            let weights = panel.add(k * 2 * LANES).cast::<[[T; LANES]; 2]>().read();
            for (n, total) in total.iter_mut().enumerate() {
                let x = x.add(n * row + k * term).read();
                for v in 0..2 {
                    total[v] = std::array::from_fn(|l| match FUSED {
                        true => x.mul_add(weights[v][l], total[v][l]),
                        false => x * weights[v][l] + total[v][l],
                    });
                }
            }
        }
        for (n, total) in total.iter().enumerate() {
            out.add(n * out_row).cast::<[[T; LANES]; 2]>().write(*total);
        }
    }
}

/// [`Panel::multiply`] compiled for some instructions: rows in groups of nearly equal size.
macro_rules! panels {
    ($(#[$meta:meta])* $name:ident, $fused:expr, $most:literal [$($rows:literal)*], [$($features:literal)?]) => {
        $(#[$meta])*
        /// # Safety
        /// All elements that it names exist, and the processor has the instructions.
        $(#[target_feature(enable = $features)])?
        unsafe fn $name<T: Real, const LANES: usize>(
            [rows, terms]: [usize; 2],
            x: *const T,
            strides: [usize; 2],
            panel: *const T,
            out: *mut T,
            out_row: usize,
            accumulate: bool,
        ) {
            /// # Safety
            /// As for all rows.
            $(#[target_feature(enable = $features)])?
            #[inline(never)]
            unsafe fn fixed<T: Real, const ROWS: usize, const LANES: usize>(
                terms: usize,
                x: *const T,
                strides: [usize; 2],
                panel: *const T,
                out: *mut T,
                out_row: usize,
                accumulate: bool,
            ) {
                // SAFETY: as the caller promises.
                unsafe { some_rows::<T, ROWS, LANES, { $fused }>(terms, x, strides, panel, out, out_row, accumulate) }
            }
            let groups = rows.div_ceil($most);
            for i in 0..groups {
                let (first, end) = (i * rows / groups, (i + 1) * rows / groups);
                // SAFETY: these rows are some of all.
                unsafe {
                    let (x, out) = (x.add(first * strides[0]), out.add(first * out_row));
                    match end - first {
                        $($rows => fixed::<T, $rows, LANES>(terms, x, strides, panel, out, out_row, accumulate),)*
                        other => unreachable!("{other} rows at a time"),
                    }
                }
            }
        }
    };
}

panels! { portable_panel, cfg!(target_arch = "aarch64"), 6 [1 2 3 4 5 6], [] }
panels! { #[cfg(target_arch = "x86_64")] avx2_panel, true, 6 [1 2 3 4 5 6], ["avx2,fma"] }
panels! { #[cfg(target_arch = "x86_64")] avx512_panel, true, 12 [1 2 3 4 5 6 7 8 9 10 11 12], ["avx512f"] }

impl<T: Real> Tile<T> {
    /// Sums for the pixels `at` (at most [`pixels`](Self::pixels)), each `vectors` (1 or 2) times
    /// [`lanes`](Self::lanes) channels; `weights` has as many for each element of a run.
    ///
    /// # Panics
    /// If a run does not lie in its slice, or `sums` is too short.
    #[inline]
    pub fn sum(
        &self,
        vectors: usize,
        runs: &[Run],
        weights: &[T],
        x: &[T],
        at: &[usize],
        sums: &mut [T],
    ) {
        match vectors {
            1 => (self.one)(runs, weights, x, at, sums),
            _ => (self.two)(runs, weights, x, at, sums),
        }
    }
}

/// All sums stay in registers: `PIXELS · VECTORS` of them, the weights of one element, and one
/// element of `x`.
#[inline(always)]
fn sum<
    T: Real,
    const PIXELS: usize,
    const VECTORS: usize,
    const LANES: usize,
    const FUSED: bool,
>(
    runs: &[Run],
    weights: &[T],
    x: &[T],
    at: &[usize],
    sums: &mut [T],
) {
    let at: &[usize; PIXELS] = at.try_into().expect("as many pixels as the caller counted");
    let mut total = [[[T::ZERO; LANES]; VECTORS]; PIXELS];
    for run in runs {
        let weights = &weights[run.weight * VECTORS * LANES..][..run.len * VECTORS * LANES];
        let rows: [&[T]; PIXELS] = std::array::from_fn(|n| &x[at[n] + run.input..][..run.len]);
        for (k, weights) in weights
            .as_chunks::<LANES>()
            .0
            .as_chunks::<VECTORS>()
            .0
            .iter()
            .enumerate()
        {
            for n in 0..PIXELS {
                let x = rows[n][k];
                for v in 0..VECTORS {
                    total[n][v] = std::array::from_fn(|l| match FUSED {
                        true => x.mul_add(weights[v][l], total[n][v][l]),
                        false => x * weights[v][l] + total[n][v][l],
                    });
                }
            }
        }
    }
    sums.as_chunks_mut::<LANES>().0.as_chunks_mut::<VECTORS>().0[..PIXELS].copy_from_slice(&total);
}

/// `$name`: [`sum`] for any number of pixels, each number a function of its own, so that the
/// compiler finds registers for all sums.
macro_rules! compiled {
    ($(#[$meta:meta])* $name:ident, $fused:expr, [$($pixels:literal)*], [$($features:literal)?], $($call:tt)*) => {
        $(#[$meta])*
        fn $name<T: Real, const VECTORS: usize, const LANES: usize>(
            runs: &[Run],
            weights: &[T],
            x: &[T],
            at: &[usize],
            sums: &mut [T],
        ) {
            $(#[target_feature(enable = $features)])?
            #[inline(never)]
            fn fixed<T: Real, const PIXELS: usize, const VECTORS: usize, const LANES: usize>(
                runs: &[Run],
                weights: &[T],
                x: &[T],
                at: &[usize],
                sums: &mut [T],
            ) {
                sum::<T, PIXELS, VECTORS, LANES, { $fused }>(runs, weights, x, at, sums)
            }
            macro_rules! call { ($run:expr) => { $($call)* { $run } }; }
            match at.len() {
                $($pixels => call!(fixed::<T, $pixels, VECTORS, LANES>(runs, weights, x, at, sums)),)*
                other => unreachable!("{other} pixels at a time"),
            }
        }
    };
}

compiled! { portable, cfg!(target_arch = "aarch64"), [1 2 3 4 5 6], [], }
// SAFETY (of the calls): `tile` names these functions only where the processor has the features.
compiled! { #[cfg(target_arch = "x86_64")] avx2, true, [1 2 3 4 5 6], ["avx2,fma"], unsafe }
compiled! { #[cfg(target_arch = "x86_64")] avx512, true, [1 2 3 4 5 6 7 8], ["avx512f"], unsafe }

/// The fastest loops that this processor runs, on vectors of `A`, `B` or `C` elements: of 64, 32
/// and 16 bytes.
pub(crate) fn tile<T: Real, const A: usize, const B: usize, const C: usize>() -> Tile<T> {
    #[cfg(target_arch = "x86_64")]
    {
        if std::is_x86_feature_detected!("avx512f") {
            let panel = Panel {
                columns: 2 * A,
                multiply: avx512_panel::<T, A>,
            };
            return Tile {
                lanes: A,
                pixels: 8,
                one: avx512::<T, 1, A>,
                two: avx512::<T, 2, A>,
                panel,
            };
        }
        if std::is_x86_feature_detected!("avx2") && std::is_x86_feature_detected!("fma") {
            let panel = Panel {
                columns: 2 * B,
                multiply: avx2_panel::<T, B>,
            };
            return Tile {
                lanes: B,
                pixels: 6,
                one: avx2::<T, 1, B>,
                two: avx2::<T, 2, B>,
                panel,
            };
        }
    }
    let panel = Panel {
        columns: 2 * C,
        multiply: portable_panel::<T, C>,
    };
    Tile {
        lanes: C,
        pixels: 6,
        one: portable::<T, 1, C>,
        two: portable::<T, 2, C>,
        panel,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every loop that this processor runs, against the formula.
    #[test]
    fn all_loops_agree() {
        let panel = Panel {
            columns: 4,
            multiply: portable_panel::<f64, 2>,
        };
        let mut tiles = vec![Tile {
            lanes: 2,
            pixels: 6,
            one: portable::<f64, 1, 2>,
            two: portable::<f64, 2, 2>,
            panel,
        }];
        #[cfg(target_arch = "x86_64")]
        {
            if std::is_x86_feature_detected!("avx2") && std::is_x86_feature_detected!("fma") {
                let panel = Panel {
                    columns: 8,
                    multiply: avx2_panel::<f64, 4>,
                };
                tiles.push(Tile {
                    lanes: 4,
                    pixels: 6,
                    one: avx2::<f64, 1, 4>,
                    two: avx2::<f64, 2, 4>,
                    panel,
                });
            }
            if std::is_x86_feature_detected!("avx512f") {
                let panel = Panel {
                    columns: 16,
                    multiply: avx512_panel::<f64, 8>,
                };
                tiles.push(Tile {
                    lanes: 8,
                    pixels: 8,
                    one: avx512::<f64, 1, 8>,
                    two: avx512::<f64, 2, 8>,
                    panel,
                });
            }
        }
        let runs = [
            Run {
                weight: 3,
                input: 1,
                len: 5,
            },
            Run {
                weight: 0,
                input: 9,
                len: 2,
            },
        ];
        let x: Vec<f64> = (0..40).map(|i| f64::from(i % 7) - 3.).collect();
        for tile in tiles {
            for (vectors, pixels) in (1..=2).flat_map(|v| (1..=tile.pixels).map(move |p| (v, p))) {
                let lanes = vectors * tile.lanes;
                let weights: Vec<f64> = (0..8 * lanes).map(|i| (i % 11) as f64 - 5.).collect();
                let at: Vec<usize> = (0..pixels).map(|n| 2 * n).collect();
                let mut sums = vec![f64::NAN; pixels * lanes];
                tile.sum(vectors, &runs, &weights, &x, &at, &mut sums);
                for (i, sum) in sums.iter().enumerate() {
                    let (n, l) = (i / lanes, i % lanes);
                    let term = |r: &Run, k: usize| {
                        weights[(r.weight + k) * lanes + l] * x[at[n] + r.input + k]
                    };
                    let expected: f64 = runs
                        .iter()
                        .flat_map(|r| (0..r.len).map(move |k| term(r, k)))
                        .sum();
                    assert_eq!(
                        *sum, expected,
                        "{vectors} vectors of {}, {pixels} pixels: whole numbers",
                        tile.lanes
                    );
                }
            }
            check_panel(&tile);
        }
    }

    /// Every number of rows in a group, rows and columns of the matrix contiguous, new sums and old
    /// ones.
    fn check_panel(tile: &Tile<f64>) {
        let (columns, terms) = (2 * tile.lanes, 5);
        let panel: Vec<f64> = (0..terms * columns).map(|i| (i % 11) as f64 - 5.).collect();
        for rows in 1..=26 {
            let x: Vec<f64> = (0..rows * terms).map(|i| (i % 7) as f64 - 3.).collect();
            for ([row, term], accumulate) in
                [([terms, 1], false), ([1, rows], false), ([terms, 1], true)]
            {
                // Two more elements from row to row, which stay as they are.
                let mut out = vec![2.; rows * (columns + 2)];
                tile.panel.multiply(
                    [rows, terms],
                    &x,
                    [row, term],
                    &panel,
                    &mut out,
                    columns + 2,
                    accumulate,
                );
                for (at, value) in out.iter().enumerate() {
                    let (i, j) = (at / (columns + 2), at % (columns + 2));
                    let sum: f64 = (0..terms)
                        .map(|k| x[i * row + k * term] * panel[(k * columns + j) % panel.len()])
                        .sum();
                    let expected = match (j < columns, accumulate) {
                        (false, _) => 2.,
                        (true, true) => 2. + sum,
                        (true, false) => sum,
                    };
                    assert_eq!(
                        *value, expected,
                        "{rows} rows, strides {row} and {term}, {columns} columns"
                    );
                }
            }
        }
    }
}
