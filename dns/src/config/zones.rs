//! Sets of zones.

use hickory_server::proto::rr::LowerName;

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Zones(pub Vec<LowerName>);

impl Zones {
    /// The root zone, which contains every name.
    pub fn all() -> Self {
        Self(vec![root()])
    }

    pub fn contains(&self, name: &LowerName) -> bool {
        self.0.iter().any(|zone| zone.zone_of(name))
    }

    /// The longest zone that contains the name.
    pub fn longest(&self, name: &LowerName) -> Option<&LowerName> {
        self.0.iter().filter(|zone| zone.zone_of(name)).max_by_key(|zone| zone.num_labels())
    }
}

pub(crate) fn root() -> LowerName {
    hickory_server::proto::rr::Name::root().into()
}
