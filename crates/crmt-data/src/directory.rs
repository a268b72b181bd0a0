//! A data set as a directory: `dataset.toml` and one `.npy` file per array.
//! Does not know how the arrays were made.
use crate::nearest::{nearest, suggestion};
use crate::regular::{read_regular, read_text};
use crate::split::{array_file, corrupted_file, index_file, labels_file};
use crate::text::visible;
use crate::{
    Array, DataSet, DataSetError, MANIFEST, Manifest, ManifestError, ModalitySpec, Npy, NpyError,
    NpyValues, Pairing, PairingKind, PreparedCorruption, Purpose, Samples,
};
use crmt_core::PerModality;
use sha2::{Digest, Sha256};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// No array that fits into a machine's memory is larger.
const MOST_ARRAY: u64 = 1 << 40;

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

impl DataSet {
    /// Reads and validates a data set's directory.
    ///
    /// # Errors
    /// One line that names the file, the row or the key, and what to do.
    pub fn open(dir: impl AsRef<Path>) -> Result<Self, OpenError> {
        let dir = dir.as_ref();
        match fs::metadata(dir) {
            Ok(found) if found.is_dir() => {}
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(OpenError::Io {
                    path: dir.into(),
                    error,
                });
            }
            _ => return Err(OpenError::NoDirectory(dir.into())),
        }
        let path = dir.join(MANIFEST);
        let text = read_text(&path).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => OpenError::NoManifest(dir.into()),
            _ => OpenError::Io {
                path: path.clone(),
                error,
            },
        })?;
        let manifest = Manifest::parse(&text)
            .and_then(|manifest| check_sums(&manifest).map(|()| manifest))
            .map_err(|error| OpenError::Manifest { path, error })?;
        let reader = Reader {
            dir,
            manifest: &manifest,
        };
        let samples = |purpose| reader.samples(purpose);
        let (train, select, report) = (
            samples(Purpose::Train)?,
            samples(Purpose::Select)?,
            samples(Purpose::Report)?,
        );
        let corruptions = reader.corruptions()?;
        Self::new(manifest, train, select, report)
            .and_then(|data| data.with_corruptions(corruptions))
            .map_err(|error| OpenError::Content {
                dir: dir.into(),
                error,
            })
    }
}

/// A sum of a file that no array is read from would verify nothing.
fn check_sums(manifest: &Manifest) -> Result<(), ManifestError> {
    let files = files(manifest);
    let Some(unknown) = manifest.sha256.keys().find(|file| !files.contains(file)) else {
        return Ok(());
    };
    let problem = format!(
        "no array of this data set is read from such a file{}",
        suggestion(nearest(unknown, &files))
    );
    Err(ManifestError::Value {
        key: format!("sha256.\"{}\"", visible(unknown)),
        problem,
    })
}

/// Every file that arrays are read from.
fn files(manifest: &Manifest) -> Vec<String> {
    let specs = &manifest.modalities;
    let of_split = |purpose: Purpose| {
        let arrays = specs
            .iter()
            .map(move |spec| array_file(purpose, &spec.name));
        let pairing = match manifest.pairing.of(purpose) {
            PairingKind::Rows => vec![labels_file(purpose, None)],
            PairingKind::Index => vec![labels_file(purpose, None), index_file(purpose)],
            PairingKind::Class => specs
                .iter()
                .map(|spec| labels_file(purpose, Some(&spec.name)))
                .collect(),
        };
        arrays.chain(pairing)
    };
    let of_corruptions = specs.iter().flat_map(|spec| {
        spec.corruptions.iter().flat_map(|(name, severities)| {
            (1..=*severities).map(|severity| corrupted_file(&spec.name, name, severity))
        })
    });
    [Purpose::Train, Purpose::Select, Purpose::Report]
        .into_iter()
        .flat_map(of_split)
        .chain(of_corruptions)
        .collect()
}

struct Reader<'a> {
    dir: &'a Path,
    manifest: &'a Manifest,
}

impl Reader<'_> {
    fn samples(&self, purpose: Purpose) -> Result<Samples, OpenError> {
        let specs = &self.manifest.modalities;
        let array = |spec: &ModalitySpec| {
            let needed = || {
                format!(
                    "every split (train, select, report) needs an array of modality `{}`",
                    spec.name
                )
            };
            self.array(array_file(purpose, &spec.name), spec, needed)
        };
        let arrays = specs.iter().map(array).collect::<Result<_, _>>()?;
        let pairing = match self.manifest.pairing.of(purpose) {
            PairingKind::Rows => Pairing::Rows {
                labels: self.labels(labels_file(purpose, None))?,
            },
            PairingKind::Index => Pairing::Index {
                labels: self.labels(labels_file(purpose, None))?,
                table: self.integers(index_file(purpose), &[specs.len()])?,
            },
            PairingKind::Class => {
                let labels = specs
                    .iter()
                    .map(|spec| self.labels(labels_file(purpose, Some(&spec.name))));
                let labels = labels.collect::<Result<_, _>>()?;
                Pairing::Class {
                    labels: PerModality::new(labels).expect("checked: at least one modality"),
                }
            }
        };
        Ok(Samples { arrays, pairing })
    }

    fn corruptions(&self) -> Result<Vec<PreparedCorruption>, OpenError> {
        let all = self
            .manifest
            .modalities
            .iter()
            .flat_map(|spec| spec.corruptions.iter().map(move |c| (spec, c)));
        let read = |(spec, (name, severities)): (&ModalitySpec, (&String, &usize))| {
            let needed = || {
                format!(
                    "modalities.{}.corruptions.{name} promises {severities} severities",
                    spec.name
                )
            };
            let array =
                |severity| self.array(corrupted_file(&spec.name, name, severity), spec, needed);
            let severities = (1..=*severities).map(array).collect::<Result<_, _>>()?;
            Ok(PreparedCorruption {
                modality: spec.name.clone(),
                name: name.clone(),
                severities,
            })
        };
        all.map(read).collect()
    }

    fn array(
        &self,
        file: String,
        spec: &ModalitySpec,
        needed: impl FnOnce() -> String,
    ) -> Result<Array, OpenError> {
        let npy = self.npy(&file, needed)?;
        self.check_shape(&file, &npy.shape, &spec.shape)?;
        let array = match (npy.values, spec.divide) {
            (NpyValues::U8(data), divide) => Array::bytes(&spec.shape, data, divide.unwrap_or(1.)),
            (NpyValues::F32(data), None) => Array::floats(&spec.shape, data),
            (NpyValues::F32(data), Some(d)) => Array::floats(
                &spec.shape,
                data.iter().map(|v| (f64::from(*v) / d) as f32).collect(),
            ),
            (NpyValues::I64(data), d) => Array::floats(
                &spec.shape,
                data.iter()
                    .map(|v| (*v as f64 / d.unwrap_or(1.)) as f32)
                    .collect(),
            ),
        };
        array.map_err(|e| self.bad(&file, e.to_string()))
    }

    fn labels(&self, file: String) -> Result<Vec<u32>, OpenError> {
        self.integers(file, &[])
    }

    fn integers(&self, file: String, shape: &[usize]) -> Result<Vec<u32>, OpenError> {
        let npy = self.npy(&file, || {
            "it holds integers, one row per sample (see `pairing`)".into()
        })?;
        self.check_shape(&file, &npy.shape, shape)?;
        match npy.values {
            NpyValues::U8(v) => Ok(v.into_iter().map(u32::from).collect()),
            NpyValues::I64(v) => {
                let convert = |(i, v): (usize, i64)| {
                    let row = i / shape.iter().product::<usize>().max(1);
                    u32::try_from(v).map_err(|_| {
                        self.bad(
                            &file,
                            format!("row {row} holds {v}, expected an integer ≥ 0"),
                        )
                    })
                };
                v.into_iter().enumerate().map(convert).collect()
            }
            NpyValues::F32(_) => Err(self.bad(
                &file,
                "labels and rows are whole numbers from 0, got floats; save x.astype('int64')"
                    .into(),
            )),
        }
    }

    fn npy(&self, file: &str, needed: impl FnOnce() -> String) -> Result<Npy, OpenError> {
        let path = self.dir.join(file);
        let bytes = read_regular(&path, MOST_ARRAY).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => OpenError::Missing {
                dir: self.dir.into(),
                file: file.into(),
                needed: needed(),
            },
            _ => OpenError::Io {
                path: path.clone(),
                error,
            },
        })?;
        if let Some(expected) = self.manifest.sha256.get(file) {
            let got = format!("{:x}", Sha256::digest(&bytes));
            if !expected.eq_ignore_ascii_case(&got) {
                return Err(OpenError::Digest {
                    path,
                    expected: expected.clone(),
                    got,
                });
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
                Err(self.bad(
                    file,
                    format!("array has shape {shape:?}, expected [rows{expected}]"),
                ))
            }
        }
    }

    fn bad(&self, file: &str, problem: String) -> OpenError {
        OpenError::Array {
            path: self.dir.join(file),
            problem,
        }
    }
}
