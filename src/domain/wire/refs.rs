//! What servers list: the answer to `ls-refs`, and what a server says first about itself. Knows which
//! of the refs was asked for.

use std::fmt::Write as _;

use super::{MOST_EDGES, NotAnAnswer, Packet, name_of, next_packet, put, put_session, shown};
use crate::domain::git::{Commit, RefName};
use crate::domain::remote::{Format, Tip, Wanted};

/// The most lines that a server may need to say what it can do.
const MOST_CAPABILITIES: usize = 256;

/// One ref of a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// Its full name.
    pub name: String,
    /// What it points at.
    pub id: Commit,
    /// The ref that it stands for, if it is a symbolic one.
    pub target: Option<String>,
}

/// The beginnings of the names of all refs that tell where `wanted` is.
pub fn prefixes(wanted: &Wanted) -> Vec<String> {
    match wanted {
        Wanted::Branch(branch) => vec![branch.local()],
        Wanted::Preferably(branch) => vec![branch.local(), "HEAD".to_owned()],
        Wanted::Default => vec!["HEAD".to_owned()],
        Wanted::Every { branch, kinds } => {
            let branch = branch.as_ref().map_or("HEAD".to_owned(), RefName::local);
            let mut prefixes = vec![branch];
            prefixes.extend(kinds.branches.then(|| BRANCHES.to_owned()));
            prefixes.extend(kinds.tags.then(|| TAGS.to_owned()));
            prefixes
        }
    }
}

/// Where branches are.
const BRANCHES: &str = "refs/heads/";
/// Where tags are.
const TAGS: &str = "refs/tags/";

/// The branches and tags among `refs`, by name, each once, when every one of a kind is wanted.
pub fn every(wanted: &Wanted, refs: &[Listed]) -> Vec<Tip> {
    let Wanted::Every { kinds, .. } = wanted else { return Vec::new() };
    let is_wanted = |name: &str| {
        (kinds.branches && name.starts_with(BRANCHES))
            // Servers of version 0 also list what annotated tags stand for.
            || (kinds.tags && name.starts_with(TAGS) && !name.ends_with("^{}"))
    };
    // No server of git's has such names; they would be lines of their own in a list.
    let is_sane = |name: &str| !name.contains(char::is_control);
    let wanted = refs.iter().filter(|listed| is_wanted(&listed.name) && is_sane(&listed.name));
    let mut tips: Vec<Tip> =
        wanted.map(|listed| Tip { name: listed.name.clone(), id: listed.id }).collect();
    tips.sort();
    tips.dedup_by(|one, other| one.name == other.name);
    tips
}

/// Asks a server of protocol version 2 for its refs that begin with one of `prefixes`.
pub fn ls_refs(format: Format, prefixes: &[String]) -> Vec<u8> {
    let mut out = Vec::new();
    put(&mut out, "command=ls-refs");
    put_session(&mut out, format);
    put(&mut out, "symrefs");
    for prefix in prefixes {
        put(&mut out, &format!("ref-prefix {prefix}"));
    }
    out.extend_from_slice(b"0000");
    out
}

/// The refs in a whole answer to [`ls_refs`]: lines with refs, a flush and nothing behind it.
///
/// # Errors
/// When it is anything else.
pub fn read_ls_refs(format: Format, answer: &[u8]) -> Result<Vec<Listed>, NotAnAnswer> {
    let mut rest = answer;
    let mut refs = Vec::new();
    if rest.is_empty() {
        return Err(NotAnAnswer::Empty);
    }
    loop {
        match next_packet(rest)? {
            Some((Packet::Data(line), length)) => {
                refs.push(read_line(format, line)?);
                rest = rest.get(length..).unwrap_or_default();
            }
            Some((Packet::Flush, 4)) if rest.len() == 4 => return Ok(refs),
            Some(_) => return Err(NotAnAnswer::NotThis("says more than was asked".to_owned())),
            None => {
                return Err(NotAnAnswer::NotThis("stops in the middle of its answer".to_owned()));
            }
        }
    }
}

/// One line of an answer.
fn read_line(format: Format, line: &[u8]) -> Result<Listed, NotAnAnswer> {
    let line = line.strip_suffix(b"\n").unwrap_or(line);
    if let Some(words) = line.strip_prefix(b"ERR ") {
        return Err(NotAnAnswer::told(words));
    }
    let bad = || NotAnAnswer::NotThis(format!("lists \"{}\" as a ref", shown(line, 60)));
    let mut fields = line.splitn(3, |&byte| byte == b' ');
    let id = read_id(format, fields.next().unwrap_or_default()).ok_or_else(bad)?;
    let name = fields.next().filter(|name| !name.is_empty()).ok_or_else(bad)?;
    let attributes = std::str::from_utf8(fields.next().unwrap_or_default()).unwrap_or_default();
    let target = attributes.split(' ').find_map(|word| word.strip_prefix("symref-target:"));
    Ok(Listed { name: ref_name(name), id, target: target.map(str::to_owned) })
}

/// A ref's name as text: bytes that are none become `\\xFF`. With a backslash, which git allows in no
/// name, it is told of and never taken for another.
pub fn ref_name(name: &[u8]) -> String {
    let mut text = String::with_capacity(name.len());
    for chunk in name.utf8_chunks() {
        text.push_str(chunk.valid());
        for byte in chunk.invalid() {
            // A String takes everything.
            let _ = write!(text, "\\x{byte:02X}");
        }
    }
    text
}

/// An id in the hash of the session.
fn read_id(format: Format, text: &[u8]) -> Option<Commit> {
    let digits = match format {
        Format::Sha1 => 40,
        Format::Sha256 => 64,
    };
    std::str::from_utf8(text).ok().filter(|text| text.len() == digits)?.parse().ok()
}

/// Where `wanted` is on a server that lists `refs`: the branch, and its tip if it has one. Only exact
/// names count. A server too old to tell what its HEAD stands for means the branch with the same
/// tip, `main` and `master` before others, as git-clone(1) guesses.
pub fn answer(wanted: &Wanted, refs: &[Listed]) -> (Option<RefName>, Option<Commit>) {
    let head = refs.iter().find(|listed| listed.name == "HEAD");
    let branch_of = |name: &str| name.strip_prefix("refs/heads/")?.parse::<RefName>().ok();
    let default = head.and_then(|head| match &head.target {
        Some(target) => branch_of(target),
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
    let branch = wanted.choose(default, |branch| tip_of(branch).is_some());
    let tip = branch.as_ref().and_then(tip_of);
    (branch, tip)
}

/// A version of git's protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// 0, and 1, which differs by its first line only: every ref is listed unasked.
    V0,
    /// 2: commands.
    V2,
}

/// What a server can do, in its own words: `side-band-64k`, `object-format=sha1`, …
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Capabilities(Vec<String>);

impl Capabilities {
    /// Whether it can do `name`, with or without a value.
    pub fn has(&self, name: &str) -> bool {
        self.values(name).next().is_some()
    }

    /// What it says behind `name=`; empty for a bare `name`.
    fn values(&self, name: &str) -> impl Iterator<Item = &str> {
        self.0.iter().filter_map(move |word| match word.strip_prefix(name)? {
            "" => Some(""),
            value => value.strip_prefix('='),
        })
    }

    fn format(&self) -> Result<Format, NotAnAnswer> {
        match self.values("object-format").next() {
            None => Ok(Format::Sha1),
            Some(name) => [Format::Sha1, Format::Sha256]
                .into_iter()
                .find(|&format| name_of(format) == name)
                .ok_or_else(|| {
                    let name = shown(name.as_bytes(), 60);
                    NotAnAnswer::NotThis(format!(
                        "names objects by \"{name}\", not by a hash known here"
                    ))
                }),
        }
    }
}

/// What a server says first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Advertisement {
    /// Which protocol it speaks.
    pub version: Version,
    /// By which hash it names its objects.
    pub format: Format,
    /// What it can do.
    pub capabilities: Capabilities,
    /// The refs that were asked for; none in version 2.
    pub refs: Vec<Listed>,
    /// Commits whose parents the server lacks itself; told in version 0 only.
    pub shallow: Vec<Commit>,
}

/// Takes what a server says first apart as its bytes come in, and keeps the refs that begin with one
/// of the prefixes: a server of version 0 lists hundreds of thousands.
#[derive(Debug)]
pub struct Advertising {
    prefixes: Vec<String>,
    rest: Vec<u8>,
    stage: Stage,
    said: Advertisement,
    head: Option<Commit>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// Nothing has come.
    First,
    /// `# service=git-upload-pack` has come, which is how it begins over http.
    Service,
    /// The flush behind it, or `version 1`, has come.
    Version,
    /// Refs of version 0 come.
    Refs,
    /// Capabilities of version 2 come.
    Capabilities,
    /// The last flush has come.
    Complete,
}

impl Advertising {
    /// Keeps the refs that are named in `prefixes`, and those below one that ends with a slash.
    pub fn new(prefixes: Vec<String>) -> Self {
        let said = Advertisement {
            version: Version::V0,
            format: Format::Sha1,
            capabilities: Capabilities::default(),
            refs: Vec::new(),
            shallow: Vec::new(),
        };
        Self { prefixes, rest: Vec::new(), stage: Stage::First, said, head: None }
    }

    /// Takes the next bytes, in pieces of any size. What stands behind the end is left; tells how
    /// many bytes were taken.
    ///
    /// # Errors
    /// When it is not what a git server says first.
    pub fn feed(&mut self, bytes: &[u8]) -> Result<usize, NotAnAnswer> {
        let before = self.rest.len();
        let mut held = std::mem::take(&mut self.rest);
        held.extend_from_slice(bytes);
        let mut at = 0;
        while self.stage != Stage::Complete
            && let Some((packet, length)) = next_packet(held.get(at..).unwrap_or_default())?
        {
            self.take(packet)?;
            at += length;
        }
        if self.stage == Stage::Complete {
            return Ok(at.saturating_sub(before));
        }
        held.drain(..at);
        self.rest = held;
        Ok(bytes.len())
    }

    /// Whether the end has come.
    pub fn is_complete(&self) -> bool {
        self.stage == Stage::Complete
    }

    /// What was said.
    ///
    /// # Errors
    /// When its end is missing.
    pub fn finish(self) -> Result<Advertisement, NotAnAnswer> {
        match self.stage {
            Stage::Complete => Ok(self.said),
            Stage::First if self.rest.is_empty() => Err(NotAnAnswer::Empty),
            _ => Err(NotAnAnswer::NotThis("stops in the middle of its refs".to_owned())),
        }
    }

    fn take(&mut self, packet: Packet<'_>) -> Result<(), NotAnAnswer> {
        let line = match packet {
            Packet::Data(line) => line.strip_suffix(b"\n").unwrap_or(line),
            Packet::Flush => return self.take_flush(),
            Packet::Delimiter | Packet::ResponseEnd => {
                return Err(NotAnAnswer::NotThis(
                    "separates where nothing is to separate".to_owned(),
                ));
            }
        };
        if let Some(words) = line.strip_prefix(b"ERR ") {
            return Err(NotAnAnswer::told(words));
        }
        match self.stage {
            Stage::First if line.starts_with(b"# service=") => {
                self.stage = Stage::Service;
                Ok(())
            }
            Stage::First | Stage::Version if line == b"version 2" => {
                self.said.version = Version::V2;
                self.stage = Stage::Capabilities;
                Ok(())
            }
            Stage::First | Stage::Version if line == b"version 1" => {
                self.stage = Stage::Version;
                Ok(())
            }
            Stage::First | Stage::Version => self.take_first_ref(line),
            Stage::Refs => self.take_ref(line),
            Stage::Capabilities if self.said.capabilities.0.len() < MOST_CAPABILITIES => {
                self.said.capabilities.0.push(String::from_utf8_lossy(line).into_owned());
                Ok(())
            }
            Stage::Service | Stage::Capabilities | Stage::Complete => {
                Err(NotAnAnswer::NotThis("says more than can be".to_owned()))
            }
        }
    }

    fn take_flush(&mut self) -> Result<(), NotAnAnswer> {
        match self.stage {
            Stage::Service => self.stage = Stage::Version,
            Stage::Capabilities => {
                self.said.format = self.said.capabilities.format()?;
                for command in ["ls-refs", "fetch"] {
                    if !self.said.capabilities.has(command) {
                        return Err(NotAnAnswer::NotThis(format!("does not offer {command}")));
                    }
                }
                self.stage = Stage::Complete;
            }
            // An empty repository of a server that lists no capabilities then.
            Stage::First | Stage::Version | Stage::Refs | Stage::Complete => {
                self.stage = Stage::Complete;
            }
        }
        Ok(())
    }

    /// The first line of version 0 has the capabilities behind its ref.
    fn take_first_ref(&mut self, line: &[u8]) -> Result<(), NotAnAnswer> {
        let mut halves = line.splitn(2, |&byte| byte == 0);
        let (first, words) = (halves.next().unwrap_or_default(), halves.next().unwrap_or_default());
        let words = String::from_utf8_lossy(words);
        let words = words.split(' ').filter(|word| !word.is_empty()).map(str::to_owned);
        self.said.capabilities = Capabilities(words.collect());
        self.said.format = self.said.capabilities.format()?;
        self.stage = Stage::Refs;
        // An empty repository has no ref to put them behind.
        if first.ends_with(b" capabilities^{}") { Ok(()) } else { self.take_ref(first) }
    }

    fn take_ref(&mut self, line: &[u8]) -> Result<(), NotAnAnswer> {
        let format = self.said.format;
        if let Some(id) = line.strip_prefix(b"shallow ") {
            if self.said.shallow.len() == MOST_EDGES {
                return Err(NotAnAnswer::too_many_edges());
            }
            self.said.shallow.extend(read_id(format, id));
            return Ok(());
        }
        let mut listed = read_line(format, line)?;
        let name = listed.name.as_str();
        let is_asked = self.prefixes.iter().any(|prefix| {
            name == prefix || (prefix.ends_with('/') && name.starts_with(prefix.as_str()))
        });
        let asks_head = || self.prefixes.iter().any(|prefix| prefix == "HEAD");
        if name == "HEAD" {
            let mut targets = self.said.capabilities.values("symref");
            listed.target = targets.find_map(|pair| pair.strip_prefix("HEAD:")).map(str::to_owned);
            self.head = Some(listed.id);
        }
        // What HEAD may stand for on a server that does not tell: two names, or the first.
        let may_be_head = self.head == Some(listed.id)
            && name.starts_with("refs/heads/")
            && asks_head()
            && (matches!(name, "refs/heads/main" | "refs/heads/master")
                || !self.said.refs.iter().any(|known| known.name.starts_with("refs/heads/")));
        if is_asked || may_be_head {
            self.said.refs.push(listed);
        }
        Ok(())
    }
}

/// What a server says first, when all of it is here.
///
/// # Errors
/// When it is not what a git server says, or more.
pub fn read_advertisement(
    prefixes: Vec<String>,
    bytes: &[u8],
) -> Result<Advertisement, NotAnAnswer> {
    let mut reader = Advertising::new(prefixes);
    if reader.feed(bytes)? < bytes.len() {
        return Err(NotAnAnswer::NotThis("says more than can be".to_owned()));
    }
    reader.finish()
}
