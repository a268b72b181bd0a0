//! Shares and indicators of modalities, from what each adds and what limits it. Does not know
//! models.
use super::shapley::shares;

/// `η(m) = L(m) / mean_{n ≠ m} L(n)` at the rival that limits the joint radius, from the
/// vulnerability shares, which are `L(m)² / Σ L²`. None of a single modality, or where none moves
/// the margin.
pub fn etas(vulnerability: &[f64]) -> Vec<Option<f64>> {
    let constants: Vec<f64> = vulnerability.iter().map(|v| v.sqrt()).collect();
    let total: f64 = constants.iter().sum();
    let others = constants.len() - 1;
    let eta = |own: &f64| {
        (others > 0 && total > 0.0).then(|| own / ((total - own).max(0.0) / others as f64))
    };
    constants.iter().map(eta).collect()
}

/// `p(m) = max(φ(m), 0) / Σ_n max(φ(n), 0)`: a modality that speaks against the true class has no
/// part in it. None where none speaks for it.
pub fn preferences(shapley: &[f64]) -> Vec<Option<f64>> {
    let positive: Vec<f64> = shapley.iter().map(|v| v.max(0.0)).collect();
    match shares(&positive) {
        Some(shares) => shares.into_iter().map(Some).collect(),
        None => vec![None; shapley.len()],
    }
}

/// The first of the greatest; none of nothing.
pub fn greatest(values: impl IntoIterator<Item = f64>) -> Option<usize> {
    let first = |best: Option<(usize, f64)>, (i, v): (usize, f64)| match best {
        Some((_, greatest)) if greatest >= v => best,
        _ => Some((i, v)),
    };
    values
        .into_iter()
        .enumerate()
        .fold(None, first)
        .map(|(i, _)| i)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_indicator_is_the_ratio_of_the_constants() {
        let vulnerability = |constants: &[f64]| {
            let total: f64 = constants.iter().map(|l| l * l).sum();
            constants.iter().map(|l| l * l / total).collect::<Vec<_>>()
        };
        let near = |got: Vec<Option<f64>>, expected: &[f64]| {
            // Squares, a sum, roots and quotients of a few numbers of size 1.
            got.len() == expected.len()
                && got
                    .iter()
                    .zip(expected)
                    .all(|(a, b)| (a.unwrap() - b).abs() < 1e-14)
        };
        assert!(near(etas(&vulnerability(&[3.0, 1.5])), &[2.0, 0.5]));
        assert!(near(
            etas(&vulnerability(&[3.0, 1.0, 2.0])),
            &[2.0, 0.4, 1.0]
        ));
        assert_eq!(etas(&[1.0]), [None]);
        assert_eq!(etas(&[0.0, 0.0]), [None, None]);
        assert_eq!(etas(&[1.0, 0.0]), [Some(f64::INFINITY), Some(0.0)]);
    }

    #[test]
    fn what_speaks_against_the_class_is_not_preferred() {
        assert_eq!(
            preferences(&[3.0, -2.0, 1.0]),
            [Some(0.75), Some(0.0), Some(0.25)]
        );
        assert_eq!(preferences(&[0.2]), [Some(1.0)]);
        assert_eq!(preferences(&[-3.0, 0.0]), [None, None]);
        assert_eq!((greatest([1.0, 3.0, 3.0]), greatest([])), (Some(1), None));
    }
}
