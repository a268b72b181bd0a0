//! `cargo xtask results`: whether the published tables are those that the sweeps wrote, and older
//! than the code that makes them; and how new ones get there. Knows no model and runs none, but by
//! a sweep.
mod page;

use crate::git::{self, Age, Commit, age};
use crate::say::say;
use crate::{Failed, sweep};
use anyhow::{Context, Result, bail};
use page::{Origin, Source, Table, origins, quotes, tables, with_quotes, with_tables};
use std::collections::BTreeMap;
use std::fs;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};

/// The page of results; every table there is one of results.
const RESULTS: &str = "docs/results.md";
/// The pages that show numbers.
const PAGES: [&str; 2] = [RESULTS, "README.md"];
const SWEEPS: &str = "docs/sweeps";
/// Made before docs/sweeps/tables kept what that sweep writes.
const NOT_KEPT: &str = "marked, and no table is kept to compare with";
const TABLES: &str = "docs/sweeps/tables";

/// Arguments of `cargo xtask results`.
#[derive(clap::Args)]
#[command(group = clap::ArgGroup::new("what").required(true))]
pub struct Args {
    /// Check docs/results.md and README.md against docs/sweeps/tables and the history of the code
    #[arg(long, group = "what")]
    check: bool,
    /// Put the table of a finished sweep of docs/sweeps/NAME.toml into both
    #[arg(long, num_args = 2, value_names = ["NAME", "RUNS_DIR"], group = "what")]
    update: Option<Vec<String>>,
    /// Run the sweep docs/sweeps/NAME.toml, then update
    #[arg(long, value_name = "NAME", group = "what")]
    make: Option<String>,
    /// With --update: of which commit the runs are, where the sweep could not know (it was given
    /// a --driver)
    #[arg(long, requires = "update")]
    commit: Option<String>,
    /// With --make: runs at a time
    #[arg(long, short, value_name = "N", requires = "make")]
    jobs: Option<NonZeroUsize>,
}

/// Carries out what is asked for.
///
/// # Errors
/// If a table is not what it should be, or files can't be read or written.
pub fn run(args: &Args) -> Result<()> {
    let root = git::root();
    match (&args.update, &args.make) {
        (Some(update), _) => put(
            &root,
            &update[0],
            Path::new(&update[1]),
            args.commit.as_deref(),
        ),
        (None, Some(name)) => {
            let file = root.join(SWEEPS).join(format!("{name}.toml"));
            let text =
                fs::read_to_string(&file).with_context(|| format!("reading {}", file.display()))?;
            let out = sweep::plan_of(&text)?.0;
            sweep::run(&sweep::Args {
                jobs: args.jobs,
                ..sweep::Args::of(file)
            })?;
            put(&root, name, &out, None)
        }
        (None, None) => check(),
    }
}

/// Checks the pages, says which tables are older than the code, and what could not be checked.
///
/// # Errors
/// If a table says not what made it, is not what its sweep wrote, or is older than the code without
/// saying so.
pub fn check() -> Result<()> {
    let root = git::root();
    let mut findings = Findings {
        ages: BTreeMap::new(),
        root: &root,
        faults: vec![],
        notes: BTreeMap::new(),
    };
    for page in PAGES {
        findings.page(page, &read(&root, page)?)?;
    }
    findings.shown(&read(&root, RESULTS)?)?;
    for (note, places) in &findings.notes {
        say(&format!("{note}: {}\n", places.join(", ")))?;
    }
    match findings.faults.len() {
        0 => say("results: every table says what made it, and is what that wrote\n"),
        count => Err(Failed(format!(
            "results: {count} faults\n{}",
            findings.faults.join("\n")
        ))
        .into()),
    }
}

struct Findings<'a> {
    root: &'a Path,
    /// By commit.
    ages: BTreeMap<String, Age>,
    faults: Vec<String>,
    /// What is no fault but should be known, and where.
    notes: BTreeMap<String, Vec<String>>,
}

impl Findings<'_> {
    fn note(&mut self, what: impl Into<String>, place: &str) {
        self.notes
            .entry(what.into())
            .or_default()
            .push(place.to_owned());
    }

    fn page(&mut self, name: &str, text: &str) -> Result<()> {
        for table in tables(text) {
            let place = format!("{name}:{}", table.line + 1);
            match &table.origin {
                Some((_, origin)) => {
                    self.age(&place, origin);
                    self.content(&place, origin, &table)?;
                }
                None if name == RESULTS || table.has_numbers() => self.faults.push(format!(
                    "{place}: the line above this table does not say what made it, such as *docs/sweeps/NAME.toml, table 1, commit abc1234.*"
                )),
                None => {}
            }
        }
        let origins = origins(text);
        for quote in quotes(text) {
            let place = format!("{name}, the number {} of {}", quote.value, quote.name);
            let Some(origin) = origins.iter().find(|origin| origin.is_of(&quote.name)) else {
                self.faults.push(format!(
                    "{place}: no line of the page says of which commit docs/sweeps/{}.toml is",
                    quote.name
                ));
                continue;
            };
            self.age(&place, origin);
            let kept = kept(self.root, &quote.name)?;
            let value = kept
                .as_ref()
                .and_then(|tables| quote.of(tables.get(quote.table.checked_sub(1)?)?));
            match (kept, value) {
                (None, _) if origin.marked => self.note(NOT_KEPT, &place),
                (_, Some(value)) if value == quote.value => {}
                (_, value) => self.faults.push(format!(
                    "{place}: the table has {}",
                    value.as_deref().unwrap_or("no such cell")
                )),
            }
        }
        Ok(())
    }

    /// Older tables must say so.
    fn age(&mut self, place: &str, origin: &Origin) {
        let age = self
            .ages
            .entry(origin.commit.clone())
            .or_insert_with(|| age(self.root, &origin.commit, git::CODE));
        let Origin { commit, marked, .. } = origin;
        match (age.clone(), marked) {
            (Age::Older(by), true) => self.note(format!("older than the code, of {commit}, before {by}"), place),
            (Age::Older(by), false) => self.faults.push(format!(
                "{place}: of {commit}, older than the code since {by}: make it again, or mark the line above it: older than the code"
            )),
            (Age::Current, true) => self.note("marked as older than the code, and is not", place),
            (Age::Current, false) => {}
            (Age::Unknown(why), _) => self.note(format!("age not checked, for {why}"), place),
            (Age::NoSuchCommit, _) => self.faults.push(format!("{place}: the history has no commit {commit}")),
        }
    }

    /// A sweep's table is what it wrote, line by line.
    fn content(&mut self, place: &str, origin: &Origin, table: &Table) -> Result<()> {
        let Source::Sweep {
            name,
            table: number,
        } = &origin.source
        else {
            return Ok(());
        };
        let Some(kept) = kept(self.root, name)? else {
            match origin.marked {
                true => self.note(NOT_KEPT, place),
                false => self.faults.push(format!(
                    "{place}: {TABLES}/{name}.md is missing: cargo xtask results --update"
                )),
            }
            return Ok(());
        };
        let Some(kept) = number.checked_sub(1).and_then(|index| kept.get(index)) else {
            self.faults
                .push(format!("{place}: {TABLES}/{name}.md has no table {number}"));
            return Ok(());
        };
        if kept.text != table.text {
            let line = table
                .text
                .lines()
                .zip(kept.text.lines())
                .position(|(page, kept)| page != kept);
            let line = line.map_or_else(
                || "its number of lines".into(),
                |line| format!("line {}", line + 1),
            );
            self.faults.push(format!(
                "{place}: {line} differs from what the sweep wrote, {TABLES}/{name}.md"
            ));
        }
        Ok(())
    }

    /// What the sweeps wrote is shown, all of it.
    fn shown(&mut self, results: &str) -> Result<()> {
        let shown: Vec<Source> = tables(results)
            .into_iter()
            .filter_map(|table| Some(table.origin?.1.source))
            .collect();
        let folder = self.root.join(TABLES);
        for entry in
            fs::read_dir(&folder).with_context(|| format!("reading {}", folder.display()))?
        {
            let path = entry?.path();
            let (Some(name), Some("md")) = (
                path.file_stem(),
                path.extension().and_then(|end| end.to_str()),
            ) else {
                continue;
            };
            let name = name.to_string_lossy().into_owned();
            for table in 1..=kept(self.root, &name)?.unwrap_or_default().len() {
                if !shown.contains(&Source::Sweep {
                    name: name.clone(),
                    table,
                }) {
                    self.faults.push(format!(
                        "{RESULTS} does not show table {table} of {TABLES}/{name}.md"
                    ));
                }
            }
        }
        Ok(())
    }
}

/// The tables that a sweep wrote, as docs/sweeps/tables keeps them; none if it doesn't.
fn kept(root: &Path, name: &str) -> Result<Option<Vec<Table>>> {
    let path = root.join(TABLES).join(format!("{name}.md"));
    if !path.is_file() {
        return Ok(None);
    }
    Ok(Some(tables(
        &fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?,
    )))
}

/// Puts the tables of a finished sweep into docs/sweeps/tables and the pages.
fn put(root: &Path, name: &str, runs: &Path, commit: Option<&str>) -> Result<()> {
    let sweep = read(root, &format!("{SWEEPS}/{name}.toml"))?;
    if read(runs, "sweep.toml")? != sweep {
        bail!(
            "{} was not made by {SWEEPS}/{name}.toml as it is now: run that sweep",
            runs.display()
        );
    }
    complete(&runs.join("table.csv"))?;
    let commit = match commit {
        Some(commit) => commit.to_owned(),
        None => commit_of(root, &sweep, runs)?,
    };
    let marked = match age(root, &commit, git::CODE) {
        Age::Current => false,
        Age::Older(_) => true,
        Age::Unknown(why) => bail!("the age of commit {commit} can't be said: {why}"),
        Age::NoSuchCommit => bail!("the history has no commit {commit}"),
    };
    let markdown = read(runs, "table.md")?;
    let new = tables(&markdown);
    let results = read(root, RESULTS)?;
    for number in 1..=new.len() {
        let source = Source::Sweep {
            name: name.to_owned(),
            table: number,
        };
        if !tables(&results).iter().any(|table| {
            table
                .origin
                .as_ref()
                .is_some_and(|(_, origin)| origin.source == source)
        }) {
            let line = Origin {
                source,
                commit: commit.clone(),
                marked,
            }
            .line();
            bail!(
                "{RESULTS} has no place for table {number} of {name}: where it shall stand, write this line and any table below it:\n{line}"
            );
        }
    }
    let mut pages = vec![];
    for page in PAGES {
        let text = with_tables(&read(root, page)?, name, &commit, marked, &new);
        pages.push((
            root.join(page),
            with_quotes(&text, name, &new).map_err(|fault| anyhow::anyhow!("{page}: {fault}"))?,
        ));
    }
    pages.push((root.join(TABLES).join(format!("{name}.md")), markdown));
    pages.push((
        root.join(TABLES).join(format!("{name}.csv")),
        read(runs, "table.csv")?,
    ));
    for (path, text) in &pages {
        crmt_data::write_atomically(path, text.as_bytes())
            .with_context(|| format!("writing {}", path.display()))?;
    }
    say(&format!(
        "{name}: {} tables of commit {commit} are in {RESULTS}; what prose says of them is yours to read again\n",
        new.len()
    ))
}

/// Refuses a table of which runs are missing.
fn complete(csv: &Path) -> Result<()> {
    let mut reader =
        csv::Reader::from_path(csv).with_context(|| format!("reading {}", csv.display()))?;
    let place =
        |headers: &csv::StringRecord, name: &str| headers.iter().position(|header| header == name);
    let headers = reader.headers()?.clone();
    let (Some(finished), Some(planned)) = (place(&headers, "finished"), place(&headers, "planned"))
    else {
        bail!("{} is no table of a sweep", csv.display());
    };
    for row in reader.records() {
        let row = row?;
        if row.get(finished) != row.get(planned) {
            bail!("{}: runs are missing: give the sweep again", csv.display());
        }
    }
    Ok(())
}

/// The commit of all runs of a sweep: the oldest, where the code did not change between several.
fn commit_of(root: &Path, sweep: &str, runs: &Path) -> Result<String> {
    let commits: toml::Table = read(runs, sweep::COMMITS)?
        .parse()
        .context("commits.toml")?;
    let mut all: Vec<Commit> = vec![];
    for run in sweep::plan_of(sweep)?.1 {
        let Some(commit) = commits
            .get(&run)
            .and_then(toml::Value::as_str)
            .map(Commit::parse)
        else {
            bail!(
                "of which commit {run} is was not noted, for the sweep ran a --driver: say it by --commit"
            );
        };
        if commit.clean().is_none() {
            bail!(
                "{run} was made by {commit}: commit them, move the runs away, and give the sweep again"
            );
        }
        if let Some(other) = all
            .iter()
            .find(|other| other.differs(&commit, root, git::CODE))
        {
            bail!(
                "the runs are of commits {other} and {commit}, between which the code changed: move the older ones away, and \
                 give the sweep again"
            );
        }
        all.push(commit);
    }
    let names = all.iter().filter_map(Commit::clean);
    let oldest =
        names.max_by_key(|name| git::changes(root, name, "HEAD", &[]).map(|log| log.len()));
    oldest.map(str::to_owned).context("the sweep has no runs")
}

fn read(folder: &Path, name: &str) -> Result<String> {
    let path: PathBuf = folder.join(name);
    fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))
}
