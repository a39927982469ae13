//! What a signature looks like, and whether it is one of its content.

use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair};

use super::*;
use crate::domain::signature::tests::{TestKey, armored, sshsig, strings};

const MESSAGE: &[u8] = b"what was signed\n";

fn parsed(bytes: &[u8]) -> SshSignature {
    SshSignature::parse(armored(bytes).as_bytes()).unwrap()
}

/// The fault of the signature with these bytes over [`MESSAGE`]; `None`: it counts.
fn fault(bytes: &[u8]) -> Option<SignatureFault> {
    parsed(bytes).verify(MESSAGE, "git").err()
}

#[test]
fn a_signature_of_ssh_keygen_counts_for_its_message_alone() {
    // ssh-keygen -Y sign -n git, over "hi".
    let text = "-----BEGIN SSH SIGNATURE-----
U1NIU0lHAAAAAQAAADMAAAALc3NoLWVkMjU1MTkAAAAgNW5wgBRcy/vvUxmXkl4G2YsD/6
K/NWhFIrcOsENBW/gAAAADZ2l0AAAAAAAAAAZzaGE1MTIAAABTAAAAC3NzaC1lZDI1NTE5
AAAAQLYym4x9KYaiQs//FvBjDpcTiMOJS1uXo6uCnrbPszHcsxDUycpgT+nZgmtbSL7omM
1r1cRXecZrCoUcDYNZCAo=
-----END SSH SIGNATURE-----
";
    let signature = SshSignature::parse(text.as_bytes()).unwrap();
    let key = signature.verify(b"hi\n", "git").unwrap();
    assert_eq!((key.kind(), &key.fingerprint()), (KeyKind::Ed25519, signature.fingerprint()));
    for message in [&b"hi"[..], b"", b"hi\r\n", b"Hi\n"] {
        assert_eq!(signature.verify(message, "git"), Err(SignatureFault::Wrong));
    }
    let other = Err(SignatureFault::Namespace("git".to_owned()));
    assert_eq!(signature.verify(b"hi\n", "file"), other);
}

#[test]
fn the_armor_is_two_lines_with_base64_between_them() {
    let text = TestKey::of(1).sign(MESSAGE);
    let inner = text.lines().skip(1).collect::<Vec<_>>();
    let inner = inner[..inner.len() - 1].join("\n");
    let (begin, end) = (BEGIN, END);
    for right in [
        text.clone(),
        format!("{begin}\n{inner}\n{end}"),
        format!("{begin}\n{inner}\n{end}\n\n \t\n"),
        format!("{begin}\n{}\n{end}", inner.replace('\n', "")),
        format!("{begin}\n{}\n{end}\r\n", inner.replace('\n', "\r\n")),
        format!("{begin}\n \t\n\x0b\x0c{inner}\r\n{end}\n"),
    ] {
        let signature = SshSignature::parse(right.as_bytes()).unwrap();
        assert!(signature.verify(MESSAGE, "git").is_ok(), "{right:?}");
    }
    for wrong in [
        String::new(),
        inner.clone(),
        format!("{begin}\n{inner}"),
        format!("{inner}\n{end}"),
        format!("{begin}{inner}\n{end}"),
        format!("{begin} \n{inner}\n{end}"),
        format!("{begin}\r\n{inner}\n{end}"),
        format!("{begin}\n{inner}{end}"),
        format!("{begin}\n{inner}\n {end}"),
        format!(" {text}"),
        format!("\n{text}"),
        format!("{text}x"),
        format!("{text}{text}"),
        format!("{begin}\n{end}\n"),
        format!("{begin}\n\n{end}\n"),
        text.replacen('\n', "\n\0", 1),
        text.replacen('\n', "\n\u{a0}", 1),
        text.replacen('\n', "\n=", 1),
        text.replace("SSH SIGNATURE", "PGP SIGNATURE"),
        text.replace("U1NIU0lH", "U1NIU0lI"),
    ] {
        let parsed = SshSignature::parse(wrong.as_bytes());
        assert_eq!(parsed.err(), Some(SignatureFault::Malformed), "{wrong:?}");
    }
    let not_utf8 = [text.as_bytes(), &[0xff]].concat();
    assert_eq!(SshSignature::parse(&not_utf8).err(), Some(SignatureFault::Malformed));
}

#[test]
fn a_signature_has_at_most_16_kib() {
    let text = TestKey::of(1).sign(MESSAGE);
    let with_blanks = |length: usize| format!("{text}{}", " ".repeat(length - text.len()));
    assert!(SshSignature::parse(with_blanks(CAP).as_bytes()).is_ok());
    assert!(SshSignature::parse(with_blanks(CAP + 1).as_bytes()).is_err());
}

#[test]
fn every_byte_of_a_signature_counts() {
    let key = TestKey::of(1);
    let bytes = sshsig(&key.blob(), "git", &key.value("git", MESSAGE));
    assert_eq!(fault(&bytes), None);
    for at in 0..bytes.len() {
        for bit in 0..8 {
            let mut other = bytes.clone();
            other[at] ^= 1 << bit;
            let text = armored(&other);
            let verified = SshSignature::parse(text.as_bytes())
                .and_then(|it| it.verify(MESSAGE, "git").cloned());
            // A key with another number is another key, which the file does not list.
            assert!(verified.is_err(), "byte {at}, bit {bit}: {verified:?}");
        }
        assert!(SshSignature::parse(armored(&bytes[..at]).as_bytes()).is_err(), "{at}");
    }
    let longer = [bytes.as_slice(), &[0]].concat();
    assert!(SshSignature::parse(armored(&longer).as_bytes()).is_err());
}

#[test]
fn what_is_reserved_is_ignored_and_was_signed_as_empty() {
    let key = TestKey::of(1);
    let value = key.value("git", MESSAGE);
    let parts = strings(&[&key.blob(), b"git", b"later", b"sha512", &value]);
    assert_eq!(fault(&[b"SSHSIG\0\0\0\x01".as_slice(), &parts].concat()), None);
}

#[test]
fn only_version_1_is_read() {
    let key = TestKey::of(1);
    for version in [0, 2, 0x0100_0000_u32] {
        let mut bytes = sshsig(&key.blob(), "git", &key.value("git", MESSAGE));
        bytes[6..10].copy_from_slice(&version.to_be_bytes());
        assert!(SshSignature::parse(armored(&bytes).as_bytes()).is_err(), "{version}");
    }
}

#[test]
fn the_namespace_is_exactly_git() {
    let key = TestKey::of(1);
    for namespace in ["", "file", "GIT", "git ", "git\0", "gi", "gitx"] {
        let bytes = sshsig(&key.blob(), namespace, &key.value("git", MESSAGE));
        assert_eq!(fault(&bytes), Some(SignatureFault::Namespace(namespace.to_owned())));
    }
    // That it says so is not enough.
    let bytes = sshsig(&key.blob(), "git", &key.value("file", MESSAGE));
    assert_eq!(fault(&bytes), Some(SignatureFault::Wrong));
}

#[test]
fn only_sha256_and_sha512_are_hashes() {
    let key = TestKey::of(1);
    let value = key.value("git", MESSAGE);
    for name in ["sha1", "sha384", "SHA512", "sha512\0", "", "md5"] {
        let parts = strings(&[&key.blob(), b"git", b"", name.as_bytes(), &value]);
        let bytes = [b"SSHSIG\0\0\0\x01".as_slice(), &parts].concat();
        assert_eq!(fault(&bytes), Some(SignatureFault::Malformed), "{name:?}");
    }
    // The name of the hash was signed as well.
    let parts = strings(&[&key.blob(), b"git", b"", b"sha256", &value]);
    let bytes = [b"SSHSIG\0\0\0\x01".as_slice(), &parts].concat();
    assert_eq!(fault(&bytes), Some(SignatureFault::Wrong));
}

#[test]
fn the_algorithm_is_that_of_the_key() {
    let key = TestKey::of(1);
    let value = key.value("git", MESSAGE);
    let signature = &value[value.len() - 64..];
    for name in ["", "ssh-rsa", "rsa-sha2-512", "sk-ssh-ed25519@openssh.com", "ssh-ed25519\0"] {
        let bytes = sshsig(&key.blob(), "git", &strings(&[name.as_bytes(), signature]));
        assert_eq!(fault(&bytes), Some(SignatureFault::Wrong), "{name:?}");
    }
    for (value, what) in [
        ([value.as_slice(), &[1, 0, 0, 0, 1]].concat(), "with flags"),
        (strings(&[b"ssh-ed25519"]), "no signature"),
        (Vec::new(), "nothing"),
    ] {
        let bytes = sshsig(&key.blob(), "git", &value);
        assert_eq!(fault(&bytes), Some(SignatureFault::Malformed), "{what}");
    }
}

#[test]
fn a_key_that_may_not_sign_is_named_with_its_fingerprint() {
    let blob = strings(&[b"ecdsa-sha2-nistp521", b"nistp521", &[4; 133]]);
    let signature = parsed(&sshsig(&blob, "git", b""));
    assert_eq!(signature.fingerprint(), &Fingerprint::of(&blob));
    let kind = KeyFault::Kind("ecdsa-sha2-nistp521".to_owned());
    assert_eq!(signature.verify(MESSAGE, "git"), Err(SignatureFault::Key(kind)));
}

/// What a key signs, without its hash of what is on hardware.
fn content(hash: &'static Algorithm, name: &str) -> Vec<u8> {
    let parts = strings(&[b"git", b"", name.as_bytes(), digest(hash, MESSAGE).as_ref()]);
    [MAGIC, &parts].concat()
}

/// What hardware signs that is bound to `ssh:`, with these flags and a counter of 7.
fn on_hardware(flags: u8) -> Vec<u8> {
    let application = digest(&digest::SHA256, b"ssh:");
    let content = digest(&digest::SHA256, &content(&digest::SHA512, "sha512"));
    [application.as_ref(), &[flags, 0, 0, 0, 7], content.as_ref()].concat()
}

#[test]
fn a_key_on_hardware_was_touched() {
    let pair = Ed25519KeyPair::from_seed_unchecked(&[3; 32]).unwrap();
    let name = b"sk-ssh-ed25519@openssh.com";
    let blob = strings(&[name, pair.public_key().as_ref(), b"ssh:"]);
    let signed = |flags: u8, shown: [u8; 5]| {
        let value = strings(&[name, pair.sign(&on_hardware(flags)).as_ref()]);
        fault(&sshsig(&blob, "git", &[value.as_slice(), &shown].concat()))
    };
    for flags in [1, 5, 0x81, 0xff] {
        assert_eq!(signed(flags, [flags, 0, 0, 0, 7]), None, "{flags}");
    }
    for flags in [0, 4, 0x80] {
        let untouched = Some(SignatureFault::Untouched);
        assert_eq!(signed(flags, [flags, 0, 0, 0, 7]), untouched, "{flags}");
    }
    // Flags and counter were signed.
    assert_eq!(signed(0, [1, 0, 0, 0, 7]), Some(SignatureFault::Wrong));
    assert_eq!(signed(1, [5, 0, 0, 0, 7]), Some(SignatureFault::Wrong));
    assert_eq!(signed(1, [1, 0, 0, 0, 8]), Some(SignatureFault::Wrong));
    // They are missing, or there is more.
    let value = strings(&[name, pair.sign(&on_hardware(1)).as_ref()]);
    for rest in [&[][..], &[1, 0, 0, 0], &[1, 0, 0, 0, 7, 0]] {
        let bytes = sshsig(&blob, "git", &[value.as_slice(), rest].concat());
        assert_eq!(fault(&bytes), Some(SignatureFault::Malformed), "{rest:?}");
    }
    // One that is bound to something else is another key.
    let other = strings(&[name, pair.public_key().as_ref(), b"ssh:other"]);
    let bytes = sshsig(&other, "git", &[value.as_slice(), &[1, 0, 0, 0, 7]].concat());
    assert_eq!(fault(&bytes), Some(SignatureFault::Wrong));
}

/// A key of p256 with its private half.
fn p256() -> (EcdsaKeyPair, SystemRandom) {
    let random = SystemRandom::new();
    let way = &ECDSA_P256_SHA256_FIXED_SIGNING;
    let pkcs8 = EcdsaKeyPair::generate_pkcs8(way, &random).unwrap();
    (EcdsaKeyPair::from_pkcs8(way, pkcs8.as_ref(), &random).unwrap(), random)
}

/// A number with the zero in front of it that keeps it positive.
fn mpint(number: &[u8]) -> Vec<u8> {
    let zeros = number.iter().take_while(|&&byte| byte == 0).count();
    let number = &number[zeros..];
    let is_high = number.first().is_some_and(|first| first & 0x80 != 0);
    [&vec![0; usize::from(is_high)], number].concat()
}

#[test]
fn an_ecdsa_signature_is_two_positive_numbers() {
    let (pair, random) = p256();
    let name = b"ecdsa-sha2-nistp256";
    let blob = strings(&[name, b"nistp256", pair.public_key().as_ref()]);
    let signed = content(&digest::SHA512, "sha512");
    let both = |first: &[u8], second: &[u8], rest: &[u8]| {
        let value = strings(&[name, &[&strings(&[first, second]), rest].concat()]);
        fault(&sshsig(&blob, "git", &value))
    };
    // Often enough for numbers that are shorter.
    for _ in 0..600 {
        let value = pair.sign(&random, &signed).unwrap();
        let (first, second) = value.as_ref().split_at(32);
        assert_eq!(both(&mpint(first), &mpint(second), b""), None, "{first:?} {second:?}");
    }
    let value = pair.sign(&random, &signed).unwrap();
    let (first, second) = value.as_ref().split_at(32);
    let (first, second) = (mpint(first), mpint(second));
    let wrong = Some(SignatureFault::Wrong);
    let zeros = [&[0; 9], first.as_slice()].concat();
    assert_eq!(both(&zeros, &second, b""), None, "more zeros change no number");
    assert_eq!(both(&[0xff; 32], &second, b""), wrong);
    assert_eq!(both(&[], &second, b""), wrong);
    assert_eq!(both(&[0], &second, b""), wrong);
    assert_eq!(both(&first, &[1; 33], b""), wrong);
    assert_eq!(both(&first, &second, &[0]), wrong);
    assert_eq!(both(&second, &first, b""), wrong);
    assert_eq!(fault(&sshsig(&blob, "git", &strings(&[name, value.as_ref()]))), wrong);
}

#[test]
fn a_touched_ecdsa_key_on_hardware_counts() {
    let (pair, random) = p256();
    let name = b"sk-ecdsa-sha2-nistp256@openssh.com";
    let blob = strings(&[name, b"nistp256", pair.public_key().as_ref(), b"ssh:"]);
    for (flags, expected) in [(1, None), (0, Some(SignatureFault::Untouched))] {
        let value = pair.sign(&random, &on_hardware(flags)).unwrap();
        let (first, second) = value.as_ref().split_at(32);
        let value = strings(&[name, &strings(&[&mpint(first), &mpint(second)])]);
        let bytes = [value.as_slice(), &[flags, 0, 0, 0, 7]].concat();
        assert_eq!(fault(&sshsig(&blob, "git", &bytes)), expected);
    }
}
