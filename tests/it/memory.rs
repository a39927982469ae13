//! That the memory-checked build finds what it is made for: the overflow that an id of the wrong length
//! makes of libgit2's heap, planted here behind the back of the door that keeps it away.
#![expect(clippy::disallowed_types, reason = "what is shown is libgit2's own")]

use crate::sandbox::Ran;

/// Names the repository in which the overflow is planted, to the process that it ends.
const PLANT: &str = "PMPY_PLANT";

#[test]
fn a_planted_overflow_is_found() {
    if let Some(repository) = std::env::var_os(PLANT) {
        let repository = git2::Repository::open(repository).unwrap();
        let id = git2::Oid::from_bytes(&[0xab; 32]).unwrap();
        repository.odb().unwrap().exists(id);
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    git2::Repository::init_bare(dir.path()).unwrap();
    let ran = Ran::of(
        std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "memory::a_planted_overflow_is_found", "--nocapture"])
            .env(PLANT, dir.path())
            .env("ASAN_OPTIONS", "abort_on_error=1:detect_leaks=0:log_path=stderr"),
    );
    assert_eq!(ran.code, None, "a signal ends it\n{ran}");
    assert!(ran.stderr.contains("heap-buffer-overflow"), "{ran}");
    assert!(ran.stderr.contains("object_file_name"), "{ran}");
}
