//! What the splits of a data set let a reader of results doubt: classes that are missing, samples
//! that are in two splits. Does not know models nor results.
use crate::text::visible;
use crate::{DataSet, Pairing, Split};
use rayon::prelude::*;
use std::collections::HashSet;
use std::hash::{DefaultHasher, Hasher};

/// Of more classes, only how many there are is told.
const NAMED: usize = 5;

impl DataSet {
    /// What is legal and yet spoils results, one line each: classes that the model never saw or
    /// that are not reported, report samples that are training samples.
    pub fn doubts(&self) -> Vec<String> {
        let classes = self.classes.len();
        let [train, select, report] =
            [&self.train, &self.select, &self.report].map(|split| counts(split, classes));
        let mut doubts = vec![];
        let mut tell = |which: &dyn Fn(usize) -> bool, what: &str| {
            let found: Vec<_> = (0..classes)
                .filter(|k| which(*k))
                .map(|k| format!("`{}`", visible(&self.classes[k])))
                .collect();
            match found.len() {
                0 => {}
                1 => doubts.push(format!("class {} is {what}", found[0])),
                n if n <= NAMED => doubts.push(format!("classes {} are {what}", found.join(", "))),
                n => doubts.push(format!(
                    "classes {} and {} more are {what}",
                    found[..NAMED].join(", "),
                    n - NAMED
                )),
            }
        };
        let unseen = |k: usize| train[k] == 0 && select[k] + report[k] > 0;
        tell(
            &unseen,
            "never in the training split, but in the others: no model can learn it",
        );
        tell(&|k| train[k] + select[k] + report[k] == 0, "in no split");
        tell(
            &|k| report[k] == 0 && train[k] > 0,
            "not in the report split: no result is about it",
        );
        tell(
            &|k| select[k] == 0 && train[k] > 0,
            "not in the selection split: epochs are chosen without it",
        );
        for (name, counts) in [
            ("training", &train),
            ("selection", &select),
            ("report", &report),
        ] {
            if classes > 1 && counts.iter().filter(|n| **n > 0).count() == 1 {
                doubts.push(format!("the {name} split has samples of one class only"));
            }
        }
        let known = self.known_samples();
        if known > 0 {
            let all = self.report.len();
            doubts.push(format!(
                "{known} of {all} report samples are training samples, bit for bit: results flatter the model"
            ));
        }
        doubts
    }

    /// Report samples that the training split can show: as one sample, or, where it is paired at
    /// random, with a row of each modality.
    fn known_samples(&self) -> usize {
        let modalities = self.modalities.len();
        let everything = |split: &Split, i: usize| {
            (0..modalities).fold(0, |hash, m| hash_row(split, m, split.row(i, m), hash))
        };
        match self.train.pairing() {
            Pairing::Class { .. } => {
                let known: Vec<HashSet<u64>> = (0..modalities)
                    .map(|m| {
                        let rows = self.train.arrays()[m].rows();
                        (0..rows)
                            .into_par_iter()
                            .map(|row| hash_row(&self.train, m, row, 0))
                            .collect()
                    })
                    .collect();
                let report = &self.report;
                let is_known = |i: &usize| {
                    (0..modalities)
                        .all(|m| known[m].contains(&hash_row(report, m, report.row(*i, m), 0)))
                };
                (0..report.len()).into_par_iter().filter(is_known).count()
            }
            _ => {
                let known: HashSet<u64> = (0..self.train.len())
                    .into_par_iter()
                    .map(|i| everything(&self.train, i))
                    .collect();
                (0..self.report.len())
                    .into_par_iter()
                    .filter(|i| known.contains(&everything(&self.report, *i)))
                    .count()
            }
        }
    }
}

fn counts(split: &Split, classes: usize) -> Vec<usize> {
    let mut counts = vec![0; classes];
    split
        .labels()
        .iter()
        .for_each(|label| counts[*label as usize] += 1);
    counts
}

fn hash_row(split: &Split, m: usize, row: usize, before: u64) -> u64 {
    let array = &split.arrays()[m];
    let mut values = Vec::with_capacity(array.row_len());
    array.copy_rows([row], &mut values);
    let mut hash = DefaultHasher::new();
    hash.write_u64(before);
    values.iter().for_each(|v| hash.write_u32(v.to_bits()));
    hash.finish()
}

#[cfg(test)]
mod tests {
    use crate::{Array, DataSet, Manifest, ModalitySpec, Pairing, Samples};
    use crmt_core::PerModality;

    /// Samples with these labels; their values are counted from `first`.
    fn samples(labels: &[u32], first: usize) -> Samples {
        let array = || {
            Array::floats(
                &[2],
                (0..2 * labels.len())
                    .map(|i| (2 * first + i) as f32)
                    .collect(),
            )
            .expect("whole")
        };
        Samples {
            arrays: vec![array(), array()],
            pairing: Pairing::Rows {
                labels: labels.to_vec(),
            },
        }
    }

    fn doubts(classes: usize, [train, select, report]: [Samples; 3]) -> Vec<String> {
        let modalities = vec![
            ModalitySpec::new("face", &[2]),
            ModalitySpec::new("voice", &[2]),
        ];
        let manifest = Manifest::new("x", (0..classes).map(|k| format!("c{k}")), modalities);
        DataSet::new(manifest, train, select, report)
            .expect("valid")
            .doubts()
    }

    #[test]
    fn whole_splits_leave_no_doubt() {
        assert_eq!(
            doubts(
                2,
                [
                    samples(&[0, 1], 0),
                    samples(&[0, 1], 10),
                    samples(&[1, 0], 20)
                ]
            ),
            Vec::<String>::new()
        );
    }

    #[test]
    fn classes_that_are_missing_are_named() {
        let splits = [
            samples(&[0, 1, 3], 0),
            samples(&[0, 1, 2, 3], 10),
            samples(&[0, 2, 2], 20),
        ];
        let told = doubts(5, splits).join("\n");
        for expected in [
            "class `c2` is never in the training split",
            "class `c4` is in no split",
            "classes `c1`, `c3` are not in the report split",
        ] {
            assert!(told.contains(expected), "{expected} is not in\n{told}");
        }
        let many: Vec<u32> = (0..20).collect();
        let told = doubts(
            20,
            [samples(&[0, 1], 0), samples(&many, 50), samples(&many, 90)],
        );
        assert!(
            told[0].starts_with("classes `c2`, `c3`, `c4`, `c5`, `c6` and 13 more are never"),
            "{told:?}"
        );
        let told = doubts(
            2,
            [
                samples(&[0, 1], 0),
                samples(&[0, 1], 10),
                samples(&[1, 1], 20),
            ],
        );
        assert!(
            told.iter()
                .any(|d| d == "the report split has samples of one class only"),
            "{told:?}"
        );
    }

    #[test]
    fn samples_of_two_splits_are_counted() {
        // The report split begins with the last sample of the training split.
        let splits = |train: Samples| [train, samples(&[0, 1], 10), samples(&[1, 0, 1], 1)];
        let expected = "1 of 3 report samples are training samples";
        let rows = doubts(2, splits(samples(&[0, 1], 0)));
        assert!(rows.len() == 1 && rows[0].starts_with(expected), "{rows:?}");
        let labels = vec![0, 1];
        let by_class = Samples {
            pairing: Pairing::Class {
                labels: PerModality::from([labels.clone(), labels]),
            },
            ..samples(&[0, 1], 0)
        };
        let drawn = doubts(2, splits(by_class));
        assert!(
            drawn.len() == 1 && drawn[0].starts_with(expected),
            "{drawn:?}"
        );
    }
}
