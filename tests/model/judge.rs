//! What must hold: of every point, and at every moment.
//!
//! A point is what a power cut at its `t0` could have left: of each block the last write that had completed by then, or one that was
//! in flight, and never half of one. That also keeps the order between disks: a write that was issued after another one
//! had completed is there only if it was issued by `t0`, and then the other one must be there. Deliberately not here: how a point comes
//! about.

use crate::{
    agent::Shell,
    scenario::{BLOCKS, DISKS, Loss, Scenario},
    state::{Halves, State, UNREAD, Writes},
};

/// What the point holds of a block: what the cut has read, or else what was sent before.
fn held(state: &State, disk: usize, block: usize) -> Halves {
    let read = state.disks[disk].cutting.content[block];
    if read[0] == UNREAD { state.disks[disk].copy[block] } else { read }
}

/// Whether a cut that is called consistent is.
pub(crate) fn point(shell: &mut Shell<'_>, state: &State) -> Result<(), String> {
    for (disk, block) in (0..DISKS).flat_map(|disk| (0..BLOCKS).map(move |block| (disk, block))) {
        let [first, second] = held(state, disk, block);
        if first != second {
            return Err(format!(
                "block {block} of disk {disk} is torn: half of it is {first}, half {second}"
            ));
        }
        let legal = legal(state, disk, block);
        if !legal.contains(&first) {
            return Err(format!("block {block} of disk {disk} holds {first}; it may hold one of {legal:?}"));
        }
        mark(shell, state, first);
    }
    Ok(())
}

/// What a power cut at `t0` could have left in a block: a write, counted from 1, or 0.
fn legal(state: &State, disk: usize, block: usize) -> Vec<u8> {
    let order = state.disks[disk].order[block];
    let reached = (0..5).rev().map(|at| (order >> (3 * at) & 7) as u8).filter(|write| *write > 0);
    let mut legal = vec![0];
    for write in reached {
        let is_in = |writes: Writes| writes >> (write - 1) & 1 == 1;
        if is_in(state.agent.completed) {
            legal.clear();
        }
        if is_in(state.agent.issued) {
            legal.push(write);
        }
    }
    legal
}

/// Notes what a point shows to have been reached.
fn mark(shell: &mut Shell<'_>, state: &State, content: u8) {
    let Some(write) = content.checked_sub(1).map(|w| 1 << w) else { return };
    if state.agent.completed & write == 0 {
        shell.reached.insert("a write in flight is in a point");
    } else if state.lost & write != 0 {
        shell.reached.insert("a lost completion was made good");
    }
}

/// Whether the kernel's memory knows of every block that is not durable as it is now: whoever comes after a kill has that alone.
pub(crate) fn remembered(scenario: &Scenario, state: &State) -> Result<(), String> {
    // Then all blocks are in doubt; the counter tells.
    if scenario.writes.iter().any(|write| write.loss == Loss::CountedIssue) {
        return Ok(());
    }
    for (d, disk) in state.disks.iter().enumerate() {
        let marks = disk.dirty | disk.touched | disk.pending;
        let forgotten =
            |block: &usize| marks >> block & 1 == 0 && disk.medium[*block] != disk.durable[*block];
        if let Some(block) = (0..BLOCKS).find(forgotten) {
            return Err(format!("block {block} of disk {d} is not durable, and has no mark"));
        }
    }
    Ok(())
}
