//! What training goes on from after it was stopped: the position, and tensors by name.
//! Does not know files.
use crate::{EpochReport, Error, Result};
use candle_core::{Tensor, Var};
use crmt_core::Trainable;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Everything that a phase has changed so far. Randomness is drawn anew for each step from the
/// run's streams, so the position is all that it needs.
#[derive(Debug, Clone)]
pub struct State {
    /// Where the phase is.
    pub position: Position,
    /// `model.…`, `optimizer.…`, and where they exist `best.…`, `average.…` and `strategy.…`.
    pub tensors: BTreeMap<String, Tensor>,
}

/// Where a phase is.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Position {
    /// Finished epochs.
    pub epoch: u64,
    /// Finished batches of the next.
    pub batch: u64,
    /// Finished batches of the phase.
    pub step: u64,
    /// Steps of the optimizer.
    pub updates: u64,
    /// What the unfinished epoch's report will be made of.
    pub means: Means,
    /// The best epoch so far, the later one on a tie.
    pub best: Option<EpochReport>,
    /// The last epoch that was better than all before it, from 1.
    pub improved: u64,
}

/// Means by name, of values that come one by one.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Means(BTreeMap<String, (f64, u64)>);

impl Means {
    pub(crate) fn add(&mut self, name: impl Into<String>, value: f64) {
        let (sum, count) = self.0.entry(name.into()).or_default();
        *sum += value;
        *count += 1;
    }

    /// Those whose name begins with `prefix`, without it.
    pub(crate) fn of(&self, prefix: &str) -> BTreeMap<String, f64> {
        let own = |(name, (sum, count)): (&String, &(f64, u64))| {
            Some((name.strip_prefix(prefix)?.to_owned(), sum / *count as f64))
        };
        self.0.iter().filter_map(own).collect()
    }
}

/// A copy of every variable of a model, or what is to be put into them.
pub(crate) struct Snapshot(Vec<(String, Var, Tensor)>);

impl Snapshot {
    pub(crate) fn take(model: &dyn Trainable) -> Result<Self> {
        let copy = |v: crmt_core::Variable| {
            Ok((v.name, v.var.clone(), v.var.as_tensor().copy()?.detach()))
        };
        model
            .variables()
            .into_iter()
            .map(copy)
            .collect::<Result<_>>()
            .map(Self)
    }

    /// The tensors `{prefix}{variable}` of a state.
    pub(crate) fn read(model: &dyn Trainable, prefix: &str, state: &State) -> Result<Self> {
        let read = |v: crmt_core::Variable| {
            let name = format!("{prefix}{}", v.name);
            let Some(saved) = state.tensors.get(&name) else {
                return Err(Error::State(format!(
                    "`{name}` is missing: the state is of another model"
                )));
            };
            if saved.shape() != v.var.shape() || saved.dtype() != v.var.dtype() {
                return Err(Error::State(format!(
                    "`{name}` is {:?} {:?}, the model has {:?} {:?}: the state is of another model",
                    saved.dtype(),
                    saved.dims(),
                    v.var.dtype(),
                    v.var.dims()
                )));
            }
            Ok((v.name, v.var, saved.copy()?.detach()))
        };
        model
            .variables()
            .into_iter()
            .map(read)
            .collect::<Result<_>>()
            .map(Self)
    }

    pub(crate) fn write(&self, prefix: &str, tensors: &mut BTreeMap<String, Tensor>) {
        tensors.extend(
            self.0
                .iter()
                .map(|(name, _, saved)| (format!("{prefix}{name}"), saved.clone())),
        );
    }

    pub(crate) fn restore(&self) -> Result<()> {
        self.0
            .iter()
            .try_for_each(|(_, var, saved)| Ok(var.set(saved)?))
    }
}

/// An exponential moving average of a model's learned variables: `mean ← d·mean + (1 − d)·now`,
/// with `d = min(decay, (1 + t)/(10 + t))` after `t` steps, so that the start is soon forgotten.
/// Running statistics are averages already, and are taken as they are.
pub(crate) struct Average {
    decay: f64,
    means: Snapshot,
}

impl Average {
    pub(crate) fn new(model: &dyn Trainable, decay: f64, from: Option<&State>) -> Result<Self> {
        let means = match from {
            Some(state) => Snapshot::read(model, AVERAGE, state)?,
            None => Snapshot::take(model)?,
        };
        Ok(Self { decay, means })
    }

    pub(crate) fn update(&mut self, model: &dyn Trainable, steps: u64) -> Result<()> {
        let t = steps as f64;
        let decay = self.decay.min((1. + t) / (10. + t));
        for (variable, (_, var, mean)) in model.variables().iter().zip(&mut self.means.0) {
            *mean = match variable.learned {
                true => (((&*mean * decay)? + (var.as_tensor() * (1. - decay))?)?).detach(),
                false => var.as_tensor().copy()?.detach(),
            };
        }
        Ok(())
    }

    /// Runs `f` while the model has the mean weights.
    pub(crate) fn within<T, E: From<Error>>(
        &self,
        model: &dyn Trainable,
        f: impl FnOnce() -> Result<T, E>,
    ) -> Result<T, E> {
        let live = Snapshot::take(model)?;
        self.means.restore()?;
        let result = f();
        live.restore()?;
        result
    }

    pub(crate) fn write(&self, tensors: &mut BTreeMap<String, Tensor>) {
        self.means.write(AVERAGE, tensors);
    }
}

pub(crate) const MODEL: &str = "model.";
pub(crate) const BEST: &str = "best.";
pub(crate) const AVERAGE: &str = "average.";
pub(crate) const OPTIMIZER: &str = "optimizer.";
pub(crate) const STRATEGY: &str = "strategy.";
