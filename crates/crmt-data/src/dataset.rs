//! A data set in memory: what every preparation produces and every run consumes.
//! Does not know files, and neither models nor what a batch is used for.
use crate::{
    Baseline, BatchError, Epoch, EpochPlan, Manifest, ManifestError, ModalitySpec, NamedBaseline,
    Pairing, PairingKind, PairingSpec, PreparedCorruption, Purpose, Samples, Split, SplitError,
    SplitPairings, Upload,
};
use candle_core::{Device, Tensor};
use crmt_core::{Batch, Modality, PerModality, Streams};

/// Three splits of labelled multi-modal samples.
///
/// ```
/// use crmt_core::Streams;
/// use crmt_data::{Array, DataSet, EpochPlan, Manifest, ModalitySpec, Pairing, Samples};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let sensors = vec![ModalitySpec::new("left", &[2]), ModalitySpec::new("right", &[1])];
/// let samples = Samples {
///     arrays: vec![Array::floats(&[2], vec![0., 1., 2., 3.])?, Array::floats(&[1], vec![5., 6.])?],
///     pairing: Pairing::Rows { labels: vec![0, 1] },
/// };
/// let data = DataSet::new(Manifest::new("pairs", ["no", "yes"], sensors), samples.clone(), samples.clone(), samples)?;
/// for batch in data.epoch(&Streams::new(0), 0, EpochPlan { samples: None, batch: 2 })? {
///     assert_eq!(batch?.inputs[0].dims(), [2, 2]);
/// }
/// assert_eq!(data.report.batch(0..1)?.inputs[1].to_vec2::<f32>()?, [[5.]]);
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct DataSet {
    /// Used in reports.
    pub name: String,
    /// Name, sample shape, domain and unit of each modality.
    pub modalities: PerModality<Modality>,
    /// What replaces each modality where it is missing: one sample each, `f32`, no batch dimension.
    pub baselines: PerModality<Tensor>,
    /// Class names; label `k` is `classes[k]`.
    pub classes: Vec<String>,
    /// Fits the parameters.
    pub train: Split,
    /// Chooses the epoch and the hyper-parameters.
    pub select: Split,
    /// Is reported, and chooses nothing.
    pub report: Split,
    /// What a reader of the results must know.
    pub notes: Vec<String>,
    pub(crate) manifest: Manifest,
    pub(crate) corruptions: Vec<PreparedCorruption>,
}

/// Why a data set can't be.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum DataSetError {
    /// The description is wrong.
    #[error("dataset.toml: {0}")]
    Manifest(#[from] ManifestError),
    /// A split is wrong, or contradicts the description.
    #[error(transparent)]
    Split(#[from] SplitError),
    /// A constant that the loader would put into samples is no valid value.
    #[error(
        "dataset.toml: modalities.{modality}.{key} puts {value} into samples, which is outside the range"
    )]
    Constant {
        /// Which modality.
        modality: String,
        /// The key that asks for it.
        key: &'static str,
        /// The value.
        value: f64,
    },
}

impl DataSet {
    /// Holds the samples against the description; the description's pairing becomes theirs.
    /// Corruptions come [later](Self::with_corruptions).
    ///
    /// # Errors
    /// Names the file (as it is called on disk) and the row, or the key, that is wrong.
    pub fn new(
        mut manifest: Manifest,
        train: Samples,
        select: Samples,
        report: Samples,
    ) -> Result<Self, DataSetError> {
        let kind = |samples: &Samples| match samples.pairing {
            Pairing::Rows { .. } => PairingKind::Rows,
            Pairing::Index { .. } => PairingKind::Index,
            Pairing::Class { .. } => PairingKind::Class,
        };
        let kinds = SplitPairings {
            train: kind(&train),
            select: kind(&select),
            report: kind(&report),
        };
        manifest.pairing = if kinds.train == kinds.select && kinds.select == kinds.report {
            PairingSpec::Every(kinds.train)
        } else {
            PairingSpec::Splits(kinds)
        };
        manifest
            .modalities
            .iter_mut()
            .for_each(|spec| spec.corruptions.clear());
        manifest.check()?;
        let train = Split::new(&manifest, Purpose::Train, train)?;
        let select = Split::new(&manifest, Purpose::Select, select)?;
        let report = Split::new(&manifest, Purpose::Report, report)?;
        let specs =
            PerModality::new(manifest.modalities.clone()).expect("checked: at least one modality");
        Ok(Self {
            name: manifest.name.clone(),
            modalities: specs.map(ModalitySpec::modality),
            baselines: specs.try_enumerate(|m, spec| baseline(spec, &train.arrays()[m]))?,
            classes: manifest.classes.clone(),
            notes: manifest.notes.clone(),
            train,
            select,
            report,
            manifest,
            corruptions: vec![],
        })
    }

    /// The description it was made with.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// The same data set, whose batches and baselines are on another device.
    ///
    /// # Errors
    /// The device has no memory left.
    pub fn on(mut self, upload: &Upload) -> crmt_core::Result<Self> {
        for split in [&mut self.train, &mut self.select, &mut self.report] {
            *split = split.through(upload);
        }
        self.baselines = self
            .baselines
            .try_map(|baseline| baseline.to_device(upload.device()))?;
        Ok(self)
    }

    /// Where its batches are.
    pub fn device(&self) -> &Device {
        self.train.device()
    }

    /// One pass over (a random part of) the training split in random order, drawn from the
    /// streams `shuffle`, `pairing` and `augment` at index `epoch`.
    ///
    /// # Errors
    /// When the plan asks for more samples than there are, or for batches that can't be filled.
    pub fn epoch(
        &self,
        streams: &Streams,
        epoch: u64,
        plan: EpochPlan,
    ) -> Result<Epoch<'_>, BatchError> {
        let shifts = self
            .manifest
            .modalities
            .iter()
            .map(|spec| spec.augment.shift_last_axis)
            .collect();
        Epoch::new(&self.train, shifts, streams, epoch, plan)
    }

    /// `n` distinct random training samples (all, when there are fewer) without augmentation, for
    /// estimates of Lipschitz constants; the same for every call with the same streams.
    pub fn train_sample(&self, streams: &Streams, n: usize) -> Result<Batch, BatchError> {
        crate::epoch::sample(&self.train, streams, n)
    }
}

fn baseline(spec: &ModalitySpec, train: &crate::Array) -> Result<Tensor, DataSetError> {
    let constant = |key, value: f64| {
        let inside = spec.modality().domain.contains(value);
        if inside {
            Ok(value)
        } else {
            Err(DataSetError::Constant {
                modality: spec.name.clone(),
                key,
                value,
            })
        }
    };
    if spec.augment.shift_last_axis > 0 {
        constant("augment.shift_last_axis", 0.)?;
    }
    let values = match spec.baseline {
        Baseline::Named(NamedBaseline::Mean) => {
            train.mean().into_iter().map(|v| v as f32).collect()
        }
        Baseline::Named(NamedBaseline::Zeros) => {
            vec![constant("baseline", 0.)? as f32; train.row_len()]
        }
        Baseline::Value(v) => {
            vec![constant("baseline", f64::from(v as f32))? as f32; train.row_len()]
        }
    };
    Ok(Tensor::from_vec(values, train.shape(), &Device::Cpu)
        .expect("as many values as the shape holds"))
}
