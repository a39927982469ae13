//! Whom we trust on web servers, and who we are there: `ca_file` and `client_cert` as the HTTP
//! library wants them. Reads files; connects to nobody.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result, anyhow, ensure};
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use ureq::tls::{Certificate, ClientCert, PemItem, RootCerts, TlsConfig, parse_pem};

use crate::domain::remote::Reach;
use crate::system::files;
use crate::system::tls::{self, CAP};

/// TLS as `reach` says. Versions below 1.2 are not built in.
///
/// # Errors
/// When a file cannot be read or does not hold what it should.
pub(super) fn tls(reach: &Reach) -> Result<TlsConfig> {
    let provider = Arc::new(ring::default_provider());
    let client = reach
        .client_cert
        .as_deref()
        .map(|file| {
            client_certificate(file, &provider)
                .with_context(|| format!("client_cert {} cannot be used", file.display()))
        })
        .transpose()?;
    let roots = tls::authorities(reach.ca_file.as_deref())?;
    let roots: Vec<_> =
        roots.iter().map(|one| Certificate::from_der(one.as_ref()).to_owned()).collect();
    Ok(TlsConfig::builder()
        .unversioned_rustls_crypto_provider(provider)
        .root_certs(RootCerts::Specific(Arc::new(roots)))
        .client_cert(client)
        .build())
}

/// The certificate in `file`, its chain and its key.
fn client_certificate(file: &Path, provider: &Arc<CryptoProvider>) -> Result<ClientCert> {
    let pem = files::read_private(file, CAP)?;
    let (mut chain, mut key) = (Vec::new(), None);
    for item in parse_pem(pem.as_bytes()) {
        match item.map_err(|_| anyhow!("it is no PEM file"))? {
            PemItem::Certificate(certificate) => chain.push(certificate),
            PemItem::PrivateKey(found) => key = Some(found),
            _ => {}
        }
    }
    ensure!(!chain.is_empty(), "it holds no certificate in PEM format");
    let key = key.context("it holds no key in PEM format, or one with a password")?;

    // Whether they belong together; the library does not expect otherwise.
    let certificates = chain.iter().map(|one| CertificateDer::from(one.der().to_vec())).collect();
    let same_key = PrivateKeyDer::from_pem_slice(pem.as_bytes())
        .map_err(|_| anyhow!("its key cannot be read"))?;
    rustls::ClientConfig::builder_with_provider(Arc::clone(provider))
        .with_safe_default_protocol_versions()
        .and_then(|builder| {
            builder
                .with_root_certificates(rustls::RootCertStore::empty())
                .with_client_auth_cert(certificates, same_key)
        })
        .map_err(|error| anyhow!("its key does not belong to its certificate: {error}"))?;
    Ok(ClientCert::new_with_certs(&chain, key))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(reach: &Reach) -> String {
        format!("{:#}", tls(reach).map(drop).unwrap_err())
    }

    #[test]
    fn a_file_without_a_certificate_is_refused_by_name() {
        let dir = tempfile::tempdir().unwrap();
        files::put(dir.path(), "none.pem", b"hello\n", 0o600).unwrap();
        let none = Some(dir.path().join("none.pem"));
        let reach = Reach { ca_file: none.clone(), ..Reach::default() };
        assert!(told(&reach).contains("none.pem cannot be used: it holds no certificate"));
        let reach = Reach { client_cert: none, ..Reach::default() };
        assert!(told(&reach).contains("none.pem cannot be used: it holds no certificate"));
        let gone = Some(dir.path().join("gone.pem"));
        let reach = Reach { ca_file: gone, ..Reach::default() };
        assert!(told(&reach).contains("gone.pem cannot be used: it is not there"));
    }
}
