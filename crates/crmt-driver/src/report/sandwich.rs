//! The sandwich: at every budget clean ≥ strongest attack ≥ certified, as tables and as curves, on the same samples.
//! Knows no attack and no certificate, only their results; what is estimated is never called certified.
use super::html::{budget, count, escape, figure, group, listed, percent, section, table};
use super::plot::{Axis, Plot};
use super::{RunRecord, SampleRow};

const SIZE: (f64, f64) = (340.0, 230.0);

/// Whom the attacker may touch, and how the budget is measured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Threat {
    /// `joint`, `each` or a modality's name.
    pub name: String,
    /// `l2` or `linf`.
    pub norm: String,
}

impl Threat {
    /// As HTML: what the attacker may do.
    pub fn title(&self) -> String {
        let norm = match self.norm.as_str() {
            "l2" => "ℓ<sub>2</sub>".into(),
            "linf" => "ℓ<sub>∞</sub>".into(),
            other => escape(other),
        };
        let (name, instead) = match self.name.split_once('@') {
            Some((name, baseline)) => (name, format!(" ({} baseline)", escape(baseline))),
            None => (self.name.as_str(), String::new()),
        };
        match name {
            "joint" => format!("All modalities, one joint {norm} budget"),
            "each" => format!("All modalities, an {norm} budget each"),
            "any-missing" => format!("Any one modality missing{instead}, one joint {norm} budget on the others"),
            name => match name.strip_prefix("without-") {
                Some(missing) => {
                    let missing = listed(&missing.split('+').map(escape).collect::<Vec<_>>());
                    format!("{missing} missing{instead}, one joint {norm} budget on the others")
                }
                None => format!("Only {} attacked, {norm}", escape(name)),
            },
        }
    }

    /// Radii and certificates are about ℓ2 balls.
    fn has_claims(&self) -> bool {
        self.norm == "l2"
    }
}

/// Every threat that any run was attacked or certified under: joint first, then as met.
pub fn threats(runs: &[RunRecord]) -> Vec<Threat> {
    let mut out: Vec<Threat> = Vec::new();
    let attacked =
        |run: &RunRecord| run.summary.attacks.iter().map(|a| (a.threat.clone(), a.norm.clone())).collect::<Vec<_>>();
    let claimed =
        |run: &RunRecord| run.summary.certified.iter().map(|c| (c.threat.clone(), "l2".into())).collect::<Vec<_>>();
    for (name, norm) in runs.iter().flat_map(|run| [attacked(run), claimed(run)].concat()) {
        let threat = Threat { name, norm };
        if !out.contains(&threat) {
            out.push(threat);
        }
    }
    let order = |t: &Threat| (t.norm != "l2", t.name != "joint", t.name != "each");
    out.sort_by_key(order);
    out
}

/// Those of [`threats`] with both sides of the sandwich: attacked in some run; and the others, with claims only. The
/// joint threat is always of the first kind.
fn sides(runs: &[RunRecord]) -> (Vec<Threat>, Vec<Threat>) {
    let attacked = |threat: &Threat| {
        let mut attacks = runs.iter().flat_map(|run| &run.summary.attacks);
        threat.name == "joint" || attacks.any(|a| a.threat == threat.name && a.norm == threat.norm)
    };
    threats(runs).into_iter().partition(attacked)
}

/// The word for a piece of evidence and its CSS class; whatever is no known certificate is estimated.
pub fn evidence(evidence: &str) -> (&'static str, &'static str) {
    match evidence {
        "proved" => ("certified", "certified"),
        "confident" => ("certified with confidence", "certified"),
        _ => ("estimated", "estimated"),
    }
}

/// What is known of one run at one budget.
#[derive(Debug, Clone)]
pub struct Cell {
    /// The budget.
    pub eps: f64,
    /// Accuracy of the same samples without an attacker.
    pub clean: f64,
    /// Accuracy under the strongest attack.
    pub attacked: Option<f64>,
    /// Claims by evidence.
    pub claims: Vec<(String, f64)>,
    /// Number of samples behind it.
    pub samples: u64,
    /// The claims are about the attacked samples themselves.
    pub same: bool,
}

impl Cell {
    /// The part that a certificate covers.
    pub fn certified(&self) -> Option<f64> {
        self.claims.iter().find(|(e, _)| evidence(e).1 == "certified").map(|(_, v)| *v)
    }

    /// The attack left fewer of the same samples standing than the claim allows, so the claim is wrong.
    pub fn beats(&self, claim: f64) -> bool {
        // Both are counts over the same number of samples; the slack is for their division, far below one sample.
        self.same && self.attacked.is_some_and(|attacked| attacked < claim - 1e-9)
    }
}

/// Equal up to how a budget is written.
pub fn same_budget(a: f64, b: f64) -> bool {
    a == b || (a - b).abs() <= 1e-9 * a.abs().max(b.abs())
}

/// One cell per budget, ascending.
pub fn cells(run: &RunRecord, threat: &Threat) -> Vec<Cell> {
    let attacks: Vec<_> =
        run.summary.attacks.iter().filter(|a| a.threat == threat.name && a.norm == threat.norm).collect();
    let claims: Vec<_> =
        run.summary.certified.iter().filter(|c| threat.has_claims() && c.threat == threat.name).collect();
    let mut budgets: Vec<f64> = attacks.iter().map(|a| a.eps).chain(claims.iter().map(|c| c.eps)).collect();
    budgets.sort_by(f64::total_cmp);
    budgets.dedup_by(|a, b| same_budget(*a, *b));
    let cell = |eps| {
        let here = || attacks.iter().filter(|a| same_budget(a.eps, eps));
        let strongest =
            here().find(|a| a.name == "strongest").or_else(|| here().min_by(|a, b| a.accuracy.total_cmp(&b.accuracy)));
        let claims: Vec<_> = claims.iter().filter(|c| same_budget(c.eps, eps)).collect();
        let attacked_claim = |c: &crate::record::CertifiedResult| match strongest {
            Some(a) if a.samples != c.samples => c.attacked_samples,
            _ => Some(c.accuracy),
        };
        Cell {
            eps,
            clean: strongest.map_or(run.summary.accuracy.clean, |a| a.clean),
            attacked: strongest.map(|a| a.accuracy),
            same: claims.iter().all(|c| attacked_claim(c).is_some()),
            claims: claims.iter().map(|c| (c.evidence.clone(), attacked_claim(c).unwrap_or(c.accuracy))).collect(),
            samples: strongest.map_or(run.summary.accuracy.samples, |a| a.samples),
        }
    };
    budgets.into_iter().map(cell).collect()
}

/// The tables, one per threat.
pub fn tables(runs: &[RunRecord]) -> String {
    let (attacked, claimed) = sides(runs);
    let tables: String = attacked.iter().map(|threat| threat_table(runs, threat)).collect();
    let tables = if tables.is_empty() { tables } else { format!("<div class=\"row\">{tables}</div>\n") };
    let tables = tables + &claims_table(runs, &claimed);
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
    let rows: Vec<(&RunRecord, Vec<Cell>)> = runs.iter().map(|run| (run, cells(run, threat))).collect();
    let mut budgets: Vec<f64> = rows.iter().flat_map(|(_, cells)| cells.iter().map(|c| c.eps)).collect();
    budgets.sort_by(f64::total_cmp);
    budgets.dedup_by(|a, b| same_budget(*a, *b));
    let head: String = budgets.iter().map(|e| format!("<th scope=\"col\">{}</th>", budget(*e))).collect();
    let bodies: String =
        rows.iter().filter(|(_, cells)| !cells.is_empty()).map(|(run, cells)| body(run, cells, &budgets)).collect();
    let head = format!("<th scope=\"col\">% at ε =</th>{head}");
    table("sandwich", &format!("<b>{}</b>", threat.title()), &head, &bodies)
}

/// What is claimed under threats that nobody tested with attacks at fixed budgets, one row each.
fn claims_table(runs: &[RunRecord], threats: &[Threat]) -> String {
    let all = || runs.iter().flat_map(|run| threats.iter().map(move |threat| (run, threat, cells(run, threat))));
    let mut budgets: Vec<f64> = all().flat_map(|(_, _, cells)| cells.into_iter().map(|c| c.eps)).collect();
    budgets.sort_by(f64::total_cmp);
    budgets.dedup_by(|a, b| same_budget(*a, *b));
    let rows = |run: &RunRecord| -> String {
        let own = all().filter(|(r, _, cells)| std::ptr::eq(*r, run) && !cells.is_empty());
        own.map(|(_, threat, cells)| {
            let columns: String = budgets
                .iter()
                .map(|eps| {
                    let claim =
                        cells.iter().find(|c| same_budget(c.eps, *eps)).and_then(|c| Some((c, c.claims.first()?)));
                    match claim {
                        None => "<td>–</td>".into(),
                        Some((cell, (kind, value))) => number(evidence(kind).1, *value, cell),
                    }
                })
                .collect();
            format!("<tr><th scope=\"row\">{}</th>{columns}</tr>", threat.title())
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
    let head: String = budgets.iter().map(|e| format!("<th scope=\"col\">{}</th>", budget(*e))).collect();
    let head = format!("<th scope=\"col\">% of all report samples at ε =</th>{head}");
    format!(
        "<div class=\"row\">{}</div>\n",
        table("sandwich", "<b>Certified under further threats</b>", &head, &bodies)
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
        row(class, word, &|c| c.claims.iter().find(|(k, _)| k == kind).map(|(_, v)| *v))
    }));
    let samples = cells.iter().map(|c| c.samples).max().unwrap_or(0);
    let elsewhere = if cells.iter().all(|c| c.same) {
        String::new()
    } else {
        format!(", radii on all {}", count(run.summary.accuracy.samples))
    };
    let heading = format!("{} <small>{} samples{elsewhere}</small>", escape(&run.title), count(samples));
    group(&heading, budgets.len() + 1, &layers.concat())
}

fn number(class: &str, value: f64, cell: &Cell) -> String {
    let share = if value.is_finite() { value.clamp(0.0, 1.0) } else { 0.0 };
    let (mark, tag) = match (matches!(class, "certified" | "estimated") && cell.beats(value), class) {
        (false, _) => ("", ""),
        (true, "certified") => (" broken", "<small>broken</small>"),
        (true, _) => (" broken", "<small>disproved</small>"),
    };
    format!("<td class=\"bar {class}{mark}\" style=\"--v:{share:.3}\">{}{tag}</td>", percent(value))
}

/// The curves: one row of charts per run, one chart per threat, equal axes under equal norms.
pub fn curves(runs: &[RunRecord]) -> String {
    let (threats, _) = sides(runs);
    let mut content = String::new();
    let titles: String = runs
        .iter()
        .enumerate()
        .map(|(i, run)| format!("<span><span class=\"swatch s{}\"></span>{}</span> ", i % 6, escape(&run.title)))
        .collect();
    for run in runs {
        let charts: String = threats
            .iter()
            .filter(|threat| !cells(run, threat).is_empty())
            .map(|threat| {
                let reach = threats
                    .iter()
                    .filter(|t| t.norm == threat.norm)
                    .flat_map(|t| runs.iter().flat_map(move |r| cells(r, t)))
                    .fold(0.0, |m: f64, c| m.max(c.eps));
                figure(&threat.title(), &chart(run, threat, reach * 1.05))
            })
            .collect();
        if !charts.is_empty() {
            content.push_str(&format!("<h4>{}</h4>\n<div class=\"grid\">{charts}</div>\n", escape(&run.title)));
        }
    }
    let kinds = [
        ("clean", "clean"),
        ("attacked", "strongest attack"),
        ("certified", "certified, filled"),
        ("estimated", "estimated, dashed"),
    ];
    let key: String = kinds
        .iter()
        .filter(|(class, _)| content.contains(&format!("class=\"line {class}\"")))
        .map(|(class, text)| format!("<span><span class=\"swatch {class}\"></span>{text}</span> "))
        .collect();
    if !content.is_empty() {
        let compared: String = threats.iter().map(|threat| compared(runs, threat)).collect();
        let compared = match compared.is_empty() {
            true => compared,
            false => format!(
                "<h3>Side by side, under the strongest attack</h3>\n<p class=\"key\">{titles}</p>\n\
                 <div class=\"grid\">{compared}</div>\n<h3>Run by run</h3>\n"
            ),
        };
        content = format!("{compared}<p class=\"key\">{key}</p>\n{content}");
    }
    let truth = match content.contains("line certified") {
        true => "lies between the attacked line and the certified region; the narrower the gap, the more is known.",
        false => "lies somewhere below the attacked line; nothing here says how far.",
    };
    let lead = "How fast accuracy falls as the attacker's budget ε grows. What the best possible attack would leave";
    section("Accuracy against the budget", &format!("{lead} {truth}"), &content)
}

/// All runs in one chart: what stands under the strongest attack; nothing unless there are two.
fn compared(runs: &[RunRecord], threat: &Threat) -> String {
    let lines: Vec<(String, Vec<(f64, f64)>)> = runs
        .iter()
        .enumerate()
        .map(|(i, run)| (format!("s{}", i % 6), attacked_curve(&cells(run, threat))))
        .filter(|(_, points)| points.len() > 1)
        .collect();
    if lines.len() < 2 {
        return String::new();
    }
    let reach = lines.iter().flat_map(|l| &l.1).fold(0.0, |m: f64, p| m.max(p.0)) * 1.05;
    let mut plot = Plot::new(
        &format!("Accuracy of every run under the strongest attack, against the budget: {}", threat.name),
        SIZE,
        Axis::plain(0.0, reach, "budget ε"),
        Axis::percent(0.0, 1.0, "accuracy, %"),
    );
    lines.iter().for_each(|(class, points)| plot.line(points, class, true));
    figure(&threat.title(), &plot.svg())
}

/// From the clean accuracy at 0 on; one point when nothing was attacked.
fn attacked_curve(cells: &[Cell]) -> Vec<(f64, f64)> {
    let attacked = cells.iter().filter_map(|c| Some((c.eps, c.attacked?)));
    cells.first().map(|c| (0.0, c.clean)).into_iter().chain(attacked).collect()
}

fn chart(run: &RunRecord, threat: &Threat, reach: f64) -> String {
    let cells = cells(run, threat);
    let label = format!("Accuracy of {} against the budget: {}", run.title, threat.name);
    let mut plot = Plot::new(&label, SIZE, Axis::plain(0.0, reach, "budget ε"), Axis::percent(0.0, 1.0, "accuracy, %"));
    let clean = cells.first().map_or(run.summary.accuracy.clean, |c| c.clean);
    if let (true, Some((class, steps))) = (threat.has_claims(), claimed_curve(run, &threat.name, reach)) {
        if class == "certified" {
            plot.area(&steps, class);
        }
        plot.line(&steps, class, false);
    }
    plot.line(&[(0.0, clean), (reach, clean)], "clean", false);
    let attacked = attacked_curve(&cells);
    if attacked.len() > 1 {
        plot.line(&attacked, "attacked", true);
    }
    plot.svg()
}

/// The class of the claim and its step curve: at `x`, a fraction of samples whose radius is at least `x`, never too
/// high between the radii that are known. On the attacked samples where their rows are given, else on the whole split.
fn claimed_curve(run: &RunRecord, threat: &str, reach: f64) -> Option<(&'static str, Vec<(f64, f64)>)> {
    let radii = run.summary.radii.iter().find(|r| r.threat == threat);
    let claim = run.summary.certified.iter().find(|c| c.threat == threat);
    let class = evidence(radii.map(|r| &r.evidence).or(claim.map(|c| &c.evidence))?).1;
    let known = match attacked_radii(run, threat) {
        Some(radii) => {
            let n = radii.len();
            let kept = (0..n).filter(|i| i % n.div_ceil(150) == 0 || *i == n - 1);
            kept.map(|i| (radii[i], (n - i) as f64 / n as f64)).collect()
        }
        None => {
            let quantiles = radii.map_or(&[][..], |r| &r.quantiles);
            let last = quantiles.len().saturating_sub(1).max(1) as f64;
            let grid = run.summary.certified.iter().filter(|c| c.threat == threat).map(|c| (c.eps, c.accuracy));
            quantiles.iter().enumerate().map(|(i, r)| (*r, 1.0 - i as f64 / last)).chain(grid).collect()
        }
    };
    Some((class, steps(known, reach)))
}

/// From radii and the fraction of samples that have at least each, a curve that is never too high in between.
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

/// Ascending radii of exactly the attacked samples, 0 where misclassified; `None` unless every one is known.
fn attacked_radii(run: &RunRecord, threat: &str) -> Option<Vec<f64>> {
    let expected = run.summary.attacks.iter().find(|a| a.threat == threat && a.norm == "l2")?.samples;
    let attacked = |s: &&SampleRow| s.outcomes.iter().any(|o| o.threat == threat);
    let radius = |s: &SampleRow| {
        let radius = s.radii.get(threat).copied()?;
        Some(if s.label == s.prediction && !radius.is_nan() { radius } else { 0.0 })
    };
    let mut radii: Vec<f64> = run.samples.iter().filter(attacked).map(radius).collect::<Option<_>>()?;
    radii.sort_by(f64::total_cmp);
    (expected > 0 && radii.len() as u64 == expected).then_some(radii)
}
