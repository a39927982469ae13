//! Commits and tags as git makes them, and those that two readers would read in two ways.

use super::*;
use crate::domain::signature::tests::at;

const TREE: &str = "4b825dc642cb6eb9a060e54bf8d69288fbee4904";
const PARENT: &str = "1111111111111111111111111111111111111111";
const OTHER: &str = "2222222222222222222222222222222222222222";
const PERSON: &str = "Pat Pusher <pat@example.org> 1763802000 +0100";
const SIGNATURE: &str = "-----BEGIN SSH SIGNATURE-----\nAAAA\nBBBB\n-----END SSH SIGNATURE-----";

/// A commit with these lines before the author, and those after the committer.
fn written(before: &str, after: &str) -> String {
    format!("tree {TREE}\n{before}author {PERSON}\ncommitter {PERSON}\n{after}\nmessage\n")
}

/// The header `name` with [`SIGNATURE`].
fn header(name: &str) -> String {
    format!("{name} {}\n", SIGNATURE.replace('\n', "\n "))
}

fn read(text: &str) -> Option<CommitObject> {
    commit(text.as_bytes(), ObjectFormat::Sha1)
}

fn id(text: &str) -> Commit {
    text.parse().unwrap()
}

#[test]
fn a_commit_without_a_signature_is_its_own_payload() {
    let text = written("", "");
    let object = read(&text).unwrap();
    assert_eq!(object.parents, []);
    assert_eq!(object.committed_at, at("2025-11-22T09:00:00Z"));
    assert_eq!(object.signed.payload, text.as_bytes());
    assert_eq!(object.signed.signature, None);
}

#[test]
fn a_signature_is_taken_out_wherever_it_is() {
    let gpgsig = header("gpgsig");
    let mergetag = format!("mergetag object {OTHER}\n type commit\n tag v1\n \n said\n");
    let before = format!("parent {PARENT}\nparent {OTHER}\n");
    for (start, end) in [
        ("", ""),
        ("encoding ISO-8859-1\n", ""),
        ("", "encoding ISO-8859-1\n"),
        (mergetag.as_str(), ""),
        ("", mergetag.as_str()),
        ("HG:extra one\n two\n", "HG:extra three\n"),
    ] {
        let object = read(&written(&before, &format!("{start}{gpgsig}{end}"))).unwrap();
        assert_eq!(object.parents, [id(PARENT), id(OTHER)]);
        let payload = written(&before, &format!("{start}{end}"));
        assert_eq!(String::from_utf8(object.signed.payload).unwrap(), payload);
        let signature = String::from_utf8(object.signed.signature.unwrap()).unwrap();
        assert_eq!(signature, format!("{SIGNATURE}\n"));
    }
}

#[test]
fn an_empty_line_of_a_signature_is_kept() {
    let text = written("", "gpgsig -----BEGIN PGP SIGNATURE-----\n \n AAAA\n -----END\n \n");
    let signature = read(&text).unwrap().signed.signature.unwrap();
    assert_eq!(signature, b"-----BEGIN PGP SIGNATURE-----\n\nAAAA\n-----END\n\n");
}

#[test]
fn the_signature_is_that_of_the_object_format() {
    let (sha1, sha256) = (header("gpgsig"), header("gpgsig-sha256"));
    let sha256 = sha256.replace("AAAA", "CCCC");
    let as_sha256 =
        |text: &str| text.replace(TREE, &"5".repeat(64)).replace(PARENT, &"6".repeat(64));
    let parent = format!("parent {PARENT}\n");
    for both in [format!("{sha1}{sha256}"), format!("{sha256}{sha1}")] {
        let text = written(&parent, &both);
        let plain = written(&parent, "");
        let object = read(&text).unwrap();
        assert_eq!(object.signed.payload, plain.as_bytes());
        assert!(object.signed.signature.unwrap().windows(4).any(|it| it == b"AAAA"));
        let object = commit(as_sha256(&text).as_bytes(), ObjectFormat::Sha256).unwrap();
        assert_eq!(object.signed.payload, as_sha256(&plain).as_bytes());
        assert!(object.signed.signature.unwrap().windows(4).any(|it| it == b"CCCC"));
        // An id of the other format is none.
        assert_eq!(commit(text.as_bytes(), ObjectFormat::Sha256), None);
        assert_eq!(read(&as_sha256(&text)), None);
    }
    // One of the other format alone is no signature, and not part of what is signed.
    let object = read(&written("", &sha256)).unwrap();
    assert_eq!((object.signed.signature, object.signed.payload), (None, written("", "").into()));
    let object = commit(as_sha256(&written("", &sha1)).as_bytes(), ObjectFormat::Sha256).unwrap();
    assert_eq!(object.signed.signature, None);
}

#[test]
fn a_signature_in_the_message_or_in_a_continued_line_is_none() {
    let gpgsig = header("gpgsig");
    for text in [
        format!("{}{gpgsig}", written("", "")),
        format!("{}{SIGNATURE}\n", written("", "")),
        written(
            "",
            &format!("mergetag object {OTHER}\n {}\n", gpgsig.trim_end().replace('\n', "\n ")),
        ),
    ] {
        let object = read(&text).unwrap();
        assert_eq!((object.signed.signature, object.signed.payload), (None, text.into_bytes()));
    }
}

#[test]
fn messages_are_any_bytes() {
    for message in [&b""[..], b"\n", b"\xff\xfe\0", b"tree x\nparent y\n\ngpgsig z\n", b"no end"] {
        let text = [written("", &header("gpgsig")).as_bytes(), message].concat();
        let payload = [written("", "").as_bytes(), message].concat();
        assert_eq!(commit(&text, ObjectFormat::Sha1).unwrap().signed.payload, payload);
    }
    // None at all, as `git hash-object` makes it.
    let headers = written("", "");
    let headers = headers.strip_suffix("\nmessage\n").unwrap();
    assert_eq!(read(headers).unwrap().signed.payload, headers.as_bytes());
}

#[test]
fn dates_are_seconds_in_any_zone() {
    for (person, moment) in [
        ("A <a> 0 +0000", "1970-01-01T00:00:00Z"),
        ("A <a> 1763802000 -1200", "2025-11-22T09:00:00Z"),
        ("A <a> 1763802000", "2025-11-22T09:00:00Z"),
        ("A <a>  1763802000 +0000", "2025-11-22T09:00:00Z"),
        ("<> 1763802000 +0000", "2025-11-22T09:00:00Z"),
        ("A <b> 1 <a> 1763802000 +0000", "2025-11-22T09:00:00Z"),
        ("A <a> 7258118400 +0000", "2200-01-01T00:00:00Z"),
    ] {
        let text = format!("tree {TREE}\nauthor x\ncommitter {person}\n\n");
        assert_eq!(read(&text).unwrap().committed_at, at(moment), "{person}");
    }
    for person in [
        "A <a>",
        "A <a> ",
        "A a 1763802000 +0000",
        "A <a> x +0000",
        "A <a> 1763802000x +0000",
        "A <a> 99999999999999999 +0000",
        "A <a> 999999999999999999999999 +0000",
        "A <a> 17\x0063802000 +0000",
    ] {
        let text = format!("tree {TREE}\nauthor x\ncommitter {person}\n\n");
        assert_eq!(read(&text), None, "{person:?}");
    }
}

#[test]
fn what_git_does_not_make_is_no_commit() {
    let gpgsig = header("gpgsig");
    let parent = format!("parent {PARENT}\n");
    let right = written(&parent, &gpgsig);
    assert!(read(&right).is_some());
    for wrong in [
        String::new(),
        "\n".to_owned(),
        format!("\n{right}"),
        format!(" {right}"),
        // Other orders, and what is missing.
        right.replacen(&format!("tree {TREE}\n"), "", 1),
        right.replacen(&format!("author {PERSON}\n"), "", 1),
        right.replacen(&format!("committer {PERSON}\n"), "", 1),
        format!("{parent}{right}"),
        format!("author {PERSON}\n{right}"),
        format!("{gpgsig}{}", right.replacen("tree", "parent", 1)),
        // A second one later, which another reader takes.
        written(&parent, &parent),
        written(&parent, &format!("{gpgsig}{parent}")),
        written(&parent, &format!("tree {TREE}\n")),
        written(&parent, &format!("author {PERSON}\n")),
        written(&parent, &format!("encoding x\ncommitter {PERSON}\n")),
        // Ids that are none.
        right.replacen(PARENT, "1111", 1),
        right.replacen(PARENT, &format!("{PARENT} "), 1),
        right.replacen(PARENT, &format!(" {PARENT}"), 1),
        right.replacen(PARENT, &"z".repeat(40), 1),
        right.replacen(TREE, "", 1),
        right.replacen(TREE, &format!("{TREE}\r"), 1),
        // Lines that are no headers.
        written("", "nothing\n"),
        written("", "gpgsig\n"),
        format!("tree {TREE}\nauthor {PERSON}\ncommitter {PERSON}"),
        // Signatures that are one for some.
        written("", &format!("{gpgsig}{gpgsig}")),
        written("", &format!("{gpgsig}encoding x\n{gpgsig}")),
        written("", &[header("gpgsig-sha256"), header("gpgsig-sha256")].concat()),
        written("", &header("gpgsig-sha512")),
        written("", &header("gpgsigs")),
        written("", &format!("{gpgsig}{}", header("gpgsig2"))),
        written("", "gpgsig-sha256\n"),
    ] {
        assert_eq!(read(&wrong), None, "{wrong}");
    }
}

#[test]
fn a_signature_before_the_tree_is_only_taken_out() {
    // Whether git makes it or not: what remains is what all readers see.
    let text = written("", "");
    let object = read(&format!("{}{text}", header("gpgsig"))).unwrap();
    assert_eq!(object.signed.payload, text.as_bytes());
}

/// A tag of the commit [`PARENT`] with these lines after its name, and this message.
fn tagged(after: &str, message: &str) -> String {
    format!("object {PARENT}\ntype commit\ntag v1.2\n{after}\n{message}")
}

fn read_tag(text: &str) -> Option<TagObject> {
    tag(text.as_bytes(), ObjectFormat::Sha1)
}

#[test]
fn the_signature_of_a_tag_is_the_end_of_its_message() {
    let tagger = format!("tagger {PERSON}\n");
    for message in ["said\n", "", "a\n\nb\n", "-----BEGIN\n", " -----BEGIN SSH SIGNATURE-----\n"] {
        let plain = tagged(&tagger, message);
        let object = read_tag(&plain).unwrap();
        assert_eq!((object.signed.signature, object.signed.payload), (None, plain.clone().into()));
        let object = read_tag(&format!("{plain}{SIGNATURE}\n")).unwrap();
        assert_eq!(object.object, PARENT.parse().unwrap());
        assert_eq!((object.kind, object.name), (b"commit".to_vec(), b"v1.2".to_vec()));
        assert_eq!(object.tagged_at, Some(at("2025-11-22T09:00:00Z")));
        assert_eq!(object.signed.payload, plain.into_bytes());
        assert_eq!(object.signed.signature.unwrap(), format!("{SIGNATURE}\n").into_bytes());
    }
}

#[test]
fn the_last_line_that_begins_a_signature_counts_in_a_tag() {
    for kind in ["PGP SIGNATURE", "PGP MESSAGE", "SIGNED MESSAGE", "SSH SIGNATURE"] {
        let first = format!("-----BEGIN {kind}-----\nAAAA\n-----END {kind}-----\n");
        let plain = tagged("", &format!("said\n{first}"));
        let object = read_tag(&format!("{plain}{SIGNATURE}\n")).unwrap();
        assert_eq!(object.signed.payload, plain.into_bytes());
        let plain = tagged("", &format!("said\n{SIGNATURE}\n"));
        let object = read_tag(&format!("{plain}{first}")).unwrap();
        assert_eq!(object.signed.payload, plain.into_bytes());
        assert_eq!(object.signed.signature.unwrap(), first.into_bytes());
    }
}

#[test]
fn a_signature_in_the_other_format_is_no_part_of_a_tag() {
    let plain = tagged("", "said\n");
    let both = tagged(&header("gpgsig-sha256"), &format!("said\n{SIGNATURE}\n"));
    let object = read_tag(&both).unwrap();
    assert_eq!(object.signed.payload, plain.into_bytes());
    assert_eq!(object.signed.signature.unwrap(), format!("{SIGNATURE}\n").into_bytes());
}

#[test]
fn a_tag_may_be_old_and_without_a_tagger() {
    let object = read_tag(&tagged("", "said\n")).unwrap();
    assert_eq!(object.tagged_at, None);
    let object = read_tag(&tagged("tagger Pat <pat>\n", "said\n")).unwrap();
    assert_eq!(object.tagged_at, None);
}

#[test]
fn what_git_does_not_make_is_no_tag() {
    let right = tagged(&format!("tagger {PERSON}\n"), "said\n");
    assert!(read_tag(&right).is_some());
    for wrong in [
        String::new(),
        right.replacen(PARENT, "1111", 1),
        right.replacen("object", "tree", 1),
        right.replacen("type commit\n", "", 1),
        right.replacen("tag v1.2\n", "", 1),
        format!("type commit\n{right}"),
        right.replacen("type commit\n", "type commit\ntype tree\n", 1),
        // A second one later, which another reader takes.
        tagged("tag v1.3\n", "said\n"),
        tagged(&format!("tagger {PERSON}\ntag v1.3\n"), "said\n"),
        tagged(&format!("tagger {PERSON}\nobject {OTHER}\n"), "said\n"),
        tagged(&format!("tagger {PERSON}\ntype tree\n"), "said\n"),
        tagged(&format!("tagger {PERSON}\ntagger {PERSON}\n"), "said\n"),
        tagged(&format!("x y\ntagger {PERSON}\n"), "said\n"),
        written("", ""),
    ] {
        assert_eq!(read_tag(&wrong), None, "{wrong}");
    }
    let sha256 = right.replace(PARENT, &"6".repeat(64));
    assert_eq!(read_tag(&sha256), None);
    assert!(tag(sha256.as_bytes(), ObjectFormat::Sha256).is_some());
}
