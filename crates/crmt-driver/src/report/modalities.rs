//! The modalities one by one: without each, alone, their radii, and who is preferred and who is
//! vulnerable. Knows no modality by name.
use super::bars;
use super::html::{distance, escape, group, listed, percent, section, table};
use super::run_record::RunRecord;
use crate::record::RadiusResult;
use crate::sandwich::evidence;
use std::collections::BTreeMap;

/// More combinations of missing modalities than this are left to `summary.json`.
const COMBINATIONS: usize = 14;

/// The section about the modalities of every run.
pub fn modalities(runs: &[RunRecord]) -> String {
    section(
        "The modalities",
        "<b>Preferred</b> is the modality the model relies on when nobody interferes; <b>vulnerable</b> is the one \
         through which an attacker gets furthest for the same budget. The two need not agree, and a robust model \
         leans on the one that is not vulnerable.",
        &[presence(runs), baselines(runs), shares(runs), radii(runs)].concat(),
    )
}

/// Accuracy with modalities missing and of each head alone, runs side by side.
fn presence(runs: &[RunRecord]) -> String {
    let keys = |of: &dyn Fn(&RunRecord) -> &BTreeMap<String, f64>| {
        let mut keys: Vec<String> = Vec::new();
        for key in runs.iter().flat_map(|run| of(run).keys()) {
            if !keys.contains(key) {
                keys.push(key.clone());
            }
        }
        // Fewer names first, then the model's own order, which the first name decides.
        keys.sort_by_key(|key| {
            (
                key.matches('+').count(),
                runs.iter().map(|run| order(run, key)).min(),
            )
        });
        keys
    };
    let (missing, solo) = (
        keys(&|r| &r.summary.accuracy.missing),
        keys(&|r| &r.summary.accuracy.solo),
    );
    if missing.is_empty() && solo.is_empty() {
        return String::new();
    }
    let row = |name: String, value: &dyn Fn(&RunRecord) -> Option<f64>| {
        let cells: String = runs
            .iter()
            .map(|run| match value(run) {
                Some(v) if v.is_finite() => {
                    format!(
                        "<td class=\"bar plain\" style=\"--v:{:.3}\">{}</td>",
                        v.clamp(0.0, 1.0),
                        percent(v)
                    )
                }
                _ => "<td>–</td>".into(),
            })
            .collect();
        format!("<tr><th scope=\"row\">{name}</th>{cells}</tr>")
    };
    let mut rows = row("all present".into(), &|r| Some(r.summary.accuracy.clean));
    for key in missing.iter().take(COMBINATIONS) {
        let names: Vec<String> = key.split('+').map(escape).collect();
        rows.push_str(&row(format!("without {}", listed(&names)), &|r| {
            r.summary.accuracy.missing.get(key).copied()
        }));
    }
    for key in &solo {
        rows.push_str(&row(format!("{} head alone", escape(key)), &|r| {
            r.summary.accuracy.solo.get(key).copied()
        }));
    }
    let left = missing.len().saturating_sub(COMBINATIONS);
    let more = if left > 0 {
        format!("<p class=\"fine\">{left} further combinations are in summary.json.</p>")
    } else {
        String::new()
    };
    let head: String = runs
        .iter()
        .map(|run| format!("<th scope=\"col\">{}</th>", escape(&run.title)))
        .collect();
    let head = format!("<th scope=\"col\">modalities</th>{head}");
    table(
        "",
        "<b>Clean accuracy, %</b>",
        &head,
        &format!("<tbody>{rows}</tbody>"),
    ) + &more
}

/// Accuracy by what stands in for missing modalities, for the runs in which others than the
/// declared were evaluated.
fn baselines(runs: &[RunRecord]) -> String {
    const OTHERS: [&str; 3] = ["zeros", "mean", "learned"];
    let body = |run: &RunRecord| {
        let accuracy = &run.summary.accuracy;
        let mut missing: Vec<_> = accuracy.missing.iter().collect();
        missing.sort_by_key(|(names, _)| (names.matches('+').count(), order(run, names)));
        let row = |(names, declared): &(&String, &f64)| {
            let other = |by: &str| accuracy.missing_by_baseline.get(by)?.get(*names).copied();
            let values = [Some(**declared)].into_iter().chain(OTHERS.map(other));
            let cells: String = values
                .map(|v| format!("<td>{}</td>", v.map_or_else(|| "–".into(), percent)))
                .collect();
            let names: Vec<String> = names.split('+').map(escape).collect();
            format!(
                "<tr><th scope=\"row\">without {}</th>{cells}</tr>",
                listed(&names)
            )
        };
        group(
            &escape(&run.title),
            5,
            &missing
                .iter()
                .take(COMBINATIONS)
                .map(row)
                .collect::<String>(),
        )
    };
    let bodies: String = runs
        .iter()
        .filter(|run| !run.summary.accuracy.missing_by_baseline.is_empty())
        .map(body)
        .collect();
    let heads = ["modalities", "declared"].into_iter().chain(OTHERS);
    let head: String = heads
        .map(|name| format!("<th scope=\"col\">{name}</th>"))
        .collect();
    let caption = "<b>In the place of what is missing</b>: clean accuracy by baseline, %";
    if bodies.is_empty() {
        bodies
    } else {
        table("", caption, &head, &bodies)
    }
}

/// Vulnerability shares as one bar per run, each with its sentence.
fn shares(runs: &[RunRecord]) -> String {
    let mut content = String::new();
    for run in runs {
        let shares: Vec<(&RadiusResult, f64)> = run
            .summary
            .radii
            .iter()
            .filter_map(|r| {
                Some((
                    r,
                    r.vulnerability_share
                        .filter(|s| s.is_finite() && *s >= 0.0)?,
                ))
            })
            .collect();
        let parts: Vec<_> = shares
            .iter()
            .map(|(r, share)| (r.threat.as_str(), *share, order(run, &r.threat)))
            .collect();
        content.push_str(&bars::bar(&run.title, "Vulnerability share", &parts));
        if let Some(sentence) = leaning(run, &shares) {
            content.push_str(&format!("<p class=\"fine\">{sentence}</p>\n"));
        }
    }
    if content.is_empty() {
        return content;
    }
    // Narrow parts carry no text, so with many modalities a key names them all.
    let names = runs
        .iter()
        .map(|run| &run.summary.modalities)
        .max_by_key(|m| m.len())
        .filter(|m| m.len() > 2);
    let key = names.map_or(String::new(), |names| {
        bars::key(names.iter().map(String::as_str))
    });
    format!("<h3>Preference and vulnerability</h3>\n<div class=\"shares\">{content}{key}</div>\n")
}

fn leaning(run: &RunRecord, shares: &[(&RadiusResult, f64)]) -> Option<String> {
    let title = escape(&run.title);
    let solo = &run.summary.accuracy.solo;
    let best = solo
        .iter()
        .filter(|(_, v)| v.is_finite())
        .max_by(|a, b| a.1.total_cmp(b.1))
        .filter(|_| solo.len() > 1);
    let weak = shares
        .iter()
        .max_by(|a, b| a.1.total_cmp(&b.1))
        .filter(|_| shares.len() > 1);
    let preferred = best.map(|(name, v)| {
        format!(
            "{title} prefers <b>{}</b> (right alone on {} %)",
            escape(name),
            percent(*v)
        )
    });
    let vulnerable = weak.map(|(r, share)| {
        format!(
            "<b>{}</b> is its most vulnerable modality (it takes {} % of the squared worst-case joint budget)",
            escape(&r.threat),
            percent(*share)
        )
    });
    match (preferred, vulnerable) {
        (Some(p), Some(v)) => {
            let and = if best.map(|b| b.0) == weak.map(|w| &w.0.threat) {
                "and"
            } else {
                "but"
            };
            Some(format!("{p}, {and} {v}."))
        }
        (Some(p), None) => Some(format!("{p}; no radii say which modality is vulnerable.")),
        (None, Some(v)) => Some(format!("For {title}, {v}.")),
        (None, None) => None,
    }
}

/// Place in the model's order, last when unknown.
fn order(run: &RunRecord, names: &str) -> usize {
    let first = names.split('+').next();
    run.summary
        .modalities
        .iter()
        .position(|m| Some(m.as_str()) == first)
        .unwrap_or(usize::MAX)
}

/// Box plots of the radii, all on one scale.
fn radii(runs: &[RunRecord]) -> String {
    let all = || runs.iter().flat_map(|run| run.summary.radii.iter());
    let reach = all()
        .filter_map(|r| quantile(r, 0.95))
        .filter(|v| v.is_finite())
        .fold(0.0, f64::max);
    let reach = if reach > 0.0 { reach * 1.02 } else { 1.0 };
    let mut bodies = String::new();
    for run in runs.iter().filter(|run| !run.summary.radii.is_empty()) {
        let rows: String = run
            .summary
            .radii
            .iter()
            .map(|radius| radius_row(radius, reach))
            .collect();
        bodies.push_str(&group(&escape(&run.title), 6, &rows));
    }
    if bodies.is_empty() {
        return bodies;
    }
    let head = format!(
        "<th scope=\"col\">attacked</th><th scope=\"col\" class=\"word\">from 0 to {}</th><th scope=\"col\">5&nbsp;%</th>\
         <th scope=\"col\">median</th><th scope=\"col\">95&nbsp;%</th><th scope=\"col\">mean</th>",
        distance(reach)
    );
    let dashed = if bodies.contains("boxed estimated") {
        " Dashed: estimated."
    } else {
        ""
    };
    format!(
        "{}<p class=\"fine\">Box: middle half of the samples, with the median; whiskers: 5 % to 95 %; a misclassified sample \
         has radius 0.{dashed}</p>\n",
        table(
            "",
            "<b>How far a sample may be moved</b>: radii over the report split, in declared units",
            &head,
            &bodies
        )
    )
}

fn radius_row(radius: &RadiusResult, reach: f64) -> String {
    let (word, class) = evidence(&radius.evidence);
    let cells: String = [
        quantile(radius, 0.05),
        quantile(radius, 0.5),
        quantile(radius, 0.95),
        Some(radius.mean),
    ]
    .iter()
    .map(|v| format!("<td>{}</td>", v.map_or("–".into(), distance)))
    .collect();
    format!(
        "<tr><th scope=\"row\">{} <small class=\"{class}\">{word}</small></th><td class=\"box\">{}</td>{cells}</tr>",
        escape(
            &radius
                .threat
                .replacen("without-", "without ", 1)
                .replace("any-missing", "any one missing")
                .replace('+', " and ")
        ),
        box_plot(radius, class, reach)
    )
}

fn box_plot(radius: &RadiusResult, class: &str, reach: f64) -> String {
    let at = |p| {
        quantile(radius, p).map(|v| {
            if v.is_nan() {
                0.0
            } else {
                (v / reach).clamp(0.0, 1.0) * 236.0 + 2.0
            }
        })
    };
    let (Some(a), Some(b), Some(m), Some(c), Some(d)) =
        (at(0.05), at(0.25), at(0.5), at(0.75), at(0.95))
    else {
        return String::new();
    };
    let title = format!(
        "Radii, {}: 5 %, 25 %, 50 %, 75 % and 95 % quantiles",
        escape(&radius.threat)
    );
    format!(
        "<svg role=\"img\" aria-label=\"{title}\" viewBox=\"0 0 240 22\"><title>{title}</title>\
         <path class=\"whisker {class}\" d=\"M{a:.1} 11H{b:.1}M{c:.1} 11H{d:.1}M{a:.1} 7v8M{d:.1} 7v8\"/>\
         <rect class=\"boxed {class}\" x=\"{b:.1}\" y=\"4\" width=\"{:.1}\" height=\"14\" rx=\"2\"/>\
         <path class=\"median {class}\" d=\"M{m:.1} 4v14\"/></svg>",
        (c - b).max(0.0)
    )
}

/// The radius at the share `p` of the samples.
fn quantile(radius: &RadiusResult, p: f64) -> Option<f64> {
    let last = radius.quantiles.len().checked_sub(1)?;
    radius
        .quantiles
        .get((p * last as f64).round() as usize)
        .copied()
}
