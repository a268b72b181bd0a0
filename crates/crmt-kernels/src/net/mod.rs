//! A network of image layers as one operation: channels-last from the first layer to the last, with
//! convolution, bias or normalisation, sum and ReLU computed in as few passes over memory as
//! possible, and no layer's result or gradient in a tensor.
//!
//! Knows layers one after another and residual branches, and nothing of the networks they make up.
mod cache;
mod norm;
pub(crate) mod plan;
mod run;

use crate::RunningStats;
use crate::conv::Algorithms;
use crate::many::{self, Operation};
use crate::real::{Read, dispatch, elements, same_kind};
pub use cache::KernelCache;
use candle_core::{
    CpuStorage, Layout, Result, Shape, Tensor, WithDType, backend::BackendStorage, bail,
};
use plan::Plan;
use run::Tape;
use std::any::Any;
use std::sync::Mutex;

/// One layer of [`image_network`].
#[derive(Debug, Clone)]
pub enum NetworkLayer {
    /// [`conv2d`](crate::conv2d).
    Conv2d {
        /// `[out, in, kh, kw]`.
        kernel: Tensor,
        /// `[out]`.
        bias: Option<Tensor>,
        /// Both directions.
        stride: usize,
        /// Zeros on each side, both directions.
        padding: usize,
        /// Where a kernel that tracks no gradient is kept as the convolution needs it, from one
        /// call to the next.
        cache: KernelCache,
    },
    /// [`batch_norm_train`](crate::batch_norm_train), or
    /// [`batch_norm_eval`](crate::batch_norm_eval).
    BatchNorm {
        /// `[channels]`.
        gamma: Tensor,
        /// `[channels]`.
        beta: Tensor,
        /// Moved in training, used in evaluation.
        running: RunningStats,
        /// Weight of the batch in the running statistics, or `None` in evaluation.
        momentum: Option<f64>,
        /// Added to the variance.
        eps: f64,
    },
    /// [`relu`](crate::relu).
    Relu,
    /// [`max_pool2d`](crate::max_pool2d).
    MaxPool2d {
        /// Side of the window.
        kernel: usize,
        /// Both directions.
        stride: usize,
        /// Both directions.
        padding: usize,
    },
    /// `branch(x) + shortcut(x)`; an empty list is `x` itself.
    Residual {
        /// Applied to the input one after another.
        branch: Vec<NetworkLayer>,
        /// As `branch`.
        shortcut: Vec<NetworkLayer>,
    },
    /// Mean over all pixels: `[batch, channels, h, w]` to `[batch, channels, 1, 1]`.
    Mean,
}

/// The layers one after another on `x: [batch, channels, height, width]`: the values and gradients
/// of the operations they are named after, up to rounding. In `f32` convolutions may use algorithms
/// that need fewer multiplications ([`Algorithms::Fastest`]).
///
/// A gradient is computed only for what tracks one. Where nothing does, no layer's result is kept.
///
/// # Errors
/// Shapes, types or devices that do not fit, named by layer.
pub fn image_network(
    x: &Tensor,
    layers: &[NetworkLayer],
    algorithms: Algorithms,
) -> Result<Tensor> {
    let plan = plan(x, layers, algorithms)?;
    on_cuda!(x => crate::cuda::run(&plan, x));
    let parameters = plan.parameters.clone();
    let parameters: Vec<&Tensor> = parameters.iter().collect();
    let keep = x.track_op() || parameters.iter().any(|p| p.track_op());
    many::apply(
        x,
        &parameters,
        Network {
            plan,
            keep,
            tape: Mutex::new(None),
        },
    )
}

fn plan(x: &Tensor, layers: &[NetworkLayer], algorithms: Algorithms) -> Result<Plan> {
    let &[batch, channels, height, width] = x.dims() else {
        bail!(
            "image_network: expected x [batch, channels, height, width], got {:?}",
            x.dims()
        )
    };
    let plan = dispatch!("image_network", x.dtype(), T => {
        Plan::new::<T>(batch, [height, width, channels], layers, algorithms, x.track_op())?
    });
    for parameter in &plan.parameters {
        same_kind("image_network", &[("x", x), ("a parameter", parameter)])?;
    }
    Ok(plan)
}

struct Network {
    plan: Plan,
    /// Whether a backward pass may come.
    keep: bool,
    /// `Tape<T>`, from the forward pass.
    tape: Mutex<Option<Box<dyn Any + Send>>>,
}

impl Operation for Network {
    fn name(&self) -> &'static str {
        "image-network"
    }

    fn forward(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        dispatch!("image_network", x.dtype(), T => {
            let (y, tape) = run::forward::<T>(&self.plan, elements(x, layout)?, self.keep, false)?;
            if self.keep && let Ok(mut kept) = self.tape.lock() {
                *kept = Some(Box::new(tape));
            }
            Ok((T::to_cpu_storage_owned(y), self.plan.result_shape().into()))
        })
    }

    fn backward(
        &self,
        x: &Tensor,
        gradient: &Tensor,
    ) -> Result<(Option<Tensor>, Vec<Option<Tensor>>)> {
        let (xs, gs) = (Read::new(x), Read::new(gradient));
        let Ok(mut kept) = self.tape.lock() else {
            bail!("internal: a thread that held the tape panicked")
        };
        // In training there is one backward pass, which needs the memory that it has done with.
        // Should another come, the tape is made again.
        let last_time = self.plan.parameters.iter().any(Tensor::track_op);
        dispatch!("image_network", x.dtype(), T => {
            let tape = kept.take().and_then(|tape| tape.downcast::<Tape<T>>().ok());
            let mut tape = match tape {
                Some(tape) => tape,
                None => Box::new(run::forward::<T>(&self.plan, xs.elements()?, true, true)?.1),
            };
            let (dx, parameters) = run::backward(&self.plan, &mut tape, gs.elements::<T>()?, last_time)?;
            if !last_time {
                *kept = Some(tape);
            }
            let of = |(gradient, like): (Option<Vec<T>>, &Tensor)| {
                gradient.map(|gradient| Tensor::from_vec(gradient, like.shape(), like.device())).transpose()
            };
            let parameters = parameters.into_iter().zip(&self.plan.parameters).map(of).collect::<Result<_>>()?;
            Ok((of((dx, x))?, parameters))
        })
    }
}
