//! The scripts of `cargo xtask gpu-bench` on a machine without a GPU. Small scripts stand in for
//! the card, PyTorch and our program, since only turns, records and the table are judged here;
//! nothing computes.
#![cfg(unix)]

use assert_cmd::Command;
use predicates::str::contains;
use serde_json::Value;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

const XTASK: &str = env!("CARGO_MANIFEST_DIR");

/// A bundle made of links, and the results of starting it.
struct Bundle(TempDir);

impl Bundle {
    /// `None` where a tool that the scripts need is not there.
    fn new() -> Option<Self> {
        for tool in ["python3", "bash", "timeout", "ldd", "awk"] {
            let there = std::process::Command::new(tool).arg("--version").output();
            if !there.is_ok_and(|output| output.status.success() || tool == "awk") {
                println!("skipped: no {tool}");
                return None;
            }
        }
        let bundle = Self(tempfile::tempdir().expect("a scratch folder"));
        // Links rather than copies: a program that a fork in another thread holds open for writing
        // can't be started.
        for (name, target) in [
            ("run.sh", "peers/gpu_run.sh"),
            ("gpu_table.py", "peers/gpu_table.py"),
            ("av_bench", "tests/gpu/av_bench"),
            ("torch_av.py", "tests/gpu/torch_av.py"),
        ] {
            symlink(Path::new(XTASK).join(target), bundle.path(name)).expect("a new link");
        }
        Some(bundle)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap_or_default()
    }

    fn json(&self) -> Value {
        serde_json::from_str(&self.read("out/gpu.json")).expect("JSON")
    }

    fn calls(&self) -> usize {
        self.read("calls").lines().count()
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        let fakes = Path::new(XTASK).join("tests/gpu");
        let path = std::env::var("PATH").unwrap_or_default();
        command
            .current_dir(self.0.path())
            .env("PATH", format!("{}:{path}", fakes.display()));
        command
            .env("PYTHONPATH", fakes)
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .env("FAKE_CALLS", self.path("calls"));
        command.env_remove("CUDA_VISIBLE_DEVICES");
        command
    }

    fn start(&self, variables: &[(&str, &str)], arguments: &[&str]) -> assert_cmd::assert::Assert {
        let mut command = self.command("bash");
        command.arg(self.path("run.sh")).arg("out").args(arguments);
        command.envs(variables.iter().copied()).assert()
    }

    fn table(&self) -> assert_cmd::assert::Assert {
        self.command("python3")
            .arg(self.path("gpu_table.py"))
            .args(["table", "out"])
            .assert()
    }

    /// What a program left, as gpu_run.sh keeps it.
    fn ran(&self, base: &str, status: u32, out: &str) {
        let base = self.path(&format!("out/raw/{base}"));
        fs::create_dir_all(base.parent().expect("a folder")).expect("writable");
        for (end, text) in [
            ("status", format!("{status}\n")),
            ("out", format!("{out}\n")),
            ("log", "said\n".into()),
        ] {
            fs::write(base.with_extension(end), text).expect("writable");
        }
    }
}

const SMALL: [&str; 6] = [
    "--rounds",
    "2",
    "--cases",
    "step-cnn",
    "--precisions",
    "f32",
];

#[test]
fn a_comparison_takes_turns_and_is_tabled() {
    let Some(bundle) = Bundle::new() else { return };
    let first = bundle.start(&[], &SMALL);
    // 5.0 / 8.0 = 0.625, which Python rounds to even.
    first
        .success()
        .stdout(contains(
            "| step-cnn | f32 | 5.00 ms | 8.00 ms, channels-last | 0.62 (0.62 to 0.62, 2 rounds) | 0.5 | missed |",
        ))
        .stdout(contains("- checks: 1 of 1 passed"))
        .stdout(contains("- step-cnn f32 compile: exit code 1: no compiler"))
        .stderr(contains("fewer than 5 rounds"));
    let calls = bundle.read("calls");
    let turns: Vec<&str> = calls
        .lines()
        .filter(|line| line.contains("step-crmt") && line.contains("--iters 50"))
        .map(|line| {
            match (
                line.starts_with("ours"),
                line.contains("--channels-last"),
                line.contains("--compile"),
            ) {
                (true, ..) => "ours",
                (_, true, false) => "channels-last",
                (_, false, true) => "compile",
                (_, true, true) => "both",
                _ => "eager",
            }
        })
        .collect();
    assert_eq!(
        turns,
        [
            "ours",
            "eager",
            "channels-last",
            "compile",
            "both",
            "ours",
            "eager",
            "channels-last"
        ],
        "{calls}"
    );
    let step = calls
        .lines()
        .find(|line| line.contains("step-crmt"))
        .unwrap_or_default();
    let wanted = "ours --device cuda:0 --precision f32 --work step-crmt --model cnn --batch 512 --spectrogram 64x64 \
                  --iters 50 --warmup 5";
    assert_eq!(step, wanted);
    let json = bundle.json();
    assert_eq!(json["machine"]["card"], "Card X");
    assert_eq!(json["machine"]["driver"], "580.65.06");
    assert_eq!(
        json["roofline"]["f32"]["flops_per_s"].as_f64(),
        Some(6e13),
        "the better of both programs"
    );
    assert_eq!(json["roofline"]["f32"]["bytes_per_s"].as_f64(), Some(2e12));

    let before = bundle.calls();
    bundle.start(&[], &SMALL).success();
    assert_eq!(
        bundle.calls(),
        before + 2,
        "only what failed is tried again: {}",
        bundle.read("calls")
    );
    let other = bundle.start(&[("FAKE_DRIVER", "590.1")], &SMALL);
    other.failure().code(2).stderr(contains(
        "out has results of another build, card or PyTorch",
    ));
}

#[test]
fn precisions_have_their_flags_on_both_sides() {
    let Some(bundle) = Bundle::new() else { return };
    bundle
        .start(
            &[],
            &[
                "--rounds",
                "1",
                "--cases",
                "pgd-cnn",
                "--precisions",
                "tf32 bf16",
            ],
        )
        .success();
    let calls = bundle.read("calls");
    let times = |parts: &[&str]| {
        calls
            .lines()
            .filter(|line| parts.iter().all(|part| line.contains(part)))
            .count()
    };
    // A round and a run for memory of three programs that work, and one try of two that don't; and
    // the roofline.
    for (precision, flag) in [
        ("--precision tf32", "--tf32"),
        ("--precision bf16", "--amp"),
    ] {
        assert_eq!(times(&["ours", precision, "pgd"]), 2, "{calls}");
        assert_eq!(times(&["torch", flag, "pgd"]), 2 * 2 + 2, "{calls}");
        assert_eq!(
            (
                times(&["ours", precision, "roofline"]),
                times(&["torch", flag, "roofline"])
            ),
            (1, 1),
            "{calls}"
        );
    }
    assert_eq!(times(&["--tf32", "--amp"]), 0, "{calls}");
}

#[test]
fn what_is_missing_or_wrong_is_one_line() {
    let Some(bundle) = Bundle::new() else { return };
    for (variables, arguments, says) in [
        (
            &[("FAKE_DRIVER", "570.1")][..],
            &[][..],
            "driver 570.1 is too old for CUDA 13: install 580 or newer",
        ),
        (
            &[("FAKE_CAPABILITY", "8.0")],
            &[],
            "Card X has 8.0: cargo xtask gpu-bench --compute-cap 80",
        ),
        (
            &[],
            &["--python", "no-such-python"],
            "no no-such-python: name one that has PyTorch with --python",
        ),
        (
            &[],
            &["--rounds", "many"],
            "--rounds must be a number from 1 up, not many",
        ),
        (
            &[],
            &["--precisions", "f16"],
            "--precisions are f32, tf32 and bf16, not f16",
        ),
        (
            &[],
            &["--cases", "step-cnn step"],
            "no case step; there are step-resnet step-cnn pgd-resnet pgd-cnn",
        ),
        (&[], &["--quick"], "no option --quick; --help lists them"),
        (&[], &["--cases"], "--cases needs a value"),
    ] {
        bundle
            .start(variables, arguments)
            .failure()
            .code(2)
            .stderr(contains(says));
    }
    assert_eq!(bundle.calls(), 0, "nothing is started before all is there");
    bundle
        .start(&[], &["--help"])
        .success()
        .stdout(contains("usage: ./run.sh [OUT]"));
    let failing = bundle.start(&[("FAKE_PASSED", "false")], &SMALL);
    failing
        .failure()
        .code(1)
        .stdout(contains("- failed: conv, error 2e-06, tolerance 1e-05"));
}

#[test]
fn medians_ratios_and_memory_are_right() {
    let Some(bundle) = Bundle::new() else { return };
    bundle.ran(
        "checks",
        0,
        "{\n \"checks\": [{\"name\": \"a\", \"passed\": true}]\n}",
    );
    let rounds = [
        ("ours", [4., 5., 9.]),
        ("eager", [20., 30., 10.]),
        ("compile", [10., 10., 12.]),
    ];
    for (variant, times) in rounds {
        for (round, ms) in times.iter().enumerate() {
            let base = format!("pgd-resnet/bf16/{variant}/{}", round + 1);
            bundle.ran(&base, 0, &format!("noise\n{{\"median_ms\": {ms}}}"));
        }
        let base = format!("pgd-resnet/bf16/{variant}/memory");
        bundle.ran(&base, 0, "{\"median_ms\": 1}");
        let peak = if variant == "ours" { 1500 } else { 3000 };
        let used = format!("1000\n1000\n{peak}\n1200\nNo device\n");
        fs::write(bundle.path(&format!("out/raw/{base}.used")), used).expect("writable");
    }
    bundle.ran("pgd-resnet/bf16/channels-last/1", 124, "");
    bundle.ran("step-cnn/f32/ours/1", 101, "");
    bundle.ran(
        "roofline/bf16/ours",
        0,
        "{\"gemm_gflops\": 400000, \"bandwidth_gb_s\": 2000}",
    );
    bundle.table().failure().code(1);

    let json = bundle.json();
    let cases = json["cases"].as_array().expect("a list");
    assert_eq!(cases.len(), 2, "only what was started");
    let (row, number) = (&cases[1], |path: &str| {
        cases[1].pointer(path).and_then(Value::as_f64)
    });
    // Medians 5, 20 and 10; rounds 4/10, 5/10 and 9/12; MiB (1500 - 1000) / (3000 - 1000).
    assert_eq!(
        (row["best"].as_str(), number("/ratio"), row["met"].as_bool()),
        (Some("compile"), Some(0.5), Some(true))
    );
    assert_eq!(row["ratios"].as_array().map(Vec::len), Some(3));
    assert_eq!(
        (
            number("/ratios/0"),
            number("/ratios/2"),
            number("/memory_ratio")
        ),
        (Some(0.4), Some(0.75), Some(0.25))
    );
    // The convolutions of ResNet-18 on 224² have 1.8136e9 products (1.8e9 in its paper), those of
    // its stem on one channel less; ten steps need each twice.
    let image = 2. * 1.813_561_344e9 * 192.;
    let stem = 64. * 49. * 112. * 112.;
    let pixels = 1024. * 128. / (224. * 224.);
    let spectrogram = 2. * (1.813_561_344e9 - 2. * stem) * pixels * 64.;
    let flops = 20. * (image + spectrogram);
    let found = number("/flops").expect("counted");
    assert!(
        (found / flops - 1.).abs() < 1e-9,
        "{found} and {flops} differ by more than roundings"
    );
    let share = number("/reached_ours/of_roofline").expect("both are known");
    assert!(
        (share - flops / 4e14 / 5e-3).abs() < 1e-6,
        "bound by products: {share}"
    );

    let page = bundle.read("out/gpu.md");
    assert!(page.contains("| pgd-resnet | bf16 | 5.00 ms | 10.0 ms, compile | 0.50 (0.40 to 0.75, 3 rounds) | 0.7 | met | 0.52 GB / 2.10 GB = 0.25 |"), "{page}");
    assert!(
        page.contains("| step-cnn | f32 | failed | – | – | 0.5 | – |"),
        "{page}"
    );
    assert!(
        page.contains("- step-cnn f32 ours: exit code 101: said"),
        "{page}"
    );
    assert!(
        page.contains("- pgd-resnet bf16 channels-last: exit code 124: took too long"),
        "{page}"
    );
}

#[test]
fn no_results_are_no_table() {
    let Some(bundle) = Bundle::new() else { return };
    bundle
        .table()
        .failure()
        .stderr(contains("raw is not there: start run.sh"));
}
