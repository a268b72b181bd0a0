//! Data sets: one in-memory form, one loader, one format on disk, and the preparations that
//! produce it from original files.
//!
//! Knows files and decoders; deliberately knows nothing of models, attacks or training.
//!
//! - [`DataSet`] is what a run consumes: three splits, baselines, random epochs.
//! - [`DataSet::open`] and [`write_dataset`] read and write a directory with a `dataset.toml`
//!   ([`Manifest`]) and `.npy` arrays.
//! - [`synthetic`] needs no files at all.
mod array;
mod dataset;
mod directory;
mod epoch;
mod glyph;
pub mod logmel;
mod manifest;
mod npy;
mod split;
mod synthetic;
mod voice;

pub use array::{Array, ArrayError};
pub use dataset::{DataSet, DataSetError};
pub use directory::{OpenError, WriteError, write_dataset};
pub use epoch::{Epoch, EpochPlan};
pub use manifest::{
    Augment, Baseline, Bound, MANIFEST, Manifest, ManifestError, ModalitySpec, NamedBaseline, PairingKind, PairingSpec,
    SplitPairings, VERSION,
};
pub use npy::{Npy, NpyError, NpyValues, write_npy};
pub use split::{BatchError, Pairing, Purpose, Samples, Split, SplitError};
pub use synthetic::{SyntheticOptions, synthetic};
