//! `cargo xtask bench`: our programs against the same work in PyTorch (`--peer`), or how the time
//! of our training step grows (`--scaling`). Knows the programs by the JSON line they print, not
//! what they compute.
mod case;
mod compare;
mod growth;
mod measure;
mod output;
mod plot;
mod scaling;
mod verdict;

pub use case::AV;

use anyhow::{Context, Result};
use clap::ArgGroup;
use clap::builder::PossibleValuesParser;
use std::fs;
use std::path::PathBuf;

/// Arguments of `cargo xtask bench`.
#[derive(clap::Args)]
#[group(skip)]
#[command(group(ArgGroup::new("what").required(true).args(["peer", "scaling"])))]
pub struct Args {
    /// Time the cases against PyTorch: a Python that can import torch (python3 -m venv v &&
    /// v/bin/pip install torch numpy)
    #[arg(long, value_name = "PYTHON")]
    peer: Option<PathBuf>,
    /// Measure how a training step grows with its sizes and with threads, against what the machine
    /// can do
    #[arg(long, conflicts_with = "case", requires = "out")]
    scaling: bool,
    /// These cases alone [default: all]
    #[arg(long, value_name = "NAME", num_args = 1.., value_parser = PossibleValuesParser::new(case::names()))]
    case: Vec<String>,
    /// Times that each program is started; all take turns
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Threads of each
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..))]
    threads: u32,
    /// Folder for the results as files
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

/// Builds our programs and measures.
///
/// # Errors
/// If a program can't be built or started, fails, or prints no time; or if files can't be written.
pub fn run(args: &Args) -> Result<()> {
    if let Some(out) = &args.out {
        fs::create_dir_all(out).with_context(|| format!("making {}", out.display()))?;
    }
    match (&args.peer, &args.out) {
        (Some(peer), out) => compare::run(
            &case::chosen(&args.case),
            peer,
            args.rounds,
            args.threads,
            out.as_deref(),
        ),
        (None, Some(out)) => scaling::run(args.rounds, args.threads, out),
        (None, None) => anyhow::bail!("say --peer PYTHON, or --scaling --out DIR"),
    }
}
