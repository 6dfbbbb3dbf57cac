//! Endpoints that leave a slice: connections to them may outlive their pods.

use std::{collections::HashSet, net::IpAddr};

use crate::model::backend::{Candidate, PodIdentity, SliceInfo};

/// An endpoint that left a slice, or whose address there is another pod's now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Departure {
    pub address: IpAddr,
    pub pod: PodIdentity,
}

/// The endpoints of a slice that its next version has not; `None`: it is deleted.
pub fn departures(old: &SliceInfo, new: Option<&SliceInfo>) -> Vec<Departure> {
    let (mut old, mut new) = (&*old.candidates, new.map_or(&[][..], |new| &new.candidates));
    // Most changes concern one endpoint: the rest is the same before and behind it.
    while let ([one, rest @ ..], [other, others @ ..]) = (old, new)
        && pod(one) == pod(other)
    {
        (old, new) = (rest, others);
    }
    while let ([rest @ .., one], [others @ .., other]) = (old, new)
        && pod(one) == pod(other)
    {
        (old, new) = (rest, others);
    }
    if old.is_empty() {
        return Vec::new();
    }
    let stays: HashSet<_> = new.iter().map(pod).collect();
    let leaving = old.iter().map(pod).filter(|pod| !stays.contains(pod));
    leaving.map(|(address, pod)| Departure { address, pod }).collect()
}

fn pod(candidate: &Candidate) -> (IpAddr, PodIdentity) {
    (candidate.ip, candidate.identity)
}
