//! What every Rust file of the project keeps to.

use std::path::{Path, PathBuf};

use crate::{files, none, read, source};

/// The most lines a file may have, its test module not counted.
const MAX_FILE: usize = 500;
/// The most lines a function may have.
const MAX_FUNCTION: usize = 70;
/// Files that may be longer, each with a reason. It is meant to stay empty.
const LONGER: [&str; 0] = [];

fn rust_files() -> Vec<PathBuf> {
    let found: Vec<_> =
        ["agent", "packaging", "tests"].into_iter().flat_map(|dir| files(dir, ".rs")).collect();
    assert!(found.len() > 20, "the checks below would check nothing");
    found
}

fn problems(check: impl Fn(&Path, &str) -> Vec<String>) -> Vec<String> {
    let of = |path: PathBuf| {
        let found = check(&path, &read(&path));
        found.into_iter().map(move |problem| format!("{}: {problem}", path.display())).collect::<Vec<_>>()
    };
    rust_files().into_iter().flat_map(of).collect()
}

#[test]
fn every_file_says_first_why_it_exists() {
    // A file of tests beside its code is explained by its name and by the code.
    let explained = |path: &Path, text: &str| path.ends_with("tests.rs") || text.starts_with("//! ");
    none(&problems(|path, text| match explained(path, text) {
        true => Vec::new(),
        false => vec!["does not open with `//!` documentation".to_owned()],
    }));
}

#[test]
fn files_are_short() {
    none(&problems(|path, text| {
        let lines = source::without_tests(text).lines().count();
        match lines > MAX_FILE && !LONGER.iter().any(|longer| path == Path::new(longer)) {
            true => vec![format!("{lines} lines, at most {MAX_FILE}: find the two subjects in it")],
            false => Vec::new(),
        }
    }));
}

#[test]
fn functions_fit_on_a_screen() {
    none(&problems(|_, text| {
        let long = |(name, line, lines): (String, usize, usize)| {
            (lines > MAX_FUNCTION)
                .then(|| format!("line {line}: {name} has {lines} lines, at most {MAX_FUNCTION}"))
        };
        source::functions(&source::code_only(text)).into_iter().filter_map(long).collect()
    }));
}

#[test]
fn unsafe_code_is_in_the_capture_crate_alone() {
    let is_word = |code: &str, at: usize| {
        let around = [code[..at].chars().next_back(), code[at + "unsafe".len()..].chars().next()];
        !around.into_iter().flatten().any(|c| c.is_alphanumeric() || c == '_')
    };
    none(&problems(|path, text| {
        let code = source::code_only(text);
        let found = code.match_indices("unsafe").any(|(at, _)| is_word(&code, at));
        match found && !path.starts_with("agent/capture/src") {
            true => vec!["`unsafe` outside of agent/capture/src".to_owned()],
            false => Vec::new(),
        }
    }));
}

#[test]
fn nothing_is_named_after_not_knowing_where_it_belongs() {
    const VAGUE: [&str; 6] = ["common", "helpers", "misc", "shared", "util", "utils"];
    let vague = |path: &PathBuf| path.iter().any(|part| VAGUE.contains(&stem(Path::new(part)).as_str()));
    let found = ["agent", "packaging", "tests"].into_iter().flat_map(|dir| files(dir, "")).filter(vague);
    none(&found.map(|path| format!("{}: a name that says nothing", path.display())).collect::<Vec<_>>());
}

fn stem(path: &Path) -> String {
    path.file_stem().unwrap_or_default().to_string_lossy().into_owned()
}

/// The engine's fence, third board: clippy forbids what it can name, the allow-list of its dependencies forbids the
/// crates that could do it, this forbids the modules of the standard library that do.
#[test]
fn engine_touches_nothing_outside_of_itself() {
    const FORBIDDEN: [&str; 9] = ["env", "fs", "io", "net", "os", "path", "process", "thread", "sync"];
    const CLOCKS: [&str; 4] = ["Instant::now", "SystemTime", "Timestamp::now", "Zoned::now"];
    let shipped = |path: &&PathBuf| !path.iter().any(|part| part == "tests" || part == "tests.rs");
    let mut found = Vec::new();
    for path in files("agent/engine/src", ".rs").iter().filter(shipped) {
        let code = source::code_only(&read(path));
        let code = source::without_tests(&code);
        let forbidden = std_modules(code).into_iter().filter(|module| FORBIDDEN.contains(&module.as_str()));
        let clocks = CLOCKS.into_iter().filter(|clock| code.contains(clock)).map(str::to_owned);
        found.extend(forbidden.chain(clocks).map(|what| format!("{}: uses {what}", path.display())));
    }
    none(&found);
}

/// The modules of `std` that are named in `code`, as `std::fs` or inside of `std::{…}`.
fn std_modules(code: &str) -> Vec<String> {
    let mut found = Vec::new();
    for (at, _) in code.match_indices("std::") {
        let rest = &code[at + "std::".len()..];
        let names = if rest.starts_with('{') { top_of_group(rest) } else { vec![word(rest)] };
        found.extend(names);
    }
    found
}

fn word(text: &str) -> String {
    text.trim_start().chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect()
}

fn top_of_group(text: &str) -> Vec<String> {
    let (mut depth, mut names) = (0, Vec::new());
    for (at, c) in text.char_indices() {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            _ => {}
        }
        if depth == 1 && (c == '{' || c == ',') {
            names.push(word(&text[at + 1..]));
        }
        if depth == 0 {
            break;
        }
    }
    names
}

#[test]
fn modules_of_std_are_found_in_groups_too() {
    let code = "use std::{collections::{BTreeMap, btree_map}, fs, io::Write};\nlet x = std::env::var(y);";
    assert_eq!(std_modules(code), ["collections", "fs", "io", "env"]);
}
