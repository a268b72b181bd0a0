//! Projected gradient ascent with restarts (Madry et al. 2018), over several inputs at once.
//! Does not judge its own success beyond dropping samples that need no more work.
use crate::{
    Attack, Budget, Error, Loss, Problem, Result,
    problem::{select_gradients, select_rows},
    standing::{Active, Found},
};
use candle_core::Tensor;
use crmt_core::PerModality;

/// Length of step `k` of `n`, relative to the radius.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Steps {
    /// The same every time.
    Constant(f64),
    /// `0.5 (1 - k / n) + 0.02`: crosses the ball at first, settles at the end.
    Decaying,
}

impl Steps {
    fn relative(self, k: usize, n: usize) -> f64 {
        match self {
            Self::Constant(relative) => relative,
            Self::Decaying => 0.5 * (1. - k as f64 / n as f64) + 0.02,
        }
    }
}

/// Where a restart begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// At the clean input.
    Clean,
    /// 0.7 radii away in a random direction (linf: uniform in the box).
    Random,
}

/// One run from one start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Restart {
    /// Where it begins.
    pub from: Start,
    /// What it climbs.
    pub loss: Loss,
}

/// Projected gradient ascent (Madry et al. 2018, "Towards deep learning models resistant to
/// adversarial attacks"), with `P` the projection into budget and domain, and `step` as
/// [`Problem::step`]: every sample along its normalised gradient (l2: joint or per modality; linf:
/// signs).
///
/// ```text
/// for each restart, on whoever still stands:
///     x = the clean input, or a random point
///     for k in 0..steps:  x = P(step(x, gradient of the loss, length_k))
/// ```
///
/// Success is checked at every iterate, and a sample that has succeeded is worked on no more
/// (unless [`to_the_end`](Self::to_the_end)). A sample that never succeeds ends at the last iterate
/// of the last restart.
#[derive(Debug, Clone, PartialEq)]
pub struct Pgd {
    /// How far to go.
    pub budget: Budget,
    /// Steps of each restart, at least 1.
    pub steps: usize,
    /// Their lengths.
    pub schedule: Steps,
    /// Tried in order on whoever still stands; at least one.
    pub restarts: Vec<Restart>,
    /// Every sample takes every step of every restart: for training, which wants the worst point,
    /// not the first.
    pub to_the_end: bool,
    /// How much of the direction so far each step keeps (Dong et al. 2018): steps follow
    /// `v = momentum v + g / |g|_1`, with `g` the gradient, of all modalities together for a joint
    /// budget. 0: none.
    pub momentum: f64,
}

impl Pgd {
    /// [`strong`](Self::strong) within a joint l2 budget of `eps`, over all modalities together.
    pub fn l2(eps: f64) -> Self {
        Self::strong(Budget::Joint(eps))
    }

    /// The evaluation attack of the digits protocol: 40 decaying steps; restarts margin from the
    /// clean input, cross-entropy from a random one and, unless a single modality is attacked,
    /// margin from a random one.
    pub fn strong(budget: Budget) -> Self {
        let mut restarts = vec![
            Restart {
                from: Start::Clean,
                loss: Loss::Margin,
            },
            Restart {
                from: Start::Random,
                loss: Loss::CrossEntropy,
            },
        ];
        let unimodal = match &budget {
            Budget::Joint(_) => false,
            Budget::Each { radii, .. } => radii.iter().filter(|r| **r > 0.).count() == 1,
        };
        if !unimodal {
            restarts.push(Restart {
                from: Start::Random,
                loss: Loss::Margin,
            });
        }
        Self {
            budget,
            steps: 40,
            schedule: Steps::Decaying,
            restarts,
            to_the_end: false,
            momentum: 0.,
        }
    }

    /// Adversarial training: cross-entropy from a random start, constant steps, all of them taken.
    pub fn training(budget: Budget, steps: usize, relative_step: f64) -> Self {
        let restarts = vec![Restart {
            from: Start::Random,
            loss: Loss::CrossEntropy,
        }];
        Self {
            budget,
            steps,
            schedule: Steps::Constant(relative_step),
            restarts,
            to_the_end: true,
            momentum: 0.,
        }
    }

    /// A cheap evaluation: one restart from the clean input, decaying steps.
    pub fn quick(budget: Budget, steps: usize, loss: Loss) -> Self {
        let restarts = vec![Restart {
            from: Start::Clean,
            loss,
        }];
        Self {
            budget,
            steps,
            schedule: Steps::Decaying,
            restarts,
            to_the_end: false,
            momentum: 0.,
        }
    }

    /// The multi-targeted attack: decaying steps from the clean input towards each of `classes` in
    /// turn.
    pub fn targeting(budget: Budget, steps: usize, classes: impl IntoIterator<Item = u32>) -> Self {
        let restart = |class| Restart {
            from: Start::Clean,
            loss: Loss::Class(class),
        };
        let restarts = classes.into_iter().map(restart).collect();
        Self {
            budget,
            steps,
            schedule: Steps::Decaying,
            restarts,
            to_the_end: false,
            momentum: 0.,
        }
    }

    /// The same attack with another number of steps.
    pub fn with_steps(self, steps: usize) -> Self {
        Self { steps, ..self }
    }

    /// The same attack with momentum; published: 1.
    pub fn with_momentum(self, momentum: f64) -> Self {
        Self { momentum, ..self }
    }

    /// The same attack with these restarts.
    pub fn with_restarts(self, restarts: Vec<Restart>) -> Self {
        Self { restarts, ..self }
    }

    fn restart(&self, number: usize, problem: &Problem<'_>, best: &mut Found) -> Result<()> {
        let Restart { from, loss } = self.restarts[number];
        let mut active = Active::new(problem, best)?;
        let mut x = match from {
            Start::Clean => active.problem(problem).clean().clone(),
            Start::Random => {
                let purpose = format!("attack.{}.{number}", self.name());
                active.problem(problem).random_start(
                    &self.budget,
                    &purpose,
                    if self.linf() { 1. } else { 0.7 },
                )?
            }
        };
        if let (true, Steps::Constant(relative)) =
            (self.to_the_end && self.momentum == 0., self.schedule)
        {
            // Every step is the same, and nobody looks in between.
            let mut asked = 0;
            let x = crmt_core::repeat(x, self.steps, |x| -> Result<_> {
                asked += 1;
                let (gradients, _) = active.problem(problem).gradients(&self.budget, x, loss)?;
                active
                    .problem(problem)
                    .step(&self.budget, x, &gradients, relative)
            })?;
            problem.computed(self.steps.saturating_sub(asked) * x[0].dim(0)?);
            best.record(active.rows.into_iter(), x, false);
            return Ok(());
        }
        let mut velocity: Option<PerModality<Option<Tensor>>> = None;
        for k in 0..self.steps {
            let (mut gradients, logits) =
                active.problem(problem).gradients(&self.budget, &x, loss)?;
            // The clean input was judged before the search began.
            if !self.to_the_end && (k > 0 || from == Start::Random) {
                let met = active.problem(problem).met_firmly(&logits)?;
                if let Some(keep) = active.retire(problem, best, &met, &x)? {
                    if keep.is_empty() {
                        return Ok(());
                    }
                    x = select_rows(&x, &keep)?;
                    gradients = select_gradients(&gradients, &keep)?;
                    velocity = velocity.map(|v| select_gradients(&v, &keep)).transpose()?;
                }
            }
            if self.momentum > 0. {
                let unit = active
                    .problem(problem)
                    .ball(&self.budget)
                    .relative_to_sums(&gradients)?;
                gradients = match velocity.take() {
                    None => unit,
                    Some(v) => v.zip(&unit, "gradients")?.try_map(|(v, g)| -> Result<_> {
                        Ok(v.as_ref()
                            .zip(g.as_ref())
                            .map(|(v, g)| (v * self.momentum)? + g)
                            .transpose()?)
                    })?,
                };
                velocity = Some(gradients.clone());
            }
            let relative = self.schedule.relative(k, self.steps);
            x = active
                .problem(problem)
                .step(&self.budget, &x, &gradients, relative)?;
        }
        // The last iterate is judged only when it decides who needs another restart.
        let last = number + 1 == self.restarts.len();
        if self.to_the_end || last {
            best.record(active.rows.into_iter(), x, false);
            return Ok(());
        }
        let met = active
            .problem(problem)
            .met_firmly(&active.problem(problem).logits(&x)?)?;
        active.retire(problem, best, &met, &x)?;
        Ok(())
    }

    fn linf(&self) -> bool {
        matches!(
            self.budget,
            Budget::Each {
                norm: crate::Norm::Linf,
                ..
            }
        )
    }
}

impl Attack for Pgd {
    fn name(&self) -> &str {
        "pgd"
    }

    fn budget(&self) -> &Budget {
        &self.budget
    }

    fn search(&self, problem: &Problem<'_>) -> Result<PerModality<Tensor>> {
        if self.steps == 0 || self.restarts.is_empty() {
            return Err(Error::Setting(
                "pgd needs at least one step and one restart",
            ));
        }
        if !(self.momentum >= 0. && self.momentum.is_finite()) {
            return Err(Error::Setting(
                "the momentum of pgd is a finite number of at least 0",
            ));
        }
        let mut best = Found::new(problem.samples());
        for number in 0..self.restarts.len() {
            if best.standing().is_empty() {
                break;
            }
            self.restart(number, problem, &mut best)?;
        }
        best.assemble(problem)
    }
}
