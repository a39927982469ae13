//! Any bytes in the files that are kept between ticks: each reader takes them or says what is
//! wrong, and what it takes survives being written and read once more.

#![no_main]

use std::cell::LazyCell;
use std::fs;

use chrono::DateTime;
use libfuzzer_sys::fuzz_target;
use pmpy::system::lock;
use pmpy::system::repo_state::{LastAction, RepoRecords};
use tempfile::TempDir;

thread_local! {
    static DIR: LazyCell<TempDir> =
        LazyCell::new(|| tempfile::tempdir_in("/dev/shm").expect("a directory in memory"));
}

fuzz_target!(|bytes: &[u8]| {
    let Some((&which, bytes)) = bytes.split_first() else { return };
    DIR.with(|dir| {
        let git_dir = dir.path().join(".git");
        let records = RepoRecords::of(&git_dir, dir.path());
        records.make(&git_dir).expect("the directories can be made");
        let private = |name: &str| records.private.join(name);
        match which % 7 {
            0 => {
                let file = records.public.join("lastaction.txt");
                fs::write(file, bytes).expect("memory is left");
                if let (LastAction::Revision(commit), _) = records.last_action() {
                    let text = String::from_utf8_lossy(bytes).trim().to_ascii_lowercase();
                    assert_eq!(commit.to_string(), text);
                }
            }
            1 => {
                fs::write(private("state"), bytes).expect("memory is left");
                if let Ok(memory) = records.memory() {
                    records.put_memory(&memory).expect("what was read can be written");
                    assert_eq!(records.memory().expect("and read again"), memory);
                    if let Some(attempt) = &memory.attempt {
                        attempt.must_wait(DateTime::UNIX_EPOCH);
                    }
                }
            }
            2 => {
                fs::write(private("poll"), bytes).expect("memory is left");
                let polled = records.polled();
                records.put_polled(&polled).expect("what was read can be written");
                assert_eq!(records.polled(), polled);
            }
            3 => {
                fs::write(private("hold"), bytes).expect("memory is left");
                assert!(!records.holds(DateTime::UNIX_EPOCH).is_empty(), "a damaged hold holds");
                fs::remove_file(private("hold")).expect("it was written");
            }
            4 => {
                fs::write(private("pin"), bytes).expect("memory is left");
                let _ = records.pin();
            }
            5 => {
                fs::write(private("history"), bytes).expect("memory is left");
                let _ = records.history();
            }
            _ => {
                fs::write(private("journal"), bytes).expect("memory is left");
                fs::write(records.public.join("currentaction.txt"), bytes).expect("memory is left");
                let journal = lock::journal(&records);
                let current = lock::current_action(&records).expect("the file is there");
                if let Ok(journal) = journal {
                    let journal = journal.expect("the file is there");
                    current.is_of(&journal);
                    assert!(
                        journal.phase.step().is_none()
                            || !journal.worker.lives()
                            || journal.worker.pid > 0
                    );
                }
                current.as_hold();
            }
        }
    });
});
