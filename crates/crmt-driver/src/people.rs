//! What people see while they wait: lines and progress on stderr.
//! Does not know what is said.
use crate::terminal;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::{
    cell::Cell,
    io::IsTerminal,
    time::{Duration, Instant},
};

/// Columns of the terminal; 80 where there is none.
pub fn width() -> usize {
    textwrap::termwidth()
}

/// How much to say. Everything here goes to stderr; results go to stdout.
#[derive(Debug, Clone, Copy)]
pub struct Voice {
    quiet: bool,
    bars: bool,
}

impl Voice {
    /// Bars only on a terminal.
    pub fn new(quiet: bool) -> Self {
        Self {
            quiet,
            bars: !quiet && std::io::stderr().is_terminal(),
        }
    }

    /// One line.
    pub fn say(&self, line: impl AsRef<str>) {
        if !self.quiet {
            terminal::err(line.as_ref());
        }
    }

    /// A bar with rate and time left on a terminal; otherwise a line every ten seconds.
    ///
    /// `unit`: what the steps are, in the plural.
    pub fn stage(&self, what: &str, steps: u64, unit: &'static str) -> Stage {
        let bar = self.bars.then(|| self.bar(what, steps, unit));
        let now = Instant::now();
        let clock = Cell::new(Clock { done: 0, told: now });
        Stage {
            voice: *self,
            bar,
            what: what.to_owned(),
            steps,
            unit,
            start: now,
            clock,
        }
    }

    fn bar(&self, what: &str, steps: u64, unit: &'static str) -> ProgressBar {
        let target = ProgressDrawTarget::stderr_with_hz(8);
        let style = "  {msg:24} {bar:30} {human_pos}/{human_len} {prefix}  {eta} left";
        let style = ProgressStyle::with_template(style)
            .expect("a valid template")
            .progress_chars("━╸─");
        let bar = ProgressBar::with_draw_target(Some(steps), target)
            .with_style(style)
            .with_prefix(unit)
            .with_message(terminal::safe(what).into_owned());
        bar.enable_steady_tick(Duration::from_millis(250));
        bar
    }
}

/// Something that takes a while.
pub struct Stage {
    voice: Voice,
    bar: Option<ProgressBar>,
    what: String,
    steps: u64,
    unit: &'static str,
    start: Instant,
    clock: Cell<Clock>,
}

#[derive(Clone, Copy)]
struct Clock {
    done: u64,
    told: Instant,
}

/// Between plain lines.
const PATIENCE: Duration = Duration::from_secs(10);

impl Stage {
    /// `steps` more are done.
    pub fn inc(&self, steps: u64) {
        if let Some(bar) = &self.bar {
            bar.inc(steps);
            return;
        }
        let mut clock = self.clock.get();
        clock.done += steps;
        if clock.told.elapsed() >= PATIENCE && clock.done < self.steps {
            let seconds = self.start.elapsed().as_secs_f64();
            let left = seconds / clock.done.max(1) as f64 * (self.steps - clock.done) as f64;
            self.voice.say(format!(
                "  {} {}/{} {}, about {left:.0} s left",
                self.what, clock.done, self.steps, self.unit
            ));
            clock.told = Instant::now();
        }
        self.clock.set(clock);
    }

    /// Since the last line, or the start.
    pub fn silent_for(&self) -> Duration {
        self.clock.get().told.elapsed()
    }

    /// One line that does not tear the bar.
    pub fn say(&self, line: &str) {
        match &self.bar {
            Some(bar) => bar.println(terminal::safe(line)),
            None => self.voice.say(line),
        }
        self.clock.set(Clock {
            told: Instant::now(),
            ..self.clock.get()
        });
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        match &self.bar {
            Some(bar) => bar.finish_and_clear(),
            None if self.start.elapsed() >= PATIENCE => {
                self.voice.say(format!(
                    "  {}: {:.0} s",
                    self.what,
                    self.start.elapsed().as_secs_f64()
                ));
            }
            None => {}
        }
    }
}
