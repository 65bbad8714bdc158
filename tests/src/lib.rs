//! What the tests share.

pub mod agent_process;
pub mod appliance;
pub mod azure_models;
pub mod binary;
pub mod boot_sector;
pub mod dice;
pub mod fleet;
pub mod load;
pub mod load_ordered;
pub mod load_postgresql;
pub mod load_sqlite;
pub mod object_stores;
pub mod pulse;
pub mod python;
pub mod requirement;
pub mod scratch;
pub mod service_manager;
pub mod service_process;
pub mod vault_maker;
pub mod watched_store;
