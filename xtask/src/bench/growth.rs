//! Which sizes a training step is measured at, and what the measurements amount to. Starts no
//! program.
use super::measure::{median, spread};
use serde_json::{Value, json};

/// What varies in one series while the rest stays as it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Axis {
    Batch,
    Width,
    Classes,
    Modalities,
    Threads,
}

impl Axis {
    pub const ALL: [Self; 5] = [
        Self::Batch,
        Self::Width,
        Self::Classes,
        Self::Modalities,
        Self::Threads,
    ];

    /// In a word.
    pub fn name(self) -> &'static str {
        match self {
            Self::Batch => "batch",
            Self::Width => "width",
            Self::Classes => "classes",
            Self::Modalities => "modalities",
            Self::Threads => "threads",
        }
    }

    /// As a plot's axis says it.
    pub fn label(self) -> &'static str {
        match self {
            Self::Batch => "batch (samples)",
            Self::Width => "width of the first layer (channels)",
            Self::Classes => "classes",
            Self::Modalities => "modalities",
            Self::Threads => "threads",
        }
    }
}

/// The sizes of one training step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sizes {
    pub batch: u32,
    pub width: u32,
    pub classes: u32,
    pub modalities: u32,
    pub threads: u32,
}

const CLASSES: [u32; 4] = [10, 30, 100, 300];
/// Width of the series of classes: an orthonormal head has at most as many classes as features,
/// which are eight for each channel of the first layer.
const WIDE: u32 = 64;

impl Sizes {
    /// Where all series but that of the classes meet.
    fn middle(threads: u32) -> Self {
        Self {
            batch: 64,
            width: 32,
            classes: 10,
            modalities: 2,
            threads,
        }
    }

    /// The flags of our program; threads go by the environment.
    pub fn flags(self) -> Vec<String> {
        let flags = [
            ("batch", self.batch),
            ("width", self.width),
            ("classes", self.classes),
            ("modalities", self.modalities),
        ];
        flags
            .iter()
            .flat_map(|(name, value)| [format!("--{name}"), value.to_string()])
            .collect()
    }

    fn json(self) -> Value {
        json!({
            "batch": self.batch,
            "width": self.width,
            "classes": self.classes,
            "modalities": self.modalities,
            "threads": self.threads,
        })
    }
}

/// The values of one series and the step at each.
pub fn series(axis: Axis, threads: u32, cores: u32) -> Vec<(u32, Sizes)> {
    let middle = Sizes::middle(threads);
    let at = |values: &[u32], sizes: &dyn Fn(u32) -> Sizes| {
        values.iter().map(|v| (*v, sizes(*v))).collect()
    };
    match axis {
        Axis::Batch => at(&[8, 16, 32, 64, 128, 256], &|batch| Sizes {
            batch,
            ..middle
        }),
        Axis::Width => at(&[8, 16, 32, 64], &|width| Sizes { width, ..middle }),
        Axis::Classes => at(&CLASSES, &|classes| Sizes {
            classes,
            width: WIDE,
            ..middle
        }),
        Axis::Modalities => at(&[1, 2, 3, 4], &|modalities| Sizes {
            modalities,
            ..middle
        }),
        Axis::Threads => at(&counts(cores), &|threads| Sizes { threads, ..middle }),
    }
}

/// From one to all cores; beyond eight, doubling.
pub fn counts(cores: u32) -> Vec<u32> {
    if cores <= 8 {
        return (1..=cores).collect();
    }
    let mut counts: Vec<u32> = std::iter::successors(Some(1u32), |n| n.checked_mul(2))
        .take_while(|n| *n < cores)
        .collect();
    counts.push(cores);
    counts
}

/// What the machine can do on some number of threads, in billions a second.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Roof {
    pub threads: u32,
    /// Floating-point operations, in products of matrices.
    pub gflops: f64,
    /// Bytes from and to memory.
    pub bandwidth: f64,
}

impl Roof {
    /// Billions of operations a second that this machine allows where each byte serves `intensity`
    /// of them.
    pub fn limit(&self, intensity: f64) -> f64 {
        self.gflops.min(self.bandwidth * intensity)
    }

    pub fn json(&self) -> Value {
        json!({ "threads": self.threads, "gemm_gflops": self.gflops, "bandwidth_gb_s": self.bandwidth })
    }
}

/// One step as measured.
#[derive(Debug, Clone, PartialEq)]
pub struct Point {
    pub axis: Axis,
    pub value: u32,
    pub sizes: Sizes,
    /// Milliseconds, one for each round.
    pub times: Vec<f64>,
    /// Of the convolutions, as a plain direct implementation needs them.
    pub flops: f64,
    pub bytes: f64,
}

impl Point {
    /// Milliseconds.
    pub fn time(&self) -> f64 {
        median(self.times.iter().copied())
    }

    /// Billions of operations a second.
    pub fn gflops(&self) -> f64 {
        self.flops / self.time() / 1e6
    }

    /// Operations for each byte.
    pub fn intensity(&self) -> f64 {
        self.flops / self.bytes
    }

    pub fn json(&self, roof: &Roof) -> Value {
        let (least, most) = spread(self.times.iter().copied());
        json!({
            "series": self.axis.name(),
            "value": self.value,
            "sizes": self.sizes.json(),
            "median_ms": self.time(),
            "least_ms": least,
            "greatest_ms": most,
            "conv_flops": self.flops,
            "conv_bytes": self.bytes,
            "gflops": self.gflops(),
            "intensity": self.intensity(),
            "share_of_gemm": self.gflops() / roof.gflops,
            "share_of_roof": self.gflops() / roof.limit(self.intensity()),
        })
    }
}

/// The exponent `p` of `cost ∝ value^p` that fits best, by least squares of the logarithms; `None`
/// for fewer than two values.
pub fn exponent(points: &[&Point], cost: fn(&Point) -> f64) -> Option<f64> {
    let logs: Vec<(f64, f64)> = points
        .iter()
        .map(|p| (f64::from(p.value).ln(), cost(p).ln()))
        .collect();
    let n = logs.len() as f64;
    let (x, y) = (
        logs.iter().map(|l| l.0).sum::<f64>() / n,
        logs.iter().map(|l| l.1).sum::<f64>() / n,
    );
    let variance: f64 = logs.iter().map(|l| (l.0 - x).powi(2)).sum();
    (variance > 0.).then(|| logs.iter().map(|l| (l.0 - x) * (l.1 - y)).sum::<f64>() / variance)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn point(value: u32, time: f64) -> Point {
        let sizes = Sizes::middle(2);
        Point {
            axis: Axis::Batch,
            value,
            sizes,
            times: vec![time, 9. * time, time],
            flops: 6e9,
            bytes: 2e8,
        }
    }

    #[test]
    fn every_series_varies_its_own_size_alone() {
        for axis in Axis::ALL {
            let series = series(axis, 2, 12);
            assert!(
                series.windows(2).all(|pair| pair[0].0 < pair[1].0),
                "{axis:?}"
            );
            let rest: Vec<Value> = series
                .iter()
                .map(|(value, sizes)| {
                    let mut sizes = sizes.json();
                    assert_eq!(sizes[axis.name()], *value, "{axis:?}");
                    sizes[axis.name()] = Value::Null;
                    sizes
                })
                .collect();
            assert!(
                rest.iter().all(|sizes| *sizes == rest[0]),
                "{axis:?} varies more than itself: {rest:?}"
            );
            assert!(
                series.iter().all(|(_, s)| s.classes <= 8 * s.width),
                "{axis:?}: too few features"
            );
        }
        assert_eq!(counts(1), [1]);
        assert_eq!(counts(3), [1, 2, 3]);
        assert_eq!(counts(12), [1, 2, 4, 8, 12]);
        assert_eq!(counts(16), [1, 2, 4, 8, 16]);
    }

    #[test]
    fn exponents_are_recovered() {
        let cubic = [point(2, 8.), point(3, 27.), point(10, 1000.)];
        // Three logarithms and a handful of products: rounding only.
        let fitted =
            exponent(&cubic.iter().collect::<Vec<_>>(), Point::time).expect("three values");
        assert!((fitted - 3.).abs() < 1e-12, "{fitted}");
        assert_eq!(
            exponent(&cubic.iter().collect::<Vec<_>>(), |point| point.flops),
            Some(0.)
        );
        assert_eq!(exponent(&[&cubic[0]], Point::time), None);
    }

    #[test]
    fn points_are_held_against_the_lower_roof() {
        let roof = Roof {
            threads: 2,
            gflops: 100.,
            bandwidth: 2.,
        };
        // 6e9 operations in 100 ms, 30 for each byte.
        let point = point(1, 100.);
        assert_eq!((point.gflops(), point.intensity()), (60., 30.));
        assert_eq!((roof.limit(30.), roof.limit(300.)), (60., 100.));
        let json = point.json(&roof);
        assert_eq!(
            (
                json["share_of_gemm"].as_f64(),
                json["share_of_roof"].as_f64()
            ),
            (Some(0.6), Some(1.))
        );
        assert_eq!(
            (json["median_ms"].as_f64(), json["greatest_ms"].as_f64()),
            (Some(100.), Some(900.))
        );
    }
}
