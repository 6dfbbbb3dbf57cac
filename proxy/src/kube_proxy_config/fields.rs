//! Which fields are honoured, and why the others have nothing to act on here.

use serde_json::Value;

use super::{file::KubeProxyConfiguration, settings::Mode};

/// Fields (and everything below them) that change nothing here, each with the reason.
const NOT_APPLICABLE: &[(&str, &str)] = &[
    ("clientConnection.acceptContentTypes", "objects are read as JSON"),
    ("clientConnection.contentType", "objects are read as JSON"),
    ("clientConnection.qps", "a few watches are all that is asked of the API server"),
    ("clientConnection.burst", "a few watches are all that is asked of the API server"),
    ("configSyncPeriod", "nothing is delivered again: watches resume where they broke off"),
    ("enableProfiling", "there is no Go runtime to profile"),
    ("iptables.masqueradeBit", "packets are masqueraded without a mark"),
    ("iptables.minSyncPeriod", "a change is programmed at once, together with all that has arrived"),
    ("ipvs.excludeCIDRs", "IPVS is not used, so there is nothing to exclude"),
    ("ipvs.minSyncPeriod", "a change is programmed at once, together with all that has arrived"),
    ("ipvs.scheduler", "backends are chosen at random, as in the other modes"),
    ("ipvs.strictARP", "no interface gets the addresses of Services"),
    ("ipvs.tcpFinTimeout", "IPVS is not used; conntrack has timeouts of its own"),
    ("ipvs.tcpTimeout", "IPVS is not used; conntrack has timeouts of its own"),
    ("ipvs.udpTimeout", "IPVS is not used; conntrack has timeouts of its own"),
    ("logging.flushFrequency", "each line is written at once"),
    ("logging.options", "each line is written at once, to one stream"),
    ("logging.vmodule", "it names Go files"),
    ("nftables.masqueradeBit", "packets are masqueraded without a mark"),
    ("nftables.minSyncPeriod", "a change is programmed at once, together with all that has arrived"),
    ("portRange", "no version of kube-proxy looks at it any more"),
    ("showHiddenMetricsForVersion", "no metric is hidden"),
    ("windowsRunAsService", "it is for Windows"),
    ("winkernel", "it is for Windows"),
];

/// Sections that count in one mode only, and those fields of theirs that count in it.
const SECTIONS: &[(&str, &[Mode])] = &[
    ("iptables.localhostNodePorts", &[Mode::Iptables]),
    ("iptables.masqueradeAll", &[Mode::Iptables, Mode::Ipvs]),
    ("iptables.syncPeriod", &[Mode::Iptables]),
    ("ipvs.syncPeriod", &[Mode::Ipvs]),
    ("nftables.masqueradeAll", &[Mode::Nftables]),
    ("nftables.syncPeriod", &[Mode::Nftables]),
];

/// A gate that has a meaning here; all others are about code that is not ours.
const HONOURED_GATE: &str = "featureGates.AllowServiceExternalIPs";

/// The fields that were set to something else than upstream's default and that change nothing, with the reason.
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
        return Some("it is about code of kube-proxy that does not exist here".to_owned());
    }
    if let Some((_, modes)) = SECTIONS.iter().find(|(field, _)| *field == path) {
        let counts = modes.contains(&mode);
        return (!counts).then(|| format!("it has no meaning in mode {}", mode.name()));
    }
    let found = NOT_APPLICABLE.iter().find(|(field, _)| is_below(path, field));
    found.map(|(_, reason)| (*reason).to_owned())
}

fn is_below(path: &str, field: &str) -> bool {
    path.strip_prefix(field).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
}

/// Written, but as if it were not.
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

/// Every value with the path of its field.
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

    /// Everything else has a place in `settings`.
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
            let is_named = NOT_APPLICABLE.iter().any(|(field, _)| is_below(&path, field));
            let places = [is_honoured, in_section, is_named].into_iter().filter(|is| *is).count();
            assert_eq!(places, 1, "{path}");
        }
    }
}
