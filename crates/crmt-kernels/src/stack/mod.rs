//! Several image layers as one operation: a few samples at a time go through all of them while they
//! are in the cache, channels-last, and no layer's result or gradient passes through a tensor.
//!
//! Knows what the layers compute and their gradients, and nothing of why they are chosen.
mod convolution;
mod images;
mod layers;

use crate::conv::geometry::{TASKS, blocks};
use crate::real::{Kept, Read, Real, Scratch, dispatch, elements, same_kind, tensor};
use candle_core::{
    CpuStorage, CustomOp2, Layout, Result, Shape, Tensor, WithDType, backend::BackendStorage, bail,
};
use layers::Layers;
use rayon::prelude::*;
use std::any::Any;
use std::sync::OnceLock;

/// Pixels that a group of samples should have in each layer, for products to run near peak speed.
const PIXELS: usize = 256;

/// One layer of [`image_stack`].
#[derive(Debug, Clone)]
pub enum ImageLayer {
    /// [`conv2d`](crate::conv2d) of stride 1 that keeps the image's size.
    Conv2d {
        /// `[out, in, k, k]`, `k` odd.
        kernel: Tensor,
        /// `[out]`.
        bias: Tensor,
    },
    /// [`residual_conv2d`](crate::residual_conv2d).
    ResidualConv2d {
        /// `[hidden, channels, k, k]`, `k` odd.
        kernel: Tensor,
        /// `[hidden]`.
        bias: Tensor,
        /// `[hidden]`, positive.
        scale: Tensor,
    },
    /// [`max_min`](crate::max_min).
    MaxMin,
    /// [`space_to_depth`](crate::space_to_depth).
    SpaceToDepth {
        /// Side of a patch.
        block: usize,
    },
}

impl ImageLayer {
    fn parameters(&self) -> Vec<&Tensor> {
        match self {
            Self::Conv2d { kernel, bias } => vec![kernel, bias],
            Self::ResidualConv2d {
                kernel,
                bias,
                scale,
            } => vec![kernel, bias, scale],
            Self::MaxMin | Self::SpaceToDepth { .. } => vec![],
        }
    }
}

/// The layers one after another on `x: [batch, channels, height, width]`: the values and gradients
/// of the operations they are named after, up to rounding.
///
/// # Errors
/// Shapes, types or devices that do not fit.
pub fn image_stack(x: &Tensor, layers: &[ImageLayer]) -> Result<Tensor> {
    let &[batch, channels, height, width] = x.dims() else {
        bail!(
            "image_stack: expected x [batch, channels, height, width], got {:?}",
            x.dims()
        )
    };
    let plan = Layers::new([channels, height, width], layers)?;
    let parameters: Vec<&Tensor> = layers.iter().flat_map(ImageLayer::parameters).collect();
    for parameter in &parameters {
        same_kind("image_stack", &[("x", x), ("a parameter", parameter)])?;
    }
    on_cuda!(x => crate::cuda::stack(x, layers));
    let flat = parameters
        .iter()
        .map(|p| p.flatten_all())
        .collect::<Result<Vec<_>>>()?;
    let parameters = match flat.is_empty() {
        true => Tensor::zeros(0, x.dtype(), x.device())?,
        false => Tensor::cat(&flat, 0)?,
    };
    let smallest = plan
        .shapes
        .iter()
        .map(|[_, height, width]| height * width)
        .min()
        .unwrap_or(1);
    let group = PIXELS.div_ceil(smallest).min(batch.div_ceil(TASKS)).max(1);
    let keep = x.track_op() || parameters.track_op();
    x.contiguous()?.apply_op2(
        &parameters,
        ImageStack {
            plan,
            batch,
            group,
            keep,
            tapes: OnceLock::new(),
        },
    )
}

struct ImageStack {
    plan: Layers,
    batch: usize,
    /// Samples that go through the layers together.
    group: usize,
    /// Whether a backward pass may come.
    keep: bool,
    /// `Vec<Kept<T>>`, one per group.
    tapes: OnceLock<Box<dyn Any + Send + Sync>>,
}

impl CustomOp2 for ImageStack {
    fn name(&self) -> &'static str {
        "image-stack"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        lx: &Layout,
        p: &CpuStorage,
        lp: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let ([_, from @ ..], to) = (self.plan.ends(self.batch)[0], self.plan.ends(self.batch)[1]);
        dispatch!("image_stack", x.dtype(), T => {
            let (x, p) = (elements::<T>(x, lx)?, elements::<T>(p, lp)?);
            let kernels = self.plan.kernels(p);
            let (sample_in, sample_out) = (from.iter().product::<usize>(), to[1..].iter().product::<usize>());
            let mut y = vec![T::ZERO; self.batch * sample_out];
            let groups = y.par_chunks_mut(self.group * sample_out).zip(x.par_chunks(self.group * sample_in));
            let tapes: Vec<Option<Kept<T>>> = groups.map(|(y, x)| {
                let samples = y.len() / sample_out;
                let [kept_len, other_len] = self.plan.tape_and_other(samples);
                let (mut kept, mut tape, mut other) = (self.keep.then(Kept::new), Scratch::new(), Scratch::new());
                let tape = match &mut kept {
                    Some(kept) => kept.of(kept_len),
                    None => tape.of(kept_len),
                };
                self.plan.forward(samples, &kernels, p, x, y, tape, other.of(other_len));
                kept
            }).collect();
            if self.keep {
                let _first = self.tapes.set(Box::new(tapes.into_iter().flatten().collect::<Vec<_>>()));
            }
            Ok((T::to_cpu_storage_owned(y), to.to_vec().into()))
        })
    }

    fn bwd(
        &self,
        x: &Tensor,
        p: &Tensor,
        y: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let grad = grad.contiguous()?;
        let (ps, gs) = (Read::new(p), Read::new(&grad));
        let wanted = [x.track_op(), p.track_op()];
        dispatch!("image_stack", x.dtype(), T => {
            let Some(tapes) = self.tapes.get().and_then(|tapes| tapes.downcast_ref::<Vec<Kept<T>>>()) else {
                bail!("internal: image_stack kept nothing for its backward pass")
            };
            let (dx, dp) = self.gradients(tapes, ps.elements::<T>()?, gs.elements::<T>()?, y.elem_count(), wanted);
            let dx = wanted[0].then(|| tensor(dx, x)).transpose()?;
            let dp = wanted[1].then(|| tensor(dp, p)).transpose()?;
            Ok((dx, dp))
        })
    }
}

impl ImageStack {
    fn gradients<T: Real>(
        &self,
        tapes: &[Kept<T>],
        p: &[T],
        dy: &[T],
        outputs: usize,
        wanted: [bool; 2],
    ) -> (Vec<T>, Vec<T>) {
        let kernels = self.plan.kernels(p);
        let [from, _] = self.plan.ends(self.batch);
        let (sample_in, sample_out) = (
            from[1..].iter().product::<usize>(),
            outputs / self.batch.max(1),
        );
        // Without a wanted gradient no element is written, but each task needs its part.
        let mut dx = vec![T::ZERO; self.batch * sample_in];
        let groups = blocks(self.batch, self.group);
        let part = groups.len().div_ceil(TASKS).max(1);
        let parts = groups
            .par_chunks(part)
            .zip(tapes.par_chunks(part))
            .zip(dx.par_chunks_mut(part * self.group * sample_in));
        let sums: Vec<Vec<T>> = parts
            .map(|((groups, tapes), dx)| {
                let mut sums = vec![T::ZERO; p.len()];
                for ((group, tape), dx) in groups
                    .iter()
                    .zip(tapes)
                    .zip(dx.chunks_mut(self.group * sample_in))
                {
                    let dy = &dy[group.start * sample_out..group.end * sample_out];
                    self.plan.backward(
                        group.len(),
                        &kernels,
                        p,
                        tape.all(),
                        dy,
                        wanted,
                        dx,
                        &mut sums,
                    );
                }
                sums
            })
            .collect();
        let mut total = vec![T::ZERO; p.len()];
        for sums in &sums {
            total
                .iter_mut()
                .zip(sums)
                .for_each(|(total, sum)| *total += *sum);
        }
        (dx, self.plan.in_order(&kernels, p, &total))
    }
}
