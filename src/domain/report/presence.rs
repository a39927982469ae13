//! What a machine says of itself: the file `status.json` of a publication, in both directions, and the subject of its
//! commit. [`PresenceRef`] names the ref that it lies at. Knows no transport and no file.

use std::collections::BTreeSet;
use std::fmt;

use chrono::{DateTime, Utc};
use ring::digest::{SHA256, digest};
use ring::hmac;
use serde::{Deserialize, Serialize};

pub use self::record::{
    FoundPublication, LastPublication, OwnRefVerdict, PresenceFailure, PresenceRecord,
    SentPublication,
};
pub use self::ref_name::{InvalidPresenceName, PresenceRef, world_name};
use crate::domain::git::Commit;
use crate::domain::repository::gate::{Gate, GateWait};
use crate::domain::repository::hold::Hold;
use crate::domain::repository::state::State;
use crate::domain::repository::status::{LastDeployed, MachineStatus, PublishedRef, StatusRow};
use crate::domain::signature::allowed_signers::Signer;
use crate::domain::text::hexadecimal;

mod record;
mod ref_name;

/// The one file in the tree of a publication.
pub const PRESENCE_FILE: &str = "status.json";
/// The version of the file's format that this agent writes.
pub const PRESENCE_FORMAT: u32 = 1;
/// The most bytes of a publication: of more, a writer leaves parts out, and a reader takes nothing.
pub const MOST_BYTES: usize = 1 << 20;
/// The most repositories of a publication.
pub const MOST_REPOSITORIES: usize = 10_000;
/// The most bytes of a reason, a subject or another sentence that is published.
const MOST_OF_A_SENTENCE: usize = 1000;
/// The same, where the whole publication would be larger than [`MOST_BYTES`].
const FEW_OF_A_SENTENCE: usize = 100;
/// The most published refs of a repository, where the whole publication would be larger: the worst.
const FEW_REFS: usize = 100;
/// The most names in the subject of a commit.
const MOST_NAMED: usize = 3;

/// One publication of one world of a machine.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Presence {
    /// The version of the format: [`PRESENCE_FORMAT`], or that of a newer agent.
    pub presence: u32,
    /// The name of the machine, as in the ref.
    pub host: String,
    /// The user, as in the ref; `None`: root's default world.
    #[serde(default)]
    pub user: Option<String>,
    /// The world of its own (`--root`), as in the ref; `None`: the default world.
    #[serde(default)]
    pub world: Option<String>,
    /// Which machine, user and root published this.
    pub id: PresenceId,
    /// The number of the publication: 1 more than that of the one before.
    pub seq: u64,
    /// When it was made, by the clock of the machine.
    pub at: DateTime<Utc>,
    /// After how many seconds without news the next one follows; 0: never.
    #[serde(default)]
    pub every: u64,
    /// The version of the agent.
    #[serde(default)]
    pub agent: String,
    /// The part of the machine.
    #[serde(default)]
    pub part: Option<String>,
    /// The stack of the machine.
    #[serde(default)]
    pub stack: Option<String>,
    /// Why this is the last publication until a person has acted; `None`: it is not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub contested: Option<ContestedPresence>,
    /// How many repositories were left out because the publication would be too large.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub left_out: usize,
    /// The repositories, by name.
    pub repositories: Vec<PresenceRow>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks for it")]
fn is_zero(number: &usize) -> bool {
    *number == 0
}

/// Two machines publish at one ref.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContestedPresence {
    /// The id of the other machine; that of this one, where both have one machine-id.
    pub other: PresenceId,
    /// When it was noticed.
    pub since: DateTime<Utc>,
}

impl ContestedPresence {
    /// The fault as a sentence with its remedy; `id` is that of the machine that reports it.
    pub fn sentence(&self, id: &PresenceId, name: &str) -> String {
        let who = if self.other == *id {
            "another machine with the same machine-id".to_owned()
        } else {
            format!("another machine ({})", self.other.short())
        };
        let remedy = if self.other == *id {
            "one of them needs a machine-id of its own: systemd-machine-id-setup(1)"
        } else {
            "one of them needs another [node] name"
        };
        format!(
            "{who} publishes as {name} too\nhint: {remedy}; then agent fleet forget {name}: the one that is left publishes \
             again within an hour"
        )
    }
}

/// The identity of one world: constant for a machine-id, a user and a root, and tells none of them.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PresenceId(String);

impl PresenceId {
    /// The id of the world `root` of the user `uid`. `machine` is the machine-id, or what else tells machines apart.
    pub fn of(machine: &str, uid: u32, root: &[u8]) -> Self {
        // machine-id(5): an id made from it must not reveal it.
        let key = hmac::Key::new(hmac::HMAC_SHA256, machine.as_bytes());
        let mut context = hmac::Context::with_key(&key);
        context.update(b"pmpy presence\0");
        context.update(format!("{uid}\0").as_bytes());
        context.update(root);
        Self(hexadecimal(context.sign().as_ref()))
    }

    /// The first eight digits, for people.
    pub fn short(&self) -> &str {
        self.0.get(..8).unwrap_or(&self.0)
    }
}

impl fmt::Display for PresenceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for PresenceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The error for a text that is no [`PresenceId`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InvalidPresenceId;

impl fmt::Display for InvalidPresenceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not an id: 64 hexadecimal digits are expected")
    }
}

impl std::error::Error for InvalidPresenceId {}

impl TryFrom<String> for PresenceId {
    type Error = InvalidPresenceId;

    fn try_from(text: String) -> Result<Self, InvalidPresenceId> {
        let is_digit = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
        match text.len() == 64 && text.bytes().all(is_digit) {
            true => Ok(Self(text)),
            false => Err(InvalidPresenceId),
        }
    }
}

impl From<PresenceId> for String {
    fn from(id: PresenceId) -> Self {
        id.0
    }
}

/// One repository in a [`Presence`]; the names are those of [`StatusRow`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PresenceRow {
    /// The name.
    pub name: String,
    /// The state.
    pub state: PresenceState,
    /// Why, as a sentence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The states that apply, most important first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<PresenceState>,
    /// When the state began; `None`: not published.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<DateTime<Utc>>,
    /// The followed branch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub branch: Option<String>,
    /// The newest tag that matches; `None`: no tag is followed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tag: Option<String>,
    /// The wanted revision: upstream's tip, as last polled.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub upstream: Option<Commit>,
    /// The last revision deployed with success.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub acted: Option<PresenceDeployed>,
    /// The gate that is shut.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gate: Option<PresenceGate>,
    /// The revision that turned out bad here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bad: Option<Commit>,
    /// Only a mirror that lags behind answered.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub mirror_lags: bool,
    /// How many files differ from the applied revision, as the last comparison found.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub drifted: usize,
    /// The holds.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub holds: Vec<PresenceHold>,
    /// Branches and tags at their targets.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub published: Vec<PresencePublished>,
}

/// A state in a [`Presence`]: a newer agent may have states that this one does not know.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(untagged)]
pub enum PresenceState {
    /// A state of this agent.
    Known(State),
    /// A state of another version, as it was written.
    Other(String),
}

impl PresenceState {
    /// The state, if this agent has it.
    pub fn known(&self) -> Option<State> {
        match self {
            Self::Known(state) => Some(*state),
            Self::Other(_) => None,
        }
    }

    /// The word. That of another version is foreign text.
    pub fn as_str(&self) -> &str {
        match self {
            Self::Known(state) => state.as_str(),
            Self::Other(word) => word,
        }
    }
}

/// The last revision deployed with success, in a [`PresenceRow`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PresenceDeployed {
    /// The revision.
    pub revision: Commit,
    /// The tag by which it was chosen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tag: Option<String>,
    /// The first line of the commit message.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject: Option<String>,
    /// Who signed it, where signatures count.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signer: Option<Signer>,
    /// When it was deployed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at: Option<DateTime<Utc>>,
}

/// The gate that is shut, in a [`PresenceRow`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PresenceGate {
    /// Its name, such as `window`.
    pub gate: String,
    /// Why it is shut, without the moment.
    #[serde(default)]
    pub reason: String,
    /// When time opens it; `None`: something else does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<DateTime<Utc>>,
}

/// A hold, in a [`PresenceRow`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PresenceHold {
    /// Who set it.
    pub by: String,
    /// Why.
    pub reason: String,
    /// When it began.
    pub since: DateTime<Utc>,
    /// When it ends; `None`: when a person lifts it.
    #[serde(default)]
    pub until: Option<DateTime<Utc>>,
}

/// One branch or tag at its target, in a [`PresenceRow`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PresencePublished {
    /// The full ref name.
    #[serde(rename = "ref")]
    pub name: String,
    /// The revision at the target.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision: Option<Commit>,
    /// The state of this ref.
    pub state: PresenceState,
    /// The reason for the state.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The revision that turned out bad here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bad: Option<Commit>,
}

/// The reason why bytes are no [`Presence`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PresenceFault {
    /// More than [`MOST_BYTES`]; holds the size.
    TooLarge(usize),
    /// More than [`MOST_REPOSITORIES`]; holds the number.
    TooMany(usize),
    /// Not the JSON of one; holds the parser's message, which may quote foreign text.
    Malformed(String),
}

impl fmt::Display for PresenceFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooLarge(bytes) => {
                write!(f, "{PRESENCE_FILE} has {bytes} bytes; at most {MOST_BYTES} are read")
            }
            Self::TooMany(number) => write!(
                f,
                "{PRESENCE_FILE} has {number} repositories; at most {MOST_REPOSITORIES} are read"
            ),
            Self::Malformed(why) => write!(f, "{PRESENCE_FILE} cannot be read: {why}"),
        }
    }
}

impl std::error::Error for PresenceFault {}

impl Presence {
    /// The publication of `status` at `place`, with the number 0.
    pub fn of(place: &PresenceRef, id: PresenceId, every: u64, status: &MachineStatus) -> Self {
        Self {
            presence: PRESENCE_FORMAT,
            host: place.host().to_owned(),
            user: place.user().map(str::to_owned),
            world: place.world().map(str::to_owned),
            id,
            seq: 0,
            at: status.at,
            every,
            agent: status.agent.clone(),
            part: status.part.clone(),
            stack: status.stack.clone(),
            contested: None,
            left_out: 0,
            repositories: status.repositories.iter().map(PresenceRow::of).collect(),
        }
    }

    /// Reads a publication.
    ///
    /// # Errors
    /// When it is too large, or not in this format.
    pub fn parse(bytes: &[u8]) -> Result<Self, PresenceFault> {
        if bytes.len() > MOST_BYTES {
            return Err(PresenceFault::TooLarge(bytes.len()));
        }
        let presence: Self = serde_json::from_slice(bytes)
            .map_err(|error| PresenceFault::Malformed(error.to_string()))?;
        match presence.repositories.len() {
            number if number > MOST_REPOSITORIES => Err(PresenceFault::TooMany(number)),
            _ => Ok(presence),
        }
    }

    /// The file: JSON in lines, so that git shows what changed. What would make it larger than [`MOST_BYTES`] is left
    /// out: first long sentences, then the repositories at the end that are as they should be, then others.
    ///
    /// # Errors
    /// When the JSON cannot be made, which does not happen.
    pub fn to_bytes(&self) -> serde_json::Result<Vec<u8>> {
        let whole = self.json()?;
        if whole.len() <= MOST_BYTES && self.repositories.len() <= MOST_REPOSITORIES {
            return Ok(whole);
        }
        let mut smaller = self.clone();
        smaller.repositories.iter_mut().for_each(PresenceRow::shorten);
        let mut most = smaller.repositories.len().min(MOST_REPOSITORIES);
        loop {
            smaller.keep_the_worst(most, self.repositories.len());
            let bytes = smaller.json()?;
            if bytes.len() <= MOST_BYTES || most == 0 {
                return Ok(bytes);
            }
            // A twentieth more than by proportion, because repositories differ in size.
            most = (most * MOST_BYTES / bytes.len()) * 19 / 20;
        }
    }

    fn json(&self) -> serde_json::Result<Vec<u8>> {
        let mut bytes = serde_json::to_vec_pretty(self)?;
        bytes.push(b'\n');
        Ok(bytes)
    }

    /// Leaves out all repositories but the `most` worst, of `all` that there were.
    fn keep_the_worst(&mut self, most: usize, all: usize) {
        let mut by_state: Vec<usize> = (0..self.repositories.len()).collect();
        by_state.sort_by_key(|&at| self.repositories.get(at).map(|row| row.state.known()));
        let kept: BTreeSet<usize> = by_state.into_iter().take(most).collect();
        let mut at = 0;
        self.repositories.retain(|_| {
            at += 1;
            kept.contains(&(at - 1))
        });
        self.left_out = all - self.repositories.len();
    }

    /// A digest of what is news when it changes: states, revisions, reasons, holds, and what the machine is.
    ///
    /// # Errors
    /// When the JSON cannot be made, which does not happen.
    pub fn digest(&self) -> serde_json::Result<String> {
        let rows: Vec<PresenceRow> =
            self.repositories.iter().map(PresenceRow::without_moments).collect();
        let what = (self.presence, &self.host, &self.user, &self.world, &self.id, self.every);
        let text = serde_json::to_vec(&(what, &self.agent, &self.part, &self.stack, rows))?;
        Ok(hexadecimal(digest(&SHA256, &text).as_ref()))
    }

    /// The subject of the commit: `3 current, 1 failing: db at 62fd60d`.
    pub fn subject(&self) -> String {
        let known = |row: &PresenceRow| row.state.known();
        let counts: Vec<(State, Vec<&PresenceRow>)> = State::ALL
            .into_iter()
            .rev()
            .map(|state| {
                let rows = self.repositories.iter();
                (state, rows.filter(|row| known(row) == Some(state)).collect())
            })
            .filter(|(_, rows): &(State, Vec<_>)| !rows.is_empty())
            .collect();
        let mut parts: Vec<String> =
            counts.iter().map(|(state, rows)| format!("{} {state}", rows.len())).collect();
        if self.left_out > 0 {
            parts.push(format!("{} left out", self.left_out));
        }
        let contested = if self.contested.is_some() { "contested: " } else { "" };
        match counts.last() {
            None => format!("{contested}no repository"),
            Some((State::Current | State::Ahead | State::Inactive, rows)) if rows.len() > 1 => {
                contested.to_owned() + &parts.join(", ")
            }
            Some((_, rows)) => {
                let mut names: Vec<String> =
                    rows.iter().take(MOST_NAMED).map(|row| row.named()).collect();
                if rows.len() > MOST_NAMED {
                    names.push("…".to_owned());
                }
                format!("{contested}{}: {}", parts.join(", "), names.join(", "))
            }
        }
    }
}

impl PresenceRow {
    /// What is published of `row`: no paths, no output, nothing that changes from minute to minute.
    pub fn of(row: &StatusRow) -> Self {
        // Until when is in `gate`; the moment at which `before` is asked again is not news.
        let gate_reason =
            row.gate.as_ref().filter(|gate| gate.gate == Gate::Before).map(|gate| &gate.reason);
        let reason = gate_reason.or(row.reason.as_ref());
        let reason = reason.map(|reason| match (row.state, reason.split_once(" (pid ")) {
            (State::Acting, Some((what, _))) => what.to_owned(),
            _ => cut(reason, MOST_OF_A_SENTENCE),
        });
        Self {
            name: row.name.clone(),
            state: PresenceState::Known(row.state),
            reason,
            conditions: row.conditions.iter().copied().map(PresenceState::Known).collect(),
            since: Some(row.since),
            branch: row.branch.clone(),
            tag: row.tag.clone(),
            upstream: row.upstream,
            acted: row.acted.as_ref().map(PresenceDeployed::of),
            gate: row.gate.as_ref().map(PresenceGate::of),
            bad: row.bad,
            mirror_lags: row.mirror_lags,
            drifted: row.drifted.as_ref().map_or(0, |drifted| drifted.files),
            holds: row.holds.iter().map(PresenceHold::of).collect(),
            published: row.published.iter().map(PresencePublished::of).collect(),
        }
    }

    /// The name with the first digits of the deployed revision: `db at 62fd60d`.
    fn named(&self) -> String {
        let name = cut(&self.name, FEW_OF_A_SENTENCE);
        match &self.acted {
            Some(acted) => format!("{name} at {}", acted.revision.short()),
            None => name,
        }
    }

    /// The same without what may change while nothing happens.
    fn without_moments(&self) -> Self {
        Self { since: None, ..self.clone() }
    }

    /// Cuts sentences, because the whole is too large.
    fn shorten(&mut self) {
        let short = |text: &mut Option<String>| {
            if let Some(text) = text {
                *text = cut(text, FEW_OF_A_SENTENCE);
            }
        };
        short(&mut self.reason);
        if let Some(acted) = &mut self.acted {
            acted.subject = None;
        }
        for hold in &mut self.holds {
            hold.reason = cut(&hold.reason, FEW_OF_A_SENTENCE);
        }
        self.published.sort_by_key(|published| published.state.known());
        self.published.truncate(FEW_REFS);
        self.published.iter_mut().for_each(|published| short(&mut published.reason));
    }
}

impl PresenceDeployed {
    fn of(acted: &LastDeployed) -> Self {
        Self {
            revision: acted.revision,
            tag: acted.tag.clone(),
            subject: acted.subject.as_ref().map(|subject| cut(subject, MOST_OF_A_SENTENCE)),
            signer: acted.signer.clone(),
            at: acted.at,
        }
    }
}

impl PresenceGate {
    fn of(wait: &GateWait) -> Self {
        // `before` is asked again and again: when is not news.
        let until = wait.until.filter(|_| wait.gate != Gate::Before);
        let reason = cut(&wait.reason, MOST_OF_A_SENTENCE);
        Self { gate: wait.gate.as_str().to_owned(), reason, until }
    }
}

impl PresenceHold {
    fn of(hold: &Hold) -> Self {
        Self {
            by: hold.by.clone(),
            reason: cut(&hold.reason, MOST_OF_A_SENTENCE),
            since: hold.since,
            until: hold.until,
        }
    }
}

impl PresencePublished {
    fn of(published: &PublishedRef) -> Self {
        Self {
            name: published.name.clone(),
            revision: published.revision,
            state: PresenceState::Known(published.state),
            reason: published.reason.as_ref().map(|reason| cut(reason, MOST_OF_A_SENTENCE)),
            bad: published.bad,
        }
    }
}

/// At most `most` bytes of `text`, with a mark where something is missing.
fn cut(text: &str, most: usize) -> String {
    if text.len() <= most {
        return text.to_owned();
    }
    let end = (0..=most).rev().find(|&end| text.is_char_boundary(end)).unwrap_or(0);
    format!("{}…", text.get(..end).unwrap_or_default())
}

#[cfg(test)]
mod tests;
