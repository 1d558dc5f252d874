//! TLS on a line, with as much checking of the certificate as was asked for.

use std::path::Path;
use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{
    CertificateError, ClientConfig, ClientConnection, DigitallySignedStruct, RootCertStore, SignatureScheme,
    StreamOwned,
};

use super::Fault;
use crate::database::mysql::connect::{ConnectOptions, Target, Tls, TlsMode};
use crate::sys::fs::{TEXT_LIMIT, read_plain_linked};
use crate::sys::line::Line;

/// A line with TLS on it.
pub type Stream = StreamOwned<ClientConnection, Line>;

/// Makes the handshake.
///
/// # Errors
/// A file of the settings is wrong, the certificate is, or the line broke.
pub fn begin(line: Line, options: &ConnectOptions) -> Result<Stream, Fault> {
    let (host, mode) = match &options.target {
        Target::Tcp(host, _) => (host.as_str(), options.tls.mode),
        // The kernel says who is at the other end of a socket.
        Target::Socket(_) => ("localhost", TlsMode::Required),
    };
    let name = ServerName::try_from(host.to_owned())
        .map_err(|_| Fault::Unproved(format!("`{host}` is no name that a certificate could have")))?;
    let config = config(&options.tls, mode).map_err(Fault::Unproved)?;
    let tls = ClientConnection::new(Arc::new(config), name).map_err(|error| Fault::Unproved(error.to_string()))?;
    let mut stream = StreamOwned::new(tls, line);
    while stream.conn.is_handshaking() {
        stream
            .conn
            .complete_io(&mut stream.sock)
            .map_err(|error| match error.kind() {
                std::io::ErrorKind::InvalidData => {
                    Fault::Unproved(format!("TLS failed: {}", in_words(&error.to_string())))
                }
                _ => Fault::Broken(error),
            })?;
    }
    Ok(stream)
}

/// The library's words, where a person could not know from them what to do.
fn in_words(said: &str) -> String {
    match said.contains("UnsupportedCertVersion") {
        true => "the server's certificate, or its authority's, is of X.509 version 1 (made without extensions), which cannot be checked: make one of version 3 \
                 (`openssl x509 -req ... -extfile FILE` with `subjectAltName=DNS:HOST` in FILE), or use `ssl-mode=REQUIRED`, which checks none"
            .to_owned(),
        false => said.to_owned(),
    }
}

fn config(tls: &Tls, mode: TlsMode) -> Result<ClientConfig, String> {
    let provider = Arc::new(ring::default_provider());
    let verifier = Verifier::new(tls, mode, &provider)?;
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier));
    let Some((certificate, key)) = &tls.identity else {
        return Ok(builder.with_no_client_auth());
    };
    let wrong = |error: rustls::pki_types::pem::Error| format!("{} is no private key in PEM: {error}", key.display());
    let key = PrivateKeyDer::from_pem_slice(&read(key)?).map_err(wrong)?;
    builder
        .with_client_auth_cert(certificates(certificate)?, key)
        .map_err(|error| error.to_string())
}

fn read(path: &Path) -> Result<Vec<u8>, String> {
    read_plain_linked(path, TEXT_LIMIT).map_err(|error| error.to_string())
}

/// The certificates of a PEM file, or the one of a DER file.
fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let bytes = read(path)?;
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&bytes).collect();
    match found {
        Ok(found) if !found.is_empty() => Ok(found),
        Ok(_) if !bytes.is_empty() => Ok(vec![CertificateDer::from(bytes)]),
        Ok(_) => Err(format!("{} holds no certificate", path.display())),
        Err(error) => Err(format!("{} is no certificate in PEM: {error}", path.display())),
    }
}

#[derive(Debug)]
struct Verifier {
    mode: TlsMode,
    provider: Arc<CryptoProvider>,
    strict: Arc<WebPkiServerVerifier>,
}

impl Verifier {
    fn new(tls: &Tls, mode: TlsMode, provider: &Arc<CryptoProvider>) -> Result<Verifier, String> {
        let mut roots = RootCertStore::empty();
        // A public authority certifies anybody: then only the name says whose certificate it is.
        let mode = match (mode, &tls.ca) {
            (TlsMode::VerifyCa, None) => TlsMode::VerifyIdentity,
            (mode, _) => mode,
        };
        match &tls.ca {
            None => roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned()),
            Some(ca) => {
                for certificate in certificates(ca)? {
                    let wrong = |error| format!("{} holds no authority's certificate: {error}", ca.display());
                    roots.add(certificate).map_err(wrong)?;
                }
            }
        }
        let strict = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(provider)).build();
        Ok(Verifier {
            mode,
            provider: Arc::clone(provider),
            strict: strict.map_err(|error| error.to_string())?,
        })
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        between: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        use CertificateError::{NotValidForName, NotValidForNameContext};
        if self.mode < TlsMode::VerifyCa {
            return Ok(ServerCertVerified::assertion());
        }
        match self.strict.verify_server_cert(certificate, between, name, ocsp, now) {
            Err(rustls::Error::InvalidCertificate(NotValidForName | NotValidForNameContext { .. }))
                if self.mode < TlsMode::VerifyIdentity =>
            {
                Ok(ServerCertVerified::assertion())
            }
            answer => answer,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        if self.mode < TlsMode::VerifyCa {
            return Ok(HandshakeSignatureValid::assertion());
        }
        verify_tls12_signature(
            message,
            certificate,
            signed,
            &self.provider.signature_verification_algorithms,
        )
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        if self.mode < TlsMode::VerifyCa {
            return Ok(HandshakeSignatureValid::assertion());
        }
        verify_tls13_signature(
            message,
            certificate,
            signed,
            &self.provider.signature_verification_algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.strict.supported_verify_schemes()
    }
}
