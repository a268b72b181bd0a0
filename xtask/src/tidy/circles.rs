//! Files of a crate that import each other in a circle: nobody can read one of them alone. Sees
//! `use` and paths that begin with `crate`, `super`, `self` or a child's name; what a file
//! re-exports counts as an import from where it is defined.
use super::problem::Problem;
use super::source::{Source, Token};
use super::tree::Tree;
use std::collections::{BTreeMap, BTreeSet};

/// Crates in which circles are known, and are to be opened.
const NOT_YET: &[&str] = &["crmt-kernels"];

/// `a::b` of `src/a/b.rs`; empty for the root.
type Module = Vec<String>;

/// Checks every crate.
pub fn check(tree: &Tree) -> Vec<Problem> {
    let mut crates: BTreeMap<&str, BTreeMap<Module, &Source>> = BTreeMap::new();
    for source in &tree.sources {
        if let Some((name, module)) = place(&source.path) {
            crates.entry(name).or_default().insert(module, source);
        }
    }
    crates
        .iter()
        .filter(|(name, _)| !NOT_YET.contains(name))
        .flat_map(|(_, files)| of_crate(files))
        .collect()
}

/// Crate and module of a source file; none of tests, benchmarks and examples.
fn place(path: &str) -> Option<(&str, Module)> {
    let (krate, inside) = path
        .strip_prefix("crates/")
        .unwrap_or(path)
        .split_once("/src/")?;
    let inside = inside.strip_suffix(".rs")?;
    let mut module: Module = inside.split('/').map(str::to_owned).collect();
    match module.last().map(String::as_str) {
        Some("lib" | "main") if module.len() == 1 => module.clear(),
        Some("mod") => drop(module.pop()),
        Some("tests") => return None,
        _ => {}
    }
    (module.first().map(String::as_str) != Some("bin") && !krate.contains('/'))
        .then_some((krate, module))
}

fn of_crate(files: &BTreeMap<Module, &Source>) -> Vec<Problem> {
    let imports: BTreeMap<&Module, Vec<Import>> = files
        .iter()
        .map(|(module, source)| (module, imports(module, source, files)))
        .collect();
    let arrows = |module: &Module| -> BTreeSet<&Module> {
        let reached = imports[module]
            .iter()
            .filter_map(|import| defined_in(&import.path, &imports, &mut BTreeSet::new()));
        reached.filter(|other| *other != module).collect()
    };
    let arrows: BTreeMap<&Module, BTreeSet<&Module>> = files
        .keys()
        .map(|module| (module, arrows(module)))
        .collect();
    let mut known: BTreeSet<&Module> = BTreeSet::new();
    let mut problems = vec![];
    for module in files.keys() {
        let Some(circle) = circle(module, &arrows).filter(|_| !known.contains(module)) else {
            continue;
        };
        known.extend(circle.iter().copied());
        let names = circle
            .iter()
            .chain([&module])
            .map(|module| shown(module))
            .collect::<Vec<_>>()
            .join(" → ");
        let what = format!("files import each other in a circle: {names}");
        problems.push(Problem::new(
            &files[module].path,
            1,
            what,
            "move what both need into a file of its own",
        ));
    }
    problems
}

fn shown(module: &[String]) -> String {
    if module.is_empty() {
        "crate".into()
    } else {
        module.join("::")
    }
}

/// The shortest way from a module back to itself.
fn circle<'a>(
    from: &'a Module,
    arrows: &BTreeMap<&'a Module, BTreeSet<&'a Module>>,
) -> Option<Vec<&'a Module>> {
    let mut before: BTreeMap<&Module, &Module> = BTreeMap::new();
    let mut next = std::collections::VecDeque::from([from]);
    while let Some(module) = next.pop_front() {
        for other in &arrows[module] {
            if *other == from {
                let back =
                    std::iter::successors(Some(module), |module| before.get(*module).copied());
                let mut way: Vec<&Module> = back.collect();
                way.reverse();
                return Some(way);
            }
            if !before.contains_key(*other) {
                before.insert(other, module);
                next.push_back(other);
            }
        }
    }
    None
}

/// A path from the crate's root, and what the importing file calls its end.
struct Import {
    path: Vec<String>,
    name: String,
    /// Of a `use`: whoever imports the name from here, imports the path.
    named: bool,
}

/// The file that defines what is at `path`.
fn defined_in<'a>(
    path: &[String],
    imports: &BTreeMap<&'a Module, Vec<Import>>,
    seen: &mut BTreeSet<Vec<String>>,
) -> Option<&'a Module> {
    let module = (0..=path.len()).rev().find_map(|n| {
        imports
            .keys()
            .find(|module| module.as_slice() == &path[..n])
    })?;
    let Some(name) = path
        .get(module.len())
        .filter(|_| seen.insert(path.to_vec()))
    else {
        return Some(module);
    };
    let exported = imports[module]
        .iter()
        .find(|import| import.named && import.name == *name && import.path != path);
    exported
        .and_then(|import| defined_in(&import.path, imports, seen))
        .or(Some(module))
}

/// What a file imports from its own crate.
fn imports(module: &Module, source: &Source, files: &BTreeMap<Module, &Source>) -> Vec<Import> {
    let tokens: Vec<&Token> = source.tokens.iter().filter(|token| !token.test).collect();
    let text = |i: usize| tokens.get(i).map_or("", |token| token.text.as_str());
    let mut found = vec![];
    // Modules inside the file, and how deep their braces are.
    let mut inside: Vec<(String, usize)> = vec![];
    let (mut at, mut depth) = (0, 0);
    while at < tokens.len() {
        match text(at) {
            "mod" if text(at + 2) == "{" => inside.push((text(at + 1).to_owned(), depth)),
            "{" => depth += 1,
            "}" => {
                depth = depth.saturating_sub(1);
                inside.pop_if(|(_, outer)| *outer == depth);
            }
            _ => {}
        }
        let here: Module = module
            .iter()
            .cloned()
            .chain(inside.iter().map(|(name, _)| name.clone()))
            .collect();
        if text(at) == "use" {
            let end = (at..tokens.len())
                .find(|i| text(*i) == ";")
                .unwrap_or(tokens.len());
            let words: Vec<&str> = (at + 1..end).map(text).collect();
            found.extend(
                leaves(&words, &[])
                    .into_iter()
                    .map(|(path, name)| (here.clone(), path, name, true)),
            );
            at = end;
        } else if text(at + 1) == ":" && text(at + 2) == ":" && !(at > 0 && text(at - 1) == ":") {
            let mut path = vec![text(at).to_owned()];
            let mut i = at + 1;
            while text(i) == ":"
                && text(i + 1) == ":"
                && text(i + 2).starts_with(|c: char| c.is_alphabetic() || c == '_')
            {
                path.push(text(i + 2).to_owned());
                i += 3;
            }
            let name = path.last().cloned().unwrap_or_default();
            found.push((here, path, name, false));
            at = i;
        } else {
            at += 1;
        }
    }
    let absolute = |(here, path, name, named): (Module, Vec<String>, String, bool)| {
        Some(Import {
            path: absolute(&here, &path, files)?,
            name,
            named,
        })
    };
    found.into_iter().filter_map(absolute).collect()
}

/// From the crate's root; none of other crates' paths.
fn absolute(
    module: &[String],
    path: &[String],
    files: &BTreeMap<Module, &Source>,
) -> Option<Vec<String>> {
    let mut base = module.to_vec();
    let mut rest = path;
    match path.first()?.as_str() {
        "crate" => {
            base.clear();
            rest = &path[1..];
        }
        "self" | "super" => {
            while let Some(first) = rest
                .first()
                .filter(|word| ["self", "super"].contains(&word.as_str()))
            {
                if first == "super" {
                    base.pop()?;
                }
                rest = &rest[1..];
            }
        }
        child => {
            let inside = [module, &[child.to_owned()]].concat();
            files.get(&inside)?;
        }
    }
    base.extend_from_slice(rest);
    Some(base)
}

/// Every path of the tree behind `use`, with the name that it gets.
fn leaves(words: &[&str], before: &[String]) -> Vec<(Vec<String>, String)> {
    let mut depth = 0;
    let mut parts: Vec<Vec<&str>> = vec![vec![]];
    for word in words {
        match *word {
            "{" => depth += 1,
            "}" => depth -= 1,
            _ => {}
        }
        match parts.last_mut() {
            Some(_) if *word == "," && depth == 0 => parts.push(vec![]),
            Some(part) => part.push(word),
            None => {}
        }
    }
    let of_part = |part: &Vec<&str>| {
        let open = part.iter().position(|word| *word == "{");
        let plain = &part[..open.unwrap_or(part.len())];
        let alias = plain.iter().position(|word| *word == "as");
        let steps = plain[..alias.unwrap_or(plain.len())]
            .iter()
            .filter(|word| **word != ":")
            .map(|word| (*word).to_owned());
        let mut path: Vec<String> = before.iter().cloned().chain(steps).collect();
        if let Some(open) = open {
            return leaves(&part[open + 1..part.len().saturating_sub(1)], &path);
        }
        if path.len() > 1 && path.last().is_some_and(|last| last == "self") {
            path.pop();
        }
        let name = alias
            .and_then(|i| plain.get(i + 1))
            .map(|name| (*name).to_owned())
            .or_else(|| path.last().cloned());
        name.map(|name| (path, name)).into_iter().collect()
    };
    parts
        .iter()
        .filter(|part| !part.is_empty())
        .flat_map(of_part)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(files: &[(&str, &str)]) -> Vec<String> {
        let files = files
            .iter()
            .map(|(path, text)| Source::new(&format!("crates/x/src/{path}"), text));
        let tree = Tree {
            sources: files.collect(),
            ..Tree::default()
        };
        check(&tree).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn circles_are_named_by_the_shortest_way() {
        let problems = found(&[
            ("lib.rs", "mod a;\nmod b;\nmod c;\nmod d;\npub use a::A;"),
            ("a.rs", "use crate::{b::{self, B as Other}, c};"),
            ("b.rs", "fn f() { crate::d::g() }"),
            ("c.rs", "use super::A;"),
            ("d.rs", "pub fn g() {}"),
        ]);
        assert_eq!(problems.len(), 1, "{problems:?}");
        assert!(
            problems[0].contains("crates/x/src/a.rs:1") && problems[0].contains("a → c → a"),
            "{problems:?}"
        );
    }

    #[test]
    fn a_parent_and_its_child_are_a_circle_if_both_import() {
        let parent = ("p/mod.rs", "mod child;\nuse child::f;\npub struct P;");
        assert_eq!(
            found(&[
                ("lib.rs", "mod p;"),
                parent,
                ("p/child.rs", "use super::P;")
            ])
            .len(),
            1
        );
        assert_eq!(
            found(&[
                ("lib.rs", "mod p;"),
                parent,
                ("p/child.rs", "use super::*;\npub fn f() {}")
            ])
            .len(),
            1
        );
        assert_eq!(
            found(&[
                ("lib.rs", "mod p;"),
                parent,
                ("p/child.rs", "pub fn f() {}")
            ]),
            [""; 0]
        );
    }

    #[test]
    fn a_module_inside_a_file_has_the_file_for_its_parent() {
        let file = (
            "a.rs",
            "fn f() { crate::b::g() }\nmod inner { use super::f; fn h() { super::f() } }\nfn i() { self::f() }",
        );
        assert_eq!(
            found(&[
                ("lib.rs", "mod a;\nmod b;\nuse a::f;"),
                file,
                ("b.rs", "pub fn g() {}")
            ]),
            [""; 0]
        );
    }

    #[test]
    fn re_exports_lead_to_where_things_are_defined_and_tests_may_import_what_they_like() {
        let clean = [
            ("lib.rs", "mod a;\nmod b;\npub use a::A;\npub use b::B;"),
            (
                "a.rs",
                "pub struct A;\n#[cfg(test)]\nmod tests { use crate::B; }",
            ),
            (
                "b.rs",
                "use crate::A;\nuse std::fmt::{self, Display};\npub struct B(A);",
            ),
        ];
        assert_eq!(found(&clean), [""; 0]);
    }
}
