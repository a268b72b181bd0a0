//! The whole of a run, from data to report: trained, certified, attacked, written.
//! Does not know the command line.
use crate::{
    people::Voice,
    plan::Plan,
    run::{Run, open_data},
    run_dir::{self, RunDir},
    settings::Settings,
};
use anyhow::{Result, bail};
use crmt_data::DataSet;
use crmt_kernels::Compute;
use std::path::Path;

/// The whole of a run, from data to report.
pub fn train_and_measure(plan: &Plan, out: &Path, overwrite: bool, voice: &Voice) -> Result<Run> {
    RunDir::check_new(out, overwrite)?;
    let data = open_data(plan)?;
    introduce(plan, &data, voice);
    measured(Run::train(out, overwrite, plan, data, voice)?, voice)
}

/// The rest of a run that was stopped.
pub fn resume(out: &Path, device: Option<Compute>, voice: &Voice) -> Result<Run> {
    let dir = RunDir::resume(out)?;
    let mut settings = Settings::default();
    settings.read_file(&dir.file(run_dir::CONFIG))?;
    let plan = settings.resolve()?.plan;
    if let Some(device) = device.filter(|device| device.to_string() != plan.device) {
        bail!(
            "--device {device}: the run was begun on {}, where alone its bits go on",
            plan.device
        );
    }
    let data = open_data(&plan)?;
    introduce(&plan, &data, voice);
    measured(Run::resume(dir, &plan, data, voice)?, voice)
}

fn introduce(plan: &Plan, data: &DataSet, voice: &Voice) {
    voice.say(format!(
        "{} on {}: {} training, {} selection, {} report samples; seed {}",
        plan.method,
        data.name,
        data.train.len(),
        data.select.len(),
        data.report.len(),
        plan.seed
    ));
    data.doubts()
        .iter()
        .for_each(|doubt| voice.say(format!("warning: {doubt}")));
}

fn measured(mut run: Run, voice: &Voice) -> Result<Run> {
    run.measure()?;
    let bounds = run.bounds(voice)?;
    run.certify(&bounds, voice)?;
    run.attack(None, voice)?;
    run.finish()?;
    Ok(run)
}
