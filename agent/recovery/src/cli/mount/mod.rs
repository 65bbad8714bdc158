//! `mount`: a point's disks as files below a directory, and what is on their file systems, until it is ended.
//!
//! Nothing here knows how to serve a block device or to read a file system: nbdkit reads the export over HTTPS, nbdfuse shows it as a
//! file, and for `--files` the kernel of this host reads the file systems, which somebody else may have written: run it
//! where that can do no harm. All that is made lies below the directory, so that whoever comes after a kill finds it
//! (`layout`); `programs` runs nbdkit and nbdfuse, `files` the file systems, `copy` takes single files out. Deliberately not here: the
//! export.

mod copy;
mod files;
mod layout;
mod programs;

use std::{
    io,
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
    sync::mpsc,
    thread::JoinHandle,
    time::Duration,
};

use anyhow::{Context, Result, bail};
use clap::Args;
use mobility_recovery::{
    Catalog,
    service::{ServeError, offline},
};
use reqwest::Method;
use serde_json::Value;
use tokio::sync::watch;

use self::{
    files::Mounted,
    layout::Layout,
    programs::{Helper, Way},
};
use super::{
    exit::{NotFound, Outcome},
    export::{Which, log, until_signalled},
    machine::find,
    print,
    service::{self, NOTHING, list, text},
};

/// How often it is looked whether the helpers are well.
const LOOK: Duration = Duration::from_millis(200);

#[derive(Args)]
pub(super) struct Arguments {
    /// The directory below which the disks appear. It is made where there is none
    #[arg(value_name = "DIR")]
    dir: PathBuf,
    /// Take away what an earlier call made there, whatever became of it
    #[arg(long, conflicts_with_all = ["files", "copy"])]
    unmount: bool,
    /// The vault's directory
    #[arg(long, value_name = "DIR", conflicts_with_all = ["config", "service"])]
    vault: Option<PathBuf>,
    /// The service's configuration file, which says where its storages are; the service need not run
    #[arg(long, value_name = "FILE", conflicts_with = "service")]
    config: Option<PathBuf>,
    /// The credential of a running service's administrator, or the directory that it is in
    #[arg(long, value_name = "FILE")]
    service: Option<PathBuf>,
    /// The machine, by its id or the beginning of it, with a service also by its name
    #[arg(long, value_name = "ID")]
    machine: Option<String>,
    #[command(flatten)]
    point: Which,
    /// Only this disk, by its id, the beginning of its id, or its name
    #[arg(long, value_name = "ID")]
    disk: Option<String>,
    /// For how many hours a service exports it
    #[arg(long, value_name = "HOURS", default_value_t = 24, requires = "service")]
    hours: u64,
    /// Mount the file systems as well, read-only, below DIR/files. The kernel of this host reads what the machine wrote
    #[arg(long)]
    files: bool,
    /// Let journals be replayed, into memory that is given back in the end: for file systems that were in use
    #[arg(long, requires = "files")]
    replay: bool,
    /// Copy one file or directory and end: its path below DIR/files, and where to
    #[arg(long, num_args = 2, value_names = ["PATH", "TO"], requires = "files")]
    copy: Option<Vec<PathBuf>>,
}

pub(super) fn run(arguments: &Arguments) -> Result<Outcome> {
    if arguments.unmount {
        layout::unmount(&arguments.dir)?;
        return Ok(Outcome::Done);
    }
    programs::are_there(arguments.files)?;
    log();
    let stop = until_signalled()?;
    let layout = Layout::new(&arguments.dir)?;
    let export = match Export::open(arguments) {
        Ok(export) => export,
        Err(err) => {
            layout.clear()?;
            return Err(err);
        }
    };
    let mut helpers = Vec::new();
    let done = serve(arguments, &layout, &export, &mut helpers, &stop);
    let cleared = layout.clear();
    drop(helpers);
    let closed = export.close();
    done.and(cleared).and(closed)?;
    Ok(Outcome::Done)
}

fn serve(
    arguments: &Arguments,
    layout: &Layout,
    export: &Export,
    helpers: &mut Vec<Helper>,
    stop: &watch::Receiver<bool>,
) -> Result<()> {
    layout.write_secrets(&export.authority, &export.key)?;
    let way = Way { layout, replay: arguments.replay };
    for (name, disk) in disks(&export.shown, arguments.disk.as_deref())? {
        // With the key in a file of its own, no list of processes shows it.
        let address = text(&disk["address"]).replace(&export.key, &export.id);
        helpers.push(way.start(&name, &address, stop)?);
    }
    let mut mounted = Vec::new();
    if arguments.files {
        for helper in helpers.iter() {
            mounted.extend(files::mount(layout, helper, arguments.replay)?);
        }
    }
    if let Some([from, to]) = arguments.copy.as_deref() {
        let copied = copy::copy(layout, from, to)?;
        return print(&format!("copied {} to {}: {copied}\n", from.display(), to.display()));
    }
    announce(layout, &export.shown, helpers, &mounted)?;
    while !*stop.borrow() {
        for helper in helpers.iter_mut() {
            helper.is_well()?;
        }
        export.is_well()?;
        std::thread::sleep(LOOK);
    }
    Ok(())
}

fn announce(layout: &Layout, shown: &Value, helpers: &[Helper], mounted: &[Mounted]) -> Result<()> {
    let mut said = format!("point {} of {} is mounted:\n", text(&shown["point"]), text(&shown["time"]));
    for helper in helpers {
        said += &format!("  {}\n", helper.image.display());
    }
    for mounted in mounted {
        said += &format!("  {}\n", mounted.words());
    }
    said += &format!(
        "until this process is stopped, or `recovery-service mount --unmount {}`\n",
        layout.dir.display()
    );
    print(&said)
}

/// The disks that are meant, each with the name of its file.
fn disks(shown: &Value, wanted: Option<&str>) -> Result<Vec<(String, Value)>> {
    let all = list(shown, "disks");
    let plain = |c: char| !c.is_ascii_alphanumeric() && !"-_.".contains(c);
    let base = |disk: &Value| {
        let name = text(&disk["name"]).rsplit('/').next().unwrap_or_default().replace(plain, "_");
        name.trim_end_matches(".img").trim_start_matches('.').to_owned()
    };
    let mut named = Vec::new();
    for disk in all {
        let (name, id) = (text(&disk["name"]), text(&disk["id"]));
        let is_meant = wanted.is_none_or(|wanted| {
            name == wanted || base(disk) == wanted || (!wanted.is_empty() && id.starts_with(wanted))
        });
        if is_meant {
            let short = base(disk);
            let unique = !short.is_empty() && all.iter().filter(|other| base(other) == short).count() == 1;
            named.push((if unique { short } else { id }, disk.clone()));
        }
    }
    if named.is_empty() || (wanted.is_some() && named.len() != 1) {
        let there: Vec<_> = all.iter().map(|disk| text(&disk["name"])).collect();
        let problem = format!(
            "'{}' names {} disks of the point, which has {}",
            wanted.unwrap_or(""),
            named.len(),
            there.join(", ")
        );
        return Err(NotFound(problem).into());
    }
    Ok(named)
}

/// What is read, and what serves it: a thread of this process, or a service.
struct Export {
    shown: Value,
    authority: String,
    key: String,
    /// What stands in the addresses in place of the key.
    id: String,
    served: Served,
}

enum Served {
    Here { stop: watch::Sender<bool>, thread: JoinHandle<Result<(), ServeError>> },
    ByService(Box<service::Service>),
}

impl Export {
    fn open(arguments: &Arguments) -> Result<Export> {
        match &arguments.service {
            Some(credential) => Export::by_service(arguments, credential.clone()),
            None => Export::here(arguments),
        }
    }

    fn by_service(arguments: &Arguments, credential: PathBuf) -> Result<Export> {
        let service = service::Place::of(credential).connect()?;
        let machine = arguments.machine.as_deref().unwrap_or_default();
        let machine = find(&service, machine).context("name the machine with --machine")?;
        let shown = arguments.point.create(&service, &machine, arguments.hours)?;
        Ok(Export {
            authority: text(&shown["authority"]),
            key: text(&shown["key"]),
            id: text(&shown["id"]),
            shown,
            served: Served::ByService(Box::new(service)),
        })
    }

    fn here(arguments: &Arguments) -> Result<Export> {
        let place = super::Place {
            vault: arguments.vault.clone(),
            config: arguments.config.clone(),
            machine: arguments.machine.clone(),
            json: false,
        };
        let (stores, machine) = place.open_one()?;
        let catalog = Catalog::load_locked(&stores, machine)?;
        let point = arguments.point.choose(&catalog)?.epoch();
        let (stop, stopped) = watch::channel(false);
        let (ready, started) = mpsc::channel();
        let thread = std::thread::spawn(move || {
            let found = catalog.points().find(|candidate| candidate.epoch() == point);
            let Some(point) = found else { return Ok(()) };
            offline(&catalog, &point, SocketAddr::from((Ipv4Addr::LOCALHOST, 0)), stopped, |served| {
                let served = (served.shown.clone(), served.authority.clone(), served.key.clone());
                ready.send(served).map_err(io::Error::other)
            })
        });
        let Ok((shown, authority, key)) = started.recv() else {
            return match thread.join() {
                Ok(Err(err)) => Err(err.into()),
                _ => bail!("the point could not be served"),
            };
        };
        let served = Served::Here { stop, thread };
        Ok(Export { shown, authority, key, id: "export".to_owned(), served })
    }

    fn is_well(&self) -> Result<()> {
        match &self.served {
            Served::Here { thread, .. } if thread.is_finished() => bail!("the point is not served any more"),
            _ => Ok(()),
        }
    }

    fn close(self) -> Result<()> {
        match self.served {
            Served::Here { stop, thread } => {
                stop.send(true).ok();
                match thread.join() {
                    Ok(served) => Ok(served?),
                    Err(_) => bail!("what served the point has failed"),
                }
            }
            Served::ByService(service) => {
                service.ask(Method::DELETE, &["exports", &self.id], NOTHING).map(|_| ()).context(
                    "the export could not be ended: it ends by itself, and until then its point is not pruned",
                )
            }
        }
    }
}
