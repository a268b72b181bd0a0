//! The part of a plan that says how a model is trained: settings, defaults, and what can't be.
//! Does not know where a value came from.
use crmt_kernels::Precision;
use crmt_train::Schedule;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The first phase.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TrainPlan {
    /// Passes over `train.samples`.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub epochs: u64,
    /// Samples of one epoch; 0 for the whole training split.
    #[schemars(range(min = 0, max = 1_000_000_000))]
    pub samples: usize,
    /// Samples of one step.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub batch: usize,
    /// `adam` (decay as an l2 penalty), `adamw` (decoupled decay) or `sgd`.
    #[schemars(extend("enum" = ["adam", "adamw", "sgd"]))]
    pub optimizer: String,
    /// Learning rate, at its peak.
    #[schemars(range(min = 1e-12, max = 1e6))]
    pub learning_rate: f64,
    /// Momentum of SGD.
    #[schemars(range(min = 0.0), extend("exclusiveMaximum" = 1.0))]
    pub momentum: f64,
    /// Weight of the l2 penalty, or of decoupled decay: see `train.optimizer`.
    #[schemars(range(min = 0.0, max = 1000.0))]
    pub weight_decay: f64,
    /// `one-cycle`, `cosine`, `step` or `constant`.
    #[schemars(extend("enum" = ["one-cycle", "cosine", "step", "constant"]))]
    pub schedule: String,
    /// Fraction of training in which `one-cycle` rises.
    #[schemars(extend("exclusiveMinimum" = 0.0), extend("exclusiveMaximum" = 1.0))]
    pub warmup: f64,
    /// With `step`: epochs between drops to a tenth.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub step_epochs: u64,
    /// Fraction of training in which the learning rate rises linearly from 0, whatever the
    /// schedule.
    #[schemars(range(min = 0.0), extend("exclusiveMaximum" = 1.0))]
    pub linear_warmup: f64,
    /// Largest norm of the whole gradient; 0 for no limit.
    #[schemars(range(min = 0.0, max = 1e12))]
    pub clip: f64,
    /// Batches whose mean gradient makes a step.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub accumulate: u64,
    /// Decay of an exponential moving average of the weights, which is then what is measured and
    /// kept; 0: none.
    #[schemars(range(min = 0.0), extend("exclusiveMaximum" = 1.0))]
    pub average: f64,
    /// Stops after so many epochs that were no better than the best; 0: never.
    #[schemars(range(min = 0, max = 1_000_000))]
    pub patience: u64,
    /// Threads that load batches ahead; 0: they are loaded between steps. Changes no result.
    #[schemars(range(min = 0, max = 1024))]
    pub loaders: usize,
    /// Of convolutions and products while training on CUDA: `tf32`, `f32` or `bf16`. Everything is
    /// measured in f32.
    #[schemars(extend("enum" = ["tf32", "f32", "bf16"]))]
    pub precision: String,
    /// On CUDA, records a step's loss and gradients once an epoch and replays them: faster, for
    /// about twice the memory. Changes no result.
    pub replay: bool,
    /// Seconds between checkpoints within an epoch; 0: after every step. There is one after every
    /// epoch, too.
    #[schemars(range(min = 0.0, max = 1e9))]
    pub checkpoint_seconds: f64,
    /// How many checkpoints are kept while training runs.
    #[schemars(range(min = 1, max = 1000))]
    pub keep_checkpoints: usize,
    /// `cross-entropy`; `certified` (the certificate inside the loss); `g-blend`, `ogm-ge`, `pmr`
    /// or `msefm`.
    #[schemars(extend("enum" = ["cross-entropy", "certified", "g-blend", "ogm-ge", "pmr", "msefm"]))]
    pub objective: String,
    /// Weight of CRMT's margin term.
    #[schemars(range(min = 0.0, max = 1e6))]
    pub rho: f64,
    /// That term of Mixup's samples: `exact`, or `as-released` (the labels' scores are subtracted,
    /// not their exponentials, and nothing bounds it).
    #[schemars(extend("enum" = ["exact", "as-released"]))]
    pub mixed_margin: String,
    /// `clean`, `adversarial`, `mixup`, `noise` or `dropout`.
    #[schemars(extend("enum" = ["clean", "adversarial", "mixup", "noise", "dropout"]))]
    pub inputs: String,
    /// When `inputs = "dropout"`: how often a batch is shown with some modalities replaced by their
    /// baselines.
    #[schemars(range(min = 0.0, max = 1.0))]
    pub modality_dropout: f64,
    /// Parameter of the Beta distribution of Mixup.
    #[schemars(range(min = 1e-3, max = 1e3))]
    pub mixup_alpha: f64,
    /// Standard deviation of the noise when `inputs = "noise"`, in declared units.
    #[serde(default)]
    #[schemars(range(min = 0.0, max = 1e6))]
    pub noise: f64,
    /// The same for one modality by name; it wins over `train.noise`.
    #[serde(default)]
    #[schemars(extend("additionalProperties" = {"type": "number", "minimum": 0.0, "maximum": 1e6}))]
    pub noises: BTreeMap<String, f64>,
}

/// PGD inside adversarial training.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AdversaryPlan {
    /// `joint` (one l2 budget over all modalities), `each` (all modalities at once, a budget each),
    /// or the name of the one modality that is attacked.
    #[schemars(length(min = 1))]
    pub threat: String,
    /// `l2`, or `linf` unless the threat is joint.
    #[schemars(extend("enum" = ["l2", "linf"]))]
    pub norm: String,
    /// Budget of the inner attack, in declared units.
    #[schemars(range(min = 1e-9, max = 1e9))]
    pub eps: f64,
    /// The same for one modality by name, where the threat is not joint; it wins over `eps`.
    #[schemars(extend("additionalProperties" = {"type": "number", "minimum": 0.0, "maximum": 1e9}))]
    pub budgets: BTreeMap<String, f64>,
    /// Gradient steps of the inner attack.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub steps: usize,
    /// Step length over the budget.
    #[schemars(range(min = 1e-6, max = 1e3))]
    pub relative_step: f64,
    /// `exact`, or `as-released`: steps of `eps / 5` divided by `sqrt(|g|² + 1e-6)` of the batch
    /// mean's gradient, which shrink as confidence grows.
    #[schemars(extend("enum" = ["exact", "as-released"]))]
    pub rule: String,
    /// Of batch normalisation while the attack looks: `fixed`, or `as-released` (the batch's; the
    /// running ones move with every look).
    #[schemars(extend("enum" = ["fixed", "as-released"]))]
    pub statistics: String,
}

/// Certified training: `CE(κ·(h_j + ε·ℓ_yj)) + λ·margin`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CertifiedPlan {
    /// Radius to train for, in declared units.
    #[schemars(range(min = 1e-9, max = 1e9))]
    pub eps: f64,
    /// Which budgets that is of: `joint` (one l2 budget), `each` (all modalities at once, the
    /// budget each) or `one` (any modality alone). Epochs are chosen by the joint radius.
    #[schemars(extend("enum" = ["joint", "each", "one"]))]
    pub threat: String,
    /// Inverse temperature of the logits.
    #[schemars(range(min = 1e-9, max = 1e9))]
    pub kappa: f64,
    /// Weight of the margin term.
    #[schemars(range(min = 0.0, max = 1e6))]
    pub lambda: f64,
    /// Fraction of training over which the radius grows to `eps`.
    #[schemars(range(min = 0.0, max = 1.0))]
    pub ramp: f64,
    /// How often a batch is shown with some modalities replaced by their baselines.
    #[schemars(range(min = 0.0), extend("exclusiveMaximum" = 1.0))]
    pub modality_dropout: f64,
}

/// CRMT's second step.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct StepTwoPlan {
    /// Whether it runs.
    pub enabled: bool,
    /// Passes over the cached scores.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub epochs: u64,
    /// Samples of one step.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub batch: usize,
    /// Adam's learning rate.
    #[schemars(range(min = 1e-12, max = 1e6))]
    pub learning_rate: f64,
    /// Training samples whose scores are used.
    #[schemars(range(min = 1, max = 1_000_000_000))]
    pub samples: usize,
    /// Which rival's ratio is a sample's radius: `minimum` over all, or `as-released` (the
    /// runner-up's alone, which is no bound).
    #[schemars(extend("enum" = ["minimum", "as-released"]))]
    pub rival: String,
    /// Of batch normalisation meanwhile: `fixed`, or `as-released` (scores are computed anew by the
    /// batch's, and the running ones move with every step).
    #[schemars(extend("enum" = ["fixed", "as-released"]))]
    pub statistics: String,
    /// The hinge's target: this quantile of the radii before.
    #[schemars(range(min = 0.0, max = 1.0))]
    pub target_quantile: f64,
    /// Also tries to do without modalities: all sets of up to four, else each one alone. A pruned
    /// modality has integration weights of 0, and no attack on it changes anything.
    pub prune: bool,
    /// Joint budgets that decide whether the result is accepted: on average over them, attacked
    /// accuracy on the selection split must rise, or, for a certified method, certified accuracy
    /// must not fall.
    #[schemars(length(min = 1, max = 1000), inner(range(min = 1e-9, max = 1e9)))]
    pub accept_eps: Vec<f64>,
    /// Selection samples attacked to accept or reject the result.
    #[schemars(range(min = 1, max = 1_000_000_000))]
    pub accept_samples: usize,
    /// How much clean selection accuracy may fall.
    #[schemars(range(min = 0.0, max = 1.0))]
    pub tolerance: f64,
}

/// Losses of each modality and of all, weighted by how well they generalise (Wang, Tran,
/// Feiszli 2020).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct GBlendPlan {
    /// Epochs between estimates of the weights.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub every: u64,
    /// Training samples, and selection samples, that losses are measured on.
    #[schemars(range(min = 1, max = 1_000_000_000))]
    pub samples: usize,
}

/// The encoder of whoever is ahead learns more slowly (Peng et al. 2022).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct OgmGePlan {
    /// How much more slowly the encoder that is ahead learns.
    #[schemars(range(min = 0.0, max = 1e6))]
    pub alpha: f64,
    /// Adds noise of the gradients' own standard deviation.
    pub noise: bool,
}

/// Whoever lags is pulled towards the prototypes of its classes (Fan et al. 2023).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PmrPlan {
    /// Weight of the prototypical cross-entropy of whoever lags.
    #[schemars(range(min = 0.0, max = 1e6))]
    pub alpha: f64,
    /// Weight of the entropy of whoever leads.
    #[schemars(range(min = 0.0, max = 1e6))]
    pub mu: f64,
    /// What prototypes keep from epoch to epoch.
    #[schemars(range(min = 0.0), extend("exclusiveMaximum" = 1.0))]
    pub momentum: f64,
    /// Fraction of training in which the entropy counts.
    #[schemars(range(min = 0.0, max = 1.0))]
    pub early: f64,
    /// Training samples that prototypes are measured on.
    #[schemars(range(min = 1, max = 1_000_000_000))]
    pub samples: usize,
}

/// Dissimilar features (Tian & Xu 2021); their memory is `model.memory`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct MsefmPlan {
    /// Weight of the similarity.
    #[schemars(range(min = 0.0, max = 1e6))]
    pub lambda: f64,
}

/// How the best epoch is chosen.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SelectPlan {
    /// `auto` (`certified` for that objective, else `clean`); `clean` accuracy; `attacked`
    /// accuracy; `certified` (the mean radius clipped at `certified.eps`).
    #[schemars(extend("enum" = ["auto", "clean", "attacked", "certified"]))]
    pub criterion: String,
    /// `selection`, or `as-released`: the report split, so that what is reported of the best epoch
    /// is optimistic.
    #[schemars(extend("enum" = ["selection", "as-released"]))]
    pub split: String,
    /// So many samples, drawn by the run's seed, are attacked after each epoch, for the record and
    /// for `attacked`; 0: none.
    #[schemars(range(min = 0, max = 1_000_000_000))]
    pub samples: usize,
    /// Their joint budget.
    #[schemars(range(min = 1e-9, max = 1e9))]
    pub eps: f64,
    /// Gradient steps of the attack, a PGD on the margin from the clean input.
    #[schemars(range(min = 1, max = 1_000_000))]
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
        Self {
            eps: 1.58,
            threat: "joint".into(),
            kappa: 3.0,
            lambda: 0.1,
            ramp: 0.5,
            modality_dropout: 0.0,
        }
    }
}

impl Default for GBlendPlan {
    fn default() -> Self {
        Self {
            every: 2,
            samples: 1000,
        }
    }
}

impl Default for OgmGePlan {
    fn default() -> Self {
        Self {
            alpha: 0.3,
            noise: true,
        }
    }
}

impl Default for PmrPlan {
    fn default() -> Self {
        Self {
            alpha: 1.0,
            mu: 0.1,
            momentum: 0.5,
            early: 0.25,
            samples: 1000,
        }
    }
}

impl Default for MsefmPlan {
    fn default() -> Self {
        Self { lambda: 1.0 }
    }
}

impl Default for SelectPlan {
    fn default() -> Self {
        Self {
            criterion: "auto".into(),
            split: "selection".into(),
            samples: 100,
            eps: 1.0,
            steps: 10,
        }
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
            "step" => Schedule::Step {
                every: self.step_epochs as f64 / self.epochs as f64,
                factor: 0.1,
            },
            "constant" => Schedule::Constant,
            _ => Schedule::OneCycle {
                warmup: self.warmup,
            },
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
