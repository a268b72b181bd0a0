//! The resolved plan of a run: every setting, typed, with the defaults.
//! Does not know where a value came from; `settings.rs` does.
#[cfg(test)]
mod extremes;
#[cfg(test)]
mod reference;
pub mod schema;
mod size;
mod training;

pub use training::{
    AdversaryPlan, CertifiedPlan, GBlendPlan, MsefmPlan, OgmGePlan, OptimizerKind, PmrPlan, SelectPlan, StepTwoPlan,
    TrainPlan,
};

use crate::{
    baselines::BASELINES,
    lipschitz::{F64, PROGRAMS},
    methods::METHODS,
    precision::Precision,
    settings::flatten,
    threat::DECLARED,
};
use anyhow::{Result, bail};
use crmt_data::visible;
use crmt_encoders::EncoderConfig;
use crmt_fusion::{HeadConfig, Rows};
use crmt_kernels::Compute;
use schema::SEEDS;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use toml::{Table, Value};

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

/// The built-in audio-visual digits.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SyntheticPlan {
    /// Training samples of the built-in data.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub train: usize,
    /// Samples to select the best epoch on.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub select: usize,
    /// Samples to report on.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub report: usize,
    /// Signal-to-noise ratio of the images, dB.
    #[schemars(range(min = -300.0), extend("infinite" = true))]
    pub image_snr_db: f64,
    /// Signal-to-noise ratio of the sound, dB.
    #[schemars(range(min = -300.0), extend("infinite" = true))]
    pub audio_snr_db: f64,
}

/// Which network.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ModelPlan {
    /// `auto` (a CNN for `[channels, height, width]`, an MLP otherwise), `cnn`, `resnet18` (the published recipe's: 512
    /// features, also for clips `[channels, frames, height, width]`), `mlp`, `linear`, or `lipschitz` (1-Lipschitz by
    /// construction, for every shape).
    #[schemars(extend("enum" = ENCODERS))]
    pub encoder: String,
    /// The same for one modality by name; it wins over `encoder`.
    #[schemars(extend("additionalProperties" = {"type": "string", "enum": ENCODERS}))]
    pub encoders: BTreeMap<String, String>,
    /// Features of each encoder.
    #[schemars(range(min = 1, max = 65536))]
    pub features: usize,
    /// Channels of a CNN's first layer; they double with each layer.
    #[schemars(range(min = 1, max = 65536))]
    pub cnn_width: usize,
    /// Convolutions of a CNN, each of stride 2.
    #[schemars(range(min = 1, max = 16))]
    pub cnn_depth: usize,
    /// Normalise after each convolution.
    pub batch_norm: bool,
    /// Hidden units of an MLP.
    #[schemars(range(min = 1, max = 65536))]
    pub mlp_width: usize,
    /// Hidden layers of an MLP.
    #[schemars(range(min = 1, max = 1000))]
    pub mlp_depth: usize,
    /// Channels of the first stage of a 1-Lipschitz encoder.
    #[schemars(range(min = 2, max = 65536))]
    pub lipschitz_width: usize,
    /// SLL blocks after each stage.
    #[schemars(range(min = 0, max = 1000))]
    pub lipschitz_blocks: usize,
    /// Orthonormal layers before the features.
    #[schemars(length(max = 100), inner(range(min = 2, max = 65536)))]
    pub lipschitz_hidden: Vec<usize>,
    /// Vectors of a memory through which each encoder's features are read; 0: none.
    #[schemars(range(min = 0, max = 65536))]
    pub memory: usize,
    /// `concat`, `orthonormal`, `gauged` (orthonormal with positive integration weights of fixed
    /// size), or `unit-rows` (the released code's rule).
    #[schemars(extend("enum" = ["concat", "orthonormal", "gauged", "unit-rows"]))]
    pub head: String,
    /// Integration weights before training.
    #[schemars(range(min = 1e-6, max = 1e6))]
    pub initial_weight: f64,
}

/// Radii.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CertifyPlan {
    /// `auto` (estimated where an encoder is a CNN, else proved), `proved` or `estimated`.
    #[schemars(extend("enum" = ["auto", "proved", "estimated"]))]
    pub evidence: String,
    /// Which program proved radii are about: `f64` (the network as it is computed in f64; where the f32 program, which predicts,
    /// says something else, there is no radius), or `f32` itself, whose rounding costs more.
    #[schemars(extend("enum" = PROGRAMS))]
    pub program: String,
    /// Budgets at which radii are counted, beside those of the attacks.
    #[schemars(length(min = 0, max = 1000), inner(range(min = 1e-9, max = 1e9)))]
    pub eps: Vec<f64>,
    /// Training samples whose gradients estimate a Lipschitz constant.
    #[schemars(range(min = 1, max = 1_000_000_000))]
    pub samples: usize,
    /// Estimates: `max-gradient`, or `as-released` (the released code's routine).
    #[schemars(extend("enum" = ["max-gradient", "as-released"]))]
    pub lipschitz: String,
}

/// Attacks on the trained model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct EvaluatePlan {
    /// Budgets, in each modality's declared units.
    #[schemars(length(min = 1, max = 1000), inner(range(min = 1e-9, max = 1e9)))]
    pub eps: Vec<f64>,
    /// So many report samples are attacked, drawn without replacement by the run's seed; 0 for all.
    /// The default takes 0.3 to 0.7 of the default training's time.
    #[schemars(range(min = 0, max = 1_000_000_000))]
    pub samples: usize,
    /// `l2`, or `linf` for `each` and single modalities.
    #[schemars(extend("enum" = ["l2", "linf"]))]
    pub norm: String,
    /// `joint`; `each` (all modalities at once, a budget each); names of modalities (that one alone);
    /// `without-NAME+NAME` (these are missing, the others share the budget); `any-missing`. `usual`, or empty: joint and
    /// every modality alone.
    #[schemars(length(max = 1000))]
    pub threats: Vec<String>,
    /// What stands in for missing modalities: `declared` (by the data set), `zeros`, `mean` or `learned`.
    #[schemars(extend("enum" = BASELINES))]
    pub baseline: String,
    /// Names of attacks, or of presets: `published`, `strong` (`evaluate --help` lists them).
    #[schemars(length(min = 1, max = 100))]
    pub attacks: Vec<String>,
    /// Gradient steps of PGD.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub steps: usize,
    /// Restarts of PGD, the first from the clean input; 0 for those of the protocol (three, or two when a single modality
    /// is attacked).
    #[schemars(range(min = 0, max = 1000))]
    pub restarts: usize,
    /// Gradient steps of each start of Auto-PGD and FAB.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub standard_steps: usize,
    /// Wrong classes that targeted attacks try, the most likely first.
    #[schemars(range(min = 1, max = 65536))]
    pub targets: usize,
    /// Queries of the square attack.
    #[schemars(range(min = 1, max = 1_000_000_000))]
    pub queries: usize,
    /// Added to the run's seed: another value, other random starts.
    #[schemars(range(max = SEEDS))]
    pub seed: u64,
    /// On so many samples the attacks are checked against each other before they are believed; 0: not at all.
    #[schemars(range(min = 0, max = 1_000_000_000))]
    pub check_samples: usize,
    /// Of the network that is attacked: `f32`, as it is used, or `f64` (on the CPU), as certificates are about.
    #[schemars(extend("enum" = Precision::NAMES))]
    pub precision: String,
}

/// Attacks strictly inside every kind of certificate (`certify RUN --falsify`).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct FalsifyPlan {
    /// So many report samples are attacked, drawn without replacement by the run's seed; 0 for all.
    #[schemars(range(min = 0, max = 1_000_000_000))]
    pub samples: usize,
    /// Threats as in `evaluate.threats`; empty for every kind of certificate.
    #[schemars(length(max = 1000))]
    pub threats: Vec<String>,
    /// Gradient steps of each of three restarts.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub steps: usize,
    /// Random directions of budgets, each a kind of certificate.
    #[schemars(range(min = 0, max = 1000))]
    pub rays: usize,
    /// Of so many samples the distance of the nearest break is searched for, to compare with the radius.
    #[schemars(range(min = 0, max = 1_000_000_000))]
    pub tightness_samples: usize,
}

/// Randomized smoothing.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SmoothPlan {
    /// Standard deviation of the noise, in declared units.
    #[schemars(range(min = 0.0, max = 1e6))]
    pub sigma: f64,
    /// The same for one modality by name; it wins over `sigma`. 0 leaves the modality as it is.
    #[schemars(extend("additionalProperties" = {"type": "number", "minimum": 0.0, "maximum": 1e6}))]
    pub sigmas: BTreeMap<String, f64>,
    /// Draws that bound the probability of a sample's class.
    #[schemars(range(min = 1, max = 1_000_000_000))]
    pub draws: u64,
    /// Draws, before those, that choose the class.
    #[schemars(range(min = 1, max = 1_000_000_000))]
    pub selection_draws: u64,
    /// Probability that a sample's certificates are wrong.
    #[schemars(range(min = 1e-100), extend("exclusiveMaximum" = 1.0))]
    pub alpha: f64,
    /// So many report samples are smoothed, drawn without replacement by the run's seed; 0 for all.
    #[schemars(range(min = 0, max = 1_000_000_000))]
    pub samples: usize,
    /// Also without each modality.
    pub missing: bool,
    /// Noisy copies evaluated at once; changes no result.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub chunk: usize,
}

impl Default for SmoothPlan {
    fn default() -> Self {
        Self {
            sigma: 0.25,
            sigmas: BTreeMap::new(),
            draws: 10_000,
            selection_draws: 100,
            alpha: 0.001,
            samples: 200,
            missing: false,
            chunk: 250,
        }
    }
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
            synthetic: SyntheticPlan { train: 6000, select: 1000, report: 1000, image_snr_db: 8.0, audio_snr_db: 8.0 },
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
            falsify: FalsifyPlan { samples: 50, threats: vec![], steps: 40, rays: 4, tightness_samples: 10 },
            smooth: SmoothPlan::default(),
        }
    }
}

impl Plan {
    /// Where tensors live.
    pub fn compute(&self) -> Result<Compute> {
        self.device.parse().map_err(anyhow::Error::msg)
    }

    /// Checks everything that can be checked without the data. Returns every fault, one line each.
    pub fn faults(&self) -> Vec<String> {
        let mut faults = self.out_of_range();
        faults.extend(self.compute().err().map(|e| format!("device: {e}")));
        let mut check = |holds: bool, fault: &str| {
            if !holds {
                faults.push(fault.to_owned());
            }
        };
        check(
            self.label.chars().count() <= LONGEST_LABEL && !self.label.chars().any(char::is_control),
            "label: one line of at most 80 characters",
        );
        check(
            self.evaluate.norm == "l2" || !self.evaluate.threats.is_empty(),
            "evaluate.norm = \"linf\" has no joint budget: set evaluate.threats (--threat) to \"each\" or names of modalities",
        );
        faults.extend(self.smooth.too_few_draws(1));
        faults.extend(self.training_faults());
        faults.extend(
            crate::arsenal::parse(&self.evaluate.attacks).err().map(|e| visible(&format!("evaluate.attacks: {e}"))),
        );
        faults
    }

    /// Settings that are not what they may be, see [`schema`].
    fn out_of_range(&self) -> Vec<String> {
        let table = match Table::try_from(self) {
            Ok(table) => table,
            // Only whole numbers can be beyond what TOML holds.
            Err(_) => return self.too_large(),
        };
        let fault = |(key, value): (String, Value)| {
            let kind = &schema::setting(&key)?.kind;
            (!kind.allows(&value)).then(|| format!("{} = {}: expected {kind}", visible(&key), schema::shown(&value)))
        };
        flatten(&table).into_iter().filter_map(fault).collect()
    }

    fn too_large(&self) -> Vec<String> {
        let json = serde_json::to_value(self).unwrap_or_default();
        let fault = |setting: &schema::Setting| {
            let value =
                json.pointer(&format!("/{}", setting.key.replace('.', "/")))?.as_u64().filter(|n| *n > SEEDS)?;
            Some(format!("{} = {value}: expected {}", setting.key, setting.kind))
        };
        schema::settings().iter().filter_map(fault).collect()
    }

    /// Refuses a plan with [`faults`](Self::faults), naming all.
    pub fn check(&self) -> Result<()> {
        match self.faults().as_slice() {
            [] => Ok(()),
            faults => bail!("{}", faults.join("\n")),
        }
    }

    /// The encoder for a modality with samples of `shape`.
    pub fn encoder(&self, modality: &str, shape: &[usize]) -> EncoderConfig {
        let model = &self.model;
        let auto = if shape.len() == 3 { "cnn" } else { "mlp" };
        let kind = match model.encoders.get(modality).unwrap_or(&model.encoder).as_str() {
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
            "mlp" => EncoderConfig::Mlp { width: model.mlp_width, depth: model.mlp_depth, features },
            _ => EncoderConfig::Cnn {
                width: model.cnn_width,
                depth: model.cnn_depth,
                features,
                batch_norm: model.batch_norm,
            },
        };
        match model.memory {
            0 => encoder,
            slots => EncoderConfig::Memory { encoder: Box::new(encoder), slots },
        }
    }

    /// The head.
    pub fn head(&self) -> HeadConfig {
        let initial_weight = self.model.initial_weight;
        match self.model.head.as_str() {
            "concat" => HeadConfig::Concat,
            "gauged" => HeadConfig::Gauged { rows: Rows::Orthonormal },
            "unit-rows" => HeadConfig::Orthonormal { rows: Rows::Unit, initial_weight },
            _ => HeadConfig::Orthonormal { rows: Rows::Orthonormal, initial_weight },
        }
    }
}

impl SmoothPlan {
    /// Why no sample can be certified, where that is so before the first draw: even if all votes are for one class, the lower
    /// bound of its probability, `alpha^(1/draws)`, must exceed a half. `alpha` is shared by so many `certificates`.
    pub fn too_few_draws(&self, certificates: usize) -> Option<String> {
        let alpha = self.alpha / certificates as f64;
        let needed = ((-alpha.log2()).floor() as u64).saturating_add(1);
        let shared = if certificates > 1 { format!(", shared by {certificates} certificates") } else { String::new() };
        (alpha > 0.0 && self.draws < needed).then(|| {
            format!(
                "smooth.draws = {}: too few to certify any sample with smooth.alpha = {}{shared}; at least {needed} are needed",
                self.draws, self.alpha
            )
        })
    }
}

fn method_names() -> Vec<&'static str> {
    METHODS.iter().map(|m| m.name).collect()
}

/// In characters.
const LONGEST_LABEL: usize = 80;

const ENCODERS: &[&str] = &["auto", "cnn", "mlp", "linear", "lipschitz", "resnet18"];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_faults_are_named_at_once() {
        let mut plan = Plan { method: "jtt".into(), ..Plan::default() };
        plan.train.batch = 0;
        plan.evaluate.eps = vec![-1.0];
        let faults = plan.faults();
        assert_eq!(faults.len(), 3, "{faults:?}");
        for (fault, key) in faults.iter().zip(["evaluate.eps", "method", "train.batch"]) {
            assert!(fault.contains(key), "{fault}");
        }
    }

    #[test]
    fn draws_that_can_never_certify_are_refused() {
        let fault = |draws, alpha, certificates| {
            let plan = SmoothPlan { draws, alpha, ..SmoothPlan::default() };
            plan.too_few_draws(certificates)
        };
        // 0.001^(1/9) = 0.464, 0.001^(1/10) = 0.501.
        assert!(fault(9, 0.001, 1).is_some_and(|f| f.contains("at least 10 are needed")));
        assert_eq!(fault(10, 0.001, 1), None);
        // A half itself is not more than a half.
        assert!(fault(1, 0.5, 1).is_some_and(|f| f.contains("at least 2 are needed")));
        assert!(fault(10, 0.001, 3).is_some_and(|f| f.contains("shared by 3 certificates; at least 12 are needed")));
        assert!(fault(1000, 1e-320, 1).is_some(), "{:?}", fault(1000, 1e-320, 1));
    }

    #[test]
    fn whole_numbers_beyond_a_file_are_named() {
        let mut plan = Plan::default();
        plan.smooth.draws = u64::MAX;
        plan.seed = u64::MAX;
        let faults = plan.faults().join("\n");
        assert!(faults.contains("smooth.draws = 18446744073709551615: expected a whole number from 1 to"), "{faults}");
        assert!(faults.contains("seed = 18446744073709551615: expected a whole number from 0 to 9223372036854775807"));
    }
}
