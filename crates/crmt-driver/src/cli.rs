//! The command line. Does not know how any command is carried out.
use crate::{
    arsenal::{ATTACKS, PRESETS},
    methods::METHODS,
};
use clap::{Args, Parser, Subcommand};
use crmt_kernels::{Compute, Precision};
use std::path::PathBuf;

/// Train multi-modal classifiers, attack them, certify them, and report what is true.
///
/// Without a command: the tour. It trains joint training (JT), CRMT and certified CRMT on the
/// built-in audio-visual digits, attacks all three, and writes a report to runs/tour/report.html.
#[derive(Debug, Parser)]
#[command(name = "crmt-driver", version, max_term_width = 100, after_help = EXAMPLES)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Option<Command>,
    /// Where tensors live: cpu, cuda (the first GPU) or cuda:N, which need a build with the
    /// features cuda and cudnn.
    #[arg(long, global = true, value_name = "DEVICE")]
    pub device: Option<Compute>,
    /// Print one JSON document on stdout; people's text goes to stderr.
    #[arg(long, global = true)]
    pub json: bool,
    /// Errors and the result only.
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    pub quiet: bool,
    /// More about what happens.
    #[arg(short, long, global = true)]
    pub verbose: bool,
}

const EXAMPLES: &str = "\
Examples:
  crmt-driver                                        the tour (three to four minutes)
  crmt-driver train --data prepared/digits --method crmt-jt
  crmt-driver train --method jt --set train.epochs=4 --set evaluate.eps=0.5,1,2
  crmt-driver train --method crmt-jt --explain       every setting, and where it comes from
  crmt-driver train --method crmt-jt --device cuda   on a GPU (docs/cuda.md); every command takes --device
  crmt-driver train --resume runs/digits-jt-s0       go on with a run that was stopped
  crmt-driver evaluate runs/digits-jt-s0 --attack strong --eps 0.5,1.0 --samples 1000
  crmt-driver evaluate runs/digits-jt-s0 --corruption all
  crmt-driver certify runs/digits-crmt-certified-s0 --falsify
  crmt-driver certify runs/digits-noise-s0 --smooth 0.25
  crmt-driver diagnose runs/digits-jt-s0 runs/digits-crmt-jt-s0 --out compare.html
  crmt-driver report runs/digits-jt-s0 runs/digits-crmt-jt-s0 --out compare.html
  crmt-driver report runs/study --figures figures    all runs of a sweep; charts as SVG and PNG, too

Exit status: 0 fine, 1 a check failed (a certificate was broken), 2 bad usage or input.";

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Train a model, then certify and attack it, and write a run directory.
    #[command(after_help = methods_help())]
    Train(TrainArgs),
    /// Attack the model of a run again: other attacks, other budgets, more samples; or corrupt its
    /// inputs.
    ///
    /// What is finished is kept: a stopped evaluation goes on where it was when the same command is
    /// given again.
    #[command(after_help = attacks_help())]
    Evaluate(EvaluateArgs),
    /// Compute the radii of a run's model again and try to break them; or smooth it and certify
    /// that.
    Certify(CertifyArgs),
    /// Say which modality a run's model relies on, and through which it is weakest; several runs
    /// side by side.
    ///
    /// Writes diagnosis.json, diagnosis.csv (a row per report sample) and a section of the report
    /// into each run.
    Diagnose(DiagnoseArgs),
    /// Write one report of one or several runs.
    Report(ReportArgs),
}

/// `train`.
#[derive(Debug, Args)]
pub struct TrainArgs {
    /// A prepared data set (a directory with a dataset.toml), or `synthetic`.
    #[arg(long, value_name = "DIR|synthetic")]
    pub data: Option<String>,
    /// Training method; the list is below.
    #[arg(long)]
    pub method: Option<String>,
    /// TOML file of settings.
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// One setting, e.g. train.epochs=4; may be repeated; wins over the file.
    #[arg(long, value_name = "KEY=VALUE")]
    pub set: Vec<String>,
    /// Run directory to create [default: runs/DATA-METHOD-sSEED].
    #[arg(long, value_name = "RUN")]
    pub out: Option<PathBuf>,
    /// Seed of everything random.
    #[arg(long)]
    pub seed: Option<u64>,
    /// Convolutions and products on CUDA while training: tf32, f32 or bf16 [default: tf32]; all is
    /// measured in f32.
    #[arg(long, value_name = "P")]
    pub precision: Option<Precision>,
    /// Print the resolved settings with their origins, and stop.
    #[arg(long)]
    pub explain: bool,
    /// Replace an existing run directory.
    #[arg(long)]
    pub overwrite: bool,
    /// Go on with a run that was stopped, under its own settings: the result has the same bits as
    /// if it had not been.
    #[arg(long, value_name = "RUN")]
    #[arg(conflicts_with_all = ["data", "method", "config", "set", "out", "seed", "precision", "explain", "overwrite"])]
    pub resume: Option<PathBuf>,
}

/// `evaluate`.
#[derive(Debug, Args)]
pub struct EvaluateArgs {
    /// A run directory.
    pub run: PathBuf,
    /// Budgets, in the modalities' declared units.
    #[arg(long, value_delimiter = ',', allow_negative_numbers = true)]
    pub eps: Vec<f64>,
    /// Attacks or presets; the list is below [default: the run's evaluate.attacks].
    #[arg(long, value_name = "NAME,…", value_delimiter = ',')]
    pub attack: Vec<String>,
    /// How many report samples to attack or corrupt, drawn by the run's seed; 0 for all.
    #[arg(long)]
    pub samples: Option<usize>,
    /// `l2`, or `linf` for `each` and single modalities.
    #[arg(long)]
    pub norm: Option<String>,
    /// `joint`, `each`, names of modalities, `usual` (joint and each modality alone),
    /// `without-NAME` or `without-NAME+NAME`, `any-missing`.
    #[arg(long, value_delimiter = ',')]
    pub threat: Vec<String>,
    /// Accuracy with one modality corrupted: `all`, or gaussian-noise, blur, occlusion, contrast,
    /// frame-drop, time-shift, and what was prepared with the data. Attacks run again only if one
    /// of their options is given, too.
    #[arg(long, value_name = "all|NAME,…", value_delimiter = ',')]
    pub corruption: Vec<String>,
    /// Severities of the corruptions, of 1 to 5 [default: all].
    #[arg(
        long,
        value_name = "S,…",
        value_delimiter = ',',
        requires = "corruption"
    )]
    #[arg(value_parser = clap::value_parser!(u8).range(1..=5))]
    pub severity: Vec<u8>,
    /// One setting, e.g. evaluate.steps=100; may be repeated.
    #[arg(long, value_name = "KEY=VALUE")]
    pub set: Vec<String>,
    /// Added to the run's seed: another value, other random starts.
    #[arg(long)]
    pub seed: Option<u64>,
    /// Write the nearest adversarial of every attacked sample to this file.
    #[arg(long, value_name = "FILE.safetensors|FILE.npz")]
    pub save_adversarials: Option<PathBuf>,
    /// Write what the model says of every report sample to this file: logits, labels, predictions
    /// and each modality's scores; as .npy the logits alone. Attacks run again only if one of their
    /// options is given, too.
    #[arg(long, value_name = "FILE.safetensors|FILE.npz|FILE.npy")]
    pub save_predictions: Option<PathBuf>,
    /// Attack the network as it is used (`f32`), or as certificates are about it (`f64`, on the
    /// CPU).
    #[arg(long, value_name = "f32|f64")]
    pub precision: Option<String>,
    /// What stands in for missing modalities: `declared`, `zeros`, `mean`, or `learned` (the one
    /// that serves the model best); all but the first also give a table of accuracies without each
    /// set of modalities.
    #[arg(long)]
    pub baseline: Option<String>,
    /// The data set, if it has moved since training.
    #[arg(long, value_name = "DIR")]
    pub data: Option<String>,
}

impl EvaluateArgs {
    /// Whether attacks are asked for: always, unless corruptions or predictions alone are.
    pub fn attacks(&self) -> bool {
        let asked = !(self.eps.is_empty() && self.threat.is_empty() && self.attack.is_empty());
        (self.corruption.is_empty() && self.save_predictions.is_none())
            || asked
            || !self.set.is_empty()
            || self.norm.is_some()
            || self.seed.is_some()
            || self.save_adversarials.is_some()
            || self.precision.is_some()
            || self.baseline.is_some()
    }
}

/// `certify`.
#[derive(Debug, Args)]
pub struct CertifyArgs {
    /// A run directory.
    pub run: PathBuf,
    /// Budgets at which the certified accuracy is told.
    #[arg(long, value_delimiter = ',', allow_negative_numbers = true)]
    pub eps: Vec<f64>,
    /// `auto`, `proved` or `estimated`.
    #[arg(long)]
    pub evidence: Option<String>,
    /// Which program proved radii are about: `f64`, or `f32`, the one that predicts.
    #[arg(long, value_name = "f64|f32")]
    pub program: Option<String>,
    /// Print the bound of each layer.
    #[arg(long)]
    pub audit: bool,
    /// Attack every kind of certificate strictly inside; one success makes the exit status 1.
    #[arg(long)]
    pub falsify: bool,
    /// Attack only these: `joint`, `each`, names of modalities, `usual` (joint and each modality
    /// alone), `without-NAME` or `without-NAME+NAME`, `any-missing`.
    #[arg(long, value_delimiter = ',', requires = "falsify")]
    pub threat: Vec<String>,
    /// Gradient steps of each of the three restarts of these attacks.
    #[arg(long, requires = "falsify")]
    pub steps: Option<usize>,
    /// Certify the smoothed network instead: Gaussian noise of this standard deviation, in declared
    /// units, on every modality, or a NAME=SIGMA for each [default: the run's smooth.sigma].
    #[arg(long, value_name = "SIGMA|NAME=SIGMA,…", num_args = 0..=1, allow_negative_numbers = true)]
    #[arg(conflicts_with_all = ["evidence", "program", "audit", "falsify"])]
    pub smooth: Option<Option<String>>,
    /// Smoothing: also attack the smoothed network through the noise, at every budget.
    #[arg(long, requires = "smooth")]
    pub attack: bool,
    /// Smoothing: draws that bound the probability of a sample's class.
    #[arg(long, value_name = "N", requires = "smooth")]
    pub draws: Option<u64>,
    /// Smoothing: draws, before those, that choose the class.
    #[arg(long, value_name = "N", requires = "smooth")]
    pub selection_draws: Option<u64>,
    /// Smoothing: probability that a sample's certificates are wrong.
    #[arg(
        long,
        value_name = "A",
        requires = "smooth",
        allow_negative_numbers = true
    )]
    pub alpha: Option<f64>,
    /// Smoothing: also without each modality.
    #[arg(
        long,
        value_name = "true|false",
        requires = "smooth",
        require_equals = true
    )]
    #[arg(num_args = 0..=1, default_missing_value = "true")]
    pub missing: Option<bool>,
    /// How many report samples --falsify attacks or --smooth certifies, drawn by the run's seed; 0
    /// for all.
    #[arg(long, value_name = "N")]
    pub samples: Option<usize>,
    /// The data set, if it has moved since training.
    #[arg(long, value_name = "DIR")]
    pub data: Option<String>,
}

/// `diagnose`.
#[derive(Debug, Args)]
pub struct DiagnoseArgs {
    /// Run directories, in the order of the comparison; or folders of runs.
    #[arg(required = true)]
    pub runs: Vec<PathBuf>,
    /// Also write one report of all of them to this file.
    #[arg(long, value_name = "FILE")]
    pub out: Option<PathBuf>,
    /// The data set, if it has moved since training.
    #[arg(long, value_name = "DIR")]
    pub data: Option<String>,
}

/// `report`.
#[derive(Debug, Args)]
pub struct ReportArgs {
    /// Run directories, in the order of the report; or folders of runs, e.g. of a sweep. Of several
    /// paths, those that are no complete runs are left out, and named.
    #[arg(required = true)]
    pub runs: Vec<PathBuf>,
    /// File to write [default: report.html in the first run, or in the folder of runs].
    #[arg(long, value_name = "FILE")]
    pub out: Option<PathBuf>,
    /// Also write every chart of the report to this folder, as .svg and as .png, to stand alone.
    #[arg(long, value_name = "DIR")]
    pub figures: Option<PathBuf>,
}

fn attacks_help() -> String {
    let width = ATTACKS.iter().map(|a| a.name.len()).max().unwrap_or(0);
    let line = |name: &str, about: &str| format!("  {name:width$}  {about}\n");
    let attacks: String = ATTACKS.iter().map(|a| line(a.name, a.about)).collect();
    let presets = PRESETS
        .iter()
        .map(|(name, members, about)| line(name, &format!("{}: {about}", members.join(", "))));
    let presets: String = presets.collect();
    format!(
        "Attacks:\n{attacks}\nPresets:\n{presets}\nHow much they may spend: --set evaluate.steps and .restarts (pgd), .standard_steps \
         and .targets (apgd, fab), .queries (square); standard: the last three."
    )
}

fn methods_help() -> String {
    let width = METHODS.iter().map(|m| m.name.len()).max().unwrap_or(0);
    let lines = METHODS
        .iter()
        .map(|m| format!("  {:width$}  {}\n", m.name, m.about));
    format!(
        "Methods:\n{}\nEvery setting: crmt-driver train --explain",
        lines.collect::<String>()
    )
}
