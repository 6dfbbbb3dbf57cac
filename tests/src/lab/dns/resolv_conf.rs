//! /etc/resolv.conf of a pod.

use std::{
    fs,
    net::IpAddr,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};

/// Writes the resolv.conf that the kubelet gives a pod of this namespace.
pub fn resolv_conf(pod: &str, namespace: &str, server: IpAddr, directory: &Path) -> Result<PathBuf> {
    let path = directory.join(format!("{pod}.resolv.conf"));
    let text = format!(
        "nameserver {server}\nsearch {namespace}.svc.cluster.local svc.cluster.local cluster.local\n\
         options ndots:5\n"
    );
    fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
    Ok(path)
}
