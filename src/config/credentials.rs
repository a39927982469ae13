//! Checks the keys of passwords against each other. Reads no file and runs no program.

use serde_spanned::Spanned;

use super::faults::{ConfigError, ConfigFaults};
use super::file::{ConfigFile, RepoSection};
use super::source::ConfigTexts;
use crate::domain::git::RemoteScheme;

/// Adds settings of passwords that contradict each other, or have no effect, to `faults`.
pub fn check_passwords(source: &ConfigTexts, file: &ConfigFile, faults: &mut ConfigFaults) {
    faults.keep(refuse_both(source, &file.defaults));
    for (title, own) in &file.repo {
        let name = &title.get_ref().0;
        if faults.has(name) {
            continue;
        }
        faults.check_repo(name, refuse_both(source, own));
        faults.check_repo(name, refuse_without_server(source, own));
        faults.check_repo(name, refuse_idle_ttl(source, &file.defaults, own));
    }
}

/// Refuses the same in a section of its own, without `[defaults]`.
pub fn check_section(source: &ConfigTexts, own: &RepoSection) -> Result<(), ConfigError> {
    refuse_both(source, own)?;
    refuse_without_server(source, own)?;
    refuse_idle_ttl(source, &RepoSection::default(), own)
}

fn refuse_both(source: &ConfigTexts, keys: &RepoSection) -> Result<(), ConfigError> {
    match (&keys.password_command, &keys.password_file) {
        (Some(command), Some(_)) => Err(source.error(
            command.span(),
            "\"password_command\" and \"password_file\" contradict each other\n\
             hint: keep the one that has the password",
        )),
        _ => Ok(()),
    }
}

fn refuse_without_server(source: &ConfigTexts, own: &RepoSection) -> Result<(), ConfigError> {
    let Some(command) = &own.password_command else { return Ok(()) };
    let is_web = |scheme| matches!(scheme, Some(RemoteScheme::Http | RemoteScheme::Https));
    let urls = own.url.iter().flat_map(|urls| &urls.get_ref().0);
    match urls.into_iter().any(|url| is_web(url.0.scheme())) {
        true => Ok(()),
        false => Err(source.error(
            command.span(),
            "\"password_command\" is for a url that begins with https://, and none is named\n\
             hint: write one, such as url = \"https://git.example.org/spog.git\", or leave it out",
        )),
    }
}

fn refuse_idle_ttl(
    source: &ConfigTexts,
    defaults: &RepoSection,
    own: &RepoSection,
) -> Result<(), ConfigError> {
    let inherits = defaults.password_command.is_some() && own.password_file.is_none();
    match own.password_ttl.as_ref().map(Spanned::span) {
        Some(span) if own.password_command.is_none() && !inherits => Err(source.error(
            span,
            "\"password_ttl\" does nothing without \"password_command\"\n\
             hint: leave it out, or name the program",
        )),
        _ => Ok(()),
    }
}
