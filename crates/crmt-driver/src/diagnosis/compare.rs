//! Diagnoses side by side: one line for each quantity and modality, one column for each run; and as
//! text. Does not compute anything, nor know HTML.
use super::quantities::{Diagnosis, OfModality, Spread};
use crate::{layout, report::distance};

/// One quantity of one modality.
#[derive(Debug, Clone, PartialEq)]
pub struct Line<'a> {
    /// The quantity.
    pub what: &'static str,
    /// Whose; `joint` for all modalities together.
    pub whose: &'a str,
    /// A value for each run; none where it has none.
    pub values: Vec<Option<Amount<'a>>>,
}

/// A value, by how it is shown.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Amount<'a> {
    /// A fraction, as a percentage.
    Part(f64),
    /// A ratio that rests on constants of this evidence.
    Ratio(f64, &'a str),
    /// A part that rests on constants of this evidence.
    Claimed(f64, &'a str),
    /// The values at 5, 50 and 95 %.
    Range([f64; 3]),
    /// A distance, with its evidence.
    Radius(f64, &'a str),
}

impl Amount<'_> {
    /// As text.
    pub fn text(&self) -> String {
        match self {
            Self::Part(value) | Self::Claimed(value, _) if value.is_finite() => {
                format!("{:.1} %", 100.0 * value)
            }
            Self::Part(_) | Self::Claimed(..) => "–".into(),
            Self::Ratio(value, _) | Self::Radius(value, _) => distance(*value),
            Self::Range(values) => values.map(distance).join(" / ").replace('-', "−"),
        }
    }

    /// Why one may believe it; none for what is simply measured.
    pub fn evidence(&self) -> Option<&str> {
        match self {
            Self::Part(_) | Self::Range(_) => None,
            Self::Ratio(_, evidence) | Self::Claimed(_, evidence) | Self::Radius(_, evidence) => {
                Some(evidence)
            }
        }
    }
}

/// What all modalities together go by.
const JOINT: &str = "joint";
const ALL: &str = "all of them";

type Of = for<'a> fn(&'a OfModality, &'a str) -> Option<Amount<'a>>;

/// The questions, in the order in which they are answered.
const OF_MODALITY: [(&str, Of); 8] = [
    ("its own head alone", |m, _| Some(Amount::Part(m.solo))),
    ("without it", |m, _| Some(Amount::Part(m.without))),
    ("Shapley share of accuracy", |m, _| {
        m.shapley_share.map(Amount::Part)
    }),
    ("preference share, mean", |m, _| {
        m.preference.map(Amount::Part)
    }),
    ("vulnerability share, mean", |m, evidence| {
        m.vulnerability.map(|v| Amount::Claimed(v, evidence))
    }),
    ("indicator η, median", |m, evidence| {
        Some(Amount::Ratio(m.eta.as_ref()?.median()?, evidence))
    }),
    (MARGIN, |m, _| range(&m.margin).map(Amount::Range)),
    (RADIUS, |m, evidence| {
        m.radius
            .median()
            .map(|_| Amount::Radius(m.radius.mean, evidence))
    }),
];
const MARGIN: &str = "margin ζ, 5 / 50 / 95 %";
const RADIUS: &str = "radius, mean";

fn range(spread: &Spread) -> Option<[f64; 3]> {
    Some([spread.at(0.05)?, spread.median()?, spread.at(0.95)?])
}

/// Names of the modalities of all runs, in the order of the first run that has them.
pub fn names<'a>(runs: &[&'a Diagnosis]) -> Vec<&'a str> {
    let mut names: Vec<&str> = vec![];
    for modality in runs.iter().flat_map(|run| &run.modalities) {
        if !names.contains(&modality.name.as_str()) {
            names.push(&modality.name);
        }
    }
    names
}

/// All lines of these runs, by quantity, then by modality; a run without the modality has no value.
pub fn compare<'a>(runs: &[&'a Diagnosis]) -> Vec<Line<'a>> {
    let names = names(runs);
    let mut lines = vec![];
    for (what, of) in OF_MODALITY {
        for whose in &names {
            let value = |run: &&'a Diagnosis| {
                let modality = run.modalities.iter().find(|m| m.name == *whose)?;
                of(modality, &run.evidence)
            };
            lines.push(Line {
                what,
                whose,
                values: runs.iter().map(value).collect(),
            });
        }
        let together = |value: &dyn Fn(&'a Diagnosis) -> Amount<'a>| {
            runs.iter().map(|run| Some(value(run))).collect()
        };
        match what {
            "without it" if names.len() > 1 => {
                lines.push(Line {
                    what,
                    whose: ALL,
                    values: together(&|run| Amount::Part(run.absent)),
                });
            }
            RADIUS => lines.push(Line {
                what,
                whose: JOINT,
                values: together(&|run| Amount::Radius(run.joint_radius.mean, &run.evidence)),
            }),
            _ => {}
        }
    }
    lines
}

/// Which modality is preferred and which is vulnerable, in a sentence that begins after the run's
/// name; none of a single modality.
pub fn story(run: &Diagnosis) -> Option<String> {
    let first = |of: fn(&OfModality) -> Option<f64>| {
        let known = run
            .modalities
            .iter()
            .filter_map(|m| Some((m.name.as_str(), of(m)?)));
        known.max_by(|a, b| a.1.total_cmp(&b.1))
    };
    let agreement = run.agreement?;
    let (preferred, often) = first(|m| m.preferred)?;
    let (weakest, exposed) = first(|m| m.most_vulnerable)?;
    let but = if preferred == weakest { "and" } else { "but" };
    let part = |value| Amount::Part(value).text();
    Some(format!(
        "prefers {preferred} (it adds most to the margin of {} of the samples that are right) {but} is weakest through \
         {weakest} (the worst joint attack spends most on it for {}); both are the same modality for {}",
        part(often),
        part(exposed),
        part(agreement)
    ))
}

/// For people: `titles` name the runs.
pub fn table(titles: &[String], runs: &[&Diagnosis]) -> String {
    let cell = |value: &Option<Amount<'_>>| match value {
        None => "–".to_owned(),
        Some(amount @ Amount::Radius(_, evidence)) => format!("{} {evidence}", amount.text()),
        Some(amount) => amount.text(),
    };
    let row = |line: &Line<'_>| -> Vec<String> {
        [line.what, line.whose]
            .map(str::to_owned)
            .into_iter()
            .chain(line.values.iter().map(cell))
            .collect()
    };
    let rows: Vec<Vec<String>> = compare(runs).iter().map(row).collect();
    let header: Vec<&str> = ["diagnosis", "modality"]
        .into_iter()
        .chain(titles.iter().map(String::as_str))
        .collect();
    let mut text = layout::table(&header, &rows, 2);
    text.push('\n');
    for (title, run) in titles.iter().zip(runs) {
        text.extend(story(run).map(|story| layout::paragraph(&format!("  {title} {story}."), 2)));
        let (evidence, right, samples) = (&run.evidence, run.right, run.samples);
        let rest = format!(
            "  {title}: radii, vulnerability and η are of {evidence} constants; {right} of {samples} samples are right."
        );
        text.push_str(&layout::paragraph(&rest, 2));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn modality(name: &str, share: f64) -> OfModality {
        let spread = |low: f64| Spread::of((0..=20).map(|i| low + f64::from(i)).collect());
        OfModality {
            name: name.into(),
            solo: 0.9,
            without: share,
            shapley_share: Some(1.0 - share),
            preference: Some(1.0 - share),
            preferred: Some(1.0 - share),
            vulnerability: Some(share),
            most_vulnerable: Some(share),
            eta: Some(Spread::of(vec![2.5])),
            margin: spread(-3.0),
            radius: spread(0.0),
            ..OfModality::default()
        }
    }

    fn run(names: &[&str], evidence: &str) -> Diagnosis {
        Diagnosis {
            evidence: evidence.into(),
            samples: 10,
            right: 9,
            absent: 0.125,
            agreement: (names.len() > 1).then_some(0.25),
            joint_radius: Spread::of(vec![0.5]),
            modalities: names
                .iter()
                .zip([0.25, 0.75])
                .map(|(name, share)| modality(name, share))
                .collect(),
            ..Diagnosis::default()
        }
    }

    #[test]
    fn runs_stand_side_by_side_with_their_evidence() {
        let (both, one) = (
            run(&["image", "audio"], "estimated"),
            run(&["audio"], "proved"),
        );
        let text = table(&["jt".into(), "alone".into()], &[&both, &one]);
        let expected = "\
  diagnosis                   modality                     jt           alone
  its own head alone          image                    90.0 %               –
                              audio                    90.0 %          90.0 %
  without it                  image                    25.0 %               –
                              audio                    75.0 %          25.0 %
                              all of them              12.5 %          12.5 %
";
        // The widest cell sets the width of its column; blanks do not matter here.
        let words = |text: &str| {
            text.split_whitespace()
                .map(str::to_owned)
                .collect::<Vec<_>>()
                .join(" ")
        };
        assert!(words(&text).starts_with(&words(expected)), "{text}");
        assert!(
            words(&text).contains(
                "radius, mean image 10.00 estimated – audio 10.00 estimated 10.00 proved"
            ),
            "{text}"
        );
        assert!(
            words(&text).contains("joint 0.50 estimated 0.50 proved"),
            "{text}"
        );
        assert!(
            text.contains("jt prefers image") && text.contains("but is weakest through audio"),
            "{text}"
        );
        assert!(!text.contains("alone prefers"), "{text}");
        assert!(
            text.contains("alone: radii, vulnerability and η are of proved constants; 9 of 10"),
            "{text}"
        );
    }

    #[test]
    fn what_is_not_finite_is_not_printed_as_a_number() {
        let nan = Amount::Part(f64::NAN).text();
        assert_eq!(
            [nan, Amount::Radius(f64::INFINITY, "proved").text()],
            ["–", "∞"]
        );
    }
}
