//! `machine target`: where and as what a machine is to run when it is failed over.
//!
//! Deliberately not here: which network stands for which (`network`), and failing over.

use std::{io::Write, path::PathBuf};

use anyhow::{Context, Result, bail};
use clap::{Args, Subcommand};
use reqwest::Method;
use serde_json::{Map, Value, json};

use super::{
    exit::Outcome,
    machine::One,
    print, print_json,
    service::{NOTHING, Service, list, text},
    table::{Align, render},
};

/// The fields that have one value, in the order in which they are shown.
const FIELDS: [&str; 16] = [
    "place",
    "name",
    "resource_group",
    "location",
    "availability_set",
    "zone",
    "size",
    "processors",
    "memory",
    "boot",
    "secure_boot",
    "cache_storage_account",
    "target_storage_account",
    "disk_type",
    "architecture",
    "tags",
];

#[derive(Subcommand)]
pub(super) enum Command {
    /// Show what a failover of a machine would go by, where each value is from, and what stands in the way
    Show(Show),
    /// Say where and as what a machine is to run. What is not said stays as it is
    Set(Box<Set>),
    /// Write a deployment template for Azure that makes the machine of restored disks, its parameters, and the commands to run it
    Template(Template),
    /// Take back what was said, so that it follows from the machine again
    Clear(Clear),
}

#[derive(Args)]
pub(super) struct Show {
    #[command(flatten)]
    one: One,
    /// For the way back, from the target to where the machine came from
    #[arg(long)]
    back: bool,
}

#[derive(Args)]
pub(super) struct Template {
    #[command(flatten)]
    one: One,
    /// Where to. It has to be there, and have none of the files in it
    #[arg(long, value_name = "DIR")]
    output: PathBuf,
    /// A disk, by its id, and where it was restored to: the address of a page blob, or the file of a fixed VHD. For every disk
    #[arg(long, value_name = "ID=WHERE", required = true)]
    disk: Vec<String>,
}

#[derive(Args)]
pub(super) struct Clear {
    #[command(flatten)]
    one: One,
    /// Which fields, as `show --json` names them; all, if none is named
    fields: Vec<String>,
}

#[derive(Args)]
pub(super) struct Set {
    #[command(flatten)]
    one: One,
    /// All of it, as JSON in a file, or on standard input where this is `-`; else only what is said below changes
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// The place, as the service's configuration names it
    #[arg(long, value_name = "NAME")]
    place: Option<String>,
    /// What the machine is called there
    #[arg(long)]
    name: Option<String>,
    /// The resource group that it is made in
    #[arg(long, value_name = "NAME")]
    resource_group: Option<String>,
    /// The region
    #[arg(long, value_name = "REGION")]
    location: Option<String>,
    /// The network of all interfaces for which no other is said: NETWORK, NETWORK/SUBNET or a subnet's full id
    #[arg(long)]
    network: Option<String>,
    /// The availability set
    #[arg(long, value_name = "NAME")]
    availability_set: Option<String>,
    /// The availability zone
    #[arg(long)]
    zone: Option<String>,
    /// How large the machine is, as the place names sizes
    #[arg(long)]
    size: Option<String>,
    /// How many processors it has, where sizes have no names
    #[arg(long, value_name = "COUNT")]
    processors: Option<u32>,
    /// Its memory in bytes, where sizes have no names
    #[arg(long, value_name = "BYTES")]
    memory: Option<u64>,
    /// How firmware starts it
    #[arg(long, value_name = "bios|uefi")]
    boot: Option<String>,
    /// The storage account where what is on its way is kept
    #[arg(long, value_name = "NAME")]
    cache_storage_account: Option<String>,
    /// The storage account that disks are brought to
    #[arg(long, value_name = "NAME")]
    target_storage_account: Option<String>,
    /// How fast and how safe its disks are, as the place names kinds of disks
    #[arg(long, value_name = "KIND")]
    disk_type: Option<String>,
    /// A tag; may be given several times. All others go
    #[arg(long, value_name = "NAME=VALUE")]
    tag: Vec<String>,
    /// The network of one interface, by its hardware address at the source; may be given several times
    #[arg(long, value_name = "MAC=NETWORK")]
    interface_network: Vec<String>,
    /// The address of one interface: `keep`, `new`, or which; may be given several times
    #[arg(long, value_name = "MAC=ADDRESS")]
    interface_address: Vec<String>,
}

pub(super) fn run(command: &Command) -> Result<Outcome> {
    match command {
        Command::Show(asked) => {
            let (service, id) = asked.one.find()?;
            let way = if asked.back { "back" } else { "forth" };
            let query = [("direction", way.to_owned())];
            let answer = service.ask_for(Method::GET, &["machines", &id, "target"], &query, NOTHING)?;
            show(&asked.one, &answer)?;
        }
        Command::Set(set) => {
            let (service, id) = set.one.find()?;
            let wanted = set.wanted(&service, &id)?;
            put(&set.one, &service, &id, &wanted)?;
        }
        Command::Template(asked) => asked.write()?,
        Command::Clear(clear) => {
            let (service, id) = clear.one.find()?;
            let mut wanted = Map::new();
            if !clear.fields.is_empty() {
                wanted = said(&service, &id)?;
                for field in &clear.fields {
                    if wanted.remove(field).is_none() {
                        bail!("nothing was said of '{field}'");
                    }
                }
            }
            put(&clear.one, &service, &id, &wanted)?;
        }
    }
    Ok(Outcome::Done)
}

/// What was said so far.
fn said(service: &Service, id: &str) -> Result<Map<String, Value>> {
    let answer = service.ask(Method::GET, &["machines", id, "target"], NOTHING)?;
    Ok(answer["set"].as_object().cloned().unwrap_or_default())
}

fn put(one: &One, service: &Service, id: &str, wanted: &Map<String, Value>) -> Result<()> {
    let answer = service.ask(Method::PUT, &["machines", id, "target"], Some(wanted))?;
    show(one, &answer)
}

impl Template {
    fn write(&self) -> Result<()> {
        let (service, id) = self.one.find()?;
        let disk = |given: &String| {
            let (disk, place) = pair(given)?;
            let kind = if place.contains("://") { "uri" } else { "file" };
            Ok(json!({ "disk": disk, kind: place }))
        };
        let disks = self.disk.iter().map(disk).collect::<Result<Vec<_>>>()?;
        let answer =
            service.ask(Method::POST, &["machines", &id, "template"], Some(&json!({ "disks": disks })))?;
        for (name, text) in [
            ("azure.json", serde_json::to_string_pretty(&answer["template"])?),
            ("azure.parameters.json", serde_json::to_string_pretty(&answer["parameters"])?),
            ("azure.sh", text(&answer["commands"])),
        ] {
            let path = self.output.join(name);
            let mut file =
                std::fs::File::create_new(&path).with_context(|| format!("make {}", path.display()))?;
            file.write_all(text.as_bytes()).with_context(|| format!("write {}", path.display()))?;
        }
        let words = format!("written to {}; azure.sh runs it", self.output.display());
        self.one.place.say(&answer, &words)
    }
}

impl Set {
    fn wanted(&self, service: &Service, id: &str) -> Result<Map<String, Value>> {
        let mut wanted = match &self.file {
            Some(file) => {
                let text = match file.as_os_str() == "-" {
                    true => std::io::read_to_string(std::io::stdin()),
                    false => std::fs::read_to_string(file),
                };
                let text = text.with_context(|| format!("read {}", file.display()))?;
                serde_json::from_str(&text).with_context(|| format!("understand {}", file.display()))?
            }
            None => said(service, id)?,
        };
        let texts = [
            ("place", &self.place),
            ("name", &self.name),
            ("resource_group", &self.resource_group),
            ("location", &self.location),
            ("network", &self.network),
            ("availability_set", &self.availability_set),
            ("zone", &self.zone),
            ("size", &self.size),
            ("boot", &self.boot),
            ("cache_storage_account", &self.cache_storage_account),
            ("target_storage_account", &self.target_storage_account),
            ("disk_type", &self.disk_type),
        ];
        let texts = texts.into_iter().filter_map(|(name, text)| Some((name, Value::from(text.as_deref()?))));
        let numbers =
            [("processors", self.processors.map(Value::from)), ("memory", self.memory.map(Value::from))];
        let numbers = numbers.into_iter().filter_map(|(name, number)| Some((name, number?)));
        wanted.extend(texts.chain(numbers).map(|(name, value)| (name.to_owned(), value)));
        if !self.tag.is_empty() {
            let tags = self.tag.iter().map(|tag| pair(tag)).collect::<Result<Vec<_>>>()?;
            let tags: Map<String, Value> =
                tags.into_iter().map(|(name, value)| (name.to_owned(), value.into())).collect();
            wanted.insert("tags".to_owned(), tags.into());
        }
        for (field, given) in [("network", &self.interface_network), ("address", &self.interface_address)] {
            for given in given {
                let (mac, value) = pair(given)?;
                of_interface(&mut wanted, mac)[field] = value.into();
            }
        }
        Ok(wanted)
    }
}

fn pair(text: &str) -> Result<(&str, &str)> {
    text.split_once('=').with_context(|| format!("'{text}' lacks a '='"))
}

/// What was said of one interface, to be changed.
fn of_interface<'a>(wanted: &'a mut Map<String, Value>, mac: &str) -> &'a mut Value {
    let mac = mac.to_lowercase();
    let interfaces = wanted.entry("interfaces").or_insert_with(|| json!([]));
    let at = list_at(interfaces, &mac);
    &mut interfaces[at]
}

fn list_at(interfaces: &mut Value, mac: &str) -> usize {
    if !interfaces.is_array() {
        *interfaces = json!([]);
    }
    let Some(all) = interfaces.as_array_mut() else { return 0 };
    match all.iter().position(|one| text(&one["mac"]).eq_ignore_ascii_case(mac)) {
        Some(at) => at,
        None => {
            all.push(json!({ "mac": mac }));
            all.len() - 1
        }
    }
}

fn show(one: &One, answer: &Value) -> Result<()> {
    if one.place.json {
        return print_json(answer);
    }
    let effective = &answer["effective"];
    let field = |name: &&str| {
        let setting = &effective[*name];
        match setting.get("from") {
            Some(from) => [(*name).to_owned(), text(&setting["value"]), text(from)],
            None => [(*name).to_owned(), text(setting), "inventory".to_owned()],
        }
    };
    let mut rows: Vec<[String; 3]> = FIELDS.iter().map(field).collect();
    for interface in list(effective, "interfaces") {
        let name = format!("{} {}", text(&interface["name"]), text(&interface["source_mac"]));
        for field in ["network", "address"] {
            let setting = &interface[field];
            rows.push([format!("{name} {field}"), text(&setting["value"]), text(&setting["from"])]);
        }
    }
    for disk in list(effective, "disks") {
        let number = match disk["system"] == true {
            true => "system".to_owned(),
            false => text(&disk["lun"]["value"]),
        };
        rows.push([format!("{} number", text(&disk["name"])), number, text(&disk["lun"]["from"])]);
    }
    print(&render([("FIELD", Align::Left), ("VALUE", Align::Left), ("FROM", Align::Left)], &rows))?;
    for problem in list(answer, "problems") {
        let weight = if problem["blocks"] == true { "PROBLEM" } else { "note" };
        print(&format!("{weight}: {}: {}\n", text(&problem["field"]), text(&problem["message"])))?;
    }
    Ok(())
}
