//! The diagnosis: quantities side by side, shares as bars, margins as distributions, and each
//! sample's preference against its vulnerability. Does not know how any of it was measured.
use super::bars;
use super::figures::Gallery;
use super::html::{count, escape, figure, group, listed, section, table};
use super::plot::{Axis, Plot};
use super::run_record::RunRecord;
use crate::diagnosis::{Amount, Diagnosis, OfModality, OfSample, compare, names, story};
use crate::sandwich::evidence;

const SIZE: (f64, f64) = (440.0, 250.0);
/// Classes of series in the style sheet.
const COLOURS: usize = 6;
/// A plot shows at most so many samples.
const MOST_DOTS: usize = 600;
/// Runs share an axis unless one's values spread so many times as far as another's.
const COMPARABLE: f64 = 4.0;

/// A run that was diagnosed, with its title.
type Told<'a> = (&'a str, &'a Diagnosis);

/// The section; runs that were not diagnosed are named at its end.
pub fn diagnosis(runs: &[RunRecord], gallery: &Gallery) -> String {
    let told: Vec<Told<'_>> = runs
        .iter()
        .filter_map(|run| Some((run.title.as_str(), run.diagnosis.as_ref()?)))
        .collect();
    if told.is_empty() {
        return String::new();
    }
    let others: Vec<String> = runs
        .iter()
        .filter(|run| run.diagnosis.is_none())
        .map(|run| escape(&run.title))
        .collect();
    let others = match others.is_empty() {
        true => String::new(),
        false => format!(
            "<p class=\"fine\">Not diagnosed: {}.</p>\n",
            listed(&others)
        ),
    };
    section(
        "Diagnosis",
        "A modality is <b>preferred</b> as far as it brings the right answer, and <b>vulnerable</b> as far as the worst \
         joint attack goes through it: two questions, for each sample and on average.",
        &[
            stories(&told),
            quantities(&told),
            shares(&told),
            margins(&told, gallery),
            scatters(&told, gallery),
            others,
        ]
        .concat(),
    )
}

fn runs<'a>(told: &[Told<'a>]) -> Vec<&'a Diagnosis> {
    told.iter().map(|(_, run)| *run).collect()
}

fn stories(told: &[Told<'_>]) -> String {
    let sentence = |(title, run): &Told<'_>| {
        story(run).map(|story| {
            format!(
                "<p class=\"fine\"><b>{}</b> {}.</p>\n",
                escape(title),
                escape(&story)
            )
        })
    };
    told.iter().filter_map(sentence).collect()
}

/// One row for each quantity and modality, one column for each run.
fn quantities(told: &[Told<'_>]) -> String {
    let lines = compare(&runs(told));
    let row = |whose: &str, values: &[Option<Amount<'_>>]| {
        format!(
            "<tr><th scope=\"row\">{}</th>{}</tr>",
            escape(whose),
            values.iter().map(cell).collect::<String>()
        )
    };
    let bodies: String = lines
        .chunk_by(|a, b| a.what == b.what)
        .map(|lines| {
            let rows: String = lines
                .iter()
                .map(|line| row(line.whose, &line.values))
                .collect();
            group(lines[0].what, 1 + told.len(), &rows)
        })
        .collect();
    let heads: String = told
        .iter()
        .map(|(title, _)| format!("<th scope=\"col\">{}</th>", escape(title)))
        .collect();
    let caption = "<b>Quantities side by side</b>: accuracies in %, radii in declared units";
    let note = "<p class=\"fine\">Margins are of all report samples and so are radii (0 where misclassified); preference, \
                vulnerability and η are averages over the samples that are right. Vulnerability and η rest on the constants of the radii.</p>\n";
    table(
        "",
        caption,
        &format!("<th scope=\"col\">modality</th>{heads}"),
        &bodies,
    ) + note
}

fn cell(value: &Option<Amount<'_>>) -> String {
    let Some(amount) = value else {
        return "<td>–</td>".into();
    };
    let (word, class) = amount.evidence().map_or(("", "plain"), evidence);
    match *amount {
        Amount::Part(part) | Amount::Claimed(part, _) if part.is_finite() => {
            format!(
                "<td class=\"bar {class}\" style=\"--v:{:.3}\">{}</td>",
                part.clamp(0.0, 1.0),
                amount.text()
            )
        }
        Amount::Radius(..) => format!(
            "<td>{}<small class=\"{class}\">{word}</small></td>",
            amount.text()
        ),
        Amount::Ratio(..) => format!(
            "<td>{}<small class=\"{class}\">{}</small></td>",
            amount.text(),
            constants(class)
        ),
        _ => format!("<td>{}</td>", amount.text()),
    }
}

/// What a ratio of constants rests on: it is no certificate of anything.
fn constants(class: &str) -> &'static str {
    if class == "certified" {
        "proved constants"
    } else {
        "estimated constants"
    }
}

/// Who is preferred and who is vulnerable, a bar for each run.
fn shares(told: &[Told<'_>]) -> String {
    type Of = fn(&OfModality) -> Option<f64>;
    let questions: [(&str, Of); 3] = [
        ("Preferred: Shapley share of accuracy", |m| m.shapley_share),
        ("Preferred: mean preference share", |m| m.preference),
        ("Vulnerable: mean vulnerability share", |m| m.vulnerability),
    ];
    let names = names(&runs(told));
    let of = |(question, of): (&str, Of)| {
        let bar = |(title, run): &Told<'_>| {
            let part = |m: &'_ OfModality| of(m).map(|share| (place(&names, &m.name), share));
            let parts: Vec<(usize, f64)> = run.modalities.iter().filter_map(part).collect();
            let parts: Vec<_> = parts
                .iter()
                .map(|(place, share)| (names[*place], *share, *place))
                .collect();
            bars::bar(title, question, &parts)
        };
        let bars: String = told.iter().map(bar).collect();
        if bars.is_empty() {
            bars
        } else {
            format!("<h4>{question}</h4>\n{bars}")
        }
    };
    let content: String = questions.map(of).concat();
    if content.is_empty() || names.len() < 2 {
        return String::new();
    }
    let key = bars::key(names.iter().copied());
    format!(
        "<h3>Preferred and vulnerable, on average</h3>\n<div class=\"shares\">{content}{key}</div>\n"
    )
}

fn place(names: &[&str], name: &str) -> usize {
    names.iter().position(|n| *n == name).unwrap_or(0)
}

/// Distributions of the uni-modal margins, a chart for each run, on one axis where that serves them
/// all.
fn margins(told: &[Told<'_>], gallery: &Gallery) -> String {
    let reaches: Vec<Option<(f64, f64)>> = told.iter().map(|(_, run)| reach(run)).collect();
    let widths = || reaches.iter().flatten().map(|(low, high)| high - low);
    let (least, greatest) = widths().fold((f64::INFINITY, 0.0), |(a, b), w| {
        (f64::min(a, w), f64::max(b, w))
    });
    let all = reaches
        .iter()
        .flatten()
        .fold((0.0, 0.0), |(a, b), (low, high)| {
            (f64::min(a, *low), f64::max(b, *high))
        });
    let common = greatest <= COMPARABLE * least;
    let charts: String = told
        .iter()
        .zip(&reaches)
        .filter_map(|((title, run), own)| {
            let own = (*own)?;
            let chart = distribution(title, run, if common { all } else { own });
            Some(figure(
                &format!("<b>{}</b>", escape(title)),
                &gallery.hang(chart),
            ))
        })
        .collect();
    if charts.is_empty() {
        return charts;
    }
    let scales = if common {
        ""
    } else {
        " The runs' axes differ: their features are not of one size."
    };
    format!(
        "<h3>Uni-modal margins</h3>\n<p class=\"fine\">How clearly each modality's own head decides: the distance of its \
         features to the nearest boundary of that head, negative where it is wrong. The ends hold all that lies \
         beyond.{scales}</p>\n<div class=\"grid wide\">{charts}</div>\n"
    )
}

/// Where most margins of a run are, and 0.
fn reach(run: &Diagnosis) -> Option<(f64, f64)> {
    let of = |m: &OfModality| {
        let (low, high) = (m.margin.at(0.05)?, m.margin.at(0.95)?);
        let beyond = 0.4 * (high - low);
        let reach = (
            f64::max(m.margin.at(0.0)?, low - beyond),
            f64::min(m.margin.at(1.0)?, high + beyond),
        );
        (reach.0.is_finite() && reach.1.is_finite()).then_some(reach)
    };
    let reaches = run.modalities.iter().filter_map(of);
    reaches.fold(None, |all, (low, high)| {
        let (a, b) = all.unwrap_or((0.0, 0.0));
        Some((f64::min(a, low), f64::max(b, high)))
    })
}

fn distribution(title: &str, run: &Diagnosis, (low, high): (f64, f64)) -> Plot {
    let high = if high > low { high } else { low + 1.0 };
    let bins = ((run.rows.len() as f64).sqrt() as usize).clamp(8, 40);
    let width = (high - low) / bins as f64;
    let steps = |m: usize| {
        let mut counts = vec![0usize; bins];
        for margin in run
            .rows
            .iter()
            .filter_map(|row| row.modalities.get(m))
            .map(|of| of.margin)
        {
            // What is no number counts as the lowest.
            counts[(((margin - low) / width).max(0.0) as usize).min(bins - 1)] += 1;
        }
        let part = |n: usize| n as f64 / run.rows.len().max(1) as f64;
        let ends = |(i, n): (usize, usize)| [i, i + 1].map(|i| (low + i as f64 * width, part(n)));
        counts
            .into_iter()
            .enumerate()
            .flat_map(ends)
            .collect::<Vec<_>>()
    };
    let lines: Vec<_> = (0..run.modalities.len())
        .map(|m| (format!("s{}", m % COLOURS), steps(m)))
        .collect();
    let peak = |points: &[(f64, f64)]| points.iter().map(|p| p.1).fold(0.0, f64::max);
    let top = lines
        .iter()
        .map(|(_, points)| peak(points))
        .fold(0.0, f64::max);
    let labels = lines
        .iter()
        .zip(&run.modalities)
        .map(|((class, points), m)| (peak(points), class.clone(), m.name.clone()));
    let mut plot = Plot::new(
        &format!("Distribution of the uni-modal margins of {title}"),
        SIZE,
        Axis::plain(low, high, "margin ζ"),
        Axis::percent(
            0.0,
            if top > 0.0 { top * 1.05 } else { 1.0 },
            "% of samples",
        ),
    )
    .labels(labels);
    if low < 0.0 {
        plot.stretch(low, 0.0, "its head is wrong", true);
    }
    for (class, points) in &lines {
        plot.area(points, class);
        plot.line(points, class, false);
    }
    plot
}

/// Each sample's vulnerability share against its preference share, a chart for each modality and
/// run.
fn scatters(told: &[Told<'_>], gallery: &Gallery) -> String {
    let names = names(&runs(told));
    // Of two, the shares of one say those of the other; of one, there is nothing to share.
    let (shown, note) = match names.len() {
        0 | 1 => return String::new(),
        2 => (
            &names[..1],
            format!(
                " Those of {} are what is left of 100&nbsp;%.",
                escape(names[1])
            ),
        ),
        _ => (&names[..], String::new()),
    };
    let charts: String = shown
        .iter()
        .flat_map(|name| {
            told.iter()
                .map(move |(title, run)| scatter(title, run, name, gallery))
        })
        .flatten()
        .collect();
    if charts.is_empty() {
        return charts;
    }
    format!(
        "<h3>Preference and vulnerability of each sample</h3>\n<p class=\"fine\">A dot is a sample that is right. On the \
         diagonal a modality is as vulnerable as it is preferred; above it, it is attacked more than it serves. The black \
         or white dot is the mean.{note}</p>\n<div class=\"grid wide\">{charts}</div>\n"
    )
}

fn scatter(title: &str, run: &Diagnosis, name: &str, gallery: &Gallery) -> Option<String> {
    let m = run.modalities.iter().position(|m| m.name == name)?;
    let dot = |row: &OfSample| {
        let of = row.modalities.get(m).filter(|_| row.is_right())?;
        Some((of.preference?, of.vulnerability))
    };
    let all: Vec<(f64, f64)> = run.rows.iter().filter_map(dot).collect();
    let every = all.len().div_ceil(MOST_DOTS).max(1);
    let dots: Vec<(f64, f64)> = all.iter().step_by(every).copied().collect();
    if dots.is_empty() || run.modalities.len() < 2 {
        return None;
    }
    let mut plot = Plot::new(
        &format!("Vulnerability share against preference share of {name}, each sample of {title}"),
        SIZE,
        Axis::percent(0.0, 1.0, "preference share, %"),
        Axis::percent(0.0, 1.0, "vulnerability share, %"),
    );
    plot.line(&[(0.0, 0.0), (1.0, 1.0)], "clean", false);
    plot.dots(&dots, &format!("s{}", m % COLOURS));
    if let (Some(preference), Some(vulnerability)) = (
        run.modalities[m].preference,
        run.modalities[m].vulnerability,
    ) {
        plot.line(&[(preference, vulnerability)], "total", true);
    }
    let of = match every {
        1 => format!("{} samples", count(all.len() as u64)),
        _ => format!("one in {every} of {} samples", count(all.len() as u64)),
    };
    let (_, class) = evidence(&run.evidence);
    plot.explain("total", &format!("mean of {of}; {}", constants(class)));
    let caption = format!(
        "<b>{}</b> of {} <small class=\"{class}\">{of}; {}</small>",
        escape(name),
        escape(title),
        constants(class)
    );
    Some(figure(&caption, &gallery.hang(plot)))
}
