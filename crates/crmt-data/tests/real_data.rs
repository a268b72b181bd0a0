//! The preparations against the real originals, and against values that numpy computed from them.
//!
//! Needs the environment variable `CRMT_DATA` (default `../shared/data` beside the repository);
//! says so and passes where there is none.
use crmt_data::{
    Array, DigitsOptions, EnvironmentOptions, HandwrittenOptions, NoiseOptions, Progress,
    decode_wav, digits, handwritten,
    logmel::{FRAMES, LogMel, MELS},
};
use safetensors::SafeTensors;
use std::io::Read;
use std::path::{Path, PathBuf};

type Outcome = Result<(), Box<dyn std::error::Error>>;

fn originals() -> Option<PathBuf> {
    let default = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/data");
    let dir = std::env::var_os("CRMT_DATA").map_or(default, PathBuf::from);
    if dir.is_dir() {
        return Some(dir);
    }
    eprintln!(
        "SKIPPED: no original data in {}; set CRMT_DATA",
        dir.display()
    );
    None
}

fn quiet(_: Progress) {}

fn digits_of(dir: &Path) -> DigitsOptions {
    let (mnist, fsdd) = (dir.join("mnist"), dir.join("fsdd"));
    DigitsOptions {
        mnist,
        fsdd,
        pendigits: None,
        noise: None,
        environment: None,
        unverified: false,
    }
}

#[test]
fn spectrograms_agree_with_numpy() -> Outcome {
    let Some(dir) = originals() else {
        return Ok(());
    };
    let golden = include_bytes!("golden/logmel.safetensors");
    let golden = SafeTensors::deserialize(golden)?;
    let archive = std::fs::File::open(dir.join("fsdd/fsdd-v1.0.10-recordings.tar.gz"))?;
    let mut archive = tar::Archive::new(flate2::read::GzDecoder::new(archive));
    let (mel, mut seen) = (LogMel::new(), 0);
    for entry in archive.entries()? {
        let mut entry = entry?;
        let name = entry
            .path()?
            .file_stem()
            .map(|n| n.to_string_lossy().into_owned())
            .unwrap_or_default();
        let Ok(expected) = golden.tensor(&name) else {
            continue;
        };
        let expected: Vec<_> = expected
            .data()
            .as_chunks::<8>()
            .0
            .iter()
            .map(|b| f64::from_le_bytes(*b))
            .collect();
        let mut bytes = vec![];
        entry.read_to_end(&mut bytes)?;
        for (i, got) in mel
            .spectrogram(&decode_wav(&bytes)?)
            .into_iter()
            .enumerate()
        {
            // The stored arrays are [frame, mel], whatever their metadata say: numpy handed the
            // memory of a transposed array to the writer. Ours are [mel, frame].
            let expected = expected[i % FRAMES * MELS + i / FRAMES];
            // The rounding of two FFTs in f64, seen through the logarithm above its floor.
            assert!(
                (got - expected).abs() < 1e-10,
                "{name} value {i}: {got}, numpy {expected}"
            );
            // Values up to 2 in f32: half a unit in the last place is 6e-8; a small multiple.
            assert!(
                (f64::from(got as f32) - expected).abs() < 1e-6,
                "{name} value {i}"
            );
        }
        seen += 1;
    }
    assert_eq!(seen, 24);
    Ok(())
}

/// Mean, standard deviation over all values, and root of the summed variances of the elements.
fn statistics(array: &Array) -> [f64; 3] {
    let (rows, values) = (array.rows(), array.to_vec(0..array.rows()));
    let n = values.len() as f64;
    let mean = values.iter().map(|v| f64::from(*v)).sum::<f64>() / n;
    let sd = (values
        .iter()
        .map(|v| (f64::from(*v) - mean).powi(2))
        .sum::<f64>()
        / n)
        .sqrt();
    let means = array.mean();
    let total: f64 = values
        .chunks(array.row_len())
        .flat_map(|row| row.iter().zip(&means))
        .map(|(v, m)| (f64::from(*v) - m).powi(2))
        .sum();
    [mean, sd, (total / (rows - 1) as f64).sqrt()]
}

fn close(got: [f64; 3], expected: [f64; 3]) {
    for (got, expected) in got.into_iter().zip(expected) {
        // The documented values have six digits.
        assert!(
            (got - expected).abs() < 1e-5 * expected.max(1.),
            "{got}, expected {expected}"
        );
    }
}

#[test]
fn digits_are_those_of_the_protocol() -> Outcome {
    let Some(dir) = originals() else {
        return Ok(());
    };
    let options = DigitsOptions {
        pendigits: Some(dir.join("pendigits")),
        ..digits_of(&dir)
    };
    let data = digits(&options, &quiet)?;
    let rows = |s: &crmt_data::Split| s.arrays().iter().map(Array::rows).collect::<Vec<_>>();
    assert_eq!(rows(&data.train), [55_000, 2400, 6894]);
    assert_eq!(
        (rows(&data.select), data.select.len()),
        (vec![5000, 300, 600], 5000)
    );
    assert_eq!(
        (rows(&data.report), data.report.len()),
        (vec![10_000, 300, 3498], 10_000)
    );
    // numpy, from the same originals by an independent program.
    close(
        statistics(&data.train.arrays()[0]),
        [0.130717, 0.308197, 7.262131],
    );
    close(
        statistics(&data.train.arrays()[1]),
        [0.283450, 0.407796, 7.879171],
    );
    let sound = data.train.arrays()[1].to_vec(0..2400);
    let (least, most) = sound
        .iter()
        .fold((f32::MAX, f32::MIN), |(lo, hi), v| (lo.min(*v), hi.max(*v)));
    assert_eq!(least, 0.);
    // Documented with four digits.
    assert!((most - 1.9504).abs() < 5e-5, "{most}");
    // The first 7 of the report images comes first, the second later; recordings go round.
    let crmt_data::Pairing::Index { table, labels } = data.report.pairing() else {
        panic!("fixed pairs")
    };
    let sevens: Vec<_> = (0..10_000).filter(|i| labels[*i] == 7).collect();
    assert_eq!(sevens[0], 0);
    for (n, i) in sevens.iter().enumerate() {
        assert_eq!(table[i * 3 + 1], 7 * 30 + n as u32 % 30);
    }
    assert!(
        data.notes
            .iter()
            .any(|n| n.contains("independent given its label"))
    );
    Ok(())
}

#[test]
fn noise_as_loud_as_the_words_fills_the_silence_around_them() -> Outcome {
    let Some(dir) = originals() else {
        return Ok(());
    };
    let noise = NoiseOptions {
        clips: dir.join("esc10"),
        snr_db: 0.,
        seed: 0,
    };
    let noisy = digits(
        &DigitsOptions {
            noise: Some(noise),
            ..digits_of(&dir)
        },
        &quiet,
    )?;
    // Clean: 0.283, with much silence. One decade of power is 0.25.
    assert!(statistics(&noisy.train.arrays()[1])[0] > 0.6);
    Ok(())
}

#[test]
fn the_environment_drowns_the_words_step_by_step() -> Outcome {
    let Some(dir) = originals() else {
        return Ok(());
    };
    let environment = Some(EnvironmentOptions {
        clips: dir.join("esc10"),
        seed: 0,
    });
    let data = digits(
        &DigitsOptions {
            environment,
            ..digits_of(&dir)
        },
        &quiet,
    )?;
    let [environment] = data.corruptions() else {
        panic!("one corruption")
    };
    let clean = &data.report.arrays()[1];
    let clean = clean.to_vec(0..clean.rows());
    let distances: Vec<f64> = environment
        .severities
        .iter()
        .map(|array| {
            assert_eq!((array.rows(), array.shape()), (300, &[1, MELS, FRAMES][..]));
            let noisy = array.to_vec(0..300);
            let total: f64 = noisy
                .iter()
                .zip(&clean)
                .map(|(y, x)| f64::from((y - x).abs()))
                .sum();
            total / clean.len() as f64
        })
        .collect();
    // 25 dB are two and a half decades of power, 0.625 in the spectrogram where only noise is
    // heard.
    assert!(
        distances.windows(2).all(|d| d[0] < d[1]) && distances[4] - distances[0] > 0.2,
        "{distances:?}"
    );
    Ok(())
}

#[test]
fn handwritten_is_standardised_by_its_training_rows() -> Outcome {
    let Some(dir) = originals() else {
        return Ok(());
    };
    let options = HandwrittenOptions {
        from: dir.join("handwritten_mfeat"),
        unverified: false,
    };
    let data = handwritten(&options, &quiet)?;
    let names: Vec<_> = data
        .modalities
        .iter()
        .map(|m| (m.name.as_str(), m.shape[0]))
        .collect();
    assert_eq!(
        names,
        [
            ("pix", 240),
            ("fou", 76),
            ("fac", 216),
            ("zer", 47),
            ("kar", 64),
            ("mor", 6)
        ]
    );
    assert_eq!(
        (data.train.len(), data.select.len(), data.report.len()),
        (1400, 200, 400)
    );
    for array in data.train.arrays() {
        let [mean, _, total] = statistics(array);
        // f32 rounding of values of order 1; the total variance is the number of features (n - 1
        // below).
        assert!(mean.abs() < 1e-6);
        assert!(
            (total * total - array.row_len() as f64 * 1400. / 1399.).abs()
                < 1e-3 * array.row_len() as f64
        );
    }
    for split in [&data.train, &data.select, &data.report] {
        let per_class = split.len() / 10;
        assert!((0..10).all(|k| split.labels().iter().filter(|l| **l == k).count() == per_class));
    }
    Ok(())
}

/// UCI's own files: other names, blanks between the numbers, no labels and no split.
#[test]
fn handwritten_reads_ucis_files_too() -> Outcome {
    let Some(dir) = originals() else {
        return Ok(());
    };
    let from = dir.join("handwritten_mfeat");
    let uci = tempfile::tempdir()?;
    for view in ["pix", "fou", "fac", "zer", "kar", "mor"] {
        let mut text = String::new();
        flate2::read::GzDecoder::new(std::fs::File::open(from.join(format!("{view}.csv.gz")))?)
            .read_to_string(&mut text)?;
        std::fs::write(
            uci.path().join(format!("mfeat-{view}")),
            text.replace(',', "  ").replace('\n', " \n  "),
        )?;
    }
    let a = handwritten(
        &HandwrittenOptions {
            from,
            unverified: false,
        },
        &quiet,
    )?;
    let b = handwritten(
        &HandwrittenOptions {
            from: uci.path().into(),
            unverified: false,
        },
        &quiet,
    )?;
    assert_eq!((a.train, a.select, a.report), (b.train, b.select, b.report));
    Ok(())
}

#[test]
fn other_data_are_refused_unless_allowed() -> Outcome {
    let Some(dir) = originals() else {
        return Ok(());
    };
    let changed = tempfile::tempdir()?;
    for name in ["pendigits.tra", "pendigits.tes"] {
        let text = std::fs::read_to_string(dir.join("pendigits").join(name))?;
        std::fs::write(changed.path().join(name), text.replacen("47,", "48,", 1))?;
    }
    let options = DigitsOptions {
        pendigits: Some(changed.path().into()),
        ..digits_of(&dir)
    };
    let message = digits(&options, &quiet).expect_err("changed").to_string();
    assert!(
        message.contains("pendigits.tra: SHA-256 of the numbers is ")
            && message.contains("expected c3a525d7bdf4"),
        "{message}"
    );
    for entry in std::fs::read_dir(dir.join("mnist"))? {
        let entry = entry?;
        std::fs::copy(entry.path(), changed.path().join(entry.file_name()))?;
    }
    let labels = changed.path().join("t10k-labels-idx1-ubyte.gz");
    std::fs::remove_file(&labels)?;
    std::fs::write(
        &labels,
        [&[0, 0, 8, 1, 0, 0, 39, 16][..], &[0; 10_000]].concat(),
    )?;
    let mnist = DigitsOptions {
        mnist: changed.path().into(),
        ..digits_of(&dir)
    };
    let message = digits(&mnist, &quiet).expect_err("changed").to_string();
    assert!(
        message.contains("t10k-labels-idx1-ubyte.gz: MD5 (uncompressed) is "),
        "{message}"
    );
    assert!(
        message.contains("expected 27ae3e4e09519cfbb04c329615203637 (datasets/mnist.toml)"),
        "{message}"
    );
    let data = digits(
        &DigitsOptions {
            unverified: true,
            ..options
        },
        &quiet,
    )?;
    assert!(data.notes.iter().any(|n| n.contains("without verifying")));
    Ok(())
}
