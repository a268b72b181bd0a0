//! A data set with some of its modalities, e.g. to train on one alone. Knows neither files nor
//! models.
use crate::{DataSet, DataSetError, Manifest, Pairing, Samples, Split};
use crmt_core::PerModality;

/// Why a subset can't be.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum SubsetError {
    /// A name that no modality has.
    #[error("the data set `{data}` has no modality `{name}`; it has {}", known.join(", "))]
    Unknown {
        /// The data set.
        data: String,
        /// The name.
        name: String,
        /// What there is.
        known: Vec<String>,
    },
    /// One name twice.
    #[error("modality `{0}` is named twice")]
    Twice(String),
    /// What is left is no data set: no modality, or one without partners.
    #[error(transparent)]
    Rest(#[from] DataSetError),
}

impl DataSet {
    /// The same samples with the modalities `names` only, in the order of `names`.
    ///
    /// Where the training split is paired by class, its samples are the rows of the first modality:
    /// a subset without that modality has the training samples of its own first one.
    ///
    /// # Errors
    /// [`SubsetError`] says which name is wrong.
    pub fn subset(self, names: &[impl AsRef<str>]) -> Result<Self, SubsetError> {
        let known: Vec<String> = self.modalities.iter().map(|m| m.name.clone()).collect();
        let mut kept = Vec::with_capacity(names.len());
        for name in names {
            let name = name.as_ref();
            let Some(m) = known.iter().position(|k| k == name) else {
                return Err(SubsetError::Unknown {
                    data: self.name,
                    name: name.to_owned(),
                    known,
                });
            };
            if kept.contains(&m) {
                return Err(SubsetError::Twice(name.to_owned()));
            }
            kept.push(m);
        }
        let manifest = self.manifest();
        let modalities = kept
            .iter()
            .map(|m| manifest.modalities[*m].clone())
            .collect();
        let manifest = Manifest {
            modalities,
            ..manifest.clone()
        };
        let of = |split: &Split| samples(split, &kept);
        let part = Self::new(
            manifest,
            of(&self.train),
            of(&self.select),
            of(&self.report),
        )?;
        let corruptions = self
            .corruptions
            .into_iter()
            .filter(|c| names.iter().any(|name| name.as_ref() == c.modality));
        Ok(part.with_corruptions(corruptions.collect())?)
    }
}

fn samples(split: &Split, kept: &[usize]) -> Samples {
    let arrays = kept.iter().map(|m| split.arrays()[*m].clone()).collect();
    let pairing = match split.pairing() {
        Pairing::Rows { labels } => Pairing::Rows {
            labels: labels.clone(),
        },
        Pairing::Index { table, labels } => {
            let rows = table.chunks_exact(split.arrays().len());
            Pairing::Index {
                table: rows.flat_map(|row| kept.iter().map(|m| row[*m])).collect(),
                labels: labels.clone(),
            }
        }
        Pairing::Class { labels } => match kept {
            // Nothing to pair: rows are samples.
            [only] => Pairing::Rows {
                labels: labels[*only].clone(),
            },
            // An empty subset is refused with its description.
            _ => {
                let kept = PerModality::new(kept.iter().map(|m| labels[*m].clone()).collect());
                Pairing::Class {
                    labels: kept.unwrap_or_else(|| labels.clone()),
                }
            }
        },
    };
    Samples { arrays, pairing }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{SyntheticOptions, synthetic};
    use crmt_core::Streams;

    fn data() -> DataSet {
        let options = SyntheticOptions {
            train: 40,
            select: 10,
            report: 10,
            ..SyntheticOptions::default()
        };
        synthetic(&options).expect("valid")
    }

    #[test]
    fn samples_keep_their_values_labels_and_baselines() {
        let whole = data();
        for names in [vec!["audio"], vec!["image"], vec!["audio", "image"]] {
            let part = whole.clone().subset(&names).expect("known names");
            assert_eq!(
                part.modalities
                    .iter()
                    .map(|m| m.name.as_str())
                    .collect::<Vec<_>>(),
                names
            );
            let (a, b) = (
                whole.report.batch(2..7).expect("fixed"),
                part.report.batch(2..7).expect("fixed"),
            );
            assert_eq!(
                a.labels.to_vec1::<u32>().expect("u32"),
                b.labels.to_vec1::<u32>().expect("u32")
            );
            for (m, name) in names.iter().enumerate() {
                let of = whole
                    .modalities
                    .iter()
                    .position(|x| x.name == *name)
                    .expect("known");
                let values = |x: &candle_core::Tensor| {
                    x.flatten_all()
                        .and_then(|x| x.to_vec1::<f32>())
                        .expect("f32")
                };
                assert_eq!(values(&a.inputs[of]), values(&b.inputs[m]));
                assert_eq!(values(&whole.baselines[of]), values(&part.baselines[m]));
            }
            assert!(part.train_sample(&Streams::new(0), 4).is_ok());
        }
    }

    #[test]
    fn wrong_names_are_refused_by_name() {
        let message = |names: &[&str]| data().subset(names).expect_err("wrong").to_string();
        assert!(message(&["image", "lidar"]).contains("no modality `lidar`; it has image, audio"));
        assert!(message(&["image", "image"]).contains("`image` is named twice"));
        assert!(message(&[]).contains("modalit"), "{}", message(&[]));
    }
}
