//! What the certificates of smoothed classifiers say of the samples together: for `summary.json`
//! and `smoothed.csv`. Does not know how they were made.
use crate::{
    certification::quantiles,
    record::{CertifiedResult, RadiusResult, SmoothedResult},
    threat::JOINT,
};
use anyhow::{Context, Result};

/// The kind of evidence.
pub const EVIDENCE: &str = "confident";

/// A smoothed classifier on drawn report samples.
pub struct Smoothed {
    /// Names of the modalities it has to do without; empty when it has all.
    pub missing: String,
    /// In the order in which they were drawn.
    pub samples: Vec<Certified>,
}

/// What is certified at one sample.
pub struct Certified {
    /// Number of the sample in the report split.
    pub sample: u64,
    /// The true class.
    pub label: u32,
    /// The class that stays predicted; none when the certificate abstains.
    pub class: Option<u32>,
    /// Votes for the class that was chosen.
    pub count: u64,
    /// The lower bound of its probability.
    pub p_lower: f64,
    /// In standard deviations of the noise; 0 when it abstains.
    pub radius: f64,
    /// In declared units, by threat: joint first, then each modality that is there.
    pub radii: Vec<(String, f64)>,
}

impl Certified {
    fn right(&self) -> bool {
        self.class == Some(self.label)
    }

    /// In declared units.
    pub fn radius(&self, threat: &str) -> Option<f64> {
        self.radii
            .iter()
            .find(|(name, _)| name == threat)
            .map(|(_, radius)| *radius)
    }
}

impl Smoothed {
    /// Fractions and means; radii count as 0 where the class is wrong or the certificate abstains.
    pub fn result(&self, eps: &[f64]) -> SmoothedResult {
        let n = self.samples.len().max(1) as f64;
        let fraction = |holds: &dyn Fn(&Certified) -> bool| {
            self.samples.iter().filter(|s| holds(s)).count() as f64 / n
        };
        let right = |s: &Certified, radius: f64| if s.right() { radius } else { 0.0 };
        let of = |threat: &str| -> Vec<f64> {
            self.samples
                .iter()
                .map(|s| right(s, s.radius(threat).unwrap_or(0.0)))
                .collect()
        };
        let threats: Vec<&String> = self
            .samples
            .first()
            .map_or(vec![], |s| s.radii.iter().map(|(t, _)| t).collect());
        let certified = |threat: &&String, eps: f64| CertifiedResult {
            threat: (*threat).clone(),
            eps,
            accuracy: fraction(&|s| s.right() && s.radius(threat).is_some_and(|r| r >= eps)),
            evidence: EVIDENCE.to_owned(),
            samples: self.samples.len() as u64,
            attacked_samples: None,
        };
        let radii = |threat: &&String| RadiusResult {
            threat: (*threat).clone(),
            evidence: EVIDENCE.to_owned(),
            mean: of(threat).iter().sum::<f64>() / n,
            quantiles: quantiles(of(threat)),
            vulnerability_share: None,
        };
        SmoothedResult {
            missing: self.missing.clone(),
            accuracy: fraction(&|s| s.right()),
            abstained: fraction(&|s| s.class.is_none()),
            mean_radius: self.samples.iter().map(|s| right(s, s.radius)).sum::<f64>() / n,
            certified: threats
                .iter()
                .flat_map(|t| eps.iter().map(move |eps| certified(t, *eps)))
                .collect(),
            radii: threats.iter().map(radii).collect(),
        }
    }
}

/// `smoothed.csv`: a row per classifier and sample. What is missing can't be attacked, and has no
/// radius.
pub fn to_csv(classifiers: &[Smoothed], names: &[String]) -> Result<Vec<u8>> {
    let mut csv = csv::Writer::from_writer(vec![]);
    let threats: Vec<&str> = [JOINT]
        .into_iter()
        .chain(names.iter().map(String::as_str))
        .collect();
    let fixed = [
        "sample", "label", "missing", "class", "n_A", "p_lower", "radius",
    ]
    .map(str::to_owned);
    csv.write_record(
        fixed
            .into_iter()
            .chain(threats.iter().map(|t| format!("radius.{t}"))),
    )?;
    for classifier in classifiers {
        for s in &classifier.samples {
            let fixed = [
                s.sample.to_string(),
                s.label.to_string(),
                classifier.missing.clone(),
                s.class.map(|k| k.to_string()).unwrap_or_default(),
                s.count.to_string(),
                s.p_lower.to_string(),
                s.radius.to_string(),
            ];
            let radii = threats
                .iter()
                .map(|t| s.radius(t).map(|r| r.to_string()).unwrap_or_default());
            csv.write_record(fixed.into_iter().chain(radii))?;
        }
    }
    csv.into_inner().context("smoothed.csv")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(sample: u64, label: u32, class: Option<u32>, radius: f64) -> Certified {
        let radii = [("joint", 0.25), ("pix", 0.25), ("wav", 1.0)];
        let radii = radii
            .map(|(t, sigma)| (t.to_owned(), sigma * radius))
            .to_vec();
        Certified {
            sample,
            label,
            class,
            count: 9,
            p_lower: 0.75,
            radius,
            radii,
        }
    }

    #[test]
    fn only_what_is_right_and_certified_counts() -> Result<()> {
        let samples = vec![
            sample(5, 1, Some(1), 2.0),
            sample(3, 1, Some(0), 3.0),
            sample(9, 0, None, 0.0),
            sample(0, 0, Some(0), 1.0),
        ];
        let smoothed = Smoothed {
            missing: String::new(),
            samples,
        };
        let result = smoothed.result(&[0.5, 2.0]);
        assert_eq!(
            (result.accuracy, result.abstained, result.mean_radius),
            (0.5, 0.25, 0.75)
        );
        let at = |threat: &str| -> Vec<f64> {
            result
                .certified
                .iter()
                .filter(|c| c.threat == threat)
                .map(|c| c.accuracy)
                .collect()
        };
        assert_eq!((at("joint"), at("wav")), (vec![0.25, 0.0], vec![0.5, 0.25]));
        assert_eq!(result.radii[2].mean, 0.75);
        let csv = String::from_utf8(to_csv(&[smoothed], &["pix".into(), "wav".into()])?)?;
        let lines: Vec<&str> = csv.lines().collect();
        assert_eq!(
            lines[0],
            "sample,label,missing,class,n_A,p_lower,radius,radius.joint,radius.pix,radius.wav"
        );
        assert_eq!(
            (lines[1], lines[3]),
            ("5,1,,1,9,0.75,2,0.5,0.5,2", "9,0,,,9,0.75,0,0,0,0")
        );
        Ok(())
    }
}
