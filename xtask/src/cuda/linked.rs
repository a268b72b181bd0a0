//! What a program asks of the machine it starts on, read from its ELF file. Starts no loader, so
//! none of it has to be there.
use crate::Failed;
use anyhow::{Context, Result};
use object::Endianness;
use object::elf;
use object::read::elf::ElfFile64;

/// The sonames a CUDA build of ours may need: CUDA 13, cuDNN 9 and what every C++ program has.
pub const KNOWN: [&str; 12] = [
    "libcuda.so.1",
    "libcublas.so.13",
    "libcublasLt.so.13",
    "libcurand.so.10",
    "libcudart.so.13",
    "libcudnn.so.9",
    "libnvrtc.so.13",
    "libstdc++.so.6",
    "libgcc_s.so.1",
    "libm.so.6",
    "libc.so.6",
    "ld-linux-x86-64.so.2",
];

/// Of one program or library.
#[derive(Debug, PartialEq, Eq)]
pub struct Linked {
    /// Sonames, in the file's order.
    pub libraries: Vec<String>,
    /// The oldest glibc that has every symbol; `None` where symbols have no such versions.
    pub glibc: Option<Vec<u32>>,
}

impl Linked {
    /// Reads the bytes of a 64-bit ELF file.
    ///
    /// # Errors
    /// If they are none, or broken.
    pub fn read(bytes: &[u8]) -> Result<Self> {
        let file = ElfFile64::<Endianness>::parse(bytes).context("not a 64-bit ELF file")?;
        let (endian, sections) = (file.endian(), file.elf_section_table());
        let mut libraries = Vec::new();
        let table = file.elf_dynamic_table().context("no table of libraries")?;
        for entry in table.iter().filter(|entry| entry.tag == elf::DT_NEEDED) {
            let name = table.string(entry).context("a library without a name")?;
            libraries.push(String::from_utf8_lossy(name).into_owned());
        }
        let mut glibc = None;
        if let Some((mut needs, link)) = sections
            .gnu_verneed(endian, bytes)
            .context("versions of symbols")?
        {
            let strings = sections
                .strings(endian, bytes, link)
                .context("names of versions")?;
            while let Some((_, mut versions)) = needs.next().context("versions of symbols")? {
                while let Some(version) = versions.next().context("versions of symbols")? {
                    let name = version
                        .name(endian, strings)
                        .context("the name of a version")?;
                    glibc = glibc.max(numbers(&String::from_utf8_lossy(name)));
                }
            }
        }
        Ok(Self { libraries, glibc })
    }

    /// Whether all of it is what a CUDA build of ours should need.
    ///
    /// # Errors
    /// [`Failed`], if there is a library that nobody would think to install, or CUDA is not among
    /// them.
    pub fn judge(&self) -> Result<()> {
        let strange: Vec<&str> = self
            .libraries
            .iter()
            .map(String::as_str)
            .filter(|library| !KNOWN.contains(library))
            .collect();
        if !strange.is_empty() {
            let advice = "leave out the dependency that links it, or add it to xtask/src/cuda/linked.rs and docs/cuda.md";
            return Err(Failed(format!(
                "the program needs {}: {advice}",
                strange.join(", ")
            ))
            .into());
        }
        if !self.libraries.iter().any(|library| library == KNOWN[0]) {
            let advice = "its package does not forward the feature cuda to candle-core";
            return Err(Failed(format!("the program does not need {}: {advice}", KNOWN[0])).into());
        }
        Ok(())
    }

    /// For people: one line for each library, and the glibc.
    pub fn text(&self) -> String {
        let mut text: String = self
            .libraries
            .iter()
            .map(|library| format!("  {library}\n"))
            .collect();
        if let Some(version) = &self.glibc {
            let version: Vec<String> = version.iter().map(u32::to_string).collect();
            text.push_str(&format!("  glibc {} or newer\n", version.join(".")));
        }
        text
    }
}

/// `[2, 34]` of `GLIBC_2.34`.
fn numbers(version: &str) -> Option<Vec<u32>> {
    version
        .strip_prefix("GLIBC_")?
        .split('.')
        .map(|part| part.parse().ok())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn linked(libraries: &[&str]) -> Linked {
        Linked {
            libraries: libraries.iter().map(|&name| name.to_owned()).collect(),
            glibc: Some(vec![2, 34]),
        }
    }

    #[test]
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    fn this_very_program_is_read() {
        let own = std::fs::read("/proc/self/exe").expect("Linux shows the running program");
        let linked = Linked::read(&own).expect("an ELF file");
        assert!(
            linked
                .libraries
                .iter()
                .any(|library| library == "libc.so.6"),
            "{linked:?}"
        );
        // The oldest glibc for which rustc makes programs is 2.17.
        assert!(linked.glibc >= Some(vec![2, 17]), "{linked:?}");
        let error = linked.judge().expect_err("these tests have no CUDA");
        assert!(
            error.is::<Failed>() && error.to_string().contains("does not need libcuda.so.1"),
            "{error}"
        );
    }

    #[test]
    fn other_files_are_refused() {
        let error = format!("{:#}", Linked::read(b"#!/bin/sh\n").expect_err("a script"));
        assert!(error.starts_with("not a 64-bit ELF file"), "{error}");
    }

    #[test]
    fn strange_libraries_are_named() {
        assert!(linked(&KNOWN).judge().is_ok());
        let error = linked(&["libcuda.so.1", "libnccl.so.2", "libfoo.so"])
            .judge()
            .expect_err("two too many");
        assert!(error.is::<Failed>(), "{error:?}");
        assert!(
            error
                .to_string()
                .starts_with("the program needs libnccl.so.2, libfoo.so: "),
            "{error}"
        );
    }

    #[test]
    fn versions_are_compared_as_numbers() {
        assert!(
            numbers("GLIBC_2.34") > numbers("GLIBC_2.4")
                && numbers("GLIBC_2.2.5") < numbers("GLIBC_2.3")
        );
        assert_eq!(
            (numbers("GLIBCXX_3.4"), numbers("GLIBC_PRIVATE")),
            (None, None)
        );
        assert_eq!(
            linked(&["libm.so.6"]).text(),
            "  libm.so.6\n  glibc 2.34 or newer\n"
        );
    }
}
