//! What happens to the sums of a convolution while they are in registers.
//!
//! Knows nothing of how sums are computed.
use crate::activation::positive_part;
use crate::real::Real;

/// `y ← gate(relu(sum · scale + bias + add))`, each part only where asked for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Epilogue<'a, T> {
    /// `[channels]`.
    pub scale: Option<&'a [T]>,
    /// `[channels]`.
    pub bias: Option<&'a [T]>,
    /// Shaped as the result.
    pub add: Option<&'a [T]>,
    /// Adds to what the result held before.
    pub accumulate: bool,
    /// `max(·, 0)`.
    pub relu: bool,
    /// Shaped as the result: zero where this is at most zero.
    pub gate: Option<&'a [T]>,
}

impl<T> Default for Epilogue<'_, T> {
    fn default() -> Self {
        Self {
            scale: None,
            bias: None,
            add: None,
            accumulate: false,
            relu: false,
            gate: None,
        }
    }
}

impl<T: Real> Epilogue<'_, T> {
    /// Finishes the sums of some channels from `channel` on, the elements from `at` on of the
    /// result.
    #[inline(always)]
    pub fn finish<const N: usize>(&self, y: &mut [T; N], sums: [T; N], channel: usize, at: usize) {
        let mut v = sums;
        if let Some(scale) = self.scale {
            each(&mut v, &scale[channel..], |v, scale| v * scale);
        }
        if let Some(bias) = self.bias {
            each(&mut v, &bias[channel..], |v, bias| v + bias);
        }
        if let Some(add) = self.add {
            each(&mut v, &add[at..], |v, add| v + add);
        }
        if self.accumulate {
            each(&mut v, &*y, |v, y| v + y);
        }
        if self.relu {
            each(&mut v, &sums, |v, _| positive_part(v));
        }
        if let Some(gate) = self.gate {
            each(&mut v, &gate[at..], |v, gate| {
                if gate <= T::ZERO { T::ZERO } else { v }
            });
        }
        *y = v;
    }
}

#[inline(always)]
fn each<T: Real, const N: usize>(v: &mut [T; N], other: &[T], f: impl Fn(T, T) -> T) {
    let other = &other[..N];
    for i in 0..N {
        v[i] = f(v[i], other[i]);
    }
}
