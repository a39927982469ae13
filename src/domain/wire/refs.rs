//! Ref lists of servers: the answer to `ls-refs`, and the first message of a server (the advertisement).
//! Selects the refs that were asked for.

use std::fmt::Write as _;

use super::{MOST_EDGES, Packet, ProtocolError, name_of, next_packet, printable, put, put_session};
use crate::domain::followed::{ChosenTag, ListedTag, TagScope};
use crate::domain::git::{Commit, ObjectFormat, RefName};
use crate::domain::remote::{PollScope, RefTip, RemoteHead};

/// The limit of capability lines of one server.
const MOST_CAPABILITIES: usize = 256;

/// One ref that a server lists.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AdvertisedRef {
    /// The full name.
    pub name: String,
    /// The object that it points at.
    pub id: Commit,
    /// The target, for a symbolic ref; empty for a HEAD that is certainly detached.
    pub target: Option<String>,
    /// The object behind an annotated tag, where the server was asked for it.
    pub peeled: Option<Commit>,
}

/// The refs that a server is asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RefQuery {
    /// Full names, and prefixes with a final slash.
    pub names: Vec<String>,
    /// The beginning of the full names of tags that are wanted with the objects behind them.
    pub tags: Option<String>,
    /// The beginnings of the full names of branches.
    pub branches: Vec<String>,
}

impl RefQuery {
    /// The refs that are needed to answer `wanted`.
    pub fn of(wanted: &PollScope) -> Self {
        let head = || "HEAD".to_owned();
        let named = |names| Self { names, ..Self::default() };
        match wanted {
            PollScope::Branch(branch) => named(vec![branch.local()]),
            PollScope::WithHead(branch) => named(vec![branch.local(), head()]),
            PollScope::Default | PollScope::Revision(_) => named(vec![head()]),
            PollScope::Tag(TagScope { pattern, .. }) => {
                Self { tags: Some(format!("{TAGS}{}", pattern.literal())), ..named(vec![head()]) }
            }
            PollScope::Branches(beginnings) => {
                let branches = beginnings.iter().map(|it| format!("{BRANCHES}{it}")).collect();
                Self { branches, ..named(vec![head()]) }
            }
            PollScope::Every { followed, kinds } => {
                let mut names = vec![followed.branch().map_or_else(head, RefName::local)];
                names.extend(kinds.branches.then(|| BRANCHES.to_owned()));
                names.extend(kinds.tags.then(|| TAGS.to_owned()));
                named(names)
            }
        }
    }

    /// Returns `true` if the ref `name` is asked for.
    fn covers(&self, name: &str) -> bool {
        let is_named = |prefix: &String| {
            name == prefix || (prefix.ends_with('/') && name.starts_with(prefix.as_str()))
        };
        self.names.iter().any(is_named)
            || self.tags.iter().chain(&self.branches).any(|beginning| name.starts_with(beginning))
    }

    /// Returns `true` if HEAD is asked for.
    pub fn asks_head(&self) -> bool {
        self.names.iter().any(|name| name == "HEAD")
    }
}

/// The target of a HEAD that is detached.
const DETACHED: &str = "";

const BRANCHES: &str = "refs/heads/";
const TAGS: &str = "refs/tags/";

/// The branches and tags among `refs`, sorted by name and unique, when every ref of a kind is wanted.
pub fn selected_refs(wanted: &PollScope, refs: &[AdvertisedRef]) -> Vec<RefTip> {
    let kinds = wanted.kinds();
    let is_wanted = |name: &str| {
        (kinds.branches && name.strip_prefix(BRANCHES).is_some_and(|it| wanted.lists_branch(it)))
            // Servers of version 0 also list the peeled value of annotated tags.
            || (kinds.tags && name.starts_with(TAGS) && !name.ends_with(PEELED))
    };
    // No git server has such names; they would become separate lines of a list.
    let is_sane = |name: &str| !name.contains(char::is_control);
    let wanted = refs.iter().filter(|listed| is_wanted(&listed.name) && is_sane(&listed.name));
    let mut tips: Vec<RefTip> =
        wanted.map(|listed| RefTip { name: listed.name.clone(), id: listed.id }).collect();
    tips.sort();
    tips.dedup_by(|one, other| one.name == other.name);
    tips
}

/// The end of the line of version 0, and of `info/refs`, with the object behind an annotated tag.
const PEELED: &str = "^{}";

/// The tags among `refs`, with the objects behind them.
fn listed_tags(refs: &[AdvertisedRef]) -> Vec<ListedTag> {
    let mut tags: Vec<ListedTag> = Vec::new();
    for listed in refs {
        let Some(name) = listed.name.strip_prefix(TAGS) else { continue };
        if name.contains(char::is_control) {
            continue;
        }
        match (name.strip_suffix(PEELED), tags.last_mut()) {
            (Some(of), Some(last)) if last.name == of => last.peeled = listed.id,
            (Some(_), _) => {}
            (None, _) => tags.push(ListedTag {
                name: name.to_owned(),
                id: listed.id,
                peeled: listed.peeled.unwrap_or(listed.id),
            }),
        }
    }
    tags
}

/// The newest tag for `wanted` among `refs`; `None`: none matches, or no tag is followed.
pub fn chosen_tag(wanted: &PollScope, refs: &[AdvertisedRef]) -> Option<ChosenTag> {
    ChosenTag::of(wanted.tag_scope()?, &listed_tags(refs))
}

/// The request for the refs of `query`, for a server of protocol version 2.
pub fn ls_refs(format: ObjectFormat, query: &RefQuery) -> Vec<u8> {
    let mut out = Vec::new();
    put(&mut out, "command=ls-refs");
    put_session(&mut out, format);
    if query.tags.is_some() {
        put(&mut out, "peel");
    }
    put(&mut out, "symrefs");
    for prefix in query.names.iter().chain(&query.tags).chain(&query.branches) {
        put(&mut out, &format!("ref-prefix {prefix}"));
    }
    out.extend_from_slice(b"0000");
    out
}

/// The refs in a complete answer to [`ls_refs`]: lines with refs, then a flush at the end.
///
/// # Errors
/// The answer is anything else, or an error of the server.
pub fn read_ls_refs(
    format: ObjectFormat,
    answer: &[u8],
) -> Result<Vec<AdvertisedRef>, ProtocolError> {
    let mut rest = answer;
    let mut refs = Vec::new();
    if rest.is_empty() {
        return Err(ProtocolError::Empty);
    }
    loop {
        match next_packet(rest)? {
            Some((Packet::Data(line), length)) => {
                let mut listed = read_line(format, line)?;
                if listed.name == "HEAD" {
                    listed.target.get_or_insert_with(|| DETACHED.to_owned());
                }
                refs.push(listed);
                rest = rest.get(length..).unwrap_or_default();
            }
            Some((Packet::Flush, 4)) if rest.len() == 4 => return Ok(refs),
            Some(_) => {
                return Err(ProtocolError::NotThis("answers more than was asked".to_owned()));
            }
            None => {
                return Err(ProtocolError::NotThis("stops in the middle of its answer".to_owned()));
            }
        }
    }
}

/// Parses one line of an answer.
fn read_line(format: ObjectFormat, line: &[u8]) -> Result<AdvertisedRef, ProtocolError> {
    let line = line.strip_suffix(b"\n").unwrap_or(line);
    if let Some(words) = line.strip_prefix(b"ERR ") {
        return Err(ProtocolError::from_server(words));
    }
    let bad = || ProtocolError::NotThis(format!("lists \"{}\" as a ref", printable(line, 60)));
    let mut fields = line.splitn(3, |&byte| byte == b' ');
    let id = read_id(format, fields.next().unwrap_or_default()).ok_or_else(bad)?;
    let name = fields.next().filter(|name| !name.is_empty()).ok_or_else(bad)?;
    let attributes = std::str::from_utf8(fields.next().unwrap_or_default()).unwrap_or_default();
    let attribute = |key: &str| attributes.split(' ').find_map(|word| word.strip_prefix(key));
    let target = attribute("symref-target:").map(str::to_owned);
    let peeled = attribute("peeled:").and_then(|id| read_id(format, id.as_bytes()));
    Ok(AdvertisedRef { name: ref_name(name), id, target, peeled })
}

/// A ref's name as text: bytes that are no UTF-8 become `\\xFF`. The backslash, which git forbids in
/// names, keeps such a name from being mistaken for another.
pub fn ref_name(name: &[u8]) -> String {
    let mut text = String::with_capacity(name.len());
    for chunk in name.utf8_chunks() {
        text.push_str(chunk.valid());
        for byte in chunk.invalid() {
            // Writing to a String cannot fail.
            let _ = write!(text, "\\x{byte:02X}");
        }
    }
    text
}

/// Parses an id of the session's object format.
fn read_id(format: ObjectFormat, text: &[u8]) -> Option<Commit> {
    let digits = match format {
        ObjectFormat::Sha1 => 40,
        ObjectFormat::Sha256 => 64,
    };
    std::str::from_utf8(text).ok().filter(|text| text.len() == digits)?.parse().ok()
}

/// The branch for `wanted` on a server that lists `refs`, its tip if it has one, and the branch of HEAD
/// where the server names it. Only exact names count. For a server too old to report the target of HEAD it
/// is the branch with the same tip, `main` and `master` before others, as git-clone(1) guesses.
pub fn answer(wanted: &PollScope, refs: &[AdvertisedRef]) -> RefsAnswer {
    let head = refs.iter().find(|listed| listed.name == "HEAD");
    let branch_of = |name: &str| name.strip_prefix("refs/heads/")?.parse::<RefName>().ok();
    let target = head.and_then(|head| branch_of(head.target.as_ref()?));
    let default = head.and_then(|head| match &head.target {
        Some(_) => target.clone(),
        None => {
            let mut same: Vec<RefName> = refs
                .iter()
                .filter(|listed| listed.id == head.id)
                .filter_map(|listed| branch_of(&listed.name))
                .collect();
            same.sort_by_key(|branch| match branch.as_str() {
                "main" => 0,
                "master" => 1,
                _ => 2,
            });
            same.into_iter().next()
        }
    });
    let tip_of = |branch: &RefName| {
        let name = branch.local();
        let listed = refs.iter().find(|listed| listed.name == name);
        listed.or(head.filter(|head| head.target.as_ref() == Some(&name))).map(|found| found.id)
    };
    let branch = wanted.branch().cloned().or(default);
    let tag = chosen_tag(wanted, refs);
    let tip = match (wanted.fixed(), wanted.revision()) {
        (None, _) => branch.as_ref().and_then(tip_of),
        (Some(_), None) => tag.as_ref().map(|tag| tag.commit),
        (Some(_), revision) => revision,
    };
    let head = head.zip(target).map(|(head, branch)| RemoteHead { branch, tip: Some(head.id) });
    RefsAnswer { branch, tip, tag, head }
}

/// The part of an answer to a poll that one branch needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RefsAnswer {
    /// The branch; `None`: there is no default branch.
    pub branch: Option<RefName>,
    /// The tip of what is followed; `None`: the remote has no such branch, or no tag that matches.
    pub tip: Option<Commit>,
    /// The newest tag that matches; `None`: none does, or no tag is followed.
    pub tag: Option<ChosenTag>,
    /// The branch of HEAD, where the server names it.
    pub head: Option<RemoteHead>,
}

/// A version of git's protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProtocolVersion {
    /// Version 0, or 1, which only adds a first line: the server lists every ref unasked.
    V0,
    /// Version 2: the server answers commands.
    V2,
}

/// The capabilities of a server, in its own words: `side-band-64k`, `object-format=sha1`, …
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Capabilities(Vec<String>);

impl Capabilities {
    /// Returns `true` if the server has the capability `name`, with or without a value.
    pub fn has(&self, name: &str) -> bool {
        self.values(name).next().is_some()
    }

    /// The first of `names` that the server has.
    pub(super) fn first_of<'a>(&self, names: &[&'a str]) -> Option<&'a str> {
        names.iter().copied().find(|name| self.has(name))
    }

    /// The best side-band that the server has; without one a pack comes as bare bytes.
    pub(super) fn side_band(&self) -> Option<&'static str> {
        self.first_of(&["side-band-64k", "side-band"])
    }

    /// The depth to ask for when `wanted` is wanted: 0, all history, where the server cannot cut it.
    pub(super) fn depth(&self, wanted: u32) -> u32 {
        if self.has("shallow") { wanted } else { 0 }
    }

    /// The values of `name=VALUE`; empty for a bare `name`.
    fn values(&self, name: &str) -> impl Iterator<Item = &str> {
        self.0.iter().filter_map(move |word| match word.strip_prefix(name)? {
            "" => Some(""),
            value => value.strip_prefix('='),
        })
    }

    fn format(&self) -> Result<ObjectFormat, ProtocolError> {
        match self.values("object-format").next() {
            None => Ok(ObjectFormat::Sha1),
            Some(name) => [ObjectFormat::Sha1, ObjectFormat::Sha256]
                .into_iter()
                .find(|&format| name_of(format) == name)
                .ok_or_else(|| {
                    let name = printable(name.as_bytes(), 60);
                    ProtocolError::NotThis(format!(
                        "names objects by \"{name}\", not by a hash known here"
                    ))
                }),
        }
    }
}

/// The first message of a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Advertisement {
    /// The protocol version of the server.
    pub version: ProtocolVersion,
    /// The object format of the server.
    pub format: ObjectFormat,
    /// The capabilities of the server.
    pub capabilities: Capabilities,
    /// The refs that were asked for; none in version 2.
    pub refs: Vec<AdvertisedRef>,
    /// Commits whose parents the server itself lacks; sent in version 0 only.
    pub shallow: Vec<Commit>,
}

impl Advertisement {
    /// The object format, or `likely` where the server does not send it, as in version 0 before git 2.40
    /// for an empty repository.
    pub fn format_or(&self, likely: ObjectFormat) -> ObjectFormat {
        let is_silent = self.version == ProtocolVersion::V0 && self.capabilities.0.is_empty();
        if is_silent && self.refs.is_empty() { likely } else { self.format }
    }
}

/// Parses an advertisement as its bytes arrive, and keeps only refs that are asked for: a server
/// of version 0 may list hundreds of thousands.
#[derive(Debug)]
pub struct AdvertisementParser {
    query: RefQuery,
    rest: Vec<u8>,
    stage: AdvertisementStage,
    said: Advertisement,
    head: Option<Commit>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum AdvertisementStage {
    /// Before the first packet.
    First,
    /// After `# service=git-upload-pack`, the first packet over http.
    Service,
    /// After the flush that follows, or after `version 1`.
    Version,
    /// Inside the refs of version 0.
    Refs,
    /// Inside the capabilities of version 2.
    Capabilities,
    /// After the last flush.
    Complete,
}

impl AdvertisementParser {
    /// A parser that keeps the refs that `query` asks for.
    pub fn new(query: RefQuery) -> Self {
        let said = Advertisement {
            version: ProtocolVersion::V0,
            format: ObjectFormat::Sha1,
            capabilities: Capabilities::default(),
            refs: Vec::new(),
            shallow: Vec::new(),
        };
        Self { query, rest: Vec::new(), stage: AdvertisementStage::First, said, head: None }
    }

    /// Takes the next bytes, in pieces of any size, up to the end of the advertisement, and returns how
    /// many it took.
    ///
    /// # Errors
    /// The bytes are no advertisement of a git server.
    pub fn feed(&mut self, bytes: &[u8]) -> Result<usize, ProtocolError> {
        let before = self.rest.len();
        let mut held = std::mem::take(&mut self.rest);
        held.extend_from_slice(bytes);
        let mut at = 0;
        while self.stage != AdvertisementStage::Complete
            && let Some((packet, length)) = next_packet(held.get(at..).unwrap_or_default())?
        {
            self.take(packet)?;
            at += length;
        }
        if self.stage == AdvertisementStage::Complete {
            return Ok(at.saturating_sub(before));
        }
        held.drain(..at);
        self.rest = held;
        Ok(bytes.len())
    }

    /// Returns `true` after the end of the advertisement.
    pub fn is_complete(&self) -> bool {
        self.stage == AdvertisementStage::Complete
    }

    /// The parsed advertisement.
    ///
    /// # Errors
    /// Its end is missing.
    pub fn finish(self) -> Result<Advertisement, ProtocolError> {
        match self.stage {
            AdvertisementStage::Complete => Ok(self.said),
            AdvertisementStage::First if self.rest.is_empty() => Err(ProtocolError::Empty),
            _ => Err(ProtocolError::NotThis("stops in the middle of its refs".to_owned())),
        }
    }

    fn take(&mut self, packet: Packet<'_>) -> Result<(), ProtocolError> {
        let line = match packet {
            Packet::Data(line) => line.strip_suffix(b"\n").unwrap_or(line),
            Packet::Flush => return self.take_flush(),
            Packet::Delimiter | Packet::ResponseEnd => {
                return Err(ProtocolError::NotThis(
                    "sends a separator in the wrong place".to_owned(),
                ));
            }
        };
        if let Some(words) = line.strip_prefix(b"ERR ") {
            return Err(ProtocolError::from_server(words));
        }
        match self.stage {
            AdvertisementStage::First if line.starts_with(b"# service=") => {
                self.stage = AdvertisementStage::Service;
                Ok(())
            }
            AdvertisementStage::First | AdvertisementStage::Version if line == b"version 2" => {
                self.said.version = ProtocolVersion::V2;
                self.stage = AdvertisementStage::Capabilities;
                Ok(())
            }
            AdvertisementStage::First | AdvertisementStage::Version if line == b"version 1" => {
                self.stage = AdvertisementStage::Version;
                Ok(())
            }
            AdvertisementStage::First | AdvertisementStage::Version => self.take_first_ref(line),
            AdvertisementStage::Refs => self.take_ref(line),
            AdvertisementStage::Capabilities
                if self.said.capabilities.0.len() < MOST_CAPABILITIES =>
            {
                self.said.capabilities.0.push(String::from_utf8_lossy(line).into_owned());
                Ok(())
            }
            AdvertisementStage::Service
            | AdvertisementStage::Capabilities
            | AdvertisementStage::Complete => {
                Err(ProtocolError::NotThis("sends a longer answer than is possible".to_owned()))
            }
        }
    }

    fn take_flush(&mut self) -> Result<(), ProtocolError> {
        match self.stage {
            AdvertisementStage::Service => self.stage = AdvertisementStage::Version,
            AdvertisementStage::Capabilities => {
                self.said.format = self.said.capabilities.format()?;
                for command in ["ls-refs", "fetch"] {
                    if !self.said.capabilities.has(command) {
                        return Err(ProtocolError::NotThis(format!("does not offer {command}")));
                    }
                }
                self.stage = AdvertisementStage::Complete;
            }
            // An empty repository on a server that lists no capabilities then.
            AdvertisementStage::First
            | AdvertisementStage::Version
            | AdvertisementStage::Refs
            | AdvertisementStage::Complete => {
                self.stage = AdvertisementStage::Complete;
            }
        }
        Ok(())
    }

    /// The first line of version 0 has the capabilities after its ref.
    fn take_first_ref(&mut self, line: &[u8]) -> Result<(), ProtocolError> {
        let mut halves = line.splitn(2, |&byte| byte == 0);
        let (first, words) = (halves.next().unwrap_or_default(), halves.next().unwrap_or_default());
        let words = String::from_utf8_lossy(words);
        let words = words.split(' ').filter(|word| !word.is_empty()).map(str::to_owned);
        self.said.capabilities = Capabilities(words.collect());
        self.said.format = self.said.capabilities.format()?;
        self.stage = AdvertisementStage::Refs;
        // In an empty repository this line has no real ref before the capabilities.
        if first.ends_with(b" capabilities^{}") { Ok(()) } else { self.take_ref(first) }
    }

    fn take_ref(&mut self, line: &[u8]) -> Result<(), ProtocolError> {
        let format = self.said.format;
        if let Some(id) = line.strip_prefix(b"shallow ") {
            if self.said.shallow.len() == MOST_EDGES {
                return Err(ProtocolError::too_many_edges());
            }
            self.said.shallow.extend(read_id(format, id));
            return Ok(());
        }
        let mut listed = read_line(format, line)?;
        let name = listed.name.as_str();
        let is_asked = self.query.covers(name);
        if name == "HEAD" {
            let mut targets = self.said.capabilities.values("symref");
            listed.target = targets.find_map(|pair| pair.strip_prefix("HEAD:")).map(str::to_owned);
            // Servers that name their object format have named the target of HEAD for longer.
            if self.said.capabilities.has("object-format") {
                listed.target.get_or_insert_with(|| DETACHED.to_owned());
            }
            self.head = Some(listed.id);
        }
        // The candidates for HEAD on a server that does not report its target: two names, or the first
        // branch.
        let may_be_head = self.head == Some(listed.id)
            && name.starts_with("refs/heads/")
            && self.query.asks_head()
            && (matches!(name, "refs/heads/main" | "refs/heads/master")
                || !self.said.refs.iter().any(|known| known.name.starts_with("refs/heads/")));
        if is_asked || may_be_head {
            self.said.refs.push(listed);
        }
        Ok(())
    }
}

/// Parses a complete advertisement.
///
/// # Errors
/// The bytes are no advertisement, or more than one.
pub fn read_advertisement(query: RefQuery, bytes: &[u8]) -> Result<Advertisement, ProtocolError> {
    let mut reader = AdvertisementParser::new(query);
    if reader.feed(bytes)? < bytes.len() {
        return Err(ProtocolError::NotThis("sends a longer answer than is possible".to_owned()));
    }
    reader.finish()
}
