//! State shared by the tasks of a listener, and checks of requests over both protocols.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

use super::{admission::Admission, connections::Connections, tls::ServerCertificate};
use crate::{
    observe::metrics::{Loss, Losses, RateLimited},
    serve::{
        handler::Handler,
        rate_limit::{self, Limited, RateLimiter},
    },
};

/// The largest request over either protocol: a question fits in 300 octets, and EDNS options are small.
pub const MAX_REQUEST: usize = 4096;

/// The state that the tasks of one listener share; all but the handler is shared by all listeners.
#[derive(Clone)]
pub struct Serving {
    pub handler: Arc<Handler>,
    pub pending: Arc<Semaphore>,
    pub connections: Arc<Connections>,
    pub admission: Arc<Admission>,
    pub limiter: Option<Arc<RateLimiter>>,
    /// `None` without TLS.
    pub security: Option<Arc<Security>>,
    pub losses: Losses,
    /// Becomes true when the server stops receiving requests.
    pub stop: watch::Receiver<bool>,
}

/// The TLS of a listener.
#[derive(Debug)]
pub struct Security {
    pub certificate: Arc<ServerCertificate>,
    /// Whether HTTP is spoken, rather than DNS at once.
    pub is_https: bool,
}

impl Serving {
    /// Whether a client is served. Checked before its request is read; counts the loss.
    pub fn admits(&self, client: IpAddr) -> bool {
        let admitted = self.admission.admits(client);
        if !admitted {
            self.admission.log_refusal(client);
            self.losses.count(Loss::Client, 1);
        }
        admitted
    }

    /// Applies the rate limit to a reply over UDP. Returns `None` if it is not to be sent; counts what it changes.
    pub fn limited(&self, client: IpAddr, reply: Vec<u8>) -> Option<Vec<u8>> {
        let Some(limiter) = self.limiter.as_ref().filter(|_| !self.admission.is_near(client)) else {
            return Some(reply);
        };
        let limited = limiter.check(client, &reply);
        if limited == Limited::Send || self.admission.is_local(client) {
            return Some(reply);
        }
        if limited == Limited::Truncate {
            self.losses.count_rate_limited(RateLimited::Truncated);
            return Some(rate_limit::truncated(&reply));
        }
        self.losses.count_rate_limited(RateLimited::Dropped);
        None
    }

    /// Acquires a slot for a pending request. Returns `None` at the limit.
    pub fn acquire_slot(&self) -> Option<OwnedSemaphorePermit> {
        self.pending.clone().try_acquire_owned().ok()
    }
}

/// Whether a reply can be sent: not to port 0, which is only used by malformed packets.
pub fn is_answerable(client: SocketAddr) -> bool {
    client.port() != 0
}

pub fn canonical(address: SocketAddr) -> IpAddr {
    address.ip().to_canonical()
}

/// A server without blocks, which refuses every query.
#[cfg(test)]
pub fn refusing(metrics: &crate::observe::metrics::Metrics) -> Serving {
    let published = Arc::<crate::cluster::snapshot::Published>::default();
    let admission =
        Admission::new(Default::default(), Default::default(), Default::default(), Arc::clone(&published));
    Serving {
        handler: Arc::new(Handler::new(Vec::new(), published, metrics.queries("", ""))),
        pending: Arc::new(Semaphore::new(1)),
        connections: Arc::default(),
        admission: Arc::new(admission),
        limiter: None,
        security: None,
        losses: metrics.losses(),
        stop: watch::channel(false).1,
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU32;

    use super::*;
    use crate::{
        admitted::Admitted, cluster::snapshot::Published, interfaces::LocalNetworks,
        observe::metrics::Metrics,
    };

    /// The first two replies to a client, with a limit of one.
    fn second_reply(metrics: &Metrics, limiter: Option<Arc<RateLimiter>>, client: &str) -> Option<Vec<u8>> {
        let published = Arc::new(Published::default());
        let local_networks = LocalNetworks::default();
        local_networks.set(vec!["10.244.7.0/24".parse().unwrap()]);
        let own = ["203.0.113.1".parse().unwrap()].into();
        let admission = Admission::new(Admitted::default(), local_networks, own, Arc::clone(&published));
        let serving = Serving { admission: Arc::new(admission), limiter, ..refusing(metrics) };
        // A positive reply with one record for the root.
        let mut reply = vec![0, 7, 0x80, 0, 0, 1, 0, 1, 0, 0, 0, 0, 0, 0, 1, 0, 1];
        reply.extend([0, 0, 1, 0, 1, 0, 0, 0, 5, 0, 4, 192, 0, 2, 1]);
        let client = client.parse().unwrap();
        assert_eq!(serving.limited(client, reply.clone()).as_ref(), Some(&reply), "the first one");
        serving.limited(client, reply)
    }

    #[test]
    fn replies_to_others_than_pods_of_this_node_are_limited() {
        for (client, is_limited) in [
            ("127.0.0.1", false),
            ("::1", false),
            ("10.244.7.9", false),
            ("203.0.113.1", false),
            ("10.244.8.9", true),
            ("2001:db8::1", true),
        ] {
            let metrics = Metrics::default();
            let limiter = RateLimiter::new(NonZeroU32::MIN);
            let second = second_reply(&metrics, Some(limiter), client);
            // Truncated or dropped, at random.
            assert_eq!(second.is_none_or(|reply| reply[2] & 0x02 != 0), is_limited, "{client}");
            let text = metrics.text();
            let counts = ["dropped", "truncated"].map(|action| {
                text.contains(&format!("portreeve_dns_rate_limited_total{{action=\"{action}\"}} 1"))
            });
            assert_eq!(
                counts.iter().filter(|counted| **counted).count(),
                usize::from(is_limited),
                "{client}"
            );
            assert!(
                second_reply(&metrics, None, client).is_some_and(|reply| reply[2] & 0x02 == 0),
                "switched off"
            );
        }
    }
}
