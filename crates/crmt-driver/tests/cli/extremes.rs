//! Attacks and measurements at the edge of what numbers hold, as a user meets them: what is told,
//! counted and refused. Does not know how attacks search.
use super::{Anyhow, driver, features, json, refused, results, stderr, train};
use crmt_data::{Array, DataSet, Manifest, ModalitySpec, Pairing, Samples, write_dataset};
use serde_json::Value;
use std::{fs, path::Path};

/// Two modalities of plain features, two classes far apart; `left` is in these units, and in the
/// report split its rows `huge` are as large as `f32` can be.
fn measured(dir: &Path, unit: f64, huge: &[usize]) -> Anyhow {
    let mut specs = ["left", "right"]
        .map(|name| ModalitySpec::new(name, &[4]))
        .to_vec();
    specs[0].scale = unit;
    let manifest = Manifest::new("measured", ["no", "yes"], specs);
    let samples = |rows: usize, huge: &[usize]| -> anyhow::Result<Samples> {
        let value = |m: usize, i: usize, d: usize| match (m, d) {
            (0, _) if huge.contains(&i) => [f32::MAX, -f32::MAX][d % 2],
            (1, 0) => [-1.0, 1.0][i % 2],
            _ => ((i * 7 + d * 3 + m) % 5) as f32 * 0.1 * [unit as f32, 1.0][m],
        };
        let array = |m| {
            Array::floats(
                &[4],
                (0..rows)
                    .flat_map(|i| (0..4).map(move |d| value(m, i, d)))
                    .collect(),
            )
        };
        let arrays = (0..2).map(array).collect::<Result<Vec<_>, _>>()?;
        Ok(Samples {
            arrays,
            pairing: Pairing::Rows {
                labels: (0..rows as u32).map(|i| i % 2).collect(),
            },
        })
    };
    write_dataset(
        &DataSet::new(
            manifest,
            samples(80, &[])?,
            samples(40, &[])?,
            samples(40, huge)?,
        )?,
        dir,
        false,
    )?;
    Ok(())
}

const SETTINGS: [&str; 4] = [
    "data=d",
    "model.mlp_width=64",
    "train.epochs=6",
    "evaluate.samples=40",
];

fn warnings(summary: &Value) -> Vec<&str> {
    summary["warnings"]
        .as_array()
        .expect("a list")
        .iter()
        .filter_map(Value::as_str)
        .collect()
}

/// Rows for which the network says nothing are wrong everywhere, and named once.
#[test]
fn outputs_that_are_no_numbers_are_wrong_and_named() -> Anyhow {
    let dir = tempfile::tempdir()?;
    measured(&dir.path().join("d"), 1.0, &[3, 8])?;
    let output = train(dir.path(), "jt", "r", SETTINGS).output()?;
    assert!(
        output.status.code().is_some_and(|code| code < 2),
        "{output:?}"
    );
    let summary = json(dir.path().join("r/summary.json"))?;
    assert_eq!(summary["accuracy"]["clean"], 38.0 / 40.0, "{summary}");
    let counted: u64 = summary["confusion"]
        .as_array()
        .unwrap()
        .iter()
        .flat_map(|row| row.as_array().unwrap())
        .map(|n| n.as_u64().unwrap())
        .sum();
    assert_eq!(counted, 38, "{}", summary["confusion"]);
    assert!(
        summary["attacks"]
            .as_array()
            .unwrap()
            .iter()
            .all(|a| a["clean"] == 38.0 / 40.0),
        "{}",
        summary["attacks"]
    );
    let told: Vec<&str> = warnings(&summary)
        .into_iter()
        .filter(|w| w.starts_with("no prediction, clean"))
        .collect();
    assert_eq!(told.len(), 1, "{summary}");
    assert!(
        told[0].contains("through left") && told[0].contains("2 samples (3, 8)"),
        "{told:?}"
    );
    let mut table = csv::Reader::from_path(dir.path().join("r/samples.csv"))?;
    let silent: Vec<usize> = table
        .records()
        .enumerate()
        .filter(|(_, row)| row.as_ref().is_ok_and(|row| row[2].is_empty()))
        .map(|(i, _)| i)
        .collect();
    assert_eq!(silent, [3, 8]);
    // Read back, measured again in another way, and still wrong.
    let corrupt = [
        "evaluate",
        "r",
        "--corruption",
        "contrast",
        "--severity",
        "1",
    ];
    driver(dir.path()).args(corrupt).output()?;
    let summary = json(dir.path().join("r/summary.json"))?;
    assert!(
        summary["corruptions"]
            .as_array()
            .unwrap()
            .iter()
            .all(|c| c["clean"] == 38.0 / 40.0),
        "{summary}"
    );
    assert!(
        warnings(&summary)
            .iter()
            .any(|w| w.starts_with("no prediction, clean")),
        "{summary}"
    );
    Ok(())
}

/// The same network on a modality that it does not see, in units of 1e-15 and of 1e-21: the same
/// fall.
#[test]
fn a_tiny_unit_changes_nothing() -> Anyhow {
    let mut results = vec![];
    for unit in [1e-15, 1e-21] {
        let dir = tempfile::tempdir()?;
        measured(&dir.path().join("d"), unit, &[])?;
        train(
            dir.path(),
            "jt",
            "r",
            SETTINGS.into_iter().chain(["evaluate.eps=0.5,1"]),
        )
        .assert()
        .success();
        let summary = json(dir.path().join("r/summary.json"))?;
        assert_eq!(summary["violations"], 0);
        results.push(summary["attacks"].clone());
    }
    assert_eq!(results[0], results[1]);
    Ok(())
}

#[test]
fn the_program_that_certificates_are_about_can_be_attacked_itself() -> Anyhow {
    let dir = tempfile::tempdir()?;
    features(&dir.path().join("f"), 60)?;
    train(
        dir.path(),
        "jt",
        "r",
        ["data=f", "model.mlp_width=16", "train.epochs=4"],
    )
    .assert()
    .success();
    let before = json(dir.path().join("r/summary.json"))?;
    assert!(
        before["attacks"]
            .as_array()
            .unwrap()
            .iter()
            .all(|a| a["precision"] == "f32")
    );
    let attack = [
        "--attack",
        "pgd,fab-t",
        "--eps",
        "0.5,2",
        "--set",
        "evaluate.standard_steps=10",
        "-q",
    ];
    let evaluate = |precision: &str, file: &str| {
        let mut command = driver(dir.path());
        command
            .args([
                "evaluate",
                "r",
                "--precision",
                precision,
                "--save-adversarials",
                file,
            ])
            .args(attack);
        command
    };
    let mut accuracies = vec![];
    for (precision, suffix, dtype) in [
        ("f32", "", safetensors::Dtype::F32),
        ("f64", "@f64", safetensors::Dtype::F64),
    ] {
        let file = format!("{precision}.safetensors");
        evaluate(precision, &file).assert().success();
        let summary = json(dir.path().join("r/summary.json"))?;
        let attacks = summary["attacks"].as_array().unwrap();
        assert!(
            attacks.iter().all(|a| a["precision"] == precision),
            "{attacks:?}"
        );
        assert!(
            summary["nearest"]
                .as_array()
                .unwrap()
                .iter()
                .all(|n| n["precision"] == precision)
        );
        let header = fs::read_to_string(dir.path().join("r/samples.csv"))?;
        assert!(
            header.contains(&format!(",pgd{suffix}.joint.l2.0.5,")),
            "{}",
            header.lines().next().unwrap()
        );
        let bytes = fs::read(dir.path().join(file))?;
        assert_eq!(
            safetensors::SafeTensors::deserialize(&bytes)?
                .tensor("adversarial.joint.l2.left")?
                .dtype(),
            dtype
        );
        accuracies.push(
            attacks
                .iter()
                .map(|a| a["accuracy"].as_f64().unwrap())
                .collect::<Vec<_>>(),
        );
    }
    // Both programs compute the same function: where neither is near a boundary they fall alike, of
    // 60 samples to one.
    let apart = accuracies[0]
        .iter()
        .zip(&accuracies[1])
        .map(|(a, b)| (a - b).abs())
        .fold(0.0, f64::max);
    assert!(apart <= 1.0 / 60.0 + 1e-9, "{accuracies:?}");
    refused(
        &mut evaluate("f16", "x.npz"),
        &["evaluate.precision", "f16", "f32, f64"],
    );
    Ok(())
}

/// What stopped at the first adversarial within a budget has no distance, and is not called one.
#[test]
fn a_budget_is_not_called_a_distance() -> Anyhow {
    let dir = tempfile::tempdir()?;
    features(&dir.path().join("f"), 40)?;
    train(
        dir.path(),
        "jt",
        "r",
        ["data=f", "model.mlp_width=16", "evaluate.eps=3"],
    )
    .assert()
    .success();
    for (attack, looked) in [("pgd,apgd-t", false), ("pgd,fab-t", true)] {
        let mut command = driver(dir.path());
        command.args([
            "evaluate",
            "r",
            "--attack",
            attack,
            "--set",
            "evaluate.standard_steps=10",
        ]);
        let told = String::from_utf8(command.assert().success().get_output().stdout.clone())?;
        let nearest = json(dir.path().join("r/summary.json"))?["nearest"][0].clone();
        assert!(nearest["median"].is_f64(), "{nearest}");
        assert_eq!(nearest["looked"], looked, "{nearest}");
        assert_eq!(told.contains('≤'), !looked, "{told}");
        assert_eq!(
            fs::read_to_string(dir.path().join("r/report.html"))?.contains("<td>≤ "),
            !looked
        );
    }
    Ok(())
}

#[test]
fn a_budget_that_no_input_can_hold_is_refused_by_name() -> Anyhow {
    let dir = tempfile::tempdir()?;
    features(&dir.path().join("f"), 40)?;
    train(dir.path(), "jt", "r", ["data=f", "model.mlp_width=16"])
        .assert()
        .success();
    refused(
        driver(dir.path()).args(["evaluate", "r", "--eps", "1e300"]),
        &["evaluate.eps", "from 1e-9 to 1e9"],
    );
    let told = stderr(driver(dir.path()).args(["evaluate", "r", "--eps", "1e9"]));
    assert!(!told.contains("NaN"), "{told}");
    let summary = json(dir.path().join("r/summary.json"))?;
    let strongest = summary["attacks"]
        .as_array()
        .unwrap()
        .iter()
        .find(|a| a["name"] == "strongest")
        .unwrap();
    // Anything may become anything else.
    assert_eq!(strongest["accuracy"], 0.0, "{summary}");
    Ok(())
}

/// A certificate that an attack disproved is a violation, now and whenever the run is looked at
/// again.
#[test]
fn a_falsified_certificate_is_a_violation() -> Anyhow {
    let dir = tempfile::tempdir()?;
    features(&dir.path().join("f"), 40)?;
    train(dir.path(), "jt", "r", ["data=f", "model.mlp_width=16"])
        .assert()
        .success();
    driver(dir.path())
        .args(["certify", "r", "--falsify", "--samples", "4"])
        .assert()
        .success();
    let path = dir.path().join("r/summary.json");
    let mut summary = json(&path)?;
    assert_eq!(
        (
            &summary["violations"],
            &summary["falsification"][0]["evidence"]
        ),
        (&0.into(), &"proved".into())
    );
    summary["falsification"][0]["violations"] = 3.into();
    results::reseal(&dir.path().join("r"), summary)?;
    driver(dir.path()).args(["certify", "r"]).assert().code(1);
    assert_eq!(json(&path)?["violations"], 3);
    Ok(())
}
