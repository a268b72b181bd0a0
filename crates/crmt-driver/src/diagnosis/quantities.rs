//! What a diagnosis says: of a run, a modality, a sample. Does not know how any of it is computed.
use crate::{certification::quantiles, record::number, record::numbers};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// `diagnosis.json`: averages; and `diagnosis.csv`: one row per report sample.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Diagnosis {
    /// How the model was trained.
    pub method: String,
    /// Name of the data set.
    pub data: String,
    /// The run's seed.
    pub seed: u64,
    /// SHA-256 of architecture and weights: the model that this is about.
    pub weights: String,
    /// Report samples.
    pub samples: u64,
    /// Those that are classified right: preference, vulnerability and `eta` are averages over
    /// these.
    pub right: u64,
    /// `proved` or `estimated`: of radii, vulnerability and `eta`, which all rest on the same
    /// constants.
    pub evidence: String,
    /// Accuracy by the modalities that are present, joined by `+`, the others at their baselines:
    /// every set but the empty one. Empty with more than ten modalities.
    pub present: BTreeMap<String, f64>,
    /// Accuracy with every modality at its baseline: of always giving the same answer.
    pub absent: f64,
    /// Fraction of right samples whose preferred modality is the most vulnerable one, too; none of
    /// a single modality.
    pub agreement: Option<f64>,
    /// Joint radii.
    pub joint_radius: Spread,
    /// In the model's order.
    pub modalities: Vec<OfModality>,
    /// In the order of the report split; in `diagnosis.csv`.
    #[serde(skip)]
    pub rows: Vec<OfSample>,
}

/// One modality, over the report split.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct OfModality {
    /// Its name.
    pub name: String,
    /// Accuracy of its own head alone.
    pub solo: f64,
    /// Accuracy with its baseline in its place.
    pub without: f64,
    /// Shapley value for accuracy; none with more than ten modalities.
    pub shapley: Option<f64>,
    /// Its part of the Shapley values' sum; none where that is not positive.
    pub shapley_share: Option<f64>,
    /// Mean preference share.
    pub preference: Option<f64>,
    /// Fraction of right samples to whose margin it adds most.
    pub preferred: Option<f64>,
    /// Mean vulnerability share.
    pub vulnerability: Option<f64>,
    /// Fraction of right samples that are weakest through it.
    pub most_vulnerable: Option<f64>,
    /// Vulnerability indicator of the right samples; none of a single modality.
    pub eta: Option<Spread>,
    /// Uni-modal margins `ζ` of all samples.
    pub margin: Spread,
    /// The same in units of the scores.
    pub score_margin: Spread,
    /// Radii of this modality alone, of all samples (0 where misclassified).
    pub radius: Spread,
}

/// One report sample.
#[derive(Debug, Clone, PartialEq)]
pub struct OfSample {
    /// True class.
    pub label: usize,
    /// Predicted class; none where the outputs are not finite.
    pub prediction: Option<usize>,
    /// The class that limits the joint radius.
    pub rival: usize,
    /// Joint radius.
    pub joint_radius: f64,
    /// In the model's order.
    pub modalities: Vec<InSample>,
}

impl OfSample {
    /// Whether the prediction is the label.
    pub fn is_right(&self) -> bool {
        self.prediction == Some(self.label)
    }
}

/// One modality of one sample.
#[derive(Debug, Clone, PartialEq)]
pub struct InSample {
    /// Uni-modal margin `ζ`.
    pub margin: f64,
    /// The same in units of the scores.
    pub score_margin: f64,
    /// Shapley value for the margin of the true class, in logits.
    pub shapley: f64,
    /// Its part of what speaks for the true class; none where nothing does.
    pub preference: Option<f64>,
    /// Its part of the squared budget of the worst joint attack.
    pub vulnerability: f64,
    /// Its Lipschitz constant over the mean of the others'; none of a single modality, or where
    /// none moves the margin.
    pub eta: Option<f64>,
    /// Radius when only this modality moves.
    pub radius: f64,
}

/// Mean and order statistics.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Spread {
    /// Arithmetic mean.
    #[serde(with = "number")]
    pub mean: f64,
    /// Values at the quantiles 0, 0.05, …, 1, ascending (nearest rank); empty of no values.
    #[serde(with = "numbers")]
    pub quantiles: Vec<f64>,
}

impl Spread {
    /// Of these values.
    pub fn of(values: Vec<f64>) -> Self {
        let mean = values.iter().sum::<f64>() / values.len().max(1) as f64;
        Self {
            mean,
            quantiles: quantiles(values),
        }
    }

    /// The value at one of the quantiles 0, 0.05, …, 1.
    pub fn at(&self, share: f64) -> Option<f64> {
        let last = self.quantiles.len().checked_sub(1)?;
        self.quantiles
            .get((share * last as f64).round() as usize)
            .copied()
    }

    /// The value in the middle.
    pub fn median(&self) -> Option<f64> {
        self.at(0.5)
    }
}
