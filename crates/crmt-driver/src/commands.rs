//! The commands: what each one reads, runs, writes and prints.
//! Does not know how anything is computed.
use crate::{
    Verdict, adversarials,
    cli::{CertifyArgs, Cli, Command, DiagnoseArgs, EvaluateArgs, ReportArgs, TrainArgs},
    corruption::Asked,
    diagnosis::{self, Diagnosis},
    lipschitz::{Bounds, Kind, audits},
    people::{self, Voice},
    plan::{EvaluatePlan, FalsifyPlan, Plan},
    predictions,
    record::Summary,
    report::{self, RunRecord},
    run::{Run, open_data, read_record},
    run_dir::{self, RunDir, write_file},
    settings::{Resolved, Settings},
    sigmas,
    tensor_file::Format,
    threat::Threat,
    tour,
};
use anyhow::{Context, Result, bail};
use crmt_data::DataSet;
use crmt_kernels::Compute;
use serde::Serialize;
use std::path::{Path, PathBuf};

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
        return tell(&[&run.summary], json, voice, &out.join(run_dir::REPORT));
    }
    let resolved = resolve(args, device)?;
    let plan = &resolved.plan;
    if args.explain {
        if json {
            people::print(&(serde_json::to_string_pretty(plan)? + "\n"))?;
        } else {
            people::print(&resolved.explain(people::width()))?;
        }
        return Ok(Verdict::Fine);
    }
    let out = args.out.clone().unwrap_or_else(|| default_out(plan));
    let run = train_and_measure(plan, &out, args.overwrite, voice)?;
    tell(&[&run.summary], json, voice, &out.join(run_dir::REPORT))
}

/// The whole of a run, from data to report.
pub fn train_and_measure(plan: &Plan, out: &Path, overwrite: bool, voice: &Voice) -> Result<Run> {
    let data = open_data(plan)?;
    introduce(plan, &data, voice);
    measured(Run::train(out, overwrite, plan, data, voice)?, voice)
}

/// The rest of a run that was stopped.
fn resume(out: &Path, device: Option<Compute>, voice: &Voice) -> Result<Run> {
    let dir = RunDir::resume(out)?;
    let mut settings = Settings::default();
    settings.read_file(&dir.file(run_dir::CONFIG))?;
    let plan = settings.resolve()?.plan;
    if let Some(device) = device.filter(|device| device.to_string() != plan.device) {
        bail!("--device {device}: the run was begun on {}, where alone its bits go on", plan.device);
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
    data.doubts().iter().for_each(|doubt| voice.say(format!("warning: {doubt}")));
}

fn measured(mut run: Run, voice: &Voice) -> Result<Run> {
    run.measure()?;
    let bounds = run.bounds(voice)?;
    run.certify(&bounds, voice)?;
    run.attack(None, voice)?;
    run.finish()?;
    Ok(run)
}

fn evaluate(args: &EvaluateArgs, device: Option<Compute>, json: bool, voice: &Voice) -> Result<Verdict> {
    // A name that says no format is refused before hours of work.
    let named = |option, file: &Option<PathBuf>, formats: &[Format]| {
        file.as_ref().map(|file| Format::of(option, file, formats)).transpose()
    };
    named("--save-predictions", &args.save_predictions, &predictions::FORMATS)?;
    named("--save-adversarials", &args.save_adversarials, &adversarials::FORMATS)?;
    let mut run = Run::open(RunDir::open(&args.run)?, args.data.as_deref(), device, &args.set)?;
    let samples = args.samples.unwrap_or(run.plan_mut().evaluate.samples);
    if args.attacks() {
        attack_settings(args, &mut run.plan_mut().evaluate);
        run.plan_mut().check()?;
    }
    if !args.corruption.is_empty() {
        run.corrupt(&Asked { names: &args.corruption, severities: &args.severity, samples }, voice)?;
    }
    if args.attacks() {
        run.attack(args.save_adversarials.as_deref(), voice)?;
    }
    if let Some(file) = &args.save_predictions {
        run.save_predictions(file)?;
    }
    run.finish()?;
    for (what, file) in [("adversarials", &args.save_adversarials), ("predictions", &args.save_predictions)] {
        file.iter().for_each(|file| voice.say(format!("{what}: {}", file.display())));
    }
    tell(&[&run.summary], json, voice, &args.run.join(run_dir::REPORT))
}

/// What was asked for wins over the run's settings, and becomes them.
fn attack_settings(args: &EvaluateArgs, settings: &mut EvaluatePlan) {
    let lists = [(&args.attack, &mut settings.attacks), (&args.threat, &mut settings.threats)];
    for (asked, setting) in lists.into_iter().filter(|(asked, _)| !asked.is_empty()) {
        setting.clone_from(asked);
    }
    if !args.eps.is_empty() {
        settings.eps.clone_from(&args.eps);
    }
    settings.samples = args.samples.unwrap_or(settings.samples);
    settings.seed = args.seed.unwrap_or(settings.seed);
    args.norm.iter().for_each(|norm| settings.norm.clone_from(norm));
    args.baseline.iter().for_each(|baseline| settings.baseline.clone_from(baseline));
}

fn certify(args: &CertifyArgs, device: Option<Compute>, json: bool, voice: &Voice) -> Result<Verdict> {
    let mut run = Run::open(RunDir::open(&args.run)?, args.data.as_deref(), device, &[])?;
    if let Some(bad) = args.eps.iter().find(|eps| !(eps.is_finite() && **eps > 0.0)) {
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
            voice.say(format!("\n{}", people::falsification(&run.summary)));
        }
    }
    run.finish()?;
    tell(&[&run.summary], json, voice, &args.run.join(run_dir::REPORT))
}

/// The run's settings with what was asked for, checked before any work. They hold for this time only: the next
/// `--falsify` attacks everything again.
fn falsification(run: &mut Run, args: &CertifyArgs) -> Result<Option<FalsifyPlan>> {
    let plan = run.plan_mut().falsify.clone();
    let plan = FalsifyPlan {
        samples: args.samples.unwrap_or(plan.samples),
        steps: args.steps.unwrap_or(plan.steps),
        threats: if args.threat.is_empty() { plan.threats } else { args.threat.clone() },
        ..plan
    };
    Plan { falsify: plan.clone(), ..run.plan_mut().clone() }.check()?;
    Threat::parse_all(&plan.threats, run.modalities())?;
    Ok(args.falsify.then_some(plan))
}

/// Smooths with the run's settings and what was asked for.
fn smooth(run: &mut Run, sigma: Option<&str>, args: &CertifyArgs, voice: &Voice) -> Result<()> {
    let asked = sigma.map(|text| sigmas::parse(text, run.modalities())).transpose()?;
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
        eprintln!("{name}\n{audit}\n");
    }
    Ok(())
}

fn diagnose(args: &DiagnoseArgs, device: Option<Compute>, json: bool, voice: &Voice) -> Result<Verdict> {
    // All are known to be runs before any of them is worked on.
    let dirs = args.runs.iter().map(|path| RunDir::open(path)).collect::<Result<Vec<_>>>()?;
    let mut records = vec![];
    for dir in dirs {
        voice.say(format!("{}:", dir.path().display()));
        let mut run = Run::open(dir.clone(), args.data.as_deref(), device, &[])?;
        run.diagnose(voice)?;
        run.finish()?;
        records.push(read_record(&dir)?);
    }
    if let Some(out) = &args.out {
        write_file(out, report::render(&records)?.as_bytes())?;
    }
    let summaries: Vec<&Summary> = records.iter().map(|r| &r.summary).collect();
    let diagnoses: Vec<&Diagnosis> = records.iter().filter_map(|r| r.diagnosis.as_ref()).collect();
    let titles = titles(&args.runs, &records);
    let text = format!("\n{}\n{}", people::modality_table(&summaries), diagnosis::table(&titles, &diagnoses));
    answer(&text, &diagnoses, json, voice)?;
    match &args.out {
        Some(out) => voice.say(format!("report: {}", out.display())),
        None => args.runs.iter().for_each(|run| voice.say(format!("report: {}", run.join(run_dir::REPORT).display()))),
    }
    verdict(&summaries)
}

/// What runs go by in a comparison: their methods, or their directories where methods repeat.
fn titles(paths: &[PathBuf], records: &[RunRecord]) -> Vec<String> {
    let mut methods: Vec<&str> = records.iter().map(|r| r.summary.method.as_str()).collect();
    methods.sort_unstable();
    methods.dedup();
    let title = |(path, record): (&PathBuf, &RunRecord)| match methods.len() == records.len() {
        true => record.summary.method.clone(),
        false => path.file_name().map_or_else(|| path.display().to_string(), |name| name.to_string_lossy().into()),
    };
    paths.iter().zip(records).map(title).collect()
}

fn write_report(args: &ReportArgs, json: bool, voice: &Voice) -> Result<Verdict> {
    let runs = args.runs.iter().map(|path| read_record(&RunDir::open(path)?)).collect::<Result<Vec<_>>>()?;
    let out = args.out.clone().unwrap_or_else(|| args.runs[0].join(run_dir::REPORT));
    write_file(&out, report::render(&runs)?.as_bytes())?;
    tell(&runs.iter().map(|r| &r.summary).collect::<Vec<_>>(), json, voice, &out)
}

/// Prints results to stdout, and where the report is; decides how the program ends.
pub fn tell(runs: &[&Summary], json: bool, voice: &Voice, report: &Path) -> Result<Verdict> {
    let smoothed = people::smoothed(runs).map_or_else(String::new, |table| format!("\n{table}"));
    let corrupted = people::corruptions(runs).map_or_else(String::new, |table| format!("\n{table}"));
    let missing = people::baselines(runs).map_or_else(String::new, |table| format!("\n{table}"));
    let modalities = people::modality_table(runs);
    let attacks = people::attacks(runs).map_or_else(String::new, |table| format!("\n{table}"));
    let text = format!("\n{modalities}{missing}{attacks}\n{}{corrupted}{smoothed}", people::sandwich(runs));
    answer(&text, runs, json, voice)?;
    for (run, warning) in runs.iter().flat_map(|r| r.warnings.iter().map(move |w| (&r.method, w))) {
        voice.say(format!("warning: {run}: {warning}"));
    }
    voice.say(format!("report: {}", report.display()));
    verdict(runs)
}

/// People's text on stdout, or one JSON document of all `runs` there and the text on stderr.
fn answer<T: Serialize>(text: &str, runs: &[T], json: bool, voice: &Voice) -> Result<()> {
    if !json {
        return people::print(&format!("{text}\n"));
    }
    voice.say(text);
    let document = match runs {
        [run] => serde_json::to_string_pretty(run)?,
        _ => serde_json::to_string_pretty(runs)?,
    };
    people::print(&(document + "\n"))
}

/// A violation is a failed check.
fn verdict(runs: &[&Summary]) -> Result<Verdict> {
    let violations: u64 = runs.iter().map(|r| r.violations).sum();
    for judged in runs.iter().filter_map(|r| r.smoothing.as_ref()?.judged.as_ref()).filter(|j| j.violations > 0) {
        eprintln!(
            "error: {} of {} certificates of the smoothed network fell, which chance does less than once in a million runs",
            judged.fell, judged.samples
        );
    }
    if violations > 0 {
        eprintln!("error: {violations} attacks succeeded inside a certified radius: this is a bug of this program");
        return Ok(Verdict::Broken);
    }
    Ok(Verdict::Fine)
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
            settings.set(key, value, format!("--{}", key.rsplit('.').next().unwrap_or(key)));
        }
    };
    flag("data", args.data.clone().map(Into::into));
    flag("method", args.method.clone().map(Into::into));
    flag("device", device.map(|device| device.to_string().into()));
    flag("train.precision", args.precision.map(|precision| precision.to_string().into()));
    let seed = args.seed.map(i64::try_from).transpose().context("--seed: at most 9223372036854775807")?;
    flag("seed", seed.map(Into::into));
    settings.resolve()
}

fn default_out(plan: &Plan) -> PathBuf {
    let data = Path::new(&plan.data).file_name().map_or_else(|| "data".into(), |name| name.to_string_lossy());
    let modalities: String = plan.modalities.iter().map(|name| format!("-{name}")).collect();
    Path::new("runs").join(format!("{data}{modalities}-{}-s{}", plan.method, plan.seed))
}
