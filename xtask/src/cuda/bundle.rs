//! `cargo xtask gpu-bench`: a folder that a person copies to a GPU machine and starts there,
//! without Rust. Knows what is in it; the comparison itself is `xtask/peers/gpu_run.sh`'s.
use super::program::{Cuda, Settings};
use super::size::megabytes;
use super::toolkit;
use crate::bench::AV;
use crate::say::say;
use crate::{Failed, workspace};
use anyhow::{Context, Result, bail};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A folder that is mailed or copied over a slow line.
const LARGEST: u64 = 60_000_000;

/// The script that is started, in the bundle and in the repository.
const SCRIPT: (&str, &str) = ("run.sh", "xtask/peers/gpu_run.sh");

/// What it calls, beside our program.
const HELPERS: [(&str, &str); 2] = [
    ("torch_av.py", "xtask/peers/torch_av.py"),
    ("gpu_table.py", "xtask/peers/gpu_table.py"),
];

/// Arguments of `cargo xtask gpu-bench`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Folder to make or bring up to date
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    #[command(flatten)]
    settings: Settings,
}

/// One file of the bundle.
struct Part {
    name: &'static str,
    content: Vec<u8>,
    executable: bool,
}

/// Builds and fills the folder.
///
/// # Errors
/// If the build fails, the files are too large together, or the folder can't be written.
pub fn run(args: &Args) -> Result<()> {
    let out = std::path::absolute(&args.out).with_context(|| args.out.display().to_string())?;
    vacant(&out)?;
    let cuda = Cuda::prepare(&args.settings)?;
    let program = cuda.build(AV)?;
    let text = |path: &str| {
        let path = workspace::root().join(path);
        fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))
    };
    let script = stamped(&text(SCRIPT.1)?, args.settings.compute_cap, &commit())?;
    let binary =
        fs::read(&program.path).with_context(|| format!("reading {}", program.path.display()))?;
    let mut parts = vec![
        Part {
            name: SCRIPT.0,
            content: script.into_bytes(),
            executable: true,
        },
        Part {
            name: AV,
            content: binary,
            executable: true,
        },
    ];
    for (name, path) in HELPERS {
        parts.push(Part {
            name,
            content: text(path)?.into_bytes(),
            executable: false,
        });
    }
    let bytes = fits(&parts)?;
    fs::create_dir_all(&out).with_context(|| format!("making {}", out.display()))?;
    for part in &parts {
        let path = out.join(part.name);
        crmt_data::write_atomically(&path, &part.content)
            .with_context(|| format!("writing {}", path.display()))?;
        if part.executable {
            toolkit::executable(&path)?;
        }
    }
    say(&format!(
        "{}: {} files, {}. Copy it to a machine with a GPU, PyTorch for CUDA 13 and NVIDIA's driver 580 or newer, and \
         start ./{} there\n",
        out.display(),
        parts.len(),
        megabytes(bytes),
        SCRIPT.0
    ))
}

/// A folder may be made anew, not one with other files: they would be copied along.
fn vacant(out: &Path) -> Result<()> {
    let names = [SCRIPT.0, AV, HELPERS[0].0, HELPERS[1].0];
    for entry in fs::read_dir(out).into_iter().flatten() {
        let name = entry
            .with_context(|| format!("reading {}", out.display()))?
            .file_name();
        if !names.iter().any(|ours| name == *ours) {
            bail!(
                "{} has {} in it: choose another --out",
                out.display(),
                name.display()
            );
        }
    }
    Ok(())
}

/// The bytes of all parts together.
fn fits(parts: &[Part]) -> Result<u64> {
    let bytes = parts.iter().map(|part| part.content.len() as u64).sum();
    if bytes > LARGEST {
        let sizes: Vec<String> = parts
            .iter()
            .map(|part| format!("{} {}", part.name, megabytes(part.content.len() as u64)))
            .collect();
        let advice = "was it built by another command in the same --target-dir? nvcc packs its kernels only when it compiles them";
        let (sizes, all) = (sizes.join(", "), megabytes(bytes));
        return Err(Failed(format!(
            "{all} ({sizes}) are more than {}: {advice}",
            megabytes(LARGEST)
        ))
        .into());
    }
    Ok(bytes)
}

/// `script` with what it must know of the program beside it.
fn stamped(script: &str, compute_cap: u32, commit: &str) -> Result<String> {
    let mut values = vec![
        ("built_for=", compute_cap.to_string()),
        ("commit=", commit.to_owned()),
    ];
    let mut text = String::new();
    for line in script.lines() {
        match values.iter().position(|(start, _)| line.starts_with(start)) {
            Some(index) => {
                let (start, value) = values.remove(index);
                text.push_str(&format!("{start}{value}\n"));
            }
            None => text.push_str(&format!("{line}\n")),
        }
    }
    match values.first() {
        Some((start, _)) => bail!("{} has no line {start}…", SCRIPT.1),
        None => Ok(text),
    }
}

/// What is checked out, so that results can say what they measured.
fn commit() -> String {
    let git = |arguments: &[&str]| {
        let output = Command::new("git")
            .current_dir(workspace::root())
            .args(arguments)
            .output()
            .ok()?;
        output
            .status
            .success()
            .then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    match (
        git(&["rev-parse", "--short=12", "HEAD"]),
        git(&["status", "--porcelain", "--untracked-files=no"]),
    ) {
        (Some(commit), Some(changes)) if changes.is_empty() => commit,
        (Some(commit), _) => format!("{commit}-changed"),
        (None, _) => "unknown".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_too_large_is_refused() {
        let part = |name, bytes| Part {
            name,
            content: vec![0; bytes],
            executable: false,
        };
        assert_eq!(
            fits(&[part("a", 3), part("b", LARGEST as usize - 3)]).expect("exactly as much"),
            LARGEST
        );
        let error =
            fits(&[part("a", 4), part("b", LARGEST as usize - 3)]).expect_err("a byte too many");
        assert!(error.is::<Failed>(), "{error:?}");
        assert!(
            error
                .to_string()
                .contains("(a 0.0 MB, b 60.0 MB) are more than 60.0 MB: was it built"),
            "{error}"
        );
    }

    #[test]
    fn the_script_learns_what_it_was_built_with() {
        let script =
            fs::read_to_string(workspace::root().join(SCRIPT.1)).expect("the script is there");
        let stamped = stamped(&script, 86, "0123abc").expect("it has both lines");
        assert!(
            stamped.lines().any(|line| line == "built_for=86")
                && stamped.contains("\ncommit=0123abc\n")
        );
        assert_eq!(stamped.lines().count(), script.lines().count());
        let error = super::stamped("#!/bin/sh\nbuilt_for=1\n", 86, "x")
            .expect_err("one is missing")
            .to_string();
        assert!(error.ends_with("has no line commit=…"), "{error}");
        HELPERS
            .iter()
            .for_each(|(_, path)| assert!(workspace::root().join(path).is_file(), "{path}"));
    }

    #[test]
    fn other_files_are_not_buried() {
        let folder = tempfile::tempdir().expect("a scratch folder");
        assert!(vacant(&folder.path().join("new")).is_ok());
        fs::write(folder.path().join("run.sh"), "").expect("writable");
        assert!(
            vacant(folder.path()).is_ok(),
            "an earlier bundle is replaced"
        );
        fs::write(folder.path().join("thesis.txt"), "").expect("writable");
        let error = vacant(folder.path())
            .expect_err("something else")
            .to_string();
        assert!(
            error.contains("has thesis.txt in it: choose another --out"),
            "{error}"
        );
    }

    #[test]
    fn a_commit_is_one_word() {
        assert_eq!(commit().split_whitespace().count(), 1, "{}", commit());
    }
}
