//! Who works in a folder: the lock of a sweep's folder, which its runs hold too as long as they
//! live, and the locks of single runs. Knows no file of a run but its lock.
use anyhow::{Context, Result, bail};
use std::ffi::OsString;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::path::Path;
use std::process::Stdio;

/// The lock that every command of the driver holds on its run.
const RUN_LOCK: &str = "lock";
/// Of a command line, so much is shown.
const SHOWN: usize = 160;

/// A sweep's folder, for this sweep alone.
#[derive(Debug)]
pub struct Lock(File);

impl Lock {
    /// Makes the folder if need be. Two sweeps in one would take each other's runs away, and in a
    /// folder of something else a sweep could replace a file that is not its own; `file`, which
    /// describes the sweep, may lie there.
    ///
    /// # Errors
    /// If another sweep, or a run of one that was killed, is still at work there; it is named. If
    /// the folder is not a sweep's.
    pub fn take(out: &Path, file: &Path) -> Result<Self> {
        fs::create_dir_all(out).with_context(|| format!("making {}", out.display()))?;
        let path = out.join("sweep.lock");
        if let Some(other) = stranger(out, file).filter(|_| !path.is_file()) {
            bail!(
                "{} is no folder of a sweep (it holds {}): choose a new or an empty one as out",
                out.display(),
                super::print::escaped(&other.to_string_lossy())
            );
        }
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path);
        let file = file.with_context(|| format!("making {}", path.display()))?;
        match file.try_lock() {
            Ok(()) => Ok(Self(file)),
            Err(TryLockError::WouldBlock) => bail!(
                "another sweep is writing to {}, or a run that it left behind{}\nwait for it, end it, or choose another out",
                out.display(),
                listed(&holders(&path))
            ),
            Err(TryLockError::Error(error)) => {
                Err(error).with_context(|| format!("locking {}", path.display()))
            }
        }
    }

    /// The same lock as a run's standard input, which it never reads: should this program be
    /// killed, the folder is free only when the run has ended too.
    ///
    /// # Errors
    /// If the system has no more handles.
    pub fn share(&self) -> io::Result<Stdio> {
        Ok(self.0.try_clone()?.into())
    }
}

/// Anything in a folder but the sweep's own description.
fn stranger(out: &Path, file: &Path) -> Option<OsString> {
    let file = file.canonicalize().ok();
    let mut entries = fs::read_dir(out).into_iter().flatten().flatten();
    entries
        .find(|entry| entry.path().canonicalize().ok() != file || file.is_none())
        .map(|entry| entry.file_name())
}

/// Who writes to the run in `folder`, if anybody does: his processes, none where the system doesn't
/// say.
///
/// # Errors
/// If its lock can't be tried.
pub fn busy(folder: &Path) -> Result<Option<String>> {
    let path = folder.join(RUN_LOCK);
    let Ok(file) = File::open(&path) else {
        return Ok(None);
    };
    match file.try_lock() {
        Ok(()) => Ok(None),
        Err(TryLockError::WouldBlock) => {
            // The driver writes there who it is.
            let told = fs::read_to_string(&path).unwrap_or_default();
            let told = told
                .lines()
                .take(1)
                .map(|line| super::print::escaped(line.trim()));
            Ok(Some(listed(
                &holders(&path).into_iter().chain(told).collect::<Vec<_>>(),
            )))
        }
        Err(TryLockError::Error(error)) => {
            Err(error).with_context(|| format!("trying the lock {}", path.display()))
        }
    }
}

fn listed(holders: &[String]) -> String {
    holders
        .iter()
        .map(|holder| format!("\n  {holder}"))
        .collect()
}

/// The processes that have a file open, where the system lists them (Linux), but this one.
fn holders(path: &Path) -> Vec<String> {
    let Ok(path) = path.canonicalize() else {
        return vec![];
    };
    let opens = |process: &Path| {
        let handles = fs::read_dir(process.join("fd"))
            .into_iter()
            .flatten()
            .flatten();
        handles
            .map(|handle| handle.path())
            .any(|handle| fs::read_link(handle).is_ok_and(|file| file == path))
    };
    let processes = fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path());
    let mut holders = vec![];
    for process in processes {
        let id = process
            .file_name()
            .and_then(|name| name.to_str()?.parse::<u32>().ok());
        let Some(id) = id.filter(|id| *id != std::process::id() && opens(&process)) else {
            continue;
        };
        let line = fs::read(process.join("cmdline")).unwrap_or_default();
        let words = line.split(|byte| *byte == 0).map(String::from_utf8_lossy);
        let line: String = words
            .collect::<Vec<_>>()
            .join(" ")
            .chars()
            .take(SHOWN)
            .collect();
        holders.push(format!(
            "process {id}: {}",
            super::print::escaped(line.trim())
        ));
    }
    holders
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_is_held_by_whoever_has_it_open() {
        let folder = tempfile::tempdir().expect("a scratch folder");
        let take = || Lock::take(folder.path(), Path::new("s.toml"));
        let lock = take().expect("nobody has it");
        let refused = take().expect_err("taken").to_string();
        assert!(refused.contains("another sweep is writing"), "{refused}");
        let shared = lock.0.try_clone().expect("a handle");
        drop(lock);
        assert!(take().is_err(), "a run has it still");
        drop(shared);
        assert!(take().is_ok());
    }

    #[test]
    fn a_folder_of_something_else_is_left_alone() {
        let folder = tempfile::tempdir().expect("a scratch folder");
        let file = folder.path().join("s.toml");
        fs::write(&file, "").expect("written");
        let mine = folder.path().join("table.md");
        fs::write(&mine, "mine").expect("written");
        let refused = Lock::take(folder.path(), &file)
            .expect_err("not a sweep's")
            .to_string();
        assert!(
            refused.contains("no folder of a sweep (it holds table.md)"),
            "{refused}"
        );
        assert!(!folder.path().join("sweep.lock").exists());
        fs::remove_file(&mine).expect("a file");
        drop(Lock::take(folder.path(), &file).expect("the description may lie there"));
        fs::write(&mine, "ours").expect("written");
        assert!(
            Lock::take(folder.path(), &file).is_ok(),
            "it is a sweep's by now"
        );
        assert!(Lock::take(&folder.path().join("new/one"), &file).is_ok());
    }

    #[test]
    fn a_run_is_busy_while_its_lock_is_held() {
        let folder = tempfile::tempdir().expect("a scratch folder");
        assert_eq!(busy(folder.path()).expect("no lock"), None);
        let lock = File::create(folder.path().join(RUN_LOCK)).expect("a file");
        assert_eq!(busy(folder.path()).expect("a free lock"), None);
        lock.lock().expect("nobody has it");
        assert!(busy(folder.path()).expect("a lock that is held").is_some());
    }
}
