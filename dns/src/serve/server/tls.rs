//! TLS of a listener: its certificate comes from files, and follows them.

use std::{
    path::Path,
    sync::{Arc, Weak},
    time::Duration,
};

use arc_swap::ArcSwap;
use prometheus::IntCounter;
use rustls::{
    RootCertStore, ServerConfig,
    pki_types::{PrivateKeyDer, pem::PemObject as _},
    server::{WebPkiClientVerifier, danger::ClientCertVerifier},
};
use tokio::time::{MissedTickBehavior, interval};
use tokio_rustls::TlsAcceptor;
use tracing::{info, warn};

use crate::{
    config::ServerProtocol,
    file_watcher::FileWatcher,
    observe::faults::with_causes,
    plugins::tls::{ClientAuth, ServerTls},
    resolve::forward::tls::{TlsError, certificates, roots_of, roots_of_the_system},
};

/// How often the files are checked.
const POLL_INTERVAL: Duration = Duration::from_secs(1);

/// The present TLS configuration of a listener.
#[derive(Debug)]
pub struct ServerCertificate(ArcSwap<ServerConfig>);

impl ServerCertificate {
    /// Must be called within a runtime: a task follows the files until the value is dropped. `failures` counts changed
    /// files that cannot be used; the certificate before stays then.
    pub fn start(
        tls: &ServerTls,
        protocol: ServerProtocol,
        failures: IntCounter,
    ) -> Result<Arc<Self>, TlsError> {
        let mut watchers: Vec<_> = files(tls).map(FileWatcher::new).collect();
        // The files as they are now are read next.
        watchers.iter_mut().for_each(|file| drop(file.changed()));
        let certificate = Arc::new(Self(ArcSwap::from_pointee(config(tls, protocol)?)));
        tokio::spawn(follow(Arc::downgrade(&certificate), watchers, tls.clone(), protocol, failures));
        Ok(certificate)
    }

    pub fn acceptor(&self) -> TlsAcceptor {
        TlsAcceptor::from(self.0.load_full())
    }
}

fn files(tls: &ServerTls) -> impl Iterator<Item = &Path> {
    [Some(&tls.certificate), Some(&tls.key), tls.authority.as_ref()]
        .into_iter()
        .flatten()
        .map(|path| path.as_path())
}

async fn follow(
    certificate: Weak<ServerCertificate>,
    mut watchers: Vec<FileWatcher>,
    tls: ServerTls,
    protocol: ServerProtocol,
    failures: IntCounter,
) {
    let mut polls = interval(POLL_INTERVAL);
    polls.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut is_current = true;
    loop {
        polls.tick().await;
        let Some(certificate) = certificate.upgrade() else { return };
        // Every file has to be looked at.
        let changed = watchers.iter_mut().filter_map(FileWatcher::changed).count() > 0;
        if !changed && is_current {
            continue;
        }
        let path = tls.certificate.display();
        match config(&tls, protocol) {
            Ok(config) => {
                certificate.0.store(Arc::new(config));
                info!(certificate = %path, "certificate changed");
                is_current = true;
            }
            // The key may not have been replaced yet; it is tried again until both belong together.
            Err(error) => {
                if is_current {
                    failures.inc();
                    warn!(certificate = %path, error = with_causes(&error), "changed certificate not used, will retry");
                }
                is_current = false;
            }
        }
    }
}

fn config(tls: &ServerTls, protocol: ServerProtocol) -> Result<ServerConfig, TlsError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(TlsError::Setup)?;
    let builder = match client_verifier(tls)? {
        None => builder.with_no_client_auth(),
        Some(verifier) => builder.with_client_cert_verifier(verifier),
    };
    let key =
        PrivateKeyDer::from_pem_file(&tls.key).map_err(|error| TlsError::Pem(tls.key.clone(), error))?;
    let mut config = builder
        .with_single_cert(certificates(&tls.certificate)?, key)
        .map_err(|error| TlsError::Certificate(tls.certificate.clone(), error))?;
    config.alpn_protocols = match protocol {
        ServerProtocol::Https => vec![b"h2".to_vec(), b"http/1.1".to_vec()],
        ServerProtocol::Dns | ServerProtocol::Tls => vec![b"dot".to_vec()],
    };
    Ok(config)
}

fn client_verifier(tls: &ServerTls) -> Result<Option<Arc<dyn ClientCertVerifier>>, TlsError> {
    let is_required = match tls.client_auth {
        ClientAuth::None => return Ok(None),
        ClientAuth::VerifyIfGiven => false,
        ClientAuth::RequireAndVerify => true,
    };
    let roots: RootCertStore = match &tls.authority {
        Some(path) => roots_of(path)?,
        None => roots_of_the_system()?,
    };
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
    let builder = if is_required { builder } else { builder.allow_unauthenticated() };
    builder.build().map(Some).map_err(TlsError::Verifier)
}
