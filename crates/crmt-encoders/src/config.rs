//! Which encoder to build, as a configuration file says it.
//! Does not know where the configuration was read.
use crate::{AolConv2d, Block, Chain, OrthonormalLinear, SllConv2d};
use candle_nn::VarBuilder;
use crmt_core::Encoder;
use serde::{Deserialize, Serialize};

/// An encoder's architecture.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum EncoderConfig {
    /// `flatten, linear`. Its certificate is exact.
    Linear {
        /// Number of features.
        features: usize,
    },
    /// `flatten`, then `depth` times `linear(width), relu`, then `linear(features)`.
    Mlp {
        /// Hidden units of each layer.
        width: usize,
        /// Number of hidden layers.
        depth: usize,
        /// Number of features.
        features: usize,
    },
    /// `depth` times `conv 3×3 stride 2, [batch norm,] relu` with channels
    /// `width, 2·width, 4·width, …`, then `flatten, linear(features)`. Samples are
    /// `[channels, height, width]`.
    Cnn {
        /// Channels of the first convolution.
        width: usize,
        /// Number of convolutions.
        depth: usize,
        /// Number of features.
        features: usize,
        /// Normalise after each convolution.
        #[serde(default)]
        batch_norm: bool,
    },
    /// ResNet-18 without its last layer (He et al., 2016), 512 features, parameters by PyTorch's
    /// names. Samples are `[channels, height, width]`, or clips
    /// `[channels, frames, height, width]`, whose frames share the network and whose features are
    /// averaged.
    #[serde(rename = "resnet18")]
    Resnet18,
    /// A 1-Lipschitz network. `stage(c)` is `AOL conv 3×3 to c channels, max-min`, then `blocks`
    /// times an SLL block with `c` hidden channels; `dense(n)` is `orthonormal linear(n), max-min`.
    ///
    /// - Images `[channels, height, width]`: zero padding to multiples of 8,
    ///   `space-to-depth 2, stage(width), space-to-depth 2, stage(2·width), space-to-depth 2, flatten`,
    ///   then `dense` for each of `hidden`, then `dense(features)`. Width 16, one block, hidden 256
    ///   and 128 features are the certified network for digits.
    /// - Signals `[channels, length]`: the same along one axis, with kernels of 3 and pairs of
    ///   neighbours to channels.
    /// - Clips `[channels, frames, height, width]`: frames share the network of an image; features
    ///   are the sum over frames, divided by the root of their number, which is 1-Lipschitz as
    ///   well.
    /// - Vectors `[d]`, and any other shape as one: `dense(width)`, then `blocks` times a dense SLL
    ///   block with `width` hidden units, then `dense` for each of `hidden`, then
    ///   `dense(features)`.
    ///
    /// All sizes but `blocks` are even, because max-min compares two halves.
    Lipschitz {
        /// Channels of the first stage.
        width: usize,
        /// SLL blocks after each stage.
        blocks: usize,
        /// Units of each dense layer before the last.
        hidden: Vec<usize>,
        /// Number of features.
        features: usize,
    },
    /// Another encoder whose features are read through a memory ([`Block::Memory`]).
    Memory {
        /// Whose features.
        encoder: Box<EncoderConfig>,
        /// Vectors of the memory.
        slots: usize,
    },
}

/// Why an encoder can't be built.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BuildError {
    /// Convolutions need `[channels, height, width]`.
    #[error(
        "a cnn needs samples of shape [channels, height, width], got {shape:?}: use the encoder `mlp`"
    )]
    NotAnImage {
        /// Shape of one sample.
        shape: Vec<usize>,
    },
    /// A size that is zero, or that no machine holds.
    #[error("encoder `{kind}`: {what} is {given}, expected 1 to {LARGEST}")]
    Size {
        /// Kind of encoder.
        kind: &'static str,
        /// Which setting.
        what: &'static str,
        /// Its value.
        given: usize,
    },
    /// Max-min compares two halves.
    #[error(
        "encoder `lipschitz`: {what} is {given}, but max-min compares two halves: use an even number"
    )]
    Odd {
        /// Which setting.
        what: &'static str,
        /// Its value.
        given: usize,
    },
    /// Nothing to encode.
    #[error("encoder `{kind}` needs samples of one value or more, got shape {shape:?}")]
    Empty {
        /// Kind of encoder.
        kind: &'static str,
        /// Shape of one sample.
        shape: Vec<usize>,
    },
    /// A ResNet needs `[channels, height, width]` or `[channels, frames, height, width]`.
    #[error(
        "a resnet18 needs samples of shape [channels, height, width] or [channels, frames, height, width], got {shape:?}: \
         use the encoder `mlp`"
    )]
    NotImageOrClip {
        /// Shape of one sample.
        shape: Vec<usize>,
    },
    /// Each layer halves the image and doubles the channels.
    #[error("a cnn of depth {depth} would have over a million channels: use at most 16 layers")]
    TooDeep {
        /// The depth asked for.
        depth: usize,
    },
    /// The tensor library refused.
    #[error(transparent)]
    Tensor(#[from] candle_core::Error),
    /// The derived weights of a fixed encoder can't be computed.
    #[error(transparent)]
    Encoder(#[from] crmt_core::Error),
}

impl EncoderConfig {
    /// Whether it has ordinary convolutions, whose product of norms bounds the encoder but far
    /// above what it does.
    pub fn is_convolutional(&self) -> bool {
        match self {
            Self::Cnn { .. } | Self::Resnet18 => true,
            Self::Memory { encoder, .. } => encoder.is_convolutional(),
            Self::Linear { .. } | Self::Mlp { .. } | Self::Lipschitz { .. } => false,
        }
    }

    /// Builds the encoder for samples of `shape`, with parameters from `vb`.
    ///
    /// # Errors
    /// When the architecture can't take this shape, or `vb` lacks a parameter.
    pub fn build(&self, shape: &[usize], vb: VarBuilder) -> Result<Box<dyn Encoder>, BuildError> {
        Ok(Box::new(self.chain(shape, vb)?))
    }

    /// As [`build`](Self::build), with derived weights computed once ([`Chain::bake`]): for
    /// parameters that no longer change, such as a checkpoint's. The same outputs, bit for bit.
    ///
    /// # Errors
    /// As [`build`](Self::build), or when the weights have no valid derived form (not finite, say).
    pub fn build_fixed(
        &self,
        shape: &[usize],
        vb: VarBuilder,
    ) -> Result<Box<dyn Encoder>, BuildError> {
        Ok(Box::new(self.chain(shape, vb)?.bake()?))
    }

    /// The blocks that [`build`](Self::build) boxes.
    ///
    /// # Errors
    /// When the architecture can't take this shape, or `vb` lacks a parameter.
    pub fn chain(&self, shape: &[usize], vb: VarBuilder) -> Result<Chain, BuildError> {
        let inputs: usize = shape.iter().product();
        let chain = match *self {
            Self::Linear { features } => {
                positive("linear", &[("features", features)])?;
                Chain::new(
                    vec![
                        Block::Flatten,
                        Block::linear(&vb.pp("fc"), inputs, features)?,
                    ],
                    features,
                )
            }
            Self::Mlp {
                width,
                depth,
                features,
            } => {
                positive(
                    "mlp",
                    &[("width", width), ("depth", depth), ("features", features)],
                )?;
                let mut blocks = vec![Block::Flatten];
                let mut from = inputs;
                for i in 1..=depth {
                    blocks.extend([
                        Block::linear(&vb.pp(format!("fc{i}")), from, width)?,
                        Block::Relu,
                    ]);
                    from = width;
                }
                blocks.push(Block::linear(&vb.pp("fc"), from, features)?);
                Chain::new(blocks, features)
            }
            Self::Cnn {
                width,
                depth,
                features,
                batch_norm,
            } => {
                positive(
                    "cnn",
                    &[("width", width), ("depth", depth), ("features", features)],
                )?;
                let &[mut channels, mut height, mut across] = shape else {
                    return Err(BuildError::NotAnImage {
                        shape: shape.to_vec(),
                    });
                };
                if depth > 16 {
                    return Err(BuildError::TooDeep { depth });
                }
                let mut blocks = vec![];
                for i in 0..depth {
                    let out = width << i;
                    blocks.push(Block::conv2d(
                        &vb.pp(format!("conv{}", i + 1)),
                        channels,
                        out,
                        3,
                        2,
                        1,
                    )?);
                    if batch_norm {
                        blocks.push(Block::batch_norm(&vb.pp(format!("bn{}", i + 1)), out)?);
                    }
                    blocks.push(Block::Relu);
                    (channels, height, across) = (out, height.div_ceil(2), across.div_ceil(2));
                }
                blocks.extend([
                    Block::Flatten,
                    Block::linear(&vb.pp("fc"), channels * height * across, features)?,
                ]);
                Chain::new(blocks, features)
            }
            Self::Resnet18 => resnet18(shape, &vb)?,
            Self::Lipschitz {
                width,
                blocks,
                ref hidden,
                features,
            } => lipschitz(shape, &vb, width, blocks, hidden, features)?,
            Self::Memory { ref encoder, slots } => {
                positive("memory", &[("slots", slots)])?;
                let chain = encoder.chain(shape, vb.clone())?;
                let features = chain.out_dim();
                let mut blocks = chain.blocks().to_vec();
                blocks.push(Block::memory(&vb.pp("memory"), slots, features)?);
                Chain::new(blocks, features)
            }
        };
        Ok(chain.of_samples(shape))
    }
}

fn resnet18(shape: &[usize], vb: &VarBuilder) -> Result<Chain, BuildError> {
    let (channels, frames, size) = match *shape {
        [channels, height, width] if channels * height * width > 0 => {
            (channels, None, [height, width])
        }
        [channels, frames, height, width] if channels * frames * height * width > 0 => {
            (channels, Some(frames), [height, width])
        }
        _ => {
            return Err(BuildError::NotImageOrClip {
                shape: shape.to_vec(),
            });
        }
    };
    let conv = |vb: VarBuilder, channels, size, stride| {
        Block::residual_conv2d(&vb, channels, size, stride)
    };
    let norm = |vb: VarBuilder, channels| Block::batch_norm(&vb, channels);
    let mut blocks: Vec<Block> = frames.map(|_| Block::Frames).into_iter().collect();
    blocks.extend([
        conv(vb.pp("conv1"), [channels, 64], 7, 2)?,
        norm(vb.pp("bn1"), 64)?,
        Block::Relu,
    ]);
    blocks.push(Block::MaxPool2d {
        kernel: 3,
        stride: 2,
        padding: 1,
    });
    let mut from = 64;
    for (layer, to) in [64, 128, 256, 512].into_iter().enumerate() {
        for i in 0..2 {
            let vb = vb.pp(format!("layer{}.{i}", layer + 1));
            let stride = if layer > 0 && i == 0 { 2 } else { 1 };
            let mut branch = vec![
                conv(vb.pp("conv1"), [from, to], 3, stride)?,
                norm(vb.pp("bn1"), to)?,
                Block::Relu,
            ];
            branch.extend([
                conv(vb.pp("conv2"), [to, to], 3, 1)?,
                norm(vb.pp("bn2"), to)?,
            ]);
            let shortcut = match from == to {
                true => vec![],
                false => {
                    let vb = vb.pp("downsample");
                    vec![conv(vb.pp(0), [from, to], 1, stride)?, norm(vb.pp(1), to)?]
                }
            };
            blocks.extend([
                Block::Residual {
                    name: vb.prefix(),
                    branch,
                    shortcut,
                },
                Block::Relu,
            ]);
            from = to;
        }
    }
    // Five layers of stride 2.
    blocks.push(Block::Mean {
        pixels: size.map(|n| n.div_ceil(32)).iter().product(),
    });
    blocks.extend(frames.map(|frames| Block::MeanOfFrames { frames }));
    Ok(Chain::new(blocks, from))
}

fn lipschitz(
    shape: &[usize],
    vb: &VarBuilder,
    width: usize,
    sll: usize,
    hidden: &[usize],
    features: usize,
) -> Result<Chain, BuildError> {
    let named = [("width", width), ("features", features)]
        .into_iter()
        .chain(hidden.iter().map(|n| ("hidden", *n)));
    for (what, given) in named {
        positive("lipschitz", &[(what, given)])?;
        if given % 2 != 0 {
            return Err(BuildError::Odd { what, given });
        }
    }
    if shape.is_empty() || shape.contains(&0) {
        return Err(BuildError::Empty {
            kind: "lipschitz",
            shape: shape.to_vec(),
        });
    }
    let (mut blocks, mut units) = match *shape {
        [channels, length] => of_signals(vb, [channels, length], width, sll)?,
        [channels, height, across] => of_images(vb, [channels, height, across], width, sll)?,
        [channels, _, height, across] => {
            let (images, units) = of_images(vb, [channels, height, across], width, sll)?;
            ([vec![Block::Frames], images].concat(), units)
        }
        _ => of_vectors(vb, shape.iter().product(), width, sll)?,
    };
    for (i, out) in hidden.iter().chain([&features]).enumerate() {
        let linear = OrthonormalLinear::new(&vb.pp(format!("fc{}", i + 1)), units, *out)?;
        blocks.extend([Block::OrthonormalLinear(linear), Block::MaxMin]);
        units = *out;
    }
    if let [_, frames, _, _] = *shape
        && frames > 1
    {
        blocks.push(Block::SumOfFrames { frames });
    }
    Ok(Chain::new(blocks, features))
}

/// Blocks, and how many features they put out.
type Part = candle_core::Result<(Vec<Block>, usize)>;

/// Each stage halves an image, and so does what follows the last.
const STAGES: usize = 2;
const MULTIPLE: usize = 1 << (STAGES + 1);

/// Zeros before and after `n` elements, up to the next multiple of what all stages divide by.
fn missing(n: usize) -> [usize; 2] {
    let missing = n.next_multiple_of(MULTIPLE) - n;
    [missing / 2, missing - missing / 2]
}

fn of_images(
    vb: &VarBuilder,
    [mut channels, height, across]: [usize; 3],
    width: usize,
    sll: usize,
) -> Part {
    let mut blocks = vec![];
    let ([top, bottom], [left, right]) = (missing(height), missing(across));
    if [top, bottom, left, right] != [0; 4] {
        blocks.push(Block::ZeroPad {
            padding: [top, bottom, left, right],
        });
    }
    for stage in 1..=STAGES {
        let out = width << (stage - 1);
        let conv = AolConv2d::new(&vb.pp(format!("aol{stage}")), 4 * channels, out, 3)?;
        blocks.extend([
            Block::SpaceToDepth { block: 2 },
            Block::AolConv2d(conv),
            Block::MaxMin,
        ]);
        for i in 0..sll {
            blocks.push(Block::SllConv2d(SllConv2d::new(
                &vb.pp(format!("sll{stage}.{i}")),
                out,
                out,
                3,
            )?));
        }
        channels = out;
    }
    blocks.extend([Block::SpaceToDepth { block: 2 }, Block::Flatten]);
    Ok((
        blocks,
        4 * channels * height.div_ceil(MULTIPLE) * across.div_ceil(MULTIPLE),
    ))
}

/// As [`of_images`], along one axis.
fn of_signals(
    vb: &VarBuilder,
    [mut channels, length]: [usize; 2],
    width: usize,
    sll: usize,
) -> Part {
    let mut blocks = vec![Block::Row];
    let [left, right] = missing(length);
    if [left, right] != [0; 2] {
        blocks.push(Block::ZeroPad {
            padding: [0, 0, left, right],
        });
    }
    for stage in 1..=STAGES {
        let out = width << (stage - 1);
        let conv = AolConv2d::along_rows(&vb.pp(format!("aol{stage}")), 2 * channels, out, 3)?;
        blocks.extend([Block::PairsToDepth, Block::AolConv2d(conv), Block::MaxMin]);
        for i in 0..sll {
            blocks.push(Block::SllConv2d(SllConv2d::along_rows(
                &vb.pp(format!("sll{stage}.{i}")),
                out,
                out,
                3,
            )?));
        }
        channels = out;
    }
    blocks.extend([Block::PairsToDepth, Block::Flatten]);
    Ok((blocks, 2 * channels * length.div_ceil(MULTIPLE)))
}

fn of_vectors(vb: &VarBuilder, inputs: usize, width: usize, sll: usize) -> Part {
    let linear = OrthonormalLinear::new(&vb.pp("in"), inputs, width)?;
    let mut blocks = vec![
        Block::Flatten,
        Block::OrthonormalLinear(linear),
        Block::MaxMin,
    ];
    if sll > 0 {
        blocks.push(Block::Unflatten);
        for i in 0..sll {
            blocks.push(Block::SllConv2d(SllConv2d::new(
                &vb.pp(format!("sll.{i}")),
                width,
                width,
                1,
            )?));
        }
        blocks.push(Block::Flatten);
    }
    Ok((blocks, width))
}

/// Beyond this, one layer alone fills a machine.
const LARGEST: usize = 1 << 16;

fn positive(kind: &'static str, sizes: &[(&'static str, usize)]) -> Result<(), BuildError> {
    match sizes.iter().find(|(_, size)| *size == 0 || *size > LARGEST) {
        Some((what, given)) => Err(BuildError::Size {
            kind,
            what,
            given: *given,
        }),
        None => Ok(()),
    }
}
