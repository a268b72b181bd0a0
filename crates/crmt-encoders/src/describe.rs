//! What the blocks of a chain tell an auditor: layers with their constants, and how far rounding
//! may take them. Does not know how blocks compute beyond which sums they add up.
use crate::{Block, block::BATCH_NORM_EPS, length::length};
use candle_core::{D, Result, Tensor};
use crmt_core::Layer;

/// The layers of `blocks`, one after another, on samples of this shape; none: of any, and then
/// nobody can say how long a bias is over a whole image.
pub(crate) fn describe(blocks: &[Block], shape: Option<&[usize]>) -> Result<Vec<Layer>> {
    // A batch of one; the frames of a clip make it longer.
    describe_all(blocks, shape.map(|shape| [&[1], shape].concat()).as_deref())
}

impl Block {
    /// `[batch, ...]` after this block; none where it does not fit.
    fn shape_after(&self, shape: &[usize]) -> Option<Vec<usize>> {
        let convolved = |out: usize, size: usize, stride: usize, padding: usize| match *shape {
            [batch, _, h, w] if stride > 0 => {
                let side = |n: usize| Some((n + 2 * padding).checked_sub(size)? / stride + 1);
                Some(vec![batch, out, side(h)?, side(w)?])
            }
            _ => None,
        };
        let features = |out: usize| Some(vec![*shape.first()?, out]);
        match self {
            Self::BatchNorm { .. } | Self::Relu | Self::MaxMin | Self::SllConv2d(_) => {
                Some(shape.to_vec())
            }
            Self::Conv2d {
                kernel,
                stride,
                padding,
                ..
            } => convolved(
                kernel.dim(0).ok()?,
                kernel.dim(D::Minus1).ok()?,
                *stride,
                *padding,
            ),
            Self::AolConv2d(conv) => convolved(conv.outputs(), 1, 1, 0),
            Self::MaxPool2d {
                kernel,
                stride,
                padding,
            } => convolved(*shape.get(1)?, *kernel, *stride, *padding),
            Self::Flatten => features(shape[1..].iter().product()),
            Self::Linear { weight, .. } => features(weight.dim(0).ok()?),
            Self::OrthonormalLinear(linear) => features(linear.outputs()),
            Self::Memory { vectors, .. } => features(vectors.dim(1).ok()?),
            Self::Mean { .. } => features(*shape.get(1)?),
            Self::Unflatten => Some([shape, &[1, 1]].concat()),
            Self::Row => match *shape {
                [batch, channels, length] => Some(vec![batch, channels, 1, length]),
                _ => None,
            },
            Self::PairsToDepth => match *shape {
                [batch, channels, 1, width] => Some(vec![batch, 2 * channels, 1, width / 2]),
                _ => None,
            },
            Self::SpaceToDepth { block } => match *shape {
                [batch, channels, h, w] if *block > 0 => {
                    Some(vec![batch, channels * block * block, h / block, w / block])
                }
                _ => None,
            },
            Self::ZeroPad {
                padding: [top, bottom, left, right],
            } => match *shape {
                [batch, channels, h, w] => {
                    Some(vec![batch, channels, h + top + bottom, w + left + right])
                }
                _ => None,
            },
            Self::Residual { branch, .. } => branch
                .iter()
                .try_fold(shape.to_vec(), |shape, block| block.shape_after(&shape)),
            Self::Frames => match *shape {
                [batch, channels, frames, h, w] => Some(vec![batch * frames, channels, h, w]),
                _ => None,
            },
            Self::MeanOfFrames { frames } | Self::SumOfFrames { frames } => match *shape {
                [all, features] if *frames > 0 => Some(vec![all / frames, features]),
                _ => None,
            },
        }
    }

    /// One layer, and its bias.
    fn describe(&self, from: Option<&[usize]>, to: Option<&[usize]>) -> Result<Vec<Layer>> {
        let exact = |name: &str, lipschitz: f64| {
            vec![Layer::Exact {
                name: name.into(),
                lipschitz,
            }]
        };
        let with_bias = |layer: Layer, name: &str, bias: Option<&Tensor>| -> Result<Vec<Layer>> {
            let bias = bias.map(|bias| shift(name, bias, to)).transpose()?;
            Ok([layer].into_iter().chain(bias).collect())
        };
        Ok(match self {
            Self::MaxPool2d { kernel, stride, .. } => {
                exact("max-pool", kernel.div_ceil(*stride) as f64)
            }
            Self::Residual {
                name,
                branch,
                shortcut,
            } => {
                let branch = describe_all(branch, from)?;
                match shortcut.is_empty() {
                    true => vec![Layer::Residual {
                        name: name.clone(),
                        branch,
                    }],
                    false => vec![Layer::Sum {
                        name: name.clone(),
                        branches: [branch, describe_all(shortcut, from)?],
                    }],
                }
            }
            Self::Frames => exact("frames", 1.0),
            Self::MeanOfFrames { frames } => {
                mean("mean of frames", *frames, above_inverse_root(*frames))
            }
            Self::SumOfFrames { frames } => mean("sum of frames", *frames, 1.0),
            Self::Mean { pixels } => mean("mean", *pixels, above_inverse_root(*pixels)),
            Self::Conv2d {
                name,
                kernel,
                bias,
                stride,
                padding,
                ..
            } => {
                let (stride, padding) = (*stride, *padding);
                let layer = Layer::Conv2d {
                    name: name.clone(),
                    kernel: kernel.detach(),
                    stride,
                    padding,
                };
                with_bias(layer, name, bias.as_ref())?
            }
            Self::BatchNorm {
                name,
                weight,
                bias,
                running_mean,
                running_var,
            } => {
                let deviation = (running_var.detach() + BATCH_NORM_EPS)?.sqrt()?;
                let scale = (weight.detach() / deviation)?;
                let moved = (running_mean.detach() * &scale)?;
                let layers = with_bias(
                    Layer::Diagonal {
                        name: name.clone(),
                        scale,
                    },
                    name,
                    Some(&moved),
                )?;
                [layers, vec![shift(name, bias, to)?]].concat()
            }
            Self::Relu => exact("relu", 1.0),
            Self::MaxMin => exact("max-min", 1.0),
            Self::Flatten => vec![Layer::Flatten],
            Self::Linear { name, weight, bias } => with_bias(
                Layer::Linear {
                    name: name.clone(),
                    weight: weight.detach(),
                },
                name,
                Some(bias),
            )?,
            Self::AolConv2d(conv) => with_bias(conv.describe()?, conv.name(), Some(conv.bias()))?,
            Self::SllConv2d(conv) => vec![conv.describe(positions(to))?],
            Self::OrthonormalLinear(linear) => {
                with_bias(linear.describe()?, linear.name(), Some(linear.bias()))?
            }
            Self::SpaceToDepth { .. } => exact("space-to-depth", 1.0),
            Self::PairsToDepth => exact("pairs-to-depth", 1.0),
            Self::Unflatten => exact("unflatten", 1.0),
            Self::Row => exact("row", 1.0),
            Self::ZeroPad { .. } => exact("zero-pad", 1.0),
            Self::Memory { name, vectors } => vec![memory(name, vectors)?],
        })
    }
}

fn describe_all(blocks: &[Block], from: Option<&[usize]>) -> Result<Vec<Layer>> {
    let mut at = from.map(<[usize]>::to_vec);
    let mut layers = vec![];
    for block in blocks {
        let after = at.as_deref().and_then(|at| block.shape_after(at));
        layers.extend(block.describe(at.as_deref(), after.as_deref())?);
        at = after;
    }
    Ok(layers)
}

/// Covers a handful of roundings in `f64`, and second-order terms of `n u` up to 0.01.
const UP: f64 = 1.02;

/// A bias over an output of this shape: it counts once at each position.
fn shift(name: &str, bias: &Tensor, shape: Option<&[usize]>) -> Result<Layer> {
    let positions = shape.map_or(f64::INFINITY, |shape| {
        shape.iter().product::<usize>() as f64 / bias.elem_count().max(1) as f64
    });
    let norm = length(bias)?;
    Ok(Layer::Shift {
        name: name.into(),
        norm: if norm == 0.0 {
            0.0
        } else {
            norm * positions.sqrt() * UP
        },
    })
}

/// At how many places of an image a bias of its channels is added; infinite: nobody knows.
fn positions(shape: Option<&[usize]>) -> f64 {
    match shape {
        Some([batch, _, h, w]) => (batch * h * w) as f64,
        _ => f64::INFINITY,
    }
}

/// A mean, or a sum over the root, of `n`: `n` additions and a product.
fn mean(name: &str, n: usize, lipschitz: f64) -> Vec<Layer> {
    let layer = Box::new(Layer::Fixed {
        name: name.into(),
        lipschitz,
    });
    vec![Layer::Rounded {
        layer,
        relative: (n + 4) as f64 * UP,
        absolute: 0.0,
        at_zero: 0.0,
    }]
}

/// `Mᵀ softmax(M x / √d)`, with `R = ‖M‖_F`. Scores are off by `γ_d R |x| / √d` each, so weights by
/// twice that relative to themselves, beside the roundings of the exponentials and their sum; and
/// the result by `R` times as much in the l1 norm, doubled where the exponential of an error is no
/// longer near 1 + the error.
fn memory(name: &str, vectors: &Tensor) -> Result<Layer> {
    let (slots, features) = vectors.dims2()?;
    let (r, root) = (length(vectors)?, (features as f64).sqrt());
    // Rounded up beyond what the sum of a million squares rounds.
    let lipschitz = r * r / (2.0 * root) * (1.0 + 1e-9);
    let terms = (features + slots + 16) as f64;
    Ok(Layer::Rounded {
        layer: Box::new(Layer::Fixed {
            name: name.into(),
            lipschitz,
        }),
        relative: 4.0 * terms * r * r / root * UP,
        absolute: 4.0 * terms * r * UP,
        at_zero: r * UP,
    })
}

/// A bound of `1/√n`, of the factor `1/n` in use too: three roundings of half an ulp each.
pub(crate) fn above_inverse_root(n: usize) -> f64 {
    (1.0 / (n as f64).sqrt() * (1.0 + 4.0 * f64::EPSILON)).next_up()
}
