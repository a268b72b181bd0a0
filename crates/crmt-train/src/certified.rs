//! Certified CRMT: the margin certificate inside the loss, for encoders that are 1-Lipschitz.
//! Does not know how the encoders come by their constant.
use crate::{
    Draws, Error, ModalityDropout, Part, Prepared, Result, StepLoss, Strategy, margin_term,
    soft_cross_entropy,
};
use candle_core::Tensor;
use crmt_core::{Batch, Mode, PerModality, Trainable};

/// `mean CE(κ·(h_j + w·ε·ℓ_yj·[j ≠ y]), y) + λ · mean log(Σ_{m, k≠y} exp(κ(s_k(m) − s_y(m))) + 1e-5)`.
///
/// `ℓ_yj` is what a perturbation of one declared unit, split as [`Reach`] says, can add to the
/// margin between `y` and `j`, for orthonormal rows and 1-Lipschitz features (the pairwise bound;
/// the certificate itself measures the actual rows and features). So the first term is small only
/// for samples whose radius is at least `w·ε`; `w` rises from 0 to 1 over the first `ramp` of
/// training. κ sharpens logits that a 1-Lipschitz network keeps small.
pub struct Certified {
    /// Radius to train for, in declared units.
    pub eps: f64,
    /// Which budgets that radius is of.
    pub reach: Reach,
    /// Inverse temperature.
    pub kappa: f64,
    /// Weight of the margin term.
    pub lambda: f64,
    /// Fraction of training over which the radius grows to `eps`.
    pub ramp: f64,
    /// Steps of the whole phase.
    pub steps: u64,
    /// The declared unit of each modality.
    pub units: PerModality<f64>,
    /// Trains for missing modalities too.
    pub dropout: ModalityDropout,
}

/// Squares below this are no smaller to a root.
const FLOOR: f64 = 1e-12;

/// How an adversary may split the budget over modalities. With
/// `ℓ_m = unit_m·sqrt(a_y(m)² + a_j(m)²)`:
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reach {
    /// One l2 budget: `sqrt(Σ_m ℓ_m²)`.
    Joint,
    /// All of it on every modality: `Σ_m ℓ_m`.
    Each,
    /// All of it on one modality, whichever: `max_m ℓ_m`.
    One,
}

impl Certified {
    /// `ℓ_yj` for every pair of classes, `[classes, classes]`, zero on the diagonal.
    fn pairs(&self, weights: &PerModality<Tensor>) -> candle_core::Result<Tensor> {
        let eye = Tensor::eye(weights[0].dim(0)?, weights[0].dtype(), weights[0].device())?;
        let squares = weights
            .zip(&self.units, "units")
            .map_err(candle_core::Error::wrap)?
            .try_map(|(a, unit)| {
                let own = (a.sqr()? * (**unit * **unit))?;
                own.unsqueeze(1)?.broadcast_add(&own.unsqueeze(0)?)
            })?;
        let total = match self.reach {
            Reach::Joint => squares.into_iter().map(Ok).reduce(|a, b| a? + b?),
            Reach::One => squares.into_iter().map(Ok).reduce(|a, b| a?.maximum(&b?)),
            // Roots of single modalities, whose weights may vanish: the derivative of a root at 0
            // is infinite.
            Reach::Each => {
                let roots = squares
                    .into_iter()
                    .map(|l| (l + &eye)?.clamp(FLOOR, f64::INFINITY)?.sqrt());
                roots.reduce(|a, b| a? + b?)
            }
        };
        let total = total.expect("one per modality")?;
        let total = if self.reach == Reach::Each {
            total
        } else {
            total.sqrt()?
        };
        total * (eye.neg()? + 1.0)?
    }
}

impl Strategy for Certified {
    fn prepare(&self, _: &dyn Trainable, batch: &Batch, draws: &Draws) -> Result<Prepared> {
        let progress = draws.step as f64 / (self.ramp * self.steps as f64).max(1.0);
        let inputs = self.dropout.apply(&batch.inputs, draws)?;
        Prepared {
            inputs,
            ..Prepared::clean(batch)
        }
        .scheduled(self.eps * progress.min(1.0))
    }

    fn loss(&self, model: &dyn Trainable, prepared: &Prepared) -> Result<StepLoss> {
        let Some(radius) = &prepared.schedule else {
            return Err(Error::Strategy(
                "certified training needs the radius of the step".into(),
            ));
        };
        let scores = model.scores(&prepared.inputs, Mode::Train)?;
        let logits = scores.logits()?;
        let targets = prepared.targets(logits.dim(1)?)?;
        // Rows of the true classes: `[batch, classes]`.
        let pairs = self
            .pairs(&scores.weights)?
            .index_select(&prepared.labels, 0)?;
        let reach = pairs.broadcast_mul(&radius.to_dtype(pairs.dtype())?)?;
        let hardened = ((logits + reach)? * self.kappa)?;
        let mut total = soft_cross_entropy(&hardened, &targets)?.mean_all()?;
        let mut parts = vec![("robust_cross_entropy", Part::from(&total))];
        if self.lambda != 0.0 {
            let sharpened = scores.unimodal.try_map(|s| s * self.kappa)?;
            let margin = margin_term(&sharpened, &targets)?.mean_all()?;
            parts.push(("margin", Part::from(&margin)));
            total = (total + (margin * self.lambda)?)?;
        }
        Ok(StepLoss::new(total, parts, prepared, &scores))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;

    #[test]
    fn pairs_follow_the_pairwise_bound() -> candle_core::Result<()> {
        let weights = PerModality::from([
            Tensor::new(&[1f64, 2.], &Device::Cpu)?,
            Tensor::new(&[0.5f64, 1.5], &Device::Cpu)?,
        ]);
        let baselines =
            PerModality::from([Tensor::zeros(1, candle_core::DType::F64, &Device::Cpu)?]);
        let strategy = |reach| Certified {
            reach,
            eps: 1.0,
            kappa: 1.0,
            lambda: 0.0,
            ramp: 0.5,
            steps: 10,
            units: PerModality::from([1.0, 2.0]),
            dropout: ModalityDropout {
                probability: 0.0,
                baselines: baselines.clone(),
            },
        };
        // The squares of the modalities: 1² + 2² = 5 and 4·(0.5² + 1.5²) = 10.
        for (reach, expected) in [
            (Reach::Joint, 15f64.sqrt()),
            (Reach::Each, 5f64.sqrt() + 10f64.sqrt()),
            (Reach::One, 10f64.sqrt()),
        ] {
            assert_eq!(
                strategy(reach).pairs(&weights)?.to_vec2::<f64>()?,
                [[0.0, expected], [expected, 0.0]]
            );
            // A modality without weight has finite slopes.
            let none = candle_core::Var::from_tensor(&Tensor::zeros(
                2,
                candle_core::DType::F64,
                &Device::Cpu,
            )?)?;
            let pruned = PerModality::from([weights[0].clone(), none.as_tensor().clone()]);
            let slopes = strategy(reach).pairs(&pruned)?.sum_all()?.backward()?;
            let slopes = slopes.get(&none).expect("tracked").to_vec1::<f64>()?;
            assert!(
                slopes.iter().all(|s| s.is_finite()),
                "{reach:?}: {slopes:?}"
            );
        }
        Ok(())
    }
}
