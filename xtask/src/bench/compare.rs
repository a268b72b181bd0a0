//! Runs both sides of the cases in turn, so that both meet the machine as it is. Knows neither
//! flags nor arithmetic.
use super::case::{self, Case};
use super::measure::{Programs, measure, processor};
use super::output::write;
use super::verdict::{LAYOUTS, Round, Verdict, milliseconds, table};
use crate::Failed;
use crate::say::say;
use anyhow::Result;
use serde_json::{Value, json};
use std::path::Path;

/// Times `cases` and tells how they came out; into `out` too, if there is one.
///
/// # Errors
/// If our programs can't be built, a case fails (the others are still timed), or files can't be
/// written.
pub fn run(
    cases: &[&'static Case],
    python: &Path,
    rounds: u32,
    threads: u32,
    out: Option<&Path>,
) -> Result<()> {
    let programs = case::build(cases)?;
    let (mut verdicts, mut records, mut failed) = (vec![], vec![], vec![]);
    for case in cases {
        match timed(case, &programs, python, rounds, threads) {
            Ok(rounds) => {
                let verdict = Verdict::new(case.name, case.target, &rounds);
                say(&verdict.text())?;
                records.push(verdict.json(&rounds));
                verdicts.push(verdict);
            }
            Err(error) => {
                eprintln!("{} failed: {error:#}", case.name);
                failed.push(case.name);
            }
        }
        // After each case: an interrupted run keeps what it has measured.
        if let Some(out) = out {
            store(out, &records, &verdicts, rounds, threads)?;
        }
    }
    if !verdicts.is_empty() {
        say(&format!("\n{}", table(&verdicts)))?;
    }
    if let Some(out) = out {
        say(&format!(
            "\n{} and bench.md have the results\n",
            out.join("bench.json").display()
        ))?;
    }
    match failed.len() {
        0 => Ok(()),
        _ => Err(Failed(format!(
            "{} of {} cases failed: {}",
            failed.len(),
            cases.len(),
            failed.join(", ")
        ))
        .into()),
    }
}

fn timed(
    case: &Case,
    programs: &Programs,
    python: &Path,
    rounds: u32,
    threads: u32,
) -> Result<Vec<Round>> {
    let mut all = vec![];
    for number in 1..=rounds {
        let ours = measure(&mut case.ours(programs, threads)?)?;
        let peer = |channels_last| measure(&mut case.peer(python, threads, channels_last));
        let round = Round {
            ours,
            peers: [peer(false)?, peer(true)?],
        };
        let [plain, last] = round.peers.each_ref().map(|peer| milliseconds(peer.median));
        say(&format!(
            "{} round {number} of {rounds}: ours {}, {} {plain}, {} {last}\n",
            case.name,
            milliseconds(round.ours.median),
            LAYOUTS[0],
            LAYOUTS[1]
        ))?;
        all.push(round);
    }
    Ok(all)
}

fn store(
    out: &Path,
    records: &[Value],
    verdicts: &[Verdict],
    rounds: u32,
    threads: u32,
) -> Result<()> {
    let record =
        json!({ "processor": processor(), "threads": threads, "rounds": rounds, "cases": records });
    write(&out.join("bench.json"), &format!("{record:#}\n"))?;
    write(&out.join("bench.md"), &table(verdicts))
}
