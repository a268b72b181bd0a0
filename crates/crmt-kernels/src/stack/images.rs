//! Channels-last images with zeros between their rows, in one buffer: the first rows of all images,
//! then the second ones, and so on.
//!
//! One margin serves as the right border of a row and the left border of the next. So a kernel row
//! is a run of elements at a fixed distance from every pixel, and a convolution is a matrix product
//! on the buffer itself, without a copy of the windows; the rows of pixels that have a kernel row
//! inside the image lie together, so that nothing is computed for kernel rows outside. What the
//! product computes at margins is overwritten by [`Images::each_row`], as is what a reused buffer
//! held before. Knows nothing of layers.
use crate::conv::layout::transpose;
use crate::real::Real;
use std::ops::Range;

/// The shape of the buffer.
#[derive(Debug, Clone, Copy)]
pub(super) struct Images {
    pub samples: usize,
    pub channels: usize,
    pub height: usize,
    pub width: usize,
    /// Zeros after each row, and before the first: the largest kernel's radius.
    pub margin: usize,
}

/// Pixels and margins that a kernel row leads from and to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Span {
    /// Of the result.
    pub to: Range<usize>,
    /// Where the kernel row begins for the first of them, in the buffer.
    pub from: usize,
}

impl Images {
    fn row(&self) -> usize {
        self.width + self.margin
    }

    /// Pixels and margins of the same row of all images.
    fn level(&self) -> usize {
        self.samples * self.row()
    }

    /// Pixels and margins of all images, less the first margin.
    pub fn positions(&self) -> usize {
        self.height * self.level()
    }

    /// Elements of a buffer.
    pub fn len(&self) -> usize {
        (self.positions() + 2 * self.margin) * self.channels
    }

    /// Elements of a row of pixels.
    pub fn row_len(&self) -> usize {
        self.width * self.channels
    }

    /// Where a position begins.
    pub fn position(&self, i: usize) -> usize {
        (self.margin + i) * self.channels
    }

    /// Where row `ky` of a `k × k` kernel lies inside the image; the middle row, everywhere.
    pub fn span(&self, k: usize, ky: usize) -> Span {
        let radius = k / 2;
        let first = radius.saturating_sub(ky).min(self.height);
        let end = (self.height + radius)
            .saturating_sub(ky)
            .clamp(first, self.height);
        // Nothing of an image that is lower than the kernel's reach.
        let from = (first + ky).saturating_sub(radius) * self.level() + self.margin - radius;
        Span {
            to: first * self.level()..end * self.level(),
            from: from * self.channels,
        }
    }

    /// Where a pixel begins.
    #[inline(always)]
    pub fn pixel(&self, sample: usize, y: usize, x: usize) -> usize {
        (self.margin + y * self.level() + sample * self.row() + x) * self.channels
    }

    /// `f` on each row of pixels and the place of its first element; zeros everywhere else.
    #[inline(always)]
    pub fn each_row<T: Real>(&self, buffer: &mut [T], mut f: impl FnMut(usize, &mut [T])) {
        let len = self.row_len();
        let mut end = 0;
        for (y, sample) in
            (0..self.height).flat_map(|y| (0..self.samples).map(move |sample| (y, sample)))
        {
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
