//! Adam and AdamW, as `torch.optim.Adam` and `torch.optim.AdamW`.
//!
//! Knows nothing of learning-rate schedules.
use super::{Optimizer, Parameter, check, saved};
use crate::real::{PIECE, Real, dispatch, elements, elements_mut};
use candle_core::{
    CpuStorage, InplaceOp3, Layout, Result, Tensor, WithDType, backend::BackendStorage,
    backprop::GradStore,
};
use rayon::prelude::*;

/// Options of Adam. At step `t` of a parameter, with gradient `g`:
/// `m ← β₁·m + (1 − β₁)·g`, `v ← β₂·v + (1 − β₂)·g²`,
/// `p ← p − lr/(1 − β₁ᵗ) · m / (√v/√(1 − β₂ᵗ) + eps)`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AdamW {
    /// Decay of the first moment.
    pub beta1: f64,
    /// Decay of the second moment.
    pub beta2: f64,
    /// Added to the denominator.
    pub eps: f64,
    /// Weight decay, times the parameter's own factor.
    pub weight_decay: f64,
    /// `true` (AdamW): first `p ← p·(1 − lr·weight_decay)`. `false` (Adam):
    /// `g ← g + weight_decay·p`.
    pub decoupled: bool,
}

impl Default for AdamW {
    /// PyTorch's AdamW: 0.9, 0.999, 1e-8, weight decay 0.01, decoupled.
    fn default() -> Self {
        Self {
            beta1: 0.9,
            beta2: 0.999,
            eps: 1e-8,
            weight_decay: 0.01,
            decoupled: true,
        }
    }
}

impl AdamW {
    /// This optimizer over `parameters`, with zero moments to start.
    pub fn over(self, parameters: impl IntoIterator<Item = Parameter>) -> Result<Adam> {
        let parameters: Vec<_> = parameters.into_iter().collect();
        check(&parameters)?;
        let zeros = || {
            parameters
                .iter()
                .map(|p| p.var.zeros_like())
                .collect::<Result<Vec<_>>>()
        };
        let moments = zeros()?
            .into_iter()
            .zip(zeros()?)
            .map(|(first, second)| Moments {
                first,
                second,
                steps: 0,
            });
        Ok(Adam {
            config: self,
            moments: moments.collect(),
            parameters,
        })
    }
}

/// [`AdamW`] over some parameters. State: `{parameter}.exp_avg`, `{parameter}.exp_avg_sq` and
/// `{parameter}.step` (a scalar `i64`).
pub struct Adam {
    config: AdamW,
    parameters: Vec<Parameter>,
    moments: Vec<Moments>,
}

struct Moments {
    first: Tensor,
    second: Tensor,
    steps: i64,
}

#[cfg(feature = "cuda")]
impl Adam {
    fn step_on_cuda(&mut self, gradients: &GradStore, lr: f64, scale: f64) -> Result<()> {
        let AdamW {
            beta1,
            beta2,
            eps,
            weight_decay,
            decoupled,
        } = self.config;
        let mut updates = vec![];
        for (p, moments) in self.parameters.iter().zip(&mut self.moments) {
            let Some(gradient) = gradients.get(&p.var) else {
                continue;
            };
            moments.steps += 1;
            let correction = |beta: f64| 1. - beta.powf(moments.steps as f64);
            let decay = weight_decay * p.decay;
            let (shrink, decay) = if decoupled {
                (1. - lr * decay, 0.)
            } else {
                (1., decay)
            };
            updates.push(crate::cuda::Update {
                parameter: &p.var,
                gradient: gradient.contiguous()?,
                first: Some(&moments.first),
                second: Some(&moments.second),
                decay,
                shrink,
                rate: lr / correction(beta1),
                root: correction(beta2).sqrt(),
            });
        }
        crate::cuda::update(
            &updates,
            crate::cuda::Rule::Adam {
                scale,
                beta1,
                beta2,
                eps,
            },
        )
    }
}

impl Optimizer for Adam {
    fn step_scaled(&mut self, gradients: &GradStore, lr: f64, scale: f64) -> Result<()> {
        #[cfg(feature = "cuda")]
        if super::on_cuda(&self.parameters) {
            return self.step_on_cuda(gradients, lr, scale);
        }
        let AdamW {
            beta1,
            beta2,
            eps,
            weight_decay,
            decoupled,
        } = self.config;
        for (p, moments) in self.parameters.iter().zip(&mut self.moments) {
            let Some(g) = gradients.get(&p.var) else {
                continue;
            };
            let g = g.contiguous()?;
            let decay = weight_decay * p.decay;
            let (shrink, decay) = if decoupled {
                (1. - lr * decay, 0.)
            } else {
                (1., decay)
            };
            moments.first.inplace_op3(
                &g,
                &p.var,
                &Moment {
                    beta: beta1,
                    scale,
                    decay,
                    square: false,
                },
            )?;
            moments.second.inplace_op3(
                &g,
                &p.var,
                &Moment {
                    beta: beta2,
                    scale,
                    decay,
                    square: true,
                },
            )?;
            moments.steps += 1;
            let correction = |beta: f64| 1. - beta.powf(moments.steps as f64);
            let rate = lr / correction(beta1);
            let op = Descend {
                rate,
                shrink,
                eps,
                root: correction(beta2).sqrt(),
            };
            p.var.inplace_op3(&moments.first, &moments.second, &op)?;
        }
        Ok(())
    }

    fn parameters(&self) -> &[Parameter] {
        &self.parameters
    }

    fn state(&self) -> Result<Vec<(String, Tensor)>> {
        let mut state = Vec::with_capacity(3 * self.parameters.len());
        for (p, m) in self.parameters.iter().zip(&self.moments) {
            state.push((format!("{}.exp_avg", p.name), m.first.copy()?));
            state.push((format!("{}.exp_avg_sq", p.name), m.second.copy()?));
            state.push((
                format!("{}.step", p.name),
                Tensor::new(m.steps, p.var.device())?,
            ));
        }
        Ok(state)
    }

    fn restore(&mut self, get: &dyn Fn(&str) -> Option<Tensor>) -> Result<()> {
        let named = self.parameters.iter().zip(&self.moments);
        let moments = named.map(|(p, m)| {
            Ok(Moments {
                first: saved(get, &format!("{}.exp_avg", p.name), &m.first)?,
                second: saved(get, &format!("{}.exp_avg_sq", p.name), &m.second)?,
                steps: saved(
                    get,
                    &format!("{}.step", p.name),
                    &Tensor::new(0i64, p.var.device())?,
                )?
                .to_scalar()?,
            })
        });
        self.moments = moments.collect::<Result<_>>()?;
        Ok(())
    }
}

/// `m ← m + (1 − β)·(d − m)`, or `m ← β·m + (1 − β)·d²`, with `d = scale·g + decay·p`.
struct Moment {
    beta: f64,
    scale: f64,
    decay: f64,
    square: bool,
}

impl InplaceOp3 for Moment {
    fn name(&self) -> &'static str {
        "adam-moment"
    }

    fn cpu_fwd(
        &self,
        m: &mut CpuStorage,
        m_layout: &Layout,
        g: &CpuStorage,
        g_layout: &Layout,
        p: &CpuStorage,
        p_layout: &Layout,
    ) -> Result<()> {
        dispatch!("adam", m.dtype(), T => {
            let [beta, rest, scale, decay] = [self.beta, 1. - self.beta, self.scale, self.decay].map(T::from_f64);
            let m = elements_mut::<T>(m, m_layout)?;
            let (g, p) = (elements::<T>(g, g_layout)?, elements::<T>(p, p_layout)?);
            m.par_chunks_mut(PIECE).zip(g.par_chunks(PIECE)).zip(p.par_chunks(PIECE)).for_each(|((m, g), p)| {
                for ((m, &g), &p) in m.iter_mut().zip(g).zip(p) {
                    let d = scale * g + decay * p;
                    *m = if self.square { beta * *m + rest * d * d } else { *m + rest * (d - *m) };
                }
            });
            Ok(())
        })
    }
}

/// `p ← shrink·p − rate·m / (√v/root + eps)`.
struct Descend {
    rate: f64,
    shrink: f64,
    eps: f64,
    root: f64,
}

impl InplaceOp3 for Descend {
    fn name(&self) -> &'static str {
        "adam-descend"
    }

    fn cpu_fwd(
        &self,
        p: &mut CpuStorage,
        p_layout: &Layout,
        m: &CpuStorage,
        m_layout: &Layout,
        v: &CpuStorage,
        v_layout: &Layout,
    ) -> Result<()> {
        dispatch!("adam", p.dtype(), T => {
            let [rate, shrink, eps, root] = [self.rate, self.shrink, self.eps, self.root].map(T::from_f64);
            let p = elements_mut::<T>(p, p_layout)?;
            let (m, v) = (elements::<T>(m, m_layout)?, elements::<T>(v, v_layout)?);
            p.par_chunks_mut(PIECE).zip(m.par_chunks(PIECE)).zip(v.par_chunks(PIECE)).for_each(|((p, m), v)| {
                for ((p, &m), &v) in p.iter_mut().zip(m).zip(v) {
                    *p = shrink * *p - rate * m / (Real::sqrt(v) / root + eps);
                }
            });
            Ok(())
        })
    }
}
