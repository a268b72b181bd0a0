//! The results of a run as one: written all together or not at all, and read only where they belong
//! together. Does not know what they say.
use crate::{
    record::{FORMAT, Summary},
    run_dir::{
        CONFIG, DIAGNOSIS, DIAGNOSIS_SAMPLES, EXAMPLES, METRICS, REPORT, RunDir, SAMPLES, SMOOTHED,
        SUMMARY, make_folder,
    },
    sealed::hex,
};
use anyhow::{Context, Result, bail};
use crmt_data::sync_directory;
use serde_json::Value;
use sha2::{Digest, Sha256};
use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::Write,
    path::{Path, PathBuf},
};

/// What `summary.json` seals, by the SHA-256 of each file; the report is made from them.
const SEALED: [&str; 7] = [
    CONFIG,
    METRICS,
    SAMPLES,
    EXAMPLES,
    SMOOTHED,
    DIAGNOSIS_SAMPLES,
    DIAGNOSIS,
];

/// Where new results are written before they are the run's.
const STAGED: &str = ".crmt-staged";
/// Its name once all of it is written: from here on these are the run's results, wherever their
/// files are.
const COMMITTED: &str = ".crmt-committed";

/// Writes a generation of results. `files` are new, `gone` no longer exist, what else is sealed
/// stays.
///
/// All files are written aside; then one renaming makes them the run's results: whoever is killed
/// before it has changed nothing, and after it the next command completes what is left to do (see
/// [`recover`]). The report of older results goes before they do.
///
/// # Errors
/// What can't be written; the old results stay.
pub fn commit(
    dir: &RunDir,
    summary: &mut Summary,
    files: &BTreeMap<&'static str, Vec<u8>>,
    gone: &[&str],
) -> Result<()> {
    // What would be refused when it is read is not written.
    summary.check().context("the results do not add up")?;
    summary
        .files
        .retain(|name, _| !gone.contains(&name.as_str()));
    summary.files.extend(
        files
            .iter()
            .map(|(name, bytes)| ((*name).to_owned(), sha256(bytes))),
    );
    let json = seal(summary)?;
    let new = || {
        files
            .iter()
            .map(|(name, bytes)| (*name, bytes.as_slice()))
            .chain([(SUMMARY, json.as_slice())])
    };
    if let Some((name, _)) = new().find(|(name, _)| dir.file(name).is_dir()) {
        bail!(
            "{} is a directory, and in the way: move it away; nothing was changed",
            dir.file(name).display()
        );
    }
    dir.remove_all(STAGED)?;
    let staged = dir.file(STAGED);
    let stage = || -> Result<()> {
        make_folder(&staged)?;
        for (name, bytes) in new() {
            let path = staged.join(name);
            write_new(&path, bytes)
                .with_context(|| format!("can't write {}", dir.file(name).display()))?;
        }
        sync(&staged)?;
        fs::rename(&staged, pending(dir.path()))
            .with_context(|| format!("can't write to {}", dir.path().display()))
    };
    if let Err(e) = stage() {
        let _ = dir.remove_all(STAGED);
        return Err(e);
    }
    sync(dir.path())?;
    recover(dir)
}

/// Completes what a command that was killed had committed, and removes what it had not. The lock is
/// held.
pub fn recover(dir: &RunDir) -> Result<()> {
    dir.remove_all(STAGED)?;
    let committed = pending(dir.path());
    if !committed.is_dir() {
        return Ok(());
    }
    // The summary is the last to go.
    if committed.join(SUMMARY).exists() {
        let summary = parse(&committed.join(SUMMARY))?;
        // A directory of that name is none of ours.
        let remove = |name| {
            if dir.file(name).is_dir() {
                Ok(())
            } else {
                dir.remove(name)
            }
        };
        remove(REPORT)?;
        for name in SEALED {
            let new = committed.join(name);
            if new.exists() {
                put(&new, &dir.file(name))?;
            } else if !summary.files.contains_key(name) {
                remove(name)?;
            }
        }
        sync(dir.path())?;
        put(&committed.join(SUMMARY), &dir.file(SUMMARY))?;
        sync(dir.path())?;
    }
    dir.remove_all(COMMITTED)
}

/// Removes results that are not in place yet: the run is to be replaced.
pub fn discard(dir: &RunDir) -> Result<()> {
    dir.remove_all(STAGED)?;
    dir.remove_all(COMMITTED)
}

/// Where results are that a killed command had committed.
pub fn pending(dir: &Path) -> PathBuf {
    dir.join(COMMITTED)
}

/// The summary of a run.
///
/// # Errors
/// One of another version, or one that was altered.
pub fn summary(dir: &RunDir) -> Result<Summary> {
    if !dir.is_locked() && pending(dir.path()).exists() {
        bail!(
            "{} is incomplete: another command writes its results right now, or was killed doing so; give this command \
             again where it can write to the run",
            dir.path().display()
        );
    }
    parse(&dir.file(SUMMARY))
}

/// Refuses a file that is not the one that the summary was written with.
pub fn check(dir: &RunDir, summary: &Summary, name: &str) -> Result<()> {
    let Some(known) = summary.files.get(name) else {
        return Ok(());
    };
    let path = dir.file(name);
    let bytes = fs::read(&path)
        .with_context(|| format!("can't read {}; {}", path.display(), remedy(dir, name)))?;
    if sha256(&bytes) != *known {
        bail!(
            "{} is not the file that {SUMMARY} was written with: it was altered, or is of another time; {}",
            path.display(),
            remedy(dir, name)
        );
    }
    Ok(())
}

/// Whether the results hold a file of this name; one that they do not know is none of theirs.
pub fn has(summary: &Summary, name: &str) -> bool {
    summary.files.contains_key(name)
}

/// What the results of `summary` are made of.
pub fn names() -> impl Iterator<Item = &'static str> {
    SEALED.into_iter()
}

/// Whether a file looks like a summary of ours, of any version.
pub fn is_summary(path: &Path) -> bool {
    let regular = fs::symlink_metadata(path).is_ok_and(|m| m.is_file());
    let value = || serde_json::from_slice::<Value>(&fs::read(path).ok()?).ok();
    let ours = |value: Value| {
        ["method", "weights", "confusion"]
            .iter()
            .all(|key| value.get(key).is_some())
    };
    regular && value().is_some_and(ours)
}

fn remedy(dir: &RunDir, name: &str) -> String {
    let run = dir.path().display();
    match name {
        SAMPLES => format!(
            "`certify {run}` computes the radii again, `evaluate {run}` after it the attacks"
        ),
        EXAMPLES => format!("`evaluate {run}` makes it again"),
        SMOOTHED => format!("`certify {run} --smooth` makes it again"),
        DIAGNOSIS | DIAGNOSIS_SAMPLES => format!("`diagnose {run}` makes it again"),
        _ => "restore it, or train the run again (what is measured is set by options and by --set)"
            .to_owned(),
    }
}

fn parse(path: &Path) -> Result<Summary> {
    let name = path.display();
    let text = fs::read_to_string(path).with_context(|| format!("can't read {name}"))?;
    let altered = || format!("{name} was not written by this program, or was altered");
    let value: Value = serde_json::from_str(&text).with_context(altered)?;
    match value.get("format").and_then(Value::as_u64) {
        Some(FORMAT) => {}
        Some(other) => {
            bail!("{name} has the format {other}, this program reads {FORMAT}: train the run again")
        }
        None if value.get("weights").is_some() => {
            bail!("{name} is of an older version of this program: train the run again")
        }
        None => bail!(altered()),
    }
    if value.get("sha256").and_then(Value::as_str) != Some(&content_hash(&value)) {
        bail!(
            "{name}: its content does not match its hash: it was altered after it was written; restore it, or train the run \
             again"
        );
    }
    let summary: Summary = serde_json::from_value(value).with_context(altered)?;
    summary.check().with_context(altered)?;
    Ok(summary)
}

/// The file; the summary holds its own hash then.
fn seal(summary: &mut Summary) -> Result<Vec<u8>> {
    summary.format = FORMAT;
    summary.sha256 = content_hash(&serde_json::to_value(&*summary)?);
    let mut json = serde_json::to_vec_pretty(summary)?;
    json.push(b'\n');
    Ok(json)
}

/// SHA-256 of a summary as compact JSON without `sha256`: spaces do not matter.
fn content_hash(summary: &Value) -> String {
    let mut content = summary.clone();
    if let Value::Object(entries) = &mut content {
        entries.shift_remove("sha256");
    }
    sha256(content.to_string().as_bytes())
}

/// Any content, as if this program had written it.
#[cfg(test)]
pub fn sealed_json(mut summary: Value) -> Result<Vec<u8>> {
    if let Value::Object(entries) = &mut summary {
        entries.insert("format".to_owned(), FORMAT.into());
    }
    let hash = content_hash(&summary);
    if let Value::Object(entries) = &mut summary {
        entries.insert("sha256".to_owned(), hash.into());
    }
    Ok(serde_json::to_vec(&summary)?)
}

fn sha256(bytes: &[u8]) -> String {
    hex(Sha256::new_with_prefix(bytes))
}

fn write_new(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let mut file = File::create_new(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

fn put(from: &Path, to: &Path) -> Result<()> {
    fs::rename(from, to).with_context(|| {
        format!(
            "the results are written but not in place: can't replace {}; see to it, and give the command again",
            to.display()
        )
    })
}

fn sync(directory: &Path) -> Result<()> {
    sync_directory(directory).with_context(|| format!("can't write to {}", directory.display()))
}
