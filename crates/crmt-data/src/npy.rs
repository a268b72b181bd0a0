//! Reads and writes NumPy's `.npy` format, versions 1 to 3 (`numpy.lib.format`).
//! Does not know what an array means; refuses what it can't read exactly, and says what to do.
use std::io::{self, Write};

/// A row-major array as stored.
#[derive(Debug, Clone, PartialEq)]
pub struct Npy {
    /// Extent of each axis.
    pub shape: Vec<usize>,
    /// The values, row-major.
    pub values: NpyValues,
}

/// Element types that are read.
#[derive(Debug, Clone, PartialEq)]
pub enum NpyValues {
    /// `uint8` and `bool`.
    U8(Vec<u8>),
    /// `float16` (exactly), `float32` and `float64` (rounded).
    F32(Vec<f32>),
    /// Every other integer type.
    I64(Vec<i64>),
}

/// Why bytes are not a readable `.npy` array.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NpyError {
    /// The magic string is missing.
    #[error("not a .npy file (it does not start with \\x93NUMPY)")]
    Magic,
    /// A format version that does not exist.
    #[error("unknown .npy format version {0}")]
    Version(u8),
    /// The header is cut off or malformed.
    #[error("malformed .npy header: {0}")]
    Header(&'static str),
    /// An element type that is not read.
    #[error(
        "element type `{0}` is not supported; save float16/32/64, (u)int8…64 or bool, little-endian, e.g. x.astype('<f4')"
    )]
    Dtype(String),
    /// Column-major data.
    #[error("array is in Fortran order; save np.ascontiguousarray(x)")]
    Fortran,
    /// The data are shorter or longer than the header says.
    #[error("header promises {expected} bytes of data, the file has {got}: truncated or damaged")]
    Length {
        /// By shape and element type.
        expected: usize,
        /// What follows the header.
        got: usize,
    },
    /// An unsigned integer above `i64::MAX`.
    #[error("integer {0} is too large")]
    Integer(u64),
}

impl Npy {
    /// Parses a whole file.
    pub fn parse(bytes: &[u8]) -> Result<Self, NpyError> {
        let rest = bytes.strip_prefix(b"\x93NUMPY").ok_or(NpyError::Magic)?;
        let (&[major, _minor], rest) = rest.split_first_chunk().ok_or(NpyError::Header("cut off"))?;
        let (header_len, rest) = match major {
            1 => rest.split_first_chunk().map(|(n, rest)| (usize::from(u16::from_le_bytes(*n)), rest)),
            2 | 3 => rest.split_first_chunk().map(|(n, rest)| (u32::from_le_bytes(*n) as usize, rest)),
            _ => return Err(NpyError::Version(major)),
        }
        .ok_or(NpyError::Header("cut off"))?;
        let (header, data) = rest.split_at_checked(header_len).ok_or(NpyError::Header("cut off"))?;
        let header = Header::parse(header)?;
        if header.fortran_order {
            return Err(NpyError::Fortran);
        }
        Ok(Self { values: decode(&header, data)?, shape: header.shape })
    }
}

/// Writes `.npy` version 1: a header for `descr` (e.g. `<f4`) and `shape`, padded to 64 bytes, then `data`.
pub fn write_npy(mut out: impl Write, descr: &str, shape: &[usize], data: impl Iterator<Item = u8>) -> io::Result<()> {
    let axes: String = shape.iter().map(|n| format!("{n}, ")).collect();
    let mut header = format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': ({}), }}", axes.trim_end());
    let unpadded = 10 + header.len() + 1;
    header.extend(std::iter::repeat_n(' ', unpadded.next_multiple_of(64) - unpadded));
    header.push('\n');
    let len = u16::try_from(header.len()).map_err(|_| io::Error::other("too many axes for a .npy header"))?;
    out.write_all(b"\x93NUMPY\x01\x00")?;
    out.write_all(&len.to_le_bytes())?;
    out.write_all(header.as_bytes())?;
    let mut block = Vec::with_capacity(1 << 16);
    for byte in data {
        block.push(byte);
        if block.len() == block.capacity() {
            out.write_all(&block)?;
            block.clear();
        }
    }
    out.write_all(&block)
}

fn decode(header: &Header, data: &[u8]) -> Result<NpyValues, NpyError> {
    let unsupported = || NpyError::Dtype(header.descr.clone());
    let (order, kind) = header.descr.split_at_checked(1).ok_or_else(unsupported)?;
    let size: usize = kind.get(1..).and_then(|n| n.parse().ok()).ok_or_else(unsupported)?;
    if !(order == "<" || order == "|" || (order == "=" && cfg!(target_endian = "little"))) {
        return Err(unsupported());
    }
    let count = header.shape.iter().try_fold(1usize, |n, d| n.checked_mul(*d));
    let expected = count.and_then(|n| n.checked_mul(size)).ok_or(NpyError::Header("shape overflows"))?;
    if expected != data.len() {
        return Err(NpyError::Length { expected, got: data.len() });
    }
    macro_rules! ints {
        ($t:ty) => {
            NpyValues::I64(elements(data).map(|b| i64::from(<$t>::from_le_bytes(b))).collect())
        };
    }
    Ok(match kind {
        "u1" | "b1" => NpyValues::U8(data.to_vec()),
        "i1" => ints!(i8),
        "u2" => ints!(u16),
        "i2" => ints!(i16),
        "u4" => ints!(u32),
        "i4" => ints!(i32),
        "i8" => ints!(i64),
        "u8" => NpyValues::I64(
            elements(data)
                .map(|b| u64::from_le_bytes(b).try_into().map_err(|_| NpyError::Integer(u64::from_le_bytes(b))))
                .collect::<Result<_, _>>()?,
        ),
        "f2" => NpyValues::F32(elements(data).map(|b| f16_to_f32(u16::from_le_bytes(b))).collect()),
        "f4" => NpyValues::F32(elements(data).map(f32::from_le_bytes).collect()),
        "f8" => NpyValues::F32(elements(data).map(|b| f64::from_le_bytes(b) as f32).collect()),
        _ => return Err(unsupported()),
    })
}

fn elements<const N: usize>(data: &[u8]) -> impl Iterator<Item = [u8; N]> {
    data.as_chunks::<N>().0.iter().copied()
}

/// IEEE 754 binary16 to binary32, exact.
fn f16_to_f32(bits: u16) -> f32 {
    let sign = if bits >> 15 == 1 { -1. } else { 1. };
    let (exponent, fraction) = (i32::from(bits >> 10 & 31), f32::from(bits & 1023));
    sign * match exponent {
        0 => fraction * 2f32.powi(-24),
        31 if fraction == 0. => f32::INFINITY,
        31 => f32::NAN,
        _ => (1. + fraction / 1024.) * 2f32.powi(exponent - 15),
    }
}

/// The header: a Python dictionary literal with exactly three known keys.
struct Header {
    descr: String,
    fortran_order: bool,
    shape: Vec<usize>,
}

impl Header {
    fn parse(bytes: &[u8]) -> Result<Self, NpyError> {
        let bad = NpyError::Header;
        let text = str::from_utf8(bytes).map_err(|_| bad("not text"))?.trim();
        let mut rest = text.strip_prefix('{').and_then(|t| t.strip_suffix('}')).ok_or(bad("no dictionary"))?.trim();
        let (mut descr, mut fortran_order, mut shape) = (None, None, None);
        while !rest.is_empty() {
            let (key, after) = quoted(rest).ok_or(bad("expected a quoted key"))?;
            let value = after.trim_start().strip_prefix(':').ok_or(bad("expected `:` after a key"))?.trim_start();
            let after = match key {
                "descr" => {
                    // A list here is a structured array.
                    let (text, after) =
                        quoted(value).ok_or_else(|| NpyError::Dtype(value.chars().take(40).collect()))?;
                    descr = Some(text.to_owned());
                    after
                }
                "fortran_order" => {
                    let word = ["True", "False"].into_iter().find(|w| value.starts_with(w));
                    let word = word.ok_or(bad("fortran_order is neither True nor False"))?;
                    fortran_order = Some(word == "True");
                    &value[word.len()..]
                }
                "shape" => {
                    let (axes, after) =
                        value.strip_prefix('(').and_then(|v| v.split_once(')')).ok_or(bad("shape is not a tuple"))?;
                    let axes = axes.split(',').map(str::trim).filter(|a| !a.is_empty());
                    let axes = axes.map(|a| a.trim_end_matches('L').parse()).collect::<Result<Vec<usize>, _>>();
                    shape = Some(axes.map_err(|_| bad("shape holds something else than sizes"))?);
                    after
                }
                _ => return Err(bad("unknown key")),
            };
            let after = after.trim_start();
            rest = match after.strip_prefix(',') {
                Some(next) => next.trim_start(),
                None if after.is_empty() => after,
                None => return Err(bad("expected `,` between entries")),
            };
        }
        match (descr, fortran_order, shape) {
            (Some(descr), Some(fortran_order), Some(shape)) => Ok(Self { descr, fortran_order, shape }),
            _ => Err(bad("descr, fortran_order or shape is missing")),
        }
    }
}

/// The contents of the quoted string that `text` starts with, and what follows it.
fn quoted(text: &str) -> Option<(&str, &str)> {
    let quote = text.chars().next().filter(|c| matches!(c, '\'' | '"'))?;
    text[1..].split_once(quote)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn file(header: &str, data: &[u8]) -> Vec<u8> {
        let len = u16::try_from(header.len()).expect("short").to_le_bytes();
        [b"\x93NUMPY\x01\x00", &len[..], header.as_bytes(), data].concat()
    }

    fn f32_file() -> Vec<u8> {
        let mut out = vec![];
        let data = [1f32, -2.5, f32::NAN, 4., 5., 6.];
        write_npy(&mut out, "<f4", &[3, 2], data.iter().flat_map(|v| v.to_le_bytes())).expect("writes to memory");
        out
    }

    #[test]
    fn written_arrays_are_read_back() {
        let npy = Npy::parse(&f32_file()).expect("valid");
        assert_eq!(npy.shape, [3, 2]);
        let NpyValues::F32(v) = npy.values else { panic!("f32 expected") };
        assert_eq!(v[1], -2.5);
        assert!(v[2].is_nan());
        // numpy aligns the data to 64 bytes.
        assert_eq!((f32_file().len() - 24) % 64, 0);
    }

    #[test]
    fn every_supported_type_is_decoded() {
        let parse = |descr: &str, data: &[u8]| {
            Npy::parse(&file(&format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': (1,), }}"), data))
                .map(|n| n.values)
        };
        assert_eq!(parse("|u1", &[200]), Ok(NpyValues::U8(vec![200])));
        assert_eq!(parse("|b1", &[1]), Ok(NpyValues::U8(vec![1])));
        assert_eq!(parse("|i1", &[255]), Ok(NpyValues::I64(vec![-1])));
        assert_eq!(parse("<i2", &(-300i16).to_le_bytes()), Ok(NpyValues::I64(vec![-300])));
        assert_eq!(parse("<u4", &u32::MAX.to_le_bytes()), Ok(NpyValues::I64(vec![u32::MAX.into()])));
        assert_eq!(parse("<i8", &i64::MIN.to_le_bytes()), Ok(NpyValues::I64(vec![i64::MIN])));
        assert_eq!(parse("<u8", &u64::MAX.to_le_bytes()), Err(NpyError::Integer(u64::MAX)));
        assert_eq!(parse("<f8", &0.1f64.to_le_bytes()), Ok(NpyValues::F32(vec![0.1])));
        // Half precision: 1, the largest, the smallest subnormal (IEEE 754 tables).
        assert_eq!(parse("<f2", &0x3c00u16.to_le_bytes()), Ok(NpyValues::F32(vec![1.])));
        assert_eq!(parse("<f2", &0xfbffu16.to_le_bytes()), Ok(NpyValues::F32(vec![-65504.])));
        assert_eq!(parse("<f2", &1u16.to_le_bytes()), Ok(NpyValues::F32(vec![5.960_464_5e-8])));
        assert!(matches!(parse(">f4", &[0; 4]), Err(NpyError::Dtype(_))));
        assert!(matches!(parse("<c8", &[0; 8]), Err(NpyError::Dtype(_))));
        assert!(matches!(parse("|O", &[0; 8]), Err(NpyError::Dtype(_))));
    }

    #[test]
    fn damage_is_named() {
        let whole = f32_file();
        assert_eq!(Npy::parse(&whole[..whole.len() - 3]), Err(NpyError::Length { expected: 24, got: 21 }));
        assert_eq!(Npy::parse(b"PK\x03\x04"), Err(NpyError::Magic));
        assert_eq!(Npy::parse(&whole[..40]), Err(NpyError::Header("cut off")));
        let fortran = file("{'descr': '<f4', 'fortran_order': True, 'shape': (1, 1), }", &[0; 4]);
        assert_eq!(Npy::parse(&fortran), Err(NpyError::Fortran));
        let records = file("{'descr': [('x', '<f4')], 'fortran_order': False, 'shape': (1,), }", &[0; 4]);
        assert!(matches!(Npy::parse(&records), Err(NpyError::Dtype(_))));
        let huge = file(&format!("{{'descr': '<f8', 'fortran_order': False, 'shape': ({}, 2)}}", usize::MAX), &[]);
        assert_eq!(Npy::parse(&huge), Err(NpyError::Header("shape overflows")));
    }

    proptest! {
        #[test]
        fn random_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = Npy::parse(&bytes);
        }

        #[test]
        fn random_headers_never_panic(header in "[{}'a-z0-9_():,<|fiuTrueFalse \u{e9}]{0,80}", data in prop::collection::vec(any::<u8>(), 0..20)) {
            let _ = Npy::parse(&file(&header, &data));
        }

        #[test]
        fn mutated_files_never_panic(at in 0usize..152, byte in any::<u8>(), cut in 0usize..152) {
            let mut bytes = f32_file();
            bytes[at] = byte;
            let _ = Npy::parse(&bytes);
            let _ = Npy::parse(&bytes[..cut]);
        }
    }
}
