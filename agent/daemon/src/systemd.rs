//! What systemd is told: readiness, a status line, signs of life. Nothing happens where it is not systemd that started
//! the agent.
//!
//! Deliberately not here: the decision that the agent is alive. The main loop calls [`Systemd::alive`] each time round,
//! so a loop that hangs is not.

use std::time::{Duration, Instant};

use sd_notify::NotifyState;

/// The connection to systemd.
pub(crate) struct Systemd {
    watchdog: Option<Duration>,
    last: Instant,
    status: String,
}

impl Systemd {
    pub(crate) fn new() -> Self {
        let watchdog = sd_notify::watchdog_enabled().map(|timeout| timeout / 2);
        Systemd { watchdog, last: Instant::now(), status: String::new() }
    }

    /// How often [`Systemd::alive`] has to be called.
    pub(crate) fn period(&self) -> Option<Duration> {
        self.watchdog
    }

    pub(crate) fn ready(&self) {
        tell(&[NotifyState::Ready]);
    }

    pub(crate) fn reloading(&self) {
        match NotifyState::monotonic_usec_now() {
            Ok(now) => tell(&[NotifyState::Reloading, now]),
            Err(_) => tell(&[NotifyState::Reloading]),
        }
    }

    pub(crate) fn stopping(&self) {
        tell(&[NotifyState::Stopping]);
    }

    pub(crate) fn alive(&mut self) {
        if self.watchdog.is_some_and(|period| self.last.elapsed() >= period / 2) {
            self.last = Instant::now();
            tell(&[NotifyState::Watchdog]);
        }
    }

    pub(crate) fn status(&mut self, status: &str) {
        if self.status != status {
            status.clone_into(&mut self.status);
            tell(&[NotifyState::Status(status)]);
        }
    }
}

fn tell(state: &[NotifyState<'_>]) {
    // Without a socket to tell it to, or with one that is gone, there is nobody to miss it.
    let _ = sd_notify::notify(state);
}
