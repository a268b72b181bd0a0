//! What is known of one report sample. Does not know how it was measured.
use crate::precision::Precision;
use std::collections::BTreeMap;

/// One report sample.
#[derive(Debug, Clone, Default)]
pub struct SampleRow {
    /// Position in the report split.
    pub index: u64,
    /// True class, an index into [`Summary::classes`](crate::record::Summary::classes).
    pub label: usize,
    /// Predicted class without an attacker; none where the outputs are not finite.
    pub prediction: Option<usize>,
    /// Its place among all report samples in the order in which they are drawn, from 0.
    pub drawn: u64,
    /// `min_j h_y - h_j` over the other classes without an attacker: of the key `""`, and of
    /// `without-NAME` where modalities are missing; none where it is not a number.
    pub margins: BTreeMap<String, f64>,
    /// Radius by threat (`joint` or a modality's name), in declared units.
    pub radii: BTreeMap<String, f64>,
    /// Of all these radii, which rest on the same constants: `proved` or `estimated`; empty before
    /// they are computed.
    pub evidence: String,
    /// What limits the joint radius; none before radii are computed.
    pub why: Option<Why>,
    /// Of the network that was attacked.
    pub precision: Precision,
    /// What each attack achieved; empty for samples that were not attacked.
    pub outcomes: Vec<Outcome>,
    /// The nearest adversarial that any attack found, by `THREAT.NORM`; none for samples that stood
    /// or were wrong.
    pub nearest: BTreeMap<String, Nearest>,
}

impl SampleRow {
    /// Whether the prediction is the label.
    pub fn is_right(&self) -> bool {
        self.prediction == Some(self.label)
    }
}

/// What limits a sample's joint radius, by modality.
#[derive(Debug, Clone, Default)]
pub struct Why {
    /// The class nearest to being confused with (for a radius of 0: the one with the least margin).
    pub rival: usize,
    /// The part of the squared budget that the worst joint attack spends on each modality; they sum
    /// to 1.
    pub vulnerability: BTreeMap<String, f64>,
    /// What each modality adds to the margin over the rival beyond its baseline, in logits: its
    /// Shapley value.
    pub shapley: BTreeMap<String, f64>,
}

/// The nearest adversarial of a sample under one threat.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Nearest {
    /// Who found it.
    pub attack: String,
    /// From the clean input, in declared units: joint l2, or the greatest of any modality for linf.
    pub distance: f64,
    /// Of each modality: how the attack split what it spent.
    pub spent: BTreeMap<String, f64>,
    /// Whether the program that certificates are about takes it for another class than its label,
    /// too.
    pub confirmed: bool,
}

/// One attack on one sample.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// As in [`crate::record::AttackResult::name`]; one sample counts as broken when any of its
    /// attacks broke it.
    pub name: String,
    /// As in [`crate::record::AttackResult::threat`].
    pub threat: String,
    /// `l2` or `linf`.
    pub norm: String,
    /// The budget.
    pub eps: f64,
    /// The prediction was right and stayed right.
    pub held: bool,
}
