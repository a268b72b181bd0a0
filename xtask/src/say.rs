//! Standard output for results that people pipe into `head` or `less`, and standard error for what
//! they should know. Formats nothing.
use anyhow::{Context, Result};
use std::io::{ErrorKind, Write, stderr, stdout};

/// Prints `text`. A reader that has seen enough is no fault.
///
/// # Errors
/// If standard output can't be written for another reason, such as a full disk.
pub fn say(text: &str) -> Result<()> {
    let mut out = stdout();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => {
            Err(error).context("writing to standard output")
        }
        _ => Ok(()),
    }
}

/// Tells people something beside the result. That nobody listens ends no work.
pub fn tell(text: &str) {
    let _ = stderr().write_all(text.as_bytes());
}
