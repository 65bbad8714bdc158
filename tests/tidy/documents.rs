//! That documents are well formed, that their links lead somewhere, and that every promise names what proves it.

use std::path::{Path, PathBuf};

use crate::{files, none, read, root};

fn documents() -> Vec<PathBuf> {
    files("", ".md")
}

/// The lines of a document outside of its code blocks.
fn prose(text: &str) -> Vec<&str> {
    let mut code = false;
    let outside = |line: &&str| {
        let fence = line.trim_start().starts_with("```");
        code ^= fence;
        !code && !fence
    };
    text.lines().filter(outside).collect()
}

fn headings(text: &str) -> Vec<(usize, String)> {
    let heading = |line: &str| {
        let level = line.bytes().take_while(|b| *b == b'#').count();
        (level > 0 && line[level..].starts_with(' ')).then(|| (level, line[level..].trim().to_owned()))
    };
    prose(text).into_iter().filter_map(heading).collect()
}

/// The anchor that a heading gets where Markdown is shown.
fn anchor(heading: &str) -> String {
    let kept = heading.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
    kept.map(|c| if c == ' ' { '-' } else { c.to_ascii_lowercase() }).collect()
}

/// Where the links of a document lead to, but for other sites.
fn links(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    for line in prose(text) {
        let rest = line.split("](").skip(1);
        found.extend(rest.filter_map(|rest| rest.split([')', ' ']).next()).map(str::to_owned));
    }
    found.retain(|link| !link.contains("://") && !link.starts_with("mailto:"));
    found
}

#[test]
fn every_document_has_one_title() {
    let mut problems = Vec::new();
    for path in documents() {
        let titles = headings(&read(&path)).iter().filter(|(level, _)| *level == 1).count();
        if titles != 1 {
            problems.push(format!("{}: {titles} titles, must be 1", path.display()));
        }
    }
    none(&problems);
}

#[test]
fn every_link_leads_somewhere() {
    let mut problems = Vec::new();
    for path in documents() {
        for link in links(&read(&path)) {
            let (file, fragment) = link.split_once('#').unwrap_or((&link, ""));
            let target = if file.is_empty() { path.clone() } else { path.parent().unwrap().join(file) };
            if !root().join(&target).exists() {
                problems.push(format!("{}: {link} does not exist", path.display()));
            } else if !fragment.is_empty()
                && !headings(&read(&target)).iter().any(|(_, h)| anchor(h) == fragment)
            {
                problems.push(format!("{}: {link} has no such heading", path.display()));
            }
        }
    }
    none(&problems);
}

/// A promise of the specification and the lines that say what proves it.
fn promises(text: &str) -> Vec<(String, Vec<String>)> {
    let mut found: Vec<(String, Vec<String>)> = Vec::new();
    for line in prose(text) {
        if let Some(heading) = line.strip_prefix("## ") {
            found.push((heading.to_owned(), Vec::new()));
        } else if let (Some(proof), Some((_, proofs))) = (line.strip_prefix("- "), found.last_mut())
            && (proof.starts_with("test:") || proof.starts_with("pending"))
        {
            proofs.push(proof.to_owned());
        }
    }
    found.retain(|(heading, _)| {
        heading.starts_with('P') && heading[1..].starts_with(|c: char| c.is_ascii_digit())
    });
    found
}

/// What is wrong with a line such as ``test: `tests/format/main.rs` `name_of_the_test` ``.
fn wrong_with(proof: &str) -> Option<String> {
    if proof.starts_with("pending") {
        return None;
    }
    let quoted: Vec<_> = proof.split('`').skip(1).step_by(2).collect();
    let [file, name] = quoted[..] else { return Some(format!("'{proof}' does not name a file and a test")) };
    if !root().join(file).is_file() {
        return Some(format!("{file} does not exist"));
    }
    let text = read(Path::new(file));
    let before = text.split(&format!("fn {name}(")).next().filter(|before| before.len() < text.len());
    let is_test =
        before.is_some_and(|before| before.lines().rev().take(12).any(|line| line.contains("#[test]")));
    (!is_test).then(|| format!("{file} has no test {name}"))
}

#[test]
fn every_promise_names_its_test_or_says_that_it_is_pending() {
    let promises = promises(&read(Path::new("docs/SPECIFICATION.md")));
    let numbers: Vec<_> = promises.iter().map(|(heading, _)| heading.split(' ').next().unwrap()).collect();
    assert_eq!(numbers, ["P1", "P2", "P3", "P4", "P5", "P6", "P7", "P8", "P9"]);
    let mut problems = Vec::new();
    for (heading, proofs) in &promises {
        if proofs.is_empty() {
            problems.push(format!("{heading}: neither a test nor 'pending'"));
        }
        problems
            .extend(proofs.iter().filter_map(|proof| wrong_with(proof)).map(|p| format!("{heading}: {p}")));
    }
    none(&problems);
}

#[test]
fn proofs_that_do_not_exist_are_noticed() {
    assert_eq!(wrong_with("test: `tests/tidy/documents.rs` `proofs_that_do_not_exist_are_noticed`"), None);
    assert_eq!(wrong_with("pending: comes later"), None);
    for bad in ["test: `tests/tidy/documents.rs` `wrong_with`", "test: `nowhere.rs` `x`", "test: soon"] {
        assert!(wrong_with(bad).is_some(), "{bad}");
    }
}

#[test]
fn titles_and_links_in_code_do_not_count() {
    let text = "# One\n```\n# no\n[x](nowhere)\n```\n## Two, three\n[y](a.md#b) [z](https://x.y)\n";
    assert_eq!(headings(text).len(), 2);
    assert_eq!(anchor(&headings(text)[1].1), "two-three");
    assert_eq!(links(text), ["a.md#b"]);
}
