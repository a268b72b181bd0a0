//! Gradient clipping by global norm, without touching the gradients.
//!
//! Knows nothing of the step that will use the factor.
use super::Parameter;
use crate::real::{PIECE, Read, dispatch, sum_by};
use candle_core::{Result, Tensor, backprop::GradStore, bail};
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

/// The global ℓ2 norm of the parameters' gradients, accumulated in `f64` in a fixed order, and the
/// factor `min(1, max_norm / (norm + 1e-6))` that clips it, as `torch.nn.utils.clip_grad_norm_`.
/// With `max_norm = ∞` it only measures and checks.
///
/// # Errors
/// A gradient that is not finite; the message names the parameter.
pub fn clip_grad_norm(
    gradients: &GradStore,
    parameters: &[Parameter],
    max_norm: f64,
) -> Result<Clipped> {
    if max_norm.is_nan() || max_norm < 0. {
        bail!("clip_grad_norm: the largest norm must not be negative, got {max_norm}")
    }
    let found = parameters
        .iter()
        .enumerate()
        .filter_map(|(i, p)| Some((i, gradients.get(&p.var)?)));
    let found = found
        .map(|(i, g)| Ok((i, g.contiguous()?)))
        .collect::<Result<Vec<_>>>()?;
    let mut squares = vec![0f64; parameters.len()];
    for ((i, _), square) in found.iter().zip(square_norms(&found)?) {
        let p = &parameters[*i];
        if !square.is_finite() {
            bail!(
                "the gradient of '{}' is not finite (its norm is {}): the loss has diverged; lower the learning rate, \
                 or look for a logarithm or division that reaches 0",
                p.name,
                square.sqrt()
            )
        }
        squares[*i] = square;
    }
    let norm = squares.iter().sum::<f64>().sqrt();
    let scale = if max_norm.is_finite() {
        (max_norm / (norm + 1e-6)).min(1.)
    } else {
        1.
    };
    Ok(Clipped {
        norm,
        scale,
        squares,
    })
}

/// The sum of squares of each gradient.
fn square_norms(gradients: &[(usize, Tensor)]) -> Result<Vec<f64>> {
    #[cfg(feature = "cuda")]
    if gradients.first().is_some_and(|(_, g)| g.device().is_cuda()) {
        return crate::cuda::square_norms(&gradients.iter().map(|(_, g)| g).collect::<Vec<_>>());
    }
    let of = |g: &Tensor| {
        let view = Read::new(g);
        dispatch!("clip_grad_norm", g.dtype(), T => {
            let g = view.elements::<T>()?;
            let pieces: Vec<f64> = g.par_chunks(PIECE).map(|g| sum_by(g, g, |a, b| [a * b])[0]).collect();
            Ok(pieces.iter().sum())
        })
    };
    gradients.iter().map(|(_, g)| of(g)).collect()
}
