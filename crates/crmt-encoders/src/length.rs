//! The length of a tensor of parameters. Does not know what it bounds.
use candle_core::{DType, Device, Result, Tensor};

/// l2 norm, in `f64`.
pub(crate) fn length(t: &Tensor) -> Result<f64> {
    let t = t
        .detach()
        .to_device(&Device::Cpu)?
        .to_dtype(DType::F64)?
        .flatten_all()?
        .to_vec1::<f64>()?;
    let greatest = t.iter().fold(
        0.0,
        |a: f64, b| if b.is_nan() { f64::NAN } else { a.max(b.abs()) },
    );
    if greatest == 0.0 || !greatest.is_finite() {
        return Ok(greatest);
    }
    Ok(t.iter().map(|v| (v / greatest).powi(2)).sum::<f64>().sqrt() * greatest * (1.0 + 1e-12))
}
