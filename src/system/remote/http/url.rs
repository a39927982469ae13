//! Parses HTTP addresses. Credentials are bound to scheme, host and port together. Sends nothing.

use std::fmt;
use std::net::ToSocketAddrs;

use anyhow::{Context, Result, bail};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use percent_encoding::{AsciiSet, CONTROLS, percent_decode_str, utf8_percent_encode};
use ureq::http::Uri;

use crate::domain::remote::is_private;
use crate::domain::text::EscapeControls;

/// The characters that a request line may not hold unescaped.
const UNFIT: &AsciiSet =
    &CONTROLS.add(b' ').add(b'"').add(b'<').add(b'>').add(b'\\').add(b'^').add(b'`');

/// The server of a request, and so the only one that may see its password.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct HttpOrigin {
    pub(super) is_encrypted: bool,
    /// In lower case; an IPv6 address in brackets.
    pub(super) host: String,
    pub(super) port: u16,
}

impl HttpOrigin {
    /// Whether the host is written as an address of this machine or of its own network.
    pub(super) fn is_plainly_private(&self) -> bool {
        let host = self.host.trim_matches(['[', ']']).trim_end_matches('.');
        match host.parse() {
            Ok(address) => is_private(address),
            Err(_) => host == "localhost" || host.ends_with(".localhost"),
        }
    }

    /// Whether the host is such an address, or a name of one.
    pub(super) fn is_private(&self) -> bool {
        let host = self.host.trim_matches(['[', ']']);
        self.is_plainly_private()
            || (host, self.port)
                .to_socket_addrs()
                .is_ok_and(|mut found| found.any(|address| is_private(address.ip())))
    }
}

impl fmt::Display for HttpOrigin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (scheme, usual) = if self.is_encrypted { ("https", 443) } else { ("http", 80) };
        write!(f, "{scheme}://{}", self.host)?;
        if self.port == usual { Ok(()) } else { write!(f, ":{}", self.port) }
    }
}

/// The address of a repository on a web server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct HttpUrl {
    pub(super) origin: HttpOrigin,
    /// The path, with a slash before it and none after it.
    path: String,
}

impl fmt::Display for HttpUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.origin, self.path)
    }
}

impl HttpUrl {
    /// Parses `url`, and separates the login in it. Query and fragment have no meaning in git.
    ///
    /// # Errors
    /// When it is not the address of a web server.
    pub(super) fn parse(url: &str) -> Result<(Self, Option<HttpLogin>)> {
        let url = url.split(['?', '#']).next().unwrap_or_default();
        let url = utf8_percent_encode(url, UNFIT).to_string();
        let uri: Uri = url.parse().ok().context("it is no address that a web server can have")?;
        let is_encrypted = match uri.scheme_str() {
            Some("https") => true,
            Some("http") => false,
            _ => bail!("it is no address of a web server"),
        };
        let authority = uri.authority().context("it names no server")?;
        let host = authority.host().to_ascii_lowercase();
        if host.is_empty() {
            bail!("it names no server");
        }
        let server = authority.as_str().rsplit('@').next().unwrap_or_default();
        let port = match server.rsplit(']').next().and_then(|rest| rest.split_once(':')) {
            None | Some((_, "")) => {
                if is_encrypted {
                    443
                } else {
                    80
                }
            }
            Some((_, port)) => port.parse().ok().context("its port is invalid")?,
        };
        let path = uri.path().trim_end_matches('/').to_owned();
        let login = authority.as_str().rsplit_once('@').map(|(login, _)| {
            let (user, password) = match login.split_once(':') {
                Some((user, password)) => (user, Some(password)),
                None => (login, None),
            };
            HttpLogin::new(decoded(user), password.map(decoded))
        });
        Ok((Self { origin: HttpOrigin { is_encrypted, host, port }, path }, login))
    }

    /// The address of `tail` in the repository.
    pub(super) fn at(&self, tail: &str) -> String {
        format!("{self}/{tail}")
    }

    /// The repository that a redirect leads to, from `tail` in this one to `location`.
    ///
    /// # Errors
    /// When the redirect leaves encryption, or leads to something that is no repository.
    pub(super) fn redirected(&self, tail: &str, location: &str) -> Result<Self> {
        let shown = || location.chars().take(200).collect::<String>().escape_controls();
        let absolute = if location.contains("://") {
            location.to_owned()
        } else if let Some(rest) = location.strip_prefix("//") {
            let scheme = if self.origin.is_encrypted { "https" } else { "http" };
            format!("{scheme}://{rest}")
        } else if location.starts_with('/') {
            format!("{}{location}", self.origin)
        } else {
            let from = self.at(tail);
            let dir = from.rsplit_once('/').map_or("", |(dir, _)| dir);
            format!("{dir}/{location}")
        };
        let (mut place, _) = Self::parse(&absolute)
            .with_context(|| format!("{self} redirects to \"{}\"", shown()))?;
        if self.origin.is_encrypted && !place.origin.is_encrypted {
            bail!(
                "{self} redirects to {}, which is not encrypted\n\
                 hint: put the new address into the configuration, if it is to be trusted",
                place.origin
            );
        }
        let tail = tail.split('?').next().unwrap_or_default();
        match place.path.strip_suffix(tail).and_then(|path| path.strip_suffix('/')) {
            Some(path) => place.path = path.to_owned(),
            None => bail!(
                "{self} redirects to \"{}\", which is no git repository\n\
                 hint: is it a page to log in at, or a repository that moved?",
                shown()
            ),
        }
        Ok(place)
    }
}

fn decoded(text: &str) -> String {
    percent_decode_str(text).decode_utf8_lossy().into_owned()
}

/// A user, and a password if the login has one.
#[derive(Clone, PartialEq, Eq)]
pub(in crate::system) struct HttpLogin {
    pub(super) user: String,
    pub(super) password: Option<String>,
}

impl HttpLogin {
    pub(in crate::system) fn new(user: String, password: Option<String>) -> Self {
        Self { user, password }
    }

    /// The value of the header `Authorization`.
    pub(in crate::system) fn basic(&self) -> String {
        let password = self.password.as_deref().unwrap_or_default();
        format!("Basic {}", BASE64_STANDARD.encode(format!("{}:{password}", self.user)))
    }
}

#[cfg(test)]
mod tests {
    use crate::system::remote::http::url::*;

    const TAIL: &str = "info/refs?service=git-upload-pack";

    fn place(url: &str) -> HttpUrl {
        HttpUrl::parse(url).unwrap().0
    }

    #[test]
    fn an_address_is_shown_without_its_login_and_without_the_usual_port() {
        for (url, shown) in [
            ("https://u:p@Git.Example.org:443/a.git/", "https://git.example.org/a.git"),
            ("http://git.example.org:8080/a b/ü?x#y", "http://git.example.org:8080/a%20b/%C3%BC"),
            ("https://[::1]:8443/a", "https://[::1]:8443/a"),
        ] {
            assert_eq!(place(url).to_string(), shown);
        }
        for bad in ["https:///a", "ssh://host/a", "https://a b/c", "https://h:99999/a", "https://"]
        {
            assert!(HttpUrl::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_login_in_an_address_is_decoded() {
        let login = |url: &str| HttpUrl::parse(url).unwrap().1;
        let given = login("https://a%40b:p%3Aq:r@host/x").unwrap();
        assert_eq!(given, HttpLogin::new("a@b".to_owned(), Some("p:q:r".to_owned())));
        assert_eq!(login("https://token@host/x"), Some(HttpLogin::new("token".to_owned(), None)));
        assert_eq!(login("https://host/x@y"), None);
    }

    #[test]
    fn a_redirect_gives_the_new_repository() {
        let from = place("https://a.example.org/old.git");
        for (location, to) in [
            (format!("https://b.example.org/new.git/{TAIL}"), "https://b.example.org/new.git"),
            (format!("/deeper/new.git/{TAIL}"), "https://a.example.org/deeper/new.git"),
            (format!("//c.example.org/new/{TAIL}"), "https://c.example.org/new"),
            ("refs".to_owned(), "https://a.example.org/old.git"),
        ] {
            assert_eq!(from.redirected(TAIL, &location).unwrap().to_string(), to);
        }
    }

    #[test]
    fn a_redirect_never_leaves_encryption_and_never_goes_to_a_page() {
        let from = place("https://a.example.org/old.git");
        for bad in [
            format!("http://a.example.org/old.git/{TAIL}"),
            "https://a.example.org/login?next=/old.git".to_owned(),
            "file:///etc/passwd".to_owned(),
            "\u{1b}[2J".to_owned(),
        ] {
            let error = format!("{:#}", from.redirected(TAIL, &bad).unwrap_err());
            assert!(!error.contains('\u{1b}'), "{error}");
        }
        let plain = place("http://a.example.org/old.git");
        assert!(plain.redirected(TAIL, &format!("https://a.example.org/old.git/{TAIL}")).is_ok());
    }
}
