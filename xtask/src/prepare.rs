//! `cargo xtask prepare`: original files in, a data set's directory out.
//! Does not know formats or protocols; `crmt-data` does all the work.
use crate::say::say;
use anyhow::Context;
use clap::Subcommand;
use crmt_data::{
    DataSet, DigitsOptions, EnvironmentOptions, HandwrittenOptions, NoiseOptions, Progress,
    SyntheticOptions,
};
use indicatif::{ProgressBar, ProgressStyle};
use std::{fmt::Write as _, path::PathBuf, time::Instant};

/// Prepares a data set from its original files. Nothing is downloaded; checksums are verified.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    set: Set,
}

#[derive(Debug, Subcommand)]
enum Set {
    /// MNIST images and spoken digits (and pen trajectories), paired by class.
    Digits {
        /// Directory with MNIST's four idx files, plain or .gz.
        #[arg(long)]
        mnist: PathBuf,
        /// Free Spoken Digit recordings: a directory of .wav files or a .tar.gz.
        #[arg(long)]
        fsdd: PathBuf,
        /// Directory with pendigits.tra and pendigits.tes: a third modality.
        #[arg(long)]
        pendigits: Option<PathBuf>,
        /// ESC-10 clips (mono 16-bit wav at 8 kHz; a directory or a .tar.gz) to mix into the
        /// recordings.
        #[arg(long, requires = "snr")]
        noise: Option<PathBuf>,
        /// Signal-to-noise ratio of the mixture in dB.
        #[arg(long, requires = "noise", allow_negative_numbers = true)]
        snr: Option<f64>,
        /// ESC-10 clips (as for --noise) to write, beside the report recordings, versions with
        /// noise at 20, 10, 5, 0 and -5 dB: the prepared corruption `environment`.
        #[arg(long, value_name = "NOISE")]
        corruptions: Option<PathBuf>,
        /// Seed of the choice of noise.
        #[arg(long, default_value_t = 0)]
        noise_seed: u64,
        #[command(flatten)]
        common: Common,
    },
    /// UCI Multiple Features: six views of 2000 digits.
    Handwritten {
        /// Directory with pix.csv, … or mfeat-pix, …, plain or .gz.
        #[arg(long)]
        from: PathBuf,
        #[command(flatten)]
        common: Common,
    },
    /// The built-in synthetic set, as files.
    Synthetic {
        /// Seed of everything.
        #[arg(long, default_value_t = 0)]
        seed: u64,
        /// Signal-to-noise ratio of the images in dB.
        #[arg(long, allow_negative_numbers = true, default_value_t = SyntheticOptions::default().image_snr_db)]
        image_snr: f64,
        /// Signal-to-noise ratio of the sound in dB.
        #[arg(long, allow_negative_numbers = true, default_value_t = SyntheticOptions::default().audio_snr_db)]
        audio_snr: f64,
        #[command(flatten)]
        common: Common,
    },
}

#[derive(Debug, clap::Args)]
struct Common {
    /// Directory to write; must not exist.
    #[arg(long)]
    out: PathBuf,
    /// Replace the data set in that directory.
    #[arg(long)]
    overwrite: bool,
    /// Accept files whose checksums differ from the originals'.
    #[arg(long)]
    unverified: bool,
}

/// Prepares one data set and prints what was written.
pub fn run(args: Args) -> anyhow::Result<()> {
    let start = Instant::now();
    let bar = ProgressBar::new(0); // hidden by itself where there is no terminal
    bar.set_style(
        ProgressStyle::with_template("{msg} {wide_bar} {pos}/{len}").expect("a valid template"),
    );
    let progress = |p: Progress| {
        bar.set_message(p.stage);
        bar.set_length(p.total as u64);
        bar.set_position(p.done as u64);
    };
    let (data, common) = match args.set {
        Set::Digits {
            mnist,
            fsdd,
            pendigits,
            noise,
            snr,
            corruptions,
            noise_seed: seed,
            common,
        } => {
            let noise = noise.zip(snr).map(|(clips, snr_db)| NoiseOptions {
                clips,
                snr_db,
                seed,
            });
            let environment = corruptions.map(|clips| EnvironmentOptions { clips, seed });
            let options = DigitsOptions {
                mnist,
                fsdd,
                pendigits,
                noise,
                environment,
                unverified: common.unverified,
            };
            (crmt_data::digits(&options, &progress)?, common)
        }
        Set::Handwritten { from, common } => {
            let options = HandwrittenOptions {
                from,
                unverified: common.unverified,
            };
            (crmt_data::handwritten(&options, &progress)?, common)
        }
        Set::Synthetic {
            seed,
            image_snr,
            audio_snr,
            common,
        } => {
            let options = SyntheticOptions {
                seed,
                image_snr_db: image_snr,
                audio_snr_db: audio_snr,
                ..SyntheticOptions::default()
            };
            (crmt_data::synthetic(&options)?, common)
        }
    };
    bar.finish_and_clear();
    let manifest = crmt_data::write_dataset(&data, &common.out, common.overwrite)?;
    // Read back as a run will read it: what was written is what is used.
    let data =
        DataSet::open(&common.out).context("the data set was written but can't be read back")?;
    let mut told = format!(
        "{}: {} in {:.1?}\n",
        data.name,
        common.out.display(),
        start.elapsed()
    );
    for (name, split) in [
        ("train", &data.train),
        ("select", &data.select),
        ("report", &data.report),
    ] {
        let arrays = data.modalities.iter().zip(split.arrays());
        let arrays: Vec<_> = arrays
            .map(|(m, a)| format!("{} {}x{:?}", m.name, a.rows(), m.shape))
            .collect();
        writeln!(
            told,
            "  {name}: {} samples; {}",
            split.len(),
            arrays.join(", ")
        )?;
    }
    manifest
        .sha256
        .iter()
        .try_for_each(|(file, sha256)| writeln!(told, "  {sha256}  {file}"))?;
    data.notes
        .iter()
        .try_for_each(|note| writeln!(told, "  note: {note}"))?;
    say(&told)
}
