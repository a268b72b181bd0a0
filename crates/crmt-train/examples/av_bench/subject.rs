//! The model and the batch that are worked on. Does not know the work.
use crate::{Architecture, Options, Work};
use candle_core::{Device, Tensor};
use candle_nn::VarBuilder;
use crmt_core::{Batch, Domain, Encoder, Modality, PerModality, Streams};
use crmt_encoders::{Block, Chain, EncoderConfig};
use crmt_fusion::{BuildError, HeadConfig, Learner, Model, ModelConfig, Rows};
use rand::Rng;
use rand_distr::StandardNormal;
use std::error::Error;

/// Random weights, random inputs.
pub struct Subject {
    /// A live model and its frozen twin.
    pub learner: Learner,
    /// As many samples as asked for.
    pub batch: Batch,
}

impl Subject {
    pub fn new(options: &Options, device: &Device) -> Result<Self, Box<dyn Error>> {
        let modalities = PerModality::from_fn(options.modalities.get(), |m| {
            Modality::new(format!("m{m}"), &shape(options, m), Domain::Unbounded)
        });
        let head = match options.work {
            Work::StepJt => HeadConfig::Concat,
            _ => HeadConfig::Orthonormal {
                rows: Rows::Orthonormal,
                initial_weight: 1.,
            },
        };
        let config = ModelConfig {
            head,
            classes: options.classes.get(),
        };
        let encoder =
            |_: usize, modality: &Modality, vb: VarBuilder| encoder(options, modality, &vb);
        let learner = Learner::new(&config, &modalities, &encoder, Streams::new(0), device)?;
        let batch = options.batch.get();
        // Drawn on the host: the same on every device.
        let mut rng = Streams::new(0).stream("inputs", 0);
        let random = |m: &Modality| {
            let shape = [&[batch], &m.shape[..]].concat();
            let values: Vec<f32> = (0..shape.iter().product())
                .map(|_| rng.sample(StandardNormal))
                .collect();
            Tensor::from_vec(values, shape, device)
        };
        let classes = options.classes.get();
        let labels = Tensor::from_iter((0..batch).map(|i| (i % classes) as u32), device)?;
        Ok(Self {
            learner,
            batch: Batch::new(modalities.try_map(random)?, labels)?,
        })
    }

    /// The frozen twin.
    pub fn fixed(&self) -> &Model {
        self.learner.model()
    }

    /// What goes in.
    pub fn modalities(&self) -> &PerModality<Modality> {
        crmt_core::Classifier::modalities(self.fixed())
    }
}

/// An image (or a clip) and a spectrogram in turn.
fn shape(options: &Options, m: usize) -> Vec<usize> {
    let (height, width) = options.spectrogram;
    match options.model {
        _ if m % 2 == 1 => vec![1, height, width],
        Architecture::Cnn => vec![1, 28, 28],
        Architecture::Resnet18 => vec![
            3,
            options.frames.get(),
            options.image.get(),
            options.image.get(),
        ],
    }
}

/// The only place that tells the encoders apart.
fn encoder(
    options: &Options,
    modality: &Modality,
    vb: &VarBuilder,
) -> Result<Box<dyn Encoder>, BuildError> {
    let refused = |source: Box<dyn Error + Send + Sync>| BuildError::Encoder {
        modality: modality.name.clone(),
        source,
    };
    match options.model {
        Architecture::Cnn => Ok(Box::new(cnn(vb, &modality.shape, options.width.get())?)),
        Architecture::Resnet18 => EncoderConfig::Resnet18
            .build(&modality.shape, vb.clone())
            .map_err(|e| refused(e.into())),
    }
}

/// Channels of the cnn, from its input on.
pub fn channels(input: usize, width: usize) -> [usize; 5] {
    [input, width, 2 * width, 4 * width, 8 * width]
}

/// Four convolutions 3×3 of stride 2 with ReLUs, and the mean over all pixels.
fn cnn(vb: &VarBuilder, shape: &[usize], width: usize) -> candle_core::Result<Chain> {
    let channels = channels(shape[0], width);
    let mut blocks = vec![];
    for (i, pair) in channels.windows(2).enumerate() {
        blocks.extend([
            Block::conv2d(&vb.pp(i), pair[0], pair[1], 3, 2, 1)?,
            Block::Relu,
        ]);
    }
    blocks.push(Block::Mean {
        pixels: shape[1..].iter().map(|n| n.div_ceil(16)).product(),
    });
    Ok(Chain::new(blocks, channels[4]))
}
