//! A run under torture: commands one after the other and at once, killed, with closed streams, full
//! disks and things in the way. Whatever happens, the run's files agree, or the run says that it is
//! incomplete, and nothing else is touched. Does not know what any command computes.
//!
//! Every pair of commands once, in an order and with accidents that a fixed seed draws, for no
//! longer than a minute. `CRMT_TORTURE_SECONDS=3600 cargo test -p crmt-driver --test torture` goes
//! on for an hour, with new draws each round; `CRMT_TORTURE_SEED` starts from other ones. What was
//! drawn is printed where it fails.
#![cfg(unix)]
use crmt_data::{Array, DataSet, Manifest, ModalitySpec, Pairing, Samples, write_dataset};
use rand::{Rng, SeedableRng, rngs::StdRng, seq::SliceRandom};
use serde_json::Value;
use sha2::{Digest, Sha256};
use std::{
    env, fs,
    os::unix::{fs::PermissionsExt, process::ExitStatusExt},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};

type Anyhow<T = ()> = anyhow::Result<T>;

/// Without being told otherwise.
const SECONDS: u64 = 60;
const RUN: &str = "run";

const COMMANDS: [&[&str]; 9] = [
    &["train", "--out", RUN, "--overwrite", "--method", "jt"],
    &["train", "--out", RUN, "--overwrite", "--method", "mixup"],
    &["train", "--resume", RUN],
    &["evaluate", RUN, "--eps", "0.1,0.5"],
    &["certify", RUN, "--evidence", "estimated"],
    &[
        "certify",
        RUN,
        "--evidence",
        "proved",
        "--falsify",
        "--samples",
        "4",
        "--steps",
        "2",
    ],
    &[
        "certify",
        RUN,
        "--smooth",
        "0.5",
        "--draws",
        "100",
        "--selection-draws",
        "10",
        "--samples",
        "8",
    ],
    &["diagnose", RUN],
    &["report", RUN],
];

/// Of `train`, beyond its arguments.
const SETTINGS: &[&str] = &[
    "data=data",
    "model.encoder=linear",
    "model.features=4",
    "train.epochs=3",
    "train.batch=8",
    "train.checkpoint_seconds=0",
    "select.samples=8",
    "select.steps=2",
    "evaluate.samples=8",
    "evaluate.steps=2",
    "evaluate.check_samples=0",
    "falsify.rays=1",
    "falsify.tightness_samples=2",
];

/// What happens to a command.
#[derive(Debug, Clone, Copy)]
enum Accident {
    Nothing,
    /// After this part of the time that it usually takes.
    Kill(f64),
    NoStdout,
    NoStderr,
    /// No file may become larger than so many blocks of 512 bytes.
    FullDisk(u32),
    /// A directory where this file would be.
    InTheWay(&'static str),
    ReadOnly,
}

impl Accident {
    fn draw(rng: &mut StdRng) -> Self {
        match rng.random_range(0..10) {
            0 => Self::Nothing,
            1 => Self::NoStdout,
            2 => Self::NoStderr,
            3 | 4 => Self::FullDisk(rng.random_range(0..48)),
            5 => Self::InTheWay(
                ["report.html", "samples.csv", "diagnosis.csv", "tensorboard"]
                    [rng.random_range(0..4)],
            ),
            6 => Self::ReadOnly,
            _ => Self::Kill(rng.random_range(0.0..1.1)),
        }
    }
}

struct Chamber {
    dir: PathBuf,
    /// What each command usually takes.
    usual: Vec<Duration>,
}

impl Chamber {
    fn new(dir: &Path) -> Anyhow<Self> {
        data(&dir.join("data"))?;
        fs::write(dir.join("mine"), "precious")?;
        let mut chamber = Self {
            dir: dir.to_owned(),
            usual: vec![],
        };
        for command in COMMANDS {
            let start = Instant::now();
            let refused = command.contains(&"--resume");
            let (status, told) = ended(chamber.start(command, Accident::Nothing)?)?;
            assert_eq!(status.success(), !refused, "{command:?}: {told}");
            chamber.usual.push(start.elapsed());
        }
        fs::write(chamber.run().join("notes.txt"), "mine")?;
        Ok(chamber)
    }

    fn run(&self) -> PathBuf {
        self.dir.join(RUN)
    }

    fn start(&self, arguments: &[&str], accident: Accident) -> Anyhow<Child> {
        let program = assert_cmd::cargo::cargo_bin("crmt-driver");
        let mut command = match accident {
            Accident::FullDisk(blocks) => {
                // The signal is ignored, so that writing fails as on a full disk.
                let mut command = Command::new("sh");
                command
                    .args([
                        "-c",
                        &format!("trap '' XFSZ; ulimit -f {blocks}; exec \"$0\" \"$@\""),
                    ])
                    .arg(program);
                command
            }
            _ => Command::new(program),
        };
        command
            .current_dir(&self.dir)
            .args(arguments)
            .env("RAYON_NUM_THREADS", "1");
        if arguments.contains(&"--overwrite") {
            command.args(SETTINGS.iter().flat_map(|setting| ["--set", setting]));
        }
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        match accident {
            Accident::NoStdout => drop(child.stdout.take()),
            Accident::NoStderr => drop(child.stderr.take()),
            _ => {}
        }
        Ok(child)
    }

    /// Two commands that befall the run at once or one after the other.
    fn pair(&self, [first, second]: [usize; 2], accidents: [Accident; 2], delay: f64) -> Anyhow {
        let obstacle = accidents.iter().find_map(|accident| match accident {
            Accident::InTheWay(name) => Some(self.run().join(name)),
            _ => None,
        });
        let aside = self.dir.join("aside");
        if let Some(place) = &obstacle {
            let _ = fs::rename(place, &aside);
            fs::create_dir_all(place)?;
        }
        let read_only = accidents
            .iter()
            .any(|accident| matches!(accident, Accident::ReadOnly));
        let mode = |mode| fs::set_permissions(self.run(), fs::Permissions::from_mode(mode));
        if read_only && self.run().exists() {
            mode(0o555)?;
        }
        let one = self.start(COMMANDS[first], accidents[0])?;
        let since = Instant::now();
        sleep(self.usual[first].mul_f64(delay.min(1.0)));
        // Later than that, the second waits for the first to end.
        let mut at_once = Some(one);
        if delay >= 1.0 {
            at_once
                .take()
                .map_or(Ok(()), |one| self.end(one, first, accidents[0], since))?;
        }
        let two = self.start(COMMANDS[second], accidents[1])?;
        let started = Instant::now();
        at_once.map_or(Ok(()), |one| self.end(one, first, accidents[0], since))?;
        self.end(two, second, accidents[1], started)?;
        if read_only && self.run().exists() {
            mode(0o755)?;
        }
        if let Some(place) = &obstacle {
            let _ = fs::remove_dir(place);
            // What was moved aside and need not be there may be of older results by now.
            let stale = place.ends_with("report.html")
                || place.ends_with("diagnosis.csv") && !self.seals("diagnosis.csv");
            if aside.exists() && !place.exists() && !stale {
                fs::rename(&aside, place)?;
            } else {
                let _ = fs::remove_file(&aside).or_else(|_| fs::remove_dir_all(&aside));
            }
        }
        Ok(())
    }

    /// Whether the run's results include this file.
    fn seals(&self, name: &str) -> bool {
        let summary = fs::read(self.run().join("summary.json")).ok();
        let summary: Option<Value> = summary.and_then(|bytes| serde_json::from_slice(&bytes).ok());
        summary.is_some_and(|summary| summary["files"].get(name).is_some())
    }

    /// Ended in one of the ways in which a command may.
    fn end(&self, mut child: Child, command: usize, accident: Accident, since: Instant) -> Anyhow {
        if let Accident::Kill(part) = accident {
            sleep(
                self.usual[command]
                    .mul_f64(part)
                    .saturating_sub(since.elapsed()),
            );
            child.kill()?;
        }
        let (status, told) = ended(child)?;
        let killed = status.signal() == Some(9) && matches!(accident, Accident::Kill(_));
        assert!(
            killed || matches!(status.code(), Some(0 | 2)),
            "{:?}: {status}: {told}",
            COMMANDS[command]
        );
        assert!(!told.contains("panicked"), "{told}");
        if status.success() {
            assert!(!told.contains("error:"), "{told}");
        }
        Ok(())
    }

    /// The files agree, or the run says that it is incomplete.
    fn check(&self) -> Anyhow {
        assert_eq!(fs::read_to_string(self.dir.join("mine"))?, "precious");
        assert_eq!(fs::read_to_string(self.run().join("notes.txt"))?, "mine");
        let (status, told) = ended(self.start(
            &["report", RUN, "--out", "check.html", "-q"],
            Accident::Nothing,
        )?)?;
        if !status.success() {
            assert!(
                status.code() == Some(2) && told.contains("complete run"),
                "{status}: {told}"
            );
            // It goes on, or begins anew.
            let begun = self.run().join("config.toml").exists();
            let again = if begun { COMMANDS[2] } else { COMMANDS[0] };
            let (status, told) = ended(self.start(again, Accident::Nothing)?)?;
            if !status.success() {
                let (status, more) = ended(self.start(COMMANDS[0], Accident::Nothing)?)?;
                assert!(status.success(), "{told}, then {more}");
            }
            return self.check();
        }
        let run = self.run();
        let summary: Value = serde_json::from_slice(&fs::read(run.join("summary.json"))?)?;
        for (name, hash) in summary["files"].as_object().expect("an object") {
            assert_eq!(sha256(&fs::read(run.join(name))?), *hash, "{name}");
        }
        for name in [
            "examples.safetensors",
            "smoothed.csv",
            "diagnosis.json",
            "diagnosis.csv",
        ] {
            assert_eq!(
                run.join(name).exists(),
                summary["files"].get(name).is_some(),
                "{name}"
            );
        }
        let model = fs::read(run.join("model.safetensors"))?;
        let (_, header) = safetensors::SafeTensors::read_metadata(&model)?;
        let card: Value =
            serde_json::from_str(&header.metadata().as_ref().expect("metadata")["crmt"])?;
        assert_eq!(card["sha256"], summary["weights"], "weights and summary");
        check_samples(&run, &summary)?;
        if run.join("report.html").is_file() {
            let (report, check) = (
                fs::read(run.join("report.html"))?,
                fs::read(self.dir.join("check.html"))?,
            );
            assert!(report == check, "report.html is of other results");
        }
        let strangers = fs::read_dir(&run)?
            .flatten()
            .map(|e| e.file_name().to_string_lossy().into_owned());
        let strangers: Vec<_> = strangers
            .filter(|n| n == "lock" || (n.starts_with(".crmt-") && n != ".crmt-run"))
            .collect();
        let lock = fs::read_to_string(run.join("lock"));
        assert!(strangers.is_empty(), "{strangers:?}, {lock:?}, {told}");
        Ok(())
    }
}

/// What is claimed of all samples is what their rows say.
fn check_samples(run: &Path, summary: &Value) -> Anyhow {
    let mut table = csv::Reader::from_path(run.join("samples.csv"))?;
    let header = table.headers()?.clone();
    let rows = table.records().collect::<Result<Vec<_>, _>>()?;
    let column = |name: String| {
        header
            .iter()
            .position(|h| h == name)
            .unwrap_or_else(|| panic!("no column {name}"))
    };
    for claim in summary["certified"].as_array().expect("a list") {
        let threat = claim["threat"].as_str().expect("a name");
        let (radius, evidence) = (
            column(format!("radius.{threat}")),
            column(format!("evidence.{threat}")),
        );
        assert!(
            rows.iter()
                .all(|row| row[evidence] == *claim["evidence"].as_str().expect("text")),
            "{claim}"
        );
        let eps = claim["eps"].as_f64().expect("a number");
        let held = rows
            .iter()
            .filter(|row| row[radius].parse::<f64>().expect("a radius") >= eps)
            .count();
        assert_eq!(
            claim["accuracy"].as_f64(),
            Some(held as f64 / rows.len() as f64),
            "{claim}"
        );
    }
    Ok(())
}

fn ended(child: Child) -> Anyhow<(ExitStatus, String)> {
    let output = child.wait_with_output()?;
    Ok((
        output.status,
        String::from_utf8_lossy(&output.stderr).into_owned(),
    ))
}

fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

/// Two modalities that tell two classes apart.
fn data(dir: &Path) -> Anyhow {
    let manifest = Manifest::new(
        "pairs",
        ["no", "yes"],
        ["left", "right"]
            .map(|n| ModalitySpec::new(n, &[3]))
            .to_vec(),
    );
    let samples = |rows: usize| -> Anyhow<Samples> {
        let value = |i: usize| {
            let noise = (i * 7919 % 13) as f32 * 0.1;
            if (i / 3).is_multiple_of(2) {
                noise - 1.0
            } else {
                1.0 - noise
            }
        };
        let array = || Array::floats(&[3], (0..3 * rows).map(value).collect());
        let labels = (0..rows as u32).map(|i| i % 2).collect();
        Ok(Samples {
            arrays: vec![array()?, array()?],
            pairing: Pairing::Rows { labels },
        })
    };
    write_dataset(
        &DataSet::new(manifest, samples(32)?, samples(16)?, samples(16)?)?,
        dir,
        false,
    )?;
    Ok(())
}

fn number(name: &str) -> Option<u64> {
    env::var(name).ok().map(|text| {
        text.parse()
            .unwrap_or_else(|_| panic!("{name} is a number"))
    })
}

#[test]
fn whatever_happens_the_run_agrees_or_says_that_it_is_incomplete() -> Anyhow {
    let dir = tempfile::tempdir()?;
    let (start, told) = (Instant::now(), number("CRMT_TORTURE_SECONDS"));
    let limit = Duration::from_secs(told.unwrap_or(SECONDS));
    let seed = number("CRMT_TORTURE_SEED").unwrap_or(0);
    let mut rng = StdRng::seed_from_u64(seed);
    let chamber = Chamber::new(dir.path())?;
    loop {
        let mut pairs: Vec<[usize; 2]> = (0..COMMANDS.len())
            .flat_map(|a| (0..COMMANDS.len()).map(move |b| [a, b]))
            .collect();
        pairs.shuffle(&mut rng);
        for pair in pairs {
            let accidents = [Accident::draw(&mut rng), Accident::draw(&mut rng)];
            let delay = rng.random_range(0.0..2.0);
            println!(
                "seed {seed}: {:?}, {accidents:?}, {delay:.2}",
                pair.map(|c| COMMANDS[c].join(" "))
            );
            chamber.pair(pair, accidents, delay)?;
            chamber.check()?;
            if start.elapsed() > limit {
                return Ok(());
            }
        }
        if told.is_none() {
            return Ok(());
        }
    }
}
