//! The audit: an upper bound of an encoder's l2 Lipschitz constant, layer by layer, from its declared chain.
//! Does not know how the encoder computes; a certificate is as true as the declaration.
//!
//! | layer | bound |
//! |---|---|
//! | linear | verified Gram iteration (T13) or `sqrt(1 + |W W^T - I|_F)` (T12b), the lesser |
//! | convolution | Gram iteration on a frequency grid (T12, T13) or row sums of the absolute Gram matrix, the lesser; any input size, zero padding, stride |
//! | diagonal | largest absolute entry; tighter: folded into a neighbouring linear layer or convolution |
//! | fixed | its theorem ([`rule`](crate::rule)) |
//! | bounded | its theorem, or the bound of what it computes, the lesser |
//! | residual | 1 + the branch; for a linear branch, `I + branch` as one matrix or kernel, the lesser |
//! | unbounded | refused, by name |
use crate::{AuditError, SoundBound, conv::conv_bound, gram::both_bounds, row_sum_bound, row_sums::cost};
use candle_core::{DType, Device, Tensor};
use crmt_core::Layer;
use std::fmt;

/// Multiplications beyond which row sums are left out (256 channels of 3 x 3 need fewer): seconds, and the grid's bound
/// holds without.
const ROW_SUMS_COST: usize = 5_000_000_000;

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
    /// Row sums of the absolute Gram matrix: what makes an almost orthogonal kernel 1 by theorem.
    RowSums,
    /// Largest absolute entry.
    LargestEntry,
    /// A constant known by theorem.
    Theorem,
    /// 1 + the bound of the branch.
    Residual,
    /// The sum of two branches' bounds.
    Sum,
    /// The identity and a linear branch, as one matrix or kernel.
    LinearResidual,
}

impl fmt::Display for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Gram => f.pad("Gram iteration"),
            Self::NearOrthonormal => f.pad("near-orthonormal"),
            Self::Grid { points } => f.pad(&format!("symbol on {points} frequencies")),
            Self::RowSums => f.pad("row sums of |Gram|"),
            Self::LargestEntry => f.pad("largest entry"),
            Self::Theorem => f.pad("theorem"),
            Self::Residual => f.pad("1 + branch"),
            Self::Sum => f.pad("sum of branches"),
            Self::LinearResidual => f.pad("I + branch"),
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
    while !rest.is_empty() {
        let layer;
        (layer, rest) = fold_first(rest)?;
        let layer = &layer;
        let (name, bound, how) = one(layer)?;
        let bound = finite(&name, "its bound", bound)?;
        match layer {
            Layer::Linear { name, weight } => {
                let weight = exact(name, weight)?;
                last = Some(LastLinear { weight, prefix: product });
            }
            // After a linear layer features are `[batch, d]`, which flattening leaves as they are.
            Layer::Fixed { name, lipschitz } if name == "flatten" && *lipschitz == 1. => {}
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

/// The first layer with the diagonals next to it folded in, and the layers that are left.
fn fold_first(layers: &[Layer]) -> Result<(Layer, &[Layer]), AuditError> {
    let (mut layer, mut rest) = (layers[0].clone(), &layers[1..]);
    loop {
        // A diagonal acts on channels, so flattening after it repeats each entry.
        let (next, skipped) = match (&layer, rest) {
            (Layer::Diagonal { .. }, [Layer::Fixed { name, lipschitz }, next @ Layer::Linear { .. }, ..])
                if name == "flatten" && *lipschitz == 1. =>
            {
                (next, 2)
            }
            // A linear layer may act on another axis than the channels.
            (Layer::Diagonal { .. }, [Layer::Linear { .. }, ..]) | (_, []) => return Ok((layer, rest)),
            (_, [next, ..]) => (next, 1),
        };
        let Some(folded) = fold(&layer, next)? else { return Ok((layer, rest)) };
        (layer, rest) = (folded, &rest[skipped..]);
    }
}

/// `second` after `first` as one layer, if one of them is a diagonal that fits the other.
fn fold(first: &Layer, second: &Layer) -> Result<Option<Layer>, AuditError> {
    // Along the outputs (axis 0 of the weights) for a diagonal that comes second, along the inputs (1) else.
    let (diagonal, scale, other, axis) = match (first, second) {
        (_, Layer::Diagonal { name, scale }) => (name, scale, first, 0),
        (Layer::Diagonal { name, scale }, _) => (name, scale, second, 1),
        _ => return Ok(None),
    };
    let scaled = |name: &String, weight: &Tensor| -> Result<Option<(String, Tensor)>, AuditError> {
        let (Ok(size), Ok(channels)) = (weight.dim(axis), scale.dims1()) else { return Ok(None) };
        let linear = weight.rank() == 2 && axis == 1;
        if channels == 0 || !(size == channels || (linear && size % channels == 0)) {
            return Ok(None);
        }
        let repeat = |s: Tensor| s.unsqueeze(1)?.repeat((1, size / channels))?.flatten_all();
        let mut shape = vec![1; weight.rank()];
        shape[axis] = size;
        let scale = repeat(exact(diagonal, scale)?).and_then(|s| s.reshape(shape)).map_err(tensor(diagonal))?;
        let weight = exact(name, weight)?.broadcast_mul(&scale).map_err(tensor(name))?;
        Ok(Some((format!("{name} * {diagonal}"), weight)))
    };
    Ok(match other {
        Layer::Linear { name, weight } => scaled(name, weight)?.map(|(name, weight)| Layer::Linear { name, weight }),
        Layer::Conv2d { name, kernel, stride, padding } => scaled(name, kernel)?.map(|(name, kernel)| Layer::Conv2d {
            name,
            kernel,
            stride: *stride,
            padding: *padding,
        }),
        _ => None,
    })
}

/// `I + branch` as one layer, where the branch is one linear map that keeps the shape.
fn with_identity(branch: &[Layer]) -> Result<Option<Layer>, AuditError> {
    if branch.is_empty() {
        return Ok(None);
    }
    let (layer, rest) = fold_first(branch)?;
    if !rest.is_empty() {
        return Ok(None);
    }
    let eye = |n: usize| Tensor::eye(n, DType::F64, &Device::Cpu);
    Ok(match layer {
        Layer::Linear { name, weight } => match weight.dims() {
            [out, inp] if out == inp && *out > 0 => {
                let weight = eye(*out).and_then(|i| exact_sum(&weight, i)).map_err(tensor(&name))?;
                Some(Layer::Linear { name, weight })
            }
            _ => None,
        },
        Layer::Conv2d { name, kernel, stride: 1, padding } => match *kernel.dims() {
            [out, inp, h, w] if out == inp && out > 0 && h == 2 * padding + 1 && w == h => {
                let tap = eye(out).and_then(|i| {
                    let tap = i.reshape((out, out, 1, 1))?;
                    exact_sum(&kernel, tap.pad_with_zeros(2, padding, padding)?.pad_with_zeros(3, padding, padding)?)
                });
                Some(Layer::Conv2d { kernel: tap.map_err(tensor(&name))?, name, stride: 1, padding })
            }
            _ => None,
        },
        _ => None,
    })
}

/// The sum in `f64`: each entry rounds once, which the few ulps added to every bound cover.
fn exact_sum(weight: &Tensor, identity: Tensor) -> candle_core::Result<Tensor> {
    weight.to_device(&Device::Cpu)?.to_dtype(DType::F64)? + identity
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
            let exact = exact(name, kernel)?;
            let grid = conv_bound(&exact, *stride, points).map_err(tensor(name))?;
            let affordable = cost(kernel.dims(), *stride) <= ROW_SUMS_COST;
            let rows = if affordable { row_sum_bound(&exact, *stride).map_err(tensor(name))? } else { f64::INFINITY };
            let how = if rows < grid { Method::RowSums } else { Method::Grid { points } };
            Ok((name.clone(), grid.min(rows) * (1. + 4. * f64::EPSILON), how))
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
        Layer::Bounded { layer, lipschitz } => {
            let (name, found, how) = one(layer)?;
            let (_, theorem, by_theorem) = one(&Layer::Fixed { name: name.clone(), lipschitz: *lipschitz })?;
            Ok(if found < theorem { (name, found, how) } else { (name, theorem, by_theorem) })
        }
        Layer::Residual { name, branch } => {
            let sum = (name.clone(), round_up(1. + audit(branch)?.bound.value()), Method::Residual);
            let Some(whole) = with_identity(branch)? else { return Ok(sum) };
            let (_, bound, _) = one(&whole)?;
            Ok(if bound < sum.1 { (name.clone(), bound, Method::LinearResidual) } else { sum })
        }
        Layer::Sum { name, branches: [f, g] } => {
            Ok((name.clone(), round_up(audit(f)?.bound.value() + audit(g)?.bound.value()), Method::Sum))
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
