//! What takes a machine at the target for a new one: cloud-init, which would give it a new name, new host keys and a new network.
//!
//! Deliberately not here: the machine's own name, which it keeps.

/// Where it is that a machine has cloud-init.
pub(super) const CLOUD_INIT: &str = "/etc/cloud/cloud.cfg";
/// What is written for it.
pub(super) const KEEPS: &str = "/etc/cloud/cloud.cfg.d/99-mobility-failover.cfg";

/// What it is told: to go on with the instance that it knows, whatever the platform says.
pub(super) const SETTINGS: &str = "\
# Written by the recovery service before the first boot after a failover: the machine is the one that it was, and no new instance.
# Remove it when the machine is back where cloud-init shall look after it.
manual_cache_clean: true
preserve_hostname: true
ssh_deletekeys: false
network:
  config: disabled
";
