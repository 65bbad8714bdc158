//! What a machine is told when an epoch of it cannot be taken in: which blocks to compare and send again.
//!
//! Deliberately not here: why an epoch is refused.

use jiff::Timestamp;
use mobility_format::{
    Epoch, Generation, MachineId, PublicKey,
    control::{DoubtedDisk, Order},
};

use crate::{
    Doubted, Intake,
    service::{claims::Lease, database::EventKind, heads, refusal::Answer, state::Service},
    storage::Stores,
};

/// Commits after a refused one that are looked at.
const MOST_EPOCHS: u64 = 20_000;
/// Ranges that one command may hold; where there are more, everything is compared.
const MOST_RANGES: usize = 65_536;
/// The longest reason, in characters.
const MAX_REASON: usize = 1024;

/// Leaves the command to resync, once for each generation.
pub(super) async fn order_resync(
    service: &Service,
    (machine, key): (MachineId, PublicKey),
    generation: Generation,
    epoch: Epoch,
    reason: String,
    lease: &Lease,
) -> Answer<()> {
    let (through, disks) = service
        .blocking_claimed(lease, move |stores| doubted(stores, (machine, key), generation, epoch))
        .await?;
    let reason: String = format!("epoch {epoch} was refused: {reason}").chars().take(MAX_REASON).collect();
    let order = Order::Resync { generation, reason: reason.clone(), through, disks };
    if service.database.order_resync_once(machine, generation.0, &order, Timestamp::now()).await? {
        service.bell.ring(machine);
        service.event(EventKind::EpochRefused, Some(machine), reason).await;
    }
    Ok(())
}

/// The newest epoch that was committed in the generation, and what the refused one and those after it cover. No disks, which
/// means all of them, where that cannot be told.
fn doubted(
    stores: &Stores,
    (machine, key): (MachineId, PublicKey),
    generation: Generation,
    refused: Epoch,
) -> Answer<(Epoch, Vec<DoubtedDisk>)> {
    // Nobody knows what one that is lost covered.
    if heads::in_cache(stores, machine, generation, refused)?.is_none() {
        return Ok((refused, Vec::new()));
    }
    // Before the blocks are gathered, so that what is committed meanwhile is not taken for covered.
    let mut through = refused;
    for number in refused.0..refused.0.saturating_add(MOST_EPOCHS) {
        if heads::in_cache(stores, machine, generation, Epoch(number))?.is_none() {
            break;
        }
        through = Epoch(number);
    }
    let blocks = match Intake::open(stores, machine, key)?.doubted(generation, refused)? {
        Doubted::Blocks(blocks) if blocks.values().map(Vec::len).sum::<usize>() <= MOST_RANGES => blocks,
        _ => return Ok((through, Vec::new())),
    };
    let disks = blocks.into_iter().map(|(id, ranges)| DoubtedDisk {
        id,
        ranges: ranges.iter().map(|range| (range.start.0, range.end().0)).collect(),
    });
    Ok((through, disks.collect()))
}
