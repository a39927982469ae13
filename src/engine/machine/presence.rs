//! Presence: this machine publishes its status in a git repository. A tick only looks whether something is due; a
//! process of its own (in `agent listen` a thread) publishes it, so that the tick neither waits nor fails because of it.

use anyhow::{Error, Result};
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use self::detached::DetachedWork;
use self::publish::publish;
use crate::config::PresenceSettings;
use crate::domain::git::{Commit, RefName};
use crate::domain::report::presence::{Presence, PresenceRecord, PresenceRef};
use crate::domain::repository::status::{MachineStatus, PresenceReport};
use crate::domain::text::utc_minute;
use crate::engine::context::Context;
use crate::engine::discovery;
use crate::engine::error::one_line;
use crate::engine::fleet::StatusRepository;
use crate::engine::tick::presence_report::{own_id, own_ref, record};
use crate::system::agent_state::AgentState;

mod detached;
mod publish;
pub mod reaction;

/// The name of the file that says which trouble was reported.
const TROUBLE: &str = "presence.trouble";

/// What publishes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PresencePublisher {
    /// A process that may outlive the tick.
    Process,
    /// A thread, in a process that stays.
    Thread,
}

/// A publication that is due, and all that it depends on.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PresenceJob {
    /// The settings of presence.
    pub presence: PresenceSettings,
    /// The branch to publish at.
    pub branch: RefName,
    /// What to publish, without its number.
    pub publication: Presence,
    /// The digest of that.
    pub digest: String,
}

const PUBLICATION: DetachedWork<PresenceJob> = DetachedWork {
    name: "publication",
    command: "publish-presence",
    for_people: "agent status -v",
    limit: |job| job.presence.reach.limit * publish::MOST_REQUESTS,
    run: publish,
};

/// What a tick learns of presence.
#[derive(Debug, Default)]
pub struct PresenceNews {
    /// What is known of the publications; `None`: there is no `[presence]`.
    pub report: Option<PresenceReport>,
    /// What a person has to know, and was not told within the last day.
    pub trouble: Option<Error>,
}

/// Begins to publish `status` if that is due. Reads one file where it is not.
pub fn after_tick(
    context: &Context,
    status: &MachineStatus,
    publisher: PresencePublisher,
) -> PresenceNews {
    let Some(presence) = &context.settings.presence else { return PresenceNews::default() };
    let machine = AgentState::at(&context.settings.world.state);
    let begun = job(context, presence, status).and_then(|job| {
        let remote = presence.remote.to_string();
        let record = record(context, &remote, &job.branch.local());
        let record = record
            .unwrap_or_else(|| PresenceRecord::new(remote, job.branch.local(), own_id(context)));
        if record.is_due(&job.digest, job.publication.every, status.at) {
            let presence = with_passwords(context, presence);
            PUBLICATION.begin(context, PresenceJob { presence, ..job }, publisher)?;
        }
        Ok(record)
    });
    let (report, trouble) = match begun {
        Ok(record) => {
            let trouble = record.trouble(status.at).map(|failure| {
                let text = not_published(failure.since, &failure.reason);
                (failure.since.to_rfc3339(), Error::msg(text))
            });
            (Some(record.report()), trouble)
        }
        Err(error) => {
            let error = error.context("presence: not published");
            (None, Some((one_line(&error), error)))
        }
    };
    // Without trouble the file is not looked at: an idle tick reads nothing more.
    let trouble = trouble
        .filter(|(key, _)| machine.is_news(TROUBLE, Some(key), status.at))
        .map(|(_, error)| error);
    PresenceNews { report, trouble }
}

/// The sentence for a person about publications that have failed for a while.
fn not_published(since: DateTime<Utc>, reason: &str) -> String {
    format!("presence: not published since {}: {reason}", utc_minute(since))
}

/// What is to be published of `status`.
fn job(
    context: &Context,
    presence: &PresenceSettings,
    status: &MachineStatus,
) -> Result<PresenceJob> {
    let place = own_ref(context)?;
    let publication = Presence::of(&place, own_id(context), presence.every.as_secs(), status);
    let (branch, digest) = (place.branch().parse()?, publication.digest()?);
    Ok(PresenceJob { presence: presence.clone(), branch, publication, digest })
}

/// The tip of the own ref at the remote; `None`: there is none.
///
/// # Errors
/// When the remote cannot be asked, or another user could exchange a file that this needs.
pub fn own_tip(
    context: &Context,
    presence: &PresenceSettings,
    place: &PresenceRef,
) -> Result<Option<Commit>> {
    let StatusRepository { remote, reach } = status_repository(context, presence)?;
    let (branch, wire) = (place.branch().parse()?, &context.wire);
    wire.ready(&remote, &reach)?;
    Ok(wire.tip(&remote, &branch, &reach, None)?.tip)
}

/// The status repository of `presence`, for a reader of what all machines publish.
///
/// # Errors
/// When another user could exchange a file that this needs.
pub fn status_repository(
    context: &Context,
    presence: &PresenceSettings,
) -> Result<StatusRepository> {
    let presence = with_passwords(context, presence);
    publish::check_files(context, &presence)?;
    Ok(StatusRepository { remote: presence.remote, reach: presence.reach })
}

/// The settings with the place of the passwords that `password_command` prints.
fn with_passwords(context: &Context, presence: &PresenceSettings) -> PresenceSettings {
    let mut presence = presence.clone();
    presence.reach.password_cache = discovery::password_cache(context, &presence.as_repo());
    presence
}

/// Publishes the job in our standard input. Its end is in the record, which the next tick reads.
///
/// # Errors
/// When there is no job, or the record cannot be read or written.
pub fn publish_handed_over() -> Result<()> {
    PUBLICATION.run_handed_over()
}
