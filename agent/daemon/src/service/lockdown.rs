//! Has the kernel refuse what the agent never does: to listen, to accept, to bind. Whatever takes the agent over cannot open
//! a way into the machine through it.
//!
//! The filter counts for all threads, for good, and for everything that the agent starts: operators' scripts cannot listen
//! either, nor gain rights by programs such as `sudo` (they are root already; `runuser` works). What a filter cannot see is what
//! an address points to, so binding goes by the address' length: the one of netlink (12 bytes), which the C library binds when it
//! looks names up, is shorter than any of an inet or vsock socket, and the kernel refuses those for it. `io_uring` goes past such
//! filters and is refused whole. Deliberately not here: what the service manager's sandbox refuses.

use std::collections::BTreeMap;

use anyhow::Context;
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
    TargetArch,
};

/// What the kernel says of it.
const REFUSED: SeccompAction = SeccompAction::Errno(libc::EPERM as u32);
/// The length of a netlink socket's address.
const NETLINK_ADDRESS: u64 = 12;
/// Numbers of system calls in the x32 variant of x86-64, which the same kernel may take.
const X32: i64 = 0x4000_0000;

/// From now on no thread of this process, and nothing that it starts, can listen, accept or bind.
///
/// # Errors
/// The kernel takes no filter, or the processor is not one that this is known for.
pub(crate) fn refuse_listening() -> anyhow::Result<()> {
    let program = filter().context("the filter of system calls cannot be made")?;
    seccompiler::apply_filter_all_threads(&program).context(
        "the kernel takes no filter of system calls (seccomp), so it cannot keep the agent from listening",
    )
}

fn filter() -> anyhow::Result<BpfProgram> {
    let architecture = TargetArch::try_from(std::env::consts::ARCH)?;
    let length = SeccompCondition::new(2, SeccompCmpArgLen::Dword, SeccompCmpOp::Ne, NETLINK_ADDRESS)?;
    let refused = [
        (libc::SYS_listen, vec![]),
        (libc::SYS_accept, vec![]),
        (libc::SYS_accept4, vec![]),
        (libc::SYS_io_uring_setup, vec![]),
        (libc::SYS_bind, vec![SeccompRule::new(vec![length])?]),
    ];
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> = BTreeMap::new();
    for (call, rule) in refused {
        if cfg!(target_arch = "x86_64") {
            rules.insert(call | X32, rule.clone());
        }
        rules.insert(call, rule);
    }
    Ok(SeccompFilter::new(rules, SeccompAction::Allow, REFUSED, architecture)?.try_into()?)
}

#[cfg(test)]
mod tests {
    use std::{
        io,
        net::{TcpListener, TcpStream, ToSocketAddrs, UdpSocket},
        os::unix::net::{UnixDatagram, UnixListener},
        process::Command,
        sync::mpsc::channel,
        thread,
    };

    use rustix::net::{AddressFamily, SocketType, listen, socket};

    use super::*;

    const PORT: &str = "MOBILITY_TEST_LOCKDOWN_PORT";

    fn refused<T>(result: io::Result<T>) {
        assert_eq!(result.err().map(|err| err.kind()), Some(io::ErrorKind::PermissionDenied));
    }

    fn try_everything() {
        for address in ["127.0.0.1:0", "[::1]:0", "0.0.0.0:0"] {
            refused(TcpListener::bind(address));
            refused(UdpSocket::bind(address));
        }
        let directory = tempfile::tempdir().unwrap();
        refused(UnixListener::bind(directory.path().join("s")));
        for family in [AddressFamily::INET, AddressFamily::INET6] {
            let unbound = socket(family, SocketType::STREAM, None).unwrap();
            assert_eq!(listen(&unbound, 1), Err(rustix::io::Errno::PERM));
        }
    }

    /// Does nothing unless it is started by the test below, in a process of its own: there is no way back.
    #[test]
    fn locked_down_child() {
        let Ok(port) = std::env::var(PORT) else { return };
        let before = TcpListener::bind("127.0.0.1:0").unwrap();
        let (go, wait) = channel::<()>();
        let earlier = thread::spawn(move || {
            wait.recv().unwrap();
            try_everything();
        });
        refuse_listening().unwrap();
        go.send(()).unwrap();
        earlier.join().unwrap();
        try_everything();
        thread::spawn(try_everything).join().unwrap();
        // A connection to what listened before is not accepted.
        let _client = TcpStream::connect(before.local_addr().unwrap()).unwrap();
        refused(before.accept());
        // What the agent does goes on.
        TcpStream::connect(("127.0.0.1", port.parse().unwrap())).unwrap();
        assert!(("localhost", 1).to_socket_addrs().unwrap().next().is_some());
        UnixDatagram::unbound().unwrap();
        let mut child = Command::new("python3");
        child.args(["-c", "import socket; socket.socket().bind(('127.0.0.1', 0))"]);
        // Where there is no Python, the agent's own threads have to do.
        if let Ok(output) = child.output() {
            assert!(String::from_utf8_lossy(&output.stderr).contains("PermissionError"), "{output:?}");
        }
        refuse_listening().unwrap();
    }

    #[test]
    fn the_kernel_refuses_to_listen_in_every_thread() {
        let there = TcpListener::bind("127.0.0.1:0").unwrap();
        let output = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "service::lockdown::tests::locked_down_child", "--nocapture"])
            .env(PORT, there.local_addr().unwrap().port().to_string())
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        assert!(String::from_utf8_lossy(&output.stdout).contains("1 passed"));
    }
}
