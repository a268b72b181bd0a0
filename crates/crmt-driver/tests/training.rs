//! Training as a user meets it: every method runs, a killed run goes on and ends in the same bits,
//! and what it can't go on from is refused by name.
use assert_cmd::Command;
use rand::{Rng, SeedableRng, rngs::StdRng};
use serde_json::Value;
use std::{
    fs,
    path::{Path, PathBuf},
    process::Stdio,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

type Anyhow = anyhow::Result<()>;

/// Small enough for seconds; every stage runs.
const TINY: &[&str] = &[
    "synthetic.train=200",
    "synthetic.select=40",
    "synthetic.report=40",
    "model.encoder=mlp",
    "model.mlp_width=16",
    "model.features=12",
    "train.epochs=3",
    "train.batch=20",
    "select.samples=20",
    "select.steps=2",
    "step2.samples=60",
    "step2.batch=20",
    "step2.epochs=2",
    "step2.accept_samples=20",
    "certify.evidence=estimated",
    "certify.samples=40",
    "evaluate.samples=10",
    "evaluate.steps=2",
    "evaluate.check_samples=0",
];

fn arguments<'a>(method: &'a str, out: &'a str, settings: &[&'a str]) -> Vec<&'a str> {
    let mut all = vec!["train", "--method", method, "--out", out];
    all.extend(TINY.iter().chain(settings).flat_map(|s| ["--set", s]));
    all
}

fn driver(dir: &Path) -> Command {
    let mut command = Command::cargo_bin("crmt-driver").expect("the driver is built");
    command.current_dir(dir).arg("-q");
    command
}

/// Exit status 2 and one message on stderr that contains every part.
fn refused(command: &mut Command, parts: &[&str]) {
    let output = command.assert().code(2).get_output().clone();
    let message = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(message.matches("error:").count(), 1, "{message}");
    for part in parts {
        assert!(message.contains(part), "`{part}` is not in: {message}");
    }
}

/// The lines of a run's metrics, without the time they took.
fn metrics(run: &Path) -> anyhow::Result<Vec<Value>> {
    let lines = fs::read_to_string(run.join("metrics.jsonl"))?;
    let line = |text: &str| {
        let mut value: Value = serde_json::from_str(text)?;
        value.as_object_mut().expect("an object").remove("seconds");
        Ok(value)
    };
    lines.lines().map(line).collect()
}

fn checkpoints(run: &Path) -> Vec<PathBuf> {
    let entries =
        fs::read_dir(run.join("checkpoints")).map(|dir| dir.flatten().map(|e| e.path()).collect());
    let mut all: Vec<PathBuf> = entries.unwrap_or_default();
    all.retain(|path| path.extension().is_some_and(|e| e == "safetensors"));
    all.sort();
    all
}

/// Starts it, and kills it (SIGKILL) after so long. Whether it had ended by itself.
fn killed(dir: &Path, args: &[&str], after: Duration) -> anyhow::Result<bool> {
    let mut child = std::process::Command::new(assert_cmd::cargo::cargo_bin("crmt-driver"))
        .current_dir(dir)
        .arg("-q")
        .args(args)
        .stdout(Stdio::null())
        .spawn()?;
    std::thread::sleep(after);
    child.kill()?;
    Ok(child.wait()?.success())
}

/// Twenty times at random moments, under a method whose strategy has a state of its own and whose
/// second step follows.
#[test]
fn a_run_that_was_killed_again_and_again_ends_in_the_same_bits() -> Anyhow {
    let dir = tempfile::tempdir()?;
    let settings = [
        "train.checkpoint_seconds=0",
        "train.average=0.9",
        "train.epochs=8",
        "train.accumulate=2",
        "train.inputs=adversarial",
        "adversary.steps=1",
        "model.head=orthonormal",
        "step2.enabled=true",
        "pmr.samples=60",
    ];
    let method = "pmr";
    let start = Instant::now();
    driver(dir.path())
        .args(arguments(method, "whole", &settings))
        .assert()
        .success();
    let whole = start.elapsed();
    let run = dir.path().join("cut");
    let seed = SystemTime::now().duration_since(UNIX_EPOCH)?.subsec_nanos();
    let mut rng = StdRng::seed_from_u64(seed.into());
    let again = arguments(method, "cut", &settings);
    let mut kills = 0;
    while kills < 20 {
        // Of the time that a whole run takes, however slow the machine is now.
        let mut moment = || whole.mul_f64(rng.random_range(0.0..0.6));
        let mut ended = killed(
            dir.path(),
            &[&again[..], &["--overwrite"]].concat(),
            moment(),
        )?;
        // Complete is what has its summary, even if it was killed after that.
        let complete = || run.join("summary.json").exists();
        while !ended && !complete() && kills < 20 {
            kills += 1;
            // A run without a config has not begun.
            let begun = run.join("config.toml").exists();
            let args = if begun {
                vec!["train", "--resume", "cut"]
            } else {
                again.clone()
            };
            println!(
                "seed {seed}, kill {kills}: {:?}",
                checkpoints(&run).last().and_then(|path| path.file_name())
            );
            ended = killed(dir.path(), &args, moment())?;
        }
        if !complete() {
            driver(dir.path())
                .args(["train", "--resume", "cut"])
                .assert()
                .success();
        }
        for file in ["model.safetensors", "samples.csv"] {
            let same = fs::read(run.join(file))? == fs::read(dir.path().join("whole").join(file))?;
            assert!(same, "{file}, seed {seed}, {kills} kills");
        }
        assert_eq!(
            metrics(&run)?,
            metrics(&dir.path().join("whole"))?,
            "seed {seed}, {kills} kills"
        );
    }
    refused(
        driver(dir.path()).args(["train", "--resume", "cut"]),
        &["cut is complete"],
    );
    Ok(())
}

/// Kills a run once it has kept something.
fn half(dir: &Path, method: &str, out: &str, settings: &[&str]) -> anyhow::Result<PathBuf> {
    let run = dir.join(out);
    let endless = [
        settings,
        &["train.checkpoint_seconds=0", "train.epochs=100000"],
    ]
    .concat();
    let mut child = std::process::Command::new(assert_cmd::cargo::cargo_bin("crmt-driver"))
        .current_dir(dir)
        .arg("-q")
        .args(arguments(method, out, &endless))
        .spawn()?;
    while checkpoints(&run).len() < 2 {
        assert!(
            child.try_wait()?.is_none(),
            "it ended before it kept a state"
        );
        std::thread::sleep(Duration::from_millis(2));
    }
    child.kill()?;
    child.wait()?;
    Ok(run)
}

#[test]
fn what_a_run_cannot_go_on_from_is_refused_by_name() -> Anyhow {
    let dir = tempfile::tempdir()?;
    let here = dir.path();
    refused(
        driver(here).args(["train", "--resume", "none"]),
        &["no run to go on with in none"],
    );
    let run = half(here, "jt", "r", &[])?;
    let resume = || {
        let mut command = driver(here);
        command.args(["train", "--resume", "r"]);
        command
    };
    // A live run is left alone.
    let lock = fs::File::create(run.join("lock"))?;
    lock.lock()?;
    refused(&mut resume(), &["r is in use by another process"]);
    drop(lock);
    // Nothing is lost by starting the same run again by mistake.
    refused(
        driver(here).args(arguments("jt", "r", &[])),
        &["train --resume r", "--overwrite"],
    );
    let last = checkpoints(&run).pop().expect("two");
    assert!(checkpoints(&run).len() <= 2, "the last two are kept");
    let name = last
        .file_name()
        .expect("a file")
        .to_string_lossy()
        .into_owned();
    let good = fs::read(&last)?;
    let mut bent = good.clone();
    *bent.last_mut().expect("not empty") ^= 1;
    for bad in [&good[..good.len() / 2], &[][..], &bent] {
        fs::write(&last, bad)?;
        refused(&mut resume(), &[&name, "remove"]);
    }
    // Another model's state, and one under other settings.
    let other = half(here, "crmt-step-1", "o", &["model.features=14"])?;
    fs::copy(checkpoints(&other).pop().expect("two"), &last)?;
    refused(
        &mut resume(),
        &[&name, "of another run: ", " there, ", " here"],
    );
    fs::write(&last, &good)?;
    let config = fs::read_to_string(run.join("config.toml"))?;
    fs::write(
        run.join("config.toml"),
        config.replace("seed = 0", "seed = 1"),
    )?;
    refused(&mut resume(), &[&name, "seed = 0 there, 1 here"]);
    refused(
        driver(here).args(["train", "--resume", "r", "--seed", "1"]),
        &["--resume", "--seed"],
    );
    Ok(())
}

#[test]
fn methods_with_settings_of_their_own_train_and_are_recorded() -> Anyhow {
    let dir = tempfile::tempdir()?;
    let own: &[(&str, &[&str])] = &[
        ("g-blend", &["g_blend.every=1", "g_blend.samples=40"]),
        ("ogm-ge", &[]),
        ("pmr", &["pmr.samples=200"]),
        ("msefm", &["model.memory=8"]),
        ("dropout", &[]),
        (
            "at",
            &[
                "adversary.threat=each",
                "adversary.norm=linf",
                "adversary.eps=0.1",
                "adversary.budgets.audio=0.2",
            ],
        ),
        (
            "crmt-at",
            &[
                "adversary.rule=as-released",
                "adversary.statistics=as-released",
                "model.batch_norm=true",
                "step2.rival=as-released",
                "step2.statistics=as-released",
                "model.head=unit-rows",
                "select.split=as-released",
            ],
        ),
    ];
    for (method, settings) in own
        .iter()
        .chain([&("crmt-mix", &["train.mixed_margin=as-released"] as &[&str])])
    {
        let settings = [
            *settings,
            &[
                "train.linear_warmup=0.2",
                "train.schedule=cosine",
                "select.criterion=attacked",
            ],
        ];
        driver(dir.path())
            .args(arguments(method, method, &settings.concat()))
            .assert()
            .success();
        let run = dir.path().join(method);
        let metrics = metrics(&run)?;
        let first = &metrics[0];
        assert!(
            first["select_attacked"]
                .as_f64()
                .is_some_and(|a| (0.0..=1.0).contains(&a)),
            "{method}: {first}"
        );
        for key in ["margins", "gradient_norms"] {
            if (key, *method) == ("margins", "crmt-mix") {
                // Mixed samples have no label of their own.
                assert_eq!(first[key], serde_json::json!({}));
                continue;
            }
            assert!(
                first[key]["image"].is_f64() && first[key]["audio"].is_f64(),
                "{method}: {first}"
            );
        }
        let events = fs::read_dir(run.join("tensorboard"))?
            .flatten()
            .next()
            .expect("an event file")
            .path();
        assert!(
            fs::metadata(events)?.len() > 100 * metrics.len() as u64,
            "{method}"
        );
        assert!(
            !run.join("checkpoints").exists(),
            "a complete run needs none"
        );
        let summary = fs::read_to_string(run.join("summary.json"))?;
        let optimistic = summary.contains("the best epoch is chosen on the report split");
        assert_eq!(
            optimistic,
            settings.concat().contains(&"select.split=as-released"),
            "{method}"
        );
    }
    let refuse = |settings: &[&str], parts: &[&str]| {
        refused(
            driver(dir.path()).args(arguments("at", "x", settings)),
            parts,
        )
    };
    refuse(
        &["adversary.threat=video"],
        &["adversary.threat", "joint, each, image, audio"],
    );
    refuse(
        &["adversary.norm=linf"],
        &["adversary.norm", "adversary.threat"],
    );
    refuse(
        &["adversary.budgets.video=1", "adversary.threat=each"],
        &["adversary.budgets.video"],
    );
    refuse(&["select.criterion=certified"], &["select.criterion"]);
    refuse(&["train.accumulate=0"], &["train.accumulate"]);
    refuse(
        &["adversary.budgets.audio=1"],
        &["adversary.budgets", "adversary.threat"],
    );
    refuse(
        &["adversary.threat=audio", "adversary.budgets.audio=0"],
        &["adversary.budgets.audio = 0"],
    );
    refuse(
        &["train.checkpoint_seconds=inf"],
        &["train.checkpoint_seconds", "expected a number"],
    );
    refuse(&["train.loaders=100000"], &["train.loaders"]);
    refused(
        driver(dir.path()).args([
            "train",
            "--method",
            "crmt-certified",
            "--out",
            "x",
            "--set",
            "model.memory=8",
        ]),
        &["1-Lipschitz", "model.memory"],
    );
    assert!(
        !dir.path().join("x").exists(),
        "refused before anything is written"
    );
    Ok(())
}

/// Early stopping and the number of loading threads, through the settings.
#[test]
fn loaders_change_no_bit_and_patience_stops() -> Anyhow {
    let dir = tempfile::tempdir()?;
    let weights = |loaders: &str| -> anyhow::Result<Vec<u8>> {
        let setting = format!("train.loaders={loaders}");
        driver(dir.path())
            .args(arguments("jt", loaders, &[&setting]))
            .assert()
            .success();
        Ok(fs::read(
            dir.path().join(loaders).join("model.safetensors"),
        )?)
    };
    let one = weights("1")?;
    for loaders in ["0", "2", "16"] {
        assert!(weights(loaders)? == one, "{loaders} threads");
    }
    // Steps that change no prediction: the first epoch is the best, and two more are waited for.
    let settings = [
        "train.epochs=40",
        "train.patience=2",
        "train.learning_rate=1e-12",
        "train.schedule=constant",
    ];
    driver(dir.path())
        .args(arguments("jt", "patient", &settings))
        .assert()
        .success();
    assert_eq!(metrics(&dir.path().join("patient"))?.len(), 3);
    Ok(())
}
