//! Text in columns that fits a terminal: aligned tables, and paragraphs.
//! Does not know what any of it says.
use std::{fmt::Write as _, io::stdout};
use terminal_size::{Width, terminal_size_of};
use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

/// What any terminal has; also for files and pipes, so that they do not depend on who looks.
const ROOM: usize = 80;
/// Between columns.
const GAP: usize = 3;
/// Text is wrapped to columns no narrower than this.
const NARROW: usize = 10;

/// Columns of the terminal.
fn room() -> usize {
    terminal_size_of(stdout()).map_or(ROOM, |(Width(width), _)| ROOM.max(width.into()))
}

/// Aligned text; columns from `numbers` on are right-aligned. A repeated first cell is left out.
/// Where the terminal is too narrow, text is wrapped inside its column; where that is not enough,
/// columns of numbers move below.
pub fn table(header: &[&str], rows: &[impl AsRef<[String]>], numbers: usize) -> String {
    let rows: Vec<&[String]> = rows.iter().map(AsRef::as_ref).collect();
    let header: Vec<String> = header.iter().map(|name| (*name).to_owned()).collect();
    fitted(&header, &rows, numbers, room())
}

/// The same sentence in lines that fit, after the first one indented by `indent` more.
pub fn paragraph(text: &str, indent: usize) -> String {
    let start = text.len() - text.trim_start().len();
    let lines = wrapped(
        text.trim(),
        room().saturating_sub(start + indent).max(NARROW),
    );
    let line = |(i, line): (usize, &String)| {
        format!(
            "{:1$}{line}\n",
            "",
            if i == 0 { start } else { start + indent }
        )
    };
    lines.iter().enumerate().map(line).collect()
}

fn fitted(header: &[String], rows: &[&[String]], numbers: usize, room: usize) -> String {
    let widest = |column: usize, with: &str| {
        rows.iter()
            .map(|row| row[column].width())
            .chain([with.width()])
            .max()
    };
    let mut widths: Vec<usize> = (0..header.len())
        .map(|c| widest(c, &header[c]).unwrap_or(0))
        .collect();
    let total =
        |widths: &[usize]| 2 + widths.iter().sum::<usize>() + GAP * widths.len().saturating_sub(1);
    if total(&widths) > room {
        // Headings of numbers wrap first, then the widest of the texts.
        for (c, width) in widths.iter_mut().enumerate().skip(numbers) {
            *width = widest(c, "").unwrap_or(0).max((*width).min(NARROW));
        }
        while total(&widths) > room
            && let Some(widest) = widths[..numbers]
                .iter_mut()
                .max()
                .filter(|width| **width > NARROW)
        {
            *widest -= 1;
        }
    }
    let mut text = String::new();
    let mut from = numbers;
    loop {
        let mut columns: Vec<usize> = (0..numbers)
            .chain((from < widths.len()).then_some(from))
            .collect();
        let of = |columns: &[usize]| columns.iter().map(|c| widths[*c]).collect::<Vec<_>>();
        for next in from + 1..widths.len() {
            columns.push(next);
            if total(&of(&columns)) > room {
                columns.pop();
                break;
            }
        }
        aligned(&mut text, &columns, header, rows, &widths, numbers);
        from = columns
            .last()
            .map_or(widths.len(), |last| last + 1)
            .max(from + 1);
        if from >= widths.len() {
            return text;
        }
        text.push('\n');
    }
}

fn aligned(
    text: &mut String,
    columns: &[usize],
    header: &[String],
    rows: &[&[String]],
    widths: &[usize],
    numbers: usize,
) {
    let mut line = |cells: &[&str]| {
        let cells: Vec<Vec<String>> = columns
            .iter()
            .map(|c| wrapped(cells[*c], widths[*c]))
            .collect();
        for i in 0..cells.iter().map(Vec::len).max().unwrap_or(0) {
            for (place, (column, lines)) in columns.iter().zip(&cells).enumerate() {
                let cell = lines.get(i).map_or("", String::as_str);
                let pad = widths[*column].saturating_sub(cell.width());
                let (left, right) = if *column < numbers {
                    (0, pad)
                } else {
                    (pad, 0)
                };
                let gap = if place == 0 { 2 } else { GAP };
                let _ = write!(text, "{:gap$}{:left$}{cell}{:right$}", "", "", "");
            }
            text.truncate(text.trim_end_matches(' ').len());
            text.push('\n');
        }
    };
    line(&header.iter().map(String::as_str).collect::<Vec<_>>());
    let mut last = "";
    for row in rows {
        let mut cells: Vec<&str> = row.iter().map(String::as_str).collect();
        if std::mem::replace(&mut last, cells[0]) == cells[0] {
            cells[0] = "";
        }
        line(&cells);
    }
}

/// Lines of at most `width`, broken after what ends a word or, where there is no such place,
/// anywhere.
fn wrapped(text: &str, width: usize) -> Vec<String> {
    let mut lines = vec![];
    let mut line = String::new();
    for c in text.chars() {
        if line.width() + c.width().unwrap_or(0) > width && !line.is_empty() {
            let next = c;
            // A number stays whole: `9.5`, `10,000`.
            let ends = |(i, c): (usize, char)| {
                let end = i + c.len_utf8();
                let in_a_number =
                    ".,".contains(c) && line[end..].chars().next().unwrap_or(next).is_ascii_digit();
                (" -_+,/.@|".contains(c) && !in_a_number).then_some(end)
            };
            let end = if c == ' ' {
                line.len()
            } else {
                line.char_indices()
                    .rev()
                    .find_map(ends)
                    .unwrap_or(line.len())
            };
            let rest = line.split_off(end);
            lines.push(line.trim_end().to_owned());
            line = rest;
            if c == ' ' && line.is_empty() {
                continue;
            }
        }
        line.push(c);
    }
    lines.push(line);
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    fn owned(cells: &[&str]) -> Vec<String> {
        cells.iter().map(|cell| (*cell).to_owned()).collect()
    }

    fn fit(header: &[&str], rows: &[&[&str]], numbers: usize, room: usize) -> String {
        let rows: Vec<Vec<String>> = rows.iter().map(|row| owned(row)).collect();
        fitted(
            &owned(header),
            &rows.iter().map(Vec::as_slice).collect::<Vec<_>>(),
            numbers,
            room,
        )
    }

    #[test]
    fn tables_align_and_do_not_repeat_the_first_cell() {
        let rows: &[&[&str]] = &[&["jt", "9.0 %"], &["jt", "10.0 %"], &["at", "–"]];
        let text = fit(&["run", "clean"], rows, 1, 80);
        assert_eq!(
            text,
            "  run    clean\n  jt     9.0 %\n        10.0 %\n  at         –\n"
        );
        // East Asian characters are two columns wide.
        assert_eq!(
            fit(&["a", "b"], &[&["音声", "1"]], 1, 80),
            "  a      b\n  音声   1\n"
        );
    }

    #[test]
    fn nothing_is_wider_than_the_terminal_and_nothing_is_lost() {
        let long = "without-a_modality_whose_name_goes_on+another-one.of.them";
        let unbroken = "x".repeat(90);
        let rows: &[&[&str]] = &[
            &[&unbroken, long, "l2 0.5", "99.0 %", "50.0 %"],
            &["at", "joint", "l2 1", "9 %", "–"],
        ];
        let header = [
            "run",
            "threat",
            "budget",
            "clean",
            "a heading of many words",
        ];
        for room in [60, 80] {
            let text = fit(&header, rows, 3, room);
            assert!(text.lines().all(|line| line.width() <= room), "{text}");
            let letters = |text: &str| {
                let mut all: Vec<char> = text.chars().filter(|c| !c.is_whitespace()).collect();
                all.sort_unstable();
                all
            };
            let all = header
                .iter()
                .chain(rows.iter().copied().flatten())
                .copied()
                .collect::<String>();
            assert_eq!(letters(&text), letters(&all), "{text}");
        }
    }

    #[test]
    fn too_many_columns_of_numbers_continue_below() {
        let header: Vec<String> = (0..12).map(|i| format!("run {i}")).collect();
        let header: Vec<&str> = ["what"]
            .into_iter()
            .chain(header.iter().map(String::as_str))
            .collect();
        let row: Vec<&str> = ["radius"]
            .into_iter()
            .chain(["0.50 estimated"; 12])
            .collect();
        let text = fit(&header, &[&row], 1, 80);
        assert!(text.lines().all(|line| line.width() <= 80), "{text}");
        assert_eq!(
            (
                text.matches("0.50 estimated").count(),
                text.matches("radius").count()
            ),
            (12, 3),
            "{text}"
        );
        assert!(
            (0..12).all(|i| text.contains(&format!("run {i}"))),
            "{text}"
        );
    }

    #[test]
    fn paragraphs_break_between_words() {
        assert_eq!(wrapped("one two three", 8), ["one two", "three"]);
        assert_eq!(wrapped("one two-three", 9), ["one two-", "three"]);
        assert_eq!(wrapped("to ±9.5 points", 6), ["to", "±9.5", "points"]);
        assert_eq!(wrapped("of 10,000. All", 9), ["of", "10,000.", "All"]);
        assert_eq!(wrapped("", 9), [""]);
    }
}
