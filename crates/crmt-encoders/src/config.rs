//! Which encoder to build, as a configuration file says it.
//! Does not know where the configuration was read.
use crate::{Block, Chain};
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
    /// `depth` times `conv 3×3 stride 2, [batch norm,] relu` with channels `width, 2·width, 4·width, …`,
    /// then `flatten, linear(features)`. Samples are `[channels, height, width]`.
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
}

/// Why an encoder can't be built.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BuildError {
    /// Convolutions need `[channels, height, width]`.
    #[error("a cnn needs samples of shape [channels, height, width], got {shape:?}: use the encoder `mlp`")]
    NotAnImage {
        /// Shape of one sample.
        shape: Vec<usize>,
    },
    /// A size that must be positive is zero.
    #[error("encoder `{kind}`: {what} must be at least 1")]
    Zero {
        /// Kind of encoder.
        kind: &'static str,
        /// Which setting.
        what: &'static str,
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
}

impl EncoderConfig {
    /// Builds the encoder for samples of `shape`, with parameters from `vb`.
    ///
    /// # Errors
    /// When the architecture can't take this shape, or `vb` lacks a parameter.
    pub fn build(&self, shape: &[usize], vb: VarBuilder) -> Result<Box<dyn Encoder>, BuildError> {
        let inputs: usize = shape.iter().product();
        let chain = match *self {
            Self::Linear { features } => {
                positive("linear", &[("features", features)])?;
                Chain::new(vec![Block::Flatten, Block::linear(&vb.pp("fc"), inputs, features)?], features)
            }
            Self::Mlp { width, depth, features } => {
                positive("mlp", &[("width", width), ("depth", depth), ("features", features)])?;
                let mut blocks = vec![Block::Flatten];
                let mut from = inputs;
                for i in 1..=depth {
                    blocks.extend([Block::linear(&vb.pp(format!("fc{i}")), from, width)?, Block::Relu]);
                    from = width;
                }
                blocks.push(Block::linear(&vb.pp("fc"), from, features)?);
                Chain::new(blocks, features)
            }
            Self::Cnn { width, depth, features, batch_norm } => {
                positive("cnn", &[("width", width), ("depth", depth), ("features", features)])?;
                let &[mut channels, mut height, mut across] = shape else {
                    return Err(BuildError::NotAnImage { shape: shape.to_vec() });
                };
                if depth > 16 {
                    return Err(BuildError::TooDeep { depth });
                }
                let mut blocks = vec![];
                for i in 0..depth {
                    let out = width << i;
                    blocks.push(Block::conv2d(&vb.pp(format!("conv{}", i + 1)), channels, out, 3, 2, 1)?);
                    if batch_norm {
                        blocks.push(Block::batch_norm(&vb.pp(format!("bn{}", i + 1)), out)?);
                    }
                    blocks.push(Block::Relu);
                    (channels, height, across) = (out, height.div_ceil(2), across.div_ceil(2));
                }
                blocks.extend([Block::Flatten, Block::linear(&vb.pp("fc"), channels * height * across, features)?]);
                Chain::new(blocks, features)
            }
        };
        Ok(Box::new(chain))
    }
}

fn positive(kind: &'static str, sizes: &[(&'static str, usize)]) -> Result<(), BuildError> {
    match sizes.iter().find(|(_, size)| *size == 0) {
        Some((what, _)) => Err(BuildError::Zero { kind, what }),
        None => Ok(()),
    }
}
