//! What the newest point that was taken in holds of a disk, by digests: for comparing whole disks, scans and the audit.
//!
//! Deliberately not here: comparing.

use std::time::Duration;

use mobility_format::{BlockDigest, DiskId, Epoch, WINDOW_BLOCKS};

use super::{
    WindowDigests,
    client::Ask,
    connection::Connection,
    fault::{ServiceFault, ServiceFaultKind as Kind},
};

/// Windows that can be asked for at once.
pub(crate) const MOST_WINDOWS: u32 = 64;

/// How long the service may take: it may have to read the point's index first.
const LIMIT: Duration = Duration::from_secs(60);
const WINDOW: usize = WINDOW_BLOCKS as usize * BlockDigest::LEN;

/// Asks for `count` windows, from number `window` on.
pub(super) fn ask(
    connection: &Connection,
    disk: DiskId,
    (window, count): (u64, u32),
    epoch: Epoch,
) -> Result<Vec<WindowDigests>, ServiceFault> {
    let count = count.min(MOST_WINDOWS);
    let path = format!("digests/{disk}?window={window}&count={count}&epoch={epoch}");
    let body = connection.ask(&Ask::get(&path).within(LIMIT))?;
    parse(&body, count as usize)
        .ok_or_else(|| ServiceFault::new(Kind::Garbage, "the recovery service's digests cannot be read"))
}

/// For each window a byte, and after a `1` the digests of its blocks.
fn parse(mut body: &[u8], count: usize) -> Option<Vec<WindowDigests>> {
    let mut windows = Vec::with_capacity(count);
    for _ in 0..count {
        let (kind, rest) = body.split_first()?;
        body = rest;
        windows.push(match kind {
            0 => None,
            1 => {
                let (digests, rest) = body.split_at_checked(WINDOW)?;
                body = rest;
                let mut window = Box::new([BlockDigest::ZERO_BLOCK; WINDOW_BLOCKS as usize]);
                for (digest, bytes) in window.iter_mut().zip(digests.chunks_exact(BlockDigest::LEN)) {
                    digest.0.copy_from_slice(bytes);
                }
                Some(window)
            }
            _ => return None,
        });
    }
    body.is_empty().then_some(windows)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_are_zeros_or_digests_and_nothing_else() {
        let mut body = vec![0, 1];
        body.extend((0..WINDOW).map(|n| (n / BlockDigest::LEN) as u8));
        body.push(0);
        let windows = parse(&body, 3).unwrap();
        assert!(windows[0].is_none() && windows[2].is_none());
        assert_eq!(windows[1].as_ref().unwrap()[200], BlockDigest([200; 16]));
        assert!(parse(&body, 2).is_none() && parse(&body, 4).is_none(), "another number of windows");
        assert!(parse(&body[..body.len() - 2], 3).is_none(), "cut short");
        assert!(parse(&[2], 1).is_none());
        assert_eq!(parse(&[], 0).unwrap().len(), 0);
    }
}
