//! What git knows of the code that makes numbers: which commit is here, and whether a commit is
//! older than that code. Changes nothing; where there is no git, no history or no such commit, it
//! says so.
use crate::workspace;
use std::fmt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The code whose change can change a number of a run. Of the driver all but what prints.
pub const CODE: &[&str] = &[
    "crates/crmt-core/src",
    "crates/crmt-kernels/src",
    "crates/crmt-data/src",
    "crates/crmt-encoders/src",
    "crates/crmt-fusion/src",
    "crates/crmt-certify/src",
    "crates/crmt-attacks/src",
    "crates/crmt-train/src",
    "crates/crmt-driver/src",
    ":(exclude)crates/crmt-driver/src/cli.rs",
    ":(exclude)crates/crmt-driver/src/diagnosis",
    ":(exclude)crates/crmt-driver/src/events.rs",
    ":(exclude)crates/crmt-driver/src/main.rs",
    ":(exclude)crates/crmt-driver/src/people.rs",
    ":(exclude)crates/crmt-driver/src/report",
    ":(exclude)crates/crmt-driver/src/tour.rs",
];

/// The repository that this program belongs to.
pub fn root() -> PathBuf {
    workspace::root()
}

/// A commit, and whether the files of [`CODE`] differed from it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Commit {
    name: String,
    changed: bool,
}

const CHANGED: &str = " with changes";

impl fmt::Display for Commit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}{}",
            self.name,
            if self.changed { CHANGED } else { "" }
        )
    }
}

impl Commit {
    /// What is checked out; none without git.
    pub fn now(root: &Path, code: &[&str]) -> Option<Self> {
        let name = git(root, &["rev-parse", "--short=10", "HEAD"])?;
        let changes = git(root, &[&["status", "--porcelain", "--"], code].concat())?;
        Some(Self {
            name,
            changed: !changes.is_empty(),
        })
    }

    /// As [`Commit::now`] was written.
    pub fn parse(text: &str) -> Self {
        let changed = text.ends_with(CHANGED);
        Self {
            name: text.trim_end_matches(CHANGED).to_owned(),
            changed,
        }
    }

    /// Whether the code may be another at the two: it is, or it can't be said.
    pub fn differs(&self, other: &Self, root: &Path, code: &[&str]) -> bool {
        let changed = |old: &Self, new: &Self| {
            changes(root, &old.name, &new.name, code).is_none_or(|log| !log.is_empty())
        };
        self.changed || other.changed || changed(self, other) || changed(other, self)
    }

    /// Its name, if nothing differed from it.
    pub fn clean(&self) -> Option<&str> {
        (!self.changed).then_some(self.name.as_str())
    }
}

/// A commit against the code as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Age {
    Current,
    /// Code was changed since, first by this commit.
    Older(String),
    /// Why that can't be said.
    Unknown(&'static str),
    /// The history is whole, and does not have it.
    NoSuchCommit,
}

/// Whether `code` was changed after `commit`, in the history of what is checked out.
pub fn age(root: &Path, commit: &str, code: &[&str]) -> Age {
    let Some(shallow) = git(root, &["rev-parse", "--is-shallow-repository"]) else {
        return Age::Unknown("there is no git repository here");
    };
    let shallow = shallow == "true";
    if git(root, &["merge-base", "--is-ancestor", commit, "HEAD"]).is_none() {
        return if shallow {
            Age::Unknown("the history is cut off (a shallow clone)")
        } else {
            Age::NoSuchCommit
        };
    }
    match changes(root, commit, "HEAD", code) {
        None => Age::Unknown("git can't read the history"),
        Some(changes) => changes
            .last()
            .map_or(Age::Current, |first| Age::Older(first.clone())),
    }
}

/// The commits after `old`, up to `new`, that changed `code`, newest first.
pub fn changes(root: &Path, old: &str, new: &str, code: &[&str]) -> Option<Vec<String>> {
    let range = format!("{old}..{new}");
    let log = git(
        root,
        &[&["log", "--format=%h %s", range.as_str(), "--"], code].concat(),
    )?;
    Some(log.lines().map(str::to_owned).collect())
}

/// What git prints; none if there is none or it fails.
fn git(root: &Path, arguments: &[&str]) -> Option<String> {
    let mut command = Command::new("git");
    let output = command
        .arg("-C")
        .arg(root)
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .ok()?;
    output
        .status
        .success()
        .then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}
