//! A UDP socket in a pod, controlled call by call.

use std::{net::SocketAddr, time::Duration};

use anyhow::{Result, bail};

use crate::lab::{
    pod::Pod,
    traffic::{Action, ActionOutput, Family, SocketAction},
};

/// Longer than any answer takes.
const TIMEOUT: Duration = Duration::from_secs(3);

/// Closed when the pod ends, or by the story.
#[derive(Debug)]
pub struct Udp<'a> {
    pod: &'a Pod,
    socket: u64,
}

impl Pod {
    /// Opens an unconnected socket.
    pub async fn udp(&self, family: Family) -> Result<Udp<'_>> {
        self.open(family, None).await
    }

    /// Opens an unconnected socket at an address of its own.
    pub async fn udp_at(&self, own: SocketAddr) -> Result<Udp<'_>> {
        self.open(if own.is_ipv4() { Family::V4 } else { Family::V6 }, Some(own)).await
    }

    async fn open(&self, family: Family, bind: Option<SocketAddr>) -> Result<Udp<'_>> {
        let answer = self.request(Action::Datagram(SocketAction::Open { family, bind })).await?;
        let ActionOutput::Socket(socket) = answer else { return unexpected(&answer) };
        Ok(Udp { pod: self, socket })
    }
}

impl Udp<'_> {
    pub async fn connect(&self, to: SocketAddr) -> Result<()> {
        self.call(SocketAction::Connect { socket: self.socket, to }).await.map(drop)
    }

    /// Sends to the connected address.
    pub async fn send(&self, text: &str) -> Result<()> {
        let order = SocketAction::Send { socket: self.socket, to: None, text: text.to_owned() };
        self.call(order).await.map(drop)
    }

    pub async fn send_to(&self, to: SocketAddr, text: &str) -> Result<()> {
        let order = SocketAction::Send { socket: self.socket, to: Some(to), text: text.to_owned() };
        self.call(order).await.map(drop)
    }

    /// The next datagram: its source address and its text.
    pub async fn receive(&self) -> Result<(SocketAddr, String)> {
        let within_ms = u64::try_from(TIMEOUT.as_millis())?;
        let answer = self.call(SocketAction::Receive { socket: self.socket, within_ms }).await?;
        let ActionOutput::Datagram { from, text } = answer else { return unexpected(&answer) };
        Ok((from, text))
    }

    pub async fn peer_name(&self) -> Result<SocketAddr> {
        let answer = self.call(SocketAction::PeerName { socket: self.socket }).await?;
        let ActionOutput::Peer(peer) = answer else { return unexpected(&answer) };
        Ok(peer)
    }

    pub async fn close(self) -> Result<()> {
        self.call(SocketAction::Close { socket: self.socket }).await.map(drop)
    }

    async fn call(&self, order: SocketAction) -> Result<ActionOutput> {
        self.pod.request(Action::Datagram(order)).await
    }
}

fn unexpected<T>(answer: &ActionOutput) -> Result<T> {
    bail!("unexpected answer {answer:?}")
}
