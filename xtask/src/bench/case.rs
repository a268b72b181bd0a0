//! The cases that are timed against PyTorch, and what each is to reach. Knows which programs do the
//! same work, not how.
use super::measure::{Programs, ours};
use crate::workspace;
use anyhow::Result;
use std::path::Path;
use std::process::Command;

/// Our peak memory is to be at most this share of PyTorch's, in every case.
pub const MEMORY_TARGET: f64 = 0.4;

/// Our program for most of them.
pub const AV: &str = "av_bench";

/// One comparison.
pub struct Case {
    pub name: &'static str,
    /// Our time is to be at most this share of PyTorch's.
    pub target: f64,
    pair: Pair,
    /// What both programs get.
    arguments: &'static str,
    /// Repetitions in one start of a program.
    iterations: u32,
}

/// Two programs that do the same work.
#[derive(Clone, Copy)]
enum Pair {
    /// `av_bench` and `torch_av.py`, which share their flags.
    Av,
    /// `lipschitz_step` and `torch_certified.py`.
    Certified,
}

const fn av(name: &'static str, target: f64, iterations: u32, arguments: &'static str) -> Case {
    Case {
        name,
        target,
        pair: Pair::Av,
        arguments,
        iterations,
    }
}

/// The cnn's samples are an image 1×28×28 and a spectrogram; the ResNets', a clip of three frames
/// and a spectrogram.
const CASES: [Case; 10] = [
    av(
        "crmt-cnn",
        0.60,
        10,
        "--work step-crmt --model cnn --batch 64 --spectrogram 64x64",
    ),
    av(
        "jt-cnn",
        0.60,
        10,
        "--work step-jt --model cnn --batch 64 --spectrogram 64x64",
    ),
    av(
        "at-cnn",
        0.60,
        10,
        "--work step-at --model cnn --batch 64 --spectrogram 64x64",
    ),
    av(
        "pgd-cnn",
        0.60,
        5,
        "--work pgd --steps 10 --model cnn --batch 64 --spectrogram 64x64",
    ),
    av(
        "lipschitz-cnn",
        0.35,
        5,
        "--work lipschitz --model cnn --batch 64 --spectrogram 64x64",
    ),
    av(
        "crmt-resnet-112",
        0.75,
        5,
        "--work step-crmt --model resnet18 --batch 8 --frames 3 --image 112 --spectrogram 256x128",
    ),
    av(
        "crmt-resnet-224",
        0.75,
        3,
        "--work step-crmt --model resnet18 --batch 4 --frames 3 --image 224 --spectrogram 256x128",
    ),
    av(
        "forward-resnet-112",
        0.75,
        5,
        "--work forward --model resnet18 --batch 8 --frames 3 --image 112 --spectrogram 256x128",
    ),
    av(
        "forward-resnet-224",
        0.75,
        5,
        "--work forward --model resnet18 --batch 4 --frames 3 --image 224 --spectrogram 256x128",
    ),
    Case {
        name: "certified-digits",
        target: 0.60,
        pair: Pair::Certified,
        arguments: "",
        iterations: 20,
    },
];

/// The names of all cases.
pub fn names() -> Vec<&'static str> {
    CASES.iter().map(|case| case.name).collect()
}

/// The cases of these names, in the table's order; all for no name.
pub fn chosen(names: &[String]) -> Vec<&'static Case> {
    static TABLE: [Case; CASES.len()] = CASES;
    TABLE
        .iter()
        .filter(|case| names.is_empty() || names.iter().any(|name| name == case.name))
        .collect()
}

/// Builds what our side of `cases` needs.
///
/// # Errors
/// If cargo fails.
pub fn build(cases: &[&Case]) -> Result<Programs> {
    let mut examples: Vec<&str> = cases.iter().map(|case| case.pair.example()).collect();
    examples.dedup();
    Programs::build(&examples)
}

impl Pair {
    fn example(self) -> &'static str {
        match self {
            Self::Av => AV,
            Self::Certified => "lipschitz_step",
        }
    }

    fn script(self) -> &'static str {
        match self {
            Self::Av => "xtask/peers/torch_av.py",
            Self::Certified => "xtask/peers/torch_certified.py",
        }
    }
}

impl Case {
    /// Our side of it.
    ///
    /// # Errors
    /// If it was not built.
    pub fn ours(&self, programs: &Programs, threads: u32) -> Result<Command> {
        let mut command = ours(programs.find(self.pair.example())?, threads);
        command.args(self.arguments.split_whitespace());
        command.args(["--iters", &self.iterations.to_string()]);
        Ok(command)
    }

    /// PyTorch's side, in its usual layout or channels-last.
    pub fn peer(&self, python: &Path, threads: u32, channels_last: bool) -> Command {
        let mut command = Command::new(python);
        command
            .arg(workspace::root().join(self.pair.script()))
            .args(self.arguments.split_whitespace());
        command.args([
            "--iters",
            &self.iterations.to_string(),
            "--threads",
            &threads.to_string(),
        ]);
        command.args(channels_last.then_some("--channels-last"));
        command
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn names_choose_cases_in_the_tables_order() {
        let all = names();
        assert_eq!(
            all.iter().collect::<BTreeSet<_>>().len(),
            all.len(),
            "two cases share a name"
        );
        assert_eq!(chosen(&[]).len(), all.len());
        let two = chosen(&["pgd-cnn".into(), "jt-cnn".into()]);
        assert_eq!(
            two.iter().map(|case| case.name).collect::<Vec<_>>(),
            ["jt-cnn", "pgd-cnn"]
        );
    }

    #[test]
    fn both_sides_get_the_same_flags() {
        let flags = |command: &Command| -> Vec<String> {
            command
                .get_args()
                .map(|argument| argument.to_string_lossy().into_owned())
                .collect()
        };
        for case in chosen(&[]) {
            let peer = flags(&case.peer(Path::new("python"), 3, true));
            assert_eq!(peer.last().map(String::as_str), Some("--channels-last"));
            assert!(
                workspace::root().join(case.pair.script()).exists()
                    || matches!(case.pair, Pair::Certified)
            );
            let shared = peer[1..peer.len() - 3].to_vec();
            let ours = case.arguments.split_whitespace().map(str::to_owned);
            let ours: Vec<_> = ours
                .chain(["--iters".to_owned(), case.iterations.to_string()])
                .collect();
            assert_eq!(shared, ours, "{}", case.name);
        }
    }
}
