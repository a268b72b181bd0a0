//! Which samples are measured, and in which units: on a split that is sorted by class, with scales
//! that are not 1 and baselines that are not zero. Knows what files say, not how anything is
//! computed.
use super::{Anyhow, driver, json, train};
use crmt_certify::binomial::{lower_bound, normal_quantile};
use crmt_core::Streams;
use crmt_data::{
    Array, Baseline, DataSet, Manifest, ModalitySpec, Pairing, Samples, write_dataset,
};
use rand::Rng;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};

/// Rows of the report split: one half of each class, one after the other.
const ROWS: usize = 80;

/// Two modalities of two features; `far` in units of 5, `near` of 0.2. What replaces them speaks
/// for the first class.
fn write(to: &Path) -> Anyhow {
    let mut rng = Streams::new(8).stream("samples", 0);
    let mut split = |rows: usize| -> anyhow::Result<Samples> {
        let labels: Vec<u32> = (0..rows).map(|i| u32::from(i >= rows / 2)).collect();
        let mut array = |unit: f32| {
            let sign = |k: u32| if k == 0 { 1.0 } else { -1.0 };
            let values = labels
                .iter()
                .flat_map(|k| [sign(*k); 2])
                .map(|v| unit * (v + rng.random_range(-1.4..1.4)));
            Array::floats(&[2], values.collect())
        };
        let arrays = vec![array(5.0)?, array(0.2)?];
        Ok(Samples {
            arrays,
            pairing: Pairing::Rows { labels },
        })
    };
    let spec = |name: &str, scale: f64, baseline: f64| ModalitySpec {
        scale,
        baseline: Baseline::Value(baseline),
        ..ModalitySpec::new(name, &[2])
    };
    let specs = vec![spec("far", 5.0, 6.0), spec("near", 0.2, 0.25)];
    let data = DataSet::new(
        Manifest::new("sorted", ["a", "b"], specs),
        split(200)?,
        split(60)?,
        split(ROWS)?,
    )?;
    write_dataset(&data, to, false)?;
    Ok(())
}

/// A linear network, whose radii are distances, on `write`'s data.
fn trained(dir: &Path) -> Anyhow {
    write(&dir.join("d"))?;
    let settings = [
        "data=d",
        "model.encoder=linear",
        "train.epochs=8",
        "train.learning_rate=0.05",
        "evaluate.eps=0.5",
    ];
    train(dir, "jt", "r", settings).assert().success();
    Ok(())
}

/// The rows of a table, by column.
fn table(path: impl AsRef<Path>) -> anyhow::Result<Vec<BTreeMap<String, String>>> {
    Ok(csv::Reader::from_path(path)?
        .deserialize()
        .collect::<Result<_, _>>()?)
}

fn numbers(
    rows: &[BTreeMap<String, String>],
    keep: impl Fn(&BTreeMap<String, String>) -> bool,
) -> BTreeSet<usize> {
    rows.iter()
        .filter(|row| keep(row))
        .map(|row| row["sample"].parse().expect("a number"))
        .collect()
}

#[test]
fn what_is_measured_is_drawn_of_the_whole_split() -> Anyhow {
    let dir = tempfile::tempdir()?;
    let here = dir.path();
    trained(here)?;
    let rows = || table(here.join("r/samples.csv"));
    let first = |n: usize| -> anyhow::Result<BTreeSet<usize>> {
        Ok(numbers(&rows()?, |row| {
            row["drawn"].parse::<usize>().expect("a place") < n
        }))
    };
    let attacked = |rows: &[BTreeMap<String, String>]| {
        numbers(rows, |row| !row["strongest.joint.l2.0.5"].is_empty())
    };
    // All places are taken once; the twenty of `evaluate.samples` are of both classes, which the
    // first twenty are not.
    assert_eq!(first(ROWS)?.len(), ROWS);
    let before = rows()?;
    assert_eq!(attacked(&before), first(20)?);
    assert_eq!(first(20)?.len(), 20);
    let classes: BTreeSet<&str> = before
        .iter()
        .filter(|r| !r["strongest.joint.l2.0.5"].is_empty())
        .map(|r| &*r["label"])
        .collect();
    assert_eq!(classes.len(), 2);
    let summary = json(here.join("r/summary.json"))?;
    assert_eq!(summary["drawn"]["evaluate"], ROWS);
    // More contain fewer, to which the same happened; what was kept says whom it is of.
    let evaluate = |samples: &str, more: &[&str]| {
        driver(here)
            .args(["evaluate", "r", "--samples", samples])
            .args(more)
            .assert()
            .success()
            .get_output()
            .clone()
    };
    let told = evaluate("40", &["--save-adversarials", "a.safetensors"]);
    assert!(String::from_utf8(told.stdout)?.contains("40 of 80 report samples, drawn at random"));
    let after = rows()?;
    assert_eq!(attacked(&after), first(40)?);
    for (a, b) in before
        .iter()
        .zip(&after)
        .filter(|(a, _)| !a["strongest.joint.l2.0.5"].is_empty())
    {
        assert_eq!(
            a["strongest.joint.l2.0.5"], b["strongest.joint.l2.0.5"],
            "sample {}",
            a["sample"]
        );
    }
    let bytes = fs::read(here.join("a.safetensors"))?;
    let kept = safetensors::SafeTensors::deserialize(&bytes)?;
    let kept: BTreeSet<usize> = kept
        .tensor("sample")?
        .data()
        .chunks_exact(8)
        .map(|b| usize::from(b[0]))
        .collect();
    assert_eq!(kept, first(40)?);
    assert_eq!(
        attacked(&{
            evaluate("0", &[]);
            rows()?
        })
        .len(),
        ROWS,
        "0: all of them"
    );
    // The fraction certified beside the attacks is of the same rows.
    evaluate("30", &[]);
    let (rows, summary) = (rows()?, json(here.join("r/summary.json"))?);
    let holds = |row: &&BTreeMap<String, String>| {
        row["radius.joint"].parse::<f64>().expect("a radius") >= 0.5
    };
    let held = rows
        .iter()
        .filter(|r| !r["strongest.joint.l2.0.5"].is_empty())
        .filter(holds)
        .count();
    let told = summary["certified"]
        .as_array()
        .expect("a list")
        .iter()
        .find(|c| c["threat"] == "joint" && c["eps"] == 0.5);
    assert_eq!(told.expect("told")["attacked_samples"], held as f64 / 30.0);
    Ok(())
}

#[test]
fn smoothing_draws_the_same_samples_and_keeps_their_votes() -> Anyhow {
    let dir = tempfile::tempdir()?;
    let here = dir.path();
    trained(here)?;
    let smooth = |samples: &str, more: &[&str]| -> anyhow::Result<String> {
        let mut command = driver(here);
        command.args([
            "certify",
            "r",
            "--smooth",
            "0.5",
            "--draws",
            "300",
            "--selection-draws",
            "30",
        ]);
        let output = command
            .args(["--samples", samples])
            .args(more)
            .assert()
            .success()
            .get_output()
            .clone();
        Ok(String::from_utf8(output.stderr)?)
    };
    smooth("10", &["--missing"])?;
    let few = table(here.join("r/smoothed.csv"))?;
    assert!(smooth("25", &["--missing", "--attack"])?.contains("9900 of 24750 draws are in"));
    let many = table(here.join("r/smoothed.csv"))?;
    let places = table(here.join("r/samples.csv"))?;
    let first = |n: usize| {
        numbers(&places, |row| {
            row["drawn"].parse::<usize>().expect("a place") < n
        })
    };
    assert_eq!(
        (numbers(&few, |_| true), numbers(&many, |_| true)),
        (first(10), first(25))
    );
    for row in &few {
        let same = many
            .iter()
            .find(|r| (&r["sample"], &r["missing"]) == (&row["sample"], &row["missing"]));
        assert_eq!(same, Some(row), "the votes of ten are those of twenty-five");
        assert_eq!(
            row["label"],
            places[row["sample"].parse::<usize>()?]["label"]
        );
    }
    // Drawn or not, with or without others, a sample's noise is its own.
    fs::remove_file(here.join("r/votes.json"))?;
    smooth("0", &["--missing"])?;
    let all = table(here.join("r/smoothed.csv"))?;
    assert_eq!(all.len(), 3 * ROWS);
    assert!(many.iter().all(|row| all.contains(row)));
    smooth("25", &["--missing", "--attack"])?;
    // All three certificates of a sample hold at once: each has a third of alpha, in the bound and
    // in the radius.
    let certified: Vec<_> = many.iter().filter(|row| !row["class"].is_empty()).collect();
    assert!(certified.len() > 30);
    for row in certified {
        let p = lower_bound(row["n_A"].parse()?, 300, 1e-3 / 3.0);
        let (bound, radius): (f64, f64) = (row["p_lower"].parse()?, row["radius"].parse()?);
        // Both are rounded down by some ulps.
        assert!(
            (bound - p).abs() < 1e-12 && (radius - normal_quantile(p)).abs() < 1e-9,
            "{row:?}"
        );
        // In units of each modality: sigma is 0.5 of its scale.
        for alone in ["far", "near"].iter().filter(|m| row["missing"] != **m) {
            let radius_alone: f64 = row[&format!("radius.{alone}")].parse()?;
            assert!((radius_alone - 0.5 * radius).abs() < 1e-9, "{row:?}");
        }
    }
    let summary = json(here.join("r/summary.json"))?;
    let judged = &summary["smoothing"]["judged"];
    assert_eq!(
        (&summary["violations"], &judged["violations"]),
        (&0.into(), &0.into())
    );
    assert!(judged["samples"].as_u64() > Some(5), "{judged}");
    // alpha / 3, and a wrong judgement of one in 30,000 for each of three threats and each budget.
    let attacks = summary["smoothing"]["attacks"]
        .as_array()
        .expect("a list")
        .len();
    let chance = 1e-3 / 3.0 + attacks as f64 / 30_000.0;
    assert!((judged["chance"].as_f64().expect("a number") - chance).abs() < 1e-12);
    Ok(())
}

/// Votes that nobody cast certify too much; attacks find out, and it is not chance.
#[test]
fn smoothed_certificates_that_fall_beyond_chance_are_violations() -> Anyhow {
    let dir = tempfile::tempdir()?;
    let here = dir.path();
    trained(here)?;
    let smooth = |more: &[&str]| {
        let mut command = driver(here);
        command.args([
            "certify",
            "r",
            "--smooth",
            "1",
            "--draws",
            "300",
            "--selection-draws",
            "30",
            "--eps",
            "1.8",
        ]);
        command.args(["--samples", "0"]).args(more);
        command
    };
    smooth(&[]).assert().success();
    let mut votes = json(here.join("r/votes.json"))?;
    let mut content: Value = serde_json::from_str(votes["content"].as_str().expect("text"))?;
    for (sample, counts) in content["votes"][""].as_object_mut().expect("by sample") {
        let second = sample.parse::<usize>()? >= ROWS / 2;
        *counts = if second {
            json!([[0, 30], [0, 300]])
        } else {
            json!([[30, 0], [300, 0]])
        };
    }
    let content = content.to_string();
    votes["sha256"] = format!("{:x}", Sha256::digest(&content)).into();
    votes["content"] = content.into();
    fs::write(here.join("r/votes.json"), votes.to_string())?;
    let output = smooth(&["--attack"]).assert().code(1).get_output().clone();
    assert!(
        String::from_utf8(output.stderr)?.contains("certificates of the smoothed network fell")
    );
    let summary = json(here.join("r/summary.json"))?;
    let judged = &summary["smoothing"]["judged"];
    assert_eq!(
        (&judged["samples"], &judged["violations"]),
        (&ROWS.into(), &judged["fell"])
    );
    assert_eq!(summary["violations"], judged["fell"]);
    Ok(())
}

/// Scales and baselines reach every certificate: nothing falls inside, and attacks that go a little
/// further succeed.
#[test]
fn radii_are_in_declared_units_around_declared_baselines() -> Anyhow {
    let dir = tempfile::tempdir()?;
    let here = dir.path();
    trained(here)?;
    driver(here)
        .args(["certify", "r", "--falsify", "--samples", "0", "-q"])
        .assert()
        .success();
    let summary = json(here.join("r/summary.json"))?;
    assert_eq!(summary["violations"], 0);
    let falsified = summary["falsification"].as_array().expect("a list");
    for name in ["joint", "far", "near", "without-far", "without-near"] {
        let f = falsified
            .iter()
            .find(|f| f["certificate"] == name)
            .unwrap_or_else(|| panic!("no {name}"));
        // The distance to the boundary of a linear network, which the search knows to 2.2 percent.
        assert!(
            f["samples"].as_u64() > Some(20) && f["tightness_mean"].as_f64() > Some(0.95),
            "{f}"
        );
    }
    // A radius without a modality is of what the network says with the baseline in its place.
    let rows = table(here.join("r/samples.csv"))?;
    driver(here)
        .args([
            "evaluate",
            "r",
            "--baseline",
            "zeros",
            "--threat",
            "without-far",
            "-q",
        ])
        .assert()
        .success();
    let accuracy = &json(here.join("r/summary.json"))?["accuracy"];
    for name in ["far", "near"] {
        let radius = |row: &&BTreeMap<String, String>| {
            row[&format!("radius.without-{name}")]
                .parse::<f64>()
                .expect("one")
        };
        let right = rows.iter().filter(|row| radius(row) > 0.0).count() as f64 / ROWS as f64;
        assert_eq!(accuracy["missing"][name], right, "without {name}");
        assert_ne!(
            accuracy["missing_by_baseline"]["zeros"][name], right,
            "zeros would not do"
        );
    }
    Ok(())
}
