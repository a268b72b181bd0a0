//! What a run will cost, from a small part of it: one epoch, a few attacked samples, and all the
//! rest. Knows the driver's settings of epochs and samples by name.
use super::plan::Run;
use anyhow::{Context, Result, bail};
use serde_json::Value;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

/// Attacked samples of a probe.
const SAMPLES: u64 = 16;

/// A guess.
#[derive(Debug)]
pub struct Probe {
    pub seconds: f64,
    /// What it rests on.
    pub how: String,
}

/// Makes a small form of a run in a scratch folder, and extrapolates.
///
/// # Errors
/// If it fails.
pub fn measure(driver: &Path, run: &Run, threads: usize) -> Result<Probe> {
    let scratch = tempfile::tempdir().context("making a scratch folder")?;
    let plan = call(
        driver,
        threads,
        &[
            run.arguments(scratch.path()),
            vec!["--explain".into(), "--json".into()],
        ]
        .concat(),
    )?;
    let plan: Value = serde_json::from_slice(&plan).context("the driver's settings")?;
    let number = |section: &str, key: &str| plan[section][key].as_u64().unwrap_or(0);
    let (epochs, samples) = (number("train", "epochs"), number("evaluate", "samples"));
    let small = if samples == 0 {
        SAMPLES
    } else {
        SAMPLES.min(samples)
    };

    let mut part = run.clone();
    for (key, value) in [("train.epochs", 1), ("evaluate.samples", small)] {
        part.settings.insert(key.to_owned(), (value as i64).into());
    }
    call(driver, threads, &part.arguments(scratch.path()))?;
    let folder = scratch.path().join(&run.slug);
    let read = |name: &str| {
        fs::read_to_string(folder.join(name)).with_context(|| format!("the probe left no {name}"))
    };
    let summary: Value =
        serde_json::from_str(&read("summary.json")?).context("the probe's summary.json")?;
    let metrics = read("metrics.jsonl")?;
    let samples = if samples == 0 {
        summary["accuracy"]["samples"].as_u64().unwrap_or(small)
    } else {
        samples
    };
    let seconds = whole(
        &summary,
        &metrics,
        epochs as f64,
        samples as f64 / small as f64,
    );
    let how = format!(
        "1 of {epochs} epochs and {small} of {samples} attacked samples: about {seconds:.0} s in all"
    );
    Ok(Probe { seconds, how })
}

/// All that was measured, the first phase's epoch and the attacks as often as they will be.
fn whole(summary: &Value, metrics: &str, epochs: f64, attacks: f64) -> f64 {
    let first = metrics
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let first = first.filter(|epoch| epoch["phase"] == "step-1");
    let epoch = first
        .map(|epoch| epoch["seconds"].as_f64().unwrap_or(0.0))
        .sum::<f64>();
    let attack = summary["stages"]["evaluate"].as_f64().unwrap_or(0.0);
    summary["seconds"].as_f64().unwrap_or(0.0) + epoch * (epochs - 1.0) + attack * (attacks - 1.0)
}

fn call(driver: &Path, threads: usize, arguments: &[String]) -> Result<Vec<u8>> {
    let mut command = Command::new(driver);
    if std::env::var_os("RAYON_NUM_THREADS").is_none() {
        command.env("RAYON_NUM_THREADS", threads.max(1).to_string());
    }
    let output = command.args(arguments).stdin(Stdio::null()).output();
    let output = output.with_context(|| format!("starting {}", driver.display()))?;
    if !output.status.success() {
        bail!(
            "the probe failed: {}",
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    Ok(output.stdout)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_whole_has_more_epochs_and_more_attacks() {
        // Of 12 s: an epoch of 3, a second step of 1, attacks of 2, and 6 of the rest.
        let summary =
            serde_json::json!({"seconds": 12.0, "stages": {"train": 5.0, "evaluate": 2.0}});
        let metrics = "{\"phase\": \"step-1\", \"seconds\": 3.0}\n{\"phase\": \"step-2\", \"seconds\": 1.0}\n";
        assert_eq!(
            whole(&summary, metrics, 20.0, 10.0),
            6.0 + 60.0 + 1.0 + 20.0
        );
    }
}
