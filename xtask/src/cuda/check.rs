//! `cargo xtask cuda-check`: that the CUDA build compiles, links and asks for nothing strange, and
//! that the other build has no trace of it; with `--emulator`, that its kernels compute. Needs no
//! GPU, driver or CUDA, hence judges no speed.
use super::program::{Cuda, FEATURES, PACKAGES, Settings};
use crate::say::say;
use crate::{Failed, tools, workspace};
use anyhow::{Context, Result, bail};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The program that is checked.
const DRIVER: &str = "crmt-driver";

/// The program that holds a device against the CPU.
const BENCH: &str = "av_bench";

/// Packages of CUDA that a build without it must not have.
const FOREIGN: [&str; 4] = ["cudarc", "candle-kernels", "cudaforge", "bindgen_cuda"];

/// CUDA's libraries once more, computing on the processor.
const EMULATOR: &str = "xtask/cuda/emulator";

/// Our own kernels.
const KERNELS: &str = "crates/crmt-kernels/src/cuda";

/// Arguments of `cargo xtask cuda-check`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    settings: Settings,
    /// Run the kernels' tests too, on an emulator of the GPU (needs make and a C++ compiler)
    #[arg(long)]
    emulator: bool,
}

/// Checks the build without CUDA, the one with it, and the kernels if asked to; cheapest first.
///
/// # Errors
/// If one of them is not as it should be ([`Failed`]), or a tool is missing.
pub fn run(args: &Args) -> Result<()> {
    plain()?;
    let emulator = if args.emulator {
        Some(Emulator::find()?)
    } else {
        None
    };
    let cuda = Cuda::prepare(&args.settings)?;
    cuda.build(DRIVER)?;
    if let Some(emulator) = emulator {
        emulator.test(&cuda)?;
    }
    let tested = if args.emulator {
        "its kernels pass on the emulator"
    } else {
        "nothing was run"
    };
    say(&format!(
        "cuda-check: the CUDA build compiles and links; {tested}\n"
    ))
}

/// That the build without features knows nothing of CUDA.
fn plain() -> Result<()> {
    let mut command = workspace::cargo();
    command.args([
        "tree",
        "--package",
        DRIVER,
        "--edges",
        "normal,build",
        "--prefix",
        "none",
    ]);
    let output = command.output().context("starting cargo tree")?;
    if !output.status.success() {
        let text = String::from_utf8_lossy(&output.stderr);
        return Err(Failed(format!("{}: {}", tools::line(&command), text.trim_end())).into());
    }
    untouched(&String::from_utf8_lossy(&output.stdout))?;
    say(&format!("{DRIVER} without features: no package of CUDA\n"))
}

/// `tree`: a package a line, its name first.
fn untouched(tree: &str) -> Result<()> {
    let packages = || {
        tree.lines()
            .filter_map(|line| line.split_whitespace().next())
    };
    if !packages().any(|name| name == "candle-core") {
        bail!(
            "cargo tree lists no candle-core: its form has changed, adapt xtask/src/cuda/check.rs"
        );
    }
    let found: Vec<&str> = FOREIGN
        .into_iter()
        .filter(|foreign| packages().any(|name| name == *foreign))
        .collect();
    if found.is_empty() {
        return Ok(());
    }
    let advice = format!(
        "make it depend on the feature cuda (cargo tree -p {DRIVER} -i {})",
        found[0]
    );
    Err(Failed(format!(
        "the build without CUDA has {}: {advice}",
        found.join(", ")
    ))
    .into())
}

/// What the emulator is made of.
struct Emulator {
    /// candle's kernels, as sources.
    candle: PathBuf,
    /// Ours.
    ours: Vec<PathBuf>,
}

impl Emulator {
    /// Looks for all of it, before anything long begins.
    fn find() -> Result<Self> {
        let root = workspace::root();
        if !root.join(EMULATOR).join("Makefile").is_file() {
            bail!("{EMULATOR} has no Makefile: this version has no emulator, leave --emulator out");
        }
        let advice = "install make and a C++ compiler (Debian, Ubuntu: apt-get install make g++)";
        tools::need("make", &["--version"], advice)?;
        tools::need("c++", &["--version"], advice)?;
        let ours = sources(&root.join(KERNELS))?;
        Ok(Self {
            candle: workspace::foreign("candle-kernels")?.folder.join("src"),
            ours,
        })
    }

    /// Builds the emulator's libraries, and with them in the place of CUDA's runs the kernels'
    /// tests, and what holds networks, attacks and training steps on a device against the CPU.
    fn test(&self, cuda: &Cuda) -> Result<()> {
        let out = cuda.target.join("emulator");
        fs::create_dir_all(&out).with_context(|| format!("making {}", out.display()))?;
        tools::execute(self.make(&out, &cuda.home))?;
        let mut command = cuda.cargo("test")?;
        command
            .args(PACKAGES)
            .args(FEATURES)
            .args(["--test", "devices"]);
        command
            .env("LD_LIBRARY_PATH", &out)
            .env("CRMT_REQUIRE_CUDA", "1");
        tools::execute(command)?;
        let mut command = Command::new(cuda.target.join("release/examples").join(BENCH));
        command
            .args(["--device", "cuda", "--check"])
            .env("LD_LIBRARY_PATH", &out);
        say(&format!("$ {}\n", tools::line(&command)))?;
        let output = command
            .output()
            .with_context(|| format!("starting {}", tools::line(&command)))?;
        if !output.status.success() && output.stdout.is_empty() {
            return Err(Failed(format!(
                "{BENCH}: {}",
                String::from_utf8_lossy(&output.stderr).trim_end()
            ))
            .into());
        }
        let checks =
            judged(&output.stdout).with_context(|| format!("what {BENCH} --check says"))?;
        say(&format!("{checks} checks against the CPU passed\n"))
    }

    fn make(&self, out: &Path, toolkit: &Path) -> Command {
        let variable = |name: &str, value: &str| format!("{name}={value}");
        let ours: Vec<String> = self
            .ours
            .iter()
            .map(|path| path.display().to_string())
            .collect();
        let mut command = Command::new("make");
        command
            .current_dir(workspace::root())
            .args(["-C", EMULATOR]);
        command.args([
            variable("OUT", &out.display().to_string()),
            variable("CUDA", &toolkit.display().to_string()),
            variable("CANDLE_KERNELS", &self.candle.display().to_string()),
            variable("OURS", &ours.join(" ")),
        ]);
        command
    }
}

/// How many checks there were; fails where one did not pass.
fn judged(line: &[u8]) -> Result<usize> {
    let answer: serde_json::Value = serde_json::from_slice(line)?;
    let checks = answer["checks"].as_array().context("there are no checks")?;
    let failed = checks.iter().filter(|check| check["passed"] != true);
    let failed: Vec<_> = failed
        .map(|check| format!("{}: {}", check["name"], check["error"]))
        .collect();
    match failed.is_empty() {
        true => Ok(checks.len()),
        false => Err(Failed(failed.join("\n")).into()),
    }
}

/// The CUDA sources in `folder`, sorted.
fn sources(folder: &Path) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(folder).with_context(|| format!("reading {}", folder.display()))?;
    let mut paths = entries
        .map(|entry| Ok(entry?.path()))
        .collect::<Result<Vec<_>>>()?;
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "cu"));
    paths.sort();
    if paths.is_empty() {
        bail!("{} has no .cu file for the emulator", folder.display());
    }
    Ok(paths)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TREE: &str =
        "crmt-driver v0.1.0 (/x/crates/crmt-driver)\ncandle-core v0.11.1\nlibc v0.2.191 (*)\n";

    #[test]
    fn a_check_that_fails_is_named() {
        let line = |passed| {
            format!(
                r#"{{"checks":[{{"name":"relu","passed":true}},{{"name":"pgd","passed":{passed},"error":2}}]}}"#
            )
        };
        assert_eq!(judged(line(true).as_bytes()).expect("both passed"), 2);
        let error = judged(line(false).as_bytes()).expect_err("one did not");
        assert!(
            error.is::<Failed>() && error.to_string() == "\"pgd\": 2",
            "{error:?}"
        );
        assert!(judged(b"{}").is_err() && judged(b"").is_err());
    }

    #[test]
    fn a_trace_of_cuda_is_named() {
        assert!(untouched(TREE).is_ok());
        assert!(
            untouched(&format!("{TREE}cudarc-like v1.0.0\n")).is_ok(),
            "whole names only"
        );
        let error = untouched(&format!("{TREE}cudarc v0.19.10\ncandle-kernels v0.11.1\n"))
            .expect_err("two of them");
        assert!(error.is::<Failed>(), "{error:?}");
        assert!(
            error
                .to_string()
                .contains("has cudarc, candle-kernels: make it depend"),
            "{error}"
        );
        assert!(
            untouched("")
                .expect_err("no tree")
                .to_string()
                .contains("adapt"),
            "an empty tree proves nothing"
        );
    }

    #[test]
    fn make_is_told_where_all_is() {
        let ours = vec!["/k/a.cu".into(), "/k/b.cu".into()];
        let emulator = Emulator {
            candle: "/c/src".into(),
            ours,
        };
        let line = tools::line(&emulator.make(Path::new("/out"), Path::new("/cuda")));
        let wanted = "make -C xtask/cuda/emulator OUT=/out CUDA=/cuda CANDLE_KERNELS=/c/src OURS=/k/a.cu /k/b.cu";
        assert_eq!(line, wanted);
    }

    #[test]
    fn kernels_are_found_by_their_extension() {
        let folder = tempfile::tempdir().expect("a scratch folder");
        let error = sources(folder.path()).expect_err("none there").to_string();
        assert!(
            error.ends_with("has no .cu file for the emulator"),
            "{error}"
        );
        for name in ["b.cu", "a.cu", "a.cuh", "mod.rs"] {
            fs::write(folder.path().join(name), "").expect("writable");
        }
        let found = sources(folder.path()).expect("two");
        assert_eq!(found, ["a.cu", "b.cu"].map(|name| folder.path().join(name)));
    }
}
