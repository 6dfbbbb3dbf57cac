//! kube-proxy's configuration file, so that its ConfigMap works unchanged.
//!
//! text → [`decode`] → kube-proxy's fields (`file`) → [`settings`] → validated values. Fields without effect are reported
//! with the reason; no field is ignored silently.

mod decode;
mod fields;
mod file;
mod go_duration;
mod settings;
#[cfg(test)]
mod tests;
mod types;

use std::{
    io,
    path::{Path, PathBuf},
};

use dns::text_file;

pub use fields::without_effect;
pub use file::{Ipvs, KubeProxyConfiguration};
pub use go_duration::GoDuration;
pub use settings::{FieldError, LoggingSettings, Mode, Settings, settings};

#[derive(Debug, thiserror::Error)]
pub enum ConfigFileError {
    #[error("cannot read {path}")]
    Read {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{path} is not a kube-proxy configuration: {message}")]
    Decode { path: PathBuf, message: String },
    #[error("{path} is invalid: {}", join_errors(errors))]
    Invalid { path: PathBuf, errors: Vec<FieldError> },
}

/// A valid configuration file.
#[derive(Clone, Debug, PartialEq)]
pub struct ConfigFile {
    pub path: PathBuf,
    /// The content, to detect changes.
    pub text: String,
    pub config: KubeProxyConfiguration,
    pub settings: Settings,
    /// Faults that kube-proxy's strict decoder would refuse.
    pub warnings: Vec<String>,
}

impl ConfigFile {
    pub fn read(path: &Path) -> Result<Self, ConfigFileError> {
        let text = text_file::read(path)
            .map_err(|source| ConfigFileError::Read { path: path.to_owned(), source })?;
        Self::parse(path, text)
    }

    pub fn parse(path: &Path, text: String) -> Result<Self, ConfigFileError> {
        let path = path.to_owned();
        let decoded = match decode::decode(&text) {
            Ok(decoded) => decoded,
            Err(message) => return Err(ConfigFileError::Decode { path, message }),
        };
        let decode::Decoded { config, warnings } = decoded;
        match settings(&config) {
            Ok(settings) => Ok(Self { path, text, config, settings, warnings }),
            Err(errors) => Err(ConfigFileError::Invalid { path, errors }),
        }
    }
}

/// A configuration file with kube-proxy's defaults.
pub fn default_file() -> Result<String, serde_saphyr::ser::Error> {
    serde_saphyr::to_string(&KubeProxyConfiguration::upstream_default())
}

/// All errors in one line.
pub fn join_errors(errors: &[FieldError]) -> String {
    let lines: Vec<String> =
        errors.iter().map(|FieldError { field, message }| format!("{field}: {message}")).collect();
    lines.join("; ")
}
