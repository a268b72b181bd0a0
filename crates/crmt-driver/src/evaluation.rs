//! Accuracy of a trained model: clean, with modalities missing, and under attack.
//! Does not know radii.
use crate::{
    baselines::subsets,
    people::{Stage, Voice},
    plan::EvaluatePlan,
    record::{Accuracy, AttackResult},
    report::{Outcome, SampleRow},
    threat::{JOINT, Threat},
    training::EVAL_BATCH,
};
use anyhow::{Context, Result, bail};
use candle_core::Tensor;
use crmt_attacks::{Attack, Draws, Fgm, Goal, Norm, Pgd, Victim, accuracy, predictions};
use crmt_core::{AdditiveClassifier, Batch, Classifier, PerModality, Streams};
use crmt_data::DataSet;
use crmt_fusion::Model;
use std::collections::BTreeMap;

/// The union of all attacks.
const STRONGEST: &str = "strongest";

/// Samples attacked together: a step of progress.
const ATTACK_BATCH: usize = 100;

/// What is measured without an attacker.
pub struct Clean {
    /// Accuracies.
    pub accuracy: Accuracy,
    /// `[label][prediction]`.
    pub confusion: Vec<Vec<u64>>,
    /// One per report sample, without radii or outcomes.
    pub rows: Vec<SampleRow>,
}

/// Measures the report split.
pub fn clean(model: &Model, data: &DataSet) -> Result<Clean> {
    let subsets = subsets(data.modalities.len());
    let mut missing = vec![0.0; subsets.len()];
    let mut solo = vec![0.0; data.modalities.len()];
    let mut confusion = vec![vec![0; data.classes.len()]; data.classes.len()];
    let mut rows = vec![];
    for batch in data.report.batches(EVAL_BATCH) {
        let Batch { inputs, labels } = batch?;
        let n = labels.elem_count() as f64;
        let scores = model.scores(&inputs)?;
        let predicted = predictions(&scores.logits()?)?;
        for (label, prediction) in labels.to_vec1::<u32>()?.into_iter().zip(predicted) {
            let (label, prediction) = (label as usize, prediction as usize);
            confusion[label][prediction] += 1;
            rows.push(SampleRow { index: rows.len() as u64, label, prediction, ..SampleRow::default() });
        }
        for (right, head) in solo.iter_mut().zip(&scores.unimodal) {
            *right += n * accuracy(head, &labels)?;
        }
        for (right, subset) in missing.iter_mut().zip(&subsets) {
            let logits = model.logits(&subset.apply(&inputs, &data.baselines)?)?;
            *right += n * accuracy(&logits, &labels)?;
        }
    }
    let n = rows.len() as f64;
    let right = rows.iter().filter(|r| r.label == r.prediction).count() as f64;
    let by_name = |names: Vec<String>, right: Vec<f64>| names.into_iter().zip(right.iter().map(|r| r / n)).collect();
    let accuracy = Accuracy {
        clean: right / n,
        samples: rows.len() as u64,
        missing: by_name(subsets.iter().map(|s| s.describe(&data.modalities)).collect(), missing),
        missing_by_baseline: BTreeMap::new(),
        solo: by_name(data.modalities.iter().map(|m| m.name.clone()).collect(), solo),
    };
    Ok(Clean { accuracy, confusion, rows })
}

/// The threats of `plan`.
fn threats(plan: &EvaluatePlan, names: &[String]) -> Result<Vec<Threat>> {
    if plan.threats.is_empty() {
        return Ok(Threat::usual(names.len()));
    }
    Threat::parse_all(&plan.threats, names).context("evaluate.threats")
}

/// Checks that every threat of the plan is one of `data`.
pub fn check(plan: &EvaluatePlan, data: &DataSet) -> Result<()> {
    let names: Vec<String> = data.modalities.iter().map(|m| m.name.clone()).collect();
    match threats(plan, &names)?.iter().find(|t| plan.norm == "linf" && t.is_joint()) {
        Some(threat) => bail!(
            "evaluate.norm = \"linf\": `{}` is one l2 budget over several modalities; set evaluate.threats to \
             \"each\" or names of modalities",
            threat.name(&names)
        ),
        None => Ok(()),
    }
}

/// Attacks the first report samples under every threat and budget, and writes outcomes into their
/// rows. A sample broken at a budget counts as broken at every larger one. `baselines`: what stands in for what is
/// missing.
pub fn attack(
    model: &Model,
    data: &DataSet,
    baselines: &PerModality<Tensor>,
    plan: &EvaluatePlan,
    streams: Streams,
    rows: &mut [SampleRow],
    voice: &Voice,
) -> Result<Vec<AttackResult>> {
    check(plan, data)?;
    let samples = if plan.samples == 0 { data.report.len() } else { plan.samples.min(data.report.len()) };
    let names: Vec<String> = data.modalities.iter().map(|m| m.name.clone()).collect();
    let norm = if plan.norm == "linf" { Norm::Linf } else { Norm::L2 };
    let mut eps = plan.eps.clone();
    eps.sort_by(f64::total_cmp);
    eps.dedup();
    rows.iter_mut().for_each(|row| row.outcomes.clear());
    let batch = data.report.batch(0..samples)?;
    let mut results = vec![];
    // A joint ball contains each modality's own: what fell there, falls here. So joint comes last.
    let mut fell_alone = vec![vec![false; samples]; eps.len()];
    let mut threats = threats(plan, &names)?;
    threats.sort_by_key(Threat::is_joint);
    for threat in threats {
        let name = threat.name_with(&names, &plan.baseline);
        let missing = threat.missing(names.len()).into_iter();
        let victims = missing.map(|gone| Victim::new(model, gone, baselines)).collect::<Result<Vec<_>, _>>()?;
        let wrong = wrong(&victims, &batch)?;
        let bar = voice.stage(&format!("attack: {name}"), (2 * eps.len() * samples * victims.len()) as u64);
        let clean = wrong.iter().filter(|w| !**w).count();
        let mut broken: [Vec<bool>; 3] = std::array::from_fn(|_| wrong.clone());
        for (eps, fell_alone) in eps.iter().zip(&mut fell_alone) {
            let [fgm, pgd, strongest] = &mut broken;
            for victim in &victims {
                let budget = threat.budget(norm, *eps, names.len());
                let attacks: [Box<dyn Attack>; 2] =
                    [Box::new(Fgm::new(budget.clone())), Box::new(Pgd::strong(budget).with_steps(plan.steps))];
                for (attack, own) in attacks.iter().zip([&mut *fgm, &mut *pgd]) {
                    search(attack.as_ref(), victim, &batch, streams, own, &bar)?;
                    strongest.iter_mut().zip(own.iter()).for_each(|(all, own)| *all |= own);
                }
            }
            match (&threat, norm) {
                (Threat::Joint | Threat::AnyMissing, _) => {
                    strongest.iter_mut().zip(fell_alone.iter()).for_each(|(all, alone)| *all |= alone);
                }
                (Threat::Only(_), Norm::L2) => {
                    fell_alone.iter_mut().zip(strongest.iter()).for_each(|(alone, fell)| *alone |= fell);
                }
                _ => {}
            }
            for (attack, broken) in ["fgm", "pgd", STRONGEST].into_iter().zip(&broken) {
                let held = broken.iter().filter(|b| !**b).count();
                results.push(AttackResult {
                    name: attack.to_owned(),
                    threat: name.clone(),
                    norm: plan.norm.clone(),
                    eps: *eps,
                    accuracy: held as f64 / samples as f64,
                    clean: clean as f64 / samples as f64,
                    samples: samples as u64,
                });
                for (row, broken) in rows.iter_mut().zip(broken) {
                    let (threat, norm) = (name.clone(), plan.norm.clone());
                    row.outcomes.push(Outcome { name: attack.to_owned(), threat, norm, eps: *eps, held: !broken });
                }
            }
        }
    }
    results.sort_by_key(|r: &AttackResult| r.threat != JOINT);
    Ok(results)
}

/// Who is wrong before any attack, in front of any of the victims.
fn wrong(victims: &[Victim], batch: &Batch) -> Result<Vec<bool>> {
    let labels = batch.labels.to_vec1::<u32>()?;
    let mut wrong = vec![false; labels.len()];
    for victim in victims {
        for start in (0..labels.len()).step_by(EVAL_BATCH) {
            let part = batch.narrow(start, EVAL_BATCH.min(labels.len() - start))?;
            let predicted = predictions(&victim.logits(&victim.part(&part.inputs))?)?;
            for (i, prediction) in predicted.into_iter().enumerate() {
                wrong[start + i] |= prediction != labels[start + i];
            }
        }
    }
    Ok(wrong)
}

/// Attacks the samples that still stand, and marks those that fall.
fn search(
    attack: &dyn Attack,
    victim: &Victim,
    batch: &Batch,
    streams: Streams,
    broken: &mut [bool],
    bar: &Stage,
) -> Result<()> {
    let standing: Vec<u32> = (0..broken.len() as u32).filter(|i| !broken[*i as usize]).collect();
    for chunk in standing.chunks(ATTACK_BATCH) {
        let rows = Tensor::new(chunk, batch.labels.device())?;
        let inputs = victim.part(&batch.inputs).try_map(|x| x.index_select(&rows, 0))?;
        let goal = Goal::Avoid(batch.labels.index_select(&rows, 0)?);
        let draws = Draws::for_samples(streams, chunk.iter().map(|i| u64::from(*i)).collect());
        let outcome = crmt_attacks::run(attack, victim, &inputs, &goal, &draws)?;
        for (i, success) in chunk.iter().zip(&outcome.success) {
            broken[*i as usize] |= success;
        }
        bar.inc(chunk.len() as u64);
    }
    bar.inc((broken.len() - standing.len()) as u64);
    Ok(())
}
