//! Common corruptions: accuracy against severity, one chart for each modality, and a table with
//! means. Knows no corruption by name.
use super::figures::Gallery;
use super::html::{escape, figure, group, percent, section, table};
use super::plot::{Axis, Plot};
use super::run_record::RunRecord;
use crate::drawn;
use crate::record::{CorruptionResult, mean_accuracy};

const SIZE: (f64, f64) = (440.0, 240.0);
/// Classes of series in the style sheet.
const COLOURS: usize = 7;

/// The section; runs that were not measured are left out.
pub fn corruptions(runs: &[RunRecord], gallery: &Gallery) -> String {
    // One colour per name on the whole page.
    let mut names: Vec<&str> = vec![];
    for result in runs.iter().flat_map(|run| &run.summary.corruptions) {
        if !names.contains(&result.name.as_str()) {
            names.push(&result.name);
        }
    }
    let measured = runs
        .iter()
        .filter(|run| !run.summary.corruptions.is_empty());
    section(
        "Common corruptions",
        "Nobody attacks, but one modality's signal is bad, from severity 1 (mild) to 5 (severe); the others are intact. \
         The same samples throughout, and the same draw at every severity.",
        &measured
            .map(|run| told(run, &names, gallery))
            .collect::<String>(),
    )
}

fn told(run: &RunRecord, names: &[&str], gallery: &Gallery) -> String {
    let charts: String = of_modalities(run)
        .map(|(modality, results)| {
            figure(
                &format!("<b>{}</b> corrupted", escape(modality)),
                &gallery.hang(chart(run, modality, results, names)),
            )
        })
        .collect();
    format!(
        "<h3>{}</h3>\n{}<div class=\"grid wide\">{charts}</div>\n{}",
        escape(&run.title),
        worst(run).map_or(String::new(), |sentence| format!(
            "<p class=\"fine\">{sentence}</p>\n"
        )),
        means(run)
    )
}

/// Each modality with its results.
fn of_modalities(run: &RunRecord) -> impl Iterator<Item = (&str, &[CorruptionResult])> {
    let all = run
        .summary
        .corruptions
        .chunk_by(|a, b| a.modality == b.modality);
    all.map(|results| (results[0].modality.as_str(), results))
}

/// The severities of one corruption after another.
fn of_names(results: &[CorruptionResult]) -> impl Iterator<Item = (&str, &[CorruptionResult])> {
    results
        .chunk_by(|a, b| a.name == b.name)
        .map(|series| (series[0].name.as_str(), series))
}

fn chart(run: &RunRecord, modality: &str, results: &[CorruptionResult], names: &[&str]) -> Plot {
    type Line<'a> = (String, &'a str, Vec<(f64, f64)>);
    let lines: Vec<Line> = of_names(results)
        .map(|(name, series)| {
            let colour = names.iter().position(|n| *n == name).unwrap_or(0) % COLOURS;
            let points = series.iter().map(|r| (f64::from(r.severity), r.accuracy));
            (
                format!("s{colour}"),
                name,
                std::iter::once((0.0, series[0].clean))
                    .chain(points)
                    .collect(),
            )
        })
        .collect();
    let end = |points: &[(f64, f64)]| points.last().map_or(f64::NAN, |p| p.1);
    let labels = lines
        .iter()
        .map(|(class, name, points)| (end(points), class.clone(), (*name).to_owned()));
    let mut plot = Plot::new(
        &format!(
            "Accuracy of {} against the severity of corruptions of {modality}",
            run.title
        ),
        SIZE,
        Axis::plain(0.0, 5.0, "severity (0: clean)").whole(),
        Axis::percent(0.0, 1.0, "accuracy, %"),
    )
    .labels(labels);
    lines
        .iter()
        .for_each(|(class, _, points)| plot.line(points, class, true));
    plot
}

/// A group of rows for each modality, a row for each corruption.
fn means(run: &RunRecord) -> String {
    let Some(first) = run.summary.corruptions.first() else {
        return String::new();
    };
    let cell = |value: Option<f64>| match value.filter(|v| v.is_finite()) {
        Some(v) => format!(
            "<td class=\"bar s0\" style=\"--v:{:.3}\">{}</td>",
            v.clamp(0.0, 1.0),
            percent(v)
        ),
        None => "<td>–</td>".into(),
    };
    let row = |(name, series): (&str, &[CorruptionResult])| {
        let at = |severity| {
            series
                .iter()
                .find(|r| r.severity == severity)
                .map(|r| r.accuracy)
        };
        let cells: String = (1..=5).map(|severity| cell(at(severity))).collect();
        format!(
            "<tr><th scope=\"row\">{}</th>{cells}<td><b>{}</b></td></tr>",
            escape(name),
            percent(mean_accuracy(series))
        )
    };
    let body = |(modality, results): (&str, &[CorruptionResult])| {
        let mean = of_names(results).map(|(_, series)| mean_accuracy(series));
        let mean = mean.sum::<f64>() / of_names(results).count() as f64;
        let heading = format!(
            "{} <small>mean {} %</small>",
            escape(modality),
            percent(mean)
        );
        group(&heading, 7, &of_names(results).map(row).collect::<String>())
    };
    let severities: String = (1..=5)
        .map(|s| format!("<th scope=\"col\">{s}</th>"))
        .collect();
    let head = format!("<th scope=\"col\">severity</th>{severities}<th scope=\"col\">mean</th>");
    let caption = format!(
        "<b>Accuracy, %</b>, {} % right without corruption; of {}",
        percent(first.clean),
        drawn::told(
            first.samples,
            run.summary.accuracy.samples,
            run.summary.drawn.contains_key("corrupt")
        )
    );
    table(
        "sandwich",
        &caption,
        &head,
        &of_modalities(run).map(body).collect::<String>(),
    )
}

/// The corruption with the lowest mean.
fn worst(run: &RunRecord) -> Option<String> {
    let all = of_modalities(run)
        .flat_map(|(modality, results)| of_names(results).map(move |(n, s)| (modality, n, s)));
    let known = all
        .map(|(modality, name, series)| (modality, name, mean_accuracy(series), series[0].clean));
    let (modality, name, mean, clean) = known
        .filter(|k| k.2.is_finite())
        .min_by(|a, b| a.2.total_cmp(&b.2))?;
    Some(format!(
        "Worst on average: <b>{}</b> of {}, {} % right instead of {} %.",
        escape(name),
        escape(modality),
        percent(mean),
        percent(clean)
    ))
}
