//! Where the workspace is, and cargo commands that run in it. Knows nothing of what is in it.
use crate::{Failed, tools};
use anyhow::{Context, Result};
use cargo_metadata::{CargoOpt, Message, Metadata, MetadataCommand};
use std::env;
use std::io::BufReader;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The workspace's root: the folder above this crate.
pub fn root() -> PathBuf {
    let here = env::var_os("CARGO_MANIFEST_DIR")
        .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")), PathBuf::from);
    here.parent()
        .map_or_else(|| here.clone(), Path::to_path_buf)
}

/// The cargo that started this program, to be run from the root. The variables that `cargo run`
/// sets for its child are taken away: build scripts that watch them would run again.
pub fn cargo() -> Command {
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(root());
    for (name, _) in env::vars_os() {
        let text = name.to_string_lossy();
        if text.starts_with("CARGO_PKG_")
            || text.starts_with("CARGO_MANIFEST_")
            || text == "CARGO_PRIMARY_PACKAGE"
        {
            command.env_remove(&name);
        }
    }
    command
}

/// Runs `cargo build` with `arguments` and returns the programs it made, sorted.
///
/// # Errors
/// If the build fails; cargo has said why.
pub fn build(arguments: &[&str]) -> Result<Vec<PathBuf>> {
    let mut command = cargo();
    command.arg("build").args(arguments);
    programs(command)
}

/// As [`build`], for a command that is complete already, such as one of another environment.
///
/// # Errors
/// As [`build`].
pub fn programs(mut command: Command) -> Result<Vec<PathBuf>> {
    let line = tools::line(&command);
    command.arg("--message-format=json-render-diagnostics");
    let mut child = command
        .stdout(Stdio::piped())
        .spawn()
        .context("starting cargo")?;
    let stdout = child.stdout.take().context("cargo has no output")?;
    let mut programs = Vec::new();
    for message in Message::parse_stream(BufReader::new(stdout)) {
        if let Message::CompilerArtifact(artifact) = message? {
            programs.extend(artifact.executable.map(PathBuf::from));
        }
    }
    if !child.wait()?.success() {
        return Err(Failed(format!("{line} failed")).into());
    }
    programs.sort();
    Ok(programs)
}

/// The folder that cargo builds in, unless told otherwise.
///
/// # Errors
/// If cargo can't read the workspace.
pub fn target() -> Result<PathBuf> {
    Ok(metadata(MetadataCommand::new().no_deps())?
        .target_directory
        .into())
}

/// A package that `Cargo.lock` names, as cargo has unpacked it.
pub struct Foreign {
    pub version: String,
    pub folder: PathBuf,
}

/// The package of this name that the workspace uses with all its features. cargo fetches it if need
/// be.
///
/// # Errors
/// If there is none, or cargo can't fetch it.
pub fn foreign(name: &str) -> Result<Foreign> {
    let metadata = metadata(MetadataCommand::new().features(CargoOpt::AllFeatures))?;
    let package = metadata
        .packages
        .into_iter()
        .find(|package| package.name == name);
    let package =
        package.with_context(|| format!("no package here uses {name}, whatever the features"))?;
    let folder = package
        .manifest_path
        .parent()
        .context("a manifest has no folder")?;
    Ok(Foreign {
        version: package.version.to_string(),
        folder: folder.into(),
    })
}

fn metadata(command: &mut MetadataCommand) -> Result<Metadata> {
    command
        .manifest_path(root().join("Cargo.toml"))
        .exec()
        .context("cargo metadata")
}
