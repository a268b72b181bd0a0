//! `cargo xtask sweep` as a program: what it runs, keeps, skips and says. A shell script stands in
//! for the driver, since only the handling of processes and files is judged here; that the real
//! driver and the sweep understand each other is tested with the driver.
#![cfg(unix)]

use assert_cmd::Command;
use predicates::str::contains;
use std::fs;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// Committed rather than written by the tests: a program that any process still holds open for
/// writing can't be started, and a fork in another test's thread may hold it.
const DRIVER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/sweep/driver.sh");

const SWEEP: &str = "name = \"t\"\n[base]\ndata = \"synthetic\"\ntrain.epochs = 2\n[grid]\nmethod = [\"jt\"]\nseed = [0, 1, 2]\n\
    [table]\ncolumns = [\"accuracy.clean\"]\n";

struct Scratch(TempDir);

impl Scratch {
    fn new(sweep: &str) -> Self {
        let folder = tempfile::tempdir().expect("a scratch folder");
        let scratch = Self(folder);
        scratch.write("sweep.toml", sweep);
        scratch
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.path().join(name), text).expect("a writable scratch folder");
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path().join(name)).unwrap_or_default()
    }

    /// Calls of the driver so far, sorted, as `method seed`.
    fn calls(&self) -> Vec<String> {
        let mut calls: Vec<String> = self.read("calls").lines().map(str::to_owned).collect();
        calls.sort();
        calls
    }

    fn sweep(&self, arguments: &[&str]) -> assert_cmd::assert::Assert {
        let mut command = Command::new(env!("CARGO_BIN_EXE_xtask"));
        command
            .current_dir(self.path())
            .args(["sweep", "sweep.toml", "--driver", DRIVER])
            .args(arguments);
        command.env_remove("RAYON_NUM_THREADS").assert()
    }

    /// The run folders and logs of the sweep `t` whose names begin with `start`.
    fn results(&self, start: &str) -> Vec<PathBuf> {
        let entries = fs::read_dir(self.path().join("runs/t"))
            .into_iter()
            .flatten();
        let paths = entries.map(|entry| entry.expect("a readable folder").path());
        paths
            .filter(|path| {
                path.file_name()
                    .is_some_and(|name| name.to_string_lossy().starts_with(start))
            })
            .collect()
    }
}

#[test]
fn a_grid_is_run_and_tabled_once() {
    let scratch = Scratch::new(SWEEP);
    scratch
        .sweep(&["--dry-run"])
        .success()
        .stdout(contains("to do").count(3))
        .stdout(contains("--seed 2"));
    assert_eq!(scratch.calls(), [""; 0], "a dry run runs nothing");
    assert!(!scratch.path().join("runs").exists(), "and writes nothing");

    // 0.5, 0.6, 0.7: mean 0.6, sample standard deviation 0.1.
    scratch
        .sweep(&["--jobs", "2"])
        .success()
        .stdout(contains("60.0 ± 10.0"))
        .stderr(contains("[3/3] ok"));
    assert_eq!(scratch.calls(), ["jt 0", "jt 1", "jt 2"]);
    assert!(
        scratch
            .read("runs/t/table.md")
            .contains("| jt | 3 | 60.0 ± 10.0 |")
    );
    assert!(
        scratch
            .read("runs/t/table.csv")
            .lines()
            .nth(1)
            .is_some_and(|line| line.starts_with("jt,3,3,0.6"))
    );
    let log = scratch
        .results("jt_seed-0")
        .into_iter()
        .find(|path| path.extension().is_some_and(|end| end == "log"));
    let log = fs::read_to_string(log.expect("a log")).expect("a readable log");
    assert!(
        log.contains("told: train --data synthetic --method jt --seed 0 --set train.epochs=2 --out runs/t/jt_seed-0_"),
        "{log}"
    );
    assert!(
        !log.contains("with  threads"),
        "each run is told its share of the cores: {log}"
    );

    scratch
        .sweep(&[])
        .success()
        .stdout(contains("3 finished earlier"))
        .stdout(contains("60.0 ± 10.0"));
    scratch.write("sweep.toml", &SWEEP.replace("[0, 1, 2]", "[0, 1, 2, 3]"));
    scratch.sweep(&[]).success().stdout(contains("65.0 ± 12.9"));
    assert_eq!(
        scratch.calls(),
        ["jt 0", "jt 1", "jt 2", "jt 3"],
        "finished runs are not run again"
    );
}

#[test]
fn a_changed_setting_is_run_anew_beside_the_old() {
    let scratch = Scratch::new(SWEEP);
    scratch.sweep(&[]).success();
    scratch.write(
        "sweep.toml",
        &SWEEP
            .replace("epochs = 2", "epochs = 3")
            .replace("[0, 1, 2]", "[0]"),
    );
    scratch
        .sweep(&[])
        .success()
        .stdout(contains("jt      1               50.0"));
    assert_eq!(scratch.calls(), ["jt 0", "jt 0", "jt 1", "jt 2"]);
    assert_eq!(
        scratch.results("jt_seed-0").len(),
        4,
        "two folders and two logs"
    );
}

#[test]
fn a_failure_is_shown_and_the_others_are_kept() {
    let scratch = Scratch::new(
        &SWEEP
            .replace("[\"jt\"]", "[\"broken\", \"jt\"]")
            .replace("[0, 1, 2]", "[0, 1]"),
    );
    let stopped = scratch.sweep(&["--jobs", "1"]).failure().code(1);
    stopped
        .stderr(contains("failed: broken_seed-0"))
        .stderr(contains("shapes differ"))
        .stderr(contains("exit status: 3"))
        .stderr(contains("3 not started"));
    assert_eq!(
        scratch.calls(),
        ["broken 0"],
        "the first failure stops the sweep"
    );

    let all = scratch.sweep(&["--keep-going"]).failure().code(1);
    assert!(
        scratch
            .read("runs/t/table.md")
            .contains("Note: 2 of 4 runs failed: broken_seed-0"),
        "counted in the table"
    );
    all.stderr(contains("2 runs failed"))
        .stdout(contains("broken  0/2"))
        .stdout(contains("55.0 ± 7.1"));
    assert_eq!(
        scratch.calls(),
        ["broken 0", "broken 0", "broken 1", "jt 0", "jt 1"]
    );

    scratch.write("mended", "");
    scratch
        .sweep(&[])
        .success()
        .stdout(contains("2 finished earlier"))
        .stdout(contains("broken  2"));
}

#[test]
fn an_interrupt_leaves_finished_runs_intact() {
    let scratch = Scratch::new(
        &SWEEP
            .replace("[\"jt\"]", "[\"jt\", \"slow\"]")
            .replace("[0, 1, 2]", "[0]"),
    );
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_xtask"));
    command.current_dir(scratch.path()).args([
        "sweep",
        "sweep.toml",
        "--driver",
        DRIVER,
        "--jobs",
        "1",
    ]);
    // A group of its own, as a terminal makes for the command it runs and interrupts.
    let mut child = command.process_group(0).spawn().expect("xtask starts");
    let start = Instant::now();
    wait_for_slow(&scratch);
    let group = format!("-{}", child.id());
    // As Ctrl-C would end all of them; but a shell may have started us in the background, where INT
    // is ignored.
    assert!(
        std::process::Command::new("kill")
            .args(["-TERM", "--", &group])
            .status()
            .expect("kill")
            .success()
    );
    assert!(!child.wait().expect("xtask ends").success());
    // Well under the 30 s that the interrupted run would have taken.
    assert!(
        start.elapsed() < Duration::from_secs(25),
        "{:?}",
        start.elapsed()
    );

    scratch.write("mended", "");
    scratch
        .sweep(&[])
        .success()
        .stdout(contains("1 finished earlier"));
    assert_eq!(
        scratch.calls(),
        ["jt 0", "resume", "slow 0", "slow 0"],
        "what was kept is gone on with"
    );
}

/// A sweep of `jt` and `slow` on its own, one run at a time, once `slow` has begun.
fn begun(scratch: &Scratch) -> std::process::Child {
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_xtask"));
    command.current_dir(scratch.path()).args([
        "sweep",
        "sweep.toml",
        "--driver",
        DRIVER,
        "--jobs",
        "1",
    ]);
    let child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("xtask starts");
    wait_for_slow(scratch);
    child
}

/// Until the run of `slow` has kept something to go on from.
fn wait_for_slow(scratch: &Scratch) {
    let start = Instant::now();
    let config = |path: &PathBuf| path.join("config.toml").is_file();
    while !scratch.results("slow_seed-0").iter().any(config) {
        assert!(
            start.elapsed() < Duration::from_secs(20),
            "two short processes start within 20 s on any machine"
        );
        std::thread::sleep(Duration::from_millis(20));
    }
}

const SLOW: [&str; 4] = ["[\"jt\"]", "[\"jt\", \"slow\"]", "[0, 1, 2]", "[0]"];

fn signal(name: &str, process: u32) {
    let status = std::process::Command::new("kill")
        .args([name, &process.to_string()])
        .status();
    assert!(status.expect("kill").success());
}

#[test]
fn a_signal_to_the_sweep_ends_its_runs_and_the_finished_ones_have_their_table() {
    for name in ["-TERM", "-HUP"] {
        let scratch = Scratch::new(&SWEEP.replace(SLOW[0], SLOW[1]).replace(SLOW[2], SLOW[3]));
        let child = begun(&scratch);
        let start = Instant::now();
        signal(name, child.id());
        let output = child.wait_with_output().expect("xtask ends");
        // Far under the 30 s of the run; its end is also that of its output, so nobody holds the
        // pipes.
        assert!(
            start.elapsed() < Duration::from_secs(20),
            "{:?}",
            start.elapsed()
        );
        assert_eq!(output.status.code(), Some(1), "it ended of itself");
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(
            error.contains("stopped slow_seed-0")
                && error.contains("stopped: 1 runs are not finished"),
            "{error}"
        );
        let table = scratch.read("runs/t/table.md");
        assert!(
            table.contains("| jt | 1 | 50.0 |") && table.contains("| slow | 0/1 | – |"),
            "{table}"
        );
        assert!(table.contains("1 of 2 runs are not finished"), "{table}");
        scratch
            .sweep(&["--dry-run"])
            .success()
            .stdout(contains("to go on"))
            .stdout(contains("train --resume runs/t/slow_"));
    }
}

#[test]
fn what_a_killed_sweep_left_running_is_left_alone_and_named() {
    let scratch = Scratch::new(&SWEEP.replace(SLOW[0], SLOW[1]).replace(SLOW[2], SLOW[3]));
    let mut child = begun(&scratch);
    signal("-KILL", child.id());
    child.wait().expect("xtask ends");
    let refused = scratch.sweep(&[]).failure().code(2);
    let error = String::from_utf8_lossy(&refused.get_output().stderr).into_owned();
    assert!(
        error.contains("another sweep is writing to runs/t, or a run that it left behind"),
        "{error}"
    );
    assert_eq!(scratch.calls(), ["jt 0", "slow 0"], "nothing was begun");
    if cfg!(target_os = "linux") {
        let named = error
            .lines()
            .find_map(|line| line.trim().strip_prefix("process "))
            .expect("the process is named");
        let (id, line) = named.split_once(": ").expect("a number and a command");
        assert!(line.contains("sleep 30"), "{named}");
        signal("-KILL", id.parse().expect("a number"));
        scratch.write("mended", "");
        let start = Instant::now();
        // The killed process lets go of the lock as soon as the system has ended it.
        while Command::new(env!("CARGO_BIN_EXE_xtask"))
            .current_dir(scratch.path())
            .args(["sweep", "sweep.toml", "--driver", DRIVER])
            .ok()
            .is_err()
        {
            assert!(start.elapsed() < Duration::from_secs(10), "it was killed");
        }
        assert_eq!(scratch.calls(), ["jt 0", "resume", "slow 0", "slow 0"]);
    }
}

#[test]
fn a_run_that_somebody_trains_is_left_alone() {
    let scratch = Scratch::new(SWEEP);
    scratch.sweep(&[]).success();
    let folder = scratch
        .results("jt_seed-1")
        .into_iter()
        .find(|path| path.is_dir())
        .expect("a run");
    fs::remove_file(folder.join("summary.json")).expect("a summary");
    let lock = fs::File::create(folder.join("lock")).expect("a file");
    lock.lock().expect("nobody else has it");
    scratch
        .sweep(&[])
        .failure()
        .code(2)
        .stderr(contains("is being written by another process"));
    assert!(folder.join("config.toml").is_file(), "nothing was cleared");
    drop(lock);
    scratch.sweep(&[]).success();
}

#[test]
fn data_that_change_between_seeds_have_no_mean() {
    let scratch = Scratch::new(
        &SWEEP
            .replace("\"synthetic\"", "\"tiny\"")
            .replace("[0, 1, 2]", "[0]"),
    );
    tiny(&scratch.path().join("tiny"));
    scratch.write("split", "old");
    scratch.sweep(&[]).success();
    scratch.write("split", "new");
    scratch.write(
        "sweep.toml",
        &scratch.read("sweep.toml").replace("[0]", "[0, 1, 2]"),
    );
    let refused = scratch.sweep(&["--jobs", "1"]).failure().code(2);
    let error = String::from_utf8_lossy(&refused.get_output().stderr).into_owned();
    assert!(
        error.contains("the data changed between these runs (report split)"),
        "{error}"
    );
    assert!(
        error.contains("\n  jt_seed-0") && error.contains("\n  jt_seed-1"),
        "{error}"
    );
    assert_eq!(scratch.calls(), ["jt 0", "jt 1"], "the third was not begun");
    assert!(
        scratch
            .read("runs/t/table.md")
            .contains("| jt | 1 | 50.0 |"),
        "the old table is as it was"
    );
    scratch
        .sweep(&["--dry-run"])
        .failure()
        .code(2)
        .stderr(contains("the data changed"));
}

/// A data set of one modality of one number.
fn tiny(folder: &Path) {
    fs::create_dir_all(folder).expect("a writable scratch folder");
    let npy = |kind: &str, shape: &str, bytes: &[u8]| {
        let header = format!("{{'descr': '{kind}', 'fortran_order': False, 'shape': {shape}, }}");
        let padded = format!("{header:<117}\n");
        [
            b"\x93NUMPY\x01\x00\x76\x00".as_slice(),
            padded.as_bytes(),
            bytes,
        ]
        .concat()
    };
    for split in ["train", "select", "report"] {
        let numbers = [0.25_f32, 0.75].map(f32::to_le_bytes).concat();
        fs::write(
            folder.join(format!("{split}.x.npy")),
            npy("<f4", "(2, 1)", &numbers),
        )
        .expect("an array");
        let labels = [0_i64, 1].map(i64::to_le_bytes).concat();
        fs::write(
            folder.join(format!("{split}.labels.npy")),
            npy("<i8", "(2,)", &labels),
        )
        .expect("labels");
    }
    let manifest = "version = 1\nname = \"tiny\"\nclasses = [\"a\", \"b\"]\n[[modalities]]\nname = \"x\"\nshape = [1]\n";
    fs::write(folder.join("dataset.toml"), manifest).expect("a manifest");
}

#[test]
fn a_dry_run_checks_what_a_run_checks() {
    for arguments in [&[][..], &["--dry-run"]] {
        let scratch = Scratch::new(&SWEEP.replace("[\"jt\"]", "[\"jt\", \"jtt\"]"));
        scratch
            .sweep(arguments)
            .failure()
            .code(2)
            .stderr(contains("3 of 6 runs: error: no method jtt"));
        scratch.write("sweep.toml", &SWEEP.replace("\"synthetic\"", "\"nowhere\""));
        scratch
            .sweep(arguments)
            .failure()
            .code(2)
            .stderr(contains("data = \"nowhere\""));
        let list = "[0, 1, 2, 3, 4, 5, 6, 7, 8, 9]";
        let grid = (0..12)
            .map(|key| format!("k{key} = {list}\n"))
            .collect::<String>();
        scratch.write("sweep.toml", &format!("name = \"t\"\n[grid]\n{grid}"));
        scratch
            .sweep(arguments)
            .failure()
            .code(2)
            .stderr(contains("the grid has 1000000000000 combinations"));
        scratch.write("sweep.toml", &format!("{SWEEP}title = \"a\\nb\"\n"));
        scratch
            .sweep(arguments)
            .failure()
            .code(2)
            .stderr(contains("table.title = \"a\\nb\""));
        assert_eq!(scratch.calls(), [""; 0]);
    }
}

#[test]
fn a_dry_run_says_what_the_sweep_costs() {
    let scratch = Scratch::new(&SWEEP.replace("[0, 1, 2]", "[0]"));
    scratch
        .sweep(&["--dry-run"])
        .success()
        .stdout(contains("1 of 1 runs remain"))
        .stdout(contains("--probe measures"));
    scratch.sweep(&[]).success();
    scratch.write("sweep.toml", &SWEEP.replace("[\"jt\"]", "[\"jt\", \"at\"]"));
    let said = scratch.sweep(&["--dry-run", "--jobs", "1"]).success();
    said.stdout(contains("2 × method jt: about 12 s each"))
        .stdout(contains("3 × method at: nothing like it was measured yet"))
        .stdout(contains(
            "together about 60 s, 1 at a time, if the 3 unknown",
        ));
    // 12 s, 19 more epochs of 3, and nine times more attacks of 2.
    let probed = scratch
        .sweep(&["--dry-run", "--jobs", "1", "--probe"])
        .success();
    probed
        .stdout(contains("3 × method at: about 87 s each"))
        .stderr(contains("1 of 20 epochs and 16 of 160"));
    assert_eq!(scratch.calls(), ["at 0", "jt 0"], "one row was measured");
    assert!(scratch.results("at").is_empty(), "somewhere else");
}

/// The driver of this workspace, where it was built beside this program, as
/// `cargo test --workspace` does.
fn real_driver() -> Option<PathBuf> {
    let driver = Path::new(env!("CARGO_BIN_EXE_xtask")).with_file_name("crmt-driver");
    driver.is_file().then_some(driver)
}

#[test]
fn the_driver_and_the_sweep_understand_each_other() {
    let Some(driver) = real_driver() else {
        eprintln!("skipped: no crmt-driver beside xtask");
        return;
    };
    let small = "train.epochs = 1\ntrain.batch = 2\nmodel.encoder = \"mlp\"\nmodel.mlp_width = 4\nmodel.features = 4\n\
                 evaluate.samples = 2\nevaluate.steps = 1\nevaluate.check_samples = 0\ncertify.samples = 2\nselect.samples = 2\n\
                 certify.evidence = \"estimated\"\n";
    let scratch = Scratch::new(&format!(
        "name = \"t\"\n[base]\ndata = \"tiny\"\nmethod = \"jt\"\n{small}[grid]\nseed = [0, 1]\n"
    ));
    tiny(&scratch.path().join("tiny"));
    let sweep = |arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_xtask"));
        command
            .current_dir(scratch.path())
            .args(["sweep", "sweep.toml", "--driver"])
            .arg(&driver);
        command.args(arguments).assert()
    };
    sweep(&[])
        .success()
        .stdout(contains("estimated.joint.1, %"));
    let table = scratch.read("runs/t/table.md");
    assert!(
        !table.contains("certified") && table.contains("\n| 2 | "),
        "nothing here is a certificate: {table}"
    );
    sweep(&["--dry-run"])
        .success()
        .stdout(contains("0 of 2 runs remain"));

    let folder = scratch
        .results("seed-1")
        .into_iter()
        .find(|path| path.is_dir())
        .expect("a run");
    let summary = fs::read_to_string(folder.join("summary.json")).expect("a summary");
    fs::write(folder.join("summary.json"), &summary[..summary.len() / 2]).expect("written");
    sweep(&[])
        .failure()
        .code(2)
        .stderr(contains("summary.json is torn"));
}

#[test]
fn mistakes_are_told_before_anything_runs() {
    let scratch = Scratch::new(
        &SWEEP
            .replace("[grid]", "[gird]")
            .replace("columns", "colums"),
    );
    let faults = scratch.sweep(&[]).failure();
    faults
        .stderr(contains("unknown key gird, did you mean grid?"))
        .stderr(contains("did you mean columns?"));
    scratch.write("sweep.toml", SWEEP);
    let absent = Command::new(env!("CARGO_BIN_EXE_xtask"))
        .current_dir(scratch.path())
        .args(["sweep", "sweep.toml", "--driver", "nowhere"])
        .assert();
    absent
        .failure()
        .stderr(contains("--driver nowhere: no such file"));

    scratch.write(
        "sweep.toml",
        &SWEEP.replace("[\"jt\"]", "[\"jt\", \"jtt\"]"),
    );
    scratch
        .sweep(&[])
        .failure()
        .stderr(contains("3 of 6 runs: error: no method jtt"));
    assert_eq!(scratch.calls(), [""; 0]);
}

#[test]
fn two_sweeps_do_not_share_a_folder() {
    let scratch = Scratch::new(SWEEP);
    fs::create_dir_all(scratch.path().join("runs/t")).expect("a folder");
    let lock = fs::File::create(scratch.path().join("runs/t/sweep.lock")).expect("a file");
    lock.lock().expect("nobody else has it");
    scratch
        .sweep(&[])
        .failure()
        .stderr(contains("another sweep is writing to runs/t"));
}
