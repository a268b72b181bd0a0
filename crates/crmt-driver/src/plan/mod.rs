//! The resolved plan of a run: every setting, typed, with the defaults.
//! Does not know where a value came from; `settings.rs` does.
mod training;

pub use training::{
    AdversaryPlan, CertifiedPlan, GBlendPlan, MsefmPlan, OgmGePlan, OptimizerKind, PmrPlan, SelectPlan, StepTwoPlan,
    TrainPlan,
};

use crate::{
    baselines::BASELINES,
    lipschitz::{F64, PROGRAMS},
    methods::METHODS,
    threat::DECLARED,
};
use anyhow::{Result, bail};
use crmt_encoders::EncoderConfig;
use crmt_fusion::{HeadConfig, Rows};
use crmt_kernels::Compute;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Everything that determines a run. The same plan on the same data gives the same bits on a CPU.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Plan {
    /// `synthetic`, or a directory with a `dataset.toml`.
    pub data: String,
    /// Names of the modalities to use, in order; empty for all that the data have.
    pub modalities: Vec<String>,
    /// See [`METHODS`].
    pub method: String,
    /// What the run goes by in reports and tables; empty for its method. Changes no result.
    pub label: String,
    /// Everything random derives from it.
    pub seed: u64,
    /// `cpu`, `cuda` or `cuda:N`.
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
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SyntheticPlan {
    /// Training samples.
    pub train: usize,
    /// Samples to select the best epoch on.
    pub select: usize,
    /// Samples to report on.
    pub report: usize,
    /// Signal-to-noise ratio of the images, dB.
    pub image_snr_db: f64,
    /// Signal-to-noise ratio of the sound, dB.
    pub audio_snr_db: f64,
}

/// Which network.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelPlan {
    /// `auto` (a CNN for `[channels, height, width]`, an MLP otherwise), `cnn`, `resnet18` (the published recipe's: 512
    /// features, also for clips `[channels, frames, height, width]`), `mlp`, `linear`, or `lipschitz` (1-Lipschitz by
    /// construction, for every shape).
    pub encoder: String,
    /// The same for one modality by name; it wins over `encoder`.
    pub encoders: BTreeMap<String, String>,
    /// Features of each encoder.
    pub features: usize,
    /// Channels of a CNN's first layer; they double with each layer.
    pub cnn_width: usize,
    /// Convolutions of a CNN, each of stride 2.
    pub cnn_depth: usize,
    /// Normalise after each convolution.
    pub batch_norm: bool,
    /// Hidden units of an MLP.
    pub mlp_width: usize,
    /// Hidden layers of an MLP.
    pub mlp_depth: usize,
    /// Channels of the first stage of a 1-Lipschitz encoder.
    pub lipschitz_width: usize,
    /// SLL blocks after each stage.
    pub lipschitz_blocks: usize,
    /// Orthonormal layers before the features.
    pub lipschitz_hidden: Vec<usize>,
    /// Vectors of a memory through which each encoder's features are read; 0: none.
    pub memory: usize,
    /// `concat`, `orthonormal`, `gauged` (orthonormal with positive integration weights of fixed
    /// size), or `unit-rows` (the released code's rule).
    pub head: String,
    /// Integration weights before training.
    pub initial_weight: f64,
}

/// Radii.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CertifyPlan {
    /// `auto` (estimated where an encoder is a CNN, else proved), `proved` or `estimated`.
    pub evidence: String,
    /// Which program proved radii are about: `f64` (the network as it is computed in f64; where the f32 program, which predicts,
    /// says something else, there is no radius), or `f32` itself, whose rounding costs more.
    pub program: String,
    /// Budgets at which radii are counted, beside those of the attacks.
    pub eps: Vec<f64>,
    /// Training samples whose gradients estimate a Lipschitz constant.
    pub samples: usize,
    /// Estimates: `max-gradient`, or `as-released` (the released code's routine).
    pub lipschitz: String,
}

/// Attacks on the trained model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EvaluatePlan {
    /// Budgets, in each modality's declared units.
    pub eps: Vec<f64>,
    /// So many report samples are attacked, drawn without replacement by the run's seed; 0 for all.
    pub samples: usize,
    /// `l2`, or `linf` for `each` and single modalities.
    pub norm: String,
    /// `joint`; `each` (all modalities at once, a budget each); names of modalities (that one alone);
    /// `without-NAME+NAME` (these are missing, the others share the budget); `any-missing`. `usual`, or empty: joint and
    /// every modality alone.
    pub threats: Vec<String>,
    /// What stands in for missing modalities: `declared` (by the data set), `zeros`, `mean` or `learned`.
    pub baseline: String,
    /// Names of attacks, or of presets: `published`, `strong` (`evaluate --help` lists them).
    pub attacks: Vec<String>,
    /// Gradient steps of PGD.
    pub steps: usize,
    /// Restarts of PGD, the first from the clean input; 0 for those of the protocol (three, or two when a single modality
    /// is attacked).
    pub restarts: usize,
    /// Gradient steps of each start of Auto-PGD and FAB.
    pub standard_steps: usize,
    /// Wrong classes that targeted attacks try, the most likely first.
    pub targets: usize,
    /// Queries of the square attack.
    pub queries: usize,
    /// Added to the run's seed: another value, other random starts.
    pub seed: u64,
    /// On so many samples the attacks are checked against each other before they are believed; 0: not at all.
    pub check_samples: usize,
}

/// Attacks strictly inside every kind of certificate (`certify RUN --falsify`).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FalsifyPlan {
    /// So many report samples are attacked, drawn without replacement by the run's seed; 0 for all.
    pub samples: usize,
    /// Threats as in `evaluate.threats`; empty for every kind of certificate.
    pub threats: Vec<String>,
    /// Gradient steps of each of three restarts.
    pub steps: usize,
    /// Random directions of budgets, each a kind of certificate.
    pub rays: usize,
    /// Of so many samples the distance of the nearest break is searched for, to compare with the radius.
    pub tightness_samples: usize,
}

/// Randomized smoothing.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SmoothPlan {
    /// Standard deviation of the noise, in declared units.
    pub sigma: f64,
    /// The same for one modality by name; it wins over `sigma`. 0 leaves the modality as it is.
    pub sigmas: BTreeMap<String, f64>,
    /// Draws that bound the probability of a sample's class.
    pub draws: u64,
    /// Draws, before those, that choose the class.
    pub selection_draws: u64,
    /// Probability that a sample's certificates are wrong.
    pub alpha: f64,
    /// So many report samples are smoothed, drawn without replacement by the run's seed; 0 for all.
    pub samples: usize,
    /// Also without each modality.
    pub missing: bool,
    /// Noisy copies evaluated at once; changes no result.
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
                samples: 500,
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
                check_samples: 20,
            },
            falsify: FalsifyPlan { samples: 100, threats: vec![], steps: 40, rays: 4, tightness_samples: 20 },
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
        let mut faults = vec![];
        let mut one_of = |key: &str, value: &str, allowed: &[&str]| {
            if !allowed.contains(&value) {
                faults.push(format!("{key} = \"{value}\": expected one of {}", allowed.join(", ")));
            }
        };
        let methods: Vec<_> = METHODS.iter().map(|m| m.name).collect();
        one_of("method", &self.method, &methods);
        one_of("model.encoder", &self.model.encoder, ENCODERS);
        for (name, encoder) in &self.model.encoders {
            one_of(&format!("model.encoders.{name}"), encoder, ENCODERS);
        }
        one_of("model.head", &self.model.head, &["concat", "orthonormal", "gauged", "unit-rows"]);
        one_of("certify.evidence", &self.certify.evidence, &["auto", "proved", "estimated"]);
        one_of("certify.program", &self.certify.program, PROGRAMS);
        one_of("certify.lipschitz", &self.certify.lipschitz, &["max-gradient", "as-released"]);
        one_of("evaluate.norm", &self.evaluate.norm, &["l2", "linf"]);
        one_of("evaluate.baseline", &self.evaluate.baseline, BASELINES);
        for (key, sigma) in deviations("smooth.sigma", self.smooth.sigma, "smooth.sigmas", &self.smooth.sigmas) {
            faults.push(format!("{key} = {sigma}: a standard deviation is a finite number of at least 0"));
        }
        faults.extend(self.compute().err().map(|e| format!("device: {e}")));
        faults.extend(self.train.precision().err().map(|e| format!("train.precision: {e}")));
        let mut check = |holds: bool, fault: &str| {
            if !holds {
                faults.push(fault.to_owned());
            }
        };
        let positive = |x: f64| x.is_finite() && x > 0.0;
        check(
            self.label.chars().count() <= LONGEST_LABEL && !self.label.chars().any(char::is_control),
            "label: one line of at most 80 characters",
        );
        check(self.model.features > 0, "model.features must be at least 1");
        check(self.certify.samples > 0, "certify.samples must be at least 1");
        check(
            self.evaluate.steps > 0 && self.evaluate.standard_steps > 0,
            "evaluate.steps and evaluate.standard_steps must be at least 1",
        );
        check(
            self.evaluate.targets > 0 && self.evaluate.queries > 0,
            "evaluate.targets and evaluate.queries must be at least 1",
        );
        check(!self.evaluate.attacks.is_empty(), "evaluate.attacks must name at least one attack");
        check(self.falsify.steps > 0, "falsify.steps must be at least 1");
        let budgets = |eps: &[f64]| !eps.is_empty() && eps.iter().all(|e| positive(*e));
        check(budgets(&self.evaluate.eps), "evaluate.eps must be a list of positive numbers");
        check(self.certify.eps.iter().all(|e| positive(*e)), "certify.eps must be positive numbers");
        check(
            self.smooth.draws > 0 && self.smooth.selection_draws > 0,
            "smooth.draws and smooth.selection_draws must be at least 1",
        );
        check(self.smooth.alpha > 0.0 && self.smooth.alpha < 1.0, "smooth.alpha must be between 0 and 1");
        check(self.smooth.chunk > 0, "smooth.chunk must be at least 1");
        check(
            self.evaluate.norm == "l2" || !self.evaluate.threats.is_empty(),
            "evaluate.norm = \"linf\" has no joint budget: set evaluate.threats (--threat) to \"each\" or names of modalities",
        );
        faults.extend(self.training_faults());
        faults.extend(crate::arsenal::parse(&self.evaluate.attacks).err().map(|e| format!("evaluate.attacks: {e}")));
        faults
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

/// Those of all standard deviations that are none.
fn deviations(key: &str, all: f64, table: &str, named: &BTreeMap<String, f64>) -> Vec<(String, f64)> {
    let named = named.iter().map(|(name, sigma)| (format!("{table}.{name}"), *sigma));
    let all = [(key.to_owned(), all)].into_iter().chain(named);
    all.filter(|(_, sigma)| !(sigma.is_finite() && *sigma >= 0.0)).collect()
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
        for (fault, key) in faults.iter().zip(["method", "evaluate.eps", "train.batch"]) {
            assert!(fault.contains(key), "{fault}");
        }
    }
}
