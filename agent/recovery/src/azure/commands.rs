//! The commands that run a template, as a script of the shell for a person with the Azure command line.
//!
//! Deliberately not here: running them.

use super::{TemplateDisk, TemplateError, resources::Made};
use crate::target::Settings;

/// How long one may write into a disk, in seconds.
const GRANTED_S: u32 = 86_400;
/// The longest name of a deployment.
const LONGEST_DEPLOYMENT: usize = 64;

/// The script. The template and its parameters are expected beside it under these names.
///
/// # Errors
/// As for the template, and when no resource group is known.
pub fn commands(
    settings: &Settings,
    disks: &[TemplateDisk],
    template: &str,
    parameters: &str,
) -> Result<String, TemplateError> {
    let made = Made::new(settings, disks)?;
    let group = settings.resource_group.value.as_deref();
    let group = quoted(group.ok_or_else(|| TemplateError::Missing("the resource group".to_owned()))?);
    let name: String = format!("recover-{}", made.name()).chars().take(LONGEST_DEPLOYMENT).collect();
    let (name, location) = (quoted(name.trim_end_matches('-')), quoted(made.location()));
    let (template, parameters) = (quoted(template), quoted(&format!("@{parameters}")));
    let run = |verb: &str, phase: &str| {
        format!(
            "az deployment group {verb} --resource-group {group} --name {name} \\\n    --template-file {template} --parameters {parameters}{phase}\n"
        )
    };
    let mut script = format!(
        "#!/bin/sh\n# Makes machine {} in Azure. Log in first (`az login`), and choose the subscription (`az account set`).\nset -eu\n\naz group show --name {group} --output none 2>/dev/null ||\n    az group create --name {group} --location {location} --output none\n",
        made.name()
    );
    let uploads = made.uploads();
    match uploads.is_empty() {
        true => script.extend([run("validate", ""), run("create", "")]),
        false => {
            script.extend([run("validate", " phase=disks"), run("create", " phase=disks")]);
            uploads.iter().for_each(|(disk, file)| script += &upload(&group, disk, file));
            script += &run("create", " phase=machine");
        }
    }
    Ok(script)
}

/// The command of such a script that makes the machine, in one line.
#[must_use]
pub fn creating(script: &str) -> Option<String> {
    let joined = script.replace(" \\\n    ", " ");
    joined.lines().rfind(|line| line.starts_with("az deployment group create ")).map(str::to_owned)
}

fn upload(group: &str, disk: &str, file: &str) -> String {
    let (disk, file) = (quoted(disk), quoted(file));
    format!(
        "\nto=$(az disk grant-access --resource-group {group} --name {disk} --access-level Write \\\n    --duration-in-seconds {GRANTED_S} --query 'accessSAS || accessSas' --output tsv)\nazcopy copy {file} \"$to\" --blob-type PageBlob\naz disk revoke-access --resource-group {group} --name {disk}\n\n"
    )
}

/// A word that the shell takes as it is.
pub(crate) fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./@".contains(c);
    match !word.is_empty() && word.chars().all(plain) {
        true => word.to_owned(),
        false => format!("'{}'", word.replace('\'', "'\\''")),
    }
}
