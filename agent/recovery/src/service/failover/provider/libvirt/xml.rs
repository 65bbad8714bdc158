//! Text in XML, whatever somebody has called a machine.
//!
//! Deliberately not here: what XML there is (`domain`).

/// Text as the content of an element, or as the value of an attribute in either kind of quotes. What XML 1.0 cannot say at all
/// (<https://www.w3.org/TR/xml/#charsets>) is a replacement character.
pub(super) fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&apos;"),
            // As they are they would be spaces in an attribute.
            '\t' | '\n' | '\r' => escaped.push_str(&format!("&#{};", u32::from(c))),
            '\0'..='\u{1f}' | '\u{fffe}' | '\u{ffff}' => escaped.push('\u{fffd}'),
            c => escaped.push(c),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_a_machine_is_called_is_text() {
        let table = [
            ("web1", "web1"),
            ("</title><memory>1</memory>", "&lt;/title&gt;&lt;memory&gt;1&lt;/memory&gt;"),
            ("a' b=\"c\" &amp;", "a&apos; b=&quot;c&quot; &amp;amp;"),
            ("]]><![CDATA[", "]]&gt;&lt;![CDATA["),
            ("tab\tline\nend\r", "tab&#9;line&#10;end&#13;"),
            ("bell\u{7} nul\0 esc\u{1b}", "bell\u{fffd} nul\u{fffd} esc\u{fffd}"),
            ("\u{fffe}\u{ffff}\u{fffd}", "\u{fffd}\u{fffd}\u{fffd}"),
            ("größe 機械 🖥", "größe 機械 🖥"),
        ];
        for (text, expected) in table {
            assert_eq!(escaped(text), expected);
        }
    }
}
