//! A plan and a data set become a trained model: the phases and their order.
//! Does not know files, attacks on the result, or reports.
use crate::{
    attack,
    batches::epochs,
    checkpoint::{Architecture, weights},
    optimizers::optimizer,
    people::Voice,
    plan::{Plan, TrainPlan},
    record::EpochMetrics,
    selection::{AS_RELEASED, Criterion, select},
    sigmas::sigmas,
    step_two::StepTwo,
    strategies::{self, strategy},
    threat::Threat,
    watch::{Keeper, Log},
};
use anyhow::{Context, Result, bail};
use candle_core::Tensor;
use crmt_core::{Mode, Streams, Trainable};
use crmt_data::DataSet;
use crmt_fusion::Learner;
use crmt_kernels::{Precision, give_back, is_out_of_memory};
use crmt_train::{Phase, Rate, Rules, Source, State};
use std::collections::BTreeMap;

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
    if let Some(name) = plan
        .model
        .encoders
        .keys()
        .find(|name| data.modalities.iter().all(|m| m.name != **name))
    {
        let known: Vec<_> = data.modalities.iter().map(|m| m.name.as_str()).collect();
        bail!(
            "model.encoders.{name}: the data set `{}` has the modalities {}",
            data.name,
            known.join(", ")
        );
    }
    if data.classes.len() < 2 {
        bail!(
            "the data set `{}` has nothing to tell apart: name two `classes` or more in its dataset.toml",
            data.name
        );
    }
    plan.check_size(&data.modalities)?;
    let architecture = Architecture::new(&data.modalities, &data.classes, plan.head(), |m| {
        plan.encoder(&m.name, &m.shape)
    });
    let learner = architecture.learner(Streams::new(plan.seed), data.device())?;
    epochs(plan, data)?;
    attack::check(&plan.evaluate, data)?;
    let names: Vec<String> = data.modalities.iter().map(|m| m.name.clone()).collect();
    Threat::parse_all(&plan.falsify.threats, &names).context("falsify.threats")?;
    strategies::check(plan, data)?;
    sigmas(
        "smooth.sigmas",
        plan.smooth.sigma,
        &plan.smooth.sigmas,
        data,
    )?;
    let parameters: usize = learner.variables().iter().map(|v| v.var.elem_count()).sum();
    tracing::debug!(
        parameters,
        modalities = data.modalities.len(),
        "model built"
    );
    Ok(Untrained {
        architecture,
        learner,
    })
}

/// What an earlier run of the same plan left.
#[derive(Default)]
pub struct Resumed {
    /// Of the first phase, if it got so far.
    pub state: Option<State>,
    /// Epochs of the first phase before it.
    pub metrics: Vec<EpochMetrics>,
}

impl Untrained {
    /// How the model is built.
    pub fn architecture(&self) -> &Architecture {
        &self.architecture
    }
}

/// Trains as `plan` says, from the beginning or from where an earlier run stopped: the same bits
/// either way.
pub fn train<'a>(
    plan: &Plan,
    data: &DataSet,
    model: Untrained,
    resumed: Resumed,
    keeper: Keeper<'a>,
    voice: &'a Voice,
) -> Result<Trained> {
    let Untrained {
        architecture,
        learner,
    } = model;
    let streams = Streams::new(plan.seed);
    let mut log = Log::new(resumed.metrics, keeper, voice)?;
    let mut warnings = vec![];
    if plan.select.split == AS_RELEASED {
        let warning = "the best epoch is chosen on the report split (select.split = \"as-released\"): \
                       what is reported of it is optimistic";
        voice.say(format!("  {warning}"));
        warnings.push(warning.to_owned());
    }

    let source = epochs(plan, data)?;
    let mut strategy = strategy(plan, data, &streams, plan.train.epochs * source.steps())?;
    let mut optimizer = optimizer(plan, &learner)?;
    let mut phase = Phase {
        name: STEP_1,
        strategy: strategy.as_mut(),
        source: &source,
        epochs: plan.train.epochs,
        rate: Rate {
            peak: plan.train.learning_rate,
            schedule: plan.train.schedule(),
            warmup: plan.train.linear_warmup,
        },
        streams,
        rules: rules(&plan.train),
    };
    let criterion = Criterion::of(plan);
    // Only training itself is computed less exactly, and only if asked for.
    let measure = |_: &dyn Trainable| {
        Precision::F32.within(|| select(plan, data, learner.model(), criterion))
    };
    let from = (true, resumed.state.as_ref());
    let outcome = plan
        .train
        .precision()?
        .within(|| log.phase(&learner, optimizer.as_mut(), &mut phase, from, measure));
    outcome.map_err(|error| out_of_memory(error, plan, data, &learner))?;

    if plan.step2.enabled
        && let Some(warning) = (StepTwo {
            plan,
            data,
            streams,
            learner: &learner,
            architecture: &architecture,
        })
        .run(&mut log)?
    {
        voice.say(format!("  {warning}"));
        warnings.push(warning);
    }
    Ok(Trained {
        weights: weights(&learner),
        architecture,
        warnings,
    })
}

/// Where a device's memory was not enough, says for which batch it is enough to compute gradients,
/// as found by trying.
fn out_of_memory(
    error: anyhow::Error,
    plan: &Plan,
    data: &DataSet,
    learner: &Learner,
) -> anyhow::Error {
    if !error.chain().any(is_out_of_memory) {
        return error;
    }
    if let Err(error) = give_back(data.device()) {
        tracing::debug!("memory is not given back: {error}");
    }
    let batch = plan.train.batch;
    let step = |n: usize| -> Result<()> {
        let batch = data.train_sample(&Streams::new(plan.seed), n)?;
        plan.train.precision()?.within(|| -> Result<()> {
            learner
                .scores(&batch.inputs, Mode::Train)?
                .logits()?
                .sqr()?
                .sum_all()?
                .backward()?;
            Ok(())
        })
    };
    let fits = std::iter::successors(Some(batch / 2), |n| Some(n / 2))
        .take_while(|n| *n > 0)
        .find(|n| step(*n).is_ok());
    let advice = match fits {
        Some(_) if plan.train.replay && step(batch).is_ok() => {
            "it fits where steps are not recorded: --set train.replay=false".into()
        }
        Some(n) => format!("a batch of {n} fits: --set train.batch={n} --set train.accumulate={}", batch.div_ceil(n)),
        None => "not even one sample fits: use a smaller model or another device (nvidia-smi tells who uses this one)"
            .into(),
    };
    error.context(format!(
        "{} has no memory for train.batch = {batch}; {advice}",
        plan.device
    ))
}

/// The first phase's name in records.
pub const STEP_1: &str = "step-1";

fn rules(train: &TrainPlan) -> Rules {
    Rules {
        clip: if train.clip > 0.0 {
            train.clip
        } else {
            f64::INFINITY
        },
        accumulate: train.accumulate,
        average: (train.average > 0.0).then_some(train.average),
        patience: (train.patience > 0).then_some(train.patience),
        loaders: train.loaders,
        replay: train.replay,
    }
}
