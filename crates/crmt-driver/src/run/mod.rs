//! One run in memory: a trained model on its data, measured stage by stage.
//! Does not know the command line.
mod files;
mod stages;
mod state;

pub use files::{Opening, read_record};
pub use state::{Run, open_data};
