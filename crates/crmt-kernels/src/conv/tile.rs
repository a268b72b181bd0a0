//! Sums of a few pixels and two vectors of channels at a time, held in registers: the innermost loop of a direct
//! convolution, compiled for each instruction set and chosen when the program runs.
//!
//! Knows runs of weights and elements, and nothing of images.
#![expect(unsafe_code, reason = "functions compiled for instructions that not every processor has")]
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
}

impl<T: Real> Tile<T> {
    /// Sums for the pixels `at` (at most [`pixels`](Self::pixels)), each `vectors` (1 or 2) times
    /// [`lanes`](Self::lanes) channels; `weights` has as many for each element of a run.
    ///
    /// # Panics
    /// If a run does not lie in its slice, or `sums` is too short.
    #[inline]
    pub fn sum(&self, vectors: usize, runs: &[Run], weights: &[T], x: &[T], at: &[usize], sums: &mut [T]) {
        match vectors {
            1 => (self.one)(runs, weights, x, at, sums),
            _ => (self.two)(runs, weights, x, at, sums),
        }
    }
}

/// All sums stay in registers: `PIXELS · VECTORS` of them, the weights of one element, and one element of `x`.
#[inline(always)]
fn sum<T: Real, const PIXELS: usize, const VECTORS: usize, const LANES: usize, const FUSED: bool>(
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
        for (k, weights) in weights.as_chunks::<LANES>().0.as_chunks::<VECTORS>().0.iter().enumerate() {
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

/// `$name`: [`sum`] for any number of pixels, each number a function of its own, so that the compiler finds registers
/// for all sums.
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

/// The fastest loops that this processor runs, on vectors of `A`, `B` or `C` elements: of 64, 32 and 16 bytes.
pub(crate) fn tile<T: Real, const A: usize, const B: usize, const C: usize>() -> Tile<T> {
    #[cfg(target_arch = "x86_64")]
    {
        if std::is_x86_feature_detected!("avx512f") {
            return Tile { lanes: A, pixels: 8, one: avx512::<T, 1, A>, two: avx512::<T, 2, A> };
        }
        if std::is_x86_feature_detected!("avx2") && std::is_x86_feature_detected!("fma") {
            return Tile { lanes: B, pixels: 6, one: avx2::<T, 1, B>, two: avx2::<T, 2, B> };
        }
    }
    Tile { lanes: C, pixels: 6, one: portable::<T, 1, C>, two: portable::<T, 2, C> }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every loop that this processor runs, against the formula.
    #[test]
    fn all_loops_agree() {
        let mut tiles = vec![Tile { lanes: 2, pixels: 6, one: portable::<f64, 1, 2>, two: portable::<f64, 2, 2> }];
        #[cfg(target_arch = "x86_64")]
        {
            if std::is_x86_feature_detected!("avx2") && std::is_x86_feature_detected!("fma") {
                tiles.push(Tile { lanes: 4, pixels: 6, one: avx2::<f64, 1, 4>, two: avx2::<f64, 2, 4> });
            }
            if std::is_x86_feature_detected!("avx512f") {
                tiles.push(Tile { lanes: 8, pixels: 8, one: avx512::<f64, 1, 8>, two: avx512::<f64, 2, 8> });
            }
        }
        let runs = [Run { weight: 3, input: 1, len: 5 }, Run { weight: 0, input: 9, len: 2 }];
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
                    let term = |r: &Run, k: usize| weights[(r.weight + k) * lanes + l] * x[at[n] + r.input + k];
                    let expected: f64 = runs.iter().flat_map(|r| (0..r.len).map(move |k| term(r, k))).sum();
                    assert_eq!(*sum, expected, "{vectors} vectors of {}, {pixels} pixels: whole numbers", tile.lanes);
                }
            }
        }
    }
}
