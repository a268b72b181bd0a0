//! A page of results: its tables, the line above each that says what made it, and single numbers
//! that prose repeats from a table. Knows Markdown, neither git nor sweeps.

/// What is written above a table: `*docs/sweeps/NAME.toml, table 1, commit abc1234.*`, or another
/// source before the commit; `: older than the code` behind it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin {
    pub source: Source,
    pub commit: String,
    /// Whether readers are told that the code has changed since.
    pub marked: bool,
}

/// What made a table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// The table with this number, from 1, of what a sweep of docs/sweeps wrote.
    Sweep { name: String, table: usize },
    /// A command, or people.
    Other(String),
}

const MARK: &str = ": older than the code";
const COMMIT: &str = ", commit ";

impl Origin {
    /// Reads such a line; none of any other.
    pub fn parse(line: &str) -> Option<Self> {
        let inner = line.trim().strip_prefix('*')?.strip_suffix(".*")?;
        let (source, rest) = inner.rsplit_once(COMMIT)?;
        let marked = rest.ends_with(MARK);
        let commit = rest.trim_end_matches(MARK).to_owned();
        let hexadecimal = commit.len() >= 7 && commit.chars().all(|c| c.is_ascii_hexdigit());
        let sweep = || {
            let (name, table) = source
                .strip_prefix("docs/sweeps/")?
                .split_once(".toml, table ")?;
            Some(Source::Sweep {
                name: name.to_owned(),
                table: table.parse().ok()?,
            })
        };
        let source = sweep().unwrap_or_else(|| Source::Other(source.to_owned()));
        hexadecimal.then_some(Self {
            source,
            commit,
            marked,
        })
    }

    /// The line.
    pub fn line(&self) -> String {
        let source = match &self.source {
            Source::Sweep { name, table } => format!("docs/sweeps/{name}.toml, table {table}"),
            Source::Other(text) => text.clone(),
        };
        format!(
            "*{source}{COMMIT}{}{}.*",
            self.commit,
            if self.marked { MARK } else { "" }
        )
    }

    /// Whether it is of the sweep `name`.
    pub fn is_of(&self, name: &str) -> bool {
        matches!(&self.source, Source::Sweep { name: other, .. } if other == name)
    }
}

/// A table and the line above it.
#[derive(Debug, Clone)]
pub struct Table {
    /// Of its first line, from 0.
    pub line: usize,
    pub text: String,
    /// With the number of its line.
    pub origin: Option<(usize, Origin)>,
}

impl Table {
    /// Whether any cell below the header is a number.
    pub fn has_numbers(&self) -> bool {
        let cell = |cell: &String| {
            cell.trim_start_matches(['*', '-'])
                .starts_with(|c: char| c.is_ascii_digit())
        };
        rows(&self.text).iter().skip(2).flatten().any(cell)
    }
}

/// The cells of each line of a table.
fn rows(table: &str) -> Vec<Vec<String>> {
    let cells = |line: &str| {
        let line = line.replace("\\|", "\u{0}");
        let inner = line.trim().trim_start_matches('|').trim_end_matches('|');
        inner
            .split('|')
            .map(|cell| cell.trim().replace('\u{0}', "\\|"))
            .collect()
    };
    table.lines().map(cells).collect()
}

/// All tables of a page, outside of code.
pub fn tables(page: &str) -> Vec<Table> {
    let lines: Vec<&str> = page.lines().collect();
    let (mut tables, mut start, mut code) = (vec![], None, false);
    for (index, line) in lines.iter().chain([&""]).enumerate() {
        code ^= line.starts_with("```");
        match (start, line.starts_with('|') && !code) {
            (None, true) => start = Some(index),
            (Some(first), false) => {
                let text = lines[first..index].join("\n");
                let above = lines[..first]
                    .iter()
                    .rposition(|line| !line.trim().is_empty());
                let origin = above.and_then(|above| Some((above, Origin::parse(lines[above])?)));
                tables.push(Table {
                    line: first,
                    text,
                    origin,
                });
                start = None;
            }
            _ => {}
        }
    }
    tables
}

/// Every line of a page that says where numbers are from.
pub fn origins(page: &str) -> Vec<Origin> {
    page.lines().filter_map(Origin::parse).collect()
}

/// The page with the tables of a sweep in the place of those that were there, and with new lines
/// above them.
pub fn with_tables(page: &str, name: &str, commit: &str, marked: bool, new: &[Table]) -> String {
    let mut lines: Vec<String> = page.lines().map(str::to_owned).collect();
    for table in tables(page).into_iter().rev() {
        let Some((
            _,
            Origin {
                source:
                    Source::Sweep {
                        name: other,
                        table: number,
                    },
                ..
            },
        )) = &table.origin
        else {
            continue;
        };
        if let Some(new) = number
            .checked_sub(1)
            .and_then(|index| new.get(index))
            .filter(|_| other == name)
        {
            let old = table.line..table.line + table.text.lines().count();
            lines.splice(old, new.text.lines().map(str::to_owned));
        }
    }
    for line in &mut lines {
        if let Some(origin) = Origin::parse(line).filter(|origin| origin.is_of(name)) {
            *line = Origin {
                commit: commit.to_owned(),
                marked,
                ..origin
            }
            .line();
        }
    }
    lines.iter().map(|line| format!("{line}\n")).collect()
}

/// A number that prose repeats from a sweep's table: `<!-- NAME 1: ROW | COLUMN -->92.5<!-- -->`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Quote {
    pub name: String,
    pub table: usize,
    pub row: String,
    pub column: String,
    /// As it stands in the prose.
    pub value: String,
    place: std::ops::Range<usize>,
}

impl Quote {
    /// The number that the table has: its mean, without what follows.
    pub fn of(&self, table: &Table) -> Option<String> {
        let rows = rows(&table.text);
        let column = rows
            .first()?
            .iter()
            .position(|heading| *heading == self.column)?;
        let row = rows.iter().skip(2).find(|row| row[0] == self.row)?;
        Some(row.get(column)?.split([' ', '?']).next()?.to_owned())
    }
}

const END: &str = "<!-- -->";

/// All such numbers of a page.
pub fn quotes(page: &str) -> Vec<Quote> {
    let quote = |(start, _): (usize, &str)| {
        // Of an end alone, the next end would be taken.
        let (head, rest) = page[start + 5..]
            .split_once(" -->")
            .filter(|(head, _)| !head.contains("-->"))?;
        let (place, cell) = head.split_once(": ")?;
        let (name, table) = place.rsplit_once(' ')?;
        let (row, column) = cell.split_once(" | ")?;
        let (value, _) = rest.split_once(END)?;
        let first = start + 5 + head.len() + 4;
        Some(Quote {
            name: name.to_owned(),
            table: table.parse().ok()?,
            row: row.to_owned(),
            column: column.to_owned(),
            value: value.to_owned(),
            place: first..first + value.len(),
        })
    };
    page.match_indices("<!-- ").filter_map(quote).collect()
}

/// The page with the numbers of a sweep as its tables have them.
///
/// # Errors
/// The first that they don't have.
pub fn with_quotes(page: &str, name: &str, tables: &[Table]) -> Result<String, String> {
    let mut page = page.to_owned();
    for quote in quotes(&page)
        .into_iter()
        .rev()
        .filter(|quote| quote.name == name)
    {
        let table = quote
            .table
            .checked_sub(1)
            .and_then(|index| tables.get(index));
        let value = table.and_then(|table| quote.of(table));
        let value = value.ok_or_else(|| {
            format!(
                "no cell {} | {} in table {} of {name}",
                quote.row, quote.column, quote.table
            )
        })?;
        page.replace_range(quote.place, &value);
    }
    Ok(page)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: &str = "# R\n\n*docs/sweeps/s.toml, table 2, commit abc1234: older than the code.*\n\n| a | x 1 |\n|---|--:|\n| b | 1.5 ± 0.1? |\n\nProse.\n\
        | c |\n|---|\n| d |\n\n```\n| no |\n```\nIt is <!-- s 2: b | x 1 -->1.4<!-- --> <!-- a remark --> and\n<!-- s 2: b | a -->b<!-- -->.\n";

    #[test]
    fn a_line_says_what_made_a_table() {
        let origin =
            Origin::parse("*docs/sweeps/a-b.toml, table 3, commit 0123abc.*").expect("such a line");
        assert_eq!(
            origin.source,
            Source::Sweep {
                name: "a-b".into(),
                table: 3
            }
        );
        assert_eq!((origin.commit.as_str(), origin.marked), ("0123abc", false));
        for line in [
            "*docs/sweeps/a.toml, table 1, commit 0123abc: older than the code.*",
            "*By hand, from the tables below, commit 0123abc456.*",
        ] {
            assert_eq!(Origin::parse(line).expect(line).line(), line);
        }
        for other in [
            "*Emphasis.*",
            "*x, commit short.*",
            "*x, commit zzzzzzz.*",
            "x, commit 0123abc.",
            "*x, commit 0123abc*",
        ] {
            assert_eq!(Origin::parse(other), None, "{other}");
        }
    }

    #[test]
    fn tables_are_found_with_their_lines() {
        let found = tables(PAGE);
        assert_eq!(
            found.iter().map(|table| table.line).collect::<Vec<_>>(),
            [4, 9]
        );
        assert!(
            found[0]
                .origin
                .as_ref()
                .is_some_and(|(line, origin)| *line == 2 && origin.marked)
        );
        assert!(found[1].origin.is_none(), "prose is between");
        assert_eq!(
            [found[0].has_numbers(), found[1].has_numbers()],
            [true, false]
        );
    }

    #[test]
    fn new_tables_stand_where_the_old_did() {
        let new = tables("| z |\n|---|\n\n| a | x 1 |\n|---|--:|\n| b | 2.5 ± 0.1 |\n| e | 3 |\n");
        let page = with_tables(PAGE, "s", "fedcba9", false, &new);
        assert!(page.contains("*docs/sweeps/s.toml, table 2, commit fedcba9.*\n\n| a | x 1 |\n|---|--:|\n| b | 2.5 ± 0.1 |\n| e | 3 |\n\nProse."), "{page}");
        assert_eq!(with_tables(PAGE, "other", "fedcba9", false, &new), PAGE);
        let page = with_quotes(&page, "s", &new).expect("the cell is there");
        assert!(
            page.contains(
                "It is <!-- s 2: b | x 1 -->2.5<!-- --> <!-- a remark --> and\n<!-- s 2: b | a -->b<!-- -->."
            ),
            "{page}"
        );
        assert_eq!(
            with_quotes(&page, "s", &new[..1]),
            Err("no cell b | a in table 2 of s".into())
        );
    }

    #[test]
    fn a_number_in_prose_has_a_cell() {
        let quotes = quotes(PAGE);
        assert_eq!(quotes.len(), 2);
        assert_eq!(
            (quotes[1].value.as_str(), quotes[1].of(&tables(PAGE)[0])),
            ("b", Some("b".into()))
        );
        assert_eq!(
            (quotes[0].value.as_str(), quotes[0].of(&tables(PAGE)[0])),
            ("1.4", Some("1.5".into()))
        );
        assert_eq!(quotes[0].of(&tables(PAGE)[1]), None);
    }
}
