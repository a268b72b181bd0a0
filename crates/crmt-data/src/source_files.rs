//! Finds and reads original files: plain or gzipped, in a directory or a tar archive.
//! Does not know what they hold.
use crate::prepare::{Check, PrepareError, RecordingsSum, sha256};
use flate2::read::MultiGzDecoder;
use std::fs::{self, File};
use std::io::{self, BufReader, Read};
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
    let error = |error| PrepareError::Io { path: path.into(), error };
    let bytes = fs::read(path).map_err(error)?;
    if bytes.starts_with(&[0x1f, 0x8b]) { limited(MultiGzDecoder::new(&bytes[..])).map_err(error) } else { Ok(bytes) }
}

/// The first of `names` that exists in `dir`, plain or with `.gz`.
pub(crate) fn find(dir: &Path, names: &[&str]) -> Result<PathBuf, PrepareError> {
    let candidates = names.iter().flat_map(|n| [dir.join(n), dir.join(format!("{n}.gz"))]);
    candidates.into_iter().find(|p| p.is_file()).ok_or_else(|| PrepareError::Missing {
        path: dir.join(names[0]),
        expected: "this file, plain or as .gz".into(),
    })
}

/// Every `.wav` file of a directory (or its `recordings` folder, or the one `.tar.gz` in it) or of
/// a `.tar.gz`, sorted by name; verified against `sum`.
pub(crate) fn recordings(path: &Path, sum: &RecordingsSum, check: Check) -> Result<Vec<Named>, PrepareError> {
    let missing = |expected: &str| PrepareError::Missing { path: path.into(), expected: expected.into() };
    let mut files = if path.is_file() {
        from_archive(path)?
    } else if path.is_dir() {
        let mut files = from_directory(path)?;
        if files.is_empty() && path.join("recordings").is_dir() {
            files = from_directory(&path.join("recordings"))?;
        }
        match (files.is_empty(), &archives(path)?[..]) {
            (false, _) => files,
            (true, [archive]) => from_archive(archive)?,
            (true, []) => return Err(missing("a directory with .wav files or one .tar.gz of them")),
            (true, _) => return Err(missing("one .tar.gz of recordings, there are several: name the file")),
        }
    } else {
        return Err(missing("a directory with .wav files or a .tar.gz of them"));
    };
    if files.is_empty() {
        return Err(missing("an archive with .wav files, there are none in this one"));
    }
    files.sort_by(|a, b| a.name.cmp(&b.name));
    if let Some(twice) = files.windows(2).find(|w| w[0].name == w[1].name) {
        let problem = format!("two recordings are called {}", twice[0].name);
        return Err(PrepareError::Content { path: path.into(), problem });
    }
    let count = Check { what: "number of recordings", ..check };
    count.run(path, &sum.count.to_string(), files.len().to_string())?;
    let lines: String = files.iter().map(|f| format!("{}  {}\n", sha256(&f.bytes), f.name)).collect();
    check.run(path, &sum.sha256, sha256(lines.as_bytes()))?;
    Ok(files)
}

fn from_directory(dir: &Path) -> Result<Vec<Named>, PrepareError> {
    let read = |name: String| Ok(Named { bytes: read_file(&dir.join(&name))?, name });
    entries(dir)?.into_iter().filter(|name| is_wav(name)).map(read).collect()
}

fn archives(dir: &Path) -> Result<Vec<PathBuf>, PrepareError> {
    let packed = |n: &String| n.ends_with(".tar.gz") || n.ends_with(".tgz");
    Ok(entries(dir)?.into_iter().filter(packed).map(|name| dir.join(name)).collect())
}

fn entries(dir: &Path) -> Result<Vec<String>, PrepareError> {
    let error = |error| PrepareError::Io { path: dir.into(), error };
    let names = fs::read_dir(dir).map_err(error)?.map(|e| e.map(|e| e.file_name().to_string_lossy().into_owned()));
    names.collect::<io::Result<_>>().map_err(error)
}

fn from_archive(path: &Path) -> Result<Vec<Named>, PrepareError> {
    let error = |error| PrepareError::Io { path: path.into(), error };
    let mut archive = tar::Archive::new(MultiGzDecoder::new(BufReader::new(File::open(path).map_err(error)?)));
    let mut files = vec![];
    // A small archive must not unpack to more than fits.
    let mut left = MOST_BYTES;
    for entry in archive.entries().map_err(error)? {
        let mut entry = entry.map_err(error)?;
        let name = entry.path().map_err(error)?.file_name().map(|n| n.to_string_lossy().into_owned());
        let Some(name) = name.filter(|n| is_wav(n)) else { continue };
        left = left.checked_sub(entry.size()).ok_or_else(|| error(too_large()))?;
        let bytes = limited(&mut entry).map_err(error)?;
        files.push(Named { name, bytes });
    }
    Ok(files)
}

/// macOS adds `._x.wav` beside `x.wav`.
fn is_wav(name: &str) -> bool {
    name.ends_with(".wav") && !name.starts_with('.')
}

fn limited(reader: impl Read) -> io::Result<Vec<u8>> {
    let mut bytes = vec![];
    reader.take(MOST_BYTES + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MOST_BYTES { Err(too_large()) } else { Ok(bytes) }
}

fn too_large() -> io::Error {
    io::Error::other("unpacks to more than 1 GiB: not the original file")
}
