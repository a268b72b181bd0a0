//! The plan as a whole: all sections, and what they build.
//! Does not know what is wrong with it.
use super::{
    sections::{
        CertifyPlan, EvaluatePlan, FalsifyPlan, ModelPlan, SEEDS, SmoothPlan, SyntheticPlan,
    },
    training::{
        AdversaryPlan, CertifiedPlan, GBlendPlan, MsefmPlan, OgmGePlan, PmrPlan, SelectPlan,
        StepTwoPlan, TrainPlan,
    },
};
use crate::{
    methods::METHODS,
    precision::{F64, Precision},
    threat::DECLARED,
};
use anyhow::Result;
use crmt_encoders::EncoderConfig;
use crmt_fusion::{HeadConfig, Rows};
use crmt_kernels::Compute;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Everything that determines a run. The same plan on the same data gives the same bits on a CPU.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Plan {
    /// `synthetic`, or a directory with a `dataset.toml`.
    #[schemars(length(min = 1))]
    pub data: String,
    /// Names of the modalities to use, in order; empty for all that the data have.
    #[schemars(length(max = 1000))]
    pub modalities: Vec<String>,
    /// How to train: a name of `train --help`.
    #[schemars(extend("enum" = method_names()))]
    pub method: String,
    /// What the run goes by in reports and tables; empty for its method. Changes no result.
    pub label: String,
    /// Everything random derives from it.
    #[schemars(range(max = SEEDS))]
    pub seed: u64,
    /// Where tensors live: `cpu`, `cuda` or `cuda:N`.
    pub device: String,
    /// The built-in data set; unused with others.
    pub synthetic: SyntheticPlan,
    /// Encoders and head.
    pub model: ModelPlan,
    /// The first (for most methods: the only) phase of training.
    pub train: TrainPlan,
    /// The inner attack when `train.inputs = "adversarial"`.
    pub adversary: AdversaryPlan,
    /// The objective when `train.objective = "certified"`.
    pub certified: CertifiedPlan,
    /// The objective when `train.objective = "g-blend"`.
    pub g_blend: GBlendPlan,
    /// The objective when `train.objective = "ogm-ge"`.
    pub ogm_ge: OgmGePlan,
    /// The objective when `train.objective = "pmr"`.
    pub pmr: PmrPlan,
    /// The objective when `train.objective = "msefm"`.
    pub msefm: MsefmPlan,
    /// How the best epoch is chosen.
    pub select: SelectPlan,
    /// CRMT's second step.
    pub step2: StepTwoPlan,
    /// Lipschitz constants and radii.
    pub certify: CertifyPlan,
    /// Attacks on the trained model.
    pub evaluate: EvaluatePlan,
    /// Attacks on its certificates.
    pub falsify: FalsifyPlan,
    /// Randomized smoothing of the trained model: `certify --smooth`.
    pub smooth: SmoothPlan,
}

impl Default for Plan {
    fn default() -> Self {
        Self {
            data: "synthetic".into(),
            modalities: vec![],
            method: "crmt-jt".into(),
            label: String::new(),
            seed: 0,
            device: "cpu".into(),
            synthetic: SyntheticPlan {
                train: 6000,
                select: 1000,
                report: 1000,
                image_snr_db: 8.0,
                audio_snr_db: 8.0,
            },
            model: ModelPlan {
                encoder: "auto".into(),
                encoders: BTreeMap::new(),
                features: 128,
                cnn_width: 32,
                cnn_depth: 4,
                batch_norm: false,
                mlp_width: 256,
                mlp_depth: 2,
                lipschitz_width: 16,
                lipschitz_blocks: 1,
                lipschitz_hidden: vec![256],
                memory: 0,
                head: "concat".into(),
                initial_weight: 0.1,
            },
            train: TrainPlan::default(),
            adversary: AdversaryPlan::default(),
            certified: CertifiedPlan::default(),
            g_blend: GBlendPlan::default(),
            ogm_ge: OgmGePlan::default(),
            pmr: PmrPlan::default(),
            msefm: MsefmPlan::default(),
            select: SelectPlan::default(),
            step2: StepTwoPlan::default(),
            certify: CertifyPlan {
                evidence: "auto".into(),
                program: F64.into(),
                eps: vec![],
                samples: 2000,
                lipschitz: "max-gradient".into(),
            },
            evaluate: EvaluatePlan {
                eps: vec![0.5, 1.0],
                samples: 100,
                norm: "l2".into(),
                threats: vec![],
                baseline: DECLARED.into(),
                attacks: vec!["fgm".into(), "pgd".into()],
                steps: 40,
                restarts: 0,
                standard_steps: 100,
                targets: 9,
                queries: 5000,
                seed: 0,
                check_samples: 10,
                precision: Precision::default().name().into(),
            },
            falsify: FalsifyPlan {
                samples: 50,
                threats: vec![],
                steps: 40,
                rays: 4,
                tightness_samples: 10,
            },
            smooth: SmoothPlan::default(),
        }
    }
}

impl Plan {
    /// Where tensors live.
    pub fn compute(&self) -> Result<Compute> {
        self.device.parse().map_err(anyhow::Error::msg)
    }

    /// The encoder for a modality with samples of `shape`.
    pub fn encoder(&self, modality: &str, shape: &[usize]) -> EncoderConfig {
        let model = &self.model;
        let auto = if shape.len() == 3 { "cnn" } else { "mlp" };
        let kind = match model
            .encoders
            .get(modality)
            .unwrap_or(&model.encoder)
            .as_str()
        {
            "auto" => auto,
            kind => kind,
        };
        let features = model.features;
        let encoder = match kind {
            "linear" => EncoderConfig::Linear { features },
            "resnet18" => EncoderConfig::Resnet18,
            "lipschitz" => EncoderConfig::Lipschitz {
                width: model.lipschitz_width,
                blocks: model.lipschitz_blocks,
                hidden: model.lipschitz_hidden.clone(),
                features,
            },
            "mlp" => EncoderConfig::Mlp {
                width: model.mlp_width,
                depth: model.mlp_depth,
                features,
            },
            _ => EncoderConfig::Cnn {
                width: model.cnn_width,
                depth: model.cnn_depth,
                features,
                batch_norm: model.batch_norm,
            },
        };
        match model.memory {
            0 => encoder,
            slots => EncoderConfig::Memory {
                encoder: Box::new(encoder),
                slots,
            },
        }
    }

    /// The head.
    pub fn head(&self) -> HeadConfig {
        let initial_weight = self.model.initial_weight;
        match self.model.head.as_str() {
            "concat" => HeadConfig::Concat,
            "gauged" => HeadConfig::Gauged {
                rows: Rows::Orthonormal,
            },
            "unit-rows" => HeadConfig::Orthonormal {
                rows: Rows::Unit,
                initial_weight,
            },
            _ => HeadConfig::Orthonormal {
                rows: Rows::Orthonormal,
                initial_weight,
            },
        }
    }
}

fn method_names() -> Vec<&'static str> {
    METHODS.iter().map(|m| m.name).collect()
}
