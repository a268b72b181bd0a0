//! That the results of a run are one: torn, edited or foreign files are refused by name, and what
//! to do is said. Does not know what the results say.
use super::{Anyhow, driver, features, json, refused, smooth, stderr, train};
use serde_json::Value;
use sha2::{Digest, Sha256};
use std::{
    fs,
    path::{Path, PathBuf},
};

fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

/// Writes a summary as the program would have: its own hash, and those of the files as they are
/// now.
pub fn reseal(run: &Path, mut summary: Value) -> Anyhow {
    let entries = summary.as_object_mut().expect("an object");
    for (name, hash) in entries["files"].as_object_mut().expect("an object") {
        *hash = sha256(&fs::read(run.join(name))?).into();
    }
    entries.shift_remove("sha256");
    let hash = sha256(summary.to_string().as_bytes());
    summary["sha256"] = hash.into();
    Ok(fs::write(
        run.join("summary.json"),
        format!("{summary:#}\n"),
    )?)
}

/// A run of three modalities whose radii are proved.
fn proved(dir: &Path) -> Anyhow {
    features(&dir.join("f"), 40)?;
    train(
        dir,
        "jt",
        "r",
        ["data=f", "model.encoder=linear", "train.epochs=1"],
    )
    .assert()
    .success();
    Ok(())
}

/// The description of a data set, without what its files must be.
pub fn unsealed(data: &Path) -> anyhow::Result<PathBuf> {
    let manifest = data.join("dataset.toml");
    let text = fs::read_to_string(&manifest)?;
    fs::write(&manifest, text.split("[sha256]").next().unwrap_or_default())?;
    Ok(manifest)
}

fn evidence(run: &Path) -> anyhow::Result<Vec<String>> {
    let summary = json(run.join("summary.json"))?;
    let listed = |key: &str| summary[key].as_array().expect("a list").clone();
    let of = |key| {
        listed(key)
            .into_iter()
            .map(|r| r["evidence"].as_str().expect("text").to_owned())
    };
    let mut all: Vec<String> = of("certified").chain(of("radii")).collect();
    let mut table = csv::Reader::from_path(run.join("samples.csv"))?;
    let at = table
        .headers()?
        .iter()
        .position(|name| name == "evidence.joint")
        .expect("a column");
    all.extend(
        table
            .records()
            .map(|record| record.expect("a row")[at].to_owned()),
    );
    all.sort();
    all.dedup();
    Ok(all)
}

#[test]
fn a_report_that_cannot_be_written_leaves_one_generation() -> Anyhow {
    let dir = tempfile::tempdir()?;
    let (here, run) = (dir.path(), dir.path().join("r"));
    proved(here)?;
    assert_eq!(evidence(&run)?, ["proved"]);
    fs::remove_file(run.join("report.html"))?;
    fs::create_dir(run.join("report.html"))?;
    let estimated = ["certify", "r", "--evidence", "estimated"];
    refused(
        driver(here).args(estimated),
        &[
            "report.html",
            "results in r are complete",
            "`report r` makes it again",
        ],
    );
    assert_eq!(evidence(&run)?, ["estimated"]);
    fs::remove_dir(run.join("report.html"))?;
    driver(here).args(["report", "r"]).assert().success();
    driver(here)
        .args(["evaluate", "r", "--eps", "0.1,2"])
        .assert()
        .success();
    assert_eq!(
        evidence(&run)?,
        ["estimated"],
        "what was estimated is never certified"
    );
    let page = fs::read_to_string(run.join("report.html"))?;
    driver(here)
        .args(["report", "r", "--out", "again.html"])
        .assert()
        .success();
    assert_eq!(fs::read_to_string(here.join("again.html"))?, page);
    Ok(())
}

#[test]
fn a_file_in_the_way_changes_nothing() -> Anyhow {
    let dir = tempfile::tempdir()?;
    let (here, run) = (dir.path(), dir.path().join("r"));
    proved(here)?;
    let all = || {
        ["samples.csv", "summary.json", "config.toml", "report.html"]
            .map(|f| fs::read(run.join(f)).unwrap())
    };
    let before = all();
    fs::create_dir(run.join("diagnosis.csv"))?;
    refused(
        driver(here).args(["diagnose", "r"]),
        &["diagnosis.csv", "in the way", "nothing was changed"],
    );
    assert_eq!(all(), before);
    assert!(!run.join(".crmt-staged").exists() && !run.join("lock").exists());
    Ok(())
}

/// Of what was killed in the middle: all of the old results or all of the new ones.
#[test]
fn results_are_completed_or_dropped_by_the_next_command() -> Anyhow {
    let dir = tempfile::tempdir()?;
    let (here, run) = (dir.path(), dir.path().join("r"));
    proved(here)?;
    let names = [
        "config.toml",
        "metrics.jsonl",
        "samples.csv",
        "summary.json",
    ];
    let read = || names.map(|name| fs::read(run.join(name)).expect(name));
    let old = read();
    driver(here)
        .args(["certify", "r", "--evidence", "estimated"])
        .assert()
        .success();
    let new = read();
    let put = |folder: &Path, files: &[Vec<u8>]| {
        names.iter().zip(files).for_each(|(name, bytes)| {
            fs::write(folder.join(name), bytes).expect(name);
        })
    };
    // Killed before all of it was written.
    put(&run, &old);
    fs::create_dir(run.join(".crmt-staged"))?;
    fs::write(run.join(".crmt-staged/samples.csv"), "sample,lab")?;
    fs::write(run.join(".crmt-tmp-dead"), "")?;
    driver(here).args(["report", "r", "-q"]).assert().success();
    assert_eq!(read(), old);
    assert!(!run.join(".crmt-staged").exists() && !run.join(".crmt-tmp-dead").exists());
    // Killed after that: so many files were in place already.
    for moved in 0..=names.len() {
        put(&run, &old);
        let committed = run.join(".crmt-committed");
        fs::create_dir(&committed)?;
        put(&committed, &new);
        for name in &names[..moved] {
            fs::rename(committed.join(name), run.join(name))?;
        }
        driver(here).args(["report", "r", "-q"]).assert().success();
        assert_eq!(read(), new, "{moved} files were in place");
        assert!(!committed.exists());
        assert_eq!(evidence(&run)?, ["estimated"]);
    }
    Ok(())
}

#[test]
fn edited_results_are_refused_by_name_and_can_be_remade() -> Anyhow {
    let dir = tempfile::tempdir()?;
    let (here, run) = (dir.path(), dir.path().join("r"));
    proved(here)?;
    let samples = run.join("samples.csv");
    let good = fs::read_to_string(&samples)?;
    // Ten times each radius.
    let mut table = csv::Reader::from_reader(good.as_bytes());
    let header = table.headers()?.clone();
    let mut bent = csv::Writer::from_writer(vec![]);
    bent.write_record(&header)?;
    for record in table.records() {
        let record = record?;
        let cells =
            header
                .iter()
                .zip(&record)
                .map(|(name, cell)| match name.starts_with("radius.") {
                    true => (10.0 * cell.parse::<f64>().expect("a radius")).to_string(),
                    false => cell.to_owned(),
                });
        bent.write_record(cells)?;
    }
    fs::write(&samples, bent.into_inner()?)?;
    for args in [
        &["evaluate", "r"][..],
        &["diagnose", "r"],
        &["report", "r"],
        &["certify", "r", "--smooth", "1"],
    ] {
        refused(
            driver(here).args(args),
            &[
                "samples.csv",
                "altered",
                "`certify r` computes the radii again",
            ],
        );
    }
    let told = stderr(driver(here).args(["certify", "r"]));
    assert!(
        told.contains("samples.csv was altered") && told.contains("`evaluate r` attacks again"),
        "{told}"
    );
    assert_eq!(
        json(run.join("summary.json"))?["attacks"],
        serde_json::json!([])
    );
    driver(here).args(["evaluate", "r"]).assert().success();
    assert_eq!(
        fs::read_to_string(&samples)?,
        good,
        "the same bits as before"
    );
    for (name, advice) in [
        ("config.toml", "restore it"),
        ("metrics.jsonl", "restore it"),
    ] {
        let bytes = fs::read(run.join(name))?;
        fs::write(run.join(name), [&bytes[..], b"\n"].concat())?;
        refused(
            driver(here).args(["evaluate", "r"]),
            &[name, "altered", advice],
        );
        fs::write(run.join(name), bytes)?;
    }
    Ok(())
}

#[test]
fn an_edited_summary_is_refused_and_a_foreign_one_too() -> Anyhow {
    let dir = tempfile::tempdir()?;
    let (here, run) = (dir.path(), dir.path().join("r"));
    proved(here)?;
    let path = run.join("summary.json");
    let good = json(&path)?;
    let refusal = |parts: &[&str]| {
        for args in [&["report", "r"][..], &["evaluate", "r"]] {
            refused(
                driver(here).args(args),
                &[&["summary.json"], parts].concat(),
            );
        }
    };
    let changed = |change: &dyn Fn(&mut Value)| {
        let mut summary = good.clone();
        change(&mut summary);
        summary
    };
    fs::write(
        &path,
        changed(&|s| s["accuracy"]["clean"] = 0.5.into()).to_string(),
    )?;
    refusal(&["does not match its hash", "train the run again"]);
    fs::write(&path, changed(&|s| s["format"] = 9.into()).to_string())?;
    refusal(&["format 9", "train the run again"]);
    fs::write(
        &path,
        changed(&|s| drop(s.as_object_mut().unwrap().remove("format"))).to_string(),
    )?;
    refusal(&["older version", "train the run again"]);
    // Whoever writes a seal of their own is told what does not fit together.
    reseal(
        &run,
        changed(&|s| {
            s["radii"]
                .as_array_mut()
                .unwrap()
                .iter_mut()
                .for_each(|r| r["evidence"] = "estimated".into())
        }),
    )?;
    refusal(&["estimated", "samples.csv", "proved"]);
    reseal(
        &run,
        changed(&|s| {
            s["confusion"] = serde_json::json!([[1u64 << 63, 1u64 << 63], [1u64 << 63, 0]])
        }),
    )?;
    refusal(&["`confusion`"]);
    let open = |part: &str| {
        refused(
            driver(here).args(["evaluate", "r"]),
            &["summary.json", part],
        )
    };
    reseal(&run, changed(&|s| s["weights"] = "0".repeat(64).into()))?;
    open("different models");
    reseal(
        &run,
        changed(&|s| s["modalities"] = serde_json::json!(["middle", "left", "right"])),
    )?;
    open("modalities");
    reseal(
        &run,
        changed(&|s| s["classes"] = serde_json::json!(["yes", "no"])),
    )?;
    open("classes");
    // How it is spaced is nobody's business.
    fs::write(&path, good.to_string())?;
    driver(here)
        .args(["evaluate", "r", "-q"])
        .assert()
        .success();
    Ok(())
}

/// A run is about its modalities, baselines and training data, not only about its report split.
#[test]
fn data_that_changed_beneath_a_run_are_refused() -> Anyhow {
    let dir = tempfile::tempdir()?;
    let here = dir.path();
    proved(here)?;
    let manifest = unsealed(&here.join("f"))?;
    let good = fs::read_to_string(&manifest)?;
    for (line, other, part) in [
        ("scale = 1.0", "scale = 2.0", "other modalities"),
        (
            "shape = [3]",
            "shape = [3]\nrange = [-9.0, 9.0]",
            "other modalities",
        ),
        ("baseline = \"zeros\"", "baseline = 0.5", "`baseline`"),
    ] {
        assert!(good.contains(line), "{good}");
        fs::write(&manifest, good.replacen(line, other, 1))?;
        for command in ["evaluate", "certify", "diagnose"] {
            refused(driver(here).args([command, "r"]), &[part]);
        }
    }
    fs::write(&manifest, &good)?;
    let train_split = here.join("f/train.left.npy");
    let mut bytes = fs::read(&train_split)?;
    *bytes.last_mut().expect("values") ^= 0x80;
    fs::write(&train_split, bytes)?;
    // Proofs need no training data, estimates and means do.
    driver(here).args(["certify", "r", "-q"]).assert().success();
    driver(here)
        .args(["evaluate", "r", "-q"])
        .assert()
        .success();
    refused(
        driver(here).args(["certify", "r", "--evidence", "estimated"]),
        &["training split", "(f)", "estimated on it"],
    );
    refused(
        driver(here).args(["evaluate", "r", "--baseline", "mean"]),
        &["training split", "(f)", "baselines"],
    );
    Ok(())
}

#[test]
fn votes_of_other_weights_are_not_counted() -> Anyhow {
    let dir = tempfile::tempdir()?;
    let here = dir.path();
    features(&here.join("f"), 40)?;
    for (run, epochs) in [("r", "train.epochs=1"), ("s", "train.epochs=4")] {
        train(
            here,
            "jt",
            run,
            [
                "data=f",
                "model.encoder=linear",
                epochs,
                "train.learning_rate=0.05",
            ],
        )
        .assert()
        .success();
    }
    let args = [
        "1",
        "--samples",
        "10",
        "--draws",
        "200",
        "--selection-draws",
        "20",
    ];
    for run in ["r", "s"] {
        smooth(here, run, &args).assert().success();
    }
    let own = fs::read(here.join("s/votes.json"))?;
    let smoothed = fs::read(here.join("s/smoothed.csv"))?;
    fs::copy(here.join("r/votes.json"), here.join("s/votes.json"))?;
    let told = stderr(&mut smooth(here, "s", &args));
    assert!(
        told.contains("is of weights") && told.contains("drawing anew"),
        "{told}"
    );
    assert_eq!(
        (
            fs::read(here.join("s/votes.json"))?,
            fs::read(here.join("s/smoothed.csv"))?
        ),
        (own, smoothed)
    );
    Ok(())
}
