//! Which samples of a split are measured where not all of them are: drawn without replacement, the
//! same ones for every measurement of a run. Does not know what is measured of them.
use crmt_core::Streams;
use rand::seq::SliceRandom;

/// Numbers of `wanted` of the `len` samples of a split, in the order in which they are drawn: the
/// first of [`order`], so that fewer are some of more. All of them, in the split's own order, for 0
/// or as many as there are.
///
/// `streams`: of the run's seed. What is drawn of a file that is sorted by class is of every class.
pub fn drawn(wanted: usize, len: usize, streams: &Streams) -> Vec<usize> {
    match wanted {
        0 => (0..len).collect(),
        _ if wanted >= len => (0..len).collect(),
        _ => order(len, streams)[..wanted].to_vec(),
    }
}

/// All samples of a split of `len`, in the order in which they are drawn.
pub fn order(len: usize, streams: &Streams) -> Vec<usize> {
    let mut order: Vec<usize> = (0..len).collect();
    order.shuffle(&mut streams.stream("drawn samples", 0));
    order
}

/// As whom randomness knows them: a sample's own draws do not depend on which others are drawn.
pub fn ids(samples: &[usize]) -> Vec<u64> {
    samples.iter().map(|i| *i as u64).collect()
}

/// Two standard errors of a fraction of `drawn` samples, near one half, where they are largest:
/// against the fraction of all `of` samples that they were drawn from without replacement, and
/// against that of new samples like all of these.
pub fn errors(drawn: u64, of: u64) -> [f64; 2] {
    let (n, of) = (drawn.max(1) as f64, of.max(drawn).max(2) as f64);
    let new = 1.0 / n.sqrt();
    [new * ((of - n) / (of - 1.0)).max(0.0).sqrt(), new]
}

/// Which samples fractions are of, and how far others' may lie from them.
///
/// `drawn`: whether they were; programs before this one took the first of the file.
pub fn told(samples: u64, of: u64, drawn: bool) -> String {
    let [all, new] = errors(samples, of).map(|error| format!("±{:.1} points", 100.0 * error));
    match drawn {
        _ if samples >= of => {
            format!("all {of} report samples; sampling error against new samples up to {new}")
        }
        true => format!(
            "{samples} of {of} report samples, drawn at random; sampling error up to {all} against all of them, {new} \
             against new samples"
        ),
        false => format!(
            "the first {samples} of {of} report samples, not drawn: their sampling error is not known"
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fewer_are_some_of_more_and_nobody_is_drawn_twice() {
        let streams = Streams::new(3);
        let (few, many) = (drawn(100, 1000, &streams), drawn(500, 1000, &streams));
        assert_eq!(few, many[..100]);
        let mut sorted = many.clone();
        sorted.sort_unstable();
        sorted.dedup();
        assert_eq!(sorted.len(), 500);
        assert_ne!(few, drawn(100, 1000, &Streams::new(4)), "by the seed");
        for all in [0, 1000, 1001] {
            assert_eq!(
                drawn(all, 1000, &streams),
                (0..1000).collect::<Vec<_>>(),
                "in order"
            );
        }
    }

    #[test]
    fn what_is_sorted_by_class_is_drawn_of_every_class() {
        // Ten classes of 100: of 200 draws some 20 are of each, within five standard deviations
        // of 3.8.
        let mut classes = [0; 10];
        drawn(200, 1000, &Streams::new(0))
            .into_iter()
            .for_each(|i| classes[i / 100] += 1);
        assert!(classes.iter().all(|n| (2..40).contains(n)), "{classes:?}");
    }

    #[test]
    fn errors_are_those_of_draws_without_replacement() {
        assert_eq!(errors(100, 100)[0], 0.0, "all of them are known");
        let [all, new] = errors(100, 1000);
        assert!((new - 0.1).abs() < 1e-12 && (all - 0.1 * (900f64 / 999.0).sqrt()).abs() < 1e-12);
        assert!(errors(0, 0).iter().all(|e| e.is_finite()));
        // In truth: the spread of the fraction of the even numbers among 100 of 400, over 2000
        // seeds.
        let fraction = |seed| {
            drawn(100, 400, &Streams::new(seed))
                .iter()
                .filter(|i| *i % 2 == 0)
                .count() as f64
                / 100.0
        };
        let spread = (0..2000)
            .map(|seed| (fraction(seed) - 0.5).powi(2))
            .sum::<f64>()
            / 2000.0;
        // A standard deviation from 2000 values is known to 1.6 percent.
        assert!(
            (2.0 * spread.sqrt() / errors(100, 400)[0] - 1.0).abs() < 0.08,
            "{spread}"
        );
    }
}
