//! Runs that differ in their seed alone, and curves over them: mean, least and greatest.
//! Never puts runs of other data or other settings together. Knows no attack and no certificate.
use super::run_record::RunRecord;
use crate::sandwich::same_budget;
use std::collections::BTreeMap;

/// Runs of one method on one data set.
#[derive(Debug)]
pub struct Family<'a> {
    /// What they go by together.
    pub name: String,
    /// At least one.
    pub runs: Vec<&'a RunRecord>,
}

/// A place, and there the mean, the least and the greatest of several runs.
pub type Spread = (f64, f64, f64, f64);

impl Family<'_> {
    /// For the key of a chart.
    pub fn told(&self) -> String {
        match self.runs.len() {
            1 => self.name.clone(),
            n => format!(
                "{}: mean of {n} seeds, band from the least to the greatest",
                self.name
            ),
        }
    }
}

/// The runs in the order of the first of each family.
pub fn families(runs: &[RunRecord]) -> Vec<Family<'_>> {
    let mut families: Vec<(Option<Kind>, Vec<&RunRecord>)> = vec![];
    for run in runs {
        let kind = Kind::of(run);
        match families
            .iter_mut()
            .find(|(known, _)| kind.is_some() && *known == kind)
        {
            Some((_, runs)) => runs.push(run),
            None => families.push((kind, vec![run])),
        }
    }
    let several = |runs: &[&RunRecord]| runs.len() > 1;
    let titles: Vec<String> = families
        .iter()
        .filter(|(_, runs)| several(runs))
        .map(|(_, runs)| runs[0].summary.title())
        .collect();
    let name = |runs: &[&RunRecord]| {
        let title = runs[0].summary.title();
        match titles.iter().filter(|other| **other == title).count() {
            1 if several(runs) => title,
            0 | 1 => runs[0].title.clone(),
            _ if several(runs) => format!("{} and other seeds", runs[0].title),
            _ => runs[0].title.clone(),
        }
    };
    families
        .into_iter()
        .map(|(_, runs)| Family {
            name: name(&runs),
            runs,
        })
        .collect()
}

/// What runs of one family share: settings without the seed, and the data that they were made and
/// measured on.
#[derive(Debug, PartialEq)]
struct Kind<'a> {
    settings: toml::Table,
    method: (&'a str, &'a str),
    data: (&'a str, &'a str, &'a str),
    names: (&'a [String], &'a [String]),
    samples: u64,
}

impl<'a> Kind<'a> {
    /// None of runs whose settings are not known.
    fn of(run: &'a RunRecord) -> Option<Self> {
        let mut settings: toml::Table = run.config.parse().ok()?;
        settings.remove("seed")?;
        let s = &run.summary;
        Some(Self {
            settings,
            method: (&s.method, &s.label),
            data: (&s.data, &s.report_sha256, &s.baselines_sha256),
            names: (&s.modalities, &s.classes),
            samples: s.accuracy.samples,
        })
    }
}

/// Over the places that all curves have; each curve is `(place, value)`, ascending.
pub fn spread(curves: &[Vec<(f64, f64)>]) -> Vec<Spread> {
    let Some((first, others)) = curves.split_first() else {
        return vec![];
    };
    let at = |curve: &[(f64, f64)], x: f64| {
        curve
            .iter()
            .find(|(place, _)| same_budget(*place, x))
            .map(|(_, y)| *y)
    };
    let place = |&(x, y): &(f64, f64)| {
        let rest = others
            .iter()
            .map(|curve| at(curve, x))
            .collect::<Option<Vec<f64>>>()?;
        Some(gathered(x, &[&[y], &rest[..]].concat()))
    };
    first.iter().filter_map(place).collect()
}

/// Of step curves as the charts draw them (never rising, each height reaching back to the place
/// before), at every place where one of them steps down.
pub fn spread_of_steps(curves: &[Vec<(f64, f64)>]) -> Vec<Spread> {
    // A fraction of samples has at least a radius of x where some later point still stands as high.
    let height = |curve: &[(f64, f64)], x: f64| {
        curve
            .iter()
            .find(|(place, _)| *place >= x && *place > 0.0)
            .map_or(0.0, |p| p.1)
    };
    // Positive numbers are in the order of their bits.
    let places = curves
        .iter()
        .flatten()
        .map(|(x, _)| *x)
        .filter(|x| *x > 0.0);
    let places: BTreeMap<u64, f64> = places.map(|x| (x.to_bits(), x)).collect();
    let at = |x: f64| {
        gathered(
            x,
            &curves
                .iter()
                .map(|curve| height(curve, x))
                .collect::<Vec<_>>(),
        )
    };
    let mut from = 0.0;
    let both_ends = |x: f64| {
        let (_, mean, low, high) = at(x);
        let ends = [(from, mean, low, high), (x, mean, low, high)];
        from = x;
        ends
    };
    places.into_values().flat_map(both_ends).collect()
}

fn gathered(x: f64, values: &[f64]) -> Spread {
    let mean = values.iter().sum::<f64>() / values.len() as f64;
    let (low, high) = values
        .iter()
        .fold((f64::INFINITY, f64::NEG_INFINITY), |(a, b), v| {
            (a.min(*v), b.max(*v))
        });
    // A mean of equal numbers may round to either side of them.
    (x, mean.max(low).min(high), low, high)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(title: &str, method: &str, seed: u64, setting: &str) -> RunRecord {
        let mut run = RunRecord {
            title: title.into(),
            config: format!("seed = {seed}\n{setting}"),
            ..RunRecord::default()
        };
        (run.summary.method, run.summary.seed) = (method.into(), seed);
        (run.summary.data, run.summary.report_sha256) = ("digits".into(), "00".into());
        run
    }

    fn told(runs: &[RunRecord]) -> Vec<(String, usize)> {
        families(runs)
            .iter()
            .map(|family| (family.name.clone(), family.runs.len()))
            .collect()
    }

    #[test]
    fn only_runs_that_differ_in_the_seed_alone_are_put_together() {
        let of = |seed, setting| run(&format!("JT seed {seed}"), "jt", seed, setting);
        let three = [
            of(0, "x = 1"),
            run("AT", "at", 0, "x = 1"),
            of(1, "x = 1"),
            of(2, "x = 2"),
        ];
        let expected = [
            ("JT".to_owned(), 2),
            ("AT".to_owned(), 1),
            ("JT seed 2".to_owned(), 1),
        ];
        assert_eq!(told(&three), expected);
        // Other data under the same name; other samples; settings that nobody knows.
        for change in [
            (|r: &mut RunRecord| r.summary.report_sha256 = "01".into()) as fn(&mut RunRecord),
            |r| r.summary.data = "faces".into(),
            |r| r.summary.accuracy.samples = 7,
            |r| r.config.clear(),
        ] {
            let mut two = [of(0, ""), of(1, "")];
            change(&mut two[1]);
            assert_eq!(families(&two).len(), 2);
        }
        let two_kinds = [
            of(0, "x = 1"),
            of(1, "x = 1"),
            of(2, "x = 2"),
            of(3, "x = 2"),
        ];
        let names = told(&two_kinds);
        assert_eq!(
            [&names[0].0, &names[1].0],
            ["JT seed 0 and other seeds", "JT seed 2 and other seeds"]
        );
    }

    #[test]
    fn a_band_holds_every_run() {
        let two = [
            vec![(0.0, 1.0), (1.0, 0.5)],
            vec![(0.0, 0.8), (1.0, 0.1), (2.0, 0.0)],
        ];
        let close = |a: &Spread, b: &Spread| {
            [a.0 - b.0, a.1 - b.1, a.2 - b.2, a.3 - b.3]
                .iter()
                .all(|d| d.abs() < 1e-12)
        };
        let both = spread(&two);
        assert_eq!(both.len(), 2, "at 2 only one was attacked");
        assert!(
            close(&both[0], &(0.0, 0.9, 0.8, 1.0)) && close(&both[1], &(1.0, 0.3, 0.1, 0.5)),
            "{both:?}"
        );
        // Steps: 1 up to 1, then 0.5 up to 2, then 0; and 0.6 up to 1.5, then 0.
        let steps = [
            vec![
                (0.0, 1.0),
                (1.0, 1.0),
                (1.0, 0.5),
                (2.0, 0.5),
                (2.0, 0.0),
                (3.0, 0.0),
            ],
            vec![(0.0, 0.6), (1.5, 0.6), (1.5, 0.0), (3.0, 0.0)],
        ];
        let both = spread_of_steps(&steps);
        let expected = [
            (1.0, 0.8, 0.6, 1.0),
            (1.5, 0.55, 0.5, 0.6),
            (2.0, 0.25, 0.0, 0.5),
            (3.0, 0.0, 0.0, 0.0),
        ];
        assert_eq!(both.len(), 8, "two ends of each stretch: {both:?}");
        assert!(
            both.chunks(2)
                .zip(&expected)
                .all(|(ends, e)| close(&ends[1], e) && ends[0].1 == ends[1].1),
            "{both:?}"
        );
    }
}
