//! Convolutions of three taps with fewer multiplications (Winograd, 1980): `y = Aᵀ[(G g) ∘ (Bᵀ d)]`
//! for a kernel `g` and a piece `d` of the input; in two dimensions each matrix is applied to rows
//! and columns.
//!
//! Knows one axis of one tile at a time, for vectors of channels. The algorithms interpolate
//! products of polynomials, with stride 1 at the points 0, ±1, ±2 and infinity. With stride 2 the
//! even and the odd elements of the input meet different taps, so these are two convolutions, of
//! one tap and of two, the latter at the points 0, −1 and infinity.

/// Channels that are transformed together: 32 bytes of `f32`.
pub(super) const LANES: usize = 8;

/// One element of [`LANES`] channels.
pub(super) type Lanes<T> = [T; LANES];

/// Arithmetic of [`Lanes`]. Products and sums are rounded one by one: the same bits on every
/// processor.
pub(super) trait Element:
    Copy + std::ops::Add<Output = Self> + std::ops::Sub<Output = Self> + std::ops::Mul<Output = Self>
{
    fn from_f64(v: f64) -> Self;
}

impl<T: crate::real::Real> Element for T {
    #[inline(always)]
    fn from_f64(v: f64) -> Self {
        candle_core::WithDType::from_f64(v)
    }
}

/// A plain loop: `std::array::from_fn` and `map` are not always inlined, and what is not inlined is
/// not compiled for wide vectors.
#[inline(always)]
fn each<T: Element>(mut a: Lanes<T>, b: Lanes<T>, f: impl Fn(T, T) -> T) -> Lanes<T> {
    for l in 0..LANES {
        a[l] = f(a[l], b[l]);
    }
    a
}

/// A one-dimensional transform of the columns and then the rows of `N × N` vectors:
/// `get(row, column)` to `put(vector)` for `P × P`, row by row. `work` is what lies between; its
/// content before does not matter.
#[inline(always)]
pub(super) fn both_axes<T: Element, const N: usize, const P: usize>(
    work: &mut [[Lanes<T>; N]; P],
    get: impl Fn(usize, usize) -> Lanes<T>,
    transform: impl Fn([Lanes<T>; N]) -> [Lanes<T>; P],
    mut put: impl FnMut(Lanes<T>),
) {
    for s in 0..N {
        let mut column = work[0];
        for (r, vector) in column.iter_mut().enumerate() {
            *vector = get(r, s);
        }
        let column = transform(column);
        for r in 0..P {
            work[r][s] = column[r];
        }
    }
    for row in work.iter() {
        for vector in transform(*row) {
            put(vector);
        }
    }
}

#[inline(always)]
fn add<T: Element>(a: Lanes<T>, b: Lanes<T>) -> Lanes<T> {
    each(
        a,
        b,
        #[inline(always)]
        |a, b| a + b,
    )
}

#[inline(always)]
fn sub<T: Element>(a: Lanes<T>, b: Lanes<T>) -> Lanes<T> {
    each(
        a,
        b,
        #[inline(always)]
        |a, b| a - b,
    )
}

#[inline(always)]
fn scale<T: Element>(by: f64, a: Lanes<T>) -> Lanes<T> {
    let by = T::from_f64(by);
    each(
        a,
        a,
        #[inline(always)]
        |a, _| by * a,
    )
}

/// `a + by · b`
#[inline(always)]
fn plus<T: Element>(a: Lanes<T>, by: f64, b: Lanes<T>) -> Lanes<T> {
    let by = T::from_f64(by);
    each(
        a,
        b,
        #[inline(always)]
        |a, b| a + by * b,
    )
}

/// A bilinear algorithm on one axis: `POINTS` products give `RESULTS` results from `INPUTS`
/// elements.
pub(super) trait Bilinear<const POINTS: usize, const INPUTS: usize, const RESULTS: usize> {
    /// Elements from one tile's input to the next one's.
    const STEP: usize;
    /// Elements before the first that the first tile begins with.
    const BEFORE: usize;
    /// `Bᵀ`.
    fn input<T: Element>(d: [Lanes<T>; INPUTS]) -> [Lanes<T>; POINTS];
    /// `Aᵀ`.
    fn result<T: Element>(p: [Lanes<T>; POINTS]) -> [Lanes<T>; RESULTS];
    /// `G`.
    fn kernel<T: Element>(g: [Lanes<T>; 3]) -> [Lanes<T>; POINTS];
}

/// What a forward algorithm has besides: the gradient of its kernel is `Gᵀ[(A dy) ∘ (Bᵀ d)]`.
pub(super) trait KernelGradient<const POINTS: usize, const INPUTS: usize, const RESULTS: usize>:
    Bilinear<POINTS, INPUTS, RESULTS>
{
    /// `A`.
    fn result_adjoint<T: Element>(y: [Lanes<T>; RESULTS]) -> [Lanes<T>; POINTS];
    /// `Gᵀ`.
    fn kernel_adjoint<T: Element>(p: [Lanes<T>; POINTS]) -> [Lanes<T>; 3];
}

/// Stride 1, padding 1, four results from six products instead of twelve.
pub(super) struct Stride1;

/// The input's gradient of [`Stride1`]: the same convolution with its taps in reverse.
pub(super) struct Stride1Input;

impl Bilinear<6, 6, 4> for Stride1 {
    const STEP: usize = 4;
    const BEFORE: usize = 1;
    #[inline(always)]
    fn input<T: Element>(d: [Lanes<T>; 6]) -> [Lanes<T>; 6] {
        let (p, q) = (plus(d[4], -4., d[2]), plus(d[3], -4., d[1]));
        let (r, s) = (sub(d[4], d[2]), scale(2., sub(d[3], d[1])));
        let (first, last) = (plus(d[4], -5., d[2]), plus(d[5], -5., d[3]));
        [
            plus(first, 4., d[0]),
            add(p, q),
            sub(p, q),
            add(r, s),
            sub(r, s),
            plus(last, 4., d[1]),
        ]
    }
    #[inline(always)]
    fn result<T: Element>(p: [Lanes<T>; 6]) -> [Lanes<T>; 4] {
        let (near, far) = (add(p[1], p[2]), add(p[3], p[4]));
        let (near_odd, far_odd) = (sub(p[1], p[2]), sub(p[3], p[4]));
        let last = add(plus(near_odd, 8., far_odd), p[5]);
        [
            add(p[0], add(near, far)),
            plus(near_odd, 2., far_odd),
            plus(near, 4., far),
            last,
        ]
    }
    #[inline(always)]
    fn kernel<T: Element>(g: [Lanes<T>; 3]) -> [Lanes<T>; 6] {
        let (near, far) = (
            scale(-1. / 6., add(g[0], g[2])),
            plus(scale(1. / 24., g[0]), 1. / 6., g[2]),
        );
        let (near_odd, far_odd) = (scale(1. / 6., g[1]), scale(1. / 12., g[1]));
        [
            scale(0.25, g[0]),
            sub(near, near_odd),
            add(near, near_odd),
            add(far, far_odd),
            sub(far, far_odd),
            g[2],
        ]
    }
}

impl KernelGradient<6, 6, 4> for Stride1 {
    #[inline(always)]
    fn result_adjoint<T: Element>(y: [Lanes<T>; 4]) -> [Lanes<T>; 6] {
        let (even, odd) = (add(y[0], y[2]), add(y[1], y[3]));
        let (even2, odd2) = (plus(y[0], 4., y[2]), plus(scale(2., y[1]), 8., y[3]));
        [
            y[0],
            add(even, odd),
            sub(even, odd),
            add(even2, odd2),
            sub(even2, odd2),
            y[3],
        ]
    }
    #[inline(always)]
    fn kernel_adjoint<T: Element>(p: [Lanes<T>; 6]) -> [Lanes<T>; 3] {
        let (near, far) = (scale(1. / 6., add(p[1], p[2])), add(p[3], p[4]));
        let (near_odd, far_odd) = (
            scale(1. / 6., sub(p[2], p[1])),
            scale(1. / 12., sub(p[3], p[4])),
        );
        let first = plus(scale(0.25, p[0]), 1. / 24., far);
        [
            sub(first, near),
            add(near_odd, far_odd),
            add(plus(p[5], 1. / 6., far), scale(-1., near)),
        ]
    }
}

impl Bilinear<6, 6, 4> for Stride1Input {
    const STEP: usize = 4;
    const BEFORE: usize = 1;
    #[inline(always)]
    fn input<T: Element>(d: [Lanes<T>; 6]) -> [Lanes<T>; 6] {
        Stride1::input(d)
    }
    #[inline(always)]
    fn result<T: Element>(p: [Lanes<T>; 6]) -> [Lanes<T>; 4] {
        Stride1::result(p)
    }
    #[inline(always)]
    fn kernel<T: Element>([a, b, c]: [Lanes<T>; 3]) -> [Lanes<T>; 6] {
        Stride1::kernel([c, b, a])
    }
}

/// `a·d[i] + b·d[i + 1]` for two `i` from three products instead of four.
struct TwoTaps;

impl TwoTaps {
    #[inline(always)]
    fn input<T: Element>(d: [Lanes<T>; 3]) -> [Lanes<T>; 3] {
        [sub(d[0], d[1]), d[1], sub(d[2], d[1])]
    }
    #[inline(always)]
    fn result<T: Element>(p: [Lanes<T>; 3]) -> [Lanes<T>; 2] {
        [add(p[0], p[1]), add(p[1], p[2])]
    }
    #[inline(always)]
    fn kernel<T: Element>(a: Lanes<T>, b: Lanes<T>) -> [Lanes<T>; 3] {
        [a, add(a, b), b]
    }
}

/// Stride 2, padding 1, two results from five products instead of six:
/// `y[i] = g₀ d[2i] + g₁ d[2i + 1] + g₂ d[2i + 2]`, where `d` begins one element before the tile.
/// All numbers are 0 or ±1, so that no digit is lost.
pub(super) struct Stride2;

impl Bilinear<5, 5, 2> for Stride2 {
    const STEP: usize = 4;
    const BEFORE: usize = 1;
    #[inline(always)]
    fn input<T: Element>(d: [Lanes<T>; 5]) -> [Lanes<T>; 5] {
        let p = TwoTaps::input([d[0], d[2], d[4]]);
        [p[0], p[1], p[2], d[1], d[3]]
    }
    #[inline(always)]
    fn result<T: Element>(p: [Lanes<T>; 5]) -> [Lanes<T>; 2] {
        let y = TwoTaps::result([p[0], p[1], p[2]]);
        [add(y[0], p[3]), add(y[1], p[4])]
    }
    #[inline(always)]
    fn kernel<T: Element>(g: [Lanes<T>; 3]) -> [Lanes<T>; 5] {
        let p = TwoTaps::kernel(g[0], g[2]);
        [p[0], p[1], p[2], g[1], g[1]]
    }
}

impl KernelGradient<5, 5, 2> for Stride2 {
    #[inline(always)]
    fn result_adjoint<T: Element>(y: [Lanes<T>; 2]) -> [Lanes<T>; 5] {
        [y[0], add(y[0], y[1]), y[1], y[0], y[1]]
    }
    #[inline(always)]
    fn kernel_adjoint<T: Element>(p: [Lanes<T>; 5]) -> [Lanes<T>; 3] {
        [add(p[0], p[1]), add(p[3], p[4]), add(p[1], p[2])]
    }
}

/// The input's gradient of [`Stride2`]: `dx[2i] = g₁ dy[i]` and
/// `dx[2i + 1] = g₂ dy[i] + g₀ dy[i + 1]`.
pub(super) struct Stride2Input;

impl Bilinear<5, 3, 4> for Stride2Input {
    const STEP: usize = 2;
    const BEFORE: usize = 0;
    #[inline(always)]
    fn input<T: Element>(d: [Lanes<T>; 3]) -> [Lanes<T>; 5] {
        let p = TwoTaps::input(d);
        [p[0], p[1], p[2], d[0], d[1]]
    }
    #[inline(always)]
    fn result<T: Element>(p: [Lanes<T>; 5]) -> [Lanes<T>; 4] {
        let odd = TwoTaps::result([p[0], p[1], p[2]]);
        [p[3], odd[0], p[4], odd[1]]
    }
    #[inline(always)]
    fn kernel<T: Element>(g: [Lanes<T>; 3]) -> [Lanes<T>; 5] {
        let p = TwoTaps::kernel(g[2], g[0]);
        [p[0], p[1], p[2], g[1], g[1]]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lanes(v: f64) -> Lanes<f64> {
        [v; LANES]
    }

    /// Some values without symmetry.
    fn values<const N: usize>(seed: usize) -> [f64; N] {
        std::array::from_fn(|i| ((7 * i + 5 * seed + i * i) % 11) as f64 - 4.3)
    }

    fn apply<B: Bilinear<P, I, R>, const P: usize, const I: usize, const R: usize>(
        g: [f64; 3],
        d: [f64; I],
    ) -> [f64; R] {
        let (u, v) = (B::kernel(g.map(lanes)), B::input(d.map(lanes)));
        B::result(std::array::from_fn::<_, P, _>(|p| {
            std::array::from_fn(|l| u[p][l] * v[p][l])
        }))
        .map(|y| y[0])
    }

    /// A dozen f64 operations on numbers below 100: 1e-12 is far above their rounding and far below
    /// any wrong term.
    fn close(got: &[f64], expected: &[f64]) {
        assert!(
            got.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-12),
            "{got:?} instead of {expected:?}"
        );
    }

    #[test]
    fn each_algorithm_is_its_convolution() {
        let g: [f64; 3] = values(1);
        let d: [f64; 6] = values(2);
        close(
            &apply::<Stride1, 6, 6, 4>(g, d),
            &std::array::from_fn::<_, 4, _>(|i| (0..3).map(|t| g[t] * d[i + t]).sum()),
        );
        let reversed: [f64; 4] = std::array::from_fn(|i| (0..3).map(|t| g[2 - t] * d[i + t]).sum());
        close(&apply::<Stride1Input, 6, 6, 4>(g, d), &reversed);
        let d: [f64; 5] = values(3);
        let y: [f64; 2] = std::array::from_fn(|i| (0..3).map(|t| g[t] * d[2 * i + t]).sum());
        close(&apply::<Stride2, 5, 5, 2>(g, d), &y);
        let d: [f64; 3] = values(4);
        let dx: [f64; 4] = std::array::from_fn(|i| {
            if i % 2 == 0 {
                g[1] * d[i / 2]
            } else {
                g[2] * d[i / 2] + g[0] * d[i / 2 + 1]
            }
        });
        close(&apply::<Stride2Input, 5, 3, 4>(g, d), &dx);
    }

    /// `⟨dy, y(g, d)⟩ = ⟨dg, g⟩` for all `g`: one for each tap.
    fn gradient<B: KernelGradient<P, I, R>, const P: usize, const I: usize, const R: usize>() {
        let (d, dy): ([f64; I], [f64; R]) = (values(5), values(6));
        let (v, z) = (B::input(d.map(lanes)), B::result_adjoint(dy.map(lanes)));
        let dg = B::kernel_adjoint(std::array::from_fn::<_, P, _>(|p| {
            std::array::from_fn(|l| v[p][l] * z[p][l])
        }));
        for (tap, dg) in dg.iter().enumerate() {
            let unit = std::array::from_fn(|t| if t == tap { 1. } else { 0. });
            let expected: f64 = apply::<B, P, I, R>(unit, d)
                .iter()
                .zip(dy)
                .map(|(y, dy)| y * dy)
                .sum();
            close(&dg[..1], &[expected]);
        }
    }

    #[test]
    fn the_kernels_gradient_is_the_adjoint() {
        gradient::<Stride1, 6, 6, 4>();
        gradient::<Stride2, 5, 5, 2>();
    }
}
