//! The tour: what a newcomer sees first. JT, CRMT and certified CRMT on the built-in data, side by
//! side. Does not know anything that `train` does not.
use crate::{
    comparison,
    people::Voice,
    pipeline::train_and_measure,
    printing::{named, tell},
    report,
    run_dir::{REPORT, RunDir, write_file},
    settings::Settings,
    verdict::Verdict,
};
use anyhow::Result;
use crmt_kernels::Compute;
use std::path::Path;

/// What is trained, with what beyond [`SETTINGS`].
const METHODS: [(&str, &[&str]); 3] = [
    ("jt", &[]),
    ("crmt-jt", &[]),
    // The drawn digits are noisy, so classes are nearer to each other than those of real ones.
    (
        "crmt-certified",
        &[
            "train.epochs=8",
            "certified.eps=0.7",
            "certified.kappa=8",
            "step2.accept_eps=0.5",
        ],
    ),
];

/// Small enough for minutes on two cores; everything else is the default.
const SETTINGS: &[&str] = &[
    "data=synthetic",
    "train.epochs=6",
    "train.samples=5000",
    "evaluate.samples=100",
    "certify.samples=500",
];

/// Trains, attacks and reports every method under `runs/tour`.
pub fn run(device: Option<Compute>, json: bool, voice: &Voice) -> Result<Verdict> {
    voice.say(
        "The tour: audio-visual digits, drawn and synthesised here. First joint training (JT), then CRMT, then\n\
         certified CRMT on the same data. Each is attacked on all modalities together and on each alone. Three to\n\
         four minutes on two cores.",
    );
    let root = Path::new("runs/tour");
    for (method, own) in METHODS {
        let mut settings = Settings::default();
        SETTINGS
            .iter()
            .chain(own)
            .try_for_each(|s| settings.read_assignment(s))?;
        settings.set("method", method.into(), "the tour".into());
        device.iter().for_each(|device| {
            settings.set("device", device.to_string().into(), "--device".into())
        });
        train_and_measure(&settings.resolve()?.plan, &root.join(method), true, voice)?;
    }
    let dirs = METHODS
        .iter()
        .map(|(method, _)| RunDir::look(&root.join(method)))
        .collect::<Result<Vec<_>>>()?;
    let records = comparison::read(&dirs)?;
    let out = root.join(REPORT);
    write_file(&out, report::render(&records)?.as_bytes())?;
    voice.say(
        "\nThe first two networks have no useful proved bound, so their radii are estimates; the third's are theorems.\n\
         Try to break them:  cargo run -- certify runs/tour/crmt-certified --falsify\n\
         Every option: cargo run -- train --help. Real data: docs/datasets.md.",
    );
    tell(
        &named(&comparison::names_of(&records), &records),
        json,
        voice,
        &out,
    )
}
