//! A chain of blocks: the forward pass, and its description for an auditor, from one list.
//! Does not know which architecture the list makes up.
use crate::{AolConv2d, OrthonormalLinear, SllConv2d};
use candle_core::{D, Tensor, Var};
use candle_nn::{Init, VarBuilder};
use crmt_core::{Encoder, Layer, Mode, Result};
use crmt_kernels as kernels;

/// Weight of the newest batch in the running statistics, and the variance's floor (PyTorch's).
const MOMENTUM: f64 = 0.1;
const BATCH_NORM_EPS: f64 = 1e-5;

/// One step of a [`Chain`].
#[derive(Debug, Clone)]
pub enum Block {
    /// Zero-padded cross-correlation. `kernel [out, in, k, k]`, `bias [out]`.
    Conv2d {
        /// Dotted name.
        name: String,
        /// `[out, in, k, k]`.
        kernel: Tensor,
        /// `[out]`.
        bias: Tensor,
        /// Both directions.
        stride: usize,
        /// Zeros on each side.
        padding: usize,
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
    /// `cat(max(a, b), min(a, b))` of the two halves of the channels: 1-Lipschitz, and keeps the gradient's norm.
    MaxMin,
    /// Patches of `block × block` pixels to channels: an isometry.
    SpaceToDepth {
        /// Side of a patch.
        block: usize,
    },
    /// `[batch, channels]` to `[batch, channels, 1, 1]`.
    Unflatten,
    /// `[batch, channels, h, w]` to `[batch, channels]`, the mean over all pixels: shortens lengths `√(h·w)` times or
    /// more, counted as 1-Lipschitz.
    Mean,
    /// Zeros around the image: an isometry.
    ZeroPad {
        /// Top, bottom, left, right.
        padding: [usize; 4],
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
            bias: vb.get_with_hints(outputs, "bias", init)?,
            stride,
            padding,
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

    fn forward(&self, x: &Tensor, mode: Mode) -> candle_core::Result<Tensor> {
        match self {
            Self::Conv2d { kernel, bias, stride, padding, .. } => {
                kernels::conv2d(x, kernel, Some(bias), *stride, *padding)
            }
            Self::BatchNorm { weight, bias, running_mean, running_var, .. } => {
                // On a live model both are variables, so this shares their storage; on a frozen
                // one it copies what eval mode only reads.
                let running = kernels::RunningStats {
                    mean: Var::from_tensor(running_mean)?,
                    variance: Var::from_tensor(running_var)?,
                };
                match mode {
                    Mode::Train if !running_mean.is_variable() => {
                        candle_core::bail!("a frozen model has no train mode: its batch statistics could not be kept")
                    }
                    Mode::Train => kernels::batch_norm_train(x, weight, bias, &running, MOMENTUM, BATCH_NORM_EPS),
                    Mode::Eval => kernels::batch_norm_eval(x, weight, bias, &running, BATCH_NORM_EPS),
                }
            }
            Self::Relu => kernels::relu(x),
            Self::Flatten => x.flatten_from(1),
            Self::Linear { weight, bias, .. } => x.matmul(&weight.t()?)?.broadcast_add(bias),
            Self::AolConv2d(conv) => conv.forward(x),
            Self::SllConv2d(conv) => conv.forward(x),
            Self::OrthonormalLinear(linear) => linear.forward(x, mode),
            Self::MaxMin => kernels::max_min(x),
            Self::SpaceToDepth { block } => kernels::space_to_depth(x, *block),
            Self::Unflatten => x.reshape((x.dim(0)?, x.dim(1)?, 1, 1)),
            Self::Mean => x.mean((2, 3)),
            Self::ZeroPad { padding } => kernels::zero_pad2d(x, *padding),
        }
    }

    /// Whether this is a block that [`kernels::image_stack`] computes together with its neighbours.
    fn stacks(&self) -> bool {
        matches!(self, Self::AolConv2d(_) | Self::SllConv2d(_) | Self::MaxMin | Self::SpaceToDepth { .. })
    }

    /// `None` unless it [`stacks`](Self::stacks).
    fn image_layer(&self) -> candle_core::Result<Option<kernels::ImageLayer>> {
        Ok(match self {
            Self::AolConv2d(conv) => Some(conv.image_layer()?),
            Self::SllConv2d(conv) => Some(conv.image_layer()?),
            Self::MaxMin => Some(kernels::ImageLayer::MaxMin),
            Self::SpaceToDepth { block } => Some(kernels::ImageLayer::SpaceToDepth { block: *block }),
            _ => None,
        })
    }

    fn bake(&self) -> candle_core::Result<Self> {
        Ok(match self {
            Self::AolConv2d(conv) => Self::AolConv2d(conv.bake()?),
            Self::SllConv2d(conv) => Self::SllConv2d(conv.bake()?),
            Self::OrthonormalLinear(linear) => Self::OrthonormalLinear(linear.bake()?),
            other => other.clone(),
        })
    }

    fn describe(&self) -> candle_core::Result<Layer> {
        Ok(match self {
            Self::Conv2d { name, kernel, stride, padding, .. } => {
                Layer::Conv2d { name: name.clone(), kernel: kernel.detach(), stride: *stride, padding: *padding }
            }
            Self::BatchNorm { name, weight, running_var, .. } => {
                let deviation = (running_var.detach() + BATCH_NORM_EPS)?.sqrt()?;
                Layer::Diagonal { name: name.clone(), scale: (weight.detach() / deviation)? }
            }
            Self::Relu => Layer::Fixed { name: "relu".into(), lipschitz: 1.0 },
            Self::Flatten => Layer::Fixed { name: "flatten".into(), lipschitz: 1.0 },
            Self::Linear { name, weight, .. } => Layer::Linear { name: name.clone(), weight: weight.detach() },
            Self::AolConv2d(conv) => conv.describe()?,
            Self::SllConv2d(conv) => conv.describe()?,
            Self::OrthonormalLinear(linear) => linear.describe()?,
            Self::MaxMin => Layer::Fixed { name: "max-min".into(), lipschitz: 1.0 },
            Self::SpaceToDepth { .. } => Layer::Fixed { name: "space-to-depth".into(), lipschitz: 1.0 },
            Self::Unflatten => Layer::Fixed { name: "unflatten".into(), lipschitz: 1.0 },
            Self::Mean => Layer::Fixed { name: "mean".into(), lipschitz: 1.0 },
            Self::ZeroPad { .. } => Layer::Fixed { name: "zero-pad".into(), lipschitz: 1.0 },
        })
    }
}

/// The convolutions with a ReLU that `blocks` begins with.
fn conv_relus(blocks: &[Block]) -> Vec<kernels::ConvRelu> {
    let layer = |pair: &[Block]| match pair {
        [Block::Conv2d { kernel, bias, stride, padding, .. }, Block::Relu] => {
            Some(kernels::ConvRelu { kernel: kernel.clone(), bias: bias.clone(), stride: *stride, padding: *padding })
        }
        _ => None,
    };
    blocks.chunks(2).map_while(layer).collect()
}

fn uniform(fan_in: usize) -> Init {
    let bound = 1.0 / (fan_in as f64).sqrt();
    Init::Uniform { lo: -bound, up: bound }
}

/// Blocks applied one after another.
#[derive(Debug, Clone)]
pub struct Chain {
    blocks: Vec<Block>,
    out_dim: usize,
}

impl Chain {
    /// `out_dim`: features that the last block puts out.
    pub fn new(blocks: Vec<Block>, out_dim: usize) -> Self {
        Self { blocks, out_dim }
    }

    /// The blocks, in order of application.
    pub fn blocks(&self) -> &[Block] {
        &self.blocks
    }

    /// The same function, bit for bit, and the same description, with every derived weight (AOL, SLL,
    /// orthonormal) computed once instead of in each pass.
    ///
    /// Only for parameters that no longer change, such as a checkpoint's: a baked chain does not follow
    /// training, and has no parameter gradients. That is why a chain does not bake by itself: a frozen twin
    /// shares its storage with live parameters and could not tell that a cached weight is stale.
    pub fn bake(&self) -> Result<Self> {
        let blocks = self.blocks.iter().map(Block::bake).collect::<candle_core::Result<_>>()?;
        Ok(Self { blocks, out_dim: self.out_dim })
    }
}

impl Encoder for Chain {
    fn out_dim(&self) -> usize {
        self.out_dim
    }

    fn encode(&self, x: &Tensor, mode: Mode) -> Result<Tensor> {
        let (mut features, mut rest) = (x.clone(), &self.blocks[..]);
        while let [block, tail @ ..] = rest {
            let stacked = rest.iter().take_while(|block| block.stacks()).count();
            if stacked > 1 && features.rank() == 4 {
                let layers = rest[..stacked].iter().map(Block::image_layer).filter_map(candle_core::Result::transpose);
                let layers = layers.collect::<candle_core::Result<Vec<_>>>()?;
                (features, rest) = (kernels::image_stack(&features, &layers)?, &rest[stacked..]);
                continue;
            }
            let convolutions = conv_relus(rest);
            (features, rest) = match convolutions.len() {
                0 => (block.forward(&features, mode)?, tail),
                n => (kernels::conv_relu_stack(&features, &convolutions)?, &rest[2 * n..]),
            };
        }
        debug_assert_eq!(features.dim(D::Minus1)?, self.out_dim);
        Ok(features)
    }

    fn layers(&self) -> Result<Vec<Layer>> {
        Ok(self.blocks.iter().map(Block::describe).collect::<candle_core::Result<_>>()?)
    }
}
