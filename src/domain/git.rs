//! Git's own words as values: object ids, branch names, remotes, and how two commits relate.
//! Knows no repository and no library; everything here is text in, value out.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A full object id: 20 bytes (SHA-1) or 32 bytes (SHA-256). Never abbreviated.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Id {
    bytes: [u8; 32],
    len: u8,
}

/// Why a text is no full object id.
#[derive(Debug, PartialEq, Eq)]
pub struct NotAnId;

impl fmt::Display for NotAnId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not a full revision: 40 or 64 hexadecimal digits are expected")
    }
}

impl std::error::Error for NotAnId {}

impl Id {
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
}

impl FromStr for Id {
    type Err = NotAnId;

    fn from_str(text: &str) -> Result<Self, NotAnId> {
        if !matches!(text.len(), 40 | 64) {
            return Err(NotAnId);
        }
        let mut bytes = [0; 32];
        for (byte, pair) in bytes.iter_mut().zip(text.as_bytes().chunks(2)) {
            let digit = |c: u8| char::from(c).to_digit(16).ok_or(NotAnId);
            *byte = (digit(pair[0])? * 16 + digit(pair[1])?) as u8;
        }
        Ok(Self { bytes, len: (text.len() / 2) as u8 })
    }
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.as_bytes().iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A commit: the full id of one revision. A value; it says nothing about being present here.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Commit(pub Id);

impl Commit {
    /// The first seven digits, for people.
    pub fn short(&self) -> String {
        self.to_string()[..7].to_owned()
    }
}

impl FromStr for Commit {
    type Err = NotAnId;

    fn from_str(text: &str) -> Result<Self, NotAnId> {
        text.parse().map(Self)
    }
}

impl TryFrom<String> for Commit {
    type Error = NotAnId;

    fn try_from(text: String) -> Result<Self, NotAnId> {
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

/// Why a text is no branch name.
#[derive(Debug, PartialEq, Eq)]
pub struct BadRefName(pub String);

impl fmt::Display for BadRefName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{}\" is not a branch name git accepts", self.0.escape_debug())
    }
}

impl std::error::Error for BadRefName {}

impl RefName {
    /// The branch name itself, such as `main` or `feature/x`.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The local branch: `refs/heads/NAME`.
    pub fn local(&self) -> String {
        format!("refs/heads/{}", self.0)
    }

    /// Where the last fetch left the remote's branch: `refs/remotes/origin/NAME`.
    pub fn tracking(&self) -> String {
        format!("refs/remotes/origin/{}", self.0)
    }

    /// The high-water mark: the newest upstream tip that was accepted here.
    pub fn seen(&self) -> String {
        format!("refs/pmpy/seen/{}", self.0)
    }
}

impl FromStr for RefName {
    type Err = BadRefName;

    fn from_str(text: &str) -> Result<Self, BadRefName> {
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
        if good { Ok(Self(text.to_owned())) } else { Err(BadRefName(text.to_owned())) }
    }
}

impl TryFrom<String> for RefName {
    type Error = BadRefName;

    fn try_from(text: String) -> Result<Self, BadRefName> {
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

/// Where a repository is pulled from. Displays without user, password, query and fragment, so that
/// it may stand in logs, errors and the scripts' environment; where it cannot be told which part of it
/// is a password, with `…` in the place of all that could be. Serialised it is whole: for processes of
/// ours, never for a file.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Remote(String);

/// How a remote is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheme {
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
    /// Takes any text; whether it can be used is told by [`Remote::scheme`] and the poll.
    pub fn new(url: impl Into<String>) -> Self {
        Self(url.into())
    }

    /// The address with everything in it. For the wire only: it may hold a password.
    pub fn secret_url(&self) -> &str {
        &self.0
    }

    /// The server that it is on, as scheme, host and port: what can be asked over one connection, and
    /// what credentials are bound to. `None` for what is on this machine.
    pub fn server(&self) -> Option<String> {
        let scheme = self.scheme().filter(|scheme| *scheme != Scheme::Local)?;
        let authority = match self.0.split_once("://") {
            Some((_, rest)) => rest.split(['/', '?', '#']).next(),
            None => self.0.split(':').next(),
        };
        let host = authority?.rsplit('@').next()?.to_ascii_lowercase();
        let (word, port) = match scheme {
            Scheme::Https => ("https", ":443"),
            Scheme::Http => ("http", ":80"),
            Scheme::Git => ("git", ":9418"),
            _ => ("ssh", ":22"),
        };
        let host = host.strip_suffix(port).unwrap_or(&host);
        Some(format!("{word}://{host}"))
    }

    /// Whether nobody can tell where its host begins: a password with a `/`, `?` or `#` in it that is
    /// not percent-encoded ends what stands before the host.
    pub fn hides_its_host(&self) -> bool {
        let Some((_, rest)) = self.0.split_once("://") else { return false };
        let (authority, tail) = split_authority(rest);
        let is_shell = match self.scheme() {
            Some(Scheme::Local) => return false,
            // No password goes there; paths such as `/home/user@example.org/` do.
            Some(Scheme::Ssh | Scheme::Git) => true,
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

    /// Whether no path follows the host, as in the address of a proxy.
    pub fn names_only_a_server(&self) -> bool {
        let tail = self.0.split_once("://").map(|(_, rest)| split_authority(rest).1);
        !self.hides_its_host() && matches!(tail, Some("" | "/"))
    }

    /// How it is reached; `None` for a scheme that is not known.
    pub fn scheme(&self) -> Option<Scheme> {
        if let Some((scheme, _)) = self.0.split_once("://") {
            return match scheme.to_ascii_lowercase().as_str() {
                "file" => Some(Scheme::Local),
                "git" => Some(Scheme::Git),
                "http" => Some(Scheme::Http),
                "https" => Some(Scheme::Https),
                "ssh" | "git+ssh" | "ssh+git" => Some(Scheme::Ssh),
                _ => None,
            };
        }
        // As git does: `host:path` is ssh unless a slash comes before the colon.
        match (self.0.find(':'), self.0.find('/')) {
            (Some(colon), slash) if slash.is_none_or(|slash| colon < slash) => Some(Scheme::Ssh),
            _ => Some(Scheme::Local),
        }
    }
}

/// What stands before the path, and everything else.
fn split_authority(rest: &str) -> (&str, &str) {
    rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()))
}

/// Whether `text` may be a host, or one with a port.
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
            Some((scheme, rest)) if self.scheme() == Some(Scheme::Local) => {
                format!("{scheme}://{}", rest.split(['?', '#']).next().unwrap_or_default())
            }
            Some((scheme, _)) if self.hides_its_host() => format!("{scheme}://…"),
            Some((scheme, rest)) => {
                let (authority, tail) = split_authority(rest);
                let path = tail.split(['?', '#']).next().unwrap_or_default();
                format!("{scheme}://{}{path}", authority.rsplit('@').next().unwrap_or_default())
            }
            // A path may hold any character, and `git@host:path` has no password; `user:password@host`
            // is how a scheme is forgotten.
            None => match (self.0.find([':', '/']), self.0.rsplit_once('@')) {
                (Some(colon), Some((login, place)))
                    if self.0[colon..].starts_with(':') && colon < login.len() =>
                {
                    format!("…@{place}")
                }
                _ => self.0.clone(),
            },
        };
        write!(f, "{}", shown.escape_debug())
    }
}

impl fmt::Debug for Remote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// How the checked-out commit stands to the upstream tip.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Relation {
    /// The same commit.
    Same,
    /// Upstream has commits that are not here; there are none of our own.
    Behind,
    /// There are local commits on top of upstream.
    Ahead,
    /// Both sides have commits that the other lacks, or the histories are unrelated.
    Diverged,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_survives_being_written_and_read() {
        for text in ["0123456789abcdef0123456789abcdef01234567".to_owned(), "ab".repeat(32)] {
            assert_eq!(text.parse::<Id>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn an_abbreviated_or_garbled_id_is_no_id() {
        for text in ["", "abc", &"g".repeat(40), &"a".repeat(41), &"é".repeat(20)] {
            assert_eq!(text.parse::<Id>(), Err(NotAnId), "{text}");
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
    fn where_a_password_cannot_be_told_from_the_host_neither_is_shown() {
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
            ("/srv/git/a.git", Some(Scheme::Local)),
            ("../a:b", Some(Scheme::Local)),
            ("file:///srv/a", Some(Scheme::Local)),
            ("git://host/a", Some(Scheme::Git)),
            ("HTTP://host/a", Some(Scheme::Http)),
            ("https://host/a", Some(Scheme::Https)),
            ("git@host:a", Some(Scheme::Ssh)),
            ("ssh://host/a", Some(Scheme::Ssh)),
            ("ext::sh -c id", Some(Scheme::Ssh)),
            ("gopher://host/a", None),
        ] {
            assert_eq!(Remote::new(url).scheme(), scheme, "{url}");
        }
    }
}
