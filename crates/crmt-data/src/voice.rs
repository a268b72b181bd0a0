//! Synthesised words: a pulse or noise source through three moving resonances.
//! Does not know spectrograms, noise levels or images; the words are schematic, nobody spoke them.
use crate::logmel::SAMPLE_RATE;
use rand::Rng;
use rand_distr::StandardNormal;
use std::f64::consts::TAU;

/// A stretch of sound: what excites it, how long it lasts (relative), formants in Hz, loudness.
struct Phone(Source, f64, [f64; 3], f64);

#[derive(Clone, Copy, PartialEq)]
enum Source {
    Voice,
    Breath,
    Silence,
}
use Source::{Breath, Silence, Voice};

/// Ten words after the English digits, with textbook vowel formants.
#[rustfmt::skip]
const WORDS: [&[Phone]; 10] = [
    &[Phone(Breath, 0.6, [300., 2600., 3400.], 0.15), Phone(Voice, 1.0, [350., 2100., 2800.], 1.), Phone(Voice, 0.7, [400., 1300., 1700.], 1.), Phone(Voice, 1.3, [480., 900., 2400.], 1.)],
    &[Phone(Voice, 0.6, [310., 650., 2200.], 0.9), Phone(Voice, 1.4, [640., 1200., 2400.], 1.), Phone(Voice, 1.0, [280., 1600., 2500.], 0.5)],
    &[Phone(Breath, 0.3, [400., 1800., 3300.], 0.7), Phone(Voice, 2.0, [310., 900., 2250.], 1.)],
    &[Phone(Breath, 0.5, [500., 1500., 2900.], 0.25), Phone(Voice, 0.6, [400., 1300., 1650.], 0.9), Phone(Voice, 2.0, [280., 2250., 2950.], 1.)],
    &[Phone(Breath, 0.6, [500., 1300., 2700.], 0.25), Phone(Voice, 1.6, [580., 880., 2450.], 1.), Phone(Voice, 0.7, [430., 1300., 1700.], 0.8)],
    &[Phone(Breath, 0.6, [500., 1300., 2700.], 0.25), Phone(Voice, 1.2, [720., 1250., 2500.], 1.), Phone(Voice, 0.8, [350., 2050., 2650.], 1.), Phone(Breath, 0.4, [400., 1400., 2600.], 0.2)],
    &[Phone(Breath, 1.0, [900., 2700., 3600.], 0.12), Phone(Voice, 0.8, [400., 1950., 2550.], 1.), Phone(Silence, 0.4, [400., 1900., 2500.], 0.), Phone(Breath, 1.0, [900., 2700., 3600.], 0.12)],
    &[Phone(Breath, 0.9, [900., 2700., 3600.], 0.12), Phone(Voice, 0.9, [540., 1800., 2500.], 1.), Phone(Voice, 0.4, [350., 1300., 2400.], 0.6), Phone(Voice, 0.7, [500., 1450., 2450.], 0.9), Phone(Voice, 0.6, [280., 1600., 2500.], 0.5)],
    &[Phone(Voice, 1.2, [480., 1900., 2550.], 1.), Phone(Voice, 0.8, [350., 2150., 2750.], 1.), Phone(Silence, 0.5, [350., 2000., 2800.], 0.), Phone(Breath, 0.3, [400., 1800., 3300.], 0.6)],
    &[Phone(Voice, 0.7, [280., 1600., 2500.], 0.5), Phone(Voice, 1.2, [720., 1250., 2500.], 1.), Phone(Voice, 0.7, [350., 2050., 2650.], 1.), Phone(Voice, 0.8, [280., 1600., 2500.], 0.5)],
];

/// Bandwidths of the three resonances, Hz.
const BANDWIDTHS: [f64; 3] = [90., 120., 180.];
/// Samples between updates of the resonances.
const STEP: usize = 32;

/// Speaks `word` in a random voice: 0.3 to 0.8 s of samples in about `-1..=1` at [`SAMPLE_RATE`].
pub(crate) fn speak(word: usize, rng: &mut impl Rng) -> Vec<f64> {
    let rate = f64::from(SAMPLE_RATE);
    let mut normal = |sd: f64| sd * rng.sample::<f64, _>(StandardNormal);
    // The voice: length of the vocal tract, accent, pitch and its slope.
    let tract = normal(0.11).exp();
    let accent = [0; 3].map(|_| normal(0.06).exp());
    let pitch = 140. * normal(0.3).exp();
    let slope = normal(0.2);
    let phones: Vec<(Source, f64, [f64; 3], f64)> = WORDS[word]
        .iter()
        .map(|Phone(source, length, formants, level)| {
            let mut f = *formants;
            f.iter_mut()
                .zip(accent)
                .for_each(|(f, a)| *f *= tract * a * normal(0.08).exp());
            (
                *source,
                length * normal(0.3).exp(),
                f,
                level * normal(0.3).exp(),
            )
        })
        .collect();
    let loudness = 0.3 * normal(0.4).exp();
    let total: f64 = phones.iter().map(|p| p.1).sum();
    let samples = (rng.random_range(0.3..0.8) * rate) as usize;

    let mut resonators = [Resonator::default(); 3];
    let (mut phase, mut previous) = (0f64, 0f64);
    let mut wave = Vec::with_capacity(samples);
    let mut now = blend(&phones, 0.);
    for n in 0..samples {
        let t = n as f64 / samples as f64;
        if n % STEP == 0 {
            now = blend(&phones, t * total);
            for ((r, f), bandwidth) in resonators.iter_mut().zip(now.formants).zip(BANDWIDTHS) {
                r.tune(f.min(0.47 * rate), bandwidth, rate);
            }
        }
        phase += pitch * (1. + slope * (t - 0.5)) / rate;
        // A glottal pulse: an impulse each period, smoothed by a one-pole low-pass (-6 dB/octave).
        let pulse = if phase >= 1. { 1. } else { 0. };
        phase -= phase.floor();
        previous = 0.9 * previous + pulse;
        let breath: f64 = rng.sample(StandardNormal);
        let excitation = now.voice * (previous - 0.3) + now.breath * 0.2 * breath;
        let sound = resonators.iter_mut().fold(excitation, |x, r| r.filter(x));
        // 10 ms in and out, so that the ends do not click.
        let edge = (n.min(samples - n) as f64 / (0.01 * rate)).min(1.);
        wave.push(edge * sound);
    }
    let peak = wave.iter().fold(1e-9, |m: f64, x| m.max(x.abs()));
    wave.iter_mut().for_each(|x| *x *= loudness / peak);
    wave
}

/// Excitation and formants at one moment.
struct Moment {
    voice: f64,
    breath: f64,
    formants: [f64; 3],
}

/// Moves linearly from the middle of one phone to the middle of the next.
fn blend(phones: &[(Source, f64, [f64; 3], f64)], at: f64) -> Moment {
    let mut start = 0.;
    let middles: Vec<f64> = phones
        .iter()
        .map(|p| {
            start += p.1;
            start - p.1 / 2.
        })
        .collect();
    let next = middles
        .iter()
        .position(|m| *m > at)
        .unwrap_or(phones.len() - 1);
    let last = next.saturating_sub(1);
    let share = ((at - middles[last]) / (middles[next] - middles[last]).max(1e-9)).clamp(0., 1.);
    let mix = |a: f64, b: f64| a + (b - a) * share;
    let level = |i: usize, source: Source| {
        if phones[i].0 == source {
            phones[i].3
        } else {
            0.
        }
    };
    Moment {
        voice: mix(level(last, Voice), level(next, Voice)),
        breath: mix(level(last, Breath), level(next, Breath)),
        formants: [0, 1, 2].map(|f| mix(phones[last].2[f], phones[next].2[f])),
    }
}

/// A two-pole resonance with gain 1 at 0 Hz (Klatt, 1980).
#[derive(Clone, Copy, Default)]
struct Resonator {
    a: f64,
    b: f64,
    c: f64,
    y: [f64; 2],
}

impl Resonator {
    fn tune(&mut self, frequency: f64, bandwidth: f64, rate: f64) {
        let radius = (-TAU / 2. * bandwidth / rate).exp();
        self.c = -radius * radius;
        self.b = 2. * radius * (TAU * frequency / rate).cos();
        self.a = 1. - self.b - self.c;
    }

    fn filter(&mut self, x: f64) -> f64 {
        let y = self.a * x + self.b * self.y[0] + self.c * self.y[1];
        self.y = [y, self.y[0]];
        y
    }
}
