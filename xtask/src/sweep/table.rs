//! The table of a sweep: mean and standard deviation over seeds for each point of the grid, as text,
//! Markdown and CSV. Knows columns and summaries, not how they came to be.
use super::column::Column;
use super::spec::{Shown, suggestion};
use anyhow::Result;
use serde_json::Value;
use std::collections::BTreeMap;
use std::fmt::Write;

/// A wider table than this is turned on its side if that helps: most terminals show as much.
const WIDE: usize = 120;

/// All runs that differ in their seed alone.
#[derive(Debug, Clone)]
pub struct Point {
    /// Keys and values of the grid, without the seed.
    pub label: Vec<(String, String)>,
    /// The same as people read it.
    pub shown: Vec<(String, String)>,
    /// Seeds asked for.
    pub planned: usize,
    /// What the finished ones say.
    pub summaries: Vec<Value>,
}

/// Mean, sample standard deviation and count.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Stats {
    pub mean: f64,
    /// With `n - 1`; none for a single value.
    pub sd: Option<f64>,
    pub n: usize,
}

impl Stats {
    /// None of no values.
    pub fn of(values: &[f64]) -> Option<Self> {
        let n = values.len();
        if n == 0 {
            return None;
        }
        let mean = values.iter().sum::<f64>() / n as f64;
        let squares = values.iter().map(|value| (value - mean).powi(2)).sum::<f64>();
        Some(Self { mean, sd: (n > 1).then(|| (squares / (n - 1) as f64).sqrt()), n })
    }
}

#[derive(Debug, Clone, Copy)]
struct Cell {
    stats: Stats,
    estimated: bool,
}

/// One column with its `*` filled in.
#[derive(Debug, Clone)]
struct Filled {
    name: String,
    heading: String,
    fraction: bool,
    /// By point.
    cells: Vec<Option<Cell>>,
}

/// Columns side by side.
#[derive(Debug)]
struct Part {
    title: Option<String>,
    columns: Vec<Filled>,
}

/// A sweep's table, in one part or several.
#[derive(Debug)]
pub struct Table {
    points: Vec<Point>,
    parts: Vec<Part>,
    /// What a reader should know before trusting the numbers.
    notes: Vec<String>,
}

/// The numbers of `columns`, and what is missing.
fn fill(points: &[Point], columns: &[Column]) -> (Vec<Filled>, Vec<String>) {
    let mut filled: Vec<Filled> = Vec::new();
    let mut notes = Vec::new();
    for column in columns {
        let names = names(column, points);
        if names.is_empty() && !column.optional && points.iter().any(|point| !point.summaries.is_empty()) {
            notes.push(format!("no run has {}{}", column.text, nearest(column, points)));
        }
        for name in names {
            if filled.iter().all(|other| other.name != name) {
                let cells = points.iter().map(|point| cell(column, &name, point)).collect();
                let heading = column.heading.clone().unwrap_or_else(|| name.clone());
                filled.push(Filled { name, heading, fraction: column.is_fraction(), cells });
            }
        }
    }
    (filled, notes)
}

impl Table {
    /// Gathers the numbers from the summaries.
    pub fn new(points: Vec<Point>, tables: &[Shown]) -> Self {
        let mut notes = Vec::new();
        let part = |shown: &Shown| {
            let (columns, missing) = fill(&points, &shown.columns);
            missing.into_iter().for_each(|note| {
                if !notes.contains(&note) {
                    notes.push(note)
                }
            });
            Part { title: shown.title.clone(), columns }
        };
        let parts = tables.iter().map(part).collect();
        notes.extend(warnings(&points));
        Self { points, parts, notes }
    }

    /// How many runs the table rests on.
    pub fn finished(&self) -> usize {
        self.points.iter().map(|point| point.summaries.len()).sum()
    }

    /// Attacks that succeeded where a certificate said they can't, over all runs.
    pub fn violations(&self) -> u64 {
        violations(&self.points)
    }

    /// Aligned text for a terminal.
    pub fn text(&self) -> String {
        let mut text = String::new();
        for part in &self.parts {
            let upright = self.matrix(part);
            let turned = turn(&upright);
            let rows = if width(&upright) > WIDE && width(&turned) < width(&upright) { turned } else { upright };
            let widths = widths(&rows);
            part.title.iter().for_each(|title| text += &format!("{title}\n"));
            for row in &rows {
                let cells = row.iter().zip(&widths).enumerate().map(|(index, (cell, width))| {
                    let blanks = " ".repeat(width - cell.chars().count());
                    if index == 0 { format!("{cell}{blanks}") } else { format!("{blanks}{cell}") }
                });
                let line = cells.collect::<Vec<_>>().join("  ");
                text += line.trim_end();
                text.push('\n');
            }
            text += if self.parts.len() > 1 { "\n" } else { "" };
        }
        for line in self.legend() {
            let _ = writeln!(text, "{line}");
        }
        text
    }

    /// Markdown tables with their legend.
    pub fn markdown(&self) -> String {
        let line = |row: &[String]| {
            format!("| {} |\n", row.iter().map(|cell| cell.replace('|', "\\|")).collect::<Vec<_>>().join(" | "))
        };
        let part = |part: &Part| {
            let rows = self.matrix(part);
            let rule = (0..rows[0].len()).map(|index| if index == 0 { "---|" } else { "--:|" }).collect::<String>();
            let title = part.title.iter().map(|title| format!("{title}\n\n")).collect::<String>();
            let body = rows[1..].iter().map(|row| line(row)).collect::<String>();
            format!("{title}{}|{rule}\n{body}\n", line(&rows[0]))
        };
        let legend = self.legend().into_iter().map(|line| format!("{line}\n"));
        self.parts.iter().map(part).chain(legend).collect()
    }

    /// LaTeX tables (with the package booktabs), each with a legend.
    pub fn latex(&self) -> String {
        let part = |part: &Part| {
            let rows = self.matrix(part);
            let line = |row: &[String]| {
                format!("  {} \\\\\n", row.iter().map(|cell| latex(cell)).collect::<Vec<_>>().join(" & "))
            };
            let title = part.title.iter().map(|title| format!("% {title}\n")).collect::<String>();
            let columns = "r".repeat(rows[0].len() - 1);
            let body = rows[1..].iter().map(|row| line(row)).collect::<String>();
            // In print: a reader of the paper must know a claim from a certificate.
            let legend = self.explanation(part).iter().map(|line| latex(line)).collect::<Vec<_>>().join(" ");
            format!(
                "{title}\\begin{{tabular}}{{l{columns}}}\n  \\toprule\n{}  \\midrule\n{body}  \\bottomrule\n\\end{{tabular}}\n\n{{\\footnotesize {legend}}}\n\n",
                line(&rows[0])
            )
        };
        let notes = self.notes.iter().map(|note| format!("% Note: {note}\n"));
        self.parts.iter().map(part).chain(notes).collect()
    }

    /// For programs: fractions as they are, in full precision, one column for each of mean, sd and n.
    pub fn csv(&self) -> Result<Vec<u8>> {
        let mut writer = csv::Writer::from_writer(Vec::new());
        let mut columns: Vec<&Filled> = vec![];
        for column in self.parts.iter().flat_map(|part| &part.columns) {
            if columns.iter().all(|other| other.name != column.name) {
                columns.push(column);
            }
        }
        let keys = self.points.first().into_iter().flat_map(|point| point.label.iter().map(|(key, _)| key.clone()));
        let statistics =
            columns.iter().flat_map(|column| ["mean", "sd", "n"].map(|part| format!("{} {part}", column.name)));
        writer.write_record(keys.chain(["finished", "planned"].map(str::to_owned)).chain(statistics))?;
        for (index, point) in self.points.iter().enumerate() {
            let mut record: Vec<String> = point.label.iter().map(|(_, value)| value.clone()).collect();
            record.extend([point.summaries.len().to_string(), point.planned.to_string()]);
            for column in &columns {
                let stats = column.cells[index].map(|cell| cell.stats);
                let number = |number: Option<f64>| number.map_or_else(String::new, |number| number.to_string());
                record.extend([number(stats.map(|stats| stats.mean)), number(stats.and_then(|stats| stats.sd))]);
                record.push(stats.map_or(0, |stats| stats.n).to_string());
            }
            writer.write_record(record)?;
        }
        Ok(writer.into_inner()?)
    }

    /// A header, then a row for each point: what of the grid varies, the count, the cells.
    fn matrix(&self, part: &Part) -> Vec<Vec<String>> {
        let varies = |key: &str| {
            let value =
                |point: &Point| point.shown.iter().find(|(other, _)| other == key).map(|(_, value)| value.clone());
            key == "method" || self.points.iter().any(|point| value(point) != value(&self.points[0]))
        };
        let label = |point: &Point| {
            point.shown.iter().filter(|(key, _)| varies(key)).cloned().collect::<Vec<(String, String)>>()
        };
        let mut header: Vec<String> =
            self.points.first().map(label).into_iter().flatten().map(|(key, _)| key).collect();
        header.push("n".into());
        header.extend(part.columns.iter().map(|column| column.heading.clone()));
        let mut rows = vec![header];
        for (index, point) in self.points.iter().enumerate() {
            let finished = point.summaries.len();
            let mut row: Vec<String> = label(point).into_iter().map(|(_, value)| value).collect();
            row.push(if finished == point.planned {
                finished.to_string()
            } else {
                format!("{finished}/{}", point.planned)
            });
            row.extend(part.columns.iter().map(|column| show(column.cells[index], column.fraction, finished)));
            rows.push(row);
        }
        rows
    }

    fn legend(&self) -> Vec<String> {
        let mut lines = vec![];
        for line in self.parts.iter().flat_map(|part| self.explanation(part)) {
            if !lines.contains(&line) {
                lines.push(line);
            }
        }
        lines.extend(
            self.notes.iter().map(|note| format!("Note: {note}{}", if note.ends_with('?') { "" } else { "." })),
        );
        lines
    }

    /// What the signs in the cells mean.
    fn explanation(&self, part: &Part) -> Vec<String> {
        let mut lines = vec!["Mean ± sample standard deviation over n seeds; accuracies in percent.".to_owned()];
        if part.columns.iter().flat_map(|column| column.cells.iter().flatten()).any(|cell| cell.estimated) {
            lines.push("? rests on an estimated Lipschitz constant: a claim, not a certificate.".into());
        }
        lines
    }
}

/// The column's names with `*` filled in, over all summaries, in the order they first appear.
fn names(column: &Column, points: &[Point]) -> Vec<String> {
    let mut names = Vec::new();
    for found in points.iter().flat_map(|point| &point.summaries).flat_map(|summary| column.find(summary)) {
        if !names.contains(&found.name) {
            names.push(found.name);
        }
    }
    names
}

fn cell(column: &Column, name: &str, point: &Point) -> Option<Cell> {
    let found: Vec<_> = point
        .summaries
        .iter()
        .filter_map(|summary| column.find(summary).into_iter().find(|found| found.name == name))
        .collect();
    let stats = Stats::of(&found.iter().map(|found| found.value).collect::<Vec<_>>())?;
    Some(Cell { stats, estimated: found.iter().any(|found| found.estimated) })
}

/// ", did you mean X?" for a column that leads nowhere.
fn nearest(column: &Column, points: &[Point]) -> String {
    if column.text.contains('*') {
        return String::new();
    }
    let root = column.text.split(['.', ':']).next().unwrap_or_default();
    let stars = ["attacks.*.*.*.*", "certified.*.*", "radii.*", "accuracy.*", "accuracy.*.*", "stages.*"];
    let candidates: Vec<String> = stars
        .iter()
        .filter(|star| star.starts_with(root))
        .filter_map(|star| Column::parse(star).ok())
        .flat_map(|star| names(&star, points))
        .collect();
    suggestion(&column.text, candidates.iter().map(String::as_str))
}

fn violations(points: &[Point]) -> u64 {
    points.iter().flat_map(|point| &point.summaries).filter_map(|summary| summary["violations"].as_u64()).sum()
}

/// What the runs themselves warn of, and violated certificates above all.
fn warnings(points: &[Point]) -> Vec<String> {
    let summaries = || points.iter().flat_map(|point| &point.summaries);
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for warning in summaries().filter_map(|summary| summary["warnings"].as_array()).flatten().filter_map(Value::as_str)
    {
        *counts.entry(warning.trim_end_matches('.')).or_default() += 1;
    }
    let mut notes = Vec::new();
    let violations = violations(points);
    if violations > 0 {
        notes.push(format!(
            "{violations} attacks succeeded inside a certified region: a bug, trust no certificate here"
        ));
    }
    notes.extend(
        counts.into_iter().map(|(warning, count)| format!("{warning} ({count} of {} runs)", summaries().count())),
    );
    notes
}

/// `91.2 ± 0.4`, with `?` after a claim, and the count where it is not the row's.
fn show(cell: Option<Cell>, fraction: bool, finished: usize) -> String {
    let Some(Cell { stats, estimated }) = cell else { return "–".into() };
    let number = |value: f64| if fraction { format!("{:.1}", 100.0 * value) } else { significant(value) };
    let mut text = number(stats.mean);
    if let Some(sd) = stats.sd {
        text += &format!(" ± {}", number(sd));
    }
    if estimated {
        text.push('?');
    }
    if stats.n != finished {
        text += &format!(" (n={})", stats.n);
    }
    text
}

/// Four significant digits; whole numbers as they are.
fn significant(value: f64) -> String {
    if value == value.trunc() && value.abs() < 1e15 {
        return format!("{value:.0}");
    }
    let before = value.abs().log10().floor() as i32 + 1;
    if (-3..=12).contains(&before) {
        format!("{value:.*}", (4 - before).max(0) as usize)
    } else {
        format!("{value:.3e}")
    }
}

/// A cell as LaTeX writes it.
fn latex(cell: &str) -> String {
    let mut text = String::new();
    for c in cell.chars() {
        match c {
            '±' => text += "$\\pm$",
            '–' => text += "--",
            '\\' => text += "\\textbackslash{}",
            '~' => text += "\\textasciitilde{}",
            '^' => text += "\\textasciicircum{}",
            '&' | '%' | '$' | '#' | '_' | '{' | '}' => text.extend(['\\', c]),
            _ => text.push(c),
        }
    }
    text
}

fn turn(rows: &[Vec<String>]) -> Vec<Vec<String>> {
    (0..rows[0].len()).map(|column| rows.iter().map(|row| row[column].clone()).collect()).collect()
}

fn widths(rows: &[Vec<String>]) -> Vec<usize> {
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    (0..rows[0].len()).map(width).collect()
}

fn width(rows: &[Vec<String>]) -> usize {
    widths(rows).iter().map(|width| width + 2).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn point(method: &str, planned: usize, clean: &[f64], certified: &[(f64, &str)]) -> Point {
        let summaries = clean.iter().zip(certified).map(|(clean, (accuracy, evidence))| {
            json!({
                "accuracy": {"clean": clean}, "violations": 0, "warnings": ["few samples."],
                "certified": [{"threat": "joint", "eps": 0.5, "accuracy": accuracy, "evidence": evidence}],
            })
        });
        let label = vec![("method".to_owned(), method.to_owned()), ("rate".to_owned(), "0.1".to_owned())];
        Point { shown: label.clone(), label, planned, summaries: summaries.collect() }
    }

    fn shown(title: Option<&str>, columns: &[&str]) -> Shown {
        let columns = columns.iter().map(|text| Column::parse(text).expect(text)).collect();
        Shown { title: title.map(str::to_owned), columns }
    }

    fn table(columns: &[&str]) -> Table {
        let proved = (0.5, "proved");
        let points = vec![
            point("jt", 3, &[0.9, 0.8, 1.0], &[proved; 3]),
            point("crmt-jt", 3, &[0.7, 0.725], &[(0.25, "estimated"), (0.75, "estimated")]),
            point("at", 3, &[], &[]),
        ];
        Table::new(points, &[shown(None, columns)])
    }

    #[test]
    fn statistics_by_hand() {
        // 2, 4, 9: mean 5, squares 9 + 1 + 16 = 26, over 2 is 13.
        assert_eq!(Stats::of(&[2.0, 4.0, 9.0]), Some(Stats { mean: 5.0, sd: Some(13.0_f64.sqrt()), n: 3 }));
        assert_eq!(Stats::of(&[2.0]), Some(Stats { mean: 2.0, sd: None, n: 1 }));
        assert_eq!(Stats::of(&[]), None);
    }

    #[test]
    fn the_text_shows_percent_counts_and_claims() {
        let text = table(&["accuracy.clean", "certified.joint.*"]).text();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[0], "method     n  accuracy.clean  certified.joint.0.5");
        assert_eq!(lines[1], "jt         3     90.0 ± 10.0           50.0 ± 0.0");
        // 0.25 and 0.75: mean 0.5, sd 0.25·√2 = 0.354; 0.7 and 0.725: sd 0.0125·√2 = 0.0177.
        assert_eq!(lines[2], "crmt-jt  2/3      71.2 ± 1.8         50.0 ± 35.4?");
        assert_eq!(lines[3], "at       0/3               –                    –");
        assert!(lines[5].contains("a claim, not a certificate"), "{text}");
        assert!(lines[6].contains("few samples (5 of 5 runs)"), "{text}");
    }

    #[test]
    fn a_column_nobody_has_is_said_with_the_nearest() {
        let table = table(&["certified.joint.0.6", "accuracy.clean"]);
        assert_eq!(table.notes[0], "no run has certified.joint.0.6, did you mean certified.joint.0.5?");
        assert_eq!(table.parts[0].columns.len(), 1);
    }

    #[test]
    fn violations_come_first() {
        let mut points = vec![point("jt", 1, &[0.9], &[(0.5, "proved")])];
        points[0].summaries[0]["violations"] = json!(2);
        let table = Table::new(points, &[shown(None, &["violations"])]);
        assert!(table.notes[0].contains("2 attacks succeeded inside a certified region"), "{:?}", table.notes);
    }

    #[test]
    fn csv_keeps_fractions_and_every_key() {
        let csv = String::from_utf8(table(&["accuracy.clean"]).csv().expect("a table")).expect("text");
        let lines: Vec<&str> = csv.lines().collect();
        assert_eq!(lines[0], "method,rate,finished,planned,accuracy.clean mean,accuracy.clean sd,accuracy.clean n");
        assert!(lines[1].starts_with("jt,0.1,3,3,0.9") && lines[1].ends_with(",3"), "{csv}");
        assert_eq!(lines[3], "at,0.1,0,3,,,0");
    }

    #[test]
    fn markdown_is_a_table() {
        let markdown = table(&["accuracy.clean"]).markdown();
        assert!(
            markdown.starts_with("| method | n | accuracy.clean |\n|---|--:|--:|\n| jt | 3 | 90.0 ± 10.0 |\n"),
            "{markdown}"
        );
    }

    #[test]
    fn latex_is_a_table_with_a_legend_in_print() {
        let latex = table(&["accuracy.clean", "certified.joint.0.5"]).latex();
        let start = "\\begin{tabular}{lrrr}\n  \\toprule\n  method & n & accuracy.clean & certified.joint.0.5 \\\\\n  \\midrule\n  \
                     jt & 3 & 90.0 $\\pm$ 10.0 & 50.0 $\\pm$ 0.0 \\\\\n";
        assert!(latex.starts_with(start), "{latex}");
        let legend = "\\end{tabular}\n\n{\\footnotesize Mean $\\pm$ sample";
        assert!(latex.contains(legend) && latex.contains("a claim, not a certificate.}\n"), "{latex}");
        assert_eq!(super::latex("a_b 5% – {x}~"), "a\\_b 5\\% -- \\{x\\}\\textasciitilde{}");
    }

    #[test]
    fn several_tables_have_titles_headings_and_one_csv() {
        let clean = Column::parse("accuracy.clean").and_then(|c| c.headed("right")).expect("a column");
        let first = Shown { title: None, columns: vec![clean] };
        let second = shown(Some("Proved"), &["certified.joint.0.5", "accuracy.clean"]);
        let mut points = vec![point("jt", 1, &[0.9], &[(0.5, "estimated")])];
        points[0].shown = vec![("method".into(), "joint".into())];
        let table = Table::new(points, &[first, second]);
        let markdown = table.markdown();
        assert!(
            markdown.starts_with("| method | n | right |\n|---|--:|--:|\n| joint | 1 | 90.0 |\n\nProved\n\n| "),
            "{markdown}"
        );
        assert_eq!(markdown.matches("Mean ± sample").count(), 1, "{markdown}");
        let csv = String::from_utf8(table.csv().expect("a table")).expect("text");
        assert!(
            csv.starts_with(
                "method,rate,finished,planned,accuracy.clean mean,accuracy.clean sd,accuracy.clean n,certified"
            ),
            "{csv}"
        );
        assert_eq!(csv.matches("accuracy.clean mean").count(), 1, "{csv}");
    }

    #[test]
    fn a_wide_table_is_turned() {
        let mut wide = table(&["accuracy.clean"]);
        let filled = |i: usize| {
            let name = format!("a.rather.long.column.{i}");
            Filled { heading: name.clone(), name, fraction: true, cells: vec![None; 3] }
        };
        wide.parts[0].columns.extend((0..9).map(filled));
        let text = wide.text();
        assert!(text.starts_with("method") && text.contains("\na.rather.long.column.8"), "{text}");
        assert!(text.lines().take(12).all(|line| line.chars().count() <= WIDE), "{text}");
    }

    #[test]
    fn numbers_are_shown_to_four_digits() {
        let shown = [0.123456, 12.3456, 12345.6, 3.0, 0.00001234].map(significant);
        assert_eq!(shown, ["0.1235", "12.35", "12346", "3", "1.234e-5"]);
    }
}
