//! A chain of blocks: the forward pass, and its description for an auditor, from one list.
//! Does not know which architecture the list makes up.
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
        }
    }

    fn describe(&self) -> candle_core::Result<Layer> {
        Ok(match self {
            Self::Conv2d { name, kernel, stride, padding, .. } => Layer::Conv2d {
                name: name.clone(),
                kernel: kernel.detach(),
                stride: *stride,
                padding: *padding,
            },
            Self::BatchNorm { name, weight, running_var, .. } => {
                let deviation = (running_var.detach() + BATCH_NORM_EPS)?.sqrt()?;
                Layer::Diagonal { name: name.clone(), scale: (weight.detach() / deviation)? }
            }
            Self::Relu => Layer::Fixed { name: "relu".into(), lipschitz: 1.0 },
            Self::Flatten => Layer::Fixed { name: "flatten".into(), lipschitz: 1.0 },
            Self::Linear { name, weight, .. } => Layer::Linear { name: name.clone(), weight: weight.detach() },
        })
    }
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
}

impl Encoder for Chain {
    fn out_dim(&self) -> usize {
        self.out_dim
    }

    fn encode(&self, x: &Tensor, mode: Mode) -> Result<Tensor> {
        let features = self.blocks.iter().try_fold(x.clone(), |x, block| block.forward(&x, mode))?;
        debug_assert_eq!(features.dim(D::Minus1)?, self.out_dim);
        Ok(features)
    }

    fn layers(&self) -> Result<Vec<Layer>> {
        Ok(self.blocks.iter().map(Block::describe).collect::<candle_core::Result<_>>()?)
    }
}
