//! Who we are to a web server: the login in an address, in files of the configuration, or in
//! `~/.netrc`. Shows a password nowhere.

use std::fmt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;

use super::netrc;
use super::place::Origin;
use crate::domain::remote::Reach;
use crate::system::{files, node};

/// The most bytes that a file with a password may have.
const CAP: u64 = 1 << 20;
/// For a host that looks at the token alone, as all do that give tokens without a name.
const ANYBODY: &str = "git";

/// A user and a password.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Login {
    user: String,
    password: Option<String>,
}

impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Login(..)")
    }
}

impl Login {
    pub(super) fn new(user: String, password: Option<String>) -> Self {
        Self { user, password }
    }

    /// The value of the header `Authorization`.
    pub(super) fn basic(&self) -> String {
        let password = self.password.as_deref().unwrap_or_default();
        format!("Basic {}", BASE64_STANDARD.encode(format!("{}:{password}", self.user)))
    }
}

/// What may be shown to whom, of one remote.
#[derive(Debug)]
pub(super) struct Logins<'a> {
    /// Where the configured address leads: nobody else gets any of it.
    home: Origin,
    from_url: Option<Login>,
    reach: &'a Reach,
}

impl<'a> Logins<'a> {
    pub(super) fn new(home: Origin, from_url: Option<Login>, reach: &'a Reach) -> Self {
        Self { home, from_url, reach }
    }

    /// Whether `origin` may see any.
    pub(super) fn are_for(&self, origin: &Origin) -> bool {
        *origin == self.home
    }

    /// Where a login comes from, for people.
    pub(super) fn source(&self) -> String {
        match (&self.reach.password_file, &self.from_url) {
            (Some(file), _) => file.display().to_string(),
            (None, Some(Login { password: Some(_), .. })) => "the address".to_owned(),
            _ => "~/.netrc".to_owned(),
        }
    }

    /// What to send before it is asked for: the login that is configured for this remote.
    ///
    /// # Errors
    /// When the file with the password cannot be read, or by too many.
    pub(super) fn unasked(&self, origin: &Origin) -> Result<Option<Login>> {
        if !self.are_for(origin) {
            return Ok(None);
        }
        if let Some(file) = &self.reach.password_file {
            let text = files::read_private(file, CAP).context("the password cannot be read\nhint: correct password_file, or write the password into it")?;
            let password = text.lines().next().unwrap_or_default().to_owned();
            let user = self.user().unwrap_or(ANYBODY).to_owned();
            return Ok(Some(Login { user, password: Some(password) }));
        }
        Ok(self.from_url.clone().filter(|login| login.password.is_some()))
    }

    /// What to send when the server asks for a login: that, or what `~/.netrc` says of the host, or
    /// a user without a password, which is how some tokens are written.
    ///
    /// # Errors
    /// As [`Logins::unasked`].
    pub(super) fn asked(&self, origin: &Origin) -> Result<Option<Login>> {
        if let Some(login) = self.unasked(origin)? {
            return Ok(Some(login));
        }
        if !self.are_for(origin) {
            return Ok(None);
        }
        let host = origin.host.trim_matches(['[', ']']);
        let known = match netrc_file() {
            Some(file) if file.exists() => {
                let file = file.canonicalize().unwrap_or(file);
                let text = files::read_private(&file, CAP).context("~/.netrc cannot be used")?;
                netrc::find(&text, host, self.user())
                    .map(|entry| Login { user: entry.login, password: Some(entry.password) })
            }
            _ => None,
        };
        Ok(known.or_else(|| self.user().map(|user| Login::new(user.to_owned(), None))))
    }

    fn user(&self) -> Option<&str> {
        let from_url = self.from_url.as_ref().map(|login| login.user.as_str());
        self.reach.username.as_deref().or(from_url).filter(|user| !user.is_empty())
    }
}

fn netrc_file() -> Option<PathBuf> {
    let named = node::variable(&["NETRC"]).map(PathBuf::from);
    named.or_else(|| node::home().map(|home| home.join(Path::new(".netrc"))))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn origin(host: &str, port: u16) -> Origin {
        Origin { is_encrypted: true, host: host.to_owned(), port }
    }

    #[test]
    fn a_password_is_never_shown() {
        let login = Login::new("pat".to_owned(), Some("open sesame".to_owned()));
        let reach = Reach::default();
        let logins = Logins::new(origin("a", 443), Some(login.clone()), &reach);
        assert_eq!(format!("{login:?}"), "Login(..)");
        assert!(!format!("{logins:?}").contains("sesame"));
        assert_eq!(login.basic(), "Basic cGF0Om9wZW4gc2VzYW1l");
    }

    #[test]
    fn nobody_else_than_the_configured_server_gets_a_login() {
        let login = Login::new("pat".to_owned(), Some("open sesame".to_owned()));
        let reach = Reach::default();
        let logins = Logins::new(origin("a", 443), Some(login.clone()), &reach);
        assert_eq!(logins.unasked(&origin("a", 443)).unwrap(), Some(login));
        let plain = Origin { is_encrypted: false, ..origin("a", 443) };
        for other in [origin("b", 443), origin("a", 8443), plain] {
            assert_eq!(logins.asked(&other).unwrap(), None);
        }
    }

    #[test]
    fn a_password_file_is_read_anew_and_refused_when_everybody_can() {
        let dir = tempfile::tempdir().unwrap();
        files::put(dir.path(), "token", b"one\nrest\n", 0o600).unwrap();
        let file = dir.path().join("token");
        let reach = Reach { password_file: Some(file), ..Reach::default() };
        let logins = Logins::new(origin("a", 443), None, &reach);
        let unasked = || logins.unasked(&origin("a", 443));
        let told = |password: &str| Login::new(ANYBODY.to_owned(), Some(password.to_owned()));
        assert_eq!(unasked().unwrap(), Some(told("one")));
        files::put(dir.path(), "token", b"two\n", 0o640).unwrap();
        assert_eq!(unasked().unwrap(), Some(told("two")));
        files::put(dir.path(), "token", b"two\n", 0o644).unwrap();
        assert!(format!("{:#}", unasked().unwrap_err()).contains("can be read by everybody"));
    }
}
