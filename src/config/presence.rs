//! Converts the keys of `[presence]` to its settings. Does not know what is published.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_spanned::Spanned;

use super::faults::ConfigError;
use super::file::{PresenceSection, RepoSection};
use super::list::OneOrMany;
use super::source::ConfigTexts;
use super::{RepoSettings, credentials};
use crate::domain::git::{Remote, RemoteScheme};
use crate::domain::remote::ConnectionSettings;

/// The default of `every`.
const USUAL_EVERY: Duration = Duration::from_secs(4 * 3600);
/// The shortest `every`: each publication is a push, and news is published at once anyway.
const SHORTEST_EVERY: Duration = Duration::from_secs(600);

/// The settings of presence.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PresenceSettings {
    /// `url`: the repository that takes the publications.
    pub remote: Remote,
    /// The connection settings for it. `[defaults]` does not apply: its key may write, and is for nothing else.
    pub reach: ConnectionSettings,
    /// `password_command`: a program and its arguments; empty: none.
    pub password_command: Vec<String>,
    /// `password_ttl`: how long a password of that program is used.
    pub password_ttl: Duration,
    /// `every`: how long without news until the next publication; zero: for ever.
    pub every: Duration,
    /// `history`: each publication has the last one as its parent.
    pub history: bool,
}

/// The settings that `[presence]` contains. `as_repo` makes settings of a repository from keys that one has too.
pub fn presence(
    source: &ConfigTexts,
    section: &Spanned<PresenceSection>,
    as_repo: impl FnOnce(&RepoSection) -> RepoSettings,
) -> Result<PresenceSettings, ConfigError> {
    let keys = section.get_ref();
    let Some(url) = &keys.url else {
        let reason = "[presence] names no repository to publish in\n\
                      hint: url = \"git@git.example.org:status.git\"";
        return Err(source.error(section.span(), reason));
    };
    if url.get_ref().0.scheme() == Some(RemoteScheme::Git) {
        let reason = "git:// asks for no login, so it takes no publications\n\
                      hint: use https or ssh";
        return Err(source.error(url.span(), reason));
    }
    let every = match &keys.every {
        Some(time) if !time.get_ref().0.is_zero() && time.get_ref().0 < SHORTEST_EVERY => {
            let reason = "\"every\" is at least ten minutes, or \"0s\" for never: what changed is published at once \
                          anyway\nhint: write \"4h\"";
            return Err(source.error(time.span(), reason));
        }
        Some(time) => time.get_ref().0,
        None => USUAL_EVERY,
    };
    let own = as_repo_section(keys, url);
    credentials::check_section(source, &own)?;
    let repo = as_repo(&own);
    Ok(PresenceSettings {
        remote: url.get_ref().0.clone(),
        reach: repo.reach,
        password_command: repo.password_command,
        password_ttl: repo.password_ttl,
        every,
        history: keys.history.unwrap_or(true),
    })
}

/// The keys that a repository has too, as those of one.
fn as_repo_section(keys: &PresenceSection, url: &Spanned<super::value::Address>) -> RepoSection {
    RepoSection {
        url: Some(Spanned::new(url.span(), OneOrMany(vec![url.get_ref().clone()]))),
        network_timeout: keys.network_timeout.clone(),
        insecure: keys.insecure,
        key_file: keys.key_file.clone(),
        known_hosts: keys.known_hosts.clone(),
        username: keys.username.clone(),
        password_file: keys.password_file.clone(),
        password_command: keys.password_command.clone(),
        password_ttl: keys.password_ttl.clone(),
        ca_file: keys.ca_file.clone(),
        client_cert: keys.client_cert.clone(),
        proxy: keys.proxy.clone(),
        ..RepoSection::default()
    }
}
