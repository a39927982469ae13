//! What went wrong with a web server, in words for people: one sentence, and what to do.

use std::io;
use std::time::Duration;

use anyhow::{Error, anyhow};
use chrono::{DateTime, Utc};
use ureq::Timeout;

use super::login::Logins;
use super::place::{Origin, Place};
use crate::domain::remote::Trouble;
use crate::system::tls;

/// Whom a question was meant for that nothing came back from.
pub(super) struct Tried<'a> {
    /// The server.
    pub(super) origin: &'a Origin,
    /// The proxy in between, as it is displayed.
    pub(super) proxy: Option<&'a str>,
    /// How long was waited for a connection.
    pub(super) patience: Duration,
}

impl Tried<'_> {
    /// Whom we connect to.
    fn next(&self) -> String {
        self.proxy.map_or_else(|| self.origin.to_string(), |proxy| format!("the proxy {proxy}"))
    }

    /// Whose name has to be known here.
    fn name(&self) -> &str {
        self.proxy.unwrap_or(&self.origin.host)
    }
}

/// Why nothing came back. Only when nobody could connect is it the trouble of everybody who asks
/// there: what happens on a connection that stands may be a matter of one repository, and so are
/// certificates, and whatever a proxy does behind itself.
pub(super) fn unanswered(error: ureq::Error, tried: &Tried) -> Error {
    let Tried { origin, proxy, patience } = tried;
    let host = &origin.host;
    let nobody = |text: String| Error::new(Trouble::Server).context(text);
    let text = match error {
        ureq::Error::HostNotFound => return nobody(unknown(tried.name(), "")),
        ureq::Error::Timeout(timeout) => match timeout {
            Timeout::Connect => {
                let time = in_words(*patience);
                match proxy {
                    // It cannot be told which.
                    Some(proxy) => format!(
                        "the proxy {proxy} does not answer within {time}, or {origin} behind it \
                         does not\n\
                         hint: is the proxy running, and the server to be reached from there?"
                    ),
                    None => {
                        return nobody(format!(
                            "{origin} does not answer within {time}\n\
                             hint: is a firewall or a proxy in between?"
                        ));
                    }
                }
            }
            Timeout::Resolve => {
                let name = tried.name();
                return nobody(format!("no name server tells the address of {name} in time"));
            }
            Timeout::PerRead | Timeout::PerWrite => {
                format!("{origin} sends nothing for 30 seconds")
            }
            _ => format!("{origin} takes longer than network_timeout allows"),
        },
        ureq::Error::ConnectProxyFailed(reason) if reason.contains("407") => {
            return Error::new(Trouble::Credentials).context(format!(
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
        ureq::Error::Rustls(error) => return Error::msg(tls::told(&error, host)),
        ureq::Error::Io(error) => match inner_tls(&error) {
            Some(error) => return Error::msg(tls::told(error, host)),
            None => match error.to_string().strip_prefix(LOOKUP) {
                Some(why) => return nobody(unknown(tried.name(), &format!(": {why}"))),
                None if is_unconnected(&error) => return nobody(unconnected(&error, tried)),
                None => io_words(&error, origin),
            },
        },
        ureq::Error::LargeResponseHeader(..) => {
            format!("{origin} sends a head of a size that no git server sends")
        }
        other => {
            let told = other.to_string().chars().take(300).collect::<String>();
            format!("{origin} did not send valid HTTP: {}", told.escape_debug())
        }
    };
    Error::msg(text)
}

/// `time` in whole seconds, or less where it is less.
fn in_words(time: Duration) -> String {
    let seconds = time.as_secs_f32();
    if seconds.fract() == 0.0 {
        format!("{seconds} seconds")
    } else {
        format!("{seconds:.1} seconds")
    }
}

/// What the standard library says before the resolver's own words.
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

/// Whether it says that there is no connection, and not what became of one.
fn is_unconnected(error: &io::Error) -> bool {
    use io::ErrorKind::{
        AddrNotAvailable, ConnectionRefused, HostUnreachable, NetworkDown, NetworkUnreachable,
    };
    matches!(
        error.kind(),
        AddrNotAvailable | ConnectionRefused | HostUnreachable | NetworkDown | NetworkUnreachable
    )
}

fn unconnected(error: &io::Error, tried: &Tried) -> String {
    let whom = tried.next();
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
        true => format!("{whom} does not answer: connection refused\nhint: {hint}"),
        false => format!("{whom} does not answer: {error}\nhint: {hint}"),
    }
}

fn io_words(error: &io::Error, origin: &Origin) -> String {
    match error.kind() {
        io::ErrorKind::UnexpectedEof
        | io::ErrorKind::ConnectionReset
        | io::ErrorKind::ConnectionAborted
        | io::ErrorKind::BrokenPipe => format!("{origin} closed the connection"),
        _ => format!("{origin} does not answer: {error}"),
    }
}

/// Why reading an answer ended early, as an error that displays a sentence.
pub(super) fn broken_off(error: io::Error, origin: &Origin) -> io::Error {
    let kind = error.kind();
    let told = match ureq::Error::from(error) {
        error @ (ureq::Error::Timeout(_) | ureq::Error::Io(_)) => {
            let tried = Tried { origin, proxy: None, patience: Duration::ZERO };
            let told = unanswered(error, &tried).to_string();
            told.lines().next().unwrap_or_default().to_owned()
        }
        ureq::Error::BodyExceedsLimit(most) => format!("{origin} sends more than {most} bytes"),
        other => format!("{origin} garbles its answer: {}", other.to_string().escape_debug()),
    };
    io::Error::new(kind, told)
}

/// What an answer with another status than 200 means.
pub(super) fn refused(place: &Place, status: u16, later: Option<Duration>) -> Error {
    let soon = || match later {
        Some(time) => format!("; next try in {}", humantime::format_duration(time)),
        None => String::new(),
    };
    match status {
        400 => anyhow!(
            "{place} does not take the request (400)\n\
             hint: does it want to see a client_cert?"
        ),
        403 => Error::new(Trouble::Credentials).context(format!(
            "{place}: access denied (403)\n\
             hint: may this user or token read the repository?"
        )),
        404 | 410 => anyhow!(
            "there is no repository at {place} ({status})\n\
             hint: is it spelled right? Private repositories answer the same to strangers"
        ),
        407 => Error::new(Trouble::Credentials)
            .context(format!("a proxy before {place} wants a user and a password (407)")),
        429 => Error::new(Trouble::Later(later)).context(format!(
            "{}: rate limit reached (429){}",
            place.origin,
            soon()
        )),
        503 if later.is_some() => Error::new(Trouble::Later(later)).context(format!(
            "{} is temporarily unavailable (503){}",
            place.origin,
            soon()
        )),
        500.. => anyhow!("{place} answers {status}: the server is at fault"),
        _ => anyhow!("{place} answers {status}, which no git server does"),
    }
}

/// What a 401 means after all that could be shown was shown; `was_shown` is where that came from.
pub(super) fn stranger(place: &Place, logins: &Logins, was_shown: Option<&str>) -> Error {
    let text = match was_shown {
        Some(source) => format!(
            "{place} does not accept the user and password from {source} (401)\n\
             hint: is the token still valid?"
        ),
        None if !logins.are_for(&place.origin) => format!(
            "{place}, where a redirect led, wants a user and a password (401)\n\
             hint: they are sent to nobody but the configured address; configure the new one"
        ),
        None => format!(
            "{place} wants a user and a password (401)\n\
             hint: set username and password_file; a name that does not exist answers the same"
        ),
    };
    Error::new(Trouble::Credentials).context(text)
}

/// `Retry-After`: seconds, or a date.
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
    use super::*;

    fn place() -> Place {
        Place::parse("https://git.example.org/a.git").unwrap().0
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
    fn a_status_is_told_in_words_and_says_what_it_means_for_later() {
        let told = |status, later| {
            let error = refused(&place(), status, later);
            (error.to_string(), error.downcast_ref::<Trouble>().copied())
        };
        let minute = Some(Duration::from_secs(60));
        let (text, trouble) = told(429, minute);
        assert_eq!(text, "https://git.example.org: rate limit reached (429); next try in 1m");
        assert_eq!(trouble, Some(Trouble::Later(minute)));
        assert_eq!(told(503, None).1, None);
        assert_eq!(told(503, minute).1, Some(Trouble::Later(minute)));
        assert_eq!(told(403, None).1, Some(Trouble::Credentials));
        let (text, trouble) = told(404, None);
        assert!(text.contains("Private repositories answer the same"), "{text}");
        assert_eq!(trouble, None);
    }

    fn told(error: ureq::Error, proxy: Option<&str>) -> (String, Option<Trouble>) {
        let origin = place().origin;
        let tried = Tried { origin: &origin, proxy, patience: Duration::from_secs(10) };
        let error = unanswered(error, &tried);
        (error.to_string(), error.downcast_ref().copied())
    }

    #[test]
    fn only_whom_nobody_can_connect_to_is_in_trouble_for_all() {
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
            let (text, trouble) = told(error, None);
            assert!(text.strip_prefix(server).unwrap_or(&text).starts_with(words), "{text}");
            assert_eq!(trouble, Some(Trouble::Server), "{text}");
        }
        for (error, words) in [
            (io(io::ErrorKind::ConnectionReset), "closed the connection"),
            (io(io::ErrorKind::UnexpectedEof), "closed the connection"),
            (ureq::Error::Timeout(Timeout::PerRead), "sends nothing for 30 seconds"),
            (ureq::Error::Timeout(Timeout::Global), "takes longer than network_timeout allows"),
        ] {
            let (text, trouble) = told(error, None);
            assert_eq!(text.strip_prefix(server), Some(words));
            assert_eq!(trouble, None, "{text}");
        }
    }

    #[test]
    fn a_proxy_that_is_away_is_told_as_the_proxy() {
        let proxy = Some("http://proxy.example.org:3128");
        let refused = ureq::Error::Io(io::ErrorKind::ConnectionRefused.into());
        let (text, trouble) = told(refused, proxy);
        assert_eq!(
            text,
            "the proxy http://proxy.example.org:3128 does not answer: connection refused\n\
             hint: is it running, and proxy or https_proxy right?"
        );
        assert_eq!(trouble, Some(Trouble::Server));
        let (text, trouble) = told(ureq::Error::Timeout(Timeout::Connect), proxy);
        assert!(
            text.starts_with("the proxy http://proxy.example.org:3128 does not answer within"),
            "{text}"
        );
        assert_eq!(trouble, None, "the server behind it may be to blame");
    }
}
