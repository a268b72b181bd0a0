//! Heads: per-modality class directions, integration weights and one bias.
//! Does not know how features were computed.
use candle_core::{D, Result as TensorResult, Tensor, Var};
use candle_nn::{Init, VarBuilder};
use crmt_core::{AdditiveScores, Fusion, Integration, PerModality, Result};
use crmt_kernels::orthonormal_rows;
use serde::{Deserialize, Serialize};

/// Newton–Schulz steps: enough for a condition number of about 1000 in the raw rows.
const POLAR_STEPS: usize = 14;

/// Which head to build.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum HeadConfig {
    /// `h = Σ_m W(m) φ(m) + b`: joint training on concatenated features.
    Concat,
    /// `h = Σ_m a(m) ∘ W̃(m) φ(m) + b` with constrained rows and learned weights.
    Orthonormal {
        /// The constraint on the rows.
        rows: Rows,
        /// Every `a_k(m)` before training.
        initial_weight: f64,
    },
}

/// What the rows of each `W̃(m)` satisfy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Rows {
    /// `W̃ W̃ᵀ = I`: the polar factor of the raw rows, by Newton–Schulz iteration.
    Orthonormal,
    /// The released code's rule: each row is centred and scaled to unit norm. Rows are *not*
    /// orthogonal, and blind to a constant shift of all features.
    Unit,
}

impl Rows {
    /// The constrained rows of `raw`, both `[classes, features]`; differentiable.
    pub fn constrain(self, raw: &Tensor) -> TensorResult<Tensor> {
        match self {
            Self::Orthonormal => orthonormal_rows(raw, POLAR_STEPS),
            Self::Unit => {
                let centred = raw.broadcast_sub(&raw.mean_keepdim(D::Minus1)?)?;
                centred.broadcast_div(&centred.sqr()?.sum_keepdim(D::Minus1)?.sqrt()?)
            }
        }
    }
}

/// A head with its parameters.
#[derive(Debug)]
pub struct Head {
    /// `[classes, dim_m]`, before the constraint.
    raw: PerModality<Tensor>,
    /// `None`: the rows are free.
    constraint: Option<Rows>,
    /// `a(m)`, `[classes]`; all ones where the head has none.
    weights: PerModality<Tensor>,
    /// `b`, `[classes]`.
    bias: Tensor,
}

impl Head {
    /// A head for features of dimensions `dims`; modality `m`'s parameters are `{name}.weight` and
    /// `{name}.a` with the modality's name.
    pub fn new(
        config: &HeadConfig,
        names: &PerModality<&str>,
        dims: &PerModality<usize>,
        classes: usize,
        vb: VarBuilder,
    ) -> TensorResult<Self> {
        let bound = 1.0 / (dims.iter().sum::<usize>() as f64).sqrt();
        let init = Init::Uniform { lo: -bound, up: bound };
        let raw =
            dims.try_enumerate(|m, dim| vb.pp(names[m]).get_with_hints((classes, *dim), "weight", init))?;
        let bias = vb.get_with_hints(classes, "bias", Init::Const(0.0))?;
        let (constraint, weights) = match config {
            HeadConfig::Concat => (None, dims.try_map(|_| Tensor::ones(classes, vb.dtype(), vb.device()))?),
            HeadConfig::Orthonormal { rows, initial_weight } => {
                let start = Init::Const(*initial_weight);
                (Some(*rows), names.try_map(|name| vb.pp(name).get_with_hints(classes, "a", start))?)
            }
        };
        Ok(Self { raw, constraint, weights, bias })
    }

    /// Integration weights `a(m)`, each `[classes]`.
    pub fn weights(&self) -> &PerModality<Tensor> {
        &self.weights
    }

    /// The variables behind `a` and `b`; `None` where the head has no integration weights or is
    /// frozen.
    pub fn integration(&self) -> Option<Integration> {
        let learned = self.constraint.is_some() && self.bias.is_variable();
        let var = |t: &Tensor| Var::from_tensor(t).ok();
        let weights = learned.then(|| self.weights.try_map(|a| var(a).ok_or(())).ok()).flatten()?;
        Some(Integration { weights, bias: var(&self.bias)? })
    }

    /// Bias `b`, `[classes]`.
    pub fn bias(&self) -> &Tensor {
        &self.bias
    }
}

impl Fusion for Head {
    fn fuse(&self, features: &PerModality<Tensor>) -> Result<AdditiveScores> {
        let rows = self.rows()?;
        let unimodal = features.zip(&rows, "head rows")?.try_map(|(x, w)| x.matmul(&w.t()?))?;
        Ok(AdditiveScores { unimodal, weights: self.weights.clone(), bias: self.bias.clone() })
    }

    fn rows(&self) -> Result<PerModality<Tensor>> {
        match self.constraint {
            None => Ok(self.raw.clone()),
            Some(rows) => Ok(self.raw.try_map(|raw| rows.constrain(raw))?),
        }
    }
}
