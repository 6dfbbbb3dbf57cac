//! The selection of network devices, as given on the command line.

use std::{convert::Infallible, str::FromStr};

/// The devices of the packet plane.
#[derive(Clone, Debug)]
pub struct DeviceConfig {
    /// Devices that lead to other machines.
    pub external: DeviceSelection,
    /// Devices that lead to pods of this node.
    pub pod: DeviceSelection,
    pub tc: TcHooks,
    pub xdp: XdpMode,
    pub forwarding: Forwarding,
}

/// `auto`, `none`, or a list of names, each of which may end in `*`: `eth0,ens*`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DeviceSelection {
    /// Detected by their properties.
    Auto,
    None,
    Named(Vec<NamePattern>),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NamePattern {
    Exact(String),
    /// The text before the `*`.
    Prefix(String),
}

/// The mechanism that attaches programs to devices.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum TcHooks {
    /// tcx where the kernel has it, clsact elsewhere
    Auto,
    /// Links, since Linux 6.6
    Tcx,
    /// Filters of a clsact queueing discipline
    Clsact,
}

/// Where the XDP program is attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum XdpMode {
    /// At NICs whose drivers support XDP
    Auto,
    /// At every device that leads to other machines; a missing driver support is a fault
    Native,
    /// In the stack, at every device that leads to other machines: slower, for testing
    Generic,
    /// Nowhere
    Off,
}

/// The path of translated packets for other nodes that XDP did not forward.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Forwarding {
    /// Through the node's stack: it supports every pod network and the node's firewall
    Auto,
    /// Through the node's stack
    Stack,
    /// By the node's routes, past its stack and its firewall, unless only the stack can handle a packet
    Redirect,
}

impl DeviceConfig {
    /// Whether any device is selected, so that there is a packet plane.
    pub fn has_packet_plane(&self) -> bool {
        [&self.external, &self.pod].into_iter().any(|selection| *selection != DeviceSelection::None)
    }
}

impl DeviceSelection {
    /// Whether the device is selected by name.
    pub fn matches(&self, device: &str) -> bool {
        match self {
            Self::Auto | Self::None => false,
            Self::Named(patterns) => patterns.iter().any(|pattern| pattern.matches(device)),
        }
    }
}

impl FromStr for DeviceSelection {
    type Err = Infallible;

    fn from_str(text: &str) -> Result<Self, Infallible> {
        Ok(match text {
            "auto" => Self::Auto,
            "none" => Self::None,
            names => Self::Named(
                names
                    .split(',')
                    .map(str::trim)
                    .filter(|name| !name.is_empty())
                    .map(NamePattern::new)
                    .collect(),
            ),
        })
    }
}

impl NamePattern {
    fn new(text: &str) -> Self {
        match text.strip_suffix('*') {
            Some(prefix) => Self::Prefix(prefix.to_owned()),
            None => Self::Exact(text.to_owned()),
        }
    }

    fn matches(&self, name: &str) -> bool {
        match self {
            Self::Exact(exact) => name == exact,
            Self::Prefix(prefix) => name.starts_with(prefix),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_select_devices() {
        let cases: &[(&str, &[&str], &[&str])] = &[
            ("auto", &[], &["eth0", "auto"]),
            ("none", &[], &["eth0", "none"]),
            ("eth0", &["eth0"], &["eth", "eth01", "veth0"]),
            ("eth*,wg0", &["eth0", "eth", "wg0"], &["wg1", "veth0"]),
            (" bond0 , ", &["bond0"], &["", "bond"]),
            ("*", &["lo", "anything"], &[]),
            ("a*b", &["a*b"], &["ab", "axb"]),
        ];
        for (text, yes, no) in cases {
            let selection: DeviceSelection = text.parse().unwrap();
            for name in *yes {
                assert!(selection.matches(name), "{text:?} names {name}");
            }
            for name in *no {
                assert!(!selection.matches(name), "{text:?} does not name {name}");
            }
        }
    }
}
