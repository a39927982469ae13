//! What is pushed while the agent is killed.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use crate::sandbox::set_mode;

/// The files of one round; each differs from the last in every way that git knows.
pub fn change(desk: &Path, round: usize) -> std::io::Result<()> {
    let files = desk.join("files");
    fs::create_dir_all(&files)?;
    for number in 1..=4 {
        fs::write(files.join(format!("kept-{number}")), format!("{number} of {round}\n"))?;
    }
    fs::write(files.join("tool"), "#!/bin/sh\n")?;
    set_mode(&files.join("tool"), if round.is_multiple_of(2) { 0o755 } else { 0o644 });
    let only = |round: usize| desk.join(format!("only-{round}/deep"));
    let _ = fs::remove_dir_all(desk.join(format!("only-{}", round - 1)));
    fs::create_dir_all(only(round))?;
    fs::write(only(round).join("file"), "here today\n")?;
    let swap = desk.join("swap");
    match swap.symlink_metadata() {
        Ok(meta) if meta.is_dir() => fs::remove_dir_all(&swap)?,
        Ok(_) => fs::remove_file(&swap)?,
        Err(_) => {}
    }
    match round % 3 {
        0 => fs::write(&swap, "a file\n"),
        1 => fs::create_dir(&swap).and_then(|()| fs::write(swap.join("inner"), "in a directory\n")),
        _ => symlink("files", &swap),
    }
}
