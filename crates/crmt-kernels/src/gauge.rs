//! Positive weights of fixed size, for models that do not change when all weights are scaled
//! together.
//!
//! Knows nothing of what is weighted.
use candle_core::{Result, Tensor, bail};

/// `softplus(raw) / rms`, with `rms` the root mean square of the softplus over all tensors
/// together: positive weights with root mean square 1. Differentiable.
///
/// # Errors
/// When `raw` is empty, or its tensors are not of one type on one device.
pub fn gauged(raw: &[Tensor]) -> Result<Vec<Tensor>> {
    if raw.is_empty() {
        bail!("gauged: no weights")
    }
    let positive = raw.iter().map(softplus).collect::<Result<Vec<_>>>()?;
    let squares = positive
        .iter()
        .map(|a| a.flatten_all()?.sqr())
        .collect::<Result<Vec<_>>>()?;
    let rms = Tensor::cat(&squares, 0)?.mean_all()?.sqrt()?;
    positive.iter().map(|a| a.broadcast_div(&rms)).collect()
}

/// `ln(1 + e^x)`, without overflow.
fn softplus(x: &Tensor) -> Result<Tensor> {
    let peak = x.detach().maximum(&x.zeros_like()?.detach())?;
    (peak.neg()?.exp()? + (x - &peak)?.exp()?)?.log()? + peak
}
