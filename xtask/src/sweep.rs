//! `cargo xtask sweep FILE`: how results are made: a grid of runs of the driver, and the table of
//! means over seeds. docs/sweep.md is its manual. Knows the driver as a program, not as a library.
mod args;
mod column;
mod command;
mod cost;
mod data;
mod driver;
mod folder;
mod number;
mod plan;
mod pool;
mod preview;
mod print;
mod probe;
mod progress;
mod rehearsal;
mod render;
mod spec;
mod standing;
mod state;
mod stats;
mod stop;
mod suggestion;
mod table;

pub use args::Args;

use crate::Failed;
use crate::git::{self, Commit};
use crate::say::{say, tell};
use anyhow::{Context, Result, bail};
use args::cores;
use driver::driver;
use folder::Lock;
use plan::Run;
use pool::{Event, Fault, Job, Pool};
use progress::Progress;
use serde_json::Value;
use spec::Spec;
use standing::Sweep;
use state::State;
use std::fs;
use std::path::{Path, PathBuf};
use stop::Stop;
use table::{Point, Table};

/// How much of a failed run's log is shown.
const TAIL: usize = 12;
/// Of which commit each run is, as far as it is known.
pub const COMMITS: &str = "commits.toml";

/// Where the runs of a sweep file go, and what their folders are called.
///
/// # Errors
/// If the file is wrong.
pub fn plan_of(text: &str) -> Result<(PathBuf, Vec<String>)> {
    let spec = Spec::parse(text, false)?;
    let slugs = plan::expand(&spec)
        .into_iter()
        .map(|run| run.slug)
        .collect();
    Ok((spec.out, slugs))
}

/// Runs what is missing and prints the table.
///
/// # Errors
/// If the file is wrong, a run fails or breaks a certificate, the data changed between runs, this
/// program is told to stop, or files can't be written. Finished runs are kept.
pub fn run(args: &Args) -> Result<()> {
    let text = fs::read_to_string(&args.file)
        .with_context(|| format!("reading {}", args.file.display()))?;
    let spec = Spec::parse(&text, args.full).with_context(|| args.file.display().to_string())?;
    let runs = plan::expand(&spec);
    if args.dry_run {
        return preview::show(args, &spec, &runs);
    }
    let lock = Lock::take(&spec.out, &args.file)?;
    let sweep = Sweep::look(&spec, &runs)?;
    write(&spec.out.join("sweep.toml"), text.as_bytes())?;

    let missing = sweep.missing();
    say(&format!(
        "{}: {} runs, {} finished earlier\n",
        spec.name,
        runs.len(),
        runs.len() - missing.len()
    ))?;
    let ended = if missing.is_empty() {
        Ended::default()
    } else {
        sweep.run_missing(args, &missing, &lock)?
    };

    let table = Sweep::look(&spec, &runs)?.table(&ended);
    if table.finished() > 0 {
        let csv = spec.out.join("table.csv");
        write(&csv, &table.csv()?)?;
        write(&spec.out.join("table.md"), table.markdown().as_bytes())?;
        write(&spec.out.join("table.tex"), table.latex().as_bytes())?;
        say(&format!(
            "\n{}\n{}, table.md and table.tex have the table\n",
            table.text(),
            csv.display()
        ))?;
    }
    for failure in &ended.failures {
        tell(&format!(
            "\nfailed: {}: {}\n{}\n",
            failure.slug, failure.reason, failure.tail
        ));
    }
    ended.verdict(&table, runs.len())
}

/// How those runs ended that did not end well.
#[derive(Default)]
struct Ended {
    failures: Vec<Failure>,
    /// Ended by a signal to this program, or never begun because of it.
    stopped: bool,
}

struct Failure {
    slug: String,
    reason: String,
    tail: String,
}

impl Sweep<'_> {
    /// Runs what is missing on a pool of processes; failures are returned, not raised, for the
    /// finished runs deserve their table.
    fn run_missing(&self, args: &Args, missing: &[(&Run, &State)], lock: &Lock) -> Result<Ended> {
        let out = &self.spec.out;
        for (run, _) in missing {
            if let Some(who) = folder::busy(&out.join(&run.slug))? {
                bail!(
                    "{} is being written by another process: wait for it, or end it{who}",
                    out.join(&run.slug).display()
                );
            }
        }
        let driver = driver(args)?;
        let runs: Vec<&Run> = missing.iter().map(|(run, _)| *run).collect();
        rehearsal::check(&driver, &runs, out)?;
        self.note_commit(args, missing)?;
        let workers = args.workers().min(missing.len());
        let jobs = missing
            .iter()
            .map(|(run, state)| job(&driver, run, state, out, cores() / workers))
            .collect();

        let stop = Stop::on_signals()?;
        let mut ended = Ended::default();
        let mut progress = Progress::new(runs.clone(), workers, self.costs());
        let judge = |index: usize| {
            self.judge(runs[index])
                .map_err(|error| format!("{error:#}"))
        };
        let pool = Pool {
            workers,
            keep_going: args.keep_going,
            stop: &stop,
            input: &|| lock.share(),
            judge: &judge,
        };
        pool.run(jobs, |event| match event {
            Event::Started(index) => progress.started(index),
            Event::Finished {
                index,
                outcome,
                time,
            } => {
                progress.finished(index, &outcome, time);
                if let Err(Fault::Failed(reason)) = outcome {
                    let slug = runs[index].slug.clone();
                    let tail = tail(&out.join(format!("{slug}.log")));
                    ended.failures.push(Failure { slug, reason, tail });
                }
            }
        });
        progress.close();
        ended.stopped = stop.asked();
        Ok(ended)
    }

    /// Whether a run that ended well left a result, on the data of those that were there before.
    fn judge(&self, run: &Run) -> Result<()> {
        let state = State::of(run, &self.spec.out)?;
        let Some(summary) = state.summary() else {
            bail!(
                "it ended well but left no result in {}",
                self.spec.out.join(&run.slug).display()
            );
        };
        let mut finished = self.finished();
        finished.push((run, summary));
        data::same(&finished)
    }

    /// Writes down of which commit the runs are that begin now. One that goes on stays of the
    /// commit that began it.
    fn note_commit(&self, args: &Args, missing: &[(&Run, &State)]) -> Result<()> {
        let mut commits = self.commits();
        // A program of somebody's own may be of any.
        let now = if args.driver.is_some() {
            None
        } else {
            Commit::now(&git::root(), git::CODE)
        };
        for (run, _) in missing
            .iter()
            .filter(|(_, state)| **state != State::Stopped)
        {
            commits.remove(&run.slug);
            if let Some(commit) = &now {
                commits.insert(run.slug.clone(), commit.to_string().into());
            }
        }
        write(
            &self.spec.out.join(COMMITS),
            toml::to_string(&commits)?.as_bytes(),
        )
    }

    /// By run, as far as it was noted.
    fn commits(&self) -> toml::Table {
        let text = fs::read_to_string(self.spec.out.join(COMMITS)).unwrap_or_default();
        text.parse().unwrap_or_default()
    }

    /// A warning, if finished runs are of commits between which the code changed.
    fn mixture(&self) -> Option<String> {
        let commits = self.commits();
        let of = |(run, _): &(&Run, &Value)| Some(Commit::parse(commits.get(&run.slug)?.as_str()?));
        let mut commits: Vec<Commit> = self.finished().iter().filter_map(of).collect();
        commits.sort_by_key(Commit::to_string);
        commits.dedup();
        let (first, rest) = commits.split_first()?;
        let other = rest
            .iter()
            .find(|other| first.differs(other, &git::root(), git::CODE))?;
        Some(format!(
            "some runs are of commit {first}, some of {other}, and the code is another in between"
        ))
    }

    fn table(&self, ended: &Ended) -> Table {
        let mut points: Vec<Point> = Vec::new();
        for (run, state) in self.runs.iter().zip(&self.states) {
            let point = match points.iter_mut().find(|point| point.label == run.point) {
                Some(point) => point,
                None => {
                    let (label, shown) = (run.point.clone(), run.shown.clone());
                    points.push_mut(Point {
                        label,
                        shown,
                        planned: 0,
                        summaries: Vec::new(),
                    })
                }
            };
            point.planned += 1;
            point.summaries.extend(state.summary().cloned());
        }
        let failed: Vec<&str> = ended
            .failures
            .iter()
            .map(|failure| failure.slug.as_str())
            .collect();
        let unfinished = self.missing().len() - failed.len();
        let mut notes = vec![];
        if !failed.is_empty() {
            notes.push(format!(
                "{} of {} runs failed: {}",
                failed.len(),
                self.runs.len(),
                failed.join(", ")
            ));
        }
        if unfinished > 0 {
            notes.push(format!(
                "{unfinished} of {} runs are not finished",
                self.runs.len()
            ));
        }
        notes.extend(self.mixture());
        Table::new(points, &self.spec.tables, notes)
    }
}

impl Ended {
    fn verdict(&self, table: &Table, runs: usize) -> Result<()> {
        if table.violations() > 0 {
            return Err(Failed(format!(
                "{} attacks succeeded inside certified regions",
                table.violations()
            ))
            .into());
        }
        let failed = self.failures.len();
        let unfinished = runs - table.finished() - failed;
        let advice = "the same command continues and keeps what is finished";
        if self.stopped && unfinished > 0 {
            return Err(Failed(format!(
                "stopped: {unfinished} runs are not finished; {advice}"
            ))
            .into());
        }
        if failed == 0 {
            return Ok(());
        }
        let plural = if failed == 1 { "run" } else { "runs" };
        let unstarted = if unfinished > 0 {
            format!(", {unfinished} not started (--keep-going starts all)")
        } else {
            String::new()
        };
        Err(Failed(format!("{failed} {plural} failed{unstarted}; {advice}")).into())
    }
}

fn job(driver: &Path, run: &Run, state: &State, out: &Path, threads: usize) -> Job {
    let mut environment = Vec::new();
    if std::env::var_os("RAYON_NUM_THREADS").is_none() {
        environment.push(("RAYON_NUM_THREADS", threads.max(1).to_string()));
    }
    Job {
        program: driver.to_path_buf(),
        arguments: run.making(state, out),
        environment,
        log: out.join(format!("{}.log", run.slug)),
        append: *state == State::Stopped,
    }
}

fn tail(log: &Path) -> String {
    let bytes = fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes);
    let lines: Vec<&str> = text.lines().collect();
    let last = &lines[lines.len().saturating_sub(TAIL)..];
    let shown = last
        .iter()
        .map(|line| format!("  {}\n", print::escaped(line)))
        .collect::<String>();
    format!("{shown}  ({} has all of it)", log.display())
}

/// Replaces a file atomically, and names it if that fails.
fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    crmt_data::write_atomically(path, bytes).with_context(|| format!("writing {}", path.display()))
}
