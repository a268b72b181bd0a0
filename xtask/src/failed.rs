//! The error of work that was done and did not succeed. Does not know what the work was.
use std::fmt;

/// Something ran and did not succeed, as opposed to input that can't be used.
#[derive(Debug)]
pub struct Failed(pub String);

impl fmt::Display for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Failed {}
