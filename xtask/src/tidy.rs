//! `cargo xtask tidy`: the invariants of this repository that no compiler checks, one line for each
//! breach. Knows how to read manifests and tokens, not what the code means.
mod arrows;
mod circles;
mod citations;
mod code;
mod dependencies;
mod layout;
mod links;
mod problem;
mod source;
mod tree;

use crate::say::say;
use crate::workspace;
use anyhow::{Context, Result, bail};
use problem::Problem;
use tree::{Member, Tree};

/// Checks the whole tree and prints every problem.
///
/// # Errors
/// If there is any problem, or the tree can't be read.
pub fn run() -> Result<()> {
    let root = workspace::root();
    let metadata = cargo_metadata::MetadataCommand::new()
        .manifest_path(root.join("Cargo.toml"))
        .exec()
        .context("cargo metadata")?;
    let tree = Tree::read(&root)?;
    let members = Member::of(&metadata, &tree)?;
    let problems = check(&tree, &members);
    say(&problems
        .iter()
        .map(|problem| format!("{problem}\n"))
        .collect::<String>())?;
    match problems.len() {
        0 => say(&format!(
            "tidy: {} files, {} packages, no problem\n",
            tree.files.len(),
            members.len()
        )),
        1 => bail!("tidy: 1 problem"),
        n => bail!("tidy: {n} problems"),
    }
}

fn check(tree: &Tree, members: &[Member]) -> Vec<Problem> {
    let mut problems = arrows::check(tree, members);
    problems.extend(dependencies::check(tree, members));
    problems.extend(layout::check(tree, members));
    problems.extend(links::check(tree));
    problems.extend(circles::check(tree));
    problems.extend(citations::check(tree));
    problems.extend(tree.sources.iter().flat_map(code::check));
    problems.sort();
    problems.dedup();
    problems
}
