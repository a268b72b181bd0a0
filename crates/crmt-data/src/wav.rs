//! Decodes mono 16-bit recordings at 8 kHz.
//! Does not know where they come from or what is said.
use crate::logmel::SAMPLE_RATE;
use std::io::Cursor;

/// Samples divided by 32768, in `-1..1`.
///
/// # Errors
/// Says what is wrong, in words: a format that is not mono, 16 bit, 8 kHz, or a file that is cut off.
pub fn decode_wav(bytes: &[u8]) -> Result<Vec<f64>, String> {
    let mut reader = hound::WavReader::new(Cursor::new(bytes)).map_err(|e| format!("not a readable wav file: {e}"))?;
    let spec = reader.spec();
    let pcm = spec.sample_format == hound::SampleFormat::Int && spec.bits_per_sample == 16;
    if spec.channels != 1 || spec.sample_rate != SAMPLE_RATE || !pcm {
        return Err(format!(
            "{} channel(s), {} bit, {} Hz; expected mono, 16-bit PCM, {SAMPLE_RATE} Hz",
            spec.channels, spec.bits_per_sample, spec.sample_rate
        ));
    }
    let expected = reader.len();
    let samples: Vec<f64> = reader.samples::<i16>().map_while(Result::ok).map(|s| f64::from(s) / 32768.).collect();
    if samples.len() != expected as usize {
        return Err(format!("truncated: the header promises {expected} samples, the file has {}", samples.len()));
    }
    if samples.is_empty() {
        return Err("holds no samples".into());
    }
    Ok(samples)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn file(rate: u32, channels: u16, samples: &[i16]) -> Vec<u8> {
        let spec = hound::WavSpec {
            channels,
            sample_rate: rate,
            bits_per_sample: 16,
            sample_format: hound::SampleFormat::Int,
        };
        let mut out = Cursor::new(vec![]);
        let mut writer = hound::WavWriter::new(&mut out, spec).expect("valid spec");
        samples.iter().for_each(|s| writer.write_sample(*s).expect("writes to memory"));
        writer.finalize().expect("writes to memory");
        out.into_inner()
    }

    #[test]
    fn samples_are_scaled() {
        assert_eq!(decode_wav(&file(8000, 1, &[0, 16384, -32768])), Ok(vec![0., 0.5, -1.]));
    }

    #[test]
    fn damage_is_named() {
        let whole = file(8000, 1, &[1; 100]);
        assert_eq!(
            decode_wav(&whole[..whole.len() - 61]),
            Err("truncated: the header promises 100 samples, the file has 69".into())
        );
        assert_eq!(
            decode_wav(&file(16000, 2, &[1; 4])),
            Err("2 channel(s), 16 bit, 16000 Hz; expected mono, 16-bit PCM, 8000 Hz".into())
        );
        assert_eq!(decode_wav(&file(8000, 1, &[])), Err("holds no samples".into()));
        assert!(decode_wav(b"RIFFxxxx").is_err_and(|e| e.starts_with("not a readable wav file")));
    }

    proptest! {
        #[test]
        fn random_and_mutated_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), at in 0usize..64, byte in any::<u8>(), cut in 0usize..64) {
            let _ = decode_wav(&bytes);
            let mut file = file(8000, 1, &[5; 10]);
            file[at] = byte;
            let _ = decode_wav(&file);
            let _ = decode_wav(&file[..cut]);
            let _ = decode_wav(&[&file[..12], &bytes[..]].concat());
        }
    }
}
