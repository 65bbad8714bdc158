//! Figures for Prometheus, in its text format.
//!
//! Deliberately not here: alerts, which do not wait to be asked.

use std::{
    fmt::Write,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use axum::{
    extract::State,
    http::header::CONTENT_TYPE,
    response::{IntoResponse, Response},
};
use jiff::Timestamp;

use super::Administrator;
use crate::service::{database::Machine, refusal::Answer, state::Service};

/// Machines that are read at once.
const PAGE: u32 = 1000;
/// Machines that have figures of their own.
const MOST: usize = 20_000;

type Figure = (&'static str, &'static str, fn(&Machine, Timestamp) -> Option<f64>);

const OF_MACHINES: [Figure; 8] = [
    ("rpo_seconds", "Age of the newest recovery point", |machine, now| age(machine.point_at?, now)),
    ("interval_seconds", "From one recovery point to the next, as the policy wants it", |machine, _| {
        Some(machine.interval_s as f64)
    }),
    ("overdue", "1 where an interval was missed", |machine, _| Some(f64::from(u8::from(machine.overdue)))),
    ("stored_bytes", "What its recovery points take of target storage", |machine, _| {
        Some(machine.stored?.0 as f64)
    }),
    ("last_contact_seconds", "Since the last heartbeat", |machine, now| age(machine.heard?, now)),
    ("backlog_bytes", "What there is to send and is not durable", |machine, _| {
        Some(machine.health.as_ref()?.backlog.0 as f64)
    }),
    ("churn_bytes_per_second", "What was found changed", |machine, _| {
        Some(machine.health.as_ref()?.churn_per_s.0 as f64)
    }),
    ("certificate_expiry_seconds", "Until the machine's certificate expires", |machine, now| {
        age(machine.health.as_ref()?.certificate_expires?, now).map(|age| -age)
    }),
];

fn age(time: Timestamp, now: Timestamp) -> Option<f64> {
    Some((now.as_millisecond() - time.as_millisecond()) as f64 / 1000.0)
}

pub(super) async fn show(State(service): State<Arc<Service>>, _: Administrator) -> Answer<Response> {
    let mut machines = Vec::new();
    let mut after = String::new();
    loop {
        let page = service.database.machines(&after, PAGE).await?;
        let full = page.len() == PAGE as usize;
        after = page.last().map_or(String::new(), |machine| machine.id.to_string());
        machines.extend(page.into_iter().filter(|machine| machine.revoked.is_none()));
        if !full || machines.len() >= MOST {
            break;
        }
    }
    let text = render(&service, &machines, Timestamp::now());
    Ok(([(CONTENT_TYPE, "text/plain; version=0.0.4")], text).into_response())
}

fn render(service: &Service, machines: &[Machine], now: Timestamp) -> String {
    let counters = &service.counters;
    let total = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    let totals = [
        ("heartbeats_total", "Heartbeats taken by this instance", total(&counters.heartbeats)),
        ("grants_total", "Grants given by this instance", total(&counters.grants)),
        ("uploads_total", "Objects put into this instance's cache storage", total(&counters.uploads)),
        ("uploaded_bytes_total", "Bytes of these", total(&counters.uploaded_bytes)),
        ("epochs_taken_in_total", "Epochs taken in by this instance", total(&counters.taken_in)),
        ("epochs_refused_total", "Epochs refused by this instance", total(&counters.refused)),
        (
            "transactions_total",
            "Transactions of this instance that write to the database",
            service.database.transactions(),
        ),
    ];
    let mut text = String::new();
    for (name, help, value) in totals {
        write!(text, "# HELP recovery_service_{name} {help}\n# TYPE recovery_service_{name} counter\nrecovery_service_{name} {value}\n").ok();
    }
    let count = machines.len();
    let head =
        "# HELP recovery_service_machines Machines under protection\n# TYPE recovery_service_machines gauge";
    writeln!(text, "{head}\nrecovery_service_machines {count}").ok();
    for (name, help, figure) in OF_MACHINES {
        write!(
            text,
            "# HELP recovery_service_machine_{name} {help}\n# TYPE recovery_service_machine_{name} gauge\n"
        )
        .ok();
        for machine in machines {
            if let Some(value) = figure(machine, now) {
                writeln!(text, "recovery_service_machine_{name}{{machine=\"{}\"}} {value}", machine.id).ok();
            }
        }
    }
    text
}
