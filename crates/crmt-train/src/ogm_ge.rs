//! OGM-GE (Peng et al. 2022, "Balanced multimodal learning via on-the-fly gradient modulation"):
//! the encoder of whoever is ahead learns more slowly. Does not know the loop that follows the
//! gradients.
use crate::{
    Draws, Modulation, Part, Prepared, Result, StepLoss, Strategy, TrainingInputs,
    soft_cross_entropy,
    strategy::{confidence, sum},
};
use candle_core::{DType, Tensor};
use crmt_core::{Batch, Mode, PerModality, Trainable};

/// Cross-entropy, with the gradients of each encoder multiplied by `k(m)`:
///
/// ```text
/// s(m) = Σ_i softmax(a(m) ∘ s_i(m) + b/M)[y_i]          (M modalities, samples i of the batch)
/// ρ(m) = s(m) / mean_{n≠m} s(n)
/// k(m) = 1 − tanh(α ρ(m))  if ρ(m) > 1,  else 1
/// ```
///
/// With `noise` (the "GE"), every element of an encoder's gradient also gets Gaussian noise of the
/// standard deviation of that parameter's gradient before modulation.
pub struct OgmGe {
    /// What the loss is evaluated on.
    pub inputs: TrainingInputs,
    /// How much whoever is ahead is slowed; at least 0.
    pub alpha: f64,
    /// Generalisation enhancement.
    pub noise: bool,
}

impl OgmGe {
    /// `k(m)` of the confidences `s(m)`.
    fn factors(&self, confidence: &PerModality<Tensor>) -> Result<PerModality<Tensor>> {
        let others = (confidence.len() - 1) as f64;
        let total = sum(confidence)?;
        Ok(confidence.try_map(|own| {
            // Alone, or beside others that know nothing at all: 0/0 and x/0 are not greater than 1
            // or slow it fully.
            let ahead = ((own * others)? / (&total - own)?)?;
            let slowed = ((&ahead * self.alpha)?.tanh()?.neg()? + 1.0)?;
            let is_ahead = if self.alpha > 0.0 {
                ahead.gt(1.0)?
            } else {
                ahead.zeros_like()?.to_dtype(DType::U8)?
            };
            is_ahead.where_cond(&slowed, &own.ones_like()?)
        })?)
    }
}

impl Strategy for OgmGe {
    fn prepare(&self, model: &dyn Trainable, batch: &Batch, draws: &Draws) -> Result<Prepared> {
        self.inputs.prepare(model, batch, draws)
    }

    fn loss(&self, model: &dyn Trainable, prepared: &Prepared) -> Result<StepLoss> {
        let scores = model.scores(&prepared.inputs, Mode::Train)?;
        let logits = scores.logits()?;
        let targets = prepared.targets(logits.dim(1)?)?;
        let total = soft_cross_entropy(&logits, &targets)?.mean_all()?;
        let factors = self.factors(&confidence(&scores, &targets)?)?;
        let least = Tensor::stack(&factors.iter().collect::<Vec<_>>(), 0)?.min(0)?;
        let parts = vec![
            ("cross_entropy", Part::from(&total)),
            ("least_modulation", Part::from(&least)),
        ];
        let modulation = Some(Modulation {
            factors,
            noise: self.noise,
        });
        Ok(StepLoss {
            modulation,
            ..StepLoss::new(total, parts, prepared, &scores)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;

    fn ogm(alpha: f64) -> OgmGe {
        OgmGe {
            inputs: TrainingInputs::Clean,
            alpha,
            noise: false,
        }
    }

    #[test]
    fn whoever_is_ahead_is_slowed_by_the_formula() -> Result<()> {
        let factors = |alpha, confidence: &[f64]| -> Result<Vec<f64>> {
            let scalars = confidence.iter().map(|own| Tensor::new(*own, &Device::Cpu));
            let scalars = PerModality::new(scalars.collect::<candle_core::Result<_>>()?)
                .expect("at least one");
            ogm(alpha)
                .factors(&scalars)?
                .iter()
                .map(|factor| Ok(factor.to_scalar()?))
                .collect()
        };
        let three = factors(0.3, &[0.9, 0.3, 0.5])?;
        // ρ = 0.9 / 0.4, 0.3 / 0.7, 0.5 / 0.6: only the first is ahead. A few roundings.
        assert!(
            (three[0] - (1.0 - (0.3f64 * 2.25).tanh())).abs() < 1e-12,
            "{three:?}"
        );
        assert_eq!(three[1..], [1.0, 1.0]);
        assert_eq!(factors(0.0, &[0.9, 0.1])?, [1.0, 1.0]);
        assert_eq!(factors(1.0, &[0.9])?, [1.0]);
        assert_eq!(factors(1.0, &[0.5, 0.0])?, [0.0, 1.0]);
        Ok(())
    }
}
