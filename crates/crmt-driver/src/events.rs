//! Training metrics as a TensorBoard event file, written while training runs.
//! Does not know what they measure.
use crate::{
    record::EpochMetrics,
    run_dir::{self, RunDir, make_folder},
};
use anyhow::{Context, Result};
use prost::Message;
use std::{
    fs::{self, File},
    io::Write,
    path::PathBuf,
    time::{SystemTime, UNIX_EPOCH},
};

/// `tensorflow.Event`, as far as it is used.
#[derive(Clone, PartialEq, Message)]
struct Event {
    #[prost(double, tag = "1")]
    wall_time: f64,
    #[prost(int64, tag = "2")]
    step: i64,
    #[prost(string, optional, tag = "3")]
    file_version: Option<String>,
    #[prost(message, optional, tag = "5")]
    summary: Option<Scalars>,
}

/// `tensorflow.Summary`.
#[derive(Clone, PartialEq, Message)]
struct Scalars {
    #[prost(message, repeated, tag = "1")]
    value: Vec<Scalar>,
}

/// `tensorflow.Summary.Value`.
#[derive(Clone, PartialEq, Message)]
struct Scalar {
    #[prost(string, tag = "1")]
    tag: String,
    #[prost(float, optional, tag = "2")]
    simple_value: Option<f32>,
}

/// How TensorBoard's files begin.
const OURS: &str = "events.out.tfevents.";

/// The event file of a run. TensorBoard follows it as it grows, so it is appended to.
pub struct Events {
    path: PathBuf,
    file: File,
}

impl Events {
    /// A new file in the place of all older ones of the run.
    pub fn create(run: &RunDir) -> Result<Self> {
        let dir = run.file(run_dir::EVENTS);
        make_folder(&dir)?;
        for entry in fs::read_dir(&dir)
            .with_context(|| format!("can't read {}", dir.display()))?
            .flatten()
        {
            let name = entry.file_name().to_string_lossy().into_owned();
            if name.starts_with(OURS) && name.ends_with(".crmt") {
                fs::remove_file(entry.path())
                    .with_context(|| format!("can't remove {}", entry.path().display()))?;
            }
        }
        // TensorBoard knows its files by the first part of their names, and sorts them by the
        // second.
        let path = dir.join(format!("{OURS}{:010}.crmt", now() as u64));
        let file =
            File::create_new(&path).with_context(|| format!("can't write {}", path.display()))?;
        let mut events = Self { path, file };
        let version = Some("brain.Event:2".to_owned());
        events.append(&Event {
            wall_time: now(),
            step: 0,
            file_version: version,
            summary: None,
        })?;
        Ok(events)
    }

    /// One epoch; its number is the step.
    pub fn epoch(&mut self, metrics: &EpochMetrics) -> Result<()> {
        let summary = Some(Scalars {
            value: scalars(metrics),
        });
        self.append(&Event {
            wall_time: now(),
            step: metrics.epoch as i64,
            file_version: None,
            summary,
        })
    }

    fn append(&mut self, event: &Event) -> Result<()> {
        let failed = || format!("can't write {}", self.path.display());
        self.file
            .write_all(&framed(&event.encode_to_vec()))
            .with_context(failed)?;
        self.file.flush().with_context(failed)
    }
}

fn scalars(m: &EpochMetrics) -> Vec<Scalar> {
    let scalar = |name: String, value: f64| Scalar {
        tag: format!("{}/{name}", m.phase),
        simple_value: Some(value as f32),
    };
    let mut all = vec![
        scalar("loss".into(), m.loss),
        scalar("learning rate".into(), m.learning_rate),
        scalar("selection/accuracy".into(), m.select_accuracy),
        scalar("seconds".into(), m.seconds),
    ];
    all.extend(
        m.select_attacked
            .map(|value| scalar("selection/attacked".into(), value)),
    );
    for (group, values) in [
        ("part", &m.parts),
        ("margin", &m.margins),
        ("gradient norm", &m.gradient_norms),
    ] {
        all.extend(
            values
                .iter()
                .map(|(name, value)| scalar(format!("{group}/{name}"), *value)),
        );
    }
    all
}

/// A TFRecord: length, its checksum, content, its checksum; all little-endian.
fn framed(content: &[u8]) -> Vec<u8> {
    let length = (content.len() as u64).to_le_bytes();
    [&length[..], &masked(&length), content, &masked(content)].concat()
}

/// CRC-32C, turned and shifted so that checksums of checksums are harmless.
fn masked(bytes: &[u8]) -> [u8; 4] {
    crc32c::crc32c(bytes)
        .rotate_right(15)
        .wrapping_add(0xa282_ead8)
        .to_le_bytes()
}

fn now() -> f64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0.0, |d| d.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_framed_as_tensorboard_does() {
        // Written by TensorBoard's own writer (tensorboard 2, `RecordWriter`) for
        // Event(wall_time=1, step=2, file_version="brain.Event:2").
        let event = Event {
            wall_time: 1.0,
            step: 2,
            file_version: Some("brain.Event:2".into()),
            summary: None,
        };
        let bytes = framed(&event.encode_to_vec());
        let hex: String = bytes.iter().map(|b| format!("{b:02x}")).collect();
        assert_eq!(hex, GOLDEN);
    }

    const GOLDEN: &str =
        "1a00000000000000129bd82d09000000000000f03f10021a0d627261696e2e4576656e743a32f46f53d8";
}
