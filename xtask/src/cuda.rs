//! `cargo xtask cuda-check` and `cargo xtask gpu-bench`: our programs with CUDA, built on a machine
//! that has none. Knows how to get the compiler and what to link, not what a kernel computes.
mod bundle;
mod check;
mod linked;
mod program;
mod size;
mod stubs;
mod toolkit;

pub use bundle::{Args as BundleArgs, run as bundle};
pub use check::{Args as CheckArgs, run as check};
