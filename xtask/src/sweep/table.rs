//! The table of a sweep: mean and standard deviation over seeds for each point of the grid, and
//! what stands above each column. Knows columns and summaries, not how they came to be nor how they
//! are printed.
use super::column::Column;
use super::number::with_spread;
use super::print::escaped;
use super::spec::Shown;
use super::stats::Stats;
use super::suggestion::suggestion;
use serde_json::Value;
use std::collections::BTreeMap;

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

#[derive(Debug, Clone, Copy)]
pub struct Cell {
    pub stats: Stats,
    /// At least one of its runs has an estimate only.
    pub estimated: bool,
}

/// What the numbers of a column rest on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Measured, or certified all of them.
    Plain,
    Estimates,
    /// Certificates and estimates: each cell says which it is.
    Both,
}

/// One column with its `*` filled in.
#[derive(Debug, Clone)]
pub struct Filled {
    /// As programs call it.
    pub name: String,
    /// What stands above it.
    pub heading: String,
    pub fraction: bool,
    /// Its numbers have evidence: a certificate or an estimate.
    pub evident: bool,
    /// An estimate has a word of its own: the heading does not say it.
    worded: bool,
    kind: Kind,
    /// By point.
    pub cells: Vec<Option<Cell>>,
}

/// Columns side by side.
#[derive(Debug)]
pub struct Part {
    pub title: Option<String>,
    pub columns: Vec<Filled>,
}

/// A sweep's table, in one part or several.
#[derive(Debug)]
pub struct Table {
    pub points: Vec<Point>,
    pub parts: Vec<Part>,
    /// What a reader should know before trusting the numbers.
    pub notes: Vec<String>,
}

impl Filled {
    fn new(column: &Column, name: &str, points: &[Point]) -> Self {
        let cells: Vec<Option<Cell>> = points
            .iter()
            .map(|point| cell(column, name, point))
            .collect();
        let mut estimates = cells.iter().flatten().map(|cell| cell.estimated);
        let kind = match (
            estimates.clone().any(|estimated| estimated),
            estimates.all(|estimated| estimated),
        ) {
            (false, _) => Kind::Plain,
            (true, true) => Kind::Estimates,
            (true, false) => Kind::Both,
        };
        let name = escaped(&evident_name(name, kind));
        let heading = column
            .heading
            .as_deref()
            .map_or_else(|| format!("{name}{}", column.unit()), escaped);
        let worded = kind == Kind::Both || column.heading.is_some();
        Self {
            name,
            heading,
            fraction: column.is_fraction(),
            evident: column.has_evidence(),
            worded,
            kind,
            cells,
        }
    }

    /// A cell as people read it: `91.2 ± 0.4`, what it rests on, and the count where it is not the
    /// row's.
    fn show(&self, point: usize, finished: usize) -> String {
        let Some(cell) = self.cells[point] else {
            return "–".into();
        };
        let mut text = with_spread(cell.stats, self.fraction);
        text += match (cell.estimated, self.worded) {
            (true, true) => " estimated",
            (true, false) => "?",
            (false, _) if self.kind == Kind::Both => " certified",
            (false, _) => "",
        };
        if cell.stats.n != finished {
            text += &format!(" (n={})", cell.stats.n);
        }
        text
    }
}

/// Only theorems are called certified.
fn evident_name(name: &str, kind: Kind) -> String {
    let rest = name.strip_prefix("certified");
    match (kind, rest) {
        (Kind::Plain, _) => name.to_owned(),
        (Kind::Estimates, Some(rest)) => format!("estimated{rest}"),
        (Kind::Both, Some(rest)) => format!("certified or estimated{rest}"),
        (Kind::Estimates, None) => format!("estimated {name}"),
        (Kind::Both, None) => format!("certified or estimated {name}"),
    }
}

/// The numbers of `columns`, and what is missing.
fn fill(points: &[Point], columns: &[Column]) -> (Vec<Filled>, Vec<String>) {
    let mut seen: Vec<String> = Vec::new();
    let mut filled: Vec<Filled> = Vec::new();
    let mut notes = Vec::new();
    for column in columns {
        let names = names(column, points);
        if names.is_empty()
            && !column.optional
            && points.iter().any(|point| !point.summaries.is_empty())
        {
            notes.push(format!(
                "no run has {}{}",
                column.text,
                nearest(column, points)
            ));
        }
        for name in names {
            if !seen.contains(&name) {
                filled.push(Filled::new(column, &name, points));
                seen.push(name);
            }
        }
    }
    (filled, notes)
}

impl Table {
    /// Gathers the numbers from the summaries; `notes` are what the sweep itself has to say, beside
    /// what the runs do.
    pub fn new(points: Vec<Point>, tables: &[Shown], notes: Vec<String>) -> Self {
        let mut missing: Vec<String> = Vec::new();
        let part = |shown: &Shown| {
            let (columns, absent) = fill(&points, &shown.columns);
            for note in absent {
                if !missing.contains(&note) {
                    missing.push(note);
                }
            }
            Part {
                title: shown.title.clone(),
                columns,
            }
        };
        let parts = tables.iter().map(part).collect();
        let (broken, warnings) = warnings(&points);
        let notes = [broken, notes, missing, warnings]
            .concat()
            .iter()
            .map(|note| escaped(note))
            .collect();
        Self {
            points,
            parts,
            notes,
        }
    }

    /// How many runs the table rests on.
    pub fn finished(&self) -> usize {
        self.points.iter().map(|point| point.summaries.len()).sum()
    }

    /// Attacks that succeeded where a certificate said they can't, over all runs.
    pub fn violations(&self) -> u64 {
        violations(&self.points)
    }

    /// A header, then a row for each point: what of the grid varies, the count, the cells.
    pub fn matrix(&self, part: &Part) -> Vec<Vec<String>> {
        let varies = |key: &str| {
            let value = |point: &Point| {
                point
                    .shown
                    .iter()
                    .find(|(other, _)| other == key)
                    .map(|(_, value)| value.clone())
            };
            key == "method"
                || self
                    .points
                    .iter()
                    .any(|point| value(point) != value(&self.points[0]))
        };
        let label = |point: &Point| {
            point
                .shown
                .iter()
                .filter(|(key, _)| varies(key))
                .cloned()
                .collect::<Vec<(String, String)>>()
        };
        let mut header: Vec<String> = self
            .points
            .first()
            .map(label)
            .into_iter()
            .flatten()
            .map(|(key, _)| key)
            .collect();
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
            row.extend(
                part.columns
                    .iter()
                    .map(|column| column.show(index, finished)),
            );
            rows.push(row);
        }
        rows
    }

    /// What stands below all parts: explanations, each once, and the notes.
    pub fn legend(&self) -> Vec<String> {
        let mut lines = vec![];
        for line in self.parts.iter().flat_map(|part| self.explanation(part)) {
            if !lines.contains(&line) {
                lines.push(line);
            }
        }
        lines.extend(
            self.notes
                .iter()
                .map(|note| format!("Note: {note}{}", if note.ends_with('?') { "" } else { "." })),
        );
        lines
    }

    /// What the signs in the cells mean.
    pub fn explanation(&self, part: &Part) -> Vec<String> {
        let mut lines = vec![
            "Mean ± sample standard deviation over n seeds; accuracies in percent.".to_owned(),
        ];
        if part.columns.iter().any(|column| column.kind != Kind::Plain) {
            lines.push(
                "estimated, or ?: rests on an estimated Lipschitz constant, and is a claim, not a certificate.".into(),
            );
        }
        lines
    }
}

/// The column's names with `*` filled in, over all summaries, in the order they first appear.
fn names(column: &Column, points: &[Point]) -> Vec<String> {
    let mut names = Vec::new();
    for found in points
        .iter()
        .flat_map(|point| &point.summaries)
        .flat_map(|summary| column.find(summary))
    {
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
        .filter_map(|summary| {
            column
                .find(summary)
                .into_iter()
                .find(|found| found.name == name)
        })
        .collect();
    let stats = Stats::of(&found.iter().map(|found| found.value).collect::<Vec<_>>())?;
    Some(Cell {
        stats,
        estimated: found.iter().any(|found| found.estimated),
    })
}

/// ", did you mean X?" for a column that leads nowhere.
fn nearest(column: &Column, points: &[Point]) -> String {
    if column.text.contains('*') {
        return String::new();
    }
    let root = column.text.split(['.', ':']).next().unwrap_or_default();
    let stars = [
        "attacks.*.*.*.*",
        "certified.*.*",
        "radii.*",
        "accuracy.*",
        "accuracy.*.*",
        "stages.*",
    ];
    let candidates: Vec<String> = stars
        .iter()
        .filter(|star| star.starts_with(root))
        .filter_map(|star| Column::parse(star).ok())
        .flat_map(|star| names(&star, points))
        .collect();
    suggestion(&column.text, candidates.iter().map(String::as_str))
}

fn violations(points: &[Point]) -> u64 {
    points
        .iter()
        .flat_map(|point| &point.summaries)
        .filter_map(|summary| summary["violations"].as_u64())
        .sum()
}

/// Violated certificates; and what the runs themselves warn of.
fn warnings(points: &[Point]) -> (Vec<String>, Vec<String>) {
    let summaries = || points.iter().flat_map(|point| &point.summaries);
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for warning in summaries()
        .filter_map(|summary| summary["warnings"].as_array())
        .flatten()
        .filter_map(Value::as_str)
    {
        *counts.entry(warning.trim_end_matches('.')).or_default() += 1;
    }
    let broken = match violations(points) {
        0 => vec![],
        some => vec![format!(
            "{some} attacks succeeded inside a certified region: a bug, trust no certificate here"
        )],
    };
    let told = counts
        .into_iter()
        .map(|(warning, count)| format!("{warning} ({count} of {} runs)", summaries().count()));
    (broken, told.collect())
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use serde_json::json;

    pub fn point(method: &str, planned: usize, clean: &[f64], certified: &[(f64, &str)]) -> Point {
        let summaries = clean.iter().zip(certified).map(|(clean, (accuracy, evidence))| {
            json!({
                "accuracy": {"clean": clean}, "violations": 0, "warnings": ["few samples."], "seconds": 100.0 * clean,
                "certified": [{"threat": "joint", "eps": 0.5, "accuracy": accuracy, "evidence": evidence}],
                "radii": [{"threat": "joint", "mean": 0.4 * accuracy, "evidence": evidence}],
            })
        });
        let label = vec![
            ("method".to_owned(), method.to_owned()),
            ("rate".to_owned(), "0.1".to_owned()),
        ];
        Point {
            shown: label.clone(),
            label,
            planned,
            summaries: summaries.collect(),
        }
    }

    pub fn shown(title: Option<&str>, columns: &[&str]) -> Shown {
        let columns = columns
            .iter()
            .map(|text| Column::parse(text).expect(text))
            .collect();
        Shown {
            title: title.map(str::to_owned),
            columns,
        }
    }

    /// Joint training with proofs, CRMT with estimates, and what never finished.
    pub fn table(columns: &[&str]) -> Table {
        let proved = (0.5, "proved");
        let points = vec![
            point("jt", 3, &[0.9, 0.8, 1.0], &[proved; 3]),
            point(
                "crmt-jt",
                3,
                &[0.7, 0.725],
                &[(0.25, "estimated"), (0.75, "estimated")],
            ),
            point("at", 3, &[], &[]),
        ];
        Table::new(points, &[shown(None, columns)], vec!["1 run failed".into()])
    }

    fn column(table: &Table, index: usize) -> Vec<String> {
        table
            .matrix(&table.parts[0])
            .iter()
            .map(|row| row[index + 2].clone())
            .collect()
    }

    #[test]
    fn only_theorems_are_called_certified() {
        let of = |evidence: [&str; 2]| {
            let points = ["a", "b"]
                .iter()
                .zip(evidence)
                .map(|(method, e)| point(method, 1, &[0.9], &[(0.5, e)]));
            Table::new(
                points.collect(),
                &[shown(None, &["certified.joint.*", "radii.joint"])],
                vec![],
            )
        };
        let proved = of(["proved", "confident"]);
        assert_eq!(
            column(&proved, 0),
            ["certified.joint.0.5, %", "50.0", "50.0"]
        );
        assert_eq!(
            column(&proved, 1),
            ["radii.joint, units", "0.2000", "0.2000"]
        );
        let estimated = of(["estimated", "estimated"]);
        assert_eq!(
            column(&estimated, 0),
            ["estimated.joint.0.5, %", "50.0?", "50.0?"]
        );
        assert_eq!(
            column(&estimated, 1),
            ["estimated radii.joint, units", "0.2000?", "0.2000?"]
        );
        let both = of(["proved", "estimated"]);
        assert_eq!(
            column(&both, 0),
            [
                "certified or estimated.joint.0.5, %",
                "50.0 certified",
                "50.0 estimated"
            ]
        );
        let unheard = of(["claimed", "claimed"]);
        assert_eq!(
            column(&unheard, 0)[0],
            "estimated.joint.0.5, %",
            "what is not known to be a theorem is none"
        );
    }

    #[test]
    fn a_heading_of_ones_own_cannot_hide_an_estimate() {
        let certified = Column::parse("certified.joint.0.5")
            .and_then(|c| c.headed("certified!"))
            .expect("a column");
        let points = vec![point("jt", 1, &[0.9], &[(0.5, "estimated")])];
        let table = Table::new(
            points,
            &[Shown {
                title: None,
                columns: vec![certified],
            }],
            vec![],
        );
        assert_eq!(column(&table, 0), ["certified!", "50.0 estimated"]);
    }

    #[test]
    fn a_seed_with_an_estimate_makes_the_mean_one() {
        let points = vec![point(
            "jt",
            2,
            &[0.9, 0.9],
            &[(0.5, "proved"), (0.5, "estimated")],
        )];
        let table = Table::new(points, &[shown(None, &["certified.joint.0.5"])], vec![]);
        assert_eq!(column(&table, 0), ["estimated.joint.0.5, %", "50.0 ± 0.0?"]);
    }

    #[test]
    fn a_column_nobody_has_is_said_with_the_nearest() {
        let table = table(&["certified.joint.0.6", "accuracy.clean"]);
        assert_eq!(
            table.notes[..2],
            [
                "1 run failed",
                "no run has certified.joint.0.6, did you mean certified.joint.0.5?"
            ]
        );
        assert_eq!(table.parts[0].columns.len(), 1);
    }

    #[test]
    fn violations_come_first() {
        let mut points = vec![point("jt", 1, &[0.9], &[(0.5, "proved")])];
        points[0].summaries[0]["violations"] = json!(2);
        let table = Table::new(
            points,
            &[shown(None, &["violations"])],
            vec!["1 run failed".into()],
        );
        assert!(
            table.notes[0].contains("2 attacks succeeded inside a certified region"),
            "{:?}",
            table.notes
        );
    }

    #[test]
    fn what_a_run_says_cannot_break_a_line() {
        let mut points = vec![point("jt", 1, &[0.9], &[(0.5, "proved")])];
        points[0].summaries[0]["warnings"] = json!(["two\nlines \u{1b}[31m"]);
        points[0].summaries[0]["accuracy"] = json!({"missing": {"a\nb": 0.5}});
        let table = Table::new(points, &[shown(None, &["accuracy.missing.*"])], vec![]);
        assert_eq!(table.notes, ["two\\nlines \\u{1b}[31m (1 of 1 runs)"]);
        assert_eq!(column(&table, 0)[0], "accuracy.missing.a\\nb, %");
    }

    #[test]
    fn times_have_units() {
        assert_eq!(
            column(&table(&["seconds"]), 0),
            ["seconds, s", "90 ± 10", "71.2 ± 1.8", "–"]
        );
    }
}
