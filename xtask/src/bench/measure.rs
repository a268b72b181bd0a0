//! Programs that time themselves and print one JSON line: how to build, start and read ours. Does
//! not know what they are compared with.
use crate::workspace;
use anyhow::{Context, Result, bail};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Our programs, built.
pub struct Programs(Vec<PathBuf>);

impl Programs {
    /// Builds the named examples, with the features of the whole workspace, which other commands
    /// have built already.
    ///
    /// # Errors
    /// If cargo fails; it has said why.
    pub fn build(examples: &[&str]) -> Result<Self> {
        let mut arguments = vec!["--workspace", "--release"];
        examples
            .iter()
            .for_each(|example| arguments.extend(["--example", example]));
        workspace::build(&arguments).map(Self)
    }

    /// The program of one example.
    ///
    /// # Errors
    /// If it was not built.
    pub fn find(&self, example: &str) -> Result<&Path> {
        let found = self
            .0
            .iter()
            .find(|path| path.file_stem().is_some_and(|name| name == example));
        found
            .map(PathBuf::as_path)
            .with_context(|| format!("cargo built no {example}"))
    }
}

/// One of our programs on so many threads. Our kernels share work by rayon; candle's own pool for
/// elementwise operations waits for work spinning.
pub fn ours(program: &Path, threads: u32) -> Command {
    let mut command = Command::new(program);
    command
        .env("RAYON_NUM_THREADS", threads.to_string())
        .env("CANDLE_NUM_THREADS", "1");
    command
}

/// What a program says of itself.
#[derive(Debug, Clone)]
pub struct Measured {
    /// Milliseconds of one repetition.
    pub median: f64,
    /// Most bytes the process held; `None` if it doesn't say.
    pub peak: Option<f64>,
    /// All of it.
    pub line: Value,
}

/// Runs `command` and reads the JSON object in its last line.
///
/// # Errors
/// If it can't be started, fails (with what it said), or prints something else.
pub fn read(command: &mut Command) -> Result<Value> {
    let name = command.get_program().display().to_string();
    let output = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("starting {name}"))?;
    if !output.status.success() {
        bail!(
            "{name} failed ({}):\n{}",
            output.status,
            String::from_utf8_lossy(&output.stderr).trim_end()
        );
    }
    let text = String::from_utf8_lossy(&output.stdout);
    let line = text.lines().last().unwrap_or_default();
    serde_json::from_str(line)
        .with_context(|| format!("{name} should end with a line of JSON, printed {line:?}"))
}

/// Runs `command` and reads its times.
///
/// # Errors
/// As [`read`], or if there is no `median_ms`.
pub fn measure(command: &mut Command) -> Result<Measured> {
    let line = read(command)?;
    let median = number(&line, "median_ms")?;
    Ok(Measured {
        median,
        peak: line["peak_bytes"].as_f64(),
        line,
    })
}

/// A positive number that `line` must have.
///
/// # Errors
/// If it hasn't.
pub fn number(line: &Value, key: &str) -> Result<f64> {
    line[key]
        .as_f64()
        .filter(|x| x.is_finite() && *x > 0.)
        .with_context(|| format!("no positive {key} in {line}"))
}

/// The middle of `values`, or the mean of the two middle ones. NaN for none.
pub fn median(values: impl IntoIterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_by(f64::total_cmp);
    match (values.len(), values.len() / 2) {
        (0, _) => f64::NAN,
        (n, middle) if n % 2 == 1 => values[middle],
        (_, middle) => (values[middle - 1] + values[middle]) / 2.,
    }
}

/// The least and the greatest.
pub fn spread(values: impl IntoIterator<Item = f64>) -> (f64, f64) {
    values
        .into_iter()
        .fold((f64::INFINITY, f64::NEG_INFINITY), |(a, b), x| {
            (a.min(x), b.max(x))
        })
}

/// What this machine calls its processor.
pub fn processor() -> Option<String> {
    let text = std::fs::read_to_string("/proc/cpuinfo").ok()?;
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("model name"))?;
    Some(line.trim_start_matches(['\t', ' ', ':']).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_line_has_the_time() {
        let printf = |text: &str| measure(Command::new("printf").arg(text));
        let measured =
            printf("warming up\n{\"median_ms\": 12.5, \"peak_bytes\": 7}\n").expect("a number");
        assert_eq!((measured.median, measured.peak), (12.5, Some(7.)));
        assert_eq!(
            printf("{\"median_ms\": 1, \"peak_bytes\": null}")
                .expect("a number")
                .peak,
            None
        );
        let refused = |text: &str| format!("{:#}", printf(text).expect_err(text));
        assert!(
            refused("{}").contains("no positive median_ms"),
            "{}",
            refused("{}")
        );
        assert!(refused("{\"median_ms\": 0}").contains("median_ms"));
        assert!(
            refused("12 ms").contains("a line of JSON, printed \"12 ms\""),
            "{}",
            refused("12 ms")
        );
    }

    #[test]
    fn a_failing_program_is_quoted() {
        let mut command = Command::new("sh");
        let error = read(command.args(["-c", "echo no torch >&2; exit 3"]))
            .expect_err("exit 3")
            .to_string();
        assert!(
            error.contains("sh failed") && error.ends_with("no torch"),
            "{error}"
        );
        assert!(read(&mut Command::new("no-such-program-here")).is_err());
    }

    #[test]
    fn middles_and_ends() {
        assert_eq!(median([3., 1., 2.]), 2.);
        assert_eq!(median([4., 1., 2., 3.]), 2.5);
        assert!(median([]).is_nan());
        assert_eq!(spread([2., 1., 3.]), (1., 3.));
    }
}
