//! The sections of a plan, beside those of training: settings and defaults.
//! Does not know where a value came from, nor the plan as a whole.
use crate::{
    precision::{PROGRAMS, Precision},
    threat::BASELINES,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The largest seed: what a TOML file can hold.
pub const SEEDS: u64 = i64::MAX as u64;

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
    /// `auto` (a CNN for `[channels, height, width]`, an MLP otherwise), `cnn`, `resnet18` (the
    /// published recipe's: 512 features, also for clips `[channels, frames, height, width]`),
    /// `mlp`, `linear`, or `lipschitz` (1-Lipschitz by construction, for every shape).
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
    /// Which program proved radii are about: `f64` (the network as it is computed in f64; where the
    /// f32 program, which predicts, says something else, there is no radius), or `f32` itself,
    /// whose rounding costs more.
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
    /// `joint`; `each` (all modalities at once, a budget each); names of modalities (that one
    /// alone); `without-NAME+NAME` (these are missing, the others share the budget); `any-missing`.
    /// `usual`, or empty: joint and every modality alone.
    #[schemars(length(max = 1000))]
    pub threats: Vec<String>,
    /// What stands in for missing modalities: `declared` (by the data set), `zeros`, `mean` or
    /// `learned`.
    #[schemars(extend("enum" = BASELINES))]
    pub baseline: String,
    /// Names of attacks, or of presets: `published`, `strong` (`evaluate --help` lists them).
    #[schemars(length(min = 1, max = 100))]
    pub attacks: Vec<String>,
    /// Gradient steps of PGD.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub steps: usize,
    /// Restarts of PGD, the first from the clean input; 0 for those of the protocol (three, or two
    /// when a single modality is attacked).
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
    /// On so many samples the attacks are checked against each other before they are believed; 0:
    /// not at all.
    #[schemars(range(min = 0, max = 1_000_000_000))]
    pub check_samples: usize,
    /// Of the network that is attacked: `f32`, as it is used, or `f64` (on the CPU), as
    /// certificates are about.
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
    /// Of so many samples the distance of the nearest break is searched for, to compare with the
    /// radius.
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

impl SmoothPlan {
    /// Why no sample can be certified, where that is so before the first draw: even if all votes
    /// are for one class, the lower bound of its probability, `alpha^(1/draws)`, must exceed a
    /// half. `alpha` is shared by so many `certificates`.
    pub fn too_few_draws(&self, certificates: usize) -> Option<String> {
        let alpha = self.alpha / certificates as f64;
        let needed = ((-alpha.log2()).floor() as u64).saturating_add(1);
        let shared = if certificates > 1 {
            format!(", shared by {certificates} certificates")
        } else {
            String::new()
        };
        (alpha > 0.0 && self.draws < needed).then(|| {
            format!(
                "smooth.draws = {}: too few to certify any sample with smooth.alpha = {}{shared}; at least {needed} are needed",
                self.draws, self.alpha
            )
        })
    }
}

const ENCODERS: &[&str] = &["auto", "cnn", "mlp", "linear", "lipschitz", "resnet18"];
