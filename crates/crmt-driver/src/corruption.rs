//! Accuracy of a trained model on corrupted report samples: nobody attacks, one modality's signal
//! is bad. Knows which corruptions there are, computed here or prepared with the data; does not
//! know what they do.
use crate::{
    batches::EVAL_BATCH,
    drawn::ids,
    people::{Stage, Voice},
    record::CorruptionResult,
    undefined,
};
use anyhow::{Result, bail};
use crmt_attacks::{Corruption, Draws, Severity, answers, correct};
use crmt_core::{Batch, Classifier, Streams, names::ALL};
use crmt_data::{DataSet, PreparedCorruption};
use crmt_fusion::Model;

/// How warnings of samples that say nothing under a corruption begin, as their stage.
pub const SILENT: &str = "corruption";

/// What is asked for.
pub struct Asked<'a> {
    /// Names of corruptions, or [`ALL`].
    pub names: &'a [String],
    /// From 1 to 5; empty for all.
    pub severities: &'a [u8],
    /// How many report samples are drawn; 0 for all.
    pub samples: usize,
}

/// One corruption of one modality.
struct Case<'a> {
    modality: usize,
    source: Source<'a>,
}

enum Source<'a> {
    Computed(Corruption),
    Prepared(&'a PreparedCorruption),
}

/// Accuracy by modality, corruption and severity, on the same samples as clean: report samples of
/// these numbers.
pub fn measure(
    model: &Model,
    data: &DataSet,
    asked: &Asked<'_>,
    drawn: &[usize],
    streams: Streams,
    voice: &Voice,
) -> Result<(Vec<CorruptionResult>, Vec<String>)> {
    let cases = cases(data, asked.names)?;
    let wanted =
        |s: &Severity| asked.severities.is_empty() || asked.severities.contains(&s.level());
    let severities: Vec<Severity> = Severity::ALL.into_iter().filter(wanted).collect();
    let samples = drawn.len();
    let bar = voice.stage(
        "corruptions",
        ((cases.len() * severities.len() + 1) * samples) as u64,
        "samples",
    );
    let clean = data.report.samples(drawn)?;
    let accuracy = |batch: &Batch| {
        let (right, silent) = judged(model, batch, drawn, &bar)?;
        Ok::<_, anyhow::Error>((right as f64 / samples as f64, silent))
    };
    let (clean_accuracy, silent) = accuracy(&clean)?;
    let draws = Draws::for_samples(streams, ids(drawn));
    let (mut results, mut warnings) = (vec![], vec![]);
    for case in &cases {
        for severity in &severities {
            let Some(corrupted) = case.corrupted(*severity, &clean, data, drawn, &draws)? else {
                bar.inc(samples as u64);
                continue;
            };
            let (accuracy, now) = accuracy(&corrupted)?;
            let (modality, level) = (&data.modalities[case.modality].name, severity.level());
            // Those that say nothing without a corruption were told when the network was measured.
            let new: Vec<u64> = now
                .into_iter()
                .filter(|row| !silent.contains(row))
                .collect();
            let stage = format!("{SILENT} {} {level} of {modality}", case.name());
            warnings.extend(undefined::warning(&stage, &new, &[]));
            results.push(CorruptionResult {
                name: case.name().to_owned(),
                modality: modality.clone(),
                severity: level,
                accuracy,
                clean: clean_accuracy,
                samples: samples as u64,
            });
        }
    }
    Ok((results, warnings))
}

/// The corruptions called `names`, modality by modality. One that was prepared replaces ours of its
/// name.
fn cases<'a>(data: &'a DataSet, names: &[String]) -> Result<Vec<Case<'a>>> {
    let mut all = vec![];
    for (modality, sensor) in data.modalities.iter().enumerate() {
        let prepared: Vec<_> = data
            .corruptions()
            .iter()
            .filter(|c| c.modality == sensor.name)
            .collect();
        let computed = Corruption::ALL
            .into_iter()
            .filter(|c| c.applies_to(&sensor.shape));
        let computed = computed.filter(|c| prepared.iter().all(|p| p.name != c.name()));
        let sources = computed
            .map(Source::Computed)
            .chain(prepared.iter().map(|p| Source::Prepared(p)));
        all.extend(sources.map(|source| Case { modality, source }));
    }
    if let Some(name) = names
        .iter()
        .find(|n| *n != ALL && all.iter().all(|case| case.name() != *n))
    {
        let shapes = data
            .modalities
            .iter()
            .map(|m| format!("{} {:?}", m.name, m.shape))
            .collect::<Vec<_>>()
            .join(", ");
        if Corruption::from_name(name).is_some() {
            bail!(
                "corruption `{name}` applies to no modality of `{}`: {shapes}",
                data.name
            );
        }
        let mut known: Vec<&str> = vec![ALL];
        for case in &all {
            if !known.contains(&case.name()) {
                known.push(case.name());
            }
        }
        bail!(
            "corruption `{name}`: `{}` has {}",
            data.name,
            known.join(", ")
        );
    }
    let everything = names.iter().any(|n| n == ALL);
    all.retain(|case| everything || names.iter().any(|n| n == case.name()));
    Ok(all)
}

impl Case<'_> {
    fn name(&self) -> &str {
        match &self.source {
            Source::Computed(corruption) => corruption.name(),
            Source::Prepared(corruption) => &corruption.name,
        }
    }

    /// The samples of `clean`, which are `drawn` of the report split, corrupted; `None` where this
    /// severity was not prepared.
    fn corrupted(
        &self,
        severity: Severity,
        clean: &Batch,
        data: &DataSet,
        drawn: &[usize],
        draws: &Draws,
    ) -> Result<Option<Batch>> {
        let corruption = match self.source {
            Source::Computed(corruption) => corruption,
            Source::Prepared(corruption) => {
                let split = data.corrupted_report(corruption, severity.level());
                return Ok(split.map(|split| split.samples(drawn)).transpose()?);
            }
        };
        let inputs = clean.inputs.try_enumerate(|m, x| {
            if m != self.modality {
                return Ok(x.clone());
            }
            corruption.apply(severity, x, &data.modalities[m], &data.baselines[m], draws)
        })?;
        Ok(Some(Batch {
            inputs,
            labels: clean.labels.clone(),
        }))
    }
}

/// How many samples of `batch` the model gets right, and of which it says nothing.
fn judged(model: &Model, batch: &Batch, drawn: &[usize], bar: &Stage) -> Result<(usize, Vec<u64>)> {
    let (mut right, mut silent) = (0, vec![]);
    for start in (0..batch.len()).step_by(EVAL_BATCH) {
        let part = batch.narrow(start, EVAL_BATCH.min(batch.len() - start))?;
        let logits = model.logits(&part.inputs)?;
        right += correct(&logits, &part.labels)?
            .iter()
            .filter(|right| **right)
            .count();
        let none = |(_, answer): &(&usize, Option<u32>)| answer.is_none();
        silent.extend(
            drawn[start..]
                .iter()
                .zip(answers(&logits)?)
                .filter(none)
                .map(|(row, _)| *row as u64),
        );
        bar.inc(part.len() as u64);
    }
    Ok((right, silent))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crmt_data::{Array, Manifest, ModalitySpec, Pairing, Samples};

    /// Features, and a spectrogram with two prepared corruptions, one of which has a name of ours.
    fn data() -> DataSet {
        let array =
            |shape: &[usize]| Array::floats(shape, vec![0.5; shape.iter().product()]).unwrap();
        let specs = vec![
            ModalitySpec::new("pen", &[4]),
            ModalitySpec::new("sound", &[1, 2, 3]),
        ];
        let samples = || Samples {
            arrays: vec![array(&[4]), array(&[1, 2, 3])],
            pairing: Pairing::Rows { labels: vec![0] },
        };
        let data = DataSet::new(
            Manifest::new("d", ["a"], specs),
            samples(),
            samples(),
            samples(),
        )
        .unwrap();
        let prepared = |name: &str| PreparedCorruption {
            modality: "sound".into(),
            name: name.into(),
            severities: vec![array(&[1, 2, 3])],
        };
        data.with_corruptions(vec![prepared("blur"), prepared("rain")])
            .unwrap()
    }

    fn found(names: &[&str]) -> Result<Vec<String>> {
        let data = data();
        let names: Vec<String> = names.iter().map(|n| (*n).to_owned()).collect();
        let told = |case: &Case<'_>| {
            let kind = if matches!(case.source, Source::Prepared(_)) {
                "prepared "
            } else {
                ""
            };
            format!(
                "{kind}{} of {}",
                case.name(),
                data.modalities[case.modality].name
            )
        };
        Ok(cases(&data, &names)?.iter().map(told).collect())
    }

    #[test]
    fn every_modality_has_what_applies_to_it() -> Result<()> {
        let all = found(&["all"])?;
        assert_eq!(
            all[..3],
            [
                "gaussian-noise of pen",
                "occlusion of pen",
                "contrast of pen"
            ]
        );
        assert_eq!(all.len(), 3 + 5 + 2);
        assert!(
            all.contains(&"prepared blur of sound".into())
                && !all.contains(&"blur of sound".into())
        );
        assert_eq!(
            found(&["rain", "contrast"])?,
            [
                "contrast of pen",
                "contrast of sound",
                "prepared rain of sound"
            ]
        );
        Ok(())
    }

    #[test]
    fn unknown_names_get_the_list() {
        let message = found(&["fog"]).unwrap_err().to_string();
        assert!(
            message.contains("`fog`")
                && message.contains("all, gaussian-noise")
                && message.ends_with("rain")
        );
        let data = data().subset(&["pen"]).unwrap();
        let message = cases(&data, &["frame-drop".into()])
            .err()
            .unwrap()
            .to_string();
        assert!(
            message.contains("frame-drop") && message.contains("pen [4]"),
            "{message}"
        );
    }
}
