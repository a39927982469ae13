//! Commits, merges and tags that git has signed in repositories of both formats: each counts here as it does for git.

use std::fs;
use std::path::Path;

use pmpy::domain::git::ObjectFormat;
use pmpy::domain::signature::signed_object::{self, SignedBytes};
use pmpy::domain::signature::ssh_signature::{SignatureFault, SshSignature};

use super::keys;
use crate::sandbox::{Ran, Sandbox, text};

/// A work tree of `format` on the machine, whose git signs everything with a key that it accepts.
fn repository(machine: &Sandbox, format: &str) -> std::path::PathBuf {
    let repo = machine.path(format);
    let key = keys::in_file(machine, "ed25519", "256");
    let signers = machine.path("signers");
    fs::write(&signers, format!("pat@example.org {}\n", key.text)).unwrap();
    let option = format!("--object-format={format}");
    machine
        .git(machine.path("desk").as_path(), &["init", "-q", "-b", "main", &option, text(&repo)]);
    for (name, value) in [
        ("gpg.format", "ssh"),
        ("gpg.ssh.allowedSignersFile", text(&signers)),
        ("user.signingKey", text(&machine.path("key-ed25519-256"))),
        ("commit.gpgSign", "true"),
        ("tag.gpgSign", "true"),
    ] {
        machine.git(&repo, &["config", name, value]);
    }
    repo
}

/// The bytes of an object.
fn object(machine: &Sandbox, repo: &Path, kind: &str, name: &str) -> Vec<u8> {
    let mut command = machine.command("git");
    let output = command.arg("-C").arg(repo).args(["cat-file", kind, name]).output().unwrap();
    assert!(output.status.success(), "{kind} {name}");
    output.stdout
}

fn verdict(signed: &SignedBytes) -> Result<(), SignatureFault> {
    let signature = SshSignature::parse(signed.signature.as_ref().expect("a signature"))?;
    signature.verify(&signed.payload, "git").map(drop)
}

#[test]
fn what_git_signs_counts_in_both_object_formats() {
    let machine = Sandbox::new();
    for (name, format) in [("sha1", ObjectFormat::Sha1), ("sha256", ObjectFormat::Sha256)] {
        let repo = repository(&machine, name);
        let git = |line: &[&str]| machine.git(&repo, line);
        let commit = |branch: &str, line: &[&str]| {
            git(&[&["commit", "-q", "--allow-empty", "-m", branch], line].concat())
        };
        commit("first", &[]);
        git(&["checkout", "-q", "-b", "side"]);
        commit("second\n\nsaid\n\n-----BEGIN SSH SIGNATURE-----\n", &["--cleanup=verbatim"]);
        git(&["tag", "-m", "Release 1", "v1"]);
        git(&["checkout", "-q", "main"]);
        // Not UTF-8, which the header `encoding` says.
        git(&["config", "i18n.commitEncoding", "ISO-8859-1"]);
        fs::write(repo.join(".git/said"), b"M\xfcller\n").unwrap();
        git(&["commit", "-q", "--allow-empty", "-F", ".git/said"]);
        git(&["merge", "-q", "--no-edit", "v1"]);
        git(&["tag", "-m", "", "v2"]);
        for (at, headers) in [
            ("main", "\nmergetag "),
            ("main^1", "\nencoding "),
            ("main^2", "\nparent "),
            ("main~2", "\n"),
        ] {
            let bytes = object(&machine, &repo, "commit", at);
            assert!(String::from_utf8_lossy(&bytes).contains(headers), "{at}");
            git(&["verify-commit", at]);
            let object = signed_object::commit(&bytes, format).expect("a commit");
            let parents: Vec<String> = object.parents.iter().map(ToString::to_string).collect();
            assert_eq!(parents.join(" "), git(&["log", "-1", "--format=%P", at]));
            assert_eq!(
                object.committed_at.timestamp().to_string(),
                git(&["log", "-1", "--format=%ct", at])
            );
            assert_eq!(verdict(&object.signed), Ok(()), "{name} {at}");
            // One letter of what was signed.
            let mut other = object.signed.clone();
            *other.payload.last_mut().unwrap() ^= 1;
            assert_eq!(verdict(&other), Err(SignatureFault::Wrong), "{name} {at}");
        }
        for tag in ["v1", "v2"] {
            git(&["verify-tag", tag]);
            let bytes = object(&machine, &repo, "tag", tag);
            let object = signed_object::tag(&bytes, format).expect("a tag");
            assert_eq!((object.kind, object.name), (b"commit".to_vec(), tag.as_bytes().to_vec()));
            assert_eq!(
                object.object.to_string(),
                git(&["rev-parse", &format!("{tag}^{{commit}}")])
            );
            assert_eq!(verdict(&object.signed), Ok(()), "{name} {tag}");
        }
        fs::remove_file(machine.path("key-ed25519-256")).unwrap();
    }
}

#[test]
fn a_commit_that_git_reads_otherwise_is_none_here() {
    // git takes two headers for one signature, and others for none: here it is an error.
    let machine = Sandbox::new();
    let repo = repository(&machine, "sha1");
    machine.git(&repo, &["commit", "-q", "--allow-empty", "-m", "first"]);
    let right = String::from_utf8(object(&machine, &repo, "commit", "HEAD")).unwrap();
    let format = ObjectFormat::Sha1;
    assert!(signed_object::commit(right.as_bytes(), format).is_some());
    let split = right.replacen("\n U1NI", "\ngpgsig U1NI", 1);
    assert_ne!(split, right);
    assert_eq!(signed_object::commit(split.as_bytes(), format), None);
    let file = machine.path("split");
    fs::write(&file, split).unwrap();
    let line = ["hash-object", "-t", "commit", "-w", text(&file)];
    let commit = machine.git(&repo, &line);
    let mut command = machine.command("git");
    Ran::of(command.arg("-C").arg(&repo).args(["verify-commit", &commit])).ok();
}
