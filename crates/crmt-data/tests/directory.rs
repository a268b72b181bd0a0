//! The format on disk: what is written is read back, and whatever is wrong is named in one line.
use crmt_data::{
    Array, DataSet, Manifest, ModalitySpec, Pairing, PreparedCorruption, Samples, write_dataset,
    write_npy,
};
use proptest::prelude::*;
use std::fs;
use std::path::Path;

type Outcome = Result<(), Box<dyn std::error::Error>>;

/// What a user writes: two modalities, rows paired, nothing optional but a range.
const MINIMAL: &str = "version = 1\nname = 'mine'\nclasses = ['cat', 'dog']\n\
    [[modalities]]\nname = 'face'\nshape = [2]\nrange = [0, 1]\n\
    [[modalities]]\nname = 'voice'\nshape = [1, 3]\n";

fn f32s(path: &Path, shape: &[usize], values: &[f32]) {
    let mut file = fs::File::create(path).expect("temporary directory");
    write_npy(
        &mut file,
        "<f4",
        shape,
        values.iter().flat_map(|v| v.to_le_bytes()),
    )
    .expect("temporary directory");
}

fn i64s(path: &Path, shape: &[usize], values: &[i64]) {
    let mut file = fs::File::create(path).expect("temporary directory");
    write_npy(
        &mut file,
        "<i8",
        shape,
        values.iter().flat_map(|v| v.to_le_bytes()),
    )
    .expect("temporary directory");
}

/// Three samples in each split of [`MINIMAL`].
fn minimal() -> tempfile::TempDir {
    let dir = tempfile::tempdir().expect("temporary directory");
    fs::write(dir.path().join("dataset.toml"), MINIMAL).expect("temporary directory");
    for split in ["train", "select", "report"] {
        f32s(
            &dir.path().join(format!("{split}.face.npy")),
            &[3, 2],
            &[0., 0.25, 0.5, 0.75, 1., 0.],
        );
        f32s(
            &dir.path().join(format!("{split}.voice.npy")),
            &[3, 1, 3],
            &[-4., 5., 6., 7., 8., 9., 1., 2., 3.],
        );
        i64s(
            &dir.path().join(format!("{split}.labels.npy")),
            &[3],
            &[0, 1, 0],
        );
    }
    dir
}

/// The message after `change` damaged a valid data set.
fn refused(change: impl FnOnce(&Path)) -> String {
    let dir = minimal();
    change(dir.path());
    let message = DataSet::open(dir.path())
        .expect_err("must be refused")
        .to_string();
    assert!(!message.contains('\n'), "one line: {message}");
    message
}

fn manifest(dir: &Path, from: &str, to: &str) {
    assert!(MINIMAL.contains(from), "{from}");
    fs::write(dir.join("dataset.toml"), MINIMAL.replacen(from, to, 1))
        .expect("temporary directory");
}

#[test]
fn a_users_directory_opens() -> Outcome {
    let dir = minimal();
    let data = DataSet::open(dir.path())?;
    assert_eq!((data.name.as_str(), data.train.len()), ("mine", 3));
    let batch = data.report.batch(1..3)?;
    assert_eq!(batch.inputs[0].to_vec2::<f32>()?, [[0.5, 0.75], [1., 0.]]);
    assert_eq!(batch.inputs[1].dims(), [2, 1, 3]);
    assert_eq!(batch.labels.to_vec1::<u32>()?, [1, 0]);
    assert_eq!(data.baselines[1].to_vec2::<f32>()?, [[0., 0., 0.]]);
    Ok(())
}

#[test]
fn division_baselines_and_other_element_types_are_applied() -> Outcome {
    let dir = minimal();
    manifest(
        dir.path(),
        "range = [0, 1]",
        "range = [0, 1]\ndivide = 4\nbaseline = 'mean'",
    );
    for split in ["train", "select", "report"] {
        i64s(
            &dir.path().join(format!("{split}.face.npy")),
            &[3, 2],
            &[0, 1, 2, 3, 4, 0],
        );
        let file = fs::File::create(dir.path().join(format!("{split}.labels.npy")))?;
        write_npy(file, "|u1", &[3], [1, 1, 0].into_iter())?;
    }
    let data = DataSet::open(dir.path())?;
    assert_eq!(
        data.train.batch(0..3)?.inputs[0].to_vec2::<f32>()?,
        [[0., 0.25], [0.5, 0.75], [1., 0.]]
    );
    // (0 + 0.5 + 1) / 3 and (0.25 + 0.75 + 0) / 3, rounded once.
    assert_eq!(
        data.baselines[0].to_vec1::<f32>()?,
        [0.5, (1f64 / 3.) as f32]
    );
    Ok(())
}

#[test]
fn missing_things_are_named() {
    let nowhere = DataSet::open("no/such/place")
        .expect_err("refused")
        .to_string();
    assert_eq!(
        nowhere,
        "no/such/place: no such directory; prepare the data set first, or check the path"
    );
    assert!(
        refused(|d| fs::remove_file(d.join("dataset.toml")).expect("there"))
            .contains("no dataset.toml in it")
    );
    assert!(
        refused(|d| fs::remove_file(d.join("select.voice.npy")).expect("there"))
            .ends_with("no select.voice.npy; every split (train, select, report) needs an array of modality `voice`")
    );
    assert!(
        refused(|d| fs::remove_file(d.join("report.labels.npy")).expect("there"))
            .contains("no report.labels.npy")
    );
}

#[test]
fn bad_descriptions_are_named() {
    assert!(
        refused(|d| manifest(d, "classes", "clases"))
            .contains("dataset.toml: line 3: unknown key `clases`, did you mean `classes`?")
    );
    assert!(
        refused(|d| manifest(d, "['cat', 'dog']", "[]"))
            .contains("dataset.toml: classes: the list is empty")
    );
    // What the loader itself puts into samples must be valid, too.
    let positive = |more: &str| {
        refused(|d| {
            manifest(
                d,
                "shape = [1, 3]",
                &format!("shape = [1, 3]\nrange = [1, 9]\n{more}"),
            );
            for split in ["train", "select", "report"] {
                f32s(
                    &d.join(format!("{split}.voice.npy")),
                    &[3, 1, 3],
                    &[1., 2., 3., 4., 5., 6., 7., 8., 9.],
                );
            }
        })
    };
    assert!(
        positive("")
            .ends_with("modalities.voice.baseline puts 0 into samples, which is outside the range")
    );
    assert!(positive("baseline = 9.5").contains("modalities.voice.baseline puts 9.5 into samples"));
    assert!(
        positive("baseline = 'mean'\naugment.shift_last_axis = 1")
            .contains("augment.shift_last_axis puts 0 into")
    );
    assert!(
        refused(|d| manifest(d, "shape = [1, 3]", "shape = [1, 3]\nrange = [1, 9]"))
            .contains("voice.range = [1, 9]")
    );
}

#[test]
fn bad_arrays_are_named_with_file_and_row() {
    let face = |shape: &'static [usize], values: &'static [f32]| {
        refused(move |d| f32s(&d.join("train.face.npy"), shape, values))
    };
    assert!(face(&[3, 2], &[0., 0., 0., f32::NAN, 0., 0.]).ends_with(
        "train.face.npy: row 1 holds NaN; every value must be finite as f32, after `divide`"
    ));
    assert!(
        face(&[3, 2], &[0., 0., 0., 0., f32::INFINITY, 0.])
            .contains("train.face.npy: row 2 holds inf")
    );
    assert!(
        face(&[3, 2], &[0., 1.5, 0., 0., 0., 0.])
            .ends_with("train.face.npy: row 0 holds 1.5, outside modalities.face.range = [0, 1]")
    );
    assert!(
        face(&[2, 3], &[0.; 6])
            .ends_with("train.face.npy: array has shape [2, 3], expected [rows, 2]")
    );
    assert!(face(&[], &[0.]).contains("array has shape [], expected [rows, 2]"));
    assert!(face(&[2, 2], &[0.; 4]).ends_with("train.face.npy has 2 rows, train.labels.npy has 3"));
    assert!(face(&[0, 2], &[]).ends_with("train.face.npy: no rows"));
    let truncated = refused(|d| {
        let path = d.join("train.voice.npy");
        let bytes = fs::read(&path).expect("there");
        fs::write(path, &bytes[..bytes.len() - 5]).expect("temporary directory");
    });
    assert!(truncated.ends_with(
        "train.voice.npy: header promises 36 bytes of data, the file has 31: truncated or damaged"
    ));
    let fortran = refused(|d| {
        let path = d.join("train.face.npy");
        let bytes = fs::read(&path).expect("there");
        let text = String::from_utf8_lossy(&bytes[..128]).replace("False", "True ");
        fs::write(
            path,
            [
                &bytes[..10],
                &text.as_bytes()[text.find('{').expect("dictionary")..],
                &bytes[128..],
            ]
            .concat(),
        )
        .expect("temporary directory");
    });
    assert!(
        fortran
            .ends_with("train.face.npy: array is in Fortran order; save np.ascontiguousarray(x)"),
        "{fortran}"
    );
}

#[test]
fn bad_labels_are_named_with_file_and_row() {
    let labels = |values: &'static [i64]| {
        refused(move |d| i64s(&d.join("select.labels.npy"), &[values.len()], values))
    };
    assert!(
        labels(&[0, 1, 2])
            .ends_with("select.labels.npy: row 2 holds label 2, there are 2 classes (0 to 1)")
    );
    assert!(
        labels(&[0, -1, 1]).ends_with("select.labels.npy: row 1 holds -1, expected an integer ≥ 0")
    );
    assert!(labels(&[0, 1]).ends_with("select.face.npy has 3 rows, select.labels.npy has 2"));
    let floats = refused(|d| f32s(&d.join("select.labels.npy"), &[3], &[0., 1., 0.]));
    assert!(
        floats.ends_with(
            "select.labels.npy: labels and rows are whole numbers from 0, got floats; save x.astype('int64')"
        )
    );
}

#[test]
fn pairings_are_read_and_checked() -> Outcome {
    let dir = minimal();
    let paired = "name = 'mine'\npairing = { train = 'class', report = 'index' }";
    manifest(dir.path(), "name = 'mine'", paired);
    i64s(&dir.path().join("train.face.labels.npy"), &[3], &[0, 1, 0]);
    i64s(&dir.path().join("train.voice.labels.npy"), &[3], &[1, 1, 0]);
    i64s(&dir.path().join("report.labels.npy"), &[4], &[1, 1, 0, 0]);
    i64s(
        &dir.path().join("report.index.npy"),
        &[4, 2],
        &[0, 1, 1, 1, 2, 2, 2, 0],
    );
    let data = DataSet::open(dir.path())?;
    assert_eq!(
        data.report.batch(3..4)?.inputs[1]
            .flatten_all()?
            .to_vec1::<f32>()?,
        [-4., 5., 6.]
    );
    assert_eq!(data.train.len(), 3);

    let message = || DataSet::open(dir.path()).expect_err("refused").to_string();
    i64s(
        &dir.path().join("report.index.npy"),
        &[4, 2],
        &[0, 1, 1, 1, 2, 3, 2, 0],
    );
    assert!(
        message()
            .ends_with("report.index.npy: row 2 points at row 3 of report.voice.npy, which has 3")
    );
    i64s(&dir.path().join("report.index.npy"), &[3, 2], &[0; 6]);
    assert!(message().ends_with("report.index.npy has 3 rows, report.labels.npy has 4"));
    i64s(&dir.path().join("report.index.npy"), &[4, 3], &[0; 12]);
    assert!(message().ends_with("report.index.npy: array has shape [4, 3], expected [rows, 2]"));
    i64s(&dir.path().join("report.index.npy"), &[4, 2], &[0; 8]);
    i64s(&dir.path().join("train.voice.labels.npy"), &[3], &[1, 1, 1]);
    assert!(
        message().ends_with(
            "train.voice.labels.npy: no row of class 0, so train.face.labels.npy has rows without a partner"
        )
    );
    i64s(&dir.path().join("train.voice.labels.npy"), &[2], &[1, 0]);
    assert!(message().ends_with("train.voice.labels.npy has 2 rows, train.voice.npy has 3"));
    Ok(())
}

fn written() -> DataSet {
    let mut pixels = ModalitySpec::new("pixels", &[2]).with_range(0., 1.);
    pixels.divide = Some(255.);
    let manifest = Manifest::new(
        "w",
        ["a", "b"],
        vec![pixels, ModalitySpec::new("sound", &[1])],
    );
    let arrays = vec![
        Array::bytes(&[2], vec![0, 255, 51, 7], 255.).expect("whole"),
        Array::floats(&[1], vec![0.1, -3.]).expect("whole"),
    ];
    let samples = |pairing| Samples {
        arrays: arrays.clone(),
        pairing,
    };
    let labels = vec![1, 0];
    let class = Pairing::Class {
        labels: [labels.clone(), labels.clone()].into(),
    };
    let index = Pairing::Index {
        table: vec![0, 1, 1, 0, 1, 1],
        labels: vec![0, 0, 1],
    };
    DataSet::new(
        manifest,
        samples(class),
        samples(index),
        samples(Pairing::Rows { labels }),
    )
    .expect("consistent")
}

#[test]
fn what_is_written_is_read_back_bit_for_bit() -> Outcome {
    let dir = tempfile::tempdir()?;
    let target = dir.path().join("new/set");
    let data = written();
    let manifest = write_dataset(&data, &target, false)?;
    let again = DataSet::open(&target)?;
    assert_eq!(
        (&again.train, &again.select, &again.report),
        (&data.train, &data.select, &data.report)
    );
    assert_eq!(again.manifest(), &manifest);
    assert_eq!(manifest.sha256.len(), fs::read_dir(&target)?.count() - 1);
    // Bytes stay bytes: a header of 128 and 4 values.
    assert_eq!(fs::metadata(target.join("train.pixels.npy"))?.len(), 132);
    Ok(())
}

/// [`minimal`] with two severities of a corruption that its owner computed.
fn with_rain(dir: &Path) {
    manifest(
        dir,
        "shape = [1, 3]\n",
        "shape = [1, 3]\n[modalities.corruptions]\nrain = 2\n",
    );
    for severity in 1..=2 {
        let values = [-4., 5., 6., 7., 8., 9., 1., 2., 3.].map(|v| v * severity as f32);
        f32s(
            &dir.join(format!("report.voice.rain-{severity}.npy")),
            &[3, 1, 3],
            &values,
        );
    }
}

#[test]
fn a_users_own_corruptions_open() -> Outcome {
    let dir = minimal();
    with_rain(dir.path());
    let data = DataSet::open(dir.path())?;
    let [rain] = data.corruptions() else {
        panic!("one corruption")
    };
    let batch = data
        .corrupted_report(rain, 2)
        .expect("prepared")
        .batch(1..2)?;
    assert_eq!(
        batch.inputs[1].flatten_all()?.to_vec1::<f32>()?,
        [14., 16., 18.]
    );
    assert_eq!(batch.inputs[0].to_vec2::<f32>()?, [[0.5, 0.75]]);

    let target = dir.path().join("copy");
    let manifest = write_dataset(&data, &target, false)?;
    assert!(manifest.sha256.contains_key("report.voice.rain-2.npy"));
    let again = DataSet::open(&target)?;
    assert_eq!(
        (again.corruptions(), again.manifest()),
        (data.corruptions(), &manifest)
    );
    f32s(
        &target.join("report.voice.rain-2.npy"),
        &[3, 1, 3],
        &[0.; 9],
    );
    let message = DataSet::open(&target).expect_err("altered").to_string();
    assert!(
        message.contains("report.voice.rain-2.npy: SHA-256 is "),
        "{message}"
    );

    let refused = |change: &dyn Fn(&Path)| {
        refused(|d| {
            with_rain(d);
            change(d);
        })
    };
    let missing = refused(&|d| fs::remove_file(d.join("report.voice.rain-2.npy")).expect("there"));
    assert!(missing.ends_with(
        "no report.voice.rain-2.npy; modalities.voice.corruptions.rain promises 2 severities"
    ));
    let short = refused(&|d| f32s(&d.join("report.voice.rain-1.npy"), &[2, 1, 3], &[0.; 6]));
    assert!(
        short.ends_with("report.voice.rain-1.npy has 2 rows, report.voice.npy has 3"),
        "{short}"
    );
    let wide = refused(&|d| f32s(&d.join("report.voice.rain-1.npy"), &[3, 1, 4], &[0.; 12]));
    assert!(
        wide.ends_with("report.voice.rain-1.npy: array has shape [3, 1, 4], expected [rows, 1, 3]"),
        "{wide}"
    );
    Ok(())
}

#[test]
fn bytes_stay_bytes_only_where_all_versions_are() -> Outcome {
    let dir = tempfile::tempdir()?;
    for (name, severity, bytes) in [
        ("bytes", Array::bytes(&[2], vec![9, 8, 7, 6], 255.)?, 132),
        (
            "floats",
            Array::floats(&[2], vec![0.1, 0.2, 0.3, 0.4])?,
            144,
        ),
    ] {
        let dull = PreparedCorruption {
            modality: "pixels".into(),
            name: "dull".into(),
            severities: vec![severity],
        };
        let data = written().with_corruptions(vec![dull])?;
        write_dataset(&data, dir.path().join(name), false)?;
        let again = DataSet::open(dir.path().join(name))?;
        let values = |data: &DataSet| data.corruptions()[0].severities[0].to_vec(0..2);
        assert_eq!(values(&again), values(&data));
        assert_eq!(
            again.report.arrays()[0].to_vec(0..2),
            data.report.arrays()[0].to_vec(0..2)
        );
        // A header of 128 and 4 values of one or four bytes.
        assert_eq!(
            fs::metadata(dir.path().join(name).join("train.pixels.npy"))?.len(),
            bytes
        );
    }
    Ok(())
}

#[test]
fn changed_arrays_are_noticed() -> Outcome {
    let dir = tempfile::tempdir()?;
    let target = dir.path().join("set");
    write_dataset(&written(), &target, false)?;
    f32s(&target.join("report.sound.npy"), &[2, 1], &[0.1, -3.5]);
    let message = DataSet::open(&target).expect_err("refused").to_string();
    assert!(
        message.contains("report.sound.npy: SHA-256 is ")
            && message.contains("delete the line under [sha256]")
    );
    Ok(())
}

#[test]
fn only_data_sets_are_overwritten_and_only_on_request() -> Outcome {
    let dir = tempfile::tempdir()?;
    let target = dir.path().join("set");
    let data = written();
    write_dataset(&data, &target, false)?;
    let refused = write_dataset(&data, &target, false)
        .expect_err("exists")
        .to_string();
    assert!(refused.ends_with(
        "set exists already; choose another directory, or allow overwriting (--overwrite)"
    ));
    fs::write(target.join("report.gone.npy"), "x")?;
    write_dataset(&data, &target, true)?;
    assert!(!target.join("report.gone.npy").exists());
    // What is not of a data set is the user's.
    fs::write(target.join("notes.txt"), "mine")?;
    let refused = write_dataset(&data, &target, true)
        .expect_err("would be lost")
        .to_string();
    assert!(
        refused.contains("set also holds notes.txt, which is no part of a data set"),
        "{refused}"
    );
    assert_eq!(fs::read_to_string(target.join("notes.txt"))?, "mine");
    fs::remove_file(target.join("notes.txt"))?;

    let precious = dir.path().join("precious");
    fs::create_dir(&precious)?;
    fs::write(precious.join("thesis"), "x")?;
    let refused = write_dataset(&data, &precious, true)
        .expect_err("no data set")
        .to_string();
    assert!(refused.contains("a directory that is not a data set is never overwritten"));
    assert!(precious.join("thesis").exists());
    assert_eq!(
        fs::read_dir(dir.path())?.count(),
        2,
        "no staging directory is left"
    );
    Ok(())
}

#[test]
fn sums_of_no_array_are_named() {
    let sum = "0".repeat(64);
    let message = refused(|d| {
        manifest(
            d,
            "name = 'mine'",
            &format!("name = 'mine'\nsha256.'trian.face.npy' = '{sum}'"),
        )
    });
    assert!(
        message.ends_with(
            "sha256.\"trian.face.npy\": no array of this data set is read from such a file, did you mean `train.face.npy`?"
        ),
        "{message}"
    );
}

#[test]
fn values_are_finite_as_they_are_used() -> Outcome {
    let huge = |file: &str| {
        let values = [1e300f64, 0., 0., 0., 0., 0., 0., 0., 0.].map(f64::to_le_bytes);
        write_npy(
            fs::File::create(file).expect("there"),
            "<f8",
            &[3, 1, 3],
            values.into_iter().flatten(),
        )
        .expect("there");
    };
    let message = refused(|d| huge(&d.join("report.voice.npy").to_string_lossy()));
    assert!(
        message.ends_with("row 0 holds inf; every value must be finite as f32, after `divide`"),
        "{message}"
    );
    let message = refused(|d| {
        manifest(d, "shape = [1, 3]", "shape = [1, 3]\ndivide = 1e-37");
        f32s(
            &d.join("report.voice.npy"),
            &[3, 1, 3],
            &[0., 0., 0., 0., 0., 0., 0., 0., 99.],
        );
        f32s(&d.join("train.voice.npy"), &[3, 1, 3], &[0.; 9]);
        f32s(&d.join("select.voice.npy"), &[3, 1, 3], &[0.; 9]);
    });
    assert!(
        message.contains("report.voice.npy: row 2 holds inf"),
        "{message}"
    );
    Ok(())
}

#[cfg(unix)]
#[test]
fn what_is_no_file_is_refused_before_it_is_read() {
    let replaced = |file: &str, by: &dyn Fn(&Path)| {
        refused(|d| {
            fs::remove_file(d.join(file)).expect("there");
            by(&d.join(file));
        })
    };
    let fifo = |path: &Path| {
        assert!(
            std::process::Command::new("mkfifo")
                .arg(path)
                .status()
                .is_ok_and(|s| s.success())
        )
    };
    for file in ["dataset.toml", "train.face.npy", "report.labels.npy"] {
        assert!(replaced(file, &fifo).ends_with(&format!("{file}: is a FIFO, expected a file")));
        let message = replaced(file, &|path| fs::create_dir(path).expect("there"));
        assert!(
            message.ends_with(&format!("{file}: is a directory, expected a file")),
            "{message}"
        );
        let message = replaced(file, &|path| {
            std::os::unix::fs::symlink(path, path).expect("there")
        });
        assert!(
            message.contains(file) && message.contains("symbolic links"),
            "{message}"
        );
    }
}

#[test]
fn a_failed_write_leaves_nothing() -> Outcome {
    let dir = tempfile::tempdir()?;
    // A file name too long for any file system: fails in the middle of writing.
    let long = "m".repeat(300);
    let manifest = Manifest::new(
        "w",
        ["a"],
        vec![
            ModalitySpec::new("ok", &[1]),
            ModalitySpec::new(&long, &[1]),
        ],
    );
    let array = || Array::floats(&[1], vec![1.]).expect("whole");
    let samples = Samples {
        arrays: vec![array(), array()],
        pairing: Pairing::Rows { labels: vec![0] },
    };
    let data = DataSet::new(manifest, samples.clone(), samples.clone(), samples)?;
    let message = write_dataset(&data, dir.path().join("set"), false)
        .expect_err("fails")
        .to_string();
    assert!(message.contains("can't write"), "{message}");
    assert_eq!(fs::read_dir(dir.path())?.count(), 0);

    fs::write(dir.path().join("file"), "x")?;
    let message = write_dataset(&data, dir.path().join("file/set"), false)
        .expect_err("fails")
        .to_string();
    assert!(message.contains("file: can't write: "), "{message}");
    assert_eq!(fs::read_dir(dir.path())?.count(), 1);
    Ok(())
}

proptest! {
    /// Random and damaged descriptions never panic, and every message is one line.
    #[test]
    fn descriptions_never_panic(at in 0usize..MINIMAL.len(), byte in 32u8..127, text in "\\PC{0,60}", cut in 0usize..MINIMAL.len()) {
        let mut changed = MINIMAL.as_bytes().to_vec();
        changed[at] = byte;
        let changed = String::from_utf8(changed).expect("ASCII");
        for text in [&changed, &text, &MINIMAL[..cut], &format!("{MINIMAL}{text}")] {
            if let Err(e) = Manifest::parse(text) {
                prop_assert!(!e.to_string().contains('\n'), "{}", e);
            }
        }
    }
}
