//! `cargo xtask sweep FILE`: how results are made: a grid of runs of the driver, and the table of
//! means over seeds. docs/sweep.md is its manual. Knows the driver as a program, not as a library.
mod column;
mod plan;
mod pool;
mod progress;
mod spec;
mod table;

use crate::Failed;
use crate::say::say;
use crate::workspace;
use anyhow::{Context, Result, bail};
use plan::{Run, State};
use pool::{Event, Job};
use progress::Progress;
use spec::Spec;
use std::collections::BTreeMap;
use std::fs::{self, File, TryLockError};
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use table::{Point, Table};

/// How much of a failed run's log is shown.
const TAIL: usize = 12;

/// Arguments of `cargo xtask sweep`.
#[derive(clap::Args)]
pub struct Args {
    /// The sweep: what is fixed, what varies, which columns to report (see docs/sweep.md)
    file: PathBuf,
    /// Runs at a time [default: half the cores]
    #[arg(long, short, value_name = "N")]
    jobs: Option<NonZeroUsize>,
    /// Under the settings of the file's section `[full]`, in a folder of their own
    #[arg(long)]
    full: bool,
    /// Show what would run, and run nothing
    #[arg(long)]
    dry_run: bool,
    /// Start the remaining runs even after one has failed
    #[arg(long)]
    keep_going: bool,
    /// Run this program instead of building crmt-driver
    #[arg(long, value_name = "PATH")]
    driver: Option<PathBuf>,
}

/// Runs what is missing and prints the table.
///
/// # Errors
/// If the file is wrong, a run fails or breaks a certificate, or files can't be written. Finished
/// runs are kept.
pub fn run(args: &Args) -> Result<()> {
    let text = fs::read_to_string(&args.file).with_context(|| format!("reading {}", args.file.display()))?;
    let spec = Spec::parse(&text, args.full).with_context(|| args.file.display().to_string())?;
    let runs = plan::expand(&spec);
    let states = runs.iter().map(|run| run.state(&spec.out)).collect::<Result<Vec<State>>>()?;
    if args.dry_run {
        let line =
            |(run, state): (&Run, &State)| format!("{state:<5} {}\n      {}\n", run.slug, run.command_line(&spec.out));
        return say(&runs.iter().zip(&states).map(line).collect::<String>());
    }
    fs::create_dir_all(&spec.out).with_context(|| format!("making {}", spec.out.display()))?;
    let _lock = lock(&spec.out)?;
    write(&spec.out.join("sweep.toml"), text.as_bytes())?;

    let missing: Vec<&Run> =
        runs.iter().zip(&states).filter(|(_, state)| **state == State::Missing).map(|(run, _)| run).collect();
    say(&format!("{}: {} runs, {} finished earlier\n", spec.name, runs.len(), runs.len() - missing.len()))?;
    let failures = if missing.is_empty() { Vec::new() } else { run_missing(args, &spec, &missing)? };

    let table = report(&spec, &runs)?;
    if table.finished() > 0 {
        let csv = spec.out.join("table.csv");
        write(&csv, &table.csv()?)?;
        write(&spec.out.join("table.md"), table.markdown().as_bytes())?;
        write(&spec.out.join("table.tex"), table.latex().as_bytes())?;
        say(&format!("\n{}\n{}, table.md and table.tex have the table\n", table.text(), csv.display()))?;
    }
    for failure in &failures {
        eprintln!("\nfailed: {}: {}\n{}", failure.slug, failure.reason, failure.tail);
    }
    if table.violations() > 0 {
        return Err(Failed(format!("{} attacks succeeded inside certified regions", table.violations())).into());
    }
    if failures.is_empty() {
        return Ok(());
    }
    let plural = if failures.len() == 1 { "run" } else { "runs" };
    let unstarted = runs.len().saturating_sub(table.finished() + failures.len());
    let unstarted =
        if unstarted > 0 { format!(", {unstarted} not started (--keep-going starts all)") } else { String::new() };
    let advice = "the same command continues and keeps what is finished";
    Err(Failed(format!("{} {plural} failed{unstarted}; {advice}", failures.len())).into())
}

/// Two sweeps in one folder would clear away each other's unfinished runs.
fn lock(out: &Path) -> Result<File> {
    let path = out.join("sweep.lock");
    let file = File::create(&path).with_context(|| format!("making {}", path.display()))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => {
            bail!("another sweep is writing to {}; wait for it or choose another out", out.display())
        }
        Err(TryLockError::Error(error)) => Err(error).with_context(|| format!("locking {}", path.display())),
    }
}

struct Failure {
    slug: String,
    reason: String,
    tail: String,
}

/// Runs `missing` on a pool of processes; the failures are returned, not raised, for the finished
/// runs deserve their table.
fn run_missing(args: &Args, spec: &Spec, missing: &[&Run]) -> Result<Vec<Failure>> {
    let driver = match &args.driver {
        Some(path) if path.is_file() => std::path::absolute(path)?,
        Some(path) => bail!("--driver {}: no such file", path.display()),
        None => build_driver()?,
    };
    let cores = thread::available_parallelism().map_or(1, NonZeroUsize::get);
    let workers = args.jobs.map_or(cores / 2, NonZeroUsize::get).clamp(1, missing.len());
    rehearse(&driver, missing, &spec.out)?;
    let jobs = missing.iter().map(|run| job(&driver, run, &spec.out, cores / workers)).collect::<Result<Vec<Job>>>()?;

    let mut failures = Vec::new();
    let mut progress = Progress::new(jobs.len(), workers);
    pool::run(jobs, workers, args.keep_going, |event| match event {
        Event::Started(index) => progress.started(&missing[index].slug),
        Event::Finished { index, outcome, time } => {
            progress.finished(&missing[index].slug, outcome.is_ok(), time);
            if let Err(reason) = outcome {
                let slug = missing[index].slug.clone();
                let tail = tail(&spec.out.join(format!("{slug}.log")));
                failures.push(Failure { slug, reason, tail });
            }
        }
    });
    progress.close();
    Ok(failures)
}

/// Has the driver check the settings of every run, so that a misspelt one in the last corner of the
/// grid is told now and not tomorrow.
fn rehearse(driver: &Path, missing: &[&Run], out: &Path) -> Result<()> {
    let mut faults: BTreeMap<String, usize> = BTreeMap::new();
    for run in missing {
        let mut command = Command::new(driver);
        let output = command.args(run.arguments(out)).arg("--explain").stdin(Stdio::null()).output();
        let output = output.with_context(|| format!("starting {}", driver.display()))?;
        if !output.status.success() {
            *faults.entry(String::from_utf8_lossy(&output.stderr).trim().to_owned()).or_default() += 1;
        }
    }
    if faults.is_empty() {
        return Ok(());
    }
    let told = faults.iter().map(|(fault, count)| format!("\n{count} of {} runs: {fault}", missing.len()));
    bail!("the driver refuses the settings:{}", told.collect::<String>())
}

fn build_driver() -> Result<PathBuf> {
    println!("$ cargo build --release --package crmt-driver");
    let programs = workspace::build(&["--release", "--package", "crmt-driver", "--bins"])?;
    programs.into_iter().next().context("crmt-driver has no program")
}

fn job(driver: &Path, run: &Run, out: &Path, threads: usize) -> Result<Job> {
    let folder = out.join(&run.slug);
    if folder.exists() {
        // What an interrupted or failed run left; a finished one would not be run.
        fs::remove_dir_all(&folder).with_context(|| format!("clearing {}", folder.display()))?;
    }
    let mut environment = Vec::new();
    if std::env::var_os("RAYON_NUM_THREADS").is_none() {
        environment.push(("RAYON_NUM_THREADS", threads.max(1).to_string()));
    }
    Ok(Job {
        program: driver.to_path_buf(),
        arguments: run.arguments(out),
        environment,
        log: out.join(format!("{}.log", run.slug)),
        proof: folder.join(plan::SUMMARY),
    })
}

fn tail(log: &Path) -> String {
    let bytes = fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes);
    let lines: Vec<&str> = text.lines().collect();
    let shown = lines[lines.len().saturating_sub(TAIL)..].iter().map(|line| format!("  {line}\n")).collect::<String>();
    format!("{shown}  ({} has all of it)", log.display())
}

/// Reads what the finished runs of this sweep say, and nothing else that lies in `out`.
fn report(spec: &Spec, runs: &[Run]) -> Result<Table> {
    let mut points: Vec<Point> = Vec::new();
    for run in runs {
        let point = match points.iter_mut().find(|point| point.label == run.point) {
            Some(point) => point,
            None => {
                let (label, shown) = (run.point.clone(), run.shown.clone());
                points.push_mut(Point { label, shown, planned: 0, summaries: Vec::new() })
            }
        };
        point.planned += 1;
        if run.state(&spec.out)? == State::Finished {
            let path = spec.out.join(&run.slug).join(plan::SUMMARY);
            let bytes = fs::read(&path).with_context(|| format!("reading {}", path.display()))?;
            point.summaries.push(serde_json::from_slice(&bytes).with_context(|| path.display().to_string())?);
        }
    }
    Ok(Table::new(points, &spec.tables))
}

/// Replaces a file atomically, and names it if that fails.
fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    crmt_data::write_atomically(path, bytes).with_context(|| format!("writing {}", path.display()))
}
