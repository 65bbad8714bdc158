//! Where machines are to run when they are failed over, as far as somebody said; and which networks stand for which.
//!
//! Deliberately not here: what follows for the rest (`crate::target`), and failovers.

use mobility_format::{MachineId, control::Inventory};
use sqlx::query;

use super::{Columns, Database, DatabaseError, Result, json};
use crate::target::{NetworkMapping, TargetSettings};

/// Network mappings that there may be.
const MOST_MAPPINGS: i64 = 1000;
/// The settings that count changes of network mappings, and say how many of them are stored.
const CHANGES: &str = "networks";
const STORED: &str = "networks-stored";

impl Database {
    /// What was said of where a machine is to run; nothing where there is no such machine.
    pub(crate) async fn target(&self, machine: MachineId) -> Result<Option<TargetSettings>> {
        let row =
            self.one(query("SELECT target FROM machines WHERE id = $1").bind(machine.to_string())).await?;
        row.map(|row| Ok(row.json_if("target")?.unwrap_or_default())).transpose()
    }

    /// Replaces it. Whether there is such a machine.
    pub(crate) async fn set_target(&self, machine: MachineId, target: &TargetSettings) -> Result<bool> {
        let said =
            Some(target).filter(|target| **target != TargetSettings::default()).map(json).transpose()?;
        let statement = query("UPDATE machines SET target = $1 WHERE id = $2");
        self.change_facts(machine, statement.bind(said).bind(machine.to_string())).await
    }

    /// Notes what a machine is, and keeps what it told before of which it says nothing now, unless it is another one.
    pub(super) async fn note_inventory(&self, machine: MachineId, inventory: &Inventory) -> Result<()> {
        let row =
            self.one(query("SELECT inventory FROM machines WHERE id = $1").bind(machine.to_string())).await?;
        let before: Inventory = row.map_or(Ok(None), |row| row.json_if("inventory"))?.unwrap_or_default();
        let now = completed(inventory, &before);
        let statement = query("UPDATE machines SET name = $1, inventory = $2 WHERE id = $3");
        let statement = statement.bind(now.name.clone()).bind(json(&now)?).bind(machine.to_string());
        match essential(&now) == essential(&before) {
            true => self.write(statement).await.map(|_| ()),
            false => self.change_facts(machine, statement).await.map(|_| ()),
        }
    }

    /// All network mappings, by their sources.
    pub(crate) async fn network_mappings(&self) -> Result<Vec<NetworkMapping>> {
        let statement = query("SELECT target FROM network_mappings ORDER BY source LIMIT $1");
        let rows = self.all(statement.bind(MOST_MAPPINGS)).await?;
        let lost = || DatabaseError::Content("a network mapping is empty".to_owned());
        rows.iter().map(|row| row.json_if("target")?.ok_or_else(lost)).collect()
    }

    /// Keeps a mapping, in place of another one of its source. Nothing where there are too many.
    pub(crate) async fn map_network(&self, mapping: &NetworkMapping) -> Result<bool> {
        let statement = query(
            "INSERT INTO network_mappings (source, target)
             SELECT $1, $2 WHERE (SELECT COUNT(*) FROM network_mappings WHERE source <> $3) < $4
             ON CONFLICT (source) DO UPDATE SET target = excluded.target",
        );
        let source = mapping.source.to_string();
        let statement = statement.bind(source.clone()).bind(json(mapping)?).bind(source).bind(MOST_MAPPINGS);
        self.change_counted(CHANGES, statement).await
    }

    /// Forgets the mapping of a source. Whether there was one.
    pub(crate) async fn unmap_network(&self, source: &str) -> Result<bool> {
        let statement = query("DELETE FROM network_mappings WHERE source = $1").bind(source.to_owned());
        self.change_counted(CHANGES, statement).await
    }

    /// How often network mappings were changed, where not all of it is stored yet.
    pub(crate) async fn networks_to_store(&self) -> Result<Option<u64>> {
        let (changes, stored) = (self.counted(CHANGES).await?, self.counted(STORED).await?);
        Ok(Some(changes).filter(|changes| *changes > stored))
    }

    /// Notes that network mappings were stored as they were after so many changes.
    pub(crate) async fn note_networks_stored(&self, changes: u64) -> Result<()> {
        let statement = query(
            "INSERT INTO settings (name, value) VALUES ($1, $2) ON CONFLICT (name) DO UPDATE SET value = excluded.value
             WHERE CAST(settings.value AS BIGINT) < CAST(excluded.value AS BIGINT)",
        );
        self.write(statement.bind(STORED).bind(changes.to_string())).await.map(|_| ())
    }

    /// Puts network mappings back as they were stored under a number.
    pub(crate) async fn restore_networks(&self, mappings: &[NetworkMapping], number: u64) -> Result<()> {
        for mapping in mappings {
            let statement =
                query("INSERT INTO network_mappings (source, target) VALUES ($1, $2) ON CONFLICT DO NOTHING");
            self.write(statement.bind(mapping.source.to_string()).bind(json(mapping)?)).await?;
        }
        for counter in [CHANGES, STORED] {
            self.restore_count(counter, number).await?;
        }
        Ok(())
    }
}

/// What a machine tells now, with what it told before where it says nothing now: its cloud may not have answered in time, or its agent
/// may be an older one. Another machine's is its own.
fn completed(now: &Inventory, before: &Inventory) -> Inventory {
    let mut completed = now.clone();
    let Some(known) = before.shape.as_ref().filter(|_| now.hardware == before.hardware) else {
        return completed;
    };
    match &mut completed.shape {
        None => completed.shape = Some(known.clone()),
        Some(shape) if shape.cloud.is_none() => shape.cloud.clone_from(&known.cloud),
        Some(_) => {}
    }
    completed
}

/// What of an inventory is stored with the machine's points, so that it can be made again when nothing else is left: without what only
/// people look at, which is much longer.
pub(crate) fn essential(inventory: &Inventory) -> Inventory {
    let mut essential = inventory.clone();
    for disk in &mut essential.disks {
        disk.labels.clear();
        disk.mounts.retain(|mount| crate::target::tells_system(mount));
    }
    essential.agent.clear();
    essential.kernel.clear();
    essential
}

#[cfg(test)]
mod tests {
    use mobility_format::control::Shape;

    use super::*;

    fn told(hardware: &str, cloud: Option<&str>) -> Inventory {
        let cloud = cloud.map(|size| {
            serde_json::from_value(serde_json::json!({ "kind": "azure", "size": size })).unwrap()
        });
        let shape = Some(Shape { processors: Some(2), cloud, ..Shape::default() });
        Inventory { hardware: hardware.to_owned(), shape, ..Inventory::default() }
    }

    #[test]
    fn what_a_cloud_does_not_say_now_is_remembered_of_the_same_hardware() {
        let before = told("a", Some("large"));
        assert_eq!(completed(&told("a", None), &before), before);
        assert_eq!(completed(&told("a", Some("small")), &before), told("a", Some("small")));
        assert_eq!(completed(&told("b", None), &before), told("b", None));
        let silent = Inventory { shape: None, ..before.clone() };
        assert_eq!(completed(&silent, &before), before, "an older agent");
    }
}
