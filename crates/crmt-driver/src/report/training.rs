//! How training went: the parts of the loss and the selection accuracy by epoch, the phases marked.
//! Knows no objective: it draws whatever parts the records name.
use super::RunRecord;
use super::html::{escape, figure, section};
use super::plot::{Axis, Plot, range};
use crate::record::EpochMetrics;
use std::collections::BTreeSet;

const SIZE: (f64, f64) = (440.0, 230.0);

/// The section; runs without epochs (attacked or certified only) are left out.
pub fn training(runs: &[RunRecord]) -> String {
    // One colour per name on the whole page.
    let names: BTreeSet<&String> = runs.iter().flat_map(|run| &run.metrics).flat_map(|m| m.parts.keys()).collect();
    let content: String = runs
        .iter()
        .filter(|run| !run.metrics.is_empty())
        .map(|run| {
            format!(
                "<h3>{}</h3>\n<div class=\"grid wide\">{}{}</div>\n",
                escape(&run.title),
                figure("Training loss and its parts", &losses(run, &names)),
                figure("Accuracy on the selection split", &accuracy(run))
            )
        })
        .collect();
    section(
        "Training",
        "The loss on the training split and, on samples kept aside, the accuracy by which the best epoch was chosen; \
         the report split played no part in it.",
        &content,
    )
}

/// Epoch and value.
type Points = Vec<(f64, f64)>;

/// Epochs in order of training, so that the phases follow one another. Where `parted`, a gap separates phases, whose
/// values measure different things.
fn series(run: &RunRecord, parted: bool, value: impl Fn(&EpochMetrics) -> f64) -> Points {
    let mut points = Vec::new();
    for (i, metrics) in run.metrics.iter().enumerate() {
        if parted && i > 0 && run.metrics[i - 1].phase != metrics.phase {
            points.push((i as f64 + 0.5, f64::NAN));
        }
        points.push((i as f64 + 1.0, value(metrics)));
    }
    points
}

/// Value of the last epoch that has one.
fn end(points: &[(f64, f64)]) -> f64 {
    points.iter().rev().map(|p| p.1).find(|v| v.is_finite()).unwrap_or(f64::NAN)
}

fn epochs(run: &RunRecord) -> Axis {
    Axis::plain(0.5, run.metrics.len() as f64 + 0.5, "epoch").whole()
}

fn phases(run: &RunRecord, plot: &mut Plot) {
    let mut from = 0;
    for (index, phase) in run.metrics.chunk_by(|a, b| a.phase == b.phase).enumerate() {
        let name = phase[0].phase.replace('-', " ");
        plot.stretch(from as f64 + 0.5, (from + phase.len()) as f64 + 0.5, &name, index % 2 == 1);
        from += phase.len();
    }
}

fn losses(run: &RunRecord, names: &BTreeSet<&String>) -> String {
    let mut lines: Vec<(String, String, Points)> = names
        .iter()
        .enumerate()
        .filter(|(_, name)| run.metrics.iter().any(|m| m.parts.contains_key(**name)))
        .map(|(i, name)| {
            let points = series(run, true, |m| m.parts.get(*name).copied().unwrap_or(f64::NAN));
            (format!("s{}", i % 6), name.replace('_', " "), points)
        })
        .collect();
    lines.push(("total".into(), "loss".into(), series(run, true, |m| m.loss)));
    let (low, high) = range(lines.iter().flat_map(|l| l.2.iter().map(|p| p.1)), 1e-3);
    let labels = lines.iter().map(|(class, name, points)| (end(points), class.clone(), name.clone()));
    let title = format!("Training loss of {} by epoch", run.title);
    let mut plot = Plot::new(&title, SIZE, epochs(run), Axis::plain(low, high, "loss")).labels(labels);
    phases(run, &mut plot);
    lines.iter().for_each(|(class, _, points)| plot.line(points, class, false));
    plot.svg()
}

fn accuracy(run: &RunRecord) -> String {
    let points = series(run, false, |m| m.select_accuracy);
    let (low, high) = range(points.iter().map(|p| p.1), 0.02);
    let title = format!("Selection accuracy of {} by epoch", run.title);
    let axis = Axis::percent(low.max(0.0), high.min(1.0), "accuracy, %");
    let mut plot = Plot::new(&title, SIZE, epochs(run), axis);
    phases(run, &mut plot);
    plot.line(&points, "s0", points.len() <= 40);
    plot.svg()
}
