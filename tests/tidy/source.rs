//! Rust source as the checks see it: without its comments and the content of its literals, cut into functions.
//!
//! A scanner of a hundred lines instead of a parser: it needs no dependency and reads any edition. It knows as much of
//! Rust as finding braces takes, and nothing of macros.

/// The source with comments and the content of literals replaced by spaces. Lines stay where they are.
pub(crate) fn code_only(source: &str) -> String {
    let bytes = source.as_bytes();
    let mut code = bytes.to_vec();
    let mut at = 0;
    while at < bytes.len() {
        let end = match &bytes[at..] {
            [b'/', b'/', ..] => end_of_line(bytes, at),
            [b'/', b'*', ..] => end_of_comment(bytes, at),
            [b'"', ..] => end_of_string(bytes, at + 1),
            [b'r', b'"' | b'#', ..] if !continues_word(bytes, at) => end_of_raw_string(bytes, at),
            [b'\'', ..] => end_of_char(bytes, at),
            _ => at,
        };
        code[at..end].iter_mut().filter(|byte| **byte != b'\n').for_each(|byte| *byte = b' ');
        at = end.max(at + 1);
    }
    String::from_utf8_lossy(&code).into_owned()
}

fn continues_word(bytes: &[u8], at: usize) -> bool {
    // `br"…"` is a literal, too; the `b` before it may stay in the code.
    let before = bytes[..at].iter().rev().copied();
    let word: Vec<u8> = before.take_while(|b| b.is_ascii_alphanumeric() || *b == b'_').collect();
    !word.is_empty() && word != b"b"
}

fn end_of_line(bytes: &[u8], at: usize) -> usize {
    bytes[at..].iter().position(|&b| b == b'\n').map_or(bytes.len(), |length| at + length)
}

fn end_of_comment(bytes: &[u8], mut at: usize) -> usize {
    let mut depth = 0;
    while at < bytes.len() {
        match &bytes[at..] {
            [b'/', b'*', ..] => (depth, at) = (depth + 1, at + 2),
            [b'*', b'/', ..] => (depth, at) = (depth - 1, at + 2),
            _ => at += 1,
        }
        if depth == 0 {
            return at;
        }
    }
    at
}

fn end_of_string(bytes: &[u8], mut at: usize) -> usize {
    while at < bytes.len() && bytes[at] != b'"' {
        at += if bytes[at] == b'\\' { 2 } else { 1 };
    }
    (at + 1).min(bytes.len())
}

fn end_of_raw_string(bytes: &[u8], at: usize) -> usize {
    let hashes = bytes[at + 1..].iter().take_while(|b| **b == b'#').count();
    let start = at + 1 + hashes;
    if bytes.get(start) != Some(&b'"') {
        return at; // A raw identifier.
    }
    let closing: Vec<u8> = std::iter::once(b'"').chain(std::iter::repeat_n(b'#', hashes)).collect();
    let length = bytes[start + 1..].windows(closing.len()).position(|window| window == closing);
    length.map_or(bytes.len(), |length| start + 1 + length + closing.len())
}

fn end_of_char(bytes: &[u8], at: usize) -> usize {
    if bytes.get(at + 1) == Some(&b'\\') {
        let length = bytes[at + 3..].iter().position(|b| *b == b'\'');
        return length.map_or(bytes.len(), |length| at + 3 + length + 1);
    }
    // One character and a quote, or else a lifetime. A character takes up to four bytes.
    let length = (2..=5).find(|length| bytes.get(at + length) == Some(&b'\''));
    match length {
        Some(length) if length == 2 || bytes[at + 1] >= 0x80 => at + length + 1,
        _ => at,
    }
}

/// The part of a file before its own test module.
pub(crate) fn without_tests(code: &str) -> &str {
    match code.find("#[cfg(test)]\nmod tests {") {
        Some(at) => &code[..at],
        None => code,
    }
}

/// The functions of a file, as name, first line (from 1) and number of lines. `code` is what [`code_only`] gives.
pub(crate) fn functions(code: &str) -> Vec<(String, usize, usize)> {
    let words = code.match_indices("fn ").filter(|(at, _)| !continues_word(code.as_bytes(), *at));
    words.filter_map(|(at, _)| function(code, at)).collect()
}

fn function(code: &str, at: usize) -> Option<(String, usize, usize)> {
    let name: String = code[at + 3..].chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
    if name.is_empty() {
        return None; // A type such as `fn (u8)`.
    }
    let (mut depth, mut body) = (0, None);
    for (offset, byte) in code.bytes().enumerate().skip(at) {
        match byte {
            b'(' | b'[' => depth += 1,
            b')' | b']' => depth -= 1,
            b';' if depth == 0 && body.is_none() => return None,
            b'{' => {
                body.get_or_insert(depth);
                depth += 1;
            }
            b'}' => {
                depth -= 1;
                if body == Some(depth) {
                    let line = 1 + code[..at].matches('\n').count();
                    return Some((name, line, 1 + code[at..offset].matches('\n').count()));
                }
            }
            _ => {}
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn literals_and_comments_are_no_code() {
        let source = "let a = \"un\\\"safe\"; // unsafe\nlet b = r#\"unsafe \" {\"#; /* un /* { */ safe */ let c = '{';\n";
        let code = code_only(source);
        assert!(!code.contains("safe") && !code.contains('{'), "{code}");
        assert_eq!(code.matches("let").count(), 3, "{code}");
        assert_eq!(code_only("fn f<'a>(x: &'a str, y: '\\'') {}"), "fn f<'a>(x: &'a str, y:     ) {}");
    }

    #[test]
    fn functions_are_measured_from_their_name_to_their_brace() {
        let source =
            "trait T { fn none(&self); }\nfn one() {}\n\nfn two(\n    x: [u8; 3],\n) -> u8 {\n    { 1 }\n}\n";
        assert_eq!(functions(&code_only(source)), [("one".to_owned(), 2, 1), ("two".to_owned(), 4, 5)]);
    }
}
