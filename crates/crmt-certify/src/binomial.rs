//! Confidence bounds of a probability from counted successes (Clopper and Pearson 1934), and the
//! normal quantile. Does not know what was counted.
//!
//! statrs' incomplete beta function stops after 140 terms, which is too few for 10,000 draws;
//! binomial tails are summed here instead, from their greatest term on: all terms are positive, so
//! nothing cancels.
use statrs::distribution::{ContinuousCDF, Normal};

/// The lower Clopper-Pearson bound: the `p` with `P[Binomial(n, p) >= k] = alpha`, rounded down;
/// with probability at least `1 - alpha` it lies below the true success probability. 0 if `k = 0`,
/// `alpha^(1/n)` if `k = n`.
///
/// `alpha` is clamped to `[0, 1]`; more successes than draws count as `n`.
pub fn lower_bound(successes: u64, draws: u64, alpha: f64) -> f64 {
    let (k, n) = (successes.min(draws), draws);
    let alpha = if alpha.is_nan() {
        0.
    } else {
        alpha.clamp(0., 1.)
    };
    if k == 0 || alpha == 0. {
        return 0.;
    }
    // The upper tail grows with p. At p = k/n it is about a half, and the sum below is for p <=
    // k/n.
    let (mut low, mut high) = (0., k as f64 / n as f64);
    if upper_tail(k, n, high) < alpha {
        // alpha above a half is of no use to anyone, but must not give an invalid bound.
        return round_down(high);
    }
    while high - low > 1e-15 * high {
        let middle = 0.5 * (low + high);
        if middle <= low || middle >= high {
            break;
        }
        if upper_tail(k, n, middle) <= alpha {
            low = middle
        } else {
            high = middle
        }
    }
    round_down(low)
}

/// The upper Clopper-Pearson bound, `1 - lower_bound(n - k, n, alpha)`, rounded up.
pub fn upper_bound(successes: u64, draws: u64, alpha: f64) -> f64 {
    1. - lower_bound(draws - successes.min(draws), draws, alpha)
}

/// `Phi^-1(p)`: infinite at 0 and 1, NaN outside `[0, 1]`.
pub fn normal_quantile(p: f64) -> f64 {
    match p {
        p if !(0. ..=1.).contains(&p) => f64::NAN,
        // `1 - p` is exact here, and the small tail keeps its digits.
        p if p > 0.5 => -Normal::standard().inverse_cdf(1. - p),
        p => Normal::standard().inverse_cdf(p),
    }
}

/// Room for rounding: the tail's relative error of about 1e-13 moves the bound by as much of a
/// standard deviation, which is below `min(p, 1 - p)` for two draws or more, and the bisection ends
/// within a few ulps.
fn round_down(p: f64) -> f64 {
    (p - 1e-12 * p.min(1. - p) - 4. * f64::EPSILON * p).max(0.)
}

/// `P[Binomial(n, p) >= k]` for `0 < k <= n`, `p <= k / n`: terms fall from the first one on.
fn upper_tail(k: u64, n: u64, p: f64) -> f64 {
    if p <= 0. {
        return 0.;
    }
    if p >= 1. {
        return 1.;
    }
    let odds = p / (1. - p);
    let (mut term, mut sum, mut i) = (1., 1., k);
    while i < n && term > 1e-18 * sum {
        term *= (n - i) as f64 / (i + 1) as f64 * odds;
        sum += term;
        i += 1;
    }
    sum * ln_mass(k, n, p).exp()
}

/// `ln P[Binomial(n, p) = k]` in Loader's saddle-point form (2000): no difference of large
/// logarithms.
fn ln_mass(k: u64, n: u64, p: f64) -> f64 {
    let q = 1. - p;
    if k == n {
        return n as f64 * p.ln();
    }
    let (x, size) = (k as f64, n as f64);
    let rest = size - x;
    let errors = stirling_error(n) - stirling_error(k) - stirling_error(n - k);
    let deviances = deviance(x, size * p) + deviance(rest, size * q);
    errors - deviances + 0.5 * (size / (std::f64::consts::TAU * x * rest)).ln()
}

/// `ln n! - ln(sqrt(2 pi n) (n / e)^n)` for `n >= 1`.
fn stirling_error(n: u64) -> f64 {
    let x = n as f64;
    if n <= 16 {
        let ln_factorial = (1..=n).map(|i| i as f64).product::<f64>().ln();
        return ln_factorial - (0.5 * (std::f64::consts::TAU * x).ln() + x * x.ln() - x);
    }
    let y = 1. / (x * x);
    // The next term is 691/360360 n^-11: below 1e-16 from n = 17 on.
    (1. / 12. - y * (1. / 360. - y * (1. / 1260. - y * (1. / 1680. - y / 1188.)))) / x
}

/// `x ln(x / m) + m - x`, accurate for `x` near `m`.
fn deviance(x: f64, m: f64) -> f64 {
    let d = x - m;
    if d.abs() >= 0.1 * (x + m) {
        return x * (x / m).ln() - d;
    }
    // With v = d / (x + m): ln(x / m) = 2 artanh v.
    let v = d / (x + m);
    let (mut sum, mut power) = (d * v, 2. * x * v);
    for j in 1..1000 {
        power *= v * v;
        let next = sum + power / (2 * j + 1) as f64;
        if next == sum {
            break;
        }
        sum = next;
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tails_agree_with_plain_sums_of_exact_coefficients() {
        for n in [1u64, 2, 7, 30, 50] {
            for k in 1..=n {
                for p in [0.01, 0.3, 0.77]
                    .into_iter()
                    .filter(|p| *p <= k as f64 / n as f64)
                {
                    let mut choose = 1f64; // C(n, n), then downwards
                    let mut want = 0.;
                    for i in (k..=n).rev() {
                        want += choose * f64::powi(p, i as i32) * f64::powi(1. - p, (n - i) as i32);
                        choose = choose * i as f64 / (n - i + 1) as f64;
                    }
                    let got = upper_tail(k, n, p);
                    // 1e-13: coefficients of up to fifty roundings on one side, a logarithm of size
                    // 1e2 on the other.
                    assert!(
                        (got / want - 1.).abs() < 1e-13,
                        "n {n} k {k} p {p}: {got} for {want}"
                    );
                }
            }
        }
    }

    #[test]
    fn bounds_hold_at_the_edges() {
        assert_eq!(lower_bound(0, 100, 1e-3), 0.);
        assert_eq!(lower_bound(0, 0, 1e-3), 0.);
        assert_eq!(lower_bound(5, 10, 0.), 0.);
        assert!((upper_bound(0, 100, 1e-3) - (1. - 1e-3f64.powf(0.01))).abs() < 2e-12); // the rounding allowance
        assert_eq!(upper_bound(100, 100, 1e-3), 1.);
        // Any alpha: the bound never exceeds the fraction counted.
        assert!(lower_bound(50, 100, 0.9) <= 0.5);
        assert!(lower_bound(1_000_000_000 - 1, 1_000_000_000, 1e-3) < 1.);
    }
}
