//! The resolved plan of a run: every setting, typed, with the defaults.
//! Does not know where a value came from; `settings.rs` does.
use crate::{baselines::BASELINES, methods::METHODS, threat::DECLARED};
use anyhow::{Result, bail};
use crmt_encoders::EncoderConfig;
use crmt_fusion::{HeadConfig, Rows};
use crmt_train::Schedule;
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
    /// Everything random derives from it.
    pub seed: u64,
    /// `cpu`.
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
    /// construction).
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
    /// `concat`, `orthonormal`, `gauged` (orthonormal with positive integration weights of fixed
    /// size), or `unit-rows` (the released code's rule).
    pub head: String,
    /// Integration weights before training.
    pub initial_weight: f64,
}

/// The first phase.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrainPlan {
    /// Passes over `samples`.
    pub epochs: u64,
    /// Samples of one epoch; 0 for the whole training split.
    pub samples: usize,
    /// Samples of one step.
    pub batch: usize,
    /// `adam` (decay as an l2 penalty), `adamw` (decoupled decay) or `sgd`.
    pub optimizer: String,
    /// At its peak.
    pub learning_rate: f64,
    /// Of SGD.
    pub momentum: f64,
    /// l2 penalty or decoupled decay.
    pub weight_decay: f64,
    /// `one-cycle`, `cosine`, `step` or `constant`.
    pub schedule: String,
    /// Fraction of training in which `one-cycle` rises.
    pub warmup: f64,
    /// With `step`: epochs between drops to a tenth.
    pub step_epochs: u64,
    /// Largest norm of the whole gradient; 0 for no limit.
    pub clip: f64,
    /// `cross-entropy`, or `certified` (the certificate inside the loss).
    pub objective: String,
    /// Weight of CRMT's margin term.
    pub rho: f64,
    /// `clean`, `adversarial`, `mixup` or `noise`.
    pub inputs: String,
    /// Of the Beta distribution of Mixup.
    pub mixup_alpha: f64,
    /// Standard deviation of the noise when `inputs = "noise"`, in declared units.
    #[serde(default)]
    pub noise: f64,
    /// The same for one modality by name; it wins over `noise`.
    #[serde(default)]
    pub noises: BTreeMap<String, f64>,
}

/// Joint-l2 PGD inside adversarial training.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AdversaryPlan {
    /// Joint budget.
    pub eps: f64,
    /// Gradient steps.
    pub steps: usize,
    /// Step length over `eps`.
    pub relative_step: f64,
}

/// Certified training: `CE(κ·(h_j + ε·ℓ_yj)) + λ·margin`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CertifiedPlan {
    /// Radius to train for, in declared units.
    pub eps: f64,
    /// Which budgets that is of: `joint` (one l2 budget), `each` (all modalities at once, the budget each) or `one`
    /// (any modality alone). Epochs are chosen by the joint radius.
    pub threat: String,
    /// Inverse temperature of the logits.
    pub kappa: f64,
    /// Weight of the margin term.
    pub lambda: f64,
    /// Fraction of training over which the radius grows to `eps`.
    pub ramp: f64,
    /// How often a batch is shown with some modalities replaced by their baselines.
    pub modality_dropout: f64,
}

/// CRMT's second step.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StepTwoPlan {
    /// Whether it runs.
    pub enabled: bool,
    /// Passes over the cached scores.
    pub epochs: u64,
    /// Samples of one step.
    pub batch: usize,
    /// Adam's learning rate.
    pub learning_rate: f64,
    /// Training samples whose scores are used.
    pub samples: usize,
    /// The hinge's target: this quantile of the radii before.
    pub target_quantile: f64,
    /// Also tries to do without modalities: all sets of up to four, else each one alone. A pruned modality has
    /// integration weights of 0, and no attack on it changes anything.
    pub prune: bool,
    /// Joint budgets that decide whether the result is accepted: on average over them, attacked accuracy on the
    /// selection split must rise, or, for a certified method, certified accuracy must not fall.
    pub accept_eps: Vec<f64>,
    /// Selection samples attacked to accept or reject the result.
    pub accept_samples: usize,
    /// How much clean selection accuracy may fall.
    pub tolerance: f64,
}

/// Radii.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CertifyPlan {
    /// `auto` (estimated where an encoder is a CNN, else proved), `proved` or `estimated`.
    pub evidence: String,
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
    /// The first so many report samples are attacked; 0 for all.
    pub samples: usize,
    /// `l2`, or `linf` for `each` and single modalities.
    pub norm: String,
    /// `joint`; `each` (all modalities at once, a budget each); names of modalities (that one alone);
    /// `without-NAME+NAME` (these are missing, the others share the budget); `any-missing`. Empty for joint and every
    /// modality alone.
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
    /// The first so many report samples are attacked; 0 for all.
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
    /// The first so many report samples are smoothed; 0 for all.
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
                head: "concat".into(),
                initial_weight: 0.1,
            },
            train: TrainPlan {
                epochs: 8,
                samples: 10_000,
                batch: 128,
                optimizer: "adam".into(),
                learning_rate: 2e-3,
                momentum: 0.9,
                weight_decay: 1e-4,
                schedule: "one-cycle".into(),
                warmup: 0.15,
                step_epochs: 60,
                clip: 5.0,
                objective: "cross-entropy".into(),
                rho: 0.0,
                inputs: "clean".into(),
                mixup_alpha: 1.0,
                noise: 0.25,
                noises: BTreeMap::new(),
            },
            adversary: AdversaryPlan { eps: 1.0, steps: 3, relative_step: 0.5 },
            certified: CertifiedPlan {
                eps: 1.58,
                threat: "joint".into(),
                kappa: 3.0,
                lambda: 0.1,
                ramp: 0.5,
                modality_dropout: 0.0,
            },
            step2: StepTwoPlan {
                enabled: false,
                epochs: 25,
                batch: 128,
                learning_rate: 0.02,
                samples: 2000,
                target_quantile: 0.75,
                prune: false,
                accept_eps: vec![0.5, 1.0],
                accept_samples: 500,
                tolerance: 0.005,
            },
            certify: CertifyPlan {
                evidence: "auto".into(),
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

/// Which optimizer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OptimizerKind {
    /// Decay as an l2 penalty.
    Adam,
    /// Decoupled decay.
    AdamW,
    /// With momentum.
    Sgd,
}

impl Plan {
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
        one_of("train.objective", &self.train.objective, &["cross-entropy", "certified"]);
        one_of("certified.threat", &self.certified.threat, &["joint", "each", "one"]);
        one_of("train.optimizer", &self.train.optimizer, &["adam", "adamw", "sgd"]);
        one_of("train.schedule", &self.train.schedule, &["one-cycle", "cosine", "step", "constant"]);
        one_of("train.inputs", &self.train.inputs, &["clean", "adversarial", "mixup", "noise"]);
        one_of("certify.evidence", &self.certify.evidence, &["auto", "proved", "estimated"]);
        one_of("certify.lipschitz", &self.certify.lipschitz, &["max-gradient", "as-released"]);
        one_of("evaluate.norm", &self.evaluate.norm, &["l2", "linf"]);
        one_of("evaluate.baseline", &self.evaluate.baseline, BASELINES);
        let mut deviations = |key: &str, all: f64, table: &str, named: &BTreeMap<String, f64>| {
            let named = named.iter().map(|(name, sigma)| (format!("{table}.{name}"), *sigma));
            for (key, sigma) in [(key.to_owned(), all)].into_iter().chain(named) {
                if !(sigma.is_finite() && sigma >= 0.0) {
                    faults.push(format!("{key} = {sigma}: a standard deviation is a finite number of at least 0"));
                }
            }
        };
        deviations("train.noise", self.train.noise, "train.noises", &self.train.noises);
        deviations("smooth.sigma", self.smooth.sigma, "smooth.sigmas", &self.smooth.sigmas);
        let mut check = |holds: bool, fault: &str| {
            if !holds {
                faults.push(fault.to_owned());
            }
        };
        let positive = |x: f64| x.is_finite() && x > 0.0;
        check(self.device == "cpu" || self.device.starts_with("cuda"), "device: expected cpu or cuda");
        check(self.model.features > 0, "model.features must be at least 1");
        check(self.train.epochs > 0, "train.epochs must be at least 1");
        check(self.train.batch > 0, "train.batch must be at least 1");
        check(positive(self.train.learning_rate), "train.learning_rate must be positive");
        check((0.0..1.0).contains(&self.train.momentum), "train.momentum must be in 0..1");
        check(self.train.weight_decay >= 0.0, "train.weight_decay must not be negative");
        check(self.train.warmup > 0.0 && self.train.warmup < 1.0, "train.warmup must be between 0 and 1");
        check(self.train.clip >= 0.0, "train.clip must not be negative");
        check(self.train.step_epochs > 0, "train.step_epochs must be at least 1");
        check(
            self.train.rho >= 0.0 && self.train.rho.is_finite(),
            "train.rho must be a finite number that is not negative",
        );
        check(positive(self.train.mixup_alpha), "train.mixup_alpha must be positive");
        check(positive(self.adversary.eps), "adversary.eps must be positive");
        check(self.adversary.steps > 0, "adversary.steps must be at least 1");
        check(positive(self.adversary.relative_step), "adversary.relative_step must be positive");
        check(positive(self.certified.eps), "certified.eps must be positive");
        check(positive(self.certified.kappa), "certified.kappa must be positive");
        check(self.certified.lambda >= 0.0, "certified.lambda must not be negative");
        check((0.0..=1.0).contains(&self.certified.ramp), "certified.ramp must be in 0..=1");
        check(
            (0.0..1.0).contains(&self.certified.modality_dropout),
            "certified.modality_dropout must be at least 0 and less than 1",
        );
        check(
            self.train.objective != "certified" || self.model.head == "gauged",
            "train.objective = \"certified\" needs model.head = \"gauged\"",
        );
        check(positive(self.step2.learning_rate), "step2.learning_rate must be positive");
        check(self.step2.batch > 0 && self.step2.samples > 0, "step2.batch and step2.samples must be at least 1");
        check((0.0..=1.0).contains(&self.step2.target_quantile), "step2.target_quantile must be in 0..=1");
        let budgets = |eps: &[f64]| !eps.is_empty() && eps.iter().all(|e| positive(*e));
        check(budgets(&self.step2.accept_eps), "step2.accept_eps must be a list of positive numbers");
        check(self.step2.accept_samples > 0, "step2.accept_samples must be at least 1");
        check((0.0..=1.0).contains(&self.step2.tolerance), "step2.tolerance must be in 0..=1");
        check(
            !self.step2.enabled || self.model.head != "concat",
            "step2.enabled needs integration weights: set model.head = \"orthonormal\"",
        );
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
        match kind {
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

    /// The schedule of the first phase.
    pub fn schedule(&self) -> Schedule {
        match self.train.schedule.as_str() {
            "cosine" => Schedule::Cosine,
            "step" => Schedule::Step { every: self.train.step_epochs as f64 / self.train.epochs as f64, factor: 0.1 },
            "constant" => Schedule::Constant,
            _ => Schedule::OneCycle { warmup: self.train.warmup },
        }
    }

    /// The optimizer of the first phase.
    pub fn optimizer(&self) -> OptimizerKind {
        match self.train.optimizer.as_str() {
            "sgd" => OptimizerKind::Sgd,
            "adamw" => OptimizerKind::AdamW,
            _ => OptimizerKind::Adam,
        }
    }

    /// The gradient limit of the first phase.
    pub fn clip(&self) -> f64 {
        if self.train.clip > 0.0 { self.train.clip } else { f64::INFINITY }
    }
}

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
        for (fault, key) in faults.iter().zip(["method", "train.batch", "evaluate.eps"]) {
            assert!(fault.contains(key), "{fault}");
        }
    }
}
