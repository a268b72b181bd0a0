//! One modality's samples, held as they were stored and read as `f32`.
//! Does not know labels, pairing or files.
use std::ops::Range;

/// `[rows, shape...]`, row-major. Bytes stay bytes (a quarter of the memory) until a row is read.
#[derive(Debug, Clone, PartialEq)]
pub struct Array {
    shape: Vec<usize>,
    row_len: usize,
    values: Values,
}

#[derive(Debug, Clone, PartialEq)]
enum Values {
    Bytes { data: Vec<u8>, divide: f64 },
    Floats(Vec<f32>),
}

/// Data that do not fill whole samples.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{values} values do not fill whole samples of shape {shape:?}")]
pub struct ArrayError {
    /// Number of values given.
    pub values: usize,
    /// Shape of one sample; every extent must be positive.
    pub shape: Vec<usize>,
}

impl Array {
    /// Samples of `shape` from consecutive values.
    pub fn floats(shape: &[usize], data: Vec<f32>) -> Result<Self, ArrayError> {
        let row_len = row_len(shape, data.len())?;
        Ok(Self {
            shape: shape.to_vec(),
            row_len,
            values: Values::Floats(data),
        })
    }

    /// Samples of `shape` whose value is the stored byte divided by `divide`, rounded to `f32`.
    pub fn bytes(shape: &[usize], data: Vec<u8>, divide: f64) -> Result<Self, ArrayError> {
        let row_len = row_len(shape, data.len())?;
        Ok(Self {
            shape: shape.to_vec(),
            row_len,
            values: Values::Bytes { data, divide },
        })
    }

    /// Number of samples.
    pub fn rows(&self) -> usize {
        match &self.values {
            Values::Bytes { data, .. } => data.len() / self.row_len,
            Values::Floats(data) => data.len() / self.row_len,
        }
    }

    /// Shape of one sample.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// Number of values in one sample.
    pub fn row_len(&self) -> usize {
        self.row_len
    }

    /// Appends the samples `rows` to `out`, in that order.
    ///
    /// # Panics
    /// If a row does not exist.
    pub fn copy_rows(&self, rows: impl IntoIterator<Item = usize>, out: &mut Vec<f32>) {
        let at = |row: usize| row * self.row_len..(row + 1) * self.row_len;
        match &self.values {
            Values::Bytes { data, divide } => {
                let value = byte_values(*divide);
                rows.into_iter().for_each(|row| {
                    out.extend(data[at(row)].iter().map(|b| value[usize::from(*b)]))
                });
            }
            Values::Floats(data) => rows
                .into_iter()
                .for_each(|row| out.extend_from_slice(&data[at(row)])),
        }
    }

    /// The samples `rows` as one contiguous block.
    pub fn to_vec(&self, rows: Range<usize>) -> Vec<f32> {
        let mut out = Vec::with_capacity(rows.len() * self.row_len);
        self.copy_rows(rows, &mut out);
        out
    }

    /// The stored bytes and what they are divided by, if this array is stored as bytes.
    pub(crate) fn as_bytes(&self) -> Option<(&[u8], f64)> {
        match &self.values {
            Values::Bytes { data, divide } => Some((data, *divide)),
            Values::Floats(_) => None,
        }
    }

    /// Row and value of the first element that `bad(channel, value)` says is wrong; channels are
    /// the first axis of a sample.
    pub(crate) fn find(&self, bad: impl Fn(usize, f32) -> bool) -> Option<(usize, f32)> {
        let channels = self.shape.first().copied().unwrap_or(1);
        let runs = self.row_len / channels;
        let at = |run: usize, v: f32| (run / channels, v);
        match &self.values {
            Values::Bytes { data, divide } => {
                let value = byte_values(*divide);
                let bad: Vec<_> = (0..channels).map(|c| value.map(|v| bad(c, v))).collect();
                data.chunks_exact(runs)
                    .enumerate()
                    .find_map(|(run, bytes)| {
                        let byte = bytes
                            .iter()
                            .find(|b| bad[run % channels][usize::from(**b)])?;
                        Some(at(run, value[usize::from(*byte)]))
                    })
            }
            Values::Floats(data) => {
                data.chunks_exact(runs)
                    .enumerate()
                    .find_map(|(run, values)| {
                        values
                            .iter()
                            .find(|v| bad(run % channels, **v))
                            .map(|v| at(run, *v))
                    })
            }
        }
    }

    /// Mean of each element over all rows, summed in `f64`.
    pub fn mean(&self) -> Vec<f64> {
        let mut sum = vec![0f64; self.row_len];
        let mut row = Vec::with_capacity(self.row_len);
        for i in 0..self.rows() {
            row.clear();
            self.copy_rows([i], &mut row);
            sum.iter_mut()
                .zip(&row)
                .for_each(|(s, v)| *s += f64::from(*v));
        }
        let rows = self.rows().max(1) as f64;
        sum.iter_mut().for_each(|s| *s /= rows);
        sum
    }
}

fn row_len(shape: &[usize], values: usize) -> Result<usize, ArrayError> {
    let error = || ArrayError {
        values,
        shape: shape.to_vec(),
    };
    let len = shape
        .iter()
        .try_fold(1usize, |n, d| n.checked_mul(*d))
        .ok_or_else(error)?;
    if len == 0 || !values.is_multiple_of(len) {
        Err(error())
    } else {
        Ok(len)
    }
}

fn byte_values(divide: f64) -> [f32; 256] {
    std::array::from_fn(|b| (b as f64 / divide) as f32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_and_floats_read_alike() -> Result<(), ArrayError> {
        let bytes = Array::bytes(&[1, 2], vec![0, 255, 51, 102], 255.)?;
        let floats = Array::floats(&[1, 2], vec![0., 1., 0.2, 0.4])?;
        assert_eq!(bytes.to_vec(0..2), floats.to_vec(0..2));
        let mut reversed = vec![];
        bytes.copy_rows([1, 0], &mut reversed);
        assert_eq!(reversed, [0.2, 0.4, 0., 1.]);
        assert_eq!((bytes.rows(), bytes.row_len()), (2, 2));
        assert_eq!(floats.find(|_, v| v == 0.4), Some((1, 0.4)));
        Ok(())
    }

    #[test]
    fn channels_are_the_first_axis() -> Result<(), ArrayError> {
        let a = Array::floats(&[2, 2], (0..8).map(|i| i as f32).collect())?;
        assert_eq!(a.find(|channel, v| channel == 1 && v > 3.), Some((1, 6.)));
        assert_eq!(a.mean(), [2., 3., 4., 5.]);
        Ok(())
    }

    #[test]
    fn partial_samples_are_refused() {
        assert!(Array::floats(&[3], vec![0.; 4]).is_err());
        assert!(Array::floats(&[0], vec![]).is_err());
        assert!(Array::floats(&[usize::MAX, 2], vec![]).is_err());
        assert!(Array::floats(&[], vec![1., 2.]).is_ok_and(|a| a.rows() == 2));
    }
}
