//! What the page is made of. Does not know how it looks.
use crate::{
    diagnosis::Diagnosis,
    examples::Example,
    record::{EpochMetrics, Summary},
    sample_row::SampleRow,
};
use std::path::PathBuf;

/// Everything the page tells about one run.
#[derive(Debug, Clone, Default)]
pub struct RunRecord {
    /// How a reader calls this run, e.g. `CRMT-JT`; told from the others of a comparison.
    pub title: String,
    /// Where the run is.
    pub directory: PathBuf,
    /// `summary.json`.
    pub summary: Summary,
    /// `metrics.jsonl`, in order.
    pub metrics: Vec<EpochMetrics>,
    /// The resolved configuration, as TOML.
    pub config: String,
    /// One row per report sample, attacked or not; may be empty.
    pub samples: Vec<SampleRow>,
    /// Inputs that attacks broke; may be empty.
    pub examples: Vec<Example>,
    /// Which modality the model relies on; none before `diagnose`.
    pub diagnosis: Option<Diagnosis>,
}

/// The results of these runs.
pub fn summaries(runs: &[RunRecord]) -> Vec<&Summary> {
    runs.iter().map(|run| &run.summary).collect()
}
