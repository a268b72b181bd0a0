//! Where text leaves for people or pipes: nothing here panics, and nothing but our own text reaches
//! a terminal. Does not know what is said.
use anyhow::{Context, Result};
use std::{
    borrow::Cow,
    env,
    io::{ErrorKind, IsTerminal, Write},
};

/// Writes a result to standard output. Whoever closed the other end has read enough.
///
/// # Errors
/// When it can't be written for another reason, such as a full disk.
pub fn out(text: &str) -> Result<()> {
    write_out(&safe(text))
}

/// The same for JSON, which stays the same document: what a terminal would obey is escaped.
///
/// # Errors
/// As [`out`].
pub fn out_json(text: &str) -> Result<()> {
    let escape = |c: char| {
        if obeyed(c) {
            format!("\\u{:04x}", u32::from(c))
        } else {
            c.to_string()
        }
    };
    write_out(&text.chars().map(escape).collect::<String>())
}

fn write_out(text: &str) -> Result<()> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(e) if e.kind() != ErrorKind::BrokenPipe => {
            Err(e).context("can't write to standard output")
        }
        _ => Ok(()),
    }
}

/// Writes a line to standard error. That nobody can read it is no reason to stop working.
pub fn err(line: &str) {
    let _ = writeln!(Stderr, "{}", safe(line));
}

/// Whether people see colours on standard error.
pub fn colours() -> bool {
    let asked_not = env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    std::io::stderr().is_terminal()
        && !asked_not
        && env::var_os("TERM").is_none_or(|term| term != "dumb")
}

/// Standard error that never fails: what can't be written is lost.
#[derive(Debug, Clone, Copy)]
pub struct Stderr;

impl Write for Stderr {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let _ = std::io::stderr().write_all(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        let _ = std::io::stderr().flush();
        Ok(())
    }
}

/// The text without what a terminal would obey: names of data sets, classes and files may hold
/// anything.
pub fn safe(text: &str) -> Cow<'_, str> {
    if text.contains(obeyed) {
        text.replace(obeyed, "\u{fffd}").into()
    } else {
        text.into()
    }
}

/// Controls other than a line's end, and what turns the direction of writing.
fn obeyed(c: char) -> bool {
    let turns = matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    (c.is_control() && c != '\n') || turns || matches!(c, '\u{2028}' | '\u{2029}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_a_terminal_obeys_is_left() {
        let name = "\u{1b}[31mX\u{1b}]0;t\u{7}\u{9b}2J\r\u{202e}abc\u{2066}\u{200f}";
        let told = safe(name).into_owned();
        assert_eq!(told, "�[31mX�]0;t��2J��abc��");
        assert!(matches!(
            safe("größer als 1\nnoch eine – Zeile"),
            Cow::Borrowed(_)
        ));
    }
}
