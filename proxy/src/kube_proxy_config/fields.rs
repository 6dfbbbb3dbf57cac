//! The fields without effect, with the reasons.

use serde_json::Value;

use super::{file::KubeProxyConfiguration, settings::Mode};

/// Fields without effect (including their subfields), each with the reason.
const NOT_APPLICABLE: &[(&str, &str)] = &[
    ("clientConnection.acceptContentTypes", "objects are read as JSON"),
    ("clientConnection.contentType", "objects are read as JSON"),
    ("clientConnection.qps", "the agent only sends a few watch requests"),
    ("clientConnection.burst", "the agent only sends a few watch requests"),
    ("configSyncPeriod", "there is no resync: watches resume from the last resourceVersion"),
    ("enableProfiling", "there is no Go runtime to profile"),
    ("iptables.masqueradeBit", "packets are masqueraded without a mark"),
    ("iptables.minSyncPeriod", "changes are programmed at once, in batches"),
    ("ipvs.excludeCIDRs", "IPVS is not used, so there is nothing to exclude"),
    ("ipvs.minSyncPeriod", "changes are programmed at once, in batches"),
    ("ipvs.scheduler", "backends are chosen at random, as in the other modes"),
    ("ipvs.strictARP", "no interface gets the addresses of Services"),
    ("ipvs.tcpFinTimeout", "IPVS is not used; conntrack has timeouts of its own"),
    ("ipvs.tcpTimeout", "IPVS is not used; conntrack has timeouts of its own"),
    ("ipvs.udpTimeout", "IPVS is not used; conntrack has timeouts of its own"),
    ("logging.flushFrequency", "each line is written at once"),
    ("logging.options", "each line is written at once, to one stream"),
    ("logging.vmodule", "it names Go files"),
    ("nftables.masqueradeBit", "packets are masqueraded without a mark"),
    ("nftables.minSyncPeriod", "changes are programmed at once, in batches"),
    ("portRange", "kube-proxy itself ignores it"),
    ("showHiddenMetricsForVersion", "no metric is hidden"),
    ("windowsRunAsService", "it is for Windows"),
    ("winkernel", "it is for Windows"),
];

/// Fields that have an effect only in some modes.
const SECTIONS: &[(&str, &[Mode])] = &[
    ("iptables.localhostNodePorts", &[Mode::Iptables]),
    ("iptables.masqueradeAll", &[Mode::Iptables, Mode::Ipvs]),
    ("iptables.syncPeriod", &[Mode::Iptables]),
    ("ipvs.syncPeriod", &[Mode::Ipvs]),
    ("nftables.masqueradeAll", &[Mode::Nftables]),
    ("nftables.syncPeriod", &[Mode::Nftables]),
];

/// The only feature gate with an effect; the others concern code of kube-proxy.
const HONOURED_GATE: &str = "featureGates.AllowServiceExternalIPs";

/// The fields without effect that differ from kube-proxy's defaults, with the reasons.
pub fn without_effect(config: &KubeProxyConfiguration) -> Vec<(String, String)> {
    let mode = Mode::parse(&config.mode).unwrap_or_default();
    let fields = leaves(config);
    let defaults = leaves(&KubeProxyConfiguration::upstream_default());
    let is_set = |field: &(String, Value)| !defaults.contains(field) && !is_zero(&field.1);
    let set = fields.into_iter().filter(is_set).map(|(path, _)| path);
    set.filter_map(|path| reason(&path, mode).map(|reason| (path, reason))).collect()
}

fn reason(path: &str, mode: Mode) -> Option<String> {
    if path.starts_with("featureGates.") && path != HONOURED_GATE {
        return Some("it concerns code of kube-proxy that does not exist here".to_owned());
    }
    if let Some((_, modes)) = SECTIONS.iter().find(|(field, _)| *field == path) {
        let has_effect = modes.contains(&mode);
        return (!has_effect).then(|| format!("it has no effect in mode {}", mode.name()));
    }
    let found = NOT_APPLICABLE.iter().find(|(field, _)| is_below(path, field));
    found.map(|(_, reason)| (*reason).to_owned())
}

fn is_below(path: &str, field: &str) -> bool {
    path.strip_prefix(field).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
}

/// Whether a value is the same as an absent one.
fn is_zero(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(set) => !set,
        Value::Number(number) => number.as_f64() == Some(0.0),
        Value::String(text) => matches!(text.as_str(), "" | "0" | "0s"),
        Value::Array(items) => items.is_empty(),
        Value::Object(fields) => fields.is_empty(),
    }
}

/// Every leaf value with the path of its field.
fn leaves(config: &KubeProxyConfiguration) -> Vec<(String, Value)> {
    let mut found = Vec::new();
    // A plain struct of strings, numbers and lists has a JSON form.
    collect("", serde_json::to_value(config).unwrap_or_default(), &mut found);
    found
}

fn collect(path: &str, value: Value, found: &mut Vec<(String, Value)>) {
    let Value::Object(fields) = value else {
        return found.push((path.to_owned(), value));
    };
    for (name, field) in fields {
        let path = if path.is_empty() { name } else { format!("{path}.{name}") };
        collect(&path, field, found);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Fields that `settings` reads.
    const HONOURED: &[&str] = &[
        "apiVersion",
        "bindAddress",
        "bindAddressHardFail",
        "clientConnection.kubeconfig",
        "clusterCIDR",
        "conntrack.maxPerCore",
        "conntrack.min",
        "conntrack.tcpBeLiberal",
        "conntrack.tcpCloseWaitTimeout",
        "conntrack.tcpEstablishedTimeout",
        "conntrack.udpStreamTimeout",
        "conntrack.udpTimeout",
        "detectLocal.bridgeInterface",
        "detectLocal.interfaceNamePrefix",
        "detectLocalMode",
        "healthzBindAddress",
        "hostnameOverride",
        "kind",
        "logging.format",
        "logging.verbosity",
        "metricsBindAddress",
        "mode",
        "nodePortAddresses",
        "oomScoreAdj",
    ];

    #[test]
    fn every_field_is_honoured_or_has_a_reason() {
        for (path, _) in leaves(&KubeProxyConfiguration::upstream_default()) {
            let is_honoured = HONOURED.contains(&path.as_str());
            let in_section = SECTIONS.iter().any(|(field, _)| *field == path);
            let has_reason = NOT_APPLICABLE.iter().any(|(field, _)| is_below(&path, field));
            let lists = [is_honoured, in_section, has_reason].into_iter().filter(|is| *is).count();
            assert_eq!(lists, 1, "{path}");
        }
    }
}
