//! The one matrix product all convolutions are made of, and shared access to disjoint outputs.
//!
//! Knows nothing of convolution.
#![expect(
    unsafe_code,
    reason = "the gemm crate takes pointers, and tasks write to interleaved parts of one output"
)]
use crate::real::Real;
use gemm::Parallelism;
use std::marker::PhantomData;

/// Column-major `dst[m, n] (+)= lhs[m, k] · rhs[k, n]` on the calling thread. Columns of `dst` and
/// `lhs` are contiguous and lie `dst_column` and `lhs_column` elements apart; `rhs` has any
/// strides.
///
/// # Panics
/// If a matrix does not fit its slice, or columns of `dst` overlap.
#[expect(
    clippy::too_many_arguments,
    reason = "the customary arguments of a matrix product"
)]
pub(crate) fn product<T: Real>(
    [m, n, k]: [usize; 3],
    dst: &mut [T],
    dst_column: usize,
    accumulate: bool,
    lhs: &[T],
    lhs_column: usize,
    rhs: &[T],
    [rhs_row, rhs_column]: [usize; 2],
) {
    if m == 0 || n == 0 {
        return;
    }
    let extent = |rows: usize, row: usize, columns: usize, column: usize| match rows.min(columns) {
        0 => 0,
        _ => (rows - 1) * row + (columns - 1) * column + 1,
    };
    assert!(
        dst_column >= m && extent(m, 1, n, dst_column) <= dst.len(),
        "the destination does not fit"
    );
    assert!(
        extent(m, 1, k, lhs_column) <= lhs.len(),
        "the left matrix does not fit"
    );
    assert!(
        extent(k, rhs_row, n, rhs_column) <= rhs.len(),
        "the right matrix does not fit"
    );
    let one = T::from_f64(1.);
    // SAFETY: by the assertions every element that the product reads or writes lies in its slice
    // (strides are not negative, so the last element is the farthest); `dst` is borrowed mutably,
    // hence overlaps neither operand; T is f32 or f64 (`Real` is private), both of which gemm
    // supports.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            dst.as_mut_ptr(),
            dst_column as isize,
            1,
            accumulate,
            lhs.as_ptr(),
            lhs_column as isize,
            1,
            rhs.as_ptr(),
            rhs_column as isize,
            rhs_row as isize,
            one,
            one,
            false,
            false,
            false,
            Parallelism::None,
        )
    }
}

/// A slice that several tasks write to, each its own elements.
pub(super) struct Shared<'a, T> {
    start: *mut T,
    len: usize,
    slice: PhantomData<&'a mut [T]>,
}

// SAFETY: the only access is `Shared::part`, whose caller promises that parts in use never overlap;
// T: Send lets each part be written from any thread.
unsafe impl<T: Send> Sync for Shared<'_, T> {}

impl<'a, T> Shared<'a, T> {
    pub(super) fn new(slice: &'a mut [T]) -> Self {
        Self {
            start: slice.as_mut_ptr(),
            len: slice.len(),
            slice: PhantomData,
        }
    }

    /// Sets the elements `at..at + N`.
    ///
    /// # Safety
    /// They lie in the slice, and nobody uses them meanwhile.
    #[inline(always)]
    pub(super) unsafe fn write<const N: usize>(&self, at: usize, value: [T; N]) {
        debug_assert!(at + N <= self.len);
        // SAFETY: in bounds and unshared, as the caller promises; an array has the alignment of its
        // elements.
        unsafe { self.start.add(at).cast::<[T; N]>().write(value) }
    }

    /// Elements `at..at + len`.
    ///
    /// # Safety
    /// No two parts that exist at the same time overlap.
    ///
    /// # Panics
    /// If the part does not lie in the slice.
    #[expect(
        clippy::mut_from_ref,
        reason = "that is its purpose; the caller keeps parts apart"
    )]
    pub(super) unsafe fn part(&self, at: usize, len: usize) -> &mut [T] {
        assert!(
            at <= self.len && len <= self.len - at,
            "a part reaches beyond its slice"
        );
        // SAFETY: in bounds by the assertion; the slice is borrowed mutably for as long as `self`,
        // so only parts can alias, and the caller excludes that.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(at), len) }
    }
}
