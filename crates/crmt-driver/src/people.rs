//! What people see while they wait and when it is done: progress, and the sandwich table.
//! Does not compute anything.
use crate::record::Summary;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::{fmt::Write, io::IsTerminal, time::Duration};

/// How much to say. Everything here goes to stderr; results go to stdout.
#[derive(Debug, Clone, Copy)]
pub struct Voice {
    quiet: bool,
    bars: bool,
}

impl Voice {
    /// Bars only on a terminal.
    pub fn new(quiet: bool) -> Self {
        Self { quiet, bars: !quiet && std::io::stderr().is_terminal() }
    }

    /// One line.
    pub fn say(&self, line: impl AsRef<str>) {
        if !self.quiet {
            eprintln!("{}", line.as_ref());
        }
    }

    /// A bar with rate and time left on a terminal; nothing otherwise.
    pub fn bar(&self, what: &str, steps: u64) -> ProgressBar {
        let target = if self.bars { ProgressDrawTarget::stderr_with_hz(8) } else { ProgressDrawTarget::hidden() };
        let style = "  {msg:24} {bar:30} {pos}/{len}  {per_sec}  {eta} left";
        let style = ProgressStyle::with_template(style).expect("a valid template").progress_chars("━╸─");
        let bar = ProgressBar::with_draw_target(Some(steps), target).with_style(style).with_message(what.to_owned());
        if self.bars {
            bar.enable_steady_tick(Duration::from_millis(250));
        }
        bar
    }

    /// One line that does not tear a bar.
    pub fn say_above(&self, bar: &ProgressBar, line: &str) {
        if self.bars { bar.println(line) } else { self.say(line) }
    }
}

/// The sandwich of several runs: clean ≥ strongest attack ≥ certified or estimated, on the same samples.
pub fn sandwich(runs: &[&Summary]) -> String {
    let mut rows = vec![];
    for run in runs {
        for attack in run.attacks.iter().filter(|a| a.name == "strongest") {
            let lower = run.certified.iter().find(|c| c.threat == attack.threat && c.eps == attack.eps);
            let (certified, estimated) = match lower.map(|c| (c.attacked_samples, c.evidence.as_str())) {
                Some((Some(value), "estimated")) => ("–".to_owned(), percent(value)),
                Some((Some(value), _)) => (percent(value), "–".to_owned()),
                _ => ("–".to_owned(), "–".to_owned()),
            };
            rows.push([
                run.method.clone(),
                attack.threat.clone(),
                format!("{} {}", attack.norm, attack.eps),
                percent(attack.clean),
                percent(attack.accuracy),
                certified,
                estimated,
            ]);
        }
    }
    table(&["method", "threat", "budget", "clean", "attacked", "certified", "estimated"], &rows, 3)
}

/// Accuracies with modalities missing, and of each modality's own head.
pub fn modality_table(runs: &[&Summary]) -> String {
    let mut rows = vec![];
    for run in runs {
        rows.push([run.method.clone(), "all present".into(), percent(run.accuracy.clean)]);
        let missing = run.accuracy.missing.iter().map(|(m, a)| (format!("without {m}"), a));
        let solo = run.accuracy.solo.iter().map(|(m, a)| (format!("{m}'s own head"), a));
        rows.extend(missing.chain(solo).map(|(what, a)| [run.method.clone(), what, percent(*a)]));
    }
    table(&["method", "modalities", "accuracy"], &rows, 2)
}

fn percent(fraction: f64) -> String {
    format!("{:.1} %", 100.0 * fraction)
}

/// Aligned text; columns from `numbers` on are right-aligned. A repeated first cell is left out.
fn table<const N: usize>(header: &[&str; N], rows: &[[String; N]], numbers: usize) -> String {
    let width = |column: usize| {
        let cells = rows.iter().map(|row| row[column].chars().count());
        cells.chain([header[column].chars().count()]).max().unwrap_or(0)
    };
    let widths: Vec<_> = (0..N).map(width).collect();
    let mut text = String::new();
    let mut line = |cells: [&str; N]| {
        for (column, cell) in cells.iter().enumerate() {
            let pad = widths[column] - cell.chars().count();
            let (left, right) = if column < numbers { (0, pad) } else { (pad, 0) };
            let _ = write!(text, "{}{:left$}{cell}{:right$}", if column == 0 { "  " } else { "   " }, "", "");
        }
        let end = text.trim_end().len();
        text.truncate(end);
        text.push('\n');
    };
    line(*header);
    let mut last = "";
    for row in rows {
        let mut cells = row.each_ref().map(String::as_str);
        let first = cells[0];
        if first == last {
            cells[0] = "";
        }
        last = first;
        line(cells);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_align_and_do_not_repeat_the_method() {
        let rows = [["jt".into(), "9.0 %".into()], ["jt".into(), "10.0 %".into()], ["at".into(), "–".into()]];
        let text = table(&["method", "clean"], &rows, 1);
        assert_eq!(text, "  method    clean\n  jt        9.0 %\n           10.0 %\n  at            –\n");
    }
}
