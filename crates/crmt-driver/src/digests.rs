//! SHA-256 of what a run was made from: the splits of a data set and its baselines.
//! Does not know what is done about a difference.
use crate::{batches::EVAL_BATCH, sealed};
use anyhow::Result;
use candle_core::Tensor;
use crmt_core::PerModality;
use crmt_data::{DataSet, Pairing, Split};
use sha2::{Digest, Sha256};

/// Rows that are hashed at a time.
const ROWS: usize = 1024;

/// Of inputs and labels of the report split, sample by sample.
pub fn of_report(data: &DataSet) -> Result<String> {
    let mut hash = Sha256::new();
    for batch in data.report.batches(EVAL_BATCH) {
        let batch = batch?;
        for x in &batch.inputs {
            hash.update(sealed::bytes(x)?);
        }
        batch
            .labels
            .to_vec1::<u32>()?
            .iter()
            .for_each(|label| hash.update(label.to_le_bytes()));
    }
    Ok(sealed::hex(hash))
}

/// Of all values of a split, its labels, and how its rows are paired; also of one whose samples are
/// drawn anew each epoch.
pub fn of_split(split: &Split) -> String {
    let mut hash = Sha256::new();
    for array in split.arrays() {
        hash.update(format!("{:?} {}\n", array.shape(), array.rows()));
        for start in (0..array.rows()).step_by(ROWS) {
            let values = array.to_vec(start..array.rows().min(start + ROWS));
            hash.update(
                values
                    .iter()
                    .flat_map(|v| v.to_le_bytes())
                    .collect::<Vec<u8>>(),
            );
        }
    }
    let mut list = |name: &str, values: &[u32]| {
        hash.update(format!("{name} {}\n", values.len()));
        hash.update(
            values
                .iter()
                .flat_map(|v| v.to_le_bytes())
                .collect::<Vec<u8>>(),
        );
    };
    match split.pairing() {
        Pairing::Rows { labels } => list("rows", labels),
        Pairing::Index { table, labels } => {
            list("index", table);
            list("labels", labels);
        }
        Pairing::Class { labels } => labels.iter().for_each(|labels| list("class", labels)),
    }
    sealed::hex(hash)
}

/// Of what training depends on.
pub fn of_training(data: &DataSet) -> String {
    let hash = Sha256::new()
        .chain_update(of_split(&data.train))
        .chain_update(of_split(&data.select));
    sealed::hex(hash)
}

/// Of what stands in for missing modalities.
pub fn of_baselines(baselines: &PerModality<Tensor>) -> Result<String> {
    let mut hash = Sha256::new();
    for baseline in baselines {
        hash.update(sealed::bytes(baseline)?);
    }
    Ok(sealed::hex(hash))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crmt_data::{Array, Manifest, ModalitySpec, Samples};

    fn data(train: [f32; 4], labels: [u32; 2]) -> DataSet {
        let samples = |values: [f32; 4], labels: [u32; 2]| Samples {
            arrays: vec![Array::floats(&[2], values.to_vec()).expect("two rows")],
            pairing: Pairing::Rows {
                labels: labels.to_vec(),
            },
        };
        let manifest = Manifest::new("x", ["no", "yes"], vec![ModalitySpec::new("x", &[2])]);
        let other = || samples([0.0; 4], [0, 1]);
        DataSet::new(manifest, samples(train, labels), other(), other()).expect("a data set")
    }

    #[test]
    fn every_value_and_label_of_a_split_counts() {
        let hash = |train, labels| of_split(&data(train, labels).train);
        let values = [0.0, 1.0, 2.0, 3.0];
        let known = hash(values, [0, 1]);
        assert_eq!(known, hash(values, [0, 1]));
        for (values, labels) in [
            ([0.0, 1.0, 3.0, 2.0], [0, 1]),
            ([0.0, 1.0, 2.0, 4.0], [0, 1]),
            (values, [1, 0]),
        ] {
            assert_ne!(known, hash(values, labels));
        }
    }
}
