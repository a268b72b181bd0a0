//! Networks and stacks of image layers on a CUDA device: channels-last from the first layer to the
//! last, each step a node of candle's graph.
//!
//! Knows which operation follows which, and nothing of how they are computed.
use super::convolution::{adjoint, convolution};
use super::layers::{Windows, batch_norm, epilogue, max_min, max_pool};
use crate::conv::geometry::Geometry;
use crate::net::plan::{Normalisation, Operation, Plan};
use crate::precision::Precision;
use crate::stack::ImageLayer;
use candle_core::{D, DType, Result, Tensor, bail};

/// `[batch, channels, height, width]` with the channels last.
pub(super) fn channels_last(x: &Tensor) -> Result<Tensor> {
    x.permute((0, 2, 3, 1))?.contiguous()
}

/// And back.
pub(super) fn channels_first(x: &Tensor) -> Result<Tensor> {
    x.permute((0, 3, 1, 2))?.contiguous()
}

/// As a convolution takes images and kernels, in the type of images between layers.
fn operand(x: &Tensor) -> Result<Tensor> {
    let x = channels_last(x)?;
    match Precision::current() == Precision::Bf16 && x.dtype() == DType::F32 {
        true => x.to_dtype(DType::BF16),
        false => Ok(x),
    }
}

/// The steps of `plan` on `x: [batch, channels, height, width]`.
pub(crate) fn run(plan: &Plan, x: &Tensor) -> Result<Tensor> {
    let mut values: Vec<Option<Tensor>> = vec![Some(operand(x)?)];
    let mut result = None;
    for (i, step) in plan.steps.iter().enumerate() {
        let value = |number: usize| match values.get(number) {
            Some(Some(value)) => Ok(value.clone()),
            _ => bail!("internal: value {number} is gone before step {i}"),
        };
        let (input, add) = (value(step.input)?, step.add.map(value).transpose()?);
        let (add, relu) = (add.as_ref(), step.relu);
        let parameter = |number: usize| &plan.parameters[number];
        let y = match &step.operation {
            Operation::Convolution {
                conv,
                kernel,
                bias,
                folded,
                ..
            } => {
                let (mut kernel, mut bias) = (
                    parameter(*kernel).clone(),
                    bias.map(|bias| parameter(bias).clone()),
                );
                if let Some(norm) = folded {
                    (kernel, bias) = fold(&kernel, bias, norm, &plan.parameters)?;
                }
                let y = convolution(&input, &operand(&kernel)?, conv.g)?;
                epilogue(&y, bias.as_ref(), add, relu)?
            }
            Operation::Normalisation(Normalisation {
                gamma,
                beta,
                running,
                momentum,
                eps,
            }) => batch_norm(
                &input,
                parameter(*gamma),
                parameter(*beta),
                running,
                *momentum,
                *eps,
                add,
                relu,
            )?,
            Operation::MaxPool {
                kernel,
                stride,
                padding,
            } => max_pool(
                &input,
                Windows {
                    size: *kernel,
                    stride: *stride,
                    padding: *padding,
                },
            )?,
            Operation::Mean => {
                let (batch, h, w, channels) = input.dims4()?;
                let pixels = input
                    .to_dtype(x.dtype())?
                    .reshape((batch, h * w, channels))?;
                pixels.mean(1)?.reshape((batch, 1, 1, channels))?
            }
            Operation::Same => epilogue(&input, None, add, relu)?,
        };
        values.push(Some(y.clone()));
        // What nobody reads any more is given back, unless the graph keeps it.
        for (number, value) in values.iter_mut().enumerate() {
            if plan.last_use[number] <= i {
                *value = None;
            }
        }
        result = Some(y);
    }
    match result {
        Some(y) => channels_first(&y.to_dtype(x.dtype())?),
        None => bail!("internal: a network without steps"),
    }
}

/// Kernel and bias with a normalisation by constants in them.
fn fold(
    kernel: &Tensor,
    bias: Option<Tensor>,
    norm: &Normalisation,
    parameters: &[Tensor],
) -> Result<(Tensor, Option<Tensor>)> {
    let [mean, variance] =
        [&norm.running.mean, &norm.running.variance].map(|v| v.as_detached_tensor());
    let scale = (&parameters[norm.gamma] / (variance + norm.eps)?.sqrt()?)?;
    let from = match bias {
        Some(bias) => (bias - mean)?,
        None => mean.neg()?,
    };
    let bias = ((from * &scale)? + &parameters[norm.beta])?;
    Ok((
        kernel.broadcast_mul(&scale.reshape(((), 1, 1, 1))?)?,
        Some(bias),
    ))
}

/// `layers` on `x: [batch, channels, height, width]`.
pub(crate) fn stack(x: &Tensor, layers: &[ImageLayer]) -> Result<Tensor> {
    let mut y = channels_last(x)?;
    for layer in layers {
        y = match layer {
            ImageLayer::Conv2d { kernel, bias } => {
                let padding = kernel.dim(D::Minus1)? / 2;
                epilogue(&convolved(&y, kernel, 1, padding)?, Some(bias), None, false)?
            }
            ImageLayer::ResidualConv2d {
                kernel,
                bias,
                scale,
            } => residual(&y, kernel, bias, scale)?,
            ImageLayer::MaxMin => max_min(&y, y.dim(D::Minus1)? / 2)?,
            ImageLayer::SpaceToDepth { block } => {
                let ((batch, h, w, channels), block) = (y.dims4()?, *block);
                let parts = vec![batch, h / block, block, w / block, block, channels];
                let parts = y
                    .reshape(parts)?
                    .permute(vec![0, 1, 3, 5, 2, 4])?
                    .contiguous()?;
                parts.reshape((batch, h / block, w / block, channels * block * block))?
            }
        };
    }
    channels_first(&y)
}

fn convolved(x: &Tensor, kernel: &Tensor, stride: usize, padding: usize) -> Result<Tensor> {
    let (batch, h, w, channels) = x.dims4()?;
    let geometry = Geometry::new(&[batch, channels, h, w], kernel.dims(), stride, padding)?;
    convolution(x, &channels_last(kernel)?, geometry)
}

/// `x − Cᵀ(scale ∘ relu(C x + bias))`.
pub(super) fn residual(
    x: &Tensor,
    kernel: &Tensor,
    bias: &Tensor,
    scale: &Tensor,
) -> Result<Tensor> {
    let (batch, h, w, channels) = x.dims4()?;
    let geometry = Geometry::new(
        &[batch, channels, h, w],
        kernel.dims(),
        1,
        kernel.dim(D::Minus1)? / 2,
    )?;
    let weights = channels_last(kernel)?;
    let hidden = epilogue(&convolution(x, &weights, geometry)?, Some(bias), None, true)?;
    x - adjoint(&hidden.broadcast_mul(scale)?, &weights, geometry)?
}
