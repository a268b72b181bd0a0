//! `diagnosis.json` and `diagnosis.csv`, written and read. Does not know how they came about.
use super::quantities::{Diagnosis, InSample, OfSample};
use crate::run_dir::{self, RunDir};
use anyhow::{Context, Result, bail};
use std::str::FromStr;

const FIXED: [&str; 3] = ["sample", "label", "prediction"];
/// Columns of each modality, `COLUMN.NAME`.
const OF_MODALITY: [&str; 7] = [
    "margin",
    "score_margin",
    "shapley",
    "preference",
    "vulnerability",
    "eta",
    "radius",
];
const JOINT: &str = "radius.joint";

/// The averages.
pub fn to_json(diagnosis: &Diagnosis) -> Result<Vec<u8>> {
    let mut json = serde_json::to_vec_pretty(diagnosis)?;
    json.push(b'\n');
    Ok(json)
}

/// A row per report sample: `sample, label, prediction, rival, radius.joint, evidence`, then for
/// each modality its columns. What does not exist is empty.
pub fn to_csv(diagnosis: &Diagnosis) -> Result<Vec<u8>> {
    let mut csv = csv::Writer::from_writer(vec![]);
    let of_modality = |name: &str| OF_MODALITY.map(|column| format!("{column}.{name}"));
    let header = FIXED
        .into_iter()
        .chain(["rival", JOINT, "evidence"])
        .map(str::to_owned);
    csv.write_record(
        header.chain(
            diagnosis
                .modalities
                .iter()
                .flat_map(|m| of_modality(&m.name)),
        ),
    )?;
    for (i, row) in diagnosis.rows.iter().enumerate() {
        let fixed = [Some(i), Some(row.label), row.prediction, Some(row.rival)];
        let fixed = fixed.map(|n| n.map_or_else(String::new, |n| n.to_string()));
        let fixed = fixed
            .into_iter()
            .chain([row.joint_radius.to_string(), diagnosis.evidence.clone()]);
        let cells = |m: &InSample| {
            let InSample {
                margin,
                score_margin,
                shapley,
                preference,
                vulnerability,
                eta,
                radius,
            } = *m;
            [
                Some(margin),
                Some(score_margin),
                Some(shapley),
                preference,
                Some(vulnerability),
                eta,
                Some(radius),
            ]
            .map(|value| value.map_or_else(String::new, |v| v.to_string()))
        };
        csv.write_record(fixed.chain(row.modalities.iter().flat_map(cells)))?;
    }
    csv.into_inner().context(run_dir::DIAGNOSIS_SAMPLES)
}

/// What a run holds of the model with these weights; none if it was not diagnosed, or a model
/// before it was.
///
/// # Errors
/// Files that are altered or do not belong together are refused by name.
pub fn read(dir: &RunDir, weights: &str) -> Result<Option<Diagnosis>> {
    let path = dir.file(run_dir::DIAGNOSIS);
    if !path.exists() {
        return Ok(None);
    }
    let again = || format!("delete {}, and diagnose the run again", path.display());
    let mut diagnosis: Diagnosis = dir.read_json(run_dir::DIAGNOSIS).with_context(again)?;
    if diagnosis.weights != weights {
        return Ok(None);
    }
    diagnosis.rows = read_rows(dir, &diagnosis).with_context(again)?;
    Ok(Some(diagnosis))
}

fn read_rows(dir: &RunDir, diagnosis: &Diagnosis) -> Result<Vec<OfSample>> {
    let path = dir.file(run_dir::DIAGNOSIS_SAMPLES);
    let name = path.display();
    let mut csv = csv::Reader::from_path(&path).with_context(|| format!("can't read {name}"))?;
    let header = csv
        .headers()
        .with_context(|| format!("{name} has no header"))?
        .clone();
    let column = |wanted: String| {
        let found = header.iter().position(|column| column == wanted);
        found.with_context(|| format!("{name} has no column `{wanted}`"))
    };
    let fixed = ["label", "prediction", "rival", JOINT]
        .map(str::to_owned)
        .map(column);
    let [label, prediction, rival, joint] = fixed;
    let (label, prediction, rival, joint) = (label?, prediction?, rival?, joint?);
    let of_modality = |name: &String| -> Result<Vec<usize>> {
        OF_MODALITY
            .into_iter()
            .map(|kind| column(format!("{kind}.{name}")))
            .collect()
    };
    let columns: Vec<Vec<usize>> = diagnosis
        .modalities
        .iter()
        .map(|m| of_modality(&m.name))
        .collect::<Result<_>>()?;
    let mut rows = vec![];
    for record in csv.records() {
        let record = record.with_context(|| format!("{name} was truncated or altered"))?;
        let line = rows.len() + 2;
        let whole =
            |i: usize| number::<usize>(&record[i]).with_context(|| format!("{name}, line {line}"));
        let real =
            |i: usize| number::<f64>(&record[i]).with_context(|| format!("{name}, line {line}"));
        let some = |i: usize| {
            Some(i)
                .filter(|i| !record[*i].is_empty())
                .map(real)
                .transpose()
        };
        let modality = |c: &Vec<usize>| -> Result<InSample> {
            Ok(InSample {
                margin: real(c[0])?,
                score_margin: real(c[1])?,
                shapley: real(c[2])?,
                preference: some(c[3])?,
                vulnerability: real(c[4])?,
                eta: some(c[5])?,
                radius: real(c[6])?,
            })
        };
        rows.push(OfSample {
            label: whole(label)?,
            prediction: Some(prediction)
                .filter(|i| !record[*i].is_empty())
                .map(whole)
                .transpose()?,
            rival: whole(rival)?,
            joint_radius: real(joint)?,
            modalities: columns.iter().map(modality).collect::<Result<_>>()?,
        });
    }
    if rows.len() as u64 != diagnosis.samples {
        bail!(
            "{name} has {} rows, {} is about {} samples",
            rows.len(),
            run_dir::DIAGNOSIS,
            diagnosis.samples
        );
    }
    Ok(rows)
}

fn number<T: FromStr>(text: &str) -> Result<T> {
    text.parse()
        .ok()
        .with_context(|| format!("`{text}` is not a number"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diagnosis::quantities::{OfModality, Spread};

    fn diagnosis() -> Diagnosis {
        let of = |radius: f64, eta| InSample {
            margin: 0.1 + 0.2,
            score_margin: -1.0 / 3.0,
            shapley: 1e-9,
            preference: eta,
            vulnerability: 0.5,
            eta,
            radius,
        };
        let row = |label, eta| OfSample {
            label,
            prediction: Some(1),
            rival: 2,
            joint_radius: 1.0 / 7.0,
            modalities: vec![of(f64::INFINITY, eta), of(0.0, Some(2.0))],
        };
        let modality = |name: &str| OfModality {
            name: name.into(),
            eta: Some(Spread::of(vec![f64::INFINITY, 2.0])),
            radius: Spread::of(vec![f64::INFINITY, 0.25]),
            ..OfModality::default()
        };
        Diagnosis {
            weights: "00ff".into(),
            samples: 2,
            evidence: "estimated".into(),
            modalities: vec![modality("a-b"), modality("b.c")],
            rows: vec![row(0, None), row(1, Some(1.0))],
            ..Diagnosis::default()
        }
    }

    #[test]
    fn a_diagnosis_comes_back_as_it_was_or_is_refused() -> Result<()> {
        let dir = tempfile::tempdir()?;
        let run = RunDir::create(dir.path(), false)?;
        assert!(read(&run, "00ff")?.is_none());
        let given = diagnosis();
        let (json, csv) = (to_json(&given)?, to_csv(&given)?);
        run.write(run_dir::DIAGNOSIS, &json)?;
        run.write(run_dir::DIAGNOSIS_SAMPLES, &csv)?;
        assert_eq!(
            format!("{:?}", read(&run, "00ff")?),
            format!("{:?}", Some(given))
        );
        assert!(read(&run, "of other weights")?.is_none());
        let text = String::from_utf8(csv)?;
        for (bad, part) in [
            (text.replace("eta.b.c", "eta.x"), "no column `eta.b.c`"),
            (text.replace("inf", "in"), "line 2"),
            (
                text.lines()
                    .take(2)
                    .map(|line| format!("{line}\n"))
                    .collect(),
                "1 rows",
            ),
        ] {
            run.write(run_dir::DIAGNOSIS_SAMPLES, bad.as_bytes())?;
            let error = format!("{:#}", read(&run, "00ff").unwrap_err());
            assert!(
                error.contains(part) && error.contains("diagnose the run again"),
                "{error}"
            );
        }
        Ok(())
    }
}
