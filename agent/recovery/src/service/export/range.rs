//! Which bytes of a resource are asked for, by the rules of RFC 9110.
//!
//! What the header says is taken or ignored as a whole; of several ranges at once the resource is answered as a whole, which
//! the rules allow. A byte too many is not given: see [`without_spill`]. Deliberately not here: the bytes.

use axum::http::{
    HeaderMap, Method,
    header::{IF_NONE_MATCH, IF_RANGE, RANGE},
};
use mobility_format::WINDOW_SIZE;

/// What is to be answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Part {
    /// All of it.
    Whole,
    /// The bytes from the first number on and before the second one. Never empty.
    Bytes(u64, u64),
    /// Nothing: what is asked for begins behind the end.
    Behind,
    /// Nothing: who asks has it.
    Same,
}

impl Part {
    /// What is asked for of a resource that is so long and has this tag.
    pub(super) fn of(method: &Method, headers: &HeaderMap, size: u64, tag: &str) -> Part {
        let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
        if text(IF_NONE_MATCH).is_some_and(|tags| names(tags, tag)) {
            return Part::Same;
        }
        let (Some(asked), true) = (text(RANGE), *method == Method::GET) else { return Part::Whole };
        // With anything but this very tag, what the other side has is of something else.
        if headers.contains_key(IF_RANGE) && text(IF_RANGE) != Some(tag) {
            return Part::Whole;
        }
        parse(asked, size)
    }
}

/// Whether `tag` is one of a list of tags. What is weak there compares as well.
fn names(tags: &str, tag: &str) -> bool {
    tags.split(',').map(str::trim).any(|one| one == "*" || one.trim_start_matches("W/") == tag)
}

fn parse(asked: &str, size: u64) -> Part {
    let Some((unit, ranges)) = asked.split_once('=') else { return Part::Whole };
    if !unit.trim().eq_ignore_ascii_case("bytes") || ranges.contains(',') {
        return Part::Whole;
    }
    let Some((first, last)) = ranges.trim().split_once('-') else { return Part::Whole };
    let part = match (number(first), number(last)) {
        (Number::Is(first), Number::Is(last)) if last < first => return Part::Whole,
        (Number::Is(first), Number::Is(last)) => (first, without_spill(first, last, size)),
        (Number::Is(first), Number::Missing) => (first, size),
        (Number::Missing, Number::Is(last)) => (size.saturating_sub(last), size),
        _ => return Part::Whole,
    };
    if part.0 < part.1 { Part::Bytes(part.0, part.1) } else { Part::Behind }
}

/// The end of what is answered where the bytes from `first` to `last`, it included, of so many are asked for.
///
/// nbdkit's plugin for curl asks for a byte more than it wants (`offset-(offset+count)`, at least up to 1.32), and throws it away. Where
/// that is the first of a window, another 1 MiB would be read, decoded and compared for it. A server may answer with a part of a range
/// (RFC 9110, section 15.3.7), and says which; nobody else was seen to ask for such a range.
fn without_spill(first: u64, last: u64, size: u64) -> u64 {
    let end = last.saturating_add(1).min(size);
    let spills = first < last && end < size && last.is_multiple_of(WINDOW_SIZE as u64);
    end - u64::from(spills)
}

enum Number {
    Is(u64),
    Missing,
    Nonsense,
}

fn number(text: &str) -> Number {
    match text {
        "" => Number::Missing,
        // More digits than fit are behind every end.
        text if text.bytes().all(|c| c.is_ascii_digit()) => Number::Is(text.parse().unwrap_or(u64::MAX)),
        _ => Number::Nonsense,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TAG: &str = "\"tag\"";

    fn part(said: &[(&str, &str)]) -> Part {
        let mut headers = HeaderMap::new();
        for (name, value) in said {
            headers.insert(axum::http::HeaderName::try_from(*name).unwrap(), value.parse().unwrap());
        }
        Part::of(&Method::GET, &headers, 1000, TAG)
    }

    #[test]
    fn ranges_are_taken_as_the_rules_say() {
        let cases = [
            ("bytes=0-0", Part::Bytes(0, 1)),
            ("bytes=0-999", Part::Bytes(0, 1000)),
            ("bytes=0-5000", Part::Bytes(0, 1000)),
            ("bytes=999-", Part::Bytes(999, 1000)),
            ("bytes=0-", Part::Bytes(0, 1000)),
            ("bytes=-1", Part::Bytes(999, 1000)),
            ("bytes=-5000", Part::Bytes(0, 1000)),
            ("Bytes= 5-6", Part::Bytes(5, 7)),
            ("bytes=5-99999999999999999999999999", Part::Bytes(5, 1000)),
            ("bytes=1000-", Part::Behind),
            ("bytes=1000-1000", Part::Behind),
            ("bytes=99999999999999999999999999-", Part::Behind),
            ("bytes=-0", Part::Behind),
            ("bytes=6-5", Part::Whole),
            ("bytes=-", Part::Whole),
            ("bytes=a-b", Part::Whole),
            ("bytes=+1-2", Part::Whole),
            ("bytes=1", Part::Whole),
            ("bytes", Part::Whole),
            ("blocks=0-1", Part::Whole),
            ("bytes=0-1,5-6", Part::Whole),
        ];
        for (asked, expected) in cases {
            assert_eq!(part(&[("range", asked)]), expected, "{asked}");
        }
        let no_bytes = |asked| parse(asked, 0);
        for asked in ["bytes=0-", "bytes=-1", "bytes=0-0"] {
            assert_eq!(no_bytes(asked), Part::Behind, "{asked}");
        }
    }

    #[test]
    fn a_byte_of_the_next_window_alone_is_left_out() {
        const W: u64 = WINDOW_SIZE as u64;
        let whole = 3 * W + 1;
        let cases = [
            (0, W, Part::Bytes(0, W)),
            (W - 4096, W, Part::Bytes(W - 4096, W)),
            (5, 2 * W, Part::Bytes(5, 2 * W)),
            (0, W - 1, Part::Bytes(0, W)),
            (0, W + 1, Part::Bytes(0, W + 2)),
            (W, W, Part::Bytes(W, W + 1)),
            (W, W + 4096, Part::Bytes(W, W + 4097)),
        ];
        for (first, last, expected) in cases {
            assert_eq!(parse(&format!("bytes={first}-{last}"), whole), expected, "{first}-{last}");
        }
        // The disk's last byte belongs to it, whoever asks.
        assert_eq!(parse(&format!("bytes=0-{}", 3 * W), whole), Part::Bytes(0, whole));
        assert_eq!(parse("bytes=0-", whole), Part::Bytes(0, whole));
        assert_eq!(parse("bytes=-9", whole), Part::Bytes(whole - 9, whole));
    }

    #[test]
    fn a_range_of_something_else_is_answered_with_all_of_it() {
        let range = ("range", "bytes=0-1");
        assert_eq!(part(&[range, ("if-range", TAG)]), Part::Bytes(0, 2));
        for other in ["\"gat\"", "W/\"tag\"", "Tue, 24 Nov 2026 00:00:00 GMT"] {
            assert_eq!(part(&[range, ("if-range", other)]), Part::Whole, "{other}");
        }
        assert_eq!(part(&[range, ("if-none-match", "\"a\", W/\"tag\"")]), Part::Same);
        assert_eq!(part(&[range, ("if-none-match", "\"a\"")]), Part::Bytes(0, 2));
        let mut headers = HeaderMap::new();
        headers.insert(RANGE, "bytes=0-1".parse().unwrap());
        assert_eq!(Part::of(&Method::HEAD, &headers, 1000, TAG), Part::Whole, "a range is for GET alone");
    }
}
