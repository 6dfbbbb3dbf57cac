//! A scripted API server for watches: lists and watches over TLS, with resource versions, bookmarks and pages,
//! and each misbehaviour that real servers have shown.
//!
//! It runs on a thread of its own, so that it answers independently of the story.

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr, TcpListener},
    path::{Path, PathBuf},
    sync::Arc,
    thread,
};

use anyhow::{Context as _, Result, anyhow};
use serde_json::{Value, json};
use tokio::sync::oneshot;

mod answer;
pub mod follower;
mod identity;
pub mod objects;
pub mod real;
mod request;
mod state;
mod status;
mod store;
mod stream;

pub use identity::Identity;
pub use objects::objects_in;
pub use state::Behaviour;

use self::{state::Shared, store::Store};
use crate::lab::kernel::netns::Netns;

/// A scripted API server.
pub struct ApiServer {
    shared: Arc<Shared>,
    identity: Arc<Identity>,
    address: SocketAddr,
    running: Option<Running>,
}

struct Running {
    stop: oneshot::Sender<()>,
    thread: thread::JoinHandle<()>,
}

impl ApiServer {
    /// Starts on the loopback address of this network namespace.
    pub fn start() -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("cannot listen as API server")?;
        Self::serve(listener)
    }

    /// Starts on the loopback address of another network namespace.
    pub fn start_in(netns: &Netns) -> Result<Self> {
        netns.run(|| {
            let listener =
                TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("cannot listen as API server")?;
            Self::serve(listener)
        })
    }

    fn serve(listener: TcpListener) -> Result<Self> {
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared::new());
        let mut server = Self { shared, identity: Arc::new(Identity::new()?), address, running: None };
        server.run(listener)?;
        Ok(server)
    }

    fn run(&mut self, listener: TcpListener) -> Result<()> {
        let (stop, stopped) = oneshot::channel();
        let (shared, identity) = (Arc::clone(&self.shared), Arc::clone(&self.identity));
        listener.set_nonblocking(true)?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let thread = thread::Builder::new().name("api-server".to_owned()).spawn(move || {
            runtime.block_on(answer::serve(listener, &identity, shared, stopped));
            // Connections end with their tasks.
            runtime.shutdown_background();
        })?;
        self.running = Some(Running { stop, thread });
        Ok(())
    }

    /// Stops the server: closes the listener and every connection.
    pub fn stop(&mut self) -> Result<()> {
        let Some(Running { stop, thread }) = self.running.take() else { return Ok(()) };
        // Without a receiver the thread has ended already.
        let _ = stop.send(());
        thread.join().map_err(|_| anyhow!("the API server panicked"))
    }

    /// Listens again at the same address. Must be called on a thread in the original network namespace.
    pub fn start_again(&mut self) -> Result<()> {
        let listener = TcpListener::bind(self.address).context("cannot listen again as API server")?;
        self.run(listener)
    }

    pub fn url(&self) -> String {
        format!("https://{}", self.address)
    }

    /// Writes a kubeconfig, a token and the CA certificate into a directory. Returns the path of the kubeconfig.
    pub fn kubeconfig(&self, directory: &Path) -> Result<PathBuf> {
        let user = json!({"tokenFile": directory.join("token")});
        self.set_token(directory, "the-first-token")?;
        self.kubeconfig_for(directory, &user)
    }

    /// The same, for a user with a client certificate.
    pub fn kubeconfig_with_certificate(&self, directory: &Path) -> Result<PathBuf> {
        let (certificate, key) = (directory.join("client.crt"), directory.join("client.key"));
        fs::write(&certificate, &self.identity.client_certificate)?;
        fs::write(&key, &self.identity.client_key)?;
        self.kubeconfig_for(directory, &json!({"client-certificate": certificate, "client-key": key}))
    }

    fn kubeconfig_for(&self, directory: &Path, user: &Value) -> Result<PathBuf> {
        let authority = directory.join("ca.crt");
        fs::write(&authority, &self.identity.authority)?;
        let config = json!({
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "c", "cluster": {"server": self.url(), "certificate-authority": authority}}],
            "users": [{"name": "u", "user": user}],
            "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
            "current-context": "x",
        });
        let path = directory.join("kubeconfig");
        fs::write(&path, serde_json::to_string_pretty(&config)?)?;
        Ok(path)
    }

    /// Writes a token to the file named in the kubeconfig of this directory, as a token renewal does, and
    /// requires it from now on.
    pub fn set_token(&self, directory: &Path, token: &str) -> Result<()> {
        fs::write(directory.join("token.new"), format!("{token}\n"))?;
        fs::rename(directory.join("token.new"), directory.join("token"))?;
        self.behave(|behaviour| behaviour.token = Some(token.to_owned()));
        Ok(())
    }

    /// Creates or replaces an object, in the next resource version.
    pub fn put(&self, object: &Value) {
        self.shared.change(|state| state.store.put(object.clone()));
    }

    /// Creates or replaces many objects before any watch sees the first.
    pub fn put_all(&self, objects: impl IntoIterator<Item = Value>) {
        self.shared.change(|state| objects.into_iter().for_each(|object| state.store.put(object)));
    }

    /// Takes over the objects of a directory of manifests: changed ones are replaced, absent ones deleted.
    pub fn mirror(&self, directory: &Path) -> Result<()> {
        let objects = objects_in(directory)?;
        self.shared.change(|state| state.store.mirror(objects));
        Ok(())
    }

    pub fn delete(&self, kind: &str, namespace: &str, name: &str) {
        self.shared.change(|state| state.store.delete(kind, namespace, name));
    }

    pub fn behave(&self, change: impl FnOnce(&mut Behaviour)) {
        self.shared.change(|state| change(&mut state.behaviour));
    }

    /// Restores an old backup: resource versions start over, with these objects.
    pub fn restore(&self, objects: impl IntoIterator<Item = Value>) {
        self.shared.change(|state| {
            state.store = Store::default();
            objects.into_iter().for_each(|object| state.store.put(object));
        });
    }

    /// Ends every open watch.
    pub fn cut_watches(&self) {
        self.shared.change(|state| state.cuts += 1);
    }

    /// Changes objects and compacts the history at once, so that no watch receives the changes. Open watches
    /// receive the error 410 (Gone) in their stream, or are cut.
    pub fn change_and_compact(
        &self,
        objects: impl IntoIterator<Item = Value>,
        gone: (&str, &str, &str),
        expires_watches: bool,
    ) {
        self.shared.change(|state| {
            objects.into_iter().for_each(|object| state.store.put(object));
            state.store.delete(gone.0, gone.1, gone.2);
            if expires_watches {
                state.store.expire();
            } else {
                state.store.compact();
                state.cuts += 1;
            }
        });
    }

    /// Sends the error 410 (Gone) in the stream of every open watch.
    pub fn expire_watches(&self) {
        self.shared.change(|state| state.store.expire());
    }

    /// The number of requests so far with all of these in their path or query.
    pub fn requests(&self, parts: &[&str]) -> usize {
        let state = self.shared.lock();
        state.requests.iter().filter(|request| parts.iter().all(|part| request.contains(part))).count()
    }
}

impl Drop for ApiServer {
    fn drop(&mut self) {
        // A story that has failed already must not panic a second time here.
        let _ = self.stop();
    }
}
