//! An array as a small picture: which of its axes are seen, how it is made small, and its pixels as
//! PNG. Knows nothing of modalities, attacks or HTML.
use base64::{Engine, engine::general_purpose::STANDARD};

/// No picture is larger than this on a side, so that a page with many stays small.
const SIDE: usize = 96;

/// Which entries of an array make a picture.
#[derive(Debug, Clone, PartialEq)]
pub struct Layout {
    channels: usize,
    height: usize,
    width: usize,
    /// Position of the first entry, and the distance from one channel to the next.
    first: usize,
    stride: usize,
}

impl Layout {
    /// `[h, w]`, `[c, h, w]`, or the middle frame of `[c, t, h, w]` and `[t, c, h, w]` (`c` is then
    /// 1 or 3); none for vectors and for what can't be seen.
    pub fn of(shape: &[usize]) -> Option<Self> {
        let layout = match *shape {
            [height, width] => Self {
                channels: 1,
                height,
                width,
                first: 0,
                stride: 0,
            },
            [channels, height, width] => Self {
                channels,
                height,
                width,
                first: 0,
                stride: height * width,
            },
            [channels @ (1 | 3), t, height, width] => {
                let frame = height * width;
                Self {
                    channels,
                    height,
                    width,
                    first: t / 2 * frame,
                    stride: t * frame,
                }
            }
            [t, channels @ (1 | 3), height, width] => {
                let frame = height * width;
                Self {
                    channels,
                    height,
                    width,
                    first: t / 2 * channels * frame,
                    stride: frame,
                }
            }
            _ => return None,
        };
        (layout.height > 1 && layout.width > 1 && layout.channels > 0).then_some(layout)
    }

    /// Three channels are red, green and blue; of any other number the mean is seen.
    pub fn is_coloured(&self) -> bool {
        self.channels == 3
    }

    /// Means of channels, unless they are colours, and of as many entries as become one pixel.
    pub fn means(&self, values: &[f32]) -> Pixels {
        let colours: Vec<Vec<usize>> = match self.is_coloured() {
            true => (0..3).map(|c| vec![c]).collect(),
            false => vec![(0..self.channels).collect()],
        };
        self.gather(values, &colours, |part| {
            part.iter().sum::<f64>() / part.len() as f64
        })
    }

    /// Of all channels and entries that become one pixel, the one that is furthest from 0.
    pub fn extremes(&self, values: &[f32]) -> Pixels {
        let furthest = |part: &[f64]| {
            part.iter()
                .copied()
                .fold(0.0, |a: f64, b| if b.abs() > a.abs() { b } else { a })
        };
        self.gather(values, &[(0..self.channels).collect()], furthest)
    }

    /// One plane for each group of channels; `reduce` makes one number of those under a pixel.
    fn gather(
        &self,
        values: &[f32],
        groups: &[Vec<usize>],
        reduce: impl Fn(&[f64]) -> f64,
    ) -> Pixels {
        let block = self.height.max(self.width).div_ceil(SIDE);
        let (height, width) = (self.height.div_ceil(block), self.width.div_ceil(block));
        let mut part = vec![];
        let mut plane = |channels: &Vec<usize>| {
            let pixel = |i: usize| {
                let (top, left) = (i / width * block, i % width * block);
                part.clear();
                for c in channels {
                    for y in top..(top + block).min(self.height) {
                        let row = self.first + c * self.stride + y * self.width;
                        let entries = row + left..row + (left + block).min(self.width);
                        part.extend(values[entries].iter().map(|v| f64::from(*v)));
                    }
                }
                reduce(&part)
            };
            (0..height * width).map(pixel).collect()
        };
        Pixels {
            width,
            planes: groups.iter().map(&mut plane).collect(),
        }
    }
}

/// Numbers of a picture, row by row, one plane for each of its colours.
#[derive(Debug, Clone, PartialEq)]
pub struct Pixels {
    width: usize,
    planes: Vec<Vec<f64>>,
}

impl Pixels {
    /// Width and height.
    pub fn size(&self) -> (usize, usize) {
        (self.width, self.planes[0].len() / self.width)
    }

    /// With the first row at the bottom, as axes are drawn.
    #[must_use]
    pub fn upward(&self) -> Self {
        let flip = |plane: &Vec<f64>| plane.chunks(self.width).rev().flatten().copied().collect();
        Self {
            width: self.width,
            planes: self.planes.iter().map(flip).collect(),
        }
    }

    /// A PNG as a `data:` URI, whose pixel of numbers `v` (one of each plane) is `colour(v)`: grey,
    /// red-green-blue, or these and opacity.
    pub fn uri<const N: usize>(&self, colour: impl Fn(&[f64]) -> [u8; N]) -> String {
        let kind = const {
            match N {
                1 => png::ColorType::Grayscale,
                3 => png::ColorType::Rgb,
                4 => png::ColorType::Rgba,
                _ => panic!("a pixel has 1, 3 or 4 bytes"),
            }
        };
        let numbers = |i: usize| self.planes.iter().map(|plane| plane[i]).collect::<Vec<_>>();
        let bytes: Vec<u8> = (0..self.planes[0].len())
            .flat_map(|i| colour(&numbers(i)))
            .collect();
        let mut file = vec![];
        let (width, height) = self.size();
        let mut encoder = png::Encoder::new(&mut file, width as u32, height as u32);
        encoder.set_color(kind);
        encoder.set_depth(png::BitDepth::Eight);
        encoder.set_compression(png::Compression::High);
        let written = encoder
            .write_header()
            .and_then(|mut writer| writer.write_image_data(&bytes));
        written.expect("a picture has pixels, all of them, and memory takes what is written");
        format!("data:image/png;base64,{}", STANDARD.encode(file))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::colour::{byte, diverging};

    fn decode(uri: &str) -> (Vec<u8>, png::ColorType) {
        let file = STANDARD
            .decode(uri.strip_prefix("data:image/png;base64,").unwrap())
            .unwrap();
        let mut reader = png::Decoder::new(std::io::Cursor::new(file))
            .read_info()
            .unwrap();
        let mut bytes = vec![0; reader.output_buffer_size().unwrap()];
        let info = reader.next_frame(&mut bytes).unwrap();
        bytes.truncate(info.buffer_size());
        (bytes, info.color_type)
    }

    #[test]
    fn a_png_decodes_to_its_pixels() {
        let grey = Layout::of(&[1, 2, 3])
            .unwrap()
            .means(&[0.0, 0.2, 0.4, 0.6, 0.8, 1.0]);
        assert_eq!(grey.size(), (3, 2));
        assert_eq!(
            decode(&grey.uri(|v| [byte(v[0])])),
            (vec![0, 51, 102, 153, 204, 255], png::ColorType::Grayscale)
        );
        assert_eq!(
            decode(&grey.upward().uri(|v| [byte(v[0])])).0,
            [153, 204, 255, 0, 51, 102]
        );
        let rgb: Vec<f32> = [[1.0; 4], [0.0; 4], [0.2; 4]].concat();
        let rgb = Layout::of(&[3, 2, 2])
            .unwrap()
            .means(&rgb)
            .uri(|v| [byte(v[0]), byte(v[1]), byte(v[2])]);
        assert_eq!(decode(&rgb), ([255, 0, 51].repeat(4), png::ColorType::Rgb));
        let moved = Layout::of(&[2, 2])
            .unwrap()
            .extremes(&[0.0, 1.0, -1.0, 0.0])
            .uri(|v| diverging(v[0]));
        let (bytes, kind) = decode(&moved);
        assert_eq!(
            (bytes.chunks(4).map(|p| p[3]).collect(), kind),
            (vec![0, 255, 255, 0], png::ColorType::Rgba)
        );
    }

    #[test]
    fn any_shape_is_seen_or_refused() {
        let count = |shape: &[usize]| {
            (0..shape.iter().product())
                .map(|i: usize| i as f32)
                .collect::<Vec<_>>()
        };
        let first = |shape: &[usize]| {
            let pixels = Layout::of(shape).unwrap().means(&count(shape));
            pixels
                .planes
                .iter()
                .map(|plane| plane[0])
                .collect::<Vec<_>>()
        };
        assert_eq!(first(&[3, 4, 2, 2]), [8.0, 24.0, 40.0]); // frame 2 of each colour
        assert_eq!(first(&[4, 3, 2, 2]), [24.0, 28.0, 32.0]);
        assert_eq!(first(&[2, 2, 2]), [2.0]); // the mean of 0 and 4
        for vector in [
            &[7][..],
            &[1, 7],
            &[2, 1, 7],
            &[2, 7, 1],
            &[],
            &[0, 2, 2],
            &[2, 2, 2, 2],
            &[1, 1, 1, 2, 2],
        ] {
            assert_eq!(Layout::of(vector), None, "{vector:?}");
        }
    }

    #[test]
    fn large_arrays_become_small_and_keep_what_moved() {
        let shape = [2, SIDE + 1, 3];
        let mut values = vec![0.0; 2 * (SIDE + 1) * 3];
        *values.last_mut().unwrap() = -4.0;
        let layout = Layout::of(&shape).unwrap();
        let (means, extremes) = (layout.means(&values), layout.extremes(&values));
        assert_eq!(means.size(), (2, SIDE / 2 + 1));
        assert_eq!(means.planes[0].last(), Some(&-2.0)); // the corner: one entry of two channels
        assert_eq!(extremes.planes[0].last(), Some(&-4.0));
    }
}
