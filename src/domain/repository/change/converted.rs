//! Files that a checkout of git's wrote in another form than the blob has: other line endings, an
//! expanded `$Id$`, the content behind a pointer of git-lfs. Knows no attributes and runs no filter: it
//! finds the form that a commit would have.

/// The content as blobs that a commit of the file could make by git's own conversions: with LF line
/// endings and a plain `$Id$`, and with the latter only. Empty when the content has neither.
pub fn committed_forms(content: &[u8]) -> Vec<Vec<u8>> {
    let plain = without_ids(content);
    let unix = with_unix_ends(&plain);
    let mut forms = vec![unix, plain];
    forms.retain(|form| form != content);
    forms.dedup();
    forms
}

fn with_unix_ends(content: &[u8]) -> Vec<u8> {
    let mut lines = Vec::with_capacity(content.len());
    for line in content.split_inclusive(|&byte| byte == b'\n') {
        match line.strip_suffix(b"\r\n") {
            Some(text) => {
                lines.extend_from_slice(text);
                lines.push(b'\n');
            }
            None => lines.extend_from_slice(line),
        }
    }
    lines
}

/// Replaces each `$Id: …$` by `$Id$`, as git does (gitattributes(5), `ident`).
fn without_ids(mut rest: &[u8]) -> Vec<u8> {
    const START: &[u8] = b"$Id:";
    let mut plain = Vec::with_capacity(rest.len());
    while let Some(at) = rest.windows(START.len()).position(|bytes| bytes == START) {
        let (before, keyword) = rest.split_at(at);
        let inside = keyword.get(START.len()..).unwrap_or_default();
        plain.extend_from_slice(before);
        match inside.iter().position(|byte| matches!(byte, b'$' | b'\n')) {
            Some(end) if inside.get(end) == Some(&b'$') => {
                plain.extend_from_slice(b"$Id$");
                rest = inside.get(end + 1..).unwrap_or_default();
            }
            _ => {
                plain.extend_from_slice(START);
                rest = inside;
            }
        }
    }
    plain.extend_from_slice(rest);
    plain
}

/// A pointer of git-lfs: what a blob holds in place of a large file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LfsPointer {
    /// The SHA-256 of the large file.
    pub sha256: [u8; 32],
    /// The size of the large file in bytes.
    pub size: u64,
}

impl LfsPointer {
    /// The size limit of a pointer in bytes, as git-lfs has it.
    pub const MAX_SIZE: u64 = 1_023;

    /// Whether `blob` looks like a pointer to a person, also one that names no file.
    pub fn is_like(blob: &[u8]) -> bool {
        const VERSIONS: [&[u8]; 2] =
            [b"version https://git-lfs.github.com/spec/", b"version http://git-media.io/v/"];
        let has_line = |start| blob.split(|&byte| byte == b'\n').any(|it| it.starts_with(start));
        blob.len() as u64 <= Self::MAX_SIZE
            && VERSIONS.iter().any(|version| blob.starts_with(version))
            && has_line(b"oid ".as_slice())
            && has_line(b"size ")
    }

    /// The pointer in `blob`; `None` when it is none.
    pub fn parse(blob: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(blob).ok().filter(|_| Self::is_like(blob))?;
        let value = |key: &str| text.lines().find_map(|line| line.strip_prefix(key));
        let digits = value("oid sha256:")?.trim_end();
        let mut sha256 = [0; 32];
        if digits.len() != 64 || !digits.is_ascii() {
            return None;
        }
        for (at, byte) in sha256.iter_mut().enumerate() {
            *byte = u8::from_str_radix(digits.get(2 * at..2 * at + 2)?, 16).ok()?;
        }
        Some(Self { sha256, size: value("size ")?.trim_end().parse().ok()? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn line_endings_and_ids_are_taken_back_as_a_commit_takes_them_back() {
        let forms = |content: &[u8]| committed_forms(content);
        assert_eq!(forms(b"a\r\nb\r\n"), [b"a\nb\n".to_vec()]);
        assert_eq!(forms(b"$Id: 12ab $\n"), [b"$Id$\n".to_vec()]);
        assert_eq!(forms(b"$Id: 1$\r\n"), [b"$Id$\n".to_vec(), b"$Id$\r\n".to_vec()]);
        assert_eq!(forms(b"x $Id: 1$$Id: 2$ y"), [b"x $Id$$Id$ y".to_vec()]);
        for same in [b"".as_slice(), b"a\nb", b"a\rb", b"$Id$", b"$Id: open\n$", b"$Id: end"] {
            assert_eq!(forms(same), Vec::<Vec<u8>>::new(), "{same:?}");
        }
    }

    #[test]
    fn a_pointer_of_git_lfs_is_known_by_its_lines() {
        let text = |version: &str, oid: &str, size: &str| {
            format!("version https://git-lfs.github.com/spec/{version}\noid {oid}\nsize {size}\n")
        };
        let oid = format!("sha256:{}", "0f".repeat(32));
        let pointer = LfsPointer::parse(text("v1", &oid, "12345").as_bytes());
        assert_eq!(pointer, Some(LfsPointer { sha256: [0x0f; 32], size: 12_345 }));
        let old = format!("version http://git-media.io/v/2\noid {oid}\nsize 1\n");
        assert!(LfsPointer::parse(old.as_bytes()).is_some());
        let long = text("v1", &oid, "1") + &" ".repeat(1_024);
        for none in [
            text("v1", "sha256:00", "1"),
            text("v1", &format!("sha256:{}", "é".repeat(32)), "1"),
            text("v1", &oid, "much"),
            format!("oid {oid}\nsize 1\n"),
            "version 2\n".to_owned(),
            String::new(),
            long,
        ] {
            assert_eq!(LfsPointer::parse(none.as_bytes()), None, "{none}");
        }
    }
}
