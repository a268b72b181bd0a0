//! The only training loop.
//! Does not know which method it runs, where batches come from or where results go.
use crate::{
    Draws, EpochReport, Error, Modulation, Part, Position, Prepared, Rate, Result, Selected, State,
    StepLoss, Strategy,
    loader::in_order,
    margin::unimodal_margins,
    state::{Average, BEST, MODEL, Means, OPTIMIZER, STRATEGY, Snapshot},
    strategy::together,
};
use candle_core::{Device, Tensor, backprop::GradStore};
use crmt_core::{Batch, PerModality, Replay, Streams, Trainable, names::HEAD};
use crmt_kernels::{Clipped, Optimizer, Parameter, clip_grad_norm, give_back};
use std::collections::BTreeMap;

/// Where batches come from.
pub trait Source {
    /// Batches in one epoch.
    fn steps(&self) -> u64;

    /// Epoch `epoch`, from 0; the same for the same number.
    fn epoch<'a>(&'a self, epoch: u64) -> Result<Box<dyn Batches + 'a>>;
}

/// The batches of one epoch, each to be had by any thread at any time.
pub trait Batches: Sync {
    /// Batch `i`, from 0, of as many as [`Source::steps`] says.
    fn batch(&self, i: u64) -> Result<Batch>;
}

/// One phase of training: which objective, on what, how long, and by which rules.
pub struct Phase<'a> {
    /// Shown in records and errors, e.g. `step-1`.
    pub name: &'a str,
    /// The objective.
    pub strategy: &'a mut dyn Strategy,
    /// The batches.
    pub source: &'a dyn Source,
    /// Epochs to run.
    pub epochs: u64,
    /// Over the whole phase.
    pub rate: Rate,
    /// The run's randomness.
    pub streams: Streams,
    /// The rest.
    pub rules: Rules,
}

/// How gradients become steps, and when to stop.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rules {
    /// Largest l2 norm of the gradient of all parameters together; larger ones are scaled down.
    /// Infinite for no limit.
    pub clip: f64,
    /// Batches whose mean gradient makes a step, at least 1; the last of an epoch may be of fewer.
    pub accumulate: u64,
    /// Decay of an exponential moving average of the weights: then it is the average that is
    /// measured and kept.
    pub average: Option<f64>,
    /// Stops after so many epochs (at least 1) that were no better than the best.
    pub patience: Option<u64>,
    /// Threads that make batches ahead; 0: they are made between steps. Changes no result.
    pub loaders: usize,
    /// On a GPU, records loss and gradients once an epoch and replays them. Changes no result.
    pub replay: bool,
}

impl Default for Rules {
    fn default() -> Self {
        Self {
            clip: f64::INFINITY,
            accumulate: 1,
            average: None,
            patience: None,
            loaders: 0,
            replay: true,
        }
    }
}

/// Who watches a phase. Its errors end it.
pub trait Observer<E: From<Error>> {
    /// Measures the model after each epoch, on data that is neither trained nor reported on.
    fn select(&mut self, model: &dyn Trainable) -> Result<Selected, E>;

    /// Hears of every finished batch.
    fn step(&mut self) -> Result<(), E> {
        Ok(())
    }

    /// Hears of every finished epoch.
    fn epoch(&mut self, _report: &EpochReport) -> Result<(), E> {
        Ok(())
    }

    /// Training may end here (after a step, or an `epoch`) and go on from what `state` gives.
    /// Making it costs a copy of everything.
    fn rest(&mut self, _epoch: bool, _state: &dyn Fn() -> Result<State>) -> Result<(), E> {
        Ok(())
    }
}

/// Trains `model`, and leaves it with the weights of the epoch that the observer scored highest
/// (the later one on a tie). Returns that epoch's report; `None` for a phase of no epochs. `from`
/// is what an earlier run of the same phase gave to [`Observer::rest`]: the result has the same
/// bits as if it had never stopped.
///
/// # Errors
/// A loss that is not finite, an empty epoch, a batch that can't be read, a state of something
/// else.
pub fn fit<E: From<Error>>(
    model: &dyn Trainable,
    optimizer: &mut dyn Optimizer,
    phase: &mut Phase,
    from: Option<&State>,
    observer: &mut dyn Observer<E>,
) -> Result<Option<EpochReport>, E> {
    let mut fit = Fit::new(model, optimizer, phase, from)?;
    while fit.at.epoch < fit.phase.epochs && !fit.is_patient_enough() {
        fit.epoch(observer)?;
    }
    let ran = fit.at.epoch;
    if let (Some(best), Some(snapshot)) = (&fit.at.best, &fit.best)
        && (best.epoch < ran || fit.average.is_some())
    {
        snapshot.restore()?;
    }
    Ok(fit.at.best)
}

struct Fit<'a, 'p> {
    model: &'a dyn Trainable,
    optimizer: &'a mut dyn Optimizer,
    phase: &'a mut Phase<'p>,
    at: Position,
    best: Option<Snapshot>,
    average: Option<Average>,
    /// Of each of the optimizer's parameters, whose it is: an index of the modalities, or of none.
    owners: Vec<Option<usize>>,
    /// Of this epoch: a strategy's loss may be another in the next.
    replay: Replay,
    told: Told,
}

impl<'a, 'p> Fit<'a, 'p> {
    fn new(
        model: &'a dyn Trainable,
        optimizer: &'a mut dyn Optimizer,
        phase: &'a mut Phase<'p>,
        from: Option<&State>,
    ) -> Result<Self> {
        let mut best = None;
        if let Some(state) = from {
            let live = Snapshot::read(model, MODEL, state)?;
            best = state
                .position
                .best
                .as_ref()
                .map(|_| Snapshot::read(model, BEST, state))
                .transpose()?;
            let get = |prefix: &'static str| {
                move |name: &str| state.tensors.get(&format!("{prefix}{name}")).cloned()
            };
            optimizer
                .restore(&get(OPTIMIZER))
                .map_err(|e| Error::State(e.to_string()))?;
            phase.strategy.restore(&get(STRATEGY))?;
            live.restore()?;
        }
        let average = phase
            .rules
            .average
            .map(|decay| Average::new(model, decay, from))
            .transpose()?;
        let modalities = model.fixed().modalities();
        let prefixes = modalities.map(|m| format!("encoders.{}.", m.name));
        let owner = |name: &str| {
            prefixes
                .iter()
                .position(|prefix| name.starts_with(prefix.as_str()))
        };
        let owners = optimizer
            .parameters()
            .iter()
            .map(|p| owner(&p.name))
            .collect();
        let at = from.map(|state| state.position.clone()).unwrap_or_default();
        Ok(Self {
            model,
            optimizer,
            phase,
            at,
            best,
            average,
            owners,
            replay: Replay::default(),
            told: Told::default(),
        })
    }

    fn is_patient_enough(&self) -> bool {
        self.phase
            .rules
            .patience
            .is_some_and(|patience| self.at.epoch - self.at.improved >= patience)
    }

    fn epoch<E: From<Error>>(&mut self, observer: &mut dyn Observer<E>) -> Result<(), E> {
        let (source, rules) = (self.phase.source, self.phase.rules);
        let batches = source.epoch(self.at.epoch)?;
        if source.steps() == 0 {
            return Err(Error::EmptyEpoch {
                phase: self.phase.name.to_owned(),
                epoch: self.at.epoch + 1,
            }
            .into());
        }
        if self.at.batch == 0 {
            self.phase.strategy.begin_epoch(self.model, self.at.epoch)?;
        }
        // To record costs about as much as a step.
        let worth = source.steps() - self.at.batch > 3;
        self.replay = if rules.replay && worth {
            Replay::default()
        } else {
            Replay::off()
        };
        let first = self.at.batch;
        let mut gathered = Gathered::default();
        in_order(
            self.at.batch..source.steps(),
            rules.loaders,
            |i| batches.batch(i),
            |batch| -> Result<(), E> {
                let batch = batch?;
                self.batch(&batch, &mut gathered)?;
                if rules.replay && worth && self.at.batch == first + 1 {
                    // The next batch is recorded, in memory of its own.
                    give_back(batch.labels.device()).map_err(Error::from)?;
                }
                let last = self.at.batch == source.steps();
                let stepped = gathered.batches == rules.accumulate.max(1) || last;
                if stepped {
                    self.step(&mut gathered)?;
                }
                observer.step()?;
                if stepped && !last {
                    observer.rest(false, &|| self.state())
                } else {
                    Ok(())
                }
            },
        )?;
        self.replay = Replay::off();
        let learning_rate = self.rate(self.at.step - 1);
        let model = self.model;
        let (selected, snapshot) = match &self.average {
            None => (observer.select(model)?, Snapshot::take(model)?),
            Some(average) => average.within(model, || {
                Ok::<_, E>((observer.select(model)?, Snapshot::take(model)?))
            })?,
        };
        let report = EpochReport {
            epoch: self.at.epoch + 1,
            loss: self.at.means.of(LOSS).remove("").unwrap_or_default(),
            parts: self.at.means.of(PART),
            margins: self.at.means.of(MARGIN),
            gradients: self.at.means.of(GRADIENT),
            learning_rate,
            selected,
        };
        let before = self
            .at
            .best
            .as_ref()
            .map_or(f64::NEG_INFINITY, |best| best.selected.score);
        if selected.score > before {
            self.at.improved = report.epoch;
        }
        if self.at.best.is_none() || selected.score >= before {
            (self.at.best, self.best) = (Some(report.clone()), Some(snapshot));
        }
        (self.at.epoch, self.at.batch, self.at.means) = (self.at.epoch + 1, 0, Means::default());
        observer.epoch(&report)?;
        observer.rest(true, &|| self.state())
    }

    fn rate(&self, step: u64) -> f64 {
        self.phase
            .rate
            .at(step, self.phase.epochs * self.phase.source.steps())
    }

    /// Gathers the gradient of a batch.
    fn batch(&mut self, batch: &Batch, gathered: &mut Gathered) -> Result<()> {
        let draws = Draws {
            streams: self.phase.streams,
            step: self.at.step,
        };
        let rules = self.phase.rules;
        let (model, strategy, parameters) = (
            self.model,
            &*self.phase.strategy,
            self.optimizer.parameters(),
        );
        let prepared = strategy.prepare(model, batch, &draws)?;
        let told = &mut self.told;
        let compute = |tensors| {
            let (now, outputs) = evaluate(model, strategy, parameters, &prepared.with(tensors))?;
            *told = now;
            Ok::<_, Error>(outputs)
        };
        let mut outputs = self.replay.run(prepared.tensors(), compute)?;
        let gradients = outputs.split_off(outputs.len() - self.told.followed.len());
        // All of the step is on its way to the device before anything is read.
        let values = outputs[0].to_vec1::<f64>()?;
        if !values[0].is_finite() {
            let (phase, epoch, batch) = (
                self.phase.name.to_owned(),
                self.at.epoch + 1,
                self.at.batch + 1,
            );
            return Err(Error::NonFiniteLoss {
                phase,
                epoch,
                batch,
                loss: values[0],
            });
        }
        let Told {
            scalars,
            numbers,
            modulation,
            followed,
        } = &self.told;
        let scalars = scalars.iter().zip(values);
        scalars
            .chain(numbers.iter().map(|(name, number)| (name, *number)))
            .for_each(|(name, value)| self.at.means.add(name.clone(), value));
        // Stores come from candle alone.
        let mut store = Tensor::new(0f32, &Device::Cpu)?.backward()?;
        for (i, gradient) in followed.iter().zip(gradients) {
            // What is still needed after the next batch must not be overwritten by it.
            let kept = if rules.replay && rules.accumulate > 1 {
                gradient.copy()?
            } else {
                gradient
            };
            store.insert(&parameters[*i].var, kept);
        }
        if let (Some(noise), Some(factors)) = (*modulation, PerModality::new(outputs.split_off(1)))
        {
            Modulation { factors, noise }.apply(&mut store, parameters, &self.owners, &draws)?;
        }
        gathered.add(store)?;
        (self.at.batch, self.at.step) = (self.at.batch + 1, self.at.step + 1);
        Ok(())
    }

    /// A step along the mean of the gathered gradients.
    fn step(&mut self, gathered: &mut Gathered) -> Result<()> {
        let Gathered {
            sum: Some(gradients),
            batches,
        } = std::mem::take(gathered)
        else {
            return Ok(());
        };
        let n = batches as f64;
        let Clipped { scale, squares, .. } = clip_grad_norm(
            &gradients,
            self.optimizer.parameters(),
            self.phase.rules.clip * n,
        )?;
        let learning_rate = self.rate(self.at.step - 1);
        self.optimizer
            .step_scaled(&gradients, learning_rate, scale / n)?;
        self.at.updates += 1;
        let modalities = self.model.fixed().modalities();
        let mut own = vec![0f64; modalities.len() + 1];
        for (owner, square) in self.owners.iter().zip(squares) {
            own[owner.unwrap_or(modalities.len())] += square;
        }
        let names = modalities.iter().map(|m| m.name.as_str()).chain([HEAD]);
        for (name, square) in names.zip(own) {
            self.at
                .means
                .add(format!("{GRADIENT}{name}"), square.sqrt() / n);
        }
        self.average.as_mut().map_or(Ok(()), |average| {
            average.update(self.model, self.at.updates)
        })
    }

    fn state(&self) -> Result<State> {
        let mut tensors = BTreeMap::new();
        Snapshot::take(self.model)?.write(MODEL, &mut tensors);
        self.best
            .iter()
            .for_each(|best| best.write(BEST, &mut tensors));
        self.average
            .iter()
            .for_each(|average| average.write(&mut tensors));
        let named = |prefix: &str, all: Vec<(String, Tensor)>| {
            all.into_iter()
                .map(|(name, t)| (format!("{prefix}{name}"), t))
                .collect::<Vec<_>>()
        };
        tensors.extend(named(OPTIMIZER, self.optimizer.state()?));
        tensors.extend(named(STRATEGY, self.phase.strategy.state()?));
        Ok(State {
            position: self.at.clone(),
            tensors,
        })
    }
}

/// What a step's outputs are.
#[derive(Default)]
struct Told {
    /// Names of the values that the first output holds.
    scalars: Vec<String>,
    /// What is known without looking at the device.
    numbers: Vec<(String, f64)>,
    /// Whether the next outputs, one for each modality, modulate gradients, and whether with noise.
    modulation: Option<bool>,
    /// The parameters whose gradients the last outputs are.
    followed: Vec<usize>,
}

/// The loss and the numbers for the record, `[n]` in `f64`; then the factors of the modulation, if
/// there is one; then the gradients.
fn evaluate(
    model: &dyn Trainable,
    strategy: &dyn Strategy,
    parameters: &[Parameter],
    prepared: &Prepared,
) -> Result<(Told, Vec<Tensor>)> {
    let StepLoss {
        total,
        parts,
        unimodal,
        modulation,
    } = strategy.loss(model, prepared)?;
    let gradients = total.backward()?;
    let noise = modulation.as_ref().map(|modulation| modulation.noise);
    let mut told = Told {
        scalars: vec![LOSS.to_owned()],
        modulation: noise,
        ..Told::default()
    };
    let mut scalars = vec![total.detach()];
    for (name, part) in parts {
        match part {
            Part::Number(number) => told.numbers.push((format!("{PART}{name}"), number)),
            Part::Scalar(scalar) => {
                told.scalars.push(format!("{PART}{name}"));
                scalars.push(scalar);
            }
        }
    }
    for (modality, scores) in model
        .fixed()
        .modalities()
        .iter()
        .zip(unimodal.iter().flatten())
    {
        told.scalars.push(format!("{MARGIN}{}", modality.name));
        scalars.push(unimodal_margins(scores, &prepared.labels)?.mean_all()?);
    }
    let mut outputs = vec![together(&scalars)?];
    outputs.extend(
        modulation
            .into_iter()
            .flat_map(|modulation| modulation.factors),
    );
    for (i, parameter) in parameters.iter().enumerate() {
        if let Some(gradient) = gradients.get(&parameter.var) {
            told.followed.push(i);
            outputs.push(gradient.clone());
        }
    }
    Ok((told, outputs))
}

const LOSS: &str = "loss";
const PART: &str = "part.";
const MARGIN: &str = "margin.";
const GRADIENT: &str = "gradient.";

/// Gradients of some batches.
#[derive(Default)]
struct Gathered {
    sum: Option<GradStore>,
    batches: u64,
}

impl Gathered {
    fn add(&mut self, gradients: GradStore) -> Result<()> {
        self.batches += 1;
        match &mut self.sum {
            None => self.sum = Some(gradients),
            Some(sum) => sum.extend(gradients)?,
        }
        Ok(())
    }
}
