//! Every operation against values stored from PyTorch (`golden/make_torch_golden.py`).

use crate::common::assert_close;
use candle_core::{DType, Device, Result, Tensor, Var};
use crmt_kernels::*;
use std::collections::HashMap;

/// Both sides are f64 with sums of at most a few hundred terms: 1e-12 is thousands of roundings.
const TOLERANCE: f64 = 1e-12;

struct Golden(HashMap<String, Tensor>);

impl Golden {
    fn load() -> Result<Self> {
        let path = concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/tests/golden/torch.safetensors"
        );
        Ok(Self(candle_core::safetensors::load(path, &Device::Cpu)?))
    }

    fn get(&self, name: &str) -> &Tensor {
        self.0
            .get(name)
            .unwrap_or_else(|| panic!("{name} is not stored"))
    }

    fn count(&self, prefix: &str) -> usize {
        (0..)
            .take_while(|i| {
                self.0
                    .keys()
                    .any(|k| k.starts_with(&format!("{prefix}.{i}.")))
            })
            .count()
    }

    fn options(&self, name: &str) -> Result<Vec<usize>> {
        Ok(self
            .get(&format!("{name}.options"))
            .to_vec1::<i64>()?
            .into_iter()
            .map(|v| v as usize)
            .collect())
    }

    /// Output and gradient of each named input.
    fn check(
        &self,
        name: &str,
        inputs: &[&str],
        f: impl Fn(&[Tensor]) -> Result<Tensor>,
    ) -> Result<()> {
        let vars = inputs
            .iter()
            .map(|i| Var::from_tensor(self.get(&format!("{name}.{i}"))))
            .collect::<Result<Vec<_>>>()?;
        let y = f(&vars
            .iter()
            .map(|v| v.as_tensor().clone())
            .collect::<Vec<_>>())?;
        assert_close(name, &y, self.get(&format!("{name}.y")), TOLERANCE);
        let grads = (y * self.get(&format!("{name}.weight")))?
            .sum_all()?
            .backward()?;
        for (input, var) in inputs.iter().zip(&vars) {
            let grad = grads.get(var).expect("tracked");
            assert_close(
                &format!("{name}.d{input}"),
                grad,
                self.get(&format!("{name}.d{input}")),
                TOLERANCE,
            );
        }
        Ok(())
    }
}

#[test]
fn convolutions() -> Result<()> {
    let golden = Golden::load()?;
    assert_eq!(golden.count("conv"), 7);
    for i in 0..7 {
        let name = format!("conv.{i}");
        let [stride, padding] = golden.options(&name)?[..] else {
            panic!("two options")
        };
        golden.check(&name, &["x", "kernel", "bias"], |t| {
            conv2d(&t[0], &t[1], Some(&t[2]), stride, padding)
        })?;
    }
    Ok(())
}

#[test]
fn pooling_with_ties() -> Result<()> {
    let golden = Golden::load()?;
    assert_eq!(golden.count("pool"), 3);
    for i in 0..3 {
        let name = format!("pool.{i}");
        let [kernel, stride, padding] = golden.options(&name)?[..] else {
            panic!("three options")
        };
        golden.check(&name, &["x"], |t| {
            max_pool2d(&t[0], kernel, stride, padding)
        })?;
    }
    Ok(())
}

#[test]
fn batch_normalisation() -> Result<()> {
    let golden = Golden::load()?;
    for i in 0..2 {
        let stat = |name: &str| golden.get(&format!("norm.{i}.{name}"));
        let fresh = || -> Result<_> {
            Ok(RunningStats {
                mean: Var::from_tensor(stat("mean"))?,
                variance: Var::from_tensor(stat("variance"))?,
            })
        };
        let (inputs, running) = (["x", "gamma", "beta"], fresh()?);
        golden.check(&format!("norm.{i}.train"), &inputs, |t| {
            batch_norm_train(&t[0], &t[1], &t[2], &running, 0.1, 1e-5)
        })?;
        assert_close("running mean", &running.mean, stat("mean_after"), TOLERANCE);
        assert_close(
            "running variance",
            &running.variance,
            stat("variance_after"),
            TOLERANCE,
        );
        golden.check(&format!("norm.{i}.eval"), &inputs, |t| {
            batch_norm_eval(&t[0], &t[1], &t[2], &running, 1e-5)
        })?;
    }
    Ok(())
}

#[test]
fn activations() -> Result<()> {
    let golden = Golden::load()?;
    golden.check("linear", &["x", "weight_", "bias"], |t| {
        relu(&t[0].matmul(&t[1].t()?)?.broadcast_add(&t[2])?)
    })?;
    golden.check("relu", &["x"], |t| relu(&t[0]))?;
    golden.check("max_min", &["x"], |t| max_min(&t[0]))
}

#[test]
fn optimizers() -> Result<()> {
    let golden = Golden::load()?;
    let sgd = Sgd {
        momentum: 0.9,
        weight_decay: 0.01,
        nesterov: false,
    };
    let adamw = AdamW {
        beta1: 0.8,
        beta2: 0.95,
        eps: 1e-6,
        weight_decay: 0.1,
        decoupled: true,
    };
    type Make = Box<dyn Fn(Parameter) -> Result<Box<dyn Optimizer>>>;
    let cases: [(&str, Make); 5] = [
        ("sgd", Box::new(move |p| Ok(Box::new(sgd.over([p])?)))),
        (
            "sgd_plain",
            Box::new(move |p| {
                Ok(Box::new(
                    Sgd {
                        momentum: 0.,
                        ..sgd
                    }
                    .over([p])?,
                ))
            }),
        ),
        (
            "sgd_nesterov",
            Box::new(move |p| {
                Ok(Box::new(
                    Sgd {
                        nesterov: true,
                        ..sgd
                    }
                    .over([p])?,
                ))
            }),
        ),
        ("adamw", Box::new(move |p| Ok(Box::new(adamw.over([p])?)))),
        (
            "adam",
            Box::new(move |p| {
                Ok(Box::new(
                    AdamW {
                        decoupled: false,
                        ..adamw
                    }
                    .over([p])?,
                ))
            }),
        ),
    ];
    for (name, make) in cases {
        for dtype in [DType::F64, DType::F32] {
            let get = |part: &str| golden.get(&format!("{name}.{part}")).to_dtype(dtype);
            let p = Var::from_tensor(&get("start")?)?;
            let mut optimizer = make(Parameter::new("p", &p))?;
            let mut norm = 0.;
            for step in 0..5 {
                if step == 3 {
                    // A new optimizer that takes over the state must not be noticed.
                    let state: HashMap<_, _> = optimizer.state()?.into_iter().collect();
                    optimizer = make(Parameter::new("p", &p))?;
                    optimizer.restore(&|name| state.get(name).cloned())?;
                }
                let grads = (p.as_tensor() - get("target")?)?
                    .sqr()?
                    .sum_all()?
                    .backward()?;
                let clipped = clip_grad_norm(&grads, optimizer.parameters(), 1.5)?;
                norm = clipped.norm;
                optimizer.step_scaled(&grads, 0.05, clipped.scale)?;
            }
            // f32: five steps of a handful of roundings, 6e-8 each.
            let tolerance = if dtype == DType::F64 { TOLERANCE } else { 2e-6 };
            assert_close(name, &p, &get("end")?, tolerance);
            let norm = Tensor::new(norm, &Device::Cpu)?;
            assert_close(
                &format!("{name} norm"),
                &norm,
                &get("last_norm")?.to_dtype(DType::F64)?,
                tolerance,
            );
        }
    }
    Ok(())
}
