//! Machines in Azure: each disk a page blob in a container, and a template that makes a machine of them in a directory.
//!
//! The service has no right to make anything in a subscription but blobs: who has it runs the template. A test's machine is made
//! with another name, and with a security group that lets nothing in or out. Everything that the template makes has a tag with the
//! failover's id, by which it is found again. Deliberately not here: what is in a template (`crate::azure`), and asking Azure what
//! became of it.

use std::{fs, io};

use mobility_format::ByteCount;

use super::{
    Disk, Failure, Outcome, Provider, SETTINGS, Seen, Spec,
    images::{Images, failed},
    usable,
};
use crate::{
    Destination, Objects, PageBlob, Remote, RemoteAccount, RemoteSettings, StorageError, StorageErrorKind,
    azure::{self, DiskSource, TemplateDisk},
    service::places,
    storage::Files,
    target::Settings,
};

/// What is written for a machine: the script as the last, so where it is, all of it is.
const TEMPLATE: &str = "azure.json";
const PARAMETERS: &str = "azure.parameters.json";
const SCRIPT: &str = "azure.sh";
/// What is put to see that it can be.
const PROBE: &str = "probe";
/// What it takes.
const RIGHTS: &str =
    "see that the place's credentials let the service read, create, write, delete and list blobs (rcwdl)";
/// What is behind a test's machine's name.
const TEST: &str = "-test";
/// How much of a machine's name is before that.
const MOST_NAME: usize = 59;
/// The tag of what is made.
const TAG: &str = "recovery-failover";
/// Tags that Azure takes on one resource.
const MOST_TAGS: usize = 50;
/// The longest probe that is read.
const MOST_PROBE: u64 = 1 << 10;
/// How often blobs are looked for that are to be gone.
const MOST_ROUNDS: u32 = 5;

/// A container, and a directory for templates.
#[derive(Clone, Debug)]
pub(crate) struct Azure {
    files: Images,
    container: RemoteSettings,
}

/// What makes a machine.
struct Plan {
    template: String,
    parameters: String,
    script: String,
}

impl Azure {
    pub(crate) fn new(files: Images, container: RemoteSettings) -> Azure {
        Azure { files, container }
    }

    fn remote(&self) -> Outcome<Remote> {
        let opened = places::network().and_then(|network| Remote::open(&self.container, network));
        opened.map_err(|err| refused(&err))
    }

    fn key(spec: &Spec, disk: &Disk) -> String {
        format!("{}/{}.vhd", spec.failover, disk.id)
    }

    fn blob(&self, spec: &Spec, disk: &Disk) -> Outcome<PageBlob> {
        let hint = "mend the place's table of the configuration, restart the service, and resume";
        PageBlob::in_container(&self.container, &Azure::key(spec, disk))
            .map_err(|problem| Failure::new(problem, hint))
    }

    /// Template, parameters and script; what keeps them from being made.
    fn plan(&self, spec: &Spec) -> Outcome<Plan> {
        let settings = settings(spec, &self.container)?;
        let disk = |disk: &Disk| {
            let uri = self.blob(spec, disk)?.path().display().to_string();
            Ok(TemplateDisk { id: disk.id, size: disk.size, source: DiskSource::Import { uri } })
        };
        let disks = spec.disks.iter().map(disk).collect::<Outcome<Vec<_>>>()?;
        let hint = "`machine target show` says what there is: set what is missing, and resume";
        let refused = |err: azure::TemplateError| Failure::new(err.to_string(), hint);
        let template = azure::template(&settings, &disks).map_err(refused)?;
        let script = azure::commands(&settings, &disks, TEMPLATE, PARAMETERS).map_err(refused)?;
        let parameters = azure::parameters(&template);
        let template = if spec.isolated { azure::isolated(template) } else { template };
        let text = |value| {
            let text = serde_json::to_string_pretty(value).map_err(|err| Failure::new(err.to_string(), ""));
            Ok(text? + "\n")
        };
        Ok(Plan { template: text(&template)?, parameters: text(&parameters)?, script })
    }

    /// That blobs can be put below the failover's id, found, read and removed.
    fn probe(&self, failover: &str) -> Outcome<()> {
        let remote = self.remote()?;
        let key = format!("{failover}/{PROBE}");
        match remote.put_new(&key, failover.as_bytes()) {
            // Of a try before this one.
            Err(err) if err.is_already_there() => {}
            put => put.map_err(|err| refused(&err))?,
        }
        remote.read(&key, MOST_PROBE).map_err(|err| refused(&err))?;
        // However a store says that it may not be removed, it is known to be there.
        let removed = remove_below(&remote, failover);
        match removed.map_err(|err| Failure::new(err.to_string(), format!("{RIGHTS}; and resume")))? {
            0 => Err(Failure::new(
                format!("{} does not list what was put there", remote.place("").display()),
                format!("{RIGHTS}; and resume"),
            )),
            _ => Ok(()),
        }
    }

    /// The command that makes the machine; nothing where it was not written.
    fn command(&self, failover: &str) -> Outcome<Option<String>> {
        let directory = self.files.of(failover);
        let path = directory.join(SCRIPT);
        let script = match fs::read_to_string(&path) {
            Err(err) if err.kind() == io::ErrorKind::NotFound => return Ok(None),
            script => script.map_err(|err| failed("read", &path, &err))?,
        };
        let create = azure::creating(&script).ok_or_else(|| {
            let problem = format!("{} is not what was written there", path.display());
            Failure::new(problem, "write it anew: `failover change-point`")
        })?;
        Ok(Some(format!("cd {} && {create}", azure::shell_word(&directory.display().to_string()))))
    }

    fn how(&self, failover: &str) -> Outcome<Option<String>> {
        let of = |command| {
            format!(
                "deploy it with: {command} (after `az login`; {SCRIPT} there makes the resource group, too, and validates first)"
            )
        };
        Ok(self.command(failover)?.map(of))
    }
}

/// What was said of the machine, as it is in this failover; what of it Azure would refuse.
fn settings(spec: &Spec, container: &RemoteSettings) -> Outcome<Settings> {
    let Some(target) = &spec.target else {
        return Err(Failure::new("nothing is known of the machine's target settings", SETTINGS));
    };
    let mut problems = target.blocking();
    let mut settings = target.settings.clone();
    let mut tags = settings.tags.value.take().unwrap_or_default();
    if tags.len() >= MOST_TAGS {
        problems.push(format!("tags: Azure takes {MOST_TAGS}, and the failover's own is one of them"));
    }
    if let (Some(said), RemoteAccount::Azure { account, .. }) =
        (&settings.target_storage_account.value, &container.account)
        && said != account
    {
        problems
            .push(format!("target_storage_account: disks are brought to {account}, the place's: clear it"));
    }
    usable(&problems)?;
    tags.insert(TAG.to_owned(), spec.failover.clone());
    settings.tags.value = Some(tags);
    if spec.isolated {
        let name: String = azure::machine_name(&spec.name).chars().take(MOST_NAME).collect();
        settings.name.value = Some(name.trim_end_matches('-').to_owned() + TEST);
    }
    Ok(settings)
}

fn refused(err: &StorageError) -> Failure {
    let hint = match err.kind() {
        StorageErrorKind::Refused => RIGHTS,
        kind => kind.remedy(),
    };
    Failure::new(err.to_string(), format!("{hint}; and resume"))
}

/// Removes every blob below; how many there were.
fn remove_below(remote: &Remote, failover: &str) -> Result<usize, StorageError> {
    let mut keys = Vec::new();
    remote.list(failover, &mut |listed| keys.push(listed.key))?;
    remote.remove(&keys)?;
    Ok(keys.len())
}

impl Provider for Azure {
    fn check(&self, spec: &Spec) -> Outcome<String> {
        self.plan(spec)?;
        self.files.make_directory(&spec.failover)?;
        self.probe(&spec.failover)?;
        let size = ByteCount(spec.disks.iter().map(|disk| disk.size.0).sum());
        let (remote, directory) = (self.remote()?, self.files.of(&spec.failover));
        let (container, directory) = (remote.place(&spec.failover), directory.display());
        Ok(format!(
            "{} takes blobs; the disks are {size} at most; the template gets to {directory}",
            container.display()
        ))
    }

    fn image(&self, spec: &Spec, disk: &Disk) -> Outcome<Destination> {
        // One that is there is of a try of this failover's that was not noted.
        Ok(Destination::PageBlob { blob: self.blob(spec, disk)?, replace: true })
    }

    fn make(&self, spec: &Spec) -> Outcome<String> {
        let (plan, remote) = (self.plan(spec)?, self.remote()?);
        for disk in &spec.disks {
            let key = Azure::key(spec, disk);
            if remote.size(&key).map_err(|err| refused(&err))? != azure::uploaded_size(disk.size) {
                let problem = format!("{} is not as it was written", remote.place(&key).display());
                return Err(Failure::new(problem, "write it again: `failover change-point`"));
            }
        }
        let directory = self.files.make_directory(&spec.failover)?;
        let texts: [(&str, &str); 3] =
            [(TEMPLATE, &plan.template), (PARAMETERS, &plan.parameters), (SCRIPT, &plan.script)];
        for (name, text) in texts {
            let written = Files::default().replace(&directory.join(name), text.as_bytes());
            written.map_err(|err| failed("write", &err.path, &err.source))?;
        }
        let network = if spec.isolated { ", cut off from every network" } else { "" };
        Ok(format!("{TEMPLATE}, {PARAMETERS} and {SCRIPT} are in {}{network}", directory.display()))
    }

    fn start(&self, failover: &str) -> Outcome<String> {
        self.how(failover)?.ok_or_else(|| {
            let problem = format!("there is no {SCRIPT} in {}", self.files.of(failover).display());
            Failure::new(problem, "write it anew: `failover change-point`")
        })
    }

    fn look(&self, failover: &str) -> Outcome<Seen> {
        Ok(self.how(failover)?.map_or(Seen::Off, Seen::ByHand))
    }

    fn stop(&self, _: &str) -> Outcome<String> {
        Ok("nothing was started from here; what was deployed goes on until it is removed".to_owned())
    }

    fn remove(&self, failover: &str) -> Outcome<String> {
        let remote = self.remote()?;
        let mut left = MOST_ROUNDS;
        // What the store still had on its way may appear meanwhile.
        while remove_below(&remote, failover).map_err(|err| refused(&err))? > 0 {
            left -= 1;
            if left == 0 {
                let problem = format!("{} has blobs again and again", remote.place(failover).display());
                return Err(Failure::new(problem, "see who writes there, and resume"));
            }
        }
        self.files.remove(failover)?;
        Ok(format!(
            "its blobs and its template are gone; if it was deployed, remove that with: az resource delete --ids $(az resource list --tag {TAG}={failover} --query '[].id' --output tsv)"
        ))
    }
}
