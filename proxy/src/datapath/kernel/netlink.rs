//! What the kernel tells about the network of this namespace, now and after every change.
//!
//! Notices are taken as hints only: each makes us read the whole of what they are about, so that a lost one (a socket
//! whose buffer ran over) costs nothing but a reading. When a subscription ends, another one takes its place.

use std::{future::Future, io, pin::Pin, time::Duration};

use futures_util::{FutureExt as _, Stream, StreamExt as _};
use rtnetlink::{
    Handle, MulticastGroup, new_connection, new_multicast_connection,
    packet_core::{NetlinkMessage, NetlinkPayload},
    packet_route::RouteNetlinkMessage,
    sys::{AsyncSocket as _, SocketAddr},
};
use tokio::{sync::watch, task::AbortHandle, time::sleep};
use tracing::warn;

use crate::error::chain;

/// A burst of notices, as when a node's pods all start at once, fits into it.
const RECEIVE_BUFFER: usize = 1 << 20;
/// What could not be read is read again after this time.
const RETRY: Duration = Duration::from_secs(1);

#[derive(Debug, thiserror::Error)]
pub enum NetlinkError {
    #[error("cannot open a netlink socket")]
    Socket(#[source] io::Error),
    #[error("cannot list the {what}")]
    List {
        what: &'static str,
        #[source]
        source: rtnetlink::Error,
    },
}

/// Something that can be read through netlink, and that notices tell about.
pub trait Reading: PartialEq + Send + Sync + Sized + 'static {
    const GROUPS: &'static [MulticastGroup];

    fn read(handle: &Handle) -> impl Future<Output = Result<Self, NetlinkError>> + Send;

    /// Whether a notice may be about a change of it.
    fn is_touched_by(notice: &RouteNetlinkMessage) -> bool;
}

/// Reads it, and goes on reading. The receiver sees every later state; it may skip one that was replaced at once.
pub async fn follow<T: Reading>() -> Result<watch::Receiver<T>, NetlinkError> {
    let subscription = Subscription::open(T::GROUPS)?;
    let (sender, receiver) = watch::channel(T::read(&subscription.handle).await?);
    tokio::spawn(keep_reading(subscription, sender));
    Ok(receiver)
}

async fn keep_reading<T: Reading>(mut subscription: Subscription, sender: watch::Sender<T>) {
    loop {
        tokio::select! {
            () = sender.closed() => return,
            has_ended = subscription.ended_or_touched(T::is_touched_by) => {
                if has_ended {
                    warn!("the notices of the kernel's network ended, asking for them again");
                    subscription = Subscription::reopen(T::GROUPS).await;
                }
            }
        }
        publish(&mut subscription, &sender).await;
    }
}

/// Does not give up: what is known is old until something could be read.
async fn publish<T: Reading>(subscription: &mut Subscription, sender: &watch::Sender<T>) {
    loop {
        match T::read(&subscription.handle).await {
            Ok(now) => {
                sender.send_if_modified(|known| {
                    let is_new = *known != now;
                    *known = now;
                    is_new
                });
                return;
            }
            Err(error) => {
                warn!(error = %chain(&error), "the kernel's network is unknown for now, will retry")
            }
        }
        sleep(RETRY).await;
        *subscription = Subscription::reopen(T::GROUPS).await;
    }
}

type Notices = Pin<Box<dyn Stream<Item = (NetlinkMessage<RouteNetlinkMessage>, SocketAddr)> + Send>>;

/// Two netlink sockets, closed when dropped: one hears notices, the other one asks.
///
/// A notice carries the number of the request that somebody else changed something by. On one socket it would be taken for
/// the answer to our request with that number, and the reading fail.
struct Subscription {
    handle: Handle,
    notices: Notices,
    /// Without it, nobody could ask through the socket of the notices, and it would be closed.
    _listening: Handle,
    connections: [AbortHandle; 2],
}

impl Subscription {
    fn open(groups: &[MulticastGroup]) -> Result<Self, NetlinkError> {
        let (mut hearing, listening, notices) =
            new_multicast_connection(groups).map_err(NetlinkError::Socket)?;
        let buffer = hearing.socket_mut().socket_mut().set_rx_buf_sz(RECEIVE_BUFFER);
        buffer.map_err(NetlinkError::Socket)?;
        let (asking, handle, _) = new_connection().map_err(NetlinkError::Socket)?;
        let connections = [tokio::spawn(hearing).abort_handle(), tokio::spawn(asking).abort_handle()];
        Ok(Self { handle, notices: Box::pin(notices), _listening: listening, connections })
    }

    async fn reopen(groups: &[MulticastGroup]) -> Self {
        loop {
            match Self::open(groups) {
                Ok(subscription) => return subscription,
                Err(error) => warn!(error = %chain(&error), "no notices of the kernel's network, will retry"),
            }
            sleep(RETRY).await;
        }
    }

    /// Waits for a notice that counts; whether the notices have ended instead.
    async fn ended_or_touched(&mut self, counts: fn(&RouteNetlinkMessage) -> bool) -> bool {
        while let Some((message, _)) = self.notices.next().await {
            if is_news(&message, counts) {
                return self.drain();
            }
        }
        true
    }

    /// What has arrived by now is covered by one reading; whether the notices have ended.
    fn drain(&mut self) -> bool {
        while let Some(notice) = self.notices.next().now_or_never() {
            if notice.is_none() {
                return true;
            }
        }
        false
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        for connection in &self.connections {
            connection.abort();
        }
    }
}

#[expect(clippy::wildcard_enum_match_arm, reason = "the enum is open, and what is neither tells nothing new")]
fn is_news(message: &NetlinkMessage<RouteNetlinkMessage>, counts: fn(&RouteNetlinkMessage) -> bool) -> bool {
    match &message.payload {
        NetlinkPayload::InnerMessage(notice) => counts(notice),
        // The kernel had more to say than the socket could hold.
        NetlinkPayload::Overrun(_) => true,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How often it was read.
    #[derive(Debug, PartialEq)]
    struct Count(u64);

    static READINGS: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(0);

    impl Reading for Count {
        const GROUPS: &'static [MulticastGroup] = &[MulticastGroup::Link];

        async fn read(handle: &Handle) -> Result<Self, NetlinkError> {
            let links = handle.link().get().execute().collect::<Vec<_>>().await;
            // A closed connection answers with an error.
            links
                .into_iter()
                .collect::<Result<Vec<_>, _>>()
                .map_err(|source| NetlinkError::List { what: "links", source })?;
            Ok(Self(READINGS.fetch_add(1, std::sync::atomic::Ordering::Relaxed)))
        }

        fn is_touched_by(_: &RouteNetlinkMessage) -> bool {
            true
        }
    }

    #[tokio::test]
    async fn notices_that_end_are_asked_for_again() {
        let subscription = Subscription::open(Count::GROUPS).unwrap();
        let [hearing, _] = subscription.connections.clone();
        let (sender, mut receiver) = watch::channel(Count::read(&subscription.handle).await.unwrap());
        tokio::spawn(keep_reading(subscription, sender));
        hearing.abort();
        receiver.changed().await.unwrap();
        assert!(receiver.borrow_and_update().0 > 0, "it was read again");
    }
}
