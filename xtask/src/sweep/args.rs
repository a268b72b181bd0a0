//! What a sweep is asked to do. Does not know how it is done.
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::thread;

/// Arguments of `cargo xtask sweep`.
#[derive(clap::Args)]
pub struct Args {
    /// The sweep: what is fixed, what varies, which columns to report (see docs/sweep.md)
    pub file: PathBuf,
    /// Runs at a time [default: half the cores]
    #[arg(long, short, value_name = "N")]
    pub jobs: Option<NonZeroUsize>,
    /// Under the settings of the file's section `[full]`, in a folder of their own
    #[arg(long)]
    pub full: bool,
    /// Check the settings and the data as before running, show what would run and what it costs,
    /// and run nothing
    #[arg(long)]
    pub dry_run: bool,
    /// Measure what nothing is known of: one epoch and a few attacked samples for each row
    #[arg(long, requires = "dry_run")]
    pub probe: bool,
    /// Start the remaining runs even after one has failed
    #[arg(long)]
    pub keep_going: bool,
    /// Run this program instead of building crmt-driver
    #[arg(long, value_name = "PATH")]
    pub driver: Option<PathBuf>,
}

impl Args {
    /// The usual, of a file.
    pub fn of(file: PathBuf) -> Self {
        Self {
            file,
            jobs: None,
            full: false,
            dry_run: false,
            probe: false,
            keep_going: false,
            driver: None,
        }
    }

    pub fn workers(&self) -> usize {
        self.jobs.map_or(cores() / 2, NonZeroUsize::get).max(1)
    }
}

/// As many as this program may use.
pub fn cores() -> usize {
    thread::available_parallelism().map_or(1, NonZeroUsize::get)
}
