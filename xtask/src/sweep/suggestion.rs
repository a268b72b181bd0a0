//! What a misspelt word may have meant. Knows no words of its own.

/// ", did you mean X?" if a known word is near.
pub fn suggestion<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> String {
    // Below 0.7 suggestions are noise: "base" and "name" are 0.67 alike.
    let scored = known
        .into_iter()
        .map(|known| (strsim::jaro_winkler(word, known), known));
    let best = scored
        .filter(|(score, _)| *score > 0.7)
        .max_by(|a, b| a.0.total_cmp(&b.0));
    best.map_or_else(String::new, |(_, known)| format!(", did you mean {known}?"))
}
