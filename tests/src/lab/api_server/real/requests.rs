//! Requests to a real server: objects created, replaced and deleted, and the compaction of its history.

use std::{collections::BTreeMap, path::Path};

use anyhow::{Context as _, Result};
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use kube::Client;
use serde_json::{Value, json};

use super::{
    http::{request, send, succeeded},
    server::{RealApiServer, TIMEOUT},
};
use crate::lab::{api_server::objects_in, eventually::within, objects::Manifests};

/// The metadata fields that a client may set; the server sets the others.
const METADATA: [&str; 4] = ["name", "namespace", "labels", "annotations"];

/// Objects that an API server creates by itself, and that agents receive.
const OWN: [&str; 2] =
    ["/api/v1/namespaces/default/services/kubernetes", "/apis/networking.k8s.io/v1/servicecidrs/kubernetes"];

impl RealApiServer {
    /// Creates or replaces an object.
    pub async fn put(&self, object: &Value) -> Result<()> {
        let client = self.client()?;
        let object = object.clone();
        self.netns.run(async move { put(&client, object).await }).await
    }

    /// Creates or replaces many objects, `at_once` in parallel.
    pub async fn put_all(&self, objects: impl IntoIterator<Item = Value>, at_once: usize) -> Result<()> {
        let client = self.client()?;
        let objects: Vec<_> = objects.into_iter().collect();
        let work = async move {
            let puts = objects.into_iter().map(|object| put(&client, object));
            stream::iter(puts).buffer_unordered(at_once).try_collect::<()>().await
        };
        self.netns.run(work).await
    }

    pub async fn delete(&self, object: &Value) -> Result<()> {
        self.send("DELETE", &Paths::of(object).own, &Value::Null).await.map(drop)
    }

    /// Takes over the objects of a directory of manifests: those that differ from the last call are replaced,
    /// absent ones deleted.
    pub async fn mirror(&self, directory: &Path) -> Result<()> {
        let objects = objects_in(directory)?.into_iter().map(|object| (Paths::of(&object).own, object));
        let objects: BTreeMap<_, _> = objects.collect();
        let before = self.mirrored.replace(objects.clone());
        for (path, object) in &objects {
            if before.get(path) != Some(object) {
                self.put(object).await.with_context(|| format!("cannot put {path}"))?;
            }
        }
        for path in before.keys().filter(|path| !objects.contains_key(*path)) {
            self.send("DELETE", path, &Value::Null).await?;
        }
        Ok(())
    }

    /// Writes the server's own objects to the directory from which the others are mirrored.
    pub async fn write_server_objects(&self, manifests: &Manifests) -> Result<()> {
        for (n, path) in OWN.iter().enumerate() {
            let object = within(TIMEOUT, path, || self.get(path)).await?;
            manifests.write(&format!("own-{n}.yaml"), &object)?;
            self.mirrored.borrow_mut().insert((*path).to_owned(), object);
        }
        Ok(())
    }

    /// The object at this path.
    pub async fn get(&self, path: &str) -> Result<Value> {
        self.send("GET", path, &Value::Null).await
    }

    /// Compacts the history of etcd up to the present revision.
    pub async fn compact(&self) -> Result<()> {
        let etcd = self.netns.anonymous_client(&format!("http://127.0.0.1:{}", self.etcd_port))?;
        let work = async move {
            let found = send(&etcd, "POST", "/v3/kv/range", &json!({"key": "AA=="})).await?;
            let revision = found.pointer("/header/revision").context("etcd reports no revision")?;
            send(&etcd, "POST", "/v3/kv/compaction", &json!({"revision": revision, "physical": true})).await
        };
        self.netns.run(work).await.map(drop)
    }

    /// Sends a request. Returns the response. Errors: a status other than 2xx.
    pub async fn send(&self, method: &'static str, path: &str, body: &Value) -> Result<Value> {
        let (client, path, body) = (self.client()?, path.to_owned(), body.clone());
        self.netns.run(async move { send(&client, method, &path, &body).await }).await
    }

    fn client(&self) -> Result<Client> {
        Ok(self.running.as_ref().context("the API server is stopped")?.client.clone())
    }
}

async fn put(client: &Client, mut object: Value) -> Result<()> {
    if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.retain(|field, _| METADATA.contains(&field.as_str()));
    }
    let Paths { all, own } = Paths::of(&object);
    let replaced = request(client, "PUT", &own, &object).await?;
    if replaced.0 == 404 {
        send(client, "POST", &all, &object).await?;
    } else {
        succeeded("PUT", &own, replaced)?;
    }
    put_status(client, &own, &object).await
}

/// Writes the status of a Service, which a server accepts only at the subresource.
async fn put_status(client: &Client, own: &str, object: &Value) -> Result<()> {
    let has_ingress = object.pointer("/status/loadBalancer/ingress").is_some();
    if object.get("kind").is_some_and(|kind| kind == "Service") && has_ingress {
        send(client, "PUT", &format!("{own}/status"), object).await?;
    }
    Ok(())
}

/// The paths of the collection and of one object.
struct Paths {
    all: String,
    own: String,
}

impl Paths {
    fn of(object: &Value) -> Self {
        let text = |pointer: &str| object.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
        let prefix = match text("/apiVersion") {
            "v1" => "/api/v1".to_owned(),
            other => format!("/apis/{other}"),
        };
        let kind = format!("{}s", text("/kind").to_lowercase());
        let all = match text("/metadata/namespace") {
            "" => format!("{prefix}/{kind}"),
            namespace => format!("{prefix}/namespaces/{namespace}/{kind}"),
        };
        let own = format!("{all}/{}", text("/metadata/name"));
        Self { all, own }
    }
}
