//! For which hosts the page answers. A web site may let its own name resolve to this machine (DNS rebinding), so that
//! its scripts could read the page in a visitor's browser; the browser still asks for that name.

// Of core: an address, and no network.
use core::net::IpAddr;

/// The hosts that a browser may ask for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PageHosts {
    bind: IpAddr,
    /// As [`host_name`] writes them.
    allowed: Vec<String>,
}

impl PageHosts {
    /// The address `bind`, and the names `allowed`.
    pub fn new(bind: IpAddr, allowed: &[String]) -> Self {
        Self { bind, allowed: allowed.to_vec() }
    }

    /// Whether a browser that asks for `host`, the value of the header with or without a port, is meant. The port is
    /// not compared: a tunnel has another one, and a foreign name does not become ours by it.
    pub fn admits(&self, host: &str) -> bool {
        let Some(name) = without_port(host).and_then(host_name) else { return false };
        let is_allowed = self.allowed.contains(&name);
        let is_bind = match name.parse::<IpAddr>() {
            // An address resolves to nothing else.
            Ok(_) if self.bind.is_unspecified() => true,
            Ok(address) => address == self.bind || self.bind.is_loopback() && address.is_loopback(),
            Err(_) => {
                name == "localhost" && (self.bind.is_loopback() || self.bind.is_unspecified())
            }
        };
        is_allowed || is_bind
    }
}

/// The host name or address `text` in the form in which they are compared; `None`: it is neither.
pub fn host_name(text: &str) -> Option<String> {
    let inner = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    if let Ok(address) = inner.unwrap_or(text).parse::<IpAddr>() {
        return Some(address.to_string());
    }
    let name = text.strip_suffix('.').unwrap_or(text).to_ascii_lowercase();
    let is_label = |label: &str| {
        let is_letter = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
        (1..=63).contains(&label.len()) && label.chars().all(is_letter)
    };
    (name.len() <= 253 && name.split('.').all(is_label)).then_some(name)
}

/// `host` without its port; `None`: what follows the colon is no port.
fn without_port(host: &str) -> Option<&str> {
    let end = match host.rfind(']') {
        Some(bracket) => bracket + 1,
        None => host.find(':').unwrap_or(host.len()),
    };
    let (name, port) = host.split_at(end);
    let is_port = port.is_empty()
        || port.strip_prefix(':').is_some_and(|it| it.bytes().all(|byte| byte.is_ascii_digit()));
    is_port.then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn admits(bind: &str, allowed: &[&str], host: &str) -> bool {
        let allowed: Vec<String> = allowed.iter().map(|it| (*it).to_owned()).collect();
        PageHosts::new(bind.parse().unwrap(), &allowed).admits(host)
    }

    #[test]
    fn a_browser_reaches_the_page_by_its_address_and_by_names_that_are_allowed() {
        for (bind, host) in [
            ("127.0.0.1", "127.0.0.1:9420"),
            ("127.0.0.1", "localhost:8080"),
            ("127.0.0.1", "LOCALHOST."),
            ("127.0.0.1", "[::1]:9420"),
            ("::1", "127.0.0.1"),
            ("192.0.2.7", "192.0.2.7:9420"),
            ("2001:db8::7", "[2001:DB8:0::7]:9420"),
            ("0.0.0.0", "198.51.100.3:9420"),
            ("127.0.0.1", "web01.example.org"),
            ("0.0.0.0", "Web01.Example.org:443"),
        ] {
            assert!(admits(bind, &["web01.example.org"], host), "{bind} {host}");
        }
    }

    #[test]
    fn a_name_that_somebody_lets_resolve_to_the_machine_is_not_one_of_its_own() {
        for (bind, host) in [
            ("127.0.0.1", "evil.example:9420"),
            ("127.0.0.1", "127.0.0.1.evil.example"),
            ("127.0.0.1", "localhost.evil.example"),
            ("127.0.0.1", "xweb01.example.org"),
            ("127.0.0.1", "192.0.2.7"),
            ("192.0.2.7", "localhost"),
            ("0.0.0.0", "evil.example"),
            ("127.0.0.1", ""),
            ("127.0.0.1", ":9420"),
            ("127.0.0.1", "localhost:9420@evil.example"),
            ("127.0.0.1", "localhost:9420:9420"),
            ("127.0.0.1", "[::1"),
            ("127.0.0.1", "localhost evil.example"),
        ] {
            assert!(!admits(bind, &["web01.example.org"], host), "{bind} {host}");
        }
    }

    #[test]
    fn a_host_has_one_form() {
        for (text, name) in [
            ("Status.Example.ORG.", Some("status.example.org")),
            ("[2001:db8::1]", Some("2001:db8::1")),
            ("2001:DB8:0:0::1", Some("2001:db8::1")),
            ("a..b", None),
            ("", None),
            ("a/b", None),
            ("https://a", None),
            ("a:80", None),
        ] {
            assert_eq!(host_name(text).as_deref(), name, "{text}");
        }
    }
}
