//! Reads a page blob back: only the pages that the store says are there; the others are zero by its word.
//!
//! Deliberately not here: comparing.

use std::sync::{Arc, Mutex};

use super::{super::medium::Stored, lock, request::Client};
use crate::storage::StorageError;

/// How much of the blob one list of pages is about.
const LISTED: u64 = 16 << 30;
/// The longest list: about as long as that of so many stretches, each as close to the next as they are put apart.
const LONGEST: u64 = 32 << 20;

/// A page blob being read.
pub(super) struct StoredBlob {
    client: Arc<Client>,
    length: u64,
    listed: Mutex<Listed>,
}

/// The pages that are there between two places.
#[derive(Default)]
struct Listed {
    start: u64,
    end: u64,
    /// First byte and the byte behind the last, in order.
    ranges: Vec<(u64, u64)>,
}

impl StoredBlob {
    pub(super) fn new(client: Arc<Client>, length: u64) -> StoredBlob {
        StoredBlob { client, length, listed: Mutex::default() }
    }
}

impl Stored for StoredBlob {
    fn read(&self, at: u64, buf: &mut [u8]) -> Result<(), StorageError> {
        self.client.read(at, buf)
    }

    fn next_data(&self, mut at: u64) -> Result<Option<u64>, StorageError> {
        let mut listed = lock(&self.listed);
        while at < self.length {
            if !(listed.start..listed.end).contains(&at) {
                let end = (at + LISTED).min(self.length);
                let text = self.client.page_list(at, end, LONGEST)?;
                *listed = parse(&text, at, end);
            }
            let after = listed.ranges.partition_point(|(_, end)| *end <= at);
            if let Some((start, _)) = listed.ranges.get(after) {
                return Ok(Some((*start).max(at)));
            }
            at = listed.end;
        }
        Ok(None)
    }
}

/// What a list says. Where there is more to come, it is about what comes before its last range's end.
fn parse(text: &str, start: u64, end: u64) -> Listed {
    let number = |text: &str, name: &str| -> Option<u64> {
        let (_, rest) = text.split_once(&format!("<{name}>"))?;
        rest.split('<').next()?.trim().parse().ok()
    };
    let range = |part: &str| Some((number(part, "Start")?, number(part, "End")? + 1));
    let ranges: Vec<(u64, u64)> = text.split("<PageRange>").skip(1).filter_map(range).collect();
    let more = text.split_once("<NextMarker>").is_some_and(|(_, rest)| !rest.starts_with("</"));
    let end = match ranges.last() {
        Some((_, last)) if more => (*last).clamp(start + 1, end),
        _ => end,
    };
    Listed { start, end, ranges }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_of_pages_is_understood_also_where_it_goes_on() {
        let list = "<?xml version=\"1.0\"?><PageList><PageRange><Start>0</Start><End>511</End></PageRange>\
            <PageRange><Start>1024</Start><End>2047</End></PageRange>";
        let whole = parse(&format!("{list}</PageList>"), 0, 4096);
        assert_eq!((whole.end, &whole.ranges[..]), (4096, &[(0, 512), (1024, 2048)][..]));
        assert_eq!(parse(&format!("{list}<NextMarker/></PageList>"), 0, 4096).end, 4096);
        assert_eq!(parse(&format!("{list}<NextMarker></NextMarker></PageList>"), 0, 4096).end, 4096);
        assert_eq!(parse(&format!("{list}<NextMarker>x</NextMarker></PageList>"), 0, 4096).end, 2048);
        assert!(parse("<PageList></PageList>", 0, 4096).ranges.is_empty());
    }
}
