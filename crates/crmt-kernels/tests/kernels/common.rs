//! Shared by the tests: random tensors, a naive convolution, finite differences, comparisons.
use candle_core::{DType, Device, Result, Tensor, Var};
use rand::{Rng, SeedableRng, seq::SliceRandom};
use rand_chacha::ChaCha8Rng;

/// Uniform in (−1, 1), `f64`.
pub fn random(seed: u64, shape: &[usize]) -> Result<Tensor> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let n = shape.iter().product();
    Tensor::from_vec(
        (0..n).map(|_| rng.random_range(-1f64..1.)).collect(),
        shape,
        &Device::Cpu,
    )
}

/// Distinct values, 0.01 apart and none within 0.005 of zero: no finite difference crosses a kink.
pub fn distinct(seed: u64, shape: &[usize]) -> Result<Tensor> {
    let n: usize = shape.iter().product();
    let mut values: Vec<f64> = (0..n)
        .map(|i| (i as f64 - (n / 2) as f64 + 0.5) * 0.01)
        .collect();
    values.shuffle(&mut ChaCha8Rng::seed_from_u64(seed));
    Tensor::from_vec(values, shape, &Device::Cpu)
}

pub fn values(t: &Tensor) -> Result<Vec<f64>> {
    t.to_dtype(DType::F64)?.flatten_all()?.to_vec1()
}

/// The largest difference, relative to the largest expected magnitude (at least 1).
pub fn difference(got: &Tensor, expected: &Tensor) -> Result<f64> {
    assert_eq!(got.dims(), expected.dims());
    let (got, expected) = (values(got)?, values(expected)?);
    let size = expected.iter().fold(1f64, |m, v| m.max(v.abs()));
    let worst = got
        .iter()
        .zip(&expected)
        .map(|(a, b)| (a - b).abs())
        .fold(0f64, |m, d| if d.is_nan() { d } else { m.max(d) });
    Ok(worst / size)
}

#[track_caller]
pub fn assert_close(what: &str, got: &Tensor, expected: &Tensor, tolerance: f64) {
    let d = difference(got, expected).unwrap();
    assert!(
        d <= tolerance,
        "{what}: difference {d:e} above {tolerance:e}\n got {got}\n expected {expected}"
    );
}

/// Gradients of `Σ weight·f(inputs)` with random weights:
/// `(output, weight, gradient of each input)`.
pub fn gradients(
    inputs: &[Tensor],
    f: &dyn Fn(&[Tensor]) -> Result<Tensor>,
    seed: u64,
) -> Result<(Tensor, Tensor, Vec<Tensor>)> {
    let vars = inputs
        .iter()
        .map(Var::from_tensor)
        .collect::<Result<Vec<_>>>()?;
    let tracked: Vec<Tensor> = vars.iter().map(|v| v.as_tensor().clone()).collect();
    let y = f(&tracked)?;
    let weight = random(seed, y.dims())?.to_dtype(y.dtype())?;
    let store = (&y * &weight)?.sum_all()?.backward()?;
    let grads = vars
        .iter()
        .map(|v| {
            store
                .get(v)
                .expect("a tracked input has a gradient")
                .clone()
        })
        .collect();
    Ok((y.detach(), weight, grads))
}

/// Compares the gradient of each input with central differences, up to 40 elements of each input.
///
/// Step 1e-5 in f64: rounding contributes about 1e-16·|loss|/1e-5 ≈ 1e-10 and truncation 1e-10
/// times a third derivative, hence 1e-6 with room for curved functions (batch normalisation of few
/// values).
pub fn check_gradients(
    inputs: &[Tensor],
    f: &dyn Fn(&[Tensor]) -> Result<Tensor>,
    seed: u64,
) -> Result<()> {
    const H: f64 = 1e-5;
    let (_, weight, grads) = gradients(inputs, f, seed)?;
    let loss =
        |inputs: &[Tensor]| -> Result<f64> { (f(inputs)? * &weight)?.sum_all()?.to_scalar() };
    for (i, (input, grad)) in inputs.iter().zip(&grads).enumerate() {
        assert_eq!(input.dims(), grad.dims());
        let (start, grad) = (values(input)?, values(grad)?);
        let size = grad.iter().fold(1f64, |m, v| m.max(v.abs()));
        for at in (0..start.len()).step_by(start.len().div_ceil(40).max(1)) {
            let moved = |by: f64| {
                let mut v = start.clone();
                v[at] += by;
                let mut inputs = inputs.to_vec();
                inputs[i] = Tensor::from_vec(v, input.dims(), &Device::Cpu)?;
                loss(&inputs)
            };
            let expected = (moved(H)? - moved(-H)?) / (2. * H);
            let error = (grad[at] - expected).abs() / size;
            assert!(
                error < 1e-6,
                "input {i} {:?} element {at}: gradient {}, difference quotient {expected}",
                input.dims(),
                grad[at]
            );
        }
    }
    Ok(())
}
