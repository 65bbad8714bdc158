//! What a script says, line by line and within bounds.
//!
//! A script is not trusted to be brief, to end its lines or to write text. Deliberately not here: where it is logged.

/// How much of a script's output is kept, in bytes. The rest is read and counted, so that it does not hold the script up.
pub(super) const MAX_OUTPUT: usize = 64 << 10;
/// The longest line; what follows is left out.
pub(super) const MAX_LINE: usize = 1024;

/// Gathers output.
#[derive(Debug, Default)]
pub(super) struct Output {
    lines: Vec<String>,
    line: Vec<u8>,
    cut: bool,
    kept: usize,
    dropped: u64,
}

impl Output {
    /// Takes the next bytes.
    pub(super) fn take(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            // Each line costs one byte more, so that empty lines are bounded as well.
            if self.kept == MAX_OUTPUT {
                self.dropped += 1;
            } else if byte == b'\n' {
                self.kept += 1;
                self.end_line();
            } else if self.line.len() < MAX_LINE {
                self.kept += 1;
                self.line.push(byte);
            } else {
                self.cut = true;
                self.dropped += 1;
            }
        }
    }

    fn end_line(&mut self) {
        let mut line: String = String::from_utf8_lossy(&self.line)
            .chars()
            // What a terminal or a log would take for an order is none.
            .map(|c| if c.is_control() && c != '\t' { char::REPLACEMENT_CHARACTER } else { c })
            .collect();
        if std::mem::take(&mut self.cut) {
            line.push('…');
        }
        self.line.clear();
        if !line.trim().is_empty() {
            self.lines.push(line);
        }
    }

    /// All lines.
    pub(super) fn finish(mut self) -> Vec<String> {
        if !self.line.is_empty() {
            self.end_line();
        }
        if self.dropped > 0 {
            self.lines.push(format!("… {} bytes more were said and are left out", self.dropped));
        }
        self.lines
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(bytes: &[u8]) -> Vec<String> {
        let mut output = Output::default();
        bytes.chunks(7).for_each(|chunk| output.take(chunk));
        output.finish()
    }

    #[test]
    fn lines_are_whole_and_harmless() {
        assert_eq!(said(b"one\n\ntwo\xff\x1b[2J\tx"), ["one", "two\u{fffd}\u{fffd}[2J\tx"]);
    }

    #[test]
    fn floods_are_bounded() {
        let long = said(&[b'a'; 3 * MAX_LINE]);
        assert_eq!(long[0].chars().count(), MAX_LINE + 1);
        assert!(long[0].ends_with('…') && long[1].contains("2048 bytes more"), "{}", long[1]);
        let lines = said(&b"yes\n".repeat(MAX_OUTPUT));
        assert_eq!(lines.len(), MAX_OUTPUT / 4 + 1);
        assert!(lines.last().unwrap().contains(&format!("{} bytes", 3 * MAX_OUTPUT)));
        assert_eq!(said(&b"\n".repeat(2 * MAX_OUTPUT)).len(), 1);
    }
}
