//! That nothing of the user's is lost or touched, that commands do not overwrite each other, and
//! that what a terminal obeys never reaches it. Does not know what a run holds.
use super::{Anyhow, driver, features, json, refused, results::unsealed, stderr, train};
use std::{
    fs::{self, File},
    path::Path,
    process::{Command, Stdio},
};

const LINEAR: [&str; 4] = [
    "data=f",
    "model.encoder=linear",
    "train.epochs=1",
    "train.batch=20",
];

fn tree(dir: &Path) -> anyhow::Result<Vec<(String, Vec<u8>)>> {
    let files = fs::read_dir(dir)?
        .flatten()
        .filter(|entry| entry.path().is_file());
    let mut all: Vec<_> = files
        .map(|e| (e.file_name().to_string_lossy().into_owned(), e.path()))
        .collect();
    all.sort();
    all.into_iter()
        .map(|(name, path)| Ok((name, fs::read(path)?)))
        .collect()
}

#[test]
fn directories_that_are_no_runs_are_left_alone() -> Anyhow {
    let dir = tempfile::tempdir()?;
    let here = dir.path();
    features(&here.join("f"), 40)?;
    fs::create_dir(here.join("mine"))?;
    fs::write(
        here.join("mine/config.toml"),
        "data = 'f'\nmethod = 'jt'\n[train]\nepochs = 1\nbatch = 20\n",
    )?;
    fs::write(here.join("mine/report.html"), "my own page")?;
    for (out, holds) in [("mine", "`"), ("f", "`"), (".", "`"), ("/", "`")] {
        let before = (
            tree(here)?,
            tree(&here.join("mine"))?,
            tree(&here.join("f"))?,
        );
        for more in [&[][..], &["--overwrite"]] {
            let args = ["train", "--config", "mine/config.toml", "--out", out];
            refused(
                driver(here).args(args).args(more),
                &[out, "no run of this program", "--out", holds],
            );
        }
        assert!(
            before
                == (
                    tree(here)?,
                    tree(&here.join("mine"))?,
                    tree(&here.join("f"))?
                ),
            "{out}"
        );
    }
    // An empty one is as good as a new one.
    fs::create_dir(here.join("empty"))?;
    driver(here)
        .args([
            "train",
            "--config",
            "mine/config.toml",
            "--out",
            "empty",
            "-q",
        ])
        .assert()
        .success();
    Ok(())
}

#[test]
fn a_run_is_replaced_only_when_the_new_one_can_be_trained() -> Anyhow {
    let dir = tempfile::tempdir()?;
    let here = dir.path();
    features(&here.join("f"), 40)?;
    train(here, "jt", "r", LINEAR).assert().success();
    let before = tree(&here.join("r"))?;
    let manifest = unsealed(&here.join("f"))?;
    let good = fs::read_to_string(&manifest)?;
    let again = |settings: &[&str], parts: &[&str]| {
        refused(
            train(here, "jt", "r", settings.iter().copied()).arg("--overwrite"),
            parts,
        );
        assert!(
            tree(&here.join("r")).expect("files") == before,
            "{settings:?}"
        );
    };
    again(&["data=nowhere"], &["nowhere"]);
    again(&["data=f", "model.encoder=cnn"], &["left"]);
    again(&["data=f", "train.batch=100"], &["train.batch"]);
    // One class, the labels of which all fit.
    let single = good.lines().map(|line| {
        if line.starts_with("classes") {
            "classes = [\"no\"]"
        } else {
            line
        }
    });
    fs::write(&manifest, single.collect::<Vec<_>>().join("\n"))?;
    for split in ["train", "select", "report"] {
        let path = here.join(format!("f/{split}.labels.npy"));
        let mut bytes = fs::read(&path)?;
        let content = bytes.iter().position(|b| *b == b'\n').expect("a header") + 1;
        bytes[content..].fill(0);
        fs::write(path, bytes)?;
    }
    again(
        &["data=f", "model.encoder=linear"],
        &["`classes`", "dataset.toml"],
    );
    Ok(())
}

#[test]
fn one_command_at_a_time_and_the_other_is_told_which() -> Anyhow {
    let dir = tempfile::tempdir()?;
    let here = dir.path();
    features(&here.join("f"), 40)?;
    train(here, "jt", "r", LINEAR).assert().success();
    let lock = here.join("r/lock");
    assert!(!lock.exists());
    let held = File::create(&lock)?;
    held.lock()?;
    for (content, told) in [
        ("crmt-driver evaluate, process 4711\n", "`evaluate`"),
        ("crmt-driver train, process 4711\n", "being trained"),
    ] {
        fs::write(&lock, content)?;
        let before = tree(&here.join("r"))?;
        for args in [
            &["evaluate", "r"][..],
            &["certify", "r"],
            &["diagnose", "r"],
            &["report", "r"],
        ] {
            refused(
                driver(here).args(args),
                &["r is", "another process (4711)", told],
            );
        }
        refused(
            train(here, "jt", "r", LINEAR).arg("--overwrite"),
            &["another process (4711)", told],
        );
        assert!(tree(&here.join("r"))? == before);
        // To look at it is no harm.
        driver(here)
            .args(["report", "r", "--out", "page.html", "-q"])
            .assert()
            .success();
    }
    drop(held);
    driver(here)
        .args(["evaluate", "r", "-q"])
        .assert()
        .success();
    assert!(
        !lock.exists(),
        "what a killed command left is in nobody's way"
    );
    // Twice the same run is one run.
    driver(here)
        .args(["diagnose", "r", "./r", "-q"])
        .assert()
        .success();
    driver(here)
        .args(["report", "r", "./r", "-q"])
        .assert()
        .success();
    Ok(())
}

#[cfg(unix)]
#[test]
fn links_are_not_followed() -> Anyhow {
    let dir = tempfile::tempdir()?;
    let here = dir.path();
    features(&here.join("f"), 40)?;
    let target = here.join("target");
    fs::write(&target, "precious")?;
    fs::create_dir(here.join("r"))?;
    std::os::unix::fs::symlink(&target, here.join("r/lock"))?;
    refused(
        &mut train(here, "jt", "r", LINEAR),
        &["r is not empty", "lock"],
    );
    fs::remove_file(here.join("r/lock"))?;
    train(here, "jt", "r", LINEAR).assert().success();
    std::os::unix::fs::symlink(&target, here.join("r/lock"))?;
    refused(driver(here).args(["evaluate", "r"]), &["lock", "link"]);
    refused(
        train(here, "jt", "r", LINEAR).arg("--overwrite"),
        &["lock", "link"],
    );
    assert_eq!(fs::read_to_string(&target)?, "precious");
    Ok(())
}

#[test]
fn saving_beside_other_files_leaves_them() -> Anyhow {
    let dir = tempfile::tempdir()?;
    let here = dir.path();
    features(&here.join("f"), 40)?;
    train(here, "jt", "r", LINEAR).assert().success();
    for name in ["x.probe", "y.probe"] {
        fs::write(here.join(name), "mine")?;
    }
    driver(here)
        .args(["evaluate", "r", "-q", "--save-predictions", "x.npz"])
        .assert()
        .success();
    driver(here)
        .args(["evaluate", "r", "-q", "--save-adversarials", "y.npz"])
        .assert()
        .success();
    for args in [
        &["report", "r", "--out"][..],
        &["evaluate", "r", "--save-adversarials"],
    ] {
        let file = "r/model.safetensors";
        refused(
            driver(here).args(args).arg(file),
            &[file, "a file of a run"],
        );
    }
    let names: Vec<String> = tree(here)?.into_iter().map(|(name, _)| name).collect();
    assert_eq!(names, ["x.npz", "x.probe", "y.npz", "y.probe"]);
    assert!(
        ["x.probe", "y.probe"]
            .iter()
            .all(|name| fs::read(here.join(name)).is_ok_and(|b| b == b"mine"))
    );
    Ok(())
}

#[cfg(unix)]
#[test]
fn nobody_reading_is_no_reason_to_stop() -> Anyhow {
    let dir = tempfile::tempdir()?;
    let here = dir.path();
    features(&here.join("f"), 40)?;
    let program = assert_cmd::cargo::cargo_bin("crmt-driver");
    let report = |streams: &dyn Fn(&mut Command), args: &[&str]| -> anyhow::Result<Option<i32>> {
        let mut command = Command::new(&program);
        command
            .current_dir(here)
            .args(args)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        streams(&mut command);
        let mut child = command.spawn()?;
        drop((child.stdout.take(), child.stderr.take()));
        Ok(child.wait()?.code())
    };
    let settings = LINEAR.iter().flat_map(|setting| ["--set", setting]);
    let args: Vec<&str> = ["train", "-v", "--method", "jt", "--overwrite", "--out", "r"]
        .into_iter()
        .chain(settings)
        .collect();
    let closed = |command: &mut Command| {
        command.stderr(Stdio::piped());
    };
    assert_eq!(report(&closed, &args)?, Some(0));
    assert!(here.join("r/summary.json").exists());
    assert_eq!(report(&closed, &["certify", "r", "--audit"])?, Some(0));
    assert_eq!(
        report(&closed, &["evaluate", "nowhere"])?,
        Some(2),
        "not even an error can be said"
    );
    assert_eq!(
        report(
            &|command| {
                command.stdout(Stdio::piped());
            },
            &["report", "r"]
        )?,
        Some(0)
    );
    if Path::new("/dev/full").exists() {
        let full = |command: &mut Command| {
            command.stderr(File::create("/dev/full").expect("a device"));
        };
        assert_eq!(report(&full, &args)?, Some(0));
    }
    Ok(())
}

#[test]
fn names_and_logs_never_steer_a_terminal() -> Anyhow {
    let dir = tempfile::tempdir()?;
    let here = dir.path();
    features(&here.join("f"), 40)?;
    train(here, "jt", "r", LINEAR).assert().success();
    let steers =
        |text: &str| text.contains(|c: char| (c.is_control() && c != '\n') || c == '\u{202e}');
    let mut verbose = driver(here);
    verbose
        .args(["evaluate", "r", "-v", "--eps", "0.5"])
        .env("TERM", "xterm-256color")
        .env("FORCE_COLOR", "1");
    assert!(!steers(&stderr(&mut verbose)));
    let manifest = here.join("f/dataset.toml");
    let text = fs::read_to_string(&manifest)?;
    let hostile = r"\u001b[31mX\u001b]0;t\u0007\u009b2J\u202e";
    for (old, new) in [
        ("\"features\"", format!("\"{hostile}\"")),
        ("\"yes\"", format!("\"{hostile}\"")),
    ] {
        assert!(text.contains(old), "{text}");
        fs::write(&manifest, text.replace(old, &new))?;
        for json in [false, true] {
            let mut command = train(here, "jt", "s", LINEAR);
            command.arg("--overwrite");
            if json {
                command.arg("--json");
            }
            // Whether such a name is taken or refused.
            let output = command.output()?;
            let told = [&output.stdout[..], &output.stderr].concat();
            assert!(
                !steers(&String::from_utf8_lossy(&told)),
                "{}",
                String::from_utf8_lossy(&told).escape_debug()
            );
        }
    }
    Ok(())
}

#[test]
fn runs_on_different_data_are_not_compared_in_silence() -> Anyhow {
    let dir = tempfile::tempdir()?;
    let here = dir.path();
    for (data, rows) in [("f", 40), ("g", 44)] {
        features(&here.join(data), rows)?;
    }
    for (run, data) in [("r", "data=f"), ("s", "data=g")] {
        train(
            here,
            "jt",
            run,
            [data, "model.encoder=linear", "train.epochs=1"],
        )
        .assert()
        .success();
    }
    assert_eq!(
        json(here.join("r/summary.json"))?["data"],
        json(here.join("s/summary.json"))?["data"]
    );
    let told = stderr(driver(here).args(["report", "r", "s", "--out", "both.html"]));
    assert!(told.contains("different data"), "{told}");
    let page = fs::read_to_string(here.join("both.html"))?;
    assert!(page.contains("banner bad") && page.contains("different data"));
    let told = stderr(driver(here).args(["report", "r", "r", "--out", "both.html"]));
    assert!(
        !told.contains("different data")
            && !fs::read_to_string(here.join("both.html"))?.contains("different data")
    );
    Ok(())
}
