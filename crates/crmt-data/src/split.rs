//! One split: arrays per modality, labels, and how samples are put together.
//! Does not know files, only what they would be called.
use crate::{Array, Manifest, ModalitySpec, Purpose, Upload};
use candle_core::Device;
use crmt_core::{Batch, Domain, PerModality};
use std::ops::Range;

/// How the rows of the modalities' arrays form labelled samples.
#[derive(Debug, Clone, PartialEq)]
pub enum Pairing {
    /// Sample `i` is row `i` of every array.
    Rows {
        /// Class of each sample.
        labels: Vec<u32>,
    },
    /// Sample `i` is row `table[i * modalities + m]` of modality `m`: items may be used again.
    Index {
        /// `[samples, modalities]`, row-major.
        table: Vec<u32>,
        /// Class of each sample.
        labels: Vec<u32>,
    },
    /// Every epoch puts each row of the first modality together with random rows of the same
    /// class: the modalities are independent given the label. For training only.
    Class {
        /// Class of each row of each array.
        labels: PerModality<Vec<u32>>,
    },
}

/// What a [`Split`] is made of: one array per modality, and how their rows form samples.
#[derive(Debug, Clone, PartialEq)]
pub struct Samples {
    /// One per modality, in the description's order.
    pub arrays: Vec<Array>,
    /// Labels, and which rows belong together.
    pub pairing: Pairing,
}

/// Samples for one purpose: training, selection or the report. Made by
/// [`DataSet::new`](crate::DataSet::new).
#[derive(Debug, Clone)]
pub struct Split {
    arrays: PerModality<Array>,
    pairing: Pairing,
    /// Rows of each class in each modality; empty unless paired by class.
    pools: Vec<Vec<Vec<usize>>>,
    /// To where batches go.
    upload: Upload,
}

/// The same samples, wherever their batches go.
impl PartialEq for Split {
    fn eq(&self, other: &Self) -> bool {
        self.arrays == other.arrays && self.pairing == other.pairing
    }
}

/// Why arrays, labels and pairing do not fit together or contradict the description. Arrays go by
/// their file names, in memory too.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum SplitError {
    /// Not one array per modality.
    #[error("{purpose}: {got} arrays for {expected} modalities")]
    Arrays {
        /// Which split.
        purpose: Purpose,
        /// Arrays given.
        got: usize,
        /// Modalities described.
        expected: usize,
    },
    /// Samples of another shape than described.
    #[error("{file}: samples have shape {got:?}, modalities.{modality}.shape says {expected:?}")]
    Shape {
        /// Which array.
        file: String,
        /// Its modality.
        modality: String,
        /// Of the array.
        got: Vec<usize>,
        /// As described.
        expected: Vec<usize>,
    },
    /// A NaN or an infinity (also from `float64` values beyond the range of `f32`).
    #[error("{file}: row {row} holds {value}; every value must be finite as f32, after `divide`")]
    NotFinite {
        /// Which array.
        file: String,
        /// First bad row.
        row: usize,
        /// What it holds.
        value: f32,
    },
    /// A value outside the declared range.
    #[error("{file}: row {row} holds {value}, outside modalities.{modality}.range = {range}")]
    OutOfRange {
        /// Which array.
        file: String,
        /// Its modality.
        modality: String,
        /// First bad row.
        row: usize,
        /// What it holds.
        value: f32,
        /// The range, as text.
        range: String,
    },
    /// No samples at all.
    #[error("{file}: no rows")]
    Empty {
        /// Which array.
        file: String,
    },
    /// Two arrays that must have the same number of rows do not.
    #[error("{file} has {got} rows, {other} has {expected}")]
    Rows {
        /// The one that differs.
        file: String,
        /// Its rows.
        got: usize,
        /// What it is compared with.
        other: String,
        /// Rows there.
        expected: usize,
    },
    /// A label that names no class.
    #[error("{file}: row {row} holds label {label}, there are {classes} classes (0 to {})", classes - 1)]
    Label {
        /// Which labels.
        file: String,
        /// First bad row.
        row: usize,
        /// Its label.
        label: u32,
        /// Number of classes.
        classes: usize,
    },
    /// A table entry that names no row.
    #[error("{file}: row {row} points at row {got} of {array}, which has {rows}")]
    Index {
        /// The table.
        file: String,
        /// First bad row of the table.
        row: usize,
        /// The array it points into.
        array: String,
        /// The entry.
        got: u32,
        /// Rows of that array.
        rows: usize,
    },
    /// A class that the first modality has and another one lacks.
    #[error("{file}: no row of class {class}, so {other} has rows without a partner")]
    NoPartner {
        /// Labels that lack it.
        file: String,
        /// The class.
        class: usize,
        /// Labels that have it.
        other: String,
    },
    /// Random pairing outside training.
    #[error("{purpose}: pairing by class is random and only for training; use rows or an index")]
    RandomPairing {
        /// Which split.
        purpose: Purpose,
    },
}

/// Why a batch can't be had.
#[derive(Debug, thiserror::Error)]
pub enum BatchError {
    /// The pairing is random.
    #[error(
        "this split pairs its modalities at random within a class and has no fixed samples; draw an epoch instead"
    )]
    NotFixed,
    /// Samples that do not exist.
    #[error("samples {start}..{end} were asked for, the split has {len}")]
    Range {
        /// First sample asked for.
        start: usize,
        /// One past the last.
        end: usize,
        /// Samples there are.
        len: usize,
    },
    /// An epoch larger than the training split.
    #[error("an epoch of {wanted} samples was asked for, the training split has {available}")]
    Samples {
        /// Asked for.
        wanted: usize,
        /// There are.
        available: usize,
    },
    /// Not a single full batch.
    #[error(
        "batches of {batch} were asked for, an epoch has {samples} samples: no batch would be full"
    )]
    BatchSize {
        /// Asked for.
        batch: usize,
        /// In an epoch.
        samples: usize,
    },
    /// The tensor library refused.
    #[error(transparent)]
    Core(#[from] crmt_core::Error),
}

impl From<candle_core::Error> for BatchError {
    fn from(e: candle_core::Error) -> Self {
        Self::Core(e.into())
    }
}

impl Split {
    /// Checks that arrays, labels and pairing fit together and keep what `manifest` says: shapes,
    /// ranges, number of classes; every value finite.
    pub(crate) fn new(
        manifest: &Manifest,
        purpose: Purpose,
        samples: Samples,
    ) -> Result<Self, SplitError> {
        let Samples { arrays, pairing } = samples;
        let specs = &manifest.modalities;
        let count = SplitError::Arrays {
            purpose,
            got: arrays.len(),
            expected: specs.len(),
        };
        let arrays = PerModality::new(arrays)
            .filter(|a| a.len() == specs.len())
            .ok_or(count)?;
        for (spec, array) in specs.iter().zip(&arrays) {
            check_values(spec, array, array_file(purpose, &spec.name))?;
        }
        let pools = match &pairing {
            Pairing::Rows { .. } | Pairing::Index { .. } => {
                check_fixed(manifest, purpose, &arrays, &pairing)?
            }
            Pairing::Class { .. } if purpose != Purpose::Train => {
                return Err(SplitError::RandomPairing { purpose });
            }
            Pairing::Class { labels } => pools(manifest, &arrays, labels)?,
        };
        Ok(Self {
            arrays,
            pairing,
            pools,
            upload: Upload::default(),
        })
    }

    /// Number of samples; rows of the first modality when paired by class.
    #[expect(clippy::len_without_is_empty, reason = "never empty")]
    pub fn len(&self) -> usize {
        self.labels().len()
    }

    /// Class of each sample; of each row of the first modality when paired by class.
    pub fn labels(&self) -> &[u32] {
        match &self.pairing {
            Pairing::Rows { labels } | Pairing::Index { labels, .. } => labels,
            Pairing::Class { labels } => &labels[0],
        }
    }

    /// The arrays, one per modality.
    pub fn arrays(&self) -> &PerModality<Array> {
        &self.arrays
    }

    /// Where its batches are.
    pub(crate) fn device(&self) -> &Device {
        self.upload.device()
    }

    /// The row of modality `m` in sample `i` of a fixed pairing.
    pub(crate) fn row(&self, i: usize, m: usize) -> usize {
        match &self.pairing {
            Pairing::Index { table, .. } => table[i * self.arrays.len() + m] as usize,
            _ => i,
        }
    }

    /// How samples are put together.
    pub fn pairing(&self) -> &Pairing {
        &self.pairing
    }

    /// Samples `range` in order, as `f32` tensors on the data set's device.
    ///
    /// # Errors
    /// [`BatchError::Range`] when there are fewer samples; [`BatchError::NotFixed`] when paired by
    /// class.
    pub fn batch(&self, range: Range<usize>) -> Result<Batch, BatchError> {
        if range.start > range.end || range.end > self.len() {
            return Err(BatchError::Range {
                start: range.start,
                end: range.end,
                len: self.len(),
            });
        }
        self.samples(&range.collect::<Vec<_>>())
    }

    /// The samples of these numbers, in this order, as [`batch`](Self::batch) has them.
    ///
    /// # Errors
    /// As [`batch`](Self::batch).
    pub fn samples(&self, samples: &[usize]) -> Result<Batch, BatchError> {
        if let Some(beyond) = samples.iter().find(|i| **i >= self.len()) {
            return Err(BatchError::Range {
                start: *beyond,
                end: beyond + 1,
                len: self.len(),
            });
        }
        if matches!(self.pairing, Pairing::Class { .. }) {
            return Err(BatchError::NotFixed);
        }
        self.gather(
            samples,
            |_| unreachable!("a fixed pairing draws nothing"),
            |_, _| (),
        )
    }

    /// All samples in order, in batches of `size`; the last one may be smaller.
    pub fn batches(&self, size: usize) -> impl Iterator<Item = Result<Batch, BatchError>> + '_ {
        let size = size.max(1);
        (0..self.len())
            .step_by(size)
            .map(move |start| self.batch(start..(start + size).min(self.len())))
    }

    /// The same samples with another array of modality `m`, which has as many rows.
    pub(crate) fn with_array(&self, m: usize, array: &Array) -> Self {
        let arrays = PerModality::from_fn(self.arrays.len(), |i| {
            if i == m { array } else { &self.arrays[i] }.clone()
        });
        Self {
            arrays,
            ..self.clone()
        }
    }

    /// The same samples, whose batches go elsewhere.
    pub(crate) fn through(&self, upload: &Upload) -> Self {
        Self {
            upload: upload.clone(),
            ..self.clone()
        }
    }

    /// For each partner that [`gather`](Self::gather) asks for, in that order, the rows it may be
    /// drawn from.
    pub(crate) fn pools<'a>(&'a self, samples: &'a [usize]) -> impl Iterator<Item = &'a [usize]> {
        let by_class = matches!(self.pairing, Pairing::Class { .. });
        let others = if by_class { 1..self.arrays.len() } else { 0..0 };
        others.flat_map(move |m| {
            samples
                .iter()
                .map(move |i| &*self.pools[m][self.labels()[*i] as usize])
        })
    }

    /// The given samples. `partner` draws from the rows of a sample's class (pairing by class);
    /// `augment(m, values)` may change what was gathered for modality `m`.
    pub(crate) fn gather(
        &self,
        samples: &[usize],
        mut partner: impl FnMut(&[usize]) -> usize,
        mut augment: impl FnMut(usize, &mut [f32]),
    ) -> Result<Batch, BatchError> {
        let labels: Vec<u32> = samples.iter().map(|i| self.labels()[*i]).collect();
        let inputs = self.arrays.try_enumerate(|m, array| {
            let mut values = Vec::with_capacity(samples.len() * array.row_len());
            match &self.pairing {
                Pairing::Class { .. } if m > 0 => {
                    let rows = labels.iter().map(|k| partner(&self.pools[m][*k as usize]));
                    array.copy_rows(rows, &mut values);
                }
                _ => array.copy_rows(samples.iter().map(|i| self.row(*i, m)), &mut values),
            }
            augment(m, &mut values);
            let shape = [&[samples.len()], array.shape()].concat();
            self.upload.tensor(values, shape)
        })?;
        Ok(Batch::new(inputs, self.upload.labels(labels)?)?)
    }
}

/// File of a modality's values.
pub(crate) fn array_file(purpose: Purpose, modality: &str) -> String {
    format!("{purpose}.{modality}.npy")
}

/// File of a modality's report values, corrupted; severities count from 1.
pub(crate) fn corrupted_file(modality: &str, corruption: &str, severity: usize) -> String {
    array_file(
        Purpose::Report,
        &format!("{modality}.{corruption}-{severity}"),
    )
}

/// File of the samples' labels, or of one modality's labels when paired by class.
pub(crate) fn labels_file(purpose: Purpose, modality: Option<&str>) -> String {
    match modality {
        Some(name) => format!("{purpose}.{name}.labels.npy"),
        None => format!("{purpose}.labels.npy"),
    }
}

/// File of the table of rows.
pub(crate) fn index_file(purpose: Purpose) -> String {
    format!("{purpose}.index.npy")
}

/// Checks shape, range, that every value is finite, and that there is one.
pub(crate) fn check_values(
    spec: &ModalitySpec,
    array: &Array,
    file: String,
) -> Result<(), SplitError> {
    if array.shape() != spec.shape {
        let (got, expected) = (array.shape().to_vec(), spec.shape.clone());
        return Err(SplitError::Shape {
            file,
            modality: spec.name.clone(),
            got,
            expected,
        });
    }
    if array.rows() == 0 {
        return Err(SplitError::Empty { file });
    }
    if let Some((row, value)) = array.find(|_, v| !v.is_finite()) {
        return Err(SplitError::NotFinite { file, row, value });
    }
    let outside = match spec.modality().domain {
        Domain::Unbounded => None,
        Domain::Interval { lo, hi } => array.find(|_, v| !(lo..=hi).contains(&f64::from(v))),
        Domain::Channels { lo, hi } => array.find(|c, v| !(lo[c]..=hi[c]).contains(&f64::from(v))),
    };
    let Some((row, value)) = outside else {
        return Ok(());
    };
    let range = spec
        .range
        .as_ref()
        .map(|[lo, hi]| format!("[{lo}, {hi}]"))
        .unwrap_or_default();
    Err(SplitError::OutOfRange {
        file,
        modality: spec.name.clone(),
        row,
        value,
        range,
    })
}

fn check_labels(manifest: &Manifest, file: String, labels: &[u32]) -> Result<(), SplitError> {
    let classes = manifest.classes.len();
    match labels.iter().position(|l| *l as usize >= classes) {
        Some(row) => Err(SplitError::Label {
            file,
            row,
            label: labels[row],
            classes,
        }),
        None => Ok(()),
    }
}

/// Checks a pairing that draws nothing; such a split has no pools.
fn check_fixed(
    manifest: &Manifest,
    purpose: Purpose,
    arrays: &PerModality<Array>,
    pairing: &Pairing,
) -> Result<Vec<Vec<Vec<usize>>>, SplitError> {
    let labels_file = labels_file(purpose, None);
    let files = arrays.len();
    let array_file = |m: usize| array_file(purpose, &manifest.modalities[m].name);
    let same = |file: String, got: usize, expected: usize| {
        if got == expected {
            return Ok(());
        }
        Err(SplitError::Rows {
            file,
            got,
            other: labels_file.clone(),
            expected,
        })
    };
    match pairing {
        Pairing::Rows { labels } => {
            (0..files).try_for_each(|m| same(array_file(m), arrays[m].rows(), labels.len()))?;
            check_labels(manifest, labels_file, labels)?;
        }
        Pairing::Index { table, labels } => {
            if labels.is_empty() {
                return Err(SplitError::Empty { file: labels_file });
            }
            same(
                index_file(purpose),
                table.len().div_ceil(files),
                labels.len(),
            )?;
            check_labels(manifest, labels_file, labels)?;
            for (i, got) in table.iter().enumerate() {
                let (row, m) = (i / files, i % files);
                let rows = arrays[m].rows();
                if *got as usize >= rows {
                    let (file, array) = (index_file(purpose), array_file(m));
                    return Err(SplitError::Index {
                        file,
                        row,
                        array,
                        got: *got,
                        rows,
                    });
                }
            }
        }
        Pairing::Class { .. } => {}
    }
    Ok(vec![])
}

/// The rows of each class in each modality of the training split.
fn pools(
    manifest: &Manifest,
    arrays: &PerModality<Array>,
    labels: &PerModality<Vec<u32>>,
) -> Result<Vec<Vec<Vec<usize>>>, SplitError> {
    let classes = manifest.classes.len();
    let file = |m: usize| labels_file(Purpose::Train, Some(&manifest.modalities[m].name));
    let mut pools: Vec<Vec<Vec<usize>>> = vec![];
    for (m, array) in arrays.iter().enumerate() {
        let labels = labels.as_slice().get(m).map_or(&[][..], Vec::as_slice);
        if labels.len() != array.rows() {
            let other = array_file(Purpose::Train, &manifest.modalities[m].name);
            return Err(SplitError::Rows {
                file: file(m),
                got: labels.len(),
                other,
                expected: array.rows(),
            });
        }
        check_labels(manifest, file(m), labels)?;
        let mut of_class = vec![vec![]; classes];
        labels
            .iter()
            .enumerate()
            .for_each(|(row, label)| of_class[*label as usize].push(row));
        pools.push(of_class);
        if let Some(class) =
            (0..classes).find(|k| pools[m][*k].is_empty() && !pools[0][*k].is_empty())
        {
            return Err(SplitError::NoPartner {
                file: file(m),
                class,
                other: file(0),
            });
        }
    }
    Ok(pools)
}
