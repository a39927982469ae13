//! Any bytes as what a broker sends: they are read or refused, the same in pieces as whole, what is
//! read can be said again, and the hint in it cannot move a terminal's cursor or break its line.

#![no_main]

use libfuzzer_sys::fuzz_target;
use pmpy::domain::bus::message::PushHint;
use pmpy::domain::bus::stomp::{
    DecodeError, KEPT_BODY, KEPT_HEADERS, StompDecoder, StompFrame, StompItem, StompVersion,
};

/// All items of `bytes`, given in pieces of `size`, and why there are no more.
fn read(version: StompVersion, bytes: &[u8], size: usize) -> (Vec<StompItem>, Option<DecodeError>) {
    let mut decoder = StompDecoder::default();
    decoder.version = version;
    let mut items = Vec::new();
    for mut piece in bytes.chunks(size) {
        loop {
            match decoder.take(&mut piece) {
                Ok(Some(item)) => items.push(item),
                Ok(None) => break,
                Err(error) => return (items, Some(error)),
            }
        }
    }
    (items, None)
}

fn look_at(frame: &StompFrame) {
    assert!(frame.headers.len() <= KEPT_HEADERS && frame.body.len() <= KEPT_BODY);
    if let Some(hint) = PushHint::read(frame) {
        let shown = hint.repo + &hint.name.unwrap_or_default();
        assert!(!shown.contains(|c: char| c.is_control()) && shown.len() < 2000, "{shown:?}");
    }
    let headers = frame.headers.iter().filter(|(name, _)| name != "content-length").cloned();
    let plain = StompFrame { headers: headers.collect(), ..frame.clone() };
    let Ok(bytes) = plain.encode(StompVersion::V12) else { return };
    let (items, error) = read(StompVersion::V12, &bytes, bytes.len());
    let [StompItem::Frame(again)] = items.as_slice() else { panic!("{error:?}: {frame:?}") };
    assert_eq!((&again.command, &again.body), (&frame.command, &frame.body));
}

fuzz_target!(|input: (u8, &[u8])| {
    let (size, bytes) = (usize::from(input.0.max(1)), input.1);
    for version in [StompVersion::V10, StompVersion::V11, StompVersion::V12] {
        let (items, error) = read(version, bytes, bytes.len().max(1));
        let (same, also) = read(version, bytes, size);
        assert_eq!(items, same);
        assert_eq!(error.is_some(), also.is_some());
        if let Some(error) = error {
            let shown = error.to_string();
            assert!(!shown.contains(|c: char| c.is_control()) && shown.len() < 300, "{shown:?}");
        }
        for item in &items {
            if let StompItem::Frame(frame) = item {
                look_at(frame);
            }
        }
    }
});
