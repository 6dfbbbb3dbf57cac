//! How a source of objects reads them: for which node, and for whom.

use ::dns::cluster::zone::ReadOptions;

use super::{
    ObjectError, Read, dns,
    object::{Object, ObjectId},
};
use crate::index;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reader {
    /// Empty: no load is balanced, so nothing is kept for that.
    pub node_name: String,
    /// What of the objects is kept for DNS. `None`: nobody answers names.
    pub dns: Option<ReadOptions>,
}

/// What an object means to the load balancer and to DNS.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Meaning {
    pub change: Option<index::Change>,
    pub names: Option<::dns::cluster::zone::Change>,
}

impl Meaning {
    pub fn is_nothing(&self) -> bool {
        self.change.is_none() && self.names.is_none()
    }
}

impl Reader {
    /// What the load balancer makes of an object, and what of it had to be left out.
    pub fn change(&self, object: &Object) -> Result<Option<Read<index::Change>>, ObjectError> {
        if self.node_name.is_empty() { Ok(None) } else { object.change(&self.node_name) }
    }

    /// What DNS makes of it: whatever can be used, as what it cannot use has no name.
    pub fn names(&self, object: &Object) -> Option<::dns::cluster::zone::Change> {
        dns::change(object, self.dns.as_ref()?)
    }

    pub fn removal(&self, id: &ObjectId) -> Meaning {
        let change = if self.node_name.is_empty() { None } else { id.removal(&self.node_name) };
        Meaning { change, names: self.dns.as_ref().and_then(|_| dns::removal(id)) }
    }
}
