//! One full step in the steepest direction: FGM (l2) and FGSM (linf).
//! Does not iterate; `Pgd` does.
use crate::{Attack, Budget, Loss, Problem, Result};
use candle_core::Tensor;
use crmt_core::PerModality;

/// The fast gradient method (Goodfellow et al. 2015): `x + eps * g / |g|`, joint or per modality,
/// or `x + eps * sign(g)` for an linf budget, with `g` the gradient of the cross-entropy at the
/// clean input.
#[derive(Debug, Clone, PartialEq)]
pub struct Fgm {
    /// How far to go.
    pub budget: Budget,
}

impl Fgm {
    /// One step of the whole `budget`.
    pub fn new(budget: Budget) -> Self {
        Self { budget }
    }
}

impl Attack for Fgm {
    fn name(&self) -> &str {
        "fgm"
    }

    fn budget(&self) -> &Budget {
        &self.budget
    }

    fn search(&self, problem: &Problem<'_>) -> Result<PerModality<Tensor>> {
        let (gradients, _) =
            problem.gradients(&self.budget, problem.clean(), Loss::CrossEntropy)?;
        problem.step(&self.budget, problem.clean(), &gradients, 1.)
    }
}
