//! The faults that one command names, each with the story that brings it about. `docs/troubleshooting.md` has the same lines, with
//! remedies.

/// A fault.
pub struct Fault {
    pub name: &'static str,
    pub command: &'static str,
    /// For machines: a reason code, a condition with its reason, a finding of `check`, a result of `connectivity`.
    pub identifier: &'static str,
    /// A part of what the command says.
    pub words: &'static str,
    /// The test that holds the words, or has the fault by its name.
    pub file: &'static str,
    pub test: &'static str,
    /// Why it is no story of a running node, but a test of the words alone.
    pub unstaged: Option<&'static str>,
}

const fn fault(
    [name, command, identifier, words]: [&'static str; 4],
    [file, test]: [&'static str; 2],
) -> Fault {
    Fault { name, command, identifier, words, file, test, unstaged: None }
}

const fn unstaged(of: Fault, reason: &'static str) -> Fault {
    Fault { unstaged: Some(reason), ..of }
}

const OBJECTS: &str = "tests/tests/faults/objects.rs";
const NODE: &str = "tests/tests/faults.rs";
const CONDITIONS: &str = "tests/tests/conditions.rs";
const AGENTS: &str = "tests/tests/faults/agents.rs";
const NODES: &str = "tests/tests/faults/nodes.rs";
const STATUS: &str = "proxy/src/observe/status.rs";
const OF_NAMES: [&str; 2] = ["tests/tests/faults/names.rs", "what_is_wrong_with_a_name_is_named"];
const OF_GROUP: [&str; 2] = [AGENTS, "a_cgroup_of_too_few_sockets_is_named"];
const OF_HOOK: [&str; 2] = [AGENTS, "a_hook_that_others_do_not_share_is_named"];
const OF_DNS: [&str; 2] = [AGENTS, "what_is_wrong_with_dns_is_named"];
const OF_STATUS: [&str; 2] = [STATUS, "each_fault_has_a_condition_with_a_reason"];
const OF_SOURCE: [&str; 2] = [CONDITIONS, "the_source_and_the_node_are_told_by_status"];
const OF_KERNEL: [&str; 2] = [NODES, "a_requirement_that_is_not_met_is_named"];
const OF_NODE: [&str; 2] = [NODES, "what_is_wrong_with_a_node_is_stated_by_check"];
const OF_BACKENDS: [&str; 2] = [NODE, "a_backend_that_refuses_and_one_that_is_silent_are_named"];

pub const FAULTS: &[Fault] = &[
    fault(
        ["no endpoints", "explain", "no_endpoint", "shop/web:http has no IPv4 endpoints"],
        [OBJECTS, "endpoints"],
    ),
    fault(
        [
            "no endpoint is ready",
            "explain",
            "no_endpoint",
            "the only IPv4 endpoint of shop/web:http is not ready",
        ],
        [OBJECTS, "endpoints"],
    ),
    fault(
        ["the slices name another port", "plan", "port_names", "endpoints for port `web` (TCP) instead"],
        [OBJECTS, "endpoints"],
    ),
    fault(
        [
            "traffic policy Local, no pod here",
            "explain",
            "policy_has_no_local_endpoint",
            "externalTrafficPolicy is Local",
        ],
        [OBJECTS, "endpoints"],
    ),
    fault(
        [
            "the source ranges exclude the client",
            "explain",
            "source_not_in_ranges",
            "is in none of the loadBalancerSourceRanges of shop/web",
        ],
        [OBJECTS, "addresses"],
    ),
    fault(
        [
            "a port that the Service does not define",
            "explain",
            "undefined_port",
            "which defines 80/TCP and not 81/TCP",
        ],
        [OBJECTS, "addresses"],
    ),
    fault(
        [
            "another protocol than the Service's",
            "explain",
            "undefined_port",
            "which defines 80/TCP and not 80/UDP",
        ],
        [OBJECTS, "addresses"],
    ),
    fault(
        [
            "a NodePort at an address that does not serve it",
            "explain",
            "node_port_not_served",
            "but --nodeport-addresses does not include 198.51.100.7",
        ],
        [OBJECTS, "addresses"],
    ),
    fault(
        [
            "an address that no Service has",
            "explain",
            "no_frontend",
            "no Service has 10.96.0.10 with port 80/TCP",
        ],
        [OBJECTS, "addresses"],
    ),
    fault(
        [
            "an address of the ServiceCIDR that is not allocated",
            "explain",
            "unallocated_address",
            "10.96.0.10 is inside the ServiceCIDR 10.96.0.0/16",
        ],
        [OBJECTS, "addresses"],
    ),
    fault(
        ["client and Service of different families", "explain", "mixed_families", "differ in address family"],
        [OBJECTS, "addresses"],
    ),
    fault(
        [
            "two Services claim one address",
            "plan",
            "lost_claim",
            "203.0.113.10:80/TCP is served for shop/aaa",
        ],
        [OBJECTS, "claims"],
    ),
    fault(
        ["a Service exceeds its share of the tables", "plan", "not_programmed", "has used up its share of"],
        [OBJECTS, "room"],
    ),
    fault(
        [
            "a Service exceeds its share of source ranges",
            "plan",
            "not_programmed",
            "has used up its share of SOURCE_RANGES_V4",
        ],
        [OBJECTS, "room"],
    ),
    fault(
        [
            "SCTP to endpoints with another port",
            "explain",
            "sctp_port_differs",
            "and SCTP's checksum allows no translation of ports",
        ],
        [OBJECTS, "endpoints"],
    ),
    fault(
        [
            "a health check port that is a NodePort",
            "plan",
            "health_check_port",
            "health checks at port 30080 do not arrive",
        ],
        [OBJECTS, "claims"],
    ),
    fault(["a misspelt field", "plan", "skipped", "unknown field"], [OBJECTS, "claims"]),
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
        OF_NAMES,
    ),
    fault(
        ["a line of the Corefile is refused", "dns check", "refused", "lines of the Corefile are refused"],
        OF_NAMES,
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
            "failed (500 InternalError): configured to fail",
        ],
        OF_SOURCE,
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
            "sockets of pods are not translated: they are in",
        ],
        OF_GROUP,
    ),
    fault(
        [
            "the cgroup is the agent's own container",
            "status",
            "SocketsTranslated OwnContainer",
            "holds the agent's own container alone",
        ],
        OF_GROUP,
    ),
    fault(
        [
            "programs cannot be attached",
            "status",
            "ProgramsAttached AttachFailed",
            "programs are not attached:",
        ],
        OF_HOOK,
    ),
    fault(
        [
            "another XDP program is at the device",
            "status",
            "XdpAttached NotAttached",
            "XDP is not attached to eth0, which is served without it: another XDP program",
        ],
        OF_HOOK,
    ),
    fault(
        [
            "the node's name server does not answer",
            "status",
            "NameServerAlive NoHeartbeat",
            "the name server of this node does not answer",
        ],
        OF_DNS,
    ),
    fault(
        [
            "an upstream of DNS does not answer",
            "status",
            "UpstreamsReliable Failing",
            "no upstream of DNS answers",
        ],
        OF_DNS,
    ),
    fault(
        [
            "upstreams of DNS contradict each other",
            "status",
            "UpstreamsReliable Contradicted",
            "an upstream of DNS denies names that another one knows",
        ],
        OF_DNS,
    ),
    fault(
        ["a table is almost full", "status", "TablesHaveRoom AlmostFull", "table SERVICES is 92 % full"],
        [OBJECTS, "room"],
    ),
    fault(
        [
            "frontends find no room in the tables",
            "status",
            "Synced NotWritten",
            "frontends could not be written; no room for 1 of the Services: kube-system/huge",
        ],
        [OBJECTS, "room"],
    ),
    unstaged(
        fault(["the agent does not keep up", "status", "Synced Behind", "Synced Behind"], OF_STATUS),
        "changes that wait for a minute, of an agent that does nothing else wrong",
    ),
    unstaged(
        fault(["the agent hangs", "status", "Synced Hangs", "Synced Hangs"], OF_STATUS),
        "a loop without a heartbeat for a minute",
    ),
    fault(
        ["the agent is gone", "status", "down", "no agent runs since"],
        [NODE, "the_time_when_the_agent_ended_tells"],
    ),
    unstaged(
        fault(
            ["the clock was set back", "status", "set_back", "set back while the agent ran"],
            ["proxy/src/cli/status.rs", "a_clock_that_was_set_back_is_stated"],
        ),
        "the clock is that of the whole machine, and other stories run on it",
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
    fault(["the kernel is too old", "check", "kernel", "too old"], OF_KERNEL),
    fault(["no cgroup2, or not the node's", "check", "cgroup2", "/proc is"], OF_KERNEL),
    fault(["no bpffs", "check", "bpffs", "is not on a bpffs"], OF_KERNEL),
    fault(["capabilities are missing", "check", "capabilities", "missing CAP_BPF"], OF_KERNEL),
    fault(
        ["a memory limit without room for the tables", "check", "memory limit", "memory.max is 256 MiB"],
        OF_KERNEL,
    ),
    fault(["no room for masquerade ports", "check", "masquerade ports", "1024 65535"], OF_KERNEL),
    fault(["IPsec policies between nodes", "check", "ipsec", "clear text"], OF_KERNEL),
];
