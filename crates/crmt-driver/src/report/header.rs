//! The top of the page: who was compared on what, the verdict in words, and what a reader must know
//! before trusting it. Knows no threshold of success: it states numbers and their sampling error.
use super::html::{budget, count, escape, listed, percent};
use super::run_record::{RunRecord, summaries};
use crate::drawn;
use crate::record::Summary;
use crate::sandwich::{Cell, Threat, cells, evidence, same_budget, threats};

/// The header of the page.
pub fn header(runs: &[RunRecord]) -> String {
    let titles: Vec<String> = runs.iter().map(|run| escape(&run.title)).collect();
    // A broken certificate comes before any verdict that might rest on it.
    let (broken, fine) = match violations(runs) {
        Ok(fine) => (String::new(), fine),
        Err(broken) => (broken, String::new()),
    };
    format!(
        "<header>\n<p class=\"eyebrow\">Robustness report</p>\n<h1>{}</h1>\n{}{broken}{}{fine}{}</header>\n",
        listed(&titles),
        facts(runs),
        verdict(runs),
        remarks(runs)
    )
}

fn facts(runs: &[RunRecord]) -> String {
    let distinct = |value: &dyn Fn(&RunRecord) -> String| {
        let mut values: Vec<String> = Vec::new();
        for value in runs.iter().map(value) {
            if !values.contains(&value) {
                values.push(value);
            }
        }
        values.join(" / ")
    };
    let listed_names = |run: &RunRecord| {
        listed(
            &run.summary
                .modalities
                .iter()
                .map(|m| escape(m))
                .collect::<Vec<_>>(),
        )
    };
    let facts = [
        ("method", distinct(&|r| escape(&r.summary.method))),
        ("data", distinct(&|r| escape(&r.summary.data))),
        ("modalities", distinct(&listed_names)),
        (
            "classes",
            distinct(&|r| r.summary.classes.len().to_string()),
        ),
        (
            "report samples",
            distinct(&|r| count(r.summary.accuracy.samples)),
        ),
        ("seed", distinct(&|r| r.summary.seed.to_string())),
        (
            "one unit of ε, in the arrays' own",
            distinct(&|r| escape(&r.summary.unit())),
        ),
    ];
    let items: String = facts
        .iter()
        .filter(|(_, value)| !value.is_empty())
        .map(|(name, value)| format!("<div><dt>{name}</dt><dd>{value}</dd></div>"))
        .collect();
    format!("<dl class=\"facts\">{items}</dl>\n")
}

/// Each run's cell at one budget that tells the runs apart (or, for one run, that halves it): one
/// at which all were attacked, or else one at which all are certified.
fn telling(runs: &[RunRecord]) -> Option<(Threat, Vec<Cell>)> {
    let threat = threats(&summaries(runs)).into_iter().next()?;
    let all: Vec<Vec<Cell>> = runs
        .iter()
        .map(|run| cells(&run.summary, &threat))
        .collect();
    let at = |eps: f64| -> Option<Vec<Cell>> {
        all.iter()
            .map(|cells| cells.iter().find(|c| same_budget(c.eps, eps)).cloned())
            .collect()
    };
    let candidates: Vec<Vec<Cell>> = all.first()?.iter().filter_map(|c| at(c.eps)).collect();
    let score = |cells: &[Cell], value: fn(&Cell) -> Option<f64>| -> Option<f64> {
        let values = cells.iter().map(value).collect::<Option<Vec<f64>>>()?;
        let (low, high) = values
            .iter()
            .fold((f64::INFINITY, f64::NEG_INFINITY), |(a, b), v| {
                (a.min(*v), b.max(*v))
            });
        Some(if runs.len() > 1 {
            high - low
        } else {
            -(low - 0.5).abs()
        })
    };
    let best = |value: fn(&Cell) -> Option<f64>| {
        let scored = candidates
            .iter()
            .filter_map(|cells| Some((score(cells, value)?, cells)));
        scored
            .max_by(|a, b| a.0.total_cmp(&b.0))
            .map(|(_, cells)| cells.clone())
    };
    Some((
        threat,
        best(|c| c.attacked).or_else(|| best(Cell::certified))?,
    ))
}

fn verdict(runs: &[RunRecord]) -> String {
    let Some((threat, cells)) = telling(runs) else {
        let clean: Vec<String> = runs
            .iter()
            .map(|r| {
                format!(
                    "{} is right on {} %",
                    escape(&r.title),
                    percent(r.summary.accuracy.clean)
                )
            })
            .collect();
        return format!(
            "<p class=\"verdict\">Without an attacker {} of the samples. No attack or certificate covers every run \
             at a common budget, so nothing is said about robustness.</p>\n",
            listed(&clean)
        );
    };
    let eps = budget(cells[0].eps);
    let who = match threat.name.as_str() {
        "joint" => "a joint attack".into(),
        "each" => "an attack on every modality".into(),
        name => format!("an attack on {} alone", escape(name)),
    };
    let mut text = String::new();
    let mut ranked: Vec<(String, f64)> = runs
        .iter()
        .zip(&cells)
        .filter_map(|(r, c)| Some((escape(&r.title), c.attacked?)))
        .collect();
    ranked.sort_by(|a, b| b.1.total_cmp(&a.1));
    if let Some(((best, value), rest)) = ranked.split_first() {
        text = format!(
            "<b>{best} keeps {} % of samples</b> under {who} of ε = {eps}",
            percent(*value)
        );
        if !rest.is_empty() {
            let keeps = |i| if i == 0 { " keeps" } else { "" };
            let rest: Vec<String> = rest
                .iter()
                .enumerate()
                .map(|(i, (t, v))| format!("{t}{} {} %", keeps(i), percent(*v)))
                .collect();
            text.push_str(&format!(" where {}", listed(&rest)));
        }
        text.push_str(". ");
    }
    let proofs: Vec<String> = runs
        .iter()
        .zip(&cells)
        .filter_map(|(r, c)| {
            Some(format!(
                "<b>{} proves {} %</b>",
                escape(&r.title),
                percent(c.certified()?)
            ))
        })
        .collect();
    text.push_str(&if proofs.is_empty() {
        let of = if smoothed(runs) { " of its network, only of its smoothed network, further below" } else { "" };
        format!("None of this is a guarantee: a better attack may do more, and no run here carries a certificate{of}.")
    } else {
        format!("{} at ε = {eps}: no perturbation of that size, known or not, can change those.", listed(&proofs))
    });
    let all = runs
        .iter()
        .map(|r| r.summary.accuracy.samples)
        .max()
        .unwrap_or(0);
    let samples = cells.iter().map(|c| c.samples).min().unwrap_or(0);
    let drawn = runs
        .iter()
        .all(|r| r.summary.drawn.contains_key("evaluate"));
    format!(
        "<p class=\"verdict\">{text}</p>\n{}<p class=\"fine\">These fractions are of {}; the spread between training seeds \
         comes on top.</p>\n",
        partition(runs, &cells),
        drawn::told(samples, all, drawn)
    )
}

/// CSS classes and names of what can become of a sample.
const PARTS: [(&str, &str); 4] = [
    ("certified", "certified"),
    ("unbroken", "not broken, not proved"),
    ("attacked", "broken by the attack"),
    ("wrong", "wrong without an attack"),
];

/// All samples of each run in one bar.
fn partition(runs: &[RunRecord], cells: &[Cell]) -> String {
    let rows: String = runs
        .iter()
        .zip(cells)
        .map(|(run, cell)| {
            let clean = finite(cell.clean);
            let kept = finite(cell.attacked.unwrap_or(clean)).min(clean);
            let proved = finite(cell.certified().filter(|_| cell.same).unwrap_or(0.0)).min(kept);
            let parts: Vec<((&str, &str), f64)> = PARTS
                .into_iter()
                .zip([proved, kept - proved, clean - kept, 1.0 - clean])
                .filter(|(_, s)| *s > 0.0)
                .collect();
            let bars: String = parts
                .iter()
                .map(|((class, name), share)| {
                    // Narrower than this, the number would not fit.
                    let text = if *share >= 0.07 { percent(*share) } else { String::new() };
                    let share = share * 100.0;
                    format!(
                        "<i class=\"{class}\" style=\"width:{share:.1}%\" title=\"{name}: {share:.1} %\">{text}</i>"
                    )
                })
                .collect();
            let spoken: Vec<String> = parts.iter().map(|((_, n), s)| format!("{n} {} %", percent(*s))).collect();
            format!(
                "<div class=\"share\"><span>{}</span><div role=\"img\" aria-label=\"{}\">{bars}</div></div>",
                escape(&run.title),
                listed(&spoken)
            )
        })
        .collect();
    let key: String = PARTS
        .iter()
        .filter(|(class, _)| rows.contains(&format!("<i class=\"{class}\"")))
        .map(|(class, name)| {
            format!("<span><span class=\"swatch box {class}\"></span>{name}</span> ")
        })
        .collect();
    format!(
        "<div class=\"shares\">{rows}<p class=\"key\"><span>% of samples at ε = {}:</span> {key}</p></div>\n",
        budget(cells[0].eps)
    )
}

fn finite(fraction: f64) -> f64 {
    if fraction.is_finite() {
        fraction.clamp(0.0, 1.0)
    } else {
        0.0
    }
}

fn smoothed(runs: &[RunRecord]) -> bool {
    runs.iter().any(|run| run.summary.smoothing.is_some())
}

/// The banner: `Err` when a certificate was broken.
fn violations(runs: &[RunRecord]) -> Result<String, String> {
    // The counts are checked against the table: more certified than stand under attack is a
    // violation too.
    let crossed = |run: &RunRecord| {
        let mut cells = threats(&summaries(runs))
            .into_iter()
            .flat_map(|threat| cells(&run.summary, &threat));
        cells.any(|c| c.certified().is_some_and(|claim| c.beats(claim)))
    };
    let broken: Vec<String> = runs
        .iter()
        .filter_map(|run| match run.summary.violations {
            0 if crossed(run) => Some(format!(
                "{} has more samples certified than standing",
                escape(&run.title)
            )),
            0 => None,
            n => Some(format!("{} in {}", count(n), escape(&run.title))),
        })
        .collect();
    if !broken.is_empty() {
        return Err(format!(
            "<p class=\"banner bad\" role=\"alert\"><b>Violations: {}.</b> A certificate was broken: this is a bug of \
             the program. Trust no certificate on this page, and please report the run with its configuration.</p>\n",
            listed(&broken)
        ));
    }
    let certified = |run: &&RunRecord| {
        run.summary
            .certified
            .iter()
            .any(|c| evidence(&c.evidence).1 == "certified")
    };
    let attacked = |run: &&RunRecord| !run.summary.attacks.is_empty();
    let (class, text) = if !runs.iter().any(|r| certified(&r)) {
        (
            "",
            match smoothed(runs) {
                true => {
                    "No run here issued a certificate of its network; those of its smoothed network were not attacked."
                }
                false => "No run here issued a certificate, so there was none to break.",
            },
        )
    } else if runs.iter().filter(certified).all(|r| attacked(&r)) {
        ("good", "No attack succeeded inside a certified region.")
    } else {
        ("warn", "But no attack put every certificate to the test.")
    };
    Ok(format!(
        "<p class=\"banner {class}\"><b>Violations: 0.</b> {text}</p>\n"
    ))
}

/// Whether the numbers of all runs are about the same samples, as far as the names and the report
/// splits tell. Runs of other modalities of one data set have other inputs, and may be compared.
pub fn comparable(runs: &[RunRecord]) -> bool {
    let same = |a: &Summary, b: &Summary| {
        a.data == b.data && (a.modalities != b.modalities || a.report_sha256 == b.report_sha256)
    };
    runs.iter()
        .all(|a| runs.iter().all(|b| same(&a.summary, &b.summary)))
}

/// Warnings and notes, each once, with the runs they are about unless they are about all.
fn remarks(runs: &[RunRecord]) -> String {
    let gather = |of: &dyn Fn(&RunRecord) -> &Vec<String>| {
        let mut all: Vec<(&str, Vec<String>)> = Vec::new();
        for run in runs {
            for text in of(run) {
                match all.iter_mut().find(|(known, _)| known == text) {
                    Some((_, titles)) => titles.push(escape(&run.title)),
                    None => all.push((text, vec![escape(&run.title)])),
                }
            }
        }
        all.into_iter()
            .map(|(text, titles)| {
                let about = if titles.len() < runs.len() {
                    format!("<b>{}:</b> ", listed(&titles))
                } else {
                    String::new()
                };
                format!("<li>{about}{}</li>", escape(text))
            })
            .collect::<String>()
    };
    let block = |class: &str, title: &str, items: String| {
        if items.is_empty() {
            items
        } else {
            format!("<div class=\"banner {class}\"><b>{title}</b><ul>{items}</ul></div>\n")
        }
    };
    let mixed = if comparable(runs) {
        ""
    } else {
        "<p class=\"banner bad\" role=\"alert\"><b>These runs used different data.</b> Their numbers do not compare.</p>\n"
    };
    let warnings = block("warn", "Warnings", gather(&|r| &r.summary.warnings));
    let notes = block("", "About the data", gather(&|r| &r.summary.notes));
    format!("{mixed}{warnings}{notes}")
}
