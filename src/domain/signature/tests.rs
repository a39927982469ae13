//! Keys, signatures and histories for the tests, made as OpenSSH and git make them.

use std::cell::Cell;
use std::collections::HashMap;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use chrono::{DateTime, Utc};
use jiff::tz::TimeZone;
use ring::digest::{SHA1_FOR_LEGACY_USE_ONLY, SHA512, digest};
use ring::signature::{Ed25519KeyPair, KeyPair};

use super::allowed_signers::AllowedSigners;
use super::public_key::Fingerprint;
use super::ssh_wire::put_string;
use super::way::HistorySource;
use crate::domain::git::{Commit, ObjectFormat, ObjectId};
use crate::domain::repository::change::ObjectError;

const TREE: &str = "4b825dc642cb6eb9a060e54bf8d69288fbee4904";
/// The moment that the histories begin at, in seconds.
pub(super) const DAY: i64 = 1_763_802_000;

/// The `string`s of `parts`, one after the other.
pub(super) fn strings(parts: &[&[u8]]) -> Vec<u8> {
    let mut all = Vec::new();
    parts.iter().for_each(|part| put_string(&mut all, part));
    all
}

/// An ed25519 key with its private half.
pub(super) struct TestKey(Ed25519KeyPair);

impl TestKey {
    /// The key that is made of this number.
    pub(super) fn of(seed: u8) -> Self {
        Self(Ed25519KeyPair::from_seed_unchecked(&[seed; 32]).unwrap())
    }

    pub(super) fn blob(&self) -> Vec<u8> {
        strings(&[b"ssh-ed25519", self.0.public_key().as_ref()])
    }

    pub(super) fn fingerprint(&self) -> Fingerprint {
        Fingerprint::of(&self.blob())
    }

    /// Its kind and itself, as they are in files.
    pub(super) fn text(&self) -> String {
        format!("ssh-ed25519 {}", STANDARD.encode(self.blob()))
    }

    /// The value of a signature of `message` for `namespace`.
    pub(super) fn value(&self, namespace: &str, message: &[u8]) -> Vec<u8> {
        let hash = digest(&SHA512, message);
        let parts = strings(&[namespace.as_bytes(), b"", b"sha512", hash.as_ref()]);
        let signature = self.0.sign(&[b"SSHSIG".as_slice(), &parts].concat());
        strings(&[b"ssh-ed25519", signature.as_ref()])
    }

    /// An armored signature of `message` for git.
    pub(super) fn sign(&self, message: &[u8]) -> String {
        armored(&sshsig(&self.blob(), "git", &self.value("git", message)))
    }
}

/// The bytes of a signature by sha512.
pub(super) fn sshsig(key: &[u8], namespace: &str, value: &[u8]) -> Vec<u8> {
    let parts = strings(&[key, namespace.as_bytes(), b"", b"sha512", value]);
    [b"SSHSIG\0\0\0\x01".as_slice(), &parts].concat()
}

/// `bytes` between the two lines, in lines of 70 characters.
pub(super) fn armored(bytes: &[u8]) -> String {
    let text = STANDARD.encode(bytes);
    let lines: Vec<&str> =
        text.as_bytes().chunks(70).map(|line| std::str::from_utf8(line).unwrap()).collect();
    format!("-----BEGIN SSH SIGNATURE-----\n{}\n-----END SSH SIGNATURE-----\n", lines.join("\n"))
}

/// The signers of a file that is right, whose moments are in UTC.
pub(super) fn signers(text: &str) -> AllowedSigners {
    AllowedSigners::parse(text.as_bytes(), &TimeZone::UTC).unwrap()
}

/// A moment, such as `2026-11-22T09:00:00Z`.
pub(super) fn at(text: &str) -> DateTime<Utc> {
    text.parse().unwrap()
}

/// The commits of a repository, and how often one was read.
#[derive(Default)]
pub(super) struct Histories {
    pub(super) objects: HashMap<Commit, Vec<u8>>,
    pub(super) reads: Cell<usize>,
}

impl HistorySource for Histories {
    fn format(&self) -> ObjectFormat {
        ObjectFormat::Sha1
    }

    fn commit_bytes(&self, id: Commit) -> Result<Vec<u8>, ObjectError> {
        self.reads.set(self.reads.get() + 1);
        self.objects.get(&id).cloned().ok_or(ObjectError::Missing(id.0))
    }
}

impl Histories {
    /// Adds the commit with these bytes.
    pub(super) fn put(&mut self, bytes: Vec<u8>) -> Commit {
        let header = format!("commit {}\0", bytes.len());
        let hash = digest(&SHA1_FOR_LEGACY_USE_ONLY, &[header.as_bytes(), &bytes].concat());
        let id = Commit(ObjectId::from_bytes(hash.as_ref()).unwrap());
        self.objects.insert(id, bytes);
        id
    }

    /// Adds a commit that was made `seconds` after [`DAY`], signed by `key`.
    pub(super) fn add(
        &mut self,
        parents: &[Commit],
        seconds: i64,
        key: Option<&TestKey>,
    ) -> Commit {
        let number = self.objects.len();
        let person = format!("Pat <pat@example.org> {} +0000", DAY + seconds);
        let parents: String = parents.iter().map(|parent| format!("parent {parent}\n")).collect();
        let head = format!("tree {TREE}\n{parents}author {person}\ncommitter {person}\n");
        let message = format!("\ncommit {number}\n");
        let signature = key.map_or_else(String::new, |key| {
            let signature = key.sign(format!("{head}{message}").as_bytes());
            format!("gpgsig {}\n", signature.trim_end().replace('\n', "\n "))
        });
        self.put(format!("{head}{signature}{message}").into_bytes())
    }

    /// Adds commits on top of `below`, each a second later, of which those marked with `s` are signed by key 1.
    /// Returns them, the oldest first.
    pub(super) fn line(&mut self, below: Option<Commit>, marks: &str) -> Vec<Commit> {
        let (mut all, key) = (Vec::new(), TestKey::of(1));
        for mark in marks.chars() {
            let parent = all.last().copied().or(below);
            let seconds = self.objects.len() as i64;
            all.push(self.add(parent.as_slice(), seconds, (mark == 's').then_some(&key)));
        }
        all
    }

    /// Adds a merge of `parents` that key 1 has signed.
    pub(super) fn merge(&mut self, parents: &[Commit]) -> Commit {
        self.add(parents, self.objects.len() as i64, Some(&TestKey::of(1)))
    }
}

/// A tag of `object` that key 1 has signed, made `seconds` after [`DAY`].
pub(super) fn signed_tag(object: Commit, name: &str, seconds: i64) -> Vec<u8> {
    let person = format!("Pat <pat@example.org> {} +0000", DAY + seconds);
    let text = format!("object {object}\ntype commit\ntag {name}\ntagger {person}\n\nsaid\n");
    format!("{text}{}", TestKey::of(1).sign(text.as_bytes())).into_bytes()
}
