//! Ten samples to look at: the most fragile and the most robust among those classified correctly.
//! Knows no pixel and no sound; the index leads to them.
use super::html::{budget, distance, escape, section};
use super::sandwich::evidence;
use super::{RunRecord, SampleRow};

const EACH: usize = 5;

/// The section; runs without sample rows or radii are left out.
pub fn samples(runs: &[RunRecord]) -> String {
    section(
        "Samples worth looking at",
        "Classified correctly and closest to being wrong, by the smallest radius; and the farthest from it. \
         The last columns say at which tested budget the strongest attack got through.",
        &runs.iter().map(table).collect::<String>(),
    )
}

fn table(run: &RunRecord) -> String {
    let mut threats: Vec<&String> = run.samples.iter().flat_map(|s| s.radii.keys()).collect();
    threats.sort_by_key(|t| (*t != "joint", run.summary.modalities.iter().position(|m| m == *t), *t));
    threats.dedup();
    let Some(main) = threats.first() else { return String::new() };
    let radius = |s: &SampleRow| s.radii.get(*main).copied().filter(|r| !r.is_nan()).unwrap_or(0.0);
    let mut right: Vec<&SampleRow> =
        run.samples.iter().filter(|s| s.label == s.prediction && s.radii.contains_key(*main)).collect();
    right.sort_by(|a, b| radius(a).total_cmp(&radius(b)).then(a.index.cmp(&b.index)));
    let (fragile, rest) = right.split_at(right.len().min(EACH));
    let robust: Vec<&SampleRow> = rest.iter().rev().take(EACH).copied().collect();
    if fragile.is_empty() {
        return String::new();
    }
    let mut attacked: Vec<(&str, &str)> =
        run.samples.iter().flat_map(|s| s.outcomes.iter().map(|o| (o.threat.as_str(), o.norm.as_str()))).collect();
    attacked.sort_by_key(|(t, n)| (*n != "l2", *t != "joint", *t, *n));
    attacked.dedup();
    let heads: String = threats
        .iter()
        .map(|t| {
            let kind = run.summary.radii.iter().find(|r| r.threat == **t).map_or("estimated", |r| r.evidence.as_str());
            let (word, class) = evidence(kind);
            format!("<th scope=\"col\">{} radius<small class=\"{class}\">{word}</small></th>", escape(t))
        })
        .chain(attacked.iter().map(|(t, n)| {
            let norm = if *n == "linf" { "ℓ∞" } else { "ℓ2" };
            format!("<th scope=\"col\">{} attack<small>{norm}</small></th>", escape(t))
        }))
        .collect();
    let columns = 3 + threats.len() + attacked.len();
    let group = |title: &str, rows: &[&SampleRow]| {
        if rows.is_empty() {
            return String::new();
        }
        let rows: String = rows.iter().map(|s| row(run, s, &threats, &attacked)).collect();
        format!("<tbody><tr><th scope=\"rowgroup\" class=\"group\" colspan=\"{columns}\">{title}</th></tr>{rows}</tbody>")
    };
    format!(
        "<div class=\"scroll\"><table><caption>{}</caption><thead><tr><th scope=\"col\">sample</th>\
         <th scope=\"col\" class=\"word\">label</th>{heads}</tr></thead>{}{}</table></div>\n",
        escape(&run.title),
        group("most fragile", fragile),
        group("most robust", &robust)
    )
}

fn row(run: &RunRecord, sample: &SampleRow, threats: &[&String], attacked: &[(&str, &str)]) -> String {
    let label = run.summary.classes.get(sample.label).map_or_else(|| sample.label.to_string(), |name| escape(name));
    let radii = threats.iter().map(|t| format!("<td>{}</td>", sample.radii.get(*t).map_or("–".into(), |r| distance(*r))));
    let outcomes = attacked.iter().map(|(t, n)| format!("<td>{}</td>", outcome(sample, t, n)));
    format!(
        "<tr><th scope=\"row\">{}</th><td class=\"word\">{label}</td>{}</tr>",
        sample.index,
        radii.chain(outcomes).collect::<String>()
    )
}

fn outcome(sample: &SampleRow, threat: &str, norm: &str) -> String {
    let ours = || sample.outcomes.iter().filter(|o| o.threat == threat && o.norm == norm);
    let broken = ours().filter(|o| !o.held).map(|o| o.eps).min_by(f64::total_cmp);
    let tested = ours().map(|o| o.eps).max_by(f64::total_cmp);
    match (broken, tested) {
        (Some(eps), _) => format!("<span class=\"fell\">falls at {}</span>", budget(eps)),
        (None, Some(eps)) => format!("<span class=\"stood\">stands {}</span>", budget(eps)),
        (None, None) => "–".into(),
    }
}
