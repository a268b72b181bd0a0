//! Words that results, settings and threats use beside the names of modalities, so that no modality
//! may be called so. Does not know what is done with them.

/// The threat of one budget over all modalities.
pub const JOINT: &str = "joint";
/// The threat of a budget for each modality.
pub const EACH: &str = "each";
/// [`JOINT`] and every modality alone.
pub const USUAL: &str = "usual";
/// The threat of any one modality missing.
pub const ANY_MISSING: &str = "any-missing";
/// How threats with missing modalities begin.
pub const WITHOUT: &str = "without-";
/// The union of all attacks.
pub const STRONGEST: &str = "strongest";
/// The part of a model behind its encoders, in the record of gradients.
pub const HEAD: &str = "head";
/// Every corruption, in a list of their names.
pub const ALL: &str = "all";
/// The middle of the name of a file of labels.
pub const LABELS: &str = "labels";
/// The middle of the name of a file of rows.
pub const INDEX: &str = "index";

/// What else goes by `name`, if a modality may therefore not. Upper and lower case are the same.
pub fn reserved(name: &str) -> Option<&'static str> {
    let name = name.to_ascii_lowercase();
    match name.as_str() {
        JOINT | EACH | USUAL | ANY_MISSING => Some("a threat"),
        STRONGEST => Some("the union of all attacks"),
        HEAD => Some("the part of the model behind the encoders"),
        LABELS | INDEX => Some("a file beside the arrays"),
        _ if name.starts_with(WITHOUT) => Some("a threat with missing modalities"),
        _ => None,
    }
}
