//! Whatever a branch or tag is called, its directory is one plain name, and no two share one. A normal
//! run goes through ten thousand generated names, `PMPY_LONG=1` through a million.

use std::collections::BTreeMap;
use std::path::{Component, Path};

use percent_encoding::percent_decode_str;
use pmpy::domain::publish::{LONGEST, Names, Unfit, directory};
use proptest::prelude::*;

fn cases() -> ProptestConfig {
    let cases = if std::env::var_os("PMPY_LONG").is_some() { 1_000_000 } else { 10_000 };
    ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() }
}

fn of(short: &[u8], names: Names) -> Result<String, Unfit> {
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
        match of(&one, Names::Exact) {
            Ok(directory) => {
                prop_assert!(is_one_plain_name(&directory), "{}", directory);
                prop_assert!(directory.is_ascii());
                prop_assert_eq!(percent_decode_str(&directory).collect::<Vec<u8>>(), one.clone());
                prop_assert_eq!(Ok(directory) == of(&other, Names::Exact), one == other);
            }
            Err(Unfit::TooLong { length, .. }) => prop_assert!(length > LONGEST),
            Err(unfit) => prop_assert!(unfit == Unfit::Nameless && one.is_empty(), "{}", unfit),
        }
    }

    #[test]
    fn puppet_accepts_every_directory_that_is_made_for_it(name in any_name()) {
        if let Ok(directory) = of(&name, Names::Puppet) {
            prop_assert!(is_one_plain_name(&directory), "{}", directory);
            prop_assert!(directory.chars().all(|c| c.is_ascii_alphanumeric() || c == '_'));
            prop_assert_eq!(of(directory.as_bytes(), Names::Puppet), Ok(directory.clone()));
        }
    }
}
