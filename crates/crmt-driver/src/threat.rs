//! Threats by name: what an adversary may do with a budget, for attacks and certificates alike.
//! Does not know models.
use anyhow::{Result, bail};
use crmt_attacks::{Budget, Norm};
pub use crmt_core::names::JOINT;
use crmt_core::{
    Missing, PerModality,
    names::{ANY_MISSING, EACH, USUAL, WITHOUT},
};

/// What an adversary may do, growing with one budget in declared units. Modalities go by number.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Threat {
    /// One l2 budget over all modalities.
    Joint,
    /// All modalities at once, the budget each.
    Each,
    /// One modality moves, the others stay.
    Only(usize),
    /// These modalities are missing; the others share one l2 budget.
    Without(Missing),
    /// At most one modality is missing, whichever; the others share one l2 budget.
    AnyMissing,
}

/// The baselines of the data set, which certificates are about.
pub const DECLARED: &str = "declared";
pub const ZEROS: &str = "zeros";
pub const MEAN: &str = "mean";
pub const LEARNED: &str = "learned";
/// What `evaluate.baseline` may be.
pub const BASELINES: &[&str] = &[DECLARED, ZEROS, MEAN, LEARNED];
/// Radii without more than one modality are computed of up to so many.
pub const ALL_SUBSETS_UP_TO: usize = 4;

impl Threat {
    /// Joint, and each modality alone.
    pub fn usual(modalities: usize) -> Vec<Self> {
        // With one modality both are the same.
        let alone = if modalities > 1 { 0..modalities } else { 0..0 };
        std::iter::once(Self::Joint)
            .chain(alone.map(Self::Only))
            .collect()
    }

    /// Every threat that radii are computed for: of many modalities, only single ones are missing.
    pub fn all(modalities: usize) -> Vec<Self> {
        let mut threats = Self::usual(modalities);
        if modalities > 1 {
            threats.push(Self::Each);
            let few = modalities <= ALL_SUBSETS_UP_TO;
            let missing = if few {
                Missing::all(modalities)
            } else {
                Missing::each(modalities)
            };
            threats.extend(missing.into_iter().map(Self::Without));
            threats.push(Self::AnyMissing);
        }
        threats
    }

    /// As in reports and on the command line.
    pub fn name(&self, modalities: &[String]) -> String {
        match self {
            Self::Joint => JOINT.to_owned(),
            Self::Each => EACH.to_owned(),
            Self::Only(m) => modalities[*m].clone(),
            Self::Without(gone) => {
                let gone = modalities
                    .iter()
                    .enumerate()
                    .filter(|(m, _)| gone.contains(*m));
                format!(
                    "{WITHOUT}{}",
                    gone.map(|(_, name)| name.as_str())
                        .collect::<Vec<_>>()
                        .join("+")
                )
            }
            Self::AnyMissing => ANY_MISSING.to_owned(),
        }
    }

    /// The name of what an evaluation did in which `baseline` stood in for what is missing.
    /// Certificates are of the declared one, and go by names without `@`.
    pub fn name_with(&self, modalities: &[String], baseline: &str) -> String {
        let missing = matches!(self, Self::Without(_) | Self::AnyMissing);
        let other = if missing && baseline != DECLARED {
            format!("@{baseline}")
        } else {
            String::new()
        };
        self.name(modalities) + &other
    }

    /// What `name` means for these modalities.
    pub fn parse(name: &str, modalities: &[String]) -> Result<Self> {
        // With one modality these are the joint threat by another name, and have an linf norm.
        let alone = [Self::Only(0), Self::Each];
        let known = Self::usual(modalities.len())
            .into_iter()
            .chain(alone)
            .find(|t| t.name(modalities) == name);
        let missing = || match name.strip_prefix(WITHOUT) {
            Some(gone) => without(gone, modalities),
            None => (name == ANY_MISSING && modalities.len() > 1).then_some(Self::AnyMissing),
        };
        let Some(threat) = known.or_else(missing) else {
            let names = modalities.join(", ");
            let more = match modalities {
                [_] | [] => String::new(),
                [_, _] => format!(", {WITHOUT}MODALITY or {ANY_MISSING}"),
                [a, b, ..] => {
                    format!(", {WITHOUT}{a}, {WITHOUT}{a}+{b} and so on, or {ANY_MISSING}")
                }
            };
            bail!("threat `{name}`: expected joint, each, usual, a modality ({names}){more}")
        };
        Ok(threat)
    }

    /// Each of `names`, once; `usual` stands for joint and each modality alone.
    pub fn parse_all(names: &[String], modalities: &[String]) -> Result<Vec<Self>> {
        let mut threats = vec![];
        for name in names {
            let several = name == USUAL && !modalities.contains(name);
            let meant = if several {
                Self::usual(modalities.len())
            } else {
                vec![Self::parse(name, modalities)?]
            };
            meant.into_iter().for_each(|threat| {
                if !threats.contains(&threat) {
                    threats.push(threat)
                }
            });
        }
        Ok(threats)
    }

    /// What an attack may spend on inputs in which [`missing`](Self::missing) are gone.
    pub fn budget(&self, norm: Norm, eps: f64, modalities: usize) -> Budget {
        let each = |moves: &dyn Fn(usize) -> bool| {
            let radii = PerModality::from_fn(modalities, |m| if moves(m) { eps } else { 0.0 });
            Budget::Each { norm, radii }
        };
        match self {
            Self::Joint | Self::Without(_) | Self::AnyMissing => Budget::Joint(eps),
            Self::Each => each(&|_| true),
            Self::Only(m) => each(&|i| i == *m),
        }
    }

    /// The sets of missing modalities to try in turn; `None`: nothing is missing.
    pub fn missing(&self, modalities: usize) -> Vec<Option<Missing>> {
        match self {
            Self::Joint | Self::Each | Self::Only(_) => vec![None],
            Self::Without(gone) => vec![Some(gone.clone())],
            Self::AnyMissing => std::iter::once(None)
                .chain(Missing::each(modalities).into_iter().map(Some))
                .collect(),
        }
    }

    /// Whether everything that `other` may do with a budget is allowed with the same budget of one
    /// norm.
    pub fn contains(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Joint | Self::Each, Self::Only(_)) => true,
            (Self::AnyMissing, Self::Joint | Self::Only(_)) => true,
            (Self::AnyMissing, Self::Without(gone)) => {
                (0..gone.modalities()).filter(|m| gone.contains(*m)).count() == 1
            }
            _ => false,
        }
    }

    /// Whether its budget can only be an l2 norm.
    pub fn is_joint(&self) -> bool {
        matches!(self, Self::Joint | Self::Without(_) | Self::AnyMissing)
    }
}

/// `NAME+NAME`: in any order, none of them twice, and not all.
fn without(gone: &str, modalities: &[String]) -> Option<Threat> {
    let mut names: Vec<&str> = gone.split('+').collect();
    let set = PerModality::new(
        modalities
            .iter()
            .map(|m| names.contains(&m.as_str()))
            .collect(),
    )?;
    names.retain(|name| !modalities.iter().any(|m| m == name));
    let once = gone.split('+').count() == set.iter().filter(|gone| **gone).count();
    (names.is_empty() && once)
        .then(|| Missing::new(set).map(Threat::Without))
        .flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_come_back_as_threats() {
        let names = ["image".to_owned(), "audio".to_owned()];
        let all = Threat::all(2);
        assert_eq!(all.len(), 7);
        for threat in &all {
            assert_eq!(
                Threat::parse(&threat.name(&names), &names).unwrap(),
                *threat
            );
        }
        assert_eq!(Threat::all(1), [Threat::Joint]);
        assert_eq!(
            Threat::parse("image", &names[..1]).unwrap(),
            Threat::Only(0)
        );
        assert_eq!(Threat::parse("each", &names[..1]).unwrap(), Threat::Each);
        let twice = ["each", "each", "audio"].map(str::to_owned);
        assert_eq!(
            Threat::parse_all(&twice, &names).unwrap(),
            [Threat::Each, Threat::Only(1)]
        );
        let usual = ["each", "usual"].map(str::to_owned);
        let [image, audio] = [Threat::Only(0), Threat::Only(1)];
        assert_eq!(
            Threat::parse_all(&usual, &names).unwrap(),
            [Threat::Each, Threat::Joint, image, audio]
        );
        assert_eq!(
            Threat::parse_all(&usual, &names[..1]).unwrap(),
            [Threat::Each, Threat::Joint]
        );
        let one = ["usual".to_owned()];
        assert_eq!(
            Threat::parse_all(&one, &one).unwrap(),
            [Threat::Only(0)],
            "a modality of that name"
        );
        for wrong in [
            "without-lidar",
            "without-",
            "without-image+audio",
            "without-image+image",
            "without-image@mean",
        ] {
            let message = Threat::parse(wrong, &names).unwrap_err().to_string();
            assert!(
                message.contains(&format!("`{wrong}`")) && message.contains("image, audio"),
                "{message}"
            );
        }
    }

    #[test]
    fn every_proper_subset_has_one_name() {
        // `-` and `_` belong to names.
        let names = ["a-b".to_owned(), "a".to_owned(), "b_c".to_owned()];
        let all = Threat::all(3);
        assert_eq!(all.len(), 1 + 3 + 1 + 6 + 1);
        let told: Vec<String> = all.iter().map(|t| t.name(&names)).collect();
        assert_eq!(
            told[5..],
            [
                "without-a-b",
                "without-a",
                "without-b_c",
                "without-a-b+a",
                "without-a-b+b_c",
                "without-a+b_c",
                "any-missing"
            ]
        );
        all.iter()
            .zip(&told)
            .for_each(|(t, name)| assert_eq!(Threat::parse(name, &names).unwrap(), *t));
        // In any order, and then by the one name.
        let turned = ["without-b_c+a", "without-a+b_c"].map(str::to_owned);
        assert_eq!(
            Threat::parse_all(&turned, &names).unwrap(),
            [all[10].clone()]
        );
        // Of many modalities any subset is a threat, though radii are of single ones only.
        let many: Vec<String> = (0..9).map(|m| format!("m{m}")).collect();
        let five = Threat::parse("without-m8+m0+m2+m3+m5", &many).unwrap();
        assert_eq!(five.name(&many), "without-m0+m2+m3+m5+m8");
        assert!(!Threat::all(9).contains(&five));
        assert_eq!(five.missing(9).len(), 1);
        // What is not about the declared baselines has a name of its own.
        assert_eq!(
            five.name_with(&many, "learned"),
            "without-m0+m2+m3+m5+m8@learned"
        );
        assert_eq!(
            Threat::AnyMissing.name_with(&many, "zeros"),
            "any-missing@zeros"
        );
        assert_eq!(five.name_with(&many, DECLARED), five.name(&many));
        assert_eq!(Threat::Joint.name_with(&many, "learned"), JOINT);
    }
}
