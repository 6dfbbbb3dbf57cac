//! kube-proxy's configuration file.

use std::path::Path;

use proxy::kube_proxy_config::{ConfigFile, without_effect};

use crate::text;

pub fn run(octets: &[u8]) {
    let Some(text) = text::read(octets) else { return };
    if let Ok(file) = ConfigFile::parse(Path::new("config.conf"), text.to_owned()) {
        without_effect(&file.config);
    }
}
