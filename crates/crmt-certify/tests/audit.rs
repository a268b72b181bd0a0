//! Audits against norms found by other means: Jacobi's eigenvalue method and dense matrices of
//! convolutions.
use candle_core::{DType, Device, Tensor};
use crmt_certify::*;
use crmt_core::{Layer, PerModality, Streams};
use rand::Rng;

fn random(rng: &mut impl Rng, shape: &[usize]) -> Tensor {
    let v: Vec<f64> = (0..shape.iter().product())
        .map(|_| rng.sample(rand_distr::StandardNormal))
        .collect();
    Tensor::from_vec(v, shape, &Device::Cpu).unwrap()
}

#[expect(
    clippy::needless_range_loop,
    reason = "rotations act on two rows and columns by index"
)]
/// Spectral norm by cyclic Jacobi rotations of `A^T A`: converges quadratically, no knowledge of
/// Gram iteration.
fn true_norm(a: &Tensor) -> f64 {
    let mut g = a.t().unwrap().matmul(a).unwrap().to_vec2::<f64>().unwrap();
    let n = g.len();
    for _ in 0..30 {
        let trace: f64 = (0..n).map(|i| g[i][i]).sum();
        let off: f64 = (0..n)
            .flat_map(|p| (0..p).map(move |q| (p, q)))
            .map(|(p, q)| g[p][q].powi(2))
            .sum();
        if off.sqrt() <= 1e-15 * trace {
            break;
        }
        for p in 0..n {
            for q in p + 1..n {
                if g[p][q].abs() < 1e-300 {
                    continue;
                }
                let theta = (g[q][q] - g[p][p]) / (2. * g[p][q]);
                let t = theta.signum() / (theta.abs() + theta.hypot(1.));
                let c = 1. / t.hypot(1.);
                let s = t * c;
                for k in 0..n {
                    let (x, y) = (g[k][p], g[k][q]);
                    (g[k][p], g[k][q]) = (c * x - s * y, s * x + c * y);
                }
                for k in 0..n {
                    let (x, y) = (g[p][k], g[q][k]);
                    (g[p][k], g[q][k]) = (c * x - s * y, s * x + c * y);
                }
            }
        }
    }
    (0..n).map(|i| g[i][i]).fold(0., f64::max).sqrt()
}

fn linear(name: &str, weight: Tensor) -> Layer {
    Layer::Linear {
        name: name.into(),
        weight,
    }
}
fn fixed(name: &str, lipschitz: f64) -> Layer {
    Layer::Fixed {
        name: name.into(),
        lipschitz,
    }
}

#[test]
fn jacobi_knows_a_diagonal() {
    let d = Tensor::new(&[[3f64, 0.], [0., -7.], [0., 0.]], &Device::Cpu).unwrap();
    assert!((true_norm(&d) - 7.).abs() < 1e-14);
    assert!(
        (true_norm(&Tensor::new(&[[1f64, 1.], [1., 1.]], &Device::Cpu).unwrap()) - 2.).abs()
            < 1e-14
    );
}

#[test]
fn linear_layers_are_bounded_and_tightly() {
    let mut rng = Streams::new(1).stream("audit", 0);
    for (rows, cols) in [(1, 1), (1, 9), (9, 1), (5, 5), (3, 17), (24, 10), (30, 30)] {
        for _ in 0..10 {
            let w = random(&mut rng, &[rows, cols]);
            let (bound, norm) = (matrix_bound(&w).unwrap(), true_norm(&w));
            // Below: the bound is a theorem, Jacobi is accurate to 1e-13. Above: rank 30 and ten
            // steps, 1.0017.
            assert!(
                bound >= norm * (1. - 1e-13),
                "{rows}x{cols}: {bound} < {norm}"
            );
            assert!(
                bound <= norm * 1.01,
                "{rows}x{cols}: {bound} against {norm}"
            );
        }
    }
}

#[test]
fn equal_singular_values_are_the_loose_case_and_orthonormal_rows_are_sharp() {
    let eye = Tensor::eye(64, DType::F64, &Device::Cpu).unwrap();
    let wide = eye.narrow(0, 0, 32).unwrap();
    // T12b: a dozen roundings of 64 terms.
    assert!((1. ..1. + 1e-12).contains(&matrix_bound(&wide).unwrap()));
    let scaled = matrix_bound(&(wide * 3.).unwrap()).unwrap();
    // Rank 32, ten steps: 32^(2^-11) = 1.0017.
    assert!((3. ..3. * 1.0018).contains(&scaled), "{scaled}");
}

#[test]
fn zero_and_tiny_and_huge_matrices() {
    let z = Tensor::zeros((4, 3), DType::F64, &Device::Cpu).unwrap();
    assert_eq!(matrix_bound(&z).unwrap(), 0.);
    for scale in [1e-140, 1e140] {
        let w = Tensor::new(&[[scale, 0.], [0., scale / 2.]], &Device::Cpu).unwrap();
        let bound = matrix_bound(&w).unwrap();
        assert!((scale..scale * 1.001).contains(&bound), "{scale}: {bound}");
    }
}

/// The dense matrix of a zero-padded convolution on an `n x n` input, column by column.
fn dense(kernel: &Tensor, stride: usize, padding: usize, n: usize) -> Tensor {
    let inputs = kernel.dims()[1] * n * n;
    let basis = Tensor::eye(inputs, DType::F64, &Device::Cpu)
        .unwrap()
        .reshape((inputs, kernel.dims()[1], n, n))
        .unwrap();
    let y = basis.conv2d(kernel, padding, stride, 1, 1).unwrap();
    y.flatten_from(1)
        .unwrap()
        .t()
        .unwrap()
        .contiguous()
        .unwrap()
}

#[test]
fn convolutions_are_bounded_whatever_the_input_size_stride_and_padding() {
    let mut rng = Streams::new(2).stream("audit", 1);
    for (out, inp, h, w) in [
        (1, 1, 3, 3),
        (2, 3, 3, 3),
        (3, 1, 1, 1),
        (2, 2, 2, 4),
        (1, 2, 5, 5),
    ] {
        let kernel = random(&mut rng, &[out, inp, h, w]);
        for (stride, padding) in [(1, 0), (1, 1), (1, 2), (2, 0), (2, 1), (3, 1)] {
            let bound = conv_bound(&kernel, stride, 32).unwrap();
            for n in [5, 8] {
                let norm = true_norm(&dense(&kernel, stride, padding, n));
                assert!(
                    norm <= bound,
                    "{out}x{inp}x{h}x{w} stride {stride} padding {padding} on {n}: {norm} > {bound}"
                );
            }
        }
    }
}

#[test]
fn chains_multiply_residuals_add_and_diagonals_fold() {
    let w = Tensor::new(&[[2f64, 0.], [0., 1.]], &Device::Cpu).unwrap();
    let d = Tensor::new(&[0.5f64, -3.], &Device::Cpu).unwrap();
    let diagonal = || Layer::Diagonal {
        name: "bn".into(),
        scale: d.clone(),
    };
    let a = audit(&[
        Layer::Flatten,
        linear("fc", w.clone()),
        diagonal(),
        fixed("relu", 1.),
    ])
    .unwrap();
    // diag(0.5, -3) diag(2, 1) has norm 3, not 2 * 3; rank 2 and ten steps: 1.00034.
    assert!((3. ..3.0011).contains(&a.bound().value()), "{a}");
    assert_eq!(a.rows()[1].name, "fc * bn");
    let alone = audit(&[diagonal()]).unwrap();
    assert_eq!(
        (alone.bound().value(), alone.rows()[0].how),
        (3., Method::LargestEntry)
    );
    let r = audit(&[Layer::Residual {
        name: "block".into(),
        branch: vec![diagonal(), fixed("half", 0.5)],
    }])
    .unwrap();
    assert!((r.bound().value() - 2.5).abs() < 1e-14 && r.bound().value() >= 2.5);
    assert!(a.to_string().contains("product"), "{a}");
}

#[test]
fn the_lesser_of_theorem_and_audit_counts() {
    let layer = || {
        Box::new(linear(
            "fc",
            Tensor::new(&[[0.5f64, 0.], [0., 0.25]], &Device::Cpu).unwrap(),
        ))
    };
    let of = |lipschitz| {
        audit(&[Layer::Bounded {
            layer: layer(),
            lipschitz,
        }])
    };
    let found = of(1.).unwrap();
    assert!(
        found.bound().value() < 0.51 && found.rows()[0].name == "fc",
        "{found}"
    );
    let theorem = of(0.1).unwrap();
    assert_eq!(
        (theorem.bound().value(), theorem.rows()[0].how),
        (0.1, Method::Theorem)
    );
    assert!(of(f64::NAN).is_err() && of(-1.).is_err());
}

#[test]
fn what_has_no_bound_is_refused_by_name() {
    let norm = Layer::Unbounded {
        name: "ln3".into(),
        why: "LayerNorm divides by the sample's own deviation".into(),
    };
    let nested = Layer::Residual {
        name: "block".into(),
        branch: vec![norm],
    };
    let e = audit(&[fixed("relu", 1.), nested]).unwrap_err();
    assert!(
        matches!(&e, AuditError::Unbounded { layer, .. } if layer == "ln3"),
        "{e}"
    );
    assert!(e.to_string().contains("LayerNorm"));
    let nan = Tensor::new(&[[f64::NAN]], &Device::Cpu).unwrap();
    assert!(
        matches!(audit(&[linear("fc", nan)]), Err(AuditError::NotFinite { layer, .. }) if layer == "fc")
    );
    assert!(audit(&[fixed("x", f64::INFINITY)]).is_err() && audit(&[fixed("x", -1.)]).is_err());
    let kernel = Tensor::zeros((1, 1, 3, 3), DType::F64, &Device::Cpu).unwrap();
    assert!(
        audit(&[Layer::Conv2d {
            name: "c".into(),
            kernel: kernel.clone(),
            stride: 0,
            padding: 1
        }])
        .is_err()
    );
    assert!(matches!(
        audit(&[linear("fc", kernel)]),
        Err(AuditError::Shape { .. })
    ));
}

/// One random affine problem: encoders `A x + c`, heads `a_k W_k`, bias; the distance to the
/// decision boundary is a minimum over hyperplanes.
struct Affine {
    rows: PerModality<Tensor>,
    weights: PerModality<Tensor>,
    audits: PerModality<Audit>,
    logits: Vec<f64>,
    label: u32,
    /// `sum_m |(V_y - V_j) A|^2` per rival, found densely; `None` at the label.
    slopes: Vec<Option<f64>>,
}

impl Affine {
    fn draw(rng: &mut impl Rng, modalities: usize, classes: usize) -> Self {
        let per = |f: &mut dyn FnMut() -> Tensor| PerModality::from_fn(modalities, |_| f());
        let (features, inputs) = (rng.random_range(1..5), rng.random_range(1..6));
        let rows = per(&mut || random(rng, &[classes, features]));
        let weights = per(&mut || random(rng, &[classes]));
        let a = per(&mut || random(rng, &[features, inputs]));
        let logits: Vec<f64> = (0..classes)
            .map(|_| rng.sample(rand_distr::StandardNormal))
            .collect();
        let label = (0..classes)
            .max_by(|i, j| logits[*i].total_cmp(&logits[*j]))
            .unwrap();
        let slopes = (0..classes).map(|j| {
            (j != label).then(|| {
                (0..modalities)
                    .map(|m| {
                        let v = rows[m]
                            .broadcast_mul(&weights[m].unsqueeze(1).unwrap())
                            .unwrap();
                        let d =
                            (v.narrow(0, label, 1).unwrap() - v.narrow(0, j, 1).unwrap()).unwrap();
                        d.matmul(&a[m])
                            .unwrap()
                            .sqr()
                            .unwrap()
                            .sum_all()
                            .unwrap()
                            .to_scalar::<f64>()
                            .unwrap()
                    })
                    .sum()
            })
        });
        let slopes = slopes.collect();
        let audits = a.map(|a| audit(&[linear("encoder", a.clone())]).unwrap().out_in());
        Self {
            rows,
            weights,
            audits,
            logits,
            label: label as u32,
            slopes,
        }
    }

    fn distance_with(&self, f: impl Fn(f64, f64) -> f64) -> f64 {
        let own = self.logits[self.label as usize];
        let each = self
            .slopes
            .iter()
            .zip(&self.logits)
            .filter_map(|(s, h)| s.map(|s| f(own - h, s)));
        each.fold(f64::INFINITY, f64::min)
    }

    fn distance(&self) -> f64 {
        self.distance_with(|mu, square| mu / square.sqrt())
    }

    fn radii(&self) -> SampleRadii {
        let c = MarginConstants::absorbed(&self.rows, &self.weights, &self.audits).unwrap();
        let h = Tensor::new(self.logits.as_slice(), &Device::Cpu)
            .unwrap()
            .unsqueeze(0)
            .unwrap();
        radii(&c, &h, &[self.label]).unwrap().samples()[0].clone()
    }
}

/// T7, on 500 problems: the joint radius with absorption *is* the distance. 1e-9: roundings of sums
/// of a few dozen products, with room for nearly equal rows. The mutated formulas must all be told
/// apart by the same comparison.
#[test]
fn affine_encoders_are_certified_exactly_and_mutations_are_caught() {
    const EXACT: f64 = 1e-9;
    let mut caught = [0; 6];
    for case in 0..500u64 {
        let mut rng = Streams::new(7).stream("affine", case);
        let (modalities, classes) = (1 + case as usize % 4, 2 + case as usize % 9);
        let p = Affine::draw(&mut rng, modalities, classes);
        let (r, d) = (p.radii(), p.distance());
        assert!(
            (r.joint / d - 1.).abs() < EXACT,
            "case {case}: {} for {d}",
            r.joint
        );
        assert!(r.joint <= d * (1. + 1e-12), "case {case}: never above");
        assert!((r.shares.iter().sum::<f64>() - 1.).abs() < 1e-12);
        let c = MarginConstants::absorbed(&p.rows, &p.weights, &p.audits).unwrap();
        let y = p.label as usize;
        let margin = |j: usize| p.logits[y] - p.logits[j];
        let rivals = || (0..classes).filter(|j| *j != y);
        let least = |norm: &dyn Fn(usize) -> f64| {
            rivals()
                .map(|j| margin(j) / norm(j))
                .fold(f64::INFINITY, f64::min)
        };
        let l = |m: usize, j: usize| c.get(m, y, j);
        let joint = |j: usize| (0..modalities).map(|m| l(m, j).powi(2)).sum::<f64>().sqrt();
        let runner_up = rivals()
            .max_by(|i, j| p.logits[*i].total_cmp(&p.logits[*j]))
            .unwrap();
        let own = |m: usize| {
            let v = p.rows[m].get(y).unwrap().to_vec1::<f64>().unwrap();
            let a = p.weights[m].to_vec1::<f64>().unwrap()[y];
            a.abs() * v.iter().map(|v| v * v).sum::<f64>().sqrt() * p.audits[m].bound().value()
        };
        let mutants = [
            1.35 * least(&joint),
            least(&|j| (1..modalities).map(|m| l(m, j).powi(2)).sum::<f64>().sqrt()),
            least(&|j| (0..modalities).map(|m| l(m, j)).fold(0., f64::max)),
            least(&|_| (0..modalities).map(|m| own(m).powi(2)).sum::<f64>().sqrt()),
            margin(runner_up) / joint(runner_up),
        ];
        for (m, count) in mutants.iter().zip(&mut caught) {
            *count += usize::from((m / d - 1.).abs() >= EXACT);
        }
        // Around a class that does not win the radius is 0, where an absolute value on the margin
        // claims more.
        let loser = rivals().next().unwrap();
        let h = Tensor::new(p.logits.as_slice(), &Device::Cpu)
            .unwrap()
            .unsqueeze(0)
            .unwrap();
        assert_eq!(radii(&c, &h, &[loser as u32]).unwrap().joint(), [0.]);
        let absolute = |j: usize| (p.logits[loser] - p.logits[j]).abs();
        let claim = (0..classes)
            .filter(|j| *j != loser)
            .map(absolute)
            .fold(f64::INFINITY, f64::min);
        caught[5] += usize::from(claim > 0.);
    }
    let names = [
        "x1.35",
        "drop a modality",
        "max for l2",
        "only a_y",
        "runner-up",
        "abs on the margin",
    ];
    for (name, count) in names.iter().zip(caught) {
        assert!(
            count >= 30,
            "mutation `{name}` caught in {count} of 500 cases only"
        );
    }
}
