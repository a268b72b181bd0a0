//! Results on the terminal, and how a command that printed them ends. Does not know how tables are
//! laid out.
use crate::{
    people::Voice,
    record::Summary,
    report::RunRecord,
    tables::{self, Named},
    terminal,
    verdict::Verdict,
};
use anyhow::Result;
use serde::Serialize;
use std::path::Path;

/// Results under the names of their runs.
pub fn named<'a>(names: &'a [String], records: &'a [RunRecord]) -> Vec<Named<'a>> {
    names
        .iter()
        .zip(records)
        .map(|(name, record)| (name.as_str(), &record.summary))
        .collect()
}

/// Prints results to stdout, and where the report is; decides how the program ends.
pub fn tell(runs: &[Named<'_>], json: bool, voice: &Voice, report: &Path) -> Result<Verdict> {
    let below =
        |table: Option<String>| table.map_or_else(String::new, |table| format!("\n{table}"));
    let text = [
        format!("\n{}", tables::modality_table(runs)),
        below(tables::baselines(runs)),
        below(tables::attacks(runs)),
        below(Some(tables::sandwich(runs))),
        below(tables::corruptions(runs)),
        below(tables::smoothed(runs)),
    ];
    let summaries: Vec<&Summary> = runs.iter().map(|(_, run)| *run).collect();
    answer(&text.concat(), &summaries, json, voice)?;
    for (run, warning) in runs
        .iter()
        .flat_map(|(name, run)| run.warnings.iter().map(move |w| (name, w)))
    {
        voice.say(format!("warning: {run}: {warning}"));
    }
    voice.say(format!("report: {}", report.display()));
    verdict(runs)
}

/// People's text on stdout, or one JSON document of all `runs` there and the text on stderr.
pub fn answer<T: Serialize>(text: &str, runs: &[T], json: bool, voice: &Voice) -> Result<()> {
    if !json {
        return terminal::out(&format!("{text}\n"));
    }
    voice.say(text);
    let document = match runs {
        [run] => serde_json::to_string_pretty(run)?,
        _ => serde_json::to_string_pretty(runs)?,
    };
    terminal::out_json(&(document + "\n"))
}

/// A violation is a failed check.
pub fn verdict(runs: &[Named<'_>]) -> Result<Verdict> {
    let violations: u64 = runs
        .iter()
        .fold(0, |all, (_, run)| all.saturating_add(run.violations));
    for judged in runs
        .iter()
        .filter_map(|(_, run)| run.smoothing.as_ref()?.judged.as_ref())
        .filter(|j| j.violations > 0)
    {
        terminal::err(&format!(
            "error: {} of {} certificates of the smoothed network fell, which chance does less than once in a million runs",
            judged.fell, judged.samples
        ));
    }
    if violations > 0 {
        terminal::err(&format!(
            "error: {violations} attacks succeeded inside a certified radius: this is a bug of this program"
        ));
        return Ok(Verdict::Broken);
    }
    Ok(Verdict::Fine)
}
