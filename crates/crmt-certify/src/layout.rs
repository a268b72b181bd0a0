//! What is known of the array between two layers, so that layers which can't follow one another are
//! refused. Does not know bounds.
use crate::AuditError;
use crmt_core::Layer;

/// The axes of one sample, as far as the layers before tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Layout {
    /// Anything.
    Unknown,
    /// The last axis has so many elements; there may be others.
    LastAxis(usize),
    /// `[channels, ...]`.
    Image(usize),
    /// One axis of so many elements.
    Vector(usize),
    /// One axis of a multiple of so many elements: an image was flattened.
    Flat(usize),
}

/// Fixed operations that act on each element, by the names they usually go by: they keep the shape.
const ELEMENTWISE: [&str; 14] = [
    "relu",
    "leaky-relu",
    "abs",
    "tanh",
    "sigmoid",
    "softplus",
    "gelu",
    "silu",
    "elu",
    "max-min",
    "group-sort",
    "dropout",
    "identity",
    "clamp",
];

impl Layout {
    pub fn any_vector() -> Self {
        Self::Flat(1)
    }

    pub fn is_vector(self) -> bool {
        matches!(self, Self::Vector(_) | Self::Flat(_))
    }

    pub fn is_image(self) -> bool {
        matches!(self, Self::Image(_))
    }

    /// What `layer` leaves of such an array.
    ///
    /// # Errors
    /// [`AuditError::Follows`] when it can't take it.
    pub fn after(self, layer: &Layer) -> Result<Self, AuditError> {
        Ok(match layer {
            Layer::Linear { name, weight } => match *weight.dims() {
                [out, inp] => self.through_linear(name, out, inp)?,
                _ => Self::Unknown,
            },
            Layer::Conv2d { name, kernel, .. } => match *kernel.dims() {
                [out, inp, ..] => {
                    match self {
                        Self::Image(channels) if channels != inp => {
                            return Err(refused(name, inp, "channels", channels));
                        }
                        Self::Vector(n) | Self::Flat(n) => {
                            return Err(refused(name, inp, "channels of an image", n));
                        }
                        _ => {}
                    }
                    Self::Image(out)
                }
                _ => Self::Unknown,
            },
            Layer::Diagonal { name, scale } => {
                let n = scale.elem_count();
                match self {
                    Self::Image(channels) if channels != n => {
                        return Err(refused(name, n, "channels", channels));
                    }
                    Self::Vector(len) if len != n => return Err(refused(name, n, "features", len)),
                    Self::Flat(len) if !n.is_multiple_of(len) => {
                        return Err(refused(name, n, "features, a multiple of", len));
                    }
                    _ => self,
                }
            }
            layer if is_flatten(layer) => match self {
                Self::Unknown => Self::any_vector(),
                Self::LastAxis(n) | Self::Image(n) => Self::Flat(n),
                vector => vector,
            },
            Layer::Shift { .. } => self,
            Layer::Fixed { name, .. } | Layer::Exact { name, .. }
                if ELEMENTWISE.contains(&name.as_str()) =>
            {
                self
            }
            Layer::Bounded { layer, .. } | Layer::Rounded { layer, .. } => self.after(layer)?,
            Layer::Residual { name, branch } => self.both(name, branch, &[])?,
            Layer::Sum {
                name,
                branches: [f, g],
            } => self.both(name, f, g)?,
            _ => Self::Unknown,
        })
    }

    fn through_linear(self, name: &str, out: usize, inp: usize) -> Result<Self, AuditError> {
        match self {
            Self::Vector(n) if n != inp => Err(refused(name, inp, "features", n)),
            Self::Flat(n) if !inp.is_multiple_of(n) => {
                Err(refused(name, inp, "features, a multiple of", n))
            }
            Self::LastAxis(n) if n != inp => Err(refused(name, inp, "features", n)),
            Self::Vector(_) | Self::Flat(_) => Ok(Self::Vector(out)),
            Self::LastAxis(_) | Self::Image(_) | Self::Unknown => Ok(Self::LastAxis(out)),
        }
    }

    /// What two branches leave, which are added; an empty one is the identity.
    fn both(self, name: &str, f: &[Layer], g: &[Layer]) -> Result<Self, AuditError> {
        let end = |layers: &[Layer]| {
            layers
                .iter()
                .try_fold(self, |layout, layer| layout.after(layer))
        };
        let (f, g) = (end(f)?, end(g)?);
        let sizes = match (f, g) {
            (Self::Image(a), Self::Image(b))
            | (Self::Vector(a), Self::Vector(b))
            | (Self::LastAxis(a), Self::LastAxis(b)) => Some((a, b)),
            _ => None,
        };
        match sizes {
            Some((a, b)) if a != b => {
                Err(refused(name, a, "channels or features in both branches", b))
            }
            _ => Ok(if f == Self::Unknown { g } else { f }),
        }
    }
}

fn refused(layer: &str, takes: usize, what: &'static str, before: usize) -> AuditError {
    AuditError::Follows {
        layer: layer.into(),
        takes,
        what,
        before,
    }
}

/// Whether it makes a vector of an image, and does nothing else.
pub(crate) fn is_flatten(layer: &Layer) -> bool {
    match layer {
        Layer::Flatten => true,
        Layer::Fixed { name, lipschitz } => name == "flatten" && *lipschitz == 1.,
        _ => false,
    }
}
