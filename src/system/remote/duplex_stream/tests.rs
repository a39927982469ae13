//! Conversations with scripted servers.

use std::cell::RefCell;

use super::*;

const ONE: &str = "1111111111111111111111111111111111111111";

/// A server's bytes, played back in pieces; `said` collects the client's bytes.
struct Tape<'a> {
    plays: Box<dyn Iterator<Item = Vec<u8>>>,
    said: &'a RefCell<Vec<u8>>,
}

impl DuplexStream for Tape<'_> {
    fn read(&mut self, into: &mut [u8], _: Duration) -> io::Result<usize> {
        let piece = self.plays.next().unwrap_or_default();
        into[..piece.len()].copy_from_slice(&piece);
        Ok(piece.len())
    }

    fn write(&mut self, bytes: &[u8], _: Duration) -> io::Result<usize> {
        self.said.borrow_mut().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn is_open(&self) -> bool {
        true
    }

    fn leave(self) {}

    fn reason(self, over: Error) -> Error {
        over
    }
}

fn lines(lines: &[&str]) -> Vec<u8> {
    let packets = lines.iter().map(|line| format!("{:04x}{line}\n", line.len() + 5));
    packets.chain(["0000".to_owned()]).collect::<String>().into_bytes()
}

/// Polls a server that answers its connections with `tapes`, in pieces of `size`; also returns all bytes
/// that the client sent.
fn asked(
    tapes: &[Vec<u8>],
    size: usize,
    known: Option<&RemoteHints>,
) -> (Result<PollAnswer>, String) {
    let said = RefCell::new(Vec::new());
    let next = RefCell::new(tapes.iter());
    let connect = || {
        let tape = next.borrow_mut().next().cloned().context("one connection too many")?;
        let pieces: Vec<Vec<u8>> = tape.chunks(size).map(<[u8]>::to_vec).collect();
        let line = Tape { plays: Box::new(pieces.into_iter()), said: &said };
        let limit = Duration::from_secs(60);
        Ok(GitConversation::new(line, "host".to_owned(), limit, since_boot() + limit))
    };
    let wanted = PollScope::WithHead("main".parse().unwrap());
    let answer = poll(&wanted, known, &connect);
    (answer, String::from_utf8_lossy(&said.borrow()).into_owned())
}

fn new_server() -> Vec<u8> {
    let refs =
        [format!("{ONE} HEAD symref-target:refs/heads/main"), format!("{ONE} refs/heads/main")];
    let greeting = lines(&["version 2", "ls-refs", "fetch=shallow", "object-format=sha1"]);
    [greeting, lines(&refs.each_ref().map(String::as_str))].concat()
}

fn old_server() -> Vec<u8> {
    let first = format!("{ONE} HEAD\0side-band-64k symref=HEAD:refs/heads/main");
    lines(&[&first, &format!("{ONE} refs/heads/main")])
}

fn way(dialect: WireDialect) -> RemoteHints {
    RemoteHints { dialect, ..RemoteHints::default() }
}

#[test]
fn an_answer_is_the_same_whole_and_byte_by_byte() {
    for (tape, dialect) in [(new_server(), WireDialect::Direct), (old_server(), WireDialect::Old)] {
        for size in [1, 7, 10_000] {
            let (answer, said) = asked(std::slice::from_ref(&tape), size, None);
            let answer = answer.unwrap();
            assert_eq!(answer.tip.map(|tip| tip.to_string()).as_deref(), Some(ONE));
            assert_eq!(answer.way.dialect, dialect);
            assert_eq!(answer.way.bytes, (said.len() + tape.len()) as u64);
            assert!(said.ends_with("ref-prefix HEAD\n00000000"), "asked at once, and no more");
        }
    }
}

#[test]
fn a_server_known_to_be_old_is_not_asked_what_it_cannot_understand() {
    let (answer, said) = asked(&[old_server()], 100, Some(&way(WireDialect::Old)));
    assert_eq!((answer.unwrap().way.dialect, said.as_str()), (WireDialect::Old, "0000"));
    let (answer, said) = asked(&[new_server(), new_server()], 100, Some(&way(WireDialect::Old)));
    assert_eq!(answer.unwrap().way.dialect, WireDialect::Direct, "it was made newer");
    assert!(said.starts_with("0014command=ls-refs\n"));
}

#[test]
fn a_server_with_another_hash_is_asked_once_more() {
    let other = [
        lines(&["version 2", "ls-refs", "fetch", "object-format=sha256"]),
        lines(&[&format!("{} refs/heads/main", "a".repeat(64))]),
    ];
    let tapes = [other[0].clone(), other.concat()];
    let (answer, said) = asked(&tapes, 100, None);
    assert_eq!(answer.unwrap().way.format, ObjectFormat::Sha256);
    assert!(said.contains("object-format=sha256"));
    let (answer, _) = asked(&[tapes[0].clone(), new_server()], 100, None);
    assert!(format!("{:#}", answer.unwrap_err()).contains("another hash each time"));
}

#[test]
fn what_is_no_answer_is_reported() {
    let refused = b"0014ERR not exported".to_vec();
    for (tape, words) in [
        (refused, "it says: not exported"),
        (b"HTTP/1.1 400 Bad Request".to_vec(), "does not speak git's protocol"),
        (Vec::new(), "host ends the conversation without an answer"),
        (new_server()[..150].to_vec(), "host ends the conversation without an answer"),
    ] {
        let (answer, _) = asked(&[tape], 10, None);
        let message = format!("{:#}", answer.unwrap_err());
        assert!(message.contains(words), "{message}");
    }
}

#[test]
fn a_server_that_lists_without_end_is_stopped() {
    let said = RefCell::new(Vec::new());
    let connect = |begin: Vec<u8>| {
        let line = format!("{ONE} refs/heads/main{}", "x".repeat(4000));
        let more = format!("{:04x}{line}\n", line.len() + 5).repeat(15).into_bytes();
        let plays = std::iter::once(begin).chain(std::iter::repeat(more));
        let line = Tape { plays: Box::new(plays), said: &said };
        let limit = Duration::from_secs(600);
        GitConversation::new(line, "host".to_owned(), limit, since_boot() + limit)
    };
    let wanted = PollScope::Branch("main".parse().unwrap());
    let greetings = [lines(&["version 2", "ls-refs", "fetch"]), b"000eversion 1\n".to_vec()];
    for greeting in greetings {
        let message = poll(&wanted, None, &|| Ok(connect(greeting.clone()))).unwrap_err();
        assert!(message.to_string().contains("bytes"), "{message}");
    }
}
