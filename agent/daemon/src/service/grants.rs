//! The stock of rights to upload: fetched in batches ahead of need and kept over a restart, so that replication goes on for
//! hours while the service is away.
//!
//! A place that turns out to be taken is given up and the next one used. Nothing depends on the stock being right: a grant
//! that was used and not crossed out costs one try. Deliberately not here: the uploads themselves (`upload`), and when the
//! stock is filled up (`background`).

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use jiff::Timestamp;
use mobility_format::{
    ByteCount, Epoch, Generation, SessionId,
    control::{Grant, GrantRequest, Grants, MAX_GRANTS, SegmentGrant},
};
use serde::{Deserialize, Serialize};

use super::{
    client::{Ask, Client},
    fault::{ServiceFault, ServiceFaultKind as Kind},
    state_dir::StateDir,
};
use crate::log;

const FILE: &str = "grants";
const USED: &str = "grants-used";
/// All files that the stock is kept in.
pub(super) const FILES: [&str; 2] = [FILE, USED];
/// Grants of one kind that are kept at most.
const MOST: usize = 8192;
/// Grants of one kind that are asked for at once: an answer of so many stays well below the longest.
const BATCH: u32 = 1024;
/// Grants of one kind that are kept at least.
const LEAST: usize = 64;
/// A grant is not begun with when it expires so soon.
const MARGIN: Duration = Duration::from_secs(120);

/// A segment's place, with the number of tries that broke.
#[derive(Clone, Serialize, Deserialize)]
pub(super) struct Place {
    #[serde(flatten)]
    pub(super) segment: SegmentGrant,
    expires: Timestamp,
    /// The longest object that may be put there.
    longest: ByteCount,
    #[serde(default)]
    pub(super) broken: u32,
}

/// What is in stock.
#[derive(Clone, Default, Serialize, Deserialize)]
struct Stock {
    generation: Generation,
    segments: VecDeque<Place>,
    manifests: BTreeMap<u64, (Grant, Timestamp)>,
}

/// What of the stock has been used, written more often than it.
#[derive(Serialize, Deserialize)]
struct Used {
    generation: Generation,
    slot: u64,
}

/// How much there should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Wanted {
    segments: usize,
    manifests: usize,
}

impl Wanted {
    /// For `ahead`, with a point each `interval` of so many `disks`: two segments of each disk for each point.
    pub(super) fn new(ahead: Duration, interval: Duration, disks: usize) -> Wanted {
        let points = ahead.as_secs() / interval.as_secs().max(1);
        let points = usize::try_from(points).unwrap_or(MOST);
        let segments = points.saturating_mul(2 * disks.max(1));
        Wanted { segments: segments.clamp(4 * LEAST, MOST), manifests: points.clamp(LEAST, MOST) }
    }
}

/// The stock and its file.
pub(super) struct Granary {
    stock: Mutex<Stock>,
    wanted: Mutex<Wanted>,
    /// Held while grants are fetched, so that two threads do not fetch the same.
    fetching: Mutex<()>,
}

impl Granary {
    /// What an earlier run left. A stock that cannot be read is none.
    pub(super) fn load(state: &StateDir, wanted: Wanted) -> Granary {
        let mut stock: Stock = state.read(FILE).ok().flatten().unwrap_or_default();
        if let Ok(Some(used)) = state.read::<Used>(USED)
            && used.generation == stock.generation
        {
            stock.segments.retain(|place| place.segment.slot > used.slot);
        }
        Granary { stock: Mutex::new(stock), wanted: Mutex::new(wanted), fetching: Mutex::new(()) }
    }

    fn stock(&self) -> MutexGuard<'_, Stock> {
        self.stock.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn want(&self, wanted: Wanted) {
        *self.wanted.lock().unwrap_or_else(PoisonError::into_inner) = wanted;
    }

    /// The generation that the stock is for.
    pub(super) fn generation(&self) -> Generation {
        self.stock().generation
    }

    /// Takes the next place in which `length` bytes may be put.
    pub(super) fn take(
        &self,
        state: &StateDir,
        generation: Generation,
        now: Timestamp,
        length: u64,
    ) -> Option<Place> {
        let mut stock = self.stock();
        if stock.generation != generation {
            return None;
        }
        stock.drop_expired(now);
        if stock.segments.front()?.longest.0 < length {
            return None;
        }
        let place = stock.segments.pop_front()?;
        drop(stock);
        // Only ever saves a try. While file systems may be frozen nothing is written.
        if !log::is_held_back() {
            let _ = state.write_quickly(USED, &Used { generation, slot: place.segment.slot });
        }
        Some(place)
    }

    /// Gives back a place that nothing was put into, or a try of which broke.
    pub(super) fn give_back(&self, generation: Generation, place: Place) {
        let mut stock = self.stock();
        if stock.generation == generation {
            stock.segments.push_front(place);
        }
    }

    /// The right to put the manifest of `epoch`. Those of earlier epochs are done with.
    pub(super) fn manifest(&self, generation: Generation, epoch: Epoch, now: Timestamp) -> Option<Grant> {
        let mut stock = self.stock();
        if stock.generation != generation {
            return None;
        }
        stock.drop_expired(now);
        stock.manifests = stock.manifests.split_off(&epoch.0);
        stock.manifests.get(&epoch.0).map(|(grant, _)| grant.clone())
    }

    /// Throws away all that is in stock: the store does not take it.
    pub(super) fn clear(&self) {
        let mut stock = self.stock();
        *stock = Stock { generation: stock.generation, ..Stock::default() };
    }

    /// Whether it is time to fill up.
    pub(super) fn is_low(&self, now: Timestamp) -> bool {
        let wanted = *self.wanted.lock().unwrap_or_else(PoisonError::into_inner);
        let mut stock = self.stock();
        stock.drop_expired(now);
        stock.generation.0 != 0
            && (stock.segments.len() < wanted.segments / 2 || stock.manifests.len() < wanted.manifests / 2)
    }

    /// Fetches grants of `generation`, one batch. Returns whether there is still less than wanted.
    pub(super) fn fetch(
        &self,
        client: &Client,
        state: &StateDir,
        session: SessionId,
        (generation, first_epoch): (Generation, Option<Epoch>),
        least: (u32, u32),
    ) -> Result<bool, ServiceFault> {
        let _alone = self.fetching.lock().unwrap_or_else(PoisonError::into_inner);
        let wanted = *self.wanted.lock().unwrap_or_else(PoisonError::into_inner);
        let request = self.stock().request(session, (generation, first_epoch), wanted, least);
        if request.segments == 0 && request.manifests == 0 {
            return Ok(false);
        }
        let answer: Grants = client.call(&Ask::post("grants", &request)?)?;
        if answer.generation != generation {
            let message = format!(
                "asked for grants of generation {generation}, the recovery service gave some of {}",
                answer.generation
            );
            return Err(ServiceFault::new(Kind::Garbage, message));
        }
        let got = answer.segments.len() + answer.manifests.len();
        let mut stock = self.stock();
        stock.add(answer);
        let kept = stock.clone();
        drop(stock);
        // Without the file, a restart while the service is away has to wait for it.
        if !log::is_held_back()
            && let Err(err) = state.write(FILE, &kept)
        {
            tracing::warn!("upload grants cannot be kept over a restart: {err}");
        }
        Ok(got > 0 && (kept.segments.len() < wanted.segments || kept.manifests.len() < wanted.manifests))
    }
}

impl Stock {
    fn drop_expired(&mut self, now: Timestamp) {
        let needed = now.saturating_add(MARGIN).unwrap_or(Timestamp::MAX);
        self.segments.retain(|place| place.expires > needed);
        self.manifests.retain(|_, (_, expires)| *expires > needed);
    }

    /// What to ask for; begins anew with another generation. `least` are the numbers of segments and manifests that are
    /// asked for in any case.
    fn request(
        &mut self,
        session: SessionId,
        (generation, first_epoch): (Generation, Option<Epoch>),
        wanted: Wanted,
        least: (u32, u32),
    ) -> GrantRequest {
        if self.generation != generation {
            *self = Stock { generation, ..Stock::default() };
        }
        let lacking = |wanted: usize, there: usize, least: u32| {
            let lacking = u32::try_from(wanted.saturating_sub(there)).unwrap_or(BATCH);
            lacking.max(least).min(BATCH).min(MAX_GRANTS as u32)
        };
        let next = self.manifests.keys().next_back().map(|last| Epoch(last + 1));
        // An epoch that is needed and not in stock goes first.
        let first_epoch = match first_epoch {
            Some(epoch) if !self.manifests.contains_key(&epoch.0) => Some(epoch),
            known => next.or(known),
        };
        GrantRequest {
            session,
            generation,
            segments: lacking(wanted.segments, self.segments.len(), least.0),
            first_epoch: first_epoch.unwrap_or(Epoch(1)),
            manifests: first_epoch.map_or(0, |_| lacking(wanted.manifests, self.manifests.len(), least.1)),
        }
    }

    fn add(&mut self, grants: Grants) {
        let Grants { expires, longest, .. } = grants;
        let room = MOST.saturating_sub(self.segments.len());
        let known: std::collections::BTreeSet<u64> =
            self.segments.iter().map(|place| place.segment.slot).collect();
        let fresh = grants.segments.into_iter().filter(|segment| !known.contains(&segment.slot));
        self.segments.extend(fresh.take(room).map(|segment| Place { segment, expires, longest, broken: 0 }));
        for manifest in grants.manifests {
            if self.manifests.len() < MOST {
                self.manifests.insert(manifest.epoch.0, (manifest.grant, expires));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use mobility_format::control::ManifestGrant;

    use super::*;

    const G: Generation = Generation(3);
    const NOW: Timestamp = Timestamp::UNIX_EPOCH;

    fn wanted(segments: usize, manifests: usize) -> Wanted {
        Wanted { segments, manifests }
    }

    fn grants(slots: std::ops::Range<u64>, epochs: std::ops::Range<u64>, minutes: i64) -> Grants {
        let grant = |n: u64| Grant { url: format!("https://store/{n}"), headers: BTreeMap::new() };
        Grants {
            generation: G,
            expires: NOW + jiff::SignedDuration::from_mins(minutes),
            longest: ByteCount(100),
            segments: slots.map(|slot| SegmentGrant { slot, grant: grant(slot) }).collect(),
            manifests: epochs
                .map(|epoch| ManifestGrant { epoch: Epoch(epoch), grant: grant(epoch) })
                .collect(),
        }
    }

    fn granary(state: &StateDir, grants: Grants) -> Granary {
        let granary = Granary::load(state, wanted(8, 4));
        let mut stock = granary.stock();
        stock.generation = G;
        stock.add(grants);
        state.write(FILE, &*stock).unwrap();
        drop(stock);
        granary
    }

    #[test]
    fn what_is_in_stock_outlives_a_restart_but_for_what_was_used() {
        let dir = tempfile::tempdir().unwrap();
        let state = StateDir::open(dir.path()).unwrap();
        let first = granary(&state, grants(10..14, 5..8, 60));
        for slot in [10, 11] {
            assert_eq!(first.take(&state, G, NOW, 100).unwrap().segment.slot, slot);
        }
        let second = Granary::load(&state, wanted(8, 4));
        assert_eq!((second.generation(), second.take(&state, G, NOW, 1).unwrap().segment.slot), (G, 12));
        assert_eq!(second.manifest(G, Epoch(6), NOW).unwrap().url, "https://store/6");
        assert!(second.manifest(G, Epoch(5), NOW).is_none(), "earlier epochs are done with");
        assert!(second.take(&state, Generation(4), NOW, 1).is_none(), "of another generation");
    }

    #[test]
    fn what_expires_or_is_too_small_is_not_used() {
        let dir = tempfile::tempdir().unwrap();
        let state = StateDir::open(dir.path()).unwrap();
        let granary = granary(&state, grants(1..3, 1..3, 60));
        assert!(granary.take(&state, G, NOW, 101).is_none(), "longer than may be put");
        let late = NOW + jiff::SignedDuration::from_mins(59);
        assert!(granary.take(&state, G, late, 1).is_none());
        assert!(granary.manifest(G, Epoch(1), late).is_none());
        assert!(granary.is_low(late));
    }

    #[test]
    fn a_damaged_file_is_an_empty_stock() {
        let dir = tempfile::tempdir().unwrap();
        let state = StateDir::open(dir.path()).unwrap();
        std::fs::write(dir.path().join(FILE), b"rubbish").unwrap();
        assert_eq!(Granary::load(&state, wanted(8, 4)).generation(), Generation(0));
    }

    #[test]
    fn what_is_asked_for_has_bounds_and_goes_on_where_the_stock_ends() {
        let session = SessionId([0; 8]);
        let mut stock = Stock { generation: G, ..Stock::default() };
        let first = stock.request(session, (G, Some(Epoch(5))), wanted(MOST, MOST), (1, 1));
        assert_eq!((first.segments, first.first_epoch, first.manifests), (BATCH, Epoch(5), BATCH));
        stock.add(grants(1..8, 5..8, 60));
        let next = stock.request(session, (G, Some(Epoch(6))), wanted(8, 4), (0, 0));
        assert_eq!((next.segments, next.first_epoch, next.manifests), (1, Epoch(8), 1));
        let other = stock.request(session, (Generation(4), Some(Epoch(20))), wanted(8, 4), (0, 0));
        assert_eq!((other.segments, other.first_epoch, other.manifests), (8, Epoch(20), 4));
        stock.generation = G;
        stock.add(grants(0..MOST as u64 + 9, 1..2, 60));
        stock.add(grants(3..5, 1..2, 60));
        assert_eq!(stock.segments.len(), MOST, "however many come");
    }

    #[test]
    fn the_stock_is_for_hours() {
        let hours = Duration::from_secs(4 * 3600);
        assert_eq!(Wanted::new(hours, Duration::from_secs(15), 2), wanted(3840, 960));
        assert_eq!(Wanted::new(hours, Duration::from_secs(1), 9), wanted(MOST, MOST));
        assert_eq!(Wanted::new(hours, Duration::from_secs(86_400), 1), wanted(256, 64));
    }
}
