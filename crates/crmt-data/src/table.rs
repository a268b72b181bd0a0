//! Reads tables of numbers from text, separated by commas or blanks.
//! Does not know what the columns mean.
use crate::prepare::{Check, PrepareError, TableSum, sha256};
use crate::source_files::read_file;
use std::path::Path;

/// Numbers in rows of one length.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Table {
    pub(crate) columns: usize,
    pub(crate) values: Vec<f64>,
}

impl Table {
    /// Reads a (possibly gzipped) text file; every row must have the same number of finite numbers.
    pub(crate) fn read(path: &Path) -> Result<Self, PrepareError> {
        let text = String::from_utf8_lossy(&read_file(path)?).into_owned();
        Self::parse(&text).map_err(|(line, problem)| PrepareError::Table {
            path: path.into(),
            line,
            problem,
        })
    }

    /// Reads a file that must hold the numbers that its manifest declares.
    pub(crate) fn verified(
        path: &Path,
        sum: &TableSum,
        check: Check,
    ) -> Result<Self, PrepareError> {
        let table = Self::read(path)?;
        if table.columns != sum.columns {
            let problem = format!(
                "{} numbers per line, expected {}",
                table.columns, sum.columns
            );
            return Err(PrepareError::Content {
                path: path.into(),
                problem,
            });
        }
        let rows = Check {
            what: "number of rows",
            ..check
        };
        rows.run(path, &sum.rows.to_string(), table.rows().to_string())?;
        let bytes: Vec<u8> = table.values.iter().flat_map(|v| v.to_le_bytes()).collect();
        check.run(path, &sum.sha256, sha256(&bytes))?;
        Ok(table)
    }

    pub(crate) fn rows(&self) -> usize {
        self.values.len() / self.columns
    }

    pub(crate) fn row(&self, i: usize) -> &[f64] {
        &self.values[i * self.columns..(i + 1) * self.columns]
    }

    /// Line (from 1) and problem of the first bad line.
    fn parse(text: &str) -> Result<Self, (usize, String)> {
        let (mut columns, mut values) = (0, vec![]);
        for (i, line) in text
            .lines()
            .enumerate()
            .filter(|(_, line)| !line.trim().is_empty())
        {
            let before = values.len();
            for field in line
                .split(|c: char| c == ',' || c.is_whitespace())
                .filter(|f| !f.is_empty())
            {
                match field.parse::<f64>() {
                    Ok(v) if v.is_finite() => values.push(v),
                    _ => return Err((i + 1, format!("`{field}` is not a finite number"))),
                }
            }
            let found = values.len() - before;
            if before > 0 && found != columns {
                return Err((
                    i + 1,
                    format!("{found} numbers, the lines before have {columns}"),
                ));
            }
            columns = found;
        }
        if columns == 0 {
            Err((1, "no numbers".into()))
        } else {
            Ok(Self { columns, values })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn commas_blanks_and_both_separate() {
        let table = Table {
            columns: 2,
            values: vec![1., 2.5, -3., 4e2],
        };
        for text in [
            "1,2.5\n-3,4e2\n",
            " 1   2.5\r\n -3 400\r\n\r\n",
            "1, 2.5\n-3, 400",
        ] {
            assert_eq!(Table::parse(text), Ok(table.clone()));
        }
        assert_eq!((table.rows(), table.row(1)), (2, &[-3., 400.][..]));
    }

    #[test]
    fn damage_is_named() {
        assert_eq!(
            Table::parse("1,2\n1\n"),
            Err((2, "1 numbers, the lines before have 2".into()))
        );
        assert_eq!(
            Table::parse("1,x\n"),
            Err((1, "`x` is not a finite number".into()))
        );
        assert_eq!(
            Table::parse("\n1,inf\n"),
            Err((2, "`inf` is not a finite number".into()))
        );
        assert_eq!(Table::parse(" ,\n"), Err((1, "no numbers".into())));
    }

    proptest! {
        #[test]
        fn any_text_never_panics(text in "[0-9,. \n\r\te+-]{0,60}|\\PC{0,40}") {
            let _ = Table::parse(&text);
        }
    }
}
