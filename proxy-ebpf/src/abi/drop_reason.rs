//! Reasons of refusals. Each is a counter in `DROPS`, a metric label and a word in output.

use super::counters;

counters! {
    /// Why a packet or connect was refused. Service rules: docs/service-rules.md.
    DropReason, else FlowEnding, sends_reject {
        /// No endpoint of the service port can serve anywhere (REJECT, rule G1).
        NoEndpoint = "no_endpoint", true;
        /// Endpoints exist, but the traffic policy excludes them from here (DROP).
        PolicyHasNoLocalEndpoint = "policy_has_no_local_endpoint", false;
        /// loadBalancerSourceRanges apply, and the source address is not known yet at connect.
        NeedsSourceAddress = "needs_source_address", false;
        /// The frontend was replaced during each of the bounded number of lookups.
        FrontendChurn = "frontend_churn", false;
        /// Each slot that was tried held a backend that had just been removed.
        BackendChurn = "backend_churn", false;
        /// The client is not in loadBalancerSourceRanges (DROP).
        SourceNotInRanges = "source_not_in_ranges", false;
        /// A ClusterIP whose Service does not define this port (REJECT, rule G7).
        UndefinedPort = "undefined_port", true;
        /// In a ServiceCIDR, but not allocated to a Service (DROP, rule G8).
        UnallocatedAddress = "unallocated_address", false;
        /// Each flow record that was probed is in use.
        ConntrackFull = "conntrack_full", false;
        /// The bucket of a tuple of the flow is full of flows in use.
        ConntrackBucketFull = "conntrack_bucket_full", false;
        /// Each masquerade port that was tried is in use between the masquerade address and the backend.
        NoMasqueradePort = "no_masquerade_port", false;
        /// The egress device of a masqueraded flow has no masquerade address.
        NoMasqueradeAddress = "no_masquerade_address", false;
        /// The flow was deleted while this packet was being processed.
        FlowEnding = "flow_ending", false;
        /// The kernel refused to rewrite the packet.
        RewriteFailed = "rewrite_failed", false;
        /// No route from a client on the node to its backend.
        NoRouteToBackend = "no_route_to_backend", false;
        /// SCTP with a port translation: its checksum (CRC32c) cannot be updated incrementally.
        SctpPortDiffers = "sctp_port_differs", true;
        /// A fragment arrived before the first of its datagram and was passed on untranslated, as the queue was full; or it
        /// was queued and the first did not arrive.
        FragmentNotHeld = "fragment_not_held", false;
        /// Each source port that was tried after DNAT is in use between the client and the backend.
        NoTranslatedPort = "no_translated_port", false;
        /// A connected UDP socket still sends to a backend that was removed, and the frontend it dialled is gone, too.
        FrontendRemoved = "frontend_removed", true;
    }
}
