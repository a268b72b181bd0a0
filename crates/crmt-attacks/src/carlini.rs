//! The l2 attack of Carlini & Wagner (2017): distance and margin in one objective, over several
//! inputs at once. Does not linearise boundaries: `Fab` and `DeepFool` do.
use crate::{
    Attack, Budget, Error, Loss, Norm, Problem, Result,
    hyperplane::Space,
    points::{Point, Rows, stacked},
    shortest::{Shortest, Until},
};
use candle_core::{DType, Tensor};
use crmt_core::PerModality;

/// Of Adam (Kingma & Ba 2015): decay of the mean and of the mean square of gradients, and what is
/// added to its root.
const ADAM: (f64, f64, f64) = (0.9, 0.999, 1e-8);
/// How far towards the ends of its domain a clean input may be for its `artanh`.
const ALMOST: f64 = 0.999_999;
/// A loss of more than this share of what it was a tenth of the steps ago no longer falls.
const FALLING: f64 = 0.9999;

/// The l2 attack of Carlini & Wagner (2017, "Towards evaluating the robustness of neural
/// networks"): minimises, per sample,
///
/// ```text
/// |u|^2 + c max(confidence - margin(x), 0)
/// ```
///
/// by Adam, with `u` the perturbation in declared units for a joint budget, in radii
/// (`d_m / radius_m`, all modalities together) for [`Budget::Each`]; and `margin` the
/// [`Loss::Margin`], at least 0 behind the boundary. The variables are `w` in
/// `x = mid + half tanh(w)` on modalities with a bounded domain, whose middle and half width these
/// are, and the elements of `u` on others. Around that a search for the `c` of each sample: ten
/// times as large until an adversarial is found, then halfway between the greatest that failed and
/// the least that did not. It starts from the clean input each time, and ends early when after a
/// tenth of the steps the objective has not fallen by 0.01 %.
///
/// The nearest adversarial of all steps and all searches is kept: by its size in the budget,
/// `|d|_2 / radius` or the greatest `|d_m|_2 / radius_m`. Costs at most `searches * steps` forward
/// and backward evaluations of each sample.
///
/// Published are 9 searches, steps of 0.01, a first `c` of 0.001, no confidence, and 10 000 steps;
/// here 1000.
///
/// It does not: measure linf, for which the authors have another attack ([`Error::Setting`]);
/// average anything over a batch, or end early for all samples at once (the released code does);
/// move what has a radius of 0.
#[derive(Debug, Clone, PartialEq)]
pub struct CarliniWagner {
    /// What near means (l2), and how near is near enough.
    pub budget: Budget,
    /// For `c`, at least 1.
    pub searches: usize,
    /// Of each search, at most; at least 1.
    pub steps: usize,
    /// Of Adam, above 0.
    pub rate: f64,
    /// The first `c`, above 0.
    pub first: f64,
    /// By how much the margin of an adversarial must exceed 0, at least 0.
    pub confidence: f64,
    /// When a sample needs no more work.
    pub until: Until,
}

impl CarliniWagner {
    /// 9 searches of 1000 steps, until it is inside the budget.
    pub fn new(budget: Budget) -> Self {
        let (rate, first, confidence) = (0.01, 1e-3, 0.);
        Self {
            budget,
            searches: 9,
            steps: 1000,
            rate,
            first,
            confidence,
            until: Until::Inside,
        }
    }

    /// The same attack with another number of steps.
    pub fn with_steps(self, steps: usize) -> Self {
        Self { steps, ..self }
    }

    /// The same attack with another number of searches.
    pub fn with_searches(self, searches: usize) -> Self {
        Self { searches, ..self }
    }

    /// The same attack, which keeps looking for the nearest adversarial of each sample.
    pub fn for_distances(self) -> Self {
        Self {
            until: Until::Nearest,
            ..self
        }
    }

    fn check(&self) -> Result<()> {
        if matches!(
            self.budget,
            Budget::Each {
                norm: Norm::Linf,
                ..
            }
        ) {
            return Err(Error::Setting(
                "carlini-wagner measures l2: give it such a budget, or use fab for linf",
            ));
        }
        let positive = |v: f64| v > 0. && v.is_finite();
        if self.steps == 0 || self.searches == 0 || !positive(self.rate) || !positive(self.first) {
            return Err(Error::Setting(
                "carlini-wagner needs a search, a step, a rate and a first c above 0",
            ));
        }
        if !(self.confidence >= 0. && self.confidence.is_finite()) {
            return Err(Error::Setting(
                "carlini-wagner needs a confidence of at least 0",
            ));
        }
        Ok(())
    }

    /// One search of everyone who stands, each with its own `c`.
    fn descend(
        &self,
        problem: &Problem<'_>,
        space: &Space<'_>,
        all: &mut [Descent],
        best: &mut Shortest,
    ) -> Result<()> {
        let mut rows = best.standing();
        let mut here = problem.select(&rows)?;
        rows.iter().for_each(|row| all[*row as usize].restart());
        for step in 1..=self.steps {
            let points: Vec<Point> = rows.iter().map(|row| all[*row as usize].point()).collect();
            let x = stacked(here.clean(), &points)?;
            let missing = |logits: &Tensor| -> Result<Tensor> {
                Ok((Loss::Margin.value(logits, here.goal())?.neg()? + self.confidence)?.relu()?)
            };
            let (gradients, logits) =
                here.gradients_of(&self.budget, &x, |logits| Ok(missing(logits)?.sum_all()?))?;
            let missing = missing(&logits)?.to_dtype(DType::F64)?.to_vec1::<f64>()?;
            let met = here.met_firmly(&logits)?;
            let (x, gradients) = (Rows::new(&x)?, Rows::of_gradients(&gradients, rows.len())?);
            let mut left = vec![];
            for (i, row) in rows.iter().copied().enumerate() {
                let (descent, point) = (&mut all[row as usize], x.of(i));
                if met[i] && missing[i] == 0. {
                    descent.fell = true;
                    best.see(
                        row,
                        space.size(&descent.radii, &descent.clean, &point),
                        &point,
                    );
                }
                let value = descent.value(&point, missing[i]);
                let settled =
                    step.is_multiple_of(self.steps.div_ceil(10)) && descent.settled(value);
                if best.done(row) || settled || step == self.steps {
                    best.end(row, &point);
                } else {
                    descent.step(step, &point, &gradients.of(i), self.rate);
                    left.push(i as u32);
                }
            }
            if left.is_empty() {
                break;
            }
            if left.len() < rows.len() {
                rows = left.iter().map(|i| rows[*i as usize]).collect();
                here = here.select(&left)?;
            }
        }
        Ok(())
    }
}

impl Attack for CarliniWagner {
    fn name(&self) -> &str {
        "carlini-wagner"
    }

    fn budget(&self) -> &Budget {
        &self.budget
    }

    fn search(&self, problem: &Problem<'_>) -> Result<PerModality<Tensor>> {
        self.check()?;
        let mut best = Shortest::new(self.until, problem.samples());
        if problem.samples() == 0 {
            return best.assemble(problem);
        }
        let space = Space::new(&self.budget, problem.classifier().modalities());
        let radii = problem.radii(&self.budget)?;
        let descents = Rows::new(problem.clean())?.points().into_iter().enumerate();
        let of = |i: usize| radii.iter().map(|r| r[i]).collect();
        let mut all: Vec<_> = descents
            .map(|(i, clean)| Descent::new(&space, of(i), clean, self.first))
            .collect();
        for _ in 0..self.searches {
            let rows = best.standing();
            if rows.is_empty() {
                break;
            }
            self.descend(problem, &space, &mut all, &mut best)?;
            rows.iter().for_each(|row| all[*row as usize].weigh());
        }
        best.assemble(problem)
    }
}

/// How the elements of one modality follow from its variables.
enum Form {
    /// `x = clean + unit w`.
    Free,
    /// `x = mid + half tanh(w)`.
    Bounded { mid: Vec<f64>, half: Vec<f64> },
}

/// One sample.
struct Descent {
    radii: Vec<f64>,
    clean: Point,
    /// Of a perturbation, in the arrays' own units; 0: the modality does not move.
    units: Vec<f64>,
    forms: Vec<Form>,
    /// At the clean input.
    start: Point,
    w: Point,
    /// Means of the gradients and of their squares.
    means: [Point; 2],
    c: f64,
    /// The greatest that failed, the least that did not.
    between: [f64; 2],
    /// Whether this search found an adversarial.
    fell: bool,
    /// When it was last compared.
    value: f64,
}

impl Descent {
    fn new(space: &Space<'_>, radii: Vec<f64>, clean: Point, c: f64) -> Self {
        let joint = matches!(space.budget(), Budget::Joint(_));
        let unit = |m: usize| match radii[m] > 0. {
            true if joint => space.scale(m),
            true => space.scale(m) * radii[m],
            false => 0.,
        };
        let units = (0..clean.len()).map(unit).collect();
        let forms: Vec<Form> = (0..clean.len())
            .map(|m| Form::new(space.limits(m)))
            .collect();
        let start: Point = clean
            .iter()
            .zip(&forms)
            .map(|(x, form)| form.start(x))
            .collect();
        let none = start.iter().map(|w| vec![0.; w.len()]).collect::<Point>();
        let (w, means) = (start.clone(), [none.clone(), none]);
        let (between, value) = ([0., f64::INFINITY], f64::INFINITY);
        Self {
            radii,
            clean,
            units,
            forms,
            start,
            w,
            means,
            c,
            between,
            fell: false,
            value,
        }
    }

    /// At the clean input again, with what was learned about `c`.
    fn restart(&mut self) {
        self.w.clone_from(&self.start);
        self.means
            .iter_mut()
            .flatten()
            .flatten()
            .for_each(|v| *v = 0.);
        (self.fell, self.value) = (false, f64::INFINITY);
    }

    fn weigh(&mut self) {
        let [fails, works] = &mut self.between;
        if self.fell {
            *works = works.min(self.c)
        } else {
            *fails = fails.max(self.c)
        }
        self.c = if works.is_finite() {
            0.5 * (*fails + *works)
        } else {
            10. * self.c
        };
    }

    fn point(&self) -> Point {
        let place = |m: usize| match (&self.forms[m], self.units[m]) {
            (_, 0.) => self.clean[m].clone(),
            (Form::Free, unit) => self.clean[m]
                .iter()
                .zip(&self.w[m])
                .map(|(x, w)| x + unit * w)
                .collect(),
            (Form::Bounded { mid, half }, _) => mid
                .iter()
                .zip(half)
                .zip(&self.w[m])
                .map(|((mid, half), w)| mid + half * w.tanh())
                .collect(),
        };
        (0..self.clean.len()).map(place).collect()
    }

    /// The objective.
    fn value(&self, x: &Point, missing: f64) -> f64 {
        let each = (0..x.len()).filter(|m| self.units[*m] > 0.).map(|m| {
            let squares = x[m]
                .iter()
                .zip(&self.clean[m])
                .map(|(x, x0)| (x - x0) * (x - x0));
            squares.sum::<f64>() / (self.units[m] * self.units[m])
        });
        each.sum::<f64>() + self.c * missing
    }

    /// Has the objective stopped falling since this was last asked?
    fn settled(&mut self, value: f64) -> bool {
        let before = std::mem::replace(&mut self.value, value);
        value > FALLING * before
    }

    /// Step `t` of Adam, from 1; `gradient` is that of the missing margin at `x`.
    fn step(&mut self, t: usize, x: &Point, gradient: &Point, rate: f64) {
        let (keep, keep_square, tiny) = ADAM;
        let unbiased = |keep: f64| 1. - keep.powi(i32::try_from(t).unwrap_or(i32::MAX));
        let [means, squares] = &mut self.means;
        for m in (0..x.len()).filter(|m| self.units[*m] > 0.) {
            let unit = self.units[m];
            for e in 0..x[m].len() {
                let slope = match &self.forms[m] {
                    Form::Free => unit,
                    Form::Bounded { half, .. } => half[e] * (1. - self.w[m][e].tanh().powi(2)),
                };
                let of_x =
                    2. * (x[m][e] - self.clean[m][e]) / (unit * unit) + self.c * gradient[m][e];
                let g = of_x * slope;
                let (mean, square) = (&mut means[m][e], &mut squares[m][e]);
                *mean = keep * *mean + (1. - keep) * g;
                *square = keep_square * *square + (1. - keep_square) * g * g;
                let length = (*square / unbiased(keep_square)).sqrt() + tiny;
                self.w[m][e] -= rate * *mean / unbiased(keep) / length;
            }
        }
    }
}

impl Form {
    /// Domains that are bounded on one side only have none: `run` keeps inputs inside.
    fn new(limits: Option<&[Vec<f64>; 2]>) -> Self {
        match limits {
            Some([lo, hi]) if lo.iter().chain(hi).all(|v| v.is_finite()) => {
                let both = || lo.iter().zip(hi);
                Self::Bounded {
                    mid: both().map(|(lo, hi)| 0.5 * (lo + hi)).collect(),
                    half: both().map(|(lo, hi)| 0.5 * (hi - lo)).collect(),
                }
            }
            _ => Self::Free,
        }
    }

    /// The variables of the clean input.
    fn start(&self, x: &[f64]) -> Vec<f64> {
        match self {
            Self::Free => vec![0.; x.len()],
            Self::Bounded { mid, half } => {
                let share = |((x, mid), half): ((&f64, &f64), &f64)| {
                    let share = if *half > 0. { (x - mid) / half } else { 0. };
                    (ALMOST * share.clamp(-1., 1.)).atanh()
                };
                x.iter().zip(mid).zip(half).map(share).collect()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crmt_core::{Domain, Modality};

    /// On `|u|^2 + c max(b - g . x, 0)` Adam finds the minimum, with and without a domain, where it
    /// is known: `c g / 2` in declared units while that leaves the margin missing, otherwise the
    /// nearest point of the hyperplane.
    #[test]
    fn descends_to_the_minimum() {
        for domain in [Domain::Unbounded, Domain::Interval { lo: -9., hi: 9. }] {
            let modalities = PerModality::from([Modality {
                scale: 2.,
                ..Modality::new("m", &[2], domain)
            }]);
            let budget = Budget::Joint(1.);
            let space = Space::new(&budget, &modalities);
            let mut descent = Descent::new(&space, vec![1.], vec![vec![1., 0.]], 0.1);
            let g = [0.6, -0.8];
            for t in 1..=4000 {
                let x = descent.point();
                descent.step(t, &x, &vec![g.iter().map(|g| -g).collect()], 0.003);
            }
            let d: Vec<f64> = descent.point()[0]
                .iter()
                .zip([1., 0.])
                .map(|(x, x0)| x - x0)
                .collect();
            // Gradient 2 d / scale^2 = c g: d = 0.1 * 4 / 2 * g. Constant steps end within one of
            // them.
            assert!(
                (d[0] - 0.12).abs() < 0.01 && (d[1] + 0.16).abs() < 0.01,
                "{d:?}"
            );
        }
    }

    #[test]
    fn c_is_tenfold_until_it_works_then_between() {
        let modalities = PerModality::from([Modality::new("m", &[1], Domain::Unbounded)]);
        let budget = Budget::Joint(1.);
        let mut descent = Descent::new(
            &Space::new(&budget, &modalities),
            vec![1.],
            vec![vec![0.]],
            1.,
        );
        let mut seen = vec![];
        for fell in [false, false, true, false, true] {
            descent.fell = fell;
            descent.weigh();
            seen.push(descent.c);
        }
        assert_eq!(seen, [10., 100., 55., 77.5, 66.25]);
    }
}
