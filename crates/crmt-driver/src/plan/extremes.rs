//! A test that tries extreme values of every setting: each is refused by name, or a model can be
//! built with it. Does not know what any setting does.
use super::schema::{OPEN, settings};
use crate::{settings::Settings, training};
use crmt_certify::Smoothing;
use crmt_core::PerModality;
use crmt_data::{Array, DataSet, Manifest, ModalitySpec, Pairing, Samples};
use std::panic::{AssertUnwindSafe, catch_unwind};

const VALUES: &[&str] = &[
    "0",
    "1",
    "-1",
    "-0.0",
    "nan",
    "inf",
    "-inf",
    "1e300",
    "-1e300",
    "1e-300",
    "5e-324",
    "1e39",
    "18446744073709551615",
    "18446744073709551616",
    "9223372036854775807",
    "9223372036854775808",
    "4294967296",
    "",
    "[]",
    "''",
    "true",
    "a,a",
    "left,left",
    "0.1,0.1",
    ".5",
    "[.5, 1.]",
    "[[1]]",
    "{a = 1}",
    "\u{1b}[31m\u{202e}",
];

/// Settings that are read elsewhere: where the data are, which of them, on what device.
const ELSEWHERE: &[&str] = &["data", "modalities", "device"];

fn tiny() -> DataSet {
    let specs = vec![
        ModalitySpec::new("left", &[3]),
        ModalitySpec::new("right", &[1, 8, 8]),
    ];
    let rows = 12;
    let array = |spec: &ModalitySpec| {
        let values = rows * spec.shape.iter().product::<usize>();
        Array::floats(&spec.shape, (0..values).map(|i| (i as f32).sin()).collect()).unwrap()
    };
    let samples = Samples {
        arrays: specs.iter().map(array).collect(),
        pairing: Pairing::Rows {
            labels: (0..rows as u32).map(|i| i % 3).collect(),
        },
    };
    let manifest = Manifest::new("tiny", ["a", "b", "c"], specs);
    DataSet::new(manifest, samples.clone(), samples.clone(), samples).unwrap()
}

/// What a value of a setting leads to: an error, or a model and a smoothing.
fn tried(data: &DataSet, method: &str, key: &str, value: &str) -> Result<(), String> {
    let mut settings = Settings::default();
    // As an experiment on so few samples must be; the rest are the defaults.
    for small in [
        "train.batch=4",
        "model.cnn_depth=2",
        "model.cnn_width=4",
        "step2.batch=4",
    ] {
        settings.read_assignment(small).unwrap();
    }
    settings.set("method", method.into(), "test".into());
    settings.read_assignment(&format!("{key}={value}")).unwrap();
    let attempt = || -> anyhow::Result<()> {
        let plan = settings.resolve()?.plan;
        training::build(&plan, data)?;
        let smooth = &plan.smooth;
        Smoothing::new(PerModality::from([smooth.sigma]))?
            .draws(smooth.selection_draws, smooth.draws)
            .alpha(smooth.alpha)?;
        Ok(())
    };
    let outcome = catch_unwind(AssertUnwindSafe(attempt));
    outcome
        .unwrap_or_else(|_| panic!("{key}={value} with {method} panics"))
        .map_err(|e| format!("{e:#}"))
}

#[test]
fn extreme_values_of_every_setting_are_refused_by_name_or_can_be_used() {
    let data = tiny();
    let long = vec!["0.5"; 100_000].join(",");
    let (mut refused, mut used, mut unclear) = (0, 0, vec![]);
    let last = |key: &str| key.rsplit('.').next().unwrap_or_default().to_owned();
    for setting in settings()
        .iter()
        .filter(|s| !ELSEWHERE.contains(&s.key.as_str()))
    {
        let table = setting.key.strip_suffix(OPEN).unwrap_or(&setting.key);
        let key = setting.key.replace(OPEN, ".left");
        for method in ["crmt-jt", "crmt-certified"] {
            for value in VALUES.iter().chain([&long.as_str()]) {
                let Err(message) = tried(&data, method, &key, value) else {
                    used += 1;
                    continue;
                };
                refused += 1;
                let unseen =
                    message.contains(|c: char| c.is_control() && c != '\n' || c == '\u{202e}');
                if unseen || !(message.contains(&last(&key)) || message.contains(&last(table))) {
                    let shown = message.chars().take(200).collect::<String>();
                    unclear.push(format!("{key}={value:.40} with {method}: {shown:?}"));
                }
            }
        }
    }
    assert!(
        unclear.is_empty(),
        "{} messages do not name the setting:\n{}",
        unclear.len(),
        unclear.join("\n")
    );
    // Most of these values are of no use to most settings, and some are.
    assert!(
        refused > 1000 && used > 300,
        "{refused} refused, {used} used"
    );
}
