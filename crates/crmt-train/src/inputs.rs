//! What a batch becomes before the loss: itself, adversarial, mixed, noisy, or with modalities
//! missing. Does not know the loss, nor how attacks search.
use crate::{Draws, Mixed, Prepared, Result};
use candle_core::{Device, Tensor};
use crmt_attacks::{Attack, Goal};
use crmt_core::{Batch, Classifier, Missing, Modality, Mode, PerModality, Trainable};
use rand::{Rng, seq::SliceRandom};
use rand_distr::{Beta, StandardNormal};

/// What a batch becomes before the loss.
pub enum TrainingInputs {
    /// Itself.
    Clean,
    /// The attack's answer to the model.
    Adversarial {
        /// Who answers.
        attack: Box<dyn Attack>,
        /// [`Mode::Eval`]: the attack sees the fixed model. [`Mode::Train`]: the one in training,
        /// whose running statistics it moves, as in the released code.
        mode: Mode,
    },
    /// `λ·x + (1−λ)·x'` with a shuffled copy of the batch, `λ ~ Beta(alpha, alpha)`.
    Mixup {
        /// Both parameters of the Beta distribution; positive.
        alpha: f64,
    },
    /// `x(m) + σ(m)·scale(m)·η`, `η ~ N(0, I)`, as randomized smoothing will show it; not clipped
    /// to the domain, as smoothing does not either.
    Noise {
        /// Standard deviations, in declared units ([`crmt_core::Modality::scale`]).
        sigmas: PerModality<f64>,
    },
    /// Some modalities replaced by their baselines.
    Dropout(ModalityDropout),
}

/// Replaces a random proper subset of modalities (of more than ten: one of them) by their
/// baselines, for whole batches.
pub struct ModalityDropout {
    /// How often.
    pub probability: f64,
    /// One sample of each modality.
    pub baselines: PerModality<Tensor>,
}

impl ModalityDropout {
    pub(crate) fn apply(
        &self,
        inputs: &PerModality<Tensor>,
        draws: &Draws,
    ) -> Result<PerModality<Tensor>> {
        let mut rng = draws.streams.stream("modality dropout", draws.step);
        if self.probability == 0.0 || inputs.len() == 1 || rng.random::<f64>() >= self.probability {
            return Ok(inputs.clone());
        }
        // Of many modalities there are too many subsets: then one is missing.
        let subsets = if inputs.len() <= 10 {
            Missing::all(inputs.len())
        } else {
            Missing::each(inputs.len())
        };
        Ok(subsets[rng.random_range(0..subsets.len())].apply(inputs, &self.baselines)?)
    }
}

impl TrainingInputs {
    pub(crate) fn prepare(
        &self,
        model: &dyn Trainable,
        batch: &Batch,
        draws: &Draws,
    ) -> Result<Prepared> {
        let clean = Prepared::clean(batch);
        Ok(match self {
            Self::Clean => clean,
            Self::Adversarial { attack, mode } => {
                let goal = Goal::Avoid(batch.labels.clone());
                let draws = crmt_attacks::Draws::new(draws.streams, draws.step << 32);
                let (fixed, moving) = (model.fixed(), InTraining(model));
                let victim: &dyn Classifier = if *mode == Mode::Eval { &fixed } else { &moving };
                let inputs =
                    crmt_attacks::perturb(attack.as_ref(), victim, &batch.inputs, &goal, &draws)?;
                Prepared { inputs, ..clean }
            }
            Self::Mixup { alpha } => {
                let mut rng = draws.streams.stream("mixup", draws.step);
                let beta = Beta::new(*alpha, *alpha)
                    .map_err(|e| candle_core::Error::Msg(format!("mixup: {e}")))?;
                let lambda: f64 = rng.sample(beta);
                let mut order: Vec<u32> = (0..batch.len() as u32).collect();
                order.shuffle(&mut rng);
                let order = Tensor::new(order, batch.labels.device())?;
                let share = |share: f64| {
                    Tensor::new(share, batch.labels.device())?.to_dtype(batch.inputs[0].dtype())
                };
                let mixed = Mixed {
                    labels: batch.labels.index_select(&order, 0)?,
                    shares: [share(lambda)?, share(1.0 - lambda)?],
                };
                let inputs = batch
                    .inputs
                    .try_map(|x| mixed.mix(x, &x.index_select(&order, 0)?))?;
                Prepared {
                    inputs,
                    mixed: Some(mixed),
                    ..clean
                }
            }
            Self::Dropout(dropout) => Prepared {
                inputs: dropout.apply(&batch.inputs, draws)?,
                ..clean
            },
            Self::Noise { sigmas } => Prepared {
                inputs: noisy(model.fixed().modalities(), &batch.inputs, sigmas, draws)?,
                ..clean
            },
        })
    }
}

/// The model with the statistics of the batch.
struct InTraining<'a>(&'a dyn Trainable);

impl Classifier for InTraining<'_> {
    fn modalities(&self) -> &PerModality<Modality> {
        self.0.fixed().modalities()
    }

    fn logits(&self, inputs: &PerModality<Tensor>) -> crmt_core::Result<Tensor> {
        self.0.scores(inputs, Mode::Train)?.logits()
    }
}

/// Noise from a stream for each modality and step, one draw for each element in order.
fn noisy(
    modalities: &PerModality<Modality>,
    inputs: &PerModality<Tensor>,
    sigmas: &PerModality<f64>,
    draws: &Draws,
) -> Result<PerModality<Tensor>> {
    inputs
        .zip(sigmas, "noise levels")?
        .try_enumerate(|m, (x, sigma)| {
            let deviation = **sigma * modalities[m].scale;
            let mut rng = draws.streams.stream(&format!("noise m{m}"), draws.step);
            let noise: Vec<f32> = (0..x.elem_count())
                .map(|_| rng.sample(StandardNormal))
                .collect();
            let noise = Tensor::from_vec(noise, x.shape(), &Device::Cpu)?
                .to_dtype(x.dtype())?
                .to_device(x.device())?;
            Ok((*x + (noise * deviation)?)?)
        })
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::DType;
    use crmt_core::{Domain, Streams};

    #[test]
    fn noise_has_the_declared_deviation_and_repeats() -> Result<()> {
        let modality = |name, scale| Modality {
            scale,
            ..Modality::new(name, &[50], Domain::Unbounded)
        };
        let modalities =
            PerModality::from([modality("a", 1.0), modality("b", 4.0), modality("c", 1.0)]);
        let x = PerModality::from_fn(3, |m| {
            Tensor::full(m as f32, (400, 50), &Device::Cpu).expect("a constant")
        });
        let draw = |step| -> Result<PerModality<Vec<f64>>> {
            let draws = Draws {
                streams: Streams::new(3),
                step,
            };
            let noisy = noisy(
                &modalities,
                &x,
                &PerModality::from([0.5, 0.25, 0.0]),
                &draws,
            )?;
            noisy.try_map(|x| Ok(x.flatten_all()?.to_dtype(DType::F64)?.to_vec1::<f64>()?))
        };
        let first = draw(0)?;
        for (m, deviation) in [0.5, 1.0, 0.0].into_iter().enumerate() {
            let n = first[m].len() as f64;
            let mean = first[m].iter().sum::<f64>() / n;
            let variance = first[m].iter().map(|v| (v - mean).powi(2)).sum::<f64>() / n;
            // Four standard errors: of a mean `s/sqrt(n)`, of a deviation `s/sqrt(2n)`.
            assert!(
                (mean - m as f64).abs() <= 4.0 * deviation / n.sqrt(),
                "modality {m}: mean {mean}"
            );
            assert!(
                (variance.sqrt() - deviation).abs() <= 4.0 * deviation / (2.0 * n).sqrt(),
                "modality {m}: {variance}"
            );
        }
        assert_eq!(draw(0)?, first);
        assert_ne!(draw(1)?[0], first[0]);
        // The same noise on every modality would be half the dimensions.
        let standard = |m: usize, s: f64| {
            first[m]
                .iter()
                .map(|v| (v - m as f64) / s)
                .collect::<Vec<_>>()
        };
        assert!(
            standard(0, 0.5)
                .iter()
                .zip(standard(1, 1.0))
                .any(|(a, b)| (a - b).abs() > 0.1)
        );
        Ok(())
    }
}
