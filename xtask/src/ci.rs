//! `cargo xtask ci`: every check a change must pass, cheapest first, each step timed. Knows which
//! commands to run and in what order, not what they check.
use crate::say::say;
use crate::tools::execute;
use crate::{results, tidy, workspace};
use anyhow::{Result, bail};
use cargo_metadata::{MetadataCommand, TargetKind};
use std::process::Command;
use std::time::{Duration, Instant};

/// Arguments of `cargo xtask ci`.
#[derive(clap::Args)]
pub struct Args {
    /// Run this step alone; may be given several times
    #[arg(long, value_name = "STEP", value_parser = STEPS.map(|step| step.name))]
    only: Vec<String>,
    /// Name the steps and leave
    #[arg(long)]
    list: bool,
}

struct Step {
    name: &'static str,
    about: &'static str,
    run: fn() -> Result<()>,
}

/// Cheapest first, so that a mistake costs as little waiting as it can.
const STEPS: [Step; 8] = [
    Step {
        name: "fmt",
        about: "the code is formatted",
        run: || cargo(&["fmt", "--all", "--check"]),
    },
    Step {
        name: "tidy",
        about: "the repository's own invariants hold",
        run: tidy::run,
    },
    Step {
        name: "results",
        about: "published tables are what the sweeps wrote, and say it where older",
        run: results::check,
    },
    Step {
        name: "clippy",
        about: "no warning from rustc or clippy anywhere",
        run: clippy,
    },
    Step {
        name: "alone",
        about: "each library builds alone, without default features",
        run: alone,
    },
    Step {
        name: "tests",
        about: "unit, integration and documentation tests",
        run: || cargo(&["test", "--workspace"]),
    },
    Step {
        name: "examples",
        about: "the libraries' examples run",
        run: examples,
    },
    Step {
        name: "docs",
        about: "the documentation builds without a warning",
        run: docs,
    },
];

/// Runs the steps, all or the chosen ones, and stops at the first that fails.
///
/// # Errors
/// If a step fails; the message says how to run that step again.
pub fn run(args: &Args) -> Result<()> {
    if args.list {
        return say(&STEPS
            .iter()
            .map(|step| format!("{:<10}{}\n", step.name, step.about))
            .collect::<String>());
    }
    let chosen =
        |step: &&Step| args.only.is_empty() || args.only.iter().any(|name| name == step.name);
    let mut times: Vec<(&str, Duration)> = Vec::new();
    for step in STEPS.iter().filter(chosen) {
        say(&format!("── {}: {}\n", step.name, step.about))?;
        let start = Instant::now();
        let outcome = (step.run)();
        times.push((step.name, start.elapsed()));
        if let Err(error) = outcome {
            summary(&times)?;
            bail!(
                "step {0} failed: {error:#}
to run it again: cargo xtask ci --only {0}",
                step.name
            );
        }
    }
    summary(&times)?;
    say(&format!(
        "ci: {} of {} steps passed\n",
        times.len(),
        STEPS.len()
    ))
}

fn summary(times: &[(&str, Duration)]) -> Result<()> {
    let together = ("together", times.iter().map(|(_, time)| *time).sum());
    let lines = times
        .iter()
        .chain([&together])
        .map(|(name, time)| format!("{name:<10}{:>8.1} s\n", time.as_secs_f64()));
    say(&format!("──\n{}", lines.collect::<String>()))
}

fn clippy() -> Result<()> {
    cargo(&[
        "clippy",
        "--workspace",
        "--all-targets",
        "--",
        "-D",
        "warnings",
    ])
}

fn docs() -> Result<()> {
    let mut command = workspace::cargo();
    command
        .args(["doc", "--workspace", "--no-deps"])
        .env("RUSTDOCFLAGS", "-Dwarnings");
    execute(command)
}

/// Cargo unites the features of whatever is built together, so a crate that forgot a feature builds
/// in the workspace and fails its first user. Hence one command for each library. Their own target
/// folder keeps these artefacts, which differ in features, from evicting the workspace's.
fn alone() -> Result<()> {
    let metadata = MetadataCommand::new()
        .manifest_path(workspace::root().join("Cargo.toml"))
        .no_deps()
        .exec()?;
    let library = |kind: &TargetKind| *kind == TargetKind::Lib;
    for package in metadata.workspace_packages() {
        if package
            .targets
            .iter()
            .any(|target| target.kind.iter().any(library))
        {
            let mut command = workspace::cargo();
            command.args([
                "check",
                "--quiet",
                "--no-default-features",
                "--package",
                package.name.as_str(),
            ]);
            command
                .arg("--target-dir")
                .arg(metadata.target_directory.join("alone"));
            // The setting that unites features even across separate commands would prove nothing
            // here.
            command.env_remove("CARGO_RESOLVER_FEATURE_UNIFICATION");
            execute(command)?;
        }
    }
    Ok(())
}

/// The examples that bring a model of their own; what a stranger runs first.
const EXAMPLES: [&str; 2] = ["certify_my_model", "attack_my_model"];

/// Builds with the workspace's features, which the tests have built already; `cargo run --package X
/// --example Y` would build candle again for each X.
fn examples() -> Result<()> {
    let names = EXAMPLES.map(|name| ["--example", name]);
    let arguments = [&["--workspace"], names.as_flattened()].concat();
    say(&format!("$ cargo build {}\n", arguments.join(" ")))?;
    let programs = workspace::build(&arguments)?;
    for program in programs {
        let mut command = Command::new(program);
        command.current_dir(workspace::root());
        execute(command)?;
    }
    Ok(())
}

fn cargo(arguments: &[&str]) -> Result<()> {
    let mut command = workspace::cargo();
    command.args(arguments);
    execute(command)
}
