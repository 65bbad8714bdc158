//! What must not be said: the secrets of this run, and whatever looks like one in what other programs print.
//!
//! Everything that is written to a log, a status file or an output goes through here. Deliberately not here: keeping secrets
//! out of command lines and files, which is up to who handles them.

/// What stands where a secret was.
const HIDDEN: &str = "(hidden)";
/// How tokens of the recovery service begin.
const TOKEN: &str = "mobility-token-";

/// The secrets that this run has learned.
#[derive(Debug, Default)]
pub(crate) struct Secrets(Vec<String>);

impl Secrets {
    /// Never says `secret` from now on. Short ones are left: hiding them would hide everything else as well.
    pub(crate) fn learn(&mut self, secret: &str) {
        let secret = secret.trim();
        if secret.len() >= 6 && !self.0.iter().any(|known| known == secret) {
            self.0.push(secret.to_owned());
        }
    }

    /// `text` without them.
    pub(crate) fn hide(&self, text: &str) -> String {
        let known = self.0.iter().fold(text.to_owned(), |text, secret| text.replace(secret.as_str(), HIDDEN));
        let mut shown = String::with_capacity(known.len());
        for piece in known.split_inclusive(|c: char| c.is_whitespace() || matches!(c, '"' | '\'' | ',' | ';'))
        {
            let word =
                piece.trim_end_matches(|c: char| c.is_whitespace() || matches!(c, '"' | '\'' | ',' | ';'));
            shown.push_str(&of_word(word));
            shown.push_str(&piece[word.len()..]);
        }
        shown
    }
}

fn of_word(word: &str) -> String {
    let mut word = word.to_owned();
    if let Some(at) = word.find(TOKEN) {
        word.replace_range(at.., HIDDEN);
    }
    // Name and password in an address.
    if let Some(at) = word.find("://")
        && let Some(end) = word[at..].rfind('@')
    {
        word.replace_range(at + 3..at + end, HIDDEN);
    }
    // The signature in a shared access signature.
    for parameter in ["sig=", "SharedAccessSignature="] {
        if let Some(at) = word.find(parameter) {
            let from = at + parameter.len();
            let end = word[from..].find('&').map_or(word.len(), |length| from + length);
            word.replace_range(from..end, HIDDEN);
        }
    }
    hide_thumbprints(&word)
}

/// Runs of exactly 40 hexadecimal digits, which the name of the settings' certificate is.
fn hide_thumbprints(word: &str) -> String {
    let mut shown = String::new();
    let mut run = String::new();
    for c in word.chars().chain(['\n']) {
        if c.is_ascii_hexdigit() {
            run.push(c);
            continue;
        }
        shown.push_str(if run.len() == 40 { HIDDEN } else { &run });
        run.clear();
        shown.push(c);
    }
    shown.pop();
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_learned_and_what_looks_like_a_secret_is_hidden() {
        let mut secrets = Secrets::default();
        secrets.learn("open sesame\n");
        secrets.learn("a");
        let thumbprint = "0123456789abcdefABCDEF0123456789ABCDEF01";
        let said = format!(
            "a open sesame, /x/{thumbprint}.prv 'mobility-token-abc' http://me:word@proxy:1/ https://x/y?sv=1&sig=abc%3D&se=2"
        );
        assert_eq!(
            secrets.hide(&said),
            "a (hidden), /x/(hidden).prv '(hidden)' http://(hidden)@proxy:1/ https://x/y?sv=1&sig=(hidden)&se=2"
        );
    }

    #[test]
    fn what_is_no_secret_stays() {
        for text in
            ["", "plain: text; äöü\n", "https://recovery.example.org:8443", &"a".repeat(64), "me@example.org"]
        {
            assert_eq!(Secrets::default().hide(text), text);
        }
    }
}
