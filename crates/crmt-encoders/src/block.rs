//! One step of a chain: what it holds, how it starts and what it computes.
//! Does not know what comes before and after it.
use crate::{AolConv2d, OrthonormalLinear, SllConv2d};
use candle_core::{D, Tensor, Var};
use candle_nn::{Init, VarBuilder};
use crmt_core::Mode;
use crmt_kernels as kernels;

/// Weight of the newest batch in the running statistics, and the variance's floor (PyTorch's).
const MOMENTUM: f64 = 0.1;
pub(crate) const BATCH_NORM_EPS: f64 = 1e-5;

/// One step of a [`Chain`](crate::Chain).
#[derive(Debug, Clone)]
pub enum Block {
    /// Zero-padded cross-correlation. `kernel [out, in, k, k]`, `bias [out]`.
    Conv2d {
        /// Dotted name.
        name: String,
        /// `[out, in, k, k]`.
        kernel: Tensor,
        /// `[out]`.
        bias: Option<Tensor>,
        /// Both directions.
        stride: usize,
        /// Zeros on each side.
        padding: usize,
        /// What a frozen kernel's convolution keeps from one call to the next.
        cache: kernels::KernelCache,
    },
    /// Per-channel normalisation: batch statistics in train mode, running ones in eval mode.
    BatchNorm {
        /// Dotted name.
        name: String,
        /// Scale, `[channels]`.
        weight: Tensor,
        /// Shift, `[channels]`.
        bias: Tensor,
        /// `[channels]`; a variable in a live model, a view of its storage in a frozen one.
        running_mean: Tensor,
        /// As `running_mean`.
        running_var: Tensor,
    },
    /// `max(x, 0)`, with derivative 0 at 0.
    Relu,
    /// `[batch, ...]` to `[batch, features]`.
    Flatten,
    /// `y = W x + b`.
    Linear {
        /// Dotted name.
        name: String,
        /// `[out, in]`.
        weight: Tensor,
        /// `[out]`.
        bias: Tensor,
    },
    /// A convolution rescaled to be 1-Lipschitz.
    AolConv2d(AolConv2d),
    /// A 1-Lipschitz residual block of a convolution and its transpose.
    SllConv2d(SllConv2d),
    /// A dense layer with orthonormal rows or columns.
    OrthonormalLinear(OrthonormalLinear),
    /// `cat(max(a, b), min(a, b))` of the two halves of the channels: 1-Lipschitz, and keeps the
    /// gradient's norm.
    MaxMin,
    /// Patches of `block × block` pixels to channels: an isometry.
    SpaceToDepth {
        /// Side of a patch.
        block: usize,
    },
    /// Pairs of neighbours along the rows to channels, `[batch, channels, 1, w]` to
    /// `[batch, 2·channels, 1, w / 2]`: an isometry.
    PairsToDepth,
    /// `[batch, channels]` to `[batch, channels, 1, 1]`.
    Unflatten,
    /// `[batch, channels, length]` to `[batch, channels, 1, length]`.
    Row,
    /// `[batch, channels, h, w]` to `[batch, channels]`, the mean over all pixels: shortens lengths
    /// `√pixels` times or more.
    Mean {
        /// `h·w`.
        pixels: usize,
    },
    /// Zeros around the image: an isometry.
    ZeroPad {
        /// Top, bottom, left, right.
        padding: [usize; 4],
    },
    /// Maxima of windows `kernel × kernel`. A pixel lies in `⌈kernel / stride⌉²` windows at most,
    /// so lengths grow `⌈kernel / stride⌉` times at most.
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
        /// Dotted name.
        name: String,
        /// Applied one after another.
        branch: Vec<Block>,
        /// As `branch`.
        shortcut: Vec<Block>,
    },
    /// `[batch, channels, frames, h, w]` to `[batch · frames, channels, h, w]`: the frames of a
    /// clip share what follows.
    Frames,
    /// `y = Mᵀ softmax(M x / √features)` with the learned vectors `M: [slots, features]`: features
    /// become mixtures of the memory's vectors (Tian & Xu 2021), so that an attack can't lead them
    /// outside of these.
    ///
    /// The Jacobian of the softmax is a covariance, of norm 1/2 at most (a variance is a quarter of
    /// the squared range at most, and that twice the squared length), so lengths grow
    /// `‖M‖²/(2√features)` times at most; the Frobenius norm is taken for `‖M‖`.
    Memory {
        /// Dotted name.
        name: String,
        /// `[slots, features]`.
        vectors: Tensor,
    },
    /// `[batch · frames, features]` to `[batch, features]`, the mean over each clip's frames:
    /// shortens lengths `√frames` times or more.
    MeanOfFrames {
        /// Of a clip.
        frames: usize,
    },
    /// As `MeanOfFrames`, the sum over `√frames`: 1-Lipschitz, and keeps the length of what all
    /// frames share.
    SumOfFrames {
        /// Of a clip.
        frames: usize,
    },
}

impl Block {
    /// A convolution with PyTorch's default initialisation, uniform in `±1/sqrt(fan_in)`.
    pub fn conv2d(
        vb: &VarBuilder,
        inputs: usize,
        outputs: usize,
        size: usize,
        stride: usize,
        padding: usize,
    ) -> candle_core::Result<Self> {
        let init = uniform(inputs * size * size);
        Ok(Self::Conv2d {
            name: vb.prefix(),
            kernel: vb.get_with_hints((outputs, inputs, size, size), "weight", init)?,
            bias: Some(vb.get_with_hints(outputs, "bias", init)?),
            stride,
            padding,
            cache: kernels::KernelCache::default(),
        })
    }

    /// A convolution without bias that keeps the size of what it strides over, normal with the
    /// variance `2 / (outputs · size²)` at the start (He et al., 2015), as in a ResNet.
    pub fn residual_conv2d(
        vb: &VarBuilder,
        [inputs, outputs]: [usize; 2],
        size: usize,
        stride: usize,
    ) -> candle_core::Result<Self> {
        let init = Init::Randn {
            mean: 0.0,
            stdev: (2.0 / (outputs * size * size) as f64).sqrt(),
        };
        Ok(Self::Conv2d {
            name: vb.prefix(),
            kernel: vb.get_with_hints((outputs, inputs, size, size), "weight", init)?,
            bias: None,
            stride,
            padding: size / 2,
            cache: kernels::KernelCache::default(),
        })
    }

    /// Batch normalisation that starts as the identity.
    pub fn batch_norm(vb: &VarBuilder, channels: usize) -> candle_core::Result<Self> {
        Ok(Self::BatchNorm {
            name: vb.prefix(),
            weight: vb.get_with_hints(channels, "weight", Init::Const(1.0))?,
            bias: vb.get_with_hints(channels, "bias", Init::Const(0.0))?,
            running_mean: vb.get_with_hints(channels, "running_mean", Init::Const(0.0))?,
            running_var: vb.get_with_hints(channels, "running_var", Init::Const(1.0))?,
        })
    }

    /// A dense layer with PyTorch's default initialisation, uniform in `±1/sqrt(fan_in)`.
    pub fn linear(vb: &VarBuilder, inputs: usize, outputs: usize) -> candle_core::Result<Self> {
        let init = uniform(inputs);
        Ok(Self::Linear {
            name: vb.prefix(),
            weight: vb.get_with_hints((outputs, inputs), "weight", init)?,
            bias: vb.get_with_hints(outputs, "bias", init)?,
        })
    }

    /// A memory whose vectors are standard normal at the start.
    pub fn memory(vb: &VarBuilder, slots: usize, features: usize) -> candle_core::Result<Self> {
        let init = Init::Randn {
            mean: 0.0,
            stdev: 1.0,
        };
        Ok(Self::Memory {
            name: vb.prefix(),
            vectors: vb.get_with_hints((slots, features), "weight", init)?,
        })
    }

    pub(crate) fn forward(&self, x: &Tensor, mode: Mode) -> candle_core::Result<Tensor> {
        match self {
            // Of vectors; images go through a network.
            Self::BatchNorm {
                weight,
                bias,
                running_mean,
                running_var,
                ..
            } => {
                let (mean, variance) = (
                    Var::from_tensor(running_mean)?,
                    Var::from_tensor(running_var)?,
                );
                let running = kernels::RunningStats { mean, variance };
                match self.network_layer(mode)? {
                    Some(kernels::NetworkLayer::BatchNorm {
                        momentum: Some(momentum),
                        ..
                    }) => kernels::batch_norm_train(
                        x,
                        weight,
                        bias,
                        &running,
                        momentum,
                        BATCH_NORM_EPS,
                    ),
                    _ => kernels::batch_norm_eval(x, weight, bias, &running, BATCH_NORM_EPS),
                }
            }
            Self::Conv2d { .. } | Self::MaxPool2d { .. } | Self::Mean { .. } => {
                candle_core::bail!(
                    "expected images [batch, channels, height, width], got {:?}",
                    x.dims()
                )
            }
            Self::Residual {
                branch, shortcut, ..
            } => {
                let all = |blocks: &[Self]| {
                    blocks
                        .iter()
                        .try_fold(x.clone(), |x, block| block.forward(&x, mode))
                };
                all(branch)? + all(shortcut)?
            }
            Self::Relu => kernels::relu(x),
            Self::Flatten => x.flatten_from(1),
            Self::Linear { weight, bias, .. } => x.matmul(&weight.t()?)?.broadcast_add(bias),
            Self::AolConv2d(conv) => conv.forward(x),
            Self::SllConv2d(conv) => conv.forward(x),
            Self::OrthonormalLinear(linear) => linear.forward(x, mode),
            Self::MaxMin => kernels::max_min(x),
            Self::SpaceToDepth { block } => kernels::space_to_depth(x, *block),
            Self::PairsToDepth => {
                let (batch, channels, _, width) = x.dims4()?;
                let pairs = x
                    .reshape((batch, channels, width / 2, 2))?
                    .transpose(2, 3)?;
                pairs.reshape((batch, 2 * channels, 1, width / 2))
            }
            Self::Unflatten => x.reshape((x.dim(0)?, x.dim(1)?, 1, 1)),
            Self::Row => x.unsqueeze(2),
            Self::ZeroPad { padding } => kernels::zero_pad2d(x, *padding),
            Self::Frames => {
                let (batch, channels, frames, height, width) = x.dims5()?;
                x.transpose(1, 2)?
                    .reshape((batch * frames, channels, height, width))
            }
            Self::Memory { vectors, .. } => {
                let near = (x.matmul(&vectors.t()?)? / (vectors.dim(1)? as f64).sqrt())?;
                candle_nn::ops::softmax(&near, D::Minus1)?.matmul(vectors)
            }
            Self::MeanOfFrames { frames } => x.reshape(((), *frames, x.dim(D::Minus1)?))?.mean(1),
            Self::SumOfFrames { frames } => {
                x.reshape(((), *frames, x.dim(D::Minus1)?))?.sum(1)? * below_inverse_root(*frames)
            }
        }
    }

    /// As a layer of [`kernels::image_network`], if it is one.
    pub(crate) fn network_layer(
        &self,
        mode: Mode,
    ) -> candle_core::Result<Option<kernels::NetworkLayer>> {
        use kernels::NetworkLayer as Layer;
        let all = |blocks: &[Self]| -> candle_core::Result<Option<Vec<Layer>>> {
            blocks
                .iter()
                .map(|block| block.network_layer(mode))
                .collect()
        };
        Ok(Some(match self {
            Self::Conv2d {
                kernel,
                bias,
                stride,
                padding,
                cache,
                ..
            } => {
                let (kernel, bias, cache) = (kernel.clone(), bias.clone(), cache.clone());
                Layer::Conv2d {
                    kernel,
                    bias,
                    stride: *stride,
                    padding: *padding,
                    cache,
                }
            }
            Self::BatchNorm {
                weight,
                bias,
                running_mean,
                running_var,
                ..
            } => {
                if mode == Mode::Train && !running_mean.is_variable() {
                    candle_core::bail!(
                        "a frozen model has no train mode: its batch statistics could not be kept"
                    )
                }
                // On a live model both are variables, so this shares their storage; on a frozen
                // one it copies what eval mode only reads.
                let (mean, variance) = (
                    Var::from_tensor(running_mean)?,
                    Var::from_tensor(running_var)?,
                );
                Layer::BatchNorm {
                    gamma: weight.clone(),
                    beta: bias.clone(),
                    running: kernels::RunningStats { mean, variance },
                    momentum: (mode == Mode::Train).then_some(MOMENTUM),
                    eps: BATCH_NORM_EPS,
                }
            }
            Self::Relu => Layer::Relu,
            Self::MaxPool2d {
                kernel,
                stride,
                padding,
            } => Layer::MaxPool2d {
                kernel: *kernel,
                stride: *stride,
                padding: *padding,
            },
            Self::Mean { .. } => Layer::Mean,
            Self::Residual {
                branch, shortcut, ..
            } => match (all(branch)?, all(shortcut)?) {
                (Some(branch), Some(shortcut)) => Layer::Residual { branch, shortcut },
                _ => return Ok(None),
            },
            _ => return Ok(None),
        }))
    }

    /// Whether this is a block that [`kernels::image_stack`] computes together with its neighbours.
    pub(crate) fn stacks(&self) -> bool {
        matches!(
            self,
            Self::AolConv2d(_) | Self::SllConv2d(_) | Self::MaxMin | Self::SpaceToDepth { .. }
        )
    }

    /// `None` unless it [`stacks`](Self::stacks).
    pub(crate) fn image_layer(&self) -> candle_core::Result<Option<kernels::ImageLayer>> {
        Ok(match self {
            Self::AolConv2d(conv) => Some(conv.image_layer()?),
            Self::SllConv2d(conv) => Some(conv.image_layer()?),
            Self::MaxMin => Some(kernels::ImageLayer::MaxMin),
            Self::SpaceToDepth { block } => {
                Some(kernels::ImageLayer::SpaceToDepth { block: *block })
            }
            _ => None,
        })
    }

    pub(crate) fn bake(&self) -> candle_core::Result<Self> {
        Ok(match self {
            Self::AolConv2d(conv) => Self::AolConv2d(conv.bake()?),
            Self::SllConv2d(conv) => Self::SllConv2d(conv.bake()?),
            Self::OrthonormalLinear(linear) => Self::OrthonormalLinear(linear.bake()?),
            other => other.clone(),
        })
    }
}

/// Less than `1/√n`, and the same number in `f32` and `f64`.
fn below_inverse_root(n: usize) -> f64 {
    f64::from(((1.0 / (n as f64).sqrt()) as f32).next_down())
}

fn uniform(fan_in: usize) -> Init {
    let bound = 1.0 / (fan_in as f64).sqrt();
    Init::Uniform {
        lo: -bound,
        up: bound,
    }
}
