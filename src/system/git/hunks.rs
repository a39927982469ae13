//! The difference of two texts as git shows it: its hunks, by libgit2's diff. Reads no repository, and applies no filter.

use anyhow::Result;
use git2::{DiffOptions, Patch};

/// How many bytes of a file decide whether it is text, as in git.
const LOOKED_AT: usize = 8000;

/// Whether git takes `content` for binary: a NUL is near its beginning.
pub fn is_binary(content: &[u8]) -> bool {
    content.iter().take(LOOKED_AT).any(|byte| *byte == 0)
}

/// The hunks that lead from `old` to `new`, with their headers; empty when both are the same.
///
/// # Errors
/// When libgit2 fails.
pub fn hunks(old: &[u8], new: &[u8]) -> Result<Vec<u8>> {
    let mut options = DiffOptions::new();
    options.force_text(true);
    let patch = Patch::from_buffers(old, None, new, None, Some(&mut options))?;
    let mut text = Vec::new();
    for number in 0..patch.num_hunks() {
        let (hunk, lines) = patch.hunk(number)?;
        text.extend_from_slice(hunk.header());
        for line in 0..lines {
            let line = patch.line_in_hunk(number, line)?;
            // The other origins stand for "no newline at the end of file", whose text has no sign.
            let sign = line.origin();
            if matches!(sign, '+' | '-' | ' ') {
                text.push(sign as u8);
            }
            text.extend_from_slice(line.content());
        }
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hunks_are_those_of_git() {
        let text = hunks(b"one\ntwo\n", b"one\nthree").unwrap();
        let text = String::from_utf8(text).unwrap();
        assert_eq!(text, "@@ -1,2 +1,2 @@\n one\n-two\n+three\n\\ No newline at end of file\n");
        assert!(hunks(b"same", b"same").unwrap().is_empty());
        assert!(is_binary(b"a\0b") && !is_binary(b"text"));
    }
}
