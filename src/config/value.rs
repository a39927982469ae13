//! The grammar of single values: text in, value or reason out. Knows neither files nor keys, so that the
//! command line checks its arguments by the same rules.
//!
//! A reason is a sentence, optionally followed by `"\nhint: "` and what to write instead.

use std::fmt;
use std::net::SocketAddr;
use std::path::{Component, Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use serde::de::{self, Visitor};
use serde::{Deserialize, Deserializer};

use super::patterns::{self, quoted};
use crate::domain::bus::broker::BrokerEntry;
use crate::domain::bus::message::Topic;
use crate::domain::git::{Commit, RefName, Remote, RemoteScheme};
use crate::domain::page::hosts::host_name;
use crate::domain::publish::rules::LONGEST as LONGEST_NAME;
use crate::domain::repository::change::{MAX_DEPTH, MAX_PATH, TEMPORARY};
use crate::domain::repository::observed::RerunPolicy;
use crate::domain::repository::window::is_zone_name;
use crate::domain::versions::TagPattern;

/// The longest duration that can be configured: a year.
pub const LONGEST: Duration = Duration::from_secs(365 * 24 * 3600);

/// The placeholders in `branch` and `tag`, which the machine's facts replace.
const PLACEHOLDERS: [&str; 3] = ["{part}", "{stack}", "{host}"];

/// A duration such as `30s`, `5m`, `1h` or `0s`; at most `LONGEST`.
pub fn duration(text: &str) -> Result<Duration, String> {
    let time = humantime::parse_duration(text).map_err(|_| {
        format!(
            "{} is not a time\nhint: write a number and its unit, such as \"30s\", \"5m\" or \"1h\"",
            quoted(text)
        )
    })?;
    if time > LONGEST {
        return Err(format!("{} is longer than a year\nhint: write a shorter time", quoted(text)));
    }
    Ok(time)
}

/// A duration above zero.
pub fn positive_duration(text: &str) -> Result<Duration, String> {
    match duration(text)? {
        Duration::ZERO => Err("the time must be longer than nothing\n\
             hint: write a number above 0 and its unit, such as \"30s\""
            .to_owned()),
        time => Ok(time),
    }
}

/// A number of bytes such as `512MiB`, `1GiB`, `1GB` or `1048576`; at least one.
pub fn byte_size(text: &str) -> Result<u64, String> {
    let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let (number, unit) = text.split_at(digits);
    let factor: Option<u64> = match unit.trim_start() {
        "" | "B" => Some(1),
        "kB" | "KB" => Some(1_000),
        "MB" => Some(1_000_000),
        "GB" => Some(1_000_000_000),
        "TB" => Some(1_000_000_000_000),
        "KiB" => Some(1 << 10),
        "MiB" => Some(1 << 20),
        "GiB" => Some(1 << 30),
        "TiB" => Some(1 << 40),
        _ => None,
    };
    let bytes = factor.zip(number.parse().ok()).and_then(|(factor, it)| factor.checked_mul(it));
    bytes.filter(|bytes| *bytes > 0).ok_or_else(|| {
        format!(
            "{} is not a size\nhint: write a number above 0 and its unit, such as \"512MiB\" or \"1GiB\"",
            quoted(text)
        )
    })
}

/// A count of at least one.
pub fn count(text: &str) -> Result<usize, String> {
    let number = text.parse().ok().filter(|number| *number > 0);
    number.ok_or_else(|| format!("{} is not a number from 1 on", quoted(text)))
}

/// The name of a part or a stack, which becomes part of a path.
pub fn token(text: &str) -> Result<String, String> {
    plain_word(text, "name of a part or stack")
}

/// The name of a repository, which becomes a directory name and a section title.
pub fn repo_name(text: &str) -> Result<String, String> {
    plain_word(text, "name of a repository")
}

fn plain_word(text: &str, what: &str) -> Result<String, String> {
    let plain = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    if text.is_empty() || text.starts_with(['.', '-']) || !text.chars().all(plain) {
        return Err(format!(
            "{} cannot be the {what}\n\
             hint: use letters, digits, \".\", \"_\" and \"-\", and begin with none of \".\" and \"-\"",
            quoted(text)
        ));
    }
    Ok(text.to_owned())
}

/// `text` with its placeholders filled with some word.
fn filled(text: &str) -> Result<String, String> {
    let filled = PLACEHOLDERS.iter().fold(text.to_owned(), |name, open| name.replace(open, "x"));
    if filled.contains(['{', '}']) {
        return Err(format!(
            "{} has a placeholder that is not known\nhint: only {{part}}, {{stack}} and {{host}} \
             are filled in",
            quoted(text)
        ));
    }
    Ok(filled)
}

/// A branch name, with unfilled `{part}`, `{stack}` and `{host}`.
pub fn branch(text: &str) -> Result<String, String> {
    let filled = filled(text)?;
    if let Some(tag) = text.strip_prefix("refs/tags/") {
        return Err(format!(
            "{} is a tag, not a branch\nhint: to follow it: tag = {}",
            quoted(text),
            quoted(tag)
        ));
    }
    if let Some(branch) = text.strip_prefix("refs/heads/") {
        return Err(format!(
            "{} has the prefix of branches, which is left out\nhint: write branch = {}",
            quoted(text),
            quoted(branch)
        ));
    }
    if text.starts_with("refs/") {
        return Err(format!(
            "{} is no branch\nhint: only branches can be followed, with branch, and tags, with tag",
            quoted(text)
        ));
    }
    if text.parse::<Commit>().is_ok() {
        return Err(format!(
            "{} is a revision, not a branch\nhint: to stay at it: revision = {}",
            quoted(text),
            quoted(text)
        ));
    }
    filled.parse::<RefName>().map_err(|_| {
        format!(
            "{} is not a branch name that git accepts\n\
             hint: write the name without refs/heads/ or origin/, such as \"main\"",
            quoted(text)
        )
    })?;
    Ok(text.to_owned())
}

/// A pattern for tags, with unfilled `{part}`, `{stack}` and `{host}`.
pub fn tag_pattern(text: &str) -> Result<String, String> {
    let hint = "hint: write a name or a pattern without refs/tags/, such as \"v1.*\"";
    let filled = filled(text)?;
    if text.parse::<Commit>().is_ok() {
        return Err(format!(
            "{0} is a revision, not a tag\nhint: to stay at it: revision = {0}",
            quoted(text)
        ));
    }
    filled.parse::<TagPattern>().map_err(|error| format!("{error}\n{hint}"))?;
    Ok(text.to_owned())
}

/// A full revision.
pub fn revision(text: &str) -> Result<Commit, String> {
    text.parse().map_err(|error| {
        format!(
            "{} is {error}\n\
             hint: write the whole id, as git rev-parse prints it: a part of one may fit another commit one day",
            quoted(text)
        )
    })
}

/// The address of a repository. Only a poll shows whether this version can reach it.
pub fn address(text: &str) -> Result<Remote, String> {
    let hint = "hint: write an address such as \"https://git.example.org/spog.git\", \
                \"git@git.example.org:spog.git\" or \"/srv/git/spog.git\"";
    // Unlike the text, it shows no password.
    let remote = Remote::new(text);
    if text.is_empty() || text.starts_with('-') || text.contains(char::is_control) {
        return Err(format!("\"{remote}\" is not the address of a repository\n{hint}"));
    }
    let before_helper = text.split_once("::").map(|(helper, _)| helper);
    if before_helper.is_some_and(|name| name.chars().all(|c| c.is_ascii_alphanumeric() || c == '-'))
    {
        return Err(format!(
            "\"{remote}\" needs a helper program, and the agent runs none\n{hint}"
        ));
    }
    if remote.hides_its_host() {
        return Err(unreadable());
    }
    let first = text.split(':').next().unwrap_or_default();
    if !text.contains("://") && ["http", "https", "file"].contains(&&*first.to_ascii_lowercase()) {
        // ssh would take the scheme for a host.
        return Err(format!("\"{remote}\" lacks the two slashes behind {first}:\n{hint}"));
    }
    match remote.scheme() {
        None => Err(format!("\"{remote}\" has a scheme that git does not know\n{hint}")),
        Some(RemoteScheme::Local) if text.contains('@') && !text.contains('/') => {
            Err(format!("\"{remote}\" names no repository on that server\nhint: {remote}:ops.git"))
        }
        Some(RemoteScheme::Local) => {
            absolute_path(text.strip_prefix("file://").unwrap_or(text))?;
            Ok(remote)
        }
        Some(_) => Ok(remote),
    }
}

/// The error for an unclear address, without the address: it may contain a password anywhere.
fn unreadable() -> String {
    "it is unclear where the host of this address begins\n\
     hint: in a user and a password write %2F for /, %3F for ?, %23 for #, %40 for @ and %3A for :, \
     also %40 for @ in a path; or keep the password in a file that password_file names"
        .to_owned()
}

/// The address of a proxy server.
pub fn proxy(text: &str) -> Result<Remote, String> {
    let remote = Remote::new(text);
    if text.contains("://") && text.contains('@') && !remote.names_only_a_server() {
        return Err(unreadable());
    }
    let known = matches!(remote.scheme(), Some(RemoteScheme::Http | RemoteScheme::Https));
    if !known || text.contains(|c: char| c.is_control() || c.is_whitespace()) {
        return Err(format!(
            "\"{remote}\" is not the address of a proxy\n\
             hint: write one such as \"http://proxy.example.org:3128\""
        ));
    }
    Ok(remote)
}

/// An absolute path without `..`, normalized: no doubled slashes, none at the end.
pub fn absolute_path(text: &str) -> Result<PathBuf, String> {
    let refused = |why: &str, hint: &str| Err(format!("{} {why}\nhint: {hint}", quoted(text)));
    let path = Path::new(text);
    if text.contains(char::is_control) {
        return refused("has control characters in it", "write a path without them");
    }
    if text.starts_with('~') {
        return refused("is not an absolute path", "write out the home directory instead of \"~\"");
    }
    if !path.is_absolute() {
        return refused("is not an absolute path", "write the whole path, beginning with \"/\"");
    }
    if path.components().any(|part| part == Component::ParentDir) {
        return refused("has \"..\" in it", "write the resulting path");
    }
    Ok(path.components().collect())
}

/// A script's path in the repository.
pub fn script(text: &str) -> Result<String, String> {
    let hint = "hint: write a path from the top of the repository, such as \
                \"bin/work/common/work.sh\"";
    let plain = |part| matches!(part, Component::Normal(_));
    if text.is_empty() || text.contains(char::is_control) || text.ends_with('/') {
        return Err(format!("{} is not the path of a script\n{hint}", quoted(text)));
    }
    if !Path::new(text).components().all(plain) {
        return Err(format!("{} leaves the repository\n{hint}", quoted(text)));
    }
    Ok(text.to_owned())
}

/// A program of `before`: a script of the tree by its path there, or one of the machine by its absolute path.
pub fn before_program(text: &str) -> Result<String, String> {
    match text.starts_with('/') {
        true => absolute_path(text).map(|_| text.to_owned()),
        false => script(text),
    }
}

/// The name of a time zone, such as `Europe/Berlin`; whether there is one is seen where it is used.
pub fn zone_name(text: &str) -> Result<String, String> {
    if !is_zone_name(text) {
        return Err(format!(
            "{} is not the name of a time zone\nhint: write one that timedatectl list-timezones shows, such as \
             \"Europe/Berlin\"",
            quoted(text)
        ));
    }
    Ok(text.to_owned())
}

/// The place of a machine in each rollout.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
#[serde(try_from = "f64")]
pub struct Position(pub f64);

impl TryFrom<f64> for Position {
    type Error = String;

    fn try_from(number: f64) -> Result<Self, String> {
        match (0.0..=1.0).contains(&number) {
            true => Ok(Self(number)),
            false => Err(format!(
                "{number} is not a position in a rollout\nhint: write a number from 0.0, which is first, to 1.0"
            )),
        }
    }
}

/// `on_failure` in `.pmpy.toml`: a revision may keep the machine from going back, and not more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct StaysOnFailure;

impl TryFrom<String> for StaysOnFailure {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        match text.as_str() {
            "stay" => Ok(Self),
            _ => Err("a revision can only say \"stay\"\n\
                      hint: write on_failure = \"stay\", or leave it out; \"rollback\" belongs into agent.toml"
                .to_owned()),
        }
    }
}

/// A directory of `shared`: a path in the tree.
pub fn shared_dir(text: &str) -> Result<String, String> {
    let hint =
        "hint: write a path from the top of the repository, such as \"uploads\" or \"var/cache\"";
    let refused = |why: &str| Err(format!("{} {why}\n{hint}", quoted(text)));
    if text.is_empty() || text.contains(char::is_control) {
        return refused("is not the path of a directory");
    }
    for name in text.split('/') {
        match name {
            "" => return refused("is not a plain relative path"),
            "." | ".." => return refused("has \".\" or \"..\" in it"),
            name if name.len() > LONGEST_NAME => return refused("has a name that is too long"),
            name if [".git", ".temp"].iter().any(|own| name.eq_ignore_ascii_case(own)) => {
                return refused("is a name that git and the agent keep for themselves");
            }
            name if name.starts_with(TEMPORARY) => {
                return refused("is a name that the agent keeps for itself");
            }
            _ => {}
        }
    }
    if text.len() > MAX_PATH || text.split('/').count() > MAX_DEPTH {
        return refused("is too long");
    }
    Ok(text.to_owned())
}

/// The name of a branch or tag under `rename`.
pub fn short_ref(text: &str) -> Result<String, String> {
    text.parse::<RefName>().map_err(|_| {
        format!(
            "{} is not the name of a branch or tag\n\
             hint: write the name without refs/heads/ or refs/tags/, such as \"main\"",
            quoted(text)
        )
    })?;
    Ok(text.to_owned())
}

/// The name of a directory under `rename`.
pub fn directory_name(text: &str) -> Result<String, String> {
    let plain = |c: char| c.is_ascii_alphanumeric() || "._+-".contains(c);
    if text.is_empty()
        || text.len() > LONGEST_NAME
        || !text.starts_with(|c: char| c.is_ascii_alphanumeric())
        || !text.chars().all(plain)
    {
        return Err(format!(
            "{} cannot be the name of a directory here\n\
             hint: use letters, digits, \".\", \"_\", \"+\" and \"-\", begin with a letter or digit",
            quoted(text)
        ));
    }
    Ok(text.to_owned())
}

/// The value of `when`.
pub fn when(text: &str) -> Result<RerunPolicy, String> {
    match text {
        "changed" => Ok(RerunPolicy::Changed),
        "always" => Ok(RerunPolicy::Always),
        _ => positive_duration(text).map(RerunPolicy::Every).map_err(|_| {
            format!(
                "{} is not a valid value for when\nhint: write \"changed\", \"always\" or a time such as \
                 \"1h\"",
                quoted(text)
            )
        }),
    }
}

/// The name of an environment variable for the scripts.
pub fn variable(text: &str) -> Result<String, String> {
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '_';
    if text.is_empty() || text.starts_with(|c: char| c.is_ascii_digit()) || !text.chars().all(plain)
    {
        return Err(format!(
            "{} is not the name of a variable\n\
             hint: use letters, digits and \"_\", and do not begin with a digit",
            quoted(text)
        ));
    }
    if text.starts_with("AGENT_") {
        return Err(format!(
            "{} cannot be set: the agent sets the variables that begin with AGENT_\n\
             hint: choose another name",
            quoted(text)
        ));
    }
    Ok(text.to_owned())
}

fn variable_value(text: &str) -> Result<String, String> {
    if text.contains('\0') {
        return Err("a variable cannot hold a NUL character\nhint: leave it out".to_owned());
    }
    Ok(text.to_owned())
}

/// One non-empty line of text.
pub fn line(text: &str) -> Result<String, String> {
    if text.trim().is_empty() {
        return Err("the text is empty\nhint: write one, or leave the key out".to_owned());
    }
    if text.contains(char::is_control) {
        return Err(format!(
            "{} has control characters in it\nhint: write one line of plain text",
            quoted(text)
        ));
    }
    Ok(text.to_owned())
}

fn socket(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| {
        format!(
            "{} is not an address to listen on\n\
             hint: write an IP address and a port, such as \"127.0.0.1:9419\"",
            quoted(text)
        )
    })
}

fn page_host(text: &str) -> Result<String, String> {
    host_name(text).ok_or_else(|| {
        format!(
            "{} is no host\nhint: write a name without scheme and port, such as \"web01.example.org\"",
            quoted(text)
        )
    })
}

/// A repository as `init` takes it: `[NAME=]URL`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamedAddress {
    /// The name as written, or the last part of the address without `.git`.
    pub name: String,
    /// The address of its remote.
    pub address: Remote,
}

impl FromStr for NamedAddress {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Some((name, url)) = text.split_once('=')
            && let Ok(name) = repo_name(name)
        {
            return Ok(Self { name, address: address(url)? });
        }
        if let Some((name, url)) = text.split_once('=')
            && address(url).is_ok()
            && address(text).is_err()
        {
            repo_name(name)?;
        }
        let address = address(text)?;
        let shown = address.to_string();
        let last = shown.trim_end_matches('/').rsplit(['/', ':']).next().unwrap_or_default();
        let name = repo_name(last.strip_suffix(".git").unwrap_or(last)).map_err(|_| {
            format!("\"{shown}\" ends in no name for the repository\nhint: write NAME=URL")
        })?;
        Ok(Self { name, address })
    }
}

/// Reads a text and checks it at once, so that an error points at the value itself.
fn judged<'de, D: Deserializer<'de>, T>(
    deserializer: D,
    judge: fn(&str) -> Result<T, String>,
) -> Result<T, D::Error> {
    struct Judge<T>(fn(&str) -> Result<T, String>);

    impl<T> Visitor<'_> for Judge<T> {
        type Value = T;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a string in double quotes")
        }

        fn visit_str<E: de::Error>(self, text: &str) -> Result<T, E> {
            self.0(text).map_err(E::custom)
        }
    }

    deserializer.deserialize_str(Judge(judge))
}

/// Declares types for values that are text in the file, each with its check.
macro_rules! judged_text {
    ($($(#[$attribute:meta])* $name:ident($inner:ty) = $judge:path;)*) => {$(
        $(#[$attribute])*
        #[derive(Clone, Debug, PartialEq)]
        pub struct $name(pub $inner);

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                judged(deserializer, $judge).map(Self)
            }
        }
    )*};
}

judged_text! {
    /// See [`duration`].
    Wait(Duration) = duration;
    /// See [`positive_duration`].
    Time(Duration) = positive_duration;
    /// See [`byte_size`].
    ByteSize(u64) = byte_size;
    /// See [`token`].
    Token(String) = token;
    /// See [`repo_name`].
    #[derive(Eq, PartialOrd, Ord)]
    RepoName(String) = repo_name;
    /// See [`branch`].
    Branch(String) = branch;
    /// See [`tag_pattern`].
    Tag(String) = tag_pattern;
    /// See [`revision`].
    Revision(Commit) = revision;
    /// See [`absolute_path`].
    AbsolutePath(PathBuf) = absolute_path;
    /// See [`script`].
    Script(String) = script;
    /// See [`before_program`].
    BeforeProgram(String) = before_program;
    /// See [`zone_name`].
    ZoneName(String) = zone_name;
    /// See [`patterns::pattern`].
    Pattern(String) = patterns::pattern;
    /// See [`patterns::ref_pattern`].
    RefPattern(String) = patterns::ref_pattern;
    /// See [`short_ref`].
    #[derive(Eq, PartialOrd, Ord)]
    ShortRef(String) = short_ref;
    /// See [`shared_dir`].
    SharedDir(String) = shared_dir;
    /// See [`directory_name`].
    DirectoryName(String) = directory_name;
    /// See [`variable`].
    #[derive(Eq, PartialOrd, Ord)]
    Variable(String) = variable;
    /// The value of a [`Variable`].
    VariableValue(String) = variable_value;
    /// See [`line`].
    Line(String) = line;
    /// See [`address`].
    Address(Remote) = address;
    /// See [`proxy`].
    Proxy(Remote) = proxy;
    /// See [`when`].
    Cadence(RerunPolicy) = when;
    /// One entry of `brokers`.
    BrokerAddress(BrokerEntry) = str::parse;
    /// A topic of the message bus.
    TopicName(Topic) = str::parse;
    /// A host name or an IP address, in the form in which they are compared.
    HostName(String) = page_host;
    /// The address to listen on: an IP address and a port.
    Socket(SocketAddr) = socket;
}
