//! Gradient clipping by global norm, without touching the gradients.
//!
//! Knows nothing of the step that will use the factor.
use super::Parameter;
use crate::real::{PIECE, Read, dispatch, sum_by};
use candle_core::{Result, backprop::GradStore, bail};
use rayon::prelude::*;

/// What [`clip_grad_norm`] found.
#[derive(Debug, Clone, PartialEq)]
pub struct Clipped {
    /// The ℓ2 norm of all gradients together, before clipping.
    pub norm: f64,
    /// What to multiply the gradients by, for [`super::Optimizer::step_scaled`]: at most 1.
    pub scale: f64,
    /// The squared norm of each parameter's gradient, before clipping; 0 where there is none.
    pub squares: Vec<f64>,
}

/// The global ℓ2 norm of the parameters' gradients, accumulated in `f64` in a fixed order, and the factor
/// `min(1, max_norm / (norm + 1e-6))` that clips it, as `torch.nn.utils.clip_grad_norm_`.
/// With `max_norm = ∞` it only measures and checks.
///
/// # Errors
/// A gradient that is not finite; the message names the parameter.
pub fn clip_grad_norm(gradients: &GradStore, parameters: &[Parameter], max_norm: f64) -> Result<Clipped> {
    if max_norm.is_nan() || max_norm < 0. {
        bail!("clip_grad_norm: the largest norm must not be negative, got {max_norm}")
    }
    let mut squares = vec![0f64; parameters.len()];
    for (p, total) in parameters.iter().zip(&mut squares) {
        let Some(g) = gradients.get(&p.var) else { continue };
        let g = g.contiguous()?;
        let view = Read::new(&g);
        let square: f64 = dispatch!("clip_grad_norm", g.dtype(), T => {
            let g = view.elements::<T>()?;
            let pieces: Vec<f64> = g.par_chunks(PIECE).map(|g| sum_by(g, g, |a, b| [a * b])[0]).collect();
            pieces.iter().sum()
        });
        if !square.is_finite() {
            bail!(
                "the gradient of '{}' is not finite (its norm is {}): the loss has diverged; lower the learning rate, \
                 or look for a logarithm or division that reaches 0",
                p.name,
                square.sqrt()
            )
        }
        *total = square;
    }
    let norm = squares.iter().sum::<f64>().sqrt();
    let scale = if max_norm.is_finite() { (max_norm / (norm + 1e-6)).min(1.) } else { 1. };
    Ok(Clipped { norm, scale, squares })
}
