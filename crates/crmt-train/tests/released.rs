//! The released code's own values, tensor by tensor: forward, attacks, constants, radii.
//!
//! The case is a directory holding `case.safetensors`, or a file, named by `CRMT_GOLDEN` (default:
//! the one in `golden/`). Shapes, classes and budgets are read from it. Everything is `f64`; 1e-10
//! relative to the largest element of a tensor, because the only differences are in the order of
//! sums.
use candle_core::{DType, Device, Tensor};
use crmt_attacks::{Attack, Draws, Goal, perturb, released as attacks};
use crmt_certify::{LipschitzRule, RivalRule, objective, rival_ratio, runner_up};
use crmt_core::{
    AdditiveClassifier, AdditiveScores, Classifier, Domain, Modality, PerModality, Result, Streams,
};
use crmt_fusion::Rows;
use crmt_train::{margin_term, soft_cross_entropy};
use std::collections::HashMap;
use std::path::PathBuf;

const TOLERANCE: f64 = 1e-10;
const NAMES: [&str; 2] = ["visual", "audio"];
/// The released normalisation of images.
const MEAN: [f64; 3] = [0.485, 0.456, 0.406];
const STD: [f64; 3] = [0.229, 0.224, 0.225];

struct Case(HashMap<String, Tensor>);

impl Case {
    fn load() -> Self {
        let default =
            PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden/released.safetensors");
        let mut path = std::env::var_os("CRMT_GOLDEN").map_or(default, PathBuf::from);
        if path.is_dir() {
            path.push("case.safetensors");
        }
        Self(
            candle_core::safetensors::load(&path, &Device::Cpu)
                .unwrap_or_else(|e| panic!("{}: {e}", path.display())),
        )
    }

    fn get(&self, name: &str) -> &Tensor {
        self.0
            .get(name)
            .unwrap_or_else(|| panic!("the case has no tensor `{name}`"))
    }

    /// The tensor named `prefix` and a number.
    fn only(&self, prefix: &str) -> (String, f64) {
        let number = |name: &String| Some((name.clone(), name.strip_prefix(prefix)?.parse().ok()?));
        self.0
            .keys()
            .find_map(number)
            .unwrap_or_else(|| panic!("the case has no tensor `{prefix}…`"))
    }

    fn inputs(&self) -> PerModality<Tensor> {
        PerModality::from(NAMES.map(|n| self.get(n).clone()))
    }

    fn labels(&self) -> Tensor {
        self.get("labels").to_dtype(DType::U32).unwrap()
    }
}

/// The released network, rebuilt from `weights.*`: `tanh(Linear(flatten(x)))` and unit rows.
struct Released {
    modalities: PerModality<Modality>,
    encoders: PerModality<(Tensor, Tensor)>,
    rows: PerModality<Tensor>,
    weights: PerModality<Tensor>,
    bias: Tensor,
}

impl Released {
    fn new(case: &Case) -> Self {
        let modality = |m: usize| {
            let shape = &case.get(NAMES[m]).dims()[1..];
            let domain = if m == 0 {
                attacks::pixels(&MEAN, &STD).unwrap()
            } else {
                Domain::Unbounded
            };
            Modality::new(NAMES[m], shape, domain)
        };
        let layer = |l: &str| {
            let part = |p: &str| case.get(&format!("weights.{l}.l.{p}")).clone();
            (part("weight"), part("bias"))
        };
        let head = |name: &str| {
            case.get(&format!("weights.fusion_module.orth_layer.{name}"))
                .clone()
        };
        let encoders = PerModality::from(["v", "a"].map(layer));
        let both = head("fc.weight");
        let features = encoders.map(|(weight, _)| weight.dim(0).unwrap());
        let rows = |m: usize| {
            both.narrow(1, if m == 0 { 0 } else { features[0] }, features[m])
                .unwrap()
        };
        Self {
            modalities: PerModality::from([modality(0), modality(1)]),
            encoders,
            rows: PerModality::from([0, 1].map(|m| Rows::Unit.constrain(&rows(m)).unwrap())),
            weights: PerModality::from(["a_0", "a_1"].map(head)),
            bias: head("fc.bias"),
        }
    }
}

impl Classifier for Released {
    fn modalities(&self) -> &PerModality<Modality> {
        &self.modalities
    }
    fn logits(&self, x: &PerModality<Tensor>) -> Result<Tensor> {
        self.scores(x)?.logits()
    }
}

impl AdditiveClassifier for Released {
    fn scores(&self, x: &PerModality<Tensor>) -> Result<AdditiveScores> {
        let unimodal = x.try_enumerate(|m, x| -> Result<Tensor> {
            let (weight, bias) = &self.encoders[m];
            let features = x
                .flatten_from(1)?
                .matmul(&weight.t()?)?
                .broadcast_add(bias)?
                .tanh()?;
            Ok(features.matmul(&self.rows[m].t()?)?)
        })?;
        Ok(AdditiveScores {
            unimodal,
            weights: self.weights.clone(),
            bias: self.bias.clone(),
        })
    }
}

fn flat(t: &Tensor) -> Vec<f64> {
    t.to_dtype(DType::F64)
        .unwrap()
        .flatten_all()
        .unwrap()
        .to_vec1()
        .unwrap()
}

/// The worst element, relative to the tensor's largest, if it is beyond the tolerance.
fn compare(name: &str, got: &Tensor, want: &Tensor) -> Result<(), String> {
    if got.dims() != want.dims() {
        return Err(format!(
            "{name}: shape {:?}, expected {:?}",
            got.dims(),
            want.dims()
        ));
    }
    let (got, want) = (flat(got), flat(want));
    let largest = want
        .iter()
        .fold(0f64, |a, b| a.max(b.abs()))
        .max(f64::MIN_POSITIVE);
    let error = |i: usize| (got[i] - want[i]).abs() / largest;
    // NaN is the worst there is.
    let bad = |i: usize| {
        if error(i).is_nan() {
            f64::INFINITY
        } else {
            error(i)
        }
    };
    let Some(worst) = (0..got.len()).max_by(|a, b| bad(*a).total_cmp(&bad(*b))) else {
        return Ok(());
    };
    if bad(worst) <= TOLERANCE {
        return Ok(());
    }
    Err(format!(
        "{name}[{worst}]: {} for {}, relative error {:e}",
        got[worst],
        want[worst],
        bad(worst)
    ))
}

#[track_caller]
fn same(case: &Case, name: &str, got: &Tensor) {
    compare(name, got, case.get(name)).unwrap_or_else(|e| panic!("{e}"));
}

impl Case {
    /// Budgets in tensor names that begin with `prefix`, e.g. `[0.4, 0.9]` of
    /// `pgd4_per_modality_eps0.4_0.9.audio`.
    fn budgets(&self, prefix: &str) -> Vec<(String, Vec<f64>)> {
        let suffix = format!(".{}", NAMES[0]);
        let names = self.0.keys().filter_map(|n| n.strip_suffix(&suffix));
        let of = |n: &str| {
            let eps = n.strip_prefix(prefix)?.strip_prefix("_eps")?;
            Some((
                n.to_owned(),
                eps.split('_')
                    .map(|e| e.parse().ok())
                    .collect::<Option<_>>()?,
            ))
        };
        let found: Vec<_> = names.filter_map(of).collect();
        assert!(!found.is_empty(), "the case has no `{prefix}_eps…` tensors");
        found
    }

    /// Runs `attack` on the clean inputs, right or wrong, and compares with the tensors called
    /// `name`.
    fn same_attack(&self, name: &str, attack: &dyn Attack) {
        self.same_attack_on(Released::new(self), name, attack);
    }

    fn same_attack_on(&self, model: Released, name: &str, attack: &dyn Attack) {
        let goal = Goal::Avoid(self.labels());
        let draws = Draws::new(Streams::new(0), 0);
        let x = perturb(attack, &model, &self.inputs(), &goal, &draws).unwrap();
        NAMES
            .iter()
            .zip(&x)
            .for_each(|(m, x)| same(self, &format!("{name}.{m}"), x));
    }
}

#[test]
fn released_forward() {
    let case = Case::load();
    let scores = Released::new(&case).scores(&case.inputs()).unwrap();
    NAMES
        .iter()
        .zip(&scores.unimodal)
        .for_each(|(m, s)| same(&case, &format!("scores_{m}"), s));
    same(&case, "logits", &scores.logits().unwrap());
}

#[test]
fn released_unit_rows() {
    let case = Case::load();
    let model = Released::new(&case);
    for (name, rows) in NAMES.iter().zip(&model.rows) {
        same(&case, &format!("unit_rows_{name}"), rows);
    }
}

#[test]
fn released_margin_term_and_loss() {
    let case = Case::load();
    let scores = Released::new(&case).scores(&case.inputs()).unwrap();
    let logits = scores.logits().unwrap();
    let targets =
        candle_nn::encoding::one_hot(case.labels(), logits.dim(1).unwrap(), 1f64, 0f64).unwrap();
    let margin = margin_term(&scores.unimodal, &targets).unwrap();
    same(&case, "margin_term_jt", &margin);
    let fit = soft_cross_entropy(&logits, &targets)
        .unwrap()
        .mean_all()
        .unwrap();
    // The weight of the margin term is in the tensor's name.
    let (name, rho) = case.only("loss_jt_rho");
    same(
        &case,
        &name,
        &(fit + (margin.mean_all().unwrap() * rho).unwrap()).unwrap(),
    );
}

#[test]
fn released_fgm() {
    let case = Case::load();
    case.budgets("fgm_joint")
        .iter()
        .for_each(|(name, eps)| case.same_attack(name, &attacks::fgm(eps[0])));
}

#[test]
fn released_pgd4_joint() {
    let case = Case::load();
    case.budgets("pgd4_joint")
        .iter()
        .for_each(|(name, eps)| case.same_attack(name, &attacks::pgd4(eps[0])));
}

#[test]
fn released_pgd4_per_modality() {
    let case = Case::load();
    for (name, eps) in case.budgets("pgd4_per_modality") {
        case.same_attack(
            &name,
            &attacks::PerModalityPgd::new(PerModality::new(eps).unwrap()),
        );
    }
}

#[test]
fn released_adversarial_training_samples() {
    let case = Case::load();
    for (name, eps) in case.budgets("at") {
        // The released training attack does not clamp to pixel space.
        let mut model = Released::new(&case);
        model.modalities = model.modalities.map(|m| Modality {
            domain: Domain::Unbounded,
            ..m.clone()
        });
        case.same_attack_on(model, &name, &attacks::TrainingPgd::new(eps[0], 5));
    }
}

fn table(norms: &PerModality<Vec<f64>>) -> Tensor {
    Tensor::new(norms.iter().cloned().collect::<Vec<_>>(), &Device::Cpu).unwrap()
}

#[test]
fn released_lipschitz_constants() {
    let case = Case::load();
    let (model, x) = (Released::new(&case), case.inputs());
    let norms = |rule: LipschitzRule| rule.gradient_norms(&model, &x).unwrap();
    same(
        &case,
        "lip_as_released",
        &table(norms(LipschitzRule::AsReleased).greatest()),
    );
    let scores = norms(LipschitzRule::MaxGradient);
    same(&case, "lip_max_grad_of_score", &table(scores.greatest()));
    // A logit's gradient is its weight times the score's: the weights the released bound then
    // counts again.
    let weighted = PerModality::from_fn(2, |m| {
        scores.greatest()[m]
            .iter()
            .zip(flat(&model.weights[m]))
            .map(|(t, a)| t * a.abs())
            .collect::<Vec<_>>()
    });
    same(&case, "lip_max_grad_of_logit", &table(&weighted));
}

#[test]
fn released_radii() {
    let case = Case::load();
    let (model, labels) = (Released::new(&case), case.labels());
    let logits = model.logits(&case.inputs()).unwrap();
    same(&case, "runner_up", &runner_up(&logits, &labels).unwrap());
    // The constants the released radii were computed with are part of the case.
    let lip = case.get("lip_max_grad_of_score");
    let norms = PerModality::from_fn(2, |m| lip.get(m).unwrap());
    let tables = objective::sum_table(&model.weights, &norms).unwrap();
    for (name, rule) in [
        ("radius_runner_up_sum_bound", RivalRule::RunnerUp),
        ("radius_min_rival_sum_bound_signed", RivalRule::Minimum),
    ] {
        same(
            &case,
            name,
            &rival_ratio(&logits, &labels, &tables, rule).unwrap(),
        );
    }
}

#[test]
fn released_comparison_names_the_worst_element() {
    let case = Case::load();
    let want = case.get("logits");
    compare("logits", want, want).unwrap();
    let mut v = flat(want);
    let largest = v.iter().fold(0f64, |a, b| a.max(b.abs()));
    v[1] += 2e-10 * largest;
    v[3] += 4e-10 * largest;
    let corrupt = |v: &[f64]| Tensor::from_slice(v, want.shape(), &Device::Cpu).unwrap();
    assert!(
        compare("logits", want, &corrupt(&v))
            .unwrap_err()
            .starts_with("logits[3]")
    );
    v[7] = f64::NAN;
    assert!(
        compare("logits", want, &corrupt(&v))
            .unwrap_err()
            .starts_with("logits[7]")
    );
}
