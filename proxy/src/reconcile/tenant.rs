//! The owners of shares of the tables.

use std::fmt;

use arcstr::ArcStr;

use crate::model::{address::IpFamily, service::ServiceKey};

/// The tables with budgets. Descriptors are as many as frontends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Table {
    Frontends,
    Slots,
    Services,
    BackendsV4,
    BackendsV6,
    SourceRangesV4,
    SourceRangesV6,
}

impl Table {
    pub fn backends(family: IpFamily) -> Self {
        match family {
            IpFamily::V4 => Self::BackendsV4,
            IpFamily::V6 => Self::BackendsV6,
        }
    }

    pub fn source_ranges(family: IpFamily) -> Self {
        match family {
            IpFamily::V4 => Self::SourceRangesV4,
            IpFamily::V6 => Self::SourceRangesV6,
        }
    }

    /// The name of the table in messages.
    pub fn name(self) -> &'static str {
        match self {
            Self::Frontends => "FRONTENDS",
            Self::Slots => "SLOTS",
            Self::Services => "SERVICES",
            Self::BackendsV4 => "BACKENDS_V4",
            Self::BackendsV6 => "BACKENDS_V6",
            Self::SourceRangesV4 => "SOURCE_RANGES_V4",
            Self::SourceRangesV6 => "SOURCE_RANGES_V6",
        }
    }
}

/// The owner of a share.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Tenant {
    Service(ServiceKey),
    Namespace(ArcStr),
}

impl fmt::Display for Tenant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Service(key) => write!(f, "Service {key}"),
            Self::Namespace(name) => write!(f, "namespace {name}"),
        }
    }
}
