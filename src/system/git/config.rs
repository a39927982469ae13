//! The object format in a clone's configuration, and the damage in that file. It reads the file itself,
//! because libgit2 opens no repository whose configuration is damaged.

use std::path::Path;

use anyhow::{Context, Result};
use git2::Config;

use super::damage::Damage;
use super::packs::format_of_store;
use crate::domain::git::ObjectFormat;
use crate::domain::text::EscapeControls;
use crate::system::files;
use crate::system::git::size_limits::SMALL;

const VERSION: &str = "core.repositoryformatversion";
const FORMAT: &str = "extensions.objectformat";

/// The object format in the configuration of `git_dir`, as libgit2 reads it; `None` when it cannot be
/// read or is unknown.
pub(super) fn configured(git_dir: &Path) -> Option<ObjectFormat> {
    let config = Config::open(&git_dir.join("config")).ok()?;
    if config.get_i32(VERSION).unwrap_or(0) == 0 {
        return Some(ObjectFormat::Sha1);
    }
    match config.get_string(FORMAT).as_deref() {
        Err(_) | Ok("sha1") => Some(ObjectFormat::Sha1),
        Ok("sha256") => Some(ObjectFormat::Sha256),
        Ok(_) => None,
    }
}

/// Writes the object format into the configuration; everything else in it stays.
///
/// # Errors
/// When it cannot be written.
pub fn put_format(git_dir: &Path, format: ObjectFormat) -> Result<()> {
    let name = match format {
        ObjectFormat::Sha1 => "sha1",
        ObjectFormat::Sha256 => "sha256",
    };
    let path = git_dir.join("config");
    let written = Config::open(&path).and_then(|mut config| {
        // In this order: before version 1 the format setting has no effect.
        config.set_str(FORMAT, name)?;
        config.set_i32(VERSION, 1)
    });
    written.with_context(|| format!("cannot write {}", path.display()))
}

/// The damage in the configuration of `git_dir`, if any.
pub(super) fn config_damage(git_dir: &Path) -> Option<Damage> {
    let path = git_dir.join("config");
    let bytes = files::read_small(&path, SMALL).ok()??;
    if bytes.trim_ascii().is_empty() {
        return Some(Damage::Config("is empty".to_owned()));
    }
    let config = match Config::open(&path) {
        Ok(config) => config,
        Err(error) => {
            let why = error.message().escape_controls();
            return Some(Damage::Config(format!("cannot be read ({why})")));
        }
    };
    let lacks = |key: &str| config.get_entry(key).is_err();
    let cut_off = bytes.last() != Some(&b'\n')
        && ["core.repositoryformatversion", "remote.origin.url", "remote.origin.fetch"]
            .into_iter()
            .any(lacks);
    if cut_off {
        return Some(Damage::Config("is cut off".to_owned()));
    }
    let found = format_of_store(git_dir)?;
    (configured(git_dir)? != found).then_some(Damage::Format(found))
}
