//! The guard: the process that freezes and thaws, and thaws also when nobody asks for it any more.
//!
//! It thaws everything that it froze, and nothing else, when the agent says so; when the agent's end of the socket is
//! closed, by whatever death; and when the limit has passed since the first freeze, whichever comes first. Between the
//! first freeze and the last thaw it allocates nothing, opens nothing and writes nothing.
//!
//! Deliberately not here: how the socket came to be. Today the agent starts the guard with a pair of sockets
//! ([`guard_process`]); a guard in a unit of its own can hand [`serve`] a socket that the agent connected to.

mod protect;
mod session;
mod worker;

use std::{
    io,
    os::fd::{AsFd, AsRawFd, OwnedFd},
};

pub use protect::Protection;

use session::Session;

/// Is the guard's whole process: protects it, then serves the socket that is its standard input.
///
/// # Errors
///
/// When standard input is not a socket, or a resource that the guard needs from the start cannot be had.
pub fn guard_process() -> io::Result<()> {
    let socket = io::stdin().as_fd().try_clone_to_owned()?;
    let protection = protect::protect(&socket.as_raw_fd());
    // A second end of it must not be left open.
    let null = std::fs::File::open("/dev/null")?;
    rustix::stdio::dup2_stdin(&null)?;
    drop(null);
    serve(socket, protection)
}

/// Serves one agent until it is gone and nothing that was frozen for it is left frozen.
///
/// # Errors
///
/// When a resource that it needs from the start cannot be had, or the agent went before anything was said.
pub fn serve(socket: OwnedFd, protection: Protection) -> io::Result<()> {
    Session::new(socket)?.run(protection)
}
