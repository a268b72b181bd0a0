//! A CUDA 13.0 toolkit that compiles and links, assembled from NVIDIA's Python wheels where there
//! is none. Knows neither what is built with it nor anything that runs on a GPU.
use super::stubs;
use crate::say::say;
use crate::{tools, workspace};
use anyhow::{Context, Result, bail};
use std::ffi::OsString;
use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};
use std::process::Command;
use zip::ZipArchive;

/// Compiler, headers and the runtime. Pinned: PTX of a newer compiler is refused by the drivers
/// of 13.0 (580).
const WHEELS: [&str; 7] = [
    "nvidia-cuda-nvcc==13.0.*",
    "nvidia-nvvm==13.0.*",
    "nvidia-cuda-crt==13.0.*",
    "nvidia-cuda-runtime==13.0.*",
    "nvidia-cuda-cccl==13.0.*",
    "nvidia-cuda-nvrtc==13.0.*",
    "nvidia-curand==10.4.0.35",
];

/// What all these wheels unpack into.
const UNPACKED: &str = "nvidia/cu13";

/// Folders of programs, which wheels don't always mark as such.
const PROGRAMS: [&str; 3] = ["bin", "bin/crt", "nvvm/bin"];

/// Says what a toolkit was assembled from; none without it is ours.
const STAMP: &str = "assembled-from.txt";

/// Where the stubs are, as in NVIDIA's own toolkits.
const STUBS: &str = "lib/stubs";

/// What may be in the place of a toolkit.
#[derive(Debug, PartialEq, Eq)]
enum State {
    /// One of ours, of these wheels and this cudarc.
    Whole,
    /// One of ours, of others.
    Outdated,
    /// One that somebody installed.
    Installed,
    Absent,
}

/// Makes sure that there is a toolkit in `folder`, an absolute path.
///
/// # Errors
/// If there is something else in `folder`, or a tool is missing, or a wheel can't be had; the
/// folder is then as it was.
pub fn prepare(folder: &Path) -> Result<()> {
    let cudarc = workspace::foreign("cudarc")?;
    let stamp = stamp(&cudarc.version);
    match state(folder, &stamp)? {
        State::Whole => return Ok(()),
        State::Installed => {
            return say(&format!(
                "{}: not assembled by this command, used as it is\n",
                folder.display()
            ));
        }
        State::Outdated | State::Absent => {}
    }
    need_tools()?;
    let partial = beside(folder, ".partial");
    fs::create_dir_all(&partial).with_context(|| format!("making {}", partial.display()))?;
    let _lock = lock(&partial)?;
    let begun = ["wheels", "unpacked"].map(|name| partial.join(name));
    begun.iter().try_for_each(|left| remove(left))?;
    let [wheels, unpacked] = begun;
    say(&format!(
        "assembling a CUDA toolkit in {}: about 250 MB to download\n",
        folder.display()
    ))?;
    download(&wheels)?;
    let whole = unpack(&wheels, &unpacked)?;
    complete(&whole)?;
    stubs::write(&cudarc.folder, &whole.join(STUBS))?;
    fs::write(whole.join(STAMP), stamp).with_context(|| format!("writing {STAMP}"))?;
    // The last step, and one that can't be half done: what bears the toolkit's name is whole.
    remove(folder)?;
    fs::rename(&whole, folder)
        .with_context(|| format!("moving the toolkit to {}", folder.display()))?;
    remove(&partial)
}

/// Where the linker is to look, best first.
pub fn libraries(folder: &Path) -> [PathBuf; 2] {
    [folder.join(STUBS), folder.join("lib64")]
}

fn stamp(cudarc: &str) -> String {
    WHEELS
        .iter()
        .map(|wheel| format!("{wheel}\n"))
        .chain([format!("stubs: cudarc {cudarc}\n")])
        .collect()
}

fn state(folder: &Path, stamp: &str) -> Result<State> {
    if let Ok(found) = fs::read_to_string(folder.join(STAMP)) {
        return Ok(if found == stamp {
            State::Whole
        } else {
            State::Outdated
        });
    }
    if folder.join("bin/nvcc").is_file() {
        return Ok(State::Installed);
    }
    let empty = match fs::read_dir(folder) {
        Ok(mut entries) => entries.next().is_none(),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => true,
        Err(error) => return Err(error).with_context(|| format!("reading {}", folder.display())),
    };
    if !empty {
        bail!(
            "{} has files but no CUDA toolkit (no bin/nvcc): name another folder with --toolkit",
            folder.display()
        );
    }
    Ok(State::Absent)
}

fn need_tools() -> Result<()> {
    stubs::need_compiler()?;
    let advice =
        "install a C++ compiler, which NVIDIA's calls (Debian, Ubuntu: apt-get install g++)";
    tools::need("g++", &["--version"], advice)?;
    tools::need(
        "python3",
        &["--version"],
        "install Python 3 (Debian, Ubuntu: apt-get install python3 python3-pip)",
    )?;
    let advice = "install pip, which fetches NVIDIA's compiler (Debian, Ubuntu: apt-get install python3-pip)";
    tools::need("python3", &["-m", "pip", "--version"], advice)
}

/// Nobody else assembles the same while this lives.
fn lock(partial: &Path) -> Result<File> {
    let path = partial.join("lock");
    let file = File::create(&path).with_context(|| format!("making {}", path.display()))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => {
            bail!(
                "another command is assembling in {}; wait for it or choose another --toolkit",
                partial.display()
            )
        }
        Err(TryLockError::Error(error)) => {
            Err(error).with_context(|| format!("locking {}", path.display()))
        }
    }
}

fn download(wheels: &Path) -> Result<()> {
    let mut command = Command::new("python3");
    command.args([
        "-m",
        "pip",
        "download",
        "--quiet",
        "--disable-pip-version-check",
        "--no-deps",
    ]);
    command
        .args(["--only-binary=:all:", "--dest"])
        .arg(wheels)
        .args(WHEELS);
    tools::execute(command).context("pip could not get NVIDIA's wheels; is there a way to PyPI?")
}

/// The folder of the toolkit among what the wheels hold.
fn unpack(wheels: &Path, unpacked: &Path) -> Result<PathBuf> {
    let mut paths = entries(wheels)?;
    paths.sort();
    for path in paths {
        let open = || -> Result<()> {
            ZipArchive::new(File::open(&path)?)?.extract(unpacked)?;
            Ok(())
        };
        open().with_context(|| format!("unpacking {}", path.display()))?;
    }
    let whole = unpacked.join(UNPACKED);
    if !whole.join("bin/nvcc").is_file() {
        bail!(
            "the wheels have no {UNPACKED}/bin/nvcc: their layout has changed, adapt xtask/src/cuda/toolkit.rs"
        );
    }
    Ok(whole)
}

/// What the wheels leave out of a toolkit.
fn complete(toolkit: &Path) -> Result<()> {
    for folder in PROGRAMS {
        for path in entries(&toolkit.join(folder))? {
            if path.is_file() {
                executable(&path)?;
            }
        }
    }
    link("lib", &toolkit.join("lib64"))?;
    link("libcudart.so.13", &toolkit.join("lib/libcudart.so"))?;
    let stubs = toolkit.join(STUBS);
    fs::create_dir_all(&stubs).with_context(|| format!("making {}", stubs.display()))
}

fn entries(folder: &Path) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(folder).with_context(|| format!("reading {}", folder.display()))?;
    entries.map(|entry| Ok(entry?.path())).collect()
}

/// `folder` with `end` at its name.
fn beside(folder: &Path, end: &str) -> PathBuf {
    let mut path = OsString::from(folder);
    path.push(end);
    path.into()
}

/// Removes a folder; that there is none is no fault.
fn remove(folder: &Path) -> Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("removing {}", folder.display()))
        }
        _ => Ok(()),
    }
}

/// Lets everybody run a file.
#[cfg(unix)]
pub fn executable(path: &Path) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(path, fs::Permissions::from_mode(0o755))
        .with_context(|| format!("marking {}", path.display()))
}

#[cfg(unix)]
fn link(target: &str, path: &Path) -> Result<()> {
    std::os::unix::fs::symlink(target, path).with_context(|| format!("linking {}", path.display()))
}

/// Lets everybody run a file.
#[cfg(not(unix))]
pub fn executable(_: &Path) -> Result<()> {
    bail!("CUDA builds are made for Linux, on Linux")
}

#[cfg(not(unix))]
fn link(_: &str, _: &Path) -> Result<()> {
    bail!("CUDA builds are made for Linux, on Linux")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_whole_toolkit_counts() {
        let scratch = tempfile::tempdir().expect("a scratch folder");
        let folder = scratch.path().join("toolkit");
        let write = |name: &str, text: &str| {
            let path = folder.join(name);
            fs::create_dir_all(path.parent().expect("a folder")).expect("writable");
            fs::write(path, text).expect("writable");
        };
        let now = stamp("0.19.10");
        let seen = || state(&folder, &now);
        assert_eq!(seen().expect("nothing there"), State::Absent);
        fs::create_dir(&folder).expect("writable");
        assert_eq!(seen().expect("an empty folder"), State::Absent);
        write("thesis.txt", "");
        let error = seen().expect_err("something else is there").to_string();
        assert!(
            error.contains("toolkit has files but no CUDA toolkit") && error.contains("--toolkit"),
            "{error}"
        );
        write("bin/nvcc", "");
        assert_eq!(seen().expect("somebody's own"), State::Installed);
        write(STAMP, &stamp("0.18.0"));
        assert_eq!(seen().expect("stubs of another cudarc"), State::Outdated);
        write(STAMP, &now);
        assert_eq!(seen().expect("what was assembled"), State::Whole);
    }

    #[test]
    fn two_do_not_assemble_the_same() {
        let scratch = tempfile::tempdir().expect("a scratch folder");
        let partial = beside(&scratch.path().join("toolkit"), ".partial");
        assert_eq!(
            partial.file_name().and_then(|name| name.to_str()),
            Some("toolkit.partial")
        );
        fs::create_dir(&partial).expect("writable");
        let first = lock(&partial).expect("nobody has it");
        let error = lock(&partial).expect_err("the first has it").to_string();
        assert!(
            error.starts_with("another command is assembling in"),
            "{error}"
        );
        drop(first);
        assert!(
            lock(&partial).is_ok(),
            "an interrupted assembly is no obstacle"
        );
    }

    #[test]
    #[cfg(unix)]
    fn wheels_become_a_toolkit() {
        use std::io::Write;
        use std::os::unix::fs::PermissionsExt;
        let scratch = tempfile::tempdir().expect("a scratch folder");
        let (wheels, unpacked) = (
            scratch.path().join("wheels"),
            scratch.path().join("unpacked"),
        );
        fs::create_dir(&wheels).expect("writable");
        let wheel = |name: &str, files: &[&str]| {
            let mut archive =
                zip::ZipWriter::new(File::create(wheels.join(name)).expect("writable"));
            for file in files {
                archive
                    .start_file(*file, zip::write::SimpleFileOptions::default())
                    .expect("a new name");
                archive.write_all(b"x").expect("writable");
            }
            archive.finish().expect("writable");
        };
        wheel(
            "runtime.whl",
            &[
                "nvidia/cu13/lib/libcudart.so.13",
                "nvidia/cu13/nvvm/bin/cicc",
            ],
        );
        let error = unpack(&wheels, &unpacked)
            .expect_err("no compiler among them")
            .to_string();
        assert!(error.contains("no nvidia/cu13/bin/nvcc"), "{error}");
        wheel(
            "nvcc.whl",
            &["nvidia/cu13/bin/nvcc", "nvidia/cu13/bin/crt/link.stub"],
        );
        let toolkit = unpack(&wheels, &unpacked).expect("a compiler");
        complete(&toolkit).expect("a scratch folder");
        assert_eq!(
            fs::read(toolkit.join("lib64/libcudart.so")).expect("two links"),
            b"x"
        );
        for program in ["bin/nvcc", "bin/crt/link.stub", "nvvm/bin/cicc"] {
            let mode = fs::metadata(toolkit.join(program))
                .expect(program)
                .permissions()
                .mode();
            assert_eq!(mode & 0o111, 0o111, "{program}");
        }
        fs::write(wheels.join("torn.whl"), "PK").expect("writable");
        let error = format!("{:#}", unpack(&wheels, &unpacked).expect_err("no archive"));
        assert!(
            error.contains("unpacking") && error.contains("torn.whl"),
            "{error}"
        );
    }
}
