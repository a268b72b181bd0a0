//! The work, each kind as its users call it, and how long every repetition takes. Does not know the
//! model's insides.
use crate::subject::Subject;
use crate::{Options, Work};
use candle_core::Device;
use crmt_attacks::{Budget, Draws, Goal, Loss, Pgd, Restart, Start, Steps, perturb};
use crmt_certify::LipschitzRule;
use crmt_core::{Batch, Classifier, Mode, Streams, Trainable};
use crmt_kernels::{Parameter, Sgd};
use crmt_train::{
    Batches, Crmt, Observer, Phase, Prepared, Rate, Rules, Selected, Source, StepLoss, Strategy,
    TrainingInputs, fit,
};
use std::cell::Cell;
use std::error::Error;
use std::time::Instant;

/// Weight of the margin term.
const RHO: f64 = 2.;
/// Radius of the attack that is timed alone.
pub const EPSILON: f64 = 0.5;
/// Radius and steps of the attack inside a training step.
const TRAINING_EPSILON: f64 = 0.1;
const TRAINING_STEPS: usize = 5;

/// How long each repetition after the warm-up took.
pub struct Timed {
    pub milliseconds: Vec<f64>,
    /// Of training: whether steps were replayed from a recording.
    pub replayed: bool,
}

pub fn timed(options: &Options, subject: &Subject) -> Result<Timed, Box<dyn Error>> {
    let milliseconds = match options.work {
        Work::StepJt | Work::StepCrmt | Work::StepAt => return training(options, subject),
        _ => repetitions(options, subject)?,
    };
    Ok(Timed {
        milliseconds,
        replayed: false,
    })
}

fn repetitions(options: &Options, subject: &Subject) -> Result<Vec<f64>, Box<dyn Error>> {
    let (model, inputs) = (subject.fixed(), &subject.batch.inputs);
    match options.work {
        Work::Pgd => {
            let attack = pgd(EPSILON, options.steps.get());
            let (goal, draws) = (
                Goal::Avoid(subject.batch.labels.clone()),
                Draws::new(Streams::new(1), 0),
            );
            repeated(options, subject, || {
                perturb(&attack, model, inputs, &goal, &draws)
            })
        }
        Work::Lipschitz => repeated(options, subject, || {
            LipschitzRule::MaxGradient.gradient_norms(model, inputs)
        }),
        Work::Forward => repeated(options, subject, || model.logits(inputs)),
        Work::StepJt | Work::StepCrmt | Work::StepAt | Work::Roofline => {
            Err("internal: neither an attack nor a forward pass".into())
        }
    }
}

fn repeated<T, E: Error + 'static>(
    options: &Options,
    subject: &Subject,
    mut once: impl FnMut() -> Result<T, E>,
) -> Result<Vec<f64>, Box<dyn Error>> {
    let mut times = vec![];
    for _ in 0..options.warmup + options.iters.get() {
        let start = Instant::now();
        once()?;
        subject.batch.labels.device().synchronize()?;
        times.push(elapsed(start));
    }
    Ok(times.split_off(options.warmup))
}

/// The one training loop itself, on the same batch over and over.
pub fn training(options: &Options, subject: &Subject) -> Result<Timed, Box<dyn Error>> {
    let rules = Rules {
        replay: !options.no_replay,
        ..Rules::default()
    };
    let mut counted = Counted::new(Box::new(objective(options)));
    let milliseconds = training_by(&mut counted, rules, options, subject)?;
    Ok(Timed {
        milliseconds,
        replayed: counted.losses() < options.warmup + options.iters.get(),
    })
}

/// A strategy, and how often it was asked for a loss: less often than there are steps where these
/// are replayed.
pub struct Counted {
    of: Box<dyn Strategy>,
    losses: Cell<usize>,
}

impl Counted {
    pub fn new(of: Box<dyn Strategy>) -> Self {
        Self {
            of,
            losses: Cell::new(0),
        }
    }

    pub fn losses(&self) -> usize {
        self.losses.get()
    }
}

impl Strategy for Counted {
    fn prepare(
        &self,
        model: &dyn Trainable,
        batch: &Batch,
        draws: &crmt_train::Draws,
    ) -> crmt_train::Result<Prepared> {
        self.of.prepare(model, batch, draws)
    }

    fn loss(&self, model: &dyn Trainable, prepared: &Prepared) -> crmt_train::Result<StepLoss> {
        self.losses.set(self.losses.get() + 1);
        self.of.loss(model, prepared)
    }

    fn begin_epoch(&mut self, model: &dyn Trainable, epoch: u64) -> crmt_train::Result<()> {
        self.of.begin_epoch(model, epoch)
    }
}

/// What a training step minimises.
pub fn objective(options: &Options) -> Crmt {
    let inputs = match options.work {
        Work::StepAt => TrainingInputs::Adversarial {
            attack: Box::new(pgd(TRAINING_EPSILON, TRAINING_STEPS)),
            mode: Mode::Eval,
        },
        _ => TrainingInputs::Clean,
    };
    Crmt::new(
        if options.work == Work::StepJt {
            0.
        } else {
            RHO
        },
        inputs,
    )
}

/// The same by another strategy and other rules.
pub fn training_by(
    strategy: &mut dyn Strategy,
    rules: Rules,
    options: &Options,
    subject: &Subject,
) -> Result<Vec<f64>, Box<dyn Error>> {
    let learned = subject
        .learner
        .variables()
        .into_iter()
        .filter(|v| v.learned);
    let sgd = Sgd {
        momentum: 0.9,
        weight_decay: 1e-4,
        ..Sgd::default()
    };
    let mut sgd = sgd.over(learned.map(|v| Parameter::new(v.name, &v.var)))?;
    let source = Repeated {
        batch: &subject.batch,
        steps: (options.warmup + options.iters.get()) as u64,
    };
    let mut phase = Phase {
        name: "benchmark",
        strategy,
        source: &source,
        epochs: 1,
        rate: Rate::constant(1e-3),
        streams: Streams::new(1),
        rules,
    };
    let mut clock = Clock {
        times: vec![],
        start: Instant::now(),
        device: subject.batch.labels.device().clone(),
    };
    fit(&subject.learner, &mut sgd, &mut phase, None, &mut clock)?;
    Ok(clock.times.split_off(options.warmup))
}

/// Hears of every step.
struct Clock {
    times: Vec<f64>,
    start: Instant,
    device: Device,
}

impl Observer<crmt_train::Error> for Clock {
    fn select(&mut self, _: &dyn Trainable) -> crmt_train::Result<Selected> {
        Ok(Selected {
            accuracy: 0.,
            attacked: None,
            score: 0.,
        })
    }

    fn step(&mut self) -> crmt_train::Result<()> {
        self.device.synchronize()?;
        self.times.push(elapsed(self.start));
        self.start = Instant::now();
        Ok(())
    }
}

/// From the clean input, all steps of one length.
pub fn pgd(epsilon: f64, steps: usize) -> Pgd {
    Pgd {
        budget: Budget::Joint(epsilon),
        steps,
        schedule: Steps::Constant(2.5 / steps as f64),
        restarts: vec![Restart {
            from: Start::Clean,
            loss: Loss::CrossEntropy,
        }],
        to_the_end: true,
        momentum: 0.,
    }
}

fn elapsed(start: Instant) -> f64 {
    start.elapsed().as_secs_f64() * 1e3
}

/// One batch, as many times as there are steps.
struct Repeated<'a> {
    batch: &'a Batch,
    steps: u64,
}

impl Source for Repeated<'_> {
    fn steps(&self) -> u64 {
        self.steps
    }

    fn epoch<'a>(&'a self, _: u64) -> crmt_train::Result<Box<dyn Batches + 'a>> {
        Ok(Box::new(Same(self.batch)))
    }
}

struct Same<'a>(&'a Batch);

impl Batches for Same<'_> {
    fn batch(&self, _: u64) -> crmt_train::Result<Batch> {
        Ok(self.0.clone())
    }
}

/// How often the work needs each convolution: forward, for the gradient of what goes in, and for
/// that of the weights. `first`: what goes in is the sample itself.
pub fn passes(options: &Options, first: bool) -> usize {
    // A training step asks for no gradient of the samples.
    let step = if first { 2 } else { 3 };
    match options.work {
        Work::StepJt | Work::StepCrmt => step,
        Work::StepAt => 2 * TRAINING_STEPS + step,
        Work::Pgd => 2 * options.steps.get(),
        Work::Lipschitz => 1 + options.classes.get(),
        Work::Forward => 1,
        Work::Roofline => 0,
    }
}
