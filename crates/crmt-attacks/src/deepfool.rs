//! DeepFool (Moosavi-Dezfooli et al. 2016): straight to the nearest linearised boundary, over
//! several inputs at once. Does not return to the clean input; `Fab` does.
use crate::{
    Attack, Budget, Error, Problem, Result,
    hyperplane::{Plane, Space},
    planes::{Boundary, nearest},
    points::{Point, Rows, moved, stacked},
    problem::select_rows,
    standing::{Active, Found},
};
use candle_core::Tensor;
use crmt_core::PerModality;

/// How far beyond a linearised boundary each step goes, in declared units.
const FURTHER: f64 = 1e-4;

/// DeepFool (Moosavi-Dezfooli et al. 2016, "DeepFool: a simple and accurate method to fool deep
/// neural networks").
///
/// Per sample, with `to(x, H)` the smallest move from `x` to the hyperplane `H` in the norm of the
/// budget (published for l2 and linf), without regard to domains:
///
/// ```text
/// x = the clean input; p = 0
/// until x is adversarial, at most steps times:
///     H = the nearest of {z : h_j(x) - h_y(x) + grad (h_j - h_y)(x) . (z - x) = 0} over rivals j of the label y
///     p = p + to(x, H), and 1e-4 (in declared units) further
///     x = clamp(clean + (1 + overshoot) p)
/// ```
///
/// What the domains cut off is not spent elsewhere: a boundary that curves away is met a little
/// later, and nearer than by going the whole way within the domains each time. The little further,
/// which foolbox has too, carries samples across that would only approach the boundary.
///
/// For [`Goal::Reach`](crate::Goal::Reach) the only hyperplane is that of the margin. Of
/// [`Goal::Avoid`](crate::Goal::Avoid), with `R` rivals, each step costs `R` forward and `R`
/// backward evaluations of a sample that stands, and the attack one forward to rank them.
///
/// It does not: stop at the budget, or look at it but for the norm; find the nearest adversarial,
/// but one that is near; go on after the first, so that a sample whose first is outside the budget
/// stands.
#[derive(Debug, Clone, PartialEq)]
pub struct DeepFool {
    /// What near means.
    pub budget: Budget,
    /// At most; at least 1, published 50.
    pub steps: usize,
    /// How far beyond a hyperplane to go, relative to the way there; published 0.02.
    pub overshoot: f64,
    /// How many of the most likely wrong classes of the clean input to look at; the released code
    /// looks at 9.
    pub rivals: usize,
}

impl DeepFool {
    /// As released: 50 steps, an overshoot of 0.02, 9 rivals.
    pub fn new(budget: Budget) -> Self {
        Self {
            budget,
            steps: 50,
            overshoot: 0.02,
            rivals: 9,
        }
    }

    /// The same attack with another number of steps.
    pub fn with_steps(self, steps: usize) -> Self {
        Self { steps, ..self }
    }
}

impl Attack for DeepFool {
    fn name(&self) -> &str {
        "deepfool"
    }

    fn budget(&self) -> &Budget {
        &self.budget
    }

    fn search(&self, problem: &Problem<'_>) -> Result<PerModality<Tensor>> {
        if self.steps == 0
            || self.rivals == 0
            || !(self.overshoot >= 0. && self.overshoot.is_finite())
        {
            return Err(Error::Setting(
                "deepfool needs a step, a rival, and an overshoot of at least 0",
            ));
        }
        let mut found = Found::new(problem.samples());
        if problem.samples() == 0 {
            return found.assemble(problem);
        }
        let boundaries = Boundary::all(problem, self.rivals)?;
        let space = Space::new(&self.budget, problem.classifier().modalities());
        let free = space.unbounded();
        let mut active = Active::new(problem, &found)?;
        let mut x = problem.clean().clone();
        let mut sums: Vec<Point> = Rows::new(&x)?
            .points()
            .iter()
            .map(|x| x.iter().map(|x| vec![0.; x.len()]).collect())
            .collect();
        for _ in 0..self.steps {
            let here = active.problem(problem);
            let own: Vec<_> = boundaries.iter().map(|b| b.select(&active.rows)).collect();
            let (mut planes, logits) = nearest(here, &space, &here.radii(&self.budget)?, &own, &x)?;
            let met = here.met_firmly(&logits)?;
            if let Some(keep) = active.retire(problem, &mut found, &met, &x)? {
                if keep.is_empty() {
                    return found.assemble(problem);
                }
                x = select_rows(&x, &keep)?;
                let (mut of_planes, mut of_sums) = (met.iter(), met.iter());
                planes.retain(|_| of_planes.next() == Some(&false));
                sums.retain(|_| of_sums.next() == Some(&false));
            }
            let here = active.problem(problem);
            let radii = here.radii(&self.budget)?;
            let (clean, from) = (Rows::new(here.clean())?, Rows::new(&x)?.points());
            let step = |(i, ((x, plane), sum)): (usize, ((&Point, &Plane), &mut Point))| {
                let radii: Vec<f64> = radii.iter().map(|r| r[i]).collect();
                let way = free.toward(&radii, x, &plane.normal, -plane.value);
                let nothing: Point = way.iter().map(|way| vec![0.; way.len()]).collect();
                let length = free
                    .lengths(&nothing, &way)
                    .into_iter()
                    .fold(0., f64::hypot);
                *sum = moved(
                    sum,
                    &way,
                    if length > 0. {
                        1. + FURTHER / length
                    } else {
                        1.
                    },
                );
                space.clamped(&radii, moved(&clean.of(i), sum, 1. + self.overshoot))
            };
            let next: Vec<Point> = from
                .iter()
                .zip(&planes)
                .zip(&mut sums)
                .enumerate()
                .map(step)
                .collect();
            x = stacked(&x, &next)?;
        }
        found.record(active.rows.into_iter(), x, false);
        found.assemble(problem)
    }
}
