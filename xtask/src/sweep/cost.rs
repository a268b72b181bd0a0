//! What runs cost: seconds measured of finished ones, and from them those of what remains. Measures
//! nothing itself.
use super::plan::Run;
use std::collections::BTreeMap;
use std::time::Duration;

/// Where a guess comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Basis {
    /// Runs that differ in the seed alone.
    Seeds,
    /// Runs of the same method.
    Method,
}

/// Seconds of finished runs.
#[derive(Debug, Default)]
pub struct Costs {
    /// By what tells a row, and by method.
    rows: BTreeMap<Vec<(String, String)>, Mean>,
    methods: BTreeMap<String, Mean>,
}

#[derive(Debug, Default, Clone, Copy)]
struct Mean {
    seconds: f64,
    runs: usize,
}

impl Mean {
    fn add(&mut self, seconds: f64) {
        self.seconds += seconds;
        self.runs += 1;
    }

    fn value(&self) -> f64 {
        self.seconds / self.runs as f64
    }
}

impl Costs {
    /// A run of these settings took so long.
    pub fn learn(&mut self, run: &Run, seconds: f64) {
        if seconds.is_finite() && seconds >= 0.0 {
            self.rows.entry(run.point.clone()).or_default().add(seconds);
            self.methods.entry(run.method()).or_default().add(seconds);
        }
    }

    /// What a run will take, if a like one is known.
    pub fn of(&self, run: &Run) -> Option<(f64, Basis)> {
        let row = self
            .rows
            .get(&run.point)
            .map(|mean| (mean.value(), Basis::Seeds));
        row.or_else(|| {
            self.methods
                .get(&run.method())
                .map(|mean| (mean.value(), Basis::Method))
        })
    }

    /// What all of these will take, so many at a time; and how many of them nothing is known of,
    /// which are taken for average ones. None if nothing is known of any.
    pub fn together<'a>(
        &self,
        runs: impl Iterator<Item = &'a Run>,
        workers: usize,
    ) -> Option<(Duration, usize)> {
        let guesses: Vec<Option<f64>> = runs
            .map(|run| self.of(run).map(|(seconds, _)| seconds))
            .collect();
        let known: Vec<f64> = guesses.iter().copied().flatten().collect();
        let unknown = guesses.len() - known.len();
        let mean = match known.len() {
            0 => {
                let all = self.methods.values().fold(Mean::default(), |a, b| Mean {
                    seconds: a.seconds + b.seconds,
                    runs: a.runs + b.runs,
                });
                (all.runs > 0).then(|| all.value())?
            }
            known_runs => known.iter().sum::<f64>() / known_runs as f64,
        };
        let total = known.iter().sum::<f64>() + mean * unknown as f64;
        let longest = known
            .iter()
            .copied()
            .fold(if unknown > 0 { mean } else { 0.0 }, f64::max);
        let seconds = (total / workers.max(1) as f64).max(longest);
        Some((
            Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX),
            unknown,
        ))
    }
}

/// `42 s`, `7 min`, `2 h 05 min`.
pub fn short(time: Duration) -> String {
    match time.as_secs() {
        seconds @ 0..100 => format!("{seconds} s"),
        seconds @ 100..6000 => format!("{} min", (seconds + 30) / 60),
        seconds => format!("{} h {:02} min", seconds / 3600, seconds % 3600 / 60),
    }
}

#[cfg(test)]
mod tests {
    use super::super::plan::expand;
    use super::super::spec::Spec;
    use super::*;

    /// `jt` and `at`, of two widths, of two seeds.
    fn runs() -> Vec<Run> {
        let text =
            "name = \"t\"\n[grid]\nmethod = [\"jt\", \"at\"]\nwidth = [1, 2]\nseed = [0, 1]\n";
        expand(&Spec::parse(text, false).expect("a good sweep"))
    }

    #[test]
    fn a_run_costs_what_its_like_did() {
        let (runs, mut costs) = (runs(), Costs::default());
        assert_eq!(costs.of(&runs[0]), None);
        assert_eq!(costs.together(runs.iter(), 2), None);
        costs.learn(&runs[0], 10.0);
        assert_eq!(costs.of(&runs[1]), Some((10.0, Basis::Seeds)));
        assert_eq!(
            costs.of(&runs[2]),
            Some((10.0, Basis::Method)),
            "another width"
        );
        assert_eq!(costs.of(&runs[4]), None, "another method");
        costs.learn(&runs[4], 100.0);
        costs.learn(&runs[5], 300.0);
        assert_eq!(costs.of(&runs[7]), Some((200.0, Basis::Method)));
        assert_eq!(
            costs.of(&runs[3]),
            Some((10.0, Basis::Method)),
            "jt learns from jt alone"
        );
        // jt 10 + 10 + 10, at 200 + 200.
        let left = [1, 2, 3, 6, 7].map(|index| &runs[index]);
        assert_eq!(
            costs.together(left.into_iter(), 1),
            Some((Duration::from_secs(430), 0))
        );
        assert_eq!(
            costs.together(left.into_iter(), 2),
            Some((Duration::from_secs(215), 0))
        );
        assert_eq!(
            costs.together(left.into_iter(), 99),
            Some((Duration::from_secs(200), 0)),
            "the longest"
        );
    }

    #[test]
    fn what_is_unknown_is_taken_for_the_mean() {
        let (runs, mut costs) = (runs(), Costs::default());
        costs.learn(&runs[0], 10.0);
        let left = || [1, 4].map(|index| &runs[index]).into_iter();
        assert_eq!(
            costs.together(left(), 1),
            Some((Duration::from_secs(20), 1))
        );
        assert_eq!(
            costs.together(left().skip(1), 1),
            Some((Duration::from_secs(10), 1))
        );
        costs.learn(&runs[1], f64::NAN);
        assert_eq!(costs.of(&runs[1]), Some((10.0, Basis::Seeds)));
    }

    #[test]
    fn times_are_short() {
        let text = |seconds| short(Duration::from_secs(seconds));
        assert_eq!(
            [text(0), text(99), text(100), text(7500)],
            ["0 s", "99 s", "2 min", "2 h 05 min"]
        );
    }
}
