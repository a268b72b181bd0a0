//! Common corruptions: what happens to a sensor's signal with nobody behind it, at five severities.
//! Does not know classifiers; what a corruption costs is measured by the caller.
mod blur;
mod lost;
mod planes;
mod values;

use crate::{Draws, Error, Result, domain};
use candle_core::{DType, Device, Tensor};
use crmt_core::Modality;
use planes::Planes;

/// A corruption of one modality, after the benchmark of Hendrycks & Dietterich (ICLR 2019), for
/// samples of any shape.
///
/// A sample is read as planes: `[values]` is one plane of one row, `[channels, time]` is a row for
/// each channel, `[channels, height, width]` a plane for each channel (of more axes all but the
/// last two are channels). *Time* is the last axis. No strength has units of the array, so that
/// images, spectrograms and features compare:
///
/// | name | what | strength at severity 1 … 5 | needs |
/// |---|---|---|---|
/// | `gaussian-noise` | `x + s z`, `z` standard normal | signal-to-noise ratio 10, 6, 3, 0, −3 dB: variance of the sample's own values over `s²` | 2 values |
/// | `blur` | Gaussian window along both axes of a plane, edges repeated | standard deviation 0.02, 0.03, 0.045, 0.065, 0.09 of the shorter axis that has steps | time |
/// | `occlusion` | a block (of `[values]`: a run) at a random place, the same in every plane, shows the baseline | 5, 10, 20, 30, 40 % of a plane | 2 values in a plane |
/// | `contrast` | `mean + c (x − mean)`, by plane | `c` = 0.75, 0.5, 0.35, 0.2, 0.1 | 2 values in a plane |
/// | `frame-drop` | random steps in time, in every plane, show the baseline | 10, 20, 30, 45, 60 % of the steps | time |
/// | `time-shift` | all steps move in time, forwards or backwards, the baseline moves in | 1/16, 1/8, 3/16, 1/4, 3/8 of the steps | time |
///
/// Shares are rounded to whole steps, at least one. *Time* means at least two axes, and two steps
/// on the last. A more severe corruption of a sample is the same draw, stronger: a larger block
/// around the smaller one, more steps beside those already lost. A sample of equal values has no
/// variance and stays as it is under noise.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Corruption {
    /// Additive, independent in every value.
    GaussianNoise,
    /// Fine structure is lost.
    Blur,
    /// One part is hidden.
    Occlusion,
    /// Differences become small.
    Contrast,
    /// Steps are lost.
    FrameDrop,
    /// The sensor is early or late (an image: beside the object).
    TimeShift,
}

/// How strong a corruption is, from 1 to 5.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Severity(u8);

impl Severity {
    /// From weak to strong.
    pub const ALL: [Self; 5] = [Self(1), Self(2), Self(3), Self(4), Self(5)];

    /// `None` unless `level` is 1 to 5.
    pub fn new(level: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|s| s.0 == level)
    }

    /// 1 to 5.
    pub fn level(self) -> u8 {
        self.0
    }

    fn of(self, strengths: [f64; 5]) -> f64 {
        strengths[usize::from(self.0) - 1]
    }
}

impl Corruption {
    /// Every corruption.
    pub const ALL: [Self; 6] = [
        Self::GaussianNoise,
        Self::Blur,
        Self::Occlusion,
        Self::Contrast,
        Self::FrameDrop,
        Self::TimeShift,
    ];

    /// As on the command line and in results.
    pub fn name(self) -> &'static str {
        match self {
            Self::GaussianNoise => "gaussian-noise",
            Self::Blur => "blur",
            Self::Occlusion => "occlusion",
            Self::Contrast => "contrast",
            Self::FrameDrop => "frame-drop",
            Self::TimeShift => "time-shift",
        }
    }

    /// The corruption called `name`.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|c| c.name() == name)
    }

    /// Whether it means anything for samples of `shape`.
    pub fn applies_to(self, shape: &[usize]) -> bool {
        let planes = Planes::of(shape);
        let enough = match self {
            Self::GaussianNoise => planes.count * planes.values() > 1,
            Self::Occlusion | Self::Contrast => planes.values() > 1,
            Self::Blur | Self::FrameDrop | Self::TimeShift => shape.len() > 1 && planes.width > 1,
        };
        enough && !shape.contains(&0)
    }

    /// `x`, `[batch, shape…]`, corrupted; values stay in the modality's domain. `baseline`: what
    /// the modality shows where it shows nothing, one sample. `draws`: one stream for each sample,
    /// from which every modality and corruption takes its own; results do not depend on the batch,
    /// nor on the other modalities.
    ///
    /// # Errors
    /// [`Error::NotApplicable`] unless [`applies_to`](Self::applies_to) the modality's shape;
    /// otherwise names the modality whose values, shape or baseline are wrong.
    pub fn apply(
        self,
        severity: Severity,
        x: &Tensor,
        modality: &Modality,
        baseline: &Tensor,
        draws: &Draws,
    ) -> Result<Tensor> {
        if !self.applies_to(&modality.shape) {
            let (modality, shape) = (modality.name.clone(), modality.shape.clone());
            return Err(Error::NotApplicable {
                corruption: self.name(),
                modality,
                shape,
            });
        }
        domain::check(x, modality)?;
        modality.check(&baseline.unsqueeze(0)?)?;
        let samples = x.dim(0)?;
        if let Some(got) = draws.len().filter(|n| *n != samples) {
            return Err(Error::Samples {
                what: "random streams",
                expected: samples,
                got,
            });
        }
        let planes = Planes::of(&modality.shape);
        let baseline = values_of(baseline)?;
        let mut all = values_of(x)?;
        let purpose = format!("{} of {}", self.name(), modality.name);
        for (i, sample) in all
            .chunks_exact_mut(planes.count * planes.values())
            .enumerate()
        {
            let mut rng = draws.stream(&purpose, i);
            match self {
                Self::GaussianNoise => {
                    values::noise(sample, severity.of([10., 6., 3., 0., -3.]), &mut rng)
                }
                Self::Blur => blur::blur(
                    sample,
                    &planes,
                    severity.of([0.02, 0.03, 0.045, 0.065, 0.09]),
                ),
                Self::Occlusion => {
                    lost::block(
                        sample,
                        &baseline,
                        &planes,
                        severity.of([0.05, 0.1, 0.2, 0.3, 0.4]),
                        &mut rng,
                    );
                }
                Self::Contrast => {
                    values::contrast(sample, &planes, severity.of([0.75, 0.5, 0.35, 0.2, 0.1]))
                }
                Self::FrameDrop => {
                    lost::steps(
                        sample,
                        &baseline,
                        &planes,
                        severity.of([0.1, 0.2, 0.3, 0.45, 0.6]),
                        &mut rng,
                    );
                }
                Self::TimeShift => {
                    let share = severity.of([1. / 16., 1. / 8., 3. / 16., 1. / 4., 3. / 8.]);
                    lost::ends(sample, &baseline, &planes, share, &mut rng);
                }
            }
        }
        let corrupted = Tensor::from_vec(all, x.shape(), &Device::Cpu)?
            .to_dtype(x.dtype())?
            .to_device(x.device())?;
        domain::clamp(&corrupted, modality)
    }
}

/// Drawn and computed on the host, in `f64`: the same on every device.
fn values_of(x: &Tensor) -> Result<Vec<f64>> {
    Ok(x.to_device(&Device::Cpu)?
        .to_dtype(DType::F64)?
        .flatten_all()?
        .to_vec1()?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crmt_core::{Domain, Streams};
    use rand::Rng;

    const SAMPLES: usize = 6;

    /// A modality, samples inside its domain and often on its boundary (a wave in time, and noise)
    /// and a baseline: a spectrogram, an image, a series, features.
    fn cases(dtype: DType) -> Vec<(Modality, Tensor, Tensor)> {
        let channels = Domain::Channels {
            lo: vec![-1., -0.5],
            hi: vec![1., 0.75],
        };
        let kinds = [
            (&[1, 12, 16][..], Domain::Unbounded),
            (&[2, 20, 20], channels),
            (&[2, 24], Domain::Unbounded),
            (&[40], Domain::Interval { lo: -0.8, hi: 0.8 }),
        ];
        let case = |(k, (shape, domain)): (usize, (&[usize], Domain))| {
            let modality = Modality::new(format!("m{k}"), shape, domain);
            let mut rng = Streams::new(1).stream("case", k as u64);
            let of: Vec<usize> = [&[SAMPLES], shape].concat();
            let width = of[of.len() - 1];
            let wave = |i: usize| (std::f64::consts::TAU * (i % width) as f64 / width as f64).sin();
            let values =
                (0..of.iter().product()).map(|i| 0.6 * wave(i) + rng.random_range(-0.4..0.4));
            let values: Vec<f64> = values.collect();
            let x = Tensor::from_vec(values, of, &Device::Cpu)?
                .clamp(-0.5, 0.7)?
                .to_dtype(dtype)?;
            Ok((
                modality,
                x,
                (Tensor::ones(shape, dtype, &Device::Cpu)? * 0.1)?,
            ))
        };
        kinds
            .into_iter()
            .enumerate()
            .map(case)
            .collect::<Result<_>>()
            .unwrap()
    }

    fn draws(seed: u64, first: u64) -> Draws {
        Draws::new(Streams::new(seed), first)
    }

    /// Every corruption with every case it applies to, and its results at all severities.
    fn all(dtype: DType, seed: u64) -> Vec<(Corruption, Modality, Tensor, Vec<Tensor>)> {
        let mut found = vec![];
        for (modality, x, baseline) in cases(dtype) {
            for corruption in Corruption::ALL
                .into_iter()
                .filter(|c| c.applies_to(&modality.shape))
            {
                let at = |s| {
                    corruption
                        .apply(s, &x, &modality, &baseline, &draws(seed, 3))
                        .unwrap()
                };
                found.push((
                    corruption,
                    modality.clone(),
                    x.clone(),
                    Severity::ALL.map(at).to_vec(),
                ));
            }
        }
        assert_eq!(
            found.len(),
            3 * 6 + 3,
            "features have no time: neither blur, nor frames, nor a shift"
        );
        found
    }

    #[test]
    fn values_stay_in_their_domain_and_shape() {
        for dtype in [DType::F32, DType::F64] {
            for (corruption, modality, x, results) in all(dtype, 0) {
                for y in results {
                    domain::check(&y, &modality).unwrap();
                    assert_eq!((y.shape(), y.dtype()), (x.shape(), dtype), "{corruption:?}");
                }
            }
        }
    }

    #[test]
    fn a_more_severe_corruption_is_further_away() {
        for (corruption, modality, x, results) in all(DType::F64, 0) {
            let distance = |y: &Tensor| (y - &x)?.abs()?.mean_all()?.to_scalar::<f64>();
            let distances: Vec<f64> = results.iter().map(|y| distance(y).unwrap()).collect();
            assert!(
                distances[0] > 0. && distances.windows(2).all(|d| d[0] <= d[1]),
                "{corruption:?}: {distances:?}"
            );
            assert!(
                distances[4] > 1.5 * distances[0],
                "{corruption:?} of {}: {distances:?}",
                modality.name
            );
        }
    }

    #[test]
    fn what_is_lost_stays_lost() {
        for (corruption, _, x, results) in all(DType::F64, 0) {
            if !matches!(corruption, Corruption::Occlusion | Corruption::FrameDrop) {
                continue;
            }
            let changed = |y: &Tensor| y.ne(&x)?.flatten_all()?.to_vec1::<u8>();
            let changed: Vec<Vec<u8>> = results.iter().map(|y| changed(y).unwrap()).collect();
            for pair in changed.windows(2) {
                assert!(
                    pair[0]
                        .iter()
                        .zip(&pair[1])
                        .all(|(weak, strong)| weak <= strong),
                    "{corruption:?}"
                );
            }
        }
    }

    #[test]
    fn one_seed_gives_one_result_whatever_the_batch() {
        let bits = |y: &Tensor| y.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        let first = all(DType::F32, 0);
        for ((corruption, modality, x, results), again) in first.iter().zip(all(DType::F32, 0)) {
            let baseline =
                (Tensor::ones(&*modality.shape, DType::F32, &Device::Cpu).unwrap() * 0.1).unwrap();
            for ((y, same), severity) in results.iter().zip(&again.3).zip(Severity::ALL) {
                assert_eq!(bits(y), bits(same), "{corruption:?}");
                let one = |i: usize| {
                    let ids = Draws::for_samples(Streams::new(0), vec![3 + i as u64]);
                    let x = x.narrow(0, i, 1).unwrap();
                    corruption
                        .apply(severity, &x, modality, &baseline, &ids)
                        .unwrap()
                };
                assert_eq!(
                    bits(&Tensor::cat(&(0..SAMPLES).map(one).collect::<Vec<_>>(), 0).unwrap()),
                    bits(y)
                );
            }
        }
        let other = all(DType::F32, 1);
        for ((corruption, .., a), (.., b)) in first.iter().zip(other) {
            let random = !matches!(corruption, Corruption::Blur | Corruption::Contrast);
            assert_eq!(bits(&a[4]) != bits(&b[4]), random, "{corruption:?}");
        }
    }

    #[test]
    fn what_does_not_apply_is_refused_by_name() {
        let shape = |c: Corruption| {
            [&[][..], &[1], &[2], &[7, 1], &[1, 1, 7], &[0, 7]].map(|s| c.applies_to(s))
        };
        assert_eq!(
            shape(Corruption::GaussianNoise),
            [false, false, true, true, true, false]
        );
        assert_eq!(
            shape(Corruption::Contrast),
            [false, false, true, false, true, false]
        );
        assert_eq!(
            shape(Corruption::Blur),
            [false, false, false, false, true, false]
        );
        let features = Modality::new("lidar", &[5], Domain::Unbounded);
        let x = Tensor::zeros((2, 5), DType::F32, &Device::Cpu).unwrap();
        let baseline = x.get(0).unwrap();
        let refused = |corruption: Corruption, baseline: &Tensor, draws: &Draws| {
            corruption
                .apply(Severity::ALL[0], &x, &features, baseline, draws)
                .unwrap_err()
                .to_string()
        };
        let message = refused(Corruption::FrameDrop, &baseline, &draws(0, 0));
        assert!(
            message.contains("`lidar`")
                && message.contains("frame-drop")
                && message.contains("[5]"),
            "{message}"
        );
        let message = refused(Corruption::Occlusion, &x, &draws(0, 0));
        assert!(
            message.contains("`lidar`") && message.contains("[2, 5]"),
            "{message}"
        );
        let message = refused(
            Corruption::Occlusion,
            &baseline,
            &Draws::for_samples(Streams::new(0), vec![1]),
        );
        assert!(message.contains("random streams"), "{message}");
        assert!(
            Severity::new(0).is_none()
                && Severity::new(6).is_none()
                && Severity::new(5) == Some(Severity::ALL[4])
        );
        assert!(
            Corruption::ALL
                .into_iter()
                .all(|c| Corruption::from_name(c.name()) == Some(c))
        );
    }
}
