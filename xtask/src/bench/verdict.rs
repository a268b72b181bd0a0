//! What the rounds of one case amount to, and how it is told. Starts no program.
use super::case::MEMORY_TARGET;
use super::measure::{Measured, median, spread};
use serde_json::{Value, json};

/// PyTorch's two layouts, in the order of [`Round::peers`].
pub const LAYOUTS: [&str; 2] = ["torch", "torch channels-last"];

/// The three programs, once each.
pub struct Round {
    pub ours: Measured,
    pub peers: [Measured; 2],
}

/// Medians and ratios of a case.
#[derive(Debug, PartialEq)]
pub struct Verdict {
    pub name: &'static str,
    /// Milliseconds: ours, and each layout of PyTorch.
    ours: f64,
    peers: [f64; 2],
    /// Which layout is faster, hence what we are held against.
    better: usize,
    ratio: f64,
    /// Least and greatest ratio of a round.
    rounds: (f64, f64),
    target: f64,
    /// Bytes: ours and the faster layout's.
    memory: Option<(f64, f64)>,
}

impl Verdict {
    /// Of one round or more.
    pub fn new(name: &'static str, target: f64, rounds: &[Round]) -> Self {
        let ours = median(rounds.iter().map(|round| round.ours.median));
        let peers =
            [0, 1].map(|layout| median(rounds.iter().map(|round| round.peers[layout].median)));
        let better = usize::from(peers[1] < peers[0]);
        let peaks = |of: &dyn Fn(&Round) -> Option<f64>| {
            rounds
                .iter()
                .map(of)
                .collect::<Option<Vec<f64>>>()
                .map(median)
        };
        let memory = peaks(&|round| round.ours.peak).zip(peaks(&|round| round.peers[better].peak));
        let ratios = rounds
            .iter()
            .map(|round| round.ours.median / round.peers[better].median);
        Self {
            name,
            ours,
            peers,
            better,
            ratio: ours / peers[better],
            rounds: spread(ratios),
            target,
            memory,
        }
    }

    fn memory_ratio(&self) -> Option<f64> {
        self.memory.map(|(ours, theirs)| ours / theirs)
    }

    fn fast_enough(&self) -> bool {
        self.ratio <= self.target
    }

    fn small_enough(&self) -> Option<bool> {
        self.memory_ratio().map(|ratio| ratio <= MEMORY_TARGET)
    }

    /// For people who watch.
    pub fn text(&self) -> String {
        let (least, most) = self.rounds;
        let memory = match (self.memory, self.memory_ratio()) {
            (Some((ours, theirs)), Some(ratio)) => format!(
                "{} / {} MB = {ratio:.2}, target {MEMORY_TARGET:.2}: {}",
                megabytes(ours),
                megabytes(theirs),
                met(ratio <= MEMORY_TARGET)
            ),
            _ => "not told by both".into(),
        };
        format!(
            "{}: median ours {}, {} {}, {} {}\n  ours / {}: {:.2} (rounds {least:.2} to {most:.2}), target {:.2}: \
             {}\n  peak memory: {memory}\n",
            self.name,
            milliseconds(self.ours),
            LAYOUTS[0],
            milliseconds(self.peers[0]),
            LAYOUTS[1],
            milliseconds(self.peers[1]),
            LAYOUTS[self.better],
            self.ratio,
            self.target,
            met(self.fast_enough())
        )
    }

    /// For files.
    pub fn json(&self, rounds: &[Round]) -> Value {
        let round = |round: &Round| json!({ "ours": round.ours.line, "peers": round.peers.each_ref().map(|p| &p.line) });
        json!({
            "case": self.name,
            "ours_ms": self.ours,
            "torch_ms": self.peers[0],
            "torch_channels_last_ms": self.peers[1],
            "better": LAYOUTS[self.better],
            "ratio": self.ratio,
            "least_ratio": self.rounds.0,
            "greatest_ratio": self.rounds.1,
            "target": self.target,
            "fast_enough": self.fast_enough(),
            "ours_peak_bytes": self.memory.map(|memory| memory.0),
            "torch_peak_bytes": self.memory.map(|memory| memory.1),
            "memory_ratio": self.memory_ratio(),
            "memory_target": MEMORY_TARGET,
            "small_enough": self.small_enough(),
            "rounds": rounds.iter().map(round).collect::<Vec<_>>(),
        })
    }
}

/// All verdicts as a Markdown table.
pub fn table(verdicts: &[Verdict]) -> String {
    let mut text = String::from(
        "| case | ours | PyTorch | PyTorch, channels-last | ours / the better (rounds) | target | | peak memory | target | |\n\
         |---|---|---|---|---|---|---|---|---|---|\n",
    );
    for v in verdicts {
        let (memory, small) = match (v.memory_ratio(), v.small_enough()) {
            (Some(ratio), Some(small)) => (format!("{ratio:.2}"), met(small)),
            _ => ("–".into(), "–"),
        };
        text.push_str(&format!(
            "| {} | {} | {} | {} | {:.2} ({:.2} to {:.2}) | {:.2} | {} | {memory} | {MEMORY_TARGET:.2} | {small} |\n",
            v.name,
            milliseconds(v.ours),
            milliseconds(v.peers[0]),
            milliseconds(v.peers[1]),
            v.ratio,
            v.rounds.0,
            v.rounds.1,
            v.target,
            met(v.fast_enough())
        ));
    }
    text
}

fn met(met: bool) -> &'static str {
    if met { "met" } else { "missed" }
}

/// With three digits that count.
pub fn milliseconds(ms: f64) -> String {
    match ms {
        ms if ms < 10. => format!("{ms:.2} ms"),
        ms if ms < 100. => format!("{ms:.1} ms"),
        ms => format!("{ms:.0} ms"),
    }
}

fn megabytes(bytes: f64) -> String {
    format!("{:.0}", bytes / 1e6)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn measured(median: f64, peak: Option<f64>) -> Measured {
        Measured {
            median,
            peak,
            line: json!({ "median_ms": median }),
        }
    }

    fn round(ours: f64, plain: f64, last: f64) -> Round {
        Round {
            ours: measured(ours, Some(3e8)),
            peers: [measured(plain, Some(1e9)), measured(last, Some(6e8))],
        }
    }

    #[test]
    fn the_better_layout_is_the_measure() {
        // Medians 60, 120 and 80; ratios to the second layout 0.5, 0.75 and 1.
        let rounds = [
            round(50., 120., 100.),
            round(60., 130., 80.),
            round(70., 110., 70.),
        ];
        let verdict = Verdict::new("x", 0.75, &rounds);
        assert_eq!(
            (verdict.better, verdict.ratio, verdict.rounds),
            (1, 0.75, (0.5, 1.))
        );
        assert!(
            verdict.fast_enough(),
            "a target that is reached exactly is met"
        );
        assert_eq!(
            (verdict.memory_ratio(), verdict.small_enough()),
            (Some(0.5), Some(false))
        );
        let text = verdict.text();
        assert!(
            text.contains(
                "ours / torch channels-last: 0.75 (rounds 0.50 to 1.00), target 0.75: met"
            ),
            "{text}"
        );
        assert!(
            text.contains("300 / 600 MB = 0.50, target 0.40: missed"),
            "{text}"
        );
        let json = verdict.json(&rounds);
        assert_eq!(
            (
                json["ratio"].as_f64(),
                json["rounds"][2]["ours"]["median_ms"].as_f64()
            ),
            (Some(0.75), Some(70.))
        );

        let other = Verdict::new("y", 0.6, &[round(60., 80., 90.)]);
        assert_eq!(
            (other.better, other.fast_enough(), other.memory_ratio()),
            (0, false, Some(0.3))
        );
        let table = table(&[verdict, other]);
        assert!(
            table.contains(
                "| x | 60.0 ms | 120 ms | 80.0 ms | 0.75 (0.50 to 1.00) | 0.75 | met | 0.50 |"
            ),
            "{table}"
        );
        assert!(
            table.contains("| 0.75 (0.75 to 0.75) | 0.60 | missed | 0.30 | 0.40 | met |"),
            "{table}"
        );
        let columns: Vec<usize> = table
            .lines()
            .map(|line| line.matches('|').count())
            .collect();
        assert_eq!(columns, [columns[0]; 4]);
    }

    #[test]
    fn memory_that_one_does_not_tell_is_not_judged() {
        let mut round = round(1., 2., 3.);
        round.peers[0].peak = None;
        let verdict = Verdict::new("x", 1., &[round]);
        assert_eq!(
            (verdict.memory_ratio(), verdict.small_enough()),
            (None, None)
        );
        assert!(
            verdict.text().contains("not told by both")
                && table(&[verdict]).contains("| – | 0.40 | – |")
        );
    }
}
