//! Watches phases of training: shows their progress, keeps their record, and keeps what a stopped
//! run goes on from. Does not know methods.
use crate::{
    checkpoints::Checkpoints,
    events::Events,
    people::{Stage, Voice},
    record::EpochMetrics,
};
use anyhow::Result;
use crmt_core::Trainable;
use crmt_kernels::Optimizer;
use crmt_train::{EpochReport, Observer, Phase, Selected, State, fit};
use std::time::{Duration, Instant};

/// Where the record goes, and what is kept.
pub struct Keeper<'a> {
    /// Writes the whole record.
    pub record: &'a mut dyn FnMut(&[EpochMetrics]) -> Result<()>,
    /// Of the first phase.
    pub checkpoints: &'a Checkpoints,
    /// Between two within an epoch.
    pub interval: Duration,
    /// For TensorBoard.
    pub events: Events,
}

/// Runs phases, shows their progress and keeps their record.
pub struct Log<'a> {
    metrics: Vec<EpochMetrics>,
    keeper: Keeper<'a>,
    /// Speaks to people.
    pub voice: &'a Voice,
}

impl<'a> Log<'a> {
    /// Goes on after `metrics`.
    pub fn new(
        metrics: Vec<EpochMetrics>,
        mut keeper: Keeper<'a>,
        voice: &'a Voice,
    ) -> Result<Self> {
        (keeper.record)(&metrics)?;
        metrics.iter().try_for_each(|m| keeper.events.epoch(m))?;
        Ok(Self {
            metrics,
            keeper,
            voice,
        })
    }

    /// Trains `model` as `phase` says. The first phase is kept while it runs, and goes on `from`
    /// what was.
    pub fn phase(
        &mut self,
        model: &dyn Trainable,
        optimizer: &mut dyn Optimizer,
        phase: &mut Phase,
        (keep, from): (bool, Option<&State>),
        select: impl FnMut(&dyn Trainable) -> Result<Selected>,
    ) -> Result<()> {
        let (name, epochs) = (phase.name, phase.epochs);
        let bar = self
            .voice
            .stage(name, epochs * phase.source.steps(), "steps");
        bar.inc(from.map_or(0, |state| state.position.step));
        let now = Instant::now();
        let mut watch = Watch {
            log: self,
            select,
            bar,
            name,
            epochs,
            keep,
            since: now,
            kept: now,
        };
        let best = fit(model, optimizer, phase, from, &mut watch)?;
        let ran = self
            .metrics
            .iter()
            .filter(|m| m.phase == name)
            .map(|m| m.epoch)
            .max()
            .unwrap_or(0);
        if let Some(best) = best.filter(|best| best.epoch < ran) {
            let best = best.epoch;
            self.voice.say(format!(
                "  {name}: epoch {best} was best on the selection split, its weights are kept"
            ));
        }
        if ran < epochs {
            self.voice.say(format!(
                "  {name}: stopped after {ran} of {epochs} epochs, the last were no better"
            ));
        }
        Ok(())
    }
}

/// One phase.
struct Watch<'l, 'a, F> {
    log: &'l mut Log<'a>,
    select: F,
    bar: Stage,
    name: &'l str,
    epochs: u64,
    keep: bool,
    /// When the epoch began.
    since: Instant,
    /// When a state was last kept.
    kept: Instant,
}

impl<F: FnMut(&dyn Trainable) -> Result<Selected>> Observer<anyhow::Error> for Watch<'_, '_, F> {
    fn select(&mut self, model: &dyn Trainable) -> Result<Selected> {
        (self.select)(model)
    }

    fn step(&mut self) -> Result<()> {
        self.bar.inc(1);
        Ok(())
    }

    fn epoch(&mut self, report: &EpochReport) -> Result<()> {
        let metrics = epoch_metrics(self.name, report, self.since.elapsed().as_secs_f64());
        self.since = Instant::now();
        tell(&self.bar, &metrics, self.epochs);
        self.log.keeper.events.epoch(&metrics)?;
        self.log.metrics.push(metrics);
        (self.log.keeper.record)(&self.log.metrics)
    }

    fn rest(&mut self, epoch: bool, state: &dyn Fn() -> crmt_train::Result<State>) -> Result<()> {
        if self.keep && (epoch || self.kept.elapsed() >= self.log.keeper.interval) {
            self.log.keeper.checkpoints.write(state()?)?;
            self.kept = Instant::now();
        }
        Ok(())
    }
}

/// One line every second at most, and the last.
fn tell(bar: &Stage, m: &EpochMetrics, epochs: u64) {
    if bar.silent_for() < Duration::from_secs(1) && m.epoch != epochs {
        return;
    }
    let parts: String = m
        .parts
        .iter()
        .map(|(name, value)| format!("  {} {value:.4}", name.replace('_', " ")))
        .collect();
    let attacked = m.select_attacked.map_or(String::new(), |accuracy| {
        format!(", attacked {accuracy:.3}")
    });
    bar.say(&format!(
        "  {} epoch {:>2}/{epochs}  loss {:.4}{parts}  selection {:.4}{attacked}  {:.1} s",
        m.phase, m.epoch, m.loss, m.select_accuracy, m.seconds
    ));
}

fn epoch_metrics(phase: &str, report: &EpochReport, seconds: f64) -> EpochMetrics {
    EpochMetrics {
        phase: phase.to_owned(),
        epoch: report.epoch,
        loss: report.loss,
        parts: report.parts.clone(),
        learning_rate: report.learning_rate,
        select_accuracy: report.selected.accuracy,
        select_attacked: report.selected.attacked,
        margins: report.margins.clone(),
        gradient_norms: report.gradients.clone(),
        seconds,
    }
}
