//! NOTIFY to the secondaries of zones that have changed.

use std::{
    collections::BTreeMap,
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    time::Duration,
};

use futures_util::{StreamExt as _, stream};
use hickory_server::proto::{
    op::{Message, MessageType, OpCode, Query, ResponseCode},
    rr::{LowerName, RecordType},
};
use tokio::{
    net::UdpSocket,
    time::{MissedTickBehavior, interval, timeout},
};
use tracing::{debug, warn};

use super::Transfer;

/// How often the serials of the zones are looked at.
const POLL: Duration = Duration::from_secs(1);
/// As often as CoreDNS.
const TRIES: usize = 3;
const REPLY_TIMEOUT: Duration = Duration::from_secs(2);
/// Limit of notifications at a time: `auto` may have thousands of zones.
const AT_A_TIME: usize = 16;
/// The largest reply: a header, a question and an OPT.
const MAX_REPLY: usize = 512;

/// The serial of each zone.
type Serials = BTreeMap<LowerName, u32>;

/// Notifies the servers of `settings` of all zones at the start, and of each change, until `serials` returns `None`.
pub(crate) async fn notify(settings: Vec<Transfer>, serials: impl Fn() -> Option<Serials>) {
    let mut known = Serials::new();
    let mut polls = interval(POLL);
    polls.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        polls.tick().await;
        let Some(now) = serials() else { return };
        let changed = now.iter().filter(|(zone, serial)| known.get(*zone) != Some(*serial));
        let notified: Vec<(LowerName, SocketAddr)> = changed
            .flat_map(|(zone, _)| servers(&settings, zone).into_iter().map(|server| (zone.clone(), server)))
            .collect();
        stream::iter(notified).for_each_concurrent(AT_A_TIME, |(zone, server)| tell(zone, server)).await;
        known = now;
    }
}

fn servers(settings: &[Transfer], zone: &LowerName) -> Vec<SocketAddr> {
    let matching = settings.iter().filter_map(|setting| Some((setting.longest(zone)?, setting)));
    let best = matching.max_by_key(|(labels, _)| *labels);
    best.map(|(_, setting)| setting.servers().collect()).unwrap_or_default()
}

/// Notifies one server. Failures are logged: its refresh timer gets the change later.
async fn tell(zone: LowerName, server: SocketAddr) {
    let mut last = String::new();
    for _ in 0..TRIES {
        match timeout(REPLY_TIMEOUT, exchange(&zone, server)).await {
            Ok(Ok(ResponseCode::NoError)) => return debug!(%zone, %server, "secondary notified"),
            Ok(Ok(rcode)) => last = format!("it answered {rcode}"),
            Ok(Err(error)) => last = error.to_string(),
            Err(_) => "no answer".clone_into(&mut last),
        }
    }
    warn!(%zone, %server, error = last, "secondary not notified of a zone");
}

async fn exchange(zone: &LowerName, server: SocketAddr) -> io::Result<ResponseCode> {
    let local: SocketAddr = match server {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    let socket = UdpSocket::bind(local).await?;
    socket.connect(server).await?;
    let mut message = Message::new(rand::random(), MessageType::Query, OpCode::Notify);
    message.metadata.authoritative = true;
    message.add_query(Query::query(zone.into(), RecordType::SOA));
    let octets = message.to_vec().map_err(io::Error::other)?;
    socket.send(&octets).await?;
    let mut reply = [0; MAX_REPLY];
    loop {
        let length = socket.recv(&mut reply).await?;
        // Only the header counts; anything else on this port is no answer.
        let Some([id1, id2, high, low]) = reply.get(..length).and_then(|octets| octets.first_chunk()) else {
            continue;
        };
        if [*id1, *id2] == message.metadata.id.to_be_bytes() && high & 0x80 != 0 {
            return Ok(ResponseCode::from_low(low & 0x0f));
        }
    }
}
