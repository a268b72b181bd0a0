//! Ways into a run directory: a new run, one to go on with, a complete one; and whose the directory
//! is. Does not know what the files mean.
use crate::{
    checkpoints::Checkpoints,
    lock::{LOCK, Lock, is_ours},
    results,
    run_dir::{CHECKPOINTS, CONFIG, FILES, MARK, MARKED, MODEL, PARTS, RunDir, SUMMARY, is_marked},
};
use anyhow::{Context, Result, bail};
use crmt_data::clear_temporaries;
use std::{
    fs,
    io::{self, ErrorKind},
    path::{Path, PathBuf},
};

impl RunDir {
    /// Refuses a directory that [`create`](Self::create) would refuse, before any work is spent.
    ///
    /// # Errors
    /// It holds anything but a run, or a run that is to be kept.
    pub fn check_new(path: &Path, overwrite: bool) -> Result<()> {
        let shown = path.display();
        if let Some(stranger) = stranger(path)? {
            bail!(
                "{shown} is not empty and no run of this program (it holds `{}`): choose a new or an empty directory for \
                 --out",
                stranger.display()
            );
        }
        if path.join(SUMMARY).exists() && !overwrite {
            bail!("{shown} already holds a run: choose another --out, or say --overwrite");
        }
        if Checkpoints::exist(path) && !overwrite {
            bail!(
                "{shown} holds a run that was stopped: go on with train --resume {shown}, choose another --out, or say \
                 --overwrite"
            );
        }
        Ok(())
    }

    /// Creates the directory and checks that it can be written to, before any work is spent.
    ///
    /// A finished run is replaced only with `overwrite`; then just the files of a run go.
    pub fn create(path: &Path, overwrite: bool) -> Result<Self> {
        Self::check_new(path, overwrite)?;
        fs::create_dir_all(path)
            .with_context(|| format!("can't create the run directory {}", path.display()))?;
        let run = Self::locked(path, "train")?;
        // Another process may have trained here in the meantime.
        Self::check_new(path, overwrite)?;
        if let Some(name) = FILES.iter().find(|name| run.file(name).is_dir()) {
            bail!(
                "{} is a directory, and in the way: move it away",
                run.file(name).display()
            );
        }
        // It may be killed at any line from here on, and is known for a run of ours.
        run.write(
            MARK,
            format!("{MARKED}; `crmt-driver report` shows it.\n").as_bytes(),
        )?;
        results::discard(&run)?;
        for name in FILES {
            run.remove(name)?;
        }
        Checkpoints::remove(&run)?;
        Ok(run)
    }

    /// A run that was stopped before it was complete, to go on with.
    pub fn resume(path: &Path) -> Result<Self> {
        let absent = || {
            format!(
                "no run to go on with in {}: it has no {CONFIG}",
                path.display()
            )
        };
        if !path.join(CONFIG).exists() {
            bail!(absent());
        }
        let run = Self::locked(path, "train")?;
        if !path.join(CONFIG).exists() {
            bail!(absent());
        }
        if path.join(SUMMARY).exists() {
            bail!(
                "{} is complete: there is nothing to go on with",
                path.display()
            );
        }
        Ok(run)
    }

    /// An existing, complete run, for this command alone.
    pub fn open(path: &Path, command: &str) -> Result<Self> {
        check_complete(path)?;
        let run = Self::locked(path, command)?;
        check_complete(path)?;
        // Its training was killed when all that was left to do was this.
        Checkpoints::remove(&run)?;
        Ok(run)
    }

    /// An existing, complete run that is only read: also while another command works on it, and
    /// where nothing can be written.
    pub fn look(path: &Path) -> Result<Self> {
        check_complete(path)?;
        match Self::locked(path, "report") {
            Ok(run) => {
                check_complete(path)?;
                Ok(run)
            }
            Err(_) => Ok(Self::new(path, None)),
        }
    }

    /// For this process alone, without what killed writes left behind.
    fn locked(path: &Path, command: &str) -> Result<Self> {
        let run = Self::new(path, Some(Lock::take(path, command)?));
        for folder in ["", CHECKPOINTS, PARTS] {
            clear_temporaries(&path.join(folder));
        }
        results::recover(&run)?;
        Ok(run)
    }
}

/// Whether a run has this file, or will have it once its results are in place.
pub fn has(path: &Path, name: &str) -> bool {
    path.join(name).is_file() || results::pending(path).join(name).is_file()
}

fn check_complete(path: &Path) -> Result<()> {
    if !path.is_dir() {
        bail!(
            "no run directory {}: train one with --out {0}",
            path.display()
        );
    }
    if let Some(missing) = [CONFIG, MODEL, SUMMARY]
        .iter()
        .find(|name| !has(path, name))
    {
        let stopped = if is_marked(path) {
            format!("; train --resume {} goes on with it", path.display())
        } else {
            String::new()
        };
        bail!(
            "{} is not a complete run: it has no {missing}{stopped}",
            path.display()
        );
    }
    Ok(())
}

/// What a directory that is neither new, nor empty, nor a run of ours holds.
fn stranger(path: &Path) -> Result<Option<PathBuf>> {
    let failed = || format!("can't use {} as a run directory", path.display());
    let entries = match fs::read_dir(path) {
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(None),
        entries => entries
            .with_context(failed)?
            .collect::<io::Result<Vec<_>>>()
            .with_context(failed)?,
    };
    if is_marked(path) || results::is_summary(&path.join(SUMMARY)) {
        return Ok(None);
    }
    // Our own lock of a process that was killed at once.
    let mut others = entries
        .iter()
        .filter(|e| !(e.file_name() == LOCK && is_ours(&e.path())));
    Ok(others.next().map(|e| e.file_name().into()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::run_dir::{EVENTS, METRICS, REPORT, make_folder};

    #[test]
    fn an_existing_run_is_kept_unless_told_otherwise() -> Result<()> {
        let dir = tempfile::tempdir()?;
        let run = RunDir::create(dir.path(), false)?;
        run.write(SUMMARY, b"{}")?;
        run.write("notes.txt", b"mine")?;
        let refused = RunDir::create(dir.path(), false).unwrap_err().to_string();
        assert!(refused.contains("--overwrite"), "{refused}");
        assert_eq!(run.read(SUMMARY)?, "{}");
        let busy = RunDir::create(dir.path(), true).unwrap_err().to_string();
        assert!(busy.contains("another process"), "{busy}");
        drop(run);
        let again = RunDir::create(dir.path(), true)?;
        again.write(METRICS, b"")?;
        drop(again);
        let again = RunDir::create(dir.path(), false)
            .expect("a run that never finished may be started again");
        assert!(!again.file(SUMMARY).exists() && !again.file(METRICS).exists());
        assert_eq!(again.read("notes.txt")?, "mine");
        Ok(())
    }

    #[test]
    fn only_a_new_or_empty_directory_or_a_run_is_written_to() -> Result<()> {
        for overwrite in [false, true] {
            let dir = tempfile::tempdir()?;
            for name in [CONFIG, MODEL, "lock", ".tmpnotes", "probe", ".crmt-run"] {
                let file = dir.path().join(name);
                fs::write(&file, "mine")?;
                let refused = RunDir::create(dir.path(), overwrite)
                    .unwrap_err()
                    .to_string();
                assert!(
                    refused.contains(name) && refused.contains("--out"),
                    "{refused}"
                );
                assert_eq!(fs::read_to_string(&file)?, "mine");
                assert_eq!(fs::read_dir(dir.path())?.count(), 1);
                fs::remove_file(&file)?;
            }
            // What is left of one that was killed before it wrote anything.
            fs::write(dir.path().join(LOCK), "crmt-driver train, process 1\n")?;
            RunDir::create(dir.path(), overwrite)?;
        }
        Ok(())
    }

    #[cfg(unix)]
    #[test]
    fn nothing_is_written_through_links() -> Result<()> {
        let (dir, elsewhere) = (tempfile::tempdir()?, tempfile::tempdir()?);
        let precious = elsewhere.path().join("precious");
        fs::write(&precious, "mine")?;
        drop(RunDir::create(dir.path(), false)?);
        for name in [CONFIG, MODEL, REPORT] {
            std::os::unix::fs::symlink(&precious, dir.path().join(name))?;
        }
        for name in [CHECKPOINTS, EVENTS] {
            std::os::unix::fs::symlink(elsewhere.path(), dir.path().join(name))?;
        }
        let run = RunDir::create(dir.path(), true)?;
        run.write(CONFIG, b"ours")?;
        let error = make_folder(&run.file(EVENTS)).unwrap_err().to_string();
        assert!(error.contains("link"), "{error}");
        make_folder(&run.file(CHECKPOINTS))?;
        assert_eq!(fs::read_to_string(precious)?, "mine");
        assert_eq!(fs::read_dir(elsewhere.path())?.count(), 1);
        Ok(())
    }

    #[test]
    fn a_path_below_a_file_is_refused_by_name() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let error = format!(
            "{:#}",
            RunDir::create(&file.path().join("run"), false).unwrap_err()
        );
        assert!(error.contains("run directory"), "{error}");
    }
}
