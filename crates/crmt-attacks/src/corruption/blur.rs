//! Blur: a Gaussian window along each axis of a plane. Knows neither noise nor loss.
use super::planes::Planes;

/// Replaces every value by a weighted mean of its neighbours in the plane; the weights are
/// Gaussian, with a standard deviation of `share` of the shorter axis that has steps, cut off
/// beyond three of them. Edges are repeated.
pub(super) fn blur(sample: &mut [f64], planes: &Planes, share: f64) {
    let (height, width) = (planes.height, planes.width);
    let shorter = [height, width]
        .into_iter()
        .filter(|n| *n > 1)
        .min()
        .unwrap_or(1);
    let weights = weights(share * shorter as f64);
    let mut line = vec![];
    for plane in sample.chunks_exact_mut(planes.values()) {
        (0..height).for_each(|row| smooth(plane, row * width, 1, width, &weights, &mut line));
        (0..width).for_each(|column| smooth(plane, column, width, height, &weights, &mut line));
    }
}

/// Weights of the neighbours at distance 1, 2, … on one side.
fn weights(sd: f64) -> Vec<f64> {
    let reach = (3. * sd).ceil().max(1.) as usize;
    let gauss = |d: usize| (-(d as f64 / sd).powi(2) / 2.).exp();
    let total = 1. + 2. * (1..=reach).map(gauss).sum::<f64>();
    (1..=reach).map(|d| gauss(d) / total).collect()
}

/// `y_i = x_i + Σ_d w_d (x_{i+d} + x_{i−d} − 2 x_i)`: the weighted mean, written so that equal
/// values stay exactly so.
fn smooth(
    plane: &mut [f64],
    start: usize,
    step: usize,
    count: usize,
    weights: &[f64],
    line: &mut Vec<f64>,
) {
    line.clear();
    line.extend((0..count).map(|i| plane[start + i * step]));
    for i in 0..count {
        let sides = |d: usize| line[(i + d).min(count - 1)] + line[i.saturating_sub(d)];
        let change = weights
            .iter()
            .enumerate()
            .map(|(d, w)| w * (sides(d + 1) - 2. * line[i]));
        plane[start + i * step] = line[i] + change.sum::<f64>();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_constant_stays_exactly_as_it_is() {
        let mut x = vec![0.3; 2 * 7 * 9];
        blur(&mut x, &Planes::of(&[2, 7, 9]), 0.09);
        assert!(x.iter().all(|v| *v == 0.3));
    }

    #[test]
    fn a_point_becomes_a_gaussian_of_the_same_mass() {
        let planes = Planes::of(&[1, 41, 51]);
        let mut x = vec![0.; 41 * 51];
        x[20 * 51 + 25] = 1.;
        // 0.05 of the shorter axis: a standard deviation of 2.05 steps.
        blur(&mut x, &planes, 0.05);
        let at = |row: usize, column: usize| x[row * 51 + column];
        // Rounding of 2091 terms below one.
        assert!((x.iter().sum::<f64>() - 1.).abs() < 1e-12);
        for d in 1..6 {
            let ratio = at(20, 25 + d) / at(20, 25);
            // Rounding of two exponentials.
            assert!(
                (ratio - (-(d as f64 / 2.05).powi(2) / 2.).exp()).abs() < 1e-12,
                "{ratio}"
            );
            assert_eq!(at(20, 25 + d), at(20, 25 - d));
            assert!(
                (at(20 + d, 25) - at(20, 25 + d)).abs() < 1e-15,
                "both axes alike, to rounding"
            );
        }
        assert_eq!(at(20, 33), 0., "beyond three standard deviations");
    }

    #[test]
    fn one_row_has_no_second_axis() {
        let mut x = vec![0., 0., 0., 3., 0., 0., 0.];
        blur(&mut x, &Planes::of(&[1, 7]), 0.09);
        assert!(x[3] < 3. && x[2] > 0.);
        // Rounding of seven terms.
        assert!((x.iter().sum::<f64>() - 3.).abs() < 1e-14);
    }
}
