//! Random signatures, files of signers and damages to both: our verdict is that of ssh-keygen, but for what is refused
//! here alone, of which each case is recognised and counted. `PMPY_SEED` chooses other cases, and `PMPY_LONG=1` makes
//! them a hundred thousand.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Instant;

use pmpy::domain::signature::public_key::KeyFault;
use pmpy::domain::signature::ssh_signature::SignatureFault;
use tempfile::TempDir;

use super::keys::{self, Key, armored, unarmored};
use super::verdicts::{CET, Case, Ours, PRINCIPAL, principal_of};
use crate::sandbox::Sandbox;

/// Numbers that look random, always the same of one seed (splitmix64).
struct Dice(u64);

impl Dice {
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % limit as u64) as usize
    }

    fn of<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.below(choices.len())]
    }

    fn percent(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }
}

/// A signature that ssh-keygen or the test made.
struct Sample {
    /// The number of its key.
    key: usize,
    signature: Vec<u8>,
    message: Vec<u8>,
}

fn samples(machine: &Sandbox, keys: &[Key]) -> Vec<Sample> {
    let messages: [&[u8]; 3] = [b"", b"tree 4b825dc6\n\nsaid\n", b"\0\xff\r\n"];
    let mut all = Vec::new();
    for (number, key) in keys.iter().enumerate() {
        // Most are for git, which alone counts.
        for (which, namespace) in ["git", "git", "file", "git"].iter().enumerate() {
            let hash = if which % 2 == 0 { "sha512" } else { "sha256" };
            let message = messages[(number + which) % messages.len()].to_vec();
            let signature = key.sign(machine, namespace, hash, &message);
            all.push(Sample { key: number, signature, message });
        }
    }
    all
}

/// Lines that are refused here with their file, and only passed over by ssh-keygen.
const REFUSED: [&str; 9] = [
    "* cert-authority KEY",
    "ops@example.com no-touch-required KEY",
    "!eve@example.com KEY",
    "ops@example.com",
    "ops@example.com namespaces=\"git\",namespaces=\"git\" KEY",
    "ops@example.com valid-after=\"tomorrow\" KEY",
    "ops@example.com valid-after=\"20300101\",valid-before=\"20200101\" KEY",
    "ops@example.com ssh-ed25519 AAAA",
    "\"ops@example.com KEY",
];
const PRINCIPALS: [&str; 9] = [
    PRINCIPAL,
    PRINCIPAL,
    PRINCIPAL,
    "*",
    "*@example.com",
    "ops@*,!eve@example.com",
    "\"ops@example.com\"",
    "\"pat pusher,ops@example.com\"",
    "ops@example.com,#,eve",
];
const NAMESPACES: [&str; 16] = [
    "git",
    "file",
    "*",
    "git,file",
    "file,git",
    "g*",
    "?it",
    "g?t,!file",
    "!git,*",
    "*,!git",
    "!g*,git",
    "GIT",
    "",
    "*,!?it",
    "gi",
    "**t",
];
/// Of all months none near the change of the clocks; in summer ssh-keygen's local time is another (`stricter`).
const MOMENTS: [&str; 14] = [
    "20200101",
    "20200101Z",
    "202601101200Z",
    "20260110120000Z",
    "20260110120001Z",
    "20260110115959utc",
    "20260110130000",
    "20260110125959",
    "20260110130001",
    "202601101300",
    "20260110",
    "20260111",
    "99991231",
    "20380119031408Z",
];
/// 2026-01-10 12:00 UTC.
const AT: i64 = 1_768_046_400;

/// A line for `key`.
fn line(dice: &mut Dice, key: &str) -> String {
    let mut options = Vec::new();
    let name = |dice: &mut Dice, name: &str| match dice.below(4) {
        0 => name.to_uppercase(),
        _ => name.to_owned(),
    };
    if dice.percent(20) {
        let value = dice.of(&NAMESPACES);
        options.push(format!("{}=\"{value}\"", name(dice, "namespaces")));
    }
    for option in ["valid-after", "valid-before"] {
        if dice.percent(12) {
            let value = dice.of(&MOMENTS);
            options.push(format!("{}=\"{value}\"", name(dice, option)));
        }
    }
    if dice.percent(30) {
        options.reverse();
    }
    let options = options.join(",");
    let blank = if dice.percent(80) { " " } else { " \t " };
    let start = if dice.percent(10) { " \t" } else { "" };
    let comment = dice.of(&["", "", " a comment", " \"", " ssh-ed25519 AAAA", "  "]);
    let options = if options.is_empty() { options } else { format!("{options}{blank}") };
    format!("{start}{}{blank}{options}{key}{comment}", dice.of(&PRINCIPALS))
}

/// A file of signers, and whether a line of [`REFUSED`] or a key that may not sign is in it.
fn signers(dice: &mut Dice, keys: &[Key], own: usize) -> (Vec<u8>, bool) {
    let (mut text, mut is_refused) = (String::new(), false);
    let end = if dice.percent(15) { "\r\n" } else { "\n" };
    let own_at = dice.below(3);
    for number in 0..3 {
        let other = if dice.percent(90) { 0 } else { dice.below(keys.len()) };
        let line = match dice.below(10) {
            _ if number == own_at && dice.percent(96) => line(dice, &keys[own].text),
            0..=2 => dice.of(&["", "# a comment", "  # ops@example.com", " "]).to_owned(),
            3 if dice.percent(20) => {
                is_refused = true;
                dice.of(&REFUSED).replace("KEY", &keys[other].text)
            }
            _ => line(dice, &keys[other].text),
        };
        text.push_str(&line);
        text.push_str(end);
    }
    if dice.percent(10) {
        text.truncate(text.trim_end().len());
    }
    let may_not = keys.iter().filter(|key| ["ecdsa 521", "rsa 1024"].contains(&key.name.as_str()));
    is_refused |= may_not.into_iter().any(|key| text.contains(&key.text));
    (text.into_bytes(), is_refused)
}

/// Changes `bytes` in one place or a few.
fn damage(dice: &mut Dice, bytes: &mut Vec<u8>) {
    let telling = b"\n\r\t \"',=\\#!*?-+/\0\x0b\x0c\x7f\xff\xc3A0zZ";
    for _ in 0..dice.of(&[1, 1, 1, 2, 3]) {
        let at = dice.below(bytes.len() + 1);
        match dice.below(6) {
            0 | 1 if at < bytes.len() => bytes[at] ^= 1 << dice.below(8),
            2 => bytes.truncate(at),
            3 => bytes.insert(at, dice.of(telling)),
            4 if at < bytes.len() => drop(bytes.remove(at)),
            5 => {
                let until = bytes.len().min(at + 1 + dice.below(20));
                let copy = bytes[at..until].to_vec();
                let to = dice.below(bytes.len() + 1);
                bytes.splice(to..to, copy);
            }
            _ => bytes.push(dice.of(telling)),
        }
    }
}

/// What of a case is damaged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Damage {
    None,
    Armor,
    Bytes,
    Message,
    Signers,
}

/// A case, and what is known of it.
struct Drawn<'a> {
    case: Case,
    key: &'a Key,
    damage: Damage,
    /// Whether its file is refused here on purpose.
    is_refused: bool,
}

fn drawn<'a>(dice: &mut Dice, keys: &'a [Key], samples: &[Sample]) -> Drawn<'a> {
    let sample = &samples[dice.below(samples.len())];
    let (signers, is_refused) = signers(dice, keys, sample.key);
    let mut case = Case {
        signers,
        signature: sample.signature.clone(),
        message: sample.message.clone(),
        at: AT,
        zone: dice.of(&["UTC0", CET]),
    };
    let damage_is = dice.of(&[
        Damage::None,
        Damage::None,
        Damage::Armor,
        Damage::Bytes,
        Damage::Bytes,
        Damage::Message,
        Damage::Signers,
        Damage::Signers,
    ]);
    match damage_is {
        Damage::None => {}
        Damage::Armor => damage(dice, &mut case.signature),
        Damage::Message => damage(dice, &mut case.message),
        Damage::Signers => damage(dice, &mut case.signers),
        Damage::Bytes => {
            let mut bytes = unarmored(&case.signature);
            damage(dice, &mut bytes);
            case.signature = armored(&bytes);
        }
    }
    Drawn { case, key: &keys[sample.key], damage: damage_is, is_refused }
}

/// Why a signature that ssh-keygen accepts does not count here; `None`: there is no reason.
fn purpose(drawn: &Drawn, ours: &Ours) -> Option<&'static str> {
    let Drawn { case, key, damage, is_refused } = drawn;
    let until_end = || {
        let end: &[u8] = b"\n-----END SSH SIGNATURE-----";
        let at = case.signature.windows(end.len()).position(|it| it == end)?;
        Some(case.signature[..at + end.len()].to_vec())
    };
    match ours {
        Ours::Signers(_) if *is_refused => Some("a line or a key for which the file is refused"),
        Ours::Signers(fault) if fault.reason == "valid-before is not after valid-after" => {
            Some("a line whose end is not after its beginning, as the file")
        }
        Ours::Signers(_) if *damage == Damage::Signers => Some("a damaged line, as the file"),
        Ours::Signature(SignatureFault::Untouched) if key.is_untouched() => Some("no touch"),
        Ours::Signature(SignatureFault::Key(KeyFault::Kind(_) | KeyFault::RsaBits(_))) => {
            Some("a key that may not sign")
        }
        Ours::Signature(SignatureFault::Malformed) => {
            let ours = |signature| match (Case { signature, ..case.clone() }).ours() {
                Ours::Counts(_) => true,
                // Refused for that as well.
                Ours::Signature(SignatureFault::Untouched) => key.is_untouched(),
                _ => false,
            };
            if until_end().is_some_and(ours) {
                return Some("text after the last line");
            }
            let mut first = case.signature.clone();
            if *damage == Damage::Bytes {
                let mut bytes = unarmored(&case.signature);
                bytes.get_mut(6..10)?.copy_from_slice(&[0, 0, 0, 1]);
                first = armored(&bytes);
            }
            ours(first).then_some("version 0")
        }
        _ => None,
    }
}

/// The counts of verdicts, and a text for each that differs without a reason.
#[derive(Default)]
struct Figures {
    both_accept: usize,
    both_refuse: usize,
    on_purpose: BTreeMap<&'static str, usize>,
    different: Vec<String>,
}

fn judge(drawn: &Drawn, dir: &TempDir, figures: &Mutex<Figures>) {
    let ours = drawn.case.ours();
    let principal = match &ours {
        Ours::Counts(principals) => principal_of(principals),
        _ => PRINCIPAL,
    };
    let theirs = drawn.case.counts_for_ssh_keygen(dir, principal);
    let mut figures = figures.lock().unwrap();
    match (&ours, theirs) {
        (Ours::Counts(_), true) => figures.both_accept += 1,
        (Ours::Counts(principals), false)
            if drawn.damage == Damage::Signers && principals.contains('!') =>
        {
            *figures.on_purpose.entry("whose line excludes the name itself").or_default() += 1;
        }
        (Ours::Counts(_), false) => figures.different.push(format!("only ours: {:?}", drawn.case)),
        (_, false) => figures.both_refuse += 1,
        (ours, true) => match purpose(drawn, ours) {
            Some(purpose) => *figures.on_purpose.entry(purpose).or_default() += 1,
            None => figures.different.push(format!(
                "only ssh-keygen, here {ours:?}; {}, damaged {:?}: {:?}",
                drawn.key.name, drawn.damage, drawn.case
            )),
        },
    }
}

#[test]
fn a_verdict_is_that_of_ssh_keygen_or_stricter_on_purpose() {
    let long = std::env::var_os("PMPY_LONG").is_some();
    let cases = if long { 100_000 } else { 600 };
    let seed = std::env::var("PMPY_SEED").map_or(1, |text| text.parse().unwrap());
    let machine = Sandbox::new();
    let keys = keys::all(&machine);
    let samples = samples(&machine, &keys);
    let (next, figures) = (AtomicU64::new(0), Mutex::new(Figures::default()));
    let start = Instant::now();
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                let dir = tempfile::tempdir().unwrap();
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= cases {
                        break;
                    }
                    let mut dice = Dice(seed * 1_000_000 + number);
                    judge(&drawn(&mut dice, &keys, &samples), &dir, &figures);
                }
            });
        }
    });
    let figures = figures.into_inner().unwrap();
    println!(
        "signatures: cases={cases} accepted={} refused={} stricter={:?} seconds={}",
        figures.both_accept,
        figures.both_refuse,
        figures.on_purpose,
        start.elapsed().as_secs()
    );
    let shown: Vec<&String> = figures.different.iter().take(20).collect();
    assert!(shown.is_empty(), "{} differ: {shown:#?}", figures.different.len());
    // Neither says always the same.
    assert!(figures.both_accept > cases as usize / 20, "{}", figures.both_accept);
    assert!(figures.both_refuse > cases as usize / 5, "{}", figures.both_refuse);
    for purpose in ["no touch", "a line or a key for which the file is refused"] {
        assert!(figures.on_purpose.contains_key(purpose), "{purpose}: {:?}", figures.on_purpose);
    }
}
