//! The decision: frontend, traffic policy, affinity, backend. One implementation for both families and all hooks.

use proxy_ebpf::abi::{BackendFlags, BackendRef, Block, Descriptor, DescriptorFlags, DropReason, Endpoint};

use super::{
    Access as _, Backend, Client, Scope, Tables, affinity,
    frontend::{self, FrontendLookup},
    health,
};
use crate::family::{Family, bytes};

/// The decision about a new flow.
#[must_use]
pub enum Decision<A> {
    /// Not Service traffic.
    NotOurs,
    Backend(Choice<A>),
    /// Refused, with the service port if one was found.
    Refuse(DropReason, Option<u32>),
}

/// The chosen backend.
#[derive(Clone, Copy)]
pub struct Choice<A> {
    pub backend: Backend<A>,
    pub reference: BackendRef,
    /// Index of the frontend.
    pub frontend: u32,
    /// Flags of the frontend's descriptor.
    pub flags: DescriptorFlags,
    /// Whether the frontend has affinity: not 0 if so. A number, as it is stored in a map between stages.
    pub has_affinity: u32,
}

impl<A: Copy> Choice<A> {
    #[inline(always)]
    pub fn of(backend: Backend<A>, reference: BackendRef, descriptor: &Descriptor) -> Self {
        let has_affinity = (descriptor.affinity_seconds != 0).into();
        Self { backend, reference, frontend: descriptor.frontend, flags: descriptor.flags, has_affinity }
    }

    /// The backend's address and port as stored with sockets.
    #[inline(always)]
    pub fn endpoint<F: Family<Address = A>>(&self) -> Endpoint {
        Endpoint::new(bytes(F::mapped(self.backend.address)), self.backend.port)
    }
}

/// Decides for a new flow.
#[inline(always)]
pub fn decide<F: Tables, C: Client<F>>(
    address: F::Address,
    port: [u8; 2],
    protocol: u8,
    client: &C,
) -> Decision<F::Address> {
    for attempt in 1..=C::ATTEMPTS {
        let descriptor = match frontend::current::<F>(address, port, protocol, client) {
            FrontendLookup::Descriptor(descriptor) => descriptor,
            FrontendLookup::NotFound => return Decision::NotOurs,
            FrontendLookup::Changed => continue,
        };
        let scope = client.scope();
        let slots = Slots::of(descriptor, scope, attempt);
        client.considers(descriptor, scope, slots.first, slots.count);
        if let Some(reason) = refusal::<F>(descriptor, scope, &slots, client) {
            return Decision::Refuse(reason, Some(descriptor.service));
        }
        match choose::<F, _>(descriptor, scope, &slots, client) {
            Some(choice) if attempt < C::ATTEMPTS && client.avoids(&choice.endpoint::<F>()) => {}
            Some(choice) => return Decision::Backend(choice),
            None if attempt < C::ATTEMPTS => {}
            // The reason is that of the last attempt: a variable that lives across attempts would multiply the states that the
            // verifier follows.
            None => return Decision::Refuse(DropReason::BackendChurn, None),
        }
    }
    Decision::Refuse(DropReason::FrontendChurn, None)
}

impl Scope {
    #[inline(always)]
    fn block(self, descriptor: &Descriptor) -> &Block {
        match self {
            Self::Internal => &descriptor.internal,
            Self::External => &descriptor.external,
        }
    }

    /// The endpoint set of this view: local or cluster-wide.
    #[inline(always)]
    fn set(self, descriptor: &Descriptor) -> BackendFlags {
        let is_local = match self {
            Self::Internal => DescriptorFlags::INTERNAL_LOCAL,
            Self::External => DescriptorFlags::EXTERNAL_LOCAL,
        };
        if descriptor.flags.contains(is_local) {
            BackendFlags::IN_LOCAL_SET
        } else {
            BackendFlags::IN_CLUSTER_SET
        }
    }

    #[inline(always)]
    fn drops(self) -> DescriptorFlags {
        match self {
            Self::Internal => DescriptorFlags::INTERNAL_DROPS,
            Self::External => DescriptorFlags::EXTERNAL_DROPS,
        }
    }
}

/// The slots of a block from which one attempt chooses.
struct Slots {
    /// Index of its first slot.
    first: u32,
    count: u32,
}

impl Slots {
    /// The first attempt goes to this node's name server, if the block begins with it; later attempts to the other backends.
    /// Branch-free, as the verifier follows each branch.
    #[inline(always)]
    fn of(descriptor: &Descriptor, scope: Scope, attempt: u32) -> Self {
        let block = scope.block(descriptor);
        let own = u32::from(descriptor.flags.contains(DescriptorFlags::LOCAL_NAME_SERVER));
        let is_first = u32::from(attempt == 1);
        let others = block.count.wrapping_sub(own);
        let only_own = 0_u32.wrapping_sub(own & is_first);
        Self {
            first: block.offset.wrapping_add(own & !is_first),
            count: (others & !only_own) | (own & only_own),
        }
    }
}

/// The reason for which a new flow is dropped without a reject, and the service port. Returns `None` for other flows.
#[inline(always)]
pub fn silent_refusal<F: Tables>(
    address: F::Address,
    port: [u8; 2],
    protocol: u8,
    client: &impl Client<F>,
) -> Option<(DropReason, u32)> {
    let descriptor = match frontend::current::<F>(address, port, protocol, client) {
        FrontendLookup::Descriptor(descriptor) => descriptor,
        FrontendLookup::NotFound | FrontendLookup::Changed => return None,
    };
    let scope = client.scope();
    let reason = refusal::<F>(descriptor, scope, &Slots::of(descriptor, scope, 1), client)?;
    (!reason.sends_reject()).then_some((reason, descriptor.service))
}

/// The reason for a refusal, if policy or an empty set requires one.
#[inline(always)]
fn refusal<F: Tables>(
    descriptor: &Descriptor,
    scope: Scope,
    slots: &Slots,
    client: &impl Client<F>,
) -> Option<DropReason> {
    if descriptor.flags.contains(DescriptorFlags::SOURCE_RANGES)
        && let Some(reason) = client.excluded_by_source_ranges(descriptor)
    {
        Some(reason)
    } else if slots.count != 0 {
        None
    } else if descriptor.flags.contains(scope.drops()) {
        Some(DropReason::PolicyHasNoLocalEndpoint)
    } else {
        Some(DropReason::NoEndpoint)
    }
}

#[inline(always)]
fn choose<F: Tables, C: Client<F>>(
    descriptor: &Descriptor,
    scope: Scope,
    slots: &Slots,
    client: &C,
) -> Option<Choice<F::Address>> {
    if descriptor.affinity_seconds == 0 {
        return random::<F, C>(descriptor, slots);
    }
    let reference = affinity::lookup::<F, _>(client, descriptor, scope.set(descriptor));
    client.remembers(reference);
    if reference.generation != 0
        && let Some(backend) = F::backend(reference)
    {
        return Some(Choice::of(backend, reference, descriptor));
    }
    let choice = random::<F, C>(descriptor, slots)?;
    if C::Access::WRITES {
        affinity::store::<F, _>(client, descriptor.service, choice.reference);
    }
    Some(choice)
}

/// A uniformly random backend (rule K1), of those that are not left out.
#[inline(always)]
fn random<F: Tables, C: Client<F>>(descriptor: &Descriptor, slots: &Slots) -> Option<Choice<F::Address>> {
    let reference = health::draw::<F>(slots.first, slots.count, C::Access::WRITES);
    if reference.generation == 0 {
        return None;
    }
    Some(Choice::of(F::backend(reference)?, reference, descriptor))
}
