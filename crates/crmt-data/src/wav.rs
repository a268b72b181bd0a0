//! Decodes mono 16-bit recordings at 8 kHz.
//! Does not know where they come from or what is said.
use crate::logmel::SAMPLE_RATE;
use std::io::Cursor;

/// Samples divided by 32768, in `-1..1`.
///
/// # Errors
/// Says what is wrong, in words: a format that is not mono, 16 bit, 8 kHz, or a file that is cut
/// off.
pub fn decode_wav(bytes: &[u8]) -> Result<Vec<f64>, String> {
    let (format, data) = chunks(bytes)?;
    let plain = rebuilt(format, data);
    let mut reader = hound::WavReader::new(Cursor::new(plain))
        .map_err(|e| format!("not a readable wav file: {e}"))?;
    let spec = reader.spec();
    let pcm = spec.sample_format == hound::SampleFormat::Int && spec.bits_per_sample == 16;
    if spec.channels != 1 || spec.sample_rate != SAMPLE_RATE || !pcm {
        return Err(format!(
            "{} channel(s), {} bit{}, {} Hz; expected mono, 16-bit PCM, {SAMPLE_RATE} Hz",
            spec.channels,
            spec.bits_per_sample,
            if spec.sample_format == hound::SampleFormat::Float {
                " float"
            } else {
                ""
            },
            spec.sample_rate
        ));
    }
    if data.is_empty() {
        return Err("holds no samples".into());
    }
    reader
        .samples::<i16>()
        .map(|s| s.map(|s| f64::from(s) / 32768.))
        .collect::<Result<_, _>>()
        .map_err(|e| e.to_string())
}

/// What a program writes as the length of data that it does not know yet, into a pipe.
const UNKNOWN: u32 = u32::MAX;

/// The contents of the chunks `fmt ` and `data`; all others are passed over. A chunk of odd length
/// is followed by a byte that does not count, as RIFF demands and `hound` does not know.
fn chunks(bytes: &[u8]) -> Result<(&[u8], &[u8]), String> {
    match bytes.get(..4) {
        Some(b"RIFF") if bytes.get(8..12) == Some(b"WAVE") => {}
        Some(b"RIFX") => return Err("RIFX: its numbers are big-endian; expected RIFF".into()),
        Some(b"RF64" | b"BW64") => return Err("RF64, for files beyond 4 GiB; expected RIFF".into()),
        _ => return Err("not a readable wav file: it does not begin with RIFF and WAVE".into()),
    }
    let (mut rest, mut format) = (&bytes[12..], None);
    while let Some((head, body)) = rest.split_first_chunk::<8>() {
        let (name, length) = head.split_at(4);
        let promised = u32::from_le_bytes(length.try_into().expect("four bytes"));
        let body_len = promised as usize;
        match name {
            b"data" => {
                let format =
                    format.ok_or("its chunk `data` comes before `fmt `, which describes it")?;
                let data = match body.get(..body_len) {
                    Some([]) if body.len() > 1 => {
                        let problem = "its chunk `data` says 0 bytes, and more follow: whoever wrote it never came to the end";
                        return Err(problem.into());
                    }
                    Some(data) => data,
                    None if promised == UNKNOWN => body,
                    None => {
                        let (promised, found) = (body_len / 2, body.len() / 2);
                        return Err(format!(
                            "truncated: the header promises {promised} samples, the file has {found}"
                        ));
                    }
                };
                return Ok((format, data));
            }
            b"fmt " => {
                format = Some(
                    body.get(..body_len)
                        .ok_or("truncated in its chunk `fmt `")?,
                )
            }
            _ => {}
        }
        let next = body_len
            .checked_add(body_len % 2)
            .and_then(|n| body.get(n..));
        let name = name.escape_ascii();
        rest = next.ok_or_else(|| {
            format!("truncated or damaged: its chunk `{name}` says {promised} bytes")
        })?;
    }
    Err("truncated: it has no chunk `data`".into())
}

/// The same recording with nothing but these two chunks.
fn rebuilt(format: &[u8], data: &[u8]) -> Vec<u8> {
    let mut bytes = b"RIFF\0\0\0\0WAVE".to_vec();
    for (name, body) in [(b"fmt ", format), (b"data", data)] {
        bytes.extend_from_slice(name);
        bytes.extend((body.len() as u32).to_le_bytes());
        bytes.extend_from_slice(body);
    }
    let length = bytes.len() as u32 - 8;
    bytes[4..8].copy_from_slice(&length.to_le_bytes());
    bytes
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
        samples
            .iter()
            .for_each(|s| writer.write_sample(*s).expect("writes to memory"));
        writer.finalize().expect("writes to memory");
        out.into_inner()
    }

    /// 3 samples; the header of `data` is at byte 36, its length at 40.
    fn plain() -> Vec<u8> {
        file(8000, 1, &[0, 16384, -32768])
    }

    const DECODED: [f64; 3] = [0., 0.5, -1.];

    #[test]
    fn samples_are_scaled() {
        assert_eq!(decode_wav(&plain()), Ok(DECODED.to_vec()));
    }

    #[test]
    fn other_chunks_are_passed_over_with_their_pad_bytes() {
        for (name, body) in [(b"LIST", &b"odd"[..]), (b"fact", b"even"), (b"junk", b"")] {
            let pad = vec![0; body.len() % 2];
            let chunk = [name, &(body.len() as u32).to_le_bytes()[..], body, &pad].concat();
            for at in [12, 36] {
                let plain = plain();
                let with = [&plain[..at], &chunk, &plain[at..]].concat();
                assert_eq!(decode_wav(&with), Ok(DECODED.to_vec()), "{name:?} at {at}");
            }
            assert_eq!(
                decode_wav(&[plain(), chunk].concat()),
                Ok(DECODED.to_vec()),
                "{name:?} at the end"
            );
        }
    }

    #[test]
    fn an_extensible_header_is_read() {
        let mut format = plain()[20..36].to_vec();
        format[..2].copy_from_slice(&0xfffe_u16.to_le_bytes());
        // Extension of 22 bytes, 16 valid bits, speakers, then the GUID of PCM.
        format.extend([
            22, 0, 16, 0, 4, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0x10, 0, 0x80, 0, 0, 0xaa, 0, 0x38, 0x9b,
            0x71,
        ]);
        assert_eq!(
            decode_wav(&rebuilt(&format, &plain()[44..])),
            Ok(DECODED.to_vec())
        );
    }

    #[test]
    fn data_of_unknown_length_are_read_to_the_end_and_unfinished_ones_refused() {
        let with_length = |length: u32| {
            let mut bytes = plain();
            bytes[40..44].copy_from_slice(&length.to_le_bytes());
            decode_wav(&bytes)
        };
        assert_eq!(with_length(u32::MAX), Ok(DECODED.to_vec()));
        assert!(with_length(0).is_err_and(|e| e.contains("says 0 bytes, and more follow")));
        assert!(
            with_length(8)
                .is_err_and(|e| e == "truncated: the header promises 4 samples, the file has 3")
        );
        assert!(with_length(5).is_err(), "half a sample");
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
        assert_eq!(
            decode_wav(&file(8000, 1, &[])),
            Err("holds no samples".into())
        );
        assert!(decode_wav(b"RIFFxxxx").is_err_and(|e| e.starts_with("not a readable wav file")));
        assert!(decode_wav(&whole[..30]).is_err_and(|e| e == "truncated in its chunk `fmt `"));
        assert!(decode_wav(&whole[..40]).is_err_and(|e| e == "truncated: it has no chunk `data`"));
        for (from, to, expected) in [
            (0, &b"RIFX"[..], "RIFX: its numbers are big-endian"),
            (0, b"RF64", "RF64, for files beyond 4 GiB"),
            (12, b"data", "its chunk `data` comes before `fmt `"),
            // 8 bits, and A-law.
            (
                28,
                &[0x40, 0x1f, 0, 0, 1, 0, 8, 0],
                "1 channel(s), 8 bit, 8000 Hz",
            ),
            (20, &[6, 0], "not a readable wav file"),
        ] {
            let mut bytes = plain();
            bytes[from..from + to.len()].copy_from_slice(to);
            let got = decode_wav(&bytes).expect_err("refused");
            assert!(got.starts_with(expected), "{got}");
        }
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
