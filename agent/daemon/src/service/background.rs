//! Starts the threads that work for the service connection beside the agent's loop.
//!
//! Deliberately not here: what each does (`heartbeat`, `commands`, `upkeep`).

use std::{io, sync::Arc, thread};

use super::{commands, connection::Connection, heartbeat, upkeep};

type Work = fn(&Arc<Connection>);

/// Starts them. They end with [`Connection::client`].
pub(super) fn start(connection: &Arc<Connection>) -> io::Result<()> {
    let threads: [(&str, Work); 3] =
        [("heartbeat", heartbeat::run), ("commands", commands::run), ("upkeep", upkeep::run)];
    for (name, run) in threads {
        let connection = connection.clone();
        thread::Builder::new().name(name.to_owned()).spawn(move || run(&connection))?;
    }
    Ok(())
}
