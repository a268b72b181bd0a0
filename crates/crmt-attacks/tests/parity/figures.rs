//! What parity.py measured.
//! Does not know how attacks work.
use candle_core::Tensor;
use crmt_attacks::{Budget, Norm};
use crmt_core::PerModality;
use serde_json::Value;

/// `figures.json`.
pub struct Figures {
    /// How many of the first test images.
    pub images: usize,
    /// Of the clean images, in percent.
    pub clean: f64,
    /// Of the first clean images, `[some, 10]`.
    pub logits: Tensor,
    /// One for each attack and budget.
    pub attacks: Vec<Figure>,
}

/// One attack at one budget.
pub struct Figure {
    /// Its name on both sides.
    pub attack: String,
    /// `l2` or `linf`.
    pub norm: String,
    /// Of the budget.
    pub eps: f64,
    /// Who measured it.
    pub tool: String,
    /// Robust accuracy in percent, one for each seed; one alone where nothing is random.
    pub accuracy: Vec<f64>,
    /// Of each image, with the first seed.
    pub stands: Vec<bool>,
}

impl Figures {
    /// `None` if the file is not what parity.py writes.
    pub fn load() -> Option<Self> {
        let all: Value = serde_json::from_str(include_str!("figures.json")).ok()?;
        let logits: Vec<f64> = all["logits"].as_array()?.iter().flat_map(numbers).collect();
        Some(Self {
            images: all["images"].as_u64()? as usize,
            clean: all["clean"].as_f64()?,
            logits: Tensor::from_vec(logits, ((), 10), &candle_core::Device::Cpu).ok()?,
            attacks: all["attacks"]
                .as_array()?
                .iter()
                .map(Figure::new)
                .collect::<Option<_>>()?,
        })
    }
}

impl Figure {
    fn new(value: &Value) -> Option<Self> {
        let text = |key: &str| Some(value[key].as_str()?.to_owned());
        let bits = |digit: char| {
            let digit = digit.to_digit(16).unwrap_or_default();
            [8, 4, 2, 1].map(|bit| digit & bit != 0)
        };
        Some(Self {
            attack: text("attack")?,
            norm: text("norm")?,
            eps: value["eps"].as_f64()?,
            tool: text("tool")?,
            accuracy: numbers(&value["accuracy"]),
            stands: text("stands")?.chars().flat_map(bits).collect(),
        })
    }

    /// Of the image.
    pub fn budget(&self) -> Budget {
        match self.norm.as_str() {
            "l2" => Budget::Joint(self.eps),
            _ => Budget::Each {
                norm: Norm::Linf,
                radii: PerModality::from([self.eps]),
            },
        }
    }
}

fn numbers(value: &Value) -> Vec<f64> {
    value
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_f64)
        .collect()
}
