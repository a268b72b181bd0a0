//! CRMT's second step on a trained model: which modalities it tries to do without, how results are judged on
//! the selection split, and which one is kept. Does not know how a phase is trained.
use crate::{
    checkpoint::Architecture,
    lipschitz::{Bounds, Constants},
    plan::{Plan, StepTwoPlan},
    training::{EVAL_BATCH, Log, accuracy, parameters, weights},
};
use anyhow::{Context, Result};
use candle_core::{DType, Tensor};
use crmt_attacks::{Budget, Draws, Goal, Loss, Pgd};
use crmt_core::{AdditiveScores, Batch, Fusion, Missing, Streams, Trainable};
use crmt_data::DataSet;
use crmt_fusion::Learner;
use crmt_kernels::AdamW;
use crmt_train::{CachedScores, IntegrationModel, Phase, RadiusHinge, Schedule, Selected, Tables};

/// All that the second step looks at.
pub struct StepTwo<'a> {
    pub plan: &'a Plan,
    pub data: &'a DataSet,
    pub streams: Streams,
    pub learner: &'a Learner,
    pub architecture: &'a Architecture,
}

/// What is fixed before the first weight moves.
struct Known {
    tables: Tables,
    train: CachedScores,
    select: CachedScores,
    /// Accuracy on the selection split.
    clean: f64,
}

/// What the selection split says of a model.
#[derive(Clone, Copy)]
struct Judged {
    clean: f64,
    /// Mean over the accepting budgets: certified accuracy for a certified method, else accuracy under attack.
    robust: f64,
}

impl StepTwo<'_> {
    /// Runs it. Returns why it was rejected, if it was.
    pub fn run(&self, log: &mut Log) -> Result<Option<String>> {
        let Self { plan, data, learner, .. } = self;
        let settings = &plan.step2;
        let head = learner.integration().context("the second step needs integration weights (an orthonormal head)")?;
        let bounds = Bounds::of(plan, data, self.streams, self.architecture, &weights(learner), log.voice)?;
        let known = Known {
            tables: bounds.tables()?,
            train: self.cached(data.train_sample(&self.streams, settings.samples)?)?,
            select: self.cached(data.select.batch(0..data.select.len())?)?,
            clean: accuracy(learner.model(), &data.select)?,
        };
        let voice = *log.voice;
        let judge = |learner: &Learner| -> Result<Judged> {
            let _busy = voice.stage("judging step 2", 1);
            let robust = match plan.train.objective.as_str() {
                "certified" => certified(settings, &bounds, learner, known.select.all())?,
                _ => attacked(settings, learner, &data.select, self.streams)?,
            };
            Ok(Judged { clean: accuracy(learner.model(), &data.select)?, robust })
        };

        let before = judge(learner)?;
        let mut best: Option<(Judged, IntegrationModel, Option<Missing>)> = None;
        for pruned in self.candidates() {
            let model = IntegrationModel::new(&data.modalities, &head, pruned.as_ref())?;
            let name = pruned.as_ref().map_or("step-2".into(), |gone| format!("step-2 without {}", self.names(gone)));
            self.optimise(&name, &model, &known, log)?;
            let undo = model.write_to(&head)?;
            let after = judge(learner);
            undo.iter().try_for_each(|(var, value)| var.set(value))?;
            let after = after?;
            let tolerable = after.clean >= before.clean - settings.tolerance;
            if tolerable && best.as_ref().is_none_or(|(best, ..)| after.robust > best.robust) {
                best = Some((after, model, pruned));
            }
        }
        let what = if plan.train.objective == "certified" { "certified" } else { "attacked" };
        let told = |after: Judged| {
            format!(
                "selection split: clean {:.1} → {:.1} %, {what} (mean over eps {:?}) {:.1} → {:.1} %",
                100.0 * before.clean,
                100.0 * after.clean,
                settings.accept_eps,
                100.0 * before.robust,
                100.0 * after.robust
            )
        };
        match best {
            // A certificate that does not fall is kept; an attack that finds no less has shown nothing.
            Some((after, model, pruned)) if self.accepts(before, after) => {
                model.write_to(&head)?;
                let gone = pruned.map_or(String::new(), |gone| format!(" without {}", self.names(&gone)));
                log.voice.say(format!("  step 2 accepted{gone}; {}", told(after)));
                Ok(None)
            }
            Some((after, ..)) => {
                Ok(Some(format!("step 2 was rejected, the weights of step 1 are kept; {}", told(after))))
            }
            None => Ok(Some(format!(
                "step 2 was rejected, the weights of step 1 are kept: every result lost more than {:.1} points of \
                 clean accuracy on the selection split",
                100.0 * settings.tolerance
            ))),
        }
    }

    fn accepts(&self, before: Judged, after: Judged) -> bool {
        match self.plan.train.objective.as_str() {
            "certified" => after.robust >= before.robust,
            _ => after.robust > before.robust,
        }
    }

    /// All modalities; and, where pruning is wanted, what is left when some are pruned.
    fn candidates(&self) -> Vec<Option<Missing>> {
        let modalities = self.data.modalities.len();
        let pruned = match modalities {
            _ if !self.plan.step2.prune => vec![],
            1..=4 => Missing::all(modalities),
            _ => Missing::each(modalities),
        };
        std::iter::once(None).chain(pruned.into_iter().map(Some)).collect()
    }

    fn names(&self, gone: &Missing) -> String {
        gone.describe(&self.data.modalities)
    }

    fn cached(&self, batch: Batch) -> Result<CachedScores> {
        let chunks = (0..batch.len()).step_by(EVAL_BATCH).map(|i| {
            let rows = EVAL_BATCH.min(batch.len() - i);
            Ok(batch.narrow(i, rows)?)
        });
        Ok(CachedScores::new(self.learner.fixed(), chunks, self.plan.step2.batch, self.streams)?)
    }

    /// Raises radii up to a target. The best epoch has the largest mean radius on the selection split, clipped at
    /// the target, of those whose clean accuracy is tolerable.
    fn optimise(&self, name: &str, model: &IntegrationModel, known: &Known, log: &mut Log) -> Result<()> {
        let Known { tables, train, select, clean } = known;
        let settings = &self.plan.step2;
        let mut radii = signed_radii(model, tables, train.all())?;
        radii.sort_by(f64::total_cmp);
        let quantile = radii[((radii.len() - 1) as f64 * settings.target_quantile).round() as usize];
        let target = quantile.max(f64::MIN_POSITIVE);
        let strategy = RadiusHinge { tables: tables.clone(), target };
        let options = AdamW { weight_decay: 0.0, ..AdamW::default() };
        let mut optimizer = options.over(parameters(model))?;
        let phase = Phase {
            name,
            strategy: &strategy,
            source: train,
            epochs: settings.epochs,
            schedule: Schedule::Constant,
            learning_rate: settings.learning_rate,
            clip: f64::INFINITY,
            streams: self.streams,
        };
        let score = |model: &dyn Trainable| -> Result<Selected> {
            let batch = select.all();
            let scores = model.fixed().scores(&batch.inputs)?;
            let radii = RadiusHinge::signed_radii(tables, &scores, &batch.labels)?.to_vec1::<f64>()?;
            let accuracy = crmt_attacks::accuracy(&scores.logits()?, &batch.labels)?;
            let radius = radii.iter().map(|r| r.min(target)).sum::<f64>() / radii.len() as f64;
            let tolerable = accuracy >= *clean - settings.tolerance;
            Ok(Selected { accuracy, score: if tolerable { radius } else { f64::MIN } })
        };
        log.phase(model, &mut optimizer, &phase, score)
    }
}

fn signed_radii(model: &IntegrationModel, tables: &Tables, batch: &Batch) -> Result<Vec<f64>> {
    let scores = model.fixed().scores(&batch.inputs)?;
    Ok(RadiusHinge::signed_radii(tables, &scores, &batch.labels)?.to_vec1()?)
}

/// Mean certified accuracy over the accepting budgets, of `select`'s cached scores under the learner's present
/// integration weights; the encoders are those of `bounds`.
fn certified(settings: &StepTwoPlan, bounds: &Bounds, learner: &Learner, select: &Batch) -> Result<f64> {
    let head = learner.model().head();
    let weights = head.weights()?.try_map(|a| a.to_dtype(DType::F64))?;
    let constants = bounds.constants_with(&head.rows()?.try_map(|w| w.to_dtype(DType::F64))?, &weights)?;
    let bias: Tensor = head.bias().to_dtype(DType::F64)?;
    let logits = AdditiveScores { unimodal: select.inputs.clone(), weights, bias }.logits()?;
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
fn attacked(settings: &StepTwoPlan, learner: &Learner, select: &crmt_data::Split, streams: Streams) -> Result<f64> {
    let batch = select.batch(0..settings.accept_samples.min(select.len()))?;
    let goal = Goal::Avoid(batch.labels.clone());
    let mut standing = 0.0;
    for eps in &settings.accept_eps {
        let attack = Pgd::quick(Budget::Joint(*eps), 20, Loss::Margin);
        let outcome = crmt_attacks::run(&attack, learner.fixed(), &batch.inputs, &goal, &Draws::new(streams, 0))?;
        standing += outcome.success.iter().filter(|broken| !**broken).count() as f64;
    }
    Ok(standing / (batch.len() * settings.accept_eps.len()) as f64)
}
