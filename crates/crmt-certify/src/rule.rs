//! l2 Lipschitz constants known by theorem, for [`crmt_core::Layer::Fixed`]. Does not know weights.
//!
//! | operation | constant |
//! |---|---|
//! | ReLU, leaky ReLU (slope at most 1), abs, max-min and group sort, tanh, softplus | 1 |
//! | flatten, permute, zero-pad, space-to-depth, dropout when fixed, non-overlapping l2-pool | 1 |
//! | sigmoid, GELU (exact), SiLU | [`SIGMOID`], [`GELU`], [`SILU`] |
//! | average pool, global average, mean over frames | [`average_pool`], [`mean_of`] |
//! | adaptive average pool, max pool | [`adaptive_average_pool`], [`max_pool`] |
//! | division by declared deviations | [`divide_by`] |
//! | parts side by side | [`branches`], [`blocks`], [`mix`] |
//!
//! LayerNorm, InstanceNorm, softmax attention and standardisation by the sample's own deviation
//! have no global constant. All are rounded up.

/// Greatest slope of the logistic function, at 0.
pub const SIGMOID: f64 = 0.25;
/// Greatest slope of `x Phi(x)`, at `sqrt 2`.
pub const GELU: f64 = 1.128_904_145_185_156;
/// Greatest slope of `x / (1 + exp(-x))`, at 2.39935728.
pub const SILU: f64 = 1.099_839_320_128_868;

/// Average over non-overlapping `kernel x kernel` windows: `1 / kernel`. Overlapping ones are a
/// convolution: audit it.
pub fn average_pool(kernel: usize) -> f64 {
    up(1. / kernel as f64)
}

/// The mean of `n` values, or of the features of `n` frames with one encoder, as a function of all:
/// `1 / sqrt(n)`. A global average over `height x width` is the mean of so many.
pub fn mean_of(n: usize) -> f64 {
    up(1. / (n as f64).sqrt())
}

/// Adaptive average pool along one axis from `input` to `output` positions, windows
/// `floor(i input / output) .. ceil((i + 1) input / output)`:
/// `sqrt(most windows over one input / least window)`. Multiply for two axes.
pub fn adaptive_average_pool(input: usize, output: usize) -> f64 {
    let windows: Vec<_> = (0..output)
        .map(|i| i * input / output..((i + 1) * input).div_ceil(output))
        .collect();
    let least = windows.iter().map(|w| w.len()).min().unwrap_or(0);
    let most = (0..input)
        .map(|x| windows.iter().filter(|w| w.contains(&x)).count())
        .max()
        .unwrap_or(0);
    up((most as f64 / least as f64).sqrt())
}

/// Maximum over `kernel x kernel` windows every `stride`: `ceil(kernel / stride)`, as an input is
/// in at most its square many windows. 1 when windows do not overlap.
pub fn max_pool(kernel: usize, stride: usize) -> f64 {
    kernel.div_ceil(stride) as f64
}

/// Division by declared deviations, one per channel: `1 / min`. Tighter: declare a `Diagonal`,
/// which an audit folds into the convolution that follows.
pub fn divide_by(deviations: &[f64]) -> f64 {
    (1. / deviations.iter().copied().fold(f64::INFINITY, f64::min)).next_up()
}

/// Branches of the same input, concatenated: `sqrt(sum L^2)`.
pub fn branches(constants: &[f64]) -> f64 {
    up(constants.iter().map(|l| l * l).sum::<f64>().sqrt()
        * (1. + constants.len() as f64 * f64::EPSILON))
}

/// Parts of the input, each with its own map, concatenated: `max L`.
pub fn blocks(constants: &[f64]) -> f64 {
    constants.iter().copied().fold(0., f64::max)
}

/// `(1 - t) x + t f(x)` with `0 <= t <= 1`: `(1 - t) + t L`.
pub fn mix(t: f64, constant: f64) -> f64 {
    up(up(1. - t) + up(t * constant))
}

/// Up by two ulps: a quotient or root, and its argument; powers of two and their quotients stay
/// exact.
fn up(x: f64) -> f64 {
    let exact = x == 0. || (x.is_normal() && x.to_bits() << 12 == 0);
    if exact { x } else { x.next_up().next_up() }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Golden values, never below; 1e-14: two ulps, and the 15 digits given.
    #[test]
    fn g11_constants() {
        let third = mean_of(3);
        let std = divide_by(&[0.229, 0.224, 0.225]);
        let rows = [
            (average_pool(2), 0.5),
            (mean_of(49), 0.142857142857143),
            (third, 0.577350269189626),
            (std, 4.464285714285714),
            (GELU, 1.1289041451851548),
            (SILU, 1.099_839_320_128_867),
        ];
        for (got, want) in rows {
            assert!((got / want - 1.).abs() < 2e-14, "{got} for {want}");
        }
        assert!(third * third >= 1. / 3. && std * 0.224 >= 1.);
        assert_eq!(
            (max_pool(2, 2), max_pool(3, 2), max_pool(3, 1)),
            (1., 2., 3.)
        );
        assert!((2. ..2. + 1e-14).contains(&mix(0.5, 3.)) && blocks(&[1., 3., 2.]) == 3.);
        assert!((5. ..5. + 1e-14).contains(&branches(&[3., 4.])));
    }

    /// Slopes of the two activations, by their formulas on a fine grid around the maximum, are
    /// never above and nearly reach the constants.
    #[test]
    fn activations_are_never_steeper() {
        let sigmoid = |x: f64| 1. / (1. + (-x).exp());
        let silu = |x: f64| sigmoid(x) * (1. + x * (1. - sigmoid(x)));
        let gelu = |x: f64| {
            use statrs::distribution::{Continuous, ContinuousCDF, Normal};
            Normal::standard().cdf(x) + x * Normal::standard().pdf(x)
        };
        for (slope, constant) in [(&silu as &dyn Fn(f64) -> f64, SILU), (&gelu, GELU)] {
            let greatest = (-100_000..=100_000)
                .map(|i| slope(f64::from(i) * 1e-4))
                .fold(0., f64::max);
            // A grid of 1e-4 at a maximum of curvature below 1: 1e-8; statrs' normal cdf is good to
            // 1e-11.
            assert!(
                greatest <= constant + 1e-11 && greatest > constant - 1e-8,
                "{greatest} for {constant}"
            );
        }
    }

    /// Against the pooling matrices themselves: their norms by power iteration on `P^T P`, a lower
    /// bound that has converged to 1e-9 after 2000 steps. Equal windows are exact, uneven ones
    /// bounded.
    #[test]
    fn pools_are_never_longer_than_their_matrices_say() {
        for (input, output) in [
            (8usize, 4),
            (9, 3),
            (7, 3),
            (10, 4),
            (5, 5),
            (7, 5),
            (6, 1),
            (3, 6),
        ] {
            let windows: Vec<Vec<usize>> = (0..output)
                .map(|i| (i * input / output..((i + 1) * input).div_ceil(output)).collect())
                .collect();
            let mut x: Vec<f64> = (0..input).map(|i| 1. + 0.1 * (i as f64).sin()).collect();
            let mut norm = 0.;
            for _ in 0..2000 {
                let length = x.iter().map(|x| x * x).sum::<f64>().sqrt();
                let y: Vec<f64> = windows
                    .iter()
                    .map(|w| w.iter().map(|i| x[*i]).sum::<f64>() / (w.len() as f64 * length))
                    .collect();
                norm = y.iter().map(|y| y * y).sum::<f64>().sqrt();
                x = vec![0.; input];
                windows
                    .iter()
                    .zip(&y)
                    .for_each(|(w, y)| w.iter().for_each(|i| x[*i] += y / w.len() as f64));
            }
            let bound = adaptive_average_pool(input, output);
            assert!(norm <= bound, "{input} to {output}: {norm} > {bound}");
            if input % output == 0 {
                assert!(
                    (bound / norm - 1.).abs() < 1e-9
                        && (bound / mean_of(input / output) - 1.).abs() < 1e-15
                );
            }
        }
    }
}
