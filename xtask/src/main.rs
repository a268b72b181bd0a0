//! `cargo xtask`: the chores of this repository, each a subcommand in a file of its own.
//! Knows no model: results are made by running the driver as a program.
mod ci;
mod prepare;
mod say;
mod sweep;
mod tidy;
mod workspace;

use clap::{Parser, Subcommand};
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
    /// Run every check a change must pass, cheapest first
    Ci(ci::Args),
    /// Prepare a data set from its original files
    Prepare(prepare::Args),
    /// Train a grid of models and print the table of their results
    Sweep(sweep::Args),
    /// Check what the compiler can't: arrows between crates, habits of the sources, links
    Tidy,
}

fn main() -> ExitCode {
    let task = Cli::parse().task;
    let bad_input = matches!(task, Task::Prepare(_));
    let outcome = match task {
        Task::Ci(args) => ci::run(&args),
        Task::Prepare(args) => prepare::run(args),
        Task::Sweep(args) => sweep::run(&args),
        Task::Tidy => tidy::run(),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            // As the driver: 1 when a check or a run failed, 2 for input that can't be used.
            ExitCode::from(if bad_input { 2 } else { 1 })
        }
    }
}
