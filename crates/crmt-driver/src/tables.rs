//! The results of runs as tables for the terminal.
//! Does not compute anything, nor know how wide a terminal is.
use crate::{
    drawn, layout,
    record::{
        CertifiedResult, Falsification, SmoothedAttack, SmoothedResult, SmoothingResult, Summary,
        mean_accuracy,
    },
    sandwich::{Cell, cells, program, sides},
};

/// A run's results under the name it goes by beside the others.
pub type Named<'a> = (&'a str, &'a Summary);

/// The sandwich of several runs: clean ≥ strongest attack ≥ certified or estimated, on the same
/// samples; at every budget that was attacked or certified.
pub fn sandwich(runs: &[Named<'_>]) -> String {
    let summaries: Vec<&Summary> = runs.iter().map(|(_, run)| *run).collect();
    let (threats, _) = sides(&summaries);
    let (mut rows, mut words) = (vec![], vec![]);
    for (name, run) in runs {
        for threat in &threats {
            let share = |value: Option<f64>| value.map_or_else(|| "–".to_owned(), percent);
            let row = |cell: Cell| {
                let claim = |class| share(cell.claim(class).filter(|_| cell.same));
                let budget = format!("{} {}", threat.norm, cell.eps);
                let (clean, attacked) = (percent(cell.clean), share(cell.attacked));
                [
                    name.to_string(),
                    threat.name.clone(),
                    budget,
                    clean,
                    attacked,
                    claim("certified"),
                    claim("estimated"),
                ]
            };
            rows.extend(cells(run, threat).into_iter().map(row));
        }
        if let Some(attack) = run.attacks.first() {
            let of = drawn::told(
                attack.samples,
                run.accuracy.samples,
                run.drawn.contains_key("evaluate"),
            );
            words.push(layout::paragraph(&format!("  {name}: of {of}"), 2));
        }
        words.extend(
            program(run).map(|program| layout::paragraph(&format!("  {name}: {program}"), 2)),
        );
    }
    let mut units: Vec<String> = summaries
        .iter()
        .filter(|run| run.units.values().any(|u| *u != 1.0))
        .map(|r| r.unit())
        .collect();
    units.dedup();
    words.extend(
        units.iter().map(|u| {
            layout::paragraph(&format!("  one unit of budget, in the arrays' own: {u}"), 2)
        }),
    );
    let header = [
        "run",
        "threat",
        "budget",
        "clean",
        "attacked",
        "certified",
        "estimated",
    ];
    layout::table(&header, &rows, 3) + &words.concat()
}

/// What each attack left standing, and how near the nearest adversarials are; nothing unless there
/// were several.
pub fn attacks(runs: &[Named<'_>]) -> Option<String> {
    let (mut rows, mut nearest) = (vec![], vec![]);
    for (name, run) in runs {
        for series in run
            .attacks
            .chunk_by(|a, b| (&a.threat, &a.norm) == (&b.threat, &b.norm))
        {
            let mut names: Vec<&str> = vec![];
            series.iter().for_each(|a| {
                names.extend(Some(a.name.as_str()).filter(|name| !names.contains(name)))
            });
            for attack in names {
                let own = || series.iter().filter(|a| a.name == attack);
                let budgets = own()
                    .map(|a| a.eps.to_string())
                    .collect::<Vec<_>>()
                    .join(" / ");
                let left = own()
                    .map(|a| format!("{:.1}", 100.0 * a.accuracy))
                    .collect::<Vec<_>>()
                    .join(" / ");
                let of = if series[0].precision == crate::precision::Precision::F64 {
                    " in f64"
                } else {
                    ""
                };
                let threat = format!("{}, {} {budgets}{of}", series[0].threat, series[0].norm);
                rows.push([name.to_string(), threat, attack.to_owned(), left]);
            }
        }
        for n in &run.nearest {
            let split: Vec<String> = n
                .split
                .iter()
                .map(|(modality, share)| format!("{modality} {}", percent(*share)))
                .collect();
            let most = if n.looked { "" } else { "≤ " };
            let median = n
                .median
                .map_or_else(|| "–".into(), |d| format!("{most}{d:.3}"));
            let found = format!("{} of {}", n.found, n.samples);
            nearest.push([
                name.to_string(),
                format!("{}, {}", n.threat, n.norm),
                split.join(", "),
                found,
                median,
            ]);
        }
    }
    let several = runs.iter().any(|(_, run)| {
        run.attacks
            .iter()
            .any(|a| !["fgm", "pgd", "strongest"].contains(&a.name.as_str()))
    });
    several.then(|| {
        let attacks = layout::table(
            &["run", "threat and budgets", "attack", "% standing"],
            &rows,
            3,
        );
        let header = [
            "run",
            "nearest adversarial",
            "split",
            "found",
            "median distance",
        ];
        format!("{attacks}\n{}", layout::table(&header, &nearest, 3))
    })
}

/// Accuracies with modalities missing, and of each modality's own head.
pub fn modality_table(runs: &[Named<'_>]) -> String {
    let mut rows = vec![];
    for (name, run) in runs {
        rows.push([
            name.to_string(),
            "all present".into(),
            percent(run.accuracy.clean),
        ]);
        // Every subset is in the summary; of many modalities only single ones are shown.
        let few = run.modalities.len() <= 3;
        let shown = |m: &str| few || !m.contains('+');
        let missing = run
            .accuracy
            .missing
            .iter()
            .filter(|(m, _)| shown(m))
            .map(|(m, a)| (format!("without {m}"), a));
        let solo = run
            .accuracy
            .solo
            .iter()
            .map(|(m, a)| (format!("{m}'s own head"), a));
        rows.extend(
            missing
                .chain(solo)
                .map(|(what, a)| [name.to_string(), what, percent(*a)]),
        );
    }
    layout::table(&["run", "modalities", "accuracy"], &rows, 2)
}

/// Accuracies without each set of modalities by what stood in for it; nothing unless others than
/// the declared ones were evaluated.
pub fn baselines(runs: &[Named<'_>]) -> Option<String> {
    let mut rows = vec![];
    for (name, run) in runs
        .iter()
        .filter(|(_, run)| !run.accuracy.missing_by_baseline.is_empty())
    {
        for (missing, declared) in &run.accuracy.missing {
            let by = |baseline: &str| {
                let known = run
                    .accuracy
                    .missing_by_baseline
                    .get(baseline)
                    .and_then(|table| table.get(missing));
                known.map_or_else(|| "–".into(), |a| percent(*a))
            };
            let [zeros, mean, learned] = ["zeros", "mean", "learned"].map(by);
            rows.push([
                name.to_string(),
                format!("without {missing}"),
                percent(*declared),
                zeros,
                mean,
                learned,
            ]);
        }
    }
    let header = [
        "run",
        "in its place:",
        "declared",
        "zeros",
        "mean",
        "learned",
    ];
    (!rows.is_empty()).then(|| layout::table(&header, &rows, 2))
}

/// What attacks strictly inside the certificates did.
pub fn falsification(run: &Summary) -> String {
    let proved = run.falsification.iter().all(|f| f.evidence != "estimated");
    let row = |f: &Falsification| {
        let tight = match f.tightness_samples {
            0 => ["–".into(), "–".into()],
            _ => [
                format!("{:.2}", f.tightness_mean),
                format!("{:.2}", f.tightness_max),
            ],
        };
        let [mean, max] = tight;
        let attacked = f.samples.to_string();
        [
            f.certificate.clone(),
            attacked,
            f.violations.to_string(),
            format!("{:.3}", f.mean_radius),
            mean,
            max,
        ]
    };
    let rows: Vec<_> = run.falsification.iter().map(row).collect();
    let fell = if proved { "violations" } else { "disproved" };
    layout::table(
        &[
            "attacked inside",
            "samples",
            fell,
            "mean radius",
            "tightness, mean",
            "max",
        ],
        &rows,
        1,
    )
}

/// Accuracy by corruption and severity; nothing unless one was measured.
pub fn corruptions(runs: &[Named<'_>]) -> Option<String> {
    let mut rows = vec![];
    for (name, run) in runs {
        for series in run
            .corruptions
            .chunk_by(|a, b| (&a.modality, &a.name) == (&b.modality, &b.name))
        {
            let at = |severity| {
                series
                    .iter()
                    .find(|r| r.severity == severity)
                    .map_or("–".into(), |r| percent(r.accuracy))
            };
            let (first, mean) = (&series[0], percent(mean_accuracy(series)));
            let what = format!("{} of {}", first.name, first.modality);
            rows.push([
                name.to_string(),
                what,
                percent(first.clean),
                at(1),
                at(2),
                at(3),
                at(4),
                at(5),
                mean,
            ]);
        }
    }
    let header = [
        "run",
        "corruption, severity",
        "clean",
        "1",
        "2",
        "3",
        "4",
        "5",
        "mean",
    ];
    (!rows.is_empty()).then(|| layout::table(&header, &rows, 2))
}

/// Certified accuracy of the smoothed networks, by threat and budget; nothing unless one was
/// smoothed.
pub fn smoothed(runs: &[Named<'_>]) -> Option<String> {
    let mut rows = vec![];
    let mut words = vec![];
    for (name, run, smoothing) in runs
        .iter()
        .filter_map(|(name, run)| Some((name, run, run.smoothing.as_ref()?)))
    {
        let sigmas = run
            .modalities
            .iter()
            .filter_map(|m| Some(format!("{m} {}", smoothing.sigmas.get(m)?)));
        let (sigmas, confidence) = (
            sigmas.collect::<Vec<_>>().join(", "),
            confidence(smoothing.alpha_each),
        );
        let (first, draws) = (smoothing.selection_draws, smoothing.draws);
        let of = drawn::told(
            smoothing.samples,
            run.accuracy.samples,
            run.drawn.contains_key("smooth"),
        );
        let line = format!(
            "  {name}: noise of sigma {sigmas}; {first} + {draws} draws; each certificate holds with confidence \
             {confidence} %; of {of}"
        );
        words.push(layout::paragraph(&line, 2));
        let fell: u64 = smoothing.attacks.iter().map(|a| a.fell).sum();
        if let Some(attack) = smoothing.attacks.first() {
            let inside: u64 = smoothing.attacks.iter().map(|a| a.inside).sum();
            let line = format!(
                "  attacked through the noise, judged by {} fresh draws: {fell} of {inside} fell inside their certificates",
                attack.draws
            );
            words.push(layout::paragraph(&line, 2));
        }
        if let Some(judged) = &smoothing.judged {
            let chance = if judged.violations > 0 {
                "beyond"
            } else {
                "within"
            };
            let line = format!(
                "  {} of {} attacked samples fell, {chance} chance alone ({:.2} % each at most)",
                judged.fell,
                judged.samples,
                100.0 * judged.chance
            );
            words.push(layout::paragraph(&line, 2));
        }
        for classifier in &smoothing.classifiers {
            for certified in &classifier.certified {
                rows.push([
                    name.to_string(),
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
    let header = [
        "run",
        "modalities",
        "threat",
        "budget",
        "right",
        "abstained",
        "attacked",
        "certified",
    ];
    let title = "The smoothed network g(x) = argmax P[f(x + noise)], not f itself:\n";
    (!rows.is_empty()).then(|| {
        format!(
            "{title}{}\n{}",
            words.concat(),
            layout::table(&header, &rows, 3)
        )
    })
}

/// What stood under the attack that `certified` is about; only the classifier with every modality
/// was attacked.
fn attacked(
    of: &SmoothingResult,
    classifier: &SmoothedResult,
    certified: &CertifiedResult,
) -> Option<f64> {
    let same = |a: &&SmoothedAttack| a.threat == certified.threat && a.eps == certified.eps;
    of.attacks
        .iter()
        .find(same)
        .filter(|_| classifier.missing.is_empty())
        .map(|a| a.accuracy)
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
                precision: crate::precision::Precision::F32,
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
        let text = sandwich(&[("jt", &run)]);
        let line = |norm: &str| text.lines().find(|l| l.contains(norm)).unwrap().to_owned();
        assert!(
            line("l2 1").contains("50.0 %") && !line("linf 1").contains("50.0 %"),
            "{text}"
        );
    }

    #[test]
    fn confidence_is_never_rounded_up() {
        let told = [0.001, 0.001 / 3.0, 0.05, 0.5, 1e-6].map(confidence);
        assert_eq!(told, ["99.9", "99.966", "95", "50", "99.9999"]);
    }
}
