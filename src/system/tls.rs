//! Trusted CAs for TLS, of the system or of a `ca_file`, and readable messages for TLS errors. Reads
//! files; makes no connection.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use chrono::{DateTime, Local, Utc};
use rustls::client::danger::ServerCertVerifier;
use rustls::client::{WantsClientCert, WebPkiServerVerifier};
use rustls::crypto::ring;
use rustls::pki_types::UnixTime;
use rustls::{
    AlertDescription, CertificateError, ClientConfig, ConfigBuilder, PeerIncompatible,
    PeerMisbehaved, RootCertStore,
};

use self::bundle::BundleVerifier;
use self::own_certificate::OwnCertificateVerifier;
use super::files;
use crate::domain::text::EscapeControls;
use crate::system::host;

mod bundle;
mod certificate;
mod own_certificate;

/// Largest certificate file, in bytes; the system's bundle has a quarter of a million.
pub const CAP: u64 = 16 << 20;

/// Files where distributions keep all CAs: Debian and most others, Red Hat, SUSE, Alpine. One file is
/// read four times as fast as a directory of them.
const BUNDLES: [&str; 4] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// The kinds of keys that certificates may have.
pub const KINDS: &str = "RSA, P-256, P-384 and Ed25519, not P-521 and RSA-PSS";

/// TLS client without a certificate of its own; see [`builder`].
///
/// # Errors
/// As [`builder`].
pub fn client(ca_file: Option<&Path>) -> Result<Arc<ClientConfig>> {
    Ok(Arc::new(builder(ca_file)?.with_no_client_auth()))
}

/// TLS 1.2 and 1.3 client that accepts servers with a certificate of the CAs in `ca_file`, or with a
/// certificate that is itself in it. `None`: of the CAs that this system trusts.
///
/// # Errors
/// When the file cannot be read or has no certificate.
pub fn builder(ca_file: Option<&Path>) -> Result<ConfigBuilder<ClientConfig, WantsClientCert>> {
    let provider = Arc::new(ring::default_provider());
    let verifier: Arc<dyn ServerCertVerifier> = match ca_file {
        None => Arc::new(BundleVerifier::new(system_bundle()?, Arc::clone(&provider))),
        Some(file) => {
            let pem =
                open(file).with_context(|| format!("ca_file {} cannot be used", file.display()))?;
            let trusted: Vec<_> = bundle::certificates(&pem, |_| true).collect();
            let mut roots = RootCertStore::empty();
            let (added, _) = roots.add_parsable_certificates(trusted.iter().cloned());
            ensure!(added > 0, "none of its certificates can be read\n{REMEDY}");
            let roots = Arc::new(roots);
            let provider = Arc::clone(&provider);
            let chains = WebPkiServerVerifier::builder_with_provider(roots, provider).build()?;
            Arc::new(OwnCertificateVerifier { chains, trusted })
        }
    };
    Ok(ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(verifier))
}

/// The file with the CAs that this system trusts, which curl reads as well; `None`: there is none.
pub fn bundle() -> Option<PathBuf> {
    let named = host::variable(&["SSL_CERT_FILE"]).map(PathBuf::from);
    named.or_else(|| BUNDLES.iter().map(PathBuf::from).find(|file| file.exists()))
}

fn system_bundle() -> Result<File> {
    let file = bundle().context(
        "no CA bundle was found on this system\n\
         hint: install the package ca-certificates, or name a file in ca_file",
    )?;
    open(&file).with_context(|| format!("{} cannot be used", file.display()))
}

const REMEDY: &str = "hint: correct ca_file, or leave it out to trust what this system trusts";

/// Opens a file that holds a certificate in PEM format.
fn open(file: &Path) -> Result<File> {
    // Distributions install symbolic links there.
    let target = file.canonicalize().unwrap_or_else(|_| file.to_owned());
    let pem = files::open_plain(&target)?.with_context(|| format!("it is not there\n{REMEDY}"))?;
    ensure!(bundle::has_certificates(&pem), "it holds no certificate in PEM format\n{REMEDY}");
    Ok(pem)
}

/// Message for a failed TLS connection to `host`.
pub fn sentence(error: &rustls::Error, host: &str) -> String {
    use AlertDescription as Alert;
    let kinds = || {
        format!(
            "{host} and the agent have no kind of key or cipher in common\nhint: the keys of certificates may be {KINDS}"
        )
    };
    match error {
        rustls::Error::InvalidCertificate(certificate) => rejected(certificate, host),
        rustls::Error::AlertReceived(alert) => match alert {
            Alert::HandshakeFailure | Alert::InsufficientSecurity => kinds(),
            Alert::ProtocolVersion => unsafe_version(host),
            Alert::UnrecognisedName => {
                format!("{host} does not serve this name\nhint: write the name that it serves")
            }
            Alert::CertificateRequired
            | Alert::BadCertificate
            | Alert::UnsupportedCertificate
            | Alert::CertificateRevoked
            | Alert::CertificateExpired
            | Alert::CertificateUnknown
            | Alert::UnknownCA
            | Alert::AccessDenied => format!(
                "{host} wants a certificate from the client, or another one\n\
                 hint: set client_cert"
            ),
            other => format!("{host} ends TLS with alert {}", u8::from(*other)),
        },
        rustls::Error::InvalidMessage(_) => {
            format!("{host} does not speak TLS there\nhint: is this the port for TLS?")
        }
        rustls::Error::PeerIncompatible(PeerIncompatible::NoSignatureSchemesInCommon)
        | rustls::Error::PeerMisbehaved(
            PeerMisbehaved::SignedHandshakeWithUnadvertisedSigScheme
            | PeerMisbehaved::SignedKxWithWrongAlgorithm,
        ) => kinds(),
        rustls::Error::PeerIncompatible(_) => unsafe_version(host),
        other => format!("TLS with {host} fails: {}", other.to_string().escape_controls()),
    }
}

/// Whether the failure lasts until somebody acts: a certificate, on either side, or what the server offers.
pub fn lasts(error: &rustls::Error) -> bool {
    use AlertDescription as Alert;
    match error {
        rustls::Error::InvalidCertificate(_)
        | rustls::Error::PeerIncompatible(_)
        | rustls::Error::PeerMisbehaved(
            PeerMisbehaved::SignedHandshakeWithUnadvertisedSigScheme
            | PeerMisbehaved::SignedKxWithWrongAlgorithm,
        ) => true,
        rustls::Error::AlertReceived(alert) => matches!(
            alert,
            Alert::HandshakeFailure
                | Alert::InsufficientSecurity
                | Alert::ProtocolVersion
                | Alert::UnrecognisedName
                | Alert::CertificateRequired
                | Alert::BadCertificate
                | Alert::UnsupportedCertificate
                | Alert::CertificateRevoked
                | Alert::CertificateExpired
                | Alert::CertificateUnknown
                | Alert::UnknownCA
                | Alert::AccessDenied
        ),
        _ => false,
    }
}

fn unsafe_version(host: &str) -> String {
    format!("{host} speaks no TLS that is safe: 1.2 or 1.3 are needed")
}

/// Message for a certificate of `host` that is not accepted.
fn rejected(error: &CertificateError, host: &str) -> String {
    use CertificateError as Why;
    // A wrong clock looks just like an invalid certificate.
    let clock = || {
        let now = host::now().with_timezone(&Local);
        let now = now.format("%F %R %:z");
        format!("hint: the clock says {now} on this machine; set it if that is wrong (timedatectl)")
    };
    let day = |time: &UnixTime| {
        let time = DateTime::<Utc>::from_timestamp(time.as_secs().cast_signed(), 0);
        time.map_or_else(String::new, |time| time.with_timezone(&Local).format("%F").to_string())
    };
    let what = match error {
        Why::ExpiredContext { not_after, .. } => {
            format!("expired on {}\n{}", day(not_after), clock())
        }
        Why::NotValidYetContext { not_before, .. } => {
            format!("is not valid before {}\n{}", day(not_before), clock())
        }
        Why::Expired | Why::NotValidYet => format!("is not valid now\n{}", clock()),
        Why::NotValidForName | Why::NotValidForNameContext { .. } => "is for another name\n\
             hint: write the name in the certificate; a proxy in between has one of its own"
            .to_owned(),
        Why::UnknownIssuer => "is signed by an unknown CA\n\
             hint: set ca_file to the CA certificate, or to this very certificate"
            .to_owned(),
        Why::Revoked => "is revoked".to_owned(),
        Why::UnsupportedSignatureAlgorithmContext { .. }
        | Why::UnsupportedSignatureAlgorithmForPublicKeyContext { .. } => {
            format!("has a key or a signature that is not supported\nhint: supported are {KINDS}")
        }
        Why::BadEncoding => "cannot be read: it is damaged, or of an old version".to_owned(),
        Why::BadSignature => "has a signature that does not belong to it".to_owned(),
        Why::InvalidPurpose | Why::InvalidPurposeContext { .. } => {
            "is not made for a server\nhint: give the server one with the purpose serverAuth"
                .to_owned()
        }
        _ => "is not one that a server can have\n\
              hint: where it signed itself, name the file with this very certificate in ca_file"
            .to_owned(),
    };
    format!("the certificate of {host} {what}")
}
