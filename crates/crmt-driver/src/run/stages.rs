//! The stages of a run: trained, then measured, each stage once. Does not know how results are
//! kept.
use super::{
    files::read_metrics,
    state::{DOUBT, Run},
};
use crate::{
    adversarials, attack, baselines,
    certification::{self, Radii},
    checkpoint::{self, Architecture},
    checkpoints::Checkpoints,
    corruption, diagnosis, digests,
    drawn::drawn,
    evaluation,
    events::Events,
    falsify::{Subject, falsify},
    lipschitz::{Bounds, Kind},
    people::Voice,
    plan::{FalsifyPlan, Plan},
    precision::{F64, Precision},
    predictions,
    record::{EpochMetrics, Falsification, SmoothingResult, Summary},
    run_dir::{self, RunDir, write_file},
    sigmas::sigmas,
    smooth_attack::{self, Target},
    smoothed, smoothing,
    tensor_file::Format,
    threat::DECLARED,
    training::{self, Resumed, STEP_1, Untrained},
    undefined,
    watch::Keeper,
};
use anyhow::Result;
use crmt_certify::WeightsHash;
use crmt_core::Streams;
use crmt_data::DataSet;
use crmt_fusion::{Model, Remembering};
use std::{
    path::Path,
    time::{Duration, Instant},
};

impl Run {
    /// Trains in the directory `out`, and writes config, metrics, checkpoints and weights into it
    /// on the way.
    pub fn train(
        out: &Path,
        overwrite: bool,
        plan: &Plan,
        data: DataSet,
        voice: &Voice,
    ) -> Result<Self> {
        RunDir::check_new(out, overwrite)?;
        // Whatever can be refused is, before anything is removed.
        let model = training::build(plan, &data)?;
        let dir = RunDir::create(out, overwrite)?;
        dir.write(run_dir::CONFIG, toml::to_string(plan)?.as_bytes())?;
        Self::trained(dir, plan, data, model, false, voice)
    }

    /// Goes on with a run that was stopped.
    pub fn resume(dir: RunDir, plan: &Plan, data: DataSet, voice: &Voice) -> Result<Self> {
        let model = training::build(plan, &data)?;
        Self::trained(dir, plan, data, model, true, voice)
    }

    fn trained(
        dir: RunDir,
        plan: &Plan,
        data: DataSet,
        model: Untrained,
        resume: bool,
        voice: &Voice,
    ) -> Result<Self> {
        let start = Instant::now();
        let report_sha256 = digests::of_report(&data)?;
        let checkpoints = Checkpoints::new(
            &dir,
            plan,
            model.architecture(),
            digests::of_training(&data),
        );
        let resumed = if resume {
            resumed(&dir, &checkpoints, voice)?
        } else {
            Resumed::default()
        };
        let keeper = Keeper {
            record: &mut |metrics| dir.write(run_dir::METRICS, &json_lines(metrics)?),
            checkpoints: &checkpoints,
            interval: Duration::try_from_secs_f64(plan.train.checkpoint_seconds)
                .unwrap_or(Duration::MAX),
            events: Events::create(&dir)?,
        };
        let trained = training::train(plan, &data, model, resumed, keeper, voice)?;
        let hash = checkpoint::save(
            &dir.file(run_dir::MODEL),
            &trained.architecture,
            &trained.weights,
        )?;
        let summary = Summary {
            method: plan.method.clone(),
            label: plan.label.clone(),
            data: data.name.clone(),
            seed: plan.seed,
            modalities: data.modalities.iter().map(|m| m.name.clone()).collect(),
            units: data
                .modalities
                .iter()
                .map(|m| (m.name.clone(), m.scale))
                .collect(),
            classes: data.classes.clone(),
            warnings: [data.doubts(), trained.warnings].concat(),
            notes: data.notes.clone(),
            weights: hash,
            train_sha256: digests::of_split(&data.train),
            select_sha256: digests::of_split(&data.select),
            report_sha256,
            baselines_sha256: digests::of_baselines(&data.baselines)?,
            stages: [("train".to_owned(), start.elapsed().as_secs_f64())].into(),
            ..Summary::default()
        };
        let (architecture, weights) = (trained.architecture, trained.weights);
        Ok(Self {
            dir,
            plan: plan.clone(),
            data,
            architecture,
            weights,
            summary,
            rows: vec![],
            examples: vec![],
            smoothed: None,
            diagnosis: None,
            attacked: false,
            train_known: true,
        })
    }

    /// The plan, to change what is measured next.
    pub fn plan_mut(&mut self) -> &mut Plan {
        &mut self.plan
    }

    /// The constants of the model's layers, as the plan asks.
    pub fn bounds(&self, voice: &Voice) -> Result<Bounds> {
        let bounds = Bounds::of(
            &self.plan,
            &self.data,
            self.streams(),
            &self.architecture,
            &self.weights,
            voice,
        )?;
        if matches!(bounds.kind, Kind::Estimated(_)) {
            self.check_training_split("constants are estimated on it")?;
        }
        Ok(bounds)
    }

    /// How the model is built.
    pub fn architecture(&self) -> &Architecture {
        &self.architecture
    }

    /// Names of the modalities.
    pub fn modalities(&self) -> &[String] {
        &self.summary.modalities
    }

    /// Of attacks and corruptions.
    fn attack_streams(&self) -> Streams {
        Streams::new(self.plan.seed.wrapping_add(self.plan.evaluate.seed))
    }

    /// To measure with: frozen, in `f32`, on the data's device.
    fn model(&self) -> Result<Model> {
        self.model_in(Precision::F32)
    }

    /// The same in another precision, where that is computed.
    fn model_in(&self, precision: Precision) -> Result<Model> {
        self.architecture.model(
            &self.weights,
            precision.dtype(),
            &precision.device(self.data.device()),
        )
    }

    /// Accuracy without an attacker.
    pub fn measure(&mut self) -> Result<()> {
        let model = self.model()?;
        let clean = evaluation::clean(&model, &self.data)?;
        self.summary.accuracy = clean.accuracy;
        self.summary
            .warnings
            .retain(|w| !undefined::is_after(w, ""));
        self.summary.warnings.extend(clean.warnings);
        self.summary.confusion = clean.confusion;
        self.rows = clean.rows;
        Ok(())
    }

    /// Radii of every report sample, from [`bounds`](Self::bounds).
    pub fn certify(&mut self, bounds: &Bounds, voice: &Voice) -> Result<()> {
        let start = Instant::now();
        if self.rows.is_empty() {
            self.measure()?;
        } else if self.rows.iter().all(|row| row.margins.is_empty()) {
            // An older version measured it.
            let clean = evaluation::clean(&self.model()?, &self.data)?;
            self.rows
                .iter_mut()
                .zip(clean.rows)
                .for_each(|(row, clean)| row.margins = clean.margins);
        }
        let radii: Radii = certification::radii(bounds, &self.rows, &self.data, voice)?;
        radii.write_to(&mut self.rows);
        let summary = radii.summary();
        if serde_json::to_value(&summary)? != serde_json::to_value(&self.summary.radii)? {
            // What was attacked, and explained, were other radii.
            self.summary.falsification.clear();
            self.diagnosis = None;
        }
        self.summary.radii = summary;
        self.summary.program = radii.program;
        self.summary
            .stages
            .insert("certify".to_owned(), start.elapsed().as_secs_f64());
        Ok(())
    }

    /// Attacks on drawn report samples; the nearest adversarials go to `keep`.
    pub fn attack(&mut self, keep: Option<&Path>, voice: &Voice) -> Result<()> {
        let start = Instant::now();
        let model = self.model()?;
        let plan = &self.plan.evaluate;
        attack::check(plan, &self.data)?;
        // A file that can't be written is noticed before hours of work.
        let keep = keep.map(|file| {
            let format = Format::of("--save-adversarials", file, &adversarials::FORMATS)?;
            run_dir::check_file("--save-adversarials", file).map(|()| (file, format))
        });
        let keep = keep.transpose()?;
        if plan.baseline != DECLARED {
            self.check_training_split("baselines are computed from it")?;
        }
        let baselines =
            baselines::baselines(&plan.baseline, &model, &self.data, &self.streams(), voice)?;
        if plan.baseline != DECLARED && self.data.modalities.len() > 1 {
            let table = baselines::accuracy(&model, &self.data, &baselines)?;
            self.summary
                .accuracy
                .missing_by_baseline
                .insert(plan.baseline.clone(), table);
        }
        let baselines_sha256 = digests::of_baselines(&baselines)?;
        let precision = Precision::of(&plan.precision)?;
        let (model, baselines) = (self.model_in(precision)?, precision.inputs(&baselines)?);
        let certified = self.summary.program.as_ref().map(|of| of.program.as_str());
        let judge = (precision == Precision::F32 && certified == Some(F64))
            .then(|| self.model_in(Precision::F64));
        let judge = judge.transpose()?;
        let subject = attack::Subject {
            model: &model,
            precision,
            judge: judge.as_ref(),
            baselines: &baselines,
            weights: &self.summary.weights,
            data: &self.data,
            data_sha256: [&self.summary.report_sha256, &baselines_sha256],
            seed: self.plan.seed,
            dir: &self.dir,
        };
        let found = attack::attack(subject, plan, keep.is_some(), &mut self.rows, voice)?;
        if let Some((file, format)) = keep {
            write_file(
                file,
                &adversarials::to_bytes(&found, &self.data, &self.summary, plan, format)?,
            )?;
        }
        (self.summary.attacks, self.summary.nearest, self.examples) =
            (found.results, found.nearest, found.examples);
        self.attacked = true;
        self.drawn("evaluate");
        self.summary.warnings.retain(|w| !w.starts_with(DOUBT));
        self.summary
            .warnings
            .extend(found.doubts.iter().map(|doubt| format!("{DOUBT}{doubt}")));
        self.summary
            .stages
            .insert("evaluate".to_owned(), start.elapsed().as_secs_f64());
        Ok(())
    }

    /// Accuracy on corrupted report samples.
    pub fn corrupt(&mut self, asked: &corruption::Asked<'_>, voice: &Voice) -> Result<()> {
        let start = Instant::now();
        let model = self.model()?;
        let samples = drawn(asked.samples, self.data.report.len(), &self.streams());
        let (results, warnings) = corruption::measure(
            &model,
            &self.data,
            asked,
            &samples,
            self.attack_streams(),
            voice,
        )?;
        self.summary.corruptions = results;
        self.summary
            .warnings
            .retain(|w| !undefined::is_after(w, corruption::SILENT));
        self.summary.warnings.extend(warnings);
        self.drawn("corrupt");
        self.summary
            .stages
            .insert("corrupt".to_owned(), start.elapsed().as_secs_f64());
        Ok(())
    }

    /// Which modality the model relies on, and through which it is weakest.
    pub fn diagnose(&mut self, voice: &Voice) -> Result<()> {
        let start = Instant::now();
        let model = self.model()?;
        let subject = diagnosis::Subject {
            model: &model,
            data: &self.data,
            summary: &self.summary,
            rows: &self.rows,
        };
        self.diagnosis = Some(diagnosis::diagnose(&subject, voice)?);
        self.summary
            .stages
            .insert("diagnose".to_owned(), start.elapsed().as_secs_f64());
        Ok(())
    }

    /// What the model says of every report sample, for other programs.
    pub fn save_predictions(&self, file: &Path) -> Result<()> {
        let format = Format::of("--save-predictions", file, &predictions::FORMATS)?;
        run_dir::check_file("--save-predictions", file)?;
        let model = self.model()?;
        write_file(
            file,
            &predictions::to_bytes(&model, &self.data, &self.summary, format)?,
        )
    }

    /// Attacks on the certificates of drawn report samples. What is known of kinds that `plan`
    /// leaves out stays.
    pub fn falsify(&mut self, bounds: &Bounds, plan: &FalsifyPlan, voice: &Voice) -> Result<()> {
        let start = Instant::now();
        let model = self.model()?;
        let hash = WeightsHash::new(&*self.summary.weights);
        let streams = self.streams();
        let deployed = model;
        let model = Remembering::new(&deployed);
        let (precision, deployed) = (Precision::F32, &deployed);
        let subject = Subject {
            bounds,
            model: &model,
            precision,
            deployed,
            hash: &hash,
            data: &self.data,
            streams,
        };
        let results = falsify(&subject, plan, voice)?;
        let again = |known: &Falsification| {
            results
                .iter()
                .any(|new| new.certificate == known.certificate)
        };
        self.summary.falsification.retain(|known| !again(known));
        self.summary.falsification.splice(0..0, results);
        self.drawn("falsify");
        self.summary
            .stages
            .insert("falsify".to_owned(), start.elapsed().as_secs_f64());
        Ok(())
    }

    /// Certificates of the smoothed network on drawn report samples; `attacked`, if asked for.
    pub fn smooth(&mut self, attacked: bool, voice: &Voice) -> Result<()> {
        let start = Instant::now();
        let (plan, model) = (&self.plan.smooth, self.model()?);
        let subject = smoothing::Subject {
            model: &model,
            weights: &self.summary.weights,
            data: &self.data,
            report_sha256: &self.summary.report_sha256,
            seed: self.plan.seed,
            dir: &self.dir,
        };
        let classifiers = smoothing::smooth(&subject, plan, voice)?;
        let mut eps = [self.plan.evaluate.eps.as_slice(), &self.plan.certify.eps].concat();
        eps.sort_by(f64::total_cmp);
        eps.dedup();
        let sigmas = sigmas("smooth.sigmas", plan.sigma, &plan.sigmas, &self.data)?;
        let (data, chunk, steps) = (&self.data, plan.chunk, self.plan.evaluate.steps);
        let alpha_each = plan.alpha / classifiers.len() as f64;
        let target = Target {
            model: &model,
            data,
            sigmas: &sigmas,
            seed: self.plan.seed,
            chunk,
            alpha: alpha_each,
        };
        let (attacks, judged) = match &classifiers[..] {
            [all, ..] if attacked => {
                let (attacks, judged) = smooth_attack::attack(&target, all, &eps, steps, voice)?;
                (attacks, Some(judged))
            }
            _ => (vec![], None),
        };
        let sigma = |name: &String| {
            (
                name.clone(),
                plan.sigmas.get(name).copied().unwrap_or(plan.sigma),
            )
        };
        self.summary.smoothing = Some(SmoothingResult {
            sigmas: self.summary.modalities.iter().map(sigma).collect(),
            selection_draws: plan.selection_draws,
            draws: plan.draws,
            alpha: plan.alpha,
            alpha_each,
            samples: classifiers.first().map_or(0, |c| c.samples.len() as u64),
            classifiers: classifiers.iter().map(|c| c.result(&eps)).collect(),
            attacks,
            judged,
        });
        self.drawn("smooth");
        self.smoothed = Some(smoothed::to_csv(&classifiers, &self.summary.modalities)?);
        self.summary
            .stages
            .insert("smooth".to_owned(), start.elapsed().as_secs_f64());
        Ok(())
    }

    /// Notes that what a stage measured was drawn.
    fn drawn(&mut self, stage: &str) {
        self.summary
            .drawn
            .insert(stage.to_owned(), self.data.report.len() as u64);
    }
}

/// What a stopped run goes on from.
fn resumed(dir: &RunDir, checkpoints: &Checkpoints, voice: &Voice) -> Result<Resumed> {
    let Some(state) = checkpoints.last()? else {
        voice.say("  nothing was kept yet: training begins anew");
        return Ok(Resumed::default());
    };
    let mut metrics = read_metrics(dir)?;
    metrics.retain(|m| m.phase == STEP_1 && m.epoch <= state.position.epoch);
    voice.say(format!(
        "  going on after epoch {}, batch {}",
        state.position.epoch, state.position.batch
    ));
    Ok(Resumed {
        state: Some(state),
        metrics,
    })
}

fn json_lines(metrics: &[EpochMetrics]) -> Result<Vec<u8>> {
    let mut lines = vec![];
    for m in metrics {
        serde_json::to_writer(&mut lines, m)?;
        lines.push(b'\n');
    }
    Ok(lines)
}
