//! Attacks a model of your own: two sensors, a small nonlinear network each, logits added.
//!
//! `cargo run -p crmt-attacks --example attack_my_model`
use candle_core::{Device, Tensor};
use crmt_attacks::{
    Attack, Averaged, Budget, Draws, Error, Goal, Pgd, Victim, accuracy, learn_baselines, run,
    strongest,
};
use crmt_core::{Batch, Classifier, Domain, Missing, Modality, PerModality, Streams};
use rand::Rng;

struct MyModel {
    modalities: PerModality<Modality>,
    layers: PerModality<(Tensor, Tensor)>,
}

impl Classifier for MyModel {
    fn modalities(&self) -> &PerModality<Modality> {
        &self.modalities
    }
    fn logits(&self, x: &PerModality<Tensor>) -> crmt_core::Result<Tensor> {
        let term = |m: usize| {
            x[m].matmul(&self.layers[m].0)?
                .tanh()?
                .matmul(&self.layers[m].1)
        };
        Ok((term(0)? + term(1)?)?)
    }
}

fn main() -> Result<(), Error> {
    let streams = Streams::new(7);
    let mut rng = streams.stream("weights and inputs", 0);
    let mut random = |shape: (usize, usize)| {
        let values: Vec<f32> = (0..shape.0 * shape.1)
            .map(|_| rng.random_range(-1. ..1.))
            .collect();
        Tensor::from_vec(values, shape, &Device::Cpu)
    };
    let model = MyModel {
        modalities: PerModality::from([
            Modality::new("camera", &[8], Domain::Interval { lo: -1., hi: 1. }),
            // A distance of 1 on the radar is half a unit of its array.
            Modality {
                scale: 0.5,
                ..Modality::new("radar", &[6], Domain::Unbounded)
            },
        ]),
        layers: PerModality::from([
            (random((8, 16))?, random((16, 4))?),
            (random((6, 16))?, random((16, 4))?),
        ]),
    };
    let inputs = PerModality::from([random((200, 8))?, random((200, 6))?]);
    let labels = model.logits(&inputs)?.argmax(1)?;
    println!(
        "clean accuracy {:.1} %",
        100. * accuracy(&model.logits(&inputs)?, &labels)?
    );
    let (goal, draws) = (Goal::Avoid(labels.clone()), Draws::new(streams, 0));
    let eps = [0.1, 0.3, 1.];
    println!(
        "{:14} {:>8} {:>8} {:>8}",
        "accuracy at", eps[0], eps[1], eps[2]
    );
    type Threat = fn(f64) -> Budget;
    let threats: [(&str, Threat); 3] = [
        ("joint", Budget::Joint),
        ("camera only", |e| Budget::only(0, 2, e)),
        ("radar only", |e| Budget::only(1, 2, e)),
    ];
    for (name, budget) in threats {
        let attacks = eps.map(|e| Box::new(Pgd::strong(budget(e))) as Box<dyn Attack>);
        let curve = strongest(
            &attacks.each_ref().map(Box::as_ref),
            &model,
            &inputs,
            &goal,
            &draws,
        )?;
        print!("{name:14}");
        (0..eps.len()).for_each(|k| print!(" {:>6.1} %", 100. * curve.standing(k)));
        println!("   {} forward passes a sample", curve.forwards / 200);
    }
    // One sensor missing, the other attacked: in its place the constant with which the model errs
    // least.
    let batch = Batch::new(inputs.clone(), labels)?;
    let means = inputs.try_map(|x| x.mean(0))?;
    let baselines = learn_baselines(&model, &batch, &means, 40)?;
    for missing in Missing::all(2) {
        let name = missing.describe(model.modalities());
        let victim = Victim::new(&model, Some(missing), &baselines)?;
        let outcome = run(
            &Pgd::strong(Budget::Joint(0.1)),
            &victim,
            &victim.part(&inputs),
            &goal,
            &draws,
        )?;
        println!(
            "without {name}, the other moved by 0.1: {:.1} %",
            100. * outcome.robust_accuracy()
        );
    }
    // A defence that adds noise and averages is attacked through the noise.
    let averaged = Averaged::new(&model, &PerModality::from([0.25, 0.25]), 16, streams)?;
    let outcome = run(
        &Pgd::strong(Budget::Joint(0.3)),
        &averaged,
        &inputs,
        &goal,
        &draws,
    )?;
    println!(
        "averaged over noise, moved by 0.3: {:.1} %",
        100. * outcome.robust_accuracy()
    );
    Ok(())
}
