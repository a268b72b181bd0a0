//! How a number and its spread are written: the spread to two digits that count, the mean to the
//! same place. Knows no table.
use super::stats::Stats;

/// Digits of a number without a spread, or whose spread is 0.
const ALONE: i32 = 4;
/// Digits of a spread.
const SPREAD: i32 = 2;

/// `91.2 ± 0.4`: a fraction in percent to a tenth, anything else by its spread.
pub fn with_spread(stats: Stats, fraction: bool) -> String {
    let scale = if fraction { 100.0 } else { 1.0 };
    let (mean, sd) = (scale * stats.mean, stats.sd.map(|sd| scale * sd));
    let spread = sd.filter(|sd| *sd > 0.0 && sd.is_finite());
    let place = match spread {
        _ if fraction => -1,
        Some(sd) => place_of(sd, SPREAD),
        None if mean == mean.trunc() && mean.abs() < 1e15 => 0,
        None => place_of(mean, ALONE),
    };
    // Beyond these, zeros would hide the digits that count.
    let power = if (-6..=6).contains(&place) {
        0
    } else {
        exponent(mean.abs().max(spread.unwrap_or(0.0)))
    };
    let number = |value: f64| fixed(value / 10_f64.powi(power), place - power);
    let text = sd.map_or_else(
        || number(mean),
        |sd| format!("{} ± {}", number(mean), number(sd)),
    );
    match (power, sd) {
        (0, _) => text,
        (_, None) => format!("{text}e{power}"),
        (_, Some(_)) => format!("({text})e{power}"),
    }
}

/// Power of ten of the last of so many digits that count; rounding may carry, 0.996 to two digits
/// is 1.0.
fn place_of(value: f64, digits: i32) -> i32 {
    if value == 0.0 || !value.is_finite() {
        return 0;
    }
    let place = exponent(value) - digits + 1;
    let carried = (value.abs() / 10_f64.powi(place)).round() >= 10_f64.powi(digits);
    place + i32::from(carried)
}

/// Power of ten of the first digit.
fn exponent(value: f64) -> i32 {
    if value == 0.0 {
        0
    } else {
        value.abs().log10().floor() as i32
    }
}

/// Rounded at the power of ten `place`.
fn fixed(value: f64, place: i32) -> String {
    if place <= 0 {
        return format!("{value:.*}", place.unsigned_abs() as usize);
    }
    let unit = 10_f64.powi(place);
    format!("{:.0}", (value / unit).round() * unit)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(mean: f64, sd: f64) -> String {
        with_spread(
            Stats {
                mean,
                sd: Some(sd),
                n: 3,
            },
            false,
        )
    }

    #[test]
    fn a_spread_has_two_digits_and_its_mean_ends_with_it() {
        assert_eq!(written(25.683, 7.458), "25.7 ± 7.5");
        assert_eq!(written(81.38, 120.8), "80 ± 120");
        assert_eq!(written(64.991, 0.020_22), "64.991 ± 0.020");
        assert_eq!(written(1057.6, 34.85), "1058 ± 35");
        assert_eq!(written(3.0, 0.996), "3.0 ± 1.0");
        assert_eq!(written(0.812, 0.0999), "0.81 ± 0.10");
        assert_eq!(written(5.0, 0.0), "5 ± 0");
        assert_eq!(written(0.123_456, 0.0), "0.1235 ± 0.0000");
        assert_eq!(written(1.2345e-9, 4.4e-11), "(1.234 ± 0.044)e-9");
        assert_eq!(written(1.5e12, 2.0e10), "(1.500 ± 0.020)e12");
    }

    #[test]
    fn percents_have_one_place() {
        assert_eq!(
            with_spread(
                Stats {
                    mean: 0.9,
                    sd: Some(0.1),
                    n: 3
                },
                true
            ),
            "90.0 ± 10.0"
        );
        assert_eq!(
            with_spread(
                Stats {
                    mean: 0.9876,
                    sd: None,
                    n: 1
                },
                true
            ),
            "98.8"
        );
    }

    #[test]
    fn a_number_alone_has_four_digits() {
        let shown = [
            0.123456,
            12.3456,
            12345.6,
            3.0,
            0.00001234,
            0.0,
            f64::INFINITY,
        ];
        let shown = shown.map(|mean| {
            with_spread(
                Stats {
                    mean,
                    sd: None,
                    n: 1,
                },
                false,
            )
        });
        assert_eq!(
            shown,
            ["0.1235", "12.35", "12350", "3", "1.234e-5", "0", "inf"]
        );
    }
}
