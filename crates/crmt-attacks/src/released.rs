//! The attacks of the released code, as named presets, to reproduce what it published. Too weak to
//! judge robustness: four steps, no restart, no check along the way. Use [`Pgd::strong`] for that.
//!
//! | preset | as released | what the product does instead |
//! |---|---|---|
//! | [`fgm`] | joint l2, one step | the same |
//! | [`pgd4`] | 4 steps of `eps / 3` from the clean input, joint l2 | 40 steps, restarts, every iterate checked |
//! | [`PerModalityPgd`] | 4 normalised steps of `eps_m / 3` per modality, projected on the *combined* radius | each budget enforced |
//! | [`TrainingPgd`] | steps of `eps / 5` divided by `sqrt(|g|^2 + 1e-6)`, gradients of the batch *mean* | exact normalisation per sample |
//!
//! The clamp to pixel space is the modality's [`Domain::Channels`]: pixels in 0..=1, seen
//! through each channel's mean and deviation ([`pixels`]).
use crate::{
    Attack, Budget, Error, Fgm, Goal, Loss, Norm, Pgd, Problem, Restart, Result, Start, Steps,
};
use candle_core::{D, Tensor};
use crmt_core::{Domain, PerModality};

/// The released FGM: one joint l2 step of length `eps`.
pub fn fgm(eps: f64) -> Fgm {
    Fgm::new(Budget::Joint(eps))
}

/// The released PGD: 4 joint l2 steps of `eps / 3` on the cross-entropy, from the clean input, all
/// taken.
pub fn pgd4(eps: f64) -> Pgd {
    Pgd {
        budget: Budget::Joint(eps),
        steps: 4,
        schedule: Steps::Constant(1. / 3.),
        restarts: vec![Restart {
            from: Start::Clean,
            loss: Loss::CrossEntropy,
        }],
        to_the_end: true,
        momentum: 0.,
    }
}

/// Pixels in 0..=1 after `(pixel - mean) / std` per channel.
///
/// # Errors
/// [`Error::Setting`] unless there is one positive deviation per mean.
pub fn pixels(mean: &[f64], std: &[f64]) -> Result<Domain> {
    if mean.len() != std.len() || std.iter().any(|s| s.is_nan() || *s <= 0.) {
        return Err(Error::Setting(
            "pixel normalisation needs one mean and one positive deviation per channel",
        ));
    }
    let seen = |pixel: f64| mean.iter().zip(std).map(|(m, s)| (pixel - m) / s).collect();
    Ok(Domain::Channels {
        lo: seen(0.),
        hi: seen(1.),
    })
}

/// The released per-modality PGD: 4 steps that move each modality by `eps_m / 3` along its own
/// normalised gradient, projected on the joint ball of radius `sqrt(sum eps_m^2)`: a modality may
/// leave its own budget.
///
/// Its [`budget`](Attack::budget) is therefore that joint ball.
#[derive(Debug, Clone, PartialEq)]
pub struct PerModalityPgd {
    own: Budget,
    combined: Budget,
}

impl PerModalityPgd {
    /// `radii`: `eps_m`, in declared units.
    pub fn new(radii: PerModality<f64>) -> Self {
        let combined = Budget::Joint(radii.iter().map(|r| r * r).sum::<f64>().sqrt());
        Self {
            own: Budget::Each {
                norm: Norm::L2,
                radii,
            },
            combined,
        }
    }
}

impl Attack for PerModalityPgd {
    fn name(&self) -> &str {
        "released per-modality pgd"
    }

    fn budget(&self) -> &Budget {
        &self.combined
    }

    fn search(&self, problem: &Problem<'_>) -> Result<PerModality<Tensor>> {
        self.own.check(
            problem.classifier().modalities(),
            problem.clean()[0].dtype(),
            None,
        )?;
        let mut x = problem.clean().clone();
        for _ in 0..4 {
            let (gradients, _) = problem.gradients(&self.own, &x, Loss::CrossEntropy)?;
            let moved = problem.ball(&self.own).step(&x, &gradients, 1. / 3.)?;
            x = problem.confine(&self.combined, &moved)?;
        }
        Ok(x)
    }
}

/// The released samples for adversarial training: `steps` steps `eps / 5 * g / sqrt(|g|^2 + 1e-6)`,
/// `g` the joint gradient of the batch's *mean* cross-entropy. The steps shrink as confidence, or
/// the batch, grows.
///
/// The released clamp of every element to `2 eps` around the clean input never acts in the
/// published 5 steps, whose joint length is at most `eps`: the [`budget`](Attack::budget) is
/// `steps / 5` times that.
#[derive(Debug, Clone, PartialEq)]
pub struct TrainingPgd {
    eps: f64,
    steps: usize,
    budget: Budget,
}

impl TrainingPgd {
    /// Published: `eps = 0.1`, 5 steps.
    pub fn new(eps: f64, steps: usize) -> Self {
        Self {
            eps,
            steps,
            budget: Budget::Joint(eps * steps as f64 / 5.),
        }
    }
}

impl Attack for TrainingPgd {
    fn name(&self) -> &str {
        "released training pgd"
    }

    fn budget(&self) -> &Budget {
        &self.budget
    }

    fn search(&self, problem: &Problem<'_>) -> Result<PerModality<Tensor>> {
        let Goal::Avoid(labels) = problem.goal() else {
            return Err(Error::Setting(
                "the released training attack has no targeted form: use Goal::Avoid",
            ));
        };
        let samples = problem.samples();
        let mut x = problem.clean().clone();
        for _ in 0..self.steps {
            let mean = |logits: &Tensor| -> Result<Tensor> {
                // A stable log-softmax: the shift cancels.
                let shifted = logits.broadcast_sub(&logits.max_keepdim(D::Minus1)?.detach())?;
                let own = shifted.gather(&labels.unsqueeze(1)?, 1)?.squeeze(1)?;
                Ok((shifted.exp()?.sum(D::Minus1)?.log()? - own)?.mean_all()?)
            };
            let (gradients, _) = problem.gradients_of(&self.budget, &x, mean)?;
            let squares = gradients
                .iter()
                .flatten()
                .map(|g| g.reshape((samples, ()))?.sqr()?.sum_keepdim(D::Minus1))
                .reduce(|a, b| a? + b?);
            let Some(squares) = squares.transpose()? else {
                return Ok(x);
            };
            let rate = ((squares + 1e-6)?.sqrt()?.recip()? * (self.eps / 5.))?;
            x = x
                .zip(&gradients, "gradients")?
                .try_map(|(x, g)| -> Result<Tensor> {
                    let Some(g) = g else { return Ok((*x).clone()) };
                    let step = g
                        .reshape((samples, ()))?
                        .broadcast_mul(&rate)?
                        .reshape(x.shape())?;
                    Ok(((*x) + step)?)
                })?;
        }
        Ok(x)
    }
}
