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
mod atomic;
mod corruptions;
mod dataset;
mod digits;
mod directory;
mod epoch;
mod glyph;
mod handwritten;
mod idx;
pub mod logmel;
mod manifest;
mod noise;
mod npy;
mod prepare;
mod source_files;
mod split;
mod subset;
mod synthetic;
mod table;
mod upload;
mod voice;
mod wav;

pub use array::{Array, ArrayError};
pub use atomic::write_atomically;
pub use corruptions::PreparedCorruption;
pub use dataset::{DataSet, DataSetError};
pub use digits::{DigitsOptions, digits};
pub use directory::{OpenError, WriteError, write_dataset};
pub use epoch::{Epoch, EpochPlan};
pub use handwritten::{HandwrittenOptions, handwritten};
pub use idx::{Idx, IdxError};
pub use manifest::{
    Augment, Baseline, Bound, MANIFEST, Manifest, ManifestError, ModalitySpec, NamedBaseline, PairingKind, PairingSpec,
    SplitPairings, Standardised, VERSION,
};
pub use noise::{EnvironmentOptions, NoiseOptions};
pub use npy::{Npy, NpyError, NpyValues, write_npy};
pub use prepare::{OnProgress, PrepareError, Progress};
pub use split::{BatchError, Pairing, Purpose, Samples, Split, SplitError};
pub use subset::SubsetError;
pub use synthetic::{SyntheticError, SyntheticOptions, synthetic};
pub use upload::Upload;
pub use wav::decode_wav;
