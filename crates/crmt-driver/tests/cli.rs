//! The program as a user meets it: what a run leaves, what errors say, that bits repeat.
use assert_cmd::Command;
use crmt_data::{
    Array, DataSet, Manifest, ModalitySpec, Pairing, PreparedCorruption, Samples, write_dataset,
};
use serde_json::Value;
use std::{fs, path::Path};

#[path = "cli/diagnose.rs"]
mod diagnose;
#[path = "cli/doubts.rs"]
mod doubts;
#[path = "cli/drawn.rs"]
mod drawn;
#[path = "cli/extremes.rs"]
mod extremes;
#[path = "cli/python.rs"]
mod python;
#[path = "cli/report.rs"]
mod report;
#[path = "cli/results.rs"]
mod results;
#[path = "cli/safety.rs"]
mod safety;
#[path = "cli/shapes.rs"]
mod shapes;

type Anyhow = anyhow::Result<()>;

/// Small enough for seconds; every stage runs.
const TINY: &[&str] = &[
    "synthetic.train=200",
    "synthetic.select=60",
    "synthetic.report=60",
    "model.features=16",
    "model.cnn_width=4",
    "train.epochs=2",
    "train.batch=20",
    "step2.samples=60",
    "step2.batch=20",
    "step2.epochs=2",
    "step2.accept_samples=20",
    "certify.samples=40",
    "evaluate.samples=20",
    "evaluate.steps=5",
    "falsify.steps=5",
    "falsify.rays=1",
    "falsify.tightness_samples=4",
];

fn driver(dir: &Path) -> Command {
    let mut command = Command::cargo_bin("crmt-driver").expect("the driver is built");
    command.current_dir(dir);
    command
}

fn train<'a>(
    dir: &Path,
    method: &str,
    out: &str,
    settings: impl IntoIterator<Item = &'a str>,
) -> Command {
    let mut command = driver(dir);
    command.args(["train", "--method", method, "--out", out]);
    for s in TINY.iter().copied().chain(settings) {
        command.args(["--set", s]);
    }
    command
}

fn json(path: impl AsRef<Path>) -> anyhow::Result<Value> {
    Ok(serde_json::from_str(&fs::read_to_string(path)?)?)
}

/// Exit status 2 and one message on stderr that contains every part.
fn refused(command: &mut Command, parts: &[&str]) {
    let output = command.assert().code(2).get_output().clone();
    let message = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(message.matches("error:").count(), 1, "{message}");
    for part in parts {
        assert!(message.contains(part), "`{part}` is not in: {message}");
    }
    assert!(!message.contains("panicked"), "{message}");
}

#[test]
fn a_run_has_everything_it_should() -> Anyhow {
    let dir = tempfile::tempdir()?;
    let run = dir.path().join("r");
    let output = train(dir.path(), "crmt-jt", "r", [])
        .arg("--json")
        .assert()
        .success()
        .get_output()
        .stdout
        .clone();
    let summary = json(run.join("summary.json"))?;
    assert_eq!(
        serde_json::from_slice::<Value>(&output)?,
        summary,
        "stdout is the summary and nothing else"
    );
    assert_eq!(
        (&summary["method"], &summary["data"], &summary["seed"]),
        (&"crmt-jt".into(), &"synthetic".into(), &0.into())
    );
    assert_eq!(summary["violations"], 0);
    for key in ["image", "audio"] {
        assert!(summary["accuracy"]["missing"][key].is_f64(), "{summary}");
    }
    // The sandwich's left side holds by construction.
    let attacks = summary["attacks"].as_array().unwrap();
    assert_eq!(
        attacks.len(),
        3 * 3 * 2,
        "three threats, three names, two budgets"
    );
    for a in attacks {
        assert!(a["accuracy"].as_f64() <= a["clean"].as_f64(), "{a}");
        let strongest = attacks.iter().find(|s| {
            s["name"] == "strongest" && s["threat"] == a["threat"] && s["eps"] == a["eps"]
        });
        assert!(
            strongest.unwrap()["accuracy"].as_f64() <= a["accuracy"].as_f64(),
            "{a}"
        );
    }
    for c in summary["certified"].as_array().unwrap() {
        assert_eq!(
            c["evidence"], "estimated",
            "a CNN has no useful proved constant"
        );
    }
    let metrics = fs::read_to_string(run.join("metrics.jsonl"))?;
    let phases: Vec<Value> = metrics
        .lines()
        .map(|l| serde_json::from_str::<Value>(l).unwrap()["phase"].clone())
        .collect();
    assert_eq!(phases, ["step-1", "step-1", "step-2", "step-2"]);
    let samples = fs::read_to_string(run.join("samples.csv"))?;
    assert_eq!(samples.lines().count(), 61);
    let header =
        "sample,label,prediction,drawn,margin,margin.without-audio,margin.without-image,radius.";
    assert!(samples.starts_with(header), "{}", &samples[..100]);
    assert!(fs::read_to_string(run.join("report.html"))?.contains("CRMT-JT"));
    // The resolved plan gives the same run again.
    let config = run.join("config.toml");
    driver(dir.path())
        .arg("train")
        .arg("--config")
        .arg(config)
        .args(["--out", "again", "-q"])
        .assert()
        .success();
    assert_eq!(
        json(dir.path().join("again/summary.json"))?["weights"],
        summary["weights"]
    );
    Ok(())
}

#[test]
fn the_number_of_threads_changes_no_bit() -> Anyhow {
    let dir = tempfile::tempdir()?;
    let run = |threads: &str| -> anyhow::Result<(Vec<Value>, Value)> {
        let out = format!("t{threads}");
        train(dir.path(), "crmt-at", &out, ["adversary.steps=2"])
            .env("RAYON_NUM_THREADS", threads)
            .assert()
            .success();
        let text = fs::read_to_string(dir.path().join(&out).join("metrics.jsonl"))?;
        let lines = text.lines().map(|line| {
            let mut line: Value = serde_json::from_str(line)?;
            line.as_object_mut().unwrap().remove("seconds");
            Ok(line)
        });
        Ok((
            lines.collect::<anyhow::Result<_>>()?,
            json(dir.path().join(out).join("summary.json"))?,
        ))
    };
    let ((one, first), (two, second)) = (run("1")?, run("2")?);
    assert_eq!(one, two);
    for key in ["weights", "attacks", "radii", "certified", "accuracy"] {
        assert_eq!(first[key], second[key], "{key}");
    }
    Ok(())
}

#[test]
fn an_mlp_is_certified_and_no_attack_breaks_it() -> Anyhow {
    let dir = tempfile::tempdir()?;
    let settings = [
        "model.encoder=linear",
        "evaluate.eps=0.02,0.05,0.2,1",
        "evaluate.samples=60",
        "train.epochs=4",
    ];
    train(dir.path(), "jt", "r", settings).assert().success();
    let summary = json(dir.path().join("r/summary.json"))?;
    assert_eq!(summary["violations"], 0);
    let certified = summary["certified"].as_array().unwrap();
    assert!(certified.iter().all(|c| c["evidence"] == "proved"));
    let at = |eps: f64| {
        certified
            .iter()
            .find(|c| c["threat"] == "joint" && c["eps"] == eps)
            .unwrap()
    };
    assert!(
        at(0.02)["accuracy"].as_f64() > Some(0.0),
        "a linear model's radius is its distance to the boundary"
    );
    for a in summary["attacks"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|a| a["name"] == "strongest")
    {
        let c = certified
            .iter()
            .find(|c| c["threat"] == a["threat"] && c["eps"] == a["eps"])
            .unwrap();
        assert!(
            c["attacked_samples"].as_f64() <= a["accuracy"].as_f64(),
            "{a} {c}"
        );
    }
    // Other budgets later, on the stored model: the radii stay, the attacks change.
    let mut evaluate = driver(dir.path());
    evaluate.args([
        "evaluate",
        "r",
        "--eps",
        "0.1",
        "--samples",
        "30",
        "--threat",
        "each,audio",
        "--norm",
        "linf",
    ]);
    evaluate.assert().success();
    let again = json(dir.path().join("r/summary.json"))?;
    assert_eq!(again["radii"], summary["radii"]);
    let names: Vec<_> = again["attacks"]
        .as_array()
        .unwrap()
        .iter()
        .map(|a| (&a["threat"], &a["norm"]))
        .collect();
    assert_eq!(names.len(), 6);
    assert!(
        names
            .iter()
            .all(|(t, n)| (*t == "each" || *t == "audio") && *n == "linf")
    );
    driver(dir.path())
        .args(["certify", "r", "--eps", "0.03", "--audit"])
        .assert()
        .success();
    let certified = json(dir.path().join("r/summary.json"))?["certified"].clone();
    assert!(
        certified
            .as_array()
            .unwrap()
            .iter()
            .any(|c| c["eps"] == 0.03),
        "{certified}"
    );
    driver(dir.path())
        .args(["report", "r", "r", "--out", "both.html"])
        .assert()
        .success();
    assert!(dir.path().join("both.html").exists());
    Ok(())
}

/// Three modalities of plain features, two classes told apart by the first feature of each.
fn features(dir: &Path, rows: usize) -> anyhow::Result<()> {
    let names = ["left", "middle", "right"];
    let manifest = Manifest::new(
        "features",
        ["no", "yes"],
        names.map(|n| ModalitySpec::new(n, &[3])).to_vec(),
    );
    let samples = || -> anyhow::Result<Samples> {
        let labels: Vec<u32> = (0..rows as u32).map(|i| i % 2).collect();
        let array = |m: usize| {
            let value = |i: usize, d: usize| {
                let sign = if i.is_multiple_of(2) { -1.0 } else { 1.0 };
                if d == 0 {
                    sign
                } else {
                    ((i * 7 + d * 3 + m) % 5) as f32 * 0.1
                }
            };
            Array::floats(
                &[3],
                (0..rows)
                    .flat_map(|i| (0..3).map(move |d| value(i, d)))
                    .collect(),
            )
        };
        let arrays = (0..3).map(array).collect::<Result<Vec<_>, _>>()?;
        Ok(Samples {
            arrays,
            pairing: Pairing::Rows { labels },
        })
    };
    let data = DataSet::new(manifest, samples()?, samples()?, samples()?)?;
    write_dataset(&data, dir, false)?;
    Ok(())
}

#[test]
fn any_number_of_modalities_and_ones_own_features() -> Anyhow {
    let dir = tempfile::tempdir()?;
    features(&dir.path().join("f"), 80)?;
    train(
        dir.path(),
        "crmt-jt",
        "r",
        ["data=f", "model.mlp_width=16", "model.encoders.left=linear"],
    )
    .assert()
    .success();
    let summary = json(dir.path().join("r/summary.json"))?;
    assert_eq!(
        summary["modalities"],
        serde_json::json!(["left", "middle", "right"])
    );
    assert_eq!(
        summary["accuracy"]["missing"].as_object().unwrap().len(),
        6,
        "every proper subset"
    );
    assert_eq!(
        summary["accuracy"]["clean"], 1.0,
        "the classes are far apart"
    );
    assert_eq!(summary["violations"], 0);
    refused(
        &mut train(dir.path(), "jt", "x", ["data=f", "model.encoders.up=mlp"]),
        &["model.encoders.up", "left, middle, right"],
    );
    refused(
        &mut train(dir.path(), "jt", "x", ["data=f", "model.encoder=cnn"]),
        &["left", "mlp"],
    );
    assert!(!dir.path().join("x/summary.json").exists());
    Ok(())
}

#[test]
fn any_subset_may_be_missing_and_anything_in_its_place() -> Anyhow {
    let dir = tempfile::tempdir()?;
    features(&dir.path().join("f"), 80)?;
    let settings = [
        "data=f",
        "model.encoder=linear",
        "train.epochs=1",
        "falsify.samples=10",
    ];
    train(dir.path(), "jt", "r", settings).assert().success();
    let run = |args: &[&str]| -> anyhow::Result<Value> {
        let output = driver(dir.path())
            .args(args)
            .arg("--json")
            .assert()
            .success()
            .get_output()
            .stdout
            .clone();
        Ok(serde_json::from_slice(&output)?)
    };
    let evaluate = |more: &[&str]| {
        let args = [
            "evaluate",
            "r",
            "--eps",
            "0.1",
            "--threat",
            "without-right+left,any-missing,joint",
        ];
        run(&[&args[..], more].concat())
    };
    let threats = |summary: &Value| -> Vec<String> {
        let strongest = summary["attacks"]
            .as_array()
            .unwrap()
            .iter()
            .filter(|a| a["name"] == "strongest");
        strongest
            .map(|a| a["threat"].as_str().unwrap().to_owned())
            .collect()
    };
    // By one name, whatever the order, and with a radius of its own.
    let declared = evaluate(&[])?;
    assert_eq!(
        threats(&declared),
        ["joint", "without-left+right", "any-missing"]
    );
    assert_eq!(declared["violations"], 0);
    assert!(declared["accuracy"]["missing_by_baseline"].is_null());
    let told = |summary: &Value, key: &str| {
        summary[key]
            .as_array()
            .unwrap()
            .iter()
            .filter(|c| c["threat"] == "without-left+right")
            .count()
    };
    assert_eq!(
        (told(&declared, "radii"), told(&declared, "certified")),
        (1, 1)
    );
    let falsified = run(&[
        "certify",
        "r",
        "--falsify",
        "--threat",
        "without-left+right",
    ])?;
    let found = &falsified["falsification"][0];
    assert_eq!(
        (&found["certificate"], &found["violations"]),
        (&"without-left+right".into(), &0.into())
    );
    // With anything else in its place it is another threat, which no radius is about.
    let learned = evaluate(&["--baseline", "learned"])?;
    assert_eq!(
        threats(&learned),
        ["joint", "without-left+right@learned", "any-missing@learned"]
    );
    assert_eq!(
        (&learned["violations"], &learned["radii"]),
        (&0.into(), &declared["radii"])
    );
    assert_eq!(
        learned["accuracy"]["missing"],
        declared["accuracy"]["missing"]
    );
    let table = learned["accuracy"]["missing_by_baseline"]["learned"].clone();
    assert_eq!(table.as_object().unwrap().len(), 6, "every proper subset");
    // What was measured stays; zeros are what these data declare.
    let zeros = evaluate(&["--baseline", "zeros"])?["accuracy"].clone();
    assert_eq!(
        (
            &zeros["missing_by_baseline"]["learned"],
            &zeros["missing_by_baseline"]["zeros"]
        ),
        (&table, &zeros["missing"])
    );
    assert!(
        fs::read_to_string(dir.path().join("r/report.html"))?
            .contains("In the place of what is missing")
    );
    let refusal = |args: &[&str], parts: &[&str]| {
        refused(driver(dir.path()).args(["evaluate", "r"]).args(args), parts)
    };
    refusal(
        &["--threat", "without-left+middle+right"],
        &["without-left+middle+right", "without-left+middle and so on"],
    );
    refusal(
        &["--baseline", "ones"],
        &["evaluate.baseline", "ones", "learned"],
    );
    Ok(())
}

#[test]
fn corruptions_are_measured_without_attacking_again() -> Anyhow {
    let dir = tempfile::tempdir()?;
    features(&dir.path().join("f"), 80)?;
    // What the owner prepared: the sign of the telling feature is lost, and with it the class.
    let data = DataSet::open(dir.path().join("f"))?;
    let lost = vec![Array::floats(&[3], vec![0.0; 240])?; 2];
    let lost = PreparedCorruption {
        modality: "left".into(),
        name: "lost".into(),
        severities: lost,
    };
    write_dataset(
        &data.with_corruptions(vec![lost])?,
        dir.path().join("f"),
        true,
    )?;
    train(dir.path(), "jt", "r", ["data=f", "model.encoder=linear"])
        .assert()
        .success();
    let before = json(dir.path().join("r/summary.json"))?;
    assert_eq!(before["corruptions"], serde_json::json!([]));
    let evaluate = |more: &[&str]| -> anyhow::Result<Value> {
        let mut command = driver(dir.path());
        let output = command
            .args(["evaluate", "r", "--json"])
            .args(more)
            .assert()
            .success()
            .get_output()
            .clone();
        let told = String::from_utf8(output.stderr)?;
        // Words wrap within a narrow column.
        assert!(
            told.contains("contrast") || !more.contains(&"all"),
            "{told}"
        );
        Ok(serde_json::from_slice(&output.stdout)?)
    };
    let summary = evaluate(&["--corruption", "all"])?;
    assert_eq!(
        (&summary["attacks"], &summary["radii"]),
        (&before["attacks"], &before["radii"])
    );
    let results = summary["corruptions"].as_array().unwrap();
    // Features have no time: noise, occlusion and contrast remain; and two severities of what was
    // prepared.
    assert_eq!(results.len(), 3 * 3 * 5 + 2);
    for r in results {
        assert_eq!(
            (&r["samples"], &r["clean"]),
            (&20.into(), &1.0.into()),
            "{r}"
        );
        let accuracy = r["accuracy"].as_f64().unwrap();
        assert!((0.0..=1.0).contains(&accuracy), "{r}");
    }
    let again = evaluate(&["--corruption", "all"])?;
    assert_eq!(
        again["corruptions"], summary["corruptions"],
        "the same seed gives the same draws"
    );
    assert!(fs::read_to_string(dir.path().join("r/report.html"))?.contains("Common corruptions"));
    // Fewer samples see the same draws, and the settings of attacks stay.
    let few = evaluate(&[
        "--corruption",
        "lost,contrast",
        "--severity",
        "2,4",
        "--samples",
        "7",
    ])?;
    let told: Vec<_> = few["corruptions"]
        .as_array()
        .unwrap()
        .iter()
        .map(|r| (r["name"].as_str(), r["severity"].as_u64()))
        .collect();
    assert_eq!(
        told[..3],
        [
            (Some("contrast"), Some(2)),
            (Some("contrast"), Some(4)),
            (Some("lost"), Some(2))
        ]
    );
    assert_eq!(told.len(), 3 * 2 + 1);
    assert!(fs::read_to_string(dir.path().join("r/config.toml"))?.contains("samples = 20\n"));
    // With a setting of attacks, both.
    let both = evaluate(&["--corruption", "contrast", "--eps", "0.3"])?;
    assert!(
        both["attacks"]
            .as_array()
            .unwrap()
            .iter()
            .all(|a| a["eps"] == 0.3)
    );
    assert_eq!(both["corruptions"].as_array().unwrap().len(), 15);
    let wrong = |more: &[&str], parts: &[&str]| {
        refused(driver(dir.path()).args(["evaluate", "r"]).args(more), parts)
    };
    wrong(
        &["--corruption", "fog"],
        &["`fog`", "gaussian-noise", "lost"],
    );
    wrong(
        &["--corruption", "blur"],
        &["`blur` applies to no modality", "left [3]"],
    );
    wrong(&["--corruption", "all", "--severity", "6"], &["6"]);
    wrong(&["--severity", "1"], &["--corruption"]);
    Ok(())
}

#[test]
fn bad_input_gets_one_clear_message_and_leaves_nothing() -> Anyhow {
    let dir = tempfile::tempdir()?;
    let here = dir.path();
    refused(
        &mut train(here, "jt", "x", ["train.epoch=1"]),
        &["train.epoch", "did you mean `train.epochs`"],
    );
    refused(
        &mut train(here, "jtt", "x", []),
        &["method", "jtt", "crmt-jt"],
    );
    refused(&mut train(here, "jt", "x", ["data=nowhere"]), &["nowhere"]);
    #[cfg(not(feature = "cuda"))]
    refused(
        &mut train(here, "jt", "x", ["device=cuda:1"]),
        &["cuda:1", "built without CUDA", "--features cuda,cudnn"],
    );
    refused(
        &mut train(here, "jt", "x", ["device=gpu"]),
        &["device: unknown device 'gpu'", "cuda:N"],
    );
    refused(
        driver(here).args(["evaluate", "r", "--device", "tpu"]),
        &["--device", "unknown device 'tpu'"],
    );
    refused(
        driver(here).args(["train", "--precision", "fp8"]),
        &["--precision", "f32, tf32 or bf16"],
    );
    refused(
        &mut train(here, "jt", "x", ["train.precision=fp8"]),
        &["train.precision", "one of tf32, f32, bf16"],
    );
    refused(
        &mut train(here, "jt", "x", ["train.weight_decay=inf"]),
        &["train.weight_decay", "from 0 to 1000"],
    );
    refused(
        &mut train(here, "jt", "x", ["train.learning_rate=1e6", "train.clip=0"]),
        &["step-1", "learning rate"],
    );
    refused(
        driver(here).args(["train", "--config", "no.toml"]),
        &["no.toml"],
    );
    refused(driver(here).args(["evaluate", "no-run"]), &["no-run"]);
    refused(driver(here).args(["train", "--bogus"]), &["--bogus"]);
    // A path below a file can't be created, whoever asks.
    fs::write(here.join("file"), "")?;
    refused(&mut train(here, "jt", "file/run", []), &["file/run"]);
    assert!(!here.join("x/summary.json").exists());

    features(&here.join("f"), 40)?;
    let report = here.join("f/report.left.npy");
    let good = fs::read(&report)?;
    let own_features = || train(here, "jt", "y", ["data=f"]);
    let mut nan = good.clone();
    let at = nan.len() - 12;
    nan[at..at + 4].copy_from_slice(&f32::NAN.to_le_bytes());
    for (bytes, parts) in [
        (&nan[..], ["report.left.npy", "NaN"]),
        (&good[..good.len() - 5], ["report.left.npy", ""]),
    ] {
        // The digest would notice first; a user's own set has none.
        let toml = fs::read_to_string(here.join("f/dataset.toml"))?;
        fs::write(
            here.join("f/dataset.toml"),
            toml.split("[sha256]").next().unwrap(),
        )?;
        fs::write(&report, bytes)?;
        refused(&mut own_features(), &parts);
    }
    // One row of three f32 less, in the header and in the data.
    let mut short = good[..good.len() - 12].to_vec();
    let at = short
        .windows(7)
        .position(|w| w == b"(40, 3,")
        .expect("the shape is in the header");
    short[at..at + 7].copy_from_slice(b"(39, 3,");
    fs::write(&report, short)?;
    refused(&mut own_features(), &["report.left.npy", "39", "40"]);
    assert!(
        !here.join("y").exists(),
        "nothing is created before the data are read"
    );
    Ok(())
}

#[test]
fn a_run_is_neither_overwritten_nor_read_when_altered() -> Anyhow {
    let dir = tempfile::tempdir()?;
    let tiny = || {
        train(
            dir.path(),
            "jt",
            "r",
            ["model.encoder=linear", "train.epochs=1"],
        )
    };
    tiny().assert().success();
    refused(&mut tiny(), &["--overwrite"]);
    tiny().arg("--overwrite").assert().success();
    let model = dir.path().join("r/model.safetensors");
    let good = fs::read(&model)?;
    let mut altered = good.clone();
    *altered.last_mut().unwrap() ^= 1;
    fs::write(&model, altered)?;
    refused(
        driver(dir.path()).args(["evaluate", "r"]),
        &["model.safetensors", "hash"],
    );
    fs::write(&model, &good[..good.len() / 2])?;
    refused(
        driver(dir.path()).args(["certify", "r"]),
        &["model.safetensors"],
    );
    Ok(())
}

#[test]
fn a_run_is_not_mixed_with_other_data() -> Anyhow {
    let dir = tempfile::tempdir()?;
    features(&dir.path().join("f"), 40)?;
    features(&dir.path().join("moved"), 40)?;
    features(&dir.path().join("other"), 44)?;
    let settings = ["data=f", "model.encoder=linear", "train.epochs=1"];
    train(dir.path(), "jt", "r", settings).assert().success();
    let evaluate = |data: &str| {
        let mut command = driver(dir.path());
        command.args(["evaluate", "r", "--eps", "0.1", "--data", data]);
        command
    };
    evaluate("moved").assert().success();
    let before = fs::read(dir.path().join("r/samples.csv"))?;
    refused(&mut evaluate("other"), &["report split", "other"]);
    assert_eq!(fs::read(dir.path().join("r/samples.csv"))?, before);
    // What was asked for last is what the config says.
    assert!(fs::read_to_string(dir.path().join("r/config.toml"))?.contains("eps = [0.1]"));
    // A wrong threat is refused before a finished run is replaced.
    let wrong = ["data=f", "model.encoder=linear", "evaluate.threats=up"];
    refused(
        train(dir.path(), "jt", "r", wrong).arg("--overwrite"),
        &["threat `up`", "left, middle, right"],
    );
    assert!(dir.path().join("r/summary.json").exists());
    Ok(())
}

#[test]
fn infinite_radii_can_be_read_back() -> Anyhow {
    let dir = tempfile::tempdir()?;
    // The released constants of one modality are exactly 0: its claimed radius is infinite.
    train(dir.path(), "jt", "r", ["certify.lipschitz=as-released"])
        .assert()
        .success();
    let radii = json(dir.path().join("r/summary.json"))?["radii"].clone();
    assert!(radii.to_string().contains("\"inf\""), "{radii}");
    assert!(
        radii
            .as_array()
            .unwrap()
            .iter()
            .all(|r| r["evidence"] == "estimated")
    );
    driver(dir.path())
        .args(["report", "r", "--out", "r.html"])
        .assert()
        .success();
    fs::write(dir.path().join("r/samples.csv"), b"not samples")?;
    refused(
        driver(dir.path()).args(["report", "r"]),
        &[
            "samples.csv",
            "altered",
            "`certify r` computes the radii again",
        ],
    );
    Ok(())
}

#[test]
fn certified_training_gives_certificates_that_hold() -> Anyhow {
    let dir = tempfile::tempdir()?;
    let settings = [
        "model.lipschitz_width=4",
        "model.lipschitz_hidden=16",
        "train.epochs=6",
        "evaluate.eps=0.05,0.2",
        "evaluate.samples=60",
        "certified.modality_dropout=0.2",
    ];
    train(dir.path(), "crmt-certified", "r", settings)
        .assert()
        .success();
    let summary = json(dir.path().join("r/summary.json"))?;
    assert_eq!(summary["violations"], 0);
    let certified = summary["certified"].as_array().unwrap();
    assert!(certified.iter().all(|c| c["evidence"] == "proved"));
    let joint = certified
        .iter()
        .find(|c| c["threat"] == "joint" && c["eps"] == 0.05)
        .unwrap();
    assert!(joint["accuracy"].as_f64() > Some(0.0), "{joint}");

    // Every kind of certificate, attacked strictly inside.
    let stdout = |command: &mut Command| -> anyhow::Result<Value> {
        Ok(serde_json::from_slice(
            &command.arg("--json").assert().success().get_output().stdout,
        )?)
    };
    let summary =
        stdout(driver(dir.path()).args(["certify", "r", "--falsify", "--samples", "10"]))?;
    let kinds = summary["falsification"].as_array().unwrap();
    let names: Vec<_> = kinds
        .iter()
        .map(|f| f["certificate"].as_str().unwrap())
        .collect();
    let expected = [
        "joint",
        "image",
        "audio",
        "each",
        "without-image",
        "without-audio",
        "any-missing",
        "optimal split",
    ];
    assert!(
        expected.iter().all(|name| names.contains(name)),
        "{names:?}"
    );
    assert_eq!(
        names.iter().filter(|n| n.starts_with("ray ")).count(),
        1,
        "{names:?}"
    );
    assert!(kinds[0]["samples"].as_u64() > Some(0), "{kinds:?}");
    assert!(
        kinds
            .iter()
            .all(|f| f["violations"] == 0 && f["evidence"] == "proved"),
        "{kinds:?}"
    );
    let page = fs::read_to_string(dir.path().join("r/report.html"))?;
    assert!(page.contains("Certificates under attack") && page.contains("Violations: 0."));

    let few = [
        "certify",
        "r",
        "--falsify",
        "--samples",
        "5",
        "--steps",
        "3",
        "--threat",
        "audio,any-missing",
    ];
    let summary = stdout(driver(dir.path()).args(few))?;
    let again: Vec<_> = summary["falsification"]
        .as_array()
        .unwrap()
        .iter()
        .map(|f| &f["certificate"])
        .collect();
    // The radii are the same to the last bit, so what is known of the other kinds stays.
    assert_eq!(
        (&again[..2], again.len()),
        (&[&"audio".into(), &"any-missing".into()][..], names.len())
    );
    refused(
        driver(dir.path()).args(["certify", "r", "--falsify", "--threat", "up"]),
        &["threat `up`"],
    );

    // Certificates for missing modalities are confronted with attacks on what is left.
    let threats = "joint,each,without-audio,any-missing";
    let summary =
        stdout(driver(dir.path()).args(["evaluate", "r", "--eps", "0.1", "--threat", threats]))?;
    assert_eq!(summary["violations"], 0);
    let accuracy = |threat: &str| {
        let found = summary["attacks"].as_array().unwrap().iter();
        found
            .filter(|a| a["threat"] == threat && a["name"] == "strongest")
            .map(|a| a["accuracy"].as_f64())
            .next()
    };
    assert!(
        accuracy("any-missing").flatten() <= accuracy("without-audio").flatten(),
        "{summary}"
    );
    assert!(
        accuracy("any-missing").flatten() <= accuracy("joint").flatten(),
        "{summary}"
    );
    refused(
        driver(dir.path()).args(["evaluate", "r", "--threat", "any-missing", "--norm", "linf"]),
        &["any-missing", "linf"],
    );

    // A broken certificate: exit status 1, and a red report.
    let mut broken = json(dir.path().join("r/summary.json"))?;
    broken["violations"] = 1.into();
    results::reseal(&dir.path().join("r"), broken)?;
    driver(dir.path())
        .args(["report", "r", "--out", "red.html"])
        .assert()
        .code(1);
    assert!(fs::read_to_string(dir.path().join("red.html"))?.contains("Violations: 1 in"));
    Ok(())
}

#[test]
fn estimates_are_disproved_not_violated() -> Anyhow {
    let dir = tempfile::tempdir()?;
    // The released constants of one modality are 0, so whatever attacks it finds a break inside.
    let settings = [
        "certify.lipschitz=as-released",
        "falsify.samples=30",
        "train.epochs=4",
    ];
    train(dir.path(), "jt", "r", settings).assert().success();
    driver(dir.path())
        .args(["certify", "r", "--falsify"])
        .assert()
        .success();
    let summary = json(dir.path().join("r/summary.json"))?;
    assert_eq!(summary["violations"], 0);
    let fell: u64 = summary["falsification"]
        .as_array()
        .unwrap()
        .iter()
        .map(|f| f["violations"].as_u64().unwrap())
        .sum();
    assert!(fell > 0, "{}", summary["falsification"]);
    assert!(
        summary["warnings"]
            .to_string()
            .contains("estimates are not certificates")
            || summary["warnings"]
                .to_string()
                .contains("fell to an attack inside their estimated radius")
    );
    Ok(())
}

#[test]
fn one_modality_alone() -> Anyhow {
    let dir = tempfile::tempdir()?;
    let settings = [
        "modalities=[\"audio\"]",
        "certify.evidence=proved",
        "model.encoder=linear",
    ];
    train(dir.path(), "jt", "r", settings).assert().success();
    let summary = json(dir.path().join("r/summary.json"))?;
    assert_eq!(summary["modalities"], serde_json::json!(["audio"]));
    assert_eq!(summary["accuracy"]["missing"], serde_json::json!({}));
    driver(dir.path())
        .args(["certify", "r", "--falsify", "--samples", "5"])
        .assert()
        .success();
    refused(
        &mut train(dir.path(), "jt", "q", ["modalities=[\"lidar\"]"]),
        &["no modality `lidar`", "image, audio"],
    );
    assert!(!dir.path().join("q").exists());
    Ok(())
}

/// `certify RUN --smooth …`.
fn smooth(dir: &Path, run: &str, args: &[&str]) -> Command {
    let mut command = driver(dir);
    command.args(["certify", run, "--smooth"]).args(args);
    command
}

fn stderr(command: &mut Command) -> String {
    String::from_utf8_lossy(&command.assert().success().get_output().stderr).into_owned()
}

#[test]
fn a_smoothed_run_is_certified_apart_and_alike_for_any_chunk() -> Anyhow {
    let dir = tempfile::tempdir()?;
    train(dir.path(), "noise", "r", ["train.noises.audio=0.3"])
        .assert()
        .success();
    let run = dir.path().join("r");
    let before = json(run.join("summary.json"))?;
    let args = [
        "image=0.2,audio=0.3",
        "--draws",
        "60",
        "--selection-draws",
        "10",
        "--samples",
        "12",
        "--missing",
    ];
    let output = smooth(dir.path(), "r", &args)
        .assert()
        .success()
        .get_output()
        .stdout
        .clone();
    assert!(String::from_utf8(output)?.contains("smoothed network"));
    let summary = json(run.join("summary.json"))?;
    for key in ["radii", "certified", "attacks", "weights"] {
        assert_eq!(
            summary[key], before[key],
            "{key} is about the network itself"
        );
    }
    let smoothing = &summary["smoothing"];
    assert_eq!(
        smoothing["sigmas"],
        serde_json::json!({ "audio": 0.3, "image": 0.2 })
    );
    assert_eq!(
        (&smoothing["draws"], &smoothing["samples"]),
        (&60.into(), &12.into())
    );
    assert_eq!(
        smoothing["alpha_each"],
        0.001 / 3.0,
        "three certificates of each sample"
    );
    let classifiers = smoothing["classifiers"].as_array().unwrap();
    let missing: Vec<_> = classifiers
        .iter()
        .map(|c| c["missing"].as_str().unwrap())
        .collect();
    assert_eq!(missing, ["", "image", "audio"]);
    // Twelve samples of three classifiers; fractions are those of the table.
    let table = fs::read_to_string(run.join("smoothed.csv"))?;
    let rows: Vec<Vec<&str>> = table
        .lines()
        .skip(1)
        .map(|l| l.split(',').collect())
        .collect();
    assert_eq!(rows.len(), 36);
    for (rows, classifier) in rows.chunks(12).zip(classifiers) {
        let right = rows.iter().filter(|r| r[3] == r[1]).count();
        let abstained = rows.iter().filter(|r| r[3].is_empty()).count();
        let told = (
            classifier["accuracy"].as_f64(),
            classifier["abstained"].as_f64(),
        );
        assert_eq!(
            told,
            (Some(right as f64 / 12.0), Some(abstained as f64 / 12.0))
        );
        for c in classifier["certified"].as_array().unwrap() {
            assert_eq!(c["evidence"], "confident");
            assert!(
                c["accuracy"].as_f64() <= classifier["accuracy"].as_f64(),
                "{c}"
            );
        }
    }
    // `sigma R` of each modality, and the least of them for all.
    for row in rows.iter().take(12).filter(|r| !r[3].is_empty()) {
        let [radius, joint, image, audio] = [6, 7, 8, 9].map(|i| row[i].parse::<f64>().unwrap());
        assert!(
            joint == image
                && (image - 0.2 * radius).abs() < 1e-12
                && (audio - 0.3 * radius).abs() < 1e-12,
            "{row:?}"
        );
    }
    assert!(
        rows[12][8].is_empty() && !rows[24][8].is_empty(),
        "what is missing has no radius"
    );
    assert!(fs::read_to_string(run.join("report.html"))?.contains("The smoothed network"));

    // The same settings from the run's own config, in chunks of seven, from the start.
    let config = fs::read_to_string(run.join("config.toml"))?;
    assert!(
        config.contains("chunk = 250") && config.contains("draws = 60"),
        "{config}"
    );
    fs::write(
        run.join("config.toml"),
        config.replace("chunk = 250", "chunk = 7"),
    )?;
    results::reseal(&run, json(run.join("summary.json"))?)?;
    let votes = fs::read(run.join("votes.json"))?;
    fs::remove_file(run.join("votes.json"))?;
    smooth(dir.path(), "r", &[]).assert().success();
    assert_eq!(fs::read(run.join("votes.json"))?, votes);
    assert_eq!(fs::read_to_string(run.join("smoothed.csv"))?, table);
    assert_eq!(&json(run.join("summary.json"))?["smoothing"], smoothing);
    // Attacked through the noise: what stands lies between what is certified and what is right, up
    // to chance.
    assert!(smoothing["attacks"].is_null());
    smooth(dir.path(), "r", &["--attack"]).assert().success();
    let attacked = json(run.join("summary.json"))?["smoothing"].clone();
    assert_eq!(attacked["classifiers"], smoothing["classifiers"]);
    let attacks = attacked["attacks"].as_array().unwrap();
    assert_eq!(attacks.len(), 3 * 2, "three threats, two budgets");
    for a in attacks {
        let all = classifiers[0]["certified"].as_array().unwrap().iter();
        let certified = all
            .filter(|c| c["threat"] == a["threat"] && c["eps"] == a["eps"])
            .count();
        assert_eq!(
            (certified, &a["fell"], &a["draws"]),
            (1, &0.into(), &1000.into()),
            "{a}"
        );
        let share = a["inside"].as_u64().unwrap() as f64 / 12.0;
        assert!(a["accuracy"].as_f64() >= Some(share), "{a}");
    }
    // More samples, other confidence: what was drawn stays. Other draws: it does not.
    let more = stderr(&mut smooth(
        dir.path(),
        "r",
        &["--samples", "14", "--alpha", "0.05", "--missing=false"],
    ));
    assert!(more.contains("840 of 980 draws"), "{more}");
    let again = stderr(&mut smooth(
        dir.path(),
        "r",
        &["--samples", "12", "--alpha", "0.001", "--missing=true"],
    ));
    assert!(again.contains("2520 of 2520 draws"), "{again}");
    assert_eq!(fs::read_to_string(run.join("smoothed.csv"))?, table);
    let other = stderr(&mut smooth(dir.path(), "r", &["--draws", "30"]));
    assert!(
        other.contains("votes.json is of draws 60, not 30: drawing anew"),
        "{other}"
    );
    // A new training has none of this.
    train(
        dir.path(),
        "jt",
        "r",
        ["model.encoder=linear", "train.epochs=1"],
    )
    .arg("--overwrite")
    .assert()
    .success();
    assert!(!run.join("votes.json").exists() && !run.join("smoothed.csv").exists());
    Ok(())
}

#[test]
fn smoothing_that_was_killed_goes_on_and_gives_the_same_bits() -> Anyhow {
    let dir = tempfile::tempdir()?;
    features(&dir.path().join("f"), 80)?;
    for run in ["killed", "whole"] {
        let settings = [
            "data=f",
            "model.encoder=linear",
            "train.epochs=1",
            "train.inputs=noise",
        ];
        train(dir.path(), "jt", run, settings).assert().success();
    }
    let args = ["0.8", "--draws", "4000", "--samples", "0"];
    smooth(dir.path(), "whole", &args).assert().success();
    let votes = dir.path().join("killed/votes.json");
    let mut child = std::process::Command::new(assert_cmd::cargo::cargo_bin("crmt-driver"))
        .current_dir(dir.path())
        .args(["certify", "killed", "--smooth"])
        .args(args)
        .stderr(std::process::Stdio::null())
        .stdout(std::process::Stdio::null())
        .spawn()?;
    while !votes.exists() {
        assert!(
            child.try_wait()?.is_none(),
            "it ended before it saved a vote"
        );
        std::thread::sleep(std::time::Duration::from_millis(2));
    }
    child.kill()?; // SIGKILL
    child.wait()?;
    assert!(
        !dir.path().join("killed/smoothed.csv").exists(),
        "it was to be killed half-way"
    );
    let told = stderr(&mut smooth(dir.path(), "killed", &args));
    assert!(told.contains(" of 328000 draws are in "), "{told}");
    for file in ["votes.json", "smoothed.csv"] {
        let read = |run: &str| fs::read(dir.path().join(run).join(file));
        assert_eq!(read("killed")?, read("whole")?, "{file}");
    }
    let smoothing = |run: &str| {
        Ok::<_, anyhow::Error>(
            json(dir.path().join(run).join("summary.json"))?["smoothing"].clone(),
        )
    };
    assert_eq!(smoothing("killed")?, smoothing("whole")?);

    // Votes that can't be trusted are refused by name, and left for their owner to look at.
    let good = fs::read_to_string(&votes)?;
    for bad in [
        &good[..good.len() / 2],
        &good.replacen("4000", "4001", 1),
        "",
        "{}",
    ] {
        fs::write(&votes, bad)?;
        refused(
            &mut smooth(dir.path(), "killed", &args),
            &["votes.json", "delete it"],
        );
        assert_eq!(fs::read_to_string(&votes)?, bad);
    }
    Ok(())
}

#[test]
fn a_bad_sigma_is_refused_by_name() -> Anyhow {
    let dir = tempfile::tempdir()?;
    let here = dir.path();
    train(here, "jt", "r", ["model.encoder=linear", "train.epochs=1"])
        .assert()
        .success();
    let before = fs::read(here.join("r/config.toml"))?;
    for (args, parts) in [
        (&["-0.5"][..], &["smooth.sigma = -0.5", "from 0 to 1e6"][..]),
        (&["NaN"], &["smooth.sigma = nan"]),
        (&["inf"], &["smooth.sigma = inf"]),
        (&["image=0.1,audio=-1"], &["smooth.sigmas.audio = -1"]),
        (
            &["image=0.1,video=0.1"],
            &["no modality `video`", "image, audio"],
        ),
        (&["image=0.1"], &["no sigma for audio"]),
        (&["much"], &["--smooth much", "image=0.25,audio=0.25"]),
        (&["0"], &["sigma 0"]),
        (
            &["image=0,audio=1", "--missing"],
            &["without audio", "sigma 0"],
        ),
        (&["--alpha", "1"], &["smooth.alpha"]),
        (&["--draws", "0"], &["smooth.draws"]),
        (&["--evidence", "proved"], &["--evidence", "--smooth"]),
    ] {
        refused(&mut smooth(here, "r", args), parts);
    }
    refused(
        driver(here).args(["certify", "r", "--draws", "9"]),
        &["--smooth"],
    );
    assert_eq!(fs::read(here.join("r/config.toml"))?, before);
    assert!(!here.join("r/votes.json").exists());
    let noise = |setting| train(here, "noise", "x", [setting]);
    refused(&mut noise("train.noise=-1"), &["train.noise = -1"]);
    refused(
        &mut noise("train.noises.video=1"),
        &["train.noises.video", "image, audio"],
    );
    refused(
        &mut noise("smooth.sigmas.video=1"),
        &["smooth.sigmas.video", "image, audio"],
    );
    refused(
        &mut noise("smooth.sigmas.image=much"),
        &["smooth.sigmas.image", "a number"],
    );
    Ok(())
}

#[test]
fn the_released_recipe_is_taken_whole() {
    let recipe = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../../docs/recipes/released.toml"
    );
    let switches = fs::read_to_string(recipe)
        .expect("the recipe")
        .matches("\"as-released\"")
        .count();
    for method in ["crmt-jt", "crmt-at", "crmt-mix"] {
        let output = driver(Path::new("."))
            .args(["train", "--config", recipe, "--method", method, "--explain"])
            .output();
        let told = String::from_utf8(output.expect("started").stdout).expect("text");
        assert_eq!(told.matches("\"as-released\"").count(), switches, "{told}");
        assert!(
            told.lines()
                .any(|l| l.starts_with("step2.enabled") && l.contains("true")),
            "{told}"
        );
    }
}

#[test]
fn help_teaches() {
    let help = |args: &[&str]| {
        let output = driver(Path::new("."))
            .args(args)
            .assert()
            .success()
            .get_output()
            .stdout
            .clone();
        String::from_utf8(output).unwrap()
    };
    assert!(help(&["--help"]).contains("Examples:"));
    assert!(help(&["train", "--help"]).contains("crmt-jt"));
    let explained = help(&["train", "--method", "crmt-jt", "--explain"]);
    assert!(
        explained
            .lines()
            .any(|l| l.starts_with("train.rho") && l.contains("method crmt-jt")),
        "{explained}"
    );
}

fn copy(from: &Path, to: &Path) -> Anyhow {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        if entry.file_type()?.is_file() {
            fs::copy(entry.path(), to.join(entry.file_name()))?;
        }
    }
    Ok(())
}

#[test]
fn an_evaluation_goes_on_where_it_was_killed() -> Anyhow {
    let dir = tempfile::tempdir()?;
    let settings = [
        "synthetic.report=250",
        "synthetic.train=600",
        "train.epochs=6",
        "model.encoder=linear",
        "evaluate.eps=0.4,0.8",
        "evaluate.standard_steps=6",
        "evaluate.targets=2",
        "evaluate.queries=30",
        "evaluate.check_samples=10",
    ];
    train(dir.path(), "jt", "r", settings).assert().success();
    let run = dir.path().join("r");
    copy(&run, &dir.path().join("s"))?;
    let args = [
        "--attack",
        "strong,published,fab-t",
        "--samples",
        "0",
        "--seed",
        "3",
        "--save-adversarials",
    ];
    // Three parts of each of three threats.
    let program = assert_cmd::cargo::cargo_bin("crmt-driver");
    let mut child = std::process::Command::new(program)
        .current_dir(dir.path())
        .args(["evaluate", "r", "-q"])
        .args(args)
        .arg("r.safetensors")
        .stdout(std::process::Stdio::null())
        .spawn()?;
    let parts = || fs::read_dir(run.join("evaluation.partial")).map_or(0, Iterator::count);
    while parts() < 2 {
        assert!(
            child.try_wait()?.is_none(),
            "it must not end before it is killed"
        );
        std::thread::sleep(std::time::Duration::from_millis(2));
    }
    child.kill()?;
    child.wait()?;
    assert!((2..9).contains(&parts()), "{} parts", parts());
    assert_eq!(
        json(run.join("summary.json"))?["attacks"]
            .as_array()
            .unwrap()
            .len(),
        3 * 3 * 2,
        "as before"
    );
    // A part that was cut off is made again.
    let first = fs::read_dir(run.join("evaluation.partial"))?
        .next()
        .expect("a part")?
        .path();
    fs::write(&first, &fs::read(&first)?[..100])?;
    for name in ["r", "s"] {
        let file = format!("{name}.safetensors");
        driver(dir.path())
            .args(["evaluate", name, "-q"])
            .args(args)
            .arg(&file)
            .assert()
            .success();
    }
    assert_eq!(parts(), 0);
    let (r, s) = (
        json(run.join("summary.json"))?,
        json(dir.path().join("s/summary.json"))?,
    );
    for key in ["attacks", "nearest", "certified", "warnings", "violations"] {
        assert_eq!(r[key], s[key], "{key}");
    }
    for file in ["samples.csv", "examples.safetensors"] {
        assert!(
            fs::read(run.join(file))? == fs::read(dir.path().join("s").join(file))?,
            "{file}"
        );
    }
    assert!(
        fs::read(dir.path().join("r.safetensors"))? == fs::read(dir.path().join("s.safetensors"))?
    );
    // pgd, standard, two published ones, fab-t, and their union; three threats, two budgets.
    assert_eq!(r["attacks"].as_array().unwrap().len(), 6 * 3 * 2);
    let nearest = &r["nearest"][0];
    assert_eq!(
        (&nearest["threat"], &nearest["norm"]),
        (&"joint".into(), &"l2".into())
    );
    let shares = nearest["split"]
        .as_object()
        .unwrap()
        .values()
        .map(|v| v.as_f64().unwrap())
        .sum::<f64>();
    assert!(
        nearest["found"].as_u64() > Some(0) && (shares - 1.0).abs() < 1e-9,
        "{nearest}"
    );
    let report = fs::read_to_string(run.join("report.html"))?;
    assert!(report.contains("Attack by attack") && report.contains("Where it breaks"));
    // What was saved is as far from the clean inputs as the table says, and is misclassified.
    let bytes = fs::read(dir.path().join("r.safetensors"))?;
    let saved = safetensors::SafeTensors::deserialize(&bytes)?;
    let distance = saved.tensor("distance.joint.l2")?;
    let distance: Vec<f64> = distance
        .data()
        .chunks_exact(8)
        .map(|b| f64::from_le_bytes(b.try_into().expect("8 bytes")))
        .collect();
    assert_eq!(
        (
            distance.len(),
            saved.tensor("adversarial.joint.l2.image")?.shape()
        ),
        (250, &[250, 1, 28, 28][..])
    );
    let mut table = csv::Reader::from_path(run.join("samples.csv"))?;
    let header = table.headers()?.clone();
    let column = |name: &str| {
        header
            .iter()
            .position(|h| h == name)
            .unwrap_or_else(|| panic!("no column {name}"))
    };
    let near = column("distance.joint.l2");
    let held = [
        (0.4, column("strongest.joint.l2.0.4")),
        (0.8, column("strongest.joint.l2.0.8")),
    ];
    for (record, distance) in table.records().zip(distance) {
        let record = record?;
        let told: Option<f64> = record[near].parse().ok();
        assert!(
            told.map_or(distance == 0.0 || distance.is_infinite(), |told| told
                == distance),
            "{record:?}"
        );
        for (eps, held) in held {
            // Budgets hold to 1e-6.
            let beyond = distance > eps * (1.0 + 1e-6);
            assert_eq!(&record[held] == "held", beyond, "{record:?}");
        }
    }
    // Attacks that stop at the boundary itself do not disprove radii that are exact.
    let threats = ["--samples", "30", "--threat", "joint,each,any-missing"];
    driver(dir.path())
        .args(["evaluate", "s", "-q", "--attack", "nearest,deepfool"])
        .args(threats)
        .assert()
        .success();
    let s = json(dir.path().join("s/summary.json"))?;
    assert_eq!(
        (&s["violations"], &s["certified"][0]["evidence"]),
        (&0.into(), &"proved".into())
    );
    let accuracy = |threat: &str| {
        let all = s["attacks"].as_array().expect("a list");
        let strongest = all
            .iter()
            .find(|a| a["name"] == "strongest" && a["threat"] == threat);
        strongest.expect("attacked")["accuracy"].as_f64()
    };
    assert!(accuracy("any-missing") <= accuracy("joint") && accuracy("each") <= accuracy("joint"));
    refused(
        driver(dir.path()).args(["evaluate", "r", "--attack", "pdg"]),
        &["`pdg`", "standard", "strong"],
    );
    refused(
        driver(dir.path()).args(["evaluate", "r", "--set", "train.epochs=3"]),
        &["train.epochs=3", "trained"],
    );
    refused(
        driver(dir.path()).args(["evaluate", "r", "--set", "evaluate.step=3"]),
        &["did you mean `evaluate.steps`"],
    );
    refused(
        driver(dir.path()).args(["evaluate", "r", "--save-adversarials", "no/such/file"]),
        &["no/such/file"],
    );
    refused(
        driver(dir.path()).args([
            "evaluate", "r", "--attack", "cw", "--norm", "linf", "--threat", "image",
        ]),
        &["`cw`", "linf"],
    );
    Ok(())
}
