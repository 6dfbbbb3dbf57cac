//! The placeholders of NodeLocal DNSCache's Corefile. Its manifest leaves three to the installation; its program replaces
//! the others when it starts, as is done here.

use super::{CorefileError, lexer::Word};

const PREFIX: &str = "__PILLAR__";
/// Replaced by the upstreams of the node.
const UPSTREAMS: &str = "__PILLAR__UPSTREAM__SERVERS__";
/// Replaced by the address of the Service `kube-dns-upstream`, which the kubelet passes in the environment.
const CLUSTER: &str = "__PILLAR__CLUSTER__DNS__";
const CLUSTER_VARIABLE: &str = "KUBE_DNS_UPSTREAM_SERVICE_HOST";

/// The placeholders that an installation replaces.
const INSTALLED: [(&str, &str); 3] = [
    ("__PILLAR__DNS__DOMAIN__", "the cluster domain, such as `cluster.local`"),
    ("__PILLAR__LOCAL__DNS__", "the address of the node's cache, such as `169.254.20.10`"),
    ("__PILLAR__DNS__SERVER__", "the cluster IP of the Service kube-dns"),
];

/// Replaces the placeholders of a word. Errors: there is no value for one.
pub(super) fn fill(word: &mut Word, env: &dyn Fn(&str) -> Option<String>) -> Result<(), CorefileError> {
    if !word.text.contains(PREFIX) {
        return Ok(());
    }
    word.text = word.text.replace(UPSTREAMS, "/etc/resolv.conf");
    if word.text.contains(CLUSTER) {
        let address = env(CLUSTER_VARIABLE).filter(|address| !address.is_empty()).ok_or_else(|| {
            word.refuse(format!(
                "`{CLUSTER}` is the address of the Service kube-dns-upstream, and ${CLUSTER_VARIABLE} is not set; write \
                 the address, or use `kubernetes` in place of `forward`"
            ))
        })?;
        word.text = word.text.replace(CLUSTER, &address);
    }
    match INSTALLED.iter().find(|(placeholder, _)| word.text.contains(placeholder)) {
        Some((placeholder, value)) => {
            Err(word.refuse(format!("`{placeholder}` is to be replaced by {value}")))
        }
        None if word.text.contains(PREFIX) => {
            Err(word.refuse(format!("`{}` is no placeholder of NodeLocal DNSCache; correct it", word.text)))
        }
        None => Ok(()),
    }
}
