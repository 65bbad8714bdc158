//! The house rules that a compiler does not know: how files, crates, documents and the repository's top level look.
//!
//! A rule that nothing checks decays, so what `docs/CONTRIBUTING.md` asks for is asked here as well. Deliberately not
//! here: what rustc, clippy, rustfmt and cargo-deny already check.

// What a test cannot go on without fails it.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod crates;
mod documents;
mod source;
mod sources;

use std::{
    fs,
    path::{Path, PathBuf},
};

/// The repository.
fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// All files below `folder` whose names end with `suffix`, relative to the repository, without what builds leave.
fn files(folder: &str, suffix: &str) -> Vec<PathBuf> {
    let (mut found, mut folders) = (Vec::new(), vec![root().join(folder)]);
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap().map(Result::unwrap) {
            let (path, name) = (entry.path(), entry.file_name().into_string().unwrap());
            if entry.file_type().unwrap().is_dir() {
                if name != "target" && name != ".git" {
                    folders.push(path);
                }
            } else if name.ends_with(suffix) {
                found.push(path.strip_prefix(root()).unwrap().to_owned());
            }
        }
    }
    found.sort();
    found
}

fn read(path: &Path) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|err| panic!("{}: {err}", path.display()))
}

/// Fails with all of `problems` at once.
#[track_caller]
fn none(problems: &[String]) {
    assert!(problems.is_empty(), "\n{}\n", problems.join("\n"));
}

#[test]
fn top_level_holds_only_what_belongs_there() {
    const PERMITTED: [&str; 17] = [
        ".cargo",
        ".ci",
        ".clippy.toml",
        ".deny.toml",
        ".git",
        ".gitattributes",
        ".gitignore",
        ".rustfmt.toml",
        "Cargo.lock",
        "Cargo.toml",
        "LICENSE",
        "README.md",
        "agent",
        "docs",
        "packaging",
        "systemd",
        "tests",
    ];
    let names = fs::read_dir(root()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let strange = names.filter(|name| name != "target" && !PERMITTED.contains(&name.as_str()));
    none(
        &strange
            .map(|name| format!("{name}: not one of the names that the top level may have"))
            .collect::<Vec<_>>(),
    );
}
