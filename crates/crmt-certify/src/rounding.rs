//! How far the numbers that a program computes are from those of real arithmetic, as a function of
//! the input's length. Does not know classes or margins.
//!
//! With `u` the unit roundoff, a sum of `n` products is off by at most `gamma_n sum |w_i x_i|`, in
//! whichever order it is added up (fused or not), `gamma_n = n u / (1 - n u)`. So a linear layer is
//! off by at most `gamma_n | |W| |_2 |x|` in l2 norm, and a chain of layers with constants `L_l` by
//! `E_{l+1} = L_l E_l + local_l(|z_l| + E_l)`, where the length of what goes in is bounded by
//! `|z_{l+1}| <= L_l |z_l| + |f_l(0)|`. All of this is affine in the length of the chain's input,
//! and holds for every input: also for what an attack makes of it.
use crate::{AuditError, Program, numbers::gamma_of};
use candle_core::{DType, Device, Tensor};
use crmt_core::Layer;

/// `slope |x| + offset`, both at least 0.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Affine {
    pub slope: f64,
    pub offset: f64,
}

impl Affine {
    const ZERO: Self = Self {
        slope: 0.,
        offset: 0.,
    };

    fn new(slope: f64, offset: f64) -> Self {
        Self { slope, offset }
    }

    fn plus(self, other: Self) -> Self {
        Self::new(self.slope + other.slope, self.offset + other.offset)
    }

    /// Times a factor; 0 times what is unknown is 0.
    fn times(self, factor: f64) -> Self {
        let product = |a: f64| {
            if a == 0. || factor == 0. {
                0.
            } else {
                a * factor
            }
        };
        Self::new(product(self.slope), product(self.offset))
    }

    /// `self(inner(x))`.
    fn after(self, inner: Self) -> Self {
        inner.times(self.slope).plus(Self::new(0., self.offset))
    }
}

/// Covers the rounding of a recursion of a few operations per layer.
const UP: f64 = 1. + 1e-9;
/// Positions at which a layer may be applied, more than any machine holds: for what underflows.
const POSITIONS: f64 = 1e12;
/// Roundings beyond the products and sums of a layer: of a bias, of scales that are divided and
/// folded.
const SPARE: usize = 8;

/// One layer, or a chain of them, in one program.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Drift {
    /// Lipschitz constant.
    pub lipschitz: f64,
    /// At least the length of the output in real arithmetic.
    pub size: Affine,
    /// At least the distance of the computed output from that of real arithmetic.
    pub error: Affine,
}

impl Drift {
    /// The identity.
    pub const NONE: Self = Self {
        lipschitz: 1.,
        size: Affine {
            slope: 1.,
            offset: 0.,
        },
        error: Affine::ZERO,
    };

    fn layer(lipschitz: f64, at_zero: f64, error: Affine) -> Self {
        Self {
            lipschitz,
            size: Affine::new(lipschitz, at_zero),
            error,
        }
    }

    /// `next` after this.
    pub fn then(self, next: Self) -> Self {
        let seen = self.size.plus(self.error);
        let size = self
            .size
            .times(next.lipschitz)
            .plus(Affine::new(0., next.size.offset));
        let error = self
            .error
            .times(next.lipschitz)
            .plus(next.error.after(seen));
        Self {
            lipschitz: self.lipschitz * next.lipschitz * UP,
            size: size.times(UP),
            error: error.times(UP),
        }
    }

    /// The same with another bound of the Lipschitz constant.
    pub fn with_lipschitz(self, lipschitz: f64) -> Self {
        Self {
            lipschitz,
            size: Affine::new(lipschitz, self.size.offset),
            ..self
        }
    }

    /// The sum of what two maps make of one input.
    fn sum(self, other: Self, u: f64) -> Self {
        let computed = self
            .size
            .plus(self.error)
            .plus(other.size)
            .plus(other.error);
        Self {
            lipschitz: (self.lipschitz + other.lipschitz) * UP,
            size: self.size.plus(other.size).times(UP),
            error: self
                .error
                .plus(other.error)
                .plus(computed.times(gamma_of(2, u)))
                .times(UP),
        }
    }

    /// Whether anything is known.
    pub fn is_finite(&self) -> bool {
        [
            self.size.slope,
            self.size.offset,
            self.error.slope,
            self.error.offset,
        ]
        .iter()
        .all(|v| v.is_finite())
    }
}

/// Fixed operations that round nothing and keep zeros, by the names they usually go by.
const EXACT: [&str; 7] = [
    "relu",
    "leaky-relu",
    "max-min",
    "group-sort",
    "abs",
    "flatten",
    "identity",
];

/// What the layers of a chain do, one after another; `None`: a layer does not say what it rounds.
///
/// Lipschitz constants are rough here: a caller that knows better ones says so
/// ([`Drift::with_lipschitz`]).
pub(crate) fn drift(layers: &[Layer], program: Program) -> Result<Option<Drift>, AuditError> {
    let mut all = Drift::NONE;
    // A bias may be added first, and then takes part in every sum after it.
    let mut terms = 0;
    for layer in layers {
        if let Layer::Shift { norm, .. } = layer {
            let error = Affine::new(
                gamma_of(SPARE, program.unit()),
                gamma_of(terms + SPARE, program.unit()) * norm,
            );
            all = all.then(Drift::layer(1., *norm, error));
            continue;
        }
        let Some((next, n)) = one(layer, program)? else {
            return Ok(None);
        };
        (all, terms) = (all.then(next), n);
    }
    Ok(all.is_finite().then_some(all))
}

/// One layer, and of how many products its sums are.
fn one(layer: &Layer, program: Program) -> Result<Option<(Drift, usize)>, AuditError> {
    let u = program.unit();
    let linear = |absolute: f64, terms: usize, outputs: usize| {
        let tiny = program.smallest() * (terms * outputs) as f64 * POSITIONS;
        (
            Drift::layer(
                absolute,
                0.,
                Affine::new(gamma_of(terms + SPARE, u) * absolute * UP, tiny),
            ),
            terms,
        )
    };
    Ok(match layer {
        Layer::Linear { name, weight } => {
            let [out, inp] = *weight.dims() else {
                return Ok(None);
            };
            Some(linear(frobenius(name, &host(name, weight)?)?, inp, out))
        }
        Layer::Conv2d { name, kernel, .. } => {
            let [out, inp, height, width] = *kernel.dims() else {
                return Ok(None);
            };
            // Of a kernel without signs the symbol is greatest at frequency 0.
            let taps = host(name, kernel)?
                .abs()
                .and_then(|k| k.sum((2, 3)))
                .map_err(tensor(name))?;
            Some(linear(frobenius(name, &taps)?, inp * height * width, out))
        }
        Layer::Diagonal { name, scale } => {
            let values = host(name, scale)?
                .flatten_all()
                .and_then(|s| s.to_vec1::<f64>())
                .map_err(tensor(name))?;
            Some(linear(
                crate::numbers::greatest(values.iter().map(|v| v.abs())),
                1,
                values.len(),
            ))
        }
        Layer::Exact { lipschitz, .. } => Some((Drift::layer(*lipschitz, 0., Affine::ZERO), 0)),
        Layer::Flatten => Some((Drift::NONE, 0)),
        Layer::Fixed { name, lipschitz } if EXACT.contains(&name.as_str()) => {
            Some((Drift::layer(*lipschitz, 0., Affine::ZERO), 0))
        }
        Layer::Rounded {
            layer,
            relative,
            absolute,
            at_zero,
        } => {
            let lipschitz = match &**layer {
                Layer::Fixed { lipschitz, .. }
                | Layer::Exact { lipschitz, .. }
                | Layer::Bounded { lipschitz, .. } => *lipschitz,
                other => match one(other, program)? {
                    Some((drift, _)) => drift.lipschitz,
                    None => return Ok(None),
                },
            };
            let tiny = program.smallest() * POSITIONS;
            let error = Affine::new(u * relative * UP, (u * absolute).mul_add(UP, tiny));
            Some((Drift::layer(lipschitz, *at_zero, error), 0))
        }
        Layer::Bounded { layer, lipschitz } => {
            let of = |(drift, terms): (Drift, usize)| {
                (drift.with_lipschitz(drift.lipschitz.min(*lipschitz)), terms)
            };
            one(layer, program)?.map(of)
        }
        Layer::Residual { branch, .. } => {
            drift(branch, program)?.map(|branch| (Drift::NONE.sum(branch, u), 0))
        }
        Layer::Sum {
            branches: [f, g], ..
        } => match (drift(f, program)?, drift(g, program)?) {
            (Some(f), Some(g)) => Some((f.sum(g, u), 0)),
            _ => None,
        },
        _ => None,
    })
}

fn frobenius(layer: &str, t: &Tensor) -> Result<f64, AuditError> {
    let values = t
        .flatten_all()
        .and_then(|t| t.to_vec1::<f64>())
        .map_err(tensor(layer))?;
    Ok(crate::numbers::norm_up(values.iter().copied()))
}

fn host(layer: &str, t: &Tensor) -> Result<Tensor, AuditError> {
    t.to_device(&Device::Cpu)
        .and_then(|t| t.to_dtype(DType::F64))
        .map_err(tensor(layer))
}

fn tensor(layer: &str) -> impl FnOnce(candle_core::Error) -> AuditError {
    move |source| AuditError::Tensor {
        layer: layer.into(),
        source,
    }
}
