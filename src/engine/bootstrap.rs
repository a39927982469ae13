//! Making a machine live: what is written before anything needs the network.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use super::Here;
use crate::config::RepoSettings;
use crate::domain::git::Remote;
use crate::system::files;
use crate::system::git::Git;

/// One repository to be configured.
#[derive(Clone, Copy, Debug)]
pub struct Entry<'a> {
    /// Its name.
    pub name: &'a str,
    /// Where it is cloned from.
    pub url: &'a str,
    /// The branch to follow, placeholders included.
    pub branch: Option<&'a str>,
    /// The ssh key.
    pub key: Option<&'a Path>,
    /// The ssh servers that are known.
    pub known_hosts: Option<&'a Path>,
}

/// What is there of an entry already.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    /// Nothing.
    Nothing,
    /// An entry that says what is wanted.
    Same,
    /// An entry that says something else beside the url; it stays. A sentence for each difference.
    Other(Vec<String>),
}

/// Writes which part and stack this machine is; `None` leaves what is there.
///
/// # Errors
/// When it cannot be written.
pub fn write_node(here: &Here, part: Option<&str>, stack: Option<&str>) -> Result<()> {
    let folder = &here.settings.world.nodeinfo;
    for (file, word) in [("nodepart.txt", part), ("stacktype.txt", stack)] {
        if let Some(word) = word {
            files::ensure_dir(folder, 0o755)?;
            files::sweep(folder)?;
            files::put(folder, file, format!("{word}\n").as_bytes(), 0o644)?;
        }
    }
    Ok(())
}

/// A sentence when the clone that is there already was made from another address than `entry` names.
pub fn comes_from_elsewhere(here: &Here, entry: &Entry) -> Option<String> {
    let known = here.settings.repos.get(entry.name).and_then(|known| known.path.clone());
    let path = known.unwrap_or_else(|| here.settings.world.root.join(entry.name));
    let origin = Git::open(&path).ok()?.origin()?;
    let wanted = Remote::new(entry.url.to_owned());
    (origin.secret_url() != wanted.secret_url()).then(|| {
        format!(
            "{}: the clone that is there comes from {origin}; from now on it follows {wanted}",
            entry.name
        )
    })
}

/// Where an entry is written to.
pub fn entry_file(here: &Here, name: &str) -> PathBuf {
    here.settings.world.config_dir.join(format!("{name}.toml"))
}

/// What the configuration says of `entry` so far.
///
/// # Errors
/// When the name is configured with another url.
pub fn find(here: &Here, entry: &Entry) -> Result<Found> {
    let Some(known) = here.settings.repos.get(entry.name) else { return Ok(Found::Nothing) };
    let first = known.urls.first();
    if first.is_none_or(|url| url.secret_url() != entry.url) {
        let file = entry_file(here, entry.name);
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
    Ok(if differences.is_empty() { Found::Same } else { Found::Other(differences) })
}

fn differences(entry: &Entry, known: &RepoSettings) -> Vec<String> {
    let shown = |path: &Option<PathBuf>| path.as_ref().map(|path| path.display().to_string());
    let wanted = |path: Option<&Path>| path.map(|path| path.display().to_string());
    let compared = [
        ("branch", entry.branch.map(str::to_owned), known.branch.clone(), "the remote's HEAD"),
        ("key_file", wanted(entry.key), shown(&known.reach.key_file), "none"),
        ("known_hosts", wanted(entry.known_hosts), shown(&known.reach.known_hosts), "none"),
    ];
    let differ = compared.into_iter().filter(|(_, asked, has, _)| asked.is_some() && asked != has);
    differ
        .map(|(key, _, has, default)| {
            let has = has.unwrap_or_else(|| default.to_owned());
            format!("{}: {key} stays as it is configured ({has})", entry.name)
        })
        .collect()
}

/// Writes `agent.d/NAME.toml`.
///
/// # Errors
/// When it cannot be written.
pub fn write_entry(here: &Here, entry: &Entry) -> Result<()> {
    let mut table = toml::Table::new();
    let path = |path: &Path| path.display().to_string();
    let keys = [
        ("url", Some(entry.url.to_owned())),
        ("branch", entry.branch.map(str::to_owned)),
        ("key_file", entry.key.map(path)),
        ("known_hosts", entry.known_hosts.map(path)),
    ];
    for (key, value) in keys {
        table.extend(value.map(|value| (key.to_owned(), toml::Value::String(value))));
    }
    let repo = toml::Table::from_iter([(entry.name.to_owned(), toml::Value::Table(table))]);
    let file = toml::Table::from_iter([("repo".to_owned(), toml::Value::Table(repo))]);
    let text = toml::to_string(&file).context("the entry cannot be written as TOML")?;
    let folder = &here.settings.world.config_dir;
    files::ensure_dir(folder, 0o755)?;
    files::sweep(folder)?;
    // 0600: an address may hold a password.
    files::put(folder, &format!("{}.toml", entry.name), text.as_bytes(), 0o600)
}
