//! A run directory: names of its files, and writes that either happen or don't.
//! Does not know what the files mean.
use crate::checkpoints::Checkpoints;
use anyhow::{Context, Result, bail};
use serde::de::DeserializeOwned;
use std::{
    fs::{self, File, TryLockError},
    io::ErrorKind,
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
/// Live metrics for TensorBoard.
pub const EVENTS: &str = "tensorboard";
/// Which modality the model relies on, and through which it is weakest.
pub const DIAGNOSIS: &str = "diagnosis.json";
/// The same of each report sample.
pub const DIAGNOSIS_SAMPLES: &str = "diagnosis.csv";
/// For people.
pub const REPORT: &str = "report.html";

/// Held by the process that trains.
const LOCK: &str = "lock";
/// Shows that the directory can be written to.
const PROBE: &str = "probe";

/// A run is complete as long as it has its summary, so that goes first.
const FILES: &[&str] =
    &[SUMMARY, CONFIG, METRICS, MODEL, SAMPLES, EXAMPLES, VOTES, SMOOTHED, DIAGNOSIS, DIAGNOSIS_SAMPLES, REPORT];

/// The directory of one run.
#[derive(Debug, Clone)]
pub struct RunDir {
    path: PathBuf,
    /// Held while the run is trained: a second process would take its files away.
    lock: Option<Arc<File>>,
}

impl RunDir {
    /// Creates the directory and checks that it can be written to, before any work is spent.
    ///
    /// A finished run is replaced only with `overwrite`; then just the files of a run go.
    pub fn create(path: &Path, overwrite: bool) -> Result<Self> {
        let occupied = path.join(SUMMARY).exists();
        if occupied && !overwrite {
            bail!("{} already holds a run: choose another --out, or say --overwrite", path.display());
        }
        if Checkpoints::exist(path) && !overwrite {
            bail!(
                "{0} holds a run that was stopped: go on with train --resume {0}, choose another --out, or say --overwrite",
                path.display()
            );
        }
        fs::create_dir_all(path).with_context(|| format!("can't create the run directory {}", path.display()))?;
        let run = Self::locked(path)?;
        // Not under the name of a file that means something: it may be killed right here.
        run.write(PROBE, b"")?;
        run.remove(PROBE)?;
        for name in FILES {
            run.remove(name)?;
        }
        Checkpoints::remove(&run)?;
        Ok(run)
    }

    /// A run that was stopped before it was complete, to go on with.
    pub fn resume(path: &Path) -> Result<Self> {
        if !path.join(CONFIG).exists() {
            bail!("no run to go on with in {}: it has no {CONFIG}", path.display());
        }
        if path.join(SUMMARY).exists() {
            bail!("{} is complete: there is nothing to go on with", path.display());
        }
        Self::locked(path)
    }

    /// For this process alone, without what killed writes left behind.
    fn locked(path: &Path) -> Result<Self> {
        let name = path.join(LOCK);
        let file = File::create(&name).with_context(|| format!("can't write {}", name.display()))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                bail!("{} is being trained by another process: wait for it, or choose another --out", path.display())
            }
            Err(TryLockError::Error(e)) => return Err(e).with_context(|| format!("can't lock {}", name.display())),
        }
        for dir in [path.to_owned(), path.join(CHECKPOINTS)] {
            for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
                if entry.file_name().to_string_lossy().starts_with(".tmp") {
                    fs::remove_file(entry.path())
                        .with_context(|| format!("can't remove {}", entry.path().display()))?;
                }
            }
        }
        Ok(Self { path: path.to_owned(), lock: Some(Arc::new(file)) })
    }

    /// Lets other processes train it.
    pub fn unlock(&mut self) -> Result<()> {
        if self.lock.take().is_some() { self.remove(LOCK) } else { Ok(()) }
    }

    /// An existing, complete run.
    pub fn open(path: &Path) -> Result<Self> {
        if !path.is_dir() {
            bail!("no run directory {}: train one with --out {0}", path.display());
        }
        if let Some(missing) = [CONFIG, MODEL, SUMMARY].iter().find(|name| !path.join(name).exists()) {
            bail!("{} is not a complete run: it has no {missing}", path.display());
        }
        Ok(Self { path: path.to_owned(), lock: None })
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

    /// Removes a file if it is there.
    pub fn remove(&self, name: &str) -> Result<()> {
        let file = self.file(name);
        if file.exists() {
            fs::remove_file(&file).with_context(|| format!("can't remove {}", file.display()))?;
        }
        Ok(())
    }

    /// Removes a folder and what is in it, if it is there.
    pub fn remove_all(&self, name: &str) -> Result<()> {
        let dir = self.file(name);
        match fs::remove_dir_all(&dir) {
            Err(e) if e.kind() != ErrorKind::NotFound => {
                Err(e).with_context(|| format!("can't remove {}", dir.display()))
            }
            _ => Ok(()),
        }
    }

    /// A file's text.
    pub fn read(&self, name: &str) -> Result<String> {
        let path = self.file(name);
        fs::read_to_string(&path).with_context(|| format!("can't read {}", path.display()))
    }

    /// A file as JSON.
    pub fn read_json<T: DeserializeOwned>(&self, name: &str) -> Result<T> {
        serde_json::from_str(&self.read(name)?)
            .with_context(|| format!("{} was not written by this program, or was altered", self.file(name).display()))
    }
}

/// Replaces a file atomically, and names it if that fails.
pub fn write_file(path: &Path, bytes: &[u8]) -> Result<()> {
    crmt_data::write_atomically(path, bytes).with_context(|| format!("can't write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_existing_run_is_kept_unless_told_otherwise() -> Result<()> {
        let dir = tempfile::tempdir()?;
        let mut run = RunDir::create(dir.path(), false)?;
        run.write(SUMMARY, b"{}")?;
        run.write("notes.txt", b"mine")?;
        let refused = RunDir::create(dir.path(), false).unwrap_err().to_string();
        assert!(refused.contains("--overwrite"), "{refused}");
        assert_eq!(run.read(SUMMARY)?, "{}");
        let busy = RunDir::create(dir.path(), true).unwrap_err().to_string();
        assert!(busy.contains("another process"), "{busy}");
        run.unlock()?;
        let mut again = RunDir::create(dir.path(), true)?;
        again.write(METRICS, b"")?;
        again.unlock()?;
        RunDir::create(dir.path(), false).expect("a run that never finished may be started again");
        assert!(!again.file(SUMMARY).exists());
        assert_eq!(again.read("notes.txt")?, "mine");
        Ok(())
    }

    #[test]
    fn a_path_below_a_file_is_refused_by_name() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let error = format!("{:#}", RunDir::create(&file.path().join("run"), false).unwrap_err());
        assert!(error.contains("run directory"), "{error}");
    }
}
