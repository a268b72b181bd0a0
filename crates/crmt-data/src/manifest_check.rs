//! What a `dataset.toml` may say: values that can be, names that are nobody else's.
//! Does not know its syntax, nor arrays.
use crate::text::{name_problem, normalised, twice, visible};
use crate::{
    Baseline, Bound, Manifest, ManifestError, ModalitySpec, PairingKind, Purpose, VERSION,
};
use crmt_core::names::{ALL, reserved};

/// Names of modalities and corruptions are parts of file names.
const WORD: &str =
    "use letters, digits, `_` and `-`, the first no `-` (the name is part of the file names)";

impl Manifest {
    /// Checks what the types leave open.
    pub fn check(&self) -> Result<(), ManifestError> {
        let fail = |key: &str, problem: String| {
            Err(ManifestError::Value {
                key: key.to_owned(),
                problem,
            })
        };
        if self.version != VERSION {
            let problem = format!(
                "this program reads version {VERSION}, the file has version {}",
                self.version
            );
            return fail("version", problem);
        }
        if let Some(problem) = name_problem(&self.name) {
            return fail("name", problem);
        }
        if self.classes.is_empty() {
            return fail(
                "classes",
                "the list is empty; name every class, label k is classes[k]".into(),
            );
        }
        if let Some(problem) = self.classes.iter().find_map(|class| name_problem(class)) {
            return fail("classes", problem);
        }
        if let Some(twice) = twice(
            &self.classes.iter().map(String::as_str).collect::<Vec<_>>(),
            normalised,
        ) {
            return fail("classes", format!("`{twice}` appears twice"));
        }
        if self.modalities.is_empty() {
            return fail(
                "modalities",
                "the list is empty; describe at least one modality".into(),
            );
        }
        let names: Vec<_> = self.modalities.iter().map(|m| m.name.as_str()).collect();
        if let Some(twice) = twice(&names, str::to_ascii_lowercase) {
            let problem = format!(
                "two modalities are called `{}`; upper and lower case are the same",
                visible(twice)
            );
            return fail("modalities", problem);
        }
        for kind in [
            self.pairing.of(Purpose::Select),
            self.pairing.of(Purpose::Report),
        ] {
            if kind == PairingKind::Class {
                let problem = "`class` is random and only for train; select and report need `rows` or `index`";
                return fail("pairing", problem.into());
            }
        }
        if let Some((file, sum)) = self.sha256.iter().find(|(_, sum)| !is_sha256(sum)) {
            return fail(
                &format!("sha256.{}", visible(file)),
                format!("`{}` is not 64 hexadecimal digits", visible(sum)),
            );
        }
        self.modalities.iter().try_for_each(ModalitySpec::check)
    }
}

impl ModalitySpec {
    pub(crate) fn check(&self) -> Result<(), ManifestError> {
        let fail = |key: &str, problem: String| {
            Err(ManifestError::Value {
                key: format!("modalities.{}.{key}", visible(&self.name)),
                problem,
            })
        };
        if !is_word(&self.name) {
            return fail("name", WORD.into());
        }
        if let Some(what) = reserved(&self.name) {
            return fail(
                "name",
                format!(
                    "`{}` names {what} in results and settings; choose another name",
                    self.name
                ),
            );
        }
        if self.shape.contains(&0) {
            return fail(
                "shape",
                format!(
                    "{:?} holds no values; every extent must be positive",
                    self.shape
                ),
            );
        }
        if self
            .shape
            .iter()
            .try_fold(4usize, |bytes, extent| bytes.checked_mul(*extent))
            .is_none()
        {
            return fail(
                "shape",
                format!("{:?}: no memory holds a sample of that size", self.shape),
            );
        }
        if !(self.scale > 0. && self.scale.is_finite()) {
            return fail(
                "scale",
                format!("expected a positive number, got {}", self.scale),
            );
        }
        if !(self.scale as f32).is_normal() {
            return fail(
                "scale",
                format!(
                    "{:e} is beyond the range of f32, in which it is used",
                    self.scale
                ),
            );
        }
        if self.divide.is_some_and(|d| d == 0. || !d.is_finite()) {
            return fail("divide", "expected a number other than 0".into());
        }
        if let Some(d) = self.divide.filter(|d| !(*d as f32).is_normal()) {
            return fail(
                "divide",
                format!("{d:e} is beyond the range of f32, in which values are used"),
            );
        }
        if let Baseline::Value(v) = self.baseline
            && !(v as f32).is_finite()
        {
            let problem = format!(
                "{v:e} is not finite as f32, in which it is used: expected a number, \"zeros\" or \"mean\""
            );
            return fail("baseline", problem);
        }
        if let Some(record) = &self.standardised
            && !record.mean.iter().chain(&record.sd).all(|v| v.is_finite())
        {
            return fail("standardised", "expected finite numbers".into());
        }
        let width = self.shape.last().copied().unwrap_or(1);
        if self.augment.shift_last_axis > width {
            let problem = format!(
                "{} is more than the last axis is long ({width})",
                self.augment.shift_last_axis
            );
            return fail("augment.shift_last_axis", problem);
        }
        for (name, severities) in &self.corruptions {
            let key = format!("corruptions.{}", visible(name));
            if !is_word(name) {
                return fail(&key, WORD.into());
            }
            if name == ALL {
                return fail(
                    &key,
                    format!("`{ALL}` stands for every corruption; choose another name"),
                );
            }
            if !(1..=5).contains(severities) {
                return fail(
                    &key,
                    format!("expected 1 to 5 severities, got {severities}"),
                );
            }
        }
        self.check_range().or_else(|problem| fail("range", problem))
    }

    fn check_range(&self) -> Result<(), String> {
        let Some([lo, hi]) = &self.range else {
            return Ok(());
        };
        let channels = self.shape.first().copied().unwrap_or(1);
        for bound in [lo, hi] {
            if let Bound::Channels(v) = bound
                && v.len() != channels
            {
                return Err(format!(
                    "{} numbers for {channels} channels (the first axis of shape)",
                    v.len()
                ));
            }
        }
        let at = |bound: &Bound, c: usize| match bound {
            Bound::All(v) => *v,
            Bound::Channels(v) => v[c],
        };
        // As values are, so that a range which f32 closes or opens to infinity is none.
        let apart = |lo: f64, hi: f64| {
            (lo as f32).is_finite() && (hi as f32).is_finite() && (lo as f32) < hi as f32
        };
        let both_all = matches!((lo, hi), (Bound::All(_), Bound::All(_)));
        let channels = if both_all { 1 } else { channels };
        match (0..channels)
            .map(|c| (at(lo, c), at(hi, c)))
            .find(|(lo, hi)| !apart(*lo, *hi))
        {
            Some((lo, hi)) => Err(format!(
                "expected lo < hi, both finite as f32, got [{lo}, {hi}]; leave the key out for unbounded values"
            )),
            None => Ok(()),
        }
    }
}

fn is_word(name: &str) -> bool {
    let inner = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    !name.is_empty() && name.chars().all(inner) && !name.starts_with('-')
}

fn is_sha256(sum: &str) -> bool {
    sum.len() == 64 && sum.chars().all(|c| c.is_ascii_hexdigit())
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
    fn impossible_values_are_named() {
        let shape = |more: &str| ("shape = [3]", format!("shape = [3]\n{more}"));
        let cases = [
            (
                ("version = 1", "version = 9".into()),
                "version: this program reads version 1",
            ),
            (("['a', 'b']", "[]".into()), "classes: the list is empty"),
            (
                ("['a', 'b']", "['a', 'a']".into()),
                "classes: `a` appears twice",
            ),
            (
                ("['a', 'b']", "['\u{e9}', 'e\u{301}']".into()),
                "classes: `e\u{301}` appears twice",
            ),
            (
                ("['a', 'b']", "['a', '']".into()),
                "classes: a name is empty",
            ),
            (
                ("['a', 'b']", "['a', \"b\\u001b[2J\"]".into()),
                "classes: `b\\u{1b}[2J` holds the character \\u{1b}",
            ),
            (
                ("'x'", "\"x\\u202ey\"".into()),
                "name: `x\\u{202e}y` holds the character \\u{202e}",
            ),
            (
                ("'x'", "\"x\\ny\"".into()),
                "name: `x\\u{a}y` holds the character \\u{a}",
            ),
            (
                ("'v'", "'../v'".into()),
                "modalities.../v.name: use letters",
            ),
            (
                ("'v'", "\"v\\u0007\"".into()),
                "modalities.v\\u{7}.name: use letters",
            ),
            (("'v'", "'-v'".into()), "modalities.-v.name: use letters"),
            (
                ("[3]", "[3, 0]".into()),
                "modalities.v.shape: [3, 0] holds no values",
            ),
            (
                ("[3]", "[4611686018427387904, 4]".into()),
                "modalities.v.shape: ",
            ),
            (
                shape("scale = 0"),
                "modalities.v.scale: expected a positive number, got 0",
            ),
            (
                shape("scale = 1e-300"),
                "modalities.v.scale: 1e-300 is beyond the range of f32",
            ),
            (
                shape("scale = 1e300"),
                "modalities.v.scale: 1e300 is beyond the range of f32",
            ),
            (
                shape("scale = nan"),
                "modalities.v.scale: expected a positive number",
            ),
            (
                shape("divide = 0"),
                "modalities.v.divide: expected a number other than 0",
            ),
            (
                shape("divide = 1e-45"),
                "modalities.v.divide: 1e-45 is beyond the range of f32",
            ),
            (
                shape("divide = -1e300"),
                "modalities.v.divide: -1e300 is beyond the range of f32",
            ),
            (
                shape("baseline = 1e300"),
                "modalities.v.baseline: 1e300 is not finite as f32",
            ),
            (
                shape("baseline = nan"),
                "modalities.v.baseline: NaN is not finite",
            ),
            (
                shape("standardised = { mean = [inf], sd = [1] }"),
                "modalities.v.standardised: expected finite",
            ),
            (
                shape("range = [1, 0]"),
                "modalities.v.range: expected lo < hi, both finite as f32, got [1, 0]",
            ),
            (
                shape("range = [0, 1e300]"),
                "modalities.v.range: expected lo < hi, both finite as f32",
            ),
            (
                shape("range = [1.0, 1.00000000001]"),
                "modalities.v.range: expected lo < hi",
            ),
            (
                shape("range = [0, [1, 2]]"),
                "modalities.v.range: 2 numbers for 3 channels",
            ),
            (shape("range = 'all'"), "line 7: "),
            (
                shape("baseline = 'median'"),
                "line 7: baseline is \"zeros\", \"mean\" or a number",
            ),
            (
                shape("augment.shift_last_axis = 4"),
                "modalities.v.augment.shift_last_axis: 4 is more than the last axis",
            ),
            (
                shape("augment.shift_last_axis = 18446744073709551615"),
                "shift_last_axis: 18446744073709551615 is more",
            ),
            (
                shape("augment.shift_last_axis = 9223372036854775807"),
                "modalities.v.augment.shift_last_axis: 9223",
            ),
            (
                shape("corruptions = { rain = 6 }"),
                "modalities.v.corruptions.rain: expected 1 to 5",
            ),
            (
                shape("corruptions = { all = 1 }"),
                "modalities.v.corruptions.all: `all` stands for every corruption",
            ),
            (
                shape("corruptions = { '../r' = 1 }"),
                "modalities.v.corruptions.../r: use letters",
            ),
            (shape("corruptions = { rain = -1 }"), "line 7: "),
            (
                ("name = 'x'", "name = 'x'\npairing = 'class'".into()),
                "pairing: `class` is random and only for train",
            ),
            (
                ("name = 'x'", "name = 'x'\npairing = 'rwos'".into()),
                "line 3: pairing is \"rows\"",
            ),
            (("name = 'x'\n", String::new()), "missing field `name`"),
            (("name = 'x'", "name = ".into()), "line 2: "),
            (
                ("version = 1", "version = 1\nsha256.'a.npy' = '00'".into()),
                "sha256.a.npy: `00` is not 64 hexadecimal",
            ),
        ];
        for ((from, to), expected) in cases {
            let got = message(&SMALL.replacen(from, &to, 1));
            assert!(got.contains(expected), "{to}: {got}");
            assert!(!got.contains(char::is_control), "{got}");
        }
    }

    #[test]
    fn modalities_have_names_that_nothing_else_has() {
        for taken in [
            "joint",
            "Joint",
            "each",
            "usual",
            "any-missing",
            "without-v",
            "strongest",
            "head",
            "labels",
            "index",
        ] {
            let got = message(&SMALL.replacen("'v'", &format!("'{taken}'"), 1));
            assert!(
                got.contains(&format!("modalities.{taken}.name: `{taken}` names ")),
                "{got}"
            );
        }
        for odd in ["a.b", "a+b", "a@b", "a,b", "a=b", "é", ""] {
            let got = message(&SMALL.replacen("'v'", &format!("'{odd}'"), 1));
            assert!(got.contains("name: use letters, digits"), "{odd}: {got}");
        }
        for (name, fine) in [("v", false), ("V", false), ("w", true)] {
            let two = format!("{SMALL}[[modalities]]\nname = '{name}'\nshape = [1]\n");
            assert_eq!(Manifest::parse(&two).is_ok(), fine, "v and {name}");
        }
    }

    #[test]
    fn notes_are_shown_on_one_line() {
        let text = SMALL.replacen(
            "name = 'x'",
            "name = 'x'\nnotes = [\"\"\"one\n  two\\u001b\"\"\"]\nlicence = \"a\\nb\"",
            1,
        );
        let manifest = Manifest::parse(&text).expect("valid");
        assert_eq!(
            (manifest.notes[0].as_str(), manifest.licence.as_deref()),
            ("one two\\u{1b}", Some("a b"))
        );
    }
}
