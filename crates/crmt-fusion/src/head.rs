//! Heads: per-modality class directions, integration weights and one bias.
//! Does not know how features were computed.
use candle_core::{D, Result as TensorResult, Tensor, Var, bail};
use candle_nn::{Init, VarBuilder};
use crmt_core::{AdditiveScores, Fusion, Integration, PerModality, Result};
use crmt_kernels::{gauged, polar_rows};
use serde::{Deserialize, Serialize};

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
    /// As [`Orthonormal`](Self::Orthonormal) with positive weights of a fixed size:
    /// `a_k(m) = softplus(raw_k(m)) / rms`, where `rms` is the root mean square of the softplus
    /// over all modalities and classes. All weights start at 1.
    ///
    /// Radii do not change when `a` and `b` are scaled together, so nothing is lost by fixing the
    /// size, and a loss in units of margins can't be lowered by growing `a`.
    Gauged {
        /// The constraint on the rows.
        rows: Rows,
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
            Self::Orthonormal => polar_rows(raw),
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
    weights: Weights,
    /// `b`, `[classes]`.
    bias: Tensor,
}

/// Where `a(m)` comes from.
#[derive(Debug)]
enum Weights {
    /// Learned as they are, or all ones where the head has none. Each `[classes]`.
    Free(PerModality<Tensor>),
    /// Positive, with root mean square 1.
    Gauged(PerModality<Tensor>),
}

impl Weights {
    /// `a(m)`, differentiable.
    fn compute(&self) -> TensorResult<PerModality<Tensor>> {
        match self {
            Self::Free(weights) => Ok(weights.clone()),
            Self::Gauged(raw) => gauge(raw),
        }
    }
}

fn gauge(raw: &PerModality<Tensor>) -> TensorResult<PerModality<Tensor>> {
    Ok(PerModality::new(gauged(raw.as_slice())?).expect("one for each modality"))
}

impl Head {
    /// A head for features of dimensions `dims`; modality `m`'s parameters are `{name}.weight` and
    /// `{name}.a` (`{name}.raw_a` where gauged) with the modality's name.
    pub fn new(
        config: &HeadConfig,
        names: &PerModality<&str>,
        dims: &PerModality<usize>,
        classes: usize,
        vb: VarBuilder,
    ) -> TensorResult<Self> {
        let bound = 1.0 / (dims.iter().sum::<usize>() as f64).sqrt();
        let init = Init::Uniform {
            lo: -bound,
            up: bound,
        };
        let raw = dims.try_enumerate(|m, dim| {
            vb.pp(names[m])
                .get_with_hints((classes, *dim), "weight", init)
        })?;
        let bias = vb.get_with_hints(classes, "bias", Init::Const(0.0))?;
        let (constraint, weights) = match config {
            HeadConfig::Concat => (
                None,
                Weights::Free(dims.try_map(|_| Tensor::ones(classes, vb.dtype(), vb.device()))?),
            ),
            HeadConfig::Orthonormal {
                rows,
                initial_weight,
            } => {
                let start = Init::Const(*initial_weight);
                let weights =
                    names.try_map(|name| vb.pp(name).get_with_hints(classes, "a", start))?;
                (Some(*rows), Weights::Free(weights))
            }
            HeadConfig::Gauged { rows } => {
                let start = Init::Const((std::f64::consts::E - 1.0).ln()); // softplus⁻¹(1)
                let raw =
                    names.try_map(|name| vb.pp(name).get_with_hints(classes, "raw_a", start))?;
                (Some(*rows), Weights::Gauged(raw))
            }
        };
        let narrow =
            (0..dims.len()).find(|m| constraint == Some(Rows::Orthonormal) && dims[*m] < classes);
        if let Some(m) = narrow {
            let (name, dim) = (names[m], dims[m]);
            bail!(
                "modality `{name}`: {classes} classes need at least as many features for orthonormal rows, the \
                 encoder has {dim}: raise `features`"
            )
        }
        Ok(Self {
            raw,
            constraint,
            weights,
            bias,
        })
    }

    /// Integration weights `a(m)`, each `[classes]`.
    pub fn weights(&self) -> TensorResult<PerModality<Tensor>> {
        self.weights.compute()
    }

    /// The variables behind `a` and `b`; `None` where the head has no integration weights or is
    /// frozen.
    pub fn integration(&self) -> Option<Integration> {
        let (weights, gauged) = match &self.weights {
            Weights::Free(weights) => (weights, false),
            Weights::Gauged(raw) => (raw, true),
        };
        let learned = self.constraint.is_some() && self.bias.is_variable();
        let var = |t: &Tensor| Var::from_tensor(t).ok();
        let weights = learned
            .then(|| weights.try_map(|a| var(a).ok_or(())).ok())
            .flatten()?;
        Some(Integration {
            weights,
            gauged,
            bias: var(&self.bias)?,
        })
    }

    /// Bias `b`, `[classes]`.
    pub fn bias(&self) -> &Tensor {
        &self.bias
    }
}

impl Fusion for Head {
    fn fuse(&self, features: &PerModality<Tensor>) -> Result<AdditiveScores> {
        let rows = self.rows()?;
        let unimodal = features
            .zip(&rows, "head rows")?
            .try_map(|(x, w)| x.matmul(&w.t()?))?;
        Ok(AdditiveScores {
            unimodal,
            weights: self.weights.compute()?,
            bias: self.bias.clone(),
        })
    }

    fn rows(&self) -> Result<PerModality<Tensor>> {
        match self.constraint {
            None => Ok(self.raw.clone()),
            Some(rows) => Ok(self.raw.try_map(|raw| rows.constrain(raw))?),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Parameters;
    use candle_core::{DType, Device};
    use crmt_core::Streams;

    fn heads(config: &HeadConfig) -> TensorResult<(Parameters, Head, Head)> {
        let parameters = Parameters::new(Streams::new(5));
        let (names, dims) = (
            PerModality::from(["image", "audio"]),
            PerModality::from([7, 5]),
        );
        let live = Head::new(
            config,
            &names,
            &dims,
            3,
            parameters.live(DType::F64, &Device::Cpu),
        )?;
        let fixed = Head::new(
            config,
            &names,
            &dims,
            3,
            parameters.frozen(DType::F64, &Device::Cpu),
        )?;
        Ok((parameters, live, fixed))
    }

    fn values(weights: &PerModality<Tensor>) -> TensorResult<Vec<f64>> {
        Ok(weights
            .iter()
            .map(Tensor::to_vec1::<f64>)
            .collect::<TensorResult<Vec<_>>>()?
            .concat())
    }

    #[test]
    fn gauged_weights_are_positive_of_size_one_and_current() -> Result<()> {
        let config = HeadConfig::Gauged {
            rows: Rows::Orthonormal,
        };
        let (parameters, live, fixed) = heads(&config)?;
        // softplus(ln(e − 1)) = 1 to rounding.
        assert!(
            values(&fixed.weights()?)?
                .iter()
                .all(|a| (a - 1.0).abs() < 1e-14)
        );
        let features = PerModality::from([
            Tensor::ones((2, 7), DType::F64, &Device::Cpu)?,
            Tensor::ones((2, 5), DType::F64, &Device::Cpu)?,
        ]);
        // Large and very negative values overflow a naive softplus.
        let moved = [[-0.4, 0.0, 900.0], [3.0, -800.0, 0.7]];
        for (name, moved) in ["image.raw_a", "audio.raw_a"].iter().zip(moved) {
            let found = parameters.variables().into_iter().find(|v| v.name == *name);
            found
                .expect(name)
                .var
                .set(&Tensor::new(&moved, &Device::Cpu)?)?;
        }
        let weights = values(&fixed.weights()?)?;
        assert!(
            weights.iter().all(|a| *a >= 0.0 && a.is_finite()),
            "{weights:?}"
        );
        let rms = (weights.iter().map(|a| a * a).sum::<f64>() / 6.0).sqrt();
        assert!(
            (rms - 1.0).abs() < 1e-14,
            "six squares and a square root round to 1e-15: {rms}"
        );
        // 900 and ln(1 + e^0.7) are in proportion.
        assert!((weights[5] / weights[2] - (1.0 + 0.7f64.exp()).ln() / 900.0).abs() < 1e-15);
        for head in [&live, &fixed] {
            assert_eq!(values(&head.fuse(&features)?.weights)?, weights);
        }
        assert!(live.integration().is_some_and(|i| i.gauged) && fixed.integration().is_none());
        Ok(())
    }

    #[test]
    fn gauged_weights_have_the_gradient_of_their_formula() -> Result<()> {
        let at = |values: [f64; 4]| -> TensorResult<(Vec<Var>, f64, Tensor)> {
            let raw = PerModality::from([
                Var::from_tensor(&Tensor::new(&values[..2], &Device::Cpu)?)?,
                Var::from_tensor(&Tensor::new(&values[2..], &Device::Cpu)?)?,
            ]);
            let a = gauge(&raw.map(|v| v.as_tensor().clone()))?;
            let factor = Tensor::new(&[0.3, -1.2], &Device::Cpu)?;
            let loss = ((&a[0] * &factor)? + (&a[1] * 0.7)?.sqr()?)?.sum_all()?;
            Ok((raw.iter().cloned().collect(), loss.to_scalar()?, loss))
        };
        // Zero is where a formula with |x| has the wrong derivative.
        let start = [0.0, -1.3, 2.0, 0.4];
        let (vars, _, loss) = at(start)?;
        let store = loss.backward()?;
        let gradient: Vec<f64> = vars
            .iter()
            .map(|v| store.get(v).expect("tracked").to_vec1::<f64>())
            .collect::<TensorResult<Vec<_>>>()?
            .concat();
        for i in 0..4 {
            let moved = |by: f64| {
                let mut values = start;
                values[i] += by;
                at(values).map(|(_, loss, _)| loss)
            };
            let quotient = (moved(1e-5)? - moved(-1e-5)?) / 2e-5;
            // Central differences: 1e-10 times a third derivative of order 1, and rounding 1e-16 /
            // 1e-5.
            assert!(
                (gradient[i] - quotient).abs() < 1e-9,
                "{i}: {} {quotient}",
                gradient[i]
            );
        }
        Ok(())
    }

    #[test]
    fn too_few_features_are_refused_by_name() {
        let config = HeadConfig::Gauged {
            rows: Rows::Orthonormal,
        };
        let parameters = Parameters::new(Streams::new(5));
        let (names, dims) = (
            PerModality::from(["image", "audio"]),
            PerModality::from([7, 2]),
        );
        let error = Head::new(
            &config,
            &names,
            &dims,
            3,
            parameters.live(DType::F64, &Device::Cpu),
        )
        .unwrap_err();
        assert!(
            error.to_string().contains("modality `audio`")
                && error.to_string().contains("features"),
            "{error}"
        );
    }
}
