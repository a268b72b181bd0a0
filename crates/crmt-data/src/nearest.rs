//! "Did you mean …?" after a misspelt name.
//! Does not know what is named.
use crate::text::visible;

/// The known name that looks most like `name`, if one does.
pub(crate) fn nearest(name: &str, known: &[String]) -> Option<String> {
    // Jaro-Winkler favours a common beginning; unrelated names stay below 0.7 or so.
    let like = |k: &String| strsim::jaro_winkler(name, k);
    known
        .iter()
        .filter(|k| like(k) >= 0.8)
        .max_by(|a, b| like(a).total_cmp(&like(b)))
        .cloned()
}

/// For the end of a message.
pub(crate) fn suggestion(nearest: Option<String>) -> String {
    nearest
        .map(|n| format!(", did you mean `{}`?", visible(&n)))
        .unwrap_or_default()
}
