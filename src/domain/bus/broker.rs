//! The settings for brokers of the message bus: their addresses in all accepted forms, the login, and
//! the retry rule. Knows no connection.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use percent_encoding::percent_decode_str;

use crate::domain::text::EscapeControls;

/// The shortest wait before brokers are tried again, whatever is configured.
pub const SHORTEST_WAIT: Duration = Duration::from_secs(1);
/// The shortest session after which a broker counts as usable.
const USEFUL: Duration = Duration::from_secs(10);
/// The longest wait that can be configured.
const LONGEST_WAIT: Duration = Duration::from_secs(3600);

/// The transport to a broker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BrokerTransport {
    /// TCP without encryption.
    Plain,
    /// TLS.
    Tls,
}

/// The login at a broker. Its debug output shows none of it.
#[derive(Clone, PartialEq, Eq)]
pub struct BrokerLogin {
    /// The user name.
    pub user: String,
    /// The password.
    pub password: String,
}

impl fmt::Debug for BrokerLogin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Login(..)")
    }
}

impl FromStr for BrokerLogin {
    type Err = InvalidLogin;

    /// Parses `USER:PASSWORD`, up to the end of the line. The password may contain colons.
    fn from_str(text: &str) -> Result<Self, InvalidLogin> {
        let line = text.lines().next().unwrap_or_default();
        let (user, password) = line.split_once(':').ok_or(InvalidLogin)?;
        if user.is_empty() || line.contains(char::is_control) {
            return Err(InvalidLogin);
        }
        Ok(Self { user: user.to_owned(), password: password.to_owned() })
    }
}

/// The error for a text that is no login; does not hold the text.
#[derive(Debug, PartialEq, Eq)]
pub struct InvalidLogin;

impl fmt::Display for InvalidLogin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("its first line is not USER:PASSWORD")
    }
}

impl std::error::Error for InvalidLogin {}

/// One broker. Displays without its login.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Broker {
    /// The transport.
    pub channel: BrokerTransport,
    /// The host name or IP address; an IPv6 address without brackets.
    pub host: String,
    /// The TCP port.
    pub port: u16,
    /// The login, where the address contains one.
    pub login: Option<BrokerLogin>,
}

impl fmt::Display for Broker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = match self.channel {
            BrokerTransport::Plain => "stomp",
            BrokerTransport::Tls => "stomps",
        };
        let host = self.host.escape_controls();
        match self.host.contains(':') {
            true => write!(f, "{scheme}://[{host}]:{}", self.port),
            false => write!(f, "{scheme}://{host}:{}", self.port),
        }
    }
}

/// The order in which the brokers of a list are tried.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum BrokerOrder {
    /// The order of the list.
    #[default]
    Written,
    /// A random order.
    Random,
}

/// The waits before brokers are tried again when none was usable.
#[derive(Clone, Debug, PartialEq)]
pub struct RetryPolicy {
    /// The wait after the first round.
    pub first: Duration,
    /// The longest wait.
    pub longest: Duration,
    /// The factor for the wait of each further round.
    pub growth: u32,
    /// The order of the brokers in a round.
    pub order: BrokerOrder,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        let longest = Duration::from_secs(30);
        Self { first: SHORTEST_WAIT, longest, growth: 2, order: BrokerOrder::default() }
    }
}

impl RetryPolicy {
    /// The wait after the failed round `round` (1, 2, …): one second, and a random `share` (0 to 1) of
    /// what the rule allows, so that many machines that lost one broker together do not reconnect
    /// together.
    pub fn wait(&self, round: u32, share: f64) -> Duration {
        let growth = self.growth.max(1).saturating_pow(round.saturating_sub(1).min(16));
        let most = self.first.saturating_mul(growth).min(self.longest);
        SHORTEST_WAIT + most.min(LONGEST_WAIT).mul_f64(share.clamp(0.0, 1.0))
    }
}

/// The next attempt after a session ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NextBroker {
    /// The broker was usable: start at the front of the list, with the preferred brokers, after this
    /// wait.
    Afresh(Duration),
    /// The broker was not usable: try the next one of the list at once.
    Another,
    /// No broker of the list was usable: start at its front after this wait.
    Again(Duration),
}

impl RetryPolicy {
    /// The next attempt after a session of length `lasted` (`None`: it never began) in round `round` (1,
    /// 2, …), with so many brokers `untried`. A broker that accepts us and then does nothing, however
    /// slowly, does not keep us from the others. The `share` is random.
    pub fn next(
        &self,
        lasted: Option<Duration>,
        untried: usize,
        round: u32,
        share: f64,
    ) -> NextBroker {
        match (lasted, untried) {
            // Many other machines lost the broker at the same instant.
            (Some(lasted), _) if lasted > USEFUL => {
                NextBroker::Afresh(SHORTEST_WAIT.mul_f64(share.clamp(0.0, 1.0)))
            }
            (_, 0) => NextBroker::Again(self.wait(round, share)),
            _ => NextBroker::Another,
        }
    }
}

/// The settings for the message bus, from `[bus]`.
#[derive(Clone, Debug, PartialEq)]
pub struct BrokerSettings {
    /// `brokers`, in order of preference; at least one.
    pub list: Vec<Broker>,
    /// The retry rule.
    pub retry: RetryPolicy,
    /// `login_file`: the login for brokers whose address has none; read again for each use.
    pub login_file: Option<PathBuf>,
    /// `ca_file`: the CA certificates that replace those of the system.
    pub ca_file: Option<PathBuf>,
    /// `host`: the virtual host on the broker; `/` by default.
    pub host: String,
    /// `heartbeat`: the interval of heartbeats in both directions; after three missing ones the session
    /// ends.
    pub heartbeat: Duration,
}

/// One entry of `brokers`: a broker, or a list in the form `failover:(…)?…`.
#[derive(Clone, Debug, PartialEq)]
pub struct BrokerEntry {
    /// The brokers, in order.
    pub brokers: Vec<Broker>,
    /// The retry rule; only the failover form has one.
    pub retry: Option<RetryPolicy>,
    /// Options without a meaning here, as they are written.
    pub ignored: Vec<String>,
}

impl FromStr for BrokerEntry {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let Some(rest) = text.strip_prefix("failover:") else {
            let broker = broker(text, LoginForm::Url)?;
            return Ok(Self { brokers: vec![broker], retry: None, ignored: Vec::new() });
        };
        let rest = rest.strip_prefix("//").unwrap_or(rest);
        // A password may contain any of the characters around it.
        let inner = rest.strip_prefix('(').and_then(|rest| rest.rsplit_once(')'));
        let (list, options) = inner.ok_or_else(|| refused("a failover: without its list"))?;
        let options = match options.split_once('?') {
            Some(("", options)) => options,
            None if options.is_empty() => "",
            _ => return Err(refused("something else than options behind the list of a failover:")),
        };
        let brokers = separate(list).into_iter().map(|one| broker(one.trim(), LoginForm::Literal));
        let brokers = brokers.collect::<Result<Vec<_>, _>>()?;
        let mut listed = Self { brokers, retry: None, ignored: Vec::new() };
        let mut retry = RetryPolicy::default();
        for option in options.split('&').filter(|option| !option.is_empty()) {
            if !set(&mut retry, option) {
                listed.ignored.push(option.to_owned());
            }
        }
        retry.first = retry.first.clamp(SHORTEST_WAIT, LONGEST_WAIT);
        retry.longest = retry.longest.clamp(retry.first, LONGEST_WAIT);
        listed.retry = Some(retry);
        Ok(listed)
    }
}

/// The entries of a failover list. A comma belongs to a password unless an address begins after it.
fn separate(list: &str) -> Vec<&str> {
    let begins =
        |rest: &str| SCHEMES.iter().any(|(scheme, _)| rest.trim_start().starts_with(scheme));
    let mut entries = Vec::new();
    let mut start = 0;
    for (comma, _) in list.match_indices(',') {
        if begins(&list[comma + 1..]) {
            entries.push(&list[start..comma]);
            start = comma + 1;
        }
    }
    entries.push(&list[start..]);
    entries
}

/// Applies one option as the old Ruby library did: names are case-sensitive, times in milliseconds.
/// Returns `false` for an unknown option.
fn set(retry: &mut RetryPolicy, option: &str) -> bool {
    let (name, value) = option.split_once('=').unwrap_or((option, ""));
    let time = value.parse().ok().map(Duration::from_millis);
    match (name, time, value) {
        ("initialReconnectDelay", Some(time), _) => retry.first = time,
        ("maxReconnectDelay", Some(time), _) => retry.longest = time,
        ("backOffMultiplier", ..) => match value.parse() {
            Ok(growth) => retry.growth = growth,
            Err(_) => return false,
        },
        ("useExponentialBackOff", _, "false") => retry.growth = 1,
        ("useExponentialBackOff", _, "true") => {}
        ("randomize", _, "true") => retry.order = BrokerOrder::Random,
        ("randomize", _, "false") => {}
        // We retry for ever, which is what 0 means.
        ("maxReconnectAttempts", _, "0") => {}
        _ => return false,
    }
    true
}

/// The URL schemes of brokers, and their transports.
const SCHEMES: [(&str, BrokerTransport); 3] = [
    ("stomp://", BrokerTransport::Plain),
    ("stomps://", BrokerTransport::Tls),
    ("stomp+ssl://", BrokerTransport::Tls),
];

/// The encoding of a login in an address.
#[derive(Clone, Copy, PartialEq, Eq)]
enum LoginForm {
    /// Percent-encoded, such as `%40` for `@`.
    Url,
    /// Without any encoding.
    Literal,
}

/// Parses an address. Errors never show the text, which may hold a password.
fn broker(text: &str, form: LoginForm) -> Result<Broker, String> {
    let found =
        SCHEMES.iter().find_map(|&(scheme, channel)| Some((text.strip_prefix(scheme)?, channel)));
    let Some((rest, channel)) = found else {
        return Err(refused("an address that begins with neither stomp:// nor stomps://"));
    };
    let (login, place) = match rest.rsplit_once('@') {
        Some((login, place)) => (Some(login), place),
        None => (None, rest),
    };
    let login = login.map(|login| read_login(login, form)).transpose()?;
    let place = place.strip_suffix('/').unwrap_or(place);
    let (host, port) = match (place.strip_prefix('['), place.rsplit_once(':')) {
        (Some(rest), _) => {
            let (host, port) =
                rest.split_once(']').ok_or_else(|| refused("an address whose [ has no ]"))?;
            (host, if port.is_empty() { None } else { Some(port.strip_prefix(':').unwrap_or("")) })
        }
        (None, Some((host, port))) => (host, Some(port)),
        (None, None) => (place, None),
    };
    let is_name = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    let in_address = |c: char| c.is_ascii_hexdigit() || ":.".contains(c);
    let is_address = place.starts_with('[') && host.contains(':') && host.chars().all(in_address);
    if host.is_empty() || !(is_address || host.chars().all(is_name)) {
        return Err(refused("an address without the name of a host"));
    }
    let port = match (port, channel) {
        (Some(port), _) => port
            .parse()
            .ok()
            .filter(|&port| port != 0)
            .ok_or_else(|| refused("an address whose port is no number from 1 to 65535"))?,
        (None, BrokerTransport::Plain) => 61613,
        (None, BrokerTransport::Tls) => 61614,
    };
    Ok(Broker { channel, host: host.to_owned(), port, login })
}

fn read_login(text: &str, form: LoginForm) -> Result<BrokerLogin, String> {
    let (user, password) = text.split_once(':').unwrap_or((text, ""));
    let plain = |text: &str| match form {
        LoginForm::Literal => Ok(text.to_owned()),
        LoginForm::Url => percent_decode_str(text).decode_utf8().map(std::borrow::Cow::into_owned),
    };
    match (plain(user), plain(password)) {
        (Ok(user), Ok(password))
            if !(user.clone() + &password).contains(char::is_control) && !user.is_empty() =>
        {
            Ok(BrokerLogin { user, password })
        }
        _ => Err(refused("an address whose user or password cannot be one")),
    }
}

fn refused(what: &str) -> String {
    format!(
        "it holds {what}\n\
         hint: write one such as \"stomps://amq1.example.org:61614\", and user and password into \
         login_file"
    )
}

#[cfg(test)]
mod tests {
    use crate::domain::bus::broker::*;

    fn listed(text: &str) -> BrokerEntry {
        text.parse().unwrap_or_else(|error| panic!("{text}: {error}"))
    }

    fn printable(text: &str) -> String {
        listed(text).brokers.iter().map(Broker::to_string).collect::<Vec<_>>().join(" ")
    }

    fn logins(text: &str) -> Vec<(String, String)> {
        let brokers = listed(text).brokers.into_iter();
        brokers.filter_map(|broker| broker.login).map(|it| (it.user, it.password)).collect()
    }

    #[test]
    fn a_broker_is_written_as_an_address_and_shown_without_its_login() {
        for (text, expected) in [
            ("stomp://amq.example.org:61613", "stomp://amq.example.org:61613"),
            ("stomp://u:p@amq.example.org", "stomp://amq.example.org:61613"),
            ("stomps://u:p@amq.example.org/", "stomps://amq.example.org:61614"),
            ("stomp+ssl://10.0.0.1:1", "stomps://10.0.0.1:1"),
            ("stomp://[::1]:61613", "stomp://[::1]:61613"),
            ("stomps://u:p@[fe80::1]", "stomps://[fe80::1]:61614"),
        ] {
            assert_eq!(printable(text), expected);
            assert!(!format!("{:?}", listed(text)).contains("\"p\""));
        }
        assert_eq!(logins("stomp://u%40x:p%3a%41:@h"), [("u@x".into(), "p:A:".into())]);
    }

    #[test]
    fn what_is_no_broker_is_refused_without_showing_its_password() {
        for text in [
            "",
            "amq.example.org",
            "https://u:hush@h",
            "STOMP://u:hush@h",
            "stomp://u:hush@",
            "stomp://u:hush@:61613",
            "stomp://u:hush@h:0",
            "stomp://u:hush@h:65536",
            "stomp://u:hush@h:",
            "stomp://u:hush@[::1",
            "stomp://u:hush@::1",
            "stomp://u:hush@h/path",
            "stomp://:hush@h",
            "stomp://u:hush%0a@h",
            "stomp://u:hush%ff@h",
            "failover:",
            "failover:()",
            "failover:(stomp://u:hush@h",
            "failover:(stomp://u:hush@h)x",
            "failover:(stomp://u:hush@h,)?",
            "failover:(stomp://u:hush@h)&a=b",
        ] {
            let error = text.parse::<BrokerEntry>().expect_err(text);
            assert!(error.starts_with("it holds ") && !error.contains("hush"), "{text}: {error}");
        }
    }

    #[test]
    fn the_list_of_old_is_read_as_the_library_of_old_read_it() {
        let text = "failover://(stomp://othergituser:p%41@amq3.otherdomain.net:61613,\
                    stomp+ssl://g:a@b,c)d#@amq4.otherdomain.net:61614)\
                    ?initialReconnectDelay=5000&MaxReconnectDelay=30&randomize=true\
                    &maxReconnectDelay=60000&backOffMultiplier=3&Backup=false&maxReconnectAttempts=0";
        let expected = "stomp://amq3.otherdomain.net:61613 stomps://amq4.otherdomain.net:61614";
        assert_eq!(printable(text), expected);
        assert_eq!(
            logins(text),
            [("othergituser".into(), "p%41".into()), ("g".into(), "a@b,c)d#".into())]
        );
        let BrokerEntry { retry, ignored, .. } = listed(text);
        let (first, longest) = (Duration::from_secs(5), Duration::from_secs(60));
        assert_eq!(
            retry,
            Some(RetryPolicy { first, longest, growth: 3, order: BrokerOrder::Random })
        );
        assert_eq!(ignored, ["MaxReconnectDelay=30", "Backup=false"]);
        assert_eq!(printable("failover:(stomp://a)"), "stomp://a:61613");
        assert_eq!(printable("failover:(stomp://a, stomp://b)"), "stomp://a:61613 stomp://b:61613");
    }

    #[test]
    fn no_option_makes_us_hammer_a_broker() {
        for options in [
            "initialReconnectDelay=0&maxReconnectDelay=0&backOffMultiplier=0",
            "maxReconnectDelay=30&useExponentialBackOff=false",
            "initialReconnectDelay=18446744073709551615&backOffMultiplier=4294967295",
        ] {
            let retry = listed(&format!("failover:(stomp://a)?{options}")).retry.unwrap();
            for round in [1, 2, 40, u32::MAX] {
                assert!(retry.wait(round, 0.0) >= SHORTEST_WAIT, "{options}");
                assert!(retry.wait(round, 1.0) <= LONGEST_WAIT + SHORTEST_WAIT, "{options}");
            }
        }
    }

    #[test]
    fn waits_grow_and_spread() {
        let retry = RetryPolicy::default();
        let most = [1, 2, 3, 4, 5, 6, 7].map(|round| retry.wait(round, 1.0).as_secs());
        assert_eq!(most, [2, 3, 5, 9, 17, 31, 31]);
        assert!([1, 9].iter().all(|&round| retry.wait(round, 0.0) == SHORTEST_WAIT));
    }

    #[test]
    fn a_login_is_the_first_line_and_its_password_may_hold_colons() {
        let login: BrokerLogin = "agent:a:b\\c \nrest".parse().unwrap();
        assert_eq!((login.user.as_str(), login.password.as_str()), ("agent", "a:b\\c "));
        assert_eq!(format!("{login:?}"), "Login(..)");
        for text in ["", "agent", ":x", "a:\u{7}"] {
            assert_eq!(text.parse::<BrokerLogin>(), Err(InvalidLogin));
        }
    }

    #[test]
    fn a_broker_that_is_slow_at_every_step_does_not_keep_us_from_the_next() {
        let retry = RetryPolicy::default();
        let seconds = Duration::from_secs;
        for lasted in [None, Some(Duration::ZERO), Some(seconds(10))] {
            assert_eq!(retry.next(lasted, 1, 1, 0.5), NextBroker::Another);
            assert_eq!(retry.next(lasted, 0, 1, 0.5), NextBroker::Again(retry.wait(1, 0.5)));
        }
    }

    #[test]
    fn many_that_lose_a_broker_at_once_come_back_all_over_a_second() {
        let after =
            |share| match RetryPolicy::default().next(Some(Duration::from_secs(11)), 1, 7, share) {
                NextBroker::Afresh(wait) => wait,
                other => panic!("{other:?}"),
            };
        assert_eq!([0.0, 0.25, 1.0].map(after), [0, 250, 1000].map(Duration::from_millis));
    }
}
