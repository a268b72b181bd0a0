//! `model.safetensors`: weights under PyTorch-like names, with the model's configuration and a
//! content hash in the metadata. Does not know training.
use crate::{
    run_dir::write_file,
    sealed::{Sealed, content_hash},
};
use anyhow::{Context, Result};
use candle_core::{DType, Device, Tensor};
use candle_nn::VarBuilder;
use crmt_core::{Domain, Modality, PerModality, Streams, Trainable};
use crmt_encoders::EncoderConfig;
use crmt_fusion::{BuildError, HeadConfig, Learner, Model, ModelConfig};
use serde::{Deserialize, Serialize};
use std::{
    collections::{BTreeMap, HashMap},
    path::Path,
};

/// What a checkpoint's metadata describes.
const KIND: &str = "architecture";

/// All that is needed, besides the weights, to rebuild a model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Architecture {
    /// In order.
    pub modalities: Vec<ModalityRecord>,
    /// The head.
    pub head: HeadConfig,
    /// Class names, in label order.
    pub classes: Vec<String>,
}

/// One modality and its encoder.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ModalityRecord {
    /// Its name.
    pub name: String,
    /// Shape of one sample.
    pub shape: Vec<usize>,
    /// Valid range by channel, one entry for all; none if unbounded.
    pub range: Option<(Vec<f64>, Vec<f64>)>,
    /// Natural unit of a perturbation.
    pub scale: f64,
    /// Its encoder.
    pub encoder: EncoderConfig,
}

impl Architecture {
    /// For a data set's modalities.
    pub fn new(
        modalities: &PerModality<Modality>,
        classes: &[String],
        head: HeadConfig,
        encoder: impl Fn(&Modality) -> EncoderConfig,
    ) -> Self {
        let record = |m: &Modality| ModalityRecord {
            name: m.name.clone(),
            shape: m.shape.clone(),
            range: range(&m.domain),
            scale: m.scale,
            encoder: encoder(m),
        };
        Self {
            modalities: modalities.iter().map(record).collect(),
            head,
            classes: classes.to_vec(),
        }
    }

    /// The modalities as the model sees them.
    pub fn modalities(&self) -> Result<PerModality<Modality>> {
        let modality = |r: &ModalityRecord| {
            let domain = match &r.range {
                None => Domain::Unbounded,
                Some((lo, hi)) if lo.len() == 1 && hi.len() == 1 => Domain::Interval {
                    lo: lo[0],
                    hi: hi[0],
                },
                Some((lo, hi)) => Domain::Channels {
                    lo: lo.clone(),
                    hi: hi.clone(),
                },
            };
            Modality {
                name: r.name.clone(),
                shape: r.shape.clone(),
                domain,
                scale: r.scale,
            }
        };
        PerModality::new(self.modalities.iter().map(modality).collect())
            .context("a model without modalities")
    }

    /// A fresh model to train, initialised from `streams`.
    pub fn learner(&self, streams: Streams, device: &Device) -> Result<Learner> {
        Ok(Learner::new(
            &self.config(),
            &self.modalities()?,
            &self.builder(EncoderConfig::build),
            streams,
            device,
        )?)
    }

    /// A fixed model with these weights, computing in `dtype`.
    pub fn model(
        &self,
        weights: &BTreeMap<String, Tensor>,
        dtype: DType,
        device: &Device,
    ) -> Result<Model> {
        let weights: HashMap<String, Tensor> = weights
            .iter()
            .map(|(k, v)| (k.clone(), v.clone()))
            .collect();
        let vb = VarBuilder::from_tensors(weights, dtype, device);
        // These weights no longer change, so what derives from them is computed once.
        Ok(Model::build(
            &self.config(),
            &self.modalities()?,
            &self.builder(EncoderConfig::build_fixed),
            vb,
        )?)
    }

    fn config(&self) -> ModelConfig {
        ModelConfig {
            head: self.head.clone(),
            classes: self.classes.len(),
        }
    }

    fn builder(
        &self,
        build: BuildOne,
    ) -> impl Fn(usize, &Modality, VarBuilder) -> BuiltOne<BuildError> + '_ {
        move |m, modality, vb| {
            build(&self.modalities[m].encoder, &modality.shape, vb).map_err(|e| {
                BuildError::Encoder {
                    modality: modality.name.clone(),
                    source: Box::new(e),
                }
            })
        }
    }
}

/// The bounds of each channel, one entry for all; none if unbounded.
pub fn range(domain: &Domain) -> Option<(Vec<f64>, Vec<f64>)> {
    match domain {
        Domain::Unbounded => None,
        Domain::Interval { lo, hi } => Some((vec![*lo], vec![*hi])),
        Domain::Channels { lo, hi } => Some((lo.clone(), hi.clone())),
    }
}

type BuiltOne<E> = Result<Box<dyn crmt_core::Encoder>, E>;
type BuildOne = fn(&EncoderConfig, &[usize], VarBuilder) -> BuiltOne<crmt_encoders::BuildError>;

/// The hash that [`save`] writes for this model.
pub fn hash(architecture: &Architecture, weights: &BTreeMap<String, Tensor>) -> Result<String> {
    content_hash(&serde_json::to_string(architecture)?, weights)
}

/// Writes weights (f32) and architecture atomically. Returns the content hash.
pub fn save(
    path: &Path,
    architecture: &Architecture,
    weights: &BTreeMap<String, Tensor>,
) -> Result<String> {
    let sealed = Sealed::new(serde_json::to_string(architecture)?, weights.clone())?;
    write_file(path, &sealed.to_bytes(KIND)?)?;
    Ok(sealed.hash)
}

/// A checkpoint, as read.
#[derive(Debug)]
pub struct Checkpoint {
    /// How to rebuild the model.
    pub architecture: Architecture,
    /// By name.
    pub weights: BTreeMap<String, Tensor>,
    /// Of architecture and weights.
    pub hash: String,
}

/// Reads what [`save`] wrote.
///
/// # Errors
/// A file that is truncated, altered, or not of this program is refused by name.
pub fn load(path: &Path) -> Result<Checkpoint> {
    let Sealed {
        description,
        tensors: weights,
        hash,
    } = Sealed::read(path, KIND)?;
    let architecture = serde_json::from_str(&description)
        .with_context(|| format!("{} holds a model this version can't build", path.display()))?;
    Ok(Checkpoint {
        architecture,
        weights,
        hash,
    })
}

/// A model's state by name.
pub fn weights(learner: &Learner) -> BTreeMap<String, Tensor> {
    learner
        .variables()
        .into_iter()
        .map(|v| (v.name, v.var.as_detached_tensor()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crmt_core::Classifier;
    use crmt_fusion::Rows;

    fn architecture() -> Architecture {
        let modalities = PerModality::from([
            Modality::new("image", &[1, 6, 5], Domain::Interval { lo: 0.0, hi: 1.0 }),
            Modality::new("pen", &[4], Domain::Unbounded),
        ]);
        let head = HeadConfig::Orthonormal {
            rows: Rows::Orthonormal,
            initial_weight: 0.1,
        };
        Architecture::new(
            &modalities,
            &["a".into(), "b".into(), "c".into()],
            head,
            |m| match m.name.as_str() {
                "image" => EncoderConfig::Cnn {
                    width: 2,
                    depth: 2,
                    features: 4,
                    batch_norm: true,
                },
                _ => EncoderConfig::Mlp {
                    width: 5,
                    depth: 1,
                    features: 3,
                },
            },
        )
    }

    fn weights(learner: &Learner) -> BTreeMap<String, Tensor> {
        learner
            .variables()
            .into_iter()
            .map(|v| (v.name, v.var.as_detached_tensor()))
            .collect()
    }

    #[test]
    fn a_checkpoint_gives_the_same_logits_back() -> Result<()> {
        let dir = tempfile::tempdir()?;
        let path = dir.path().join("model.safetensors");
        let architecture = architecture();
        let learner = architecture.learner(Streams::new(3), &Device::Cpu)?;
        let hash = save(&path, &architecture, &weights(&learner))?;
        let read = load(&path)?;
        assert_eq!((&read.architecture, &read.hash), (&architecture, &hash));
        assert!(
            read.weights.contains_key("encoders.image.conv1.weight"),
            "{:?}",
            read.weights.keys()
        );
        let x = PerModality::from([
            Tensor::arange(0f32, 60., &Device::Cpu)?.reshape((2, 1, 6, 5))?,
            Tensor::arange(0f32, 8., &Device::Cpu)?.reshape((2, 4))?,
        ]);
        let again = read
            .architecture
            .model(&read.weights, DType::F32, &Device::Cpu)?;
        let bits = |t: Tensor| t.flatten_all()?.to_vec1::<f32>();
        assert_eq!(bits(again.logits(&x)?)?, bits(learner.fixed().logits(&x)?)?);
        Ok(())
    }

    #[test]
    fn every_byte_that_changes_is_noticed() -> Result<()> {
        let dir = tempfile::tempdir()?;
        let path = dir.path().join("model.safetensors");
        let learner = architecture().learner(Streams::new(3), &Device::Cpu)?;
        let hash = save(&path, &architecture(), &weights(&learner))?;
        let good = std::fs::read(&path)?;
        for cut in [0, 7, 20, good.len() / 2, good.len() - 1] {
            std::fs::write(&path, &good[..cut])?;
            let error = format!("{:#}", load(&path).unwrap_err());
            assert!(error.contains("model.safetensors"), "{error}");
        }
        for at in (8..good.len()).step_by(97) {
            let mut bad = good.clone();
            bad[at] ^= 0x40;
            std::fs::write(&path, &bad)?;
            // What a reader of safetensors ignores (white space, the `format` entry) may change.
            let harmless =
                load(&path).is_ok_and(|c| c.hash == hash && c.architecture == architecture());
            assert!(
                load(&path).is_err() || harmless,
                "a changed byte at {at} went unnoticed"
            );
        }
        Ok(())
    }
}
