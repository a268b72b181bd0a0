//! What other programs read: predictions as arrays, and weights in PyTorch. Needs a Python with
//! PyTorch for the latter: what `CRMT_PYTHON` names, or `python3`; says so when it has none.
use super::{Anyhow, driver, features, json, refused, shapes, train};
use crmt_data::{Npy, NpyValues, SyntheticOptions, synthetic, write_dataset};
use safetensors::SafeTensors;
use std::{fs, io::Read as _, path::Path, process::Command};

/// An f32 tensor of a file.
fn floats(bytes: &[u8], name: &str) -> anyhow::Result<(Vec<usize>, Vec<f32>)> {
    let file = SafeTensors::deserialize(bytes)?;
    let tensor = file.tensor(name)?;
    let values = tensor
        .data()
        .chunks_exact(4)
        .map(|b| f32::from_le_bytes(b.try_into().expect("4 bytes")));
    Ok((tensor.shape().to_vec(), values.collect()))
}

fn integers(bytes: &[u8], name: &str) -> anyhow::Result<Vec<i64>> {
    let file = SafeTensors::deserialize(bytes)?;
    let data = file.tensor(name)?.data().to_vec();
    Ok(data
        .chunks_exact(8)
        .map(|b| i64::from_le_bytes(b.try_into().expect("8 bytes")))
        .collect())
}

#[test]
fn predictions_are_saved_without_attacking_again() -> Anyhow {
    let dir = tempfile::tempdir()?;
    features(&dir.path().join("f"), 80)?;
    train(dir.path(), "jt", "r", ["data=f", "model.encoder=linear"])
        .assert()
        .success();
    let before = json(dir.path().join("r/summary.json"))?;
    let save = |file: &str| {
        let mut command = driver(dir.path());
        command.args(["evaluate", "r", "--save-predictions", file]);
        command
    };
    let told = save("p.safetensors")
        .assert()
        .success()
        .get_output()
        .stderr
        .clone();
    assert!(String::from_utf8(told)?.contains("predictions: p.safetensors"));
    let after = json(dir.path().join("r/summary.json"))?;
    assert_eq!(
        (&after["attacks"], &after["stages"]),
        (&before["attacks"], &before["stages"])
    );
    let bytes = fs::read(dir.path().join("p.safetensors"))?;
    let (shape, logits) = floats(&bytes, "logits")?;
    assert_eq!(shape, [80, 2]);
    let predictions = integers(&bytes, "prediction")?;
    let mut table = csv::Reader::from_path(dir.path().join("r/samples.csv"))?;
    for (i, (record, label)) in table.records().zip(integers(&bytes, "label")?).enumerate() {
        let record = record?;
        assert_eq!(
            (&record[1], &record[2]),
            (&*label.to_string(), &*predictions[i].to_string())
        );
        assert_eq!(predictions[i], i64::from(logits[2 * i + 1] > logits[2 * i]));
    }
    // Concatenated features: the logits are the sum of the scores and a bias, the same for every
    // sample.
    let scores: Vec<Vec<f32>> = ["left", "middle", "right"]
        .iter()
        .map(|m| Ok(floats(&bytes, &format!("scores.{m}"))?.1))
        .collect::<anyhow::Result<_>>()?;
    let bias = |i: usize| logits[i] - scores.iter().map(|s| s[i]).sum::<f32>();
    // f32 sums of numbers of size 10.
    assert!((0..160).all(|i| (bias(i) - bias(i % 2)).abs() < 1e-4));
    save("p.npy").assert().success();
    let npy = Npy::parse(&fs::read(dir.path().join("p.npy"))?)?;
    assert_eq!((npy.shape, npy.values), (shape, NpyValues::F32(logits)));
    save("p.npz").assert().success();
    let mut archive = zip::ZipArchive::new(fs::File::open(dir.path().join("p.npz"))?)?;
    assert_eq!(archive.len(), 6);
    assert!(String::from_utf8_lossy(archive.comment()).contains("\"method\":\"jt\""));
    let mut inside = |name: &str| -> anyhow::Result<Vec<u8>> {
        let mut bytes = vec![];
        archive.by_name(name)?.read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    assert_eq!(inside("logits.npy")?, fs::read(dir.path().join("p.npy"))?);
    let label = inside("label.npy")?;
    let own: Vec<u8> = integers(&bytes, "label")?
        .into_iter()
        .flat_map(i64::to_le_bytes)
        .collect();
    assert!(label.ends_with(&own) && label.starts_with(b"\x93NUMPY"));
    refused(
        &mut save("p.csv"),
        &["--save-predictions p.csv", ".safetensors", ".npz", ".npy"],
    );
    refused(&mut save("no/such/p.npy"), &["no/such/p"]);
    Ok(())
}

/// A Python that can import what the script needs.
fn python() -> Option<String> {
    let named = std::env::var("CRMT_PYTHON").ok();
    let python = named.clone().unwrap_or_else(|| "python3".into());
    let ran = Command::new(&python)
        .args(["-c", "import torch, numpy, safetensors, tomllib"])
        .output();
    let able = ran.as_ref().is_ok_and(|output| output.status.success());
    assert!(
        able || named.is_none(),
        "CRMT_PYTHON={python} can't import torch, numpy, safetensors and tomllib: {ran:?}"
    );
    able.then_some(python)
}

/// What the script computes for every report sample, against what this program does.
fn same_in_pytorch(python: &str, dir: &Path, run: &str, data: &str) -> Anyhow {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/python/load_weights.py");
    driver(dir)
        .args(["evaluate", run, "-q", "--save-predictions", "ours.npy"])
        .assert()
        .success();
    let output = Command::new(python)
        .current_dir(dir)
        .arg(script)
        .args([run, data, "theirs.npy"])
        .output()?;
    assert!(
        output.status.success(),
        "{run}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    let [ours, theirs] =
        ["ours.npy", "theirs.npy"].map(|file| Npy::parse(&fs::read(dir.join(file)).expect(file)));
    let (ours, theirs) = (ours?, theirs?);
    assert_eq!(ours.shape, theirs.shape, "{run}");
    let (NpyValues::F32(ours), NpyValues::F32(theirs)) = (ours.values, theirs.values) else {
        panic!("f32 expected")
    };
    let worst = ours
        .iter()
        .zip(&theirs)
        .map(|(a, b)| (a - b).abs())
        .fold(0.0, f32::max);
    let size = ours.iter().fold(0.0, |a: f32, b| a.max(b.abs()));
    println!("{run}: logits up to {size} differ by at most {worst:e}");
    // f32 sums in another order over a few layers: 1e-6 of logits of size 10. A wrong layer differs
    // by far more.
    assert!(worst < 1e-4 && size > 0.01, "{run}: {worst}");
    Ok(())
}

#[test]
fn weights_load_in_pytorch_by_name() -> Anyhow {
    let Some(python) = python() else {
        println!("skipped: no Python with PyTorch; name one in CRMT_PYTHON");
        return Ok(());
    };
    let dir = tempfile::tempdir()?;
    let options = SyntheticOptions {
        train: 200,
        select: 60,
        report: 60,
        ..SyntheticOptions::default()
    };
    write_dataset(&synthetic(&options)?, dir.path().join("d"), false)?;
    let run = |method: &str, name: &str, settings: &[&str]| -> Anyhow {
        let settings = settings.iter().copied().chain([
            "data=d",
            "train.epochs=4",
            "train.learning_rate=0.01",
        ]);
        train(dir.path(), method, name, settings).assert().success();
        same_in_pytorch(&python, dir.path(), name, "d")
    };
    // Concatenated features, with and without normalisation; orthonormal rows; the released code's
    // rows; a memory; 1-Lipschitz.
    run("jt", "jt", &["model.batch_norm=true"])?;
    run(
        "jt",
        "mlp",
        &[
            "model.batch_norm=false",
            "model.encoders.audio=mlp",
            "model.encoders.image=linear",
        ],
    )?;
    run("crmt-jt", "crmt", &[])?;
    run(
        "crmt-jt",
        "unit",
        &["model.head=unit-rows", "model.batch_norm=false"],
    )?;
    run("msefm", "memory", &[])?;
    let small = ["model.lipschitz_width=4", "model.lipschitz_hidden=16"];
    run("crmt-certified", "certified", &small)?;
    // A signal, a clip and more axes.
    let shapes: shapes::Shapes = &[
        ("signal", &[2, 13]),
        ("clip", &[1, 3, 6, 5]),
        ("event", &[1, 2, 2, 3, 1]),
    ];
    shapes::write(&dir.path().join("axes"), shapes)?;
    let settings = small.into_iter().chain(["data=axes", "train.epochs=4"]);
    train(dir.path(), "crmt-certified", "shapes", settings)
        .assert()
        .success();
    same_in_pytorch(&python, dir.path(), "shapes", "axes")
}
