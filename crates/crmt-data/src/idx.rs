//! Parses idx files of bytes (the MNIST format).
//! Does not know what the bytes mean, nor where they come from.

/// An array of bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Idx<'a> {
    /// Extent of each axis.
    pub shape: Vec<usize>,
    /// Row-major values.
    pub data: &'a [u8],
}

/// Why bytes are not an idx file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IdxError {
    /// Wrong first four bytes.
    #[error(
        "not an idx file of bytes with {expected} axes: it starts with {got:02x?}, expected [00, 00, 08, {expected:02x}]"
    )]
    Magic {
        /// Axes expected.
        expected: u8,
        /// What the file starts with.
        got: Vec<u8>,
    },
    /// The header stops.
    #[error("truncated in the header")]
    Header,
    /// The data are shorter or longer than the header says.
    #[error(
        "truncated or damaged: shape {shape:?} needs {expected} bytes of data, the file has {got}"
    )]
    Length {
        /// By the header.
        shape: Vec<usize>,
        /// By the shape.
        expected: u64,
        /// What follows the header.
        got: usize,
    },
}

impl<'a> Idx<'a> {
    /// Parses a whole (uncompressed) file of unsigned bytes with `axes` axes.
    pub fn parse(bytes: &'a [u8], axes: u8) -> Result<Self, IdxError> {
        let magic = [0, 0, 8, axes];
        let Some(mut rest) = bytes.strip_prefix(&magic) else {
            return Err(IdxError::Magic {
                expected: axes,
                got: bytes.iter().take(4).copied().collect(),
            });
        };
        let mut shape = vec![];
        for _ in 0..axes {
            let (extent, after) = rest.split_first_chunk().ok_or(IdxError::Header)?;
            shape.push(u32::from_be_bytes(*extent) as usize);
            rest = after;
        }
        let expected = shape.iter().fold(1u64, |n, d| n.saturating_mul(*d as u64));
        if rest.len() as u64 != expected {
            return Err(IdxError::Length {
                shape,
                expected,
                got: rest.len(),
            });
        }
        Ok(Self { shape, data: rest })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const FILE: [u8; 18] = [0, 0, 8, 3, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 2, 7, 9];

    #[test]
    fn shape_and_data_are_read() {
        assert_eq!(
            Idx::parse(&FILE, 3),
            Ok(Idx {
                shape: vec![1, 1, 2],
                data: &[7, 9]
            })
        );
    }

    #[test]
    fn damage_is_named() {
        let message =
            |bytes: &[u8], axes| Idx::parse(bytes, axes).expect_err("damaged").to_string();
        assert_eq!(
            message(&FILE, 1),
            "not an idx file of bytes with 1 axes: it starts with [00, 00, 08, 03], expected [00, 00, 08, 01]"
        );
        assert_eq!(message(&FILE[..10], 3), "truncated in the header");
        assert_eq!(
            message(&FILE[..17], 3),
            "truncated or damaged: shape [1, 1, 2] needs 2 bytes of data, the file has 1"
        );
    }

    proptest! {
        #[test]
        fn random_and_mutated_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..40), at in 0usize..18, byte in any::<u8>(), axes in 0u8..5) {
            let _ = Idx::parse(&bytes, axes);
            let mut file = FILE;
            file[at] = byte;
            let _ = Idx::parse(&file, 3);
            let _ = Idx::parse(&[&[0, 0, 8, axes], &bytes[..]].concat(), axes);
        }
    }
}
