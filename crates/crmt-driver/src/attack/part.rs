//! One part of an evaluation: some samples under one threat, at every budget, by every attack.
//! Does not know what parts add up to.
use super::{EXAMPLES, Search, Target};
use crate::{
    examples::{Example, ExampleModality},
    people::Stage,
    report::SampleRow,
    threat::Threat,
};
use anyhow::Result;
use candle_core::Tensor;
use crmt_attacks::{Draws, Goal, correct, predictions, run};
use crmt_core::{Batch, Classifier, PerModality};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// What all attacks of one threat did to some samples.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Part {
    /// Per sample: wrong before any attack.
    pub wrong: Vec<bool>,
    /// `[attack][sample]`: the first of the budgets at which it fell.
    pub fell: Vec<Vec<Option<usize>>>,
    /// Per sample that was right and fell.
    pub nearest: Vec<Option<Found>>,
}

/// The nearest adversarial of a sample.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Found {
    /// Who found it.
    pub attack: String,
    /// At which budget.
    pub eps: f64,
    /// From the clean input.
    pub distance: f64,
    /// Of each modality; 0 where it is missing.
    pub spent: Vec<f64>,
    /// The modalities that are.
    pub missing: Vec<usize>,
    /// The class it is taken for.
    pub prediction: u32,
}

impl Part {
    /// Appends the samples of the next part.
    pub fn extend(&mut self, next: Self) {
        self.wrong.extend(next.wrong);
        self.fell.iter_mut().zip(next.fell).for_each(|(all, next)| all.extend(next));
        self.nearest.extend(next.nearest);
    }

    /// Per sample, the first budget at which any attack broke it.
    pub fn strongest(&self) -> Vec<Option<usize>> {
        (0..self.wrong.len()).map(|i| self.fell.iter().filter_map(|fell| fell[i]).min()).collect()
    }
}

impl Search<'_> {
    /// Attacks `batch`, whose first sample has this number in the report split. Also the nearest adversarials, the clean
    /// inputs where there is none.
    pub fn part(
        &self,
        threat: &Threat,
        name: &str,
        targets: &[Target],
        batch: &Batch,
        first: usize,
        bar: &Stage,
    ) -> Result<(Part, PerModality<Tensor>)> {
        let samples = batch.len();
        let key = format!("{name}-{first}-{samples}");
        let modalities = self.of.data.modalities.map(|m| m.name.clone());
        if let Some((part, tensors)) = self.parts.read::<Part>(&key) {
            let inputs: Option<Vec<Tensor>> = modalities.iter().map(|m| tensors.get(m).cloned()).collect();
            if let Some(inputs) = inputs.and_then(PerModality::new) {
                bar.inc((self.eps.len() * samples * self.attacks.len()) as u64);
                return Ok((part, inputs));
            }
        }
        let wrong = wrong(targets, batch)?;
        let fell = wrong.iter().map(|wrong| wrong.then_some(0)).collect();
        let mut part = Part { fell: vec![fell; self.attacks.len()], nearest: vec![None; samples], wrong };
        let mut points: Vec<PerModality<Tensor>> =
            (0..samples).map(|i| batch.inputs.try_map(|x| x.narrow(0, i, 1))).collect::<candle_core::Result<_>>()?;
        for (k, eps) in self.eps.iter().enumerate() {
            for (a, attack) in self.attacks.iter().enumerate() {
                for target in targets {
                    let budget = self.budget(threat, *eps, target.victim.modalities().len());
                    for member in attack.build(budget, self.plan) {
                        let standing: Vec<u32> =
                            (0..samples as u32).filter(|i| part.fell[a][*i as usize].is_none()).collect();
                        if standing.is_empty() {
                            break;
                        }
                        let rows = Tensor::new(standing.as_slice(), batch.labels.device())?;
                        let inputs = target.victim.part(&batch.inputs).try_map(|x| x.index_select(&rows, 0))?;
                        let goal = Goal::Avoid(batch.labels.index_select(&rows, 0)?);
                        let ids = standing.iter().map(|i| first as u64 + u64::from(*i)).collect();
                        let draws = Draws::for_samples(self.streams, ids);
                        let outcome = run(member.as_ref(), &target.victim, &inputs, &goal, &draws)?;
                        let whole = target.victim.complete(&outcome.adversarial)?;
                        for (row, i) in standing.iter().map(|i| *i as usize).enumerate() {
                            if !outcome.success[row] {
                                continue;
                            }
                            part.fell[a][i] = Some(k);
                            let distance = outcome.distance[row];
                            if part.nearest[i].as_ref().is_some_and(|nearest| nearest.distance <= distance) {
                                continue;
                            }
                            let mut left = outcome.spent.iter().map(|spent| spent[row]);
                            let gone = |m: &usize| target.missing.as_ref().is_some_and(|missing| missing.contains(*m));
                            let all = 0..modalities.len();
                            part.nearest[i] = Some(Found {
                                attack: member.name().to_owned(),
                                eps: *eps,
                                distance,
                                spent: all
                                    .clone()
                                    .map(|m| if gone(&m) { 0. } else { left.next().unwrap_or(0.) })
                                    .collect(),
                                missing: all.filter(gone).collect(),
                                prediction: 0,
                            });
                            points[i] = whole.try_map(|x| x.narrow(0, row, 1))?;
                        }
                    }
                }
                bar.inc(samples as u64);
            }
        }
        let inputs = modalities.try_enumerate(|m, _| {
            let rows: Vec<&Tensor> = points.iter().map(|point| &point[m]).collect();
            Tensor::cat(&rows, 0)
        })?;
        let predicted = predictions(&self.of.model.logits(&inputs)?)?;
        part.nearest.iter_mut().zip(predicted).for_each(|(found, class)| {
            found.iter_mut().for_each(|found| found.prediction = class);
        });
        let tensors: BTreeMap<String, Tensor> = modalities.iter().cloned().zip(inputs.iter().cloned()).collect();
        self.parts.write(&key, &part, tensors)?;
        Ok((part, inputs))
    }

    /// The samples of a part that fell at the smallest distances; `rows` begin with its first sample.
    pub fn examples(
        &self,
        name: &str,
        part: &Part,
        batch: &Batch,
        adversarials: &PerModality<Tensor>,
        rows: &[SampleRow],
    ) -> Result<Vec<Example>> {
        let mut nearest: Vec<(usize, &Found)> =
            part.nearest.iter().enumerate().filter_map(|(i, found)| Some((i, found.as_ref()?))).collect();
        nearest.sort_by(|a, b| a.1.distance.total_cmp(&b.1.distance));
        let norm = &self.plan.norm;
        let example = |(i, found): (usize, &Found)| -> Result<Example> {
            let modalities = self.of.data.modalities.try_enumerate(|m, modality| {
                let sample = |x: &PerModality<Tensor>| x[m].get(i);
                let adversarial = (!found.missing.contains(&m)).then(|| sample(adversarials)).transpose()?;
                ExampleModality::new(modality, norm, &sample(&batch.inputs)?, adversarial.as_ref())
            })?;
            Ok(Example {
                sample: rows[i].index,
                label: rows[i].label,
                clean_prediction: rows[i].prediction,
                prediction: found.prediction as usize,
                attack: found.attack.clone(),
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

/// Who is wrong before any attack, in front of any of the targets.
fn wrong(targets: &[Target], batch: &Batch) -> Result<Vec<bool>> {
    let mut wrong = vec![false; batch.len()];
    for Target { victim, .. } in targets {
        let right = correct(&victim.logits(&victim.part(&batch.inputs))?, &batch.labels)?;
        wrong.iter_mut().zip(right).for_each(|(wrong, right)| *wrong |= !right);
    }
    Ok(wrong)
}
