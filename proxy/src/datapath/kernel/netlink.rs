//! The network state of this namespace over netlink, updated on every change.
//!
//! A notification is only a hint: each causes a full read of the state it concerns, so a lost one (a socket
//! buffer overrun) costs one read and nothing else. A subscription that ends is replaced.

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

use super::{
    network::{self, Network},
    routes::Routes,
};
use crate::error::chain;

/// Large enough for a burst of notifications, as when all pods of a node start at once.
const RECEIVE_BUFFER: usize = 1 << 20;
/// The delay before a failed read is repeated.
const RETRY: Duration = Duration::from_secs(1);

#[derive(Debug, thiserror::Error)]
pub enum NetlinkError {
    #[error("cannot open a netlink socket")]
    Socket(#[source] io::Error),
    #[error("cannot list {objects}")]
    List {
        objects: &'static str,
        #[source]
        source: rtnetlink::Error,
    },
}

/// A state that netlink lists, and whose changes it announces.
pub trait NetlinkState: PartialEq + Send + Sync + Sized + 'static {
    const GROUPS: &'static [MulticastGroup];

    fn read(handle: &Handle) -> impl Future<Output = Result<Self, NetlinkError>> + Send;

    /// Whether a notification may concern this state.
    fn is_affected_by(notification: &RouteNetlinkMessage) -> bool;
}

/// Reads the state and watches it. The receiver may miss a state that was replaced at once.
pub async fn watch_state<T: NetlinkState>() -> Result<watch::Receiver<T>, NetlinkError> {
    let subscription = Subscription::open(T::GROUPS)?;
    let (sender, receiver) = watch::channel(T::read(&subscription.handle).await?);
    tokio::spawn(keep_current(subscription, sender));
    Ok(receiver)
}

async fn keep_current<T: NetlinkState>(mut subscription: Subscription, sender: watch::Sender<T>) {
    loop {
        tokio::select! {
            () = sender.closed() => return,
            has_ended = subscription.ended_or_affected(T::is_affected_by) => {
                if has_ended {
                    warn!("netlink notifications ended, subscribing again");
                    subscription = Subscription::reopen(T::GROUPS).await;
                }
            }
        }
        publish(&mut subscription, &sender).await;
    }
}

/// Retries until a read succeeds; until then receivers keep the old state.
async fn publish<T: NetlinkState>(subscription: &mut Subscription, sender: &watch::Sender<T>) {
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
                warn!(error = %chain(&error), "cannot read network state, will retry")
            }
        }
        sleep(RETRY).await;
        *subscription = Subscription::reopen(T::GROUPS).await;
    }
}

/// Parses a message of the kernel and converts it as the watches do. Returns whether it concerns any of them.
pub fn read_notification(octets: &[u8]) -> bool {
    let Ok(message) = NetlinkMessage::<RouteNetlinkMessage>::deserialize(octets) else { return false };
    let NetlinkPayload::InnerMessage(notification) = message.payload else { return false };
    network::convert(&notification);
    Network::is_affected_by(&notification) | Routes::is_affected_by(&notification)
}

type Notifications = Pin<Box<dyn Stream<Item = (NetlinkMessage<RouteNetlinkMessage>, SocketAddr)> + Send>>;

/// Two netlink sockets, closed when dropped: one for notifications, one for requests.
///
/// A notification carries the sequence number of the request, by any process, that caused the change. On a
/// shared socket it would be taken for the reply to our request with that number, and the read would fail.
struct Subscription {
    handle: Handle,
    notifications: Notifications,
    /// Keeps the notification socket open: it is closed when its last handle is dropped.
    _listener_handle: Handle,
    connections: [AbortHandle; 2],
}

impl Subscription {
    fn open(groups: &[MulticastGroup]) -> Result<Self, NetlinkError> {
        let (mut listener, listener_handle, notifications) =
            new_multicast_connection(groups).map_err(NetlinkError::Socket)?;
        let buffer = listener.socket_mut().socket_mut().set_rx_buf_sz(RECEIVE_BUFFER);
        buffer.map_err(NetlinkError::Socket)?;
        let (requester, handle, _) = new_connection().map_err(NetlinkError::Socket)?;
        let connections = [tokio::spawn(listener).abort_handle(), tokio::spawn(requester).abort_handle()];
        Ok(Self {
            handle,
            notifications: Box::pin(notifications),
            _listener_handle: listener_handle,
            connections,
        })
    }

    async fn reopen(groups: &[MulticastGroup]) -> Self {
        loop {
            match Self::open(groups) {
                Ok(subscription) => return subscription,
                Err(error) => {
                    warn!(error = %chain(&error), "cannot subscribe to netlink notifications, will retry")
                }
            }
            sleep(RETRY).await;
        }
    }

    /// Waits for a relevant notification. Returns whether the notifications have ended.
    async fn ended_or_affected(&mut self, is_affected: fn(&RouteNetlinkMessage) -> bool) -> bool {
        while let Some((message, _)) = self.notifications.next().await {
            if is_relevant(&message, is_affected) {
                return self.drain();
            }
        }
        true
    }

    /// Drops pending notifications, which one read covers. Returns whether the notifications have ended.
    fn drain(&mut self) -> bool {
        while let Some(notification) = self.notifications.next().now_or_never() {
            if notification.is_none() {
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

#[expect(clippy::wildcard_enum_match_arm, reason = "the enum is open, and other messages change nothing")]
fn is_relevant(
    message: &NetlinkMessage<RouteNetlinkMessage>,
    is_affected: fn(&RouteNetlinkMessage) -> bool,
) -> bool {
    match &message.payload {
        NetlinkPayload::InnerMessage(notification) => is_affected(notification),
        // The socket buffer was too small for all notifications.
        NetlinkPayload::Overrun(_) => true,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The number of reads.
    #[derive(Debug, PartialEq)]
    struct Count(u64);

    static READINGS: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(0);

    impl NetlinkState for Count {
        const GROUPS: &'static [MulticastGroup] = &[MulticastGroup::Link];

        async fn read(handle: &Handle) -> Result<Self, NetlinkError> {
            let links = handle.link().get().execute().collect::<Vec<_>>().await;
            // A closed connection causes an error.
            links
                .into_iter()
                .collect::<Result<Vec<_>, _>>()
                .map_err(|source| NetlinkError::List { objects: "links", source })?;
            Ok(Self(READINGS.fetch_add(1, std::sync::atomic::Ordering::Relaxed)))
        }

        fn is_affected_by(_: &RouteNetlinkMessage) -> bool {
            true
        }
    }

    #[tokio::test]
    async fn notifications_that_end_are_subscribed_again() {
        let subscription = Subscription::open(Count::GROUPS).unwrap();
        let [listener, _] = subscription.connections.clone();
        let (sender, mut receiver) = watch::channel(Count::read(&subscription.handle).await.unwrap());
        tokio::spawn(keep_current(subscription, sender));
        listener.abort();
        receiver.changed().await.unwrap();
        assert!(receiver.borrow_and_update().0 > 0, "the state is read again");
    }
}
