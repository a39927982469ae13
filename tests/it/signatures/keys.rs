//! Keys of every kind that ssh-keygen knows, and signatures by them. Of the kinds on hardware the test has the private
//! half itself, so that it can sign with and without a touch.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ring::digest::{self, digest};
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair};

use crate::sandbox::{Ran, Sandbox, text};

/// The kinds that ssh-keygen makes itself, as `-t` and `-b`.
const FILES: [(&str, &str); 8] = [
    ("ed25519", "256"),
    ("ecdsa", "256"),
    ("ecdsa", "384"),
    ("ecdsa", "521"),
    ("rsa", "1024"),
    ("rsa", "2048"),
    ("rsa", "3072"),
    ("rsa", "4096"),
];

/// What hardware was touched for.
const TOUCHED: u8 = 1;

/// How a key signs.
enum Signing {
    /// ssh-keygen does it with this file.
    File(PathBuf),
    /// As hardware does, with these flags.
    SkEd25519(Ed25519KeyPair, u8),
    SkEcdsaP256(Box<EcdsaKeyPair>, u8),
}

/// A key with its private half.
pub struct Key {
    /// Its kind, for people, such as `rsa 2048`.
    pub name: String,
    /// Its kind and itself, as they are in files.
    pub text: String,
    signing: Signing,
}

/// The `string`s of `parts`, one after the other.
pub fn strings(parts: &[&[u8]]) -> Vec<u8> {
    let one = |part: &&[u8]| [&(part.len() as u32).to_be_bytes()[..], part].concat();
    parts.iter().flat_map(one).collect()
}

/// `bytes` as a signature is written.
pub fn armored(bytes: &[u8]) -> Vec<u8> {
    let text = STANDARD.encode(bytes);
    let lines: Vec<&[u8]> = text.as_bytes().chunks(70).collect();
    let lines = lines.join(&b'\n');
    [b"-----BEGIN SSH SIGNATURE-----\n", &lines[..], b"\n-----END SSH SIGNATURE-----\n"].concat()
}

/// The bytes of an armored signature.
pub fn unarmored(text: &[u8]) -> Vec<u8> {
    let text = std::str::from_utf8(text).unwrap();
    let inner: String = text.lines().filter(|line| !line.starts_with('-')).collect();
    STANDARD.decode(inner).unwrap()
}

/// The bytes of a signature.
pub fn sshsig(key: &[u8], namespace: &[u8], hash: &[u8], value: &[u8]) -> Vec<u8> {
    let parts = strings(&[key, namespace, b"", hash, value]);
    [b"SSHSIG\0\0\0\x01", &parts[..]].concat()
}

/// What is signed of `message`.
fn content(namespace: &str, hash: &str, message: &[u8]) -> Vec<u8> {
    let algorithm = if hash == "sha256" { &digest::SHA256 } else { &digest::SHA512 };
    let hashed = digest(algorithm, message);
    let parts = strings(&[namespace.as_bytes(), b"", hash.as_bytes(), hashed.as_ref()]);
    [b"SSHSIG", &parts[..]].concat()
}

/// A number as `mpint`, without its length.
fn mpint(number: &[u8]) -> Vec<u8> {
    let zeros = number.iter().take_while(|&&byte| byte == 0).count();
    let number = &number[zeros..];
    let is_high = number.first().is_some_and(|first| first & 0x80 != 0);
    [&vec![0; usize::from(is_high)], number].concat()
}

impl Key {
    /// The encoding of the public half.
    pub fn blob(&self) -> Vec<u8> {
        STANDARD.decode(self.text.split(' ').nth(1).unwrap()).unwrap()
    }

    /// Whether it is on hardware that is not touched.
    pub fn is_untouched(&self) -> bool {
        match self.signing {
            Signing::File(_) => false,
            Signing::SkEd25519(_, flags) | Signing::SkEcdsaP256(_, flags) => flags & TOUCHED == 0,
        }
    }

    /// An armored signature of `message`.
    pub fn sign(&self, machine: &Sandbox, namespace: &str, hash: &str, message: &[u8]) -> Vec<u8> {
        let kind = self.text.split(' ').next().unwrap();
        let (flags, value) = match &self.signing {
            Signing::File(file) => return sign_with(machine, file, namespace, hash, message),
            Signing::SkEd25519(pair, flags) => {
                let value = pair.sign(&on_hardware(*flags, &content(namespace, hash, message)));
                (flags, value.as_ref().to_vec())
            }
            Signing::SkEcdsaP256(pair, flags) => {
                let signed = on_hardware(*flags, &content(namespace, hash, message));
                (flags, two_numbers(pair, &signed))
            }
        };
        let value = [&strings(&[kind.as_bytes(), &value]), &[*flags, 0, 0, 0, 7][..]].concat();
        armored(&sshsig(&self.blob(), namespace.as_bytes(), hash.as_bytes(), &value))
    }

    /// A signature in the way of browsers, whose algorithm has a name of its own (PROTOCOL.u2f).
    pub fn sign_as_a_browser(&self, message: &[u8]) -> Vec<u8> {
        let Signing::SkEcdsaP256(pair, flags) = &self.signing else {
            panic!("only keys of p256 on hardware sign so");
        };
        let challenge = base64::engine::general_purpose::URL_SAFE_NO_PAD
            .encode(content("git", "sha512", message));
        let origin = "https://example.com";
        let client = format!(
            "{{\"type\":\"webauthn.get\",\"challenge\":\"{challenge}\",\"origin\":\"{origin}\",\
             \"crossOrigin\":false}}"
        );
        let value = two_numbers(pair, &on_hardware(*flags, client.as_bytes()));
        let value = [
            &strings(&[b"webauthn-sk-ecdsa-sha2-nistp256@openssh.com", &value]),
            &[*flags, 0, 0, 0, 7][..],
            &strings(&[origin.as_bytes(), client.as_bytes(), b""]),
        ]
        .concat();
        armored(&sshsig(&self.blob(), b"git", b"sha512", &value))
    }
}

/// What hardware signs that is bound to `ssh:`.
fn on_hardware(flags: u8, content: &[u8]) -> Vec<u8> {
    let (application, content) =
        (digest(&digest::SHA256, b"ssh:"), digest(&digest::SHA256, content));
    [application.as_ref(), &[flags, 0, 0, 0, 7], content.as_ref()].concat()
}

fn two_numbers(pair: &EcdsaKeyPair, signed: &[u8]) -> Vec<u8> {
    let value = pair.sign(&SystemRandom::new(), signed).unwrap();
    let (first, second) = value.as_ref().split_at(32);
    strings(&[&mpint(first), &mpint(second)])
}

fn sign_with(
    machine: &Sandbox,
    key: &Path,
    namespace: &str,
    hash: &str,
    message: &[u8],
) -> Vec<u8> {
    let (file, signature) = (machine.path("message"), machine.path("message.sig"));
    let _ = fs::remove_file(&signature);
    fs::write(&file, message).unwrap();
    let option = format!("hashalg={hash}");
    let line = ["-q", "-Y", "sign", "-f", text(key), "-n", namespace, "-O", &option, text(&file)];
    keygen(machine, &line);
    fs::read(signature).unwrap()
}

/// Runs ssh-keygen.
pub fn keygen(machine: &Sandbox, line: &[&str]) {
    let mut command: Command = machine.command("ssh-keygen");
    Ran::of(command.args(line)).ok();
}

/// A key in a file.
pub fn in_file(machine: &Sandbox, kind: &str, bits: &str) -> Key {
    let file = machine.path(&format!("key-{kind}-{bits}"));
    keygen(machine, &["-q", "-t", kind, "-b", bits, "-N", "", "-C", "ops", "-f", text(&file)]);
    let public = fs::read_to_string(file.with_extension("pub")).unwrap();
    let text = public.trim_end().strip_suffix(" ops").unwrap().to_owned();
    Key { name: format!("{kind} {bits}"), text, signing: Signing::File(file) }
}

/// A key of ed25519 on hardware.
pub fn sk_ed25519(flags: u8) -> Key {
    let pkcs8 = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).unwrap();
    let pair = Ed25519KeyPair::from_pkcs8(pkcs8.as_ref()).unwrap();
    let kind = "sk-ssh-ed25519@openssh.com";
    let blob = strings(&[kind.as_bytes(), pair.public_key().as_ref(), b"ssh:"]);
    Key {
        name: format!("sk ed25519, flags {flags}"),
        text: format!("{kind} {}", STANDARD.encode(blob)),
        signing: Signing::SkEd25519(pair, flags),
    }
}

/// A key of p256 on hardware.
pub fn sk_ecdsa(flags: u8) -> Key {
    let (way, random) = (&ECDSA_P256_SHA256_FIXED_SIGNING, SystemRandom::new());
    let pkcs8 = EcdsaKeyPair::generate_pkcs8(way, &random).unwrap();
    let pair = EcdsaKeyPair::from_pkcs8(way, pkcs8.as_ref(), &random).unwrap();
    let kind = "sk-ecdsa-sha2-nistp256@openssh.com";
    let blob = strings(&[kind.as_bytes(), b"nistp256", pair.public_key().as_ref(), b"ssh:"]);
    Key {
        name: format!("sk ecdsa, flags {flags}"),
        text: format!("{kind} {}", STANDARD.encode(blob)),
        signing: Signing::SkEcdsaP256(Box::new(pair), flags),
    }
}

/// One key of each kind, and of hardware with each combination of touch and verification.
pub fn all(machine: &Sandbox) -> Vec<Key> {
    let files = FILES.iter().map(|(kind, bits)| in_file(machine, kind, bits));
    files.chain([0, 1, 4, 5].into_iter().flat_map(|it| [sk_ed25519(it), sk_ecdsa(it)])).collect()
}
