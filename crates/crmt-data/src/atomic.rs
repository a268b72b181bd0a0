//! Files that appear whole or not at all.
//! Does not know what is in them.
use std::{fs::File, io::Write, path::Path};

/// Puts `bytes` at `path` through a temporary file in the same directory: after a crash, or on a full
/// disk, the file has its old content or the new one, never a part.
///
/// # Errors
/// When the directory is missing or not writable, or the disk is full; nothing is left behind.
pub fn write_atomically(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let parent = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut options = tempfile::Builder::new();
    // As any new file: readable by whom the umask allows.
    #[cfg(unix)]
    options.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
    let mut file = options.tempfile_in(parent)?;
    file.write_all(bytes)?;
    file.as_file().sync_all()?;
    file.persist(path)?;
    // The new name is durable once the directory is.
    #[cfg(unix)]
    File::open(parent)?.sync_all()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn a_file_is_replaced_and_a_failed_write_leaves_nothing() -> std::io::Result<()> {
        let dir = tempfile::tempdir()?;
        let path = dir.path().join("file");
        write_atomically(&path, b"old")?;
        write_atomically(&path, b"new")?;
        assert_eq!(fs::read(&path)?, b"new");
        let taken = dir.path().join("taken");
        fs::create_dir(&taken)?;
        fs::write(taken.join("inside"), b"x")?;
        assert!(write_atomically(&taken, b"y").is_err());
        assert_eq!(fs::read_dir(dir.path())?.count(), 2, "no temporary file stays");
        Ok(())
    }
}
