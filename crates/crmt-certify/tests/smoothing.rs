//! Randomized smoothing: golden bounds (absolute 1e-9: the digits given), a linear classifier whose
//! smoothed radius is known, the frequency of wrong bounds, and independence of chunks and stops.
#![expect(
    clippy::excessive_precision,
    reason = "golden values keep the digits they were published with"
)]
use candle_core::{DType, Device, Tensor};
use crmt_certify::{binomial::*, *};
use crmt_core::{Classifier, Domain, Modality, PerModality, Streams};
use rand::Rng;
use std::ops::ControlFlow;

const GOLDEN: f64 = 1e-9;

fn near(what: &str, got: f64, want: f64, tolerance: f64) {
    assert!((got - want).abs() <= tolerance, "{what}: {got} for {want}");
}

#[test]
fn g7_clopper_pearson_and_radii() {
    let rows = [
        (1000, 990, 0.976036187155, 1.978009582141),
        (1000, 1000, 0.993116048421, 2.463262614781),
        (10000, 9000, 0.890409733675, 1.228710061030),
        (10000, 10000, 0.999309463003, 3.198577514738),
        (100000, 99900, 0.998650992447, 3.000200987668),
        (100000, 100000, 0.999930924833, 3.811456563390),
        (100, 50, 0.344798006425, 0.),
    ];
    for (n, k, p, r) in rows {
        let bound = lower_bound(k, n, 1e-3);
        near("p", bound, p, GOLDEN);
        near("R", smoothed_radius(bound, 1. - bound), r, GOLDEN);
    }
    near(
        "two-sided",
        smoothed_radius(0.9, 0.05),
        1.463202596248,
        GOLDEN,
    );
    let quantiles = [
        (1e-10, -6.36134090240406),
        (1e-3, -3.09023230616781),
        (0.025, -1.95996398454005),
        (0.999999, 4.75342430881709),
    ];
    for (p, want) in quantiles {
        near("quantile", normal_quantile(p), want, 1e-13); // 15 digits given, of numbers below 10, and rounding
    }
    assert!(smoothed_radius(f64::NAN, 0.1) == 0. && smoothed_radius(0.4, 0.6) == 0.);
}

/// What the golden table says of `sigma = (0.25, 1)`: votes that give `R = 1.978...`.
#[test]
fn g7_ellipsoid() {
    let plan = Smoothing::new(PerModality::from([0.25, 1.]))
        .unwrap()
        .draws(10, 1000);
    let plan = plan.for_weights(WeightsHash::new("w"));
    let votes = plan.counted(0, vec![9, 1], vec![990, 10]);
    let c = plan.certificate(&votes).unwrap().expect("a clear winner");
    assert_eq!(
        (c.class(), c.evidence()),
        (0, Evidence::Confident { alpha: 1e-3 })
    );
    near("R", c.radius(), 1.978009582141, GOLDEN);
    near("P1", c.unimodal()[0], 0.494502395535, GOLDEN);
    near("P2", c.unimodal()[1], 1.978009582141, GOLDEN);
    near("joint", c.joint(), 0.494502395535, GOLDEN);
    assert!(c.contains(&PerModality::from([0.3, 1.])).unwrap());
    assert!(!c.contains(&PerModality::from([0.5, 1.2])).unwrap());
    near(
        "weighted",
        c.weighted(&PerModality::from([8., 1.])).unwrap(),
        1.978009582141,
        GOLDEN,
    );
    near(
        "ray",
        c.ray(&PerModality::from([0.25, 1.])).unwrap(),
        1.978009582141 / 2f64.sqrt(),
        GOLDEN,
    );
    assert!(c.check(&WeightsHash::new("w")).is_ok() && c.check(&WeightsHash::new("v")).is_err());
    // A modality without noise is certified for a budget of zero only.
    let still = Smoothing::new(PerModality::from([0., 1.]))
        .unwrap()
        .draws(10, 1000);
    // Votes of other noise, or of weights with a name: once a radius of 1.69 for 0.3.
    for other in [
        still.clone(),
        plan.clone().for_weights(WeightsHash::new("v")),
    ] {
        let e = other.certificate(&votes).unwrap_err().to_string();
        assert!(
            e.contains("sample 0") && e.contains("drawn with sigma 0.25, 1 of w"),
            "{e}"
        );
    }
    let c = still
        .certificate(&still.counted(0, vec![9, 1], vec![990, 10]))
        .unwrap()
        .unwrap();
    assert!(
        c.contains(&PerModality::from([0., 1.9])).unwrap()
            && !c.contains(&PerModality::from([1e-9, 0.])).unwrap()
    );
    assert_eq!((c.unimodal()[0], c.joint()), (0., 0.));
    assert!(c.check(&WeightsHash::new("w")).is_err(), "never said");
    // Abstention, and an upper bound of rivals that certifies a winner below one half.
    let even = plan.counted(0, vec![9, 1], vec![500, 500]);
    assert_eq!(plan.certificate(&even).unwrap(), None);
    let plural = plan.counted(0, vec![9, 1, 0, 0], vec![450, 200, 200, 150]);
    assert_eq!(plan.certificate(&plural).unwrap(), None);
    let c = plan
        .certificate_two_sided(&plural)
        .unwrap()
        .expect("0.45 against 0.2");
    let want = smoothed_radius(
        lower_bound(450, 1000, 5e-4),
        upper_bound(200, 1000, 5e-4 / 3.),
    );
    assert!(
        c.radius() == want && want > 0.2,
        "{} for {want}",
        c.radius()
    );
}

/// Optional stopping would void the bound, so unfinished votes give none; nor do too many.
#[test]
fn only_agreed_numbers_of_votes_are_bounded() {
    let plan = Smoothing::new(PerModality::from([1.]))
        .unwrap()
        .draws(10, 100);
    let agreed = plan.clone();
    let votes = |n: u64| agreed.counted(7, vec![10, 0], vec![n, 0]);
    for n in [99, 101] {
        let e = plan.certificate(&votes(n)).unwrap_err().to_string();
        assert!(e.contains("sample 7") && e.contains(&n.to_string()), "{e}");
    }
    assert!(plan.certificate(&votes(100)).unwrap().is_some());
    let half = plan.clone().one_of(3);
    let alpha = |p: &Smoothing| p.certificate(&votes(100)).unwrap().unwrap().evidence();
    assert_eq!(alpha(&half), Evidence::Confident { alpha: 1e-3 / 3. });
    assert!(
        half.certificate(&votes(100)).unwrap().unwrap().radius()
            < plan.certificate(&votes(100)).unwrap().unwrap().radius()
    );
    assert!(plan.clone().alpha(0.).is_err() && plan.alpha(1.).is_err());
    assert!(
        Smoothing::new(PerModality::from([1., -1.]))
            .unwrap_err()
            .to_string()
            .contains("modality 1")
    );
}

/// `P[bound > p] <= alpha`, on simulated draws: 2000 experiments, four standard deviations of room.
#[test]
fn bounds_are_wrong_as_rarely_as_they_say() {
    let mut rng = Streams::new(5).stream("alpha", 0);
    for (p, n, alpha) in [(0.8, 200u64, 0.05), (0.55, 1000, 0.1), (0.995, 300, 0.02)] {
        let (mut above, mut below) = (0, 0);
        for _ in 0..2000 {
            let k = (0..n).filter(|_| rng.random::<f64>() < p).count() as u64;
            above += u32::from(lower_bound(k, n, alpha) > p);
            below += u32::from(upper_bound(k, n, alpha) < p);
        }
        let limit = 2000. * alpha + 4. * (2000. * alpha * (1. - alpha)).sqrt();
        assert!(
            f64::from(above) <= limit && f64::from(below) <= limit,
            "p {p}: {above} and {below}, at most {limit}"
        );
        // Not vacuous: wrong at all, where k = n has not probability above alpha.
        assert!(above > 0 || p > 0.9, "p {p}: never wrong in 2000");
    }
}

/// `h = (3 x1 - 4 x2 + 1, 0)`, of any dtype.
struct Linear {
    modalities: PerModality<Modality>,
}

impl Linear {
    fn new() -> Self {
        Self {
            modalities: PerModality::from(
                ["x1", "x2"].map(|n| Modality::new(n, &[1], Domain::Unbounded)),
            ),
        }
    }
}

impl Classifier for Linear {
    fn modalities(&self) -> &PerModality<Modality> {
        &self.modalities
    }
    fn logits(&self, x: &PerModality<Tensor>) -> crmt_core::Result<Tensor> {
        let h = (x[0].affine(3., 1.)? - x[1].affine(4., 0.)?)?;
        Ok(Tensor::cat(&[&h, &h.zeros_like()?], 1)?)
    }
}

fn points(values: &[[f64; 2]]) -> PerModality<Tensor> {
    PerModality::from_fn(2, |m| {
        let column: Vec<f64> = values.iter().map(|v| v[m]).collect();
        Tensor::from_vec(column, (values.len(), 1), &Device::Cpu).unwrap()
    })
}

fn go(_: &[Votes], _: u64, _: u64) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

/// Of a linear classifier the smoothed radius is known: `mu / sqrt(sum (sigma_m |w_m|)^2)`.
#[test]
fn g7b_linear_oracle() {
    let exact = 5. / (0.25f64 * 3.).hypot(4.);
    near("R", exact, 1.228590233667902, 1e-15 * 4.); // two roundings
    let plan = Smoothing::new(PerModality::from([0.25, 1.])).unwrap();
    let mut votes = vec![Votes::new(3)];
    let x = points(&[[2., 0.5]]);
    assert!(
        plan.run(&Linear::new(), &x, &Streams::new(0), &mut votes, 2048, go)
            .unwrap()
            .is_continue()
    );
    let c = plan
        .certificate(&votes[0])
        .unwrap()
        .expect("0.89 against 0.11");
    let p = 0.890387260487395;
    // Four standard deviations of 10,000 draws.
    near(
        "fraction",
        votes[0].estimation[0] as f64 / 1e4,
        p,
        4. * (p * (1. - p) / 1e4).sqrt(),
    );
    assert_eq!(c.class(), 0);
    assert!(
        c.radius() <= exact && c.radius() > 0.93 * exact,
        "{} of {exact}",
        c.radius()
    );
    // The tangent point of ellipsoid and hyperplane, where the smoothed class changes, is never
    // inside.
    let tangent = [-0.056603773584905662f64, 1.2075471698113207];
    assert!(
        (3. * (2. + tangent[0]) - 4. * (0.5 + tangent[1]) + 1.).abs() < 1e-14,
        "on the hyperplane"
    );
    assert!(
        !c.contains(&PerModality::from(tangent.map(f64::abs)))
            .unwrap()
    );
    assert!(
        c.contains(&PerModality::from(tangent.map(|e| 0.9 * e.abs())))
            .unwrap(),
        "power: 0.93 of it is inside"
    );
    // Declared units: noise is sigma * scale, so one tenth of the scale and ten times the sigma is
    // the same draw.
    let mut scaled = Linear::new();
    scaled.modalities = PerModality::from([(0.1, "x1"), (1., "x2")].map(|(scale, n)| Modality {
        scale,
        ..Modality::new(n, &[1], Domain::Unbounded)
    }));
    let units = Smoothing::new(PerModality::from([2.5, 1.])).unwrap();
    let mut again = vec![Votes::new(3)];
    assert!(
        units
            .run(&scaled, &x, &Streams::new(0), &mut again, 2048, go)
            .unwrap()
            .is_continue()
    );
    assert_eq!(
        (&again[0].selection, &again[0].estimation),
        (&votes[0].selection, &votes[0].estimation)
    );
}

/// 150 of one sample, stopped, and so on: always the same votes.
#[test]
fn votes_depend_on_neither_chunks_nor_stops_nor_company() {
    let plan = Smoothing::new(PerModality::from([0.5, 1.]))
        .unwrap()
        .draws(20, 131);
    let x = points(&[[2., 0.5], [-1., 0.3], [0.1, 0.1]]);
    let (model, streams) = (Linear::new(), Streams::new(11));
    let fresh = || [4, 9, 2].map(Votes::new).to_vec();
    let run = |x: &PerModality<Tensor>, votes: &mut Vec<Votes>, chunk: usize| {
        plan.run(&model, x, &streams, votes, chunk, go).unwrap()
    };
    let mut whole = fresh();
    assert!(run(&x, &mut whole, 1000).is_continue());
    assert!(
        whole
            .iter()
            .all(|v| v.estimation.iter().sum::<u64>() == 131
                && v.selection.iter().sum::<u64>() == 20)
    );
    assert!(
        whole[0].estimation != whole[2].estimation,
        "different points"
    );
    for chunk in [1, 7, 64] {
        let mut votes = fresh();
        assert!(run(&x, &mut votes, chunk).is_continue());
        assert_eq!(votes, whole, "chunk {chunk}");
    }
    // Alone, and in f32.
    let mut alone = vec![Votes::new(9)];
    let single = x
        .try_map(|x| x.narrow(0, 1, 1)?.to_dtype(DType::F32))
        .unwrap();
    assert!(run(&single, &mut alone, 1000).is_continue());
    assert_eq!(alone[0], whole[1]);
    // Stopped after every chunk, votes taken apart and put together again.
    let mut votes = fresh();
    let (mut rounds, mut seen) = (0, 0);
    loop {
        votes = votes
            .iter()
            .map(|v| plan.counted(v.id, v.selection.clone(), v.estimation.clone()))
            .collect();
        let flow = plan.run(
            &model,
            &x,
            &streams,
            &mut votes,
            40,
            |votes, done, total| {
                assert_eq!(total, 3 * 151);
                let counted: u64 = votes
                    .iter()
                    .flat_map(|v| v.selection.iter().chain(&v.estimation))
                    .sum();
                assert!(done == counted && done > seen);
                seen = done;
                ControlFlow::Break(())
            },
        );
        rounds += 1;
        if flow.unwrap().is_continue() {
            break;
        }
    }
    // 60 selection draws in 2 chunks, 393 in 10, and a last call that finds nothing to do.
    assert_eq!((votes, rounds), (whole.clone(), 13));
    // Other ids, other noise; selection and estimation differ.
    let mut other = vec![Votes::new(10)];
    assert!(run(&x.try_map(|x| x.narrow(0, 1, 1)).unwrap(), &mut other, 50).is_continue());
    assert_ne!(other[0].estimation, whole[1].estimation);
}

struct Broken;
impl Classifier for Broken {
    fn modalities(&self) -> &PerModality<Modality> {
        static ONE: std::sync::OnceLock<PerModality<Modality>> = std::sync::OnceLock::new();
        ONE.get_or_init(|| PerModality::from([Modality::new("x", &[1], Domain::Unbounded)]))
    }
    fn logits(&self, x: &PerModality<Tensor>) -> crmt_core::Result<Tensor> {
        Ok(Tensor::cat(&[&x[0], &x[0].log()?], 1)?)
    }
}

#[test]
fn mistakes_are_named() {
    let plan = Smoothing::new(PerModality::from([1.]))
        .unwrap()
        .draws(5, 50);
    let x = PerModality::from([Tensor::zeros((1, 1), DType::F64, &Device::Cpu).unwrap()]);
    let run = |plan: &Smoothing, votes: &mut [Votes]| {
        plan.run(&Broken, &x, &Streams::new(0), votes, 10, go)
    };
    let e = run(&plan, &mut [Votes::new(42)]).unwrap_err();
    assert!(
        matches!(e, CertifyError::NaN { .. }) && e.to_string().contains("42"),
        "log of a negative: {e}"
    );
    assert!(
        run(&plan, &mut [Votes::new(0), Votes::new(1)])
            .unwrap_err()
            .to_string()
            .contains("expected 2, got 1")
    );
    let two = Smoothing::new(PerModality::from([1., 1.])).unwrap();
    assert!(
        run(&two, &mut [Votes::new(0)])
            .unwrap_err()
            .to_string()
            .contains("sigmas")
    );
    let still = Smoothing::new(PerModality::from([0.]))
        .unwrap()
        .draws(5, 50);
    let foreign = still.counted(1, vec![1, 1, 1], vec![]);
    let positive = PerModality::from([Tensor::ones((1, 1), DType::F64, &Device::Cpu).unwrap()]);
    let e = still
        .run(&Broken, &positive, &Streams::new(0), &mut [foreign], 10, go)
        .unwrap_err();
    assert!(e.to_string().contains("classes of the votes"), "{e}");
    let many = plan.counted(5, vec![9, 9], vec![]);
    assert!(matches!(
        run(&plan, &mut [many]),
        Err(CertifyError::Votes {
            id: 5,
            expected: 5,
            got: 18
        })
    ));
}

/// Logits of `-ln(0)` where `x` is large, the sample itself elsewhere.
struct Overflowing(PerModality<Modality>);
impl Classifier for Overflowing {
    fn modalities(&self) -> &PerModality<Modality> {
        &self.0
    }
    fn logits(&self, x: &PerModality<Tensor>) -> crmt_core::Result<Tensor> {
        let zero_if_large = x[0].le(1e6)?.to_dtype(x[0].dtype())?;
        Ok(Tensor::cat(&[&x[0], &zero_if_large.log()?], 1)?)
    }
}

/// Whichever sample of a chunk has a copy without a prediction, it is named, and not its
/// neighbours.
#[test]
fn the_sample_without_a_prediction_is_named() {
    let model = Overflowing(PerModality::from([Modality::new(
        "x",
        &[1],
        Domain::Unbounded,
    )]));
    let plan = Smoothing::new(PerModality::from([0.5]))
        .unwrap()
        .draws(3, 10);
    for bad in 0..6u64 {
        let values: Vec<f32> = (0..6).map(|i| if i == bad { 1e9 } else { 0. }).collect();
        let x = PerModality::from([Tensor::from_vec(values, (6, 1), &Device::Cpu).unwrap()]);
        for chunk in [1, 4, 4096] {
            let mut votes: Vec<Votes> = (0..6).map(|i| Votes::new(100 + i)).collect();
            let e = plan
                .run(&model, &x, &Streams::new(3), &mut votes, chunk, go)
                .unwrap_err();
            assert!(
                matches!(e, CertifyError::NaN { id } if id == 100 + bad),
                "{e} for sample {bad}, chunk {chunk}"
            );
        }
    }
}

/// The class is that of the selection, whatever the fresh draws say: chosen on the draws that judge
/// it, its bound would not hold.
#[test]
fn the_class_is_chosen_on_draws_that_do_not_judge_it() {
    let plan = Smoothing::new(PerModality::from([1.]))
        .unwrap()
        .draws(10, 1000);
    let against = plan.counted(0, vec![6, 4], vec![10, 990]);
    assert_eq!(
        plan.certificate(&against).unwrap(),
        None,
        "10 of 1000 votes for the class that was selected"
    );
    assert_eq!(plan.certificate_two_sided(&against).unwrap(), None);
    let tied = plan.counted(0, vec![5, 5], vec![980, 20]);
    assert_eq!(
        plan.certificate(&tied).unwrap().map(|c| c.class()),
        Some(0),
        "the first of equals"
    );
}

/// Votes for the class 1 where the first modality has been moved up, and keeps every input that it
/// was asked about.
struct Recording {
    modalities: PerModality<Modality>,
    seen: std::sync::Mutex<Vec<f64>>,
}
impl Classifier for Recording {
    fn modalities(&self) -> &PerModality<Modality> {
        &self.modalities
    }
    fn logits(&self, x: &PerModality<Tensor>) -> crmt_core::Result<Tensor> {
        self.seen
            .lock()
            .unwrap()
            .extend(x[0].flatten_all()?.to_vec1::<f64>()?);
        Ok(Tensor::cat(&[&x[0].zeros_like()?, &x[0]], 1)?)
    }
}

/// No draw that selects the class is among those that judge it.
#[test]
fn selection_and_estimation_share_no_draw() {
    let modalities = PerModality::from([Modality::new("x", &[1], Domain::Unbounded)]);
    let model = Recording {
        modalities,
        seen: vec![].into(),
    };
    let plan = Smoothing::new(PerModality::from([1.]))
        .unwrap()
        .draws(50, 200);
    let x = PerModality::from([Tensor::zeros((1, 1), DType::F64, &Device::Cpu).unwrap()]);
    assert!(
        plan.run(&model, &x, &Streams::new(1), &mut [Votes::new(0)], 1000, go)
            .unwrap()
            .is_continue()
    );
    let seen = model.seen.into_inner().unwrap();
    let (selection, estimation) = seen.split_at(50);
    assert_eq!(estimation.len(), 200);
    assert!(
        selection.iter().all(|noise| !estimation.contains(noise)),
        "the noise of one phase is also the other's"
    );
}
