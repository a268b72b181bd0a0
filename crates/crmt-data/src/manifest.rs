//! `dataset.toml`: what a data set says about itself, on disk and in memory.
//! Does not know arrays; [`DataSet::new`](crate::DataSet::new) holds the arrays against it.
use crate::Purpose;
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
    /// SHA-256 of array files by file name; those listed are verified when the set is opened.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub sha256: BTreeMap<String, String>,
}

/// One modality's description.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModalitySpec {
    /// Letters, digits, `_` and `-`; also the middle of the file names.
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
    /// What the preparation did to each feature: a record, nothing is applied when the set is opened.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub standardised: Option<Standardised>,
    /// How many severities of each [`PreparedCorruption`](crate::PreparedCorruption) there are, by its name.
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
#[serde(untagged, expecting = "range = [lo, hi]: each end is a number or a list with one number per channel")]
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
    #[error("line {line}: unknown key `{key}`{}; known here: {}", suggestion(.nearest), .known.join(", "))]
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
        let manifest: Self = toml::from_str(text).map_err(|e| explain(text, &e))?;
        manifest.check()?;
        Ok(manifest)
    }

    /// Checks what the types leave open.
    pub fn check(&self) -> Result<(), ManifestError> {
        let fail = |key: String, problem: String| Err(ManifestError::Value { key, problem });
        if self.version != VERSION {
            let problem = format!("this program reads version {VERSION}, the file has version {}", self.version);
            return fail("version".into(), problem);
        }
        if self.classes.is_empty() {
            return fail("classes".into(), "the list is empty; name every class, label k is classes[k]".into());
        }
        if let Some(twice) = duplicate(&self.classes) {
            return fail("classes".into(), format!("`{twice}` appears twice"));
        }
        if self.modalities.is_empty() {
            return fail("modalities".into(), "the list is empty; describe at least one modality".into());
        }
        let names: Vec<_> = self.modalities.iter().map(|m| m.name.clone()).collect();
        if let Some(twice) = duplicate(&names) {
            return fail("modalities".into(), format!("two modalities are called `{twice}`"));
        }
        if let Some(taken) = names.iter().find(|name| ["joint", "each"].contains(&name.as_str())) {
            return fail(
                "modalities".into(),
                format!("`{taken}` names a threat over all modalities; choose another name"),
            );
        }
        for kind in [self.pairing.of(Purpose::Select), self.pairing.of(Purpose::Report)] {
            if kind == PairingKind::Class {
                let problem = "`class` is random and only for train; select and report need `rows` or `index`";
                return fail("pairing".into(), problem.into());
            }
        }
        self.modalities.iter().try_for_each(ModalitySpec::check)
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
            Some([Bound::All(lo), Bound::All(hi)]) => Domain::Interval { lo: round(*lo), hi: round(*hi) },
            Some([lo, hi]) => {
                let n = self.shape.first().copied().unwrap_or(1);
                Domain::Channels { lo: channels(lo, n), hi: channels(hi, n) }
            }
        };
        Modality { name: self.name.clone(), shape: self.shape.clone(), domain, scale: self.scale }
    }

    pub(crate) fn check(&self) -> Result<(), ManifestError> {
        let fail = |key: &str, problem: String| {
            Err(ManifestError::Value { key: format!("modalities.{}.{key}", self.name), problem })
        };
        let word = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
        if self.name.is_empty() || !self.name.chars().all(word) || ["labels", "index"].contains(&&*self.name) {
            let problem =
                "use letters, digits, `_` and `-`; `labels` and `index` are taken (the name is part of the file names)";
            return fail("name", problem.into());
        }
        if ["joint", "each", "any-missing"].contains(&&*self.name) || self.name.starts_with("without-") {
            let problem = "`joint`, `each`, `any-missing` and `without-…` are names of threats, which results go by";
            return fail("name", problem.into());
        }
        if self.shape.contains(&0) {
            return fail("shape", format!("{:?} holds no values; every extent must be positive", self.shape));
        }
        if !(self.scale > 0. && self.scale.is_finite()) {
            return fail("scale", format!("expected a positive number, got {}", self.scale));
        }
        if self.divide.is_some_and(|d| d == 0. || !d.is_finite()) {
            return fail("divide", "expected a number other than 0".into());
        }
        if matches!(self.baseline, Baseline::Value(v) if !v.is_finite()) {
            return fail("baseline", "expected a finite number, \"zeros\" or \"mean\"".into());
        }
        for (name, severities) in &self.corruptions {
            let key = format!("corruptions.{name}");
            if name.is_empty() || !name.chars().all(word) {
                return fail(&key, "use letters, digits, `_` and `-` (the name is part of the file names)".into());
            }
            if !(1..=5).contains(severities) {
                return fail(&key, format!("expected 1 to 5 severities, got {severities}"));
            }
        }
        let Some([lo, hi]) = &self.range else { return Ok(()) };
        let channels = self.shape.first().copied().unwrap_or(1);
        for bound in [lo, hi] {
            if let Bound::Channels(v) = bound
                && v.len() != channels
            {
                return fail("range", format!("{} numbers for {channels} channels (the first axis of shape)", v.len()));
            }
        }
        let at = |bound: &Bound, c: usize| match bound {
            Bound::All(v) => *v,
            Bound::Channels(v) => v[c],
        };
        match (0..channels)
            .map(|c| (at(lo, c), at(hi, c)))
            .find(|(lo, hi)| !(lo.is_finite() && hi.is_finite() && lo < hi))
        {
            Some((lo, hi)) => fail(
                "range",
                format!("expected finite lo < hi, got [{lo}, {hi}]; leave the key out for unbounded values"),
            ),
            None => Ok(()),
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

fn duplicate(names: &[String]) -> Option<&String> {
    names.iter().enumerate().find(|(i, name)| names[..*i].contains(name)).map(|(_, name)| name)
}

fn suggestion(nearest: &Option<String>) -> String {
    nearest.as_ref().map(|n| format!(", did you mean `{n}`?")).unwrap_or_default()
}

/// Turns the parser's error into one line, with a suggestion for an unknown key. The known keys
/// are those that serde lists in its message, between backticks.
fn explain(text: &str, error: &toml::de::Error) -> ManifestError {
    let line = 1 + error.span().map_or(0, |s| text.get(..s.start).unwrap_or(text).matches('\n').count());
    let message = error.message();
    if message.starts_with("unknown field") {
        let mut words = message.split('`').skip(1).step_by(2).map(str::to_owned);
        if let Some(key) = words.next() {
            let known: Vec<_> = words.collect();
            // Jaro-Winkler favours a common beginning; unrelated names stay below 0.7 or so.
            let like = |k: &String| strsim::jaro_winkler(&key, k);
            let nearest = known.iter().filter(|k| like(k) >= 0.8).max_by(|a, b| like(a).total_cmp(&like(b))).cloned();
            return ManifestError::UnknownKey { line, key, nearest, known };
        }
    }
    ManifestError::Syntax { line, message: message.replace('\n', "; ") }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMALL: &str = "version = 1\nname = 'x'\nclasses = ['a', 'b']\n[[modalities]]\nname = 'v'\nshape = [3]\n";

    fn message(text: &str) -> String {
        Manifest::parse(text).expect_err("must be refused").to_string()
    }

    #[test]
    fn the_shortest_manifest_has_sensible_defaults() {
        let m = Manifest::parse(SMALL).expect("valid");
        assert_eq!(m.pairing.of(Purpose::Train), PairingKind::Rows);
        let v = m.modalities[0].modality();
        assert_eq!((v.domain, v.scale), (Domain::Unbounded, 1.));
        assert_eq!(m.modalities[0].baseline, Baseline::Named(NamedBaseline::Zeros));
    }

    #[test]
    fn every_key_survives_writing_and_reading() {
        let text = format!(
            "{SMALL}range = [[0, -1, 0], [1, 2.5, 3]]\nscale = 2\nbaseline = 'mean'\ndivide = 255\naugment.shift_last_axis = 4\ncorruptions.rain = 5\n\
             [[modalities]]\nname = 'w'\nshape = [2, 2]\nrange = [0, 1]\nbaseline = 0.5\n\
             [pairing]\ntrain = 'class'\nselect = 'index'\n[sha256]\n'a.npy' = '00'\n"
        );
        let m = Manifest::parse(&text).expect("valid");
        assert_eq!(m.pairing.of(Purpose::Train), PairingKind::Class);
        assert_eq!(m.pairing.of(Purpose::Report), PairingKind::Rows);
        assert_eq!(
            m.modalities[0].modality().domain,
            Domain::Channels { lo: vec![0., -1., 0.], hi: vec![1., 2.5, 3.] }
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
            message(&format!("zzzzz = 1\n{SMALL}")).starts_with("line 1: unknown key `zzzzz`; known here: version,")
        );
        assert!(message(&format!("{SMALL}augment.shift = 3")).contains("did you mean `shift_last_axis`?"));
    }

    #[test]
    fn impossible_values_are_named() {
        for (from, to, expected) in [
            ("version = 1", "version = 9", "version: this program reads version 1"),
            ("['a', 'b']", "[]", "classes: the list is empty"),
            ("['a', 'b']", "['a', 'a']", "classes: `a` appears twice"),
            ("'v'", "'labels'", "modalities.labels.name: use letters"),
            ("'v'", "'../v'", "modalities.../v.name: use letters"),
            ("[3]", "[3, 0]", "modalities.v.shape: [3, 0] holds no values"),
            ("shape = [3]", "shape = [3]\nscale = 0", "modalities.v.scale: expected a positive number, got 0"),
            ("shape = [3]", "shape = [3]\ndivide = 0", "modalities.v.divide: expected a number other than 0"),
            ("shape = [3]", "shape = [3]\nrange = [1, 0]", "modalities.v.range: expected finite lo < hi, got [1, 0]"),
            ("shape = [3]", "shape = [3]\nrange = [0, [1, 2]]", "modalities.v.range: 2 numbers for 3 channels"),
            ("shape = [3]", "shape = [3]\nrange = 'all'", "line 7: "),
            ("shape = [3]", "shape = [3]\nbaseline = 'median'", "line 7: baseline is \"zeros\", \"mean\" or a number"),
            (
                "shape = [3]",
                "shape = [3]\ncorruptions = { rain = 6 }",
                "modalities.v.corruptions.rain: expected 1 to 5",
            ),
            ("shape = [3]", "shape = [3]\ncorruptions = { '../r' = 1 }", "modalities.v.corruptions.../r: use letters"),
            ("shape = [3]", "shape = [3]\ncorruptions = { rain = -1 }", "line 7: "),
            ("name = 'x'", "name = 'x'\npairing = 'class'", "pairing: `class` is random and only for train"),
            ("name = 'x'", "name = 'x'\npairing = 'rwos'", "line 3: pairing is \"rows\""),
            ("name = 'x'\n", "", "missing field `name`"),
            ("name = 'x'", "name = ", "line 2: "),
        ] {
            let got = message(&SMALL.replacen(from, to, 1));
            assert!(got.contains(expected), "{to}: {got}");
            assert!(!got.contains('\n'), "{got}");
        }
        let two = format!("{SMALL}[[modalities]]\nname = 'v'\nshape = [1]\n");
        assert!(message(&two).contains("two modalities are called `v`"));
    }
}
