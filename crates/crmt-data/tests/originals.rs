//! Preparation from small made-up originals: the whole path, and every way a file can be wrong.
use crmt_data::{
    DataSet, DigitsOptions, EnvironmentOptions, HandwrittenOptions, NoiseOptions, Progress, digits,
    handwritten, write_dataset,
};
use flate2::{Compression, write::GzEncoder};
use std::fs;
use std::io::{Cursor, Write};
use std::path::Path;
use std::sync::Mutex;

type Outcome = Result<(), Box<dyn std::error::Error>>;

fn idx(path: &Path, shape: &[u32], data: &[u8]) {
    let header: Vec<u8> = shape.iter().flat_map(|d| d.to_be_bytes()).collect();
    let mut out = GzEncoder::new(
        fs::File::create(path).expect("temporary directory"),
        Compression::fast(),
    );
    for part in [&[0, 0, 8, shape.len() as u8], &header[..], data] {
        out.write_all(part).expect("temporary directory");
    }
    out.finish().expect("temporary directory");
}

fn wav(samples: impl Iterator<Item = i16>) -> Vec<u8> {
    let spec = hound::WavSpec {
        channels: 1,
        sample_rate: 8000,
        bits_per_sample: 16,
        sample_format: hound::SampleFormat::Int,
    };
    let mut out = Cursor::new(vec![]);
    let mut writer = hound::WavWriter::new(&mut out, spec).expect("valid");
    samples.for_each(|s| writer.write_sample(s).expect("memory"));
    writer.finalize().expect("memory");
    out.into_inner()
}

/// 55020 + 20 blank images with class `i mod 10`, 50 recordings, 10 noise clips.
fn originals() -> (tempfile::TempDir, DigitsOptions) {
    let dir = tempfile::tempdir().expect("temporary directory");
    let at = |name: &str| dir.path().join(name);
    for (stem, n) in [("train", 55_020u32), ("t10k", 20)] {
        let labels: Vec<u8> = (0..n).map(|i| (i % 10) as u8).collect();
        idx(
            &at(&format!("{stem}-images-idx3-ubyte.gz")),
            &[n, 28, 28],
            &vec![9; n as usize * 784],
        );
        idx(&at(&format!("{stem}-labels-idx1-ubyte.gz")), &[n], &labels);
    }
    fs::create_dir(at("wavs")).expect("temporary directory");
    for digit in 0..10 {
        for index in [0, 1, 5, 10, 11] {
            let tone =
                (0..2000).map(|n| ((n * (digit + 1) * (index + 3) * 37) % 8000 - 4000) as i16);
            fs::write(at(&format!("wavs/{digit}_ann_{index}.wav")), wav(tone))
                .expect("temporary directory");
        }
    }
    fs::create_dir(at("clips")).expect("temporary directory");
    for fold in 1..=5 {
        for take in ["A", "B"] {
            let noise = (0..12_000).map(|n| ((n * n * (fold + 7)) % 20_011 - 10_000) as i16);
            fs::write(at(&format!("clips/001_{fold}-77-{take}.wav")), wav(noise))
                .expect("temporary directory");
        }
    }
    let (mnist, fsdd) = (dir.path().into(), at("wavs"));
    let options = DigitsOptions {
        mnist,
        fsdd,
        pendigits: None,
        noise: None,
        environment: None,
        unverified: true,
    };
    (dir, options)
}

#[test]
fn digits_go_from_files_to_pairs() -> Outcome {
    let (dir, mut options) = originals();
    let stages = Mutex::new(vec![]);
    let data = digits(&options, &|p: Progress| {
        stages
            .lock()
            .expect("one thread panicked")
            .push((p.done, p.total))
    })?;
    assert_eq!(
        (data.train.len(), data.select.len(), data.report.len()),
        (55_000, 20, 20)
    );
    assert_eq!(data.train.arrays()[1].rows(), 20);
    let mut stages = stages.into_inner()?;
    stages.sort_unstable();
    assert_eq!(stages, (1..=50).map(|i| (i, 50)).collect::<Vec<_>>());
    let crmt_data::Pairing::Index { table, .. } = data.report.pairing() else {
        panic!("fixed pairs")
    };
    // Ten classes, two recordings each: image 13 is the second 3 and gets the second recording
    // of 3.
    assert_eq!(table[2 * 13..2 * 13 + 2], [13, 7]);

    options.noise = Some(NoiseOptions {
        clips: dir.path().join("clips"),
        snr_db: 3.,
        seed: 0,
    });
    let noisy = digits(&options, &|_| ())?;
    assert_eq!(noisy.train, digits(&options, &|_| ())?.train);
    if let Some(noise) = &mut options.noise {
        noise.seed = 1;
    }
    assert_ne!(noisy.train, digits(&options, &|_| ())?.train);
    assert_ne!(noisy.train.arrays()[1], data.train.arrays()[1]);
    assert_eq!(noisy.train.arrays()[0], data.train.arrays()[0]);
    assert!(
        noisy
            .notes
            .iter()
            .any(|n| n.contains("ESC-10 noise at 3 dB"))
    );
    Ok(())
}

#[test]
fn the_environment_is_prepared_at_five_levels() -> Outcome {
    let (dir, mut options) = originals();
    let clips = dir.path().join("clips");
    let plain = digits(&options, &|_| ())?;
    assert!(plain.corruptions().is_empty());
    options.environment = Some(EnvironmentOptions {
        clips: clips.clone(),
        seed: 0,
    });
    let data = digits(&options, &|_| ())?;
    assert_eq!(
        (&data.train, &data.select, &data.report),
        (&plain.train, &plain.select, &plain.report)
    );
    let [environment] = data.corruptions() else {
        panic!("one corruption")
    };
    assert_eq!(
        (environment.modality.as_str(), environment.name.as_str()),
        ("audio", "environment")
    );
    // Louder noise, higher power: 20 recordings of 32 x 32 values.
    let mean = |array: &crmt_data::Array| array.mean().iter().sum::<f64>();
    let mut means = vec![mean(&data.report.arrays()[1])];
    means.extend(environment.severities.iter().map(mean));
    assert!(
        means.len() == 6 && means.windows(2).all(|m| m[0] < m[1]),
        "{means:?}"
    );
    options.environment = Some(EnvironmentOptions { clips, seed: 1 });
    assert_ne!(data.corruptions(), digits(&options, &|_| ())?.corruptions());
    assert!(
        data.notes
            .iter()
            .any(|n| n.contains("fold 5, seed 0) at 20, 10, 5, 0, -5 dB")),
        "{:?}",
        data.notes
    );
    assert!(data.manifest().sources.iter().any(|s| s.contains("ESC")));

    write_dataset(&data, dir.path().join("set"), false)?;
    let again = DataSet::open(dir.path().join("set"))?;
    assert_eq!(again.corruptions(), data.corruptions());
    Ok(())
}

#[test]
fn wrong_originals_are_named() -> Outcome {
    let (dir, options) = originals();
    let at = |name: &str| dir.path().join(name);
    let message = |options: &DigitsOptions| {
        let message = digits(options, &|_| ())
            .expect_err("must be refused")
            .to_string();
        assert!(!message.contains('\n'));
        message
    };
    let strict = DigitsOptions {
        unverified: false,
        ..options.clone()
    };
    assert!(
        message(&strict)
            .contains("wavs: number of recordings is 50, expected 3000 (datasets/fsdd.toml)")
    );
    let missing = message(&DigitsOptions {
        mnist: at("nowhere"),
        ..options.clone()
    });
    assert!(missing.ends_with(
        "nowhere/train-images-idx3-ubyte: not found; expected this file, plain or as .gz"
    ));
    let missing = message(&DigitsOptions {
        fsdd: at("nowhere"),
        ..options.clone()
    });
    assert!(missing.ends_with(
        "nowhere: not found; expected a directory with .wav files or a .tar.gz of them"
    ));

    // Each damage is repaired before the next.
    let damage = |file: &str, bytes: &[u8], options: &DigitsOptions| {
        let before = fs::read(at(file)).ok();
        fs::write(at(file), bytes).expect("temporary directory");
        let message = message(options);
        match before {
            Some(before) => fs::write(at(file), before).expect("temporary directory"),
            None => fs::remove_file(at(file)).expect("temporary directory"),
        }
        message
    };
    let whole = fs::read(at("wavs/3_ann_5.wav"))?;
    // The file is named, not the digest of all of them.
    let truncated = damage("wavs/3_ann_5.wav", &whole[..whole.len() - 100], &strict);
    assert!(
        truncated.ends_with(
            "3_ann_5.wav: truncated: the header promises 2000 samples, the file has 1950"
        )
    );
    let name = damage("wavs/3_ann.wav", &whole, &options);
    assert!(name.contains("3_ann.wav: expected a name like 7_jackson_32.wav"));
    let magic = damage(
        "t10k-labels-idx1-ubyte.gz",
        &[0, 0, 8, 3, 0, 0, 0, 0],
        &options,
    );
    assert!(magic.contains("t10k-labels-idx1-ubyte.gz: not an idx file of bytes with 1 axes"));
    let few = damage(
        "t10k-labels-idx1-ubyte.gz",
        &[0, 0, 8, 1, 0, 0, 0, 1, 3],
        &options,
    );
    assert!(few.ends_with("1 labels for 20 images"));
    let eleven = damage(
        "t10k-labels-idx1-ubyte.gz",
        &[&[0, 0, 8, 1, 0, 0, 0, 20][..], &[11; 20]].concat(),
        &options,
    );
    assert!(eleven.ends_with("label 0 is 11, expected 0 to 9"));

    let clips = |snr_db| {
        let noise = NoiseOptions {
            clips: at("clips"),
            snr_db,
            seed: 0,
        };
        DigitsOptions {
            noise: Some(noise),
            ..options.clone()
        }
    };
    assert_eq!(
        message(&clips(f64::NAN)),
        "the noise level must be a finite number of dB, got NaN"
    );
    let short = damage(
        "clips/001_4-77-A.wav",
        &wav((0..100).map(|n| n as i16)),
        &clips(0.),
    );
    assert!(short.ends_with("001_4-77-A.wav: 100 samples, expected at least 8192"));
    let unnamed = damage(
        "clips/rain.wav",
        &wav((0..9000).map(|n| n as i16)),
        &clips(0.),
    );
    assert!(unnamed.contains("rain.wav: expected a name like 001_1-100032-A.wav"));
    for take in ["A", "B"] {
        fs::write(
            at(&format!("clips/001_5-77-{take}.wav")),
            wav([0; 9000].into_iter()),
        )?;
    }
    assert!(message(&clips(0.)).ends_with("clips: 1000 random segments were silent"));
    fs::remove_file(at("clips/001_4-77-A.wav"))?;
    fs::remove_file(at("clips/001_4-77-B.wav"))?;
    assert!(message(&clips(0.)).ends_with("one of these groups is empty"));
    Ok(())
}

#[test]
fn wrong_pen_trajectories_are_named() -> Outcome {
    let (dir, mut options) = originals();
    let pens = dir.path().join("pens");
    fs::create_dir(&pens)?;
    let row = |class: usize| format!("{}{class}\n", "50, ".repeat(16));
    let good: String = (0..700).map(|i| row(i % 10)).collect();
    fs::write(pens.join("pendigits.tra"), &good)?;
    fs::write(pens.join("pendigits.tes"), &good)?;
    options.pendigits = Some(pens.clone());
    let data = digits(&options, &|_| ())?;
    assert_eq!(
        (
            data.train.arrays()[2].rows(),
            data.select.arrays()[2].rows()
        ),
        (100, 600)
    );
    for (bad, expected) in [
        (
            format!("{good}{}", row(10)),
            "pendigits.tra: line 701: expected 16 integers from 0 to 100 and a class from 0 to 9",
        ),
        (
            good.replacen("50", "101", 1),
            "pendigits.tra: line 1: expected 16 integers from 0 to 100",
        ),
        (
            good.replacen("50", "x", 1),
            "pendigits.tra: line 1: `x` is not a finite number",
        ),
        (
            good.replace("50, 50,", "50,"),
            "pendigits.tra: 9 numbers per line, expected 17",
        ),
        (
            row(3).repeat(100),
            "train.pen.labels.npy: no row of class 0",
        ),
    ] {
        fs::write(pens.join("pendigits.tra"), bad)?;
        let message = digits(&options, &|_| ())
            .expect_err("must be refused")
            .to_string();
        assert!(message.contains(expected), "{message}");
    }
    Ok(())
}

#[test]
fn wrong_views_are_named() -> Outcome {
    let dir = tempfile::tempdir()?;
    let options = HandwrittenOptions {
        from: dir.path().into(),
        unverified: true,
    };
    let views = [
        ("pix", 240),
        ("fou", 76),
        ("fac", 216),
        ("zer", 47),
        ("kar", 64),
        ("mor", 6),
    ];
    let table = |rows: usize, columns: usize| -> String {
        (0..rows)
            .map(|r| {
                (0..columns)
                    .map(|c| format!("{},", (r * 31 + c * 17) % 101))
                    .collect::<String>()
                    + "\n"
            })
            .collect()
    };
    let message = || {
        let message = handwritten(&options, &|_| ())
            .expect_err("must be refused")
            .to_string();
        assert!(!message.contains('\n'));
        message
    };
    assert!(message().ends_with("pix.csv: not found; expected this file, plain or as .gz"));
    for (view, columns) in views {
        fs::write(dir.path().join(format!("{view}.csv")), table(2000, columns))?;
    }
    let data = handwritten(&options, &|_| ())?;
    assert_eq!((data.train.len(), data.report.len()), (1400, 400));
    let verified = handwritten(
        &HandwrittenOptions {
            unverified: false,
            ..options.clone()
        },
        &|_| (),
    );
    assert!(verified.is_err_and(|e| {
        e.to_string()
            .contains("pix.csv: SHA-256 of the numbers is ")
    }));

    fs::write(dir.path().join("fou.csv"), table(1999, 76))?;
    assert!(message().ends_with("fou.csv: 1999 rows, pix has 2000"));
    fs::write(dir.path().join("fou.csv"), table(2000, 75))?;
    assert!(message().ends_with("fou.csv: 75 numbers per line, expected 76"));
    fs::write(dir.path().join("fou.csv"), table(2000, 76))?;
    fs::write(dir.path().join("labels.csv"), "0\n1\n")?;
    assert!(message().ends_with("labels.csv: 2 rows of 1 numbers, expected 2000 labels"));
    fs::write(dir.path().join("labels.csv"), "11\n".repeat(2000))?;
    assert!(message().ends_with("labels.csv: line 1: 11 is not an integer from 0 to 9"));
    fs::remove_file(dir.path().join("labels.csv"))?;
    for (train, test, expected) in [
        (
            "0\n1\n",
            "1\n2\n",
            "tmc_test_rows.txt: row 1 is also in tmc_train_rows.txt",
        ),
        (
            "0\n1\n1\n",
            "2\n",
            "tmc_train_rows.txt: row 1 is listed twice",
        ),
        (
            "0\n1\n",
            "2000\n",
            "tmc_test_rows.txt: line 1: 2000 is not an integer from 0 to 1999",
        ),
        ("0\n1\n", "3\n", "train.pix.npy: no rows"),
    ] {
        fs::write(dir.path().join("tmc_train_rows.txt"), train)?;
        fs::write(dir.path().join("tmc_test_rows.txt"), test)?;
        let message = message();
        assert!(message.contains(expected), "{message}");
    }
    for name in ["tmc_train_rows.txt", "tmc_test_rows.txt"] {
        fs::remove_file(dir.path().join(name))?;
    }
    for (view, columns) in views {
        fs::write(dir.path().join(format!("{view}.csv")), table(100, columns))?;
    }
    assert!(message().ends_with("100 rows, the original has 2000; add labels.csv"));
    Ok(())
}
