//! `samples.csv`: one row per report sample, with every radius and every attack's outcome.
//! Does not know how radii or outcomes were computed.
use crate::report::{Nearest, Outcome, SampleRow};
use anyhow::{Context, Result, bail};
use std::{collections::BTreeMap, path::Path};

const FIXED: [&str; 3] = ["sample", "label", "prediction"];
const DRAWN: &str = "drawn";
const RIVAL: &str = "rival";
const VULNERABILITY: &str = "vulnerability.";
const SHAPLEY: &str = "shapley.";
const DISTANCE: &str = "distance.";
const BY: &str = "by.";
const SPENT: &str = "spent.";

/// The table as CSV. Columns: `sample, label, prediction, drawn`, then `radius.THREAT` and
/// `evidence.THREAT` for each threat, `rival`, `vulnerability.NAME` and `shapley.NAME` for each modality, then `ATTACK.THREAT.NORM.EPS` for each attack: `held`,
/// `broken`, or empty where the sample was not attacked; then, of the nearest adversarial found, `distance.THREAT.NORM`,
/// `by.THREAT.NORM` (which attack) and `spent.THREAT.NORM.NAME` (the distance of each modality).
pub fn to_csv(rows: &[SampleRow], evidence: &str) -> Result<Vec<u8>> {
    let threats: Vec<String> = rows.first().map(|r| r.radii.keys().cloned().collect()).unwrap_or_default();
    // Attacked samples were all attacked in the same ways.
    let attacked = rows.iter().find(|r| !r.outcomes.is_empty());
    let attacks: Vec<String> = attacked.map(|r| r.outcomes.iter().map(column).collect()).unwrap_or_default();
    let mut csv = csv::Writer::from_writer(vec![]);
    let header = FIXED.into_iter().chain([DRAWN]).map(str::to_owned);
    let radii = threats.iter().flat_map(|t| [format!("radius.{t}"), format!("evidence.{t}")]);
    let modalities: Vec<String> =
        rows.first().and_then(|r| r.why.as_ref()).map(|w| w.shapley.keys().cloned().collect()).unwrap_or_default();
    let why = modalities.iter().map(|m| format!("{VULNERABILITY}{m}"));
    let why = why.chain(modalities.iter().map(|m| format!("{SHAPLEY}{m}")));
    let why = (!modalities.is_empty()).then(|| RIVAL.to_owned()).into_iter().chain(why);
    let nearest: BTreeMap<&String, &Nearest> = rows.iter().flat_map(|r| &r.nearest).collect();
    let columns = nearest.iter().flat_map(|(key, nearest)| {
        let spent = nearest.spent.keys().map(move |name| format!("{SPENT}{key}.{name}"));
        [format!("{DISTANCE}{key}"), format!("{BY}{key}")].into_iter().chain(spent)
    });
    csv.write_record(header.chain(radii).chain(why).chain(attacks.iter().cloned()).chain(columns))?;
    for row in rows {
        let fixed = [row.index, row.label as u64, row.prediction as u64, row.drawn].map(|n| n.to_string()).into_iter();
        let radii = threats.iter().flat_map(|t| {
            let radius = row.radii.get(t).map(f64::to_string).unwrap_or_default();
            [radius, evidence.to_owned()]
        });
        let outcome = |i: usize| match row.outcomes.get(i) {
            Some(o) if o.held => "held",
            Some(_) => "broken",
            None => "",
        };
        let why = row.why.iter().filter(|_| !modalities.is_empty()).flat_map(|w| {
            let values = |of: &BTreeMap<String, f64>| {
                modalities.iter().map(|m| of.get(m).map(f64::to_string).unwrap_or_default()).collect::<Vec<_>>()
            };
            [vec![w.rival.to_string()], values(&w.vulnerability), values(&w.shapley)].concat()
        });
        let outcomes = (0..attacks.len()).map(|i| outcome(i).to_owned());
        let found = nearest.iter().flat_map(|(key, like)| match row.nearest.get(*key) {
            None => vec![String::new(); 2 + like.spent.len()],
            Some(n) => [n.distance.to_string(), n.attack.clone()]
                .into_iter()
                .chain(like.spent.keys().map(|name| n.spent.get(name).map(f64::to_string).unwrap_or_default()))
                .collect(),
        });
        csv.write_record(fixed.chain(radii).chain(why).chain(outcomes).chain(found))?;
    }
    csv.into_inner().context("samples.csv")
}

fn column(o: &Outcome) -> String {
    format!("{}.{}.{}.{}", o.name, o.threat, o.norm, o.eps)
}

/// Reads what [`to_csv`] wrote.
pub fn read(path: &Path) -> Result<Vec<SampleRow>> {
    let name = path.display();
    let mut csv = csv::Reader::from_path(path).with_context(|| format!("can't read {name}"))?;
    let header = csv.headers().with_context(|| format!("{name} has no header"))?.clone();
    if header.iter().take(3).ne(FIXED) {
        bail!("{name}: expected the columns {}, …", FIXED.join(", "));
    }
    let mut rows = vec![];
    for (line, record) in csv.records().enumerate() {
        let record = record.with_context(|| format!("{name} was truncated or altered"))?;
        let row = row(&header, &record).with_context(|| format!("{name}, line {}", line + 2))?;
        rows.push(row);
    }
    Ok(rows)
}

fn row(header: &csv::StringRecord, record: &csv::StringRecord) -> Result<SampleRow> {
    let mut row = SampleRow {
        index: record[0].parse().context("sample")?,
        label: record[1].parse().context("label")?,
        prediction: record[2].parse().context("prediction")?,
        ..SampleRow::default()
    };
    for (column, value) in header.iter().zip(record).skip(FIXED.len()).filter(|(_, value)| !value.is_empty()) {
        if let Some(threat) = column.strip_prefix("radius.") {
            row.radii.insert(threat.to_owned(), value.parse().with_context(|| column.to_owned())?);
        } else if column == DRAWN {
            row.drawn = value.parse().with_context(|| column.to_owned())?;
        } else if column == RIVAL {
            row.why.get_or_insert_default().rival = value.parse().with_context(|| column.to_owned())?;
        } else if let Some(name) = column.strip_prefix(VULNERABILITY) {
            let share = value.parse().with_context(|| column.to_owned())?;
            row.why.get_or_insert_default().vulnerability.insert(name.to_owned(), share);
        } else if let Some(name) = column.strip_prefix(SHAPLEY) {
            let added = value.parse().with_context(|| column.to_owned())?;
            row.why.get_or_insert_default().shapley.insert(name.to_owned(), added);
        } else if let Some(key) = column.strip_prefix(DISTANCE) {
            let distance = value.parse().with_context(|| column.to_owned())?;
            row.nearest.entry(key.to_owned()).or_default().distance = distance;
        } else if let Some(key) = column.strip_prefix(BY) {
            value.clone_into(&mut row.nearest.entry(key.to_owned()).or_default().attack);
        } else if let Some((key, name)) = column.strip_prefix(SPENT).and_then(|rest| rest.rsplit_once('.')) {
            let spent = value.parse().with_context(|| column.to_owned())?;
            row.nearest.entry(key.to_owned()).or_default().spent.insert(name.to_owned(), spent);
        } else if !column.starts_with("evidence.") {
            row.outcomes.push(outcome(column, value).with_context(|| format!("column `{column}`: `{value}`"))?);
        }
    }
    Ok(row)
}

fn outcome(column: &str, value: &str) -> Option<Outcome> {
    // Budgets contain dots: `pgd.joint.l2.0.5`.
    let mut parts = column.splitn(4, '.');
    let mut next = || parts.next();
    let (name, threat, norm, eps) = (next()?.to_owned(), next()?.to_owned(), next()?.to_owned(), next()?.parse().ok()?);
    let held = match value {
        "held" => true,
        "broken" => false,
        _ => return None,
    };
    Some(Outcome { name, threat, norm, eps, held })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::Why;

    #[test]
    fn a_table_comes_back_as_it_was() -> Result<()> {
        let outcome = |held| Outcome { name: "pgd".into(), threat: "joint".into(), norm: "l2".into(), eps: 0.5, held };
        let row = |index, radius: f64, outcomes| SampleRow {
            index,
            label: 1,
            prediction: 2,
            drawn: 9 - index,
            radii: [("joint".to_owned(), radius), ("image".to_owned(), f64::INFINITY)].into(),
            why: Some(Why {
                rival: 7,
                vulnerability: [("image".to_owned(), 1.0 / 3.0)].into(),
                shapley: [("image".to_owned(), -radius)].into(),
            }),
            outcomes,
            nearest: (index < 2)
                .then(|| {
                    let spent = [("image".to_owned(), 0.1), ("audio".to_owned(), radius)].into();
                    ("joint.l2".to_owned(), Nearest { attack: "fab-t".into(), distance: 1.0 / 7.0, spent })
                })
                .into_iter()
                .collect(),
        };
        let rows = [row(0, 0.1 + 0.2, vec![outcome(true)]), row(1, 0.0, vec![outcome(false)]), row(2, 1e-9, vec![])];
        let dir = tempfile::tempdir()?;
        let path = dir.path().join("samples.csv");
        std::fs::write(&path, to_csv(&rows, "estimated")?)?;
        assert_eq!(format!("{:?}", read(&path)?), format!("{rows:?}"));
        std::fs::write(&path, "sample,label\n0,1\n")?;
        assert!(read(&path).unwrap_err().to_string().contains("samples.csv"));
        Ok(())
    }
}
