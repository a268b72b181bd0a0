//! Loops that the compiler vectorises, compiled for the instruction sets of the processor that runs
//! them.
//!
//! Knows nothing of what the loops compute.
use std::sync::OnceLock;

/// `f()` with the widest vectors that this processor has. What `f` calls is compiled along if it is
/// inlined.
///
/// Only the width changes, and no product is fused with a sum, so the bits are the same on every
/// processor.
#[inline(always)]
pub(crate) fn wide<R>(f: impl FnOnce() -> R) -> R {
    static ARCH: OnceLock<pulp::Arch> = OnceLock::new();
    ARCH.get_or_init(pulp::Arch::new).dispatch(f)
}
