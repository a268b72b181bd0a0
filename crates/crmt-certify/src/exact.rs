//! The weights that a layer declares, as a bound needs them. Does not know kinds of layers.
use crate::AuditError;
use candle_core::{DType, Device, Tensor};

/// The error of a layer whose weights the tensor library refused.
pub(crate) fn tensor(layer: &str) -> impl FnOnce(candle_core::Error) -> AuditError {
    move |source| AuditError::Tensor {
        layer: layer.into(),
        source,
    }
}

/// The weights on the host in `f64`, after checking that each is finite.
pub(crate) fn exact(layer: &str, t: &Tensor) -> Result<Tensor, AuditError> {
    let t = t
        .to_device(&Device::Cpu)
        .and_then(|t| t.to_dtype(DType::F64))
        .map_err(tensor(layer))?;
    let values = t
        .flatten_all()
        .and_then(|t| t.to_vec1::<f64>())
        .map_err(tensor(layer))?;
    match values.iter().find(|v| !v.is_finite()) {
        Some(value) => Err(AuditError::NotFinite {
            layer: layer.into(),
            what: "weights",
            value: *value,
        }),
        None => Ok(t.detach()),
    }
}
