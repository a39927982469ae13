//! What is known of the publications of this machine's status. Publishes nothing.

use chrono::{DateTime, Utc};

use crate::domain::fleet::reaction::ReactionRecord;
use crate::domain::report::presence::{
    InvalidPresenceName, PresenceId, PresenceRecord, PresenceRef, world_name,
};
use crate::domain::repository::status::PresenceReport;
use crate::engine::context::Context;
use crate::engine::error::reason;
use crate::system::agent_state::{AgentState, PRESENCE, REACTIONS};

/// The ref of this world.
///
/// # Errors
/// When a ref cannot have the name of the machine or the user.
pub fn own_ref(context: &Context) -> Result<PresenceRef, InvalidPresenceName> {
    let (settings, node) = (&context.settings, &context.node);
    let host = settings.node_name.as_ref().unwrap_or(&node.host);
    let root = &settings.world.root;
    let world = settings.world.own.then(|| {
        let name = root.file_name().unwrap_or_default().to_string_lossy();
        world_name(&name, root.as_os_str().as_encoded_bytes())
    });
    match (node.user.uid, world) {
        (0, None) => PresenceRef::of_machine(host),
        (_, world) => PresenceRef::of_user(host, &node.user.name, world),
    }
}

/// The id of this world.
pub fn own_id(context: &Context) -> PresenceId {
    let node = &context.node;
    // Where there is no machine-id, only the name tells machines apart.
    let machine = if node.machine_id.is_empty() { &node.host } else { &node.machine_id };
    let root = context.settings.world.root.as_os_str();
    PresenceId::of(machine, node.user.uid, root.as_encoded_bytes())
}

/// The memory of the publications at `name` of `remote`, where there is one.
pub fn record(context: &Context, remote: &str, name: &str) -> Option<PresenceRecord> {
    let machine = AgentState::at(&context.settings.world.state);
    machine.read(PRESENCE).filter(|record: &PresenceRecord| record.is_about(remote, name))
}

/// What is known of the publications; `None`: there is no `[presence]`.
pub fn report(context: &Context, now: DateTime<Utc>) -> Option<PresenceReport> {
    let presence = context.settings.presence.as_ref()?;
    let nothing = |name: String, failed: Option<String>| PresenceReport {
        name,
        published: None,
        failing_since: failed.is_some().then_some(now),
        reason: failed,
        contested: false,
        on_change: None,
    };
    let publications = match own_ref(context) {
        Err(error) => nothing(String::new(), Some(reason(&error.into()))),
        Ok(place) => {
            let name = place.to_string();
            let record = record(context, &presence.remote.to_string(), &name);
            record.map_or_else(|| nothing(name, None), |record| record.report())
        }
    };
    let on_change = presence.on_change.as_ref().map(|_| reactions(context).report());
    Some(PresenceReport { on_change, ..publications })
}

/// The memory of the looks and runs of `on_change`.
pub fn reactions(context: &Context) -> ReactionRecord {
    AgentState::at(&context.settings.world.state).read(REACTIONS).unwrap_or_default()
}
