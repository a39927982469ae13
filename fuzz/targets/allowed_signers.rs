//! Any bytes as the file of `allowed_signers`: keys that are found again, or a fault whose place is in the file and
//! which can be shown on a terminal.

#![no_main]

use std::cell::LazyCell;

use chrono::DateTime;
use jiff::tz::TimeZone;
use libfuzzer_sys::fuzz_target;
use pmpy::domain::signature::allowed_signers::{AllowedSigners, SignerFault};

thread_local! {
    static ZONE: LazyCell<TimeZone> = LazyCell::new(|| {
        TimeZone::posix("CET-1CEST,M3.5.0,M10.5.0/3").expect("a zone that is right")
    });
}

fuzz_target!(|bytes: &[u8]| {
    let lines: Vec<&[u8]> = bytes.split(|&byte| byte == b'\n').collect();
    match ZONE.with(|zone| AllowedSigners::parse(bytes, zone)) {
        Ok(signers) => {
            assert!(signers.all().len() <= lines.len());
            for signer in signers.all() {
                let line = lines[signer.line - 1];
                assert!(!line.contains(&0), "a NUL is read in two ways: {line:?}");
                let moments = [signer.valid_after, signer.valid_before, Some(DateTime::UNIX_EPOCH)];
                for at in moments.into_iter().flatten() {
                    match signers.find(&signer.key.fingerprint(), at) {
                        Ok(found) => assert!(found.is_for_git(), "{found:?}"),
                        Err(fault) => assert_ne!(fault, SignerFault::Unlisted),
                    }
                }
            }
        }
        Err(fault) => {
            let line = String::from_utf8_lossy(lines[fault.line - 1]);
            assert!((1..=line.chars().count() + 1).contains(&fault.column), "{fault}");
            let message = fault.to_string();
            assert!(message.len() < 1000, "{} bytes", message.len());
            assert!(!message.contains(|c: char| c.is_control() && c != '\n'), "{message:?}");
        }
    }
});
