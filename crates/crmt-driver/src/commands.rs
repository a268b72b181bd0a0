//! The commands: what each one reads, runs, writes and prints.
//! Does not know how anything is computed.
use crate::{
    adversarials,
    cli::{CertifyArgs, Cli, Command, DiagnoseArgs, EvaluateArgs, ReportArgs, TrainArgs},
    comparison,
    corruption::Asked,
    diagnosis::{self, Diagnosis},
    figure_files::FigureFiles,
    lipschitz::{Bounds, Kind, audits},
    people::{self, Voice},
    pipeline::{resume, train_and_measure},
    plan::{EvaluatePlan, FalsifyPlan, Plan},
    predictions,
    printing::{answer, named, tell, verdict},
    report::{self, RunRecord},
    run::{Opening, Run},
    run_dir::{self, RunDir, write_file},
    settings::{Resolved, Settings},
    sigmas, tables,
    tensor_file::Format,
    terminal,
    threat::Threat,
    tour,
    verdict::Verdict,
};
use anyhow::{Context, Result, bail};
use crmt_kernels::Compute;
use std::{
    cell::Cell,
    path::{Path, PathBuf},
};

/// Carries out what the command line asks for.
pub fn run(cli: Cli) -> Result<Verdict> {
    let voice = Voice::new(cli.quiet);
    match cli.command {
        None => tour::run(cli.device, cli.json, &voice),
        Some(Command::Train(args)) => train(&args, cli.device, cli.json, &voice),
        Some(Command::Evaluate(args)) => evaluate(&args, cli.device, cli.json, &voice),
        Some(Command::Certify(args)) => certify(&args, cli.device, cli.json, &voice),
        Some(Command::Diagnose(args)) => diagnose(&args, cli.device, cli.json, &voice),
        Some(Command::Report(args)) => write_report(&args, cli.json, &voice),
    }
}

fn train(args: &TrainArgs, device: Option<Compute>, json: bool, voice: &Voice) -> Result<Verdict> {
    if let Some(out) = &args.resume {
        let run = resume(out, device, voice)?;
        return tell(
            &[(&run.summary.name(), &run.summary)],
            json,
            voice,
            &out.join(run_dir::REPORT),
        );
    }
    let resolved = resolve(args, device)?;
    let plan = &resolved.plan;
    if args.explain {
        if json {
            terminal::out_json(&(serde_json::to_string_pretty(plan)? + "\n"))?;
        } else {
            terminal::out(&resolved.explain(people::width()))?;
        }
        return Ok(Verdict::Fine);
    }
    let out = args.out.clone().unwrap_or_else(|| default_out(plan));
    let run = train_and_measure(plan, &out, args.overwrite, voice)?;
    tell(
        &[(&run.summary.name(), &run.summary)],
        json,
        voice,
        &out.join(run_dir::REPORT),
    )
}

fn evaluate(
    args: &EvaluateArgs,
    device: Option<Compute>,
    json: bool,
    voice: &Voice,
) -> Result<Verdict> {
    // A name that says no format is refused before hours of work.
    let named = |option, file: &Option<PathBuf>, formats: &[Format]| {
        file.as_ref()
            .map(|file| Format::of(option, file, formats))
            .transpose()
    };
    named(
        "--save-predictions",
        &args.save_predictions,
        &predictions::FORMATS,
    )?;
    named(
        "--save-adversarials",
        &args.save_adversarials,
        &adversarials::FORMATS,
    )?;
    let remade: &[_] = if args.attacks() {
        &[run_dir::EXAMPLES]
    } else {
        &[]
    };
    let how = Opening {
        data: args.data.as_deref(),
        device,
        settings: &args.set,
        remade,
    };
    let mut run = Run::open(RunDir::open(&args.run, "evaluate")?, &how, voice)?;
    let samples = args.samples.unwrap_or(run.plan_mut().evaluate.samples);
    if args.attacks() {
        attack_settings(args, &mut run.plan_mut().evaluate);
        run.plan_mut().check()?;
    }
    if !args.corruption.is_empty() {
        run.corrupt(
            &Asked {
                names: &args.corruption,
                severities: &args.severity,
                samples,
            },
            voice,
        )?;
    }
    if args.attacks() {
        run.attack(args.save_adversarials.as_deref(), voice)?;
    }
    if let Some(file) = &args.save_predictions {
        run.save_predictions(file)?;
    }
    run.finish()?;
    for (what, file) in [
        ("adversarials", &args.save_adversarials),
        ("predictions", &args.save_predictions),
    ] {
        file.iter()
            .for_each(|file| voice.say(format!("{what}: {}", file.display())));
    }
    tell(
        &[(&run.summary.name(), &run.summary)],
        json,
        voice,
        &args.run.join(run_dir::REPORT),
    )
}

/// What was asked for wins over the run's settings, and becomes them.
fn attack_settings(args: &EvaluateArgs, settings: &mut EvaluatePlan) {
    let lists = [
        (&args.attack, &mut settings.attacks),
        (&args.threat, &mut settings.threats),
    ];
    for (asked, setting) in lists.into_iter().filter(|(asked, _)| !asked.is_empty()) {
        setting.clone_from(asked);
    }
    if !args.eps.is_empty() {
        settings.eps.clone_from(&args.eps);
    }
    settings.samples = args.samples.unwrap_or(settings.samples);
    settings.seed = args.seed.unwrap_or(settings.seed);
    args.norm
        .iter()
        .for_each(|norm| settings.norm.clone_from(norm));
    args.precision
        .iter()
        .for_each(|precision| settings.precision.clone_from(precision));
    args.baseline
        .iter()
        .for_each(|baseline| settings.baseline.clone_from(baseline));
}

fn certify(
    args: &CertifyArgs,
    device: Option<Compute>,
    json: bool,
    voice: &Voice,
) -> Result<Verdict> {
    let remade: &[_] = if args.smooth.is_some() {
        &[run_dir::SMOOTHED]
    } else {
        &[
            run_dir::SAMPLES,
            run_dir::DIAGNOSIS,
            run_dir::DIAGNOSIS_SAMPLES,
        ]
    };
    let how = Opening {
        data: args.data.as_deref(),
        device,
        remade,
        ..Opening::default()
    };
    let mut run = Run::open(RunDir::open(&args.run, "certify")?, &how, voice)?;
    if let Some(bad) = args
        .eps
        .iter()
        .find(|eps| !(eps.is_finite() && **eps > 0.0))
    {
        bail!("--eps {bad}: budgets are positive numbers");
    }
    if args.samples.is_some() && !args.falsify && args.smooth.is_none() {
        bail!("--samples: radii are of all report samples; it is for --falsify and --smooth");
    }
    if let Some(evidence) = &args.evidence {
        run.plan_mut().certify.evidence.clone_from(evidence);
        run.plan_mut().check()?;
    }
    if let Some(program) = &args.program {
        run.plan_mut().certify.program.clone_from(program);
        run.plan_mut().check()?;
    }
    if !args.eps.is_empty() {
        run.plan_mut().certify.eps.clone_from(&args.eps);
    }
    if let Some(sigma) = &args.smooth {
        smooth(&mut run, sigma.as_deref(), args, voice)?;
    } else {
        let falsify = falsification(&mut run, args)?;
        let bounds = run.bounds(voice)?;
        if args.audit {
            audit(&run, &bounds)?;
        }
        run.certify(&bounds, voice)?;
        if let Some(plan) = falsify {
            run.falsify(&bounds, &plan, voice)?;
            voice.say(format!("\n{}", tables::falsification(&run.summary)));
        }
    }
    run.finish()?;
    tell(
        &[(&run.summary.name(), &run.summary)],
        json,
        voice,
        &args.run.join(run_dir::REPORT),
    )
}

/// The run's settings with what was asked for, checked before any work. They hold for this time
/// only: the next `--falsify` attacks everything again.
fn falsification(run: &mut Run, args: &CertifyArgs) -> Result<Option<FalsifyPlan>> {
    let plan = run.plan_mut().falsify.clone();
    let plan = FalsifyPlan {
        samples: args.samples.unwrap_or(plan.samples),
        steps: args.steps.unwrap_or(plan.steps),
        threats: if args.threat.is_empty() {
            plan.threats
        } else {
            args.threat.clone()
        },
        ..plan
    };
    Plan {
        falsify: plan.clone(),
        ..run.plan_mut().clone()
    }
    .check()?;
    Threat::parse_all(&plan.threats, run.modalities())?;
    Ok(args.falsify.then_some(plan))
}

/// Smooths with the run's settings and what was asked for.
fn smooth(run: &mut Run, sigma: Option<&str>, args: &CertifyArgs, voice: &Voice) -> Result<()> {
    let asked = sigma
        .map(|text| sigmas::parse(text, run.modalities()))
        .transpose()?;
    let plan = &mut run.plan_mut().smooth;
    if let Some((all, named)) = asked {
        plan.sigma = all.unwrap_or(plan.sigma);
        plan.sigmas = named;
    }
    plan.draws = args.draws.unwrap_or(plan.draws);
    plan.selection_draws = args.selection_draws.unwrap_or(plan.selection_draws);
    plan.alpha = args.alpha.unwrap_or(plan.alpha);
    plan.samples = args.samples.unwrap_or(plan.samples);
    plan.missing = args.missing.unwrap_or(plan.missing);
    run.plan_mut().check()?;
    run.smooth(args.attack, voice)
}

/// Prints the bound of every layer, whatever evidence the run's radii use.
fn audit(run: &Run, bounds: &Bounds) -> Result<()> {
    let own;
    let audits = match &bounds.kind {
        Kind::Proved(audits) => audits,
        Kind::Estimated(_) => {
            own = audits(&bounds.model, run.architecture())?;
            &own
        }
    };
    for (name, audit) in run.modalities().iter().zip(audits) {
        terminal::err(&format!("{name}\n{audit}\n"));
    }
    Ok(())
}

fn diagnose(
    args: &DiagnoseArgs,
    device: Option<Compute>,
    json: bool,
    voice: &Voice,
) -> Result<Verdict> {
    // All are known to be runs before any of them is worked on.
    args.out
        .iter()
        .try_for_each(|out| run_dir::check_file("--out", out))?;
    let dirs = comparison::open(&args.runs, &|path| RunDir::open(path, "diagnose"), voice)?;
    for dir in &dirs {
        voice.say(format!("{}:", dir.path().display()));
        let remade = &[run_dir::DIAGNOSIS, run_dir::DIAGNOSIS_SAMPLES];
        let how = Opening {
            data: args.data.as_deref(),
            device,
            remade,
            ..Opening::default()
        };
        let mut run = Run::open(dir.clone(), &how, voice)?;
        run.diagnose(voice)?;
        run.finish()?;
    }
    let records = comparison::read(&dirs)?;
    warn_of_different_data(&records, voice);
    if let Some(out) = &args.out {
        write_file(out, report::render(&records)?.as_bytes())?;
    }
    let names = comparison::names_of(&records);
    let diagnoses: Vec<&Diagnosis> = records
        .iter()
        .filter_map(|r| r.diagnosis.as_ref())
        .collect();
    let told = named(&names, &records);
    let text = format!(
        "\n{}\n{}",
        tables::modality_table(&told),
        diagnosis::table(&names, &diagnoses)
    );
    answer(&text, &diagnoses, json, voice)?;
    match &args.out {
        Some(out) => voice.say(format!("report: {}", out.display())),
        None => dirs
            .iter()
            .for_each(|dir| voice.say(format!("report: {}", dir.file(run_dir::REPORT).display()))),
    }
    verdict(&told)
}

/// Numbers on different data stand side by side only where that is said.
fn warn_of_different_data(runs: &[RunRecord], voice: &Voice) {
    if !report::comparable(runs) {
        voice.say("warning: these runs used different data: their numbers do not compare");
    }
}

fn write_report(args: &ReportArgs, json: bool, voice: &Voice) -> Result<Verdict> {
    args.out
        .iter()
        .try_for_each(|out| run_dir::check_file("--out", out))?;
    // The run that is written to is for this command alone; others are only looked at.
    let (first, alone) = (Cell::new(true), args.runs.len() == 1);
    let place = |path: &Path| std::fs::canonicalize(path).ok();
    let open = |path: &Path| {
        let written = args.out.is_none()
            && first.replace(false)
            && (!alone || place(path) == place(&args.runs[0]));
        if written {
            RunDir::open(path, "report")
        } else {
            RunDir::look(path)
        }
    };
    let dirs = comparison::open(&args.runs, &open, voice)?;
    let records = comparison::read(&dirs)?;
    warn_of_different_data(&records, voice);
    // Of a folder of runs beside them, else in the first run.
    let place = if args.runs.len() == 1 {
        &args.runs[0]
    } else {
        dirs[0].path()
    };
    let out = args
        .out
        .clone()
        .unwrap_or_else(|| place.join(run_dir::REPORT));
    let figures = args
        .figures
        .as_ref()
        .map(|folder| FigureFiles::prepare(folder, &report::figures(&records)?));
    let figures = figures.transpose()?;
    write_file(&out, report::render(&records)?.as_bytes())?;
    if let (Some(files), Some(folder)) = (figures, &args.figures) {
        voice.say(format!(
            "figures: {} as .svg and .png in {}",
            files.write()?,
            folder.display()
        ));
    }
    tell(
        &named(&comparison::names_of(&records), &records),
        json,
        voice,
        &out,
    )
}

fn resolve(args: &TrainArgs, device: Option<Compute>) -> Result<Resolved> {
    let mut settings = Settings::default();
    if let Some(path) = &args.config {
        settings.read_file(path)?;
    }
    for assignment in &args.set {
        settings.read_assignment(assignment)?;
    }
    let mut flag = |key: &str, value: Option<toml::Value>| {
        if let Some(value) = value {
            settings.set(
                key,
                value,
                format!("--{}", key.rsplit('.').next().unwrap_or(key)),
            );
        }
    };
    flag("data", args.data.clone().map(Into::into));
    flag("method", args.method.clone().map(Into::into));
    flag("device", device.map(|device| device.to_string().into()));
    flag(
        "train.precision",
        args.precision.map(|precision| precision.to_string().into()),
    );
    let seed = args
        .seed
        .map(i64::try_from)
        .transpose()
        .context("--seed: at most 9223372036854775807")?;
    flag("seed", seed.map(Into::into));
    settings.resolve()
}

fn default_out(plan: &Plan) -> PathBuf {
    let data = Path::new(&plan.data)
        .file_name()
        .map_or_else(|| "data".into(), |name| name.to_string_lossy());
    let modalities: String = plan
        .modalities
        .iter()
        .map(|name| format!("-{name}"))
        .collect();
    Path::new("runs").join(format!("{data}{modalities}-{}-s{}", plan.method, plan.seed))
}
