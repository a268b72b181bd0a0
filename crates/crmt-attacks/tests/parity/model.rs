//! The stored network on candle, and the images it is attacked on.
//! Does not know attacks.
use candle_core::{Device, Tensor};
use crmt_core::{Classifier, Domain, Modality, PerModality};
use crmt_kernels::{Algorithms, KernelCache, NetworkLayer, image_network};
use flate2::read::GzDecoder;
use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

/// `Net` of parity.py.
pub struct Net {
    modalities: PerModality<Modality>,
    parameters: HashMap<String, Tensor>,
    convolutions: Vec<NetworkLayer>,
}

impl Net {
    /// From `model.safetensors`.
    pub fn load() -> candle_core::Result<Self> {
        let image = Modality::new("image", &[1, 28, 28], Domain::Interval { lo: 0., hi: 1. });
        let parameters = candle_core::safetensors::load_buffer(
            include_bytes!("model.safetensors"),
            &Device::Cpu,
        )?;
        let convolution = |name: &str| NetworkLayer::Conv2d {
            kernel: parameters[&format!("{name}.weight")].clone(),
            bias: Some(parameters[&format!("{name}.bias")].clone()),
            stride: 1,
            padding: 1,
            cache: KernelCache::default(),
        };
        let convolutions = vec![
            convolution("conv1"),
            NetworkLayer::Relu,
            convolution("conv2"),
            NetworkLayer::Relu,
        ];
        Ok(Self {
            modalities: PerModality::from([image]),
            parameters,
            convolutions,
        })
    }
}

impl Classifier for Net {
    fn modalities(&self) -> &PerModality<Modality> {
        &self.modalities
    }
    fn logits(&self, x: &PerModality<Tensor>) -> crmt_core::Result<Tensor> {
        let p = |name: &str| &self.parameters[name];
        // The pixels of a tile become channels, row by row.
        let x = x[0]
            .reshape(((), 7, 4, 7, 4))?
            .permute((0, 2, 4, 1, 3))?
            .reshape(((), 16, 7, 7))?;
        let x = image_network(&x, &self.convolutions, Algorithms::Fastest)?;
        Ok(x.flatten_from(1)?
            .matmul(&p("linear.weight").t()?)?
            .broadcast_add(p("linear.bias"))?)
    }
}

/// The first test images of MNIST, `[count, 1, 28, 28]` in 0..=1, and their labels; `None`, said
/// aloud, where the files are not: in the folder that `CRMT_DATA` names, by default
/// `../shared/data` beside the repository.
pub fn images(count: usize) -> io::Result<Option<(Tensor, Vec<u32>)>> {
    let default = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/data");
    let folder = std::env::var_os("CRMT_DATA")
        .map_or(default, PathBuf::from)
        .join("mnist");
    if !folder.is_dir() {
        eprintln!("SKIPPED: no MNIST in {}; set CRMT_DATA", folder.display());
        return Ok(None);
    }
    let values = |name: &str, header: usize, len: usize| {
        let mut bytes = vec![0; header + len];
        GzDecoder::new(File::open(folder.join(name))?).read_exact(&mut bytes)?;
        Ok::<_, io::Error>(bytes.split_off(header))
    };
    let pixels = values("t10k-images-idx3-ubyte.gz", 16, count * 28 * 28)?;
    let labels = values("t10k-labels-idx1-ubyte.gz", 8, count)?;
    let pixels: Vec<f32> = pixels.into_iter().map(|p| f32::from(p) / 255.).collect();
    let x = Tensor::from_vec(pixels, (count, 1, 28, 28), &Device::Cpu).map_err(io::Error::other)?;
    Ok(Some((x, labels.into_iter().map(u32::from).collect())))
}
