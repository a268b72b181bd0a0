//! Randomized smoothing of any classifier, with one noise level per modality (theorem T14; Cohen,
//! Rosenfeld and Kolter 2019 in coordinates `x(m) / sigma_m`). Does not know how the classifier
//! works.
//!
//! The smoothed classifier is `g(x) = argmax_c P[f(x + eta) = c]` with
//! `eta(m) ~ N(0, sigma_m^2 I)`. If its class has probability at least `p_A`, then `g` is constant
//! where `sum_m |d(m)|^2 / sigma_m^2 < R^2`, `R = Phi^-1(p_A)`.
//!
//! Of `n_0` draws the most voted class is taken; its probability is bounded on `n` *fresh* draws
//! (Clopper-Pearson, failure probability `alpha`, for each sample and certificate); if the bound
//! does not exceed 1/2, the certificate abstains.
use crate::{
    CertifyError, SmoothCertificate, Votes, WeightsHash,
    binomial::{lower_bound, upper_bound},
    ellipsoid::smoothed_radius,
    votes::{Draw, Drawn, Phase, predict},
};
use candle_core::Tensor;
use crmt_core::{Classifier, PerModality, Streams};
use std::ops::ControlFlow;

/// What is agreed before the first draw. Changing it later voids the votes.
#[derive(Debug, Clone, PartialEq)]
pub struct Smoothing {
    sigmas: PerModality<f64>,
    selection: u64,
    draws: u64,
    alpha: f64,
    weights: Option<WeightsHash>,
}

impl Smoothing {
    /// `n_0 = 100`, `n = 10,000`, `alpha = 0.001`, as is usual. `sigmas`: standard deviation of the
    /// noise per modality, in declared units ([`crmt_core::Modality::scale`]); 0 leaves a modality
    /// as it is, and certifies nothing of it.
    ///
    /// # Errors
    /// [`CertifyError::Bound`] unless each is finite and at least 0.
    pub fn new(sigmas: PerModality<f64>) -> Result<Self, CertifyError> {
        if let Some((m, value)) = sigmas
            .iter()
            .enumerate()
            .find(|(_, s)| !(s.is_finite() && **s >= 0.))
        {
            return Err(CertifyError::Bound {
                what: format!("modality {m}: sigma"),
                value: *value,
            });
        }
        Ok(Self {
            sigmas,
            selection: 100,
            draws: 10_000,
            alpha: 1e-3,
            weights: None,
        })
    }

    /// `n_0` draws to choose the class, `n` fresh ones to bound its probability. With all `n` votes
    /// for one class `R = Phi^-1(alpha^(1/n))`: for alpha 0.001, 2.46 at a thousand, 3.20 at
    /// ten, 3.81 at a hundred thousand.
    pub fn draws(self, selection: u64, estimation: u64) -> Self {
        Self {
            selection,
            draws: estimation,
            ..self
        }
    }

    /// Failure probability of each certificate.
    ///
    /// # Errors
    /// [`CertifyError::Bound`] unless `0 < alpha < 1`.
    pub fn alpha(self, alpha: f64) -> Result<Self, CertifyError> {
        if !(alpha > 0. && alpha < 1.) {
            return Err(CertifyError::Bound {
                what: "alpha, below 1 and above 0".into(),
                value: alpha,
            });
        }
        Ok(Self { alpha, ..self })
    }

    /// One of `certificates` different smoothed models at one input, all of which shall hold at
    /// once: `alpha` is divided among them (union bound). `M + 1` for one with every modality and
    /// one without each.
    pub fn one_of(self, certificates: usize) -> Self {
        Self {
            alpha: self.alpha / certificates.max(1) as f64,
            ..self
        }
    }

    /// Names the weights whose votes are counted; every certificate carries the name.
    pub fn for_weights(self, weights: WeightsHash) -> Self {
        Self {
            weights: Some(weights),
            ..self
        }
    }

    /// Votes that were drawn as agreed here, with this noise and these weights, and written down
    /// since.
    pub fn counted(&self, id: u64, selection: Vec<u64>, estimation: Vec<u64>) -> Votes {
        Votes {
            id,
            selection,
            estimation,
            drawn: Some(self.drawn()),
        }
    }

    fn drawn(&self) -> Drawn {
        Drawn {
            weights: self.weights.clone(),
            sigmas: self.sigmas.clone(),
        }
    }

    /// Refuses votes of other weights or noise, and votes that do not say.
    fn check(&self, votes: &Votes) -> Result<(), CertifyError> {
        let (asked, none) = (
            self.drawn(),
            votes.selection.is_empty() && votes.estimation.is_empty(),
        );
        if none || votes.drawn.as_ref() == Some(&asked) {
            return Ok(());
        }
        let drawn = votes
            .drawn
            .as_ref()
            .map_or("in a way that nobody told".into(), ToString::to_string);
        Err(CertifyError::Drawn {
            id: votes.id,
            drawn,
            asked: asked.to_string(),
        })
    }

    /// Draws and counts until every sample in `votes` has its draws. Counts that are there already
    /// are kept, so that a stopped run goes on where it was; the result depends on neither `chunk`
    /// nor stops.
    ///
    /// `inputs`: each `[samples, ...]`, one row for each entry of `votes`; `chunk`: noisy copies
    /// that are evaluated at once. `progress(votes, done, total)` is called after each chunk, in
    /// draws; it may stop the run.
    ///
    /// # Errors
    /// [`CertifyError`] when inputs, votes and model do not line up, or a logit is NaN or infinite.
    pub fn run(
        &self,
        model: &dyn Classifier,
        inputs: &PerModality<Tensor>,
        streams: &Streams,
        votes: &mut [Votes],
        chunk: usize,
        mut progress: impl FnMut(&[Votes], u64, u64) -> ControlFlow<()>,
    ) -> Result<ControlFlow<()>, CertifyError> {
        if self.sigmas.len() != inputs.len() || model.modalities().len() != inputs.len() {
            let what = "noise levels (sigmas), one per modality of inputs and model";
            return Err(CertifyError::shape(what, inputs.len(), self.sigmas.len()));
        }
        for (m, x) in inputs.iter().enumerate() {
            if x.dim(0)? != votes.len() {
                return Err(CertifyError::shape(
                    format!("modality {m}: samples"),
                    votes.len(),
                    x.dim(0)?,
                ));
            }
        }
        let phases = [
            (Phase::Selection, self.selection),
            (Phase::Estimation, self.draws),
        ];
        let mut done = 0;
        for vote in votes.iter_mut() {
            self.check(vote)?;
            vote.drawn = Some(self.drawn());
            for (phase, expected) in phases {
                let got = phase.votes(vote).iter().sum();
                if got > expected {
                    return Err(CertifyError::Votes {
                        id: vote.id,
                        expected,
                        got,
                    });
                }
                done += got;
            }
        }
        let total = votes.len() as u64 * (self.selection + self.draws);
        for (phase, expected) in phases {
            // A sample's next draw is the number of votes it has.
            let counted: Vec<u64> = votes
                .iter_mut()
                .map(|v| phase.votes(v).iter().sum())
                .collect();
            let mut left = counted
                .into_iter()
                .enumerate()
                .flat_map(|(row, counted)| (counted..expected).map(move |draw| Draw { row, draw }))
                .peekable();
            while left.peek().is_some() {
                let draws: Vec<Draw> = left.by_ref().take(chunk.max(1)).collect();
                let ids = |row: usize| votes[row].id;
                let (classes, k) =
                    predict(model, inputs, &self.sigmas, streams, phase, &draws, ids)?;
                if classes.len() != draws.len() {
                    return Err(CertifyError::shape(
                        "rows of the logits",
                        draws.len(),
                        classes.len(),
                    ));
                }
                for (draw, class) in draws.iter().zip(classes) {
                    let counts = phase.votes(&mut votes[draw.row]);
                    if counts.is_empty() {
                        counts.resize(k, 0);
                    }
                    let len = counts.len();
                    let count = counts.get_mut(class as usize).filter(|_| len == k);
                    *count.ok_or_else(|| CertifyError::shape("classes of the votes", k, len))? += 1;
                }
                done += draws.len() as u64;
                if progress(votes, done, total).is_break() {
                    return Ok(ControlFlow::Break(()));
                }
            }
        }
        Ok(ControlFlow::Continue(()))
    }

    /// The certificate of one sample from its votes, with `p_B = 1 - p_A`; `None`: abstains.
    ///
    /// # Errors
    /// [`CertifyError::Votes`] unless all draws were counted: a bound at a count chosen on the way
    /// would not hold.
    pub fn certificate(&self, votes: &Votes) -> Result<Option<SmoothCertificate>, CertifyError> {
        let Some((class, counted)) = self.complete(votes)? else {
            return Ok(None);
        };
        let p_lower = lower_bound(counted, self.draws, self.alpha);
        Ok(self.with(class, p_lower, 1. - p_lower))
    }

    /// The same with every rival's probability bounded as well, so that a winner below one half may
    /// be certified: `alpha / 2` for the winner, the other half divided among the rivals. Never the
    /// better one for a clear winner.
    ///
    /// # Errors
    /// As [`certificate`](Self::certificate).
    pub fn certificate_two_sided(
        &self,
        votes: &Votes,
    ) -> Result<Option<SmoothCertificate>, CertifyError> {
        let Some((class, counted)) = self.complete(votes)? else {
            return Ok(None);
        };
        let p_lower = lower_bound(counted, self.draws, self.alpha / 2.);
        let rivals = votes.estimation.len().saturating_sub(1).max(1);
        let each = self.alpha / 2. / rivals as f64;
        let counts = votes
            .estimation
            .iter()
            .enumerate()
            .filter(|(k, _)| *k != class as usize);
        let p_upper = counts
            .map(|(_, n)| upper_bound(*n, self.draws, each))
            .fold(0., f64::max);
        Ok(self.with(class, p_lower, p_upper.min(1. - p_lower)))
    }

    /// The selected class and its fresh votes; `None` when nothing was to be drawn.
    fn complete(&self, votes: &Votes) -> Result<Option<(u32, u64)>, CertifyError> {
        self.check(votes)?;
        for (counts, expected) in [
            (&votes.selection, self.selection),
            (&votes.estimation, self.draws),
        ] {
            let got = counts.iter().sum();
            if got != expected {
                return Err(CertifyError::Votes {
                    id: votes.id,
                    expected,
                    got,
                });
            }
        }
        let class = votes.selected();
        Ok(class.and_then(|class| votes.estimation.get(class as usize).map(|n| (class, *n))))
    }

    fn with(&self, class: u32, p_lower: f64, p_upper: f64) -> Option<SmoothCertificate> {
        let radius = smoothed_radius(p_lower, p_upper);
        (radius > 0.).then(|| SmoothCertificate {
            class,
            radius,
            p_lower,
            p_upper,
            sigmas: self.sigmas.clone(),
            alpha: self.alpha,
            weights: self.weights.clone(),
        })
    }
}
