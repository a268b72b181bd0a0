//! How training went: the parts of the loss and the selection accuracy by epoch, the phases marked.
//! Knows no objective: it draws whatever parts the records name.
use super::figures::Gallery;
use super::html::{escape, figure, section};
use super::plot::{Axis, Plot, range};
use super::run_record::RunRecord;
use crate::record::EpochMetrics;
use std::collections::{BTreeMap, BTreeSet};

const SIZE: (f64, f64) = (380.0, 230.0);

/// Epoch and value.
type Points = Vec<(f64, f64)>;
/// Numbers of an epoch, by name.
type Of = fn(&EpochMetrics) -> &BTreeMap<String, f64>;

/// The section; runs without epochs (attacked or certified only) are left out.
pub fn training(runs: &[RunRecord], gallery: &Gallery) -> String {
    // One colour per name on the whole page.
    let names: BTreeSet<&String> = runs
        .iter()
        .flat_map(|run| &run.metrics)
        .flat_map(|m| m.parts.keys())
        .collect();
    let content: String = runs
        .iter()
        .filter(|run| !run.metrics.is_empty())
        .map(|run| {
            // Each phase minimises something else, so each has its own scale.
            let losses: String = phases(run)
                .map(|(_, phase)| {
                    figure(
                        &loss_caption(phase),
                        &gallery.hang(losses(run, phase, &names)),
                    )
                })
                .collect();
            let accuracy = figure(
                "Accuracy on the selection split",
                &gallery.hang(accuracy(run)),
            );
            let by_name = |what: &str, axis: &str, of: Of| {
                named(run, what, axis, of)
                    .map_or_else(String::new, |plot| figure(what, &gallery.hang(plot)))
            };
            let margins = by_name("Margin of each modality alone", "margin", |m| &m.margins);
            let gradients = by_name("Gradient norm of each encoder", "norm", |m| {
                &m.gradient_norms
            });
            let all = format!("{losses}{accuracy}{margins}{gradients}");
            format!(
                "<h3>{}</h3>\n<div class=\"grid\">{all}</div>\n",
                escape(&run.title)
            )
        })
        .collect();
    section(
        "Training",
        "The loss on the training split and, on samples kept aside, the accuracy: clean, and under a quick attack on \
         the first of them. The best epoch was chosen there; the report split played no part in it. What a modality's own \
         scores say of the training samples, and how large its encoder's gradients are, shows which one training \
         leans on.",
        &content,
    )
}

/// Each phase with the number of epochs before it.
fn phases(run: &RunRecord) -> impl Iterator<Item = (usize, &[EpochMetrics])> {
    run.metrics
        .chunk_by(|a, b| a.phase == b.phase)
        .scan(0, |before, phase| {
            let start = *before;
            *before += phase.len();
            Some((start, phase))
        })
}

fn name(phase: &[EpochMetrics]) -> String {
    phase
        .first()
        .map_or(String::new(), |m| m.phase.replace('-', " "))
}

fn loss_caption(phase: &[EpochMetrics]) -> String {
    format!("Loss and its parts, {}", escape(&name(phase)))
}

fn epochs(count: usize) -> Axis {
    Axis::plain(0.5, count as f64 + 0.5, "epoch").whole()
}

fn series(metrics: &[EpochMetrics], value: impl Fn(&EpochMetrics) -> f64) -> Points {
    metrics
        .iter()
        .enumerate()
        .map(|(i, m)| (i as f64 + 1.0, value(m)))
        .collect()
}

fn losses(run: &RunRecord, phase: &[EpochMetrics], names: &BTreeSet<&String>) -> Plot {
    let mut lines: Vec<(String, String, Points)> = names
        .iter()
        .enumerate()
        .filter(|(_, part)| phase.iter().any(|m| m.parts.contains_key(**part)))
        .map(|(i, part)| {
            let points = series(phase, |m| m.parts.get(*part).copied().unwrap_or(f64::NAN));
            (format!("s{}", i % 6), part.replace('_', " "), points)
        })
        .collect();
    lines.push(("total".into(), "loss".into(), series(phase, |m| m.loss)));
    let (low, high) = range(lines.iter().flat_map(|l| l.2.iter().map(|p| p.1)), 1e-3);
    let labels = lines
        .iter()
        .map(|(class, part, points)| (end(points), class.clone(), part.clone()));
    let title = format!("Training loss of {} by epoch, {}", run.title, name(phase));
    let mut plot = Plot::new(
        &title,
        SIZE,
        epochs(phase.len()),
        Axis::plain(low, high, "loss"),
    )
    .labels(labels);
    // The total comes last and is drawn first, broad, so that a part equal to it shows on top.
    lines
        .iter()
        .rev()
        .for_each(|(class, _, points)| plot.line(points, class, false));
    plot
}

/// A line for each name, in the first phase alone; nothing where nothing was recorded.
fn named(run: &RunRecord, what: &str, axis: &str, of: Of) -> Option<Plot> {
    let (_, phase) = phases(run).next()?;
    let mut names: Vec<&String> = phase
        .iter()
        .flat_map(|m| of(m).keys())
        .collect::<BTreeSet<_>>()
        .into_iter()
        .collect();
    if names.is_empty() {
        return None;
    }
    // The modalities in their order, so that each has one colour in every plot; then whatever else
    // there is.
    let place = |name: &String| {
        run.summary
            .modalities
            .iter()
            .position(|m| m == name)
            .unwrap_or(usize::MAX)
    };
    names.sort_by_key(|name| place(name));
    let lines: Vec<(String, &String, Points)> = names
        .into_iter()
        .enumerate()
        .map(|(i, name)| {
            (
                format!("s{}", i % 6),
                name,
                series(phase, |m| of(m).get(name).copied().unwrap_or(f64::NAN)),
            )
        })
        .collect();
    let (low, high) = range(lines.iter().flat_map(|l| l.2.iter().map(|p| p.1)), 1e-3);
    let labels = lines
        .iter()
        .map(|(class, name, points)| (end(points), class.clone(), (*name).clone()));
    let title = format!("{what} of {} by epoch, {}", run.title, name(phase));
    let mut plot = Plot::new(
        &title,
        SIZE,
        epochs(phase.len()),
        Axis::plain(low, high, axis),
    )
    .labels(labels);
    lines
        .iter()
        .for_each(|(class, _, points)| plot.line(points, class, false));
    Some(plot)
}

/// The last value there is.
fn end(points: &Points) -> f64 {
    points
        .iter()
        .rev()
        .map(|p| p.1)
        .find(|v| v.is_finite())
        .unwrap_or(f64::NAN)
}

/// Over all phases, one after the other: clean, and under the probe where there was one.
fn accuracy(run: &RunRecord) -> Plot {
    let clean = series(&run.metrics, |m| m.select_accuracy);
    let attacked = series(&run.metrics, |m| m.select_attacked.unwrap_or(f64::NAN));
    let probed = attacked.iter().any(|p| p.1.is_finite());
    let (low, high) = range(clean.iter().chain(&attacked).map(|p| p.1), 0.02);
    let title = format!("Selection accuracy of {} by epoch", run.title);
    let axis = Axis::percent(low.max(0.0), high.min(1.0), "accuracy, %");
    let labels = [(&clean, "s0", "clean"), (&attacked, "s1", "attacked")]
        .into_iter()
        .filter(|_| probed);
    let labels =
        labels.map(|(points, class, name)| (end(points), class.to_owned(), name.to_owned()));
    let mut plot = Plot::new(&title, SIZE, epochs(run.metrics.len()), axis).labels(labels);
    for (index, (before, phase)) in phases(run).enumerate() {
        let (from, to) = (before as f64 + 0.5, (before + phase.len()) as f64 + 0.5);
        plot.stretch(from, to, &name(phase), index % 2 == 1);
    }
    plot.line(&clean, "s0", clean.len() <= 40);
    plot.line(&attacked, "s1", attacked.len() <= 40);
    plot
}
