//! Sets a machine up: writes the files that exist before anything needs the network. Schedules nothing.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};

use crate::config::RepoSettings;
use crate::domain::git::{Commit, Remote};
use crate::engine::context::Context;
use crate::system::files;
use crate::system::git::upstream::ORIGIN;
use crate::system::git::{Git, Head};

/// A repository that is to be configured.
#[derive(Clone, Copy, Debug, Default)]
pub struct InitEntry<'a> {
    /// The repository's name.
    pub name: &'a str,
    /// The URL of its remote.
    pub url: &'a str,
    /// The branch to follow, placeholders included; `None`: the default.
    pub branch: Option<&'a str>,
    /// The SSH key file.
    pub key: Option<&'a Path>,
    /// The `known_hosts` file for SSH.
    pub known_hosts: Option<&'a Path>,
    /// The user name for HTTPS.
    pub username: Option<&'a str>,
    /// The file with the password for HTTPS.
    pub password_file: Option<&'a Path>,
    /// The file with the certificates of the trusted authorities.
    pub ca_file: Option<&'a Path>,
    /// The file of the keys that may sign.
    pub signers: Option<&'a Path>,
    /// The commit that the first revision here has to descend from.
    pub since: Option<Commit>,
}

/// `[presence]` that is to be configured.
#[derive(Clone, Copy, Debug)]
pub struct PresenceEntry<'a> {
    /// The URL of the status repository.
    pub url: &'a str,
    /// The SSH key file.
    pub key: Option<&'a Path>,
    /// The `known_hosts` file for SSH.
    pub known_hosts: Option<&'a Path>,
    /// The file with the certificates of the trusted authorities.
    pub ca_file: Option<&'a Path>,
}

/// The state of an entry before it is written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ExistingRepo {
    /// It does not exist.
    Nothing,
    /// It exists and has the wanted settings.
    Same,
    /// It exists with other settings besides the URL, and stays; one sentence for each difference.
    Other(Vec<String>),
}

/// Writes the part and the stack of this machine; `None` leaves the present value.
///
/// # Errors
/// When a file cannot be written.
pub fn write_node(context: &Context, part: Option<&str>, stack: Option<&str>) -> Result<()> {
    let dir = &context.settings.world.nodeinfo;
    for (file, word) in [("nodepart.txt", part), ("stacktype.txt", stack)] {
        if let Some(word) = word {
            files::ensure_dir(dir, 0o755)?;
            files::sweep(dir)?;
            files::put(dir, file, format!("{word}\n").as_bytes(), 0o644)?;
        }
    }
    Ok(())
}

/// Sentences about the present clone of `entry`: it has another `origin`, or settings that the agent does
/// not use.
pub fn about_the_clone(context: &Context, entry: &InitEntry) -> Vec<String> {
    let known = context.settings.repos.get(entry.name).and_then(|known| known.path.clone());
    let path = known.unwrap_or_else(|| context.settings.world.root.join(entry.name));
    let Ok(git) = Git::open(&path) else { return Vec::new() };
    let mut sentences = Vec::new();
    let wanted = Remote::new(entry.url.to_owned());
    let origin = git.urls(ORIGIN).into_iter().next();
    if let Some(origin) = origin.filter(|origin| origin.secret_url() != wanted.secret_url()) {
        sentences.push(format!(
            "{}: the existing clone comes from {origin}; from now on it follows {wanted}",
            entry.name
        ));
    }
    let branch = match git.head() {
        Ok(Head::Branch(branch, _)) => Some(branch),
        _ => None,
    };
    if let Ok(source) = git.pull_source(branch.as_ref()) {
        let unused = git.unused_settings(&source);
        if !unused.is_empty() {
            sentences.push(format!(
                "{}: the agent does not use what git pull uses of its configuration: {}",
                entry.name,
                unused.join(", ")
            ));
        }
    }
    sentences
}

/// The file of an entry.
pub fn entry_file(context: &Context, name: &str) -> PathBuf {
    context.settings.world.config_dir.join(format!("{name}.toml"))
}

/// Compares `entry` with the configuration.
///
/// # Errors
/// When the name is configured with another URL.
pub fn find(context: &Context, entry: &InitEntry) -> Result<ExistingRepo> {
    let Some(known) = context.settings.repos.get(entry.name) else {
        return Ok(ExistingRepo::Nothing);
    };
    if let Some(error) = context.settings.faults.get(entry.name) {
        return Err(error.clone().into());
    }
    let first = known.urls.first();
    if first.is_none_or(|url| url.secret_url() != entry.url) {
        let file = entry_file(context, entry.name);
        if first.is_some_and(|url| url.to_string() == Remote::new(entry.url).to_string()) {
            bail!(
                "\"{}\" is configured already, with other credentials\nhint: change them in {}",
                entry.name,
                file.display()
            );
        }
        bail!(
            "\"{}\" is configured already, with another url: {}\n\
             hint: choose another name (NAME=URL), or change the url in {}",
            entry.name,
            first.map_or_else(|| "none".to_owned(), ToString::to_string),
            file.display()
        );
    }
    let differences = differences(entry, known);
    Ok(if differences.is_empty() { ExistingRepo::Same } else { ExistingRepo::Other(differences) })
}

fn differences(entry: &InitEntry, known: &RepoSettings) -> Vec<String> {
    let shown = |path: &Option<PathBuf>| path.as_ref().map(|path| path.display().to_string());
    let wanted = |path: Option<&Path>| path.map(|path| path.display().to_string());
    let full = |commit: Option<Commit>| commit.map(|commit| commit.to_string());
    let gates = &known.policy.gates;
    let compared = [
        ("branch", entry.branch.map(str::to_owned), known.branch.clone(), "the remote's HEAD"),
        ("key_file", wanted(entry.key), shown(&known.reach.key_file), "none"),
        ("known_hosts", wanted(entry.known_hosts), shown(&known.reach.known_hosts), "none"),
        ("username", entry.username.map(str::to_owned), known.reach.username.clone(), "none"),
        ("password_file", wanted(entry.password_file), shown(&known.reach.password_file), "none"),
        ("ca_file", wanted(entry.ca_file), shown(&known.reach.ca_file), "none"),
        ("allowed_signers", wanted(entry.signers), shown(&gates.signers), "none"),
        ("signed_since", full(entry.since), full(gates.signed_since), "none"),
    ];
    let differ = compared.into_iter().filter(|(_, asked, has, _)| asked.is_some() && asked != has);
    differ
        .map(|(key, _, has, default)| {
            let has = has.unwrap_or_else(|| default.to_owned());
            format!("{}: {key} stays as it is configured ({has})", entry.name)
        })
        .collect()
}

/// The name of the file of `[presence]`.
const PRESENCE_ENTRY: &str = "presence";

/// Compares `entry` with the configuration: [`ExistingRepo::Nothing`] or [`ExistingRepo::Same`].
///
/// # Errors
/// When another status repository is configured, or the place of the file is taken.
pub fn find_presence(context: &Context, entry: &PresenceEntry) -> Result<ExistingRepo> {
    let file = entry_file(context, PRESENCE_ENTRY);
    match &context.settings.presence {
        Some(known) if known.remote.secret_url() == entry.url => Ok(ExistingRepo::Same),
        Some(known) => bail!(
            "[presence] is configured already, with another url: {}\nhint: change it there, or leave out --presence",
            known.remote
        ),
        None if file.exists() => bail!(
            "{} is the file of a repository\nhint: write [presence] with its url into {}",
            file.display(),
            context.settings.world.config_file.display()
        ),
        None => Ok(ExistingRepo::Nothing),
    }
}

/// Writes `agent.d/presence.toml`; returns its path.
///
/// # Errors
/// When the file cannot be written.
pub fn write_presence(context: &Context, entry: &PresenceEntry) -> Result<PathBuf> {
    let path = |path: &Path| path.display().to_string();
    let keys = [
        ("url", Some(entry.url.to_owned())),
        ("key_file", entry.key.map(path)),
        ("known_hosts", entry.known_hosts.map(path)),
        ("ca_file", entry.ca_file.map(path)),
    ];
    put_entry(
        context,
        PRESENCE_ENTRY,
        toml::Table::from_iter([("presence".to_owned(), table(keys))]),
    )?;
    Ok(entry_file(context, PRESENCE_ENTRY))
}

/// The keys that have a value.
fn table<const N: usize>(keys: [(&str, Option<String>); N]) -> toml::Value {
    let set = keys
        .into_iter()
        .filter_map(|(key, value)| value.map(|value| (key.to_owned(), toml::Value::String(value))));
    toml::Value::Table(set.collect())
}

fn put_entry(context: &Context, name: &str, file: toml::Table) -> Result<()> {
    let text = toml::to_string(&file).context("the entry cannot be written as TOML")?;
    let dir = &context.settings.world.config_dir;
    files::ensure_dir(dir, 0o755)?;
    files::sweep(dir)?;
    // 0600: a URL may contain a password.
    files::put(dir, &format!("{name}.toml"), text.as_bytes(), 0o600)
}

/// Writes `agent.d/NAME.toml`.
///
/// # Errors
/// When the file cannot be written.
pub fn write_entry(context: &Context, entry: &InitEntry) -> Result<()> {
    let path = |path: &Path| path.display().to_string();
    let keys = [
        ("url", Some(entry.url.to_owned())),
        ("branch", entry.branch.map(str::to_owned)),
        ("key_file", entry.key.map(path)),
        ("known_hosts", entry.known_hosts.map(path)),
        ("username", entry.username.map(str::to_owned)),
        ("password_file", entry.password_file.map(path)),
        ("ca_file", entry.ca_file.map(path)),
        ("allowed_signers", entry.signers.map(path)),
        ("signed_since", entry.since.map(|commit| commit.to_string())),
    ];
    let repo = toml::Table::from_iter([(entry.name.to_owned(), table(keys))]);
    let file = toml::Table::from_iter([("repo".to_owned(), toml::Value::Table(repo))]);
    put_entry(context, entry.name, file)
}
