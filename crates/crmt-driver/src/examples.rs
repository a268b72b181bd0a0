//! `examples.safetensors`: adversarial examples of an evaluation, with the inputs they were made
//! from. Does not know how they were found, nor how they are shown.
use crate::{checkpoint::range, sealed::Sealed};
use anyhow::{Context, Result, bail};
use candle_core::{Device, Tensor};
use crmt_core::Modality;
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, path::Path};

/// What the file's metadata describes.
const KIND: &str = "examples";

/// A sample that an attack broke.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Example {
    /// Position in the report split.
    pub sample: u64,
    /// True class.
    pub label: usize,
    /// Predicted class without an attacker.
    pub clean_prediction: usize,
    /// Predicted class under attack.
    pub prediction: usize,
    /// As in [`crate::record::AttackResult::name`].
    pub attack: String,
    /// As in [`crate::record::AttackResult::threat`].
    pub threat: String,
    /// `l2` or `linf`.
    pub norm: String,
    /// The smallest budget at which it fell.
    pub eps: f64,
    /// From the clean input, in declared units: joint l2, or the greatest of any modality for linf.
    pub distance: f64,
    /// In the model's order.
    pub modalities: Vec<ExampleModality>,
}

/// One input of an example.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ExampleModality {
    /// Its name.
    pub name: String,
    /// Shape of both arrays.
    pub shape: Vec<usize>,
    /// Valid range by channel, one entry for all; none if unbounded.
    pub range: Option<(Vec<f64>, Vec<f64>)>,
    /// From clean to adversarial, in declared units and the example's norm; 0 when it is missing.
    pub distance: f64,
    /// Values of the clean input, row by row.
    #[serde(skip)]
    pub clean: Vec<f32>,
    /// Of the adversarial one; none when this modality is missing, with its baseline in its place.
    #[serde(skip)]
    pub adversarial: Option<Vec<f32>>,
}

impl ExampleModality {
    /// `clean` and `adversarial` are one sample's inputs; `norm` is `l2` or `linf`.
    ///
    /// # Errors
    /// Inputs of another shape than the modality's.
    pub fn new(
        modality: &Modality,
        norm: &str,
        clean: &Tensor,
        adversarial: Option<&Tensor>,
    ) -> Result<Self> {
        let values = |x: &Tensor| -> Result<Vec<f32>> {
            modality.check(&x.unsqueeze(0)?)?;
            Ok(x.flatten_all()?.to_vec1()?)
        };
        let (clean, adversarial) = (values(clean)?, adversarial.map(values).transpose()?);
        let moved = adversarial
            .iter()
            .flat_map(|x| clean.iter().zip(x))
            .map(|(c, a)| f64::from(a - c).abs());
        let length = if norm == "linf" {
            moved.fold(0.0, f64::max)
        } else {
            moved.map(|d| d * d).sum::<f64>().sqrt()
        };
        let (name, shape) = (modality.name.clone(), modality.shape.clone());
        Ok(Self {
            name,
            shape,
            range: range(&modality.domain),
            distance: length / modality.scale,
            clean,
            adversarial,
        })
    }
}

/// The file: tensors `{i}.{modality}.clean` and `.adversarial`, the rest as JSON in the metadata.
pub fn to_bytes(examples: &[Example]) -> Result<Vec<u8>> {
    let mut tensors = BTreeMap::new();
    for (i, m) in numbered(examples) {
        let [clean, adversarial] = keys(i, &m.name);
        let tensor = |values: &[f32]| Tensor::from_slice(values, m.shape.as_slice(), &Device::Cpu);
        tensors.insert(clean, tensor(&m.clean)?);
        if let Some(values) = &m.adversarial {
            tensors.insert(adversarial, tensor(values)?);
        }
    }
    Sealed::new(serde_json::to_string(examples)?, tensors)?.to_bytes(KIND)
}

/// Reads what [`to_bytes`] wrote; none where there is no file.
///
/// # Errors
/// A file that is truncated, altered, or not of this program is refused by name.
pub fn read(path: &Path) -> Result<Vec<Example>> {
    if !path.exists() {
        return Ok(vec![]);
    }
    let sealed = Sealed::read(path, KIND)?;
    let name = path.display();
    let mut examples: Vec<Example> = serde_json::from_str(&sealed.description)
        .with_context(|| format!("{name} holds examples that this version can't read"))?;
    for (i, example) in examples.iter_mut().enumerate() {
        for m in &mut example.modalities {
            let [clean, adversarial] = keys(i, &m.name);
            let values = |key: &String| {
                let tensor = sealed.tensors.get(key).filter(|t| t.dims() == m.shape);
                tensor.map(|t| t.flatten_all()?.to_vec1()).transpose()
            };
            let Some(values_clean) = values(&clean)? else {
                bail!(
                    "{name}: no `{clean}` of shape {:?}: evaluate the run again",
                    m.shape
                );
            };
            (m.adversarial, m.clean) = (values(&adversarial)?, values_clean);
        }
    }
    Ok(examples)
}

fn numbered(examples: &[Example]) -> impl Iterator<Item = (usize, &ExampleModality)> {
    examples
        .iter()
        .enumerate()
        .flat_map(|(i, example)| example.modalities.iter().map(move |m| (i, m)))
}

fn keys(i: usize, modality: &str) -> [String; 2] {
    [
        format!("{i}.{modality}.clean"),
        format!("{i}.{modality}.adversarial"),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crmt_core::Domain;

    fn examples() -> Result<Vec<Example>> {
        let tensor =
            |values: &[f32], shape: &[usize]| Tensor::from_slice(values, shape, &Device::Cpu);
        let image = Modality::new("image", &[1, 2, 2], Domain::Interval { lo: 0.0, hi: 1.0 });
        let pen = Modality {
            scale: 2.0,
            ..Modality::new("pen", &[3], Domain::Unbounded)
        };
        let clean = (
            tensor(&[0.0, 0.5, 0.5, 1.0], &[1, 2, 2])?,
            tensor(&[-1.0, 0.0, 7.0], &[3])?,
        );
        let moved = (
            tensor(&[0.0, 0.5, 0.75, 1.0], &[1, 2, 2])?,
            tensor(&[2.0, 4.0, 7.0], &[3])?,
        );
        let example = |norm: &str, pen_moves: bool| -> Result<Example> {
            let modalities = vec![
                ExampleModality::new(&image, norm, &clean.0, Some(&moved.0))?,
                ExampleModality::new(&pen, norm, &clean.1, pen_moves.then_some(&moved.1))?,
            ];
            let (attack, threat, norm) = ("pgd".into(), "joint".into(), norm.to_owned());
            let (eps, distance) = (0.1 + 0.2, 1.0 / 3.0);
            Ok(Example {
                sample: 9,
                label: 1,
                clean_prediction: 1,
                prediction: 0,
                attack,
                threat,
                norm,
                eps,
                distance,
                modalities,
            })
        };
        Ok(vec![
            example("l2", true)?,
            example("linf", true)?,
            example("l2", false)?,
        ])
    }

    #[test]
    fn distances_are_in_declared_units() -> Result<()> {
        let distances = |e: &Example| e.modalities.iter().map(|m| m.distance).collect::<Vec<_>>();
        let found: Vec<_> = examples()?.iter().map(distances).collect();
        // The pen moves by (3, 4, 0) in a scale of 2.
        assert_eq!(found, [vec![0.25, 2.5], vec![0.25, 2.0], vec![0.25, 0.0]]);
        let image = Modality::new("image", &[1, 2, 2], Domain::Unbounded);
        let flat = Tensor::zeros(4, candle_core::DType::F32, &Device::Cpu)?;
        let refused = ExampleModality::new(&image, "l2", &flat, None)
            .unwrap_err()
            .to_string();
        assert!(refused.contains("image"), "{refused}");
        Ok(())
    }

    #[test]
    fn examples_come_back_as_they_were_and_altered_files_do_not() -> Result<()> {
        let dir = tempfile::tempdir()?;
        let path = dir.path().join("examples.safetensors");
        assert_eq!(read(&path)?, []);
        let good = to_bytes(&examples()?)?;
        assert_eq!(good, to_bytes(&examples()?)?);
        std::fs::write(&path, &good)?;
        assert_eq!(read(&path)?, examples()?);
        for cut in [0, 7, good.len() / 2, good.len() - 1] {
            std::fs::write(&path, &good[..cut])?;
            let error = format!("{:#}", read(&path).unwrap_err());
            assert!(error.contains("examples.safetensors"), "{error}");
        }
        for at in (8..good.len()).step_by(5) {
            let mut bad = good.clone();
            bad[at] ^= 0x40;
            std::fs::write(&path, &bad)?;
            match read(&path) {
                Err(error) => assert!(
                    format!("{error:#}").contains("examples.safetensors"),
                    "{error:#}"
                ),
                // What a reader of safetensors ignores (white space, the `format` entry) may
                // change.
                Ok(same) => assert_eq!(same, examples()?, "a changed byte at {at} went unnoticed"),
            }
        }
        // A file of another kind.
        std::fs::write(
            &path,
            Sealed::new(String::new(), BTreeMap::new())?.to_bytes("architecture")?,
        )?;
        assert!(
            read(&path)
                .unwrap_err()
                .to_string()
                .contains("no `examples`")
        );
        Ok(())
    }
}
