//! Whether a disk is read in order: what was asked of it lately.
//!
//! Judged by what was asked for, never by what is kept: with a large shelf there is a neighbour of nearly anything on it, so that
//! random reads would fetch what nobody wants, and each such window would be taken for a reason to fetch the next. Deliberately not
//! here: fetching (`shelf`).

use std::collections::VecDeque;

/// How many windows are remembered: tools read in order at several places at once, in parts of a window.
const REMEMBERED: usize = 16;

/// The windows that were asked for last, each once, the newest at the end.
#[derive(Default)]
pub(super) struct Trail(VecDeque<u64>);

impl Trail {
    /// Notes that `window` is asked for. Says whether that goes on from a window asked for before it.
    pub(super) fn goes_on_with(&mut self, window: u64) -> bool {
        if !self.0.contains(&window) {
            if self.0.len() == REMEMBERED {
                self.0.pop_front();
            }
            self.0.push_back(window);
        }
        window.checked_sub(1).is_some_and(|before| self.0.contains(&before))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn go_on(asked: impl IntoIterator<Item = u64>) -> usize {
        let mut trail = Trail::default();
        asked.into_iter().filter(|window| trail.goes_on_with(*window)).count()
    }

    #[test]
    fn reading_in_order_goes_on_also_in_parts_and_at_several_places() {
        assert_eq!(go_on(0..100), 99);
        assert_eq!(go_on((0..400).map(|part| part / 4)), 396);
        let places = (0..100).flat_map(|step| (0..8).map(move |place| place * 1000 + step));
        assert_eq!(go_on(places), 8 * 99);
    }

    #[test]
    fn reading_at_random_does_not_even_where_much_of_the_disk_was_read() {
        // A walk over all 1,009 windows of a disk in steps of 389: each has a neighbour that was read, none of them lately.
        let asked = (0..20 * 1009).map(|step| step * 389 % 1009);
        assert_eq!(go_on(asked), 0);
        assert_eq!(go_on((0..100).rev()), 0);
    }
}
