//! What is told of one epoch. Does not know how it is measured.
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// What happened in one epoch.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EpochReport {
    /// From 1.
    pub epoch: u64,
    /// Mean over the batches.
    pub loss: f64,
    /// Means of the loss's parts.
    pub parts: BTreeMap<String, f64>,
    /// Mean of each modality's own margin `s_y − max_{j≠y} s_j`, by name; none of mixed samples.
    pub margins: BTreeMap<String, f64>,
    /// Mean norm of each encoder's gradient by the modality's name, and of everything else together
    /// under `head`; before clipping.
    pub gradients: BTreeMap<String, f64>,
    /// At the end of the epoch.
    pub learning_rate: f64,
    /// What the observer measured.
    pub selected: Selected,
}

/// A measurement on the selection split.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Selected {
    /// Clean accuracy, for the record.
    pub accuracy: f64,
    /// Accuracy under an attack, for the record, if one was made.
    pub attacked: Option<f64>,
    /// What decides which epoch is best; larger is better.
    pub score: f64,
}
