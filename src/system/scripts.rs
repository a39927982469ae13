//! The scripts of a repository: which of them exist, and which command runs one. Starts none.

use std::ffi::{OsStr, OsString};
use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use rustix::fs::{FileType, OFlags};

use super::files;
use crate::domain::text::EscapeControls;

/// Longest `#!` line that is interpreted, in bytes; the kernel's own limit (execve(2)).
const LONGEST: usize = 256;

/// Bytes of a script that [`text`] reads at most.
const MOST_TEXT: u64 = 1 << 20;

/// Whether the script exists in the worktree.
///
/// # Errors
/// When something other than a plain file has its name, or it cannot be opened: an intended script must
/// not be skipped silently.
pub fn exists(worktree: &Path, script: &str) -> Result<bool> {
    Ok(open(worktree, script)?.is_some())
}

/// Opens `script`; `None` when nothing has its name. A link to a plain file is allowed.
fn open(worktree: &Path, script: &str) -> Result<Option<File>> {
    let path = worktree.join(script);
    let shown = path.display().to_string().escape_controls();
    let wrong = |what: &str| {
        format!(
            "{shown} {what}, where a script is expected\nhint: put a plain file there, or remove it"
        )
    };
    let kind = match path.metadata() {
        Ok(found) => FileType::from_raw_mode(found.mode()),
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
            let leads_nowhere = |part: &&Path| {
                let part = worktree.join(part);
                part.is_symlink() && !part.exists()
            };
            return match Path::new(script).ancestors().find(leads_nowhere) {
                Some(link) if link == Path::new(script) => bail!(wrong("is a link to nothing")),
                Some(link) => bail!(
                    "{} is a link to nothing, and {script} would be reached through it\n\
                     hint: make what it leads to, or remove it",
                    worktree.join(link).display().to_string().escape_controls()
                ),
                None => Ok(None),
            };
        }
        Err(error) => return Err(error).with_context(|| format!("cannot look at {shown}")),
    };
    if !kind.is_file() {
        bail!(wrong(&format!("is {}", files::kind_in_words(kind))));
    }
    // If a named pipe has replaced it, the open does not wait for a writer.
    let flags = (OFlags::NONBLOCK | OFlags::NOCTTY).bits().cast_signed();
    let file = OpenOptions::new().read(true).custom_flags(flags).open(&path);
    let file = file.with_context(|| format!("cannot read {shown}"))?;
    match file.metadata().with_context(|| format!("cannot look at {shown}"))?.is_file() {
        true => Ok(Some(file)),
        false => bail!(wrong("is no plain file")),
    }
}

/// Reads the first `most` bytes of `script`.
fn head(worktree: &Path, script: &str, most: u64) -> Result<Vec<u8>> {
    let shown = || worktree.join(script).display().to_string().escape_controls();
    let file = open(worktree, script)?.with_context(|| format!("{} is not there", shown()))?;
    let mut bytes = Vec::new();
    file.take(most).read_to_end(&mut bytes).with_context(|| format!("cannot read {}", shown()))?;
    Ok(bytes)
}

/// Program and arguments that run `script` from within the worktree: the interpreter of its `#!` line,
/// with or without the execute bit, else bash.
///
/// # Errors
/// When it cannot be read, or an editor gave it line ends or a mark with which it would run only in
/// part.
pub fn command(worktree: &Path, script: &str) -> Result<Vec<OsString>> {
    let head = head(worktree, script, MOST_TEXT)?;
    refuse_odd_start(&head, script)?;
    let line = head.get(..LONGEST).unwrap_or(&head);
    let mut argv = interpreter(line).unwrap_or_else(|| vec!["bash".into()]);
    // A name that begins with a dash must not be read as an option.
    argv.push(
        if script.starts_with('-') { format!("./{script}") } else { script.to_owned() }.into(),
    );
    Ok(argv)
}

/// Checks the beginning of `program`, if it is a script that can be read.
///
/// # Errors
/// When it cannot be read, or begins as [`command`] refuses it.
pub fn check_program(program: &Path) -> Result<()> {
    let flags = (OFlags::NONBLOCK | OFlags::NOCTTY).bits().cast_signed();
    // What may not be read may still be run, and what cannot be run is reported by its start.
    let Ok(file) = OpenOptions::new().read(true).custom_flags(flags).open(program) else {
        return Ok(());
    };
    let mut head = Vec::new();
    file.take(MOST_TEXT)
        .read_to_end(&mut head)
        .with_context(|| format!("cannot read {}", program.display()))?;
    // The first line of a binary is no line.
    let is_binary = head.starts_with(b"\x7fELF");
    if is_binary { Ok(()) } else { refuse_odd_start(&head, &program.display().to_string()) }
}

/// Fails where a shell would run the script only in part, and perhaps end with success: with a carriage
/// return at the end of its first line, `set -e` and `cd` fail and the rest is run; with a byte order
/// mark the first line is no `#!` line.
fn refuse_odd_start(head: &[u8], script: &str) -> Result<()> {
    const MARKS: [&[u8]; 3] = [b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff"];
    let shown = script.escape_controls();
    if MARKS.iter().any(|mark| head.starts_with(mark)) {
        bail!(
            "{shown} begins with a byte order mark, with which its first line is not read; it is not run\n\
             hint: save it as UTF-8 without that mark: sed -i '1s/^\\xef\\xbb\\xbf//' {shown}, and commit"
        );
    }
    let first = head.split(|&byte| byte == b'\n').next().unwrap_or_default();
    if first.ends_with(b"\r") {
        bail!(
            "the first line of {shown} ends in a carriage return, as on Windows; only a part of it \
             would do what it says, so it is not run\n\
             hint: sed -i 's/\\r$//' {shown}, and commit; to keep it so, in .gitattributes: *.sh text eol=lf"
        );
    }
    Ok(())
}

/// Reads the beginning of `script` as text; invalid UTF-8 is replaced.
///
/// # Errors
/// When it cannot be read.
pub fn text(worktree: &Path, script: &str) -> Result<String> {
    Ok(String::from_utf8_lossy(&head(worktree, script, MOST_TEXT)?).into_owned())
}

/// Finds the executable `program` as a process in `directory` with this `PATH` does (execvp(3)); `None`
/// when there is none.
pub fn find_program(program: &OsStr, search_path: &OsStr, dir: &Path) -> Option<PathBuf> {
    let executable = |path: &PathBuf| {
        path.metadata().is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
    };
    if program.as_encoded_bytes().contains(&b'/') {
        return Some(dir.join(program)).filter(executable);
    }
    std::env::split_paths(search_path).map(|place| dir.join(place).join(program)).find(executable)
}

/// Parses the interpreter and its one argument as execve(2) does; `None` when there is no `#!` line.
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
        assert_eq!(words(b"#!\n"), None);
        assert_eq!(words(b"echo hello\n"), None);
        assert_eq!(words(b""), None);
    }

    #[test]
    fn a_script_that_would_run_in_part_is_refused() {
        let starts = |head: &[u8]| refuse_odd_start(head, "work.sh");
        for head in [
            b"#!/bin/bash\r\necho".as_slice(),
            b"#!/usr/bin/env python3\r\n",
            b"echo hi\r\necho\n",
            b"echo hi\r",
            b"\xef\xbb\xbf#!/bin/sh\n",
            b"\xff\xfe#\0!\0",
            b"\xfe\xff\0#\0!",
            &[b"# ".as_slice(), &[b'x'; 5_000], b"\r\n"].concat(),
        ] {
            let refused = starts(head).unwrap_err().to_string();
            assert!(refused.contains("work.sh") && refused.contains("\nhint: "), "{refused}");
        }
        for head in [b"#!/bin/sh\necho hi\r\n".as_slice(), b"", b"\n\r\n", b"echo \xef\xbb\xbf\n"] {
            starts(head).unwrap();
        }
    }
}
