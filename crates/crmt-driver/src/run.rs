//! One run in memory: a trained model on its data, measured stage by stage, written to and read
//! from its directory. Does not know the command line.
use crate::{
    adversarials, attack, baselines,
    certification::{self, Radii},
    checkpoint::{self, Architecture},
    checkpoints::Checkpoints,
    corruption,
    diagnosis::{self, Diagnosis},
    drawn::{drawn, order},
    evaluation,
    events::Events,
    examples::{self, Example},
    falsify::{Subject, falsify},
    lipschitz::Bounds,
    partial::Parts,
    people::Voice,
    plan::{FalsifyPlan, Plan},
    predictions,
    record::{EpochMetrics, Falsification, SmoothingResult, Summary},
    report::{self, RunRecord, SampleRow},
    run_dir::{self, RunDir, write_file},
    samples, sealed,
    settings::Settings,
    sigmas::sigmas,
    smooth_attack::{self, Target},
    smoothed, smoothing,
    tensor_file::Format,
    threat::DECLARED,
    training::{self, Resumed, STEP_1, Untrained},
    watch::Keeper,
};
use anyhow::{Context, Result, bail};
use candle_core::{DType, Tensor};
use crmt_certify::WeightsHash;
use crmt_core::{PerModality, Streams};
use crmt_data::{DataSet, SyntheticOptions, Upload};
use crmt_fusion::{Model, Remembering};
use crmt_kernels::{Compute, uploader};
use sha2::{Digest, Sha256};
use std::{
    collections::BTreeMap,
    path::Path,
    time::{Duration, Instant},
};

/// A trained model and everything measured of it so far.
pub struct Run {
    dir: RunDir,
    plan: Plan,
    data: DataSet,
    architecture: Architecture,
    weights: BTreeMap<String, Tensor>,
    /// What is known.
    pub summary: Summary,
    rows: Vec<SampleRow>,
    /// What attacks broke most easily.
    examples: Vec<Example>,
    /// `smoothed.csv`, if it is new.
    smoothed: Option<Vec<u8>>,
    /// Of the model and the radii as they are.
    diagnosis: Option<Diagnosis>,
    /// An evaluation was completed: what was kept of it can go.
    attacked: bool,
}

/// Opens the device and the data set that a plan names.
pub fn open_data(plan: &Plan) -> Result<DataSet> {
    let device = plan.compute()?.open()?;
    let s = &plan.synthetic;
    s.check_size()?;
    let data = match plan.data.as_str() {
        "synthetic" => crmt_data::synthetic(&SyntheticOptions {
            seed: plan.seed,
            train: s.train,
            select: s.select,
            report: s.report,
            image_snr_db: s.image_snr_db,
            audio_snr_db: s.audio_snr_db,
        })?,
        path => DataSet::open(path)?,
    };
    let data = match plan.modalities.is_empty() {
        true => data,
        false => data.subset(&plan.modalities).context("modalities")?,
    };
    Ok(data.on(&Upload::new(&device, uploader(&device)?))?)
}

impl Run {
    /// Trains in the directory `out`, and writes config, metrics, checkpoints and weights into it on the way.
    pub fn train(out: &Path, overwrite: bool, plan: &Plan, data: DataSet, voice: &Voice) -> Result<Self> {
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

    fn trained(dir: RunDir, plan: &Plan, data: DataSet, model: Untrained, resume: bool, voice: &Voice) -> Result<Self> {
        let start = Instant::now();
        let report_sha256 = report_digest(&data)?;
        let checkpoints = Checkpoints::new(&dir, plan, model.architecture(), training_digest(&data)?);
        let resumed = if resume { resumed(&dir, &checkpoints, voice)? } else { Resumed::default() };
        let keeper = Keeper {
            record: &mut |metrics| dir.write(run_dir::METRICS, &json_lines(metrics)?),
            checkpoints: &checkpoints,
            interval: Duration::try_from_secs_f64(plan.train.checkpoint_seconds).unwrap_or(Duration::MAX),
            events: Events::create(&dir)?,
        };
        let trained = training::train(plan, &data, model, resumed, keeper, voice)?;
        let hash = checkpoint::save(&dir.file(run_dir::MODEL), &trained.architecture, &trained.weights)?;
        let summary = Summary {
            method: plan.method.clone(),
            data: data.name.clone(),
            seed: plan.seed,
            modalities: data.modalities.iter().map(|m| m.name.clone()).collect(),
            classes: data.classes.clone(),
            warnings: [data.doubts(), trained.warnings].concat(),
            notes: data.notes.clone(),
            weights: hash,
            report_sha256,
            baselines_sha256: digest(&data.baselines)?,
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
        })
    }

    /// Reads a finished run. `data` wins over the data set that the run was trained on, `device` over where, `assignments`
    /// (`key=value`) over its settings of what is measured.
    pub fn open(dir: RunDir, data: Option<&str>, device: Option<Compute>, assignments: &[String]) -> Result<Self> {
        // As if typed: a setting that is younger than the run has its default.
        let mut settings = Settings::default();
        settings.read_file(&dir.file(run_dir::CONFIG))?;
        let resolved = settings.resolve();
        let mut plan =
            resolved.with_context(|| format!("{} is not of this version", dir.file(run_dir::CONFIG).display()))?.plan;
        if !assignments.is_empty() {
            if let Some(fixed) = assignments.iter().find(|a| !a.trim_start().starts_with("evaluate.")) {
                bail!("--set {fixed}: the model is trained; only settings of evaluate can be changed");
            }
            assignments.iter().try_for_each(|assignment| settings.read_assignment(assignment))?;
            plan = settings.resolve()?.plan;
        }
        if let Some(data) = data {
            plan.data = data.to_owned();
        }
        if let Some(device) = device {
            plan.device = device.to_string();
        }
        let checkpoint = checkpoint::load(&dir.file(run_dir::MODEL))?;
        let summary: Summary = dir.read_json(run_dir::SUMMARY)?;
        if summary.weights != checkpoint.hash {
            bail!("{} and {} are of different models", run_dir::SUMMARY, dir.file(run_dir::MODEL).display());
        }
        let data = open_data(&plan)?;
        let (ours, theirs) = (&checkpoint.architecture.modalities()?, &data.modalities);
        if ours != theirs || checkpoint.architecture.classes != data.classes {
            bail!(
                "the model of {} was trained on other modalities or classes than `{}` has",
                dir.path().display(),
                data.name
            );
        }
        let baselines = digest(&data.baselines)?;
        if !summary.baselines_sha256.is_empty() && summary.baselines_sha256 != baselines {
            bail!(
                "what `{}` ({}) puts in the place of missing modalities is not what {} was measured with: restore \
                 `baseline` in its dataset.toml, or train a run anew",
                data.name,
                plan.data,
                dir.path().display()
            );
        }
        if summary.report_sha256 != report_digest(&data)? {
            bail!(
                "the report split of `{}` ({}) is not the one that {} was measured on: train a run on it, or name the \
                 original with --data",
                data.name,
                plan.data,
                dir.path().display()
            );
        }
        let rows = samples::read(&dir.file(run_dir::SAMPLES))?;
        if rows.len() != data.report.len() {
            bail!(
                "{} has {} rows, the report split of `{}` has {}",
                run_dir::SAMPLES,
                rows.len(),
                data.name,
                data.report.len()
            );
        }
        let examples = examples::read(&dir.file(run_dir::EXAMPLES))?;
        let diagnosis = diagnosis::read(&dir, &summary.weights)?;
        let (architecture, weights) = (checkpoint.architecture, checkpoint.weights);
        let (smoothed, attacked) = (None, false);
        Ok(Self { dir, plan, data, architecture, weights, summary, rows, examples, smoothed, diagnosis, attacked })
    }

    /// The plan, to change what is measured next.
    pub fn plan_mut(&mut self) -> &mut Plan {
        &mut self.plan
    }

    /// The constants of the model's layers, as the plan asks.
    pub fn bounds(&self, voice: &Voice) -> Result<Bounds> {
        Bounds::of(&self.plan, &self.data, self.streams(), &self.architecture, &self.weights, voice)
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

    fn streams(&self) -> Streams {
        Streams::new(self.plan.seed)
    }

    /// To measure with: frozen, in `f32`, on the data's device.
    fn model(&self) -> Result<Model> {
        self.architecture.model(&self.weights, DType::F32, self.data.device())
    }

    /// Accuracy without an attacker.
    pub fn measure(&mut self) -> Result<()> {
        let model = self.model()?;
        let clean = evaluation::clean(&model, &self.data)?;
        self.summary.accuracy = clean.accuracy;
        self.summary.confusion = clean.confusion;
        self.rows = clean.rows;
        Ok(())
    }

    /// Radii of every report sample, from [`bounds`](Self::bounds).
    pub fn certify(&mut self, bounds: &Bounds, voice: &Voice) -> Result<()> {
        let start = Instant::now();
        let radii: Radii = certification::radii(bounds, &self.model()?, &self.data, voice)?;
        radii.write_to(&mut self.rows);
        let summary = radii.summary();
        if serde_json::to_value(&summary)? != serde_json::to_value(&self.summary.radii)? {
            // What was attacked, and explained, were other radii.
            self.summary.falsification.clear();
            self.diagnosis = None;
        }
        self.summary.radii = summary;
        self.summary.program = radii.program;
        self.summary.stages.insert("certify".to_owned(), start.elapsed().as_secs_f64());
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
            writable("--save-adversarials", file).map(|()| (file, format))
        });
        let keep = keep.transpose()?;
        let baselines = baselines::baselines(&plan.baseline, &model, &self.data, &self.streams(), voice)?;
        if plan.baseline != DECLARED && self.data.modalities.len() > 1 {
            let table = baselines::accuracy(&model, &self.data, &baselines)?;
            self.summary.accuracy.missing_by_baseline.insert(plan.baseline.clone(), table);
        }
        let baselines_sha256 = digest(&baselines)?;
        let subject = attack::Subject {
            model: &model,
            baselines: &baselines,
            weights: &self.summary.weights,
            data: &self.data,
            data_sha256: [&self.summary.report_sha256, &baselines_sha256],
            seed: self.plan.seed,
            dir: &self.dir,
        };
        let found = attack::attack(subject, plan, keep.is_some(), &mut self.rows, voice)?;
        if let Some((file, format)) = keep {
            write_file(file, &adversarials::to_bytes(&found, &self.data, &self.summary, plan, format)?)?;
        }
        (self.summary.attacks, self.summary.nearest, self.examples) = (found.results, found.nearest, found.examples);
        self.attacked = true;
        self.drawn("evaluate");
        self.summary.warnings.retain(|w| !w.starts_with(DOUBT));
        self.summary.warnings.extend(found.doubts.iter().map(|doubt| format!("{DOUBT}{doubt}")));
        self.summary.stages.insert("evaluate".to_owned(), start.elapsed().as_secs_f64());
        Ok(())
    }

    /// Accuracy on corrupted report samples.
    pub fn corrupt(&mut self, asked: &corruption::Asked<'_>, voice: &Voice) -> Result<()> {
        let start = Instant::now();
        let model = self.model()?;
        let samples = drawn(asked.samples, self.data.report.len(), &self.streams());
        self.summary.corruptions =
            corruption::measure(&model, &self.data, asked, &samples, self.attack_streams(), voice)?;
        self.drawn("corrupt");
        self.summary.stages.insert("corrupt".to_owned(), start.elapsed().as_secs_f64());
        Ok(())
    }

    /// Which modality the model relies on, and through which it is weakest.
    pub fn diagnose(&mut self, voice: &Voice) -> Result<()> {
        if self.rows.iter().any(|row| row.why.is_none()) {
            // A run from before it was kept what limits a radius.
            let bounds = self.bounds(voice)?;
            self.certify(&bounds, voice)?;
        }
        let start = Instant::now();
        let model = self.model()?;
        let subject = diagnosis::Subject { model: &model, data: &self.data, summary: &self.summary, rows: &self.rows };
        self.diagnosis = Some(diagnosis::diagnose(&subject, voice)?);
        self.summary.stages.insert("diagnose".to_owned(), start.elapsed().as_secs_f64());
        Ok(())
    }

    /// What the model says of every report sample, for other programs.
    pub fn save_predictions(&self, file: &Path) -> Result<()> {
        let format = Format::of("--save-predictions", file, &predictions::FORMATS)?;
        writable("--save-predictions", file)?;
        let model = self.model()?;
        write_file(file, &predictions::to_bytes(&model, &self.data, &self.summary, format)?)
    }

    /// Attacks on the certificates of drawn report samples. What is known of kinds that `plan` leaves out stays.
    pub fn falsify(&mut self, bounds: &Bounds, plan: &FalsifyPlan, voice: &Voice) -> Result<()> {
        let start = Instant::now();
        let model = self.model()?;
        let hash = WeightsHash::new(&*self.summary.weights);
        let streams = self.streams();
        let deployed = model;
        let model = Remembering::new(&deployed);
        let subject = Subject { bounds, model: &model, deployed: &deployed, hash: &hash, data: &self.data, streams };
        let results = falsify(&subject, plan, voice)?;
        let again = |known: &Falsification| results.iter().any(|new| new.certificate == known.certificate);
        self.summary.falsification.retain(|known| !again(known));
        self.summary.falsification.splice(0..0, results);
        self.drawn("falsify");
        self.summary.stages.insert("falsify".to_owned(), start.elapsed().as_secs_f64());
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
        let target = Target { model: &model, data, sigmas: &sigmas, seed: self.plan.seed, chunk, alpha: alpha_each };
        let (attacks, judged) = match &classifiers[..] {
            [all, ..] if attacked => {
                let (attacks, judged) = smooth_attack::attack(&target, all, &eps, steps, voice)?;
                (attacks, Some(judged))
            }
            _ => (vec![], None),
        };
        let sigma = |name: &String| (name.clone(), plan.sigmas.get(name).copied().unwrap_or(plan.sigma));
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
        self.summary.stages.insert("smooth".to_owned(), start.elapsed().as_secs_f64());
        Ok(())
    }

    /// Notes that what a stage measured was drawn.
    fn drawn(&mut self, stage: &str) {
        self.summary.drawn.insert(stage.to_owned(), self.data.report.len() as u64);
    }

    /// Confronts radii with attacks, and writes samples, report and, last, the summary; then what was kept of a stopped
    /// evaluation can go.
    pub fn finish(&mut self) -> Result<()> {
        let evidence = self.summary.radii.first().map_or("estimated", |r| r.evidence.as_str()).to_owned();
        let mut eps: Vec<f64> =
            self.summary.attacks.iter().map(|a| a.eps).chain(self.plan.certify.eps.iter().copied()).collect();
        eps.sort_by(f64::total_cmp);
        eps.dedup();
        self.summary.certified = certification::certified(&self.rows, &evidence, &eps);
        let beaten = certification::beaten(&self.rows);
        // Of radii that are no longer told.
        self.summary.falsification.retain(|f| f.evidence == evidence);
        self.summary.warnings.retain(|w| !w.contains(BEATEN));
        self.summary.violations = 0;
        if evidence == "estimated" {
            let warn = |(threat, n): (&String, &u64)| {
                format!("{threat}: {n} samples {BEATEN}: estimates are not certificates")
            };
            self.summary.warnings.extend(beaten.iter().map(warn));
            let disproved = self.summary.falsification.iter().filter(|f| f.violations > 0);
            let warn =
                |f: &Falsification| format!("{}: {} of {} samples {BEATEN}", f.certificate, f.violations, f.samples);
            self.summary.warnings.extend(disproved.map(warn));
        } else {
            let falsified: u64 = self.summary.falsification.iter().map(|f| f.violations).sum();
            self.summary.violations = beaten.values().sum::<u64>() + falsified;
        }
        let judged = self.summary.smoothing.as_ref().and_then(|s| s.judged.as_ref());
        self.summary.violations += judged.map_or(0, |judged| judged.violations);
        for (place, i) in order(self.rows.len(), &self.streams()).into_iter().enumerate() {
            self.rows[i].drawn = place as u64;
        }
        self.summary.seconds = self.summary.stages.values().sum();
        tracing::debug!(stages = ?self.summary.stages, "seconds");
        let config = toml::to_string(&self.plan)?;
        let samples = samples::to_csv(&self.rows, &evidence)?;
        let examples = examples::to_bytes(&self.examples)?;
        let diagnosis =
            self.diagnosis.as_ref().map(|d| Ok::<_, anyhow::Error>((diagnosis::to_json(d)?, diagnosis::to_csv(d)?)));
        let diagnosis = diagnosis.transpose()?;
        let page = report::render(&[self.record(&config)?])?;
        let mut json = serde_json::to_vec_pretty(&self.summary)?;
        json.push(b'\n');
        // All of it is known to be good before any of it is written.
        self.dir.write(run_dir::CONFIG, config.as_bytes())?;
        self.dir.write(run_dir::SAMPLES, &samples)?;
        if self.examples.is_empty() {
            self.dir.remove(run_dir::EXAMPLES)?;
        } else {
            self.dir.write(run_dir::EXAMPLES, &examples)?;
        }
        self.smoothed.iter().try_for_each(|csv| self.dir.write(run_dir::SMOOTHED, csv))?;
        match &diagnosis {
            Some((json, csv)) => {
                self.dir.write(run_dir::DIAGNOSIS_SAMPLES, csv)?;
                self.dir.write(run_dir::DIAGNOSIS, json)?;
            }
            // The rows alone say nothing, so they may outlive the averages, not the other way round.
            None => {
                self.dir.remove(run_dir::DIAGNOSIS)?;
                self.dir.remove(run_dir::DIAGNOSIS_SAMPLES)?;
            }
        }
        self.dir.write(run_dir::REPORT, page.as_bytes())?;
        self.dir.write(run_dir::SUMMARY, &json)?;
        Checkpoints::remove(&self.dir)?;
        self.dir.unlock()?;
        if self.attacked { Parts::remove(&self.dir, attack::PARTS) } else { Ok(()) }
    }

    /// What the report is made of.
    fn record(&self, config: &str) -> Result<RunRecord> {
        Ok(RunRecord {
            title: self.summary.method.to_uppercase(),
            summary: self.summary.clone(),
            metrics: read_metrics(&self.dir)?,
            config: config.to_owned(),
            samples: self.rows.clone(),
            examples: self.examples.clone(),
            diagnosis: self.diagnosis.clone(),
        })
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
    voice.say(format!("  going on after epoch {}, batch {}", state.position.epoch, state.position.batch));
    Ok(Resumed { state: Some(state), metrics })
}

/// How warnings of the attacks' self-checks begin.
const DOUBT: &str = "attack check, ";

const BEATEN: &str = "fell to an attack inside their estimated radius";

/// A finished run, as the report needs it; neither its data nor its weights are read.
pub fn read_record(dir: &RunDir) -> Result<RunRecord> {
    let summary: Summary = dir.read_json(run_dir::SUMMARY)?;
    Ok(RunRecord {
        title: summary.method.to_uppercase(),
        diagnosis: diagnosis::read(dir, &summary.weights)?,
        summary,
        metrics: read_metrics(dir)?,
        config: dir.read(run_dir::CONFIG)?,
        samples: samples::read(&dir.file(run_dir::SAMPLES))?,
        examples: examples::read(&dir.file(run_dir::EXAMPLES))?,
    })
}

fn read_metrics(dir: &RunDir) -> Result<Vec<EpochMetrics>> {
    let path = dir.file(run_dir::METRICS);
    let text = dir.read(run_dir::METRICS)?;
    let parse = |(i, line): (usize, &str)| {
        serde_json::from_str(line).with_context(|| format!("{}, line {}", path.display(), i + 1))
    };
    text.lines().enumerate().map(parse).collect()
}

/// SHA-256 of inputs and labels of the report split, sample by sample.
fn report_digest(data: &DataSet) -> Result<String> {
    let mut hash = Sha256::new();
    for batch in data.report.batches(training::EVAL_BATCH) {
        let batch = batch?;
        for x in &batch.inputs {
            hash.update(sealed::bytes(x)?);
        }
        batch.labels.to_vec1::<u32>()?.iter().for_each(|label| hash.update(label.to_le_bytes()));
    }
    Ok(sealed::hex(hash))
}

/// SHA-256 of some training and selection samples, and of how many there are.
fn training_digest(data: &DataSet) -> Result<String> {
    const SAMPLES: usize = 256;
    let mut hash = Sha256::new();
    let select = data.select.batch(0..SAMPLES.min(data.select.len()))?;
    for (len, batch) in [(data.train.len(), data.train_sample(&Streams::new(0), SAMPLES)?), (data.select.len(), select)]
    {
        hash.update(len.to_le_bytes());
        for x in &batch.inputs {
            hash.update(sealed::bytes(x)?);
        }
        batch.labels.to_vec1::<u32>()?.iter().for_each(|label| hash.update(label.to_le_bytes()));
    }
    Ok(sealed::hex(hash))
}

/// Refuses a path where no file can be written; what is there stays.
fn writable(flag: &str, path: &Path) -> Result<()> {
    let probe = path.with_extension("probe");
    write_file(&probe, b"").with_context(|| format!("{flag} {}", path.display()))?;
    std::fs::remove_file(&probe).with_context(|| format!("can't remove {}", probe.display()))
}

/// SHA-256 of what stands in for missing modalities.
fn digest(baselines: &PerModality<Tensor>) -> Result<String> {
    let mut hash = Sha256::new();
    for baseline in baselines {
        hash.update(sealed::bytes(baseline)?);
    }
    Ok(sealed::hex(hash))
}

fn json_lines(metrics: &[EpochMetrics]) -> Result<Vec<u8>> {
    let mut lines = vec![];
    for m in metrics {
        serde_json::to_writer(&mut lines, m)?;
        lines.push(b'\n');
    }
    Ok(lines)
}
