//! Wakes the requests that wait for a machine's commands.
//!
//! A request that waits costs one entry here, and no look at the database until something happened. Deliberately not here: the
//! commands.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use mobility_format::MachineId;
use tokio::sync::Notify;

/// Who waits, by machine.
#[derive(Default)]
pub(crate) struct Bell(Mutex<HashMap<MachineId, Arc<Notify>>>);

impl Bell {
    /// What is notified when the machine's bell rings.
    pub(crate) fn of(&self, machine: MachineId) -> Listener<'_> {
        let notify = self.waiting().entry(machine).or_default().clone();
        Listener { bell: self, machine, notify: Some(notify) }
    }

    /// Wakes all that wait for this machine.
    pub(crate) fn ring(&self, machine: MachineId) {
        if let Some(notify) = self.waiting().get(&machine) {
            notify.notify_waiters();
        }
    }

    fn waiting(&self) -> MutexGuard<'_, HashMap<MachineId, Arc<Notify>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One that waits.
pub(crate) struct Listener<'a> {
    bell: &'a Bell,
    machine: MachineId,
    notify: Option<Arc<Notify>>,
}

impl Listener<'_> {
    /// What to wait on. Enable it before looking whether there is anything.
    pub(crate) fn notify(&self) -> Option<&Notify> {
        self.notify.as_deref()
    }
}

impl Drop for Listener<'_> {
    fn drop(&mut self) {
        let mut waiting = self.bell.waiting();
        self.notify = None;
        if waiting.get(&self.machine).is_some_and(|notify| Arc::strong_count(notify) == 1) {
            waiting.remove(&self.machine);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_kept_of_those_who_do_not_wait_any_more() {
        let bell = Bell::default();
        let (one, two) = (MachineId([1; 16]), MachineId([2; 16]));
        let first = bell.of(one);
        let (second, other) = (bell.of(one), bell.of(two));
        drop((first, other));
        assert_eq!(bell.waiting().len(), 1);
        drop(second);
        assert!(bell.waiting().is_empty());
        bell.ring(one);
    }
}
