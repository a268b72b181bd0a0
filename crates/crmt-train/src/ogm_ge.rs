//! OGM-GE (Peng et al. 2022, "Balanced multimodal learning via on-the-fly gradient modulation"): the encoder of whoever
//! is ahead learns more slowly. Does not know the loop that follows the gradients.
use crate::{
    Draws, Part, Prepared, Result, StepLoss, Strategy, TrainingInputs, soft_cross_entropy,
    strategy::{confidence, sum},
};
use candle_core::{DType, Device, Tensor, backprop::GradStore};
use crmt_core::{Batch, Mode, PerModality, Trainable};
use crmt_kernels::Parameter;
use rand::Rng;
use rand_distr::StandardNormal;

/// Cross-entropy, with the gradients of each encoder multiplied by `k(m)`:
///
/// ```text
/// s(m) = Σ_i softmax(a(m) ∘ s_i(m) + b/M)[y_i]          (M modalities, samples i of the batch)
/// ρ(m) = s(m) / mean_{n≠m} s(n)
/// k(m) = 1 − tanh(α ρ(m))  if ρ(m) > 1,  else 1
/// ```
///
/// With `noise` (the "GE"), every element of an encoder's gradient also gets Gaussian noise of the standard deviation
/// of that parameter's gradient before modulation.
pub struct OgmGe {
    /// What the loss is evaluated on.
    pub inputs: TrainingInputs,
    /// How much whoever is ahead is slowed; at least 0.
    pub alpha: f64,
    /// Generalisation enhancement.
    pub noise: bool,
}

/// What becomes of the encoders' gradients before the step.
#[derive(Debug, Clone)]
pub struct Modulation {
    /// Multiply the gradients of each modality's encoder; scalars in `f64`.
    pub factors: PerModality<Tensor>,
    /// Adds Gaussian noise of each parameter's own standard deviation.
    pub noise: bool,
}

impl Modulation {
    /// `owners[i]` is the modality whose encoder has parameter `i`, if any has.
    pub(crate) fn apply(
        &self,
        gradients: &mut GradStore,
        parameters: &[Parameter],
        owners: &[Option<usize>],
        draws: &Draws,
    ) -> Result<()> {
        let mut rng = draws.streams.stream("ogm-ge noise", draws.step);
        for (p, m) in parameters.iter().zip(owners).filter_map(|(p, owner)| Some((p, (*owner)?))) {
            let Some(g) = gradients.get(&p.var) else { continue };
            let times = |x: &Tensor, scalar: &Tensor| x.broadcast_mul(&scalar.to_dtype(x.dtype())?);
            let mut new = times(g, &self.factors[m])?;
            if self.noise {
                let noise: Vec<f32> = (0..g.elem_count()).map(|_| rng.sample(StandardNormal)).collect();
                let noise = Tensor::from_vec(noise, g.shape(), &Device::Cpu)?.to_dtype(g.dtype())?;
                new = (new + times(&noise.to_device(g.device())?, &deviation(g)?)?)?;
            }
            gradients.insert(&p.var, new);
        }
        Ok(())
    }
}

/// The standard deviation of all elements, a scalar.
fn deviation(g: &Tensor) -> candle_core::Result<Tensor> {
    let g = g.flatten_all()?.to_dtype(DType::F64)?;
    g.broadcast_sub(&g.mean_all()?)?.sqr()?.mean_all()?.sqrt()
}

impl OgmGe {
    /// `k(m)` of the confidences `s(m)`.
    fn factors(&self, confidence: &PerModality<Tensor>) -> Result<PerModality<Tensor>> {
        let others = (confidence.len() - 1) as f64;
        let total = sum(confidence)?;
        Ok(confidence.try_map(|own| {
            // Alone, or beside others that know nothing at all: 0/0 and x/0 are not greater than 1 or slow it fully.
            let ahead = ((own * others)? / (&total - own)?)?;
            let slowed = ((&ahead * self.alpha)?.tanh()?.neg()? + 1.0)?;
            let is_ahead = if self.alpha > 0.0 { ahead.gt(1.0)? } else { ahead.zeros_like()?.to_dtype(DType::U8)? };
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
        let parts = vec![("cross_entropy", Part::from(&total)), ("least_modulation", Part::from(&least))];
        let modulation = Some(Modulation { factors, noise: self.noise });
        Ok(StepLoss { modulation, ..StepLoss::new(total, parts, prepared, &scores) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Var;
    use crmt_core::Streams;

    fn ogm(alpha: f64) -> OgmGe {
        OgmGe { inputs: TrainingInputs::Clean, alpha, noise: false }
    }

    #[test]
    fn whoever_is_ahead_is_slowed_by_the_formula() -> Result<()> {
        let factors = |alpha, confidence: &[f64]| -> Result<Vec<f64>> {
            let scalars = confidence.iter().map(|own| Tensor::new(*own, &Device::Cpu));
            let scalars = PerModality::new(scalars.collect::<candle_core::Result<_>>()?).expect("at least one");
            ogm(alpha).factors(&scalars)?.iter().map(|factor| Ok(factor.to_scalar()?)).collect()
        };
        let three = factors(0.3, &[0.9, 0.3, 0.5])?;
        // ρ = 0.9 / 0.4, 0.3 / 0.7, 0.5 / 0.6: only the first is ahead. A few roundings.
        assert!((three[0] - (1.0 - (0.3f64 * 2.25).tanh())).abs() < 1e-12, "{three:?}");
        assert_eq!(three[1..], [1.0, 1.0]);
        assert_eq!(factors(0.0, &[0.9, 0.1])?, [1.0, 1.0]);
        assert_eq!(factors(1.0, &[0.9])?, [1.0]);
        assert_eq!(factors(1.0, &[0.5, 0.0])?, [0.0, 1.0]);
        Ok(())
    }

    #[test]
    fn gradients_of_encoders_alone_are_changed() -> Result<()> {
        let var = |n: usize| Var::from_tensor(&Tensor::ones(n, DType::F64, &Device::Cpu)?);
        let (a, b, head) = (var(4000)?, var(3)?, var(2)?);
        let slopes = Tensor::arange(0f64, 4000., &Device::Cpu)?;
        let loss = ((a.as_tensor() * &slopes)?.sum_all()? + b.sum_all()? + head.sum_all()?)?;
        let parameters = [Parameter::new("a", &a), Parameter::new("b", &b), Parameter::new("head", &head)];
        let owners = [Some(0), Some(1), None];
        let draws = |step| Draws { streams: Streams::new(1), step };
        let changed = |noise, step| -> Result<[Vec<f64>; 3]> {
            let mut gradients = loss.backward()?;
            let factor = |factor: f64| Tensor::new(factor, &Device::Cpu);
            let modulation = Modulation { factors: PerModality::from([factor(0.25)?, factor(1.0)?]), noise };
            modulation.apply(&mut gradients, &parameters, &owners, &draws(step))?;
            let of = |v: &Var| gradients.get(v).expect("tracked").to_vec1::<f64>();
            Ok([of(&a)?, of(&b)?, of(&head)?])
        };
        let plain = changed(false, 0)?;
        assert!(plain[0].iter().enumerate().all(|(i, g)| *g == 0.25 * i as f64));
        assert_eq!((&plain[1], &plain[2]), (&vec![1.0; 3], &vec![1.0; 2]));
        let noisy = changed(true, 0)?;
        let noise: Vec<f64> = noisy[0].iter().zip(&plain[0]).map(|(a, b)| a - b).collect();
        let spread = (noise.iter().map(|n| n * n).sum::<f64>() / 4000.).sqrt();
        // The deviation of 0..4000 is 1154.7; four standard errors of a deviation of 4000 draws.
        let expected = ((4000f64.powi(2) - 1.) / 12.).sqrt();
        assert!((spread / expected - 1.).abs() < 4. / 8000f64.sqrt(), "{spread} against {expected}");
        // A constant gradient has no deviation, and the head is nobody's.
        assert_eq!((&noisy[1], &noisy[2]), (&plain[1], &plain[2]));
        assert_eq!(changed(true, 0)?, noisy);
        assert_ne!(changed(true, 1)?[0], noisy[0]);
        Ok(())
    }
}
