//! What tidy reads: the text files of the repository and the packages cargo sees. Judges nothing.
use super::source::Source;
use anyhow::{Context, Result};
use cargo_metadata::{DependencyKind, Metadata, TargetKind};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// Files longer than this are data, not something to tidy.
const LONGEST: u64 = 1 << 20;

/// The repository's text files, without what `.gitignore` names.
#[derive(Debug, Default)]
pub struct Tree {
    /// Contents by path from the root, with `/` between the parts.
    pub files: BTreeMap<String, String>,
    /// Names at the root, files or folders, without what `.gitignore` names.
    pub top: Vec<String>,
    /// Every path below the root, binary files and folders too.
    pub paths: BTreeSet<String>,
    /// The Rust files, lexed.
    pub sources: Vec<Source>,
}

impl Tree {
    /// Reads everything below `root`.
    pub fn read(root: &Path) -> Result<Self> {
        let ignored = fs::read_to_string(root.join(".gitignore")).unwrap_or_default();
        let skip: Vec<&str> = ignored
            .lines()
            .map(|line| line.trim().trim_matches('/'))
            .chain([".git"])
            .collect();
        let mut tree = Self::default();
        let mut folders = vec![root.to_path_buf()];
        while let Some(folder) = folders.pop() {
            for entry in
                fs::read_dir(&folder).with_context(|| format!("reading {}", folder.display()))?
            {
                let path = entry?.path();
                let name = relative(root, &path);
                if skip.contains(&name.as_str()) {
                    continue;
                }
                if !name.contains('/') {
                    tree.top.push(name.clone());
                }
                let kind =
                    fs::symlink_metadata(&path).with_context(|| format!("reading {name}"))?;
                if kind.is_dir() {
                    folders.push(path);
                } else if kind.is_file()
                    && kind.len() <= LONGEST
                    && let Ok(text) = String::from_utf8(
                        fs::read(&path).with_context(|| format!("reading {name}"))?,
                    )
                {
                    tree.files.insert(name.clone(), text);
                }
                tree.paths.insert(name);
            }
        }
        tree.top.sort();
        tree.lex();
        Ok(tree)
    }

    /// Fills `sources` from `files`.
    pub fn lex(&mut self) {
        let rust = self.files.iter().filter(|(path, _)| path.ends_with(".rs"));
        self.sources = rust.map(|(path, text)| Source::new(path, text)).collect();
    }

    /// The contents of one file; empty if there is none.
    pub fn text(&self, path: &str) -> &str {
        self.files.get(path).map_or("", String::as_str)
    }
}

fn relative(root: &Path, path: &Path) -> String {
    let parts = path.strip_prefix(root).unwrap_or(path).components();
    parts
        .map(|part| part.as_os_str().to_string_lossy())
        .collect::<Vec<_>>()
        .join("/")
}

/// The line of `text`, from 1, on which `needle` first occurs; 1 if it doesn't.
pub fn line_of(text: &str, needle: &str) -> usize {
    text.lines()
        .position(|line| line.contains(needle))
        .map_or(1, |index| index + 1)
}

/// One package of the workspace, as much as tidy needs of it.
#[derive(Debug, Clone, Default)]
pub struct Member {
    pub name: String,
    /// Its folder, from the root.
    pub folder: String,
    /// The text of its manifest.
    pub manifest: String,
    pub dependencies: Vec<Dependency>,
}

/// One dependency as declared.
#[derive(Debug, Clone)]
pub struct Dependency {
    pub name: String,
    /// The name by which code calls it.
    pub ident: String,
    pub kind: DependencyKind,
}

impl Member {
    /// The workspace's packages by cargo's account.
    pub fn of(metadata: &Metadata, tree: &Tree) -> Result<Vec<Self>> {
        let libraries: BTreeMap<&str, &str> = metadata
            .packages
            .iter()
            .filter_map(|package| {
                let library = |kind: &TargetKind| {
                    matches!(
                        kind,
                        TargetKind::Lib | TargetKind::ProcMacro | TargetKind::RLib
                    )
                };
                let target = package
                    .targets
                    .iter()
                    .find(|target| target.kind.iter().any(library))?;
                Some((package.name.as_str(), target.name.as_str()))
            })
            .collect();
        let root = metadata.workspace_root.as_std_path();
        let mut members = Vec::new();
        for package in metadata.workspace_packages() {
            let folder = package
                .manifest_path
                .parent()
                .context("a manifest has no folder")?;
            let folder = relative(root, folder.as_std_path());
            let dependencies = package.dependencies.iter().map(|dependency| {
                let library = libraries
                    .get(dependency.name.as_str())
                    .copied()
                    .unwrap_or(&dependency.name);
                let ident = dependency
                    .rename
                    .as_deref()
                    .unwrap_or(library)
                    .replace('-', "_");
                Dependency {
                    name: dependency.name.clone(),
                    ident,
                    kind: dependency.kind,
                }
            });
            members.push(Self {
                name: package.name.to_string(),
                manifest: tree.text(&format!("{folder}/Cargo.toml")).to_owned(),
                dependencies: dependencies.collect(),
                folder,
            });
        }
        Ok(members)
    }

    /// The manifest's path from the root.
    pub fn manifest_path(&self) -> PathBuf {
        Path::new(&self.folder).join("Cargo.toml")
    }

    /// The line of the manifest that declares `dependency`.
    pub fn line(&self, dependency: &str) -> usize {
        let declares = |line: &str| {
            line.trim_start()
                .strip_prefix(dependency)
                .is_some_and(|rest| rest.starts_with(['.', ' ', '=']))
        };
        self.manifest
            .lines()
            .position(declares)
            .map_or(1, |index| index + 1)
    }
}
