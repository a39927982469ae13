//! Checks the keys of signatures against others. Reads no file.

use std::ops::Range;

use serde_spanned::Spanned;

use super::faults::{ConfigError, ConfigFaults};
use super::file::{ConfigFile, RepoSection};
use super::source::ConfigTexts;

/// Adds settings that do not fit `allowed_signers` to `faults`.
pub fn check_signers(source: &ConfigTexts, file: &ConfigFile, faults: &mut ConfigFaults) {
    let none = RepoSection::default();
    faults.keep(refuse(source, &none, &file.defaults));
    for (title, own) in &file.repo {
        let name = &title.get_ref().0;
        if !faults.has(name) {
            faults.check_repo(name, refuse(source, &file.defaults, own));
        }
    }
}

fn refuse(
    source: &ConfigTexts,
    defaults: &RepoSection,
    own: &RepoSection,
) -> Result<(), ConfigError> {
    let is_set = own.allowed_signers.is_some() || defaults.allowed_signers.is_some();
    let depth = own.depth.as_ref().or(defaults.depth.as_ref());
    let depth = depth.filter(|depth| *depth.get_ref() > 0).map(Spanned::span);
    if let (Some(depth), true) = (depth, is_set) {
        return Err(source.error(
            own_place(own).unwrap_or(depth),
            "\"depth\" and \"allowed_signers\" contradict each other: the commits whose signatures count must be \
             here\nhint: leave \"depth\" out",
        ));
    }
    match &own.signed_since {
        Some(since) if !is_set => Err(source.error(
            since.span(),
            "\"signed_since\" does nothing without \"allowed_signers\"\n\
             hint: name the file with the keys that may sign, such as allowed_signers = \"/etc/pmpy/ops.signers\"",
        )),
        _ => Ok(()),
    }
}

/// The place of one of the two in a section; `None`: it has none of them.
fn own_place(own: &RepoSection) -> Option<Range<usize>> {
    let depth = own.depth.as_ref().map(Spanned::span);
    depth.or_else(|| own.allowed_signers.as_ref().map(Spanned::span))
}
