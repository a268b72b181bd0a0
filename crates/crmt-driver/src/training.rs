//! A plan and a data set become a trained model: the phases, their order, and the acceptance of
//! CRMT's second step. Does not know files, attacks on the result, or reports.
use crate::{
    checkpoint::Architecture,
    evaluation,
    lipschitz::{Bounds, scales},
    people::{Stage, Voice},
    plan::{OptimizerKind, Plan},
    record::EpochMetrics,
    sigmas::sigmas,
};
use anyhow::{Context, Result, bail};
use candle_core::{Device, Tensor};
use crmt_attacks::{Budget, Goal, Loss, Pgd};
use crmt_core::{AdditiveClassifier, Batch, Fusion, PerModality, Streams, Trainable};
use crmt_data::{DataSet, EpochPlan, Split};
use crmt_fusion::{Learner, Model};
use crmt_kernels::{AdamW, Optimizer, Parameter, Sgd};
use crmt_train::{
    CachedScores, Certified, Crmt, EpochReport, IntegrationModel, ModalityDropout, Phase, RadiusHinge, Selected,
    Source, Strategy, Tables, TrainingInputs, fit,
};
use std::{collections::BTreeMap, time::Instant};

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
    evaluation::check(&plan.evaluate, data)?;
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
    let certified = plan.train.objective == "certified";
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
    let select = |model: &dyn Trainable| {
        let accuracy = accuracy(model.fixed(), &data.select)?;
        let score = if certified { mean_radius(learner.model(), &data.select, plan.certified.eps)? } else { accuracy };
        Ok(Selected { accuracy, score })
    };
    log.phase(&learner, optimizer.as_mut(), &phase, select)?;

    if plan.step2.enabled
        && let Some(warning) = step_two(plan, data, streams, &learner, &architecture, &mut log)?
    {
        voice.say(format!("  {warning}"));
        warnings.push(warning);
    }
    Ok(Trained { weights: weights(&learner), architecture, warnings })
}

/// CRMT's second step. Returns why it was rejected, if it was.
fn step_two(
    plan: &Plan,
    data: &DataSet,
    streams: Streams,
    learner: &Learner,
    architecture: &Architecture,
    log: &mut Log,
) -> Result<Option<String>> {
    let settings = &plan.step2;
    let head = learner.integration().context("the second step needs integration weights (an orthonormal head)")?;
    let tables: Tables = Bounds::of(plan, data, streams, architecture, &weights(learner), log.voice)?.tables()?;
    let sample = data.train_sample(&streams, settings.samples)?;
    let cached = |batch: Batch| {
        let chunks = (0..batch.len()).step_by(EVAL_BATCH).map(move |i| {
            let rows = EVAL_BATCH.min(batch.len() - i);
            Ok(batch.narrow(i, rows)?)
        });
        CachedScores::new(learner.fixed(), chunks, settings.batch, streams)
    };
    let train = cached(sample)?;
    let select = cached(data.select.batch(0..data.select.len())?)?;

    let model = IntegrationModel::new(&data.modalities, &head)?;
    let mut radii = signed_radii(&model, &tables, train.all())?;
    radii.sort_by(f64::total_cmp);
    let target = radii[((radii.len() - 1) as f64 * settings.target_quantile).round() as usize].max(f64::MIN_POSITIVE);
    let strategy = RadiusHinge { tables, target };
    let options = AdamW { weight_decay: 0.0, ..AdamW::default() };
    let mut optimizer = options.over(parameters(&model))?;
    let phase = Phase {
        name: "step-2",
        strategy: &strategy,
        source: &train,
        epochs: settings.epochs,
        schedule: crmt_train::Schedule::Constant,
        learning_rate: settings.learning_rate,
        clip: f64::INFINITY,
        streams,
    };
    let clean = accuracy(learner.fixed(), &data.select)?;
    // The best epoch has the largest mean radius on the selection split, clipped at the target, of
    // those whose clean accuracy is tolerable.
    let score = |model: &dyn Trainable| -> Result<Selected> {
        let batch = select.all();
        let scores = model.fixed().scores(&batch.inputs)?;
        let radii = RadiusHinge::signed_radii(&strategy.tables, &scores, &batch.labels)?.to_vec1::<f64>()?;
        let accuracy = crmt_attacks::accuracy(&scores.logits()?, &batch.labels)?;
        let radius = radii.iter().map(|r| r.min(target)).sum::<f64>() / radii.len() as f64;
        let tolerable = accuracy >= clean - settings.tolerance;
        Ok(Selected { accuracy, score: if tolerable { radius } else { f64::MIN } })
    };
    log.phase(&model, &mut optimizer, &phase, score)?;

    let samples = settings.accept_samples.min(data.select.len());
    let judge = data.select.batch(0..samples)?;
    let bar = log.voice.stage("judging step 2", 2);
    let before = (clean, attacked(plan, learner, &judge, streams)?);
    bar.inc(1);
    let undo = model.write_to(&head)?;
    let after = (accuracy(learner.fixed(), &data.select)?, attacked(plan, learner, &judge, streams)?);
    let told = format!(
        "selection split: clean {:.1} → {:.1} %, attacked (mean over eps {:?}) {:.1} → {:.1} %",
        100.0 * before.0,
        100.0 * after.0,
        settings.accept_eps,
        100.0 * before.1,
        100.0 * after.1
    );
    if after.1 > before.1 && after.0 >= before.0 - settings.tolerance {
        log.voice.say(format!("  step 2 accepted; {told}"));
        return Ok(None);
    }
    undo.iter().try_for_each(|(var, value)| var.set(value))?;
    Ok(Some(format!("step 2 was rejected, the weights of step 1 are kept; {told}")))
}

/// Mean accuracy on `batch` over the accepting budgets, under a joint 20-step PGD on the margin.
fn attacked(plan: &Plan, learner: &Learner, batch: &Batch, streams: Streams) -> Result<f64> {
    let goal = Goal::Avoid(batch.labels.clone());
    let mut standing = 0.0;
    for eps in &plan.step2.accept_eps {
        let attack = Pgd::quick(Budget::Joint(*eps), 20, Loss::Margin);
        let draws = crmt_attacks::Draws::new(streams, 0);
        let outcome = crmt_attacks::run(&attack, learner.fixed(), &batch.inputs, &goal, &draws)?;
        standing += outcome.success.iter().filter(|broken| !**broken).count() as f64;
    }
    Ok(standing / (batch.len() * plan.step2.accept_eps.len()) as f64)
}

fn signed_radii(model: &IntegrationModel, tables: &Tables, batch: &Batch) -> Result<Vec<f64>> {
    let scores = model.fixed().scores(&batch.inputs)?;
    Ok(RadiusHinge::signed_radii(tables, &scores, &batch.labels)?.to_vec1()?)
}

fn strategy(plan: &Plan, data: &DataSet, source: &Epochs) -> Result<Box<dyn Strategy>> {
    if plan.train.objective != "certified" {
        return Ok(Box::new(Crmt { rho: plan.train.rho, inputs: training_inputs(plan, data)? }));
    }
    let settings = &plan.certified;
    Ok(Box::new(Certified {
        eps: settings.eps,
        kappa: settings.kappa,
        lambda: settings.lambda,
        ramp: settings.ramp,
        steps: plan.train.epochs * source.steps(),
        units: data.modalities.map(|m| m.scale),
        dropout: ModalityDropout { probability: settings.modality_dropout, baselines: data.baselines.clone() },
    }))
}

/// Mean radius on a split, clipped at `target`, for features taken to be 1-Lipschitz: steers, never
/// certifies.
fn mean_radius(model: &Model, split: &Split, target: f64) -> Result<f64> {
    let features = scales(model);
    let rows = model.head().rows()?;
    let tables = Tables::Pairwise { rows, features };
    let mut sum = 0.0;
    for batch in split.batches(EVAL_BATCH) {
        let batch = batch?;
        let radii = RadiusHinge::signed_radii(&tables, &model.scores(&batch.inputs)?, &batch.labels)?;
        sum += radii.to_vec1::<f32>()?.into_iter().map(|r| f64::from(r).min(target)).sum::<f64>();
    }
    Ok(sum / split.len() as f64)
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

fn parameters(model: &dyn Trainable) -> Vec<Parameter> {
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

fn weights(learner: &Learner) -> BTreeMap<String, Tensor> {
    learner.variables().into_iter().map(|v| (v.name, v.var.as_detached_tensor())).collect()
}

/// Accuracy of `model` on a split.
pub fn accuracy(model: &dyn AdditiveClassifier, split: &Split) -> Result<f64> {
    let mut right = 0.0;
    for batch in split.batches(EVAL_BATCH) {
        let batch = batch?;
        right += crmt_attacks::accuracy(&model.logits(&batch.inputs)?, &batch.labels)? * batch.len() as f64;
    }
    Ok(right / split.len() as f64)
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
struct Log<'a> {
    metrics: Vec<EpochMetrics>,
    record: &'a mut dyn FnMut(&[EpochMetrics]) -> Result<()>,
    voice: &'a Voice,
}

impl Log<'_> {
    fn phase(
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

    /// Every epoch when there are few, else every fifth.
    fn tell(&self, bar: &Stage, m: &EpochMetrics, epochs: u64) {
        if epochs > 20 && !m.epoch.is_multiple_of(5) && m.epoch != epochs {
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
