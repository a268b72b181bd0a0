//! How far the nearest adversarial of each sample is at most, by everything there is. Does not know
//! how attacks search.
use crate::{
    Apgd, Attack, Budget, Draws, Fab, Goal, Pgd, Problem, Result,
    hyperplane::{Plane, Space},
    planes::{self, Boundary},
    points::{Point, Rows, between, moved, stacked},
    problem::{Counter, select_rows},
    run::propose,
};
use candle_core::Tensor;
use crmt_core::{Classifier, PerModality};

/// The nearest adversarials found.
#[derive(Debug, Clone)]
pub struct Nearest {
    /// Per sample, as a multiple of the budget: `|d|_2 / radius` for a joint budget, otherwise the
    /// greatest `|d_m| / radius_m`, everything in declared units; the distance itself for radii
    /// of 1. 0 where the clean input meets the goal already, infinite where nothing was found.
    pub distance: Vec<f64>,
    /// At that distance, within the domains; the clean input where nothing was found.
    pub adversarial: PerModality<Tensor>,
    /// What each sample moved on each modality, in declared units and the norm of the budget.
    pub spent: PerModality<Vec<f64>>,
    /// Forward evaluations, counted per sample.
    pub forwards: u64,
    /// Backward evaluations, counted per sample.
    pub backwards: u64,
}

/// [`nearest_by`] 8 rounds of the targeted attack that suits the model: [`Apgd::targeted`] towards
/// 9 classes; multi- targeted [`Pgd`] for two or three classes; [`Pgd::strong`] for
/// [`Goal::Reach`].
///
/// # Errors
/// As [`run`](crate::run).
pub fn nearest(
    budget: &Budget,
    classifier: &dyn Classifier,
    inputs: &PerModality<Tensor>,
    goal: &Goal,
    draws: &Draws,
) -> Result<Nearest> {
    let counter = Counter::default();
    budget.check(classifier.modalities(), inputs[0].dtype(), None)?;
    let problem = Problem::new(classifier, inputs, goal, draws, None, &counter)?;
    found(
        suited(budget, &problem)?.as_ref(),
        ROUNDS,
        &problem,
        &counter,
    )
}

/// [`nearest`] as an attack, of which the points that are inside the budget succeed. It tells how
/// far it is ([`run_watched`](crate::run_watched)).
#[derive(Debug, Clone, PartialEq)]
pub struct Bisection {
    /// What near means.
    pub budget: Budget,
}

impl Attack for Bisection {
    fn name(&self) -> &str {
        "nearest"
    }

    fn budget(&self) -> &Budget {
        &self.budget
    }

    fn search(&self, problem: &Problem<'_>) -> Result<PerModality<Tensor>> {
        let attack = suited(&self.budget, problem)?;
        search(attack.as_ref(), ROUNDS, problem)?.adversarial()
    }
}

/// Of the attack that suits the model.
const ROUNDS: usize = 8;

/// The targeted attack that suits the model.
fn suited(budget: &Budget, problem: &Problem<'_>) -> Result<Box<dyn Attack>> {
    let budget = budget.clone();
    // Of no samples nobody asks for an attack.
    let one = if problem.samples() > 0 {
        Some(problem.select(&[0])?)
    } else {
        None
    };
    let classes = one.map_or(Ok(2), |one| {
        one.logits(one.clean())
            .and_then(|logits| Ok(logits.dim(1)?))
    })?;
    Ok(match problem.goal() {
        Goal::Reach(_) => Box::new(Pgd::strong(budget)),
        Goal::Avoid(_) if classes < 4 => Box::new(Pgd::targeting(budget, 40, 0..classes as u32)),
        Goal::Avoid(_) => Box::new(Apgd::targeted(budget, 9)),
    })
}

/// An upper bound of each sample's distance to the nearest adversarial, measured in the budget of
/// `attack`, whose radii say how modalities are traded against each other.
///
/// ```text
/// 1. [`Fab`] towards the 9 most likely wrong classes (the goal's boundary for Goal::Reach), for distances
/// 2. for samples it found nothing for: `attack` at 1, 4, 16, ... times the budget, until it finds something
/// 3. rounds times: `attack` closer than the best so far, by 5 % at first and by twice as much after each success; after a
///    failure, halfway between where it failed and the best
/// 4. 4 times: the boundary at the best, linearised there; the point of it nearest to the clean input within the domains,
///    and a little beyond
///    every adversarial is drawn towards the clean input, by halvings of the way on which it stays adversarial (only
///    forward evaluations)
/// ```
///
/// Every distance is that of a point that was judged as it is returned. It is an upper bound: a
/// failure of `attack` proves nothing, and only says where to look. On a linear model it is the
/// exact distance, to a relative 1e-6, if the nearest class is among the 9.
///
/// `rounds`: 0 for FAB alone, where it finds something. Samples whose bounds are within 0.1 % are
/// worked on no more.
///
/// # Errors
/// As [`run`](crate::run).
pub fn nearest_by(
    attack: &dyn Attack,
    rounds: usize,
    classifier: &dyn Classifier,
    inputs: &PerModality<Tensor>,
    goal: &Goal,
    draws: &Draws,
) -> Result<Nearest> {
    let counter = Counter::default();
    attack
        .budget()
        .check(classifier.modalities(), inputs[0].dtype(), None)?;
    let problem = Problem::new(classifier, inputs, goal, draws, None, &counter)?;
    found(attack, rounds, &problem, &counter)
}

fn found(
    attack: &dyn Attack,
    rounds: usize,
    problem: &Problem<'_>,
    counter: &Counter<'_>,
) -> Result<Nearest> {
    let found = search(attack, rounds, problem)?;
    let lengths: Vec<Vec<f64>> = found
        .clean
        .iter()
        .zip(&found.bounds)
        .map(|(x, b)| found.space.lengths(x, &b.point))
        .collect();
    Ok(Nearest {
        distance: found.bounds.iter().map(|b| b.above).collect(),
        adversarial: found.adversarial()?,
        spent: PerModality::from_fn(problem.clean().len(), |m| {
            lengths.iter().map(|l| l[m]).collect()
        }),
        forwards: counter.forwards.get(),
        backwards: counter.backwards.get(),
    })
}

fn search<'a>(
    attack: &'a dyn Attack,
    rounds: usize,
    problem: &'a Problem<'a>,
) -> Result<Search<'a>> {
    let samples = problem.samples();
    let met = if samples == 0 {
        vec![]
    } else {
        problem.met(&problem.logits(problem.clean())?)?
    };
    let clean = Rows::new(problem.clean())?.points();
    let bounds = met
        .iter()
        .zip(&clean)
        .map(|(met, x)| Bounds::new(*met, x))
        .collect();
    let space = Space::new(attack.budget(), problem.classifier().modalities());
    let mut search = Search {
        attack,
        problem,
        space,
        clean,
        bounds,
    };
    search.seed()?;
    let parts = BRACKETS + rounds + STRAIGHTER.0;
    let done = |part: usize| problem.progress(SEEDED + (1. - SEEDED) * part as f64 / parts as f64);
    for power in 0..BRACKETS {
        search.bracket(power)?;
        done(power + 1);
    }
    for round in 0..rounds {
        search.close()?;
        done(BRACKETS + round + 1);
    }
    search.straighten(|step| done(BRACKETS + rounds + step + 1))?;
    Ok(search)
}

/// Halvings of the way to the clean input: after each attack, which only asks where to look next,
/// and at the end.
const HALVINGS: (usize, usize) = (12, 40);
/// Attacks on samples for which nothing has been found, the last at `4^9` times the budget.
const BRACKETS: usize = 10;
/// Bounds this close to each other, relatively, need no more work.
const CLOSE: f64 = 1e-3;
/// The first attempt to come closer, relative to the distance.
const CLOSER: f64 = 0.05;

/// Share of the work that the first part is, about.
const SEEDED: f64 = 0.4;

/// Linearisations at the end, and how far beyond the first of them to go, relatively.
const STRAIGHTER: (usize, f64) = (4, 1e-3);

/// What is known of one sample.
struct Bounds {
    /// Size of the move to `point`; infinite if it is no adversarial.
    above: f64,
    point: Point,
    /// Where an attack failed.
    below: f64,
    /// How much closer to look, relatively.
    closer: f64,
}

impl Bounds {
    fn new(met: bool, clean: &Point) -> Self {
        Self {
            above: if met { 0. } else { f64::INFINITY },
            point: clean.clone(),
            below: 0.,
            closer: CLOSER,
        }
    }

    /// The next size to attack at; `None`: it is close enough.
    fn next(&self) -> Option<f64> {
        if self.above <= self.below * (1. + CLOSE) || self.above == 0. {
            return None;
        }
        let halfway = 0.5 * (self.below + self.above);
        Some(if self.below > 0. {
            halfway
        } else {
            self.above * (1. - self.closer)
        })
    }
}

struct Search<'a> {
    attack: &'a dyn Attack,
    problem: &'a Problem<'a>,
    space: Space<'a>,
    clean: Vec<Point>,
    bounds: Vec<Bounds>,
}

impl Search<'_> {
    /// What one sample may move at size 1.
    fn radii(&self) -> Vec<f64> {
        (0..self.clean[0].len())
            .map(|m| self.attack.budget().radius(m))
            .collect()
    }

    fn rows(&self, which: impl Fn(&Bounds) -> bool) -> Vec<u32> {
        (0..)
            .zip(&self.bounds)
            .filter(|(_, b)| which(b))
            .map(|(i, _)| i)
            .collect()
    }

    fn seed(&mut self) -> Result<()> {
        let rows = self.rows(|b| b.above > 0.);
        let budget = self.attack.budget().clone();
        let moves = (0..self.problem.clean().len()).any(|m| budget.radius(m) > 0.);
        if rows.is_empty() || !moves {
            return Ok(());
        }
        let fab = match self.problem.goal() {
            Goal::Avoid(_) => Fab::targeted(budget, 9),
            Goal::Reach(_) => Fab::new(budget),
        };
        let part = self.problem.select(&rows)?;
        let told = |share: f64| self.problem.progress(SEEDED * share);
        let found = fab.for_distances().search_told(&part, told)?;
        let met = part.met(&part.logits(&found)?)?;
        self.shorten(&rows, &found, &met, HALVINGS.0)?;
        Ok(())
    }

    /// Something for those who have nothing, farther each time.
    fn bracket(&mut self, power: usize) -> Result<()> {
        let rows = self.rows(|b| b.above == f64::INFINITY);
        let radius = 4f64.powi(power as i32);
        self.attempt(&rows, &vec![radius; rows.len()])
    }

    /// Closer.
    fn close(&mut self) -> Result<()> {
        let rows = self.rows(|b| b.above.is_finite() && b.next().is_some());
        let radii: Vec<f64> = rows
            .iter()
            .filter_map(|i| self.bounds[*i as usize].next())
            .collect();
        self.attempt(&rows, &radii)
    }

    /// Attacks these samples within these multiples of the budget.
    fn attempt(&mut self, rows: &[u32], radii: &[f64]) -> Result<()> {
        if rows.is_empty() {
            return Ok(());
        }
        let part = self.problem.select(rows)?.within(radii)?;
        let found = propose(self.attack, &part)?.x;
        let met = part.met(&part.logits(&found)?)?;
        for ((row, radius), met) in rows.iter().zip(radii).zip(&met) {
            let bounds = &mut self.bounds[*row as usize];
            match met {
                true => bounds.closer = (2. * bounds.closer).min(0.5),
                false => bounds.below = *radius,
            }
        }
        self.shorten(rows, &found, &met, HALVINGS.0)
    }

    /// Draws the adversarials among these points towards the clean inputs, and keeps those that are
    /// nearest. Each is kept in the values in which it was judged, and was clearly beyond the
    /// boundary: on it, the next judge may see it otherwise.
    fn shorten(
        &mut self,
        rows: &[u32],
        found: &PerModality<Tensor>,
        met: &[bool],
        halvings: usize,
    ) -> Result<()> {
        let keep: Vec<u32> = (0..)
            .zip(met)
            .filter(|(_, met)| **met)
            .map(|(i, _)| i)
            .collect();
        if keep.is_empty() {
            return Ok(());
        }
        let rows: Vec<u32> = keep.iter().map(|i| rows[*i as usize]).collect();
        let part = self.problem.select(&rows)?;
        let far = Rows::new(&select_rows(found, &keep)?)?.points();
        let mut best = far.clone();
        let mut shares = vec![[0., 1.]; rows.len()];
        for _ in 0..halvings {
            let there = |(i, [low, high]): (usize, &[f64; 2])| {
                between(&self.clean[rows[i] as usize], &far[i], 0.5 * (low + high))
            };
            let points: Vec<Point> = shares.iter().enumerate().map(there).collect();
            let x = stacked(part.clean(), &points)?;
            let met = part.met_firmly(&part.logits(&x)?)?;
            let x = Rows::new(&x)?;
            for (i, [low, high]) in shares.iter_mut().enumerate() {
                let half = 0.5 * (*low + *high);
                if met[i] {
                    (*high, best[i]) = (half, x.of(i));
                } else {
                    *low = half;
                }
            }
        }
        let radii = self.radii();
        for (row, point) in rows.iter().zip(best) {
            let size = self.space.size(&radii, &self.clean[*row as usize], &point);
            let bounds = &mut self.bounds[*row as usize];
            if size < bounds.above {
                (bounds.above, bounds.point) = (size, point);
            }
        }
        Ok(())
    }

    /// From the boundary to the point of its linearisation that is nearest to the clean input.
    fn straighten(&mut self, told: impl Fn(usize)) -> Result<()> {
        let rows = self.rows(|b| b.above > 0. && b.above.is_finite());
        if rows.is_empty() {
            return Ok(());
        }
        let part = self.problem.select(&rows)?;
        let radii = part.radii(self.attack.budget())?;
        let batch = |search: &Self| {
            let points: Vec<Point> = rows
                .iter()
                .map(|i| search.bounds[*i as usize].point.clone())
                .collect();
            stacked(part.clean(), &points)
        };
        self.shorten(&rows, &batch(self)?, &vec![true; rows.len()], HALVINGS.1)?;
        let mut beyond = vec![STRAIGHTER.1; rows.len()];
        for step in 0..STRAIGHTER.0 {
            let x = batch(self)?;
            let (planes, _) = planes::nearest(&part, &self.space, &radii, &[Boundary::Goal], &x)?;
            let own = self.radii();
            let straight = |((row, plane), beyond): ((&u32, &Plane), &f64)| {
                let (clean, x) = (
                    &self.clean[*row as usize],
                    &self.bounds[*row as usize].point,
                );
                let way = self
                    .space
                    .toward(&own, clean, &plane.normal, -plane.at(x, clean));
                self.space.clamped(&own, moved(clean, &way, 1. + beyond))
            };
            let points: Vec<Point> = rows
                .iter()
                .zip(&planes)
                .zip(&beyond)
                .map(straight)
                .collect();
            let found = stacked(part.clean(), &points)?;
            let met = part.met(&part.logits(&found)?)?;
            // Where the boundary bends away, farther beyond; where it does not, not as far.
            beyond
                .iter_mut()
                .zip(&met)
                .for_each(|(beyond, met)| *beyond *= if *met { 0.01 } else { 4. });
            self.shorten(&rows, &found, &met, HALVINGS.1)?;
            told(step);
        }
        Ok(())
    }

    fn adversarial(&self) -> Result<PerModality<Tensor>> {
        let points: Vec<Point> = self.bounds.iter().map(|b| b.point.clone()).collect();
        if points.is_empty() {
            Ok(self.problem.clean().clone())
        } else {
            stacked(self.problem.clean(), &points)
        }
    }
}
