//! Mean and spread of a few numbers. Does not know what they measure.

/// Mean, sample standard deviation and count.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Stats {
    pub mean: f64,
    /// With `n - 1`; none for a single value.
    pub sd: Option<f64>,
    pub n: usize,
}

impl Stats {
    /// None of no values.
    pub fn of(values: &[f64]) -> Option<Self> {
        let n = values.len();
        if n == 0 {
            return None;
        }
        let mean = values.iter().sum::<f64>() / n as f64;
        let squares = values
            .iter()
            .map(|value| (value - mean).powi(2))
            .sum::<f64>();
        Some(Self {
            mean,
            sd: (n > 1).then(|| (squares / (n - 1) as f64).sqrt()),
            n,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statistics_by_hand() {
        // 2, 4, 9: mean 5, squares 9 + 1 + 16 = 26, over 2 is 13.
        assert_eq!(
            Stats::of(&[2.0, 4.0, 9.0]),
            Some(Stats {
                mean: 5.0,
                sd: Some(13.0_f64.sqrt()),
                n: 3
            })
        );
        assert_eq!(
            Stats::of(&[2.0]),
            Some(Stats {
                mean: 2.0,
                sd: None,
                n: 1
            })
        );
        assert_eq!(Stats::of(&[]), None);
    }
}
