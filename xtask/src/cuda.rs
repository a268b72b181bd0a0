//! `cargo xtask cuda-check` and `cargo xtask gpu-bench`: our programs with CUDA, built on a machine that has none. Knows
//! how to get the compiler and what to link, not what a kernel computes.
mod bundle;
mod check;
mod linked;
mod program;
mod stubs;
mod toolkit;

pub use bundle::{Args as BundleArgs, run as bundle};
pub use check::{Args as CheckArgs, run as check};

/// As people write sizes of files.
fn megabytes(bytes: u64) -> String {
    format!("{:.1} MB", bytes as f64 / 1e6)
}
