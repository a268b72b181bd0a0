//! Ten samples to look at: the most fragile and the most robust among those classified correctly.
//! Knows no pixel and no sound; the index leads to them.
use super::html::{budget, distance, escape, group, section, table};
use super::run_record::RunRecord;
use crate::sample_row::SampleRow;
use crate::sandwich::evidence;

const EACH: usize = 5;

/// The section; runs without sample rows or radii are left out.
pub fn samples(runs: &[RunRecord]) -> String {
    let mut tables = String::new();
    for (run, table) in runs
        .iter()
        .map(|run| (run, ten(run)))
        .filter(|(_, table)| !table.is_empty())
    {
        tables.push_str(&match tables.is_empty() {
            true => table,
            // The first run shows the form; the others are one click away.
            false => format!(
                "<details><summary>Samples of {}</summary>{table}</details>\n",
                escape(&run.title)
            ),
        });
    }
    section(
        "Samples worth looking at",
        "Classified correctly and closest to being wrong, by the smallest radius; and the farthest from it. \
         <b>Nearest</b>: the class that limits the joint radius. \
         The last columns say at which tested budget the strongest attack got through.",
        &tables,
    )
}

fn ten(run: &RunRecord) -> String {
    let order = |t: &str| run.summary.modalities.iter().position(|m| m == t);
    // The other threats are in samples.csv.
    let usual = |t: &&String| *t == "joint" || order(t).is_some();
    let mut threats: Vec<&String> = run
        .samples
        .iter()
        .flat_map(|s| s.radii.keys())
        .filter(usual)
        .collect();
    threats.sort_by_key(|t| (*t != "joint", order(t), *t));
    threats.dedup();
    let Some(main) = threats.first() else {
        return String::new();
    };
    let radius = |s: &SampleRow| {
        s.radii
            .get(*main)
            .copied()
            .filter(|r| !r.is_nan())
            .unwrap_or(0.0)
    };
    let mut right: Vec<&SampleRow> = run
        .samples
        .iter()
        .filter(|s| s.is_right() && s.radii.contains_key(*main))
        .collect();
    // Attacked samples tell more; they are a fixed subset, not a choice by outcome.
    let told: Vec<&SampleRow> = right
        .iter()
        .filter(|s| !s.outcomes.is_empty())
        .copied()
        .collect();
    let among = if told.len() >= 2 * EACH {
        right = told;
        "the attacked samples"
    } else {
        "the report samples"
    };
    right.sort_by(|a, b| radius(a).total_cmp(&radius(b)).then(a.index.cmp(&b.index)));
    let (fragile, rest) = right.split_at(right.len().min(EACH));
    let robust: Vec<&SampleRow> = rest.iter().rev().take(EACH).copied().collect();
    if fragile.is_empty() {
        return String::new();
    }
    let mut attacked: Vec<(&str, &str)> = run
        .samples
        .iter()
        .flat_map(|s| {
            s.outcomes
                .iter()
                .map(|o| (o.threat.as_str(), o.norm.as_str()))
        })
        .collect();
    attacked.sort_by_key(|(t, n)| (*n != "l2", *t != "joint", order(t), *t, *n));
    attacked.dedup();
    let heads: String = threats
        .iter()
        .map(|t| {
            let kind = run
                .summary
                .radii
                .iter()
                .find(|r| r.threat == **t)
                .map_or("estimated", |r| r.evidence.as_str());
            let (word, class) = evidence(kind);
            format!(
                "<th scope=\"col\">{} radius<small class=\"{class}\">{word}</small></th>",
                escape(t)
            )
        })
        .chain(attacked.iter().map(|(t, n)| {
            let norm = if *n == "linf" { "ℓ∞" } else { "ℓ2" };
            format!(
                "<th scope=\"col\">{} attack<small>{norm}</small></th>",
                escape(t)
            )
        }))
        .collect();
    let columns = 3 + threats.len() + attacked.len();
    let part = |title: &str, rows: &[&SampleRow]| match rows {
        [] => String::new(),
        rows => group(
            title,
            columns,
            &rows
                .iter()
                .map(|s| row(run, s, &threats, &attacked))
                .collect::<String>(),
        ),
    };
    table(
        "",
        &format!("<b>{}</b>, among {among}", escape(&run.title)),
        &format!(
            "<th scope=\"col\">sample</th><th scope=\"col\" class=\"word\">label</th>\
             <th scope=\"col\" class=\"word\">nearest</th>{heads}"
        ),
        &[part("most fragile", fragile), part("most robust", &robust)].concat(),
    )
}

fn row(
    run: &RunRecord,
    sample: &SampleRow,
    threats: &[&String],
    attacked: &[(&str, &str)],
) -> String {
    let class = |k: usize| {
        run.summary
            .classes
            .get(k)
            .map_or_else(|| k.to_string(), |name| escape(name))
    };
    let (label, rival) = (
        class(sample.label),
        sample
            .why
            .as_ref()
            .map_or("–".into(), |why| class(why.rival)),
    );
    let radii = threats.iter().map(|t| {
        format!(
            "<td>{}</td>",
            sample.radii.get(*t).map_or("–".into(), |r| distance(*r))
        )
    });
    let outcomes = attacked
        .iter()
        .map(|(t, n)| format!("<td>{}</td>", outcome(sample, t, n)));
    format!(
        "<tr><th scope=\"row\">{}</th><td class=\"word\">{label}</td><td class=\"word\">{rival}</td>{}</tr>",
        sample.index,
        radii.chain(outcomes).collect::<String>()
    )
}

fn outcome(sample: &SampleRow, threat: &str, norm: &str) -> String {
    let ours = || {
        sample
            .outcomes
            .iter()
            .filter(|o| o.threat == threat && o.norm == norm)
    };
    let broken = ours()
        .filter(|o| !o.held)
        .map(|o| o.eps)
        .min_by(f64::total_cmp);
    let tested = ours().map(|o| o.eps).max_by(f64::total_cmp);
    match (broken, tested) {
        (Some(eps), _) => format!("<span class=\"fell\">falls at {}</span>", budget(eps)),
        (None, Some(eps)) => format!("<span class=\"stood\">stands at {}</span>", budget(eps)),
        (None, None) => "–".into(),
    }
}
