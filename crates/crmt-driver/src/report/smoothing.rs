//! The smoothed networks: what is certified of them with confidence, by threat and budget, and as
//! curves. Knows only the results; keeps them apart from what is said of the networks themselves.
use super::figures::Gallery;
use super::html::{budget, count, distance, escape, figure, group, percent, section, table};
use super::plot::{Axis, Plot};
use super::run_record::RunRecord;
use super::sandwich::steps;
use crate::drawn;
use crate::record::{SmoothedResult, SmoothingResult};
use crate::sandwich::{budgets, same_budget};
use crate::tables::confidence;

const SIZE: (f64, f64) = (380.0, 230.0);

/// The section; runs that were not smoothed are left out.
pub fn smoothing(runs: &[RunRecord], gallery: &Gallery) -> String {
    let told = |run: &RunRecord| Some(told(run, run.summary.smoothing.as_ref()?, gallery));
    let content: String = runs.iter().filter_map(told).collect();
    section(
        "The smoothed network",
        "Not the network <i>f</i> of the other sections, but <i>g</i>: of the input with Gaussian noise on it, the class \
         that <i>f</i> names most often. What is <b class=\"certified\">certified with confidence</b> here holds for \
         <i>g</i> against every perturbation of that size; it says nothing of <i>f</i>, and the attacks on this page, \
         which were on <i>f</i>, do not test it.",
        &content,
    )
}

fn told(run: &RunRecord, smoothing: &SmoothingResult, gallery: &Gallery) -> String {
    let sigma = |m: &String| {
        Some(format!(
            "{} {}",
            escape(m),
            distance(*smoothing.sigmas.get(m)?)
        ))
    };
    let sigmas: Vec<String> = run.summary.modalities.iter().filter_map(sigma).collect();
    let facts = [
        ("noise, σ", sigmas.join(", ")),
        (
            "draws",
            format!(
                "{} + {}",
                count(smoothing.selection_draws),
                count(smoothing.draws)
            ),
        ),
        ("report samples", count(smoothing.samples)),
        (
            "confidence of each certificate",
            format!("{} %", confidence(smoothing.alpha_each)),
        ),
    ];
    let facts: String = facts
        .iter()
        .map(|(name, value)| format!("<div><dt>{name}</dt><dd>{value}</dd></div>"))
        .collect();
    format!(
        "<h3>{}</h3>\n<dl class=\"facts\">{facts}</dl>\n<div class=\"row\">{}{}</div>\n\
         <p class=\"fine\">Right: the certified class is the label. A certificate abstains when no class is likely enough. \
         Radii count as 0 where it abstains or the class is wrong. Of {}.</p>\n",
        escape(&run.title),
        fractions(smoothing),
        curves(run, smoothing, gallery),
        drawn::told(
            smoothing.samples,
            run.summary.accuracy.samples,
            run.summary.drawn.contains_key("smooth")
        )
    )
}

fn present(classifier: &SmoothedResult) -> String {
    match classifier.missing.as_str() {
        "" => "all present".into(),
        missing => format!("without {missing}"),
    }
}

/// A group of rows for each classifier, a row for each threat.
fn fractions(smoothing: &SmoothingResult) -> String {
    let budgets = budgets(
        smoothing
            .classifiers
            .iter()
            .flat_map(|c| &c.certified)
            .map(|c| c.eps),
    );
    let body = |classifier: &SmoothedResult| {
        let row = |radius: &crate::record::RadiusResult| {
            let cell = |eps: &f64| {
                let here = |c: &&crate::record::CertifiedResult| {
                    c.threat == radius.threat && same_budget(c.eps, *eps)
                };
                classifier
                    .certified
                    .iter()
                    .find(here)
                    .map_or("<td>–</td>".into(), |c| {
                        let share = if c.accuracy.is_finite() {
                            c.accuracy.clamp(0.0, 1.0)
                        } else {
                            0.0
                        };
                        format!(
                            "<td class=\"bar certified\" style=\"--v:{share:.3}\">{}</td>",
                            percent(c.accuracy)
                        )
                    })
            };
            let who = match radius.threat.as_str() {
                "joint" => "joint".into(),
                name => format!("only {}", escape(name)),
            };
            let cells: String = budgets.iter().map(cell).collect();
            format!(
                "<tr><th scope=\"row\">{who}</th>{cells}<td>{}</td></tr>",
                distance(radius.mean)
            )
        };
        let heading = format!(
            "{} <small>right {} %, abstains {} %, mean radius {} σ</small>",
            escape(&present(classifier)),
            percent(classifier.accuracy),
            percent(classifier.abstained),
            distance(classifier.mean_radius)
        );
        group(
            &heading,
            budgets.len() + 2,
            &classifier.radii.iter().map(row).collect::<String>(),
        )
    };
    let heads: String = budgets
        .iter()
        .map(|e| format!("<th scope=\"col\">{}</th>", budget(*e)))
        .collect();
    let head = format!("<th scope=\"col\">% at ε =</th>{heads}<th scope=\"col\">mean radius</th>");
    let bodies: String = smoothing.classifiers.iter().map(body).collect();
    table(
        "sandwich",
        "<b class=\"certified\">Certified with confidence</b>, ℓ<sub>2</sub>",
        &head,
        &bodies,
    )
}

/// Certified accuracy of each classifier against the joint budget.
fn curves(run: &RunRecord, smoothing: &SmoothingResult, gallery: &Gallery) -> String {
    let joint = |classifier: &SmoothedResult| -> Vec<(f64, f64)> {
        let quantiles = classifier
            .radii
            .iter()
            .find(|r| r.threat == "joint")
            .map_or(&[][..], |r| &r.quantiles);
        let last = quantiles.len().saturating_sub(1).max(1) as f64;
        let grid = classifier
            .certified
            .iter()
            .filter(|c| c.threat == "joint")
            .map(|c| (c.eps, c.accuracy));
        quantiles
            .iter()
            .enumerate()
            .map(|(i, r)| (*r, 1.0 - i as f64 / last))
            .chain(grid)
            .collect()
    };
    let known: Vec<_> = smoothing
        .classifiers
        .iter()
        .map(|c| (present(c), joint(c)))
        .collect();
    let reach = known
        .iter()
        .flat_map(|(_, points)| points)
        .map(|p| p.0)
        .filter(|r| r.is_finite());
    let reach = reach.fold(0.0, f64::max) * 1.05;
    if reach <= 0.0 {
        return String::new();
    }
    let mut plot = Plot::new(
        &format!(
            "Certified accuracy of the smoothed {} against the joint budget",
            run.title
        ),
        SIZE,
        Axis::plain(0.0, reach, "joint budget ε"),
        Axis::percent(0.0, 1.0, "certified with confidence, %"),
    );
    let mut key = String::new();
    for (i, (name, points)) in known.into_iter().enumerate() {
        plot.line(&steps(points, reach), &format!("s{}", i % 6), false);
        plot.explain(&format!("s{}", i % 6), &name);
        key.push_str(&format!(
            "<span><span class=\"swatch s{}\"></span>{}</span> ",
            i % 6,
            escape(&name)
        ));
    }
    figure(
        "All modalities, one joint ℓ<sub>2</sub> budget",
        &format!("{}<p class=\"key\">{key}</p>", gallery.hang(plot)),
    )
}
