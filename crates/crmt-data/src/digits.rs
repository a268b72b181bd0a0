//! Audio-visual digits: MNIST images, spoken digits and pen trajectories, paired by class.
//! Does not know how the result is stored or used.
use crate::logmel::{FRAMES, LogMel, MELS, centre};
use crate::noise::{Clips, EnvironmentOptions, NoiseOptions, mix};
use crate::prepare::{Check, OnProgress, PrepareError, Progress, source};
use crate::source_files::{find, read_file, recordings, verify};
use crate::synthetic::noise_sd;
use crate::table::Table;
use crate::{
    Array, Augment, DataSet, Idx, Manifest, ModalitySpec, Pairing, PreparedCorruption, Purpose,
    Samples, decode_wav,
};
use crmt_core::PerModality;
use md5::{Digest, Md5};
use rayon::prelude::*;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

/// Where the original files are.
#[derive(Debug, Clone)]
pub struct DigitsOptions {
    /// Directory with MNIST's four idx files, plain or gzipped.
    pub mnist: PathBuf,
    /// FSDD's recordings: a directory of `.wav` files, one that holds it, or a `.tar.gz`.
    pub fsdd: PathBuf,
    /// Directory with `pendigits.tra` and `pendigits.tes`: adds a third modality.
    pub pendigits: Option<PathBuf>,
    /// Noise mixed into the recordings.
    pub noise: Option<NoiseOptions>,
    /// Adds versions of the report recordings with noise at five levels, as the prepared corruption
    /// `environment`.
    pub environment: Option<EnvironmentOptions>,
    /// Take files whose checksums differ from the originals'.
    pub unverified: bool,
}

/// The prepared corruption of the recordings.
const ENVIRONMENT: &str = "environment";
/// MNIST images that train; the rest of the training files selects.
const TRAIN_IMAGES: usize = 55_000;
/// Rows of each class of `pendigits.tra` that select: the last ones.
const SELECT_PEN: usize = 60;

/// Reads the original files and puts the data set together: `image` 1x28x28, `audio` 1x32x32
/// ([`LogMel`]), and with pen trajectories `pen` of 16 numbers; see `datasets/digits.toml`.
///
/// # Errors
/// One line that names the file and what is wrong with it.
pub fn digits(options: &DigitsOptions, progress: OnProgress) -> Result<DataSet, PrepareError> {
    let mut image = ModalitySpec::new("image", &[1, 28, 28]).with_range(0., 1.);
    image.divide = Some(255.);
    let mut audio = ModalitySpec::new("audio", &[1, MELS, FRAMES]);
    audio.augment = Augment { shift_last_axis: 4 };
    let mut specs = vec![image, audio];
    // The small parts first: what is wrong with them shows at once.
    let (sounds, environment) = sounds(options, progress)?;
    let pens = options
        .pendigits
        .as_ref()
        .map(|dir| pens(dir, options.unverified))
        .transpose()?;
    let mut parts = vec![images(options)?, sounds];
    if let Some(pens) = pens {
        let mut pen = ModalitySpec::new("pen", &[16]).with_range(0., 1.);
        pen.divide = Some(100.);
        specs.push(pen);
        parts.push(pens);
    }
    let this = source("digits");
    let mut manifest = Manifest::new(this.name, this.classes, specs);
    manifest.notes = this.notes;
    manifest.licence = Some(this.licence);
    let sets = ["mnist", "fsdd"]
        .into_iter()
        .chain(options.pendigits.as_ref().map(|_| "pendigits"));
    for set in
        sets.chain((options.noise.is_some() || options.environment.is_some()).then_some("esc10"))
    {
        let part = source(set);
        manifest.notes.extend(part.notes);
        manifest.sources.extend(
            part.sources
                .iter()
                .map(|s| format!("{s} ({})", part.licence)),
        );
    }
    if let Some(noise) = &options.noise {
        manifest.notes.push(format!(
            "each recording has one fixed segment of ESC-10 noise at {} dB (seed {}); folds 1-3 train, 4 select, 5 report",
            noise.snr_db, noise.seed
        ));
    }
    if let Some(EnvironmentOptions { seed, .. }) = &options.environment {
        let levels = EnvironmentOptions::SNRS_DB
            .map(|db| db.to_string())
            .join(", ");
        manifest.notes.push(format!(
            "corruption `{ENVIRONMENT}`: each report recording with one fixed segment of ESC-10 noise (fold 5, seed {seed}) \
             at {levels} dB"
        ));
    }
    if options.unverified {
        manifest
            .notes
            .push("prepared without verifying the checksums of the original files".into());
    }
    let [train, select, report]: [Vec<Part>; 3] = transpose(parts);
    let data = DataSet::new(
        manifest,
        by_class(train),
        fixed_pairs(select),
        fixed_pairs(report),
    )?;
    Ok(data.with_corruptions(environment)?)
}

/// One modality of one split.
struct Part {
    array: Array,
    labels: Vec<u32>,
}

fn transpose(parts: Vec<[Part; 3]>) -> [Vec<Part>; 3] {
    let mut splits = [vec![], vec![], vec![]];
    for part in parts {
        splits
            .iter_mut()
            .zip(part)
            .for_each(|(split, part)| split.push(part));
    }
    splits
}

fn by_class(parts: Vec<Part>) -> Samples {
    let (arrays, labels): (Vec<_>, Vec<_>) = parts.into_iter().map(|p| (p.array, p.labels)).unzip();
    Samples {
        arrays,
        pairing: Pairing::Class {
            labels: PerModality::new(labels).expect("at least images"),
        },
    }
}

/// The n-th item of class `k` in the first modality gets item `n mod N` of class `k` in the others.
fn fixed_pairs(parts: Vec<Part>) -> Samples {
    let labels = parts[0].labels.clone();
    let pools: Vec<Vec<Vec<u32>>> = parts
        .iter()
        .map(|part| {
            let mut pool = vec![vec![]; 10];
            part.labels
                .iter()
                .enumerate()
                .for_each(|(row, k)| pool[*k as usize].push(row as u32));
            pool
        })
        .collect();
    let mut seen = [0; 10];
    let mut table = Vec::with_capacity(labels.len() * parts.len());
    for k in labels.iter().map(|k| *k as usize) {
        // An empty pool gives a row that does not exist, which the data set's checks name.
        table.extend(pools.iter().map(|pool| {
            pool[k]
                .get(seen[k] % pool[k].len().max(1))
                .copied()
                .unwrap_or(u32::MAX)
        }));
        seen[k] += 1;
    }
    Samples {
        arrays: parts.into_iter().map(|p| p.array).collect(),
        pairing: Pairing::Index { table, labels },
    }
}

fn images(options: &DigitsOptions) -> Result<[Part; 3], PrepareError> {
    let sums = source("mnist").md5;
    let load = |stem: &str, axes: u8| -> Result<(PathBuf, Vec<u8>, Vec<usize>), PrepareError> {
        let name = format!("{stem}-idx{axes}-ubyte");
        let path = find(&options.mnist, &[&name, &format!("{stem}.idx{axes}-ubyte")])?;
        let bytes = read_file(&path)?;
        let idx = Idx::parse(&bytes, axes).map_err(|error| PrepareError::Idx {
            path: path.clone(),
            error,
        })?;
        let (shape, data) = (idx.shape, idx.data.to_vec());
        let check = Check {
            set: "mnist",
            what: "MD5 (uncompressed)",
            unverified: options.unverified,
        };
        check.run(&path, &sums[&name], format!("{:x}", Md5::digest(&bytes)))?;
        Ok((path, data, shape))
    };
    let pair = |stem: &str| {
        let (path, pixels, shape) = load(&format!("{stem}-images"), 3)?;
        let (labels_path, labels, _) = load(&format!("{stem}-labels"), 1)?;
        if shape[1..] != [28, 28] {
            let problem = format!("images of {}x{} pixels, expected 28x28", shape[1], shape[2]);
            return Err(PrepareError::Content { path, problem });
        }
        if shape[0] != labels.len() {
            let problem = format!("{} labels for {} images", labels.len(), shape[0]);
            return Err(PrepareError::Content {
                path: labels_path,
                problem,
            });
        }
        if let Some(bad) = labels.iter().position(|k| *k > 9) {
            let problem = format!("label {bad} is {}, expected 0 to 9", labels[bad]);
            return Err(PrepareError::Content {
                path: labels_path,
                problem,
            });
        }
        Ok((path, pixels, labels))
    };
    let (path, pixels, labels) = pair("train")?;
    if labels.len() <= TRAIN_IMAGES {
        let problem = format!("{} images, expected more than {TRAIN_IMAGES}", labels.len());
        return Err(PrepareError::Content { path, problem });
    }
    let (_, report_pixels, report_labels) = pair("t10k")?;
    let part = |pixels: &[u8], labels: &[u8]| Part {
        array: Array::bytes(&[1, 28, 28], pixels.to_vec(), 255.).expect("whole images"),
        labels: labels.iter().copied().map(u32::from).collect(),
    };
    let (train, select) = (
        pixels.split_at(TRAIN_IMAGES * 28 * 28),
        labels.split_at(TRAIN_IMAGES),
    );
    Ok([
        part(train.0, select.0),
        part(train.1, select.1),
        part(&report_pixels, &report_labels),
    ])
}

/// A recording and what its name says.
struct Recording {
    digit: u32,
    speaker: String,
    index: u32,
    wave: Vec<f64>,
}

impl Recording {
    fn purpose(&self) -> Purpose {
        match self.index {
            0..5 => Purpose::Report,
            5..10 => Purpose::Select,
            _ => Purpose::Train,
        }
    }
}

/// The splits, and the corruption of the report split if it was asked for.
fn sounds(
    options: &DigitsOptions,
    progress: OnProgress,
) -> Result<([Part; 3], Vec<PreparedCorruption>), PrepareError> {
    let files = recordings(&options.fsdd)?;
    let mut all = files
        .par_iter()
        .map(|file| {
            let problem = |problem: String| PrepareError::Recording {
                path: options.fsdd.join(&file.name),
                problem,
            };
            let (digit, speaker, index) = parse_name(&file.name).ok_or_else(|| {
                problem("expected a name like 7_jackson_32.wav (digit, speaker, index)".into())
            })?;
            Ok(Recording {
                digit,
                speaker,
                index,
                wave: decode_wav(&file.bytes).map_err(problem)?,
            })
        })
        .collect::<Result<Vec<_>, PrepareError>>()?;
    let check = Check {
        set: "fsdd",
        what: "SHA-256 of the recordings",
        unverified: options.unverified,
    };
    verify(
        &options.fsdd,
        &files,
        &source("fsdd")
            .recordings
            .expect("declared in the embedded manifest"),
        check,
    )?;
    all.sort_by(|a, b| (a.digit, &a.speaker, a.index).cmp(&(b.digit, &b.speaker, b.index)));
    let noise = options.noise.as_ref();
    noise.map_or(Ok(()), NoiseOptions::check)?;
    let noise = noise.map(|n| {
        Ok::<_, PrepareError>((Clips::read(&n.clips, n.seed, options.unverified)?, n.snr_db))
    });
    let noise = noise.transpose()?;
    let environment = options.environment.as_ref();
    let environment = environment
        .map(|e| Clips::read(&e.clips, e.seed, options.unverified))
        .transpose()?;
    let (mel, total, done) = (LogMel::new(), all.len(), AtomicUsize::new(0));
    let spectrogram = |window: &[f64]| {
        mel.spectrogram(window)
            .into_iter()
            .map(|v| v as f32)
            .collect::<Vec<_>>()
    };
    // Of each recording: as it is; of one that is reported, then with the environment, weakest
    // first.
    let versions = all
        .par_iter()
        .enumerate()
        .map(|(i, recording)| {
            let (i, purpose) = (i as u64, recording.purpose());
            let mut window = centre(&recording.wave);
            if let Some((clips, snr_db)) = &noise {
                mix(
                    &mut window,
                    clips.segment("noise", purpose, i)?,
                    noise_sd(&recording.wave, *snr_db),
                );
            }
            let mut versions = vec![spectrogram(&window)];
            if let (Some(clips), Purpose::Report) = (&environment, purpose) {
                let segment = clips.segment(ENVIRONMENT, purpose, i)?;
                versions.extend(EnvironmentOptions::SNRS_DB.map(|snr_db| {
                    let mut window = window.clone();
                    mix(&mut window, segment, noise_sd(&recording.wave, snr_db));
                    spectrogram(&window)
                }));
            }
            progress(Progress {
                stage: "spectrograms",
                done: done.fetch_add(1, Ordering::Relaxed) + 1,
                total,
            });
            Ok(versions)
        })
        .collect::<Result<Vec<_>, PrepareError>>()?;
    let chosen = |purpose| {
        all.iter()
            .zip(&versions)
            .filter(move |(r, _)| r.purpose() == purpose)
    };
    let array = |purpose, version: usize| {
        let values = chosen(purpose)
            .flat_map(|(_, v)| v[version].iter().copied())
            .collect();
        Array::floats(&[1, MELS, FRAMES], values).expect("whole spectrograms")
    };
    let part = |purpose| Part {
        array: array(purpose, 0),
        labels: chosen(purpose).map(|(r, _)| r.digit).collect(),
    };
    let corruption = environment.map(|_| PreparedCorruption {
        modality: "audio".into(),
        name: ENVIRONMENT.into(),
        severities: (1..=EnvironmentOptions::SNRS_DB.len())
            .map(|v| array(Purpose::Report, v))
            .collect(),
    });
    let splits = [
        part(Purpose::Train),
        part(Purpose::Select),
        part(Purpose::Report),
    ];
    Ok((splits, corruption.into_iter().collect()))
}

fn parse_name(name: &str) -> Option<(u32, String, u32)> {
    let mut fields = name.strip_suffix(".wav")?.split('_');
    let (digit, speaker, index) = (fields.next()?, fields.next()?, fields.next()?);
    let digit = digit.parse().ok().filter(|d| *d < 10)?;
    fields
        .next()
        .is_none()
        .then_some((digit, speaker.to_owned(), index.parse().ok()?))
}

fn pens(dir: &Path, unverified: bool) -> Result<[Part; 3], PrepareError> {
    let sums = source("pendigits").values;
    let load = |name: &str| {
        let path = find(dir, &[name])?;
        let check = Check {
            set: "pendigits",
            what: "SHA-256 of the numbers",
            unverified,
        };
        let table = Table::verified(&path, &sums[name], check)?;
        let whole = |v: &f64, most: f64| v.fract() == 0. && (0. ..=most).contains(v);
        for i in 0..table.rows() {
            let (class, pen) = table.row(i).split_last().expect("17 columns");
            if !(pen.iter().all(|v| whole(v, 100.)) && whole(class, 9.)) {
                let problem = "expected 16 integers from 0 to 100 and a class from 0 to 9".into();
                return Err(PrepareError::Table {
                    path,
                    line: i + 1,
                    problem,
                });
            }
        }
        Ok(table)
    };
    let (tra, tes) = (load("pendigits.tra")?, load("pendigits.tes")?);
    let class = |table: &Table, i: usize| table.row(i)[16] as usize;
    let mut selected = vec![false; tra.rows()];
    let mut left = [SELECT_PEN; 10];
    for i in (0..tra.rows()).rev() {
        let k = class(&tra, i);
        selected[i] = left[k] > 0;
        left[k] = left[k].saturating_sub(1);
    }
    let part = |table: &Table, rows: Vec<usize>| Part {
        array: Array::bytes(
            &[16],
            rows.iter()
                .flat_map(|i| table.row(*i)[..16].iter().map(|v| *v as u8))
                .collect(),
            100.,
        )
        .expect("16 numbers per row"),
        labels: rows.iter().map(|i| class(table, *i) as u32).collect(),
    };
    let rows = |wanted: bool| (0..tra.rows()).filter(|i| selected[*i] == wanted).collect();
    Ok([
        part(&tra, rows(false)),
        part(&tra, rows(true)),
        part(&tes, (0..tes.rows()).collect()),
    ])
}
