//! What the operations promise besides values: no needless gradients, shared storage, errors that
//! help.
use crate::common::{random, values};
use candle_core::{DType, Device, Result, Tensor, Var};
use crmt_kernels::*;

fn message<T>(result: Result<T>) -> String {
    match result {
        Ok(_) => panic!("expected an error"),
        Err(error) => error.to_string(),
    }
}

#[test]
fn frozen_kernels_get_no_gradient() -> Result<()> {
    let (x, kernel, bias) = (
        random(1, &[2, 3, 6, 6])?,
        random(2, &[4, 3, 3, 3])?,
        random(3, &[4])?,
    );
    let var = Var::from_tensor(&x)?;
    let grads = conv2d(&var, &kernel, Some(&bias), 1, 1)?
        .sum_all()?
        .backward()?;
    assert!(
        grads.get(&var).is_some() && grads.get(&kernel).is_none() && grads.get(&bias).is_none()
    );
    // A parameter's detached twin is as frozen as a plain tensor.
    let live = Var::from_tensor(&kernel)?;
    let twin = live.as_detached_tensor();
    let grads = conv2d(&var, &twin, None, 1, 1)?.sum_all()?.backward()?;
    assert!(grads.get(&var).is_some() && grads.get(&twin).is_none() && grads.get(&live).is_none());
    // And a plain input costs no input gradient.
    let grads = conv2d(&x, &live, None, 1, 1)?.sum_all()?.backward()?;
    assert!(grads.get(&live).is_some() && grads.get(&x).is_none());
    let (gamma, running) = (
        random(4, &[3])?,
        RunningStats::new(3, DType::F64, &Device::Cpu)?,
    );
    let grads = batch_norm_eval(&var, &gamma, &gamma, &running, 1e-5)?
        .sum_all()?
        .backward()?;
    assert!(grads.get(&var).is_some() && grads.get(&gamma).is_none());
    Ok(())
}

#[test]
fn a_twin_sees_running_statistics_and_steps() -> Result<()> {
    let running = RunningStats::new(3, DType::F64, &Device::Cpu)?;
    let (clone, detached) = (running.clone(), running.mean.as_detached_tensor());
    let (x, one, zero) = (
        (random(1, &[8, 3])? + 2.)?,
        Tensor::ones(3, DType::F64, &Device::Cpu)?,
        random(2, &[3])?,
    );
    batch_norm_train(&x, &one, &zero, &running, 0.5, 1e-5)?;
    assert!(values(&detached)?.iter().all(|&m| m > 0.5), "{detached}");
    assert_eq!(values(&detached)?, values(&clone.mean)?);
    assert_eq!(values(&running.variance)?, values(&clone.variance)?);

    let p = Var::from_tensor(&one)?;
    let twin = p.as_detached_tensor();
    let grads = p.as_tensor().sum_all()?.backward()?;
    Sgd::default()
        .over([Parameter::new("p", &p)])?
        .step(&grads, 0.25)?;
    assert_eq!(values(&twin)?, [0.75; 3]);
    Ok(())
}

#[test]
fn steps_skip_parameters_without_gradient_and_respect_decay() -> Result<()> {
    let one = Tensor::ones(2, DType::F64, &Device::Cpu)?;
    let (used, unused, plain) = (
        Var::from_tensor(&one)?,
        Var::from_tensor(&one)?,
        Var::from_tensor(&one)?,
    );
    let parameters = || {
        [
            Parameter::new("used", &used),
            Parameter::new("unused", &unused),
            Parameter::new("plain", &plain).with_decay(0.),
        ]
    };
    // Zero gradients: only the decay moves anything.
    let grads = ((used.as_tensor() + plain.as_tensor())? * one.zeros_like()?)?
        .sum_all()?
        .backward()?;
    assert!(grads.get(&unused).is_none());
    Sgd {
        weight_decay: 0.5,
        ..Sgd::default()
    }
    .over(parameters())?
    .step(&grads, 0.5)?;
    assert_eq!(
        (values(&used)?, values(&unused)?, values(&plain)?),
        (vec![0.75; 2], vec![1.; 2], vec![1.; 2])
    );
    let mut adam = AdamW {
        weight_decay: 0.5,
        ..AdamW::default()
    }
    .over(parameters())?;
    adam.step(&grads, 1.)?;
    assert_eq!(
        (values(&used)?, values(&unused)?, values(&plain)?),
        (vec![0.375; 2], vec![1.; 2], vec![1.; 2])
    );
    let names: Vec<_> = adam.state()?.into_iter().map(|(name, _)| name).collect();
    assert_eq!(
        names[..4],
        [
            "used.exp_avg",
            "used.exp_avg_sq",
            "used.step",
            "unused.exp_avg"
        ]
    );
    let error = message(adam.restore(&|_| None));
    assert!(
        error.contains("used.exp_avg") && error.contains("missing"),
        "{error}"
    );
    let error =
        message(Sgd::default().over([Parameter::new("a", &used), Parameter::new("a", &plain)]));
    assert!(error.contains("'a' is given twice"), "{error}");
    Ok(())
}

#[test]
fn a_gradient_that_is_not_finite_is_named() -> Result<()> {
    let p = Var::from_tensor(&Tensor::new(&[0f32, 1.], &Device::Cpu)?)?;
    let grads = p.as_tensor().log()?.sum_all()?.backward()?;
    let error = message(clip_grad_norm(
        &grads,
        &[Parameter::new("head.weight", &p)],
        1.,
    ));
    assert!(
        error.contains("head.weight") && error.contains("not finite"),
        "{error}"
    );
    Ok(())
}

#[test]
fn shapes_that_do_not_fit_are_explained() -> Result<()> {
    let t = |shape: &[usize]| random(1, shape);
    let x = t(&[2, 3, 5, 6])?;
    for (error, parts) in [
        (
            message(conv2d(&t(&[2, 3])?, &t(&[4, 3, 3, 3])?, None, 1, 1)),
            ["[batch, in, h, w]", "[2, 3]"],
        ),
        (
            message(conv2d(&x, &t(&[4, 2, 3, 3])?, None, 1, 1)),
            ["3 channels", "expects 2"],
        ),
        (
            message(conv2d(&x, &t(&[4, 3, 7, 7])?, None, 1, 0)),
            ["5×6", "7×7"],
        ),
        (
            message(conv2d(&x, &t(&[4, 3, 3, 3])?, None, 0, 0)),
            ["stride 0", "at least 1"],
        ),
        (
            message(conv2d(&x, &t(&[4, 3, 3, 3])?, Some(&t(&[3])?), 1, 0)),
            ["bias has shape [3]", "[4]"],
        ),
        (
            message(conv2d(
                &x,
                &t(&[4, 3, 3, 3])?.to_dtype(DType::F32)?,
                None,
                1,
                0,
            )),
            ["kernel is F32", "x is F64"],
        ),
        (
            message(max_pool2d(&x, 3, 2, 2)),
            ["padding 2", "half the kernel"],
        ),
        (message(max_pool2d(&x, 7, 2, 0)), ["5×6", "7×7"]),
        (message(max_min(&x)), ["even number", "[2, 3, 5, 6]"]),
        (message(relu(&x.to_dtype(DType::U8)?)), ["U8", "F32 or F64"]),
    ] {
        assert!(parts.iter().all(|part| error.contains(part)), "{error}");
    }
    let running = RunningStats::new(3, DType::F64, &Device::Cpu)?;
    let one = t(&[3])?;
    let error = message(batch_norm_train(
        &t(&[1, 3])?,
        &one,
        &one,
        &running,
        0.1,
        1e-5,
    ));
    assert!(error.contains("at least 2"), "{error}");
    let error = message(batch_norm_eval(&t(&[2, 4])?, &one, &one, &running, 1e-5));
    assert!(
        error.contains("gamma has shape [3], expected [4]"),
        "{error}"
    );
    Ok(())
}

/// Tensors that share storage with something else: transposed, narrowed, broadcast.
#[test]
fn any_layout_is_accepted() -> Result<()> {
    let x = random(1, &[6, 5, 3, 4])?;
    let kernel = random(2, &[3, 2, 4, 4])?;
    let (view, kernel_view) = (
        x.permute((3, 2, 0, 1))?.narrow(0, 1, 2)?,
        kernel.permute((1, 0, 3, 2))?,
    );
    let plain = conv2d(&view.contiguous()?, &kernel_view.contiguous()?, None, 2, 3)?;
    assert_eq!(
        values(&conv2d(&view, &kernel_view, None, 2, 3)?)?,
        values(&plain)?
    );
    assert_eq!(values(&relu(&view)?)?, values(&relu(&view.contiguous()?)?)?);
    let var = Var::from_tensor(&x)?;
    // The gradient of a mean arrives broadcast.
    let grads = max_min(&var.as_tensor().narrow(1, 1, 4)?)?
        .mean_all()?
        .backward()?;
    let expected = 1. / (6. * 4. * 3. * 4.);
    let grad = grads.get(&var).expect("tracked").narrow(1, 1, 4)?;
    assert!(values(&grad)?.iter().all(|&g| g == expected));
    Ok(())
}

#[test]
fn not_a_number_is_not_hidden() -> Result<()> {
    let x = Tensor::new(&[[[[1f32, f32::NAN], [0., 5.]]]], &Device::Cpu)?;
    assert!(max_pool2d(&x, 2, 2, 0)?.flatten_all()?.to_vec1::<f32>()?[0].is_nan());
    assert!(relu(&x)?.flatten_all()?.to_vec1::<f32>()?[1].is_nan());
    let pair = max_min(&x.reshape((1, 4, 1, 1))?)?
        .flatten_all()?
        .to_vec1::<f32>()?;
    assert!(pair[1].is_nan() && pair[3].is_nan() && pair[0] == 1. && pair[2] == 0.);
    Ok(())
}

#[test]
fn an_empty_batch_passes_through() -> Result<()> {
    let x = Var::zeros((0, 3, 5, 6), DType::F32, &Device::Cpu)?;
    let kernel = Var::ones((4, 3, 3, 3), DType::F32, &Device::Cpu)?;
    let y = max_pool2d(&relu(&conv2d(&x, &kernel, None, 1, 1)?)?, 2, 2, 0)?;
    assert_eq!(y.dims(), [0, 4, 2, 3]);
    let grads = max_min(&y)?.sum_all()?.backward()?;
    assert_eq!(grads.get(&x).expect("tracked").dims(), [0, 3, 5, 6]);
    assert_eq!(values(grads.get(&kernel).expect("tracked"))?, vec![0.; 108]);
    Ok(())
}
