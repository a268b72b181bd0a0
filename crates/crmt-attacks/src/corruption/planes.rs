//! How a sample of any shape is read as planes of rows. Does not know corruptions.

/// A sample as planes of rows; see [`Corruption`](super::Corruption).
pub(super) struct Planes {
    pub count: usize,
    pub height: usize,
    pub width: usize,
}

impl Planes {
    pub fn of(shape: &[usize]) -> Self {
        let (channels, height, width) = match shape {
            [] => (&[][..], 1, 1),
            [values] => (&[][..], 1, *values),
            [channels, time] => (std::slice::from_ref(channels), 1, *time),
            [channels @ .., height, width] => (channels, *height, *width),
        };
        Self {
            count: channels.iter().product(),
            height,
            width,
        }
    }

    /// In one plane.
    pub fn values(&self) -> usize {
        self.height * self.width
    }
}
