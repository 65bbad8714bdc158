//! The two clocks: one that only goes forward for decisions, the machine's own for people.
//!
//! `CLOCK_BOOTTIME` goes on while the machine is suspended, so an interval is an interval. This is the one place that
//! asks for the time on the engine's behalf.

use jiff::Timestamp;
use mobility_engine::Time;
use rustix::time::{ClockId, clock_gettime};

/// Now, on the clock that decisions go by.
pub(crate) fn now() -> Time {
    let time = clock_gettime(ClockId::Boottime);
    let millis = time.tv_sec.saturating_mul(1000).saturating_add(time.tv_nsec / 1_000_000);
    Time(u64::try_from(millis).unwrap_or(0))
}

/// Now, by the machine's clock.
pub(crate) fn wall() -> Timestamp {
    Timestamp::now()
}

/// When `time` is or was, by the machine's clock.
pub(crate) fn wall_of(time: Time) -> Timestamp {
    let ahead = i64::try_from(time.0).unwrap_or(i64::MAX).saturating_sub(i64::try_from(now().0).unwrap_or(0));
    wall().saturating_add(jiff::SignedDuration::from_millis(ahead)).unwrap_or(Timestamp::MAX)
}
