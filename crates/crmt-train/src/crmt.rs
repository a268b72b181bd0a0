//! The family JT, AT, Mixup and CRMT step 1: cross-entropy plus `rho` times the margin term.
//! Does not know the second step, nor how attacks search.
use crate::{Draws, Result, StepLoss, Strategy, margin_term, soft_cross_entropy, strategy::scalar};
use candle_core::Tensor;
use candle_nn::encoding::one_hot;
use crmt_attacks::{Attack, Goal};
use crmt_core::{Batch, Mode, PerModality, Trainable};
use rand::{Rng, seq::SliceRandom};
use rand_distr::Beta;

/// `mean CE(h(x), y) + rho · mean log(Σ_{m, k≠y} exp(s_k(m) − s_y(m)) + 1e-5)`.
///
/// `rho = 0` gives JT, AT and Mixup; `rho > 0` the first step of CRMT-JT, CRMT-AT and CRMT-Mix.
pub struct Crmt {
    /// Weight of the margin term.
    pub rho: f64,
    /// What the loss is evaluated on.
    pub inputs: TrainingInputs,
}

/// What a batch becomes before the loss.
pub enum TrainingInputs {
    /// Itself.
    Clean,
    /// The attack's answer to the fixed (eval-mode) model.
    Adversarial(Box<dyn Attack>),
    /// `λ·x + (1−λ)·x'` with a shuffled copy of the batch, `λ ~ Beta(alpha, alpha)`.
    Mixup {
        /// Both parameters of the Beta distribution; positive.
        alpha: f64,
    },
}

impl Strategy for Crmt {
    fn loss(&self, model: &dyn Trainable, batch: &Batch, draws: &Draws) -> Result<StepLoss> {
        let (inputs, targets) = self.inputs.prepare(model, batch, draws)?;
        let scores = model.scores(&inputs, Mode::Train)?;
        let logits = scores.logits()?;
        let targets = targets(logits.dim(1)?)?;
        let mut total = soft_cross_entropy(&logits, &targets)?.mean_all()?;
        let mut parts = vec![("cross_entropy", scalar(&total)?)];
        if self.rho != 0.0 {
            let margin = margin_term(&scores.unimodal, &targets)?.mean_all()?;
            parts.push(("margin", scalar(&margin)?));
            total = (total + (margin * self.rho)?)?;
        }
        Ok(StepLoss { total, parts })
    }
}

/// Soft targets `[batch, classes]`, once the number of classes is known.
type Targets = Box<dyn Fn(usize) -> candle_core::Result<Tensor>>;

impl TrainingInputs {
    fn prepare(&self, model: &dyn Trainable, batch: &Batch, draws: &Draws) -> Result<(PerModality<Tensor>, Targets)> {
        let labels = batch.labels.clone();
        let dtype = batch.inputs[0].dtype();
        let hard: Targets = {
            let labels = labels.clone();
            Box::new(move |classes| one_hot(labels.clone(), classes, 1f64, 0f64)?.to_dtype(dtype))
        };
        match self {
            Self::Clean => Ok((batch.inputs.clone(), hard)),
            Self::Adversarial(attack) => {
                let goal = Goal::Avoid(labels);
                let draws = crmt_attacks::Draws::new(draws.streams, draws.step << 32);
                let inputs = crmt_attacks::perturb(attack.as_ref(), &model.fixed(), &batch.inputs, &goal, &draws)?;
                Ok((inputs, hard))
            }
            Self::Mixup { alpha } => {
                let mut rng = draws.streams.stream("mixup", draws.step);
                let beta = Beta::new(*alpha, *alpha).map_err(|e| candle_core::Error::Msg(format!("mixup: {e}")))?;
                let lambda: f64 = rng.sample(beta);
                let mut order: Vec<u32> = (0..batch.len() as u32).collect();
                order.shuffle(&mut rng);
                let order = Tensor::new(order, labels.device())?;
                let mix = move |x: &Tensor| (x * lambda)? + (x.index_select(&order, 0)? * (1.0 - lambda))?;
                let inputs = batch.inputs.try_map(&mix)?;
                Ok((inputs, Box::new(move |classes| mix(&hard(classes)?))))
            }
        }
    }
}
