//! TLS for ureq's connections, with the trusted authorities of `ca_file` and the certificate of
//! `client_cert`. Opens no connection itself.

use std::fmt;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, anyhow, bail, ensure};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, StreamOwned};
use ureq::Error;
use ureq::unversioned::transport::{
    Buffers, ConnectionDetails, Connector, Either, LazyBuffers, NextTimeout, Transport,
    TransportAdapter,
};

use crate::system::files;
use crate::system::remote::denied_by;
use crate::system::tls::{self, CAP, KINDS};

/// The TLS configuration that trusts `ca_file` or the system's authorities, and presents `client_cert`.
/// Versions below 1.2 are not built in.
///
/// # Errors
/// When a file cannot be read or does not hold what it should.
pub(super) fn client(
    ca_file: Option<&Path>,
    client_cert: Option<&Path>,
) -> Result<Arc<ClientConfig>> {
    let Some(file) = client_cert else { return tls::client(ca_file).map_err(denied_by) };
    let with_certificate = || -> Result<_> {
        let (chain, key) = client_certificate(file)?;
        tls::builder(ca_file)?.with_client_auth_cert(chain, key).or_else(|error| match error {
            rustls::Error::InconsistentKeys(_) => {
                bail!("its key does not belong to its certificate")
            }
            _ => bail!("its key is of a kind that is not supported\nhint: supported are {KINDS}"),
        })
    };
    let config = with_certificate()
        .map_err(denied_by)
        .with_context(|| format!("client_cert {} cannot be used", file.display()))?;
    Ok(Arc::new(config))
}

/// The file with the authorities: `ca_file`, else that of the system.
pub(super) fn trusted_file(ca_file: Option<&Path>) -> Option<PathBuf> {
    ca_file.map(Path::to_owned).or_else(tls::bundle)
}

/// Reads the certificate in `file`, with its chain and its key.
fn client_certificate(
    file: &Path,
) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)> {
    let pem = files::read_private(file, CAP)?;
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem.as_bytes()).collect();
    let chain = chain.map_err(|_| anyhow!("it is no PEM file"))?;
    ensure!(!chain.is_empty(), "it holds no certificate in PEM format");
    let key = PrivateKeyDer::from_pem_slice(pem.as_bytes())
        .map_err(|_| anyhow!("it holds no key in PEM format, or one with a password"))?;
    Ok((chain, key))
}

/// Makes each connection to an https:// address speak TLS.
pub(super) struct TlsConnector {
    /// `None`: no connection of this agent speaks TLS.
    pub(super) config: Option<Arc<ClientConfig>>,
    /// The proxy that every connection leads to with TLS, in place of the server.
    pub(super) instead: Option<ServerName<'static>>,
}

impl fmt::Debug for TlsConnector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TlsConnector(..)")
    }
}

impl<In: Transport> Connector<In> for TlsConnector {
    type Out = Either<In, TlsTransport<In>>;

    fn connect(
        &self,
        details: &ConnectionDetails,
        chained: Option<In>,
    ) -> Result<Option<Self::Out>, Error> {
        let Some(transport) = chained else { return Ok(None) };
        let host = details.uri.host().unwrap_or_default().trim_matches(['[', ']']);
        let name = match &self.instead {
            Some(proxy) => proxy.clone(),
            None if !details.needs_tls() || transport.is_tls() => {
                return Ok(Some(Either::A(transport)));
            }
            None => ServerName::try_from(host.to_owned())
                .map_err(|_| Error::Other(format!("{host} is no name for TLS").into()))?,
        };
        let config = self.config.as_ref().ok_or(Error::TlsRequired)?;
        let inside_out = |error| Error::Io(std::io::Error::other(error));
        let mut connection = ClientConnection::new(Arc::clone(config), name).map_err(inside_out)?;
        let mut socket = TransportAdapter::new(transport, Arc::clone(&details.current_time));
        socket.set_timeout(details.timeout);
        connection.complete_io(&mut socket)?;
        let config = details.config;
        let buffers = LazyBuffers::new(config.input_buffer_size(), config.output_buffer_size());
        let stream = StreamOwned::new(connection, socket);
        Ok(Some(Either::B(TlsTransport { buffers, stream })))
    }
}

/// A connection with TLS.
pub(super) struct TlsTransport<In: Transport> {
    buffers: LazyBuffers,
    stream: StreamOwned<ClientConnection, TransportAdapter<In>>,
}

impl<In: Transport> fmt::Debug for TlsTransport<In> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TlsTransport(..)")
    }
}

impl<In: Transport> Transport for TlsTransport<In> {
    fn buffers(&mut self) -> &mut dyn Buffers {
        &mut self.buffers
    }

    fn transmit_output(&mut self, amount: usize, timeout: NextTimeout) -> Result<(), Error> {
        self.stream.sock.set_timeout(timeout);
        let output = self.buffers.output().get(..amount).unwrap_or_default();
        Ok(self.stream.write_all(output)?)
    }

    fn await_input(&mut self, timeout: NextTimeout) -> Result<bool, Error> {
        self.stream.sock.set_timeout(timeout);
        let read = self.stream.read(self.buffers.input_append_buf())?;
        self.buffers.input_appended(read);
        Ok(read > 0)
    }

    fn is_open(&mut self) -> bool {
        self.stream.sock.get_mut().is_open()
    }

    fn is_tls(&self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error_of(ca_file: Option<&Path>, client_cert: Option<&Path>) -> String {
        format!("{:#}", client(ca_file, client_cert).map(drop).unwrap_err())
    }

    #[test]
    fn a_file_without_a_certificate_is_refused_by_name() {
        let dir = tempfile::tempdir().unwrap();
        files::put(dir.path(), "none.pem", b"hello\n", 0o600).unwrap();
        let (none, gone) = (dir.path().join("none.pem"), dir.path().join("gone.pem"));
        let nothing = "none.pem cannot be used: it holds no certificate";
        assert!(error_of(Some(&none), None).contains(nothing));
        assert!(error_of(None, Some(&none)).contains(nothing));
        assert!(error_of(Some(&gone), None).contains("gone.pem cannot be used: it is not there"));
    }
}
