//! Frames written and read back, in pieces of any size, and input that is no frame.

use proptest::prelude::*;

use super::*;

fn decoder(version: StompVersion) -> StompDecoder {
    StompDecoder { version, ..StompDecoder::default() }
}

/// All items in `pieces`, and the error that ends them.
fn read<'a>(
    version: StompVersion,
    pieces: impl IntoIterator<Item = &'a [u8]>,
) -> (Vec<StompItem>, Option<DecodeError>) {
    let mut decoder = decoder(version);
    let mut items = Vec::new();
    for mut piece in pieces {
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

fn whole(version: StompVersion, bytes: &[u8]) -> (Vec<StompItem>, Option<DecodeError>) {
    read(version, [bytes])
}

#[track_caller]
fn one(version: StompVersion, bytes: &[u8]) -> StompFrame {
    match whole(version, bytes) {
        (items, None) => match items.as_slice() {
            [StompItem::Frame(frame)] => frame.clone(),
            other => panic!("one frame was expected: {other:?}"),
        },
        (_, Some(error)) => panic!("{error}"),
    }
}

#[test]
fn frames_and_beats_are_read_however_they_are_cut() {
    let message = StompFrame::new("MESSAGE").with("a", "x:\\y\n\r").with("k:\n", "");
    let message = StompFrame { body: b"a\0b".to_vec(), ..message };
    let mut bytes = b"\n\r\n".to_vec();
    bytes.extend(message.encode(StompVersion::V12).unwrap());
    bytes.extend(b"\nRECEIPT\r\nreceipt-id:1\r\n\r\n\0\n");
    for first in 0..bytes.len() {
        for second in first..bytes.len() {
            let pieces = [&bytes[..first], &bytes[first..second], &bytes[second..]];
            let (items, error) = read(StompVersion::V12, pieces);
            assert_eq!(error, None);
            assert_eq!(items.len(), 6);
            let StompItem::Frame(read) = &items[2] else { panic!("{items:?}") };
            assert_eq!((read.header("a"), read.header("k:\n")), (Some("x:\\y\n\r"), Some("")));
            assert_eq!(read.body, b"a\0b");
            let StompItem::Frame(receipt) = &items[4] else { panic!("{items:?}") };
            assert_eq!(receipt, &StompFrame::new("RECEIPT").with("receipt-id", "1"));
        }
    }
}

#[test]
fn each_version_escapes_what_it_should() {
    let frame = StompFrame::new("SEND").with("a", "x:y\\z\nw");
    assert_eq!(frame.encode(StompVersion::V12).unwrap(), b"SEND\na:x\\cy\\\\z\\nw\n\n\0");
    assert_eq!(frame.encode(StompVersion::V11).unwrap(), b"SEND\na:x\\cy\\\\z\\nw\n\n\0");
    assert!(frame.encode(StompVersion::V10).is_err(), "the line would end");
    let frame = StompFrame::new("SEND").with("a", "x\r");
    assert_eq!(frame.encode(StompVersion::V12).unwrap(), b"SEND\na:x\\r\n\n\0");
    assert!(frame.encode(StompVersion::V11).is_err() && frame.encode(StompVersion::V10).is_err());
    assert_eq!(one(StompVersion::V10, b"MESSAGE\na:x\\cy\n\n\0").header("a"), Some("x\\cy"));
    assert_eq!(one(StompVersion::V11, b"MESSAGE\na:x\\cy\n\n\0").header("a"), Some("x:y"));
    assert_eq!(
        one(StompVersion::V12, b"CONNECTED\nsession:a\\q\n\n\0").header("session"),
        Some("a\\q")
    );
}

#[test]
fn a_password_may_hold_a_backslash_and_no_header_of_its_own() {
    let connect = |passcode: &str| {
        StompFrame::new("CONNECT").with("passcode", passcode).encode(StompVersion::V10)
    };
    assert_eq!(connect("p:a\\b").unwrap(), b"CONNECT\npasscode:p:a\\\\b\n\n\0");
    for passcode in ["a\nlogin:root", "a\r", "a\0"] {
        let sentence = connect(passcode).unwrap_err().to_string();
        assert!(sentence.starts_with("the header \"passcode\" cannot be sent: "), "{sentence}");
        assert!(!sentence.contains("root"), "{sentence}");
    }
}

#[test]
fn of_repeated_headers_the_first_counts() {
    let frame =
        one(StompVersion::V12, b"MESSAGE\na:1\na:2\ncontent-length:2\ncontent-length:9\n\nxy\0");
    assert_eq!(frame.header("a"), Some("1"));
    assert_eq!(frame.body, b"xy");
}

#[test]
fn what_is_not_utf_8_is_no_reason_to_leave() {
    let frame = one(StompVersion::V12, b"MESSAGE\nsubject:[\xff] \xc3\n\n\xfe\0");
    assert_eq!(frame.header("subject"), Some("[\u{fffd}] \u{fffd}"));
    assert_eq!(frame.body, b"\xfe");
}

#[test]
fn of_too_much_the_beginning_is_kept_and_the_session_continues() {
    let mut bytes = b"MESSAGE\n".to_vec();
    bytes.extend(format!("long:{}\n", "x".repeat(KEPT_LINE)).bytes());
    for number in 0..KEPT_HEADERS + 10 {
        bytes.extend(format!("h{number}:\n").bytes());
    }
    for name in OURS {
        bytes.extend(format!("{name}:x\n{name}:y\n").bytes());
    }
    bytes.extend(format!("content-length:{}\n\n", KEPT_BODY + 1000).bytes());
    bytes.extend(vec![0; KEPT_BODY + 1000]);
    bytes.extend(b"\0MESSAGE\n\n");
    bytes.extend(vec![b'x'; KEPT_BODY + 1000]);
    bytes.extend(b"\0\n");
    let (items, error) = whole(StompVersion::V12, &bytes);
    assert_eq!(error, None);
    let [StompItem::Frame(first), StompItem::Frame(second), StompItem::Beat] = items.as_slice()
    else {
        panic!("{} items", items.len())
    };
    assert_eq!(first.headers.len(), KEPT_HEADERS);
    assert_eq!(first.header("long"), None);
    assert!(OURS.iter().all(|name| first.header(name) == Some("x")), "{:?}", first.headers);
    assert_eq!((first.body.len(), second.body.len()), (KEPT_BODY, KEPT_BODY));
}

#[test]
fn whatever_brokers_relay_in_a_head_the_session_continues() {
    let frame = one(StompVersion::V12, b"MESSAGE\na\0:\0b\0\nsubject:x\n\nbody\0");
    assert_eq!(frame.header("a\u{fffd}"), Some("\u{fffd}b\u{fffd}"));
    assert_eq!((frame.header("subject"), &*frame.body), (Some("x"), &b"body"[..]));

    let long = format!("h:{}\n", "x".repeat(60_000)).repeat(40);
    let bytes = format!("MESSAGE\n{long}subject:x\n\n\0MESSAGE\nh:{}", "\0".repeat(2 << 20));
    let (items, error) = whole(StompVersion::V12, format!("{bytes}\n\n\0").as_bytes());
    assert_eq!(error, None);
    let [StompItem::Frame(first), StompItem::Frame(second)] = items.as_slice() else {
        panic!("{} items", items.len())
    };
    assert_eq!(first, &StompFrame::new("MESSAGE").with("subject", "x"));
    assert_eq!(second, &StompFrame::new("MESSAGE"));
}

#[test]
fn a_head_without_end_is_none_and_nothing_of_it_is_kept() {
    let mut decoder = decoder(StompVersion::V12);
    let _ = decoder.take(&mut &b"MESSAGE\n"[..]);
    let piece = vec![b'a'; 1 << 20];
    let error = loop {
        match decoder.take(&mut piece.as_slice()) {
            Ok(_) => assert!(decoder.line.bytes.capacity() <= 2 * KEPT_LINE),
            Err(error) => break error.to_string(),
        }
    };
    assert_eq!(error, "a head of more than 134217728 bytes was received");
}

#[test]
fn what_is_no_stomp_ends_it_at_once() {
    let head = |line: &str| format!("MESSAGE\n{line}\n\n").into_bytes();
    for (bytes, sentence) in [
        (
            b"HTTP/1.1 400 Bad Request\r\n".to_vec(),
            "it begins with \"HTTP/1.1 400 Bad Request\\r\\n\"",
        ),
        (b"\x15\x03\x03\0\x02\x02".to_vec(), "it begins with \"\\x15\\x03\\x03\\x00\\x02\\x02\""),
        (vec![b'A'; 33], "it begins with \"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA\""),
        (head("no colon"), "a header has no colon"),
        (head("a:\\t"), "an unknown escape"),
        (head("a:\\"), "an unknown escape"),
        (head("content-length:-1"), "its length is not a number"),
        (head("content-length:99999999999999999999"), "its length is not a number"),
        (head("content-length:999999999"), "a body of more than 134217728 bytes"),
        (b"MESSAGE\ncontent-length:1\n\nxy\0".to_vec(), "does not end where its length says"),
    ] {
        let (_, error) = whole(StompVersion::V12, &bytes);
        let error = error.unwrap_or_else(|| panic!("{sentence}")).to_string();
        assert!(error.contains(sentence.trim_end_matches("\\r\\n\"")), "{error}");
        assert!(!error.contains(char::is_control), "{error}");
    }
}

proptest! {
    #[test]
    fn what_is_written_is_read(
        headers in prop::collection::vec(("[a-z:\\\\\n\r]{1,8}", "[ -~\n\r\u{e9}]{0,20}"), 0..8),
        body in prop::collection::vec(any::<u8>(), 0..200),
    ) {
        prop_assume!(headers.iter().all(|(name, _)| name != CONTENT_LENGTH));
        let frame = StompFrame { command: "SEND".to_owned(), headers, body };
        let bytes = frame.encode(StompVersion::V12).unwrap();
        let mut read = one(StompVersion::V12, &bytes);
        read.headers.retain(|(name, _)| name != CONTENT_LENGTH);
        prop_assert_eq!(read, frame);
    }

    #[test]
    fn byte_by_byte_it_is_the_same_as_whole(
        bytes in prop::collection::vec(
            prop::sample::select(b"\n\n\n\r\0:\\cnAB1\xff".to_vec()), 0..60
        ),
        begin in prop::sample::select(vec![
            &b""[..], b"MESSAGE\n", b"MESSAGE\ncontent-length:3\n", b"ERROR\r\nmessage:x\r\n\r\nb",
        ]),
    ) {
        let bytes = [begin, &bytes].concat();
        for version in [StompVersion::V10, StompVersion::V11, StompVersion::V12] {
            let (items, error) = whole(version, &bytes);
            let (same, also) = read(version, bytes.chunks(1));
            prop_assert_eq!(items, same);
            prop_assert_eq!(error.is_some(), also.is_some());
        }
    }
}
