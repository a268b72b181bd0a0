//! Waveform to log-mel spectrogram, by one fixed formula.
//! Does not know recordings, classes or files; no statistic is fitted to data.
use realfft::{RealFftPlanner, RealToComplex, num_complex::Complex};
use std::sync::Arc;

/// Samples per second that the filters assume.
pub const SAMPLE_RATE: u32 = 8000;
/// Samples that a waveform is centred in.
pub const WINDOW: usize = 8192;
/// Frequency bands: rows of the spectrogram.
pub const MELS: usize = 32;
/// Time steps: columns of the spectrogram.
pub const FRAMES: usize = 32;
const FFT: usize = 512;
const HOP: usize = 256;
const PAD: usize = 128;
const LOWEST_HZ: f64 = 60.;
const HIGHEST_HZ: f64 = 4000.;
const FLOOR: f64 = 1e-4;

/// The transform `x = 1 + log10(P + 1e-4) / 4`, where `P` is mel-weighted spectral power.
///
/// The waveform (values in `-1..=1`, 8 kHz) is centred in 8192 samples and padded with 128 zeros
/// on each side. 32 frames of 512 samples, 256 apart, are multiplied by the periodic Hann window
/// `0.5 - 0.5 cos(2 pi n / 512)`; `|rfft|^2` without division is summed by 32 triangular filters
/// of peak 1 and no area normalisation, whose 34 corners are equally spaced on the HTK mel scale
/// `2595 log10(1 + f / 700)` over 60..4000 Hz. Silence is exactly 0. Computed in `f64`.
pub struct LogMel {
    fft: Arc<dyn RealToComplex<f64>>,
    hann: Vec<f64>,
    filters: Vec<Filter>,
}

/// Non-zero part of one triangle.
struct Filter {
    first_bin: usize,
    weights: Vec<f64>,
}

impl LogMel {
    /// Tables for the transform.
    pub fn new() -> Self {
        let mel = |hz: f64| 2595. * (1. + hz / 700.).log10();
        let hz = |mel: f64| 700. * (10f64.powf(mel / 2595.) - 1.);
        let (lo, hi) = (mel(LOWEST_HZ), mel(HIGHEST_HZ));
        let corner = |i: usize| hz(lo + (hi - lo) * i as f64 / (MELS + 1) as f64);
        let filter = |i: usize| {
            let (left, peak, right) = (corner(i), corner(i + 1), corner(i + 2));
            let weight = |bin: usize| {
                let f = bin as f64 * f64::from(SAMPLE_RATE) / FFT as f64;
                ((f - left) / (peak - left))
                    .min((right - f) / (right - peak))
                    .max(0.)
            };
            let bins: Vec<_> = (0..=FFT / 2).filter(|bin| weight(*bin) > 0.).collect();
            Filter {
                first_bin: bins.first().copied().unwrap_or(0),
                weights: bins.into_iter().map(weight).collect(),
            }
        };
        let hann = |n: usize| 0.5 - 0.5 * (std::f64::consts::TAU * n as f64 / FFT as f64).cos();
        Self {
            fft: RealFftPlanner::new().plan_fft_forward(FFT),
            hann: (0..FFT).map(hann).collect(),
            filters: (0..MELS).map(filter).collect(),
        }
    }

    /// `[MELS, FRAMES]`, row-major, of a waveform of any length.
    pub fn spectrogram(&self, waveform: &[f64]) -> Vec<f64> {
        let mut padded = [0.; PAD + WINDOW + PAD];
        padded[PAD..PAD + WINDOW].copy_from_slice(&centre(waveform));
        let mut frame = vec![0.; FFT];
        let mut spectrum = vec![Complex::default(); FFT / 2 + 1];
        let mut scratch = self.fft.make_scratch_vec();
        let mut out = vec![0.; MELS * FRAMES];
        for t in 0..FRAMES {
            let samples = &padded[t * HOP..t * HOP + FFT];
            frame
                .iter_mut()
                .zip(samples)
                .zip(&self.hann)
                .for_each(|((f, x), w)| *f = x * w);
            self.fft
                .process_with_scratch(&mut frame, &mut spectrum, &mut scratch)
                .expect("buffers have the lengths that the transform was made for");
            for (m, filter) in self.filters.iter().enumerate() {
                let bins = &spectrum[filter.first_bin..];
                let power: f64 = bins
                    .iter()
                    .zip(&filter.weights)
                    .map(|(c, w)| c.norm_sqr() * w)
                    .sum();
                out[m * FRAMES + t] = 1. + (power + FLOOR).log10() / 4.;
            }
        }
        out
    }
}

impl Default for LogMel {
    fn default() -> Self {
        Self::new()
    }
}

/// Centres a waveform in [`WINDOW`] samples: of a longer one, `floor(excess / 2)` samples are
/// dropped at the start; before a shorter one come `floor(missing / 2)` zeros.
pub fn centre(waveform: &[f64]) -> Vec<f64> {
    let mut out = vec![0.; WINDOW];
    if waveform.len() > WINDOW {
        let start = (waveform.len() - WINDOW) / 2;
        out.copy_from_slice(&waveform[start..start + WINDOW]);
    } else {
        let start = (WINDOW - waveform.len()) / 2;
        out[start..start + waveform.len()].copy_from_slice(waveform);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn silence_is_exactly_zero() {
        assert!(LogMel::new().spectrogram(&[]).iter().all(|v| *v == 0.));
    }

    #[test]
    fn centring_cuts_and_pads_as_documented() {
        let long: Vec<_> = (0..WINDOW + 5).map(|i| i as f64).collect();
        assert_eq!(centre(&long)[0], 2.);
        let short = centre(&[1., 2., 3.]);
        let start = (WINDOW - 3) / 2;
        assert_eq!(short[start - 1..start + 4], [0., 1., 2., 3., 0.]);
    }

    #[test]
    fn values_agree_with_numpy() {
        // Computed with numpy from the formula above by a dense DFT matrix and interpolated
        // triangles, for a waveform that integers define exactly.
        let wave: Vec<_> = (0..5000i64)
            .map(|n| ((n * n * 7919) % 65536 - 32768) as f64 / 32768. * 0.3)
            .collect();
        let x = LogMel::new().spectrogram(&wave);
        for (mel, frame, expected) in [
            (0, 0, 0.0),
            (0, 7, 1.3407699671327906),
            (5, 12, 1.3189772673475733),
            (16, 16, 1.3066998865691943),
            (31, 20, 1.4476638535939317),
            (31, 31, 0.0),
            (9, 25, 1.3595355098102104),
        ] {
            let got = x[mel * FRAMES + frame];
            // Rounding of two different transforms in f64, far from the floor.
            assert!(
                (got - expected).abs() < 1e-10,
                "({mel}, {frame}): {got}, numpy {expected}"
            );
        }
        // 1024 values, each within 1e-10.
        assert!((x.iter().sum::<f64>() - 931.5672781317822).abs() < 1e-7);
    }
}
