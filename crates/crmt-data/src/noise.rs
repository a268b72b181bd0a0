//! Environmental noise: ESC-10 clips, one fixed segment for each recording, mixed in at a set
//! level. Does not know what is recorded, nor spectrograms.
use crate::Purpose;
use crate::decode_wav;
use crate::logmel::WINDOW;
use crate::prepare::{Check, PrepareError, source};
use crate::source_files::{recordings, verify};
use crmt_core::Streams;
use rand::Rng;
use std::path::{Path, PathBuf};

/// Environmental noise, fixed once for each recording.
#[derive(Debug, Clone)]
pub struct NoiseOptions {
    /// ESC-10 clips as mono 16-bit wav at 8 kHz, named `{category}_{fold}-….wav`.
    pub clips: PathBuf,
    /// Mean square of the recording's own samples over that of the noise in the window, in dB.
    pub snr_db: f64,
    /// Of the choice of clips and segments.
    pub seed: u64,
}

impl NoiseOptions {
    pub(crate) fn check(&self) -> Result<(), PrepareError> {
        if self.snr_db.is_finite() {
            return Ok(());
        }
        let problem = format!(
            "the noise level must be a finite number of dB, got {}",
            self.snr_db
        );
        Err(PrepareError::Options(problem))
    }
}

/// The same noise at five levels.
#[derive(Debug, Clone)]
pub struct EnvironmentOptions {
    /// As in [`NoiseOptions::clips`].
    pub clips: PathBuf,
    /// Of the choice of clips and segments.
    pub seed: u64,
}

impl EnvironmentOptions {
    /// Signal-to-noise ratio at severity 1 to 5, in dB.
    pub const SNRS_DB: [f64; 5] = [20., 10., 5., 0., -5.];
}

/// Clips of each split, so that no noise is heard in two splits.
pub(crate) struct Clips<'a> {
    path: &'a Path,
    streams: Streams,
    splits: [Vec<Vec<f64>>; 3],
}

/// A segment quieter than this (mean square, -80 dB of full scale) is digital silence.
const SILENCE: f64 = 1e-8;

impl<'a> Clips<'a> {
    pub(crate) fn read(path: &'a Path, seed: u64, unverified: bool) -> Result<Self, PrepareError> {
        let files = recordings(path)?;
        let mut splits = [vec![], vec![], vec![]];
        for file in &files {
            let problem = |problem: String| PrepareError::Recording {
                path: path.join(&file.name),
                problem,
            };
            let fold = file
                .name
                .split_once('_')
                .and_then(|(_, rest)| rest.split_once('-'))
                .map(|(fold, _)| fold);
            let purpose = match fold {
                Some("1" | "2" | "3") => Purpose::Train,
                Some("4") => Purpose::Select,
                Some("5") => Purpose::Report,
                _ => {
                    return Err(problem(
                        "expected a name like 001_1-100032-A.wav (category, fold 1 to 5)".into(),
                    ));
                }
            };
            let wave = decode_wav(&file.bytes).map_err(problem)?;
            if wave.len() < WINDOW {
                return Err(problem(format!(
                    "{} samples, expected at least {WINDOW}",
                    wave.len()
                )));
            }
            splits[purpose as usize].push(wave);
        }
        let check = Check {
            set: "esc10",
            what: "SHA-256 of the recordings",
            unverified,
        };
        verify(
            path,
            &files,
            &source("esc10")
                .recordings
                .expect("declared in the embedded manifest"),
            check,
        )?;
        if splits.iter().any(Vec::is_empty) {
            let problem =
                "clips of folds 1-3, 4 and 5 are needed, one of these groups is empty".into();
            return Err(PrepareError::Content {
                path: path.into(),
                problem,
            });
        }
        Ok(Self {
            path,
            streams: Streams::new(seed),
            splits,
        })
    }

    /// A random segment of a random clip of one split, the same whenever `what` and the recording's
    /// number are.
    pub(crate) fn segment(
        &self,
        what: &str,
        purpose: Purpose,
        recording: u64,
    ) -> Result<&[f64], PrepareError> {
        let clips = &self.splits[purpose as usize];
        let mut rng = self.streams.stream(what, recording);
        // Some clips are padded with silence, which no factor makes loud; most draws are fine.
        let segment = (0..1000).find_map(|_| {
            let clip = &clips[rng.random_range(0..clips.len())];
            let start = rng.random_range(0..=clip.len() - WINDOW);
            Some(&clip[start..start + WINDOW]).filter(|s| power(s) > SILENCE)
        });
        segment.ok_or_else(|| {
            let problem = "1000 random segments were silent".into();
            PrepareError::Content {
                path: self.path.into(),
                problem,
            }
        })
    }
}

/// Adds `noise` to `window`, scaled to the standard deviation `sd`, without clipping.
pub(crate) fn mix(window: &mut [f64], noise: &[f64], sd: f64) {
    let gain = sd / power(noise).sqrt();
    window
        .iter_mut()
        .zip(noise)
        .for_each(|(x, n)| *x += gain * n);
}

fn power(x: &[f64]) -> f64 {
    x.iter().map(|v| v * v).sum::<f64>() / x.len() as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::synthetic::noise_sd;

    #[test]
    fn what_is_mixed_in_has_the_level_asked_for() {
        let signal: Vec<f64> = (0..500).map(|i| f64::from(i).sin()).collect();
        let noise: Vec<f64> = (0..500).map(|i| 7. * (0.37 * f64::from(i)).cos()).collect();
        for snr_db in EnvironmentOptions::SNRS_DB {
            let mut mixed = signal.clone();
            mix(&mut mixed, &noise, noise_sd(&signal, snr_db));
            let added: Vec<f64> = mixed.iter().zip(&signal).map(|(y, x)| y - x).collect();
            // Rounding of sums of 500 terms.
            assert!(
                (10. * (power(&signal) / power(&added)).log10() - snr_db).abs() < 1e-9,
                "{snr_db}"
            );
        }
    }
}
