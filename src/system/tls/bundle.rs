//! Trusts the CAs of the system's bundle, and parses only those that the server's chain names. A bundle has
//! more than a hundred, and to parse all of them takes longer than the handshake. Knows no file.

use std::collections::HashSet;
use std::fmt;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{CertificateError, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};

use super::certificate::names;

const BEGIN: &str = "-----BEGIN CERTIFICATE-----";
const END: &str = "-----END CERTIFICATE-----";

/// Verifies servers by their chain of certificates up to a CA of a bundle.
pub(super) struct BundleVerifier {
    /// The bundle as it was read: decoded, it is needed for the moment of a handshake only.
    pem: Vec<u8>,
    provider: Arc<CryptoProvider>,
}

impl fmt::Debug for BundleVerifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("BundleVerifier(..)")
    }
}

impl BundleVerifier {
    /// Trusts the CAs in `pem`.
    pub(super) fn new(pem: Vec<u8>, provider: Arc<CryptoProvider>) -> Self {
        Self { pem, provider }
    }

    /// The CAs that issued one of `chain`, by their names. Without one: any, since no chain leads to it, and
    /// the error is that of the chain.
    fn roots(&self, chain: &[&CertificateDer<'_>]) -> RootCertStore {
        let issuers: HashSet<&[u8]> =
            chain.iter().filter_map(|it| Some(names(it)?.issuer)).collect();
        let is_named = |ca: &[u8]| names(ca).is_some_and(|it| issuers.contains(it.subject));
        let (mut roots, mut any) = (RootCertStore::empty(), RootCertStore::empty());
        each_certificate(&self.pem, |ca| {
            if is_named(ca) {
                roots.add_parsable_certificates([CertificateDer::from(ca)]);
            } else if any.is_empty() {
                any.add_parsable_certificates([CertificateDer::from(ca)]);
            }
        });
        if roots.is_empty() { any } else { roots }
    }
}

impl ServerCertVerifier for BundleVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let chain: Vec<_> = std::iter::once(end_entity).chain(intermediates).collect();
        let (roots, provider) = (Arc::new(self.roots(&chain)), Arc::clone(&self.provider));
        // Without any CA.
        let unknown = |_| Error::from(CertificateError::UnknownIssuer);
        let verifier = WebPkiServerVerifier::builder_with_provider(roots, provider).build();
        let verifier = verifier.map_err(unknown)?;
        verifier.verify_server_cert(end_entity, intermediates, name, ocsp_response, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signed, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signed, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

/// Whether `pem` seems to hold a certificate.
pub(super) fn has_certificates(pem: &[u8]) -> bool {
    String::from_utf8_lossy(pem).contains(BEGIN)
}

/// Passes each certificate in `pem` to `sink`, in DER, without other things that are there.
///
/// The decoder of rustls is made for keys: it takes the same time whatever they are, and far longer.
fn each_certificate(pem: &[u8], mut sink: impl FnMut(&[u8])) {
    let text = String::from_utf8_lossy(pem);
    let mut bytes = Vec::new();
    for block in text.split(BEGIN).skip(1) {
        let Some((lines, _)) = block.split_once(END) else { continue };
        bytes.clear();
        if lines.trim().lines().all(|line| STANDARD.decode_vec(line, &mut bytes).is_ok()) {
            sink(&bytes);
        } else if let Ok(certificate) =
            // Lines of an odd length.
            CertificateDer::from_pem_slice(
                format!("{BEGIN}{lines}{END}\n").as_bytes(),
            )
        {
            sink(&certificate);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bundle_is_read_as_rustls_reads_it() {
        let body = STANDARD.encode([7; 100]);
        let (one, two) = body.split_at(64);
        for text in [
            format!("# Comment\n{BEGIN}\n{one}\n{two}\n{END}\ntext\n{BEGIN}\n{body}\n{END}\n"),
            format!("{BEGIN}\r\n{one}\r\n{two}\r\n{END}\r\n"),
            format!("{BEGIN}\n{}\n{}\n{END}\n", &body[..31], &body[31..]),
            format!(
                "-----BEGIN PRIVATE KEY-----\n{body}\n-----END PRIVATE KEY-----\n{BEGIN}\n{body}\n{END}"
            ),
            format!("\u{fe}\n{BEGIN}\n{body}\n{END}\n{BEGIN}\n{body}\n"),
            "nothing".to_owned(),
        ] {
            let theirs = CertificateDer::pem_slice_iter(text.as_bytes());
            let theirs: Vec<_> = theirs.filter_map(Result::ok).collect();
            let mut ours = Vec::new();
            each_certificate(text.as_bytes(), |it| ours.push(CertificateDer::from(it.to_vec())));
            assert_eq!(ours, theirs, "{text}");
            assert_eq!(has_certificates(text.as_bytes()), !theirs.is_empty(), "{text}");
        }
    }
}
