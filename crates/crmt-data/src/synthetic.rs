//! The built-in audio-visual set: drawn digits and synthesised words, no download.
//! Does not know training; its knobs set how much each modality tells about the class.
use crate::logmel::{FRAMES, LogMel, MELS, centre};
use crate::{
    Array, Augment, DataSet, DataSetError, Manifest, ModalitySpec, Pairing, Samples, glyph, voice,
};
use crmt_core::Streams;
use rand::Rng;
use rand_distr::StandardNormal;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

/// What to generate.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SyntheticOptions {
    /// Of all randomness; the set is a function of these options alone.
    pub seed: u64,
    /// Samples in the training split, at least one.
    pub train: usize,
    /// Samples in the selection split, at least one.
    pub select: usize,
    /// Samples in the report split, at least one.
    pub report: usize,
    /// Signal-to-noise ratio of the images in dB: the drawn image's mean square against the
    /// variance of white Gaussian noise, before clamping to `[0, 1]`. Infinite: no noise.
    pub image_snr_db: f64,
    /// Signal-to-noise ratio of the sound in dB: mean square of the word's own samples against
    /// the variance of white Gaussian noise over the whole window. Infinite: no noise.
    pub audio_snr_db: f64,
}

impl Default for SyntheticOptions {
    fn default() -> Self {
        Self {
            seed: 0,
            train: 6000,
            select: 1000,
            report: 1000,
            image_snr_db: 8.,
            audio_snr_db: 8.,
        }
    }
}

/// Options that can't be.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum SyntheticError {
    /// A value that can't be.
    #[error("{key}: expected {expected}, got {got}")]
    Option {
        /// Which option.
        key: &'static str,
        /// What it must be.
        expected: &'static str,
        /// What it is.
        got: String,
    },
    /// The arrays do not make a data set.
    #[error(transparent)]
    DataSet(#[from] DataSetError),
}

/// Generates the set: `image` 1x28x28 in `[0, 1]` and `audio`, a 1x32x32 [`LogMel`] spectrogram.
///
/// Sample `i` of a split has class `i mod 10`, so any prefix is balanced. It depends on the seed,
/// the split and `i` alone: a longer set begins with a shorter one. Image and sound of a sample
/// are drawn independently given its class.
///
/// # Errors
/// When a split has no samples or a signal-to-noise ratio is not a number of dB.
pub fn synthetic(options: &SyntheticOptions) -> Result<DataSet, SyntheticError> {
    for (key, count) in [
        ("train", options.train),
        ("select", options.select),
        ("report", options.report),
    ] {
        if count == 0 {
            return Err(SyntheticError::Option {
                key,
                expected: "at least one sample",
                got: "0".into(),
            });
        }
    }
    for (key, snr) in [
        ("image_snr_db", options.image_snr_db),
        ("audio_snr_db", options.audio_snr_db),
    ] {
        // Beyond this, the power ratio leaves the range of a 64-bit float.
        if snr.is_nan() || snr < -300. {
            let expected = "decibels, at least -300 (inf: no noise)";
            return Err(SyntheticError::Option {
                key,
                expected,
                got: snr.to_string(),
            });
        }
    }
    let image = ModalitySpec::new("image", &[1, glyph::SIDE, glyph::SIDE]).with_range(0., 1.);
    let mut audio = ModalitySpec::new("audio", &[1, MELS, FRAMES]);
    audio.augment = Augment { shift_last_axis: 4 };
    let mut manifest = Manifest::new(
        "synthetic",
        (0..10).map(|k| k.to_string()),
        vec![image, audio],
    );
    manifest.notes = vec![
        format!(
            "synthesised: seed {}, SNR image {} dB, audio {} dB",
            options.seed, options.image_snr_db, options.audio_snr_db
        ),
        "image and audio of a sample are independent given its class".into(),
    ];
    let mel = LogMel::new();
    let split = |purpose, count| samples(options, &mel, purpose, count);
    let (train, select, report) = (
        split("synthetic.train", options.train),
        split("synthetic.select", options.select),
        split("synthetic.report", options.report),
    );
    Ok(DataSet::new(manifest, train, select, report)?)
}

fn samples(options: &SyntheticOptions, mel: &LogMel, purpose: &str, count: usize) -> Samples {
    let streams = Streams::new(options.seed);
    let (mut images, mut sounds) = (
        vec![0f32; count * glyph::SIDE * glyph::SIDE],
        vec![0f32; count * MELS * FRAMES],
    );
    images
        .par_chunks_exact_mut(glyph::SIDE * glyph::SIDE)
        .zip(sounds.par_chunks_exact_mut(MELS * FRAMES))
        .enumerate()
        .for_each(|(i, (image, sound))| {
            // One stream per sample: any number of threads draws the same.
            let mut rng = streams.stream(purpose, i as u64);
            let drawn = glyph::draw(i % 10, &mut rng);
            let sd = noise_sd(&drawn, options.image_snr_db);
            for (out, ink) in image.iter_mut().zip(drawn) {
                *out = (ink + sd * rng.sample::<f64, _>(StandardNormal)).clamp(0., 1.) as f32;
            }
            let word = voice::speak(i % 10, &mut rng);
            let sd = noise_sd(&word, options.audio_snr_db);
            let mut window = centre(&word);
            window
                .iter_mut()
                .for_each(|x| *x += sd * rng.sample::<f64, _>(StandardNormal));
            sound
                .iter_mut()
                .zip(mel.spectrogram(&window))
                .for_each(|(out, v)| *out = v as f32);
        });
    let labels = (0..count).map(|i| (i % 10) as u32).collect();
    let array = |shape: &[usize], data| Array::floats(shape, data).expect("allocated by the shape");
    let arrays = vec![
        array(&[1, glyph::SIDE, glyph::SIDE], images),
        array(&[1, MELS, FRAMES], sounds),
    ];
    Samples {
        arrays,
        pairing: Pairing::Rows { labels },
    }
}

/// Standard deviation of noise that is `snr_db` below the signal's mean square.
pub(crate) fn noise_sd(signal: &[f64], snr_db: f64) -> f64 {
    let power = signal.iter().map(|x| x * x).sum::<f64>() / signal.len().max(1) as f64;
    (power / 10f64.powf(snr_db / 10.)).sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn small(change: impl Fn(&mut SyntheticOptions)) -> DataSet {
        let mut options = SyntheticOptions {
            train: 40,
            select: 20,
            report: 10,
            ..SyntheticOptions::default()
        };
        change(&mut options);
        synthetic(&options).expect("valid options")
    }

    #[test]
    fn one_seed_gives_one_set_with_any_number_of_threads() {
        let set = small(|_| ());
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(1)
            .build()
            .expect("one thread");
        let again = pool.install(|| small(|_| ()));
        assert_eq!(
            (&set.train, &set.select, &set.report),
            (&again.train, &again.select, &again.report)
        );
        assert_ne!(set.train, small(|o| o.seed = 1).train);
        // A longer set begins with the shorter one; splits do not repeat each other.
        let longer = small(|o| o.train = 60);
        for m in 0..2 {
            assert_eq!(
                longer.train.arrays()[m].to_vec(0..40),
                set.train.arrays()[m].to_vec(0..40)
            );
            assert_ne!(
                set.select.arrays()[m].to_vec(0..10),
                set.report.arrays()[m].to_vec(0..10)
            );
        }
        assert_eq!(
            set.train.labels()[..12],
            [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 0, 1]
        );
    }

    #[test]
    fn noise_has_the_power_that_was_asked_for() {
        // The drawn image and word do not depend on the noise level: the streams are consumed
        // alike.
        let (clean, noisy) = (
            small(|o| o.image_snr_db = f64::INFINITY),
            small(|o| o.image_snr_db = 20.),
        );
        let (clean, noisy) = (&clean.train.arrays()[0], &noisy.train.arrays()[0]);
        let (mut signal, mut noise) = (0f64, 0f64);
        for i in 0..40 {
            for (c, n) in clean
                .to_vec(i..i + 1)
                .into_iter()
                .zip(noisy.to_vec(i..i + 1))
            {
                signal += f64::from(c * c);
                // Where the ink is between, clamping does nothing.
                let between = (0.3..0.7).contains(&c);
                noise += if between {
                    f64::from((n - c) * (n - c))
                } else {
                    0.
                };
            }
        }
        let between = clean
            .to_vec(0..40)
            .iter()
            .filter(|c| (0.3..0.7).contains(*c))
            .count();
        let ratio = 10. * ((signal / (40. * 784.)) / (noise / between as f64)).log10();
        // Over 1000 noise values: the variance is known to about 5 %, plus the spread of the
        // images' power, together well below 1 dB.
        assert!(
            between > 1000 && (ratio - 20.).abs() < 1.,
            "{ratio} dB from {between} pixels"
        );
    }

    #[test]
    fn every_class_differs_from_every_other() {
        // Mean image and mean spectrogram of each class, without noise, are further apart than two
        // halves of one class are: the class is in both modalities.
        let set = small(|o| {
            o.train = 2000;
            (o.image_snr_db, o.audio_snr_db) = (f64::INFINITY, f64::INFINITY);
        });
        for array in set.train.arrays() {
            let mean = |class: usize, half: usize| {
                let rows: Vec<_> = (0..2000)
                    .filter(|i| i % 10 == class && i / 10 % 2 == half)
                    .collect();
                let mut values = vec![];
                array.copy_rows(rows.iter().copied(), &mut values);
                let mut mean = vec![0f64; array.row_len()];
                values.chunks(array.row_len()).for_each(|row| {
                    mean.iter_mut()
                        .zip(row)
                        .for_each(|(m, v)| *m += f64::from(*v) / rows.len() as f64);
                });
                mean
            };
            let distance = |a: &[f64], b: &[f64]| {
                a.iter()
                    .zip(b)
                    .map(|(a, b)| (a - b).powi(2))
                    .sum::<f64>()
                    .sqrt()
            };
            for a in 0..10 {
                let within = distance(&mean(a, 0), &mean(a, 1));
                for b in (0..10).filter(|b| *b != a) {
                    let between = distance(&mean(a, 0), &mean(b, 1));
                    assert!(
                        between > 1.2 * within,
                        "classes {a} and {b}: {between} against {within}"
                    );
                }
            }
        }
    }

    #[test]
    fn impossible_options_are_named() {
        let message = |o: SyntheticOptions| synthetic(&o).expect_err("refused").to_string();
        let default = SyntheticOptions::default();
        assert_eq!(
            message(SyntheticOptions {
                select: 0,
                ..default
            }),
            "select: expected at least one sample, got 0"
        );
        assert_eq!(
            message(SyntheticOptions {
                audio_snr_db: f64::NAN,
                ..default
            }),
            "audio_snr_db: expected decibels, at least -300 (inf: no noise), got NaN"
        );
    }
}
