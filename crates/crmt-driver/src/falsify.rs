//! Attacks on certificates: everything a run proves of a sample is attacked strictly inside, and
//! how much further an attack has to go is measured. Does not know how certificates are computed.
use crate::{
    agreement::{Agreement, Deployed},
    arsenal::RESTARTS,
    batches::EVAL_BATCH,
    certification::{self, INSIDE, OfBatch},
    drawn::{drawn, ids},
    effort,
    evaluated::{self, Evaluated},
    lipschitz::{Bounds, Constants},
    people::{Stage, Voice},
    plan::FalsifyPlan,
    precision::Precision,
    record::Falsification,
    threat::{ALL_SUBSETS_UP_TO, Threat},
};
use anyhow::{Context, Result, bail};
use candle_core::{DType, Device, Tensor};
use crmt_attacks::{
    Budget, Draws, Goal, Norm, Outcome, Pgd, Restart, Victim, correct, run_within, run_within_each,
};
use crmt_certify::{
    Contributions, Evidence, Grade, MarginConstants, MissingRegion, Threat as Shape, WeightsHash,
    limits, missing_regions,
};
use crmt_core::{AdditiveClassifier, Batch, Classifier, Missing, PerModality, Streams};
use crmt_data::DataSet;
use crmt_fusion::Model;
use rand::Rng;

/// A radius that is infinite, or further than [`REACHED`], is attacked here, in declared units.
const FAR: f64 = 20.0;
/// What is further, no budget of an `f32` input says in units of every size.
const REACHED: f64 = 1e12;
/// The nearest break is looked for from the inverse of this up to this many radii.
const REACH: f64 = 4.0;
/// Halvings of the search, in logarithms: the distance is known to 2.2 percent.
const HALVINGS: usize = 7;

/// What attacks and certificates are about.
#[derive(Clone, Copy)]
pub struct Subject<'a> {
    /// In f64, with its constants.
    pub bounds: &'a Bounds,
    /// The same weights in the program that is attacked.
    pub model: &'a dyn Classifier,
    /// Of that program.
    pub precision: Precision,
    /// The same weights as they are used, in f32.
    pub deployed: &'a Model,
    /// Of the weights that `model` was built from.
    pub hash: &'a WeightsHash,
    /// Its report split is attacked.
    pub data: &'a DataSet,
    /// Randomness of starts, rays and weights.
    pub streams: Streams,
}

impl Subject<'_> {
    fn names(&self) -> Vec<String> {
        self.data
            .modalities
            .iter()
            .map(|m| m.name.clone())
            .collect()
    }
}

/// One kind of certificate on a batch of samples.
struct Claim<'a> {
    name: String,
    /// Whom to attack, each with a budget of size 1.
    trials: Vec<Trial<'a>>,
    /// How large the budget may be; 0 claims nothing.
    radii: Vec<f64>,
    /// Multiplies each modality's budget, where samples differ in how they split it.
    split: Option<PerModality<Vec<f64>>>,
}

/// Whom to attack, with a budget of size 1.
struct Trial<'a> {
    /// The network as it is used, which attacks look at.
    victim: Victim<'a>,
    /// The program that a proof is about, which judges what they find; an estimate is about none.
    judge: Option<Victim<'a>>,
    /// What the judge computes with.
    dtype: DType,
    budget: Budget,
}

impl Trial<'_> {
    /// Which samples have another class at the points that were found.
    fn broken(&self, outcome: Outcome, labels: &Tensor) -> Result<Vec<bool>> {
        let Some(judge) = &self.judge else {
            return Ok(outcome.success);
        };
        let points = outcome
            .adversarial
            .try_map(|x| x.to_device(&Device::Cpu)?.to_dtype(self.dtype))?;
        let right = correct(&judge.logits(&points)?, &labels.to_device(&Device::Cpu)?)?;
        Ok(right.into_iter().map(|right| !right).collect())
    }
}

/// Attacks every kind of certificate of drawn report samples.
pub fn falsify(subject: &Subject, plan: &FalsifyPlan, voice: &Voice) -> Result<Vec<Falsification>> {
    let report = &subject.data.report;
    let drawn = drawn(plan.samples, report.len(), &subject.streams);
    let samples = drawn.len();
    let constants = subject.bounds.constants()?;
    if let Constants::Proved(c) = &constants
        && c.weights() != Some(subject.hash)
    {
        let of = c
            .weights()
            .map_or("weights that are not named".into(), ToString::to_string);
        bail!(
            "the certificates are of other weights ({of}) than the model to attack ({})",
            subject.hash
        );
    }
    // As the program that is certified takes them.
    let like = subject.bounds.model.head().bias();
    let baselines = subject
        .data
        .baselines
        .try_map(|b| b.to_device(like.device())?.to_dtype(like.dtype()))?;
    let mut results: Vec<Falsification> = vec![];
    let evidence = match &constants {
        Constants::Proved(_) => Evidence::Proved,
        Constants::Estimated(_) => Evidence::Estimated,
    };
    let kinds = kinds(subject, plan, evidence)?;
    let tight = samples.min(plan.tightness_samples);
    let passes = kinds * (RESTARTS.len() * samples + tight * (HALVINGS + 1) / 2);
    let halvings = tight * (HALVINGS + 1) / 2;
    let gradients = kinds * plan.steps * (RESTARTS.len() * samples + halvings);
    let seconds = gradients as f64
        * effort::seconds_per_gradient(subject.model, subject.precision, subject.data)?;
    effort::announce(
        "attacks on certificates",
        seconds,
        "--samples and --steps make it shorter",
        voice,
    );
    let bar = voice.stage("attacking certificates", passes as u64, "attacks");
    for (i, part) in drawn.chunks(EVAL_BATCH).enumerate() {
        let batch = report.samples(part)?;
        let attacked = subject.precision.batch(batch.clone())?;
        let claims = match &constants {
            Constants::Proved(c) => claims(c, subject, &baselines, plan, &batch)?,
            Constants::Estimated(c) => claims(c, subject, &baselines, plan, &batch)?,
        };
        let search = Search {
            batch: &attacked,
            samples: part,
            streams: subject.streams,
            plan,
            bar: &bar,
        };
        for (k, claim) in claims.iter().enumerate() {
            let found = search.judge(claim, tight.saturating_sub(i * EVAL_BATCH))?;
            match results.get_mut(k) {
                Some(result) => result.merge(found),
                None => results.push(found),
            }
        }
    }
    results
        .iter_mut()
        .for_each(|result| result.evidence = constants.evidence().to_owned());
    Ok(results)
}

/// The threats whose certificates are attacked.
fn threats(subject: &Subject, plan: &FalsifyPlan, evidence: Evidence) -> Result<Vec<Threat>> {
    let told = certification::threats(evidence, subject.data.modalities.len());
    let names = subject.names();
    let wanted = Threat::parse_all(&plan.threats, &names).context("falsify.threats")?;
    if let Some(other) = wanted.iter().find(|t| !told.contains(t)) {
        let why = match (other, evidence) {
            (Threat::Without(_), Evidence::Proved) => {
                format!(
                    ": without more than one modality, radii are computed of up to {ALL_SUBSETS_UP_TO}, and this run has {}; \
                     the attack alone is `evaluate --threat`",
                    names.len()
                )
            }
            _ => String::new(),
        };
        bail!(
            "threat `{}`: this run has no radii for it{why}",
            other.name(&names)
        );
    }
    Ok(if wanted.is_empty() { told } else { wanted })
}

/// How many claims [`claims`] makes.
fn kinds(subject: &Subject, plan: &FalsifyPlan, evidence: Evidence) -> Result<usize> {
    let all = plan.threats.is_empty() && subject.data.modalities.len() > 1;
    let many = if all { WEIGHTED + plan.rays + 2 } else { 0 };
    Ok(threats(subject, plan, evidence)?.len() + many)
}

/// Random weights of the joint norm to try.
const WEIGHTED: usize = 2;

/// Every kind of certificate of a batch.
fn claims<'a, E: Grade>(
    constants: &MarginConstants<E>,
    subject: &Subject<'a>,
    baselines: &'a PerModality<Tensor>,
    plan: &FalsifyPlan,
    batch: &Batch,
) -> Result<Vec<Claim<'a>>> {
    let Subject {
        bounds,
        model,
        data,
        streams,
        ..
    } = *subject;
    let modalities = data.modalities.len();
    let names = subject.names();
    let wanted = threats(subject, plan, E::EVIDENCE)?;
    let of = Evaluated::new(&bounds.model, batch, data)?;
    let absent = evaluated::absent(&bounds.model, data)?;
    let contributions = Contributions::new(&of.scores, Some(&absent))?;
    let regions = missing_regions(constants, &of.evaluation, &of.labels, &contributions)?;
    let victim = |missing| {
        Ok::<_, anyhow::Error>(Victim::new(model, missing, &data.baselines)?.unconfined())
    };
    let dtype = bounds.model.head().bias().dtype();
    let trial = |victim: Victim<'a>,
                 missing: Option<Missing>,
                 budget: Budget|
     -> Result<Trial<'a>> {
        let judge = match E::EVIDENCE {
            Evidence::Proved => Some(Victim::new(&bounds.model, missing, baselines)?.unconfined()),
            _ => None,
        };
        Ok(Trial {
            victim,
            judge,
            dtype,
            budget,
        })
    };
    let whole =
        |name: String, victim: Victim<'a>, budget: Budget, shape: Shape| -> Result<Claim<'a>> {
            let limits = limits(constants, &of.evaluation, &of.labels, &shape)?;
            let radii = limits.into_iter().map(|limit| limit.radius).collect();
            Ok(Claim {
                name,
                trials: vec![trial(victim, None, budget)?],
                radii,
                split: None,
            })
        };
    let mut claims = vec![];
    let mut of_batch = OfBatch::new(constants, &of, &absent)?;
    if E::EVIDENCE == Evidence::Proved {
        // What is not told is not attacked.
        let predicting = Deployed::new(subject.deployed, data)?
            .margins(&subject.deployed.scores(&batch.inputs)?, &of.labels)?;
        Agreement::new(constants.program()).compare(
            &of,
            &absent,
            &predicting,
            &mut of_batch.threats,
        )?;
    }
    for (threat, radii) in of_batch
        .threats
        .into_iter()
        .filter(|(threat, _)| wanted.contains(threat))
    {
        let of_set = |gone: Option<Missing>| {
            let victim = victim(gone.clone())?;
            let left = victim.modalities().len();
            trial(victim, gone, threat.budget(Norm::L2, 1.0, left))
        };
        let trials = threat
            .missing(modalities)
            .into_iter()
            .map(of_set)
            .collect::<Result<_>>()?;
        claims.push(Claim {
            name: threat.name(&names),
            trials,
            radii,
            split: None,
        });
    }
    if modalities == 1 || !plan.threats.is_empty() {
        return Ok(claims);
    }
    let each = |radii: PerModality<f64>| Budget::Each {
        norm: Norm::L2,
        radii,
    };
    for i in 0..WEIGHTED {
        let mut rng = streams.stream("falsify weights", i as u64);
        let weights = PerModality::from_fn(modalities, |_| 2f64.powf(rng.random_range(-2.0..2.0)));
        let name = format!("weighted {}", told(&weights));
        claims.push(whole(
            name,
            victim(None)?.weighted(&weights)?,
            Budget::Joint(1.0),
            Shape::L2(weights),
        )?);
    }
    for i in 0..plan.rays {
        let mut rng = streams.stream("falsify ray", i as u64);
        let ray = PerModality::from_fn(modalities, |_| rng.random::<f64>());
        let ray = ray.map(|t| t / length(&ray));
        claims.push(whole(
            format!("ray {}", told(&ray)),
            victim(None)?,
            each(ray.clone()),
            Shape::Ray(ray),
        )?);
    }
    let ones = PerModality::from_fn(modalities, |_| 1.0);
    let splits = regions
        .iter()
        .map(|r| r.region().optimal_split(&ones))
        .collect::<Result<Vec<_>, _>>()?;
    claims.push(Claim {
        name: "optimal split".into(),
        trials: vec![trial(victim(None)?, None, each(ones.clone()))?],
        // No radius, or an infinite one, has no split.
        radii: splits
            .iter()
            .map(|s| Some(length(s)).filter(|r| r.is_finite()).unwrap_or(0.0))
            .collect(),
        split: Some(PerModality::from_fn(modalities, |m| {
            splits.iter().map(|s| s[m] / length(s)).collect()
        })),
    });
    let trials = Threat::AnyMissing
        .missing(modalities)
        .into_iter()
        .map(|gone| {
            let victim = victim(gone.clone())?;
            let budget = each(victim.part(&ones));
            trial(victim, gone, budget)
        });
    claims.push(Claim {
        name: "any-missing, each".into(),
        trials: trials.collect::<Result<_>>()?,
        radii: regions
            .iter()
            .map(|r| equal_budgets(r, modalities))
            .collect::<Result<_>>()?,
        split: None,
    });
    Ok(claims)
}

fn length(values: &PerModality<f64>) -> f64 {
    values.iter().map(|t| t * t).sum::<f64>().sqrt()
}

fn told(values: &PerModality<f64>) -> String {
    values
        .iter()
        .map(|v| format!("{v:.2}"))
        .collect::<Vec<_>>()
        .join(":")
}

/// The largest `t` (to one part in a million, from below) so that any one modality may be missing
/// while each of the others moves up to `t`.
fn equal_budgets<E: Grade>(region: &MissingRegion<E>, modalities: usize) -> Result<f64> {
    let holds = |t: f64| region.contains(1, &PerModality::from_fn(modalities, |_| t));
    if !holds(0.0)? {
        return Ok(0.0);
    }
    let (mut inside, mut outside) = (0.0, 1.0);
    while holds(outside)? {
        (inside, outside) = (outside, 2.0 * outside);
        if outside > REACHED {
            return Ok(f64::INFINITY);
        }
    }
    while outside - inside > 1e-6 * outside {
        let middle = 0.5 * (inside + outside);
        *(if holds(middle)? {
            &mut inside
        } else {
            &mut outside
        }) = middle;
    }
    Ok(inside)
}

/// Attacks within claims.
struct Search<'a> {
    batch: &'a Batch,
    /// Their numbers in the report split.
    samples: &'a [usize],
    streams: Streams,
    plan: &'a FalsifyPlan,
    bar: &'a Stage,
}

impl Search<'_> {
    /// Attacks `claim` inside, and the first `tight` samples beyond.
    fn judge(&self, claim: &Claim, tight: usize) -> Result<Falsification> {
        let claimed: Vec<u32> = (0..claim.radii.len() as u32)
            .filter(|i| claim.radii[*i as usize] > 0.0)
            .collect();
        let inside = self.broken(
            claim,
            &claimed,
            &vec![INSIDE; claimed.len()],
            &RESTARTS,
            self.plan.steps,
        )?;
        let violations = inside.iter().filter(|b| **b).count();
        self.bar.inc((RESTARTS.len() * claim.radii.len()) as u64);
        let looked = tight.min(claim.radii.len());
        let finite = |i: &u32| (*i as usize) < looked && claim.radii[*i as usize] <= REACHED;
        let rows: Vec<u32> = claimed.iter().copied().filter(finite).collect();
        let tightness = self.tightness(claim, &rows)?;
        self.bar.inc((looked * (HALVINGS + 1) / 2) as u64);
        Ok(Falsification {
            certificate: claim.name.clone(),
            evidence: String::new(),
            samples: claimed.len() as u64,
            violations: violations as u64,
            steps: self.plan.steps as u64,
            mean_radius: mean(
                claimed
                    .iter()
                    .map(|i| within_reach(claim.radii[*i as usize])),
            ),
            tightness_samples: tightness.len() as u64,
            tightness_mean: mean(tightness.iter().copied()),
            tightness_max: tightness.into_iter().fold(0.0, f64::max),
        })
    }

    /// `radius / distance of the nearest break found`, for the samples that break within [`REACH`]
    /// radii.
    fn tightness(&self, claim: &Claim, rows: &[u32]) -> Result<Vec<f64>> {
        let mut inside = vec![1.0 / REACH; rows.len()];
        let mut outside = vec![REACH; rows.len()];
        // Half the work: a search that misses a break understates how tight the radius is.
        let quick = |factors: &[f64]| {
            self.broken(
                claim,
                rows,
                factors,
                &RESTARTS[..1],
                self.plan.steps.div_ceil(2),
            )
        };
        let broken = quick(&outside)?;
        for _ in 0..HALVINGS {
            let middle: Vec<f64> = inside
                .iter()
                .zip(&outside)
                .map(|(a, b)| (a * b).sqrt())
                .collect();
            let fell = quick(&middle)?;
            for (i, fell) in fell.into_iter().enumerate() {
                *(if fell {
                    &mut outside[i]
                } else {
                    &mut inside[i]
                }) = middle[i];
            }
        }
        Ok(outside
            .iter()
            .zip(broken)
            .filter(|(_, broken)| *broken)
            .map(|(factor, _)| 1.0 / factor)
            .collect())
    }

    /// Which of `rows` fall within `factors` times their claims, to any trial.
    fn broken(
        &self,
        claim: &Claim,
        rows: &[u32],
        factors: &[f64],
        restarts: &[Restart],
        steps: usize,
    ) -> Result<Vec<bool>> {
        let mut broken = vec![false; rows.len()];
        for trial in &claim.trials {
            let Trial { victim, budget, .. } = trial;
            let standing: Vec<usize> = (0..rows.len()).filter(|i| !broken[*i]).collect();
            if standing.is_empty() {
                break;
            }
            let chosen: Vec<u32> = standing.iter().map(|i| rows[*i]).collect();
            let index = Tensor::new(chosen.as_slice(), self.batch.labels.device())?;
            let inputs = victim
                .part(&self.batch.inputs)
                .try_map(|x| x.index_select(&index, 0))?;
            let labels = self.batch.labels.index_select(&index, 0)?;
            let goal = Goal::Avoid(labels.clone());
            let own: Vec<usize> = chosen.iter().map(|i| self.samples[*i as usize]).collect();
            let draws = Draws::for_samples(self.streams, ids(&own));
            let radii: Vec<f64> = standing
                .iter()
                .map(|i| factors[*i] * within_reach(claim.radii[rows[*i] as usize]))
                .collect();
            let pgd = Pgd {
                restarts: restarts.to_vec(),
                ..Pgd::strong(budget.clone()).with_steps(steps)
            };
            let outcome = match &claim.split {
                None => run_within(&pgd, victim, &inputs, &goal, &draws, &radii)?,
                Some(split) => {
                    let own = |share: &Vec<f64>| {
                        chosen
                            .iter()
                            .zip(&radii)
                            .map(|(i, r)| r * share[*i as usize])
                            .collect()
                    };
                    run_within_each(&pgd, victim, &inputs, &goal, &draws, &split.map(own))?
                }
            };
            if outcome.success.len() != standing.len() {
                bail!(
                    "an attack answered for {} of {} samples",
                    outcome.success.len(),
                    standing.len()
                );
            }
            standing
                .iter()
                .zip(trial.broken(outcome, &labels)?)
                .for_each(|(i, fell)| broken[*i] |= fell);
        }
        Ok(broken)
    }
}

/// Where a radius is attacked.
fn within_reach(radius: f64) -> f64 {
    if radius <= REACHED { radius } else { FAR }
}

fn mean(values: impl ExactSizeIterator<Item = f64>) -> f64 {
    let n = values.len().max(1) as f64;
    values.sum::<f64>() / n
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{checkpoint::Architecture, lipschitz::Kind, plan::Plan, run::open_data};
    use crmt_core::Trainable;
    use crmt_fusion::Remembering;
    use std::collections::BTreeMap;

    /// Of a modality that moves margins by almost nothing, the radius is finite and beyond what
    /// `f32` holds.
    #[test]
    fn radii_that_no_input_can_hold_are_attacked_where_inputs_are() {
        assert_eq!(
            [0.5, 1e12, 1e13, f64::MAX, f64::INFINITY].map(within_reach),
            [0.5, 1e12, FAR, FAR, FAR]
        );
    }

    /// An untrained linear model: every radius is the distance to the boundary, so attacks get
    /// through just beyond it, whatever the threat, and not before.
    #[test]
    fn radii_of_linear_models_are_exactly_as_far_as_attacks_get() -> Result<()> {
        let mut plan = Plan::default();
        plan.model.encoder = "linear".into();
        plan.model.features = 16;
        plan.model.head = "orthonormal".into();
        (
            plan.synthetic.train,
            plan.synthetic.select,
            plan.synthetic.report,
        ) = (100, 20, 40);
        plan.certify.evidence = "proved".into();
        plan.falsify = FalsifyPlan {
            samples: 40,
            threats: vec![],
            steps: 40,
            rays: 2,
            tightness_samples: 40,
        };
        let data = open_data(&plan)?;
        let architecture = Architecture::new(&data.modalities, &data.classes, plan.head(), |m| {
            plan.encoder(&m.name, &m.shape)
        });
        let learner = architecture.learner(Streams::new(3), &Device::Cpu)?;
        let weights: BTreeMap<String, Tensor> = learner
            .variables()
            .into_iter()
            .map(|v| (v.name, v.var.as_detached_tensor()))
            .collect();
        let voice = Voice::new(true);
        let streams = Streams::new(3);
        let bounds = Bounds::of(&plan, &data, streams, &architecture, &weights, &voice)?;
        assert!(matches!(bounds.kind, Kind::Proved(_)));
        let deployed = &architecture.model(&weights, DType::F32, &Device::Cpu)?;
        let model = Remembering::new(deployed);
        let (precision, hash) = (Precision::F32, &bounds.weights);
        let subject = Subject {
            bounds: &bounds,
            model: &model,
            precision,
            deployed,
            hash,
            data: &data,
            streams,
        };
        let found = falsify(&subject, &plan.falsify, &voice)?;
        assert_eq!(found.len(), 7 + 2 + 2 + 2);
        // The untrained model is right on few samples, but on some.
        assert!(found.iter().any(|f| f.samples > 2), "{found:?}");
        for f in found.iter().filter(|f| f.samples > 0) {
            assert_eq!(f.violations, 0, "{f:?}");
            // The search ends up to 2.2 % above the distance; a joint or uni-modal radius is the
            // distance.
            let exact = !f.certificate.starts_with("any-missing") && f.tightness_samples > 0;
            assert!(!exact || f.tightness_mean > 0.95, "{f:?}");
        }
        // The program that they are about falls no sooner.
        let exact = Subject {
            model: &bounds.model,
            precision: Precision::F64,
            ..subject
        };
        let few = FalsifyPlan {
            samples: 10,
            rays: 1,
            tightness_samples: 4,
            ..plan.falsify.clone()
        };
        for f in falsify(&exact, &few, &voice)? {
            assert_eq!(f.violations, 0, "{f:?}");
        }
        // Certificates are of these weights, and no others.
        let other = WeightsHash::new("another");
        let refused = falsify(
            &Subject {
                hash: &other,
                ..subject
            },
            &plan.falsify,
            &voice,
        )
        .unwrap_err()
        .to_string();
        assert!(refused.contains("another"), "{refused}");
        // A claim three percent too large is caught.
        let samples: Vec<usize> = (0..40).collect();
        let batch = data.report.samples(&samples)?;
        let Constants::Proved(constants) = bounds.constants()? else {
            unreachable!("proved")
        };
        let bar = voice.stage("", 1, "attacks");
        let search = Search {
            batch: &batch,
            samples: &samples,
            streams,
            plan: &plan.falsify,
            bar: &bar,
        };
        let baselines = data.baselines.try_map(|b| b.to_dtype(DType::F64))?;
        for mut claim in claims(&constants, &subject, &baselines, &plan.falsify, &batch)? {
            claim.radii.iter_mut().for_each(|r| *r *= 1.03);
            let claimed = claim.radii.iter().filter(|r| **r > 0.0).count();
            let caught = search.judge(&claim, 0)?.violations;
            assert!(
                claim.name.contains("each") || caught as usize * 2 >= claimed,
                "{}: {caught} of {claimed}",
                claim.name
            );
        }
        Ok(())
    }
}
