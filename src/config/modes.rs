//! Which keys go with which mode. What stands in `[defaults]` is for those whom it suits; what
//! stands in `[repo.NAME]` is meant, and saying nothing would let somebody believe that it was done.

use std::collections::BTreeMap;
use std::ops::Range;

use serde_spanned::Spanned;

use super::Mode;
use super::file::{File, Repo};
use super::source::{Error, Source};
use super::value::{DirectoryName, ShortRef};
use crate::domain::plan::{Update, When};
use crate::domain::publish::{Names, directory};

const WORKTREE: &[Mode] = &[Mode::Work, Mode::InPlace];
const ONE_BRANCH: &[Mode] = &[Mode::Work, Mode::InPlace, Mode::Checkout];
const MANY_REFS: &[Mode] = &[Mode::Branches, Mode::Atomic, Mode::Tags];
const PUBLISHING: &[Mode] =
    &[Mode::Checkout, Mode::Branches, Mode::Atomic, Mode::Tags, Mode::Fetch];

/// `rename`, with the places of what it gives.
type Renames = Spanned<BTreeMap<ShortRef, Spanned<DirectoryName>>>;

/// Whether `mode` is nothing without a target.
pub fn needs_target(mode: Mode) -> bool {
    mode.layout().is_some() && mode != Mode::Fetch
}

/// The mode of a repository.
pub fn of(file: &File, own: &Repo) -> Mode {
    let told = own.mode.as_ref().or(file.defaults.mode.as_ref());
    told.map(|mode| *mode.get_ref()).unwrap_or_default()
}

/// Refuses what does not go together.
pub fn judge(source: &Source, file: &File) -> Result<(), Error> {
    for repo in [&file.defaults].into_iter().chain(file.repo.values()) {
        repo.rename.as_ref().map_or(Ok(()), |rename| refuse_same_names(source, rename))?;
    }
    for (name, own) in &file.repo {
        let mode = of(file, own);
        refuse_target(source, own, mode, own.mode.as_ref().map_or(name.span(), Spanned::span))?;
        refuse_misplaced(source, own, mode)?;
        let names = own.names.as_ref().or(file.defaults.names.as_ref());
        let rename = own.rename.as_ref().or(file.defaults.rename.as_ref());
        if let (Some(names), Some(rename), true) = (names, rename, MANY_REFS.contains(&mode)) {
            refuse_unfit_names(source, *names.get_ref(), rename)?;
        }
    }
    Ok(())
}

/// Refuses a target where none can be, and none where one has to be; `blamed` is what told the mode.
fn refuse_target(
    source: &Source,
    own: &Repo,
    mode: Mode,
    blamed: Range<usize>,
) -> Result<(), Error> {
    let word = mode.as_str();
    match &own.target {
        None if needs_target(mode) => Err(source.error(
            blamed,
            &format!(
                "mode \"{word}\" publishes at a target, and none is named\n\
                 hint: write one, such as target = \"/srv/site\""
            ),
        )),
        Some(target) if mode.layout().is_none() => Err(source.error(
            target.span(),
            &format!(
                "mode \"{word}\" has no target: it works on the repository's own files\n\
                 hint: leave it out, or write another mode, such as mode = \"checkout\""
            ),
        )),
        _ => Ok(()),
    }
}

/// Refuses keys that do nothing in this mode, unless they ask for what is done anyway.
fn refuse_misplaced(source: &Source, own: &Repo, mode: Mode) -> Result<(), Error> {
    let names = own.names.as_ref().filter(|names| *names.get_ref() != Names::Exact);
    let update = own.update.as_ref().filter(|update| *update.get_ref() != Update::default());
    let when = own.when.as_ref().filter(|when| when.get_ref().0 != When::Changed);
    let keys = [
        ("update", span(update), WORKTREE),
        ("scripts", span(own.scripts.as_ref()), &[Mode::Work]),
        ("when", span(when), ONE_BRANCH),
        ("paths", span(own.paths.as_ref()), ONE_BRANCH),
        ("names", span(names), MANY_REFS),
        ("rename", span(own.rename.as_ref()), MANY_REFS),
        ("match", span(own.matching.as_ref()), MANY_REFS),
        ("keep", span(own.keep.as_ref()), PUBLISHING),
        ("before", span(own.before.as_ref()), PUBLISHING),
        ("after", span(own.after.as_ref()), PUBLISHING),
        ("after_user", span(own.after_user.as_ref()), PUBLISHING),
    ];
    for (key, span, modes) in keys {
        let Some(span) = span else { continue };
        if !modes.contains(&mode) {
            let modes: Vec<_> = modes.iter().map(|mode| format!("\"{}\"", mode.as_str())).collect();
            let reason = format!(
                "\"{key}\" does nothing in mode \"{}\"\n\
                 hint: leave it out; it is for mode {}",
                mode.as_str(),
                modes.join(", ")
            );
            return Err(source.error(span, &reason));
        }
        if modes == PUBLISHING && own.target.is_none() {
            let reason = format!(
                "\"{key}\" is about what appears at a target, and none is named\n\
                 hint: write one, such as target = \"/srv/site\", or leave it out"
            );
            return Err(source.error(span, &reason));
        }
    }
    Ok(())
}

/// Refuses two refs that would be one directory.
fn refuse_same_names(source: &Source, rename: &Renames) -> Result<(), Error> {
    let mut known: BTreeMap<&str, Range<usize>> = BTreeMap::new();
    let mut pairs: Vec<_> = rename.get_ref().values().collect();
    pairs.sort_by_key(|directory| directory.span().start);
    for directory in pairs {
        let name = directory.get_ref().0.as_str();
        if let Some(first) = known.insert(name, directory.span()) {
            let reason = format!(
                "two branches or tags cannot both be renamed to \"{name}\"\n\
                 hint: the other one is at {}; give one of them another name",
                source.place(first.start)
            );
            return Err(source.error(directory.span(), &reason));
        }
    }
    Ok(())
}

/// Refuses names that the rule of `names` would change or not accept.
fn refuse_unfit_names(source: &Source, names: Names, rename: &Renames) -> Result<(), Error> {
    for given in rename.get_ref().values() {
        let name = &given.get_ref().0;
        if directory(name.as_bytes(), names, &BTreeMap::new()).as_ref() != Ok(name) {
            let reason = format!(
                "Puppet accepts no environment called \"{name}\"\n\
                 hint: use letters, digits and \"_\", and none of main, master, agent and user"
            );
            return Err(source.error(given.span(), &reason));
        }
    }
    Ok(())
}

fn span<T>(value: Option<&Spanned<T>>) -> Option<Range<usize>> {
    value.map(Spanned::span)
}
