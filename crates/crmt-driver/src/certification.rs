//! Radii of every report sample, and what they say of the whole split.
//! Does not know attacks.
use crate::{
    agreement::{self, Agreement},
    batches::EVAL_BATCH,
    evaluated::{Evaluated, absent},
    lipschitz::{Bounds, Constants},
    people::Voice,
    record::{CertifiedResult, ProgramResult, RadiusResult},
    sample_row::{SampleRow, Why},
    threat::Threat,
};
use anyhow::Result;
use crmt_certify::{
    Contributions, Evidence, Grade, MarginConstants, MissingRegion, Threat as Norm, limits,
    missing_regions,
};
use crmt_core::{AdditiveScores, PerModality};
use crmt_data::DataSet;
use std::collections::{BTreeMap, BTreeSet};

/// Strictly inside: radii are rounded down by ulps, budgets hold to 1e-6.
pub const INSIDE: f64 = 0.999;

/// Radii around the true labels (0 where misclassified), in declared units.
pub struct Radii {
    /// `proved` or `estimated`.
    pub evidence: &'static str,
    names: Vec<String>,
    /// One list of radii per threat, joint first.
    threats: Vec<(Threat, Vec<f64>)>,
    /// What limits each sample.
    limits: Vec<Limits>,
    /// Of proved ones: which program they are about, and where it is not the one that predicts.
    pub program: Option<ProgramResult>,
}

/// What limits a sample's joint radius: the rival, each modality's share of the worst joint
/// attack's squared budget, and what each adds to the margin over the rival.
pub struct Limits {
    certified: bool,
    rival: u32,
    shares: PerModality<f64>,
    shapley: PerModality<f64>,
}

/// Computes them on the CPU, in f64 unless they shall be about another program. Proved ones for
/// every threat; estimates for the usual ones. `rows`: with the margins of the network that
/// predicts.
pub fn radii(bounds: &Bounds, rows: &[SampleRow], data: &DataSet, voice: &Voice) -> Result<Radii> {
    let constants = bounds.constants()?;
    let absent = absent(&bounds.model, data)?;
    let mut agreement = match &constants {
        Constants::Proved(c) => Some(Agreement::new(c.program())),
        Constants::Estimated(_) => None,
    };
    let names: Vec<String> = data.modalities.iter().map(|m| m.name.clone()).collect();
    let bar = voice.stage("radii", data.report.len() as u64, "samples");
    let mut all = OfBatch::default();
    for (batch, rows) in data.report.batches(EVAL_BATCH).zip(rows.chunks(EVAL_BATCH)) {
        let batch = batch?;
        let of = Evaluated::new(&bounds.model, &batch, data)?;
        let mut radii = match &constants {
            Constants::Proved(c) => OfBatch::new(c, &of, &absent)?,
            Constants::Estimated(c) => OfBatch::new(c, &of, &absent)?,
        };
        if let Some(agreement) = &mut agreement {
            let predicting = agreement::read(rows, &names);
            let withdrawn = agreement.compare(&of, &absent, &predicting, &mut radii.threats)?;
            radii
                .limits
                .iter_mut()
                .zip(withdrawn)
                .for_each(|(limits, withdrawn)| limits.certified &= !withdrawn);
        }
        all.extend(radii);
        bar.inc(batch.len() as u64);
    }
    Ok(Radii {
        evidence: constants.evidence(),
        names,
        threats: all.threats,
        limits: all.limits,
        program: agreement.map(Agreement::result),
    })
}

/// Radii of a batch.
#[derive(Default)]
pub struct OfBatch {
    /// One list of radii per threat, joint first.
    pub threats: Vec<(Threat, Vec<f64>)>,
    limits: Vec<Limits>,
}

impl OfBatch {
    /// `absent`: the scores of the baselines.
    pub fn new<E: Grade>(
        constants: &MarginConstants<E>,
        of: &Evaluated,
        absent: &AdditiveScores,
    ) -> Result<Self> {
        let Evaluated {
            scores,
            evaluation,
            labels,
        } = of;
        let radii = crmt_certify::radii(constants, evaluation, labels)?;
        let contributions = Contributions::new(scores, Some(absent))?;
        let regions = missing_regions(constants, evaluation, labels, &contributions)?;
        let modalities = scores.unimodal.len();
        let of_each =
            |f: &dyn Fn(&MissingRegion<E>) -> f64| regions.iter().map(f).collect::<Vec<_>>();
        let of = |threat: Threat| -> Result<(Threat, Vec<f64>)> {
            let radii = match &threat {
                Threat::Joint => radii.joint(),
                Threat::Only(m) => radii.unimodal(*m),
                Threat::Each => {
                    let all_at_once = Norm::Linf(PerModality::from_fn(modalities, |_| 1.0));
                    limits(constants, evaluation, labels, &all_at_once)?
                        .iter()
                        .map(|limit| limit.radius)
                        .collect()
                }
                Threat::Without(gone) => of_each(&|region| region.joint_without(gone)),
                Threat::AnyMissing => of_each(&|region| region.worst_joint(1)),
            };
            Ok((threat, radii))
        };
        let limits = radii.samples().iter().zip(&regions).map(|(s, region)| {
            let of_rival = region.region().rivals().iter().position(|j| *j == s.rival);
            let added = of_rival
                .and_then(|j| region.contributions().nth(j))
                .unwrap_or_default();
            Limits {
                certified: s.joint > 0.0,
                rival: s.rival,
                shares: s.shares.clone(),
                shapley: PerModality::from_fn(modalities, |m| added.get(m).copied().unwrap_or(0.0)),
            }
        });
        Ok(Self {
            threats: threats(E::EVIDENCE, modalities)
                .into_iter()
                .map(of)
                .collect::<Result<_>>()?,
            limits: limits.collect(),
        })
    }

    fn extend(&mut self, other: Self) {
        if self.threats.is_empty() {
            self.threats = other.threats;
        } else {
            self.threats
                .iter_mut()
                .zip(other.threats)
                .for_each(|((_, all), (_, more))| all.extend(more));
        }
        self.limits.extend(other.limits);
    }
}

/// Proofs are told for every threat, guesses for the usual ones.
pub fn threats(evidence: Evidence, modalities: usize) -> Vec<Threat> {
    match evidence {
        Evidence::Estimated => Threat::usual(modalities),
        _ => Threat::all(modalities),
    }
}

impl Radii {
    /// Writes each sample's radii, and what limits them, into its row.
    pub fn write_to(&self, rows: &mut [SampleRow]) {
        let by_name = |values: &PerModality<f64>| {
            self.names
                .iter()
                .cloned()
                .zip(values.iter().copied())
                .collect()
        };
        for (row, limits) in rows.iter_mut().zip(&self.limits) {
            row.radii.clear();
            self.evidence.clone_into(&mut row.evidence);
            let Limits {
                rival,
                shares,
                shapley,
                ..
            } = limits;
            row.why = Some(Why {
                rival: *rival as usize,
                vulnerability: by_name(shares),
                shapley: by_name(shapley),
            });
        }
        for (threat, radii) in &self.threats {
            let name = threat.name(&self.names);
            rows.iter_mut().zip(radii).for_each(|(row, radius)| {
                row.radii.insert(name.clone(), *radius);
            });
        }
    }

    /// Mean and quantiles by threat, joint first.
    pub fn summary(&self) -> Vec<RadiusResult> {
        let right: Vec<&Limits> = self.limits.iter().filter(|l| l.certified).collect();
        let share =
            |m: usize| right.iter().map(|l| l.shares[m]).sum::<f64>() / right.len().max(1) as f64;
        let result = |(threat, radii): &(Threat, Vec<f64>)| RadiusResult {
            threat: threat.name(&self.names),
            evidence: self.evidence.to_owned(),
            mean: radii.iter().sum::<f64>() / radii.len().max(1) as f64,
            quantiles: quantiles(radii.clone()),
            vulnerability_share: match threat {
                Threat::Only(m) => Some(share(*m)),
                _ => None,
            },
        };
        self.threats.iter().map(result).collect()
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

/// What the radii of all rows are: `proved` only if every one is.
pub fn evidence(rows: &[SampleRow]) -> &'static str {
    if !rows.is_empty() && rows.iter().all(|row| row.evidence == "proved") {
        "proved"
    } else {
        "estimated"
    }
}

/// Fractions of rows whose radius is at least each budget.
pub fn certified(rows: &[SampleRow], eps: &[f64]) -> Vec<CertifiedResult> {
    let evidence = evidence(rows);
    let threats: Vec<&String> = rows
        .first()
        .map(|r| r.radii.keys().collect())
        .unwrap_or_default();
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
                attacked_samples: (!attacked.is_empty()).then(|| {
                    fraction(attacked.iter().filter(|r| holds(r)).count(), attacked.len())
                }),
            });
        }
    }
    results
}

/// Attacks that broke a sample inside its radius, by threat: samples with a radius above the budget
/// (l2, same threat) that did not hold, or above the distance of an adversarial that was found.
pub fn beaten(rows: &[SampleRow]) -> BTreeMap<String, u64> {
    let mut beaten = BTreeMap::new();
    for row in rows {
        let inside = |threat: &str, eps: f64| row.radii.get(threat).is_some_and(|r| *r > eps);
        // What breaks only a program that the certificate is not about does not break the
        // certificate.
        let confirmed = |threat: &str| {
            row.nearest
                .get(&format!("{threat}.l2"))
                .is_none_or(|nearest| nearest.confirmed)
        };
        let broken = row
            .outcomes
            .iter()
            .filter(|o| !o.held && o.norm == "l2")
            .map(|o| (o.threat.as_str(), o.eps));
        // Judged in f32, and as near to the boundary as that can tell: strictly inside means what
        // it means for attacks on certificates.
        let found = row.nearest.iter().filter_map(|(key, nearest)| {
            Some((key.strip_suffix(".l2")?, nearest.distance / INSIDE))
        });
        let threats: BTreeSet<&str> = broken
            .chain(found)
            .filter(|(t, eps)| inside(t, *eps) && confirmed(t))
            .map(|(threat, _)| threat)
            .collect();
        threats
            .into_iter()
            .for_each(|threat| *beaten.entry(threat.to_owned()).or_default() += 1);
    }
    beaten
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        sample_row::{Nearest, Outcome},
        threat::JOINT,
    };

    fn row(radius: f64, held: bool) -> SampleRow {
        SampleRow {
            radii: [(JOINT.to_owned(), radius)].into(),
            outcomes: vec![Outcome {
                name: "pgd".into(),
                threat: JOINT.into(),
                norm: "l2".into(),
                eps: 0.5,
                held,
            }],
            ..SampleRow::default()
        }
    }

    #[test]
    fn only_a_break_inside_the_radius_is_a_violation() {
        assert!(beaten(&[row(0.6, true), row(0.4, false), row(0.5, false)]).is_empty());
        assert_eq!(beaten(&[row(0.51, false), row(0.6, true)])[JOINT], 1);
        let near = |distance| {
            let nearest = Nearest {
                distance,
                confirmed: true,
                ..Nearest::default()
            };
            SampleRow {
                nearest: [("joint.l2".to_owned(), nearest)].into(),
                ..row(0.4, false)
            }
        };
        assert!(beaten(&[near(0.41), near(0.3999)]).is_empty());
        assert_eq!(beaten(&[near(0.39)])[JOINT], 1);
        // Broken in f32 alone, by an attack and at a distance: the certificate, which is about f64,
        // stands.
        let mut other_program = SampleRow {
            outcomes: row(0.6, false).outcomes,
            radii: row(0.6, false).radii,
            ..near(0.39)
        };
        assert_eq!(beaten(std::slice::from_ref(&other_program))[JOINT], 1);
        other_program
            .nearest
            .values_mut()
            .for_each(|nearest| nearest.confirmed = false);
        assert!(beaten(&[other_program]).is_empty());
    }

    /// One estimate among proofs, and no row proves what nobody computed.
    #[test]
    fn what_rests_on_an_estimate_is_no_proof() {
        let of = |evidence: &str| SampleRow {
            evidence: evidence.into(),
            ..row(0.6, true)
        };
        assert_eq!(evidence(&[of("proved"), of("proved")]), "proved");
        assert_eq!(evidence(&[of("proved"), of("estimated")]), "estimated");
        assert_eq!(
            certified(&[of("estimated"), of("proved")], &[0.5])[0].evidence,
            "estimated"
        );
        assert_eq!(evidence(&[]), "estimated");
    }

    /// A radius is about the declared baselines: what an attack did with others in their place is
    /// no violation.
    #[test]
    fn other_baselines_are_not_confronted_with_radii() {
        let missing = |baseline| {
            let threat = Threat::parse("without-a", &["a".to_owned(), "b".to_owned()]).unwrap();
            let names = ["a".to_owned(), "b".to_owned()];
            let mut row = row(0.6, false);
            row.radii.insert(threat.name(&names), 0.6);
            row.outcomes[0].threat = threat.name_with(&names, baseline);
            row
        };
        assert_eq!(beaten(&[missing("declared")])["without-a"], 1);
        assert!(beaten(&[missing("learned"), missing("zeros"), missing("mean")]).is_empty());
    }

    #[test]
    fn fractions_count_all_rows_and_the_attacked_ones() {
        let untouched = SampleRow {
            outcomes: vec![],
            ..row(2.0, true)
        };
        let c = certified(&[row(0.6, true), row(0.4, false), untouched], &[0.5]);
        assert_eq!(
            (c[0].accuracy, c[0].attacked_samples),
            (2.0 / 3.0, Some(0.5))
        );
    }

    #[test]
    fn quantiles_are_order_statistics() {
        let q = quantiles((0..=100).rev().map(f64::from).collect());
        assert_eq!((q.len(), q[0], q[10], q[20]), (21, 0.0, 50.0, 100.0));
    }
}
