//! The part of a plan that says how a model is trained: settings, defaults, and what can't be.
//! Does not know where a value came from.
use super::{Plan, deviations};
use crmt_kernels::Precision;
use crmt_train::Schedule;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

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
    /// Fraction of training in which the learning rate rises linearly from 0, whatever the schedule.
    pub linear_warmup: f64,
    /// Largest norm of the whole gradient; 0 for no limit.
    pub clip: f64,
    /// Batches whose mean gradient makes a step.
    pub accumulate: u64,
    /// Decay of an exponential moving average of the weights, which is then what is measured and kept; 0: none.
    pub average: f64,
    /// Stops after so many epochs that were no better than the best; 0: never.
    pub patience: u64,
    /// Threads that load batches ahead; 0: they are loaded between steps. Changes no result.
    pub loaders: usize,
    /// Of convolutions and products while training on CUDA: `tf32`, `f32` or `bf16`. Everything is measured in f32.
    pub precision: String,
    /// On CUDA, records a step's loss and gradients once an epoch and replays them: faster, for about twice the memory.
    /// Changes no result.
    pub replay: bool,
    /// Seconds between checkpoints within an epoch; 0: after every step. There is one after every epoch, too.
    pub checkpoint_seconds: f64,
    /// How many checkpoints are kept while training runs.
    pub keep_checkpoints: usize,
    /// `cross-entropy`; `certified` (the certificate inside the loss); `g-blend`, `ogm-ge`, `pmr` or `msefm`.
    pub objective: String,
    /// Weight of CRMT's margin term.
    pub rho: f64,
    /// That term of Mixup's samples: `exact`, or `as-released` (the labels' scores are subtracted, not their exponentials, and
    /// nothing bounds it).
    pub mixed_margin: String,
    /// `clean`, `adversarial`, `mixup`, `noise` or `dropout`.
    pub inputs: String,
    /// When `inputs = "dropout"`: how often a batch is shown with some modalities replaced by their baselines.
    pub modality_dropout: f64,
    /// Of the Beta distribution of Mixup.
    pub mixup_alpha: f64,
    /// Standard deviation of the noise when `inputs = "noise"`, in declared units.
    #[serde(default)]
    pub noise: f64,
    /// The same for one modality by name; it wins over `noise`.
    #[serde(default)]
    pub noises: BTreeMap<String, f64>,
}

/// PGD inside adversarial training.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AdversaryPlan {
    /// `joint` (one l2 budget over all modalities), `each` (all modalities at once, a budget each), or the name of the
    /// one modality that is attacked.
    pub threat: String,
    /// `l2`, or `linf` unless the threat is joint.
    pub norm: String,
    /// Budget, in declared units.
    pub eps: f64,
    /// The same for one modality by name, where the threat is not joint; it wins over `eps`.
    pub budgets: BTreeMap<String, f64>,
    /// Gradient steps.
    pub steps: usize,
    /// Step length over the budget.
    pub relative_step: f64,
    /// `exact`, or `as-released`: steps of `eps / 5` divided by `sqrt(|g|² + 1e-6)` of the batch mean's gradient, which
    /// shrink as confidence grows.
    pub rule: String,
    /// Of batch normalisation while the attack looks: `fixed`, or `as-released` (the batch's; the running ones move with
    /// every look).
    pub statistics: String,
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
    /// Which rival's ratio is a sample's radius: `minimum` over all, or `as-released` (the runner-up's alone, which is
    /// no bound).
    pub rival: String,
    /// Of batch normalisation meanwhile: `fixed`, or `as-released` (scores are computed anew by the batch's, and the running
    /// ones move with every step).
    pub statistics: String,
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

/// Losses of each modality and of all, weighted by how well they generalise (Wang, Tran, Feiszli 2020).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GBlendPlan {
    /// Epochs between estimates of the weights.
    pub every: u64,
    /// Training samples, and selection samples, that losses are measured on.
    pub samples: usize,
}

/// The encoder of whoever is ahead learns more slowly (Peng et al. 2022).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OgmGePlan {
    /// How much.
    pub alpha: f64,
    /// Adds noise of the gradients' own standard deviation.
    pub noise: bool,
}

/// Whoever lags is pulled towards the prototypes of its classes (Fan et al. 2023).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PmrPlan {
    /// Weight of the prototypical cross-entropy of whoever lags.
    pub alpha: f64,
    /// Weight of the entropy of whoever leads.
    pub mu: f64,
    /// What prototypes keep from epoch to epoch.
    pub momentum: f64,
    /// Fraction of training in which the entropy counts.
    pub early: f64,
    /// Training samples that prototypes are measured on.
    pub samples: usize,
}

/// Dissimilar features (Tian & Xu 2021); their memory is `model.memory`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MsefmPlan {
    /// Weight of the similarity.
    pub lambda: f64,
}

/// How the best epoch is chosen.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SelectPlan {
    /// `auto` (`certified` for that objective, else `clean`); `clean` accuracy; `attacked` accuracy; `certified` (the mean
    /// radius clipped at `certified.eps`).
    pub criterion: String,
    /// `selection`, or `as-released`: the report split, so that what is reported of the best epoch is optimistic.
    pub split: String,
    /// So many samples, drawn by the run's seed, are attacked after each epoch, for the record and for `attacked`; 0: none.
    pub samples: usize,
    /// Their joint budget.
    pub eps: f64,
    /// Gradient steps of the attack, a PGD on the margin from the clean input.
    pub steps: usize,
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

impl Default for TrainPlan {
    fn default() -> Self {
        Self {
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
            linear_warmup: 0.0,
            clip: 5.0,
            accumulate: 1,
            average: 0.0,
            patience: 0,
            loaders: 1,
            precision: "tf32".into(),
            replay: true,
            checkpoint_seconds: 60.0,
            keep_checkpoints: 2,
            objective: "cross-entropy".into(),
            rho: 0.0,
            mixed_margin: "exact".into(),
            inputs: "clean".into(),
            modality_dropout: 0.3,
            mixup_alpha: 1.0,
            noise: 0.25,
            noises: BTreeMap::new(),
        }
    }
}

impl Default for AdversaryPlan {
    fn default() -> Self {
        Self {
            threat: "joint".into(),
            norm: "l2".into(),
            eps: 1.0,
            budgets: BTreeMap::new(),
            steps: 3,
            relative_step: 0.5,
            rule: "exact".into(),
            statistics: "fixed".into(),
        }
    }
}

impl Default for CertifiedPlan {
    fn default() -> Self {
        Self { eps: 1.58, threat: "joint".into(), kappa: 3.0, lambda: 0.1, ramp: 0.5, modality_dropout: 0.0 }
    }
}

impl Default for GBlendPlan {
    fn default() -> Self {
        Self { every: 2, samples: 1000 }
    }
}

impl Default for OgmGePlan {
    fn default() -> Self {
        Self { alpha: 0.3, noise: true }
    }
}

impl Default for PmrPlan {
    fn default() -> Self {
        Self { alpha: 1.0, mu: 0.1, momentum: 0.5, early: 0.25, samples: 1000 }
    }
}

impl Default for MsefmPlan {
    fn default() -> Self {
        Self { lambda: 1.0 }
    }
}

impl Default for SelectPlan {
    fn default() -> Self {
        Self { criterion: "auto".into(), split: "selection".into(), samples: 100, eps: 1.0, steps: 10 }
    }
}

impl Default for StepTwoPlan {
    fn default() -> Self {
        Self {
            enabled: false,
            epochs: 25,
            batch: 128,
            learning_rate: 0.02,
            samples: 2000,
            rival: "minimum".into(),
            statistics: "fixed".into(),
            target_quantile: 0.75,
            prune: false,
            accept_eps: vec![0.5, 1.0],
            accept_samples: 500,
            tolerance: 0.005,
        }
    }
}

impl TrainPlan {
    /// Of convolutions and products on CUDA.
    pub fn precision(&self) -> anyhow::Result<Precision> {
        self.precision.parse().map_err(anyhow::Error::msg)
    }

    /// The schedule.
    pub fn schedule(&self) -> Schedule {
        match self.schedule.as_str() {
            "cosine" => Schedule::Cosine,
            "step" => Schedule::Step { every: self.step_epochs as f64 / self.epochs as f64, factor: 0.1 },
            "constant" => Schedule::Constant,
            _ => Schedule::OneCycle { warmup: self.warmup },
        }
    }

    /// The optimizer.
    pub fn optimizer(&self) -> OptimizerKind {
        match self.optimizer.as_str() {
            "sgd" => OptimizerKind::Sgd,
            "adamw" => OptimizerKind::AdamW,
            _ => OptimizerKind::Adam,
        }
    }
}

/// More threads than this wait for each other.
const MOST_LOADERS: usize = 1024;

impl Plan {
    fn is_lipschitz(&self) -> bool {
        let model = &self.model;
        model.memory == 0 && model.encoder == "lipschitz" && model.encoders.values().all(|e| e == "lipschitz")
    }

    /// What can't be of the settings here, one line each.
    pub(super) fn training_faults(&self) -> Vec<String> {
        let (train, adversary) = (&self.train, &self.adversary);
        let mut faults = vec![];
        let mut one_of = |key: &str, value: &str, allowed: &[&str]| {
            if !allowed.contains(&value) {
                faults.push(format!("{key} = \"{value}\": expected one of {}", allowed.join(", ")));
            }
        };
        one_of(
            "train.objective",
            &train.objective,
            &["cross-entropy", "certified", "g-blend", "ogm-ge", "pmr", "msefm"],
        );
        one_of("train.optimizer", &train.optimizer, &["adam", "adamw", "sgd"]);
        one_of("train.schedule", &train.schedule, &["one-cycle", "cosine", "step", "constant"]);
        one_of("train.inputs", &train.inputs, &["clean", "adversarial", "mixup", "noise", "dropout"]);
        one_of("adversary.norm", &adversary.norm, &["l2", "linf"]);
        one_of("adversary.rule", &adversary.rule, &["exact", "as-released"]);
        one_of("certified.threat", &self.certified.threat, &["joint", "each", "one"]);
        one_of("select.criterion", &self.select.criterion, &["auto", "clean", "attacked", "certified"]);
        one_of("adversary.statistics", &adversary.statistics, &["fixed", "as-released"]);
        one_of("select.split", &self.select.split, &["selection", "as-released"]);
        one_of("train.mixed_margin", &train.mixed_margin, &["exact", "as-released"]);
        one_of("step2.rival", &self.step2.rival, &["minimum", "as-released"]);
        one_of("step2.statistics", &self.step2.statistics, &["fixed", "as-released"]);
        for (key, sigma) in deviations("train.noise", train.noise, "train.noises", &train.noises) {
            faults.push(format!("{key} = {sigma}: a standard deviation is a finite number of at least 0"));
        }
        let mut check = |holds: bool, fault: &str| {
            if !holds {
                faults.push(fault.to_owned());
            }
        };
        let positive = |x: f64| x.is_finite() && x > 0.0;
        let not_negative = |x: f64| x.is_finite() && x >= 0.0;
        let certified = train.objective == "certified";
        check(train.epochs > 0, "train.epochs must be at least 1");
        check(train.batch > 0, "train.batch must be at least 1");
        check(positive(train.learning_rate), "train.learning_rate must be positive");
        check((0.0..1.0).contains(&train.momentum), "train.momentum must be in 0..1");
        check(train.weight_decay >= 0.0, "train.weight_decay must not be negative");
        check(train.warmup > 0.0 && train.warmup < 1.0, "train.warmup must be between 0 and 1");
        check(train.clip >= 0.0, "train.clip must not be negative");
        check(train.step_epochs > 0, "train.step_epochs must be at least 1");
        check(train.rho >= 0.0 && train.rho.is_finite(), "train.rho must be a finite number that is not negative");
        check(positive(train.mixup_alpha), "train.mixup_alpha must be positive");
        check(positive(adversary.eps), "adversary.eps must be positive");
        check(adversary.steps > 0, "adversary.steps must be at least 1");
        check(positive(adversary.relative_step), "adversary.relative_step must be positive");
        check(positive(self.certified.eps), "certified.eps must be positive");
        check(positive(self.certified.kappa), "certified.kappa must be positive");
        check(self.certified.lambda >= 0.0, "certified.lambda must not be negative");
        check((0.0..=1.0).contains(&self.certified.ramp), "certified.ramp must be in 0..=1");
        check(
            (0.0..1.0).contains(&self.certified.modality_dropout),
            "certified.modality_dropout must be at least 0 and less than 1",
        );
        check(
            train.objective != "certified" || self.model.head == "gauged",
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
            self.step2.statistics == "fixed" || !certified,
            "step2.statistics = \"as-released\" moves what the certificate is of: set train.objective to another than \
             \"certified\"",
        );
        check(
            !self.step2.enabled || self.model.head != "concat",
            "step2.enabled needs integration weights: set model.head = \"orthonormal\"",
        );
        check((0.0..1.0).contains(&train.linear_warmup), "train.linear_warmup must be at least 0 and less than 1");
        check(train.accumulate > 0, "train.accumulate must be at least 1");
        check((0.0..1.0).contains(&train.average), "train.average must be at least 0 and less than 1");
        check(
            not_negative(train.checkpoint_seconds),
            "train.checkpoint_seconds must be a finite number that is not negative",
        );
        check(train.loaders <= MOST_LOADERS, "train.loaders must be at most 1024");
        check(train.keep_checkpoints > 0, "train.keep_checkpoints must be at least 1");
        check((0.0..=1.0).contains(&train.modality_dropout), "train.modality_dropout must be in 0..=1");
        check(
            !certified || self.is_lipschitz(),
            "train.objective = \"certified\" needs 1-Lipschitz encoders: set model.encoder = \"lipschitz\" (for every \
             modality) and model.memory = 0",
        );
        check(
            !certified || train.inputs == "clean",
            "train.objective = \"certified\" needs train.inputs = \"clean\": it has a dropout of its own \
             (certified.modality_dropout)",
        );
        check(
            train.rho == 0.0 || train.objective == "cross-entropy",
            "train.rho is the margin term of train.objective = \"cross-entropy\"; set it to 0",
        );
        check(
            adversary.norm == "l2" || adversary.threat != "joint",
            "adversary.norm = \"linf\" has no joint budget: set adversary.threat to \"each\" or the name of a modality",
        );
        check(
            adversary.rule == "exact" || adversary.threat == "joint",
            "adversary.rule = \"as-released\" has a joint budget: set adversary.threat = \"joint\"",
        );
        check(
            adversary.budgets.is_empty() || adversary.threat != "joint",
            "adversary.budgets are of single modalities: set adversary.threat to \"each\" or the name of one",
        );
        check(adversary.budgets.values().all(|b| not_negative(*b)), "adversary.budgets must not be negative");
        check(
            self.select.criterion != "certified" || certified,
            "select.criterion = \"certified\" needs train.objective = \"certified\": other encoders are not 1-Lipschitz",
        );
        check(
            self.select.criterion != "attacked" || self.select.samples > 0,
            "select.criterion = \"attacked\" needs select.samples of at least 1",
        );
        check(positive(self.select.eps), "select.eps must be positive");
        check(self.select.steps > 0, "select.steps must be at least 1");
        check(self.g_blend.every > 0 && self.g_blend.samples > 0, "g_blend.every and .samples must be at least 1");
        check(not_negative(self.ogm_ge.alpha), "ogm_ge.alpha must not be negative");
        check(not_negative(self.pmr.alpha) && not_negative(self.pmr.mu), "pmr.alpha and .mu must not be negative");
        check((0.0..1.0).contains(&self.pmr.momentum), "pmr.momentum must be at least 0 and less than 1");
        check((0.0..=1.0).contains(&self.pmr.early), "pmr.early must be in 0..=1");
        check(self.pmr.samples > 0, "pmr.samples must be at least 1");
        check(not_negative(self.msefm.lambda), "msefm.lambda must not be negative");
        faults
    }
}
