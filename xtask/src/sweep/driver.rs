//! Where the driver is: built here, or named by the user. Does not know what it is told.
use super::args::Args;
use crate::say::say;
use crate::workspace;
use anyhow::{Context, Result, bail};
use std::path::PathBuf;

/// The program that makes the runs.
///
/// # Errors
/// If there is none, or it can't be built.
pub fn driver(args: &Args) -> Result<PathBuf> {
    match &args.driver {
        Some(path) if path.is_file() => Ok(std::path::absolute(path)?),
        Some(path) => bail!("--driver {}: no such file", path.display()),
        None => {
            say("$ cargo build --release --package crmt-driver\n")?;
            let programs = workspace::build(&["--release", "--package", "crmt-driver", "--bins"])?;
            programs
                .into_iter()
                .next()
                .context("crmt-driver has no program")
        }
    }
}
