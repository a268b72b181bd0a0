//! A pool of processes: runs commands a few at a time, their output in files, and ends them when
//! asked to stop. Knows nothing of what they compute.
use super::stop::Stop;
use std::collections::VecDeque;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

/// How often a running command is looked at.
const LOOK: Duration = Duration::from_millis(40);

/// One command.
#[derive(Debug)]
pub struct Job {
    pub program: PathBuf,
    pub arguments: Vec<String>,
    pub environment: Vec<(&'static str, String)>,
    /// Receives standard output and error.
    pub log: PathBuf,
    /// Keep what the log holds already.
    pub append: bool,
}

/// What happened to the job at an index.
#[derive(Debug)]
pub enum Event {
    Started(usize),
    Finished {
        index: usize,
        outcome: Result<(), Fault>,
        time: Duration,
    },
}

/// Why a job did not end well.
#[derive(Debug, PartialEq)]
pub enum Fault {
    /// It was ended, for this program was asked to stop.
    Stopped,
    /// It failed of itself.
    Failed(String),
}

/// How jobs are run.
pub struct Pool<'a> {
    /// So many at a time.
    pub workers: usize,
    /// After a failure further jobs start.
    pub keep_going: bool,
    /// When asked, jobs are ended and no further one starts.
    pub stop: &'a Stop,
    /// Each job's standard input.
    pub input: &'a (dyn Fn() -> io::Result<Stdio> + Sync),
    /// Whether what the job at an index left is good, once it has ended well.
    pub judge: &'a (dyn Fn(usize) -> Result<(), String> + Sync),
}

impl Pool<'_> {
    /// Runs the jobs in order. After a failure those that run are waited for. `on_event` is called
    /// on the caller's thread.
    pub fn run(&self, jobs: Vec<Job>, mut on_event: impl FnMut(Event)) {
        let queue = Mutex::new(jobs.into_iter().enumerate().collect::<VecDeque<_>>());
        let failed = AtomicBool::new(false);
        let (sender, events) = mpsc::channel();
        let (queue, failed) = (&queue, &failed);
        thread::scope(|scope| {
            for _ in 0..self.workers {
                let sender = sender.clone();
                scope.spawn(move || {
                    while !self.stop.asked() && (self.keep_going || !failed.load(Ordering::Relaxed))
                    {
                        let next = queue
                            .lock()
                            .unwrap_or_else(std::sync::PoisonError::into_inner)
                            .pop_front();
                        let Some((index, job)) = next else { break };
                        let start = Instant::now();
                        // The receiver lives as long as this scope, so sending can't fail.
                        let _ = sender.send(Event::Started(index));
                        let outcome = self
                            .execute(&job)
                            .and_then(|()| (self.judge)(index).map_err(Fault::Failed));
                        failed.fetch_or(outcome.is_err(), Ordering::Relaxed);
                        let _ = sender.send(Event::Finished {
                            index,
                            outcome,
                            time: start.elapsed(),
                        });
                    }
                });
            }
            drop(sender);
            events.iter().for_each(&mut on_event);
        });
    }

    fn execute(&self, job: &Job) -> Result<(), Fault> {
        let log = job
            .open_log()
            .map_err(|error| Fault::of(&job.log, &error))?;
        let copy = log
            .try_clone()
            .map_err(|error| Fault::of(&job.log, &error))?;
        let input = (self.input)().map_err(|error| Fault::of(&job.program, &error))?;
        let mut command = Command::new(&job.program);
        command
            .args(&job.arguments)
            .envs(job.environment.iter().map(|(key, value)| (key, value)));
        let child = command.stdin(input).stdout(log).stderr(copy).spawn();
        let status = child
            .and_then(|mut child| self.wait(&mut child))
            .map_err(|error| Fault::of(&job.program, &error))?;
        match status {
            Some(status) if status.success() => Ok(()),
            // A terminal interrupts all of its processes at once.
            Some(status) if !(status.code().is_none() && self.stop.asked()) => {
                Err(Fault::Failed(status.to_string()))
            }
            _ => Err(Fault::Stopped),
        }
    }

    /// How the child ended; none if it was ended.
    fn wait(&self, child: &mut Child) -> io::Result<Option<ExitStatus>> {
        loop {
            if let Some(status) = child.try_wait()? {
                return Ok(Some(status));
            }
            if self.stop.asked() {
                // No signal that it could handle: whatever ends a run of the driver, it can be
                // resumed.
                child.kill()?;
                return child.wait().map(|_| None);
            }
            thread::sleep(LOOK);
        }
    }
}

impl Job {
    /// Never through a link, which would lead to a file that is not ours.
    fn open_log(&self) -> io::Result<File> {
        if self.append && self.log.symlink_metadata().is_ok_and(|file| file.is_file()) {
            return OpenOptions::new().append(true).open(&self.log);
        }
        match fs::remove_file(&self.log) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => File::create_new(&self.log),
        }
    }
}

impl Fault {
    fn of(path: &Path, error: &io::Error) -> Self {
        Self::Failed(format!("{}: {error}", path.display()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Jobs run the test program itself, which lists its tests: a real process on every platform.
    fn job(folder: &Path, name: &str, argument: &str) -> Job {
        let log = folder.join(format!("{name}.log"));
        let program = std::env::current_exe().expect("a test is a program");
        Job {
            program,
            arguments: vec![argument.to_owned()],
            environment: Vec::new(),
            log,
            append: false,
        }
    }

    fn outcomes(
        jobs: Vec<Job>,
        workers: usize,
        keep_going: bool,
    ) -> Vec<(usize, Result<(), Fault>)> {
        let stop = Stop::default();
        let judge = |index: usize| {
            if index < 10 {
                Ok(())
            } else {
                Err("it left nothing".to_owned())
            }
        };
        with(
            &Pool {
                workers,
                keep_going,
                stop: &stop,
                input: &|| Ok(Stdio::null()),
                judge: &judge,
            },
            jobs,
        )
    }

    fn with(pool: &Pool<'_>, jobs: Vec<Job>) -> Vec<(usize, Result<(), Fault>)> {
        let (mut started, mut finished) = (Vec::new(), Vec::new());
        pool.run(jobs, |event| match event {
            Event::Started(index) => started.push(index),
            Event::Finished { index, outcome, .. } => finished.push((index, outcome)),
        });
        started.sort_unstable();
        finished.sort_by_key(|(index, _)| *index);
        assert_eq!(
            started,
            finished.iter().map(|(index, _)| *index).collect::<Vec<_>>(),
            "what starts is waited for"
        );
        finished
    }

    fn reason(outcome: &Result<(), Fault>) -> &str {
        match outcome {
            Err(Fault::Failed(reason)) => reason,
            _ => "",
        }
    }

    #[test]
    fn all_jobs_run_and_their_output_is_kept() {
        let folder = tempfile::tempdir().expect("a scratch folder");
        let jobs = ["a", "b", "c"]
            .map(|name| job(folder.path(), name, "--list"))
            .into();
        assert!(
            outcomes(jobs, 2, false)
                .iter()
                .all(|(_, outcome)| outcome.is_ok())
        );
        let log = || fs::read_to_string(folder.path().join("c.log")).expect("a log");
        assert!(log().contains("all_jobs_run_and_their_output_is_kept"));
        let before = log().len();
        outcomes(
            vec![Job {
                append: true,
                ..job(folder.path(), "c", "--list")
            }],
            1,
            false,
        );
        assert!(
            log().len() >= 2 * before,
            "what a run said before it was stopped stays"
        );
    }

    #[test]
    fn a_failure_stops_the_pool_unless_told_otherwise() {
        let folder = tempfile::tempdir().expect("a scratch folder");
        let jobs = || {
            ["--no-such-flag", "--list"]
                .map(|argument| job(folder.path(), argument, argument))
                .into()
        };
        assert_eq!(outcomes(jobs(), 1, false).len(), 1);
        let both = outcomes(jobs(), 1, true);
        assert!(
            both.len() == 2 && both[0].1.is_err() && both[1].1.is_ok(),
            "{both:?}"
        );
        let log = fs::read_to_string(folder.path().join("--no-such-flag.log")).expect("a log");
        assert!(
            log.contains("no-such-flag"),
            "standard error is kept too: {log}"
        );
    }

    #[test]
    fn a_run_is_judged_and_a_program_must_exist() {
        let folder = tempfile::tempdir().expect("a scratch folder");
        let jobs = (0..11).map(|index| {
            let job = job(folder.path(), &index.to_string(), "--list");
            if index == 1 {
                Job {
                    program: folder.path().join("nothing"),
                    ..job
                }
            } else {
                job
            }
        });
        let outcomes = outcomes(jobs.collect(), 2, true);
        assert!(reason(&outcomes[1].1).contains("nothing"), "{outcomes:?}");
        assert_eq!(reason(&outcomes[10].1), "it left nothing", "{outcomes:?}");
    }

    #[cfg(unix)]
    #[test]
    fn a_log_is_not_written_through_a_link() {
        let folder = tempfile::tempdir().expect("a scratch folder");
        let mine = folder.path().join("mine.txt");
        for append in [false, true] {
            fs::write(&mine, "mine").expect("written");
            let job = Job {
                append,
                ..job(folder.path(), "a", "--list")
            };
            let _ = fs::remove_file(&job.log);
            std::os::unix::fs::symlink(&mine, &job.log).expect("a link");
            assert!(outcomes(vec![job], 1, false)[0].1.is_ok());
            assert_eq!(fs::read_to_string(&mine).expect("still there"), "mine");
        }
    }

    #[test]
    fn a_wish_to_stop_ends_what_runs_and_starts_nothing() {
        let folder = tempfile::tempdir().expect("a scratch folder");
        let stop = Stop::default();
        stop.ask();
        let pool = Pool {
            workers: 2,
            keep_going: true,
            stop: &stop,
            input: &|| Ok(Stdio::null()),
            judge: &|_| Ok(()),
        };
        assert!(with(&pool, vec![job(folder.path(), "a", "--list")]).is_empty());
    }
}
