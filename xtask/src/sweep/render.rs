//! A sweep's table as aligned text, Markdown, LaTeX and CSV. Computes nothing.
use super::print;
use super::table::{Filled, Part, Table};
use anyhow::Result;
use std::fmt::Write;

/// A wider table than this is turned on its side if that helps: most terminals show as much.
const WIDE: usize = 120;

impl Table {
    /// Aligned text for a terminal.
    pub fn text(&self) -> String {
        let mut text = String::new();
        for part in &self.parts {
            let upright = self.matrix(part);
            let turned = turn(&upright);
            let rows = if width(&upright) > WIDE && width(&turned) < width(&upright) {
                turned
            } else {
                upright
            };
            let widths = widths(&rows);
            part.title
                .iter()
                .for_each(|title| text += &format!("{title}\n"));
            for row in &rows {
                let cells = row
                    .iter()
                    .zip(&widths)
                    .enumerate()
                    .map(|(index, (cell, width))| {
                        let blanks = " ".repeat(width - cell.chars().count());
                        if index == 0 {
                            format!("{cell}{blanks}")
                        } else {
                            format!("{blanks}{cell}")
                        }
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
            format!(
                "| {} |\n",
                row.iter()
                    .map(|cell| print::markdown(cell))
                    .collect::<Vec<_>>()
                    .join(" | ")
            )
        };
        let part = |part: &Part| {
            let rows = self.matrix(part);
            let rule = (0..rows[0].len())
                .map(|index| if index == 0 { "---|" } else { "--:|" })
                .collect::<String>();
            let title = part
                .title
                .iter()
                .map(|title| format!("{}\n\n", print::paragraph(title)))
                .collect::<String>();
            let body = rows[1..].iter().map(|row| line(row)).collect::<String>();
            format!("{title}{}|{rule}\n{body}\n", line(&rows[0]))
        };
        let legend = self
            .legend()
            .into_iter()
            .map(|line| format!("{}\n", print::paragraph(&line)));
        self.parts.iter().map(part).chain(legend).collect()
    }

    /// LaTeX tables (with the package booktabs), each with a legend.
    pub fn latex(&self) -> String {
        let part = |part: &Part| {
            let rows = self.matrix(part);
            let line = |row: &[String]| {
                format!(
                    "  {} \\\\\n",
                    row.iter()
                        .map(|cell| print::latex(cell))
                        .collect::<Vec<_>>()
                        .join(" & ")
                )
            };
            let title = part
                .title
                .iter()
                .map(|title| format!("% {title}\n"))
                .collect::<String>();
            let columns = "r".repeat(rows[0].len() - 1);
            let body = rows[1..].iter().map(|row| line(row)).collect::<String>();
            // In print: a reader of the paper must know a claim from a certificate.
            let legend = self
                .explanation(part)
                .iter()
                .map(|line| print::latex(line))
                .collect::<Vec<_>>()
                .join(" ");
            format!(
                "{title}\\begin{{tabular}}{{l{columns}}}\n  \\toprule\n{}  \\midrule\n{body}  \\bottomrule\n\\end{{tabular}}\n\n{{\\footnotesize {legend}}}\n\n",
                line(&rows[0])
            )
        };
        let notes = self.notes.iter().map(|note| format!("% Note: {note}\n"));
        self.parts.iter().map(part).chain(notes).collect()
    }

    /// For programs: fractions as they are, in full precision, one column for each of mean, sd and
    /// n, and one that says what a radius rests on.
    pub fn csv(&self) -> Result<Vec<u8>> {
        let mut writer = csv::Writer::from_writer(Vec::new());
        let mut columns: Vec<&Filled> = vec![];
        for column in self.parts.iter().flat_map(|part| &part.columns) {
            if columns.iter().all(|other| other.name != column.name) {
                columns.push(column);
            }
        }
        let keys = self
            .points
            .first()
            .into_iter()
            .flat_map(|point| point.label.iter().map(|(key, _)| key.clone()));
        let statistics = columns.iter().flat_map(|column| {
            let parts: &[&str] = if column.evident {
                &["mean", "sd", "n", "evidence"]
            } else {
                &["mean", "sd", "n"]
            };
            parts.iter().map(|part| format!("{} {part}", column.name))
        });
        writer.write_record(
            keys.chain(["finished", "planned"].map(str::to_owned))
                .chain(statistics),
        )?;
        for (index, point) in self.points.iter().enumerate() {
            let mut record: Vec<String> = point
                .label
                .iter()
                .map(|(_, value)| print::escaped(value))
                .collect();
            record.extend([point.summaries.len().to_string(), point.planned.to_string()]);
            for column in &columns {
                let cell = column.cells[index];
                let number = |number: Option<f64>| {
                    number.map_or_else(String::new, |number| number.to_string())
                };
                record.push(number(cell.map(|cell| cell.stats.mean)));
                record.push(number(cell.and_then(|cell| cell.stats.sd)));
                record.push(cell.map_or(0, |cell| cell.stats.n).to_string());
                if column.evident {
                    let word = |estimated: bool| if estimated { "estimated" } else { "certified" };
                    record.push(
                        cell.map_or_else(String::new, |cell| word(cell.estimated).to_owned()),
                    );
                }
            }
            writer.write_record(record)?;
        }
        Ok(writer.into_inner()?)
    }
}

fn turn(rows: &[Vec<String>]) -> Vec<Vec<String>> {
    (0..rows[0].len())
        .map(|column| rows.iter().map(|row| row[column].clone()).collect())
        .collect()
}

fn widths(rows: &[Vec<String>]) -> Vec<usize> {
    let width = |column: usize| {
        rows.iter()
            .map(|row| row[column].chars().count())
            .max()
            .unwrap_or(0)
    };
    (0..rows[0].len()).map(width).collect()
}

fn width(rows: &[Vec<String>]) -> usize {
    widths(rows).iter().map(|width| width + 2).sum()
}

#[cfg(test)]
mod tests {
    use super::super::column::Column;
    use super::super::spec::Shown;
    use super::super::table::tests::{point, shown, table};
    use super::*;

    fn csv(table: &Table) -> String {
        String::from_utf8(table.csv().expect("a table")).expect("text")
    }

    #[test]
    fn the_text_shows_percent_counts_and_claims() {
        let text = table(&["accuracy.clean", "certified.joint.*"]).text();
        let lines: Vec<Vec<&str>> = text
            .lines()
            .map(|line| {
                line.split("  ")
                    .map(str::trim)
                    .filter(|cell| !cell.is_empty())
                    .collect()
            })
            .collect();
        assert_eq!(
            lines[0],
            [
                "method",
                "n",
                "accuracy.clean, %",
                "certified or estimated.joint.0.5, %"
            ]
        );
        assert_eq!(lines[1], ["jt", "3", "90.0 ± 10.0", "50.0 ± 0.0 certified"]);
        // 0.25 and 0.75: mean 0.5, sd 0.25·√2 = 0.354; 0.7 and 0.725: sd 0.0125·√2 = 0.0177.
        assert_eq!(
            lines[2],
            ["crmt-jt", "2/3", "71.2 ± 1.8", "50.0 ± 35.4 estimated"]
        );
        assert_eq!(lines[3], ["at", "0/3", "–", "–"]);
        assert!(text.contains("a claim, not a certificate"), "{text}");
        assert!(
            text.contains("Note: 1 run failed.\n") && text.contains("few samples (5 of 5 runs)"),
            "{text}"
        );
        let width = |line: &str| line.chars().count();
        assert_eq!(
            width(text.lines().next().unwrap()),
            width(text.lines().nth(2).unwrap()),
            "aligned: {text}"
        );
    }

    #[test]
    fn csv_keeps_fractions_and_every_key() {
        let csv = csv(&table(&["accuracy.clean", "certified.joint.0.5"]));
        let lines: Vec<&str> = csv.lines().collect();
        let start = "method,rate,finished,planned,accuracy.clean mean,accuracy.clean sd,accuracy.clean n,certified or estimated.joint.0.5 mean";
        assert!(
            lines[0].starts_with(start) && lines[0].ends_with(" evidence"),
            "{csv}"
        );
        assert!(
            lines[1].starts_with("jt,0.1,3,3,0.9") && lines[1].ends_with(",3,certified"),
            "{csv}"
        );
        assert!(lines[2].ends_with(",2,estimated"), "{csv}");
        assert_eq!(lines[3], "at,0.1,0,3,,,0,,,0,");
    }

    #[test]
    fn markdown_is_a_table() {
        let markdown = table(&["accuracy.clean"]).markdown();
        assert!(
            markdown.starts_with(
                "| method | n | accuracy.clean, % |\n|---|--:|--:|\n| jt | 3 | 90.0 ± 10.0 |\n"
            ),
            "{markdown}"
        );
    }

    #[test]
    fn latex_is_a_table_with_a_legend_in_print() {
        let latex = table(&["accuracy.clean", "certified.joint.0.5"]).latex();
        let start = "\\begin{tabular}{lrrr}\n  \\toprule\n  method & n & accuracy.clean, \\% & certified or estimated.joint.0.5, \\% \\\\\n  \\midrule\n  \
                     jt & 3 & 90.0 $\\pm$ 10.0 & 50.0 $\\pm$ 0.0 certified \\\\\n";
        assert!(latex.starts_with(start), "{latex}");
        let legend = "\\end{tabular}\n\n{\\footnotesize Mean $\\pm$ sample";
        assert!(
            latex.contains(legend) && latex.contains("a claim, not a certificate.}\n"),
            "{latex}"
        );
    }

    #[test]
    fn labels_mean_themselves_everywhere() {
        let mut points = vec![point("jt", 1, &[0.9], &[(0.5, "proved")])];
        points[0].shown = vec![("method".into(), "[a|b] & 5 %".into())];
        let table = Table::new(points, &[shown(Some("# 1_"), &["accuracy.clean"])], vec![]);
        let (markdown, latex) = (table.markdown(), table.latex());
        assert!(
            markdown.starts_with("\\# 1\\_\n\n")
                && markdown.contains("\n| [a\\|b] & 5 % | 1 | 90.0 |\n"),
            "{markdown}"
        );
        assert!(
            latex.contains("\n  {[}a\\textbar{}b{]} \\& 5 \\% & 1 & 90.0 \\\\\n"),
            "{latex}"
        );
    }

    #[test]
    fn several_tables_have_titles_headings_and_one_csv() {
        let clean = Column::parse("accuracy.clean")
            .and_then(|c| c.headed("right"))
            .expect("a column");
        let first = Shown {
            title: None,
            columns: vec![clean],
        };
        let second = shown(Some("Claimed"), &["certified.joint.0.5", "accuracy.clean"]);
        let mut points = vec![point("jt", 1, &[0.9], &[(0.5, "estimated")])];
        points[0].shown = vec![("method".into(), "joint".into())];
        let table = Table::new(points, &[first, second], vec![]);
        let markdown = table.markdown();
        let start = "| method | n | right |\n|---|--:|--:|\n| joint | 1 | 90.0 |\n\nClaimed\n\n| method | n | estimated.joint.0.5, % |";
        assert!(markdown.starts_with(start), "{markdown}");
        assert_eq!(markdown.matches("Mean ± sample").count(), 1, "{markdown}");
        assert!(!markdown.contains("certified"), "{markdown}");
        let csv = csv(&table);
        let start = "method,rate,finished,planned,accuracy.clean mean,accuracy.clean sd,accuracy.clean n,estimated";
        assert!(csv.starts_with(start), "{csv}");
        assert_eq!(csv.matches("accuracy.clean mean").count(), 1, "{csv}");
    }

    #[test]
    fn a_wide_table_is_turned() {
        let mut wide = table(&["accuracy.clean"]);
        let one = wide.parts[0].columns[0].clone();
        for i in 0..9 {
            let mut column = one.clone();
            column.heading = format!("a.rather.long.column.{i}");
            wide.parts[0].columns.push(column);
        }
        let text = wide.text();
        assert!(
            text.starts_with("method") && text.contains("\na.rather.long.column.8"),
            "{text}"
        );
        assert!(
            text.lines()
                .take(12)
                .all(|line| line.chars().count() <= WIDE),
            "{text}"
        );
    }
}
