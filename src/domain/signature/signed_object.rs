//! Commits and tags as bytes: what was signed, and the signature. Stricter than git: what git would read in two ways is
//! no object here.

use chrono::{DateTime, Utc};

use crate::domain::git::{Commit, ObjectFormat, ObjectId};

/// A commit, as far as its signature is concerned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CommitObject {
    /// The parents, in order.
    pub parents: Vec<Commit>,
    /// When the committer says that it was made.
    pub committed_at: DateTime<Utc>,
    /// What was signed, and with what.
    pub signed: SignedBytes,
}

/// An annotated tag, as far as its signature is concerned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TagObject {
    /// The object that it names.
    pub object: ObjectId,
    /// The kind of that object, such as `commit`.
    pub kind: Vec<u8>,
    /// Its own name, without `refs/tags/`.
    pub name: Vec<u8>,
    /// When the tagger says that it was made; `None`: it has no tagger.
    pub tagged_at: Option<DateTime<Utc>>,
    /// What was signed, and with what.
    pub signed: SignedBytes,
}

/// The bytes that a signature is over, and the signature.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SignedBytes {
    /// The object without its signatures.
    pub payload: Vec<u8>,
    /// The signature for the object format; `None`: there is none.
    pub signature: Option<Vec<u8>>,
}

/// The header with the signature of commits, by the object format that it is made over (git's
/// hash-function-transition.txt).
fn header_of(format: ObjectFormat) -> &'static [u8] {
    match format {
        ObjectFormat::Sha1 => b"gpgsig",
        ObjectFormat::Sha256 => b"gpgsig-sha256",
    }
}

/// Reads a commit of `format`; `None`: it is not one that git makes.
pub fn commit(bytes: &[u8], format: ObjectFormat) -> Option<CommitObject> {
    let (headers, signed) = split(bytes, format)?;
    let mut headers = headers.into_iter().peekable();
    let (name, tree) = headers.next()?;
    object_id(tree, format).filter(|_| name == b"tree")?;
    let mut parents = Vec::new();
    while let Some((_, parent)) = headers.next_if(|(name, _)| *name == b"parent") {
        parents.push(Commit(object_id(parent, format)?));
    }
    headers.next().filter(|(name, _)| *name == b"author")?;
    let (_, committer) = headers.next().filter(|(name, _)| *name == b"committer")?;
    // A second one of these later would mean something else to another reader.
    let reserved: [&[u8]; 4] = [b"tree", b"parent", b"author", b"committer"];
    if headers.any(|(name, _)| reserved.contains(&name)) {
        return None;
    }
    Some(CommitObject { parents, committed_at: moment(committer)?, signed })
}

/// Reads an annotated tag of `format`; `None`: it is not one that git makes.
pub fn tag(bytes: &[u8], format: ObjectFormat) -> Option<TagObject> {
    let (headers, stripped) = split(bytes, format)?;
    let mut headers = headers.into_iter();
    let mut next = |wanted: &[u8]| headers.next().filter(|(name, _)| *name == wanted);
    let object = object_id(next(b"object")?.1, format)?;
    let (kind, name) = (next(b"type")?.1.to_owned(), next(b"tag")?.1.to_owned());
    let mut headers = headers.peekable();
    let tagger = headers.next_if(|(name, _)| *name == b"tagger");
    let tagged_at = tagger.and_then(|(_, tagger)| moment(tagger));
    // A second one of these later would mean something else to another reader.
    let reserved: [&[u8]; 4] = [b"object", b"type", b"tag", b"tagger"];
    if headers.any(|(name, _)| reserved.contains(&name)) {
        return None;
    }
    // In a tag the signature is the end of the message.
    let payload = stripped.payload;
    let start = last_signature(&payload);
    let signature = start.and_then(|start| payload.get(start..)).map(<[u8]>::to_owned);
    let payload = payload.get(..start.unwrap_or(payload.len()))?.to_owned();
    Some(TagObject { object, kind, name, tagged_at, signed: SignedBytes { payload, signature } })
}

type Header<'a> = (&'a [u8], &'a [u8]);

/// What a line of the headers, and the lines that continue it, belong to.
#[derive(Clone, Copy)]
enum Part {
    Header,
    Signature,
    /// The signature over the object in the other format, which no reader of this format looks at.
    OtherSignature,
}

/// The headers of an object without its signatures, and the object without and with them. Continued lines belong to
/// their header and are left out of the list. `None`: what one reader takes for a signature, another would not.
fn split(bytes: &[u8], format: ObjectFormat) -> Option<(Vec<Header<'_>>, SignedBytes)> {
    let (mut headers, mut payload, mut signature) = (Vec::new(), Vec::new(), None);
    let (mut rest, mut part, mut has_other) = (bytes, None, false);
    loop {
        let length = rest.iter().position(|&byte| byte == b'\n').map_or(rest.len(), |end| end + 1);
        let (line, after) = rest.split_at(length);
        if line == b"\n" || line.is_empty() {
            payload.extend(rest);
            return Some((headers, SignedBytes { payload, signature }));
        }
        rest = after;
        if let Some(continued) = line.strip_prefix(b" ") {
            // The first line continues none.
            match (part?, &mut signature) {
                (Part::Header, _) => payload.extend(line),
                (Part::Signature, Some(signature)) => Vec::extend(signature, continued),
                _ => {}
            }
            continue;
        }
        let content = line.strip_suffix(b"\n")?;
        let (name, value) = content.split_at(content.iter().position(|&byte| byte == b' ')?);
        let value = value.get(1..)?;
        part = Some(match name {
            _ if !name.starts_with(b"gpgsig") => {
                payload.extend(line);
                headers.push((name, value));
                Part::Header
            }
            _ if name == header_of(format) && signature.is_none() => {
                signature = Some([value, b"\n"].concat());
                Part::Signature
            }
            b"gpgsig" | b"gpgsig-sha256" if name != header_of(format) && !has_other => {
                has_other = true;
                Part::OtherSignature
            }
            _ => return None,
        });
    }
}

/// The place of the last line that begins a signature, as git looks for it.
fn last_signature(message: &[u8]) -> Option<usize> {
    let begins = ["PGP SIGNATURE", "PGP MESSAGE", "SIGNED MESSAGE", "SSH SIGNATURE"];
    let begins = begins.map(|kind| format!("-----BEGIN {kind}-----"));
    let mut start = 0;
    let mut last = None;
    for line in message.split_inclusive(|&byte| byte == b'\n') {
        if begins.iter().any(|begin| line.starts_with(begin.as_bytes())) {
            last = Some(start);
        }
        start += line.len();
    }
    last
}

fn object_id(hex: &[u8], format: ObjectFormat) -> Option<ObjectId> {
    let id: ObjectId = std::str::from_utf8(hex).ok()?.parse().ok()?;
    (id.format() == format).then_some(id)
}

/// The moment at the end of `Name <mail> SECONDS ZONE`.
fn moment(person: &[u8]) -> Option<DateTime<Utc>> {
    let end = person.iter().rposition(|&byte| byte == b'>')?;
    let text = std::str::from_utf8(person.get(end + 1..)?).ok()?;
    let mut words = text.split_ascii_whitespace();
    DateTime::from_timestamp(words.next()?.parse().ok()?, 0)
}

#[cfg(test)]
mod tests;
