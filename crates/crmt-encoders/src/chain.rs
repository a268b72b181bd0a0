//! A chain of blocks: the forward pass, and its description for an auditor, from one list.
//! Does not know which architecture the list makes up.
use crate::{Block, describe::describe};
use candle_core::{D, Tensor};
use crmt_core::{Encoder, Layer, Mode, Result};
use crmt_kernels as kernels;

/// Blocks applied one after another.
#[derive(Debug, Clone)]
pub struct Chain {
    blocks: Vec<Block>,
    out_dim: usize,
    /// Of a sample; any, if not known.
    shape: Option<Vec<usize>>,
    algorithms: kernels::Algorithms,
}

impl Chain {
    /// `out_dim`: features that the last block puts out.
    pub fn new(blocks: Vec<Block>, out_dim: usize) -> Self {
        Self {
            blocks,
            out_dim,
            shape: None,
            algorithms: kernels::Algorithms::default(),
        }
    }

    /// The same function, of samples of this shape only: constants such as a mean's are about no
    /// other.
    pub fn of_samples(self, shape: &[usize]) -> Self {
        Self {
            shape: Some(shape.to_vec()),
            ..self
        }
    }

    /// The same function, its convolutions computed as `algorithms` says.
    pub fn with(self, algorithms: kernels::Algorithms) -> Self {
        Self { algorithms, ..self }
    }

    /// The blocks, in order of application.
    pub fn blocks(&self) -> &[Block] {
        &self.blocks
    }

    /// The same function, bit for bit, and the same description, with every derived weight (AOL,
    /// SLL, orthonormal) computed once instead of in each pass.
    ///
    /// Only for parameters that no longer change, such as a checkpoint's: a baked chain does not
    /// follow training, and has no parameter gradients. That is why a chain does not bake by
    /// itself: a frozen twin shares its storage with live parameters and could not tell that a
    /// cached weight is stale.
    pub fn bake(&self) -> Result<Self> {
        let blocks = self
            .blocks
            .iter()
            .map(Block::bake)
            .collect::<candle_core::Result<_>>()?;
        Ok(Self {
            blocks,
            ..self.clone()
        })
    }
}

impl Encoder for Chain {
    fn out_dim(&self) -> usize {
        self.out_dim
    }

    fn encode(&self, x: &Tensor, mode: Mode) -> Result<Tensor> {
        if let Some(shape) = self
            .shape
            .as_ref()
            .filter(|shape| x.dims().get(1..) != Some(shape.as_slice()))
        {
            return Err(candle_core::Error::Msg(format!(
                "this encoder is of samples of shape {shape:?}, got a batch of shape {:?}",
                x.dims()
            ))
            .into());
        }
        let (mut features, mut rest) = (x.clone(), &self.blocks[..]);
        while let [block, tail @ ..] = rest {
            let stacked = rest.iter().take_while(|block| block.stacks()).count();
            if stacked > 1 && features.rank() == 4 {
                let layers = rest[..stacked]
                    .iter()
                    .map(Block::image_layer)
                    .filter_map(candle_core::Result::transpose);
                let layers = layers.collect::<candle_core::Result<Vec<_>>>()?;
                (features, rest) = (kernels::image_stack(&features, &layers)?, &rest[stacked..]);
                continue;
            }
            let layers = match features.rank() {
                4 => network_layers(rest, mode)?,
                _ => vec![],
            };
            (features, rest) = match layers.len() {
                0 => (block.forward(&features, mode)?, tail),
                n => {
                    let images = kernels::image_network(&features, &layers, self.algorithms)?;
                    let flat = matches!(layers[n - 1], kernels::NetworkLayer::Mean);
                    (
                        if flat {
                            images.flatten_from(1)?
                        } else {
                            images
                        },
                        &rest[n..],
                    )
                }
            };
        }
        debug_assert_eq!(features.dim(D::Minus1)?, self.out_dim);
        Ok(features)
    }

    fn layers(&self) -> Result<Vec<Layer>> {
        Ok(describe(&self.blocks, self.shape.as_deref())?)
    }
}

/// As many blocks from the first on as [`kernels::image_network`] computes together.
fn network_layers(blocks: &[Block], mode: Mode) -> candle_core::Result<Vec<kernels::NetworkLayer>> {
    blocks
        .iter()
        .map_while(|block| block.network_layer(mode).transpose())
        .collect()
}
