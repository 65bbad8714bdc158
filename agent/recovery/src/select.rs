//! Chooses a recovery point by what a person writes: an id, its beginning, an epoch, a time, or `latest`.
//!
//! A fuzzy point is only ever chosen by name, or where fuzzy points were allowed. Deliberately not here: whether the
//! chosen point can be restored. The newest one being damaged must be said, not stepped over.

use jiff::Timestamp;
use mobility_format::{Epoch, manifest::Consistency};

use crate::{Catalog, Point, PointId};

/// No one point is meant.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SelectError {
    /// There are no points at all.
    #[error("the machine has no recovery points yet")]
    None,
    /// Nothing is called that.
    #[error("there is no recovery point '{0}': `recovery-service points` lists what there is")]
    NotFound(String),
    /// Several are.
    #[error("'{text}' is the beginning of several recovery points: {}", join(ids))]
    Ambiguous {
        /// What was asked for.
        text: String,
        /// What it may mean.
        ids: Vec<PointId>,
    },
    /// All that would be meant are fuzzy.
    #[error(
        "{asked}: there are only fuzzy recovery points, the newest of them {newest}: name it by its id, or allow it with --allow-fuzzy"
    )]
    OnlyFuzzy {
        /// What was asked for.
        asked: String,
        /// The one that would be chosen if that were allowed.
        newest: PointId,
    },
    /// All points are later.
    #[error("there is no recovery point at or before {time}: the oldest is of {oldest}")]
    NoneBefore {
        /// What was asked for.
        time: Timestamp,
        /// The time of the oldest point.
        oldest: Timestamp,
    },
}

fn join(ids: &[PointId]) -> String {
    ids.iter().take(8).map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

/// Finds the recovery point that `text` means.
///
/// # Errors
/// See [`SelectError`].
pub fn select<'a>(catalog: &'a Catalog, text: &str, allow_fuzzy: bool) -> Result<Point<'a>, SelectError> {
    let points: Vec<_> = catalog.points().collect();
    let oldest = points.first().ok_or(SelectError::None)?.time();
    if text == "latest" {
        let by_epoch = |point: &Point<'_>| (Timestamp::MIN, point.epoch());
        return newest(points.into_iter(), by_epoch, text, allow_fuzzy)?.ok_or(SelectError::None);
    }
    if text == "latest-app-consistent" {
        let ready = points.into_iter().filter(|point| point.consistency == Consistency::Application);
        let nothing = || SelectError::NotFound(format!("{text}: no point is application-consistent"));
        return ready.max_by_key(Point::epoch).ok_or_else(nothing);
    }
    if let Ok(time) = text.parse::<Timestamp>() {
        let before = points.into_iter().filter(|point| point.time() <= time);
        let by_time = |point: &Point<'_>| (point.time(), point.epoch());
        return newest(before, by_time, text, allow_fuzzy)?.ok_or(SelectError::NoneBefore { time, oldest });
    }
    if let Some(point) = points.iter().find(|point| point.epoch().to_string() == text) {
        return Ok(point.clone());
    }
    let meant: Vec<_> =
        points.iter().filter(|p| !text.is_empty() && p.id.to_string().starts_with(text)).collect();
    match meant[..] {
        [point] => Ok(point.clone()),
        [] => Err(SelectError::NotFound(text.to_owned())),
        _ => Err(SelectError::Ambiguous {
            text: text.to_owned(),
            ids: meant.iter().map(|point| point.id).collect(),
        }),
    }
}

fn newest<'a>(
    points: impl Iterator<Item = Point<'a>>,
    order: impl Fn(&Point<'_>) -> (Timestamp, Epoch),
    asked: &str,
    allow_fuzzy: bool,
) -> Result<Option<Point<'a>>, SelectError> {
    let (fuzzy, sharp): (Vec<_>, Vec<_>) = points.partition(|point| point.is_fuzzy() && !allow_fuzzy);
    let latest = |points: Vec<Point<'a>>| points.into_iter().max_by_key(|point| order(point));
    match (latest(sharp), latest(fuzzy)) {
        (None, Some(fuzzy)) => Err(SelectError::OnlyFuzzy { asked: asked.to_owned(), newest: fuzzy.id }),
        (chosen, _) => Ok(chosen),
    }
}
