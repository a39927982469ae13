//! Answers of servers, byte by byte as in the documentation of git's protocol.

use super::*;
use crate::domain::git::RefName;
use crate::domain::remote::{PollScope, RemoteHead};

const ONE: &str = "1111111111111111111111111111111111111111";
const TWO: &str = "2222222222222222222222222222222222222222";

fn commit(text: &str) -> Commit {
    text.parse().unwrap()
}

fn branch(name: &str) -> RefName {
    name.parse().unwrap()
}

fn pkt(data: impl AsRef<[u8]>) -> Vec<u8> {
    let data = data.as_ref();
    [format!("{:04x}", data.len() + 4).as_bytes(), data].concat()
}

fn message(lines: &[&str]) -> Vec<u8> {
    lines.iter().flat_map(|line| pkt(format!("{line}\n"))).chain(*b"0000").collect()
}

#[test]
fn a_packet_is_split_off_when_it_is_whole_and_not_before() {
    assert_eq!(next_packet(b"0009a\nbcd0000"), Ok(Some((Packet::Data(b"a\nbcd"), 9))));
    assert_eq!(next_packet(b"0004"), Ok(Some((Packet::Data(b""), 4))));
    assert_eq!(next_packet(b"00000009a"), Ok(Some((Packet::Flush, 4))));
    assert_eq!(next_packet(b"0001"), Ok(Some((Packet::Delimiter, 4))));
    assert_eq!(next_packet(b"0002"), Ok(Some((Packet::ResponseEnd, 4))));
    for short in [&b""[..], b"0", b"000", b"0009", b"0009a\nbc"] {
        assert_eq!(next_packet(short), Ok(None));
    }
    assert_eq!(next_packet(b"0003"), Err(PacketError::Length(3)));
    assert_eq!(next_packet(b"fff1"), Err(PacketError::Length(65_521)));
    assert_eq!(next_packet(b"<htm"), Err(PacketError::NoLength(*b"<htm")));
    assert_eq!(next_packet(b"+001"), Err(PacketError::NoLength(*b"+001")));
}

#[test]
fn the_question_for_refs_is_what_git_would_send() {
    let expected = [
        pkt("command=ls-refs\n"),
        b"0001".to_vec(),
        pkt("symrefs\n"),
        pkt("ref-prefix refs/heads/main\n"),
        b"0000".to_vec(),
    ]
    .concat();
    let main = RefQuery::of(&PollScope::Branch(branch("main")));
    assert_eq!(ls_refs(ObjectFormat::Sha1, &main), expected);
    let sha256 = ls_refs(ObjectFormat::Sha256, &main);
    assert!(sha256.windows(20).any(|bytes| bytes == b"object-format=sha256"));
}

#[test]
fn a_listing_gives_its_refs_and_the_branch_of_head() {
    let lines = [
        format!("{ONE} HEAD symref-target:refs/heads/main"),
        format!("{ONE} refs/heads/main"),
        format!("{TWO} refs/heads/main2 peeled:{ONE}"),
    ];
    let listing = message(&lines.each_ref().map(String::as_str));
    let refs = read_ls_refs(ObjectFormat::Sha1, &listing).unwrap();
    assert_eq!(refs[0].target.as_deref(), Some("refs/heads/main"));
    assert_eq!((refs[2].name.as_str(), refs[2].id), ("refs/heads/main2", commit(TWO)));
    assert_eq!(read_ls_refs(ObjectFormat::Sha1, b"0000"), Ok(vec![]));
    let odd = [b"a".repeat(40).as_slice(), b" refs/heads/caf\xe9\n"].concat();
    let refs = read_ls_refs(ObjectFormat::Sha1, &[pkt(odd), b"0000".to_vec()].concat()).unwrap();
    assert_eq!(refs[0].name, "refs/heads/caf\\xE9", "no text, and told of all the same");
}

#[test]
fn what_is_no_listing_is_distinguished() {
    let read = |bytes: &[u8]| read_ls_refs(ObjectFormat::Sha1, bytes).unwrap_err();
    assert_eq!(read(b""), ProtocolError::Empty);
    let words = read(&pkt("ERR access denied\u{1b}[2J\n"));
    assert_eq!(words, ProtocolError::ServerMessage("access denied\\u{1b}[2J".to_owned()));
    let trailing = [message(&[]), b"0000".to_vec()].concat();
    let sha256 = message(&[&format!("{} refs/heads/main", "a".repeat(64))]);
    let nameless = message(&[ONE]);
    let torn = &message(&[&format!("{ONE} refs/heads/main")])[..30];
    for bytes in [trailing.as_slice(), &sha256, &nameless, torn, b"<html>", b"0001"] {
        assert!(matches!(read(bytes), ProtocolError::NotThis(_)), "{}", bytes.escape_ascii());
    }
}

#[test]
fn only_the_exact_name_is_the_branch() {
    let listed = |name: &str, id: &str, target: Option<&str>| AdvertisedRef {
        name: name.to_owned(),
        id: commit(id),
        target: target.map(str::to_owned),
        peeled: None,
    };
    let main2 = [listed("refs/heads/main2", ONE, None)];
    let wanted = PollScope::Branch(branch("main"));
    assert_eq!(tip(&wanted, &main2), (Some(branch("main")), None));

    let head = [listed("HEAD", ONE, Some("refs/heads/trunk"))];
    assert_eq!(tip(&PollScope::Default, &head), (Some(branch("trunk")), Some(commit(ONE))));
    let renamed = answer(&PollScope::WithHead(branch("main")), &head);
    assert_eq!((renamed.branch, renamed.tip), (Some(branch("main")), None));
    let trunk = RemoteHead { branch: branch("trunk"), tip: Some(commit(ONE)) };
    assert_eq!(renamed.head, Some(trunk));
    assert_eq!(tip(&PollScope::Default, &[]), (None, None));
}

/// The branch and the tip in an answer.
fn tip(wanted: &PollScope, refs: &[AdvertisedRef]) -> (Option<RefName>, Option<Commit>) {
    let RefsAnswer { branch, tip, .. } = answer(wanted, refs);
    (branch, tip)
}

#[test]
fn a_detached_head_of_a_server_that_would_name_its_target_is_no_branch() {
    let old = format!("{ONE} HEAD\0side-band-64k object-format=sha1");
    let main = format!("{ONE} refs/heads/main");
    let old =
        read_advertisement(RefQuery::of(&PollScope::Default), &message(&[&old, &main])).unwrap();
    assert_eq!(tip(&PollScope::Default, &old.refs), (None, None));
    let head = format!("{ONE} HEAD");
    let new = read_ls_refs(ObjectFormat::Sha1, &message(&[&head, &main])).unwrap();
    assert_eq!(tip(&PollScope::Default, &new), (None, None));
}

#[test]
fn the_branch_of_an_old_servers_head_is_guessed_as_git_does() {
    let listed = |name: &str, id: &str| AdvertisedRef {
        name: name.to_owned(),
        id: commit(id),
        target: None,
        peeled: None,
    };
    let refs = [
        listed("HEAD", ONE),
        listed("refs/heads/a", ONE),
        listed("refs/heads/main", TWO),
        listed("refs/heads/master", ONE),
    ];
    let master = (Some(branch("master")), Some(commit(ONE)));
    assert_eq!(tip(&PollScope::Default, &refs), master);
    assert_eq!(tip(&PollScope::Default, &refs[..3]), (Some(branch("a")), Some(commit(ONE))));
    assert_eq!(tip(&PollScope::Default, &refs[..1]), (None, None));
}

#[test]
fn version_2_says_what_it_can_do() {
    let service = [pkt("# service=git-upload-pack\n"), b"0000".to_vec()].concat();
    let lines = message(&[
        "version 2",
        "agent=git/2.47",
        "ls-refs=unborn",
        "fetch=shallow",
        "object-format=sha256",
    ]);
    for bytes in [lines.clone(), [service, lines].concat()] {
        let said = read_advertisement(RefQuery::default(), &bytes).unwrap();
        assert_eq!((said.version, said.format), (ProtocolVersion::V2, ObjectFormat::Sha256));
        assert!(said.capabilities.has("fetch") && !said.capabilities.has("fet"));
    }
    let refused =
        |lines: &[&str]| read_advertisement(RefQuery::default(), &message(lines)).unwrap_err();
    let no_fetch = refused(&["version 2", "ls-refs"]);
    assert_eq!(no_fetch.to_string(), "it does not offer fetch");
    let odd = refused(&["version 2", "ls-refs", "fetch", "object-format=md5"]);
    assert_eq!(odd.to_string(), "it names objects by \"md5\", not by a hash known here");
    assert!(read_advertisement(RefQuery::default(), b"").is_err());
}

#[test]
fn version_0_lists_everything_and_what_was_asked_for_is_kept() {
    let lines = [
        format!("{ONE} HEAD\0side-band-64k symref=HEAD:refs/heads/main agent=git/1.9"),
        format!("{TWO} refs/heads/a"),
        format!("{ONE} refs/heads/main"),
        format!("{ONE} refs/heads/main2"),
        format!("{TWO} refs/tags/v1"),
        format!("{ONE} refs/tags/v1^{{}}"),
    ];
    let bytes = message(&lines.each_ref().map(String::as_str));
    let old = [pkt("version 1\n"), bytes.clone()].concat();
    for bytes in [bytes, old] {
        let names = |prefixes: &[&str]| {
            let names = prefixes.iter().map(|&prefix| prefix.to_owned()).collect();
            let query = RefQuery { names, ..RefQuery::default() };
            let said = read_advertisement(query, &bytes).unwrap();
            assert!(said.capabilities.has("side-band-64k") && said.version == ProtocolVersion::V0);
            said.refs.into_iter().map(|listed| listed.name).collect::<Vec<_>>()
        };
        assert_eq!(names(&["refs/heads/a"]), ["refs/heads/a"]);
        assert_eq!(names(&["refs/tags/"]), ["refs/tags/v1", "refs/tags/v1^{}"]);
        assert_eq!(names(&["HEAD"]), ["HEAD", "refs/heads/main"]);
    }
    let refs =
        read_advertisement(RefQuery::of(&PollScope::Default), &message(&[&lines[0]])).unwrap().refs;
    assert_eq!(tip(&PollScope::Default, &refs), (Some(branch("main")), Some(commit(ONE))));
}

#[test]
fn an_empty_repository_of_version_0_has_no_refs() {
    let zeros = "0".repeat(64);
    let line = format!("{zeros} capabilities^{{}}\0side-band-64k object-format=sha256");
    let said = read_advertisement(RefQuery::of(&PollScope::Default), &message(&[&line])).unwrap();
    assert_eq!((said.format, said.refs.len()), (ObjectFormat::Sha256, 0));
    assert!(read_advertisement(RefQuery::default(), b"0000").unwrap().refs.is_empty());
}

#[test]
fn a_fetch_is_asked_for_in_one_message() {
    let (want, have) = ([commit(ONE)], [commit(TWO)]);
    let request = FetchRequest {
        format: ObjectFormat::Sha1,
        wants: &want,
        haves: &have,
        shallow: &have,
        depth: 3,
    };
    let text = String::from_utf8(request.v2()).unwrap();
    let order =
        ["command=fetch", "0001", "thin-pack", "shallow 2", "deepen 3", "want 1", "have 2", "done"];
    let places: Vec<_> = order.iter().map(|word| text.find(word).unwrap()).collect();
    assert!(places.is_sorted() && text.ends_with("0009done\n0000"), "{text}");

    let v0 = |words: &str| String::from_utf8(request.v0(&offered(words))).unwrap();
    let text = v0("side-band-64k thin-pack multi_ack shallow agent=git/2");
    let first = format!("want {ONE} multi_ack side-band-64k thin-pack {AGENT}\n");
    assert!(text[4..].starts_with(&first) && text.ends_with("0009done\n"), "{text}");
    assert!(text.contains("deepen 3\n00000032have 2"), "{text}");

    // The best of what is offered, and nothing that is not.
    for (words, asked) in [
        (
            "multi_ack multi_ack_detailed side-band side-band-64k",
            " multi_ack_detailed side-band-64k",
        ),
        ("side-band no-done", " side-band"),
        ("include-tag", ""),
    ] {
        let text = v0(words);
        assert!(text[4..].starts_with(&format!("want {ONE}{asked}\n")), "{text}");
        assert!(!text.contains("deepen"), "{text}");
    }
}

/// The capabilities of a server of version 0 that offers `words`.
fn offered(words: &str) -> Capabilities {
    let line = format!("{ONE} HEAD\0{words}");
    read_advertisement(RefQuery::default(), &message(&[&line])).unwrap().capabilities
}

/// The parsed parts of `bytes`, given in pieces of `size`.
fn parts(
    mut answers: FetchParser,
    bytes: &[u8],
    size: usize,
) -> Result<(String, Vec<u8>), ProtocolError> {
    let (mut edges, mut pack) = (String::new(), Vec::new());
    for piece in bytes.chunks(size) {
        answers.feed(piece, &mut |part| {
            match part {
                FetchPart::Shallow(id) => edges += &format!("-{}", id.short()),
                FetchPart::Unshallow(id) => edges += &format!("+{}", id.short()),
                FetchPart::Pack(bytes) => pack.extend_from_slice(bytes),
            }
            Ok::<_, ProtocolError>(())
        })?;
    }
    assert!(answers.is_complete() || answers.ends_with_stream());
    Ok((edges, pack))
}

fn new_answer() -> Vec<u8> {
    let edges = [format!("shallow {ONE}\n"), format!("unshallow {TWO}\n")];
    [
        pkt("shallow-info\n"),
        pkt(&edges[0]),
        pkt(&edges[1]),
        b"0001".to_vec(),
        pkt("packfile\n"),
        pkt("\u{1}PACK"),
        pkt("\u{2}Counting\n"),
        pkt("\u{1} and more"),
        b"0000".to_vec(),
    ]
    .concat()
}

fn old_answer() -> Vec<u8> {
    let acknowledged = format!("ACK {ONE}\n");
    let pack = [pkt("\u{1}PACK"), b"0000".to_vec()].concat();
    let edge = pkt(format!("shallow {ONE}\n"));
    [edge, b"0000".to_vec(), pkt(acknowledged), pkt("NAK\n"), pack].concat()
}

#[test]
fn a_fetch_is_the_same_whole_and_byte_by_byte() {
    for size in [1, 2, 3, 7, 1000] {
        let (edges, pack) = parts(FetchParser::v2(), &new_answer(), size).unwrap();
        assert_eq!((edges.as_str(), pack.as_slice()), ("-1111111+2222222", &b"PACK and more"[..]));
        let old = FetchParser::v0(&offered("side-band shallow"), 3);
        let (edges, pack) = parts(old, &old_answer(), size).unwrap();
        assert_eq!((edges.as_str(), pack.as_slice()), ("-1111111", &b"PACK"[..]));
        let common = ["common", "ready"].map(|word| pkt(format!("ACK {ONE} {word}\n")));
        let bare = [&common.concat(), &pkt(format!("ACK {ONE}\n")), &b"PACK0000"[..]].concat();
        let old = FetchParser::v0(&offered("multi_ack_detailed"), 3);
        assert_eq!(parts(old, &bare, size).unwrap().1, b"PACK0000");
    }
}

#[test]
fn a_fetch_that_is_refused_says_so_in_the_servers_words() {
    let failed = |answers, bytes: &[u8]| parts(answers, bytes, 5).unwrap_err();
    let gone = failed(FetchParser::v2(), &pkt(format!("ERR upload-pack: not our ref {ONE}")));
    assert!(gone.is_moved(), "{gone}");
    let broken = [pkt("packfile\n"), pkt("\u{3}disk full\n")].concat();
    assert_eq!(failed(FetchParser::v2(), &broken).to_string(), "it says: disk full");
    let long = pkt(format!("ERR {}", "x".repeat(5000)));
    let old = || FetchParser::v0(&offered("side-band-64k"), 0);
    assert!(failed(old(), &long).to_string().len() < 400);
    let jgit = failed(FetchParser::v2(), &pkt(format!("ERR want {ONE} not valid")));
    let azure = format!("TF401035: The object '{ONE}' does not exist.");
    let [progress, error] = ["\u{2}", "\u{3}"].map(|band| pkt(format!("{band}{azure}")));
    for moved in [jgit, failed(old(), &progress), failed(old(), &error)] {
        assert!(moved.is_moved(), "{moved}");
    }
}

#[test]
fn an_answer_without_a_pack_or_with_more_is_none() {
    let trailing = [new_answer(), b"0".to_vec()].concat();
    let band = [pkt("packfile\n"), pkt("\u{4}x")].concat();
    let wrong = [trailing, band, b"0000".to_vec(), pkt("hello\n"), pkt("shallow x")];
    for bytes in wrong {
        let outcome = parts(FetchParser::v2(), &bytes, bytes.len());
        assert!(matches!(outcome, Err(ProtocolError::NotThis(_))), "{}", bytes.escape_ascii());
    }
}
