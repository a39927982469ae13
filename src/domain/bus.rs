//! What is said on the message bus: that a repository has news, and what an action came to. A message
//! is a hint to look, never a fact to act upon: anybody who may publish can have written it. Knows
//! neither brokers nor connections; the bytes are [`stomp`](super::stomp)'s.

use std::borrow::Cow;
use std::fmt::{self, Write};
use std::str::FromStr;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::action::Outcome;
use super::git::{Commit, Id};
use super::stomp::Frame;

/// The longest name of a repository that is listened to, in bytes.
pub(super) const LONGEST_NAME: usize = 200;
/// The longest name of a ref, as git's servers have it.
pub(super) const LONGEST_REF: usize = 1024;
/// How many lines at the top of a message are looked at.
const LEADING_LINES: usize = 16;
/// How much log text a message carries, in bytes.
const LONGEST_LOG: usize = 32 << 10;

/// Where messages are published and listened for.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Topic(String);

impl Topic {
    /// As brokers know it: a bare name is `/topic/NAME`.
    pub fn destination(&self) -> String {
        if self.0.starts_with('/') { self.0.clone() } else { format!("/topic/{}", self.0) }
    }
}

impl Default for Topic {
    /// Where news has always been announced.
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
                text.escape_debug()
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
pub struct Update {
    /// What it was; `None`: it is new.
    pub old: Option<Id>,
    /// What it is; `None`: it was deleted.
    pub new: Option<Id>,
    /// Its full name.
    pub name: String,
}

impl Update {
    /// The name as people call it: without `refs/heads/` or `refs/tags/`, escaped.
    pub fn short_name(&self) -> String {
        let name = ["refs/heads/", "refs/tags/"]
            .iter()
            .find_map(|prefix| self.name.strip_prefix(prefix))
            .unwrap_or(&self.name);
        name.escape_debug().to_string()
    }
}

impl FromStr for Update {
    type Err = String;

    fn from_str(line: &str) -> Result<Self, String> {
        let mut words = line.splitn(3, ' ');
        let mut id = || words.next()?.parse::<Id>().ok();
        let (old, new) = (id(), id());
        match (old, new, words.next()) {
            (Some(old), Some(new), Some(name)) if !name.is_empty() => {
                Ok(Self { old: unless_zero(old), new: unless_zero(new), name: name.to_owned() })
            }
            _ => Err(format!(
                "\"{}\" is not \"OLD NEW REF\"",
                line.chars().take(80).collect::<String>().escape_debug()
            )),
        }
    }
}

/// A commit, as a message tells it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Logged {
    /// Its id.
    pub commit: Commit,
    /// `NAME <ADDRESS>`.
    pub author: String,
    /// When, in the author's own time, written out.
    pub date: String,
    /// The whole message.
    pub message: String,
}

/// Tells everybody who listens that a ref was pushed.
#[derive(Clone, Debug)]
pub struct Announcement<'a> {
    /// What the repository is called on the bus.
    pub repo: &'a str,
    /// What was pushed.
    pub update: &'a Update,
    /// Who pushed it.
    pub user: &'a str,
    /// What came with it, newest first.
    pub log: &'a [Logged],
}

/// The line of a message that programs read.
#[derive(Serialize, Deserialize)]
struct Json<'a> {
    #[serde(borrow)]
    before: Option<Cow<'a, str>>,
    #[serde(borrow)]
    after: Option<Cow<'a, str>>,
    #[serde(borrow, rename = "ref")]
    name: Option<Cow<'a, str>>,
    #[serde(borrow, skip_serializing_if = "Option::is_none")]
    user_name: Option<Cow<'a, str>>,
    #[serde(borrow)]
    repository: JsonRepository<'a>,
}

#[derive(Serialize, Deserialize)]
struct JsonRepository<'a> {
    #[serde(borrow)]
    name: Cow<'a, str>,
}

impl Announcement<'_> {
    /// The frame that publishes it to `topic`.
    pub fn frame(&self, topic: &Topic) -> Frame {
        let Update { old, new, name } = self.update;
        let length = [old, new].into_iter().flatten().map(|id| id.as_bytes().len()).max();
        let written = |id: &Option<Id>| match id {
            Some(id) => id.to_string(),
            None => "00".repeat(length.unwrap_or(20)),
        };
        let (old, new) = (written(old), written(new));
        let (repo, name) = (one_line(self.repo), one_line(name));
        let json = Json {
            before: Some(Cow::Borrowed(&old)),
            after: Some(Cow::Borrowed(&new)),
            name: Some(Cow::Borrowed(&name)),
            user_name: Some(Cow::Borrowed(self.user)),
            repository: JsonRepository { name: Cow::Borrowed(&repo) },
        };
        // Text alone cannot fail to be written.
        let json = serde_json::to_string(&json).unwrap_or_default();
        let body = format!(
            "repo: {repo}\noldrev: {old}\nnewrev: {new}\nrefname: {name}\nJSON: {json}\n{}",
            log_text(self.log)
        );
        message(topic, format!("[{repo}] {name} {new}"), body)
    }
}

/// The frame that tells `topic` that `repo`, as the bus calls it, has news, and nothing more.
pub fn bare_news(topic: &Topic, repo: &str) -> Frame {
    let repo = one_line(repo);
    message(topic, format!("[{repo}]"), format!("repo: {repo}\n"))
}

/// As `git log` has it. No line of it can be taken for one of the lines before it.
fn log_text(log: &[Logged]) -> String {
    let mut text = String::new();
    for Logged { commit, author, date, message } in log {
        // A blank at the front of the first line, as there has always been one.
        let first = if text.is_empty() { " " } else { "" };
        let (author, date) = (one_line(author), one_line(date));
        let mut entry = format!("{first}commit {commit}\nAuthor: {author}\nDate:   {date}\n\n");
        for line in message.trim_end().lines() {
            let line = line.replace(|c: char| c.is_control() && c != '\t', "?");
            // Writing into a text cannot fail.
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

/// The whole lines at the beginning of `text` that fit into `room` bytes.
fn cut(text: &str, room: usize) -> impl Iterator<Item = &str> {
    let mut left = room;
    text.split_inclusive('\n').take_while(move |line| {
        let fits = line.len() <= left;
        left = left.saturating_sub(line.len());
        fits
    })
}

/// Text that ends no line.
fn one_line(text: &str) -> String {
    text.replace(char::is_control, "?")
}

fn message(topic: &Topic, subject: String, body: String) -> Frame {
    let frame = Frame::new("SEND")
        .with("destination", topic.destination())
        .with("subject", subject)
        .with("persistent", "true");
    Frame { body: body.into_bytes(), ..frame }
}

/// What a message hints at: where to look.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hint {
    /// What the repository is called on the bus.
    pub repo: String,
    /// The full name of the ref that has news, where it says.
    pub name: Option<String>,
    /// What the ref is said to be now: for the eyes only, whoever wrote the message chose it.
    pub claimed: Option<Commit>,
}

impl Hint {
    /// What the message in `frame` says; `None` when it names no repository. Of a line that comes
    /// twice the first counts, and only the lines above the first other line do: what follows is the
    /// words of whoever made the commit. The first line may be the subject, as in a message that was
    /// copied whole. The `JSON:` line adds what the others leave open.
    pub fn read(frame: &Frame) -> Option<Self> {
        let mut lines = Lines::default();
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
        let json = lines.json.as_deref().and_then(|text| serde_json::from_str::<Json>(text).ok());
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
            .and_then(|text| text.parse::<Id>().ok())
            .and_then(unless_zero)
            .map(Commit);
        let name = text(lines.name, json_name, subject_name);
        is_plain(&repo, LONGEST_NAME).then_some(Self { repo, name, claimed })
    }
}

/// Whether this may be a name that somebody else wrote: of at most so many bytes, and none of them
/// moves a cursor.
pub(super) fn is_plain(text: &str, most: usize) -> bool {
    !text.is_empty() && text.len() <= most && !text.contains(char::is_control)
}

/// The lines of a message that are known.
#[derive(Default)]
struct Lines {
    repo: Option<String>,
    new: Option<String>,
    name: Option<String>,
    json: Option<String>,
}

impl Lines {
    /// Whether `key` is known; then its value is taken, unless there is one.
    fn take(&mut self, key: &str, value: &str) -> bool {
        let place = match key {
            "repo" => &mut self.repo,
            "newrev" => &mut self.new,
            "refname" => &mut self.name,
            "JSON" => &mut self.json,
            // The second is what Subversion's hook writes.
            "oldrev" | "revname" => return true,
            _ => return false,
        };
        place.get_or_insert_with(|| value.to_owned());
        true
    }
}

/// `[REPO] REF NEW`, of which all but the first may be missing.
fn read_subject(subject: &str) -> Option<(&str, &str, &str)> {
    let (repo, rest) = subject.strip_prefix('[')?.split_once(']')?;
    let mut words = rest.split_whitespace();
    Some((repo, words.next().unwrap_or_default(), words.next().unwrap_or_default()))
}

pub(super) fn unless_zero(id: Id) -> Option<Id> {
    id.as_bytes().iter().any(|&byte| byte != 0).then_some(id)
}

/// A step of an action.
#[derive(Clone, Debug)]
pub enum Step {
    /// It begins.
    Started,
    /// It ended.
    Ended(Outcome),
}

/// Tells everybody who listens what a machine does.
#[derive(Clone, Debug)]
pub struct Report<'a> {
    /// The machine.
    pub host: &'a str,
    /// The repository, as `status` calls it.
    pub repo: &'a str,
    /// The full name of the ref, where each of several is acted upon by itself.
    pub reference: Option<&'a str>,
    /// What is acted upon.
    pub revision: Commit,
    /// What was acted upon before.
    pub previous: Option<Commit>,
    /// Which step of it.
    pub step: &'a Step,
    /// How long the scripts took; 0 at the start.
    pub seconds: f64,
    /// When.
    pub at: DateTime<Utc>,
}

#[derive(Serialize)]
struct JsonReport<'a> {
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

impl Report<'_> {
    /// The frame that publishes it to `topic`: a line for people in the subject, JSON in the body.
    pub fn frame(&self, topic: &Topic) -> Frame {
        let Self { host, repo, reference, revision, previous, step, seconds, at } = *self;
        let (state, told) = match step {
            Step::Started => ("started", "started".to_owned()),
            Step::Ended(outcome) => (outcome.word(), format!("{outcome} after {seconds:.1} s")),
        };
        let of = reference.map(|name| format!(" {name}")).unwrap_or_default();
        let subject = format!("{host} {repo}{of} {}: {told}", revision.short());
        let json = JsonReport { host, repo, reference, revision, previous, state, seconds, at };
        // Text and numbers cannot fail to be written.
        let body = serde_json::to_string(&json).unwrap_or_default();
        message(topic, one_line(&subject), body + "\n")
    }
}

#[cfg(test)]
mod tests;
