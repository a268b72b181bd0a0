//! What data or settings spoil before any work: told and kept, or refused by name.
//! Knows what a user sees, not where it is checked.
use super::{Anyhow, driver, features, json, refused, train};
use std::fs;

#[test]
fn what_data_leave_in_doubt_is_told_and_kept() -> Anyhow {
    let dir = tempfile::tempdir()?;
    // Its three splits are the same samples.
    features(&dir.path().join("f"), 40)?;
    // No sample of the second class is left to train on; the digest would notice the change.
    let toml = fs::read_to_string(dir.path().join("f/dataset.toml"))?;
    fs::write(
        dir.path().join("f/dataset.toml"),
        toml.split("[sha256]").next().unwrap_or_default(),
    )?;
    let labels = dir.path().join("f/train.labels.npy");
    let mut bytes = fs::read(&labels)?;
    let header = bytes.len() - 40 * 4;
    bytes[header..].fill(0);
    fs::write(&labels, bytes)?;
    let output = train(dir.path(), "jt", "r", ["data=f", "evaluate.samples=4"])
        .assert()
        .success()
        .get_output()
        .clone();
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    let kept = json(dir.path().join("r/summary.json"))?["warnings"].to_string();
    for doubt in [
        "class `yes` is never in the training split",
        "the training split has samples of one class only",
        "40 of 40 report samples are training samples",
    ] {
        assert!(
            told.contains(&format!("warning: {doubt}")) && kept.contains(doubt),
            "{doubt}: {told}\n{kept}"
        );
    }

    let certify = |args: &[&str], parts: &[&str]| {
        refused(driver(dir.path()).args(["certify", "r"]).args(args), parts)
    };
    certify(
        &["--smooth", "left=1,left=2,middle=1,right=1"],
        &["left is named twice"],
    );
    certify(
        &["--smooth", "1", "--draws", "9"],
        &["smooth.draws = 9", "at least 10 are needed"],
    );
    certify(
        &["--smooth", "1", "--draws", "11", "--missing"],
        &["shared by 4 certificates", "at least 12 are needed"],
    );
    for huge in ["9223372036854775807", "18446744073709551615"] {
        certify(
            &["--smooth", "1", "--draws", huge],
            &["smooth.draws", huge, "from 1 to 1000000000"],
        );
        certify(&["--falsify", "--steps", huge], &["falsify.steps", huge]);
    }
    let evaluate = |args: &[&str], parts: &[&str]| {
        refused(driver(dir.path()).args(["evaluate", "r"]).args(args), parts)
    };
    evaluate(
        &["--seed", "18446744073709551615"],
        &["evaluate.seed", "9223372036854775807"],
    );
    evaluate(&["--eps", "1e300"], &["evaluate.eps", "1e9"]);
    evaluate(
        &["--samples", "18446744073709551615"],
        &["evaluate.samples"],
    );
    Ok(())
}
