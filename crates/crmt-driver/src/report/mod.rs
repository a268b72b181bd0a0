//! A run, or several compared, as one self-contained HTML page: inline CSS and SVG, no script, no network, no clock.
//! Knows only what a run left behind ([`crate::record`]): no model, no data set, no file.
mod attacks;
mod bars;
mod colour;
mod confusion;
mod corruptions;
mod diagnosis;
mod falsification;
mod families;
mod figures;
mod font;
mod header;
mod html;
mod modalities;
mod pictures;
mod plot;
mod raster;
mod samples;
mod sandwich;
mod setup;
mod smoothing;
#[cfg(test)]
mod tests;
mod training;

pub use figures::{Figure, is_ours};
pub use header::comparable;
pub use html::distance;

use figures::Gallery;

use crate::{
    diagnosis::Diagnosis,
    examples::Example,
    precision::Precision,
    record::{EpochMetrics, Summary},
};
use std::{collections::BTreeMap, path::PathBuf};

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

/// One report sample.
#[derive(Debug, Clone, Default)]
pub struct SampleRow {
    /// Position in the report split.
    pub index: u64,
    /// True class, an index into [`Summary::classes`].
    pub label: usize,
    /// Predicted class without an attacker; none where the outputs are not finite.
    pub prediction: Option<usize>,
    /// Its place among all report samples in the order in which they are drawn, from 0.
    pub drawn: u64,
    /// `min_j h_y - h_j` over the other classes without an attacker: of the key `""`, and of `without-NAME` where modalities are
    /// missing; none where it is not a number.
    pub margins: BTreeMap<String, f64>,
    /// Radius by threat (`joint` or a modality's name), in declared units.
    pub radii: BTreeMap<String, f64>,
    /// Of all these radii, which rest on the same constants: `proved` or `estimated`; empty before they are computed.
    pub evidence: String,
    /// What limits the joint radius; none before radii are computed.
    pub why: Option<Why>,
    /// Of the network that was attacked.
    pub precision: Precision,
    /// What each attack achieved; empty for samples that were not attacked.
    pub outcomes: Vec<Outcome>,
    /// The nearest adversarial that any attack found, by `THREAT.NORM`; none for samples that stood or were wrong.
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
    /// The part of the squared budget that the worst joint attack spends on each modality; they sum to 1.
    pub vulnerability: BTreeMap<String, f64>,
    /// What each modality adds to the margin over the rival beyond its baseline, in logits: its Shapley value.
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
    /// Whether the program that certificates are about takes it for another class than its label, too.
    pub confirmed: bool,
}

/// One attack on one sample.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// As in [`crate::record::AttackResult::name`]; one sample counts as broken when any of its attacks broke it.
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

/// The results of these runs.
fn summaries(runs: &[RunRecord]) -> Vec<&Summary> {
    runs.iter().map(|run| &run.summary).collect()
}

/// Why there is no report.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReportError {
    /// The list of runs was empty.
    NoRuns,
}

impl std::fmt::Display for ReportError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::NoRuns => f.write_str("a report needs at least one run; give the directory of a finished run"),
        }
    }
}

impl std::error::Error for ReportError {}

/// The page, as HTML. The same records give the same bytes.
///
/// # Errors
/// [`ReportError::NoRuns`] when `runs` is empty; whatever is missing inside a run only leaves its section out.
pub fn render(runs: &[RunRecord]) -> Result<String, ReportError> {
    Ok(page(runs)?.0)
}

/// The charts of the page as files that stand alone.
///
/// # Errors
/// As [`render`].
pub fn figures(runs: &[RunRecord]) -> Result<Vec<Figure>, ReportError> {
    Ok(page(runs)?.1.figures())
}

fn page(runs: &[RunRecord]) -> Result<(String, Gallery), ReportError> {
    let first = runs.first().ok_or(ReportError::NoRuns)?;
    let names: Vec<_> = runs.iter().map(|run| html::escape(&run.title)).collect();
    let title = format!("{} on {}", names.join(" / "), html::escape(&first.summary.data));
    let style = include_str!("style.css");
    let gallery = Gallery::default();
    let sections = [
        sandwich::tables(runs),
        sandwich::curves(runs, &gallery),
        attacks::attacks(runs),
        pictures::pictures(runs),
        falsification::falsification(runs),
        smoothing::smoothing(runs, &gallery),
        modalities::modalities(runs),
        diagnosis::diagnosis(runs, &gallery),
        corruptions::corruptions(runs, &gallery),
        training::training(runs, &gallery),
        confusion::confusion(runs),
        samples::samples(runs),
        setup::setup(runs),
    ];
    let html = format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta name=\"color-scheme\" content=\"light dark\">\n<title>{title}</title>\n<style>\n{style}</style>\n</head>\n\
         <body>\n<main>\n{}{}</main>\n</body>\n</html>\n",
        header::header(runs),
        sections.concat(),
    );
    Ok((html, gallery))
}
