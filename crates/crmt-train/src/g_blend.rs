//! G-Blend (Wang, Tran, Feiszli 2020, "What makes training multi-modal classification networks
//! hard?"): losses of each modality alone and of all together, weighted by how well they
//! generalise. Does not know where samples come from.
use crate::{
    Draws, Error, Part, Prepared, Result, StepLoss, Strategy, TrainingInputs,
    prepared::one_hot,
    soft_cross_entropy,
    strategy::{scalar, solo_logits},
};
use candle_core::{Device, Tensor};
use crmt_core::{Batch, Mode, Trainable};

/// `Σ_m w_m CE(solo logits of m) + w_joint CE(h)`, with weights that add up to 1.
///
/// Every `every` epochs, from the losses `T` on training and `V` on selection samples now and
/// `every` epochs before,
///
/// ```text
/// w ∝ ΔG / ΔO²     ΔG = V_before − V_now     ΔO = (V − T)_now − (V − T)_before
/// ```
///
/// the inverse of the overfitting-to-generalisation ratio: `ΔG` counts as 0 where the loss has
/// risen, and `|ΔO|` as at least [`LEAST`](Self::LEAST). The weights stay where no loss has fallen.
/// They are equal at first.
///
/// Published: each modality has a classifier of its own, and is trained on its own to estimate its
/// ratio. Here its part of the additive head is its classifier, and all ratios are those of the one
/// training that runs.
pub struct GBlend {
    inputs: TrainingInputs,
    every: u64,
    train: Batch,
    select: Batch,
    /// Of each modality, then of all together; empty before the first epoch.
    weights: Vec<f64>,
    /// `[training, selection]`, as the weights.
    before: Vec<[f64; 2]>,
}

/// Samples of one forward pass of a measurement.
const CHUNK: usize = 250;

impl GBlend {
    /// `|ΔO|` counts as no less: about what a mean loss of a thousand samples is uncertain by. A
    /// difference that means nothing would decide everything.
    pub const LEAST: f64 = 0.02;

    /// `train` and `select` are what losses are measured on, `every` at least one epoch.
    pub fn new(inputs: TrainingInputs, every: u64, train: Batch, select: Batch) -> Self {
        Self {
            inputs,
            every: every.max(1),
            train,
            select,
            weights: vec![],
            before: vec![],
        }
    }

    /// Of each modality, then of all together.
    pub fn weights(&self) -> &[f64] {
        &self.weights
    }

    fn measure(model: &dyn Trainable, batch: &Batch) -> Result<Vec<f64>> {
        let mut sums = vec![];
        for start in (0..batch.len()).step_by(CHUNK) {
            let part = batch.narrow(start, CHUNK.min(batch.len() - start))?;
            let scores = model.fixed().scores(&part.inputs)?;
            let logits = scores.logits()?;
            let targets = one_hot(&part.labels, logits.dim(1)?, logits.dtype())?;
            let all = solo_logits(&scores)?.into_iter().chain([logits]);
            sums.resize(scores.unimodal.len() + 1, 0.0);
            for (sum, logits) in sums.iter_mut().zip(all) {
                *sum += scalar(&soft_cross_entropy(&logits, &targets)?.sum_all()?)?;
            }
        }
        Ok(sums
            .into_iter()
            .map(|sum| sum / batch.len() as f64)
            .collect())
    }
}

/// `None` where no loss has fallen.
fn blend(before: &[[f64; 2]], now: &[[f64; 2]]) -> Option<Vec<f64>> {
    let ratios = before
        .iter()
        .zip(now)
        .map(|([train, select], [train_now, select_now])| {
            let gain = (select - select_now).max(0.0);
            let overfit = ((select_now - train_now) - (select - train))
                .abs()
                .max(GBlend::LEAST);
            gain / overfit.powi(2)
        });
    let ratios: Vec<f64> = ratios.collect();
    let total: f64 = ratios.iter().sum();
    (total > 0.0).then(|| ratios.iter().map(|ratio| ratio / total).collect())
}

impl Strategy for GBlend {
    fn begin_epoch(&mut self, model: &dyn Trainable, epoch: u64) -> Result<()> {
        if !epoch.is_multiple_of(self.every) {
            return Ok(());
        }
        let (train, select) = (
            Self::measure(model, &self.train)?,
            Self::measure(model, &self.select)?,
        );
        let now: Vec<[f64; 2]> = train
            .into_iter()
            .zip(select)
            .map(|(train, select)| [train, select])
            .collect();
        if self.weights.is_empty() {
            self.weights = vec![1.0 / now.len() as f64; now.len()];
        } else if let Some(weights) = blend(&self.before, &now) {
            self.weights = weights;
        }
        self.before = now;
        Ok(())
    }

    fn prepare(&self, model: &dyn Trainable, batch: &Batch, draws: &Draws) -> Result<Prepared> {
        self.inputs.prepare(model, batch, draws)
    }

    fn loss(&self, model: &dyn Trainable, prepared: &Prepared) -> Result<StepLoss> {
        let scores = model.scores(&prepared.inputs, Mode::Train)?;
        let logits = scores.logits()?;
        let targets = prepared.targets(logits.dim(1)?)?;
        let joint = soft_cross_entropy(&logits, &targets)?.mean_all()?;
        let Some((joint_weight, own_weights)) = self.weights.split_last() else {
            return Err(Error::Strategy(
                "g-blend: an epoch must begin before its losses are weighted".into(),
            ));
        };
        let mut parts = vec![
            ("cross_entropy", Part::from(&joint)),
            ("joint_weight", Part::from(*joint_weight)),
        ];
        let mut total = (joint * *joint_weight)?;
        let mut alone: Option<Tensor> = None;
        for (logits, weight) in solo_logits(&scores)?.iter().zip(own_weights) {
            let own = soft_cross_entropy(logits, &targets)?.mean_all()?;
            let share = (own.detach() / own_weights.len() as f64)?;
            alone = Some(alone.map_or(Ok(share.clone()), |alone| alone + share)?);
            total = (total + (own * *weight)?)?;
        }
        parts.extend(alone.map(|alone| ("solo_cross_entropy", Part::Scalar(alone))));
        Ok(StepLoss::new(total, parts, prepared, &scores))
    }

    fn state(&self) -> Result<Vec<(String, Tensor)>> {
        let before = self.before.concat();
        Ok(vec![
            (
                "weights".into(),
                Tensor::from_slice(&self.weights, self.weights.len(), &Device::Cpu)?,
            ),
            (
                "before".into(),
                Tensor::from_slice(&before, before.len(), &Device::Cpu)?,
            ),
        ])
    }

    fn restore(&mut self, get: &dyn Fn(&str) -> Option<Tensor>) -> Result<()> {
        let read = |name: &str| -> Result<Vec<f64>> {
            let missing = || {
                Error::State(format!(
                    "`strategy.{name}` is missing: the state is of another strategy"
                ))
            };
            Ok(get(name).ok_or_else(missing)?.to_vec1()?)
        };
        let before = read("before")?;
        (self.weights, self.before) = (read("weights")?, before.as_chunks::<2>().0.to_vec());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_follow_the_ratio() {
        // [training, selection] losses of two modalities and of both together.
        let before = [[2.0, 2.0], [2.0, 2.0], [1.0, 1.5]];
        let now = [[1.0, 1.5], [0.5, 1.8], [0.5, 1.0]];
        // ΔG = 0.5, 0.2, 0.5; ΔO = 0.5, 1.3, 0 (counts as LEAST).
        let ratios = [0.5 / 0.25, 0.2 / 1.69, 0.5 / GBlend::LEAST.powi(2)];
        let total: f64 = ratios.iter().sum();
        for (weight, ratio) in blend(&before, &now).unwrap().iter().zip(ratios) {
            // A few roundings.
            assert!((weight - ratio / total).abs() < 1e-12);
        }
        // What has only risen gets nothing; where all have, there are no weights.
        let risen = [[1.0, 3.0], [0.5, 1.8], [0.5, 1.0]];
        assert_eq!(blend(&before, &risen).unwrap()[0], 0.0);
        assert_eq!(blend(&before[..1], &risen[..1]), None);
    }
}
