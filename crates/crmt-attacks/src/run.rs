//! Runs any attack: projects what it proposes into budget and domains, judges it once, and counts.
//! Does not know how attacks search.
use crate::{
    Budget, Draws, Error, Goal, Problem, Result, answers,
    moving::Spent,
    problem::{Counter, select_rows},
    rows::{chosen, finite},
};
use candle_core::Tensor;
use crmt_core::{Classifier, PerModality, Streams};

/// Searches for inputs that meet a goal.
pub trait Attack {
    /// For reports and error messages.
    fn name(&self) -> &str;

    /// The constraint that [`run`] enforces on what `search` returns.
    fn budget(&self) -> &Budget;

    /// Proposes inputs shaped like [`Problem::clean`]; nobody trusts them.
    fn search(&self, problem: &Problem<'_>) -> Result<PerModality<Tensor>>;

    /// Attacks a batch away from its `labels` `[batch]`, with seed 0: the simplest use. [`run`]
    /// takes other goals and seeds.
    ///
    /// `inputs`: each `[batch, ...]`; a tensor alone for a model of one input.
    ///
    /// # Errors
    /// As [`run`].
    fn run(
        &self,
        classifier: &dyn Classifier,
        inputs: impl Into<PerModality<Tensor>>,
        labels: &Tensor,
    ) -> Result<Outcome>
    where
        Self: Sized,
    {
        run(
            self,
            classifier,
            &inputs.into(),
            &Goal::Avoid(labels.clone()),
            &Draws::new(Streams::new(0), 0),
        )
    }
}

/// What an attack found.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// Within budget and domain, by at most a relative 1e-6: the very values that were judged.
    pub adversarial: PerModality<Tensor>,
    /// Per sample: did it meet the goal?
    pub success: Vec<bool>,
    /// Per sample, what the model takes it for; none where its logits are not finite.
    pub prediction: Vec<Option<u32>>,
    /// Per sample, from the clean input, in declared units: joint l2, or the greatest of any
    /// modality for linf.
    pub distance: Vec<f64>,
    /// The same of each modality, in the budget's norm: how the attack split what it spent.
    pub spent: PerModality<Vec<f64>>,
    /// How many proposals held a NaN or an infinity: these samples stay clean, and stand.
    pub undefined: usize,
    /// Per sample: was it one of those? Then it stands against nothing.
    pub lost: Vec<bool>,
    /// Forward evaluations, counted per sample.
    pub forwards: u64,
    /// Backward evaluations, counted per sample.
    pub backwards: u64,
}

impl Outcome {
    /// The fraction of samples for which no adversarial was found, though one was looked for:
    /// those that are [`lost`](Self::lost) do not count as robust. Of the others, an upper bound of
    /// the model's accuracy under the best attack within the budget. NaN for no samples.
    pub fn robust_accuracy(&self) -> f64 {
        let robust = self
            .success
            .iter()
            .zip(&self.lost)
            .filter(|(fell, lost)| !**fell && !**lost);
        robust.count() as f64 / self.success.len() as f64
    }
}

/// Runs `attack` on a batch. Samples whose clean input already meets the goal succeed at distance
/// 0, untouched.
///
/// `inputs`: each `[batch, ...]`; `draws`: one stream per sample.
///
/// # Errors
/// [`Error`] names the modality, what was expected and what was given.
pub fn run(
    attack: &dyn Attack,
    classifier: &dyn Classifier,
    inputs: &PerModality<Tensor>,
    goal: &Goal,
    draws: &Draws,
) -> Result<Outcome> {
    run_all(attack, classifier, inputs, goal, draws, None, None)
}

/// As [`run`]; `watch` is told the share of the search that is done, by searches long enough to
/// tell it.
///
/// # Errors
/// As [`run`].
pub fn run_watched(
    attack: &dyn Attack,
    classifier: &dyn Classifier,
    inputs: &PerModality<Tensor>,
    goal: &Goal,
    draws: &Draws,
    watch: &dyn Fn(f64),
) -> Result<Outcome> {
    run_all(attack, classifier, inputs, goal, draws, None, Some(watch))
}

/// As [`run`], with the budget of sample `i` multiplied by `radii[i]`: a unit budget becomes each
/// sample's own radius.
///
/// # Errors
/// As [`run`]; also when `radii` does not have a finite number of at least 0 for each sample.
pub fn run_within(
    attack: &dyn Attack,
    classifier: &dyn Classifier,
    inputs: &PerModality<Tensor>,
    goal: &Goal,
    draws: &Draws,
    radii: &[f64],
) -> Result<Outcome> {
    let radii = inputs.map(|_| radii.to_vec());
    run_all(attack, classifier, inputs, goal, draws, Some(&radii), None)
}

/// As [`run_within`], with a radius of each sample for each modality: `radii[m][i]` multiplies the
/// budget of modality `m`. For budgets of their own only: [`Budget::Each`].
///
/// # Errors
/// As [`run_within`]; also for [`Budget::Joint`], and when `radii` has not one list for each
/// modality.
pub fn run_within_each(
    attack: &dyn Attack,
    classifier: &dyn Classifier,
    inputs: &PerModality<Tensor>,
    goal: &Goal,
    draws: &Draws,
    radii: &PerModality<Vec<f64>>,
) -> Result<Outcome> {
    if matches!(attack.budget(), Budget::Joint(_)) {
        return Err(Error::Setting(
            "a joint budget has one radius for each sample, not one for each modality",
        ));
    }
    run_all(attack, classifier, inputs, goal, draws, Some(radii), None)
}

/// Perturbed inputs for training: every sample is attacked, right or wrong, and nothing is judged.
///
/// # Errors
/// As [`run`].
pub fn perturb(
    attack: &dyn Attack,
    classifier: &dyn Classifier,
    inputs: &PerModality<Tensor>,
    goal: &Goal,
    draws: &Draws,
) -> Result<PerModality<Tensor>> {
    let counter = Counter::default();
    attack
        .budget()
        .check(classifier.modalities(), inputs[0].dtype(), None)?;
    let problem = Problem::new(classifier, inputs, goal, draws, None, &counter)?;
    if !moves(attack.budget(), &problem) {
        return Ok(problem.clean().clone());
    }
    let (found, _) = searched(attack, &problem)?;
    let found = problem.confine(attack.budget(), &found)?;
    Ok(shrunk(attack.budget(), &problem, found, &[])?.x)
}

fn run_all(
    attack: &dyn Attack,
    classifier: &dyn Classifier,
    inputs: &PerModality<Tensor>,
    goal: &Goal,
    draws: &Draws,
    radii: Option<&PerModality<Vec<f64>>>,
    watch: Option<&dyn Fn(f64)>,
) -> Result<Outcome> {
    let counter = Counter {
        watch,
        ..Counter::default()
    };
    attack
        .budget()
        .check(classifier.modalities(), inputs[0].dtype(), radii)?;
    let problem = Problem::new(classifier, inputs, goal, draws, radii, &counter)?;
    let samples = problem.samples();
    let (mut success, mut prediction) = if samples == 0 {
        (vec![], vec![])
    } else {
        judged(&problem, problem.clean())?
    };
    let mut distance = vec![0.; samples];
    let mut spent = problem.clean().map(|_| vec![0.; samples]);
    let standing: Vec<u32> = (0..samples as u32)
        .filter(|i| !success[*i as usize])
        .collect();
    let (mut adversarial, mut lost) = (problem.clean().clone(), vec![false; samples]);
    if !standing.is_empty() {
        let all = standing.len() == samples;
        let part = if all {
            None
        } else {
            Some(problem.select(&standing)?)
        };
        let part = part.as_ref().unwrap_or(&problem);
        let found = propose(attack, part)?;
        let (met, taken_for) = judged(part, &found.x)?;
        for (k, i) in standing.iter().map(|i| *i as usize).enumerate() {
            (success[i], prediction[i]) = (met[k], taken_for[k]);
            (distance[i], lost[i]) = (found.spent.distance[k], found.lost[k]);
        }
        spent = spent.try_enumerate(|m, spent| -> Result<_> {
            let mut spent = spent.clone();
            standing
                .iter()
                .zip(&found.spent.each[m])
                .for_each(|(i, d)| spent[*i as usize] = *d);
            Ok(spent)
        })?;
        adversarial = if all {
            found.x
        } else {
            scatter(&adversarial, &found.x, &standing)?
        };
    }
    let undefined = lost.iter().filter(|lost| **lost).count();
    let (forwards, backwards) = (counter.forwards.get(), counter.backwards.get());
    Ok(Outcome {
        adversarial,
        success,
        prediction,
        distance,
        spent,
        undefined,
        lost,
        forwards,
        backwards,
    })
}

/// Per sample: does it meet the goal, and what is it taken for?
fn judged(problem: &Problem<'_>, x: &PerModality<Tensor>) -> Result<(Vec<bool>, Vec<Option<u32>>)> {
    let logits = problem.logits(x)?;
    Ok((problem.met(&logits)?, answers(&logits)?))
}

/// What an attack proposes, after disposal.
pub(crate) struct Proposal {
    pub x: PerModality<Tensor>,
    pub spent: Spent,
    /// Samples that came back with a NaN or an infinity, and are clean instead.
    pub lost: Vec<bool>,
}

/// What `attack` proposes, within budget and domain. A proposal that is there already stays as it
/// is, bit for bit: what the search judged is what is judged.
pub(crate) fn propose(attack: &dyn Attack, problem: &Problem<'_>) -> Result<Proposal> {
    let (budget, clean) = (attack.budget(), problem.clean());
    if !moves(budget, problem) {
        let spent = problem.ball(budget).spent(clean, clean)?;
        return Ok(Proposal {
            x: clean.clone(),
            spent,
            lost: vec![false; problem.samples()],
        });
    }
    let (found, mut lost) = searched(attack, problem)?;
    let inside = problem.ball(budget).holds(clean, &found, INSIDE)?;
    let confined = problem.confine(budget, &found)?;
    let found =
        found
            .zip(&confined, "proposal")?
            .try_enumerate(|m, (x, confined)| -> Result<Tensor> {
                // What does not move is the clean input, bit for bit.
                if budget.radius(m) > 0. {
                    Ok(chosen(&inside, x, confined)?)
                } else {
                    Ok((*confined).clone())
                }
            })?;
    let shrunk = shrunk(budget, problem, found, &inside)?;
    lost.iter_mut()
        .zip(&shrunk.lost)
        .for_each(|(lost, outside)| *lost |= outside);
    Ok(Proposal { lost, ..shrunk })
}

/// May anything move at all?
fn moves(budget: &Budget, problem: &Problem<'_>) -> bool {
    (0..problem.clean().len()).any(|m| budget.radius(m) > 0.)
}

/// What `attack` returns, and which samples of it held a NaN or an infinity; these are clean.
fn searched(
    attack: &dyn Attack,
    problem: &Problem<'_>,
) -> Result<(PerModality<Tensor>, Vec<bool>)> {
    let clean = problem.clean();
    let found = attack.search(problem)?.map(Tensor::detach);
    let mut lost = vec![false; problem.samples()];
    let pairs = clean.zip(&found, "the attack's proposal")?;
    for ((x0, x), modality) in pairs.iter().zip(problem.classifier().modalities().iter()) {
        if x.shape() != x0.shape() {
            return Err(Error::Proposal {
                modality: modality.name.clone(),
                attack: attack.name().into(),
                expected: x0.dims().to_vec(),
                got: x.dims().to_vec(),
            });
        }
        lost.iter_mut()
            .zip(finite(x)?)
            .for_each(|(lost, finite)| *lost |= !finite);
    }
    if !lost.contains(&true) {
        return Ok((found, lost));
    }
    let found = found
        .zip(clean, "clean inputs")?
        .try_map(|(x, x0)| chosen(&lost, x0, x))?;
    Ok((found, lost))
}

/// How much of its budget a proposal may use: the promise of a relative 1e-6, and room for how it
/// is measured.
const INSIDE: f64 = 1. + 5e-7;

/// Into the budget, to a relative 1e-6 measured in `f64`: what rounding left outside is shrunk
/// again, and where a budget is finer than the inputs' own resolution, the clean input is all that
/// remains. So it is where no arithmetic could bring a point back: it is lost. Samples in `settled`
/// are inside, and stay as they are.
fn shrunk(
    budget: &Budget,
    problem: &Problem<'_>,
    mut x: PerModality<Tensor>,
    settled: &[bool],
) -> Result<Proposal> {
    let clean = problem.clean();
    let spent = |x: &PerModality<Tensor>| problem.ball(budget).spent(clean, x);
    let inside = |used: &f64| *used <= INSIDE;
    let outside = |spent: &Spent| {
        spent
            .used
            .iter()
            .map(|used| !inside(used))
            .collect::<Vec<_>>()
    };
    for attempt in 0..4 {
        let now = spent(&x)?;
        if !outside(&now).contains(&true) {
            let lost = vec![false; now.used.len()];
            return Ok(Proposal {
                x,
                spent: now,
                lost,
            });
        }
        let keep = now.used.iter().map(|u| match attempt {
            _ if *u <= INSIDE => 1.,
            3 => 0.,
            _ => (1. - 1e-6) / u,
        });
        let keep = Tensor::from_iter(keep, x[0].device())?.reshape(((), 1))?;
        x = x
            .zip(clean, "clean inputs")?
            .try_map(|(x, x0)| -> Result<Tensor> {
                let keep = keep.to_dtype(x.dtype())?;
                let delta = (*x - *x0)?.reshape((x.dim(0)?, ()))?.broadcast_mul(&keep)?;
                let shrunk = (*x0 + delta.reshape(x.shape())?)?;
                if settled.is_empty() {
                    Ok(shrunk)
                } else {
                    Ok(chosen(settled, x, &shrunk)?)
                }
            })?;
    }
    let lost = outside(&spent(&x)?);
    x = x
        .zip(clean, "clean inputs")?
        .try_map(|(x, x0)| chosen(&lost, x0, x))?;
    Ok(Proposal {
        spent: spent(&x)?,
        x,
        lost,
    })
}

/// `all` with `part` in rows `rows`.
fn scatter(
    all: &PerModality<Tensor>,
    part: &PerModality<Tensor>,
    rows: &[u32],
) -> Result<PerModality<Tensor>> {
    let total = all[0].dim(0)?;
    // Row i comes from `part` if it is listed there, behind the rows of `all` in their
    // concatenation.
    let mut source: Vec<u32> = (0..total as u32).collect();
    rows.iter()
        .enumerate()
        .for_each(|(k, row)| source[*row as usize] = (total + k) as u32);
    let both = all
        .zip(part, "part of the batch")?
        .try_map(|(a, p)| Tensor::cat(&[*a, *p], 0))?;
    select_rows(&both, &source)
}
