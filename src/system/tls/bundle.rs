//! Trusts the CAs of the system's bundle, and parses only those that the server's chain names. A bundle has
//! more than a hundred, and to parse all of them takes longer than the handshake. Knows no file.

use std::collections::HashSet;
use std::fmt;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{CertificateError, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};

use super::CAP;
use super::certificate::names;

const BEGIN: &[u8] = b"-----BEGIN CERTIFICATE-----";
const END: &[u8] = b"-----END CERTIFICATE-----";
/// The bytes at the beginning of a certificate in which its subject usually ends.
const HEAD: usize = 384;
/// The bytes of a line.
const LINE: usize = 48;
/// The bytes of a bundle that are read at a time.
const PIECE: usize = 32 << 10;
/// The usual size of a certificate's text.
const USUAL: usize = 4 << 10;

/// Verifies servers by their chain of certificates up to a CA of a bundle.
pub(super) struct BundleVerifier {
    /// The bundle, which is read for the moment of a handshake only.
    pem: File,
    provider: Arc<CryptoProvider>,
}

impl fmt::Debug for BundleVerifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("BundleVerifier(..)")
    }
}

impl BundleVerifier {
    /// Trusts the CAs in `pem`.
    pub(super) fn new(pem: File, provider: Arc<CryptoProvider>) -> Self {
        Self { pem, provider }
    }

    /// The CAs that issued one of `chain`, by their names. Without one: any, since no chain leads to it, and
    /// the error is that of the chain.
    fn roots(&self, chain: &[&CertificateDer<'_>]) -> RootCertStore {
        let issuers: HashSet<&[u8]> =
            chain.iter().filter_map(|it| Some(names(it)?.issuer)).collect();
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(certificates(&self.pem, |subject| {
            issuers.contains(subject)
        }));
        if roots.is_empty() {
            let mut others = certificates(&self.pem, |_| true);
            while roots.is_empty()
                && let Some(other) = others.next()
            {
                roots.add_parsable_certificates([other]);
            }
        }
        roots
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

/// Reads a file from its beginning, without its own offset: several handshakes may read it at once.
struct FromStart<'a>(&'a File, u64);

impl Read for FromStart<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let count = self.0.read_at(into, self.1)?;
        self.1 += count as u64;
        Ok(count)
    }
}

/// The lines of each certificate in `pem`, without other things that are there. A part of a bundle at a time
/// is in memory.
fn blocks(pem: &File) -> impl Iterator<Item = Vec<u8>> {
    let mut reader = BufReader::with_capacity(PIECE, FromStart(pem, 0).take(CAP));
    let mut line = Vec::new();
    std::iter::from_fn(move || {
        let mut block = None::<Vec<u8>>;
        loop {
            line.clear();
            if reader.read_until(b'\n', &mut line).ok()? == 0 {
                return None;
            }
            if line.starts_with(BEGIN) {
                block = Some(Vec::with_capacity(USUAL));
            } else if line.starts_with(END) && block.is_some() {
                return block;
            } else if let Some(block) = &mut block {
                block.extend_from_slice(&line);
            }
        }
    })
}

/// Whether `pem` seems to hold a certificate.
pub(super) fn has_certificates(pem: &File) -> bool {
    blocks(pem).next().is_some()
}

/// The certificates in `pem` whose subject `is_wanted`, in DER.
///
/// The decoder of rustls is made for keys: it takes the same time whatever they are, and far longer.
pub(super) fn certificates(
    pem: &File,
    is_wanted: impl Fn(&[u8]) -> bool,
) -> impl Iterator<Item = CertificateDer<'static>> {
    let mut bytes = Vec::with_capacity(HEAD + LINE);
    blocks(pem).filter_map(move |lines| {
        bytes.clear();
        // A beginning without the whole subject is no reason to leave it out.
        let is_plain = decode(&lines, HEAD, &mut bytes);
        if is_plain && names(&bytes).is_some_and(|names| !is_wanted(names.subject)) {
            return None;
        }
        bytes.clear();
        let whole = match decode(&lines, usize::MAX, &mut bytes) {
            true => CertificateDer::from(bytes.clone()),
            // Lines of an odd length.
            false => {
                let block = [BEGIN, b"\n", &lines, END, b"\n"].concat();
                CertificateDer::from_pem_slice(&block).ok()?
            }
        };
        names(&whole).is_none_or(|names| is_wanted(names.subject)).then_some(whole)
    })
}

/// Decodes `lines` until there are so many bytes or more; returns whether each line can be decoded by itself.
fn decode(lines: &[u8], most: usize, bytes: &mut Vec<u8>) -> bool {
    let mut lines = lines.trim_ascii().split(|byte| *byte == b'\n');
    while bytes.len() < most
        && let Some(line) = lines.next()
    {
        if STANDARD.decode_vec(line.trim_ascii_end(), bytes).is_err() {
            return false;
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bundle_is_read_as_rustls_reads_it() {
        let body = STANDARD.encode([7; 100]);
        let (one, two) = body.split_at(64);
        let (begin, end) = ("-----BEGIN CERTIFICATE-----", "-----END CERTIFICATE-----");
        let key = format!("-----BEGIN PRIVATE KEY-----\n{body}\n-----END PRIVATE KEY-----");
        for text in [
            format!("# Comment\n{begin}\n{one}\n{two}\n{end}\ntext\n{begin}\n{body}\n{end}\n"),
            format!("{begin}\r\n{one}\r\n{two}\r\n{end}\r\n"),
            format!("{begin}\n{}\n{}\n{end}\n", &body[..31], &body[31..]),
            format!("{key}\n{begin}\n{body}\n{end}"),
            format!("\u{fe}\n{begin}\n{body}\n{end}\n{begin}\n{body}\n"),
            "nothing".to_owned(),
        ] {
            let theirs = CertificateDer::pem_slice_iter(text.as_bytes());
            let theirs: Vec<_> = theirs.filter_map(Result::ok).collect();
            let mut file = tempfile::tempfile().unwrap();
            io::Write::write_all(&mut file, text.as_bytes()).unwrap();
            let ours: Vec<_> = certificates(&file, |_| true).collect();
            assert_eq!(ours, theirs, "{text}");
            assert_eq!(has_certificates(&file), !theirs.is_empty(), "{text}");
        }
    }
}
