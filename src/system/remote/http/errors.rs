//! Explains failures of web servers to users: one sentence and a hint. Sends nothing.

use std::io;
use std::time::Duration;

use anyhow::{Error, anyhow};
use chrono::{DateTime, Utc};
use ureq::Timeout;

use crate::domain::remote::RemoteFailure;
use crate::domain::text::EscapeControls;
use crate::system::remote::denied;
use crate::system::remote::http::credentials::HttpCredentials;
use crate::system::remote::http::dns_cache::NotPublic;
use crate::system::remote::http::url::{HttpOrigin, HttpUrl};
use crate::system::remote::relay::BrokenOff;
use crate::system::tls;

/// The server of a request that nothing came back for, and the way to it.
pub(super) struct TriedServer<'a> {
    pub(super) origin: &'a HttpOrigin,
    /// The proxy in between, without its password.
    pub(super) proxy: Option<&'a str>,
    /// The time limit for the connection.
    pub(super) patience: Duration,
}

impl TriedServer<'_> {
    /// The server or proxy that the agent connects to.
    fn next(&self) -> String {
        self.proxy.map_or_else(|| self.origin.to_string(), |proxy| format!("the proxy {proxy}"))
    }

    /// The host name that has to be resolved on this machine.
    fn name(&self) -> &str {
        self.proxy.unwrap_or(&self.origin.host)
    }
}

/// Explains why no answer came. It is a failure of the server for all repositories only when there was
/// no connection. A failure on an open connection may concern one repository only, and so may
/// certificates and failures behind a proxy.
pub(super) fn unanswered(error: ureq::Error, tried: &TriedServer) -> Error {
    let TriedServer { origin, proxy, patience } = tried;
    let host = &origin.host;
    let unreachable = |text: String| Error::new(RemoteFailure::Server).context(text);
    let text = match error {
        ureq::Error::HostNotFound => return unreachable(unknown(tried.name(), "")),
        ureq::Error::Timeout(timeout) => match timeout {
            Timeout::Connect => {
                let time = in_words(*patience);
                match proxy {
                    // Which of the two is not known.
                    Some(proxy) => format!(
                        "the proxy {proxy} does not answer within {time}, or {origin} behind it \
                         does not\n\
                         hint: is the proxy running, and the server to be reached from there?"
                    ),
                    None => {
                        return unreachable(format!(
                            "{origin} does not answer within {time}\n\
                             hint: is a firewall or a proxy in between?"
                        ));
                    }
                }
            }
            Timeout::Resolve => {
                let name = tried.name();
                return unreachable(format!("no name server resolves {name} in time"));
            }
            Timeout::PerRead | Timeout::PerWrite => {
                format!("{origin} sends nothing for 30 seconds")
            }
            _ => format!("{origin} takes longer than network_timeout allows"),
        },
        ureq::Error::ConnectProxyFailed(reason) if reason.contains("407") => {
            return Error::new(RemoteFailure::Credentials).context(format!(
                "the proxy {} wants a user and a password, or others (407)\n\
                 hint: write them into its address: http://USER:PASSWORD@HOST:PORT",
                proxy.unwrap_or("in between")
            ));
        }
        ureq::Error::ConnectProxyFailed(reason) => {
            let digits: String = reason.chars().filter(char::is_ascii_digit).take(3).collect();
            let status = if digits.is_empty() { "nothing".to_owned() } else { digits };
            format!(
                "the proxy {} does not connect to {host}: it answers {status}",
                proxy.unwrap_or("in between")
            )
        }
        ureq::Error::Io(error) => match inner_tls(&error) {
            Some(error) => {
                let text = tls::sentence(error, host);
                return if tls::lasts(error) { denied(text) } else { Error::msg(text) };
            }
            None => match error.to_string().strip_prefix(LOOKUP) {
                Some(why) => return unreachable(unknown(tried.name(), &format!(": {why}"))),
                None if is_unconnected(&error) => return unreachable(unconnected(&error, tried)),
                None => io_words(&error, origin),
            },
        },
        ureq::Error::LargeResponseHeader(..) => {
            format!("{origin} sends larger headers than any git server")
        }
        other => {
            let sentence = other.to_string().chars().take(300).collect::<String>();
            format!("{origin} did not send valid HTTP: {}", sentence.escape_controls())
        }
    };
    Error::msg(text)
}

/// `time` in seconds, with a decimal where it is not whole.
fn in_words(time: Duration) -> String {
    let seconds = time.as_secs_f32();
    if seconds.fract() == 0.0 {
        format!("{seconds} seconds")
    } else {
        format!("{seconds:.1} seconds")
    }
}

/// The standard library's prefix of the resolver's message.
const LOOKUP: &str = "failed to lookup address information: ";

fn unknown(host: &str, why: &str) -> String {
    format!(
        "the name {host} is not known here{why}\n\
         hint: getent hosts {host}; is it spelled right, and does a name server answer?"
    )
}

fn inner_tls(error: &io::Error) -> Option<&rustls::Error> {
    error.get_ref()?.downcast_ref()
}

/// Whether the error says that there is no connection, not that one broke.
fn is_unconnected(error: &io::Error) -> bool {
    use io::ErrorKind::{
        AddrNotAvailable, ConnectionRefused, HostUnreachable, NetworkDown, NetworkUnreachable,
    };
    matches!(
        error.kind(),
        AddrNotAvailable | ConnectionRefused | HostUnreachable | NetworkDown | NetworkUnreachable
    )
}

fn unconnected(error: &io::Error, tried: &TriedServer) -> String {
    let server = tried.next();
    let is_refused = error.kind() == io::ErrorKind::ConnectionRefused;
    let hint = match (is_refused, tried.proxy) {
        (true, Some(_)) => "is it running, and proxy or https_proxy right?".to_owned(),
        (true, None) => "is the server running, and the port right?".to_owned(),
        (false, Some(_)) => "is the network up, and a route there?".to_owned(),
        (false, None) => {
            format!("is the network up, and a route there? ip route get {}", tried.origin.host)
        }
    };
    match is_refused {
        true => format!("{server} does not answer: connection refused\nhint: {hint}"),
        false => format!("{server} does not answer: {error}\nhint: {hint}"),
    }
}

fn io_words(error: &io::Error, origin: &HttpOrigin) -> String {
    match error.kind() {
        io::ErrorKind::UnexpectedEof
        | io::ErrorKind::ConnectionReset
        | io::ErrorKind::ConnectionAborted
        | io::ErrorKind::BrokenPipe => format!("{origin} closed the connection"),
        _ => format!("{origin} does not answer: {error}"),
    }
}

/// Explains why an answer broke off, as an error whose text is a sentence.
pub(super) fn broken_off(error: io::Error, origin: &HttpOrigin) -> io::Error {
    use io::ErrorKind::{InvalidData, InvalidInput, Unsupported};
    if error.get_ref().is_some_and(|inner| inner.is::<BrokenOff>()) {
        return error;
    }
    let kind = error.kind();
    if matches!(kind, InvalidData | InvalidInput | Unsupported) && inner_tls(&error).is_none() {
        let reason = error.to_string();
        return io::Error::new(
            kind,
            format!("{origin} sends a malformed answer: {}", reason.escape_controls()),
        );
    }
    let sentence = match ureq::Error::from(error) {
        error @ (ureq::Error::Timeout(_) | ureq::Error::Io(_)) => {
            let tried = TriedServer { origin, proxy: None, patience: Duration::ZERO };
            let sentence = unanswered(error, &tried).to_string();
            sentence.lines().next().unwrap_or_default().to_owned()
        }
        ureq::Error::BodyExceedsLimit(most) => format!("{origin} sends more than {most} bytes"),
        other => {
            format!("{origin} sends a malformed answer: {}", other.to_string().escape_controls())
        }
    };
    io::Error::new(kind, sentence)
}

/// Explains an answer with a status other than 200.
pub(super) fn refused(place: &HttpUrl, status: u16, later: Option<Duration>) -> Error {
    match status {
        400 => anyhow!(
            "{place} does not take the request (400)\n\
             hint: does it want to see a client_cert?"
        ),
        403 => Error::new(RemoteFailure::Credentials).context(format!(
            "{place}: access denied (403)\n\
             hint: may this user or token read the repository?"
        )),
        404 | 410 => denied(format!(
            "there is no repository at {place} ({status})\n\
             hint: is it spelled right? Private repositories answer the same to strangers"
        )),
        407 => Error::new(RemoteFailure::Credentials)
            .context(format!("a proxy before {place} wants a user and a password (407)")),
        429 => Error::new(RemoteFailure::Later(later))
            .context(format!("{}: rate limit reached (429)", place.origin)),
        503 if later.is_some() => Error::new(RemoteFailure::Later(later))
            .context(format!("{} is temporarily unavailable (503)", place.origin)),
        500.. => anyhow!("{place} answers {status}: the server is at fault"),
        _ => anyhow!("{place} answers {status}, which no git server does"),
    }
}

/// Explains a 401 after the last login was sent; `was_shown` is the source of that login.
pub(super) fn stranger(
    place: &HttpUrl,
    logins: &HttpCredentials,
    was_shown: Option<&str>,
) -> Error {
    let text = match was_shown {
        Some(source) => format!(
            "{place} does not accept the user and password from {source} (401)\n\
             hint: is the token still valid?"
        ),
        None if !logins.are_for(&place.origin) => format!(
            "{place}, where a redirect led, wants a user and a password (401)\n\
             hint: they are sent only to the configured address; configure the new one"
        ),
        None => format!(
            "{place} wants a user and a password (401)\n\
             hint: set username and password_file; a name that does not exist answers the same"
        ),
    };
    Error::new(RemoteFailure::Credentials).context(text)
}

/// Whether a connection was refused because the server has a private address.
pub(super) fn is_not_public(error: &ureq::Error) -> bool {
    matches!(error, ureq::Error::Other(inner) if inner.is::<NotPublic>())
}

/// Explains that a redirect from `home` is not followed to `place`.
pub(super) fn not_followed(home: &HttpUrl, place: &HttpUrl) -> Error {
    anyhow!(
        "{home} redirects to {}: refused to follow from a public address to a private one\n\
         hint: write the new address into url, if it is to be trusted",
        place.origin
    )
}

/// Explains a 401 that asks for a login only by schemes that are not supported.
pub(super) fn other_login(place: &HttpUrl, schemes: &[String]) -> Error {
    let schemes: String = schemes.join(", ").chars().take(60).collect();
    Error::new(RemoteFailure::Credentials).context(format!(
        "{place} asks for a login by {} (401), which is not supported\n\
         hint: set the server up for the scheme Basic, or use ssh",
        schemes.escape_controls()
    ))
}

/// Parses `Retry-After`: seconds, or a date; `None` for other text.
pub(super) fn retry_after(value: &str, now: DateTime<Utc>) -> Option<Duration> {
    let value = value.trim();
    if let Ok(seconds) = value.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let date = DateTime::parse_from_rfc2822(value).ok()?;
    Some((date.with_timezone(&Utc) - now).to_std().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use crate::system::remote::http::errors::*;

    fn place() -> HttpUrl {
        HttpUrl::parse("https://git.example.org/a.git").unwrap().0
    }

    #[test]
    fn retry_after_is_read_in_seconds_and_as_a_date() {
        let now = "2026-11-22T09:00:00Z".parse().unwrap();
        let seconds = |value| retry_after(value, now).map(|time| time.as_secs());
        assert_eq!(seconds("120"), Some(120));
        assert_eq!(seconds("Sun, 22 Nov 2026 09:02:00 GMT"), Some(120));
        assert_eq!(seconds("Sun, 22 Nov 2026 08:00:00 GMT"), Some(0));
        assert_eq!(seconds("soon"), None);
    }

    #[test]
    fn a_status_is_reported_in_words_and_says_what_it_means_for_later() {
        let sentence = |status, later| {
            let error = refused(&place(), status, later);
            (error.to_string(), error.downcast_ref::<RemoteFailure>().copied())
        };
        let minute = Some(Duration::from_secs(60));
        let (text, trouble) = sentence(429, minute);
        assert_eq!(text, "https://git.example.org: rate limit reached (429)");
        assert_eq!(trouble, Some(RemoteFailure::Later(minute)));
        assert_eq!(sentence(503, None).1, None);
        assert_eq!(sentence(503, minute).1, Some(RemoteFailure::Later(minute)));
        assert_eq!(sentence(403, None).1, Some(RemoteFailure::Credentials));
        let (text, trouble) = sentence(404, None);
        assert!(text.contains("Private repositories answer the same"), "{text}");
        assert_eq!(trouble, None);
    }

    fn sentence(error: ureq::Error, proxy: Option<&str>) -> (String, Option<RemoteFailure>) {
        let origin = place().origin;
        let tried = TriedServer { origin: &origin, proxy, patience: Duration::from_secs(10) };
        let error = unanswered(error, &tried);
        (error.to_string(), error.downcast_ref().copied())
    }

    #[test]
    fn only_a_server_that_refuses_connections_is_in_trouble_for_all() {
        let io = |kind: io::ErrorKind| ureq::Error::Io(kind.into());
        let server = "https://git.example.org ";
        for (error, words) in [
            (ureq::Error::HostNotFound, "the name git.example.org is not known here\n"),
            (io(io::ErrorKind::ConnectionRefused), "does not answer: connection refused\nhint: "),
            (
                io(io::ErrorKind::HostUnreachable),
                "does not answer: host unreachable\n\
                 hint: is the network up, and a route there? ip route get git.example.org",
            ),
            (ureq::Error::Timeout(Timeout::Connect), "does not answer within 10 seconds\n"),
            (ureq::Error::Timeout(Timeout::Resolve), "no name server"),
        ] {
            let (text, trouble) = sentence(error, None);
            assert!(text.strip_prefix(server).unwrap_or(&text).starts_with(words), "{text}");
            assert_eq!(trouble, Some(RemoteFailure::Server), "{text}");
        }
        for (error, words) in [
            (io(io::ErrorKind::ConnectionReset), "closed the connection"),
            (io(io::ErrorKind::UnexpectedEof), "closed the connection"),
            (ureq::Error::Timeout(Timeout::PerRead), "sends nothing for 30 seconds"),
            (ureq::Error::Timeout(Timeout::Global), "takes longer than network_timeout allows"),
        ] {
            let (text, trouble) = sentence(error, None);
            assert_eq!(text.strip_prefix(server), Some(words));
            assert_eq!(trouble, None, "{text}");
        }
    }

    #[test]
    fn a_proxy_that_is_away_is_reported_as_the_proxy() {
        let proxy = Some("http://proxy.example.org:3128");
        let refused = ureq::Error::Io(io::ErrorKind::ConnectionRefused.into());
        let (text, trouble) = sentence(refused, proxy);
        assert_eq!(
            text,
            "the proxy http://proxy.example.org:3128 does not answer: connection refused\n\
             hint: is it running, and proxy or https_proxy right?"
        );
        assert_eq!(trouble, Some(RemoteFailure::Server));
        let (text, trouble) = sentence(ureq::Error::Timeout(Timeout::Connect), proxy);
        assert!(
            text.starts_with("the proxy http://proxy.example.org:3128 does not answer within"),
            "{text}"
        );
        assert_eq!(trouble, None, "the server behind it may be to blame");
    }
}
