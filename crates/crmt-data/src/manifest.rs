//! `dataset.toml`: what a data set says about itself, on disk and in memory.
//! Does not know arrays; [`DataSet::new`](crate::DataSet::new) holds the arrays against it.
use crate::Purpose;
use crate::nearest::{nearest, suggestion};
use crate::text::{on_one_line, visible};
use crmt_core::{Domain, Modality};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The file's name inside a data set's directory.
pub const MANIFEST: &str = "dataset.toml";

/// The format version that this crate reads and writes.
pub const VERSION: u32 = 1;

/// A data set's description; unknown keys are errors.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// [`VERSION`].
    pub version: u32,
    /// Used in reports.
    pub name: String,
    /// Names of the classes; label `k` is `classes[k]`.
    pub classes: Vec<String>,
    /// What a reader of the results must know, e.g. that modalities are paired by class.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
    /// Where the data come from.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sources: Vec<String>,
    /// Under what terms.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub licence: Option<String>,
    /// How samples of the modalities belong together.
    #[serde(default)]
    pub pairing: PairingSpec,
    /// One per modality, in order.
    pub modalities: Vec<ModalitySpec>,
    /// SHA-256 of array files by file name; those listed are verified when the set is opened, and
    /// must be arrays of it.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub sha256: BTreeMap<String, String>,
}

/// One modality's description.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModalitySpec {
    /// Letters, digits, `_` and `-`; also the middle of the file names. Not what
    /// [names](crmt_core::names) keeps for others.
    pub name: String,
    /// Shape of one sample.
    pub shape: Vec<usize>,
    /// Valid values `[lo, hi]`, after division; each a number or one number per channel (first
    /// axis of a sample). Absent: any real value.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub range: Option<[Bound; 2]>,
    /// The natural unit of a perturbation, see [`Modality::scale`].
    #[serde(default = "one")]
    pub scale: f64,
    /// What replaces the modality where it is missing.
    #[serde(default)]
    pub baseline: Baseline,
    /// Value = stored / divide, so images can stay bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub divide: Option<f64>,
    /// Random changes in training.
    #[serde(default, skip_serializing_if = "Augment::is_none")]
    pub augment: Augment,
    /// What the preparation did to each feature: a record, nothing is applied when the set is
    /// opened.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub standardised: Option<Standardised>,
    /// How many severities of each [`PreparedCorruption`](crate::PreparedCorruption) there are, by
    /// its name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub corruptions: BTreeMap<String, usize>,
}

/// Each feature is `(original - mean) / sd`; where `sd` is zero, `original - mean`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Standardised {
    /// One per feature.
    pub mean: Vec<f64>,
    /// One per feature.
    pub sd: Vec<f64>,
}

/// One end of a range.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(
    untagged,
    expecting = "range = [lo, hi]: each end is a number or a list with one number per channel"
)]
pub enum Bound {
    /// The same for every element.
    All(f64),
    /// One per channel.
    Channels(Vec<f64>),
}

/// What replaces a missing modality.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(untagged, expecting = "baseline is \"zeros\", \"mean\" or a number")]
pub enum Baseline {
    /// See [`NamedBaseline`].
    Named(NamedBaseline),
    /// This value in every element.
    Value(f64),
}

/// Baselines that have a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NamedBaseline {
    /// Zero in every element.
    Zeros,
    /// The mean of each element over the rows of the training array.
    Mean,
}

/// Random changes to training samples.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Augment {
    /// Shift along the last axis by up to this many steps either way, filled with zeros.
    #[serde(default)]
    pub shift_last_axis: usize,
}

/// One kind of pairing for every split, or one for each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(
    untagged,
    expecting = "pairing is \"rows\", \"index\", or { train = …, select = …, report = … }; `class` is for train only"
)]
pub enum PairingSpec {
    /// The same for all three.
    Every(PairingKind),
    /// One for each.
    Splits(SplitPairings),
}

/// A pairing for each split.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SplitPairings {
    /// Of the training split.
    #[serde(default)]
    pub train: PairingKind,
    /// Of the selection split.
    #[serde(default)]
    pub select: PairingKind,
    /// Of the report split.
    #[serde(default)]
    pub report: PairingKind,
}

/// See [`Pairing`](crate::Pairing).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PairingKind {
    /// Row `i` of every array belongs to sample `i`.
    #[default]
    Rows,
    /// A table lists the row of every modality for each sample.
    Index,
    /// Samples are put together at random within a class, anew in every epoch.
    Class,
}

/// Why a `dataset.toml` is refused.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum ManifestError {
    /// Not TOML, a missing key, or a value of the wrong type.
    #[error("line {line}: {message}")]
    Syntax {
        /// Counted from 1.
        line: usize,
        /// What the parser says.
        message: String,
    },
    /// A key that does not exist.
    #[error("line {line}: unknown key `{}`{}; known here: {}", visible(.key), suggestion(.nearest.clone()), .known.join(", "))]
    UnknownKey {
        /// Counted from 1.
        line: usize,
        /// As written.
        key: String,
        /// The known key that looks most like it.
        nearest: Option<String>,
        /// All known keys at this place.
        known: Vec<String>,
    },
    /// A value that can't be.
    #[error("{key}: {problem}")]
    Value {
        /// Path of the key, e.g. `modalities.audio.range`.
        key: String,
        /// What is wrong with it, and what to do.
        problem: String,
    },
}

impl Manifest {
    /// A manifest with what every data set must say.
    pub fn new(
        name: impl Into<String>,
        classes: impl IntoIterator<Item = impl Into<String>>,
        modalities: Vec<ModalitySpec>,
    ) -> Self {
        Self {
            version: VERSION,
            name: name.into(),
            classes: classes.into_iter().map(Into::into).collect(),
            notes: vec![],
            sources: vec![],
            licence: None,
            pairing: PairingSpec::default(),
            modalities,
            sha256: BTreeMap::new(),
        }
    }

    /// Parses and checks the text of a `dataset.toml`.
    pub fn parse(text: &str) -> Result<Self, ManifestError> {
        let mut manifest: Self = toml::from_str(text).map_err(|e| explain(text, &e))?;
        for text in manifest
            .notes
            .iter_mut()
            .chain(&mut manifest.sources)
            .chain(&mut manifest.licence)
        {
            *text = on_one_line(text);
        }
        manifest.check()?;
        Ok(manifest)
    }
}

impl ModalitySpec {
    /// A modality with any real value, zeros as its baseline, perturbed in its own units.
    pub fn new(name: impl Into<String>, shape: &[usize]) -> Self {
        Self {
            name: name.into(),
            shape: shape.to_vec(),
            range: None,
            scale: 1.,
            baseline: Baseline::default(),
            divide: None,
            augment: Augment::default(),
            standardised: None,
            corruptions: BTreeMap::new(),
        }
    }

    /// The same with values in `lo..=hi`.
    pub fn with_range(mut self, lo: f64, hi: f64) -> Self {
        self.range = Some([Bound::All(lo), Bound::All(hi)]);
        self
    }

    /// What models and attacks see of it. The bounds are rounded to `f32`, as the values are, so
    /// that a value on the boundary is inside.
    pub fn modality(&self) -> Modality {
        let round = |v: f64| f64::from(v as f32);
        let channels = |bound: &Bound, n: usize| match bound {
            Bound::All(v) => vec![round(*v); n],
            Bound::Channels(v) => v.iter().copied().map(round).collect(),
        };
        let domain = match &self.range {
            None => Domain::Unbounded,
            Some([Bound::All(lo), Bound::All(hi)]) => Domain::Interval {
                lo: round(*lo),
                hi: round(*hi),
            },
            Some([lo, hi]) => {
                let n = self.shape.first().copied().unwrap_or(1);
                Domain::Channels {
                    lo: channels(lo, n),
                    hi: channels(hi, n),
                }
            }
        };
        Modality {
            name: self.name.clone(),
            shape: self.shape.clone(),
            domain,
            scale: self.scale,
        }
    }
}

impl PairingSpec {
    /// The pairing of one split.
    pub fn of(&self, purpose: Purpose) -> PairingKind {
        match (self, purpose) {
            (Self::Every(kind), _) => *kind,
            (Self::Splits(s), Purpose::Train) => s.train,
            (Self::Splits(s), Purpose::Select) => s.select,
            (Self::Splits(s), Purpose::Report) => s.report,
        }
    }
}

impl Default for PairingSpec {
    fn default() -> Self {
        Self::Every(PairingKind::Rows)
    }
}

impl Default for Baseline {
    fn default() -> Self {
        Self::Named(NamedBaseline::Zeros)
    }
}

impl Augment {
    fn is_none(&self) -> bool {
        *self == Self::default()
    }
}

impl std::fmt::Display for Bound {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::All(v) => write!(f, "{v}"),
            Self::Channels(v) => write!(f, "{v:?}"),
        }
    }
}

fn one() -> f64 {
    1.
}

/// Turns the parser's error into one line, with a suggestion for an unknown key. The known keys
/// are those that serde lists in its message, between backticks.
fn explain(text: &str, error: &toml::de::Error) -> ManifestError {
    let line = 1 + error.span().map_or(0, |s| {
        text.get(..s.start).unwrap_or(text).matches('\n').count()
    });
    let message = error.message();
    if message.starts_with("unknown field") {
        let mut words = message.split('`').skip(1).step_by(2).map(str::to_owned);
        if let Some(key) = words.next() {
            let known: Vec<_> = words.collect();
            let nearest = nearest(&key, &known);
            return ManifestError::UnknownKey {
                line,
                key,
                nearest,
                known,
            };
        }
    }
    ManifestError::Syntax {
        line,
        message: visible(&message.replace('\n', "; ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMALL: &str =
        "version = 1\nname = 'x'\nclasses = ['a', 'b']\n[[modalities]]\nname = 'v'\nshape = [3]\n";

    fn message(text: &str) -> String {
        Manifest::parse(text)
            .expect_err("must be refused")
            .to_string()
    }

    #[test]
    fn the_shortest_manifest_has_sensible_defaults() {
        let m = Manifest::parse(SMALL).expect("valid");
        assert_eq!(m.pairing.of(Purpose::Train), PairingKind::Rows);
        let v = m.modalities[0].modality();
        assert_eq!((v.domain, v.scale), (Domain::Unbounded, 1.));
        assert_eq!(
            m.modalities[0].baseline,
            Baseline::Named(NamedBaseline::Zeros)
        );
    }

    #[test]
    fn every_key_survives_writing_and_reading() {
        let text = format!(
            "{SMALL}range = [[0, -1, 0], [1, 2.5, 3]]\nscale = 2\nbaseline = 'mean'\ndivide = 255\naugment.shift_last_axis = 3\ncorruptions.rain = 5\n\
             [[modalities]]\nname = 'w'\nshape = [2, 2]\nrange = [0, 1]\nbaseline = 0.5\n\
             [pairing]\ntrain = 'class'\nselect = 'index'\n[sha256]\n'a.npy' = '{}'\n",
            "0".repeat(64)
        );
        let m = Manifest::parse(&text).expect("valid");
        assert_eq!(m.pairing.of(Purpose::Train), PairingKind::Class);
        assert_eq!(m.pairing.of(Purpose::Report), PairingKind::Rows);
        assert_eq!(
            m.modalities[0].modality().domain,
            Domain::Channels {
                lo: vec![0., -1., 0.],
                hi: vec![1., 2.5, 3.]
            }
        );
        let again = Manifest::parse(&toml::to_string(&m).expect("serializes")).expect("valid");
        assert_eq!(again, m);
    }

    #[test]
    fn unknown_keys_get_a_suggestion() {
        assert_eq!(
            message(&SMALL.replace("shape", "shpae")),
            "line 6: unknown key `shpae`, did you mean `shape`?; known here: name, shape, range, scale, baseline, divide, augment, standardised, corruptions"
        );
        assert!(
            message(&format!("zzzzz = 1\n{SMALL}"))
                .starts_with("line 1: unknown key `zzzzz`; known here: version,")
        );
        assert!(
            message(&format!("{SMALL}augment.shift = 3"))
                .contains("did you mean `shift_last_axis`?")
        );
    }
}
