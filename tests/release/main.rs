//! What `bootstrap/release` has made, used as its users use it: on Debian 11 and 12 without a toolchain, in an RPM
//! database, on other processors, as a container's first process, by Ansible, Puppet and Terraform's user data.
//! `tests/run --release` makes it first, or `PMPY_DIST` names the directory; without one each test fails.
//!
//! It has the machines and servers of the other integration tests.

#![allow(
    clippy::disallowed_methods,
    dead_code,
    unreachable_pub,
    reason = "tests start programs, write files and read the clock as a person would; not every helper is used here"
)]

#[path = "../it/disk/mounted.rs"]
mod disk;
#[path = "../it/machine_copy.rs"]
mod machine_copy;
#[path = "../it/sandbox.rs"]
mod sandbox;
#[path = "../it/servers/mod.rs"]
mod servers;
#[path = "../it/tutorials.rs"]
mod tutorials;

mod artefacts;
mod debian;
mod deployment_tools;
mod image;
mod processors;
mod rpm;
mod stranger;

use std::path::PathBuf;
use std::sync::OnceLock;

/// The directory that bootstrap/release filled.
fn dist() -> &'static PathBuf {
    static DIST: OnceLock<PathBuf> = OnceLock::new();
    DIST.get_or_init(|| {
        let dist = std::env::var_os("PMPY_DIST").map_or_else(
            || PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("target/dist"),
            PathBuf::from,
        );
        assert!(
            dist.join("SHA256SUMS").exists(),
            "there is no release in {}; tests/run --release makes one",
            dist.display()
        );
        dist.canonicalize().unwrap()
    })
}

/// The only file of the release whose name begins and ends so.
#[track_caller]
fn artefact(begin: &str, end: &str) -> PathBuf {
    let names = std::fs::read_dir(dist()).unwrap().map(|entry| entry.unwrap().path());
    let found: Vec<PathBuf> = names
        .filter(|path| {
            let name = path.file_name().unwrap().to_str().unwrap();
            name.starts_with(begin) && name.ends_with(end)
        })
        .collect();
    assert_eq!(found.len(), 1, "{begin}…{end} in {}: {found:?}", dist().display());
    found[0].clone()
}
