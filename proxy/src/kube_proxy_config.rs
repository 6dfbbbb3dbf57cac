//! kube-proxy's own configuration file, so that its ConfigMap works unchanged.
//!
//! text → [`decode`] → the fields as upstream spells them (`file`) → [`settings`] → narrow values. What has no effect
//! here is named with its reason; nothing is passed over in silence.

mod decode;
mod fields;
mod file;
mod go_duration;
mod settings;
#[cfg(test)]
mod tests;

use std::{
    fs, io,
    path::{Path, PathBuf},
};

pub use fields::without_effect;
pub use file::{Ipvs, KubeProxyConfiguration};
pub use go_duration::GoDuration;
pub use settings::{LoggingSettings, Mode, Problem, Settings, settings};

#[derive(Debug, thiserror::Error)]
pub enum ConfigFileError {
    #[error("cannot read {path}")]
    Read {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{path} is no configuration of kube-proxy: {problem}")]
    Decode { path: PathBuf, problem: String },
    #[error("{path} cannot be used: {}", sentence(problems))]
    Invalid { path: PathBuf, problems: Vec<Problem> },
}

/// A file that was read and makes sense.
#[derive(Clone, Debug, PartialEq)]
pub struct ConfigFile {
    pub path: PathBuf,
    /// What was read, to see whether it changes.
    pub text: String,
    pub config: KubeProxyConfiguration,
    pub settings: Settings,
    /// What a strict reader would refuse.
    pub remarks: Vec<String>,
}

impl ConfigFile {
    pub fn read(path: &Path) -> Result<Self, ConfigFileError> {
        let text = fs::read_to_string(path)
            .map_err(|source| ConfigFileError::Read { path: path.to_owned(), source })?;
        Self::parse(path, text)
    }

    pub fn parse(path: &Path, text: String) -> Result<Self, ConfigFileError> {
        let path = path.to_owned();
        let decoded = match decode::decode(&text) {
            Ok(decoded) => decoded,
            Err(problem) => return Err(ConfigFileError::Decode { path, problem }),
        };
        let decode::Decoded { config, remarks } = decoded;
        match settings(&config) {
            Ok(settings) => Ok(Self { path, text, config, settings, remarks }),
            Err(problems) => Err(ConfigFileError::Invalid { path, problems }),
        }
    }
}

/// Upstream's defaults as a file of theirs.
pub fn default_file() -> Result<String, serde_saphyr::ser::Error> {
    serde_saphyr::to_string(&KubeProxyConfiguration::upstream_default())
}

/// All that is wrong, in one line.
pub fn sentence(problems: &[Problem]) -> String {
    let named: Vec<String> =
        problems.iter().map(|Problem { field, what }| format!("{field}: {what}")).collect();
    named.join("; ")
}
