//! Parses the address of a remote over ssh or git:// as git does: user, host, port and path. Pure text;
//! refuses parts that a command could take for an option.

use std::fmt;

use anyhow::{Context, Result, ensure};

use crate::domain::git::Remote;
use crate::domain::text::EscapeControls;

/// The address of a repository.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct RemoteAddress {
    /// The login name; `None` leaves it to the ssh configuration or the server.
    pub user: Option<String>,
    /// A name, an alias or an IP address without brackets.
    pub host: String,
    /// The port; `None` is the default one.
    pub port: Option<u16>,
    /// The path for `git-upload-pack`: `/srv/a.git`, `a.git` or `~user/a.git`.
    pub path: String,
}

impl RemoteAddress {
    /// Parses `ssh://user@host:port/path`, `git://…`, and `user@host:path`.
    ///
    /// # Errors
    /// When it is none of these, or a command could take part of it for an option.
    pub fn of(remote: &Remote) -> Result<Self> {
        let url = remote.secret_url();
        match url.split_once("://") {
            Some((_, rest)) => Self::of_url(rest),
            None => Self::of_copy(url),
        }
        .and_then(Self::checked)
        .with_context(|| format!("{remote} cannot be used as an address"))
    }

    /// Parses the text after `ssh://`.
    fn of_url(rest: &str) -> Result<Self> {
        let (authority, path) =
            rest.find('/').map(|slash| rest.split_at(slash)).context("it names no path")?;
        let (user, place) = split_user(authority);
        let (host, port) = split_port(place)?;
        let path = decoded(path)?;
        // `/~user/a.git` is in that user's home.
        let path = match path.strip_prefix('/') {
            Some(home) if home.starts_with('~') => home.to_owned(),
            _ => path,
        };
        // A password here would appear in the list of processes.
        let user = user.map(|user| user.split(':').next().unwrap_or_default());
        Ok(Self { user: user.map(decoded).transpose()?, host: decoded(&host)?, port, path })
    }

    /// Parses `user@host:path` as scp(1) does, also `user@[::1]:path` and `[user@host:port]:path`.
    fn of_copy(url: &str) -> Result<Self> {
        if let Some((inside, path)) = url.strip_prefix('[').and_then(|url| url.split_once("]:")) {
            let (user, place) = split_user(inside);
            let (host, port) = match place.matches(':').count() {
                1 => split_port(place)?,
                _ => (place.to_owned(), None),
            };
            return Ok(Self { user: user.map(str::to_owned), host, port, path: path.to_owned() });
        }
        // The colon after the brackets of an IP address, else the first.
        let closing = url.find("]:").filter(|_| url.contains("@["));
        let colon =
            closing.map(|at| at + 1).or_else(|| url.find(':')).context("it names no path")?;
        let (user, place) = split_user(&url[..colon]);
        let host = place.trim_start_matches('[').trim_end_matches(']').to_owned();
        let path = url[colon + 1..].to_owned();
        ensure!(!path.starts_with(':'), "git's remote helpers are not run");
        Ok(Self { user: user.map(str::to_owned), host, port: None, path })
    }

    fn checked(self) -> Result<Self> {
        ensure!(!self.host.is_empty(), "it names no host");
        ensure!(!matches!(self.path.as_str(), "" | "/"), "it names no path");
        for part in [Some(&self.host), self.user.as_ref(), Some(&self.path)].into_iter().flatten() {
            ensure!(!part.starts_with('-'), "\"{part}\" could be taken for an option");
            ensure!(!part.chars().any(char::is_control), "it holds a control character");
        }
        let plain = |c: char| c.is_alphanumeric() || "._-:%".contains(c);
        ensure!(self.host.chars().all(plain), "\"{}\" is no host", self.host);
        Ok(self)
    }
}

/// Shows the host, and the port where it is not the default.
impl fmt::Display for RemoteAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.host.contains(':') {
            true => write!(f, "[{}]", self.host)?,
            false => f.write_str(&self.host)?,
        }
        self.port.map_or(Ok(()), |port| write!(f, ":{port}"))
    }
}

fn split_user(authority: &str) -> (Option<&str>, &str) {
    match authority.rsplit_once('@') {
        Some((user, place)) => (Some(user).filter(|user| !user.is_empty()), place),
        None => (None, authority),
    }
}

/// Splits `host`, `host:22`, `[::1]` or `[::1]:22`.
fn split_port(place: &str) -> Result<(String, Option<u16>)> {
    let (host, port) = match place.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((host, rest)) => (host, rest.strip_prefix(':')),
        None => match place.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (place, None),
        },
    };
    let port = match port {
        None | Some("") => None,
        Some(text) => {
            let port = text.parse().ok().filter(|&port: &u16| port > 0);
            Some(port.with_context(|| format!("\"{}\" is no port", text.escape_controls()))?)
        }
    };
    Ok((host.to_owned(), port))
}

/// Decodes `%20` and the like.
fn decoded(text: &str) -> Result<String> {
    let digit = |byte: Option<&u8>| char::from(*byte?).to_digit(16);
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        match (byte, digit(bytes.get(at + 1)), digit(bytes.get(at + 2))) {
            (b'%', Some(high), Some(low)) => {
                out.push((high * 16 + low) as u8);
                at += 3;
            }
            _ => {
                out.push(byte);
                at += 1;
            }
        }
    }
    String::from_utf8(out).context("it is not valid UTF-8")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(url: &str) -> (Option<String>, String, Option<u16>, String) {
        let RemoteAddress { user, host, port, path } =
            RemoteAddress::of(&Remote::new(url)).unwrap();
        (user, host, port, path)
    }

    #[test]
    fn every_form_that_git_takes_is_taken() {
        for (url, user, host, port, path) in [
            ("ssh://git@host:2222/srv/a.git", "git", "host", 2222, "/srv/a.git"),
            ("ssh://host/srv/a.git", "", "host", 0, "/srv/a.git"),
            ("ssh://host:/srv/a.git", "", "host", 0, "/srv/a.git"),
            ("git+ssh://host/~joe/a.git", "", "host", 0, "~joe/a.git"),
            ("ssh://git@[::1]:22/a", "git", "::1", 22, "/a"),
            ("ssh://[fe80::1%25eth0]/a", "", "fe80::1%eth0", 0, "/a"),
            ("ssh://joe%40corp@host/a%20b%27c", "joe@corp", "host", 0, "/a b'c"),
            ("ssh://joe:secret@host/a", "joe", "host", 0, "/a"),
            ("git@host:a.git", "git", "host", 0, "a.git"),
            ("git@host:/srv/a%20b", "git", "host", 0, "/srv/a%20b"),
            ("host:~joe/a b'c", "", "host", 0, "~joe/a b'c"),
            ("host:a:b", "", "host", 0, "a:b"),
            ("git@[::1]:a", "git", "::1", 0, "a"),
            ("[::1]:a", "", "::1", 0, "a"),
            ("[git@host:2222]:a", "git", "host", 2222, "a"),
            ("git://host:9419/a.git", "", "host", 9419, "/a.git"),
            ("git://[::1]/~joe/a", "", "::1", 0, "~joe/a"),
        ] {
            let user = Some(user.to_owned()).filter(|user| !user.is_empty());
            let port = Some(port).filter(|&port| port != 0);
            assert_eq!(read(url), (user, host.to_owned(), port, path.to_owned()), "{url}");
        }
    }

    #[test]
    fn nothing_can_become_an_option_or_a_second_line() {
        for url in [
            "ssh://-oProxyCommand=id/a",
            "ssh://-oProxyCommand=id@host/a",
            "-oProxyCommand=id:a",
            "host:-a",
            "host:--upload-pack=id",
            "ssh://host/a%0ab",
            "ssh://host/a%00b",
            "ssh://ho%00st/a",
            "ssh://host",
            "ssh://host/",
            "ssh:///a",
            "ssh://host:0/a",
            "ssh://host:99999/a",
            "ssh://host:22x/a",
            "ssh://ho st/a",
            "ssh://$(id)/a",
            "ssh://host/%ff",
            "ext::sh -c id",
            "host:",
            ":a",
        ] {
            let refused =
                RemoteAddress::of(&Remote::new(url)).map(|address| format!("{address:?}"));
            assert!(refused.is_err(), "{url}: {refused:?}");
        }
    }
}
