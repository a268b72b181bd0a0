//! One breach of an invariant, as it is told. Knows no invariant.
use std::fmt;
use std::path::PathBuf;

/// One breach: where, what, and what to do about it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Problem {
    pub path: PathBuf,
    pub line: usize,
    pub what: String,
    pub fix: String,
}

impl Problem {
    pub fn new(
        path: impl Into<PathBuf>,
        line: usize,
        what: impl Into<String>,
        fix: impl Into<String>,
    ) -> Self {
        Self {
            path: path.into(),
            line,
            what: what.into(),
            fix: fix.into(),
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}:{}: {}; {}",
            self.path.display(),
            self.line,
            self.what,
            self.fix
        )
    }
}
