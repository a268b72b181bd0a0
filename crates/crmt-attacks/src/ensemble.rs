//! Several attacks one after the other, each on the samples that still stand.
//! Does not know how they search.
use crate::{
    Apgd, Attack, Budget, Error, Fab, Problem, Result, Square,
    problem::select_rows,
    rows::chosen,
    run::propose,
    standing::{Active, Found},
};
use candle_core::Tensor;
use crmt_core::PerModality;

/// How much the members of [`Ensemble::standard`] may spend on a sample.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Effort {
    /// Gradient steps of each start.
    pub steps: usize,
    /// Wrong classes that targeted attacks try in turn, the most likely first.
    pub targets: usize,
    /// Queries of the square attack.
    pub queries: usize,
}

impl Default for Effort {
    /// As published (Croce & Hein 2020).
    fn default() -> Self {
        Self {
            steps: 100,
            targets: 9,
            queries: 5000,
        }
    }
}

/// Attacks in order, each on whoever still stands; what any of them finds is found.
///
/// ```text
/// for attack in members:
///     x = attack.search(samples that stand), into budget and domains
///     judge x; those that meet the goal keep it, and are worked on no more
/// ```
///
/// Every member has the ensemble's own budget. A sample that never falls ends where the last member
/// left it.
pub struct Ensemble {
    name: String,
    members: Vec<Box<dyn Attack>>,
}

impl Ensemble {
    /// `members` in order, cheap and strong ones first.
    ///
    /// # Errors
    /// [`Error::Setting`] for no members, or members of different budgets.
    pub fn new(name: impl Into<String>, members: Vec<Box<dyn Attack>>) -> Result<Self> {
        let Some(first) = members.first() else {
            return Err(Error::Setting("an ensemble needs at least one attack"));
        };
        if members.iter().any(|m| m.budget() != first.budget()) {
            return Err(Error::Setting(
                "the attacks of an ensemble share one budget",
            ));
        }
        Ok(Self {
            name: name.into(),
            members,
        })
    }

    /// AutoAttack's standard version (Croce & Hein 2020, "Reliable evaluation of adversarial
    /// robustness with an ensemble of diverse parameter-free attacks") over several inputs:
    /// [`Apgd::ce`], [`Apgd::targeted`], [`Fab::targeted`], [`Square`]. Models of fewer than four
    /// classes, for which the targeted DLR is not defined, are climbed by plain differences of
    /// logits.
    pub fn standard(budget: Budget, effort: Effort) -> Self {
        let Effort {
            steps,
            targets,
            queries,
        } = effort;
        let members: Vec<Box<dyn Attack>> = vec![
            Box::new(Apgd::ce(budget.clone()).with_steps(steps)),
            Box::new(Apgd::targeted(budget.clone(), targets).with_steps(steps)),
            Box::new(Fab::targeted(budget.clone(), targets).with_steps(steps)),
            Box::new(Square::new(budget, queries)),
        ];
        Self {
            name: "standard".into(),
            members,
        }
    }

    /// The attacks, in order.
    pub fn into_members(self) -> Vec<Box<dyn Attack>> {
        self.members
    }
}

impl Attack for Ensemble {
    fn name(&self) -> &str {
        &self.name
    }

    fn budget(&self) -> &Budget {
        self.members[0].budget()
    }

    fn search(&self, problem: &Problem<'_>) -> Result<PerModality<Tensor>> {
        let mut found = Found::new(problem.samples());
        let mut active = Active::new(problem, &found)?;
        // For whom no member has proposed a point yet.
        let mut lost = vec![true; problem.samples()];
        for (number, member) in self.members.iter().enumerate() {
            let here = active.problem(problem);
            let proposal = propose(member.as_ref(), here)?;
            let mut x = proposal.x;
            active
                .rows
                .iter()
                .zip(proposal.lost)
                .for_each(|(row, none)| lost[*row as usize] &= none);
            let met = here.met_firmly(&here.logits(&x)?)?;
            if let Some(keep) = active.retire(problem, &mut found, &met, &x)? {
                if keep.is_empty() {
                    break;
                }
                x = select_rows(&x, &keep)?;
            }
            if number + 1 == self.members.len() {
                found.record(std::mem::take(&mut active.rows).into_iter(), x, false);
            }
        }
        let all = found.assemble(problem)?;
        if !lost.contains(&true) {
            return Ok(all);
        }
        // No point at all is what `run` shall see, not the clean input.
        all.try_map(|x| Ok(chosen(&lost, &(x * f64::NAN)?, x)?))
    }
}
