//! A report's charts in a folder, as SVG and PNG: never over files that are not such figures.
//! Does not know what they show.
use crate::{
    report::{Figure, is_ours},
    run_dir::write_file,
};
use anyhow::{Context, Result, bail};
use std::{
    fs::{self, File},
    io::Read,
    path::{Path, PathBuf},
};

/// Enough of a file to know it by.
const START: u64 = 2048;

/// Files that are ready to be written, none over somebody else's.
pub struct FigureFiles {
    folder: PathBuf,
    files: Vec<(PathBuf, Vec<u8>)>,
}

impl FigureFiles {
    /// Renders the figures, and looks at what is in the folder; writes nothing.
    pub fn prepare(folder: &Path, figures: &[Figure]) -> Result<Self> {
        if folder.exists() && !folder.is_dir() {
            bail!(
                "--figures {}: this is a file; give a folder",
                folder.display()
            );
        }
        let mut files = vec![];
        for figure in figures {
            let path = |ending: &str| folder.join(format!("{}.{ending}", figure.name));
            files.push((path("svg"), figure.svg().into_bytes()));
            files.push((path("png"), figure.png()?));
        }
        files.iter().try_for_each(|(path, _)| free(path))?;
        Ok(Self {
            folder: folder.to_owned(),
            files,
        })
    }

    /// Writes each file as a whole. Returns how many figures there are.
    pub fn write(&self) -> Result<usize> {
        fs::create_dir_all(&self.folder)
            .with_context(|| format!("can't create {}", self.folder.display()))?;
        self.files
            .iter()
            .try_for_each(|(path, bytes)| write_file(path, bytes))?;
        Ok(self.files.len() / 2)
    }
}

/// Whether there is nothing at `path`, or an older figure of ours.
fn free(path: &Path) -> Result<()> {
    let Ok(kind) = fs::symlink_metadata(path) else {
        return Ok(());
    };
    let mut start = vec![];
    if kind.is_file() {
        let file = File::open(path).with_context(|| format!("can't read {}", path.display()))?;
        file.take(START).read_to_end(&mut start)?;
    }
    if !is_ours(&start) {
        bail!(
            "{} is there and is no figure of a report: give another folder to --figures",
            path.display()
        );
    }
    Ok(())
}
