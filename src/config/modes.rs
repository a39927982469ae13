//! Checks which keys fit which mode. Keys in `[defaults]` apply where they fit; a key in `[repo.NAME]` is
//! intended, and without an error its author would believe that it has an effect. Runs no mode.

use std::collections::BTreeMap;
use std::ops::Range;

use serde_spanned::Spanned;

use super::RepoMode;
use super::faults::{ConfigError, ConfigFaults};
use super::file::{ConfigFile, RepoSection};
use super::source::ConfigTexts;
use super::value::{DirectoryName, SharedDir, ShortRef};
use crate::domain::publish::release_paths::overlap;
use crate::domain::publish::rules::{NamingRule, directory};
use crate::domain::repository::change::RepoPath;
use crate::domain::repository::drift::OnDrift;
use crate::domain::repository::health::OnFailure;
use crate::domain::repository::observed::{RerunPolicy, UpdateMethod};

const WORKTREE: &[RepoMode] = &[RepoMode::Work, RepoMode::InPlace];
const ONE_BRANCH: &[RepoMode] = &[RepoMode::Work, RepoMode::InPlace, RepoMode::Checkout];
const ACTING: &[RepoMode] = &[
    RepoMode::Work,
    RepoMode::InPlace,
    RepoMode::Checkout,
    RepoMode::Branches,
    RepoMode::Atomic,
    RepoMode::Tags,
];
const FOLLOWING_ONE: &[RepoMode] =
    &[RepoMode::Work, RepoMode::InPlace, RepoMode::Checkout, RepoMode::Fetch];
const MANY_REFS: &[RepoMode] = &[RepoMode::Branches, RepoMode::Atomic, RepoMode::Tags];
const PUBLISHING: &[RepoMode] =
    &[RepoMode::Checkout, RepoMode::Branches, RepoMode::Atomic, RepoMode::Tags, RepoMode::Fetch];

/// The value of `rename`, with the positions of the directory names.
type RefRenames = Spanned<BTreeMap<ShortRef, Spanned<DirectoryName>>>;

/// Whether `mode` requires a target.
pub fn needs_target(mode: RepoMode) -> bool {
    mode.layout().is_some() && mode != RepoMode::Fetch
}

/// The mode of a repository, by its own section or the defaults.
pub fn of(file: &ConfigFile, own: &RepoSection) -> RepoMode {
    let configured = own.mode.as_ref().or(file.defaults.mode.as_ref());
    configured.map(|mode| *mode.get_ref()).unwrap_or_default()
}

/// Adds keys that do not fit together to `faults`. Of a section with other faults too little is known.
pub fn check_modes(source: &ConfigTexts, file: &ConfigFile, faults: &mut ConfigFaults) {
    faults.keep(refuse_within(source, &file.defaults));
    for (title, own) in &file.repo {
        let name = &title.get_ref().0;
        if faults.has(name) {
            continue;
        }
        let mode = of(file, own);
        let blamed = own.mode.as_ref().map_or(title.span(), Spanned::span);
        faults.check_repo(name, refuse_within(source, own));
        faults.check_repo(name, refuse_target(source, own, mode, blamed));
        faults.check_repo(name, refuse_update_of_tags(source, &file.defaults, own));
        for misplaced in misplaced(source, own, mode) {
            faults.add_to_repo(name, misplaced);
        }
        let names = own.names.as_ref().or(file.defaults.names.as_ref());
        let rename = own.rename.as_ref().or(file.defaults.rename.as_ref());
        if let (Some(names), Some(rename), true) = (names, rename, MANY_REFS.contains(&mode)) {
            faults.check_repo(name, refuse_unfit_names(source, *names.get_ref(), rename));
        }
    }
}

/// Refuses a value that contradicts itself.
fn refuse_within(source: &ConfigTexts, keys: &RepoSection) -> Result<(), ConfigError> {
    refuse_two_followed(source, keys)?;
    keys.rename.as_ref().map_or(Ok(()), |rename| refuse_same_names(source, rename))?;
    keys.shared.as_ref().map_or(Ok(()), |shared| refuse_nested(source, &shared.get_ref().0))
}

/// Refuses more than one of the keys that say what is followed.
fn refuse_two_followed(source: &ConfigTexts, keys: &RepoSection) -> Result<(), ConfigError> {
    let mut all = [
        ("branch", span(keys.branch.as_ref())),
        ("tag", span(keys.tag.as_ref())),
        ("revision", span(keys.revision.as_ref())),
    ]
    .into_iter()
    .filter_map(|(key, span)| Some((key, span?)))
    .collect::<Vec<_>>();
    all.sort_by_key(|(_, span)| span.start);
    match all.as_slice() {
        [(first, at), (second, span), ..] => Err(source.error(
            span.clone(),
            &format!(
                "\"{second}\" and \"{first}\" both say what is followed\n\
                 hint: the other one is at {}; keep one of branch, tag and revision",
                source.place(at.start)
            ),
        )),
        _ => Ok(()),
    }
}

/// Refuses a target where none is possible, and its absence where one is needed; `blamed` is the
/// position of the mode.
fn refuse_target(
    source: &ConfigTexts,
    own: &RepoSection,
    mode: RepoMode,
    blamed: Range<usize>,
) -> Result<(), ConfigError> {
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

/// Refuses `update` together with a tag or a revision, with which the worktree moves in one way only.
fn refuse_update_of_tags(
    source: &ConfigTexts,
    defaults: &RepoSection,
    own: &RepoSection,
) -> Result<(), ConfigError> {
    let followed = if own.follows_something() { own } else { defaults };
    let key = match (&followed.tag, &followed.revision) {
        (Some(_), _) => "tag",
        (None, Some(_)) => "revision",
        (None, None) => return Ok(()),
    };
    match &own.update {
        Some(update) if *update.get_ref() != UpdateMethod::Reset => Err(source.error(
            update.span(),
            &format!(
                "\"update\" does nothing with \"{key}\": one tag need not contain the other, and the worktree \
                 moves as with \"reset\"\nhint: leave it out"
            ),
        )),
        _ => Ok(()),
    }
}

/// The keys without effect in this mode, unless their value is what happens anyway.
fn misplaced(source: &ConfigTexts, own: &RepoSection, mode: RepoMode) -> Vec<ConfigError> {
    let names = own.names.as_ref().filter(|names| *names.get_ref() != NamingRule::Exact);
    let update = own.update.as_ref().filter(|update| *update.get_ref() != UpdateMethod::default());
    let when = own.when.as_ref().filter(|when| when.get_ref().0 != RerunPolicy::Changed);
    let min_age = own.min_age.as_ref().filter(|wait| !wait.get_ref().0.is_zero());
    let rollout = own.rollout.as_ref().filter(|wait| !wait.get_ref().0.is_zero());
    let on_failure = own.on_failure.as_ref().filter(|it| *it.get_ref() != OnFailure::Stay);
    let drift = own.drift.as_ref().filter(|it| *it.get_ref() == OnDrift::Repair);
    // What is only fetched has no files but those at a target.
    let with_files = if mode == RepoMode::Fetch { PUBLISHING } else { ACTING };
    let keys = [
        ("tag", span(own.tag.as_ref()), FOLLOWING_ONE),
        ("revision", span(own.revision.as_ref()), FOLLOWING_ONE),
        ("update", span(update), WORKTREE),
        ("scripts", span(own.scripts.as_ref()), &[RepoMode::Work]),
        ("when", span(when), ONE_BRANCH),
        ("paths", span(own.paths.as_ref()), ONE_BRANCH),
        ("names", span(names), MANY_REFS),
        ("rename", span(own.rename.as_ref()), MANY_REFS),
        ("match", span(own.matching.as_ref()), MANY_REFS),
        ("keep", span(own.keep.as_ref()), PUBLISHING),
        ("window", span(own.window.as_ref()), ACTING),
        ("window_zone", span(own.window_zone.as_ref()), ACTING),
        ("min_age", span(min_age), ONE_BRANCH),
        ("rollout", span(rollout), ONE_BRANCH),
        ("canaries", span(own.canaries.as_ref()), ONE_BRANCH),
        ("health", span(own.health.as_ref()), ACTING),
        ("health_within", span(own.health_within.as_ref()), ACTING),
        ("on_failure", span(on_failure), ACTING),
        ("drift", span(drift), with_files),
        ("after", span(own.after.as_ref()), PUBLISHING),
        ("after_user", span(own.after_user.as_ref()), PUBLISHING),
        ("shared", span(own.shared.as_ref()), PUBLISHING),
    ];
    let of_one = |(key, span, modes): (&str, Option<Range<usize>>, &[RepoMode])| {
        let span = span?;
        if !modes.contains(&mode) {
            let modes: Vec<_> = modes.iter().map(|mode| format!("\"{}\"", mode.as_str())).collect();
            let reason = format!(
                "\"{key}\" does nothing in mode \"{}\"\n\
                 hint: leave it out; it is for mode {}",
                mode.as_str(),
                modes.join(", ")
            );
            return Some(source.error(span, &reason));
        }
        // A mode that needs a target says so itself.
        if modes == PUBLISHING && own.target.is_none() && !needs_target(mode) {
            let reason = format!(
                "\"{key}\" is about what appears at a target, and none is named\n\
                 hint: write one, such as target = \"/srv/site\", or leave it out"
            );
            return Some(source.error(span, &reason));
        }
        None
    };
    keys.into_iter().filter_map(of_one).collect()
}

/// Refuses two refs with the same directory name.
fn refuse_same_names(source: &ConfigTexts, rename: &RefRenames) -> Result<(), ConfigError> {
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

/// Refuses shared directories of which one lies in another.
fn refuse_nested(source: &ConfigTexts, shared: &[Spanned<SharedDir>]) -> Result<(), ConfigError> {
    let path = |it: &Spanned<SharedDir>| RepoPath::new(it.get_ref().0.as_bytes());
    for (number, one) in shared.iter().enumerate() {
        let earlier = shared.iter().take(number);
        if let Some(other) = earlier.rev().find(|other| overlap(&path(one), &path(other))) {
            let reason = format!(
                "\"{}\" and \"{}\" lie in each other\n\
                 hint: name only the outer one, or directories next to each other",
                one.get_ref().0,
                other.get_ref().0
            );
            return Err(source.error(one.span(), &reason));
        }
    }
    Ok(())
}

/// Refuses names that the rule of `names` would change or reject.
fn refuse_unfit_names(
    source: &ConfigTexts,
    names: NamingRule,
    rename: &RefRenames,
) -> Result<(), ConfigError> {
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
