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

/// Why nothing came back from `origin`. Only what would happen to everybody who asks that server is
/// its trouble: proxies and certificates are a matter of one repository's settings.
pub(super) fn unanswered(error: ureq::Error, origin: &Origin, proxy: Option<&str>) -> Error {
    let host = &origin.host;
    let text = match error {
        ureq::Error::HostNotFound => unknown(proxy.unwrap_or(host), ""),
        ureq::Error::Timeout(timeout) => match timeout {
            Timeout::Connect => format!(
                "{origin} does not answer within 10 seconds\n\
                 hint: is a firewall or a proxy in between?"
            ),
            Timeout::Resolve => format!("no name server tells the address of {host} in time"),
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
                Some(why) => unknown(proxy.unwrap_or(host), &format!(": {why}")),
                None => io_words(&error, origin),
            },
        },
        ureq::Error::LargeResponseHeader(..) => {
            format!("{origin} sends a head of a size that no git server sends")
        }
        other => {
            let told = other.to_string().chars().take(300).collect::<String>();
            format!("{origin} answers what is no HTTP: {}", told.escape_debug())
        }
    };
    match proxy {
        Some(_) => Error::msg(text),
        None => Error::new(Trouble::Server).context(text),
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

fn io_words(error: &io::Error, origin: &Origin) -> String {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => format!(
            "{origin} does not answer: connection refused\n\
             hint: is the server running, and the port right?"
        ),
        io::ErrorKind::UnexpectedEof
        | io::ErrorKind::ConnectionReset
        | io::ErrorKind::ConnectionAborted
        | io::ErrorKind::BrokenPipe => format!("{origin} breaks the connection off"),
        _ => format!("{origin} does not answer: {error}"),
    }
}

/// Why reading an answer ended early, as an error that displays a sentence.
pub(super) fn broken_off(error: io::Error, origin: &Origin) -> io::Error {
    let kind = error.kind();
    let told = match ureq::Error::from(error) {
        error @ (ureq::Error::Timeout(_) | ureq::Error::Io(_)) => {
            let told = unanswered(error, origin, None).to_string();
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
        Some(time) => format!(", and not again for {}", humantime::format_duration(time)),
        None => String::new(),
    };
    match status {
        400 => anyhow!(
            "{place} does not take the request (400)\n\
             hint: does it want to see a client_cert?"
        ),
        403 => Error::new(Trouble::Credentials).context(format!(
            "{place} is not for us (403)\n\
             hint: may this user or token read the repository?"
        )),
        404 | 410 => anyhow!(
            "there is no repository at {place} ({status})\n\
             hint: is it spelled right? Private repositories answer the same to strangers"
        ),
        407 => Error::new(Trouble::Credentials)
            .context(format!("a proxy before {place} wants a user and a password (407)")),
        429 => Error::new(Trouble::Later(later)).context(format!(
            "{} is asked too often (429){}",
            place.origin,
            soon()
        )),
        503 if later.is_some() => Error::new(Trouble::Later(later)).context(format!(
            "{} is not at work (503){}",
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
        assert_eq!(text, "https://git.example.org is asked too often (429), and not again for 1m");
        assert_eq!(trouble, Some(Trouble::Later(minute)));
        assert_eq!(told(503, None).1, None);
        assert_eq!(told(503, minute).1, Some(Trouble::Later(minute)));
        assert_eq!(told(403, None).1, Some(Trouble::Credentials));
        let (text, trouble) = told(404, None);
        assert!(text.contains("Private repositories answer the same"), "{text}");
        assert_eq!(trouble, None);
    }

    #[test]
    fn an_io_error_is_told_in_words() {
        let origin = place().origin;
        let error = io::Error::from(io::ErrorKind::ConnectionRefused);
        let error = unanswered(ureq::Error::Io(error), &origin, None);
        assert!(
            error
                .to_string()
                .starts_with("https://git.example.org does not answer: connection refused\nhint: ")
        );
        assert_eq!(error.downcast_ref(), Some(&Trouble::Server));
        let error = unanswered(ureq::Error::HostNotFound, &origin, None);
        assert!(error.to_string().starts_with("the name git.example.org is not known here\n"));
    }
}
