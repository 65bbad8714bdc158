//! Which points to keep: a ladder of ages, and for each how close together points stay.
//!
//! `1h:all,24h:5min,7d:1h,30d:1d` reads: up to one hour old keep all, up to a day one for every 5 minutes, up to a week
//! one an hour, up to 30 days one a day; what is older goes. Ages go by the time at which the service took a point in,
//! never by what the agent says. Pure. Deliberately not here: removing anything.

use std::{collections::BTreeSet, fmt, str::FromStr};

use jiff::{SignedDuration, Timestamp};
use mobility_format::Epoch;

/// The ladder that is used where none is given.
pub const DEFAULT_LADDER: &str = "1h:all,24h:5min,7d:1h,30d:1d";

const MAX_STEPS: usize = 32;
const MAX_SECONDS: i64 = 100 * 366 * 86_400;

/// How long points are kept, and how many of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ladder {
    steps: Vec<Step>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Step {
    /// Up to which age, in seconds.
    until: i64,
    /// One in so many seconds; all where there is nothing.
    every: Option<i64>,
}

/// A text that is not a ladder.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "'{step}' is not a step of a retention ladder: {problem}. An example of a ladder is {DEFAULT_LADDER}"
)]
pub struct LadderError {
    step: String,
    problem: &'static str,
}

impl FromStr for Ladder {
    type Err = LadderError;

    fn from_str(text: &str) -> Result<Self, LadderError> {
        let mut steps: Vec<Step> = Vec::new();
        for step in text.split(',').map(str::trim) {
            let error = |problem| LadderError { step: step.chars().take(80).collect(), problem };
            let (until, every) =
                step.split_once(':').ok_or(error("it lacks a colon between age and distance"))?;
            let until = seconds(until).ok_or(error("the age is not a number and s, min, h, d or w"))?;
            let every = match every.trim() {
                "all" => None,
                every => Some(
                    seconds(every)
                        .ok_or(error("the distance is neither 'all' nor a number and s, min, h, d or w"))?,
                ),
            };
            if steps.last().is_some_and(|last| last.until >= until) {
                return Err(error("its age is not above that of the step before"));
            }
            if steps.len() == MAX_STEPS {
                return Err(error("there are too many steps"));
            }
            steps.push(Step { until, every });
        }
        Ok(Ladder { steps })
    }
}

fn seconds(text: &str) -> Option<i64> {
    let text = text.trim();
    let (number, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit())?);
    let unit = match unit.trim() {
        "s" => 1,
        "min" => 60,
        "h" => 3_600,
        "d" => 86_400,
        "w" => 7 * 86_400,
        _ => return None,
    };
    let seconds = number.parse::<i64>().ok()?.checked_mul(unit)?;
    (1..=MAX_SECONDS).contains(&seconds).then_some(seconds)
}

impl fmt::Display for Ladder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let unit = |seconds: i64| {
            let units = [(7 * 86_400, "w"), (86_400, "d"), (3_600, "h"), (60, "min"), (1, "s")];
            let fitting = units.into_iter().find(|(unit, _)| seconds % unit == 0);
            fitting.map_or(String::new(), |(unit, name)| format!("{}{name}", seconds / unit))
        };
        for (index, step) in self.steps.iter().enumerate() {
            let comma = if index == 0 { "" } else { "," };
            write!(f, "{comma}{}:{}", unit(step.until), step.every.map_or("all".to_owned(), unit))?;
        }
        Ok(())
    }
}

/// A point, as far as retention is concerned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// Which.
    pub epoch: Epoch,
    /// When the service took it in.
    pub received: Timestamp,
    /// Whether it is fuzzy.
    pub fuzzy: bool,
}

/// The points to keep. The newest always stays, and the newest that is not fuzzy. Of several that share a place on the
/// ladder the oldest stays, so that what was chosen once is not replaced by what comes later; a fuzzy one only where there
/// is no other.
#[must_use]
pub fn choose(points: &[Candidate], now: Timestamp, ladder: &Ladder) -> BTreeSet<Epoch> {
    let mut points = points.to_vec();
    points.sort_by_key(|point| point.epoch);
    let newest = points.last();
    let newest_sharp = points.iter().rev().find(|point| !point.fuzzy);
    let mut keep: BTreeSet<Epoch> = newest.into_iter().chain(newest_sharp).map(|point| point.epoch).collect();
    let mut taken = BTreeSet::new();
    let (fuzzy, sharp): (Vec<&Candidate>, Vec<&Candidate>) = points.iter().partition(|point| point.fuzzy);
    for point in sharp.into_iter().chain(fuzzy) {
        // A point from the future is what a clock that was set back leaves: it counts as new.
        let age = now.duration_since(point.received).max(SignedDuration::ZERO);
        let step = ladder.steps.iter().position(|step| age <= SignedDuration::from_secs(step.until));
        let Some(step) = step else { continue };
        let free = match ladder.steps[step].every {
            None => true,
            // Places lie fast on the time line, so that they do not move as time goes on.
            Some(every) => taken.insert((step, point.received.as_second().div_euclid(every))),
        };
        if free {
            keep.insert(point.epoch);
        }
    }
    keep
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    fn ladder(text: &str) -> Ladder {
        text.parse().unwrap()
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    #[test]
    fn ladders_are_read_and_shown() {
        for text in [DEFAULT_LADDER, "1s:all", "90s:7s,2w:1w"] {
            let again = ladder(text).to_string();
            assert_eq!(ladder(&again), ladder(text), "{again}");
        }
        for bad in [
            "",
            "1h",
            "1h:",
            ":all",
            "0h:all",
            "1h:all,1h:5min",
            "2h:all,1h:all",
            "1x:all",
            "1h:all,",
            "1h:0s",
            "999999999999999999h:all",
            "é:all",
            "-1h:all",
            "h:all",
        ] {
            assert!(bad.parse::<Ladder>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_day_of_points_thins_as_the_ladder_says() {
        let points =
            (0..5_760).map(|i| Candidate { epoch: Epoch(i + 1), received: at(i as i64 * 15), fuzzy: false });
        let points: Vec<_> = points.collect();
        let kept = choose(&points, at(86_400), &ladder("1h:all,24h:5min"));
        assert_eq!(kept.len(), 240 + 23 * 12, "the last hour whole, then twelve an hour");
    }

    fn candidates() -> impl Strategy<Value = Vec<Candidate>> {
        prop::collection::vec((0i64..400, any::<bool>()), 0..60).prop_map(|steps| {
            let mut time = 1_000_000;
            let next = |(i, (step, fuzzy)): (usize, (i64, bool))| {
                time += step;
                Candidate { epoch: Epoch(i as u64 + 1), received: at(time), fuzzy }
            };
            steps.into_iter().enumerate().map(next).collect()
        })
    }

    proptest! {
        #[test]
        fn what_is_kept_is_what_was_promised(points in candidates(), later in 0i64..30_000) {
            let ladder = ladder("10min:all,2h:5min,5h:1h");
            let now = points.last().map_or(at(0), |point| point.received) + SignedDuration::from_secs(later);
            let kept = choose(&points, now, &ladder);
            let all: Vec<_> = points.iter().map(|point| point.epoch).collect();
            prop_assert!(kept.iter().all(|epoch| all.contains(epoch)));
            // The newest, fuzzy or not, stays whatever its age.
            prop_assert!(all.last().is_none_or(|newest| kept.contains(newest)));
            let newest_sharp = points.iter().rev().find(|point| !point.fuzzy).map(|point| point.epoch);
            prop_assert!(newest_sharp.is_none_or(|newest| kept.contains(&newest)));
            let exempt = [all.last().copied(), newest_sharp];
            // At most one has each place; a fuzzy one only if no other could have it.
            let mut places: BTreeMap<_, Vec<&Candidate>> = BTreeMap::new();
            for point in &points {
                let age = now.duration_since(point.received).as_secs();
                let place = match age {
                    0..=600 => { prop_assert!(kept.contains(&point.epoch)); continue }
                    601..=7_200 => (1, point.received.as_second() / 300),
                    7_201..=18_000 => (2, point.received.as_second() / 3_600),
                    _ => { prop_assert!(exempt.contains(&Some(point.epoch)) || !kept.contains(&point.epoch)); continue }
                };
                places.entry(place).or_default().push(point);
            }
            for sharing in places.values() {
                let stay: Vec<_> = sharing.iter().filter(|point| kept.contains(&point.epoch)).collect();
                let counted = stay.iter().filter(|point| !exempt.contains(&Some(point.epoch))).count();
                prop_assert!((1..).contains(&stay.len()) && counted <= 1);
                prop_assert!(stay.iter().any(|point| !point.fuzzy) || sharing.iter().all(|point| point.fuzzy));
            }
        }

        #[test]
        fn thinning_again_and_later_only_ever_removes(points in candidates(), later in 0i64..30_000) {
            let ladder = ladder("10min:all,2h:5min,5h:1h");
            let now = points.last().map_or(at(0), |point| point.received);
            let thin = |points: &[Candidate], now| -> Vec<Candidate> {
                let kept = choose(points, now, &ladder);
                points.iter().filter(|point| kept.contains(&point.epoch)).copied().collect()
            };
            let first = thin(&points, now);
            prop_assert_eq!(&thin(&first, now), &first, "thinning twice at one time changes nothing");
            let second = thin(&first, now + SignedDuration::from_secs(later));
            prop_assert!(second.iter().all(|point| first.contains(point)));
        }
    }
}
