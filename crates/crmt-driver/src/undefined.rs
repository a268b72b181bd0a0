//! Samples for which the network says nothing, because its outputs are no finite numbers: told in
//! one warning. Does not know what is measured of them; that they count as wrong is everybody's
//! rule.

/// How such warnings begin.
const MARK: &str = "no prediction, ";

/// How many samples are named.
const NAMED: usize = 8;

/// Whether `warning` is one of these, after a stage that begins so.
pub fn is_after(warning: &str, stage: &str) -> bool {
    warning
        .strip_prefix(MARK)
        .is_some_and(|rest| rest.starts_with(stage))
}

/// What to tell of `samples` (positions in the report split) after `stage`; nothing for none.
/// `through` names modalities whose own outputs are not finite there.
pub fn warning(stage: &str, samples: &[u64], through: &[String]) -> Option<String> {
    if samples.is_empty() {
        return None;
    }
    let through = if through.is_empty() {
        String::new()
    } else {
        format!(" through {}", through.join(", "))
    };
    Some(format!(
        "{MARK}{stage}: the network's outputs are not finite{through} for {}: they count as wrong",
        listed(samples)
    ))
}

/// `2 samples (3, 8)`; of many the first.
pub fn listed(samples: &[u64]) -> String {
    let named = samples
        .iter()
        .take(NAMED)
        .map(u64::to_string)
        .collect::<Vec<_>>()
        .join(", ");
    let more = if samples.len() > NAMED { ", …" } else { "" };
    let plural = if samples.len() == 1 { "" } else { "s" };
    format!("{} sample{plural} ({named}{more})", samples.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_are_named_and_all_are_counted() {
        assert_eq!(warning("clean", &[], &[]), None);
        let one = warning("clean", &[5], &["face".into()]).unwrap();
        assert!(one.contains("through face for 1 sample (5)"), "{one}");
        let many = warning("clean", &(10..30).collect::<Vec<_>>(), &[]).unwrap();
        assert!(
            many.starts_with(MARK)
                && many.contains("20 samples (10, 11, 12, 13, 14, 15, 16, 17, …)"),
            "{many}"
        );
    }
}
