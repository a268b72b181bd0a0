//! Where the workspace is, and cargo commands that run in it. Knows nothing of what is in it.
use anyhow::{Context, Result, bail};
use cargo_metadata::Message;
use std::env;
use std::io::BufReader;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The workspace's root: the folder above this crate.
pub fn root() -> PathBuf {
    let here =
        env::var_os("CARGO_MANIFEST_DIR").map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")), PathBuf::from);
    here.parent().map_or_else(|| here.clone(), Path::to_path_buf)
}

/// The cargo that started this program, to be run from the root. The variables that `cargo run`
/// sets for its child are taken away: build scripts that watch them would run again.
pub fn cargo() -> Command {
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(root());
    for (name, _) in env::vars_os() {
        let text = name.to_string_lossy();
        if text.starts_with("CARGO_PKG_") || text.starts_with("CARGO_MANIFEST_") || text == "CARGO_PRIMARY_PACKAGE" {
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
    command.arg("build").args(arguments).arg("--message-format=json-render-diagnostics");
    let mut child = command.stdout(Stdio::piped()).spawn().context("starting cargo")?;
    let stdout = child.stdout.take().context("cargo has no output")?;
    let mut programs = Vec::new();
    for message in Message::parse_stream(BufReader::new(stdout)) {
        if let Message::CompilerArtifact(artifact) = message? {
            programs.extend(artifact.executable.map(PathBuf::from));
        }
    }
    if !child.wait()?.success() {
        bail!("cargo build {} failed", arguments.join(" "));
    }
    programs.sort();
    Ok(programs)
}
