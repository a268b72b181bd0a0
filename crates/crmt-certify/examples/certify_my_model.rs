//! Certifies a model of your own: two sensors, a small network each, a linear head over both.
//!
//! `cargo run -p crmt-certify --example certify_my_model`
use candle_core::{DType, Device, Tensor};
use crmt_certify::{MarginCertifier, MarginConstants, audit};
use crmt_core::{Layer, PerModality, Streams};
use rand::Rng;

/// `B relu(A x)`.
struct MyEncoder {
    a: Tensor,
    b: Tensor,
}

impl MyEncoder {
    fn encode(&self, x: &Tensor) -> candle_core::Result<Tensor> {
        x.matmul(&self.a.t()?)?.relu()?.matmul(&self.b.t()?)
    }

    /// The same chain, as the auditor must be told: a certificate is as true as this description.
    fn layers(&self, name: &str) -> Vec<Layer> {
        vec![
            Layer::Linear {
                name: format!("{name}.a"),
                weight: self.a.clone(),
            },
            Layer::Fixed {
                name: "relu".into(),
                lipschitz: 1.,
            },
            Layer::Linear {
                name: format!("{name}.b"),
                weight: self.b.clone(),
            },
        ]
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    const CLASSES: usize = 4;
    let mut rng = Streams::new(7).stream("weights and inputs", 0);
    let mut random = |rows: usize, cols: usize| {
        // In f64: a certificate is a statement about real arithmetic.
        let values: Vec<f64> = (0..rows * cols)
            .map(|_| rng.random_range(-1. ..1.))
            .collect();
        Tensor::from_vec(values, (rows, cols), &Device::Cpu)
    };
    let encoders = PerModality::from([
        MyEncoder {
            a: random(16, 8)?,
            b: random(5, 16)?,
        },
        MyEncoder {
            a: random(16, 6)?,
            b: random(5, 16)?,
        },
    ]);
    let rows = PerModality::from([random(CLASSES, 5)?, random(CLASSES, 5)?]);
    let ones = Tensor::ones(CLASSES, DType::F64, &Device::Cpu)?;
    let inputs = PerModality::from([random(5, 8)?, random(5, 6)?]);

    let audits =
        encoders.try_enumerate(|m, encoder| audit(&encoder.layers(["camera", "radar"][m])))?;
    audits.iter().for_each(|audit| println!("{audit}\n"));
    let constants =
        MarginConstants::absorbed(&rows, &PerModality::from([ones.clone(), ones]), &audits)?;

    let part = |m: usize| encoders[m].encode(&inputs[m])?.matmul(&rows[m].t()?);
    let logits = (part(0)? + part(1)?)?;
    let predictions = logits.argmax(1)?.to_vec1::<u32>()?;
    let batch = MarginCertifier::new(constants).certify(&logits, &predictions)?;
    for certificate in batch.radii().certificates().iter().flatten() {
        let [camera, radar] = [certificate.unimodal()[0], certificate.unimodal()[1]];
        print!(
            "class {} stays within {:.4} of both inputs together",
            certificate.class(),
            certificate.joint()
        );
        println!(
            "; camera alone {camera:.4}, radar alone {radar:.4} ({:?})",
            certificate.evidence()
        );
    }
    Ok(())
}
