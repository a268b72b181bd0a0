//! The runs of a comparison: which of the given paths are runs, and what each goes by beside the
//! others. Knows no result of theirs.
use crate::{
    opening,
    people::Voice,
    record::Summary,
    report::RunRecord,
    run::read_record,
    run_dir::{self, RunDir},
};
use anyhow::{Context, Result, bail};
use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

/// Of paths that are no runs, so many are named.
const NAMED: usize = 3;
/// Directories are cut to this length where a shorter part tells them apart, too.
const READABLE: usize = 32;

/// What one path turned out to be.
enum Found {
    /// A complete run.
    Run(PathBuf),
    /// A run that lacks this file.
    Incomplete(&'static str),
    /// A directory that is no run itself; what it holds, by name.
    Folder(Vec<PathBuf>),
    /// Something else.
    File,
}

fn look(path: &Path) -> Result<Found> {
    if !path.is_dir() {
        return if path.exists() {
            Ok(Found::File)
        } else {
            bail!("{}: there is no such run", path.display())
        };
    }
    let has = |name: &&str| opening::has(path, name);
    if run_dir::is_marked(path) || has(&run_dir::CONFIG) || has(&run_dir::SUMMARY) {
        let missing = [run_dir::SUMMARY, run_dir::CONFIG, run_dir::MODEL]
            .into_iter()
            .find(|name| !has(name));
        return match missing {
            Some(missing) => Ok(Found::Incomplete(missing)),
            None => Ok(Found::Run(path.to_owned())),
        };
    }
    let entries = fs::read_dir(path).with_context(|| format!("can't read {}", path.display()))?;
    let mut inside = entries
        .map(|entry| Ok(entry?.path()))
        .collect::<std::io::Result<Vec<_>>>()?;
    inside.sort();
    Ok(Found::Folder(inside))
}

/// What is left out of a comparison.
#[derive(Default)]
struct LeftOut {
    incomplete: Vec<String>,
    no_runs: Vec<String>,
}

/// The complete runs that `paths` name, in order and each once; a folder of runs stands for all of
/// them. Of several paths, those that are no complete runs are left out, and named. `open` opens
/// each.
pub fn open(
    paths: &[PathBuf],
    open: &dyn Fn(&Path) -> Result<RunDir>,
    voice: &Voice,
) -> Result<Vec<RunDir>> {
    let (mut runs, mut known, mut left_out) = (vec![], BTreeSet::new(), LeftOut::default());
    for path in paths {
        let found = match look(path)? {
            Found::Run(run) => vec![run],
            Found::Folder(inside) => of_folder(&inside, &mut left_out)?,
            Found::Incomplete(missing) => {
                left_out
                    .incomplete
                    .push(format!("{} (no {missing})", path.display()));
                continue;
            }
            Found::File => vec![],
        };
        if found.is_empty() {
            left_out.no_runs.push(path.display().to_string());
        }
        for run in found {
            let place = fs::canonicalize(&run)?;
            if known.insert(place) {
                runs.push(run);
            } else {
                voice.say(format!("{} is given twice and counted once", run.display()));
            }
        }
    }
    if runs.is_empty() {
        bail!("{}", left_out.advice());
    }
    left_out.tell(voice);
    runs.iter().map(|run| open(run)).collect()
}

/// The complete runs among the entries of a folder; the incomplete ones are noted, all else in it
/// is no surprise.
fn of_folder(entries: &[PathBuf], left_out: &mut LeftOut) -> Result<Vec<PathBuf>> {
    let mut runs = vec![];
    for path in entries.iter().filter(|path| path.is_dir()) {
        match look(path)? {
            Found::Run(run) => runs.push(run),
            Found::Incomplete(missing) => left_out
                .incomplete
                .push(format!("{} (no {missing})", path.display())),
            Found::Folder(_) | Found::File => {}
        }
    }
    Ok(runs)
}

impl LeftOut {
    fn tell(&self, voice: &Voice) {
        for (what, all) in [("incomplete", &self.incomplete), ("no runs", &self.no_runs)] {
            if !all.is_empty() {
                voice.say(format!("left out, {what}: {}", few(all)));
            }
        }
    }

    /// Why nothing is left to compare.
    fn advice(&self) -> String {
        match (self.incomplete.as_slice(), self.no_runs.as_slice()) {
            ([], no_runs) => format!(
                "no run among {}: give directories that train --out wrote, or a folder of such directories",
                few(no_runs)
            ),
            (incomplete, _) => {
                format!(
                    "no complete run: {}; go on with train --resume RUN, or train anew",
                    few(incomplete)
                )
            }
        }
    }
}

fn few(names: &[String]) -> String {
    match names.len().saturating_sub(NAMED) {
        0 => names.join(", "),
        more => format!("{} and {more} more", names[..NAMED].join(", ")),
    }
}

/// Reads several runs, each titled so that it is told from the others.
pub fn read(dirs: &[RunDir]) -> Result<Vec<RunRecord>> {
    let mut records = dirs.iter().map(read_record).collect::<Result<Vec<_>>>()?;
    let titles = names(&records, Summary::title);
    records
        .iter_mut()
        .zip(titles)
        .for_each(|(record, title)| record.title = title);
    Ok(records)
}

/// The runs' names in tables and messages on the terminal.
pub fn names_of(records: &[RunRecord]) -> Vec<String> {
    names(records, Summary::name)
}

/// Names that differ: `alone`, and as much of the seed, the data and the directory as it takes.
fn names(records: &[RunRecord], alone: fn(&Summary) -> String) -> Vec<String> {
    let mut names: Vec<String> = records.iter().map(|r| alone(&r.summary)).collect();
    for group in repeated(&names) {
        if distinct(group.iter().map(|i| records[*i].summary.seed)) > 1 {
            group
                .iter()
                .for_each(|i| names[*i].push_str(&format!(" seed {}", records[*i].summary.seed)));
        }
    }
    if distinct(records.iter().map(|r| &r.summary.data)) > 1 {
        names
            .iter_mut()
            .zip(records)
            .for_each(|(name, r)| name.push_str(&format!(" on {}", r.summary.data)));
    }
    for group in repeated(&names) {
        let places = places(
            &group
                .iter()
                .map(|i| records[*i].directory.as_path())
                .collect::<Vec<_>>(),
        );
        group
            .iter()
            .zip(places)
            .for_each(|(i, place)| names[*i].push_str(&format!(" ({place})")));
    }
    // A label may read like another run's name with its seed.
    for group in repeated(&names) {
        group
            .iter()
            .enumerate()
            .for_each(|(n, i)| names[*i].push_str(&format!(" #{}", n + 1)));
    }
    names
}

/// Places of names that occur more than once, by name.
fn repeated(names: &[String]) -> Vec<Vec<usize>> {
    let all: BTreeSet<&String> = names.iter().collect();
    let of = |name: &String| {
        (0..names.len())
            .filter(|i| names[*i] == *name)
            .collect::<Vec<_>>()
    };
    all.into_iter()
        .map(of)
        .filter(|group| group.len() > 1)
        .collect()
}

fn distinct<T: Ord>(values: impl Iterator<Item = T>) -> usize {
    values.collect::<BTreeSet<_>>().len()
}

/// The last parts of these paths, as many as tell them apart; of long ones, what is not common to
/// all.
fn places(paths: &[&Path]) -> Vec<String> {
    let parts: Vec<Vec<String>> = paths
        .iter()
        .map(|path| {
            path.components()
                .map(|part| part.as_os_str().to_string_lossy().into_owned())
                .collect()
        })
        .collect();
    let last = |n: usize| {
        parts
            .iter()
            .map(move |parts| parts[parts.len().saturating_sub(n)..].join("/"))
    };
    let longest = parts.iter().map(Vec::len).max().unwrap_or(1).max(1);
    let enough = (1..longest)
        .find(|n| distinct(last(*n)) == paths.len())
        .unwrap_or(longest);
    let whole: Vec<String> = last(enough).collect();
    let short = cut(&whole);
    let shorter = whole.iter().any(|place| place.chars().count() > READABLE)
        && distinct(short.iter()) == paths.len();
    if shorter { short } else { whole }
}

/// Without the words at the start that all share, and not longer than [`READABLE`].
fn cut(places: &[String]) -> Vec<String> {
    let chars: Vec<Vec<char>> = places.iter().map(|place| place.chars().collect()).collect();
    let common = (0..chars[0].len())
        .take_while(|i| chars.iter().all(|c| c.get(*i) == Some(&chars[0][*i])))
        .count();
    let start = chars[0][..common]
        .iter()
        .rposition(|c| !c.is_alphanumeric() && *c != '.')
        .map_or(0, |i| i + 1);
    let shortened = |c: &Vec<char>| {
        let (before, rest) = (if start > 0 { "…" } else { "" }, &c[start..]);
        let after = if rest.len() > READABLE { "…" } else { "" };
        format!(
            "{before}{}{after}",
            rest.iter().take(READABLE).collect::<String>()
        )
    };
    chars.iter().map(shortened).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(method: &str, seed: u64, data: &str, directory: &str) -> RunRecord {
        let summary = Summary {
            method: method.into(),
            seed,
            data: data.into(),
            ..Summary::default()
        };
        RunRecord {
            directory: directory.into(),
            summary,
            ..RunRecord::default()
        }
    }

    fn check(runs: &[RunRecord], expected: &[&str]) {
        assert_eq!(names(runs, Summary::name), expected);
    }

    #[test]
    fn names_are_as_short_as_tells_runs_apart() {
        let jt = |seed, data, directory| run("jt", seed, data, directory);
        check(&[jt(3, "digits", "a")], &["jt"]);
        check(
            &[jt(0, "digits", "a"), run("at", 1, "digits", "b")],
            &["jt", "at"],
        );
        check(
            &[
                jt(0, "digits", "a"),
                jt(1, "digits", "b"),
                run("at", 0, "digits", "c"),
            ],
            &["jt seed 0", "jt seed 1", "at"],
        );
        check(
            &[jt(0, "digits", "a"), jt(0, "faces", "b")],
            &["jt on digits", "jt on faces"],
        );
        check(
            &[jt(0, "digits", "runs/a"), jt(0, "digits", "runs/b")],
            &["jt (a)", "jt (b)"],
        );
        check(
            &[jt(0, "digits", "x/run"), jt(0, "digits", "y/run")],
            &["jt (x/run)", "jt (y/run)"],
        );
        check(
            &[jt(0, "d", "a"), jt(1, "d", "b"), jt(1, "d", "c")],
            &["jt seed 0", "jt seed 1 (b)", "jt seed 1 (c)"],
        );
        // Not even the same directory twice makes two equal names.
        check(
            &[jt(0, "d", "a"), jt(0, "d", "a")],
            &["jt (a) #1", "jt (a) #2"],
        );
    }

    #[test]
    fn a_label_is_the_name() {
        let mut labelled = run("crmt-jt", 0, "d", "a");
        labelled.summary.label = "ours".into();
        check(
            &[labelled.clone(), run("crmt-jt", 0, "d", "b")],
            &["ours", "crmt-jt"],
        );
        assert_eq!(
            names(&[labelled, run("jt", 0, "d", "b")], Summary::title),
            ["ours", "JT"]
        );
    }

    #[test]
    fn long_directories_are_cut_to_what_differs() {
        let of = |epochs: u32| {
            run(
                "jt",
                0,
                "d",
                &format!(
                    "runs/study/method-jt_train.learning_rate-0.001_epochs-{epochs}_seed-0_0123456789ab"
                ),
            )
        };
        check(
            &[of(1), of(25)],
            &[
                "jt (…1_seed-0_0123456789ab)",
                "jt (…25_seed-0_0123456789ab)",
            ],
        );
    }

    /// A folder as a sweep leaves it: complete and incomplete runs, tables, logs.
    #[test]
    fn what_is_no_run_is_left_out_of_a_comparison() -> Result<()> {
        let dir = tempfile::tempdir()?;
        let at = |name: &str| dir.path().join(name);
        for (run, files) in [
            (
                "b",
                &["config.toml", "model.safetensors", "summary.json"][..],
            ),
            ("half", &["config.toml"]),
            ("new", &[]),
        ] {
            fs::create_dir(at(run))?;
            files
                .iter()
                .try_for_each(|file| fs::write(at(run).join(file), ""))?;
        }
        ["b.log", "table.md"]
            .iter()
            .try_for_each(|file| fs::write(at(file), ""))?;
        fs::write(at("new").join(".crmt-run"), "A run of crmt-driver")?;
        fs::create_dir(at("notes"))?;
        let opened = |paths: &[&str]| {
            let paths: Vec<_> = paths.iter().map(|path| at(path)).collect();
            let runs = open(
                &paths,
                &|run| RunDir::open(run, "diagnose"),
                &Voice::new(true),
            )?;
            Ok::<_, anyhow::Error>(
                runs.iter()
                    .map(|run| run.path().to_owned())
                    .collect::<Vec<_>>(),
            )
        };
        assert_eq!(
            opened(&["b", "b.log", "half", "notes", "table.md"])?,
            [at("b")]
        );
        assert_eq!(
            opened(&["", "b"])?,
            [at("b")],
            "the folder, and a run of it again"
        );
        for (paths, said) in [
            (&["b.log", "table.md"][..], "no run among"),
            (&["notes"], "a folder of such directories"),
            (&["half"], "no summary.json"),
            (&["new"], "no summary.json"),
            (&["b", "missing"], "there is no such run"),
        ] {
            let error = opened(paths).unwrap_err().to_string();
            assert!(error.contains(said), "{error}");
        }
        Ok(())
    }
}
