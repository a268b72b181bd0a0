//! `cargo xtask bench --peer PYTHON`: our attack against the same attack in PyTorch, alternating, so that both meet the
//! machine as it is. Knows the two programs by the JSON line they print, not what they compute.
use crate::say::say;
use crate::workspace;
use anyhow::{Context, Result, bail};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Arguments of `cargo xtask bench`.
#[derive(clap::Args)]
pub struct Args {
    /// A Python that can import torch (python3 -m venv v && v/bin/pip install torch numpy)
    #[arg(long, value_name = "PYTHON")]
    peer: PathBuf,
    /// Times that each program is started
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Threads of both
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..))]
    threads: u32,
}

/// What a process repeats after warming up; its median counts.
const REPEATS: &str = "5";
const SCRIPT: &str = "xtask/peers/torch_av.py";

/// Builds our program, runs it and both forms of the peer in turn, and prints medians and ratios.
///
/// # Errors
/// If a program can't be built or started, fails, or prints no time.
pub fn run(args: &Args) -> Result<()> {
    let built = workspace::build(&["--workspace", "--release", "--example", "joint_pgd"])?;
    let ours = built.iter().find(|path| path.file_stem().is_some_and(|name| name == "joint_pgd"));
    let ours = ours.context("cargo built no joint_pgd")?;
    let mut times = [const { Vec::new() }; 3];
    for round in 1..=args.rounds {
        times[0].push(milliseconds(threads(Command::new(ours).arg(REPEATS), args.threads))?);
        times[1].push(milliseconds(&mut peer(&args.peer, args.threads, &[]))?);
        times[2].push(milliseconds(&mut peer(&args.peer, args.threads, &["--channels-last"]))?);
        let [ours, plain, last] = times.each_ref().map(|times| times[times.len() - 1]);
        say(&format!("round {round}: ours {ours:.0} ms, torch {plain:.0} ms, channels-last {last:.0} ms\n"))?;
    }
    let medians = times.each_ref().map(|times| median(times.clone()));
    say(&format!(
        "median: ours {:.0} ms, torch {:.0} ms, channels-last {:.0} ms\n",
        medians[0], medians[1], medians[2]
    ))?;
    for (name, peer) in [("torch", 1), ("torch channels-last", 2)] {
        let ratios: Vec<f64> = times[0].iter().zip(&times[peer]).map(|(ours, peer)| ours / peer).collect();
        let (least, most) = ratios.iter().fold((f64::INFINITY, 0f64), |(a, b), r| (a.min(*r), b.max(*r)));
        let ratio = medians[0] / medians[peer];
        say(&format!("ours / {name}: {ratio:.2} (rounds {least:.2} to {most:.2})\n"))?;
    }
    Ok(())
}

/// Our kernels share work by rayon; candle's own pool for elementwise operations waits for work spinning.
fn threads(command: &mut Command, threads: u32) -> &mut Command {
    command.env("RAYON_NUM_THREADS", threads.to_string()).env("CANDLE_NUM_THREADS", "1")
}

fn peer(python: &Path, threads: u32, more: &[&str]) -> Command {
    let mut command = Command::new(python);
    command.arg(workspace::root().join(SCRIPT)).args(["--work", "pgd", "--model", "cnn", "--batch", "64", "--iters"]);
    command.args([REPEATS, "--threads", &threads.to_string()]).args(more);
    command
}

/// The `median_ms` that a program prints as JSON in its last line.
fn milliseconds(command: &mut Command) -> Result<f64> {
    let output = command.output().with_context(|| format!("starting {}", command.get_program().display()))?;
    if !output.status.success() {
        bail!("{} failed:\n{}", command.get_program().display(), String::from_utf8_lossy(&output.stderr));
    }
    let text = String::from_utf8_lossy(&output.stdout);
    let line: serde_json::Value = serde_json::from_str(text.lines().last().unwrap_or_default())?;
    line["median_ms"].as_f64().with_context(|| format!("no median_ms in {line}"))
}

fn median(mut times: Vec<f64>) -> f64 {
    times.sort_by(f64::total_cmp);
    let middle = times.len() / 2;
    if times.len() % 2 == 1 { times[middle] } else { (times[middle - 1] + times[middle]) / 2. }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_line_has_the_time() {
        let mut command = Command::new("printf");
        command.arg("warming up\n{\"median_ms\": 12.5}\n");
        assert_eq!(milliseconds(&mut command).expect("a number"), 12.5);
        assert!(milliseconds(Command::new("printf").arg("{}")).unwrap_err().to_string().contains("median_ms"));
        assert!(milliseconds(&mut Command::new("false")).is_err());
        assert_eq!(median(vec![3., 1., 2.]), 2.);
        assert_eq!(median(vec![4., 1., 2., 3.]), 2.5);
    }
}
