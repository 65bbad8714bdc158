//! The command line: what can be asked for, in the words of `docs/GLOSSARY.md`.
//!
//! Deliberately not here: defaults. A flag that is not given leaves the configuration as it is.

use std::{path::PathBuf, time::Duration};

use clap::{Args, Parser, Subcommand, ValueEnum};
use mobility_engine::CutPolicy;
use mobility_format::MachineId;
use serde::{Deserialize, Serialize};

use crate::{
    config::parse_duration,
    service::{DEFAULT_STATE_DIR, Fingerprint},
};

/// Protects the disks of a Linux virtual machine by replicating them to recovery points.
#[derive(Debug, Parser)]
#[command(name = "mobility-agent", version, after_help = EXIT_CODES)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

const EXIT_CODES: &str = "Exit codes: 0 done; 1 failure; 2 wrong usage; 3 the configuration is not valid; \
     4 a disk cannot be protected; 5 the vault cannot be used; 6 the tracker cannot be used; \
     7 not running (status, point); 8 something needed is missing (check); \
     9 the point is not application-consistent (point); 10 no answer in time (point); \
     11 the token was refused (enroll); 12 the service cannot be reached; 13 the service cannot be trusted; \
     14 already enrolled (enroll); 15 not enrolled; 16 the state directory cannot be used; \
     17 another agent goes on with this identity; 18 taken out of protection";

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Protect disks until told to stop.
    Run(RunArgs),
    /// Show all of it in a minute, on a disk made for it and thrown away.
    Demo(DemoArgs),
    /// Show what the running agent is doing.
    Status(StatusArgs),
    /// Have the running agent make a recovery point now, and wait for it.
    Point(PointArgs),
    /// Find out what is missing before disks are protected.
    Check(CheckArgs),
    /// Have a recovery service protect this machine.
    Enroll(EnrollArgs),
    /// Leave the recovery service; recovery points stay there.
    Unenroll(UnenrollArgs),
    /// Thaw file systems that an agent which is gone left frozen.
    Thaw(ThawArgs),
    /// Thaw what the agent that started this froze, when it cannot. Started by the agent alone.
    #[command(hide = true)]
    Guard,
    /// Write manual pages and shell completions. For those who make packages.
    #[command(hide = true)]
    Manual(ManualArgs),
}

/// Flags of `run`.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct RunArgs {
    /// Local debug mode: no network, no service; cache and target storage are folders of the vault.
    #[arg(long)]
    pub(crate) debug: bool,
    /// The directory that holds both storages in debug mode. Made if it is not there.
    #[arg(long, value_name = "DIR")]
    pub(crate) vault: Option<PathBuf>,
    /// A disk to protect: a whole block device, or an image file. May be given several times.
    #[arg(long = "disk", value_name = "PATH")]
    pub(crate) disks: Vec<PathBuf>,
    /// From one recovery point to the next, such as 15s; 1s to 24h. The policy of a recovery service has the last word.
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    pub(crate) interval: Option<Duration>,
    /// Stop after this time, with a last recovery point.
    #[arg(long = "for", value_name = "TIME", value_parser = parse_duration)]
    pub(crate) for_time: Option<Duration>,
    /// How changes are found.
    #[arg(long, value_enum)]
    pub(crate) capture: Option<Capture>,
    /// Whether writes may be held for a moment when a point is made.
    #[arg(long, value_enum)]
    pub(crate) cut: Option<Cut>,
    /// How long a frozen cut may hold writes, such as 300ms; 10ms to 10s.
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    pub(crate) freeze_limit: Option<Duration>,
    /// From one application-consistent point to the next; 10s to 30days. Only on request if not given.
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    pub(crate) app_consistent_interval: Option<Duration>,
    /// The directory of the scripts that make applications ready for a point.
    #[arg(long, value_name = "DIR")]
    pub(crate) scripts: Option<PathBuf>,
    /// Where the state for `status` is kept while the agent runs.
    #[arg(long, value_name = "DIR")]
    pub(crate) runtime_dir: Option<PathBuf>,
    /// Where the identity is that was enrolled; `/var/lib/mobility-agent` if not given.
    #[arg(long, value_name = "DIR")]
    pub(crate) state_dir: Option<PathBuf>,
    /// Read configuration fragments below this directory instead of `/`.
    #[arg(long, value_name = "DIR", default_value = "/")]
    pub(crate) config_root: PathBuf,
    /// Show the configuration that results from fragments and flags, and stop.
    #[arg(long)]
    pub(crate) print_config: bool,
}

/// How changes are found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Capture {
    /// By the tracker where it can be had, else by scan.
    #[default]
    Auto,
    /// By the tracker in the kernel, or not at all.
    Ebpf,
    /// By reading the disk and comparing.
    Scan,
}

/// How a cut that stops nobody and one that holds writes are chosen between.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Cut {
    /// Freeze the file systems only where the last points show that it is needed.
    #[default]
    Auto,
    /// Never hold a write; a point that cannot be had so is fuzzy.
    Optimistic,
    /// Freeze the file systems for every point.
    Freeze,
}

impl From<Cut> for CutPolicy {
    fn from(cut: Cut) -> CutPolicy {
        match cut {
            Cut::Auto => CutPolicy::Auto,
            Cut::Optimistic => CutPolicy::Optimistic,
            Cut::Freeze => CutPolicy::Freeze,
        }
    }
}

/// Flags of `demo`.
#[derive(Debug, Args)]
pub(crate) struct DemoArgs {
    /// Size of the scratch disk in MiB; 64 to 4096.
    #[arg(long, default_value_t = 256, value_parser = clap::value_parser!(u64).range(64..=4096))]
    pub(crate) size: u64,
    /// Where to make the scratch files; a temporary directory if it is not given.
    #[arg(long, value_name = "DIR")]
    pub(crate) dir: Option<PathBuf>,
    /// Leave disk image and vault behind to look at.
    #[arg(long)]
    pub(crate) keep: bool,
}

/// Flags of `status`.
#[derive(Debug, Args)]
pub(crate) struct StatusArgs {
    /// For programs.
    #[arg(long)]
    pub(crate) json: bool,
    /// Where the running agent keeps its state.
    #[arg(long, value_name = "DIR")]
    pub(crate) runtime_dir: Option<PathBuf>,
}

/// Flags of `point`.
#[derive(Debug, Args)]
pub(crate) struct PointArgs {
    /// Run the scripts that make applications ready, and count nothing less as success.
    #[arg(long)]
    pub(crate) app_consistent: bool,
    /// How long to wait for the point; 1s to 24h.
    #[arg(long, value_name = "TIME", value_parser = parse_duration, default_value = "5min")]
    pub(crate) timeout: Duration,
    /// Which machine, where agents of several machines run.
    #[arg(long, value_name = "ID")]
    pub(crate) machine: Option<MachineId>,
    /// For programs.
    #[arg(long)]
    pub(crate) json: bool,
    /// Where the running agent keeps its state.
    #[arg(long, value_name = "DIR")]
    pub(crate) runtime_dir: Option<PathBuf>,
}

/// Flags of `check`.
#[derive(Debug, Args)]
pub(crate) struct CheckArgs {
    /// For programs.
    #[arg(long)]
    pub(crate) json: bool,
    /// The vault to be used.
    #[arg(long, value_name = "DIR")]
    pub(crate) vault: Option<PathBuf>,
    /// A disk to be protected. May be given several times; all whole disks of the machine if not given.
    #[arg(long = "disk", value_name = "PATH")]
    pub(crate) disks: Vec<PathBuf>,
    /// Where the recovery service is to be. May be given several times; where this machine is enrolled if not given.
    #[arg(long, value_name = "URL")]
    pub(crate) service: Vec<String>,
    /// The SHA-256 of the certificate of the service's authority, as for `enroll`.
    #[arg(long, value_name = "SHA256", requires = "service")]
    pub(crate) ca_fingerprint: Option<Fingerprint>,
    /// The proxy to go through, as for `enroll`.
    #[arg(long, value_name = "URL")]
    pub(crate) proxy: Option<String>,
    /// Where identity and keys are kept; `/var/lib/mobility-agent` if not given.
    #[arg(long, value_name = "DIR")]
    pub(crate) state_dir: Option<PathBuf>,
}

/// Flags of `enroll`.
#[derive(Debug, Default, Args)]
pub(crate) struct EnrollArgs {
    /// Where the recovery service is, such as `https://recovery.example.org:8443`. May be given several times.
    #[arg(long, value_name = "URL", required = true)]
    pub(crate) service: Vec<String>,
    /// A file that holds the token.
    #[arg(long, value_name = "FILE", required_unless_present = "token_env")]
    pub(crate) token_file: Option<PathBuf>,
    /// A variable of the environment that holds the token.
    #[arg(long, value_name = "NAME", conflicts_with = "token_file")]
    pub(crate) token_env: Option<String>,
    /// The SHA-256 of the certificate of the service's authority. The system's authorities are trusted if it is not given.
    #[arg(long, value_name = "SHA256")]
    pub(crate) ca_fingerprint: Option<Fingerprint>,
    /// Authorities to trust besides the system's, for stores and for the first connection (PEM).
    #[arg(long, value_name = "FILE")]
    pub(crate) ca_file: Option<PathBuf>,
    /// The proxy to go through, such as `http://name:password@proxy:3128`, or `none`; the environment's if not given.
    #[arg(long, value_name = "URL")]
    pub(crate) proxy: Option<String>,
    /// A variable of the environment that holds the proxy: one with a password is not for a command line.
    #[arg(long, value_name = "NAME", conflicts_with = "proxy")]
    pub(crate) proxy_env: Option<String>,
    /// Where identity and keys are kept.
    #[arg(long, value_name = "DIR", default_value = DEFAULT_STATE_DIR)]
    pub(crate) state_dir: PathBuf,
}

/// Flags of `unenroll`.
#[derive(Debug, Args)]
pub(crate) struct UnenrollArgs {
    /// Forget the identity without telling the service.
    #[arg(long)]
    pub(crate) force: bool,
    /// The proxy to go through, where it is not the one that was enrolled with.
    #[arg(long, value_name = "URL")]
    pub(crate) proxy: Option<String>,
    /// Where identity and keys are kept.
    #[arg(long, value_name = "DIR", default_value = DEFAULT_STATE_DIR)]
    pub(crate) state_dir: PathBuf,
}

/// Flags of `thaw`.
#[derive(Debug, Args)]
pub(crate) struct ThawArgs {
    /// Where the agent kept its state.
    #[arg(long, value_name = "DIR")]
    pub(crate) runtime_dir: Option<PathBuf>,
}

/// Flags of `manual`.
#[derive(Debug, Args)]
pub(crate) struct ManualArgs {
    /// Where to. It has to be there.
    #[arg(value_name = "DIR")]
    pub(crate) dir: PathBuf,
}
