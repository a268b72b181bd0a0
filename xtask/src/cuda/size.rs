//! How sizes of files are told. Knows no file.

/// As people write sizes of files.
pub fn megabytes(bytes: u64) -> String {
    format!("{:.1} MB", bytes as f64 / 1e6)
}
