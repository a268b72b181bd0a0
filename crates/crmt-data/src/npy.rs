//! Reads and writes NumPy's `.npy` format (by `npyz`), whole and checked.
//! Does not know what an array means; refuses what it can't read exactly, and says what to do.
use crate::text::visible;
use npyz::{DType, Deserialize, NpyFile, NpyHeader, Order, WriterBuilder, half};
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
    /// The header is cut off or malformed.
    #[error("malformed .npy header: {0}")]
    Header(String),
    /// An element type that is not read.
    #[error("element type `{}` is not read; {}", visible(.0), advice(.0))]
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
        if !bytes.starts_with(b"\x93NUMPY") {
            return Err(NpyError::Magic);
        }
        if nesting(bytes) > DEEPEST {
            return Err(NpyError::Header("it is no description of an array".into()));
        }
        let mut data = bytes;
        let header =
            NpyHeader::from_reader(&mut data).map_err(|e| NpyError::Header(e.to_string()))?;
        if header.order() == Order::Fortran {
            return Err(NpyError::Fortran);
        }
        let overflow = || NpyError::Header("the shape is too large".into());
        let shape: Vec<usize> = header
            .shape()
            .iter()
            .map(|n| usize::try_from(*n))
            .collect::<Result<_, _>>()
            .map_err(|_| overflow())?;
        let count = shape
            .iter()
            .try_fold(1usize, |n, d| n.checked_mul(*d))
            .ok_or_else(overflow)?;
        let descr = header.dtype().descr();
        let descr = descr.trim_matches('\'');
        let (order, kind) = descr.split_at_checked(1).unwrap_or_default();
        let size = match kind {
            "u1" | "b1" | "i1" => 1,
            "u2" | "i2" | "f2" => 2,
            "u4" | "i4" | "f4" => 4,
            "u8" | "i8" | "f8" => 8,
            _ => 0,
        };
        if !["<", ">", "|", "="].contains(&order) || size == 0 {
            return Err(NpyError::Dtype(descr.chars().take(40).collect()));
        }
        // Before anything is reserved for it.
        let expected = count.checked_mul(size).ok_or_else(overflow)?;
        if expected != data.len() {
            return Err(NpyError::Length {
                expected,
                got: data.len(),
            });
        }
        Ok(Self {
            values: decode(header, kind, data)?,
            shape,
        })
    }
}

/// The header of an array has two levels; its parser would follow any number, to the end of its
/// stack.
const DEEPEST: usize = 16;

/// How deep brackets are nested in what may be the header: at most, whatever they enclose.
fn nesting(bytes: &[u8]) -> usize {
    // Of versions 1 and 2: magic, version, length.
    let text = match bytes.get(6..12) {
        Some(&[1, _, a, b, _, _]) => bytes
            .get(10..)
            .unwrap_or_default()
            .iter()
            .take(usize::from(u16::from_le_bytes([a, b]))),
        Some(&[_, _, a, b, c, d]) => bytes[12..]
            .iter()
            .take(u32::from_le_bytes([a, b, c, d]) as usize),
        _ => return 0,
    };
    let mut depth = 0usize;
    text.fold(0, |deepest, byte| {
        match byte {
            b'(' | b'[' | b'{' => depth += 1,
            b')' | b']' | b'}' => depth = depth.saturating_sub(1),
            _ => {}
        }
        deepest.max(depth)
    })
}

/// What to save instead of an element type that is not read, by its letter.
fn advice(descr: &str) -> &'static str {
    let letter = descr
        .trim_start_matches(['<', '>', '|', '='])
        .chars()
        .next();
    match letter {
        _ if descr.starts_with('[') => "save one field at a time, e.g. x['name']",
        Some('O') => {
            "it holds Python objects: save x.astype('float32'), labels as x.astype('int64')"
        }
        Some('U' | 'S' | 'a') => {
            "texts have no order: save np.unique(x, return_inverse=True)[1] and name the classes in dataset.toml"
        }
        Some('c') => {
            "save real and imaginary part as two channels, np.stack([x.real, x.imag], axis=1)"
        }
        Some('f') => "save x.astype('float32')",
        Some('m' | 'M') => "save x.astype('int64')",
        _ => "save float16/32/64, (u)int8…64 or bool",
    }
}

fn decode(header: NpyHeader, kind: &str, data: &[u8]) -> Result<NpyValues, NpyError> {
    fn read<T: Deserialize>(header: NpyHeader, data: &[u8]) -> Result<Vec<T>, NpyError> {
        NpyFile::with_header(header, data)
            .into_vec()
            .map_err(|e| NpyError::Header(e.to_string()))
    }
    fn ints<T: Deserialize + Into<i64>>(
        header: NpyHeader,
        data: &[u8],
    ) -> Result<NpyValues, NpyError> {
        Ok(NpyValues::I64(
            read::<T>(header, data)?
                .into_iter()
                .map(Into::into)
                .collect(),
        ))
    }
    Ok(match kind {
        // One byte each: no need to look at them one by one.
        "u1" | "b1" => NpyValues::U8(data.to_vec()),
        "i1" => ints::<i8>(header, data)?,
        "u2" => ints::<u16>(header, data)?,
        "i2" => ints::<i16>(header, data)?,
        "u4" => ints::<u32>(header, data)?,
        "i4" => ints::<i32>(header, data)?,
        "i8" => ints::<i64>(header, data)?,
        "u8" => {
            let fits = |n: u64| i64::try_from(n).map_err(|_| NpyError::Integer(n));
            NpyValues::I64(
                read::<u64>(header, data)?
                    .into_iter()
                    .map(fits)
                    .collect::<Result<_, _>>()?,
            )
        }
        "f2" => NpyValues::F32(
            read::<half::f16>(header, data)?
                .into_iter()
                .map(f32::from)
                .collect(),
        ),
        "f4" => NpyValues::F32(read(header, data)?),
        _ => NpyValues::F32(
            read::<f64>(header, data)?
                .into_iter()
                .map(|v| v as f32)
                .collect(),
        ),
    })
}

/// Writes a header for `descr` (e.g. `<f4`) and `shape`, then the bytes of `data`.
pub fn write_npy(
    mut out: impl Write,
    descr: &str,
    shape: &[usize],
    data: impl Iterator<Item = u8>,
) -> io::Result<()> {
    let dtype = DType::Plain(descr.parse().map_err(io::Error::other)?);
    let shape: Vec<u64> = shape.iter().map(|n| *n as u64).collect();
    npyz::WriteOptions::new_header_only()
        .dtype(dtype)
        .shape(&shape)
        .writer(&mut out)
        .write_header_only()?;
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
        write_npy(
            &mut out,
            "<f4",
            &[3, 2],
            data.iter().flat_map(|v| v.to_le_bytes()),
        )
        .expect("writes to memory");
        out
    }

    #[test]
    fn written_arrays_are_read_back() {
        let npy = Npy::parse(&f32_file()).expect("valid");
        assert_eq!(npy.shape, [3, 2]);
        let NpyValues::F32(v) = npy.values else {
            panic!("f32 expected")
        };
        assert_eq!(v[1], -2.5);
        assert!(v[2].is_nan());
        // numpy aligns the data to 64 bytes.
        assert_eq!((f32_file().len() - 24) % 64, 0);
    }

    #[test]
    fn every_supported_type_is_decoded() {
        let parse = |descr: &str, data: &[u8]| {
            Npy::parse(&file(
                &format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': (1,), }}"),
                data,
            ))
            .map(|n| n.values)
        };
        assert_eq!(parse("|u1", &[200]), Ok(NpyValues::U8(vec![200])));
        assert_eq!(parse("|b1", &[1]), Ok(NpyValues::U8(vec![1])));
        assert_eq!(parse("|i1", &[255]), Ok(NpyValues::I64(vec![-1])));
        assert_eq!(
            parse("<i2", &(-300i16).to_le_bytes()),
            Ok(NpyValues::I64(vec![-300]))
        );
        assert_eq!(
            parse("<u4", &u32::MAX.to_le_bytes()),
            Ok(NpyValues::I64(vec![u32::MAX.into()]))
        );
        assert_eq!(
            parse("<i8", &i64::MIN.to_le_bytes()),
            Ok(NpyValues::I64(vec![i64::MIN]))
        );
        assert_eq!(
            parse("<u8", &u64::MAX.to_le_bytes()),
            Err(NpyError::Integer(u64::MAX))
        );
        assert_eq!(
            parse("<f8", &0.1f64.to_le_bytes()),
            Ok(NpyValues::F32(vec![0.1]))
        );
        // Half precision: 1, the largest, the smallest subnormal (IEEE 754 tables).
        assert_eq!(
            parse("<f2", &0x3c00u16.to_le_bytes()),
            Ok(NpyValues::F32(vec![1.]))
        );
        assert_eq!(
            parse("<f2", &0xfbffu16.to_le_bytes()),
            Ok(NpyValues::F32(vec![-65504.]))
        );
        assert_eq!(
            parse("<f2", &1u16.to_le_bytes()),
            Ok(NpyValues::F32(vec![5.960_464_5e-8]))
        );
        // Written on a big-endian machine, or by a format that is big-endian.
        assert_eq!(
            parse(">f4", &1.5f32.to_be_bytes()),
            Ok(NpyValues::F32(vec![1.5]))
        );
        assert_eq!(
            parse(">i8", &(-3i64).to_be_bytes()),
            Ok(NpyValues::I64(vec![-3]))
        );
        assert_eq!(
            parse(">u2", &300u16.to_be_bytes()),
            Ok(NpyValues::I64(vec![300]))
        );
        assert_eq!(
            parse(">f2", &0x3c00u16.to_be_bytes()),
            Ok(NpyValues::F32(vec![1.]))
        );
        assert!(matches!(parse("<c8", &[0; 8]), Err(NpyError::Dtype(_))));
        assert!(matches!(parse("|O", &[0; 8]), Err(NpyError::Dtype(_))));
    }

    #[test]
    fn damage_is_named() {
        let whole = f32_file();
        assert_eq!(
            Npy::parse(&whole[..whole.len() - 3]),
            Err(NpyError::Length {
                expected: 24,
                got: 21
            })
        );
        assert_eq!(Npy::parse(b"PK\x03\x04"), Err(NpyError::Magic));
        assert!(matches!(Npy::parse(&whole[..40]), Err(NpyError::Header(_))));
        let fortran = file(
            "{'descr': '<f4', 'fortran_order': True, 'shape': (1, 1), }",
            &[0; 4],
        );
        assert_eq!(Npy::parse(&fortran), Err(NpyError::Fortran));
        let records = file(
            "{'descr': [('x', '<f4')], 'fortran_order': False, 'shape': (1,), }",
            &[0; 4],
        );
        assert!(matches!(Npy::parse(&records), Err(NpyError::Dtype(_))));
        for (descr, save) in [
            ("'<f16'", "float32"),
            ("'<U3'", "return_inverse"),
            ("'<c8'", "x.real"),
            ("'<M8[s]'", "int64"),
        ] {
            let odd = file(
                &format!("{{'descr': {descr}, 'fortran_order': False, 'shape': (1,), }}"),
                &[0; 16],
            );
            assert!(
                Npy::parse(&odd).is_err_and(|e| e.to_string().contains(save)),
                "{descr}: {:?}",
                Npy::parse(&odd)
            );
        }
        for bracket in ["(", "[", "{'a': "] {
            assert!(matches!(
                Npy::parse(&file(&bracket.repeat(9000), &[])),
                Err(NpyError::Header(_))
            ));
        }
        let huge = file(
            &format!(
                "{{'descr': '<f8', 'fortran_order': False, 'shape': ({}, 2)}}",
                usize::MAX
            ),
            &[],
        );
        assert!(matches!(Npy::parse(&huge), Err(NpyError::Header(_))));
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
