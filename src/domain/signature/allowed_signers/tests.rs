//! The constructs of ssh-keygen(1), ALLOWED SIGNERS, each accepted or refused with its place.

use super::*;
use crate::domain::signature::tests::{TestKey, at, signers, strings};

/// Central Europe, with its summer time.
fn cet() -> TimeZone {
    TimeZone::posix("CET-1CEST,M3.5.0,M10.5.0/3").unwrap()
}

fn key() -> String {
    TestKey::of(1).text()
}

/// The only line of a file.
fn line(text: &str) -> AllowedSigner {
    let all = signers(text);
    assert_eq!(all.all().len(), 1, "{text:?}");
    all.all()[0].clone()
}

/// The fault of a file, as `LINE:COLUMN: reason`.
fn fault(text: impl AsRef<[u8]>) -> String {
    let SignersFault { line, column, reason } =
        AllowedSigners::parse(text.as_ref(), &TimeZone::UTC).unwrap_err();
    format!("{line}:{column}: {reason}")
}

/// Asserts the place of the fault, and what its sentence holds.
#[track_caller]
fn refused(text: impl AsRef<[u8]>, place: &str, sentence: &str) {
    let fault = fault(&text);
    let text = String::from_utf8_lossy(text.as_ref()).chars().take(200).collect::<String>();
    assert!(fault.starts_with(&format!("{place}: ")), "{text:?}: {fault}");
    assert!(fault.contains(sentence), "{text:?}: {fault}");
}

/// The moment of `valid-after` in a line, in Central Europe.
fn moment_of(text: &str) -> Option<DateTime<Utc>> {
    let text = format!("ops valid-after=\"{text}\" {}", key());
    let all = AllowedSigners::parse(text.as_bytes(), &cet()).ok()?;
    all.all()[0].valid_after
}

#[test]
fn an_empty_file_lists_no_key() {
    for text in ["", "\n", "\n\n", "\r\n", "# ops\n", "  \t# ops", " \t \r\n#\r\n", "#\u{fc}\n"] {
        assert_eq!(signers(text), AllowedSigners::default(), "{text:?}");
    }
}

#[test]
fn a_line_is_names_and_a_key() {
    let key = key();
    for text in [
        format!("ops@example.com {key}"),
        format!("ops@example.com {key}\n"),
        format!("ops@example.com {key}\r\n"),
        format!(" \t ops@example.com \t {key} \t \n"),
        format!("ops@example.com {key} a comment \"with\" = everything, # even this\n"),
        format!("\"ops@example.com\" {key}"),
        format!("\"ops@example.com\"{key}"),
        format!("# 1\n\n \nops@example.com {}\r\n\r\n# 2", key.replace(' ', "\t")),
    ] {
        let line = line(&text);
        assert_eq!(line.principals, "ops@example.com", "{text:?}");
        assert_eq!(line.key.fingerprint(), TestKey::of(1).fingerprint());
        assert_eq!((line.valid_after, line.valid_before), (None, None));
        assert!(line.is_for_git());
    }
}

#[test]
fn lines_keep_their_numbers_and_their_order() {
    let keys = [1, 2, 3].map(|seed| TestKey::of(seed).text());
    let text = format!("a {}\n# none\n\nb {}\r\n\r\nc {}", keys[0], keys[1], keys[2]);
    let all = signers(&text);
    let places: Vec<_> = all.all().iter().map(|it| (it.principals.as_str(), it.line)).collect();
    assert_eq!(places, [("a", 1), ("b", 4), ("c", 6)]);
}

#[test]
fn names_may_be_patterns_and_in_quotation_marks() {
    let key = key();
    for (written, names) in [
        ("a,b", "a,b"),
        ("*", "*"),
        ("*@example.com,!eve@example.com", "*@example.com,!eve@example.com"),
        ("!eve,*", "!eve,*"),
        ("\"Pat Pusher,\tops\"", "Pat Pusher,\tops"),
        ("\"#ops\"", "#ops"),
        ("ops#1", "ops#1"),
        ("\\", "\\"),
        ("namespaces=", "namespaces="),
        ("\u{fc}", "\u{fc}"),
        (",,a", ",,a"),
    ] {
        let written = written.replace('\t', " ");
        assert_eq!(line(&format!("{written} {key}")).principals, names.replace('\t', " "));
    }
}

#[test]
fn a_line_without_a_name_is_refused() {
    let key = key();
    for names in ["\"\"", ",", ",,", "!ops", "!ops,!eve", "\"!ops\"", "!"] {
        refused(format!("{names} {key}"), "1:1", "no name of a signer is here");
        refused(format!("# \n  {names} {key}"), "2:3", "no name of a signer is here");
    }
    // The names are the key then.
    refused(&key, "1:13", "is neither an option nor a kind of key");
}

#[test]
fn a_quotation_mark_that_another_reader_sees_elsewhere_is_refused() {
    let key = key();
    refused(format!("\"ops {key}"), "1:1", "the quotation mark is never closed");
    refused("\"", "1:1", "the quotation mark is never closed");
    let inside = "a quotation mark is inside of the names";
    refused(format!("ops\" {key}"), "1:4", inside);
    refused(format!("o\"ps {key} x\" {key}"), "1:2", inside);
    refused(format!("\"ops\"x {key}"), "1:6", "is neither an option nor a kind of key");
}

#[test]
fn control_characters_are_refused_outside_of_comments() {
    let key = key();
    for character in ['\0', '\r', '\x0b', '\x0c', '\x1b', '\x7f'] {
        let wrong = "a control character is here";
        refused(format!("a{character}b {key}"), "1:2", wrong);
        refused(format!("a{character}{key}"), "1:2", wrong);
        refused(format!("\u{fc} namespaces=\"git,{character}\" {key}"), "1:19", wrong);
        refused(format!("a {key} {character}.\n"), "1:84", wrong);
        assert!(signers(&format!("# {character}\n")).all().is_empty());
    }
}

#[test]
fn a_line_without_a_key_is_refused() {
    for (text, column) in [("ops", 4), ("ops  ", 6), ("\"ops\"", 6), ("ops\t\r", 5)] {
        refused(text, &format!("1:{column}"), "the key is missing");
    }
    refused("ops ssh-ed25519", "1:16", "the key is missing after its kind");
    refused("ops ssh-ed25519  ", "1:18", "the key is missing after its kind");
    refused("ops namespaces=\"git\"", "1:21", "the key is missing");
    refused("ops namespaces=\"git\"  ", "1:23", "the key is missing");
}

#[test]
fn a_key_that_is_none_is_refused_at_its_place() {
    let key = key();
    let (start, end) = key.split_at(40);
    for wrong in ["AAAA", "*", "ops", "=", "ssh-ed25519"] {
        refused(format!("ops ssh-ed25519 {wrong}"), "1:17", "it is not a public key");
    }
    refused(format!("ops {start}"), "1:17", "it is not a public key");
    refused(format!("ops {start} {end}"), "1:17", "it is not a public key");
    refused(format!("ops {start}*{end}"), "1:17", "it is not a public key");
    let place = "1:35";
    refused(format!("ops namespaces=\"git\"  ssh-ed25519 {end}"), place, "it is not a public key");
}

#[test]
fn a_key_of_another_kind_than_its_name_is_refused() {
    let blob = key().replace("ssh-ed25519 ", "");
    for kind in KeyKind::ALL.map(KeyKind::as_str).iter().filter(|kind| **kind != "ssh-ed25519") {
        let column = 4 + kind.len() + 2;
        let text = format!("ops {kind} {blob}");
        refused(text, &format!("1:{}", column), "the key is one of the kind ssh-ed25519");
    }
}

#[test]
fn kinds_that_may_not_sign_are_refused() {
    for kind in [
        "ecdsa-sha2-nistp521",
        "ssh-dss",
        "ssh-ed25519-cert-v01@openssh.com",
        "sk-ssh-ed25519-cert-v01@openssh.com",
        "webauthn-sk-ecdsa-sha2-nistp256@openssh.com",
        "rsa-sha2-512",
        "ssh-ed448",
        "ssh-",
    ] {
        let sentence = format!("keys of the kind \"{kind}\" may not sign; these may: ssh-ed25519,");
        refused(format!("ops {kind} AAAA"), "1:5", &sentence);
        refused(format!("ops namespaces=\"git\" {kind} AAAA"), "1:22", &sentence);
    }
    // The kind in the key itself.
    use base64::Engine;
    let p521 = strings(&[b"ecdsa-sha2-nistp521", b"nistp521", &[4; 133]]);
    let p521 = base64::engine::general_purpose::STANDARD.encode(p521);
    refused(format!("ops ssh-ed25519 {p521}"), "1:17", "\"ecdsa-sha2-nistp521\" may not sign");
    let short = strings(&[b"ssh-rsa", &[1, 0, 1], &[&[0][..], &[0xff; 128]].concat()]);
    let short = base64::engine::general_purpose::STANDARD.encode(short);
    refused(format!("ops ssh-rsa {short}"), "1:13", "2048 to 8192 bits, and this one has 1024");
}

#[test]
fn options_are_read_in_any_case_and_order() {
    let key = key();
    let (after, until) = (at("2026-01-01T00:00:00Z"), at("2027-01-01T12:30:00Z"));
    let options = [
        "namespaces=\"git\",valid-after=\"20260101\",valid-before=\"202701011230\"",
        "VALID-BEFORE=\"202701011230Z\",Valid-After=\"20260101Z\",NameSpaces=\"git\"",
        "valid-after=\"20260101000000utc\",valid-before=\"20270101123000UTC\"",
    ];
    for options in options {
        let line = line(&format!("ops {options} {key}"));
        assert_eq!((line.valid_after, line.valid_before), (Some(after), Some(until)), "{options}");
        assert!(line.is_for_git());
    }
}

#[test]
fn an_option_that_is_wrong_is_refused_at_its_place() {
    let key = key();
    for (options, column, sentence) in [
        ("namespaces=\"git\",namespaces=\"git\"", 22, "the option namespaces is there twice"),
        ("namespaces=\"\",NAMESPACES=\"git\"", 19, "the option namespaces is there twice"),
        (
            "valid-after=\"20260101\",valid-after=\"20260101\"",
            28,
            "the option valid-after is there",
        ),
        ("valid-before=\"20260101\",valid-before=\"1\"", 29, "the option valid-before is there"),
        ("namespaces", 15, "the option namespaces needs a value in quotation marks"),
        ("namespaces=git", 15, "the option namespaces needs a value in quotation marks"),
        ("namespaces= \"git\"", 15, "the option namespaces needs a value in quotation marks"),
        ("valid-after,namespaces=\"git\"", 16, "the option valid-after needs a value"),
        ("namespaces=\"git\"x", 21, "a comma or a space is missing here"),
        ("namespaces=\"git\"valid-after=\"20260101\"", 21, "a comma or a space is missing here"),
        ("namespaces=\"git\"\"\"", 21, "a comma or a space is missing here"),
        ("namespaces=\"git\",", 22, "\"\" is neither an option nor a kind"),
        (",namespaces=\"git\"", 5, "\"\" is neither an option nor a kind"),
        ("namespaces=\"git\",no-touch-required", 22, "\"no-touch-required\" is neither an option"),
        ("restrict", 5, "\"restrict\" is neither an option"),
        ("SSH-ED25519", 5, "\"ssh-ed25519\" is neither an option"),
        ("nämespaces=\"git\"", 5, "\"nämespaces\" is neither an option"),
        ("valid-after=\"\"", 5, "valid-after is no moment as YYYYMMDD"),
        ("namespaces=\"ü\",valid-before=\"now\"", 20, "valid-before is no moment as YYYYMMDD"),
        ("valid-after=\"20260101\",valid-before=\"20260101\"", 5, "is not after valid-after"),
        ("valid-before=\"20250101\",valid-after=\"20260101\"", 5, "is not after valid-after"),
    ] {
        refused(format!("ops {options} {key}"), &format!("1:{column}"), sentence);
    }
    let kinds = "valid-after and valid-before, kinds are ssh-ed25519, ecdsa-sha2-nistp256,";
    refused(format!("ops x {key}"), "1:5", kinds);
    refused(
        format!("ops namespaces=\"git {key}"),
        "1:15",
        "the value of namespaces is never closed",
    );
    refused(format!("ops namespaces=\"git\\\" {key}"), "1:15", "the value of namespaces is never");
}

#[test]
fn certificates_are_refused_with_a_hint() {
    let key = key();
    let sentence =
        "cert-authority is not supported: certificates do not sign here\nhint: list the keys";
    for options in ["cert-authority", "CERT-Authority", "cert-authority,namespaces=\"git\""] {
        refused(format!("*@example.com {options} {key}"), "1:15", sentence);
    }
    refused(format!("* namespaces=\"git\",cert-authority {key}"), "1:20", sentence);
}

#[test]
fn long_words_are_cut_in_the_sentence() {
    let long = "x\u{7}".repeat(100_000).replace('\u{7}', "\u{200f}");
    let fault = fault(format!("ops {long} {}", key()));
    assert!(fault.len() < 900, "{} bytes: {fault}", fault.len());
    let fault = self::fault(format!("ops ssh-{long} {}", key()));
    assert!(fault.len() < 900, "{} bytes: {fault}", fault.len());
}

#[test]
fn huge_lines_are_read_like_others() {
    let names = vec!["ops@example.com"; 100_000].join(",");
    let comment = "x".repeat(1_000_000);
    let line = line(&format!("{names} {} {comment}", key()));
    assert_eq!(line.principals, names);
    let many: String = (0..10_000).map(|it| format!("ops{it} {}\n", key())).collect();
    assert_eq!(signers(&many).all().len(), 10_000);
}

#[test]
fn what_is_not_utf_8_is_refused_at_its_place() {
    let key = key();
    let file = [b"# \xc3\xbc\nops ", key.as_bytes(), b"\nab\xff ", key.as_bytes()].concat();
    refused(file, "3:3", "it is not text in UTF-8");
    refused(b"# \xfc\n", "1:3", "it is not text in UTF-8");
    refused(b"\xff\xfeo\0p\0s\0", "1:1", "it is not text in UTF-8");
    refused([b"\xc3\xbc\xff ", key.as_bytes()].concat(), "1:2", "it is not text in UTF-8");
}

#[test]
fn one_wrong_line_refuses_the_file() {
    let key = key();
    refused(format!("a {key}\nb {key}\nc restrict {key}\nd {key}\n"), "3:3", "\"restrict\"");
    let fault = AllowedSigners::parse(b"\nops", &TimeZone::UTC).unwrap_err();
    assert_eq!(fault.to_string(), "line 2, column 4: the key is missing");
}

#[test]
fn moments_are_in_utc_or_in_the_zone_of_the_machine() {
    for (text, moment) in [
        ("20260701Z", "2026-07-01T00:00:00Z"),
        ("20260701z", "2026-07-01T00:00:00Z"),
        ("202607011530UTC", "2026-07-01T15:30:00Z"),
        ("20260701153045uTc", "2026-07-01T15:30:45Z"),
        ("19700101000001Z", "1970-01-01T00:00:01Z"),
        ("99991231Z", "9999-12-31T00:00:00Z"),
        ("99991231", "9999-12-30T23:00:00Z"),
        ("20240229Z", "2024-02-29T00:00:00Z"),
        // Winter and summer.
        ("20260101", "2025-12-31T23:00:00Z"),
        ("20260701", "2026-06-30T22:00:00Z"),
        ("202607011530", "2026-07-01T13:30:00Z"),
        // The hour that is left out, and the hour that comes twice.
        ("202603290230", "2026-03-29T01:30:00Z"),
        ("202603290159", "2026-03-29T00:59:00Z"),
        ("202603290300", "2026-03-29T01:00:00Z"),
        ("202610250230", "2026-10-25T00:30:00Z"),
        ("202610250300", "2026-10-25T02:00:00Z"),
    ] {
        assert_eq!(moment_of(text), Some(at(moment)), "{text}");
    }
}

#[test]
fn what_is_no_moment_is_refused() {
    for text in [
        "",
        "Z",
        "UTC",
        "2026",
        "2026070",
        "202607011",
        "2026070115",
        "2026070115304",
        "202607011530450",
        "2026-07-01",
        "20260701T1530",
        "20261301",
        "20260001",
        "20260100",
        "20260230",
        "20250229Z",
        "202607012400",
        "202607012360",
        "20260701235960",
        "20260701 ",
        " 20260701",
        "20260701ZZ",
        "20260701CET",
        "20260701+02",
        "+2026701",
        "-2026701",
        "00000101",
        "19690101Z",
        "19700101Z",
        "１２３４５６７８",
        "2026070\u{661}",
    ] {
        assert_eq!(moment_of(text), None, "{text:?}");
    }
}

#[test]
fn namespaces_are_patterns() {
    for (patterns, is_for_git) in [
        ("git", true),
        ("file,git", true),
        ("*", true),
        ("**", true),
        ("g*", true),
        ("*t", true),
        ("*i*", true),
        ("g?t", true),
        ("???", true),
        ("g*i***t", true),
        ("*,!file", true),
        ("!file,*", true),
        ("git,!", true),
        ("git,!!git", true),
        ("git,", true),
        ("", false),
        (",", false),
        ("file", false),
        ("GIT", false),
        (" git", false),
        ("git ", false),
        ("gi", false),
        ("gitx", false),
        ("??", false),
        ("????", false),
        ("g?", false),
        ("!file", false),
        ("!git", false),
        ("git,!git", false),
        ("!g*,git", false),
        ("git,!*", false),
        ("*,!?it", false),
        ("!!git", false),
        // What other tools take for patterns.
        ("[g]it", false),
        ("{git,file}", false),
        ("g[!x]t", false),
        ("git,![g]it", true),
        ("\\git", false),
        ("gi\\t", false),
        ("git/", false),
        ("**/git", false),
        ("\\\"git\\\"", false),
        ("git,\\\"", true),
    ] {
        let line = line(&format!("ops namespaces=\"{patterns}\" {}", key()));
        assert_eq!(line.is_for_git(), is_for_git, "{patterns:?}");
    }
}

#[test]
fn a_key_counts_for_git_from_its_first_moment_to_its_last() {
    let key = TestKey::of(1);
    let options = "valid-after=\"20260101\",valid-before=\"20270101\"";
    let all = signers(&format!("ops {options} {}", key.text()));
    let (from, until) = (at("2026-01-01T00:00:00Z"), at("2027-01-01T00:00:00Z"));
    let second = chrono::TimeDelta::seconds(1);
    let found = |moment| all.find(&key.fingerprint(), moment).map(|it| it.line);
    assert_eq!(found(from - second), Err(SignerFault::NotYetValid(from)));
    assert_eq!((found(from), found(until)), (Ok(1), Ok(1)));
    assert_eq!(found(until + second), Err(SignerFault::Expired(until)));
    assert_eq!(all.find(&TestKey::of(2).fingerprint(), from).unwrap_err(), SignerFault::Unlisted);
}

#[test]
fn any_line_of_a_key_suffices() {
    let key = TestKey::of(1);
    let text = key.text();
    let all = signers(&format!(
        "files namespaces=\"file\" {text}\n\
         old valid-before=\"20260101\" {text}\n\
         new valid-after=\"20270101\" {text}\n\
         other {}\n",
        TestKey::of(2).text()
    ));
    let found =
        |moment| all.find(&key.fingerprint(), at(moment)).map(|signer| signer.principals.as_str());
    assert_eq!(found("2025-01-01T00:00:00Z"), Ok("old"));
    assert_eq!(found("2028-01-01T00:00:00Z"), Ok("new"));
    // The first reason is given.
    assert_eq!(found("2026-07-01T00:00:00Z"), Err(SignerFault::OtherNamespace));
}

#[test]
fn a_signer_is_shown_by_name_and_fingerprint() {
    let fingerprint = TestKey::of(1).fingerprint();
    let signer = Signer { principals: "ops@example.com".to_owned(), fingerprint };
    let shown = signer.to_string();
    assert!(shown.starts_with("ops@example.com (SHA256:") && shown.ends_with(')'), "{shown}");
}
