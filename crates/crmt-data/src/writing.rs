//! Writes a data set as a directory, all or nothing.
//! Does not know how it is read again.
use crate::split::{array_file, corrupted_file, index_file, labels_file};
use crate::staging::{NEW, OLD, Staging, remove_leftovers};
use crate::text::visible;
use crate::{Array, DataSet, MANIFEST, Manifest, Pairing, Purpose, Split, write_npy};
use sha2::{Digest, Sha256};
use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

/// Why a data set was not written. Nothing is left of the attempt.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// The target exists.
    #[error("{} exists already; choose another directory, or allow overwriting (--overwrite)", .0.display())]
    Exists(PathBuf),
    /// The target exists, may be overwritten, but is not a data set.
    #[error("{} exists and is no directory (or a link to one) or holds no dataset.toml; a directory that is not a data set is never overwritten", .0.display())]
    NotADataSet(PathBuf),
    /// The target is a data set with something else in it.
    #[error("{} also holds {file}, which is no part of a data set: move it away first; nothing was overwritten", .dir.display())]
    NotOurs {
        /// The target.
        dir: PathBuf,
        /// What else.
        file: String,
    },
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

/// Writes a data set's directory, all or nothing: into a staging directory beside `dir`, then
/// renamed. The SHA-256 of every array goes into `dataset.toml`, which is returned as written.
///
/// # Errors
/// [`WriteError::Exists`] unless `overwrite`; then only a data set is overwritten.
pub fn write_dataset(
    data: &DataSet,
    dir: impl AsRef<Path>,
    overwrite: bool,
) -> Result<Manifest, WriteError> {
    let dir = dir.as_ref();
    let parent = match dir.parent() {
        Some(p) if p != Path::new("") => p,
        _ => Path::new("."),
    };
    remove_leftovers(parent);
    check_target(dir, overwrite)?;
    let io = |path: &Path| {
        let path = path.to_path_buf();
        move |error| WriteError::Io { path, error }
    };
    fs::create_dir_all(parent).map_err(io(parent))?;
    let staging = Staging::create(dir, parent).map_err(io(parent))?;
    let (new, old) = (staging.path().join(NEW), staging.path().join(OLD));
    fs::create_dir(&new).map_err(io(&new))?;

    let mut manifest = data.manifest().clone();
    manifest.sha256.clear();
    let splits = [
        (Purpose::Train, &data.train),
        (Purpose::Select, &data.select),
        (Purpose::Report, &data.report),
    ];
    for (m, spec) in manifest.modalities.iter_mut().enumerate() {
        let arrays = splits
            .map(|(purpose, split)| (array_file(purpose, &spec.name), &split.arrays()[m]))
            .into_iter();
        let corrupted = data
            .corruptions()
            .iter()
            .filter(|c| c.modality == spec.name)
            .flat_map(|c| {
                (1..).zip(&c.severities).map(|(severity, array)| {
                    (corrupted_file(&c.modality, &c.name, severity), array)
                })
            });
        let arrays: Vec<(String, &Array)> = arrays.chain(corrupted).collect();
        // Stored bytes keep their divisor; everything else is stored as it is used.
        let mut divides = arrays
            .iter()
            .map(|(_, array)| array.as_bytes().map(|(_, d)| d));
        spec.divide = divides
            .next()
            .flatten()
            .filter(|d| divides.all(|other| other == Some(*d)));
        for (file, array) in arrays {
            let shape = [&[array.rows()], array.shape()].concat();
            let path = new.join(&file);
            let digest = match (spec.divide, array.as_bytes()) {
                (Some(_), Some((bytes, _))) => {
                    write_array(&path, "|u1", &shape, bytes.iter().copied())
                }
                _ => {
                    let values = array.to_vec(0..array.rows());
                    write_array(
                        &path,
                        "<f4",
                        &shape,
                        values.iter().flat_map(|v| v.to_le_bytes()),
                    )
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
            let digest = write_array(
                &path,
                "<u4",
                &shape,
                values.iter().flat_map(|v| v.to_le_bytes()),
            );
            manifest.sha256.insert(file, digest.map_err(io(&path))?);
        }
    }
    let path = new.join(MANIFEST);
    let text = toml::to_string(&manifest)?;
    let mut file = File::create(&path).map_err(io(&path))?;
    file.write_all(text.as_bytes())
        .and_then(|()| file.sync_all())
        .map_err(io(&path))?;
    sync_dir(&new).map_err(io(&new))?;

    // Looked at again: the preparation may have taken minutes.
    check_target(dir, overwrite)?;
    if fs::symlink_metadata(dir).is_ok() {
        fs::rename(dir, &old).map_err(io(dir))?;
    }
    if let Err(error) = fs::rename(&new, dir) {
        if old.exists() {
            let _ = fs::rename(&old, dir);
        }
        return Err(WriteError::Io {
            path: dir.into(),
            error,
        });
    }
    sync_dir(parent).map_err(io(parent))?;
    Ok(manifest)
}

/// A directory may be replaced if it holds a data set and nothing else: what is not ours is never
/// touched.
fn check_target(dir: &Path, overwrite: bool) -> Result<(), WriteError> {
    let Ok(found) = fs::symlink_metadata(dir) else {
        return Ok(());
    };
    if !overwrite {
        return Err(WriteError::Exists(dir.into()));
    }
    if !found.is_dir() || !dir.join(MANIFEST).is_file() {
        return Err(WriteError::NotADataSet(dir.into()));
    }
    let io = |error| WriteError::Io {
        path: dir.into(),
        error,
    };
    for entry in fs::read_dir(dir).map_err(io)? {
        let entry = entry.map_err(io)?;
        let name = entry.file_name();
        let ours = name.to_str().is_some_and(is_ours) && entry.file_type().map_err(io)?.is_file();
        if !ours {
            return Err(WriteError::NotOurs {
                dir: dir.into(),
                file: visible(&name.to_string_lossy()),
            });
        }
    }
    Ok(())
}

fn is_ours(file: &str) -> bool {
    let array =
        |purpose: Purpose| file.starts_with(&format!("{purpose}.")) && file.ends_with(".npy");
    file == MANIFEST
        || [Purpose::Train, Purpose::Select, Purpose::Report]
            .into_iter()
            .any(array)
}

/// File, shape and values of a split's labels and table.
fn integer_arrays<'a>(
    purpose: Purpose,
    split: &'a Split,
    manifest: &Manifest,
) -> Vec<(String, Vec<usize>, &'a Vec<u32>)> {
    let of_samples =
        |labels: &'a Vec<u32>| (labels_file(purpose, None), vec![labels.len()], labels);
    match split.pairing() {
        Pairing::Rows { labels } => vec![of_samples(labels)],
        Pairing::Index { table, labels } => {
            vec![
                of_samples(labels),
                (
                    index_file(purpose),
                    vec![labels.len(), manifest.modalities.len()],
                    table,
                ),
            ]
        }
        Pairing::Class { labels } => {
            let named = labels.iter().zip(&manifest.modalities);
            named
                .map(|(l, spec)| (labels_file(purpose, Some(&spec.name)), vec![l.len()], l))
                .collect()
        }
    }
}

/// Writes a `.npy` file to disk, for good, and returns its SHA-256.
fn write_array(
    path: &Path,
    descr: &str,
    shape: &[usize],
    data: impl Iterator<Item = u8>,
) -> io::Result<String> {
    let mut out = Hashing {
        file: BufWriter::new(File::create(path)?),
        sha256: Sha256::new(),
    };
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
    if cfg!(unix) {
        File::open(dir)?.sync_all()
    } else {
        Ok(())
    }
}
