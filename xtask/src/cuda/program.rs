//! Building our programs with CUDA: with which compiler, in which environment and folder. Knows no
//! program by name.
use super::linked::Linked;
use super::size::megabytes;
use super::toolkit;
use crate::say::say;
use crate::{tools, workspace};
use anyhow::{Context, Result};
use flate2::Compression;
use flate2::write::GzEncoder;
use std::env;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Removes symbols that only debuggers read.
const STRIP: &str = "strip";

/// Packs the machine code of candle's quantised kernels, which is half of a program and seldom
/// called, to a third.
const PACK: &str = "-compress-mode=size";

/// The features of a CUDA build.
pub const FEATURES: [&str; 2] = ["--features", "cuda,cudnn"];

/// Always built together: another choice of packages would be another choice of features, and
/// candle's kernels, which take most of the time, would be compiled once more.
pub const PACKAGES: [&str; 6] = [
    "--package",
    "crmt-driver",
    "--package",
    "crmt-kernels",
    "--package",
    "crmt-train",
];

/// What is built of them.
const TARGETS: [&str; 6] = [
    "--bin",
    "crmt-driver",
    "--example",
    "av_bench",
    "--test",
    "devices",
];

/// What a CUDA build can be told.
#[derive(Debug, clap::Args)]
pub struct Settings {
    /// CUDA 13.0, assembled there first if there is none [default: cuda-toolkit in cargo's target
    /// folder]
    #[arg(long, value_name = "DIR")]
    toolkit: Option<PathBuf>,
    /// Build for cards from this compute capability up: 80 for A100, 90 for H100
    #[arg(long, value_name = "N", default_value_t = 90, value_parser = clap::value_parser!(u32).range(75..=999))]
    pub compute_cap: u32,
    /// Where to build, apart from programs without CUDA [default: cuda in cargo's target folder]
    #[arg(long, value_name = "DIR")]
    target_dir: Option<PathBuf>,
}

/// A compiler that is there, and where it builds.
pub struct Cuda {
    /// The toolkit's folder.
    pub home: PathBuf,
    /// cargo's folder for CUDA builds.
    pub target: PathBuf,
    compute_cap: u32,
}

/// A program, built.
pub struct Program {
    /// Without symbols.
    pub path: PathBuf,
    pub linked: Linked,
    pub bytes: u64,
    pub gzipped: u64,
}

impl Cuda {
    /// Gets the toolkit.
    ///
    /// # Errors
    /// If there is none and it can't be assembled.
    pub fn prepare(settings: &Settings) -> Result<Self> {
        let target = workspace::target()?;
        let folder = |given: &Option<PathBuf>, name: &str| match given {
            Some(given) => std::path::absolute(given).with_context(|| given.display().to_string()),
            None => Ok(target.join(name)),
        };
        let cuda = Self {
            home: folder(&settings.toolkit, "cuda-toolkit")?,
            target: folder(&settings.target_dir, "cuda")?,
            compute_cap: settings.compute_cap,
        };
        toolkit::prepare(&cuda.home)?;
        Ok(cuda)
    }

    /// `cargo SUBCOMMAND --release` where it finds this CUDA and no other.
    ///
    /// # Errors
    /// If a folder can't be part of a path that is searched.
    pub fn cargo(&self, subcommand: &str) -> Result<Command> {
        let mut command = workspace::cargo();
        command
            .args([subcommand, "--release", "--target-dir"])
            .arg(&self.target);
        if !tools::works(STRIP, &["--version"]) {
            command.args(["--config", "profile.release.strip=true"]);
        }
        for other in [
            "CUDA_PATH",
            "CUDA_ROOT",
            "CUDA_TOOLKIT_ROOT_DIR",
            "CUDNN_LIB",
            "CUDARC_CUDA_VERSION",
            "NVCC",
        ] {
            command.env_remove(other);
        }
        command
            .env("CUDA_HOME", &self.home)
            .env("CUDA_COMPUTE_CAP", self.compute_cap.to_string());
        let flags = env::var("NVCC_APPEND_FLAGS").unwrap_or_default();
        command.env("NVCC_APPEND_FLAGS", format!("{flags} {PACK}").trim_start());
        command.env("PATH", searched([self.home.join("bin")], "PATH")?);
        command.env(
            "LIBRARY_PATH",
            searched(toolkit::libraries(&self.home), "LIBRARY_PATH")?,
        );
        Ok(command)
    }

    /// Builds every program, and of the program `name` takes the symbols away and looks what it
    /// needs.
    ///
    /// # Errors
    /// If cargo fails, or makes no such program, or it needs what it shouldn't.
    pub fn build(&self, name: &str) -> Result<Program> {
        let mut command = self.cargo("build")?;
        command.args(PACKAGES).args(FEATURES).args(TARGETS);
        say(&format!("$ {}\n", tools::line(&command)))?;
        let built = workspace::programs(command)?;
        let built = built
            .iter()
            .find(|path| path.file_stem().is_some_and(|stem| stem == name));
        let built = built.with_context(|| format!("cargo built no {name}"))?;
        let path = self.target.join("stripped").join(name);
        strip(built, &path)?;
        let bytes = fs::read(&path).with_context(|| format!("reading {}", path.display()))?;
        let linked = Linked::read(&bytes).with_context(|| path.display().to_string())?;
        let program = Program {
            linked,
            bytes: bytes.len() as u64,
            gzipped: gzipped(&bytes)?,
            path,
        };
        let sizes = format!(
            "{}, gzipped {}",
            megabytes(program.bytes),
            megabytes(program.gzipped)
        );
        say(&format!(
            "{}: {sizes}; it needs\n{}",
            program.path.display(),
            program.linked.text()
        ))?;
        program.linked.judge()?;
        Ok(program)
    }
}

/// `folders`, then what the variable holds already.
fn searched(
    folders: impl IntoIterator<Item = PathBuf>,
    variable: &str,
) -> Result<std::ffi::OsString> {
    let held = env::var_os(variable).unwrap_or_default();
    let held = env::split_paths(&held).filter(|folder| !folder.as_os_str().is_empty());
    env::join_paths(folders.into_iter().chain(held))
        .with_context(|| format!("a folder that {variable} can't hold"))
}

/// A copy of `from` without symbols, or as it is where there is no `strip`: cargo has taken them
/// away then.
fn strip(from: &Path, to: &Path) -> Result<()> {
    let folder = to.parent().context("a program has no folder")?;
    fs::create_dir_all(folder).with_context(|| format!("making {}", folder.display()))?;
    if tools::works(STRIP, &["--version"]) {
        let mut command = Command::new(STRIP);
        command.arg("-o").arg(to).arg(from);
        return tools::execute(command);
    }
    fs::copy(from, to)
        .with_context(|| format!("copying {} to {}", from.display(), to.display()))?;
    Ok(())
}

fn gzipped(bytes: &[u8]) -> Result<u64> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder
        .write_all(bytes)
        .and_then(|()| encoder.finish())
        .map(|packed| packed.len() as u64)
        .context("packing")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cuda() -> Cuda {
        Cuda {
            home: "/opt/cuda".into(),
            target: "/opt/target".into(),
            compute_cap: 86,
        }
    }

    #[test]
    fn cargo_finds_this_cuda_first_and_no_other() {
        let command = cuda().cargo("build").expect("plain folders");
        let variable = |wanted: &str| {
            command
                .get_envs()
                .find(|(name, _)| *name == wanted)
                .map(|(_, value)| value)
        };
        let begins = |name: &str, start: &str| {
            let value = variable(name)
                .flatten()
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned();
            assert!(value.starts_with(start), "{name}={value}");
        };
        begins("CUDA_HOME", "/opt/cuda");
        begins("CUDA_COMPUTE_CAP", "86");
        begins("PATH", "/opt/cuda/bin:");
        assert!(
            variable("NVCC_APPEND_FLAGS")
                .flatten()
                .is_some_and(|flags| flags.to_string_lossy().ends_with(PACK))
        );
        begins("LIBRARY_PATH", "/opt/cuda/lib/stubs:/opt/cuda/lib64");
        assert_eq!(
            (variable("CUDA_PATH"), variable("NVCC")),
            (Some(None), Some(None))
        );
        assert!(
            tools::line(&command).starts_with("cargo build --release --target-dir /opt/target")
        );
    }

    #[test]
    fn sizes_and_paths() {
        let packed = gzipped(&[7; 100_000]).expect("memory");
        assert!((20..1000).contains(&packed), "{packed}");
        assert!(
            searched(["a:b".into()], "PATH").is_err(),
            "a colon would make two folders of one"
        );
    }
}
