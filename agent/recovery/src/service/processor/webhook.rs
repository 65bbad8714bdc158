//! Sends alerts on to the one address that the configuration names.
//!
//! An alert is tried a few times and then dropped; the history has it all the same. Deliberately not here: what is an alert.

use std::time::Duration;

use tokio::sync::{mpsc, watch};

use crate::service::database::Event;

/// Alerts that may wait.
pub(in crate::service) const WAITING: usize = 256;
const TRIES: u32 = 5;
const PATIENCE: Duration = Duration::from_secs(10);

/// Sends alerts until the service stops.
pub(in crate::service) async fn deliver(
    client: reqwest::Client,
    address: String,
    mut alerts: mpsc::Receiver<Event>,
    mut stop: watch::Receiver<bool>,
) {
    loop {
        let alert = tokio::select! {
            alert = alerts.recv() => alert,
            _ = stop.wait_for(|stop| *stop) => return,
        };
        let Some(alert) = alert else { return };
        tokio::select! {
            () = send(&client, &address, &alert) => {}
            _ = stop.wait_for(|stop| *stop) => return,
        }
    }
}

async fn send(client: &reqwest::Client, address: &str, alert: &Event) {
    for attempt in 0..TRIES {
        let sent = client.post(address).timeout(PATIENCE).json(alert).send().await;
        match sent.and_then(reqwest::Response::error_for_status) {
            Ok(_) => return,
            // The address may hold a secret.
            Err(err) => tracing::warn!("an alert was not delivered: {}", err.without_url()),
        }
        tokio::time::sleep(Duration::from_secs(1 << attempt)).await;
    }
}
