//! Which classes are taken for which: a heat map of counts, or the largest confusions when there
//! are many classes. Knows nothing of attacks: these are clean predictions on the report split.
use super::html::{count, escape, figure, percent, section, shorten};
use super::run_record::RunRecord;

/// More classes than this do not fit a page as a matrix.
const MATRIX: usize = 20;
const LARGEST: usize = 15;

/// The section.
pub fn confusion(runs: &[RunRecord]) -> String {
    // One scale for all runs, so that equal colours mean equal counts.
    let worst = runs
        .iter()
        .filter_map(|run| mistakes(run).first().map(|m| m.0))
        .max()
        .unwrap_or(1);
    let shown = runs
        .iter()
        .filter(|run| run.summary.confusion.iter().flatten().any(|n| *n > 0));
    let figures: String = shown
        .map(|run| {
            let size = run.summary.confusion.len().max(
                run.summary
                    .confusion
                    .iter()
                    .map(Vec::len)
                    .max()
                    .unwrap_or(0),
            );
            let body = if size <= MATRIX {
                matrix(run, size, worst as f64)
            } else {
                largest(run)
            };
            figure(
                &format!("<b>{}</b>: {}", escape(&run.title), outline(run)),
                &body,
            )
        })
        .collect();
    let content = if figures.is_empty() {
        figures
    } else {
        format!("<div class=\"row\">{figures}</div>\n")
    };
    section(
        "Which classes are confused",
        "Without an attacker, on the whole report split. Rows: true class; columns: prediction.",
        &content,
    )
}

fn name(run: &RunRecord, class: usize) -> String {
    run.summary.classes.get(class).map_or_else(
        || format!("class {class}"),
        |name| escape(&shorten(name, 40)),
    )
}

/// Wrong predictions, most frequent first: `(count, label, prediction)`.
fn mistakes(run: &RunRecord) -> Vec<(u64, usize, usize)> {
    let rows = run.summary.confusion.iter().enumerate();
    let mut all: Vec<_> = rows
        .flat_map(|(y, row)| row.iter().enumerate().map(move |(p, n)| (*n, y, p)))
        .filter(|(n, y, p)| *n > 0 && y != p)
        .collect();
    all.sort_by_key(|(n, y, p)| (std::cmp::Reverse(*n), *y, *p));
    all
}

/// A sum that stops at the end of its type: the counts are read from a file.
fn total<'a>(counts: impl Iterator<Item = &'a u64>) -> u64 {
    counts.fold(0, |sum, n| sum.saturating_add(*n))
}

fn outline(run: &RunRecord) -> String {
    let (mistakes, all) = (mistakes(run), total(run.summary.confusion.iter().flatten()));
    let wrong = total(mistakes.iter().map(|m| &m.0));
    match mistakes.first() {
        None => format!("all {} right", count(all)),
        Some((n, y, p)) => format!(
            "{} of {} wrong, most often {} taken for {} ({})",
            count(wrong),
            count(all),
            name(run, *y),
            name(run, *p),
            count(*n)
        ),
    }
}

fn matrix(run: &RunRecord, size: usize, worst: f64) -> String {
    let at = |y: usize, p: usize| {
        run.summary
            .confusion
            .get(y)
            .and_then(|row| row.get(p))
            .copied()
            .unwrap_or(0)
    };
    let most = (0..size).map(|k| at(k, k)).max().unwrap_or(1).max(1) as f64;
    let upright = if (0..size).any(|k| name(run, k).chars().count() > 3) {
        " class=\"upright\""
    } else {
        ""
    };
    let head: String = (0..size)
        .map(|k| {
            format!(
                "<th scope=\"col\"{upright}><span>{}</span></th>",
                name(run, k)
            )
        })
        .collect();
    let cell = |y: usize, p: usize| match at(y, p) {
        0 => "<td class=\"none\">·</td>".into(),
        // Square root: a single mistake stays visible beside the largest.
        n if y == p => {
            format!(
                "<td class=\"right\" style=\"--h:{:.0}%\">{n}</td>",
                20.0 + 40.0 * (n as f64 / most).sqrt()
            )
        }
        n => format!(
            "<td class=\"mistake\" style=\"--h:{:.0}%\">{n}</td>",
            15.0 + 45.0 * (n as f64 / worst).sqrt()
        ),
    };
    let rows: String = (0..size)
        .map(|y| {
            let cells: String = (0..size).map(|p| cell(y, p)).collect();
            format!("<tr><th scope=\"row\">{}</th>{cells}</tr>", name(run, y))
        })
        .collect();
    format!(
        "<div class=\"scroll\" tabindex=\"0\"><table class=\"heat\"><thead><tr><td></td>{head}</tr></thead><tbody>{rows}</tbody></table></div>"
    )
}

fn largest(run: &RunRecord) -> String {
    let mistakes = mistakes(run);
    if mistakes.is_empty() {
        return String::new();
    }
    let rows: String = mistakes
        .iter()
        .take(LARGEST)
        .map(|(n, y, p)| {
            let of = total(run.summary.confusion[*y].iter());
            format!(
                "<tr><th scope=\"row\">{}</th><td class=\"word\">{}</td><td>{}</td><td>{}</td></tr>",
                name(run, *y),
                name(run, *p),
                count(*n),
                percent(*n as f64 / of as f64)
            )
        })
        .collect();
    format!(
        "<div class=\"scroll\" tabindex=\"0\"><table><thead><tr><th scope=\"col\">true class</th><th scope=\"col\" class=\"word\">taken for</th>\
         <th scope=\"col\">times</th><th scope=\"col\">% of the class</th></tr></thead><tbody>{rows}</tbody></table></div>"
    )
}
