//! Accuracy under attack as the budget grows.
//! Does not know which attacks are strong.
use crate::{Attack, Draws, Error, Goal, Result, run};
use candle_core::Tensor;
use crmt_core::{Classifier, PerModality};

/// Who fell to what.
#[derive(Debug, Clone, PartialEq)]
pub struct Curve {
    /// Per sample: did the clean input already meet the goal?
    pub clean: Vec<bool>,
    /// Per sample: the first attack that met the goal (0 for samples in [`clean`](Self::clean)), if
    /// any did.
    pub fell: Vec<Option<usize>>,
    /// Per sample: distance at which it fell, in declared units; 0 if it never did or had already.
    pub distance: Vec<f64>,
    /// The same of each modality: how the attack that broke the sample split its budget.
    pub spent: PerModality<Vec<f64>>,
    /// Forward evaluations, counted per sample.
    pub forwards: u64,
    /// Backward evaluations, counted per sample.
    pub backwards: u64,
}

impl Curve {
    /// Per sample: had it fallen to attack `k` or one before?
    pub fn success(&self, k: usize) -> Vec<bool> {
        self.fell
            .iter()
            .map(|fell| fell.is_some_and(|by| by <= k))
            .collect()
    }

    /// Fraction of samples that stood against attack `k` and all before: the robust accuracy at
    /// budget `k`.
    pub fn standing(&self, k: usize) -> f64 {
        self.success(k).iter().filter(|fell| !**fell).count() as f64 / self.fell.len() as f64
    }

    /// Appends the samples of another batch.
    pub fn extend(&mut self, other: Self) {
        self.clean.extend(other.clean);
        self.fell.extend(other.fell);
        self.distance.extend(other.distance);
        let parts = |m: usize| [self.spent[m].as_slice(), &other.spent[m]].concat();
        self.spent = PerModality::from_fn(self.spent.len(), parts);
        self.forwards += other.forwards;
        self.backwards += other.backwards;
    }
}

/// Runs `attacks` in order of growing budgets, each on the samples that still stand: a sample
/// broken at a smaller budget is broken at every larger one.
///
/// # Errors
/// [`Error::NotAscending`] when a budget does not contain the one before it; otherwise as [`run`].
pub fn strongest(
    attacks: &[&dyn Attack],
    classifier: &dyn Classifier,
    inputs: &PerModality<Tensor>,
    goal: &Goal,
    draws: &Draws,
) -> Result<Curve> {
    if let Some(k) =
        (1..attacks.len()).find(|k| !attacks[*k].budget().contains(attacks[*k - 1].budget()))
    {
        return Err(Error::NotAscending(k));
    }
    if attacks.is_empty() {
        return Err(Error::Setting("a curve needs at least one attack"));
    }
    let samples = inputs[0].dim(0)?;
    let mut curve = Curve {
        clean: vec![false; samples],
        fell: vec![None; samples],
        distance: vec![0.; samples],
        spent: inputs.map(|_| vec![0.; samples]),
        forwards: 0,
        backwards: 0,
    };
    let mut standing: Vec<u32> = (0..samples as u32).collect();
    for (k, attack) in attacks.iter().enumerate() {
        if standing.is_empty() {
            break;
        }
        let index = |t: &Tensor| {
            t.contiguous()?
                .index_select(&Tensor::new(standing.as_slice(), t.device())?, 0)
        };
        let whole = standing.len() == samples;
        let part = if whole {
            inputs.clone()
        } else {
            inputs.try_map(index)?
        };
        let goal = goal.with(index(goal.labels())?);
        let outcome = run(*attack, classifier, &part, &goal, &draws.select(&standing))?;
        curve.forwards += outcome.forwards;
        curve.backwards += outcome.backwards;
        let fell = |row: &usize| outcome.success[*row];
        for row in (0..standing.len()).filter(fell) {
            let i = standing[row] as usize;
            curve.fell[i] = Some(k);
            curve.distance[i] = outcome.distance[row];
            // At distance 0 nothing moved: the clean input met the goal by itself.
            curve.clean[i] = outcome.distance[row] == 0.;
        }
        curve.spent = curve.spent.try_enumerate(|m, spent| -> Result<_> {
            let mut spent = spent.clone();
            (0..standing.len())
                .filter(fell)
                .for_each(|row| spent[standing[row] as usize] = outcome.spent[m][row]);
            Ok(spent)
        })?;
        standing.retain(|i| curve.fell[*i as usize].is_none());
    }
    Ok(curve)
}
