//! Batch normalisation of channels-last images with the sum, the ReLU and their gradients in the
//! same passes.
//!
//! Knows moments and rows of channels, and nothing of steps or of who keeps what.
use crate::activation::positive_part;
use crate::batch_norm::Moments;
use crate::real::{Kept, Real};
use crate::rows::{column_sums, rows_of_task};
use crate::simd::wide;
use rayon::prelude::*;

/// Moments of each channel of `x: [rows, channels]`: sums around the first row, so that a large
/// mean does not cancel the variance.
pub(super) fn moments<T: Real>(x: &[T], channels: usize) -> Moments {
    let count = x.len() / channels;
    let shift = &x[..channels];
    let [sums, squares] = column_sums::<T, 2>(
        count,
        channels,
        #[inline(always)]
        |i, [sums, squares]| {
            let row = &x[i * channels..][..channels];
            let (sums, squares) = (&mut sums[..channels], &mut squares[..channels]);
            for (((x, shift), sum), square) in row.iter().zip(shift).zip(sums).zip(squares) {
                let d = *x - *shift;
                *sum += d;
                *square += d * d;
            }
        },
    );
    let n = count as f64;
    let mean = sums
        .iter()
        .zip(shift)
        .map(|(sum, shift)| shift.to_f64() + sum / n)
        .collect();
    let variance = sums
        .iter()
        .zip(&squares)
        .map(|(sum, square)| ((square - sum * sum / n) / n).max(0.))
        .collect();
    Moments {
        mean,
        variance,
        count,
    }
}

/// `y = γ·(x − mean) / √(variance + eps) + β` as `x·scale + shift`, each `[channels]`.
pub(super) fn scale_and_shift<T: Real>(
    moments: &Moments,
    gamma: &[T],
    beta: &[T],
    eps: f64,
) -> [Vec<f64>; 2] {
    let scale: Vec<f64> = gamma
        .iter()
        .zip(&moments.variance)
        .map(|(gamma, variance)| gamma.to_f64() / (variance + eps).sqrt())
        .collect();
    let shift = beta
        .iter()
        .zip(&moments.mean)
        .zip(&scale)
        .map(|((beta, mean), scale)| beta.to_f64() - mean * scale);
    let shift = shift.collect();
    [scale, shift]
}

/// `y = relu(x·scale + shift + add)`, the last two only where asked for.
pub(super) fn apply<T: Real>(
    x: &[T],
    scale_and_shift: &[Vec<f64>; 2],
    add: Option<&[T]>,
    relu: bool,
    y: &mut [T],
) {
    let [scale, shift] = scale_and_shift
        .each_ref()
        .map(|v| v.iter().map(|v| T::from_f64(*v)).collect::<Vec<T>>());
    let channels = scale.len();
    let task = rows_of_task(channels) * channels;
    y.par_chunks_mut(task).enumerate().for_each(|(i, y)| {
        wide(
            #[inline(always)]
            || {
                let (at, len) = (i * task, y.len());
                let x = &x[at..at + len];
                let rows = y.chunks_exact_mut(channels).zip(x.chunks_exact(channels));
                match add {
                    None => rows.for_each(|(y, x)| {
                        for (((y, x), scale), shift) in y.iter_mut().zip(x).zip(&scale).zip(&shift)
                        {
                            let v = *x * *scale + *shift;
                            *y = if relu { positive_part(v) } else { v };
                        }
                    }),
                    Some(add) => rows.zip(add[at..at + len].chunks_exact(channels)).for_each(
                        |((y, x), add)| {
                            for ((((y, x), scale), shift), add) in
                                y.iter_mut().zip(x).zip(&scale).zip(&shift).zip(add)
                            {
                                let v = *x * *scale + *shift + *add;
                                *y = if relu { positive_part(v) } else { v };
                            }
                        },
                    ),
                }
            },
        );
    });
}

/// What the backward pass of a normalisation gives.
pub(super) struct Gradients<T> {
    pub gamma: Vec<T>,
    pub beta: Vec<T>,
}

/// Turns the gradient of `y = relu(normalised x + add)` into that of the sum, in place, and gives
/// those of `γ` and `β`; `stop` is `y` where there is a ReLU. Then `dx`, if asked for: with
/// `x̂ = (x − mean)/σ`, `dβ = Σ g`, `dγ = Σ g·x̂` and `dx = γ/σ·(g − dβ/n − x̂·dγ/n)`, where the
/// two corrections vanish if the moments are constants.
#[expect(
    clippy::too_many_arguments,
    reason = "what a normalisation has and what is asked of it"
)]
pub(super) fn gradients<T: Real>(
    moments: &Moments,
    constant: bool,
    eps: f64,
    gamma: &[T],
    x: &[T],
    stop: Option<&[T]>,
    g: &mut [T],
    dx: Option<&mut Kept<T>>,
) -> Gradients<T> {
    let channels = gamma.len();
    if let Some(y) = stop {
        crate::rows::stop(g, y);
    }
    let g = &*g;
    let mean: Vec<T> = moments.mean.iter().map(|mean| T::from_f64(*mean)).collect();
    let inverse: Vec<f64> = moments
        .variance
        .iter()
        .map(|v| 1. / (v + eps).sqrt())
        .collect();
    let [sums, products] = column_sums::<T, 2>(
        g.len() / channels,
        channels,
        #[inline(always)]
        |i, [sums, products]| {
            let (g, x) = (
                &g[i * channels..][..channels],
                &x[i * channels..][..channels],
            );
            let (sums, products) = (&mut sums[..channels], &mut products[..channels]);
            for ((((g, x), mean), sum), product) in
                g.iter().zip(x).zip(&mean).zip(sums).zip(products)
            {
                *sum += *g;
                *product += *g * (*x - *mean);
            }
        },
    );
    let products: Vec<f64> = products
        .iter()
        .zip(&inverse)
        .map(|(product, inverse)| product * inverse)
        .collect();
    if let Some(dx) = dx {
        // dx = g·scale + x·slope + rest
        let n = moments.count as f64;
        let of = |c: usize| {
            let scale = gamma[c].to_f64() * inverse[c];
            if constant {
                return [scale, 0., 0.];
            }
            let slope = -scale * inverse[c] * products[c] / n;
            [scale, slope, -scale * sums[c] / n - slope * moments.mean[c]]
        };
        let all: Vec<[f64; 3]> = (0..channels).map(of).collect();
        let [scale, slope, rest] =
            [0, 1, 2].map(|i| all.iter().map(|v| T::from_f64(v[i])).collect::<Vec<T>>());
        let task = rows_of_task(channels) * channels;
        dx.of(g.len())
            .par_chunks_mut(task)
            .enumerate()
            .for_each(|(i, dx)| {
                wide(
                    #[inline(always)]
                    || {
                        let (at, len) = (i * task, dx.len());
                        let rows = g[at..at + len]
                            .chunks_exact(channels)
                            .zip(x[at..at + len].chunks_exact(channels));
                        for (dx, (g, x)) in dx.chunks_exact_mut(channels).zip(rows) {
                            for (((((dx, g), x), scale), slope), rest) in dx
                                .iter_mut()
                                .zip(g)
                                .zip(x)
                                .zip(&scale)
                                .zip(&slope)
                                .zip(&rest)
                            {
                                *dx = *g * *scale + (*x * *slope + *rest);
                            }
                        }
                    },
                );
            });
    }
    let convert = |v: &[f64]| v.iter().map(|v| T::from_f64(*v)).collect();
    Gradients {
        gamma: convert(&products),
        beta: convert(&sums),
    }
}
