//! What the radii of a sample say about its modalities (theorem T8). Does not certify anything.
use crate::SampleRadii;
use crmt_core::PerModality;

impl SampleRadii {
    /// The vulnerability indicator `eta(m, n) = L[m] / L[n]` at the binding rival, the square root
    /// of the ratio of [`shares`](Self::shares): above 1, modality `m` is the more vulnerable one.
    /// NaN if neither moves the margin.
    pub fn indicator(&self, m: usize, n: usize) -> f64 {
        (self.shares[m] / self.shares[n]).sqrt()
    }

    /// `exp(-sum_m v(m) ln v(m))`, from 1 (one modality is the whole weakness) to `M` (all alike);
    /// 0 if none moves the margin.
    pub fn effective_modalities(&self) -> f64 {
        if self.shares.iter().all(|v| *v == 0.) {
            return 0.;
        }
        self.shares
            .iter()
            .map(|v| if *v > 0. { -v * v.ln() } else { 0. })
            .sum::<f64>()
            .exp()
    }

    /// `eps*_m = r sqrt(v(m))`: how the worst joint attack splits its budget.
    pub fn optimal_split(&self) -> PerModality<f64> {
        self.shares
            .map(|v| if *v > 0. { self.joint * v.sqrt() } else { 0. })
    }
}
