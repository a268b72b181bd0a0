//! Damaged results: whatever is done to the files of a run, reading them ends in an error or in
//! results that can be shown, never in a panic. Does not know which damage is refused by what.
use crate::{
    people::Voice,
    record::Summary,
    report::{self, RunRecord},
    results,
    run_dir::{RunDir, SUMMARY, VOTES},
    samples, tables,
    votes::{Origin, Store},
};
use anyhow::Result;
use rand::{Rng, SeedableRng, rngs::StdRng};
use serde_json::{Value, json};

const ROUNDS: u64 = 400;

fn summary() -> Value {
    let evidence = json!({"threat": "joint", "evidence": "proved", "mean": 0.5, "quantiles": vec![0.5; 21],
        "vulnerability_share": null});
    let certified = json!({"threat": "joint", "eps": 0.5, "accuracy": 0.5, "evidence": "proved", "samples": 4,
        "attacked_samples": 0.5});
    let attack = json!({"name": "strongest", "threat": "joint", "norm": "l2", "eps": 0.5, "accuracy": 0.5, "clean": 0.75,
        "samples": 4});
    let value = json!({
        "method": "jt", "data": "d", "modalities": ["a", "b"], "classes": ["no", "yes"],
        "accuracy": {"clean": 0.75, "samples": 4, "missing": {"a": 0.5}, "solo": {"a": 0.5}},
        "attacks": [attack], "certified": [certified], "radii": [evidence],
        "nearest": [{"threat": "joint", "norm": "l2", "samples": 3, "found": 2, "median": 0.5, "split": {"a": 0.5, "b": 0.5}}],
        "falsification": [{"certificate": "joint", "evidence": "proved", "samples": 3, "violations": 0, "steps": 5,
            "mean_radius": 0.5, "tightness_samples": 1, "tightness_mean": 0.5, "tightness_max": 0.5}],
        "corruptions": [{"name": "blur", "modality": "a", "severity": 1, "accuracy": 0.5, "clean": 0.75, "samples": 4}],
        "smoothing": {"sigmas": {"a": 0.5, "b": 0.5}, "selection_draws": 10, "draws": 100, "alpha": 0.001,
            "alpha_each": 0.001, "samples": 4,
            "classifiers": [{"missing": "", "accuracy": 0.5, "abstained": 0.25, "mean_radius": 0.5,
                "certified": [certified], "radii": [evidence]}],
            "attacks": [{"threat": "joint", "eps": 0.5, "accuracy": 0.5, "draws": 10, "inside": 1, "fell": 0}]},
        "confusion": [[2, 0], [1, 1]], "weights": "00",
    });
    // Whatever else there is has its default.
    let mut whole = serde_json::to_value(Summary::default()).expect("JSON");
    let (entries, given) = (
        whole.as_object_mut().expect("an object"),
        value.as_object().expect("an object"),
    );
    entries.extend(given.clone());
    whole
}

/// Replaces one value by another of any size and kind.
fn damage(value: &mut Value, rng: &mut StdRng) {
    match value {
        Value::Array(items) if !items.is_empty() && rng.random_bool(0.9) => {
            let at = rng.random_range(0..items.len());
            match rng.random_range(0..6) {
                0 => drop(items.remove(at)),
                1 => items.push(items[at].clone()),
                _ => damage(&mut items[at], rng),
            }
        }
        Value::Object(entries) if !entries.is_empty() && rng.random_bool(0.95) => {
            let at = rng.random_range(0..entries.len());
            let key = entries.keys().nth(at).expect("one").clone();
            match rng.random_range(0..8) {
                0 => drop(entries.shift_remove(&key)),
                _ => damage(&mut entries[&key], rng),
            }
        }
        _ => {
            let large = json!([
                0,
                1,
                u64::MAX,
                1u64 << 63,
                -1,
                1e308,
                -0.0,
                1e-320,
                0.5,
                2.0
            ]);
            let others = json!([
                "inf",
                "NaN",
                "-inf",
                "",
                "joint",
                "estimated",
                "\u{202e}",
                null,
                true,
                [],
                {}
            ]);
            let all: Vec<&Value> = large
                .as_array()
                .into_iter()
                .chain(others.as_array())
                .flatten()
                .collect();
            *value = all[rng.random_range(0..all.len())].clone();
        }
    }
}

#[test]
fn a_damaged_summary_is_refused_or_can_be_shown() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let run = RunDir::create(dir.path(), false)?;
    let (mut shown, mut refused) = (0, 0);
    for seed in 0..ROUNDS {
        let mut rng = StdRng::seed_from_u64(seed);
        let mut value = summary();
        (0..rng.random_range(0..3)).for_each(|_| damage(&mut value, &mut rng));
        run.write(SUMMARY, &results::sealed_json(value)?)?;
        match results::summary(&run) {
            Err(error) => {
                refused += 1;
                let error = format!("{error:#}");
                assert!(error.contains("summary.json"), "{error}");
            }
            Ok(summary) => {
                shown += 1;
                let named = [("jt", &summary)];
                for text in [tables::sandwich(&named), tables::modality_table(&named)] {
                    assert!(!text.is_empty());
                }
                let _ = (
                    tables::attacks(&named),
                    tables::smoothed(&named),
                    tables::corruptions(&named),
                );
                tables::falsification(&summary);
                let page = report::render(&[RunRecord {
                    summary,
                    ..RunRecord::default()
                }])?;
                assert!(page.ends_with("</html>\n"));
            }
        }
    }
    assert!(
        shown > 50 && refused > 50,
        "{shown} shown, {refused} refused"
    );
    Ok(())
}

/// Flips, cuts, doubles and replaces bytes.
fn damaged(good: &[u8], rng: &mut StdRng) -> Vec<u8> {
    let mut bytes = good.to_vec();
    for _ in 0..rng.random_range(1..4) {
        let at = rng.random_range(0..bytes.len());
        match rng.random_range(0..5) {
            0 => bytes[at] ^= 1 << rng.random_range(0..8),
            1 => bytes.truncate(at.max(1)),
            2 => bytes[at] = b",\n\"0-9."[rng.random_range(0..7)],
            3 => {
                let part = bytes[at..bytes.len().min(at + 9)].to_vec();
                bytes.splice(at..at, part);
            }
            _ => drop(bytes.remove(at)),
        }
        if bytes.is_empty() {
            break;
        }
    }
    bytes
}

#[test]
fn damaged_rows_are_refused_by_name_or_read() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let path = dir.path().join("samples.csv");
    let good = "sample,label,prediction,radius.joint,evidence.joint,rival,vulnerability.a,shapley.a,pgd.joint.l2.0.5,\
                distance.joint.l2,by.joint.l2,spent.joint.l2.a\n\
                0,1,1,0.5,proved,0,1,0.25,held,,,\n1,0,0,inf,proved,1,1,-3,broken,0.125,fab-t,0.125\n";
    for seed in 0..4 * ROUNDS {
        let bytes = damaged(good.as_bytes(), &mut StdRng::seed_from_u64(seed));
        std::fs::write(&path, &bytes)?;
        match samples::read(&path, 2) {
            Err(error) => assert!(format!("{error:#}").contains("samples.csv"), "{error:#}"),
            Ok(rows) => drop(samples::to_csv(&rows)?),
        }
    }
    Ok(())
}

#[test]
fn damaged_votes_are_refused_by_name() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let run = RunDir::create(dir.path(), false)?;
    let (origin, voice) = (
        Origin::from([("seed".to_owned(), "0".to_owned())]),
        Voice::new(true),
    );
    let smoothing = crmt_certify::Smoothing::new(crmt_core::PerModality::from([1.0]))?;
    let votes = [smoothing.counted(0, vec![3, 1], vec![90, 10])];
    Store::open(&run, origin.clone(), &voice)?.save("", &votes)?;
    let good = run.read(VOTES)?;
    for seed in 0..ROUNDS {
        let bytes = damaged(good.as_bytes(), &mut StdRng::seed_from_u64(seed));
        run.write(VOTES, &bytes)?;
        match Store::open(&run, origin.clone(), &voice) {
            Err(error) => assert!(format!("{error:#}").contains("votes.json"), "{error:#}"),
            // Damage that changes nothing, such as an escape of the same letter.
            Ok(store) => assert_eq!(store.votes("", &smoothing, &[0]), votes),
        }
    }
    Ok(())
}
