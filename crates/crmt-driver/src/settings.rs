//! Settings as written (file, `--set`, flags), merged over a method and the defaults, with the
//! origin of each value. Does not know what a setting means; `plan.rs` does.
use crate::{methods::METHODS, plan::Plan};
use anyhow::{Context, Result, bail};
use std::{collections::BTreeMap, fmt::Write, path::Path};
use toml::{Table, Value};

/// Open tables: their keys are names of modalities, not ours. With a value of the type they hold.
const OPEN: &[(&str, Value)] = &[
    ("model.encoders", Value::String(String::new())),
    ("train.noises", Value::Float(0.0)),
    ("adversary.budgets", Value::Float(0.0)),
    ("smooth.sigmas", Value::Float(0.0)),
];

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
            std::fs::read_to_string(path).with_context(|| format!("can't read the config {}", path.display()))?;
        let table: Table = text.parse().with_context(|| format!("{} is not valid TOML", path.display()))?;
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
        let mut merged: BTreeMap<String, (Value, String)> =
            known.iter().map(|(key, value)| (key.clone(), (value.clone(), "default".to_owned()))).collect();
        let default_method = merged["method"].0.clone();
        let method = self.values.get("method").map_or(&default_method, |(value, _)| value);
        if let Some(method) = METHODS.iter().find(|m| Some(m.name) == method.as_str()) {
            let table: Table = method.settings.parse().expect("a method's settings are TOML");
            for (key, value) in flatten(&table) {
                merged.insert(key, (value, format!("method {}", method.name)));
            }
        }
        for (key, (value, origin)) in &self.values {
            let inside = |table: &str| key.strip_prefix(table).is_some_and(|rest| rest.starts_with('.'));
            let like = OPEN.iter().find(|(table, _)| inside(table)).map(|(_, like)| like);
            match merged.get(key).map(|(default, _)| default).or(like).map(|like| coerce(value, like)) {
                Some(Ok(value)) => drop(merged.insert(key.clone(), (value, origin.clone()))),
                Some(Err(expected)) => faults.push(format!("{key} = {value} ({origin}): expected {expected}")),
                None => faults.push(unknown(key, origin, merged.keys())),
            }
        }
        let mut table = Table::new();
        for (key, (value, _)) in &merged {
            insert(&mut table, key, value.clone());
        }
        for (open, _) in OPEN {
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
                    let origin = merged.get(&key).map_or_else(String::new, |(_, origin)| origin.clone());
                    (key, value, origin)
                };
                Ok(Resolved { origins: order.into_iter().map(|(key, value)| origin(key, value)).collect(), plan })
            }
            _ => bail!("{}", faults.join("\n")),
        }
    }
}

impl Resolved {
    /// A table of key, value and origin, for `--explain`.
    pub fn explain(&self) -> String {
        let width = |f: fn(&(String, Value, String)) -> usize| self.origins.iter().map(f).max().unwrap_or(0);
        let (keys, values) = (width(|r| r.0.len()), width(|r| r.1.to_string().len()));
        self.origins.iter().fold(String::new(), |mut text, (key, value, origin)| {
            let value = value.to_string();
            let _ = writeln!(text, "{key:keys$}  {value:values$}  {origin}");
            text
        })
    }
}

/// Dotted keys and their values, tables opened.
pub fn flatten(table: &Table) -> Vec<(String, Value)> {
    let mut out = vec![];
    for (key, value) in table {
        match value {
            Value::Table(inner) => {
                out.extend(flatten(inner).into_iter().map(|(rest, value)| (format!("{key}.{rest}"), value)));
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
            let inner = table.entry(head).or_insert_with(|| Value::Table(Table::new()));
            if let Value::Table(inner) = inner {
                insert(inner, rest, value);
            }
        }
    }
}

fn insert_default(table: &mut Table, key: &str) {
    match key.split_once('.') {
        None => drop(table.entry(key).or_insert_with(|| Value::Table(Table::new()))),
        Some((head, rest)) => {
            if let Value::Table(inner) = table.entry(head).or_insert_with(|| Value::Table(Table::new())) {
                insert_default(inner, rest);
            }
        }
    }
}

fn parse_value(text: &str) -> Value {
    format!("v = {text}").parse::<Table>().ok().and_then(|mut t| t.remove("v")).unwrap_or_else(|| {
        // `--set evaluate.eps=0.5,1` is what people type first.
        let numbers: Option<Vec<f64>> = text.split(',').map(|part| part.trim().parse().ok()).collect();
        match numbers {
            Some(numbers) if numbers.len() > 1 => numbers.into(),
            _ => Value::String(text.to_owned()),
        }
    })
}

/// `value` in the type of `like`, or what was expected.
fn coerce(value: &Value, like: &Value) -> Result<Value, &'static str> {
    match (value, like) {
        (Value::Integer(i), Value::Float(_)) => Ok(Value::Float(*i as f64)),
        (Value::Integer(i), Value::Integer(_)) if *i < 0 => Err("a whole number that is not negative"),
        (Value::Array(items), Value::Array(like)) => {
            // What an empty default holds, the plan's type checks.
            let Some(like) = like.first() else { return Ok(value.clone()) };
            let expected = "a list of numbers";
            let items = items.iter().map(|item| coerce(item, like));
            let expected = if like.is_str() { "a list of names" } else { expected };
            items.collect::<Result<_, _>>().map(Value::Array).map_err(|_| expected)
        }
        (Value::Float(_) | Value::Integer(_), Value::Array(like)) => {
            coerce(&Value::Array(vec![value.clone()]), &Value::Array(like.clone()))
        }
        (Value::String(text), Value::Array(like)) if like.first().is_none_or(Value::is_str) => {
            Ok(Value::Array(text.split(',').map(|part| Value::String(part.trim().to_owned())).collect()))
        }
        (value, like) if value.same_type(like) => Ok(value.clone()),
        (_, Value::Integer(_)) => Err("a whole number"),
        (_, Value::Float(_)) => Err("a number"),
        (_, Value::Boolean(_)) => Err("true or false"),
        (_, Value::Array(_)) => Err("a list"),
        _ => Err("a string"),
    }
}

fn unknown<'a>(key: &str, origin: &str, known: impl Iterator<Item = &'a String>) -> String {
    let nearest = known
        .map(|k| {
            let last = |s: &str| s.rsplit('.').next().unwrap_or_default().to_owned();
            // A right name in a wrong table is as likely as a misspelling.
            (strsim::jaro_winkler(k, key).max(0.95 * strsim::jaro_winkler(&last(k), &last(key))), k)
        })
        .max_by(|a, b| a.0.total_cmp(&b.0));
    match nearest {
        Some((likeness, k)) if likeness > 0.75 => format!("unknown key `{key}` ({origin}): did you mean `{k}`?"),
        _ => format!("unknown key `{key}` ({origin}): `train --explain` lists the keys"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolve(assignments: &[&str]) -> Result<Resolved> {
        let mut settings = Settings::default();
        assignments.iter().try_for_each(|a| settings.read_assignment(a))?;
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
        assert_eq!((r.plan.train.rho, r.plan.model.head.as_str()), (1.0, "orthonormal"));
        assert_eq!(r.plan.model.encoders["image"], "mlp");
        assert_eq!(r.plan.evaluate.eps, [0.5, 2.0]);
        assert_eq!(r.plan.evaluate.attacks, ["fgm", "pgd"]);
        let origin = |key: &str| r.origins.iter().find(|o| o.0 == key).unwrap().2.clone();
        assert_eq!(origin("train.rho"), "--set");
        assert_eq!(origin("model.head"), "method crmt-jt");
        assert_eq!(origin("seed"), "default");
        assert!(r.explain().contains("method crmt-jt"));
    }

    #[test]
    fn every_fault_is_told_at_once_with_a_suggestion() {
        let e =
            resolve(&["train.epoch=3", "learning_rate=0.1", "train.batch=many", "seed=-1"]).unwrap_err().to_string();
        for part in ["did you mean `train.epochs`", "did you mean `train.learning_rate`", "a whole number", "seed = -1"]
        {
            assert!(e.contains(part), "{part} is not in:\n{e}");
        }
    }

    #[test]
    fn a_resolved_plan_resolves_to_itself() {
        let first = resolve(&["method=crmt-at", "model.encoders.audio=mlp", "train.epochs=3", "smooth.sigmas.image=1"])
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
