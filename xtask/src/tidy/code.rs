//! Habits of the sources: file by file, by tokens. Knows which crate a file belongs to by its path.
use super::arrows::is_library;
use super::problem::Problem;
use super::source::Source;
use std::collections::BTreeSet;

/// Checks one file.
pub fn check(source: &Source) -> Vec<Problem> {
    let mut problems = Vec::new();
    let mut add = |line: usize, what: String, fix: &str| {
        problems.push(Problem::new(&source.path, line, what, fix))
    };
    opening(source, &mut add);
    unfinished(source, &mut add);
    files(source, &mut add);
    names(source, &mut add);
    unsafety(source, &mut add);
    problems
}

type Add<'a> = dyn FnMut(usize, String, &str) + 'a;

/// `crmt-core` of `crates/crmt-core/src/lib.rs`; `xtask` of `xtask/src/main.rs`.
fn package(path: &str) -> &str {
    path.strip_prefix("crates/")
        .unwrap_or(path)
        .split('/')
        .next()
        .unwrap_or(path)
}

fn opening(source: &Source, add: &mut Add<'_>) {
    if !source
        .lines
        .first()
        .is_some_and(|line| line.starts_with("//!"))
    {
        let fix = "open with one sentence of what it is responsible for, and one of what it does not know";
        add(1, "the file does not open with //!".into(), fix);
    }
}

fn unfinished(source: &Source, add: &mut Add<'_>) {
    for name in ["todo", "unimplemented", "dbg"] {
        for index in source.find(&format!("{name} !")) {
            add(
                source.tokens[index].line,
                format!("{name}! in the tree"),
                "finish the code or take it out",
            );
        }
    }
    for index in source.find("allow (") {
        // `# [ allow (`, `# ! [ allow (` and `cfg_attr ( …, allow (`; not a function of that name.
        let attribute = matches!(source.near(index, -1), "[" | ",") && {
            let before = source.tokens[..index]
                .iter()
                .rev()
                .take_while(|token| !matches!(token.text.as_str(), ";" | "}" | "{"));
            before
                .map(|token| token.text.as_str())
                .any(|text| text == "#")
        };
        if attribute {
            add(
                source.tokens[index].line,
                "an allow attribute".into(),
                "use #[expect(lint, reason = \"…\")]",
            );
        }
    }
}

/// Files stay in the programs and in crmt-data.
fn files(source: &Source, add: &mut Add<'_>) {
    let package = package(&source.path);
    if !is_library(package) || package == "crmt-data" {
        return;
    }
    let patterns = [
        "std : : fs",
        "fs : :",
        "File : :",
        "OpenOptions : :",
        "safetensors : : load",
        "safetensors : : save",
        "from_mmaped_safetensors",
    ];
    let mut lines = BTreeSet::new();
    for pattern in patterns {
        for index in source
            .find(pattern)
            .into_iter()
            .filter(|&index| !source.tokens[index].test)
        {
            let line = source.tokens[index].line;
            if lines.insert(line) {
                let fix = "take bytes, tensors or a reader, and open the file in crmt-driver or crmt-data";
                add(
                    line,
                    format!("{} touches files in {package}", pattern.replace(' ', "")),
                    fix,
                );
            }
        }
    }
}

fn names(source: &Source, add: &mut Add<'_>) {
    for index in source.find("train : bool") {
        add(
            source.tokens[index].line,
            "train: bool".into(),
            "take a crmt_core::Mode",
        );
    }
    let package = package(&source.path);
    if package == "crmt-data" || source.path.starts_with("xtask/src/prepare") {
        return;
    }
    // The driver's configuration has settings of data sets, such as a noise level of one modality.
    let settings = package == "crmt-driver";
    for (index, token) in source
        .tokens
        .iter()
        .enumerate()
        .filter(|(_, token)| !token.test)
    {
        let named = |word: &str| matches!(word, "audio" | "visual");
        let speaks = named(&token.text) || (!settings && token.text.split('_').any(named));
        let next = (source.near(index, 1), source.near(index, 2));
        // A field or a variable: neither a function, nor a module, nor a step of a path.
        let variable =
            next.0 != "(" && next != (":", ":") && !matches!(source.near(index, -1), "fn" | "mod");
        let path_end = source.near(index, -1) == ":" && source.near(index, -2) == ":";
        if speaks && variable && !path_end {
            let fix = "address modalities by index or Modality name: any number of them from 1 up";
            add(
                token.line,
                format!("a field or variable named {}", token.text),
                fix,
            );
        }
    }
}

fn unsafety(source: &Source, add: &mut Add<'_>) {
    for index in source.find("unsafe") {
        let line = source.tokens[index].line;
        if package(&source.path) != "crmt-kernels" {
            add(
                line,
                "unsafe code outside crmt-kernels".into(),
                "do without, or move the operation there",
            );
        } else if matches!(source.near(index, 1), "{" | "impl") && !explained(source, line) {
            let fix = "say in a // SAFETY: comment right above why it is sound";
            add(line, "an unsafe block without its reason".into(), fix);
        }
    }
}

/// Whether a `// SAFETY:` comment stands on `line` or above the statement that it belongs to.
fn explained(source: &Source, line: usize) -> bool {
    for text in source.lines[..line]
        .iter()
        .rev()
        .enumerate()
        .map(|(up, text)| (up, text.trim()))
    {
        let (up, text) = text;
        if text.contains("// SAFETY:") {
            return true;
        }
        let comment = text.starts_with("//");
        let attribute = text.starts_with("#[");
        let end = text.is_empty() || text.ends_with([';', '{', '}']);
        if up > 0 && end && !comment && !attribute {
            return false;
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(path: &str, text: &str) -> Vec<String> {
        check(&Source::new(path, text))
            .iter()
            .map(ToString::to_string)
            .collect()
    }

    /// Exactly one problem, on line 2, that says `says`.
    fn fires(path: &str, line: &str, says: &str) {
        let problems = found(path, &format!("//! Doc.\n{line}\n"));
        assert_eq!(problems.len(), 1, "{line}: {problems:?}");
        assert!(
            problems[0].starts_with(&format!("{path}:2: ")) && problems[0].contains(says),
            "{problems:?}"
        );
    }

    fn passes(path: &str, text: &str) {
        assert_eq!(
            found(path, &format!("//! Doc.\n{text}\n")),
            [""; 0],
            "{text}"
        );
    }

    const TRAIN: &str = "crates/crmt-train/src/fit.rs";
    const KERNELS: &str = "crates/crmt-kernels/src/conv.rs";

    #[test]
    fn files_open_with_their_responsibility() {
        assert_eq!(found(TRAIN, "use x::y;\n//! Late.").len(), 1);
        assert_eq!(found(TRAIN, "").len(), 1);
        passes(TRAIN, "");
    }

    #[test]
    fn unfinished_code_and_allow_fire() {
        fires(TRAIN, "fn f() { todo!(\"later\") }", "todo!");
        fires(TRAIN, "fn f() { unimplemented!() }", "unimplemented!");
        fires(
            "crates/crmt-train/tests/fit.rs",
            "fn f() { dbg!(1); }",
            "dbg!",
        );
        fires(TRAIN, "#[allow(dead_code)] fn f() {}", "allow");
        fires(TRAIN, "#![allow(dead_code)]", "allow");
        fires(
            TRAIN,
            "#[cfg_attr(test, allow(dead_code))] fn f() {}",
            "allow",
        );
        passes(
            TRAIN,
            "#[expect(dead_code, reason = \"allow( todo!() dbg!\")] fn f() { allow(1); g([allow(2)]) } // todo!()",
        );
    }

    #[test]
    fn libraries_touch_no_files() {
        fires(TRAIN, "use std::fs::File;", "fs");
        fires(TRAIN, "fn f() { fs::read(p) }", "fs::");
        fires(TRAIN, "fn f() { File::open(p) }", "File::");
        fires(
            TRAIN,
            "fn f() { candle_core::safetensors::load(p, d) }",
            "safetensors::load",
        );
        passes(TRAIN, "#[cfg(test)] mod tests { use std::fs; }");
        passes("crates/crmt-train/tests/fit.rs", "use std::fs;");
        passes("crates/crmt-data/src/load.rs", "use std::fs::File;");
        passes(
            "crates/crmt-driver/src/record.rs",
            "fn f() { std::fs::read(p) }",
        );
    }

    #[test]
    fn modes_and_modalities_are_arguments() {
        fires(TRAIN, "fn f(x: &Tensor, train: bool) {}", "train: bool");
        fires(TRAIN, "struct S { audio: Tensor }", "named audio");
        fires(TRAIN, "fn f() { let visual_dim = 1; }", "named visual_dim");
        fires(
            "crates/crmt-driver/src/report.rs",
            "fn f(s: S) { s.audio }",
            "named audio",
        );
        passes(
            TRAIN,
            "mod audio; fn audio() { x::visual::y(\"audio\") } // audio",
        );
        passes(
            TRAIN,
            "#[cfg(test)] mod tests { fn f() { let audio = 1; } }",
        );
        passes(
            "crates/crmt-data/src/synthetic.rs",
            "struct S { audio: Tensor }",
        );
        passes(
            "crates/crmt-driver/src/plan.rs",
            "struct S { audio_snr_db: f64 }",
        );
        passes(TRAIN, "fn f(train: boolean) {}");
    }

    #[test]
    fn unsafe_code_has_a_place_and_a_reason() {
        fires(TRAIN, "fn f() { unsafe { g() } }", "outside crmt-kernels");
        fires(KERNELS, "fn f() { unsafe { g() } }", "without its reason");
        fires(KERNELS, "unsafe impl Send for S {}", "without its reason");
        passes(
            KERNELS,
            "fn f() {\n    // SAFETY: in bounds,\n    // as checked.\n    let x =\n        unsafe { g() };\n}",
        );
        passes(
            KERNELS,
            "// SAFETY: plain data.\n#[cfg(x)]\nunsafe impl Send for S {}",
        );
        passes(
            KERNELS,
            "/// # Safety\n/// `x` is valid.\npub unsafe fn f(x: *const f32) {}",
        );
        let two = "fn f() {\n    // SAFETY: one.\n    unsafe { g() };\n    unsafe { h() }\n}";
        let problems = found(KERNELS, &format!("//! Doc.\n{two}"));
        assert_eq!(problems.len(), 1, "a reason serves one block: {problems:?}");
        assert!(problems[0].contains(":5:"), "{problems:?}");
    }
}
