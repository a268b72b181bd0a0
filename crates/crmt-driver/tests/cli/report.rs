//! `report` as a user meets it: runs told apart, folders with other things in them, every budget
//! that was asked for. Does not know how anything is computed.
use super::{Anyhow, driver, features, refused, stderr, train};
use std::{fs, path::Path};

const SMALL: [&str; 6] = [
    "data=features",
    "model.encoder=linear",
    "train.epochs=1",
    "evaluate.samples=10",
    "evaluate.steps=2",
    "evaluate.check_samples=0",
];

/// Runs `s0`, `s1`, … of one method that differ in the seed alone, in the folder `study`.
fn seeds(dir: &Path, seeds: &[&str]) -> Anyhow {
    features(&dir.join("features"), 60)?;
    for seed in seeds {
        train(dir, "jt", &format!("study/s{seed}"), SMALL)
            .args(["--seed", seed, "-q"])
            .assert()
            .success();
    }
    Ok(())
}

fn told(dir: &Path, args: &[&str]) -> (String, String) {
    let output = driver(dir)
        .args(args)
        .assert()
        .success()
        .get_output()
        .clone();
    (
        String::from_utf8_lossy(&output.stdout).into_owned(),
        String::from_utf8_lossy(&output.stderr).into_owned(),
    )
}

#[test]
fn runs_of_one_method_are_told_apart_in_page_and_terminal() -> Anyhow {
    let dir = tempfile::tempdir()?;
    seeds(dir.path(), &["0", "1"])?;
    let (text, _) = told(
        dir.path(),
        &["report", "study/s0", "study/s1", "--out", "c.html"],
    );
    for name in ["jt seed 0", "jt seed 1"] {
        assert!(
            text.matches(name).count() >= 2,
            "each table names each run: {text}"
        );
    }
    let page = fs::read_to_string(dir.path().join("c.html"))?;
    assert!(
        page.contains("<h1>JT seed 0 and JT seed 1</h1>"),
        "{}",
        &page[..2000]
    );
    // Nowhere a row, curve or verdict of a run that has no name of its own.
    assert!(
        !page.contains(">JT<") && !page.contains("JT ("),
        "a run without its seed"
    );
    // The same seed in two directories: the directories tell them apart; a label is a name.
    let copy = |from: &str, to: &str| super::copy(&dir.path().join(from), &dir.path().join(to));
    copy("study/s0", "other")?;
    let (text, _) = told(
        dir.path(),
        &["diagnose", "study/s0", "other", "--out", "d.html"],
    );
    assert!(
        text.contains("jt (s0)") && text.contains("jt (other) "),
        "{text}"
    );
    assert!(
        fs::read_to_string(dir.path().join("d.html"))?.contains("<h1>JT (s0) and JT (other)</h1>")
    );
    train(dir.path(), "jt", "labelled", SMALL)
        .args(["--set", "label=no margin <b>", "-q"])
        .assert()
        .success();
    let (text, _) = told(
        dir.path(),
        &["report", "study/s0", "labelled", "--out", "c.html"],
    );
    assert!(
        text.contains("  no margin <b> ") && text.contains("  jt "),
        "{text}"
    );
    assert!(
        fs::read_to_string(dir.path().join("c.html"))?
            .contains("<h1>JT and no margin &lt;b&gt;</h1>")
    );
    refused(
        train(dir.path(), "jt", "x", SMALL).args(["--set", "label=two\nlines"]),
        &["label: one line"],
    );
    Ok(())
}

#[test]
fn a_folder_of_a_sweep_is_reported_whatever_else_lies_in_it() -> Anyhow {
    let dir = tempfile::tempdir()?;
    seeds(dir.path(), &["0", "1"])?;
    let study = dir.path().join("study");
    for name in ["s0.log", "s1.log", "table.md", "table.tex", "results.csv"] {
        fs::write(study.join(name), "text")?;
    }
    fs::create_dir(study.join("stopped"))?;
    fs::write(study.join("stopped/config.toml"), "seed = 2\n")?;
    let mut entries: Vec<String> = fs::read_dir(&study)?
        .map(|entry| Ok(format!("study/{}", entry?.file_name().to_string_lossy())))
        .collect::<std::io::Result<_>>()?;
    entries.sort();
    let command = |paths: &[&str]| {
        let mut command = driver(dir.path());
        command.arg("report").args(paths).args(["--out", "c.html"]);
        command
    };
    let said = stderr(&mut command(
        &entries.iter().map(String::as_str).collect::<Vec<_>>(),
    ));
    assert!(
        said.contains(
            "left out, no runs: study/results.csv, study/s0.log, study/s1.log and 2 more"
        ),
        "{said}"
    );
    assert!(
        said.contains("left out, incomplete: study/stopped (no summary.json)"),
        "{said}"
    );
    let page = fs::read(dir.path().join("c.html"))?;
    let said = stderr(&mut command(&["study"]));
    assert!(
        said.contains("stopped (no summary.json)") && !said.contains(".log"),
        "{said}"
    );
    assert_eq!(
        fs::read(dir.path().join("c.html"))?,
        page,
        "the folder stands for its runs"
    );
    driver(dir.path())
        .args(["report", "study", "-q"])
        .assert()
        .success();
    assert!(
        study.join("report.html").exists(),
        "beside the runs, not in the first of them"
    );
    refused(
        &mut command(&["study/s0.log"]),
        &["study/s0.log", "directories that train --out wrote"],
    );
    refused(
        &mut command(&["study/stopped"]),
        &["study/stopped", "no summary.json", "--resume"],
    );
    refused(
        &mut command(&["study/s0", "study/s7"]),
        &["study/s7", "no such run"],
    );
    refused(
        driver(dir.path()).args(["diagnose", "study/s0.log"]),
        &["directories that train --out wrote"],
    );
    Ok(())
}

#[test]
fn every_budget_that_was_asked_for_is_shown() -> Anyhow {
    let dir = tempfile::tempdir()?;
    seeds(dir.path(), &["0"])?;
    let (text, _) = told(dir.path(), &["certify", "study/s0", "--eps", "0.01,2"]);
    let row = |budget: &str| {
        let rows: Vec<&str> = text.lines().filter(|line| line.contains(budget)).collect();
        assert!(
            rows.len() >= 2,
            "joint and single modalities at {budget}: {text}"
        );
        rows[0]
            .split("   ")
            .filter(|cell| !cell.trim().is_empty())
            .map(|c| c.trim().to_owned())
            .collect::<Vec<_>>()
    };
    // Threat, budget, clean, attacked, certified, estimated; the run's name comes first where the
    // table begins.
    for (budget, attacked) in [("l2 2", false), ("l2 0.01", false), ("l2 0.5", true)] {
        let cells = row(budget);
        let at = cells
            .iter()
            .position(|cell| cell == budget)
            .expect("a budget");
        assert!(
            cells[at + 1].ends_with('%') && cells[at + 3].ends_with('%'),
            "{cells:?}"
        );
        assert_eq!(cells[at + 2].ends_with('%'), attacked, "{cells:?}");
    }
    assert!(text.contains("10 of 60 report samples"), "{text}");
    assert!(
        text.lines().all(|line| line.chars().count() <= 80),
        "{text}"
    );
    let page = fs::read_to_string(dir.path().join("study/s0/report.html"))?;
    assert!(
        page.contains("<th scope=\"col\">2</th>") && page.contains("<th scope=\"col\">0.01</th>")
    );
    Ok(())
}

#[test]
fn charts_are_written_as_files_and_never_over_others() -> Anyhow {
    let dir = tempfile::tempdir()?;
    seeds(dir.path(), &["0", "1"])?;
    let report = |folder: &str| {
        let mut command = driver(dir.path());
        command.args(["report", "study", "--figures", folder, "-q"]);
        command
    };
    report("charts").assert().success();
    let files = || -> anyhow::Result<Vec<(String, Vec<u8>)>> {
        let mut files = vec![];
        for entry in fs::read_dir(dir.path().join("charts"))? {
            let path = entry?.path();
            files.push((
                path.file_name()
                    .unwrap_or_default()
                    .to_string_lossy()
                    .into_owned(),
                fs::read(&path)?,
            ));
        }
        files.sort();
        Ok(files)
    };
    let first = files()?;
    let has = |name: &str| first.iter().any(|(file, _)| file == name);
    for ending in ["svg", "png"] {
        assert!(
            has(&format!(
                "accuracy-under-the-strongest-attack-joint-l2.{ending}"
            )),
            "{first:?}"
        );
        assert!(has(&format!(
            "accuracy-of-jt-seed-1-against-the-budget-joint-l2.{ending}"
        )));
    }
    for (name, bytes) in &first {
        let start: &[u8] = if name.ends_with("svg") {
            b"<svg "
        } else {
            b"\x89PNG"
        };
        assert!(bytes.starts_with(start), "{name}");
    }
    report("charts").assert().success();
    assert_eq!(files()?, first, "the same runs give the same files");
    // Somebody's own file under such a name stays, and so does everything else.
    let own = dir
        .path()
        .join("charts/accuracy-under-the-strongest-attack-joint-l2.png");
    fs::write(&own, "mine")?;
    fs::remove_file(dir.path().join("study/report.html"))?;
    refused(
        &mut report("charts"),
        &["joint-l2.png", "no figure of a report", "another folder"],
    );
    assert_eq!(fs::read_to_string(&own)?, "mine");
    assert!(!dir.path().join("study/report.html").exists());
    refused(
        &mut report("features/dataset.toml"),
        &["dataset.toml", "this is a file"],
    );
    Ok(())
}
