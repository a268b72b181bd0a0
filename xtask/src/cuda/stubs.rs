//! Libraries to link against where CUDA is not installed: every function that cudarc's bindings
//! name, each returning an error. Knows no signature; where the program runs, the loader finds the
//! real library by its soname.
use crate::tools;
use anyhow::{Context, Result, bail};
use std::collections::BTreeSet;
use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

/// The C compiler, which Rust's linker is too.
const COMPILER: &str = "cc";

struct Library {
    /// As the linker calls it: `-lNAME`.
    name: &'static str,
    /// As the loader calls it.
    soname: &'static str,
    /// cudarc's module with its bindings.
    module: &'static str,
}

const LIBRARIES: [Library; 7] = [
    Library {
        name: "cuda",
        soname: "libcuda.so.1",
        module: "driver",
    },
    Library {
        name: "cublas",
        soname: "libcublas.so.13",
        module: "cublas",
    },
    Library {
        name: "cublasLt",
        soname: "libcublasLt.so.13",
        module: "cublaslt",
    },
    Library {
        name: "cudnn",
        soname: "libcudnn.so.9",
        module: "cudnn",
    },
    Library {
        name: "curand",
        soname: "libcurand.so.10",
        module: "curand",
    },
    Library {
        name: "nvrtc",
        soname: "libnvrtc.so.13",
        module: "nvrtc",
    },
    Library {
        name: "nccl",
        soname: "libnccl.so.2",
        module: "nccl",
    },
];

/// What CUDA's functions begin with.
const PREFIXES: [&str; 4] = ["cu", "nvrtc", "nccl", "pnccl"];

/// What every stub returns: `CUDA_ERROR_UNKNOWN`; for the other libraries as little a success.
const UNKNOWN: u32 = 999;

/// Looks for the compiler, before anything long begins.
///
/// # Errors
/// If there is none.
pub fn need_compiler() -> Result<()> {
    tools::need(
        COMPILER,
        &["--version"],
        "install a C compiler (Debian, Ubuntu: apt-get install gcc)",
    )
}

/// Writes the libraries into the folder `out`, which exists, for the cudarc whose folder is given.
///
/// # Errors
/// If the compiler fails, a binding is not where it should be or names no function, or a file can't
/// be written.
pub fn write(cudarc: &Path, out: &Path) -> Result<()> {
    for library in &LIBRARIES {
        let bindings = cudarc.join("src").join(library.module).join("sys/mod.rs");
        let text = fs::read_to_string(&bindings)
            .with_context(|| format!("reading {}", bindings.display()))?;
        let functions = functions(&text);
        if functions.is_empty() {
            let advice = "its layout has changed, adapt xtask/src/cuda/stubs.rs";
            bail!(
                "{} names no function of lib{}: {advice}",
                bindings.display(),
                library.name
            );
        }
        compile(
            &source(&functions),
            library.soname,
            &out.join(format!("lib{}.so", library.name)),
        )?;
    }
    Ok(())
}

/// The functions that `bindings` declare as foreign: `fn cuInit(…`, without `pub`.
fn functions(bindings: &str) -> BTreeSet<&str> {
    let declared = bindings
        .lines()
        .filter_map(|line| line.trim_start().strip_prefix("fn ")?.split_once('('));
    declared
        .map(|(name, _)| name.trim_end())
        .filter(|name| PREFIXES.iter().any(|p| name.starts_with(p)))
        .collect()
}

fn source(functions: &BTreeSet<&str>) -> String {
    functions
        .iter()
        .map(|name| format!("int {name}(void) {{ return {UNKNOWN}; }}\n"))
        .collect()
}

fn compile(source: &str, soname: &str, out: &Path) -> Result<()> {
    let mut command = Command::new(COMPILER);
    command
        .args(["-shared", "-fPIC", &format!("-Wl,-soname,{soname}"), "-o"])
        .arg(out)
        .args(["-x", "c", "-"]);
    let mut child = command
        .stdin(Stdio::piped())
        .spawn()
        .with_context(|| format!("starting {COMPILER}"))?;
    // Closed when it goes out of scope, which ends the compiler's input.
    child
        .stdin
        .take()
        .context("the compiler has no input")?
        .write_all(source.as_bytes())?;
    if !child.wait()?.success() {
        bail!("{COMPILER} did not make {}", out.display());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::linked::{KNOWN, Linked};
    use super::*;

    const BINDINGS: &str = r#"
pub unsafe fn cuInit(Flags: c_uint) -> CUresult {
    #[cfg(feature = "dynamic-loading")]
    {
        type _F = unsafe extern "C" fn(c_uint) -> CUresult;
        let _f = _S.get_or_init(|| unsafe { load::<_F>("cuInit") });
    }
    extern "C" {
        fn cuInit(Flags: c_uint) -> CUresult;
    }
}
extern "C" {
    fn cuMemAlloc_v2(
        dptr: *mut CUdeviceptr,
    ) -> CUresult;
    fn cuInit(Flags: c_uint) -> CUresult;
    fn ncclSend(count: usize) -> ncclResult_t;
}
impl Default for CUgraph { fn default() -> Self { zeroed() } }
    fn fmt(&self, f: &mut Formatter<'_>) -> Result { todo() }
pub unsafe fn culib() -> &'static Lib {}
pub unsafe fn is_culib_present() -> bool {}
"#;

    #[test]
    fn foreign_functions_are_found_once_each() {
        let found = functions(BINDINGS);
        assert_eq!(
            found.iter().copied().collect::<Vec<_>>(),
            ["cuInit", "cuMemAlloc_v2", "ncclSend"]
        );
        assert!(
            source(&found).starts_with("int cuInit(void) { return 999; }\nint cuMemAlloc_v2(void)")
        );
        assert!(functions("pub fn nothing() {}").is_empty());
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn a_stub_bears_its_soname_and_can_be_linked() {
        if !tools::works(COMPILER, &["--version"]) {
            return println!("skipped: no {COMPILER}");
        }
        let folder = tempfile::tempdir().expect("a scratch folder");
        let path = |name: &str| folder.path().join(name);
        compile(
            &source(&functions(BINDINGS)),
            "libcuda.so.1",
            &path("libcuda.so"),
        )
        .expect("C that compiles");
        fs::write(
            path("main.c"),
            "int cuInit(unsigned);\nint main(void) { return cuInit(0); }\n",
        )
        .expect("writable");
        let mut link = Command::new(COMPILER);
        link.current_dir(folder.path())
            .args(["main.c", "-o", "main", "-L.", "-lcuda"]);
        assert!(link.status().expect("it has just worked").success());
        let linked =
            Linked::read(&fs::read(path("main")).expect("a program")).expect("an ELF file");
        assert!(
            linked
                .libraries
                .iter()
                .any(|library| library == "libcuda.so.1"),
            "{linked:?}"
        );
    }

    #[test]
    fn each_library_that_a_program_may_need_has_a_stub() {
        for soname in KNOWN
            .iter()
            .filter(|name| name.starts_with("libcu") || name.starts_with("libnv"))
        {
            // The toolkit brings the runtime itself.
            let own = *soname == "libcudart.so.13";
            assert!(
                own || LIBRARIES.iter().any(|library| library.soname == *soname),
                "{soname}"
            );
        }
    }

    #[test]
    fn bindings_elsewhere_are_told() {
        let folder = tempfile::tempdir().expect("a scratch folder");
        let error = format!(
            "{:#}",
            write(folder.path(), folder.path()).expect_err("no cudarc")
        );
        assert!(
            error.starts_with("reading ") && error.contains("driver"),
            "{error}"
        );
    }
}
