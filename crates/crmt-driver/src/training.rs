//! A plan and a data set become a trained model: the phases and their order.
//! Does not know files, attacks on the result, or reports.
use crate::{
    attack,
    checkpoint::Architecture,
    lipschitz::scales,
    people::{Stage, Voice},
    plan::{OptimizerKind, Plan},
    record::EpochMetrics,
    sigmas::sigmas,
    step_two::StepTwo,
    threat::Threat,
};
use anyhow::{Context, Result, bail};
use candle_core::{Device, Tensor};
use crmt_attacks::{Budget, Pgd};
use crmt_core::{AdditiveClassifier, Batch, Fusion, PerModality, Streams, Trainable};
use crmt_data::{DataSet, EpochPlan, Split};
use crmt_fusion::{Learner, Model};
use crmt_kernels::{AdamW, Optimizer, Parameter, Sgd};
use crmt_train::{
    Certified, Crmt, EpochReport, ModalityDropout, Phase, RadiusHinge, Reach, Selected, Source, Strategy, Tables,
    TrainingInputs, fit,
};
use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

/// Report samples per forward pass: large enough to keep the cores busy, small enough for caches.
pub const EVAL_BATCH: usize = 250;

/// What training leaves.
pub struct Trained {
    /// How to rebuild the model.
    pub architecture: Architecture,
    /// By name.
    pub weights: BTreeMap<String, Tensor>,
    /// What a reader should know.
    pub warnings: Vec<String>,
}

/// A model that is ready to be trained: whatever can be refused before any work, is.
pub struct Untrained {
    architecture: Architecture,
    learner: Learner,
}

/// Builds the model of `plan` for `data`.
pub fn build(plan: &Plan, data: &DataSet) -> Result<Untrained> {
    if let Some(name) = plan.model.encoders.keys().find(|name| data.modalities.iter().all(|m| m.name != **name)) {
        let known: Vec<_> = data.modalities.iter().map(|m| m.name.as_str()).collect();
        bail!("model.encoders.{name}: the data set `{}` has the modalities {}", data.name, known.join(", "));
    }
    let architecture =
        Architecture::new(&data.modalities, &data.classes, plan.head(), |m| plan.encoder(&m.name, &m.shape));
    let learner = architecture.learner(Streams::new(plan.seed), &Device::Cpu)?;
    Epochs::new(data, Streams::new(plan.seed), plan)?;
    attack::check(&plan.evaluate, data)?;
    let names: Vec<String> = data.modalities.iter().map(|m| m.name.clone()).collect();
    Threat::parse_all(&plan.falsify.threats, &names).context("falsify.threats")?;
    noises(plan, data)?;
    sigmas("smooth.sigmas", plan.smooth.sigma, &plan.smooth.sigmas, data)?;
    let parameters: usize = learner.variables().iter().map(|v| v.var.elem_count()).sum();
    tracing::debug!(parameters, modalities = data.modalities.len(), "model built");
    Ok(Untrained { architecture, learner })
}

/// Trains as `plan` says. `record` hears of every epoch as it ends.
pub fn train(
    plan: &Plan,
    data: &DataSet,
    model: Untrained,
    voice: &Voice,
    record: &mut dyn FnMut(&[EpochMetrics]) -> Result<()>,
) -> Result<Trained> {
    let Untrained { architecture, learner } = model;
    let streams = Streams::new(plan.seed);
    let mut log = Log { metrics: vec![], record, voice };
    let mut warnings = vec![];

    let source = Epochs::new(data, streams, plan)?;
    let strategy = strategy(plan, data, &source)?;
    let mut optimizer = optimizer(plan, &learner)?;
    let phase = Phase {
        name: "step-1",
        strategy: strategy.as_ref(),
        source: &source,
        epochs: plan.train.epochs,
        schedule: plan.schedule(),
        learning_rate: plan.train.learning_rate,
        clip: plan.clip(),
        streams,
    };
    // A certified method is selected on what it promises, the others on accuracy.
    let target = (plan.train.objective == "certified").then_some(plan.certified.eps);
    let select = |_: &dyn Trainable| selected(learner.model(), &data.select, target);
    log.phase(&learner, optimizer.as_mut(), &phase, select)?;

    if plan.step2.enabled
        && let Some(warning) =
            (StepTwo { plan, data, streams, learner: &learner, architecture: &architecture }).run(&mut log)?
    {
        voice.say(format!("  {warning}"));
        warnings.push(warning);
    }
    Ok(Trained { weights: weights(&learner), architecture, warnings })
}

fn strategy(plan: &Plan, data: &DataSet, source: &Epochs) -> Result<Box<dyn Strategy>> {
    if plan.train.objective != "certified" {
        return Ok(Box::new(Crmt { rho: plan.train.rho, inputs: training_inputs(plan, data)? }));
    }
    let settings = &plan.certified;
    Ok(Box::new(Certified {
        eps: settings.eps,
        reach: match settings.threat.as_str() {
            "each" => Reach::Each,
            "one" => Reach::One,
            _ => Reach::Joint,
        },
        kappa: settings.kappa,
        lambda: settings.lambda,
        ramp: settings.ramp,
        steps: plan.train.epochs * source.steps(),
        units: data.modalities.map(|m| m.scale),
        dropout: ModalityDropout { probability: settings.modality_dropout, baselines: data.baselines.clone() },
    }))
}

/// Accuracy on a split; and what an epoch is chosen by: the same, or the mean radius clipped at `target`. That
/// radius takes features to be 1-Lipschitz: it steers, and never certifies.
fn selected(model: &Model, split: &Split, target: Option<f64>) -> Result<Selected> {
    let tables = Tables::Pairwise { rows: model.head().rows()?, features: scales(model) };
    let (mut right, mut radius) = (0.0, 0.0);
    for batch in split.batches(EVAL_BATCH) {
        let batch = batch?;
        let scores = model.scores(&batch.inputs)?;
        right += crmt_attacks::accuracy(&scores.logits()?, &batch.labels)? * batch.len() as f64;
        if let Some(target) = target {
            let radii = RadiusHinge::signed_radii(&tables, &scores, &batch.labels)?.to_vec1::<f32>()?;
            radius += radii.into_iter().map(|r| f64::from(r).min(target)).sum::<f64>();
        }
    }
    let n = split.len() as f64;
    Ok(Selected { accuracy: right / n, score: if target.is_some() { radius } else { right } / n })
}

fn training_inputs(plan: &Plan, data: &DataSet) -> Result<TrainingInputs> {
    Ok(match plan.train.inputs.as_str() {
        "adversarial" => {
            let a = &plan.adversary;
            TrainingInputs::Adversarial(Box::new(Pgd::training(Budget::Joint(a.eps), a.steps, a.relative_step)))
        }
        "mixup" => TrainingInputs::Mixup { alpha: plan.train.mixup_alpha },
        "noise" => TrainingInputs::Noise { sigmas: noises(plan, data)? },
        _ => TrainingInputs::Clean,
    })
}

fn noises(plan: &Plan, data: &DataSet) -> Result<PerModality<f64>> {
    sigmas("train.noises", plan.train.noise, &plan.train.noises, data)
}

/// What an optimizer moves.
pub fn parameters(model: &dyn Trainable) -> Vec<Parameter> {
    let learned = model.variables().into_iter().filter(|v| v.learned);
    learned.map(|v| Parameter::new(v.name, &v.var)).collect()
}

fn optimizer(plan: &Plan, learner: &Learner) -> Result<Box<dyn Optimizer>> {
    let parameters = parameters(learner);
    let weight_decay = plan.train.weight_decay;
    let adam = |decoupled| AdamW { weight_decay, decoupled, ..AdamW::default() };
    Ok(match plan.optimizer() {
        OptimizerKind::Adam => Box::new(adam(false).over(parameters)?),
        OptimizerKind::AdamW => Box::new(adam(true).over(parameters)?),
        OptimizerKind::Sgd => {
            Box::new(Sgd { momentum: plan.train.momentum, weight_decay, ..Sgd::default() }.over(parameters)?)
        }
    })
}

/// A model's state by name.
pub fn weights(learner: &Learner) -> BTreeMap<String, Tensor> {
    learner.variables().into_iter().map(|v| (v.name, v.var.as_detached_tensor())).collect()
}

/// Accuracy of `model` on a split.
pub fn accuracy(model: &Model, split: &Split) -> Result<f64> {
    Ok(selected(model, split, None)?.accuracy)
}

/// A data set's training split as a source of the loop.
struct Epochs<'a> {
    data: &'a DataSet,
    streams: Streams,
    plan: EpochPlan,
}

impl<'a> Epochs<'a> {
    fn new(data: &'a DataSet, streams: Streams, plan: &Plan) -> Result<Self> {
        let available = data.train.len();
        let samples = if plan.train.samples == 0 { available } else { plan.train.samples.min(available) };
        if plan.train.batch > samples {
            bail!("train.batch = {} is larger than an epoch of {samples} samples: lower it", plan.train.batch);
        }
        Ok(Self { data, streams, plan: EpochPlan { samples: Some(samples), batch: plan.train.batch } })
    }
}

impl Source for Epochs<'_> {
    fn steps(&self) -> u64 {
        (self.plan.samples.unwrap_or(0) / self.plan.batch) as u64
    }

    fn epoch<'b>(&'b self, epoch: u64) -> Box<dyn Iterator<Item = crmt_train::Result<Batch>> + 'b> {
        let failed = |e: crmt_data::BatchError| crmt_train::Error::Source(Box::new(e));
        match self.data.epoch(&self.streams, epoch, self.plan) {
            Ok(batches) => Box::new(batches.map(move |batch| batch.map_err(failed))),
            Err(e) => Box::new(std::iter::once(Err(failed(e)))),
        }
    }
}

/// Runs phases, shows their progress and keeps their record.
pub struct Log<'a> {
    metrics: Vec<EpochMetrics>,
    record: &'a mut dyn FnMut(&[EpochMetrics]) -> Result<()>,
    /// Speaks to people.
    pub voice: &'a Voice,
}

impl Log<'_> {
    /// Trains `model` as `phase` says.
    pub fn phase(
        &mut self,
        model: &dyn Trainable,
        optimizer: &mut dyn Optimizer,
        phase: &Phase,
        select: impl FnMut(&dyn Trainable) -> Result<Selected>,
    ) -> Result<()> {
        let bar = self.voice.stage(phase.name, phase.epochs * phase.source.steps());
        let mut since = Instant::now();
        let best = fit(model, optimizer, phase, select, |report| {
            bar.inc(u64::from(report.is_none()));
            let Some(report) = report else { return Ok(()) };
            let metrics = epoch_metrics(phase.name, report, since.elapsed().as_secs_f64());
            since = Instant::now();
            self.tell(&bar, &metrics, phase.epochs);
            self.metrics.push(metrics);
            (self.record)(&self.metrics)
        })?;
        if best < phase.epochs {
            self.voice
                .say(format!("  {}: epoch {best} was best on the selection split, its weights are kept", phase.name));
        }
        Ok(())
    }

    /// One line every second at most, and the last.
    fn tell(&self, bar: &Stage, m: &EpochMetrics, epochs: u64) {
        if bar.silent_for() < Duration::from_secs(1) && m.epoch != epochs {
            return;
        }
        let parts: String =
            m.parts.iter().map(|(name, value)| format!("  {} {value:.4}", name.replace('_', " "))).collect();
        let line = format!(
            "  {} epoch {:>2}/{epochs}  loss {:.4}{parts}  selection {:.4}  {:.1} s",
            m.phase, m.epoch, m.loss, m.select_accuracy, m.seconds
        );
        bar.say(&line);
    }
}

fn epoch_metrics(phase: &str, report: &EpochReport, seconds: f64) -> EpochMetrics {
    EpochMetrics {
        phase: phase.to_owned(),
        epoch: report.epoch,
        loss: report.loss,
        parts: report.parts.iter().map(|(name, value)| ((*name).to_owned(), *value)).collect(),
        learning_rate: report.learning_rate,
        select_accuracy: report.selected.accuracy,
        seconds,
    }
}
