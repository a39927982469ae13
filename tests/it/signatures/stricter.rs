//! Each way in which our verdict is another than that of ssh-keygen, by name: both are asked, so that a new version of
//! either shows.

use pmpy::domain::signature::allowed_signers::SignerFault;
use pmpy::domain::signature::public_key::KeyFault;
use pmpy::domain::signature::ssh_signature::SignatureFault;
use tempfile::TempDir;

use super::keys::{self, Key, armored, sshsig, strings, unarmored};
use super::verdicts::{CET, Case, Ours, PRINCIPAL};
use crate::sandbox::Sandbox;

const MESSAGE: &[u8] = b"what was signed\n";
/// 2026-06-30 22:30 UTC: half an hour into the first of July in Central Europe.
const SUMMER_NIGHT: i64 = 1_782_858_600;

/// The things that the cases need.
struct Bench {
    machine: Sandbox,
    dir: TempDir,
    key: Key,
}

impl Bench {
    fn new() -> Self {
        let machine = Sandbox::new();
        let key = keys::in_file(&machine, "ed25519", "256");
        Self { machine, dir: tempfile::tempdir().unwrap(), key }
    }

    /// A signature by `key`, and a file with it alone.
    fn case(&self, key: &Key) -> Case {
        Case {
            signers: format!("{PRINCIPAL} {}\n", key.text).into_bytes(),
            signature: key.sign(&self.machine, "git", "sha512", MESSAGE),
            message: MESSAGE.to_vec(),
            at: SUMMER_NIGHT,
            zone: "UTC0",
        }
    }

    /// A file with the right line and `more`.
    fn with_line(&self, more: &[u8]) -> Case {
        let case = self.case(&self.key);
        Case { signers: [more, b"\n", &case.signers].concat(), ..case }
    }

    /// A file with one line, which is `pattern` with the key in it.
    fn with_own_line(&self, pattern: &str) -> Case {
        let signers = pattern.replace("KEY", &self.key.text).into_bytes();
        Case { signers, ..self.case(&self.key) }
    }

    fn with_signature(&self, signature: impl Into<Vec<u8>>) -> Case {
        Case { signature: signature.into(), ..self.case(&self.key) }
    }

    /// The bytes of the signature of [`Bench::case`].
    fn bytes(&self) -> Vec<u8> {
        unarmored(&self.case(&self.key).signature)
    }

    /// The value in it, with the name of the algorithm.
    fn value(&self) -> Vec<u8> {
        let bytes = self.bytes();
        bytes[bytes.len() - 83..].to_vec()
    }

    #[track_caller]
    fn only_ssh_keygen(&self, name: &str, case: &Case) -> Ours {
        let ours = case.ours();
        assert!(!matches!(ours, Ours::Counts(_)), "{name}: it counts here");
        assert!(case.counts_for_ssh_keygen(&self.dir, PRINCIPAL), "{name}: ssh-keygen refuses it");
        ours
    }

    #[track_caller]
    fn refused_with_its_file(&self, name: &str, case: &Case, reason: &str) {
        match self.only_ssh_keygen(name, case) {
            Ours::Signers(fault) => assert!(fault.reason.contains(reason), "{name}: {fault}"),
            other => panic!("{name}: {other:?}"),
        }
    }

    #[track_caller]
    fn refused_as(&self, name: &str, case: &Case, fault: SignatureFault) {
        assert_eq!(self.only_ssh_keygen(name, case), Ours::Signature(fault), "{name}");
    }
}

#[test]
fn every_kind_that_may_sign_counts_for_both() {
    let (bench, machine) = (Bench::new(), Sandbox::new());
    let mut seen = 0;
    for key in keys::all(&machine) {
        if key.is_untouched() || ["ecdsa 521", "rsa 1024"].contains(&key.name.as_str()) {
            continue;
        }
        for hash in ["sha256", "sha512"] {
            let signature = key.sign(&machine, "git", hash, MESSAGE);
            let case = Case { signature, ..bench.case(&key) };
            assert_eq!(case.ours(), Ours::Counts(PRINCIPAL.to_owned()), "{} {hash}", key.name);
            assert!(case.counts_for_ssh_keygen(&bench.dir, PRINCIPAL), "{} {hash}", key.name);
            seen += 1;
        }
    }
    assert_eq!(seen, 2 * 10);
}

#[test]
fn keys_that_ssh_keygen_takes_are_refused_when_they_prove_too_little() {
    let bench = Bench::new();
    for key in [keys::sk_ed25519(0), keys::sk_ecdsa(0), keys::sk_ed25519(4), keys::sk_ecdsa(4)] {
        bench.refused_as(&key.name, &bench.case(&key), SignatureFault::Untouched);
    }
    for (kind, bits, reason) in
        [("rsa", "1024", "this one has 1024"), ("ecdsa", "521", "\"ecdsa-sha2-nistp521\" may not")]
    {
        let key = keys::in_file(&bench.machine, kind, bits);
        let case = bench.case(&key);
        bench.refused_with_its_file(&key.name, &case, reason);
        // Also where another file lists it, a signature by it is no riddle.
        let unlisted = Case { signers: bench.case(&bench.key).signers, ..case };
        let Ours::Signature(SignatureFault::Key(fault)) = unlisted.ours() else {
            panic!("{kind}: {:?}", unlisted.ours());
        };
        assert!(matches!(fault, KeyFault::Kind(_) | KeyFault::RsaBits(1024)), "{fault:?}");
    }
    let key = keys::sk_ecdsa(1);
    let browser = Case { signature: key.sign_as_a_browser(MESSAGE), ..bench.case(&key) };
    bench.refused_as("webauthn", &browser, SignatureFault::Malformed);
}

#[test]
fn a_line_that_ssh_keygen_passes_over_refuses_the_file() {
    let bench = Bench::new();
    let key = &bench.key.text;
    for (line, reason) in [
        (format!("* cert-authority {key}"), "cert-authority is not supported"),
        (format!("{PRINCIPAL} no-touch-required {key}"), "is neither an option"),
        (format!("{PRINCIPAL} {key}x"), "it is not a public key"),
        (format!("!eve@example.com {key}"), "no name of a signer is here"),
        (format!("\"{PRINCIPAL} {key}"), "the quotation mark is never closed"),
        (format!("{PRINCIPAL} namespaces=git {key}"), "needs a value in quotation marks"),
        (format!("{PRINCIPAL} namespaces=\"git\"{key}"), "a comma or a space is missing here"),
        (format!("{PRINCIPAL} valid-after=\"never\" {key}"), "valid-after is no moment"),
        (PRINCIPAL.to_owned(), "the key is missing"),
        (format!("{PRINCIPAL} sk-ssh-ed25519@openssh.com AAAA"), "it is not a public key"),
        (format!("{PRINCIPAL} ssh-dss AAAA"), "\"ssh-dss\" may not sign"),
    ] {
        bench.refused_with_its_file(&line, &bench.with_line(line.as_bytes()), reason);
    }
    bench.refused_with_its_file("not UTF-8", &bench.with_line(b"# M\xfcller"), "UTF-8");
}

#[test]
fn a_line_that_can_be_read_in_two_ways_refuses_the_file() {
    let bench = Bench::new();
    let inside = "a quotation mark is inside of the names";
    let control = "a control character is here";
    for (line, reason) in [
        ("ops@\"example.com\" KEY", inside),
        ("o\"ps@example.com\" KEY", inside),
        ("ops@example.com\rKEY", control),
        ("ops@example.com KEY \u{b}", control),
        ("ops@example.com KEY \0 comment", control),
        ("ops@example.com valid-before=\"20260731235960\" KEY", "valid-before is no moment"),
        ("ops@example.com valid-before=\"20270231\" KEY", "valid-before is no moment"),
    ] {
        bench.refused_with_its_file(line, &bench.with_own_line(line), reason);
    }
    let blanks = bench.key.text.replace("AAAAC3", "AAAA\u{c}C3");
    let case = bench.with_own_line(&format!("{PRINCIPAL} {blanks}"));
    bench.refused_with_its_file("a blank in base64", &case, control);
}

#[test]
fn a_signature_that_nothing_makes_is_refused() {
    let bench = Bench::new();
    let right = bench.case(&bench.key).signature;
    let malformed = || SignatureFault::Malformed;
    for more in ["x", "\nsaid", " -----", "\n-----BEGIN SSH SIGNATURE-----\n"] {
        let case = bench.with_signature([&right, more.as_bytes()].concat());
        bench.refused_as(&format!("{more:?} after the end"), &case, malformed());
    }
    let long = String::from_utf8(right).unwrap().replacen('\n', &"\n".repeat(20_000), 1);
    bench.refused_as("longer than 16 KiB", &bench.with_signature(long), malformed());
    let mut old = bench.bytes();
    old[9] = 0;
    bench.refused_as("version 0", &bench.with_signature(armored(&old)), malformed());
    // Names in C end at a zero.
    let (blob, value) = (bench.key.blob(), bench.value());
    let named = |namespace, hash| armored(&sshsig(&blob, namespace, hash, &value));
    assert_eq!(
        bench.with_signature(named(b"git", b"sha512")).signature,
        bench.case(&bench.key).signature
    );
    let other = SignatureFault::Namespace("git\0".to_owned());
    bench.refused_as("git and a zero", &bench.with_signature(named(b"git\0", b"sha512")), other);
    let case = bench.with_signature(named(b"git", b"sha512\0"));
    bench.refused_as("sha512 and a zero", &case, malformed());
}

/// `number` and the order of the group of ed25519, both with the lowest byte first.
fn plus_order(number: &[u8]) -> Vec<u8> {
    let order = "edd3f55c1a631258d69cf7a2def9de14000000000000000000000000000000010";
    let order = (0..32).map(|at| u16::from_str_radix(&order[2 * at..2 * at + 2], 16).unwrap());
    let mut carry = 0;
    let add = |(digit, order): (&u8, u16)| {
        carry += u16::from(*digit) + order;
        let low = carry & 0xff;
        carry >>= 8;
        low as u8
    };
    number.iter().zip(order).map(add).collect()
}

#[test]
fn a_signature_of_ed25519_has_one_form_for_both() {
    let bench = Bench::new();
    let mut value = bench.value();
    let start = value.len() - 32;
    let second = plus_order(&value[start..]);
    value.splice(start.., second);
    let bytes = sshsig(&bench.key.blob(), b"git", b"sha512", &value);
    let case = bench.with_signature(armored(&bytes));
    assert_eq!(case.ours(), Ours::Signature(SignatureFault::Wrong));
    assert!(!case.counts_for_ssh_keygen(&bench.dir, PRINCIPAL));
}

#[test]
fn a_key_has_one_encoding() {
    // ssh-keygen compares the numbers of a key, and we its fingerprint.
    let bench = Bench::new();
    let key = keys::in_file(&bench.machine, "rsa", "2048");
    let case = bench.case(&key);
    let blob = key.blob();
    let number = |at: usize| {
        let length = u32::from_be_bytes(blob[at..at + 4].try_into().unwrap()) as usize;
        (&blob[at + 4..at + 4 + length], at + 4 + length)
    };
    let (exponent, at) = number(11);
    let (modulus, _) = number(at);
    let other = strings(&[b"ssh-rsa", exponent, &[&[0], modulus].concat()]);
    let bytes = unarmored(&case.signature);
    let rest = &bytes[10 + 4 + blob.len()..];
    let bytes = [&bytes[..10], &strings(&[&other]), rest].concat();
    let case = Case { signature: armored(&bytes), ..case };
    let ours = bench.only_ssh_keygen("a zero more", &case);
    assert_eq!(ours, Ours::Signer(SignerFault::Unlisted));
}

#[test]
fn a_local_moment_in_summer_is_that_of_the_clock_on_the_wall() {
    // ssh-keygen takes it for one of winter, an hour later.
    let bench = Bench::new();
    let in_zone = |option: &str, zone: &'static str| {
        let case = bench.with_own_line(&format!("{PRINCIPAL} {option}=\"20260701\" KEY"));
        Case { zone, ..case }
    };
    let ended = in_zone("valid-before", CET);
    assert!(matches!(
        bench.only_ssh_keygen("valid-before", &ended),
        Ours::Signer(SignerFault::Expired(_))
    ));
    let began = in_zone("valid-after", CET);
    assert_eq!(began.ours(), Ours::Counts(PRINCIPAL.to_owned()));
    assert!(!began.counts_for_ssh_keygen(&bench.dir, PRINCIPAL));
    // An hour later both agree, and in UTC always.
    for (option, counts) in [("valid-before", false), ("valid-after", true)] {
        let case = Case { at: SUMMER_NIGHT + 3600, ..in_zone(option, CET) };
        assert_eq!(matches!(case.ours(), Ours::Counts(_)), counts, "{option}");
        assert_eq!(case.counts_for_ssh_keygen(&bench.dir, PRINCIPAL), counts, "{option}");
        let case = in_zone(option, "UTC0");
        assert_eq!(matches!(case.ours(), Ours::Counts(_)), !counts, "{option} in UTC");
        assert_eq!(case.counts_for_ssh_keygen(&bench.dir, PRINCIPAL), !counts, "{option} in UTC");
    }
}

#[test]
fn names_are_not_compared_here_and_long_patterns_are_read() {
    // A key that the file lists may sign, whatever name it signs under: git asks by the key as well.
    let bench = Bench::new();
    let long = format!("{PRINCIPAL} namespaces=\"git,{}\" KEY", "x".repeat(1100));
    for line in ["eve@example.com KEY", "*,!ops@example.com KEY", &long] {
        let case = bench.with_own_line(line);
        assert!(matches!(case.ours(), Ours::Counts(_)), "{line}: {:?}", case.ours());
        assert!(!case.counts_for_ssh_keygen(&bench.dir, PRINCIPAL), "{line}");
    }
}
