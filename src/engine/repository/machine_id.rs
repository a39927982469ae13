//! Decides by the machine id whether this machine already ran the init scripts.

use crate::engine::context::Context;
use crate::system::repo_state::ActionState;

/// Whether the init scripts have yet to run: once per clone that the agent made, and again on a machine
/// that was made from this one's disk.
pub fn init_due(context: &Context, memory: &ActionState) -> bool {
    let us = context.node.machine_id.as_str();
    let here_already = |done: &str| done == us || !is_known(done) || !is_known(us);
    memory.init_due && !memory.init_done.as_deref().is_some_and(here_already)
}

/// Whether an id distinguishes one machine from another. Before the first boot it is missing or
/// `uninitialized` (machine-id(5)).
fn is_known(id: &str) -> bool {
    !id.is_empty() && id != "uninitialized"
}

/// Whether the init scripts ran here before this machine had an id, and now it has one.
pub fn id_is_late(context: &Context, memory: &ActionState) -> bool {
    let nameless = memory.init_done.as_deref().is_some_and(|done| !is_known(done));
    nameless && is_known(&context.node.machine_id)
}

/// Whether this machine was made from the disk of one that had run the init scripts.
pub fn made_elsewhere(context: &Context, memory: &ActionState) -> bool {
    init_due(context, memory) && memory.init_done.is_some()
}
