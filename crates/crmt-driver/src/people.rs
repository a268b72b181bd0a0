//! What people see while they wait and when it is done: progress, and the sandwich table.
//! Does not compute anything.
use crate::{
    drawn,
    record::{CertifiedResult, SmoothedAttack, SmoothedResult, SmoothingResult, Summary, mean_accuracy},
};
use anyhow::{Context, Result};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::{
    cell::Cell,
    fmt::Write as _,
    io::{ErrorKind, IsTerminal, Write as _},
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
        Self { quiet, bars: !quiet && std::io::stderr().is_terminal() }
    }

    /// One line.
    pub fn say(&self, line: impl AsRef<str>) {
        if !self.quiet {
            eprintln!("{}", line.as_ref());
        }
    }

    /// A bar with rate and time left on a terminal; otherwise a line every ten seconds.
    pub fn stage(&self, what: &str, steps: u64) -> Stage {
        let bar = self.bars.then(|| self.bar(what, steps));
        let now = Instant::now();
        let clock = Cell::new(Clock { done: 0, told: now });
        Stage { voice: *self, bar, what: what.to_owned(), steps, start: now, clock }
    }

    fn bar(&self, what: &str, steps: u64) -> ProgressBar {
        let target = ProgressDrawTarget::stderr_with_hz(8);
        let style = "  {msg:24} {bar:30} {pos}/{len}  {per_sec}  {eta} left";
        let style = ProgressStyle::with_template(style).expect("a valid template").progress_chars("━╸─");
        let bar = ProgressBar::with_draw_target(Some(steps), target).with_style(style).with_message(what.to_owned());
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
            self.voice.say(format!("  {} {}/{}, about {left:.0} s left", self.what, clock.done, self.steps));
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
            Some(bar) => bar.println(line),
            None => self.voice.say(line),
        }
        self.clock.set(Clock { told: Instant::now(), ..self.clock.get() });
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        match &self.bar {
            Some(bar) => bar.finish_and_clear(),
            None if self.start.elapsed() >= PATIENCE => {
                self.voice.say(format!("  {}: {:.0} s", self.what, self.start.elapsed().as_secs_f64()));
            }
            None => {}
        }
    }
}

/// Prints a result to stdout. Whoever closed the other end has read enough.
pub fn print(text: &str) -> Result<()> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(e) if e.kind() != ErrorKind::BrokenPipe => Err(e).context("can't write to standard output"),
        _ => Ok(()),
    }
}

/// The sandwich of several runs: clean ≥ strongest attack ≥ certified or estimated, on the same samples.
pub fn sandwich(runs: &[&Summary]) -> String {
    let mut rows = vec![];
    for run in runs {
        for attack in run.attacks.iter().filter(|a| a.name == "strongest") {
            // Radii are l2.
            let lower =
                run.certified.iter().find(|c| attack.norm == "l2" && c.threat == attack.threat && c.eps == attack.eps);
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
    let attacked = |run: &Summary| {
        let samples = run.attacks.first()?.samples;
        let of = drawn::told(samples, run.accuracy.samples, run.drawn.contains_key("evaluate"));
        Some(format!("  {}: of {of}\n", run.method))
    };
    let words: String = runs.iter().filter_map(|run| attacked(run)).collect();
    let header = ["method", "threat", "budget", "clean", "attacked", "certified", "estimated"];
    format!("{}{words}", table(&header, &rows, 3))
}

/// What each attack left standing, and how near the nearest adversarials are; nothing unless there were several.
pub fn attacks(runs: &[&Summary]) -> Option<String> {
    let (mut rows, mut nearest) = (vec![], vec![]);
    for run in runs {
        for series in run.attacks.chunk_by(|a, b| (&a.threat, &a.norm) == (&b.threat, &b.norm)) {
            let mut names: Vec<&str> = vec![];
            series.iter().for_each(|a| names.extend(Some(a.name.as_str()).filter(|name| !names.contains(name))));
            for name in names {
                let own = || series.iter().filter(|a| a.name == name);
                let budgets = own().map(|a| a.eps.to_string()).collect::<Vec<_>>().join(" / ");
                let left = own().map(|a| format!("{:.1}", 100.0 * a.accuracy)).collect::<Vec<_>>().join(" / ");
                let threat = format!("{}, {} {budgets}", series[0].threat, series[0].norm);
                rows.push([run.method.clone(), threat, name.to_owned(), left]);
            }
        }
        for n in &run.nearest {
            let split: Vec<String> =
                n.split.iter().map(|(name, share)| format!("{name} {}", percent(*share))).collect();
            let median = n.median.map_or_else(|| "–".into(), |d| format!("{d:.3}"));
            let found = format!("{} of {}", n.found, n.samples);
            nearest.push([run.method.clone(), format!("{}, {}", n.threat, n.norm), split.join(", "), found, median]);
        }
    }
    let several =
        runs.iter().any(|run| run.attacks.iter().any(|a| !["fgm", "pgd", "strongest"].contains(&a.name.as_str())));
    several.then(|| {
        let attacks = table(&["method", "threat and budgets", "attack", "% standing"], &rows, 3);
        let header = ["method", "nearest adversarial", "split", "found", "median distance"];
        format!("{attacks}\n{}", table(&header, &nearest, 3))
    })
}

/// Accuracies with modalities missing, and of each modality's own head.
pub fn modality_table(runs: &[&Summary]) -> String {
    let mut rows = vec![];
    for run in runs {
        rows.push([run.method.clone(), "all present".into(), percent(run.accuracy.clean)]);
        // Every subset is in the summary; of many modalities only single ones are shown.
        let few = run.modalities.len() <= 3;
        let shown = |m: &str| few || !m.contains('+');
        let missing = run.accuracy.missing.iter().filter(|(m, _)| shown(m)).map(|(m, a)| (format!("without {m}"), a));
        let solo = run.accuracy.solo.iter().map(|(m, a)| (format!("{m}'s own head"), a));
        rows.extend(missing.chain(solo).map(|(what, a)| [run.method.clone(), what, percent(*a)]));
    }
    table(&["method", "modalities", "accuracy"], &rows, 2)
}

/// Accuracies without each set of modalities by what stood in for it; nothing unless others than the declared ones were
/// evaluated.
pub fn baselines(runs: &[&Summary]) -> Option<String> {
    let mut rows = vec![];
    for run in runs.iter().filter(|run| !run.accuracy.missing_by_baseline.is_empty()) {
        for (missing, declared) in &run.accuracy.missing {
            let by = |baseline: &str| {
                let known = run.accuracy.missing_by_baseline.get(baseline).and_then(|table| table.get(missing));
                known.map_or_else(|| "–".into(), |a| percent(*a))
            };
            let [zeros, mean, learned] = ["zeros", "mean", "learned"].map(by);
            rows.push([run.method.clone(), format!("without {missing}"), percent(*declared), zeros, mean, learned]);
        }
    }
    let header = ["method", "in its place:", "declared", "zeros", "mean", "learned"];
    (!rows.is_empty()).then(|| table(&header, &rows, 2))
}

/// What attacks strictly inside the certificates did.
pub fn falsification(run: &Summary) -> String {
    let proved = run.falsification.iter().all(|f| f.evidence != "estimated");
    let row = |f: &crate::record::Falsification| {
        let tight = match f.tightness_samples {
            0 => ["–".into(), "–".into()],
            _ => [format!("{:.2}", f.tightness_mean), format!("{:.2}", f.tightness_max)],
        };
        let [mean, max] = tight;
        let attacked = f.samples.to_string();
        [f.certificate.clone(), attacked, f.violations.to_string(), format!("{:.3}", f.mean_radius), mean, max]
    };
    let rows: Vec<_> = run.falsification.iter().map(row).collect();
    let fell = if proved { "violations" } else { "disproved" };
    table(&["attacked inside", "samples", fell, "mean radius", "tightness, mean", "max"], &rows, 1)
}

/// Accuracy by corruption and severity; nothing unless one was measured.
pub fn corruptions(runs: &[&Summary]) -> Option<String> {
    let mut rows = vec![];
    for run in runs {
        for series in run.corruptions.chunk_by(|a, b| (&a.modality, &a.name) == (&b.modality, &b.name)) {
            let at =
                |severity| series.iter().find(|r| r.severity == severity).map_or("–".into(), |r| percent(r.accuracy));
            let (first, mean) = (&series[0], percent(mean_accuracy(series)));
            let name = format!("{} of {}", first.name, first.modality);
            rows.push([run.method.clone(), name, percent(first.clean), at(1), at(2), at(3), at(4), at(5), mean]);
        }
    }
    let header = ["method", "corruption, severity", "clean", "1", "2", "3", "4", "5", "mean"];
    (!rows.is_empty()).then(|| table(&header, &rows, 2))
}

/// Certified accuracy of the smoothed networks, by threat and budget; nothing unless one was smoothed.
pub fn smoothed(runs: &[&Summary]) -> Option<String> {
    let mut rows = vec![];
    let mut words = vec![];
    for (run, smoothing) in runs.iter().filter_map(|run| Some((run, run.smoothing.as_ref()?))) {
        let sigmas = run.modalities.iter().filter_map(|m| Some(format!("{m} {}", smoothing.sigmas.get(m)?)));
        words.push(format!(
            "  {}: noise of sigma {}; {} + {} draws; each certificate holds with confidence {} %\n  of {}\n",
            run.method,
            sigmas.collect::<Vec<_>>().join(", "),
            smoothing.selection_draws,
            smoothing.draws,
            confidence(smoothing.alpha_each),
            drawn::told(smoothing.samples, run.accuracy.samples, run.drawn.contains_key("smooth")),
        ));
        let fell: u64 = smoothing.attacks.iter().map(|a| a.fell).sum();
        if let Some(attack) = smoothing.attacks.first() {
            let inside: u64 = smoothing.attacks.iter().map(|a| a.inside).sum();
            words.push(format!(
                "  attacked through the noise, judged by {} fresh draws: {fell} of {inside} fell inside their certificates\n",
                attack.draws,
            ));
        }
        if let Some(judged) = &smoothing.judged {
            words.push(format!(
                "  {} of {} attacked samples fell, {} chance alone ({:.2} % each at most)\n",
                judged.fell,
                judged.samples,
                if judged.violations > 0 { "beyond" } else { "within" },
                100.0 * judged.chance,
            ));
        }
        for classifier in &smoothing.classifiers {
            for certified in &classifier.certified {
                rows.push([
                    run.method.clone(),
                    match classifier.missing.as_str() {
                        "" => "all present".into(),
                        missing => format!("without {missing}"),
                    },
                    certified.threat.clone(),
                    format!("l2 {}", certified.eps),
                    percent(classifier.accuracy),
                    percent(classifier.abstained),
                    attacked(smoothing, classifier, certified).map_or_else(|| "–".into(), percent),
                    percent(certified.accuracy),
                ]);
            }
        }
    }
    let header = ["method", "modalities", "threat", "budget", "right", "abstained", "attacked", "certified"];
    let title = "The smoothed network g(x) = argmax P[f(x + noise)], not f itself:\n";
    (!rows.is_empty()).then(|| format!("{title}{}\n{}", words.concat(), table(&header, &rows, 3)))
}

/// What stood under the attack that `certified` is about; only the classifier with every modality was attacked.
fn attacked(of: &SmoothingResult, classifier: &SmoothedResult, certified: &CertifiedResult) -> Option<f64> {
    let same = |a: &&SmoothedAttack| a.threat == certified.threat && a.eps == certified.eps;
    of.attacks.iter().find(same).filter(|_| classifier.missing.is_empty()).map(|a| a.accuracy)
}

/// `1 - alpha` in percent, never rounded up: 99.9, 99.966.
pub fn confidence(alpha: f64) -> String {
    // Two digits of alpha tell it apart; a thousandth of a unit absorbs how a decimal is stored.
    let digits = (1.0 - (100.0 * alpha).log10().floor()).clamp(0.0, 12.0) as i32;
    let unit = 10f64.powi(digits);
    format!("{}", ((100.0 - 100.0 * alpha) * unit + 1e-3).floor() / unit)
}

fn percent(fraction: f64) -> String {
    format!("{:.1} %", 100.0 * fraction)
}

/// Aligned text; columns from `numbers` on are right-aligned. A repeated first cell is left out.
pub fn table(header: &[&str], rows: &[impl AsRef<[String]>], numbers: usize) -> String {
    let width = |column: usize| {
        let cells = rows.iter().map(|row| row.as_ref()[column].chars().count());
        cells.chain([header[column].chars().count()]).max().unwrap_or(0)
    };
    let widths: Vec<_> = (0..header.len()).map(width).collect();
    let mut text = String::new();
    let mut line = |cells: &[&str]| {
        for (column, cell) in cells.iter().enumerate() {
            let pad = widths[column] - cell.chars().count();
            let (left, right) = if column < numbers { (0, pad) } else { (pad, 0) };
            let _ = write!(text, "{}{:left$}{cell}{:right$}", if column == 0 { "  " } else { "   " }, "", "");
        }
        let end = text.trim_end().len();
        text.truncate(end);
        text.push('\n');
    };
    line(header);
    let mut last = "";
    for row in rows {
        let mut cells: Vec<&str> = row.as_ref().iter().map(String::as_str).collect();
        let first = cells[0];
        if first == last {
            cells[0] = "";
        }
        last = first;
        line(&cells);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::AttackResult;

    #[test]
    fn an_l2_radius_says_nothing_of_an_linf_attack() {
        let mut run = Summary::default();
        for norm in ["l2", "linf"] {
            run.attacks.push(AttackResult {
                name: "strongest".into(),
                threat: "pix".into(),
                norm: norm.into(),
                eps: 1.0,
                accuracy: 0.6,
                clean: 1.0,
                samples: 10,
            });
        }
        run.certified.push(CertifiedResult {
            threat: "pix".into(),
            eps: 1.0,
            accuracy: 0.5,
            evidence: "proved".into(),
            samples: 10,
            attacked_samples: Some(0.5),
        });
        let text = sandwich(&[&run]);
        let line = |norm: &str| text.lines().find(|l| l.contains(norm)).unwrap().to_owned();
        assert!(line("l2 1").contains("50.0 %") && !line("linf 1").contains("50.0 %"), "{text}");
    }

    #[test]
    fn confidence_is_never_rounded_up() {
        let told = [0.001, 0.001 / 3.0, 0.05, 0.5, 1e-6].map(confidence);
        assert_eq!(told, ["99.9", "99.966", "95", "50", "99.9999"]);
    }

    #[test]
    fn tables_align_and_do_not_repeat_the_method() {
        let rows = [["jt", "9.0 %"], ["jt", "10.0 %"], ["at", "–"]].map(|row| row.map(str::to_owned));
        let text = table(&["method", "clean"], &rows, 1);
        assert_eq!(text, "  method    clean\n  jt        9.0 %\n           10.0 %\n  at            –\n");
    }
}
