//! Channels-last images with zeros between them, in one buffer.
//!
//! One margin serves as the right border of a row and the left border of the next, and as the bottom of an image
//! and the top of the next. So a kernel row is a run of elements at a fixed distance from every pixel, and a
//! convolution is a matrix product on the buffer itself, without a copy of the windows; what the product computes
//! at margins is overwritten by [`Images::each_row`], as is what a reused buffer held before. Knows nothing of layers.
use crate::conv::layout::transpose;
use crate::real::Real;

/// The shape of the buffer.
#[derive(Debug, Clone, Copy)]
pub(super) struct Images {
    pub samples: usize,
    pub channels: usize,
    pub height: usize,
    pub width: usize,
    /// Zeros after each row and each image: the largest kernel's radius.
    pub margin: usize,
}

impl Images {
    fn row(&self) -> usize {
        self.width + self.margin
    }

    fn image(&self) -> usize {
        (self.height + self.margin) * self.row()
    }

    /// Zeros before the first pixel and after the last margin, in positions.
    fn slack(&self) -> usize {
        self.margin * (self.row() + 1)
    }

    /// Pixels and margins of all images, less the last margin.
    pub fn positions(&self) -> usize {
        self.samples * self.image()
    }

    /// Elements of a buffer.
    pub fn len(&self) -> usize {
        (self.positions() + 2 * self.slack()) * self.channels
    }

    /// Elements of a row of pixels.
    pub fn row_len(&self) -> usize {
        self.width * self.channels
    }

    /// Where the first pixel begins.
    pub fn start(&self) -> usize {
        self.slack() * self.channels
    }

    /// Where row `ky` of a `k × k` kernel begins for the first pixel.
    pub fn window(&self, k: usize, ky: usize) -> usize {
        (self.slack() + ky * self.row() - k / 2 * (self.row() + 1)) * self.channels
    }

    /// Where a pixel begins.
    #[inline(always)]
    pub fn pixel(&self, sample: usize, y: usize, x: usize) -> usize {
        (self.slack() + sample * self.image() + y * self.row() + x) * self.channels
    }

    /// `f` on each row of pixels and the place of its first element; zeros everywhere else.
    #[inline(always)]
    pub fn each_row<T: Real>(&self, buffer: &mut [T], mut f: impl FnMut(usize, &mut [T])) {
        let len = self.row_len();
        let mut end = 0;
        for (sample, y) in (0..self.samples).flat_map(|sample| (0..self.height).map(move |y| (sample, y))) {
            let at = self.pixel(sample, y, 0);
            buffer[end..at].fill(T::ZERO);
            end = at + len;
            f(at, &mut buffer[at..end]);
        }
        buffer[end..self.len()].fill(T::ZERO);
    }

    /// Zeros around the pixels.
    pub fn frame<T: Real>(&self, buffer: &mut [T]) {
        self.each_row(buffer, |_, _| ());
    }

    /// Copies `[samples, channels, height, width]` into the pixels, with zeros around them.
    pub fn read<T: Real>(&self, images: &[T], buffer: &mut [T]) {
        let plane = self.height * self.width;
        for (sample, image) in images.chunks(self.channels * plane).enumerate() {
            transpose(
                image,
                |channel| channel * plane,
                [self.channels, plane],
                |i, channel, part| {
                    let at = self.pixel(sample, i / self.width, i % self.width) + channel;
                    part.write(&mut buffer[at..], |v| v);
                },
            );
        }
        self.frame(buffer);
    }

    /// Copies the pixels to `[samples, channels, height, width]`.
    pub fn write<T: Real>(&self, buffer: &[T], images: &mut [T]) {
        let plane = self.height * self.width;
        for (sample, image) in images.chunks_mut(self.channels * plane).enumerate() {
            transpose(
                buffer,
                |i| self.pixel(sample, i / self.width, i % self.width),
                [plane, self.channels],
                |channel, i, part| part.write(&mut image[channel * plane + i..], |v| v),
            );
        }
    }
}
