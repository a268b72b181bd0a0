//! Attacks by name, as settings and the command line know them, and how each is built for a budget.
//! Does not know models, nor what attacks find.
use crate::plan::EvaluatePlan;
use anyhow::{Result, bail};
use candle_core::Tensor;
use crmt_attacks::{
    Apgd, Attack, Bisection, Budget, CarliniWagner, DeepFool, Effort, Ensemble, Error, Fab, Fgm,
    Loss, Norm, Pgd, Problem, Restart, Square, Start, released,
};
use crmt_core::PerModality;

/// An attack of `evaluate.attacks`.
pub struct Named {
    /// As typed, and in every table.
    pub name: &'static str,
    /// One line for `--help`.
    pub about: &'static str,
    /// Its norm, if it has only one.
    norm: Option<Norm>,
    /// It looks for the nearest adversarial: once, within the greatest budget, answers for every
    /// smaller one.
    pub nearest: bool,
    build: fn(Budget, &EvaluatePlan) -> Vec<Box<dyn Attack>>,
}

/// Every attack that can be asked for.
pub const ATTACKS: &[Named] = &[
    Named {
        name: "fgm",
        about: "one gradient step of the whole budget (FGSM under linf)",
        norm: None,
        nearest: false,
        build: |b, _| one(Fgm::new(b)),
    },
    Named {
        name: "pgd",
        about: "projected gradient ascent: evaluate.steps steps, evaluate.restarts restarts",
        norm: None,
        nearest: false,
        build: |b, plan| one(pgd(b, plan)),
    },
    Named {
        name: "pgd-momentum",
        about: "the same with momentum 1 (Dong et al. 2018)",
        norm: None,
        nearest: false,
        build: |b, plan| one(pgd(b, plan).with_momentum(1.0)),
    },
    Named {
        name: "apgd-ce",
        about: "Auto-PGD on the cross-entropy (Croce & Hein 2020)",
        norm: None,
        nearest: false,
        build: |b, plan| one(Apgd::ce(b).with_steps(plan.standard_steps)),
    },
    Named {
        name: "apgd-dlr",
        about: "Auto-PGD on the difference of logits ratio",
        norm: None,
        nearest: false,
        build: |b, plan| one(Apgd::dlr(b).with_steps(plan.standard_steps)),
    },
    Named {
        name: "apgd-t",
        about: "Auto-PGD towards each of evaluate.targets classes",
        norm: None,
        nearest: false,
        build: |b, plan| one(Apgd::targeted(b, plan.targets).with_steps(plan.standard_steps)),
    },
    Named {
        name: "fab",
        about: "fast adaptive boundary attack: the nearest adversarial (Croce & Hein 2020)",
        norm: None,
        nearest: true,
        build: |b, plan| one(Fab::new(b).with_steps(plan.standard_steps).for_distances()),
    },
    Named {
        name: "fab-t",
        about: "the same towards each of evaluate.targets classes",
        norm: None,
        nearest: true,
        build: |b, plan| {
            one(Fab::targeted(b, plan.targets)
                .with_steps(plan.standard_steps)
                .for_distances())
        },
    },
    Named {
        name: "deepfool",
        about: "straight to the nearest linearised boundary (Moosavi-Dezfooli et al. 2016)",
        norm: None,
        nearest: true,
        build: |b, _| one(DeepFool::new(b)),
    },
    Named {
        name: "cw",
        about: "distance and margin minimised together (Carlini & Wagner 2017); slow; l2",
        norm: Some(Norm::L2),
        nearest: true,
        build: |b, _| one(CarliniWagner::new(b).for_distances()),
    },
    Named {
        name: "nearest",
        about: "the nearest adversarial by all of these and bisection; the slowest",
        norm: None,
        nearest: true,
        build: |budget, _| one(Bisection { budget }),
    },
    Named {
        name: "square",
        about: "random search that sees only scores, evaluate.queries queries",
        norm: None,
        nearest: false,
        build: |b, plan| one(Square::new(b, plan.queries)),
    },
    Named {
        name: "standard",
        about: "the AutoAttack ensemble: apgd-ce, apgd-t, fab-t, square, each on whoever still stands",
        norm: None,
        nearest: false,
        build: |b, plan| Ensemble::standard(b, effort(plan)).into_members(),
    },
    Named {
        name: "released-fgm",
        about: "the released code's one step",
        norm: Some(Norm::L2),
        nearest: false,
        build: |b, _| one(Fgm::new(b)),
    },
    Named {
        name: "released-pgd",
        about: "the released code's 4 steps of a third of the budget",
        norm: Some(Norm::L2),
        nearest: false,
        build: |b, _| match b {
            Budget::Joint(eps) => one(released::pgd4(eps)),
            Budget::Each { radii, norm } => one(Kept {
                searcher: released::PerModalityPgd::new(radii.clone()),
                budget: Budget::Each { norm, radii },
            }),
        },
    },
];

/// Short names of several.
pub const PRESETS: &[(&str, &[&str], &str)] = &[
    (
        "published",
        &["released-fgm", "released-pgd"],
        "the released protocol, to compare with published figures; too weak to judge by",
    ),
    (
        "strong",
        &["pgd", "standard"],
        "the hardest there is: pgd and the AutoAttack ensemble over several inputs",
    ),
];

fn one(attack: impl Attack + 'static) -> Vec<Box<dyn Attack>> {
    vec![Box::new(attack)]
}

/// Tried in order on whoever still stands.
pub const RESTARTS: [Restart; 3] = [
    Restart {
        from: Start::Clean,
        loss: Loss::Margin,
    },
    Restart {
        from: Start::Random,
        loss: Loss::CrossEntropy,
    },
    Restart {
        from: Start::Random,
        loss: Loss::Margin,
    },
];

/// The gradient attack that everything is measured by.
pub fn pgd(budget: Budget, plan: &EvaluatePlan) -> Pgd {
    let pgd = Pgd::strong(budget).with_steps(plan.steps);
    if plan.restarts == 0 {
        return pgd;
    }
    // From the clean input once; then random starts on both losses in turn.
    let (first, random) = (pgd.restarts[0], RESTARTS);
    let more = (1..plan.restarts).map(|i| random[1 + (i - 1) % 2]);
    pgd.with_restarts(std::iter::once(first).chain(more).collect())
}

fn effort(plan: &EvaluatePlan) -> Effort {
    Effort {
        steps: plan.standard_steps,
        targets: plan.targets,
        queries: plan.queries,
    }
}

/// An attack held to a budget that is not its own.
struct Kept<A> {
    searcher: A,
    budget: Budget,
}

impl<A: Attack> Attack for Kept<A> {
    fn name(&self) -> &str {
        self.searcher.name()
    }

    fn budget(&self) -> &Budget {
        &self.budget
    }

    fn search(&self, problem: &Problem<'_>) -> Result<PerModality<Tensor>, Error> {
        self.searcher.search(problem)
    }
}

/// The attacks that `names` and presets stand for, each once.
pub fn parse(names: &[String]) -> Result<Vec<&'static Named>> {
    let mut found: Vec<&Named> = vec![];
    for name in names {
        let preset = PRESETS
            .iter()
            .find(|(preset, ..)| preset == name)
            .map(|(_, members, _)| *members);
        let members = preset.map_or_else(|| vec![name.as_str()], <[&str]>::to_vec);
        for member in members {
            let Some(attack) = ATTACKS.iter().find(|a| a.name == member) else {
                let known: Vec<&str> = PRESETS
                    .iter()
                    .map(|p| p.0)
                    .chain(ATTACKS.iter().map(|a| a.name))
                    .collect();
                bail!("attack `{name}`: expected one of {}", known.join(", "));
            };
            if !found.iter().any(|a| a.name == attack.name) {
                found.push(attack);
            }
        }
    }
    Ok(found)
}

impl Named {
    /// Refuses a norm that the attack does not have, and too few classes.
    pub fn check(&self, norm: Norm, classes: usize) -> Result<()> {
        if self.norm.is_some_and(|own| own != norm) {
            bail!(
                "attack `{}` has no linf form: leave it out, or ask for the l2 norm",
                self.name
            );
        }
        if self.name == "apgd-dlr" && classes < 3 {
            bail!(
                "attack `{}` needs at least 3 classes, the data set has {classes}: take apgd-t",
                self.name
            );
        }
        Ok(())
    }

    /// For a budget; several are to be run in turn, each on whoever still stands.
    pub fn build(&self, budget: Budget, plan: &EvaluatePlan) -> Vec<Box<dyn Attack>> {
        (self.build)(budget, plan)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_presets_are_known() {
        let names = |names: &[&str]| {
            let names: Vec<String> = names.iter().map(|n| (*n).to_owned()).collect();
            parse(&names).map(|found| found.iter().map(|a| a.name).collect::<Vec<_>>())
        };
        assert_eq!(
            names(&["fgm", "strong", "pgd"]).unwrap(),
            ["fgm", "pgd", "standard"]
        );
        let message = names(&["pdg"]).unwrap_err().to_string();
        assert!(
            message.contains("`pdg`") && message.contains("standard"),
            "{message}"
        );
        assert!(
            parse(&["released-pgd".into()]).unwrap()[0]
                .check(Norm::Linf, 10)
                .is_err()
        );
    }

    #[test]
    fn restarts_are_as_many_as_asked_for() {
        let plan = EvaluatePlan {
            restarts: 10,
            ..crate::plan::Plan::default().evaluate
        };
        let ten = pgd(Budget::Joint(1.0), &plan);
        assert_eq!(ten.restarts.len(), 10);
        assert_eq!(
            ten.restarts[..3],
            pgd(
                Budget::Joint(1.0),
                &EvaluatePlan {
                    restarts: 0,
                    ..plan
                }
            )
            .restarts[..]
        );
    }
}
