//! What every preparation from original files shares: progress, errors, checksums and the
//! embedded manifests of `datasets/`.
//! Does not know any one data set.
use crate::DataSetError;
use crate::idx::IdxError;
use serde::Deserialize;
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::path::PathBuf;

/// How far a preparation has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// What is being done.
    pub stage: &'static str,
    /// Items done.
    pub done: usize,
    /// Items in this stage.
    pub total: usize,
}

/// Is told about progress, from any thread.
pub type OnProgress<'a> = &'a (dyn Fn(Progress) + Sync);

/// Why a data set can't be prepared.
#[derive(Debug, thiserror::Error)]
pub enum PrepareError {
    /// A file or directory that should be there.
    #[error("{}: not found; expected {expected}", .path.display())]
    Missing {
        /// Where it was looked for.
        path: PathBuf,
        /// What it should be.
        expected: String,
    },
    /// The system refused, or a compressed file is damaged.
    #[error("{}: can't read: {error}", .path.display())]
    Io {
        /// What was read.
        path: PathBuf,
        /// Why not.
        error: std::io::Error,
    },
    /// Not an idx file.
    #[error("{}: {error}", .path.display())]
    Idx {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        error: IdxError,
    },
    /// A recording that can't be used.
    #[error("{}: {problem}", .path.display())]
    Recording {
        /// The file, or the archive and the name inside.
        path: PathBuf,
        /// What is wrong, and what is expected.
        problem: String,
    },
    /// A line of a table that can't be used.
    #[error("{}: line {line}: {problem}", .path.display())]
    Table {
        /// The file.
        path: PathBuf,
        /// Counted from 1.
        line: usize,
        /// What is wrong, and what is expected.
        problem: String,
    },
    /// A file that is readable but not what the data set needs.
    #[error("{}: {problem}", .path.display())]
    Content {
        /// The file or directory.
        path: PathBuf,
        /// What is wrong, and what is expected.
        problem: String,
    },
    /// Not the original data.
    #[error(
        "{}: {what} is {got}, expected {expected} (datasets/{set}.toml): other or damaged data; allow unverified data (--unverified) to use it anyway", .path.display()
    )]
    Checksum {
        /// The file or directory.
        path: PathBuf,
        /// Which checksum.
        what: &'static str,
        /// The manifest it is compared with.
        set: &'static str,
        /// As declared.
        expected: String,
        /// As found.
        got: String,
    },
    /// An option that can't be.
    #[error("{0}")]
    Options(String),
    /// The arrays do not make a data set.
    #[error(transparent)]
    DataSet(#[from] DataSetError),
}

/// A manifest of `datasets/`: the parts that code uses.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct SourceManifest {
    pub(crate) name: String,
    #[expect(
        dead_code,
        reason = "for people; required, so that no manifest lacks it"
    )]
    title: String,
    pub(crate) classes: Vec<String>,
    pub(crate) sources: Vec<String>,
    pub(crate) licence: String,
    #[expect(
        dead_code,
        reason = "for people; required, so that no manifest lacks it"
    )]
    preprocessing: Vec<String>,
    #[serde(default)]
    pub(crate) notes: Vec<String>,
    #[expect(
        dead_code,
        reason = "for people; required, so that no manifest lacks it"
    )]
    splits: BTreeMap<String, String>,
    #[serde(default)]
    pub(crate) rows: BTreeMap<String, Vec<usize>>,
    #[serde(default)]
    pub(crate) md5: BTreeMap<String, String>,
    pub(crate) recordings: Option<RecordingsSum>,
    #[serde(default)]
    pub(crate) values: BTreeMap<String, TableSum>,
}

/// Number and digest of a set of recordings.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RecordingsSum {
    pub(crate) count: usize,
    pub(crate) sha256: String,
}

/// Extent and digest of a table of numbers.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct TableSum {
    pub(crate) rows: usize,
    pub(crate) columns: usize,
    pub(crate) sha256: String,
}

/// The manifest of a set that comes with the program.
pub(crate) fn source(set: &str) -> SourceManifest {
    let text = match set {
        "mnist" => include_str!("../../../datasets/mnist.toml"),
        "fsdd" => include_str!("../../../datasets/fsdd.toml"),
        "esc10" => include_str!("../../../datasets/esc10.toml"),
        "pendigits" => include_str!("../../../datasets/pendigits.toml"),
        "digits" => include_str!("../../../datasets/digits.toml"),
        "handwritten" => include_str!("../../../datasets/handwritten.toml"),
        _ => unreachable!("no manifest called {set} is embedded"),
    };
    toml::from_str(text).unwrap_or_else(|e| unreachable!("embedded and tested: {e}"))
}

/// SHA-256 as lower-case hexadecimal digits.
pub(crate) fn sha256(bytes: &[u8]) -> String {
    format!("{:x}", Sha256::digest(bytes))
}

/// One of the checks that `unverified` turns off.
pub(crate) struct Check {
    pub(crate) set: &'static str,
    pub(crate) what: &'static str,
    pub(crate) unverified: bool,
}

impl Check {
    pub(crate) fn run(
        &self,
        path: impl Into<PathBuf>,
        expected: &str,
        got: String,
    ) -> Result<(), PrepareError> {
        if self.unverified || got == expected {
            return Ok(());
        }
        let (path, what, set, expected) = (path.into(), self.what, self.set, expected.to_owned());
        Err(PrepareError::Checksum {
            path,
            what,
            set,
            expected,
            got,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn embedded_manifests_parse_and_go_by_their_names() {
        for set in [
            "mnist",
            "fsdd",
            "esc10",
            "pendigits",
            "digits",
            "handwritten",
        ] {
            let m = source(set);
            assert_eq!(m.name, set);
            assert_eq!(m.classes.len(), 10);
            assert!(!m.sources.is_empty() && !m.licence.is_empty());
            assert!(m.md5.values().all(|h| h.len() == 32));
            assert!(
                m.values
                    .values()
                    .map(|t| &t.sha256)
                    .chain(m.recordings.iter().map(|r| &r.sha256))
                    .all(|h| h.len() == 64)
            );
        }
        assert_eq!(source("handwritten").rows["report"].len(), 400);
    }
}
