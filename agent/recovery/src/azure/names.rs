//! Names as Azure takes them.
//!
//! Deliberately not here: names of what is there already, which are taken as they are or refused (`crate::target`).

/// The longest name of a machine with Linux.
const LONGEST_MACHINE: usize = 64;
/// The longest name of an availability set.
const LONGEST_SET: usize = 80;

/// A machine's name: letters, digits and dashes, none of these at its ends. Whatever else a name has becomes a dash.
#[must_use]
pub fn machine_name(name: &str) -> String {
    let plain: String = name.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect();
    within(plain.trim_matches('-'), LONGEST_MACHINE, &['-'])
}

/// The name of an availability set: it may have dots and underscores too.
pub(super) fn set_name(name: &str) -> String {
    let allowed = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    let plain: String = name.chars().map(|c| if allowed(c) { c } else { '-' }).collect();
    within(plain.trim_matches(['-', '_', '.']), LONGEST_SET, &['-', '.'])
}

fn within(plain: &str, most: usize, no_end: &[char]) -> String {
    let cut = plain[..plain.len().min(most)].trim_end_matches(no_end);
    if cut.is_empty() { "machine".to_owned() } else { cut.to_owned() }
}

/// A text inside quotes of an expression.
pub(super) fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_as_azure_takes_them() {
        let long = format!("{}-{}", "n".repeat(63), "n".repeat(9));
        for (name, expected) in [
            ("web", "web"),
            ("web_1.example", "web-1-example"),
            ("-web-", "web"),
            ("größe", "gr--e"),
            ("_", "machine"),
            ("", "machine"),
            (long.as_str(), &"n".repeat(63)),
        ] {
            assert_eq!(machine_name(name), expected, "{name}");
        }
        assert_eq!(set_name("a set/_1."), "a-set-_1");
        assert_eq!(set_name(&"s".repeat(99)).len(), 80);
        assert_eq!(quoted("it's"), "'it''s'");
    }
}
