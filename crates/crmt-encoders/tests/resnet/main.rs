//! ResNet-18 against PyTorch: names, values, gradients and running statistics (golden.json, written
//! by golden.py).
use candle_core::{DType, Device, Tensor, Var};
use candle_nn::{VarBuilder, VarMap};
use crmt_core::{Encoder, Mode};
use crmt_encoders::{Block, Chain, EncoderConfig};
use crmt_kernels::Algorithms;
use serde_json::Value;
use std::collections::BTreeMap;

type TestResult = Result<(), Box<dyn std::error::Error>>;

/// As in golden.py: `shift + scale · u` with `u` in [−1, 1), exact in integers.
fn formula(shape: &[usize], seed: usize, scale: f64, shift: f64) -> candle_core::Result<Tensor> {
    let value = |i: usize| ((i * 7919 + seed * 104_729) % 10_007) as f64 / 10_007. * 2. - 1.;
    let values = (0..shape.iter().product())
        .map(|i| shift + scale * value(i))
        .collect::<Vec<f64>>();
    Tensor::from_vec(values, shape, &Device::Cpu)
}

fn fill(variables: &BTreeMap<String, Var>) -> candle_core::Result<()> {
    for (seed, (name, var)) in variables.iter().enumerate() {
        let dims = var.dims();
        let value = match dims.len() {
            _ if name.ends_with("running_var") => formula(dims, seed, 0.3, 1.)?,
            4 => formula(
                dims,
                seed,
                (6. / (dims[1] * dims[2] * dims[3]) as f64).sqrt(),
                0.,
            )?,
            _ if name.ends_with("weight") => formula(dims, seed, 0.3, 1.)?,
            _ => formula(dims, seed, 0.2, 0.)?,
        };
        var.set(&value.to_dtype(var.dtype())?)?;
    }
    Ok(())
}

fn numbers(value: &Value) -> Vec<f64> {
    value
        .as_array()
        .expect("an array")
        .iter()
        .map(|v| v.as_f64().expect("a number"))
        .collect()
}

/// Largest difference relative to the largest expected number.
#[track_caller]
fn close(what: &str, got: &[f64], expected: &[f64], tolerance: f64) {
    assert_eq!(got.len(), expected.len(), "{what}");
    let size = expected.iter().fold(1e-3, |m: f64, v| m.max(v.abs()));
    let worst = got
        .iter()
        .zip(expected)
        .map(|(a, b)| (a - b).abs() / size)
        .fold(0., f64::max);
    assert!(worst <= tolerance, "{what}: {worst:e} above {tolerance:e}");
}

fn compare(case: &str, golden: &Value, dtype: DType, tolerance: f64) -> TestResult {
    let shape: Vec<usize> = numbers(&golden["shape"])
        .iter()
        .map(|n| *n as usize)
        .collect();
    let store = VarMap::new();
    let encoder = EncoderConfig::Resnet18.build(
        &shape[1..],
        VarBuilder::from_varmap(&store, dtype, &Device::Cpu),
    )?;
    let variables: BTreeMap<String, Var> = store
        .data()
        .lock()
        .expect("one thread")
        .clone()
        .into_iter()
        .collect();
    fill(&variables)?;
    let mode = if case.ends_with("train") {
        Mode::Train
    } else {
        Mode::Eval
    };
    let x = Var::from_tensor(&formula(&shape, 1000, 1., 0.)?.to_dtype(dtype)?)?;
    let y = encoder.encode(&x, mode)?;
    assert_eq!(y.dims(), [shape[0], 512]);
    let gradients = (&y * formula(&[shape[0], 512], 2000, 1., 0.)?.to_dtype(dtype)?)?
        .sum_all()?
        .backward()?;
    let flat = |t: &Tensor| t.to_dtype(DType::F64)?.flatten_all()?.to_vec1::<f64>();
    let every = |values: Vec<f64>, n: usize| values.into_iter().step_by(n).collect::<Vec<f64>>();
    close(
        "features",
        &every(flat(&y)?, 37),
        &numbers(&golden["features"]),
        tolerance,
    );
    let dx = flat(gradients.get(&x).ok_or("no gradient of the input")?)?;
    close(
        "input gradient",
        &every(dx, 97),
        &numbers(&golden["input_gradient"]),
        tolerance,
    );
    let expected = golden["parameter_gradients"]
        .as_object()
        .ok_or("an object")?;
    let learned: Vec<&String> = variables
        .keys()
        .filter(|name| !name.contains("running"))
        .collect();
    // Exactly the names of PyTorch's parameters.
    let mut names: Vec<&String> = expected.keys().collect();
    names.sort();
    assert_eq!(learned, names);
    for name in learned {
        let gradient = flat(
            gradients
                .get(&variables[name])
                .ok_or("no gradient of a parameter")?,
        )?;
        let [sum, squares] = [
            gradient.iter().sum::<f64>(),
            gradient.iter().map(|g| g * g).sum::<f64>(),
        ];
        let expected = numbers(&expected[name]);
        // A sum of n terms of both signs is small beside their root mean square times √n, and as
        // precise as that.
        let size = (expected[1] * gradient.len() as f64).sqrt().max(1e-3);
        assert!(
            (sum - expected[0]).abs() <= tolerance * size,
            "{name}: {sum} instead of {}",
            expected[0]
        );
        close(name, &[squares], &expected[1..], 2. * tolerance);
    }
    for (name, sum) in golden["running"].as_object().ok_or("an object")? {
        let got = flat(&variables[name])?.iter().sum::<f64>();
        close(name, &[got], &[sum.as_f64().ok_or("a number")?], tolerance);
    }
    Ok(())
}

fn golden() -> Result<BTreeMap<String, Value>, serde_json::Error> {
    serde_json::from_str(include_str!("golden.json"))
}

#[test]
fn as_pytorch_in_double_precision() -> TestResult {
    for (case, golden) in golden()? {
        // The same sums in another order, through 18 layers and, in training, statistics of as few
        // as 4 pixels.
        compare(&case, &golden, DType::F64, 1e-9)?;
    }
    Ok(())
}

#[test]
fn as_pytorch_in_single_precision() -> TestResult {
    for (case, golden) in golden()? {
        // In training, gradients pass through differences of nearly equal numbers: the statistics
        // of 4 to 8 pixels.
        compare(
            &case,
            &golden,
            DType::F32,
            if case.ends_with("train") { 2e-2 } else { 2e-3 },
        )?;
    }
    Ok(())
}

/// The switch for comparisons: sums as the definition says, and close to them what is computed by
/// default.
#[test]
fn direct_convolutions_agree() -> TestResult {
    let store = VarMap::new();
    let vb = VarBuilder::from_varmap(&store, DType::F32, &Device::Cpu);
    let chain = EncoderConfig::Resnet18.chain(&[3, 64, 64], vb)?;
    let variables: BTreeMap<String, Var> = store
        .data()
        .lock()
        .expect("one thread")
        .clone()
        .into_iter()
        .collect();
    fill(&variables)?;
    let x = formula(&[4, 3, 64, 64], 7, 1., 0.)?.to_dtype(DType::F32)?;
    let fast = chain
        .encode(&x, Mode::Eval)?
        .flatten_all()?
        .to_vec1::<f32>()?;
    let direct = chain
        .with(Algorithms::Direct)
        .encode(&x, Mode::Eval)?
        .flatten_all()?
        .to_vec1::<f32>()?;
    assert_ne!(fast, direct, "two methods");
    let double = |v: &[f32]| v.iter().map(|v| f64::from(*v)).collect::<Vec<f64>>();
    // 17 layers with errors of a few 1e-5 each.
    close("features", &double(&fast), &double(&direct), 1e-3);
    Ok(())
}

#[test]
fn shapes_that_do_not_fit_are_refused() {
    let vb = VarBuilder::zeros(DType::F32, &Device::Cpu);
    for shape in [&[5][..], &[2, 3], &[1, 2, 3, 4, 5], &[3, 0, 4]] {
        let error = EncoderConfig::Resnet18
            .build(shape, vb.clone())
            .err()
            .expect("refused")
            .to_string();
        assert!(
            error.contains("resnet18") && error.contains("mlp"),
            "{error}"
        );
    }
}

/// What an auditor is told bounds what the encoder does: every kind of block of a ResNet, with few
/// channels, because an audit of 512 takes minutes.
#[test]
fn the_description_is_audited() -> TestResult {
    let store = VarMap::new();
    let vb = VarBuilder::from_varmap(&store, DType::F64, &Device::Cpu);
    let conv = |name: &str, channels, size, stride| {
        Block::residual_conv2d(&vb.pp(name), channels, size, stride)
    };
    let norm = |name: &str, channels| Block::batch_norm(&vb.pp(name), channels);
    let block = |name: &str, [from, to]: [usize; 2], stride| -> candle_core::Result<Block> {
        let mut branch = vec![
            conv(&format!("{name}.c1"), [from, to], 3, stride)?,
            norm(&format!("{name}.b1"), to)?,
        ];
        branch.extend([
            Block::Relu,
            conv(&format!("{name}.c2"), [to, to], 3, 1)?,
            norm(&format!("{name}.b2"), to)?,
        ]);
        let shortcut = match from == to {
            true => vec![],
            false => vec![
                conv(&format!("{name}.s"), [from, to], 1, stride)?,
                norm(&format!("{name}.bs"), to)?,
            ],
        };
        Ok(Block::Residual {
            name: name.into(),
            branch,
            shortcut,
        })
    };
    let mut blocks = vec![
        Block::Frames,
        conv("stem", [1, 4], 7, 2)?,
        norm("bn", 4)?,
        Block::Relu,
    ];
    blocks.push(Block::MaxPool2d {
        kernel: 3,
        stride: 2,
        padding: 1,
    });
    blocks.extend([
        block("same", [4, 4], 1)?,
        Block::Relu,
        block("wider", [4, 6], 2)?,
        Block::Relu,
    ]);
    blocks.extend([
        Block::Mean { pixels: 4 * 4 },
        Block::MeanOfFrames { frames: 2 },
    ]);
    let chain = Chain::new(blocks, 6);
    let variables: BTreeMap<String, Var> = store
        .data()
        .lock()
        .expect("one thread")
        .clone()
        .into_iter()
        .collect();
    fill(&variables)?;
    let bound = crmt_certify::audit(&chain.layers()?)?.bound().value();
    let x = formula(&[1, 1, 2, 32, 32], 3, 1., 0.)?;
    let d = formula(&[1, 1, 2, 32, 32], 4, 1e-3, 0.)?;
    let norm = |t: &Tensor| t.sqr()?.sum_all()?.sqrt()?.to_scalar::<f64>();
    let change = (chain.encode(&(&x + &d)?, Mode::Eval)? - chain.encode(&x, Mode::Eval)?)?;
    let rate = norm(&change)? / norm(&d)?;
    assert!(rate > 0. && rate <= bound, "{rate} above {bound}");
    Ok(())
}
