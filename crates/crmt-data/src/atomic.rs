//! Files that appear whole or not at all.
//! Does not know what is in them.
use std::{
    fs::{self, File},
    io::{self, Write},
    path::{Path, PathBuf},
};
use tempfile::NamedTempFile;

/// How the names of our temporary files begin. Whoever writes one holds its lock.
const TEMPORARY: &str = ".crmt-tmp-";

/// Puts `bytes` at `path` through a temporary file in the same directory: after a crash, or on a
/// full disk, the file has its old content or the new one, never a part. A link at `path` is
/// replaced, not followed.
///
/// # Errors
/// When the directory is missing or not writable, or the disk is full; nothing is left behind.
pub fn write_atomically(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let parent = parent(path);
    clear_temporaries(&parent);
    let mut file = temporary(&parent)?;
    file.write_all(bytes)?;
    file.as_file().sync_all()?;
    file.persist(path)?;
    sync_directory(&parent)
}

/// Whether a file can be put at `path`; what is there stays, and nothing is left behind.
///
/// # Errors
/// When the directory is missing or not writable, or a directory is in the way.
pub fn check_writable(path: &Path) -> io::Result<()> {
    if path.is_dir() {
        return Err(io::Error::new(
            io::ErrorKind::IsADirectory,
            "a directory is in the way",
        ));
    }
    temporary(&parent(path)).map(drop)
}

/// Removes the temporary files that killed programs left in `directory`; those of living ones are
/// locked, and stay.
pub fn clear_temporaries(directory: &Path) {
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        let ours = entry.file_name().to_string_lossy().starts_with(TEMPORARY);
        if ours && entry.file_type().is_ok_and(|kind| kind.is_file()) {
            let dead = File::open(entry.path()).is_ok_and(|file| file.try_lock().is_ok());
            // Whoever can't remove it can do without.
            let _ = dead.then(|| fs::remove_file(entry.path()));
        }
    }
}

/// Makes the names in `directory` durable.
///
/// # Errors
/// When it can't be read.
pub fn sync_directory(directory: &Path) -> io::Result<()> {
    #[cfg(unix)]
    File::open(directory)?.sync_all()?;
    #[cfg(not(unix))]
    let _ = directory;
    Ok(())
}

fn parent(path: &Path) -> PathBuf {
    path.parent()
        .filter(|p| !p.as_os_str().is_empty())
        .unwrap_or(Path::new("."))
        .to_owned()
}

/// A new file of ours, locked.
fn temporary(parent: &Path) -> io::Result<NamedTempFile> {
    let mut options = tempfile::Builder::new();
    options.prefix(TEMPORARY);
    // As any new file: readable by whom the umask allows.
    #[cfg(unix)]
    options.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
    loop {
        let file = options.tempfile_in(parent)?;
        // Not every file system has locks; there, nobody can tell that the file is dead, either.
        let _ = file.as_file().lock();
        // Between its creation and its lock, another program may have taken it for a dead one.
        if file.path().exists() {
            return Ok(file);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_replaced_and_a_failed_write_leaves_nothing() -> io::Result<()> {
        let dir = tempfile::tempdir()?;
        let path = dir.path().join("file");
        write_atomically(&path, b"old")?;
        write_atomically(&path, b"new")?;
        assert_eq!(fs::read(&path)?, b"new");
        let taken = dir.path().join("taken");
        fs::create_dir(&taken)?;
        fs::write(taken.join("inside"), b"x")?;
        assert!(write_atomically(&taken, b"y").is_err());
        assert!(
            check_writable(&taken).is_err() && check_writable(&dir.path().join("no/file")).is_err()
        );
        check_writable(&path)?;
        assert_eq!(fs::read(&path)?, b"new");
        assert_eq!(
            fs::read_dir(dir.path())?.count(),
            2,
            "no temporary file stays"
        );
        Ok(())
    }

    #[test]
    fn temporary_files_of_killed_programs_go_and_all_others_stay() -> io::Result<()> {
        let dir = tempfile::tempdir()?;
        let file = |name: &str| dir.path().join(name);
        for name in [".crmt-tmp-dead", ".crmt-tmp-live", ".tmpmine", ".crmt-mine"] {
            fs::write(file(name), b"x")?;
        }
        fs::create_dir(file(".crmt-tmp-folder"))?;
        let live = File::open(file(".crmt-tmp-live"))?;
        live.lock()?;
        write_atomically(&file("new"), b"new")?;
        assert!(!file(".crmt-tmp-dead").exists());
        for name in [
            ".crmt-tmp-live",
            ".tmpmine",
            ".crmt-mine",
            ".crmt-tmp-folder",
            "new",
        ] {
            assert!(file(name).exists(), "{name}");
        }
        Ok(())
    }

    #[cfg(unix)]
    #[test]
    fn a_link_is_replaced_and_not_followed() -> io::Result<()> {
        let dir = tempfile::tempdir()?;
        let (target, link) = (dir.path().join("target"), dir.path().join("link"));
        fs::write(&target, b"precious")?;
        std::os::unix::fs::symlink(&target, &link)?;
        write_atomically(&link, b"new")?;
        assert_eq!(
            (fs::read(&target)?, fs::read(&link)?),
            (b"precious".to_vec(), b"new".to_vec())
        );
        Ok(())
    }
}
