//! Conversion of objects for their two consumers, the load balancer and DNS.

use ::dns::cluster::zone::ReadOptions;

use super::{
    ObjectError, Parsed, dns,
    object::{Object, ObjectId},
};
use crate::index;

/// The node and the DNS options for which a source converts objects.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reader {
    /// Name of this node. Empty: the load balancer is off, there are no changes for it.
    pub node_name: String,
    /// Options of the DNS conversion. `None`: DNS is off.
    pub dns: Option<ReadOptions>,
}

/// The changes that an object causes in the load balancer's index and in the DNS zone.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ObjectChanges {
    pub index: Option<index::Change>,
    pub dns: Option<::dns::cluster::zone::Change>,
}

impl ObjectChanges {
    pub fn is_empty(&self) -> bool {
        self.index.is_none() && self.dns.is_none()
    }
}

impl Reader {
    /// Converts an object for the load balancer, with the errors of ignored fields.
    pub fn index_change(&self, object: &Object) -> Result<Option<Parsed<index::Change>>, ObjectError> {
        if self.node_name.is_empty() { Ok(None) } else { object.change(&self.node_name) }
    }

    /// Converts an object for DNS. Addresses that cannot be parsed have no records, and are logged.
    pub fn dns_change(&self, object: &Object) -> Option<::dns::cluster::zone::Change> {
        let options = self.dns.as_ref()?;
        for address in dns::unreadable_addresses(object, options, !self.node_name.is_empty()) {
            let id = object.id().map(|id| id.to_string()).unwrap_or_default();
            tracing::warn!(
                object = id,
                address,
                reason = "not an IP address: no DNS records",
                "address ignored"
            );
        }
        dns::change(object, options)
    }

    pub fn removal(&self, id: &ObjectId) -> ObjectChanges {
        let index = if self.node_name.is_empty() { None } else { id.removal(&self.node_name) };
        ObjectChanges { index, dns: self.dns.as_ref().and_then(|_| dns::removal(id)) }
    }
}
