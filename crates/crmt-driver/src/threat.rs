//! Threats by name: what an adversary may do with a budget, for attacks and certificates alike.
//! Does not know models.
use anyhow::{Result, bail};
use crmt_attacks::{Budget, Norm};
use crmt_core::{Missing, PerModality};

/// What an adversary may do, growing with one budget in declared units. Modalities go by number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Threat {
    /// One l2 budget over all modalities.
    Joint,
    /// All modalities at once, the budget each.
    Each,
    /// One modality moves, the others stay.
    Only(usize),
    /// One modality is missing; the others share one l2 budget.
    Without(usize),
    /// At most one modality is missing, whichever; the others share one l2 budget.
    AnyMissing,
}

/// The name of [`Threat::Joint`].
pub const JOINT: &str = "joint";
/// The name of [`Threat::Each`].
pub const EACH: &str = "each";
const WITHOUT: &str = "without-";
const ANY_MISSING: &str = "any-missing";

impl Threat {
    /// Joint, and each modality alone.
    pub fn usual(modalities: usize) -> Vec<Self> {
        // With one modality both are the same.
        let alone = if modalities > 1 { 0..modalities } else { 0..0 };
        std::iter::once(Self::Joint).chain(alone.map(Self::Only)).collect()
    }

    /// Every threat there is.
    pub fn all(modalities: usize) -> Vec<Self> {
        let mut threats = Self::usual(modalities);
        if modalities > 1 {
            threats.push(Self::Each);
            threats.extend((0..modalities).map(Self::Without));
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
            Self::Without(m) => format!("{WITHOUT}{}", modalities[*m]),
            Self::AnyMissing => ANY_MISSING.to_owned(),
        }
    }

    /// What `name` means for these modalities.
    pub fn parse(name: &str, modalities: &[String]) -> Result<Self> {
        // With one modality these are the joint threat by another name, and have an linf norm.
        let alone = [Self::Only(0), Self::Each];
        match Self::all(modalities.len()).into_iter().chain(alone).find(|t| t.name(modalities) == name) {
            Some(threat) => Ok(threat),
            None => {
                let names = modalities.join(", ");
                let more = if modalities.len() > 1 { ", without-MODALITY or any-missing" } else { "" };
                bail!("threat `{name}`: expected joint, each, a modality ({names}){more}")
            }
        }
    }

    /// Each of `names`, once.
    pub fn parse_all(names: &[String], modalities: &[String]) -> Result<Vec<Self>> {
        let mut threats = vec![];
        for name in names {
            let threat = Self::parse(name, modalities)?;
            if !threats.contains(&threat) {
                threats.push(threat);
            }
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
        let each = || Missing::each(modalities).into_iter().map(Some);
        match self {
            Self::Joint | Self::Each | Self::Only(_) => vec![None],
            Self::Without(m) => each().skip(*m).take(1).collect(),
            Self::AnyMissing => std::iter::once(None).chain(each()).collect(),
        }
    }

    /// Whether its budget can only be an l2 norm.
    pub fn is_joint(&self) -> bool {
        matches!(self, Self::Joint | Self::Without(_) | Self::AnyMissing)
    }
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
            assert_eq!(Threat::parse(&threat.name(&names), &names).unwrap(), *threat);
        }
        assert_eq!(Threat::all(1), [Threat::Joint]);
        assert_eq!(Threat::parse("image", &names[..1]).unwrap(), Threat::Only(0));
        assert_eq!(Threat::parse("each", &names[..1]).unwrap(), Threat::Each);
        let twice = ["each", "each", "audio"].map(str::to_owned);
        assert_eq!(Threat::parse_all(&twice, &names).unwrap(), [Threat::Each, Threat::Only(1)]);
        let message = Threat::parse("without-lidar", &names).unwrap_err().to_string();
        assert!(message.contains("`without-lidar`") && message.contains("image, audio"), "{message}");
    }
}
