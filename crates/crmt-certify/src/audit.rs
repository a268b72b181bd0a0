//! The audit: an upper bound of an encoder's l2 Lipschitz constant, layer by layer, from its
//! declared chain; and how far the program that computes the chain is from real arithmetic. Does
//! not know how the encoder computes; a certificate is as true as the declaration.
//!
//! | layer | bound |
//! |---|---|
//! | linear | verified Gram iteration (T13) or `sqrt(1 + |W W^T - I|_F)` (T12b), the lesser |
//! | convolution | Gram iteration on a frequency grid (T12, T13) or row sums of the absolute Gram matrix, the lesser; any input size, zero padding, stride |
//! | diagonal | largest absolute entry; tighter: folded into a neighbouring linear layer or convolution |
//! | exact, fixed | its theorem ([`rule`](crate::rule)) |
//! | bounded | its theorem, or the bound of what it computes, the lesser |
//! | residual | 1 + the branch; for a linear branch, `I + branch` as one matrix or kernel, the lesser |
//! | flatten, shift | 1 |
//! | unbounded | refused, by name |
//!
//! Layers whose sizes can't follow one another are refused, too: one was forgotten, or is declared
//! for another axis.
use crate::{
    AuditError, Program, SoundBound,
    conv::conv_bound,
    exact::{exact, tensor},
    fold::{fold_first, with_identity},
    gram::both_bounds,
    layout::{Layout, is_flatten},
    numbers::{Product, greatest, plus_up},
    rounding::{Drift, drift},
    row_sum_bound,
    row_sums::cost,
};
use candle_core::Tensor;
use crmt_core::Layer;
use std::fmt;

/// Multiplications beyond which row sums are left out (256 channels of 3 x 3 need fewer): seconds,
/// and the grid's bound holds without.
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
    /// In `f64` and in `f32`.
    drifts: [Option<Drift>; 2],
}

/// `phi = A psi`: what last-layer absorption needs.
#[derive(Debug, Clone)]
pub(crate) struct LastLinear {
    /// `A`, `[out, in]`, `f64`.
    pub weight: Tensor,
    /// Bound of `psi`.
    pub prefix: f64,
    /// Whether somebody vouches that a square `A` is not stored `[in, out]`.
    pub vouched: bool,
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

    /// Vouches that the last linear layer's weights are stored `[out, in]`, as [`Layer::Linear`]
    /// asks. Of a square matrix nothing else can tell; without this word, constants are the greater
    /// of both readings.
    pub fn out_in(mut self) -> Self {
        self.last.iter_mut().for_each(|last| last.vouched = true);
        self
    }

    pub(crate) fn last_linear(&self) -> Option<&LastLinear> {
        self.last.as_ref()
    }

    /// How far `program` is from real arithmetic; `None`: a layer does not say what it rounds.
    pub(crate) fn drift(&self, program: Program) -> Option<Drift> {
        match program {
            Program::Real => Some(Drift::NONE),
            Program::F64 => self.drifts[0],
            Program::F32 => self.drifts[1],
        }
    }
}

impl fmt::Display for Audit {
    /// A table, one layer a line, and the product.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width = self
            .rows
            .iter()
            .map(|r| r.name.chars().count())
            .max()
            .unwrap_or(0)
            .max(7);
        for AuditRow { name, bound, how } in &self.rows {
            writeln!(f, "{name:width$}  {bound:<12.6}  {how}")?;
        }
        write!(f, "{:width$}  {:.6}", "product", self.bound.value())
    }
}

/// Bounds the composition of `layers`, in order of application.
///
/// # Errors
/// [`AuditError`] names the layer that has no bound, is not finite, has no valid shape, or can't
/// follow the one before it. A chain without layers is refused: an encoder that computes nothing
/// declares [`Layer::Exact`] with the constant 1.
pub fn audit(layers: &[Layer]) -> Result<Audit, AuditError> {
    if layers.is_empty() {
        return Err(AuditError::Empty);
    }
    chain(layers, Layout::Unknown)
}

/// [`audit`] of layers whose input is laid out like this; none are the identity.
fn chain(layers: &[Layer], from: Layout) -> Result<Audit, AuditError> {
    // Biases take part in rounding only.
    let moving: Vec<usize> = (0..layers.len())
        .filter(|i| !matches!(layers[*i], Layer::Shift { .. }))
        .collect();
    let bare: Vec<Layer> = moving.iter().map(|i| layers[*i].clone()).collect();
    let mut audit = Audit {
        rows: vec![],
        bound: SoundBound::new(1.).expect("finite"),
        last: None,
        drifts: [Some(Drift::NONE); 2],
    };
    let (mut product, mut layout) = (Product::ONE, from);
    let (mut at, mut begin) = (0, 0);
    while at < bare.len() {
        let (layer, used) = fold_first(&bare[at..], layout)?;
        let (name, bound, how) = one(&layer, layout)?;
        let bound = finite(&name, "its bound", bound)?;
        for layer in &bare[at..at + used] {
            layout = layout.after(layer)?;
        }
        at += used;
        let end = if at < bare.len() {
            moving[at]
        } else {
            layers.len()
        };
        for (drifted, program) in audit.drifts.iter_mut().zip([Program::F64, Program::F32]) {
            let next = drift(&layers[begin..end], program)?.map(|next| next.with_lipschitz(bound));
            *drifted = drifted.zip(next).map(|(before, next)| before.then(next));
        }
        begin = end;
        match &layer {
            Layer::Linear { name, weight } => {
                let weight = exact(name, weight)?;
                audit.last = Some(LastLinear {
                    weight,
                    prefix: product.value(),
                    vouched: false,
                });
            }
            // After a linear layer features are `[batch, d]`, which flattening leaves as they are.
            layer if is_flatten(layer) => {}
            _ => audit.last = None,
        }
        product = product.times(bound);
        audit.rows.push(AuditRow { name, bound, how });
    }
    audit.bound = SoundBound::new(product.value()).map_err(|_| AuditError::NotFinite {
        layer: "all".into(),
        what: "the product of bounds",
        value: product.value(),
    })?;
    Ok(audit)
}

/// Name, bound and method of one layer.
fn one(layer: &Layer, layout: Layout) -> Result<(String, f64, Method), AuditError> {
    match layer {
        Layer::Linear { name, weight } => {
            shape(name, weight, 2, "a weight [out, in] with elements")?;
            let (gram, orthonormal) = both_bounds(&exact(name, weight)?).map_err(tensor(name))?;
            let how = if orthonormal < gram {
                Method::NearOrthonormal
            } else {
                Method::Gram
            };
            let rank = weight.dims().iter().copied().min().unwrap_or(0);
            Ok((name.clone(), folded(gram.min(orthonormal), rank), how))
        }
        Layer::Conv2d {
            name,
            kernel,
            stride,
            ..
        } => {
            shape(
                name,
                kernel,
                4,
                "a kernel [out, in, height, width] with elements",
            )?;
            if *stride == 0 {
                return Err(AuditError::Shape {
                    layer: name.clone(),
                    expected: "a stride of at least 1",
                    got: "0".into(),
                });
            }
            let channels = kernel.dims()[0].min(kernel.dims()[1] * stride * stride);
            // A finer grid is tighter (0.1 % instead of 0.5 % per axis for 3 taps) and costs little
            // when channels are few.
            let points = if channels <= 64 { 64 } else { 32 };
            let exact = exact(name, kernel)?;
            let grid = conv_bound(&exact, *stride, points).map_err(tensor(name))?;
            let affordable = cost(kernel.dims(), *stride) <= ROW_SUMS_COST;
            let rows = if affordable {
                row_sum_bound(&exact, *stride).map_err(tensor(name))?
            } else {
                f64::INFINITY
            };
            let how = if rows < grid {
                Method::RowSums
            } else {
                Method::Grid { points }
            };
            Ok((
                name.clone(),
                folded(
                    grid.min(rows),
                    kernel.elem_count() / kernel.dims()[0].max(1),
                ),
                how,
            ))
        }
        Layer::Diagonal { name, scale } => {
            let values = exact(name, scale)?
                .flatten_all()
                .and_then(|s| s.to_vec1::<f64>())
                .map_err(tensor(name))?;
            Ok((
                name.clone(),
                greatest(values.iter().map(|v| v.abs())),
                Method::LargestEntry,
            ))
        }
        Layer::Flatten => Ok(("flatten".into(), 1., Method::Theorem)),
        Layer::Fixed { name, lipschitz } | Layer::Exact { name, lipschitz } => {
            if *lipschitz < 0. {
                let got = lipschitz.to_string();
                return Err(AuditError::Shape {
                    layer: name.clone(),
                    expected: "a constant of at least 0",
                    got,
                });
            }
            Ok((
                name.clone(),
                finite(name, "its constant", *lipschitz)?,
                Method::Theorem,
            ))
        }
        Layer::Bounded { layer, lipschitz } => {
            let (name, found, how) = one(layer, layout)?;
            let fixed = Layer::Fixed {
                name: name.clone(),
                lipschitz: *lipschitz,
            };
            let (_, theorem, by_theorem) = one(&fixed, layout)?;
            Ok(if found < theorem {
                (name, found, how)
            } else {
                (name, theorem, by_theorem)
            })
        }
        Layer::Rounded { layer, .. } => one(layer, layout),
        Layer::Residual { name, branch } => {
            let sum = (
                name.clone(),
                plus_up(1., chain(branch, layout)?.bound.value()),
                Method::Residual,
            );
            let Some(whole) = with_identity(branch, layout)? else {
                return Ok(sum);
            };
            let (_, bound, _) = one(&whole, layout)?;
            Ok(if bound < sum.1 {
                (name.clone(), bound, Method::LinearResidual)
            } else {
                sum
            })
        }
        Layer::Sum {
            name,
            branches: [f, g],
        } => {
            let sum = plus_up(
                chain(f, layout)?.bound.value(),
                chain(g, layout)?.bound.value(),
            );
            Ok((name.clone(), sum, Method::Sum))
        }
        Layer::Unbounded { name, why } => Err(AuditError::Unbounded {
            layer: name.clone(),
            why: why.clone(),
        }),
        other => Err(AuditError::Unknown {
            layer: format!("{other:?}"),
        }),
    }
}

fn shape(layer: &str, t: &Tensor, rank: usize, expected: &'static str) -> Result<(), AuditError> {
    if t.rank() == rank && t.elem_count() > 0 {
        return Ok(());
    }
    Err(AuditError::Shape {
        layer: layer.into(),
        expected,
        got: format!("{:?}", t.dims()),
    })
}

fn finite(layer: &str, what: &'static str, value: f64) -> Result<f64, AuditError> {
    if value.is_finite() {
        Ok(value)
    } else {
        Err(AuditError::NotFinite {
            layer: layer.into(),
            what,
            value,
        })
    }
}

/// A bound of weights that may have been folded or added to, each entry rounded twice: off by
/// `2 u |W|_F`, which is `2 u sqrt(rank) |W|_2` at most.
fn folded(bound: f64, rank: usize) -> f64 {
    bound * (1. + (4. + (rank as f64).sqrt()) * f64::EPSILON)
}
