//! UCI Multiple Features: six feature sets of the same 2000 handwritten digits.
//! Does not know how the result is stored or used.
use crate::prepare::{Check, OnProgress, PrepareError, Progress, source};
use crate::source_files::find;
use crate::table::Table;
use crate::{Array, DataSet, Manifest, ModalitySpec, Pairing, Samples, Standardised};
use std::path::{Path, PathBuf};

/// Where the original files are.
#[derive(Debug, Clone)]
pub struct HandwrittenOptions {
    /// Directory with `pix.csv`, … or UCI's `mfeat-pix`, …, plain or gzipped; optionally
    /// `labels.csv` and `tmc_train_rows.txt`, `tmc_test_rows.txt`.
    pub from: PathBuf,
    /// Take files whose checksums differ from the originals'.
    pub unverified: bool,
}

const VIEWS: [&str; 6] = ["pix", "fou", "fac", "zer", "kar", "mor"];
/// Rows of each class in the original files.
const PER_CLASS: usize = 200;
/// Training rows of each class that select: the last ones in row order.
const SELECT_PER_CLASS: usize = 20;

/// Reads the six views, standardises them by the training rows and splits them as
/// `datasets/handwritten.toml` says.
///
/// # Errors
/// One line that names the file and what is wrong with it.
pub fn handwritten(
    options: &HandwrittenOptions,
    progress: OnProgress,
) -> Result<DataSet, PrepareError> {
    let this = source("handwritten");
    let mut tables = vec![];
    for (done, view) in VIEWS.iter().enumerate() {
        let path = find(
            &options.from,
            &[&format!("{view}.csv"), &format!("mfeat-{view}")],
        )?;
        let check = Check {
            set: "handwritten",
            what: "SHA-256 of the numbers",
            unverified: options.unverified,
        };
        let table = Table::verified(&path, &this.values[*view], check)?;
        if done > 0 && table.rows() != Table::rows(&tables[0]) {
            let problem = format!(
                "{} rows, {} has {}",
                table.rows(),
                VIEWS[0],
                Table::rows(&tables[0])
            );
            return Err(PrepareError::Content { path, problem });
        }
        tables.push(table);
        progress(Progress {
            stage: "views",
            done: done + 1,
            total: VIEWS.len(),
        });
    }
    let rows = tables[0].rows();
    let labels = labels(&options.from, rows)?;
    let (train, report) = official_rows(&options.from, rows, &this.rows["report"])?;
    let (train, select) = hold_out(&train, &labels);

    let mut specs = vec![];
    let mut arrays = [vec![], vec![], vec![]];
    let mut constant = 0;
    for (view, table) in VIEWS.iter().zip(&tables) {
        let standardised = fit(table, &train);
        constant += standardised.sd.iter().filter(|sd| **sd == 0.).count();
        for (split, rows) in arrays.iter_mut().zip([&train, &select, &report]) {
            let values = rows
                .iter()
                .flat_map(|r| standardise(table.row(*r), &standardised))
                .collect();
            split.push(Array::floats(&[table.columns], values).expect("whole rows"));
        }
        let mut spec = ModalitySpec::new(*view, &[table.columns]);
        spec.standardised = Some(standardised);
        specs.push(spec);
    }
    let mut manifest = Manifest::new(this.name, this.classes, specs);
    manifest.notes = this.notes;
    if constant > 0 {
        manifest.notes.push(format!(
            "{constant} features are constant over the training rows and were only centred"
        ));
    }
    if options.unverified {
        manifest
            .notes
            .push("prepared without verifying the checksums of the original files".into());
    }
    manifest.sources = this.sources;
    manifest.licence = Some(this.licence);
    let [train, select, report] =
        [train, select, report].map(|rows| rows.iter().map(|r| labels[*r]).collect());
    let [a, b, c] = arrays;
    let samples = |arrays, labels| Samples {
        arrays,
        pairing: Pairing::Rows { labels },
    };
    Ok(DataSet::new(
        manifest,
        samples(a, train),
        samples(b, select),
        samples(c, report),
    )?)
}

/// Of `labels.csv`, or by the order of the original files.
fn labels(dir: &Path, rows: usize) -> Result<Vec<u32>, PrepareError> {
    let Ok(path) = find(dir, &["labels.csv"]) else {
        if rows != 10 * PER_CLASS {
            let problem = format!(
                "{rows} rows, the original has {}; add labels.csv",
                10 * PER_CLASS
            );
            return Err(PrepareError::Content {
                path: dir.into(),
                problem,
            });
        }
        return Ok((0..rows).map(|row| (row / PER_CLASS) as u32).collect());
    };
    let table = Table::read(&path)?;
    if (table.columns, table.rows()) != (1, rows) {
        let problem = format!(
            "{} rows of {} numbers, expected {rows} labels",
            table.rows(),
            table.columns
        );
        return Err(PrepareError::Content { path, problem });
    }
    integers(&table, &path, 9).map(|labels| labels.into_iter().map(|k| k as u32).collect())
}

/// Training and report rows, ascending: of the `tmc_*_rows.txt` files, or those of the manifest.
fn official_rows(
    dir: &Path,
    rows: usize,
    report: &[usize],
) -> Result<(Vec<usize>, Vec<usize>), PrepareError> {
    let read = |name: &str| {
        let path = dir.join(name);
        let mut chosen = integers(&Table::read(&path)?, &path, rows.saturating_sub(1))?;
        chosen.sort_unstable();
        match chosen.windows(2).find(|w| w[0] == w[1]) {
            Some(twice) => Err(PrepareError::Content {
                path,
                problem: format!("row {} is listed twice", twice[0]),
            }),
            None => Ok(chosen),
        }
    };
    let (train, test) = ("tmc_train_rows.txt", "tmc_test_rows.txt");
    if dir.join(train).is_file() && dir.join(test).is_file() {
        let (train_rows, report) = (read(train)?, read(test)?);
        if let Some(both) = report.iter().find(|r| train_rows.binary_search(r).is_ok()) {
            let problem = format!("row {both} is also in {train}");
            return Err(PrepareError::Content {
                path: dir.join(test),
                problem,
            });
        }
        return Ok((train_rows, report));
    }
    if report.iter().any(|r| *r >= rows) {
        let problem = format!(
            "{rows} rows, the split needs {}; add {train} and {test}",
            10 * PER_CLASS
        );
        return Err(PrepareError::Content {
            path: dir.into(),
            problem,
        });
    }
    Ok((
        (0..rows)
            .filter(|r| report.binary_search(r).is_err())
            .collect(),
        report.to_vec(),
    ))
}

fn integers(table: &Table, path: &Path, most: usize) -> Result<Vec<usize>, PrepareError> {
    let bad = table
        .values
        .iter()
        .position(|v| v.fract() != 0. || *v < 0. || *v > most as f64);
    match bad {
        Some(i) => {
            let problem = format!("{} is not an integer from 0 to {most}", table.values[i]);
            Err(PrepareError::Table {
                path: path.into(),
                line: i / table.columns + 1,
                problem,
            })
        }
        None => Ok(table.values.iter().map(|v| *v as usize).collect()),
    }
}

/// Splits off the last rows of each class.
fn hold_out(train: &[usize], labels: &[u32]) -> (Vec<usize>, Vec<usize>) {
    let mut left = [SELECT_PER_CLASS; 10];
    let mut select: Vec<_> = train
        .iter()
        .rev()
        .copied()
        .filter(|row| {
            let left = &mut left[labels[*row] as usize];
            std::mem::replace(left, left.saturating_sub(1)) > 0
        })
        .collect();
    select.reverse();
    (
        train
            .iter()
            .copied()
            .filter(|r| select.binary_search(r).is_err())
            .collect(),
        select,
    )
}

/// Mean and (population) standard deviation of each feature over `rows`.
fn fit(table: &Table, rows: &[usize]) -> Standardised {
    let n = rows.len().max(1) as f64;
    let average = |value: &dyn Fn(f64, usize) -> f64| -> Vec<f64> {
        (0..table.columns)
            .map(|c| rows.iter().map(|r| value(table.row(*r)[c], c)).sum::<f64>() / n)
            .collect()
    };
    let mean = average(&|v, _| v);
    let sd = average(&|v, c| (v - mean[c]).powi(2))
        .into_iter()
        .map(f64::sqrt)
        .collect();
    Standardised { mean, sd }
}

fn standardise(row: &[f64], by: &Standardised) -> Vec<f32> {
    let scaled = |((v, mean), sd): ((&f64, &f64), &f64)| {
        ((v - mean) / if *sd == 0. { 1. } else { *sd }) as f32
    };
    row.iter().zip(&by.mean).zip(&by.sd).map(scaled).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_constant_feature_is_only_centred() {
        let table = Table {
            columns: 2,
            values: vec![1., 5., 3., 5., 100., 6.],
        };
        let by = fit(&table, &[0, 1]);
        assert_eq!(
            (by.mean.clone(), by.sd.clone()),
            (vec![2., 5.], vec![1., 0.])
        );
        assert_eq!(standardise(table.row(2), &by), [98., 1.]);
    }

    #[test]
    fn the_last_rows_of_each_class_are_held_out() {
        let labels: Vec<u32> = (0..2000).map(|r| r / 200).collect();
        let rows: Vec<usize> = (0..2000).filter(|r| r % 5 > 0).collect();
        let (train, select) = hold_out(&rows, &labels);
        assert_eq!((train.len(), select.len()), (1400, 200));
        assert_eq!(select[..3], [176, 177, 178]);
        assert_eq!(select[19], 199);
        assert!(train.iter().all(|r| !select.contains(r)));
    }
}
