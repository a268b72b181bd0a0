//! An attack on one modality computes the features of the others once, and finds what it would have
//! found.
use candle_core::{DType, Device, Tensor};
use crmt_attacks::{Apgd, Attack, Budget, Draws, Fab, Goal, Norm, Pgd, Square, run};
use crmt_core::{Classifier, Domain, Encoder, Layer, Modality, Mode, PerModality, Streams};
use crmt_encoders::{Block, Chain};
use crmt_fusion::{HeadConfig, Learner, ModelConfig, Remembering};
use rand::Rng;
use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

const SAMPLES: usize = 12;
const DIM: usize = 5;
const CLASSES: usize = 4;

/// Counts the samples it sees.
struct Counting {
    chain: Chain,
    seen: Arc<AtomicUsize>,
}

impl Encoder for Counting {
    fn out_dim(&self) -> usize {
        self.chain.out_dim()
    }
    fn encode(&self, x: &Tensor, mode: Mode) -> crmt_core::Result<Tensor> {
        self.seen.fetch_add(x.dim(0)?, Ordering::Relaxed);
        self.chain.encode(x, mode)
    }
    fn layers(&self) -> crmt_core::Result<Vec<Layer>> {
        self.chain.layers()
    }
}

fn learner(seen: &[Arc<AtomicUsize>; 2]) -> Learner {
    let modality = |name: &str| Modality::new(name, &[DIM], Domain::Unbounded);
    let build = |m: usize, _: &Modality, vb: candle_nn::VarBuilder| {
        let blocks = vec![
            Block::linear(&vb.pp("fc1"), DIM, 8)?,
            Block::Relu,
            Block::linear(&vb.pp("fc"), 8, 6)?,
        ];
        Ok(Box::new(Counting {
            chain: Chain::new(blocks, 6),
            seen: seen[m].clone(),
        }) as Box<dyn Encoder>)
    };
    let config = ModelConfig {
        head: HeadConfig::Concat,
        classes: CLASSES,
    };
    let modalities = PerModality::from([modality("a"), modality("b")]);
    Learner::new(&config, &modalities, &build, Streams::new(3), &Device::Cpu).expect("a model")
}

#[test]
fn an_attack_on_one_modality_looks_at_the_others_once() -> Result<(), Box<dyn std::error::Error>> {
    let seen = [(); 2].map(|()| Arc::new(AtomicUsize::new(0)));
    let learner = learner(&seen);
    let model = learner.model();
    let mut rng = Streams::new(5).stream("inputs", 0);
    let mut input = || {
        let values: Vec<f32> = (0..SAMPLES * DIM)
            .map(|_| rng.random_range(-1f32..1.))
            .collect();
        Tensor::from_vec(values, (SAMPLES, DIM), &Device::Cpu)
    };
    let inputs = PerModality::from([input()?, input()?]);
    let labels = model.logits(&inputs)?.argmax(1)?.to_dtype(DType::U32)?;
    let goal = Goal::Avoid(labels);
    let draws = Draws::new(Streams::new(1), 0);
    let only = |radius: f64| Budget::Each {
        norm: Norm::L2,
        radii: PerModality::from([radius, 0.0]),
    };
    // Nobody falls at the smaller budget, so that nothing is ever chosen from the batch; at the
    // greater some do.
    for (radius, fall) in [(1e-4, false), (1.0, true)] {
        let attacks: [Box<dyn Attack>; 4] = [
            Box::new(Pgd::strong(only(radius))),
            Box::new(Apgd::ce(only(radius)).with_steps(20)),
            Box::new(Fab::targeted(only(radius), 3)),
            Box::new(Square::new(only(radius), 50)),
        ];
        for attack in attacks {
            let count = |classifier: &dyn Classifier| -> Result<_, Box<dyn std::error::Error>> {
                seen.iter()
                    .for_each(|seen| seen.store(0, Ordering::Relaxed));
                let outcome = run(attack.as_ref(), classifier, &inputs, &goal, &draws)?;
                let points = outcome.adversarial.try_map(|x| x.to_vec2::<f32>())?;
                Ok((
                    points,
                    outcome.success,
                    seen.each_ref().map(|seen| seen.load(Ordering::Relaxed)),
                ))
            };
            let (points, success, plain) = count(model)?;
            let (same, also, remembering) = count(&Remembering::new(model))?;
            assert_eq!(
                success.contains(&true),
                fall,
                "{} at {radius}",
                attack.name()
            );
            assert_eq!(
                (points.as_slice(), &success),
                (same.as_slice(), &also),
                "{}",
                attack.name()
            );
            assert_eq!(plain[0], plain[1], "{}", attack.name());
            let most = if fall { plain[1] / 2 } else { 3 * SAMPLES };
            assert!(
                remembering[1] <= most,
                "{} at {radius}: {} of {}",
                attack.name(),
                remembering[1],
                plain[1]
            );
        }
    }
    Ok(())
}

#[test]
fn what_is_remembered_is_of_the_same_input() -> Result<(), Box<dyn std::error::Error>> {
    let seen = [(); 2].map(|()| Arc::new(AtomicUsize::new(0)));
    let learner = learner(&seen);
    let model = Remembering::new(learner.model());
    let input = |value: f32| Tensor::full(value, (2, DIM), &Device::Cpu);
    let first = PerModality::from([input(0.5)?, input(-0.5)?]);
    let logits = |inputs: &PerModality<Tensor>| -> Result<_, Box<dyn std::error::Error>> {
        let (own, plain) = (
            model.logits(inputs)?.to_vec2::<f32>()?,
            learner.model().logits(inputs)?.to_vec2::<f32>()?,
        );
        assert_eq!(own, plain);
        Ok(own)
    };
    let before = logits(&first)?;
    assert_ne!(
        logits(&PerModality::from([input(0.25)?, first[1].clone()]))?,
        before
    );
    assert_eq!(logits(&first)?, before);
    // An input that is followed for its gradient is computed anew: it may be changed in place.
    let var = candle_core::Var::from_tensor(&input(0.5)?)?;
    let followed = PerModality::from([var.as_tensor().clone(), first[1].clone()]);
    assert_eq!(logits(&followed)?, before);
    var.set(&input(0.75)?)?;
    assert_ne!(logits(&followed)?, before);
    assert!(
        model.logits(&PerModality::from([input(0.)?])).is_err(),
        "one input of two"
    );
    Ok(())
}
