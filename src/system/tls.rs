//! Whom we trust over TLS: the system's authorities or those of a `ca_file`; and what went wrong, in
//! words for people. Reads files; connects to nobody.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use chrono::{DateTime, Local, Utc};
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::{CertificateError, ClientConfig, RootCertStore};

use super::{files, node};

/// The most bytes that a file with certificates may have; the system's has a quarter of a million.
pub const CAP: u64 = 16 << 20;

/// Where distributions keep all authorities in one file: Debian and most others, Red Hat, SUSE,
/// Alpine. One file is read four times as fast as a folder of them.
const BUNDLES: [&str; 4] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// TLS 1.2 and 1.3 with a server whose certificate these authorities signed; see [`authorities`].
///
/// # Errors
/// As [`authorities`].
pub fn client(ca_file: Option<&Path>) -> Result<Arc<ClientConfig>> {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(authorities(ca_file)?);
    let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()?;
    Ok(Arc::new(builder.with_root_certificates(roots).with_no_client_auth()))
}

/// The certificates of the authorities in `ca_file`, or of those that this system trusts, from where
/// curl would read them.
///
/// # Errors
/// When the file cannot be read or holds no certificate.
pub fn authorities(ca_file: Option<&Path>) -> Result<Vec<CertificateDer<'static>>> {
    if let Some(file) = ca_file {
        return certificates(file)
            .with_context(|| format!("ca_file {} cannot be used", file.display()));
    }
    let named = node::variable(&["SSL_CERT_FILE"]).map(PathBuf::from);
    let usual = || BUNDLES.iter().map(PathBuf::from).find(|file| file.exists());
    let file = named.or_else(usual).context(
        "no CA bundle was found on this system\n\
         hint: install the package ca-certificates, or name a file in ca_file",
    )?;
    certificates(&file).with_context(|| format!("{} cannot be used", file.display()))
}

const REMEDY: &str = "hint: correct ca_file, or leave it out to trust what this system trusts";

/// The certificates in `file`; those of a kind that is not known are left out.
fn certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>> {
    // Distributions put links there.
    let target = file.canonicalize().unwrap_or_else(|_| file.to_owned());
    let pem =
        files::read_small(&target, CAP)?.with_context(|| format!("it is not there\n{REMEDY}"))?;
    let found: Vec<_> = CertificateDer::pem_slice_iter(&pem).filter_map(Result::ok).collect();
    ensure!(!found.is_empty(), "it holds no certificate in PEM format\n{REMEDY}");
    Ok(found)
}

/// Why there is no TLS with `host`.
pub fn told(error: &rustls::Error, host: &str) -> String {
    // A clock that is wrong looks just like a certificate that is.
    let clock = || {
        let now = node::now().with_timezone(&Local);
        let now = now.format("%F %R %:z");
        format!("hint: the clock says {now} on this machine; set it if that is wrong (timedatectl)")
    };
    let day = |time: &UnixTime| {
        let time = DateTime::<Utc>::from_timestamp(time.as_secs().cast_signed(), 0);
        time.map_or_else(String::new, |time| time.with_timezone(&Local).format("%F").to_string())
    };
    match error {
        rustls::Error::InvalidCertificate(certificate) => match certificate {
            CertificateError::ExpiredContext { not_after, .. } => {
                format!("the certificate of {host} expired on {}\n{}", day(not_after), clock())
            }
            CertificateError::NotValidYetContext { not_before, .. } => format!(
                "the certificate of {host} is not valid before {}\n{}",
                day(not_before),
                clock()
            ),
            CertificateError::Expired | CertificateError::NotValidYet => {
                format!("the certificate of {host} is not valid now\n{}", clock())
            }
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
                format!(
                    "the certificate of {host} is for another name\n\
                     hint: write the name that it is for, or is somebody in between?"
                )
            }
            CertificateError::UnknownIssuer => format!(
                "the certificate of {host} is signed by nobody who is trusted here\n\
                 hint: name the file with its authority's certificate in ca_file"
            ),
            CertificateError::Revoked => format!("the certificate of {host} is revoked"),
            other => format!(
                "the certificate of {host} is not accepted: {other}\n\
                 hint: a certificate that signed itself must be made for a server, and be in ca_file"
            ),
        },
        rustls::Error::AlertReceived(alert) => format!(
            "{host} ends TLS: {alert:?}\n\
             hint: does it want another client_cert?"
        ),
        rustls::Error::InvalidMessage(_) => {
            format!("{host} does not speak TLS there\nhint: is this the port for TLS?")
        }
        rustls::Error::PeerIncompatible(_) => {
            format!("{host} speaks no TLS that is safe: 1.2 or 1.3 are needed")
        }
        other => format!("TLS with {host} fails: {}", other.to_string().escape_debug()),
    }
}
