//! Certified training on samples of every shape: the documented set of features, a clip, and more
//! axes. Knows what a user sees, not which layers an encoder has.
use super::{Anyhow, driver, json, train};
use crmt_core::Streams;
use crmt_data::{Array, DataSet, Manifest, ModalitySpec, Pairing, Samples, write_dataset};
use rand::Rng;
use std::path::Path;

/// Names and shapes of modalities.
pub type Shapes<'a> = &'a [(&'a str, &'a [usize])];

/// Two classes whose samples are at 0 and 1 in every element, and noise.
pub fn write(to: &Path, modalities: Shapes) -> Anyhow {
    let mut rng = Streams::new(4).stream("samples", 0);
    let mut split = |n: usize| -> anyhow::Result<Samples> {
        let labels: Vec<u32> = (0..n as u32).map(|i| i % 2).collect();
        let mut array = |shape: &[usize]| {
            let len: usize = shape.iter().product();
            let values = labels.iter().flat_map(|k| vec![*k as f32; len]);
            Array::floats(
                shape,
                values.map(|v| v + rng.random_range(-1.5..1.5)).collect(),
            )
        };
        let arrays = modalities
            .iter()
            .map(|(_, shape)| array(shape))
            .collect::<Result<_, _>>()?;
        Ok(Samples {
            arrays,
            pairing: Pairing::Rows { labels },
        })
    };
    let specs = modalities
        .iter()
        .map(|(name, shape)| ModalitySpec::new(*name, shape))
        .collect();
    let data = DataSet::new(
        Manifest::new("mine", ["cat", "dog"], specs),
        split(120)?,
        split(40)?,
        split(40)?,
    )?;
    write_dataset(&data, to, false)?;
    Ok(())
}

#[test]
fn certified_training_takes_every_shape() -> Anyhow {
    let dir = tempfile::tempdir()?;
    let sets: [(&str, Shapes); 2] = [
        ("documented", &[("face", &[512]), ("voice", &[1, 40])]),
        (
            "more-axes",
            &[("clip", &[1, 3, 6, 5]), ("event", &[1, 2, 2, 3, 1])],
        ),
    ];
    for (name, modalities) in sets {
        write(&dir.path().join(name), modalities)?;
        let data = format!("data={name}");
        let small = [
            "model.lipschitz_width=4",
            "model.lipschitz_hidden=[8]",
            "train.epochs=6",
            "evaluate.eps=0.2,1",
        ];
        train(
            dir.path(),
            "crmt-certified",
            &format!("of-{name}"),
            small.iter().copied().chain([&*data]),
        )
        .assert()
        .success();
        let run = dir.path().join(format!("of-{name}"));
        driver(dir.path())
            .arg("certify")
            .arg(&run)
            .args(["--falsify", "-q"])
            .assert()
            .success();
        let summary = json(run.join("summary.json"))?;
        assert_eq!(summary["violations"], 0, "{name}");
        let certified = summary["certified"].as_array().expect("a list");
        assert!(
            certified.iter().all(|c| c["evidence"] == "proved"),
            "{name}: by construction"
        );
        let of = |threat: &str| {
            certified
                .iter()
                .find(|c| c["threat"] == threat && c["eps"] == 0.2)
                .expect("told")
        };
        for threat in ["joint", modalities[0].0, modalities[1].0] {
            assert!(
                of(threat)["accuracy"].as_f64() > Some(0.2),
                "{name}, {threat}: {}",
                of(threat)
            );
        }
        let falsified = summary["falsification"].as_array().expect("a list");
        assert!(
            falsified.iter().any(|f| f["samples"].as_u64() > Some(5)),
            "{name}"
        );
    }
    Ok(())
}
