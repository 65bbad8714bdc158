//! The handler of the VM extension: what a cloud's guest agent calls to install the agent, enrol it, start it, look after it,
//! and take it away again.
//!
//! The contract is that of Azure's guest agent for Linux; `packaging/vm-extension/README.md` says what of it matters here. Every
//! command can be repeated, also after it was killed at any moment, and ends within a time of its own that is shorter than the guest
//! agent's. Deliberately not here: protecting anything. That is the agent, which is installed, started and asked, and which goes on
//! whatever becomes of this program.

mod agent;
mod child;
mod commands;
mod environment;
mod failure;
mod files;
mod health;
mod log;
mod package;
mod place;
mod protected;
mod record;
mod report;
mod run;
mod secrets;
mod settings;
mod units;

use std::{
    io::{self, Write},
    process::ExitCode,
    time::Duration,
};

use crate::failure::Cause;

/// What can be asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Command {
    Install,
    Enable,
    Disable,
    Update,
    Uninstall,
    Reset,
    Heartbeat,
}

impl Command {
    const ALL: [Command; 7] = [
        Command::Install,
        Command::Enable,
        Command::Disable,
        Command::Update,
        Command::Uninstall,
        Command::Reset,
        Command::Heartbeat,
    ];

    fn name(self) -> &'static str {
        match self {
            Command::Install => "install",
            Command::Enable => "enable",
            Command::Disable => "disable",
            Command::Update => "update",
            Command::Uninstall => "uninstall",
            Command::Reset => "reset",
            Command::Heartbeat => "heartbeat",
        }
    }

    /// How the guest agent's portals name it.
    fn title(self) -> String {
        let name = self.name();
        name[..1].to_ascii_uppercase() + &name[1..]
    }

    /// How long it may take. The guest agent kills `enable` and `uninstall` after 300 s and the others after 900 s.
    fn limit(self) -> Duration {
        Duration::from_secs(match self {
            Command::Install => 840,
            Command::Enable | Command::Disable | Command::Uninstall => 240,
            Command::Update | Command::Reset => 60,
            Command::Heartbeat => 45,
        })
    }
}

fn main() -> ExitCode {
    let arguments: Vec<_> = std::env::args_os().skip(1).collect();
    let asked = |command: &Command| arguments.len() == 1 && arguments[0] == command.name();
    let Some(command) = Command::ALL.into_iter().find(asked) else {
        let names = Command::ALL.map(Command::name).join(" | ");
        say(io::stderr(), &format!("usage: mobility-extension {names}"));
        return ExitCode::from(Cause::Usage as u8);
    };
    match run::run(command) {
        Ok(said) => {
            say(io::stdout(), &said);
            ExitCode::SUCCESS
        }
        Err((code, said)) => {
            say(io::stderr(), &format!("mobility-extension {}: {said}", command.name()));
            ExitCode::from(code)
        }
    }
}

/// Whoever listens may have a full disk: what was done is done all the same.
fn say(mut to: impl Write, text: &str) {
    let _ = writeln!(to, "{text}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_command_ends_before_it_is_killed() {
        for command in Command::ALL {
            let killed = if command == Command::Install { 900 } else { 300 };
            assert!(command.limit() + Duration::from_secs(30) <= Duration::from_secs(killed), "{command:?}");
        }
        assert_eq!(Command::Enable.title(), "Enable");
    }
}
