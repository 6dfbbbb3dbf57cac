//! The faults that one command names, each with the test that holds the words. `docs/troubleshooting.md` has the same lines, with
//! remedies.
//!
//! Faults without a line, as no command names them yet: a sidecar that redirects a pod's connections, an asymmetric route (only strict
//! rp_filter).

/// A fault.
pub struct Fault {
    pub name: &'static str,
    pub command: &'static str,
    /// For machines: a reason code, a condition with its reason, a finding of `check`, a result of `connectivity`.
    pub identifier: &'static str,
    /// A part of what the command says, in the test below.
    pub words: &'static str,
    pub file: &'static str,
    pub test: &'static str,
}

const fn fault(
    [name, command, identifier, words]: [&'static str; 4],
    [file, test]: [&'static str; 2],
) -> Fault {
    Fault { name, command, identifier, words, file, test }
}

const OBJECTS: &str = "proxy/tests/faults.rs";
const UNSERVED: &str = "proxy/tests/unserved.rs";
const NAMES: &str = "proxy/src/cli/explain/names.rs";
const NODE: &str = "tests/tests/faults.rs";
const CONDITIONS: &str = "tests/tests/conditions.rs";
const STATUS: &str = "proxy/src/observe/status.rs";
const CHECK: &str = "proxy/src/cli/check/kernel.rs";
const OF_NAMES: [&str; 2] = [NAMES, "each_name_without_an_address_has_a_reason"];
const OF_STATUS: [&str; 2] = [STATUS, "each_fault_has_a_condition_with_a_reason"];
const OF_SOURCE: [&str; 2] = [CONDITIONS, "the_source_and_the_node_are_told_by_status"];
const OF_KERNEL: [&str; 2] = [CHECK, "missing_requirements_have_a_remedy"];
const OF_NODE: [&str; 2] = [NODE, "what_is_wrong_with_a_node_is_stated_by_check"];
const OF_BACKENDS: [&str; 2] = [NODE, "a_backend_that_refuses_and_one_that_is_silent_are_named"];

pub const FAULTS: &[Fault] = &[
    fault(
        ["no endpoints", "explain", "no_endpoint", "shop/web:http has no IPv4 endpoints"],
        [OBJECTS, "no_endpoints"],
    ),
    fault(
        [
            "no endpoint is ready",
            "explain",
            "no_endpoint",
            "the only IPv4 endpoint of shop/web:http is not ready",
        ],
        [OBJECTS, "endpoints_that_are_not_ready"],
    ),
    fault(
        ["the slices name another port", "plan", "port_names", "endpoints for port `web` (TCP) instead"],
        [OBJECTS, "another_port_name_in_the_slice"],
    ),
    fault(
        [
            "traffic policy Local, no pod here",
            "explain",
            "policy_has_no_local_endpoint",
            "externalTrafficPolicy is Local",
        ],
        [OBJECTS, "policy_local_and_no_pod_here"],
    ),
    fault(
        [
            "the source ranges exclude the client",
            "explain",
            "source_not_in_ranges",
            "is in none of the loadBalancerSourceRanges of shop/web",
        ],
        [OBJECTS, "a_client_outside_of_the_source_ranges"],
    ),
    fault(
        [
            "a port that the Service does not define",
            "explain",
            "undefined_port",
            "which defines 80/TCP and not 81/TCP",
        ],
        [OBJECTS, "a_wrong_port_or_protocol"],
    ),
    fault(
        [
            "another protocol than the Service's",
            "explain",
            "undefined_port",
            "which defines 80/TCP and not 80/UDP",
        ],
        [OBJECTS, "a_wrong_port_or_protocol"],
    ),
    fault(
        [
            "a NodePort at an address that does not serve it",
            "explain",
            "node_port_not_served",
            "but --nodeport-addresses does not include 198.51.100.7",
        ],
        [OBJECTS, "a_node_port_at_an_address_that_does_not_serve_it"],
    ),
    fault(
        [
            "an address that no Service has",
            "explain",
            "no_frontend",
            "no Service has 10.96.0.99 with port 80/TCP",
        ],
        [OBJECTS, "an_address_that_no_service_has"],
    ),
    fault(
        [
            "an address of the ServiceCIDR that is not allocated",
            "explain",
            "unallocated_address",
            "10.96.0.99 is inside the ServiceCIDR 10.96.0.0/16",
        ],
        [OBJECTS, "an_address_that_no_service_has"],
    ),
    fault(
        ["client and Service of different families", "explain", "mixed_families", "mixed_families"],
        [OBJECTS, "a_client_of_the_other_family"],
    ),
    fault(
        [
            "two Services claim one address",
            "plan",
            "lost_claim",
            "203.0.113.10:80/TCP is served for shop/aaa",
        ],
        [OBJECTS, "two_services_with_one_address"],
    ),
    fault(
        [
            "a Service exceeds its share of the tables",
            "explain",
            "not_programmed",
            "has used up its share of",
        ],
        [UNSERVED, "a_service_beyond_its_share_of_the_tables_is_named"],
    ),
    fault(
        [
            "a Service exceeds its share of source ranges",
            "plan",
            "not_programmed",
            "has used up its share of SOURCE_RANGES_V4",
        ],
        [UNSERVED, "a_service_beyond_its_share_of_source_ranges_is_closed_and_named"],
    ),
    fault(
        [
            "SCTP to endpoints with another port",
            "explain",
            "sctp_port_differs",
            "is refused for endpoints with port 38412",
        ],
        [UNSERVED, "sctp_to_another_port_is_refused_in_every_tool"],
    ),
    fault(
        [
            "a health check port that is a NodePort",
            "plan",
            "health_check_port",
            "health checks at port 30999 do not arrive",
        ],
        [UNSERVED, "a_health_check_port_that_is_a_node_port_is_named"],
    ),
    fault(
        ["a misspelt field", "plan", "skipped", "unknown field"],
        ["proxy/tests/screens.rs", "a_plan_with_skipped_parts_has_an_exit_code_of_its_own"],
    ),
    fault(
        [
            "the Service of a name does not exist",
            "explain --dns",
            "no_such_service",
            "namespace shop has no Service wbe",
        ],
        OF_NAMES,
    ),
    fault(
        [
            "a name of another namespace",
            "explain --dns",
            "no_such_service",
            "namespace default has no Service web",
        ],
        OF_NAMES,
    ),
    fault(
        [
            "the namespace of a name does not exist",
            "explain --dns",
            "no_such_namespace",
            "there is no namespace shpo",
        ],
        OF_NAMES,
    ),
    fault(
        [
            "a headless Service without a ready endpoint",
            "explain --dns",
            "no_ready_endpoint",
            "none of its endpoints is ready",
        ],
        OF_NAMES,
    ),
    fault(
        [
            "no endpoint has the name",
            "explain --dns",
            "no_such_endpoint",
            "Service shop/db has no endpoint db-7",
        ],
        OF_NAMES,
    ),
    fault(["an alias of another domain", "explain --dns", "alias", "an alias of bank.example.org"], OF_NAMES),
    fault(
        [
            "the name of a namespace, not of a Service",
            "explain --dns",
            "no_service",
            "a name above the names of Services",
        ],
        OF_NAMES,
    ),
    fault(
        [
            "a name that the search list leads astray",
            "explain --dns",
            "upstream",
            "not of the cluster: an upstream answers",
        ],
        [NAMES, "the_screen_lists_the_queries"],
    ),
    fault(
        ["a line of the Corefile is refused", "dns check", "refused", "lines of the Corefile are refused"],
        ["proxy/tests/dns_check.rs", "a_corefile_is_checked_line_by_line"],
    ),
    fault(
        ["a backend refuses connections", "connectivity", "refused", "refused nothing listens on port"],
        OF_BACKENDS,
    ),
    fault(
        [
            "a backend, or a policy at the pod, is silent",
            "connectivity",
            "silent",
            "a firewall or a NetworkPolicy drops it",
        ],
        OF_BACKENDS,
    ),
    fault(
        [
            "a backend's address has no machine any more",
            "connectivity",
            "unreachable",
            "no route, or no neighbour answers",
        ],
        [NODE, "a_backend_whose_pod_is_gone_is_unreachable"],
    ),
    fault(
        ["a backend accepts and never answers", "connectivity", "unanswered", "accepts, but over"],
        [NODE, "a_backend_that_accepts_and_never_answers_is_named"],
    ),
    fault(
        [
            "a permanent neighbour entry of another machine",
            "connectivity",
            "silent",
            "its neighbour entry on pods is permanent",
        ],
        [NODE, "a_permanent_neighbour_entry_is_named"],
    ),
    fault(
        [
            "a path with a smaller MTU, which nothing tells",
            "connectivity",
            "large_packets_lost",
            "bytes are lost, and no ICMP error says so",
        ],
        [NODE, "a_path_that_loses_large_packets_is_named"],
    ),
    fault(
        [
            "an external address that nothing announces",
            "connectivity",
            "unannounced",
            "answers ARP for 172.18.0.200",
        ],
        [NODE, "an_address_that_nobody_announces_is_named"],
    ),
    fault(
        [
            "the API server cannot be reached",
            "status",
            "SourceWatched Unreachable",
            "cannot reach the API server at",
        ],
        OF_SOURCE,
    ),
    fault(
        [
            "the API server forbids a kind of object",
            "status",
            "SourceWatched Forbidden",
            "the API server does not allow it (403",
        ],
        OF_SOURCE,
    ),
    fault(
        [
            "the API server answers with an error",
            "status",
            "SourceWatched ServerError",
            "failed (500 InternalError): etcd",
        ],
        ["proxy/src/k8s/watch/error.rs", "status_codes_have_messages"],
    ),
    fault(["no Node object has the node's name", "status", "NodeFound NoSuchNode", "NoSuchNode"], OF_SOURCE),
    fault(
        [
            "a port of the agent is taken",
            "status",
            "AddressesBound AddressInUse",
            "cannot serve health on 0.0.0.0:10256",
        ],
        [CONDITIONS, "a_taken_port_is_told_by_status_metric_and_log"],
    ),
    fault(
        [
            "a cgroup without processes",
            "status",
            "SocketsTranslated NoProcess",
            "sockets of pods are not translated: no process is in",
        ],
        [NODE, "a_cgroup_without_the_pods_tells"],
    ),
    fault(
        [
            "pods are outside of the cgroup",
            "status",
            "SocketsTranslated PodsElsewhere",
            "SocketsTranslated PodsElsewhere",
        ],
        OF_STATUS,
    ),
    fault(
        [
            "the cgroup is the agent's own container",
            "status",
            "SocketsTranslated OwnContainer",
            "SocketsTranslated OwnContainer",
        ],
        OF_STATUS,
    ),
    fault(
        [
            "programs cannot be attached",
            "status",
            "ProgramsAttached AttachFailed",
            "ProgramsAttached AttachFailed",
        ],
        OF_STATUS,
    ),
    fault(
        ["another XDP program is at the device", "status", "XdpAttached NotAttached", "another XDP program"],
        ["tests/tests/xdp.rs", "another_xdp_program_stays_attached"],
    ),
    fault(
        [
            "the node's name server does not answer",
            "status",
            "NameServerAlive NoHeartbeat",
            "NameServerAlive NoHeartbeat",
        ],
        OF_STATUS,
    ),
    fault(
        ["an upstream of DNS does not answer", "status", "UpstreamsReliable Failing", "Failing"],
        [
            "proxy/src/observe/telemetry.rs",
            "an_alarm_of_the_upstreams_of_dns_is_in_the_status_and_makes_one_event",
        ],
    ),
    fault(
        [
            "upstreams of DNS contradict each other",
            "status",
            "UpstreamsReliable Contradicted",
            "Contradicted",
        ],
        ["proxy/src/observe/agent_state.rs", "each_alarm_of_upstreams_is_a_reason"],
    ),
    fault(
        ["a table is almost full", "status", "TablesHaveRoom AlmostFull", "TablesHaveRoom AlmostFull"],
        OF_STATUS,
    ),
    fault(
        ["frontends find no room in the tables", "status", "Synced NotWritten", "Synced NotWritten"],
        OF_STATUS,
    ),
    fault(["the agent does not keep up", "status", "Synced Behind", "Synced Behind"], OF_STATUS),
    fault(["the agent hangs", "status", "Synced Hangs", "Synced Hangs"], OF_STATUS),
    fault(
        ["the agent is gone", "status", "down", "no agent runs since"],
        [NODE, "the_time_when_the_agent_ended_tells"],
    ),
    fault(
        ["the clock was set back", "status", "set_back", "set back while the agent ran"],
        ["proxy/src/cli/status.rs", "a_clock_that_was_set_back_is_stated"],
    ),
    fault(
        ["kube-proxy has left rules", "check", "kube-proxy", "table ip kube-proxy of nftables mode"],
        OF_NODE,
    ),
    fault(
        ["strict rp_filter", "check", "sysctls", "strict rp_filter drops packets on asymmetric paths"],
        OF_NODE,
    ),
    fault(
        ["the node does not forward", "check", "sysctls", "pods are not reachable from other nodes"],
        OF_NODE,
    ),
    fault(
        [
            "a firewall drops forwarded packets",
            "check",
            "forward",
            "drops forwarded packets that no rule accepts",
        ],
        OF_NODE,
    ),
    fault(["a program of others is at the hook", "check", "other programs", "eth0: u32"], OF_NODE),
    fault(["the kernel is too old", "check", "kernel", "too old"], [CHECK, "kernels_are_checked_by_release"]),
    fault(["no cgroup2, or not the node's", "check", "cgroup2", "cgroup(Some"], OF_KERNEL),
    fault(["no bpffs", "check", "bpffs", "pins(Path"], OF_KERNEL),
    fault(["capabilities are missing", "check", "capabilities", "CAP_BPF"], OF_KERNEL),
    fault(
        ["a memory limit without room for the tables", "check", "memory limit", "memory.max is 256 MiB"],
        ["proxy/src/cli/check/memory_limit.rs", "a_limit_without_room_for_the_tables_is_reported"],
    ),
    fault(
        ["no room for masquerade ports", "check", "masquerade ports", "1024 65535"],
        ["proxy/src/cli/check/masquerade_ports.rs", "a_range_without_room_has_a_remedy_that_makes_room"],
    ),
    fault(
        ["IPsec policies between nodes", "check", "ipsec", "clear text"],
        ["proxy/src/cli/check/ipsec.rs", "policies_are_reported_with_a_remedy"],
    ),
];
