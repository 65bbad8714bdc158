//! Which crate may know which, and that all of them are built under the same rules.

use std::{collections::BTreeMap, path::Path, process::Command};

use crate::{files, none, read, root};

/// Every crate below `agent/`, its package and the packages of this project that it may depend on.
const ARROWS: [(&str, &str, &[&str]); 5] = [
    ("format", "mobility-format", &[]),
    ("engine", "mobility-engine", &["mobility-format"]),
    ("capture", "mobility-capture", &["mobility-format"]),
    ("recovery", "mobility-recovery", &["mobility-format"]),
    (
        "daemon",
        "mobility-agent",
        &["mobility-capture", "mobility-engine", "mobility-format", "mobility-recovery"],
    ),
];

/// All that the engine's library is made of, however deep. None of these opens a file, a socket or a thread by itself,
/// tells the time or draws a random number (`libc` is there on aarch64, to ask what the processor can do). Something new
/// here is a decision, not an accident.
const ENGINE: [&str; 39] = [
    "arrayvec",
    "blake3",
    "block-buffer",
    "cfg-if",
    "constant_time_eq",
    "cpufeatures",
    "crypto-common",
    "curve25519-dalek",
    "curve25519-dalek-derive",
    "digest",
    "ed25519",
    "ed25519-dalek",
    "generic-array",
    "itoa",
    "jiff",
    "jiff-core",
    "memchr",
    "mobility-engine",
    "mobility-format",
    "proc-macro2",
    "quote",
    "serde",
    "serde_core",
    "serde_derive",
    "serde_json",
    "sha2",
    "signature",
    "subtle",
    "syn",
    "thiserror",
    "thiserror-impl",
    "typenum",
    "unicode-ident",
    "zeroize",
    "zmij",
    "zstd",
    "zstd-safe",
    "zstd-sys",
    "libc",
];

fn manifest(path: &Path) -> toml::Table {
    read(path).parse().unwrap_or_else(|err| panic!("{}: {err}", path.display()))
}

/// The packages of this project that a manifest names, in any of its tables of dependencies.
fn own_dependencies(table: &toml::Table) -> Vec<String> {
    let mut found = Vec::new();
    for (name, value) in table {
        let Some(inner) = value.as_table() else { continue };
        match name.ends_with("dependencies") {
            true => found.extend(inner.keys().filter(|name| name.starts_with("mobility-")).cloned()),
            false => found.extend(own_dependencies(inner)),
        }
    }
    found
}

#[test]
fn crates_know_only_those_that_they_may_know() {
    let mut left: BTreeMap<_, _> =
        ARROWS.iter().map(|(folder, package, may)| (*folder, (*package, *may))).collect();
    let mut problems = Vec::new();
    for path in files("agent", "Cargo.toml") {
        let (folder, table) = (path.parent().unwrap(), manifest(&path));
        let name = folder.strip_prefix("agent").unwrap().to_str().unwrap();
        let Some((package, may)) = left.remove(name) else {
            problems.push(format!(
                "{name}: a new crate needs a reason that a module cannot give; then add it here"
            ));
            continue;
        };
        if table["package"]["name"].as_str() != Some(package) {
            problems.push(format!("{name}: its package is not called {package}"));
        }
        let forbidden = own_dependencies(&table).into_iter().filter(|other| !may.contains(&other.as_str()));
        problems.extend(forbidden.map(|other| format!("{package} must not know {other}")));
    }
    problems.extend(left.keys().map(|name| format!("agent/{name} is gone: remove it here")));
    none(&problems);
}

#[test]
fn every_crate_is_built_under_the_rules_of_the_workspace() {
    let mut problems = Vec::new();
    let others =
        files("packaging", "Cargo.toml").into_iter().chain([Path::new("tests/Cargo.toml").to_owned()]);
    for path in files("agent", "Cargo.toml").into_iter().chain(others) {
        let (table, shown) = (manifest(&path), path.display().to_string());
        let inherits = table.get("lints").and_then(|lints| lints.get("workspace")) == Some(&true.into());
        // The one crate with unsafe code cannot inherit the lint that forbids it, so it repeats the others.
        if path.starts_with("agent/capture") {
            problems.extend(
                missing_lints(&table).into_iter().map(|lint| format!("{shown}: lacks the lint {lint}")),
            );
        } else if !inherits {
            problems.push(format!("{shown}: does not inherit the lints of the workspace"));
        }
        for field in ["edition", "license", "rust-version", "version"] {
            if table["package"][field].get("workspace") != Some(&true.into()) {
                problems.push(format!("{shown}: {field} is not that of the workspace"));
            }
        }
    }
    none(&problems);
}

/// What is packaged beside the agent goes on whatever the agent's crates become: it calls the program, and links none of them.
#[test]
fn what_is_packaged_beside_the_agent_knows_no_crate_of_it() {
    let found = files("packaging", "Cargo.toml");
    assert!(!found.is_empty(), "the check below would check nothing");
    let known = |path: &Path| {
        own_dependencies(&manifest(path))
            .into_iter()
            .map(|other| format!("it knows {other}"))
            .collect::<Vec<_>>()
    };
    none(&found.iter().flat_map(|path| known(path)).collect::<Vec<_>>());
}

/// The lints of the workspace that a manifest does not set to the same, but for the one on unsafe code.
fn missing_lints(table: &toml::Table) -> Vec<String> {
    let workspace = manifest(Path::new("Cargo.toml"));
    let mut missing = Vec::new();
    for (tool, lints) in workspace["workspace"]["lints"].as_table().unwrap() {
        for (lint, level) in lints.as_table().unwrap() {
            let set = table.get("lints").and_then(|all| all.get(tool)).and_then(|lints| lints.get(lint));
            if lint != "unsafe_code" && set != Some(level) {
                missing.push(format!("{tool}::{lint}"));
            }
        }
    }
    missing
}

#[test]
fn engine_is_made_of_nothing_that_could_do_anything() {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let arguments = ["tree", "-p", "mobility-engine", "-e", "normal", "--prefix", "none", "--format", "{p}"];
    let output = Command::new(cargo).args(arguments).current_dir(root()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let tree = String::from_utf8(output.stdout).unwrap();
    let names: Vec<_> = tree.lines().filter_map(|line| line.split(' ').next()).collect();
    assert!(names.contains(&"mobility-format"), "{tree}");
    let strange = names.iter().filter(|name| !ENGINE.contains(name));
    none(&strange.map(|name| format!("the engine now contains {name}")).collect::<Vec<_>>());
}

/// Clippy takes the nearest configuration only, so the engine's has to repeat what the root's says.
#[test]
fn engine_has_the_clippy_rules_of_the_others_too() {
    let (root, engine) =
        (manifest(Path::new(".clippy.toml")), manifest(Path::new("agent/engine/.clippy.toml")));
    let differs = root.iter().filter(|(name, value)| engine.get(*name) != Some(value));
    none(
        &differs
            .map(|(name, _)| format!("agent/engine/.clippy.toml: {name} is not as in .clippy.toml"))
            .collect::<Vec<_>>(),
    );
    let forbidden = engine["disallowed-methods"].as_array().unwrap();
    assert!(forbidden.iter().any(|method| method["path"].as_str() == Some("std::time::Instant::now")));
}
