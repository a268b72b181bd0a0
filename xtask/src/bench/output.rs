//! Results as files. Does not know what is in them.
use anyhow::{Context, Result};
use std::path::Path;

/// Replaces a file atomically, and names it if that fails.
pub fn write(path: &Path, text: &str) -> Result<()> {
    crmt_data::write_atomically(path, text.as_bytes())
        .with_context(|| format!("writing {}", path.display()))
}
