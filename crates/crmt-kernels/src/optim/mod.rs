//! Optimizers: what they share.
//!
//! Knows nothing of schedules, models or files; parameters are named storage.
mod adam;
mod clip;
mod sgd;

pub use adam::{Adam, AdamW};
pub use clip::{Clipped, clip_grad_norm};
pub use sgd::{Sgd, SgdState};

use candle_core::{Result, Tensor, Var, backprop::GradStore, bail};

/// A learned tensor, its name in checkpoints, and its share of the weight decay.
#[derive(Debug, Clone)]
pub struct Parameter {
    /// Names the optimizer's state in checkpoints, e.g. `encoders.image.conv1.weight`.
    pub name: String,
    /// What the optimizer changes, in place.
    pub var: Var,
    /// Multiplies the optimizer's weight decay: 1 to decay as configured, 0 not to decay.
    pub decay: f64,
}

impl Parameter {
    /// A parameter that decays as the optimizer is configured.
    pub fn new(name: impl Into<String>, var: &Var) -> Self {
        Self {
            name: name.into(),
            var: var.clone(),
            decay: 1.,
        }
    }

    /// The same with `factor` times the weight decay.
    pub fn with_decay(self, factor: f64) -> Self {
        Self {
            decay: factor,
            ..self
        }
    }
}

/// Changes parameters in place, following their gradients. Deterministic.
pub trait Optimizer: Send {
    /// One step with gradients multiplied by `scale` first (see [`Clipped::scale`]).
    /// A parameter without a gradient, and its state, stay as they are.
    fn step_scaled(&mut self, gradients: &GradStore, lr: f64, scale: f64) -> Result<()>;

    /// One step with learning rate `lr`.
    fn step(&mut self, gradients: &GradStore, lr: f64) -> Result<()> {
        self.step_scaled(gradients, lr, 1.)
    }

    /// The parameters, in the order given.
    fn parameters(&self) -> &[Parameter];

    /// Everything needed to continue, by name, in a stable order. The tensors are copies.
    fn state(&self) -> Result<Vec<(String, Tensor)>>;

    /// Takes over a saved [`Optimizer::state`]: `get` returns the tensor of a name. Fails, having
    /// changed nothing, if one is missing or has another shape or type.
    fn restore(&mut self, get: &dyn Fn(&str) -> Option<Tensor>) -> Result<()>;
}

/// Whether the parameters are on a CUDA device.
#[cfg(feature = "cuda")]
fn on_cuda(parameters: &[Parameter]) -> bool {
    parameters.first().is_some_and(|p| p.var.device().is_cuda())
}

/// Parameters must be distinct, named apart and able to step.
fn check(parameters: &[Parameter]) -> Result<()> {
    for (i, p) in parameters.iter().enumerate() {
        if parameters[..i]
            .iter()
            .any(|q| q.name == p.name || q.var.id() == p.var.id())
        {
            bail!("optimizer: parameter '{}' is given twice", p.name)
        }
        if !p.var.is_contiguous()
            || !matches!(
                p.var.dtype(),
                candle_core::DType::F32 | candle_core::DType::F64
            )
        {
            bail!(
                "optimizer: parameter '{}' must be contiguous and of type F32 or F64, is {:?}",
                p.name,
                p.var.dtype()
            )
        }
    }
    Ok(())
}

/// The saved tensor `name`, shaped as `like`.
fn saved(get: &dyn Fn(&str) -> Option<Tensor>, name: &str, like: &Tensor) -> Result<Tensor> {
    let Some(t) = get(name) else {
        bail!("optimizer state: '{name}' is missing; was it saved by the same optimizer?")
    };
    if t.shape() != like.shape() || t.dtype() != like.dtype() {
        bail!(
            "optimizer state: '{name}' is {:?} {:?}, expected {:?} {:?}",
            t.dtype(),
            t.dims(),
            like.dtype(),
            like.dims()
        )
    }
    // A copy on the right device: state is changed in place and must not touch the caller's tensor.
    t.to_device(like.device())?.detach().contiguous()?.copy()
}
