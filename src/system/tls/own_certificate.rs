//! Accepts a server whose very certificate is in `ca_file`, as `openssl req -x509` makes it: usually it is
//! marked as an authority's and has a common name only. Its time and its name count all the same.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::verify_server_name;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, DigitallySignedStruct, Error, SignatureScheme};

use super::certificate::CertificateFacts;

/// Verifies servers by their chain of certificates, or by their certificate itself.
#[derive(Debug)]
pub(super) struct OwnCertificateVerifier {
    /// The usual verifier.
    pub(super) chains: Arc<WebPkiServerVerifier>,
    /// The certificates in `ca_file`.
    pub(super) trusted: Vec<CertificateDer<'static>>,
}

impl ServerCertVerifier for OwnCertificateVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let chains = &self.chains;
        match chains.verify_server_cert(end_entity, intermediates, name, ocsp_response, now) {
            Err(_) if self.trusted.contains(end_entity) => {
                check(end_entity, name, now)?;
                Ok(ServerCertVerified::assertion())
            }
            outcome => outcome,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.chains.verify_tls12_signature(message, certificate, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.chains.verify_tls13_signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.chains.supported_verify_schemes()
    }
}

/// Checks the time and the name of a certificate that is trusted as it is.
fn check(certificate: &CertificateDer, name: &ServerName, now: UnixTime) -> Result<(), Error> {
    let facts = CertificateFacts::read(certificate).ok_or(CertificateError::BadEncoding)?;
    let unix = |seconds: i64| {
        UnixTime::since_unix_epoch(Duration::from_secs(seconds.max(0).cast_unsigned()))
    };
    let not_before = unix(facts.not_before.timestamp());
    let not_after = unix(facts.not_after.timestamp());
    if now < not_before {
        return Err(CertificateError::NotValidYetContext { time: now, not_before }.into());
    }
    if now > not_after {
        return Err(CertificateError::ExpiredContext { time: now, not_after }.into());
    }
    match &facts.common_name {
        Some(common) if !facts.has_alternatives && is_name(common, name) => Ok(()),
        _ => verify_server_name(&ParsedCertificate::try_from(certificate)?, name),
    }
}

/// Whether the common name matches `name`; as in curl, `*.` matches one label.
fn is_name(common: &str, name: &ServerName) -> bool {
    match name {
        ServerName::DnsName(host) => {
            let host = host.as_ref();
            let is_below = |rest: &str| {
                let behind = host.split_once('.').map(|(_, behind)| behind);
                rest.contains('.') && behind.is_some_and(|it| it.eq_ignore_ascii_case(rest))
            };
            common.eq_ignore_ascii_case(host) || common.strip_prefix("*.").is_some_and(is_below)
        }
        ServerName::IpAddress(address) => common.parse() == Ok(IpAddr::from(*address)),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_common_name_stands_for_one_host_or_one_label() {
        for (common, host, expected) in [
            ("Git.Example.org", "git.example.org", true),
            ("*.example.org", "git.example.org", true),
            ("*.example.org", "a.git.example.org", false),
            ("*.example.org", "example.org", false),
            ("*.org", "example.org", false),
            ("git.example.org", "evil.example.org", false),
            ("10.0.0.1", "10.0.0.1", true),
            ("::1", "::1", true),
            ("*.0.0.1", "10.0.0.1", false),
        ] {
            let name = ServerName::try_from(host).unwrap();
            assert_eq!(is_name(common, &name), expected, "{common} {host}");
        }
    }
}
