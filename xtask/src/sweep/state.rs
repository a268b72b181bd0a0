//! What there is of a run: nothing, remains, something to go on with, or a result; and whether that
//! is the result that the sweep asks for. Changes nothing.
use super::plan::Run;
use anyhow::{Context, Result, bail};
use serde_json::Value as Json;
use sha2::{Digest, Sha256};
use std::fmt;
use std::fs;
use std::path::Path;
use toml::{Table, Value};

/// The file whose existence means that a run is finished.
const SUMMARY: &str = "summary.json";
/// The settings a run was made with.
const CONFIG: &str = "config.toml";
/// Where the driver keeps results that a command was killed while it put them into their places.
const PENDING: &str = ".crmt-committed";
/// What a stopped run goes on from.
const CHECKPOINTS: &str = "checkpoints";

/// What there is of a run.
#[derive(Debug, Clone, PartialEq)]
pub enum State {
    /// Its summary, made with the settings of the sweep.
    Finished(Json),
    /// It was stopped, and kept what the driver goes on from.
    Stopped,
    /// A folder with nothing to go on from.
    Remains,
    Missing,
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Finished(_) => "done",
            Self::Stopped => "to go on",
            Self::Remains | Self::Missing => "to do",
        })
    }
}

impl State {
    /// What a run has left in `out`.
    ///
    /// # Errors
    /// If it holds a result made with other settings, or one that can't be read: to count it would
    /// be wrong, and to replace it would destroy what may be somebody's.
    pub fn of(run: &Run, out: &Path) -> Result<Self> {
        let folder = out.join(&run.slug);
        let finished = folder.join(SUMMARY).is_file();
        let begun = folder.join(CHECKPOINTS).is_dir() && folder.join(CONFIG).is_file();
        if finished || begun {
            agrees(run, &folder)?;
        }
        match (finished, begun, folder.exists()) {
            (true, _, _) => Ok(Self::Finished(summary(run, &folder)?)),
            (false, true, _) => Ok(Self::Stopped),
            (false, false, true) => Ok(Self::Remains),
            (false, false, false) => Ok(Self::Missing),
        }
    }

    /// Its result, if it has one.
    pub fn summary(&self) -> Option<&Json> {
        match self {
            Self::Finished(summary) => Some(summary),
            _ => None,
        }
    }
}

/// Refuses results that are not one generation, or were altered: the summary holds the digests of
/// itself and of every file that was written with it.
fn sealed(summary: &Json, folder: &Path) -> Result<()> {
    let path = folder.join(SUMMARY);
    if folder.join(PENDING).exists() {
        bail!(
            "{} is incomplete: another command writes its results right now, or was killed doing so, and any command of the \
             driver on it completes them",
            folder.display()
        );
    }
    let Some(seal) = summary.get("sha256").and_then(Json::as_str) else {
        // Whatever the driver writes has weights, and has been sealed since its second format.
        if summary.get("weights").is_some() {
            bail!(
                "{} has no seal: it is of an older version of the driver, or was altered; {ADVICE}",
                path.display()
            );
        }
        return Ok(());
    };
    let mut content = summary.clone();
    content
        .as_object_mut()
        .and_then(|entries| entries.shift_remove("sha256"));
    if digest(content.to_string().as_bytes()) != seal {
        bail!(
            "{} was altered after it was written: {ADVICE}",
            path.display()
        );
    }
    for (name, digest_then) in summary
        .get("files")
        .and_then(Json::as_object)
        .into_iter()
        .flatten()
    {
        let path = folder.join(name);
        let bytes =
            fs::read(&path).with_context(|| format!("reading {}: {ADVICE}", path.display()))?;
        if digest_then.as_str() != Some(&digest(&bytes)) {
            bail!(
                "{} is not the file that {SUMMARY} was written with: {ADVICE}",
                path.display()
            );
        }
    }
    Ok(())
}

fn digest(bytes: &[u8]) -> String {
    Sha256::digest(bytes)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

const ADVICE: &str = "move the folder away to run it again";

/// Refuses settings other than the sweep's.
fn agrees(run: &Run, folder: &Path) -> Result<()> {
    let path = folder.join(CONFIG);
    let text = fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
    let config: Table = text
        .parse()
        .with_context(|| format!("{}: {ADVICE}", path.display()))?;
    for (key, wanted) in &run.settings {
        if let Some(used) = lookup(&config, key)
            && !equal(used, wanted)
        {
            bail!(
                "{} was made with {key} = {used}, not {wanted}: {ADVICE}",
                folder.display()
            );
        }
    }
    Ok(())
}

fn summary(run: &Run, folder: &Path) -> Result<Json> {
    let path = folder.join(SUMMARY);
    let bytes = fs::read(&path).with_context(|| format!("reading {}", path.display()))?;
    let summary: Json = serde_json::from_slice(&bytes).with_context(|| {
        format!(
            "{} is torn, or was not written by the driver: {ADVICE}",
            path.display()
        )
    })?;
    sealed(&summary, folder)?;
    let said = |key: &str| {
        summary.get(key).map(|value| {
            value
                .as_str()
                .map_or_else(|| value.to_string(), str::to_owned)
        })
    };
    for key in ["method", "seed"] {
        let wanted = run.settings.get(key).map(|value| {
            value
                .as_str()
                .map_or_else(|| value.to_string(), str::to_owned)
        });
        if let (Some(said), Some(wanted)) = (said(key), wanted)
            && said != wanted
        {
            bail!(
                "{} is of {key} {said}, not {wanted}: {ADVICE}",
                path.display()
            );
        }
    }
    Ok(summary)
}

/// The value at a dotted key.
fn lookup<'a>(table: &'a Table, key: &str) -> Option<&'a Value> {
    table.get(key).or_else(|| {
        let (first, rest) = key.split_once('.')?;
        lookup(table.get(first)?.as_table()?, rest)
    })
}

/// Equal as settings: `8` and `8.0` are one number, and the driver takes `1` and `"1,2"` for lists.
fn equal(used: &Value, wanted: &Value) -> bool {
    let number = |value: &Value| {
        value
            .as_float()
            .or_else(|| value.as_integer().map(|integer| integer as f64))
    };
    let parse = |part: &str| {
        part.parse()
            .map_or_else(|_| Value::String(part.to_owned()), Value::Float)
    };
    match (used, wanted) {
        (Value::Array(used), Value::Array(wanted)) => {
            used.len() == wanted.len()
                && used
                    .iter()
                    .zip(wanted)
                    .all(|(used, wanted)| equal(used, wanted))
        }
        (Value::Array(_), Value::String(text)) => equal(
            used,
            &Value::Array(text.split(',').map(|part| parse(part.trim())).collect()),
        ),
        (Value::Array(items), single) => items.len() == 1 && equal(&items[0], single),
        _ => used == wanted || number(used).is_some_and(|used| number(wanted) == Some(used)),
    }
}

#[cfg(test)]
mod tests {
    use super::super::plan::expand;
    use super::super::spec::Spec;
    use super::*;

    const SWEEP: &str = "name = \"t\"\n[base]\ndata = \"synthetic\"\nattack.norm = \"l2\"\n[grid]\nmethod = [\"jt\"]\nseed = [0]\nrho = [0.5]\n";

    fn written(folder: &Path, name: &str, text: &str) {
        fs::write(folder.join(name), text).expect("a writable scratch folder");
    }

    #[test]
    fn only_a_finished_run_with_these_settings_counts() {
        let out = tempfile::tempdir().expect("a scratch folder");
        let run = &expand(&Spec::parse(SWEEP, false).expect("a good sweep"))[0];
        let state = || State::of(run, out.path());
        assert_eq!(state().expect("readable"), State::Missing);
        let folder = out.path().join(&run.slug);
        fs::create_dir(&folder).expect("a run folder");
        let config = "method = \"jt\"\nseed = 0\ndata = \"synthetic\"\nrho = 0.5\nmore = 1\n[attack]\nnorm = \"l2\"\n";
        written(&folder, CONFIG, config);
        assert_eq!(
            state().expect("readable"),
            State::Remains,
            "neither a summary nor a checkpoint yet"
        );
        fs::create_dir(folder.join(CHECKPOINTS)).expect("a folder");
        assert_eq!(state().expect("readable"), State::Stopped);
        assert_eq!(
            run.making(&State::Stopped, Path::new("o")),
            ["train", "--resume", &format!("o/{}", run.slug)]
        );
        assert_eq!(
            run.making(&State::Remains, Path::new("o"))
                .last()
                .map(String::as_str),
            Some("--overwrite")
        );
        written(&folder, SUMMARY, "{}");
        assert!(state().expect("readable").summary().is_some());
        for (summary, says) in [
            ("{\"method\": \"jt\", \"seed\": 1}", "is of seed 1, not 0"),
            (
                "{\"method\": \"at\", \"seed\": 0}",
                "is of method at, not jt",
            ),
            ("{\"method\": \"jt\", \"se", "is torn"),
        ] {
            written(&folder, SUMMARY, summary);
            let error = format!("{:#}", state().expect_err(says));
            assert!(error.contains(says) && error.contains(ADVICE), "{error}");
        }
        written(&folder, CONFIG, &config.replace("0.5", "0.25"));
        let error = state().expect_err("edited by hand").to_string();
        assert!(
            error.contains("was made with rho = 0.25, not 0.5"),
            "{error}"
        );
    }

    #[test]
    fn results_are_of_one_generation() {
        let folder = tempfile::tempdir().expect("a scratch folder");
        written(folder.path(), "samples.csv", "sample,label\n");
        let files = serde_json::json!({"samples.csv": digest(b"sample,label\n")});
        let content = serde_json::json!({"format": 2, "weights": "1a", "accuracy": {"clean": 0.1}, "files": files});
        let mut summary = content.clone();
        summary["sha256"] = digest(content.to_string().as_bytes()).into();
        assert!(sealed(&summary, folder.path()).is_ok());
        let refused = |summary: &Json, says: &str| {
            let error = format!("{:#}", sealed(summary, folder.path()).expect_err(says));
            assert!(error.contains(says), "{error}");
        };
        refused(&content, "has no seal");
        let mut better = summary.clone();
        better["accuracy"]["clean"] = 0.9.into();
        refused(&better, "was altered after it was written");
        written(folder.path(), "samples.csv", "sample,radius\n");
        refused(&summary, "samples.csv is not the file");
        fs::remove_file(folder.path().join("samples.csv")).expect("a file");
        refused(&summary, "samples.csv");
        fs::create_dir(folder.path().join(PENDING)).expect("a folder");
        refused(&summary, "is incomplete");
    }

    #[test]
    fn settings_are_compared_as_the_driver_reads_them() {
        let same = |used: &str, wanted: &str| {
            let table: Table = format!("used = {used}\nwanted = {wanted}")
                .parse()
                .expect("two values");
            equal(&table["used"], &table["wanted"])
        };
        for (used, wanted) in [
            ("8", "8.0"),
            ("[1.0]", "[1]"),
            ("[0.5, 1.0]", "\"0.5, 1\""),
            ("[\"a\"]", "\"a\""),
            ("[2.0]", "2"),
        ] {
            assert!(same(used, wanted), "{used} {wanted}");
        }
        for (used, wanted) in [
            ("8", "\"8\""),
            ("0.1", "0.2"),
            ("[1, 2]", "[1]"),
            ("[1, 2]", "1"),
            ("[1, 2]", "\"1,3\""),
        ] {
            assert!(!same(used, wanted), "{used} {wanted}");
        }
    }
}
