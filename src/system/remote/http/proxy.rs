//! Finds the proxy for a server: the configured one, or the one in the usual variables, read as curl
//! reads them. Connects to none.

use std::net::IpAddr;

use crate::domain::git::Remote;
use crate::system::host;
use crate::system::remote::http::url::HttpOrigin;

/// The proxy for `origin`; `None` for a direct connection. Its address may hold a password.
pub(super) fn proxy_for(configured: Option<&Remote>, origin: &HttpOrigin) -> Option<Remote> {
    if let Some(proxy) = configured {
        return Some(proxy.clone());
    }
    let names: &[&str] = if origin.is_encrypted {
        &["https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"]
    } else {
        // In capitals a web server sets it for its CGI programs, from a header of the client's.
        &["http_proxy", "all_proxy", "ALL_PROXY"]
    };
    let proxy = host::variable(names)?;
    let exceptions = host::variable(&["no_proxy", "NO_PROXY"]).unwrap_or_default();
    (!is_excepted(&exceptions, &origin.host)).then(|| with_scheme(&proxy))
}

/// Adds http:// to an address without a scheme, as curl does.
fn with_scheme(proxy: &str) -> Remote {
    match proxy.contains("://") {
        true => Remote::new(proxy),
        false => Remote::new(format!("http://{proxy}")),
    }
}

/// Whether `exceptions`, such as `localhost, .example.org, 10.0.0.0/8`, name `host`.
fn is_excepted(exceptions: &str, host: &str) -> bool {
    let host = host.trim_matches(['[', ']']).trim_end_matches('.').to_ascii_lowercase();
    exceptions.split([',', ' ']).filter(|word| !word.is_empty()).any(|word| {
        let word = word.trim_matches(['[', ']', '.']).to_ascii_lowercase();
        word == "*" || word == host || is_below(&host, &word) || is_within(&host, &word)
    })
}

fn is_below(host: &str, domain: &str) -> bool {
    let is_name = host.parse::<IpAddr>().is_err() && !domain.is_empty();
    is_name && host.strip_suffix(domain).is_some_and(|rest| rest.ends_with('.'))
}

/// Whether the address `host` lies in `network`, such as `10.0.0.0/8`.
fn is_within(host: &str, network: &str) -> bool {
    let Some((network, length)) = network.split_once('/') else { return false };
    let Ok(length) = length.parse::<u32>() else { return false };
    let same = |one: u128, other: u128, bits: u32| {
        length <= bits && (length == 0 || (one ^ other).checked_shr(bits - length) == Some(0))
    };
    match (host.parse(), network.parse()) {
        (Ok(IpAddr::V4(host)), Ok(IpAddr::V4(network))) => {
            same(u32::from(host).into(), u32::from(network).into(), 32)
        }
        (Ok(IpAddr::V6(host)), Ok(IpAddr::V6(network))) => same(host.into(), network.into(), 128),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exceptions_are_read_as_curl_reads_them() {
        for (exceptions, host, expected) in [
            ("*", "a.example.org", true),
            ("localhost,.example.org", "git.example.org", true),
            ("example.org", "EXAMPLE.org", true),
            ("ample.org", "example.org", false),
            ("10.0.0.0/8 192.168.1.7", "10.20.30.40", true),
            ("10.0.0.0/8", "11.0.0.1", false),
            ("0.0.0.1", "10.0.0.1", false),
            ("::1, fd00::/8", "[fd00::1]", true),
            ("0.0.0.0/0", "1.2.3.4", true),
            ("10.0.0.0/99", "10.0.0.1", false),
            ("", "a", false),
        ] {
            assert_eq!(is_excepted(exceptions, host), expected, "{exceptions} {host}");
        }
    }

    #[test]
    fn a_proxy_without_a_scheme_is_shown_without_its_password_all_the_same() {
        let proxy = with_scheme("pat:secret@proxy.example.org:3128");
        assert_eq!(proxy.secret_url(), "http://pat:secret@proxy.example.org:3128");
        assert_eq!(proxy.to_string(), "http://proxy.example.org:3128");
        let proxy = with_scheme("HTTPS://proxy.example.org");
        assert_eq!(proxy.secret_url(), "HTTPS://proxy.example.org");
    }

    #[test]
    fn the_configured_proxy_comes_first() {
        let origin = HttpOrigin { is_encrypted: true, host: "localhost".to_owned(), port: 443 };
        let proxy = Remote::new("http://proxy.example.org:3128");
        assert_eq!(proxy_for(Some(&proxy), &origin), Some(proxy));
    }
}
