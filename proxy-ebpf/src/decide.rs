//! The decision: frontend, policy, affinity, backend. Written once for both families and every plane.

use aya_ebpf::helpers::bpf_get_prandom_u32;
use proxy_ebpf::abi::{
    AffinityKey, BackendFlags, BackendRef, Block, Descriptor, DescriptorFlags, DropReason, Endpoint,
};

use crate::{
    affinity,
    family::{Backend, Family, bytes},
    frontend::{self, Found},
};

/// What is to be done with a new flow.
#[must_use]
pub enum Verdict<A> {
    /// Not Service traffic.
    NotOurs,
    Backend(Choice<A>),
    /// Refused, on behalf of a service port where one was found.
    Refuse(DropReason, Option<u32>),
}

/// A backend, and how to recognise it later.
#[derive(Clone, Copy)]
pub struct Choice<A> {
    pub backend: Backend<A>,
    pub reference: BackendRef,
    /// Index of the frontend that offers it.
    pub frontend: u32,
    /// What that frontend's descriptor says.
    pub flags: DescriptorFlags,
}

impl<A: Copy> Choice<A> {
    #[inline(always)]
    pub fn of(backend: Backend<A>, reference: BackendRef, descriptor: &Descriptor) -> Self {
        Self { backend, reference, frontend: descriptor.frontend, flags: descriptor.flags }
    }

    /// The backend as sockets remember it.
    #[inline(always)]
    pub fn end<F: Family<Address = A>>(&self) -> Endpoint {
        Endpoint::new(bytes(F::mapped(self.backend.address)), self.backend.port)
    }
}

/// Who asks, as far as it is known.
pub trait Client<F: Family> {
    /// Whether the client is in the node's own network namespace.
    fn is_host(&self) -> bool;

    fn scope(&self) -> Scope;

    /// Under what the client's choices of a service port are remembered.
    fn affinity_key(&self, service: u32) -> AffinityKey;

    /// Why loadBalancerSourceRanges keep the client out, if so.
    fn is_kept_out(&self, descriptor: &Descriptor) -> Option<DropReason>;

    /// Whether another backend would be better; heard for all but the last attempt.
    fn would_rather_not(&self, backend: &Endpoint) -> bool;
}

/// Which of a frontend's two views a client gets.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// Pods and the node itself.
    Internal,
    /// Everybody else.
    External,
}

/// How often the decision is repeated when it fell on something that was replaced meanwhile: a frontend, which takes
/// another change of the same element in the few nanoseconds between two reads, or a backend, whose slot goes stale
/// only between the flip away from it and its reading. Loops are the verifier's cost, so there is one for all.
const ATTEMPTS: u32 = 4;

/// Decides for a new flow.
#[inline(always)]
pub fn decide<F: Family>(
    address: F::Address,
    port: [u8; 2],
    protocol: u8,
    client: &impl Client<F>,
) -> Verdict<F::Address> {
    for attempt in 1..=ATTEMPTS {
        let descriptor = match frontend::current::<F>(address, port, protocol, client) {
            Found::Descriptor(descriptor) => descriptor,
            Found::Nothing => return Verdict::NotOurs,
            Found::Unsettled => continue,
        };
        let scope = client.scope();
        let offered = Offered::of(descriptor, scope, attempt);
        if let Some(reason) = forbidden::<F>(descriptor, scope, &offered, client) {
            return Verdict::Refuse(reason, Some(descriptor.service));
        }
        match choose::<F>(descriptor, scope, &offered, client) {
            Some(choice) if attempt < ATTEMPTS && client.would_rather_not(&choice.end::<F>()) => {}
            Some(choice) => return Verdict::Backend(choice),
            None if attempt < ATTEMPTS => {}
            // The reason is that of the last attempt: one that is carried along would be followed by itself on every way
            // through the attempts, as what becomes of the packet depends on it.
            None => return Verdict::Refuse(DropReason::BackendChurn, None),
        }
    }
    Verdict::Refuse(DropReason::FrontendChurn, None)
}

impl Scope {
    #[inline(always)]
    fn block(self, descriptor: &Descriptor) -> &Block {
        match self {
            Self::Internal => &descriptor.internal,
            Self::External => &descriptor.external,
        }
    }

    /// The set of backends that this view of the frontend offers.
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

/// The part of a block that one attempt chooses from.
struct Offered {
    /// Index of its first slot.
    first: u32,
    count: u32,
}

impl Offered {
    /// The first attempt goes to this node's own server, where a block begins with one, the others to everybody else.
    /// Without a branch, each of which the verifier would follow.
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

/// Why nothing may be chosen, if so.
#[inline(always)]
fn forbidden<F: Family>(
    descriptor: &Descriptor,
    scope: Scope,
    offered: &Offered,
    client: &impl Client<F>,
) -> Option<DropReason> {
    if descriptor.flags.contains(DescriptorFlags::SOURCE_RANGES)
        && let Some(reason) = client.is_kept_out(descriptor)
    {
        Some(reason)
    } else if offered.count != 0 {
        None
    } else if descriptor.flags.contains(scope.drops()) {
        Some(DropReason::PolicyHasNoLocalEndpoint)
    } else {
        Some(DropReason::NoEndpoint)
    }
}

#[inline(always)]
fn choose<F: Family>(
    descriptor: &Descriptor,
    scope: Scope,
    offered: &Offered,
    client: &impl Client<F>,
) -> Option<Choice<F::Address>> {
    if descriptor.affinity_seconds == 0 {
        return random::<F>(descriptor, offered);
    }
    let reference = affinity::remembered::<F, _>(client, descriptor, scope.set(descriptor));
    if reference.generation != 0
        && let Some(backend) = F::backend(reference)
    {
        return Some(Choice::of(backend, reference, descriptor));
    }
    let choice = random::<F>(descriptor, offered)?;
    affinity::remember::<F, _>(client, descriptor.service, choice.reference);
    Some(choice)
}

/// Uniformly at random (kube-proxy's rule K1).
#[inline(always)]
fn random<F: Family>(descriptor: &Descriptor, offered: &Offered) -> Option<Choice<F::Address>> {
    // SAFETY: takes no argument and has no precondition.
    let random = unsafe { bpf_get_prandom_u32() };
    // Multiplying instead of dividing: no zero test, and as uniform as a remainder.
    let at = ((u64::from(random) * u64::from(offered.count)) >> 32) as u32;
    let reference = frontend::slot(offered.first.wrapping_add(at))?;
    Some(Choice::of(F::backend(reference)?, reference, descriptor))
}
