//! `nsid [DATA...]`: the identifier of the server, for clients that request it (RFC 5001).

use super::directive::{Directive, hostname};
use crate::{
    config::Zones,
    corefile::{CorefileError, Statement},
};

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Nsid {
    /// `None`: the host name.
    data: Option<String>,
}

impl Nsid {
    /// The data of the option.
    pub(crate) fn octets(&self) -> Vec<u8> {
        self.data.clone().unwrap_or_else(hostname).into_bytes()
    }
}

impl Directive for Nsid {
    const NAME: &'static str = "nsid";
    const SUMMARY: &'static str = "the server's identifier (RFC 5001), its host name by default";
    type Setting = Option<Self>;

    fn read(setting: &mut Option<Self>, statement: &Statement, _zones: &Zones) -> Result<(), CorefileError> {
        statement.no_body()?;
        let words: Vec<&str> = statement.words.iter().map(|word| word.text.as_str()).collect();
        *setting = Some(Self { data: (!words.is_empty()).then(|| words.join(" ")) });
        Ok(())
    }

    fn is_enabled(setting: &Option<Self>) -> bool {
        setting.is_some()
    }
}
