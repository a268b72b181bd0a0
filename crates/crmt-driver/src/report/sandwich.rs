//! The sandwich as HTML: at every budget clean ≥ strongest attack ≥ certified, as tables and as
//! curves. Knows no attack and no certificate, only their results; what is estimated is never
//! called certified.
use super::families::{Family, Spread, families, spread, spread_of_steps};
use super::figures::Gallery;
use super::html::{budget, count, escape, figure, group, listed, percent, section, table};
use super::plot::{Axis, Plot};
use super::run_record::{RunRecord, summaries};
use crate::sample_row::SampleRow;
use crate::sandwich::{Cell, Threat, budgets, cells, evidence, program, same_budget, sides};

const SIZE: (f64, f64) = (340.0, 230.0);
/// Classes of series in the style sheet.
const COLOURS: usize = 6;
/// The charts of more runs than these are folded away.
const MANY: usize = 4;
/// Classes of lines, and what they are.
const KINDS: [(&str, &str); 4] = [
    ("clean", "clean"),
    ("attacked", "strongest attack"),
    ("certified", "certified, filled"),
    ("estimated", "estimated, dashed"),
];

/// As HTML: what the attacker may do.
pub fn threat_title(threat: &Threat) -> String {
    let norm = match threat.norm.as_str() {
        "l2" => "ℓ<sub>2</sub>".into(),
        "linf" => "ℓ<sub>∞</sub>".into(),
        other => escape(other),
    };
    let (name, instead) = match threat.name.split_once('@') {
        Some((name, baseline)) => (name, format!(" ({} baseline)", escape(baseline))),
        None => (threat.name.as_str(), String::new()),
    };
    match name {
        "joint" => format!("All modalities, one joint {norm} budget"),
        "each" => format!("All modalities, an {norm} budget each"),
        "any-missing" => {
            format!("Any one modality missing{instead}, one joint {norm} budget on the others")
        }
        name => match name.strip_prefix("without-") {
            Some(missing) => {
                let missing = listed(&missing.split('+').map(escape).collect::<Vec<_>>());
                format!("{missing} missing{instead}, one joint {norm} budget on the others")
            }
            None => format!("Only {} attacked, {norm}", escape(name)),
        },
    }
}

/// The tables, one per threat.
pub fn tables(runs: &[RunRecord]) -> String {
    let (attacked, claimed) = sides(&summaries(runs));
    let tables: String = attacked
        .iter()
        .map(|threat| threat_table(runs, threat))
        .collect();
    let tables = if tables.is_empty() {
        tables
    } else {
        format!("<div class=\"row\">{tables}</div>\n")
    };
    let told = |run: &RunRecord| {
        let program = program(&run.summary)?;
        Some(format!(
            "<p class=\"fine\"><b>{}</b>: {}.</p>\n",
            escape(&run.title),
            escape(&program)
        ))
    };
    let tables =
        tables + &claims_table(runs, &claimed) + &runs.iter().filter_map(told).collect::<String>();
    section(
        "The sandwich",
        "Accuracy in % on the same samples, from the mildest question to the hardest. \
         <b>Clean</b>: right without an attacker. <b>Attacked</b>: still right against the strongest attack we ran; \
         a better attack could lower it. <b class=\"certified\">Certified</b>: proved right against every perturbation \
         of that size, known or not. <i class=\"estimated\">Estimated</i> radii are guesses from sampled gradients, \
         shown for comparison and never a guarantee.",
        &tables,
    )
}

fn threat_table(runs: &[RunRecord], threat: &Threat) -> String {
    let rows: Vec<(&RunRecord, Vec<Cell>)> = runs
        .iter()
        .map(|run| (run, cells(&run.summary, threat)))
        .collect();
    let budgets = budgets(
        rows.iter()
            .flat_map(|(_, cells)| cells.iter().map(|c| c.eps)),
    );
    let head: String = budgets
        .iter()
        .map(|e| format!("<th scope=\"col\">{}</th>", budget(*e)))
        .collect();
    let bodies: String = rows
        .iter()
        .filter(|(_, cells)| !cells.is_empty())
        .map(|(run, cells)| body(run, cells, &budgets))
        .collect();
    let head = format!("<th scope=\"col\">% at ε =</th>{head}");
    table(
        "sandwich",
        &format!("<b>{}</b>", threat_title(threat)),
        &head,
        &bodies,
    )
}

/// What is claimed under threats that nobody tested with attacks at fixed budgets, one row each.
fn claims_table(runs: &[RunRecord], threats: &[Threat]) -> String {
    let all = || {
        runs.iter().flat_map(|run| {
            threats
                .iter()
                .map(move |threat| (run, threat, cells(&run.summary, threat)))
        })
    };
    let budgets = budgets(all().flat_map(|(_, _, cells)| cells.into_iter().map(|c| c.eps)));
    let rows = |run: &RunRecord| -> String {
        let own = all().filter(|(r, _, cells)| std::ptr::eq(*r, run) && !cells.is_empty());
        own.map(|(_, threat, cells)| {
            let columns: String = budgets
                .iter()
                .map(|eps| {
                    let claim = cells
                        .iter()
                        .find(|c| same_budget(c.eps, *eps))
                        .and_then(|c| Some((c, c.claims.first()?)));
                    match claim {
                        None => "<td>–</td>".into(),
                        Some((cell, (kind, value))) => number(evidence(kind).1, *value, cell),
                    }
                })
                .collect();
            format!(
                "<tr><th scope=\"row\">{}</th>{columns}</tr>",
                threat_title(threat)
            )
        })
        .collect()
    };
    let bodies: String = runs
        .iter()
        .map(|run| (run, rows(run)))
        .filter(|(_, rows)| !rows.is_empty())
        .map(|(run, rows)| group(&escape(&run.title), budgets.len() + 1, &rows))
        .collect();
    if bodies.is_empty() {
        return bodies;
    }
    let head: String = budgets
        .iter()
        .map(|e| format!("<th scope=\"col\">{}</th>", budget(*e)))
        .collect();
    let head = format!("<th scope=\"col\">% of all report samples at ε =</th>{head}");
    let word = match (
        bodies.contains("bar certified"),
        bodies.contains("bar estimated"),
    ) {
        (true, true) => "Certified (upright) or only estimated (in italics)",
        (true, false) => "Certified",
        _ => "Estimated",
    };
    format!(
        "<div class=\"row\">{}</div>\n",
        table(
            "sandwich",
            &format!("<b>{word} under further threats</b>"),
            &head,
            &bodies
        )
    )
}

fn body(run: &RunRecord, cells: &[Cell], budgets: &[f64]) -> String {
    let row = |class: &str, word: &str, value: &dyn Fn(&Cell) -> Option<f64>| {
        let columns: String = budgets
            .iter()
            .map(|eps| {
                let cell = cells.iter().find(|c| same_budget(c.eps, *eps));
                match cell.and_then(|c| value(c).map(|v| (c, v))) {
                    None => "<td>–</td>".into(),
                    Some((cell, v)) => number(class, v, cell),
                }
            })
            .collect();
        format!("<tr><th scope=\"row\" class=\"{class}\">{word}</th>{columns}</tr>")
    };
    let mut kinds: Vec<&str> = Vec::new();
    for (kind, _) in cells.iter().flat_map(|c| &c.claims) {
        if !kinds.contains(&kind.as_str()) {
            kinds.push(kind);
        }
    }
    let mut layers = vec![row("clean", "clean", &|c| Some(c.clean))];
    if cells.iter().any(|c| c.attacked.is_some()) {
        layers.push(row("attacked", "attacked", &|c| c.attacked));
    }
    layers.extend(kinds.iter().map(|kind| {
        let (word, class) = evidence(kind);
        row(class, word, &|c| {
            c.claims.iter().find(|(k, _)| k == kind).map(|(_, v)| *v)
        })
    }));
    let samples = cells.iter().map(|c| c.samples).max().unwrap_or(0);
    let elsewhere = if cells.iter().all(|c| c.same) {
        String::new()
    } else {
        format!(", radii on all {}", count(run.summary.accuracy.samples))
    };
    let heading = format!(
        "{} <small>{} samples{elsewhere}</small>",
        escape(&run.title),
        count(samples)
    );
    group(&heading, budgets.len() + 1, &layers.concat())
}

fn number(class: &str, value: f64, cell: &Cell) -> String {
    let share = if value.is_finite() {
        value.clamp(0.0, 1.0)
    } else {
        0.0
    };
    let (mark, tag) = match (
        matches!(class, "certified" | "estimated") && cell.beats(value),
        class,
    ) {
        (false, _) => ("", ""),
        (true, "certified") => (" broken", "<small>broken</small>"),
        (true, _) => (" broken", "<small>disproved</small>"),
    };
    format!(
        "<td class=\"bar {class}{mark}\" style=\"--v:{share:.3}\">{}{tag}</td>",
        percent(value)
    )
}

/// The curves: all runs side by side, then one row of charts per run, one chart per threat, equal
/// axes under equal norms.
pub fn curves(runs: &[RunRecord], gallery: &Gallery) -> String {
    let (threats, _) = sides(&summaries(runs));
    let charts = |run: &RunRecord| -> String {
        let shown = threats
            .iter()
            .filter(|threat| !cells(&run.summary, threat).is_empty());
        let chart = |threat| {
            figure(
                &threat_title(threat),
                &gallery.hang(chart(run, threat, reach(runs, &threats, threat))),
            )
        };
        match shown.map(chart).collect::<String>() {
            charts if charts.is_empty() => charts,
            charts => format!(
                "<h4>{}</h4>\n<div class=\"grid\">{charts}</div>\n",
                escape(&run.title)
            ),
        }
    };
    let compared = side_by_side(runs, &threats, gallery);
    let content: String = runs.iter().map(charts).collect();
    let key: String = KINDS
        .iter()
        .filter(|(class, _)| content.contains(&format!("class=\"line {class}\"")))
        .map(|(class, text)| format!("<span><span class=\"swatch {class}\"></span>{text}</span> "))
        .collect();
    let truth = match content.contains("line certified") {
        true => {
            "lies between the attacked line and the certified region; the narrower the gap, the more is known."
        }
        false => "lies somewhere below the attacked line; nothing here says how far.",
    };
    let content = match (content.is_empty(), compared.is_empty()) {
        (true, _) => content,
        (_, true) => format!("<p class=\"key\">{key}</p>\n{content}"),
        // Many rows of charts hide what is beside them.
        _ if runs.len() > MANY => {
            format!(
                "{compared}<details><summary>Run by run</summary><p class=\"key\">{key}</p>\n{content}</details>\n"
            )
        }
        _ => format!("{compared}<h3>Run by run</h3>\n<p class=\"key\">{key}</p>\n{content}"),
    };
    let lead = "How fast accuracy falls as the attacker's budget ε grows. What the best possible attack would leave";
    section(
        "Accuracy against the budget",
        &format!("{lead} {truth}"),
        &content,
    )
}

/// The end of the axis: the greatest budget of any run under this norm.
fn reach(runs: &[RunRecord], threats: &[Threat], threat: &Threat) -> f64 {
    let alike = threats.iter().filter(|t| t.norm == threat.norm);
    let cells = alike.flat_map(|t| runs.iter().flat_map(move |r| cells(&r.summary, t)));
    1.05 * cells
        .map(|c| c.eps)
        .filter(|eps| eps.is_finite())
        .fold(0.0, f64::max)
}

/// All runs in one chart for each threat; those that differ in their seed alone as one mean with a
/// band. Nothing unless there is something to compare.
fn side_by_side(runs: &[RunRecord], threats: &[Threat], gallery: &Gallery) -> String {
    let families = families(runs);
    let reach = |threat| reach(runs, threats, threat);
    let attacked = threats
        .iter()
        .filter_map(|threat| Some((threat, attacked_together(&families, threat, reach(threat))?)));
    let attacked: String = attacked
        .map(|(threat, plot)| figure(&threat_title(threat), &gallery.hang(plot)))
        .collect();
    let claimed = threats.iter().filter(|threat| threat.has_claims());
    let claimed = claimed
        .filter_map(|threat| Some((threat, claimed_together(&families, threat, reach(threat))?)));
    let claimed: String = claimed
        .map(|(threat, plot)| figure(&threat_title(threat), &gallery.hang(plot)))
        .collect();
    let key: String = families
        .iter()
        .enumerate()
        .map(|(i, f)| {
            format!(
                "<span><span class=\"swatch s{}\"></span>{}</span> ",
                i % COLOURS,
                escape(&f.told())
            )
        })
        .collect();
    let part = |title: &str, charts: String| match charts.is_empty() {
        true => charts,
        false => format!(
            "<h3>{title}</h3>\n<p class=\"key\">{key}</p>\n<div class=\"grid\">{charts}</div>\n"
        ),
    };
    let drawn =
        |end: &str| (0..COLOURS).any(|i| claimed.contains(&format!("class=\"line s{i}{end}\"")));
    let word = match (drawn(""), drawn(" dashed")) {
        (false, _) => "what is estimated",
        (true, true) => "what is certified (solid) and what is only estimated (dashed)",
        (true, false) => "what is certified",
    };
    part("Side by side, under the strongest attack", attacked)
        + &part(&format!("Side by side, {word}"), claimed)
}

/// Mean lines with bands, `(class, name, spread)`, in one chart; nothing unless there is something
/// to compare.
fn together(
    title: &str,
    lines: Vec<(String, String, Vec<Spread>)>,
    reach: f64,
    marks: bool,
) -> Option<Plot> {
    let lines: Vec<_> = lines
        .into_iter()
        .filter(|(.., spread)| spread.len() > 1)
        .collect();
    let has_band = |spread: &[Spread]| spread.iter().any(|(_, _, low, high)| low < high);
    if lines.len() < 2 && !lines.iter().any(|(.., spread)| has_band(spread)) {
        return None;
    }
    let mut plot = Plot::new(
        title,
        SIZE,
        Axis::plain(0.0, reach, "budget ε"),
        Axis::percent(0.0, 1.0, "accuracy, %"),
    );
    for (class, _, spread) in lines.iter().filter(|(.., spread)| has_band(spread)) {
        plot.band(
            &spread
                .iter()
                .map(|(x, _, low, high)| (*x, *low, *high))
                .collect::<Vec<_>>(),
            class,
        );
    }
    for (class, name, spread) in &lines {
        plot.line(
            &spread
                .iter()
                .map(|(x, mean, ..)| (*x, *mean))
                .collect::<Vec<_>>(),
            class,
            marks,
        );
        plot.explain(class, name);
    }
    Some(plot)
}

/// What stands under the strongest attack.
fn attacked_together(families: &[Family<'_>], threat: &Threat, reach: f64) -> Option<Plot> {
    let line = |(i, family): (usize, &Family<'_>)| {
        let curves: Vec<_> = family
            .runs
            .iter()
            .map(|run| attacked_curve(&cells(&run.summary, threat)))
            .collect();
        let curves = if curves.iter().all(|points| points.len() > 1) {
            curves
        } else {
            vec![]
        };
        (format!("s{}", i % COLOURS), family.told(), spread(&curves))
    };
    let title = format!(
        "Accuracy under the strongest attack, {} {}",
        threat.name, threat.norm
    );
    together(
        &title,
        families.iter().enumerate().map(line).collect(),
        reach,
        true,
    )
}

/// What is certified or estimated; runs of one family have one kind of evidence, or no line.
fn claimed_together(families: &[Family<'_>], threat: &Threat, reach: f64) -> Option<Plot> {
    let line = |(i, family): (usize, &Family<'_>)| {
        let curves: Vec<_> = family
            .runs
            .iter()
            .filter_map(|run| claimed_curve(run, &threat.name, reach))
            .collect();
        let evidence = curves.first()?.0;
        let whole =
            curves.len() == family.runs.len() && curves.iter().all(|(class, _)| *class == evidence);
        let (style, word) = if evidence == "certified" {
            ("", "certified")
        } else {
            (" dashed", "estimated")
        };
        let steps: Vec<_> = curves.into_iter().map(|(_, steps)| steps).collect();
        let name = format!("{}, {word}", family.told());
        whole.then(|| {
            (
                format!("s{}{style}", i % COLOURS),
                name,
                spread_of_steps(&steps),
            )
        })
    };
    let lines: Vec<_> = families.iter().enumerate().filter_map(line).collect();
    let dashed = lines
        .iter()
        .filter(|(class, ..)| class.ends_with("dashed"))
        .count();
    let what = match dashed {
        0 => "Certified accuracy",
        n if n == lines.len() => "Estimated accuracy",
        _ => "Certified or estimated accuracy",
    };
    together(
        &format!("{what}, {} {}", threat.name, threat.norm),
        lines,
        reach,
        false,
    )
}

/// From the clean accuracy at 0 on; one point when nothing was attacked.
fn attacked_curve(cells: &[Cell]) -> Vec<(f64, f64)> {
    let attacked = cells.iter().filter_map(|c| Some((c.eps, c.attacked?)));
    cells
        .first()
        .map(|c| (0.0, c.clean))
        .into_iter()
        .chain(attacked)
        .collect()
}

fn chart(run: &RunRecord, threat: &Threat, reach: f64) -> Plot {
    let cells = cells(&run.summary, threat);
    let label = format!(
        "Accuracy of {} against the budget, {} {}",
        run.title, threat.name, threat.norm
    );
    let mut plot = Plot::new(
        &label,
        SIZE,
        Axis::plain(0.0, reach, "budget ε"),
        Axis::percent(0.0, 1.0, "accuracy, %"),
    );
    let clean = cells
        .first()
        .map_or(run.summary.accuracy.clean, |c| c.clean);
    let mut drawn = vec!["clean"];
    if let (true, Some((class, steps))) =
        (threat.has_claims(), claimed_curve(run, &threat.name, reach))
    {
        if class == "certified" {
            plot.area(&steps, class);
        }
        plot.line(&steps, class, false);
        drawn.push(class);
    }
    plot.line(&[(0.0, clean), (reach, clean)], "clean", false);
    let attacked = attacked_curve(&cells);
    if attacked.len() > 1 {
        plot.line(&attacked, "attacked", true);
        drawn.push("attacked");
    }
    KINDS
        .iter()
        .filter(|(class, _)| drawn.contains(class))
        .for_each(|(class, text)| plot.explain(class, text));
    plot
}

/// The class of the claim and its step curve: at `x`, a fraction of samples whose radius is at
/// least `x`, never too high between the radii that are known. On the attacked samples where their
/// rows are given, else on the whole split.
fn claimed_curve(
    run: &RunRecord,
    threat: &str,
    reach: f64,
) -> Option<(&'static str, Vec<(f64, f64)>)> {
    let radii = run.summary.radii.iter().find(|r| r.threat == threat);
    let claim = run.summary.certified.iter().find(|c| c.threat == threat);
    let class = evidence(radii.map(|r| &r.evidence).or(claim.map(|c| &c.evidence))?).1;
    let known = match attacked_radii(run, threat) {
        Some(radii) => {
            let n = radii.len();
            let kept = (0..n).filter(|i| i % n.div_ceil(150) == 0 || *i == n - 1);
            kept.map(|i| (radii[i], (n - i) as f64 / n as f64))
                .collect()
        }
        None => {
            let quantiles = radii.map_or(&[][..], |r| &r.quantiles);
            let last = quantiles.len().saturating_sub(1).max(1) as f64;
            let grid = run
                .summary
                .certified
                .iter()
                .filter(|c| c.threat == threat)
                .map(|c| (c.eps, c.accuracy));
            quantiles
                .iter()
                .enumerate()
                .map(|(i, r)| (*r, 1.0 - i as f64 / last))
                .chain(grid)
                .collect()
        }
    };
    Some((class, steps(known, reach)))
}

/// From radii and the fraction of samples that have at least each, a curve that is never too high
/// in between.
pub fn steps(mut known: Vec<(f64, f64)>, reach: f64) -> Vec<(f64, f64)> {
    known.retain(|(r, f)| *r > 0.0 && f.is_finite());
    known.sort_by(|a, b| a.0.total_cmp(&b.0).then(b.1.total_cmp(&a.1)));
    let mut steps = Vec::new();
    let mut from = 0.0;
    for (radius, fraction) in known {
        steps.extend([(from, fraction), (radius.min(reach), fraction)]);
        from = radius.min(reach);
        if radius >= reach {
            return steps;
        }
    }
    steps.extend([(from, 0.0), (reach, 0.0)]);
    steps
}

/// Ascending radii of exactly the attacked samples, 0 where misclassified; `None` unless every one
/// is known.
fn attacked_radii(run: &RunRecord, threat: &str) -> Option<Vec<f64>> {
    let expected = run
        .summary
        .attacks
        .iter()
        .find(|a| a.threat == threat && a.norm == "l2")?
        .samples;
    let attacked = |s: &&SampleRow| s.outcomes.iter().any(|o| o.threat == threat);
    let radius = |s: &SampleRow| {
        let radius = s.radii.get(threat).copied()?;
        Some(if s.is_right() && !radius.is_nan() {
            radius
        } else {
            0.0
        })
    };
    let mut radii: Vec<f64> = run
        .samples
        .iter()
        .filter(attacked)
        .map(radius)
        .collect::<Option<_>>()?;
    radii.sort_by(f64::total_cmp);
    (expected > 0 && radii.len() as u64 == expected).then_some(radii)
}
