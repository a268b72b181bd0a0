//! PMR (Fan et al. 2023, "PMR: Prototypical modal rebalance for multimodal learning"): whoever lags
//! is pulled towards the prototypes of its classes. Does not know where samples come from.
use crate::{
    Draws, Error, Part, Prepared, Result, StepLoss, Strategy, TrainingInputs,
    prepared::one_hot,
    soft_cross_entropy,
    strategy::{sum, sureness},
};
use candle_core::{D, DType, Tensor};
use candle_nn::ops::log_softmax;
use crmt_core::{Batch, Mode, PerModality, Trainable};

/// With prototypes `c_k(m)`, the mean features of class `k` over `sample`, measured at the start of
/// every epoch (`c ← momentum·c + (1 − momentum)·mean`), and `p(m) = softmax_k(−‖φ(m) − c_k(m)‖)`:
///
/// ```text
/// CE(h) + α Σ_m lag(m) · CE(p(m)) − μ Σ_m lead(m) · H(p(m))
/// s(m) = Σ_i p_i(m)[y_i]     ρ(m) = s(m) / mean_{n≠m} s(n)
/// lag(m) = clip(1/ρ(m) − 1, 0, 1)     lead(m) = clip(ρ(m) − 1, 0, 1)
/// ```
///
/// `H` is the entropy; its term acts in the first `early` steps only. For two modalities this is
/// the published loss.
pub struct Pmr {
    inputs: TrainingInputs,
    settings: PmrSettings,
    sample: Batch,
    /// Each `[classes, dim_m]`; `None` before the first epoch.
    prototypes: Option<PerModality<Tensor>>,
}

/// Weights of [`Pmr`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PmrSettings {
    /// Of the prototypical cross-entropy of whoever lags.
    pub alpha: f64,
    /// Of the entropy of whoever leads.
    pub mu: f64,
    /// What prototypes keep from epoch to epoch, in `0..1`.
    pub momentum: f64,
    /// Steps in which the entropy counts.
    pub early: u64,
    /// Number of classes.
    pub classes: usize,
}

/// Samples of one forward pass of a measurement.
const CHUNK: usize = 250;
/// Under the root of a squared distance: the derivative of a root at 0 is infinite.
const TINY: f64 = 1e-12;

impl Pmr {
    /// Prototypes are measured on `sample`.
    pub fn new(inputs: TrainingInputs, settings: PmrSettings, sample: Batch) -> Self {
        Self {
            inputs,
            settings,
            sample,
            prototypes: None,
        }
    }

    /// Mean features of each class of the sample, `[classes, dim_m]`.
    fn measure(&self, model: &dyn Trainable) -> Result<PerModality<Tensor>> {
        let mut sums: Option<PerModality<Tensor>> = None;
        let mut counts = vec![0f64; self.settings.classes];
        for start in (0..self.sample.len()).step_by(CHUNK) {
            let part = self
                .sample
                .narrow(start, CHUNK.min(self.sample.len() - start))?;
            part.labels
                .to_vec1::<u32>()?
                .into_iter()
                .for_each(|y| counts[y as usize] += 1.0);
            let features = model.features(&part.inputs, Mode::Eval)?;
            let own = one_hot(&part.labels, self.settings.classes, features[0].dtype())?
                .t()?
                .contiguous()?;
            let new = features.try_map(|f| own.matmul(&f.detach()))?;
            sums = Some(match sums {
                None => new,
                Some(sums) => sums.zip(&new, "features")?.try_map(|(a, b)| *a + *b)?,
            });
        }
        let Some(sums) = sums else {
            return Err(Error::Strategy(
                "pmr: there is no sample to measure prototypes on".into(),
            ));
        };
        if let Some(class) = counts.iter().position(|n| *n == 0.0) {
            let n = self.sample.len();
            return Err(Error::Strategy(format!(
                "pmr: class {class} is not among the {n} samples: take more of them"
            )));
        }
        Ok(sums.try_map(|sum| {
            let counts = Tensor::from_slice(&counts, (counts.len(), 1), sum.device())?
                .to_dtype(sum.dtype())?;
            sum.broadcast_div(&counts)
        })?)
    }
}

/// `−‖φ − c_k‖`, `[batch, classes]`.
fn closeness(features: &Tensor, prototypes: &Tensor) -> Result<Tensor> {
    let apart = features
        .unsqueeze(1)?
        .broadcast_sub(&prototypes.unsqueeze(0)?)?;
    Ok((apart.sqr()?.sum(D::Minus1)? + TINY)?.sqrt()?.neg()?)
}

/// `[lag, lead]` of each modality, from its confidence; scalars in `f64`.
fn balance(confidence: &PerModality<Tensor>) -> Result<PerModality<[Tensor; 2]>> {
    let others = (confidence.len() - 1) as f64;
    let total = sum(confidence)?;
    confidence.try_map(|own| {
        // Nobody who knows anything, or nobody else: then nobody lags or leads.
        let [own_share, rest] =
            [(own * others)?, (&total - own)?].map(|share| share + f64::MIN_POSITIVE);
        let ahead = (own_share? / rest?)?;
        Ok([
            (ahead.recip()? - 1.0)?.clamp(0.0, 1.0)?,
            (ahead - 1.0)?.clamp(0.0, 1.0)?,
        ])
    })
}

impl Strategy for Pmr {
    fn begin_epoch(&mut self, model: &dyn Trainable, _: u64) -> Result<()> {
        let (now, keep) = (self.measure(model)?, self.settings.momentum);
        self.prototypes = Some(match self.prototypes.take() {
            None => now,
            Some(before) => before
                .zip(&now, "prototypes")?
                .try_map(|(old, new)| (*old * keep)? + (*new * (1.0 - keep))?)?,
        });
        Ok(())
    }

    fn prepare(&self, model: &dyn Trainable, batch: &Batch, draws: &Draws) -> Result<Prepared> {
        let mu = if draws.step < self.settings.early {
            self.settings.mu
        } else {
            0.0
        };
        self.inputs.prepare(model, batch, draws)?.scheduled(mu)
    }

    fn loss(&self, model: &dyn Trainable, prepared: &Prepared) -> Result<StepLoss> {
        let (Some(prototypes), Some(mu)) = (&self.prototypes, &prepared.schedule) else {
            return Err(Error::Strategy(
                "pmr: an epoch must begin before prototypes are used".into(),
            ));
        };
        let PmrSettings { alpha, classes, .. } = self.settings;
        let features = model.features(&prepared.inputs, Mode::Train)?;
        let scores = model.fuse(&features)?;
        let targets = prepared.targets(classes)?;
        let dtype = targets.dtype();
        let cross_entropy = soft_cross_entropy(&scores.logits()?, &targets)?.mean_all()?;
        let near = features
            .zip(prototypes, "prototypes")?
            .try_map(|(f, c)| closeness(f, c))?;
        let balance = balance(&near.try_map(|near| sureness(near, &targets))?)?;
        let mut total = cross_entropy.clone();
        let mut pulled = balance[0][0].zeros_like()?;
        for (near, [lag, lead]) in near.iter().zip(&balance) {
            let own = soft_cross_entropy(near, &targets)?.mean_all()?;
            pulled = (pulled + (own.detach().to_dtype(DType::F64)? * lag)?)?;
            total = (total + (own * (lag * alpha)?.to_dtype(dtype)?)?)?;
            let log = log_softmax(near, D::Minus1)?;
            let entropy = (log.exp()? * log)?.sum(D::Minus1)?.neg()?.mean_all()?;
            total = (total - (entropy * (lead * mu)?.to_dtype(dtype)?)?)?;
        }
        let parts = vec![
            ("cross_entropy", Part::from(&cross_entropy)),
            ("prototypical", Part::from(&pulled)),
        ];
        Ok(StepLoss::new(total, parts, prepared, &scores))
    }

    fn state(&self) -> Result<Vec<(String, Tensor)>> {
        let all = self.prototypes.iter().flatten().enumerate();
        Ok(all
            .map(|(m, c)| (format!("prototypes.{m}"), c.clone()))
            .collect())
    }

    fn restore(&mut self, get: &dyn Fn(&str) -> Option<Tensor>) -> Result<()> {
        let all = (0..self.sample.inputs.len()).map(|m| {
            let name = format!("prototypes.{m}");
            get(&name).ok_or_else(|| {
                Error::State(format!(
                    "`strategy.{name}` is missing: the state is of another strategy"
                ))
            })
        });
        self.prototypes = PerModality::new(all.collect::<Result<_>>()?);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::strategy::scalar;
    use candle_core::Device;

    #[test]
    fn who_lags_and_who_leads() -> Result<()> {
        let of = |confidence: &[f64]| -> Result<Vec<[f64; 2]>> {
            let scalars = PerModality::from_fn(confidence.len(), |m| {
                Tensor::new(confidence[m], &Device::Cpu).expect("a scalar")
            });
            balance(&scalars)?
                .iter()
                .map(|[lag, lead]| Ok([scalar(lag)?, scalar(lead)?]))
                .collect()
        };
        let two = of(&[0.8, 0.5])?;
        // ρ = 1.6 and 0.625.
        assert!(
            (two[0][1] - 0.6).abs() < 1e-12 && two[0][0] == 0.0,
            "{two:?}: one rounding"
        );
        assert!(
            (two[1][0] - 0.6).abs() < 1e-12 && two[1][1] == 0.0,
            "{two:?}"
        );
        assert_eq!(of(&[0.9, 0.1])?[1], [1.0, 0.0], "clipped");
        // Beside others that know nothing, with none that knows anything, and alone.
        assert_eq!(of(&[0.9, 0.0])?, [[0.0, 1.0], [1.0, 0.0]]);
        assert_eq!(of(&[0.0, 0.0])?, [[0.0; 2]; 2]);
        assert_eq!(of(&[0.9])?, [[0.0; 2]]);
        Ok(())
    }

    #[test]
    fn the_nearest_prototype_is_the_most_likely() -> Result<()> {
        let prototypes = Tensor::new(&[[0f64, 0.], [3., 4.]], &Device::Cpu)?;
        let near = closeness(
            &Tensor::new(&[[0f64, 0.], [3., 0.]], &Device::Cpu)?,
            &prototypes,
        )?
        .to_vec2::<f64>()?;
        // Distances 0 and 5, 3 and 4; the root of TINY is 1e-6.
        for (near, expected) in near.iter().flatten().zip([0., -5., -3., -4.]) {
            assert!((near - expected).abs() <= 1e-6, "{near}");
        }
        Ok(())
    }
}
