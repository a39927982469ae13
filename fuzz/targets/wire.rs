//! Any bytes as what a git server sends: they are read or refused, the same in pieces as whole, and
//! what is shown of them cannot move a terminal's cursor or break its line.

#![no_main]

use libfuzzer_sys::fuzz_target;
use pmpy::domain::git::{ObjectFormat, RefName};
use pmpy::domain::remote::PollScope;
use pmpy::domain::versions::TagPattern;
use pmpy::domain::wire::{
    AdvertisementParser, Capabilities, FetchParser, FetchPart, ProtocolError, RefQuery, answer,
    read_advertisement, read_ls_refs,
};

fn harmless(error: &ProtocolError) {
    let shown = error.to_string();
    assert!(!shown.contains(|c: char| c.is_control()) && shown.len() < 4000, "{shown:?}");
}

/// All that came of an answer to a fetch, which was given in pieces of `size`.
fn parts(mut answers: FetchParser, bytes: &[u8], size: usize) -> Result<Vec<u8>, ProtocolError> {
    let mut all = Vec::new();
    for piece in bytes.chunks(size) {
        answers.feed(piece, &mut |part| {
            match part {
                FetchPart::Pack(bytes) => all.extend_from_slice(bytes),
                FetchPart::Shallow(id) => all.extend_from_slice(id.0.as_bytes()),
                FetchPart::Unshallow(id) => all.extend(id.0.as_bytes().iter().rev()),
            }
            Ok::<_, ProtocolError>(())
        })?;
    }
    all.push(u8::from(answers.is_complete()));
    Ok(all)
}

fuzz_target!(|input: (u8, &[u8])| {
    let (size, bytes) = (usize::from(input.0.max(1)), input.1);
    let branch: RefName = "main".parse().expect("a name");
    let tags: TagPattern = "v*".parse().expect("a pattern");
    let wanted = [
        PollScope::Branch(branch.clone()),
        PollScope::WithHead(branch),
        PollScope::Default,
        PollScope::Tag(tags.into()),
    ];

    for format in [ObjectFormat::Sha1, ObjectFormat::Sha256] {
        match read_ls_refs(format, bytes) {
            Ok(refs) => wanted.iter().for_each(|wanted| drop(answer(wanted, &refs))),
            Err(error) => harmless(&error),
        }
    }

    for wanted in &wanted {
        let whole = read_advertisement(RefQuery::of(wanted), bytes);
        let mut reader = AdvertisementParser::new(RefQuery::of(wanted));
        let fed = bytes.chunks(size).try_fold(0, |taken, piece| Ok(taken + reader.feed(piece)?));
        let pieces = fed.and_then(|_| reader.finish());
        match (whole, pieces) {
            (Ok(whole), Ok(pieces)) => {
                assert_eq!(whole, pieces);
                answer(wanted, &whole.refs);
            }
            (Err(error), _) => harmless(&error),
            (Ok(_), Err(error)) => panic!("whole it is one, in pieces {error}"),
        }
    }

    let offer = format!("{} HEAD\0side-band shallow", "1".repeat(40));
    let offer = format!("{:04x}{offer}0000", offer.len() + 4);
    let banded =
        read_advertisement(RefQuery::default(), offer.as_bytes()).expect("an offer").capabilities;
    let old = |depth| FetchParser::v0(&banded, depth);
    let bare = || FetchParser::v0(&Capabilities::default(), 0);
    let parsers: [&dyn Fn() -> FetchParser; 4] = [&FetchParser::v2, &bare, &|| old(0), &|| old(1)];
    for answers in parsers {
        let whole = parts(answers(), bytes, bytes.len().max(1));
        assert_eq!(whole, parts(answers(), bytes, size));
        whole.as_ref().err().into_iter().for_each(harmless);
    }
});
