//! Colours of numbers: even steps of a number are even steps to the eye.
//! Knows no theme: what is transparent takes the page's colour.

/// From near black at 0 over violet and red to pale yellow at 1, beyond these the ends. Lightness
/// grows evenly, so that it also reads in grey.
pub fn sequential(t: f64) -> [u8; 3] {
    screen(path(t.clamp(0.0, 1.0)))
}

/// Lightness, chroma and hue of [`sequential`]: colourful in between, pale at the ends, and all
/// that a screen can show.
fn path(t: f64) -> [f64; 3] {
    [
        0.16 + 0.81 * t,
        0.18 * (0.93 * std::f64::consts::PI * t).sin(),
        280.0 + 180.0 * t,
    ]
}

/// Blue at -1, orange at 1, transparent at 0: red, green, blue and opacity.
pub fn diverging(t: f64) -> [u8; 4] {
    // Both stand out on white and on near black.
    let [r, g, b] = if t < 0.0 {
        [30, 130, 205]
    } else {
        [228, 92, 16]
    };
    [r, g, b, byte(t.abs())]
}

/// A fraction as a byte; what is outside `0..=1` is clamped, and what is no number is 0.
pub fn byte(fraction: f64) -> u8 {
    (fraction * 255.0).round() as u8
}

/// Red, green and blue light of a colour given by lightness, chroma and hue (degrees) in Oklab
/// (Ottosson 2020). A screen can show it if all three are in `0..=1`.
fn light([lightness, chroma, hue]: [f64; 3]) -> [f64; 3] {
    let (sin, cos) = hue.to_radians().sin_cos();
    let (a, b) = (chroma * cos, chroma * sin);
    let cone = |wa: f64, wb: f64| (lightness + wa * a + wb * b).powi(3);
    let cones = [
        cone(0.396_337_777_4, 0.215_803_757_3),
        cone(-0.105_561_345_8, -0.063_854_172_8),
        cone(-0.089_484_177_5, -1.291_485_548),
    ];
    let linear = [
        [4.076_741_662_1, -3.307_711_591_3, 0.230_969_929_2],
        [-1.268_438_004_6, 2.609_757_401_1, -0.341_319_396_5],
        [-0.004_196_086_3, -0.703_418_614_7, 1.707_614_701],
    ];
    linear.map(|row| row.iter().zip(cones).map(|(w, cone)| w * cone).sum())
}

/// The same as bytes of sRGB.
fn screen(colour: [f64; 3]) -> [u8; 3] {
    light(colour).map(|v| {
        byte(if v <= 0.003_130_8 {
            12.92 * v
        } else {
            1.055 * v.powf(1.0 / 2.4) - 0.055
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lightness_grows_evenly_and_no_colour_is_cut_off() {
        // The cube root of luminance is close to perceived lightness.
        let lightness = |[r, g, b]: [f64; 3]| (0.2126 * r + 0.7152 * g + 0.0722 * b).cbrt();
        let lights: Vec<[f64; 3]> = (0..=20).map(|i| light(path(f64::from(i) / 20.0))).collect();
        let lit: Vec<f64> = lights.iter().map(|rgb| lightness(*rgb)).collect();
        // An even step is 0.04; the two measures of lightness differ for strong colours.
        assert!(
            lit.windows(2)
                .all(|w| (0.015..0.065).contains(&(w[1] - w[0]))),
            "{lit:?}"
        );
        assert!(
            lights.iter().flatten().all(|v| (0.0..=1.0).contains(v)),
            "{lights:?}"
        );
        assert_eq!(
            (screen([1.0, 0.0, 0.0]), screen([0.0; 3])),
            ([255; 3], [0; 3])
        );
        // Red, as its author gives it.
        assert_eq!(screen([0.627_955, 0.257_683, 29.234]), [255, 0, 0]);
        assert_eq!(
            (sequential(-3.0), sequential(f64::NAN)),
            (sequential(0.0), [0; 3])
        );
    }

    #[test]
    fn what_did_not_move_is_transparent() {
        assert_eq!(
            (diverging(0.0)[3], diverging(-1.0)[3], diverging(0.5)[3]),
            (0, 255, 128)
        );
        assert_ne!(diverging(-0.5)[..3], diverging(0.5)[..3]);
    }
}
