//! How much memory a model of a plan, or the built-in data, would take: refused before it is asked
//! for. Does not know how either is made.
use super::{sections::SyntheticPlan, whole::Plan};
use anyhow::{Result, bail};
use crmt_core::{Modality, PerModality};
use crmt_encoders::EncoderConfig;

/// Bytes that training keeps for each parameter: weight, gradient, two moments of Adam and the best
/// so far, in f32.
const TRAINED: f64 = 5.0 * 4.0;

/// Where the system does not say, as much as the largest single machines have.
const UNKNOWN: f64 = 16.0 * (1u64 << 40) as f64;

impl Plan {
    /// Refuses a model that this machine can't hold, naming what makes it so large.
    pub fn check_size(&self, modalities: &PerModality<Modality>) -> Result<()> {
        check_size(self, modalities, memory())
    }
}

impl SyntheticPlan {
    /// Refuses more samples than this machine can hold.
    pub fn check_size(&self) -> Result<()> {
        // An image of 28x28 and a spectrogram of 32x32, in f32.
        let bytes =
            (self.train + self.select + self.report) as f64 * 4.0 * (28.0 * 28.0 + 32.0 * 32.0);
        if bytes > memory() {
            bail!(
                "synthetic.train, .select and .report: the samples need {}, this machine has {}",
                gib(bytes),
                gib(memory())
            );
        }
        Ok(())
    }
}

fn check_size(plan: &Plan, modalities: &PerModality<Modality>, memory: f64) -> Result<()> {
    for m in modalities {
        let encoder = plan.encoder(&m.name, &m.shape);
        let bytes = TRAINED * parameters(&encoder, &m.shape);
        if bytes > memory {
            bail!(
                "the encoder of {} needs {} to be trained, this machine has {}: lower {}",
                m.name,
                gib(bytes),
                gib(memory),
                keys(&encoder)
            );
        }
    }
    Ok(())
}

fn gib(bytes: f64) -> String {
    let gib = bytes / (1u64 << 30) as f64;
    if gib < 1e5 {
        format!("{gib:.1} GiB")
    } else {
        format!("{gib:.1e} GiB")
    }
}

/// Of the machine, in bytes.
fn memory() -> f64 {
    let told = std::fs::read_to_string("/proc/meminfo").ok();
    let kib = told.and_then(|text| {
        text.lines().find_map(|l| {
            l.strip_prefix("MemTotal:")?
                .trim()
                .strip_suffix(" kB")?
                .parse::<f64>()
                .ok()
        })
    });
    kib.map_or(UNKNOWN, |kib| 1024.0 * kib)
}

/// In floating point: the sizes that are asked for may overflow whole numbers.
fn parameters(encoder: &EncoderConfig, shape: &[usize]) -> f64 {
    let extent = |i: usize| shape.get(i).copied().unwrap_or(1) as f64;
    let inputs: f64 = shape.iter().map(|n| *n as f64).product();
    let chain = |sizes: &[f64]| sizes.windows(2).map(|pair| pair[0] * pair[1]).sum::<f64>();
    match encoder {
        EncoderConfig::Linear { features } => inputs * *features as f64,
        EncoderConfig::Mlp {
            width,
            depth,
            features,
        } => {
            let (width, features) = (*width as f64, *features as f64);
            inputs * width + (*depth as f64 - 1.0) * width * width + width * features
        }
        EncoderConfig::Cnn {
            width,
            depth,
            features,
            ..
        } => {
            let channels: Vec<f64> = std::iter::once(extent(0))
                .chain((0..*depth).map(|i| *width as f64 * 2f64.powi(i as i32)))
                .collect();
            let side = |i| (extent(i) / 2f64.powi(*depth as i32)).ceil();
            9.0 * chain(&channels) + channels[*depth] * side(1) * side(2) * *features as f64
        }
        EncoderConfig::Lipschitz {
            width,
            blocks,
            hidden,
            features,
        } => {
            let (width, blocks) = (*width as f64, *blocks as f64);
            let dense = hidden.iter().chain([features]).map(|n| *n as f64);
            let (before, units) = match shape.len() {
                1 => (inputs * width + blocks * width * width, width),
                _ => {
                    let stages = 4.0 * extent(0) * width
                        + 8.0 * width * width
                        + blocks * 5.0 * width * width;
                    (
                        9.0 * stages,
                        8.0 * width * (inputs / extent(0) / 64.0).ceil(),
                    )
                }
            };
            before + chain(&std::iter::once(units).chain(dense).collect::<Vec<_>>())
        }
        EncoderConfig::Memory { encoder, slots } => {
            let features = match &**encoder {
                EncoderConfig::Linear { features }
                | EncoderConfig::Mlp { features, .. }
                | EncoderConfig::Cnn { features, .. }
                | EncoderConfig::Lipschitz { features, .. } => *features,
                _ => 512,
            };
            parameters(encoder, shape) + (slots * features) as f64
        }
        // Eleven million, whatever the input.
        _ => 1.2e7,
    }
}

/// The settings that its size depends on.
fn keys(encoder: &EncoderConfig) -> &'static str {
    match encoder {
        EncoderConfig::Linear { .. } => "model.features",
        EncoderConfig::Mlp { .. } => "model.mlp_width, model.mlp_depth or model.features",
        EncoderConfig::Cnn { .. } => "model.cnn_width, model.cnn_depth or model.features",
        EncoderConfig::Lipschitz { .. } => {
            "model.lipschitz_width, model.lipschitz_blocks, model.lipschitz_hidden or model.features"
        }
        EncoderConfig::Memory { encoder, .. } => keys(encoder),
        _ => "the samples' size",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crmt_core::Domain;

    #[test]
    fn a_model_that_no_machine_holds_is_refused_with_its_size() {
        let image = PerModality::from([Modality::new("image", &[1, 28, 28], Domain::Unbounded)]);
        let vector = PerModality::from([Modality::new("pen", &[16], Domain::Unbounded)]);
        let gib = (1u64 << 30) as f64;
        let refused = |change: &dyn Fn(&mut Plan), modalities, memory: f64| {
            let mut plan = Plan::default();
            change(&mut plan);
            check_size(&plan, modalities, memory)
                .err()
                .map(|e| e.to_string())
                .unwrap_or_default()
        };
        assert_eq!(refused(&|_| (), &image, gib), "");
        // 9 + 9 · (32·64 + 64·128 + 128·256) · 20 bytes are 8 MB.
        assert!(refused(&|_| (), &image, 4e6).contains("needs 0.0 GiB to be trained"));
        let wide = |plan: &mut Plan| (plan.model.cnn_width, plan.model.cnn_depth) = (65536, 16);
        assert!(
            refused(&wide, &image, 1e15)
                .contains("lower model.cnn_width, model.cnn_depth or model.features")
        );
        // Two layers of 65536 to themselves and one to 128 features: 4.3e9 parameters, 80.2 GiB.
        let mlp = |plan: &mut Plan| plan.model.mlp_width = 65536;
        let message = refused(&mlp, &vector, 64.0 * gib);
        assert!(
            message.starts_with(
                "the encoder of pen needs 80.2 GiB to be trained, this machine has 64.0 GiB"
            ),
            "{message}"
        );
        assert_eq!(refused(&mlp, &vector, 128.0 * gib), "");
    }

    #[test]
    fn the_size_of_the_machine_is_known_where_the_system_says_it() {
        if cfg!(target_os = "linux") {
            assert!((1e8..1e14).contains(&memory()), "{}", memory());
        }
    }
}
