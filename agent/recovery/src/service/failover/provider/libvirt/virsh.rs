//! A process of virsh for each thing that is asked of libvirt, with an end to how long it takes and how much it says.
//!
//! A library of libvirt's would have to be of the host's version; its program is, and says what it could not do in words. Deliberately
//! not here: what is asked.

use std::{
    io::{self, Read},
    process::{Child, Command, ExitStatus, Stdio},
    thread,
    time::{Duration, Instant},
};

use super::super::{Failure, Outcome};

/// The program.
const PROGRAM: &str = "virsh";
/// How long an answer may take: a machine that does not end is killed within half a minute.
const LIMIT: Duration = Duration::from_secs(120);
/// How often is looked whether it has come.
const LOOK: Duration = Duration::from_millis(10);
/// The longest answer.
const LONGEST: u64 = 4 << 20;
/// How much of what went wrong is told.
const MOST_TOLD: usize = 1000;

/// A connection to libvirt.
#[derive(Clone, Debug)]
pub(super) struct Virsh {
    pub(super) uri: String,
}

impl Virsh {
    /// Asks something; what it answers.
    ///
    /// # Errors
    /// When it is not there, takes too long, or could not do it.
    pub(super) fn ask(&self, words: &[&str]) -> Outcome<String> {
        let (status, answer, said) = self.run(words).map_err(|err| {
            let hint = "install libvirt's programs on this host (Debian: libvirt-clients, Fedora: libvirt-client), and resume";
            Failure::new(format!("{PROGRAM} cannot be run: {err}"), hint)
        })?;
        let what = words.first().copied().unwrap_or_default();
        match status {
            Some(status) if status.success() => Ok(answer),
            Some(_) => {
                let said = told(&said);
                Err(Failure::new(format!("{PROGRAM} {what} at {}: {said}", self.uri), hint(&said)))
            }
            None => {
                let problem = format!(
                    "{PROGRAM} {what} at {} has not ended after {} s, and was killed",
                    self.uri,
                    LIMIT.as_secs()
                );
                Err(Failure::new(problem, "see what libvirt's service waits for, and resume"))
            }
        }
    }

    /// How it ended, unless it did not; what it printed, and what it complained of.
    fn run(&self, words: &[&str]) -> io::Result<(Option<ExitStatus>, String, String)> {
        let mut child = Command::new(PROGRAM)
            .args(["--quiet", "--connect", &self.uri])
            .args(words)
            // What it says is read.
            .env("LC_ALL", "C")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        let (answer, said) = (child.stdout.take(), child.stderr.take());
        let (answer, said) = (thread::spawn(|| read(answer)), thread::spawn(|| read(said)));
        let status = wait(&mut child)?;
        let text = |reader: thread::JoinHandle<String>| reader.join().unwrap_or_default();
        Ok((status, text(answer), text(said)))
    }
}

/// Waits for its end; kills it at the limit.
fn wait(child: &mut Child) -> io::Result<Option<ExitStatus>> {
    let begin = Instant::now();
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        if begin.elapsed() > LIMIT {
            child.kill()?;
            child.wait()?;
            return Ok(None);
        }
        thread::sleep(LOOK);
    }
}

/// All that comes, of which the beginning is kept.
fn read(from: Option<impl Read>) -> String {
    let Some(mut from) = from else { return String::new() };
    let mut bytes = Vec::new();
    // What was read until it broke off is as good as there is.
    from.by_ref().take(LONGEST).read_to_end(&mut bytes).ok();
    io::copy(&mut from, &mut io::sink()).ok();
    String::from_utf8_lossy(&bytes).into_owned()
}

/// What went wrong, in a line.
fn told(said: &str) -> String {
    let lines = said.lines().map(|line| line.trim_start_matches("error: ").trim());
    let told = lines.filter(|line| !line.is_empty()).collect::<Vec<_>>().join("; ");
    told.chars().filter(|c| !c.is_control()).take(MOST_TOLD).collect()
}

/// What to do about what libvirt said.
fn hint(said: &str) -> &'static str {
    let has = |signs: &[&str]| signs.iter().any(|sign| said.contains(sign));
    let connection = ["Failed to connect socket", "failed to connect to the hypervisor", "polkit"];
    let ended = ["Disconnected from", "End of file while reading", "Cannot recv data"];
    if has(&connection) && has(&["Permission denied", "authenticat", "polkit"]) {
        "let the service's user use libvirt (usermod -aG libvirt recovery-service), restart the service, and resume"
    } else if has(&connection) || has(&ended) {
        "see that libvirt runs on this host (systemctl status libvirtd, or virtqemud and virtnetworkd), and resume"
    } else if has(&["Permission denied"]) {
        "let QEMU's user get at the place's directory: it has to be let through it and all above it (chmod o+x), and resume"
    } else if has(&["KVM", "kvm"]) {
        "mend the host's virtualisation, or set acceleration = 'tcg' for the place and restart the service; and resume"
    } else {
        "mend what libvirt says, and resume"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_went_wrong_is_told_with_what_to_do() {
        let table = [
            (
                "error: failed to connect to the hypervisor\nerror: Failed to connect socket to '/run/libvirt/libvirt-sock': No such file or directory\n",
                "failed to connect to the hypervisor; Failed to connect socket to '/run/libvirt/libvirt-sock': No such file or directory",
                "libvirt runs",
            ),
            (
                "error: failed to connect to the hypervisor\nerror: Failed to connect socket to '/run/libvirt/libvirt-sock': Permission denied\n",
                "failed to connect to the hypervisor; Failed to connect socket to '/run/libvirt/libvirt-sock': Permission denied",
                "usermod",
            ),
            (
                "error: authentication unavailable: no polkit agent available to authenticate action 'org.libvirt.unix.manage'\n",
                "authentication unavailable: no polkit agent available to authenticate action 'org.libvirt.unix.manage'",
                "usermod",
            ),
            (
                "error: Failed to start domain 'a'\nerror: Cannot access storage file '/srv/a' (as uid:64055, gid:109): Permission denied\n\n",
                "Failed to start domain 'a'; Cannot access storage file '/srv/a' (as uid:64055, gid:109): Permission denied",
                "chmod",
            ),
            ("error: network 'x' is not active\u{1b}[1m", "network 'x' is not active[1m", "libvirt says"),
        ];
        for (said, expected, todo) in table {
            assert_eq!(told(said), expected);
            assert!(hint(&told(said)).contains(todo), "{said}");
        }
        assert_eq!(told(&"x".repeat(5000)).len(), MOST_TOLD);
    }
}
