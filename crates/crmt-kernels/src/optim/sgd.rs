//! Stochastic gradient descent with momentum, as `torch.optim.SGD`.
//!
//! Knows nothing of learning-rate schedules.
use super::{Optimizer, Parameter, check, saved};
use crate::real::{PIECE, dispatch, elements, elements_mut};
use candle_core::{
    CpuStorage, InplaceOp2, InplaceOp3, Layout, Result, Tensor, WithDType, backend::BackendStorage,
    backprop::GradStore,
};
use rayon::prelude::*;

/// What `torch.optim.SGD` calls its options. With `d = g + weight_decay·p`:
/// `m ← momentum·m + d`, then `p ← p − lr·m`, or `p ← p − lr·(d + momentum·m)` with `nesterov`.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Sgd {
    /// Momentum without dampening, in [0, 1); 0 keeps no state.
    pub momentum: f64,
    /// L2 penalty added to the gradient, times the parameter's own factor.
    pub weight_decay: f64,
    /// Look ahead by one step of momentum.
    pub nesterov: bool,
}

impl Sgd {
    /// This optimizer over `parameters`, with zero momentum to start.
    pub fn over(self, parameters: impl IntoIterator<Item = Parameter>) -> Result<SgdState> {
        let parameters: Vec<_> = parameters.into_iter().collect();
        check(&parameters)?;
        let momentum = match self.momentum {
            0. => Vec::new(),
            _ => parameters
                .iter()
                .map(|p| p.var.zeros_like())
                .collect::<Result<_>>()?,
        };
        Ok(SgdState {
            config: self,
            parameters,
            momentum,
        })
    }
}

/// [`Sgd`] over some parameters. State: `{parameter}.momentum`.
pub struct SgdState {
    config: Sgd,
    parameters: Vec<Parameter>,
    momentum: Vec<Tensor>,
}

#[cfg(feature = "cuda")]
impl SgdState {
    fn step_on_cuda(&self, gradients: &GradStore, lr: f64, scale: f64) -> Result<()> {
        let Sgd {
            momentum,
            weight_decay,
            nesterov,
        } = self.config;
        let mut updates = vec![];
        for (i, p) in self.parameters.iter().enumerate() {
            let Some(gradient) = gradients.get(&p.var) else {
                continue;
            };
            updates.push(crate::cuda::Update {
                parameter: &p.var,
                gradient: gradient.contiguous()?,
                first: self.momentum.get(i),
                second: None,
                decay: weight_decay * p.decay,
                shrink: 1.,
                rate: lr,
                root: 1.,
            });
        }
        let momentum = (!self.momentum.is_empty()).then_some(momentum);
        crate::cuda::update(
            &updates,
            crate::cuda::Rule::Sgd {
                lr,
                scale,
                momentum,
                nesterov,
            },
        )
    }
}

impl Optimizer for SgdState {
    fn step_scaled(&mut self, gradients: &GradStore, lr: f64, scale: f64) -> Result<()> {
        #[cfg(feature = "cuda")]
        if super::on_cuda(&self.parameters) {
            return self.step_on_cuda(gradients, lr, scale);
        }
        for (i, p) in self.parameters.iter().enumerate() {
            let Some(g) = gradients.get(&p.var) else {
                continue;
            };
            let g = g.contiguous()?;
            let decay = self.config.weight_decay * p.decay;
            let Some(m) = self.momentum.get(i) else {
                p.var.inplace_op2(&g, &Descend { lr, scale, decay })?;
                continue;
            };
            m.inplace_op3(
                &g,
                &p.var,
                &Accumulate {
                    momentum: self.config.momentum,
                    scale,
                    decay,
                },
            )?;
            if self.config.nesterov {
                p.var.inplace_op3(
                    &g,
                    m,
                    &Nesterov {
                        lr,
                        momentum: self.config.momentum,
                        scale,
                        decay,
                    },
                )?;
            } else {
                p.var.inplace_op2(
                    m,
                    &Descend {
                        lr,
                        scale: 1.,
                        decay: 0.,
                    },
                )?;
            }
        }
        Ok(())
    }

    fn parameters(&self) -> &[Parameter] {
        &self.parameters
    }

    fn state(&self) -> Result<Vec<(String, Tensor)>> {
        let named = self.parameters.iter().zip(&self.momentum);
        named
            .map(|(p, m)| Ok((format!("{}.momentum", p.name), m.copy()?)))
            .collect()
    }

    fn restore(&mut self, get: &dyn Fn(&str) -> Option<Tensor>) -> Result<()> {
        let named = self.parameters.iter().zip(&self.momentum);
        self.momentum = named
            .map(|(p, m)| saved(get, &format!("{}.momentum", p.name), m))
            .collect::<Result<Vec<_>>>()?;
        Ok(())
    }
}

/// `p ← p − lr·(scale·g + decay·p)`.
struct Descend {
    lr: f64,
    scale: f64,
    decay: f64,
}

impl InplaceOp2 for Descend {
    fn name(&self) -> &'static str {
        "sgd-descend"
    }

    fn cpu_fwd(
        &self,
        p: &mut CpuStorage,
        p_layout: &Layout,
        g: &CpuStorage,
        g_layout: &Layout,
    ) -> Result<()> {
        dispatch!("sgd", p.dtype(), T => {
            let [lr, scale, decay] = [self.lr, self.scale, self.decay].map(T::from_f64);
            let (p, g) = (elements_mut::<T>(p, p_layout)?, elements::<T>(g, g_layout)?);
            p.par_chunks_mut(PIECE).zip(g.par_chunks(PIECE)).for_each(|(p, g)| {
                for (p, &g) in p.iter_mut().zip(g) {
                    *p -= lr * (scale * g + decay * *p);
                }
            });
            Ok(())
        })
    }
}

/// `m ← momentum·m + scale·g + decay·p`.
struct Accumulate {
    momentum: f64,
    scale: f64,
    decay: f64,
}

impl InplaceOp3 for Accumulate {
    fn name(&self) -> &'static str {
        "sgd-accumulate"
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
        dispatch!("sgd", m.dtype(), T => {
            let [momentum, scale, decay] = [self.momentum, self.scale, self.decay].map(T::from_f64);
            let m = elements_mut::<T>(m, m_layout)?;
            let (g, p) = (elements::<T>(g, g_layout)?, elements::<T>(p, p_layout)?);
            m.par_chunks_mut(PIECE).zip(g.par_chunks(PIECE)).zip(p.par_chunks(PIECE)).for_each(|((m, g), p)| {
                for ((m, &g), &p) in m.iter_mut().zip(g).zip(p) {
                    *m = momentum * *m + (scale * g + decay * p);
                }
            });
            Ok(())
        })
    }
}

/// `p ← p − lr·(scale·g + decay·p + momentum·m)`.
struct Nesterov {
    lr: f64,
    momentum: f64,
    scale: f64,
    decay: f64,
}

impl InplaceOp3 for Nesterov {
    fn name(&self) -> &'static str {
        "sgd-nesterov"
    }

    fn cpu_fwd(
        &self,
        p: &mut CpuStorage,
        p_layout: &Layout,
        g: &CpuStorage,
        g_layout: &Layout,
        m: &CpuStorage,
        m_layout: &Layout,
    ) -> Result<()> {
        dispatch!("sgd", p.dtype(), T => {
            let [lr, momentum, scale, decay] = [self.lr, self.momentum, self.scale, self.decay].map(T::from_f64);
            let p = elements_mut::<T>(p, p_layout)?;
            let (g, m) = (elements::<T>(g, g_layout)?, elements::<T>(m, m_layout)?);
            p.par_chunks_mut(PIECE).zip(g.par_chunks(PIECE)).zip(m.par_chunks(PIECE)).for_each(|((p, g), m)| {
                for ((p, &g), &m) in p.iter_mut().zip(g).zip(m) {
                    *p -= lr * (scale * g + decay * *p + momentum * m);
                }
            });
            Ok(())
        })
    }
}
