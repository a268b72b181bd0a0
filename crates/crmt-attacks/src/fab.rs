//! The fast adaptive boundary attack (Croce & Hein 2020): the nearest adversarial, over several
//! inputs at once. Does not know how a hyperplane is reached: `hyperplane.rs` does.
use crate::{
    Attack, Budget, Error, Problem, Result,
    hyperplane::{Plane, Space},
    planes::{Boundary, nearest},
    points::{Point, Rows, between, moved, stacked},
    problem::select_rows,
    shortest::{Shortest, Until},
};
use candle_core::Tensor;
use crmt_core::PerModality;

/// FAB (Croce & Hein 2020, "Minimally distorted adversarial examples with a fast adaptive boundary
/// attack"): walks along the decision boundary, drawn towards the clean input.
///
/// Distances are sizes in the budget: `|d|_2 / radius` for a joint budget, the greatest
/// `|d_m| / radius_m` otherwise (l2 or linf of each modality), everything in declared units. The
/// radii of the budget therefore say how modalities are traded against each other, and how near is
/// near enough. Per sample, with `to(x, H)` the smallest move from `x` to the hyperplane `H` within
/// the domains (the one that comes closest to it, where none arrives), found exactly:
///
/// ```text
/// x = the clean input; best = none
/// repeat steps times:
///     H = the nearest of {z : h_j(x) - h_y(x) + grad (h_j - h_y)(x) . (z - x) = 0} over rivals j of the label y
///     d = to(x, H); d0 = to(clean, H); a = min(|d| / (|d| + |d0|), alpha_max)
///     x = clamp((1 - a) (x + eta d) + a (clean + eta d0))
///     if x is adversarial:
///         best = x if |x - clean| < |best - clean|
///         x = clean + beta (x - clean)
/// ```
///
/// *Targeted* (FAB-T, as in AutoAttack): one run towards each of the most likely wrong classes of
/// the clean input, a single hyperplane each; success is still any adversarial. For
/// [`Goal::Avoid`](crate::Goal::Avoid). The untargeted form also takes
/// [`Goal::Reach`](crate::Goal::Reach), where the only hyperplane is that of the margin.
///
/// A run after the first towards the same classes starts at a random point of half the size of the
/// best adversarial so far, at most of half the budget (l2, on the sphere; linf, uniform in the
/// box; the released code takes half the budget always, and stretches the point in the box until
/// one element touches it).
///
/// A run of `N` steps costs `2 N` forward and `N` backward evaluations of each sample that stands;
/// untargeted with `K` classes, `K N` forward and `(K - 1) N` backward ones. Ranking the rivals
/// costs one forward more in all.
///
/// A sample ends at its nearest adversarial, also if that is outside the budget, or else where its
/// last run ended. On a linear model without bounds the nearest adversarial of 100 steps is 0.6 %
/// farther than the boundary: `eta` and `beta` keep the walk from settling on it.
/// [`nearest`](crate::nearest()) goes the rest of the way.
///
/// It does not: end with the paper's search along the segment to the clean input (nor does
/// AutoAttack); choose the nearest hyperplane by its distance within the domains (nor does the
/// paper).
#[derive(Debug, Clone, PartialEq)]
pub struct Fab {
    /// What near means, and how near is near enough.
    pub budget: Budget,
    /// Steps of each run, at least 1; the published number is 100.
    pub steps: usize,
    /// Runs towards each target, the first from the clean input; at least 1.
    pub starts: usize,
    /// Towards each of as many of the most likely wrong classes, or as many as there are; `None`:
    /// always towards the nearest boundary of all.
    pub targets: Option<usize>,
    /// Greatest share of a step that begins at the clean input, in `0..=1`; published 0.1.
    pub alpha_max: f64,
    /// How far beyond a hyperplane to go, at least 1; published 1.05.
    pub eta: f64,
    /// Where on the way from the clean input to an adversarial to go on, in `0..=1`; published 0.9.
    pub beta: f64,
    /// When a sample needs no more work.
    pub until: Until,
}

impl Fab {
    /// The untargeted form: 100 steps, one start, until it is inside the budget.
    pub fn new(budget: Budget) -> Self {
        let (alpha_max, eta, beta) = (0.1, 1.05, 0.9);
        Self {
            budget,
            steps: 100,
            starts: 1,
            targets: None,
            alpha_max,
            eta,
            beta,
            until: Until::Inside,
        }
    }

    /// FAB-T: the same towards each of the `targets` most likely wrong classes (published: 9), or
    /// as many as there are.
    pub fn targeted(budget: Budget, targets: usize) -> Self {
        Self {
            targets: Some(targets),
            ..Self::new(budget)
        }
    }

    /// The same attack with another number of steps.
    pub fn with_steps(self, steps: usize) -> Self {
        Self { steps, ..self }
    }

    /// The same attack with another number of runs towards each target.
    pub fn with_starts(self, starts: usize) -> Self {
        Self { starts, ..self }
    }

    /// The same attack, which keeps looking for the nearest adversarial of each sample.
    pub fn for_distances(self) -> Self {
        Self {
            until: Until::Nearest,
            ..self
        }
    }

    fn check(&self) -> Result<()> {
        if self.steps == 0 || self.starts == 0 || self.targets == Some(0) {
            return Err(Error::Setting(
                "fab needs at least one step, one start, and one target if it is targeted",
            ));
        }
        let share = |s: f64| (0. ..=1.).contains(&s);
        if !(share(self.alpha_max) && share(self.beta) && self.eta >= 1. && self.eta.is_finite()) {
            return Err(Error::Setting(
                "fab needs an alpha_max and a beta in 0..=1, and an eta of at least 1",
            ));
        }
        Ok(())
    }

    /// One run of all steps towards the nearest of `boundaries`.
    fn walk(&self, run: &Run<'_>, problem: &Problem<'_>, best: &mut Shortest) -> Result<()> {
        let mut rows = best.standing();
        let mut here = problem.select(&rows)?;
        let mut x = self.start(run, &here, &rows, best)?;
        for _ in 0..self.steps {
            let radii = here.radii(&self.budget)?;
            let of = |i: usize| -> Vec<f64> { radii.iter().map(|r| r[i]).collect() };
            let boundaries: Vec<_> = run.boundaries.iter().map(|b| b.select(&rows)).collect();
            let (planes, _) = nearest(&here, run.space, &radii, &boundaries, &x)?;
            let (clean, from) = (Rows::new(here.clean())?, Rows::new(&x)?);
            let step = |(i, plane)| self.step(run.space, &of(i), &clean.of(i), &from.of(i), plane);
            let next: Vec<Point> = planes.iter().enumerate().map(step).collect();
            x = stacked(&x, &next)?;
            let met = here.met_firmly(&here.logits(&x)?)?;
            let mut next = Rows::new(&x)?.points();
            for (i, point) in next.iter_mut().enumerate().filter(|(i, _)| met[*i]) {
                best.see(rows[i], run.space.size(&of(i), &clean.of(i), point), point);
                *point = between(&clean.of(i), point, self.beta);
            }
            let left: Vec<u32> = (0..)
                .zip(&rows)
                .filter(|(_, row)| !best.done(**row))
                .map(|(i, _)| i)
                .collect();
            if left.is_empty() {
                return Ok(());
            }
            x = stacked(&x, &next)?;
            if left.len() < rows.len() {
                rows = left.iter().map(|i| rows[*i as usize]).collect();
                (here, x) = (here.select(&left)?, select_rows(&x, &left)?);
            }
        }
        Rows::new(&x)?
            .points()
            .iter()
            .zip(rows)
            .for_each(|(point, row)| best.end(row, point));
        Ok(())
    }

    fn start(
        &self,
        run: &Run<'_>,
        here: &Problem<'_>,
        rows: &[u32],
        best: &Shortest,
    ) -> Result<PerModality<Tensor>> {
        if run.number.is_multiple_of(self.starts) {
            return Ok(here.clean().clone());
        }
        let random = here.random_start(
            &self.budget,
            &format!("attack.{}.{}", self.name(), run.number),
            1.,
        )?;
        let (clean, random) = (Rows::new(here.clean())?, Rows::new(&random)?);
        let near = |(i, row)| between(&clean.of(i), &random.of(i), 0.5 * best.size(row).min(1.));
        let points: Vec<Point> = rows.iter().copied().enumerate().map(near).collect();
        stacked(here.clean(), &points)
    }

    /// From `x` over `plane`, drawn towards `clean`.
    fn step(
        &self,
        space: &Space<'_>,
        radii: &[f64],
        clean: &Point,
        x: &Point,
        plane: &Plane,
    ) -> Point {
        let own = space.toward(radii, x, &plane.normal, -plane.value);
        let biased = space.toward(radii, clean, &plane.normal, -plane.at(x, clean));
        let [from_x, from_clean] =
            [(x, &own), (clean, &biased)].map(|(x, d)| moved(x, d, self.eta));
        let [own, biased] =
            [(x, &own), (clean, &biased)].map(|(x, d)| space.size(radii, x, &moved(x, d, 1.)));
        // Neither moves: there is nothing to weigh.
        let alpha = if own > 0. {
            (own / (own + biased)).min(self.alpha_max)
        } else {
            0.
        };
        space.clamped(radii, between(&from_x, &from_clean, alpha))
    }
}

impl Attack for Fab {
    fn name(&self) -> &str {
        if self.targets.is_some() {
            "fab-t"
        } else {
            "fab"
        }
    }

    fn budget(&self) -> &Budget {
        &self.budget
    }

    fn search(&self, problem: &Problem<'_>) -> Result<PerModality<Tensor>> {
        self.search_told(problem, |share| problem.progress(share))
    }
}

impl Fab {
    /// `told` the share of the runs that are done, after each.
    pub(crate) fn search_told(
        &self,
        problem: &Problem<'_>,
        told: impl Fn(f64),
    ) -> Result<PerModality<Tensor>> {
        self.check()?;
        let mut best = Shortest::new(self.until, problem.samples());
        if problem.samples() == 0 {
            return best.assemble(problem);
        }
        let approaches = match self.targets {
            Some(targets) => Boundary::rivals(problem, targets)?
                .into_iter()
                .map(|b| vec![b])
                .collect(),
            None => vec![Boundary::all(problem, usize::MAX)?],
        };
        let space = Space::new(&self.budget, problem.classifier().modalities());
        let runs = approaches
            .iter()
            .flat_map(|boundaries| vec![boundaries; self.starts]);
        let total = approaches.len() * self.starts;
        for (number, boundaries) in runs.enumerate() {
            if best.standing().is_empty() {
                break;
            }
            self.walk(
                &Run {
                    number,
                    space: &space,
                    boundaries,
                },
                problem,
                &mut best,
            )?;
            told((number + 1) as f64 / total as f64);
        }
        best.assemble(problem)
    }
}

/// One walk of every sample that stands.
struct Run<'a> {
    /// Over all targets.
    number: usize,
    space: &'a Space<'a>,
    boundaries: &'a [Boundary],
}
