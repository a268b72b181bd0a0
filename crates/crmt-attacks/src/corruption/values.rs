//! Corruptions of values where they stand: noise and contrast. Does not know places or time.
use super::planes::Planes;
use rand::Rng;
use rand_distr::StandardNormal;

/// Adds independent Gaussian noise whose variance is `snr_db` below that of the sample's values.
pub(super) fn noise(sample: &mut [f64], snr_db: f64, rng: &mut impl Rng) {
    let mean = mean(sample);
    let variance = sample.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / sample.len() as f64;
    let sd = (variance / 10f64.powf(snr_db / 10.)).sqrt();
    sample
        .iter_mut()
        .for_each(|v| *v += sd * rng.sample::<f64, _>(StandardNormal));
}

/// Draws the values of each plane towards their mean, to the share `kept` of their distance.
pub(super) fn contrast(sample: &mut [f64], planes: &Planes, kept: f64) {
    for plane in sample.chunks_exact_mut(planes.values()) {
        let mean = mean(plane);
        plane
            .iter_mut()
            .for_each(|v| *v = mean + kept * (*v - mean));
    }
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crmt_core::Streams;

    #[test]
    fn noise_has_the_level_asked_for() {
        let clean: Vec<f64> = (0..20_000)
            .map(|i| if i % 2 == 0 { 1. } else { 5. })
            .collect();
        for (snr_db, sd) in [(0., 2.), (20., 0.2)] {
            let mut noisy = clean.clone();
            noise(&mut noisy, snr_db, &mut Streams::new(0).stream("noise", 0));
            let power = noisy
                .iter()
                .zip(&clean)
                .map(|(y, x)| (y - x).powi(2))
                .sum::<f64>()
                / 20_000.;
            // The variance of 20000 draws has a standard error of 1 %; four of them.
            assert!(
                (power / (sd * sd) - 1.).abs() < 0.04,
                "{snr_db} dB: {power}"
            );
        }
        let mut constant = vec![3.; 9];
        noise(&mut constant, -3., &mut Streams::new(0).stream("noise", 0));
        assert_eq!(constant, [3.; 9]);
    }

    #[test]
    fn contrast_keeps_the_mean_of_every_plane() {
        let mut x = [0., 2., 10., 30.];
        contrast(&mut x, &Planes::of(&[2, 1, 2]), 0.5);
        assert_eq!(x, [0.5, 1.5, 15., 25.]);
    }
}
