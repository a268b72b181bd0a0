//! A Rust file as tokens, without comments and the insides of literals, so that a check for a word
//! never trips over prose. Knows Rust's lexical rules, not its grammar.

/// A Rust file.
#[derive(Debug)]
pub struct Source {
    /// From the root, with `/`.
    pub path: String,
    /// The lines as written.
    pub lines: Vec<String>,
    /// Identifiers and single punctuation characters; literals leave nothing.
    pub tokens: Vec<Token>,
}

/// One identifier, number or punctuation character.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Token {
    pub text: String,
    /// From 1.
    pub line: usize,
    /// Compiled for tests, benchmarks or examples only.
    pub test: bool,
}

impl Source {
    /// Lexes `text`.
    pub fn new(path: &str, text: &str) -> Self {
        let mut tokens = tokens(&blank(text));
        if path
            .split('/')
            .any(|part| matches!(part, "tests" | "benches" | "examples"))
            || path.ends_with("/tests.rs")
        {
            tokens.iter_mut().for_each(|token| token.test = true);
        } else {
            mark_tests(&mut tokens);
        }
        Self {
            path: path.to_owned(),
            lines: text.lines().map(str::to_owned).collect(),
            tokens,
        }
    }

    /// Where the tokens of `pattern` (split at blanks) stand in a row: indices of the first of
    /// them.
    pub fn find(&self, pattern: &str) -> Vec<usize> {
        let words: Vec<&str> = pattern.split_whitespace().collect();
        let equal = |window: &[Token]| {
            window
                .iter()
                .zip(&words)
                .all(|(token, word)| token.text == *word)
        };
        self.tokens
            .windows(words.len())
            .enumerate()
            .filter(|(_, window)| equal(window))
            .map(|(index, _)| index)
            .collect()
    }

    /// The text of the token `offset` after `index`; empty outside the file.
    pub fn near(&self, index: usize, offset: isize) -> &str {
        index
            .checked_add_signed(offset)
            .and_then(|index| self.tokens.get(index))
            .map_or("", |token| &token.text)
    }
}

/// `text` with comments and the contents of string and character literals replaced by blanks.
fn blank(text: &str) -> String {
    let chars: Vec<char> = text.chars().collect();
    let mut out = String::with_capacity(text.len());
    let mut at = 0;
    while at < chars.len() {
        let end = match (chars[at], chars.get(at + 1)) {
            ('/', Some('/')) => line_end(&chars, at),
            ('/', Some('*')) => comment_end(&chars, at),
            ('"', _) => string_end(&chars, at),
            ('\'', _) => character_end(&chars, at),
            (c, _) if is_word(c) => {
                let end = word_end(&chars, at);
                let word: String = chars[at..end].iter().collect();
                if let Some(close) = raw_string_end(&chars, &word, end) {
                    close
                } else {
                    out.push_str(&word);
                    at = end;
                    continue;
                }
            }
            _ => at,
        };
        if end == at {
            out.push(chars[at]);
            at += 1;
        } else {
            // A literal becomes a blank, but its line breaks stay so that lines can be counted.
            out.push(' ');
            out.extend(chars[at..end].iter().filter(|c| **c == '\n'));
            at = end;
        }
    }
    out
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

fn word_end(chars: &[char], at: usize) -> usize {
    (at..chars.len())
        .find(|&i| !is_word(chars[i]))
        .unwrap_or(chars.len())
}

fn line_end(chars: &[char], at: usize) -> usize {
    (at..chars.len())
        .find(|&i| chars[i] == '\n')
        .unwrap_or(chars.len())
}

/// Block comments nest.
fn comment_end(chars: &[char], at: usize) -> usize {
    let (mut depth, mut i) = (0, at);
    while i < chars.len() {
        match (chars[i], chars.get(i + 1)) {
            ('/', Some('*')) => (depth, i) = (depth + 1, i + 2),
            ('*', Some('/')) => (depth, i) = (depth - 1, i + 2),
            _ => i += 1,
        }
        if depth == 0 {
            return i;
        }
    }
    chars.len()
}

fn string_end(chars: &[char], at: usize) -> usize {
    let mut i = at + 1;
    while i < chars.len() && chars[i] != '"' {
        i += if chars[i] == '\\' { 2 } else { 1 };
    }
    (i + 1).min(chars.len())
}

/// The end of a character literal; `at` itself for a lifetime.
fn character_end(chars: &[char], at: usize) -> usize {
    match (chars.get(at + 1), chars.get(at + 2)) {
        (Some('\\'), _) => (at + 3..chars.len())
            .find(|&i| chars[i] == '\'')
            .map_or(chars.len(), |i| i + 1),
        (Some(_), Some('\'')) => at + 3,
        _ => at,
    }
}

/// The end of `r"…"`, `br#"…"#` and the like, whose prefix `word` ends before `from`.
fn raw_string_end(chars: &[char], word: &str, from: usize) -> Option<usize> {
    if !matches!(word, "r" | "br" | "cr") {
        return None;
    }
    let quote = (from..chars.len()).find(|&i| chars[i] != '#')?;
    if chars[quote] != '"' {
        return None;
    }
    let hashes = quote - from;
    let closes = |i: usize| {
        chars[i] == '"'
            && chars[i + 1..]
                .iter()
                .take_while(|c| **c == '#')
                .take(hashes)
                .count()
                == hashes
    };
    Some(
        (quote + 1..chars.len())
            .find(|&i| closes(i))
            .map_or(chars.len(), |i| i + 1 + hashes),
    )
}

fn tokens(blanked: &str) -> Vec<Token> {
    let mut tokens = Vec::new();
    for (index, text) in blanked.lines().enumerate() {
        let chars: Vec<char> = text.chars().collect();
        let mut at = 0;
        while at < chars.len() {
            let end = if is_word(chars[at]) {
                word_end(&chars, at)
            } else {
                at + 1
            };
            if !chars[at].is_whitespace() {
                tokens.push(Token {
                    text: chars[at..end].iter().collect(),
                    line: index + 1,
                    test: false,
                });
            }
            at = end;
        }
    }
    tokens
}

/// Marks what `#[cfg(test)]`, `#[cfg(all(test, …))]` or `#[test]` governs: up to the end of the
/// item.
fn mark_tests(tokens: &mut [Token]) {
    let starts = |from: usize, words: &[&str]| {
        tokens.len() >= from + words.len()
            && words
                .iter()
                .zip(&tokens[from..])
                .all(|(word, token)| token.text == *word)
    };
    let attributes: [&[&str]; 3] = [
        &["#", "[", "cfg", "(", "test", ")"],
        &["#", "[", "cfg", "(", "all", "(", "test"],
        &["#", "[", "test", "]"],
    ];
    let governed: Vec<usize> = (0..tokens.len())
        .filter(|&i| attributes.iter().any(|words| starts(i, words)))
        .collect();
    for start in governed {
        let (mut depth, mut end) = (0_i32, tokens.len());
        for (index, token) in tokens.iter().enumerate().skip(start) {
            match token.text.as_str() {
                "{" | "(" | "[" => depth += 1,
                "}" | ")" | "]" => depth -= 1,
                _ => {}
            }
            if depth == 0 && matches!(token.text.as_str(), "}" | ";") {
                end = index + 1;
                break;
            }
        }
        tokens[start..end]
            .iter_mut()
            .for_each(|token| token.test = true);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<String> {
        Source::new("src/x.rs", text)
            .tokens
            .into_iter()
            .map(|token| token.text)
            .collect()
    }

    #[test]
    fn comments_and_literals_leave_nothing() {
        assert_eq!(words("a // b\n/* c /* d */ e */ f"), ["a", "f"]);
        assert_eq!(
            words(r##"a("b\"c", r#"d"e"#, b"f", 'g', '\'', '\u{1}')"##).join(""),
            "a(,,b,,,)"
        );
        assert_eq!(
            words("fn f<'a>(x: &'a str) {}").join(""),
            "fnf<'a>(x:&'astr){}"
        );
        assert_eq!(words("let r = r\"un\nclosed").join(""), "letr=");
    }

    #[test]
    fn lines_are_counted_through_literals() {
        let source = Source::new("src/x.rs", "let a = \"one\ntwo\";\n/* three\n */ b");
        assert_eq!(
            source
                .tokens
                .last()
                .map(|token| (token.text.as_str(), token.line)),
            Some(("b", 4))
        );
    }

    #[test]
    fn tests_are_known() {
        let source = Source::new(
            "src/x.rs",
            "fn a() {}\n#[cfg(test)]\nmod tests { fn b() { c[1]; } }\nfn d() {}",
        );
        let test = |name: &str| {
            source
                .tokens
                .iter()
                .find(|token| token.text == name)
                .map(|token| token.test)
        };
        assert_eq!(
            [test("a"), test("b"), test("c"), test("d")],
            [Some(false), Some(true), Some(true), Some(false)]
        );
        assert!(
            Source::new("crates/x/tests/y.rs", "fn a() {}")
                .tokens
                .iter()
                .all(|token| token.test)
        );
    }
}
