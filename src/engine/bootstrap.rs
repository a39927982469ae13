//! Making a machine live: what is written before anything needs the network.

use std::path::Path;

use anyhow::{Context, Result, bail};

use super::Here;
use crate::system::{files, node};

/// One repository to be configured.
#[derive(Clone, Copy, Debug)]
pub struct Entry<'a> {
    /// Its name.
    pub name: &'a str,
    /// Where it is cloned from.
    pub url: &'a str,
    /// The branch to follow, placeholders included.
    pub branch: Option<&'a str>,
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
            files::put(folder, file, format!("{word}\n").as_bytes(), 0o644)?;
        }
    }
    Ok(())
}

/// Writes `agent.d/NAME.toml`, unless the same is configured already. An entry of that name that
/// somebody wrote is left as it is; the value then says so.
///
/// # Errors
/// When it cannot be written, or the name is configured with another url.
pub fn write_entry(here: &Here, entry: &Entry) -> Result<Option<String>> {
    let settings = &here.settings;
    if let Some(known) = settings.repos.get(entry.name) {
        let same = known.urls.first().is_some_and(|url| url.secret_url() == entry.url);
        if !same {
            bail!(
                "\"{}\" is configured already, with another url: {}\n\
                 hint: choose another name (NAME=URL), or change the url in {}",
                entry.name,
                known.urls.first().map_or_else(|| "none".to_owned(), ToString::to_string),
                settings.world.config_dir.join(format!("{}.toml", entry.name)).display()
            );
        }
        return Ok(match (entry.branch, &known.branch) {
            (Some(wanted), configured) if configured.as_deref() != Some(wanted) => Some(format!(
                "{}: the branch stays as it is configured ({}); change it in {}",
                entry.name,
                configured.as_deref().unwrap_or("the remote's HEAD"),
                settings.world.config_dir.display()
            )),
            _ => None,
        });
    }
    let mut table = toml::Table::new();
    table.insert("url".to_owned(), entry.url.into());
    if let Some(branch) = entry.branch {
        table.insert("branch".to_owned(), branch.into());
    }
    let repo = toml::Table::from_iter([(entry.name.to_owned(), toml::Value::Table(table))]);
    let file = toml::Table::from_iter([("repo".to_owned(), toml::Value::Table(repo))]);
    let text = toml::to_string(&file).context("the entry cannot be written as TOML")?;
    let folder = &settings.world.config_dir;
    files::ensure_dir(folder, 0o755)?;
    // 0600: an address may hold a password.
    files::put(folder, &format!("{}.toml", entry.name), text.as_bytes(), 0o600)?;
    Ok(None)
}

/// What makes ticks happen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CronLine {
    /// Where it belongs.
    pub place: &'static str,
    /// The line itself.
    pub line: String,
}

/// The line that calls the tick of this world each minute. It names the program by its path: cron's
/// own `PATH` is short.
pub fn cron_line(here: &Here) -> CronLine {
    let world = &here.settings.world;
    let root = match world.own {
        true => format!(" --root {}", in_a_crontab(&world.root)),
        false => String::new(),
    };
    // Only the crontabs of the system name a user.
    let (place, user) = match here.node.user.uid {
        0 => ("/etc/cron.d/pmpy", "root "),
        _ => ("your crontab (crontab -e)", ""),
    };
    let agent = in_a_crontab(&node::program());
    CronLine {
        place,
        line: format!("* * * * * {user}{agent}{root} tick --trigger cron --splay 20s"),
    }
}

/// A path as the shell of a crontab line takes it; `%` would end the line there (crontab(5)).
fn in_a_crontab(path: &Path) -> String {
    let text = path.display().to_string();
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+@:,".contains(c);
    if text.chars().all(plain) {
        return text;
    }
    format!("'{}'", text.replace('\'', "'\\''")).replace('%', "\\%")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_quoted_for_the_shell_and_for_cron() {
        for (path, quoted) in [
            ("/srv/repos", "/srv/repos"),
            ("/srv/my repos", "'/srv/my repos'"),
            ("/srv/it's", "'/srv/it'\\''s'"),
            ("/srv/50%", "'/srv/50\\%'"),
        ] {
            assert_eq!(in_a_crontab(Path::new(path)), quoted);
        }
    }
}
