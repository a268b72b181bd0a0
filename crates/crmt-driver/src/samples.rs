//! `samples.csv`: one row per report sample, with every radius and every attack's outcome.
//! Does not know how radii or outcomes were computed.
use crate::{
    precision::Precision,
    sample_row::{Nearest, Outcome, SampleRow},
};
use anyhow::{Context, Result, bail, ensure};
use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    str::FromStr,
};

const FIXED: [&str; 3] = ["sample", "label", "prediction"];
const DRAWN: &str = "drawn";
const MARGIN: &str = "margin";
const RADIUS: &str = "radius.";
const EVIDENCE: &str = "evidence.";
const RIVAL: &str = "rival";
const VULNERABILITY: &str = "vulnerability.";
const SHAPLEY: &str = "shapley.";
const DISTANCE: &str = "distance.";
const BY: &str = "by.";
const SPENT: &str = "spent.";
const CONFIRMED: &str = "confirmed.";
/// Behind the name of an attack on the network in `f64`.
const F64: &str = "@f64";

/// The table as CSV. Columns: `sample, label, prediction` (empty where the outputs are not finite),
/// `drawn`, then `margin`, and `margin.without-NAME` for all that may be missing (empty where it is
/// not a number), then `radius.THREAT` and `evidence.THREAT` for each threat, `rival`,
/// `vulnerability.NAME` and `shapley.NAME` for each modality, then `ATTACK.THREAT.NORM.EPS` for
/// each attack (`ATTACK@f64` on the network in `f64`): `held`, `broken`, or empty where the sample
/// was not attacked; then, of the nearest adversarial found, `distance.THREAT.NORM`,
/// `by.THREAT.NORM` (which attack), `confirmed.THREAT.NORM` (whether the program that certificates
/// are about takes it for another class, too: `true` or `false`) and `spent.THREAT.NORM.NAME` (the
/// distance of each modality).
pub fn to_csv(rows: &[SampleRow]) -> Result<Vec<u8>> {
    let threats: Vec<String> = rows
        .first()
        .map(|r| r.radii.keys().cloned().collect())
        .unwrap_or_default();
    // Attacked samples were all attacked in the same ways.
    let attacked = rows.iter().find(|r| !r.outcomes.is_empty());
    let columns = |r: &SampleRow| r.outcomes.iter().map(|o| column(o, r.precision)).collect();
    let attacks: Vec<String> = attacked.map(columns).unwrap_or_default();
    let mut csv = csv::Writer::from_writer(vec![]);
    let header = FIXED.into_iter().chain([DRAWN]).map(str::to_owned);
    let margins: BTreeSet<&String> = rows.iter().flat_map(|r| r.margins.keys()).collect();
    let of_margin = |key: &String| {
        if key.is_empty() {
            MARGIN.to_owned()
        } else {
            format!("{MARGIN}.{key}")
        }
    };
    let header = header.chain(margins.iter().map(|key| of_margin(key)));
    let radii = threats
        .iter()
        .flat_map(|t| [format!("{RADIUS}{t}"), format!("{EVIDENCE}{t}")]);
    let modalities: Vec<String> = rows
        .first()
        .and_then(|r| r.why.as_ref())
        .map(|w| w.shapley.keys().cloned().collect())
        .unwrap_or_default();
    let why = modalities.iter().map(|m| format!("{VULNERABILITY}{m}"));
    let why = why.chain(modalities.iter().map(|m| format!("{SHAPLEY}{m}")));
    let why = (!modalities.is_empty())
        .then(|| RIVAL.to_owned())
        .into_iter()
        .chain(why);
    let nearest: BTreeMap<&String, &Nearest> = rows.iter().flat_map(|r| &r.nearest).collect();
    let columns = nearest.iter().flat_map(|(key, nearest)| {
        let spent = nearest
            .spent
            .keys()
            .map(move |name| format!("{SPENT}{key}.{name}"));
        [
            format!("{DISTANCE}{key}"),
            format!("{BY}{key}"),
            format!("{CONFIRMED}{key}"),
        ]
        .into_iter()
        .chain(spent)
    });
    csv.write_record(
        header
            .chain(radii)
            .chain(why)
            .chain(attacks.iter().cloned())
            .chain(columns),
    )?;
    for row in rows {
        let fixed = [
            Some(row.index),
            Some(row.label as u64),
            row.prediction.map(|class| class as u64),
            Some(row.drawn),
        ];
        let fixed = fixed
            .map(|n| n.map_or_else(String::new, |n| n.to_string()))
            .into_iter();
        let margins = margins.iter().map(|key| {
            row.margins
                .get(*key)
                .map(f64::to_string)
                .unwrap_or_default()
        });
        let radii = threats.iter().flat_map(|t| {
            let radius = row.radii.get(t).map(f64::to_string).unwrap_or_default();
            [radius, row.evidence.clone()]
        });
        let outcome = |i: usize| match row.outcomes.get(i) {
            Some(o) if o.held => "held",
            Some(_) => "broken",
            None => "",
        };
        let why = row
            .why
            .iter()
            .filter(|_| !modalities.is_empty())
            .flat_map(|w| {
                let values = |of: &BTreeMap<String, f64>| {
                    modalities
                        .iter()
                        .map(|m| of.get(m).map(f64::to_string).unwrap_or_default())
                        .collect::<Vec<_>>()
                };
                [
                    vec![w.rival.to_string()],
                    values(&w.vulnerability),
                    values(&w.shapley),
                ]
                .concat()
            });
        let outcomes = (0..attacks.len()).map(|i| outcome(i).to_owned());
        let found = nearest
            .iter()
            .flat_map(|(key, like)| match row.nearest.get(*key) {
                None => vec![String::new(); 3 + like.spent.len()],
                Some(n) => [
                    n.distance.to_string(),
                    n.attack.clone(),
                    n.confirmed.to_string(),
                ]
                .into_iter()
                .chain(
                    like.spent
                        .keys()
                        .map(|name| n.spent.get(name).map(f64::to_string).unwrap_or_default()),
                )
                .collect(),
            });
        csv.write_record(
            fixed
                .chain(margins)
                .chain(radii)
                .chain(why)
                .chain(outcomes)
                .chain(found),
        )?;
    }
    csv.into_inner().context("samples.csv")
}

fn column(o: &Outcome, precision: Precision) -> String {
    let of = if precision == Precision::F64 { F64 } else { "" };
    format!("{}{of}.{}.{}.{}", o.name, o.threat, o.norm, o.eps)
}

/// What one column says of a sample.
enum Column {
    Margin(String),
    Radius(String),
    Evidence,
    Drawn,
    Rival,
    Vulnerability(String),
    Shapley(String),
    Distance(String),
    By(String),
    Confirmed(String),
    Spent(String, String),
    /// Of the attack, threat, norm and budget of its name; whether it held is in the cell.
    Outcome(Precision, Outcome),
}

/// Reads what [`to_csv`] wrote of a run with so many classes.
///
/// # Errors
/// Whatever it would not have written is refused by file, line and column.
pub fn read(path: &Path, classes: usize) -> Result<Vec<SampleRow>> {
    let name = path.display();
    let mut csv = csv::Reader::from_path(path).with_context(|| format!("can't read {name}"))?;
    let header = csv
        .headers()
        .with_context(|| format!("{name} has no header"))?
        .clone();
    if header.iter().take(FIXED.len()).ne(FIXED) {
        bail!("{name}: expected the columns {}, …", FIXED.join(", "));
    }
    let columns = columns(&header).with_context(|| name.to_string())?;
    let mut rows = vec![];
    for (i, record) in csv.records().enumerate() {
        let record = record.with_context(|| format!("{name} was truncated or altered"))?;
        let row = row(&columns, &header, &record).and_then(|row| {
            ensure!(
                row.index == i as u64,
                "sample {} follows sample {}",
                row.index,
                i as i64 - 1
            );
            ensure!(
                row.label.max(row.prediction.unwrap_or(0)) < classes,
                "there are {classes} classes only"
            );
            Ok(row)
        });
        rows.push(row.with_context(|| format!("{name}, line {}", i + 2))?);
    }
    Ok(rows)
}

/// Those after the fixed ones.
fn columns(header: &csv::StringRecord) -> Result<Vec<Column>> {
    let mut known = BTreeSet::new();
    let parse = |name: &str| -> Option<Column> {
        let of = |prefix: &str| name.strip_prefix(prefix).map(str::to_owned);
        let spent = || {
            name.strip_prefix(SPENT)?
                .rsplit_once('.')
                .map(|(key, m)| Column::Spent(key.into(), m.into()))
        };
        let margin = || {
            name.strip_prefix(MARGIN)?
                .strip_prefix('.')
                .filter(|key| !key.is_empty())
        };
        of(RADIUS)
            .map(Column::Radius)
            .or_else(|| {
                (name == MARGIN)
                    .then(String::new)
                    .or_else(|| margin().map(str::to_owned))
                    .map(Column::Margin)
            })
            .or_else(|| of(EVIDENCE).map(|_| Column::Evidence))
            .or_else(|| (name == DRAWN).then_some(Column::Drawn))
            .or_else(|| (name == RIVAL).then_some(Column::Rival))
            .or_else(|| of(VULNERABILITY).map(Column::Vulnerability))
            .or_else(|| of(SHAPLEY).map(Column::Shapley))
            .or_else(|| of(DISTANCE).map(Column::Distance))
            .or_else(|| of(BY).map(Column::By))
            .or_else(|| of(CONFIRMED).map(Column::Confirmed))
            .or_else(spent)
            .or_else(|| outcome(name).map(|(precision, of)| Column::Outcome(precision, of)))
    };
    let all = header.iter().skip(FIXED.len()).map(|name| {
        ensure!(known.insert(name), "there are two columns `{name}`");
        parse(name).with_context(|| format!("unknown column `{name}`"))
    });
    let all = all.collect::<Result<Vec<_>>>()?;
    for name in header.iter().filter_map(|name| name.strip_prefix(RADIUS)) {
        let evidence = format!("{EVIDENCE}{name}");
        ensure!(
            header.iter().any(|name| name == evidence),
            "there is no column `{evidence}`"
        );
    }
    Ok(all)
}

fn row(
    columns: &[Column],
    header: &csv::StringRecord,
    record: &csv::StringRecord,
) -> Result<SampleRow> {
    let mut row = SampleRow {
        index: number(&record[0]).context(FIXED[0])?,
        label: number(&record[1]).context(FIXED[1])?,
        prediction: Some(&record[2])
            .filter(|c| !c.is_empty())
            .map(number)
            .transpose()
            .context(FIXED[2])?,
        ..SampleRow::default()
    };
    let cells = header.iter().zip(record).skip(FIXED.len()).zip(columns);
    for ((name, value), column) in cells.filter(|((_, value), _)| !value.is_empty()) {
        enter(&mut row, column, value).with_context(|| format!("column `{name}`: `{value}`"))?;
    }
    ensure!(
        row.radii.is_empty() || !row.evidence.is_empty(),
        "a radius without evidence"
    );
    Ok(row)
}

fn enter(row: &mut SampleRow, column: &Column, value: &str) -> Result<()> {
    match column {
        Column::Margin(missing) => {
            let margin: f64 = number(value)?;
            ensure!(!margin.is_nan(), "not a number");
            row.margins.insert(missing.clone(), margin);
        }
        Column::Radius(threat) => {
            row.radii.insert(threat.clone(), length(value)?);
        }
        Column::Evidence => {
            ensure!(["proved", "estimated"].contains(&value), "unknown evidence");
            ensure!(
                row.evidence.is_empty() || row.evidence == value,
                "radii of one row are all `{}`",
                row.evidence
            );
            value.clone_into(&mut row.evidence);
        }
        Column::Drawn => row.drawn = number(value)?,
        Column::Rival => row.why.get_or_insert_default().rival = number(value)?,
        Column::Vulnerability(name) => {
            row.why
                .get_or_insert_default()
                .vulnerability
                .insert(name.clone(), length(value)?);
        }
        Column::Shapley(name) => {
            let added: f64 = number(value)?;
            ensure!(!added.is_nan(), "not a number");
            row.why
                .get_or_insert_default()
                .shapley
                .insert(name.clone(), added);
        }
        Column::Distance(key) => {
            row.nearest.entry(key.clone()).or_default().distance = length(value)?
        }
        Column::By(key) => {
            value.clone_into(&mut row.nearest.entry(key.clone()).or_default().attack)
        }
        Column::Confirmed(key) => {
            row.nearest.entry(key.clone()).or_default().confirmed =
                value.parse().context("neither true nor false")?;
        }
        Column::Spent(key, name) => {
            row.nearest
                .entry(key.clone())
                .or_default()
                .spent
                .insert(name.clone(), length(value)?);
        }
        Column::Outcome(precision, of) => {
            row.precision = *precision;
            let held = match value {
                "held" => true,
                "broken" => false,
                _ => bail!("neither held nor broken"),
            };
            row.outcomes.push(Outcome { held, ..of.clone() });
        }
    }
    Ok(())
}

fn number<T: FromStr>(text: &str) -> Result<T> {
    text.parse().ok().context("not a number of this kind")
}

/// Zero or more, also infinite.
fn length(text: &str) -> Result<f64> {
    number(text).and_then(|length: f64| {
        ensure!(length >= 0.0, "not zero or more");
        Ok(length)
    })
}

fn outcome(column: &str) -> Option<(Precision, Outcome)> {
    // Budgets contain dots, and names may: `pgd.joint.l2.0.5`.
    let (name, rest) = column.split_once('.')?;
    let (threat, norm, eps) = ["l2", "linf"].into_iter().find_map(|norm| {
        let (threat, eps) = rest.rsplit_once(&format!(".{norm}."))?;
        Some((threat, norm, eps.parse::<f64>().ok()?))
    })?;
    let (name, precision) = name
        .strip_suffix(F64)
        .map_or((name, Precision::F32), |name| (name, Precision::F64));
    let (name, threat, norm) = (name.to_owned(), threat.to_owned(), norm.to_owned());
    (eps.is_finite() && eps >= 0.0).then_some((
        precision,
        Outcome {
            name,
            threat,
            norm,
            eps,
            held: true,
        },
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sample_row::Why;

    #[test]
    fn a_table_comes_back_as_it_was() -> Result<()> {
        let outcome = |held| Outcome {
            name: "pgd".into(),
            threat: "joint".into(),
            norm: "l2".into(),
            eps: 0.5,
            held,
        };
        let row = |index, radius: f64, outcomes: Vec<Outcome>, precision| SampleRow {
            index,
            label: 1,
            prediction: (index > 0).then_some(2),
            drawn: 9 - index,
            margins: [(String::new(), -0.1), ("without-image".to_owned(), 1e-30)]
                .into_iter()
                .skip(index as usize)
                .collect(),
            radii: [
                ("joint".to_owned(), radius),
                ("image".to_owned(), f64::INFINITY),
            ]
            .into(),
            evidence: "estimated".into(),
            why: Some(Why {
                rival: 7,
                vulnerability: [("image".to_owned(), 1.0 / 3.0)].into(),
                shapley: [("image".to_owned(), -radius)].into(),
            }),
            precision: if outcomes.is_empty() {
                Precision::F32
            } else {
                precision
            },
            outcomes,
            nearest: (index < 2)
                .then(|| {
                    let spent = [("image".to_owned(), 0.1), ("audio".to_owned(), radius)].into();
                    (
                        "joint.l2".to_owned(),
                        Nearest {
                            attack: "fab-t".into(),
                            distance: 1.0 / 7.0,
                            spent,
                            confirmed: index == 1,
                        },
                    )
                })
                .into_iter()
                .collect(),
        };
        let dir = tempfile::tempdir()?;
        let path = dir.path().join("samples.csv");
        for precision in [Precision::F32, Precision::F64] {
            let row = |index, radius, outcomes| row(index, radius, outcomes, precision);
            let rows = [
                row(0, 0.1 + 0.2, vec![outcome(true)]),
                row(1, 0.0, vec![outcome(false)]),
                row(2, 1e-9, vec![]),
            ];
            std::fs::write(&path, to_csv(&rows)?)?;
            assert_eq!(format!("{:?}", read(&path, 8)?), format!("{rows:?}"));
        }
        let row = |index, radius, outcomes| row(index, radius, outcomes, Precision::F32);
        let rows = [
            row(0, 0.1 + 0.2, vec![outcome(true)]),
            row(1, 0.0, vec![outcome(false)]),
            row(2, 1e-9, vec![]),
        ];
        let good = String::from_utf8(to_csv(&rows)?)?;
        std::fs::write(&path, &good)?;
        assert_eq!(format!("{:?}", read(&path, 8)?), format!("{rows:?}"));
        for (bad, part) in [
            (good.replacen("estimated", "proved", 1), "line 2"),
            (good.replacen("estimated", "certain", 2), "unknown evidence"),
            (
                good.replace("evidence.joint", "evidence.audio"),
                "no column `evidence.joint`",
            ),
            (good.replace("estimated", ""), "without evidence"),
            (
                good.replace("radius.image", "radius.joint"),
                "two columns `radius.joint`",
            ),
            (good.replace("rival", "riva"), "unknown column `riva`"),
            (
                good.replace("pgd.joint.l2.0.5", "pgd.joint.l2.NaN"),
                "unknown column",
            ),
            (good.replacen("inf", "NaN", 1), "`NaN`"),
            (good.replacen("inf", "-1", 1), "line 2"),
            (
                good.replacen("\n1,1,", "\n2,1,", 1),
                "sample 2 follows sample 0",
            ),
            (good.replacen("\n1,1,2", "\n1,1,8", 1), "8 classes"),
            (good.replacen("held", "holds", 1), "neither held nor broken"),
            (
                good.replacen("\n0,", "\n99999999999999999999,", 1),
                "sample",
            ),
            ("sample,label\n0,1\n".to_owned(), "expected the columns"),
        ] {
            assert_ne!(bad, good, "{part}");
            std::fs::write(&path, bad)?;
            let error = format!("{:#}", read(&path, 8).unwrap_err());
            assert!(
                error.contains("samples.csv") && error.contains(part),
                "{part}: {error}"
            );
        }
        Ok(())
    }
}
