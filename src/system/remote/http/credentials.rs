//! The agent's login for a web server: from the address, the files of the configuration, or `~/.netrc`.
//! Sends no request, and shows a password nowhere.

use std::fmt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Error, Result, anyhow};

use super::netrc;
use crate::domain::password_cache::FAILED_PASSWORD;
use crate::domain::remote::ConnectionSettings;
use crate::system::remote::denied_by;
use crate::system::remote::http::url::{HttpLogin, HttpOrigin};
use crate::system::{files, host};

/// The most bytes of a file with a password.
const CAP: u64 = 1 << 20;
/// The user name for a token without one: hosts that issue such tokens check the token alone.
const ANYBODY: &str = "git";

impl fmt::Debug for HttpLogin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Login(..)")
    }
}

/// The login of one remote, and the server that may see it.
#[derive(Debug)]
pub(super) struct HttpCredentials<'a> {
    /// The configured address: no other server gets a login.
    home: HttpOrigin,
    from_url: Option<HttpLogin>,
    reach: &'a ConnectionSettings,
}

impl<'a> HttpCredentials<'a> {
    pub(super) fn new(
        home: HttpOrigin,
        from_url: Option<HttpLogin>,
        reach: &'a ConnectionSettings,
    ) -> Self {
        Self { home, from_url, reach }
    }

    /// Whether `origin` may see a login.
    pub(super) fn are_for(&self, origin: &HttpOrigin) -> bool {
        *origin == self.home
    }

    /// The source of the login, for messages.
    pub(super) fn source(&self) -> String {
        if self.reach.password_cache.is_some() {
            return "password_command".to_owned();
        }
        match (&self.reach.password_file, &self.from_url) {
            (Some(file), _) => file.display().to_string(),
            (None, Some(HttpLogin { password: Some(_), .. })) => "the address".to_owned(),
            _ => "~/.netrc".to_owned(),
        }
    }

    /// The login to send unasked: the one that is configured for this remote; `None` when there is none.
    ///
    /// # Errors
    /// When the password file cannot be read, or too many users can read it; or when `password_command` failed.
    pub(super) fn preemptive(&self, origin: &HttpOrigin) -> Result<Option<HttpLogin>> {
        if !self.are_for(origin) {
            return Ok(None);
        }
        if let Some(file) = self.reach.cached_password(&self.home.to_string()) {
            let text =
                files::read_private(&file, CAP).map_err(|_| denied_by(no_password(&file)))?;
            return Ok(Some(self.login(&text)));
        }
        if let Some(file) = &self.reach.password_file {
            let text = files::read_private(file, CAP).map_err(denied_by).context("the password cannot be read\nhint: correct password_file, or write the password into it")?;
            return Ok(Some(self.login(&text)));
        }
        Ok(self.from_url.clone().filter(|login| login.password.is_some()))
    }

    /// The login to send when the server asks for one: the configured one, else the entry of the host in
    /// `~/.netrc`, else a user without a password, which is how some tokens are written.
    ///
    /// # Errors
    /// As for `preemptive`, and when `~/.netrc` cannot be used.
    pub(super) fn challenged(&self, origin: &HttpOrigin) -> Result<Option<HttpLogin>> {
        if let Some(login) = self.preemptive(origin)? {
            return Ok(Some(login));
        }
        if !self.are_for(origin) {
            return Ok(None);
        }
        let host = origin.host.trim_matches(['[', ']']);
        let known = match netrc_file() {
            Some(file) if file.exists() => {
                let file = file.canonicalize().unwrap_or(file);
                let text = files::read_private(&file, CAP)
                    .map_err(denied_by)
                    .context("~/.netrc cannot be used")?;
                netrc::find(&text, host, self.user())
                    .map(|entry| HttpLogin { user: entry.login, password: Some(entry.password) })
            }
            _ => None,
        };
        Ok(known.or_else(|| self.user().map(|user| HttpLogin::new(user.to_owned(), None))))
    }

    /// The login with the first line of `text` as the password.
    fn login(&self, text: &str) -> HttpLogin {
        let password = text.lines().next().unwrap_or_default().to_owned();
        let user = self.user().unwrap_or(ANYBODY).to_owned();
        HttpLogin { user, password: Some(password) }
    }

    fn user(&self) -> Option<&str> {
        let from_url = self.from_url.as_ref().map(|login| login.user.as_str());
        self.reach.username.as_deref().or(from_url).filter(|user| !user.is_empty())
    }
}

/// Why `file` has no password of `password_command`.
fn no_password(file: &Path) -> Error {
    let failed = files::read_private(&file.with_extension(FAILED_PASSWORD), CAP);
    match failed.ok().as_deref().and_then(|text| text.split_once('\n')) {
        Some((_, why)) => anyhow!("password_command failed: {}", why.trim_end()),
        None => anyhow!("password_command has printed no password yet\nhint: agent tick NAME"),
    }
}

fn netrc_file() -> Option<PathBuf> {
    let named = host::variable(&["NETRC"]).map(PathBuf::from);
    named.or_else(|| host::home().map(|home| home.join(Path::new(".netrc"))))
}

#[cfg(test)]
mod tests {
    use crate::system::remote::http::credentials::*;

    fn origin(host: &str, port: u16) -> HttpOrigin {
        HttpOrigin { is_encrypted: true, host: host.to_owned(), port }
    }

    #[test]
    fn a_password_is_never_shown() {
        let login = HttpLogin::new("pat".to_owned(), Some("open sesame".to_owned()));
        let reach = ConnectionSettings::default();
        let logins = HttpCredentials::new(origin("a", 443), Some(login.clone()), &reach);
        assert_eq!(format!("{login:?}"), "Login(..)");
        assert!(!format!("{logins:?}").contains("sesame"));
        assert_eq!(login.basic(), "Basic cGF0Om9wZW4gc2VzYW1l");
    }

    #[test]
    fn only_the_configured_server_gets_a_login() {
        let login = HttpLogin::new("pat".to_owned(), Some("open sesame".to_owned()));
        let reach = ConnectionSettings::default();
        let logins = HttpCredentials::new(origin("a", 443), Some(login.clone()), &reach);
        assert_eq!(logins.preemptive(&origin("a", 443)).unwrap(), Some(login));
        let plain = HttpOrigin { is_encrypted: false, ..origin("a", 443) };
        for other in [origin("b", 443), origin("a", 8443), plain] {
            assert_eq!(logins.challenged(&other).unwrap(), None);
        }
    }

    #[test]
    fn a_password_file_is_read_anew_and_refused_when_everybody_can() {
        let dir = tempfile::tempdir().unwrap();
        files::put(dir.path(), "token", b"one\nrest\n", 0o600).unwrap();
        let file = dir.path().join("token");
        let reach =
            ConnectionSettings { password_file: Some(file), ..ConnectionSettings::default() };
        let logins = HttpCredentials::new(origin("a", 443), None, &reach);
        let unasked = || logins.preemptive(&origin("a", 443));
        let login_with =
            |password: &str| HttpLogin::new(ANYBODY.to_owned(), Some(password.to_owned()));
        assert_eq!(unasked().unwrap(), Some(login_with("one")));
        files::put(dir.path(), "token", b"two\n", 0o640).unwrap();
        assert_eq!(unasked().unwrap(), Some(login_with("two")));
        files::put(dir.path(), "token", b"two\n", 0o644).unwrap();
        assert!(format!("{:#}", unasked().unwrap_err()).contains("can be read by everybody"));
    }
}
