//! The image as one tar: an OCI layout (`index.json`, blobs by digest), and the `manifest.json` that Docker reads.
//! Reproducible: the same program gives the same bytes.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result};
use serde::Serialize;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";

pub struct Image<'a> {
    /// `name:tag`
    pub name: &'a str,
    /// In Go's spelling.
    pub architecture: &'a str,
    pub program: &'a [u8],
    /// The commit of the source.
    pub revision: Option<&'a str>,
}

/// Content that is referred to by its digest.
struct Blob {
    media_type: &'static str,
    bytes: Vec<u8>,
    digest: String,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Descriptor<'a> {
    media_type: &'a str,
    digest: String,
    size: usize,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Manifest<'a> {
    schema_version: u32,
    media_type: &'a str,
    config: Descriptor<'a>,
    layers: Vec<Descriptor<'a>>,
}

/// The entry of Docker's own `manifest.json`.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct DockerManifest<'a> {
    config: String,
    repo_tags: Vec<&'a str>,
    layers: Vec<String>,
}

impl Image<'_> {
    pub fn archive(&self) -> Result<Vec<u8>> {
        let layer = Blob::new(LAYER, tar(&[("portreeve", 0o755, self.program)])?);
        let config = Blob::json(CONFIG, &self.config(&layer))?;
        let manifest = Manifest {
            schema_version: 2,
            media_type: MANIFEST,
            config: config.descriptor(),
            layers: vec![layer.descriptor()],
        };
        let manifest = Blob::json(MANIFEST, &manifest)?;
        let docker =
            DockerManifest { config: config.path(), repo_tags: vec![self.name], layers: vec![layer.path()] };
        let index = serde_json::to_vec(&self.index(&manifest))?;
        let docker = serde_json::to_vec(&[docker])?;
        let blobs = [&layer, &config, &manifest].map(|blob| (blob.path(), blob));
        let mut files: Vec<(&str, u32, &[u8])> = vec![
            ("oci-layout", 0o644, br#"{"imageLayoutVersion":"1.0.0"}"#),
            ("index.json", 0o644, &index),
            ("manifest.json", 0o644, &docker),
        ];
        files.extend(blobs.iter().map(|(path, blob)| (path.as_str(), 0o644, blob.bytes.as_slice())));
        tar(&files)
    }

    fn config(&self, layer: &Blob) -> Value {
        json!({
            "architecture": self.architecture,
            "os": "linux",
            "config": { "Entrypoint": ["/portreeve"], "WorkingDir": "/", "Labels": self.labels() },
            "rootfs": { "type": "layers", "diff_ids": [layer.digest] },
            "history": [{ "comment": "one static binary" }],
        })
    }

    /// The annotations that the OCI defines (image-spec, annotations.md).
    fn labels(&self) -> BTreeMap<&'static str, &str> {
        let stated = [
            ("org.opencontainers.image.title", Some("portreeve")),
            (
                "org.opencontainers.image.description",
                Some("Service proxy and name server of a Kubernetes node"),
            ),
            ("org.opencontainers.image.version", Some(env!("CARGO_PKG_VERSION"))),
            ("org.opencontainers.image.licenses", Some(env!("CARGO_PKG_LICENSE"))),
            ("org.opencontainers.image.revision", self.revision),
        ];
        stated.into_iter().filter_map(|(name, value)| Some((name, value?))).collect()
    }

    fn index(&self, manifest: &Blob) -> Value {
        let tag = self.name.rsplit_once(':').map_or("latest", |(_, tag)| tag);
        json!({
            "schemaVersion": 2,
            "mediaType": INDEX,
            "manifests": [{
                "mediaType": MANIFEST,
                "digest": manifest.digest,
                "size": manifest.bytes.len(),
                "platform": { "architecture": self.architecture, "os": "linux" },
                "annotations": {
                    "io.containerd.image.name": full_name(self.name),
                    "org.opencontainers.image.ref.name": tag,
                },
            }],
        })
    }
}

/// The full reference by which a kubelet resolves a short image name.
fn full_name(name: &str) -> String {
    match name.split('/').collect::<Vec<_>>().as_slice() {
        [_] => format!("docker.io/library/{name}"),
        [first, ..] if first.contains(['.', ':']) || *first == "localhost" => name.to_owned(),
        _ => format!("docker.io/{name}"),
    }
}

impl Blob {
    fn new(media_type: &'static str, bytes: Vec<u8>) -> Self {
        let digest = format!("sha256:{}", sha256(&bytes));
        Self { media_type, bytes, digest }
    }

    fn json(media_type: &'static str, value: &impl Serialize) -> Result<Self> {
        Ok(Self::new(media_type, serde_json::to_vec(value)?))
    }

    fn descriptor(&self) -> Descriptor<'static> {
        Descriptor { media_type: self.media_type, digest: self.digest.clone(), size: self.bytes.len() }
    }

    fn path(&self) -> String {
        format!("blobs/{}", self.digest.replace(':', "/"))
    }
}

/// In hexadecimal.
pub fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A tar without owners and times, so that it is reproducible.
fn tar(files: &[(&str, u32, &[u8])]) -> Result<Vec<u8>> {
    let mut archive = tar::Builder::new(Vec::new());
    for (path, mode, bytes) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mode(*mode);
        header.set_mtime(0);
        archive.append_data(&mut header, path, *bytes).with_context(|| format!("packing {path}"))?;
    }
    Ok(archive.into_inner()?)
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use super::*;

    fn unpack(bytes: &[u8]) -> BTreeMap<String, Vec<u8>> {
        let mut archive = tar::Archive::new(bytes);
        let read = |entry: std::io::Result<tar::Entry<'_, &[u8]>>| {
            let mut entry = entry.unwrap();
            let mut bytes = Vec::new();
            entry.read_to_end(&mut bytes).unwrap();
            (entry.path().unwrap().display().to_string(), bytes)
        };
        archive.entries().unwrap().map(read).collect()
    }

    fn image() -> Image<'static> {
        Image { name: "portreeve:0.1.0", architecture: "amd64", program: b"a program", revision: Some("abc") }
    }

    /// Returns the blob of a descriptor after a check of its digest and size.
    fn referred<'a>(files: &'a BTreeMap<String, Vec<u8>>, descriptor: &Value) -> &'a [u8] {
        let digest = descriptor["digest"].as_str().unwrap();
        let bytes = &files[&format!("blobs/{}", digest.replace(':', "/"))];
        assert_eq!(Blob::new(LAYER, bytes.clone()).digest, digest);
        assert_eq!(descriptor["size"], bytes.len());
        bytes
    }

    #[test]
    fn every_descriptor_matches_its_blob() {
        let files = unpack(&image().archive().unwrap());
        let json = |bytes: &[u8]| serde_json::from_slice::<Value>(bytes).unwrap();
        let index = json(&files["index.json"]);
        let manifest = json(referred(&files, &index["manifests"][0]));
        let config = json(referred(&files, &manifest["config"]));
        let layer = referred(&files, &manifest["layers"][0]);
        assert_eq!(unpack(layer)["portreeve"], b"a program");
        assert_eq!(config["rootfs"]["diff_ids"][0], manifest["layers"][0]["digest"]);
        assert_eq!(config["config"]["Entrypoint"][0], "/portreeve");
        assert_eq!(config["config"]["Labels"]["org.opencontainers.image.revision"], "abc");
        assert_eq!(config["config"]["Labels"]["org.opencontainers.image.licenses"], "MIT OR Apache-2.0");
        let unknown = Image { revision: None, ..image() };
        assert!(!unknown.labels().contains_key("org.opencontainers.image.revision"));
        let docker = json(&files["manifest.json"]);
        assert_eq!(docker[0]["RepoTags"][0], "portreeve:0.1.0");
        for path in [&docker[0]["Config"], &docker[0]["Layers"][0]] {
            assert!(files.contains_key(path.as_str().unwrap()), "{path}");
        }
    }

    #[test]
    fn the_program_is_executable_and_the_archive_reproducible() {
        let archive = image().archive().unwrap();
        assert_eq!(archive, image().archive().unwrap());
        let layer = tar(&[("portreeve", 0o755, b"x")]).unwrap();
        let modes: Vec<u32> = tar::Archive::new(layer.as_slice())
            .entries()
            .unwrap()
            .map(|e| e.unwrap().header().mode().unwrap())
            .collect();
        assert_eq!(modes, [0o755]);
    }

    #[test]
    fn short_names_belong_to_docker_hub() {
        for (name, want) in [
            ("portreeve:0.1.0", "docker.io/library/portreeve:0.1.0"),
            ("me/portreeve:1", "docker.io/me/portreeve:1"),
            ("registry.example/portreeve:1", "registry.example/portreeve:1"),
            ("localhost:5000/portreeve:1", "localhost:5000/portreeve:1"),
        ] {
            assert_eq!(full_name(name), want);
        }
    }
}
