//! The family JT, AT, Mixup and CRMT step 1: cross-entropy plus `rho` times the margin term.
//! Does not know the second step, nor what becomes of a batch before.
use crate::{
    Draws, MarginRule, Part, Prepared, Result, StepLoss, Strategy, TrainingInputs, margin_term,
    soft_cross_entropy,
};
use crmt_core::{Batch, Mode, Trainable};

/// `mean CE(h(x), y) + rho · mean log(Σ_{m, k≠y} exp(s_k(m) − s_y(m)) + 1e-5)`.
///
/// `rho = 0` gives JT, AT, Mixup and training on noise; `rho > 0` the first step of CRMT-JT,
/// CRMT-AT and CRMT-Mix.
pub struct Crmt {
    /// Weight of the margin term.
    pub rho: f64,
    /// That term of mixed samples.
    pub mixed_margin: MarginRule,
    /// What the loss is evaluated on.
    pub inputs: TrainingInputs,
}

impl Crmt {
    /// With the exact margin term.
    pub fn new(rho: f64, inputs: TrainingInputs) -> Self {
        Self {
            rho,
            mixed_margin: MarginRule::Exact,
            inputs,
        }
    }
}

impl Strategy for Crmt {
    fn prepare(&self, model: &dyn Trainable, batch: &Batch, draws: &Draws) -> Result<Prepared> {
        self.inputs.prepare(model, batch, draws)
    }

    fn loss(&self, model: &dyn Trainable, prepared: &Prepared) -> Result<StepLoss> {
        let scores = model.scores(&prepared.inputs, Mode::Train)?;
        let logits = scores.logits()?;
        let targets = prepared.targets(logits.dim(1)?)?;
        let mut total = soft_cross_entropy(&logits, &targets)?.mean_all()?;
        let mut parts = vec![("cross_entropy", Part::from(&total))];
        if self.rho != 0.0 {
            let margin = match prepared.mixed {
                None => margin_term(&scores.unimodal, &targets)?,
                Some(_) => self.mixed_margin.of_mixed(&scores.unimodal, &targets)?,
            };
            let margin = margin.mean_all()?;
            parts.push(("margin", Part::from(&margin)));
            total = (total + (margin * self.rho)?)?;
        }
        Ok(StepLoss::new(total, parts, prepared, &scores))
    }
}
