//! The content of bus messages: news of a repository, and the outcome of an action. A message is only a
//! hint to poll and never a trusted fact: anybody who may publish can write one. Knows neither brokers
//! nor connections; [`stomp`](super::stomp) has the bytes.

use std::borrow::Cow;
use std::fmt::{self, Write};
use std::str::FromStr;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::domain::bus::stomp::StompFrame;
use crate::domain::git::{Commit, ObjectId};
use crate::domain::repository::action::Outcome;
use crate::domain::text::EscapeControls;

/// The longest accepted repository name, in bytes.
pub(super) const LONGEST_NAME: usize = 200;
/// The longest accepted ref name, in bytes, as on git servers.
pub(super) const LONGEST_REF: usize = 1024;
/// The beginnings of the names of branches and tags.
const KINDS: [&str; 2] = ["refs/heads/", "refs/tags/"];
/// The number of lines at the top of a message that are parsed.
const LEADING_LINES: usize = 16;
/// The limit of the log text in a message, in bytes.
const LONGEST_LOG: usize = 32 << 10;

/// The topic that messages are published to and received from.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Topic(String);

impl Topic {
    /// The destination for brokers: a bare name becomes `/topic/NAME`.
    pub fn destination(&self) -> String {
        if self.0.starts_with('/') { self.0.clone() } else { format!("/topic/{}", self.0) }
    }

    /// The warning about a queue, which hands each message to one listener only; `None`: it is no queue.
    pub fn queue_warning(&self) -> Option<String> {
        let queues = ["/queue/", "/amq/queue/", "/reply-queue/", "/temp-queue/"];
        queues.iter().any(|start| self.0.starts_with(start)).then(|| {
            format!(
                "{} is a queue: of several machines that listen, only one gets each message\n\
                 hint: listen to a topic, such as \"/topic/future.git.commits\"",
                self.0.escape_controls()
            )
        })
    }
}

impl Default for Topic {
    /// The traditional topic for news of pushes.
    fn default() -> Self {
        Self("future.git.commits".to_owned())
    }
}

impl FromStr for Topic {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.is_empty() || text.contains(|c: char| c.is_control() || c.is_whitespace()) {
            return Err(format!(
                "\"{}\" is not the name of a topic\n\
                 hint: write one such as \"future.git.commits\"",
                text.escape_controls()
            ));
        }
        Ok(Self(text.to_owned()))
    }
}

impl TryFrom<String> for Topic {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<Topic> for String {
    fn from(topic: Topic) -> Self {
        topic.0
    }
}

impl fmt::Display for Topic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Topic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// One ref of a push, as `post-receive` reads it: `OLD NEW REF`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RefUpdate {
    /// The old object; `None`: the ref is new.
    pub old: Option<ObjectId>,
    /// The new object; `None`: the ref was deleted.
    pub new: Option<ObjectId>,
    /// The full ref name.
    pub name: String,
}

impl RefUpdate {
    /// Whether it is a branch or a tag.
    pub fn is_branch_or_tag(&self) -> bool {
        KINDS.iter().any(|kind| self.name.starts_with(kind))
    }

    /// The name without `refs/heads/` or `refs/tags/`, escaped.
    pub fn short_name(&self) -> String {
        let name =
            KINDS.iter().find_map(|prefix| self.name.strip_prefix(prefix)).unwrap_or(&self.name);
        name.escape_controls()
    }
}

impl FromStr for RefUpdate {
    type Err = String;

    fn from_str(line: &str) -> Result<Self, String> {
        let mut words = line.splitn(3, ' ');
        let mut id = || words.next()?.parse::<ObjectId>().ok();
        let (old, new) = (id(), id());
        match (old, new, words.next()) {
            (Some(old), Some(new), Some(name)) if !name.is_empty() => {
                Ok(Self { old: unless_zero(old), new: unless_zero(new), name: name.to_owned() })
            }
            _ => Err(format!(
                "\"{}\" is not \"OLD NEW REF\"",
                line.chars().take(80).collect::<String>().escape_controls()
            )),
        }
    }
}

/// A commit, as a message shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CommitSummary {
    /// The commit id.
    pub commit: Commit,
    /// The author as `NAME <ADDRESS>`.
    pub author: String,
    /// The author date as text, in the author's time zone.
    pub date: String,
    /// The whole commit message.
    pub message: String,
}

/// The message that announces a push of one ref.
#[derive(Clone, Debug)]
pub struct PushMessage<'a> {
    /// The name of the repository on the bus.
    pub repo: &'a str,
    /// The pushed ref.
    pub update: &'a RefUpdate,
    /// The user who pushed.
    pub user: &'a str,
    /// The pushed commits, newest first.
    pub log: &'a [CommitSummary],
}

/// The machine-readable line of a message.
#[derive(Serialize, Deserialize)]
struct PushJson<'a> {
    #[serde(borrow)]
    before: Option<Cow<'a, str>>,
    #[serde(borrow)]
    after: Option<Cow<'a, str>>,
    #[serde(borrow, rename = "ref")]
    name: Option<Cow<'a, str>>,
    #[serde(borrow, skip_serializing_if = "Option::is_none")]
    user_name: Option<Cow<'a, str>>,
    #[serde(borrow)]
    repository: PushJsonRepository<'a>,
}

#[derive(Serialize, Deserialize)]
struct PushJsonRepository<'a> {
    #[serde(borrow)]
    name: Cow<'a, str>,
}

impl PushMessage<'_> {
    /// The frame that publishes the message to `topic`.
    pub fn frame(&self, topic: &Topic) -> StompFrame {
        let RefUpdate { old, new, name } = self.update;
        let length = [old, new].into_iter().flatten().map(|id| id.as_bytes().len()).max();
        let written = |id: &Option<ObjectId>| match id {
            Some(id) => id.to_string(),
            None => "00".repeat(length.unwrap_or(20)),
        };
        let (old, new) = (written(old), written(new));
        let (repo, name) = (one_line(self.repo), one_line(name));
        let json = PushJson {
            before: Some(Cow::Borrowed(&old)),
            after: Some(Cow::Borrowed(&new)),
            name: Some(Cow::Borrowed(&name)),
            user_name: Some(Cow::Borrowed(self.user)),
            repository: PushJsonRepository { name: Cow::Borrowed(&repo) },
        };
        // Plain text always serialises.
        let json = serde_json::to_string(&json).unwrap_or_default();
        let body = format!(
            "repo: {repo}\noldrev: {old}\nnewrev: {new}\nrefname: {name}\nJSON: {json}\n{}",
            log_text(self.log)
        );
        message(topic, format!("[{repo}] {name} {new}"), body)
    }
}

/// The frame that announces news of `repo` (its name on the bus) to `topic`, without details.
pub fn bare_news(topic: &Topic, repo: &str) -> StompFrame {
    let repo = one_line(repo);
    message(topic, format!("[{repo}]"), format!("repo: {repo}\n"))
}

/// The commits as `git log` prints them. No line can be mistaken for one of the header lines before.
fn log_text(log: &[CommitSummary]) -> String {
    let mut text = String::new();
    for CommitSummary { commit, author, date, message } in log {
        // The first line has always begun with a blank.
        let first = if text.is_empty() { " " } else { "" };
        let (author, date) = (one_line(author), one_line(date));
        let mut entry = format!("{first}commit {commit}\nAuthor: {author}\nDate:   {date}\n\n");
        for line in message.trim_end().lines() {
            let line = line.replace(|c: char| c.is_control() && c != '\t', "?");
            // Writing to a String cannot fail.
            let _ = writeln!(entry, "    {line}");
        }
        entry.push('\n');
        if text.len() + entry.len() > LONGEST_LOG {
            text.extend(cut(&entry, LONGEST_LOG.saturating_sub(text.len())));
            text.push_str("\n    (and more)\n");
            break;
        }
        text.push_str(&entry);
    }
    text
}

/// The complete lines at the beginning of `text` that fit into `room` bytes.
fn cut(text: &str, room: usize) -> impl Iterator<Item = &str> {
    let mut left = room;
    text.split_inclusive('\n').take_while(move |line| {
        let fits = line.len() <= left;
        left = left.saturating_sub(line.len());
        fits
    })
}

/// The text with every control character replaced, so that it stays one line.
fn one_line(text: &str) -> String {
    text.replace(char::is_control, "?")
}

fn message(topic: &Topic, subject: String, body: String) -> StompFrame {
    let frame = StompFrame::new("SEND")
        .with("destination", topic.destination())
        .with("subject", subject)
        .with("persistent", "true");
    StompFrame { body: body.into_bytes(), ..frame }
}

/// The hint of a message: the repository to poll.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PushHint {
    /// The name of the repository on the bus.
    pub repo: String,
    /// The full name of the changed ref, where the message names it.
    pub name: Option<String>,
    /// The claimed revision: for display only, because the author of the message chose it.
    pub claimed: Option<Commit>,
}

impl PushHint {
    /// The hint in the message `frame`; `None` when it names no repository. The first of repeated lines
    /// counts, and only lines above the first unknown one: the rest comes from the author of the commit.
    /// The first line may be the subject, as in a message that was copied whole. The `JSON:` line fills
    /// in what the others leave out.
    pub fn read(frame: &StompFrame) -> Option<Self> {
        let mut lines = MessageLines::default();
        let body = frame.body.split(|&byte| byte == b'\n').take(LEADING_LINES);
        let mut body = body.map(String::from_utf8_lossy).peekable();
        let copied = body.next_if(|line| read_subject(line).is_some());
        for line in body {
            let Some((key, value)) = line.split_once(':') else { break };
            if !lines.take(key, value.trim()) {
                break;
            }
        }
        let subject = frame.header("subject").and_then(read_subject);
        let subject = subject.or_else(|| read_subject(copied.as_deref()?));
        let json =
            lines.json.as_deref().and_then(|text| serde_json::from_str::<PushJson>(text).ok());
        let json = json.filter(|json| {
            let agrees = |said: &Option<String>, json: Option<&str>| {
                said.as_deref().is_none_or(|said| json.is_none_or(|json| json == said))
            };
            agrees(&lines.repo, Some(&json.repository.name))
                && agrees(&lines.new, json.after.as_deref())
        });
        let (subject_repo, subject_name, subject_new) = subject.unwrap_or_default();
        let (json_name, json_new) = match &json {
            Some(json) => (json.name.as_deref(), json.after.as_deref()),
            None => (None, None),
        };
        let repo = lines
            .repo
            .or_else(|| json.as_ref().map(|json| json.repository.name.to_string()))
            .or_else(|| (!subject_repo.is_empty()).then(|| subject_repo.to_owned()))?;
        let text = |said: Option<String>, json: Option<&str>, subject: &str| {
            said.or_else(|| json.map(str::to_owned))
                .or_else(|| Some(subject.to_owned()))
                .filter(|text| is_plain(text, LONGEST_REF))
        };
        let claimed = text(lines.new, json_new, subject_new)
            .and_then(|text| text.parse::<ObjectId>().ok())
            .and_then(unless_zero)
            .map(Commit);
        let name = text(lines.name, json_name, subject_name);
        is_plain(&repo, LONGEST_NAME).then_some(Self { repo, name, claimed })
    }
}

/// Returns `true` if a foreign text can be used as a name: not empty, at most `most` bytes, no control
/// characters.
pub(super) fn is_plain(text: &str, most: usize) -> bool {
    !text.is_empty() && text.len() <= most && !text.contains(char::is_control)
}

/// The known lines of a message.
#[derive(Default)]
struct MessageLines {
    repo: Option<String>,
    new: Option<String>,
    name: Option<String>,
    json: Option<String>,
}

impl MessageLines {
    /// Stores the first value of a known `key`; returns `false` for an unknown one.
    fn take(&mut self, key: &str, value: &str) -> bool {
        let place = match key {
            "repo" => &mut self.repo,
            "newrev" => &mut self.new,
            "refname" => &mut self.name,
            "JSON" => &mut self.json,
            // The second is from Subversion's hook.
            "oldrev" | "revname" => return true,
            _ => return false,
        };
        place.get_or_insert_with(|| value.to_owned());
        true
    }
}

/// Parses `[REPO] REF NEW`, of which all but the first may be missing.
fn read_subject(subject: &str) -> Option<(&str, &str, &str)> {
    let (repo, rest) = subject.strip_prefix('[')?.split_once(']')?;
    let mut words = rest.split_whitespace();
    Some((repo, words.next().unwrap_or_default(), words.next().unwrap_or_default()))
}

pub(super) fn unless_zero(id: ObjectId) -> Option<ObjectId> {
    id.as_bytes().iter().any(|&byte| byte != 0).then_some(id)
}

/// A step of an action.
#[derive(Clone, Debug)]
pub enum ActionStep {
    /// The action began.
    Started,
    /// The action ended.
    Ended(Outcome),
}

/// The message that announces a step of an action.
#[derive(Clone, Debug)]
pub struct ActionMessage<'a> {
    /// The host name of the machine.
    pub host: &'a str,
    /// The name of the repository in `status`.
    pub repo: &'a str,
    /// The full name of the ref, where each of several is deployed by itself.
    pub reference: Option<&'a str>,
    /// The revision that is deployed.
    pub revision: Commit,
    /// The revision deployed before it.
    pub previous: Option<Commit>,
    /// The step of the action.
    pub step: &'a ActionStep,
    /// The run time of the scripts in seconds; 0 at the start.
    pub seconds: f64,
    /// The time of the step.
    pub at: DateTime<Utc>,
}

#[derive(Serialize)]
struct ActionJson<'a> {
    host: &'a str,
    repo: &'a str,
    #[serde(rename = "ref", skip_serializing_if = "Option::is_none")]
    reference: Option<&'a str>,
    revision: Commit,
    previous: Option<Commit>,
    state: &'a str,
    seconds: f64,
    at: DateTime<Utc>,
}

impl ActionMessage<'_> {
    /// The frame that publishes the message to `topic`: a readable subject, and JSON in the body.
    pub fn frame(&self, topic: &Topic) -> StompFrame {
        let Self { host, repo, reference, revision, previous, step, seconds, at } = *self;
        let (state, outcome) = match step {
            ActionStep::Started => ("started", "started".to_owned()),
            ActionStep::Ended(outcome) => {
                (outcome.word(), format!("{outcome} after {seconds:.1} s"))
            }
        };
        let of = reference.map(|name| format!(" {name}")).unwrap_or_default();
        let subject = format!("{host} {repo}{of} {}: {outcome}", revision.short());
        let json = ActionJson { host, repo, reference, revision, previous, state, seconds, at };
        // Text and numbers always serialise.
        let body = serde_json::to_string(&json).unwrap_or_default();
        message(topic, one_line(&subject), body + "\n")
    }
}

#[cfg(test)]
mod tests;
