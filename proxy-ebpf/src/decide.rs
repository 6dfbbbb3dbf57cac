//! The decision: frontend, policy, backend. Written once for both families and every plane.

use aya_ebpf::helpers::bpf_get_prandom_u32;
use proxy_ebpf::abi::{Block, Descriptor, DescriptorFlags, DropReason};

use crate::{
    family::{Backend, Family},
    frontend::{self, Found},
};

/// What is to be done with a new connection.
#[must_use]
pub enum Verdict<A> {
    /// Not Service traffic.
    NotOurs,
    /// Goes to this backend of this service port.
    Backend(Backend<A>),
    /// Refused; the service port is known.
    Refuse(DropReason, u32),
    /// Refused before a service port was found.
    RefuseUnknown(DropReason),
}

/// Which of a frontend's two views a client gets.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// Pods and the node itself.
    Internal,
}

/// How many slots are tried when the chosen backend has just gone. A slot of the current descriptor goes stale
/// only between the flip away from it and this read.
const ATTEMPTS: u32 = 4;

/// Decides for a connection whose source address is not known yet.
#[inline(always)]
pub fn decide<F: Family>(
    address: F::Address,
    port: [u8; 2],
    protocol: u8,
    scope: Scope,
) -> Verdict<F::Address> {
    for _ in 0..ATTEMPTS {
        let descriptor = match frontend::current::<F>(address, port, protocol) {
            Found::Descriptor(descriptor) => descriptor,
            Found::Nothing => return Verdict::NotOurs,
            Found::Unsettled => return Verdict::RefuseUnknown(DropReason::FrontendUnsettled),
        };
        if let Some(reason) = forbidden(descriptor, scope) {
            return Verdict::Refuse(reason, descriptor.service);
        }
        if let Some(backend) = choose::<F>(block(descriptor, scope)) {
            return Verdict::Backend(backend);
        }
    }
    Verdict::RefuseUnknown(DropReason::BackendUnsettled)
}

/// Why nothing may be chosen, if so.
#[inline(always)]
fn forbidden(descriptor: &Descriptor, scope: Scope) -> Option<DropReason> {
    let drops = match scope {
        Scope::Internal => DescriptorFlags::INTERNAL_DROPS,
    };
    if descriptor.flags.contains(DescriptorFlags::SOURCE_RANGES) {
        Some(DropReason::NeedsSourceAddress)
    } else if block(descriptor, scope).count != 0 {
        None
    } else if descriptor.flags.contains(drops) {
        Some(DropReason::PolicyHasNoLocalEndpoint)
    } else {
        Some(DropReason::NoEndpoint)
    }
}

#[inline(always)]
fn block(descriptor: &Descriptor, scope: Scope) -> &Block {
    match scope {
        Scope::Internal => &descriptor.internal,
    }
}

/// Uniformly at random over the block (spec of kube-proxy, K1).
#[inline(always)]
fn choose<F: Family>(block: &Block) -> Option<Backend<F::Address>> {
    // SAFETY: takes no argument and has no precondition.
    let random = unsafe { bpf_get_prandom_u32() };
    // Multiplying instead of dividing: no zero test, and as uniform as a remainder.
    let at = ((u64::from(random) * u64::from(block.count)) >> 32) as u32;
    F::backend(frontend::slot(block, at)?)
}
