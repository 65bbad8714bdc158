//! `mobility-agent run`: configuration, log, signals, then replication until the end.
//!
//! Deliberately not here: replication.

use std::time::Duration;

use anyhow::Context;
use indicatif::{ProgressBar, ProgressDrawTarget};
use signal_hook::{
    consts::{SIGHUP, SIGINT, SIGTERM},
    iterator::Signals,
};
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};

use crate::{
    cli::RunArgs,
    config::{self, Settings},
    log,
    replicate::{self, Message},
    request,
    service::lockdown,
    state_file,
};

/// How long after the end that `--for` names a last point may take.
const LAST_POINT: Duration = Duration::from_secs(120);
/// How long a clean end may take after a signal.
const CLEAN_END: Duration = Duration::from_secs(8);

pub(crate) fn run(args: &RunArgs) -> anyhow::Result<()> {
    let settings = Settings::load(args)?;
    if args.print_config {
        print!("{}", settings.to_toml()?);
        return Ok(());
    }
    let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
    log::start(&bar);
    let (mailbox, messages) = unbounded_channel();
    let signals = listen_to_signals(mailbox.clone())?;
    let runtime_dir = state_file::runtime_dir(args.runtime_dir.as_deref());
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .max_blocking_threads(4)
        .build()
        .context("cannot start the runtime")?;
    let replication = replicate::start(&settings, &runtime_dir, bar, (mailbox.clone(), messages))?;
    if settings.vault.is_none() {
        lockdown::refuse_listening()?;
    }
    let (changed, asked) = (mailbox.clone(), mailbox.clone());
    // Without it, points are made by schedule alone.
    let _requests =
        request::watch(replication.requests_dir(), move |request| send(&asked, Message::Requested(request)))
            .inspect_err(|err| tracing::warn!("requests for points will not be noticed: {err}"));
    // Without it, SIGHUP still makes the agent read its configuration again.
    let _watcher = config::watch(&args.config_root, move || send(&changed, Message::Reload))
        .inspect_err(|err| tracing::warn!("changes of the configuration will not be noticed: {err}"));
    if let Some(time) = args.for_time {
        end_after(time, mailbox);
    }
    let ended = runtime.block_on(replication.run(|| Settings::load(args).map_err(|err| err.to_string())));
    runtime.shutdown_timeout(Duration::from_secs(2));
    signals.close();
    Ok(ended?)
}

fn send(mailbox: &UnboundedSender<Message>, message: Message) {
    // The loop has ended: there is nothing left to tell it.
    let _ = mailbox.send(message);
}

/// Turns signals into messages. A second one to end, or an end that takes too long, ends the process as it is: whatever
/// is not durable is still owed.
fn listen_to_signals(mailbox: UnboundedSender<Message>) -> anyhow::Result<signal_hook::iterator::Handle> {
    let mut signals = Signals::new([SIGTERM, SIGINT, SIGHUP]).context("cannot listen to signals")?;
    let handle = signals.handle();
    let listen = move || {
        let mut ending = false;
        for signal in signals.forever() {
            match signal {
                SIGHUP => send(&mailbox, Message::Reload),
                _ if ending => std::process::exit(128 + signal),
                _ => {
                    ending = true;
                    send(&mailbox, Message::Stop { after_point: false });
                    give_up_after(CLEAN_END);
                }
            }
        }
    };
    std::thread::Builder::new().name("signals".to_owned()).spawn(listen).context("cannot start a thread")?;
    Ok(handle)
}

fn give_up_after(limit: Duration) {
    let wait = move || {
        std::thread::sleep(limit);
        eprintln!("mobility-agent: work at hand did not end in time and is left as it is; nothing is lost");
        std::process::exit(0);
    };
    // Without the thread the end takes as long as it takes.
    let _ = std::thread::Builder::new().name("last-resort".to_owned()).spawn(wait);
}

fn end_after(time: Duration, mailbox: UnboundedSender<Message>) {
    let wait = move || {
        std::thread::sleep(time);
        send(&mailbox, Message::Stop { after_point: true });
        std::thread::sleep(LAST_POINT);
        send(&mailbox, Message::Stop { after_point: false });
    };
    let _ = std::thread::Builder::new().name("timer".to_owned()).spawn(wait);
}
