//! Parses `info/refs` and `HEAD` of a plain web server with a repository's files. Bytes in, refs out;
//! sends no request.

use crate::domain::wire::AdvertisedRef;

/// The most bytes of such an `info/refs`: a hundred thousand refs.
pub(super) const MOST: u64 = 8 << 20;

/// The refs in `info/refs`; `None` when it is something else, such as a web page.
pub(super) fn refs(info: &[u8]) -> Option<Vec<AdvertisedRef>> {
    let mut refs = Vec::new();
    for line in std::str::from_utf8(info).ok()?.lines() {
        let (id, name) = line.split_once('\t')?;
        let (name, id) = (name.to_owned(), id.parse().ok()?);
        refs.push(AdvertisedRef { name, id, target: None, peeled: None });
    }
    Some(refs)
}

/// The ref `HEAD` by the content of its file; `None` when it names none of `refs`.
pub(super) fn head(refs: &[AdvertisedRef], head: &[u8]) -> Option<AdvertisedRef> {
    let target = std::str::from_utf8(head).ok()?.trim().strip_prefix("ref: ")?;
    let found = refs.iter().find(|listed| listed.name == target)?;
    let (name, target) = ("HEAD".to_owned(), Some(target.to_owned()));
    Some(AdvertisedRef { name, id: found.id, target, peeled: None })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_list_the_refs_and_a_page_does_not() {
        let id = "1".repeat(40);
        let info = format!("{id}\trefs/heads/main\n{id}\trefs/tags/v1^{{}}\n");
        let found = refs(info.as_bytes()).unwrap();
        assert_eq!(found.len(), 2);
        let target = |content: &[u8]| head(&found, content).and_then(|listed| listed.target);
        assert_eq!(target(b"ref: refs/heads/main\n").as_deref(), Some("refs/heads/main"));
        assert_eq!(target(b"ref: refs/heads/gone\n"), None);
        assert_eq!(target(id.as_bytes()), None);
        assert_eq!(refs(b""), Some(vec![]));
        assert_eq!(refs(b"<html>\n"), None);
        assert_eq!(refs(&[0xff, 0xfe]), None);
    }
}
