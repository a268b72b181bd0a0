//! Learning-rate schedules as functions of training progress.
//! Does not know the optimizer.
use std::f64::consts::PI;

/// A factor on the peak learning rate.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Schedule {
    /// Always 1.
    Constant,
    /// Times `factor` after every `every` fraction of training.
    Step {
        /// Fraction of the phase between drops, e.g. 60/140.
        every: f64,
        /// Multiplies at each drop, e.g. 0.1.
        factor: f64,
    },
    /// Half a cosine from 1 to 0.
    Cosine,
    /// Cosine from 1/25 up to 1 over the first `warmup` of training, then down to 4e-6
    /// (PyTorch's `OneCycleLR` defaults, without the momentum cycle).
    OneCycle {
        /// Fraction of the phase spent rising.
        warmup: f64,
    },
}

/// Fractions of a phase are not exact: 0.3 / 0.1 is a little less than 3.
const ROUNDING: f64 = 1e-9;

/// The learning rate over a phase.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rate {
    /// At its peak.
    pub peak: f64,
    /// Its factor.
    pub schedule: Schedule,
    /// Fraction of the phase in which it rises linearly from 0, whatever the schedule.
    pub warmup: f64,
}

impl Rate {
    /// Always the same.
    pub fn constant(rate: f64) -> Self {
        Self {
            peak: rate,
            schedule: Schedule::Constant,
            warmup: 0.0,
        }
    }

    /// Before step `step` (from 0) of `steps`.
    pub fn at(self, step: u64, steps: u64) -> f64 {
        let risen = (step + 1) as f64 / (self.warmup * steps as f64);
        self.peak * self.schedule.factor(step, steps) * if risen < 1.0 { risen } else { 1.0 }
    }
}

impl Schedule {
    /// The factor before step `step` of `steps`.
    pub fn factor(self, step: u64, steps: u64) -> f64 {
        let progress = step as f64 / steps.max(1) as f64;
        match self {
            Self::Constant => 1.0,
            Self::Step { every, factor } => factor.powf((progress / every + ROUNDING).floor()),
            Self::Cosine => 0.5 * (1.0 + (PI * progress).cos()),
            Self::OneCycle { warmup } => {
                const START: f64 = 1.0 / 25.0;
                const END: f64 = START / 1e4;
                let anneal =
                    |from: f64, to: f64, t: f64| to + (from - to) / 2.0 * (1.0 + (PI * t).cos());
                let last = steps.saturating_sub(1).max(1) as f64;
                let peak = warmup * steps as f64 - 1.0;
                let step = step as f64;
                if peak > 0.0 && step <= peak {
                    anneal(START, 1.0, step / peak)
                } else {
                    anneal(1.0, END, (step - peak) / (last - peak))
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_cycle_matches_pytorch() {
        // torch.optim.lr_scheduler.OneCycleLR(max_lr=1, total_steps=20, pct_start=0.15),
        // PyTorch 2.11.
        let s = Schedule::OneCycle { warmup: 0.15 };
        for (step, expected) in [(0, 0.04), (1, 0.52), (2, 1.0), (19, 4e-6)] {
            // 1e-12: one cosine of an exact argument.
            assert!(
                (s.factor(step, 20) - expected).abs() < 1e-12,
                "step {step}: {}",
                s.factor(step, 20)
            );
        }
        assert!((3..19).all(|i| s.factor(i, 20) > s.factor(i + 1, 20)));
    }

    #[test]
    fn steps_drop_at_their_fractions() {
        let s = Schedule::Step {
            every: 60. / 140.,
            factor: 0.1,
        };
        let at = |epoch: u64| s.factor(epoch, 140);
        assert_eq!((at(0), at(59)), (1.0, 1.0));
        assert_eq!((at(60), at(119)), (0.1, 0.1));
        assert!((at(120) - 0.01).abs() < 1e-17);
    }

    #[test]
    fn a_warm_up_rises_to_the_schedule() {
        let rate = Rate {
            peak: 2.0,
            schedule: Schedule::Constant,
            warmup: 0.25,
        };
        assert_eq!(
            (0..6).map(|i| rate.at(i, 16)).collect::<Vec<_>>(),
            [0.5, 1.0, 1.5, 2.0, 2.0, 2.0]
        );
        assert_eq!(Rate::constant(0.1).at(0, 16), 0.1);
    }

    #[test]
    fn every_factor_is_a_fraction_of_the_peak() {
        for warmup in [0.01, 0.05, 0.1, 0.15, 0.25, 0.5, 0.99] {
            let s = Schedule::OneCycle { warmup };
            for steps in 1..60 {
                let all: Vec<f64> = (0..steps).map(|i| s.factor(i, steps)).collect();
                assert!(
                    all.iter().all(|f| (0.0..=1.0).contains(f)),
                    "{warmup} of {steps}: {all:?}"
                );
            }
        }
        let thirds = Schedule::Step {
            every: 10. / 100.,
            factor: 0.1,
        };
        assert!(
            (thirds.factor(30, 100) - 1e-3).abs() < 1e-12,
            "the third drop comes at 30 of 100"
        );
    }

    #[test]
    fn cosine_and_constant_have_their_ends() {
        assert_eq!(
            (
                Schedule::Cosine.factor(0, 9),
                Schedule::Constant.factor(5, 9)
            ),
            (1.0, 1.0)
        );
        assert!(Schedule::Cosine.factor(9, 9).abs() < 1e-16);
    }
}
