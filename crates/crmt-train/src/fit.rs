//! The only training loop.
//! Does not know which method it runs, where batches come from or where results go.
use crate::{Draws, Error, Result, Schedule, Strategy, strategy::scalar};
use candle_core::{Tensor, Var};
use crmt_core::{Batch, Streams, Trainable};
use crmt_kernels::{Optimizer, clip_grad_norm};
use std::collections::BTreeMap;

/// Where batches come from.
pub trait Source {
    /// Batches in one epoch.
    fn steps(&self) -> u64;

    /// The batches of epoch `epoch` (from 0), in order; the same for the same number.
    fn epoch<'a>(&'a self, epoch: u64) -> Box<dyn Iterator<Item = Result<Batch>> + 'a>;
}

/// One phase of training: which objective, on what, how long.
pub struct Phase<'a> {
    /// Shown in records and errors, e.g. `step-1`.
    pub name: &'a str,
    /// The objective.
    pub strategy: &'a dyn Strategy,
    /// The batches.
    pub source: &'a dyn Source,
    /// Epochs to run.
    pub epochs: u64,
    /// Over the whole phase.
    pub schedule: Schedule,
    /// Peak learning rate.
    pub learning_rate: f64,
    /// Largest l2 norm of the gradient of all parameters together; larger ones are scaled down.
    /// Infinite for no limit.
    pub clip: f64,
    /// The run's randomness.
    pub streams: Streams,
}

/// What happened in one epoch.
#[derive(Debug, Clone, PartialEq)]
pub struct EpochReport {
    /// From 1.
    pub epoch: u64,
    /// Mean over the batches.
    pub loss: f64,
    /// Means of the loss's parts.
    pub parts: BTreeMap<&'static str, f64>,
    /// At the end of the epoch.
    pub learning_rate: f64,
    /// What `select` measured.
    pub selected: Selected,
}

/// A measurement on the selection split.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Selected {
    /// Clean accuracy, for the record.
    pub accuracy: f64,
    /// What decides which epoch is best; larger is better.
    pub score: f64,
}

/// Trains `model`, and leaves it with the weights of the epoch that `select` scored highest (the
/// later one on a tie). Returns that epoch's number.
///
/// `select` measures the model after each epoch, on data that is neither trained nor reported on.
/// `progress` hears about every step (`None`) and every epoch (`Some`).
///
/// # Errors
/// A loss that is not finite, an empty epoch, a batch that can't be read.
pub fn fit<E: From<Error>>(
    model: &dyn Trainable,
    optimizer: &mut dyn Optimizer,
    phase: &Phase,
    mut select: impl FnMut(&dyn Trainable) -> Result<Selected, E>,
    mut progress: impl FnMut(Option<&EpochReport>) -> Result<(), E>,
) -> Result<u64, E> {
    let steps = phase.epochs * phase.source.steps();
    let mut step = 0;
    let mut best: Option<(EpochReport, Snapshot)> = None;
    for epoch in 0..phase.epochs {
        let mut losses = Mean::default();
        let mut parts = BTreeMap::<_, Mean>::new();
        let mut learning_rate = 0.0;
        for batch in phase.source.epoch(epoch) {
            let draws = Draws { streams: phase.streams, step };
            let loss = phase.strategy.loss(model, &batch?, &draws)?;
            let value = scalar(&loss.total).map_err(Error::from)?;
            if !value.is_finite() {
                let (phase, epoch, batch) = (phase.name.to_owned(), epoch + 1, losses.count + 1);
                return Err(Error::NonFiniteLoss { phase, epoch, batch, loss: value }.into());
            }
            losses.add(value);
            for (name, value) in &loss.parts {
                parts.entry(*name).or_default().add(*value);
            }
            learning_rate = phase.learning_rate * phase.schedule.factor(step, steps);
            let gradients = loss.total.backward().map_err(Error::from)?;
            let clipped = clip_grad_norm(&gradients, optimizer.parameters(), phase.clip).map_err(Error::from)?;
            optimizer.step_scaled(&gradients, learning_rate, clipped.scale).map_err(Error::from)?;
            step += 1;
            progress(None)?;
        }
        if losses.count == 0 {
            return Err(Error::EmptyEpoch { phase: phase.name.to_owned(), epoch: epoch + 1 }.into());
        }
        let report = EpochReport {
            epoch: epoch + 1,
            loss: losses.value(),
            parts: parts.iter().map(|(name, mean)| (*name, mean.value())).collect(),
            learning_rate,
            selected: select(model)?,
        };
        progress(Some(&report))?;
        if best.as_ref().is_none_or(|(best, _)| report.selected.score >= best.selected.score) {
            best = Some((report, Snapshot::take(model)?));
        }
    }
    let Some((report, snapshot)) = best else { return Ok(0) };
    if report.epoch < phase.epochs {
        snapshot.restore()?;
    }
    Ok(report.epoch)
}

/// A copy of every variable of a model.
struct Snapshot(Vec<(Var, Tensor)>);

impl Snapshot {
    fn take(model: &dyn Trainable) -> Result<Self> {
        let copy = |var: Var| Ok((var.clone(), var.as_tensor().copy()?.detach()));
        model.variables().into_iter().map(|v| copy(v.var)).collect::<Result<_>>().map(Self)
    }

    fn restore(&self) -> Result<()> {
        self.0.iter().try_for_each(|(var, saved)| Ok(var.set(saved)?))
    }
}

#[derive(Default)]
struct Mean {
    sum: f64,
    count: u64,
}

impl Mean {
    fn add(&mut self, value: f64) {
        self.sum += value;
        self.count += 1;
    }
    fn value(&self) -> f64 {
        self.sum / self.count as f64
    }
}
