//! What a split is for. Does not know what it holds.
use std::fmt;

/// What a split is for; displays as the first part of its file names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// Fits the parameters.
    Train,
    /// Chooses the epoch and the hyper-parameters.
    Select,
    /// Is reported, and chooses nothing.
    Report,
}

impl fmt::Display for Purpose {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Train => "train",
            Self::Select => "select",
            Self::Report => "report",
        })
    }
}
