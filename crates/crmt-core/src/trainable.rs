//! What the training loop needs of a model: a view that learns, and a frozen twin.
use crate::{AdditiveClassifier, AdditiveScores, Mode, PerModality, Result};
use candle_core::{Tensor, Var};

/// A model in training.
pub trait Trainable {
    /// Features whose computation tracks the parameters, each `[batch, dim_m]`. `inputs`: each
    /// `[batch, ...]`.
    fn features(&self, inputs: &PerModality<Tensor>, mode: Mode) -> Result<PerModality<Tensor>>;

    /// Scores of [`features`](Self::features), tracking the parameters of the head.
    fn fuse(&self, features: &PerModality<Tensor>) -> Result<AdditiveScores>;

    /// Scores of inputs, tracking all parameters.
    fn scores(&self, inputs: &PerModality<Tensor>, mode: Mode) -> Result<AdditiveScores> {
        self.fuse(&self.features(inputs, mode)?)
    }

    /// The same model in [`Mode::Eval`], sharing storage with the live parameters and running
    /// statistics, tracking nothing: attacks and certificates see this one.
    fn fixed(&self) -> &dyn AdditiveClassifier;

    /// Everything that training may change, in a stable order.
    fn variables(&self) -> Vec<Variable>;

    /// The storage of `a` and `b`, where the head learns integration weights: what CRMT's second
    /// step optimises.
    fn integration(&self) -> Option<Integration>;
}

/// Integration weights and bias of `h_k = sum_m a_k(m) * s_k(m) + b_k`.
#[derive(Debug, Clone)]
pub struct Integration {
    /// `a(m)`, each `[classes]`; where they are gauged, what `a(m)` is computed from.
    pub weights: PerModality<Var>,
    /// `a = softplus(weights) / rms`, with the root mean square over all modalities and classes.
    pub gauged: bool,
    /// `b`, `[classes]`.
    pub bias: Var,
}

/// A named piece of a model's state.
#[derive(Debug, Clone)]
pub struct Variable {
    /// PyTorch-like dotted name, e.g. `encoders.image.conv1.weight`.
    pub name: String,
    /// The storage; writing to it changes the model and its frozen twin.
    pub var: Var,
    /// `false` for running statistics, which no optimizer touches.
    pub learned: bool,
}
