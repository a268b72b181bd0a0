//! An evaluation that distrusts itself: signs that attacked accuracies say more about the attacks than about the model.
//! Does not know what is reported, only what would make it doubtful.
use crate::{
    Attack, Budget, Draws, Error, Fgm, Goal, Loss, Pgd, Problem, Restart, Result, Square, Start, correct,
    problem::Counter, run,
};
use candle_core::{D, DType, Tensor};
use crmt_core::{Classifier, PerModality, Streams};
use std::fmt;

/// Differences of accuracy up to this share of the samples, and up to one sample, are chance.
const CHANCE: f64 = 0.02;
/// A linear step of the budget that would move a margin by this many times itself has an exploding gradient.
const EXPLODING: f64 = 1e6;
/// Accuracy that stays above this when everything may change is suspicious.
const LEFT: f64 = 0.05;
/// Gradient steps of the attacks that are compared.
const STEPS: usize = 20;
/// Queries of the black-box attack that is compared.
const QUERIES: usize = 500;

/// A sign that attacked accuracies should not be trusted (after Carlini et al. 2019, "On evaluating adversarial
/// robustness", and the checks of AutoAttack). [`Display`](fmt::Display) says what was seen and what to do about it.
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
    /// The gradient of the margin is not finite, or a step of the budget along it would move the margin a million-fold.
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
        /// Accuracy after a quarter of the steps.
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
                "the gradient is 0 on {samples} of {of} samples: gradient attacks are blind there; use the square \
                 attack, or replace what has no derivative by something that has"
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

/// Looks for every [`Finding`] on a few samples: `inputs` each `[batch, ...]`, `labels` `[batch]` `u32`.
///
/// `budget` makes the threat's budget of a size, `eps` are the sizes that will be evaluated, ascending. Costs about
/// `20 (eps + 3)` gradients and 500 forward evaluations of each sample.
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
    let mut findings = vec![];
    let (once, again) = (classifier.logits(inputs)?, classifier.logits(inputs)?);
    let samples = once.dim(0)?;
    let apart = (once.to_dtype(DType::F64)? - again.to_dtype(DType::F64)?)?.abs()?.max(D::Minus1)?.to_vec1::<f64>()?;
    let random = apart.iter().filter(|d| **d != 0.).count();
    if random > 0 {
        findings.push(Finding::Random { samples: random, most: apart.iter().fold(0., |a, d| a.max(*d)) });
    }
    if probabilities(&once)? {
        findings.push(Finding::Probabilities);
    }
    let Some(greatest) = eps.last().copied().filter(|_| samples > 0) else { return Ok(findings) };
    let goal = Goal::Avoid(labels.clone());
    let Some((zero, exploding)) = gradients(classifier, inputs, &goal, &budget(greatest))? else {
        // No attack that follows gradients can be compared with one that does not.
        findings.push(Finding::ZeroGradient { samples, of: samples });
        return Ok(findings);
    };
    if zero > 0 {
        findings.push(Finding::ZeroGradient { samples: zero, of: samples });
    }
    if exploding > 0 {
        findings.push(Finding::ExplodingGradient { samples: exploding, of: samples });
    }
    let accuracy = |attack: &dyn Attack| -> Result<f64> {
        let success = run(attack, classifier, inputs, &goal, draws)?.success;
        Ok(success.iter().filter(|s| !**s).count() as f64 / samples as f64)
    };
    let pgd = |eps: f64, steps: usize| Pgd::quick(budget(eps), steps, Loss::Margin);
    let clean = correct(&once, labels)?.iter().filter(|c| **c).count() as f64 / samples as f64;
    let mut curve = vec![(0., clean)];
    for eps in eps {
        curve.push((*eps, accuracy(&pgd(*eps, STEPS))?));
    }
    // In the middle neither everything nor nothing stands; of equals, the largest.
    let (middle, white) = *curve[1..]
        .iter()
        .rev()
        .min_by(|a, b| (a.1 - clean / 2.).abs().total_cmp(&(b.1 - clean / 2.).abs()))
        .expect("one for each budget");
    let seen = Seen {
        white,
        few: accuracy(&pgd(middle, STEPS / 4))?,
        single: accuracy(&Fgm::new(budget(middle)))?,
        black: accuracy(&Square::new(budget(middle), QUERIES))?,
        curve,
        anywhere: None,
    };
    // Only where every modality may move can one sample become another.
    let moves_all = (0..inputs.len()).all(|m| budget(greatest).radius(m) > 0.);
    let anywhere = match moves_all.then(|| reach(classifier, inputs, labels, &budget(1.))).transpose()?.flatten() {
        Some(eps) => {
            let restarts = [(Start::Clean, Loss::Margin), (Start::Random, Loss::CrossEntropy)];
            let restarts = restarts.map(|(from, loss)| Restart { from, loss }).to_vec();
            let eps = eps.max(greatest);
            Some((eps, accuracy(&pgd(eps, 2 * STEPS).with_restarts(restarts))?))
        }
        None => None,
    };
    findings.extend(Seen { anywhere, ..seen }.findings(samples));
    Ok(findings)
}

/// Accuracies that are compared.
struct Seen {
    /// Budget and accuracy under PGD, each for itself; the first at 0.
    curve: Vec<(f64, f64)>,
    /// At one budget: PGD, with a quarter of its steps, a single step, and random search.
    white: f64,
    few: f64,
    single: f64,
    black: f64,
    /// At a budget that reaches other samples.
    anywhere: Option<(f64, f64)>,
}

impl Seen {
    fn findings(&self, samples: usize) -> Vec<Finding> {
        let chance = CHANCE.max(1. / samples as f64) + 1e-9;
        let exceeds = |more: f64, less: f64| more > less + chance;
        let mut findings = vec![];
        let rise = self.curve.windows(2).find(|pair| exceeds(pair[1].1, pair[0].1));
        if let Some(pair) = rise {
            findings.push(Finding::RisesWithBudget { smaller: pair[0], larger: pair[1] });
        }
        if exceeds(self.white, self.few) {
            findings.push(Finding::MoreStepsWeaken { few: self.few, many: self.white });
        }
        if exceeds(self.white, self.single) {
            findings.push(Finding::SingleStepWins { single: self.single, many: self.white });
        }
        if exceeds(self.white, self.black) {
            findings.push(Finding::BlackBoxWins { black: self.black, white: self.white });
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
    let one =
        |row: &Vec<f64>| row.iter().all(|p| (0. ..=1.).contains(p)) && (row.iter().sum::<f64>() - 1.).abs() < 1e-4;
    Ok(!rows.is_empty() && rows.iter().all(one))
}

/// How many samples have a gradient of the margin that is zero, or that explodes; none when the logits do not depend
/// differentiably on a modality that may move.
fn gradients(
    classifier: &dyn Classifier,
    inputs: &PerModality<Tensor>,
    goal: &Goal,
    budget: &Budget,
) -> Result<Option<(usize, usize)>> {
    let (counter, samples) = (Counter::default(), inputs[0].dim(0)?);
    // Nothing here is random.
    let problem = Problem::new(classifier, inputs, goal, &Draws::new(Streams::new(0), 0), None, &counter)?;
    let (gradients, logits) = match problem.gradients(budget, inputs, Loss::Margin) {
        Err(Error::NoGradient { .. }) => return Ok(None),
        other => other?,
    };
    let margins = Loss::Margin.value(&logits, goal)?;
    let mut steepest = vec![0f64; samples];
    for (m, g) in gradients.iter().enumerate().filter_map(|(m, g)| Some((m, g.as_ref()?))) {
        let norms = g.to_dtype(DType::F64)?.flatten_from(1)?.sqr()?.sum(D::Minus1)?.sqrt()?.to_vec1::<f64>()?;
        let scale = classifier.modalities()[m].scale;
        // A sum hides no NaN.
        steepest.iter_mut().zip(norms).for_each(|(s, n)| *s += n * budget.radius(m) * scale);
    }
    let margins = margins.to_dtype(DType::F64)?.to_vec1::<f64>()?;
    let explodes = |(s, m): (&f64, &f64)| !s.is_finite() || *s > EXPLODING * (1. + m.abs());
    let exploding = steepest.iter().zip(&margins).filter(|pair| explodes(*pair)).count();
    Ok(Some((steepest.iter().filter(|s| **s == 0.).count(), exploding)))
}

/// A size of the unit budget `unit` at which every sample that is right can become one of another class that is right;
/// `None` when there is no such pair.
fn reach(
    classifier: &dyn Classifier,
    inputs: &PerModality<Tensor>,
    labels: &Tensor,
    unit: &Budget,
) -> Result<Option<f64>> {
    let labels_of = labels.to_vec1::<u32>()?;
    let right = correct(&classifier.logits(inputs)?, labels)?;
    let right: Vec<usize> = (0..right.len()).filter(|i| right[*i]).collect();
    let other = |i: usize| right.iter().copied().find(|j| labels_of[*j] != labels_of[i]);
    let pairs: Option<Vec<u32>> = right.iter().map(|i| other(*i).map(|j| j as u32)).collect();
    let Some(others) = pairs.filter(|p| !p.is_empty()) else { return Ok(None) };
    let own: Vec<u32> = right.iter().map(|i| *i as u32).collect();
    let rows = |which: &[u32]| crate::problem::select_rows(inputs, which);
    let ball = crate::budget::Ball { budget: unit, modalities: classifier.modalities(), factors: None };
    let spent = ball.spent(&rows(&own)?, &rows(&others)?)?;
    Ok(Some(spent.used.iter().fold(0., |a: f64, u| a.max(*u))))
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;
    use crmt_core::{Domain, Modality};
    use std::cell::Cell;

    /// `f` of a model that is linear in two modalities.
    struct Model {
        modalities: PerModality<Modality>,
        f: Box<dyn Fn(&Tensor) -> candle_core::Result<Tensor>>,
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
        let modalities = PerModality::from_fn(2, |m| Modality::new(["left", "right"][m], &[3], Domain::Unbounded));
        let model = Model { modalities, f: Box::new(f) };
        let rows: Vec<f64> =
            (0..60).flat_map(|i| (0..3).map(move |k| if i % 3 == k { 1. + 0.01 * i as f64 } else { 0. })).collect();
        let x = Tensor::from_vec(rows, (60, 3), &Device::Cpu).unwrap();
        let labels = Tensor::from_iter((0..60u32).map(|i| i % 3), &Device::Cpu).unwrap();
        let draws = Draws::new(Streams::new(0), 0);
        self_check(&model, &PerModality::from([x.clone(), x]), &labels, &Budget::Joint, &[0.5, 1., 2.], &draws).unwrap()
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
        assert!(matches!(random[0], Finding::Random { samples: 60, .. }), "{random:?}");
        let softmax = findings(|h| {
            let e = h.exp()?;
            e.broadcast_div(&e.sum_keepdim(1)?)
        });
        assert!(softmax.contains(&Finding::Probabilities), "{softmax:?}");
    }

    #[test]
    fn masked_gradients_are_seen() {
        // A staircase: no gradient, but a search without gradients climbs it.
        let stairs = |h: &Tensor| ((h.detach() / 0.25)?.round()? * 0.25)? + h.mul(&h.zeros_like()?)?;
        let masked = findings(stairs);
        let zero = Finding::ZeroGradient { samples: 60, of: 60 };
        assert!(masked.contains(&zero), "{masked:?}");
        assert!(masked.iter().any(|f| matches!(f, Finding::BlackBoxWins { .. })), "{masked:?}");
        assert!(masked.iter().any(|f| matches!(f, Finding::StandsAtAnyBudget { .. })), "{masked:?}");
        let none = findings(|h| h.detach().round());
        assert_eq!(none, [Finding::ZeroGradient { samples: 60, of: 60 }]);
        let exploding = findings(|h| ((h * 1e9)?.tanh()? * 1e9)? - (h * 1e3)?);
        let many = |f: &Finding| matches!(f, Finding::ExplodingGradient { .. } | Finding::ZeroGradient { .. });
        assert!(exploding.iter().any(many), "{exploding:?}");
    }

    #[test]
    fn accuracies_that_contradict_each_other_are_seen() {
        let fine = Seen {
            curve: vec![(0., 1.), (1., 0.5), (2., 0.51)],
            white: 0.5,
            few: 0.6,
            single: 0.7,
            black: 0.8,
            anywhere: Some((9., 0.)),
        };
        assert_eq!(fine.findings(100), []);
        let odd = Seen {
            curve: vec![(0., 1.), (1., 0.5), (2., 0.6)],
            white: 0.5,
            few: 0.4,
            single: 0.45,
            black: 0.3,
            anywhere: Some((9., 0.5)),
        };
        let found = odd.findings(100);
        assert_eq!(found.len(), 5, "{found:?}");
        for (finding, word) in
            found.iter().zip(["rises", "more steps", "single step", "without gradients", "still stand"])
        {
            assert!(finding.to_string().contains(word), "{finding}");
        }
    }
}
