//! The composed model: encoders, a head, and the pair of a live model with its frozen twin.
//! Does not know objectives, attacks or where weights are stored.
use crate::{Head, HeadConfig, Parameters};
use candle_core::{DType, Device, Tensor};
use candle_nn::VarBuilder;
use crmt_core::{
    AdditiveClassifier, AdditiveScores, Classifier, Encoder, Fusion, Integration, Modality, Mode,
    PerModality, Result, Streams, Trainable, Variable,
};
use serde::{Deserialize, Serialize};

/// Builds one modality's encoder from its parameters.
pub type BuildEncoder<'a> =
    dyn Fn(usize, &Modality, VarBuilder) -> Result<Box<dyn Encoder>, BuildError> + 'a;

/// What, besides the encoders, makes up a model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ModelConfig {
    /// The head.
    pub head: HeadConfig,
    /// Number of classes.
    pub classes: usize,
}

/// Why a model can't be built.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BuildError {
    /// An encoder can't be built.
    #[error("modality `{modality}`: {source}")]
    Encoder {
        /// Name of the modality.
        modality: String,
        /// Why.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// Orthonormal rows need at least as many features as classes.
    #[error(
        "modality `{modality}`: {classes} classes need at least as many features for orthonormal rows, the encoder has \
         {features}: raise `features`"
    )]
    TooFewFeatures {
        /// Name of the modality.
        modality: String,
        /// Number of classes.
        classes: usize,
        /// Number of features.
        features: usize,
    },
    /// The tensor library refused, or a parameter is missing or of another shape.
    #[error(transparent)]
    Tensor(#[from] candle_core::Error),
}

/// A late-fusion model, in one mode or the other as the caller says.
pub struct Model {
    modalities: PerModality<Modality>,
    encoders: PerModality<Box<dyn Encoder>>,
    head: Head,
}

impl Model {
    /// Parameters are `encoders.{modality}.…` and `head.…` of `vb`.
    pub fn build(
        config: &ModelConfig,
        modalities: &PerModality<Modality>,
        encoder: &BuildEncoder,
        vb: VarBuilder,
    ) -> Result<Self, BuildError> {
        let encoders = modalities.try_enumerate(|m, modality| {
            encoder(m, modality, vb.pp("encoders").pp(&modality.name))
        })?;
        let dims = encoders.map(|e| e.out_dim());
        use crate::Rows::Orthonormal as Full;
        if matches!(
            config.head,
            HeadConfig::Orthonormal { rows: Full, .. } | HeadConfig::Gauged { rows: Full }
        ) {
            for (modality, features) in modalities.iter().zip(&dims) {
                if *features < config.classes {
                    return Err(BuildError::TooFewFeatures {
                        modality: modality.name.clone(),
                        classes: config.classes,
                        features: *features,
                    });
                }
            }
        }
        let names = modalities.map(|m| m.name.as_str());
        let head = Head::new(&config.head, &names, &dims, config.classes, vb.pp("head"))?;
        Ok(Self {
            modalities: modalities.clone(),
            encoders,
            head,
        })
    }

    /// Inputs to scores in `mode`.
    pub fn forward(&self, inputs: &PerModality<Tensor>, mode: Mode) -> Result<AdditiveScores> {
        self.head.fuse(&self.features(inputs, mode)?)
    }

    /// Inputs to features in `mode`.
    pub fn features(
        &self,
        inputs: &PerModality<Tensor>,
        mode: Mode,
    ) -> Result<PerModality<Tensor>> {
        inputs
            .zip(&self.encoders, "inputs")?
            .try_enumerate(|m, (x, _)| self.features_of(m, x, mode))
    }

    pub(crate) fn features_of(&self, m: usize, x: &Tensor, mode: Mode) -> Result<Tensor> {
        self.modalities[m].check(x)?;
        self.encoders[m].encode(x, mode)
    }

    /// One for each modality.
    pub fn encoders(&self) -> &PerModality<Box<dyn Encoder>> {
        &self.encoders
    }

    /// The head.
    pub fn head(&self) -> &Head {
        &self.head
    }
}

/// The model as attacks and certificates see it: [`Mode::Eval`].
impl Classifier for Model {
    fn modalities(&self) -> &PerModality<Modality> {
        &self.modalities
    }
    fn logits(&self, inputs: &PerModality<Tensor>) -> Result<Tensor> {
        self.scores(inputs)?.logits()
    }
}

impl AdditiveClassifier for Model {
    fn scores(&self, inputs: &PerModality<Tensor>) -> Result<AdditiveScores> {
        self.forward(inputs, Mode::Eval)
    }
}

/// A model in training: the live one, and a frozen twin on the same storage.
pub struct Learner {
    live: Model,
    fixed: Model,
    parameters: Parameters,
}

impl Learner {
    /// Initialises a model from `streams` (f32).
    pub fn new(
        config: &ModelConfig,
        modalities: &PerModality<Modality>,
        encoder: &BuildEncoder,
        streams: Streams,
        device: &Device,
    ) -> Result<Self, BuildError> {
        let parameters = Parameters::new(streams);
        let live = Model::build(
            config,
            modalities,
            encoder,
            parameters.live(DType::F32, device),
        )?;
        let fixed = Model::build(
            config,
            modalities,
            encoder,
            parameters.frozen(DType::F32, device),
        )?;
        Ok(Self {
            live,
            fixed,
            parameters,
        })
    }

    /// The frozen twin.
    pub fn model(&self) -> &Model {
        &self.fixed
    }
}

impl Trainable for Learner {
    fn features(&self, inputs: &PerModality<Tensor>, mode: Mode) -> Result<PerModality<Tensor>> {
        self.live.features(inputs, mode)
    }
    fn fuse(&self, features: &PerModality<Tensor>) -> Result<AdditiveScores> {
        self.live.head.fuse(features)
    }
    fn fixed(&self) -> &dyn AdditiveClassifier {
        &self.fixed
    }
    fn variables(&self) -> Vec<Variable> {
        self.parameters.variables()
    }
    fn integration(&self) -> Option<Integration> {
        self.live.head.integration()
    }
}
