//! Whether runs that a table puts side by side were made on the same data. Knows what a summary
//! says of its data, not the data.
use super::plan::Run;
use anyhow::{Result, bail};
use serde_json::Value;
use std::collections::BTreeMap;

/// What a summary says of the data; equal for the same data.
const MARKS: &[(&str, &str)] = &[
    ("report_sha256", "report split"),
    ("select_sha256", "selection split"),
    ("train_sha256", "training split"),
    ("baselines_sha256", "stand-ins for missing modalities"),
    ("units", "units of distances"),
    ("classes", "classes"),
    ("modalities", "modalities"),
    ("data", "name"),
];
/// The built-in data set, which the seed determines.
pub const BUILT_IN: &str = "synthetic";

/// Refuses runs that ask for the same data and had others: what was prepared anew, or edited,
/// between two of them.
///
/// # Errors
/// The first such runs, by name, what differs, and what to do.
pub fn same(finished: &[(&Run, &Value)]) -> Result<()> {
    let mut asked: BTreeMap<Vec<String>, Vec<(&Run, &Value)>> = BTreeMap::new();
    for &(run, summary) in finished {
        asked
            .entry(determinants(run))
            .or_default()
            .push((run, summary));
    }
    for runs in asked.values() {
        for (mark, what) in MARKS {
            let mut groups: Vec<(&Value, Vec<&str>)> = vec![];
            for (run, summary) in runs {
                // An older run may not say.
                let Some(value) = summary.get(mark).filter(|value| value.as_str() != Some(""))
                else {
                    continue;
                };
                match groups.iter_mut().find(|(other, _)| *other == value) {
                    Some((_, names)) => names.push(&run.slug),
                    None => groups.push((value, vec![&run.slug])),
                }
            }
            if groups.len() > 1 {
                let list = groups
                    .iter()
                    .map(|(_, names)| format!("\n  {}", names.join(", ")));
                bail!(
                    "the data changed between these runs ({what}), so they have no mean; on the same data were:{}\n\
                     move the folders of the outdated ones away and give the command again",
                    list.collect::<String>()
                );
            }
        }
    }
    Ok(())
}

/// The settings that say which data a run has.
fn determinants(run: &Run) -> Vec<String> {
    let built_in = run
        .settings
        .get("data")
        .is_none_or(|data| data.as_str() == Some(BUILT_IN));
    let settings = run.settings.iter().filter(|(key, _)| match key.as_str() {
        "data" | "modalities" => true,
        "seed" => built_in,
        key => built_in && key.starts_with("synthetic."),
    });
    settings
        .map(|(key, value)| format!("{key} = {value}"))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::super::plan::expand;
    use super::super::spec::Spec;
    use super::*;
    use serde_json::json;

    fn judged(data: &str, summaries: &[Value]) -> Result<()> {
        let text = format!(
            "name = \"t\"\n[base]\ndata = \"{data}\"\n[grid]\nmethod = [\"jt\", \"at\"]\nseed = [0, 1]\n"
        );
        let runs = expand(&Spec::parse(&text, false).expect("a good sweep"));
        same(&runs.iter().zip(summaries).collect::<Vec<_>>())
    }

    #[test]
    fn runs_on_other_data_are_named() {
        let on =
            |report: &str, classes: &[&str]| json!({"report_sha256": report, "classes": classes});
        let same = on("1", &["a", "b"]);
        assert!(judged("d", &[same.clone(), same.clone(), same.clone()]).is_ok());
        let (mut near, mut far) = (same.clone(), same.clone());
        (near["units"], far["units"]) = (json!({"a": 1}), json!({"a": 2}));
        assert!(
            judged("d", &[near, far]).is_err(),
            "the same arrays, measured by another unit"
        );
        for other in [on("2", &["a", "b"]), on("1", &["b", "a"])] {
            let error = judged("d", &[same.clone(), other, same.clone()])
                .expect_err("the second differs")
                .to_string();
            let groups: Vec<&str> = error
                .lines()
                .filter(|line| line.starts_with("  "))
                .collect();
            assert!(
                groups[0].contains("jt_seed-0") && groups[0].contains("at_seed-0"),
                "{error}"
            );
            assert!(
                groups[1].contains("jt_seed-1") && !groups[1].contains(','),
                "{error}"
            );
        }
        assert!(
            judged(
                "d",
                &[same.clone(), json!({"report_sha256": ""}), json!({})]
            )
            .is_ok(),
            "what is not said"
        );
    }

    #[test]
    fn the_built_in_data_are_other_data_for_each_seed() {
        let on = |report: &str| json!({"report_sha256": report});
        assert!(judged("synthetic", &[on("0"), on("1"), on("0"), on("1")]).is_ok());
        assert!(
            judged("synthetic", &[on("0"), on("1"), on("2"), on("1")]).is_err(),
            "seed 0 of two methods"
        );
        assert!(judged("prepared/digits", &[on("0"), on("1")]).is_err());
    }

    #[test]
    fn the_drivers_summary_has_these_marks() {
        let record = include_str!("../../../crates/crmt-driver/src/record.rs");
        for (mark, _) in MARKS {
            assert!(
                record.contains(&format!("pub {mark}: ")),
                "record.rs has no field {mark}"
            );
        }
    }
}
