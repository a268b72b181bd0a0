//! CRMT's second step on a trained model: which modalities it tries to do without, how results are
//! judged on the selection split, and which one is kept. Does not know how a phase is trained.
use crate::{
    acceptance::{Conditions, Judged},
    batches::{EVAL_BATCH, Epochs, failed},
    checkpoint::{Architecture, weights},
    drawn::{drawn, ids},
    lipschitz::{Bounds, Constants},
    optimizers::parameters,
    plan::{CertifyPlan, Plan, StepTwoPlan},
    precision::F64,
    selection::{AS_RELEASED, accuracy},
    watch::Log,
};
use anyhow::{Context, Result};
use candle_core::{DType, Device, Tensor, Var};
use crmt_attacks::{Budget, Draws, Goal, Loss, Pgd};
use crmt_certify::RivalRule;
use crmt_core::{AdditiveClassifier, AdditiveScores, Batch, Fusion, Missing, Streams, Trainable};
use crmt_data::{DataSet, EpochPlan};
use crmt_fusion::Learner;
use crmt_kernels::AdamW;
use crmt_train::{
    CachedScores, IntegrationModel, Phase, RadiusHinge, Rate, Rules, Selected, Tables,
};

/// All that the second step looks at.
pub struct StepTwo<'a> {
    pub plan: &'a Plan,
    pub data: &'a DataSet,
    pub streams: Streams,
    pub learner: &'a Learner,
    pub architecture: &'a Architecture,
}

/// What is known before the first weight moves.
struct Known {
    tables: Tables,
    train: CachedScores,
    select: CachedScores,
    /// Accuracy on the selection split.
    clean: f64,
}

impl StepTwo<'_> {
    /// Runs it. Returns why it was rejected, if it was.
    pub fn run(&self, log: &mut Log) -> Result<Option<String>> {
        let Self {
            plan,
            data,
            learner,
            ..
        } = self;
        let settings = &plan.step2;
        let head = learner
            .integration()
            .context("the second step needs integration weights (an orthonormal head)")?;
        // Heads are compared in f64, whatever the program that certificates will be about.
        let plan = &Plan {
            certify: CertifyPlan {
                program: F64.into(),
                ..plan.certify.clone()
            },
            ..(*plan).clone()
        };
        let bounds = Bounds::of(
            plan,
            data,
            self.streams,
            self.architecture,
            &weights(learner),
            log.voice,
        )?;
        let known = Known {
            tables: bounds.tables()?,
            train: self.training()?,
            select: self.selection()?,
            clean: accuracy(learner.model(), &data.select)?,
        };
        let voice = *log.voice;
        let judge = |select: &CachedScores| -> Result<Judged> {
            let _busy = voice.stage("judging step 2", 1, "candidates");
            let robust = match self.certifies() {
                true => certified(settings, &bounds, learner, select.all())?,
                false => attacked(settings, learner, &data.select, self.streams)?,
            };
            let clean = accuracy(learner.model(), &data.select)?;
            Ok(Judged {
                clean,
                robust,
                missing: self.worst_missing(select.all())?,
            })
        };

        let before = judge(&known.select)?;
        // All that a candidate changes.
        let mut changed: Vec<Var> = head.weights.iter().chain([&head.bias]).cloned().collect();
        if self.statistics_move() {
            changed.extend(
                learner
                    .variables()
                    .into_iter()
                    .filter(|v| !v.learned)
                    .map(|v| v.var),
            );
        }
        let undo = copies(&changed)?;
        let mut best: Option<(Judged, Vec<Tensor>, Option<Missing>)> = None;
        // What the first and foremost candidate would have given.
        let mut refused: Option<String> = None;
        for pruned in self.candidates() {
            let model = IntegrationModel::new(&data.modalities, &head, pruned.as_ref())?;
            let model = if self.statistics_move() {
                model.moving(*learner)
            } else {
                model
            };
            let name = pruned.as_ref().map_or("step-2".into(), |gone| {
                format!("step-2 without {}", self.names(gone))
            });
            self.optimise(&name, &model, &known, log)?;
            model.write_to(&head)?;
            let after = if self.statistics_move() {
                judge(&self.selection()?)?
            } else {
                judge(&known.select)?
            };
            let values = copies(&changed)?;
            set(&changed, &undo)?;
            tracing::debug!("step 2{}", self.told(before, after, pruned.as_ref()));
            let conditions = Conditions {
                settings,
                certified: self.certifies(),
                pruned: pruned.is_some(),
            };
            let broken = conditions.broken(before, after);
            if !broken.is_empty() {
                let told = self.told(before, after, pruned.as_ref());
                refused.get_or_insert_with(|| {
                    format!("{}. It would have given{told}", broken.join("; "))
                });
            } else if best
                .as_ref()
                .is_none_or(|(best, ..)| after.robust > best.robust)
            {
                best = Some((after, values, pruned));
            }
        }
        match best {
            Some((after, values, pruned)) => {
                set(&changed, &values)?;
                log.voice.say(format!(
                    "  step 2 accepted{}",
                    self.told(before, after, pruned.as_ref())
                ));
                Ok(None)
            }
            None => {
                let why = refused.unwrap_or_default();
                Ok(Some(format!(
                    "step 2 was rejected, the weights of step 1 are kept: {why}"
                )))
            }
        }
    }

    fn certifies(&self) -> bool {
        self.plan.train.objective == "certified"
    }

    fn statistics_move(&self) -> bool {
        self.plan.step2.statistics == AS_RELEASED
    }

    fn told(&self, before: Judged, after: Judged, pruned: Option<&Missing>) -> String {
        let what = if self.certifies() {
            "certified"
        } else {
            "attacked"
        };
        format!(
            "{}, on the selection split: clean {:.1} → {:.1} %, {what} (mean over eps {:?}) {:.1} → {:.1} %, worst \
             modality missing {:.1} → {:.1} %",
            pruned.map_or(String::new(), |gone| format!(
                " without {}",
                self.names(gone)
            )),
            100.0 * before.clean,
            100.0 * after.clean,
            self.plan.step2.accept_eps,
            100.0 * before.robust,
            100.0 * after.robust,
            100.0 * before.missing,
            100.0 * after.missing
        )
    }

    /// The least accuracy with one modality at its baseline, of cached scores.
    fn worst_missing(&self, select: &Batch) -> Result<f64> {
        let model = self.learner.model();
        let absent = model.scores(&self.data.baselines.try_map(|b| b.unsqueeze(0))?)?;
        let weights = absent.weights.try_map(exact)?;
        let bias = exact(&absent.bias)?;
        let mut worst = 1.0f64;
        for gone in Missing::each(select.inputs.len()) {
            let unimodal = select
                .inputs
                .zip(&absent.unimodal, "baselines")?
                .try_enumerate(|m, (own, absent)| {
                    if gone.contains(m) {
                        exact(absent)?.broadcast_as(own.shape())
                    } else {
                        Ok((*own).clone())
                    }
                })?;
            let scores = AdditiveScores {
                unimodal,
                weights: weights.clone(),
                bias: bias.clone(),
            };
            worst = worst.min(crmt_attacks::accuracy(&scores.logits()?, &select.labels)?);
        }
        Ok(worst)
    }

    /// All modalities; and, where pruning is wanted, what is left when some are pruned.
    fn candidates(&self) -> Vec<Option<Missing>> {
        let modalities = self.data.modalities.len();
        let pruned = match modalities {
            _ if !self.plan.step2.prune => vec![],
            1..=4 => Missing::all(modalities),
            _ => Missing::each(modalities),
        };
        std::iter::once(None)
            .chain(pruned.into_iter().map(Some))
            .collect()
    }

    fn names(&self, gone: &Missing) -> String {
        gone.describe(&self.data.modalities)
    }

    /// Scores of the training samples.
    fn training(&self) -> Result<CachedScores> {
        let batch = self
            .data
            .train_sample(&self.streams, self.plan.step2.samples)?;
        self.cached((0..batch.len()).step_by(EVAL_BATCH).map(|i| {
            let rows = EVAL_BATCH.min(batch.len() - i);
            Ok(batch.narrow(i, rows)?)
        }))
    }

    /// Scores of the selection split, of the model as it is now.
    fn selection(&self) -> Result<CachedScores> {
        self.cached(
            self.data
                .select
                .batches(EVAL_BATCH)
                .map(|batch| batch.map_err(failed)),
        )
    }

    fn cached(
        &self,
        batches: impl Iterator<Item = crmt_train::Result<Batch>>,
    ) -> Result<CachedScores> {
        Ok(CachedScores::new(
            self.learner.fixed(),
            batches,
            self.plan.step2.batch,
            self.streams,
        )?)
    }

    /// Raises radii up to a target. The best epoch has the largest mean radius on the selection
    /// split, clipped at the target, of those whose clean accuracy is tolerable.
    fn optimise(
        &self,
        name: &str,
        model: &IntegrationModel<'_>,
        known: &Known,
        log: &mut Log,
    ) -> Result<()> {
        let Known {
            tables,
            train,
            select,
            clean,
        } = known;
        let settings = &self.plan.step2;
        let mut radii = signed_radii(model, tables, train.all())?;
        radii.sort_by(f64::total_cmp);
        let quantile =
            radii[((radii.len() - 1) as f64 * settings.target_quantile).round() as usize];
        let target = quantile.max(f64::MIN_POSITIVE);
        let rival = if settings.rival == AS_RELEASED {
            RivalRule::RunnerUp
        } else {
            RivalRule::Minimum
        };
        let mut strategy = RadiusHinge {
            tables: tables.clone(),
            target,
            rival,
        };
        let options = AdamW {
            weight_decay: 0.0,
            ..AdamW::default()
        };
        let mut optimizer = options.over(parameters(model))?;
        let samples = settings.samples.min(self.data.train.len());
        let drawn = EpochPlan {
            samples: Some(samples),
            batch: settings.batch.min(samples),
        };
        let drawn = Epochs {
            data: self.data,
            streams: self.streams,
            plan: drawn,
        };
        let mut phase = Phase {
            name,
            strategy: &mut strategy,
            source: if self.statistics_move() {
                &drawn
            } else {
                train
            },
            epochs: settings.epochs,
            rate: Rate::constant(settings.learning_rate),
            streams: self.streams,
            rules: Rules::default(),
        };
        let score = |model: &dyn Trainable| -> Result<Selected> {
            let moved = if self.statistics_move() {
                Some(self.selection()?)
            } else {
                None
            };
            let batch = moved.as_ref().unwrap_or(select).all();
            let scores = model.fixed().scores(&batch.inputs)?;
            let radii =
                RadiusHinge::signed_radii(tables, &scores, &batch.labels)?.to_vec1::<f64>()?;
            let accuracy = crmt_attacks::accuracy(&scores.logits()?, &batch.labels)?;
            let radius = radii.iter().map(|r| r.min(target)).sum::<f64>() / radii.len() as f64;
            let tolerable = accuracy >= *clean - settings.tolerance;
            Ok(Selected {
                accuracy,
                attacked: None,
                score: if tolerable { radius } else { f64::MIN },
            })
        };
        log.phase(model, &mut optimizer, &mut phase, (false, None), score)
    }
}

/// As cached scores are: f64, on the CPU.
fn exact(t: &Tensor) -> candle_core::Result<Tensor> {
    t.to_device(&Device::Cpu)?.to_dtype(DType::F64)
}

fn copies(vars: &[Var]) -> Result<Vec<Tensor>> {
    Ok(vars
        .iter()
        .map(|var| Ok(var.as_tensor().copy()?.detach()))
        .collect::<candle_core::Result<_>>()?)
}

fn set(vars: &[Var], values: &[Tensor]) -> Result<()> {
    Ok(vars
        .iter()
        .zip(values)
        .try_for_each(|(var, value)| var.set(value))?)
}

fn signed_radii(model: &IntegrationModel<'_>, tables: &Tables, batch: &Batch) -> Result<Vec<f64>> {
    let scores = model.fixed().scores(&batch.inputs)?;
    Ok(RadiusHinge::signed_radii(tables, &scores, &batch.labels)?.to_vec1()?)
}

/// Mean certified accuracy over the accepting budgets, of `select`'s cached scores under the
/// learner's present integration weights; the encoders are those of `bounds`.
fn certified(
    settings: &StepTwoPlan,
    bounds: &Bounds,
    learner: &Learner,
    select: &Batch,
) -> Result<f64> {
    let head = learner.model().head();
    let weights = head.weights()?.try_map(exact)?;
    let bias = exact(head.bias())?;
    let constants = bounds.constants_of(&head.rows()?.try_map(exact)?, &weights)?;
    let logits = AdditiveScores {
        unimodal: select.inputs.clone(),
        weights,
        bias,
    }
    .logits()?;
    let labels = select.labels.to_vec1::<u32>()?;
    let radii = match &constants {
        Constants::Proved(c) => crmt_certify::radii(c, &logits, &labels)?.joint(),
        Constants::Estimated(c) => crmt_certify::radii(c, &logits, &labels)?.joint(),
    };
    let count = |eps: &f64| radii.iter().filter(|r| *r >= eps).count() as f64;
    let held: f64 = settings.accept_eps.iter().map(count).sum();
    Ok(held / (radii.len() * settings.accept_eps.len()) as f64)
}

/// Mean accuracy over the accepting budgets, under a joint 20-step PGD on the margin.
fn attacked(
    settings: &StepTwoPlan,
    learner: &Learner,
    select: &crmt_data::Split,
    streams: Streams,
) -> Result<f64> {
    let samples = drawn(settings.accept_samples, select.len(), &streams);
    let batch = select.samples(&samples)?;
    let goal = Goal::Avoid(batch.labels.clone());
    let mut standing = 0.0;
    for eps in &settings.accept_eps {
        let attack = Pgd::quick(Budget::Joint(*eps), 20, Loss::Margin);
        let outcome = crmt_attacks::run(
            &attack,
            learner.fixed(),
            &batch.inputs,
            &goal,
            &Draws::for_samples(streams, ids(&samples)),
        )?;
        standing += outcome.success.iter().filter(|broken| !**broken).count() as f64;
    }
    Ok(standing / (batch.len() * settings.accept_eps.len()) as f64)
}
