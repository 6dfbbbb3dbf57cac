//! Outcomes of the XDP program. Each is a counter in `XDP_OUTCOMES`, a metric label and a word in output.

use super::counters;

counters! {
    /// The outcome of a frame at XDP. Frames that did not leave go on to tc, unchanged.
    XdpOutcome, else NotOurs, has_left {
        /// XDP_TX to the backend.
        SentToBackend = "sent_to_backend", true;
        /// XDP_TX to the client.
        SentToClient = "sent_to_client", true;
        /// XDP_REDIRECT to the backend, through another device.
        RedirectedToBackend = "redirected_to_backend", true;
        /// XDP_REDIRECT to the client, through another device.
        RedirectedToClient = "redirected_to_client", true;
        /// Not Service traffic, or not translatable.
        NotOurs = "passed_not_ours", false;
        /// Source or destination is on this node, or claims to be.
        OnNode = "passed_on_node", false;
        /// To be refused: tc sends the reject and counts it.
        Refused = "passed_refused", false;
        /// The flow was created or deleted by another CPU while this frame was being processed.
        FlowChanging = "passed_flow_changing", false;
        /// Only the node's stack may forward it: IP options, TTL of 1, wrong header checksum, multiple buffers.
        NeedsStack = "passed_needs_stack", false;
        /// The destination MAC address is not this node's.
        NotForNode = "passed_not_for_node", false;
        /// No unicast route.
        NoRoute = "passed_no_route", false;
        /// The next hop's neighbour entry is not resolved.
        NoNeighbour = "passed_no_neighbour", false;
        /// Larger than the MTU of the route.
        TooLarge = "passed_too_large", false;
        /// The egress device does not accept redirected frames.
        OtherDevice = "passed_other_device", false;
        /// No masquerade address or port could be chosen.
        NoMasqueradeSource = "passed_no_masquerade_source", false;
    }
}
