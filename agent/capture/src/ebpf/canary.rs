//! Notices a tracker that has gone blind: the kernel counts writes for its own statistics, and if it counts some of which no
//! mark is found, the programs are not run any more, whatever the reason.
//!
//! The count of sectors (`/sys/block/<disk>/stat`, Documentation/block/stat.rst) is raised when a request ends, after the tracepoint at
//! which it is marked (block/blk-mq.c, `blk_update_request`). The count of requests is of no use: a flush without data is counted as a write
//! where the disk has a cache. So a sector counted between two readings has been marked before the second, and its mark is taken by the drain that follows the first reading or by the one after that. Two
//! drains without a mark, and a count that grew between their readings, cannot be. It costs no write of our own.
//!
//! Deliberately not here: single lost marks, which are the table of flights' and the audit's; and disks whose statistics
//! are switched off (`queue/iostats`), whose count never grows.

use std::{fs, io};

/// What was counted and found at the last drain.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Canary {
    last: Option<(u64, bool)>,
}

impl Canary {
    /// The drain that followed a reading of `count` has found a mark or not. Returns whether the tracker is blind.
    pub(super) fn is_dead(&mut self, count: u64, marked: bool) -> bool {
        let before = self.last.replace((count, marked));
        matches!(before, Some((last, false)) if !marked && count > last)
    }

    /// A mark was taken outside of a drain.
    pub(super) fn sang(&mut self) {
        self.last = None;
    }

    /// Sectors written and discarded that the kernel has counted for the disk.
    ///
    /// # Errors
    /// The disk is gone.
    pub(super) fn count(sysfs_name: &str) -> io::Result<u64> {
        let text = fs::read_to_string(format!("/sys/block/{sysfs_name}/stat"))?;
        Ok(counted(&text))
    }
}

/// The seventh column counts sectors written, the fourteenth (since 4.19) those discarded.
fn counted(stat: &str) -> u64 {
    let column = |n: usize| {
        stat.split_ascii_whitespace().nth(n).and_then(|text| text.parse::<u64>().ok()).unwrap_or(0)
    };
    column(6).wrapping_add(column(13))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writes_without_marks_over_two_drains_mean_blindness() {
        let mut canary = Canary::default();
        assert!(!canary.is_dead(5, false), "the first reading says nothing");
        assert!(!canary.is_dead(5, false), "nothing was written");
        assert!(canary.is_dead(6, false));
    }

    #[test]
    fn a_mark_taken_by_either_drain_is_a_sign_of_life() {
        let mut canary = Canary::default();
        assert!(!canary.is_dead(5, false));
        assert!(!canary.is_dead(9, true));
        assert!(!canary.is_dead(12, false), "counted after the reading, taken by the drain before");
        assert!(canary.is_dead(13, false));
    }

    #[test]
    fn sectors_written_and_discarded_are_counted_and_reads_and_flushes_are_not() {
        assert_eq!(counted("  1 2 3 4 5 6 50 8 9 10 11 12 13 7 15 16 17\n"), 57);
        assert_eq!(counted(""), 0);
    }
}
