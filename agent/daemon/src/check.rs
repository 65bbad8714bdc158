//! `mobility-agent check`: what is missing before disks are protected, and what to do about it. Changes nothing.
//!
//! Deliberately not here: the checks that `run` makes again when it opens things.

use std::{
    fs,
    path::{Path, PathBuf},
};

use mobility_capture::{
    disk::{Disk, check_set, check_vault},
    ebpf::Tracker,
};
use mobility_format::ByteCount;
use serde::Serialize;

use crate::{
    cli::{CheckArgs, RunArgs},
    config::Settings,
    exit::Failure,
    service::{
        ProxySettings,
        reach::{Reached, Way, reach},
    },
};

/// Seconds that clocks may be apart without a remark.
const CLOCKS_AGREE: u64 = 10;

/// How one check came out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Outcome {
    Good,
    /// It works, but not as well as it could.
    Limited,
    Missing,
}

#[derive(Debug, Serialize)]
struct Finding {
    check: &'static str,
    outcome: Outcome,
    message: String,
}

fn finding(check: &'static str, outcome: Outcome, message: impl Into<String>) -> Finding {
    Finding { check, outcome, message: message.into() }
}

pub(crate) fn run(args: &CheckArgs) -> anyhow::Result<()> {
    let mut findings = vec![kernel(), tracker()];
    let disks = disks(args, &mut findings);
    if let Some(vault) = &args.vault {
        findings.extend(vault_findings(vault, &disks));
    }
    // Debug mode has neither.
    if args.vault.is_none() {
        findings.extend(service(args));
    }
    if args.json {
        println!("{}", serde_json::to_string_pretty(&serde_json::json!({ "findings": findings }))?);
    } else {
        for Finding { check, outcome, message } in &findings {
            let mark = match outcome {
                Outcome::Good => "ok     ",
                Outcome::Limited => "limited",
                Outcome::Missing => "MISSING",
            };
            println!("{mark}  {check}: {message}");
        }
    }
    match findings.iter().filter(|finding| finding.outcome == Outcome::Missing).count() {
        0 => Ok(()),
        count => {
            Err(Failure::Missing(format!("{count} of {} checks found something missing", findings.len()))
                .into())
        }
    }
}

/// The way to the recovery service, and the time of day there, as far as there is a service to ask.
fn service(args: &CheckArgs) -> Vec<Finding> {
    let run = RunArgs { state_dir: args.state_dir.clone(), config_root: "/".into(), ..RunArgs::default() };
    let settings = match Settings::load(&run) {
        Ok(settings) => settings.service,
        Err(err) => return vec![finding("configuration", Outcome::Missing, err.to_string())],
    };
    let mut options = settings.options;
    if let Some(url) = &args.proxy {
        options.proxy = ProxySettings { url: Some(url.clone()), except: None };
    }
    let way = Way {
        addresses: &args.service,
        fingerprint: args.ca_fingerprint,
        state_dir: &settings.state_dir,
        options: &options,
    };
    match reach(&way) {
        Ok(None) => Vec::new(),
        Ok(Some(reached)) => way_and_clock(&reached),
        Err(err) => vec![finding("service", Outcome::Missing, err.to_string())],
    }
}

fn way_and_clock(reached: &Reached) -> Vec<Finding> {
    if let Err(fault) = &reached.answer {
        return vec![finding("service", Outcome::Missing, fault.to_string())];
    }
    let shown = reached.addresses.join(", ");
    let service =
        finding("service", Outcome::Good, format!("{shown}: the recovery service answers, as itself"));
    let apart = reached.ahead.as_secs();
    let clock = match apart.unsigned_abs() {
        apart if apart <= CLOCKS_AGREE => {
            finding("clock", Outcome::Good, "this machine and the recovery service have the same time")
        }
        seconds => {
            let side = if apart > 0 { "behind" } else { "ahead of" };
            let text = format!(
                "this machine's clock is {seconds} s {side} the recovery service's: points bear a wrong time, and certificates may be \
                 taken for expired; have it set, for example by systemd-timesyncd or chrony"
            );
            finding("clock", Outcome::Limited, text)
        }
    };
    vec![service, clock]
}

fn kernel() -> Finding {
    let name = rustix::system::uname();
    finding("kernel", Outcome::Good, format!("Linux {}", name.release().to_string_lossy()))
}

fn tracker() -> Finding {
    match Tracker::supported() {
        Ok(()) => {
            finding("tracker", Outcome::Good, "changes can be tracked in the kernel (eBPF, BTF, bpffs)")
        }
        Err(err) => finding(
            "tracker",
            Outcome::Limited,
            format!("{err}. Until then disks are scanned, which reads all of them each time"),
        ),
    }
}

fn disks(args: &CheckArgs, findings: &mut Vec<Finding>) -> Vec<Disk> {
    let named = !args.disks.is_empty();
    let paths = if named { args.disks.clone() } else { whole_disks() };
    let mut disks = Vec::new();
    for path in paths {
        match Disk::inspect(&path) {
            Ok(disk) => {
                findings.push(describe(&disk));
                disks.push(disk);
            }
            // Of the disks of the machine, those that cannot be protected are only worth a remark.
            Err(err) => {
                let outcome = if named { Outcome::Missing } else { Outcome::Limited };
                findings.push(finding("disk", outcome, err.to_string()));
            }
        }
    }
    if let Err(err) = check_set(&disks) {
        findings.push(finding(
            "disks",
            if named { Outcome::Missing } else { Outcome::Limited },
            err.to_string(),
        ));
    }
    disks
}

fn describe(disk: &Disk) -> Finding {
    let mounts: Vec<_> = disk.mounts.iter().map(|mount| mount.point.display().to_string()).collect();
    let mounts = if mounts.is_empty() {
        "not mounted".to_owned()
    } else {
        format!("mounted at {}", mounts.join(", "))
    };
    let text = format!("{} ({}, {}, {mounts})", disk.given.display(), disk.size, disk.identity);
    match &disk.untrackable {
        None => finding("disk", Outcome::Good, text),
        Some(reason) => finding("disk", Outcome::Limited, format!("{text}: scanned, because {reason}")),
    }
}

/// The whole disks of this machine, without those that hold no content of their own.
pub(crate) fn whole_disks() -> Vec<PathBuf> {
    let names = fs::read_dir("/sys/block").into_iter().flatten().flatten();
    let mut names: Vec<_> = names.filter_map(|entry| entry.file_name().into_string().ok()).collect();
    names.retain(|name| {
        !["ram", "zram", "sr", "fd", "dm-", "md", "nbd"].iter().any(|no| name.starts_with(no))
    });
    names.retain(|name| {
        fs::read_to_string(format!("/sys/block/{name}/size")).is_ok_and(|size| size.trim() != "0")
    });
    names.sort();
    names.into_iter().map(|name| Path::new("/dev").join(name)).collect()
}

fn vault_findings(vault: &Path, disks: &[Disk]) -> Vec<Finding> {
    let mut findings: Vec<_> = disks
        .iter()
        .filter_map(|disk| check_vault(disk, vault).err())
        .map(|err| finding("vault", Outcome::Missing, err.to_string()))
        .collect();
    let Some(there) = vault.ancestors().find(|path| path.is_dir()) else {
        findings.push(finding(
            "vault",
            Outcome::Missing,
            format!("{}: no directory above it exists", vault.display()),
        ));
        return findings;
    };
    let needed = ByteCount(disks.iter().map(|disk| disk.size.0).sum());
    match rustix::fs::statvfs(there) {
        Err(err) => findings.push(finding("vault", Outcome::Missing, format!("{}: {err}", there.display()))),
        Ok(stat) => {
            let free = ByteCount(stat.f_bavail.saturating_mul(stat.f_frsize));
            let outcome = if free < needed { Outcome::Limited } else { Outcome::Good };
            let text =
                format!("{} has {free} free; the disks hold {needed} before compression", vault.display());
            findings.push(finding("vault", outcome, text));
        }
    }
    findings
}
