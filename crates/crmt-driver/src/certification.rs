//! Radii of every report sample, and what they say of the whole split.
//! Does not know attacks.
use crate::{
    lipschitz::{Bounds, Constants, scales},
    people::Voice,
    record::{CertifiedResult, RadiusResult},
    report::SampleRow,
    training::EVAL_BATCH,
};
use anyhow::Result;
use candle_core::DType;
use crmt_certify::SampleRadii;
use crmt_core::{Classifier, PerModality};
use crmt_data::DataSet;
use std::collections::BTreeMap;

/// The threat of one budget over all modalities.
pub const JOINT: &str = "joint";

/// Radii around the true labels (0 where misclassified), in declared units.
pub struct Radii {
    /// `proved` or `estimated`.
    pub evidence: &'static str,
    samples: Vec<SampleRadii>,
    names: PerModality<String>,
}

/// Computes them in f64.
pub fn radii(bounds: &Bounds, data: &DataSet, voice: &Voice) -> Result<Radii> {
    let constants = bounds.constants(&scales(&bounds.model))?;
    let bar = voice.stage("radii", data.report.len() as u64);
    let mut samples = vec![];
    for batch in data.report.batches(EVAL_BATCH) {
        let batch = batch?.to_dtype(DType::F64)?;
        let logits = bounds.model.logits(&batch.inputs)?;
        let labels = batch.labels.to_vec1::<u32>()?;
        let of_batch = match &constants {
            Constants::Proved(c) => crmt_certify::radii(c, &logits, &labels)?.samples().to_vec(),
            Constants::Estimated(c) => crmt_certify::radii(c, &logits, &labels)?.samples().to_vec(),
        };
        samples.extend(of_batch);
        bar.inc(batch.len() as u64);
    }
    let evidence = match constants {
        Constants::Proved(_) => "proved",
        Constants::Estimated(_) => "estimated",
    };
    Ok(Radii { evidence, samples, names: data.modalities.map(|m| m.name.clone()) })
}

impl Radii {
    /// Writes each sample's radii into its row.
    pub fn write_to(&self, rows: &mut [SampleRow]) {
        for (row, sample) in rows.iter_mut().zip(&self.samples) {
            let unimodal = self.names.iter().cloned().zip(sample.unimodal.iter().copied());
            row.radii = unimodal.chain([(JOINT.to_owned(), sample.joint)]).collect();
        }
    }

    /// Mean and quantiles by threat, joint first.
    pub fn summary(&self) -> Vec<RadiusResult> {
        let right: Vec<_> = self.samples.iter().filter(|s| s.joint > 0.0).collect();
        let share = |m: usize| right.iter().map(|s| s.shares[m]).sum::<f64>() / right.len().max(1) as f64;
        let result = |threat: &str, radii: Vec<f64>, share| RadiusResult {
            threat: threat.to_owned(),
            evidence: self.evidence.to_owned(),
            mean: radii.iter().sum::<f64>() / radii.len().max(1) as f64,
            quantiles: quantiles(radii),
            vulnerability_share: share,
        };
        let joint = result(JOINT, self.samples.iter().map(|s| s.joint).collect(), None);
        let unimodal = self
            .names
            .iter()
            .enumerate()
            .map(|(m, name)| result(name, self.samples.iter().map(|s| s.unimodal[m]).collect(), Some(share(m))));
        std::iter::once(joint).chain(unimodal).collect()
    }
}

/// Ascending values at 0, 0.05, …, 1 (nearest rank).
pub fn quantiles(mut values: Vec<f64>) -> Vec<f64> {
    values.sort_by(f64::total_cmp);
    match values.len() {
        0 => vec![],
        n => (0..=20).map(|i| values[(n - 1) * i / 20]).collect(),
    }
}

/// Fractions of rows whose radius is at least each budget.
pub fn certified(rows: &[SampleRow], evidence: &str, eps: &[f64]) -> Vec<CertifiedResult> {
    let threats: Vec<&String> = rows.first().map(|r| r.radii.keys().collect()).unwrap_or_default();
    let attacked: Vec<&SampleRow> = rows.iter().filter(|r| !r.outcomes.is_empty()).collect();
    let mut results = vec![];
    for threat in threats {
        for eps in eps {
            let holds = |row: &&SampleRow| row.radii.get(threat).is_some_and(|r| r >= eps);
            let fraction = |n: usize, of: usize| n as f64 / of.max(1) as f64;
            results.push(CertifiedResult {
                threat: threat.clone(),
                eps: *eps,
                accuracy: fraction(rows.iter().filter(holds).count(), rows.len()),
                evidence: evidence.to_owned(),
                samples: rows.len() as u64,
                attacked_samples: (!attacked.is_empty())
                    .then(|| fraction(attacked.iter().filter(|r| holds(r)).count(), attacked.len())),
            });
        }
    }
    results
}

/// Attacks that broke a sample inside its radius, by threat: samples with a radius above the
/// budget (l2, same threat) that did not hold.
pub fn beaten(rows: &[SampleRow]) -> BTreeMap<String, u64> {
    let mut beaten = BTreeMap::new();
    for row in rows {
        let inside = |threat: &str, eps: f64| row.radii.get(threat).is_some_and(|r| *r > eps);
        let mut threats: Vec<&str> = row
            .outcomes
            .iter()
            .filter(|o| !o.held && o.norm == "l2" && inside(&o.threat, o.eps))
            .map(|o| o.threat.as_str())
            .collect();
        threats.dedup();
        threats.into_iter().for_each(|threat| *beaten.entry(threat.to_owned()).or_default() += 1);
    }
    beaten
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::Outcome;

    fn row(radius: f64, held: bool) -> SampleRow {
        SampleRow {
            radii: [(JOINT.to_owned(), radius)].into(),
            outcomes: vec![Outcome { name: "pgd".into(), threat: JOINT.into(), norm: "l2".into(), eps: 0.5, held }],
            ..SampleRow::default()
        }
    }

    #[test]
    fn only_a_break_inside_the_radius_is_a_violation() {
        assert!(beaten(&[row(0.6, true), row(0.4, false), row(0.5, false)]).is_empty());
        assert_eq!(beaten(&[row(0.51, false), row(0.6, true)])[JOINT], 1);
    }

    #[test]
    fn fractions_count_all_rows_and_the_attacked_ones() {
        let untouched = SampleRow { outcomes: vec![], ..row(2.0, true) };
        let c = certified(&[row(0.6, true), row(0.4, false), untouched], "proved", &[0.5]);
        assert_eq!((c[0].accuracy, c[0].attacked_samples), (2.0 / 3.0, Some(0.5)));
    }

    #[test]
    fn quantiles_are_order_statistics() {
        let q = quantiles((0..=100).rev().map(f64::from).collect());
        assert_eq!((q.len(), q[0], q[10], q[20]), (21, 0.0, 50.0, 100.0));
    }
}
