//! Auto-PGD (Croce & Hein 2020): projected gradient ascent that chooses its own step sizes, over
//! several inputs at once. Does not choose among losses; run it once with each.
use crate::{
    Attack, Budget, Error, Goal, Loss, Problem, Result,
    goal::{dlr_towards, margin_towards},
    problem::{select_gradients, select_rows},
    rows::chosen,
    standing::{Active, Found},
};
use candle_core::{DType, Tensor};
use crmt_core::PerModality;

/// Share of a step that is new; the rest repeats the step before.
const MOMENTUM: f64 = 0.75;
/// A sample whose loss rose in fewer of its steps than this halves them.
const RISING: f64 = 0.75;
/// Length of the first steps, in radii.
const FIRST_STEP: f64 = 2.;

/// What one restart climbs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Climb {
    /// The same loss for every sample.
    Loss(Loss),
    /// The targeted DLR (as [`Loss::DlrTargeted`]) towards each sample's own class: the one with
    /// this rank among the wrong classes of the clean input, 0 the most likely. Of fewer than four
    /// classes, for which it is not defined, the plain difference of logits. For [`Goal::Avoid`].
    Rival(usize),
}

/// Auto-PGD (Croce & Hein 2020, "Reliable evaluation of adversarial robustness with an ensemble of
/// diverse parameter-free attacks", algorithm 1), with nothing to tune but the number of steps `N`.
///
/// Per sample, `f` the loss, `P` the projection into budget and domain, `step` as [`Problem::step`]
/// (one direction over all modalities in declared units for a joint budget, one of each modality in
/// its own radius otherwise, signs for linf), `eta` in radii:
///
/// ```text
/// x_0 = a random point of the ball; x_{-1} = x_0; eta = 2; best = x_0
/// for k in 0..N:
///     z       = P(step(x_k, eta))
///     x_{k+1} = P(x_k + a (z - x_k) + (1 - a) (x_k - x_{k-1})),  a = 0.75 (1 for k = 0)
///     best    = x_{k+1} if f(x_{k+1}) > f(best)
///     if k + 1 is a checkpoint w_j, and since w_{j-1}
///        f rose in fewer than 0.75 of the steps, or neither eta nor f(best) changed:
///         eta = eta / 2; x_{k+1} = best
/// w_j = ceil(p_j N); p_0 = 0, p_1 = 0.22, p_{j+1} = p_j + max(p_j - p_{j-1} - 0.03, 0.06)
/// ```
///
/// Success is checked at every iterate, and a sample that has succeeded is worked on no more. A
/// sample that never succeeds ends at the best point of the last restart. A restart costs `N + 1`
/// forward and `N` backward evaluations of each sample that stands; [`Climb::Rival`], one forward
/// more in all.
///
/// Which loss: random linear models with five classes, at budgets 0.1 % beyond each sample's
/// distance, fall in 34 % of cases to the cross-entropy (greatest between the rivals, where none
/// may win), in 80 % to the DLR (which may climb towards another rival than the nearest) and always
/// to the targeted DLR, with one start each. All three reach the distance of models with a single
/// rival.
///
/// It does not: use the same step size for all samples of a batch; average gradients over the
/// randomness of a model (there is none: a classifier is fixed); enlarge its radius at first (the
/// released option for l1); adapt step sizes per modality. Random starts: l2, on the sphere; linf,
/// uniform in the box (the released code stretches that point until one element touches it).
#[derive(Debug, Clone, PartialEq)]
pub struct Apgd {
    /// How far to go.
    pub budget: Budget,
    /// Steps of each restart, at least 1; the published number is 100.
    pub steps: usize,
    /// Tried in order on whoever still stands, each from its own random start; at least one.
    pub restarts: Vec<Climb>,
}

impl Apgd {
    /// 100 steps on `loss`, one start.
    pub fn new(budget: Budget, loss: Loss) -> Self {
        Self {
            budget,
            steps: 100,
            restarts: vec![Climb::Loss(loss)],
        }
    }

    /// APGD-CE: 100 steps on the cross-entropy, one start.
    pub fn ce(budget: Budget) -> Self {
        Self::new(budget, Loss::CrossEntropy)
    }

    /// APGD-DLR: 100 steps on the difference of logits ratio, one start. For three classes or more.
    pub fn dlr(budget: Budget) -> Self {
        Self::new(budget, Loss::Dlr)
    }

    /// APGD-T: 100 steps on the targeted DLR towards each of the `targets` most likely wrong
    /// classes (published: 9), or as many as there are.
    pub fn targeted(budget: Budget, targets: usize) -> Self {
        Self {
            budget,
            steps: 100,
            restarts: (0..targets).map(Climb::Rival).collect(),
        }
    }

    /// The same attack with another number of steps.
    pub fn with_steps(self, steps: usize) -> Self {
        Self { steps, ..self }
    }

    /// The same attack, all its restarts tried `times` times.
    pub fn repeated(self, times: usize) -> Self {
        Self {
            restarts: self.restarts.repeat(times),
            ..self
        }
    }

    fn restart(
        &self,
        number: usize,
        last: bool,
        problem: &Problem<'_>,
        aim: &Aim,
        found: &mut Found,
    ) -> Result<()> {
        let mut active = Active::new(problem, found)?;
        let purpose = format!("attack.{}.{number}", self.name());
        let start = active
            .problem(problem)
            .random_start(&self.budget, &purpose, 1.)?;
        let mut here = Point {
            gradients: start.map(|_| None),
            x: start,
        };
        let (mut previous, mut best) = (here.x.clone(), here.clone());
        let mut progress: Vec<Progress> = vec![];
        let checkpoints = checkpoints(self.steps);
        let mut checked = 0;
        for k in 0..=self.steps {
            let narrowed = active.problem(problem);
            let value = |logits: &Tensor| aim.value(&active.rows, logits, narrowed.goal());
            let logits;
            if k < self.steps {
                (here.gradients, logits) =
                    narrowed.gradients_of(&self.budget, &here.x, |logits| {
                        Ok(value(logits)?.sum_all()?)
                    })?;
            } else {
                logits = narrowed.logits(&here.x)?;
            }
            let mut values = value(&logits)?.to_dtype(DType::F64)?.to_vec1::<f64>()?;
            let met = narrowed.met_firmly(&logits)?;
            if let Some(keep) = active.retire(problem, found, &met, &here.x)? {
                if keep.is_empty() {
                    return Ok(());
                }
                (here, best) = (here.select(&keep)?, best.select(&keep)?);
                previous = select_rows(&previous, &keep)?;
                values = keep.iter().map(|i| values[*i as usize]).collect();
                if k > 0 {
                    progress = keep.iter().map(|i| progress[*i as usize]).collect();
                }
            }
            if k == 0 {
                best = here.clone();
                progress = values.into_iter().map(Progress::new).collect();
            } else {
                let better: Vec<bool> = progress
                    .iter_mut()
                    .zip(values)
                    .map(|(p, value)| p.see(value))
                    .collect();
                best = best.replaced(&better, &here)?;
            }
            if k == self.steps {
                break;
            }
            if checkpoints.contains(&k) {
                let halve: Vec<bool> = progress.iter_mut().map(|p| p.check(k - checked)).collect();
                here = here.replaced(&halve, &best)?;
                checked = k;
            }
            let lengths: Vec<f64> = progress.iter().map(|p| p.step).collect();
            let narrowed = active.problem(problem);
            let z = narrowed.step_each(&self.budget, &here.x, &here.gradients, &lengths)?;
            let a = if k == 0 { 1. } else { MOMENTUM };
            let next = here.x.try_enumerate(|m, x| -> Result<Tensor> {
                Ok(((x + ((&z[m] - x)? * a)?)? + ((x - &previous[m])? * (1. - a))?)?)
            })?;
            previous = std::mem::replace(&mut here.x, narrowed.confine(&self.budget, &next)?);
        }
        if last {
            found.record(active.rows.into_iter(), best.x, false);
        }
        Ok(())
    }
}

impl Attack for Apgd {
    fn name(&self) -> &str {
        let all = |climb: fn(&Climb) -> bool| self.restarts.iter().all(climb);
        match () {
            () if all(|c| *c == Climb::Loss(Loss::CrossEntropy)) => "apgd-ce",
            () if all(|c| *c == Climb::Loss(Loss::Dlr)) => "apgd-dlr",
            () if all(|c| matches!(c, Climb::Rival(_))) => "apgd-t",
            () => "apgd",
        }
    }

    fn budget(&self) -> &Budget {
        &self.budget
    }

    fn search(&self, problem: &Problem<'_>) -> Result<PerModality<Tensor>> {
        if self.steps == 0 || self.restarts.is_empty() {
            return Err(Error::Setting(
                "apgd needs at least one step and one restart",
            ));
        }
        let mut found = Found::new(problem.samples());
        if problem.samples() == 0 {
            return found.assemble(problem);
        }
        let ranked = self.restarts.iter().any(|c| matches!(c, Climb::Rival(_)));
        let rivals = if ranked { rivals(problem)? } else { vec![] };
        let aims = self
            .restarts
            .iter()
            .filter_map(|climb| Aim::new(*climb, &rivals))
            .collect::<Vec<_>>();
        for (number, aim) in aims.iter().enumerate() {
            if found.standing().is_empty() {
                break;
            }
            self.restart(number, number + 1 == aims.len(), problem, aim, &mut found)?;
        }
        found.assemble(problem)
    }
}

/// Steps after which step sizes are reconsidered: `w_1, w_2, ...`.
fn checkpoints(steps: usize) -> Vec<usize> {
    // In hundredths, which are exact.
    let (mut before, mut p) = (0, 22);
    let mut found = vec![];
    while p < 100 {
        found.push((p * steps).div_ceil(100));
        (before, p) = (p, p + (p - before - 3).max(6));
    }
    found
}

/// Per sample, the wrong classes, the one with the greatest clean logit first. A forward
/// evaluation.
pub(crate) fn rivals(problem: &Problem<'_>) -> Result<Vec<Vec<u32>>> {
    let Goal::Avoid(labels) = problem.goal() else {
        return Err(Error::Setting(
            "a targeted attack chooses its own targets: use Goal::Avoid, or an untargeted attack",
        ));
    };
    let logits = problem
        .logits(problem.clean())?
        .to_dtype(DType::F64)?
        .to_vec2::<f64>()?;
    let wrong = |(row, y): (&Vec<f64>, u32)| {
        let mut classes: Vec<u32> = (0..row.len() as u32).filter(|j| *j != y).collect();
        classes.sort_by(|a, b| row[*b as usize].total_cmp(&row[*a as usize]));
        classes
    };
    Ok(logits
        .iter()
        .zip(labels.to_vec1::<u32>()?)
        .map(wrong)
        .collect())
}

/// A [`Climb`] of the samples at hand.
enum Aim {
    Loss(Loss),
    /// Towards a class of each sample of the whole problem.
    Classes(Vec<u32>),
}

impl Aim {
    /// `None`: no sample has a rival of that rank.
    fn new(climb: Climb, rivals: &[Vec<u32>]) -> Option<Self> {
        match climb {
            Climb::Loss(loss) => Some(Self::Loss(loss)),
            Climb::Rival(rank) => rivals
                .iter()
                .map(|r| r.get(rank).copied())
                .collect::<Option<_>>()
                .map(Self::Classes),
        }
    }

    /// `[rows]`, of the samples in `rows` of the whole problem.
    fn value(&self, rows: &[u32], logits: &Tensor, goal: &Goal) -> Result<Tensor> {
        match self {
            Self::Loss(loss) => loss.value(logits, goal),
            Self::Classes(classes) => {
                let classes: Vec<u32> = rows.iter().map(|i| classes[*i as usize]).collect();
                let classes = Tensor::new(classes, logits.device())?;
                if logits.dim(1)? >= 4 {
                    dlr_towards(&classes, logits, goal)
                } else {
                    margin_towards(&classes, logits, goal)
                }
            }
        }
    }
}

/// Inputs of a batch, and the gradients there.
#[derive(Clone)]
struct Point {
    x: PerModality<Tensor>,
    gradients: PerModality<Option<Tensor>>,
}

impl Point {
    fn select(&self, keep: &[u32]) -> Result<Self> {
        Ok(Self {
            x: select_rows(&self.x, keep)?,
            gradients: select_gradients(&self.gradients, keep)?,
        })
    }

    /// With the samples of `other` where `take` says so.
    fn replaced(&self, take: &[bool], other: &Self) -> Result<Self> {
        if !take.contains(&true) {
            return Ok(self.clone());
        }
        if !take.contains(&false) {
            return Ok(other.clone());
        }
        let choose = |theirs: &Tensor, own: &Tensor| chosen(take, theirs, own);
        Ok(Self {
            x: self.x.try_enumerate(|m, x| choose(&other.x[m], x))?,
            gradients: self.gradients.try_enumerate(|m, g| -> Result<_> {
                Ok(match (&other.gradients[m], g) {
                    (Some(theirs), Some(own)) => Some(choose(theirs, own)?),
                    // A modality that does not move has none anywhere.
                    _ => None,
                })
            })?,
        })
    }
}

/// How one sample fares.
#[derive(Debug, Clone, Copy)]
struct Progress {
    /// Of its next step, in radii.
    step: f64,
    /// At its last point.
    value: f64,
    best: f64,
    /// Best at the last checkpoint.
    checked: f64,
    /// Steps since then that raised the loss.
    rises: usize,
    /// At the last checkpoint.
    halved: bool,
}

impl Progress {
    /// At the start.
    fn new(value: f64) -> Self {
        Self {
            step: FIRST_STEP,
            value,
            best: value,
            checked: value,
            rises: 0,
            halved: false,
        }
    }

    /// Takes note of the loss at the next point. Is it the best so far?
    fn see(&mut self, value: f64) -> bool {
        self.rises += usize::from(value > self.value);
        self.value = value;
        // Any number is better than none.
        let better = value > self.best || (self.best.is_nan() && !value.is_nan());
        if better {
            self.best = value;
        }
        better
    }

    /// A checkpoint, `steps` after the last one: halve the step, and go back to the best point?
    fn check(&mut self, steps: usize) -> bool {
        let few = (self.rises as f64) < RISING * steps as f64;
        let stuck = !self.halved && self.best == self.checked;
        self.halved = few || stuck;
        if self.halved {
            self.step /= 2.;
            self.value = self.best;
        }
        (self.checked, self.rises) = (self.best, 0);
        self.halved
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The published checkpoints of 100 steps.
    #[test]
    fn checkpoints_come_closer() {
        assert_eq!(checkpoints(100), [22, 41, 57, 70, 80, 87, 93, 99]);
        assert_eq!(checkpoints(10), [3, 5, 6, 7, 8, 9, 10, 10]);
        assert_eq!(checkpoints(1), [1; 8]);
    }

    #[test]
    fn steps_are_halved_when_they_oscillate_or_nothing_changed() {
        let mut p = Progress::new(0.);
        // Three of four rise: as many as asked for.
        assert_eq!(
            [1., 2., 1.5, 3.].map(|v| p.see(v)),
            [true, true, false, true]
        );
        assert!(!p.check(4));
        assert_eq!((p.step, p.value, p.rises), (2., 3., 0));
        // All rise, none beyond the best: the step and the best stay the same.
        p.see(1.);
        p.rises = 0;
        assert_eq!([2., 2.5, 2.7].map(|v| p.see(v)), [false; 3]);
        assert!(p.check(3));
        assert_eq!((p.step, p.value), (1., 3.));
        // Now the step has changed: again no better, but rising.
        p.see(1.);
        p.rises = 0;
        assert_eq!([2., 2.5, 2.7].map(|v| p.see(v)), [false; 3]);
        assert!(!p.check(3));
        // Half of the steps rise, to a new best: too few.
        assert_eq!([2., 3.5].map(|v| p.see(v)), [false, true]);
        assert!(p.check(2));
        assert_eq!((p.step, p.value), (0.5, 3.5));
    }
}
