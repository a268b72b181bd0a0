//! A run directory: names of its files, and writes that either happen or don't.
//! Does not know what the files mean.
use crate::lock::Lock;
use anyhow::{Context, Result, bail};
use crmt_data::check_writable;
use serde::de::DeserializeOwned;
use std::{
    fs,
    io::{self, ErrorKind},
    path::{Path, PathBuf},
    sync::Arc,
};

/// The resolved plan.
pub const CONFIG: &str = "config.toml";
/// A line per epoch.
pub const METRICS: &str = "metrics.jsonl";
/// The weights.
pub const MODEL: &str = "model.safetensors";
/// The result; a run that has it is complete.
pub const SUMMARY: &str = "summary.json";
/// A row per report sample.
pub const SAMPLES: &str = "samples.csv";
/// Inputs that attacks broke, before and after.
pub const EXAMPLES: &str = "examples.safetensors";
/// Votes under noise, to go on from.
pub const VOTES: &str = "votes.json";
/// A row per sample and smoothed classifier.
pub const SMOOTHED: &str = "smoothed.csv";
/// What training goes on from; only while it runs, or after it was stopped.
pub const CHECKPOINTS: &str = "checkpoints";
/// Where finished parts of an evaluation are kept until it is complete.
pub const PARTS: &str = "evaluation.partial";
/// Live metrics for TensorBoard.
pub const EVENTS: &str = "tensorboard";
/// Which modality the model relies on, and through which it is weakest.
pub const DIAGNOSIS: &str = "diagnosis.json";
/// The same of each report sample.
pub const DIAGNOSIS_SAMPLES: &str = "diagnosis.csv";
/// For people.
pub const REPORT: &str = "report.html";

/// Shows that the directory is a run, complete or not.
pub const MARK: &str = ".crmt-run";
/// How the mark's content begins.
pub const MARKED: &str = "A run of crmt-driver";

/// A run is complete as long as it has its summary, so that goes first.
pub const FILES: &[&str] = &[
    SUMMARY,
    CONFIG,
    METRICS,
    MODEL,
    SAMPLES,
    EXAMPLES,
    VOTES,
    SMOOTHED,
    DIAGNOSIS,
    DIAGNOSIS_SAMPLES,
    REPORT,
];

/// The directory of one run.
#[derive(Debug, Clone)]
pub struct RunDir {
    path: PathBuf,
    /// Held by one command at a time: others would take files away from under it. None for whoever
    /// only reads.
    lock: Option<Arc<Lock>>,
}

impl RunDir {
    /// Locked, or only to be read.
    pub fn new(path: &Path, lock: Option<Lock>) -> Self {
        Self {
            path: path.to_owned(),
            lock: lock.map(Arc::new),
        }
    }

    /// Whether no other command can change it meanwhile.
    pub fn is_locked(&self) -> bool {
        self.lock.is_some()
    }

    /// Path of one of its files.
    pub fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Replaces a file atomically.
    pub fn write(&self, name: &str, bytes: &[u8]) -> Result<()> {
        write_file(&self.file(name), bytes)
    }

    /// Removes a file, or a link, if it is there.
    pub fn remove(&self, name: &str) -> Result<()> {
        let file = self.file(name);
        absent_is_fine(fs::remove_file(&file))
            .with_context(|| format!("can't remove {}", file.display()))
    }

    /// Removes a folder and what is in it, if it is there; of a link, the link.
    pub fn remove_all(&self, name: &str) -> Result<()> {
        let dir = self.file(name);
        absent_is_fine(fs::remove_dir_all(&dir))
            .with_context(|| format!("can't remove {}", dir.display()))
    }

    /// A file's text.
    pub fn read(&self, name: &str) -> Result<String> {
        let path = self.file(name);
        fs::read_to_string(&path).with_context(|| format!("can't read {}", path.display()))
    }

    /// A file as JSON.
    pub fn read_json<T: DeserializeOwned>(&self, name: &str) -> Result<T> {
        serde_json::from_str(&self.read(name)?).with_context(|| {
            format!(
                "{} was not written by this program, or was altered",
                self.file(name).display()
            )
        })
    }
}

fn absent_is_fine(done: io::Result<()>) -> io::Result<()> {
    done.or_else(|e| {
        if e.kind() == ErrorKind::NotFound {
            Ok(())
        } else {
            Err(e)
        }
    })
}

/// Whether a run was begun here: it may have no other file yet.
pub fn is_marked(path: &Path) -> bool {
    let mark = path.join(MARK);
    let regular = fs::symlink_metadata(&mark).is_ok_and(|m| m.is_file());
    regular && fs::read_to_string(mark).is_ok_and(|text| text.starts_with(MARKED))
}

/// A folder of a run, made if need be.
///
/// # Errors
/// A link or a file is in the way: what is written must not land elsewhere.
pub fn make_folder(path: &Path) -> Result<()> {
    match fs::create_dir(path) {
        Err(e) if e.kind() == ErrorKind::AlreadyExists => match fs::symlink_metadata(path) {
            Ok(found) if found.is_dir() => Ok(()),
            _ => bail!("{} is a link or no folder: move it away", path.display()),
        },
        made => made.with_context(|| format!("can't create {}", path.display())),
    }
}

/// Refuses a path where no file can be written, before work is spent on its content; what is there
/// stays.
///
/// # Errors
/// Nothing can be written there, or it is a file that a run is made of.
pub fn check_file(flag: &str, path: &Path) -> Result<()> {
    let folder = path
        .parent()
        .filter(|p| !p.as_os_str().is_empty())
        .unwrap_or(Path::new("."));
    let own = FILES
        .iter()
        .any(|name| *name != REPORT && path.file_name().is_some_and(|file| file == *name));
    if own && is_marked(folder) {
        bail!(
            "{flag}: {} is a file of a run: choose another",
            path.display()
        );
    }
    check_writable(path).with_context(|| format!("{flag}: can't write {}", path.display()))
}

/// Replaces a file atomically, and names it if that fails.
pub fn write_file(path: &Path, bytes: &[u8]) -> Result<()> {
    crmt_data::write_atomically(path, bytes)
        .with_context(|| format!("can't write {}", path.display()))
}
