//! The tour: what a newcomer sees first. JT and CRMT on the built-in data, side by side.
//! Does not know anything that `train` does not.
use crate::{
    Verdict,
    commands::{tell, train_and_measure},
    people::Voice,
    report,
    run::read_record,
    run_dir::{REPORT, RunDir, write_file},
    settings::Settings,
};
use anyhow::Result;
use std::path::Path;

const METHODS: [&str; 2] = ["jt", "crmt-jt"];

/// Small enough for minutes on two cores; everything else is the default.
const SETTINGS: &[&str] =
    &["data=synthetic", "train.epochs=6", "train.samples=6000", "evaluate.samples=200", "certify.samples=1000"];

/// Trains, attacks and reports both methods under `runs/tour`.
pub fn run(json: bool, voice: &Voice) -> Result<Verdict> {
    voice.say(
        "The tour: audio-visual digits, drawn and synthesised here. First joint training (JT), then CRMT on the\n\
         same data. Each is attacked on all modalities together and on each alone. Under three minutes on two cores.",
    );
    let root = Path::new("runs/tour");
    for method in METHODS {
        let mut settings = Settings::default();
        SETTINGS.iter().try_for_each(|s| settings.read_assignment(s))?;
        settings.set("method", method.into(), "the tour".into());
        train_and_measure(&settings.resolve()?.plan, &root.join(method), true, voice)?;
    }
    let records = METHODS.map(|method| RunDir::open(&root.join(method)).and_then(|dir| read_record(&dir)));
    let records = records.into_iter().collect::<Result<Vec<_>>>()?;
    let out = root.join(REPORT);
    write_file(&out, report::render(&records)?.as_bytes())?;
    voice.say(
        "\nThese networks have no useful proved bound, so their radii are estimates. For certificates:\n  \
         cargo run -- train --method crmt-certified\n\
         Every option: cargo run -- train --help. Real data: docs/datasets.md.",
    );
    tell(&records.iter().map(|r| &r.summary).collect::<Vec<_>>(), json, voice, &out)
}
