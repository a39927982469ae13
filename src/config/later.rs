//! Keys that are read and judged, but whose work this version does not do yet. Saying nothing
//! would let somebody believe that it was done. The only such list: what becomes available leaves it.

use std::ops::Range;

use serde_spanned::Spanned;

use super::Mode;
use super::file::{File, ModeWord, Names, Repo};
use super::source::{Error, Source};

/// Refuses the sections that are not available.
pub fn refuse_sections(source: &Source, file: &File) -> Result<(), Error> {
    let used = [
        ("[bus]", span(file.bus.as_ref())),
        ("[listen]", span(file.listen.as_ref())),
        ("[webhook]", span(file.webhook.as_ref())),
    ];
    refuse(source, &used)
}

/// Refuses the keys of a `[repo.NAME]` or `[defaults]` that are not available, unless they ask for
/// what is done anyway.
pub fn refuse_keys(source: &Source, repo: &Repo) -> Result<(), Error> {
    let used = [
        ("this mode", unless(repo.mode.as_ref(), |&word| mode(word).is_some())),
        ("target", span(repo.target.as_ref())),
        ("names", unless(repo.names.as_ref(), |&names| names == Names::Exact)),
        ("rename", span(repo.rename.as_ref())),
        ("match", span(repo.matching.as_ref())),
        ("keep", span(repo.keep.as_ref())),
        ("before", span(repo.before.as_ref())),
        ("after", span(repo.after.as_ref())),
        ("after_user", span(repo.after_user.as_ref())),
        ("topic_name", span(repo.topic_name.as_ref())),
        ("listen_topic", span(repo.listen_topic.as_ref())),
    ];
    refuse(source, &used)
}

/// What a word for `mode` means; `None` while it is not available.
pub fn mode(word: ModeWord) -> Option<Mode> {
    match word {
        ModeWord::Work => Some(Mode::Work),
        ModeWord::InPlace => Some(Mode::InPlace),
        ModeWord::Fetch
        | ModeWord::Checkout
        | ModeWord::Branches
        | ModeWord::Atomic
        | ModeWord::Tags => None,
    }
}

fn refuse(source: &Source, used: &[(&str, Option<Range<usize>>)]) -> Result<(), Error> {
    let Some((what, Some(span))) = used.iter().find(|(_, span)| span.is_some()) else {
        return Ok(());
    };
    let reason = format!(
        "{what} is not available in this version of the agent ({})\nhint: leave it out",
        env!("CARGO_PKG_VERSION")
    );
    Err(source.error(span.clone(), &reason))
}

fn span<T>(value: Option<&Spanned<T>>) -> Option<Range<usize>> {
    value.map(Spanned::span)
}

fn unless<T>(value: Option<&Spanned<T>>, done_anyway: fn(&T) -> bool) -> Option<Range<usize>> {
    span(value.filter(|value| !done_anyway(value.get_ref())))
}
