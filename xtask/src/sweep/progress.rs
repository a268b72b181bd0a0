//! How far a sweep is: a bar with the time left on a terminal, plain lines elsewhere. Runs nothing.
use super::cost::{Costs, short};
use super::plan::Run;
use super::pool::Fault;
use indicatif::{ProgressBar, ProgressStyle};
use std::io::{IsTerminal, Write, stderr};
use std::time::{Duration, Instant};

/// The progress of some runs.
pub struct Progress<'a> {
    bar: Option<ProgressBar>,
    runs: Vec<&'a Run>,
    workers: usize,
    costs: Costs,
    done: Vec<bool>,
    running: Vec<(usize, Instant)>,
}

impl<'a> Progress<'a> {
    /// Of `runs`, `workers` at a time; `costs` are those of runs that are finished.
    pub fn new(runs: Vec<&'a Run>, workers: usize, costs: Costs) -> Self {
        let bar = stderr().is_terminal().then(|| {
            let bar = ProgressBar::new(runs.len() as u64);
            let style = ProgressStyle::with_template("{elapsed} [{bar:30}] {pos}/{len} {msg}");
            bar.set_style(
                style
                    .unwrap_or_else(|_| ProgressStyle::default_bar())
                    .progress_chars("=> "),
            );
            bar.enable_steady_tick(Duration::from_secs(1));
            bar
        });
        let done = vec![false; runs.len()];
        Self {
            bar,
            runs,
            workers,
            costs,
            done,
            running: Vec::new(),
        }
    }

    /// The run at `index` has begun.
    pub fn started(&mut self, index: usize) {
        self.running.push((index, Instant::now()));
        self.refresh();
    }

    /// It has ended.
    pub fn finished(&mut self, index: usize, outcome: &Result<(), Fault>, time: Duration) {
        self.running.retain(|(running, _)| *running != index);
        self.done[index] = true;
        if outcome.is_ok() {
            self.costs.learn(self.runs[index], time.as_secs_f64());
        }
        let verdict = match outcome {
            Ok(()) => "ok",
            Err(Fault::Failed(_)) => "FAILED",
            Err(Fault::Stopped) => "stopped",
        };
        let count = self.done.iter().filter(|done| **done).count();
        let line = format!(
            "[{count}/{}] {verdict} {} in {}",
            self.runs.len(),
            self.runs[index].slug,
            short(time)
        );
        match &self.bar {
            Some(bar) => {
                bar.inc(1);
                bar.println(line);
            }
            // Nobody may be listening: no reason to leave runs behind.
            None => drop(writeln!(stderr(), "{line}{}", self.left())),
        }
        self.refresh();
    }

    /// Nothing more runs.
    pub fn close(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }

    fn refresh(&self) {
        if let Some(bar) = &self.bar {
            let more = self.running.len().saturating_sub(1);
            let others = if more > 0 {
                format!(" and {more} more")
            } else {
                String::new()
            };
            let first = self
                .running
                .first()
                .map_or("", |(index, _)| self.runs[*index].slug.as_str());
            bar.set_message(format!("{first}{others}{}", self.left()));
        }
    }

    /// `, about 3 min left`, from what each method's own runs took.
    fn left(&self) -> String {
        let remaining = || {
            self.runs
                .iter()
                .zip(&self.done)
                .filter(|(_, done)| !**done)
                .map(|(run, _)| *run)
        };
        if remaining().next().is_none() {
            return String::new();
        }
        let Some((all, _)) = self.costs.together(remaining(), self.workers) else {
            return String::new();
        };
        let spent: Duration = self.running.iter().map(|(_, start)| start.elapsed()).sum();
        format!(
            ", about {} left",
            short(all.saturating_sub(spent / self.workers.max(1) as u32))
        )
    }
}

#[cfg(test)]
mod tests {
    use super::super::plan::expand;
    use super::super::spec::Spec;
    use super::*;

    #[test]
    fn the_time_left_is_of_each_methods_own_runs() {
        let text = "name = \"t\"\n[grid]\nmethod = [\"jt\", \"at\"]\nseed = [0, 1, 2]\n";
        let runs = expand(&Spec::parse(text, false).expect("a good sweep"));
        let mut progress = Progress {
            bar: None,
            ..Progress::new(runs.iter().collect(), 2, Costs::default())
        };
        assert_eq!(progress.left(), "", "nothing is known yet");
        progress.finished(0, &Ok(()), Duration::from_secs(10));
        assert_eq!(
            progress.left(),
            ", about 25 s left",
            "five runs of 10 s, two at a time"
        );
        progress.finished(3, &Ok(()), Duration::from_secs(90));
        assert_eq!(
            progress.left(),
            ", about 2 min left",
            "2·10 s + 2·90 s by two are 100 s"
        );
        progress.finished(4, &Err(Fault::Failed("early".into())), Duration::ZERO);
        assert_eq!(
            progress.left(),
            ", about 90 s left",
            "no shorter than the longest, and a failure teaches nothing"
        );
        for index in [1, 2, 5] {
            progress.finished(index, &Ok(()), Duration::from_secs(1));
        }
        assert_eq!(progress.left(), "");
    }
}
