//! The built-in audio-visual set: drawn digits and synthesised words, no download.
//! Does not know training; its knobs set how much each modality tells about the class.
use crate::logmel::{FRAMES, LogMel, MELS, centre};
use crate::{Array, Augment, DataSet, DataSetError, Manifest, ModalitySpec, Pairing, Samples, glyph, voice};
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
        Self { seed: 0, train: 6000, select: 1000, report: 1000, image_snr_db: 8., audio_snr_db: 8. }
    }
}

/// Generates the set: `image` 1x28x28 in `[0, 1]` and `audio`, a 1x32x32 [`LogMel`] spectrogram.
///
/// Sample `i` of a split has class `i mod 10`, so any prefix is balanced. It depends on the seed,
/// the split and `i` alone: a longer set begins with a shorter one. Image and sound of a sample
/// are drawn independently given its class.
///
/// # Errors
/// When a split has no samples or a signal-to-noise ratio is not a number.
pub fn synthetic(options: &SyntheticOptions) -> Result<DataSet, DataSetError> {
    let image = ModalitySpec::new("image", &[1, glyph::SIDE, glyph::SIDE]).with_range(0., 1.);
    let mut audio = ModalitySpec::new("audio", &[1, MELS, FRAMES]);
    audio.augment = Augment { shift_last_axis: 4 };
    let mut manifest = Manifest::new("synthetic", (0..10).map(|k| k.to_string()), vec![image, audio]);
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
    DataSet::new(manifest, train, select, report)
}

fn samples(options: &SyntheticOptions, mel: &LogMel, purpose: &str, count: usize) -> Samples {
    let streams = Streams::new(options.seed);
    let (mut images, mut sounds) = (vec![0f32; count * glyph::SIDE * glyph::SIDE], vec![0f32; count * MELS * FRAMES]);
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
            window.iter_mut().for_each(|x| *x += sd * rng.sample::<f64, _>(StandardNormal));
            sound.iter_mut().zip(mel.spectrogram(&window)).for_each(|(out, v)| *out = v as f32);
        });
    let labels = (0..count).map(|i| (i % 10) as u32).collect();
    let array = |shape: &[usize], data| Array::floats(shape, data).expect("allocated by the shape");
    let arrays = vec![array(&[1, glyph::SIDE, glyph::SIDE], images), array(&[1, MELS, FRAMES], sounds)];
    Samples { arrays, pairing: Pairing::Rows { labels } }
}

/// Standard deviation of noise that is `snr_db` below the signal's mean square.
pub(crate) fn noise_sd(signal: &[f64], snr_db: f64) -> f64 {
    let power = signal.iter().map(|x| x * x).sum::<f64>() / signal.len().max(1) as f64;
    (power / 10f64.powf(snr_db / 10.)).sqrt()
}
