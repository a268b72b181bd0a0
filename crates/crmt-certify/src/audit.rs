//! The audit: an upper bound of an encoder's l2 Lipschitz constant, layer by layer, from its declared chain.
//! Does not know how the encoder computes; a certificate is as true as the declaration.
//!
//! | layer | bound |
//! |---|---|
//! | linear | verified Gram iteration (T13) or `sqrt(1 + |W W^T - I|_F)` (T12b), the lesser |
//! | convolution | Gram iteration on a frequency grid (T12, T13), any input size, zero padding, stride |
//! | diagonal | largest absolute entry; folded into a preceding linear layer or convolution, which is tighter |
//! | fixed | its theorem |
//! | residual | 1 + the branch |
//! | unbounded | refused, by name |
use crate::{AuditError, SoundBound, conv::conv_bound, gram::both_bounds};
use candle_core::{DType, Device, Tensor};
use crmt_core::Layer;
use std::fmt;

/// How a layer's bound was obtained.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Method {
    /// Verified Gram iteration.
    Gram,
    /// Distance of the weights from orthonormality.
    NearOrthonormal,
    /// Gram iteration on a grid of frequencies, this many per axis.
    Grid {
        /// Frequencies per axis.
        points: usize,
    },
    /// Largest absolute entry.
    LargestEntry,
    /// A constant known by theorem.
    Theorem,
    /// 1 + the bound of the branch.
    Residual,
}

impl fmt::Display for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Gram => f.pad("Gram iteration"),
            Self::NearOrthonormal => f.pad("near-orthonormal"),
            Self::Grid { points } => f.pad(&format!("symbol on {points} frequencies")),
            Self::LargestEntry => f.pad("largest entry"),
            Self::Theorem => f.pad("theorem"),
            Self::Residual => f.pad("1 + branch"),
        }
    }
}

/// One line of an audit.
#[derive(Debug, Clone, PartialEq)]
pub struct AuditRow {
    /// Name of the layer; `a * b` when a diagonal `b` was folded into `a`.
    pub name: String,
    /// Upper bound of its Lipschitz constant.
    pub bound: f64,
    /// How it was obtained.
    pub how: Method,
}

/// The bound of a chain of layers, with its bookkeeping.
#[derive(Debug, Clone)]
pub struct Audit {
    rows: Vec<AuditRow>,
    bound: SoundBound,
    last: Option<LastLinear>,
}

/// `phi = A psi`: what last-layer absorption needs.
#[derive(Debug, Clone)]
pub(crate) struct LastLinear {
    /// `A`, `[out, in]`, `f64`.
    pub weight: Tensor,
    /// Bound of `psi`.
    pub prefix: f64,
}

impl Audit {
    /// Layers in order of application; their product (rounded up) is [`bound`](Self::bound).
    pub fn rows(&self) -> &[AuditRow] {
        &self.rows
    }

    /// The whole chain's constant.
    pub fn bound(&self) -> SoundBound {
        self.bound
    }

    pub(crate) fn last_linear(&self) -> Option<&LastLinear> {
        self.last.as_ref()
    }
}

impl fmt::Display for Audit {
    /// A table, one layer a line, and the product.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width = self.rows.iter().map(|r| r.name.chars().count()).max().unwrap_or(0).max(7);
        for AuditRow { name, bound, how } in &self.rows {
            writeln!(f, "{name:width$}  {bound:<12.6}  {how}")?;
        }
        write!(f, "{:width$}  {:.6}", "product", self.bound.value())
    }
}

/// Bounds the composition of `layers`, in order of application. An empty chain is the identity, bounded by 1.
///
/// # Errors
/// [`AuditError`] names the layer that has no bound, is not finite, or has no valid shape.
pub fn audit(layers: &[Layer]) -> Result<Audit, AuditError> {
    let mut rows: Vec<AuditRow> = vec![];
    let mut last = None;
    let mut product = 1f64;
    let mut rest = layers;
    while let [layer, tail @ ..] = rest {
        let folded = fold(layer, tail.first())?;
        rest = if folded.is_some() { &tail[1..] } else { tail };
        let layer = folded.as_ref().unwrap_or(layer);
        let (name, bound, how) = one(layer)?;
        let bound = finite(&name, "its bound", bound)?;
        match layer {
            Layer::Linear { name, weight } => {
                let weight = exact(name, weight)?;
                last = Some(LastLinear { weight, prefix: product });
            }
            // After a linear layer features are `[batch, d]`, which flattening leaves as they are.
            Layer::Fixed { name, .. } if name == "flatten" => {}
            _ => last = None,
        }
        // Multiplying by 1 is exact.
        product = if bound == 1. || product == 1. { product * bound } else { round_up(product * bound) };
        rows.push(AuditRow { name, bound, how });
    }
    let bound = SoundBound::new(product).map_err(|_| AuditError::NotFinite {
        layer: "all".into(),
        what: "the product of bounds",
        value: product,
    })?;
    Ok(Audit { rows, bound, last })
}

/// `first` with a diagonal right after it folded into its output channels, if the two fit.
fn fold(first: &Layer, next: Option<&Layer>) -> Result<Option<Layer>, AuditError> {
    let Some(Layer::Diagonal { name: diagonal, scale }) = next else { return Ok(None) };
    let fits = |weight: &Tensor| scale.rank() == 1 && weight.dim(0).ok() == scale.dim(0).ok();
    let scaled = |name: &String, weight: &Tensor| -> Result<(String, Tensor), AuditError> {
        let mut shape = vec![1; weight.rank()];
        shape[0] = weight.dim(0).map_err(tensor(name))?;
        let scale = exact(diagonal, scale)?.reshape(shape).map_err(tensor(diagonal))?;
        let weight = exact(name, weight)?.broadcast_mul(&scale).map_err(tensor(name))?;
        Ok((format!("{name} * {diagonal}"), weight))
    };
    Ok(match first {
        Layer::Linear { name, weight } if fits(weight) => {
            let (name, weight) = scaled(name, weight)?;
            Some(Layer::Linear { name, weight })
        }
        Layer::Conv2d { name, kernel, stride, padding } if fits(kernel) => {
            let (name, kernel) = scaled(name, kernel)?;
            Some(Layer::Conv2d { name, kernel, stride: *stride, padding: *padding })
        }
        _ => None,
    })
}

/// Name, bound and method of one layer.
fn one(layer: &Layer) -> Result<(String, f64, Method), AuditError> {
    match layer {
        Layer::Linear { name, weight } => {
            shape(name, weight, 2, "a weight [out, in] with elements")?;
            let (gram, orthonormal) = both_bounds(&exact(name, weight)?).map_err(tensor(name))?;
            let how = if orthonormal < gram { Method::NearOrthonormal } else { Method::Gram };
            // A folded weight is rounded once per entry: covered by one relative ulp of the norm per entry's row.
            Ok((name.clone(), gram.min(orthonormal) * (1. + 4. * f64::EPSILON), how))
        }
        Layer::Conv2d { name, kernel, stride, .. } => {
            shape(name, kernel, 4, "a kernel [out, in, height, width] with elements")?;
            if *stride == 0 {
                return Err(AuditError::Shape {
                    layer: name.clone(),
                    expected: "a stride of at least 1",
                    got: "0".into(),
                });
            }
            let channels = kernel.dims()[0].min(kernel.dims()[1] * stride * stride);
            // A finer grid is tighter (0.1 % instead of 0.5 % per axis for 3 taps) and costs little when channels are few.
            let points = if channels <= 64 { 64 } else { 32 };
            let bound = conv_bound(&exact(name, kernel)?, *stride, points).map_err(tensor(name))?;
            Ok((name.clone(), bound * (1. + 4. * f64::EPSILON), Method::Grid { points }))
        }
        Layer::Diagonal { name, scale } => {
            let values = exact(name, scale)?.flatten_all().and_then(|s| s.to_vec1::<f64>()).map_err(tensor(name))?;
            Ok((name.clone(), values.iter().fold(0f64, |a, b| a.max(b.abs())), Method::LargestEntry))
        }
        Layer::Fixed { name, lipschitz } => {
            if *lipschitz < 0. {
                let got = lipschitz.to_string();
                return Err(AuditError::Shape { layer: name.clone(), expected: "a constant of at least 0", got });
            }
            Ok((name.clone(), finite(name, "its constant", *lipschitz)?, Method::Theorem))
        }
        Layer::Residual { name, branch } => {
            Ok((name.clone(), round_up(1. + audit(branch)?.bound.value()), Method::Residual))
        }
        Layer::Unbounded { name, why } => Err(AuditError::Unbounded { layer: name.clone(), why: why.clone() }),
        other => Err(AuditError::Unknown { layer: format!("{other:?}") }),
    }
}

fn tensor(layer: &str) -> impl FnOnce(candle_core::Error) -> AuditError {
    move |source| AuditError::Tensor { layer: layer.into(), source }
}

fn shape(layer: &str, t: &Tensor, rank: usize, expected: &'static str) -> Result<(), AuditError> {
    if t.rank() == rank && t.elem_count() > 0 {
        return Ok(());
    }
    Err(AuditError::Shape { layer: layer.into(), expected, got: format!("{:?}", t.dims()) })
}

/// The weights on the host in `f64`, after checking that each is finite.
fn exact(layer: &str, t: &Tensor) -> Result<Tensor, AuditError> {
    let t = t.to_device(&Device::Cpu).and_then(|t| t.to_dtype(DType::F64)).map_err(tensor(layer))?;
    let values = t.flatten_all().and_then(|t| t.to_vec1::<f64>()).map_err(tensor(layer))?;
    match values.iter().find(|v| !v.is_finite()) {
        Some(value) => Err(AuditError::NotFinite { layer: layer.into(), what: "weights", value: *value }),
        None => Ok(t.detach()),
    }
}

fn finite(layer: &str, what: &'static str, value: f64) -> Result<f64, AuditError> {
    if value.is_finite() { Ok(value) } else { Err(AuditError::NotFinite { layer: layer.into(), what, value }) }
}

/// The next number up, except for what is exact.
fn round_up(x: f64) -> f64 {
    if x == 0. || x == 1. { x } else { x.next_up() }
}
