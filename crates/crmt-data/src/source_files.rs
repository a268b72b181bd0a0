//! Finds and reads original files: plain or gzipped, in a directory or a tar archive.
//! Does not know what they hold.
use crate::prepare::{Check, PrepareError, RecordingsSum, sha256};
use crate::read_regular;
use flate2::read::MultiGzDecoder;
use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

/// No original file is larger when unpacked; more is refused instead of filling the memory.
const MOST_BYTES: u64 = 1 << 30;

/// A file's name (without directories) and contents.
pub(crate) struct Named {
    pub(crate) name: String,
    pub(crate) bytes: Vec<u8>,
}

/// A whole file; gzip is recognised by its first bytes and unpacked.
pub(crate) fn read_file(path: &Path) -> Result<Vec<u8>, PrepareError> {
    let error = |error| PrepareError::Io {
        path: path.into(),
        error,
    };
    let bytes = read_regular(path, MOST_BYTES).map_err(error)?;
    // To the end of every member: only there are its checksum and length.
    if bytes.starts_with(&[0x1f, 0x8b]) {
        limited(MultiGzDecoder::new(&bytes[..]), MOST_BYTES).map_err(error)
    } else {
        Ok(bytes)
    }
}

/// The first of `names` that exists in `dir`, plain or with `.gz`.
pub(crate) fn find(dir: &Path, names: &[&str]) -> Result<PathBuf, PrepareError> {
    let candidates = names
        .iter()
        .flat_map(|n| [dir.join(n), dir.join(format!("{n}.gz"))]);
    candidates
        .into_iter()
        .find(|p| fs::symlink_metadata(p).is_ok())
        .ok_or_else(|| PrepareError::Missing {
            path: dir.join(names[0]),
            expected: "this file, plain or as .gz".into(),
        })
}

/// Every `.wav` file of a directory (or its `recordings` folder, or the one `.tar.gz` in it) or of
/// a `.tar.gz`, sorted by name.
pub(crate) fn recordings(path: &Path) -> Result<Vec<Named>, PrepareError> {
    let missing = |expected: &str| PrepareError::Missing {
        path: path.into(),
        expected: expected.into(),
    };
    let mut files = if path.is_dir() {
        let mut files = from_directory(path)?;
        if files.is_empty() && path.join("recordings").is_dir() {
            files = from_directory(&path.join("recordings"))?;
        }
        match (files.is_empty(), &archives(path)?[..]) {
            (false, _) => files,
            (true, [archive]) => from_archive(archive)?,
            (true, []) => {
                return Err(missing(
                    "a directory with .wav files or one .tar.gz of them",
                ));
            }
            (true, _) => {
                return Err(missing(
                    "one .tar.gz of recordings, there are several: name the file",
                ));
            }
        }
    } else if fs::symlink_metadata(path).is_ok() {
        from_archive(path)?
    } else {
        return Err(missing("a directory with .wav files or a .tar.gz of them"));
    };
    if files.is_empty() {
        return Err(missing(
            "an archive with .wav files, there are none in this one",
        ));
    }
    files.sort_by(|a, b| a.name.cmp(&b.name));
    if let Some(twice) = files.windows(2).find(|w| w[0].name == w[1].name) {
        let problem = format!("two recordings are called {}", twice[0].name);
        return Err(PrepareError::Content {
            path: path.into(),
            problem,
        });
    }
    Ok(files)
}

/// Holds number and contents of the recordings found in `path` against those declared. Separate
/// from reading, so that a damaged file can be named first.
pub(crate) fn verify(
    path: &Path,
    files: &[Named],
    sum: &RecordingsSum,
    check: Check,
) -> Result<(), PrepareError> {
    let count = Check {
        what: "number of recordings",
        ..check
    };
    count.run(path, &sum.count.to_string(), files.len().to_string())?;
    let lines: String = files
        .iter()
        .map(|f| format!("{}  {}\n", sha256(&f.bytes), f.name))
        .collect();
    check.run(path, &sum.sha256, sha256(lines.as_bytes()))
}

fn from_directory(dir: &Path) -> Result<Vec<Named>, PrepareError> {
    let read = |name: String| {
        Ok(Named {
            bytes: read_file(&dir.join(&name))?,
            name,
        })
    };
    entries(dir)?
        .into_iter()
        .filter(|name| is_wav(name))
        .map(read)
        .collect()
}

fn archives(dir: &Path) -> Result<Vec<PathBuf>, PrepareError> {
    let packed = |n: &String| n.ends_with(".tar.gz") || n.ends_with(".tgz");
    Ok(entries(dir)?
        .into_iter()
        .filter(packed)
        .map(|name| dir.join(name))
        .collect())
}

fn entries(dir: &Path) -> Result<Vec<String>, PrepareError> {
    let error = |error| PrepareError::Io {
        path: dir.into(),
        error,
    };
    let names = fs::read_dir(dir)
        .map_err(error)?
        .map(|e| e.map(|e| e.file_name().to_string_lossy().into_owned()));
    names.collect::<io::Result<_>>().map_err(error)
}

fn from_archive(path: &Path) -> Result<Vec<Named>, PrepareError> {
    let error = |error| PrepareError::Io {
        path: path.into(),
        error,
    };
    let unpacked = read_file(path)?;
    let mut archive = tar::Archive::new(&unpacked[..]);
    let mut files = vec![];
    // A small archive must not unpack to more than fits.
    let mut left = MOST_BYTES;
    for entry in archive.entries().map_err(error)? {
        let mut entry = entry.map_err(error)?;
        let name = entry
            .path()
            .map_err(error)?
            .file_name()
            .map(|n| n.to_string_lossy().into_owned());
        let Some(name) = name.filter(|n| is_wav(n)) else {
            continue;
        };
        left = left
            .checked_sub(entry.size())
            .ok_or_else(|| error(too_large()))?;
        let bytes = limited(&mut entry, MOST_BYTES).map_err(error)?;
        if bytes.len() as u64 != entry.size() {
            let problem = format!(
                "truncated: {name} has {} of {} bytes",
                bytes.len(),
                entry.size()
            );
            return Err(error(io::Error::other(problem)));
        }
        files.push(Named { name, bytes });
    }
    Ok(files)
}

/// macOS adds `._x.wav` beside `x.wav`.
fn is_wav(name: &str) -> bool {
    name.ends_with(".wav") && !name.starts_with('.')
}

fn limited(reader: impl Read, most: u64) -> io::Result<Vec<u8>> {
    let mut bytes = vec![];
    reader.take(most + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > most {
        Err(too_large())
    } else {
        Ok(bytes)
    }
}

fn too_large() -> io::Error {
    io::Error::other("unpacks to more than 1 GiB: not the original file")
}

#[cfg(test)]
mod tests {
    use super::*;
    use flate2::{Compression, write::GzEncoder};
    use std::io::Write;

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut out = GzEncoder::new(vec![], Compression::fast());
        out.write_all(bytes)
            .and_then(|()| out.finish())
            .expect("writes to memory")
    }

    fn tar_gz(files: &[(&str, &[u8])]) -> Vec<u8> {
        let mut tar = tar::Builder::new(vec![]);
        for (name, bytes) in files {
            let mut header = tar::Header::new_gnu();
            header.set_size(bytes.len() as u64);
            header.set_mode(0o644);
            header.set_cksum();
            tar.append_data(&mut header, name, *bytes)
                .expect("writes to memory");
        }
        gzip(&tar.into_inner().expect("writes to memory"))
    }

    fn names(path: &Path) -> Result<Vec<String>, String> {
        recordings(path)
            .map(|f| f.into_iter().map(|f| f.name).collect())
            .map_err(|e| e.to_string())
    }

    #[test]
    fn recordings_are_found_wherever_they_are() -> io::Result<()> {
        let dir = tempfile::tempdir()?;
        let at = |name: &str| dir.path().join(name);
        assert!(
            names(&at("none"))
                .is_err_and(|e| e.contains("not found; expected a directory with .wav files"))
        );
        assert!(names(dir.path()).is_err_and(|e| e.contains("or one .tar.gz of them")));

        let archive = tar_gz(&[
            ("recordings/b.wav", b"bb"),
            ("recordings/a.wav", b"a"),
            ("recordings/._a.wav", b"x"),
            ("x.txt", b"x"),
        ]);
        fs::write(at("x.tar.gz"), &archive)?;
        assert_eq!(
            names(&at("x.tar.gz")),
            Ok(vec!["a.wav".into(), "b.wav".into()])
        );
        assert_eq!(names(dir.path()), names(&at("x.tar.gz")));
        fs::write(at("y.tgz"), &archive)?;
        assert!(names(dir.path()).is_err_and(|e| e.contains("there are several")));

        fs::create_dir(at("recordings"))?;
        fs::write(at("recordings/c.wav"), b"c")?;
        assert_eq!(names(dir.path()), Ok(vec!["c.wav".into()]));
        fs::write(at("d.wav"), b"d")?;
        assert_eq!(names(dir.path()), Ok(vec!["d.wav".into()]));
        Ok(())
    }

    #[test]
    fn damaged_archives_are_named() -> io::Result<()> {
        let dir = tempfile::tempdir()?;
        let path = dir.path().join("x.tar.gz");
        let whole = tar_gz(&[("a.wav", &[7; 3000])]);
        fs::write(&path, &whole[..whole.len() / 2])?;
        assert!(names(&path).is_err_and(|e| e.contains("x.tar.gz: can't read")));
        fs::write(&path, b"not an archive")?;
        assert!(names(&path).is_err_and(|e| e.contains("x.tar.gz: can't read")));
        fs::write(&path, tar_gz(&[("a.wav", b"1"), ("b/a.wav", b"2")]))?;
        assert!(names(&path).is_err_and(|e| e.contains("two recordings are called a.wav")));
        fs::write(&path, tar_gz(&[("a.txt", b"1")]))?;
        assert!(names(&path).is_err_and(|e| e.contains("there are none in this one")));
        Ok(())
    }

    #[test]
    fn gzip_is_recognised_by_content() -> io::Result<()> {
        let dir = tempfile::tempdir()?;
        let path = dir.path().join("x.gz");
        fs::write(&path, gzip(b"hello"))?;
        assert_eq!(find(dir.path(), &["y", "x"]).expect("there"), path);
        assert_eq!(read_file(&path).expect("valid"), b"hello");
        fs::write(&path, &gzip(b"hello")[..15])?;
        assert!(read_file(&path).is_err_and(|e| e.to_string().contains("x.gz: can't read")));
        assert!(find(dir.path(), &["y"]).is_err_and(|e| {
            e.to_string()
                .ends_with("y: not found; expected this file, plain or as .gz")
        }));
        Ok(())
    }

    #[test]
    fn every_byte_of_a_packed_file_is_held_against_its_checksums() -> io::Result<()> {
        let dir = tempfile::tempdir()?;
        let path = dir.path().join("x.tar.gz");
        let whole = tar_gz(&[("a.wav", &[7; 300])]);
        let two = [gzip(b"hel"), gzip(b"lo")].concat();
        fs::write(&path, &two)?;
        assert_eq!(read_file(&path).expect("two members"), b"hello");
        // The last eight bytes are CRC and length, which a reader of the archive alone never gets
        // to.
        for at in (whole.len() - 8)..whole.len() {
            let mut damaged = whole.clone();
            damaged[at] ^= 1;
            fs::write(&path, &damaged)?;
            assert!(
                names(&path).is_err_and(|e| e.contains("x.tar.gz: can't read")),
                "byte {at}"
            );
        }
        for cut in [1, 8, 9] {
            fs::write(&path, &whole[..whole.len() - cut])?;
            assert!(
                names(&path).is_err_and(|e| e.contains("x.tar.gz: can't read")),
                "{cut} bytes cut off"
            );
        }
        fs::write(&path, [&whole[..], b"more"].concat())?;
        assert!(
            names(&path).is_err_and(|e| e.contains("x.tar.gz: can't read")),
            "trailing bytes"
        );
        Ok(())
    }

    #[test]
    fn archives_that_are_cut_off_inside_or_unpack_to_too_much_are_refused() -> io::Result<()> {
        let dir = tempfile::tempdir()?;
        let path = dir.path().join("x.tar.gz");
        let mut tar = tar::Builder::new(vec![]);
        let mut header = tar::Header::new_gnu();
        header.set_size(3000);
        header.set_cksum();
        tar.append_data(&mut header, "a.wav", &[7u8; 3000][..])?;
        fs::write(&path, gzip(&tar.into_inner()?[..2000]))?;
        assert!(names(&path).is_err_and(|e| e.contains("x.tar.gz: can't read")));
        let zeros = gzip(&vec![0; 2 << 20]).repeat(2);
        let unpacked =
            |most| limited(MultiGzDecoder::new(&zeros[..]), most).map(|bytes| bytes.len());
        assert_eq!(unpacked(4 << 20)?, 4 << 20);
        assert!(
            unpacked((4 << 20) - 1)
                .is_err_and(|e| e.to_string().starts_with("unpacks to more than"))
        );
        Ok(())
    }

    #[cfg(unix)]
    #[test]
    fn what_is_no_file_is_named() -> io::Result<()> {
        let dir = tempfile::tempdir()?;
        let fifo = dir.path().join("train.gz");
        assert!(
            std::process::Command::new("mkfifo")
                .arg(&fifo)
                .status()?
                .success()
        );
        let found = find(dir.path(), &["train"]).expect("something is there");
        assert!(read_file(&found).is_err_and(|e| {
            e.to_string()
                .ends_with("train.gz: can't read: is a FIFO, expected a file")
        }));
        assert!(names(&fifo).is_err_and(|e| e.contains("is a FIFO")));
        Ok(())
    }
}
