//! Rounding in one direction, also where products and squares under- or overflow.
//! Does not know what the numbers mean.

/// `n u / (1 - n u)`: the relative error of a sum of `n` products of numbers with unit roundoff
/// `u`; infinite where there is none.
pub(crate) fn gamma_of(n: usize, u: f64) -> f64 {
    let nu = n as f64 * u;
    if nu < 1. {
        nu / (1. - nu)
    } else {
        f64::INFINITY
    }
}

/// [`gamma_of`] `f64`.
pub(crate) fn gamma(n: usize) -> f64 {
    gamma_of(n, f64::EPSILON / 2.)
}

/// At least `a b`, for factors of at least 0: a product of positive numbers is never 0. Multiplying
/// by 1 is exact.
pub(crate) fn times_up(a: f64, b: f64) -> f64 {
    if a == 1. || b == 1. || a == 0. || b == 0. {
        a * b
    } else {
        (a * b).next_up()
    }
}

/// At least `a + b`, and exactly that where it is a number.
pub(crate) fn plus_up(a: f64, b: f64) -> f64 {
    let sum = a + b;
    // What rounding took, exactly (Knuth's two-sum).
    let part = sum - a;
    let lost = (a - (sum - part)) + (b - part);
    if lost > 0. { sum.next_up() } else { sum }
}

/// At least the l2 norm of `values`.
pub(crate) fn norm_up(values: impl Iterator<Item = f64> + Clone) -> f64 {
    let greatest = greatest(values.clone().map(f64::abs));
    if greatest == 0. || !greatest.is_finite() {
        return greatest;
    }
    let scaled = |v: f64| {
        let q = v / greatest;
        q * q
    };
    let (sum, n) = values.fold((0., 0), |(sum, n), v| (sum + scaled(v), n + 1));
    // Quotients, squares and sums round, and the root; what underflows is far below one ulp of the
    // sum, which is at least 1.
    let root = sum.sqrt() * (1. + gamma(n + 8));
    (root * greatest).next_up()
}

/// The greatest of numbers of at least 0; NaN if one is NaN.
pub(crate) fn greatest(values: impl Iterator<Item = f64>) -> f64 {
    values.fold(0., |a: f64, b| {
        if a.is_nan() || b.is_nan() {
            f64::NAN
        } else {
            a.max(b)
        }
    })
}

/// The product of bounds, rounded up, with an exponent of its own: no order of factors makes it
/// under- or overflow on the way.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Product {
    mantissa: f64,
    exponent: i64,
}

impl Product {
    pub const ONE: Self = Self {
        mantissa: 1.,
        exponent: 0,
    };

    /// Times a finite factor of at least 0.
    pub fn times(self, factor: f64) -> Self {
        let (m, e) = split(factor);
        let (mantissa, carry) = split(times_up(self.mantissa, m));
        Self {
            mantissa,
            exponent: self.exponent + e + carry,
        }
    }

    /// Rounded up: never 0 for positive factors; infinite where it is too large.
    pub fn value(self) -> f64 {
        if self.mantissa == 0. {
            return 0.;
        }
        match self.exponent {
            e if e > 1024 => f64::INFINITY,
            e if e < -1080 => f64::from_bits(1),
            e => {
                // In two steps: either power alone may not be a number.
                let half = e / 2;
                let scaled = self.mantissa * 2f64.powi(half as i32) * 2f64.powi((e - half) as i32);
                if scaled < f64::MIN_POSITIVE {
                    scaled.next_up()
                } else {
                    scaled
                }
            }
        }
    }
}

/// `x = m 2^e` with `m` in `1..2`, exactly; 0 stays 0.
pub(crate) fn split(x: f64) -> (f64, i64) {
    if x == 0. || !x.is_finite() {
        return (x, 0);
    }
    let (normal, shift) = if x.abs() < f64::MIN_POSITIVE {
        (x * 2f64.powi(64), 64)
    } else {
        (x, 0)
    };
    let exponent = ((normal.to_bits() >> 52) & 0x7ff) as i64 - 1023;
    (
        f64::from_bits(normal.to_bits() & !(0x7ff << 52) | 1023 << 52),
        exponent - shift,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn products_of_positive_numbers_are_positive_in_any_order() {
        let of = |factors: &[f64]| {
            factors
                .iter()
                .fold(Product::ONE, |p, f| p.times(*f))
                .value()
        };
        for factors in [
            [1e-200, 1e-200, 1e200, 1e200],
            [1e-200, 1e200, 1e200, 1e-200],
            [1e200, 1e200, 1e-200, 1e-200],
        ] {
            let product = of(&factors);
            // Four decimal factors and three products are rounded.
            assert!(
                (1. - 1e-15..1. + 1e-14).contains(&product),
                "{factors:?}: {product}"
            );
        }
        assert_eq!(of(&[1e-300, 1e-300]), f64::from_bits(1));
        assert_eq!(
            (of(&[5e-324, 1e300, 0.]), of(&[1e300, 1e300])),
            (0., f64::INFINITY)
        );
        assert_eq!(
            (of(&[0.5, 4.]), of(&[3., 1.])),
            (2., 3.),
            "powers of two, and 1, are exact"
        );
        assert!(of(&[5e-324, 1.]) >= 5e-324 && times_up(1e-300, 1e-300) > 0.);
    }

    #[test]
    fn norms_neither_vanish_nor_overflow() {
        for size in [5e-324, 1e-300, 1e-170, 1e-20, 1., 1e170, 1e300] {
            let norm = norm_up([3. * size, -4. * size].into_iter());
            assert!(
                norm >= 5. * size && norm <= 5. * size * (1. + 1e-14) + 1e-323,
                "{size}: {norm}"
            );
        }
        assert_eq!(
            (
                norm_up([0., 0.].into_iter()),
                norm_up([1., f64::INFINITY].into_iter())
            ),
            (0., f64::INFINITY)
        );
        assert!(
            norm_up([f64::NAN, 1.].into_iter()).is_nan()
                && greatest([f64::NAN, 1.].into_iter()).is_nan()
        );
        assert!(greatest([1., f64::NAN].into_iter()).is_nan());
    }

    #[test]
    fn splitting_is_exact() {
        for x in [
            1.,
            1.5,
            2.,
            3e-310,
            5e-324,
            1e300,
            f64::MAX,
            f64::MIN_POSITIVE,
        ] {
            let (m, e) = split(x);
            assert!((1. ..2.).contains(&m), "{x}");
            assert_eq!(
                m * 2f64.powi((e / 2) as i32) * 2f64.powi((e - e / 2) as i32),
                x
            );
        }
    }
}
