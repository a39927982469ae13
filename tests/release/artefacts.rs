//! The files themselves: all there, as listed and signed, static or for an old glibc, and naming what they are.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;

use crate::sandbox::{Ran, Sandbox, text};
use crate::{artefact, dist};

/// Ends of the names of what a whole release has, each once.
const ALL: [(&str, &str); 13] = [
    ("agent-", "x86_64-unknown-linux-musl"),
    ("agent-", "aarch64-unknown-linux-musl"),
    ("agent-", "armv7-unknown-linux-musleabihf"),
    ("agent-image-", "amd64.tar"),
    ("agent-image-", "arm64.tar"),
    ("agent-debian-", ".tar"),
    ("agent-share", ".tar.gz"),
    ("agent-sbom", ".json"),
    ("push-me-pull-you_", "_amd64.deb"),
    ("push-me-pull-you_", "_arm64.deb"),
    ("push-me-pull-you-", ".x86_64.rpm"),
    ("push-me-pull-you-", ".aarch64.rpm"),
    ("install", ".sh"),
];

fn run(program: &str, arguments: &[&str]) -> String {
    Ran::of(Command::new(program).args(arguments).current_dir(dist())).ok().stdout
}

#[test]
fn everything_is_there_and_listed_with_its_checksum() {
    let listed = fs::read_to_string(dist().join("SHA256SUMS")).unwrap();
    for (begin, end) in ALL {
        let file = artefact(begin, end);
        let name = text(Path::new(file.file_name().unwrap()));
        assert!(listed.contains(&format!("  {name}\n")), "{name} is not listed");
    }
    assert_eq!(listed.lines().count(), ALL.len());
    run("sha256sum", &["--check", "--quiet", "--strict", "SHA256SUMS"]);
}

#[test]
fn the_static_programs_need_no_library_and_no_loader() {
    for (_, target) in &ALL[..3] {
        let file = format!("agent-{target}");
        let headers = run("readelf", &["--wide", "--program-headers", "--dynamic", &file]);
        assert!(!headers.contains("INTERP") && !headers.contains("NEEDED"), "{target}: {headers}");
    }
}

#[test]
fn the_packaged_programs_need_glibc_2_17_and_nothing_else() {
    let sandbox = Sandbox::new();
    for arch in ["amd64", "arm64"] {
        let package = artefact("push-me-pull-you_", &format!("_{arch}.deb"));
        let out = sandbox.path(arch);
        run("dpkg-deb", &["--extract", text(&package), text(&out)]);
        let program = out.join("usr/bin/agent");
        let dynamic = run("readelf", &["--wide", "--dynamic", text(&program)]);
        for line in dynamic.lines().filter(|line| line.contains("(NEEDED)")) {
            let of_glibc =
                ["libc.so", "libm.so", "libpthread.so", "libdl.so", "librt.so", "ld-linux"];
            assert!(of_glibc.iter().any(|name| line.contains(name)), "{arch}: {line}");
        }
        let versions = run("readelf", &["--wide", "--version-info", text(&program)]);
        let asked: BTreeSet<u32> = versions
            .split("GLIBC_2.")
            .skip(1)
            .filter_map(|rest| rest.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok())
            .collect();
        assert!(asked.last().is_some_and(|newest| *newest <= 17), "{arch}: {asked:?}");
    }
}

#[test]
fn no_program_names_a_directory_of_the_machine_that_built_it() {
    let here = env!("CARGO_MANIFEST_DIR");
    let home = std::env::var("HOME").unwrap();
    for (_, target) in &ALL[..3] {
        let program = fs::read(dist().join(format!("agent-{target}"))).unwrap();
        for path in [format!("{here}/"), format!("{home}/.cargo/"), format!("{home}/.rustup/")] {
            let found = program.windows(path.len()).any(|part| part == path.as_bytes());
            assert!(!found, "{target} holds {path}");
        }
    }
}

#[test]
fn the_list_of_crates_names_what_is_built_in() {
    let sbom = fs::read_to_string(dist().join("agent-sbom.cdx.json")).unwrap();
    assert!(!sbom.contains(env!("CARGO_MANIFEST_DIR")), "it names the directory of the build");
    let sbom: serde_json::Value = serde_json::from_str(&sbom).unwrap();
    assert_eq!(sbom["bomFormat"], "CycloneDX");
    let components = sbom["components"].as_array().unwrap();
    for name in ["git2", "libgit2-sys", "rustls", "ring"] {
        assert!(components.iter().any(|it| it["name"] == name), "{name} is missing");
    }
    let foreign = |name: &str| name.starts_with("windows") || name.starts_with("winapi");
    let names = components.iter().filter_map(|it| it["name"].as_str());
    assert_eq!(names.filter(|name| foreign(name)).collect::<Vec<_>>(), Vec::<&str>::new());
}
