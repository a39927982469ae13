//! Lays tables over one another: a later file wins key by key, and tables are merged. Knows no key.

use std::borrow::Cow;
use std::ops::Range;

use serde_spanned::Spanned;
use toml::de::{DeTable, DeValue};

/// A key whose value a later file replaces.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Override {
    /// The key with its sections, such as `repo.site.timeout`.
    pub key: String,
    /// The offset of the key that wins.
    pub by: usize,
    /// The offset of the key that it replaces.
    pub over: usize,
}

/// Lays `from` over `into`; `section` is the name of both, empty at the top. Notes what is replaced.
pub fn lay_over<'a>(
    into: &mut DeTable<'a>,
    from: DeTable<'a>,
    section: &str,
    replaced: &mut Vec<Override>,
) {
    for (key, value) in from {
        let Some((earlier_key, earlier)) = into.remove_entry::<str>(key.get_ref()) else {
            into.insert(key, value);
            continue;
        };
        let (name, span) = (joined(section, key.get_ref()), value.span());
        let (earlier_span, by, over) = (earlier.span(), key.span().start, earlier_key.span().start);
        let value = match (earlier.into_inner(), value.into_inner()) {
            (DeValue::Table(mut all), DeValue::Table(more)) => {
                lay_over(&mut all, more, &name, replaced);
                DeValue::Table(all)
            }
            // Two files may say the same; only a reader of both would notice.
            (_, later) => {
                replaced.push(Override { key: name, by, over });
                later
            }
        };
        let span = if value.is_table() { earlier_span } else { span };
        into.insert(key, Spanned::new(span, value));
    }
}

/// Takes the key with the value or the name at the offset `at` out of `table`; returns its name, with those of
/// the tables around it.
pub fn take_out(table: &mut DeTable<'_>, at: usize) -> Option<String> {
    let begins = |span: Range<usize>| (span.start..span.end.max(span.start + 1)).contains(&at);
    let is_plain = |value: &Spanned<DeValue<'_>>| !value.get_ref().is_table();
    let named = |name: &Cow<'_, str>| name.clone().into_owned();
    let hit = table
        .iter()
        .find(|(key, value)| begins(key.span()) || (is_plain(value) && begins(value.span())));
    if let Some(name) = hit.map(|(key, _)| named(key.get_ref())) {
        table.remove(name.as_str());
        return Some(name);
    }
    for (key, value) in table.iter_mut() {
        if let DeValue::Table(inner) = value.get_mut()
            && let Some(name) = take_out(inner, at)
        {
            return Some(joined(key.get_ref(), &name));
        }
    }
    let hit = table.iter().find(|(_, value)| begins(value.span()));
    let name = hit.map(|(key, _)| named(key.get_ref()))?;
    table.remove(name.as_str());
    Some(name)
}

fn joined(section: &str, key: &str) -> String {
    if section.is_empty() { key.to_owned() } else { format!("{section}.{key}") }
}
