//! Converts the keys of `[presence]` to its settings. Does not know what is published.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_spanned::Spanned;

use super::faults::ConfigError;
use super::file::{PresenceSection, RepoSection};
use super::list::OneOrMany;
use super::source::ConfigTexts;
use super::{RepoSettings, credentials};
use crate::domain::fleet::reaction::{ReactionHosts, is_passed};
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
    /// `on_change`: what runs when other machines change; `None`: nothing.
    pub on_change: Option<FleetReaction>,
}

/// The programs that run at changes, each with its key: that of this machine's own repositories, and that of `presence`.
pub(super) fn at_changes<'a>(
    own: &'a [String],
    presence: Option<&'a PresenceSettings>,
) -> Vec<(&'static str, &'a [String])> {
    let of_others = presence.and_then(|presence| presence.on_change.as_ref());
    let of_others = of_others.map(|it| ("on_change of [presence]", it.argv.as_slice()));
    [("on_change", own)].into_iter().chain(of_others).collect()
}

/// The program that runs when other machines change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FleetReaction {
    /// The program, an absolute path, and its arguments.
    pub argv: Vec<String>,
    /// The hosts that count: `require`, or with `own_refs` all.
    pub hosts: ReactionHosts,
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
        on_change: reaction(source, keys)?,
    })
}

/// The settings of `on_change`, which has to know which hosts count.
fn reaction(
    source: &ConfigTexts,
    keys: &PresenceSection,
) -> Result<Option<FleetReaction>, ConfigError> {
    let own_refs = keys.own_refs.as_ref();
    let Some(argv) = &keys.on_change else {
        let idle = keys.require.as_ref().map(|it| ("require", it.span()));
        return match idle.or_else(|| own_refs.map(|it| ("own_refs", it.span()))) {
            None => Ok(None),
            Some((key, span)) => {
                let reason =
                    format!("\"{key}\" is for on_change\nhint: set on_change, or remove {key}");
                Err(source.error(span, &reason))
            }
        };
    };
    let hosts = match (&keys.require, own_refs.filter(|it| *it.get_ref())) {
        (Some(hosts), None) => {
            if let Some(wrong) = hosts.get_ref().0.iter().find(|host| !is_passed(host)) {
                let reason = format!(
                    "{} cannot be a host here: only a-z, 0-9, '.' and '-' are\n\
                     hint: write the name by which that machine publishes",
                    super::quoted(wrong)
                );
                return Err(source.error(hosts.span(), &reason));
            }
            ReactionHosts::Required(hosts.get_ref().0.iter().cloned().collect())
        }
        (None, Some(_)) => ReactionHosts::All,
        (Some(_), Some(own_refs)) => {
            let reason = "with \"require\" only those hosts count, with \"own_refs\" all do\nhint: remove one of them";
            return Err(source.error(own_refs.span(), reason));
        }
        (None, None) => {
            let reason = "\"on_change\" acts on what other machines say of themselves, so it needs to know \
                          which of them count\nhint: require = [\"app01\", \"app02\"] counts only these; own_refs = true counts all, \
                          where the server lets each key write its own branch alone";
            return Err(source.error(argv.span(), reason));
        }
    };
    Ok(Some(FleetReaction { argv: argv.get_ref().0.clone(), hosts }))
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
