//! Batch normalisation, in training and in evaluation, with running statistics that can be shared.
//!
//! Knows nothing of layers or of who decides between training and evaluation.
use crate::real::{Read, Real, channel_sums, dispatch, elements, same_kind, tensor};
use candle_core::{
    CpuStorage, CustomOp3, DType, Device, Layout, Result, Shape, Tensor, Var, WithDType,
    backend::BackendStorage, bail,
};
use rayon::prelude::*;
use std::sync::{Arc, OnceLock};

/// Running mean and (unbiased) variance per channel, `[channels]` each. A clone shares the storage,
/// so a frozen twin sees every update.
#[derive(Debug, Clone)]
pub struct RunningStats {
    /// Running mean; 0 at the start.
    pub mean: Var,
    /// Running variance; 1 at the start.
    pub variance: Var,
}

impl RunningStats {
    /// Mean 0 and variance 1 for `channels` channels.
    pub fn new(channels: usize, dtype: DType, device: &Device) -> Result<Self> {
        Ok(Self {
            mean: Var::zeros(channels, dtype, device)?,
            variance: Var::ones(channels, dtype, device)?,
        })
    }

    /// `running ← (1 − momentum)·running + momentum·batch`, in place.
    pub(crate) fn update(&self, moments: &Moments, momentum: f64) -> Result<()> {
        let unbias = moments.count as f64 / (moments.count as f64 - 1.);
        for (running, batch, factor) in [
            (&self.mean, &moments.mean, 1.),
            (&self.variance, &moments.variance, unbias),
        ] {
            let batch = Tensor::from_slice(batch, batch.len(), running.device())?;
            let batch = (batch * (momentum * factor))?.to_dtype(running.dtype())?;
            running.set(&((running.as_tensor() * (1. - momentum))? + batch)?.detach())?;
        }
        Ok(())
    }
}

/// Batch normalisation with the statistics of the batch:
/// `y = γ·(x − mean) / √(variance + eps) + β` per channel of `x: [batch, channels]` or
/// `[batch, channels, h, w]`, with the biased variance. `gamma`, `beta`: `[channels]`.
///
/// Also moves `running` towards the batch: `(1 − momentum)·old + momentum·batch`, there with the
/// unbiased variance. Statistics are accumulated in `f64` in a fixed order. As
/// `torch.nn.BatchNorm2d`.
///
/// # Errors
/// Shapes, types or devices that do not match, or a single value per channel (it has no variance).
pub fn batch_norm_train(
    x: &Tensor,
    gamma: &Tensor,
    beta: &Tensor,
    running: &RunningStats,
    momentum: f64,
    eps: f64,
) -> Result<Tensor> {
    let [b, c, plane] = check("batch_norm_train", x, gamma, beta, running)?;
    if b * plane < 2 {
        bail!(
            "batch_norm_train: {b} samples of {plane} positions give {} value(s) for each of {c} channels; training \
             needs at least 2, use a larger batch",
            b * plane
        )
    }
    on_cuda!(x => crate::cuda::batch_norm(x, gamma, beta, running, Some(momentum), eps));
    let moments = Arc::new(OnceLock::new());
    let op = BatchNorm {
        eps,
        fixed: false,
        moments: moments.clone(),
    };
    let y = x
        .contiguous()?
        .apply_op3(&gamma.contiguous()?, &beta.contiguous()?, op)?;
    match moments.get() {
        Some(moments) => running.update(moments, momentum)?,
        None => bail!("internal: batch_norm_train left no moments"),
    }
    Ok(y)
}

/// Batch normalisation with the running statistics, which stay as they are:
/// `y = γ·(x − mean) / √(variance + eps) + β`. Shapes and errors as for [`batch_norm_train`]; any
/// number of values per channel.
pub fn batch_norm_eval(
    x: &Tensor,
    gamma: &Tensor,
    beta: &Tensor,
    running: &RunningStats,
    eps: f64,
) -> Result<Tensor> {
    check("batch_norm_eval", x, gamma, beta, running)?;
    on_cuda!(x => crate::cuda::batch_norm(x, gamma, beta, running, None, eps));
    let op = BatchNorm {
        eps,
        fixed: true,
        moments: Arc::new(OnceLock::from(Moments::running(running)?)),
    };
    x.contiguous()?
        .apply_op3(&gamma.contiguous()?, &beta.contiguous()?, op)
}

fn check(
    op: &str,
    x: &Tensor,
    gamma: &Tensor,
    beta: &Tensor,
    running: &RunningStats,
) -> Result<[usize; 3]> {
    let dims = match *x.dims() {
        [b, c] => [b, c, 1],
        [b, c, h, w] => [b, c, h * w],
        _ => bail!(
            "{op}: expected [batch, channels] or [batch, channels, h, w], got {:?}",
            x.dims()
        ),
    };
    let (mean, variance) = (running.mean.as_tensor(), running.variance.as_tensor());
    for (name, t) in [
        ("gamma", gamma),
        ("beta", beta),
        ("running mean", mean),
        ("running variance", variance),
    ] {
        if t.dims() != [dims[1]] {
            bail!(
                "{op}: {name} has shape {:?}, expected [{}] for input {:?}",
                t.dims(),
                dims[1],
                x.dims()
            )
        }
    }
    same_kind(
        op,
        &[
            ("x", x),
            ("gamma", gamma),
            ("beta", beta),
            ("running mean", mean),
            ("running variance", variance),
        ],
    )?;
    Ok(dims)
}

/// Per-channel moments of `count` values (0 where they are not the batch's).
#[derive(Debug)]
pub(crate) struct Moments {
    pub mean: Vec<f64>,
    pub variance: Vec<f64>,
    pub count: usize,
}

impl Moments {
    /// Constants.
    pub(crate) fn running(running: &RunningStats) -> Result<Self> {
        let read = |v: &Var| {
            v.as_detached_tensor()
                .to_dtype(DType::F64)?
                .to_vec1::<f64>()
        };
        Ok(Self {
            mean: read(&running.mean)?,
            variance: read(&running.variance)?,
            count: 0,
        })
    }
}

struct BatchNorm {
    eps: f64,
    /// Whether the moments are constants (evaluation) or functions of the input (training).
    fixed: bool,
    moments: Arc<OnceLock<Moments>>,
}

/// `[batch, channels, plane]`.
fn as_planes(dims: &[usize]) -> [usize; 3] {
    [dims[0], dims[1], dims[2..].iter().product()]
}

/// Sums around each channel's first value, so that a large mean does not cancel the variance.
fn batch_moments<T: Real>(dims: [usize; 3], x: &[T]) -> Moments {
    let [batch, channels, plane] = dims;
    let shift: Vec<f64> = (0..channels).map(|c| x[c * plane].to_f64()).collect();
    let count = batch * plane;
    let n = count as f64;
    let sums = channel_sums(dims, x, x, |c, x, _| [x - shift[c], (x - shift[c]).powi(2)]);
    let mean = sums
        .iter()
        .zip(&shift)
        .map(|([s, _], shift)| shift + s / n)
        .collect();
    let variance = sums
        .iter()
        .map(|[s, q]| ((q - s * s / n) / n).max(0.))
        .collect();
    Moments {
        mean,
        variance,
        count,
    }
}

/// `out = a·scale[0] + b·scale[1] + scale[2]`, channel by channel.
fn affine<T: Real>(
    [_, channels, plane]: [usize; 3],
    a: &[T],
    b: &[T],
    scale: &[[f64; 3]],
) -> Vec<T> {
    let mut out = vec![T::ZERO; a.len()];
    if out.is_empty() {
        return out;
    }
    let scale: Vec<[T; 3]> = scale.iter().map(|s| s.map(T::from_f64)).collect();
    let planes = crate::real::PIECE.div_ceil(plane);
    out.par_chunks_mut(plane * planes)
        .enumerate()
        .for_each(|(i, out)| {
            for (j, out) in out.chunks_mut(plane).enumerate() {
                let at = (i * planes + j) * plane;
                let [s, t, u] = scale[(i * planes + j) % channels];
                for ((out, &a), &b) in out
                    .iter_mut()
                    .zip(&a[at..at + plane])
                    .zip(&b[at..at + plane])
                {
                    *out = a * s + b * t + u;
                }
            }
        });
    out
}

impl CustomOp3 for BatchNorm {
    fn name(&self) -> &'static str {
        "batch-norm"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        gamma: &CpuStorage,
        gamma_layout: &Layout,
        beta: &CpuStorage,
        beta_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let dims = as_planes(x_layout.dims());
        dispatch!("batch_norm", x.dtype(), T => {
            let x = elements::<T>(x, x_layout)?;
            let (gamma, beta) = (elements::<T>(gamma, gamma_layout)?, elements::<T>(beta, beta_layout)?);
            let moments = self.moments.get_or_init(|| batch_moments(dims, x));
            let scale: Vec<[f64; 3]> = (0..dims[1])
                .map(|c| {
                    let scale = gamma[c].to_f64() / (moments.variance[c] + self.eps).sqrt();
                    [scale, 0., beta[c].to_f64() - moments.mean[c] * scale]
                })
                .collect();
            Ok((T::to_cpu_storage_owned(affine(dims, x, x, &scale)), x_layout.shape().clone()))
        })
    }

    /// With `x̂ = (x − mean)/σ`: `dβ = Σ g`, `dγ = Σ g·x̂`, and `dx = γ/σ·(g − dβ/n − x̂·dγ/n)`,
    /// where the two corrections come from the moments and vanish when those are constants.
    fn bwd(
        &self,
        x: &Tensor,
        gamma: &Tensor,
        beta: &Tensor,
        _y: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let Some(moments) = self.moments.get() else {
            bail!("internal: batch_norm left no moments")
        };
        let dims = as_planes(x.dims());
        let grad = grad.contiguous()?;
        let (xs, gammas, gs) = (Read::new(x), Read::new(gamma), Read::new(&grad));
        dispatch!("batch_norm", x.dtype(), T => {
            let (xs, gammas, gs) = (xs.elements::<T>()?, gammas.elements::<T>()?, gs.elements::<T>()?);
            let inverse: Vec<f64> = moments.variance.iter().map(|v| 1. / (v + self.eps).sqrt()).collect();
            let needs_sums = !self.fixed || gamma.track_op() || beta.track_op();
            let sums = if needs_sums {
                channel_sums(dims, gs, xs, |c, g, x| [g, g * (x - moments.mean[c]) * inverse[c]])
            } else {
                vec![[0.; 2]; dims[1]]
            };
            let dx = if x.track_op() {
                let scale: Vec<[f64; 3]> = (0..dims[1])
                    .map(|c| {
                        let scale = gammas[c].to_f64() * inverse[c];
                        if self.fixed {
                            return [scale, 0., 0.];
                        }
                        let n = moments.count as f64;
                        let slope = -scale * inverse[c] * sums[c][1] / n;
                        [scale, slope, -scale * sums[c][0] / n - slope * moments.mean[c]]
                    })
                    .collect();
                Some(tensor(affine(dims, gs, xs, &scale), x)?)
            } else {
                None
            };
            let per_channel = |wanted: bool, i: usize| {
                wanted.then(|| tensor(sums.iter().map(|s| T::from_f64(s[i])).collect(), gamma)).transpose()
            };
            Ok((dx, per_channel(gamma.track_op(), 1)?, per_channel(beta.track_op(), 0)?))
        })
    }
}
