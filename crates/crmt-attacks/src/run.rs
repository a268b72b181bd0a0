//! Runs any attack: projects what it proposes into budget and domains, judges it once, and counts.
//! Does not know how attacks search.
use crate::{
    Budget, Draws, Error, Goal, Problem, Result,
    budget::Spent,
    problem::{Counter, select_rows},
};
use candle_core::{D, DType, Tensor};
use crmt_core::{Classifier, PerModality};

/// Searches for inputs that meet a goal.
pub trait Attack {
    /// For reports and error messages.
    fn name(&self) -> &str;

    /// The constraint that [`run`] enforces on what `search` returns.
    fn budget(&self) -> &Budget;

    /// Proposes inputs shaped like [`Problem::clean`]; nobody trusts them.
    fn search(&self, problem: &Problem<'_>) -> Result<PerModality<Tensor>>;
}

/// What an attack found.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// Within budget and domain, by at most a relative 1e-6.
    pub adversarial: PerModality<Tensor>,
    /// Per sample: did it meet the goal?
    pub success: Vec<bool>,
    /// Per sample, from the clean input, in declared units: joint l2, or the greatest of any modality for linf.
    pub distance: Vec<f64>,
    /// The same of each modality, in the budget's norm: how the attack split what it spent.
    pub spent: PerModality<Vec<f64>>,
    /// Forward evaluations, counted per sample.
    pub forwards: u64,
    /// Backward evaluations, counted per sample.
    pub backwards: u64,
}

/// Runs `attack` on a batch. Samples whose clean input already meets the goal succeed at distance 0, untouched.
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
    run_all(attack, classifier, inputs, goal, draws, None)
}

/// As [`run`], with the budget of sample `i` multiplied by `radii[i]`: a unit budget becomes each sample's own radius.
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
    run_all(attack, classifier, inputs, goal, draws, Some(&radii))
}

/// As [`run_within`], with a radius of each sample for each modality: `radii[m][i]` multiplies the budget of modality
/// `m`. For budgets of their own only: [`Budget::Each`].
///
/// # Errors
/// As [`run_within`]; also for [`Budget::Joint`], and when `radii` has not one list for each modality.
pub fn run_within_each(
    attack: &dyn Attack,
    classifier: &dyn Classifier,
    inputs: &PerModality<Tensor>,
    goal: &Goal,
    draws: &Draws,
    radii: &PerModality<Vec<f64>>,
) -> Result<Outcome> {
    if matches!(attack.budget(), Budget::Joint(_)) {
        return Err(Error::Setting("a joint budget has one radius for each sample, not one for each modality"));
    }
    run_all(attack, classifier, inputs, goal, draws, Some(radii))
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
    attack.budget().check(classifier.modalities())?;
    let problem = Problem::new(classifier, inputs, goal, draws, None, &counter)?;
    Ok(propose(attack, &problem)?.0)
}

fn run_all(
    attack: &dyn Attack,
    classifier: &dyn Classifier,
    inputs: &PerModality<Tensor>,
    goal: &Goal,
    draws: &Draws,
    radii: Option<&PerModality<Vec<f64>>>,
) -> Result<Outcome> {
    let counter = Counter::default();
    attack.budget().check(classifier.modalities())?;
    let problem = Problem::new(classifier, inputs, goal, draws, radii, &counter)?;
    let samples = problem.samples();
    let mut success = if samples == 0 { vec![] } else { problem.met(&problem.logits(problem.clean())?)? };
    let mut distance = vec![0.; samples];
    let mut spent = problem.clean().map(|_| vec![0.; samples]);
    let standing: Vec<u32> = (0..samples as u32).filter(|i| !success[*i as usize]).collect();
    let mut adversarial = problem.clean().clone();
    if !standing.is_empty() {
        let all = standing.len() == samples;
        let part = if all { None } else { Some(problem.select(&standing)?) };
        let part = part.as_ref().unwrap_or(&problem);
        let (found, moved) = propose(attack, part)?;
        let met = part.met(&part.logits(&found)?)?;
        for (k, i) in standing.iter().map(|i| *i as usize).enumerate() {
            (success[i], distance[i]) = (met[k], moved.distance[k]);
        }
        spent = spent.try_enumerate(|m, spent| -> Result<_> {
            let mut spent = spent.clone();
            standing.iter().zip(&moved.each[m]).for_each(|(i, d)| spent[*i as usize] = *d);
            Ok(spent)
        })?;
        adversarial = if all { found } else { scatter(&adversarial, &found, &standing)? };
    }
    let (forwards, backwards) = (counter.forwards.get(), counter.backwards.get());
    Ok(Outcome { adversarial, success, distance, spent, forwards, backwards })
}

/// What `attack` proposes, after disposal, and how far that is.
pub(crate) fn propose(attack: &dyn Attack, problem: &Problem<'_>) -> Result<(PerModality<Tensor>, Spent)> {
    if (0..problem.clean().len()).all(|m| attack.budget().radius(m) == 0.) {
        let clean = problem.clean();
        return Ok((clean.clone(), problem.ball(attack.budget()).spent(clean, clean)?));
    }
    let found = attack.search(problem)?;
    let clean = problem.clean().zip(&found, "the attack's proposal")?;
    for ((x0, x), modality) in clean.iter().zip(problem.classifier().modalities().iter()) {
        if x.shape() != x0.shape() {
            return Err(Error::Proposal {
                modality: modality.name.clone(),
                attack: attack.name().into(),
                expected: x0.dims().to_vec(),
                got: x.dims().to_vec(),
            });
        }
        let sums = x.reshape((x.dim(0)?, ()))?.sum(D::Minus1)?.to_dtype(DType::F64)?.to_vec1::<f64>()?;
        if let Some(sample) = sums.iter().position(|s| !s.is_finite()) {
            let what = format!("the proposal of attack `{}`", attack.name());
            return Err(Error::NotFinite { modality: modality.name.clone(), what, sample });
        }
    }
    dispose(attack.budget(), problem, &found.map(Tensor::detach))
}

/// Into budget and domain, to a relative 1e-6 measured in `f64`: what rounding left outside is shrunk again, and
/// where a budget is finer than the inputs' own resolution, the clean input is all that remains.
fn dispose(budget: &Budget, problem: &Problem<'_>, x: &PerModality<Tensor>) -> Result<(PerModality<Tensor>, Spent)> {
    const INSIDE: f64 = 1. + 5e-7;
    let clean = problem.clean();
    let mut x = problem.confine(budget, x)?;
    for attempt in 0..4 {
        let spent = problem.ball(budget).spent(clean, &x)?;
        if spent.used.iter().all(|u| *u <= INSIDE) {
            return Ok((x, spent));
        }
        let keep = spent.used.iter().map(|u| match attempt {
            _ if *u <= INSIDE => 1.,
            3 => 0.,
            _ => (1. - 1e-6) / u,
        });
        let keep = Tensor::from_iter(keep, x[0].device())?.reshape(((), 1))?;
        x = x.zip(clean, "clean inputs")?.try_map(|(x, x0)| -> Result<Tensor> {
            let keep = keep.to_dtype(x.dtype())?;
            let delta = (*x - *x0)?.reshape((x.dim(0)?, ()))?.broadcast_mul(&keep)?;
            Ok((*x0 + delta.reshape(x.shape())?)?)
        })?;
    }
    let spent = problem.ball(budget).spent(clean, &x)?;
    Ok((x, spent))
}

/// `all` with `part` in rows `rows`.
fn scatter(all: &PerModality<Tensor>, part: &PerModality<Tensor>, rows: &[u32]) -> Result<PerModality<Tensor>> {
    let total = all[0].dim(0)?;
    // Row i comes from `part` if it is listed there, behind the rows of `all` in their concatenation.
    let mut source: Vec<u32> = (0..total as u32).collect();
    rows.iter().enumerate().for_each(|(k, row)| source[*row as usize] = (total + k) as u32);
    let both = all.zip(part, "part of the batch")?.try_map(|(a, p)| Tensor::cat(&[*a, *p], 0))?;
    select_rows(&both, &source)
}
