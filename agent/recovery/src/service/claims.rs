//! A claim on a machine while it is held: renewed beside the work, and known to be held or not at every change of storage.
//!
//! An instance that stands still loses its claims without noticing. So what it holds is measured from before it asked for it, by
//! a clock of its own that does not jump, and ends earlier for it than for everybody else: by as much as a change of storage
//! that was begun may still take. Deliberately not here: who gets a claim (`database`).

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use super::{
    database::{CLAIM, Claim},
    refusal::Answer,
    state::Service,
};
use crate::storage::Stores;

/// How much earlier than for others a claim ends for who holds it. Removing objects and putting records take less (`storage::remote`).
const MARGIN: Duration = Duration::from_secs(16);
/// How often it is renewed: often enough that one lost answer of the database does not stop the work.
const OFTEN: Duration = Duration::from_secs(5);

/// Whether a claim is held. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Lease {
    start: Instant,
    /// Milliseconds after `start`.
    until: Arc<AtomicU64>,
}

impl Lease {
    /// Of a claim that was asked for then.
    pub(super) fn new(made: Instant) -> Lease {
        let lease = Lease { start: made, until: Arc::default() };
        lease.extend(made);
        lease
    }

    /// The claim was renewed, which was asked for then.
    pub(super) fn extend(&self, asked: Instant) {
        let until = asked.saturating_duration_since(self.start) + CLAIM - MARGIN;
        self.until.store(u64::try_from(until.as_millis()).unwrap_or(0), Ordering::SeqCst);
    }

    fn lose(&self) {
        self.until.store(0, Ordering::SeqCst);
    }

    /// Whether something may be changed now.
    pub(crate) fn holds(&self) -> bool {
        self.start.elapsed().as_millis() < u128::from(self.until.load(Ordering::SeqCst))
    }
}

/// Does the work while its claim is renewed.
pub(crate) async fn hold<T>(service: &Service, claim: &Claim, work: impl AsyncFnOnce(Lease) -> T) -> T {
    let lease = Lease::new(claim.made);
    let mut work = std::pin::pin!(work(lease.clone()));
    loop {
        tokio::select! {
            done = &mut work => return done,
            () = tokio::time::sleep(OFTEN) => renew(service, claim, &lease).await,
        }
    }
}

async fn renew(service: &Service, claim: &Claim, lease: &Lease) {
    let (asked, machine) = (Instant::now(), claim.machine);
    match service.database.hold(claim).await {
        Ok(true) => lease.extend(asked),
        Ok(false) => {
            lease.lose();
            tracing::warn!(%machine, "the claim on the machine's work was lost: another instance may go on with it");
        }
        Err(err) => tracing::error!(%machine, "the claim could not be renewed: {err}"),
    }
}

impl Service {
    /// A name for a claim of this instance.
    pub(crate) fn claim_name(&self) -> String {
        format!("{}-{}", self.instance, self.claims.fetch_add(1, Ordering::Relaxed))
    }

    /// As [`Service::blocking`]; what is changed in storage is changed only while the claim is held.
    pub(crate) async fn blocking_claimed<T: Send + 'static>(
        &self,
        lease: &Lease,
        work: impl FnOnce(&Stores) -> Answer<T> + Send + 'static,
    ) -> Answer<T> {
        let lease = lease.clone();
        self.blocking(move |stores| work(&stores.claimed(&(Arc::new(move || lease.holds()) as _)))).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_ends_before_the_claim_does() {
        let ago = |seconds| Instant::now().checked_sub(Duration::from_secs(seconds)).unwrap();
        assert!(Lease::new(Instant::now()).holds());
        let lease = Lease::new(ago(15));
        assert!(!lease.holds(), "others may have it after 15 s more, and a change may take as long");
        lease.extend(Instant::now());
        assert!(lease.holds());
        lease.lose();
        assert!(!lease.holds());
    }
}
