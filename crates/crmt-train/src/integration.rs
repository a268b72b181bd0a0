//! CRMT's second step: integration weights and bias that raise the certified (or estimated)
//! radius, on frozen encoders and directions.
//!
//! The step is a phase of the one loop over a small model whose inputs are cached scores, so
//! encoders, directions and running statistics can't move (unless
//! [asked](IntegrationModel::moving)). Does not know encoders, nor whether its constants are
//! proved.
use crate::{Batches, Draws, Part, Prepared, Result, Source, StepLoss, Strategy};
use candle_core::{DType, Device, Tensor, Var};
use crmt_certify::{RivalRule, objective, rival_ratio};
use crmt_core::{
    AdditiveClassifier, AdditiveScores, Batch, Classifier, Integration, Missing, Modality, Mode,
    PerModality, Streams, Trainable, Variable,
};
use rand::seq::SliceRandom;

/// The gauge: radii depend on `(a, b)` only up to a positive factor, so `a` has root mean square 1.
///
/// `a = softplus(raw) / rms`, and `b` in the same units; both are written back in the units of the
/// head they came from, so the scale of the logits stays.
pub struct IntegrationModel<'a> {
    raw: PerModality<Var>,
    bias: Var,
    /// Root mean square of the head's weights before.
    scale: f64,
    fixed: Frozen,
    /// Computes the scores of samples in train mode.
    moving: Option<&'a dyn Trainable>,
}

/// The same storage, tracking nothing.
struct Frozen {
    modalities: PerModality<Modality>,
    raw: PerModality<Tensor>,
    bias: Tensor,
}

impl<'a> IntegrationModel<'a> {
    /// Starts at the head's own weights; weights that are not positive start at a thousandth of
    /// their root mean square. Those of `pruned` modalities are 0, and stay so.
    pub fn new(
        modalities: &PerModality<Modality>,
        head: &Integration,
        pruned: Option<&Missing>,
    ) -> Result<Self> {
        let weights = head.weights.map(|a| a.as_tensor().clone());
        let weights = if head.gauged {
            gauge(&weights)?
        } else {
            weights
        };
        let weights = weights.try_map(|a| a.to_dtype(DType::F64)?.to_vec1::<f64>())?;
        let (sum, n) = weights
            .iter()
            .flatten()
            .fold((0.0, 0.0), |(sum, n), a| (sum + a * a, n + 1.0));
        let scale = (sum / n).sqrt().max(f64::MIN_POSITIVE);
        let raw = weights.try_enumerate(|m, a| {
            let gone = pruned.is_some_and(|gone| gone.contains(m));
            let raw = |a: &f64| {
                if gone {
                    NOTHING
                } else {
                    inverse_softplus((a / scale).max(1e-3))
                }
            };
            Var::from_vec(a.iter().map(raw).collect::<Vec<_>>(), a.len(), &Device::Cpu)
        })?;
        let bias = head.bias.to_device(&Device::Cpu)?.to_dtype(DType::F64)?;
        let bias = Var::from_tensor(&(bias / scale)?.detach())?;
        let fixed = Frozen {
            modalities: modalities.clone(),
            raw: raw.map(|v| v.as_detached_tensor()),
            bias: bias.as_detached_tensor(),
        };
        Ok(Self {
            raw,
            bias,
            scale,
            fixed,
            moving: None,
        })
    }

    /// Trained on samples, whose scores `model` computes by the statistics of their batch: its
    /// running ones move with every step, as in the released code.
    pub fn moving(self, model: &'a dyn Trainable) -> Self {
        Self {
            moving: Some(model),
            ..self
        }
    }

    /// Writes the weights and the bias into the head.
    pub fn write_to(&self, head: &Integration) -> Result<()> {
        let (weights, bias) = self.fixed.integration()?;
        // Of gauged weights the size is 1, and so is `scale`.
        let weights = if head.gauged {
            weights.try_map(ungauge)?
        } else {
            weights.try_map(|a| a * self.scale)?
        };
        let new = weights.into_iter().chain([(bias * self.scale)?]);
        let vars = head.weights.iter().chain([&head.bias]);
        for (var, value) in vars.zip(new) {
            var.set(&value.to_dtype(var.dtype())?.to_device(var.device())?)?;
        }
        Ok(())
    }
}

/// Its softplus is 0, in any type.
const NOTHING: f64 = -1e4;

/// What [`gauge`] turns into `weights` (f64), if these have root mean square 1.
fn ungauge(weights: &Tensor) -> candle_core::Result<Tensor> {
    let raw = |a: f64| {
        if a > 0.0 {
            inverse_softplus(a)
        } else {
            NOTHING
        }
    };
    let raw: Vec<f64> = weights.to_vec1::<f64>()?.into_iter().map(raw).collect();
    Tensor::from_vec(raw, weights.shape(), weights.device())
}

impl Frozen {
    fn integration(&self) -> candle_core::Result<(PerModality<Tensor>, Tensor)> {
        Ok((gauge(&self.raw)?, self.bias.clone()))
    }
}

fn gauge(raw: &PerModality<Tensor>) -> candle_core::Result<PerModality<Tensor>> {
    Ok(PerModality::new(crmt_kernels::gauged(raw.as_slice())?).expect("one for each modality"))
}

fn inverse_softplus(y: f64) -> f64 {
    y + (-(-y).exp_m1()).ln()
}

impl Classifier for Frozen {
    fn modalities(&self) -> &PerModality<Modality> {
        &self.modalities
    }
    fn logits(&self, inputs: &PerModality<Tensor>) -> crmt_core::Result<Tensor> {
        self.scores(inputs)?.logits()
    }
}

impl AdditiveClassifier for Frozen {
    fn scores(&self, inputs: &PerModality<Tensor>) -> crmt_core::Result<AdditiveScores> {
        let (weights, bias) = self.integration()?;
        Ok(AdditiveScores {
            unimodal: inputs.clone(),
            weights,
            bias,
        })
    }
}

/// As the second step computes: f64, on the CPU, tracking nothing.
fn exact(scores: &Tensor) -> candle_core::Result<Tensor> {
    scores
        .detach()
        .to_device(&Device::Cpu)?
        .to_dtype(DType::F64)
}

impl Trainable for IntegrationModel<'_> {
    /// Scores: those of samples in train mode if statistics [move](Self::moving), else the inputs.
    fn features(
        &self,
        inputs: &PerModality<Tensor>,
        mode: Mode,
    ) -> crmt_core::Result<PerModality<Tensor>> {
        Ok(match (self.moving, mode) {
            (Some(model), Mode::Train) => model.scores(inputs, mode)?.unimodal.try_map(exact)?,
            _ => inputs.clone(),
        })
    }
    fn fuse(&self, features: &PerModality<Tensor>) -> crmt_core::Result<AdditiveScores> {
        let weights = gauge(&self.raw.map(|v| v.as_tensor().clone()))?;
        Ok(AdditiveScores {
            unimodal: features.clone(),
            weights,
            bias: self.bias.as_tensor().clone(),
        })
    }
    fn fixed(&self) -> &dyn AdditiveClassifier {
        &self.fixed
    }
    fn variables(&self) -> Vec<Variable> {
        let named = |name: String, var: &Var| Variable {
            name,
            var: var.clone(),
            learned: true,
        };
        let weights = self
            .raw
            .iter()
            .zip(&self.fixed.modalities)
            .map(|(v, m)| named(format!("{}.raw", m.name), v));
        let statistics = self
            .moving
            .iter()
            .flat_map(|model| model.variables())
            .filter(|v| !v.learned);
        weights
            .chain([named("bias".into(), &self.bias)])
            .chain(statistics)
            .collect()
    }
    fn integration(&self) -> Option<Integration> {
        None
    }
}

/// How Lipschitz constants of margins depend on the integration weights.
#[derive(Clone)]
pub enum Tables {
    /// `|a_y| T_y + |a_j| T_j` with per-class constants `T(m)`, each `[classes]` (f64).
    Sum {
        /// Per modality.
        norms: PerModality<Tensor>,
    },
    /// `‖a_y W_y − a_j W_j‖ · L` with rows `W(m)`, each `[classes, dim]` (f64).
    Pairwise {
        /// Per modality.
        rows: PerModality<Tensor>,
        /// Lipschitz constants of the features.
        features: PerModality<f64>,
    },
}

impl Tables {
    /// Per modality `[classes, classes]`, differentiable in the weights.
    pub fn at(&self, weights: &PerModality<Tensor>) -> Result<PerModality<Tensor>> {
        Ok(match self {
            Self::Sum { norms } => objective::sum_table(weights, norms)?,
            Self::Pairwise { rows, features } => {
                objective::pairwise_table(weights, rows, features)?
            }
        })
    }
}

/// `mean relu(target − min_{j≠y} ratio_j)`: raises radii up to `target`, signed where the sample is
/// misclassified, so that every sample has a gradient until it is robust enough.
pub struct RadiusHinge {
    /// Lipschitz constants.
    pub tables: Tables,
    /// Where a radius is large enough.
    pub target: f64,
    /// Whose ratio the loss takes for the radius.
    pub rival: RivalRule,
}

impl RadiusHinge {
    /// Signed radius `min_{j≠y} (h_y − h_j) / L_yj` of each sample, `[batch]`.
    pub fn signed_radii(
        tables: &Tables,
        scores: &AdditiveScores,
        labels: &Tensor,
    ) -> Result<Tensor> {
        let tables = tables.at(&scores.weights)?;
        let ratios = objective::signed_ratios(&scores.logits()?, labels, &tables)?;
        Ok(objective::min_ratio(&ratios)?)
    }
}

impl Strategy for RadiusHinge {
    fn prepare(&self, model: &dyn Trainable, batch: &Batch, _: &Draws) -> Result<Prepared> {
        let inputs = model.features(&batch.inputs, Mode::Train)?;
        let labels = batch.labels.to_device(inputs[0].device())?;
        Ok(Prepared {
            inputs,
            labels,
            ..Prepared::clean(batch)
        })
    }

    fn loss(&self, model: &dyn Trainable, prepared: &Prepared) -> Result<StepLoss> {
        let scores = model.fuse(&prepared.inputs)?;
        let tables = self.tables.at(&scores.weights)?;
        let radii = rival_ratio(&scores.logits()?, &prepared.labels, &tables, self.rival)?;
        let short = (radii.neg()? + self.target)?;
        let total = crmt_kernels::relu(&short)?.mean_all()?;
        Ok(StepLoss::new(
            total,
            vec![("radius", Part::from(&radii.mean_all()?))],
            prepared,
            &scores,
        ))
    }
}

/// Scores computed once, served as shuffled batches.
pub struct CachedScores {
    scores: Batch,
    batch: usize,
    streams: Streams,
}

impl CachedScores {
    /// Scores (f64, on the CPU) of every sample of `batches`, served `batch` at a time.
    pub fn new(
        model: &dyn AdditiveClassifier,
        batches: impl Iterator<Item = Result<Batch>>,
        batch: usize,
        streams: Streams,
    ) -> Result<Self> {
        let (mut parts, mut labels) = (vec![], vec![]);
        for samples in batches {
            let samples = samples?;
            parts.push(model.scores(&samples.inputs)?.unimodal.try_map(exact)?);
            labels.push(samples.labels.to_device(&Device::Cpu)?);
        }
        let Some(first) = parts.first() else {
            return Err(candle_core::Error::Msg("no samples to compute scores of".into()).into());
        };
        let unimodal = PerModality::from_fn(first.len(), |m| {
            parts.iter().map(|p| p[m].clone()).collect::<Vec<_>>()
        })
        .try_map(|column| Tensor::cat(column, 0))?;
        let scores = Batch {
            inputs: unimodal,
            labels: Tensor::cat(&labels, 0)?,
        };
        let batch = batch.clamp(1, scores.len());
        Ok(Self {
            scores,
            batch,
            streams,
        })
    }

    /// All of them.
    pub fn all(&self) -> &Batch {
        &self.scores
    }
}

impl Source for CachedScores {
    fn steps(&self) -> u64 {
        (self.scores.len() / self.batch) as u64
    }

    fn epoch<'a>(&'a self, epoch: u64) -> Result<Box<dyn Batches + 'a>> {
        let mut order: Vec<u32> = (0..self.scores.len() as u32).collect();
        order.shuffle(&mut self.streams.stream("step-2 shuffle", epoch));
        Ok(Box::new(Shuffled { of: self, order }))
    }
}

struct Shuffled<'a> {
    of: &'a CachedScores,
    order: Vec<u32>,
}

impl Batches for Shuffled<'_> {
    fn batch(&self, i: u64) -> Result<Batch> {
        let CachedScores { scores, batch, .. } = self.of;
        let rows = Tensor::new(&self.order[i as usize * batch..][..*batch], &Device::Cpu)?;
        Ok(Batch {
            inputs: scores.inputs.try_map(|s| s.index_select(&rows, 0))?,
            labels: scores.labels.index_select(&rows, 0)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crmt_core::Domain;

    fn modalities() -> PerModality<Modality> {
        PerModality::from(
            ["image", "audio"].map(|name| Modality::new(name, &[2], Domain::Unbounded)),
        )
    }

    fn head(gauged: bool, weights: [[f32; 2]; 2]) -> candle_core::Result<Integration> {
        let var = |v: &[f32]| Var::from_slice(v, v.len(), &Device::Cpu);
        let weights = PerModality::from([var(&weights[0])?, var(&weights[1])?]);
        Ok(Integration {
            weights,
            gauged,
            bias: var(&[0.3, -0.1])?,
        })
    }

    fn values(weights: &PerModality<Tensor>) -> Result<Vec<f64>> {
        let each = weights
            .iter()
            .map(|w| w.to_dtype(DType::F64)?.to_vec1::<f64>());
        Ok(each.collect::<candle_core::Result<Vec<_>>>()?.concat())
    }

    #[test]
    fn what_is_written_back_is_what_was_read() -> Result<()> {
        for gauged in [false, true] {
            let head = head(gauged, [[0.4, 0.1], [0.2, 1.3]])?;
            let now = |head: &Integration| -> Result<Vec<f64>> {
                let own = head.weights.map(|v| v.as_tensor().clone());
                values(&if gauged { gauge(&own)? } else { own })
            };
            let before = now(&head)?;
            IntegrationModel::new(&modalities(), &head, None)?.write_to(&head)?;
            for (a, b) in now(&head)?.iter().zip(&before) {
                // A softplus, its inverse and two conversions to f32.
                assert!((a - b).abs() < 1e-6, "{gauged}: {a} {b}");
            }
            let bias: Vec<f32> = head.bias.to_vec1()?;
            assert!(
                (bias[0] - 0.3).abs() < 1e-6 && (bias[1] + 0.1).abs() < 1e-6,
                "{gauged}: {bias:?}"
            );
        }
        Ok(())
    }

    #[test]
    fn a_pruned_modality_has_no_weight_and_gets_none() -> Result<()> {
        let head = head(true, [[0.4, 0.1], [0.2, 1.3]])?;
        let pruned = Missing::each(2).remove(1);
        let model = IntegrationModel::new(&modalities(), &head, Some(&pruned))?;
        let rows = model
            .raw
            .try_map(|_| Tensor::new(&[[1f64, 0.], [0., 1.]], &Device::Cpu))?;
        let hinge = RadiusHinge {
            tables: Tables::Pairwise {
                rows,
                features: PerModality::from([1.0, 1.0]),
            },
            target: 9.0,
            rival: RivalRule::Minimum,
        };
        let scores = model
            .raw
            .try_map(|_| Tensor::new(&[[0.9f64, 0.2], [0.1, 0.4]], &Device::Cpu))?;
        let batch = Batch {
            inputs: scores,
            labels: Tensor::new(&[0u32, 1], &Device::Cpu)?,
        };
        let loss = hinge.loss(&model, &Prepared::clean(&batch))?;
        let gradients = loss.total.backward()?;
        let slope = |m: usize| {
            gradients
                .get(&model.raw[m])
                .expect("tracked")
                .to_vec1::<f64>()
        };
        assert_eq!(slope(1)?, [0.0, 0.0]);
        assert!(
            slope(0)?.iter().all(|g| g.is_finite() && *g != 0.0),
            "{:?}",
            slope(0)?
        );
        model.write_to(&head)?;
        let now = values(&gauge(&head.weights.map(|v| v.as_tensor().clone()))?)?;
        assert_eq!(now[2..], [0.0, 0.0]);
        // Two weights carry the root mean square of four.
        assert!(
            (now[0] * now[0] + now[1] * now[1] - 4.0).abs() < 1e-5,
            "{now:?}"
        );
        Ok(())
    }
}
