//! The sweep file: parsed, with every fault reported at once. Knows no key of the driver's own
//! configuration: the driver names wrong ones itself.
use super::column::Column;
use super::print::{escaped, printable};
use super::suggestion::suggestion;
use anyhow::{Result, bail};
use std::collections::BTreeMap;
use std::path::PathBuf;
use toml::{Table, Value};

/// What a sweep file says.
#[derive(Debug)]
pub struct Spec {
    pub name: String,
    /// Where the runs go.
    pub out: PathBuf,
    /// Settings of all runs, by dotted key.
    pub base: BTreeMap<String, Value>,
    /// What varies, outermost first: `method`, then by name, `seed` last.
    pub grid: Vec<(String, Vec<Value>)>,
    /// Settings that vary together: each is combined with every point of the grid; all have the
    /// same keys.
    pub variants: Vec<Variant>,
    /// What to show; at least one.
    pub tables: Vec<Shown>,
}

/// One of [`Spec::variants`].
#[derive(Debug)]
pub struct Variant {
    /// What its rows are called, instead of by its settings.
    pub label: Option<String>,
    pub settings: BTreeMap<String, Value>,
}

/// Columns side by side.
#[derive(Debug)]
pub struct Shown {
    pub title: Option<String>,
    pub columns: Vec<Column>,
}

/// More runs than this are a mistake: a grid's lists multiply.
const MOST: u128 = 10_000;
const TOP: &[&str] = &["name", "out", "base", "full", "grid", "variants", "table"];
const TABLE: &[&str] = &["title", "columns"];

impl Spec {
    /// Parses a sweep file; `full`: with what its section `[full]` says in the place of `[base]`'s,
    /// under a name of its own.
    ///
    /// # Errors
    /// All faults together, one line each.
    pub fn parse(text: &str, full: bool) -> Result<Self> {
        let file: Table = text.parse()?;
        let mut faults = Vec::new();
        unprintable(&Value::Table(file.clone()), "", &mut faults);
        unknown(&file, TOP, "", &mut faults);
        let mut name = name(&file, &mut faults);
        if full {
            name.push_str("-full");
        }
        let out = match file.get("out") {
            None => PathBuf::from("runs").join(&name),
            Some(Value::String(out)) => PathBuf::from(if full {
                format!("{out}-full")
            } else {
                out.clone()
            }),
            Some(other) => {
                faults.push(format!("out must be a path, not {other}"));
                PathBuf::new()
            }
        };
        let mut base = settings(&file, "base", &mut faults);
        let whole = settings(&file, "full", &mut faults);
        if full && whole.is_empty() {
            faults.push("--full: the file has no section [full] to say what that is".into());
        }
        if full {
            base.extend(whole);
        }
        let mut grid = Vec::new();
        for (key, value) in settings(&file, "grid", &mut faults) {
            if base.contains_key(&key) {
                faults.push(format!("{key} is in [base] and in [grid]: keep one"));
            }
            grid.extend(list(&key, value, &mut faults).map(|values| (key, values)));
        }
        let variants = variants(&file, &mut faults);
        for key in variants
            .first()
            .into_iter()
            .flat_map(|first| first.settings.keys())
        {
            if base.contains_key(key) || grid.iter().any(|(other, _)| other == key) {
                faults.push(format!(
                    "{key} is in [[variants]] and in [base] or [grid]: keep one"
                ));
            }
        }
        for value in base.get("seed").into_iter().chain(
            grid.iter()
                .filter(|(key, _)| key == "seed")
                .flat_map(|(_, seeds)| seeds),
        ) {
            if value.as_integer().is_none_or(|seed| seed < 0) {
                faults.push(format!(
                    "seed must be a whole number from 0 up, not {value}"
                ));
            }
        }
        let count = runs(&variants, &grid);
        if count > MOST {
            faults.push(format!(
                "the grid has {count} combinations, a sweep at most {MOST}: shorten its lists, or make several sweeps"
            ));
        }
        grid.sort_by_key(|(key, _)| (key == "seed", key != "method", key.clone()));
        let tables = tables(&file, &mut faults);
        if faults.is_empty() {
            Ok(Self {
                name,
                out,
                base,
                grid,
                variants,
                tables,
            })
        } else {
            bail!("{}", faults.join("\n"))
        }
    }
}

/// How many runs the lists multiply to; counted before any of them takes memory.
fn runs(variants: &[Variant], grid: &[(String, Vec<Value>)]) -> u128 {
    let lists = grid.iter().map(|(_, values)| values.len());
    lists.fold(variants.len().max(1) as u128, |product, values| {
        product.saturating_mul(values as u128)
    })
}

/// Names and titles become folders, rows, headings and comments of one line each: what breaks or
/// hides a line is refused in all of them, wherever it stands in the file.
fn unprintable(value: &Value, place: &str, faults: &mut Vec<String>) {
    let below = |key: &str| {
        if place.is_empty() {
            key.to_owned()
        } else {
            format!("{place}.{key}")
        }
    };
    let mut check = |what: &str, text: &str| {
        if let Some(c) = text.chars().find(|c| !printable(*c)) {
            let shown = escaped(text);
            faults.push(format!(
                "{what} = \"{shown}\" has the character U+{:04X}: write plain text of one line",
                u32::from(c)
            ));
        }
    };
    match value {
        Value::String(text) => check(place, text),
        Value::Array(items) => items
            .iter()
            .for_each(|item| unprintable(item, place, faults)),
        Value::Table(table) => {
            for (key, value) in table {
                if key.chars().all(printable) {
                    unprintable(value, &below(key), faults);
                } else {
                    faults.push(format!(
                        "the key {} has a character that can't be printed",
                        escaped(&below(key))
                    ));
                }
            }
        }
        _ => {}
    }
}

fn unknown(table: &Table, known: &[&str], prefix: &str, faults: &mut Vec<String>) {
    for key in table.keys().filter(|key| !known.contains(&key.as_str())) {
        let hint = suggestion(key, known.iter().copied());
        let hint = if hint.is_empty() {
            format!("; known are {}", known.join(", "))
        } else {
            hint
        };
        faults.push(format!("unknown key {prefix}{key}{hint}"));
    }
}

fn name(file: &Table, faults: &mut Vec<String>) -> String {
    match file.get("name") {
        Some(Value::String(name))
            if !name.is_empty()
                && name
                    .chars()
                    .all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c)) =>
        {
            name.clone()
        }
        Some(other) => {
            faults.push(format!(
                "name = {other}: use letters, digits, - _ and . only"
            ));
            String::new()
        }
        None => {
            faults.push(
                "name is missing: add name = \"…\", which also names the folder of the runs".into(),
            );
            String::new()
        }
    }
}

/// The section `name` by dotted keys, whether they are written dotted, quoted or nested.
fn settings(file: &Table, name: &str, faults: &mut Vec<String>) -> BTreeMap<String, Value> {
    let mut settings = BTreeMap::new();
    match file.get(name) {
        None => {}
        Some(Value::Table(table)) => flatten(table, "", &mut settings, faults),
        Some(other) => faults.push(format!("{name} must be a section, [{name}], not {other}")),
    }
    settings
}

/// The tables `[[variants]]`, by dotted keys.
fn variants(file: &Table, faults: &mut Vec<String>) -> Vec<Variant> {
    let tables = match file.get("variants") {
        None => return vec![],
        Some(value) => value.clone().try_into::<Vec<Table>>(),
    };
    let Ok(tables) = tables else {
        faults.push("variants must be tables: write each under [[variants]]".into());
        return vec![];
    };
    let mut variants: Vec<Variant> = vec![];
    for mut table in tables {
        let label = text(&mut table, "label", "variants.", faults);
        let mut settings = BTreeMap::new();
        flatten(&table, "", &mut settings, faults);
        if variants
            .first()
            .is_some_and(|first| !first.settings.keys().eq(settings.keys()))
        {
            faults
                .push("all [[variants]] must have the same keys, so that each has a value to be told apart by".into());
        } else if variants.iter().any(|other| other.settings == settings) {
            faults.push("two of the [[variants]] are the same".into());
        }
        if variants
            .first()
            .is_some_and(|first| first.label.is_some() != label.is_some())
        {
            faults.push(
                "some [[variants]] have a label and some have none: label all of them".into(),
            );
        } else if label.is_some() && variants.iter().any(|other| other.label == label) {
            faults.push(format!(
                "two of the [[variants]] have the label {}",
                label.as_deref().unwrap_or_default()
            ));
        }
        variants.push(Variant { label, settings });
    }
    variants
}

/// Takes the string `key` out of a table.
fn text(table: &mut Table, key: &str, prefix: &str, faults: &mut Vec<String>) -> Option<String> {
    match table.remove(key)? {
        Value::String(text) if !text.is_empty() => Some(text),
        other => {
            faults.push(format!("{prefix}{key} must be some text, not {other}"));
            None
        }
    }
}

fn flatten(
    table: &Table,
    prefix: &str,
    settings: &mut BTreeMap<String, Value>,
    faults: &mut Vec<String>,
) {
    for (key, value) in table {
        let key = format!("{prefix}{key}");
        if let Value::Table(inner) = value {
            flatten(inner, &format!("{key}."), settings, faults);
        } else if settings.insert(key.clone(), value.clone()).is_some() {
            faults.push(format!(
                "{key} is there twice, once quoted and once nested: keep one"
            ));
        }
    }
}

fn list(key: &str, value: Value, faults: &mut Vec<String>) -> Option<Vec<Value>> {
    let Value::Array(values) = value else {
        faults.push(format!(
            "grid.{key} must be a list: write {key} = [{value}], or move it to [base]"
        ));
        return None;
    };
    if values.is_empty() {
        faults.push(format!("grid.{key} is an empty list: nothing would run"));
    }
    for (index, value) in values.iter().enumerate() {
        if values[..index].contains(value) {
            faults.push(format!("grid.{key} has {value} twice"));
        }
    }
    Some(values)
}

/// The section `[table]`, or several, `[[table]]`.
fn tables(file: &Table, faults: &mut Vec<String>) -> Vec<Shown> {
    let tables = match file.get("table") {
        None => vec![Table::new()],
        Some(Value::Table(table)) => vec![table.clone()],
        Some(several) => several.clone().try_into().unwrap_or_else(|_| {
            faults.push(format!(
                "table must be a section, [table], or several, [[table]], not {several}"
            ));
            vec![]
        }),
    };
    let shown = tables.into_iter().map(|mut table| {
        unknown(&table, TABLE, "table.", faults);
        let title = text(&mut table, "title", "table.", faults);
        let columns = match table.get("columns") {
            None => Column::default_set(),
            Some(Value::Array(columns)) => columns
                .iter()
                .filter_map(|column| headed(column, faults))
                .collect(),
            Some(other) => {
                faults.push(format!("table.columns must be a list, not {other}"));
                vec![]
            }
        };
        Shown { title, columns }
    });
    shown.collect()
}

/// `"COLUMN"`, or `{ "HEADING" = "COLUMN" }`.
fn headed(column: &Value, faults: &mut Vec<String>) -> Option<Column> {
    let parsed = match column {
        Value::String(text) => Column::parse(text),
        Value::Table(one) => match one.iter().next() {
            Some((heading, Value::String(text))) if one.len() == 1 => {
                Column::parse(text).and_then(|column| column.headed(heading))
            }
            _ => Err(format!(
                "column {column}: write one heading and its column, {{ \"HEADING\" = \"COLUMN\" }}"
            )),
        },
        other => Err(format!(
            "column {other}: write \"COLUMN\" or {{ \"HEADING\" = \"COLUMN\" }}"
        )),
    };
    parsed.map_err(|fault| faults.push(fault)).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nested_dotted_and_quoted_keys_are_one() {
        let spec = Spec::parse(
            "name = \"a\"\n[base]\ndata = \"synthetic\"\ntrain.rate = 0.1\n\"train.decay\" = 0\n[base.model]\nwidth = 8\n\
             [grid]\nseed = [0, 1]\n\"train.epochs\" = [8]\nmethod = [\"jt\"]\n[grid.attack]\nsteps = [1, 2]\n",
            false,
        )
        .expect("a good file");
        assert_eq!(
            spec.base.keys().collect::<Vec<_>>(),
            ["data", "model.width", "train.decay", "train.rate"]
        );
        let grid: Vec<&str> = spec.grid.iter().map(|(key, _)| key.as_str()).collect();
        assert_eq!(
            grid,
            ["method", "attack.steps", "train.epochs", "seed"],
            "method first, seed last"
        );
        assert_eq!(spec.out, PathBuf::from("runs/a"));
        assert!(
            !spec.tables[0].columns.is_empty(),
            "there are columns without [table]"
        );
    }

    #[test]
    fn every_fault_is_reported_at_once() {
        let text = "nmae = \"x\"\nout = 3\n[base]\nrho = 1\nmethod = \"jt\"\n[grid]\nmethod = [\"jt\"]\nseed = [0, -1, 0]\nrate = 0.1\n\
                    steps = []\n[grids]\n[table]\ncolumn = []\n";
        let faults = Spec::parse(text, false)
            .expect_err("nothing is right")
            .to_string();
        for says in [
            "unknown key nmae, did you mean name?",
            "name is missing",
            "out must be a path, not 3",
            "method is in [base] and in [grid]",
            "seed must be a whole number from 0 up, not -1",
            "grid.seed has 0 twice",
            "grid.rate must be a list: write rate = [0.1]",
            "grid.steps is an empty list",
            "unknown key grids, did you mean grid?",
            "unknown key table.column, did you mean columns?",
        ] {
            assert!(faults.contains(says), "{says}: {faults}");
        }
        assert_eq!(faults.lines().count(), 10, "{faults}");
    }

    #[test]
    fn tables_and_variants_have_names_for_people() {
        let text = "name = \"s\"\n[[variants]]\nlabel = \"joint\"\nmethod = \"jt\"\n[[variants]]\nlabel = \"ours\"\nmethod = \"crmt-jt\"\n\
                    [[table]]\ntitle = \"First\"\ncolumns = [{ \"right\" = \"accuracy.clean\" }, \"radii.joint\"]\n[[table]]\n";
        let spec = Spec::parse(text, false).expect("right");
        assert_eq!(spec.variants[1].label.as_deref(), Some("ours"));
        assert!(
            !spec.variants[1].settings.contains_key("label"),
            "no setting of the driver"
        );
        assert_eq!(
            (spec.tables.len(), spec.tables[0].title.as_deref()),
            (2, Some("First"))
        );
        let headings: Vec<_> = spec.tables[0]
            .columns
            .iter()
            .map(|c| c.heading.as_deref())
            .collect();
        assert_eq!(headings, [Some("right"), None]);
        for (change, says) in [
            (
                ["label = \"ours\"", "label = \"joint\""],
                "two of the [[variants]] have the label joint",
            ),
            (["label = \"ours\"\n", ""], "label all of them"),
            (
                ["label = \"ours\"", "label = 3"],
                "variants.label must be some text, not 3",
            ),
            (
                ["accuracy.clean", "accuracy.*"],
                "a heading is of one column",
            ),
            (["\"radii.joint\"", "3"], "column 3: write"),
            (
                ["{ \"right\" = \"accuracy.clean\" }", "{}"],
                "write one heading and its column",
            ),
            (
                ["title = \"First\"", "titel = \"First\""],
                "unknown key table.titel, did you mean title?",
            ),
        ] {
            let [from, to] = change;
            let fault = Spec::parse(&text.replace(from, to), false)
                .expect_err(says)
                .to_string();
            assert!(fault.contains(says), "{says}: {fault}");
        }
    }

    #[test]
    fn the_whole_has_its_own_settings_and_folder() {
        let text =
            "name = \"s\"\nout = \"o\"\n[base]\na = 1\nb = 2\n[full]\na = 9\n[grid]\nseed = [0]\n";
        let parse = |full| Spec::parse(text, full).expect("right");
        let (small, whole) = (parse(false), parse(true));
        let base = |spec: &Spec| ["a", "b"].map(|key| spec.base[key].as_integer());
        assert_eq!(
            (base(&small), base(&whole)),
            ([Some(1), Some(2)], [Some(9), Some(2)])
        );
        assert_eq!(
            (small.out, whole.out),
            (PathBuf::from("o"), PathBuf::from("o-full"))
        );
        assert_eq!(whole.name, "s-full");
        let none = Spec::parse("name = \"s\"\n[grid]\nseed = [0]\n", true)
            .expect_err("no [full]")
            .to_string();
        assert!(none.contains("[full]"), "{none}");
    }

    #[test]
    fn text_that_breaks_or_hides_a_line_is_refused_everywhere() {
        for (text, says) in [
            (
                "[[variants]]\nlabel = \"two\\nlines\"\na = 1",
                "variants.label = \"two\\nlines\" has the character U+000A",
            ),
            ("[table]\ntitle = \"a\\n\\\\end{document}\"", "table.title"),
            (
                "[table]\ncolumns = [{ \"a\\tb\" = \"accuracy.clean\" }]",
                "the key table.columns.a\\tb",
            ),
            (
                "[base]\ndata = \"a\\u001b[31m\"",
                "base.data = \"a\\u{1b}[31m\" has the character U+001B",
            ),
            (
                "[grid]\nx = [\"a\\u202eb\"]",
                "grid.x = \"a\\u{202e}b\" has the character U+202E",
            ),
            ("[grid]\n\"x\\ny\" = [1]", "the key grid.x\\ny"),
            ("out = \"a\\r\"", "out = \"a\\r\""),
        ] {
            let fault = Spec::parse(&format!("name = \"s\"\n{text}"), false)
                .expect_err(text)
                .to_string();
            assert!(fault.contains(says), "{says}: {fault}");
            assert!(
                !fault.chars().any(|c| c.is_control() && c != '\n'),
                "{fault:?}"
            );
        }
        let plain = "name = \"s\"\n[[variants]]\nlabel = \"Löwe & 狮子, 5 %\"\na = 1";
        assert!(
            Spec::parse(plain, false).is_ok(),
            "letters of any script are text"
        );
    }

    #[test]
    fn a_grid_too_large_is_refused_with_its_size() {
        let list = "[0, 1, 2, 3, 4, 5, 6, 7, 8, 9]";
        let grid = |keys: usize| {
            (0..keys)
                .map(|key| format!("k{key} = {list}\n"))
                .collect::<String>()
        };
        let parse = |keys| Spec::parse(&format!("name = \"s\"\n[grid]\n{}", grid(keys)), false);
        assert!(parse(4).is_ok(), "10,000 runs are many, but can be meant");
        let fault = parse(12).expect_err("10^12 runs").to_string();
        assert!(
            fault.contains("the grid has 1000000000000 combinations, a sweep at most 10000"),
            "{fault}"
        );
        assert!(parse(50).is_err(), "10^50 is more than any counter");
    }

    #[test]
    fn sections_and_names_have_their_form() {
        for (text, says) in [
            ("name = \"a/b\"", "name = \"a/b\": use letters"),
            ("name = \"a\"\ngrid = 1", "grid must be a section"),
            (
                "name = \"a\"\n[base]\n\"x.y\" = 1\n[base.x]\ny = 2",
                "x.y is there twice",
            ),
            (
                "name = \"a\"\n[table]\ncolumns = [\"acuracy.clean\"]",
                "did you mean accuracy?",
            ),
            (
                "name = \"a\"\nzzz = 1",
                "unknown key zzz; known are name, out, base, full, grid, variants, table",
            ),
            ("name = ", "TOML parse error"),
        ] {
            let fault = format!("{:#}", Spec::parse(text, false).expect_err(text));
            assert!(fault.contains(says), "{says}: {fault}");
        }
    }
}
