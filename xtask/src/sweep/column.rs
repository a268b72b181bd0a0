//! The column language: how a table names one number of a run's `summary.json`, whose schema is the
//! driver's `record.rs`. Computes nothing; docs/sweep.md explains it to users.
use super::suggestion::suggestion;
use serde_json::Value;

/// The columns of a sweep that names none.
const DEFAULT: [&str; 5] = [
    "accuracy.clean",
    "accuracy.missing.*",
    "attacks.strongest.joint.*.*",
    "certified.joint.*",
    "radii.joint",
];

/// What a column may begin with: the fields of a summary that hold numbers.
const ROOTS: &[&str] = &[
    "accuracy",
    "attacks",
    "certified",
    "confusion",
    "radii",
    "seconds",
    "seed",
    "stages",
    "violations",
];

/// A list of entries, each known by some of its fields.
struct Entries {
    name: &'static str,
    /// What tells an entry from the others; `eps` is a number and the last.
    keys: &'static [&'static str],
    /// The field meant when none is named.
    field: &'static str,
}

const LISTS: [Entries; 3] = [
    Entries {
        name: "attacks",
        keys: &["name", "threat", "norm", "eps"],
        field: "accuracy",
    },
    Entries {
        name: "certified",
        keys: &["threat", "eps"],
        field: "accuracy",
    },
    Entries {
        name: "radii",
        keys: &["threat"],
        field: "mean",
    },
];

/// Lists whose numbers are certificates or estimates.
const EVIDENT: &[&str] = &["certified", "radii"];
/// Evidence that makes a certificate; any other is an estimate.
const CERTIFICATES: &[&str] = &["proved", "confident"];

/// Fields that are fractions and printed in percent.
const FRACTIONS: &[&str] = &[
    "accuracy",
    "clean",
    "attacked_samples",
    "vulnerability_share",
];

/// A column as written, and where its numbers are.
#[derive(Debug, Clone)]
pub struct Column {
    /// As the user wrote it.
    pub text: String,
    /// Nobody asked for it by name: no word is lost if no run has it.
    pub optional: bool,
    /// What stands above it, instead of its name.
    pub heading: Option<String>,
    place: Place,
}

#[derive(Debug, Clone)]
enum Place {
    /// Through objects (by key) and arrays (by index).
    Path(Vec<String>),
    /// In a list: one pattern for each of the entry's keys, then a path within the entry.
    Entry {
        list: &'static str,
        patterns: Vec<(&'static str, Pattern)>,
        field: Vec<String>,
    },
}

#[derive(Debug, Clone, PartialEq)]
enum Pattern {
    Any,
    Text(String),
    Number(f64),
}

/// One number a column leads to.
#[derive(Debug, Clone, PartialEq)]
pub struct Found {
    /// The column with its `*` filled in.
    pub name: String,
    pub value: f64,
    /// Rests on an estimated Lipschitz constant: not a certificate.
    pub estimated: bool,
}

impl Column {
    /// Parses the column language.
    ///
    /// # Errors
    /// What is wrong with it, and what it should look like.
    pub fn parse(text: &str) -> Result<Self, String> {
        let (path, field) = text
            .split_once(':')
            .map_or((text, None), |(path, field)| (path, Some(field)));
        let parts: Vec<&str> = path.split('.').collect();
        let root = parts[0];
        if !ROOTS.contains(&root) {
            let hint = suggestion(root, ROOTS.iter().copied());
            let hint = if hint.is_empty() {
                format!("; it may begin with {}", ROOTS.join(", "))
            } else {
                hint
            };
            return Err(format!(
                "column {text}: a summary has no number at {root}{hint}"
            ));
        }
        if text.split(['.', ':']).any(str::is_empty) {
            return Err(format!("column {text}: an empty part"));
        }
        let owned = |parts: &[&str]| {
            parts
                .iter()
                .map(|part| (*part).to_owned())
                .collect::<Vec<_>>()
        };
        let place = match LISTS.iter().find(|list| list.name == root) {
            None if field.is_some() => {
                return Err(format!(
                    "column {text}: {root} is no list, write its fields with dots alone"
                ));
            }
            None => Place::Path(owned(&parts)),
            Some(list) => {
                let patterns = patterns(list, &parts[1..]).ok_or_else(|| {
                    let form = list.keys.iter().map(|key| key.to_uppercase()).collect::<Vec<_>>().join(".");
                    format!("column {text}: write {root}.{form}, with * for any and EPS a number, and :FIELD for another field than {}", list.field)
                })?;
                let field = owned(&field.unwrap_or(list.field).split('.').collect::<Vec<_>>());
                Place::Entry {
                    list: list.name,
                    patterns,
                    field,
                }
            }
        };
        Ok(Self {
            text: text.to_owned(),
            optional: false,
            heading: None,
            place,
        })
    }

    /// The same under a heading of its own.
    ///
    /// # Errors
    /// If it may be several columns.
    pub fn headed(self, heading: &str) -> Result<Self, String> {
        if self.text.contains('*') {
            return Err(format!(
                "column {}: a heading is of one column, write out what * stands for",
                self.text
            ));
        }
        Ok(Self {
            heading: Some(heading.to_owned()),
            ..self
        })
    }

    /// The columns of [`DEFAULT`].
    pub fn default_set() -> Vec<Self> {
        let parsed = DEFAULT.iter().filter_map(|text| Self::parse(text).ok());
        parsed
            .map(|column| Self {
                optional: true,
                ..column
            })
            .collect()
    }

    /// Whether its numbers are fractions, to be printed in percent.
    pub fn is_fraction(&self) -> bool {
        match &self.place {
            Place::Path(parts) => {
                parts[0] == "accuracy" && parts.last().is_none_or(|last| last != "samples")
            }
            Place::Entry { field, .. } => {
                field.len() == 1 && FRACTIONS.contains(&field[0].as_str())
            }
        }
    }

    /// Whether its numbers rest on a certificate or an estimate.
    pub fn has_evidence(&self) -> bool {
        matches!(&self.place, Place::Entry { list, .. } if EVIDENT.contains(list))
    }

    /// In what its numbers are, as a heading says it after the name.
    pub fn unit(&self) -> &'static str {
        if self.is_fraction() {
            return ", %";
        }
        match &self.place {
            Place::Path(parts) if matches!(parts[0].as_str(), "seconds" | "stages") => ", s",
            Place::Entry {
                list: "radii",
                field,
                ..
            } if field[0] == "mean" || field[0] == "quantiles" => ", units",
            _ => "",
        }
    }

    /// The numbers this column leads to in one summary, in its order.
    pub fn find(&self, summary: &Value) -> Vec<Found> {
        match &self.place {
            Place::Path(parts) => {
                let numbers = descend(summary, parts);
                numbers
                    .into_iter()
                    .map(|(path, value)| Found {
                        name: path.join("."),
                        value,
                        estimated: false,
                    })
                    .collect()
            }
            Place::Entry {
                list,
                patterns,
                field,
            } => {
                let entries = summary
                    .get(list)
                    .and_then(Value::as_array)
                    .into_iter()
                    .flatten();
                let matching = entries.filter(|entry| {
                    patterns
                        .iter()
                        .all(|(key, pattern)| pattern.fits(entry.get(key)))
                });
                matching
                    .flat_map(|entry| self.entry(list, patterns, field, entry))
                    .collect()
            }
        }
    }

    fn entry(
        &self,
        list: &str,
        patterns: &[(&'static str, Pattern)],
        field: &[String],
        entry: &Value,
    ) -> Vec<Found> {
        let keys = patterns.iter().map(|(key, _)| match &entry[key] {
            Value::String(text) => text.clone(),
            other => other
                .as_f64()
                .map_or_else(|| other.to_string(), |number| number.to_string()),
        });
        let name = [list.to_owned()]
            .into_iter()
            .chain(keys)
            .collect::<Vec<_>>()
            .join(".");
        let suffix = self.text.contains(':');
        let evidence = entry.get("evidence").and_then(Value::as_str);
        let estimated = self.has_evidence()
            && !evidence.is_some_and(|evidence| CERTIFICATES.contains(&evidence));
        let found = descend(entry, field).into_iter().map(|(path, value)| {
            let name = if suffix {
                format!("{name}:{}", path.join("."))
            } else {
                name.clone()
            };
            Found {
                name,
                value,
                estimated,
            }
        });
        found.collect()
    }
}

fn patterns(list: &Entries, parts: &[&str]) -> Option<Vec<(&'static str, Pattern)>> {
    let numeric = list.keys.last() == Some(&"eps");
    let words = list.keys.len() - usize::from(numeric);
    if parts.len() < list.keys.len() || (!numeric && parts.len() > words) {
        return None;
    }
    let word = |part: &&str| {
        if *part == "*" {
            Pattern::Any
        } else {
            Pattern::Text((*part).to_owned())
        }
    };
    let mut patterns: Vec<(&'static str, Pattern)> = list
        .keys
        .iter()
        .copied()
        .zip(parts[..words].iter().map(word))
        .collect();
    if numeric {
        // The budget has a point of its own: what remains is one number.
        let eps = parts[words..].join(".");
        patterns.push((
            "eps",
            if eps == "*" {
                Pattern::Any
            } else {
                Pattern::Number(eps.parse().ok()?)
            },
        ));
    }
    Some(patterns)
}

impl Pattern {
    fn fits(&self, value: Option<&Value>) -> bool {
        match (self, value) {
            (Self::Any, Some(_)) => true,
            (Self::Text(text), Some(value)) => value.as_str() == Some(text),
            // A budget may have been an f32 on its way: 0.1 comes back as 0.10000000149, off by at
            // most 2^-24 of itself, 6e-8.
            (Self::Number(number), Some(value)) => value
                .as_f64()
                .is_some_and(|value| (value - number).abs() <= 1e-7 * number.abs()),
            (_, None) => false,
        }
    }
}

/// All numbers below `value` along `path`, in which `*` is any key or index.
fn descend(value: &Value, path: &[String]) -> Vec<(Vec<String>, f64)> {
    let Some((first, rest)) = path.split_first() else {
        return value
            .as_f64()
            .map(|number| (Vec::new(), number))
            .into_iter()
            .collect();
    };
    let children: Vec<(String, &Value)> = match value {
        Value::Object(map) => map
            .iter()
            .filter(|(key, _)| first == "*" || *key == first)
            .map(|(key, child)| (key.clone(), child))
            .collect(),
        Value::Array(items) => items
            .iter()
            .enumerate()
            .map(|(index, child)| (index.to_string(), child))
            .filter(|(key, _)| first == "*" || key == first)
            .collect(),
        _ => Vec::new(),
    };
    let below = children.into_iter().flat_map(|(key, child)| {
        descend(child, rest)
            .into_iter()
            .map(move |(mut path, number)| {
                path.insert(0, key.clone());
                (path, number)
            })
    });
    below.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn summary() -> Value {
        json!({
            "method": "jt", "seed": 3, "violations": 0,
            "accuracy": {"clean": 0.9, "samples": 40, "missing": {"b": 0.5, "a": 0.25}},
            "attacks": [
                {"name": "pgd", "threat": "joint", "norm": "l2", "eps": 0.5, "accuracy": 0.7, "clean": 0.9},
                {"name": "strongest", "threat": "joint", "norm": "l2", "eps": 0.5, "accuracy": 0.6, "clean": 0.9},
                {"name": "strongest", "threat": "joint", "norm": "l2", "eps": 1.0, "accuracy": 0.4, "clean": 0.9},
                {"name": "strongest", "threat": "a", "norm": "linf", "eps": 0.1_f32, "accuracy": 0.3, "clean": 0.9},
            ],
            "certified": [
                {"threat": "joint", "eps": 1.0, "accuracy": 0.2, "evidence": "proved", "attacked_samples": null},
                {"threat": "a", "eps": 1.0, "accuracy": 0.1, "evidence": "estimated", "attacked_samples": 0.15},
            ],
            "radii": [{"threat": "joint", "evidence": "proved", "mean": 0.8, "quantiles": [0.0, 0.5, 2.0]}],
        })
    }

    fn found(text: &str) -> Vec<(String, f64)> {
        let column = Column::parse(text).expect(text);
        column
            .find(&summary())
            .into_iter()
            .map(|found| (found.name, found.value))
            .collect()
    }

    fn one(text: &str) -> f64 {
        let found = found(text);
        assert_eq!(found.len(), 1, "{text}: {found:?}");
        found[0].1
    }

    #[test]
    fn every_number_has_an_address() {
        assert_eq!(one("accuracy.clean"), 0.9);
        assert_eq!(one("accuracy.missing.a"), 0.25);
        assert_eq!(one("seed"), 3.0);
        assert_eq!(one("attacks.strongest.joint.l2.1.0"), 0.4);
        assert_eq!(one("attacks.strongest.joint.l2.1"), 0.4);
        assert_eq!(one("attacks.pgd.joint.l2.0.5:clean"), 0.9);
        assert_eq!(
            one("attacks.strongest.a.linf.0.1"),
            0.3,
            "an eps that was an f32 is found"
        );
        assert_eq!(one("certified.joint.1"), 0.2);
        assert_eq!(one("certified.a.1:attacked_samples"), 0.15);
        assert_eq!(one("radii.joint"), 0.8);
        assert_eq!(one("radii.joint:quantiles.1"), 0.5);
    }

    #[test]
    fn the_default_columns_are_all_understood() {
        assert_eq!(Column::default_set().len(), DEFAULT.len());
    }

    #[test]
    fn stars_are_filled_in_and_absent_numbers_are_absent() {
        let named = |name: &str, value: f64| (name.to_owned(), value);
        assert_eq!(
            found("accuracy.missing.*"),
            [
                named("accuracy.missing.b", 0.5),
                named("accuracy.missing.a", 0.25)
            ]
        );
        let strongest = [
            named("attacks.strongest.joint.l2.0.5", 0.6),
            named("attacks.strongest.joint.l2.1", 0.4),
        ];
        assert_eq!(found("attacks.strongest.joint.*.*"), strongest);
        assert_eq!(found("radii.*:quantiles.*").len(), 3);
        assert_eq!(
            found("radii.*:quantiles.2"),
            [named("radii.joint:quantiles.2", 2.0)]
        );
        for absent in [
            "certified.joint.1:attacked_samples",
            "certified.joint.9",
            "accuracy.solo.*",
            "stages.train",
        ] {
            assert_eq!(found(absent), [], "{absent}");
        }
    }

    #[test]
    fn fractions_and_claims_are_known() {
        let fraction = |text: &str| Column::parse(text).expect(text).is_fraction();
        assert!(
            fraction("accuracy.missing.*")
                && fraction("attacks.pgd.a.l2.1")
                && fraction("certified.a.1:attacked_samples")
        );
        assert!(
            !fraction("accuracy.samples")
                && !fraction("radii.joint")
                && !fraction("seconds")
                && !fraction("attacks.pgd.a.l2.1:samples")
        );
        let claimed = |text: &str| Column::parse(text).expect(text).find(&summary())[0].estimated;
        assert!(claimed("certified.a.1") && !claimed("certified.joint.1"));
    }

    #[test]
    fn wrong_columns_say_what_is_right() {
        for (text, says) in [
            ("certfied.joint.1", "did you mean certified?"),
            ("zzz", "it may begin with accuracy, attacks"),
            (
                "attacks.strongest.joint.l2",
                "write attacks.NAME.THREAT.NORM.EPS",
            ),
            ("attacks.strongest.joint.l2.big", "EPS a number"),
            ("certified.joint", "write certified.THREAT.EPS"),
            ("radii.joint.1.0", "write radii.THREAT"),
            ("accuracy:clean", "is no list"),
            ("accuracy..clean", "an empty part"),
        ] {
            let fault = Column::parse(text).expect_err(text);
            assert!(fault.contains(says), "{says}: {fault}");
        }
    }

    #[test]
    fn the_drivers_summary_has_these_fields() {
        let record = include_str!("../../../crates/crmt-driver/src/record.rs");
        let keys = LISTS
            .iter()
            .flat_map(|list| list.keys.iter().chain([&list.field]));
        for name in
            ROOTS
                .iter()
                .chain(keys)
                .chain(FRACTIONS)
                .chain([&"evidence", &"samples", &"missing"])
        {
            assert!(
                record.contains(&format!("pub {name}: ")),
                "record.rs has no field {name}"
            );
        }
    }
}
