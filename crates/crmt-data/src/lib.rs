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
mod doubts;
mod epoch;
mod glyph;
mod handwritten;
mod idx;
pub mod logmel;
mod manifest;
mod manifest_check;
mod nearest;
mod noise;
mod npy;
mod prepare;
mod prepared_corruption;
mod purpose;
mod regular;
mod source_files;
mod split;
mod staging;
mod subset;
mod synthetic;
mod table;
mod text;
mod upload;
mod voice;
mod wav;
mod writing;

pub use array::{Array, ArrayError};
pub use atomic::{check_writable, clear_temporaries, sync_directory, write_atomically};
pub use dataset::{DataSet, DataSetError};
pub use digits::{DigitsOptions, digits};
pub use directory::OpenError;
pub use epoch::{Epoch, EpochPlan};
pub use handwritten::{HandwrittenOptions, handwritten};
pub use idx::{Idx, IdxError};
pub use manifest::{
    Augment, Baseline, Bound, MANIFEST, Manifest, ManifestError, ModalitySpec, NamedBaseline,
    PairingKind, PairingSpec, SplitPairings, Standardised, VERSION,
};
pub use noise::{EnvironmentOptions, NoiseOptions};
pub use npy::{Npy, NpyError, NpyValues, write_npy};
pub use prepare::{OnProgress, PrepareError, Progress};
pub use prepared_corruption::PreparedCorruption;
pub use purpose::Purpose;
pub use regular::{MOST_TEXT, read_regular, read_text};
pub use split::{BatchError, Pairing, Samples, Split, SplitError};
pub use subset::SubsetError;
pub use synthetic::{SyntheticError, SyntheticOptions, synthetic};
pub use text::visible;
pub use upload::Upload;
pub use wav::decode_wav;
pub use writing::{WriteError, write_dataset};
