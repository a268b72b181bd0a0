//! What a run leaves behind, as other programs read it: `summary.json` and `metrics.jsonl`.
//! Accuracies are fractions in `0..=1`; distances are in each modality's declared units.
//! Knows no model and no data set; docs/runs.md describes every field.
use crate::precision::Precision;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Of `summary.json` and the files that it seals: another number where older ones can't be read.
pub const FORMAT: u64 = 2;

/// `summary.json`: one run's result.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Summary {
    /// [`FORMAT`].
    pub format: u64,
    /// How the model was trained, e.g. `crmt-jt`.
    pub method: String,
    /// What the run goes by beside others; empty for its method.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub label: String,
    /// Name of the data set.
    pub data: String,
    /// The seed everything random derives from.
    pub seed: u64,
    /// Names, in the model's order.
    pub modalities: Vec<String>,
    /// By modality: how far one declared unit of distance is, in the units of its arrays; empty in
    /// runs that did not note it.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub units: BTreeMap<String, f64>,
    /// Class names, in label order.
    pub classes: Vec<String>,
    /// Without an attacker.
    pub accuracy: Accuracy,
    /// One entry per attack, threat and budget.
    pub attacks: Vec<AttackResult>,
    /// One entry per threat: the nearest adversarials that any of the attacks found.
    pub nearest: Vec<NearestResult>,
    /// One entry per threat and budget.
    pub certified: Vec<CertifiedResult>,
    /// Distribution of the radii, one entry per threat.
    pub radii: Vec<RadiusResult>,
    /// Which program proved radii are about; none for estimates.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub program: Option<ProgramResult>,
    /// One entry per kind of certificate that `certify --falsify` attacked; empty before that.
    pub falsification: Vec<Falsification>,
    /// One entry per modality, corruption and severity; empty before `evaluate --corruption`.
    pub corruptions: Vec<CorruptionResult>,
    /// Certificates of the smoothed network; none unless it was smoothed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub smoothing: Option<SmoothingResult>,
    /// By stage that measured report samples (`evaluate`, `falsify`, `smooth`, `corrupt`): how many
    /// there are to draw from. A measurement of n of them is of the rows of `samples.csv` with
    /// `drawn` below n. A stage that is not named took the first n, as older programs did.
    #[serde(default)]
    pub drawn: BTreeMap<String, u64>,
    /// `confusion[label][prediction]`: counts on the clean report split.
    pub confusion: Vec<Vec<u64>>,
    /// Attacks that succeeded inside a certified region, those inside smoothed ones if they are
    /// beyond chance. Anything but 0 is a bug of this program.
    pub violations: u64,
    /// What a reader should know before trusting the numbers.
    pub warnings: Vec<String>,
    /// Facts about the data that belong beside any number, e.g. how samples were paired.
    pub notes: Vec<String>,
    /// SHA-256 of architecture and weights, as in `model.safetensors`.
    pub weights: String,
    /// SHA-256 of the training split, on which constants are estimated and baselines learned.
    pub train_sha256: String,
    /// SHA-256 of the selection split.
    pub select_sha256: String,
    /// SHA-256 of the report split's inputs and labels.
    pub report_sha256: String,
    /// SHA-256 of what replaces missing modalities.
    pub baselines_sha256: String,
    /// Wall-clock seconds of everything below together.
    pub seconds: f64,
    /// Wall-clock seconds by stage: `train`, `evaluate`, `certify`, `smooth`, `corrupt`,
    /// `diagnose`.
    pub stages: BTreeMap<String, f64>,
    /// SHA-256 of every other file of these results, by name.
    pub files: BTreeMap<String, String>,
    /// SHA-256 of all of the above as compact JSON: whether it was altered.
    pub sha256: String,
}

impl Summary {
    /// What the run goes by when it is alone: its label, or its method as a setting spells it.
    pub fn name(&self) -> String {
        if self.label.is_empty() {
            self.method.clone()
        } else {
            self.label.clone()
        }
    }

    /// The same as a heading.
    pub fn title(&self) -> String {
        if self.label.is_empty() {
            self.method.to_uppercase()
        } else {
            self.label.clone()
        }
    }

    /// What a distance of 1 is: `image 1, audio 0.5`; nothing where that was not noted.
    pub fn unit(&self) -> String {
        let of = |m: &String| Some(format!("{m} {}", self.units.get(m)?));
        self.modalities
            .iter()
            .filter_map(of)
            .collect::<Vec<_>>()
            .join(", ")
    }
}

/// Accuracy without an attacker.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Accuracy {
    /// On the whole report split.
    pub clean: f64,
    /// Number of report samples.
    pub samples: u64,
    /// By the names of the missing modalities joined with `+`.
    pub missing: BTreeMap<String, f64>,
    /// The same with other baselines, by `evaluate.baseline`: `zeros`, `mean` or `learned`; those
    /// that were asked for.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub missing_by_baseline: BTreeMap<String, BTreeMap<String, f64>>,
    /// Each modality's own head alone.
    pub solo: BTreeMap<String, f64>,
}

/// Accuracy under one attack at one budget.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct AttackResult {
    /// One of `evaluate.attacks`, or `strongest`: a sample counts as broken when any attack at this
    /// or a smaller budget broke it.
    pub name: String,
    /// `joint` (one l2 budget over all modalities), `each`, the one modality attacked,
    /// `without-NAME+NAME` or `any-missing`; with `@zeros`, `@mean` or `@learned` where that stood
    /// in for what is missing.
    pub threat: String,
    /// `l2` or `linf`.
    pub norm: String,
    /// Of the network that was attacked: `f32`, as it is used, or `f64`, as certificates are about.
    #[serde(default)]
    pub precision: Precision,
    /// The budget.
    pub eps: f64,
    /// Fraction that stands.
    pub accuracy: f64,
    /// Accuracy of the same samples without an attacker.
    pub clean: f64,
    /// How many report samples were attacked.
    pub samples: u64,
}

/// Accuracy with one modality corrupted, without an attacker. Severities of one corruption stand
/// together, in order, and so do the corruptions of one modality.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct CorruptionResult {
    /// Of the corruption, e.g. `blur`, or as the data set calls what was prepared with it.
    pub name: String,
    /// The corrupted modality; the others are intact.
    pub modality: String,
    /// From 1 (mild) to 5 (severe).
    pub severity: u8,
    /// Fraction predicted right.
    pub accuracy: f64,
    /// The same without the corruption, on the same samples.
    pub clean: f64,
    /// How many report samples.
    pub samples: u64,
}

/// Mean accuracy over what was measured of one corruption.
pub fn mean_accuracy(severities: &[CorruptionResult]) -> f64 {
    severities.iter().map(|r| r.accuracy).sum::<f64>() / severities.len().max(1) as f64
}

/// How near the nearest adversarials of one threat are, of the samples that are right without an
/// attacker.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct NearestResult {
    /// As in [`AttackResult::threat`].
    pub threat: String,
    /// `l2` or `linf`.
    pub norm: String,
    /// How many attacked samples are right without an attacker.
    pub samples: u64,
    /// For how many of them an adversarial was found, within the greatest budget tried.
    pub found: u64,
    /// Median distance of those, in declared units; none for none.
    pub median: Option<f64>,
    /// Whether an attack that looks for the nearest was among them. Otherwise they stopped at the
    /// first adversarial within a budget, and the distances only say that the nearest is not
    /// farther.
    #[serde(default = "yes")]
    pub looked: bool,
    /// As in [`AttackResult::precision`].
    #[serde(default)]
    pub precision: Precision,
    /// Mean share of the squared distance that falls on each modality: how the attacks split their
    /// budget. l2 only.
    pub split: BTreeMap<String, f64>,
}

fn yes() -> bool {
    true
}

/// Fraction of report samples whose radius is at least `eps`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct CertifiedResult {
    /// As in [`AttackResult::threat`].
    pub threat: String,
    /// The budget, l2.
    pub eps: f64,
    /// Fraction certified (or, for estimated evidence, claimed).
    pub accuracy: f64,
    /// `proved`, `confident` or `estimated`; only the first two are certificates.
    pub evidence: String,
    /// How many report samples.
    pub samples: u64,
    /// The same fraction over the attacked samples alone, to compare with `attacks`.
    pub attacked_samples: Option<f64>,
}

/// Distribution of the radii of one threat over the report split (0 where misclassified).
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct RadiusResult {
    /// As in [`AttackResult::threat`].
    pub threat: String,
    /// As in [`CertifiedResult::evidence`].
    pub evidence: String,
    /// Mean radius.
    #[serde(with = "number")]
    pub mean: f64,
    /// Radii at the quantiles 0, 0.05, …, 1: 21 values, ascending.
    #[serde(with = "numbers")]
    pub quantiles: Vec<f64>,
    /// Mean share of the squared worst-case joint budget spent on this modality; none for `joint`.
    pub vulnerability_share: Option<f64>,
}

/// What proved radii are about, and where the program that predicts says something else.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ProgramResult {
    /// `f64`: the network as it is computed in f64; `f32`: as it is computed in f32, on a CPU.
    pub program: String,
    /// The greatest difference between a margin of this program and of the one that predicts (f32),
    /// over all report samples and sets of missing modalities.
    pub greatest_difference: f64,
    /// Radii, of all samples and threats, that are 0 because the program that predicts takes the
    /// sample for another class.
    pub other_class: u64,
    /// Those that are 0 because the margins of the two programs differ by more than a tenth.
    pub other_margin: u64,
    /// Those that rounding alone took: the margin is positive, and less than what the program may
    /// round.
    pub rounding: u64,
    /// Of how many radii, without these, that are positive.
    pub positive: u64,
}

/// Attacks on one kind of certificate, strictly inside it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Falsification {
    /// A threat as in [`RadiusResult::threat`]; `weighted W:…` (a joint norm with these weights),
    /// `ray E:…` (budgets in these proportions), `optimal split` (the worst attack's own), or
    /// `any-missing, each`.
    pub certificate: String,
    /// As in [`CertifiedResult::evidence`]; only certificates can be violated, estimates are
    /// disproved.
    pub evidence: String,
    /// Report samples with a radius, all of them attacked at 0.999 of it.
    pub samples: u64,
    /// Those that fell.
    pub violations: u64,
    /// Gradient steps of each of three restarts.
    #[serde(default)]
    pub steps: u64,
    /// Mean radius of these samples; an infinite one counts as 20, where it is attacked.
    pub mean_radius: f64,
    /// Of the samples searched for their nearest break, those with one between a quarter and four
    /// radii.
    pub tightness_samples: u64,
    /// Mean over these of radius / distance of the nearest break found.
    pub tightness_mean: f64,
    /// The greatest; above 1 is a violation.
    pub tightness_max: f64,
}

impl Falsification {
    /// Adds the samples of `other`, attacked in the same way.
    pub fn merge(&mut self, other: Self) {
        let mean =
            |a: f64, n: u64, b: f64, m: u64| (a * n as f64 + b * m as f64) / (n + m).max(1) as f64;
        self.mean_radius = mean(
            self.mean_radius,
            self.samples,
            other.mean_radius,
            other.samples,
        );
        let tight = (self.tightness_samples, other.tightness_samples);
        self.tightness_mean = mean(self.tightness_mean, tight.0, other.tightness_mean, tight.1);
        self.tightness_max = self.tightness_max.max(other.tightness_max);
        self.tightness_samples += other.tightness_samples;
        self.samples += other.samples;
        self.violations += other.violations;
    }
}

/// Randomized smoothing. Nothing here is about the network `f` itself, but about
/// `g(x) = argmax_c P[f(x + noise) = c]`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct SmoothingResult {
    /// Standard deviation of the noise by modality, in declared units.
    pub sigmas: BTreeMap<String, f64>,
    /// Draws that choose the class of a sample.
    pub selection_draws: u64,
    /// Fresh draws that bound its probability.
    pub draws: u64,
    /// Probability that any certificate of a sample is wrong.
    pub alpha: f64,
    /// Of each certificate alone: `alpha` over the number of `classifiers`.
    pub alpha_each: f64,
    /// How many report samples.
    pub samples: u64,
    /// With every modality first; then, if asked for, without each.
    pub classifiers: Vec<SmoothedResult>,
    /// After `certify --smooth --attack`: attacks on the one with every modality.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub attacks: Vec<SmoothedAttack>,
    /// All of these attacks together.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub judged: Option<Judged>,
}

/// An attack on a smoothed network, through the noise.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct SmoothedAttack {
    /// As in [`AttackResult::threat`]; l2.
    pub threat: String,
    /// The budget.
    pub eps: f64,
    /// Fraction whose label still has the most votes under fresh noise; wrong without an attacker
    /// counts as broken.
    pub accuracy: f64,
    /// Fresh draws that judge each sample.
    pub draws: u64,
    /// Samples that are certified beyond the budget.
    pub inside: u64,
    /// Those whose class has four standard deviations fewer votes than half: see [`Judged`].
    pub fell: u64,
}

/// What all attacks on a smoothed network say of its certificates. Each may be wrong with a small
/// probability, and so may its judge: only more failures than chance explains are violations.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Judged {
    /// Samples that were attacked strictly inside a certificate.
    pub samples: u64,
    /// Those that fell to any attack inside.
    pub fell: u64,
    /// The most that the probability of this can be for a sample of a right program: that of a
    /// wrong certificate, and that of a wrong judgement for each attack.
    pub chance: f64,
    /// `fell`, if so many are less likely than one in a million by chance; otherwise 0.
    pub violations: u64,
}

/// One smoothed classifier.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct SmoothedResult {
    /// The missing modality, replaced by its baseline; empty when all are there.
    pub missing: String,
    /// Fraction whose certified class is the label.
    pub accuracy: f64,
    /// Fraction whose certificate abstains.
    pub abstained: f64,
    /// Mean radius in standard deviations of the noise; 0 where wrong or abstained.
    pub mean_radius: f64,
    /// By threat and budget; evidence is `confident`.
    pub certified: Vec<CertifiedResult>,
    /// By threat, in declared units; 0 where wrong or abstained.
    pub radii: Vec<RadiusResult>,
}

/// One line of `metrics.jsonl`: one epoch.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct EpochMetrics {
    /// `step-1` or `step-2`.
    pub phase: String,
    /// From 1.
    pub epoch: u64,
    /// Mean training loss.
    pub loss: f64,
    /// Its parts, e.g. `cross_entropy` and `margin`.
    pub parts: BTreeMap<String, f64>,
    /// Learning rate at the end of the epoch.
    pub learning_rate: f64,
    /// Accuracy on the selection split.
    pub select_accuracy: f64,
    /// Accuracy of drawn samples of it under the probing attack; none where there is no probe.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub select_attacked: Option<f64>,
    /// By modality: mean over the epoch's samples of its own margin `s_y − max_{j≠y} s_j`.
    #[serde(default)]
    pub margins: BTreeMap<String, f64>,
    /// By modality: mean norm of its encoder's gradient, before clipping; `head`: of everything
    /// else.
    #[serde(default)]
    pub gradient_norms: BTreeMap<String, f64>,
    /// Wall-clock seconds; the only field that differs between equal runs.
    pub seconds: f64,
}

/// JSON has no infinity, and a radius may be infinite: what is not finite is a string, `"inf"`.
#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum Number {
    Finite(f64),
    Other(String),
}

impl From<f64> for Number {
    fn from(value: f64) -> Self {
        if value.is_finite() {
            Self::Finite(value)
        } else {
            Self::Other(value.to_string())
        }
    }
}

impl Number {
    fn value<E: serde::de::Error>(self) -> Result<f64, E> {
        match self {
            Self::Finite(value) => Ok(value),
            Self::Other(text) => text
                .parse()
                .map_err(|_| E::custom(format!("expected a number, got \"{text}\""))),
        }
    }
}

/// For serde: one such number.
pub mod number {
    use super::Number;
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    /// A number, or a string.
    pub fn serialize<S: Serializer>(value: &f64, serializer: S) -> Result<S::Ok, S::Error> {
        Number::from(*value).serialize(serializer)
    }
    /// The same, read back.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
        Number::deserialize(deserializer)?.value()
    }
}

/// For serde: a list of such numbers.
pub mod numbers {
    use super::Number;
    use serde::{Deserialize, Deserializer, Serializer};

    /// Numbers, or strings.
    pub fn serialize<S: Serializer>(values: &[f64], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(values.iter().copied().map(Number::from))
    }
    /// The same, read back.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<f64>, D::Error> {
        Vec::<Number>::deserialize(deserializer)?
            .into_iter()
            .map(Number::value)
            .collect()
    }
}
