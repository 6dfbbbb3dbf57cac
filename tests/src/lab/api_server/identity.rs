//! A certificate authority, the server's certificate and a client's.

use std::{net::Ipv4Addr, sync::Arc};

use anyhow::{Context as _, Result};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, SanType};
use tokio_rustls::{
    TlsAcceptor,
    rustls::{
        RootCertStore, ServerConfig,
        crypto::ring,
        pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer},
        server::WebPkiClientVerifier,
    },
};

pub struct Identity {
    /// PEM.
    pub authority: String,
    /// PEM.
    pub server_certificate: String,
    /// PEM.
    pub server_key: String,
    /// PEM.
    pub client_certificate: String,
    /// PEM.
    pub client_key: String,
    config: Arc<ServerConfig>,
}

impl Identity {
    pub fn new() -> Result<Self> {
        let mut params = CertificateParams::new([])?;
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, "the authority of a test");
        let authority = CertifiedIssuer::self_signed(params, KeyPair::generate()?)?;
        let mut params = CertificateParams::new(["kubernetes".to_owned()])?;
        params.subject_alt_names.push(SanType::IpAddress(Ipv4Addr::LOCALHOST.into()));
        let server_key = KeyPair::generate()?;
        let server = params.signed_by(&server_key, &authority)?;
        let mut params = CertificateParams::new([])?;
        params.distinguished_name.push(DnType::CommonName, "system:kube-proxy");
        let client_key = KeyPair::generate()?;
        let client = params.signed_by(&client_key, &authority)?;
        Ok(Self {
            config: config(authority.der().clone(), server.der().clone(), &server_key)?,
            authority: authority.pem(),
            server_certificate: server.pem(),
            server_key: server_key.serialize_pem(),
            client_certificate: client.pem(),
            client_key: client_key.serialize_pem(),
        })
    }

    pub fn acceptor(&self) -> TlsAcceptor {
        TlsAcceptor::from(Arc::clone(&self.config))
    }
}

fn config(
    authority: CertificateDer<'static>,
    server: CertificateDer<'static>,
    key: &KeyPair,
) -> Result<Arc<ServerConfig>> {
    let provider = Arc::new(ring::default_provider());
    let mut roots = RootCertStore::empty();
    roots.add(authority)?;
    let clients = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider))
        .allow_unauthenticated()
        .build()
        .context("cannot verify clients")?;
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_client_cert_verifier(clients)
        .with_single_cert(vec![server], key)?;
    Ok(Arc::new(config))
}
