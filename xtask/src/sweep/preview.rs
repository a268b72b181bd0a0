//! `cargo xtask sweep --dry-run`: what would run and what it costs, checked as before running.
//! Writes nothing into the sweep's folder.
use super::args::{Args, cores};
use super::cost::{Basis, Costs, short};
use super::driver::driver;
use super::plan::Run;
use super::spec::Spec;
use super::standing::Sweep;
use super::{probe, rehearsal};
use crate::say::{say, tell};
use anyhow::Result;
use std::time::Duration;

/// Checks everything and says what would be done.
///
/// # Errors
/// As the sweep itself would, before it ran anything.
pub fn show(args: &Args, spec: &Spec, runs: &[Run]) -> Result<()> {
    let sweep = Sweep::look(spec, runs)?;
    let missing = sweep.missing();
    let waiting: Vec<&Run> = missing.iter().map(|(run, _)| *run).collect();
    let mut costs = sweep.costs();
    let mut probes = vec![];
    if !missing.is_empty() {
        let driver = driver(args)?;
        rehearsal::check(&driver, &waiting, &spec.out)?;
        if args.probe {
            for row in rehearsal::rows(&waiting)
                .iter()
                .filter(|row| costs.of(row[0]).is_none_or(|c| c.1 != Basis::Seeds))
            {
                tell(&format!("probing {}\n", row[0].slug));
                let probe = probe::measure(&driver, row[0], cores() / args.workers())?;
                probes.push((row[0], probe.seconds));
                tell(&format!("  {}\n", probe.how));
            }
        }
    }
    for (run, seconds) in probes {
        costs.learn(run, seconds);
    }
    for (run, state) in sweep.runs.iter().zip(&sweep.states) {
        let line = format!(
            "{state:<9} {}\n          {}\n",
            run.slug,
            run.command_line(state, &spec.out)
        );
        say(&line)?;
    }
    say(&bill(&waiting, runs.len(), &costs, args.workers()))
}

/// What the runs that remain cost, row by row and together.
fn bill(waiting: &[&Run], all: usize, costs: &Costs, workers: usize) -> String {
    let mut text = format!("\n{} of {all} runs remain\n", waiting.len());
    for row in rehearsal::rows(waiting) {
        let what = match costs.of(row[0]) {
            Some((seconds, basis)) => {
                let time = short(Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX));
                let from = if basis == Basis::Method {
                    ", as other runs of this method"
                } else {
                    ""
                };
                format!("about {time} each{from}")
            }
            None => "nothing like it was measured yet".to_owned(),
        };
        let label = row[0]
            .shown
            .iter()
            .map(|(key, value)| format!("{key} {value}"))
            .collect::<Vec<_>>()
            .join(", ");
        text += &format!("  {} × {label}: {what}\n", row.len());
    }
    text += &match costs.together(waiting.iter().copied(), workers) {
        _ if waiting.is_empty() => String::new(),
        Some((time, 0)) => format!("together about {}, {workers} at a time\n", short(time)),
        Some((time, unknown)) => {
            format!(
                "together about {}, {workers} at a time, if the {unknown} unknown ones are as the others; --probe measures them\n",
                short(time)
            )
        }
        None => {
            "what that costs is not known: --probe measures one epoch and a few attacked samples of each row\n".into()
        }
    };
    text
}

#[cfg(test)]
mod tests {
    use super::super::plan::expand;
    use super::*;

    #[test]
    fn the_bill_is_by_row_and_together() {
        let text = "name = \"t\"\n[grid]\nmethod = [\"jt\", \"at\"]\nseed = [0, 1, 2]\n";
        let runs = expand(&Spec::parse(text, false).expect("a good sweep"));
        let waiting: Vec<&Run> = runs[1..].iter().collect();
        let mut costs = Costs::default();
        let nothing = bill(&waiting, 6, &costs, 2);
        assert!(
            nothing.contains("5 of 6 runs remain") && nothing.contains("--probe measures"),
            "{nothing}"
        );
        costs.learn(&runs[0], 30.0);
        let some = bill(&waiting, 6, &costs, 2);
        assert!(some.contains("2 × method jt: about 30 s each\n"), "{some}");
        assert!(
            some.contains("3 × method at: nothing like it was measured yet"),
            "{some}"
        );
        assert!(
            some.contains("together about 75 s, 2 at a time, if the 3 unknown"),
            "{some}"
        );
        costs.learn(&runs[3], 300.0);
        assert!(
            bill(&waiting, 6, &costs, 2).contains("together about 8 min, 2 at a time\n"),
            "960 s by two"
        );
        assert!(bill(&[], 6, &costs, 2).contains("0 of 6 runs remain"));
    }
}
