//! An evaluation that distrusts itself: signs that attacked accuracies say more about the attacks
//! than about the model. Does not know what is reported, only what would make it doubtful.
use crate::{
    Attack, Budget, Draws, Error, Fgm, Goal, Loss, Pgd, Problem, Restart, Result, Square, Start,
    correct,
    problem::{Counter, select_rows},
    run,
};
use candle_core::{D, DType, Tensor};
use crmt_core::{Classifier, PerModality, Streams};
use std::{f64::consts::LN_2, fmt};

/// Of two attacks that are equally strong, one breaks that many more samples than the other with at
/// most this probability.
const CHANCE: f64 = 0.01;
/// A linear step of the budget that would move a margin by this many times itself has an exploding
/// gradient.
const EXPLODING: f64 = 1e6;
/// Accuracy that stays above this when everything may change is suspicious.
const LEFT: f64 = 0.05;
/// Gradient steps at each budget.
const STEPS: usize = 20;
/// Queries of the black-box attack that is compared.
const QUERIES: usize = 500;

/// A sign that attacked accuracies should not be trusted (after Carlini et al. 2019, "On evaluating
/// adversarial robustness", and the checks of AutoAttack). [`Display`](fmt::Display) says what was
/// seen and what to do about it.
#[derive(Debug, Clone, PartialEq)]
pub enum Finding {
    /// The same inputs gave different logits.
    Random {
        /// How many samples.
        samples: usize,
        /// Greatest difference of a logit.
        most: f64,
    },
    /// The gradient of the margin is exactly 0 in every modality that may move.
    ZeroGradient {
        /// How many samples.
        samples: usize,
        /// Of how many.
        of: usize,
    },
    /// The gradient of the margin is not finite, or a step of the budget along it would move the
    /// margin a million-fold.
    ExplodingGradient {
        /// How many samples.
        samples: usize,
        /// Of how many.
        of: usize,
    },
    /// Rows lie within 0 and 1 and sum to 1.
    Probabilities,
    /// A larger budget left more samples standing.
    RisesWithBudget {
        /// Budget and accuracy.
        smaller: (f64, f64),
        /// Budget and accuracy.
        larger: (f64, f64),
    },
    /// More gradient steps left more samples standing.
    MoreStepsWeaken {
        /// Accuracy, here as below of the samples that are right without an attacker, after a
        /// quarter of the steps.
        few: f64,
        /// After all.
        many: f64,
    },
    /// A search without gradients broke more than one with.
    BlackBoxWins {
        /// Accuracy under the square attack.
        black: f64,
        /// Under PGD.
        white: f64,
    },
    /// A single gradient step broke more than many.
    SingleStepWins {
        /// Accuracy under FGM.
        single: f64,
        /// Under PGD.
        many: f64,
    },
    /// Accuracy does not fall to nothing where an input may become any other.
    StandsAtAnyBudget {
        /// The budget.
        eps: f64,
        /// What still stands.
        accuracy: f64,
    },
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let p = |x: &f64| 100. * x;
        match self {
            Self::Random { samples, most } => write!(
                f,
                "two forward passes differ on {samples} samples (by up to {most:.1e}): attacks average nothing here; fix \
                 the randomness, or attack the average over it"
            ),
            Self::ZeroGradient { samples, of } => write!(
                f,
                "the gradient is 0 on {samples} of {of} samples: the model ignores what may move there, or gradient \
                 attacks are blind; use the square attack, or replace what has no derivative by something that has"
            ),
            Self::ExplodingGradient { samples, of } => write!(
                f,
                "the gradient explodes on {samples} of {of} samples: its direction is noise; use attacks with random \
                 starts and the square attack, and look for divisions by small numbers"
            ),
            Self::Probabilities => write!(
                f,
                "outputs are probabilities, not logits: their gradients vanish with confidence; take the logits before \
                 the softmax"
            ),
            Self::RisesWithBudget { smaller, larger } => write!(
                f,
                "accuracy rises with the budget ({:.1} % at {}, {:.1} % at {}): the attack gets lost; give it more \
                 steps and restarts",
                p(&smaller.1),
                smaller.0,
                p(&larger.1),
                larger.0
            ),
            Self::MoreStepsWeaken { few, many } => write!(
                f,
                "more steps weaken the attack ({:.1} % stand after a quarter of them, {:.1} % after all): steps are \
                 too long, or the loss is the wrong one; use Auto-PGD",
                p(few),
                p(many)
            ),
            Self::BlackBoxWins { black, white } => write!(
                f,
                "a search without gradients beats one with ({:.1} % against {:.1} % stand): gradients are masked; \
                 trust neither, and use the standard ensemble with more queries",
                p(black),
                p(white)
            ),
            Self::SingleStepWins { single, many } => write!(
                f,
                "a single step beats many ({:.1} % against {:.1} % stand): the loss surface misleads; use random \
                 starts and Auto-PGD",
                p(single),
                p(many)
            ),
            Self::StandsAtAnyBudget { eps, accuracy } => write!(
                f,
                "{:.1} % still stand at a budget of {eps:.3}, where an input may become any other: the attack fails, \
                 not the attacker; do not trust the accuracies at smaller budgets",
                p(accuracy)
            ),
        }
    }
}

/// [`self_check_by`] [`Pgd::strong`].
///
/// # Errors
/// As [`run`].
pub fn self_check(
    classifier: &dyn Classifier,
    inputs: &PerModality<Tensor>,
    labels: &Tensor,
    budget: &dyn Fn(f64) -> Budget,
    eps: &[f64],
    draws: &Draws,
) -> Result<Vec<Finding>> {
    self_check_by(&Pgd::strong, classifier, inputs, labels, budget, eps, draws)
}

/// Looks for every [`Finding`] on a few samples: `inputs` each `[batch, ...]`, `labels` `[batch]`
/// `u32`. Attacks are compared sample by sample on those that are right without one, and say
/// something where chance would not.
///
/// `pgd` is the attack that is used, which a single step and a search without gradients should not
/// beat; `budget` makes the threat's budget of a size, `eps` are the sizes that will be evaluated,
/// ascending. Costs about `20 (eps + 2)` gradients, those of `pgd` and of a quarter of its steps,
/// and 500 forward evaluations of each sample.
///
/// # Errors
/// As [`run`].
pub fn self_check_by(
    pgd: &dyn Fn(Budget) -> Pgd,
    classifier: &dyn Classifier,
    inputs: &PerModality<Tensor>,
    labels: &Tensor,
    budget: &dyn Fn(f64) -> Budget,
    eps: &[f64],
    draws: &Draws,
) -> Result<Vec<Finding>> {
    let mut findings = vec![];
    let (once, again) = (classifier.logits(inputs)?, classifier.logits(inputs)?);
    let apart = (once.to_dtype(DType::F64)? - again.to_dtype(DType::F64)?)?
        .abs()?
        .max(D::Minus1)?
        .to_vec1::<f64>()?;
    // What is not a number is no sign of randomness.
    let random = apart.iter().filter(|d| **d > 0.).count();
    if random > 0 {
        findings.push(Finding::Random {
            samples: random,
            most: apart.iter().fold(0., |a, d| a.max(*d)),
        });
    }
    if probabilities(&once)? {
        findings.push(Finding::Probabilities);
    }
    let right = correct(&once, labels)?;
    let right: Vec<u32> = (0..)
        .zip(right)
        .filter(|(_, right)| *right)
        .map(|(i, _)| i)
        .collect();
    let Some(greatest) = eps.last().copied().filter(|_| !right.is_empty()) else {
        return Ok(findings);
    };
    let inputs = &select_rows(inputs, &right)?;
    let labels = &labels.index_select(&Tensor::new(right.as_slice(), labels.device())?, 0)?;
    let (samples, draws) = (right.len(), draws.select(&right));
    let goal = Goal::Avoid(labels.clone());
    let Some((zero, exploding)) = gradients(classifier, inputs, &goal, &budget(greatest))? else {
        // No attack that follows gradients can be compared with one that does not.
        findings.push(Finding::ZeroGradient {
            samples,
            of: samples,
        });
        return Ok(findings);
    };
    if zero > 0 {
        findings.push(Finding::ZeroGradient {
            samples: zero,
            of: samples,
        });
    }
    if exploding > 0 {
        findings.push(Finding::ExplodingGradient {
            samples: exploding,
            of: samples,
        });
    }
    let under = |attack: &dyn Attack| -> Result<Standing> {
        let success = run(attack, classifier, inputs, &goal, &draws)?.success;
        Ok(Standing(success.into_iter().map(|fell| !fell).collect()))
    };
    let quick = |eps: f64, steps: usize| Pgd::quick(budget(eps), steps, Loss::Margin);
    let mut curve = vec![(0., Standing(vec![true; samples]))];
    for eps in eps {
        curve.push((*eps, under(&quick(*eps, STEPS))?));
    }
    // In the middle neither everything nor nothing stands; of equals, the largest.
    let undecided = |(_, standing): &(f64, Standing)| (standing.accuracy() - 0.5).abs();
    let middle = curve[1..]
        .iter()
        .rev()
        .min_by(|a, b| undecided(a).total_cmp(&undecided(b)))
        .expect("one for each budget")
        .0;
    let used = pgd(budget(middle));
    let seen = Seen {
        few: under(&used.clone().with_steps((used.steps / 4).max(1)))?,
        white: under(&used)?,
        single: under(&Fgm::new(budget(middle)))?,
        black: under(&Square::new(budget(middle), QUERIES))?,
        curve,
        anywhere: None,
    };
    // Only where every modality may move can one sample become another.
    let moves_all = (0..inputs.len()).all(|m| budget(greatest).radius(m) > 0.);
    let anywhere = match moves_all
        .then(|| reach(classifier, inputs, labels, &budget(1.)))
        .transpose()?
        .flatten()
    {
        Some(eps) => {
            let restarts = [
                (Start::Clean, Loss::Margin),
                (Start::Random, Loss::CrossEntropy),
            ];
            let restarts = restarts.map(|(from, loss)| Restart { from, loss }).to_vec();
            let eps = eps.max(greatest);
            Some((
                eps,
                under(&quick(eps, 2 * STEPS).with_restarts(restarts))?.accuracy(),
            ))
        }
        None => None,
    };
    findings.extend(Seen { anywhere, ..seen }.findings());
    Ok(findings)
}

/// Which samples stand against an attack, all of them right without one.
#[derive(Debug, Clone)]
struct Standing(Vec<bool>);

impl Standing {
    fn accuracy(&self) -> f64 {
        self.0.iter().filter(|stands| **stands).count() as f64 / self.0.len() as f64
    }

    /// Do more samples stand here than against `other`, beyond chance? By the sign test on those on
    /// which the two differ.
    fn exceeds(&self, other: &Self) -> bool {
        let count = |here: bool| {
            self.0
                .iter()
                .zip(&other.0)
                .filter(|(own, other)| own != other && **own == here)
                .count()
        };
        let (more, fewer) = (count(true), count(false));
        more > fewer && tail(more + fewer, more) <= CHANCE
    }
}

/// The probability that of `n` fair coins `k` or more show heads.
fn tail(n: usize, k: usize) -> f64 {
    // Logarithms of the terms of the binomial distribution, each from the one before.
    let terms = (0..n).scan(-(n as f64) * LN_2, |term, i| {
        *term += ((n - i) as f64 / (i + 1) as f64).ln();
        Some(term.exp())
    });
    terms.skip(k.max(1) - 1).sum()
}

/// What is compared.
struct Seen {
    /// Budget, and who stands against a cheap PGD, each for itself; the first at 0.
    curve: Vec<(f64, Standing)>,
    /// At one budget: the attack that is used, with a quarter of its steps, a single step, and
    /// random search.
    white: Standing,
    few: Standing,
    single: Standing,
    black: Standing,
    /// Accuracy at a budget that reaches other samples.
    anywhere: Option<(f64, f64)>,
}

impl Seen {
    fn findings(&self) -> Vec<Finding> {
        let mut findings = vec![];
        if let Some([smaller, larger]) = self.curve.array_windows().find(|[a, b]| b.1.exceeds(&a.1))
        {
            let [smaller, larger] =
                [smaller, larger].map(|(eps, standing)| (*eps, standing.accuracy()));
            findings.push(Finding::RisesWithBudget { smaller, larger });
        }
        let white = self.white.accuracy();
        if self.white.exceeds(&self.few) {
            findings.push(Finding::MoreStepsWeaken {
                few: self.few.accuracy(),
                many: white,
            });
        }
        if self.white.exceeds(&self.single) {
            findings.push(Finding::SingleStepWins {
                single: self.single.accuracy(),
                many: white,
            });
        }
        if self.white.exceeds(&self.black) {
            findings.push(Finding::BlackBoxWins {
                black: self.black.accuracy(),
                white,
            });
        }
        if let Some((eps, accuracy)) = self.anywhere.filter(|(_, accuracy)| *accuracy > LEFT) {
            findings.push(Finding::StandsAtAnyBudget { eps, accuracy });
        }
        findings
    }
}

/// Are all rows distributions over the classes?
fn probabilities(logits: &Tensor) -> Result<bool> {
    let rows = logits.to_dtype(DType::F64)?.to_vec2::<f64>()?;
    // Softmax of f32 sums to 1 within some ulps.
    let one = |row: &Vec<f64>| {
        row.iter().all(|p| (0. ..=1.).contains(p)) && (row.iter().sum::<f64>() - 1.).abs() < 1e-4
    };
    Ok(!rows.is_empty() && rows.iter().all(one))
}

/// How many samples have a gradient of the margin that is zero, or that explodes; none when the
/// logits do not depend differentiably on a modality that may move.
fn gradients(
    classifier: &dyn Classifier,
    inputs: &PerModality<Tensor>,
    goal: &Goal,
    budget: &Budget,
) -> Result<Option<(usize, usize)>> {
    let (counter, samples) = (Counter::default(), inputs[0].dim(0)?);
    // Nothing here is random.
    let problem = Problem::new(
        classifier,
        inputs,
        goal,
        &Draws::new(Streams::new(0), 0),
        None,
        &counter,
    )?;
    let (gradients, logits) = match problem.gradients(budget, inputs, Loss::Margin) {
        Err(Error::NoGradient { .. }) => return Ok(None),
        other => other?,
    };
    let margins = Loss::Margin.value(&logits, goal)?;
    let mut steepest = vec![0f64; samples];
    for (m, g) in gradients
        .iter()
        .enumerate()
        .filter_map(|(m, g)| Some((m, g.as_ref()?)))
    {
        let norms = g
            .to_dtype(DType::F64)?
            .flatten_from(1)?
            .sqr()?
            .sum(D::Minus1)?
            .sqrt()?
            .to_vec1::<f64>()?;
        let scale = classifier.modalities()[m].scale;
        // A sum hides no NaN.
        steepest
            .iter_mut()
            .zip(norms)
            .for_each(|(s, n)| *s += n * budget.radius(m) * scale);
    }
    let margins = margins.to_dtype(DType::F64)?.to_vec1::<f64>()?;
    let explodes = |(s, m): (&f64, &f64)| !s.is_finite() || *s > EXPLODING * (1. + m.abs());
    let exploding = steepest
        .iter()
        .zip(&margins)
        .filter(|pair| explodes(*pair))
        .count();
    Ok(Some((
        steepest.iter().filter(|s| **s == 0.).count(),
        exploding,
    )))
}

/// A size of the unit budget `unit` at which every sample that is right can become one of another
/// class that is right; `None` when there is no such pair.
fn reach(
    classifier: &dyn Classifier,
    inputs: &PerModality<Tensor>,
    labels: &Tensor,
    unit: &Budget,
) -> Result<Option<f64>> {
    let labels_of = labels.to_vec1::<u32>()?;
    let right = correct(&classifier.logits(inputs)?, labels)?;
    let right: Vec<usize> = (0..right.len()).filter(|i| right[*i]).collect();
    let other = |i: usize| {
        right
            .iter()
            .copied()
            .find(|j| labels_of[*j] != labels_of[i])
    };
    let pairs: Option<Vec<u32>> = right.iter().map(|i| other(*i).map(|j| j as u32)).collect();
    let Some(others) = pairs.filter(|p| !p.is_empty()) else {
        return Ok(None);
    };
    let own: Vec<u32> = right.iter().map(|i| *i as u32).collect();
    let rows = |which: &[u32]| select_rows(inputs, which);
    let ball = crate::ball::Ball {
        budget: unit,
        modalities: classifier.modalities(),
        factors: None,
    };
    let spent = ball.spent(&rows(&own)?, &rows(&others)?)?;
    Ok(Some(spent.used.iter().fold(0., |a: f64, u| a.max(*u))))
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;
    use crmt_core::{Domain, Modality};
    use std::cell::Cell;

    type Map = dyn Fn(&Tensor) -> candle_core::Result<Tensor>;

    /// `f` of a model that is linear in two modalities.
    struct Model {
        modalities: PerModality<Modality>,
        f: Box<Map>,
    }

    impl Classifier for Model {
        fn modalities(&self) -> &PerModality<Modality> {
            &self.modalities
        }
        fn logits(&self, x: &PerModality<Tensor>) -> crmt_core::Result<Tensor> {
            // Class k has its evidence in element k of both modalities.
            Ok((self.f)(&(&x[0] + &x[1])?)?)
        }
    }

    fn findings(f: impl Fn(&Tensor) -> candle_core::Result<Tensor> + 'static) -> Vec<Finding> {
        let modalities = PerModality::from_fn(2, |m| {
            Modality::new(["left", "right"][m], &[3], Domain::Unbounded)
        });
        let model = Model {
            modalities,
            f: Box::new(f),
        };
        let rows: Vec<f64> = (0..60)
            .flat_map(|i| (0..3).map(move |k| if i % 3 == k { 1. + 0.01 * i as f64 } else { 0. }))
            .collect();
        let x = Tensor::from_vec(rows, (60, 3), &Device::Cpu).unwrap();
        let labels = Tensor::from_iter((0..60u32).map(|i| i % 3), &Device::Cpu).unwrap();
        let draws = Draws::new(Streams::new(0), 0);
        self_check(
            &model,
            &PerModality::from([x.clone(), x]),
            &labels,
            &Budget::Joint,
            &[0.5, 1., 2.],
            &draws,
        )
        .unwrap()
    }

    #[test]
    fn an_honest_model_is_trusted() {
        assert_eq!(findings(|h| Ok(h.clone())), []);
    }

    #[test]
    fn randomness_and_probabilities_are_seen() {
        let calls = Cell::new(0.);
        let random = findings(move |h| {
            calls.set(calls.get() + 1.);
            h + 0.001 * calls.get()
        });
        assert!(
            matches!(random[0], Finding::Random { samples: 60, .. }),
            "{random:?}"
        );
        let softmax = findings(|h| {
            let e = h.exp()?;
            e.broadcast_div(&e.sum_keepdim(1)?)
        });
        assert!(softmax.contains(&Finding::Probabilities), "{softmax:?}");
    }

    #[test]
    fn masked_gradients_are_seen() {
        // A staircase: no gradient, but a search without gradients climbs it.
        let stairs =
            |h: &Tensor| ((h.detach() / 0.25)?.round()? * 0.25)? + h.mul(&h.zeros_like()?)?;
        let masked = findings(stairs);
        let zero = Finding::ZeroGradient {
            samples: 60,
            of: 60,
        };
        assert!(masked.contains(&zero), "{masked:?}");
        assert!(
            masked
                .iter()
                .any(|f| matches!(f, Finding::BlackBoxWins { .. })),
            "{masked:?}"
        );
        assert!(
            masked
                .iter()
                .any(|f| matches!(f, Finding::StandsAtAnyBudget { .. })),
            "{masked:?}"
        );
        let none = findings(|h| h.detach().round());
        assert_eq!(
            none,
            [Finding::ZeroGradient {
                samples: 60,
                of: 60
            }]
        );
        let exploding = findings(|h| ((h * 1e9)?.tanh()? * 1e9)? - (h * 1e3)?);
        let many = |f: &Finding| {
            matches!(
                f,
                Finding::ExplodingGradient { .. } | Finding::ZeroGradient { .. }
            )
        };
        assert!(exploding.iter().any(many), "{exploding:?}");
    }

    /// By hand: of 10 coins, one way of 1024 for 10 heads, 10 more for 9, 45 more for 8.
    #[test]
    fn coins_are_fair() {
        for (k, ways) in [(10, 1.), (9, 11.), (8, 56.)] {
            // Ten logarithms.
            assert!((tail(10, k) - ways / 1024.).abs() < 1e-14);
        }
        // A sum of a thousand terms, each of so many logarithms of up to 1400.
        assert!((tail(1999, 1000) - 0.5).abs() < 1e-9);
    }

    /// What has no prediction, or a wrong one, falls to everything and stands against nothing: it
    /// is not compared.
    #[test]
    fn an_honest_model_is_trusted_on_what_it_gets_right() {
        let modalities = PerModality::from([Modality::new("m", &[3], Domain::Unbounded)]);
        let f = |h: &Tensor| {
            h / h
                .abs()?
                .max_keepdim(1)?
                .ge(1e6)?
                .to_dtype(DType::F64)?
                .affine(-1., 1.)?
                .broadcast_as(h.shape())?
        };
        struct One(PerModality<Modality>, Box<Map>);
        impl Classifier for One {
            fn modalities(&self) -> &PerModality<Modality> {
                &self.0
            }
            fn logits(&self, x: &PerModality<Tensor>) -> crmt_core::Result<Tensor> {
                Ok((self.1)(&x[0])?)
            }
        }
        let model = One(modalities, Box::new(f));
        let rows = [[1f64, 0., 0.], [1e9, 0., 0.], [0., 1., 0.], [0., 2., 0.]];
        let x = PerModality::from([Tensor::new(&rows, &Device::Cpu).unwrap()]);
        let labels = Tensor::new(&[0u32, 0, 1, 2], &Device::Cpu).unwrap();
        let draws = Draws::new(Streams::new(0), 0);
        assert_eq!(
            self_check(&model, &x, &labels, &Budget::Joint, &[0.5, 1.], &draws).unwrap(),
            []
        );
    }

    #[test]
    fn accuracies_that_contradict_each_other_are_seen() {
        // The first so many of 100.
        let of = |standing: usize| Standing((0..100).map(|i| i < standing).collect());
        let fine = Seen {
            curve: vec![(0., of(100)), (1., of(50)), (2., of(56))],
            white: of(50),
            few: of(60),
            single: of(44),
            black: of(80),
            anywhere: Some((9., 0.)),
        };
        assert_eq!(fine.findings(), [], "six of six heads are chance");
        let odd = Seen {
            curve: vec![(0., of(100)), (1., of(50)), (2., of(60))],
            white: of(50),
            few: of(40),
            single: of(43),
            black: of(30),
            anywhere: Some((9., 0.5)),
        };
        let found = odd.findings();
        assert_eq!(found.len(), 5, "{found:?}");
        for (finding, word) in found.iter().zip([
            "rises",
            "more steps",
            "single step",
            "without gradients",
            "still stand",
        ]) {
            assert!(finding.to_string().contains(word), "{finding}");
        }
    }
}
