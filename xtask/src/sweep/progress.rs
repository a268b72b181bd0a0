//! How far a sweep is: a bar with the time left on a terminal, plain lines elsewhere. Runs nothing.
use indicatif::{ProgressBar, ProgressStyle};
use std::io::{IsTerminal, stderr};
use std::time::Duration;

/// The progress of a number of runs.
pub struct Progress {
    bar: Option<ProgressBar>,
    total: usize,
    workers: usize,
    done: usize,
    /// Process seconds spent on finished runs.
    spent: Duration,
    running: Vec<String>,
}

impl Progress {
    /// For `total` runs, `workers` at a time.
    pub fn new(total: usize, workers: usize) -> Self {
        let bar = stderr().is_terminal().then(|| {
            let bar = ProgressBar::new(total as u64);
            let style = ProgressStyle::with_template("{elapsed} [{bar:30}] {pos}/{len} {msg}");
            bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()).progress_chars("=> "));
            bar.enable_steady_tick(Duration::from_secs(1));
            bar
        });
        Self { bar, total, workers, done: 0, spent: Duration::ZERO, running: Vec::new() }
    }

    /// A run has begun.
    pub fn started(&mut self, slug: &str) {
        self.running.push(slug.to_owned());
        self.refresh();
    }

    /// A run has ended.
    pub fn finished(&mut self, slug: &str, well: bool, time: Duration) {
        self.running.retain(|running| running != slug);
        self.done += 1;
        self.spent += time;
        let verdict = if well { "ok" } else { "FAILED" };
        let line = format!("[{}/{}] {verdict} {slug} in {}", self.done, self.total, short(time));
        match &self.bar {
            Some(bar) => {
                bar.inc(1);
                bar.println(line);
            }
            None => eprintln!("{line}{}", self.left()),
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
            let others = if more > 0 { format!(" and {more} more") } else { String::new() };
            let first = self.running.first().map_or("", String::as_str);
            bar.set_message(format!("{}{others}{}", first, self.left()));
        }
    }

    /// `, about 3 min left`: the mean time of a run, times what remains, shared by the workers.
    fn left(&self) -> String {
        let remaining = self.total - self.done;
        if self.done == 0 || remaining == 0 {
            return String::new();
        }
        let rounds = remaining as f64 / self.workers.min(remaining) as f64;
        format!(", about {} left", short((self.spent / self.done as u32).mul_f64(rounds)))
    }
}

/// `42 s`, `7 min`, `2 h 05 min`.
fn short(time: Duration) -> String {
    match time.as_secs() {
        seconds @ 0..100 => format!("{seconds} s"),
        seconds @ 100..6000 => format!("{} min", (seconds + 30) / 60),
        seconds => format!("{} h {:02} min", seconds / 3600, seconds % 3600 / 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_short() {
        let text = |seconds| short(Duration::from_secs(seconds));
        assert_eq!([text(0), text(99), text(100), text(7500)], ["0 s", "99 s", "2 min", "2 h 05 min"]);
    }

    #[test]
    fn the_time_left_is_shared_by_the_workers() {
        let mut progress = Progress { bar: None, ..Progress::new(5, 2) };
        assert_eq!(progress.left(), "", "nothing is known yet");
        progress.finished("a", true, Duration::from_secs(10));
        assert_eq!(progress.left(), ", about 20 s left", "four runs of 10 s, two at a time");
        (0..4).for_each(|_| progress.finished("b", false, Duration::from_secs(10)));
        assert_eq!(progress.left(), "");
    }
}
