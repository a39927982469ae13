//! Any bytes as what a script wrote: the readers of logs take them, and what is shown of them cannot
//! move a terminal's cursor or break its line.

#![no_main]

use std::cell::LazyCell;
use std::fs;

use libfuzzer_sys::fuzz_target;
use pmpy::cmd::format;
use pmpy::domain::env_file;
use pmpy::domain::git::Remote;
use pmpy::domain::repository::change::RepoPath;
use pmpy::system::logs;
use tempfile::TempDir;

thread_local! {
    static DIR: LazyCell<TempDir> =
        LazyCell::new(|| tempfile::tempdir_in("/dev/shm").expect("a directory in memory"));
}

fn harmless(shown: &str) {
    assert!(!shown.contains(|c: char| c.is_control()), "{shown:?}");
}

fuzz_target!(|bytes: &[u8]| {
    let path = DIR.with(|dir| dir.path().join("20261122T090000Z-123456789012.log"));
    fs::write(&path, bytes).expect("memory is left");
    for line in logs::tail(&path, 10).expect("a log can be read") {
        harmless(&format::escaped(&line));
    }
    let mut reader = logs::LogReader::open(&path).expect("a log can be opened");
    while let lines @ [_, ..] = reader.lines().expect("a log can be read").as_slice() {
        lines.iter().for_each(|line| harmless(&format::escaped(line)));
    }
    reader.rest();

    let text = String::from_utf8_lossy(bytes);
    harmless(&RepoPath::new(bytes).to_string());
    harmless(&Remote::new(&*text).to_string());
    let (reason, hint) = format::reason_and_hint(&text);
    harmless(&reason);
    harmless(&hint.unwrap_or_default());
    let dir = logs::dir_name(&text);
    assert!(!dir.contains('/') && dir != "." && dir != "..", "{dir:?}");
    let _ = env_file::parse(&text);
});
