//! A deployment template for a machine, of disks that somebody has restored.
//!
//! Deliberately not here: what is in it (`crate::azure`), restoring, and running it.

use std::sync::Arc;

use axum::{Json, extract::State};
use mobility_format::{ByteCount, DiskId, MachineId};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Administrator, targets};
use crate::{
    azure::{self, DiskSource, TemplateDisk, TemplateError},
    service::{
        api::{InPath, Read},
        refusal::{Answer, Refusal},
        state::Service,
    },
    target::Direction,
};

/// What template and parameters are called beside the script.
const FILES: (&str, &str) = ("azure.json", "azure.parameters.json");

/// The disks that were restored.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Wanted {
    disks: Vec<Restored>,
}

/// A disk that was restored: a page blob, or a file.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Restored {
    disk: DiskId,
    /// As the machine told it, unless it is said.
    size: Option<ByteCount>,
    /// The page blob's address.
    uri: Option<String>,
    /// The file's name.
    file: Option<String>,
}

/// All that it takes.
#[derive(Serialize)]
pub(super) struct Made {
    template: Value,
    parameters: Value,
    commands: String,
}

pub(super) async fn make(
    State(service): State<Arc<Service>>,
    _: Administrator,
    InPath(id): InPath<MachineId>,
    Read(wanted): Read<Wanted>,
) -> Answer<Json<Made>> {
    let settings = targets::of_machine(&service, id, Direction::Forth).await?.effective;
    let disk = |restored: Restored| {
        let source = match (restored.uri, restored.file) {
            (Some(uri), None) => DiskSource::Import { uri },
            (None, Some(file)) => DiskSource::Upload { file },
            _ => return Err(Refusal::bad("a disk was restored to an address (`uri`) or to a file (`file`)")),
        };
        let told = settings.disks.iter().find(|known| known.id == restored.disk).map(|known| known.size);
        let size = restored.size.or(told).unwrap_or(ByteCount(0));
        Ok(TemplateDisk { id: restored.disk, size, source })
    };
    let disks = wanted.disks.into_iter().map(disk).collect::<Answer<Vec<_>>>()?;
    let refused = |err: TemplateError| Refusal::bad(err.to_string());
    let template = azure::template(&settings, &disks).map_err(refused)?;
    Ok(Json(Made {
        parameters: azure::parameters(&template),
        commands: azure::commands(&settings, &disks, FILES.0, FILES.1).map_err(refused)?,
        template,
    }))
}
