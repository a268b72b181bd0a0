//! Where a data set is written before it moves to its place, and what becomes of it if the writer
//! is killed. Does not know what is written.
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

/// The data set that is being written.
pub(crate) const NEW: &str = "new";
/// The one that it replaces, for as long as neither is in its place.
pub(crate) const OLD: &str = "old";

const PREFIX: &str = ".staging-";
/// How many random characters end the name.
const RANDOM: usize = 6;

/// A directory beside a target; removed when dropped. Its lock tells others that its owner lives.
#[derive(Debug)]
pub(crate) struct Staging {
    dir: TempDir,
    _lock: Option<File>,
}

impl Staging {
    pub(crate) fn create(target: &Path, parent: &Path) -> io::Result<Self> {
        let name = target.file_name().unwrap_or_default().to_string_lossy();
        let prefix = format!("{PREFIX}{name}-");
        loop {
            let dir = tempfile::Builder::new()
                .prefix(&prefix)
                .rand_bytes(RANDOM)
                .tempdir_in(parent)?;
            let lock = lock(dir.path());
            // Another writer may have taken it for a leftover before it was locked.
            if dir.path().is_dir() {
                return Ok(Self { dir, _lock: lock });
            }
        }
    }

    pub(crate) fn path(&self) -> &Path {
        self.dir.path()
    }
}

/// Removes what killed writers left in `parent`. A data set that one of them had moved aside goes
/// back to its place. What can't be removed stays; it is in nobody's way.
pub(crate) fn remove_leftovers(parent: &Path) {
    let entries = fs::read_dir(parent).into_iter().flatten().flatten();
    for dir in entries
        .filter(|e| e.file_type().is_ok_and(|t| t.is_dir()))
        .map(|e| e.path())
    {
        let Some(target) = target_of(&dir) else {
            continue;
        };
        let Some(_lock) = lock(&dir) else { continue };
        let (old, holds_others) = (dir.join(OLD), holds_others(&dir));
        if holds_others
            || (old.is_dir()
                && fs::symlink_metadata(&target).is_err()
                && fs::rename(&old, &target).is_err())
        {
            continue;
        }
        let _ = fs::remove_dir_all(&dir);
    }
}

/// Where the contents of a staging directory were to go, by its name.
fn target_of(dir: &Path) -> Option<PathBuf> {
    let (target, random) = dir
        .file_name()?
        .to_str()?
        .strip_prefix(PREFIX)?
        .rsplit_once('-')?;
    let ours = !target.is_empty()
        && random.len() == RANDOM
        && random.bytes().all(|b| b.is_ascii_alphanumeric());
    ours.then(|| dir.with_file_name(target))
}

fn holds_others(dir: &Path) -> bool {
    let Ok(mut entries) = fs::read_dir(dir) else {
        return true;
    };
    !entries.all(|e| e.is_ok_and(|e| e.file_name() == NEW || e.file_name() == OLD))
}

/// Nobody else's lock on a directory, which the system gives back when the process ends, however it
/// does.
fn lock(dir: &Path) -> Option<File> {
    let file = File::open(dir).ok()?;
    file.try_lock().ok().map(|()| file)
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    /// As a killed writer leaves it.
    fn left(parent: &Path, name: &str, inside: &[&str]) -> io::Result<PathBuf> {
        let dir = parent.join(name);
        for inside in inside {
            fs::create_dir_all(dir.join(inside))?;
        }
        fs::create_dir_all(&dir)?;
        Ok(dir)
    }

    #[test]
    fn leftovers_go_and_what_lives_or_is_not_ours_stays() -> io::Result<()> {
        let parent = tempfile::tempdir()?;
        let parent = parent.path();
        let gone = [
            left(parent, ".staging-set-abc123", &["new"])?,
            left(parent, ".staging-other-set-ABC123", &["new", "old"])?,
            left(parent, ".staging-set-abc124", &[])?,
        ];
        fs::create_dir(parent.join("other-set"))?;
        let stay = [
            left(parent, ".staging-set-abc125", &["new", "mine"])?,
            left(parent, ".staging-set", &["new"])?,
            left(parent, ".staging-set-abc", &["new"])?,
            left(parent, "staging-set-abc123", &["new"])?,
        ];
        let alive = Staging::create(&parent.join("set"), parent)?;
        fs::create_dir(alive.path().join(NEW))?;
        remove_leftovers(parent);
        assert!(gone.iter().all(|dir| !dir.exists()), "{gone:?}");
        assert!(
            stay.iter()
                .chain([&alive.path().to_path_buf()])
                .all(|dir| dir.exists())
        );
        let path = alive.path().to_path_buf();
        drop(alive);
        assert!(!path.exists());
        Ok(())
    }

    #[test]
    fn a_data_set_that_was_moved_aside_comes_back() -> io::Result<()> {
        let parent = tempfile::tempdir()?;
        let dir = left(parent.path(), ".staging-my-set-abc123", &["new", "old"])?;
        fs::write(dir.join("old/dataset.toml"), "mine")?;
        remove_leftovers(parent.path());
        assert_eq!(
            fs::read_to_string(parent.path().join("my-set/dataset.toml"))?,
            "mine"
        );
        assert!(!dir.exists());
        Ok(())
    }
}
