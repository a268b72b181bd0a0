//! MSEFM (Tian & Xu 2021, "Can audio-visual integration strengthen robustness under multimodal
//! attacks?"): features of different modalities are to be dissimilar, and are read through a
//! memory. The memory is the encoders' own last layer (`model.memory`); this is the loss. Does not
//! know encoders.
//!
//! Published: the memory is a fixed dictionary in which features are coded sparsely, and half of
//! the feature passes by it. Here its vectors are learned with everything else and read by
//! attention, and nothing passes by.
use crate::{
    Draws, Error, Part, Prepared, Result, StepLoss, Strategy, TrainingInputs, soft_cross_entropy,
};
use candle_core::{D, Tensor};
use crmt_core::{Batch, Mode, PerModality, Trainable};

/// `mean CE(h, y) + λ · mean over pairs m < n and samples of cos(φ(m), φ(n))`.
pub struct Msefm {
    /// What the loss is evaluated on.
    pub inputs: TrainingInputs,
    /// Weight of the similarity.
    pub lambda: f64,
}

/// Lengths below this are no smaller to a division.
const TINY: f64 = 1e-12;

/// The mean cosine of all pairs of modalities; `None` for a single one.
fn similarity(features: &PerModality<Tensor>) -> Result<Option<Tensor>> {
    let units = features
        .try_map(|f| f.broadcast_div(&(f.sqr()?.sum_keepdim(D::Minus1)? + TINY)?.sqrt()?))?;
    let mut sum: Option<Tensor> = None;
    for (m, own) in units.iter().enumerate() {
        for other in units.iter().skip(m + 1) {
            if own.dim(1)? != other.dim(1)? {
                return Err(Error::Strategy(format!(
                    "msefm compares features of all modalities: {} and {} of them can't be, give every encoder as many",
                    own.dim(1)?,
                    other.dim(1)?
                )));
            }
            let cosine = (own * other)?.sum(D::Minus1)?.mean_all()?;
            sum = Some(sum.map_or(Ok(cosine.clone()), |sum| sum + cosine)?);
        }
    }
    let pairs = features.len() * (features.len() - 1) / 2;
    Ok(sum.map(|sum| sum / pairs as f64).transpose()?)
}

impl Strategy for Msefm {
    fn prepare(&self, model: &dyn Trainable, batch: &Batch, draws: &Draws) -> Result<Prepared> {
        self.inputs.prepare(model, batch, draws)
    }

    fn loss(&self, model: &dyn Trainable, prepared: &Prepared) -> Result<StepLoss> {
        let features = model.features(&prepared.inputs, Mode::Train)?;
        let scores = model.fuse(&features)?;
        let logits = scores.logits()?;
        let mut total =
            soft_cross_entropy(&logits, &prepared.targets(logits.dim(1)?)?)?.mean_all()?;
        let mut parts = vec![("cross_entropy", Part::from(&total))];
        if let Some(similarity) = similarity(&features)? {
            parts.push(("similarity", Part::from(&similarity)));
            total = (total + (similarity * self.lambda)?)?;
        }
        Ok(StepLoss::new(total, parts, prepared, &scores))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::strategy::scalar;
    use candle_core::{Device, Var};

    #[test]
    fn cosines_of_all_pairs() -> Result<()> {
        let f = |v: [f64; 2]| Tensor::new(&[v, [2. * v[0], 2. * v[1]]], &Device::Cpu);
        let three = PerModality::from([f([1., 0.])?, f([0., 3.])?, f([1., 1.])?]);
        let mean = scalar(&similarity(&three)?.expect("three pairs"))?;
        // cos 90°, 45°, 45°; a few roundings and TINY.
        assert!((mean - 2f64.sqrt() / 3.).abs() < 1e-11, "{mean}");
        assert!(similarity(&PerModality::from([f([1., 0.])?]))?.is_none());
        let narrow = PerModality::from([f([1., 0.])?, Tensor::new(&[[1f64], [1.]], &Device::Cpu)?]);
        assert!(
            similarity(&narrow)
                .unwrap_err()
                .to_string()
                .contains("2 and 1")
        );
        Ok(())
    }

    #[test]
    fn following_the_gradient_makes_features_dissimilar() -> Result<()> {
        let a = Var::new(&[[1f64, 0.2], [0.3, 1.]], &Device::Cpu)?;
        let b = Tensor::new(&[[1f64, 0.], [0.5, 1.]], &Device::Cpu)?;
        let now = |a: &Var| similarity(&PerModality::from([a.as_tensor().clone(), b.clone()]));
        let before = scalar(&now(&a)?.expect("a pair"))?;
        for _ in 0..20 {
            let loss = now(&a)?.expect("a pair");
            let gradients = loss.backward()?;
            a.set(&(a.as_tensor() - (gradients.get(&a).expect("tracked") * 0.5)?)?)?;
        }
        let after = scalar(&now(&a)?.expect("a pair"))?;
        assert!(after < before - 0.5, "{before} to {after}");
        Ok(())
    }
}
