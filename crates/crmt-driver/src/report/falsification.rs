//! Every kind of certificate, attacked strictly inside: what fell, and how close attacks came.
//! Knows no attack and no certificate, only what became of them.
use super::html::{count, distance, escape, group, section, table};
use super::run_record::RunRecord;
use super::sandwich::threat_title;
use crate::record::Falsification;
use crate::sandwich::{Threat, evidence};

/// The section; runs whose certificates were not attacked are left out.
pub fn falsification(runs: &[RunRecord]) -> String {
    let tested: Vec<&RunRecord> = runs
        .iter()
        .filter(|run| !run.summary.falsification.is_empty())
        .collect();
    let bodies: String = tested
        .iter()
        .map(|run| {
            group(
                &escape(&run.title),
                6,
                &run.summary
                    .falsification
                    .iter()
                    .map(row)
                    .collect::<String>(),
            )
        })
        .collect();
    let head = [
        "attacked inside",
        "samples",
        "fell",
        "mean radius",
        "tightness",
        "max",
    ]
    .map(|name| format!("<th scope=\"col\">{name}</th>"))
    .concat();
    let content = if tested.is_empty() {
        String::new()
    } else {
        table("", "", &head, &bodies)
    };
    section(
        "Certificates under attack",
        "Each sample is attacked at 0.999 of its own radius, without regard to valid ranges. A single success means that \
         the certificate is wrong. <b>Tightness</b> is the radius over the distance of the nearest break an attack found \
         outside: at 1 the radius is the true distance; what is missing to 1 is slack of the bound or weakness of the \
         attack, and nobody knows which.",
        &content,
    )
}

fn row(f: &Falsification) -> String {
    let (fell, class) = match (f.violations, evidence(&f.evidence).1) {
        (0, _) => ("0".to_owned(), "stood"),
        (n, "certified") => (format!("{} <small>violations</small>", count(n)), "fell"),
        (n, _) => (format!("{} <small>disproved</small>", count(n)), "fell"),
    };
    let tight = |value: f64| {
        if f.tightness_samples > 0 {
            format!("{value:.2}")
        } else {
            "–".into()
        }
    };
    format!(
        "<tr><th scope=\"row\">{}</th><td>{}</td><td><span class=\"{class}\">{fell}</span></td><td>{}</td><td>{}</td>\
         <td>{}</td></tr>",
        title(&f.certificate),
        count(f.samples),
        distance(f.mean_radius),
        tight(f.tightness_mean),
        tight(f.tightness_max)
    )
}

fn title(certificate: &str) -> String {
    let split = |text: &str| escape(&text.replace(':', " : "));
    match certificate.split_once(' ') {
        Some(("weighted", weights)) => {
            format!("Joint ℓ<sub>2</sub> with weights {}", split(weights))
        }
        Some(("ray", parts)) => format!("Budgets in the ratio {}", split(parts)),
        Some(("optimal", _)) => "Each modality\u{2019}s part of the worst joint attack".into(),
        Some(("any-missing,", _)) => "Any one modality missing, equal budgets on the others".into(),
        _ => threat_title(&Threat {
            name: certificate.to_owned(),
            norm: "l2".into(),
        }),
    }
}
