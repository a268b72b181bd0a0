//! Measures a diagnosis on the report split: margins of each head, what each modality adds, and
//! averages. Takes radii and what limits them as they are known; does not know constants nor how
//! results are shown.
use super::{
    formulas::{etas, greatest, preferences},
    quantities::{Diagnosis, InSample, OfModality, OfSample, Spread},
    shapley::{MOST_PLAYERS, shapley, shares},
};
use crate::{
    batches::EVAL_BATCH, people::Voice, record::Summary, sample_row::SampleRow, threat::JOINT,
};
use anyhow::{Context, Result};
use candle_core::{D, DType, Tensor};
use crmt_attacks::predictions;
use crmt_core::{AdditiveClassifier, Batch, Fusion, Missing, PerModality};
use crmt_data::DataSet;
use crmt_fusion::Model;
use std::collections::BTreeMap;

/// What is diagnosed.
pub struct Subject<'a> {
    /// In f32.
    pub model: &'a Model,
    /// Its data.
    pub data: &'a DataSet,
    /// What is known of the run: accuracies, and the evidence of the radii.
    pub summary: &'a Summary,
    /// One for each report sample, with radii and what limits them.
    pub rows: &'a [SampleRow],
}

/// Measures the report split.
pub fn diagnose(of: &Subject<'_>, voice: &Voice) -> Result<Diagnosis> {
    let Subject {
        model,
        data,
        summary,
        rows: known,
    } = *of;
    let baselines = model.scores(&data.baselines.try_map(|b| b.unsqueeze(0))?)?;
    let absent = Terms::new(&baselines.contributions()?, &baselines.bias)?;
    let answer =
        predictions(&baselines.logits()?).context("with every modality at its baseline")?[0];
    let distances = model.head().rows()?.try_map(distances)?;
    let classes = data.classes.len();
    let names = data.modalities.map(|m| m.name.clone());
    let bar = voice.stage("diagnosis", data.report.len() as u64, "samples");
    let (mut rows, mut constant) = (vec![], 0u64);
    for batch in data.report.batches(EVAL_BATCH) {
        let Batch { inputs, labels } = batch?;
        let scores = model.scores(&inputs)?;
        let unimodal = scores.unimodal.try_map(doubles)?;
        let terms = Terms::new(&scores.contributions()?, &scores.bias)?;
        let labels = labels.to_vec1::<u32>()?;
        constant += labels.iter().filter(|label| **label == answer).count() as u64;
        for (i, label) in labels.iter().enumerate() {
            let label = *label as usize;
            let row = known
                .get(rows.len())
                .context("samples.csv has fewer rows than the report split")?;
            let own = |m: usize| &unimodal[m][i * classes..][..classes];
            let margins = PerModality::from_fn(unimodal.len(), |m| {
                unimodal_margins(own(m), &distances[m], label)
            });
            let added = terms.beyond(i, &absent);
            rows.push(sample(row, &names, &margins, &added.margins(label))?);
        }
        bar.inc(labels.len() as u64);
    }
    summarise(summary, data, rows, constant)
}

/// `|W_y − W_j|` of the rows of a head, `[y][j]`.
fn distances(rows: &Tensor) -> Result<Vec<Vec<f64>>> {
    let rows = rows.detach().to_dtype(DType::F64)?;
    let from = |y: usize| {
        let differences = rows.broadcast_sub(&rows.narrow(0, y, 1)?)?;
        differences.sqr()?.sum(D::Minus1)?.sqrt()?.to_vec1::<f64>()
    };
    Ok((0..rows.dim(0)?)
        .map(from)
        .collect::<candle_core::Result<_>>()?)
}

fn doubles(x: &Tensor) -> candle_core::Result<Vec<f64>> {
    x.to_dtype(DType::F64)?.flatten_all()?.to_vec1()
}

/// `min_j (s_y − s_j) / |W_y − W_j|` and `min_j (s_y − s_j)`, over all `j ≠ y`. Classes with one
/// row have one score: 0.
fn unimodal_margins(scores: &[f64], distances: &[Vec<f64>], label: usize) -> [f64; 2] {
    let mut least = [f64::INFINITY; 2];
    for (j, score) in scores.iter().enumerate().filter(|(j, _)| *j != label) {
        let (margin, distance) = (scores[label] - score, distances[label][j]);
        let scaled = if distance > 0.0 {
            margin / distance
        } else {
            0.0
        };
        least = [least[0].min(scaled), least[1].min(margin)];
    }
    least
}

/// The terms of additive logits.
struct Terms {
    classes: usize,
    /// Per modality row-major `[batch, classes]`.
    of: PerModality<Vec<f64>>,
    bias: Vec<f64>,
}

impl Terms {
    fn new(contributions: &PerModality<Tensor>, bias: &Tensor) -> Result<Self> {
        Ok(Self {
            classes: bias.dim(0)?,
            of: contributions.try_map(doubles)?,
            bias: doubles(bias)?,
        })
    }

    /// Sample `i` as a game, in which a modality that is not there is at its baseline.
    fn beyond(&self, i: usize, absent: &Self) -> Game {
        let mut nothing = self.bias.clone();
        absent
            .of
            .iter()
            .for_each(|term| nothing.iter_mut().zip(term).for_each(|(h, t)| *h += t));
        let added = self.of.iter().zip(&absent.of).map(|(present, absent)| {
            present[i * self.classes..][..self.classes]
                .iter()
                .zip(absent)
                .map(|(p, a)| p - a)
                .collect()
        });
        Game {
            nothing,
            added: added.collect(),
        }
    }
}

/// Logits of one sample by the modalities that are present.
struct Game {
    /// With every modality at its baseline, `[classes]`.
    nothing: Vec<f64>,
    /// What each adds, `[modality][classes]`.
    added: Vec<Vec<f64>>,
}

impl Game {
    /// Shapley values for `h_y − max_{j ≠ y} h_j`. With too many modalities for that, for the
    /// margin over the strongest rival of the whole input alone, which is additive.
    fn margins(&self, label: usize) -> Vec<f64> {
        let players = self.added.len();
        if players > MOST_PLAYERS {
            let mut logits = self.nothing.clone();
            self.added.iter().for_each(|added| add(&mut logits, added));
            let rival = greatest(
                logits
                    .iter()
                    .enumerate()
                    .map(|(j, h)| if j == label { f64::NEG_INFINITY } else { *h }),
            );
            let rival = rival.unwrap_or(label);
            return self
                .added
                .iter()
                .map(|added| added[label] - added[rival])
                .collect();
        }
        let mut logits = vec![self.nothing.clone()];
        for coalition in 1..1usize << players {
            // One player fewer was met before.
            let mut next = logits[coalition & (coalition - 1)].clone();
            add(&mut next, &self.added[coalition.trailing_zeros() as usize]);
            logits.push(next);
        }
        shapley(&logits.iter().map(|h| margin(h, label)).collect::<Vec<_>>())
    }
}

fn add(logits: &mut [f64], added: &[f64]) {
    logits.iter_mut().zip(added).for_each(|(h, a)| *h += a);
}

/// `h_y − max_{j ≠ y} h_j`.
fn margin(logits: &[f64], label: usize) -> f64 {
    let others = logits
        .iter()
        .enumerate()
        .filter(|(j, _)| *j != label)
        .map(|(_, h)| *h);
    logits[label] - others.fold(f64::NEG_INFINITY, f64::max)
}

/// Joins what is known of a sample with what was measured.
fn sample(
    row: &SampleRow,
    names: &PerModality<String>,
    margins: &PerModality<[f64; 2]>,
    shapley: &[f64],
) -> Result<OfSample> {
    let radius = |threat: &str| {
        let of = || {
            format!(
                "samples.csv, sample {}: no radius of `{threat}`: certify the run again",
                row.index
            )
        };
        row.radii.get(threat).copied().with_context(of)
    };
    let why = row
        .why
        .as_ref()
        .context("samples.csv does not say what limits the radii: certify the run again")?;
    let share = |name: &String| {
        let missing =
            || format!("samples.csv has no vulnerability of `{name}`: certify the run again");
        why.vulnerability.get(name).copied().with_context(missing)
    };
    let vulnerability = names.try_map(share)?;
    let (etas, preferences) = (etas(vulnerability.as_slice()), preferences(shapley));
    let modalities = names.try_enumerate(|m, name| {
        // With one modality the two radii are one.
        let threat = if names.len() > 1 { name } else { JOINT };
        anyhow::Ok(InSample {
            margin: margins[m][0],
            score_margin: margins[m][1],
            shapley: shapley[m],
            preference: preferences[m],
            vulnerability: vulnerability[m],
            eta: etas[m],
            radius: radius(threat)?,
        })
    })?;
    Ok(OfSample {
        label: row.label,
        prediction: row.prediction,
        rival: why.rival,
        joint_radius: radius(JOINT)?,
        modalities: modalities.into_iter().collect(),
    })
}

/// Averages. `constant`: samples of the class that is predicted without any modality.
fn summarise(
    summary: &Summary,
    data: &DataSet,
    rows: Vec<OfSample>,
    constant: u64,
) -> Result<Diagnosis> {
    let count = data.modalities.len();
    let fraction = |n: usize, of: usize| n as f64 / of.max(1) as f64;
    let absent = fraction(constant as usize, rows.len());
    let present = present(summary, data);
    let values = present.as_ref().map(|present| {
        let coalitions = (1..1usize << count).map(|s| present[&names(data, s)]);
        shapley(
            &std::iter::once(absent)
                .chain(coalitions)
                .collect::<Vec<_>>(),
        )
    });
    let shares = values.as_deref().and_then(shares);
    let right: Vec<&OfSample> = rows.iter().filter(|row| row.is_right()).collect();
    let spread = |of: &dyn Fn(&OfSample) -> f64| Spread::of(rows.iter().map(of).collect());
    let mean = |values: Vec<f64>| {
        (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
    };
    // Who is first; none where nothing speaks for the class, or no modality moves the margin.
    let first = |of: &dyn Fn(&InSample) -> f64| -> Vec<Option<usize>> {
        let of_row = |row: &&OfSample| {
            let values: Vec<f64> = row.modalities.iter().map(of).collect();
            greatest(values.iter().copied()).filter(|m| values[*m] > 0.0)
        };
        right.iter().map(of_row).collect()
    };
    let (preferred, vulnerable) = (first(&|m| m.shapley), first(&|m| m.vulnerability));
    let both = preferred
        .iter()
        .zip(&vulnerable)
        .filter(|(p, v)| p.is_some() && p == v)
        .count();
    let modalities = (0..count).map(|m| {
        let name = data.modalities[m].name.clone();
        let of_right = |of: &dyn Fn(&InSample) -> Option<f64>| -> Vec<f64> {
            right
                .iter()
                .filter_map(|row| of(&row.modalities[m]))
                .collect()
        };
        let is_first = |first: &[Option<usize>]| {
            fraction(first.iter().filter(|f| **f == Some(m)).count(), first.len())
        };
        let known = !right.is_empty();
        let etas = of_right(&|m| m.eta);
        let measured = |of: &BTreeMap<String, f64>, what: &str| {
            let missing =
                || format!("summary.json has no accuracy {what} `{name}`: it was altered");
            of.get(&name).copied().with_context(missing)
        };
        Ok(OfModality {
            solo: measured(&summary.accuracy.solo, "of the head of")?,
            without: match count {
                1 => absent,
                _ => measured(&summary.accuracy.missing, "without")?,
            },
            shapley: values.as_ref().map(|values| values[m]),
            shapley_share: shares.as_ref().map(|shares| shares[m]),
            preference: mean(of_right(&|m| m.preference)),
            preferred: known.then(|| is_first(&preferred)),
            vulnerability: mean(of_right(&|m| Some(m.vulnerability))),
            most_vulnerable: known.then(|| is_first(&vulnerable)),
            eta: (!etas.is_empty()).then(|| Spread::of(etas)),
            margin: spread(&|row| row.modalities[m].margin),
            score_margin: spread(&|row| row.modalities[m].score_margin),
            radius: spread(&|row| row.modalities[m].radius),
            name,
        })
    });
    Ok(Diagnosis {
        method: summary.method.clone(),
        data: summary.data.clone(),
        seed: summary.seed,
        weights: summary.weights.clone(),
        samples: rows.len() as u64,
        right: right.len() as u64,
        evidence: summary
            .radii
            .first()
            .map_or("estimated", |r| r.evidence.as_str())
            .to_owned(),
        present: present.unwrap_or_default(),
        absent,
        agreement: (count > 1 && !right.is_empty()).then(|| fraction(both, right.len())),
        joint_radius: spread(&|row| row.joint_radius),
        modalities: modalities.collect::<Result<_>>()?,
        rows,
    })
}

/// Names of the coalition's modalities.
fn names(data: &DataSet, coalition: usize) -> String {
    let members = data
        .modalities
        .iter()
        .enumerate()
        .filter(|(m, _)| coalition >> m & 1 == 1);
    members
        .map(|(_, modality)| modality.name.as_str())
        .collect::<Vec<_>>()
        .join("+")
}

/// Accuracy of every coalition but the empty one; none with too many modalities, or if one was not
/// measured.
fn present(summary: &Summary, data: &DataSet) -> Option<BTreeMap<String, f64>> {
    let count = data.modalities.len();
    if count > MOST_PLAYERS {
        return None;
    }
    let accuracy = |coalition: usize| {
        let gone = Missing::new(PerModality::from_fn(count, |m| coalition >> m & 1 == 0));
        let value = match gone {
            None => Some(summary.accuracy.clean),
            Some(gone) => summary
                .accuracy
                .missing
                .get(&gone.describe(&data.modalities))
                .copied(),
        };
        Some((names(data, coalition), value?))
    };
    (1..1usize << count).map(accuracy).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sample_row::Why;

    /// Two classes: the rival is always the same, so the margin is additive and each modality gets
    /// exactly what it adds.
    #[test]
    fn with_one_rival_a_modality_gets_what_it_adds_beyond_its_baseline() {
        let absent = Terms {
            classes: 2,
            of: [vec![0.5, 0.0], vec![0.0, 0.25]].into(),
            bias: vec![0.0, 1.0],
        };
        // Second sample of two.
        let of = [vec![9.0, 9.0, 2.5, 0.5], vec![9.0, 9.0, 1.0, 3.25]];
        let present = Terms {
            classes: 2,
            of: of.into(),
            bias: absent.bias.clone(),
        };
        let game = present.beyond(1, &absent);
        assert_eq!(game.nothing, [0.5, 1.25]);
        // (2.5 - 0.5) - (0.5 - 0.0) and (1.0 - 0.0) - (3.25 - 0.25): sums of powers of two are
        // exact.
        assert_eq!(game.margins(0), [1.5, -2.0]);
        assert_eq!(game.margins(1), [-1.5, 2.0]);
    }

    /// Three classes, by hand: v(none) = 0, v(1) = 2 - max(1, 0) = 1, v(2) = 0 - max(0, 3) = -3,
    /// v(both) = 2 - 3 = -1.
    #[test]
    fn the_rival_may_change_with_who_is_there() {
        let game = Game {
            nothing: vec![0.0; 3],
            added: vec![vec![2.0, 1.0, 0.0], vec![0.0, 0.0, 3.0]],
        };
        assert_eq!(margin(&[2.0, 1.0, 3.0], 0), -1.0);
        let values = game.margins(0);
        // φ(1) = (1 + (-1 + 3)) / 2, φ(2) = (-3 + (-1 - 1)) / 2; halves are exact.
        assert_eq!(values, [1.5, -2.5]);
        assert_eq!(values.iter().sum::<f64>(), -1.0, "v(both) - v(none)");
    }

    #[test]
    fn one_modality_gets_all_and_eleven_are_judged_by_the_strongest_rival() {
        let game = Game {
            nothing: vec![0.5, 0.0],
            added: vec![vec![1.0, 3.0]],
        };
        assert_eq!(game.margins(0), [-2.0], "-1.5 - 0.5");
        let added: Vec<Vec<f64>> = (0..11).map(|m| vec![f64::from(m), 1.0, 2.0]).collect();
        let many = Game {
            nothing: vec![0.0; 3],
            added,
        };
        // Over class 2, which is ahead of class 1.
        assert_eq!(
            many.margins(0),
            (0..11).map(|m| f64::from(m) - 2.0).collect::<Vec<_>>()
        );
    }

    #[test]
    fn a_head_is_judged_by_the_rival_nearest_in_feature_space() {
        let distances = vec![
            vec![0.0, 1.0, 4.0],
            vec![1.0, 0.0, 3.0],
            vec![4.0, 3.0, 0.0],
        ];
        // Over class 1: 2 / 1; over class 2: 1 / 4.
        assert_eq!(
            unimodal_margins(&[3.0, 1.0, 2.0], &distances, 0),
            [0.25, 1.0]
        );
        // The two questions have the same sign.
        assert_eq!(
            unimodal_margins(&[3.0, 1.0, 2.0], &distances, 2),
            [-0.25, -1.0]
        );
        assert_eq!(
            unimodal_margins(&[1.0, 1.0, 0.0], &[vec![0.0, 0.0, 2.0]], 0),
            [0.0, 0.0]
        );
        let rows = Tensor::new(
            &[[3f32, 0.0], [0.0, 4.0], [3.0, 0.0]],
            &candle_core::Device::Cpu,
        )
        .unwrap();
        let got = self::distances(&rows).unwrap();
        assert_eq!(got, [[0.0, 5.0, 0.0], [5.0, 0.0, 5.0], [0.0, 5.0, 0.0]]);
    }

    #[test]
    fn what_is_not_known_is_asked_for_by_name() {
        let names = PerModality::from(["a".to_owned(), "b".to_owned()]);
        let mut row = SampleRow {
            index: 7,
            radii: [(JOINT.to_owned(), 0.5)].into(),
            ..SampleRow::default()
        };
        let of = |row: &SampleRow| {
            sample(row, &names, &[[0.0; 2]; 2].into(), &[1.0, 2.0]).map_err(|e| e.to_string())
        };
        assert!(of(&row).unwrap_err().contains("certify the run again"));
        let vulnerability = [("a".to_owned(), 0.36), ("b".to_owned(), 0.64)].into();
        row.why = Some(Why {
            vulnerability,
            ..Why::default()
        });
        let error = of(&row).unwrap_err();
        assert!(
            error.contains("sample 7") && error.contains("`a`"),
            "{error}"
        );
        row.radii
            .extend(["a", "b"].map(|name| (name.to_owned(), 1.0)));
        let sample = of(&row).unwrap();
        let told: Vec<_> = sample
            .modalities
            .iter()
            .map(|m| (m.preference, m.radius))
            .collect();
        assert_eq!(told, [(Some(1.0 / 3.0), 1.0), (Some(2.0 / 3.0), 1.0)]);
        let eta = sample.modalities[0].eta.unwrap();
        assert!(
            (eta - 0.75).abs() < 1e-15,
            "two roots and a quotient: {eta}"
        );
    }
}
