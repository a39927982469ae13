//! The answer to one request: its status, the headers that matter, and its content, decoded and capped.
//! It does not know what the content means.

use std::io::{self, Read};
use std::time::Duration;

use flate2::read::{MultiGzDecoder, ZlibDecoder};
use ureq::Body;
use ureq::http::{HeaderName, Response, header};

use crate::domain::text::EscapeControls;
use crate::system::host;
use crate::system::remote::http::errors;
use crate::system::remote::http::url::HttpOrigin;
use crate::system::remote::relay::{RelayedContent, RelayedHead};

/// The most bytes that are read of an unneeded answer, so that its connection can be used again.
const MOST_DRAINED: u64 = 64 << 10;

/// The answer to a request.
pub(super) struct HttpReply {
    pub(super) status: u16,
    /// Its content type, in lower case and without parameters.
    pub(super) kind: String,
    /// The target of a redirect.
    pub(super) location: Option<String>,
    /// The time in `Retry-After`; `None` without that header.
    pub(super) later: Option<Duration>,
    /// The schemes of `WWW-Authenticate`, in lower case, as long as none of them is `basic`; empty
    /// otherwise.
    pub(super) other_logins: Vec<String>,
    /// The content coding, in lower case; empty for none.
    coding: String,
    origin: HttpOrigin,
    body: Box<dyn Read>,
}

impl HttpReply {
    pub(super) fn new(response: Response<Body>, origin: HttpOrigin) -> Self {
        let (head, body) = response.into_parts();
        let text = |name: HeaderName| head.headers.get(name).and_then(|value| value.to_str().ok());
        let word = |name| {
            let word = text(name).unwrap_or_default().split(';').next().unwrap_or_default();
            word.trim().to_ascii_lowercase()
        };
        let location = head.headers.get(header::LOCATION);
        let challenges = head.headers.get_all(header::WWW_AUTHENTICATE).iter();
        let challenges = challenges.filter_map(|value| value.to_str().ok());
        Self {
            status: head.status.as_u16(),
            kind: word(header::CONTENT_TYPE),
            location: location.map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned()),
            later: text(header::RETRY_AFTER)
                .and_then(|value| errors::retry_after(value, host::now())),
            other_logins: other_logins(challenges),
            coding: word(header::CONTENT_ENCODING),
            origin,
            body: Box::new(body.into_with_config().limit(u64::MAX).reader()),
        }
    }

    /// The answer to a request that the tick sent to `origin`.
    pub(super) fn relayed(head: RelayedHead, content: RelayedContent, origin: HttpOrigin) -> Self {
        let RelayedHead { status, kind, later } = head;
        let (location, other_logins, coding) = (None, Vec::new(), String::new());
        let body = Box::new(content);
        Self { status, kind, location, later, other_logins, coding, origin, body }
    }

    /// A reader of the content; more than `most` bytes are an error, also where they are coded as fewer.
    pub(super) fn into_reader(self, most: u64) -> ReplyReader {
        // Nobody was asked to code it; a proxy on the way may have done so all the same.
        let inner: Box<dyn Read> = match self.coding.as_str() {
            "" | "identity" => self.body,
            "gzip" | "x-gzip" => Box::new(MultiGzDecoder::new(self.body)),
            "deflate" => Box::new(ZlibDecoder::new(self.body)),
            other => Box::new(UnknownCoding(other.chars().take(40).collect())),
        };
        ReplyReader { origin: self.origin, inner, most, count: 0 }
    }

    /// The whole content, of at most `most` bytes.
    ///
    /// # Errors
    /// When it is larger or breaks off.
    pub(super) fn into_bytes(self, most: u64) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        self.into_reader(most).read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    /// Reads and drops the content, so that the connection can be used again.
    pub(super) fn drain(self) {
        self.into_reader(u64::MAX).drain();
    }
}

/// The schemes of `challenges`, one or more for each header; none if one of them is `basic`.
fn other_logins<'a>(challenges: impl Iterator<Item = &'a str>) -> Vec<String> {
    let mut schemes = Vec::new();
    for part in challenges.flat_map(|value| value.split(',')) {
        // A scheme is followed by its first parameter or by nothing, a parameter by its value.
        let word = part.trim().split(' ').next().unwrap_or_default().to_ascii_lowercase();
        let is_token = word.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
        if !word.is_empty() && is_token {
            schemes.push(word);
        }
    }
    if schemes.iter().any(|scheme| scheme == "basic") { Vec::new() } else { schemes }
}

/// The content of an answer in a coding that is not supported.
struct UnknownCoding(String);

impl Read for UnknownCoding {
    fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
        let text = format!("the answer is coded as \"{}\"", self.0.escape_controls());
        Err(io::Error::new(io::ErrorKind::Unsupported, text))
    }
}

/// A reader of an answer's content. The text of its errors is a sentence.
pub(in crate::system::remote) struct ReplyReader {
    origin: HttpOrigin,
    inner: Box<dyn Read>,
    most: u64,
    count: u64,
}

impl ReplyReader {
    /// Reads and drops the rest, so that the connection can be used again; a connection with too much
    /// left is closed.
    pub(super) fn drain(self) {
        // An error does not matter: the content was not needed.
        let _ = io::copy(&mut self.inner.take(MOST_DRAINED), &mut io::sink());
    }
}

impl Read for ReplyReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = match self.inner.read(buffer) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return Err(error),
            outcome => outcome.map_err(|error| errors::broken_off(error, &self.origin))?,
        };
        self.count += read as u64;
        if self.count > self.most {
            let text = format!("{} sends more than {} bytes", self.origin, self.most);
            return Err(io::Error::other(text));
        }
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use crate::system::remote::http::reply::*;

    #[test]
    fn a_scheme_is_reported_from_its_parameters() {
        let others = |headers: &[&str]| other_logins(headers.iter().copied()).join(" ");
        assert_eq!(others(&["Digest realm=\"a, b\", qop=\"auth\""]), "digest");
        assert_eq!(others(&["Negotiate", "NTLM"]), "negotiate ntlm");
        assert_eq!(others(&["Negotiate, Basic realm=\"git\""]), "");
        assert_eq!(others(&["Digest realm=\"x\"", "basic realm=\"x\""]), "");
        assert_eq!(others(&[]), "");
    }
}
