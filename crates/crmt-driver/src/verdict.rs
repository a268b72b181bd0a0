//! How commands end. Does not know what they did.

/// How a command that did not fail ended.
pub enum Verdict {
    /// All checks passed.
    Fine,
    /// A check failed: a certificate was broken.
    Broken,
}
