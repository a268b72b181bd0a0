//! From a sweep to its runs: the cartesian product, and a folder name for each. Starts nothing and
//! reads no run.
use super::spec::{Spec, Variant};
use std::collections::BTreeMap;
use toml::Value;

/// Readable parts of folder names are cut here; the digest after them still tells runs apart.
const READABLE: usize = 100;

/// One run of the driver.
#[derive(Debug, Clone)]
pub struct Run {
    /// The folder's name: the grid's values, then a digest of all settings.
    pub slug: String,
    /// All settings, by dotted key.
    pub settings: BTreeMap<String, Value>,
    /// What of the grid tells its row in the table: key and value, without the seed.
    pub point: Vec<(String, String)>,
    /// The same as people read it: the label of its variant, if it has one, and what else tells its
    /// row.
    pub shown: Vec<(String, String)>,
    /// What the driver calls the run in reports: the label of its variant, and what else tells its
    /// row.
    pub label: Option<String>,
}

/// Longer labels are cut: the driver takes no longer ones.
const LONGEST_LABEL: usize = 80;

/// The cartesian product of the variants and the grid, the last key fastest.
pub fn expand(spec: &Spec) -> Vec<Run> {
    type Pairs<'a> = Vec<(&'a str, &'a Value)>;
    let mut chosen: Vec<(Option<&Variant>, Pairs<'_>)> = match spec.variants.as_slice() {
        [] => vec![(None, vec![])],
        variants => variants
            .iter()
            .map(|v| {
                (
                    Some(v),
                    v.settings
                        .iter()
                        .map(|(key, value)| (key.as_str(), value))
                        .collect(),
                )
            })
            .collect(),
    };
    for (key, values) in &spec.grid {
        let with = |row: &Vec<_>, value| [row.as_slice(), &[(key.as_str(), value)]].concat();
        let rows = chosen.iter().map(|(variant, row)| {
            values
                .iter()
                .map(|value| (*variant, with(row, value)))
                .collect()
        });
        chosen = rows.collect::<Vec<Vec<_>>>().concat();
    }
    let runs = chosen.into_iter().map(|(variant, pairs)| {
        let mut settings = spec.base.clone();
        settings.extend(
            pairs
                .iter()
                .map(|(key, value)| ((*key).to_owned(), (*value).clone())),
        );
        let told = |(key, value): &(&str, &Value)| ((*key).to_owned(), plain(value));
        let point: Vec<_> = pairs
            .iter()
            .filter(|(key, _)| *key != "seed")
            .map(told)
            .collect();
        let shown = match variant.and_then(|variant| Some((variant, variant.label.as_ref()?))) {
            None => point.clone(),
            Some((variant, label)) => {
                let others = point
                    .iter()
                    .filter(|(key, _)| !variant.settings.contains_key(key));
                let key = if others.clone().any(|(key, _)| key == "method") {
                    "variant"
                } else {
                    "method"
                };
                std::iter::once((key.to_owned(), label.clone()))
                    .chain(others.cloned())
                    .collect()
            }
        };
        let label = variant
            .and_then(|variant| variant.label.as_ref())
            .map(|label| {
                let others = shown
                    .iter()
                    .skip(1)
                    .map(|(key, value)| format!(", {} {value}", last(key)));
                std::iter::once(label.clone())
                    .chain(others)
                    .collect::<String>()
                    .chars()
                    .take(LONGEST_LABEL)
                    .collect()
            });
        Run {
            slug: slug(&pairs, &settings),
            point,
            shown,
            label,
            settings,
        }
    });
    runs.collect()
}

impl Run {
    /// Of the driver, for tables and costs: what is named once for all seeds.
    pub fn method(&self) -> String {
        self.settings
            .get("method")
            .map_or_else(|| "default".to_owned(), plain)
    }
}

/// A value as a person writes it: strings without quotes.
pub fn plain(value: &Value) -> String {
    value
        .as_str()
        .map_or_else(|| value.to_string(), str::to_owned)
}

/// The last part of a dotted key.
fn last(key: &str) -> &str {
    key.rsplit('.').next().unwrap_or(key)
}

fn slug(pairs: &[(&str, &Value)], settings: &BTreeMap<String, Value>) -> String {
    let mut readable = String::new();
    for (key, value) in pairs {
        let short = last(key);
        let unique = pairs
            .iter()
            .filter(|(other, _)| last(other) == short)
            .count()
            == 1;
        match *key {
            "method" => readable += &plain(value),
            _ => readable += &format!("{}-{}", if unique { short } else { *key }, plain(value)),
        }
        readable.push('_');
    }
    let safe = readable.chars().map(|c| {
        if c.is_ascii_alphanumeric() || "-_.+".contains(c) {
            c
        } else {
            '-'
        }
    });
    let safe: String = safe.take(READABLE).collect();
    format!("{safe}{:08x}", digest(settings))
}

/// FNV-1a over `key = value` lines in the order of the keys, folded to 32 bits: a name, not a
/// secret; should two ever collide, [`super::state`] notices that the settings differ.
fn digest(settings: &BTreeMap<String, Value>) -> u32 {
    let lines = settings
        .iter()
        .map(|(key, value)| format!("{key} = {value}\n"))
        .collect::<String>();
    let hash = lines.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    (hash >> 32) as u32 ^ hash as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(text: &str) -> Spec {
        Spec::parse(&format!("name = \"t\"\n{text}"), false).expect("a good sweep")
    }

    const SWEEP: &str = "[base]\ndata = \"synthetic\"\nattack.norm = \"l2\"\n[grid]\nmethod = [\"jt\", \"crmt-jt\"]\nseed = [0, 1, 2]\nrho = [0.5]\n";

    #[test]
    fn what_varies_together_is_combined_with_the_grid() {
        let text = "[grid]\nseed = [0, 1]\n[[variants]]\nmodalities = []\n\"train.epochs\" = 2\n\
                    [[variants]]\nmodalities = [\"audio\"]\ntrain.epochs = 9\n";
        let runs = expand(&spec(text));
        let epochs: Vec<_> = runs
            .iter()
            .map(|r| r.settings["train.epochs"].as_integer().unwrap())
            .collect();
        assert_eq!(epochs, [2, 2, 9, 9]);
        assert_eq!(
            runs[3].point,
            [
                ("modalities".into(), "[\"audio\"]".into()),
                ("train.epochs".into(), "9".into())
            ]
        );
        assert_eq!((&runs[3].shown, &runs[3].label), (&runs[3].point, &None));
        let labelled = text
            .replace("[[variants]]\n", "[[variants]]\nlabel = \"L\"\n")
            .replacen("\"L\"", "\"M\"", 1);
        let labelled = expand(&spec(
            &labelled.replace("[grid]\n", "[grid]\nmethod = [\"jt\"]\n"),
        ));
        assert_eq!(
            labelled[3].shown,
            [
                ("variant".into(), "L".into()),
                ("method".into(), "jt".into())
            ]
        );
        assert_eq!(labelled[3].label.as_deref(), Some("L, method jt"));
        assert_eq!(
            labelled[3].slug,
            expand(&spec(
                &text.replace("[grid]\n", "[grid]\nmethod = [\"jt\"]\n")
            ))[3]
                .slug
        );
        assert!(
            labelled[3]
                .point
                .contains(&("modalities".into(), "[\"audio\"]".into()))
        );
        let fault = |text: &str| {
            Spec::parse(&format!("name = \"x\"\n{text}"), false)
                .unwrap_err()
                .to_string()
        };
        assert!(fault("[[variants]]\na = 1\n[[variants]]\nb = 1").contains("same keys"));
        assert!(fault("[base]\na = 1\n[[variants]]\na = 1").contains("a is in [[variants]]"));
        assert!(fault("variants = 3").contains("[[variants]]"));
    }

    #[test]
    fn the_grid_is_a_cartesian_product() {
        let runs = expand(&spec(SWEEP));
        assert_eq!(runs.len(), 6);
        let starts: Vec<&str> = runs
            .iter()
            .map(|run| run.slug.rsplit_once('_').map_or("", |(start, _)| start))
            .collect();
        assert_eq!(starts[..2], ["jt_rho-0.5_seed-0", "jt_rho-0.5_seed-1"]);
        assert_eq!(starts[3], "crmt-jt_rho-0.5_seed-0");
        assert_eq!(
            runs[0].point,
            [
                ("method".to_owned(), "jt".to_owned()),
                ("rho".to_owned(), "0.5".to_owned())
            ]
        );
        assert_eq!(runs[0].point, runs[2].point, "seeds share a row");
        assert_eq!(
            expand(&spec("[base]\nseed = 1")).len(),
            1,
            "no grid, one run"
        );
    }

    #[test]
    fn a_changed_setting_changes_the_folder() {
        let slug = |text: &str| expand(&spec(text))[0].slug.clone();
        assert_eq!(slug(SWEEP), slug(SWEEP));
        assert_ne!(
            slug(SWEEP),
            slug(&SWEEP.replace("l2", "linf")),
            "fixed settings count"
        );
        assert_eq!(
            slug(SWEEP),
            slug(&SWEEP.replace("[0, 1, 2]", "[0, 1]")),
            "more seeds keep the others"
        );
        assert!(slug("[grid]\na.x = [1]\nb.x = [2]").starts_with("a.x-1_b.x-2_"));
        assert!(slug("[grid]\ndata = [\"a b/c\"]").starts_with("data-a-b-c_"));
        assert!(slug(&format!("[grid]\nx = [\"{}\"]", "long".repeat(99))).len() <= READABLE + 8);
    }
}
