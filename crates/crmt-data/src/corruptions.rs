//! Prepared corruptions: versions of a modality's report array that someone corrupted in its own
//! domain, such as recordings that were mixed with noise before they became spectrograms. Does not
//! know how that was done.
use crate::split::{array_file, check_values, corrupted_file};
use crate::{DataSet, DataSetError, ManifestError, PreparedCorruption, Purpose, Split, SplitError};

impl DataSet {
    /// The data set with these corruptions instead of those it had.
    ///
    /// # Errors
    /// Names the file (as it is called on disk) and the row, or the key, that is wrong.
    pub fn with_corruptions(
        mut self,
        corruptions: Vec<PreparedCorruption>,
    ) -> Result<Self, DataSetError> {
        self.manifest
            .modalities
            .iter_mut()
            .for_each(|spec| spec.corruptions.clear());
        for PreparedCorruption {
            modality,
            name,
            severities,
        } in &corruptions
        {
            let fail = |problem: &str| {
                let key = format!("modalities.{modality}.corruptions.{name}");
                Err(ManifestError::Value {
                    key,
                    problem: problem.into(),
                })
            };
            let mut specs = self.manifest.modalities.iter_mut().enumerate();
            let Some((m, spec)) = specs.find(|(_, spec)| spec.name == *modality) else {
                return Ok(fail("the data set has no such modality")?);
            };
            if spec
                .corruptions
                .insert(name.clone(), severities.len())
                .is_some()
            {
                return Ok(fail("named twice")?);
            }
            spec.check()?;
            let expected = self.report.arrays()[m].rows();
            for (severity, array) in (1..).zip(severities) {
                let file = corrupted_file(modality, name, severity);
                check_values(spec, array, file.clone())?;
                if array.rows() != expected {
                    let (got, other) = (array.rows(), array_file(Purpose::Report, modality));
                    return Err(SplitError::Rows {
                        file,
                        got,
                        other,
                        expected,
                    }
                    .into());
                }
            }
        }
        Ok(Self {
            corruptions,
            ..self
        })
    }

    /// What was prepared; often nothing.
    pub fn corruptions(&self) -> &[PreparedCorruption] {
        &self.corruptions
    }

    /// The report split as `corruption` leaves it: the same samples, labels and other modalities.
    /// `None` where this severity, counted from 1, was not prepared.
    pub fn corrupted_report(&self, corruption: &PreparedCorruption, severity: u8) -> Option<Split> {
        let m = self
            .modalities
            .iter()
            .position(|m| m.name == corruption.modality)?;
        let array = corruption
            .severities
            .get(usize::from(severity).checked_sub(1)?)?;
        Some(self.report.with_array(m, array))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Array, Manifest, ModalitySpec, Pairing, Samples};

    /// Four samples of two report rows of each modality.
    fn data() -> DataSet {
        let specs = vec![
            ModalitySpec::new("image", &[2]).with_range(0., 1.),
            ModalitySpec::new("sound", &[1]),
        ];
        let samples = |pairing| Samples {
            arrays: vec![floats(&[2], &[0., 1., 0.5, 0.2]), floats(&[1], &[3., 4.])],
            pairing,
        };
        let rows = || samples(Pairing::Rows { labels: vec![0, 1] });
        let report = samples(Pairing::Index {
            table: vec![0, 1, 1, 0, 1, 1, 0, 0],
            labels: vec![0, 1, 1, 0],
        });
        DataSet::new(
            Manifest::new("d", ["a", "b"], specs),
            rows(),
            rows(),
            report,
        )
        .expect("consistent")
    }

    fn floats(shape: &[usize], values: &[f32]) -> Array {
        Array::floats(shape, values.to_vec()).expect("whole")
    }

    fn corruption(modality: &str, name: &str, severities: Vec<Array>) -> PreparedCorruption {
        PreparedCorruption {
            modality: modality.into(),
            name: name.into(),
            severities,
        }
    }

    #[test]
    fn one_array_is_replaced_and_the_samples_stay() -> Result<(), Box<dyn std::error::Error>> {
        let rain = corruption(
            "sound",
            "rain",
            vec![floats(&[1], &[3.5, 4.5]), floats(&[1], &[7., 8.])],
        );
        let data = data().with_corruptions(vec![rain.clone()])?;
        assert_eq!(data.manifest().modalities[1].corruptions["rain"], 2);
        let (clean, hard) = (
            data.report.batch(0..4)?,
            data.corrupted_report(&rain, 2)
                .expect("prepared")
                .batch(0..4)?,
        );
        assert_eq!(hard.inputs[1].to_vec2::<f32>()?, [[8.], [7.], [8.], [7.]]);
        assert_eq!(
            hard.inputs[0].to_vec2::<f32>()?,
            clean.inputs[0].to_vec2::<f32>()?
        );
        assert_eq!(hard.labels.to_vec1::<u32>()?, [0, 1, 1, 0]);
        assert!(
            data.corrupted_report(&rain, 0).is_none() && data.corrupted_report(&rain, 3).is_none()
        );
        // A subset keeps what is about its modalities.
        assert_eq!(data.clone().subset(&["sound"])?.corruptions(), [rain]);
        assert_eq!(data.subset(&["image"])?.corruptions(), []);
        Ok(())
    }

    #[test]
    fn what_does_not_fit_is_named() {
        let good = || floats(&[1], &[3., 4.]);
        for (bad, expected) in [
            (
                vec![corruption("radar", "rain", vec![good()])],
                "modalities.radar.corruptions.rain: the data set has no",
            ),
            (
                vec![corruption("sound", "rain", vec![good()]); 2],
                "modalities.sound.corruptions.rain: named twice",
            ),
            (
                vec![corruption("sound", "r/n", vec![good()])],
                "modalities.sound.corruptions.r/n: use letters",
            ),
            (
                vec![corruption("sound", "rain", vec![])],
                "modalities.sound.corruptions.rain: expected 1 to 5",
            ),
            (
                vec![corruption("sound", "rain", vec![good(); 6])],
                "modalities.sound.corruptions.rain: expected 1 to 5",
            ),
            (
                vec![corruption(
                    "sound",
                    "rain",
                    vec![good(), floats(&[1], &[3.])],
                )],
                "report.sound.rain-2.npy has 1 rows, report.sound.npy has 2",
            ),
            (
                vec![corruption(
                    "sound",
                    "rain",
                    vec![floats(&[1], &[3., f32::NAN])],
                )],
                "report.sound.rain-1.npy: row 1 holds NaN",
            ),
            (
                vec![corruption(
                    "image",
                    "fog",
                    vec![floats(&[2], &[0., 0., 1.5, 0.])],
                )],
                "report.image.fog-1.npy: row 1 holds 1.5, outside modalities.image.range = [0, 1]",
            ),
            (
                vec![corruption("image", "fog", vec![good()])],
                "report.image.fog-1.npy: samples have shape [1]",
            ),
        ] {
            let message = data()
                .with_corruptions(bad)
                .expect_err("must be refused")
                .to_string();
            assert!(message.contains(expected), "{message}");
        }
    }
}
