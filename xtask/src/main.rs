//! `cargo xtask`: the chores of this repository, each a subcommand in a file of its own.
//! Knows no model: results are made by running the driver as a program.
mod bench;
mod ci;
mod cuda;
mod failed;
mod git;
mod prepare;
mod results;
mod say;
mod sweep;
mod tidy;
mod tools;
mod workspace;

use clap::{Parser, Subcommand};
use failed::Failed;
use std::process::ExitCode;

/// Chores of this repository.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Time our work against the same work in PyTorch, or how it grows with its size
    Bench(bench::Args),
    /// Run every check a change must pass, cheapest first
    Ci(ci::Args),
    /// Prove that the CUDA build compiles and links, on a machine without CUDA
    CudaCheck(cuda::CheckArgs),
    /// Make a folder that times CRMT against PyTorch on a GPU machine without Rust
    GpuBench(cuda::BundleArgs),
    /// Prepare a data set from its original files
    Prepare(prepare::Args),
    /// Check or renew the tables of docs/results.md
    Results(results::Args),
    /// Train a grid of models and print the table of their results
    Sweep(sweep::Args),
    /// Check what the compiler can't: arrows between crates, habits of the sources, links
    Tidy,
}

fn main() -> ExitCode {
    let task = Cli::parse().task;
    let is_check = matches!(task, Task::Ci(_) | Task::Tidy);
    let outcome = match task {
        Task::Bench(args) => bench::run(&args),
        Task::Ci(args) => ci::run(&args),
        Task::CudaCheck(args) => cuda::check(&args),
        Task::GpuBench(args) => cuda::bundle(&args),
        Task::Prepare(args) => prepare::run(args),
        Task::Results(args) => results::run(&args),
        Task::Sweep(args) => sweep::run(&args),
        Task::Tidy => tidy::run(),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say::tell(&format!("error: {error:#}\n"));
            // As the driver: 1 when a check or a run failed, 2 for input that can't be used.
            ExitCode::from(if is_check || error.is::<Failed>() {
                1
            } else {
                2
            })
        }
    }
}
