//! Corruptions that lose values: a block, steps in time, or an end. The baseline shows where they
//! were. Does not know what a baseline means.
use super::planes::Planes;
use rand::{Rng, seq::SliceRandom};

/// A block of about `share` of a plane, at a place drawn uniformly, the same in every plane. A
/// larger share of the same draw covers the smaller one.
pub(super) fn block(
    sample: &mut [f64],
    baseline: &[f64],
    planes: &Planes,
    share: f64,
    rng: &mut impl Rng,
) {
    let axes = [planes.height, planes.width]
        .into_iter()
        .filter(|n| *n > 1)
        .count();
    let side = share.powf(1. / axes as f64);
    let mut place = |steps: usize| {
        let covered = part(steps, side);
        let start = (rng.random::<f64>() * (steps - covered + 1) as f64) as usize;
        start..start + covered
    };
    let (rows, columns) = (place(planes.height), place(planes.width));
    for p in 0..planes.count {
        for row in rows.clone() {
            let start = p * planes.values() + row * planes.width;
            let hidden = start + columns.start..start + columns.end;
            sample[hidden.clone()].copy_from_slice(&baseline[hidden]);
        }
    }
}

/// The share of all steps in time, in an order drawn once; every row of every plane loses the same.
pub(super) fn steps(
    sample: &mut [f64],
    baseline: &[f64],
    planes: &Planes,
    share: f64,
    rng: &mut impl Rng,
) {
    let mut order: Vec<usize> = (0..planes.width).collect();
    order.shuffle(rng);
    for step in &order[..part(planes.width, share)] {
        for i in (*step..sample.len()).step_by(planes.width) {
            sample[i] = baseline[i];
        }
    }
}

/// All steps in time move by the share of their number, in a direction drawn at random; at the end
/// that becomes free the baseline shows.
pub(super) fn ends(
    sample: &mut [f64],
    baseline: &[f64],
    planes: &Planes,
    share: f64,
    rng: &mut impl Rng,
) {
    let (width, by) = (planes.width, part(planes.width, share));
    let later = rng.random::<bool>();
    for (row, baseline) in sample
        .chunks_exact_mut(width)
        .zip(baseline.chunks_exact(width))
    {
        if later {
            row.copy_within(..width - by, by);
            row[..by].copy_from_slice(&baseline[..by]);
        } else {
            row.copy_within(by.., 0);
            row[width - by..].copy_from_slice(&baseline[width - by..]);
        }
    }
}

/// `share` of `steps`: whole ones, at least one.
fn part(steps: usize, share: f64) -> usize {
    ((share * steps as f64).round() as usize).clamp(1, steps)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crmt_core::Streams;

    fn stream(i: u64) -> impl Rng {
        Streams::new(0).stream("lost", i)
    }

    /// Two planes of 5 rows of 10 values 1, 2, 3, …; the baseline is their negative.
    fn case() -> (Planes, Vec<f64>, Vec<f64>) {
        let x: Vec<f64> = (1..=100).map(f64::from).collect();
        let baseline = x.iter().map(|v| -v).collect();
        (Planes::of(&[2, 5, 10]), x, baseline)
    }

    #[test]
    fn a_block_is_one_rectangle_of_the_declared_size() {
        let mut corners = std::collections::BTreeSet::new();
        for i in 0..200 {
            let (planes, mut x, baseline) = case();
            block(&mut x, &baseline, &planes, 0.16, &mut stream(i));
            let hidden: Vec<usize> = (0..50).filter(|j| x[*j] < 0.).collect();
            // 0.16 of a plane: 0.4 of each axis, 2 x 4.
            let (top, left) = (hidden[0] / 10, hidden[0] % 10);
            let expected: Vec<usize> = (0..2)
                .flat_map(|r| (0..4).map(move |c| (top + r) * 10 + left + c))
                .collect();
            assert_eq!(hidden, expected);
            assert!(
                (0..50).all(|j| (x[50 + j] < 0.) == (x[j] < 0.)),
                "the same in every plane"
            );
            assert!(
                (0..100).all(|j| x[j].abs() == (j + 1) as f64),
                "nothing but the baseline comes in"
            );
            corners.insert((top, left));
        }
        assert_eq!(corners.len(), 4 * 7, "every place is possible");
    }

    #[test]
    fn a_run_of_features_has_the_share_itself() {
        let mut x = [1.; 20];
        block(&mut x, &[0.; 20], &Planes::of(&[20]), 0.3, &mut stream(0));
        let hidden: Vec<usize> = (0..20).filter(|j| x[*j] == 0.).collect();
        assert_eq!(hidden.len(), 6);
        assert_eq!(hidden[5] - hidden[0], 5);
    }

    #[test]
    fn steps_are_lost_whole_and_as_many_as_declared() {
        let (planes, mut x, baseline) = case();
        steps(&mut x, &baseline, &planes, 0.3, &mut stream(1));
        let lost: Vec<bool> = x[..10].iter().map(|v| *v < 0.).collect();
        assert_eq!(lost.iter().filter(|l| **l).count(), 3);
        assert!(
            (0..100).all(|j| (x[j] < 0.) == lost[j % 10]),
            "in every row of every plane"
        );
    }

    #[test]
    fn a_shift_moves_every_row_and_shows_the_baseline_at_one_end() {
        let mut seen = [false; 2];
        for i in 0..20 {
            let mut x = [1., 2., 3., 4., 5., 6., 7., 8.];
            ends(
                &mut x,
                &[-1., -2., -3., -4., -5., -6., -7., -8.],
                &Planes::of(&[2, 4]),
                0.25,
                &mut stream(i),
            );
            let later = [-1., 1., 2., 3., -5., 5., 6., 7.];
            assert!(
                x == later || x == [2., 3., 4., -4., 6., 7., 8., -8.],
                "{x:?}"
            );
            seen[usize::from(x == later)] = true;
        }
        assert_eq!(seen, [true; 2], "both directions occur");
    }
}
