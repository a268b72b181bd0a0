//! The `crmt-driver` program: reads the command line, runs a command, and says how it ended.
//! Does not know any command's work.
mod acceptance;
mod adversarials;
mod agreement;
mod arsenal;
mod attack;
mod baselines;
mod batches;
mod certification;
mod checkpoint;
mod checkpoints;
mod checks;
mod cli;
mod commands;
mod comparison;
mod corruption;
mod diagnosis;
mod digests;
mod drawn;
mod effort;
mod evaluated;
mod evaluation;
mod events;
mod examples;
mod falsify;
mod figure_files;
#[cfg(test)]
mod fuzz;
mod layout;
mod lipschitz;
mod lock;
mod methods;
mod opening;
mod optimizers;
mod partial;
mod people;
mod pipeline;
mod plan;
mod precision;
mod predictions;
mod printing;
mod record;
mod report;
mod results;
mod run;
mod run_dir;
mod sample_row;
mod samples;
mod sandwich;
mod sealed;
mod selection;
mod settings;
mod sigmas;
mod smooth_attack;
mod smoothed;
mod smoothing;
mod step_two;
mod strategies;
mod tables;
mod tensor_file;
mod terminal;
mod threat;
mod tour;
mod training;
mod undefined;
mod verdict;
mod votes;
mod watch;

use clap::Parser;
use std::process::ExitCode;
use verdict::Verdict;

/// Allocators that return large buffers to the system fault them in again at every step.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let cli = match cli::Cli::try_parse() {
        Ok(cli) => cli,
        Err(e) => {
            // Help and version are answers, not errors.
            let code = if e.use_stderr() { 2 } else { 0 };
            let _ = e.print();
            return ExitCode::from(code);
        }
    };
    let level = match (cli.quiet, cli.verbose) {
        (true, _) => "error",
        (_, true) => "debug",
        _ => "warn",
    };
    let filter = tracing_subscriber::EnvFilter::builder()
        .parse_lossy(format!("error,crmt={level},crmt_driver={level}"));
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(|| terminal::Stderr);
    log.with_ansi(terminal::colours()).without_time().init();
    match commands::run(cli) {
        Ok(Verdict::Fine) => ExitCode::SUCCESS,
        Ok(Verdict::Broken) => ExitCode::from(1),
        Err(e) => {
            terminal::err(&format!("error: {}", one_message(&e)));
            ExitCode::from(2)
        }
    }
}

/// The chain of causes as one message, without a cause that the message before it already tells.
fn one_message(error: &anyhow::Error) -> String {
    let mut message = String::new();
    for cause in error.chain().map(ToString::to_string) {
        // With RUST_BACKTRACE set, the tensor library's messages end in a backtrace.
        let cause = cause
            .split("\n   0: ")
            .next()
            .unwrap_or_default()
            .to_owned();
        if message.is_empty() {
            message = cause;
        } else if !message.contains(&cause) {
            message = format!("{message}: {cause}");
        }
    }
    message
}
