//! Attacks on a trained model: every threat, every budget, every attack asked for, and what they
//! say together. Does not know how attacks search, nor radii.
mod part;
mod search;

pub use search::Subject;

use crate::{
    arsenal::{self, Named},
    drawn::{drawn, ids},
    effort,
    examples::Example,
    partial::{Origin, Parts},
    people::Voice,
    plan::EvaluatePlan,
    precision::Precision,
    record::{AttackResult, NearestResult},
    run_dir,
    sample_row::{Nearest, Outcome, SampleRow},
    threat::{JOINT, Threat},
};
use anyhow::{Context, Result, bail};
use candle_core::{Device, Tensor};
use crmt_attacks::{Budget, Draws, Norm, Victim, correct, self_check_by};
use crmt_core::{Batch, Classifier, Missing, PerModality, Streams, names::STRONGEST};
use crmt_data::DataSet;
use crmt_fusion::Remembering;
use part::{Found, Part};
use search::{EXAMPLES, Search, Target};
use std::collections::BTreeMap;

/// Samples attacked together: what is lost when a run is stopped.
const PART: usize = 100;

/// What was found.
#[derive(Default)]
pub struct Attacked {
    /// Per threat, budget and attack.
    pub results: Vec<AttackResult>,
    /// Per threat: how near the nearest adversarials are.
    pub nearest: Vec<NearestResult>,
    /// The nearest ones, to be looked at.
    pub examples: Vec<Example>,
    /// Signs that the numbers should not be trusted.
    pub doubts: Vec<String>,
    /// If they are kept: the nearest adversarials of each threat.
    pub adversarials: Vec<Adversarials>,
    /// Numbers of the attacked samples in the report split, in the order of everything above.
    pub samples: Vec<usize>,
}

/// The nearest adversarial of every sample; where there is none, the clean input.
pub struct Adversarials {
    /// As in [`AttackResult::threat`].
    pub threat: String,
    /// Each `[samples, ...]`.
    pub inputs: PerModality<Tensor>,
    /// Infinite where there is none, 0 where the clean input is misclassified.
    pub distance: Vec<f64>,
}

/// The threats of `plan`.
fn threats(plan: &EvaluatePlan, names: &[String]) -> Result<Vec<Threat>> {
    if plan.threats.is_empty() {
        return Ok(Threat::usual(names.len()));
    }
    Threat::parse_all(&plan.threats, names).context("evaluate.threats")
}

fn norm(plan: &EvaluatePlan) -> Norm {
    if plan.norm == "linf" {
        Norm::Linf
    } else {
        Norm::L2
    }
}

/// Checks that every threat of the plan is one of `data`, and that every attack can be made on it.
pub fn check(plan: &EvaluatePlan, data: &DataSet) -> Result<()> {
    let names: Vec<String> = data.modalities.iter().map(|m| m.name.clone()).collect();
    for attack in arsenal::parse(&plan.attacks).context("evaluate.attacks")? {
        attack.check(norm(plan), data.classes.len())?;
    }
    match threats(plan, &names)?
        .iter()
        .find(|t| plan.norm == "linf" && t.is_joint())
    {
        Some(threat) => bail!(
            "evaluate.norm = \"linf\": `{}` is one l2 budget over several modalities; set evaluate.threats to \
             \"each\" or names of modalities",
            threat.name(&names)
        ),
        None => Ok(()),
    }
}

/// Attacks drawn report samples under every threat and budget, and writes what happened into their
/// rows. A sample broken at a budget counts as broken at every larger one. Parts that an evaluation
/// of the same settings finished before it was stopped are not made again. The plan has passed
/// [`check`].
pub fn attack(
    of: Subject,
    plan: &EvaluatePlan,
    keep: bool,
    all: &mut [SampleRow],
    voice: &Voice,
) -> Result<Attacked> {
    let drawn = drawn(plan.samples, of.data.report.len(), &Streams::new(of.seed));
    let samples = drawn.len();
    let names: Vec<String> = of.data.modalities.iter().map(|m| m.name.clone()).collect();
    let mut eps = plan.eps.clone();
    eps.sort_by(f64::total_cmp);
    eps.dedup();
    let search = Search {
        of,
        plan,
        attacks: arsenal::parse(&plan.attacks)?,
        norm: norm(plan),
        eps,
        streams: Streams::new(of.seed.wrapping_add(plan.seed)),
        parts: Parts::new(of.dir, run_dir::PARTS, origin(&of, plan)?),
    };
    all.iter_mut().for_each(|row| {
        row.precision = of.precision;
        row.outcomes.clear();
        row.nearest.clear();
    });
    let mut rows: Vec<SampleRow> = drawn.iter().map(|i| all[*i].clone()).collect();
    let rows = &mut rows[..];
    let mut attacked = Attacked::default();
    let mut found: Vec<OfThreat> = vec![];
    let threats = threats(plan, &names)?;
    search.announce(&threats, samples, voice)?;
    for threat in threats {
        let name = threat.name_with(&names, &plan.baseline);
        found.push(search.threat(threat, name, &drawn, rows, keep, voice)?);
    }
    for of in &mut found {
        attacked.examples.append(&mut of.examples);
        attacked.doubts.append(&mut of.doubts);
    }
    for (t, of) in found.iter().enumerate() {
        // What fell to less, falls to more.
        let contained = || {
            found
                .iter()
                .enumerate()
                .filter(|(u, other)| *u == t || of.threat.contains(&other.threat))
        };
        let least = |i: usize| {
            contained()
                .filter_map(|(_, other)| other.strongest[i])
                .min()
        };
        let nearest = |i: usize| {
            let all =
                contained().filter_map(|(u, other)| Some((u, other.whole.nearest[i].as_ref()?)));
            all.min_by(|a, b| a.1.distance.total_cmp(&b.1.distance))
        };
        let strongest: Vec<Option<usize>> = (0..samples).map(least).collect();
        let nearest: Vec<Option<(usize, &Found)>> = (0..samples).map(nearest).collect();
        search.record(&of.name, &of.whole, &strongest, rows, &mut attacked.results);
        for (row, (_, found)) in rows
            .iter_mut()
            .zip(&nearest)
            .filter_map(|(row, n)| Some((row, n.as_ref()?)))
        {
            let spent = names
                .iter()
                .cloned()
                .zip(found.spent.iter().copied())
                .collect();
            let (attack, confirmed) = (found.attack.clone(), found.confirmed);
            let nearest = Nearest {
                attack,
                distance: found.distance,
                spent,
                confirmed,
            };
            row.nearest
                .insert(format!("{}.{}", of.name, plan.norm), nearest);
        }
        let only: Vec<&Found> = nearest.iter().flatten().map(|(_, found)| *found).collect();
        attacked
            .nearest
            .push(search.summary(&of.name, &names, &of.whole.wrong, only));
        if keep {
            let source = |i: usize| nearest[i].map_or(t, |(u, _)| u);
            let rows = |m: usize| {
                (0..samples)
                    .map(|i| found[source(i)].kept[m].narrow(0, i, 1))
                    .collect::<Result<Vec<_>, _>>()
            };
            let inputs = (0..names.len())
                .map(|m| Ok(Tensor::cat(&rows(m)?, 0)?))
                .collect::<Result<Vec<_>>>()?;
            let distance = of
                .whole
                .wrong
                .iter()
                .zip(&nearest)
                .map(|(wrong, found)| match found {
                    _ if *wrong => 0.0,
                    Some((_, found)) => found.distance,
                    None => f64::INFINITY,
                });
            let inputs = PerModality::new(inputs).context("a data set without modalities")?;
            attacked.adversarials.push(Adversarials {
                threat: of.name.clone(),
                inputs,
                distance: distance.collect(),
            });
        }
    }
    attacked
        .results
        .sort_by_key(|r: &AttackResult| r.threat != JOINT);
    attacked
        .nearest
        .sort_by_key(|r: &NearestResult| r.threat != JOINT);
    drawn
        .iter()
        .zip(rows)
        .for_each(|(i, row)| std::mem::swap(&mut all[*i], row));
    attacked.samples = drawn;
    Ok(attacked)
}

/// All that was found under one threat.
struct OfThreat {
    threat: Threat,
    name: String,
    whole: Part,
    /// Per sample, the first budget at which any attack broke it.
    strongest: Vec<Option<usize>>,
    examples: Vec<Example>,
    doubts: Vec<String>,
    /// Each modality's nearest adversarials, if they are kept; the clean input where there is none.
    kept: Vec<Tensor>,
}

/// All that a part depends on, but which samples and which threat.
fn origin(of: &Subject, plan: &EvaluatePlan) -> Result<Origin> {
    let settings = EvaluatePlan {
        samples: 0,
        threats: vec![],
        check_samples: 0,
        ..plan.clone()
    };
    let [report, baselines] = of.data_sha256;
    let origin = [
        // Another number where what is found changes: parts of older programs are not used.
        ("format", "2".to_owned()),
        ("weights", of.weights.to_owned()),
        ("report_sha256", report.to_owned()),
        ("baselines_sha256", baselines.to_owned()),
        ("seed", of.seed.to_string()),
        ("evaluate", toml::to_string(&settings)?),
    ];
    Ok(origin.map(|(key, value)| (key.to_owned(), value)).into())
}

impl<'a> Search<'a> {
    /// Says what the attacks will take, if it is long.
    fn announce(&self, threats: &[Threat], samples: usize, voice: &Voice) -> Result<()> {
        let (data, plan) = (self.of.data, self.plan);
        let of_attack = |threat: &Threat, attack: &Named| {
            let (targets, restarts) = (
                threat.missing(data.modalities.len()).len(),
                if threat.is_joint() { 3 } else { 2 },
            );
            let budgets = if attack.nearest { 1 } else { self.eps.len() };
            effort::gradients(attack, plan, data.classes.len(), restarts)
                * (targets * budgets) as f64
        };
        let of_threat = |threat| {
            self.attacks
                .iter()
                .map(|attack| of_attack(threat, attack))
                .sum::<f64>()
        };
        let gradients = threats.iter().map(of_threat).sum::<f64>() * samples as f64;
        let seconds =
            gradients * effort::seconds_per_gradient(self.of.model, self.of.precision, data)?;
        let cheaper = format!(
            "fewer samples (evaluate.samples, now {samples}), evaluate.eps or evaluate.steps take less"
        );
        effort::announce("attacks", seconds, &cheaper, voice);
        Ok(())
    }

    /// All parts of a threat.
    fn threat(
        &self,
        threat: Threat,
        name: String,
        drawn: &[usize],
        rows: &[SampleRow],
        keep: bool,
        voice: &Voice,
    ) -> Result<OfThreat> {
        let (data, samples) = (self.of.data, drawn.len());
        let model = Remembering::new(self.of.model);
        let target = |missing: Option<Missing>| -> Result<Target> {
            Ok(Target {
                victim: Victim::new(&model, missing.clone(), self.of.baselines)?,
                missing,
            })
        };
        let targets = threat
            .missing(data.modalities.len())
            .into_iter()
            .map(target)
            .collect::<Result<Vec<_>>>()?;
        let mut doubts = self.doubts(&threat, &targets[0].victim, drawn)?;
        let bar = voice.stage(
            &format!("attack: {name}"),
            (self.eps.len() * samples * self.attacks.len()) as u64,
            "attacks",
        );
        let mut whole = Part {
            fell: vec![vec![]; self.attacks.len()],
            ..Part::default()
        };
        let mut examples: Vec<Example> = vec![];
        let mut kept: Vec<PerModality<Tensor>> = vec![];
        for (own, rows) in drawn.chunks(PART).zip(rows.chunks(PART)) {
            let batch = self.batch(own)?;
            let (mut part, adversarials) =
                self.part(&threat, &name, &targets, &batch, own, &bar)?;
            self.confirm(&mut part, &adversarials, &batch)?;
            examples.extend(self.examples(&name, &part, &batch, &adversarials, rows)?);
            examples.sort_by(|a, b| a.distance.total_cmp(&b.distance));
            examples.truncate(EXAMPLES);
            whole.extend(part);
            if keep {
                kept.push(adversarials);
            }
        }
        doubts.extend(whole.doubts());
        let doubts = doubts
            .into_iter()
            .map(|doubt| format!("{name}: {doubt}"))
            .collect();
        let all = |m: usize| Tensor::cat(&kept.iter().map(|part| &part[m]).collect::<Vec<_>>(), 0);
        let modalities = if kept.is_empty() {
            0..0
        } else {
            0..data.modalities.len()
        };
        let kept = modalities.map(all).collect::<Result<Vec<_>, _>>()?;
        Ok(OfThreat {
            strongest: whole.strongest(),
            threat,
            name,
            whole,
            examples,
            doubts,
            kept,
        })
    }

    /// Asks the program that certificates are about what it says of the adversarials.
    fn confirm(
        &self,
        part: &mut Part,
        adversarials: &PerModality<Tensor>,
        batch: &Batch,
    ) -> Result<()> {
        let Some(judge) = self.of.judge else {
            return Ok(());
        };
        let right = correct(
            &judge.logits(&Precision::F64.inputs(adversarials)?)?,
            &batch.labels.to_device(&Device::Cpu)?,
        )?;
        for (found, right) in part.nearest.iter_mut().zip(right) {
            found.iter_mut().for_each(|found| found.confirmed = !right);
        }
        Ok(())
    }

    /// Samples of the report split, as the network takes them.
    fn batch(&self, samples: &[usize]) -> Result<Batch> {
        self.of
            .precision
            .batch(self.of.data.report.samples(samples)?)
    }

    /// Signs, on some of the drawn samples, that attacks on this victim say little.
    fn doubts(&self, threat: &Threat, victim: &Victim, drawn: &[usize]) -> Result<Vec<String>> {
        let samples = &drawn[..self.plan.check_samples.min(drawn.len())];
        if samples.is_empty() {
            return Ok(vec![]);
        }
        let batch = self.batch(samples)?;
        let inputs = victim.part(&batch.inputs);
        let budget = |eps: f64| self.budget(threat, eps, inputs.len());
        let draws = Draws::for_samples(self.streams, ids(samples));
        let pgd = |budget: Budget| arsenal::pgd(budget, self.plan);
        let findings = self_check_by(
            &pgd,
            victim,
            &inputs,
            &batch.labels,
            &budget,
            &self.eps,
            &draws,
        )?;
        Ok(findings.iter().map(ToString::to_string).collect())
    }

    fn budget(&self, threat: &Threat, eps: f64, modalities: usize) -> Budget {
        threat.budget(self.norm, eps, modalities)
    }

    /// Adds a threat's results, and each sample's outcomes to its row.
    fn record(
        &self,
        name: &str,
        whole: &Part,
        strongest: &[Option<usize>],
        rows: &mut [SampleRow],
        results: &mut Vec<AttackResult>,
    ) {
        let samples = whole.wrong.len();
        let fraction = |n: usize| n as f64 / samples as f64;
        let names = self.attacks.iter().map(|a| a.name).chain([STRONGEST]);
        let fell: Vec<(&str, &[Option<usize>])> = names
            .zip(whole.fell.iter().map(Vec::as_slice).chain([strongest]))
            .collect();
        for (k, eps) in self.eps.iter().enumerate() {
            for (attack, fell) in &fell {
                let held = |fell: &Option<usize>| fell.is_none_or(|at| at > k);
                results.push(AttackResult {
                    name: (*attack).to_owned(),
                    threat: name.to_owned(),
                    norm: self.plan.norm.clone(),
                    precision: self.of.precision,
                    eps: *eps,
                    accuracy: fraction(fell.iter().filter(|f| held(f)).count()),
                    clean: fraction(whole.wrong.iter().filter(|w| !**w).count()),
                    samples: samples as u64,
                });
                for (row, fell) in rows.iter_mut().zip(*fell) {
                    let (threat, norm) = (name.to_owned(), self.plan.norm.clone());
                    row.outcomes.push(Outcome {
                        name: (*attack).to_owned(),
                        threat,
                        norm,
                        eps: *eps,
                        held: held(fell),
                    });
                }
            }
        }
    }

    /// How near the nearest adversarials of a threat are, and what they change.
    fn summary(
        &self,
        name: &str,
        names: &[String],
        wrong: &[bool],
        mut found: Vec<&Found>,
    ) -> NearestResult {
        found.sort_by(|a, b| a.distance.total_cmp(&b.distance));
        let share = |m: usize| {
            let of = |f: &&Found| {
                f.spent[m].powi(2)
                    / f.spent
                        .iter()
                        .map(|s| s * s)
                        .sum::<f64>()
                        .max(f64::MIN_POSITIVE)
            };
            found.iter().map(of).sum::<f64>() / found.len().max(1) as f64
        };
        let split = names
            .iter()
            .enumerate()
            .map(|(m, name)| (name.clone(), share(m)))
            .collect();
        NearestResult {
            threat: name.to_owned(),
            norm: self.plan.norm.clone(),
            samples: wrong.iter().filter(|w| !**w).count() as u64,
            found: found.len() as u64,
            median: (!found.is_empty()).then(|| found[found.len() / 2].distance),
            looked: self.attacks.iter().any(|attack| attack.nearest),
            precision: self.of.precision,
            split: if found.is_empty() || self.norm == Norm::Linf {
                BTreeMap::new()
            } else {
                split
            },
        }
    }
}
