//! Services and slices, joined by the Service's name. Either may arrive first.

use std::{
    borrow::Borrow,
    cmp::Ordering,
    collections::{HashMap, HashSet},
    hash::{Hash, Hasher},
    sync::Arc,
};

use super::small_set::SmallSet;
use crate::model::{
    backend::{SliceInfo, SliceKey},
    service::{ServiceInfo, ServiceKey},
};

#[derive(Default)]
pub struct Joined {
    services: HashMap<ServiceKey, Parts>,
    /// The same slices by their own keys, which do not change when a label assigns a slice to another Service.
    slices: HashSet<Slice>,
}

/// The objects with the name of one Service.
#[derive(Default)]
struct Parts {
    service: Option<Arc<ServiceInfo>>,
    slices: Option<SmallSet<Slice>>,
}

impl Parts {
    fn is_empty(&self) -> bool {
        self.service.is_none() && self.slices.is_none()
    }
}

/// A slice, compared by its key.
#[derive(Clone, Debug)]
struct Slice(Arc<SliceInfo>);

impl Joined {
    pub fn service(&self, key: &ServiceKey) -> Option<&Arc<ServiceInfo>> {
        self.services.get(key)?.service.as_ref()
    }

    pub fn services(&self) -> impl Iterator<Item = &ServiceInfo> {
        self.services.values().filter_map(|parts| parts.service.as_deref())
    }

    pub fn objects(&self) -> (Vec<Arc<ServiceInfo>>, Vec<Arc<SliceInfo>>) {
        let services = self.services.values().filter_map(|parts| parts.service.clone()).collect();
        (services, self.slices.iter().map(|Slice(slice)| Arc::clone(slice)).collect())
    }

    /// Returns the previous version of the Service.
    pub fn insert_service(&mut self, service: Arc<ServiceInfo>) -> Option<Arc<ServiceInfo>> {
        let parts = self.services.entry(service.key.clone()).or_default();
        parts.service.replace(service)
    }

    pub fn remove_service(&mut self, key: &ServiceKey) -> Option<Arc<ServiceInfo>> {
        let removed = self.services.get_mut(key)?.service.take();
        self.remove_if_empty(key);
        removed
    }

    pub fn slice(&self, key: &SliceKey) -> Option<&Arc<SliceInfo>> {
        self.slices.get(key).map(|Slice(slice)| slice)
    }

    pub fn slices(&self) -> impl Iterator<Item = &SliceInfo> {
        self.slices.iter().map(|Slice(slice)| &**slice)
    }

    /// The slices of a Service, sorted by key.
    pub fn slices_of(&self, service: &ServiceKey) -> impl Iterator<Item = &SliceInfo> {
        let slices = self.services.get(service).and_then(|parts| parts.slices.as_ref());
        slices.into_iter().flat_map(SmallSet::iter).map(|Slice(slice)| &**slice)
    }

    /// Adds a slice; no slice with its key may exist.
    pub fn insert_slice(&mut self, slice: Arc<SliceInfo>) {
        let siblings = &mut self.services.entry(slice.service.clone()).or_default().slices;
        let new = Slice(Arc::clone(&slice));
        match siblings {
            Some(siblings) => siblings.insert(new),
            None => *siblings = Some(SmallSet::new(new)),
        }
        self.slices.insert(Slice(slice));
    }

    pub fn remove_slice(&mut self, key: &SliceKey) -> Option<Arc<SliceInfo>> {
        let Slice(slice) = self.slices.take(key)?;
        if let Some(parts) = self.services.get_mut(&slice.service) {
            parts.slices = parts.slices.take().and_then(|set| set.without(|Slice(one)| one.key == *key));
        }
        self.remove_if_empty(&slice.service);
        Some(slice)
    }

    fn remove_if_empty(&mut self, key: &ServiceKey) {
        if self.services.get(key).is_some_and(Parts::is_empty) {
            self.services.remove(key);
        }
    }
}

impl Borrow<SliceKey> for Slice {
    fn borrow(&self) -> &SliceKey {
        &self.0.key
    }
}

impl Hash for Slice {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.key.hash(state);
    }
}

impl Ord for Slice {
    fn cmp(&self, other: &Self) -> Ordering {
        self.0.key.cmp(&other.0.key)
    }
}

impl PartialOrd for Slice {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Slice {
    fn eq(&self, other: &Self) -> bool {
        self.0.key == other.0.key
    }
}

impl Eq for Slice {}

#[cfg(test)]
impl Joined {
    pub fn is_empty(&self) -> bool {
        self.services.is_empty() && self.slices.is_empty()
    }
}
