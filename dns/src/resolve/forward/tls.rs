//! The TLS configuration of upstreams over TLS and HTTPS, and the files of certificates.

use std::{
    net::IpAddr,
    path::{Path, PathBuf},
    sync::Arc,
};

use rustls::{
    ClientConfig, ConfigBuilder, RootCertStore,
    client::WantsClientCert,
    pki_types::{
        CertificateDer, InvalidDnsNameError, PrivateKeyDer, ServerName,
        pem::{self, PemObject as _},
    },
    server::VerifierBuilderError,
};
use thiserror::Error;

use crate::config::Tls;

#[derive(Debug, Error)]
pub enum TlsError {
    #[error("cannot read certificates or keys from {0}")]
    Pem(PathBuf, #[source] pem::Error),
    #[error("cannot use the certificate in {0}")]
    Certificate(PathBuf, #[source] rustls::Error),
    #[error("the system has no readable root certificate: set the CA file with `tls FILE` in `forward`")]
    NoRoots,
    #[error("{0:?} is not a valid TLS server name")]
    Name(String, #[source] InvalidDnsNameError),
    #[error("cannot verify certificates of clients")]
    Verifier(#[source] VerifierBuilderError),
    #[error("cannot set up TLS")]
    Setup(#[source] rustls::Error),
}

pub(super) fn client_config(tls: &Tls) -> Result<Arc<ClientConfig>, TlsError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(TlsError::Setup)?;
    let roots = match &tls.authority {
        Some(path) => roots_of(path)?,
        None => roots_of_the_system()?,
    };
    let trusting = builder.with_root_certificates(roots);
    let config = match &tls.client {
        Some((certificate, key)) => with_client(trusting, certificate, key)?,
        None => trusting.with_no_client_auth(),
    };
    Ok(Arc::new(config))
}

/// The server name to verify: the configured one, or the address.
pub(super) fn server_name(name: Option<&str>, address: IpAddr) -> Result<ServerName<'static>, TlsError> {
    match name {
        None => Ok(ServerName::IpAddress(address.into())),
        Some(name) => {
            ServerName::try_from(name.to_owned()).map_err(|error| TlsError::Name(name.to_owned(), error))
        }
    }
}

fn with_client(
    builder: ConfigBuilder<ClientConfig, WantsClientCert>,
    certificate: &Path,
    key: &Path,
) -> Result<ClientConfig, TlsError> {
    let unreadable = |error| TlsError::Pem(key.to_owned(), error);
    let key = PrivateKeyDer::from_pem_file(key).map_err(unreadable)?;
    builder
        .with_client_auth_cert(certificates(certificate)?, key)
        .map_err(|error| TlsError::Certificate(certificate.to_owned(), error))
}

pub(crate) fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let unreadable = |error| TlsError::Pem(path.to_owned(), error);
    CertificateDer::pem_file_iter(path).map_err(unreadable)?.collect::<Result<_, _>>().map_err(unreadable)
}

pub(crate) fn roots_of(path: &Path) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(path)? {
        roots.add(certificate).map_err(|error| TlsError::Certificate(path.to_owned(), error))?;
    }
    Ok(roots)
}

pub(crate) fn roots_of_the_system() -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    // An unreadable certificate does not exclude the others.
    let (added, _ignored) = roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if added == 0 { Err(TlsError::NoRoots) } else { Ok(roots) }
}
