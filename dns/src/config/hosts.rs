//! Addresses that are written down.

use std::{net::IpAddr, path::PathBuf, time::Duration};

use hickory_server::proto::rr::LowerName;

use super::Zones;

#[derive(Debug, Clone, PartialEq)]
pub struct Hosts {
    /// A file like `/etc/hosts`, read again as it changes.
    pub file: PathBuf,
    pub zones: Zones,
    /// What the Corefile itself lists.
    pub entries: Vec<(IpAddr, LowerName)>,
    pub ttl: u32,
    /// Addresses lead back to their names.
    pub reverse: bool,
    /// How often the file is looked at; None reads it once.
    pub reload: Option<Duration>,
    /// Names of these zones that are not listed are handed on. Empty: every miss is final.
    pub fallthrough: Zones,
}

impl Hosts {
    pub fn new(zones: Zones) -> Self {
        Self {
            file: "/etc/hosts".into(),
            zones,
            entries: Vec::new(),
            ttl: 3600,
            reverse: true,
            reload: Some(Duration::from_secs(5)),
            fallthrough: Zones::default(),
        }
    }
}
