//! The repository's scripts: which of the ladder exist, and how one is started. Starts none.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::Read;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// The longest `#!` line that counts; the kernel's own limit (execve(2)).
const LONGEST: u64 = 256;

/// The most of a script that [`text`] reads, in bytes.
const MOST_TEXT: u64 = 1 << 20;

/// Whether there is such a file in the worktree.
pub fn exists(worktree: &Path, script: &str) -> bool {
    worktree.join(script).is_file()
}

/// The program and arguments that run `script` from within the worktree: the interpreter of its
/// `#!` line, with or without the execute bit, else bash.
///
/// # Errors
/// When it cannot be read.
pub fn command(worktree: &Path, script: &str) -> Result<Vec<OsString>> {
    let path = worktree.join(script);
    let mut head = Vec::new();
    File::open(&path)
        .and_then(|file| file.take(LONGEST).read_to_end(&mut head))
        .with_context(|| format!("cannot read {}", path.display()))?;
    let mut argv = interpreter(&head).unwrap_or_else(|| vec!["bash".into()]);
    // A name that begins with a dash is no option.
    argv.push(
        if script.starts_with('-') { format!("./{script}") } else { script.to_owned() }.into(),
    );
    Ok(argv)
}

/// The beginning of `script` as text; what is no UTF-8 is replaced.
///
/// # Errors
/// When it cannot be read.
pub fn text(worktree: &Path, script: &str) -> Result<String> {
    let path = worktree.join(script);
    let mut bytes = Vec::new();
    File::open(&path)
        .and_then(|file| file.take(MOST_TEXT).read_to_end(&mut bytes))
        .with_context(|| format!("cannot read {}", path.display()))?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// Where `program` is, as a process in `folder` with this `PATH` finds it (execvp(3)); `None` when
/// there is none that can be executed.
pub fn find_program(program: &OsStr, search_path: &OsStr, folder: &Path) -> Option<PathBuf> {
    let executable = |path: &PathBuf| {
        path.metadata().is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
    };
    if program.as_encoded_bytes().contains(&b'/') {
        return Some(folder.join(program)).filter(executable);
    }
    std::env::split_paths(search_path)
        .map(|place| folder.join(place).join(program))
        .find(executable)
}

/// The interpreter and its one argument, as execve(2) reads them. A carriage return, left by an
/// editor on another system, does not count.
fn interpreter(head: &[u8]) -> Option<Vec<OsString>> {
    let line = head.strip_prefix(b"#!")?.split(|&byte| byte == b'\n').next()?.trim_ascii();
    let mut words = line.splitn(2, |byte| byte.is_ascii_whitespace());
    let program = words.next().filter(|program| !program.is_empty())?;
    let argument = words.next().map(<[u8]>::trim_ascii).filter(|word| !word.is_empty());
    Some(
        [Some(program), argument]
            .into_iter()
            .flatten()
            .map(|word| OsString::from_vec(word.to_owned()))
            .collect(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_interpreter_line_is_read_as_the_kernel_reads_it() {
        let words = |head: &[u8]| {
            interpreter(head).map(|words| {
                words.iter().map(|word| word.to_string_lossy().into_owned()).collect::<Vec<_>>()
            })
        };
        assert_eq!(words(b"#!/bin/sh\necho"), Some(vec!["/bin/sh".to_owned()]));
        assert_eq!(
            words(b"#! /usr/bin/env python3 -u\n"),
            Some(vec!["/usr/bin/env".to_owned(), "python3 -u".to_owned()])
        );
        assert_eq!(words(b"#!/bin/bash\r\necho"), Some(vec!["/bin/bash".to_owned()]));
        assert_eq!(words(b"#!\n"), None);
        assert_eq!(words(b"echo hello\n"), None);
        assert_eq!(words(b""), None);
    }
}
