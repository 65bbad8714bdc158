//! Azure: a deployment template that makes a machine of disks that were brought there, its parameters, and the commands to run it.
//!
//! All of it is computed from a machine's settings and its disks; nothing here talks to Azure, and nothing of it is secret: an address
//! with a signature in it is refused. Deliberately not here: bringing disks there.

mod commands;
mod isolation;
mod names;
mod resources;

use mobility_format::{ByteCount, DiskId};
use serde_json::{Map, Value, json};

pub(crate) use commands::quoted as shell_word;
pub use commands::{commands, creating};
pub use isolation::isolated;
pub use names::machine_name;

use self::resources::Made;
use crate::target::Settings;

/// What a template for a resource group follows.
const TEMPLATE: &str = "https://schema.management.azure.com/schemas/2019-04-01/deploymentTemplate.json#";
/// What a file of parameters follows.
const PARAMETERS: &str = "https://schema.management.azure.com/schemas/2019-04-01/deploymentParameters.json#";
const MIB: u64 = 1 << 20;
/// The footer of a fixed VHD, in bytes.
const FOOTER: u64 = 512;
/// The least and the most that Azure takes as a disk, without the footer.
const SIZES: std::ops::RangeInclusive<u64> = 20 * MIB..=32_767 << 30;

/// A disk of a recovery point that goes into a template.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TemplateDisk {
    /// Which, as the settings name it.
    pub id: DiskId,
    /// How large it is in the point.
    pub size: ByteCount,
    /// How it gets there.
    pub source: DiskSource,
}

/// How a disk gets to Azure.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DiskSource {
    /// It was uploaded as a fixed VHD, a page blob at this address.
    Import {
        /// The blob's address, without a signature.
        uri: String,
    },
    /// It is uploaded into the managed disk itself, once that is there.
    Upload {
        /// The fixed VHD, as a file beside the template.
        file: String,
    },
}

/// What keeps a template from being made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TemplateError {
    /// Something is not known.
    #[error("the target settings lack {0}: set it")]
    Missing(String),
    /// The settings do not know a disk of the point.
    #[error("the machine told nothing of disk {0}, which the point has")]
    UnknownDisk(DiskId),
    /// No disk of the point is the one that the system starts from.
    #[error("the point lacks the disk that the system starts from, or there are two of them")]
    NoSystemDisk,
    /// The address of a blob would give whoever reads the template a right.
    #[error("the address of a blob has to be one of https, without a signature")]
    Address,
    /// Azure takes no disk of that size.
    #[error("disk {0}: Azure takes disks from 20 MiB to 32,767 GiB")]
    Size(DiskId),
}

/// The template that makes the machine.
///
/// # Errors
/// When the settings lack something, or do not fit the disks.
pub fn template(settings: &Settings, disks: &[TemplateDisk]) -> Result<Value, TemplateError> {
    let made = Made::new(settings, disks)?;
    Ok(json!({
        "$schema": TEMPLATE,
        "contentVersion": "1.0.0.0",
        "parameters": made.parameters(),
        "resources": made.resources(),
        "outputs": made.outputs(),
    }))
}

/// The parameters of a template as a file of their own, with the values that the template has for them anyway, to be changed where they
/// are used. Those that Azure itself works out are left out.
#[must_use]
pub fn parameters(template: &Value) -> Value {
    let defaults = template["parameters"].as_object().into_iter().flatten();
    let is_computed =
        |value: &Value| value.as_str().is_some_and(|text| is_expression(text) && !text.starts_with("[["));
    let given = defaults.filter(|(_, parameter)| !is_computed(&parameter["defaultValue"]));
    let values: Map<String, Value> = given
        .map(|(name, parameter)| (name.clone(), json!({ "value": unescaped(&parameter["defaultValue"]) })))
        .collect();
    json!({ "$schema": PARAMETERS, "contentVersion": "1.0.0.0", "parameters": values })
}

/// The size of a disk as a fixed VHD: whole mebibytes, and the footer.
pub(crate) fn uploaded_size(size: ByteCount) -> Option<u64> {
    let whole = size.0.checked_next_multiple_of(MIB).filter(|whole| SIZES.contains(whole))?;
    Some(whole + FOOTER)
}

fn is_expression(text: &str) -> bool {
    text.starts_with('[') && text.ends_with(']')
}

/// A text that Azure shall take as it is: in brackets it would be computed.
fn literal(text: &str) -> Value {
    match is_expression(text) {
        true => format!("[{text}").into(),
        false => text.into(),
    }
}

fn unescaped(value: &Value) -> Value {
    match value {
        Value::String(text) if is_expression(text) => text[1..].into(),
        Value::Object(map) => map.iter().map(|(name, value)| (name.clone(), unescaped(value))).collect(),
        other => other.clone(),
    }
}
