//! A pool of processes: runs commands a few at a time, their output in files. Knows nothing of what
//! they compute.
use std::collections::VecDeque;
use std::fs::File;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

/// One command.
#[derive(Debug)]
pub struct Job {
    pub program: PathBuf,
    pub arguments: Vec<String>,
    pub environment: Vec<(&'static str, String)>,
    /// Receives standard output and error.
    pub log: PathBuf,
    /// Must exist afterwards.
    pub proof: PathBuf,
}

/// What happened to the job at an index.
#[derive(Debug)]
pub enum Event {
    Started(usize),
    Finished {
        index: usize,
        /// Why it failed.
        outcome: Result<(), String>,
        time: Duration,
    },
}

/// Runs the jobs in order, `workers` at a time. After a failure no further job starts unless
/// `keep_going`; those that run are waited for. `on_event` is called on the caller's thread.
pub fn run(jobs: Vec<Job>, workers: usize, keep_going: bool, mut on_event: impl FnMut(Event)) {
    let queue = Mutex::new(jobs.into_iter().enumerate().collect::<VecDeque<_>>());
    let stop = AtomicBool::new(false);
    let (sender, events) = mpsc::channel();
    let (queue, stop) = (&queue, &stop);
    thread::scope(|scope| {
        for _ in 0..workers {
            let sender = sender.clone();
            scope.spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    let next = queue.lock().unwrap_or_else(std::sync::PoisonError::into_inner).pop_front();
                    let Some((index, job)) = next else { break };
                    let start = Instant::now();
                    // The receiver lives as long as this scope, so sending can't fail.
                    let _ = sender.send(Event::Started(index));
                    let outcome = execute(&job);
                    if outcome.is_err() && !keep_going {
                        stop.store(true, Ordering::Relaxed);
                    }
                    let _ = sender.send(Event::Finished { index, outcome, time: start.elapsed() });
                }
            });
        }
        drop(sender);
        events.iter().for_each(&mut on_event);
    });
}

fn execute(job: &Job) -> Result<(), String> {
    let log = File::create(&job.log).map_err(|error| format!("{}: {error}", job.log.display()))?;
    let copy = log.try_clone().map_err(|error| format!("{}: {error}", job.log.display()))?;
    let mut command = Command::new(&job.program);
    command.args(&job.arguments).envs(job.environment.iter().map(|(key, value)| (key, value)));
    let status = command.stdin(Stdio::null()).stdout(log).stderr(copy).status();
    let status = status.map_err(|error| format!("{}: {error}", job.program.display()))?;
    if !status.success() {
        return Err(status.to_string());
    }
    if !job.proof.is_file() {
        return Err(format!("it ended well but left no {}", job.proof.display()));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Jobs run the test program itself, which lists its tests: a real process on every platform.
    fn job(folder: &std::path::Path, name: &str, argument: &str) -> Job {
        let log = folder.join(format!("{name}.log"));
        let program = std::env::current_exe().expect("a test is a program");
        Job { program, arguments: vec![argument.to_owned()], environment: Vec::new(), proof: log.clone(), log }
    }

    fn outcomes(jobs: Vec<Job>, workers: usize, keep_going: bool) -> Vec<(usize, Result<(), String>)> {
        let (mut started, mut finished) = (Vec::new(), Vec::new());
        run(jobs, workers, keep_going, |event| match event {
            Event::Started(index) => started.push(index),
            Event::Finished { index, outcome, .. } => finished.push((index, outcome)),
        });
        started.sort_unstable();
        finished.sort_by_key(|(index, _)| *index);
        assert_eq!(started, finished.iter().map(|(index, _)| *index).collect::<Vec<_>>(), "what starts is waited for");
        finished
    }

    #[test]
    fn all_jobs_run_and_their_output_is_kept() {
        let folder = tempfile::tempdir().expect("a scratch folder");
        let jobs = ["a", "b", "c"].map(|name| job(folder.path(), name, "--list")).into();
        assert!(outcomes(jobs, 2, false).iter().all(|(_, outcome)| outcome.is_ok()));
        let log = std::fs::read_to_string(folder.path().join("c.log")).expect("a log");
        assert!(log.contains("all_jobs_run_and_their_output_is_kept"), "{log}");
    }

    #[test]
    fn a_failure_stops_the_pool_unless_told_otherwise() {
        let folder = tempfile::tempdir().expect("a scratch folder");
        let jobs = || ["--no-such-flag", "--list"].map(|argument| job(folder.path(), argument, argument)).into();
        assert_eq!(outcomes(jobs(), 1, false).len(), 1);
        let both = outcomes(jobs(), 1, true);
        assert!(both.len() == 2 && both[0].1.is_err() && both[1].1.is_ok(), "{both:?}");
        let log = std::fs::read_to_string(folder.path().join("--no-such-flag.log")).expect("a log");
        assert!(log.contains("no-such-flag"), "standard error is kept too: {log}");
    }

    #[test]
    fn a_run_must_leave_its_proof_and_a_program_must_exist() {
        let folder = tempfile::tempdir().expect("a scratch folder");
        let unproved = Job { proof: folder.path().join("summary.json"), ..job(folder.path(), "a", "--list") };
        let absent = Job { program: folder.path().join("nothing"), ..job(folder.path(), "b", "--list") };
        let outcomes = outcomes(vec![unproved, absent], 2, true);
        assert!(outcomes[0].1.as_ref().is_err_and(|reason| reason.contains("left no")), "{outcomes:?}");
        assert!(outcomes[1].1.as_ref().is_err_and(|reason| reason.contains("nothing")), "{outcomes:?}");
    }
}
