//! Settings as written (file, `--set`, flags), merged over a method and the defaults, with the
//! origin of each value. Does not know what a setting means; the plan does.
use crate::{
    methods::METHODS,
    plan::{
        Plan,
        schema::{self, OPEN, Setting, setting, shown},
    },
};
use anyhow::{Context, Result, bail};
use crmt_data::{read_text, visible};
use std::{collections::BTreeMap, path::Path};
use toml::{Table, Value};

/// What was asked for, by dotted key.
#[derive(Debug, Default)]
pub struct Settings {
    values: BTreeMap<String, (Value, String)>,
}

/// A plan, and where each of its values came from.
#[derive(Debug)]
pub struct Resolved {
    /// The plan.
    pub plan: Plan,
    /// By dotted key, in the plan's order: the value and its origin.
    pub origins: Vec<(String, Value, String)>,
}

impl Settings {
    /// Sets `key`; a later call wins.
    pub fn set(&mut self, key: &str, value: Value, origin: String) {
        self.values.insert(key.to_owned(), (value, origin));
    }

    /// Takes every key of a TOML file.
    pub fn read_file(&mut self, path: &Path) -> Result<()> {
        let text =
            read_text(path).with_context(|| format!("can't read the config {}", path.display()))?;
        let table: Table = text
            .parse()
            .with_context(|| format!("{} is not valid TOML", path.display()))?;
        for (key, value) in flatten(&table) {
            self.set(&key, value, path.display().to_string());
        }
        Ok(())
    }

    /// Takes `key=value`; the value is TOML, or else a string.
    pub fn read_assignment(&mut self, assignment: &str) -> Result<()> {
        let Some((key, value)) = assignment.split_once('=') else {
            bail!("--set {assignment}: write --set key=value, e.g. --set train.epochs=4");
        };
        self.set(key.trim(), parse_value(value.trim()), "--set".into());
        Ok(())
    }

    /// Merges defaults < method < settings, and checks everything; all faults are reported at once.
    pub fn resolve(&self) -> Result<Resolved> {
        let defaults = Table::try_from(Plan::default()).expect("the default plan is a table");
        let known = flatten(&defaults);
        let mut faults = vec![];
        let mut merged: BTreeMap<String, (Value, String)> = known
            .iter()
            .map(|(key, value)| (key.clone(), (value.clone(), "default".to_owned())))
            .collect();
        let default_method = merged["method"].0.clone();
        let method = self
            .values
            .get("method")
            .map_or(&default_method, |(value, _)| value);
        if let Some(method) = METHODS.iter().find(|m| Some(m.name) == method.as_str()) {
            let table: Table = method
                .settings
                .parse()
                .expect("a method's settings are TOML");
            for (key, value) in flatten(&table) {
                merged.insert(key, (value, format!("method {}", method.name)));
            }
        }
        for (key, (value, origin)) in &self.values {
            match setting(key).map(|setting| (&setting.kind, setting.kind.read(value))) {
                Some((_, Some(value))) => drop(merged.insert(key.clone(), (value, origin.clone()))),
                Some((kind, None)) => faults.push(format!(
                    "{} = {} ({origin}): expected {kind}",
                    visible(key),
                    shown(value)
                )),
                None => faults.push(unknown(key, origin, merged.keys())),
            }
        }
        let mut table = Table::new();
        for (key, (value, _)) in &merged {
            insert(&mut table, key, value.clone());
        }
        for open in schema::settings()
            .iter()
            .filter_map(|setting| setting.key.strip_suffix(OPEN))
        {
            insert_default(&mut table, open);
        }
        let plan: Option<Plan> = match table.try_into() {
            Ok(plan) => Some(plan),
            Err(e) => {
                faults.push(e.to_string());
                None
            }
        };
        faults.extend(plan.iter().flat_map(Plan::faults));
        match plan {
            Some(plan) if faults.is_empty() => {
                let order = flatten(&Table::try_from(&plan).expect("a plan is a table"));
                let origin = |key: String, value| {
                    let origin = merged
                        .get(&key)
                        .map_or_else(String::new, |(_, origin)| origin.clone());
                    (key, value, origin)
                };
                Ok(Resolved {
                    origins: order
                        .into_iter()
                        .map(|(key, value)| origin(key, value))
                        .collect(),
                    plan,
                })
            }
            _ => bail!("{}", faults.join("\n")),
        }
    }
}

impl Resolved {
    /// Every key with its value, where that comes from, and what it means, in lines of at most
    /// `width`: for `--explain`.
    pub fn explain(&self, width: usize) -> String {
        let keys = self
            .origins
            .iter()
            .map(|(key, ..)| key.len())
            .max()
            .unwrap_or(0);
        let wrap = |text: String, first: &str| {
            let options = textwrap::Options::new(width.max(40))
                .initial_indent(first)
                .subsequent_indent("    ");
            textwrap::fill(
                &text,
                options.word_splitter(textwrap::WordSplitter::NoHyphenation),
            ) + "\n"
        };
        let meaning = |s: &Setting| wrap(format!("{} Expected: {}.", s.meaning, s.kind), "    ");
        let line = |(key, value, origin): &(String, Value, String)| {
            wrap(format!("{key:keys$}  {value}  {origin}"), "")
                + &setting(key).map(meaning).unwrap_or_default()
        };
        // One for each modality, if any.
        let open = schema::settings().iter().filter(|s| s.key.ends_with(OPEN));
        let open = open.map(|s| wrap(format!("{:keys$}  none  default", s.key), "") + &meaning(s));
        self.origins.iter().map(line).chain(open).collect()
    }
}

/// Dotted keys and their values, tables opened.
pub fn flatten(table: &Table) -> Vec<(String, Value)> {
    let mut out = vec![];
    for (key, value) in table {
        match value {
            Value::Table(inner) => {
                out.extend(
                    flatten(inner)
                        .into_iter()
                        .map(|(rest, value)| (format!("{key}.{rest}"), value)),
                );
            }
            value => out.push((key.clone(), value.clone())),
        }
    }
    out
}

fn insert(table: &mut Table, key: &str, value: Value) {
    match key.split_once('.') {
        None => drop(table.insert(key.to_owned(), value)),
        Some((head, rest)) => {
            let inner = table
                .entry(head)
                .or_insert_with(|| Value::Table(Table::new()));
            if let Value::Table(inner) = inner {
                insert(inner, rest, value);
            }
        }
    }
}

fn insert_default(table: &mut Table, key: &str) {
    match key.split_once('.') {
        None => drop(
            table
                .entry(key)
                .or_insert_with(|| Value::Table(Table::new())),
        ),
        Some((head, rest)) => {
            if let Value::Table(inner) = table
                .entry(head)
                .or_insert_with(|| Value::Table(Table::new()))
            {
                insert_default(inner, rest);
            }
        }
    }
}

/// TOML, or else a string, which [`schema::Kind::read`] understands by what is expected.
fn parse_value(text: &str) -> Value {
    let typed = format!("v = {text}")
        .parse::<Table>()
        .ok()
        .and_then(|mut t| t.remove("v"));
    typed.unwrap_or_else(|| Value::String(text.to_owned()))
}

fn unknown<'a>(key: &str, origin: &str, known: impl Iterator<Item = &'a String>) -> String {
    let nearest = known
        .map(|k| {
            let last = |s: &str| s.rsplit('.').next().unwrap_or_default().to_owned();
            // A right name in a wrong table is as likely as a misspelling.
            (
                strsim::jaro_winkler(k, key).max(0.95 * strsim::jaro_winkler(&last(k), &last(key))),
                k,
            )
        })
        .max_by(|a, b| a.0.total_cmp(&b.0));
    match nearest {
        Some((likeness, k)) if likeness > 0.75 => {
            format!(
                "unknown key `{}` ({origin}): did you mean `{k}`?",
                visible(key)
            )
        }
        _ => format!(
            "unknown key `{}` ({origin}): `train --explain` lists the keys",
            visible(key)
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolve(assignments: &[&str]) -> Result<Resolved> {
        let mut settings = Settings::default();
        assignments
            .iter()
            .try_for_each(|a| settings.read_assignment(a))?;
        settings.resolve()
    }

    #[test]
    fn later_layers_win_and_are_named() {
        let r = resolve(&[
            "method=crmt-jt",
            "train.rho=1",
            "model.encoders.image=mlp",
            "evaluate.eps=0.5,2",
            "evaluate.attacks=fgm,pgd",
        ])
        .unwrap();
        assert_eq!(
            (r.plan.train.rho, r.plan.model.head.as_str()),
            (1.0, "orthonormal")
        );
        assert_eq!(r.plan.model.encoders["image"], "mlp");
        assert_eq!(r.plan.evaluate.eps, [0.5, 2.0]);
        assert_eq!(r.plan.evaluate.attacks, ["fgm", "pgd"]);
        let origin = |key: &str| r.origins.iter().find(|o| o.0 == key).unwrap().2.clone();
        assert_eq!(origin("train.rho"), "--set");
        assert_eq!(origin("model.head"), "method crmt-jt");
        assert_eq!(origin("seed"), "default");
        let explained = r.explain(80);
        assert!(
            explained.contains("method crmt-jt") && explained.contains("train.rho"),
            "{explained}"
        );
        assert!(explained.contains("smooth.sigmas.NAME"), "{explained}");
        assert!(
            explained.lines().all(|line| line.chars().count() <= 80),
            "{explained}"
        );
    }

    #[test]
    fn every_fault_is_told_at_once_with_a_suggestion() {
        let e = resolve(&[
            "train.epoch=3",
            "learning_rate=0.1",
            "train.batch=many",
            "seed=-1",
        ])
        .unwrap_err()
        .to_string();
        for part in [
            "did you mean `train.epochs`",
            "did you mean `train.learning_rate`",
            "a whole number",
            "seed = -1",
        ] {
            assert!(e.contains(part), "{part} is not in:\n{e}");
        }
    }

    #[test]
    fn numbers_are_read_as_people_write_them() {
        let plan = resolve(&[
            "train.learning_rate=.001",
            "evaluate.eps=[.5, 1.]",
            "smooth.sigmas.a=.25",
        ])
        .unwrap()
        .plan;
        assert_eq!(
            (plan.train.learning_rate, plan.smooth.sigmas["a"]),
            (0.001, 0.25)
        );
        assert_eq!(plan.evaluate.eps, [0.5, 1.0]);
        let e = resolve(&["seed=18446744073709551615", "smooth.sigmas.a.b=1"])
            .unwrap_err()
            .to_string();
        assert!(e.contains(
            "seed = \"18446744073709551615\" (--set): expected a whole number from 0 to 9223372036854775807"
        ));
        assert!(e.contains("unknown key `smooth.sigmas.a.b`"), "{e}");
    }

    #[test]
    fn a_resolved_plan_resolves_to_itself() {
        let first = resolve(&[
            "method=crmt-at",
            "model.encoders.audio=mlp",
            "train.epochs=3",
            "smooth.sigmas.image=1",
        ])
        .unwrap()
        .plan;
        let mut again = Settings::default();
        for (key, value) in flatten(&toml::to_string(&first).unwrap().parse().unwrap()) {
            again.set(&key, value, "config.toml".into());
        }
        assert_eq!(again.resolve().unwrap().plan, first);
        assert_eq!(first.smooth.sigmas["image"], 1.0);
    }
}
