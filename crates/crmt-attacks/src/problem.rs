//! What a searching attack works with: a classifier, clean inputs, a goal, randomness, and counted
//! evaluations. Does not know any attack.
use crate::{
    Budget, Error, Goal, Loss, Result,
    ball::Ball,
    domain,
    goal::{check_labels, clearly_correct, clearly_lost, correct_rows},
};
use candle_core::{DType, Tensor};
use crmt_core::{Classifier, PerModality, Streams, input_gradients};
use rand::Rng;
use rand_distr::StandardNormal;
use std::cell::Cell;

/// Randomness of a batch: one stream per sample, so that nothing depends on how samples are
/// batched.
#[derive(Debug, Clone, PartialEq)]
pub struct Draws {
    streams: Streams,
    ids: Ids,
}

#[derive(Debug, Clone, PartialEq)]
enum Ids {
    From(u64),
    Listed(Vec<u64>),
}

impl Draws {
    /// Sample `i` of the batch is sample `first + i` of a data set read in order. A trainer may
    /// fold the step into `first`, to draw anew every time.
    pub fn new(streams: Streams, first: u64) -> Self {
        Self {
            streams,
            ids: Ids::From(first),
        }
    }

    /// `ids[i]` identifies sample `i` of the batch.
    pub fn for_samples(streams: Streams, ids: Vec<u64>) -> Self {
        Self {
            streams,
            ids: Ids::Listed(ids),
        }
    }

    /// The generator of sample `i` of the batch for `purpose`.
    pub fn stream(&self, purpose: &str, i: usize) -> impl Rng + use<> {
        self.streams.stream(purpose, self.id(i as u32))
    }

    fn id(&self, i: u32) -> u64 {
        match &self.ids {
            Ids::From(first) => first.wrapping_add(u64::from(i)),
            Ids::Listed(ids) => ids[i as usize],
        }
    }

    /// The same randomness for some of the samples.
    pub(crate) fn select(&self, keep: &[u32]) -> Self {
        Self::for_samples(self.streams, keep.iter().map(|i| self.id(*i)).collect())
    }

    /// For how many samples there are streams; `None`: any number.
    pub(crate) fn len(&self) -> Option<usize> {
        match &self.ids {
            Ids::From(_) => None,
            Ids::Listed(ids) => Some(ids.len()),
        }
    }
}

/// Evaluations so far, counted per sample, and who is told how far a search is.
#[derive(Default)]
pub(crate) struct Counter<'a> {
    pub forwards: Cell<u64>,
    pub backwards: Cell<u64>,
    /// Told the share of the search that is done.
    pub watch: Option<&'a dyn Fn(f64)>,
}

impl Counter<'_> {
    fn add(cell: &Cell<u64>, samples: usize) {
        cell.set(cell.get() + samples as u64);
    }
}

/// One batch to attack.
pub struct Problem<'a> {
    classifier: &'a dyn Classifier,
    clean: PerModality<Tensor>,
    goal: Goal,
    labels: Vec<u32>,
    draws: Draws,
    /// Per modality `[batch, 1]` multiples of the budget, in the inputs' type; all the same for a
    /// joint budget.
    factors: Option<PerModality<Tensor>>,
    counter: &'a Counter<'a>,
}

impl<'a> Problem<'a> {
    pub(crate) fn new(
        classifier: &'a dyn Classifier,
        clean: &PerModality<Tensor>,
        goal: &Goal,
        draws: &Draws,
        factors: Option<&PerModality<Vec<f64>>>,
        counter: &'a Counter<'a>,
    ) -> Result<Self> {
        for (x, modality) in clean.zip(classifier.modalities(), "inputs")?.iter() {
            domain::check(x, modality)?;
        }
        let samples = clean[0].dim(0)?;
        let labels = goal.labels().to_vec1::<u32>()?;
        let counts = [
            ("labels", Some(labels.len())),
            ("random streams", draws.len()),
            (
                "radii",
                factors.and_then(|f| f.iter().map(Vec::len).find(|n| *n != samples)),
            ),
            (
                "inputs of every modality",
                clean.iter().map(|x| x.dims()[0]).find(|n| *n != samples),
            ),
        ];
        if let Some((what, Some(got))) = counts
            .into_iter()
            .find(|(_, got)| got.is_some_and(|got| got != samples))
        {
            return Err(Error::Samples {
                what,
                expected: samples,
                got,
            });
        }
        let wrong = |f: &&PerModality<Vec<f64>>| {
            f.iter()
                .flatten()
                .find(|f| !(f.is_finite() && **f >= 0.))
                .copied()
        };
        if let Some(radius) = factors.as_ref().and_then(wrong) {
            return Err(Error::Radius {
                what: "radius of a sample".into(),
                radius,
            });
        }
        let factors = match factors {
            None => None,
            Some(factors) => Some(clean.zip(factors, "radii of the samples")?.try_map(
                |(x, f)| {
                    Tensor::from_slice(f.as_slice(), (samples, 1), x.device())?.to_dtype(x.dtype())
                },
            )?),
        };
        // Whatever graph the inputs come from, an attack is not part of it.
        let clean = clean.map(Tensor::detach);
        Ok(Self {
            classifier,
            clean,
            goal: goal.clone(),
            labels,
            draws: draws.clone(),
            factors,
            counter,
        })
    }

    /// The inputs before any attack, each `[batch, ...]`.
    pub fn clean(&self) -> &PerModality<Tensor> {
        &self.clean
    }

    /// What counts as success.
    pub fn goal(&self) -> &Goal {
        &self.goal
    }

    /// The model.
    pub fn classifier(&self) -> &dyn Classifier {
        self.classifier
    }

    /// One stream of randomness per sample.
    pub fn draws(&self) -> &Draws {
        &self.draws
    }

    /// Number of samples.
    pub fn samples(&self) -> usize {
        self.labels.len()
    }

    /// Logits at `x`, `[batch, classes]`; counted.
    pub fn logits(&self, x: &PerModality<Tensor>) -> Result<Tensor> {
        Counter::add(&self.counter.forwards, x[0].dim(0)?);
        let logits = self.classifier.logits(x)?;
        self.check_logits(&logits)?;
        Ok(logits)
    }

    /// Gradient of `loss` (larger is closer to the goal), and the logits, at `x`; counted.
    ///
    /// Only modalities that `budget` lets move have one: the others are constants, and cost
    /// nothing.
    ///
    /// # Errors
    /// [`Error::NoGradient`] names a modality that the logits do not depend on.
    pub fn gradients(
        &self,
        budget: &Budget,
        x: &PerModality<Tensor>,
        loss: Loss,
    ) -> Result<(PerModality<Option<Tensor>>, Tensor)> {
        self.gradients_of(budget, x, |logits| {
            Ok(loss.value(logits, &self.goal)?.sum_all()?)
        })
    }

    /// As [`gradients`](Self::gradients), of any scalar of the logits.
    pub fn gradients_of(
        &self,
        budget: &Budget,
        x: &PerModality<Tensor>,
        scalar: impl FnOnce(&Tensor) -> Result<Tensor>,
    ) -> Result<(PerModality<Option<Tensor>>, Tensor)> {
        let moving: Vec<usize> = (0..x.len()).filter(|m| budget.radius(*m) > 0.).collect();
        let Some(leaves) = PerModality::new(moving.iter().map(|m| x[*m].clone()).collect()) else {
            return Ok((x.map(|_| None), self.logits(x)?));
        };
        let mut failed = None;
        let result = input_gradients(&leaves, |leaves| {
            let mut all: Vec<Tensor> = x.iter().cloned().collect();
            moving
                .iter()
                .zip(leaves)
                .for_each(|(m, leaf)| all[*m] = leaf.clone());
            let all = PerModality::new(all).expect("one per modality");
            let evaluate = || -> Result<(Tensor, Tensor)> {
                let logits = self.logits(&all)?;
                Ok((scalar(&logits)?, logits.detach()))
            };
            evaluate().map_err(|e| match e {
                Error::Core(e) => e,
                other => {
                    failed = Some(other);
                    crmt_core::Error::NoGradient { modality: 0 }
                }
            })
        });
        let (gradients, logits) = match (result, failed) {
            (_, Some(e)) => return Err(e),
            (Ok(found), None) => found,
            (Err(crmt_core::Error::NoGradient { modality }), None) => {
                let modality = self.classifier.modalities()[moving[modality]].name.clone();
                return Err(Error::NoGradient { modality });
            }
            (Err(e), None) => return Err(e.into()),
        };
        Counter::add(&self.counter.backwards, x[0].dim(0)?);
        let mut all: Vec<Option<Tensor>> = vec![None; x.len()];
        moving
            .iter()
            .zip(gradients)
            .for_each(|(m, g)| all[*m] = Some(g));
        Ok((PerModality::new(all).expect("one per modality"), logits))
    }

    /// Per sample: do these logits meet the goal?
    pub fn met(&self, logits: &Tensor) -> Result<Vec<bool>> {
        let correct = correct_rows(logits, &self.labels)?;
        Ok(match self.goal {
            Goal::Avoid(_) => correct.into_iter().map(|c| !c).collect(),
            Goal::Reach(_) => correct,
        })
    }

    /// As [`met`](Self::met), by more than rounding: whoever judges the same point again, in
    /// whatever batch, agrees. For searches, which stop at what they find or go as near to the
    /// boundary as they can.
    pub fn met_firmly(&self, logits: &Tensor) -> Result<Vec<bool>> {
        match self.goal {
            Goal::Avoid(_) => clearly_lost(logits, &self.labels),
            Goal::Reach(_) => clearly_correct(logits, &self.labels),
        }
    }

    /// Tells whoever watches that this share of the search is done.
    pub fn progress(&self, share: f64) {
        self.counter.watch.iter().for_each(|watch| watch(share));
    }

    /// Moves `x` by `relative` radii of `budget` in the steepest direction, then back into budget
    /// and domain.
    ///
    /// Joint l2: one unit direction over all modalities in declared units; per-modality l2: one
    /// each; linf: signs. A zero gradient moves nothing.
    pub fn step(
        &self,
        budget: &Budget,
        x: &PerModality<Tensor>,
        gradients: &PerModality<Option<Tensor>>,
        relative: f64,
    ) -> Result<PerModality<Tensor>> {
        self.confine(budget, &self.ball(budget).step(x, gradients, relative)?)
    }

    /// Counts gradients at `samples` points that were computed without being asked for here.
    pub(crate) fn computed(&self, samples: usize) {
        Counter::add(&self.counter.backwards, samples);
    }

    /// As [`step`](Self::step), sample `i` by `relative[i]` radii.
    pub fn step_each(
        &self,
        budget: &Budget,
        x: &PerModality<Tensor>,
        gradients: &PerModality<Option<Tensor>>,
        relative: &[f64],
    ) -> Result<PerModality<Tensor>> {
        let samples = self.samples();
        if relative.len() != samples {
            return Err(Error::Samples {
                what: "lengths of a step",
                expected: samples,
                got: relative.len(),
            });
        }
        // A full step in a ball as large as each sample's step.
        let factors = x.try_enumerate(|m, x| {
            let relative =
                Tensor::from_slice(relative, (samples, 1), x.device())?.to_dtype(x.dtype())?;
            self.factors
                .as_ref()
                .map_or(Ok(relative.clone()), |f| &f[m] * &relative)
        })?;
        let ball = Ball {
            factors: Some(&factors),
            ..self.ball(budget)
        };
        self.confine(budget, &ball.step(x, gradients, 1.)?)
    }

    /// What each sample may spend on each modality, in declared units; joint: on all modalities
    /// together.
    pub fn radii(&self, budget: &Budget) -> Result<PerModality<Vec<f64>>> {
        self.clean.try_enumerate(|m, _| {
            let Some(factors) = &self.factors else {
                return Ok(vec![budget.radius(m); self.samples()]);
            };
            Ok((factors[m].to_dtype(DType::F64)? * budget.radius(m))?
                .flatten_all()?
                .to_vec1()?)
        })
    }

    /// The nearest point of the intersection of the ball of `budget` and the domains, in declared
    /// units. Modalities without a radius come back as the clean input, bit for bit.
    pub fn confine(&self, budget: &Budget, x: &PerModality<Tensor>) -> Result<PerModality<Tensor>> {
        self.ball(budget).project(&self.clean, x)
    }

    /// A random start: `relative` radii from the clean input in a uniformly random direction (linf:
    /// each element uniform within `relative` radii), confined. Drawn in `f64` from each sample's
    /// own stream of `purpose`.
    pub fn random_start(
        &self,
        budget: &Budget,
        purpose: &str,
        relative: f64,
    ) -> Result<PerModality<Tensor>> {
        let linf = matches!(
            budget,
            Budget::Each {
                norm: crate::Norm::Linf,
                ..
            }
        );
        let mut rngs: Vec<_> = (0..self.samples())
            .map(|i| self.draws.stream(purpose, i))
            .collect();
        let noise = self.clean.try_enumerate(|m, x| {
            if budget.radius(m) <= 0. {
                return Ok::<_, Error>(None);
            }
            let len = x.elem_count() / self.samples().max(1);
            let mut values = Vec::with_capacity(x.elem_count());
            for rng in &mut rngs {
                values.extend((0..len).map(|_| {
                    if linf {
                        rng.random_range(-1f64..1.)
                    } else {
                        rng.sample(StandardNormal)
                    }
                }));
            }
            Ok(Some(
                Tensor::from_vec(values, x.shape(), x.device())?.to_dtype(x.dtype())?,
            ))
        })?;
        if !linf {
            // A normal vector points anywhere with equal chance, in declared units; a step
            // normalises it.
            let scaled = noise.try_enumerate(|m, n| {
                let scale = self.classifier.modalities()[m].scale;
                n.as_ref().map(|n| n / scale).transpose()
            })?;
            return self.step(budget, &self.clean, &scaled, relative);
        }
        let moved = self.clean.try_enumerate(|m, x| {
            let Some(noise) = &noise[m] else {
                return Ok::<_, Error>(x.clone());
            };
            let radius = budget.radius(m) * self.classifier.modalities()[m].scale * relative;
            let mut noise = noise.reshape((self.samples(), ()))?;
            if let Some(factors) = &self.factors {
                noise = noise.broadcast_mul(&factors[m])?;
            }
            Ok((x + (noise * radius)?.reshape(x.shape())?)?)
        })?;
        self.confine(budget, &moved)
    }

    /// The same problem, with the budget of sample `i` multiplied by `radii[i]`.
    pub(crate) fn within(mut self, radii: &[f64]) -> Result<Self> {
        let factors = self.clean.try_enumerate(|m, x| {
            let radii =
                Tensor::from_slice(radii, (radii.len(), 1), x.device())?.to_dtype(x.dtype())?;
            self.factors
                .as_ref()
                .map_or(Ok(radii.clone()), |own| &own[m] * &radii)
        })?;
        self.factors = Some(factors);
        Ok(self)
    }

    /// The problem of some of the samples, counted together with this one.
    pub fn select(&self, keep: &[u32]) -> Result<Problem<'a>> {
        let index = Tensor::new(keep, self.clean[0].device())?;
        Ok(Problem {
            classifier: self.classifier,
            clean: select_rows(&self.clean, keep)?,
            goal: self.goal.with(self.goal.labels().index_select(&index, 0)?),
            labels: keep.iter().map(|i| self.labels[*i as usize]).collect(),
            draws: self.draws.select(keep),
            factors: self
                .factors
                .as_ref()
                .map(|f| f.try_map(|f| f.index_select(&index, 0)))
                .transpose()?,
            counter: self.counter,
        })
    }

    pub(crate) fn ball<'b>(&'b self, budget: &'b Budget) -> Ball<'b> {
        Ball {
            budget,
            modalities: self.classifier.modalities(),
            factors: self.factors.as_ref(),
        }
    }

    fn check_logits(&self, logits: &Tensor) -> Result<()> {
        let (samples, classes) = logits.dims2()?;
        if classes < 2 {
            return Err(Error::Classes(classes));
        }
        if samples != self.samples() {
            return Err(Error::Samples {
                what: "logits",
                expected: self.samples(),
                got: samples,
            });
        }
        check_labels(&self.labels, classes)
    }
}

/// Rows `keep` of every modality, in that order.
pub(crate) fn select_rows(x: &PerModality<Tensor>, keep: &[u32]) -> Result<PerModality<Tensor>> {
    x.try_map(|x| {
        let index = Tensor::new(keep, x.device())?;
        Ok(x.contiguous()?.index_select(&index, 0)?)
    })
}

/// Rows `keep` of every gradient, in that order.
pub(crate) fn select_gradients(
    gradients: &PerModality<Option<Tensor>>,
    keep: &[u32],
) -> Result<PerModality<Option<Tensor>>> {
    gradients.try_map(|g| {
        let Some(g) = g else { return Ok(None) };
        Ok(Some(g.index_select(&Tensor::new(keep, g.device())?, 0)?))
    })
}
