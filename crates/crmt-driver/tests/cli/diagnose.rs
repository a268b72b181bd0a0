//! `diagnose` as a user meets it: what it prints and writes, for one to three modalities and
//! several runs. Does not know how anything is computed.
use super::{Anyhow, driver, features, json, refused, train};
use serde_json::Value;
use std::{collections::BTreeMap, fs, path::Path};

/// `diagnosis.csv`, each row by column.
fn rows(run: &Path) -> anyhow::Result<Vec<BTreeMap<String, String>>> {
    let mut csv = csv::Reader::from_path(run.join("diagnosis.csv"))?;
    Ok(csv.deserialize().collect::<Result<_, _>>()?)
}

/// A column; what is empty is none.
fn column(rows: &[BTreeMap<String, String>], name: &str) -> Vec<Option<f64>> {
    let cell = |row: &BTreeMap<String, String>| {
        row.get(name)
            .unwrap_or_else(|| panic!("no column {name}"))
            .parse()
            .ok()
    };
    rows.iter().map(cell).collect()
}

fn diagnose(dir: &Path, runs: &[&str]) -> anyhow::Result<(Value, String)> {
    let output = driver(dir)
        .arg("diagnose")
        .args(runs)
        .arg("--json")
        .assert()
        .success()
        .get_output()
        .clone();
    Ok((
        serde_json::from_slice(&output.stdout)?,
        String::from_utf8(output.stderr)?,
    ))
}

/// Enough to be better than chance, without which there is nothing to share out.
const LONGER: [&str; 2] = ["train.epochs=8", "train.learning_rate=0.01"];

/// Sums of a few fractions of a few hundred samples round to less than this.
const ROUNDING: f64 = 1e-9;

/// What holds of any diagnosis, whatever the model.
fn check(run: &Path, told: &Value) -> Anyhow {
    let summary = json(run.join("summary.json"))?;
    assert_eq!(
        json(run.join("diagnosis.json"))?,
        *told,
        "the file is what was printed"
    );
    assert_eq!(
        (&told["weights"], &told["samples"]),
        (&summary["weights"], &summary["accuracy"]["samples"])
    );
    let modalities = told["modalities"].as_array().unwrap();
    let names: Vec<&str> = modalities
        .iter()
        .map(|m| m["name"].as_str().unwrap())
        .collect();
    let value = |m: &Value, key: &str| {
        m[key]
            .as_f64()
            .unwrap_or_else(|| panic!("no {key}: {told}"))
    };
    let sum = |key: &str| modalities.iter().map(|m| value(m, key)).sum::<f64>();
    // Shapley values are shared out to the last bit of what all modalities bring.
    let brought = summary["accuracy"]["clean"].as_f64().unwrap() - told["absent"].as_f64().unwrap();
    assert!((sum("shapley") - brought).abs() < ROUNDING, "{told}");
    for key in ["shapley_share", "vulnerability", "preference"] {
        assert!((sum(key) - 1.0).abs() < ROUNDING, "{key} {told}");
    }
    assert_eq!(
        told["present"].as_object().unwrap().len(),
        (1 << names.len()) - 1
    );
    assert_eq!(
        told["present"][names.join("+")],
        summary["accuracy"]["clean"]
    );
    let rows = rows(run)?;
    assert_eq!(rows.len() as u64, told["samples"].as_u64().unwrap());
    let (label, prediction) = (column(&rows, "label"), column(&rows, "prediction"));
    assert_eq!(
        label
            .iter()
            .zip(&prediction)
            .filter(|(a, b)| a == b)
            .count() as u64,
        told["right"].as_u64().unwrap()
    );
    for (m, name) in modalities.iter().zip(&names) {
        // A head is right exactly where its margin is positive; in two f32 scores a tie is
        // unlikely.
        let right = column(&rows, &format!("margin.{name}"))
            .iter()
            .filter(|v| **v > Some(0.0))
            .count();
        assert!(
            (right as f64 / rows.len() as f64 - m["solo"].as_f64().unwrap()).abs() < ROUNDING,
            "{name} {told}"
        );
        assert_eq!(m["solo"], summary["accuracy"]["solo"][name]);
        let threat = if names.len() == 1 { "joint" } else { name };
        let radius = summary["radii"]
            .as_array()
            .unwrap()
            .iter()
            .find(|r| r["threat"] == *threat)
            .unwrap();
        assert_eq!(
            (&m["radius"]["mean"], &told["evidence"]),
            (&radius["mean"], &radius["evidence"])
        );
        if names.len() > 1 {
            assert_eq!(m["without"], summary["accuracy"]["missing"][name]);
            // The same average as in the summary, of samples in the same order.
            let (ours, theirs) = (&m["vulnerability"], &radius["vulnerability_share"]);
            assert!(
                (ours.as_f64().unwrap() - theirs.as_f64().unwrap()).abs() < ROUNDING,
                "{ours} {theirs}"
            );
        }
    }
    for (i, row) in rows.iter().enumerate() {
        let of = |kind: &str| {
            names
                .iter()
                .map(|n| row[&format!("{kind}.{n}")].parse::<f64>().unwrap())
                .collect::<Vec<_>>()
        };
        assert!(
            (of("vulnerability").iter().sum::<f64>() - 1.0).abs() < ROUNDING,
            "sample {i}: {row:?}"
        );
        if of("shapley").iter().any(|v| *v > 0.0) {
            assert!(
                (of("preference").iter().sum::<f64>() - 1.0).abs() < ROUNDING,
                "sample {i}: {row:?}"
            );
        }
        if let [a, b] = names[..] {
            let eta = |name: &str| row[&format!("eta.{name}")].parse::<f64>().unwrap();
            assert!(
                (eta(a) * eta(b) - 1.0).abs() < ROUNDING,
                "of two, one is the other's inverse: {row:?}"
            );
        }
    }
    assert!(fs::read_to_string(run.join("report.html"))?.contains("<h2>Diagnosis</h2>"));
    Ok(())
}

#[test]
fn two_runs_stand_side_by_side() -> Anyhow {
    let dir = tempfile::tempdir()?;
    for (method, run) in [("jt", "jt"), ("crmt-jt", "crmt")] {
        train(dir.path(), method, run, LONGER).assert().success();
    }
    let runs = ["jt", "crmt"].map(|run| dir.path().join(run));
    let before = fs::read(runs[0].join("samples.csv"))?;
    assert!(!fs::read_to_string(runs[0].join("report.html"))?.contains("<h2>Diagnosis</h2>"));
    let (told, text) = diagnose(dir.path(), &["jt", "crmt", "--out", "compare.html"])?;
    let told = told.as_array().unwrap();
    assert_eq!([&told[0]["method"], &told[1]["method"]], ["jt", "crmt-jt"]);
    for (run, told) in runs.iter().zip(told) {
        check(run, told)?;
    }
    for part in [
        "Shapley share",
        "indicator η",
        "estimated",
        "jt prefers",
        "crmt-jt prefers",
    ] {
        assert!(text.contains(part), "no {part}: {text}");
    }
    let page = fs::read_to_string(dir.path().join("compare.html"))?;
    let part = &page[page.find("<h2>Diagnosis</h2>").unwrap()..];
    let part = &part[..part.find("</section>").unwrap()];
    // A distribution and a scatter for each run.
    assert_eq!(
        (
            part.matches("<svg").count(),
            part.matches("class=\"dots").count()
        ),
        (4, 2)
    );
    assert!(
        part.contains("JT") && part.contains("CRMT-JT") && !part.contains("certified"),
        "{part}"
    );
    // `report` tells what is known, too.
    driver(dir.path())
        .args(["report", "jt", "crmt", "--out", "again.html"])
        .assert()
        .success();
    assert_eq!(fs::read_to_string(dir.path().join("again.html"))?, page);
    assert_eq!(
        fs::read(runs[0].join("samples.csv"))?,
        before,
        "nothing else changes"
    );
    let files =
        || ["diagnosis.json", "diagnosis.csv"].map(|file| fs::read(runs[1].join(file)).ok());
    let first = files();
    // Given twice, counted once; the same bytes again.
    let (_, text) = diagnose(dir.path(), &["crmt", "crmt/../crmt"])?;
    assert!(
        text.contains("crmt/../crmt is given twice") && first[0].is_some(),
        "{text}"
    );
    assert_eq!(files(), first);

    // Radii of other evidence have another explanation; the same ones keep theirs.
    let certify = |evidence: &str| {
        driver(dir.path())
            .args(["certify", "crmt", "--evidence", evidence, "-q"])
            .assert()
            .success();
    };
    certify("auto");
    assert_eq!(files(), first);
    certify("proved");
    assert_eq!(files(), [None, None]);
    assert!(!fs::read_to_string(runs[1].join("report.html"))?.contains("<h2>Diagnosis</h2>"));
    let (told, text) = diagnose(dir.path(), &["crmt"])?;
    assert_eq!(told["evidence"], "proved");
    assert!(
        text.contains("proved") && !text.contains("estimated"),
        "{text}"
    );
    check(&runs[1], &told)?;
    // A new training has none.
    let settings = ["model.encoder=linear", "train.epochs=1"];
    train(dir.path(), "jt", "jt", settings)
        .arg("--overwrite")
        .assert()
        .success();
    assert!(!runs[0].join("diagnosis.json").exists() && !runs[0].join("diagnosis.csv").exists());
    Ok(())
}

#[test]
fn any_number_of_modalities_is_diagnosed() -> Anyhow {
    let dir = tempfile::tempdir()?;
    features(&dir.path().join("f"), 80)?;
    let run = dir.path().join("r");
    train(
        dir.path(),
        "jt",
        "r",
        [&["data=f", "model.encoder=linear"], &LONGER[..]].concat(),
    )
    .assert()
    .success();
    let (told, text) = diagnose(dir.path(), &["r"])?;
    check(&run, &told)?;
    assert_eq!(told["evidence"], "proved");
    // With two classes there is one rival: the Shapley values are those that are known of it.
    let (ours, mut theirs) = (
        rows(&run)?,
        csv::Reader::from_path(run.join("samples.csv"))?,
    );
    let theirs: Vec<BTreeMap<String, String>> = theirs.deserialize().collect::<Result<_, _>>()?;
    for name in ["left", "middle", "right"] {
        let (a, b) = (
            column(&ours, &format!("shapley.{name}")),
            column(&theirs, &format!("shapley.{name}")),
        );
        for (a, b) in a.iter().zip(b) {
            // Ours are of the model in f32, theirs in f64; logits are of size 10.
            assert!(
                (a.unwrap() - b.unwrap()).abs() < 1e-4,
                "{name}: {a:?} {b:?}"
            );
        }
        assert!(text.contains(name), "{text}");
    }

    // One modality alone: it is preferred and vulnerable altogether.
    let settings = [
        &["data=f", "modalities=[\"middle\"]", "model.encoder=linear"],
        &LONGER[..],
    ]
    .concat();
    train(dir.path(), "jt", "one", settings).assert().success();
    let (told, text) = diagnose(dir.path(), &["one"])?;
    check(&dir.path().join("one"), &told)?;
    let only = &told["modalities"][0];
    for key in ["shapley_share", "vulnerability"] {
        assert_eq!(only[key], 1.0, "{key} {told}");
    }
    assert_eq!(
        (&only["without"], &only["eta"], &told["agreement"]),
        (&told["absent"], &Value::Null, &Value::Null)
    );
    assert!(!text.contains("prefers"), "{text}");
    // Runs of other modalities side by side.
    let (told, text) = diagnose(dir.path(), &["r", "one"])?;
    assert_eq!(told.as_array().map(Vec::len), Some(2));
    let line = text
        .lines()
        .find(|line| line.contains("own head alone"))
        .expect("a line of its own");
    assert!(
        line.contains("left") && line.trim_end().ends_with('–'),
        "{line}"
    );
    Ok(())
}

#[test]
fn what_cannot_be_diagnosed_is_refused_by_name() -> Anyhow {
    let dir = tempfile::tempdir()?;
    let here = dir.path();
    refused(driver(here).args(["diagnose"]), &["<RUNS>"]);
    features(&here.join("f"), 40)?;
    features(&here.join("other"), 44)?;
    train(
        here,
        "jt",
        "r",
        ["data=f", "model.encoder=linear", "train.epochs=1"],
    )
    .assert()
    .success();
    refused(
        driver(here).args(["diagnose", "r", "nowhere"]),
        &["nowhere"],
    );
    assert!(
        !here.join("r/diagnosis.json").exists(),
        "nothing is done before all runs are there"
    );
    refused(
        driver(here).args(["diagnose", "r", "--data", "other"]),
        &["report split", "other"],
    );
    driver(here)
        .args(["diagnose", "r", "-q"])
        .assert()
        .success();
    let good = fs::read_to_string(here.join("r/diagnosis.json"))?;
    fs::write(here.join("r/diagnosis.json"), &good[..good.len() / 2])?;
    for command in ["evaluate", "report"] {
        refused(
            driver(here).args([command, "r"]),
            &["diagnosis.json", "altered", "`diagnose r` makes it again"],
        );
    }
    driver(here)
        .args(["diagnose", "r", "-q"])
        .assert()
        .success();
    assert_eq!(fs::read_to_string(here.join("r/diagnosis.json"))?, good);
    fs::remove_file(here.join("r/diagnosis.json"))?;
    driver(here)
        .args(["diagnose", "r", "-q"])
        .assert()
        .success();
    assert_eq!(fs::read_to_string(here.join("r/diagnosis.json"))?, good);
    Ok(())
}
