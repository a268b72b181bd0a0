//! Every setting's meaning and what it may be, read from the plan's own types: their doc comments
//! and ranges. Does not know what a setting does, nor where a value came from.
use super::{sections::SEEDS, whole::Plan};
use crmt_data::visible;
use schemars::generate::SchemaSettings;
use serde_json::Value as Json;
use std::sync::LazyLock;
use toml::Value;

/// One setting.
#[derive(Debug, Clone)]
pub struct Setting {
    /// Dotted; of an open table it ends in `.NAME`, which stands for a name of the data set.
    pub key: String,
    /// One line.
    pub meaning: String,
    /// What it may be.
    pub kind: Kind,
}

/// What a setting may be.
#[derive(Debug, Clone, PartialEq)]
pub enum Kind {
    /// True or false.
    Flag,
    /// A whole number.
    Count {
        /// Smallest.
        min: u64,
        /// Largest.
        max: u64,
    },
    /// A number.
    Number {
        /// Smallest, and whether it is allowed itself.
        min: (f64, bool),
        /// Largest, and whether it is allowed itself.
        max: (f64, bool),
        /// Infinity is a value, too.
        infinite: bool,
    },
    /// A text.
    Text {
        /// The allowed ones; empty for any.
        choices: Vec<String>,
        /// In characters.
        least: usize,
    },
    /// Several.
    List {
        /// Each of them.
        of: Box<Kind>,
        /// Fewest.
        least: usize,
        /// Most.
        most: usize,
    },
}

/// All of them, in the plan's order.
pub fn settings() -> &'static [Setting] {
    static SETTINGS: LazyLock<Vec<Setting>> = LazyLock::new(|| {
        let whole = SchemaSettings::draft2020_12().with(|s| s.inline_subschemas = true);
        let schema = whole.into_generator().into_root_schema_for::<Plan>();
        let mut settings = vec![];
        collect("", schema.as_value(), &mut settings);
        settings
    });
    &SETTINGS
}

/// The setting of a key as it is typed: of an open table, any name will do.
pub fn setting(key: &str) -> Option<&'static Setting> {
    let names = |setting: &Setting| {
        let table = setting.key.strip_suffix(OPEN)?;
        key.strip_prefix(table)?.strip_prefix('.')
    };
    settings().iter().find(|s| {
        s.key == key || names(s).is_some_and(|name| !name.is_empty() && !name.contains('.'))
    })
}

/// How the key of an open table ends.
pub const OPEN: &str = ".NAME";

fn collect(key: &str, schema: &Json, settings: &mut Vec<Setting>) {
    if let Some(properties) = schema["properties"].as_object() {
        let inside = |name: &String| {
            if key.is_empty() {
                name.clone()
            } else {
                format!("{key}.{name}")
            }
        };
        properties
            .iter()
            .for_each(|(name, inner)| collect(&inside(name), inner, settings));
        return;
    }
    let text = schema["description"].as_str().unwrap_or_default();
    let meaning = text.split_whitespace().collect::<Vec<_>>().join(" ");
    let (key, kind) = match schema["additionalProperties"].is_object() {
        true => (
            format!("{key}{OPEN}"),
            kind(&schema["additionalProperties"]),
        ),
        false => (key.to_owned(), kind(schema)),
    };
    settings.push(Setting { key, meaning, kind });
}

fn kind(schema: &Json) -> Kind {
    let size = |key: &str| schema[key].as_u64();
    let bound = |inclusive: &str, exclusive: &str, none: f64| match (
        schema[inclusive].as_f64(),
        schema[exclusive].as_f64(),
    ) {
        (_, Some(bound)) => (bound, false),
        (Some(bound), _) => (bound, true),
        (None, None) => (none, false),
    };
    match schema["type"].as_str() {
        Some("boolean") => Kind::Flag,
        Some("integer") => Kind::Count {
            min: size("minimum").unwrap_or(0),
            max: size("maximum").unwrap_or(SEEDS),
        },
        Some("number") => {
            let (min, max) = (
                bound("minimum", "exclusiveMinimum", f64::NEG_INFINITY),
                bound("maximum", "exclusiveMaximum", f64::INFINITY),
            );
            Kind::Number {
                min,
                max,
                infinite: schema["infinite"].as_bool() == Some(true),
            }
        }
        Some("array") => Kind::List {
            of: Box::new(kind(&schema["items"])),
            least: size("minItems").unwrap_or(0) as usize,
            most: size("maxItems").unwrap_or(1000) as usize,
        },
        _ => {
            let choices = schema["enum"].as_array().into_iter().flatten();
            let choices = choices
                .filter_map(|c| c.as_str().map(str::to_owned))
                .collect();
            Kind::Text {
                choices,
                least: size("minLength").unwrap_or(0) as usize,
            }
        }
    }
}

impl Kind {
    /// A value as people write it in this kind's type, e.g. `.5`, or `0.5,1` for a list. `None`: it
    /// is of another type. Whether it is in range, [`allows`](Self::allows) says.
    pub fn read(&self, value: &Value) -> Option<Value> {
        match (self, value) {
            (Self::Number { .. }, Value::Integer(i)) => Some(Value::Float(*i as f64)),
            (Self::Number { .. }, Value::String(text)) => {
                text.trim().parse().ok().map(Value::Float)
            }
            (Self::List { of, .. }, Value::Array(items)) => items
                .iter()
                .map(|item| of.read(item))
                .collect::<Option<_>>()
                .map(Value::Array),
            (Self::List { of, .. }, Value::String(text)) => {
                let text = text.trim();
                let inner = text
                    .strip_prefix('[')
                    .and_then(|t| t.strip_suffix(']'))
                    .unwrap_or(text);
                if inner.trim().is_empty() {
                    return Some(Value::Array(vec![]));
                }
                let parts = inner.split(',').map(|part| of.read(&of.item(part.trim())));
                parts.collect::<Option<_>>().map(Value::Array)
            }
            (Self::List { of, .. }, value) => of.read(value).map(|value| Value::Array(vec![value])),
            (Self::Flag, Value::Boolean(_))
            | (Self::Count { .. }, Value::Integer(0..))
            | (Self::Number { .. }, Value::Float(_))
            | (Self::Text { .. }, Value::String(_)) => Some(value.clone()),
            _ => None,
        }
    }

    /// A part of a list as it is typed.
    fn item(&self, part: &str) -> Value {
        let typed = || {
            format!("v = {part}")
                .parse::<toml::Table>()
                .ok()?
                .remove("v")
        };
        let number = if matches!(self, Self::Text { .. }) {
            None
        } else {
            typed()
        };
        number.unwrap_or_else(|| Value::String(part.to_owned()))
    }

    /// Whether a value of the right type is in range.
    pub fn allows(&self, value: &Value) -> bool {
        match (self, value) {
            (Self::Count { min, max }, Value::Integer(i)) => {
                u64::try_from(*i).is_ok_and(|i| (*min..=*max).contains(&i))
            }
            (Self::Number { infinite: true, .. }, Value::Float(x)) if *x == f64::INFINITY => true,
            (Self::Number { min, max, .. }, Value::Float(x)) => {
                x.is_finite()
                    && (*x > min.0 || min.1 && *x == min.0)
                    && (*x < max.0 || max.1 && *x == max.0)
            }
            (Self::Text { choices, least }, Value::String(text)) => {
                text.chars().count() >= *least
                    && visible(text) == *text
                    && (choices.is_empty() || choices.contains(text))
            }
            (Self::List { of, least, most }, Value::Array(items)) => {
                (*least..=*most).contains(&items.len()) && items.iter().all(|item| of.allows(item))
            }
            (Self::Flag, Value::Boolean(_)) => true,
            _ => false,
        }
    }
}

/// What is expected, to follow that word.
impl std::fmt::Display for Kind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Flag => f.write_str("true or false"),
            Self::Count { min, max } => write!(f, "a whole number from {min} to {max}"),
            Self::Number { min, max, infinite } => {
                f.write_str("a number")?;
                match (min, max) {
                    ((lo, true), (hi, true)) => {
                        write!(f, " from {} to {}", number(*lo), number(*hi))?
                    }
                    ((lo, allowed), (hi, _)) => {
                        if lo.is_finite() {
                            write!(
                                f,
                                " {} {}",
                                if *allowed { "of at least" } else { "above" },
                                number(*lo)
                            )?;
                        }
                        if hi.is_finite() {
                            write!(
                                f,
                                "{}below {}",
                                if lo.is_finite() { " and " } else { " " },
                                number(*hi)
                            )?;
                        }
                    }
                }
                f.write_str(if *infinite { ", or inf" } else { "" })
            }
            Self::Text { choices, .. } if choices.is_empty() => f.write_str("a text"),
            Self::Text { choices, .. } => write!(f, "one of {}", choices.join(", ")),
            Self::List { of, least, most } => {
                let of = match &**of {
                    Self::Text { .. } => "names".to_owned(),
                    of => format!("items, each {of}"),
                };
                write!(f, "a list of {least} to {most} {of}")
            }
        }
    }
}

/// A value for a message: on one line, and not longer than helps.
pub fn shown(value: &Value) -> String {
    const MOST: usize = 80;
    let text = visible(&value.to_string());
    match text.char_indices().nth(MOST) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

/// In powers of ten where zeros would have to be counted.
fn number(x: f64) -> String {
    if x != 0.0 && !(1e-4..1e5).contains(&x.abs()) {
        format!("{x:e}")
    } else {
        format!("{x}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kind(key: &str) -> &'static Kind {
        &setting(key)
            .unwrap_or_else(|| panic!("no setting {key}"))
            .kind
    }

    #[test]
    fn every_setting_of_the_plan_has_a_meaning_and_a_default_in_its_range() {
        let plan: toml::Table = toml::Table::try_from(Plan::default()).unwrap();
        let keys = crate::settings::flatten(&plan);
        for (key, value) in &keys {
            let setting =
                setting(key).unwrap_or_else(|| panic!("{key} is in the plan and has no setting"));
            assert!(
                setting.kind.allows(value),
                "{key} = {value} is not {}",
                setting.kind
            );
        }
        for setting in settings() {
            assert!(
                setting.key.ends_with(OPEN) || keys.iter().any(|(key, _)| *key == setting.key),
                "{}",
                setting.key
            );
            let meaning = &setting.meaning;
            assert!(
                meaning.len() > 8 && !meaning.contains("[`") && meaning.ends_with('.'),
                "{}: {meaning}",
                setting.key
            );
        }
    }

    #[test]
    fn what_people_type_is_read_by_what_is_expected() {
        let text = |text: &str| Value::String(text.into());
        let read = |key: &str, typed: &str| kind(key).read(&text(typed));
        for (typed, value) in [(".001", 0.001), ("5.", 5.0), ("+.5e1", 5.0), ("-.5", -0.5)] {
            assert_eq!(
                read("train.learning_rate", typed),
                Some(value.into()),
                "{typed}"
            );
        }
        for typed in ["[.5, 1]", ".5,1", "0.5 , 1.0", "[.5,1.]"] {
            assert_eq!(
                read("evaluate.eps", typed),
                Some(vec![0.5, 1.0].into()),
                "{typed}"
            );
            assert_eq!(
                read("certify.eps", typed),
                Some(vec![0.5, 1.0].into()),
                "{typed}"
            );
        }
        assert_eq!(read("evaluate.threats", ""), Some(Value::Array(vec![])));
        assert_eq!(read("modalities", "1,2"), Some(vec!["1", "2"].into()));
        assert_eq!(
            read("evaluate.threats", "image, joint"),
            Some(vec!["image", "joint"].into())
        );
        assert_eq!(read("train.learning_rate", "fast"), None);
        assert_eq!(read("train.epochs", ".5"), None);
        assert_eq!(
            kind("evaluate.eps").read(&Value::Integer(1)),
            Some(vec![1.0].into())
        );
    }

    #[test]
    fn ranges_are_told_in_words() {
        for (key, words) in [
            ("train.epochs", "a whole number from 1 to 1000000"),
            ("seed", "a whole number from 0 to 9223372036854775807"),
            ("train.warmup", "a number above 0 and below 1"),
            ("train.momentum", "a number of at least 0 and below 1"),
            (
                "synthetic.image_snr_db",
                "a number of at least -300, or inf",
            ),
            ("train.weight_decay", "a number from 0 to 1000"),
            ("train.schedule", "one of one-cycle, cosine, step, constant"),
            ("smooth.sigmas.audio", "a number from 0 to 1e6"),
            ("step2.enabled", "true or false"),
            (
                "evaluate.eps",
                "a list of 1 to 1000 items, each a number from 1e-9 to 1e9",
            ),
        ] {
            assert_eq!(kind(key).to_string(), words, "{key}");
        }
        let extreme = |key: &str, x: f64| kind(key).allows(&Value::Float(x));
        assert!(
            extreme("synthetic.image_snr_db", f64::INFINITY)
                && !extreme("synthetic.image_snr_db", f64::NAN)
        );
        assert!(
            !extreme("train.weight_decay", f64::INFINITY) && extreme("train.weight_decay", 1000.0)
        );
        assert!(!extreme("train.momentum", 1.0) && extreme("train.momentum", 0.0));
    }
}
