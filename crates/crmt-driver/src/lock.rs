//! One command at a time in a directory: a lock file that says which command holds it.
//! Does not know what the directory holds.
use anyhow::{Context, Result, bail};
use std::{
    fs::{self, File, Metadata, OpenOptions, TryLockError},
    io::{ErrorKind, Read, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
};

/// The name of the lock file.
pub const LOCK: &str = "lock";

/// How the content of a lock file begins.
const OURS: &str = "crmt-driver ";
/// Longer than any content of ours.
const LONGEST: u64 = 200;

/// Held until it is dropped, or the process ends in whatever way.
#[derive(Debug)]
pub struct Lock {
    file: File,
    path: PathBuf,
}

impl Lock {
    /// Takes the lock of `dir` for `command`; the lock of a killed process is free.
    ///
    /// # Errors
    /// Another process holds it, or what is called `lock` is not ours: a link, say, which is never
    /// followed.
    pub fn take(dir: &Path, command: &str) -> Result<Self> {
        let path = dir.join(LOCK);
        loop {
            let mut file = open(&path)?;
            match file.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => bail!(busy(dir, &holder(&mut file))),
                Err(TryLockError::Error(e)) => {
                    return Err(e).with_context(|| format!("can't lock {}", path.display()));
                }
            }
            // Whoever held it may have removed its file in the meantime.
            if !is_at(&file, &path) {
                continue;
            }
            let content = holder(&mut file);
            if !wrote(&content) {
                bail!("{} is not of this program: move it away", path.display());
            }
            let failed = || format!("can't write {}", path.display());
            file.set_len(0).with_context(failed)?;
            let mut lock = Self {
                file,
                path: path.clone(),
            };
            lock.tell(command).with_context(failed)?;
            return Ok(lock);
        }
    }

    fn tell(&mut self, command: &str) -> std::io::Result<()> {
        self.file.seek(SeekFrom::Start(0))?;
        // In one piece, so that whoever is killed leaves all of it or nothing.
        self.file
            .write_all(format!("{OURS}{command}, process {}\n", std::process::id()).as_bytes())
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        if is_at(&self.file, &self.path) {
            // One that stays is free all the same.
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Whether a killed process may have left the file, or it is held.
pub fn is_ours(path: &Path) -> bool {
    let regular = fs::symlink_metadata(path).is_ok_and(|m| m.is_file());
    let content = regular.then(|| {
        File::open(path)
            .map(|mut file| holder(&mut file))
            .unwrap_or_default()
    });
    content.is_some_and(|content| wrote(&content))
}

/// Whether this program wrote the content, or began to: a full disk or a kill leaves a part of it.
fn wrote(content: &str) -> bool {
    content.starts_with(OURS) || OURS.starts_with(content)
}

/// The file, created or as it is; never through a link.
fn open(path: &Path) -> Result<File> {
    let failed = || format!("can't write {}", path.display());
    let mut options = OpenOptions::new();
    options.read(true).write(true);
    match options.clone().create_new(true).open(path) {
        Err(e) if e.kind() == ErrorKind::AlreadyExists => {}
        file => return file.with_context(failed),
    }
    let stranger = || {
        format!(
            "{} is a link or no file: it is not of this program; move it away",
            path.display()
        )
    };
    match fs::symlink_metadata(path) {
        Ok(m) if m.is_file() => {}
        Ok(_) => bail!(stranger()),
        Err(_) => return open(path),
    }
    match options.open(path) {
        // Removed by whoever held it.
        Err(e) if e.kind() == ErrorKind::NotFound => open(path),
        file => file.with_context(failed),
    }
}

/// What the lock file says.
fn holder(file: &mut File) -> String {
    let mut content = vec![];
    // Some systems keep others from reading what is locked.
    let _ = file.take(LONGEST).read_to_end(&mut content);
    String::from_utf8_lossy(&content).trim_end().to_owned()
}

fn busy(dir: &Path, holder: &str) -> String {
    let told = holder
        .strip_prefix(OURS)
        .and_then(|rest| rest.rsplit_once(", process "));
    let dir = dir.display();
    match told {
        Some(("train", process)) => format!(
            "{dir} is being trained by another process ({process}): wait until it has ended, or choose another directory"
        ),
        Some((command, process)) => format!(
            "{dir} is in use by another process ({process}), `{command}`: give this command again when that has ended"
        ),
        None => format!(
            "{dir} is in use by another process: give this command again when that has ended"
        ),
    }
}

/// Whether the open file is the one at `path`.
fn is_at(file: &File, path: &Path) -> bool {
    let (Ok(opened), Ok(named)) = (file.metadata(), fs::symlink_metadata(path)) else {
        return false;
    };
    same(&opened, &named)
}

#[cfg(unix)]
fn same(a: &Metadata, b: &Metadata) -> bool {
    use std::os::unix::fs::MetadataExt;
    (a.dev(), a.ino()) == (b.dev(), b.ino())
}

#[cfg(not(unix))]
fn same(a: &Metadata, b: &Metadata) -> bool {
    a.file_type() == b.file_type()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_says_who_holds_it_and_is_free_afterwards() -> Result<()> {
        let dir = tempfile::tempdir()?;
        let lock = Lock::take(dir.path(), "evaluate")?;
        let error = Lock::take(dir.path(), "certify").unwrap_err().to_string();
        let process = std::process::id().to_string();
        assert!(
            error.contains("`evaluate`") && error.contains(&process),
            "{error}"
        );
        drop(lock);
        assert_eq!(
            fs::read_dir(dir.path())?.count(),
            0,
            "nothing is left in the way"
        );
        // A killed process leaves its file, but no lock.
        fs::write(
            dir.path().join(LOCK),
            "crmt-driver train, process 1\n and more",
        )?;
        let lock = Lock::take(dir.path(), "train")?;
        assert_eq!(
            fs::read_to_string(dir.path().join(LOCK))?,
            format!("crmt-driver train, process {process}\n")
        );
        let error = Lock::take(dir.path(), "train").unwrap_err().to_string();
        assert!(
            error.contains("being trained by another process"),
            "{error}"
        );
        drop(lock);
        for part in ["", "crmt", "crmt-driver", "crmt-driver tr"] {
            fs::write(dir.path().join(LOCK), part)?;
            assert!(is_ours(&dir.path().join(LOCK)), "{part}");
            drop(Lock::take(dir.path(), "train")?);
        }
        Ok(())
    }

    #[test]
    fn what_is_not_ours_is_neither_followed_nor_emptied() -> Result<()> {
        let dir = tempfile::tempdir()?;
        let path = dir.path().join(LOCK);
        fs::write(&path, "my own notes")?;
        assert!(!is_ours(&path) && Lock::take(dir.path(), "train").is_err());
        assert_eq!(fs::read_to_string(&path)?, "my own notes");
        #[cfg(unix)]
        for target in ["target", "missing"] {
            fs::remove_file(&path)?;
            fs::write(dir.path().join("target"), "precious")?;
            std::os::unix::fs::symlink(target, &path)?;
            let error = Lock::take(dir.path(), "train").unwrap_err().to_string();
            assert!(error.contains("link"), "{error}");
            assert_eq!(fs::read_to_string(dir.path().join("target"))?, "precious");
            assert!(!dir.path().join("missing").exists());
        }
        Ok(())
    }
}
