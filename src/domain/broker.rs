//! How brokers of the message bus are reached: their addresses, in the forms that people write them,
//! who we are there, and when a broker is tried again. Knows no connection.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use percent_encoding::percent_decode_str;

/// The shortest wait before brokers are tried again, whatever is configured.
pub const SHORTEST_WAIT: Duration = Duration::from_secs(1);
/// How long a session must last for its broker to count as one of use.
const USEFUL: Duration = Duration::from_secs(10);
/// The longest wait that may be configured.
const LONGEST_WAIT: Duration = Duration::from_secs(3600);

/// How the bytes to a broker travel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Channel {
    /// As they are.
    Plain,
    /// Over TLS.
    Tls,
}

/// Who we are to a broker. Shows nothing of it.
#[derive(Clone, PartialEq, Eq)]
pub struct Login {
    /// The user.
    pub user: String,
    /// The password.
    pub password: String,
}

impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Login(..)")
    }
}

impl FromStr for Login {
    type Err = NotALogin;

    /// Reads `USER:PASSWORD`, up to the end of the line. The password may hold colons.
    fn from_str(text: &str) -> Result<Self, NotALogin> {
        let line = text.lines().next().unwrap_or_default();
        let (user, password) = line.split_once(':').ok_or(NotALogin)?;
        if user.is_empty() || line.contains(char::is_control) {
            return Err(NotALogin);
        }
        Ok(Self { user: user.to_owned(), password: password.to_owned() })
    }
}

/// A text is no login; it is not shown.
#[derive(Debug, PartialEq, Eq)]
pub struct NotALogin;

impl fmt::Display for NotALogin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("its first line is not USER:PASSWORD")
    }
}

impl std::error::Error for NotALogin {}

/// One broker. Displays without its login.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Broker {
    /// How the bytes travel.
    pub channel: Channel,
    /// Its name or IP address; an IPv6 address without brackets.
    pub host: String,
    /// Where it listens.
    pub port: u16,
    /// Who we are there, where the address says so.
    pub login: Option<Login>,
}

impl fmt::Display for Broker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = match self.channel {
            Channel::Plain => "stomp",
            Channel::Tls => "stomps",
        };
        let host = self.host.escape_debug();
        match self.host.contains(':') {
            true => write!(f, "{scheme}://[{host}]:{}", self.port),
            false => write!(f, "{scheme}://{host}:{}", self.port),
        }
    }
}

/// In which order the brokers of a list are tried.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Order {
    /// As they are written.
    #[default]
    Written,
    /// Any.
    Random,
}

/// When brokers are tried again after none of them was of use.
#[derive(Clone, Debug, PartialEq)]
pub struct Retry {
    /// After the first round.
    pub first: Duration,
    /// At most.
    pub longest: Duration,
    /// How many times as long after each further round.
    pub growth: u32,
    /// Which broker is the first of a round.
    pub order: Order,
}

impl Default for Retry {
    fn default() -> Self {
        let longest = Duration::from_secs(30);
        Self { first: SHORTEST_WAIT, longest, growth: 2, order: Order::default() }
    }
}

impl Retry {
    /// The wait after round `round` (1, 2, …) without success: a second, and of what the rule allows
    /// the `share` (0 to 1), which is random: many machines that lost one broker at once do not come
    /// back at once.
    pub fn wait(&self, round: u32, share: f64) -> Duration {
        let growth = self.growth.max(1).saturating_pow(round.saturating_sub(1).min(16));
        let most = self.first.saturating_mul(growth).min(self.longest);
        SHORTEST_WAIT + most.min(LONGEST_WAIT).mul_f64(share.clamp(0.0, 1.0))
    }
}

/// What is tried after a session that is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// It was of use: the list from its front, where the preferred brokers are, after this wait.
    Afresh(Duration),
    /// It was of none: the next broker of the list, at once.
    Another,
    /// None of the list was: the list from its front, after this wait.
    Again(Duration),
}

impl Retry {
    /// What is tried after a session that was up for `lasted` (`None`: it never came to that) in round
    /// `round` (1, 2, …) without success, of which so many brokers are `untried`. A broker that takes
    /// us and does nothing, however slowly, does not keep us from the others. The `share` is random.
    pub fn next(&self, lasted: Option<Duration>, untried: usize, round: u32, share: f64) -> Next {
        match (lasted, untried) {
            // Many others have lost it in the same instant.
            (Some(lasted), _) if lasted > USEFUL => {
                Next::Afresh(SHORTEST_WAIT.mul_f64(share.clamp(0.0, 1.0)))
            }
            (_, 0) => Next::Again(self.wait(round, share)),
            _ => Next::Another,
        }
    }
}

/// How the message bus is reached: what `[bus]` says of it.
#[derive(Clone, Debug, PartialEq)]
pub struct Brokers {
    /// `brokers`, in order of preference; at least one.
    pub list: Vec<Broker>,
    /// When they are tried again.
    pub retry: Retry,
    /// `login_file`: who we are to a broker whose address does not say it; read anew each time.
    pub login_file: Option<PathBuf>,
    /// `ca_file`: trusted instead of the system's authorities.
    pub ca_file: Option<PathBuf>,
    /// `host`: which of several brokers in one server is meant; `/` unless said.
    pub host: String,
    /// `heartbeat`: how often either side shows that it is alive; after three that did not come the
    /// session is over.
    pub heartbeat: Duration,
}

/// One entry of `brokers`: a broker, or the form `failover:(…)?…` that lists several.
#[derive(Clone, Debug, PartialEq)]
pub struct Listed {
    /// The brokers.
    pub brokers: Vec<Broker>,
    /// Of the form that can say it.
    pub retry: Option<Retry>,
    /// Options that were written and mean nothing, as they stand there.
    pub ignored: Vec<String>,
}

impl FromStr for Listed {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let Some(rest) = text.strip_prefix("failover:") else {
            let broker = broker(text, Form::Url)?;
            return Ok(Self { brokers: vec![broker], retry: None, ignored: Vec::new() });
        };
        let rest = rest.strip_prefix("//").unwrap_or(rest);
        // A password may hold any of the characters that stand around it.
        let inner = rest.strip_prefix('(').and_then(|rest| rest.rsplit_once(')'));
        let (list, options) = inner.ok_or_else(|| refused("a failover: without its list"))?;
        let options = match options.split_once('?') {
            Some(("", options)) => options,
            None if options.is_empty() => "",
            _ => return Err(refused("something else than options behind the list of a failover:")),
        };
        let brokers = separate(list).into_iter().map(|one| broker(one.trim(), Form::Literal));
        let brokers = brokers.collect::<Result<Vec<_>, _>>()?;
        let mut listed = Self { brokers, retry: None, ignored: Vec::new() };
        let mut retry = Retry::default();
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

/// The entries of a failover list. A comma belongs to a password unless an address begins behind it.
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

/// Takes one option as the Ruby library of old did: names in exactly this case, times in
/// milliseconds. Whether it means anything.
fn set(retry: &mut Retry, option: &str) -> bool {
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
        ("randomize", _, "true") => retry.order = Order::Random,
        ("randomize", _, "false") => {}
        // We never give up, which is what 0 means.
        ("maxReconnectAttempts", _, "0") => {}
        _ => return false,
    }
    true
}

/// What may stand in front of a broker, with how the bytes travel then.
const SCHEMES: [(&str, Channel); 3] =
    [("stomp://", Channel::Plain), ("stomps://", Channel::Tls), ("stomp+ssl://", Channel::Tls)];

/// How a login is written in an address.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Form {
    /// With `%40` for `@` and the like.
    Url,
    /// As it is.
    Literal,
}

/// Never shows the text, which may hold a password.
fn broker(text: &str, form: Form) -> Result<Broker, String> {
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
        (None, Channel::Plain) => 61613,
        (None, Channel::Tls) => 61614,
    };
    Ok(Broker { channel, host: host.to_owned(), port, login })
}

fn read_login(text: &str, form: Form) -> Result<Login, String> {
    let (user, password) = text.split_once(':').unwrap_or((text, ""));
    let plain = |text: &str| match form {
        Form::Literal => Ok(text.to_owned()),
        Form::Url => percent_decode_str(text).decode_utf8().map(std::borrow::Cow::into_owned),
    };
    match (plain(user), plain(password)) {
        (Ok(user), Ok(password))
            if !(user.clone() + &password).contains(char::is_control) && !user.is_empty() =>
        {
            Ok(Login { user, password })
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
    use super::*;

    fn listed(text: &str) -> Listed {
        text.parse().unwrap_or_else(|error| panic!("{text}: {error}"))
    }

    fn shown(text: &str) -> String {
        listed(text).brokers.iter().map(Broker::to_string).collect::<Vec<_>>().join(" ")
    }

    fn logins(text: &str) -> Vec<(String, String)> {
        let brokers = listed(text).brokers.into_iter();
        brokers.filter_map(|broker| broker.login).map(|it| (it.user, it.password)).collect()
    }

    #[test]
    fn a_broker_is_written_as_an_address_and_shown_without_its_login() {
        for (text, told) in [
            ("stomp://amq.example.org:61613", "stomp://amq.example.org:61613"),
            ("stomp://u:p@amq.example.org", "stomp://amq.example.org:61613"),
            ("stomps://u:p@amq.example.org/", "stomps://amq.example.org:61614"),
            ("stomp+ssl://10.0.0.1:1", "stomps://10.0.0.1:1"),
            ("stomp://[::1]:61613", "stomp://[::1]:61613"),
            ("stomps://u:p@[fe80::1]", "stomps://[fe80::1]:61614"),
        ] {
            assert_eq!(shown(text), told);
            assert!(!format!("{:?}", listed(text)).contains("\"p\""));
        }
        assert_eq!(logins("stomp://u%40x:p%3a%41:@h"), [("u@x".into(), "p:A:".into())]);
    }

    #[test]
    fn what_is_no_broker_is_refused_without_telling_its_password() {
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
            let error = text.parse::<Listed>().expect_err(text);
            assert!(error.starts_with("it holds ") && !error.contains("hush"), "{text}: {error}");
        }
    }

    #[test]
    fn the_list_of_old_is_read_as_the_library_of_old_read_it() {
        let text = "failover://(stomp://othergituser:p%41@amq3.otherdomain.net:61613,\
                    stomp+ssl://g:a@b,c)d#@amq4.otherdomain.net:61614)\
                    ?initialReconnectDelay=5000&MaxReconnectDelay=30&randomize=true\
                    &maxReconnectDelay=60000&backOffMultiplier=3&Backup=false&maxReconnectAttempts=0";
        let told = "stomp://amq3.otherdomain.net:61613 stomps://amq4.otherdomain.net:61614";
        assert_eq!(shown(text), told);
        assert_eq!(
            logins(text),
            [("othergituser".into(), "p%41".into()), ("g".into(), "a@b,c)d#".into())]
        );
        let Listed { retry, ignored, .. } = listed(text);
        let (first, longest) = (Duration::from_secs(5), Duration::from_secs(60));
        assert_eq!(retry, Some(Retry { first, longest, growth: 3, order: Order::Random }));
        assert_eq!(ignored, ["MaxReconnectDelay=30", "Backup=false"]);
        assert_eq!(shown("failover:(stomp://a)"), "stomp://a:61613");
        assert_eq!(shown("failover:(stomp://a, stomp://b)"), "stomp://a:61613 stomp://b:61613");
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
        let retry = Retry::default();
        let most = [1, 2, 3, 4, 5, 6, 7].map(|round| retry.wait(round, 1.0).as_secs());
        assert_eq!(most, [2, 3, 5, 9, 17, 31, 31]);
        assert!([1, 9].iter().all(|&round| retry.wait(round, 0.0) == SHORTEST_WAIT));
    }

    #[test]
    fn a_login_is_the_first_line_and_its_password_may_hold_colons() {
        let login: Login = "agent:a:b\\c \nrest".parse().unwrap();
        assert_eq!((login.user.as_str(), login.password.as_str()), ("agent", "a:b\\c "));
        assert_eq!(format!("{login:?}"), "Login(..)");
        for text in ["", "agent", ":x", "a:\u{7}"] {
            assert_eq!(text.parse::<Login>(), Err(NotALogin));
        }
    }

    #[test]
    fn a_broker_that_is_slow_at_every_step_does_not_keep_us_from_the_next() {
        let retry = Retry::default();
        let seconds = Duration::from_secs;
        for lasted in [None, Some(Duration::ZERO), Some(seconds(10))] {
            assert_eq!(retry.next(lasted, 1, 1, 0.5), Next::Another);
            assert_eq!(retry.next(lasted, 0, 1, 0.5), Next::Again(retry.wait(1, 0.5)));
        }
    }

    #[test]
    fn many_that_lose_a_broker_at_once_come_back_all_over_a_second() {
        let after = |share| match Retry::default().next(Some(Duration::from_secs(11)), 1, 7, share)
        {
            Next::Afresh(wait) => wait,
            other => panic!("{other:?}"),
        };
        assert_eq!([0.0, 0.25, 1.0].map(after), [0, 250, 1000].map(Duration::from_millis));
    }
}
