//! A run as files: read if all of them belong together, confronted with what attacks found, and
//! written as one. Does not know how anything is measured.
use super::state::{DOUBT, Run, open_data};
use crate::{
    certification,
    checkpoint::{self, Checkpoint},
    checkpoints::Checkpoints,
    diagnosis::{self, Diagnosis},
    digests,
    drawn::order,
    examples::{self, Example},
    partial::Parts,
    people::Voice,
    plan::Plan,
    record::{EpochMetrics, Falsification, Summary},
    report::{self, RunRecord},
    results,
    run_dir::{self, RunDir},
    sample_row::SampleRow,
    samples,
    settings::Settings,
};
use anyhow::{Context, Result, bail};
use crmt_data::DataSet;
use crmt_kernels::Compute;
use std::{collections::BTreeMap, fs, time::Duration};

const BEATEN: &str = "fell to an attack inside their estimated radius";

/// How a run is opened: what wins over what it was trained with, and what is made again anyway.
#[derive(Default)]
pub struct Opening<'a> {
    /// The data set, in the place of the one that it was trained on.
    pub data: Option<&'a str>,
    /// Where tensors are.
    pub device: Option<Compute>,
    /// `key=value`: settings of what is measured.
    pub settings: &'a [String],
    /// Files that the command makes again: that they were altered is no reason to refuse it.
    pub remade: &'a [&'static str],
}

impl Run {
    /// Reads a finished run.
    ///
    /// # Errors
    /// A file that was altered, or is of another time than the others; data other than those that
    /// it was made from.
    pub fn open(dir: RunDir, how: &Opening, voice: &Voice) -> Result<Self> {
        let mut summary = results::summary(&dir)?;
        let mut lost = vec![];
        for name in results::names() {
            if let Err(e) = results::check(&dir, &summary, name) {
                if !how.remade.contains(&name) {
                    return Err(e);
                }
                voice.say(format!(
                    "  {name} was altered or is missing: it is made again"
                ));
                lost.push(name);
            }
        }
        let plan = plan(&dir, how)?;
        let checkpoint = checkpoint::load(&dir.file(run_dir::MODEL))?;
        check_model(&dir, &summary, &checkpoint)?;
        let data = open_data(&plan)?;
        check_data(&dir, &summary, &checkpoint, &plan, &data)?;
        let known = Measured::read(&dir, &mut summary, &lost, voice)?;
        if !known.rows.is_empty() && known.rows.len() != data.report.len() {
            bail!(
                "{} has {} rows, the report split of `{}` has {}",
                run_dir::SAMPLES,
                known.rows.len(),
                data.name,
                data.report.len()
            );
        }
        Ok(Self {
            dir,
            plan,
            data,
            architecture: checkpoint.architecture,
            weights: checkpoint.weights,
            summary,
            rows: known.rows,
            examples: known.examples,
            smoothed: None,
            diagnosis: known.diagnosis,
            attacked: false,
            train_known: false,
        })
    }

    /// Refuses a training split that is not the one that the model was trained on, where a result
    /// depends on it.
    pub(super) fn check_training_split(&self, why: &str) -> Result<()> {
        if !self.train_known && digests::of_split(&self.data.train) != self.summary.train_sha256 {
            bail!(
                "the training split of `{}` ({}) is not the data that {} was trained on, and {why}: restore it, name the \
                 original with --data, or train a run anew",
                self.data.name,
                self.plan.data,
                self.dir.path().display()
            );
        }
        Ok(())
    }

    /// Confronts radii with attacks, and writes the results as one; then what was kept of a stopped
    /// training or evaluation can go. The report is made last, from what is written.
    ///
    /// # Errors
    /// What can't be written. Where it is the report alone, the results are complete.
    pub fn finish(&mut self) -> Result<()> {
        self.confront();
        let files = self.files()?;
        let mut gone: Vec<&str> = vec![
            run_dir::EXAMPLES,
            run_dir::DIAGNOSIS,
            run_dir::DIAGNOSIS_SAMPLES,
        ];
        gone.retain(|name| !files.contains_key(name));
        if self.summary.smoothing.is_none() {
            gone.push(run_dir::SMOOTHED);
        }
        // It is known that there will be a report before anything is written.
        report::render(&[self.record()?])?;
        results::commit(&self.dir, &mut self.summary, &files, &gone)?;
        Checkpoints::remove(&self.dir)?;
        if self.attacked {
            Parts::remove(&self.dir, run_dir::PARTS)?;
        }
        let page = report::render(&[self.record()?])?;
        self.dir.write(run_dir::REPORT, page.as_bytes()).with_context(|| {
            let run = self.dir.path().display();
            format!("the results in {run} are complete, only their report is not: `report {run}` makes it again")
        })
    }

    /// What radii are worth after the attacks: fractions, violations, warnings.
    fn confront(&mut self) {
        // The evidence of a radius stands beside it.
        let evidence = certification::evidence(&self.rows);
        let mut eps: Vec<f64> = self
            .summary
            .attacks
            .iter()
            .map(|a| a.eps)
            .chain(self.plan.certify.eps.iter().copied())
            .collect();
        eps.sort_by(f64::total_cmp);
        eps.dedup();
        self.summary.certified = certification::certified(&self.rows, &eps);
        let beaten = certification::beaten(&self.rows);
        // Of radii that are no longer told.
        self.summary
            .falsification
            .retain(|f| f.evidence == evidence);
        self.summary.warnings.retain(|w| !w.contains(BEATEN));
        self.summary.violations = 0;
        if evidence == "estimated" {
            let warn = |(threat, n): (&String, &u64)| {
                format!("{threat}: {n} samples {BEATEN}: estimates are not certificates")
            };
            self.summary.warnings.extend(beaten.iter().map(warn));
            let disproved = self
                .summary
                .falsification
                .iter()
                .filter(|f| f.violations > 0);
            let warn = |f: &Falsification| {
                format!(
                    "{}: {} of {} samples {BEATEN}",
                    f.certificate, f.violations, f.samples
                )
            };
            self.summary.warnings.extend(disproved.map(warn));
        } else {
            let falsified: u64 = self
                .summary
                .falsification
                .iter()
                .map(|f| f.violations)
                .sum();
            self.summary.violations = beaten.values().sum::<u64>() + falsified;
        }
        let judged = self
            .summary
            .smoothing
            .as_ref()
            .and_then(|s| s.judged.as_ref());
        self.summary.violations += judged.map_or(0, |judged| judged.violations);
        for (place, i) in order(self.rows.len(), &self.streams())
            .into_iter()
            .enumerate()
        {
            self.rows[i].drawn = place as u64;
        }
        self.summary.seconds = self.summary.stages.values().sum();
        tracing::debug!(stages = ?self.summary.stages, "seconds");
    }

    /// Every file of the results but the summary.
    fn files(&self) -> Result<BTreeMap<&'static str, Vec<u8>>> {
        let metrics = self.dir.file(run_dir::METRICS);
        let mut files = BTreeMap::from([
            (run_dir::CONFIG, toml::to_string(&self.plan)?.into_bytes()),
            (
                run_dir::METRICS,
                fs::read(&metrics).with_context(|| format!("can't read {}", metrics.display()))?,
            ),
            (run_dir::SAMPLES, samples::to_csv(&self.rows)?),
        ]);
        if !self.examples.is_empty() {
            files.insert(run_dir::EXAMPLES, examples::to_bytes(&self.examples)?);
        }
        files.extend(
            self.smoothed
                .iter()
                .map(|csv| (run_dir::SMOOTHED, csv.clone())),
        );
        if let Some(diagnosis) = &self.diagnosis {
            files.insert(run_dir::DIAGNOSIS, diagnosis::to_json(diagnosis)?);
            files.insert(run_dir::DIAGNOSIS_SAMPLES, diagnosis::to_csv(diagnosis)?);
        }
        Ok(files)
    }

    /// What the report is made of.
    fn record(&self) -> Result<RunRecord> {
        Ok(RunRecord {
            title: self.summary.title(),
            directory: self.dir.path().to_owned(),
            summary: self.summary.clone(),
            metrics: read_metrics(&self.dir)?,
            config: toml::to_string(&self.plan)?,
            samples: self.rows.clone(),
            examples: self.examples.clone(),
            diagnosis: self.diagnosis.clone(),
        })
    }
}

/// The run's settings, and what was asked for.
fn plan(dir: &RunDir, how: &Opening) -> Result<Plan> {
    let config = dir.file(run_dir::CONFIG);
    // As if typed: a setting that is younger than the run has its default.
    let mut settings = Settings::default();
    settings.read_file(&config)?;
    let mut plan = settings
        .resolve()
        .with_context(|| format!("{} is not of this version", config.display()))?
        .plan;
    if !how.settings.is_empty() {
        if let Some(fixed) = how
            .settings
            .iter()
            .find(|a| !a.trim_start().starts_with("evaluate."))
        {
            bail!("--set {fixed}: the model is trained; only settings of evaluate can be changed");
        }
        how.settings
            .iter()
            .try_for_each(|assignment| settings.read_assignment(assignment))?;
        plan = settings.resolve()?.plan;
    }
    if let Some(data) = how.data {
        plan.data = data.to_owned();
    }
    if let Some(device) = how.device {
        plan.device = device.to_string();
    }
    Ok(plan)
}

fn check_model(dir: &RunDir, summary: &Summary, model: &Checkpoint) -> Result<()> {
    let path = dir.file(run_dir::MODEL);
    if summary.weights != model.hash {
        bail!(
            "{} and {} are of different models",
            run_dir::SUMMARY,
            path.display()
        );
    }
    if !model
        .architecture
        .modalities
        .iter()
        .map(|m| &m.name)
        .eq(&summary.modalities)
    {
        bail!(
            "{} names other modalities than {}, or in another order",
            run_dir::SUMMARY,
            path.display()
        );
    }
    if model.architecture.classes != summary.classes {
        bail!(
            "{} names other classes than {}, or in another order",
            run_dir::SUMMARY,
            path.display()
        );
    }
    Ok(())
}

/// Refuses data that the run's results are not about.
fn check_data(
    dir: &RunDir,
    summary: &Summary,
    model: &Checkpoint,
    plan: &Plan,
    data: &DataSet,
) -> Result<()> {
    let (run, name, path) = (dir.path().display(), &data.name, &plan.data);
    if model.architecture.modalities()? != data.modalities
        || model.architecture.classes != data.classes
    {
        bail!("the model of {run} was trained on other modalities or classes than `{name}` has");
    }
    if summary.baselines_sha256 != digests::of_baselines(&data.baselines)? {
        bail!(
            "what `{name}` ({path}) puts in the place of missing modalities is not what {run} was measured with: restore \
             `baseline` in its dataset.toml, or train a run anew"
        );
    }
    if summary.report_sha256 != digests::of_report(data)? {
        bail!(
            "the report split of `{name}` ({path}) is not the one that {run} was measured on: train a run on it, or name \
             the original with --data"
        );
    }
    Ok(())
}

/// What was measured, beside the summary.
struct Measured {
    rows: Vec<SampleRow>,
    examples: Vec<Example>,
    diagnosis: Option<Diagnosis>,
}

impl Measured {
    /// Without the files that are `lost`, and without what they held.
    fn read(dir: &RunDir, summary: &mut Summary, lost: &[&str], voice: &Voice) -> Result<Self> {
        let whole = |name: &str| results::has(summary, name) && !lost.contains(&name);
        let samples = dir.file(run_dir::SAMPLES);
        let mut known = Self {
            rows: if whole(run_dir::SAMPLES) {
                samples::read(&samples, summary.classes.len())?
            } else {
                vec![]
            },
            examples: if whole(run_dir::EXAMPLES) {
                examples::read(&dir.file(run_dir::EXAMPLES))?
            } else {
                vec![]
            },
            diagnosis: None,
        };
        if whole(run_dir::DIAGNOSIS) && whole(run_dir::DIAGNOSIS_SAMPLES) {
            known.diagnosis = diagnosis::read(dir, &summary.weights)?;
        }
        if known.rows.is_empty() {
            if !summary.attacks.is_empty() {
                voice.say(format!(
                    "warning: what attacks did to each sample is lost: `evaluate {}` attacks again",
                    dir.path().display()
                ));
            }
            (summary.attacks, summary.nearest) = (vec![], vec![]);
            summary.warnings.retain(|w| !w.starts_with(DOUBT));
            (known.examples, known.diagnosis) = (vec![], None);
        } else if let Some(other) = summary
            .radii
            .iter()
            .find(|r| r.evidence != certification::evidence(&known.rows))
        {
            bail!(
                "{} calls its radii {}, {} calls them {}: `certify {}` computes them again",
                run_dir::SUMMARY,
                other.evidence,
                samples.display(),
                certification::evidence(&known.rows),
                dir.path().display()
            );
        }
        Ok(known)
    }
}

/// A finished run, as the report needs it; neither its data nor its weights are read.
pub fn read_record(dir: &RunDir) -> Result<RunRecord> {
    /// Beside another command that writes results right now, each time from the beginning.
    const TRIES: usize = 20;
    let mut tries = if dir.is_locked() { 1 } else { TRIES };
    loop {
        tries -= 1;
        match read_once(dir) {
            Err(_) if tries > 0 => std::thread::sleep(Duration::from_millis(100)),
            record => return record,
        }
    }
}

fn read_once(dir: &RunDir) -> Result<RunRecord> {
    let mut summary = results::summary(dir)?;
    results::names().try_for_each(|name| results::check(dir, &summary, name))?;
    let known = Measured::read(dir, &mut summary, &[], &Voice::new(true))?;
    let record = RunRecord {
        title: summary.title(),
        directory: dir.path().to_owned(),
        diagnosis: known.diagnosis,
        metrics: read_metrics(dir)?,
        config: dir.read(run_dir::CONFIG)?,
        samples: known.rows,
        examples: known.examples,
        summary,
    };
    if !dir.is_locked() && results::summary(dir)?.sha256 != record.summary.sha256 {
        bail!("{} changes while it is read", dir.path().display());
    }
    Ok(record)
}

/// The record of training.
pub(super) fn read_metrics(dir: &RunDir) -> Result<Vec<EpochMetrics>> {
    let path = dir.file(run_dir::METRICS);
    let text = dir.read(run_dir::METRICS)?;
    let parse = |(i, line): (usize, &str)| {
        serde_json::from_str(line).with_context(|| format!("{}, line {}", path.display(), i + 1))
    };
    text.lines().enumerate().map(parse).collect()
}
