//! Whether runs can be made, found out before any is: the driver checks their settings, and their
//! data sets are opened. Trains nothing.
use super::plan::Run;
use anyhow::{Context, Result, bail};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::{Command, Stdio};

/// Has the driver check the settings of every row of the table, and opens every data set, so that a
/// misspelt one in the last corner of the grid is told now and not tomorrow.
///
/// # Errors
/// Every fault once, with the number of runs that have it.
pub fn check(driver: &Path, runs: &[&Run], out: &Path) -> Result<()> {
    let mut faults: BTreeMap<String, usize> = BTreeMap::new();
    for row in rows(runs) {
        // Seeds are alike to the driver, but the greatest may be too great.
        let Some(run) = row
            .iter()
            .max_by_key(|run| run.settings.get("seed").and_then(toml::Value::as_integer))
        else {
            continue;
        };
        let mut command = Command::new(driver);
        let output = command
            .args(run.arguments(out))
            .arg("--explain")
            .stdin(Stdio::null())
            .output();
        let output = output.with_context(|| format!("starting {}", driver.display()))?;
        if !output.status.success() {
            *faults
                .entry(String::from_utf8_lossy(&output.stderr).trim().to_owned())
                .or_default() += row.len();
        }
    }
    if !faults.is_empty() {
        let told = faults
            .iter()
            .map(|(fault, count)| format!("\n{count} of {} runs: {fault}", runs.len()));
        bail!(
            "the driver refuses the settings:{}",
            told.collect::<String>()
        );
    }
    data_sets(runs)
}

/// The runs that differ in the seed alone, together.
pub fn rows<'a>(runs: &[&'a Run]) -> Vec<Vec<&'a Run>> {
    let mut rows: Vec<Vec<&Run>> = vec![];
    for &run in runs {
        match rows.iter_mut().find(|row| row[0].point == run.point) {
            Some(row) => row.push(run),
            None => rows.push(vec![run]),
        }
    }
    rows
}

fn data_sets(runs: &[&Run]) -> Result<()> {
    let named = runs
        .iter()
        .filter_map(|run| run.settings.get("data")?.as_str());
    for path in named
        .filter(|name| *name != super::data::BUILT_IN)
        .collect::<BTreeSet<_>>()
    {
        crmt_data::DataSet::open(path).with_context(|| format!("data = \"{path}\""))?;
    }
    Ok(())
}
