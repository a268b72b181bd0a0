//! Smooths a classifier nobody can look into: two sensors in, a class out, a confident certificate
//! for each sample.
//!
//! `cargo run -p crmt-certify --example smooth_a_black_box`
use candle_core::{DType, Device, Tensor};
use crmt_certify::{Smoothing, Votes, WeightsHash};
use crmt_core::{Classifier, Domain, Modality, PerModality, Streams};
use std::{error::Error, ops::ControlFlow};

/// Votes like a committee of rules: no scores, no gradient, not additive.
struct BlackBox {
    modalities: PerModality<Modality>,
}

impl Classifier for BlackBox {
    fn modalities(&self) -> &PerModality<Modality> {
        &self.modalities
    }

    fn logits(&self, x: &PerModality<Tensor>) -> crmt_core::Result<Tensor> {
        let (lidar, sonar) = (x[0].mean_keepdim(1)?, x[1].mean_keepdim(1)?);
        let near = lidar
            .gt(0f64)?
            .to_dtype(DType::F64)?
            .mul(&sonar.gt(-0.5)?.to_dtype(DType::F64)?)?;
        Ok(Tensor::cat(&[&near, &near.affine(-1., 1.)?], 1)?)
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let sensor = |name: &str| Modality::new(name, &[4], Domain::Unbounded);
    let model = BlackBox {
        modalities: PerModality::from([sensor("lidar"), sensor("sonar")]),
    };
    let samples = |values: [f64; 3]| {
        let rows: Vec<f64> = values.iter().flat_map(|v| [*v; 4]).collect();
        Tensor::from_vec(rows, (3, 4), &Device::Cpu)
    };
    let inputs = PerModality::from([samples([0.8, -0.6, 0.0])?, samples([0.5, 0.4, 2.0])?]);

    // More noise where the sensor is robust. This model and two more (one for each sensor missing)
    // share alpha.
    let smoothing = Smoothing::new(PerModality::from([0.5, 1.0]))?
        .draws(100, 10_000)
        .one_of(3);
    let smoothing = smoothing.for_weights(WeightsHash::new("rules, version 1"));
    let mut votes: Vec<Votes> = (0..3).map(Votes::new).collect();
    let _ = smoothing.run(
        &model,
        &inputs,
        &Streams::new(7),
        &mut votes,
        4096,
        |_, done, total| {
            eprintln!("{done} of {total} draws"); // the votes so far may be saved here, and the run resumed from them
            ControlFlow::Continue(())
        },
    )?;
    for vote in &votes {
        let Some(c) = smoothing.certificate(vote)? else {
            println!(
                "sample {}: abstains, {:?} is no majority to rely on",
                vote.id, vote.estimation
            );
            continue;
        };
        let [lidar, sonar] = [c.unimodal()[0], c.unimodal()[1]];
        print!(
            "sample {}: class {}, {:?}, both within {:.3}",
            vote.id,
            c.class(),
            c.evidence(),
            c.joint()
        );
        println!(
            "; lidar alone {lidar:.3}, sonar alone {sonar:.3}; 0.2 and 0.4: {}",
            c.contains(&[0.2, 0.4].into())?
        );
    }
    Ok(())
}
