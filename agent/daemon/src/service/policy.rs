//! What a policy means for this machine: which of its disks, how often, how fast.
//!
//! Pure: what there is and what time it is are given. A policy that asks for more than may be is followed as far as it may.
//! Deliberately not here: following it.

use std::time::Duration;

use jiff::{Timestamp, ToSpan, civil::Weekday, tz::TimeZone};
use mobility_format::{
    ByteCount,
    control::{DiskInventory, DiskPattern, Policy, RateWindow},
};

/// What the configuration may ask for as well.
const INTERVAL: (u64, u64) = (1, 86_400);
const APPLICATION_INTERVAL: (u64, u64) = (10, 30 * 86_400);
const RATE: (u64, u64) = (16 << 10, 1 << 40);

/// Whether the policy protects a disk. Loop devices lie on disks that are protected themselves, so they have to be named.
pub(crate) fn protects(policy: &Policy, disk: &DiskInventory) -> bool {
    let included = match policy.include.as_slice() {
        [] => !disk.name.starts_with("loop"),
        patterns => patterns.iter().any(|pattern| matches(pattern, disk)),
    };
    included
        && (policy.temporary_disks || !disk.temporary)
        && !policy.exclude.iter().any(|pattern| matches(pattern, disk))
}

/// Whether all that the pattern says is true of the disk. One that says nothing is true of none: it is a mistake.
fn matches(pattern: &DiskPattern, disk: &DiskInventory) -> bool {
    let DiskPattern { name, mount, at_least, at_most } = pattern;
    if name.is_none() && mount.is_none() && at_least.is_none() && at_most.is_none() {
        return false;
    }
    let id = disk.id.to_string();
    let mut names = [&disk.name, &id].into_iter().chain(&disk.labels);
    name.as_ref().is_none_or(|pattern| names.any(|name| fits(pattern, name)))
        && mount.as_ref().is_none_or(|pattern| disk.mounts.iter().any(|mount| fits(pattern, mount)))
        && at_least.is_none_or(|size| disk.size >= size)
        && at_most.is_none_or(|size| disk.size <= size)
}

/// Whether `text` is `pattern`, in which `*` stands for anything. Takes no longer than the product of their lengths.
fn fits(pattern: &str, text: &str) -> bool {
    let (pattern, text) = (pattern.as_bytes(), text.as_bytes());
    let (mut p, mut t) = (0, 0);
    // Where the last `*` was, and how much of the text it stands for so far.
    let mut star: Option<(usize, usize)> = None;
    while t < text.len() {
        match pattern.get(p) {
            Some(b'*') => {
                star = Some((p, t));
                p += 1;
            }
            Some(byte) if *byte == text[t] => (p, t) = (p + 1, t + 1),
            _ => match star {
                Some((at, taken)) => {
                    star = Some((at, taken + 1));
                    (p, t) = (at + 1, taken + 1);
                }
                None => return false,
            },
        }
    }
    pattern[p..].iter().all(|byte| *byte == b'*')
}

/// From one point to the next.
pub(crate) fn interval(policy: &Policy) -> Duration {
    Duration::from_secs(policy.interval_s.clamp(INTERVAL.0, INTERVAL.1))
}

/// From one application-consistent point to the next, where they are made by schedule; never shorter than the interval.
pub(crate) fn application_interval(policy: &Policy) -> Option<Duration> {
    let seconds = policy.application_interval_s?.clamp(APPLICATION_INTERVAL.0, APPLICATION_INTERVAL.1);
    Some(Duration::from_secs(seconds).max(interval(policy)))
}

/// How fast segments may be uploaded at `now`.
pub(crate) fn upload_rate(policy: &Policy, now: Timestamp) -> Option<ByteCount> {
    let window = policy.rate_windows.iter().find(|window| is_open(window, now));
    let rate = window.map_or(policy.upload_rate, |window| window.upload_rate);
    rate.map(|rate| ByteCount(rate.0.clamp(RATE.0, RATE.1)))
}

/// Whether `now` is in the window. One that ends before it begins ends on the next day.
fn is_open(window: &RateWindow, now: Timestamp) -> bool {
    let minute = u16::try_from(now.as_second().rem_euclid(86_400) / 60).unwrap_or(0);
    let RateWindow { from_min: from, to_min: to, .. } = *window;
    let (today, yesterday) = (day_of(now, 0), day_of(now, 1));
    let on = |day: u8| window.days.is_empty() || window.days.contains(&day);
    match from < to {
        true => on(today) && (from..to).contains(&minute),
        false => (on(today) && minute >= from) || (on(yesterday) && minute < to),
    }
}

/// The day of the week so many days before `now`: 1 is Monday.
fn day_of(now: Timestamp, before: i64) -> u8 {
    let then = now.checked_sub((24 * before).hours()).unwrap_or(now);
    let day: Weekday = then.to_zoned(TimeZone::UTC).weekday();
    u8::try_from(day.to_monday_one_offset()).unwrap_or(1)
}

#[cfg(test)]
mod tests {
    use mobility_format::DiskId;

    use super::*;

    fn policy() -> Policy {
        serde_json::from_str(r#"{"version":1,"name":"p","interval_s":15,"retention":"1h","scripts":true}"#)
            .unwrap()
    }

    fn disk(name: &str, gib: u64) -> DiskInventory {
        DiskInventory {
            id: DiskId::derive(name),
            name: name.to_owned(),
            size: ByteCount(gib << 30),
            mounts: vec!["/".to_owned(), "/srv/data".to_owned()],
            labels: vec!["serial:ABC123".to_owned(), "scsi-0HC_Volume_1".to_owned()],
            temporary: false,
            controller: None,
            lun: None,
            serial: None,
        }
    }

    fn named(name: &str) -> DiskPattern {
        DiskPattern { name: Some(name.to_owned()), ..DiskPattern::default() }
    }

    #[test]
    fn all_disks_but_temporary_ones_unless_it_says_otherwise() {
        let temporary = DiskInventory { temporary: true, ..disk("sdb", 8) };
        assert!(protects(&policy(), &disk("sda", 8)) && !protects(&policy(), &temporary));
        assert!(!protects(&policy(), &disk("loop0", 8)), "it lies on another disk");
        let all = Policy { temporary_disks: true, include: vec![named("*")], ..policy() };
        assert!(protects(&all, &temporary) && protects(&all, &disk("loop0", 8)));
        assert!(!protects(&Policy { exclude: vec![named("sdb")], ..all }, &temporary));
    }

    #[test]
    fn patterns_match_names_mounts_and_sizes_together() {
        let of =
            |pattern: DiskPattern| protects(&Policy { include: vec![pattern], ..policy() }, &disk("sda", 8));
        for good in ["sda", "sd*", "serial:ABC*", "scsi-*_1", &DiskId::derive("sda").to_string(), "*"] {
            assert!(of(named(good)), "{good}");
        }
        for bad in ["sd", "da", "sdb", "", "*b"] {
            assert!(!of(named(bad)), "{bad}");
        }
        let mount = |mount: &str| DiskPattern { mount: Some(mount.to_owned()), ..DiskPattern::default() };
        assert!(of(mount("/")) && of(mount("/srv/*")) && !of(mount("/srv")));
        let size = |least: u64, most: u64| DiskPattern {
            at_least: Some(ByteCount(least << 30)),
            at_most: Some(ByteCount(most << 30)),
            ..DiskPattern::default()
        };
        assert!(of(size(8, 8)) && !of(size(9, 20)) && !of(size(1, 7)));
        assert!(!of(DiskPattern { mount: Some("/boot".to_owned()), ..named("sda") }), "all has to match");
        assert!(!of(DiskPattern::default()), "says nothing");
    }

    #[test]
    fn stars_stand_for_anything_and_take_no_time() {
        for (pattern, text, fit) in [
            ("a*b*c", "aXbYbc", true),
            ("a*b", "ab", true),
            ("**", "", true),
            ("a*", "ba", false),
            ("*a", "ab", false),
            ("é*", "éa", true),
        ] {
            assert_eq!(fits(pattern, text), fit, "{pattern} {text}");
        }
        assert!(!fits(&"*a".repeat(2000), &"a".repeat(1999)));
    }

    #[test]
    fn windows_are_times_of_the_week_and_the_first_counts() {
        let window = |days: &[u8], from, to, rate| RateWindow {
            days: days.to_vec(),
            from_min: from,
            to_min: to,
            upload_rate: Some(ByteCount(rate)),
        };
        // From Friday 22:00 to Saturday 06:00, and every day from 08:00 to 18:00.
        let policy = Policy {
            upload_rate: None,
            rate_windows: vec![window(&[5], 22 * 60, 6 * 60, 5 << 20), window(&[], 8 * 60, 18 * 60, 1 << 20)],
            ..policy()
        };
        let at = |text: &str| text.parse::<Timestamp>().unwrap();
        for (time, rate) in [
            ("2026-11-27T21:59:59Z", None), // A Friday.
            ("2026-11-27T22:00:00Z", Some(5 << 20)),
            ("2026-11-28T05:59:59Z", Some(5 << 20)),
            ("2026-11-28T06:00:00Z", None),
            ("2026-11-28T22:30:00Z", None),
            ("2026-11-25T08:00:00Z", Some(1 << 20)),
            ("2026-11-25T18:00:00Z", None),
        ] {
            assert_eq!(upload_rate(&policy, at(time)), rate.map(ByteCount), "{time}");
        }
    }

    #[test]
    fn a_policy_cannot_ask_for_more_than_may_be() {
        let wild = Policy {
            interval_s: 0,
            application_interval_s: Some(0),
            upload_rate: Some(ByteCount(0)),
            ..policy()
        };
        assert_eq!(interval(&wild), Duration::from_secs(1));
        assert_eq!(application_interval(&wild), Some(Duration::from_secs(10)));
        assert_eq!(upload_rate(&wild, Timestamp::UNIX_EPOCH), Some(ByteCount(16 << 10)));
        let slow = Policy { interval_s: u64::MAX, application_interval_s: Some(60), ..policy() };
        assert_eq!(application_interval(&slow), Some(Duration::from_secs(86_400)));
        let odd = RateWindow { days: vec![0, 9], from_min: u16::MAX, to_min: 0, upload_rate: None };
        let odd = Policy { rate_windows: vec![odd], ..policy() };
        assert_eq!(upload_rate(&odd, Timestamp::UNIX_EPOCH), None);
        upload_rate(&odd, Timestamp::MAX);
    }
}
