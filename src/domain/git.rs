//! Git's terms as values: object ids, branch names, remotes, and the relation of two commits. Knows no
//! repository and no library; everything here is text in, value out.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::domain::text::EscapeControls;

/// A full object id: 20 bytes (SHA-1) or 32 bytes (SHA-256). Never abbreviated.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ObjectId {
    bytes: [u8; 32],
    len: u8,
}

/// The error for a text that is no full object id.
#[derive(Debug, PartialEq, Eq)]
pub struct InvalidObjectId;

impl fmt::Display for InvalidObjectId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not a full revision: 40 or 64 hexadecimal digits are expected")
    }
}

impl std::error::Error for InvalidObjectId {}

impl ObjectId {
    /// The id made of `raw` bytes; `None` unless there are 20 or 32 of them.
    pub fn from_bytes(raw: &[u8]) -> Option<Self> {
        let mut bytes = [0; 32];
        match raw.len() {
            20 | 32 => bytes[..raw.len()].copy_from_slice(raw),
            _ => return None,
        }
        Some(Self { bytes, len: raw.len() as u8 })
    }

    /// The raw bytes: 20 or 32.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len)]
    }

    /// The object format that an id of this length belongs to.
    pub fn format(&self) -> ObjectFormat {
        if self.len == 20 { ObjectFormat::Sha1 } else { ObjectFormat::Sha256 }
    }
}

impl FromStr for ObjectId {
    type Err = InvalidObjectId;

    fn from_str(text: &str) -> Result<Self, InvalidObjectId> {
        if !matches!(text.len(), 40 | 64) {
            return Err(InvalidObjectId);
        }
        let mut bytes = [0; 32];
        for (byte, pair) in bytes.iter_mut().zip(text.as_bytes().chunks(2)) {
            let digit = |c: u8| char::from(c).to_digit(16).ok_or(InvalidObjectId);
            *byte = (digit(pair[0])? * 16 + digit(pair[1])?) as u8;
        }
        Ok(Self { bytes, len: (text.len() / 2) as u8 })
    }
}

impl TryFrom<String> for ObjectId {
    type Error = InvalidObjectId;

    fn try_from(text: String) -> Result<Self, InvalidObjectId> {
        text.parse()
    }
}

impl From<ObjectId> for String {
    fn from(id: ObjectId) -> Self {
        id.to_string()
    }
}

impl fmt::Display for ObjectId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.as_bytes().iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for ObjectId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A commit: the full id of one revision. It may be missing in the local object store.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Commit(pub ObjectId);

impl Commit {
    /// The first seven digits, for people.
    pub fn short(&self) -> String {
        self.to_string()[..7].to_owned()
    }
}

impl FromStr for Commit {
    type Err = InvalidObjectId;

    fn from_str(text: &str) -> Result<Self, InvalidObjectId> {
        text.parse().map(Self)
    }
}

impl TryFrom<String> for Commit {
    type Error = InvalidObjectId;

    fn try_from(text: String) -> Result<Self, InvalidObjectId> {
        text.parse()
    }
}

impl From<Commit> for String {
    fn from(commit: Commit) -> Self {
        commit.to_string()
    }
}

impl fmt::Display for Commit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for Commit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A branch name without `refs/heads/`, accepted by the rules of git-check-ref-format(1).
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct RefName(String);

/// The error for a text that is no branch name; holds the text.
#[derive(Debug, PartialEq, Eq)]
pub struct InvalidRefName(pub String);

impl fmt::Display for InvalidRefName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{}\" is not a branch name git accepts", self.0.escape_controls())
    }
}

impl std::error::Error for InvalidRefName {}

impl RefName {
    /// The branch name, such as `main` or `feature/x`.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether the two names exclude each other, as `main` and `main/v2`.
    pub fn is_in_the_way_of(&self, other: &Self) -> bool {
        let is_below = |one: &Self, other: &Self| {
            one.0.strip_prefix(&other.0).is_some_and(|rest| rest.starts_with('/'))
        };
        is_below(self, other) || is_below(other, self)
    }

    /// The local branch: `refs/heads/NAME`.
    pub fn local(&self) -> String {
        format!("refs/heads/{}", self.0)
    }

    /// The remote-tracking branch of the last fetch: `refs/remotes/origin/NAME`.
    pub fn tracking(&self) -> String {
        format!("refs/remotes/origin/{}", self.0)
    }

    /// The ref of the newest upstream tip that was accepted here: `refs/pmpy/seen/NAME`.
    pub fn seen(&self) -> String {
        format!("refs/pmpy/seen/{}", self.0)
    }
}

impl FromStr for RefName {
    type Err = InvalidRefName;

    fn from_str(text: &str) -> Result<Self, InvalidRefName> {
        let forbidden = |c: char| c.is_control() || " ~^:?*[\\\u{7f}".contains(c);
        let good = !text.is_empty()
            && text.len() <= 244
            && text != "@"
            && text != "HEAD"
            && !text.starts_with('-')
            && !text.ends_with('.')
            && !text.contains("..")
            && !text.contains("@{")
            && !text.contains(forbidden)
            && text
                .split('/')
                .all(|part| !part.is_empty() && !part.starts_with('.') && !part.ends_with(".lock"));
        if good { Ok(Self(text.to_owned())) } else { Err(InvalidRefName(text.to_owned())) }
    }
}

impl TryFrom<String> for RefName {
    type Error = InvalidRefName;

    fn try_from(text: String) -> Result<Self, InvalidRefName> {
        text.parse()
    }
}

impl From<RefName> for String {
    fn from(name: RefName) -> Self {
        name.0
    }
}

impl fmt::Display for RefName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for RefName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The URL or path that a repository is pulled from. Displays without user, password, query and
/// fragment, for logs, errors and the scripts' environment; where the password cannot be separated from
/// the rest, `…` replaces all that could be one. The serialised form is complete: for processes of ours,
/// never for a file.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Remote(String);

/// The transport to a remote.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RemoteScheme {
    /// A path or `file://`.
    Local,
    /// `git://`: neither encrypted nor authenticated.
    Git,
    /// `http://`: neither encrypted nor authenticated.
    Http,
    /// `https://`.
    Https,
    /// `ssh://` or `user@host:path`.
    Ssh,
}

impl Remote {
    /// Accepts any text; [`Remote::scheme`] and the poll show if it is usable.
    pub fn new(url: impl Into<String>) -> Self {
        Self(url.into())
    }

    /// The complete URL. For the wire only: it may hold a password.
    pub fn secret_url(&self) -> &str {
        &self.0
    }

    /// The server as scheme, host and port: the unit for one connection and for credentials. `None` for
    /// a path on this machine.
    pub fn server(&self) -> Option<String> {
        let scheme = self.scheme().filter(|scheme| *scheme != RemoteScheme::Local)?;
        let authority = match self.0.split_once("://") {
            Some((_, rest)) => rest.split(['/', '?', '#']).next(),
            None => self.0.split(':').next(),
        };
        let host = authority?.rsplit('@').next()?.to_ascii_lowercase();
        let (word, port) = match scheme {
            RemoteScheme::Https => ("https", ":443"),
            RemoteScheme::Http => ("http", ":80"),
            RemoteScheme::Git => ("git", ":9418"),
            _ => ("ssh", ":22"),
        };
        let host = host.strip_suffix(port).unwrap_or(&host);
        Some(format!("{word}://{host}"))
    }

    /// The host without its port, in lower case; an IPv6 address in brackets. `None` for a path.
    pub fn host(&self) -> Option<String> {
        let server = self.server()?;
        let (_, place) = server.split_once("://")?;
        let host = match place.rsplit_once(':') {
            Some((host, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => host,
            _ => place,
        };
        Some(host.to_owned())
    }

    /// Returns `true` if the host cannot be found for certain: a password with a `/`, `?` or `#` that is
    /// not percent-encoded ends the authority before the host.
    pub fn hides_its_host(&self) -> bool {
        let Some((_, rest)) = self.0.split_once("://") else { return false };
        let (authority, tail) = split_authority(rest);
        let is_shell = match self.scheme() {
            Some(RemoteScheme::Local) => return false,
            // These take no password in the URL; paths such as `/home/user@example.org/` are common.
            Some(RemoteScheme::Ssh | RemoteScheme::Git) => true,
            _ => false,
        };
        let host = authority.rsplit('@').next().unwrap_or_default();
        if !is_host_and_port(host) {
            return true;
        }
        let mut after_at = tail.split('@').skip(1).peekable();
        let port_or_password = !authority.contains('@') && authority.contains(':');
        !is_shell
            && ((after_at.peek().is_some() && port_or_password)
                || after_at.any(|text| {
                    text.split_once('/').is_some_and(|(host, _)| is_host_and_port(host))
                }))
    }

    /// Returns `true` if no path follows the host, as in the address of a proxy.
    pub fn names_only_a_server(&self) -> bool {
        let tail = self.0.split_once("://").map(|(_, rest)| split_authority(rest).1);
        !self.hides_its_host() && matches!(tail, Some("" | "/"))
    }

    /// The transport; `None` for an unknown scheme.
    pub fn scheme(&self) -> Option<RemoteScheme> {
        // gitremote-helpers(7): a program with this in its name would be run.
        let is_name =
            |word: &str| word.chars().all(|c| c.is_ascii_alphanumeric() || "-_+".contains(c));
        if self.0.split_once("::").is_some_and(|(helper, _)| is_name(helper)) {
            return None;
        }
        if let Some((scheme, _)) = self.0.split_once("://") {
            return match scheme.to_ascii_lowercase().as_str() {
                "file" => Some(RemoteScheme::Local),
                "git" => Some(RemoteScheme::Git),
                "http" => Some(RemoteScheme::Http),
                "https" => Some(RemoteScheme::Https),
                "ssh" | "git+ssh" | "ssh+git" => Some(RemoteScheme::Ssh),
                _ => None,
            };
        }
        // As git does: `host:path` is ssh unless a slash comes before the colon.
        match (self.0.find(':'), self.0.find('/')) {
            (Some(colon), slash) if slash.is_none_or(|slash| colon < slash) => {
                Some(RemoteScheme::Ssh)
            }
            _ => Some(RemoteScheme::Local),
        }
    }
}

/// The authority before the path, and everything after it.
fn split_authority(rest: &str) -> (&str, &str) {
    rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()))
}

/// Returns `true` if `text` may be a host, or a host with a port.
fn is_host_and_port(text: &str) -> bool {
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => (host, port),
        _ => (text, ""),
    };
    let is_address = host.starts_with('[') && host.ends_with(']');
    let plain = |c: char| c.is_alphanumeric() || "._-%~".contains(c);
    port.chars().all(|c| c.is_ascii_digit()) && (is_address || host.chars().all(plain))
}

impl fmt::Display for Remote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = match self.0.split_once("://") {
            Some((scheme, rest)) if self.scheme() == Some(RemoteScheme::Local) => {
                format!("{scheme}://{}", rest.split(['?', '#']).next().unwrap_or_default())
            }
            Some((scheme, _)) if self.hides_its_host() => format!("{scheme}://…"),
            Some((scheme, rest)) => {
                let (authority, tail) = split_authority(rest);
                let path = tail.split(['?', '#']).next().unwrap_or_default();
                format!("{scheme}://{}{path}", authority.rsplit('@').next().unwrap_or_default())
            }
            // A path may hold any character, and `git@host:path` has no password; `user:password@host`
            // is a URL whose scheme was forgotten.
            None => match (self.0.find([':', '/']), self.0.rsplit_once('@')) {
                (Some(colon), Some((login, place)))
                    if self.0[colon..].starts_with(':') && colon < login.len() =>
                {
                    format!("…@{place}")
                }
                _ => self.0.clone(),
            },
        };
        write!(f, "{}", shown.escape_controls())
    }
}

impl fmt::Debug for Remote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The relation of the checked-out commit to the upstream tip.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Relation {
    /// The same commit.
    Same,
    /// Upstream has commits that are missing here; there are no local ones.
    Behind,
    /// There are local commits on top of upstream.
    Ahead,
    /// Both sides have commits that the other lacks, or the histories are unrelated.
    Diverged,
}

/// The hash function that names the objects of a repository.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ObjectFormat {
    /// 20-byte ids.
    #[default]
    Sha1,
    /// 32-byte ids.
    Sha256,
}

impl ObjectFormat {
    /// The length of an object id in bytes.
    pub fn id_length(self) -> usize {
        match self {
            Self::Sha1 => 20,
            Self::Sha256 => 32,
        }
    }
}

impl fmt::Display for ObjectFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Sha1 => "SHA-1",
            Self::Sha256 => "SHA-256",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_survives_being_written_and_read() {
        for text in ["0123456789abcdef0123456789abcdef01234567".to_owned(), "ab".repeat(32)] {
            assert_eq!(text.parse::<ObjectId>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn an_abbreviated_or_garbled_id_is_no_id() {
        for text in ["", "abc", &"g".repeat(40), &"a".repeat(41), &"é".repeat(20)] {
            assert_eq!(text.parse::<ObjectId>(), Err(InvalidObjectId), "{text}");
        }
    }

    #[test]
    fn branch_names_follow_git_check_ref_format() {
        for good in ["main", "feature/x", "v1.0", "a@b", "$(id)", "übung"] {
            assert!(good.parse::<RefName>().is_ok(), "{good}");
        }
        for bad in [
            "", "@", "HEAD", "-x", ".a", "a/.b", "a.lock", "a.lock/b", "a..b", "a b", "a~1", "a^",
            "a:b", "a?", "a*", "a[", "a\\b", "/a", "a/", "a//b", "a.", "a@{b", "a\nb", "a\0",
        ] {
            assert!(bad.parse::<RefName>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_remote_is_shown_without_its_credentials() {
        for (url, shown) in [
            ("https://user:secret@git.example.org/a.git", "https://git.example.org/a.git"),
            ("https://token@git.example.org:8443/a?key=secret", "https://git.example.org:8443/a"),
            ("https://a:b@c@git.example.org/x@y", "https://git.example.org/x@y"),
            ("git@git.example.org:a.git", "git@git.example.org:a.git"),
            ("/srv/git/a@b.git", "/srv/git/a@b.git"),
            ("https://git.example.org/\u{1b}[2J", "https://git.example.org/\\u{1b}[2J"),
            ("http://u:p@[::1]:8080/a", "http://[::1]:8080/a"),
            ("htps://bot:secret@git.example.org/a", "htps://git.example.org/a"),
            ("file:///srv/a@b/c", "file:///srv/a@b/c"),
            ("ssh://git@host:22/home/pat@example.org/a", "ssh://host:22/home/pat@example.org/a"),
        ] {
            assert_eq!(Remote::new(url).to_string(), shown);
        }
    }

    #[test]
    fn where_a_password_cannot_be_distinguished_from_the_host_neither_is_shown() {
        for (url, shown) in [
            ("https://pat:sec/ret@git.example.org/a.git", "https://…"),
            ("https://pat:sec/r@et@git.example.org/x@y", "https://…"),
            ("https://pat:s@ec/ret@git.example.org/a.git", "https://…"),
            ("https://pat:12/ret@git.example.org/a.git", "https://…"),
            ("https://sec/ret@git.example.org/a.git", "https://…"),
            ("https://pat:sec?ret@git.example.org/a.git", "https://…"),
            ("https://pat:12#ret@git.example.org:443/a.git", "https://…"),
            ("ssh://pat:sec/ret@git.example.org/a.git", "ssh://…"),
            ("https://pat:sec ret@git.example.org/a.git", "https://git.example.org/a.git"),
            ("pat:secret@proxy.example.org:3128", "…@proxy.example.org:3128"),
            ("https:/pat:secret@git.example.org/a.git", "…@git.example.org/a.git"),
        ] {
            assert_eq!(Remote::new(url).to_string(), shown, "{url}");
        }
    }

    #[test]
    fn one_server_has_one_name() {
        for (url, server) in [
            ("https://user:secret@Git.example.org:443/a.git", Some("https://git.example.org")),
            ("https://git.example.org:8443/a?x=@", Some("https://git.example.org:8443")),
            ("http://[::1]:80/a", Some("http://[::1]")),
            ("git@git.example.org:a.git", Some("ssh://git.example.org")),
            ("ssh://git@git.example.org:22/a.git", Some("ssh://git.example.org")),
            ("git://git.example.org/a", Some("git://git.example.org")),
            ("/srv/git/a.git", None),
            ("file:///srv/a", None),
        ] {
            assert_eq!(Remote::new(url).server().as_deref(), server, "{url}");
        }
    }

    #[test]
    fn the_scheme_is_read_as_git_reads_it() {
        for (url, scheme) in [
            ("/srv/git/a.git", Some(RemoteScheme::Local)),
            ("../a:b", Some(RemoteScheme::Local)),
            ("file:///srv/a", Some(RemoteScheme::Local)),
            ("git://host/a", Some(RemoteScheme::Git)),
            ("HTTP://host/a", Some(RemoteScheme::Http)),
            ("https://host/a", Some(RemoteScheme::Https)),
            ("git@host:a", Some(RemoteScheme::Ssh)),
            ("ssh://host/a", Some(RemoteScheme::Ssh)),
            ("ext::sh -c id", None),
            ("[2001:db8::1]:a", Some(RemoteScheme::Ssh)),
            ("gopher://host/a", None),
        ] {
            assert_eq!(Remote::new(url).scheme(), scheme, "{url}");
        }
    }
}
