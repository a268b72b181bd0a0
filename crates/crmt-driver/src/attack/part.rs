//! One part of an evaluation: some samples under one threat, at every budget, by every attack.
//! Does not know what parts add up to.
use super::search::{EXAMPLES, Search, Target};
use crate::{
    examples::{Example, ExampleModality},
    people::Stage,
    sample_row::SampleRow,
    threat::Threat,
    undefined,
};
use anyhow::Result;
use candle_core::{DType, Tensor};
use crmt_attacks::{Draws, Goal, Outcome, correct, run_watched};
use crmt_core::{Batch, Classifier, PerModality};
use serde::{Deserialize, Serialize};
use std::{cell::Cell, collections::BTreeMap};

/// What all attacks of one threat did to some samples.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Part {
    /// Their numbers in the report split.
    pub samples: Vec<usize>,
    /// Per sample: wrong before any attack.
    pub wrong: Vec<bool>,
    /// `[attack][sample]`: the first of the budgets at which it fell.
    pub fell: Vec<Vec<Option<usize>>>,
    /// Per sample that was right and fell.
    pub nearest: Vec<Option<Found>>,
    /// Proposals of attacks that held a NaN or an infinity.
    pub undefined: u64,
    /// Per sample: no attack on it proposed anything else.
    pub untried: Vec<bool>,
}

/// The nearest adversarial of a sample.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Found {
    /// Who found it: `standard/fab-t`.
    pub attack: String,
    /// The first of the budgets that contains it.
    pub eps: f64,
    /// From the clean input: joint l2, or the greatest of any modality where each has its own
    /// budget.
    pub distance: f64,
    /// Of each modality; 0 where it is missing.
    pub spent: Vec<f64>,
    /// The modalities that are.
    pub missing: Vec<usize>,
    /// The class it is taken for, by those who judged it; none where the outputs are not finite.
    pub prediction: Option<u32>,
    /// Whether the program that certificates are about takes it for another class than its label,
    /// too.
    #[serde(skip, default = "confirmed")]
    pub confirmed: bool,
}

fn confirmed() -> bool {
    true
}

impl Part {
    /// Appends the samples of the next part.
    pub fn extend(&mut self, next: Self) {
        self.samples.extend(next.samples);
        self.wrong.extend(next.wrong);
        self.fell
            .iter_mut()
            .zip(next.fell)
            .for_each(|(all, next)| all.extend(next));
        self.nearest.extend(next.nearest);
        self.undefined += next.undefined;
        self.untried.extend(next.untried);
    }

    /// What is to be said of numbers that are none.
    pub fn doubts(&self) -> Vec<String> {
        let named = |holds: &dyn Fn(usize) -> bool| {
            let holding = (0..self.wrong.len()).filter(|i| holds(*i));
            holding.map(|i| self.samples[i] as u64).collect()
        };
        let untried: Vec<u64> = named(&|i| self.untried[i] && !self.wrong[i]);
        let silent: Vec<u64> = named(&|i| {
            self.nearest[i]
                .as_ref()
                .is_some_and(|found| found.prediction.is_none())
        });
        let mut doubts = vec![];
        if self.undefined > 0 {
            doubts.push(format!(
                "attacks proposed inputs with a NaN or an infinity {} times, which count as failures: look for divisions by \
                 small numbers in the model",
                self.undefined
            ));
        }
        if !untried.is_empty() {
            let samples = undefined::listed(&untried);
            doubts.push(format!("{samples} stand only because no attack proposed a finite input: they are not robust"));
        }
        if !silent.is_empty() {
            let samples = undefined::listed(&silent);
            doubts.push(format!(
                "the network's outputs are not finite for adversarials of {samples}: they count as broken"
            ));
        }
        doubts
    }

    /// Per sample, the first budget at which any attack broke it.
    pub fn strongest(&self) -> Vec<Option<usize>> {
        (0..self.wrong.len())
            .map(|i| self.fell.iter().filter_map(|fell| fell[i]).min())
            .collect()
    }
}

impl Search<'_> {
    /// Attacks `batch`, whose samples have these numbers in the report split. Also the nearest
    /// adversarials, the clean inputs where there is none.
    pub fn part(
        &self,
        threat: &Threat,
        name: &str,
        targets: &[Target],
        batch: &Batch,
        own: &[usize],
        bar: &Stage,
    ) -> Result<(Part, PerModality<Tensor>)> {
        let samples = batch.len();
        let key = format!("{name}-{}-{samples}", own[0]);
        let modalities = self.of.data.modalities.map(|m| m.name.clone());
        if let Some((part, tensors)) = self
            .parts
            .read::<Part>(&key)
            .filter(|(part, _)| part.samples == own)
        {
            let inputs: Option<Vec<Tensor>> =
                modalities.iter().map(|m| tensors.get(m).cloned()).collect();
            if let Some(inputs) = inputs.and_then(PerModality::new) {
                bar.inc((self.eps.len() * samples * self.attacks.len()) as u64);
                return Ok((part, inputs));
            }
        }
        let wrong = wrong(targets, batch)?;
        let fell = wrong.iter().map(|wrong| wrong.then_some(0)).collect();
        let fell = vec![fell; self.attacks.len()];
        let untried = vec![true; samples];
        let mut part = Part {
            samples: own.to_vec(),
            fell,
            nearest: vec![None; samples],
            wrong,
            undefined: 0,
            untried,
        };
        let mut points: Vec<PerModality<Tensor>> = (0..samples)
            .map(|i| batch.inputs.try_map(|x| x.narrow(0, i, 1)))
            .collect::<candle_core::Result<_>>()?;
        for (k, eps) in self.eps.iter().enumerate() {
            for (a, attack) in self.attacks.iter().enumerate() {
                if attack.nearest && k > 0 {
                    bar.inc(samples as u64);
                    continue;
                }
                let greatest = self.eps.last().copied().filter(|_| attack.nearest);
                let ticks = Ticks {
                    bar,
                    total: samples,
                    done: Cell::new(0),
                };
                for (t, target) in targets.iter().enumerate() {
                    let budget = greatest.unwrap_or(*eps);
                    let budget = self.budget(threat, budget, target.victim.modalities().len());
                    let members = attack.build(budget, self.plan);
                    let several = members.len() > 1;
                    let parts = (targets.len() * members.len()) as f64;
                    for (n, member) in members.iter().enumerate() {
                        let before = (t * members.len() + n) as f64;
                        let name = if several {
                            format!("{}/{}", attack.name, member.name())
                        } else {
                            attack.name.to_owned()
                        };
                        // What looks for the nearest may find it nearer in front of the next
                        // target.
                        let stands = |i: &u32| {
                            part.fell[a][*i as usize].is_none_or(|at| attack.nearest && at > 0)
                        };
                        let standing: Vec<u32> = (0..samples as u32).filter(stands).collect();
                        if standing.is_empty() {
                            break;
                        }
                        let rows = Tensor::new(standing.as_slice(), batch.labels.device())?;
                        let inputs = target
                            .victim
                            .part(&batch.inputs)
                            .try_map(|x| x.index_select(&rows, 0))?;
                        let goal = Goal::Avoid(batch.labels.index_select(&rows, 0)?);
                        let ids = standing.iter().map(|i| own[*i as usize] as u64).collect();
                        let draws = Draws::for_samples(self.streams, ids);
                        let watch = |share: f64| ticks.at((before + share) / parts);
                        let outcome = run_watched(
                            member.as_ref(),
                            &target.victim,
                            &inputs,
                            &goal,
                            &draws,
                            &watch,
                        )?;
                        watch(1.0);
                        part.undefined += outcome.undefined as u64;
                        let whole = target.victim.complete(&outcome.adversarial)?;
                        for (row, i) in standing.iter().map(|i| *i as usize).enumerate() {
                            part.untried[i] &= outcome.lost[row];
                            if !outcome.success[row] {
                                continue;
                            }
                            // An early end may be within a smaller budget than the one that was
                            // searched.
                            let distance = size(threat, &outcome, row);
                            let at = self.first(distance);
                            part.fell[a][i] =
                                Some(part.fell[a][i].map_or(at, |before| before.min(at)));
                            if part.nearest[i]
                                .as_ref()
                                .is_some_and(|nearest| nearest.distance <= distance)
                            {
                                continue;
                            }
                            let mut left = outcome.spent.iter().map(|spent| spent[row]);
                            let gone = |m: &usize| {
                                target
                                    .missing
                                    .as_ref()
                                    .is_some_and(|missing| missing.contains(*m))
                            };
                            let all = 0..modalities.len();
                            part.nearest[i] = Some(Found {
                                attack: name.clone(),
                                eps: self.eps[at],
                                distance,
                                spent: all
                                    .clone()
                                    .map(|m| {
                                        if gone(&m) {
                                            0.
                                        } else {
                                            left.next().unwrap_or(0.)
                                        }
                                    })
                                    .collect(),
                                missing: all.filter(gone).collect(),
                                prediction: outcome.prediction[row],
                                confirmed: true,
                            });
                            points[i] = whole.try_map(|x| x.narrow(0, row, 1))?;
                        }
                    }
                }
                ticks.at(1.0);
            }
        }
        let inputs = modalities.try_enumerate(|m, _| {
            let rows: Vec<&Tensor> = points.iter().map(|point| &point[m]).collect();
            Tensor::cat(&rows, 0)
        })?;
        let tensors: BTreeMap<String, Tensor> = modalities
            .iter()
            .cloned()
            .zip(inputs.iter().cloned())
            .collect();
        self.parts.write(&key, &part, tensors)?;
        Ok((part, inputs))
    }

    /// The first of the budgets that contains what was found at this distance.
    fn first(&self, distance: f64) -> usize {
        // Budgets hold to a relative 1e-6.
        self.eps
            .iter()
            .position(|eps| distance <= eps * (1. + 1e-6))
            .unwrap_or(self.eps.len() - 1)
    }

    /// The samples of a part that fell at the smallest distances; `rows` are those of its samples.
    pub fn examples(
        &self,
        name: &str,
        part: &Part,
        batch: &Batch,
        adversarials: &PerModality<Tensor>,
        rows: &[SampleRow],
    ) -> Result<Vec<Example>> {
        // Without a prediction there is nothing to show.
        let shown = |(i, found): (usize, &'_ Option<Found>)| {
            let found = found.as_ref()?;
            Some((
                i,
                found.clone(),
                rows[i].prediction?,
                found.prediction? as usize,
            ))
        };
        let mut nearest: Vec<_> = part.nearest.iter().enumerate().filter_map(shown).collect();
        nearest.sort_by(|a, b| a.1.distance.total_cmp(&b.1.distance));
        let norm = &self.plan.norm;
        let example = |(i, found, clean_prediction, prediction): (usize, Found, usize, usize)| -> Result<Example> {
            let modalities = self.of.data.modalities.try_enumerate(|m, modality| {
                let sample = |x: &PerModality<Tensor>| x[m].get(i)?.to_dtype(DType::F32);
                let adversarial = (!found.missing.contains(&m)).then(|| sample(adversarials)).transpose()?;
                ExampleModality::new(modality, norm, &sample(&batch.inputs)?, adversarial.as_ref())
            })?;
            Ok(Example {
                sample: rows[i].index,
                label: rows[i].label,
                clean_prediction,
                prediction,
                attack: found.attack,
                threat: name.to_owned(),
                norm: norm.clone(),
                eps: found.eps,
                distance: found.distance,
                modalities: modalities.into_iter().collect(),
            })
        };
        nearest.into_iter().take(EXAMPLES).map(example).collect()
    }
}

/// How far an attack on one part of the samples is, in steps of a bar.
struct Ticks<'a> {
    bar: &'a Stage,
    total: usize,
    done: Cell<u64>,
}

impl Ticks<'_> {
    /// This share is done, or more.
    fn at(&self, share: f64) {
        let done = (share * self.total as f64) as u64;
        self.bar.inc(done.saturating_sub(self.done.get()));
        self.done.set(done.max(self.done.get()));
    }
}

/// How much of a threat's budget an attack spent on a sample: the greatest of any modality where
/// each has its own.
fn size(threat: &Threat, outcome: &Outcome, row: usize) -> f64 {
    match threat {
        Threat::Each => outcome
            .spent
            .iter()
            .map(|spent| spent[row])
            .fold(0., f64::max),
        _ => outcome.distance[row],
    }
}

/// Who is wrong before any attack, in front of any of the targets.
fn wrong(targets: &[Target], batch: &Batch) -> Result<Vec<bool>> {
    let mut wrong = vec![false; batch.len()];
    for Target { victim, .. } in targets {
        let right = correct(&victim.logits(&victim.part(&batch.inputs))?, &batch.labels)?;
        wrong
            .iter_mut()
            .zip(right)
            .for_each(|(wrong, right)| *wrong |= !right);
    }
    Ok(wrong)
}
