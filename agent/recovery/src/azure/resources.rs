//! What a template holds: availability set, disks, interfaces and the machine.
//!
//! Disks that are uploaded into cannot be attached before that is done, so a template with such disks is run twice: its parameter `phase`
//! says which half. Deliberately not here: what goes around it (the parent module).

use std::collections::BTreeMap;

use mobility_format::control::BootMode;
use serde_json::{Map, Value, json};

use super::{
    DiskSource, TemplateDisk, TemplateError, literal,
    names::{machine_name, quoted, set_name},
    uploaded_size,
};
use crate::target::{DiskSettings, InterfaceSettings, NetworkName, Settings};

const COMPUTE: &str = "2022-11-01";
const DISKS: &str = "2022-07-02";
pub(super) const NETWORK: &str = "2022-11-01";
/// The kind of disks, unless it is known.
const DISK_TYPE: &str = "StandardSSD_LRS";
/// Fault and update domains of an availability set; every region has as many.
const DOMAINS: (u32, u32) = (2, 5);

/// A disk, with what is known of it.
struct Disk<'a> {
    /// What it is called at the target.
    name: String,
    settings: &'a DiskSettings,
    given: &'a TemplateDisk,
}

/// All that a template is made of.
pub(super) struct Made<'a> {
    settings: &'a Settings,
    /// What the machine is called at the target.
    name: String,
    location: &'a str,
    size: &'a str,
    /// The system's disk first, then data disks by their numbers.
    disks: Vec<Disk<'a>>,
    interfaces: Vec<(&'a InterfaceSettings, &'a NetworkName)>,
    uploads: bool,
}

impl<'a> Made<'a> {
    pub(super) fn new(settings: &'a Settings, disks: &'a [TemplateDisk]) -> Result<Made<'a>, TemplateError> {
        let lacks = |what: &str| TemplateError::Missing(what.to_owned());
        let name = machine_name(settings.name.value.as_deref().unwrap_or_default());
        let named = disks.iter().map(|given| Disk::of(given, settings, &name)).collect::<Result<Vec<_>, _>>();
        let mut disks = named?;
        disks.sort_by_key(|disk| (!disk.settings.system, disk.settings.lun.value));
        if disks.iter().filter(|disk| disk.settings.system).count() != 1 {
            return Err(TemplateError::NoSystemDisk);
        }
        let connected = |interface: &'a InterfaceSettings| match &interface.network.value {
            Some(network) if network.subnet().is_some() => Ok((interface, network)),
            _ => Err(lacks(&format!("the network and subnet of interface {}", interface.name))),
        };
        let interfaces = settings.interfaces.iter().map(connected).collect::<Result<Vec<_>, _>>()?;
        if interfaces.is_empty() {
            return Err(lacks("a network interface"));
        }
        let uploads = disks.iter().any(|disk| matches!(disk.given.source, DiskSource::Upload { .. }));
        Ok(Made {
            name,
            location: settings.location.value.as_deref().ok_or_else(|| lacks("the location"))?,
            size: settings.size.value.as_deref().ok_or_else(|| lacks("the size"))?,
            disks,
            interfaces,
            uploads,
            settings,
        })
    }

    pub(super) fn parameters(&self) -> Value {
        let text = |value: Value, what: &str| json!({ "type": "string", "defaultValue": value, "metadata": { "description": what } });
        let mut parameters = Map::new();
        let mut add = |name: &str, parameter: Value| drop(parameters.insert(name.to_owned(), parameter));
        add("location", text(literal(self.location), "The region."));
        add("machineName", text(literal(&self.name), "What the machine is called."));
        add("machineSize", text(literal(self.size), "How large the machine is."));
        let tags: BTreeMap<&String, Value> =
            self.settings.tags.value.iter().flatten().map(|(name, value)| (name, literal(value))).collect();
        let description = json!({ "description": "What is attached to everything that is made." });
        add("tags", json!({ "type": "object", "defaultValue": tags, "metadata": description }));
        if self.interfaces.iter().any(|(_, network)| network.full_id().is_none()) {
            let what = "The resource group of the virtual networks.";
            add("networkResourceGroup", text("[resourceGroup().name]".into(), what));
        }
        if let Some(account) = self.account() {
            add("storageAccount", text(literal(&account), "The storage account that has the disks."));
            let what = "The resource group of the storage account.";
            add("storageResourceGroup", text("[resourceGroup().name]".into(), what));
        }
        if self.settings.availability_set.value.is_some() {
            let what =
                json!({ "description": "Whether the availability set is made; false where it is there." });
            add("makeAvailabilitySet", json!({ "type": "bool", "defaultValue": true, "metadata": what }));
        }
        if self.uploads {
            let what = json!({ "description": "Disks are made first, and the machine when they are full." });
            let phase = json!({ "type": "string", "defaultValue": "disks", "allowedValues": ["disks", "machine"], "metadata": what });
            add("phase", phase);
        }
        parameters.into()
    }

    /// The storage account that disks are imported from.
    fn account(&self) -> Option<String> {
        let of_address = self.disks.iter().find_map(|disk| match &disk.given.source {
            DiskSource::Import { uri } => uri.strip_prefix("https://")?.split(['.', '/', ':']).next(),
            DiskSource::Upload { .. } => None,
        })?;
        Some(self.settings.target_storage_account.value.clone().unwrap_or_else(|| of_address.to_owned()))
    }

    pub(super) fn resources(&self) -> Value {
        let mut all: Vec<Value> = self.availability_set().into_iter().collect();
        all.extend(self.disks.iter().map(|disk| self.disk(disk)));
        all.extend(
            self.interfaces
                .iter()
                .enumerate()
                .map(|(at, (interface, network))| self.interface(at, interface, network)),
        );
        all.push(self.machine());
        for resource in &mut all {
            let is_disk = resource["type"] == "Microsoft.Compute/disks";
            let wanted = if is_disk { "disks" } else { "machine" };
            if self.uploads && resource.get("condition").is_none() {
                resource["condition"] = format!("[equals(parameters('phase'), '{wanted}')]").into();
            }
        }
        all.into()
    }

    /// What every resource begins with.
    fn resource(kind: &str, version: &str, name: impl Into<Value>) -> Value {
        json!({
            "type": kind,
            "apiVersion": version,
            "name": name.into(),
            "location": "[parameters('location')]",
            "tags": "[parameters('tags')]",
        })
    }

    fn set(&self) -> Option<String> {
        self.settings.availability_set.value.as_deref().map(set_name)
    }

    fn availability_set(&self) -> Option<Value> {
        let mut set = Made::resource("Microsoft.Compute/availabilitySets", COMPUTE, literal(&self.set()?));
        let phase = if self.uploads { ", equals(parameters('phase'), 'machine')" } else { "" };
        set["condition"] = match phase {
            "" => "[parameters('makeAvailabilitySet')]".into(),
            phase => format!("[and(parameters('makeAvailabilitySet'){phase})]").into(),
        };
        // With managed disks.
        set["sku"] = json!({ "name": "Aligned" });
        set["properties"] =
            json!({ "platformFaultDomainCount": DOMAINS.0, "platformUpdateDomainCount": DOMAINS.1 });
        Some(set)
    }

    fn disk(&self, disk: &Disk<'_>) -> Value {
        let mut made = Made::resource("Microsoft.Compute/disks", DISKS, disk.name.as_str());
        let kind = disk.settings.disk_type.value.as_deref().unwrap_or(DISK_TYPE);
        made["sku"] = json!({ "name": literal(kind) });
        if let Some(zone) = &self.settings.zone.value {
            made["zones"] = json!([literal(zone)]);
        }
        let creation = match &disk.given.source {
            DiskSource::Import { uri } => json!({
                "createOption": "Import",
                "sourceUri": literal(uri),
                "storageAccountId": "[resourceId(parameters('storageResourceGroup'), 'Microsoft.Storage/storageAccounts', parameters('storageAccount'))]",
            }),
            DiskSource::Upload { .. } => {
                json!({ "createOption": "Upload", "uploadSizeBytes": uploaded_size(disk.given.size) })
            }
        };
        made["properties"] = json!({ "creationData": creation });
        if disk.settings.system {
            made["properties"]["osType"] = "Linux".into();
            let generation = if self.settings.boot.value == Some(BootMode::Uefi) { "V2" } else { "V1" };
            made["properties"]["hyperVGeneration"] = generation.into();
            if self.settings.architecture == "aarch64" {
                made["properties"]["supportedCapabilities"] = json!({ "architecture": "Arm64" });
            }
        }
        made
    }

    fn interface_name(at: usize) -> String {
        format!("[concat(parameters('machineName'), '-nic-{at}')]")
    }

    fn interface(&self, at: usize, interface: &InterfaceSettings, network: &NetworkName) -> Value {
        let subnet = match network.full_id() {
            Some(id) => literal(id),
            None => {
                let (network, subnet) =
                    (quoted(network.network()), quoted(network.subnet().unwrap_or_default()));
                format!("[resourceId(parameters('networkResourceGroup'), 'Microsoft.Network/virtualNetworks/subnets', {network}, {subnet})]").into()
            }
        };
        let configuration = |number: usize, address: Option<&std::net::IpAddr>| {
            let mut of_address = json!({
                "primary": number == 0,
                "privateIPAddressVersion": if address.is_some_and(std::net::IpAddr::is_ipv6) { "IPv6" } else { "IPv4" },
                "privateIPAllocationMethod": if address.is_some() { "Static" } else { "Dynamic" },
                "subnet": { "id": subnet },
            });
            if let Some(address) = address {
                of_address["privateIPAddress"] = address.to_string().into();
            }
            json!({ "name": format!("address-{number}"), "properties": of_address })
        };
        // The first one is of IPv4, always.
        let (four, six): (Vec<_>, Vec<_>) = interface.addresses.iter().partition(|address| address.is_ipv4());
        let four = if four.is_empty() { vec![None] } else { four.into_iter().map(Some).collect() };
        let all = four.into_iter().chain(six.into_iter().map(Some)).enumerate();
        let mut made =
            Made::resource("Microsoft.Network/networkInterfaces", NETWORK, Made::interface_name(at));
        let configurations: Vec<Value> =
            all.map(|(number, address)| configuration(number, address)).collect();
        made["properties"] = json!({ "ipConfigurations": configurations });
        made
    }

    fn interface_id(at: usize) -> String {
        format!(
            "[resourceId('Microsoft.Network/networkInterfaces', concat(parameters('machineName'), '-nic-{at}'))]"
        )
    }

    fn machine(&self) -> Value {
        let id = |disk: &Disk<'_>| format!("[resourceId('Microsoft.Compute/disks', {})]", quoted(&disk.name));
        let set = self
            .set()
            .map(|set| format!("[resourceId('Microsoft.Compute/availabilitySets', {})]", quoted(&set)));
        let mut needs: Vec<Value> = self.disks.iter().map(|disk| id(disk).into()).collect();
        needs.extend((0..self.interfaces.len()).map(|at| Value::from(Made::interface_id(at))));
        needs.extend(set.clone().map(Value::from));
        let attached =
            |disk: &Disk<'_>| json!({ "createOption": "Attach", "managedDisk": { "id": id(disk) } });
        let mut storage = json!({ "dataDisks": [] });
        let mut data = Vec::new();
        for disk in &self.disks {
            let mut shown = attached(disk);
            match disk.settings.lun.value.filter(|_| !disk.settings.system) {
                None => {
                    shown["osType"] = "Linux".into();
                    shown["caching"] = "ReadWrite".into();
                    storage["osDisk"] = shown;
                }
                Some(lun) => {
                    shown["lun"] = lun.into();
                    shown["caching"] = "None".into();
                    data.push(shown);
                }
            }
        }
        storage["dataDisks"] = data.into();
        let connected = (0..self.interfaces.len())
            .map(|at| json!({ "id": Made::interface_id(at), "properties": { "primary": at == 0 } }));
        let mut made =
            Made::resource("Microsoft.Compute/virtualMachines", COMPUTE, "[parameters('machineName')]");
        made["dependsOn"] = needs.into();
        // No profile of an operating system: the disk has one that was set up long ago.
        made["properties"] = json!({
            "hardwareProfile": { "vmSize": "[parameters('machineSize')]" },
            "storageProfile": storage,
            "networkProfile": { "networkInterfaces": connected.collect::<Vec<_>>() },
            "diagnosticsProfile": { "bootDiagnostics": { "enabled": true } },
        });
        match (&self.settings.zone.value, set) {
            (Some(zone), _) => made["zones"] = json!([literal(zone)]),
            (None, Some(set)) => made["properties"]["availabilitySet"] = json!({ "id": set }),
            (None, None) => {}
        }
        made
    }

    pub(super) fn outputs(&self) -> Value {
        let machine = "resourceId('Microsoft.Compute/virtualMachines', parameters('machineName'))";
        let mut outputs = Map::new();
        let mut add = |name: &str, value: String| {
            let mut output = json!({ "type": "string", "value": value });
            if self.uploads {
                output["condition"] = "[equals(parameters('phase'), 'machine')]".into();
            }
            outputs.insert(name.to_owned(), output);
        };
        add("machine", format!("[{machine}]"));
        for at in 0..self.interfaces.len() {
            let interface = Made::interface_id(at);
            let interface = interface.trim_matches(['[', ']']);
            let address = "ipConfigurations[0].properties.privateIPAddress";
            add(&format!("address{at}"), format!("[reference({interface}, '{NETWORK}').{address}]"));
        }
        outputs.into()
    }
}

impl<'a> Disk<'a> {
    fn of(given: &'a TemplateDisk, settings: &'a Settings, machine: &str) -> Result<Disk<'a>, TemplateError> {
        let known = settings.disks.iter().find(|known| known.id == given.id);
        let known = known.ok_or(TemplateError::UnknownDisk(given.id))?;
        if let DiskSource::Import { uri } = &given.source
            && (!uri.starts_with("https://") || uri.contains(['?', '#', '@', ' ']))
        {
            return Err(TemplateError::Address);
        }
        if uploaded_size(given.size).is_none() {
            return Err(TemplateError::Size(given.id));
        }
        let name = match (known.system, known.lun.value) {
            (true, _) => format!("{machine}-os"),
            (false, Some(lun)) => format!("{machine}-data-{lun}"),
            (false, None) => return Err(TemplateError::Missing(format!("a number for disk {}", known.name))),
        };
        Ok(Disk { name, settings: known, given })
    }

    /// What it is called at the target, and the file that goes into it.
    fn upload(&self) -> Option<(&str, &'a str)> {
        match &self.given.source {
            DiskSource::Upload { file } => Some((&self.name, file)),
            DiskSource::Import { .. } => None,
        }
    }
}

impl Made<'_> {
    /// The disks that are uploaded into, each with the file that goes there.
    pub(super) fn uploads(&self) -> Vec<(String, String)> {
        let uploads = self.disks.iter().filter_map(Disk::upload);
        uploads.map(|(name, file)| (name.to_owned(), file.to_owned())).collect()
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn location(&self) -> &str {
        self.location
    }
}
