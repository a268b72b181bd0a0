//! A data set as a directory: `dataset.toml` and one `.npy` file per array.
//! Does not know how the arrays were made.
use crate::split::{array_file, corrupted_file, index_file, labels_file};
use crate::{
    Array, DataSet, DataSetError, MANIFEST, Manifest, ManifestError, ModalitySpec, Npy, NpyError, NpyValues, Pairing,
    PairingKind, PreparedCorruption, Purpose, Samples, Split, write_npy,
};
use crmt_core::PerModality;
use sha2::{Digest, Sha256};
use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

/// Why a directory is not a readable data set.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// No such directory.
    #[error("{}: no such directory; prepare the data set first, or check the path", .0.display())]
    NoDirectory(PathBuf),
    /// The directory describes nothing.
    #[error("{}: no dataset.toml in it; this is not a prepared data set", .0.display())]
    NoManifest(PathBuf),
    /// A file the description asks for.
    #[error("{}: no {file}; {needed}", .dir.display())]
    Missing {
        /// The data set.
        dir: PathBuf,
        /// The file.
        file: String,
        /// What it would hold, and why it is needed.
        needed: String,
    },
    /// The system refused.
    #[error("{}: {error}", .path.display())]
    Io {
        /// What was read.
        path: PathBuf,
        /// Why not.
        error: io::Error,
    },
    /// The description is wrong.
    #[error("{}: {error}", .path.display())]
    Manifest {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        error: ManifestError,
    },
    /// A file is not a `.npy` array.
    #[error("{}: {error}", .path.display())]
    Npy {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        error: NpyError,
    },
    /// A `.npy` array that can't be what it should.
    #[error("{}: {problem}", .path.display())]
    Array {
        /// The file.
        path: PathBuf,
        /// What is wrong, and what is expected.
        problem: String,
    },
    /// A file is not the one that was written.
    #[error(
        "{}: SHA-256 is {got}, dataset.toml says {expected}: damaged or changed; prepare the set again, or delete the line under [sha256] if the change is yours", .path.display()
    )]
    Digest {
        /// The file.
        path: PathBuf,
        /// As recorded.
        expected: String,
        /// As found.
        got: String,
    },
    /// Arrays and description contradict each other.
    #[error("{}: {error}", .dir.display())]
    Content {
        /// The data set.
        dir: PathBuf,
        /// What is wrong.
        error: DataSetError,
    },
}

/// Why a data set was not written. Nothing is left of the attempt.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// The target exists.
    #[error("{} exists already; choose another directory, or allow overwriting (--overwrite)", .0.display())]
    Exists(PathBuf),
    /// The target exists, may be overwritten, but is not a data set.
    #[error("{} exists and holds no dataset.toml; a directory that is not a data set is never overwritten", .0.display())]
    NotADataSet(PathBuf),
    /// The system refused.
    #[error("{}: can't write: {error}", .path.display())]
    Io {
        /// What was written.
        path: PathBuf,
        /// Why not.
        error: io::Error,
    },
    /// The description can't be expressed.
    #[error("{MANIFEST}: {0}")]
    Manifest(#[from] toml::ser::Error),
}

impl DataSet {
    /// Reads and validates a data set's directory.
    ///
    /// # Errors
    /// One line that names the file, the row or the key, and what to do.
    pub fn open(dir: impl AsRef<Path>) -> Result<Self, OpenError> {
        let dir = dir.as_ref();
        if !dir.is_dir() {
            return Err(OpenError::NoDirectory(dir.into()));
        }
        let path = dir.join(MANIFEST);
        let text = fs::read_to_string(&path).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => OpenError::NoManifest(dir.into()),
            _ => OpenError::Io { path: path.clone(), error },
        })?;
        let manifest = Manifest::parse(&text).map_err(|error| OpenError::Manifest { path, error })?;
        let reader = Reader { dir, manifest: &manifest };
        let samples = |purpose| reader.samples(purpose);
        let (train, select, report) = (samples(Purpose::Train)?, samples(Purpose::Select)?, samples(Purpose::Report)?);
        let corruptions = reader.corruptions()?;
        Self::new(manifest, train, select, report)
            .and_then(|data| data.with_corruptions(corruptions))
            .map_err(|error| OpenError::Content { dir: dir.into(), error })
    }
}

struct Reader<'a> {
    dir: &'a Path,
    manifest: &'a Manifest,
}

impl Reader<'_> {
    fn samples(&self, purpose: Purpose) -> Result<Samples, OpenError> {
        let specs = &self.manifest.modalities;
        let array = |spec: &ModalitySpec| {
            let needed = || format!("every split (train, select, report) needs an array of modality `{}`", spec.name);
            self.array(array_file(purpose, &spec.name), spec, needed)
        };
        let arrays = specs.iter().map(array).collect::<Result<_, _>>()?;
        let pairing = match self.manifest.pairing.of(purpose) {
            PairingKind::Rows => Pairing::Rows { labels: self.labels(labels_file(purpose, None))? },
            PairingKind::Index => Pairing::Index {
                labels: self.labels(labels_file(purpose, None))?,
                table: self.integers(index_file(purpose), &[specs.len()])?,
            },
            PairingKind::Class => {
                let labels = specs.iter().map(|spec| self.labels(labels_file(purpose, Some(&spec.name))));
                let labels = labels.collect::<Result<_, _>>()?;
                Pairing::Class { labels: PerModality::new(labels).expect("checked: at least one modality") }
            }
        };
        Ok(Samples { arrays, pairing })
    }

    fn corruptions(&self) -> Result<Vec<PreparedCorruption>, OpenError> {
        let all = self.manifest.modalities.iter().flat_map(|spec| spec.corruptions.iter().map(move |c| (spec, c)));
        let read = |(spec, (name, severities)): (&ModalitySpec, (&String, &usize))| {
            let needed = || format!("modalities.{}.corruptions.{name} promises {severities} severities", spec.name);
            let array = |severity| self.array(corrupted_file(&spec.name, name, severity), spec, needed);
            let severities = (1..=*severities).map(array).collect::<Result<_, _>>()?;
            Ok(PreparedCorruption { modality: spec.name.clone(), name: name.clone(), severities })
        };
        all.map(read).collect()
    }

    fn array(&self, file: String, spec: &ModalitySpec, needed: impl FnOnce() -> String) -> Result<Array, OpenError> {
        let npy = self.npy(&file, needed)?;
        self.check_shape(&file, &npy.shape, &spec.shape)?;
        let array = match (npy.values, spec.divide) {
            (NpyValues::U8(data), divide) => Array::bytes(&spec.shape, data, divide.unwrap_or(1.)),
            (NpyValues::F32(data), None) => Array::floats(&spec.shape, data),
            (NpyValues::F32(data), Some(d)) => {
                Array::floats(&spec.shape, data.iter().map(|v| (f64::from(*v) / d) as f32).collect())
            }
            (NpyValues::I64(data), d) => {
                Array::floats(&spec.shape, data.iter().map(|v| (*v as f64 / d.unwrap_or(1.)) as f32).collect())
            }
        };
        array.map_err(|e| self.bad(&file, e.to_string()))
    }

    fn labels(&self, file: String) -> Result<Vec<u32>, OpenError> {
        self.integers(file, &[])
    }

    fn integers(&self, file: String, shape: &[usize]) -> Result<Vec<u32>, OpenError> {
        let npy = self.npy(&file, || "it holds integers, one row per sample (see `pairing`)".into())?;
        self.check_shape(&file, &npy.shape, shape)?;
        match npy.values {
            NpyValues::U8(v) => Ok(v.into_iter().map(u32::from).collect()),
            NpyValues::I64(v) => {
                let convert = |(i, v): (usize, i64)| {
                    let row = i / shape.iter().product::<usize>().max(1);
                    u32::try_from(v)
                        .map_err(|_| self.bad(&file, format!("row {row} holds {v}, expected an integer ≥ 0")))
                };
                v.into_iter().enumerate().map(convert).collect()
            }
            NpyValues::F32(_) => Err(self.bad(&file, "expected integers, got floats; save x.astype('int64')".into())),
        }
    }

    fn npy(&self, file: &str, needed: impl FnOnce() -> String) -> Result<Npy, OpenError> {
        let path = self.dir.join(file);
        let bytes = fs::read(&path).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => OpenError::Missing { dir: self.dir.into(), file: file.into(), needed: needed() },
            _ => OpenError::Io { path: path.clone(), error },
        })?;
        if let Some(expected) = self.manifest.sha256.get(file) {
            let got = format!("{:x}", Sha256::digest(&bytes));
            if !expected.eq_ignore_ascii_case(&got) {
                return Err(OpenError::Digest { path, expected: expected.clone(), got });
            }
        }
        Npy::parse(&bytes).map_err(|error| OpenError::Npy { path, error })
    }

    /// The first axis counts rows; the others must be `sample`.
    fn check_shape(&self, file: &str, shape: &[usize], sample: &[usize]) -> Result<(), OpenError> {
        match shape.split_first() {
            Some((_, rest)) if rest == sample => Ok(()),
            _ => {
                let expected: String = sample.iter().map(|d| format!(", {d}")).collect();
                Err(self.bad(file, format!("array has shape {shape:?}, expected [rows{expected}]")))
            }
        }
    }

    fn bad(&self, file: &str, problem: String) -> OpenError {
        OpenError::Array { path: self.dir.join(file), problem }
    }
}

/// Writes a data set's directory, all or nothing: into a staging directory beside `dir`, then
/// renamed. The SHA-256 of every array goes into `dataset.toml`, which is returned as written.
///
/// # Errors
/// [`WriteError::Exists`] unless `overwrite`; then only a data set is overwritten.
pub fn write_dataset(data: &DataSet, dir: impl AsRef<Path>, overwrite: bool) -> Result<Manifest, WriteError> {
    let dir = dir.as_ref();
    check_target(dir, overwrite)?;
    let io = |path: &Path| {
        let path = path.to_path_buf();
        move |error| WriteError::Io { path, error }
    };
    let parent = match dir.parent() {
        Some(p) if p != Path::new("") => p,
        _ => Path::new("."),
    };
    fs::create_dir_all(parent).map_err(io(parent))?;
    // Removed when dropped, whatever happens; the data move out of it only when complete.
    let staging = tempfile::Builder::new().prefix(".staging-").tempdir_in(parent).map_err(io(parent))?;
    let (new, old) = (staging.path().join("new"), staging.path().join("old"));
    fs::create_dir(&new).map_err(io(&new))?;

    let mut manifest = data.manifest().clone();
    manifest.sha256.clear();
    let splits = [(Purpose::Train, &data.train), (Purpose::Select, &data.select), (Purpose::Report, &data.report)];
    for (m, spec) in manifest.modalities.iter_mut().enumerate() {
        let arrays = splits.map(|(purpose, split)| (array_file(purpose, &spec.name), &split.arrays()[m])).into_iter();
        let corrupted = data.corruptions().iter().filter(|c| c.modality == spec.name).flat_map(|c| {
            (1..).zip(&c.severities).map(|(severity, array)| (corrupted_file(&c.modality, &c.name, severity), array))
        });
        let arrays: Vec<(String, &Array)> = arrays.chain(corrupted).collect();
        // Stored bytes keep their divisor; everything else is stored as it is used.
        let mut divides = arrays.iter().map(|(_, array)| array.as_bytes().map(|(_, d)| d));
        spec.divide = divides.next().flatten().filter(|d| divides.all(|other| other == Some(*d)));
        for (file, array) in arrays {
            let shape = [&[array.rows()], array.shape()].concat();
            let path = new.join(&file);
            let digest = match (spec.divide, array.as_bytes()) {
                (Some(_), Some((bytes, _))) => write_array(&path, "|u1", &shape, bytes.iter().copied()),
                _ => {
                    let values = array.to_vec(0..array.rows());
                    write_array(&path, "<f4", &shape, values.iter().flat_map(|v| v.to_le_bytes()))
                }
            }
            .map_err(io(&path))?;
            manifest.sha256.insert(file, digest);
        }
        spec.divide = spec.divide.filter(|d| *d != 1.);
    }
    for (purpose, split) in splits {
        for (file, shape, values) in integer_arrays(purpose, split, &manifest) {
            let path = new.join(&file);
            let digest = write_array(&path, "<u4", &shape, values.iter().flat_map(|v| v.to_le_bytes()));
            manifest.sha256.insert(file, digest.map_err(io(&path))?);
        }
    }
    let path = new.join(MANIFEST);
    let text = toml::to_string(&manifest)?;
    let mut file = File::create(&path).map_err(io(&path))?;
    file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).map_err(io(&path))?;
    sync_dir(&new).map_err(io(&new))?;

    // Looked at again: the preparation may have taken minutes.
    check_target(dir, overwrite)?;
    if dir.exists() {
        fs::rename(dir, &old).map_err(io(dir))?;
    }
    if let Err(error) = fs::rename(&new, dir) {
        if old.exists() {
            let _ = fs::rename(&old, dir);
        }
        return Err(WriteError::Io { path: dir.into(), error });
    }
    sync_dir(parent).map_err(io(parent))?;
    Ok(manifest)
}

fn check_target(dir: &Path, overwrite: bool) -> Result<(), WriteError> {
    if !dir.exists() {
        Ok(())
    } else if !overwrite {
        Err(WriteError::Exists(dir.into()))
    } else if !dir.join(MANIFEST).is_file() {
        Err(WriteError::NotADataSet(dir.into()))
    } else {
        Ok(())
    }
}

/// File, shape and values of a split's labels and table.
fn integer_arrays<'a>(
    purpose: Purpose,
    split: &'a Split,
    manifest: &Manifest,
) -> Vec<(String, Vec<usize>, &'a Vec<u32>)> {
    let of_samples = |labels: &'a Vec<u32>| (labels_file(purpose, None), vec![labels.len()], labels);
    match split.pairing() {
        Pairing::Rows { labels } => vec![of_samples(labels)],
        Pairing::Index { table, labels } => {
            vec![of_samples(labels), (index_file(purpose), vec![labels.len(), manifest.modalities.len()], table)]
        }
        Pairing::Class { labels } => {
            let named = labels.iter().zip(&manifest.modalities);
            named.map(|(l, spec)| (labels_file(purpose, Some(&spec.name)), vec![l.len()], l)).collect()
        }
    }
}

/// Writes a `.npy` file to disk, for good, and returns its SHA-256.
fn write_array(path: &Path, descr: &str, shape: &[usize], data: impl Iterator<Item = u8>) -> io::Result<String> {
    let mut out = Hashing { file: BufWriter::new(File::create(path)?), sha256: Sha256::new() };
    write_npy(&mut out, descr, shape, data)?;
    out.file.flush()?;
    out.file.get_ref().sync_all()?;
    Ok(format!("{:x}", out.sha256.finalize()))
}

struct Hashing {
    file: BufWriter<File>,
    sha256: Sha256,
}

impl Write for Hashing {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.sha256.update(bytes);
        self.file.write_all(bytes)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

/// Makes the directory's entries durable, where the system can.
fn sync_dir(dir: &Path) -> io::Result<()> {
    if cfg!(unix) { File::open(dir)?.sync_all() } else { Ok(()) }
}
