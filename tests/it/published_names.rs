//! Whatever a branch or tag is called, its directory is one plain name, and no two share one. A million
//! generated names, and beside them some thousand that shrink when they fail, a million of those with
//! `PMPY_LONG=1`.

use std::collections::BTreeMap;
use std::path::{Component, Path};
use std::thread;

use percent_encoding::percent_decode_str;
use pmpy::domain::git::Commit;
use pmpy::domain::paths::PathPatterns;
use pmpy::domain::publish::rules::{
    AssignedRef, LONGEST, NamingError, NamingRule, PublishRules, RefSelection, assign, directory,
};
use proptest::prelude::*;

fn cases() -> ProptestConfig {
    let cases = if std::env::var_os("PMPY_LONG").is_some() { 1_000_000 } else { 10_000 };
    ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() }
}

fn of(short: &[u8], names: NamingRule) -> Result<String, NamingError> {
    directory(short, names, &BTreeMap::new())
}

/// What means something to a path, a shell, a URL or the rule itself.
const PIECES: &[&[u8]] = &[
    b"/", b".", b"..", b"-", b"%", b"%2F", b"%2E", b"_", b"+", b"\0", b"\n", b"~", b"$(id)", b"`",
    b"\"", b"'", b"\\", b" ", b";", b"|", b"&", b"*", b"A", b"a", b".pmpy", b".git",
];

/// Any bytes, mostly plain ones and [`PIECES`].
fn any_name() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        4 => "[a-zA-Z0-9._+-]{1,6}".prop_map(String::into_bytes),
        3 => prop::sample::select(PIECES).prop_map(<[u8]>::to_vec),
        1 => any::<String>().prop_map(String::into_bytes),
        1 => prop::collection::vec(any::<u8>(), 1..4),
    ];
    prop::collection::vec(piece, 1..8).prop_map(|pieces| pieces.concat())
}

fn is_one_plain_name(directory: &str) -> bool {
    let path = Path::new(directory);
    let mut parts = path.components();
    matches!((parts.next(), parts.next()), (Some(Component::Normal(name)), None) if name == directory)
        && !directory.starts_with(['.', '-'])
        && !directory.contains(['/', '\0'])
        && directory.len() <= LONGEST
}

proptest! {
    #![proptest_config(cases())]

    #[test]
    fn every_name_becomes_one_plain_directory_and_can_be_read_back(one in any_name(), other in any_name()) {
        match of(&one, NamingRule::Exact) {
            Ok(directory) => {
                prop_assert!(is_one_plain_name(&directory), "{}", directory);
                prop_assert!(directory.is_ascii());
                prop_assert_eq!(percent_decode_str(&directory).collect::<Vec<u8>>(), one.clone());
                prop_assert_eq!(Ok(directory) == of(&other, NamingRule::Exact), one == other);
            }
            Err(NamingError::TooLong { length, .. }) => prop_assert!(length > LONGEST),
            Err(unfit) => prop_assert!(unfit == NamingError::Nameless && one.is_empty(), "{}", unfit),
        }
    }

    #[test]
    fn puppet_accepts_every_directory_that_is_made_for_it(name in any_name()) {
        if let Ok(directory) = of(&name, NamingRule::Puppet) {
            prop_assert!(is_one_plain_name(&directory), "{}", directory);
            prop_assert!(directory.chars().all(|c| c.is_ascii_alphanumeric() || c == '_'));
            prop_assert_eq!(of(directory.as_bytes(), NamingRule::Puppet), Ok(directory.clone()));
        }
    }
}

/// Numbers in no order, the same in each run.
pub struct Dice(pub u64);

impl Dice {
    fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) as usize % end
    }

    /// As [`any_name`], one of a hundred of them long.
    pub fn name(&mut self) -> Vec<u8> {
        const PLAIN: &[u8] = b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._+-";
        let mut name = Vec::new();
        let pieces = if self.below(100) == 0 { 60 } else { 1 + self.below(7) };
        for _ in 0..pieces {
            match self.below(9) {
                0..=3 => {
                    let count = 1 + self.below(6);
                    name.extend((0..count).map(|_| PLAIN[self.below(PLAIN.len())]));
                }
                4..=6 => name.extend(PIECES[self.below(PIECES.len())]),
                7 => {
                    let any = char::from_u32(self.below(0x11_0000) as u32).unwrap_or('\u{fffd}');
                    name.extend(any.to_string().bytes());
                }
                _ => name.push(self.below(256) as u8),
            }
        }
        name
    }
}

/// What `directory` of `directory(one)` breaks, if anything.
fn broken(one: &[u8], before: &[u8]) -> Option<String> {
    let exact = match of(one, NamingRule::Exact) {
        Ok(directory) => {
            is_one_plain_name(&directory)
                && percent_decode_str(&directory).eq(one.iter().copied())
                && (one == before || of(before, NamingRule::Exact) != Ok(directory))
        }
        Err(NamingError::TooLong { length, .. }) => length > LONGEST,
        Err(_) => false,
    };
    let puppet = match of(one, NamingRule::Puppet) {
        Ok(directory) => {
            is_one_plain_name(&directory)
                && directory.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
        }
        Err(_) => true,
    };
    (!(exact && puppet)).then(|| one.escape_ascii().to_string())
}

#[test]
fn a_million_names_are_one_plain_directory_each_that_can_be_read_back() {
    const EACH: usize = 250_000;
    thread::scope(|scope| {
        for seed in 0..4 {
            scope.spawn(move || {
                let mut dice = Dice(seed << 40);
                let (mut before, mut fit) = (Vec::new(), 0);
                for _ in 0..EACH {
                    let name = dice.name();
                    assert_eq!(broken(&name, &before), None);
                    fit += usize::from(of(&name, NamingRule::Exact).is_ok());
                    before = name;
                }
                assert!(fit > EACH * 9 / 10 && fit < EACH, "{fit} of {EACH} have a directory");
            });
        }
    });
}

/// What refs `short` become where `there` is published.
fn assigned(
    short: &[String],
    there: &BTreeMap<String, String>,
    names: NamingRule,
) -> Vec<AssignedRef> {
    let revision: Commit = "a".repeat(40).parse().unwrap();
    let refs: Vec<_> =
        short.iter().map(|name| (format!("refs/heads/{name}"), Some(revision))).collect();
    let rules = PublishRules {
        refs: RefSelection::Branches,
        names,
        rename: BTreeMap::new(),
        matching: PathPatterns::new(&[]).unwrap(),
        room: LONGEST,
    };
    assign(&refs, there, &rules)
}

/// The refs that have a directory, by that.
fn holders(assigned: &[AssignedRef]) -> BTreeMap<String, String> {
    let with_place = |one: &AssignedRef| Some((one.directory.clone().ok()?, one.name.clone()));
    assigned.iter().filter_map(with_place).collect()
}

proptest! {
    #![proptest_config(cases())]

    #[test]
    fn a_directory_has_one_ref_and_the_one_that_holds_it_keeps_it(
        // Few letters, so that many ask for one directory.
        first in prop::collection::btree_set("[a_/.]{1,3}", 1..8),
        second in prop::collection::btree_set("[a_/.]{1,3}", 1..8),
        names in prop::sample::select(vec![NamingRule::Exact, NamingRule::Puppet]),
    ) {
        let (first, second) = (Vec::from_iter(first), Vec::from_iter(second));
        let before = assigned(&first, &BTreeMap::new(), names);
        let there = holders(&before);
        let placed = before.iter().filter(|one| one.directory.is_ok()).count();
        prop_assert_eq!(there.len(), placed, "two refs in one directory: {:?}", before);

        // Others come and some go: whoever stays does not move.
        let after = assigned(&second, &there, names);
        let now = holders(&after);
        prop_assert_eq!(now.len(), after.iter().filter(|one| one.directory.is_ok()).count());
        for (directory, name) in &there {
            let stays = after.iter().any(|one| one.name == *name);
            prop_assert!(!stays || now.get(directory) == Some(name), "{} moved: {:?}", name, after);
        }
        for one in &after {
            let short = one.name.strip_prefix("refs/heads/").unwrap();
            if let (Ok(wanted), Err(reason)) = (of(short.as_bytes(), names), &one.directory) {
                prop_assert!(reason.contains(&now[&wanted]), "{}", reason);
            }
        }
    }
}
