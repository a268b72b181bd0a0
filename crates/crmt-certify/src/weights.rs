//! Which weights a certificate speaks of. Does not know how a hash is made: the caller hashes its
//! own model.
use std::fmt;

/// The hash of the weights (and architecture) that constants, logits or votes were computed with,
/// as the caller writes it, e.g. 64 hexadecimal digits of SHA-256. Two are the same when their
/// texts are.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct WeightsHash(String);

impl WeightsHash {
    /// Takes the caller's text.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The caller's text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for WeightsHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}
